use super::active::ActiveTracker;
use super::cost::{Ask, Candidate, Cost, KvParams, cost, uncached_tokens};
use super::index::Index;
use super::path::Path;
use crate::event::{KvEvent, WorkerEvent};
use crate::id::WorkerId;
use crate::request::RouteRequest;
use crate::rng::{self, Stream, Use};
use crate::router::policies::worker_at;
use crate::router::select::{Ties, sample};
use crate::router::shadow::Decider;
use crate::router::{ClusterSpec, ClusterView, CostParts, Policy, Verdict};
use crate::time::SimTime;

/// Dynamo's KV-aware policy in our own code, in the versions 0.9 and 1.6.
///
/// For each request: how much of its prompt every worker holds (from KV events,
/// as late as the feed), what is in flight there (own bookings, exact), the cost
/// of both, the lowest cost or a draw. The choice is booked at once; the first
/// token takes the prompt's tokens off, the end everything.
#[derive(Debug)]
pub struct KvPolicy {
    params: KvParams,
    block_size: u32,
    index: Option<Index>,
    tracker: ActiveTracker,
    draws: Stream,
    /// The last request asked about.
    asked: Asked,
}

/// One request against all workers; kept to spare allocations.
#[derive(Clone, Debug, Default)]
struct Asked {
    prompt: Path,
    overlap_blocks: Vec<u32>,
    shared_blocks: Vec<u32>,
    costs: Vec<f64>,
}

impl KvPolicy {
    /// A policy for `cluster`; `seed` decides ties and draws.
    pub fn new(params: KvParams, cluster: &ClusterSpec, seed: u64) -> Self {
        let workers = cluster.workers as usize;
        Self {
            params,
            block_size: cluster.block_size,
            index: params.needs_index().then(|| Index::new(params.semantics, cluster.workers)),
            tracker: ActiveTracker::new(cluster.workers),
            draws: rng::stream(seed, Use::Policy, 0, 0),
            asked: Asked {
                prompt: Path::default(),
                overlap_blocks: vec![0; workers],
                shared_blocks: vec![0; workers],
                costs: vec![0.0; workers],
            },
        }
    }

    fn look_up(&self, request: &RouteRequest<'_>, asked: &mut Asked) {
        asked.overlap_blocks.fill(0);
        asked.shared_blocks.fill(0);
        asked.prompt = request.blocks.runs().collect();
        if let Some(index) = &self.index {
            index.overlaps(&asked.prompt, &mut asked.overlap_blocks);
        }
        if !self.params.track_active_blocks {
            asked.prompt = Path::default();
        }
        self.tracker.shared_blocks(&asked.prompt, &mut asked.shared_blocks);
    }

    fn ask(&self, request: &RouteRequest<'_>) -> Ask {
        let decays = self.params.overlap_score_credit_decay > 0.0;
        let least = || self.tracker.loads().iter().map(|load| load.prefill_tokens).min();
        Ask {
            prompt_tokens: request.prompt_tokens,
            block_size: self.block_size,
            min_prefill_tokens: if decays { least().unwrap_or(0) } else { 0 },
        }
    }

    fn candidate(&self, asked: &Asked, index: usize) -> Candidate {
        let load = self.tracker.loads()[index];
        Candidate {
            prefill_tokens: load.prefill_tokens,
            active_blocks: load.active_blocks,
            additional_blocks: asked.prompt.len() - asked.shared_blocks[index],
            requests: load.requests,
            overlap_blocks: asked.overlap_blocks[index],
        }
    }

    fn cost(&self, ask: &Ask, asked: &Asked, index: usize) -> Cost {
        cost(&self.params, ask, &self.candidate(asked, index))
    }

    fn pick(&mut self) -> usize {
        let Self { asked, draws, index, params, .. } = self;
        if params.temperature > 0.0 {
            return sample(&asked.costs, params.temperature, draws);
        }
        let mut lowest = Ties::default();
        for (at, (&cost, &overlap)) in asked.costs.iter().zip(&asked.overlap_blocks).enumerate() {
            let size = index.as_ref().map_or(0, |index| index.tree_blocks(worker_at(at), overlap));
            lowest.offer(at, (cost, size), draws);
        }
        lowest.chosen()
    }
}

impl Decider for KvPolicy {
    fn decide(&mut self, _: SimTime, request: &RouteRequest<'_>) -> WorkerId {
        let mut asked = std::mem::take(&mut self.asked);
        self.look_up(request, &mut asked);
        let ask = self.ask(request);
        for index in 0..asked.costs.len() {
            asked.costs[index] = self.cost(&ask, &asked, index).total;
        }
        self.asked = asked;
        worker_at(self.pick())
    }

    fn costs(&self) -> Vec<f64> {
        self.asked.costs.clone()
    }

    fn book(&mut self, _: SimTime, request: &RouteRequest<'_>, worker: WorkerId) {
        let overlap_blocks = self.asked.overlap_blocks[worker.index()];
        let tokens = if self.params.track_prefill_tokens {
            uncached_tokens(&self.ask(request), overlap_blocks)
        } else {
            0
        };
        let reuse = self.params.assume_kv_reuse;
        self.tracker.book(request.id, worker, tokens, &self.asked.prompt, reuse);
    }
}

impl Policy for KvPolicy {
    fn route(&mut self, now: SimTime, request: &RouteRequest<'_>, _: &ClusterView<'_>) -> Verdict {
        let worker = self.decide(now, request);
        self.book(now, request, worker);
        Verdict::Send(worker)
    }

    fn observe(&mut self, _: SimTime, event: &WorkerEvent) {
        self.tracker.observe(event);
    }

    fn wants_kv_events(&self) -> bool {
        self.index.is_some()
    }

    fn observe_kv(&mut self, worker: WorkerId, event: &KvEvent) {
        if let Some(index) = &mut self.index {
            index.apply(worker, event);
        }
    }

    fn overlap_blocks(&self, request: &RouteRequest<'_>) -> Option<Vec<u32>> {
        let mut overlap_blocks = vec![0; self.tracker.loads().len()];
        self.index.as_ref()?.overlaps(&request.blocks.runs().collect(), &mut overlap_blocks);
        Some(overlap_blocks)
    }

    fn observe_peer(&mut self, request: &RouteRequest<'_>, worker: WorkerId, overlap_blocks: u32) {
        let tokens = if self.params.track_prefill_tokens {
            uncached_tokens(&self.ask(request), overlap_blocks)
        } else {
            0
        };
        let prompt = if self.params.track_active_blocks {
            request.blocks.runs().collect()
        } else {
            Path::default()
        };
        let reuse = self.params.assume_kv_reuse;
        self.tracker.book(request.id, worker, tokens, &prompt, reuse);
    }

    fn explain(&self, request: &RouteRequest<'_>, _: &ClusterView<'_>) -> Vec<CostParts> {
        let mut asked = self.asked.clone();
        self.look_up(request, &mut asked);
        let ask = self.ask(request);
        let parts = |index| {
            let Cost { total, prefill, decode, requests } = self.cost(&ask, &asked, index);
            let candidate = self.candidate(&asked, index);
            CostParts {
                worker: worker_at(index),
                cost: total,
                parts: vec![
                    ("prefill", prefill),
                    ("decode", decode),
                    ("requests", requests),
                    ("overlap_blocks", f64::from(candidate.overlap_blocks)),
                    ("prefill_tokens", candidate.prefill_tokens as f64),
                    ("active_blocks", candidate.active_blocks as f64),
                    ("additional_blocks", f64::from(candidate.additional_blocks)),
                ],
            }
        };
        (0..asked.costs.len()).map(parts).collect()
    }
}
