//! Experiments whose workers prefill or decode.

use super::program::CROWDED;
use kv_router_sim::experiment::{Experiment, LoadOptions, RunOptions, run};
use std::path::Path;

/// What follows the crowded fleet's sections.
const REST: &str = r#"seeds = 2

[cluster.prefill]
workers = 2

[cluster.decode.engine]
prefix_caching = false

[cluster.network]
gbit_per_s = 100

[router]
policy = "kv"
"#;

/// With this line more in its section `[engine]`.
fn experiment_with(line: &str, overrides: &[&str]) -> Result<Experiment, String> {
    let overrides = overrides.iter().map(|&argument| argument.to_owned()).collect();
    let options = LoadOptions { overrides, ..LoadOptions::default() };
    let crowded = CROWDED.replace("workers = 3", "workers = 4").replace("trtllm", "vllm");
    let crowded = crowded.replace("[engine]\n", &format!("[engine]\n{line}\n"));
    let text = format!("name = \"pools\"\n{crowded}{REST}");
    Experiment::parse(Path::new("pools.toml"), &text, &options).map_err(|error| error.to_string())
}

fn experiment(overrides: &[&str]) -> Result<Experiment, String> {
    experiment_with("kv_bytes_per_token = \"100k\"", overrides)
}

#[test]
fn an_experiment_with_pools_gives_the_same_bytes_on_any_number_of_threads() {
    let bytes = |jobs, overrides: &[&str]| {
        let experiment = experiment(overrides).expect("a good experiment");
        let options = RunOptions { jobs: Some(jobs), ..RunOptions::default() };
        serde_json::to_string(&run(&experiment, options).expect("it ends").summary).expect("JSON")
    };
    let one = bytes(1, &[]);
    assert_eq!(bytes(3, &[]), one);
    for name in ["transfer_ms_p95", "decode_queue_ms_p50", "prefill_running_mean"] {
        assert!(one.contains(name), "{name} is missing");
    }
    let digest = |text: &str| text.split("digest\":\"").nth(1).map(|rest| rest[..12].to_owned());
    for change in [
        "cluster.prefill.workers=1",
        "cluster.network.gbit_per_s=1",
        "cluster.decode.engine.prefix_caching=true",
        "router.semantics=\"0.9\"",
        "router.replicas=2",
        "router.restart.at=\"3s\"",
    ] {
        assert_ne!(digest(&bytes(2, &[change])), digest(&one), "{change}");
    }
}

/// The condition needs an index of decode workers: with one, short prompts skip the
/// prefill workers.
#[test]
fn short_prompts_may_skip_the_prefill_workers() {
    let transfers = |overrides: &[&str]| {
        let mut all = vec!["cluster.decode.engine.prefix_caching=true", "measure.seeds=1"];
        all.extend(overrides);
        let experiment = experiment(&all).expect("a good experiment");
        let options = RunOptions { keep_requests: true, ..RunOptions::default() };
        let outcome = run(&experiment, options).expect("it ends");
        let records = outcome.requests[0].records.clone();
        let handed = records.iter().filter(|record| record.handover.is_some()).count();
        handed as f64 / records.len() as f64
    };
    assert!(transfers(&[]) > 0.9);
    let conditional = "router.conditional_disaggregation={}";
    let share = transfers(&[conditional]);
    assert!((0.01..0.8).contains(&share), "{share}");
    let none = "router.conditional_disaggregation={ max_uncached_tokens = 0 }";
    assert!(transfers(&[none]) > 0.9);
}

#[test]
fn pools_that_cannot_be_are_refused_in_one_line() {
    let problem = |change: &str| experiment(&[change]).expect_err("a bad experiment");
    let shown = [
        "cluster.prefill.workers=0",
        "cluster.prefill.workers=4",
        "cluster.prefill.workers=9",
        "cluster.workers=1",
        "cluster.decode.workers=2",
        "cluster.prefill.engine.max_num_seqs=0",
        "cluster.decode.engine.block_size=32",
        "cluster.decode.engine.rules=\"trtllm\"",
        "cluster.network.gbit_per_s=0",
        "cluster.network.gbit_per_s=nan",
        "engine.kv_bytes_per_token=-1.0",
        "cluster.decode.engine.kv_bytes_per_token=99_999",
        "cluster.network.kv_bytes_per_token=100_000",
        "router.policy=\"oracle\"",
        "measure.why=true",
        "router.conditional_disaggregation.max_uncached_ratio=2.0",
        "cluster.prefill.model=\"none.toml\"",
    ];
    let lines: Vec<String> = shown.iter().map(|change| problem(change)).collect();
    assert!(lines.iter().all(|line| !line.contains('\n')), "{lines:#?}");
    insta::assert_snapshot!(lines.join("\n"));
    let line = experiment_with("", &[]).expect_err("nobody knows how much is moved");
    assert!(line.contains("cluster.prefill.engine.kv_bytes_per_token is missing"), "{line}");
}
