//! Admission, and clients that are refused: every request still ends once, limits hold at
//! every moment, a loss system loses what Erlang's formula says, and nothing depends on how a
//! run is gone through.

use kv_router_sim::event::RejectReason;
use kv_router_sim::experiment::{Experiment, LoadOptions, RunOptions, Watch, run, simulate};
use kv_router_sim::recorder::{End, RequestRecord};
use kv_router_sim::time::{SimDuration, SimTime};
use proptest::prelude::*;
use std::path::Path;

/// Two workers; 200 requests of 24 clients, twice as many as they serve in time.
const CROWDED: &str = "name = \"refusals\"\n[cluster]\nworkers = 2\n\
    [engine]\nrules = \"vllm\"\nblock_size = 16\nnum_blocks = 200\nmax_num_seqs = 4\n\
    max_num_batched_tokens = 256\nmax_model_len = 1_000\n\
    step_time = { kind = \"fixed\", prefill = \"7ms\", decode = \"3ms\" }\n\
    [router]\npolicy = \"kv\"\n\
    [workload]\nkind = \"requests\"\nconcurrency = 24\ncount = 200\n\
    prompt_tokens = { kind = \"uniform\", min = 20, max = 300 }\n\
    prefix = { groups = 3, tokens = 100 }\n\
    output_tokens = { kind = \"uniform\", min = 1, max = 60 }\n[measure]\nseeds = 1\n";

fn crowded(overrides: &[&str]) -> Experiment {
    try_crowded(overrides).expect("valid")
}

fn try_crowded(
    overrides: &[&str],
) -> Result<Experiment, kv_router_sim::experiment::ExperimentError> {
    let options = LoadOptions::default().set_all(overrides.iter().copied());
    Experiment::parse(Path::new("refusals.toml"), CROWDED, &options)
}

/// The same requests in an open loop.
fn open_loop(overrides: &[&str]) -> Experiment {
    let arrivals = ["workload.arrivals={ kind = \"poisson\", rate = 60 }"];
    let all: Vec<&str> = arrivals.iter().chain(overrides).copied().collect();
    let text = CROWDED.replace("concurrency = 24\n", "");
    let options = LoadOptions::default().set_all(all);
    Experiment::parse(Path::new("refusals.toml"), &text, &options).expect("valid")
}

/// The requests of a run, in order of arrival, its metrics and its digest.
fn ran(experiment: &Experiment) -> (Vec<RequestRecord>, impl Fn(&str) -> f64 + use<>, String) {
    let options = RunOptions::default().keep_requests();
    let mut outcome = run(experiment, options).expect("it ends");
    let mut records = outcome.requests.remove(0).records;
    records.sort_by_key(|record| record.request);
    let metrics = outcome.summary.points.remove(0).metrics;
    let metric = move |name: &str| metrics[name].mean.expect("defined");
    (records, metric, outcome.digests.remove(0))
}

fn refused(record: &RequestRecord) -> Option<RejectReason> {
    match record.end {
        Some((_, End::Rejected(reason))) => Some(reason),
        _ => None,
    }
}

/// The most requests that are inside at once, of those that were sent to workers.
fn most_inside(records: &[RequestRecord]) -> u32 {
    let mut moves: Vec<(SimTime, i32)> = Vec::new();
    for record in records {
        if let Some(at) = record.first_dispatched {
            moves.push((at, 1));
            moves.extend(record.end.map(|(end, _)| (end, -1)));
        }
    }
    // Those that leave make room for those that come at the same moment.
    moves.sort();
    let (mut inside, mut most) = (0i32, 0);
    for (_, change) in moves {
        inside += change;
        most = most.max(inside);
    }
    u32::try_from(most).expect("as many come as go")
}

#[test]
fn a_gate_without_limits_changes_nothing() {
    for policy in ["kv", "round_robin"] {
        let policy = format!("router.policy={policy}");
        let (_, _, plain) = ran(&crowded(&[&policy]));
        let (_, metric, gated) = ran(&crowded(&[&policy, "router.admission={}"]));
        assert_eq!((gated, metric("rejected_full")), (plain, 0.0));
        // Nor do clients that would send again.
        let (_, _, patient) = ran(&crowded(&[&policy, "workload.patience.on_refusal={}"]));
        assert_eq!(patient, ran(&crowded(&[&policy])).2);
    }
}

