//! `[[cluster.change]]`, `[cluster.failover]` and `[cluster.planner]` in a file.

use super::program::CROWDED;
use kv_router_sim::experiment::{Experiment, LoadOptions, RunOptions, run};
use kv_router_sim::recorder::RequestRecord;
use kv_router_sim::report::render::requests;
use kv_router_sim::time::SimTime;
use std::path::Path;

/// What follows the crowded fleet's sections.
const REST: &str = r#"seeds = 2

[[cluster.change]]
at = "2s"
what = "crash"
worker = 1
restart_after = "300ms"

[[cluster.change]]
at = "4s"
what = "start"
worker = 3

[[cluster.change]]
at = "3s"
what = "slow"
worker = 0
factor = 1.7
lasts = "1s"

[cluster.failover]
lease = "1s"
migrations = 1
retries = 1
retry_pause = "100ms"

[router]
policy = "kv"
replicas = 2
sync_delay = "3ms"

[router.restart]
at = "2005ms"
recovery_delay = "100ms"

[sweep]
"router.policy" = ["round_robin", "kv", "dynamo", "session_affinity", "consistent_hash", "oracle"]
"cluster.failover.migrations" = [0, 1]
"#;

fn experiment(changes: &[(&str, &str)]) -> Result<Experiment, String> {
    let crowded = CROWDED
        .replace("workers = 3", "workers = 3\nload_time = \"200ms\"")
        .replace("trtllm", "vllm")
        .replace("concurrency = 20", "concurrency = 12")
        .replace("starters = 3", "starters = 2");
    let mut text = format!("name = \"changing\"\n{crowded}{REST}");
    if !cfg!(feature = "dynamo") {
        text = text.replace("\"dynamo\", ", "");
    }
    for (from, to) in changes {
        assert!(text.contains(from), "{from}");
        text = text.replacen(from, to, 1);
    }
    let options = LoadOptions::default();
    Experiment::parse(Path::new("x.toml"), &text, &options).map_err(|error| error.to_string())
}

#[test]
fn threads_change_no_byte_of_a_changing_fleet() {
    let experiment = experiment(&[]).expect("valid");
    let json = |jobs| {
        let options = RunOptions::default().jobs(jobs);
        let summary = run(&experiment, options).expect("runs").summary;
        for point in &summary.points {
            let mean = |name: &str| point.metrics[name].mean.expect("a value");
            let is_migrating = point.params["cluster.failover.migrations"] == 1;
            assert_eq!(mean("failed") > 0.0, !is_migrating, "{:?}", point.params);
            assert_eq!(mean("migrations") > 0.0, is_migrating, "{:?}", point.params);
            assert_eq!(mean("retries") > 0.0, !is_migrating, "{:?}", point.params);
            // Half a second without one of three, from 4.2 s on one more.
            let workers = mean("workers_mean");
            assert!((3.2..3.3).contains(&workers), "{workers}");
        }
        serde_json::to_string(&summary).expect("JSON")
    };
    let one = json(1);
    assert!(one == json(3));
}

/// A request that goes on at another worker is sent twice; its other times are
/// those of the first time that each thing happened.
#[test]
fn times_of_a_request_are_in_order_also_when_it_moves() {
    let experiment = experiment(&[]).expect("valid");
    let options = RunOptions::default().keep_requests();
    let simulations = run(&experiment, options).expect("runs").requests;
    let records: Vec<&RequestRecord> = simulations.iter().flat_map(|s| &s.records).collect();
    let (mut moved_early, mut moved_late) = (0, 0);
    for record in &records {
        let last = record.stay().map(|(at, _)| at);
        let end = record.end.map(|(at, _)| at);
        let times = [
            Some(record.sent),
            record.first_dispatched,
            record.first_scheduled,
            record.first_token,
            end,
        ];
        let known: Vec<SimTime> = times.into_iter().flatten().collect();
        assert!(known.is_sorted(), "{record:?}");
        assert_eq!(record.first_dispatched.is_some(), last.is_some(), "{record:?}");
        assert!(record.first_dispatched <= last, "{record:?}");
        if record.first_dispatched < last {
            let is_late = record.first_token.is_some_and(|at| Some(at) < last);
            moved_late += u32::from(is_late);
            moved_early += u32::from(!is_late);
        }
    }
    assert!(moved_early > 0 && moved_late > 0, "{moved_early}, {moved_late}");
    let csv = requests::to_csv(&simulations);
    let head = csv.lines().next().expect("a head");
    let order = "sent_ms,first_dispatched_ms,last_dispatched_ms,scheduled_ms,first_token_ms,end_ms";
    assert!(head.ends_with(order), "{head}");
}

#[test]
fn a_wrong_change_is_one_line_with_its_place() {
    let refused = |from: &str, to: &str| experiment(&[(from, to)]).expect_err("refused");
    let messages = [
        refused("worker = 1", "worker = 7"),
        refused("worker = 3", "worker = 5"),
        refused("at = \"4s\"", "at = \"6s\""),
        refused("at = \"3s\"", "at = \"2100ms\"\nrestart_after = \"1s\""),
        refused("worker = 0\nfactor = 1.7", "worker = 1\nfactor = 0"),
        refused(
            "at = \"3s\"\nwhat = \"slow\"\nworker = 0",
            "at = \"2400ms\"\nwhat = \"slow\"\nworker = 1",
        ),
        refused("what = \"slow\"", "what = \"explode\""),
        refused("lease = \"1s\"", "leese = \"1s\""),
        refused(
            "[cluster.failover]",
            "[cluster.planner]\nmin_workers = 0\nmax_workers = 4\n\n[cluster.failover]",
        ),
        refused(
            "[cluster.failover]",
            "[cluster.planner]\nmin_workers = 1\nmax_workers = 4\n\n[cluster.failover]",
        ),
    ];
    for message in &messages {
        assert!(!message.contains('\n'), "{message}");
    }
    insta::assert_snapshot!(messages.join("\n"), @r#"
    x.toml:34: cluster.change[0].worker = 7: must be from 0 to 3: the workers of the fleet (what = "start" adds one)
    x.toml:40: cluster.change[1].worker = 5: must be from 0 to 3: the next new worker is 3
    x.toml:38: cluster.change[1].at = "6s": must be before the end of the run, "6s"
    x.toml:44: cluster.change[2].restart_after = given: must be left out unless what = "crash"
    x.toml:46: cluster.change[2].factor = 0: must be from 0.01 to 100: times that a step takes as long
    x.toml:43: cluster.change[2].at = "2.4s": must be a time at which worker 1 is not loading, for "slow"
    x.toml:44: cluster.change[2].what = "explode": must be one of "crash", "drain", "start", "slow"
    x.toml:50: unknown key cluster.failover.leese; did you mean lease?
    x.toml:50: cluster.planner.min_workers = 0: must be from 1 to cluster.workers, 3
    x.toml:39: cluster.change[1].what = "start": must be "crash" or "slow" where a planner starts and drains workers
    "#);
}
