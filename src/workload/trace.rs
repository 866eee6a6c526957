//! Recorded traces. An open loop replays one at its own timestamps whatever the
//! fleet does, and only later turns of a session wait for the answer to the turn
//! before; a closed loop has so many clients, each with one session after another.
//!
//! A row of Mooncake's format names the blocks of its prompt, 512 tokens each,
//! and an id stands for a block *and everything before it*. An engine with blocks
//! of `b` tokens sees id `i` as the `512 / b` consecutive block ids from `i x 512 / b`.
//! The last id of a row may stand for fewer tokens: it gives its whole engine
//! blocks, and the rest of the prompt is a tail that no request shares, like its
//! output. Where the next turn of its session has ids that go on from its own and
//! room for its output, they name the tail and the output too. Prompts without ids
//! share nothing, unless they are later turns of a session: then they go on from
//! the turn before and its output.
//!
//! Rows with one timestamp arrive in the order of the file.

mod anonymise;
mod build;
mod bytes;
mod column_names;
mod columns;
mod csv;
mod dates;
mod error;
mod file;
mod fit;
mod formats;
mod ids;
mod json;
mod locate;
mod lookalike;
mod mooncake;
mod names;
mod numbering;
mod place;
mod public;
mod recorded;
mod replay;
mod reuse;
mod scaling;
mod scan;
mod sessions;
mod settings;
mod stamp;
mod stats;
mod subset;
#[cfg(test)]
mod tests;
mod texts;
mod write;

pub use build::ReadOptions;
pub use column_names::{Columns, PrefixTokens};
pub use error::TraceError;
pub use fit::{Fit, FitOptions, Margin};
pub use ids::Naming;
pub use lookalike::Lookalike;
pub use public::PublicTrace;
pub use replay::{Regrouped, TraceReplay};
pub use reuse::{Capacity, ReuseDistances};
pub use scaling::Scaling;
pub use settings::TraceSettings;
pub use stamp::TimeUnit;
pub use stats::{Lengths, TraceStats};
pub use write::{Target, to_file, to_file_as};

use super::private_run;
use crate::id::BlockId;
use crate::request::{BlockRun, Content};
use crate::settings::Invalid;
use crate::time::SimDuration;
use names::Beginnings;
use numbering::{Numbering, push};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Tokens of a block in Mooncake's traces.
pub const MOONCAKE_BLOCK_TOKENS: u32 = 512;
/// Most tokens in a block of a trace (assumed: four times Mooncake's). The largest
/// id times this is what ids are bounded by.
const MAX_BLOCK_TOKENS: u32 = 1 << 11;
/// The longest trace: the most that the clock is trusted with.
const MAX_TIME: SimDuration = SimDuration::from_secs(100 * 86_400);

/// How the rows of a trace are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TraceFormat {
    /// Mooncake's JSON lines; a later turn of a session has its whole prompt.
    Mooncake,
    /// The same, but a later turn of a session has only what is new: its prompt
    /// is that of the turn before, its answer and this. AIPerf replays sessions so,
    /// and Dynamo's replay under the name `mooncake-delta`.
    MooncakeDelta,
    /// JSON lines in which every request names those that it waits for, as sub-agents and
    /// tools of agents make it: Dynamo calls it agentic Mooncake.
    MooncakeAgentic,
    /// Dynamo's request traces (`dynamo.request.trace.v1`).
    DynamoRequests,
    /// Alibaba's traces of Bailian (Qwen): chats as trees, ids for 16 tokens each.
    Bailian,
    /// The requests of an AIPerf run, `profile_export.jsonl`.
    AiperfProfile,
    /// Conversations of agents by WEKA, one a line, with sub-agents inside.
    Weka,
    /// The requests of an AIPerf run as they were sent, `inputs.json`: texts or token ids.
    AiperfInputs,
    /// Sessions of turns as text for AIPerf; a later turn has only what is new.
    AiperfMultiTurn,
    /// ShareGPT: conversations as text, of `from` and `value`.
    Sharegpt,
    /// Conversations as text, of `role` and `content`: those of vLLM's multi-turn benchmark.
    VllmMultiTurn,
    /// Azure's LLM inference traces: CSV with `TIMESTAMP`, `ContextTokens`, `GeneratedTokens`.
    Azure,
    /// BurstGPT: CSV with `Timestamp` (s), `Request tokens`, `Response tokens` and
    /// in its third part `Session ID`.
    Burstgpt,
}

