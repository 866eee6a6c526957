//! Workers whose attention is data parallel: ranks with sequences and KV of their own that
//! step together.

use super::changes::{any_plan_of, any_policy, conserves};
use super::fast_forward::hold_with;
use super::program::CROWDED;
use super::rig::{Draw, any_draws, any_engine, arrivals, cases, lone_request, vllm_config};
use super::script::{Run, Script, play_pools_with, router};
use kv_router_sim::engine::config::{AttentionDpConfig, EngineConfig, Rules, TrtllmOptions};
use kv_router_sim::engine::kernels::Kernels;
use kv_router_sim::engine::memory;
use kv_router_sim::engine::model::{Model, ModelChoice};
use kv_router_sim::engine::operators::Beside;
use kv_router_sim::engine::step_time::{Linear, StepTime};
use kv_router_sim::event::{WorkerEvent, WorkerEventKind};
use kv_router_sim::experiment::{Experiment, LoadOptions, RunOptions, run};
use kv_router_sim::fleet::changes::{ChangePlan, Crew};
use kv_router_sim::fleet::{Fleet, Pools, SimulatedFleet};
use kv_router_sim::id::{RequestId, WorkerId};
use kv_router_sim::request::Request;
use kv_router_sim::router::settings::RouterSettings;
use kv_router_sim::time::{SimDuration, SimTime};
use proptest::prelude::*;
use std::path::Path;
use std::sync::{Arc, OnceLock};

fn model(parts: &str) -> Model {
    let table: toml::Table = toml::from_str(parts).unwrap();
    let choice: ModelChoice = toml::Value::from(table).try_into().unwrap();
    Model::choose(&choice, &Path::new(env!("CARGO_MANIFEST_DIR")).join("models")).unwrap()
}

const DEEPSEEK: &str = "shape = \"deepseek-r1\"\ngpu = \"h200\"\nengine = \"vllm-0.24\"\n\
                        weights = \"fp8_block\"\nattention_dp = 8\nep = 8";

/// Step times of ranks that share experts.
fn deepseek() -> StepTime {
    static TIMES: OnceLock<StepTime> = OnceLock::new();
    let load = || {
        let hardware = model(DEEPSEEK).hardware.unwrap();
        let composed =
            hardware.composed("vllm", &Beside::default(), &Kernels::default()).unwrap().unwrap();
        StepTime::Table(Box::new(composed.times.step_time(9)))
    };
    TIMES.get_or_init(load).clone()
}

fn any_group() -> impl Strategy<Value = EngineConfig> {
    let us = |most: u64| (0..most).prop_map(SimDuration::from_micros);
    let linear = (us(9), us(3), us(3), us(2)).prop_map(|(step, prefill, seq, token)| {
        StepTime::Linear(Linear {
            step,
            prefill_token: prefill,
            decode_seq: seq,
            decode_token: token,
            ..Linear::default()
        })
    });
    let times = prop_oneof![
        2 => Just(None),
        2 => linear.prop_map(Some),
        1 => Just(Some(deepseek())),
    ];
    (any_engine(), 2u32..5, times).prop_map(|(config, attention_dp, times)| {
        let step_time = times.unwrap_or_else(|| config.step_time.clone());
        EngineConfig { attention_dp, step_time, ..config }
    })
}

proptest! {
    #![proptest_config(cases(2_000))]

    /// Law 6 of groups. The slowest rank changes in mid-plan, ranks are idle, clients hang up.
    #[test]
    fn fast_forward_of_ranks_equals_step_by_step(
        config in any_group(),
        draws in any_draws(),
        hang_ups in prop::collection::vec(
            (any::<prop::sample::Index>(), 0..3_000_000_000_000u64), 0..6,
        ),
        peek_every in 1usize..5,
    ) {
        hold_with(config, &draws, &hang_ups, peek_every)?;
    }
}

/// What happens if `to` says where requests go.
fn events(
    config: &EngineConfig,
    arrivals: &[(SimTime, Request)],
    to: impl Fn(&Request) -> WorkerId,
) -> Vec<(SimTime, WorkerEvent)> {
    let mut fleet = SimulatedFleet::new(1, &Arc::new(config.clone()), false);
    let mut seen = Vec::new();
    for (at, request) in arrivals {
        seen.extend(std::iter::from_fn(|| fleet.next_event(*at)));
        let _rejected = fleet.submit(*at, to(request), request);
    }
    seen.extend(std::iter::from_fn(|| fleet.next_event(SimTime::MAX)));
    seen
}

