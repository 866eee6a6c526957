//! `sim frontier`, `sim compare` and `sim check` as programs: exit codes, what
//! they print, and that the gate catches planted regressions and nothing else.

use super::program::{EXPERIMENT, Scratch, text};
use kv_router_sim::driver::{Driver, Schedule};
use kv_router_sim::experiment::results::{Metric, Summary};
use kv_router_sim::experiment::{Experiment, LoadOptions, RunOptions, run};
use kv_router_sim::fleet::SimulatedFleet;
use kv_router_sim::id::WorkerId;
use kv_router_sim::recorder::{Metrics, Quantiles, Recorder, Slo};
use kv_router_sim::report::{baseline::Baseline, check::Check};
use kv_router_sim::request::RouteRequest;
use kv_router_sim::router::front_end::FrontEnd;
use kv_router_sim::router::{ClusterView, Policy, Verdict};
use kv_router_sim::stats::mean_ci95;
use kv_router_sim::time::SimTime;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The experiments that ship with the program, each with its baseline.
fn incidents() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("experiments/incidents");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    files.sort();
    assert!(files.len() >= 5, "{files:?}");
    files
}

/// An incident's baseline and its results today.
fn results(file: &Path, overrides: &[String]) -> (Baseline, Summary) {
    let experiment = load(file, overrides);
    let name = file.file_name().expect("a name");
    let baseline = file.parent().expect("a folder").join("baselines").join(name);
    let summary = run(&experiment, RunOptions::default()).expect("runs").summary;
    (Baseline::read(&baseline).expect("a baseline"), summary)
}

fn load(file: &Path, overrides: &[String]) -> Experiment {
    let options = LoadOptions { overrides: overrides.to_vec(), ..LoadOptions::default() };
    Experiment::load(file, &options).expect("valid")
}

/// Holds some incidents, changed, against their baselines.
fn check(files: &[PathBuf], overrides: &[String]) -> Check {
    Check::new(&files.iter().map(|file| results(file, overrides)).collect::<Vec<_>>())
}

fn named(name: &str) -> Vec<PathBuf> {
    let files = incidents();
    let found = files.into_iter().filter(|file| file.file_stem().is_some_and(|stem| stem == name));
    found.collect()
}

#[test]
fn incidents_are_as_their_baselines_say() {
    let check = check(&named("blind-index-3581"), &[]);
    assert!(!check.failed(), "{}", check.text(120));
    assert!(check.findings.len() >= 10);
}

#[test]
fn a_planted_regression_is_caught() {
    // An index that hears of blocks ten seconds late.
    let late = check(&named("doks-blow-up"), &["router.feed.delay=10s".to_owned()]);
    assert!(late.failed(), "{}", late.text(120));
    assert!(late.text(120).contains("hit ratio"), "{}", late.text(120));
    // No deduplication: requests in flight that share blocks count them each.
    let twice = check(&named("doks-blow-up"), &["router.assume_kv_reuse=false".to_owned()]);
    assert!(twice.failed(), "{}", twice.text(120));
    // An index that hears of nothing.
    let blind = check(&named("blind-index-3581"), &["router.feed.loss_ratio=1.0".to_owned()]);
    assert!(blind.failed(), "{}", blind.text(120));
}

/// Least loaded, with ties broken to the lowest id: the regression to plant.
struct FirstOfEquals;

impl Policy for FirstOfEquals {
    fn route(&mut self, _: SimTime, _: &RouteRequest<'_>, view: &ClusterView<'_>) -> Verdict {
        let least = (0u32..).zip(view.workers).min_by_key(|(_, worker)| worker.inflight);
        Verdict::Send(WorkerId(least.expect("a worker").0))
    }
}

