//! Workers that prefill and workers that decode come and go, and clients hang up: every
//! request still ends once, and no block stays held.

use super::changes::{any_plan_of, any_policy, conserves};
use super::disaggregated::{Two, any_pools, pools, stepping, two_policies};
use super::rig::{any_draws, arrivals, cases, lone_request, vllm_config};
use super::script::{Run, Script, play_pools_with};
use kv_router_sim::event::WorkerEventKind;
use kv_router_sim::fleet::Link;
use kv_router_sim::fleet::changes::{ChangePlan, Crew, FailoverSettings, WorkerChange};
use kv_router_sim::id::WorkerId;
use kv_router_sim::recorder::End;
use kv_router_sim::router::settings::RouterSettings;
use kv_router_sim::time::{SimDuration, SimTime};
use proptest::prelude::*;

/// The workers of both sides as changes see them.
fn crews(pools: &Two) -> Vec<Crew> {
    let crew =
        |pool: &str, workers| Crew { pool: pool.to_owned(), workers, spare: pools.spare, ranks: 1 };
    vec![crew("prefill", pools.prefill_workers), crew("decode", pools.decode_workers)]
}

fn run(pools: &Two, plan: &ChangePlan, policy: &RouterSettings, draws: &[super::rig::Draw]) -> Run {
    let script = Script::new(arrivals(draws, pools.prefill.block_size));
    play_pools_with(&pools.pools(), plan, script, vec![two_policies(policy, pools)])
}

fn any_changing_pools() -> impl Strategy<Value = (Two, ChangePlan)> {
    let pools = (any_pools(), 0u32..2).prop_map(|(pools, spare)| Two { spare, ..pools });
    pools.prop_flat_map(|pools| {
        let crews = crews(&pools);
        (Just(pools), any_plan_of(crews))
    })
}

proptest! {
    #![proptest_config(cases(1_200))]

    #[test]
    fn changes_of_either_side_conserve_requests_tokens_and_blocks(
        (pools, plan) in any_changing_pools(), policy in any_policy(), draws in any_draws(),
    ) {
        let seen = run(&pools, &plan, &policy, &draws);
        conserves(&seen, draws.len())?;
    }

    #[test]
    fn fast_forward_equals_step_by_step_through_changes_of_either_side(
        (pools, plan) in any_changing_pools(), draws in any_draws(),
    ) {
        let policy = RouterSettings::new("round_robin");
        let jumped = run(&pools, &plan, &policy, &draws);
        let stepped = run(&stepping(&pools), &plan, &policy, &draws);
        prop_assert_eq!(jumped.records, stepped.records);
        prop_assert_eq!(jumped.digest, stepped.digest);
    }
}

fn at_ms(ms: u64) -> SimTime {
    SimTime::ZERO + SimDuration::from_millis(ms)
}

/// One worker on each side and one more of each, 20 ms for a prompt, 10 ms for a step, 8 ms
/// for a token of KV; `worker` dies at `ms`.
fn with_crash(worker: u32, ms: u64, migrations: u32) -> Run {
    let link = Link { gbit_per_s: 1.0, latency: SimDuration::ZERO };
    let pools = pools((2, 2), vllm_config(), vllm_config(), link);
    let change = WorkerChange::crash(worker);
    let plan = ChangePlan {
        crews: crews(&pools),
        changes: vec![change.at(SimDuration::from_millis(ms))],
        failover: FailoverSettings { migrations, ..FailoverSettings::default() },
        ..ChangePlan::of_nothing(4)
    };
    let script = Script::new([(SimTime::ZERO, lone_request(0, 30, 5))]);
    let policy = RouterSettings::new("round_robin");
    play_pools_with(&pools.pools(), &plan, script, vec![two_policies(&policy, &pools)])
}

/// A golden, by hand: the KV would take from 20 ms to 260 ms. At 100 ms the worker that has
/// it dies, so the prompt is computed where the request is: 20 ms, then four steps.
#[test]
fn kv_that_is_lost_on_its_way_is_computed_where_it_was_wanted() {
    let run = with_crash(0, 100, 0);
    let record = run.records[0];
    assert_eq!(record.handover.expect("handed over").transfer, None);
    assert_eq!(record.first_token, Some(at_ms(120)));
    assert_eq!(record.end, Some((at_ms(160), End::Finished { output_tokens: 5 })));
    assert!(run.used_blocks.iter().all(|&blocks| blocks == 0));
}

/// The worker that waits for KV dies: the request fails, or is prefilled and moved again.
#[test]
fn a_request_whose_decode_worker_dies_fails_or_begins_again() {
    let run = with_crash(2, 100, 0);
    assert_eq!(run.records[0].end, Some((at_ms(110), End::Failed)));
    assert!(run.used_blocks.iter().all(|&blocks| blocks == 0), "{:?}", run.used_blocks);
    let run = with_crash(2, 100, 1);
    let record = run.records[0];
    let prefilled = run.events.iter().filter(|(_, e)| e.kind == WorkerEventKind::Prefilled);
    assert_eq!(prefilled.count(), 2);
    // Prefilled anew from 110 to 130 ms, moved until 370 ms, five steps.
    let handover = record.handover.expect("handed over");
    assert_eq!(handover.prefilled, at_ms(130));
    assert_eq!(handover.dispatched, Some((at_ms(130), WorkerId(3))));
    assert_eq!(record.end, Some((at_ms(420), End::Finished { output_tokens: 5 })));
}

/// A worker that drains stays until what it keeps for others is fetched.
#[test]
fn a_prefill_worker_that_drains_waits_until_its_kv_is_fetched() {
    let link = Link { gbit_per_s: 1.0, latency: SimDuration::ZERO };
    let pools = pools((1, 1), vllm_config(), vllm_config(), link);
    let at = |change: WorkerChange, ms| change.at(SimDuration::from_millis(ms));
    let plan = ChangePlan {
        crews: crews(&pools),
        load_time: SimDuration::from_millis(10),
        changes: vec![at(WorkerChange::drain(0), 50), at(WorkerChange::start(0), 60)],
        ..ChangePlan::of_nothing(2)
    };
    // The second comes while no worker prefills: the decode worker does all of it.
    let requests = [(0, 0), (100, 1), (400, 2)];
    let script = requests.map(|(ms, id)| (at_ms(ms), lone_request(id, 30, 5)));
    let policy = RouterSettings::new("round_robin");
    let run = play_pools_with(
        &pools.pools(),
        &plan,
        Script::new(script),
        vec![two_policies(&policy, &pools)],
    );
    let transfer = |at: usize| run.records[at].handover.map(|handover| handover.transfer);
    assert_eq!(transfer(0), Some(Some(SimDuration::from_millis(240))));
    assert_eq!(transfer(1), None);
    assert_eq!(run.records[1].dispatched, Some((at_ms(100), WorkerId(1))));
    assert_eq!(transfer(2), Some(Some(SimDuration::from_millis(240))));
    assert!(run.lost.is_empty());
}
