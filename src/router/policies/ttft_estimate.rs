use crate::event::{KvEvent, WorkerEvent, WorkerEventKind};
use crate::id::WorkerId;
use crate::request::RouteRequest;
use crate::rng::{self, Stream, Use};
use crate::router::factory::{Origin, PolicyFactory, Registration};
use crate::router::kv::{Bookings, CachedPrefixes, WorkerSet};
use crate::router::parameters::{MOST, Parameters, change, check_range};
use crate::router::select::{Bounds, few, lowest};
use crate::router::{ClusterSpec, ClusterView, CostParts, Policy, Verdict};
use crate::settings::Invalid;
use crate::time::SimTime;
use crate::tournament::Tournament;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// See [`TtftEstimate`].
pub fn policy() -> Arc<dyn PolicyFactory> {
    let rule = "the shortest estimated time to first token";
    Registration::new("ttft_estimate", rule, |params: &TtftParams, cluster, seed| {
        TtftEstimate::new(*params, cluster, seed)
    })
    .follows(
        Origin::new("Mooncake (Qin et al.)", "algorithm 1, the idea; the estimate is ours")
            .version("arXiv 2407.00079", "2024-06")
            .without("transfers of KV from other workers"),
    )
    .shared()
}

/// Parameters of [`TtftEstimate`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TtftParams {
    /// Prompt tokens that a worker computes per second (default assumed; take the
    /// model file's rate).
    pub prefill_tokens_per_s: f64,
}

impl Default for TtftParams {
    fn default() -> Self {
        Self { prefill_tokens_per_s: 10_000.0 }
    }
}

impl Parameters for TtftParams {
    const CHANGEABLE: &'static [&'static str] = &["prefill_tokens_per_s"];

    fn check(&self) -> Result<(), Invalid> {
        check_range("prefill_tokens_per_s", self.prefill_tokens_per_s, 1.0..=MOST)
    }
}

/// The worker with the shortest estimated time to the first token: the time
/// until it has room, the prompts before this one, and this prompt's uncached part.
///
/// Source of the idea: the cache-aware scheduling of Mooncake (Qin et al. 2024,
/// algorithm 1: queue time plus prefill time of what is not cached). The
/// estimate is ours: prompts cost their uncached tokens at a fixed rate; a
/// worker with a full batch frees one place per mean time between its last ends.
#[derive(Debug)]
pub struct TtftEstimate {
    params: TtftParams,
    cluster: ClusterSpec,
    cached: CachedPrefixes,
    bookings: Bookings,
    ends: Vec<Ends>,
    absent: WorkerSet,
    /// What every request waits for on each worker, in seconds; for ever where
    /// nothing may be sent.
    waits_s: Tournament<f64>,
    special: WorkerSet,
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
        self.wait_s() + self.prefill_s
    }

    fn wait_s(&self) -> f64 {
        self.room_s + self.queue_s
    }
}

impl TtftEstimate {
    /// A policy for `cluster`; `seed` decides among equals.
    pub fn new(params: TtftParams, cluster: &ClusterSpec, seed: u64) -> Self {
        Self {
            params,
            cluster: cluster.clone(),
            cached: CachedPrefixes::default(),
            bookings: Bookings::new(cluster.workers()),
            ends: vec![Ends::default(); cluster.workers() as usize],
            absent: WorkerSet::default(),
            waits_s: Tournament::new(cluster.workers(), 0.0, f64::INFINITY),
            special: WorkerSet::default(),
            draws: rng::stream(seed, Use::Policy, 0, 0),
        }
    }

    fn uncached_tokens(&self, request: &RouteRequest<'_>, overlap_blocks: u32) -> u64 {
        let cached = u64::from(overlap_blocks) * u64::from(self.cluster.block_size);
        u64::from(request.prompt_tokens).saturating_sub(cached)
    }

    /// For a prompt of which `uncached` tokens are to be computed.
    fn estimate(&self, worker: WorkerId, uncached: u64) -> Estimate {
        let load = self.bookings.loads()[worker.index()];
        let beyond_batch = (load.requests + 1).saturating_sub(self.cluster.of(worker).max_num_seqs);
        Estimate {
            room_s: f64::from(beyond_batch) * self.ends[worker.index()].mean_gap_s,
            queue_s: load.prefill_tokens as f64 / self.params.prefill_tokens_per_s,
            prefill_s: uncached as f64 / self.params.prefill_tokens_per_s,
        }
    }