/// The same with ranks that do not wait for each other's prompts.
fn without_waiting(config: EngineConfig) -> EngineConfig {
    let rules = match config.rules {
        Rules::Trtllm(options) => Rules::Trtllm(TrtllmOptions {
            attention_dp_config: AttentionDpConfig::default(),
            ..options
        }),
        rules => rules,
    };
    EngineConfig { rules, ..config }
}

proptest! {
    #![proptest_config(cases(500))]

    /// Ranks without work change nothing, and one that does what another does does not delay
    /// it, where nothing is done together.
    #[test]
    fn idle_ranks_and_equal_ones_cost_nothing(config in any_engine(), draws in any_draws()) {
        let alone = events(&config, &arrivals(&draws, config.block_size), |_| WorkerId(0));
        let group = EngineConfig { attention_dp: 3, ..without_waiting(config) };
        let arrivals = arrivals(&draws, group.block_size);
        for rank in (0..3).map(WorkerId) {
            let mut own = events(&group, &arrivals, |_| rank);
            own.iter_mut().for_each(|(_, event)| event.worker = WorkerId(0));
            prop_assert_eq!(&own, &alone);
        }
        // Every request three times, once on each rank.
        let twin = |rank: u32, request: &Request| {
            let mut twin = request.clone();
            twin.id = RequestId(request.id.0 * 3 + rank);
            twin
        };
        let of_ranks = |(at, request): &(SimTime, Request)| {
            [0, 1, 2].map(|rank| (*at, twin(rank, request)))
        };
        let twins: Vec<(SimTime, Request)> = arrivals.iter().flat_map(of_ranks).collect();
        let all = events(&group, &twins, |request| WorkerId(request.id.0 % 3));
        for rank in (0..3).map(WorkerId) {
            let own = all.iter().filter(|(_, event)| event.worker == rank);
            let own: Vec<_> = own
                .map(|(at, event)| {
                    let request = RequestId(event.request.0 / 3);
                    (*at, WorkerEvent { worker: WorkerId(0), request, ..*event })
                })
                .collect();
            prop_assert_eq!(&own, &alone);
        }
    }
}

/// Times of the first tokens and of the ends of all requests, in milliseconds.
fn lives(config: &EngineConfig, requests: &[(WorkerId, Request)]) -> Vec<(u32, f64, f64)> {
    let arrivals: Vec<_> =
        requests.iter().map(|(_, request)| (SimTime::ZERO, request.clone())).collect();
    let seen = events(config, &arrivals, |request| requests[request.id.index()].0);
    let at = |id: RequestId, is: &dyn Fn(WorkerEventKind) -> bool| {
        let found = seen.iter().find(|(_, event)| event.request == id && is(event.kind));
        found.map_or(f64::NAN, |(at, _)| (*at - SimTime::ZERO).as_millis())
    };
    let life = |(_, request): &(WorkerId, Request)| {
        let first = at(request.id, &|kind| kind == WorkerEventKind::FirstToken);
        let end = at(request.id, &|kind| matches!(kind, WorkerEventKind::Finished { .. }));
        (request.id.0, first, end)
    };
    requests.iter().map(life).collect()
}

/// A prompt on one rank delays the decodes of the others; prompts of several ranks in one
/// step cost as much as the longest; each rank has a budget and a pool of its own.
#[test]
fn ranks_step_together() {
    let config = EngineConfig {
        attention_dp: 2,
        max_num_batched_tokens: 100,
        step_time: StepTime::Linear(Linear {
            step: SimDuration::from_millis(1),
            prefill_token: SimDuration::from_millis(1),
            decode_token: SimDuration::from_micros(100),
            ..Linear::default()
        }),
        ..vllm_config()
    };
    let (first, second) = (WorkerId(0), WorkerId(1));
    // Alone: 31 ms for the prompt, then steps over 31 and 32 tokens of context.
    let alone = lives(&config, &[(first, lone_request(0, 30, 3))]);
    assert_eq!(alone, [(0, 31.0, 39.3)]);
    // The other rank computes 100 and 50 tokens of a longer prompt in the first two steps.
    let beside = [(first, lone_request(0, 30, 3)), (second, lone_request(1, 150, 1))];
    assert_eq!(lives(&config, &beside), [(0, 101.0, 156.2), (1, 152.0, 152.0)]);
}

