//! What messages, payloads and turns say.

use super::super::TraceError;
use super::super::error::short;
use super::super::place::RowPlace;
use super::super::stamp::{Stamp, TimeUnit};
use super::tokens::Tokenizer;
use crate::workload::MAX_TOKENS;
use serde_json::{Map, Value};

pub(super) type Object = Map<String, Value>;

/// Who asks, or tells the model something.
const QUESTIONS: [&str; 8] = [
    "user",
    "human",
    "system",
    "developer",
    "tool",
    "function",
    "observation",
    "function_response",
];
/// What the model says.
const ANSWERS: [&str; 7] =
    ["assistant", "gpt", "chatgpt", "model", "bing", "bard", "function_call"];

/// A message of a conversation.
#[derive(Debug, PartialEq)]
pub(super) struct Message<'a> {
    pub(super) is_answer: bool,
    /// Its parts, mostly one.
    pub(super) texts: Vec<&'a str>,
    /// Whether it calls tools.
    pub(super) has_tools: bool,
}

/// A request, as it was sent.
pub(super) struct Payload<'a> {
    pub(super) prompt: Prompt<'a>,
    /// The most tokens of an answer that it asks for.
    pub(super) max_tokens: Option<u32>,
    /// Whether it offers tools.
    pub(super) has_tools: bool,
}

/// The prompt of a payload.
pub(super) enum Prompt<'a> {
    /// Tokens.
    Ids(Vec<u32>),
    Text(&'a str),
    Messages(Vec<Message<'a>>),
}

/// The list of objects under `key`.
pub(super) fn objects<'a>(
    place: &RowPlace<'_>,
    object: &'a Object,
    key: &str,
) -> Result<Vec<&'a Object>, TraceError> {
    match object.get(key) {
        None => Err(place.row(format!("field \"{key}\" is missing, a list"))),
        Some(Value::Array(list)) => list
            .iter()
            .map(|value| {
                let inner = value.as_object();
                inner.ok_or_else(|| place.field(key, short(value), "a list of objects"))
            })
            .collect(),
        Some(other) => Err(place.field(key, short(other), "a list of objects")),
    }
}

/// The messages under `key`.
pub(super) fn list<'a>(
    place: &RowPlace<'_>,
    object: &'a Object,
    key: &str,
) -> Result<Vec<Message<'a>>, TraceError> {
    objects(place, object, key)?.into_iter().map(|message| of(place, message)).collect()
}

fn of<'a>(place: &RowPlace<'_>, object: &'a Object) -> Result<Message<'a>, TraceError> {
    let (role_key, role) = either(object, ["role", "from"])
        .ok_or_else(|| place.row("field \"role\" (or \"from\") of a message is missing"))?;
    let role = role.as_str().unwrap_or_default();
    let is_answer = ANSWERS.contains(&role);
    if !is_answer && !QUESTIONS.contains(&role) {
        let allowed = format!("one of {}, {}", QUESTIONS.join(", "), ANSWERS.join(", "));
        return Err(place.field(role_key, format!("{role:?}"), allowed));
    }
    let calls = object.get("tool_calls").or(object.get("function_call"));
    let has_tools = calls.is_some_and(|calls| !calls.is_null());
    let texts = match either(object, ["content", "value"]) {
        None if has_tools => Vec::new(),
        None => return Err(place.row("field \"content\" (or \"value\") of a message is missing")),
        Some((key, value)) => parts(place, key, value)?,
    };
    Ok(Message { is_answer, texts, has_tools })
}

/// The field that is there, and its name.
fn either<'a>(object: &'a Object, keys: [&'static str; 2]) -> Option<(&'static str, &'a Value)> {
    keys.into_iter().find_map(|key| object.get(key).map(|value| (key, value)))
}

/// The texts of a message's content.
fn parts<'a>(
    place: &RowPlace<'_>,
    key: &str,
    value: &'a Value,
) -> Result<Vec<&'a str>, TraceError> {
    match value {
        Value::Null => Ok(Vec::new()),
        Value::String(text) => Ok(vec![text]),
        Value::Array(parts) => parts
            .iter()
            .map(|part| {
                let text = part.get("text").and_then(Value::as_str);
                text.ok_or_else(|| {
                    let allowed = "texts only: what images and sounds have of tokens is not known";
                    place.field(key, short(part), allowed)
                })
            })
            .collect(),
        other => Err(place.field(key, short(other), "a text, or a list of parts with text")),
    }
}

