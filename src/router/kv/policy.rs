use super::active::{ActiveTracker, Order, Outputs, Shared, WorkerLoad};
use super::approximate::Approximate;
use super::below::{BlocksBelow, LowerIndex};
use super::cost::{
    Ask, Candidate, Cost, cached_tokens, cost, load_cost, most_credit, totals, uncached_tokens,
};
use super::index::Index;
use super::overlaps::Overlaps;
use super::params::{KvParams, Semantics};
use super::path::Path;
use super::stale::Marks;
use super::worker_set::WorkerSet;
use crate::event::{KvEvent, WorkerEvent};
use crate::id::{RequestId, WorkerId};
use crate::request::RouteRequest;
use crate::rng::{self, Stream, Use};
use crate::router::decider::Decider;
use crate::router::sample::{sample, sample_few};
use crate::router::select::{Bounds, few, lowest, lowest_cost};
use crate::router::{ClusterSpec, ClusterView, CostParts, Policy, Verdict};
use crate::time::SimTime;
use crate::tournament::Tournament;

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
    cluster: ClusterSpec,
    index: Option<Index>,
    lower: LowerIndex,
    approximate: Option<Approximate>,
    tracker: ActiveTracker,
    standing: Standing,
    marks: Option<Marks>,
    /// Workers that are gone.
    absent: WorkerSet,
    /// Workers that are busy, and not to be chosen.
    left_out: WorkerSet,
    draws: Stream,
    nothing: Path,
    scratch: Scratch,
}

/// From so many workers on a draw by temperature no longer looks at all of them
/// (below, that is faster: measured).
const MANY_WORKERS: u32 = 128;

/// The workers by what is in flight there.
#[derive(Debug)]
struct Standing {
    /// What every request pays there; out of reach where nothing may be sent.
    load_costs: Tournament<f64>,
    /// The same with a minus, where the highest cost is asked for: in large fleets
    /// with a temperature.
    negated_load_costs: Option<Tournament<f64>>,
    prefill_tokens: Tournament<u64>,
    /// Past a threshold. An engine of several ranks is overloaded if all of them are.
    overloaded: Vec<bool>,
    /// Overloaded, left out or absent.
    barred: Vec<bool>,
    barred_workers: usize,
}

/// A request with its overlaps.
#[derive(Clone, Debug)]
pub struct Asked {
    request: RequestId,
    prompt_tokens: u32,
    prompt: Path,
    /// Blocks of the prompt that each worker is believed to hold.
    overlaps: Overlaps,
    /// Behind them, those in tiers below; of the workers that have any, in order of id.
    below: Vec<(WorkerId, BlocksBelow)>,
}

impl Asked {
    /// What `worker` holds in lower tiers.
    fn below(&self, worker: WorkerId) -> BlocksBelow {
        let found = self.below.binary_search_by_key(&worker, |(who, _)| *who);
        found.map_or_else(|_| BlocksBelow::default(), |at| self.below[at].1)
    }
}

/// Lists that are kept to spare allocations.
#[derive(Debug, Default)]
struct Scratch {
    costs: Vec<f64>,
    workers: Vec<usize>,
    special: WorkerSet,
}

impl KvPolicy {
    /// A policy for `cluster`; `seed` decides ties and draws.
    pub fn new(params: KvParams, cluster: &ClusterSpec, seed: u64) -> Self {
        let KvParams { semantics, .. } = params;
        let (block_size, workers) = (cluster.block_size, cluster.workers());
        let mut tracker = ActiveTracker::new(workers);
        if params.track_output_blocks {
            let expected_tokens = params.expected_output_tokens;
            tracker = tracker.with_outputs(Outputs { block_size, expected_tokens });
        }
        Self {
            params,
            cluster: cluster.clone(),
            lower: LowerIndex::default(),
            index: params.needs_index().then(|| Index::new(semantics, workers)),
            approximate: params
                .approximate
                .filter(|_| params.needs_index())
                .map(|retention| Approximate::new(semantics, retention)),
            tracker,
            standing: Standing {
                load_costs: Tournament::new(workers, 0.0, f64::INFINITY),
                negated_load_costs: (params.temperature > 0.0 && workers >= MANY_WORKERS)
                    .then(|| Tournament::new(workers, 0.0, f64::INFINITY)),
                prefill_tokens: Tournament::new(workers, 0, u64::MAX),
                overloaded: vec![false; workers as usize],
                barred: vec![false; workers as usize],
                barred_workers: 0,
            },
            marks: (semantics == Semantics::V0_9).then(|| Marks::new(workers)),
            absent: WorkerSet::default(),
            left_out: WorkerSet::default(),
            draws: rng::stream(seed, Use::Policy, 0, 0),
            nothing: Path::default(),
            scratch: Scratch::default(),
        }
    }