#[test]
fn what_is_over_a_limit_is_refused_at_once_and_counted_by_cause() {
    let (records, metric, _) = ran(&crowded(&["router.admission.max_inflight=6"]));
    let refusals: Vec<&RequestRecord> = records.iter().filter(|r| refused(r).is_some()).collect();
    assert!(refusals.len() > 50, "{}", refusals.len());
    for record in &refusals {
        assert_eq!(refused(record), Some(RejectReason::Full));
        assert_eq!(record.end.map(|(at, _)| at), Some(record.arrived));
        assert_eq!(record.dispatched, None);
    }
    assert_eq!(most_inside(&records), 6);
    let count = refusals.len() as f64;
    assert_eq!((metric("rejected"), metric("rejected_full")), (count, count));
    assert_eq!(metric("unserved_ratio"), metric("error_ratio"));
    assert_eq!(metric("finished") + count, records.len() as f64);
}

#[test]
fn those_that_wait_go_in_turn_or_are_refused_in_time() {
    let (records, metric, _) = ran(&crowded(&[
        "router.policy=round_robin",
        "router.admission={ max_inflight = 4, max_waiting = 30, max_wait = \"150ms\" }",
    ]));
    let mut last = SimTime::ZERO;
    for record in &records {
        let waited = record.first_dispatched.map(|at| at - record.arrived);
        match refused(record) {
            None => assert!(waited.is_some_and(|w| w <= SimDuration::from_millis(150))),
            Some(reason) => {
                assert_eq!(reason, RejectReason::WaitedTooLong);
                let (end, _) = record.end.expect("it ended");
                assert_eq!(end - record.arrived, SimDuration::from_millis(150));
            }
        }
        if let Some(at) = record.first_dispatched {
            assert!(at >= last, "first come, first served: {record:?}");
            last = at;
        }
    }
    assert!(metric("rejected_waited") > 10.0 && metric("rejected_full") == 0.0);
    assert_eq!(most_inside(&records), 4);
    assert!(metric("router_queue_ms_max") > 50.0);
}

#[test]
fn workers_and_tokens_have_limits_of_their_own() {
    let (records, _, _) = ran(&crowded(&["router.admission.max_inflight_per_worker=2"]));
    // Even where the policy piles up, none is let in once both have two.
    for record in &records {
        let at = record.arrived;
        let inside = |worker: u32| {
            let here = records.iter().filter(|other| {
                other.request < record.request
                    && other.dispatched.is_some_and(|(_, w)| w.0 == worker)
                    && other.end.is_some_and(|(end, _)| end > at)
            });
            here.count()
        };
        let is_full = inside(0) >= 2 && inside(1) >= 2;
        assert_eq!(refused(record).is_some(), is_full, "{record:?}");
    }
    let (records, _, _) = ran(&crowded(&["router.admission.max_inflight_tokens=600"]));
    for record in records.iter().filter(|record| refused(record).is_none()) {
        let others = records.iter().filter(|other| {
            other.request < record.request
                && other.dispatched.is_some()
                && other.end.is_some_and(|(end, _)| end > record.arrived)
        });
        let others: u32 = others.map(|other| other.prompt_tokens).sum();
        assert!(others == 0 || others + record.prompt_tokens <= 600, "{record:?}");
    }
}

/// A higher limit refuses no more, of the same arrivals.
#[test]
fn refusals_fall_with_the_limit() {
    let rejected = |most: u32| {
        let limit = format!("router.admission.max_inflight={most}");
        let (_, metric, _) = ran(&open_loop(&[&limit]));
        metric("rejected")
    };
    let counts = [1, 2, 4, 8, 16, 64].map(rejected);
    assert!(counts.is_sorted_by(|a, b| a >= b), "{counts:?}");
    assert!(counts[0] > 100.0 && counts[5] == 0.0, "{counts:?}");
}

