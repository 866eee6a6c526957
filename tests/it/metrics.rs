//! The names of metrics: what runs report is known to the commands that ask for
//! metrics, and they know which of them an experiment will have.

use super::program::{CROWDED, Scratch};
use kv_router_sim::experiment::check_measured;
use kv_router_sim::experiment::{Experiment, LoadOptions, RunOptions, run};
use kv_router_sim::metrics::{self, CATALOGUE, MetricKind, Needs, directed};
use std::collections::BTreeSet;
use std::path::Path;

/// Experiments that differ in what they measure.
fn experiments() -> Vec<Experiment> {
    let tier =
        |name: &str| format!("{{ name = \"{name}\", capacity = 400, bandwidth = \"10GB/s\" }}");
    let tiers = |names: &[&str]| {
        let tiers: Vec<String> = names.iter().map(|name| tier(name)).collect();
        format!("engine.tier=[{}]", tiers.join(", "))
    };
    let bytes = "engine.kv_bytes_per_token=100_000".to_owned();
    let crash = "cluster.change=[{ at = \"2s\", what = \"crash\", worker = 1 }]".to_owned();
    let planner = "cluster.planner={ min_workers = 1, max_workers = 4 }".to_owned();
    let pools =
        "cluster.pool=[{ name = \"POOL\", workers = 1 }, { name = \"other\", workers = 2 }]";
    let mut overrides = vec![
        vec![],
        vec!["slo.ttft=100ms".to_owned(), "measure.why=true".to_owned()],
        vec!["cluster.prefill.workers=1".to_owned(), "engine.rules=vllm".to_owned(), bytes.clone()],
        vec![tiers(&["host", "disk"]), bytes.clone()],
        vec![tiers(&["remote"]), bytes],
        vec![crash.clone()],
        vec![crash, "cluster.failover.retries=1".to_owned()],
        vec![planner],
        vec![pools.to_owned()],
        vec!["workload.patience={ answer = \"2s\", retries = 1 }".to_owned()],
        vec!["router.admission={ max_inflight = 40 }".to_owned()],
        vec!["workload.patience.on_refusal={ retries = 1 }".to_owned()],
        vec!["workload.client.connections={ limit = 10 }".to_owned()],
    ];
    if cfg!(feature = "dynamo") {
        overrides.push(vec!["router.policy=shadow".to_owned()]);
    }
    let experiment = |overrides: Vec<String>| {
        let mut text = format!("name = \"metrics\"\n{CROWDED}[router]\npolicy = \"kv\"\n");
        if overrides.iter().any(|argument| argument.starts_with("cluster.pool=")) {
            text = text.replace("workers = 3\n", "");
        }
        let options = LoadOptions::default().set_all(overrides);
        Experiment::parse(Path::new("metrics.toml"), &text, &options).expect("valid")
    };
    let mut experiments: Vec<Experiment> = overrides.into_iter().map(experiment).collect();
    experiments.push(replay());
    experiments
}

