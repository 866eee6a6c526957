//! The production router's own code as a policy: NVIDIA's dynamo-kv-router
//! 1.6.1, its index, its tracker and its selector, under simulated time.
//!
//! What is ours is the glue that the production front end has too: events into
//! the index, look-up, choice, booking, first token, end. What is left out is
//! what a simulator must not have: threads, the runtime, the wall clock and
//! unseeded draws. The choice comes from its selector's seeded form.
//!
//! Block ids serve as both of its hashes: they chain, as its hashes do.

#![expect(
    clippy::disallowed_types,
    reason = "the crate's interface takes std maps; none is iterated"
)]

mod costs;
mod outputs;
mod retention;
#[cfg(test)]
mod tests;
mod words;

use super::decider::Decider;
use super::kv::{BlocksBelow, CachedBelow, KvParams, WorkerLoad};
use super::{ClusterSpec, ClusterView, CostParts, Policy, Verdict};
use crate::event::{KvEvent, WorkerEvent, WorkerEventKind};
use crate::id::{BlockId, RequestId, WorkerId};
use crate::request::{BlockRun, RouteRequest};
use crate::time::SimTime;
use costs::LoggedCosts;
use dynamo_kv_router::protocols::{
    ExternalSequenceBlockHash, KvCacheEvent, KvCacheEventData, KvCacheRemoveData, KvCacheStoreData,
    KvCacheStoredBlockData, LocalBlockHash, PrefillLoadHint, RouterEvent, WorkerConfigLike,
};
use dynamo_kv_router::scheduling::{
    KvSchedulerError, OverlapSignals, ScheduleMode, effective_prefill_tokens,
};
use dynamo_kv_router::sequences::topology::WorkerDpRange;
use dynamo_kv_router::{
    ActiveSequencesMultiWorker, DefaultWorkerSelector, KvRouterConfig, NoopSequencePublisher,
    RadixTree, SchedulingRequest, SequenceRequest, WorkerSelectionInput, WorkerSelector,
};
use outputs::OutputTracking;
use retention::Guesses;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::time::Duration;
use tokio::time::Instant;
use words::{POOL, ids, rank, set_weights};

/// Every worker as the crate sees it: one rank, no limits.
#[derive(Clone, Default, PartialEq)]
struct Worker;

impl WorkerConfigLike for Worker {
    fn data_parallel_start_rank(&self) -> u32 {
        0
    }
    fn data_parallel_size(&self) -> u32 {
        1
    }
    fn max_num_batched_tokens(&self) -> Option<u64> {
        None
    }
    fn total_kv_blocks(&self) -> Option<u64> {
        None
    }
}

/// The policy `dynamo`.
pub struct DynamoPolicy {
    params: KvParams,
    cluster: ClusterSpec,
    /// The workers that take requests.
    workers: HashMap<u64, Worker>,
    /// Those among them that are busy, by what workers report.
    left_out: HashSet<u64>,
    tree: Option<RadixTree>,
    /// Its own index of lower tiers needs threads; ours is held to it by a test.
    lower: CachedBelow,
    guesses: Option<Guesses>,
    outputs: Option<OutputTracking>,
    tracker: ActiveSequencesMultiWorker<NoopSequencePublisher>,
    selector: DefaultWorkerSelector,
    costs: LoggedCosts,
    /// What simulated time 0 is called in the crate's clock. Nothing depends on it.
    epoch: Instant,
    /// The latest time heard of, in the crate's clock.
    now: Instant,
    events: u64,
}

/// One request as looked up.
#[derive(Clone, Debug)]
pub struct Asked {
    request: RequestId,
    prompt_tokens: usize,
    prompt: Vec<u64>,
    /// The blocks to be counted as in flight, if any are.
    counted: Option<Vec<u64>>,
    overlap_blocks: Vec<u32>,
    /// Behind them, in tiers below; empty if no worker has any.
    below: Vec<BlocksBelow>,
}

