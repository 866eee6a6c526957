//! `sim recommend`: the search against the full grid, the same bytes whatever the threads,
//! and what it refuses.

use super::program::{Scratch, text};
use kv_router_sim::recommend::{Asked, Choice, Prices, Recommendation, Verdict};
use kv_router_sim::{Experiment, LoadOptions, RunOptions};
use serde_json::Value;
use std::fs;
use std::path::Path;

/// A fleet that simulates quickly, under a load that some workers are needed for.
const FLEET: &str = r#"name = "fleet"

[cluster]
workers = 2
model = "llama-3.1-8b-bf16-h100-vllm"

[engine]
max_num_seqs = 16

[router]
policy = "kv"

[workload]
kind = "conversations"
concurrency = 48
starters = 8
starter_tokens = { kind = "uniform", min = 1_500, max = 3_000 }
turns = { min = 2, max = 4 }
question_tokens = { kind = "uniform", min = 20, max = 200 }
output_tokens = { kind = "uniform", min = 40, max = 120 }
think_time = { kind = "uniform", min = "0s", max = "0.5s" }
start_spread = "3s"

[measure]
warmup = "5s"
window = "20s"
seeds = 8
"#;

/// A problem: what it is called, what is changed in the fleet, and its target.
struct Problem {
    name: &'static str,
    sets: &'static [&'static str],
    within: &'static str,
    prices: Option<&'static str>,
}

const PRICES: &str = "currency = \"USD\"\n[gpu_hour]\nh100 = 2.5\nh200 = 3.5\nl40s = 0.9\n";

const OPEN: &str = "workload={ kind = \"requests\", arrivals = { kind = \"poisson\", rate = 12 }, \
                    prompt_tokens = { kind = \"uniform\", min = 200, max = 4000 }, \
                    output_tokens = { kind = \"uniform\", min = 20, max = 120 } }";

const PROBLEMS: [Problem; 10] = [
    Problem {
        name: "weights and workers",
        sets: &[
            "sweep.router.policy=round_robin,kv",
            "sweep.router.overlap_weight=0..4:0.5",
            "sweep.cluster.workers=1..10:1",
        ],
        within: "ttft_ms_p95=300ms",
        prices: None,
    },
    Problem {
        name: "weights, temperatures and workers",
        sets: &[
            "sweep.router.overlap_weight=0..4:1",
            "sweep.router.temperature=0,0.1,0.3,1",
            "sweep.cluster.workers=1..8:1",
        ],
        within: "ttft_ms_p50=80ms",
        prices: None,
    },
    Problem {
        name: "policies and workers",
        sets: &[
            "sweep.router.policy=round_robin,random,least_loaded,power_of_two,kv,kv_aware,\
             prefix_aware,session_affinity,consistent_hash",
            "sweep.cluster.workers=1..12:1",
        ],
        within: "ttft_ms_p95=250ms",
        prices: None,
    },
    Problem {
        name: "limits of the batch and workers",
        sets: &[
            "sweep.engine.max_num_seqs=4,8,16,32,64",
            "sweep.engine.max_num_batched_tokens=512,2048,8192",
            "sweep.cluster.workers=1..8:1",
        ],
        within: "itl_ms_p95=14ms",
        prices: None,
    },
    Problem {
        name: "GPUs and workers",
        sets: &[
            "sweep.cluster.model=llama-3.1-8b-bf16-h100-vllm,llama-3.1-8b-bf16-h200-vllm,\
             llama-3.1-8b-bf16-l40s-vllm",
            "sweep.router.policy=round_robin,least_loaded,kv",
            "sweep.cluster.workers=1..12:1",
        ],
        within: "ttft_ms_p95=350ms",
        prices: Some(PRICES),
    },
    Problem {
        name: "throughput",
        sets: &[
            "sweep.router.policy=round_robin,least_loaded,kv",
            "sweep.engine.max_num_seqs=8,16,32",
            "sweep.cluster.workers=1..9:1",
        ],
        within: "output_tokens_per_s=2500",
        prices: None,
    },
    Problem {
        name: "an open loop",
        sets: &[
            OPEN,
            "sweep.router.policy=round_robin,random,power_of_two,least_loaded,kv",
            "sweep.engine.max_num_seqs=16,64",
            "sweep.cluster.workers=1..10:1",
        ],
        within: "ttft_ms_p95=600ms",
        prices: None,
    },
    Problem {
        name: "a share of requests",
        sets: &[
            "slo={ ttft = \"300ms\", itl = \"20ms\", attainment = 0.9 }",
            "sweep.router.policy=round_robin,kv",
            "sweep.router.overlap_weight=0.5,1,2",
            "sweep.cluster.workers=1..16:1",
        ],
        within: "slo",
        prices: None,
    },
    Problem {
        name: "tensor parallelism",
        sets: &[
            "sweep.cluster.model=[{ shape = \"llama-3.1-8b\", gpu = \"h100\", tp = 1, engine = \
             \"vllm\" }, { shape = \"llama-3.1-8b\", gpu = \"h100\", tp = 2, engine = \"vllm\" }]",
            "sweep.router.policy=round_robin,least_loaded,kv",
            "sweep.cluster.workers=1..14:1",
        ],
        within: "e2e_ms_p95=1800ms",
        prices: Some(PRICES),
    },
    Problem {
        name: "settings of one fleet",
        sets: &[
            "cluster.workers=4",
            "sweep.router.overlap_weight=0..4:0.25",
            "sweep.router.temperature=0,0.05,0.1,0.2,0.5,1,2",
        ],
        within: "ttft_ms_p95=500ms",
        prices: None,
    },
];