/// An experiment whose requests come from a file.
fn replay() -> Experiment {
    let place = Scratch::new();
    place.write("t.jsonl", r#"{"timestamp": 0, "input_length": 100, "output_length": 10}"#);
    let begin = CROWDED.find("[workload]").expect("a workload");
    let text = format!(
        "name = \"replay\"\n{}[router]\npolicy = \"kv\"\n\
         [workload]\nkind = \"trace\"\npath = \"t.jsonl\"\n",
        &CROWDED[..begin]
    );
    let file = place.path().join("replay.toml");
    Experiment::parse(&file, &text, &LoadOptions::default()).expect("valid")
}

#[test]
fn every_metric_of_a_run_is_known_and_every_other_is_refused_before_it() {
    let measured: Vec<(Experiment, BTreeSet<String>)> = experiments()
        .into_iter()
        .map(|experiment| {
            let outcome = run(&experiment, RunOptions::default()).expect("it ends");
            let names = outcome.summary.points[0].metrics.keys();
            // Of two pools one is enough.
            let names = names.filter(|name| !name.ends_with("[other]")).cloned().collect();
            (experiment, names)
        })
        .collect();
    let all: BTreeSet<&str> =
        measured.iter().flat_map(|(_, names)| names).map(String::as_str).collect();
    let is_built = |kind: &MetricKind| cfg!(feature = "dynamo") || kind.needs != Needs::Shadow;
    let catalogue: BTreeSet<String> =
        CATALOGUE.iter().filter(|kind| is_built(kind)).flat_map(|kind| kind.names()).collect();
    assert_eq!(all, catalogue.iter().map(String::as_str).collect(), "written, catalogued");
    for name in all {
        for (index, (experiment, names)) in measured.iter().enumerate() {
            let is_known = check_measured("metric", name, experiment).is_ok();
            assert_eq!(is_known, names.contains(name), "{name} of experiment {index}");
        }
    }
}

/// `SIM_WRITE_DOCS=1 cargo test --test it metrics` writes it.
#[test]
fn the_page_of_metrics_is_that_of_the_catalogue() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
    if std::env::var_os("SIM_WRITE_DOCS").is_some() {
        std::fs::write(&file, metrics::page()).expect("written");
    }
    let page = std::fs::read_to_string(&file).expect("docs/metrics.md");
    assert!(
        page == metrics::page(),
        "docs/metrics.md is not that of the catalogue: run this test with \
         SIM_WRITE_DOCS=1 to write it"
    );
}

#[test]
fn what_a_metric_needs_is_named() {
    let plain = experiments().remove(0);
    let refused = |name: &str| check_measured("--best", name, &plain).expect_err(name).to_string();
    let names = [
        "goodput_per_s",
        "hit_ratio_host",
        "load_ms_p95",
        "lost_to_eviction_ratio",
        "transfer_ms_p95",
        "prefill_running_mean",
        "failed",
        "retries",
        "workers_added",
        "shadow_agreed",
        "ttft_ms_p75",
        "hit_ratio_p50",
        "inflight_spread",
    ];
    let lines = names.map(refused).join("\n");
    insta::assert_snapshot!(lines, @r#"
    --best = goodput_per_s: must be a metric that this experiment measures; this one needs [slo]
    --best = hit_ratio_host: must be a metric that this experiment measures; this one needs an [[engine.tier]] of host memory
    --best = load_ms_p95: must be a metric that this experiment measures; this one needs [[engine.tier]]
    --best = lost_to_eviction_ratio: must be a metric that this experiment measures; this one needs measure.why = true
    --best = transfer_ms_p95: must be a metric that this experiment measures; this one needs cluster.prefill.workers, or pools that prefill and that decode
    --best = prefill_running_mean: must be a metric that this experiment measures; this one needs cluster.prefill.workers, or pools that prefill and that decode
    --best = failed: must be a metric that this experiment measures; this one needs [[cluster.change]] or [cluster.planner]
    --best = retries: must be a metric that this experiment measures; this one needs workload.patience.retries, [workload.patience.on_refusal], or [[cluster.change]] or [cluster.planner] and cluster.failover.retries
    --best = workers_added: must be a metric that this experiment measures; this one needs [cluster.planner]
    --best = shadow_agreed: must be a metric that this experiment measures; this one needs router.policy = "shadow"
    --best = ttft_ms_p75: must be the name of a metric with a statistic, `ttft_ms_` and one of mean, p50, p90, p95, p99, max
    --best = hit_ratio_p50: must be the name of a metric; of this one there is `hit_ratio` alone
    --best = inflight_spread: must be the name of a metric with a statistic, `inflight_spread_` and one of mean, max
    "#);
    let error = directed("--best", "hit_ratio_host").expect_err("neither is better").to_string();
    assert!(error.ends_with("either more or less is better"), "{error}");
}
