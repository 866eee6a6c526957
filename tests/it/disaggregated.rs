//! Workers that prefill and workers that decode: the laws of one pool hold for
//! two, and what is between them is conserved.

use super::admission::every_block_is_counted;
use super::rig::{Draw, any_draws, any_engine, arrivals, cases, lone_request, request};
use super::rig::{of_one_pool, under_vllm, vllm_config};
use super::script::{Run, Script, play, play_pools, router};
use kv_router_sim::engine::Gauges;
use kv_router_sim::engine::config::EngineConfig;
use kv_router_sim::engine::step_time::StepTime;
use kv_router_sim::event::{KvEvent, WorkerEvent, WorkerEventKind};
use kv_router_sim::fleet::{Fleet, Link, Pool, PoolRole, Pools, SimulatedFleet};
use kv_router_sim::id::{RequestId, WorkerId};
use kv_router_sim::recorder::{End, RequestRecord};
use kv_router_sim::request::RouteRequest;
use kv_router_sim::router::disaggregated::{ConditionalDisaggregation, Disaggregated};
use kv_router_sim::router::settings::RouterSettings;
use kv_router_sim::router::{FrontEnd, Role};
use kv_router_sim::time::{SimDuration, SimTime};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

const INFINITE: Link = Link { gbit_per_s: f64::INFINITY, latency: SimDuration::ZERO };

/// A pool that prefills and one that decodes.
#[derive(Clone, Debug)]
pub(crate) struct Two {
    pub(crate) prefill_workers: u32,
    pub(crate) decode_workers: u32,
    /// More of each that may start later.
    pub(crate) spare: u32,
    pub(crate) prefill: Arc<EngineConfig>,
    pub(crate) decode: Arc<EngineConfig>,
    pub(crate) link: Link,
}

impl Two {
    pub(crate) fn pools(&self) -> Pools {
        let pool = |role: PoolRole, workers, engine: &Arc<EngineConfig>| Pool {
            name: role.name().to_owned(),
            role,
            workers,
            spare: self.spare,
            engine: Arc::clone(engine),
        };
        let pools = vec![
            pool(PoolRole::Prefill, self.prefill_workers, &self.prefill),
            pool(PoolRole::Decode, self.decode_workers, &self.decode),
        ];
        Pools::new(pools, self.link).expect("pools that go together")
    }
}

pub(crate) fn pools(
    workers: (u32, u32),
    prefill: EngineConfig,
    decode: EngineConfig,
    link: Link,
) -> Two {
    let moving = |config| Arc::new(EngineConfig { kv_bytes_per_token: Some(1e6), ..config });
    Two {
        prefill_workers: workers.0,
        decode_workers: workers.1,
        spare: 0,
        prefill: moving(prefill),
        decode: moving(decode),
        link,
    }
}

/// Small engines of vLLM's rules with one block size, and any link. Steps take
/// time, and odd times: what workers do at the very same moment has no order.
pub(crate) fn any_pools() -> impl Strategy<Value = Two> {
    let gbit_per_s = prop_oneof![Just(f64::INFINITY), 1e3..1e8];
    let link = (gbit_per_s, 0u64..50_000_000).prop_map(|(gbit_per_s, latency)| Link {
        gbit_per_s,
        latency: SimDuration::from_ps(latency),
    });
    let workers = (1u32..4, 1u32..4);
    (workers, any_engine(), any_engine(), link).prop_map(|(workers, prefill, decode, link)| {
        let fit = |config: EngineConfig, odd: u64| EngineConfig {
            rules: of_one_pool(under_vllm(config.clone())).rules,
            block_size: prefill.block_size,
            max_num_batched_tokens: config.max_num_batched_tokens.max(prefill.block_size),
            max_model_len: match config.num_blocks * prefill.block_size {
                pool if config.chunked_prefill => pool,
                pool => pool.min(config.max_model_len),
            },
            step_time: match config.step_time {
                StepTime::Fixed { prefill, decode } => StepTime::Fixed {
                    prefill: prefill + SimDuration::from_ps(1_009 + odd),
                    decode: decode + SimDuration::from_ps(5_003 + odd),
                },
                other => other,
            },
            ..config
        };
        pools(workers, fit(prefill.clone(), 0), fit(decode, 2_718), link)
    })
}