/// What ranks do together takes as long as all their tokens need: eight ranks with one
/// sequence each are between one rank alone and one with eight.
#[test]
fn experts_see_the_tokens_of_all_ranks() {
    let times = deepseek();
    let together = |tokens: u32| times.together(tokens).as_millis();
    assert!(together(1) < together(8) && together(8) < 8.0 * together(1));
    let config = EngineConfig {
        attention_dp: 8,
        step_time: times.clone(),
        max_num_seqs: 9,
        num_blocks: 10_000,
        ..vllm_config()
    };
    let steps = |to: &dyn Fn(u32) -> WorkerId| {
        let requests: Vec<_> = (0..8).map(|id| (to(id), lone_request(id, 16, 101))).collect();
        let ends = lives(&config, &requests);
        ends.iter().map(|(_, first, end)| (end - first) / 100.0).fold(0.0, f64::max)
    };
    let one = lives(&config, &[(WorkerId(3), lone_request(0, 16, 101))]);
    let one = (one[0].2 - one[0].1) / 100.0;
    let (spread, heaped) = (steps(&WorkerId), steps(&|_| WorkerId(3)));
    assert!(one < spread && spread < heaped, "{one} {spread} {heaped}");
    let local = one - together(1);
    assert!((spread - local - together(8)).abs() < 0.01 * spread, "{spread} {local}");
}

/// Published: a rank of eight that share experts holds 100.8 GB of DeepSeek-R1 in FP8.
#[test]
fn a_rank_has_all_weights_but_routed_experts() {
    let hardware = model(DEEPSEEK).hardware.unwrap();
    let gigabytes = memory::weight_bytes(&hardware) / 1e9;
    assert!((gigabytes - 100.8).abs() < 0.5, "{gigabytes}");
    // The latent of a token, once.
    assert_eq!(hardware.kv_bytes_per_token(), 70_272.0);
    let config = model(DEEPSEEK).engine_config().unwrap();
    assert_eq!(config.attention_dp, 8);
}

/// vLLM's balancer: the first rank with the least of 4 x waiting + running.
#[test]
fn a_worker_gives_requests_to_the_rank_with_the_least_to_do() {
    let config = EngineConfig { attention_dp: 3, max_num_seqs: 2, ..vllm_config() };
    let mut fleet = SimulatedFleet::new(2, &Arc::new(config), false);
    let mut next = 0;
    let mut send = |fleet: &mut SimulatedFleet, now: SimTime| {
        let rank = fleet.choose_rank(now, WorkerId(3));
        fleet.submit(now, rank, &lone_request(next, 16, 400)).expect("it fits");
        next += 1;
        rank.0
    };
    let waiting: Vec<u32> = (0..7).map(|_| send(&mut fleet, SimTime::ZERO)).collect();
    assert_eq!(waiting, [3, 4, 5, 3, 4, 5, 3]);
    // Two run on each, and on the first another one waits.
    let later = SimTime::ZERO + SimDuration::from_millis(100);
    while fleet.next_event(later).is_some() {}
    let gauges = fleet.gauges(later);
    let loads: Vec<(u32, u32)> = gauges.iter().map(|rank| (rank.running, rank.waiting)).collect();
    assert_eq!(loads, [(0, 0), (0, 0), (0, 0), (2, 1), (2, 0), (2, 0)]);
    assert_eq!((0..3).map(|_| send(&mut fleet, later)).collect::<Vec<_>>(), [4, 5, 3]);
}

/// A golden, by hand, of T41: two ranks, each of which decodes, 20 ms for a prompt and 10 ms
/// for a step. A prompt for one of them waits three steps, or until the other has one too.
#[test]
fn a_prompt_waits_for_one_of_the_other_rank() {
    let balance =
        AttentionDpConfig { enable_balance: true, timeout_iters: 4, batching_wait_iters: 0 };
    let options = TrtllmOptions { attention_dp_config: balance, ..TrtllmOptions::default() };
    let config = EngineConfig {
        rules: Rules::Trtllm(options),
        attention_dp: 2,
        overlap: false,
        ..vllm_config()
    };
    let at = |ms| SimTime::ZERO + SimDuration::from_millis(ms);
    let first_token = |config: &EngineConfig, second: u64| {
        let arrivals = [
            (at(0), lone_request(0, 16, 90)),
            (at(0), lone_request(1, 16, 90)),
            (at(95), lone_request(2, 16, 2)),
            (at(second), lone_request(3, 16, 2)),
        ];
        let seen = events(config, &arrivals, |request| WorkerId(request.id.0 % 2));
        let first = |(at, event): &(SimTime, WorkerEvent)| {
            let is_first = event.kind == WorkerEventKind::FirstToken;
            (is_first && event.request == RequestId(2)).then_some(*at)
        };
        seen.iter().find_map(first).expect("it is served")
    };
    for fast_forward in [false, true] {
        let config = EngineConfig { fast_forward, ..config.clone() };
        // Prompts until 20 ms, then steps of 10 ms, of which each fourth begins the count
        // again: those at 50 and 90 ms. The prompt is seen at 100 ms, held back then, at 110
        // and at 120 ms, and computed from 130 ms on, with the tokens of both.
        assert_eq!(first_token(&config, 500), at(160));
        // The other rank's prompt is seen at 110 ms, and both are computed.
        assert_eq!(first_token(&config, 105), at(140));
    }
}

