//! Law 6: fast-forward equals step by step, to the picosecond.

use super::rig::{
    Draw, any_draws, any_engine, arrivals, cases, private_blocks, under_vllm, vllm_config,
};
use kv_router_sim::engine::Gauges;
use kv_router_sim::engine::config::{EngineConfig, SharedKv, TierOptions};
use kv_router_sim::engine::step_time::{Linear, StepTime};
use kv_router_sim::engine::tiers::{LoadRule, Offload, TierSpec};
use kv_router_sim::event::{KvEvent, Medium, WorkerEvent, WorkerEventKind};
use kv_router_sim::fleet::{Fleet, SimulatedFleet};
use kv_router_sim::id::{RequestId, WorkerId};
use kv_router_sim::request::{Content, Request};
use kv_router_sim::time::{SimDuration, SimTime};
use kv_router_sim::truth::WorkerTruth;
use proptest::prelude::*;
use std::sync::Arc;

#[derive(Debug, PartialEq)]
struct Seen {
    events: Vec<(SimTime, WorkerEvent)>,
    rejected: Vec<RequestId>,
    kv: Vec<(WorkerId, SimTime, KvEvent)>,
    /// Cache events that a router asked for in mid-run, by how many there were.
    peeks: Vec<usize>,
    gauges: Vec<Gauges>,
    /// What an oracle would be shown for the request at hand.
    truth: Vec<WorkerTruth>,
    gaps: (u64, Option<f64>, Option<u64>, Option<u64>),
}

/// Who looks on: at the truth, the gauges and the cache events of every so many
/// arrivals, at cache events at all, at the growth of outputs.
#[derive(Clone, Copy)]
struct Lookers {
    peek_every: usize,
    listens: bool,
    outputs: bool,
}

/// Where a request goes: to any of the ranks.
fn rank_of(RequestId(id): RequestId, ranks: u32) -> WorkerId {
    WorkerId((id.wrapping_mul(0x9e37_79b9) >> 16) % ranks)
}

fn run(config: &EngineConfig, arrivals: &[(SimTime, Request)], lookers: Lookers) -> Seen {
    run_with(config, arrivals, &[], lookers)
}

/// With clients that give requests up at these times, which are in order.
fn run_with(
    config: &EngineConfig,
    arrivals: &[(SimTime, Request)],
    hang_ups: &[(SimTime, RequestId)],
    lookers: Lookers,
) -> Seen {
    let mut hang_ups = hang_ups.iter().peekable();
    let Lookers { peek_every, listens, outputs } = lookers;
    let mut fleet = SimulatedFleet::new(1, &Arc::new(config.clone()), listens);
    if outputs {
        fleet.tell_output_blocks();
    }
    let mut seen = Seen {
        events: Vec::new(),
        rejected: Vec::new(),
        kv: Vec::new(),
        peeks: Vec::new(),
        gauges: Vec::new(),
        truth: Vec::new(),
        gaps: (0, None, None, None),
    };
    let mut now = SimTime::ZERO;
    let rank_of = |request| rank_of(request, config.attention_dp);
    let give_up = |fleet: &mut SimulatedFleet, seen: &mut Seen, at: SimTime, request| {
        while let Some(event) = fleet.next_event(at) {
            seen.events.push(event);
        }
        fleet.abort(at, rank_of(request), request);
    };
    for (i, (at, request)) in (0u32..).zip(arrivals) {
        now = *at;
        while let Some(&(at, request)) = hang_ups.next_if(|(at, _)| *at <= now) {
            give_up(&mut fleet, &mut seen, at, request);
        }
        while let Some(event) = fleet.next_event(now) {
            seen.events.push(event);
        }
        if (i as usize).is_multiple_of(peek_every) {
            let truth = fleet.truth(now).expect("a simulated fleet knows");
            seen.truth.extend(truth.workers(request));
            // A router without delay, or one that sees what was between boundaries.
            let delay = SimDuration::from_ps(if i.is_multiple_of(2) { 0 } else { 7_777 });
            let until = SimTime::ZERO + now.since(SimTime::ZERO + delay);
            let before = seen.kv.len();
            fleet.take_kv_events(until, &mut |from, at, event| {
                seen.kv.push((from, at, event));
            });
            seen.peeks.push(seen.kv.len() - before);
            seen.gauges.extend(fleet.gauges(now));
        }
        if fleet.submit(now, rank_of(request.id), request).is_err() {
            seen.rejected.push(request.id);
        }
    }
    for &(at, request) in hang_ups {
        give_up(&mut fleet, &mut seen, at, request);
        now = at;
    }
    while let Some(event) = fleet.next_event(SimTime::MAX) {
        seen.events.push(event);
    }
    let (all, free) = fleet.workers()[0].blocks();
    assert_eq!(free, all, "nothing is held when nothing is left");
    let end = seen.events.last().map_or(now, |&(at, _)| at.max(now));
    fleet.take_kv_events(SimTime::MAX, &mut |from, at, event| {
        seen.kv.push((from, at, event));
    });
    seen.gauges.extend(fleet.gauges(end));
    let gaps = fleet.take_token_gaps(end);
    seen.gaps = (gaps.count(), gaps.mean(), gaps.min(), gaps.max());
    seen
}

