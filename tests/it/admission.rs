//! Laws 1 and 2 where a step is formed: whatever an engine's options, a prompt that
//! is admitted finds its blocks, no block is lost or counted twice, and every request
//! ends once.

use super::fast_forward::{any_follows, entangle};
use super::program::Scratch;
use super::rig::{any_draws, any_engine, arrivals, cases, trtllm_config};
use super::tiers::any_tiered_engine;
use kv_router_sim::engine::config::{EngineConfig, Rules, TrtllmOptions};
use kv_router_sim::engine::{Outbox, Wake, Worker};
use kv_router_sim::event::WorkerEventKind;
use kv_router_sim::id::{BlockId, RequestId, WorkerId};
use kv_router_sim::request::{BlockRun, Content, Request};
use kv_router_sim::time::{SimDuration, SimTime};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Free, cached and held blocks are the pool, and what the worker says of them is true.
pub(crate) fn every_block_is_counted(worker: &Worker) -> Result<(), TestCaseError> {
    let (total, free) = worker.blocks();
    let count = worker.count_blocks();
    prop_assert_eq!(count.total(), total, "{:?}", count);
    prop_assert_eq!(count.cached + count.empty, free, "{:?}", count);
    Ok(())
}

/// Serves `arrivals` on one worker and counts its blocks whenever anything has changed.
/// Gives the prompt tokens that each request found cached.
fn serve(
    config: &EngineConfig,
    arrivals: &[(SimTime, Request)],
) -> Result<BTreeMap<RequestId, u32>, TestCaseError> {
    let mut worker = Worker::new(WorkerId(0), Arc::new(config.clone()), true);
    let mut out = Outbox::default();
    let mut refused = Vec::new();
    let end = (SimTime::MAX, None);
    for (at, request) in arrivals.iter().map(|(at, request)| (*at, Some(request))).chain([end]) {
        loop {
            match worker.wake() {
                Some(Wake::FinishStep(due)) if due <= at => worker.finish_step(due, &mut out),
                Some(Wake::StartStep(due)) if due < at => worker.start_step(due, &mut out),
                _ => break,
            }
            every_block_is_counted(&worker)?;
        }
        let Some(request) = request else { break };
        if worker.submit(at, request, &mut out).is_err() {
            refused.push(request.id);
        }
        every_block_is_counted(&worker)?;
    }
    let (mut cached, mut ends) = (BTreeMap::new(), BTreeMap::new());
    for (_, event) in &out.events {
        match event.kind {
            WorkerEventKind::Scheduled { cached_tokens } => {
                prop_assert_eq!(cached.insert(event.request, cached_tokens), None);
            }
            kind if kind.ends_stay() => prop_assert_eq!(ends.insert(event.request, kind), None),
            _ => {}
        }
    }
    prop_assert!(refused.iter().all(|request| !ends.contains_key(request)));
    prop_assert_eq!(ends.len() + refused.len(), arrivals.len(), "a request did not end");
    prop_assert_eq!(cached.len(), ends.len());
    let count = worker.count_blocks();
    prop_assert_eq!(count.held, 0, "{:?} when all have gone", count);
    Ok(cached)
}

proptest! {
    #![proptest_config(cases(3_000))]

    #[test]
    fn an_admitted_prompt_finds_its_blocks(
        config in any_engine(), draws in any_draws(), follows in any_follows(),
    ) {
        let mut arrivals = arrivals(&draws, config.block_size);
        entangle(&mut arrivals, &follows, config.block_size);
        serve(&config, &arrivals)?;
    }

    #[test]
    fn an_admitted_prompt_finds_its_blocks_also_with_tiers(
        config in any_tiered_engine(), draws in any_draws(), follows in any_follows(),
    ) {
        let mut arrivals = arrivals(&draws, config.block_size);
        entangle(&mut arrivals, &follows, config.block_size);
        serve(&config, &arrivals)?;
    }
}

/// Conversations under every option, whose prompts share cached blocks and together
/// are larger than the pool.
#[test]
fn a_pool_that_is_too_small_for_all_serves_all() {
    let shared = |text: u64, blocks| BlockRun { first: BlockId(text << 20), len: blocks };
    let request = |id: u32| {
        let text = u64::from(id % 3);
        let blocks = 6 * (id % 3 + 1) + id % 5;
        let private = BlockId(1 << 40 | u64::from(id) << 20);
        let content = Content::new([shared(text, blocks)], private);
        Request::new(RequestId(id), blocks * 32 + 1, 1, content)
    };
    let arrivals: Vec<(SimTime, Request)> = (0..200)
        .map(|id| (SimTime::ZERO + SimDuration::from_millis(u64::from(id / 2) * 9), request(id)))
        .collect();
    for flags in 0..16u32 {
        let on = |bit: u32| flags >> bit & 1 == 1;
        let config = EngineConfig {
            block_size: 32,
            num_blocks: 24,
            max_num_seqs: 4,
            max_num_batched_tokens: 1_024,
            max_model_len: 768,
            rules: Rules::Trtllm(TrtllmOptions {
                reserve_net_of_reuse: true,
                duplicate_delay: on(0),
                partial_reuse: on(1),
                count_cached_in_budget: on(2),
                ..TrtllmOptions::default()
            }),
            overlap: on(3),
            ..trtllm_config()
        };
        let cached = serve(&config, &arrivals).expect("every block is counted");
        assert!(cached.values().any(|&tokens| tokens > 0), "nothing is reused");
    }
}

/// Prompts of 4 to 94 blocks on a pool of 96, three texts in common.
const NET_OF_REUSE: &str = r#"name = "net"
[cluster]
workers = 1
[engine]
rules = "trtllm"
num_blocks = 96
max_num_seqs = 2
max_num_batched_tokens = 512
step_time = { kind = "fixed", prefill = "10ms", decode = "5ms" }
trtllm.reserve_net_of_reuse = true
[router]
policy = "round_robin"
[workload]
kind = "conversations"
concurrency = 2
starters = 3
starter_tokens = { kind = "uniform", min = 100, max = 2_972 }
turns = { min = 1, max = 1 }
question_tokens = { kind = "constant", value = 1 }
output_tokens = { kind = "constant", value = 1 }
[measure]
window = "6s"
seeds = 4
"#;

#[test]
fn an_experiment_that_reserves_net_of_reuse_ends() {
    let place = Scratch::new();
    place.write("net.toml", NET_OF_REUSE);
    let run = place.sim(&["run", "net.toml", "--no-figures"]);
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
}