    /// To be called whenever `worker` comes or goes, or what is known of it has changed.
    fn note_wait(&mut self, worker: WorkerId) {
        let is_absent = self.absent.contains(worker);
        let wait_s = if is_absent { f64::INFINITY } else { self.estimate(worker, 0).wait_s() };
        self.waits_s.set(worker.index(), wait_s);
    }

    fn book(&mut self, request: &RouteRequest<'_>, worker: WorkerId, overlap_blocks: u32) {
        let uncached = self.uncached_tokens(request, overlap_blocks);
        self.bookings.book(request, worker, uncached);
        self.note_wait(worker);
    }
}

impl Policy for TtftEstimate {
    fn route(&mut self, _: SimTime, request: &RouteRequest<'_>, view: &ClusterView<'_>) -> Verdict {
        let overlaps = self.cached.overlaps(request);
        let (mut draws, mut special) = (self.draws.clone(), std::mem::take(&mut self.special));
        special.clear();
        let held = overlaps.split(few(view.workers.len()), &mut special);
        let prefill_s = |overlap_blocks| {
            self.uncached_tokens(request, overlap_blocks) as f64 / self.params.prefill_tokens_per_s
        };
        let bounds = Bounds::of_held(&special, held, 1.0, prefill_s);
        let soonest = lowest(&self.waits_s, bounds, &mut draws, |worker| {
            let uncached = self.uncached_tokens(request, overlaps.of(worker));
            (self.estimate(worker, uncached).total_s(), 0)
        });
        (self.draws, self.special) = (draws, special);
        let worker = WorkerId::at(soonest.expect("a worker is available"));
        self.book(request, worker, overlaps.of(worker));
        Verdict::send(worker)
    }

    fn observe(&mut self, now: SimTime, event: &WorkerEvent) {
        let changed = self.bookings.observe(event);
        if matches!(event.kind, WorkerEventKind::Finished { .. }) {
            let ends = &mut self.ends[event.worker.index()];
            if let Some(last) = ends.last.replace(now) {
                let gap_s = now.since(last).as_secs();
                let old = if ends.mean_gap_s > 0.0 { ends.mean_gap_s } else { gap_s };
                ends.mean_gap_s = old + NEWEST * (gap_s - old);
            }
            self.note_wait(event.worker);
        }
        if let Some(worker) = changed {
            self.note_wait(worker);
        }
    }

    fn set_parameter(&mut self, key: &str, value: f64) -> Result<(), Invalid> {
        self.params = change(&self.params, key, value)?;
        (0..self.ends.len()).for_each(|at| self.note_wait(WorkerId::at(at)));
        Ok(())
    }

    fn worker_left(&mut self, worker: WorkerId) {
        self.cached.remove_worker(worker);
        self.bookings.remove_worker(worker);
        self.ends[worker.index()] = Ends::default();
        self.absent.insert(worker);
        self.note_wait(worker);
    }

    fn worker_joined(&mut self, worker: WorkerId) {
        self.absent.remove(worker);
        self.note_wait(worker);
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

    fn overlap_blocks(&self, request: &RouteRequest<'_>) -> Option<Vec<u32>> {
        Some(self.cached.overlaps(request).to_vec(self.cluster.workers() as usize))
    }

    fn observe_peer(&mut self, request: &RouteRequest<'_>, worker: WorkerId, overlap_blocks: u32) {
        self.book(request, worker, overlap_blocks);
    }

    fn explain(&self, request: &RouteRequest<'_>, view: &ClusterView<'_>) -> Vec<CostParts> {
        let overlaps = self.cached.overlaps(request).to_vec(view.workers.len());
        let parts = |(at, &overlap): (usize, &u32)| {
            let estimate = self.estimate(WorkerId::at(at), self.uncached_tokens(request, overlap));
            CostParts {
                worker: WorkerId::at(at),
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