pub(crate) fn stepping(pools: &Two) -> Two {
    let step =
        |config: &EngineConfig| Arc::new(EngineConfig { fast_forward: false, ..config.clone() });
    Two { prefill: step(&pools.prefill), decode: step(&pools.decode), ..pools.clone() }
}

/// Two policies of one kind, one for each pool.
pub(crate) fn two_policies(settings: &RouterSettings, pools: &Two) -> FrontEnd {
    let conditional = settings.front_ends.conditional_disaggregation;
    let decode = Role::Decode { may_prefill: conditional.is_some() };
    let pools = pools.pools();
    let clusters = [pools.spec(Role::Prefill, true), pools.spec(decode, true)];
    let chosen = settings.chosen();
    let policies = [chosen.build(&clusters[0], 7), chosen.build(&clusters[1], 8)];
    let both = Disaggregated::new(policies, &clusters).with_condition(conditional);
    FrontEnd::new(Box::new(both), pools.sides(), &settings.feed(), 7)
}

/// What a fleet of two pools shows, with requests sent to workers in turn.
#[derive(Debug, PartialEq)]
struct Seen {
    lives: BTreeMap<RequestId, Vec<(SimTime, WorkerEvent)>>,
    kv: BTreeMap<WorkerId, Vec<(SimTime, KvEvent)>>,
    gauges: Vec<Gauges>,
    gaps: (u64, Option<f64>, Option<u64>, Option<u64>),
}

/// A fleet driven by hand.
struct Bench<'a> {
    pools: &'a Two,
    fleet: SimulatedFleet,
    requests: Vec<kv_router_sim::request::Request>,
    lives: BTreeMap<RequestId, Vec<(SimTime, WorkerEvent)>>,
    /// Blocks of prompts that prefill workers must be keeping, by worker.
    kept: BTreeMap<WorkerId, BTreeMap<RequestId, u32>>,
}

impl Bench<'_> {
    fn advance(&mut self, until: SimTime) -> Result<SimTime, TestCaseError> {
        let mut last = SimTime::ZERO;
        while let Some((at, event)) = self.fleet.next_event(until) {
            last = at;
            self.lives.entry(event.request).or_default().push((at, event));
            self.fleet.workers().iter().try_for_each(every_block_is_counted)?;
            let request = &self.requests[event.request.index()];
            let blocks = request.prompt_tokens.div_ceil(self.pools.prefill.block_size);
            match event.kind {
                WorkerEventKind::Prefilled => {
                    let kept = self.kept.entry(event.worker).or_default();
                    kept.insert(request.id, blocks);
                    let to = request.id.0 % self.pools.decode_workers + self.pools.prefill_workers;
                    if self.fleet.submit(at, WorkerId(to), request).is_err() {
                        kept.remove(&request.id);
                    }
                }
                WorkerEventKind::KvReceived { .. } => {
                    self.kept.values_mut().for_each(|kept| _ = kept.remove(&event.request));
                }
                _ => {}
            }
        }
        if until < SimTime::MAX {
            self.check_blocks(until)?;
        }
        Ok(last)
    }

    /// KV that nobody has fetched is still there, and nobody holds more than there is.
    fn check_blocks(&mut self, now: SimTime) -> Result<(), TestCaseError> {
        let caching = self.pools.prefill.prefix_caching;
        for (worker, gauges) in (0..).map(WorkerId).zip(self.fleet.gauges(now)) {
            let (all, free) = self.fleet.workers()[worker.index()].blocks();
            prop_assert_eq!(gauges.used_blocks, all - free);
            let kept = self.kept.get(&worker);
            let blocks = kept.map_or(0, |kept| kept.values().sum::<u32>());
            // Prompts that share blocks keep them once.
            prop_assert!(caching || gauges.used_blocks >= blocks, "{worker:?} lost kept blocks");
            let some = kept.is_some_and(|kept| !kept.is_empty());
            prop_assert!(!some || gauges.used_blocks > 0, "{worker:?} lost kept blocks");
        }
        Ok(())
    }
}