impl TraceFormat {
    /// As settings write it.
    fn name(self) -> String {
        let name = serde_json::to_value(self).expect("a name of letters");
        name.as_str().unwrap_or_default().to_owned()
    }
}

/// A trace in memory: at least one row, in order of time, whose ids form a prefix
/// tree. Traces are equal if they replay alike.
#[derive(Clone, Debug)]
pub struct Trace {
    rows: Vec<TraceRow>,
    /// The ids of all rows, one row after another, as runs of consecutive ids.
    runs: Vec<BlockRun>,
    block_tokens: u32,
    /// Rows of which the second waits for the answer to the first, in order.
    edges: Vec<(u32, u32)>,
    /// Which ids begin with the tokens of a shorter block.
    beginnings: Beginnings,
    /// Whether all times are whole milliseconds, which speeding up keeps.
    is_whole_ms: bool,
    found: Found,
}

/// What was found when a trace was read or cut, besides its rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Rows that were left out: failed, longer than `max_isl`, or the rest of a
    /// session that ended so.
    pub rows_left_out: u64,
    /// Sessions with a later turn that does not go on from the turn before.
    pub sessions_broken: u64,
    /// What was assumed of the file, a sentence each.
    pub notices: Vec<String>,
}

/// A request of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceRow {
    /// Time since the first row. A later turn of a session is sent then or when
    /// the turn before has ended, whatever comes last; it may be zero.
    pub at: SimDuration,
    /// The time that a later turn waits after the end of the turn before.
    pub delay: SimDuration,
    /// Prompt length; at least 1.
    pub input_tokens: u32,
    /// Output length; at least 1.
    pub output_tokens: u32,
    /// The most that was asked for; the output's length unless the file says so.
    pub max_tokens: u32,
    /// Its session, numbered from 0 in order of first turns. A row without one
    /// has a session of its own.
    pub session: u32,
    /// Its turn in that session, from 0.
    pub turn: u32,
    /// Rows whose answers it waits for; those that wait for none start sessions.
    waits: u32,
    /// The row whose text this one continues; itself if none.
    head: u32,
    /// The row whose ids name the blocks of its prompt and output: the next turn
    /// if its ids go on from these, itself else.
    named_by: u32,
    /// Where the runs of its ids begin.
    first_run: usize,
}

impl PartialEq for Trace {
    fn eq(&self, other: &Self) -> bool {
        let Self { rows, runs, block_tokens, edges, beginnings, is_whole_ms, found: _ } = self;
        *rows == other.rows
            && *runs == other.runs
            && *block_tokens == other.block_tokens
            && *edges == other.edges
            && *beginnings == other.beginnings
            && *is_whole_ms == other.is_whole_ms
    }
}

const NO_ROW: u32 = u32::MAX;

impl TraceRow {
    /// True if it waits for no answer.
    pub fn is_first(&self) -> bool {
        self.waits == 0
    }
}

impl Trace {
    /// What was found besides the rows.
    pub fn found(&self) -> &Found {
        &self.found
    }

    /// A trace without rows and ids, else as this one.
    fn emptied(&self) -> Self {
        Self {
            rows: Vec::new(),
            runs: Vec::new(),
            edges: Vec::new(),
            beginnings: self.beginnings.clone(),
            found: self.found.clone(),
            ..*self
        }
    }

