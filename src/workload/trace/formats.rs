//! Which format a file has, and what is said of a file that has none.

use super::TraceFormat;
use super::bytes::HEAD_BYTES;
use serde_json::{Map, Value};

/// What a format calls the fields of a row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Names<'a> {
    pub(super) timestamp: &'a str,
    pub(super) input: &'a str,
    pub(super) output: &'a str,
}

/// Mooncake's JSON lines.
pub(super) const MOONCAKE: Names<'static> =
    Names { timestamp: "timestamp", input: "input_length", output: "output_length" };

/// Azure's public LLM inference traces (AzurePublicDataset, `AzureLLMInferenceTrace_*.csv`).
pub(super) const AZURE: Names<'static> =
    Names { timestamp: "TIMESTAMP", input: "ContextTokens", output: "GeneratedTokens" };

/// BurstGPT (HPMLL/BurstGPT). Rows without an answer are requests that failed:
/// they are left out.
pub(super) const BURSTGPT: Names<'static> =
    Names { timestamp: "Timestamp", input: "Request tokens", output: "Response tokens" };

/// All formats, and how their rows look.
const FORMATS: &str = "mooncake (JSON lines with timestamp, input_length, output_length and perhaps \
     hash_ids, session_id, delay), mooncake_delta (the same, later turns of a session as \
     increments), mooncake_agentic (the same, with request_id and wait_for), dynamo_requests \
     (dynamo.request.trace.v1), bailian (chat_id, parent_chat_id), aiperf_profile \
     (profile_export.jsonl), aiperf_inputs (inputs.json), aiperf_multi_turn (session_id and turns \
     with text), sharegpt (conversations with from and value), vllm_multi_turn (messages with \
     role and content), weka (a conversation of agents a line), azure (CSV with TIMESTAMP, ContextTokens, GeneratedTokens), burstgpt (CSV with \
     Timestamp, Request tokens, Response tokens and perhaps Session ID), or any other CSV or JSON \
     lines, if columns says which of them is what";

/// What people call the columns of logs, the likeliest first, without capitals, blanks,
/// underscores and dots.
const TIMES: [&str; 15] = [
    "timestamp",
    "time",
    "ts",
    "arrivedat",
    "arrivaltime",
    "arrivaltimeus",
    "starttime",
    "starttimems",
    "starttimeunixnano",
    "requeststartns",
    "sentat",
    "createdat",
    "date",
    "datetime",
    "t",
];
const PROMPTS: [&str; 14] = [
    "prompttokens",
    "inputtokens",
    "inputlength",
    "promptlen",
    "inputlen",
    "numprefilltokens",
    "promptlength",
    "inputnumtokens",
    "contexttokens",
    "requesttokens",
    "isl",
    "inputsequencelength",
    "usageprompttokens",
    "usageinputtokens",
];
const OUTPUTS: [&str; 16] = [
    "completiontokens",
    "outputtokens",
    "outputlength",
    "outputlen",
    "numdecodetokens",
    "generatedtokens",
    "responsetokens",
    "generationtokens",
    "outputnumtokens",
    "osl",
    "outputsequencelength",
    "completionlength",
    "responselength",
    "decodetokens",
    "usagecompletiontokens",
    "usageoutputtokens",
];

/// Files that people have, by keys that all their rows have.
const OTHERS: [(&[&str], &str); 5] = [
    (&["event", "timestamp"], "events of Dynamo other than requests"),
    (&["filetype", "num_conversations"], "what vLLM's benchmark generates conversations by"),
    (&["messages"], "requests with messages as text"),
    (&["prompt"], "prompts as text"),
    (&["session_id", "text_input"], "prompts as text, for AIPerf"),
];

/// Spans of OpenTelemetry, as its collector writes them.
const SPANS: &str = "resourceSpans";

/// Files that are no text, by their first bytes.
const BINARIES: [(&[u8], &str); 8] = [
    (b"\x1F\x8B", "a file compressed twice"),
    (b"\x28\xB5\x2F\xFD", "a file compressed twice"),
    (b"PK\x03\x04", "a zip archive"),
    (b"PAR1", "a Parquet file"),
    (b"BZh", "a file compressed with bzip2"),
    (b"\xFD7zXZ", "a file compressed with xz"),
    (b"\xFF\xFE", "text in UTF-16"),
    (b"\xFE\xFF", "text in UTF-16"),
];