fn drive(pools: &Two, draws: &[Draw]) -> Result<Seen, TestCaseError> {
    let block_size = pools.prefill.block_size;
    let fleet = SimulatedFleet::of_pools(&pools.pools(), true);
    let (requests, kept) = (Vec::new(), BTreeMap::new());
    let mut bench = Bench { pools, fleet, requests, lives: BTreeMap::new(), kept };
    let mut now = SimTime::ZERO;
    for (id, &draw) in (0u32..).zip(draws) {
        bench.advance(now + SimDuration::from_ps(draw.0 / 2))?;
        now += SimDuration::from_ps(draw.0);
        bench.advance(now)?;
        let request = request(id, draw, block_size);
        let worker = WorkerId(id % pools.prefill_workers);
        let _refused = bench.fleet.submit(now, worker, &request);
        bench.requests.push(request);
    }
    let end = bench.advance(SimTime::MAX)?.max(now);
    let gauges = bench.fleet.gauges(end);
    prop_assert!(gauges.iter().all(|gauge| gauge.used_blocks == 0), "blocks leaked: {gauges:?}");
    let mut kv: BTreeMap<WorkerId, Vec<_>> = BTreeMap::new();
    bench.fleet.take_kv_events(SimTime::MAX, &mut |worker, at, event| {
        kv.entry(worker).or_default().push((at, event));
    });
    let gaps = bench.fleet.take_token_gaps(end);
    let gaps = (gaps.count(), gaps.mean(), gaps.min(), gaps.max());
    Ok(Seen { lives: bench.lives, kv, gauges, gaps })
}

proptest! {
    #![proptest_config(cases(1_500))]

    /// Law 6 for two pools, and law 2: kept blocks are kept, and none leaks.
    #[test]
    fn fast_forward_equals_step_by_step(pools in any_pools(), draws in any_draws()) {
        let (jumped, stepped) = (drive(&pools, &draws)?, drive(&stepping(&pools), &draws)?);
        for (request, life) in &stepped.lives {
            prop_assert_eq!(life, &jumped.lives[request], "the life of {:?}", request);
        }
        prop_assert_eq!(stepped, jumped);
    }
}

/// Every router, `kv` in both versions, with a queue and with a condition.
fn any_router() -> impl Strategy<Value = RouterSettings> {
    let kv = || RouterSettings::new("kv");
    let mut conditional = kv();
    conditional.front_ends.conditional_disaggregation =
        Some(ConditionalDisaggregation { max_uncached_tokens: 60, max_uncached_ratio: 0.9 });
    prop_oneof![
        Just(RouterSettings::new("round_robin")),
        Just(RouterSettings::new("least_loaded")),
        Just(RouterSettings::new("session_affinity")),
        Just(kv()),
        Just(kv().with("semantics", "0.9")),
        Just(kv().with("queue_threshold", 0.5)),
        Just(kv().with("active_decode_blocks_threshold", 0.4)),
        Just(kv().with("use_kv_events", false)),
        Just(kv().with("track_output_blocks", true)),
        Just(conditional),
    ]
}

fn life_of(run: &Run, record: &RequestRecord) -> Vec<(SimTime, WorkerEvent)> {
    run.events.iter().filter(|(_, event)| event.request == record.request).copied().collect()
}

/// Prefilled on one side, received, decoded and finished on the other.
fn check_life(pools: &Two, run: &Run, record: &RequestRecord) -> Result<(), TestCaseError> {
    use WorkerEventKind::{
        Finished, FirstToken, KvReceived, OutputBlock, Preempted, Prefilled, Scheduled,
    };
    let life = life_of(run, record);
    let kinds: Vec<WorkerEventKind> = life.iter().map(|(_, event)| event.kind).collect();
    let between = |kind: &WorkerEventKind| matches!(kind, Preempted | OutputBlock { .. });
    let kinds: Vec<_> = kinds.into_iter().filter(|kind| !between(kind)).collect();
    let prefills = |event: &WorkerEvent| event.worker.0 < pools.prefill_workers;
    let Some((end, how)) = record.end else {
        return Err(TestCaseError::fail(format!("{record:?} never ended")));
    };
    match (how, record.handover) {
        (End::Finished { .. }, Some(handover)) => {
            let whole = matches!(
                kinds[..],
                [
                    Scheduled { .. },
                    Prefilled,
                    KvReceived { .. },
                    Scheduled { .. },
                    FirstToken,
                    Finished { .. }
                ]
            );
            prop_assert!(whole, "{life:?}");
            let moved = life.iter().position(|(_, event)| event.kind == Prefilled);
            let moved = moved.expect("just seen");
            prop_assert!(life[..=moved].iter().all(|(_, event)| prefills(event)), "{life:?}");
            prop_assert!(!life[moved + 1..].iter().any(|(_, event)| prefills(event)), "{life:?}");
            let times = [
                Some(record.sent),
                record.dispatched.map(|(at, _)| at),
                record.scheduled,
                Some(handover.prefilled),
                handover.dispatched.map(|(at, _)| at),
                handover.scheduled,
                record.first_token,
                Some(end),
            ];
            prop_assert!(times.iter().all(Option::is_some) && times.is_sorted(), "{record:?}");
            prop_assert!(handover.transfer >= Some(pools.link.latency));
            prop_assert!(handover.queued().is_some());
        }
        (End::Finished { .. }, None) => {
            // Skipped the prefill workers.
            prop_assert!(life.iter().all(|(_, event)| !prefills(event)), "{life:?}");
        }
        (End::Rejected(_), _) => {
            prop_assert!(!kinds.iter().any(|kind| matches!(kind, Finished { .. })), "{life:?}");
        }
        _ => prop_assert!(false, "nothing is lost: {life:?}"),
    }
    Ok(())
}

