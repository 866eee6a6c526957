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
#[cfg(test)]
mod tests;

use super::kv::KvParams;
use super::policies::worker_at;
use super::shadow::Decider;
use super::{ClusterSpec, ClusterView, CostParts, Policy, Verdict};
use crate::event::{KvEvent, WorkerEvent, WorkerEventKind};
use crate::id::WorkerId;
use crate::request::{BlockRun, RouteRequest};
use crate::time::SimTime;
use costs::LoggedCosts;
use dynamo_kv_router::protocols::{
    ExternalSequenceBlockHash, KvCacheEvent, KvCacheEventData, KvCacheRemoveData, KvCacheStoreData,
    KvCacheStoredBlockData, LocalBlockHash, PrefillLoadHint, RouterEvent, WorkerConfigLike,
    WorkerWithDpRank,
};
use dynamo_kv_router::scheduling::{OverlapSignals, ScheduleMode, effective_prefill_tokens};
use dynamo_kv_router::{
    ActiveSequencesMultiWorker, DefaultWorkerSelector, KvRouterConfig, NoopSequencePublisher,
    RadixTree, SchedulingRequest, SequenceRequest, WorkerSelectionInput, WorkerSelector,
};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::time::Duration;
use tokio::time::Instant;

/// The pool that an aggregated deployment's router serves, in the crate's words.
const POOL: &str = "decode";

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
    block_size: u32,
    workers: HashMap<u64, Worker>,
    tree: Option<RadixTree>,
    tracker: ActiveSequencesMultiWorker<NoopSequencePublisher>,
    selector: DefaultWorkerSelector,
    costs: LoggedCosts,
    /// What simulated time 0 is called in the crate's clock. Nothing depends on it.
    epoch: Instant,
    /// The latest time heard of, in the crate's clock.
    now: Instant,
    events: u64,
    asked: Asked,
}

/// One request as looked up.
#[derive(Clone, Debug, Default)]
struct Asked {
    prompt_tokens: usize,
    /// The prompt's blocks; `None` where blocks in flight are not counted.
    blocks: Option<Vec<u64>>,
    overlap_blocks: Vec<u32>,
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
        let config = KvRouterConfig {
            overlap_score_credit: params.overlap_score_credit,
            overlap_score_credit_decay: params.overlap_score_credit_decay,
            prefill_load_scale: params.prefill_load_scale,
            decode_active_request_weight: params.decode_active_request_weight,
            router_temperature: params.temperature,
            router_track_active_blocks: params.track_active_blocks,
            router_track_prefill_tokens: params.track_prefill_tokens,
            router_assume_kv_reuse: params.assume_kv_reuse,
            ..KvRouterConfig::default()
        };
        let epoch = Instant::now();
        let ranks = (0..u64::from(cluster.workers)).map(|id| (id, (0, 1))).collect();
        Self {
            params,
            block_size: cluster.block_size,
            workers: (0..u64::from(cluster.workers)).map(|id| (id, Worker)).collect(),
            tree: params.needs_index().then(RadixTree::new),
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
            asked: Asked::default(),
        }
    }

    fn set_clock(&mut self, now: SimTime) {
        self.now = self.epoch + Duration::from_nanos(now.as_ps() / 1_000);
    }

    fn look_up(&self, request: &RouteRequest<'_>) -> Asked {
        let prompt: Vec<u64> = request.blocks.iter().map(|block| block.0).collect();
        let mut overlap_blocks = vec![0; self.workers.len()];
        if let Some(tree) = &self.tree {
            let hashes = prompt.iter().map(|id| LocalBlockHash(*id)).collect();
            let scores = tree.find_matches(hashes, false).scores;
            for (index, overlap) in overlap_blocks.iter_mut().enumerate() {
                *overlap = scores.get(&rank(worker_at(index))).copied().unwrap_or(0);
            }
        }
        let blocks = if self.params.assume_kv_reuse {
            prompt
        } else {
            // Ids of nobody else's, so that nothing is shared; the crate draws them at random.
            let first = 1 << 63 | u64::from(request.id.0) << 32;
            (first..).take(prompt.len()).collect()
        };
        Asked {
            prompt_tokens: request.prompt_tokens as usize,
            blocks: self.params.track_active_blocks.then_some(blocks),
            overlap_blocks,
        }
    }

    /// The crate's form of `asked`, to be answered by one of `allowed` or by any worker.
    fn scheduling_request(
        &self,
        asked: &Asked,
        allowed: Option<HashSet<u64>>,
    ) -> SchedulingRequest {
        let mut overlap = OverlapSignals::default();
        for (index, &blocks) in asked.overlap_blocks.iter().enumerate().filter(|(_, b)| **b > 0) {
            let worker = rank(worker_at(index));
            overlap.tier_overlap_blocks.device.insert(worker, blocks as usize);
            overlap.effective_overlap_blocks.insert(worker, f64::from(blocks));
            overlap.effective_cached_tokens.insert(worker, self.cached_tokens(blocks));
        }
        SchedulingRequest {
            mode: ScheduleMode::QueryOnly { request_id: None },
            token_seq: asked.blocks.clone(),
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
            worker_loads: self.tracker.project_worker_loads(asked.blocks.as_deref(), self.now),
            resp_tx: None,
        }
    }

    fn select(&self, selector: &DefaultWorkerSelector, request: &SchedulingRequest) -> WorkerId {
        let input = WorkerSelectionInput::configured(
            &self.workers,
            request,
            request.eligibility(),
            self.block_size,
        );
        let selected = selector.select_worker(input).expect("every worker is eligible");
        let id = u32::try_from(selected.worker.worker_id).expect("worker ids are ours");
        WorkerId(id)
    }

    fn cached_tokens(&self, overlap_blocks: u32) -> usize {
        overlap_blocks as usize * self.block_size as usize
    }

    fn cost_parts(&self, asked: &Asked) -> Vec<CostParts> {
        let request = self.scheduling_request(asked, None);
        let loads = &request.worker_loads;
        let least = (0..self.workers.len())
            .min_by_key(|at| loads[&rank(worker_at(*at))].active_prefill_tokens);
        let least = worker_at(least.expect("a fleet has workers"));
        let parts = |index: usize| {
            let worker = worker_at(index);
            let load = loads[&rank(worker)];
            // The least busy worker is among the allowed, as the credit's decay looks at it.
            let allowed = HashSet::from([u64::from(worker.0), u64::from(least.0)]);
            let request = self.scheduling_request(asked, Some(allowed));
            let cost = self.costs.of(worker, |selector| self.select(selector, &request));
            CostParts {
                worker,
                cost,
                parts: vec![
                    ("overlap_blocks", f64::from(asked.overlap_blocks[index])),
                    ("prefill_tokens", load.active_prefill_tokens as f64),
                    ("active_blocks", load.active_decode_blocks as f64),
                    ("additional_blocks", load.additional_active_blocks as f64),
                ],
            }
        };
        (0..self.workers.len()).map(parts).collect()
    }
}

