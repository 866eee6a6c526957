use super::Books;
use super::tree::PromptTree;
use crate::event::WorkerEvent;
use crate::id::WorkerId;
use crate::request::RouteRequest;
use crate::rng::{self, Stream, Use};
use crate::router::factory::{Origin, PolicyFactory, Registration};
use crate::router::kv::WorkerSet;
use crate::router::parameters::{MOST, Parameters, change, check_range, check_report_period};
use crate::router::select::{Bounds, Ties, lowest, one_of};
use crate::router::{ClusterSpec, ClusterView, CostParts, Policy, Verdict, WorkerView};
use crate::settings::{Count, Invalid, count};
use crate::time::{SimDuration, SimTime};
use crate::tournament::Tournament;
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
    /// What a request is taken to cost, in prompt tokens: over HTTP no tokens are known.
    #[serde(deserialize_with = "count")]
    #[schemars(with = "Count")]
    pub mean_prefill_tokens: u32,
    /// Tokens per second at which work is taken to be done.
    pub default_throughput: f64,
    /// Seconds that KV memory in use counts for: this many times k / (1 - k).
    pub kv_pressure_weight: f64,
    /// A worker that reports so many waiting requests is left out while another one does not.
    #[serde(deserialize_with = "count")]
    #[schemars(with = "Count")]
    pub overload_waiting_requests: u32,
    /// A worker that reports this share of its KV blocks in use is left out while another
    /// one does not, 0 to 1.
    pub overload_kv_usage: f64,
    /// Time between two reports of a worker's gauges, at least 1 ms.
    pub report_period: SimDuration,
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
            mean_prefill_tokens: 1_024,
            default_throughput: 2_000.0,
            kv_pressure_weight: 0.15,
            overload_waiting_requests: 8,
            overload_kv_usage: 0.8,
            report_period: SimDuration::from_secs(10),
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
        check_range("mean_prefill_tokens", f64::from(self.mean_prefill_tokens), 1.0..=MOST)?;
        check_range("default_throughput", self.default_throughput, 1.0..=MOST)?;
        check_range("kv_pressure_weight", self.kv_pressure_weight, 0.0..=MOST)?;
        let some = self.overload_waiting_requests > 0;
        Invalid::unless(some, "overload_waiting_requests", 0, "at least 1")?;
        check_range("overload_kv_usage", self.overload_kv_usage, 0.0..=1.0)?;
        check_report_period(self.report_period)
    }
}

/// The floor of the margin above the mean (`MIN_ABSOLUTE_MARGIN`).
const LEAST_MARGIN: f64 = 4.0;

/// The most of KV memory in use that counts (`ExpectedWait::new`).
const MOST_USAGE: f64 = 0.999;

/// The cache-aware policy of SMG, which sgl-router became, over HTTP.
///
/// If enough of the prompt was sent somewhere before: of the workers that got the longest
/// beginning, and are not far above the mean load, the one with the shortest expected wait.
/// If all of them are far above: of all workers that are not. Else: of all. The expected
/// wait is the work of the requests that the worker reported and of those sent since, or of
/// those in flight if they are more, at a fixed rate, and a term that grows with its KV
/// memory in use. Until workers report, requests in flight count. Workers that report a
/// long queue or little free KV memory are left out while any other is there; if all do, the
/// fewest requests in flight decide. Equals are drawn. Decisions of its package are recorded
/// in `src/router/tests/golden`, with reports and without.
#[derive(Debug)]
pub struct SmgCacheAware {
    params: SmgParams,
    cluster: ClusterSpec,
    tree: PromptTree,
    loads: Vec<Load>,
    absent: WorkerSet,
    /// The expected wait of each worker; out of reach for those that are absent.
    waits: Tournament<f64>,
    /// Workers that are overloaded, and the requests in flight there.
    overloaded: WorkerSet,
    overloaded_inflight: u64,
    as_of: Option<SimTime>,
    next_eviction: SimTime,
    draws: Stream,
}

