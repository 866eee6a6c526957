//! Experiments whose workers are not all alike.

use super::program::CROWDED;
use kv_router_sim::experiment::{Experiment, ExperimentOutcome, LoadOptions, RunOptions, run};
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
    let options = LoadOptions::default().set_all(overrides.iter().copied());
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
        let options = RunOptions::default().jobs(jobs);
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
        let options = RunOptions::default().keep_requests();
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
        "router.conditional_disaggregation.max_uncached_ratio=2.0",
        "cluster.prefill.model=\"none.toml\"",
    ];
    let lines: Vec<String> = shown.iter().map(|change| problem(change)).collect();
    assert!(lines.iter().all(|line| !line.contains('\n')), "{lines:#?}");
    insta::assert_snapshot!(lines.join("\n"));
    let line = experiment_with("", &[]).expect_err("nobody knows how much is moved");
    assert!(line.contains("cluster.prefill.engine.kv_bytes_per_token is missing"), "{line}");
}

/// The crowded fleet under vLLM's rules, with these `pools` in place of its workers.
fn fleet_of(pools: &str, rest: &str, overrides: &[&str]) -> Result<Experiment, String> {
    let options = LoadOptions::default().set_all(overrides.iter().copied());
    let crowded = CROWDED.replace("[cluster]\nworkers = 3\n", pools).replace("trtllm", "vllm");
    let crowded = crowded.replace("[engine]\n", "[engine]\nkv_bytes_per_token = \"100k\"\n");
    let text = format!("name = \"pools\"\n{crowded}seeds = 2\n{rest}[router]\npolicy = \"kv\"\n");
    Experiment::parse(Path::new("pools.toml"), &text, &options).map_err(|error| error.to_string())
}

const MIXED: &str = r#"
[[cluster.pool]]
name = "slow"
workers = 2

[[cluster.pool]]
name = "fast"
workers = 2
engine.speedup_ratio = 3
"#;

fn served(experiment: &Experiment) -> ExperimentOutcome {
    let options = RunOptions::default().keep_requests();
    run(experiment, options).expect("it ends")
}

fn mean(outcome: &ExperimentOutcome, metric: &str) -> f64 {
    let found = outcome.summary.points[0].metrics.get(metric);
    found.and_then(|metric| metric.mean).unwrap_or_else(|| panic!("{metric} is missing"))
}

/// The law of mixed fleets: a router that balances by what is in flight gives faster
/// workers more to do, and one that does not look gives all the same.
#[test]
fn faster_workers_serve_more() {
    let of_policy = |policy: &str| {
        let policy = format!("router.policy={policy}");
        let outcome = served(&fleet_of(MIXED, "", &[&policy]).expect("a good experiment"));
        let [slow, fast] =
            ["slow", "fast"].map(|pool| mean(&outcome, &format!("pool_requests_per_s[{pool}]")));
        let all = mean(&outcome, "requests_per_s");
        assert!((slow + fast - all).abs() < 1e-9, "{slow} + {fast} is not {all}");
        fast / slow
    };
    // One estimates with one speed for all, and still sees which requests are over.
    for (policy, least) in
        [("kv", 1.3), ("least_loaded", 1.3), ("oracle", 1.3), ("ttft_estimate", 1.1)]
    {
        let ratio = of_policy(policy);
        assert!(ratio > least, "{policy}: the fast pool serves {ratio} times as much");
    }
    let ratio = of_policy("round_robin");
    assert!((0.9..1.1).contains(&ratio), "in turn: {ratio}");
}

/// Pools are names: the same workers in one, two or three pools are the same fleet.
#[test]
fn equal_pools_are_one_pool() {
    let pool = |name: &str, workers: u32| {
        format!("[[cluster.pool]]\nname = \"{name}\"\nworkers = {workers}\n")
    };
    let lists = [
        "[cluster]\nworkers = 4\n".to_owned(),
        pool("all", 4),
        pool("a", 1) + &pool("b", 3),
        pool("a", 2) + &pool("b", 1) + &pool("c", 1),
    ];
    for policy in ["kv", "round_robin", "inference_extension", "oracle"] {
        let policy = format!("router.policy={policy}");
        let digest = |list: &String| {
            let experiment = fleet_of(list, "", &[&policy, "router.queue_threshold=1.0"]);
            run(&experiment.expect("a good experiment"), RunOptions::default()).expect("it ends")
        };
        let digests = lists.iter().map(|list| digest(list).summary.provenance.digest);
        let digests: Vec<String> = digests.collect();
        assert!(digests.iter().all(|digest| *digest == digests[0]), "{policy}: {digests:?}");
    }
}

