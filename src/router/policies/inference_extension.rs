use super::sent::SentPrompts;
use super::worker_at;
use crate::event::WorkerEvent;
use crate::id::WorkerId;
use crate::request::RouteRequest;
use crate::rng::{self, Stream, Use};
use crate::router::kv::Bookings;
use crate::router::select::Ties;
use crate::router::spec::PolicySpec;
use crate::router::{ClusterSpec, ClusterView, CostParts, Policy, Reported, Verdict};
use crate::time::{SimDuration, SimTime};

/// See [`InferenceExtension`].
pub const POLICY: PolicySpec = PolicySpec::new("inference_extension", |settings, cluster, seed| {
    let params = ScorerParams {
        prefix_weight: settings.prefix_weight,
        kv_weight: settings.kv_weight,
        queue_weight: settings.queue_weight,
        max_prefix_blocks: settings.max_prefix_blocks,
        lru_capacity_blocks: settings.lru_capacity_blocks,
        report_period: settings.report_period,
    };
    Box::new(InferenceExtension::new(params, cluster, seed))
});

/// Parameters of [`InferenceExtension`], as in
/// [`RouterSettings`](crate::router::settings::RouterSettings).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScorerParams {
    /// Weight of the share of the prompt sent there before.
    pub prefix_weight: f64,
    /// Weight of the share of KV memory that is free.
    pub kv_weight: f64,
    /// Weight of the shortness of the queue.
    pub queue_weight: f64,
    /// Blocks of a prompt that are matched at most.
    pub max_prefix_blocks: u32,
    /// Blocks remembered per worker.
    pub lru_capacity_blocks: u32,
    /// Time between two reports of a worker's gauges.
    pub report_period: SimDuration,
}

/// The weighted scorers of the Gateway API inference extension, which llm-d's
/// scheduler builds on; the highest sum wins, equals are drawn.
///
/// Each scorer gives 0 to 1: *prefix*, the share of the prompt's blocks sent to
/// the worker before (approximate, least recently used forgotten); *KV
/// utilisation*, the free share; *queue*, 1 for the shortest and 0 for the
/// longest. Sources: `prefix/plugin.go`, `scorer/queue.go` and the default
/// weights 3:2:2 of the chart's `epp-config.yaml`. The last two need gauges that
/// workers report, every 50 ms (`--refresh-metrics-interval`); a worker that has
/// not reported yet is judged by what this front end has in flight there.
#[derive(Debug)]
pub struct InferenceExtension {
    params: ScorerParams,
    cluster: ClusterSpec,
    sent: SentPrompts,
    bookings: Bookings,
    draws: Stream,
}

impl InferenceExtension {
    /// A policy for `cluster`; `seed` decides among equals.
    pub fn new(params: ScorerParams, cluster: &ClusterSpec, seed: u64) -> Self {
        Self {
            params,
            cluster: *cluster,
            sent: SentPrompts::new(cluster.workers),
            bookings: Bookings::new(cluster.workers),
            draws: rng::stream(seed, Use::Policy, 0, 0),
        }
    }

    /// Scores of every worker: prefix, KV utilisation, queue.
    fn scores(&self, request: &RouteRequest<'_>, view: &ClusterView<'_>) -> Vec<[f64; 3]> {
        let workers = view.workers.len();
        let mut matched = vec![0; workers];
        self.sent.overlaps(request.blocks, self.params.max_prefix_blocks, &mut matched);
        let total = request.blocks.len().min(self.params.max_prefix_blocks).max(1);
        let waiting = |at: usize| {
            let worker = &view.workers[at];
            let beyond_batch = worker.inflight.saturating_sub(self.cluster.max_num_seqs);
            worker.reported.map_or(beyond_batch, |reported| reported.waiting)
        };
        let available = || view.available().map(|(at, _)| at);
        let shortest = available().map(waiting).min().unwrap_or(0);
        let longest = available().map(waiting).max().unwrap_or(0);
        let score = |at: usize| {
            let active_blocks = self.bookings.loads()[at].active_blocks as f64;
            let booked = active_blocks / f64::from(self.cluster.blocks_per_worker.max(1));
            let pool = f64::from(self.cluster.blocks_per_worker.max(1));
            let used = |gauges: Reported| f64::from(gauges.used_blocks) / pool;
            let usage = view.workers[at].reported.map_or(booked.min(1.0), used);
            let queue = if longest == shortest {
                1.0
            } else {
                f64::from(longest.saturating_sub(waiting(at))) / f64::from(longest - shortest)
            };
            [f64::from(matched[at]) / f64::from(total), 1.0 - usage, queue]
        };
        (0..workers).map(score).collect()
    }

    fn sum(&self, scores: &[f64; 3]) -> f64 {
        let weights = [self.params.prefix_weight, self.params.kv_weight, self.params.queue_weight];
        scores.iter().zip(weights).map(|(score, weight)| score * weight).sum()
    }
}

impl Policy for InferenceExtension {
    fn route(&mut self, _: SimTime, request: &RouteRequest<'_>, view: &ClusterView<'_>) -> Verdict {
        let scores = self.scores(request, view);
        let mut highest = Ties::default();
        for (at, scores) in scores.iter().enumerate().filter(|(at, _)| view.workers[*at].available)
        {
            highest.offer(at, -self.sum(scores), &mut self.draws);
        }
        let worker = worker_at(highest.chosen());
        self.sent
            .insert(worker, request.blocks.iter().take(self.params.max_prefix_blocks as usize));
        self.sent.shrink(worker, self.params.lru_capacity_blocks);
        self.bookings.book(request, worker, 0);
        Verdict::Send(worker)
    }

    fn report_period(&self) -> Option<SimDuration> {
        Some(self.params.report_period)
    }

    fn observe(&mut self, _: SimTime, event: &WorkerEvent) {
        self.bookings.observe(event);
    }

    fn worker_left(&mut self, worker: WorkerId) {
        self.sent.remove_worker(worker);
        self.bookings.remove_worker(worker);
    }

    fn observe_peer(&mut self, request: &RouteRequest<'_>, worker: WorkerId, _: u32) {
        self.bookings.book(request, worker, 0);
    }

    fn explain(&self, request: &RouteRequest<'_>, view: &ClusterView<'_>) -> Vec<CostParts> {
        let scores = self.scores(request, view);
        let parts = |(at, scores): (usize, &[f64; 3])| CostParts {
            worker: worker_at(at),
            cost: -self.sum(scores),
            parts: vec![("prefix", scores[0]), ("kv_free", scores[1]), ("queue", scores[2])],
        };
        scores.iter().enumerate().map(parts).collect()
    }
}
