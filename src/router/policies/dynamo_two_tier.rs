use super::{Books, are_imbalanced, inflight_in};
use crate::event::KvEvent;
use crate::id::WorkerId;
use crate::request::RouteRequest;
use crate::rng::{self, Stream, Use};
use crate::router::factory::{Origin, PolicyFactory, Registration};
use crate::router::kv::{CachedPrefixes, Overlaps};
use crate::router::parameters::{MOST, Parameters, change, check_range};
use crate::router::select::{of_lowest, one_of};
use crate::router::{ClusterSpec, ClusterView, CostParts, Policy, Verdict};
use crate::settings::{Count, Invalid, count};
use crate::time::SimTime;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// See [`DynamoTwoTier`].
pub fn policy() -> Arc<dyn PolicyFactory> {
    let rule =
        "the least loaded of those that hold most of the prompt, unless loads are imbalanced";
    Registration::new("dynamo_two_tier", rule, |params: &TwoTierParams, cluster, seed| {
        DynamoTwoTier::new(*params, cluster, seed)
    })
    .follows(
        Origin::new(
            "NVIDIA Dynamo",
            "crate dynamo-custom-policy-builtin, two_tier_cost_fn.rs, which is cache_aware_zmq of \
             SGLang's experimental sgl-router",
        )
        .version("1.6.1", "2026-11")
        .without("main's adaptive parameters; what kv leaves out of Dynamo's router"),
    )
    .targets_ranks()
    .can_leave_out()
    .shared()
}

/// Parameters of [`DynamoTwoTier`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TwoTierParams {
    /// Share of the prompt that must match for the match to decide, 0 to 1.
    pub cache_threshold: f64,
    /// Loads are imbalanced only if they differ by more than so many requests.
    #[serde(deserialize_with = "count")]
    #[schemars(with = "Count")]
    pub balance_abs_threshold: u32,
    /// Loads are imbalanced only if the highest exceeds the lowest by this factor.
    pub balance_rel_threshold: f64,
}

impl Default for TwoTierParams {
    /// The crate's.
    fn default() -> Self {
        Self { cache_threshold: 0.5, balance_abs_threshold: 32, balance_rel_threshold: 1.1 }
    }
}

impl Parameters for TwoTierParams {
    const CHANGEABLE: &'static [&'static str] =
        &["cache_threshold", "balance_abs_threshold", "balance_rel_threshold"];

    fn check(&self) -> Result<(), Invalid> {
        check_range("cache_threshold", self.cache_threshold, 0.0..=MOST)?;
        check_range("balance_rel_threshold", self.balance_rel_threshold, 0.0..=MOST)
    }
}

/// Dynamo's two-tier cost function: load first, then cache, then load.
///
/// If loads are imbalanced by both thresholds: the worker with the fewest requests in
/// flight. Else, if the largest overlap in GPU memory exceeds a share of the prompt's
/// blocks, the last one begun included: the worker with the fewest requests of those that
/// hold exactly as much. Else: the worker with the fewest requests. The original takes
/// equals in the order of a hash map; we draw. Decisions of the crate are recorded in
/// `src/router/tests/golden`.
#[derive(Debug)]
pub struct DynamoTwoTier {
    params: TwoTierParams,
    block_size: u32,
    cached: CachedPrefixes,
    workers: usize,
    draws: Stream,
}

impl DynamoTwoTier {
    /// A policy for `cluster`; `seed` decides among equals.
    pub fn new(params: TwoTierParams, cluster: &ClusterSpec, seed: u64) -> Self {
        Self {
            params,
            block_size: cluster.block_size,
            cached: CachedPrefixes::default(),
            workers: cluster.workers() as usize,
            draws: rng::stream(seed, Use::Policy, 0, 0),
        }
    }

    /// The workers that hold most, where that decides; `None` if loads do.
    fn matched(&self, request: &RouteRequest<'_>, view: &ClusterView<'_>) -> Option<Vec<WorkerId>> {
        let TwoTierParams { balance_abs_threshold, balance_rel_threshold, .. } = self.params;
        if are_imbalanced(view, balance_abs_threshold, balance_rel_threshold) {
            return None;
        }
        let overlaps = self.cached.overlaps(request);
        let (blocks, holders) = match overlaps.most() {
            (_, holders)
                if holders.iter().any(|holder| !view.workers[holder.index()].available) =>
            {
                most_among(&overlaps, view)
            }
            most => most,
        };
        let request_blocks = request.prompt_tokens.div_ceil(self.block_size);
        let decides = f64::from(blocks) / f64::from(request_blocks) > self.params.cache_threshold;
        decides.then_some(holders)
    }
}

/// The most that a worker holds which can be chosen, and those that hold so much.
fn most_among(overlaps: &Overlaps, view: &ClusterView<'_>) -> (u32, Vec<WorkerId>) {
    let there = view.available().map(|(at, _)| WorkerId::at(at));
    let held: Vec<(WorkerId, u32)> = there.map(|worker| (worker, overlaps.of(worker))).collect();
    let most = held.iter().map(|(_, blocks)| *blocks).max().unwrap_or(0);
    let holders = held.into_iter().filter(|(_, blocks)| *blocks == most && most > 0);
    (most, holders.map(|(worker, _)| worker).collect())
}

impl Books for DynamoTwoTier {
    fn book(&mut self, _: &RouteRequest<'_>, _: WorkerId) {}
}

impl Policy for DynamoTwoTier {
    fn route(&mut self, _: SimTime, request: &RouteRequest<'_>, view: &ClusterView<'_>) -> Verdict {
        let inflight = |worker: WorkerId| view.workers[worker.index()].inflight;
        let worker = match self.matched(request, view) {
            Some(holders) => one_of(&of_lowest(holders, inflight), &mut self.draws),
            None => one_of(view.least_loaded(), &mut self.draws),
        };
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

    /// Requests in flight; where a match decides, of the workers that hold most, with all
    /// others behind them.
    fn explain(&self, request: &RouteRequest<'_>, view: &ClusterView<'_>) -> Vec<CostParts> {
        let overlaps = self.cached.overlaps(request);
        let matched = if view.available_count() > 0 { self.matched(request, view) } else { None };
        let overlap_blocks = |worker| f64::from(overlaps.of(worker));
        inflight_in(view, matched.as_deref())
            .map(|(worker, inflight, cost)| CostParts {
                worker,
                cost,
                parts: vec![("overlap_blocks", overlap_blocks(worker)), ("inflight", inflight)],
            })
            .collect()
    }
}
