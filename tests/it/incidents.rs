//! The gate on routing quality, held to its two promises: regressions that are
//! planted are caught, and nothing else is.

use kv_router_sim::event::RejectReason;
use kv_router_sim::experiment::{Experiment, LoadOptions, RunOptions, run};
use kv_router_sim::id::WorkerId;
use kv_router_sim::report::judge::baseline::Baseline;
use kv_router_sim::report::judge::check::{Check, Judgement};
use kv_router_sim::request::RouteRequest;
use kv_router_sim::router::{ClusterView, NoParameters, Policy, Registration, Verdict};
use kv_router_sim::time::SimTime;
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("experiments/incidents")
}

/// Every incident that is shipped, by name.
fn incidents() -> Vec<String> {
    let files = std::fs::read_dir(folder()).expect("a folder");
    let names = files.map(|file| file.expect("an entry").file_name().into_string().expect("UTF-8"));
    let mut names: Vec<String> =
        names.filter_map(|name| name.strip_suffix(".toml").map(str::to_owned)).collect();
    names.sort();
    names
}

/// An incident with its baseline.
fn pair(
    name: &str,
    options: &LoadOptions,
) -> (Baseline, kv_router_sim::experiment::results::Summary) {
    let file = format!("{name}.toml");
    let experiment = Experiment::load(&folder().join(&file), options);
    let experiment = experiment.unwrap_or_else(|error| panic!("{error}"));
    let baseline = Baseline::read(&folder().join("baselines").join(file));
    let summary = run(&experiment, RunOptions::default()).expect("it runs").summary;
    (baseline.unwrap_or_else(|error| panic!("{error}")), summary)
}

fn with(overrides: &[&str]) -> LoadOptions {
    LoadOptions::default().set_all(overrides.iter().copied())
}

/// What a check of one incident finds to be worse.
fn worse(name: &str, options: &LoadOptions) -> Vec<String> {
    let check = Check::new(&[pair(name, options)]);
    assert!(check.missing.is_empty(), "{:?}", check.missing);
    let worse = check.findings.iter().filter(|finding| finding.verdict == Judgement::Worse);
    worse.map(|finding| format!("{} at {}", finding.change.metric, finding.point)).collect()
}

/// Least loaded, but the first worker of several that are equal.
struct FirstOfEquals;

impl Policy for FirstOfEquals {
    fn route(&mut self, _: SimTime, _: &RouteRequest<'_>, view: &ClusterView<'_>) -> Verdict {
        let loads = view.workers.iter().map(|worker| worker.inflight);
        let (_, first) = loads.zip(0..).min().expect("a worker");
        Verdict::send(WorkerId(first))
    }
}

#[test]
fn ties_broken_to_the_lowest_id_are_caught() {
    // Known by the name of the policy that it stands for.
    let rule = "the first of the least loaded";
    let planted = Registration::new("least_loaded", rule, |_: &NoParameters, _, _| FirstOfEquals);
    let options = LoadOptions::default().policy(planted);
    let worse = worse("tied-workers-9975", &options);
    assert!(worse.iter().any(|what| what.starts_with("inflight_skew_mean")), "{worse:?}");
}

#[test]
fn nothing_is_worse_than_its_baseline() {
    for name in ["blind-index-3581", "herding-589", "retry-storm", "tied-workers-9975"] {
        assert_eq!(worse(name, &with(&[])), [""; 0], "{name}");
    }
}

#[test]
fn an_index_that_hears_of_nothing_is_caught() {
    let worse = worse("blind-index-3581", &with(&["router.feed.loss_ratio=1.0"]));
    assert!(worse.contains(&"hit_ratio at kv".to_owned()), "{worse:?}");
}

#[test]
fn an_index_ten_seconds_late_is_caught() {
    let worse = worse("blind-index-3581", &with(&["router.feed.delay=10s"]));
    assert!(worse.contains(&"hit_ratio at kv".to_owned()), "{worse:?}");
}

/// Round robin that turns every fifth request away.
struct FifthRefused(u32);