impl Asked {
    /// What the worker at `index` holds in lower tiers.
    fn below(&self, index: usize) -> BlocksBelow {
        self.below.get(index).copied().unwrap_or_default()
    }
}

impl fmt::Debug for DynamoPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DynamoPolicy").field("params", &self.params).finish_non_exhaustive()
    }
}

impl DynamoPolicy {
    /// A policy for `cluster`; `seed` decides ties and draws. `params.semantics`
    /// is not looked at: the crate is version 1.6.1.
    pub fn new(params: KvParams, cluster: &ClusterSpec, seed: u64) -> Self {
        let mut config = KvRouterConfig {
            router_track_active_blocks: params.track_active_blocks,
            router_track_prefill_tokens: params.track_prefill_tokens,
            router_assume_kv_reuse: params.assume_kv_reuse,
            router_track_output_blocks: params.track_output_blocks,
            ..KvRouterConfig::default()
        };
        set_weights(&mut config, &params);
        let approximate = params.approximate.filter(|_| params.needs_index());
        let guesses = approximate.map(|retention| Guesses::new(&retention));
        let epoch = guesses.as_ref().map_or_else(Instant::now, Guesses::epoch);
        let ranks = (0..u64::from(cluster.workers())).map(|id| (id, (0, 1))).collect();
        Self {
            params,
            cluster: cluster.clone(),
            workers: (0..u64::from(cluster.workers())).map(|id| (id, Worker)).collect(),
            left_out: HashSet::new(),
            tree: params.needs_index().then(RadixTree::new),
            lower: CachedBelow::default(),
            guesses,
            outputs: params
                .track_output_blocks
                .then(|| OutputTracking::new(cluster.block_size, params.expected_output_tokens)),
            tracker: ActiveSequencesMultiWorker::new_without_expiry(
                NoopSequencePublisher,
                cluster.block_size as usize,
                ranks,
                false,
                0,
                POOL,
            ),
            selector: DefaultWorkerSelector::new_seeded(Some(config.clone()), POOL, seed),
            costs: LoggedCosts::new(config),
            epoch,
            now: epoch,
            events: 0,
        }
    }

    fn set_clock(&mut self, now: SimTime) {
        self.now = self.epoch + Duration::from_nanos(now.as_ps() / 1_000);
    }

    fn ask(&self, request: &RouteRequest<'_>) -> Asked {
        let prompt: Vec<u64> = request.blocks.iter().map(|block| block.0).collect();
        let counted = if self.params.assume_kv_reuse {
            prompt.clone()
        } else {
            // Ids of their own, so that nothing is shared; the crate draws them at random.
            let first = 1 << 63 | u64::from(request.id.0) << 32;
            (first..).take(prompt.len()).collect()
        };
        let overlap_blocks = self.overlaps(&prompt);
        Asked {
            request: request.id,
            prompt_tokens: request.prompt_tokens as usize,
            counted: self.params.track_active_blocks.then_some(counted),
            below: self.below(&prompt, &overlap_blocks),
            overlap_blocks,
            prompt,
        }
    }

    fn overlaps(&self, prompt: &[u64]) -> Vec<u32> {
        let mut overlap_blocks = vec![0; self.cluster.workers() as usize];
        if let Some(tree) = &self.tree {
            let hashes = prompt.iter().map(|id| LocalBlockHash(*id)).collect();
            let scores = tree.find_matches(hashes, false).scores;
            for (index, overlap) in overlap_blocks.iter_mut().enumerate() {
                *overlap = scores.get(&rank(WorkerId::at(index))).copied().unwrap_or(0);
            }
        }
        overlap_blocks
    }

    fn below(&self, prompt: &[u64], overlap_blocks: &[u32]) -> Vec<BlocksBelow> {
        let runs = prompt.iter().map(|&id| BlockRun { first: BlockId(id), len: 1 });
        self.lower.after(runs, overlap_blocks)
    }