/// The metrics of an experiment of one point with another policy.
fn with_first_of_equals(experiment: &Experiment, seed: u64) -> Metrics {
    let spec = &experiment.runs[0];
    let settings = &spec.settings;
    let workers = settings.cluster.workers;
    let engine = Arc::new(settings.engine.clone());
    let front_end = FrontEnd::new(Box::new(FirstOfEquals), workers, &settings.router.feed(), seed);
    let mut driver = Driver::new(
        SimulatedFleet::new(workers, &engine, false),
        settings.source.build(engine.block_size, seed),
        vec![front_end],
        Recorder::new(workers, false),
        engine.block_size,
    );
    let schedule = Schedule {
        concurrency: spec.levels.clone(),
        warmup: settings.measure.warmup,
        window: settings.measure.window,
        quantiles: Quantiles::Requests,
        slo: Slo::default(),
    };
    driver.run(&schedule).expect("runs").remove(0)
}

#[test]
fn ties_broken_to_the_lowest_id_are_caught() {
    let file = &named("tied-workers-9975")[0];
    let (baseline, mut summary) = results(file, &[]);
    assert!(!Check::new(&[(baseline.clone(), summary.clone())]).failed());
    let experiment = load(file, &[]);
    let levels: Vec<Metrics> =
        experiment.seeds.iter().map(|&seed| with_first_of_equals(&experiment, seed)).collect();
    for (name, metric) in &mut summary.points[0].metrics {
        let per_seed: Vec<Option<f64>> = levels.iter().map(|level| level[name]).collect();
        let known: Vec<f64> = per_seed.iter().copied().flatten().collect();
        let (mean, ci95) = mean_ci95(&known).map_or((None, None), |(m, ci)| (Some(m), ci));
        *metric = Metric { mean, per_seed, ci95 };
    }
    let check = Check::new(&[(baseline, summary)]);
    assert!(check.failed(), "{}", check.text(120));
    assert!(check.text(120).contains("in-flight skew"), "{}", check.text(120));
}

/// `cargo test --test it -- --ignored reruns --nocapture`: several minutes.
#[test]
#[ignore = "takes minutes"]
fn fifty_reruns_with_other_seeds_stay_quiet() {
    let mut loud = Vec::new();
    let mut closest = 1.0f64;
    for rerun in 1..=50u64 {
        let seeds: Vec<String> = (1..=8).map(|seed| (1_000 * rerun + seed).to_string()).collect();
        let check = check(&incidents(), &[format!("measure.seeds=[{}]", seeds.join(", "))]);
        if check.failed() {
            loud.push(check.text(120));
        }
        let least = check.findings.iter().filter_map(|finding| finding.change.p_value);
        closest = least.fold(closest, f64::min);
    }
    println!("50 reruns: {} alarms; smallest chance of all comparisons {closest:.1e}", loud.len());
    assert!(loud.is_empty(), "{}", loud.join("\n"));
}

#[test]
fn a_check_passes_fails_and_is_updated() {
    let place = Scratch::new();
    let missing = place.sim(&["check", "small.toml"]);
    assert_eq!(missing.status.code(), Some(2));
    assert!(text(&missing.stderr).contains("baselines/small.toml: cannot be read"));

    let update = place.sim(&["check", "small.toml", "--update"]);
    assert!(update.status.success(), "{}", text(&update.stderr));
    let file = place.path().join("baselines/small.toml");
    let written = std::fs::read_to_string(&file).expect("a baseline");
    assert!(written.contains("\nttft_ms_p95 = 10.0\n"), "{written}");

    let same = place.sim(&["check", "small.toml"]);
    assert_eq!(same.status.code(), Some(0), "{}", text(&same.stdout));
    assert!(text(&same.stdout).starts_with("Routing check passed: 0 worse,"));

    // Steps take twice as long.
    place.write("small.toml", EXPERIMENT.replace("decode = \"10ms\"", "decode = \"20ms\""));
    let worse = place.sim(&["check", "small.toml"]);
    assert_eq!(worse.status.code(), Some(1), "{}", text(&worse.stdout));
    assert!(text(&worse.stdout).contains("WORSE") && text(&worse.stdout).contains("ITL p95 (ms)"));
    assert!(text(&worse.stdout).contains("its settings are not those of the baseline"));
    let markdown = place.sim(&["check", "small.toml", "--format", "markdown"]);
    assert_eq!(markdown.status.code(), Some(1));
    assert!(text(&markdown.stdout).contains("| WORSE | small | ITL p95 (ms) |"));
    let junit = place.sim(&["check", "small.toml", "--format", "junit"]);
    assert_eq!(junit.status.code(), Some(1));
    assert!(text(&junit.stdout).contains("<testsuite name=\"small\""));
    assert!(text(&junit.stdout).contains("<failure message=\"ITL p95 (ms) at "));

    // An update keeps what was chosen to be checked.
    let chosen = written.replace("\nhit_ratio = 1.0\n", "\nhit_ratio = 2.5\n");
    std::fs::write(&file, chosen).expect("written");
    place.sim(&["check", "small.toml", "--update"]);
    let updated = std::fs::read_to_string(&file).expect("a baseline");
    assert!(updated.contains("\nhit_ratio = 2.5\n") && updated != written);
    assert_eq!(place.sim(&["check", "small.toml"]).status.code(), Some(0));
}

