//! Puts rows of any format together, by the rules that all of them keep.

use super::{MAX_TIMESTAMP_MS, NO_ROW, Trace, TraceError, TraceFormat, TraceRow};
use crate::id::BlockId;
use crate::kv::BlockTable;
use crate::request::BlockRun;
use crate::workload::MAX_TOKENS;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::Path;

/// Times the most engine blocks per id, [`MAX_BLOCK_TOKENS`](super::MAX_BLOCK_TOKENS),
/// this stays below the private ids.
pub(super) const MAX_HASH_ID: u64 = (1 << 52) - 1;

/// Where the reader is, for errors.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) path: &'a Path,
    pub(super) line: usize,
}

impl Place<'_> {
    pub(super) fn field(
        &self,
        field: &str,
        value: impl Display,
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

    pub(super) fn row(&self, problem: impl Into<String>) -> TraceError {
        TraceError::Row { path: self.path.to_owned(), line: self.line, problem: problem.into() }
    }
}

/// What a format calls the fields of a row.
#[derive(Debug)]
pub(super) struct Names {
    pub(super) timestamp: &'static str,
    pub(super) input: &'static str,
    pub(super) output: &'static str,
}

/// A row as it was read.
#[derive(Clone, Copy)]
pub(super) struct Given<'a> {
    pub(super) timestamp_ms: Option<u64>,
    pub(super) delay_ms: Option<u64>,
    pub(super) input_tokens: u32,
    pub(super) output_tokens: u32,
    pub(super) hash_ids: Option<&'a [u64]>,
    pub(super) session: Option<&'a str>,
}

/// A trace that is being read.
pub(super) struct Build<'a> {
    path: &'a Path,
    format: TraceFormat,
    limit: usize,
    names: &'static Names,
    trace: Trace,
    tree: PrefixTree,
    /// The last row of every session that has a name.
    sessions: BTreeMap<String, u32>,
    sessions_begun: u32,
    /// Of the last first turn.
    earlier_ms: u64,
}

impl<'a> Build<'a> {
    pub(super) fn new(
        path: &'a Path,
        format: TraceFormat,
        block_tokens: u32,
        limit: Option<u32>,
    ) -> Self {
        let names = match format {
            TraceFormat::Azure => &super::csv::AZURE,
            TraceFormat::Burstgpt => &super::csv::BURSTGPT,
            TraceFormat::Mooncake | TraceFormat::MooncakeDelta => &super::mooncake::NAMES,
        };
        Self {
            path,
            format,
            limit: limit.map_or(usize::MAX, |limit| limit as usize),
            names,
            trace: Trace { rows: Vec::new(), runs: Vec::new(), block_tokens },
            tree: PrefixTree::default(),
            sessions: BTreeMap::new(),
            sessions_begun: 0,
            earlier_ms: 0,
        }
    }

    /// True once there are as many rows as were asked for.
    pub(super) fn is_full(&self) -> bool {
        self.trace.rows.len() >= self.limit
    }

    /// Adds the row at `place`.
    pub(super) fn add(&mut self, place: &Place<'_>, given: Given<'_>) -> Result<(), TraceError> {
        let number = self.trace.rows.len();
        // Request ids have 32 bits, and one number means none.
        let Some(number) = u32::try_from(number).ok().filter(|&number| number < NO_ROW) else {
            return Err(place.row("more than 4294967295 requests: use a smaller limit"));
        };
        let previous = given.session.and_then(|session| self.sessions.get(session)).copied();
        self.check_time(place, &given, previous.is_none())?;
        self.check_lengths(place, &given)?;
        let block_tokens = self.trace.block_tokens;
        if let Some(ids) = given.hash_ids {
            let expected = given.input_tokens.div_ceil(block_tokens) as usize;
            if ids.len() != expected {
                let (seen, input) = (format!("{} ids", ids.len()), given.input_tokens);
                let allowed =
                    format!("{expected} ids, one for each {block_tokens} of {input} tokens");
                return Err(place.field("hash_ids", seen, allowed));
            }
        }
        let first_run = self.trace.runs.len();
        let mut row = TraceRow {
            timestamp_ms: given.timestamp_ms.unwrap_or(0),
            delay_ms: given.delay_ms.unwrap_or(0),
            input_tokens: given.input_tokens,
            output_tokens: given.output_tokens,
            session: self.sessions_begun,
            turn: 0,
            next_turn: NO_ROW,
            head: number,
            first_run,
        };
        if let Some(previous) = previous {
            self.follow(place, &given, previous, &mut row)?;
            self.trace.rows[previous as usize].next_turn = number;
        } else {
            self.sessions_begun += 1;
            self.earlier_ms = row.timestamp_ms;
        }
        if let Some(ids) = given.hash_ids.filter(|_| row.head == number) {
            self.tree.add(place, ids, given.input_tokens, block_tokens)?;
            for &id in ids {
                match self.trace.runs[first_run..].last_mut() {
                    Some(run) if run.first.offset(run.len).0 == id => run.len += 1,
                    _ => self.trace.runs.push(BlockRun { first: BlockId(id), len: 1 }),
                }
            }
        }
        if let Some(session) = given.session {
            match self.sessions.get_mut(session) {
                Some(last) => *last = number,
                None => {
                    self.sessions.insert(session.to_owned(), number);
                }
            }
        }
        self.trace.rows.push(row);
        Ok(())
    }