impl DynamoPolicy {
    /// Books `request`, as looked up, on `worker`.
    fn add(&mut self, request: &RouteRequest<'_>, asked: &mut Asked, worker: WorkerId) {
        let cached = self.cached_tokens(asked.overlap_blocks[worker.index()]);
        let booking = SequenceRequest {
            request_id: request.id.to_string(),
            token_sequence: asked.blocks.take(),
            track_prefill_tokens: self.params.track_prefill_tokens,
            expected_output_tokens: None,
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
        booked.unwrap_or_else(|error| panic!("{:?} cannot be booked: {error}", request.id));
    }
}

impl Decider for DynamoPolicy {
    fn decide(&mut self, now: SimTime, request: &RouteRequest<'_>) -> WorkerId {
        self.set_clock(now);
        self.asked = self.look_up(request);
        self.select(&self.selector, &self.scheduling_request(&self.asked, None))
    }

    fn costs(&self) -> Vec<f64> {
        self.cost_parts(&self.asked).iter().map(|parts| parts.cost).collect()
    }

    fn book(&mut self, now: SimTime, request: &RouteRequest<'_>, worker: WorkerId) {
        self.set_clock(now);
        let mut asked = std::mem::take(&mut self.asked);
        self.add(request, &mut asked, worker);
    }
}
impl Policy for DynamoPolicy {
    fn route(&mut self, now: SimTime, request: &RouteRequest<'_>, _: &ClusterView<'_>) -> Verdict {
        let worker = self.decide(now, request);
        self.book(now, request, worker);
        Verdict::Send(worker)
    }

    fn observe(&mut self, now: SimTime, event: &WorkerEvent) {
        self.set_clock(now);
        let request = event.request.to_string();
        // It refuses what it does not know, which is right for requests of others.
        match event.kind {
            WorkerEventKind::FirstToken => {
                let _unknown = self.tracker.mark_prefill_completed(&request, self.now);
            }
            WorkerEventKind::Finished { .. } | WorkerEventKind::Rejected(_) => {
                let _unknown = self.tracker.free(&request, self.now);
            }
            WorkerEventKind::Scheduled { .. } | WorkerEventKind::Preempted => {}
        }
    }

    fn wants_kv_events(&self) -> bool {
        self.tree.is_some()
    }

    fn observe_kv(&mut self, worker: WorkerId, event: &KvEvent) {
        let Some(tree) = &mut self.tree else { return };
        self.events += 1;
        let data = match *event {
            KvEvent::Stored { parent, run } => KvCacheEventData::Stored(KvCacheStoreData {
                parent_hash: parent.map(|block| ExternalSequenceBlockHash(block.0)),
                start_position: None,
                blocks: ids(run)
                    .map(|id| KvCacheStoredBlockData {
                        block_hash: ExternalSequenceBlockHash(id),
                        tokens_hash: LocalBlockHash(id),
                        mm_extra_info: None,
                    })
                    .collect(),
            }),
            KvEvent::Removed { run } => KvCacheEventData::Removed(KvCacheRemoveData {
                block_hashes: ids(run).rev().map(ExternalSequenceBlockHash).collect(),
            }),
        };
        let event = KvCacheEvent { event_id: self.events, data, dp_rank: 0 };
        // Unknown parents and blocks are its warnings, not our errors.
        let _unknown = tree.apply_event(RouterEvent::new(u64::from(worker.0), event));
    }

    fn overlap_blocks(&self, request: &RouteRequest<'_>) -> Option<Vec<u32>> {
        self.tree.as_ref().map(|_| self.look_up(request).overlap_blocks)
    }

    fn observe_peer(&mut self, request: &RouteRequest<'_>, worker: WorkerId, overlap_blocks: u32) {
        let mut asked = self.look_up(request);
        asked.overlap_blocks[worker.index()] = overlap_blocks;
        self.add(request, &mut asked, worker);
    }

    fn explain(&self, request: &RouteRequest<'_>, _: &ClusterView<'_>) -> Vec<CostParts> {
        self.cost_parts(&self.look_up(request))
    }
}

fn rank(worker: WorkerId) -> WorkerWithDpRank {
    WorkerWithDpRank::new(u64::from(worker.0), 0)
}

fn ids(run: BlockRun) -> impl DoubleEndedIterator<Item = u64> {
    (0..run.len).map(move |at| run.first.offset(at).0)
}
