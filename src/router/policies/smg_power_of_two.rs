use super::Books;
use super::smg_waits::{WaitParams, Waits};
use crate::event::WorkerEvent;
use crate::id::WorkerId;
use crate::request::RouteRequest;
use crate::rng::{self, Stream, Use};
use crate::router::factory::{Origin, PolicyFactory, Registration};
use crate::router::parameters::Parameters;
use crate::router::select::{Bounds, Ties, lowest, one_of, two_of};
use crate::router::{ClusterSpec, ClusterView, CostParts, Policy, Verdict};
use crate::settings::Invalid;
use crate::time::{SimDuration, SimTime};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// See [`SmgPowerOfTwo`].
pub fn policy() -> Arc<dyn PolicyFactory> {
    let rule = "of two workers drawn the one with the shorter expected wait, or the fewer requests";
    Registration::new("smg_power_of_two", rule, |params: &SmgPowerOfTwoParams, cluster, seed| {
        SmgPowerOfTwo::new(*params, cluster, seed)
    })
    .follows(
        Origin::new("SMG, the Shepherd Model Gateway", "policies/power_of_two.rs, least_load.rs")
            .version("1.13.0", "2026-10-15")
            .without("reported throughput and queued tokens"),
    )
    .shared()
}

/// By what a worker is less loaded than another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LoadMetric {
    /// The expected wait, of two workers drawn.
    #[default]
    ExpectedWait,
    /// Requests in flight, of two workers drawn; the expected wait where they are equal.
    Requests,
    /// The same of all workers: nothing is drawn but equals.
    LeastRequests,
}

/// Parameters of [`SmgPowerOfTwo`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct SmgPowerOfTwoParams {
    /// By what the less loaded worker is found (`--power-of-two-load-metric`).
    pub power_of_two_load_metric: LoadMetric,
    /// Of the expected wait.
    #[serde(flatten)]
    pub waits: WaitParams,
}

impl Parameters for SmgPowerOfTwoParams {
    fn check(&self) -> Result<(), Invalid> {
        self.waits.check()
    }
}

/// SMG's power of two: of two different workers drawn uniformly the less loaded one, by the
/// expected wait or another [`LoadMetric`], a draw if they are equal.
///
/// Workers that are overloaded are not drawn while any other is there; if all are, the
/// fewest requests in flight decide. Decisions of its package with two workers, where the
/// draw decides nothing, are recorded in `src/router/tests/golden`.
#[derive(Debug)]
pub struct SmgPowerOfTwo {
    /// Of all workers, and not of two drawn.
    takes_least: bool,
    waits: Waits,
    draws: Stream,
}

impl SmgPowerOfTwo {
    /// A policy for `cluster`; `seed` decides all draws.
    pub fn new(params: SmgPowerOfTwoParams, cluster: &ClusterSpec, seed: u64) -> Self {
        let draws = rng::stream(seed, Use::Policy, 0, 0);
        let metric = params.power_of_two_load_metric;
        let by_requests = metric != LoadMetric::ExpectedWait;
        let waits = Waits::new(params.waits, by_requests, cluster);
        Self { takes_least: metric == LoadMetric::LeastRequests, waits, draws }
    }

    /// Takes note of the last report.
    pub(in crate::router) fn read_reports(&mut self, view: &ClusterView<'_>) {
        self.waits.read_reports(view);
    }

    /// Two of the workers that may be drawn; one, if there is one.
    fn drawn(&mut self) -> (WorkerId, Option<WorkerId>) {
        let free = self.waits.free();
        let (first, second) = two_of(free.len(), &mut self.draws);
        (free[first], second.map(|at| free[at]))
    }
}

impl Books for SmgPowerOfTwo {
    fn book(&mut self, _: &RouteRequest<'_>, worker: WorkerId) {
        self.waits.sent(worker);
    }
}

impl Policy for SmgPowerOfTwo {
    fn route(&mut self, _: SimTime, request: &RouteRequest<'_>, view: &ClusterView<'_>) -> Verdict {
        self.read_reports(view);
        let worker = if self.waits.are_all_overloaded() {
            one_of(view.least_loaded(), &mut self.draws)
        } else if self.takes_least {
            let shortest = self.waits.shortest();
            let least = lowest(shortest, Bounds::OWN_COST, &mut self.draws, |worker| {
                (shortest.key(worker.index()), 0)
            });
            WorkerId::at(least.expect("a worker is free"))
        } else {
            let (first, second) = self.drawn();
            let mut shorter = Ties::default();
            for worker in [first].into_iter().chain(second) {
                let load = self.waits.shortest().key(worker.index());
                shorter.offer(worker.index(), load, &mut self.draws);
            }
            shorter.chosen_if_any().map_or(first, WorkerId::at)
        };
        self.book(request, worker);
        Verdict::send(worker)
    }

    fn report_period(&self) -> Option<SimDuration> {
        Some(self.waits.report_period())
    }

    fn observe(&mut self, _: SimTime, event: &WorkerEvent) {
        if event.kind.ends_stay() {
            self.waits.ended(event.worker);
        }
    }

    fn observe_peer(&mut self, _: &RouteRequest<'_>, worker: WorkerId, _: u32) {
        self.waits.sent(worker);
    }

    fn worker_left(&mut self, worker: WorkerId) {
        self.waits.worker_left(worker);
    }

    fn worker_joined(&mut self, worker: WorkerId) {
        self.waits.worker_joined(worker);
    }

    /// In a replay of another policy's log.
    fn leave_out(&mut self, worker: WorkerId, is_left_out: bool) {
        self.waits.leave_out(worker, is_left_out);
    }

    /// Of all workers the load, with those that are overloaded behind the others; only two are
    /// drawn and compared.
    fn explain(&self, _: &RouteRequest<'_>, view: &ClusterView<'_>) -> Vec<CostParts> {
        let are_all_overloaded = self.waits.are_all_overloaded();
        let loads = (0..view.workers.len()).map(|at| self.waits.load_of(WorkerId::at(at)));
        let behind = loads.clone().fold(0.0, f64::max) + 1.0;
        let cost = |(at, load): (usize, f64)| {
            let worker = WorkerId::at(at);
            let wait = self.waits.of(worker);
            let inflight = f64::from(view.workers[at].inflight);
            let cost = match (are_all_overloaded, self.waits.is_overloaded(worker)) {
                (true, _) => inflight,
                (false, true) => load + behind,
                (false, false) => load,
            };
            CostParts { worker, cost, parts: vec![("inflight", inflight), ("expected_wait", wait)] }
        };
        loads.enumerate().map(cost).collect()
    }
}
