use super::active::{ActiveTracker, Order, Outputs};
use super::approximate::Approximate;
use super::below::{BlocksBelow, LowerIndex};
use super::cost::{Ask, Candidate, Cost, cached_tokens, cost, totals, uncached_tokens};
use super::index::Index;
use super::params::{KvParams, Semantics};
use super::path::Path;
use super::stale::Marks;
use super::worker_set::WorkerSet;
use crate::event::{KvEvent, WorkerEvent};
use crate::id::{RequestId, WorkerId};
use crate::request::RouteRequest;
use crate::rng::{self, Stream, Use};
use crate::router::decider::Decider;
use crate::router::policies::worker_at;
use crate::router::select::{Ties, sample};
use crate::router::{ClusterSpec, ClusterView, CostParts, Policy, Verdict};
use crate::time::SimTime;

/// Dynamo's KV-aware policy in our own code, in the versions 0.9 and 1.6.
///
/// For each request: how much of its prompt every worker holds (from KV events,
/// as late as the feed, or guessed from what was sent), what is in flight there
/// (own bookings, exact), the cost of both, the lowest cost or a draw. The choice
/// is booked at once; the first token takes the prompt's tokens off, the end
/// everything.
#[derive(Debug)]
pub struct KvPolicy {
    params: KvParams,
    block_size: u32,
    blocks_per_worker: u32,
    index: Option<Index>,
    lower: LowerIndex,
    approximate: Option<Approximate>,
    tracker: ActiveTracker,
    marks: Option<Marks>,
    /// Workers that must not be chosen.
    absent: WorkerSet,
    draws: Stream,
    nothing: Path,
    scratch: Scratch,
}

/// A request with its overlaps.
#[derive(Clone, Debug)]
pub struct Asked {
    request: RequestId,
    prompt_tokens: u32,
    prompt: Path,
    /// Blocks of the prompt that each worker is believed to hold.
    overlap_blocks: Vec<u32>,
    /// Behind them, those in tiers below; empty if nobody has any.
    below: Vec<BlocksBelow>,
}

impl Asked {
    /// What the worker at `index` holds in lower tiers.
    fn below(&self, index: usize) -> BlocksBelow {
        self.below.get(index).copied().unwrap_or_default()
    }
}

/// Lists of one entry per worker, kept to spare allocations.
#[derive(Debug, Default)]
struct Scratch {
    overlap_blocks: Vec<u32>,
    shared_blocks: Vec<u32>,
    costs: Vec<f64>,
    workers: Vec<usize>,
}

impl KvPolicy {
    /// A policy for `cluster`; `seed` decides ties and draws.
    pub fn new(params: KvParams, cluster: &ClusterSpec, seed: u64) -> Self {
        let KvParams { semantics, .. } = params;
        let (block_size, workers) = (cluster.block_size, cluster.workers);
        let mut tracker = ActiveTracker::new(workers);
        if params.track_output_blocks {
            let expected_tokens = params.expected_output_tokens;
            tracker = tracker.with_outputs(Outputs { block_size, expected_tokens });
        }
        Self {
            params,
            block_size,
            blocks_per_worker: cluster.blocks_per_worker,
            lower: LowerIndex::default(),
            index: params.needs_index().then(|| Index::new(semantics, workers)),
            approximate: params
                .approximate
                .filter(|_| params.needs_index())
                .map(|retention| Approximate::new(semantics, retention)),
            tracker,
            marks: (semantics == Semantics::V0_9).then(|| Marks::new(workers)),
            absent: WorkerSet::default(),
            draws: rng::stream(seed, Use::Policy, 0, 0),
            nothing: Path::default(),
            scratch: Scratch::default(),
        }
    }

    fn workers(&self) -> usize {
        self.tracker.loads().len()
    }

    fn find_overlaps(&self, prompt: &Path, overlap_blocks: &mut Vec<u32>) {
        overlap_blocks.clear();
        overlap_blocks.resize(self.workers(), 0);
        if let Some(index) = &self.index {
            index.overlaps(prompt, overlap_blocks);
        }
    }

    /// What of the prompt counts as blocks in flight.
    fn counted<'a>(&'a self, asked: &'a Asked) -> &'a Path {
        if self.params.track_active_blocks { &asked.prompt } else { &self.nothing }
    }

    fn find_shared(&self, asked: &Asked, shared_blocks: &mut Vec<u32>) {
        shared_blocks.clear();
        shared_blocks.resize(self.workers(), 0);
        self.tracker.shared_blocks(self.counted(asked), shared_blocks);
    }

    fn ask(&self, asked: &Asked) -> Ask {
        let decays = self.params.overlap_score_credit_decay > 0.0;
        Ask {
            prompt_tokens: asked.prompt_tokens,
            block_size: self.block_size,
            min_prefill_tokens: if decays { self.least_prefill_tokens() } else { 0 },
        }
    }

