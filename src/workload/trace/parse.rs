//! Reads traces in Mooncake's format, and says what is wrong with others.

use super::scan::scan;
use super::{Trace, TraceError, TraceRow};
use crate::id::BlockId;
use crate::kv::BlockTable;
use crate::request::BlockRun;
use crate::workload::MAX_TOKENS;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::io::BufRead;
use std::path::Path;

/// Timestamps stay below 100 days, the most the clock is trusted with.
pub(super) const MAX_TIMESTAMP_MS: u64 = 100 * 86_400_000;
/// Times the most engine blocks per id, [`MAX_BLOCK_TOKENS`](super::MAX_BLOCK_TOKENS),
/// this stays below the private ids.
const MAX_HASH_ID: u64 = (1 << 52) - 1;
const FIELDS: [&str; 4] = ["timestamp", "input_length", "output_length", "hash_ids"];

/// One line of the file.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Line {
    pub(super) timestamp: u64,
    pub(super) input_length: u32,
    pub(super) output_length: u32,
    pub(super) hash_ids: Vec<u64>,
}

/// Where the reader is, for errors.
struct Place<'a> {
    path: &'a Path,
    line: usize,
}

impl Place<'_> {
    fn field(
        &self,
        field: &str,
        value: impl std::fmt::Display,
        allowed: impl Into<String>,
    ) -> TraceError {
        TraceError::Field {
            path: self.path.to_owned(),
            line: self.line,
            field: field.to_owned(),
            value: value.to_string(),
            allowed: allowed.into(),
        }
    }

    fn row(&self, problem: impl Into<String>) -> TraceError {
        TraceError::Row { path: self.path.to_owned(), line: self.line, problem: problem.into() }
    }
}

/// Parses up to `limit` rows of `text`, the content of `path`, whose ids stand
/// for `block_tokens` tokens each. Lines of white space are skipped.
pub(super) fn parse(
    path: &Path,
    mut text: impl BufRead,
    block_tokens: u32,
    limit: Option<u32>,
) -> Result<Trace, TraceError> {
    let mut trace = Trace { rows: Vec::new(), runs: Vec::new(), block_tokens };
    let mut tree = PrefixTree::default();
    let limit = limit.map_or(usize::MAX, |limit| limit as usize);
    let (mut bytes, mut row) = (Vec::new(), Line::default());
    let mut place = Place { path, line: 0 };
    while trace.rows.len() < limit {
        bytes.clear();
        let read = text.read_until(b'\n', &mut bytes);
        if read.map_err(|error| TraceError::read(path, &error))? == 0 {
            break;
        }
        place.line += 1;
        let line = bytes.trim_ascii();
        if line.is_empty() {
            continue;
        }
        if scan(line, &mut row).is_none() {
            let line = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
            row = serde_json::from_slice(line).map_err(|error| diagnose(&place, line, &error))?;
        }
        let earlier = trace.rows.last().map_or(0, |row| row.timestamp_ms);
        check(&place, &row, earlier, block_tokens)?;
        tree.add(&place, &row, block_tokens)?;
        trace.rows.push(TraceRow {
            timestamp_ms: row.timestamp,
            input_tokens: row.input_length,
            output_tokens: row.output_length,
            first_run: trace.runs.len(),
        });
        let of_row = trace.runs.len();
        for &id in &row.hash_ids {
            match trace.runs[of_row..].last_mut() {
                Some(run) if run.first.offset(run.len).0 == id => run.len += 1,
                _ => trace.runs.push(BlockRun { first: BlockId(id), len: 1 }),
            }
        }
    }
    if trace.rows.is_empty() {
        return Err(TraceError::Empty { path: path.to_owned() });
    }
    // Request ids have 32 bits.
    if u32::try_from(trace.rows.len()).is_err() {
        let line = trace.rows.len();
        return Err(Place { path, line }.row("more than 4294967295 requests: use a smaller limit"));
    }
    Ok(trace)
}

/// The rules that a single row of the right form must keep.
fn check(place: &Place<'_>, row: &Line, earlier: u64, block_tokens: u32) -> Result<(), TraceError> {
    let tokens = format!("from 1 to {MAX_TOKENS}");
    if row.timestamp < earlier {
        let allowed = format!("at least {earlier}, the timestamp before it: sort the rows by time");
        return Err(place.field("timestamp", row.timestamp, allowed));
    }
    if row.timestamp > MAX_TIMESTAMP_MS {
        let allowed = format!(
            "at most {MAX_TIMESTAMP_MS} (100 days): milliseconds since the start of the trace"
        );
        return Err(place.field("timestamp", row.timestamp, allowed));
    }
    if !(1..=MAX_TOKENS).contains(&row.input_length) {
        return Err(place.field("input_length", row.input_length, tokens));
    }
    if !(1..=MAX_TOKENS).contains(&row.output_length) {
        let allowed = tokens + ", as every request generates; remove the row";
        return Err(place.field("output_length", row.output_length, allowed));
    }
    let expected = row.input_length.div_ceil(block_tokens) as usize;
    if row.hash_ids.len() != expected {
        let (seen, input) = (format!("{} ids", row.hash_ids.len()), row.input_length);
        let allowed = format!("{expected} ids, one for each {block_tokens} of {input} tokens");
        return Err(place.field("hash_ids", seen, allowed));
    }
    Ok(())
}