#[test]
fn trtllm_spreads_prompt_tokens_evenly_over_ranks() {
    let config = EngineConfig {
        rules: Rules::Trtllm(TrtllmOptions::default()),
        attention_dp: 3,
        ..vllm_config()
    };
    let mut fleet = SimulatedFleet::new(1, &Arc::new(config), false);
    let mut next = 0;
    let mut send = |prompt_tokens| {
        let rank = fleet.choose_rank(SimTime::ZERO, WorkerId(0));
        let request = lone_request(next, prompt_tokens, 5);
        fleet.submit(SimTime::ZERO, rank, &request).expect("it fits");
        next += 1;
        rank.0
    };
    // One each first, however long; then to the fewest tokens, one each again.
    assert_eq!([90, 10, 50].map(&mut send), [0, 1, 2]);
    assert_eq!([10, 10, 10].map(&mut send), [1, 2, 0]);
}

/// Three workers of two ranks in the place of the crowded fleet's three workers.
fn experiment(overrides: &[&str]) -> Result<Experiment, String> {
    let text =
        CROWDED.replace("trtllm", "vllm").replace("[engine]\n", "[engine]\nattention_dp = 2\n");
    let text = format!("name = \"ranks\"\n{text}seeds = 2\n\n[router]\npolicy = \"kv\"\n");
    let options = LoadOptions::default().set_all(overrides.iter().copied());
    Experiment::parse(Path::new("ranks.toml"), &text, &options).map_err(|error| error.to_string())
}

/// Where requests went, and how much of their prompts they hit.
fn served(overrides: &[&str]) -> (Vec<u32>, f64) {
    let experiment = experiment(overrides).expect("a good experiment");
    let outcome = run(&experiment, RunOptions::default().keep_requests()).expect("it ends");
    let mut records = outcome.requests[0].records.clone();
    records.sort_by_key(|record| record.request);
    let went = records.iter().filter_map(|record| Some(record.dispatched?.1.0)).collect();
    let hits: u32 = records.iter().map(|record| record.cached_tokens).sum();
    let prompts: u32 = records.iter().map(|record| record.prompt_tokens).sum();
    (went, f64::from(hits) / f64::from(prompts))
}

#[test]
fn policies_choose_among_ranks_or_among_workers() {
    // In turn: among six ranks, or among three workers, each of which has two.
    let (ranks, _) = served(&["router.policy=round_robin", "router.targets=ranks"]);
    let in_turn: Vec<u32> = (0..6).cycle().take(ranks.len()).collect();
    assert_eq!(ranks, in_turn);
    let (workers, _) = served(&["router.policy=round_robin"]);
    let of_workers: Vec<u32> = workers.iter().map(|rank| rank / 2).collect();
    assert_eq!(of_workers, (0..3).cycle().take(workers.len()).collect::<Vec<u32>>());
    assert!(workers.contains(&1), "the engines spread requests: {workers:?}");
    // Knowing which rank holds what, a router finds more.
    let (_, to_ranks) = served(&[]);
    let (_, to_workers) = served(&["router.targets=workers"]);
    assert!(to_ranks > to_workers + 0.05, "{to_ranks} {to_workers}");
}

/// Two workers with ranks, and what happens to them.
fn any_changing_group() -> impl Strategy<Value = (EngineConfig, ChangePlan)> {
    any_group().prop_flat_map(|config| {
        let crew = Crew { ranks: config.attention_dp, ..Crew::only(2) };
        (Just(config), any_plan_of(vec![crew]))
    })
}

fn through_changes(
    config: &EngineConfig,
    plan: &ChangePlan,
    policy: &RouterSettings,
    draws: &[Draw],
) -> Run {
    let mut pools = Pools::one(2, &Arc::new(config.clone()));
    pools.make_room(plan.slots());
    let front_end = router(policy, config, pools.slots());
    let script = Script::new(arrivals(draws, config.block_size));
    play_pools_with(&pools, plan, script, vec![front_end])
}