    /// The workers as `asked` sees them, in order of id.
    fn candidates<'a>(
        &'a self,
        asked: &'a Asked,
        shared_blocks: &'a [u32],
    ) -> impl Iterator<Item = Candidate> + 'a {
        let counted = self.counted(asked).len();
        let workers = self.tracker.loads().iter().zip(&asked.overlap_blocks).zip(shared_blocks);
        workers.enumerate().map(move |(at, ((load, &overlap_blocks), shared_blocks))| Candidate {
            prefill_tokens: load.prefill_tokens,
            active_blocks: load.active_blocks,
            additional_blocks: counted - shared_blocks,
            requests: load.requests,
            overlap_blocks,
            below: asked.below(at),
        })
    }

    /// Counts `asked` as in flight on `worker`.
    fn add(&mut self, asked: &Asked, worker: WorkerId) {
        let (ask, at) = (self.ask(asked), worker.index());
        let cached = cached_tokens(&self.params, &ask, asked.overlap_blocks[at], asked.below(at));
        let uncached = u64::from(asked.prompt_tokens).saturating_sub(cached);
        let prompt = if self.params.track_active_blocks { &asked.prompt } else { &self.nothing };
        let order = Order {
            request: asked.request,
            prompt_tokens: asked.prompt_tokens,
            prefill_tokens: if self.params.track_prefill_tokens { uncached } else { 0 },
            prompt,
            shared: self.params.assume_kv_reuse,
        };
        self.tracker.book(worker, &order);
    }

    fn is_available(&self, index: usize) -> bool {
        self.absent.is_empty() || !self.absent.contains(worker_at(index))
    }

    fn overloaded(&self, index: usize) -> bool {
        self.params.overload.holds(&self.tracker.loads()[index], self.blocks_per_worker)
    }

    /// The worker of the lowest cost, or a draw, among all that may be chosen.
    fn pick(&mut self, asked: &Asked) -> Option<WorkerId> {
        let mut scratch = std::mem::take(&mut self.scratch);
        let mut draws = self.draws.clone();
        let Scratch { shared_blocks, costs, workers, .. } = &mut scratch;
        self.find_shared(asked, shared_blocks);
        costs.clear();
        totals(&self.params, &self.ask(asked), self.candidates(asked, shared_blocks), costs);
        // 0.9 turns away if all are overloaded, and else steers nobody around.
        let KvParams { semantics, temperature, .. } = self.params;
        let steers = self.params.overload.is_on() && semantics == Semantics::V1_6;
        let may_be = |at: usize| !(steers && self.overloaded(at)) && self.is_available(at);
        let chosen = if temperature > 0.0 {
            workers.clear();
            workers.extend((0..costs.len()).filter(|&at| may_be(at)));
            let mut at = 0..;
            costs.retain(|_| at.next().is_some_and(may_be));
            (!workers.is_empty()).then(|| workers[sample(costs, temperature, &mut draws)])
        } else if let Some(index) = self.index.as_ref().filter(|_| semantics == Semantics::V0_9) {
            let mut lowest = Ties::default();
            for (at, (&cost, &overlap)) in costs.iter().zip(&asked.overlap_blocks).enumerate() {
                if !self.is_available(at) {
                    continue;
                }
                lowest.offer(at, (cost, index.tree_blocks(worker_at(at), overlap)), &mut draws);
            }
            lowest.chosen_if_any()
        } else {
            let mut lowest = Ties::default();
            for (at, &cost) in costs.iter().enumerate() {
                if may_be(at) {
                    lowest.offer(at, cost, &mut draws);
                }
            }
            lowest.chosen_if_any()
        };
        (self.scratch, self.draws) = (scratch, draws);
        chosen.map(worker_at)
    }
}

impl Decider for KvPolicy {
    type Asked = Asked;

    fn look_up(&mut self, now: SimTime, request: &RouteRequest<'_>) -> Asked {
        let mut asked = Asked {
            request: request.id,
            prompt_tokens: request.prompt_tokens,
            prompt: request.blocks.runs().collect(),
            overlap_blocks: std::mem::take(&mut self.scratch.overlap_blocks),
            below: Vec::new(),
        };
        self.look_again(now, &mut asked);
        asked
    }

    fn look_again(&mut self, now: SimTime, asked: &mut Asked) {
        if let (Some(approximate), Some(index)) = (&mut self.approximate, &mut self.index) {
            approximate.expire(now, index);
        }
        self.find_overlaps(&asked.prompt, &mut asked.overlap_blocks);
        asked.below = self.lower.after_each(&asked.prompt, &asked.overlap_blocks);
    }

    fn least_uncached_tokens(&self, asked: &Asked) -> u64 {
        let blocks = |(at, overlap): (usize, &u32)| {
            let below = asked.below(at);
            overlap + below.host + below.disk
        };
        let most = asked.overlap_blocks.iter().enumerate().map(blocks).max().unwrap_or(0);
        uncached_tokens(&self.ask(asked), most)
    }

