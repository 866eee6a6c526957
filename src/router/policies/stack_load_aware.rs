use super::recent::RecentlySent;
use super::weighed::{Rule, Weighed};
use crate::id::WorkerId;
use crate::request::RouteRequest;
use crate::router::ClusterView;
use crate::router::factory::{Origin, PolicyFactory, Registration};
use crate::router::kv::WorkerLoad;
use crate::router::parameters::{MOST, Parameters, check_range};
use crate::settings::Invalid;
use crate::time::SimTime;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// See `LoadAware`.
pub fn policy() -> Arc<dyn PolicyFactory> {
    let rule = "the share of the prompt that is held, less the load relative to the mean";
    Registration::new("stack_load_aware", rule, |params: &LoadAwareParams, cluster, seed| {
        Weighed::<LoadAware>::new(*params, cluster, seed)
    })
    .follows(
        Origin::new("vLLM production stack", "routers/routing_logic.py, LoadAwareRouter")
            .version("main, PR 1035", "2026-08")
            .without("session keys; LMCache's controller, in whose place KV events tell"),
    )
    .shared()
}

/// Parameters of `LoadAware`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct LoadAwareParams {
    /// Shares of the prompt that a load of twice the mean counts for (`--loadaware-beta`).
    pub loadaware_beta: f64,
}

impl Default for LoadAwareParams {
    /// The stack's.
    fn default() -> Self {
        Self { loadaware_beta: 1.0 }
    }
}

impl Parameters for LoadAwareParams {
    const CHANGEABLE: &'static [&'static str] = &["loadaware_beta"];

    fn check(&self) -> Result<(), Invalid> {
        check_range("loadaware_beta", self.loadaware_beta, 0.0..=MOST)
    }
}

/// The production stack's `loadaware`.
///
/// A worker's score is the share of the prompt that it holds, less `loadaware_beta` times
/// how far its requests in flight are above their mean, over the mean or 1. The highest
/// wins, then the lowest id. If none holds anything: the fewest requests sent in the last
/// minute.
#[derive(Debug)]
struct LoadAware {
    params: LoadAwareParams,
    recent: RecentlySent,
}

/// The share of the prompt that so many tokens are.
fn share(request: &RouteRequest<'_>, held_tokens: u64) -> f64 {
    held_tokens.min(u64::from(request.prompt_tokens)) as f64 / f64::from(request.prompt_tokens)
}

impl Rule for LoadAware {
    type Params = LoadAwareParams;

    fn new(params: LoadAwareParams, workers: u32) -> Self {
        Self { params, recent: RecentlySent::new(workers) }
    }

    fn set(&mut self, params: LoadAwareParams) {
        self.params = params;
    }

    fn own(&self, load: &WorkerLoad) -> f64 {
        f64::from(load.requests)
    }

    fn scale(&self, view: &ClusterView<'_>) -> f64 {
        self.params.loadaware_beta / view.mean_inflight().max(1.0)
    }

    /// With what the mean takes off every worker's cost.
    fn asked(&self, request: &RouteRequest<'_>, view: &ClusterView<'_>, held_tokens: u64) -> f64 {
        -share(request, held_tokens) - self.scale(view) * view.mean_inflight()
    }

    fn cost(
        &self,
        request: &RouteRequest<'_>,
        view: &ClusterView<'_>,
        (worker, load): (WorkerId, &WorkerLoad),
        held_tokens: u64,
    ) -> (f64, u32) {
        let mean = view.mean_inflight();
        let relative = (f64::from(load.requests) - mean) / mean.max(1.0);
        (self.params.loadaware_beta * relative - share(request, held_tokens), worker.0)
    }

    fn where_none_holds(&mut self, now: SimTime) -> Option<WorkerId> {
        Some(self.recent.least(now))
    }

    fn cost_where_none_holds(&self, worker: WorkerId) -> Option<f64> {
        Some(f64::from(self.recent.of(worker)))
    }

    fn sent(&mut self, now: SimTime, worker: WorkerId) {
        self.recent.note(now, worker);
    }

    fn left(&mut self, worker: WorkerId) {
        self.recent.worker_left(worker);
    }

    fn joined(&mut self, worker: WorkerId) {
        self.recent.worker_joined(worker);
    }
}