/// Several pools on each side, in any order: the same as one on each if they are alike.
#[test]
fn several_pools_prefill_and_several_decode() {
    let pool = |name: &str, role: &str, workers: u32| {
        format!("[[cluster.pool]]\nname = \"{name}\"\nrole = \"{role}\"\nworkers = {workers}\n")
    };
    let two = pool("p", "prefill", 2) + &pool("d", "decode", 2);
    let four = pool("d1", "decode", 1)
        + &pool("p1", "prefill", 1)
        + &pool("p2", "prefill", 1)
        + &pool("d2", "decode", 1);
    let short = "[cluster]\nworkers = 4\nprefill.workers = 2\n";
    let outcome = |pools: &str| served(&fleet_of(pools, "", &[]).expect("a good experiment"));
    let (two, four, short) = (outcome(&two), outcome(&four), outcome(short));
    assert_eq!(two.digests, four.digests);
    assert_eq!(two.digests, short.digests);
    let rate = |pool: &str| mean(&four, &format!("pool_requests_per_s[{pool}]"));
    let all = mean(&four, "requests_per_s");
    assert!((rate("p1") + rate("p2") - all).abs() < 1e-9);
    assert!((rate("d1") + rate("d2") - all).abs() < 1e-9);
    // What is sped up on one side serves more of that side.
    let faster = ["cluster.pool.d2.engine.speedup_ratio=4"];
    let fast = served(&fleet_of(&four_with_names(), "", &faster).expect("a good experiment"));
    let rate = |pool: &str| mean(&fast, &format!("pool_requests_per_s[{pool}]"));
    assert!(rate("d2") > 1.2 * rate("d1"), "{} and {}", rate("d2"), rate("d1"));
}

fn four_with_names() -> String {
    let pool = |name: &str, role: &str| {
        format!("[[cluster.pool]]\nname = \"{name}\"\nrole = \"{role}\"\nworkers = 1\n")
    };
    ["p1", "p2"].map(|name| pool(name, "prefill")).concat()
        + &["d1", "d2"].map(|name| pool(name, "decode")).concat()
}

/// A pool's keys are set and swept by its name, or by its place.
#[test]
fn keys_of_pools_are_set_by_name() {
    let slots = |overrides: &[&str]| {
        let experiment = fleet_of(MIXED, "", overrides).expect("a good experiment");
        experiment.runs.iter().map(|run| run.settings.pools.slots()).collect::<Vec<u32>>()
    };
    assert_eq!(slots(&["cluster.pool.fast.workers=5"]), [7]);
    assert_eq!(slots(&["cluster.pool.1.workers=5"]), [7]);
    assert_eq!(slots(&["cluster.pool[1].workers=5"]), [7]);
    assert_eq!(slots(&["sweep.cluster.pool.slow.workers=1..3:1"]), [3, 4, 5]);
    let problem = |change: &str| fleet_of(MIXED, "", &[change]).expect_err("a bad experiment");
    let shown = [
        "cluster.pool.fats.workers=2",
        "cluster.pool.2.workers=2",
        "cluster.pool.fast.workers=0",
        "cluster.pool.fast.worker=2",
        "cluster.pool.fast.name=slow",
        "cluster.pool.fast.name=7",
        "cluster.pool.fast.role=prefill",
        "cluster.pool.fast.role=mixed",
        "cluster.pool.fast.engine.block_size=32",
        "cluster.pool.fast.engine.max_num_seqs=0",
        "cluster.pool.fast.model=none.toml",
        "cluster.pool.fast.spare=\"1M\"",
        "cluster.workers=4",
        "cluster.prefill.workers=1",
        "cluster.planner={ min_workers = 1, max_workers = 2 }",
        "cluster.planner={ pool = \"fats\", min_workers = 1, max_workers = 2 }",
        "cluster.planner={ pool = \"fast\", min_workers = 1, max_workers = 3 }",
        "cluster.change=[{ at = \"2s\", worker = 4, what = \"start\" }]",
    ];
    let lines: Vec<String> = shown.iter().map(|change| problem(change)).collect();
    assert!(lines.iter().all(|line| !line.contains('\n')), "{lines:#?}");
    insta::assert_snapshot!("pools_by_name_that_cannot_be", lines.join("\n"));
}