    /// The requests, in order; first turns of sessions are in order of time.
    pub fn rows(&self) -> &[TraceRow] {
        &self.rows
    }

    /// The ids of the blocks of row `row`'s prompt, the partial last one
    /// included, as runs of consecutive ids; none if the file gives none.
    pub fn runs(&self, row: usize) -> &[BlockRun] {
        let end = self.rows.get(row + 1).map_or(self.runs.len(), |next| next.first_run);
        &self.runs[self.rows[row].first_run..end]
    }

    /// SHA-256 over all requests, in order.
    pub fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for (index, row) in self.rows.iter().enumerate() {
            hash.update(row.at.as_ps().to_le_bytes());
            hash.update(row.delay.as_ps().to_le_bytes());
            hash.update(row.session.to_le_bytes());
            hash.update(row.turn.to_le_bytes());
            hash.update(row.input_tokens.to_le_bytes());
            hash.update(row.output_tokens.to_le_bytes());
            hash.update(row.named_by.to_le_bytes());
            if row.max_tokens != row.output_tokens {
                hash.update(row.max_tokens.to_le_bytes());
            }
            for run in self.runs(index) {
                hash.update(run.first.0.to_le_bytes());
                hash.update(run.len.to_le_bytes());
            }
        }
        // Of sessions whose turns wait for the one before each, the rows have said it.
        if self.has_branches() {
            for (before, row) in &self.edges {
                hash.update(before.to_le_bytes());
                hash.update(row.to_le_bytes());
            }
        }
        hash.finalize().into()
    }

    /// Tokens that an id stands for.
    pub fn block_tokens(&self) -> u32 {
        self.block_tokens
    }

    /// The trace with times and delays divided by `speedup`.
    ///
    /// # Errors
    /// If `speedup` is not above 0, or so small that the trace would last too long.
    pub fn sped_up(mut self, speedup: f64) -> Result<Self, Invalid> {
        self.validate_speedup(speedup)?;
        let scale = |time| self.divided(time, speedup);
        let times: Vec<_> = self.rows.iter().map(|row| (scale(row.at), scale(row.delay))).collect();
        for (row, times) in self.rows.iter_mut().zip(times) {
            (row.at, row.delay) = times;
        }
        Ok(self)
    }

    /// Refuses replays that end after more than 100 days.
    fn validate_speedup(&self, speedup: f64) -> Result<(), Invalid> {
        validate_speedup(speedup)?;
        let times = self.rows.iter().map(|row| row.at.max(row.delay));
        let slowest = times.max().unwrap_or_default().as_secs() / MAX_TIME.as_secs();
        let allowed = format!("at least {slowest}, so that the replay ends within 100 days");
        Invalid::unless(speedup >= slowest, "speedup", speedup, &allowed)
    }

    /// `time / speedup`. Where all times are whole milliseconds it is truncated to
    /// such, as load generators do it (`int(timestamp / 4)`); fractions are kept.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "truncation is the rule, and nothing is negative"
    )]
    fn divided(&self, time: SimDuration, speedup: f64) -> SimDuration {
        if speedup == 1.0 {
            return time;
        }
        if self.is_whole_ms {
            let ms = (time.as_ps() / 1_000_000_000) as f64;
            return SimDuration::from_millis((ms / speedup) as u64);
        }
        let ns = (time.as_ps() / 1_000) as f64;
        SimDuration::from_ps((ns / speedup).round() as u64 * 1_000)
    }

    /// True if some row is a later turn of a session.
    pub fn has_sessions(&self) -> bool {
        !self.edges.is_empty()
    }

    /// The rows that wait for the answer to row `row`.
    fn followers(&self, row: u32) -> impl Iterator<Item = u32> + '_ {
        let begin = self.edges.partition_point(|edge| edge.0 < row);
        self.edges[begin..].iter().take_while(move |edge| edge.0 == row).map(|edge| edge.1)
    }

    /// True if sessions are more than turns that wait for the one before each.
    pub fn has_branches(&self) -> bool {
        self.edges.iter().any(|&(before, row)| {
            let (before, row) = (&self.rows[before as usize], &self.rows[row as usize]);
            row.waits > 1 || before.session != row.session || before.turn + 1 != row.turn
        })
    }

    /// The same with blocks of `block_size` tokens, whatever its own have: a block is named
    /// by the id that it ends in and how far into that, as ids stand for a block and
    /// everything before it.
    fn regrouped(&self, block_size: u32) -> Self {
        let mut regrouped = self.emptied();
        regrouped.block_tokens = block_size;
        regrouped.edges.clone_from(&self.edges);
        regrouped.beginnings = Beginnings::default();
        let mut numbers = Numbering::default();
        for (index, row) in self.rows.iter().enumerate() {
            let first_run = regrouped.runs.len();
            let ids: Vec<BlockId> = self.runs(index).iter().flat_map(|run| run.ids()).collect();
            let named = ids.len() as u64 * u64::from(self.block_tokens);
            let ends = (1..).map(|block| block * u64::from(block_size));
            for end in ends.take_while(|end| *end <= named) {
                let (at, rest) = (
                    (end - 1) / u64::from(self.block_tokens),
                    (end - 1) % u64::from(self.block_tokens),
                );
                let id = ids[usize::try_from(at).expect("an index")].0;
                let tokens = u32::try_from(rest + 1).expect("at most a block");
                let key = (self.beginnings.named_by(id, tokens), tokens.into());
                push(&mut regrouped.runs, first_run, numbers.of(key), 1);
            }
            regrouped.rows.push(TraceRow { first_run, ..*row });
        }
        regrouped
    }

    /// Every block of row `row`'s prompt, the partial last one included. Blocks
    /// without an id of the file get one that no other text has.
    pub fn blocks(&self, row: usize) -> impl Iterator<Item = BlockId> + '_ {
        let TraceRow { input_tokens, head, .. } = self.rows[row];
        let all = input_tokens.div_ceil(self.block_tokens);
        let whole = input_tokens / self.block_tokens;
        let goes_on = head as usize != row;
        // What goes on after a text goes on after its whole blocks only.
        let named: u32 = self.runs(head as usize).iter().map(|run| run.len).sum();
        let given = match goes_on {
            true => named.min(self.rows[head as usize].input_tokens / self.block_tokens),
            false => named.min(all),
        };
        let ids = self.runs(head as usize).iter();
        let ids = ids.flat_map(|run| (0..run.len).map(|i| run.first.offset(i)));
        let own = (given..all).map(move |i| match i < whole {
            true => private_run(head).offset(i),
            // Not yet the block that a later turn fills up.
            false => private_run(row_number(row)).offset(MAX_RUN),
        });
        ids.take(given as usize).chain(own)
    }

    /// Row `row`'s prompt and, where the next turn names it, its output as whole
    /// engine blocks of `block_size` tokens, which requests share, then those of
    /// its session alone.
    fn content(&self, row: u32, block_size: u32) -> Content {
        let head = self.rows[row as usize].head;
        let names = self.rows[head as usize].named_by as usize;
        let blocks = self.rows[names].input_tokens / block_size;
        let size = (self.block_tokens, block_size);
        let runs = self.beginnings.engine_blocks(self.runs(names), size, blocks);
        Content::new(runs, private_run(head))
    }
}

fn validate_speedup(speedup: f64) -> Result<(), Invalid> {
    let is_usable = speedup.is_finite() && speedup > 0.0;
    Invalid::unless(is_usable, "speedup", speedup, "a finite number above 0")
}

/// The last block of a private run; no prompt is that long.
const MAX_RUN: u32 = (1 << 31) - 1;

/// Rows are fewer than 2^32: their numbers are those of requests.
fn row_number(row: usize) -> u32 {
    u32::try_from(row).expect("fewer than 2^32 rows")
}