proptest! {
    #![proptest_config(cases(600))]

    /// Nothing is lost or made where whole workers come and go, and no rank outlives its
    /// worker: what one loses, all lose at the same moment.
    #[test]
    fn changes_of_workers_with_ranks_conserve_requests_tokens_and_blocks(
        (config, plan) in any_changing_group(), policy in any_policy(), draws in any_draws(),
    ) {
        let seen = through_changes(&config, &plan, &policy, &draws);
        conserves(&seen, draws.len())?;
        for (at, rank, _) in &seen.lost {
            let worker = |rank: &WorkerId| rank.0 / config.attention_dp;
            let alive = seen.events.iter().filter(|(when, event)| {
                let begins = seen.submitted.iter().any(|(sent, _, id)| *id == event.request && sent >= at);
                when > at && worker(&event.worker) == worker(rank) && !begins
            });
            prop_assert_eq!(alive.count(), 0, "after the death of {:?} at {:?}", rank, at);
        }
    }

    #[test]
    fn fast_forward_of_ranks_equals_step_by_step_through_changes(
        (config, plan) in any_changing_group(), draws in any_draws(),
    ) {
        let policy = RouterSettings::new("round_robin");
        let jumped = through_changes(&config, &plan, &policy, &draws);
        let stepping = EngineConfig { fast_forward: false, ..config };
        let stepped = through_changes(&stepping, &plan, &policy, &draws);
        prop_assert_eq!(jumped.records, stepped.records);
        prop_assert_eq!(jumped.digest, stepped.digest);
    }
}

/// While a worker is down its ranks get nothing, whatever a policy counts; a worker with two
/// ranks that a planner adds is one more of three.
#[test]
fn ranks_come_and_go_with_their_worker() {
    for targets in ["router.targets=ranks", "router.targets=workers"] {
        let change = "cluster.change=[{ at = \"2s\", worker = 1, what = \"drain\" }]";
        let experiment = experiment(&["router.policy=round_robin", targets, change]).unwrap();
        let outcome = run(&experiment, RunOptions::default().keep_requests()).unwrap();
        let to = |after: u64, ranks: [u32; 2]| {
            let records = outcome.requests[0].records.iter();
            let sent = records.filter_map(|record| record.dispatched);
            let after = SimTime::ZERO + SimDuration::from_millis(after);
            sent.filter(|(at, rank)| *at > after && ranks.contains(&rank.0)).count()
        };
        assert!(to(0, [2, 3]) > 0 && to(2_010, [4, 5]) > 0);
        // Routers hear of it 10 ms later.
        assert_eq!(to(2_010, [2, 3]), 0, "{targets}");
    }
    let planner = "cluster.planner={ min_workers = 3, max_workers = 4, interval = \"1s\", \
                   load = \"requests\", scale_up_above = 0.01, scale_down_below = 0.001 }";
    let experiment = experiment(&["router.policy=round_robin", planner, "cluster.load_time=1s"]);
    let outcome = run(&experiment.unwrap(), RunOptions::default().keep_requests()).unwrap();
    let dispatched = outcome.requests[0].records.iter().filter_map(|record| record.dispatched);
    let new: Vec<u32> = dispatched.map(|(_, rank)| rank.0).filter(|&rank| rank >= 6).collect();
    assert!(new.contains(&6) && new.contains(&7), "{new:?}");
}

#[test]
fn what_ranks_cannot_do_is_refused_by_name() {
    for (overrides, problem) in [
        (
            &["router.policy=oracle", "router.targets=workers"][..],
            "router.targets = \"workers\": must be \"ranks\" for a policy that is shown the truth",
        ),
        // Changes count workers, of which there are three.
        (
            &["cluster.change=[{ at = \"1s\", worker = 5, what = \"crash\" }]"],
            "cluster.change[0].worker = 5: must be from 0 to 2",
        ),
        (&["engine.attention_dp=129"], "engine.attention_dp = 129: must be between 1 and 128"),
    ] {
        let refused = experiment(overrides).expect_err(problem);
        assert!(refused.contains(problem), "{refused}");
    }
    // Every policy may choose among the ranks of any engine.
    for overrides in [
        &["engine.rules=trtllm", "router.policy=round_robin", "router.targets=ranks"][..],
        &["engine.rules=trtllm", "router.policy=round_robin", "router.targets=workers"],
        &["router.policy=oracle"],
    ] {
        assert_eq!(experiment(overrides).err(), None);
    }
}