/// What each id has meant so far. An id names a block with everything before
/// it, so it has one parent and one length; a cache would give false hits else.
#[derive(Default)]
struct PrefixTree {
    /// [`ORDINARY`], or the place in `nodes` from 1.
    table: BlockTable,
    nodes: Vec<Node>,
}

/// Most blocks are whole and follow the id before their own.
const ORDINARY: u32 = 0;

#[derive(Clone, Copy, PartialEq, Eq)]
struct Node {
    id: u64,
    parent: Option<u64>,
    tokens: u32,
}

impl PrefixTree {
    fn add(&mut self, place: &Place<'_>, row: &Line, block_tokens: u32) -> Result<(), TraceError> {
        let ordinary = |id: u64| Node { id, parent: id.checked_sub(1), tokens: block_tokens };
        let mut parent = None;
        let mut left = row.input_length;
        for &id in &row.hash_ids {
            if id > MAX_HASH_ID {
                let allowed = format!("ids up to {MAX_HASH_ID}: number the blocks from 0");
                return Err(place.field("hash_ids", id, allowed));
            }
            let node = Node { id, parent, tokens: left.min(block_tokens) };
            let is_ordinary = node == ordinary(id);
            let next = u32::try_from(self.nodes.len() + 1).ok().filter(|&next| next < u32::MAX);
            let Some(next) = next else {
                return Err(place.row("more than 4294967294 different ids: use a smaller limit"));
            };
            match self.table.insert(BlockId(id), if is_ordinary { ORDINARY } else { next }) {
                Ok(()) if is_ordinary => {}
                Ok(()) => self.nodes.push(node),
                Err(ORDINARY) if is_ordinary => {}
                Err(known) => {
                    let before = match known {
                        ORDINARY => ordinary(id),
                        known => self.nodes[known as usize - 1],
                    };
                    if before != node {
                        return Err(contradiction(place, node, before));
                    }
                }
            }
            parent = Some(id);
            left -= node.tokens;
        }
        Ok(())
    }
}

fn contradiction(place: &Place<'_>, now: Node, before: Node) -> TraceError {
    let after = |parent: Option<u64>| match parent {
        None => "at the start".to_owned(),
        Some(id) => format!("after id {id}"),
    };
    place.field(
        "hash_ids",
        format!("id {} with {} tokens {}", now.id, now.tokens, after(now.parent)),
        format!(
            "as before, {} tokens {}: an id stands for a block and everything before it",
            before.tokens,
            after(before.parent)
        ),
    )
}

/// Finds the field that made `bytes` no [`Line`].
fn diagnose(place: &Place<'_>, bytes: &[u8], error: &serde_json::Error) -> TraceError {
    let object: Map<String, Value> = match serde_json::from_slice(bytes) {
        Ok(object) => object,
        Err(error) => return place.row(format!("not a JSON object: {}", without_line(&error))),
    };
    for field in FIELDS {
        let Some(value) = object.get(field) else {
            return place.row(format!("field \"{field}\" is missing"));
        };
        let (min, max) = match field {
            "timestamp" => (0, MAX_TIMESTAMP_MS),
            "hash_ids" => (0, MAX_HASH_ID),
            _ => (1, u64::from(MAX_TOKENS)),
        };
        let is_fine = |value: &Value| value.as_u64().is_some_and(|n| (min..=max).contains(&n));
        let whole = format!("from {min} to {max}");
        if field != "hash_ids" {
            if !is_fine(value) {
                return place.field(field, value, format!("a whole number {whole}"));
            }
            continue;
        }
        let Some(ids) = value.as_array() else {
            return place.field(field, value, format!("a list of whole numbers {whole}"));
        };
        if let Some(id) = ids.iter().find(|id| !is_fine(id)) {
            return place.field(field, id, format!("whole numbers {whole}"));
        }
    }
    if let Some(unknown) = object.keys().find(|key| !FIELDS.contains(&key.as_str())) {
        let fields = FIELDS.join(", ");
        return place.row(format!("field \"{unknown}\" is unknown: the fields are {fields}"));
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
