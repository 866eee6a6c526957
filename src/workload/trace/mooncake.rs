//! Reads traces in Mooncake's format, and says what is wrong with others.
//!
//! Besides the four fields of the format, rows may have `session_id` and `delay`,
//! as AIPerf and Dynamo's replay read them, and `max_tokens`; `hash_ids` may be absent.

use super::build::{Build, Given};
use super::bytes::each_line;
use super::ids::ids_of;
use super::place::RowPlace;
use super::scan::{Line, scan};
use super::{Trace, TraceError, formats};
use crate::workload::MAX_TOKENS;
use serde_json::{Map, Value};
use std::io::BufRead;
use std::path::Path;

const FIELDS: [&str; 7] =
    ["timestamp", "input_length", "output_length", "hash_ids", "session_id", "delay", "max_tokens"];
/// Written by tools of the field, and by `sim run --record`; they change nothing in a replay.
const PASSED_OVER: [&str; 5] =
    ["request_id", "context_len", "unique_user_prompt_len", "worker", "cached_tokens"];

/// Parses `text`, the content of `path`. Lines of white space are skipped.
pub(super) fn parse(
    path: &Path,
    text: impl BufRead,
    mut build: Build<'_>,
) -> Result<Trace, TraceError> {
    let mut row = Line::default();
    each_line(path, text, |place, line| {
        if scan(line.trim_ascii(), &mut row).is_none() {
            row = serde_json::from_slice(line).map_err(|error| diagnose(place, line, &error))?;
        }
        let given = Given {
            timestamp: row.timestamp,
            written: None,
            delay: row.delay,
            input_tokens: row.input_length,
            output_tokens: row.output_length,
            max_tokens: row.max_tokens,
            hash_ids: row.hash_ids.as_deref(),
            prefix: None,
            session: row.session_id.as_deref().filter(|name| !name.is_empty()),
            waits_for: None,
        };
        build.add(place, given)?;
        Ok(!build.is_full())
    })?;
    build.finish()
}

/// Finds the field that made `bytes` no [`Line`].
fn diagnose(place: &RowPlace<'_>, bytes: &[u8], error: &serde_json::Error) -> TraceError {
    let object: Map<String, Value> = match serde_json::from_slice(bytes) {
        Ok(object) => object,
        Err(error) => return place.row(format!("not a JSON object: {}", without_line(&error))),
    };
    for field in FIELDS {
        let Some(value) = object.get(field) else {
            if matches!(field, "input_length" | "output_length") {
                return place.row(format!("field \"{field}\" is missing"));
            }
            continue;
        };
        let (min, max) = (1, u64::from(MAX_TOKENS));
        let whole = format!("from {min} to {max}");
        let is_whole = |value: &Value| {
            let is_absent = value.is_null() && field == "max_tokens";
            is_absent || value.as_u64().is_some_and(|n| (min..=max).contains(&n))
        };
        match field {
            "timestamp" | "delay" => {
                let is_time = |time: f64| (0.0..1e30).contains(&time);
                if !(value.is_null() || value.as_f64().is_some_and(is_time)) {
                    return place.field(field, value, "a number that is not negative");
                }
            }
            "session_id" => {
                if !(value.is_null() || value.is_string() || value.is_u64()) {
                    return place.field(field, value, "text or a whole number");
                }
            }
            "hash_ids" => {
                if let Err((seen, allowed)) = ids_of(value) {
                    return place.field(field, seen, allowed);
                }
            }
            _ => {
                if !is_whole(value) {
                    return place.field(field, value, format!("a whole number {whole}"));
                }
            }
        }
    }
    let is_known = |key: &str| FIELDS.contains(&key) || PASSED_OVER.contains(&key);
    if let Some(unknown) = object.keys().find(|key| !is_known(key)) {
        if let Some(other) = formats::looks_like(&object) {
            return place.row(formats::unread(Some(other), ""));
        }
        let fields = FIELDS.join(", ");
        let meant = FIELDS.iter().find(|field| formats::plain(field) == formats::plain(unknown));
        let meant = meant.map_or(String::new(), |field| format!("; did you mean \"{field}\"?"));
        let problem = format!("field \"{unknown}\" is unknown: the fields are {fields}{meant}");
        return place.row(problem);
    }
    // A field given twice, for one.
    place.row(without_line(error))
}

/// What the JSON reader says; it saw one line, so its line number would mislead.
fn without_line(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let problem = text.split(" at line ").next().unwrap_or(&text);
    format!("{problem} at column {}", error.column())
}