/// What is known of one worker.
#[derive(Clone, Copy, Debug, Default)]
struct Load {
    inflight: u32,
    /// Requests that it reported, and those that it was sent since; `None` until then.
    counted: Option<u32>,
    kv_wait_s: f64,
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
            loads: vec![Load::default(); cluster.workers() as usize],
            absent: WorkerSet::default(),
            waits: Tournament::new(cluster.workers(), 0.0, f64::INFINITY),
            overloaded: WorkerSet::default(),
            overloaded_inflight: 0,
            as_of: None,
            next_eviction: SimTime::ZERO + params.eviction_interval,
            draws: rng::stream(seed, Use::Policy, 0, 0),
        }
    }

    /// Requests in flight above which a worker is far above the mean of those that are not
    /// overloaded.
    fn most_requests(&self, view: &ClusterView<'_>) -> f64 {
        let others = view.available_count() - self.overloaded.len();
        let inflight = view.total_inflight().saturating_sub(self.overloaded_inflight);
        let mean = inflight as f64 / others.max(1) as f64;
        let swing = (2.0 * mean.sqrt()).ceil();
        let margin = f64::from(self.params.spill_abs_threshold).min(swing.max(LEAST_MARGIN));
        (mean * self.params.spill_rel_threshold).max(mean + margin)
    }

    fn among(&self, request: &RouteRequest<'_>, view: &ClusterView<'_>) -> Among {
        if self.overloaded.len() == view.available_count() {
            return Among::Fewest;
        }
        let longest = self.tree.longest(request);
        let match_rate = longest.share(request, self.cluster.block_size);
        if match_rate <= self.params.cache_threshold || longest.workers.is_empty() {
            return Among::All;
        }
        let mut holders = longest.workers;
        let most = self.most_requests(view);
        holders.retain(|holder| {
            let inflight = f64::from(view.workers[holder.index()].inflight);
            inflight <= most && !self.overloaded.contains(*holder)
        });
        // One of those that count for the mean is not above it.
        if holders.is_empty() { Among::Spill(most) } else { Among::Holders(holders) }
    }

    /// Seconds once workers have reported, requests before.
    fn wait(&self, worker: WorkerId) -> f64 {
        let Load { inflight, counted, kv_wait_s } = self.loads[worker.index()];
        let Some(counted) = counted else { return f64::from(inflight) };
        let tokens = f64::from(counted.max(inflight)) * f64::from(self.params.mean_prefill_tokens);
        tokens / self.params.default_throughput + kv_wait_s
    }

    /// To be called whenever `worker` comes or goes, or what is known of it has changed.
    fn note_wait(&mut self, worker: WorkerId) {
        let is_out = self.absent.contains(worker) || self.overloaded.contains(worker);
        let wait = if is_out { f64::INFINITY } else { self.wait(worker) };
        self.waits.set(worker.index(), wait);
    }

    /// Takes note of the last report. All workers report at the same time; one that has not
    /// yet, as it joined since, counts as one that reported nothing.
    pub(in crate::router) fn read_reports(&mut self, view: &ClusterView<'_>) {
        let reported_at = |(_, worker): (_, &WorkerView)| worker.reported.map(|last| last.at);
        let as_of = view.available().find_map(reported_at);
        if as_of.is_none() || as_of == self.as_of {
            return;
        }
        self.as_of = as_of;
        for (at, worker) in view.available() {
            let blocks = self.cluster.limits[at].blocks.max(1);
            let load = &mut self.loads[at];
            let (requests, used_blocks) = match worker.reported {
                Some(last) => (last.running + last.waiting, last.used_blocks),
                None => (0, 0),
            };
            let usage = (f64::from(used_blocks) / f64::from(blocks)).min(MOST_USAGE);
            load.counted = Some(requests);
            load.kv_wait_s = self.params.kv_pressure_weight * usage / (1.0 - usage);
            let waiting = worker.reported.map_or(0, |last| last.waiting);
            let is_overloaded = waiting >= self.params.overload_waiting_requests
                || f64::from(used_blocks) >= self.params.overload_kv_usage * f64::from(blocks);
            self.mark(WorkerId::at(at), is_overloaded);
            self.note_wait(WorkerId::at(at));
        }
    }

    /// `worker` is overloaded from now on, or not.
    fn mark(&mut self, worker: WorkerId, is_overloaded: bool) {
        let inflight = u64::from(self.loads[worker.index()].inflight);
        match (self.overloaded.contains(worker), is_overloaded) {
            (false, true) => {
                self.overloaded.insert(worker);
                self.overloaded_inflight += inflight;
            }
            (true, false) => {
                self.overloaded.remove(worker);
                self.overloaded_inflight -= inflight;
            }
            _ => {}
        }
    }

    fn forget(&mut self, now: SimTime) {
        if now < self.next_eviction {
            return;
        }
        self.next_eviction = now + self.params.eviction_interval;
        let most_blocks = self.params.max_index_tokens / self.cluster.block_size;
        self.tree.shrink(most_blocks / self.cluster.workers());
    }

    fn took(&mut self, worker: WorkerId) {
        let load = &mut self.loads[worker.index()];
        load.inflight += 1;
        load.counted = load.counted.map(|counted| counted + 1);
        self.overloaded_inflight += u64::from(self.overloaded.contains(worker));
        self.note_wait(worker);
    }
}

