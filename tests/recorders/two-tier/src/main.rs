//! Writes down what the two-tier cost function of dynamo-custom-policy-builtin 1.6.1 chooses
//! in random states, as JSON; with `--busy` among the workers that are not busy.

use dynamo_kv_router::protocols::{RoutingConstraints, WorkerConfigLike, WorkerWithDpRank};
use dynamo_kv_router::scheduling::{OverlapSignals, ScheduleMode};
use dynamo_kv_router::{
    SchedulingRequest, WorkerLoadProjection, WorkerSelectionInput, WorkerSelector,
};
use serde_json::json;
use std::collections::{HashMap, HashSet};

mod two_tier {
    #![allow(dead_code)]
    include!(concat!(env!("OUT_DIR"), "/two_tier_cost_fn.rs"));

    /// The policy as the crate makes it.
    pub fn policy(
        cache_threshold: f64,
        balance_abs_threshold: usize,
        balance_rel_threshold: f64,
    ) -> WorkerSelectionPolicy {
        let parameters =
            Parameters { cache_threshold, balance_abs_threshold, balance_rel_threshold };
        let picker = Box::new(TwoTierCostFnPicker { parameters });
        WorkerSelectionPolicy::new(KvRouterConfig::default(), "record", Vec::new(), picker)
    }
}

const BLOCK_SIZE: u32 = 16;

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
        Some(1024)
    }
}

fn request(prompt_tokens: usize) -> SchedulingRequest {
    SchedulingRequest {
        mode: ScheduleMode::QueryOnly { request_id: None },
        token_seq: None,
        isl_tokens: prompt_tokens,
        lora_name: None,
        expected_output_tokens: None,
        affinity_target: None,
        pinned_worker: None,
        allowed_worker_ids: None,
        routing_constraints: RoutingConstraints::default(),
        router_config_override: None,
        track_prefill_tokens: true,
        priority_jump: 0.0,
        strict_priority: 0,
        policy_class: None,
        session_context: None,
        overlap: OverlapSignals::default(),
        kv_transfer_candidates: None,
        retain_kv_transfer_chain: false,
        shared_cache_hits: None,
        worker_loads: Default::default(),
        resp_tx: None,
    }
}

fn main() {
    let are_busy = std::env::args().any(|argument| argument == "--busy");
    let mut draws = fastrand::Rng::with_seed(if are_busy { 2 } else { 1 });
    let mut states = Vec::new();
    for number in 0..if are_busy { 1_500 } else { 3_000 } {
        let (cache, absolute, relative) =
            [(0.5, 32, 1.1), (0.2, 4, 1.5), (0.8, 0, 1.0)][number % 3];
        let workers = draws.u64(2..7);
        let prompt_tokens = draws.usize(1..400);
        let blocks = prompt_tokens / BLOCK_SIZE as usize;
        let base = if draws.bool() { draws.usize(0..6) } else { draws.usize(0..500) };
        let spread = [1, 4, 40, 80][draws.usize(0..4)];
        let mut asked = request(prompt_tokens);
        let (mut overlaps, mut loads) = (Vec::new(), Vec::new());
        for id in 0..workers {
            let overlap = [0, blocks, draws.usize(0..=blocks)][draws.usize(0..3)];
            let load = base + draws.usize(0..=spread);
            let worker = WorkerWithDpRank::from_worker_id(id);
            asked.overlap.tier_overlap_blocks.device.insert(worker, overlap);
            let projection = WorkerLoadProjection { active_requests: load, ..Default::default() };
            asked.worker_loads.insert(worker, projection);
            overlaps.push(overlap);
            loads.push(load);
        }
        let configs: HashMap<u64, Worker> = (0..workers).map(|id| (id, Worker)).collect();
        let mut busy: HashSet<u64> = HashSet::new();
        if are_busy {
            busy.extend((0..workers).filter(|_| draws.u32(0..3) == 0));
            busy.remove(&draws.u64(0..workers));
        }
        let eligibility = asked.eligibility_with_overloaded(are_busy.then_some(&busy));
        let input = WorkerSelectionInput::configured(&configs, &asked, eligibility, BLOCK_SIZE);
        let mut policy = two_tier::policy(cache, absolute, relative);
        let chosen = policy.select_worker(input).expect("a worker").worker.worker_id;
        let mut state = json!([number % 3, prompt_tokens, overlaps, loads, chosen]);
        if are_busy {
            let busy: Vec<u64> = (0..workers).filter(|id| busy.contains(id)).collect();
            state.as_array_mut().expect("a list").push(json!(busy));
        }
        states.push(state);
    }
    let out = json!({
        "original": "dynamo-custom-policy-builtin 1.6.1, two_tier_cost_fn",
        "parameters": [[0.5, 32, 1.1], [0.2, 4, 1.5], [0.8, 0, 1.0]],
        "states": states,
    });
    println!("{out}");
}
