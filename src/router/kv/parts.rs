//! The index and the tracker as other policies use them.

use super::active::{ActiveTracker, Order, WorkerLoad};
use super::approximate::Approximate;
#[cfg(feature = "dynamo")]
use super::below::{BlocksBelow, LowerIndex};
use super::coverage::CoverageIndex;
use super::index::Index;
use super::overlaps::Overlaps;
use super::params::{Retention, Semantics};
use crate::event::{KvEvent, WorkerEvent};
use crate::id::WorkerId;
#[cfg(feature = "dynamo")]
use crate::request::BlockRun;
use crate::request::RouteRequest;
use crate::time::{SimDuration, SimTime};

/// What workers hold, by KV events: leading blocks of prompts, without holes.
#[derive(Debug, Default)]
pub(in crate::router) struct CachedPrefixes(CoverageIndex);

impl CachedPrefixes {
    /// Takes note of what `worker` stored or lost.
    pub(in crate::router) fn apply(&mut self, worker: WorkerId, event: &KvEvent) {
        self.0.apply(worker, event);
    }

    /// Forgets what `worker` held.
    pub(in crate::router) fn remove_worker(&mut self, worker: WorkerId) {
        self.0.remove_worker(worker);
    }

    /// How many leading blocks of the prompt each worker holds.
    pub(in crate::router) fn overlaps(&self, request: &RouteRequest<'_>) -> Overlaps {
        self.0.overlaps(&request.blocks.runs().collect())
    }
}

/// Prompts that count as held where they were sent, for a time.
#[derive(Debug)]
pub(in crate::router) struct SentLately {
    timers: Approximate,
    index: Index,
}

impl SentLately {
    /// Nothing sent; prompts will count for `ttl`, counted again when they are sent again.
    pub(in crate::router) fn new(ttl: SimDuration) -> Self {
        let all = Retention { ttl, max_blocks: u32::MAX, ..Retention::default() };
        Self {
            timers: Approximate::new(Semantics::V0_9, all),
            index: Index::V1_6(CoverageIndex::default()),
        }
    }

    /// Forgets what has been sent too long before `now`.
    pub(in crate::router) fn expire(&mut self, now: SimTime) {
        self.timers.expire(now, &mut self.index);
    }

    /// `request` is sent to `worker`.
    pub(in crate::router) fn sent(
        &mut self,
        now: SimTime,
        request: &RouteRequest<'_>,
        worker: WorkerId,
    ) {
        let prompt = request.blocks.runs().collect();
        self.timers.sent(now, worker, &prompt, &mut self.index);
    }

    /// Forgets what was sent to `worker`.
    pub(in crate::router) fn remove_worker(&mut self, worker: WorkerId) {
        self.timers.remove_worker(worker);
        self.index.remove_worker(worker);
    }

    /// How many leading blocks of the prompt each worker was sent.
    pub(in crate::router) fn overlaps(&self, request: &RouteRequest<'_>) -> Overlaps {
        self.index.overlaps(&request.blocks.runs().collect())
    }
}

/// What workers hold in tiers below GPU memory.
#[cfg(feature = "dynamo")]
#[derive(Debug, Default)]
pub(in crate::router) struct CachedBelow(LowerIndex);

#[cfg(feature = "dynamo")]
impl CachedBelow {
    /// Takes note of what `worker` stored in a tier or lost there.
    pub(in crate::router) fn apply(&mut self, worker: WorkerId, event: &KvEvent) {
        self.0.apply(worker, event);
    }

    /// `worker` is gone, and what it held.
    pub(in crate::router) fn remove_worker(&mut self, worker: WorkerId) {
        self.0.remove_worker(worker);
    }

    /// For each worker, what it holds of a prompt behind its overlap in GPU memory;
    /// nothing as long as no event named a tier.
    pub(in crate::router) fn after(
        &self,
        prompt: impl Iterator<Item = BlockRun>,
        overlap_blocks: &[u32],
    ) -> Vec<BlocksBelow> {
        if self.0.is_empty() {
            return Vec::new();
        }
        let (prompt, workers) = (prompt.collect(), (0..).map(WorkerId));
        let blocks = workers.zip(overlap_blocks);
        blocks.map(|(worker, &blocks)| self.0.after(worker, &prompt, blocks)).collect()
    }
}

/// What this front end has in flight on each worker.
#[derive(Debug)]
pub(in crate::router) struct Bookings(ActiveTracker);

impl Bookings {
    pub(in crate::router) fn new(workers: u32) -> Self {
        Self(ActiveTracker::new(workers))
    }

    /// One entry per worker, in order of id.
    pub(in crate::router) fn loads(&self) -> &[WorkerLoad] {
        self.0.loads()
    }

    /// Books `request` on `worker` with so many prompt tokens to compute.
    ///
    /// # Panics
    /// If the request is booked already.
    pub(in crate::router) fn book(
        &mut self,
        request: &RouteRequest<'_>,
        worker: WorkerId,
        prefill_tokens: u64,
    ) {
        let order = Order {
            request: request.id,
            prompt_tokens: request.prompt_tokens,
            prefill_tokens,
            prompt: &request.blocks.runs().collect(),
            shared: true,
        };
        self.0.book(worker, &order);
    }

    /// Forgets what is in flight on `worker`.
    pub(in crate::router) fn remove_worker(&mut self, worker: WorkerId) {
        self.0.remove_worker(worker);
    }

    /// Hears of first tokens and ends; gives the worker whose load that changes,
    /// if it changes any.
    pub(in crate::router) fn observe(&mut self, event: &WorkerEvent) -> Option<WorkerId> {
        self.0.observe(event)
    }
}