/// Spare workers of a pool start when they are told to, and the planner fills its pool.
#[test]
fn workers_of_a_pool_start_later() {
    let change = "cluster.change=[{ at = \"1500ms\", worker = 2, what = \"start\" }]";
    let overrides = ["cluster.pool.slow.spare=1", "cluster.load_time=\"500ms\"", change];
    let outcome = served(&fleet_of(MIXED, "", &overrides).expect("a good experiment"));
    let records = &outcome.requests[0].records;
    let first_at = |worker: u32| {
        let sent = records.iter().filter_map(|record| record.dispatched);
        sent.filter(|(_, to)| to.0 == worker).map(|(at, _)| at.as_secs()).reduce(f64::min)
    };
    assert!(first_at(2).is_some_and(|at| (2.0..3.0).contains(&at)), "{:?}", first_at(2));
    // The fast pool has the numbers behind it.
    assert!(first_at(3).is_some_and(|at| at < 1.0) && first_at(4).is_some());
    let planner = "cluster.planner={ pool = \"slow\", min_workers = 1, max_workers = 3, \
                   interval = \"500ms\", load = \"requests\", scale_up_above = 0.1, \
                   scale_down_below = 0.01 }";
    let overrides = ["cluster.pool.slow.spare=1", "cluster.load_time=\"500ms\"", planner];
    let outcome = served(&fleet_of(MIXED, "", &overrides).expect("a good experiment"));
    assert!(mean(&outcome, "workers_added") >= 1.0);
    let by_planner = outcome.requests[0].records.iter().filter_map(|record| record.dispatched);
    assert!(by_planner.into_iter().any(|(_, to)| to.0 == 2), "the spare worker of the slow pool");
}

/// What two sides can be combined with: every combination runs, keeps its laws (Little's law
/// is checked at the end of every window), and is the same step by step.
#[test]
fn separate_workers_go_with_everything() {
    let split = [
        "cluster.workers=4",
        "cluster.prefill.workers=2",
        "cluster.network.gbit_per_s=2",
        "measure.seeds=1",
    ];
    let tier = "engine.tier=[{ name = \"host\", capacity = 400, bandwidth = \"10GB/s\" }]";
    let crash = |worker: u32| {
        format!(
            "cluster.change=[{{ at = \"2s\", what = \"crash\", worker = {worker}, \
             restart_after = \"500ms\" }}, {{ at = \"4s\", what = \"drain\", worker = 3 }}]"
        )
    };
    let (prefill, decode) = (crash(0), crash(2));
    let few = "engine.num_blocks=80";
    let quick = "cluster.load_time=\"200ms\"";
    let combinations: [(&[&str], &[&str]); 8] = [
        (&["router.policy=oracle"], &["transfer_ms_p50"]),
        (&["measure.why=true"], &["hit_ratio_bound"]),
        (
            &["measure.why=true", tier, few],
            &["hit_ratio_host", "load_ms_p50", "lost_to_eviction_ratio"],
        ),
        (&["workload.patience.first_token=300ms"], &["given_up"]),
        (&["workload.patience.answer=500ms", "workload.patience.retries=1"], &["given_up"]),
        (&[&prefill, quick], &["failed", "workers_mean"]),
        (&[&decode, quick, "cluster.failover.migrations=2"], &["migrations"]),
        (
            &[&prefill, quick, "measure.why=true", tier, "workload.patience.answer=500ms"],
            &["given_up", "failed", "hit_ratio_bound"],
        ),
    ];
    for (overrides, metrics) in combinations {
        let outcome = |more: &[&str]| {
            let all = [&split[..], overrides, more].concat();
            served(&fleet_of("[cluster]\nworkers = 4\n", "", &all).expect("a good experiment"))
        };
        let (jumped, stepped) = (outcome(&[]), outcome(&["engine.fast_forward=false"]));
        assert_eq!(jumped.digests, stepped.digests, "{overrides:?}");
        for metric in metrics {
            let found = jumped.summary.points[0].metrics.get(*metric);
            let value = found.and_then(|metric| metric.mean);
            let happened = value.is_some_and(|value| value > 0.0);
            assert!(happened || *metric == "failed", "{overrides:?}: {metric} is {value:?}");
        }
        let records = &jumped.requests[0].records;
        let handed = records.iter().filter(|record| record.handover.is_some()).count();
        assert!(handed * 2 > records.len(), "{overrides:?}: {handed} of {}", records.len());
    }
}
