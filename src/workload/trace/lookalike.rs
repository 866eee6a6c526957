//! Draws a trace that looks like another one: a model is fitted to a trace, and
//! rows are drawn from it.
//!
//! The model is a bootstrap over sessions (Efron 1979). A trace of Mooncake's
//! format does not say which requests belong together, but its prefix tree does:
//!
//! * A block that more than eight different blocks follow is *popular*, and
//!   so is all that stands before it: system prompts and documents that many
//!   users begin with. They are kept, as a tree, with new ids.
//! * Rows that have the same first block after the popular ones are a *session*:
//!   their arrivals relative to the first, lengths, outputs and how they contain
//!   each other are kept together. A row without such a block is one by itself.
//!
//! A look-alike draws sessions with replacement, gives each copy blocks of its
//! own, and lets it begin within a twentieth of the trace's duration of where it
//! began: so load that rises and falls does so again, and sessions that the end
//! of the trace cuts off are cut again. Where arrivals stand at common instants
//! (Mooncake's traces tick every 3 s) they are put at the nearest of them.

use super::numbering::{Numbering, push};
use super::sessions::Grouped;
use super::{Found, Trace, TraceRow, row_number};
use crate::id::BlockId;
use crate::rng::{Use, stream};
use crate::settings::Invalid;
use crate::time::SimDuration;
use rand::RngExt;

const PS_PER_MS: u64 = 1_000_000_000;

/// The model of a trace.
#[derive(Debug)]
pub struct Lookalike<'a> {
    trace: &'a Trace,
    grouped: Grouped,
    /// Different timestamps in order, if many rows share each.
    ticks: Option<Vec<SimDuration>>,
    duration: SimDuration,
}

impl<'a> Lookalike<'a> {
    /// Fits the model to `trace`.
    ///
    /// # Errors
    /// If rows of the trace name their sessions: what they contain of each other
    /// is not in their ids.
    pub fn fit(trace: &'a Trace) -> Result<Self, Invalid> {
        let allowed = "a trace without session_id";
        Invalid::unless(!trace.has_sessions(), "trace", "with sessions", allowed)?;
        let allowed = "prefixes of whole blocks: let trace_block_tokens divide prefix_tokens";
        let is_whole = trace.beginnings.is_empty();
        Invalid::unless(is_whole, "trace", "with prefixes that end inside a block", allowed)?;
        let rows = trace.rows();
        let mut ticks: Vec<SimDuration> = rows.iter().map(|row| row.at).collect();
        ticks.dedup();
        let duration = ticks[ticks.len() - 1];
        let ticks = Some(ticks).filter(|ticks| ticks.len() * 2 <= rows.len());
        Ok(Self { trace, grouped: Grouped::of(trace), ticks, duration })
    }

    /// Sessions that were found.
    pub fn sessions(&self) -> usize {
        self.grouped.sessions.len()
    }

    /// Blocks that belong to no session.
    pub fn popular_blocks(&self) -> usize {
        let blocks = self
            .grouped
            .popular
            .iter()
            .enumerate()
            .flat_map(|(row, &popular)| self.trace.blocks(row).take(popular as usize));
        let mut blocks: Vec<BlockId> = blocks.collect();
        blocks.sort_unstable();
        blocks.dedup();
        blocks.len()
    }

    /// A trace of `requests` rows. With more than the original has, its duration
    /// is repeated; with fewer, the beginning is drawn.
    pub fn draw(&self, requests: u32, seed: u64) -> Trace {
        let per_period = self.trace.rows().len();
        let gap = self.whole_ms(self.duration / per_period as u64);
        let mut drawn: Vec<Drawn> = Vec::new();
        let mut copies = 0;
        let mut period = 0;
        while drawn.len() < requests as usize {
            let begin = (self.duration + gap) * period;
            let full = drawn.len() + per_period;
            while drawn.len() < full {
                let rows = self.session(seed, copies);
                drawn.extend(rows.map(|(at, row)| Drawn { at: begin + at, copy: copies, row }));
                drawn.truncate(full);
                copies += 1;
            }
            period += 1;
        }
        drawn.sort_unstable();
        drawn.truncate(requests as usize);
        self.build(&drawn)
    }

    /// The rows of copy `copy`, one session, and when they come.
    fn session(&self, seed: u64, copy: u64) -> impl Iterator<Item = (SimDuration, u32)> + '_ {
        let mut draws = stream(seed, Use::Lookalike, copy, 0);
        let sessions = &self.grouped.sessions;
        let rows = &sessions[draws.random_range(0..sessions.len())];
        let time = move |row: u32| self.trace.rows()[row as usize].at;
        let tick_ps = if self.trace.is_whole_ms { PS_PER_MS } else { 1 };
        let spread = self.duration.as_ps() / tick_ps / 20;
        let moved = draws.random_range(0..=2 * spread);
        let moved = (time(rows[0]).as_ps() / tick_ps + moved).abs_diff(spread);
        // Past the end it is folded back, as it is at the beginning.
        let duration = self.duration.as_ps() / tick_ps;
        let start = duration - duration.abs_diff(moved).min(duration);
        let start = SimDuration::from_ps(start * tick_ps);
        let at = move |row: u32| (self.at_tick(start + (time(row) - time(rows[0]))), row);
        rows.iter().map(move |&row| at(row)).filter(|(at, _)| *at <= self.duration)
    }

    /// The moment `at`, or the nearest of the trace's instants.
    fn at_tick(&self, at: SimDuration) -> SimDuration {
        let Some(ticks) = self.ticks.as_ref().filter(|_| at <= self.duration) else { return at };
        let next = ticks.partition_point(|&tick| tick < at).min(ticks.len() - 1);
        let (before, next) = (ticks[next.saturating_sub(1)], ticks[next]);
        let apart = |tick: SimDuration| tick.as_ps().abs_diff(at.as_ps());
        if apart(before) <= apart(next) { before } else { next }
    }

    /// `time` without its fraction of a millisecond, if the trace has none.
    fn whole_ms(&self, time: SimDuration) -> SimDuration {
        let tick_ps = if self.trace.is_whole_ms { PS_PER_MS } else { 1 };
        SimDuration::from_ps(time.as_ps() / tick_ps * tick_ps)
    }

    /// The trace of these rows, ids numbered in order of first use.
    fn build(&self, drawn: &[Drawn]) -> Trace {
        let mut trace = self.trace.emptied();
        trace.found = Found::default();
        let first = drawn.first().map_or(SimDuration::ZERO, |drawn| drawn.at);
        // By old id and copy; what is popular is of every copy.
        let mut ids = Numbering::default();
        for (number, &Drawn { at, copy, row }) in drawn.iter().enumerate() {
            let (index, number) = (row as usize, row_number(number));
            let first_run = trace.runs.len();
            let popular = self.grouped.popular[index] as usize;
            let has_ids = !self.trace.runs(index).is_empty();
            for (depth, block) in self.trace.blocks(index).enumerate().filter(|_| has_ids) {
                let key = (block.0, if depth < popular { u64::MAX } else { copy });
                push(&mut trace.runs, first_run, ids.of(key), 1);
            }
            trace.rows.push(TraceRow {
                at: at - first,
                session: number,
                waits: 0,
                head: number,
                named_by: number,
                first_run,
                ..self.trace.rows()[index]
            });
        }
        trace
    }
}

/// A row of a copy, in the order of the new trace.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Drawn {
    at: SimDuration,
    copy: u64,
    row: u32,
}
