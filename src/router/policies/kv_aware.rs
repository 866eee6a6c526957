use crate::event::KvEvent;
use crate::id::WorkerId;
use crate::request::RouteRequest;
use crate::router::factory::{PolicyFactory, Registration};
use crate::router::kv::CachedPrefixes;
use crate::router::parameters::{Parameters, change};
use crate::router::{ClusterSpec, ClusterView, CostParts, Policy, Verdict};
use crate::settings::{Count, Invalid, count};
use crate::time::{SimDuration, SimTime};
use crate::tournament::Tournament;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::Arc;

/// See [`KvAware`].
pub fn policy() -> Arc<dyn PolicyFactory> {
    let rule = "the worker that holds most of the prompt, if all but a bounded rest is held";
    Registration::new("kv_aware", rule, |params: &KvAwareParams, cluster, _| {
        KvAware::new(*params, cluster)
    })
    .follows("vLLM production stack", None, "routers/routing_logic.py, KvawareRouter")
    .shared()
}

/// Parameters of [`KvAware`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct KvAwareParams {
    /// A match counts if at most so many prompt tokens are left over.
    #[serde(deserialize_with = "count")]
    #[schemars(with = "Count")]
    pub kv_aware_threshold_tokens: u32,
}

impl Default for KvAwareParams {
    /// The stack's.
    fn default() -> Self {
        Self { kv_aware_threshold_tokens: 2_000 }
    }
}

impl Parameters for KvAwareParams {
    const CHANGEABLE: &'static [&'static str] = &["kv_aware_threshold_tokens"];
}

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
    params: KvAwareParams,
    block_size: u32,
    cached: CachedPrefixes,
    /// Requests sent in the last minute, oldest first.
    sent: VecDeque<(SimTime, WorkerId)>,
    /// How many of them each worker got; the highest number for those that are absent.
    sent_requests: Tournament<u32>,
    workers: usize,
}

impl KvAware {
    /// A policy for `cluster`.
    pub fn new(params: KvAwareParams, cluster: &ClusterSpec) -> Self {
        Self {
            params,
            block_size: cluster.block_size,
            cached: CachedPrefixes::default(),
            sent: VecDeque::new(),
            sent_requests: Tournament::new(cluster.workers(), 0, u32::MAX),
            workers: cluster.workers() as usize,
        }
    }

    /// True if so little is left of the prompt beside `blocks` that a match counts.
    fn counts(&self, request: &RouteRequest<'_>, blocks: u32) -> bool {
        let held = u64::from(blocks) * u64::from(self.block_size);
        let left = u64::from(request.prompt_tokens).saturating_sub(held);
        blocks > 0 && left <= u64::from(self.params.kv_aware_threshold_tokens)
    }

    fn least_recently_busy(&mut self, now: SimTime) -> WorkerId {
        while let Some(&(_, worker)) = self.sent.front().filter(|(at, _)| now.since(*at) > WINDOW) {
            self.sent.pop_front();
            let sent = self.sent_requests.key(worker.index());
            self.sent_requests.set(worker.index(), sent - 1);
        }
        // Those that are absent come last.
        let least = self.sent_requests.least();
        WorkerId::at(self.sent_requests.next_at_most(0, least).unwrap_or(0))
    }
}

impl Policy for KvAware {
    fn route(&mut self, now: SimTime, request: &RouteRequest<'_>, _: &ClusterView<'_>) -> Verdict {
        let longest = self.cached.overlaps(request).longest();
        let worker = match longest.filter(|(_, blocks)| self.counts(request, *blocks)) {
            Some((worker, _)) => worker,
            None => self.least_recently_busy(now),
        };
        self.sent.push_back((now, worker));
        let sent = self.sent_requests.key(worker.index());
        self.sent_requests.set(worker.index(), sent + 1);
        Verdict::send(worker)
    }

    fn overlap_blocks(&self, request: &RouteRequest<'_>) -> Option<Vec<u32>> {
        Some(self.cached.overlaps(request).to_vec(self.workers))
    }

    fn set_parameter(&mut self, key: &str, value: f64) -> Result<(), Invalid> {
        self.params = change(&self.params, key, value)?;
        Ok(())
    }

    fn worker_left(&mut self, worker: WorkerId) {
        self.cached.remove_worker(worker);
        self.sent.retain(|(_, other)| *other != worker);
        self.sent_requests.set(worker.index(), u32::MAX);
    }

    fn worker_joined(&mut self, worker: WorkerId) {
        self.sent_requests.set(worker.index(), 0);
    }

    fn wants_kv_events(&self) -> bool {
        true
    }

    fn hears_kv_on_demand(&self) -> bool {
        true
    }

    fn observe_kv(&mut self, worker: WorkerId, event: &KvEvent) {
        self.cached.apply(worker, event);
    }

    /// Blocks held, where a match counts (taken as a gain); else requests sent in
    /// the last minute, as of the decision before.
    fn explain(&self, request: &RouteRequest<'_>, view: &ClusterView<'_>) -> Vec<CostParts> {
        let overlaps = self.cached.overlaps(request).to_vec(view.workers.len());
        let hit = self.counts(request, overlaps.iter().copied().max().unwrap_or(0));
        let cost = |(at, &overlap): (usize, &u32)| {
            let is_available = view.workers[at].available;
            let sent = if is_available { f64::from(self.sent_requests.key(at)) } else { 0.0 };
            let cost = if hit { -f64::from(overlap) } else { sent };
            let parts = vec![("overlap_blocks", f64::from(overlap)), ("sent_requests", sent)];
            CostParts { worker: WorkerId::at(at), cost, parts }
        };
        overlaps.iter().enumerate().map(cost).collect()
    }
}