proptest! {
    #![proptest_config(cases(800))]

    /// Laws 1 and 3 for two pools, whatever routes; and nothing stays behind.
    #[test]
    fn every_request_ends_once(
        pools in any_pools(), settings in any_router(), draws in any_draws(),
        front_ends in 1u32..3,
    ) {
        let script = Script::new(arrivals(&draws, pools.prefill.block_size));
        let front_ends = (0..front_ends).map(|_| two_policies(&settings, &pools)).collect();
        let run = play_pools(&pools.pools(), script, front_ends);
        prop_assert_eq!(run.records.len(), draws.len());
        for record in &run.records {
            check_life(&pools, &run, record)?;
        }
        prop_assert!(run.used_blocks.iter().all(|&blocks| blocks == 0), "{:?}", run.used_blocks);
        let finished =
            run.records.iter().filter(|r| matches!(r.end, Some((_, End::Finished { .. }))));
        prop_assert_eq!(run.metrics["finished"], Some(finished.count() as f64));
    }

    /// With room on both sides and a link that takes no time, the prefill workers
    /// are a fleet that answers every request with one token.
    #[test]
    fn with_an_infinite_link_prefill_workers_are_a_fleet_of_their_own(
        pools in any_pools(), draws in any_draws(),
    ) {
        let roomy = |config: &EngineConfig| {
            let num_blocks = 100_000;
            let max_model_len = num_blocks * config.block_size;
            let chunked_prefill = true;
            Arc::new(EngineConfig { num_blocks, max_model_len, chunked_prefill, ..config.clone() })
        };
        let (prefill, decode) = (roomy(&pools.prefill), roomy(&pools.decode));
        let pools = Two { prefill, decode, link: INFINITE, ..pools };
        let round_robin = RouterSettings::new("round_robin");
        let requests = arrivals(&draws, pools.prefill.block_size);
        let short = requests.iter().cloned().map(|(at, mut request)| {
            (request.output_tokens, request.max_tokens) = (1, 1);
            (at, request)
        });
        let (config, workers) = (&*pools.prefill, pools.prefill_workers);
        let alone =
            play(config, workers, Script::new(short), router(&round_robin, config, workers), None);
        let both =
            play_pools(&pools.pools(), Script::new(requests), vec![two_policies(&round_robin, &pools)]);
        for (alone, both) in alone.records.iter().zip(&both.records) {
            prop_assert_eq!(alone.dispatched, both.dispatched);
            prop_assert_eq!(alone.scheduled, both.scheduled);
            prop_assert_eq!(alone.cached_tokens, both.cached_tokens);
            let prefilled = both.handover.map(|handover| handover.prefilled);
            prop_assert_eq!(alone.end.map(|(at, _)| at), prefilled);
        }
    }
}

fn at_ms(ms: u64) -> SimTime {
    SimTime::ZERO + SimDuration::from_millis(ms)
}

/// 20 ms for a prompt, 10 ms for a decode step; 1 Gbit/s moves a token in 8 ms.
fn slow_link(prefill_workers: u32, latency: SimDuration) -> Two {
    let link = Link { gbit_per_s: 1.0, latency };
    pools((prefill_workers, 1), vllm_config(), vllm_config(), link)
}

