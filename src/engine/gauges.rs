//! Time-weighted gauges of a worker.

use crate::time::SimTime;

/// Present values of a worker's gauges and their integrals over time since the
/// start; the mean over a window is the difference of two integrals over its length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    since: SimTime,
    /// Requests in the batch (or between its steps).
    pub running: u32,
    /// Requests at the worker that are not in the batch.
    pub waiting: u32,
    /// KV blocks held by requests.
    pub used_blocks: u32,
    /// Request-picoseconds in the batch.
    pub running_ps: u128,
    /// Request-picoseconds in the queue.
    pub waiting_ps: u128,
    /// Block-picoseconds held.
    pub used_blocks_ps: u128,
}

impl Gauges {
    /// Adds what the present values came to until `now`.
    pub fn advance(&mut self, now: SimTime) {
        let elapsed = u128::from((now - self.since).as_ps());
        self.since = now;
        self.running_ps += elapsed * u128::from(self.running);
        self.waiting_ps += elapsed * u128::from(self.waiting);
        self.used_blocks_ps += elapsed * u128::from(self.used_blocks);
    }

    /// Adds what comes to until the last of `takings`, at each of which requests take so
    /// many more blocks. Gives all that they take.
    pub(super) fn take(&mut self, takings: impl Iterator<Item = (SimTime, u32)>) -> u32 {
        let (mut since, mut blocks, mut blocks_ps) = (self.since, self.used_blocks, 0);
        for (at, taken) in takings {
            blocks_ps += u128::from((at - since).as_ps()) * u128::from(blocks);
            since = at;
            blocks += taken;
        }
        let taken = blocks - std::mem::take(&mut self.used_blocks);
        self.advance(since);
        self.used_blocks = blocks;
        self.used_blocks_ps += blocks_ps;
        taken
    }
}
