use super::worker_at;
use crate::event::{KvEvent, WorkerEvent, WorkerEventKind};
use crate::id::WorkerId;
use crate::request::RouteRequest;
use crate::rng::{self, Stream, Use};
use crate::router::kv::{Bookings, CachedPrefixes};
use crate::router::select::Ties;
use crate::router::spec::PolicySpec;
use crate::router::{ClusterSpec, ClusterView, CostParts, Policy, Verdict};
use crate::time::SimTime;

/// See [`TtftEstimate`].
pub const POLICY: PolicySpec = PolicySpec::new("ttft_estimate", |settings, cluster, seed| {
    Box::new(TtftEstimate::new(settings.prefill_tokens_per_s, cluster, seed))
});

/// The worker with the shortest estimated time to the first token: the time
/// until it has room, the prompts before this one, and this prompt's uncached part.
///
/// Source of the idea: the cache-aware scheduling of Mooncake (Qin et al. 2024,
/// algorithm 1: queue time plus prefill time of what is not cached). The
/// estimate is ours: prompts cost their uncached tokens at a fixed rate; a
/// worker with a full batch frees one place per mean time between its last ends.
#[derive(Debug)]
pub struct TtftEstimate {
    prefill_tokens_per_s: f64,
    cluster: ClusterSpec,
    cached: CachedPrefixes,
    bookings: Bookings,
    ends: Vec<Ends>,
    draws: Stream,
}

/// The pace at which requests end on a worker.
#[derive(Clone, Copy, Debug, Default)]
struct Ends {
    last: Option<SimTime>,
    /// Mean time between ends, the last ones counting most; 0 until two ended.
    mean_gap_s: f64,
}

/// Weight of the newest gap in the mean (assumed).
const NEWEST: f64 = 0.1;

/// An estimate and its addends, in seconds.
#[derive(Clone, Copy, Debug)]
struct Estimate {
    room_s: f64,
    queue_s: f64,
    prefill_s: f64,
}

impl Estimate {
    fn total_s(&self) -> f64 {
        self.room_s + self.queue_s + self.prefill_s
    }
}

impl TtftEstimate {
    /// A policy for `cluster` whose workers compute `prefill_tokens_per_s`;
    /// `seed` decides among equals.
    pub fn new(prefill_tokens_per_s: f64, cluster: &ClusterSpec, seed: u64) -> Self {
        Self {
            prefill_tokens_per_s,
            cluster: *cluster,
            cached: CachedPrefixes::default(),
            bookings: Bookings::new(cluster.workers),
            ends: vec![Ends::default(); cluster.workers as usize],
            draws: rng::stream(seed, Use::Policy, 0, 0),
        }
    }

    fn uncached_tokens(&self, request: &RouteRequest<'_>, overlap_blocks: u32) -> u64 {
        let cached = u64::from(overlap_blocks) * u64::from(self.cluster.block_size);
        u64::from(request.prompt_tokens).saturating_sub(cached)
    }

    fn estimate(&self, request: &RouteRequest<'_>, at: usize, overlap_blocks: u32) -> Estimate {
        let load = self.bookings.loads()[at];
        let beyond_batch = (load.requests + 1).saturating_sub(self.cluster.max_num_seqs);
        let uncached = self.uncached_tokens(request, overlap_blocks);
        Estimate {
            room_s: f64::from(beyond_batch) * self.ends[at].mean_gap_s,
            queue_s: load.prefill_tokens as f64 / self.prefill_tokens_per_s,
            prefill_s: uncached as f64 / self.prefill_tokens_per_s,
        }
    }
}

impl Policy for TtftEstimate {
    fn route(&mut self, _: SimTime, request: &RouteRequest<'_>, view: &ClusterView<'_>) -> Verdict {
        let overlaps = self.cached.overlaps(request, view.workers.len());
        let mut soonest = Ties::default();
        for (at, _) in view.available() {
            let overlap = overlaps[at];
            let estimate = self.estimate(request, at, overlap);
            soonest.offer(at, estimate.total_s(), &mut self.draws);
        }
        let chosen = soonest.chosen();
        let tokens = self.uncached_tokens(request, overlaps[chosen]);
        self.bookings.book(request, worker_at(chosen), tokens);
        Verdict::Send(worker_at(chosen))
    }

    fn observe(&mut self, now: SimTime, event: &WorkerEvent) {
        self.bookings.observe(event);
        if matches!(event.kind, WorkerEventKind::Finished { .. }) {
            let ends = &mut self.ends[event.worker.index()];
            if let Some(last) = ends.last.replace(now) {
                let gap_s = now.since(last).as_secs();
                let old = if ends.mean_gap_s > 0.0 { ends.mean_gap_s } else { gap_s };
                ends.mean_gap_s = old + NEWEST * (gap_s - old);
            }
        }
    }

    fn worker_left(&mut self, worker: WorkerId) {
        self.cached.remove_worker(worker);
        self.bookings.remove_worker(worker);
        self.ends[worker.index()] = Ends::default();
    }

    fn wants_kv_events(&self) -> bool {
        true
    }

    fn observe_kv(&mut self, worker: WorkerId, event: &KvEvent) {
        self.cached.apply(worker, event);
    }

    fn overlap_blocks(&self, request: &RouteRequest<'_>) -> Option<Vec<u32>> {
        Some(self.cached.overlaps(request, self.cluster.workers as usize))
    }

    fn observe_peer(&mut self, request: &RouteRequest<'_>, worker: WorkerId, overlap_blocks: u32) {
        self.bookings.book(request, worker, self.uncached_tokens(request, overlap_blocks));
    }

    fn explain(&self, request: &RouteRequest<'_>, view: &ClusterView<'_>) -> Vec<CostParts> {
        let overlaps = self.cached.overlaps(request, view.workers.len());
        let parts = |(at, &overlap): (usize, &u32)| {
            let estimate = self.estimate(request, at, overlap);
            CostParts {
                worker: worker_at(at),
                cost: estimate.total_s(),
                parts: vec![
                    ("room_s", estimate.room_s),
                    ("queue_s", estimate.queue_s),
                    ("prefill_s", estimate.prefill_s),
                    ("overlap_blocks", f64::from(overlap)),
                ],
            }
        };
        overlaps.iter().enumerate().map(parts).collect()
    }
}
