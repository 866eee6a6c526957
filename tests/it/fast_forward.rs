//! Law 6: fast-forward equals step by step, to the picosecond.

use super::rig::{Draw, any_draws, any_engine, cases, request};
use kv_router_sim::engine::Gauges;
use kv_router_sim::engine::config::EngineConfig;
use kv_router_sim::event::{KvEvent, WorkerEvent, WorkerEventKind};
use kv_router_sim::fleet::{Fleet, SimulatedFleet};
use kv_router_sim::id::{RequestId, WorkerId};
use kv_router_sim::time::{SimDuration, SimTime};
use kv_router_sim::truth::WorkerTruth;
use proptest::prelude::*;
use std::sync::Arc;

#[derive(Debug, PartialEq)]
struct Seen {
    events: Vec<(SimTime, WorkerEvent)>,
    rejected: Vec<RequestId>,
    kv: Vec<(SimTime, KvEvent)>,
    /// Cache events that a router asked for in mid-run, by how many there were.
    peeks: Vec<usize>,
    gauges: Vec<Gauges>,
    /// What an oracle would be shown for the request at hand.
    truth: Vec<WorkerTruth>,
    gaps: (u64, Option<f64>, Option<u64>, Option<u64>),
}

fn run(config: &EngineConfig, draws: &[Draw], peek_every: usize, outputs: bool) -> Seen {
    let mut fleet = SimulatedFleet::new(1, &Arc::new(config.clone()), true);
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
    for (i, &draw) in (0u32..).zip(draws) {
        now += SimDuration::from_ps(draw.0);
        while let Some(event) = fleet.next_event(now) {
            seen.events.push(event);
        }
        let request = request(i, draw, config.block_size);
        if (i as usize).is_multiple_of(peek_every) {
            let truth = fleet.truth(now).expect("a simulated fleet knows");
            seen.truth.extend(truth.workers(&request));
            // A router without delay, or one that sees what was between boundaries.
            let delay = SimDuration::from_ps(if i.is_multiple_of(2) { 0 } else { 7_777 });
            let until = SimTime::ZERO + now.since(SimTime::ZERO + delay);
            let before = seen.kv.len();
            fleet.take_kv_events(until, &mut |_, at, event| seen.kv.push((at, event)));
            seen.peeks.push(seen.kv.len() - before);
            seen.gauges.extend(fleet.gauges(now));
        }
        if fleet.submit(now, WorkerId(0), &request).is_err() {
            seen.rejected.push(request.id);
        }
    }
    while let Some(event) = fleet.next_event(SimTime::MAX) {
        seen.events.push(event);
    }
    let end = seen.events.last().map_or(now, |&(at, _)| at.max(now));
    fleet.take_kv_events(SimTime::MAX, &mut |_, at, event| seen.kv.push((at, event)));
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
    let jumping = EngineConfig { fast_forward: true, ..config.clone() };
    let jumped = run(&jumping, draws, peek_every, false);
    let mut told = run(&jumping, draws, peek_every, true);
    let stepping = EngineConfig { fast_forward: false, ..config };
    let stepped = run(&stepping, draws, peek_every, true);
    prop_assert_eq!(&stepped.events, &told.events, "with blocks of outputs");
    // Telling of them changes nothing else.
    let is_block = |kind| matches!(kind, WorkerEventKind::OutputBlock { .. });
    told.events.retain(|(_, event)| !is_block(event.kind));
    prop_assert_eq!(&told, &jumped);
    let stepped = run(&stepping, draws, peek_every, false);
    for (a, b) in stepped.events.iter().zip(&jumped.events) {
        prop_assert_eq!(a, b, "first difference of the event streams");
    }
    for (i, (a, b)) in stepped.kv.iter().zip(&jumped.kv).enumerate() {
        prop_assert_eq!(a, b, "first difference of the cache events, at {}", i);
    }
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
