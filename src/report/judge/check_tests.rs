//! Checks of made-up results: what fails, what passes, and how often by chance.

use super::*;
use crate::report::example::{self, Builder};
use crate::rng::{self, Use};
use proptest::prelude::*;
use rand_distr::{Distribution, Normal};
use std::path::Path;

/// Two points of two policies; TTFT p95 and hit ratio scatter by seed.
fn results(seeds: std::ops::Range<u64>, change: impl Fn(&str, f64) -> f64) -> Summary {
    let mut builder = Builder::new("made-up", seeds.end - seeds.start);
    for load in [60u32, 80] {
        for policy in ["round_robin", "kv"] {
            let scatter = |metric: u64| -> Vec<f64> {
                let normal = Normal::new(0.0, 1.0).expect("a distribution");
                let draw =
                    |seed| normal.sample(&mut rng::stream(seed, Use::Policy, load.into(), metric));
                seeds.clone().map(draw).collect()
            };
            let ttft: Vec<Option<f64>> =
                scatter(1).iter().map(|s| Some(change(policy, 500.0) + 10.0 * s)).collect();
            let hits: Vec<Option<f64>> = scatter(2).iter().map(|s| Some(0.8 + 0.01 * s)).collect();
            builder.load(policy, load, &[("ttft_ms_p95", &ttft), ("hit_ratio", &hits)]);
        }
    }
    let mut summary = builder.build();
    summary.provenance.seeds = seeds.collect();
    summary
}

fn baseline(summary: &Summary) -> Baseline {
    Baseline::new(summary, None).expect("seeds enough")
}

fn check(before: &Summary, after: &Summary) -> Check {
    Check::new(&[(baseline(before), after.clone())])
}