impl Policy for FifthRefused {
    fn route(&mut self, _: SimTime, _: &RouteRequest<'_>, view: &ClusterView<'_>) -> Verdict {
        self.0 += 1;
        if self.0.is_multiple_of(5) {
            return Verdict::Reject(RejectReason::Policy);
        }
        Verdict::send(view.nth_available(self.0 as usize % view.available_count()))
    }
}

/// What is left is served sooner; what is gone is noticed.
#[test]
fn times_of_survivors_hide_no_refusals() {
    let planted = Registration::new("round_robin", "a fifth refused", |_: &NoParameters, _, _| {
        FifthRefused(0)
    });
    // A part of the incident, as this is slow.
    let options = with(&["measure.warmup=20s", "measure.window=40s"]).policy(planted);
    let check = Check::new(&[pair("survivors", &options)]);
    let found = |verdict: Judgement, metric: &str| {
        let is_here = |point: &str| point.contains("round robin") && !point.contains("gate");
        let mut findings = check.findings.iter().filter(|finding| is_here(&finding.point));
        findings.any(|f| f.verdict == verdict && f.change.metric == metric)
    };
    assert!(found(Judgement::Better, "ttft_ms_p95"), "{}", check.text(120));
    assert!(found(Judgement::Worse, "error_ratio"), "{}", check.text(120));
    assert!(check.failed());
}

/// Requests in flight that share blocks no longer count them once.
#[test]
fn deduplication_off_is_caught() {
    let worse = worse("doks-blow-up", &with(&["router.assume_kv_reuse=false"]));
    for metric in ["hit_ratio", "output_tokens_per_s"] {
        let what = format!("{metric} at kv, concurrency 180");
        assert!(worse.contains(&what), "{what} is not in {worse:?}");
    }
}

/// Regressions in incidents from reports: settings that are worse, and what must be seen of
/// each.
#[test]
fn worse_settings_are_caught() {
    let planted = [
        (
            "trimmed-prefixes",
            "router.lru_capacity_blocks=50",
            "hit_ratio at inference_extension, variant 131,072 tokens matched",
        ),
        (
            "lost-affinity-32195",
            "router.cache_threshold=0.9",
            "hit_ratio at variant 64 requests apart",
        ),
        (
            "flapping-planner",
            "cluster.load_time=150s",
            "output_tokens_per_s at variant close thresholds",
        ),
        ("cold-workers", "router.feed.loss_ratio=1.0", "hit_ratio at kv"),
        ("hot-prefix-1035", "router.feed.delay=10s", "output_tokens_per_s at kv_aware"),
    ];
    for (incident, setting, what) in planted {
        let worse = worse(incident, &with(&[setting]));
        assert!(worse.iter().any(|found| found == what), "{incident}: {worse:?}");
    }
}

/// `cargo test --test it -- --ignored --nocapture other_seeds`, some minutes.
#[test]
#[ignore = "takes minutes"]
fn fifty_runs_with_other_seeds_are_quiet() {
    let names = incidents();
    let mut alarms = 0;
    let mut comparisons = 0;
    let mut least = f64::INFINITY;
    for rerun in 1..=50u64 {
        let pairs: Vec<_> = names
            .iter()
            .map(|name| {
                let experiment = Experiment::load(
                    &folder().join(format!("{name}.toml")),
                    &LoadOptions::default(),
                );
                let count = experiment.expect("valid").seeds.len() as u64;
                let seeds: Vec<u64> = (0..count).map(|seed| 1_000 * rerun + seed).collect();
                pair(name, &with(&[&format!("measure.seeds={seeds:?}")]))
            })
            .collect();
        let check = Check::new(&pairs);
        comparisons = check.findings.len();
        let chances = check.findings.iter().filter_map(|finding| finding.change.p_value);
        least = chances.fold(least, f64::min);
        if check.failed() {
            alarms += 1;
            println!("{rerun}: {}", check.text(120));
        }
    }
    println!("{alarms} alarms in 50 runs of {comparisons} comparisons; least p-value {least:.2e}");
    assert_eq!(alarms, 0);
}