/// Erlang's loss formula: of Poisson arrivals at c places a share is lost that depends on
/// the mean time of a stay alone.
#[test]
fn a_loss_system_loses_what_erlang_says() {
    let text = "name = \"erlang\"\n[cluster]\nworkers = 1\n\
        [engine]\nrules = \"vllm\"\nblock_size = 16\nnum_blocks = 10_000\nmax_num_seqs = 100\n\
        max_num_batched_tokens = 8_192\nmax_model_len = 1_000\n\
        step_time = { kind = \"fixed\", prefill = \"10ms\", decode = \"10ms\" }\n\
        [router]\npolicy = \"round_robin\"\nadmission.max_inflight = 6\n\
        [workload]\nkind = \"requests\"\narrivals = { kind = \"poisson\", rate = 8 }\n\
        count = 6_000\nprompt_tokens = { kind = \"constant\", value = 20 }\n\
        output_tokens = { kind = \"uniform\", min = 1, max = 199 }\n[measure]\nseeds = 1\n";
    let experiment = Experiment::parse(Path::new("erlang.toml"), text, &LoadOptions::default());
    let (_, metric, _) = ran(&experiment.expect("valid"));
    let offered = 8.0 * metric("e2e_ms_mean") / 1_000.0;
    let erlang_b = (1..=6).fold(1.0, |b, places| {
        let carried = offered * b;
        carried / (f64::from(places) + carried)
    });
    let lost = metric("error_ratio");
    assert!((7.5..8.5).contains(&offered) && erlang_b > 0.3, "{offered} {erlang_b}");
    assert!((lost - erlang_b).abs() < 0.02, "{lost} against {erlang_b}");
}

#[test]
fn refused_clients_send_again_after_the_pauses_they_draw() {
    let (records, metric, _) = ran(&crowded(&[
        "router.admission={ max_inflight = 8, status = 429 }",
        "workload.patience.on_refusal={ retries = 3, backoff = \"40ms\", jitter = 0.5 }",
    ]));
    assert!(metric("retries") > 50.0, "{}", metric("retries"));
    assert_eq!(records.len() as f64, 200.0 + metric("retries"));
    let again = records.iter().filter(|record| record.is_sent_again()).count();
    assert_eq!(metric("retries"), again as f64);
    assert!(metric("unserved_ratio") < metric("error_ratio"));
    for conversation in 0..200 {
        let mut tries = records.iter().filter(|record| record.conversation == conversation);
        let mut before = tries.next().expect("a first one");
        for (n, next) in tries.enumerate() {
            let (ended, _) = before.end.expect("it was refused");
            let pause = (next.arrived - ended).as_millis();
            let whole = 40.0 * 2f64.powi(i32::try_from(n).expect("few"));
            assert!(before.is_sent_again() && (0.5 * whole..=whole).contains(&pause), "{pause}");
            assert_eq!(next.sent, before.sent, "its clock goes on");
            before = next;
        }
        assert!(!before.is_sent_again());
    }
}

#[test]
fn retry_after_and_patience_decide_who_comes_back() {
    let (records, _, _) = ran(&crowded(&[
        "router.admission={ max_inflight = 8, retry_after = \"300ms\" }",
        "workload.patience.on_refusal={ retries = 9 }",
    ]));
    for record in records.iter().filter(|record| record.is_sent_again()) {
        let (ended, _) = record.end.expect("it was refused");
        let next = records
            .iter()
            .find(|next| next.conversation == record.conversation && next.request > record.request);
        let pause = next.expect("the next try").arrived - ended;
        assert_eq!(pause, SimDuration::from_millis(300));
    }
    // Statuses that a client does not know end it, and so does its patience.
    let (_, metric, _) = ran(&crowded(&[
        "router.admission={ max_inflight = 8, status = 429 }",
        "workload.patience.on_refusal={ statuses = [503] }",
    ]));
    assert_eq!(metric("retries"), 0.0);
    let (records, _, _) = ran(&crowded(&[
        "router.admission.max_inflight=8",
        "workload.patience={ first_token = \"400ms\", on_refusal = { retries = 50, backoff = \"90ms\" } }",
    ]));
    assert!(records.iter().any(|record| record.is_sent_again()));
    let latest = records.iter().map(|record| record.arrived - record.sent).max();
    assert!(latest < Some(SimDuration::from_millis(400)), "{latest:?}");
}

/// The same client meets the same pauses, whatever the policy.
#[test]
fn pauses_depend_on_the_seed_alone() {
    let first_pauses = |policy: &str| {
        let policy = format!("router.policy={policy}");
        let (records, _, _) = ran(&crowded(&[
            &policy,
            "router.admission.max_inflight=1",
            "workload.patience.on_refusal={ retries = 1 }",
        ]));
        let tries = |conversation: u32| {
            let mut tries = records.iter().filter(|record| record.conversation == conversation);
            let first = tries.next()?;
            Some((conversation, tries.next()?.arrived - first.end?.0))
        };
        (0..24).filter_map(tries).collect::<Vec<_>>()
    };
    let pauses = first_pauses("kv");
    assert!(pauses.len() > 10);
    assert_eq!(pauses, first_pauses("random"));
}

