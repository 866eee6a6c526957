//! Cache changes that are heard when a router asks about their blocks are those that are
//! heard anyway, no earlier and no later.

use super::fast_forward::{any_follows, entangle};
use super::rig::{any_draws, any_engine, arrivals, cases, under_vllm};
use super::script::cluster;
use kv_router_sim::engine::config::EngineConfig;
use kv_router_sim::engine::rules::{Rules, VllmOptions};
use kv_router_sim::engine::settings::SchedulingPolicy;
use kv_router_sim::event::{KvEvent, WorkerEvent};
use kv_router_sim::fleet::{Fleet, SimulatedFleet};
use kv_router_sim::id::{BlockId, RequestId, WorkerId};
use kv_router_sim::request::{BlockRun, Content, Request};
use kv_router_sim::router::Policy;
use kv_router_sim::router::kv::{KvParams, KvPolicy, Semantics};
use kv_router_sim::time::{SimDuration, SimTime};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::sync::Arc;

/// The blocks that each worker is known to hold, and the index of a policy.
struct Known {
    held: Vec<BTreeSet<BlockId>>,
    policy: KvPolicy,
}

impl Known {
    fn new(config: &EngineConfig, workers: u32) -> Self {
        let params = KvParams::with_weight(Semantics::V1_6, 1.0);
        Self {
            held: vec![BTreeSet::new(); workers as usize],
            policy: KvPolicy::new(params, &cluster(config, workers), 1),
        }
    }

    fn hear(&mut self, worker: WorkerId, event: &KvEvent) {
        let ids = |run: BlockRun| (0..run.len).map(move |i| run.first.offset(i));
        let held = &mut self.held[worker.index()];
        match *event {
            KvEvent::Stored { run, .. } => held.extend(ids(run)),
            KvEvent::Removed { run } => ids(run).for_each(|id| _ = held.remove(&id)),
            _ => panic!("there are no tiers"),
        }
        self.policy.observe_kv(worker, event);
    }

    /// How many leading blocks of a sequence each worker holds.
    fn leading(&self, content: &Content, blocks: u32) -> Vec<u32> {
        let leading = |held: &BTreeSet<BlockId>| {
            content.blocks(blocks).take_while(|id| held.contains(id)).count()
        };
        self.held.iter().map(|held| u32::try_from(leading(held)).expect("few")).collect()
    }
}

/// A fleet that is asked for everything, or on demand up to some arrival.
struct Side {
    fleet: SimulatedFleet,
    known: Known,
    life: Vec<(SimTime, WorkerEvent)>,
    rejected: Vec<RequestId>,
}

impl Side {
    fn new(config: &EngineConfig, workers: u32) -> Self {
        let mut fleet = SimulatedFleet::new(workers, &Arc::new(config.clone()), true);
        fleet.count_copies();
        let known = Known::new(config, workers);
        Self { fleet, known, life: Vec::new(), rejected: Vec::new() }
    }

    fn run_to(&mut self, now: SimTime) {
        while let Some(event) = self.fleet.next_event(now) {
            self.life.push(event);
        }
    }

    fn take_all(&mut self, until: SimTime) {
        let known = &mut self.known;
        self.fleet.take_kv_events(until, &mut |source, at, event| {
            assert!(at <= until, "{event:?} is published at {at:?}");
            known.hear(source, &event);
        });
    }

    fn take_of(&mut self, until: SimTime, request: &Request, block_size: u32) {
        let prompt = request.route_view(block_size).blocks;
        let known = &mut self.known;
        self.fleet.take_kv_events_of(until, &prompt, &mut |source, event| {
            known.hear(source, &event);
        });
    }

    fn submit(&mut self, now: SimTime, worker: WorkerId, request: &Request) {
        if self.fleet.submit(now, worker, request).is_err() {
            self.rejected.push(request.id);
        }
    }
}