    fn workers(&self) -> usize {
        self.tracker.loads().len()
    }

    fn overlaps(&self, prompt: &Path) -> Overlaps {
        self.index.as_ref().map_or_else(Overlaps::default, |index| index.overlaps(prompt))
    }

    /// What workers are believed to hold of the prompt now.
    fn find_cached(&self, asked: &mut Asked) {
        asked.overlaps = self.overlaps(&asked.prompt);
        asked.below = self.lower.behind(&asked.prompt, &asked.overlaps);
    }

    /// What of the prompt counts as blocks in flight.
    fn counted<'a>(&'a self, asked: &'a Asked) -> &'a Path {
        if self.params.track_active_blocks { &asked.prompt } else { &self.nothing }
    }

    fn ask(&self, asked: &Asked) -> Ask {
        let decays = self.params.overlap_score_credit_decay > 0.0;
        Ask {
            prompt_tokens: asked.prompt_tokens,
            block_size: self.cluster.block_size,
            min_prefill_tokens: if decays { self.least_eligible_prefill_tokens() } else { 0 },
        }
    }

    /// The fewest prompt tokens in flight on a worker that may be chosen; on any, if none may.
    fn least_eligible_prefill_tokens(&self) -> u64 {
        let Standing { barred, barred_workers, .. } = &self.standing;
        let is_any_left_out = *barred_workers > self.absent.len();
        if !is_any_left_out || *barred_workers == self.workers() {
            return self.least_prefill_tokens();
        }
        let loads = self.tracker.loads().iter().zip(barred);
        let eligible = loads.filter(|(_, is_barred)| !**is_barred);
        eligible.map(|(load, _)| load.prefill_tokens).min().unwrap_or(0)
    }

    /// All workers as `asked` sees them, in order of id.
    fn candidates<'a>(&'a self, asked: &'a Asked) -> impl Iterator<Item = Candidate> + 'a {
        let overlap_blocks = asked.overlaps.to_vec(self.workers());
        let mut below = vec![BlocksBelow::default(); self.workers()];
        asked.below.iter().for_each(|(worker, blocks)| below[worker.index()] = *blocks);
        let mut shared_blocks = vec![0; self.workers()];
        let counted = self.counted(asked);
        self.tracker.shared_blocks(counted).add_to(&mut shared_blocks);
        let blocks = overlap_blocks.into_iter().zip(below).zip(shared_blocks);
        self.tracker.loads().iter().zip(blocks).map(|(load, ((overlap_blocks, below), shared))| {
            candidate(load, counted.len() - shared, overlap_blocks, below)
        })
    }

    /// Counts `asked` as in flight on `worker`.
    fn add(&mut self, asked: &Asked, worker: WorkerId) {
        let (ask, below) = (self.ask(asked), asked.below(worker));
        let cached = cached_tokens(&self.params, &ask, asked.overlaps.of(worker), below);
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
        self.note_load(worker);
    }

    /// 0.9 turns away if all are overloaded, and otherwise steers around none.
    fn steers(&self) -> bool {
        self.params.overload.is_on() && self.params.semantics == Semantics::V1_6
    }

    /// To be called whenever `worker` comes or goes, or its load has changed.
    fn note_load(&mut self, worker: WorkerId) {
        let at = worker.index();
        let load = &self.tracker.loads()[at];
        let is_overloaded = self.params.overload.holds(load, self.cluster.of(worker).blocks);
        let was_overloaded = std::mem::replace(&mut self.standing.overloaded[at], is_overloaded);
        if was_overloaded == is_overloaded || self.cluster.ranks.is_empty() {
            self.note_rank(worker);
        } else {
            self.cluster.ranks_with(worker).for_each(|rank| self.note_rank(rank));
        }
    }

