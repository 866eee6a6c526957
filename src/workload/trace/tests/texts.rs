//! Conversations as text, by a tokenizer file.

use super::formats::{common, served};
use super::*;
use crate::time::SimTime;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("traces/fixtures")
}

fn read_text(text: &str, options: &ReadOptions) -> Result<Trace, TraceError> {
    file::parse(Path::new("t.json"), text.as_bytes(), options)
}

/// Time in seconds, conversation, turn, prompt, answer and the most that was asked for, of
/// every request, each of which ends two seconds after it came.
fn requests(trace: &Trace) -> Vec<(f64, u32, u32, u32, u32, u32)> {
    let shown = |(at, r): (SimTime, Request)| {
        let lengths = (r.prompt_tokens, r.output_tokens, r.max_tokens);
        (at.as_secs(), r.conversation.0, r.turn, lengths.0, lengths.1, lengths.2)
    };
    served(trace, 16, 1.0).into_iter().map(shown).collect()
}

fn payloads(list: &str) -> String {
    format!("{{\"data\": [\n{{\"session_id\": \"a\", \"payloads\": [\n{list}]}}]}}\n")
}

#[test]
fn token_ids_need_no_tokenizer() {
    let ids = |count: u32| format!("{:?}", (0..count).collect::<Vec<u32>>());
    let payload = |count: u32| format!("{{\"prompt\": {}, \"max_tokens\": 8}}", ids(count));
    let text = payloads(&format!("{},\n{}", payload(40), payload(70)));
    let trace = read_text(&text, &ReadOptions::default()).unwrap();
    assert_eq!(trace.block_tokens(), 16);
    assert_eq!(requests(&trace), [(0.0, 0, 0, 40, 8, 8), (2.0, 0, 1, 70, 8, 8)]);
    assert_eq!((common(&trace, 16, 0, 1), common(&trace, 4, 0, 1)), (2, 10));
    let notices = &trace.found().notices;
    assert!(notices[0].ends_with("clients or a process of arrivals spread them"), "{notices:?}");
    assert!(notices[1].contains("2 of its answers are not in it"), "{notices:?}");
    let limited = ReadOptions { limit: Some(1), ..ReadOptions::default() };
    assert_eq!(read_text(&text, &limited).unwrap().rows().len(), 1);
}

