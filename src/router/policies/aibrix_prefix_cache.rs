use super::Books;
use super::sent::SentPrompts;
use crate::event::WorkerEvent;
use crate::id::WorkerId;
use crate::request::RouteRequest;
use crate::rng::{self, Stream, Use};
use crate::router::factory::{Origin, PolicyFactory, Registration};
use crate::router::kv::WorkerSet;
use crate::router::parameters::{MOST, Parameters, change, check_range};
use crate::router::select::{of_lowest, one_of};
use crate::router::{ClusterSpec, ClusterView, CostParts, Policy, Verdict};
use crate::settings::{Count, Invalid, count};
use crate::time::SimTime;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::sync::Arc;

/// See [`AibrixPrefixCache`].
pub fn policy() -> Arc<dyn PolicyFactory> {
    let rule = "the longest match of those not far above the mean load, unless loads spread";
    Registration::new("aibrix_prefix_cache", rule, |params: &AibrixParams, cluster, seed| {
        AibrixPrefixCache::new(*params, cluster, seed)
    })
    .follows(
        Origin::new(
            "AIBrix",
            "pkg/plugins/gateway/algorithms/prefix_cache.go, with the values of its chart",
        )
        .version("429c45e", "2025")
        .without(
            "the limits of its table (200,000 blocks, 20 minutes); KV event sync; blocks of 128 \
             bytes, in whose place are the router's; the gate at twice the mean of later versions",
        ),
    )
    .shared()
}

/// Parameters of [`AibrixPrefixCache`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct AibrixParams {
    /// Loads that differ by more requests are imbalanced: the least loaded worker takes the
    /// prompt (`AIBRIX_PREFIX_CACHE_POD_RUNNING_REQUEST_IMBALANCE_ABS_COUNT`).
    #[serde(deserialize_with = "count")]
    #[schemars(with = "Count")]
    pub imbalance_abs_count: u32,
    /// Standard deviations that a worker with a match may be above the mean load
    /// (`AIBRIX_PREFIX_CACHE_STANDARD_DEVIATION_FACTOR`).
    pub standard_deviation_factor: f64,
}

impl Default for AibrixParams {
    /// Those of its chart; the code's own are 8 and 1.
    fn default() -> Self {
        Self { imbalance_abs_count: 16, standard_deviation_factor: 2.0 }
    }
}

impl Parameters for AibrixParams {
    const CHANGEABLE: &'static [&'static str] =
        &["imbalance_abs_count", "standard_deviation_factor"];

    fn check(&self) -> Result<(), Invalid> {
        check_range("standard_deviation_factor", self.standard_deviation_factor, 0.0..=MOST)
    }
}

/// AIBrix's `prefix-cache`.
///
/// If loads differ by more than a number of requests: the worker with the fewest. Else, of
/// the workers that got some of the prompt before and whose requests in flight are not far
/// above the mean: the highest share of the prompt in whole percent, then the fewest
/// requests. Else: the fewest requests of all. Equals are drawn.
#[derive(Debug)]
pub struct AibrixPrefixCache {
    params: AibrixParams,
    sent: SentPrompts,
    loads: Loads,
    draws: Stream,
}

/// Requests in flight by worker, and the sum of their squares.
#[derive(Debug)]
struct Loads {
    requests: Vec<u32>,
    squares: u64,
}

impl Loads {
    fn set(&mut self, worker: WorkerId, requests: u32) {
        let square = |requests: u32| u64::from(requests).pow(2);
        let before = std::mem::replace(&mut self.requests[worker.index()], requests);
        self.squares = self.squares - square(before) + square(requests);
    }

    fn of(&self, worker: WorkerId) -> u32 {
        self.requests[worker.index()]
    }
}

impl AibrixPrefixCache {
    /// A policy for `cluster`; `seed` decides among equals.
    pub fn new(params: AibrixParams, cluster: &ClusterSpec, seed: u64) -> Self {
        let requests = vec![0; cluster.workers() as usize];
        Self {
            params,
            sent: SentPrompts::new(cluster.workers()),
            loads: Loads { requests, squares: 0 },
            draws: rng::stream(seed, Use::Policy, 0, 0),
        }
    }