fn load(sets: &[&str]) -> Experiment {
    let options = LoadOptions::default().set_all(sets.iter().copied());
    Experiment::parse(Path::new("fleet.toml"), FLEET, &options).expect("an experiment")
}

/// The answer by the search, or by the full grid; of the search alone.
fn answer(problem: &Problem, full_grid: bool) -> Recommendation {
    let experiment = load(problem.sets);
    let prices =
        problem.prices.map(|text| Prices::parse(Path::new("prices.toml"), text).expect("prices"));
    let within = vec![problem.within.to_owned()];
    let asked = Asked { within, prices, full_grid, more_load: 0.0, ..Asked::default() };
    let again = |_| unreachable!("no larger load is asked for");
    asked.recommend(&experiment, again, RunOptions::default()).expect("an answer")
}

/// The mean of the metric that is asked for.
fn mean(choice: &Choice) -> f64 {
    choice.readings[0].mean
}

/// Holds the search to the grid; gives the share of the grid that it simulated, and whether
/// it found the very same winner.
#[expect(clippy::print_stderr, reason = "what the test of the law measures")]
fn check(problem: &Problem) -> (f64, bool) {
    let (own, grid) = (answer(problem, false), answer(problem, true));
    let effort = own.simulations;
    assert_eq!(grid.simulations.search, effort.grid, "{}", problem.name);
    let share = effort.search as f64 / effort.grid as f64;
    let best = grid.winner.as_ref().expect("the grid has a winner");
    let found = own.winner.as_ref().expect("the search has a winner");
    eprintln!(
        "{}: {} of {} simulations, {:.1} %; {} at {} ({:.4}); grid: {} at {} ({:.4})",
        problem.name,
        effort.search,
        effort.grid,
        100.0 * share,
        found.name,
        found.cost.per_hour,
        mean(found),
        best.name,
        best.cost.per_hour,
        mean(best),
    );
    assert_eq!(found.verdict, Verdict::Meets, "{}", problem.name);
    assert_eq!(found.cost.per_hour, best.cost.per_hour, "{}: the cost", problem.name);
    let [low, high] = best.readings[0].by_seeds.expect("eight seeds");
    let room = (high - low) / 2.0;
    assert!(
        found.name == best.name || (mean(found) - mean(best)).abs() <= 2.0 * room,
        "{}: {} against {}",
        problem.name,
        mean(found),
        mean(best)
    );
    (share, found.name == best.name)
}

#[test]
fn a_search_finds_what_the_full_grid_finds() {
    let (share, _) = check(&PROBLEMS[5]);
    assert!(share < 0.25, "{share}");
}

/// The law: the winner of the grid, or one that its interval does not tell from it, with at
/// most a tenth of the simulations.
#[test]
#[ignore = "ten full grids"]
fn ten_problems_take_a_part_of_their_grids() {
    let results: Vec<(f64, bool)> = PROBLEMS.iter().map(check).collect();
    let mean = results.iter().map(|(share, _)| share).sum::<f64>() / results.len() as f64;
    let most = results.iter().map(|(share, _)| *share).fold(0.0, f64::max);
    let same = results.iter().filter(|(_, same)| *same).count();
    eprintln!("mean share {:.1} %, the very winner of {same} of 10", 100.0 * mean);
    assert!(most < 0.10, "{most}");
}

/// A folder with the fleet and prices.
fn place() -> Scratch {
    let place = Scratch::new();
    fs::write(place.path().join("fleet.toml"), FLEET).expect("written");
    fs::write(place.path().join("prices.toml"), PRICES).expect("written");
    place
}

