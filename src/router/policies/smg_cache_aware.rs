use super::Books;
use super::smg_waits::{WaitParams, Waits};
use super::tree::PromptTree;
use crate::event::WorkerEvent;
use crate::id::WorkerId;
use crate::request::RouteRequest;
use crate::rng::{self, Stream, Use};
use crate::router::factory::{Origin, PolicyFactory, Registration};
use crate::router::parameters::{MOST, Parameters, change, check_range};
use crate::router::select::{Bounds, Ties, lowest, one_of};
use crate::router::{ClusterSpec, ClusterView, CostParts, Policy, Verdict, WorkerView};
use crate::settings::{Count, Invalid, count};
use crate::time::{SimDuration, SimTime};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// See [`SmgCacheAware`].
pub fn policy() -> Arc<dyn PolicyFactory> {
    let rule = "where the prompt's beginning was sent before, unless that worker is far above the \
                mean; else the shortest expected wait";
    Registration::new("smg_cache_aware", rule, |params: &SmgParams, cluster, seed| {
        SmgCacheAware::new(*params, cluster, seed)
    })
    .follows(
        Origin::new("SMG, the Shepherd Model Gateway", "policies/cache_aware.rs, least_load.rs")
            .version("1.13.0", "2026-10-15")
            .without(
                "KV events, overlap decay, temperature, the hash index, optimistic accounting, \
                 warm-up of thin workers, gates on the spread of KV usage, all off or without \
                 effect over HTTP by default; reported throughput and queued tokens",
            ),
    )
    .shared()
}

/// Parameters of [`SmgCacheAware`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct SmgParams {
    /// Share of the prompt that must match for the match to decide, 0 to 1.
    pub cache_threshold: f64,
    /// A worker is passed by only if it has more than so many requests above the mean, or
    /// above two standard deviations of a Poisson number with that mean and 4 where that is
    /// less.
    #[serde(deserialize_with = "count")]
    #[schemars(with = "Count")]
    pub spill_abs_threshold: u32,
    /// A worker is passed by only if it has more than so many times the mean.
    pub spill_rel_threshold: f64,
    /// Time between two rounds of forgetting.
    pub eviction_interval: SimDuration,
    /// Tokens remembered of all workers together after such a round, divided evenly
    /// (default: its 64 Mi characters at 4 characters a token, assumed).
    #[serde(deserialize_with = "count")]
    #[schemars(with = "Count")]
    pub max_index_tokens: u32,
    /// Of the expected wait.
    #[serde(flatten)]
    pub waits: WaitParams,
}

impl Default for SmgParams {
    /// Those of its command line.
    fn default() -> Self {
        Self {
            cache_threshold: 0.3,
            spill_abs_threshold: 64,
            spill_rel_threshold: 1.5,
            eviction_interval: SimDuration::from_secs(120),
            max_index_tokens: 16 << 20,
            waits: WaitParams::default(),
        }
    }
}

impl Parameters for SmgParams {
    const CHANGEABLE: &'static [&'static str] =
        &["cache_threshold", "spill_abs_threshold", "spill_rel_threshold", "max_index_tokens"];

    fn check(&self) -> Result<(), Invalid> {
        check_range("cache_threshold", self.cache_threshold, 0.0..=MOST)?;
        check_range("spill_rel_threshold", self.spill_rel_threshold, 0.0..=MOST)?;
        let some = !self.eviction_interval.is_zero();
        Invalid::unless(some, "eviction_interval", "0s", "more than no time")?;
        self.waits.check()
    }
}

/// The floor of the margin above the mean (`MIN_ABSOLUTE_MARGIN`).
const LEAST_MARGIN: f64 = 4.0;

/// The cache-aware policy of SMG, which sgl-router became, over HTTP.
///
/// If enough of the prompt was sent somewhere before: of the workers that got the longest
/// beginning, and are not far above the mean load, the one with the shortest expected
/// wait. If all of them are far above: of all workers that are not. Else, also where none of
/// them comes into question: of all.
/// Workers that are overloaded are left out while any other is there; if all are, the fewest
/// requests in flight decide, and nothing is remembered of the request. Equals are drawn.
/// Decisions of its package are recorded in `src/router/tests/golden`, with reports and
/// without.
#[derive(Debug)]
pub struct SmgCacheAware {
    params: SmgParams,
    cluster: ClusterSpec,
    tree: PromptTree,
    waits: Waits,
    next_eviction: SimTime,
    draws: Stream,
}

/// Among whom the shortest wait decides.
#[derive(Debug)]
enum Among {
    /// The holders of the longest match that are not far above the mean.
    Holders(Vec<WorkerId>),
    /// All with at most so many requests, which some have: those not far above the mean.
    Spill(f64),
    /// All that are not overloaded.
    All,
    /// All are overloaded: those with the fewest requests in flight.
    Fewest,
}

impl SmgCacheAware {
    /// A policy for `cluster`; `seed` decides among equals.
    pub fn new(params: SmgParams, cluster: &ClusterSpec, seed: u64) -> Self {
        Self {
            params,
            cluster: cluster.clone(),
            tree: PromptTree::new(cluster.workers()),
            waits: Waits::new(params.waits, false, cluster),
            next_eviction: SimTime::ZERO + params.eviction_interval,
            draws: rng::stream(seed, Use::Policy, 0, 0),
        }
    }

