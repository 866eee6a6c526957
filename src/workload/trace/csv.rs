//! Reads the traces of Azure and BurstGPT: CSV without any identity of texts.
//!
//! Columns are found by their names, in which capitals, blanks and underscores do
//! not matter; others are passed over.

use super::build::{Build, Given};
use super::bytes::each_record;
use super::dates::date;
use super::formats::{Names, plain};
use super::stamp::Stamp;
use super::{Trace, TraceError, TraceFormat};
use csv::StringRecord;
use std::io::Read;
use std::path::Path;

/// The column of sessions, which BurstGPT's third part has.
const SESSION: &str = "Session ID";
/// What names of columns that look like it contain.
const LIKE_SESSION: [&str; 3] = ["session", "conversation", "chatid"];

/// Parses `text`, the content of `path`, whose columns are called `names`.
pub(super) fn parse(
    path: &Path,
    text: impl Read,
    format: TraceFormat,
    mut build: Build<'_>,
) -> Result<Trace, TraceError> {
    let names = build.names();
    let find = |header: &StringRecord| Columns::find(header, names);
    each_record(path, text, b',', find, |place, columns, record| {
        let tokens = |name: &str, at: usize| {
            let text = record[at].trim();
            let allowed = "a whole number from 0 to 4294967295";
            text.parse::<u32>().map_err(|_| place.field(name, text, allowed))
        };
        let output_tokens = tokens(names.output, columns.output)?;
        if format == TraceFormat::Burstgpt && output_tokens == 0 {
            build.leave_out(1);
            return Ok(true);
        }
        let written = record[columns.timestamp].trim();
        let stamp = match format {
            TraceFormat::Azure => {
                date(written).map(Stamp::Whole).ok_or("a date like 2023-11-16 18:17:03.9799600")
            }
            _ => Stamp::parse(written).ok_or("seconds since the start, not negative"),
        };
        let stamp = stamp.map_err(|allowed| place.field(names.timestamp, written, allowed))?;
        let given = Given {
            timestamp: Some(stamp),
            written: Some(written),
            delay: None,
            input_tokens: tokens(names.input, columns.input)?,
            output_tokens,
            max_tokens: None,
            hash_ids: None,
            prefix: None,
            session: columns.session.map(|at| record[at].trim()).filter(|name| !name.is_empty()),
            waits_for: None,
        };
        build.add(place, given)?;
        Ok(!build.is_full())
    })?;
    build.finish()
}

/// True for the name of a column that may say which rows are turns of one conversation.
pub(super) fn is_like_session(name: &str) -> bool {
    let name = plain(name);
    LIKE_SESSION.iter().any(|like| name.contains(like))
}

/// Places of the columns that are read.
struct Columns {
    timestamp: usize,
    input: usize,
    output: usize,
    session: Option<usize>,
}

impl Columns {
    fn find(header: &StringRecord, names: Names<'_>) -> Result<Self, String> {
        let named = |name: &str| {
            let mut found = (0..header.len()).filter(|&at| plain(&header[at]) == plain(name));
            match (found.next(), found.next()) {
                (Some(first), Some(second)) => Err(format!(
                    "columns \"{}\" and \"{}\" are the same",
                    &header[first], &header[second]
                )),
                (at, _) => Ok(at),
            }
        };
        let needed =
            |name: &str| named(name)?.ok_or_else(|| format!("column \"{name}\" is missing"));
        let session = named(SESSION)?;
        let like = header
            .iter()
            .enumerate()
            .find(|(at, name)| session != Some(*at) && is_like_session(name));
        if let Some((_, name)) = like.filter(|_| session.is_none()) {
            return Err(format!(
                "column \"{name}\" is not read: call it \"{SESSION}\" if it names sessions, \
                 else leave it out"
            ));
        }
        Ok(Self {
            timestamp: needed(names.timestamp)?,
            input: needed(names.input)?,
            output: needed(names.output)?,
            session,
        })
    }
}