/// The format of a text that begins with `head`.
///
/// # Errors
/// If it has none that is read: what it looks like, and what it lacks.
pub(super) fn of_text(head: &[u8]) -> Result<TraceFormat, String> {
    if let Some((_, kind)) = BINARIES.iter().find(|(magic, _)| head.starts_with(magic)) {
        return Err(unread(Some(kind), ""));
    }
    let text = head.trim_ascii_start();
    if text.starts_with(b"{")
        && let Some(format) = by_keys(&String::from_utf8_lossy(text))
    {
        return Ok(format);
    }
    let line = text.split(|byte| *byte == b'\n').next().unwrap_or(text).trim_ascii_end();
    let is_whole = line.len() < text.len() || head.len() < HEAD_BYTES;
    match line {
        [] => Ok(TraceFormat::Mooncake),
        [b'{'] => match of_texts(&String::from_utf8_lossy(text)) {
            // One conversation, over several lines.
            Some(format) => Ok(format),
            None => Err(unread(looks_like_document(text), "Rows are lines (jq -c . FILE).")),
        },
        [b'{', ..] => match serde_json::from_slice::<Map<String, Value>>(line) {
            Ok(row) if is_whole => of_row(&row),
            // A long row, or a broken one, of which more is said when it is read.
            _ => Ok(of_texts(&String::from_utf8_lossy(line)).unwrap_or(TraceFormat::Mooncake)),
        },
        [b'[', ..] => match of_texts(&String::from_utf8_lossy(text)) {
            Some(format) => Ok(format),
            None => Err(unread(looks_like_list(text), "Rows are lines, not one list.")),
        },
        _ => of_columns(line),
    }
}

/// Formats by what stands in all their rows, and in no others.
const KEYS: [(&[&str], TraceFormat); 8] = [
    // Of any version: which one is read is said with its line.
    (&["\"dynamo.request.trace."], TraceFormat::DynamoRequests),
    (&["\"dynamo.agentic_mooncake\""], TraceFormat::MooncakeAgentic),
    (&["\"request_id\"", "\"wait_for\""], TraceFormat::MooncakeAgentic),
    (&["\"chat_id\"", "\"parent_chat_id\""], TraceFormat::Bailian),
    (&["\"metadata\"", "\"metrics\"", "\"request_start_ns\""], TraceFormat::AiperfProfile),
    (&["\"block_size\"", "\"requests\"", "\"hash_id_scope\""], TraceFormat::Weka),
    (&["\"data\"", "\"session_id\"", "\"payloads\""], TraceFormat::AiperfInputs),
    (&["\"turns\"", "\"text\""], TraceFormat::AiperfMultiTurn),
];

/// Formats of conversations by the keys of all of them.
const TEXTS: [(&[&str], TraceFormat); 2] = [
    (&["\"conversations\"", "\"from\"", "\"value\""], TraceFormat::Sharegpt),
    (&["\"messages\"", "\"role\"", "\"content\""], TraceFormat::VllmMultiTurn),
];

/// The format of conversations as text, in a list or not, whose keys the beginning of a
/// file has. Logs of requests have texts too, beside what counts their tokens.
fn of_texts(head: &str) -> Option<TraceFormat> {
    let has_all = |keys: &[&str]| keys.iter().all(|key| head.contains(key));
    let found = TEXTS.iter().find(|(keys, _)| has_all(keys)).map(|(_, format)| *format);
    found.filter(|_| !head.contains("_tokens\":"))
}

/// The format whose keys the beginning of a file has.
fn by_keys(head: &str) -> Option<TraceFormat> {
    let has_all = |keys: &[&str]| keys.iter().all(|key| head.contains(key));
    KEYS.iter().find(|(keys, _)| has_all(keys)).map(|(_, format)| *format)
}

/// What a JSON document over several lines looks like, if that is known.
fn looks_like_document(text: &[u8]) -> Option<&'static str> {
    let text = String::from_utf8_lossy(text);
    text.contains("\"requests\"").then_some("one conversation over several lines")
}

