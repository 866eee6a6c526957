//! What the router guesses that workers hold, with the crate's timers.
//!
//! Its timers end at multiples of 100 ms after the moment at which they were
//! made, by the wall clock. So that simulated time 0 is such a multiple whatever
//! the wall clock says, the crate's clock is made to begin at the end of one.

use super::words::rank;
use crate::id::WorkerId;
use crate::router::kv::Retention;
use dynamo_kv_router::approx::{BlockEntry, PruneConfig, PruneManager};
use dynamo_kv_router::protocols::ExternalSequenceBlockHash;
use std::time::Duration;
use tokio::time::Instant;

/// Timers of the blocks sent to each worker.
pub(super) struct Guesses {
    timers: PruneManager<BlockEntry>,
    epoch: Instant,
}

impl Guesses {
    pub(super) fn new(retention: &Retention) -> Self {
        let ttl = Duration::from_nanos(retention.ttl.as_ps().div_ceil(1_000));
        let mut timers = PruneManager::new(PruneConfig { ttl });
        timers.insert_at(vec![entry(WorkerId(0), 0, 0)], Instant::now());
        let epoch = timers.peek_next_valid_expiry().expect("a timer was set");
        timers.pop_expired(epoch);
        Self { timers, epoch }
    }

    /// Simulated time 0.
    pub(super) fn epoch(&self) -> Instant {
        self.epoch
    }

    pub(super) fn sent(&mut self, worker: WorkerId, prompt: &[u64], now: Instant) {
        let entries = prompt.iter().enumerate().map(|(at, &block)| entry(worker, block, at));
        self.timers.insert_at(entries.collect(), now);
    }

    /// Takes what has expired, the last blocks of prompts first.
    pub(super) fn expired(&mut self, now: Instant) -> Vec<(WorkerId, u64)> {
        let mut expired = self.timers.pop_expired(now);
        expired.sort_by(|a, b| b.cmp(a));
        let worker = |entry: &BlockEntry| {
            WorkerId(u32::try_from(entry.worker.worker_id).expect("worker ids are ours"))
        };
        expired.iter().map(|entry| (worker(entry), entry.key.0)).collect()
    }
}

fn entry(worker: WorkerId, block: u64, seq_position: usize) -> BlockEntry {
    BlockEntry { key: ExternalSequenceBlockHash(block), worker: rank(worker), seq_position }
}
