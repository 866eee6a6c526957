//! Runs without an end are found, in about a second, and end with exit code 2 and
//! the cause.

use super::program::{Scratch, text};
use std::time::{Duration, Instant};

/// Clients that get answers in no time and ask again at once.
const ZENO: &str = r#"
name = "zeno"
[cluster]
workers = 1
[engine]
rules = "vllm"
num_blocks = 100
max_num_seqs = 4
max_num_batched_tokens = 64
step_time = { kind = "instant" }
[router]
policy = "round_robin"
[workload]
kind = "conversations"
concurrency = 1
starters = 1
starter_tokens = { kind = "constant", value = 16 }
turns = { min = 1, max = 1 }
question_tokens = { kind = "constant", value = 1 }
output_tokens = { kind = "constant", value = 1 }
[measure]
window = "1s"
"#;

/// A client that sends to a fleet of none, again and again.
const CRASH_LOOP: &str = r#"
name = "crash-loop"
[cluster]
workers = 1
change = [{ at = "0s", what = "crash", worker = 0 }]
[cluster.failover]
retries = 1_000_000_000
retry_pause = "0s"
[engine]
rules = "vllm"
num_blocks = 100
max_num_seqs = 4
max_num_batched_tokens = 64
step_time = { kind = "fixed", prefill = "1ms", decode = "1ms" }
[router]
policy = "round_robin"
[workload]
kind = "requests"
concurrency = 1
count = 1
prompt_tokens = { kind = "constant", value = 16 }
output_tokens = { kind = "constant", value = 1 }
"#;

/// The last line of a run that must be found to have no end.
fn found(experiment: &str, sets: &[&str]) -> String {
    let place = Scratch::new();
    place.write("endless.toml", experiment);
    let before = place.files();
    let set = sets.iter().flat_map(|set| ["--set", set]);
    let args: Vec<&str> = ["run", "endless.toml"].into_iter().chain(set).collect();
    #[expect(clippy::disallowed_methods, reason = "the program is timed, not a simulation")]
    let begin = Instant::now();
    let output = place.sim(&args);
    // A second of an optimised program on a machine with nothing else to do.
    assert!(begin.elapsed() < Duration::from_secs(300), "{sets:?} took {:?}", begin.elapsed());
    let line = text(&output.stderr).trim_end().to_owned();
    assert_eq!(output.status.code(), Some(2), "{args:?}: {line}");
    assert_eq!(text(&output.stdout), "", "{args:?}");
    let last = line.lines().last().unwrap_or_default().to_owned();
    assert!(last.starts_with("error: "), "{line}");
    assert_eq!(place.files(), before, "{args:?} left something behind");
    last
}

#[test]
fn a_clock_that_does_not_move_is_found() {
    let served = "requests are served in no time and clients send the next ones at once";
    for sets in [
        &[][..],
        &["engine.step_time={ kind = \"fixed\", prefill = \"0s\", decode = \"0s\" }"],
        &[
            "engine.step_time={ kind = \"fixed\", prefill = \"1ms\", decode = \"1ms\" }",
            "engine.speedup_ratio=1e300",
        ],
    ] {
        let line = found(ZENO, sets);
        assert!(line.contains("1,000,000 events at 0 s: "), "{line}");
        assert!(line.contains(served), "{line}");
    }
}

#[test]
fn retries_and_migrations_without_end_are_found() {
    let line = found(CRASH_LOOP, &[]);
    assert!(line.contains("1,000,000 events at 0.01 s: "), "{line}");
    assert!(line.contains("cluster.failover.retry_pause"), "{line}");
    let short = found(CRASH_LOOP, &["cluster.failover.retry_pause=1ns"]);
    assert!(short.contains("1,000,000 events from 0.01"), "{short}");
    // The list of workers is not renewed for ten seconds.
    for pause in ["0s", "1ns"] {
        let migrations = found(
            CRASH_LOOP,
            &[
                "cluster.failover.retries=0",
                "cluster.failover.migrations=4294967295",
                "cluster.failover.inhibit=false",
                &format!("cluster.failover.notice_delay={pause}"),
            ],
        );
        assert!(migrations.contains("1,000,000 events "), "{migrations}");
        assert!(migrations.contains("cluster.failover.notice_delay"), "{migrations}");
    }
}

#[test]
fn periods_of_a_nanosecond_are_refused() {
    let place = Scratch::new();
    place.write("planner.toml", CRASH_LOOP.replace("[cluster.failover]", "[cluster.planner]\nmin_workers = 1\nmax_workers = 2\ninterval = \"1ns\"\n[cluster.failover]"));
    let output = place.sim(&["run", "planner.toml"]);
    let line = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{line}");
    assert!(line.contains("cluster.planner.interval = \"1ns\": must be at least 1ms"), "{line}");
    place.write("plain.toml", ZENO);
    let arrivals = "workload={ kind = \"requests\", count = 9, \
        prompt_tokens = { kind = \"constant\", value = 16 }, \
        output_tokens = { kind = \"constant\", value = 1 }, \
        arrivals = { kind = \"on_off\", rate = 0.01, on = \"1ns\", off = \"1ns\" } }";
    for (sets, expected) in [
        (
            &[
                "measure.quantiles=snapshots",
                "measure.snapshot_every=1ns",
                "measure.trailing=1ns",
                "measure.window=10h",
            ][..],
            "measure.snapshot_every = \"1ns\": must be at least \"36ms\"",
        ),
        (
            &["router.policy=inference_extension", "router.report_period=1ns"],
            "router.report_period = \"1ns\": must be at least 1ms",
        ),
        (&[arrivals], "workload.arrivals.on = \"1ns\": must be with off at least 0.1 s"),
    ] {
        let set = sets.iter().flat_map(|set| ["--set", set]);
        let args: Vec<&str> = ["run", "plain.toml"].into_iter().chain(set).collect();
        let output = place.sim(&args);
        let line = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{line}");
        assert!(line.contains(expected), "{line}");
    }
}
