//! Writes a trace in the formats that can hold it.

use super::{MOONCAKE_BLOCK_TOKENS, Trace, TraceRow};
use crate::id::BlockId;
use crate::request::BlockRun;
use crate::settings::Invalid;
use crate::time::SimDuration;
use chrono::DateTime;
use flate2::Compression;
use flate2::write::GzEncoder;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

/// A format that traces are written in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Target {
    /// Mooncake's JSON lines; with `request_id` and `wait_for` where requests wait for more
    /// than the turn before.
    #[default]
    Mooncake,
    /// Bailian's JSON lines, with ids for 16 tokens each.
    Bailian,
    /// Azure's CSV.
    Azure,
    /// BurstGPT's CSV, with sessions.
    Burstgpt,
}

/// Midnight of the day on which Azure's first public trace was taken: where times of CSVs
/// with dates begin.
const FIRST_DAY_S: i64 = 1_700_092_800;

/// `trace` in Mooncake's format as a file that is called `name`: JSON lines, compressed if
/// the name ends with `.gz` or `.zst`. Later turns of sessions have whole prompts; where
/// requests name others, the first line says how many tokens an id stands for. The
/// format has whole milliseconds: fractions are cut off.
pub fn to_file(trace: &Trace, name: &Path) -> Vec<u8> {
    compressed(lines(trace), name)
}

/// `trace` in the format `target` as a file that is called `name`, and what of it the
/// format has no place for, a sentence each.
///
/// # Errors
/// If the format cannot say when a request comes.
pub fn to_file_as(
    trace: &Trace,
    name: &Path,
    target: Target,
) -> Result<(Vec<u8>, Vec<String>), Invalid> {
    let mut lost: Vec<String> = Vec::new();
    let mut lose = |count: usize, what: &str| {
        if count > 0 {
            lost.push(format!("{count} {what}"));
        }
    };
    let rows = trace.rows();
    let later = rows.iter().filter(|row| !row.is_first());
    let timed = later.clone().filter(|row| !row.at.is_zero()).count();
    let untimed = later.clone().count() - timed;
    if target != Target::Mooncake && untimed > 0 {
        let allowed = "mooncake: the others give every request a time, and later turns of the \
                       trace have none";
        return Err(Invalid::new("to", format!("{target:?}").to_lowercase(), allowed));
    }
    let delays = later.clone().filter(|row| !row.delay.is_zero()).count();
    let joins = rows.iter().filter(|row| row.waits > 1).count();
    let with_ids = (0..rows.len()).filter(|&row| !trace.runs(row).is_empty()).count();
    let text = match target {
        Target::Mooncake => {
            if trace.has_branches() {
                lose(
                    timed,
                    "requests lose their own times: they come when what they wait for has ended",
                );
            } else if says_block_size(trace) {
                let tokens = trace.block_tokens();
                lost.push(format!(
                    "its ids stand for {tokens} tokens each, which the format does not say: read it \
                     with trace_block_tokens = {tokens}"
                ));
            }
            lines(trace)
        }
        Target::Bailian => {
            lose(delays, "requests lose their delays after the answer before");
            lose(joins, "requests wait for one other only");
            bailian(trace)
        }
        Target::Azure => {
            lose(with_ids, "requests lose their block ids");
            lose(later.count(), "requests do not wait for others any more");
            azure(trace)
        }
        Target::Burstgpt => {
            lose(with_ids, "requests lose their block ids");
            lose(delays, "requests lose their delays after the answer before");
            lose(joins, "requests wait for one other only");
            burstgpt(trace)
        }
    };
    Ok((compressed(text, name), lost))
}

fn compressed(text: String, name: &Path) -> Vec<u8> {
    match name.extension().and_then(|ending| ending.to_str()) {
        Some("gz") => gzip(&text),
        Some("zst") => compress_to_vec(text.as_bytes(), CompressionLevel::Fastest),
        _ => text.into_bytes(),
    }
}

/// Without a name or a time in it: the same trace gives the same bytes.
fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(text.as_bytes()).expect("memory takes every byte");
    encoder.finish().expect("memory takes every byte")
}

/// Adds to a text, which takes everything.
macro_rules! add {
    ($text:expr, $($part:tt)*) => {
        write!($text, $($part)*).expect("text takes everything")
    };
}