#[test]
fn busy_workers_are_seen_by_their_reports() {
    let (records, metric, _) = ran(&crowded(&[
        "router.policy=round_robin",
        "router.admission={ busy_kv_share = 0.1, report_period = \"20ms\" }",
    ]));
    let busy = records.iter().filter(|record| refused(record) == Some(RejectReason::Busy));
    assert_eq!(busy.count() as f64, metric("rejected_busy"));
    assert!(metric("rejected_busy") > 10.0 && metric("rejected_full") == 0.0);
    // No one has more than all blocks.
    let (_, metric, _) = ran(&crowded(&["router.admission.busy_kv_share=1.0"]));
    assert_eq!(metric("rejected_busy"), 0.0);
}

/// In every mode of Dynamo, and in no other policy in silence.
#[test]
fn single_busy_workers_are_left_out() {
    let gate = "busy_kv_share = 0.1, report_period = \"20ms\"";
    let (all, single) = (
        format!("router.admission={{ {gate} }}"),
        format!("router.admission={{ {gate}, leave_out_busy = true }}"),
    );
    let mut modes = vec!["round_robin", "random", "least_loaded", "power_of_two", "kv"];
    modes.push("dynamo_two_tier");
    if cfg!(feature = "dynamo") {
        modes.extend(["dynamo", "shadow"]);
    }
    for mode in modes {
        let policy = format!("router.policy={mode}");
        let (records, metric, digest) = ran(&crowded(&[&policy, &single]));
        let (_, _, without) = ran(&crowded(&[&policy, &all]));
        assert_ne!(digest, without, "{mode}");
        assert!(metric("rejected_busy") > 0.0, "{mode}");
        assert_eq!(metric("finished") + metric("rejected_busy"), records.len() as f64, "{mode}");
    }
    // All other policies say that they have no such gate.
    let refused = try_crowded(&["router.policy=session_affinity", &single]);
    let refused = refused.expect_err("no such gate").to_string();
    assert!(refused.contains("router.admission.leave_out_busy = true: must be left out with"));
    assert!(refused.contains("round_robin") && refused.contains("leave_out_busy = false"));
    let control = "control=[{ at = \"1s\", what = \"policy\", policy = \"ttft_estimate\" }]";
    let refused = try_crowded(&[&single, control]).expect_err("no such gate").to_string();
    assert!(refused.contains("leave_out_busy"), "{refused}");
}

/// `kv` and the production router's own code take the same workers behind it.
#[cfg(feature = "dynamo")]
#[test]
fn both_routers_leave_out_the_same() {
    let gate = "router.admission={ busy_kv_share = 0.2, report_period = \"20ms\", \
                leave_out_busy = true }";
    let thresholds = ["router.active_decode_blocks_threshold=0.4", "router.queue_threshold=0.5"];
    for more in [&[][..], &thresholds] {
        let sets = [&["router.policy=shadow", gate], more].concat();
        let (_, metric, _) = ran(&crowded(&sets));
        assert!(metric("shadow_decisions") > 50.0);
        let same = metric("shadow_agreed") + metric("shadow_tied");
        assert_eq!((same, metric("shadow_costs_differ")), (metric("shadow_decisions"), 0.0));
    }
}

#[test]
fn limits_change_while_a_simulation_runs() {
    let control = "control=[{ at = \"300ms\", what = \"parameter\", \
        key = \"admission.max_inflight\", value = 40 }]";
    let (records, _, _) = ran(&crowded(&["router.admission.max_inflight=2", control]));
    let at = SimTime::ZERO + SimDuration::from_millis(300);
    let is_refused = |record: &&RequestRecord| refused(record).is_some();
    let (before, after): (Vec<&RequestRecord>, Vec<&RequestRecord>) =
        records.iter().filter(is_refused).partition(|record| record.arrived < at);
    assert!(!before.is_empty() && after.is_empty());
    let messages = [
        try_crowded(&[control]),
        try_crowded(&["router.admission={}", &control.replace("max_inflight", "max_in")]),
        try_crowded(&["router.admission={}", &control.replace("40", "0")]),
        try_crowded(&["router.admission={}", &control.replace("40", "1.5")]),
        try_crowded(&["router.admission={}", &control.replace("max_inflight", "busy_kv_share")]),
    ]
    .map(|tried| tried.expect_err("refused").to_string());
    insta::assert_snapshot!(messages.join("\n"));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let lines = [
        "router.admission={ max_inflight = 0 }",
        "router.admission={ max_inflght = 3 }",
        "router.admission={ busy_kv_share = 85 }",
        "router.admission={ leave_out_busy = true }",
        "router.admission={ report_period = \"0s\" }",
        "router.admission={ max_wait = \"1s\" }",
        "router.admission={ status = 500 }",
        "workload.patience.on_refusal={ backoff = \"0s\" }",
        "workload.patience.on_refusal={ max_backoff = \"1ms\" }",
        "workload.patience.on_refusal={ jitter = 2.0 }",
        "workload.patience.on_refusal={ statuses = [404] }",
    ]
    .map(|set| try_crowded(&[set]).expect_err(set).to_string());
    insta::assert_snapshot!(lines.join("\n"));
}