impl Books for SmgCacheAware {
    fn book(&mut self, request: &RouteRequest<'_>, worker: WorkerId) {
        self.tree.insert(request, worker);
        self.took(worker);
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
                    shortest.offer(holder.index(), self.wait(*holder), &mut draws);
                }
                shortest.chosen_if_any()
            }
            Among::Fewest => Some(one_of(view.least_loaded(), &mut draws).index()),
            Among::Spill(_) | Among::All => {
                let bounds = Bounds { special: &[], base: 0.0, gain: 0.0, scale: 1.0 };
                lowest(&self.waits, bounds, &mut draws, |worker| {
                    let inflight = f64::from(view.workers[worker.index()].inflight);
                    let passed_by = self.overloaded.contains(worker)
                        || matches!(among, Among::Spill(most) if inflight > most);
                    (if passed_by { f64::INFINITY } else { self.wait(worker) }, 0)
                })
            }
        };
        self.draws = draws;
        let worker = WorkerId::at(shortest.expect("a worker is available"));
        self.book(request, worker);
        Verdict::send(worker)
    }

    fn report_period(&self) -> Option<SimDuration> {
        Some(self.params.report_period)
    }

    fn observe(&mut self, _: SimTime, event: &WorkerEvent) {
        if event.kind.ends_stay() {
            let load = &mut self.loads[event.worker.index()];
            // None of a worker that has come back since.
            let had = load.inflight;
            load.inflight = had.saturating_sub(1);
            if self.overloaded.contains(event.worker) {
                self.overloaded_inflight -= u64::from(had.min(1));
            }
            self.note_wait(event.worker);
        }
    }

    fn observe_peer(&mut self, _: &RouteRequest<'_>, worker: WorkerId, _: u32) {
        self.took(worker);
    }

    fn set_parameter(&mut self, key: &str, value: f64) -> Result<(), Invalid> {
        self.params = change(&self.params, key, value)?;
        Ok(())
    }

    fn worker_left(&mut self, worker: WorkerId) {
        self.tree.worker_left(worker);
        self.mark(worker, false);
        self.loads[worker.index()] = Load::default();
        self.absent.insert(worker);
        self.note_wait(worker);
    }

    fn worker_joined(&mut self, worker: WorkerId) {
        self.tree.worker_joined(worker);
        self.absent.remove(worker);
        self.loads[worker.index()].counted = self.as_of.map(|_| 0);
        self.note_wait(worker);
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
        let waits = (0..view.workers.len()).map(|at| self.wait(WorkerId::at(at)));
        let behind = waits.clone().fold(0.0, f64::max) + 1.0;
        let cost = |(at, wait): (usize, f64)| {
            let worker = WorkerId::at(at);
            let inflight = f64::from(view.workers[at].inflight);
            let in_question = match &among {
                Among::Holders(holders) => holders.contains(&worker),
                Among::Spill(most) => inflight <= *most && !self.overloaded.contains(worker),
                Among::All | Among::Fewest => !self.overloaded.contains(worker),
            };
            let parts = vec![("inflight", inflight), ("expected_wait", wait)];
            CostParts { worker, cost: wait + if in_question { 0.0 } else { behind }, parts }
        };
        waits.enumerate().map(cost).collect()
    }
}
