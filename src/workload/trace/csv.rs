//! Reads the traces of Azure and BurstGPT: CSV without any identity of texts.
//!
//! Times count from the first row, in whole milliseconds. Columns are found by
//! their names; others are passed over.

use super::build::{Build, Given, Names, Place};
use super::{Trace, TraceError, TraceFormat};
use chrono::NaiveDateTime;
use csv::{Reader, StringRecord};
use std::io::Read;
use std::path::Path;

/// Azure's public LLM inference traces (AzurePublicDataset, `AzureLLMInferenceTrace_*.csv`).
pub(super) const AZURE: Names =
    Names { timestamp: "TIMESTAMP", input: "ContextTokens", output: "GeneratedTokens" };

/// BurstGPT (HPMLL/BurstGPT). Rows without an answer are requests that failed:
/// they are left out.
pub(super) const BURSTGPT: Names =
    Names { timestamp: "Timestamp", input: "Request tokens", output: "Response tokens" };

/// BurstGPT's column of sessions, which only its third part has.
const SESSION: &str = "Session ID";

/// Parses `text`, the content of `path`.
pub(super) fn parse(
    path: &Path,
    text: impl Read,
    names: &Names,
    format: TraceFormat,
    mut build: Build<'_>,
) -> Result<Trace, TraceError> {
    let mut reader = Reader::from_reader(text);
    let failed = |error: &csv::Error| {
        let line = error.position().map_or(1, |at| usize::try_from(at.line()).unwrap_or(0));
        let problem = match error.kind() {
            csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
                format!("{len} values in {expected_len} columns")
            }
            csv::ErrorKind::Utf8 { .. } => "not UTF-8 text".to_owned(),
            csv::ErrorKind::Io(error) => return TraceError::read(path, error),
            _ => error.to_string(),
        };
        Place { path, line }.row(problem)
    };
    let header = reader.headers().map_err(|error| failed(&error))?.clone();
    let find = |name: &str| header.iter().position(|column| column.trim() == name);
    let column = |name: &str| {
        let missing = || Place { path, line: 1 }.row(format!("column \"{name}\" is missing"));
        find(name).ok_or_else(missing)
    };
    let (timestamp, input, output) =
        (column(names.timestamp)?, column(names.input)?, column(names.output)?);
    let session = find(SESSION);
    let mut first = None;
    let mut record = StringRecord::new();
    while !build.is_full() && reader.read_record(&mut record).map_err(|error| failed(&error))? {
        let line = record.position().map_or(0, |at| usize::try_from(at.line()).unwrap_or(0));
        let place = Place { path, line };
        let tokens = |name: &str, at: usize| {
            let text = record[at].trim();
            let allowed = "a whole number from 0 to 4294967295";
            text.parse::<u32>().map_err(|_| place.field(name, text, allowed))
        };
        let output_tokens = tokens(names.output, output)?;
        if format == TraceFormat::Burstgpt && output_tokens == 0 {
            continue;
        }
        let text = record[timestamp].trim();
        let at = match format {
            TraceFormat::Azure => date_ms(text).ok_or("a date like 2023-11-16 18:17:03.9799600"),
            _ => seconds_ms(text).ok_or("seconds since the start, not negative"),
        };
        let at = at.map_err(|allowed| place.field(names.timestamp, text, allowed))?;
        let since = at - *first.get_or_insert(at);
        let Ok(timestamp_ms) = u64::try_from(since) else {
            let allowed = "not before the first row: sort the rows by time";
            return Err(place.field(names.timestamp, text, allowed));
        };
        let given = Given {
            timestamp_ms: Some(timestamp_ms),
            delay_ms: None,
            input_tokens: tokens(names.input, input)?,
            output_tokens,
            hash_ids: None,
            session: session.map(|at| record[at].trim()).filter(|name| !name.is_empty()),
        };
        build.add(&place, given)?;
    }
    build.finish()
}

/// Milliseconds of a date and time of day, in UTC where it names a zone, rounded down.
fn date_ms(text: &str) -> Option<i64> {
    let text = text.strip_suffix("+00:00").or(text.strip_suffix('Z')).unwrap_or(text);
    let at = ["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f"]
        .into_iter()
        .find_map(|form| NaiveDateTime::parse_from_str(text, form).ok())?;
    Some(at.and_utc().timestamp_millis())
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "far below the bounds, and whole ms are the rule"
)]
fn seconds_ms(text: &str) -> Option<i64> {
    let seconds: f64 = text.parse().ok()?;
    (0.0..1e12).contains(&seconds).then_some((seconds * 1_000.0) as i64)
}
