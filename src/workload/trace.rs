//! The open loop: a recorded trace in Mooncake's format, replayed at its own
//! timestamps whatever the fleet does.
//!
//! A row names the blocks of its prompt, 512 tokens each, and an id stands for
//! a block *and everything before it*. An engine with blocks of `b` tokens sees
//! id `i` as the `512 / b` consecutive block ids from `i x 512 / b`. The last id
//! of a row may stand for fewer tokens: it gives its whole engine blocks, and
//! the rest of the prompt is a tail that no request shares, like its output.
//!
//! Rows with one timestamp arrive in the order of the file.

mod parse;
mod public;
mod scan;
mod stats;
#[cfg(test)]
mod tests;

pub use public::PublicTrace;
pub use stats::{Lengths, TraceStats};

use super::{Arrival, Workload, private_run};
use crate::id::{BlockId, ConversationId, RequestId};
use crate::request::{BlockRun, Content, Request};
use crate::settings::{self, Count, Invalid};
use crate::time::{SimDuration, SimTime};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Tokens of a block in Mooncake's traces.
pub const MOONCAKE_BLOCK_TOKENS: u32 = 512;
/// Larger blocks than any trace's.
const MAX_BLOCK_TOKENS: u32 = 1 << 11;

/// A replay of a trace.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TraceSettings {
    /// A public trace by its name in the manifest; either this or `path`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
    /// A file in Mooncake's format, relative to the experiment file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Timestamps are divided by this and truncated to whole milliseconds, as
    /// load generators do it (`int(timestamp / 4)`). 1 unless given.
    #[serde(default = "one")]
    pub speedup: f64,
    /// Only the first rows; all unless given.
    #[serde(
        default,
        deserialize_with = "settings::count_option",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "Option<Count>")]
    pub limit: Option<u32>,
    /// Tokens that an id of the trace stands for; 512, Mooncake's, unless given.
    #[serde(default = "mooncake_block", deserialize_with = "settings::count")]
    #[schemars(with = "Count")]
    pub trace_block_tokens: u32,
}

fn one() -> f64 {
    1.0
}

fn mooncake_block() -> u32 {
    MOONCAKE_BLOCK_TOKENS
}

impl TraceSettings {
    /// Refuses settings that no trace can be replayed with, on engines with
    /// blocks of `block_size` tokens.
    ///
    /// # Errors
    /// The first unusable key.
    pub fn validate(&self, block_size: u32) -> Result<(), Invalid> {
        self.source()?;
        Invalid::unless(
            self.speedup.is_finite() && self.speedup > 0.0,
            "speedup",
            self.speedup,
            "a finite number above 0",
        )?;
        if let Some(limit) = self.limit {
            Invalid::unless(limit > 0, "limit", limit, "at least 1; leave it out for all rows")?;
        }
        let tokens = self.trace_block_tokens;
        Invalid::unless(
            (1..=MAX_BLOCK_TOKENS).contains(&tokens) && tokens.is_multiple_of(block_size),
            "trace_block_tokens",
            tokens,
            &format!(
                "from 1 to {MAX_BLOCK_TOKENS} and a multiple of the engine's block_size \
                 = {block_size}; use an engine block size that divides it"
            ),
        )
    }

    /// Reads the trace. Public ones are looked for in `trace_folders`, in that
    /// order; a `path` is relative to `experiment_folder`.
    ///
    /// # Errors
    /// If it is not there, or not a trace, or too long at this `speedup`.
    pub fn load(
        &self,
        experiment_folder: &Path,
        trace_folders: &[PathBuf],
    ) -> Result<Trace, TraceError> {
        let path = match self.source()? {
            Source::Public(trace) => trace.find(trace_folders)?,
            Source::Own(path) => experiment_folder.join(path),
        };
        let trace = Trace::read(&path, self.trace_block_tokens, self.limit)?;
        let last_ms = trace.rows[trace.rows.len() - 1].timestamp_ms;
        let slowest = last_ms as f64 / parse::MAX_TIMESTAMP_MS as f64;
        let allowed = format!("at least {slowest}, so that the replay ends within 100 days");
        Invalid::unless(self.speedup >= slowest, "speedup", self.speedup, &allowed)?;
        Ok(trace)
    }
}

/// Which file to replay.
enum Source<'a> {
    Public(&'static PublicTrace),
    Own(&'a Path),
}

impl TraceSettings {
    fn source(&self) -> Result<Source<'_>, Invalid> {
        match (&self.trace, &self.path) {
            (Some(name), None) => PublicTrace::named(name).map(Source::Public),
            (None, Some(path)) => Ok(Source::Own(path)),
            (None, None) => {
                Err(Invalid::new("trace", "nothing", "the name of a public trace, or give path"))
            }
            (Some(name), Some(_)) => {
                Err(Invalid::new("trace", format!("{name:?}"), "absent beside path"))
            }
        }
    }
}

/// A trace that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The file could not be read.
    #[error("{}: cannot read the trace: {reason}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        reason: String,
    },
    /// A line is no row of a trace.
    #[error("{}:{line}: {problem}", path.display())]
    Row {
        /// The file.
        path: PathBuf,
        /// Its line, from 1.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// A field has a value that cannot be replayed.
    #[error("{}:{line}: {field} = {value}: must be {allowed}", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// Its line, from 1.
        line: usize,
        /// Name of the field.
        field: String,
        /// The value seen.
        value: String,
        /// The values allowed.
        allowed: String,
    },
    /// The file has no rows.
    #[error("{}: no requests: a trace has one JSON object per line", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A public trace is not on this machine.
    #[error(
        "trace {:?} is not here (looked for {} in {}): {}; then set SIM_TRACES to its folder",
        trace.name, trace.file, folders(looked_in), trace.how_to_get()
    )]
    NotHere {
        /// The trace.
        trace: &'static PublicTrace,
        /// Folders without it.
        looked_in: Vec<String>,
    },
    /// A file is not the public trace that its name says.
    #[error("{}: not trace {:?}, its SHA-256 is {seen}: {}", path.display(), trace.name, trace.how_to_get())]
    Other {
        /// The file.
        path: PathBuf,
        /// The trace expected.
        trace: &'static PublicTrace,
        /// SHA-256 of the file.
        seen: String,
    },
    /// A setting does not fit the trace.
    #[error(transparent)]
    Setting(#[from] Invalid),
}