    /// Makes `row` the turn after row `previous`.
    fn follow(
        &self,
        place: &Place<'_>,
        given: &Given<'_>,
        previous: u32,
        row: &mut TraceRow,
    ) -> Result<(), TraceError> {
        let before = &self.trace.rows[previous as usize];
        (row.session, row.turn) = (before.session, before.turn + 1);
        let history = before.input_tokens + before.output_tokens;
        if self.format == TraceFormat::MooncakeDelta {
            row.head = before.head;
            row.input_tokens = history + given.input_tokens;
            if row.input_tokens > MAX_TOKENS {
                let allowed = format!("so short that the whole prompt has at most {MAX_TOKENS}");
                return Err(place.field(self.names.input, given.input_tokens, allowed));
            }
        } else if given.hash_ids.is_none() && given.input_tokens >= history {
            row.head = before.head;
        }
        Ok(())
    }

    fn check_time(
        &self,
        place: &Place<'_>,
        given: &Given<'_>,
        is_first: bool,
    ) -> Result<(), TraceError> {
        let name = self.names.timestamp;
        if let Some(delay) = given.delay_ms {
            if is_first && delay > 0 {
                let allowed = "absent: only later turns of a session_id wait for the one before";
                return Err(place.field("delay", delay, allowed));
            }
            if delay > MAX_TIMESTAMP_MS {
                let allowed = format!("at most {MAX_TIMESTAMP_MS} ms (100 days)");
                return Err(place.field("delay", delay, allowed));
            }
        }
        let Some(timestamp) = given.timestamp_ms else {
            if is_first {
                return Err(place.row(format!("field \"{name}\" is missing")));
            }
            return Ok(());
        };
        if is_first && timestamp < self.earlier_ms {
            let earlier = self.earlier_ms;
            let allowed =
                format!("at least {earlier}, the timestamp before it: sort the rows by time");
            return Err(place.field(name, timestamp, allowed));
        }
        if timestamp > MAX_TIMESTAMP_MS {
            let allowed = format!(
                "at most {MAX_TIMESTAMP_MS} (100 days): milliseconds since the start of the trace"
            );
            return Err(place.field(name, timestamp, allowed));
        }
        Ok(())
    }

    fn check_lengths(&self, place: &Place<'_>, given: &Given<'_>) -> Result<(), TraceError> {
        let tokens = format!("from 1 to {MAX_TOKENS}");
        if !(1..=MAX_TOKENS).contains(&given.input_tokens) {
            return Err(place.field(self.names.input, given.input_tokens, tokens));
        }
        if !(1..=MAX_TOKENS).contains(&given.output_tokens) {
            let allowed = tokens + ", as every request generates; remove the row";
            return Err(place.field(self.names.output, given.output_tokens, allowed));
        }
        Ok(())
    }

    /// The trace, if it has a row.
    pub(super) fn finish(self) -> Result<Trace, TraceError> {
        if self.trace.rows.is_empty() {
            return Err(TraceError::Empty { path: self.path.to_owned() });
        }
        Ok(self.trace)
    }
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
    fn add(
        &mut self,
        place: &Place<'_>,
        ids: &[u64],
        input_tokens: u32,
        block_tokens: u32,
    ) -> Result<(), TraceError> {
        let ordinary = |id: u64| Node { id, parent: id.checked_sub(1), tokens: block_tokens };
        let mut parent = None;
        let mut left = input_tokens;
        for &id in ids {
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