    /// Forgets what the router guessed too long ago.
    fn expire(&mut self) {
        let Some(guesses) = &mut self.guesses else { return };
        for (worker, block) in guesses.expired(self.now) {
            self.apply(worker, removed([block]));
        }
    }

    fn apply(&mut self, worker: WorkerId, data: KvCacheEventData) {
        let Some(tree) = &mut self.tree else { return };
        self.events += 1;
        let event = KvCacheEvent { event_id: self.events, data, dp_rank: 0 };
        // Unknown parents and blocks are its warnings, not our errors.
        let _unknown = tree.apply_event(RouterEvent::new(u64::from(worker.0), event));
    }

    /// The overloaded workers, as the production front end finds them: by what
    /// the scheduler has booked, and by what workers report.
    fn overloaded(&self, request: &SchedulingRequest) -> HashSet<u64> {
        let overload = self.params.overload;
        if !overload.is_on() {
            return self.left_out.iter().copied().collect();
        }
        let load = |id: u32| {
            let load = request.worker_loads[&rank(WorkerId(id))];
            WorkerLoad {
                prefill_tokens: load.active_prefill_tokens as u64,
                active_blocks: load.active_decode_blocks as u64,
                requests: 0,
            }
        };
        let pool = |id: u32| self.cluster.of(WorkerId(id)).blocks;
        // A worker of several ranks is overloaded if all of them are.
        let holds = |rank: WorkerId| {
            let is_there = self.workers.contains_key(&u64::from(rank.0));
            is_there && overload.holds(&load(rank.0), pool(rank.0))
        };
        let is_overloaded = |worker: WorkerId| self.cluster.ranks_with(worker).all(holds);
        self.available()
            .filter(|worker| is_overloaded(*worker))
            .map(|worker| u64::from(worker.0))
            .chain(self.left_out.iter().copied())
            .collect()
    }

