//! Loads that come in stages: each is measured from its first request to its last answer,
//! finds the caches that the stages before it left, and is a point of its own.

use kv_router_sim::experiment::{Experiment, LoadOptions, RunOptions, run};
use kv_router_sim::time::{SimDuration, SimTime};
use std::path::Path;

const STAGED: &str = r#"name = "staged"

[cluster]
workers = 1

[engine]
rules = "vllm"
block_size = 16
num_blocks = "1k"
max_num_seqs = 64
max_num_batched_tokens = 512
step_time = { kind = "fixed", prefill = "20ms", decode = "10ms" }

[router]
policy = "round_robin"

[workload]
kind = "inference_perf"
groups = 4
prompts_per_group = 3
system_prompt_tokens = { kind = "constant", value = 320 }
question_tokens = { kind = "constant", value = 48 }
output_tokens = { kind = "constant", value = 20 }
stages = [
    { rate = 6, duration = "2s", measured = false },
    { rate = 3, duration = "4s" },
    { rate = 12, duration = "3s" },
]

[sweep]
"router.policy" = ["round_robin", "random"]
"#;

fn experiment(text: &str) -> Experiment {
    Experiment::parse(Path::new("staged.toml"), text, &LoadOptions::default()).expect("valid")
}

fn refused(from: &str, to: &str) -> String {
    assert!(STAGED.contains(from), "{from}");
    let text = STAGED.replace(from, to);
    let loaded = Experiment::parse(Path::new("staged.toml"), &text, &LoadOptions::default());
    loaded.expect_err("refused").to_string()
}

#[test]
fn measured_stages_are_the_points() {
    let experiment = experiment(STAGED);
    let rates: Vec<_> =
        experiment.points.iter().map(|point| point["workload.rate"].to_string()).collect();
    assert_eq!(rates, ["3", "12", "3", "12"]);
    assert_eq!(experiment.runs[1].levels, [1, 2]);
    assert_eq!(experiment.runs[1].points, [2, 3]);
}

#[test]
fn a_stage_is_measured_from_its_first_request_to_its_last_answer() {
    let experiment = experiment(STAGED);
    let outcome = run(&experiment, RunOptions::default().keep_requests()).expect("runs");
    let mut records = outcome.requests[0].records.clone();
    records.sort_by_key(|record| record.request);
    let (warmup, rest) = records.split_at(12);
    let (slow, fast) = rest.split_at(12);
    assert_eq!(fast.len(), 36);
    let mut end = SimTime::ZERO;
    for (stage, point) in [(warmup, None), (slow, Some(0)), (fast, Some(1))] {
        let begin = stage[0].sent;
        // Two seconds after the last answer of the stage before.
        let pause = if end == SimTime::ZERO { 0 } else { 2 };
        assert_eq!(begin, end + SimDuration::from_secs(pause));
        end = stage.iter().filter_map(|record| record.end).map(|(at, _)| at).max().unwrap();
        let Some(point) = point else { continue };
        let metric = |name: &str| outcome.summary.points[point].metrics[name].mean;
        let seconds = (end - begin).as_secs();
        let close = |name: &str, expected: f64| {
            assert!((metric(name).unwrap() / expected - 1.0).abs() < 1e-9, "{name}");
        };
        close("finished", stage.len() as f64);
        close("requests_per_s", stage.len() as f64 / seconds);
        close("output_tokens_per_s", stage.len() as f64 * 20.0 / seconds);
        // Every text was there since the first stage: all but the token that must be
        // computed is found, in whole blocks of 16.
        close("hit_ratio", 352.0 / 368.0);
        // A burst is one by design.
        assert_eq!([metric("backlog_growth_ratio"), metric("ttft_drift")], [None, None]);
    }
}

#[test]
fn stages_are_the_same_in_any_pieces() {
    let experiment = experiment(STAGED);
    let spec = &experiment.runs[1];
    let mut whole = spec.simulation(1);
    let end = whole.advance(SimTime::MAX).expect("it ends");
    assert!(end.is_over);
    let mut pieces = spec.simulation(1);
    let mut at = SimTime::ZERO;
    while !pieces.advance(at).expect("it goes on").is_over {
        at += SimDuration::from_millis(170);
    }
    assert_eq!(pieces.now(), end.now);
    let [whole, pieces] = [whole, pieces].map(kv_router_sim::simulation::Simulation::finish);
    assert_eq!(whole.digest(), pieces.digest());
    assert_eq!(whole.levels, pieces.levels);
    assert_eq!(whole.levels.len(), 2);
}

#[test]
fn what_does_not_go_with_stages_is_refused() {
    let messages = [
        refused("[sweep]", "[measure]\nwindow = \"10s\"\n[sweep]"),
        refused("[sweep]", "[measure]\nwarmup = \"10s\"\n[sweep]"),
        refused("rate = 12,", "rate = 3,"),
        refused("[sweep]", "[sweep]\n\"workload.concurrency\" = [1, 2]"),
        refused("groups = 4", "groups = 4\nclient.overhead_per_inflight = \"1ms\""),
    ];
    insta::assert_snapshot!(messages.join("\n"), @r#"
    staged.toml:31: measure.window = "10s": must be left out: a stage is measured from its first request to its last answer
    staged.toml:31: measure.warmup = "10s": must be left out: a stage is measured from its first request to its last answer
    staged.toml:27: workload.stages[2].rate = 3: must be unlike those of other measured stages: points are told apart by it
    staged.toml:31 (swept): unknown key workload.concurrency; the keys here are groups, prompts_per_group, system_prompt_tokens, question_tokens, output_tokens, arrivals, stages, pause, new_texts, client, patience, priority
    staged.toml:20: workload.client.overhead_per_inflight = "1ms": must be absent in an open loop, whose requests do not wait for answers
    "#);
}