/// One JSON object a row, as Mooncake writes them.
pub(super) fn lines(trace: &Trace) -> String {
    let (has_sessions, has_branches) = (trace.has_sessions(), trace.has_branches());
    let waits_for = has_branches.then(|| waits_for(trace));
    let mut ids = PlainIds::new(trace);
    let mut text = String::new();
    if has_branches && says_block_size(trace) {
        let tokens = trace.block_tokens();
        add!(text, "{{\"schema\": \"dynamo.agentic_mooncake\", \"version\": 1, ");
        add!(text, "\"block_size\": {tokens}}}\n");
    }
    for (i, row) in trace.rows().iter().enumerate() {
        text.push('{');
        if let Some(waits_for) = &waits_for {
            add!(text, "\"request_id\": \"{i}\", \"wait_for\": [");
            for (n, before) in waits_for[i].iter().enumerate() {
                add!(text, "{}\"{before}\"", if n > 0 { ", " } else { "" });
            }
            text.push_str("], ");
        }
        if has_sessions {
            add!(text, "\"session_id\": \"{}\", ", row.session);
        }
        let (at, delay) = (whole_ms(row.at), whole_ms(row.delay));
        if row.is_first() || (at > 0 && !has_branches) {
            add!(text, "\"timestamp\": {at}, ");
        }
        if delay > 0 {
            add!(text, "\"delay\": {delay}, ");
        }
        let (input, output) = (row.input_tokens, row.output_tokens);
        add!(text, "\"input_length\": {input}, \"output_length\": {output}");
        if !trace.runs(i).is_empty() {
            text.push_str(", \"hash_ids\": ");
            ids.list(trace, i, &mut text);
        }
        text.push_str("}\n");
    }
    text
}

/// Whether a reader has to know how many tokens an id stands for.
fn says_block_size(trace: &Trace) -> bool {
    trace.block_tokens() != MOONCAKE_BLOCK_TOKENS && !trace.runs.is_empty()
}

/// Bailian's JSON lines. A chat that goes on after several has the first of them as parent.
fn bailian(trace: &Trace) -> String {
    let regrouped;
    let blocks = match trace.block_tokens() {
        16 => trace,
        _ => {
            regrouped = trace.regrouped(16);
            &regrouped
        }
    };
    let waits_for = waits_for(trace);
    let mut ids = PlainIds::new(blocks);
    let mut text = String::new();
    for (i, row) in trace.rows().iter().enumerate() {
        let parent = waits_for[i].first().map_or("-1".to_owned(), u32::to_string);
        add!(text, "{{\"chat_id\": {i}, \"parent_chat_id\": {parent}, ");
        add!(text, "\"timestamp\": {}, ", row.at.as_secs());
        let (input, output, turn) = (row.input_tokens, row.output_tokens, row.turn + 1);
        add!(text, "\"input_length\": {input}, \"output_length\": {output}, ");
        add!(text, "\"type\": \"text\", \"turn\": {turn}");
        if !blocks.runs(i).is_empty() {
            text.push_str(", \"hash_ids\": ");
            ids.list(blocks, i, &mut text);
        }
        text.push_str("}\n");
    }
    text
}

fn azure(trace: &Trace) -> String {
    let mut text = "TIMESTAMP,ContextTokens,GeneratedTokens\n".to_owned();
    // Later turns may stand before first ones that come earlier.
    let mut rows: Vec<&TraceRow> = trace.rows().iter().collect();
    rows.sort_by_key(|row| row.at);
    for row in rows {
        let ns = i64::try_from(row.at.as_ps() / 1_000).expect("within 100 days");
        let at = DateTime::from_timestamp_nanos(FIRST_DAY_S * 1_000_000_000 + ns);
        let at = at.naive_utc();
        add!(text, "{at},{},{}\n", row.input_tokens, row.output_tokens);
    }
    text
}

fn burstgpt(trace: &Trace) -> String {
    let mut text = "Timestamp,Session ID,Request tokens,Response tokens\n".to_owned();
    for row in trace.rows() {
        let (at, session) = (row.at.as_secs(), row.session);
        add!(text, "{at},{session},{},{}\n", row.input_tokens, row.output_tokens);
    }
    text
}

/// By row: the rows that it waits for.
fn waits_for(trace: &Trace) -> Vec<Vec<u32>> {
    let mut waits_for = vec![Vec::new(); trace.rows().len()];
    for &(before, row) in &trace.edges {
        waits_for[row as usize].push(before);
    }
    waits_for
}

fn whole_ms(time: SimDuration) -> u64 {
    time.as_ps() / 1_000_000_000
}

/// The ids of a trace, and others for blocks that it has no id for.
struct PlainIds {
    /// Those given to blocks without.
    given: BTreeMap<BlockId, u64>,
    next: u64,
}

impl PlainIds {
    fn new(trace: &Trace) -> Self {
        let after = |run: &BlockRun| run.first.0 + u64::from(run.len);
        Self { given: BTreeMap::new(), next: trace.runs.iter().map(after).max().unwrap_or(0) }
    }

    fn of(&mut self, block: BlockId) -> u64 {
        if block.0 >> 63 == 0 {
            return block.0;
        }
        *self.given.entry(block).or_insert_with(|| {
            self.next += 1;
            self.next - 1
        })
    }

    /// Adds the ids of row `row` as a list.
    fn list(&mut self, trace: &Trace, row: usize, text: &mut String) {
        text.push('[');
        for (n, block) in trace.blocks(row).enumerate() {
            let id = self.of(block);
            add!(text, "{}{id}", if n > 0 { ", " } else { "" });
        }
        text.push(']');
    }
}
