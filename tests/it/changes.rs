//! Fleets that change: crashes conserve requests, tokens and blocks; nothing
//! depends on how fast the simulation goes, nor on what workers are called.

use super::rig::{
    any_draws, any_engine, arrivals, cases, lone_request, private_blocks, trtllm_config,
    vllm_config,
};
use super::script::{Fleets, Run, Script, front_end, play, play_fleet, router};
use kv_router_sim::engine::Pace;
use kv_router_sim::engine::config::{EngineConfig, TierOptions};
use kv_router_sim::engine::tiers::TierSpec;
use kv_router_sim::event::{Medium, RejectReason, WorkerEvent, WorkerEventKind};
use kv_router_sim::fleet::changes::{
    ChangeKind, ChangePlan, ChangeSettings, Crew, FailoverSettings, PlannerLoad, PlannerSettings,
};
use kv_router_sim::fleet::{Fleet, SimulatedFleet};
use kv_router_sim::id::{BlockId, WorkerId};
use kv_router_sim::recorder::End;
use kv_router_sim::request::{BlockRun, Content, Request, RouteRequest};
use kv_router_sim::router::policies;
use kv_router_sim::router::settings::RouterSettings;
use kv_router_sim::router::{ClusterView, Policy, Verdict};
use kv_router_sim::time::{SimDuration, SimTime};
use kv_router_sim::workload::Retries;
use proptest::prelude::*;
use std::sync::Arc;

fn ps(ps: u64) -> SimDuration {
    SimDuration::from_ps(ps)
}

fn ms(ms: u64) -> SimDuration {
    SimDuration::from_millis(ms)
}

fn at_ms(ms: u64) -> SimTime {
    SimTime::ZERO + SimDuration::from_millis(ms)
}

fn change(at: SimDuration, worker: u32, what: ChangeKind) -> ChangeSettings {
    let factor = (what == ChangeKind::Slow).then_some(2.5);
    ChangeSettings { at, worker, what, restart_after: None, grace: None, factor, lasts: None }
}

fn plan(workers: u32, changes: Vec<ChangeSettings>) -> ChangePlan {
    ChangePlan {
        crews: vec![Crew::only(workers)],
        load_time: ms(40),
        changes,
        failover: FailoverSettings::default(),
        planner: None,
    }
}

/// Changes of up to six workers, of which some may start later, on the times of
/// [`any_draws`]: in mid-step, on boundaries, all at once.
pub(crate) fn any_plan() -> impl Strategy<Value = ChangePlan> {
    (1u32..4).prop_flat_map(|workers| any_plan_of(vec![Crew::only(workers)]))
}

/// As [`any_plan`], of these workers.
pub(crate) fn any_plan_of(crews: Vec<Crew>) -> impl Strategy<Value = ChangePlan> {
    let at = prop_oneof![
        (0u64..40_000).prop_map(|n| n * 1_000),
        0u64..3_000_000,
        0u64..2_000_000_000_000,
    ];
    let what = prop::sample::select(vec![
        ChangeKind::Crash,
        ChangeKind::Crash,
        ChangeKind::Drain,
        ChangeKind::Start,
        ChangeKind::Start,
        ChangeKind::Slow,
    ]);
    let time = || prop::option::of(prop_oneof![Just(0u64), 0u64..100_000, 0u64..400_000_000_000]);
    let one = (at, 0u32..6, what, time(), 0.02f64..9.0);
    let changes = prop::collection::vec(one, 0..8);
    let failover = (time(), time(), time(), any::<bool>(), 0u32..3);
    (changes, failover, time()).prop_map(move |(drawn, failover, load)| {
        let mut plan = ChangePlan { crews: crews.clone(), ..plan(1, Vec::new()) };
        let (notice, lease, discovery, inhibit, migrations) = failover;
        plan.load_time = ps(load.unwrap_or(30_000));
        plan.failover = FailoverSettings {
            notice_delay: ps(notice.unwrap_or(2_000)),
            lease: ps(lease.unwrap_or(90_000_000_000)),
            discovery_delay: ps(discovery.unwrap_or(1_000)),
            inhibit,
            migrations,
            ..FailoverSettings::default()
        };
        for (at, worker, what, time, factor) in drawn {
            let time = time.map(ps);
            let is = |this: ChangeKind| what == this;
            plan.changes.push(ChangeSettings {
                restart_after: time.filter(|_| is(ChangeKind::Crash)),
                grace: time.filter(|_| is(ChangeKind::Drain)),
                factor: is(ChangeKind::Slow).then_some(factor),
                lasts: time.filter(|time| is(ChangeKind::Slow) && !time.is_zero()),
                ..change(ps(at), worker, what)
            });
            if plan.validate().is_err() {
                plan.changes.pop();
            }
        }
        plan
    })
}

