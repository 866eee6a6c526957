//! Makes a trace harder or easier: longer or shorter shared prefixes, more of
//! them, longer or shorter prompts, none above a length.
//!
//! The options are those of the trace synthesizers of Dynamo and AIPerf, whose
//! meanings differ; here every row stays the row that it was:
//!
//! * Its *prefix* is its leading blocks that other rows have too. With the
//!   multiplier `m` the block at depth `d` becomes the blocks from `floor(d m)` to
//!   `floor((d + 1) m)`: rows that shared `k` blocks share `floor(k m)`. Only
//!   whole blocks are scaled; a partial last block that rows share stays as it is.
//! * The rest is its *prompt*, whose tokens are multiplied and rounded.
//! * With `n` roots there are `n` copies of every prefix, and a row draws its
//!   copy, so that `n` times as much competes for caches.
//! * Rows above the longest prompt are left out, with the rest of their session, and counted.
//!
//! Ids change only where they must: leaving rows out keeps them.

use super::numbering::{Numbering, push};
use super::{Trace, TraceRow};
use crate::request::BlockRun;
use crate::rng::{Use, mix, stream};
use crate::settings::{self, Count, Invalid};
use crate::workload::MAX_TOKENS;
use hashbrown::HashTable;
use rand::RngExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The most copies of the prefixes, and the largest multiplier of lengths
/// (assumed: far above any use).
const MOST: u32 = 1_000;

/// What is changed in a trace; nothing unless told.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Scaling {
    /// Times the blocks of every shared prefix.
    pub prefix_len_multiplier: f64,
    /// Copies of the shared prefixes.
    #[serde(deserialize_with = "settings::count")]
    #[schemars(with = "Count")]
    pub prefix_root_multiplier: u32,
    /// Times the tokens of a prompt after its shared prefix.
    pub prompt_len_multiplier: f64,
    /// Rows with longer prompts are left out.
    #[serde(deserialize_with = "settings::count_option", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Count>")]
    pub max_isl: Option<u32>,
}

impl Default for Scaling {
    fn default() -> Self {
        Self {
            prefix_len_multiplier: 1.0,
            prefix_root_multiplier: 1,
            prompt_len_multiplier: 1.0,
            max_isl: None,
        }
    }
}

impl Scaling {
    /// Refuses values that no trace can be scaled with.
    ///
    /// # Errors
    /// The first unusable key.
    pub fn validate(&self) -> Result<(), Invalid> {
        for (key, value) in [
            ("prefix_len_multiplier", self.prefix_len_multiplier),
            ("prompt_len_multiplier", self.prompt_len_multiplier),
        ] {
            let is_usable = value > 0.0 && value <= f64::from(MOST);
            let allowed = format!("a number above 0, at most {MOST}");
            Invalid::unless(is_usable, key, value, &allowed)?;
        }
        let roots = self.prefix_root_multiplier;
        let allowed = format!("from 1 to {MOST}");
        Invalid::unless((1..=MOST).contains(&roots), "prefix_root_multiplier", roots, &allowed)?;
        let max = self.max_isl;
        Invalid::unless(max != Some(0), "max_isl", 0, "at least 1; leave it out for all rows")
    }

    /// The key that gives prompts other ids, if any does.
    fn renames(&self) -> Option<&'static str> {
        if self.prefix_len_multiplier != 1.0 {
            Some("prefix_len_multiplier")
        } else if self.prompt_len_multiplier != 1.0 {
            Some("prompt_len_multiplier")
        } else if self.prefix_root_multiplier != 1 {
            Some("prefix_root_multiplier")
        } else {
            None
        }
    }

    /// `trace` with these changes, in this order.
    ///
    /// # Errors
    /// If the trace has sessions and prompts were to change, if a prompt grew
    /// beyond all bounds, or if no row were left.
    pub fn apply(&self, trace: Trace) -> Result<Trace, Invalid> {
        let trace = match self.renames() {
            None => trace,
            Some(key) if trace.has_sessions() => {
                let allowed = "1 for a trace with sessions, whose turns contain each other";
                return Err(Invalid::new(key, "changed", allowed));
            }
            Some(key) if !trace.beginnings.is_empty() => {
                let allowed = "1 for a trace whose prefixes end inside a block: let \
                               trace_block_tokens divide prefix_tokens";
                return Err(Invalid::new(key, "changed", allowed));
            }
            Some(key) => Renaming::new(self, &trace).apply(key)?,
        };
        match self.max_isl {
            None => Ok(trace),
            Some(max) => up_to(&trace, max),
        }
    }
}

/// The rows of `trace` with at most `max` prompt tokens.
fn up_to(trace: &Trace, max: u32) -> Result<Trace, Invalid> {
    // Without its first turn a session is left out.
    let firsts = trace.rows.iter().filter(|row| row.is_first());
    let shortest = firsts.map(|row| row.input_tokens).min().unwrap_or(0);
    let allowed = format!("at least {shortest}, the shortest first prompt of the trace");
    Invalid::unless(shortest <= max, "max_isl", max, &allowed)?;
    let mut kept = trace.subset(|row| row.input_tokens <= max);
    kept.found.rows_left_out += (trace.rows.len() - kept.rows.len()) as u64;
    Ok(kept)
}