/// Jumping and stepping show the same.
pub(crate) fn hold(
    config: EngineConfig,
    draws: &[Draw],
    peek_every: usize,
) -> Result<(), TestCaseError> {
    hold_with(config, draws, &[], peek_every)
}

/// Also where clients give up the requests of these places, so long after they came.
pub(crate) fn hold_with(
    config: EngineConfig,
    draws: &[Draw],
    hang_ups: &[(prop::sample::Index, u64)],
    peek_every: usize,
) -> Result<(), TestCaseError> {
    let jumping = EngineConfig { fast_forward: true, ..config.clone() };
    let arrivals = arrivals(draws, config.block_size);
    let hang_up = |(at, after_ps): &(prop::sample::Index, u64)| {
        let (came, request) = &arrivals[at.index(arrivals.len())];
        (*came + SimDuration::from_ps(*after_ps), request.id)
    };
    let mut hang_ups: Vec<(SimTime, RequestId)> = hang_ups.iter().map(hang_up).collect();
    hang_ups.sort_unstable();
    let run = |config: &EngineConfig, lookers| run_with(config, &arrivals, &hang_ups, lookers);
    let plain = Lookers { peek_every, listens: true, outputs: false };
    let asked = Lookers { outputs: true, ..plain };
    let jumped = run(&jumping, plain);
    let mut told = run(&jumping, asked);
    let stepping = EngineConfig { fast_forward: false, ..config };
    let stepped = run(&stepping, asked);
    prop_assert_eq!(&stepped.events, &told.events, "with blocks of outputs");
    // Telling of them changes nothing else.
    let is_block = |kind| matches!(kind, WorkerEventKind::OutputBlock { .. });
    told.events.retain(|(_, event)| !is_block(event.kind));
    prop_assert_eq!(&told, &jumped);
    let stepped = run(&stepping, plain);
    for (a, b) in stepped.events.iter().zip(&jumped.events) {
        prop_assert_eq!(a, b, "first difference of the event streams");
    }
    for (i, (a, b)) in stepped.kv.iter().zip(&jumped.kv).enumerate() {
        prop_assert_eq!(a, b, "first difference of the cache events, at {}", i);
    }
    let mut ends: Vec<RequestId> = jumped.rejected.clone();
    let ended = jumped.events.iter().filter(|(_, event)| event.kind.ends_stay());
    ends.extend(ended.map(|(_, event)| event.request));
    ends.sort_unstable();
    let all: Vec<RequestId> = arrivals.iter().map(|(_, request)| request.id).collect();
    prop_assert_eq!(ends, all, "every request ends once");
    prop_assert_eq!(stepped, jumped);
    Ok(())
}

proptest! {
    #![proptest_config(cases(3_000))]

    #[test]
    fn fast_forward_equals_step_by_step(
        config in any_engine(), draws in any_draws(), peek_every in 1usize..5,
    ) {
        hold(config, &draws, peek_every)?;
    }

    /// Reads of KV that sequences share are saved, as those come and go.
    #[test]
    fn saved_reads_are_the_same_step_by_step(
        config in any_engine(),
        sequences_at_once in 1u32..6,
        found in 0.1f64..1.0,
        draws in any_draws(),
        peek_every in 1usize..5,
    ) {
        let shared_kv = Some(SharedKv { sequences_at_once, l2_speed: 1.75, found });
        hold(EngineConfig { shared_kv, ..config }, &draws, peek_every)?;
    }

    /// Clients hang up before, while and after their requests are served.
    #[test]
    fn given_up_requests_leave_at_the_same_boundaries(
        config in any_engine(),
        draws in any_draws(),
        hang_ups in prop::collection::vec((any::<prop::sample::Index>(), 0..3_000_000_000_000u64), 1..20),
        peek_every in 1usize..5,
    ) {
        hold_with(config, &draws, &hang_ups, peek_every)?;
    }
}

