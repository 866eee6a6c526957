//! A router that counts outputs hears of each block that one grows into.

use super::rig::{Draw, any_draws, any_engine, cases, request, vllm_config};
use kv_router_sim::engine::config::EngineConfig;
use kv_router_sim::event::WorkerEventKind;
use kv_router_sim::fleet::{Fleet, SimulatedFleet};
use kv_router_sim::id::WorkerId;
use kv_router_sim::time::{SimDuration, SimTime};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What was told of one request: when its first token left, the tokens that
/// began a block, in the order told, and its end with the tokens in all.
#[derive(Debug, Default)]
struct Told {
    first_token: Option<SimTime>,
    blocks: Vec<(SimTime, u32)>,
    end: Option<(SimTime, u32)>,
}

fn run(config: &EngineConfig, draws: &[Draw]) -> BTreeMap<u32, Told> {
    let mut fleet = SimulatedFleet::new(1, &Arc::new(config.clone()), false);
    fleet.tell_output_blocks();
    let mut told: BTreeMap<u32, Told> = BTreeMap::new();
    let mut listen = |fleet: &mut SimulatedFleet, until| {
        while let Some((at, event)) = fleet.next_event(until) {
            let told = told.entry(event.request.0).or_default();
            match event.kind {
                WorkerEventKind::FirstToken => told.first_token = Some(at),
                WorkerEventKind::OutputBlock { output_tokens } => {
                    told.blocks.push((at, output_tokens));
                }
                WorkerEventKind::Finished { output_tokens } => told.end = Some((at, output_tokens)),
                _ => {}
            }
        }
    };
    let mut now = SimTime::ZERO;
    for (id, &draw) in (0..).zip(draws) {
        now += SimDuration::from_ps(draw.0);
        listen(&mut fleet, now);
        let _refused = fleet.submit(now, WorkerId(0), &request(id, draw, config.block_size));
    }
    listen(&mut fleet, SimTime::MAX);
    told
}

proptest! {
    #![proptest_config(cases(1_500))]

    /// All blocks after the first token and before the last are told, no others,
    /// at times in order.
    #[test]
    fn every_block_of_every_output_is_told(config in any_engine(), draws in any_draws()) {
        let told = run(&config, &draws);
        for (id, told) in &told {
            let draw = draws[*id as usize];
            let prompt_tokens = request(*id, draw, config.block_size).prompt_tokens;
            let (end, tokens) = told.end.expect("every request ends");
            let begins_block = |n: &u32| (prompt_tokens + n - 1).is_multiple_of(config.block_size);
            let expected: BTreeSet<u32> = (2..tokens).filter(begins_block).collect();
            let blocks: BTreeSet<u32> = told.blocks.iter().map(|&(_, tokens)| tokens).collect();
            prop_assert_eq!(blocks, expected, "request {} of {} tokens", id, prompt_tokens);
            prop_assert!(told.blocks.is_sorted(), "{told:?}");
            for &(at, _) in &told.blocks {
                prop_assert!(told.first_token.is_some_and(|first| first <= at));
                prop_assert!(at <= end);
            }
        }
    }
}

/// 20 ms of prefill, then a token every 10 ms: tokens 8, 24 and 40 begin a block.
#[test]
fn blocks_are_told_when_their_first_tokens_leave() {
    let told = run(&vllm_config(), &[(0, 1, 0, 9, 41)]);
    let at_ms = |ms| SimTime::ZERO + SimDuration::from_millis(ms);
    assert_eq!(told[&0].first_token, Some(at_ms(20)));
    assert_eq!(told[&0].blocks, [(at_ms(90), 8), (at_ms(250), 24), (at_ms(410), 40)]);
}