/// What two routers know, of whom one asks for everything.
fn agree(
    config: &EngineConfig,
    requests: &[(SimTime, Request)],
    workers: &[u32],
    delay: SimDuration,
    gauges_every: usize,
    asks_for_all_at: usize,
) -> Result<(), TestCaseError> {
    let block_size = config.block_size;
    let many = workers.iter().max().map_or(1, |most| most + 1);
    let (mut eager, mut asking) = (Side::new(config, many), Side::new(config, many));
    let mut now = SimTime::ZERO;
    for (i, (at, request)) in requests.iter().enumerate() {
        now = *at;
        let until = SimTime::ZERO + now.since(SimTime::ZERO + delay);
        eager.run_to(now);
        asking.run_to(now);
        eager.take_all(until);
        if i == asks_for_all_at {
            asking.take_all(until);
            prop_assert_eq!(&eager.known.held, &asking.known.held, "all, at arrival {}", i);
        } else {
            asking.take_of(until, request, block_size);
        }
        let view = request.route_view(block_size);
        let blocks = view.blocks.len();
        let (expected, got) = (
            eager.known.leading(&request.content, blocks),
            asking.known.leading(&request.content, blocks),
        );
        prop_assert_eq!(&expected, &got, "held of the prompt of arrival {}", i);
        let indexed = eager.known.policy.overlap_blocks(&view);
        prop_assert_eq!(indexed.as_ref(), Some(&expected));
        prop_assert_eq!(asking.known.policy.overlap_blocks(&view), Some(expected));
        // What the whole rests on: a worker loses no block before those that follow it.
        for (_, other) in &requests[..i] {
            let all = (other.prompt_tokens + other.output_tokens) / block_size;
            let leading = eager.known.leading(&other.content, all);
            for (held, leading) in eager.known.held.iter().zip(leading) {
                let all = other.content.blocks(all).filter(|id| held.contains(id)).count();
                prop_assert_eq!(all, leading as usize, "a hole at arrival {}", i);
            }
        }
        if i.is_multiple_of(gauges_every) {
            prop_assert_eq!(eager.fleet.gauges(now), asking.fleet.gauges(now));
        }
        let worker = WorkerId(workers[i % workers.len()]);
        eager.submit(now, worker, request);
        asking.submit(now, worker, request);
    }
    eager.run_to(SimTime::MAX);
    asking.run_to(SimTime::MAX);
    prop_assert_eq!(&eager.life, &asking.life);
    prop_assert_eq!(&eager.rejected, &asking.rejected);
    let end = eager.life.last().map_or(now, |(at, _)| *at);
    // Changes keep their times, too.
    let some = SimTime::from_ps(u64::midpoint(now.as_ps(), end.as_ps()));
    for until in [some, SimTime::MAX] {
        eager.take_all(until);
        asking.take_all(until);
        prop_assert_eq!(&eager.known.held, &asking.known.held);
    }
    Ok(())
}

proptest! {
    #![proptest_config(cases(2_000))]

    #[test]
    fn who_asks_about_a_prompt_hears_all_that_concerns_it(
        config in any_engine(),
        draws in any_draws(),
        follows in any_follows(),
        workers in prop::collection::vec(0u32..3, 1..12),
        delay in prop_oneof![Just(0u64), 0u64..100_000, 0u64..30_000_000_000],
        gauges_every in 1usize..9,
        asks_for_all_at in prop_oneof![2 => Just(usize::MAX), 1 => 0usize..40],
    ) {
        let config = under_vllm(config);
        let mut requests = arrivals(&draws, config.block_size);
        entangle(&mut requests, &follows, config.block_size);
        let delay = SimDuration::from_ps(delay);
        agree(&config, &requests, &workers, delay, gauges_every, asks_for_all_at)?;
    }

    /// Sequences that sit out a step fill their next block later (R19).
    #[test]
    fn who_asks_hears_when_sequences_that_were_passed_over_fill_their_blocks(
        config in any_engine(),
        draws in any_draws(),
        follows in any_follows(),
        workers in prop::collection::vec(0u32..2, 1..6),
        delay in prop_oneof![Just(0u64), 0u64..30_000_000_000],
        asks_for_all_at in 0usize..30,
    ) {
        let options = VllmOptions { policy: SchedulingPolicy::Priority, ..VllmOptions::default() };
        let config = EngineConfig { rules: Rules::Vllm(options), ..config };
        let mut requests = arrivals(&draws, config.block_size);
        entangle(&mut requests, &follows, config.block_size);
        let delay = SimDuration::from_ps(delay);
        agree(&config, &requests, &workers, delay, 1, asks_for_all_at)?;
    }
}