fn folders(looked_in: &[String]) -> String {
    if looked_in.is_empty() { "no folder".to_owned() } else { looked_in.join(", ") }
}

impl TraceError {
    fn read(path: &Path, error: &io::Error) -> Self {
        Self::Read { path: path.to_owned(), reason: error.to_string() }
    }
}

/// A trace in memory: at least one row, in order of time, whose ids form a prefix tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    rows: Vec<TraceRow>,
    /// The ids of all rows, one row after another, as runs of consecutive ids.
    runs: Vec<BlockRun>,
    block_tokens: u32,
}

/// A request of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceRow {
    /// Milliseconds since the start of the trace.
    pub timestamp_ms: u64,
    /// Prompt length; at least 1.
    pub input_tokens: u32,
    /// Output length; at least 1.
    pub output_tokens: u32,
    /// Where the runs of its ids begin.
    first_run: usize,
}

impl Trace {
    /// Reads up to `limit` rows from a file whose ids stand for `block_tokens`
    /// tokens each.
    ///
    /// # Errors
    /// If the file cannot be read, has no rows or a row that breaks a rule of
    /// the format; the rest of the file is not looked at.
    pub fn read(path: &Path, block_tokens: u32, limit: Option<u32>) -> Result<Self, TraceError> {
        let file = File::open(path).map_err(|error| TraceError::read(path, &error))?;
        parse::parse(path, BufReader::new(file), block_tokens, limit)
    }

    /// The requests, in order.
    pub fn rows(&self) -> &[TraceRow] {
        &self.rows
    }

    /// The ids of the blocks of row `row`'s prompt, the partial last one
    /// included, as runs of consecutive ids.
    pub fn runs(&self, row: usize) -> &[BlockRun] {
        let end = self.rows.get(row + 1).map_or(self.runs.len(), |next| next.first_run);
        &self.runs[self.rows[row].first_run..end]
    }

    /// SHA-256 over all requests, in order.
    pub fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for (index, row) in self.rows.iter().enumerate() {
            hash.update(row.timestamp_ms.to_le_bytes());
            hash.update(row.input_tokens.to_le_bytes());
            hash.update(row.output_tokens.to_le_bytes());
            for run in self.runs(index) {
                hash.update(run.first.0.to_le_bytes());
                hash.update(run.len.to_le_bytes());
            }
        }
        hash.finalize().into()
    }

    /// Tokens that an id stands for.
    pub fn block_tokens(&self) -> u32 {
        self.block_tokens
    }

    /// Row `row`'s prompt as whole engine blocks of `block_size` tokens, which
    /// requests share, then private ones.
    fn content(&self, row: u32, block_size: u32) -> Content {
        let index = row as usize;
        let per_id = self.block_tokens / block_size;
        let mut left = self.rows[index].input_tokens / block_size;
        let runs = self.runs(index).iter().map(|run| {
            let len = left.min(run.len * per_id);
            left -= len;
            BlockRun { first: BlockId(run.first.0 * u64::from(per_id)), len }
        });
        Content::new(runs, private_run(row))
    }
}

/// Replays a [`Trace`]: request `n` is row `n`.
#[derive(Clone, Debug)]
pub struct TraceReplay {
    trace: Arc<Trace>,
    speedup: f64,
    block_size: u32,
    next: u32,
}

impl TraceReplay {
    /// The replay from the first row, for engines with blocks of `block_size`
    /// tokens, with timestamps divided by `speedup`.
    ///
    /// # Panics
    /// If `block_size` does not divide the trace's.
    pub fn new(trace: Arc<Trace>, block_size: u32, speedup: f64) -> Self {
        let tokens = trace.block_tokens;
        assert!(tokens.is_multiple_of(block_size), "{block_size} does not divide {tokens}");
        Self { trace, speedup, block_size, next: 0 }
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "truncation to whole milliseconds is the rule"
    )]
    fn arrival(&self, row: &TraceRow) -> SimTime {
        let ms = (row.timestamp_ms as f64 / self.speedup) as u64;
        SimTime::ZERO + SimDuration::from_millis(ms)
    }
}

impl Workload for TraceReplay {
    fn next_arrival(&self) -> Option<SimTime> {
        self.trace.rows.get(self.next as usize).map(|row| self.arrival(row))
    }

    fn take(&mut self) -> Arrival {
        let row = self.trace.rows.get(self.next as usize).expect("a row is left");
        let at = self.arrival(row);
        let request = Request {
            id: RequestId(self.next),
            conversation: ConversationId(self.next),
            turn: 0,
            prompt_tokens: row.input_tokens,
            output_tokens: row.output_tokens,
            max_tokens: row.output_tokens,
            content: self.trace.content(self.next, self.block_size),
        };
        self.next += 1;
        Arrival { at, sent: at, request }
    }

    fn observe_end(&mut self, _now: SimTime, _request: RequestId, _served: bool) {}
}