#[test]
fn what_cannot_be_read_is_named() {
    let mut seen = String::new();
    let list = "[{\"id\": \"c\", \"conversations\": [{\"from\": \"human\", \"value\": \"a\"}]}";
    let messages = |message: &str| format!("[{{\"messages\": [{message}], \"role content\": 1}}]");
    let text = "{\"role\": \"user\", \"content\": \"a\"}";
    for (text, format) in [
        (payloads("{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}"), None),
        (payloads("{\"prompt\": [1, 2]}"), None),
        (payloads("{\"prompt\": [1, -2], \"max_tokens\": 8}"), None),
        (payloads("{\"prompt\": [1], \"max_tokens\": 0}"), None),
        (payloads("{\"input\": \"a\", \"max_tokens\": 8}"), None),
        (payloads("7"), None),
        (payloads("{\"prompt\": [1], \"max_tokens\": 8}, {"), None),
        (payloads("{\"prompt\": [1], \"max_tokens\": 8},\n}"), None),
        (payloads("").replace("\"data\"", "\"v\": 1, \"data\""), None),
        (payloads("").replace("]}]}", "]}"), None),
        (payloads("") + "x", None),
        (payloads("").replace("\"payloads\": [", "\"payloads\": ").replace("]}]}", "5}]}"), None),
        (format!("{list}]"), None),
        (list.to_owned(), Some(TraceFormat::Sharegpt)),
        (format!("{list}, 5]"), Some(TraceFormat::Sharegpt)),
        (
            messages("{\"role\": \"narrator\", \"content\": \"a\"}"),
            Some(TraceFormat::VllmMultiTurn),
        ),
        (messages("{\"role\": \"user\"}"), Some(TraceFormat::VllmMultiTurn)),
        (messages("{\"content\": \"a\"}"), Some(TraceFormat::VllmMultiTurn)),
        (messages("{\"role\": \"user\", \"content\": 5}"), Some(TraceFormat::VllmMultiTurn)),
        (
            messages("{\"role\": \"user\", \"content\": [{\"type\": \"image_url\"}]}"),
            Some(TraceFormat::VllmMultiTurn),
        ),
        (
            format!("{{\"messages\": [{text}], \"max_tokens\": 9}}"),
            Some(TraceFormat::VllmMultiTurn),
        ),
        (format!("{{\"messages\": [{text}], \"max_tokens\": 9}}"), None),
        (
            "{\"session_id\": \"a\", \"turns\": [{\"text\": \"a\", \"image\": \"b\"}]}".to_owned(),
            None,
        ),
        ("{\"session_id\": \"a\", \"turns\": [{\"delay\": -1, \"text\": \"a\"}]}".to_owned(), None),
        ("{\"filetype\": \"generate_conversations\", \"num_conversations\": 2}".to_owned(), None),
    ] {
        match read_text(&text, &ReadOptions { format, ..ReadOptions::default() }) {
            Ok(trace) => writeln!(seen, "read: {:?}", requests(&trace)).unwrap(),
            Err(error) => {
                let text = error.to_string();
                // A build without the feature says more.
                let text = text.split(" Formats: ").next().unwrap();
                let text = text.replace(", in a sim that is built with the feature texts", "");
                writeln!(seen, "{text}").unwrap();
            }
        }
    }
    let tokenizer = Some(PathBuf::from("tokenizer.json"));
    let options = ReadOptions { tokenizer, ..ReadOptions::default() };
    writeln!(seen, "{}", read_text(FIXTURE, &options).unwrap_err()).unwrap();
    insta::assert_snapshot!(seen);
}

#[cfg(not(feature = "texts"))]
#[test]
fn a_build_without_texts_says_so() {
    let tokenizer = Some(fixtures().join("tokenizer.json"));
    let options = ReadOptions { tokenizer, ..ReadOptions::default() };
    let error = Trace::read(&fixtures().join("sharegpt.json"), &options).unwrap_err().to_string();
    assert!(error.ends_with("this sim reads no texts; build it with the feature texts"), "{error}");
}

#[cfg(feature = "texts")]
mod by_a_tokenizer {
    use super::*;

    fn options() -> ReadOptions {
        let tokenizer = Some(fixtures().join("tokenizer.json"));
        ReadOptions { tokenizer, ..ReadOptions::default() }
    }

    fn fixture(name: &str) -> Trace {
        Trace::read(&fixtures().join(name), &options()).unwrap()
    }

    #[test]
    fn sharegpt_has_answers_as_text() {
        let trace = fixture("sharegpt.json");
        // A conversation that begins with an answer has no request for that.
        let first = [(0.0, 0, 0, 30, 14, 14), (0.0, 1, 0, 11, 5, 5), (0.0, 2, 0, 24, 5, 5)];
        assert_eq!(requests(&trace)[..3], first);
        assert_eq!(requests(&trace)[3], (2.0, 0, 1, 50, 5, 5));
        assert_eq!(trace.found().rows_left_out, 1, "a question without an answer");
        assert_eq!(trace.found().sessions_broken, 0);
        // The system prompt of 17 tokens, and the answer, which the next turn names.
        assert_eq!((common(&trace, 16, 0, 2), common(&trace, 16, 0, 1)), (1, 0));
        let all = served(&trace, 1, 1.0);
        let named =
            |at: usize| (0..44).all(|i| all[0].1.content.block(i) == all[at].1.content.block(i));
        assert!(named(3));
        let notices = trace.found().notices.join("\n");
        assert!(notices.contains("those of a chat template are left out"), "{notices}");
    }