fn of_row(row: &Map<String, Value>) -> Result<TraceFormat, String> {
    let Names { input, output, .. } = MOONCAKE;
    let missing: Vec<&str> =
        [input, output].into_iter().filter(|key| !row.contains_key(*key)).collect();
    if let Some(format) = of_texts(&Value::Object(row.clone()).to_string()) {
        return Ok(format);
    }
    if row.contains_key(SPANS) {
        return Err(format!(
            "looks like spans of OpenTelemetry, which sim reads by columns. Perhaps columns = {{ rows = \
             \"resourceSpans.scopeSpans.spans\", time = \"startTimeUnixNano\", prompt = \
             \"attributes.gen_ai.usage.prompt_tokens\", output = \
             \"attributes.gen_ai.usage.completion_tokens\" }}. Formats: {FORMATS}"
        ));
    }
    match looks_like(row) {
        None if missing.is_empty() => Ok(TraceFormat::Mooncake),
        other => {
            let names: Vec<String> = row
                .iter()
                .flat_map(|(key, value)| match value.as_object() {
                    Some(inner) => inner.keys().map(|last| format!("{key}.{last}")).collect(),
                    None => vec![key.clone()],
                })
                .collect();
            let needs = needs(TraceFormat::Mooncake, &missing);
            Err(unread(other, &format!("{needs}{}", suggestion(&names))))
        }
    }
}

fn of_columns(line: &[u8]) -> Result<TraceFormat, String> {
    let line = String::from_utf8_lossy(line);
    let columns: Vec<String> = line.split([',', ';', '\t']).map(plain).collect();
    let formats = [(TraceFormat::Azure, &AZURE), (TraceFormat::Burstgpt, &BURSTGPT)];
    let missing = |names: &Names<'static>| -> Vec<&'static str> {
        let all = [names.timestamp, names.input, names.output];
        all.into_iter().filter(|name| !columns.contains(&plain(name))).collect()
    };
    let nearest = formats.into_iter().map(|(format, names)| (format, missing(names)));
    match nearest.min_by_key(|(_, missing)| missing.len()) {
        // Enough to know it: what is missing is said with its line.
        Some((format, missing)) if missing.len() < 2 && line.contains(',') => Ok(format),
        nearest => {
            let names: Vec<String> =
                line.split([',', ';', '\t']).map(|name| name.trim().to_owned()).collect();
            let needs = match nearest {
                Some((format, missing)) if missing.len() < 3 => needs(format, &missing),
                _ => String::new(),
            };
            let needs = format!("{needs}{}", suggestion(&names));
            Err(unread(None, needs.trim_start()))
        }
    }
}

/// What columns could be, if the names of a file's columns say so: a sentence.
fn suggestion(names: &[String]) -> String {
    let named = |known: &[&str]| {
        known.iter().find_map(|known| names.iter().find(|name| plain(name) == **known))
    };
    match (named(&TIMES), named(&PROMPTS), named(&OUTPUTS)) {
        (Some(time), Some(prompt), Some(output)) => format!(
            " Perhaps columns = {{ time = {time:?}, prompt = {prompt:?}, output = {output:?} }}."
        ),
        _ => String::new(),
    }
}

/// What a row with unknown fields looks like, if that is known.
pub(super) fn looks_like(row: &Map<String, Value>) -> Option<&'static str> {
    let has_all = |keys: &[&str]| keys.iter().all(|key| row.contains_key(*key));
    OTHERS.iter().find(|(keys, _)| has_all(keys)).map(|(_, name)| *name)
}

fn looks_like_list(text: &[u8]) -> Option<&'static str> {
    let rows: Vec<Map<String, Value>> = serde_json::from_slice(text).ok()?;
    looks_like(rows.first()?)
}

/// A column's name in small letters without blanks and underscores: `SessionID`, `session_id`.
pub(super) fn plain(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

/// What a file would need to be of the nearest format.
fn needs(nearest: TraceFormat, missing: &[&str]) -> String {
    let (format, otherwise) = match nearest {
        TraceFormat::Mooncake => ("mooncake", "has no further fields"),
        TraceFormat::MooncakeDelta => ("mooncake_delta", "has no further fields"),
        TraceFormat::Burstgpt => ("burstgpt", "has commas between values"),
        _ => ("azure", "has commas between values"),
    };
    match missing {
        [] => format!("The nearest format is {format}, which {otherwise}."),
        _ => format!("The nearest format is {format}, which needs {}.", missing.join(" and ")),
    }
}

/// What is said of a file that is not read; `needs` is a sentence, or nothing.
pub(super) fn unread(looks_like: Option<&str>, needs: &str) -> String {
    let what = match looks_like {
        Some(kind) => format!("looks like {kind}, which sim does not read."),
        None => "has no format that sim reads.".to_owned(),
    };
    let needs = if needs.is_empty() { String::new() } else { format!(" {needs}") };
    format!("{what}{needs} Formats: {FORMATS}")
}
