//! Law 5: the same seed gives the same bytes, for any number of threads and any
//! order of runs and seeds.

use kv_router_sim::experiment::results::{Metric, Summary};
use kv_router_sim::experiment::{Experiment, LoadOptions, RunOptions, Watch, run, simulate};
use std::collections::BTreeMap;
use std::path::Path;

const EXPERIMENT: &str = r#"
name = "laws"

[cluster]
workers = 3

[engine]
rules = "trtllm"
block_size = 16
num_blocks = 300
max_num_seqs = 6
max_num_batched_tokens = 256
max_model_len = 1_000
step_time = { kind = "fixed", prefill = "7ms", decode = "3ms" }

[router]
policy = "kv"
temperature = 0.5

[router.feed]
delay = "4ms"
jitter = "3ms"
loss_ratio = 0.02

[workload]
kind = "conversations"
concurrency = 6
starters = 2
starter_tokens = { kind = "uniform", min = 50, max = 200 }
turns = { min = 1, max = 4 }
question_tokens = { kind = "uniform", min = 5, max = 60 }
output_tokens = { kind = "normal", mean = 40, sd = 20, min = 1, max = 80 }
think_time = { kind = "exponential", mean = "200ms", min = "0s", max = "2s" }

[measure]
warmup = "1s"
window = "5s"
seeds = [1, 2, 3]

[sweep]
"router.policy" = ["round_robin", "random", "least_loaded", "kv"]
"workload.concurrency" = [6, 20]
"#;

/// The experiment with each of some pieces of its text replaced.
fn experiment(changes: &[(&str, &str)]) -> Experiment {
    let mut text = EXPERIMENT.to_owned();
    for (from, to) in changes {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    Experiment::parse(Path::new("laws.toml"), &text, &LoadOptions::default()).expect("valid")
}

fn results(experiment: &Experiment, jobs: usize) -> Summary {
    let options = RunOptions { jobs: Some(jobs), ..RunOptions::default() };
    run(experiment, options).expect("runs").summary
}

/// Every number of a result set by point, metric and seed; bit for bit.
fn cells(summary: &Summary) -> BTreeMap<(String, String, u64), Option<u64>> {
    let mut cells = BTreeMap::new();
    for point in &summary.points {
        let params = serde_json::to_string(&point.params).expect("JSON");
        for (name, Metric { per_seed, .. }) in &point.metrics {
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
