use super::approximate_prefix::{ApproximatePrefix, PrefixParams};
use crate::event::WorkerEvent;
use crate::id::WorkerId;
use crate::request::RouteRequest;
use crate::rng::{self, Stream, Use};
use crate::router::factory::{Origin, PolicyFactory, Registration};
use crate::router::kv::{Bookings, WorkerSet};
use crate::router::parameters::{MOST, Parameters, change, check_range, check_report_period};
use crate::router::select::{Bounds, few, lowest};
use crate::router::{ClusterSpec, ClusterView, CostParts, Policy, Reported, Verdict, WorkerView};
use crate::settings::Invalid;
use crate::time::{SimDuration, SimTime};
use crate::tournament::Tournament;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// See [`InferenceExtension`].
pub fn policy() -> Arc<dyn PolicyFactory> {
    let rule = "the highest weighted sum of scores: prefix, free KV memory, queue";
    Registration::new("inference_extension", rule, |params: &ScorerParams, cluster, seed| {
        InferenceExtension::new(*params, cluster, seed)
    })
    .follows(
        Origin::new(
            "llm-d router, the Gateway API inference extension's endpoint picker",
            "config/loader/defaults.go, approximateprefix/, kvcacheutilization/, queuedepth/",
        )
        .version("ebab687", "2026-11")
        .without(
            "flow control, LoRA affinity, priorities; other plug-ins are `llmd`'s; until 2026 it \
             matched blocks of any size, at most 256, and remembered 31,250",
        ),
    )
    .shared()
}

/// Parameters of [`InferenceExtension`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ScorerParams {
    /// Weight of the share of the prompt sent there before.
    pub prefix_weight: f64,
    /// Weight of the share of KV memory that is free.
    pub kv_weight: f64,
    /// Weight of the shortness of the queue.
    pub queue_weight: f64,
    /// Of the prefix score.
    #[serde(flatten)]
    pub prefix: PrefixParams,
    /// Time between two reports of a worker's gauges, at least 1 ms.
    pub report_period: SimDuration,
}

impl Default for ScorerParams {
    fn default() -> Self {
        Self {
            prefix_weight: 3.0,
            kv_weight: 2.0,
            queue_weight: 2.0,
            prefix: PrefixParams::default(),
            report_period: SimDuration::from_millis(50),
        }
    }
}

impl Parameters for ScorerParams {
    const CHANGEABLE: &'static [&'static str] = {
        let [most, capacity] = PrefixParams::CHANGEABLE;
        &["prefix_weight", "kv_weight", "queue_weight", most, capacity]
    };

    fn check(&self) -> Result<(), Invalid> {
        check_range("prefix_weight", self.prefix_weight, 0.0..=MOST)?;
        check_range("kv_weight", self.kv_weight, 0.0..=MOST)?;
        check_range("queue_weight", self.queue_weight, 0.0..=MOST)?;
        self.prefix.check()?;
        check_report_period(self.report_period)
    }
}

/// The weighted scorers that llm-d's router, the endpoint picker of the Gateway API
/// inference extension, has where nothing is configured; the highest sum wins, equals are
/// drawn.
///
/// Each scorer gives 0 to 1: *prefix*, the share of the prompt's blocks sent to
/// the worker before (approximate, least recently used forgotten); *KV
/// utilisation*, the free share; *queue*, 1 for the shortest and 0 for the
/// longest. Sources: `approximateprefix/plugin.go`, `scorer/queuedepth/queue.go` and the
/// weights 3:2:2 of `config/loader/defaults.go`. The last two need gauges that
/// workers report, every 50 ms (`--refresh-metrics-interval`); a worker that has
/// not reported yet is judged by what this front end has in flight there.
#[derive(Debug)]
pub struct InferenceExtension {
    params: ScorerParams,
    cluster: ClusterSpec,
    prefix: ApproximatePrefix,
    bookings: Bookings,
    /// What the scorers say that look at no prompt, what that costs (out of reach
    /// where nothing may be sent), and the report that all of it goes by.
    gauge_scores: Vec<[f64; 2]>,
    gauge_costs: Tournament<f64>,
    as_of: Option<SimTime>,
    special: WorkerSet,
    draws: Stream,
}

impl InferenceExtension {
    /// A policy for `cluster`; `seed` decides among equals.
    pub fn new(params: ScorerParams, cluster: &ClusterSpec, seed: u64) -> Self {
        Self {
            params,
            cluster: cluster.clone(),
            prefix: ApproximatePrefix::new(params.prefix, cluster),
            bookings: Bookings::new(cluster.workers()),
            gauge_scores: Vec::new(),
            gauge_costs: Tournament::new(cluster.workers(), 0.0, f64::INFINITY),
            as_of: None,
            special: WorkerSet::default(),
            draws: rng::stream(seed, Use::Policy, 0, 0),
        }
    }