    /// The workers that take requests, in order of id.
    fn available(&self) -> impl Iterator<Item = WorkerId> + '_ {
        let ids = (0..self.cluster.workers()).map(WorkerId);
        ids.filter(|worker| self.workers.contains_key(&u64::from(worker.0)))
    }

    /// The crate's form of `asked`, to be answered by one of `allowed` or by any worker.
    fn scheduling_request(
        &self,
        asked: &Asked,
        allowed: Option<HashSet<u64>>,
    ) -> SchedulingRequest {
        let mut overlap = OverlapSignals::default();
        for (index, &blocks) in asked.overlap_blocks.iter().enumerate() {
            let worker = rank(WorkerId::at(index));
            let effective = self.effective_blocks(asked, index);
            if effective > 0.0 {
                let BlocksBelow { host, disk } = asked.below(index);
                let tiers = &mut overlap.tier_overlap_blocks;
                for (tier, blocks) in [
                    (&mut tiers.device, blocks),
                    (&mut tiers.host_pinned, host),
                    (&mut tiers.disk, disk),
                ] {
                    if blocks > 0 {
                        tier.insert(worker, blocks as usize);
                    }
                }
                overlap.effective_overlap_blocks.insert(worker, effective);
                let tokens = self.effective_tokens(asked, index);
                overlap.effective_cached_tokens.insert(worker, tokens);
            }
        }
        SchedulingRequest {
            mode: ScheduleMode::QueryOnly { request_id: None },
            token_seq: asked.counted.clone(),
            isl_tokens: asked.prompt_tokens,
            lora_name: None,
            expected_output_tokens: None,
            affinity_target: None,
            pinned_worker: None,
            allowed_worker_ids: allowed,
            routing_constraints: Default::default(),
            router_config_override: None,
            track_prefill_tokens: self.params.track_prefill_tokens,
            priority_jump: 0.0,
            strict_priority: 0,
            policy_class: None,
            session_context: None,
            overlap,
            kv_transfer_candidates: None,
            retain_kv_transfer_chain: false,
            shared_cache_hits: None,
            worker_loads: self.tracker.project_worker_loads(asked.counted.as_deref(), self.now),
            resp_tx: None,
        }
    }

    /// `None` if all workers are `overloaded`.
    fn select(
        &self,
        selector: &DefaultWorkerSelector,
        request: &SchedulingRequest,
        overloaded: Option<&HashSet<u64>>,
    ) -> Option<WorkerId> {
        let input = WorkerSelectionInput::configured(
            &self.workers,
            request,
            request.eligibility_with_overloaded(overloaded),
            self.cluster.block_size,
        );
        let selected = match selector.select_worker(input) {
            Ok(selected) => selected,
            Err(KvSchedulerError::AllEligibleWorkersOverloaded) => return None,
            Err(error) => panic!("no worker can be selected: {error}"),
        };
        let id = u32::try_from(selected.worker.worker_id).expect("worker ids are ours");
        Some(WorkerId(id))
    }

    /// Blocks that a worker holds of the prompt, those in lower tiers by their weight:
    /// what the production front end makes of its indexes' answers.
    fn effective_blocks(&self, asked: &Asked, index: usize) -> f64 {
        let BlocksBelow { host, disk } = asked.below(index);
        f64::from(asked.overlap_blocks[index])
            + f64::from(host) * self.params.host_cache_hit_weight
            + f64::from(disk) * self.params.disk_cache_hit_weight
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "not negative, and at most the tokens of a prompt"
    )]
    fn effective_tokens(&self, asked: &Asked, index: usize) -> usize {
        (self.effective_blocks(asked, index) * f64::from(self.cluster.block_size)).round() as usize
    }

    fn cached_tokens(&self, overlap_blocks: u32) -> usize {
        overlap_blocks as usize * self.cluster.block_size as usize
    }

    fn cost_parts(&self, asked: &Asked) -> Vec<CostParts> {
        let request = self.scheduling_request(asked, None);
        let loads = &request.worker_loads;
        let overloaded = self.overloaded(&request);
        let is_overloaded = |worker: WorkerId| overloaded.contains(&u64::from(worker.0));
        // As the crate does: of the workers that may be chosen, if any may.
        let tokens = |worker: WorkerId| loads[&rank(worker)].active_prefill_tokens;
        let least = self.available().min_by_key(|&worker| (is_overloaded(worker), tokens(worker)));
        let parts = |worker: WorkerId| {
            let (Some(least), true) = (least, self.workers.contains_key(&u64::from(worker.0)))
            else {
                return CostParts { worker, cost: f64::INFINITY, parts: Vec::new() };
            };
            let load = loads[&rank(worker)];
            // The least busy worker is among the allowed, as the credit's decay looks at it.
            let allowed = HashSet::from([u64::from(worker.0), u64::from(least.0)]);
            let request = self.scheduling_request(asked, Some(allowed));
            let select = |selector: &_| self.select(selector, &request, None);
            let cost = self.costs.of(worker, |selector| select(selector).expect("all may be"));
            CostParts {
                worker,
                cost,
                parts: vec![
                    ("overlap_blocks", f64::from(asked.overlap_blocks[worker.index()])),
                    ("prefill_tokens", load.active_prefill_tokens as f64),
                    ("active_blocks", load.active_decode_blocks as f64),
                    ("additional_blocks", load.additional_active_blocks as f64),
                ],
            }
        };
        (0..self.cluster.workers()).map(WorkerId).map(parts).collect()
    }

    /// Counts `asked` as in flight on `worker`.
    fn add(&mut self, asked: Asked, worker: WorkerId) {
        let cached = self.effective_tokens(&asked, worker.index());
        let booking = SequenceRequest {
            request_id: asked.request.to_string(),
            token_sequence: asked.counted,
            track_prefill_tokens: self.params.track_prefill_tokens,
            expected_output_tokens: self.params.expected_output_tokens,
            prefill_load_hint: Some(PrefillLoadHint {
                initial_effective_prefill_tokens: effective_prefill_tokens(
                    asked.prompt_tokens,
                    cached,
                ),
                expected_prefill_duration: None,
            }),
            worker: rank(worker),
            lora_name: None,
        };
        let booked = self.tracker.add_request(booking, self.now);
        booked.unwrap_or_else(|error| panic!("{:?} cannot be booked: {error}", asked.request));
    }
}