/// A prompt that must be computed in one step has no room in it beside 30 sequences
/// that decode. Half way through another one's load the link is free soon enough for
/// loading to be sooner than computing, and it has: nothing else happens then.
#[test]
fn a_load_that_becomes_worth_it_is_not_passed_over() {
    let ms = SimDuration::from_millis;
    let host = TierSpec {
        medium: Medium::Host,
        blocks: 1_000,
        block_time: ms(4),
        latency: SimDuration::ZERO,
    };
    let config = EngineConfig {
        chunked_prefill: false,
        num_blocks: 110,
        max_num_seqs: 64,
        max_num_batched_tokens: 320,
        max_model_len: 320,
        step_time: StepTime::Linear(Linear {
            step: ms(10),
            prefill_token: SimDuration::from_micros(300),
            ..Linear::default()
        }),
        tiers: TierOptions { tiers: vec![host], offload: Offload::Computed, load: LoadRule::Auto },
        ..vllm_config()
    };
    // Two texts of 18 blocks, and enough after them for both to leave the pool.
    let (second, now) = (ms(1_000).as_ps(), 0);
    let mut draws: Vec<Draw> = (1..8).map(|text| (second, text, 18, 5, 1)).collect();
    draws.extend([(second, 0, 0, 300, 1); 3]);
    draws.push((second, 0, 0, 10, 40));
    draws.extend([(now, 0, 0, 10, 40); 29]);
    draws.push((ms(150).as_ps(), 2, 18, 5, 1));
    draws.push((now, 1, 18, 7, 1));
    hold(config.clone(), &draws, 1).expect("the same");
    let nobody = Lookers { peek_every: draws.len(), listens: false, outputs: false };
    let seen = run(&config, &arrivals(&draws, config.block_size), nobody);
    let loads = seen.events.iter().filter_map(|(_, event)| match event.kind {
        WorkerEventKind::Loaded { time, .. } => Some((event.request.0, time)),
        _ => None,
    });
    // 18 blocks take 72 ms; the second load waits for the first one's last 12.
    assert_eq!(loads.collect::<Vec<_>>(), [(40, ms(72)), (41, ms(84))]);
}

/// From which of the earlier requests one goes on, and after how many blocks.
pub(crate) type Follow = Option<(prop::sample::Index, u32)>;

pub(crate) fn any_follows() -> impl Strategy<Value = Vec<Follow>> {
    prop::collection::vec(prop::option::of((any::<prop::sample::Index>(), 0u32..9)), 40)
}

/// The same arrivals, but that some requests go on from what an earlier one holds
/// or will hold, as far as `follows` says; 0 blocks: from all, as its twin.
pub(crate) fn entangle(arrivals: &mut [(SimTime, Request)], follows: &[Follow], block_size: u32) {
    for (i, follow) in (0u32..).zip(follows).take(arrivals.len()).skip(1) {
        let Some((earlier, blocks)) = follow else { continue };
        let earlier = arrivals[earlier.index(i as usize)].1.clone();
        let request = &mut arrivals[i as usize].1;
        if *blocks == 0 {
            request.content = earlier.content;
            request.prompt_tokens = earlier.prompt_tokens;
        } else {
            request.content = Content::new(earlier.content.runs(*blocks), private_blocks(i));
            request.prompt_tokens = blocks * block_size + 1 + request.prompt_tokens % 7;
        }
    }
}

proptest! {
    #![proptest_config(cases(3_000))]

    /// What decoding fills is entered into vLLM's cache late where no event tells
    /// of it, but before anybody sees the difference.
    #[test]
    fn who_listens_to_the_cache_changes_nothing(
        config in any_engine(),
        draws in any_draws(),
        follows in any_follows(),
        peek_every in 1usize..9,
    ) {
        let config = under_vllm(config);
        let mut arrivals = arrivals(&draws, config.block_size);
        entangle(&mut arrivals, &follows, config.block_size);
        let heard = Lookers { peek_every, listens: true, outputs: false };
        let mut expected = run(&config, &arrivals, heard);
        expected.kv.clear();
        expected.peeks.fill(0);
        let unheard = run(&config, &arrivals, Lookers { listens: false, ..heard });
        prop_assert_eq!(unheard, expected);
    }
}

proptest! {
    #![proptest_config(cases(1_000_000))]

    /// The long run: `cargo test --release --test it -- --ignored a_million`.
    #[test]
    #[ignore = "long: a million random workloads"]
    fn a_million_workloads_fast_forward_exactly(
        config in any_engine(), draws in any_draws(), peek_every in 1usize..5,
    ) {
        hold(config, &draws, peek_every)?;
    }
}
