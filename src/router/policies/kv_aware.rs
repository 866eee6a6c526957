use super::worker_at;
use crate::event::KvEvent;
use crate::id::WorkerId;
use crate::request::RouteRequest;
use crate::router::kv::CachedPrefixes;
use crate::router::spec::PolicySpec;
use crate::router::{ClusterSpec, ClusterView, CostParts, Policy, Verdict};
use crate::time::{SimDuration, SimTime};
use std::collections::VecDeque;

/// See [`KvAware`].
pub const POLICY: PolicySpec = PolicySpec::new("kv_aware", |settings, cluster, _| {
    Box::new(KvAware::new(settings.kv_aware_threshold_tokens, cluster))
});

/// Time over which requests per second are counted: the production stack's
/// `--request-stats-window` default.
const WINDOW: SimDuration = SimDuration::from_secs(60);

/// The worker that holds most of the prompt, if all but a bounded rest is held;
/// else the worker with the fewest requests sent in the last minute.
///
/// Source: `KvawareRouter` of the vLLM production stack
/// (`routers/routing_logic.py`), without a session key; there the caches are
/// asked through LMCache's controller, here KV events tell. Where its answer
/// depends on the order of a map we take the longest match, then the lowest id.
#[derive(Debug)]
pub struct KvAware {
    threshold_tokens: u32,
    block_size: u32,
    cached: CachedPrefixes,
    sent: Vec<VecDeque<SimTime>>,
}

impl KvAware {
    /// A policy for `cluster`. A match counts if at most `threshold_tokens` of
    /// the prompt are left over (the stack's default is 2,000).
    pub fn new(threshold_tokens: u32, cluster: &ClusterSpec) -> Self {
        Self {
            threshold_tokens,
            block_size: cluster.block_size,
            cached: CachedPrefixes::default(),
            sent: vec![VecDeque::new(); cluster.workers as usize],
        }
    }

    /// True if so little is left of the prompt beside `blocks` that a match counts.
    fn counts(&self, request: &RouteRequest<'_>, blocks: u32) -> bool {
        let held = u64::from(blocks) * u64::from(self.block_size);
        let left = u64::from(request.prompt_tokens).saturating_sub(held);
        blocks > 0 && left <= u64::from(self.threshold_tokens)
    }

    fn least_recently_busy(&mut self, now: SimTime, view: &ClusterView<'_>) -> usize {
        for sent in &mut self.sent {
            while sent.front().is_some_and(|at| now.since(*at) > WINDOW) {
                sent.pop_front();
            }
        }
        let counts = view.available().map(|(at, _)| (at, self.sent[at].len()));
        counts.min_by_key(|(_, count)| *count).map_or(0, |(at, _)| at)
    }
}

impl Policy for KvAware {
    fn route(
        &mut self,
        now: SimTime,
        request: &RouteRequest<'_>,
        view: &ClusterView<'_>,
    ) -> Verdict {
        let overlaps = self.cached.overlaps(request, view.workers.len());
        let held = view.available().map(|(at, _)| (at, overlaps[at]));
        let best = held.max_by_key(|(at, blocks)| (*blocks, usize::MAX - at));
        let (at, blocks) = best.expect("a fleet has workers");
        let chosen =
            if self.counts(request, blocks) { at } else { self.least_recently_busy(now, view) };
        self.sent[chosen].push_back(now);
        Verdict::Send(worker_at(chosen))
    }

    fn overlap_blocks(&self, request: &RouteRequest<'_>) -> Option<Vec<u32>> {
        Some(self.cached.overlaps(request, self.sent.len()))
    }

    fn worker_left(&mut self, worker: WorkerId) {
        self.cached.remove_worker(worker);
        self.sent[worker.index()].clear();
    }

    fn wants_kv_events(&self) -> bool {
        true
    }

    fn observe_kv(&mut self, worker: WorkerId, event: &KvEvent) {
        self.cached.apply(worker, event);
    }

    /// Blocks held, where a match counts (taken as a gain); else requests sent in
    /// the last minute, as of the decision before.
    fn explain(&self, request: &RouteRequest<'_>, view: &ClusterView<'_>) -> Vec<CostParts> {
        let overlaps = self.cached.overlaps(request, view.workers.len());
        let hit = self.counts(request, overlaps.iter().copied().max().unwrap_or(0));
        let cost = |(at, &overlap): (usize, &u32)| {
            let sent = self.sent[at].len() as f64;
            let cost = if hit { -f64::from(overlap) } else { sent };
            let parts = vec![("overlap_blocks", f64::from(overlap)), ("sent_requests", sent)];
            CostParts { worker: worker_at(at), cost, parts }
        };
        overlaps.iter().enumerate().map(cost).collect()
    }
}