pub(crate) fn any_policy() -> impl Strategy<Value = RouterSettings> {
    let names: Vec<&str> = policies::all().iter().map(|policy| &*policy.about().name).collect();
    let named = prop::sample::select(names).prop_map(RouterSettings::new);
    let others = [
        "policy = \"kv\"\nsemantics = \"0.9\"",
        "policy = \"kv\"\ntemperature = 0.7\nqueue_threshold = 0.1",
        "policy = \"dynamo\"\nqueue_threshold = 0.1\nactive_prefill_tokens_threshold = 90",
        "policy = \"kv\"\nuse_kv_events = false\napproximate_ttl = \"1s\"",
        "policy = \"dynamo\"\nuse_kv_events = false\ntrack_output_blocks = true",
        "policy = \"kv\"\nfeed = { delay = \"20us\", jitter = \"1ms\", recovery_delay = \"3ms\", \
         loss_ratio = 0.1 }",
        "policy = \"session_affinity\"\nsession_affinity = \"soft\"",
    ];
    let read = |text: &str| toml::from_str::<RouterSettings>(text).expect("settings");
    let others = prop::sample::select(others.to_vec()).prop_map(read);
    prop_oneof![2 => named, 1 => others].prop_filter("in this build", |s| s.validate().is_ok())
}

fn run(
    config: &EngineConfig,
    plan: &ChangePlan,
    policy: &RouterSettings,
    run: Vec<(SimTime, Request)>,
) -> Run {
    let slots = plan.slots();
    let fleet = Fleets { workers: slots, plan: Some(plan), why: true };
    let front_ends = vec![router(policy, config, slots)];
    play_fleet(config, fleet, Script::new(run), front_ends, None)
}