    fn choose(&mut self, asked: &Asked) -> Option<WorkerId> {
        let all_overloaded =
            || (0..self.workers()).all(|at| self.overloaded(at) || !self.is_available(at));
        if self.params.overload.is_on() && all_overloaded() {
            return None;
        }
        self.pick(asked)
    }

    fn costs(&self, asked: &Asked) -> Vec<f64> {
        let mut shared_blocks = Vec::new();
        self.find_shared(asked, &mut shared_blocks);
        let mut costs = Vec::new();
        totals(&self.params, &self.ask(asked), self.candidates(asked, &shared_blocks), &mut costs);
        for worker in self.absent.iter() {
            costs[worker.index()] = f64::INFINITY;
        }
        costs
    }

    fn book(&mut self, now: SimTime, asked: Asked, worker: WorkerId) {
        if let Some(marks) = &mut self.marks {
            for request in marks.book(now, worker, asked.request) {
                self.tracker.free(request);
            }
        }
        self.add(&asked, worker);
        if let (Some(approximate), Some(index)) = (&mut self.approximate, &mut self.index) {
            approximate.sent(now, worker, &asked.prompt, index);
        }
        self.scratch.overlap_blocks = asked.overlap_blocks;
    }

    fn turned_away(&mut self, now: SimTime, asked: Asked) {
        // 0.9 finds out after it has chosen and booked, and does not take it back.
        if self.params.semantics == Semantics::V0_9
            && let Some(worker) = self.pick(&asked)
        {
            self.book(now, asked, worker);
        }
    }

    fn least_prefill_tokens(&self) -> u64 {
        let loads = self.tracker.loads().iter().enumerate();
        let available = loads.filter(|(at, _)| self.is_available(*at));
        available.map(|(_, load)| load.prefill_tokens).min().unwrap_or(0)
    }
}

impl Policy for KvPolicy {
    fn route(&mut self, now: SimTime, request: &RouteRequest<'_>, _: &ClusterView<'_>) -> Verdict {
        self.route_at_once(now, request)
    }

    fn observe(&mut self, _: SimTime, event: &WorkerEvent) {
        self.tracker.observe(event);
    }

    fn wants_kv_events(&self) -> bool {
        self.index.is_some() && self.approximate.is_none()
    }

    fn observe_kv(&mut self, worker: WorkerId, event: &KvEvent) {
        if let Some(index) = &mut self.index {
            index.apply(worker, event);
            self.lower.apply(worker, event);
        }
    }

    fn worker_left(&mut self, worker: WorkerId) {
        self.absent.insert(worker);
        self.tracker.remove_worker(worker);
        if let Some(marks) = &mut self.marks {
            marks.remove_worker(worker);
        }
        if let Some(index) = &mut self.index {
            index.remove_worker(worker);
        }
        self.lower.remove_worker(worker);
        if let Some(approximate) = &mut self.approximate {
            approximate.remove_worker(worker);
        }
    }

    fn worker_joined(&mut self, worker: WorkerId) {
        self.absent.remove(worker);
    }

    fn wants_output_blocks(&self) -> bool {
        self.tracker.counts_outputs()
    }

    fn overlap_blocks(&self, request: &RouteRequest<'_>) -> Option<Vec<u32>> {
        self.index.as_ref()?;
        let mut overlap_blocks = Vec::new();
        self.find_overlaps(&request.blocks.runs().collect(), &mut overlap_blocks);
        Some(overlap_blocks)
    }

    fn observe_peer(&mut self, request: &RouteRequest<'_>, worker: WorkerId, overlap_blocks: u32) {
        let mut asked = Asked {
            request: request.id,
            prompt_tokens: request.prompt_tokens,
            prompt: request.blocks.runs().collect(),
            overlap_blocks: vec![0; self.workers()],
            below: Vec::new(),
        };
        asked.overlap_blocks[worker.index()] = overlap_blocks;
        self.add(&asked, worker);
    }

    fn explain(&self, request: &RouteRequest<'_>, _: &ClusterView<'_>) -> Vec<CostParts> {
        let mut asked = Asked {
            request: request.id,
            prompt_tokens: request.prompt_tokens,
            prompt: request.blocks.runs().collect(),
            overlap_blocks: Vec::new(),
            below: Vec::new(),
        };
        self.find_overlaps(&asked.prompt, &mut asked.overlap_blocks);
        asked.below = self.lower.after_each(&asked.prompt, &asked.overlap_blocks);
        let mut shared_blocks = Vec::new();
        self.find_shared(&asked, &mut shared_blocks);
        let ask = self.ask(&asked);
        let parts = |(index, candidate): (usize, Candidate)| {
            let Cost { total, prefill, decode, requests } = cost(&self.params, &ask, &candidate);
            let BlocksBelow { host, disk } = candidate.below;
            let tiers = [("host_blocks", f64::from(host)), ("disk_blocks", f64::from(disk))];
            let mut parts = CostParts {
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
            };
            if !asked.below.is_empty() {
                parts.parts.extend(tiers);
            }
            parts
        };
        self.candidates(&asked, &shared_blocks).enumerate().map(parts).collect()
    }
}