    /// Requests in flight above which a worker is far above the mean of those that are not
    /// overloaded.
    fn most_requests(&self, view: &ClusterView<'_>) -> f64 {
        let mean = self.waits.mean_inflight(view);
        let swing = (2.0 * mean.sqrt()).ceil();
        let margin = f64::from(self.params.spill_abs_threshold).min(swing.max(LEAST_MARGIN));
        (mean * self.params.spill_rel_threshold).max(mean + margin)
    }

    fn among(&self, request: &RouteRequest<'_>, view: &ClusterView<'_>) -> Among {
        if self.waits.are_all_overloaded() {
            return Among::Fewest;
        }
        let longest = self.tree.longest(request);
        let match_rate = longest.share(request, self.cluster.block_size);
        if match_rate <= self.params.cache_threshold || longest.workers.is_empty() {
            return Among::All;
        }
        let mut holders = longest.workers;
        holders.retain(|holder| {
            view.workers[holder.index()].available && !self.waits.is_overloaded(*holder)
        });
        if holders.is_empty() {
            return Among::All;
        }
        let most = self.most_requests(view);
        holders.retain(|holder| f64::from(view.workers[holder.index()].inflight) <= most);
        // One of those that count for the mean is not above it.
        if holders.is_empty() { Among::Spill(most) } else { Among::Holders(holders) }
    }

    /// Takes note of the last report.
    pub(in crate::router) fn read_reports(&mut self, view: &ClusterView<'_>) {
        self.waits.read_reports(view);
    }

    fn forget(&mut self, now: SimTime) {
        if now < self.next_eviction {
            return;
        }
        self.next_eviction = now + self.params.eviction_interval;
        let most_blocks = self.params.max_index_tokens / self.cluster.block_size;
        self.tree.shrink(most_blocks / self.cluster.workers());
    }
}

impl Books for SmgCacheAware {
    fn book(&mut self, request: &RouteRequest<'_>, worker: WorkerId) {
        // Where all are overloaded the policy is not asked.
        if !self.waits.are_all_overloaded() {
            self.tree.insert(request, worker);
        }
        self.waits.sent(worker);
    }
}

impl Policy for SmgCacheAware {
    fn route(
        &mut self,
        now: SimTime,
        request: &RouteRequest<'_>,
        view: &ClusterView<'_>,
    ) -> Verdict {
        self.forget(now);
        self.read_reports(view);
        let among = self.among(request, view);
        let mut draws = self.draws.clone();
        let shortest = match &among {
            Among::Holders(holders) => {
                let mut shortest = Ties::default();
                for holder in holders {
                    shortest.offer(holder.index(), self.waits.of(*holder), &mut draws);
                }
                shortest.chosen_if_any()
            }
            Among::Fewest => Some(one_of(view.least_loaded(), &mut draws).index()),
            Among::Spill(_) | Among::All => {
                let bounds = Bounds::OWN_COST;
                lowest(self.waits.shortest(), bounds, &mut draws, |worker| {
                    let inflight = f64::from(view.workers[worker.index()].inflight);
                    let passed_by = self.waits.is_overloaded(worker)
                        || matches!(among, Among::Spill(most) if inflight > most);
                    (if passed_by { f64::INFINITY } else { self.waits.of(worker) }, 0)
                })
            }
        };
        self.draws = draws;
        let worker = WorkerId::at(shortest.expect("a worker is available"));
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

    fn set_parameter(&mut self, key: &str, value: f64) -> Result<(), Invalid> {
        self.params = change(&self.params, key, value)?;
        Ok(())
    }

    fn worker_left(&mut self, worker: WorkerId) {
        self.tree.worker_left(worker);
        self.waits.worker_left(worker);
    }

    fn worker_joined(&mut self, worker: WorkerId) {
        self.tree.worker_joined(worker);
        self.waits.worker_joined(worker);
    }

    /// In a replay of another policy's log.
    fn leave_out(&mut self, worker: WorkerId, is_left_out: bool) {
        self.waits.leave_out(worker, is_left_out);
    }

    /// The expected wait, as of the last decision, with workers that do not come into
    /// question behind those that do.
    fn explain(&self, request: &RouteRequest<'_>, view: &ClusterView<'_>) -> Vec<CostParts> {
        let among = if view.available_count() > 0 { self.among(request, view) } else { Among::All };
        if let Among::Fewest = among {
            let cost = |(at, worker): (usize, &WorkerView)| CostParts {
                worker: WorkerId::at(at),
                cost: f64::from(worker.inflight),
                parts: vec![("inflight", f64::from(worker.inflight))],
            };
            return view.workers.iter().enumerate().map(cost).collect();
        }
        let waits = (0..view.workers.len()).map(|at| self.waits.of(WorkerId::at(at)));
        let behind = waits.clone().fold(0.0, f64::max) + 1.0;
        let cost = |(at, wait): (usize, f64)| {
            let worker = WorkerId::at(at);
            let inflight = f64::from(view.workers[at].inflight);
            let in_question = match &among {
                Among::Holders(holders) => holders.contains(&worker),
                Among::Spill(most) => inflight <= *most && !self.waits.is_overloaded(worker),
                Among::All | Among::Fewest => !self.waits.is_overloaded(worker),
            };
            let parts = vec![("inflight", inflight), ("expected_wait", wait)];
            CostParts { worker, cost: wait + if in_question { 0.0 } else { behind }, parts }
        };
        waits.enumerate().map(cost).collect()
    }
}