    /// Scores of every worker that no prompt changes: KV utilisation, queue.
    fn score_gauges(&self, view: &ClusterView<'_>) -> Vec<[f64; 2]> {
        let workers = view.workers.len();
        let waiting = |at: usize| {
            let worker = &view.workers[at];
            let beyond_batch = worker.inflight.saturating_sub(self.cluster.limits[at].max_num_seqs);
            worker.reported.map_or(beyond_batch, |reported| reported.waiting)
        };
        let available = || view.available().map(|(at, _)| at);
        let shortest = available().map(waiting).min().unwrap_or(0);
        let longest = available().map(waiting).max().unwrap_or(0);
        let score = |at: usize| {
            let active_blocks = self.bookings.loads()[at].active_blocks as f64;
            let pool = f64::from(self.cluster.limits[at].blocks.max(1));
            let booked = active_blocks / pool;
            let used = |gauges: Reported| f64::from(gauges.used_blocks) / pool;
            let usage = view.workers[at].reported.map_or(booked.min(1.0), used);
            let queue = if longest == shortest {
                1.0
            } else {
                f64::from(longest.saturating_sub(waiting(at))) / f64::from(longest - shortest)
            };
            [1.0 - usage, queue]
        };
        (0..workers).map(score).collect()
    }

    fn sum(&self, scores: &[f64; 3]) -> f64 {
        let weights = [self.params.prefix_weight, self.params.kv_weight, self.params.queue_weight];
        scores.iter().zip(weights).map(|(score, weight)| score * weight).sum()
    }

    /// Takes note of the last report. All workers report at the same time; until
    /// they do, what they are judged by changes with every decision.
    fn read_reports(&mut self, view: &ClusterView<'_>) {
        let reported_at = |worker: &WorkerView| worker.reported.map(|last| last.at);
        let mut reports = view.available().map(|(_, worker)| reported_at(worker));
        let as_of = reports.next().flatten();
        if as_of.is_some() && as_of == self.as_of {
            return;
        }
        self.as_of = as_of.filter(|_| reports.all(|report| report == as_of));
        self.gauge_scores = self.score_gauges(view);
        for (at, &[kv, queue]) in self.gauge_scores.iter().enumerate() {
            let is_available = view.workers[at].available;
            let cost = if is_available { -self.sum(&[0.0, kv, queue]) } else { f64::INFINITY };
            self.gauge_costs.set(at, cost);
        }
    }
}

impl Policy for InferenceExtension {
    fn route(&mut self, _: SimTime, request: &RouteRequest<'_>, view: &ClusterView<'_>) -> Verdict {
        self.read_reports(view);
        let matched = self.prefix.matched(request);
        let (mut draws, mut special) = (self.draws.clone(), std::mem::take(&mut self.special));
        special.clear();
        let held = matched.overlaps.split(few(view.workers.len()), &mut special);
        let bounds = Bounds::of_held(&special, held, 1.0, |blocks| {
            -self.params.prefix_weight * matched.share(blocks)
        });
        let highest = lowest(&self.gauge_costs, bounds, &mut draws, |worker| {
            let [kv, queue] = self.gauge_scores[worker.index()];
            let prefix = matched.share(matched.overlaps.of(worker));
            (-self.sum(&[prefix, kv, queue]), 0)
        });
        (self.draws, self.special) = (draws, special);
        let worker = WorkerId::at(highest.expect("a worker is available"));
        self.prefix.insert(request, worker);
        self.bookings.book(request, worker, 0);
        Verdict::send(worker)
    }

    fn report_period(&self) -> Option<SimDuration> {
        Some(self.params.report_period)
    }

    fn observe(&mut self, _: SimTime, event: &WorkerEvent) {
        _ = self.bookings.observe(event);
    }

    fn set_parameter(&mut self, key: &str, value: f64) -> Result<(), Invalid> {
        self.params = change(&self.params, key, value)?;
        self.prefix.set(self.params.prefix, &self.cluster);
        self.as_of = None;
        Ok(())
    }

    fn worker_left(&mut self, worker: WorkerId) {
        self.prefix.remove_worker(worker);
        self.bookings.remove_worker(worker);
        self.as_of = None;
    }

    fn worker_joined(&mut self, _: WorkerId) {
        self.as_of = None;
    }

    fn observe_peer(&mut self, request: &RouteRequest<'_>, worker: WorkerId, _: u32) {
        self.bookings.book(request, worker, 0);
    }

    fn explain(&self, request: &RouteRequest<'_>, view: &ClusterView<'_>) -> Vec<CostParts> {
        let matched = self.prefix.matched(request);
        let parts = |(at, [kv, queue]): (usize, [f64; 2])| {
            let prefix = matched.share(matched.overlaps.of(WorkerId::at(at)));
            CostParts {
                worker: WorkerId::at(at),
                cost: -self.sum(&[prefix, kv, queue]),
                parts: vec![("prefix", prefix), ("kv_free", kv), ("queue", queue)],
            }
        };
        self.score_gauges(view).into_iter().enumerate().map(parts).collect()
    }
}