#[test]
fn two_result_sets_are_compared() {
    let place = Scratch::new();
    place.sim(&["run", "small.toml", "--no-figures", "--out", "a"]);
    let slow = "engine.step_time.decode=20ms";
    place.sim(&["run", "small.toml", "--no-figures", "--out", "b", "--set", slow]);
    let compared = place.sim(&["compare", "a", "b"]);
    assert!(compared.status.success(), "{}", text(&compared.stderr));
    let said = text(&compared.stdout);
    assert!(said.starts_with("b against a: ") && said.contains(" worse "), "{said}");
    assert!(said.contains("ITL p50 (ms)"), "{said}");
    let same = place.sim(&["compare", "a", "a"]);
    assert!(text(&same.stdout).contains("0 significantly better, 0 worse"));
    let json = place.sim(&["compare", "a", "b", "--format", "json", "--all"]);
    let json: serde_json::Value = serde_json::from_str(text(&json.stdout)).expect("JSON");
    assert_eq!(json["changes"][0]["significant"], true);
    let markdown = place.sim(&["compare", "a", "b", "--format", "markdown"]);
    assert!(text(&markdown.stdout).contains("| worse | "));

    for (args, expected) in [
        (["compare", "a", "nowhere"], "nowhere/summary.json: cannot be read"),
        (["compare", "a", "small.toml"], "small.toml/summary.json: cannot be read"),
    ] {
        let output = place.sim(&args);
        assert_eq!(output.status.code(), Some(2));
        assert!(text(&output.stderr).contains(expected), "{}", text(&output.stderr));
    }
}

#[test]
fn a_frontier_is_found_and_printed() {
    let place = Scratch::new();
    let args = ["frontier", "small.toml", "--loads", "2..40:2", "--within", "ttft_ms_p95=100ms"];
    let output = place.sim(&args);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let said = text(&output.stdout);
    assert!(said.contains("kv meets TTFT p95 <= 100 ms "), "{said}");
    assert!(said.contains("stable"), "{said}");
    let json = place.sim(&[&args[..], &["--format", "json"]].concat());
    let json: serde_json::Value = serde_json::from_str(text(&json.stdout)).expect("JSON");
    assert_eq!(json["answers"].as_array().map(Vec::len), Some(2));

    let before = place.files();
    for (args, expected) in [
        (&["--loads", "fast"][..], "--loads = fast: must be FROM..TO"),
        (&["--within", "ttft_ms_p95"][..], "must be METRIC=VALUE"),
        (&["--metric", "tfft_ms_p95"][..], "the nearest one is `ttft_ms_p95`"),
        (&["--set", "router.policy=kv"][..], "swept over two policies or more"),
        (&["--set", "sweep.router.temperature=0,1"][..], "only the load and the policy vary"),
    ] {
        let output = place.sim(&[&["frontier", "small.toml"], args].concat());
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", text(&output.stdout));
        let line = text(&output.stderr);
        assert!(line.contains(expected) && line.lines().count() == 1, "{args:?}: {line}");
    }
    assert_eq!(place.files(), before);
}