    fn note_rank(&mut self, worker: WorkerId) {
        let at = worker.index();
        let load = &self.tracker.loads()[at];
        let is_absent = self.absent.contains(worker);
        let overloaded = &self.standing.overloaded;
        // Its own comes first: to look for the other ranks of its engine takes longer.
        let is_overloaded =
            overloaded[at] && self.cluster.ranks_with(worker).all(|rank| overloaded[rank.index()]);
        let is_left_out = self.left_out.contains(worker);
        let may_be = !(is_absent || is_left_out || is_overloaded && self.steers());
        let load_cost = if may_be {
            load_cost(&self.params, self.cluster.block_size, load)
        } else {
            f64::INFINITY
        };
        let standing = &mut self.standing;
        standing.load_costs.set(at, load_cost);
        if let Some(negated) = &mut standing.negated_load_costs {
            negated.set(at, if may_be { -load_cost } else { f64::INFINITY });
        }
        standing.prefill_tokens.set(at, if is_absent { u64::MAX } else { load.prefill_tokens });
        let is_barred = is_absent || is_left_out || is_overloaded;
        let was_barred = std::mem::replace(&mut standing.barred[at], is_barred);
        standing.barred_workers += usize::from(is_barred);
        standing.barred_workers -= usize::from(was_barred);
    }

    /// The worker of the lowest cost, or a draw, among all that may be chosen.
    fn pick(&mut self, asked: &Asked) -> Option<WorkerId> {
        let (mut scratch, mut draws) = (std::mem::take(&mut self.scratch), self.draws.clone());
        let chosen = if self.params.temperature > 0.0 {
            self.draw(asked, &mut scratch, &mut draws)
        } else {
            self.lowest(asked, &mut scratch.special, &mut draws)
        };
        (self.scratch, self.draws) = (scratch, draws);
        chosen.map(WorkerId::at)
    }

    /// A draw by temperature, in which every worker has a chance.
    fn draw(&self, asked: &Asked, scratch: &mut Scratch, draws: &mut Stream) -> Option<usize> {
        let (temperature, standing) = (self.params.temperature, &self.standing);
        let Some(negated) = &standing.negated_load_costs else {
            let Scratch { costs, workers, .. } = scratch;
            costs.clear();
            totals(&self.params, &self.ask(asked), self.candidates(asked), costs);
            let may_be = |at: usize| standing.load_costs.key(at).is_finite();
            workers.clear();
            workers.extend((0..costs.len()).filter(|&at| may_be(at)));
            let mut at = 0..;
            costs.retain(|_| at.next().is_some_and(may_be));
            return (!workers.is_empty()).then(|| workers[sample(costs, temperature, draws)]);
        };
        let survey = Survey::of(self, asked);
        let bounds = survey.bounds(&mut scratch.special);
        let cost = |worker| survey.cost_on(worker);
        let lowest = lowest_cost(&standing.load_costs, bounds, cost);
        // No worker costs more than its load and what is asked.
        let from_above = Bounds { base: -bounds.base, gain: 0.0, special_gain: 0.0, ..bounds };
        let highest = -lowest_cost(negated, from_above, |worker| -cost(worker));
        sample_few(&standing.load_costs, bounds, (lowest, highest), temperature, draws, cost)
    }

    /// The lowest cost.
    fn lowest(&self, asked: &Asked, special: &mut WorkerSet, draws: &mut Stream) -> Option<usize> {
        let survey = Survey::of(self, asked);
        let bounds = survey.bounds(special);
        lowest(&self.standing.load_costs, bounds, draws, |worker| {
            // The second criterion of 0.9; equal for all in 1.6.
            let overlap_blocks = asked.overlaps.of(worker);
            let index = self.index.as_ref();
            let tree_blocks = index.map_or(0, |index| index.tree_blocks(worker, overlap_blocks));
            (survey.cost_of_overlap(worker, overlap_blocks), tree_blocks)
        })
    }
}

/// What a request costs, worker by worker on demand.
struct Survey<'a> {
    policy: &'a KvPolicy,
    asked: &'a Asked,
    ask: Ask,
    counted_blocks: u32,
    shared: Shared<'a>,
}

impl<'a> Survey<'a> {
    fn of(policy: &'a KvPolicy, asked: &'a Asked) -> Self {
        let counted = policy.counted(asked);
        Self {
            policy,
            asked,
            ask: policy.ask(asked),
            counted_blocks: counted.len(),
            shared: policy.tracker.shared_blocks(counted),
        }
    }