impl Decider for DynamoPolicy {
    type Asked = Asked;

    fn look_up(&mut self, now: SimTime, request: &RouteRequest<'_>) -> Asked {
        self.set_clock(now);
        self.expire();
        self.ask(request)
    }

    fn look_again(&mut self, now: SimTime, asked: &mut Asked) {
        self.set_clock(now);
        self.expire();
        asked.overlap_blocks = self.overlaps(&asked.prompt);
        asked.below = self.below(&asked.prompt, &asked.overlap_blocks);
    }

    fn least_uncached_tokens(&self, asked: &Asked) -> u64 {
        let blocks = |(at, overlap): (usize, &u32)| {
            let BlocksBelow { host, disk } = asked.below(at);
            overlap + host + disk
        };
        let most = asked.overlap_blocks.iter().enumerate().map(blocks).max().unwrap_or(0);
        effective_prefill_tokens(asked.prompt_tokens, self.cached_tokens(most)) as u64
    }

    fn choose(&mut self, asked: &Asked) -> Option<WorkerId> {
        let request = self.scheduling_request(asked, None);
        let is_any = self.params.overload.is_on() || !self.left_out.is_empty();
        let overloaded = is_any.then(|| self.overloaded(&request));
        self.select(&self.selector, &request, overloaded.as_ref())
    }

    fn costs(&self, asked: &Asked) -> Vec<f64> {
        let is_left_out = |worker: WorkerId| self.left_out.contains(&u64::from(worker.0));
        let cost = |parts: &CostParts| {
            if is_left_out(parts.worker) { f64::INFINITY } else { parts.cost }
        };
        self.cost_parts(asked).iter().map(cost).collect()
    }

    fn book(&mut self, now: SimTime, asked: Asked, worker: WorkerId) {
        self.set_clock(now);
        let (request, prompt_tokens, prompt) =
            (asked.request, asked.prompt_tokens, asked.prompt.clone());
        self.add(asked, worker);
        if let Some(outputs) = &mut self.outputs {
            outputs.book(request, prompt_tokens);
        }
        if let Some(guesses) = &mut self.guesses {
            guesses.sent(worker, &prompt, self.now);
            self.apply(worker, stored(None, prompt));
        }
    }

    /// The crate reads its weights for every request, so they can change; what it
    /// counts cannot.
    fn set_params(&mut self, params: &KvParams) -> Result<(), String> {
        if params.needs_index() && self.tree.is_none() {
            return Err("0 as it was from the start: no index was kept of what is cached".into());
        }
        self.params = *params;
        set_weights(&mut self.selector.kv_router_config, params);
        self.costs.set_weights(params);
        Ok(())
    }

    fn least_prefill_tokens(&self) -> u64 {
        let tokens = self.tracker.active_tokens(self.now);
        let of = |worker| tokens.get(&rank(worker)).copied().unwrap_or(0);
        self.available().map(of).min().unwrap_or(0) as u64
    }

    fn all_have_more_prefill_tokens(&self, most: &[f64]) -> bool {
        let tokens = self.tracker.active_tokens(self.now);
        let of = |worker| tokens.get(&rank(worker)).copied().unwrap_or(0) as f64;
        self.available().all(|worker| of(worker) > most[worker.index()])
    }
}
impl Policy for DynamoPolicy {
    fn route(&mut self, now: SimTime, request: &RouteRequest<'_>, _: &ClusterView<'_>) -> Verdict {
        self.route_at_once(now, request)
    }

