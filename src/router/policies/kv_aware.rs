use super::recent::RecentlySent;
use crate::event::KvEvent;
use crate::id::WorkerId;
use crate::request::RouteRequest;
use crate::router::factory::{Origin, PolicyFactory, Registration};
use crate::router::kv::CachedPrefixes;
use crate::router::parameters::{Parameters, change};
use crate::router::{ClusterSpec, ClusterView, CostParts, Policy, Verdict};
use crate::settings::{Count, Invalid, count};
use crate::time::SimTime;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// See [`KvAware`].
pub fn policy() -> Arc<dyn PolicyFactory> {
    let rule = "the worker that holds most of the prompt, if all but a bounded rest is held";
    Registration::new("kv_aware", rule, |params: &KvAwareParams, cluster, _| {
        KvAware::new(*params, cluster)
    })
    .follows(
        Origin::new("vLLM production stack", "routers/routing_logic.py, KvawareRouter")
            .version("main", "2026-11")
            .without("session keys; LMCache's controller, in whose place KV events tell"),
    )
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
    recent: RecentlySent,
    workers: usize,
}

impl KvAware {
    /// A policy for `cluster`.
    pub fn new(params: KvAwareParams, cluster: &ClusterSpec) -> Self {
        Self {
            params,
            block_size: cluster.block_size,
            cached: CachedPrefixes::default(),
            recent: RecentlySent::new(cluster.workers()),
            workers: cluster.workers() as usize,
        }
    }

    /// True if so little is left of the prompt beside `blocks` that a match counts.
    fn counts(&self, request: &RouteRequest<'_>, blocks: u32) -> bool {
        let held = u64::from(blocks) * u64::from(self.block_size);
        let left = u64::from(request.prompt_tokens).saturating_sub(held);
        blocks > 0 && left <= u64::from(self.params.kv_aware_threshold_tokens)
    }
}

impl Policy for KvAware {
    fn route(&mut self, now: SimTime, request: &RouteRequest<'_>, _: &ClusterView<'_>) -> Verdict {
        let longest = self.cached.overlaps(request).longest();
        let worker = match longest.filter(|(_, blocks)| self.counts(request, *blocks)) {
            Some((worker, _)) => worker,
            None => self.recent.least(now),
        };
        self.recent.note(now, worker);
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
        self.recent.worker_left(worker);
    }

    fn worker_joined(&mut self, worker: WorkerId) {
        self.recent.worker_joined(worker);
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
            let sent = if is_available { f64::from(self.recent.of(WorkerId::at(at))) } else { 0.0 };
            let cost = if hit { -f64::from(overlap) } else { sent };
            let parts = vec![("overlap_blocks", f64::from(overlap)), ("sent_requests", sent)];
            CostParts { worker: WorkerId::at(at), cost, parts }
        };
        overlaps.iter().enumerate().map(cost).collect()
    }
}