    fn cost_on(&self, worker: WorkerId) -> f64 {
        self.cost_of_overlap(worker, self.asked.overlaps.of(worker))
    }

    /// On `worker`, which holds `overlap_blocks`.
    #[inline]
    fn cost_of_overlap(&self, worker: WorkerId, overlap_blocks: u32) -> f64 {
        let additional_blocks = self.counted_blocks - self.shared.on(worker);
        let load = &self.policy.tracker.loads()[worker.index()];
        let below = self.asked.below(worker);
        let candidate = candidate(load, additional_blocks, overlap_blocks, below);
        cost(&self.policy.params, &self.ask, &candidate).total
    }

    /// Few workers have much of a prompt, or blocks of it in lower tiers; what the
    /// others can gain by the blocks they have is bounded.
    fn bounds<'s>(&self, special: &'s mut WorkerSet) -> Bounds<'s> {
        let params = &self.policy.params;
        let few = few(self.policy.workers());
        special.clear();
        let overlap = self.asked.overlaps.split(few, special);
        let shared = self.shared.split(few, special);
        self.asked.below.iter().for_each(|(worker, _)| _ = special.insert(*worker));
        let gain = |overlap_blocks: u32, shared_blocks: u32| {
            most_credit(params) * f64::from(overlap_blocks) + f64::from(shared_blocks)
        };
        let special_gain =
            if self.asked.below.is_empty() { gain(overlap.any, shared.any) } else { f64::INFINITY };
        let unloaded = Candidate { additional_blocks: self.counted_blocks, ..Candidate::default() };
        Bounds {
            special,
            special_gain,
            base: cost(params, &self.ask, &unloaded).total,
            gain: gain(overlap.others, shared.others),
            scale: 1.0,
        }
    }
}

fn candidate(
    load: &WorkerLoad,
    additional_blocks: u32,
    overlap_blocks: u32,
    below: BlocksBelow,
) -> Candidate {
    Candidate {
        prefill_tokens: load.prefill_tokens,
        active_blocks: load.active_blocks,
        additional_blocks,
        requests: load.requests,
        overlap_blocks,
        below,
    }
}

impl Decider for KvPolicy {
    type Asked = Asked;

    fn look_up(&mut self, now: SimTime, request: &RouteRequest<'_>) -> Asked {
        let mut asked = Asked {
            request: request.id,
            prompt_tokens: request.prompt_tokens,
            prompt: request.blocks.runs().collect(),
            overlaps: Overlaps::default(),
            below: Vec::new(),
        };
        self.look_again(now, &mut asked);
        asked
    }

    fn look_again(&mut self, now: SimTime, asked: &mut Asked) {
        if let (Some(approximate), Some(index)) = (&mut self.approximate, &mut self.index) {
            approximate.expire(now, index);
        }
        self.find_cached(asked);
    }

    fn least_uncached_tokens(&self, asked: &Asked) -> u64 {
        let longest = asked.overlaps.longest().map_or(0, |(_, blocks)| blocks);
        let deep = |(worker, below): &(WorkerId, BlocksBelow)| {
            asked.overlaps.of(*worker) + below.host + below.disk
        };
        let most = asked.below.iter().map(deep).max().unwrap_or(0).max(longest);
        uncached_tokens(&self.ask(asked), most)
    }

    fn choose(&mut self, asked: &Asked) -> Option<WorkerId> {
        if self.standing.barred_workers == self.workers() {
            return None;
        }
        self.pick(asked)
    }

    fn costs(&self, asked: &Asked) -> Vec<f64> {
        let mut costs = Vec::new();
        totals(&self.params, &self.ask(asked), self.candidates(asked), &mut costs);
        for worker in self.absent.iter().chain(self.left_out.iter()) {
            costs[worker.index()] = f64::INFINITY;
        }
        costs
    }

    fn book(&mut self, now: SimTime, asked: Asked, worker: WorkerId) {
        if let Some(marks) = &mut self.marks {
            for request in marks.book(now, worker, asked.request) {
                if let Some(worker) = self.tracker.free(request) {
                    self.note_load(worker);
                }
            }
        }
        self.add(&asked, worker);
        if let (Some(approximate), Some(index)) = (&mut self.approximate, &mut self.index) {
            approximate.sent(now, worker, &asked.prompt, index);
        }
    }