/// Reads an OpenAI request, for chats or completions.
pub(super) fn payload<'a>(
    place: &RowPlace<'_>,
    object: &'a Object,
) -> Result<Payload<'a>, TraceError> {
    let is_said = |key: &str| object.get(key).is_some_and(|value| !value.is_null());
    let most = ["max_completion_tokens", "max_tokens"].into_iter().find(|key| is_said(key));
    Ok(Payload {
        max_tokens: most.map(|key| tokens(place, object, key)).transpose()?,
        has_tools: is_said("tools"),
        prompt: prompt(place, object)?,
    })
}

fn prompt<'a>(place: &RowPlace<'_>, object: &'a Object) -> Result<Prompt<'a>, TraceError> {
    if object.contains_key("messages") {
        return Ok(Prompt::Messages(list(place, object, "messages")?));
    }
    let allowed = "a text, or a list of token ids";
    match object.get("prompt") {
        None => Err(place.row(
            "fields \"messages\" and \"prompt\" of a payload are missing: sim reads requests of \
             chats and of completions",
        )),
        Some(Value::String(text)) => Ok(Prompt::Text(text)),
        Some(Value::Array(one)) if one.len() == 1 && one[0].is_string() => {
            Ok(Prompt::Text(one[0].as_str().unwrap_or_default()))
        }
        Some(value) => {
            let id = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
            let ids = value.as_array().and_then(|ids| ids.iter().map(id).collect());
            ids.map(Prompt::Ids).ok_or_else(|| place.field("prompt", short(value), allowed))
        }
    }
}

/// The tokens of the answer to the prompt `before`, if the next one of its session goes on
/// from it and its answer.
pub(super) fn answer_tokens(
    before: &Prompt<'_>,
    next: &Prompt<'_>,
    tokenizer: &mut Tokenizer,
) -> Result<Option<usize>, TraceError> {
    let (Prompt::Messages(before), Prompt::Messages(next)) = (before, next) else {
        return Ok(None);
    };
    let Some(new) = next.strip_prefix(&before[..]) else { return Ok(None) };
    let mut tokens = 0;
    for message in new.iter().take_while(|message| message.is_answer) {
        for text in &message.texts {
            tokens += tokenizer.of(text)?.len();
        }
    }
    Ok((tokens > 0).then_some(tokens))
}

/// A turn of an AIPerf session.
pub(super) struct Turn<'a> {
    pub(super) text: &'a str,
    pub(super) is_system: bool,
    pub(super) output_tokens: Option<u32>,
    /// When it is sent, in ms.
    pub(super) timestamp: Option<Stamp>,
    /// The time between the answer before and it, in ms.
    pub(super) delay: Option<Stamp>,
}

pub(super) fn of_turn<'a>(
    place: &RowPlace<'_>,
    object: &'a Object,
) -> Result<Turn<'a>, TraceError> {
    const FIELDS: [&str; 6] = ["text", "role", "output_length", "timestamp", "delay", "extra"];
    if let Some(other) = object.keys().find(|key| !FIELDS.contains(&key.as_str())) {
        let fields = FIELDS.join(", ");
        return Err(place.row(format!("field \"{other}\" of a turn is not read: only {fields}")));
    }
    let text = match object.get("text") {
        Some(Value::String(text)) => text,
        Some(other) => return Err(place.field("text", short(other), "a text")),
        None => return Err(place.row("field \"text\" of a turn is missing")),
    };
    let has = |key: &str| object.get(key).is_some_and(|value| !value.is_null());
    let time = |key: &str| match object.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => {
            let whole = value.as_u64().map(Stamp::Whole);
            let real = value.as_f64().filter(|real| *real >= 0.0).map(Stamp::Real);
            let stamp = whole.or(real).filter(|stamp| TimeUnit::Ms.to_ns(*stamp).is_some());
            let allowed = "milliseconds, not negative";
            stamp.map(Some).ok_or_else(|| place.field(key, short(value), allowed))
        }
    };
    let output_tokens =
        has("output_length").then(|| tokens(place, object, "output_length")).transpose()?;
    Ok(Turn {
        text,
        is_system: object.get("role").and_then(Value::as_str) == Some("system"),
        output_tokens,
        timestamp: time("timestamp")?,
        delay: time("delay")?,
    })
}

/// A number of tokens.
pub(super) fn tokens(place: &RowPlace<'_>, object: &Object, key: &str) -> Result<u32, TraceError> {
    let value = object.get(key).unwrap_or(&Value::Null);
    let tokens = value.as_u64().and_then(|tokens| u32::try_from(tokens).ok());
    tokens.filter(|tokens| (1..=MAX_TOKENS).contains(tokens)).ok_or_else(|| {
        place.field(key, short(value), format!("a whole number from 1 to {MAX_TOKENS}"))
    })
}
