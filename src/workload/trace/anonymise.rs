//! A trace without what could tell whose requests they were: when exactly they came, and
//! what their blocks and sessions were called.

use super::numbering::{Numbering, push};
use super::{Trace, TraceRow};
use crate::rng::{Use, stream};
use crate::time::SimDuration;
use rand::RngExt;

/// Within this time the moment of a request is drawn.
const STEP_PS: u64 = 1_000_000_000_000;

/// Makes a random stream of its own.
const SERIES: u64 = u64::MAX;

impl Trace {
    /// The same requests in the same order, whose times are those of the trace to the
    /// second only, with drawn milliseconds, and whose blocks are numbered as they come.
    /// Sessions have numbers anyway. Lengths, and who waits for whom, stay.
    ///
    /// # Panics
    /// If it has more ids than fit into memory.
    pub fn anonymised(mut self) -> Self {
        let drawn = |time: SimDuration, row: usize, which: u64| {
            let mut draws = stream(0, Use::Lookalike, SERIES - which, row as u64);
            let ms: u64 = draws.random_range(0..1_000);
            SimDuration::from_ps(time.as_ps() / STEP_PS * STEP_PS) + SimDuration::from_millis(ms)
        };
        // First turns stay in their order, and the first of them at 0.
        let firsts: Vec<usize> =
            (0..self.rows.len()).filter(|&row| self.rows[row].is_first()).collect();
        let mut times: Vec<SimDuration> =
            firsts.iter().map(|&row| drawn(self.rows[row].at, row, 0)).collect();
        times.sort_unstable();
        let begin = times.first().copied().unwrap_or_default();
        for (&row, &at) in firsts.iter().zip(&times) {
            self.rows[row].at = at - begin;
        }
        for row in 0..self.rows.len() {
            let TraceRow { at, delay, .. } = self.rows[row];
            if !self.rows[row].is_first() {
                if !at.is_zero() {
                    // Moved with the first turns, and not to 0, which is no time.
                    let ps = drawn(at, row, 0).as_ps().saturating_sub(begin.as_ps());
                    self.rows[row].at = SimDuration::from_ps(ps).max(SimDuration::from_millis(1));
                }
                if !delay.is_zero() {
                    self.rows[row].delay = drawn(delay, row, 1);
                }
            }
        }
        self.is_whole_ms = true;
        self.renumbered()
    }

    /// The same with ids in order of their first use.
    fn renumbered(mut self) -> Self {
        let mut numbers = Numbering::default();
        let old = std::mem::take(&mut self.runs);
        let ends: Vec<usize> = self.rows.iter().skip(1).map(|row| row.first_run).collect();
        for row in 0..self.rows.len() {
            let from = self.rows[row].first_run;
            let to = ends.get(row).copied().unwrap_or(old.len());
            let first_run = self.runs.len();
            for id in old[from..to].iter().flat_map(|run| run.ids()) {
                push(&mut self.runs, first_run, numbers.of((id.0, 0)), 1);
            }
            self.rows[row].first_run = first_run;
        }
        self.beginnings = self.beginnings.renamed(|id| numbers.of((id, 0)));
        self
    }
}