    fn turned_away(&mut self, now: SimTime, asked: Asked) {
        // 0.9 finds out after it has chosen and booked, and does not take it back.
        if self.params.semantics == Semantics::V0_9
            && let Some(worker) = self.pick(&asked)
        {
            self.book(now, asked, worker);
        }
    }

    fn set_params(&mut self, params: &KvParams) -> Result<(), String> {
        if params.needs_index() && self.index.is_none() {
            return Err("0 as it was from the start: no index was kept of what is cached".into());
        }
        self.params = *params;
        let many = self.workers() >= MANY_WORKERS as usize;
        let workers = self.standing.barred.len();
        self.standing.negated_load_costs = (params.temperature > 0.0 && many).then(|| {
            let workers = u32::try_from(workers).expect("worker ids are u32");
            Tournament::new(workers, 0.0, f64::INFINITY)
        });
        (0..workers).for_each(|at| self.note_load(WorkerId::at(at)));
        Ok(())
    }

    fn least_prefill_tokens(&self) -> u64 {
        if self.absent.len() == self.workers() { 0 } else { self.standing.prefill_tokens.least() }
    }

    fn all_have_more_prefill_tokens(&self, most: &[f64]) -> bool {
        let tokens = |worker: WorkerId| self.standing.prefill_tokens.key(worker.index()) as f64;
        let mut workers = (0..).map(WorkerId).zip(most);
        workers.all(|(worker, most)| self.absent.contains(worker) || tokens(worker) > *most)
    }
}

impl Policy for KvPolicy {
    fn route(&mut self, now: SimTime, request: &RouteRequest<'_>, _: &ClusterView<'_>) -> Verdict {
        self.route_at_once(now, request)
    }

    fn observe(&mut self, _: SimTime, event: &WorkerEvent) {
        if let Some(worker) = self.tracker.observe(event) {
            self.note_load(worker);
        }
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

    /// 0.9 breaks ties by all that a worker holds, and knows holes.
    fn hears_kv_on_demand(&self) -> bool {
        self.params.semantics == Semantics::V1_6
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
        self.note_load(worker);
    }

    fn worker_joined(&mut self, worker: WorkerId) {
        self.absent.remove(worker);
        self.note_load(worker);
    }

    fn leave_out(&mut self, worker: WorkerId, is_left_out: bool) {
        if is_left_out {
            self.left_out.insert(worker);
        } else {
            self.left_out.remove(worker);
        }
        self.note_load(worker);
    }

    fn wants_output_blocks(&self) -> bool {
        self.tracker.counts_outputs()
    }

    fn overlap_blocks(&self, request: &RouteRequest<'_>) -> Option<Vec<u32>> {
        self.index.as_ref()?;
        Some(self.overlaps(&request.blocks.runs().collect()).to_vec(self.workers()))
    }

    fn observe_peer(&mut self, request: &RouteRequest<'_>, worker: WorkerId, overlap_blocks: u32) {
        let asked = Asked {
            request: request.id,
            prompt_tokens: request.prompt_tokens,
            prompt: request.blocks.runs().collect(),
            overlaps: Overlaps::only(worker, overlap_blocks),
            below: Vec::new(),
        };
        self.add(&asked, worker);
    }

    fn explain(&self, request: &RouteRequest<'_>, _: &ClusterView<'_>) -> Vec<CostParts> {
        let mut asked = Asked {
            request: request.id,
            prompt_tokens: request.prompt_tokens,
            prompt: request.blocks.runs().collect(),
            overlaps: Overlaps::default(),
            below: Vec::new(),
        };
        self.find_cached(&mut asked);
        let ask = self.ask(&asked);
        let parts = |(index, candidate): (usize, Candidate)| {
            let Cost { total, prefill, decode, requests } = cost(&self.params, &ask, &candidate);
            let BlocksBelow { host, disk } = candidate.below;
            let tiers = [("host_blocks", f64::from(host)), ("disk_blocks", f64::from(disk))];
            let mut parts = CostParts {
                worker: WorkerId::at(index),
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
            if !self.lower.is_empty() {
                parts.parts.extend(tiers);
            }
            parts
        };
        self.candidates(&asked).enumerate().map(parts).collect()
    }
}