proptest! {
    #![proptest_config(super::rig::cases(200))]

    /// Whoever decides, whatever else happens: every request ends once, or is sent again;
    /// limits hold; jumping over steps, and putting time in in pieces, shows the same.
    #[test]
    fn every_request_ends_once(
        policy in prop::sample::select(vec!["kv", "round_robin", "least_loaded", "ttft_estimate"]),
        most in 1u32..20,
        max_waiting in 0u32..20,
        wait_ms in prop::option::of(5u64..300),
        retries in 0u32..4,
        queues: bool,
        crashes: bool,
        busy in 0u8..3,
        impatient: bool,
        replicas in 1u32..3,
        piece_ms in 1u64..90,
        seed in 0u64..50,
    ) {
        let mut admission = format!("max_inflight = {most}, max_waiting = {max_waiting}");
        if let Some(wait) = wait_ms.filter(|_| max_waiting > 0) {
            admission += &format!(", max_wait = \"{wait}ms\"");
        }
        if busy > 0 {
            admission += ", busy_kv_share = 0.3, report_period = \"30ms\"";
        }
        if busy > 1 && policy != "ttft_estimate" {
            admission += ", leave_out_busy = true";
        }
        let policy = format!("router.policy={policy}");
        let admission = format!("router.admission={{ {admission} }}");
        let on_refusal = format!("on_refusal = {{ retries = {retries}, backoff = \"20ms\" }}");
        let patience = if impatient { "first_token = \"250ms\", " } else { "" };
        let patience = format!("workload.patience={{ {patience}{on_refusal} }}");
        let replicas_set = format!("router.replicas={replicas}");
        let mut overrides =
            vec![policy.as_str(), &admission, &patience, &replicas_set, "workload.count=60"];
        if queues {
            overrides.push("router.queue_threshold=0.5");
        }
        if crashes {
            overrides.push("cluster.change=[{ at = \"150ms\", what = \"crash\", worker = 0 }]");
            overrides.push("cluster.failover={ migrations = 1, notice_delay = \"20ms\" }");
        }
        let outcome = |fast_forward: &str| {
            let mut overrides = overrides.clone();
            overrides.push(fast_forward);
            let experiment = crowded(&overrides);
            let run = &experiment.runs[0];
            let watch = Watch { requests: true, ..Watch::default() };
            simulate(&run.settings, &run.levels, seed, watch).expect("it ends")
        };
        let jumped = outcome("engine.fast_forward=true");
        prop_assert_eq!(jumped.digest, outcome("engine.fast_forward=false").digest);
        let count = |name: &str| jumped.levels[0].get(name).copied().flatten().unwrap_or(0.0);
        let ended = ["finished", "rejected", "failed", "given_up"].map(count).iter().sum::<f64>();
        prop_assert_eq!(ended, 60.0 + count("retries"));
        prop_assert_eq!(jumped.requests.len() as f64, ended);
        let again = jumped.requests.iter().filter(|record| record.is_sent_again()).count();
        prop_assert_eq!(again as f64, count("retries"));
        if !crashes {
            prop_assert!(most_inside(&jumped.requests) <= most * replicas);
        }
        let experiment = crowded(&overrides);
        let mut pieces = experiment.runs[0].simulation(seed);
        let mut at = SimTime::ZERO;
        while !pieces.advance(at).expect("it ends").is_over {
            at += SimDuration::from_millis(piece_ms);
            let _looked = pieces.snapshot();
        }
        prop_assert_eq!(pieces.digest(), jumped.digest);
    }
}