/// A golden, by hand: prefill to 20 ms, 30 tokens to 260 ms, 5 ms of latency, five
/// decode steps, the first of which gives the first token.
#[test]
fn the_first_token_comes_from_the_worker_that_decodes() {
    let pools = slow_link(1, SimDuration::from_millis(5));
    let front_end = two_policies(&RouterSettings::new("round_robin"), &pools);
    let script = Script::new([(SimTime::ZERO, lone_request(0, 30, 5))]);
    let run = play_pools(&pools.pools(), script, vec![front_end]);
    let record = run.records[0];
    let handover = record.handover.expect("handed over");
    assert_eq!(handover.prefilled, at_ms(20));
    assert_eq!(handover.dispatched, Some((at_ms(20), WorkerId(1))));
    assert_eq!(handover.transfer, Some(SimDuration::from_millis(245)));
    assert_eq!(handover.scheduled, Some(at_ms(265)));
    assert_eq!(record.first_token, Some(at_ms(275)));
    assert_eq!(record.end, Some((at_ms(315), End::Finished { output_tokens: 5 })));
    assert_eq!(run.metrics["transfer_ms_mean"], Some(245.0));
    assert_eq!(run.metrics["decode_queue_ms_mean"], Some(0.0));
    assert_eq!(run.metrics["itl_ms_mean"], Some(10.0));
    // An aggregated worker would have had it after 20 ms and ended after 60 ms.
    let whole = Script::new([(SimTime::ZERO, lone_request(0, 30, 5))]);
    let settings = RouterSettings::new("round_robin");
    let aggregated =
        play(&vllm_config(), 1, whole, router(&settings, &vllm_config(), 1), None).records[0];
    assert_eq!(aggregated.first_token, Some(at_ms(20)));
    assert_eq!(aggregated.end, Some((at_ms(60), End::Finished { output_tokens: 5 })));
}

/// While its KV is on its way a request waits, and only its last prompt token is to
/// be computed; the fleet knows when the next thing happens.
#[test]
fn a_request_waits_for_its_kv() {
    let pools = slow_link(1, SimDuration::ZERO);
    let mut fleet = SimulatedFleet::of_pools(&pools.pools(), false);
    let request = lone_request(0, 30, 5);
    fleet.submit(SimTime::ZERO, WorkerId(0), &request).expect("it fits");
    while let Some((at, event)) = fleet.next_event(at_ms(30)) {
        if event.kind == WorkerEventKind::Prefilled {
            fleet.submit(at, WorkerId(1), &request).expect("it fits");
        }
    }
    let other = lone_request(1, 100, 5);
    let truth = fleet.truth(at_ms(30)).expect("a simulated fleet knows").workers(&other)[1];
    assert_eq!((truth.running, truth.waiting, truth.prefill_tokens), (0, 1, 1));
    assert_eq!(fleet.gauges(at_ms(30))[1].waiting, 1);
    // Thirty tokens of 8 ms.
    assert_eq!(fleet.next_at(), Some(at_ms(20 + 240)));
}

#[test]
fn a_transfer_takes_as_long_as_there_are_sharers_of_the_nic() {
    for sharers in 1..=6 {
        let pools = slow_link(sharers, SimDuration::ZERO);
        let front_end = two_policies(&RouterSettings::new("round_robin"), &pools);
        // One prompt on each prefill worker, all for the only decode worker.
        let requests = (0..sharers).map(|id| (SimTime::ZERO, lone_request(id, 32, 2)));
        let run = play_pools(&pools.pools(), Script::new(requests), vec![front_end]);
        let transfers = run.records.iter().map(|record| record.handover.and_then(|h| h.transfer));
        let alone = SimDuration::from_millis(32 * 8);
        assert!(transfers.into_iter().all(|took| took == Some(alone * u64::from(sharers))));
    }
}

/// What the decode worker caches need not be moved.
#[test]
fn cached_blocks_are_not_moved() {
    let moved = |prefix_caching| {
        let decode = EngineConfig { prefix_caching, ..vllm_config() };
        let link = Link { gbit_per_s: 1.0, latency: SimDuration::ZERO };
        let pools = pools((1, 1), vllm_config(), decode, link);
        let front_end = two_policies(&RouterSettings::new("round_robin"), &pools);
        let draw = (0, 1, 2, 8, 4);
        let requests = [0u32, 1].map(|id| (at_ms(u64::from(id) * 10_000), request(id, draw, 16)));
        let run = play_pools(&pools.pools(), Script::new(requests), vec![front_end]);
        run.records[1].handover.and_then(|handover| handover.transfer)
    };
    assert_eq!(moved(false), Some(SimDuration::from_millis(40 * 8)));
    assert_eq!(moved(true), Some(SimDuration::from_millis(8 * 8)));
}

