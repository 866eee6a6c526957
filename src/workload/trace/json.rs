//! Reads the formats of JSON lines whose requests wait for others by name or by what had
//! ended: Dynamo's request traces and its agentic form of Mooncake's, Bailian, AIPerf's
//! records and WEKA's conversations.
//!
//! Where a file says which requests had ended when another was sent, that waits for the
//! last one of its own session, for the last one of every sub-agent that ended since, and
//! if it is its session's first, for the last one of the session that called it. It is
//! sent as long after their ends as it was.

mod graph;
mod records;

use super::build::{Build, Given, row_count};
use super::bytes::each_line;
use super::place::RowPlace;
use super::{Trace, TraceError, TraceFormat};
use crate::settings::Invalid;
use graph::{Spans, in_order};
use records::{Reader, Record, WaitsFor};
use std::io::BufRead;
use std::path::Path;

use super::stamp::{Stamp, TimeUnit};

/// Parses `text`, the content of `path`, of one of these formats.
pub(super) fn parse(
    path: &Path,
    text: impl BufRead,
    format: TraceFormat,
    unit: Option<TimeUnit>,
    mut build: Build<'_>,
) -> Result<Trace, TraceError> {
    let mut reader = Reader::new(format, unit.unwrap_or(TimeUnit::Ms));
    each_line(path, text, |place, line| {
        let row = crate::json::object(line.trim_ascii())
            .map_err(|error| place.row(format!("not a JSON object: {error}")))?;
        reader.add(place, &row)?;
        row_count(place, reader.records.len().saturating_sub(1))?;
        Ok(reader.records.len() < build.limit())
    })?;
    reader.records.truncate(build.limit());
    reader.finish();
    build.notices(reader.notices);
    build.leave_out(reader.left_out);
    if let Some(tokens) = reader.block_tokens {
        if !(1..=super::MAX_BLOCK_TOKENS).contains(&tokens) {
            let allowed = format!("from 1 to {}", super::MAX_BLOCK_TOKENS);
            return Err(Invalid::new("trace_block_tokens", tokens, allowed).into());
        }
        build.set_block_tokens(tokens);
    }
    add_all(path, reader.records, build)
}

/// Adds the records in an order in which each comes after those that it waits for.
fn add_all(
    path: &Path,
    mut records: Vec<Record>,
    mut build: Build<'_>,
) -> Result<Trace, TraceError> {
    let place = |line| RowPlace { path, line };
    let spans = Spans::of(&records);
    let recorded: Vec<Option<u64>> = records.iter().map(|record| record.at_ns).collect();
    let mut unknown = 0u64;
    for (index, record) in records.iter_mut().enumerate() {
        let waits_for = match std::mem::take(&mut record.waits_for) {
            WaitsFor::Rows(rows) => rows,
            WaitsFor::Ended => {
                let (rows, delay_ns) = spans.waits_of(index);
                record.delay_ns = delay_ns;
                if !rows.is_empty() {
                    // It comes so long after they ended, whenever that is.
                    record.at_ns = None;
                }
                rows
            }
            WaitsFor::Named(names) => {
                let mut rows = Vec::new();
                for name in names {
                    match spans.named(&name) {
                        Some(row) if row == index => {
                            let problem = format!("request {name:?} waits for itself");
                            return Err(place(record.line).row(problem));
                        }
                        Some(row) => rows.push(row),
                        None if record.may_lack => unknown += 1,
                        None => {
                            let allowed = "the request_id of a row of the file";
                            return Err(place(record.line).field(
                                "wait_for",
                                format!("{name:?}"),
                                allowed,
                            ));
                        }
                    }
                }
                rows.sort_unstable();
                rows.dedup();
                rows
            }
        };
        record.waits_for = WaitsFor::Rows(waits_for);
    }
    if let Some((name, line)) = spans.twice() {
        return Err(place(*line).row(format!("request {name:?} is there twice")));
    }
    if unknown > 0 {
        build.notices(Some(format!(
            "{unknown} of its chats go on from one that is not in it: each begins a chat"
        )));
    }
    let order = in_order(&records, &recorded).map_err(|index| {
        place(records[index].line).row("requests wait for each other in a circle")
    })?;
    let mut number_of = vec![0u32; records.len()];
    for (number, &index) in (0u32..).zip(&order) {
        number_of[index] = number;
        let record = &records[index];
        let mut waits_for: Vec<u32> = record.rows().iter().map(|&row| number_of[row]).collect();
        waits_for.sort_unstable();
        let given = Given {
            timestamp: record.at_ns.map(Stamp::Whole),
            written: None,
            delay: (record.delay_ns > 0 || !waits_for.is_empty())
                .then_some(Stamp::Whole(record.delay_ns)),
            input_tokens: record.input_tokens,
            output_tokens: record.output_tokens,
            max_tokens: None,
            hash_ids: record.ids.as_deref(),
            prefix: None,
            session: record.session.as_deref(),
            waits_for: Some(&waits_for),
        };
        build.add(&place(record.line), given)?;
    }
    build.finish()
}