/// Gives every block a new id, as many as the scaling makes of it.
struct Renaming<'a> {
    scaling: &'a Scaling,
    trace: &'a Trace,
    /// How many rows have each id.
    uses: HashTable<(u64, u32)>,
    /// New ids, by the old one and the copy of the prefixes.
    numbers: Numbering,
}

impl<'a> Renaming<'a> {
    fn new(scaling: &'a Scaling, trace: &'a Trace) -> Self {
        let mut uses: HashTable<(u64, u32)> = HashTable::new();
        for run in &trace.runs {
            for i in 0..run.len {
                let id = run.first.offset(i).0;
                let hash = |entry: &(u64, u32)| mix(entry.0);
                uses.entry(mix(id), |entry| entry.0 == id, hash).or_insert((id, 0)).get_mut().1 +=
                    1;
            }
        }
        Self { scaling, trace, uses, numbers: Numbering::default() }
    }

    fn apply(mut self, key: &str) -> Result<Trace, Invalid> {
        let trace = self.trace;
        let mut scaled = trace.emptied();
        for (i, row) in trace.rows.iter().enumerate() {
            let first_run = scaled.runs.len();
            let Some(input_tokens) = self.row(i, &mut scaled.runs) else {
                let allowed = format!("so small that no prompt passes {MAX_TOKENS} tokens");
                return Err(Invalid::new(key, "too large", allowed));
            };
            scaled.rows.push(TraceRow { input_tokens, first_run, ..*row });
        }
        Ok(scaled)
    }

    /// Adds the new ids of row `row` to `runs`; how many tokens it has then, or
    /// `None` if that is too many.
    fn row(&mut self, row: usize, runs: &mut Vec<BlockRun>) -> Option<u32> {
        let trace = self.trace;
        let block_tokens = u64::from(trace.block_tokens);
        let old = u64::from(trace.rows[row].input_tokens);
        let of_row = runs.len();
        if trace.runs(row).is_empty() {
            return bounded(self.prompt(old).max(1));
        }
        let ids: Vec<u64> = trace.blocks(row).map(|block| block.0).collect();
        let is_whole = |depth: u64| (depth + 1) * block_tokens <= old;
        let shared = (0..).zip(&ids).take_while(|&(_, &id)| self.uses(id) > 1);
        let (mut whole, mut partial) = (0, None);
        for (depth, &id) in shared {
            if is_whole(depth) {
                whole = depth + 1;
            } else {
                partial = Some(id);
            }
        }
        let prefix = self.depth(whole) * block_tokens;
        let rest = old - whole * block_tokens;
        let rest = match partial {
            Some(_) => rest,
            // Something is asked for, whatever was taken away.
            None => self.prompt(rest).max(u64::from(prefix == 0)),
        };
        let tokens = bounded(prefix + rest)?;
        let root = self.root(row);
        for (depth, &id) in (0..whole).zip(&ids) {
            let (from, to) = (self.depth(depth), self.depth(depth + 1));
            let first = self.numbers.first_of((id, root), to - from);
            push(runs, of_row, first, blocks(to - from));
        }
        if let Some(id) = partial {
            push(runs, of_row, self.numbers.of((id, root)), 1);
        } else {
            let own = rest.div_ceil(block_tokens);
            push(runs, of_row, self.numbers.unnamed(own), blocks(own));
        }
        Some(tokens)
    }

    fn uses(&self, id: u64) -> u32 {
        self.uses.find(mix(id), |entry| entry.0 == id).map_or(0, |entry| entry.1)
    }

    /// The copy of the prefixes that a row has.
    fn root(&self, row: usize) -> u64 {
        stream(0, Use::TraceRoot, row as u64, 0)
            .random_range(0..self.scaling.prefix_root_multiplier)
            .into()
    }

    /// Where the shared block at `depth` begins, in new blocks.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "floor is the rule"
    )]
    fn depth(&self, depth: u64) -> u64 {
        (depth as f64 * self.scaling.prefix_len_multiplier) as u64
    }

    /// The tokens of a prompt that has `tokens`.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "rounded, not negative"
    )]
    fn prompt(&self, tokens: u64) -> u64 {
        let scaled = (tokens as f64 * self.scaling.prompt_len_multiplier).round() as u64;
        scaled.max(u64::from(tokens > 0))
    }
}

/// The length of a prompt, if it is within bounds.
fn bounded(tokens: u64) -> Option<u32> {
    u32::try_from(tokens).ok().filter(|&tokens| tokens <= MAX_TOKENS)
}

/// A number of blocks.
fn blocks(count: u64) -> u32 {
    u32::try_from(count).expect("fewer blocks than tokens, which are bounded")
}