/// Every request ends once, and every token that left a worker is counted once.
pub(crate) fn conserves(run: &Run, requests: usize) -> Result<(), TestCaseError> {
    prop_assert_eq!(run.records.len(), requests);
    let count = |is: fn(&End) -> bool| {
        let ends = run.records.iter().filter_map(|record| record.end);
        ends.filter(|(_, end)| is(end)).count() as f64
    };
    let (finished, rejected, failed) = (
        count(|end| matches!(end, End::Finished { .. })),
        count(|end| matches!(end, End::Rejected(_))),
        count(|end| *end == End::Failed),
    );
    prop_assert_eq!(finished + rejected + failed, requests as f64);
    prop_assert_eq!(run.metrics["finished"], Some(finished));
    prop_assert_eq!(run.metrics["rejected"], Some(rejected));
    prop_assert_eq!(run.metrics["failed"], Some(failed));
    for (worker, (all, free)) in run.blocks.iter().enumerate() {
        prop_assert_eq!(all, free, "worker {} still holds blocks", worker);
    }
    let of_stay = run.events.iter().map(|(_, event)| match event.kind {
        WorkerEventKind::Finished { output_tokens } => u64::from(output_tokens),
        _ => 0,
    });
    let lost = run.lost.iter().map(|(_, _, lost)| u64::from(lost.output_tokens));
    let tokens = of_stay.chain(lost).sum::<u64>() as f64;
    let seconds = run.records.iter().filter_map(|record| record.end).map(|(at, _)| at).max();
    // A change may come after the last end, and then the run is a little longer.
    if let Some(rate) = run.metrics["output_tokens_per_s"]
        && run.lost.is_empty()
    {
        let counted = rate * seconds.map_or(0.0, SimTime::as_secs);
        prop_assert!((counted - tokens).abs() < 1e-6 * tokens.max(1.0), "{counted} of {tokens}");
    }
    for record in &run.records {
        let at_worker = record.dispatched.map(|(at, _)| at).into_iter().chain(record.scheduled);
        prop_assert!(at_worker.is_sorted(), "{record:?}");
        prop_assert!(record.end.is_none_or(|(end, _)| Some(end) >= record.first_token));
    }
    // A finished request has as many tokens as it asked for, wherever they were made.
    for record in &run.records {
        if let Some((_, End::Finished { output_tokens })) = record.end {
            let made: u32 = run
                .events
                .iter()
                .filter(|(_, e)| e.request == record.request)
                .map(|(_, e)| match e.kind {
                    WorkerEventKind::Finished { output_tokens } => output_tokens,
                    _ => 0,
                })
                .sum();
            let lost = run.lost.iter().filter(|(_, _, lost)| lost.request == record.request);
            let lost: u32 = lost.map(|(_, _, lost)| lost.output_tokens).sum();
            prop_assert_eq!(made + lost, output_tokens);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(cases(1_500))]

    #[test]
    fn changes_conserve_requests_tokens_and_blocks(
        config in any_engine(), plan in any_plan(), policy in any_policy(), draws in any_draws(),
    ) {
        let requests = arrivals(&draws, config.block_size);
        let asked: Vec<u32> = draws.iter().map(|draw| draw.4).collect();
        let seen = run(&config, &plan, &policy, requests);
        conserves(&seen, draws.len())?;
        for (record, asked) in seen.records.iter().zip(asked) {
            if let Some((_, End::Finished { output_tokens })) = record.end {
                let room = config.max_model_len - record.prompt_tokens;
                prop_assert_eq!(output_tokens, asked.min(room));
            }
        }
    }

    #[test]
    fn fast_forward_equals_step_by_step_through_changes(
        config in any_engine(), plan in any_plan(), draws in any_draws(),
        workers in prop::collection::vec(0u32..6, 40),
    ) {
        let slots = plan.slots();
        let seen = |fast_forward| {
            let config = EngineConfig { fast_forward, ..config.clone() };
            let workers = workers.iter().map(|worker| worker % slots).collect();
            let fleet = Fleets { workers: slots, plan: Some(&plan), why: false };
            let front_ends = vec![front_end(Box::new(Assigned::new(workers)), slots)];
            let script = Script::new(arrivals(&draws, config.block_size));
            let mut run = play_fleet(&config, fleet, script, front_ends, None);
            // What different workers do at the same moment has no order.
            run.events.sort_by_key(|(at, event)| (*at, event.worker));
            run
        };
        let (jumped, stepped) = (seen(true), seen(false));
        for (a, b) in jumped.events.iter().zip(&stepped.events) {
            prop_assert_eq!(a, b, "first difference");
        }
        prop_assert_eq!(jumped.lost, stepped.lost);
        prop_assert_eq!(jumped.records, stepped.records);
        prop_assert_eq!(jumped.metrics, stepped.metrics);
    }

    #[test]
    fn a_plan_without_changes_changes_nothing(
        config in any_engine(), policy in any_policy(), draws in any_draws(), workers in 1u32..4,
    ) {
        let requests = || arrivals(&draws, config.block_size);
        let plain = play(&config, workers, Script::new(requests()), router(&policy, &config, workers), None);
        let fleet = Fleets { workers, plan: Some(&plan(workers, Vec::new())), why: false };
        let front_ends = vec![router(&policy, &config, workers)];
        let planned = play_fleet(&config, fleet, Script::new(requests()), front_ends, None);
        prop_assert_eq!(plain.events, planned.events);
        prop_assert_eq!(plain.digest, planned.digest);
        for (name, value) in &plain.metrics {
            prop_assert_eq!(&planned.metrics[name], value, "{}", name);
        }
    }

    #[test]
    fn workers_by_other_names_change_alike(
        config in any_engine(), plan in any_plan(), draws in any_draws(),
        workers in prop::collection::vec(0u32..6, 40), shift in 0u32..6,
    ) {
        // Names move within the workers of the start and within those that start later.
        let slots = plan.slots();
        let turn = |id: u32| match id < plan.crews[0].workers {
            true => (id + shift) % plan.crews[0].workers,
            false => id,
        };
        let seen = |name: &dyn Fn(u32) -> u32| {
            let mut plan = plan.clone();
            plan.changes.iter_mut().for_each(|change| change.worker = name(change.worker));
            let policy = Assigned::new(workers.iter().map(|worker| name(worker % slots)).collect());
            let fleet = Fleets { workers: slots, plan: Some(&plan), why: false };
            let front_ends = vec![front_end(Box::new(policy), slots)];
            let script = Script::new(arrivals(&draws, config.block_size));
            play_fleet(&config, fleet, script, front_ends, None)
        };
        let (mut plain, renamed) = (seen(&|id| id), seen(&turn));
        for record in &mut plain.records {
            if let Some((_, worker)) = &mut record.dispatched {
                *worker = WorkerId(turn(worker.0));
            }
        }
        prop_assert_eq!(plain.records, renamed.records);
    }
}

/// Sends request `n` to the `n`-th worker of a list, there or not, and if it comes
/// again to the next one in the list.
struct Assigned {
    workers: Vec<u32>,
    routed: Vec<usize>,
}

impl Assigned {
    fn new(workers: Vec<u32>) -> Self {
        let routed = vec![0; workers.len()];
        Self { workers, routed }
    }
}

impl Policy for Assigned {
    fn route(&mut self, _: SimTime, request: &RouteRequest<'_>, _: &ClusterView<'_>) -> Verdict {
        let routed = &mut self.routed[request.id.index()];
        *routed += 1;
        let place = (request.id.index() + *routed) % self.workers.len();
        Verdict::send(WorkerId(self.workers[place]))
    }

    fn wants_kv_events(&self) -> bool {
        true
    }
}

/// One request of 10 prompt tokens and 50 output tokens every 10 ms, from 0 on.
fn stream(count: u32) -> Vec<(SimTime, Request)> {
    let request = |id: u32| (at_ms(10 * u64::from(id)), lone_request(id, 10, 50));
    (0..count).map(request).collect()
}

fn failed(run: &Run) -> Vec<u32> {
    let failed = run.records.iter().filter(|record| matches!(record.end, Some((_, End::Failed))));
    failed.map(|record| record.request.0).collect()
}

#[test]
fn a_router_that_inhibits_loses_less() {
    let policy = RouterSettings::new("round_robin");
    let lost = |inhibit, lease| {
        let mut plan = plan(2, vec![change(ms(105), 1, ChangeKind::Crash)]);
        plan.failover = FailoverSettings { inhibit, lease, ..plan.failover };
        let run = run(&vllm_config(), &plan, &policy, stream(100));
        conserves(&run, 100).unwrap();
        failed(&run)
    };
    // Requests 1, 3, ... 9 are at worker 1 at 105 ms, and the first breaks at 115 ms.
    assert_eq!(lost(true, ms(500)), [1, 3, 5, 7, 9, 11]);
    // Without that, whatever is sent up to the end of the lease at 605 ms.
    let odd: Vec<u32> = (0..30).map(|n| 2 * n + 1).collect();
    assert_eq!(lost(false, ms(500)), odd);
    assert_eq!(lost(false, ms(0)), [1, 3, 5, 7, 9]);
}

#[test]
fn migrated_requests_go_on_where_they_were() {
    let policy = RouterSettings::new("round_robin");
    let mut plan = plan(2, vec![change(ms(105), 1, ChangeKind::Crash)]);
    plan.failover.migrations = 1;
    let run = run(&vllm_config(), &plan, &policy, stream(20));
    conserves(&run, 20).unwrap();
    assert_eq!(failed(&run), [0u32; 0]);
    assert_eq!(run.metrics["error_ratio"], Some(0.0));
    assert_eq!(run.metrics["migrations"], Some(6.0));
    let lost: Vec<(u32, u32)> =
        run.lost.iter().map(|(_, _, lost)| (lost.request.0, lost.output_tokens)).collect();
    // Steps of 30 ms while others arrive: by 105 ms the first has three tokens.
    assert_eq!(lost.iter().map(|lost| lost.0).collect::<Vec<_>>(), [1, 3, 5, 7, 9]);
    assert!(lost[0].1 > 0 && lost[4].1 == 0, "{lost:?}");
    let computed_again = run.metrics["recomputed_tokens"].unwrap();
    let expected: u32 = lost.iter().map(|lost| 10 + lost.1).sum::<u32>() + 10;
    assert_eq!(computed_again, f64::from(expected));
    // The client of the first waits from its last token to the next.
    let longest = run.metrics["inter_token_ms_p99"].unwrap();
    assert!(longest < 60.0, "{longest}");
}

#[test]
fn a_drained_worker_finishes_what_it_has() {
    let policy = RouterSettings::new("round_robin");
    let drained = |grace| {
        let drain = ChangeSettings { grace, ..change(ms(105), 1, ChangeKind::Drain) };
        let back = change(ms(3_000), 1, ChangeKind::Start);
        run(&vllm_config(), &plan(2, vec![drain, back]), &policy, stream(400))
    };
    let patient = drained(None);
    conserves(&patient, 400).unwrap();
    assert!(failed(&patient).is_empty() && patient.lost.is_empty());
    let at_worker_1 = |run: &Run, from: u64, to: u64| {
        let sent = run.submitted.iter().filter(|(_, worker, _)| worker.0 == 1);
        sent.filter(|(at, ..)| (at_ms(from)..at_ms(to)).contains(at)).count()
    };
    assert!(at_worker_1(&patient, 0, 116) > 5);
    // It loads for 40 ms, and 10 ms later the router knows.
    assert_eq!(at_worker_1(&patient, 116, 3_050), 0);
    assert!(at_worker_1(&patient, 3_050, 4_000) > 20);
    let hasty = drained(Some(ms(50)));
    conserves(&hasty, 400).unwrap();
    assert_eq!(failed(&hasty), [1, 3, 5, 7, 9, 11]);
}

#[test]
fn a_slow_worker_takes_as_many_times_as_long() {
    let policy = RouterSettings::new("round_robin");
    let slow = ChangeSettings { lasts: Some(ms(200)), ..change(ms(100), 0, ChangeKind::Slow) };
    let request = vec![(SimTime::ZERO, lone_request(0, 10, 50))];
    let run = run(&vllm_config(), &plan(1, vec![slow]), &policy, request);
    // 20 ms of prompt, 8 steps of 10 ms up to 100 ms, 8 of 25 ms up to 300 ms, 33 of 10 ms.
    assert_eq!(run.records[0].end, Some((at_ms(630), End::Finished { output_tokens: 50 })));
}

#[test]
fn without_workers_requests_are_refused_and_clients_send_again() {
    let policy = RouterSettings::new("kv");
    let crash =
        ChangeSettings { restart_after: Some(ms(100)), ..change(ms(5), 0, ChangeKind::Crash) };
    let plan = plan(1, vec![crash]);
    let config = vllm_config();
    let requests = vec![
        (at_ms(0), lone_request(0, 10, 5)),
        (at_ms(50), lone_request(1, 10, 5)),
        (at_ms(200), lone_request(2, 10, 5)),
    ];
    let seen = run(&config, &plan, &policy, requests.clone());
    let ends: Vec<End> = seen.records.iter().map(|record| record.end.expect("an end").1).collect();
    let finished = End::Finished { output_tokens: 5 };
    assert_eq!(ends, [End::Failed, End::Rejected(RejectReason::NoWorker), finished]);
    assert_eq!(seen.metrics["error_ratio"], Some(2.0 / 3.0));

    let fleet = Fleets { workers: 1, plan: Some(&plan), why: false };
    let workload = Box::new(Retries::new(Script::new(requests), 1, ms(170)));
    let again = play_fleet(&config, fleet, workload, vec![router(&policy, &config, 1)], None);
    let served = again.records.iter().filter(|r| matches!(r.end, Some((_, End::Finished { .. }))));
    assert_eq!((again.records.len(), served.count()), (5, 3));
    assert_eq!(again.metrics["retries"], Some(2.0));
}

#[test]
fn a_planner_adds_on_load_and_removes_without() {
    let mut plan = plan(1, Vec::new());
    plan.planner = Some(PlannerSettings {
        pool: None,
        min_workers: 1,
        max_workers: 3,
        load: PlannerLoad::Requests,
        interval: ms(200),
        scale_up_above: 0.8,
        scale_down_below: 0.2,
        grace_intervals: Some(1),
    });
    // 100 requests a second for three seconds, then one every 100 ms.
    let mut requests = stream(300);
    requests.extend(
        (300..340).map(|id| (at_ms(3_000 + 100 * (u64::from(id) - 299)), lone_request(id, 10, 2))),
    );
    let run = run(&vllm_config(), &plan, &RouterSettings::new("least_loaded"), requests);
    conserves(&run, 340).unwrap();
    assert_eq!(run.metrics["workers_added"], Some(2.0));
    assert_eq!(run.metrics["workers_removed"], Some(2.0));
    assert_eq!(run.metrics["failed"], Some(0.0));
    let first = |worker: u32| {
        let sent = run.submitted.iter().find(|(_, to, _)| to.0 == worker);
        sent.expect("it served").0
    };
    // Ten requests on average up to 200 ms; seen at 400 ms, loaded at 440 ms, known
    // at 450 ms.
    assert_eq!(first(1), at_ms(450));
    assert_eq!(first(2), at_ms(650));
    let workers = run.metrics["workers_mean"].unwrap();
    assert!((1.5..2.5).contains(&workers), "{workers}");
}

#[test]
fn plans_that_cannot_be_are_refused() {
    let refused =
        |changes: Vec<ChangeSettings>| plan(2, changes).validate().unwrap_err().to_string();
    let crash = |at, worker| change(ms(at), worker, ChangeKind::Crash);
    assert_eq!(
        refused(vec![crash(5, 2)]),
        "change[0].worker = 2: must be from 0 to 1: the workers of the fleet (what = \"start\" adds one)"
    );
    assert_eq!(
        refused(vec![change(ms(5), 4, ChangeKind::Start)]),
        "change[0].worker = 4: must be from 0 to 2: the next new worker is 2"
    );
    assert_eq!(
        refused(vec![crash(2_000, 0), crash(1_000, 0)]),
        "change[0].at = \"2s\": must be a time at which worker 0 is not down, for \"crash\""
    );
    assert_eq!(
        refused(vec![change(ms(1_000), 1, ChangeKind::Start)]),
        "change[0].at = \"1s\": must be a time at which worker 1 is not up, for \"start\""
    );
    let slow = ChangeSettings { lasts: Some(ms(500)), ..change(ms(1_000), 1, ChangeKind::Slow) };
    assert_eq!(
        refused(vec![slow.clone(), change(ms(1_400), 1, ChangeKind::Slow)]),
        "change[1].at = \"1.4s\": must be a time at which worker 1 is not slow, for \"slow\""
    );
    assert_eq!(
        refused(vec![ChangeSettings { factor: None, ..slow.clone() }]),
        "change[0].factor = nothing: must be given with what = \"slow\": times that a step takes as long"
    );
    assert_eq!(
        refused(vec![ChangeSettings { grace: Some(ms(1)), ..slow }]),
        "change[0].grace = given: must be left out unless what = \"drain\""
    );
    let planner = PlannerSettings {
        pool: None,
        min_workers: 3,
        max_workers: 2,
        load: PlannerLoad::KvBlocks,
        interval: ms(1),
        scale_up_above: 0.5,
        scale_down_below: 0.6,
        grace_intervals: None,
    };
    let refused = |planner| {
        ChangePlan { planner: Some(planner), ..plan(2, Vec::new()) }
            .validate()
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        refused(planner.clone()),
        "planner.min_workers = 3: must be from 1 to cluster.workers, 2"
    );
    assert_eq!(
        refused(PlannerSettings { min_workers: 1, max_workers: 1, ..planner.clone() }),
        "planner.max_workers = 1: must be from cluster.workers, 2, to 100000"
    );
    assert_eq!(
        refused(PlannerSettings { min_workers: 1, ..planner }),
        "planner.scale_up_above = 0.5: must be a finite number above scale_down_below, 0.6"
    );
}

/// What is loaded depends on how fast the worker computes at present: 161 tokens in
/// six steps of 20 ms, or in one of them after ten blocks of 12 ms.
#[test]
fn a_slow_worker_loads_what_a_fast_one_computes() {
    let host = TierSpec { medium: Medium::Host, blocks: 100, block_time: ms(12), latency: ms(1) };
    let tiers = TierOptions { tiers: vec![host], ..TierOptions::default() };
    for base in [vllm_config(), trtllm_config()] {
        // Each text displaces the one before.
        let config = Arc::new(EngineConfig {
            num_blocks: 12,
            max_model_len: 190,
            max_num_batched_tokens: 32,
            overlap: false,
            tiers: tiers.clone(),
            ..base
        });
        let loads = |factor| {
            let mut fleet = SimulatedFleet::new(1, &config, false);
            fleet.set_pace(SimTime::ZERO, WorkerId(0), Pace::new(factor).expect("a pace"));
            for (id, text) in [(0u32, 0u64), (1, 1), (2, 0)] {
                let now = at_ms(10_000 * u64::from(id));
                while fleet.next_event(now).is_some() {}
                let shared = BlockRun { first: BlockId(text << 20), len: 10 };
                let content = Content::new([shared], private_blocks(id));
                let request = lone_request(id, 161, 3).with_content(content);
                fleet.submit(now, WorkerId(0), &request).expect("it fits");
            }
            let events = std::iter::from_fn(|| fleet.next_event(SimTime::MAX));
            let is_load =
                |event: &WorkerEvent| matches!(event.kind, WorkerEventKind::Loaded { .. });
            events.filter(|(_, event)| is_load(event)).count()
        };
        assert_eq!([loads(1.0), loads(2.0)], [0, 1], "{:?}", config.rules);
    }
}