#[test]
fn a_worse_metric_fails_and_is_named() {
    let before = results(1..9, |_, ttft| ttft);
    let worse = |policy: &str, ttft| if policy == "kv" { 1.2 * ttft } else { ttft };
    let check = check(&before, &results(1..9, worse));
    assert!(check.failed());
    insta::assert_snapshot!(check.text(120), @r"
    Routing check failed: 2 worse, 0 missing, 0 better, 6 unchanged.

            experiment  metric         point               baseline  now  change    interval  tolerance
    ---------------------------------------------------------------------------------------------------
     WORSE  made-up     TTFT p95 (ms)  kv, concurrency 60       499  599   +20 %  +20 to +20         10
     WORSE  made-up     TTFT p95 (ms)  kv, concurrency 80       502  602   +20 %  +20 to +20         10

    A change counts if it is beyond its tolerance and beyond noise. Results that have not changed fail at most 0.1 % of
      runs: 8 comparisons at 1.25e-4 each (one-sided, Student's t).
    ");
    insta::assert_snapshot!(check.junit(), @r#"
    <?xml version="1.0" encoding="UTF-8"?>
    <testsuites name="sim check">
      <testsuite name="made-up" tests="8" failures="2">
        <testcase classname="made-up" name="hit_ratio at round_robin, concurrency 60"/>
        <testcase classname="made-up" name="ttft_ms_p95 at round_robin, concurrency 60"/>
        <testcase classname="made-up" name="hit_ratio at kv, concurrency 60"/>
        <testcase classname="made-up" name="ttft_ms_p95 at kv, concurrency 60">
          <failure message="TTFT p95 (ms) at kv, concurrency 60: 499 became 599 (+20 %; tolerance 10 %)"/>
        </testcase>
        <testcase classname="made-up" name="hit_ratio at round_robin, concurrency 80"/>
        <testcase classname="made-up" name="ttft_ms_p95 at round_robin, concurrency 80"/>
        <testcase classname="made-up" name="hit_ratio at kv, concurrency 80"/>
        <testcase classname="made-up" name="ttft_ms_p95 at kv, concurrency 80">
          <failure message="TTFT p95 (ms) at kv, concurrency 80: 502 became 602 (+20 %; tolerance 10 %)"/>
        </testcase>
      </testsuite>
    </testsuites>
    "#);
}

/// One point, and of each seed the share of requests rejected.
fn rejecting_each(shares: &[f64]) -> Summary {
    let mut builder = Builder::new("rejecting", shares.len() as u64);
    let ttft: Vec<_> = (0..shares.len()).map(|seed| Some(100.0 + seed as f64)).collect();
    let shares: Vec<_> = shares.iter().copied().map(Some).collect();
    builder.load("kv", 60, &[("ttft_ms_p95", &ttft), ("error_ratio", &shares)]);
    builder.build()
}

fn rejecting(share: f64) -> Summary {
    rejecting_each(&[share; 2])
}

#[test]
fn a_point_at_the_border_of_a_state_is_said_and_does_not_fail() {
    let accepted = rejecting_each(&[0.015; 8]);
    let before = Baseline::parse(&baseline(&accepted).to_toml(), Path::new("x")).unwrap();
    let check = |shares: [f64; 8]| Check::new(&[(before.clone(), rejecting_each(&shares))]);
    // Just over 2 % in every seed; far over it in half of them.
    let far = [0.2, 0.01, 0.2, 0.01, 0.2, 0.01, 0.2, 0.01];
    for shares in [[0.025, 0.026, 0.024, 0.025, 0.027, 0.021, 0.03, 0.022], far] {
        let found = check(shares);
        assert!(found.fallen.is_empty());
        assert!(found.text(200).contains("it may be chance"), "{}", found.text(200));
    }
    // Most seeds collapse, and one does not.
    let found = check([0.9, 1.0, 0.8, 0.9, 0.01, 0.9, 0.9, 0.9]);
    assert!(!found.fallen.is_empty() && found.failed(), "{}", found.text(200));
}

#[test]
fn a_point_that_no_longer_keeps_up_fails_whatever_its_numbers_are() {
    let before = Baseline::parse(&baseline(&rejecting(0.0)).to_toml(), Path::new("x")).unwrap();
    let mut before = Check::new(&[(before, rejecting(0.45))]);
    // The errors themselves are beyond their tolerance too.
    before.findings.clear();
    assert!(before.failed());
    let place = "router.policy = kv, workload.concurrency = 60";
    let sentence =
        format!("WORSE rejecting: {place} is 45 % unserved; the baseline has it stable.");
    assert!(before.text(200).contains(&sentence), "{}", before.text(200));
    assert!(before.junit().contains("does not stand as well"));
    // What was accepted passes, and what became better is said.
    let accepted = baseline(&rejecting(0.45));
    assert!(accepted.to_toml().contains("state = \"unserved\""), "{}", accepted.to_toml());
    let again = Baseline::parse(&accepted.to_toml(), Path::new("x")).unwrap();
    assert!(!Check::new(&[(again.clone(), rejecting(0.45))]).failed());
    let better = Check::new(&[(again, rejecting(0.0))]);
    assert!(!better.failed() && better.text(200).contains("is stable"), "{}", better.text(200));
}

#[test]
fn within_tolerance_or_noise_nothing_fails() {
    let before = results(1..9, |_, ttft| ttft);
    // Sure, but below 10 %.
    assert!(!check(&before, &results(1..9, |_, ttft| 1.05 * ttft)).failed());
    // 12 %, but with other seeds that is 60 ms against a scatter of 10: still sure.
    assert!(check(&before, &results(11..19, |_, ttft| 1.12 * ttft)).failed());
    // Above 10 %, but with three other seeds chance could have done it.
    assert!(!check(&results(1..4, |_, t| t), &results(4..7, |_, t| 1.11 * t)).failed());
    let better = check(&before, &results(1..9, |_, ttft| 0.8 * ttft));
    assert!(!better.failed());
    assert_eq!(better.of(Judgement::Better).count(), 4);
}

#[test]
fn what_is_missing_fails() {
    let before = results(1..9, |_, ttft| ttft);
    let mut after = before.clone();
    after.points.remove(3);
    after.points[0].metrics.remove("hit_ratio");
    let found = check(&before, &after);
    assert!(found.failed());
    assert_eq!(found.missing.len(), 2, "{:?}", found.missing);
    // A point more is no failure.
    let found = check(&after, &before);
    assert!(!found.failed());
    assert_eq!(found.remarks.len(), 1);
}

/// 2,000 runs of unchanged results with other seeds, tolerances at 0: on
/// average two would fail if every test used up its share of false alarms.
#[test]
fn chance_alone_hardly_ever_fails() {
    let before = results(0..8, |_, ttft| ttft);
    let mut strict = baseline(&before);
    strict.tolerance.values_mut().for_each(|tolerance| *tolerance = 0.0);
    let alarms = (1..=2_000u64)
        .filter(|run| {
            let other = results(run * 100..run * 100 + 8, |_, ttft| ttft);
            Check::new(&[(strict.clone(), other)]).failed()
        })
        .count();
    // More than 8 of a Poisson variable of mean 2: a chance of 2 in 10,000.
    assert!(alarms <= 8, "{alarms} alarms");
}

#[test]
fn baselines_that_cannot_be_used() {
    let good = baseline(&results(1..4, |_, ttft| ttft)).to_toml();
    let refused = |text: String| {
        let error = Baseline::parse(&text, Path::new("b.toml")).expect_err("refused").to_string();
        assert!(!error.contains('\n'), "{error}");
        error
    };
    insta::assert_snapshot!(
        [
            refused(good.replace("hit_ratio = 1.0", "hit_ration = 1.0")),
            refused(good.replace("hit_ratio = 1.0", "hit_ratio = -1.0")),
            refused(good.replace("seeds = [1, 2, 3]", "seeds = [1, 2]")),
            refused(good.replace("version = ", "versoin = ")),
            Baseline::new(&results(1..2, |_, t| t), None).expect_err("one seed").to_string(),
            Baseline::read(Path::new("nowhere.toml")).expect_err("none").to_string(),
        ]
        .join("\n"),
        @r"
    b.toml: not a baseline: tolerance = hit_ration: must be the name of a metric; the nearest one is `hit_ratio`
    b.toml: not a baseline: tolerance.hit_ratio = -1: must be at least 0
    b.toml: not a baseline: hit_ratio.per_seed must have 2 values
    b.toml: not a baseline: line 3: unknown field `versoin`, expected one of `experiment`, `version`, `config_hash`, `seeds`, `tolerance`, `point`
    made-up: measure.seeds has 1 seed: a check needs at least 2, to know what chance does
    nowhere.toml: cannot be read: No such file or directory (os error 2)
    "
    );
}

proptest! {
    /// What a baseline file says is what was measured, to the last bit, so the
    /// same results are never a change.
    #[test]
    fn a_baseline_reads_back(summary in example::any_summary()) {
        if summary.provenance.seeds.len() < 2 {
            return Ok(());
        }
        // Parameters come from TOML, which has no null.
        let is_null = |p: &crate::experiment::results::Point| p.params.values().any(serde_json::Value::is_null);
        if summary.points.iter().any(is_null) {
            return Ok(());
        }
        let written = baseline(&summary);
        let back = Baseline::parse(&written.to_toml(), Path::new("b.toml"));
        let back = back.map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(written.to_toml(), back.to_toml());
        let repeats = (0..summary.points.len()).any(|i| {
            summary.points[..i].iter().any(|p| p.params == summary.points[i].params)
        });
        if !repeats {
            let check = Check::new(&[(back, summary)]);
            prop_assert!(!check.failed(), "{:?}", check.missing);
            check.text(80);
            check.markdown();
            check.junit();
        }
    }
}