    #[test]
    fn vllm_and_sharegpt_are_the_same_conversations() {
        let trace = fixture("vllm-conversations.json");
        let expected = [(0.0, 0, 0, 30, 14, 14), (0.0, 1, 0, 24, 5, 5), (2.0, 0, 1, 50, 5, 5)];
        assert_eq!(requests(&trace), expected);
        assert_eq!((common(&trace, 16, 0, 1), common(&trace, 16, 0, 2)), (1, 1));
        // One a line is the same.
        let text = std::fs::read_to_string(fixtures().join("vllm-conversations.json")).unwrap();
        let list: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
        let lines: Vec<String> = list.iter().map(|one| format!("{one}\n")).collect();
        assert_eq!(read_text(&lines.concat(), &options()).unwrap(), trace);
        let sharegpt = text.replace("messages", "conversations").replace("role", "from");
        let sharegpt = sharegpt.replace("content", "value");
        assert_eq!(read_text(&sharegpt, &options()).unwrap(), trace);
    }

    #[test]
    fn inputs_of_aiperf_have_whole_prompts() {
        let trace = fixture("aiperf-inputs.json");
        // The second request has the answer to the first; nothing has its own.
        let expected =
            [(0.0, 0, 0, 30, 14, 200), (0.0, 1, 0, 24, 50, 50), (2.0, 0, 1, 50, 200, 200)];
        assert_eq!(requests(&trace), expected);
        assert_eq!((common(&trace, 16, 0, 1), common(&trace, 1, 0, 2)), (1, 30));
        let notices = trace.found().notices.join("\n");
        assert!(notices.contains("2 of its answers are not in it"), "{notices}");
    }

    #[test]
    fn turns_of_aiperf_have_what_is_new() {
        let trace = fixture("aiperf-multi-turn.jsonl");
        let expected = [(0.0, 0, 0, 30, 40, 40), (0.0, 1, 0, 24, 30, 30), (3.5, 0, 1, 76, 20, 20)];
        assert_eq!(requests(&trace), expected);
        assert_eq!((common(&trace, 16, 0, 1), common(&trace, 1, 0, 2)), (1, 30));
        let timed = "{\"session_id\": \"a\", \"turns\": [{\"text\": \"line 3\", \"timestamp\": 250, \"output_length\": 4}]}\n";
        let later = timed.replace("250", "750.5");
        let trace = read_text(&format!("{timed}{later}"), &options()).unwrap();
        assert_eq!(requests(&trace)[1].0, 0.5005);
        let error = read_text(&format!("{later}{timed}"), &options()).unwrap_err().to_string();
        assert!(error.contains("sort the rows by time"), "{error}");
        let error = read_text(&timed.replace(", \"output_length\": 4", ""), &options());
        let error = error.unwrap_err().to_string();
        assert!(error.contains("field \"output_length\" of a turn is missing"), "{error}");
    }

    #[test]
    fn a_tokenizer_that_cannot_be_read_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tokenizer.json");
        let read = |file: &Path| {
            let options = ReadOptions { tokenizer: Some(file.to_owned()), ..options() };
            let error = Trace::read(&fixtures().join("sharegpt.json"), &options).unwrap_err();
            error.to_string().replace(&folder.path().display().to_string(), "DIR")
        };
        let missing = read(&file);
        assert!(missing.starts_with("tokenizer = DIR/tokenizer.json: must be a"), "{missing}");
        assert!(missing.contains("No such file"), "{missing}");
        std::fs::write(&file, "{\"model\": 5}").unwrap();
        assert!(read(&file).contains("a tokenizer.json that can be read ("));
    }
}

proptest! {
    #[test]
    fn no_json_makes_the_readers_panic(text in "[\\[{}\",:a-z0-9. -]{0,60}", kind in 0..4usize) {
        let format = [
            TraceFormat::AiperfInputs,
            TraceFormat::AiperfMultiTurn,
            TraceFormat::Sharegpt,
            TraceFormat::VllmMultiTurn,
        ][kind];
        let _ = super::formats::read_as(&text, format);
        let _ = super::formats::read_as(&payloads(&text), format);
        let _ = super::formats::read_as(&format!("{{{text}}}"), format);
    }
}
