//! Law 5: the same seed gives the same bytes, for any number of threads and any
//! order of runs and seeds.

use super::program::CROWDED;
use kv_router_sim::experiment::results::{MetricValue, Summary};
use kv_router_sim::experiment::{Experiment, LoadOptions, RunOptions, Watch, run, simulate};
use std::collections::BTreeMap;
use std::path::Path;

/// What follows the crowded fleet's sections.
const REST: &str = r#"seeds = [1, 2, 3]

[router]
policy = "kv"
temperature = 0.5

[router.feed]
delay = "4ms"
jitter = "3ms"
loss_ratio = 0.02

[sweep]
"router.policy" = ["round_robin", "random", "least_loaded", "kv"]
"workload.concurrency" = [6, 20]
"#;

/// The experiment with each of some pieces of its text replaced.
fn experiment(changes: &[(&str, &str)]) -> Experiment {
    let mut text = format!("name = \"laws\"\n{CROWDED}{REST}");
    for (from, to) in changes {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    Experiment::parse(Path::new("laws.toml"), &text, &LoadOptions::default()).expect("valid")
}

fn results(experiment: &Experiment, jobs: usize) -> Summary {
    let options = RunOptions::default().jobs(jobs);
    run(experiment, options).expect("runs").summary
}

/// Every number of a result set by point, metric and seed; bit for bit.
fn cells(summary: &Summary) -> BTreeMap<(String, String, u64), Option<u64>> {
    let mut cells = BTreeMap::new();
    for point in &summary.points {
        let params = serde_json::to_string(&point.params).expect("JSON");
        for (name, MetricValue { per_seed, .. }) in &point.metrics {
            for (&seed, value) in summary.provenance.seeds.iter().zip(per_seed) {
                cells.insert((params.clone(), name.clone(), seed), value.map(f64::to_bits));
            }
        }
    }
    cells
}

#[test]
fn threads_change_no_byte() {
    let experiment = experiment(&[]);
    let json = |jobs| serde_json::to_string(&results(&experiment, jobs)).expect("JSON");
    let one = json(1);
    for jobs in [2, 5] {
        assert!(json(jobs) == one, "{jobs} threads");
    }
}

#[test]
fn the_order_of_seeds_and_runs_changes_no_number() {
    let plain = cells(&results(&experiment(&[]), 1));
    assert!(plain.len() > 24 * 20, "{} cells", plain.len());
    for change in [
        ("seeds = [1, 2, 3]", "seeds = [3, 1, 2]"),
        (
            r#"["round_robin", "random", "least_loaded", "kv"]"#,
            r#"["kv", "least_loaded", "round_robin", "random"]"#,
        ),
        ("concurrency\" = [6, 20]", "concurrency\" = [20, 6]"),
    ] {
        assert!(cells(&results(&experiment(&[change]), 2)) == plain, "{change:?}");
    }
    let fewer = cells(&results(&experiment(&[("seeds = [1, 2, 3]", "seeds = [2]")]), 1));
    assert!(fewer.iter().all(|(cell, value)| plain[cell] == *value));
}

/// Law 6 for whole experiments, in which several workers do something at the same
/// moment (steps take whole milliseconds) and routers act on it.
#[test]
fn steps_one_by_one_change_no_number() {
    for rules in ["trtllm", "vllm"] {
        let engine = format!("rules = \"{rules}\"");
        let jumps = [("rules = \"trtllm\"", engine.as_str())];
        let steps = [jumps[0], ("num_blocks = 300", "num_blocks = 300\nfast_forward = false")];
        let (jumps, steps) = (results(&experiment(&jumps), 2), results(&experiment(&steps), 2));
        assert!(cells(&jumps) == cells(&steps), "{rules}");
        assert_eq!(jumps.provenance.digest, steps.provenance.digest, "{rules}");
    }
}

#[test]
fn a_run_does_not_remember_the_run_before() {
    let experiment = experiment(&[]);
    let watch = Watch { requests: true, ..Watch::default() };
    let once = |run: usize, seed| {
        let spec = &experiment.runs[run];
        simulate(&spec.settings, &spec.levels, seed, watch).expect("runs")
    };
    let first = once(7, 1);
    for (run, seed) in [(0, 1), (7, 2), (5, 1)] {
        assert_ne!(once(run, seed).digest, first.digest, "run {run}, seed {seed}");
    }
    let again = once(7, 1);
    assert_eq!(again.digest, first.digest);
    assert_eq!(again.requests, first.requests);
}

/// A blind policy does the same whatever is said to the others, so one
/// simulation stands for all: here every one is run by itself.
#[test]
fn what_a_policy_does_not_look_at_changes_no_byte() {
    let axes = "\"router.policy\" = [\"round_robin\", \"random\", \"least_loaded\", \"power_of_two\"]\n\
                variant = [{ name = \"plain\" }, { name = \"other\", router = { \
                overlap_weight = 3.0, temperature = 2.0, use_kv_events = false, \
                assume_kv_reuse = false, track_active_blocks = false, track_prefill_tokens = false, \
                track_output_blocks = true, prefill_load_scale = 2.0, overlap_score_credit = 0.5, \
                decode_active_request_weight = 9.0, approximate_ttl = \"1s\", \
                feed = { delay = \"1s\", jitter = \"1s\", loss_ratio = 0.5, count_copies = false } } }]\n";
    let swept = REST.split_once("[sweep]").expect("a sweep").1;
    let experiment = experiment(&[
        (swept, &format!("\n{axes}")),
        ("window = \"5s\"", "window = \"5s\"\nwhy = true"),
    ]);
    assert_eq!(experiment.runs.len(), 8);
    assert_eq!(experiment.simulations(), 4 * 3);
    for (index, spec) in experiment.runs.iter().enumerate() {
        let Some(first) = spec.same_as else { continue };
        let outcome = |index: usize| {
            let spec = &experiment.runs[index];
            simulate(&spec.settings, &spec.levels, 1, Watch::default()).expect("it ends")
        };
        let (own, other) = (outcome(index), outcome(first));
        assert_eq!(own.digest, other.digest);
        assert_eq!(own.levels, other.levels);
    }
    let summary = results(&experiment, 2);
    for (index, spec) in experiment.runs.iter().enumerate() {
        let first = spec.same_as.unwrap_or(index);
        assert_eq!(summary.points[index].metrics, summary.points[first].metrics);
    }
}