const ASKED: [&str; 11] = [
    "recommend",
    "fleet.toml",
    "--seeds",
    "3",
    "--over",
    "cluster.workers=2..6:1",
    "--over",
    "router.policy=round_robin,kv",
    "--within",
    "output_tokens_per_s=1500",
    "--quiet",
];

#[test]
fn any_number_of_threads_gives_the_same_bytes() {
    let place = place();
    let with = |jobs: &str, out: &str| {
        let more = ["--jobs", jobs, "--out", out, "--explain", "--prices", "prices.toml"];
        let output = place.sim(&[&ASKED[..], &more].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        let read = |file: &str| fs::read(place.path().join(out).join(file)).expect(file);
        (output.stdout, read("recommendation.json"), read("recommendation.md"))
    };
    let one = with("1", "one");
    assert_eq!(one, with("2", "two"));
    let said = text(&one.0);
    for part in [
        "Recommended: ",
        "USD an hour",
        "Rests on",
        "Not tried",
        "Why not the neighbours",
        "cluster.workers=",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let json: Value = serde_json::from_slice(&one.1).expect("JSON");
    assert_eq!(json["unit"], "USD");
    let winner = &json["winner"];
    let workers = winner["settings"]["cluster.workers"].as_f64().expect("a number");
    assert_eq!(winner["cost"]["per_hour"].as_f64(), Some(2.5 * workers));
    assert_eq!(json["change"]["cluster.workers"].as_f64(), Some(workers));
    let interval = winner["readings"][0]["interval"].as_array().expect("an interval");
    let by_seeds = winner["readings"][0]["by_seeds"].as_array().expect("an interval");
    let width = |of: &[Value]| of[1].as_f64().unwrap() - of[0].as_f64().unwrap();
    assert!(width(interval) > width(by_seeds), "the model's error counts: {json}");
    assert!(one.2.starts_with(b"# fleet: "));
}

#[test]
fn a_recommendation_is_not_replaced_by_another_one() {
    let place = place();
    let ask = |more: &[&str]| place.sim(&[&ASKED[..], more].concat());
    assert!(ask(&[]).status.success());
    assert!(ask(&[]).status.success(), "the same experiment again");
    for other in [
        ["--within", "ttft_ms_p95=2s"],
        ["--prices", "prices.toml"],
        ["--confidence", "90%"],
        ["--more-load", "0"],
    ] {
        let output = ask(&other);
        assert_eq!(output.status.code(), Some(2), "{other:?}: {}", text(&output.stderr));
    }
    let other = ask(&["--set", "workload.concurrency=24"]);
    assert_eq!(other.status.code(), Some(2));
    let message = text(&other.stderr);
    assert!(message.contains("--out") && message.contains("--force"), "{message}");
    assert!(ask(&["--set", "workload.concurrency=24", "--force"]).status.success());
}

#[test]
fn what_cannot_be_recommended_is_refused_by_name() {
    let place = place();
    fs::write(place.path().join("bad.toml"), "currency = \"USD\"\n[gpu_hour]\nh100 = 0\n")
        .expect("written");
    let over = ["--over", "cluster.workers=1..3:1"];
    let within = ["--within", "ttft_ms_p95=1s"];
    for (args, parts) in [
        (
            [&["--over", "workload.concurrency=8,16"][..], &within].concat(),
            vec!["sweep.workload.concurrency", "one load"],
        ),
        (vec!["--over", "cluster.workers=1..3:1"], vec!["--within", "[slo]"]),
        ([&over[..], &["--within", "ttft_ms_p95=1"]].concat(), vec!["--within", "unit"]),
        ([&over[..], &within, &["--confidence", "99"]].concat(), vec!["--confidence", "below 1"]),
        ([&over[..], &within, &["--prices", "bad.toml"]].concat(), vec!["bad.toml:3", "above 0"]),
        ([&over[..], &within, &["--prices", "none.toml"]].concat(), vec!["none.toml"]),
        (
            vec![
                "--over",
                "cluster.model=llama-3.1-8b-bf16-h100-vllm,llama-3.1-8b-bf16-l40s-vllm",
                "--within",
                "ttft_ms_p95=1s",
            ],
            vec!["--prices", "H100", "L40S"],
        ),
        ([&over[..], &["--within", "failed=0"]].concat(), vec!["--within"]),
        ([&over[..], &within, &["--seeds", "1"]].concat(), vec!["measure.seeds", "2 or more"]),
    ] {
        let output = place.sim(&[&["recommend", "fleet.toml"][..], &args].concat());
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {message}");
        for part in parts {
            assert!(message.contains(part), "{args:?}: {message}");
        }
        assert!(!place.path().join("plots/fleet-recommend/recommendation.json").exists());
    }
}
