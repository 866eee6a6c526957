//! Clients that hang up: every request still ends once, memory comes back, and
//! nothing depends on how a run is gone through.

use kv_router_sim::experiment::{Experiment, LoadOptions, RunOptions, Watch, run, simulate};
use kv_router_sim::recorder::{End, RequestRecord};
use kv_router_sim::time::{SimDuration, SimTime};
use proptest::prelude::*;
use std::path::Path;

/// Two workers with twice as many clients as they serve in time.
fn crowded(overrides: &[&str]) -> Experiment {
    let text = "name = \"hang-ups\"\n[cluster]\nworkers = 2\n\
        [engine]\nrules = \"vllm\"\nblock_size = 16\nnum_blocks = 200\nmax_num_seqs = 4\n\
        max_num_batched_tokens = 256\nmax_model_len = 1_000\n\
        step_time = { kind = \"fixed\", prefill = \"7ms\", decode = \"3ms\" }\n\
        [router]\npolicy = \"kv\"\n\
        [workload]\nkind = \"requests\"\nconcurrency = 24\ncount = 200\n\
        prompt_tokens = { kind = \"uniform\", min = 20, max = 300 }\n\
        prefix = { groups = 3, tokens = 100 }\n\
        output_tokens = { kind = \"uniform\", min = 1, max = 60 }\n[measure]\nseeds = 1\n";
    let options = LoadOptions::default().set_all(overrides.iter().copied());
    Experiment::parse(Path::new("hang-ups.toml"), text, &options).expect("valid")
}

/// The requests of a run, in order of arrival, its metrics and its digest.
fn ran(overrides: &[&str]) -> (Vec<RequestRecord>, impl Fn(&str) -> f64, String) {
    let options = RunOptions::default().keep_requests();
    let mut outcome = run(&crowded(overrides), options).expect("it ends");
    let mut records = outcome.requests.remove(0).records;
    records.sort_by_key(|record| record.request);
    let metrics = outcome.summary.points.remove(0).metrics;
    let metric = move |name: &str| metrics[name].mean.expect("defined");
    (records, metric, outcome.digests.remove(0))
}

fn is_given_up(record: &RequestRecord) -> bool {
    matches!(record.end, Some((_, End::GivenUp)))
}

#[test]
fn clients_without_patience_leave_before_their_first_token() {
    let (records, metric, _) = ran(&["workload.patience.first_token=100ms"]);
    let given_up: Vec<&RequestRecord> = records.iter().filter(|r| is_given_up(r)).collect();
    assert!(given_up.len() > 20, "{}", given_up.len());
    assert_eq!(metric("given_up"), given_up.len() as f64);
    assert_eq!(metric("given_up") + metric("finished"), 200.0);
    for record in given_up {
        let at = record.given_up.expect("it was given up");
        assert_eq!(at - record.sent, SimDuration::from_millis(100));
        let (end, _) = record.end.expect("it has ended");
        // A step that runs goes on.
        assert!(end >= at && end - at <= SimDuration::from_millis(7), "{record:?}");
    }
    // Those that were served had their tokens in time.
    let served = records.iter().filter_map(|record| Some((record.first_token?, record)));
    for (first_token, record) in served.filter(|(_, record)| !is_given_up(record)) {
        assert!(first_token - record.sent <= SimDuration::from_millis(100));
    }
    assert!(metric("ttft_ms_max") <= 100.0);
}

#[test]
fn an_answer_that_takes_too_long_is_cut_off() {
    let (records, metric, _) = ran(&["workload.patience.answer=200ms"]);
    let after_first = |record: &&RequestRecord| is_given_up(record) && record.first_token.is_some();
    let answering = records.iter().filter(after_first).count();
    assert!(answering > 0);
    assert_eq!(metric("given_up") - metric("given_up_unanswered"), answering as f64);
    assert!(metric("e2e_ms_max") <= 200.0);
}

#[test]
fn patience_that_never_ends_changes_nothing() {
    let (_, _, plain) = ran(&[]);
    let (_, metric, patient) = ran(&["workload.patience.first_token=1h"]);
    assert_eq!((patient, metric("given_up")), (plain, 0.0));
}

#[test]
fn who_hung_up_may_send_again() {
    let (records, metric, _) = ran(&[
        "workload.patience={ first_token = \"100ms\", retries = 2, retry_pause = \"50ms\" }",
    ]);
    assert!(metric("retries") > 10.0, "{}", metric("retries"));
    assert_eq!(records.len() as f64, 200.0 + metric("retries"));
    // The load grows by what is sent again: that is what incidents are made of.
    assert!(metric("given_up") >= metric("retries"));
}

#[test]
fn patience_that_makes_no_sense_is_refused() {
    let refused = |keys: &str| {
        let text = format!(
            "name = \"x\"\n[cluster]\nworkers = 2\nprefill.workers = 1\n[engine]\nrules = \"vllm\"\n\
             num_blocks = 100\nmax_num_seqs = 4\nmax_num_batched_tokens = 64\n\
             kv_bytes_per_token = 1000\n\
             step_time = {{ kind = \"fixed\", prefill = \"1ms\", decode = \"1ms\" }}\n\
             [router]\npolicy = \"round_robin\"\n[workload]\nkind = \"requests\"\n\
             concurrency = 1\ncount = 1\n{keys}\n\
             prompt_tokens = {{ kind = \"constant\", value = 16 }}\n\
             output_tokens = {{ kind = \"constant\", value = 2 }}\n"
        );
        let options = LoadOptions::default();
        Experiment::parse(Path::new("x.toml"), &text, &options).expect_err(keys).to_string()
    };
    let lines =
        ["patience.retries = 3", "patience.first_token = \"0s\"", "patience.first_token = 5"]
            .map(refused);
    insta::assert_snapshot!(lines.join("\n"));
}

proptest! {
    #![proptest_config(super::rig::cases(300))]

    /// Whatever serves them: every request ends once, or is sent again; and jumping
    /// over steps shows the same as going through them.
    #[test]
    fn every_request_ends_once(
        trtllm: bool,
        overlap: bool,
        queues: bool,
        crashes: bool,
        first_token_ms in 5..400u64,
        answer_ms in 5..900u64,
        retries in 0..3u32,
        seed in 0..50u64,
    ) {
        let rules = format!("engine.rules={}", if trtllm { "trtllm" } else { "vllm" });
        let patience = format!(
            "workload.patience={{ retries = {retries}, \
             first_token = {{ kind = \"exponential\", mean = \"{first_token_ms}ms\", \
             min = \"1ms\", max = \"2s\" }}, answer = \"{answer_ms}ms\" }}"
        );
        let overlap = format!("engine.overlap={overlap}");
        let mut overrides = vec![rules.as_str(), &patience, &overlap, "workload.count=60"];
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
        let again = count("retries");
        let ended = ["finished", "rejected", "failed", "given_up"].map(count).iter().sum::<f64>();
        prop_assert_eq!(ended, 60.0 + again);
        prop_assert_eq!(jumped.requests.len() as f64, ended);
        for record in &jumped.requests {
            prop_assert!(record.end.is_some_and(|(at, _)| at >= record.sent && at > SimTime::ZERO));
            prop_assert_eq!(record.given_up.is_some(), is_given_up(record));
        }
    }
}