    /// Requests in flight up to which a worker with a match may take the prompt.
    fn most_requests(&self, view: &ClusterView<'_>) -> f64 {
        let workers = view.available_count() as f64;
        let mean = view.mean_inflight();
        let variance = (self.loads.squares as f64 / workers - mean * mean).max(0.0);
        mean + self.params.standard_deviation_factor * variance.sqrt()
    }

    /// The matched workers that may take the prompt, with whole percent of it; none if
    /// loads are imbalanced.
    fn matched(&self, request: &RouteRequest<'_>, view: &ClusterView<'_>) -> Vec<(WorkerId, u32)> {
        if view.most_inflight() - view.least_inflight() > self.params.imbalance_abs_count {
            return Vec::new();
        }
        let overlaps = self.sent.overlaps(request.blocks.iter());
        let most_requests = self.most_requests(view);
        let mut holders = WorkerSet::default();
        _ = overlaps.split(usize::MAX, &mut holders);
        let may =
            |worker: &WorkerId| f64::from(view.workers[worker.index()].inflight) <= most_requests;
        let percent = |worker| 100 * overlaps.of(worker) / request.blocks.len().max(1);
        holders.iter().filter(may).map(|worker| (worker, percent(worker))).collect()
    }
}

impl Books for AibrixPrefixCache {
    fn book(&mut self, request: &RouteRequest<'_>, worker: WorkerId) {
        self.sent.insert(worker, request.blocks.iter());
        self.loads.set(worker, self.loads.of(worker) + 1);
    }
}

impl Policy for AibrixPrefixCache {
    fn route(&mut self, _: SimTime, request: &RouteRequest<'_>, view: &ClusterView<'_>) -> Verdict {
        let matched = self.matched(request, view);
        let inflight = |worker: WorkerId| view.workers[worker.index()].inflight;
        let percent = matched.iter().map(|(_, percent)| *percent).max();
        let worker = match percent {
            Some(most) => {
                let longest = matched.iter().filter(|(_, percent)| *percent == most);
                let longest = longest.map(|(worker, _)| *worker);
                one_of(&of_lowest(longest, inflight), &mut self.draws)
            }
            None => one_of(view.least_loaded(), &mut self.draws),
        };
        self.book(request, worker);
        Verdict::send(worker)
    }

    fn observe(&mut self, _: SimTime, event: &WorkerEvent) {
        if event.kind.ends_stay() {
            // None of a worker that has come back since.
            let left = self.loads.of(event.worker).saturating_sub(1);
            self.loads.set(event.worker, left);
        }
    }

    fn observe_peer(&mut self, _: &RouteRequest<'_>, worker: WorkerId, _: u32) {
        self.loads.set(worker, self.loads.of(worker) + 1);
    }

    fn set_parameter(&mut self, key: &str, value: f64) -> Result<(), Invalid> {
        self.params = change(&self.params, key, value)?;
        Ok(())
    }

    fn worker_left(&mut self, worker: WorkerId) {
        self.sent.remove_worker(worker);
        self.loads.set(worker, 0);
    }

    /// The place of each worker among all, the best first; equals have the same.
    fn explain(&self, request: &RouteRequest<'_>, view: &ClusterView<'_>) -> Vec<CostParts> {
        let matched =
            if view.available_count() > 0 { self.matched(request, view) } else { Vec::new() };
        let percent = |worker: WorkerId| {
            matched.iter().find(|(holder, _)| *holder == worker).map(|(_, percent)| *percent)
        };
        let key = |at: usize| {
            let percent = percent(WorkerId::at(at)).map_or(0, |percent| percent + 1);
            (Reverse(percent), view.workers[at].inflight)
        };
        let mut keys: Vec<_> = (0..view.workers.len()).map(key).collect();
        keys.sort_unstable();
        keys.dedup();
        let cost = |at: usize| {
            let place = keys.partition_point(|other| *other < key(at));
            let percent = percent(WorkerId::at(at)).unwrap_or(0);
            let inflight = f64::from(view.workers[at].inflight);
            let parts = vec![("matched_percent", f64::from(percent)), ("inflight", inflight)];
            CostParts { worker: WorkerId::at(at), cost: place as f64, parts }
        };
        (0..view.workers.len()).map(cost).collect()
    }
}