    fn observe(&mut self, now: SimTime, event: &WorkerEvent) {
        self.set_clock(now);
        let request = event.request.to_string();
        if let Some(outputs) = &mut self.outputs {
            for decay in outputs.observe(event) {
                let _unknown = self.tracker.add_output_block(&request, decay);
            }
        }
        // It refuses what it does not know, which is right for requests of others.
        match event.kind {
            WorkerEventKind::FirstToken => {
                let _unknown = self.tracker.mark_prefill_completed(&request, self.now);
            }
            WorkerEventKind::Finished { .. }
            | WorkerEventKind::Rejected(_)
            | WorkerEventKind::Aborted
            | WorkerEventKind::Failed => {
                let _unknown = self.tracker.free(&request, self.now);
            }
            WorkerEventKind::Scheduled { .. }
            | WorkerEventKind::CacheHit { .. }
            | WorkerEventKind::Prefilled
            | WorkerEventKind::KvReceived { .. }
            | WorkerEventKind::Loaded { .. }
            | WorkerEventKind::Preempted
            | WorkerEventKind::OutputBlock { .. } => {}
        }
    }

    fn wants_kv_events(&self) -> bool {
        self.tree.is_some() && self.guesses.is_none()
    }

    fn worker_left(&mut self, worker: WorkerId) {
        let id = u64::from(worker.0);
        self.workers.remove(&id);
        let left = self.tracker.unregister_worker(id);
        left.unwrap_or_else(|error| panic!("{worker:?} cannot leave: {error}"));
        if let Some(tree) = &mut self.tree {
            tree.remove_worker(id);
        }
        self.lower.remove_worker(worker);
    }

    fn worker_joined(&mut self, worker: WorkerId) {
        let id = u64::from(worker.0);
        self.workers.insert(id, Worker);
        let joined = self.tracker.register_worker(WorkerDpRange::new(id, 0, 1));
        joined.unwrap_or_else(|error| panic!("{worker:?} cannot join: {error}"));
    }

    fn leave_out(&mut self, worker: WorkerId, is_left_out: bool) {
        let id = u64::from(worker.0);
        if is_left_out {
            self.left_out.insert(id);
        } else {
            self.left_out.remove(&id);
        }
    }

    fn wants_output_blocks(&self) -> bool {
        self.outputs.is_some()
    }

    fn observe_kv(&mut self, worker: WorkerId, event: &KvEvent) {
        let data = match *event {
            KvEvent::Stored { parent, run } => stored(parent.map(|block| block.0), ids(run)),
            KvEvent::Removed { run } => removed(ids(run).rev()),
            _ => {
                self.lower.apply(worker, event);
                return;
            }
        };
        self.apply(worker, data);
    }

    fn overlap_blocks(&self, request: &RouteRequest<'_>) -> Option<Vec<u32>> {
        self.tree.as_ref().map(|_| self.ask(request).overlap_blocks)
    }

    fn observe_peer(&mut self, request: &RouteRequest<'_>, worker: WorkerId, overlap_blocks: u32) {
        let mut asked = self.ask(request);
        asked.overlap_blocks[worker.index()] = overlap_blocks;
        self.add(asked, worker);
    }

    fn explain(&self, request: &RouteRequest<'_>, _: &ClusterView<'_>) -> Vec<CostParts> {
        self.cost_parts(&self.ask(request))
    }
}

fn stored(parent: Option<u64>, ids: impl IntoIterator<Item = u64>) -> KvCacheEventData {
    let block = |id| KvCacheStoredBlockData {
        block_hash: ExternalSequenceBlockHash(id),
        tokens_hash: LocalBlockHash(id),
        mm_extra_info: None,
    };
    KvCacheEventData::Stored(KvCacheStoreData {
        parent_hash: parent.map(ExternalSequenceBlockHash),
        start_position: None,
        blocks: ids.into_iter().map(block).collect(),
    })
}

fn removed(ids: impl IntoIterator<Item = u64>) -> KvCacheEventData {
    KvCacheEventData::Removed(KvCacheRemoveData {
        block_hashes: ids.into_iter().map(ExternalSequenceBlockHash).collect(),
    })
}