/// A decode worker without room does not fetch, and the prefill worker keeps.
#[test]
fn a_full_decode_worker_holds_the_prefill_worker_up() {
    let small = EngineConfig { num_blocks: 4, max_model_len: 64, ..vllm_config() };
    let pools = pools((1, 1), small.clone(), small, INFINITE);
    let front_end = two_policies(&RouterSettings::new("round_robin"), &pools);
    // Each needs three of four blocks on either side.
    let requests = (0..3).map(|id| (SimTime::ZERO, lone_request(id, 40, 6)));
    let run = play_pools(&pools.pools(), Script::new(requests), vec![front_end]);
    let times: Vec<_> = run
        .records
        .iter()
        .map(|record| {
            let handover = record.handover.expect("handed over");
            (record.scheduled, handover.prefilled, handover.scheduled)
        })
        .collect();
    // The second is prefilled while the first decodes, and waits for its end at 80
    // ms; only then the third has room to be prefilled.
    assert_eq!(times[0], (Some(at_ms(0)), at_ms(20), Some(at_ms(20))));
    assert_eq!(times[1], (Some(at_ms(20)), at_ms(40), Some(at_ms(80))));
    assert_eq!(times[2], (Some(at_ms(80)), at_ms(100), Some(at_ms(140))));
}

/// Costs by hand, by the rules of both versions.
#[test]
fn each_side_counts_what_it_should() {
    let pools = slow_link(1, SimDuration::ZERO);
    let pools = Two { decode_workers: 2, ..pools };
    let decode_costs = |semantics: &str| {
        let settings = RouterSettings::new("kv").with("semantics", semantics);
        let mut front_end = two_policies(&settings, &pools);
        // Five blocks of 16, four of them a text that all share.
        let asked = |id| request(id, (0, 1, 4, 16, 9), 16);
        fn view(mut request: RouteRequest<'_>) -> RouteRequest<'_> {
            request.prefilled = true;
            request
        }
        let first = asked(0);
        front_end.route(SimTime::ZERO, &view(first.route_view(16)));
        let second = asked(1);
        let mut costs: Vec<f64> = front_end
            .explain(SimTime::ZERO, &view(second.route_view(16)))
            .iter()
            .map(|parts| parts.cost)
            .collect();
        costs.sort_by(f64::total_cmp);
        costs
    };
    // Of the worker with the first: its 5 blocks and the one that is not shared.
    assert_eq!(decode_costs("0.9"), [5.0, 6.0]);
    // Every request brings all its blocks.
    assert_eq!(decode_costs("1.6"), [5.0, 10.0]);

    // On the prefill side blocks in flight do not count, prompt tokens do.
    let pools = Two { prefill_workers: 2, ..pools };
    let mut front_end = two_policies(&RouterSettings::new("kv"), &pools);
    let (first, second) = (lone_request(0, 160, 9), lone_request(1, 80, 9));
    front_end.route(SimTime::ZERO, &first.route_view(16));
    let mut costs: Vec<f64> = front_end
        .explain(SimTime::ZERO, &second.route_view(16))
        .iter()
        .map(|parts| parts.cost)
        .collect();
    costs.sort_by(f64::total_cmp);
    assert_eq!(costs, [5.0, 15.0]);
}

/// Steps that take no time on either side: only the link is left.
#[test]
fn with_instant_engines_only_the_link_takes_time() {
    let instant = EngineConfig { step_time: StepTime::Instant, ..vllm_config() };
    let latency = SimDuration::from_millis(3);
    let pools = pools((2, 2), instant.clone(), instant, Link { latency, ..INFINITE });
    let front_end = two_policies(&RouterSettings::new("kv"), &pools);
    let requests = (0..50).map(|id| (at_ms(u64::from(id)), lone_request(id, 100, 20)));
    let run = play_pools(&pools.pools(), Script::new(requests), vec![front_end]);
    assert!(
        run.records
            .iter()
            .all(|record| record.end.map(|(at, _)| at - record.sent) == Some(latency))
    );
}
