//! Frontiers of made-up fleets, whose answers are known.

use super::*;
use crate::experiment::results::MetricValue;
use crate::report::view::POLICY;
use proptest::prelude::*;
use serde_json::json;
use std::convert::Infallible;

/// A point with these metrics, one value per seed.
fn point(policy: &str, metrics: &[(&str, Vec<f64>)]) -> Point {
    let metric = |values: &Vec<f64>| MetricValue::of(values.iter().copied().map(Some).collect());
    Point {
        params: [(POLICY.to_owned(), json!(policy))].into(),
        metrics: metrics
            .iter()
            .map(|(name, values)| ((*name).to_owned(), metric(values)))
            .collect(),
    }
}

/// `kv` is ahead below a load of `border` and behind above it; both scatter by
/// seed in the same way, and `kv` by a little of its own.
fn fleet(border: f64) -> impl FnMut(f64, &[&str]) -> Result<Vec<Point>, Infallible> {
    move |load, names| {
        let shared = [0.0, 40.0, 80.0, 120.0];
        let own = [-3.0, 1.0, -1.0, 3.0];
        let base = |s: f64| 100.0 + 4.0 * load + s;
        let round_robin: Vec<f64> = shared.iter().map(|s| base(*s)).collect();
        let kv = shared.iter().zip(own).map(|(s, o)| base(*s) + (load - border) + o).collect();
        let with = |policy, ttft: Vec<f64>| {
            let queue = if load > border { 300.0 } else { 10.0 };
            point(
                policy,
                &[
                    ("ttft_ms_p95", ttft),
                    ("queue_ms_p50", vec![10.0; 4]),
                    ("engine_ttft_ms_p50", vec![100.0; 4]),
                    ("queue_ms_p95", vec![queue; 4]),
                    ("engine_ttft_ms_p95", vec![400.0; 4]),
                ],
            )
        };
        let both = [with("round_robin", round_robin), with("kv", kv)];
        let point = |name: &&str| both.iter().find(|p| p.params[POLICY] == **name).cloned();
        Ok(names.iter().map(|name| point(name).expect("known")).collect())
    }
}

fn names() -> Vec<String> {
    vec!["round_robin".to_owned(), "kv".to_owned()]
}

fn loads() -> LoadRange {
    LoadRange::new("workload.concurrency", 60.0, 180.0, 1.0).expect("a grid")
}

#[test]
fn pairing_finds_the_crossover_below_the_scatter_of_the_seeds() {
    let questions = [
        Question::beats("kv", "round_robin", "ttft_ms_p95").expect("a question"),
        Question::Meets {
            policy: "kv".to_owned(),
            targets: vec![MetricTarget::parse("ttft_ms_p95=600ms", 0.95).expect("a target")],
        },
        Question::Meets {
            policy: "round_robin".to_owned(),
            targets: vec![MetricTarget::parse("ttft_ms_p95=2s", 0.95).expect("a target")],
        },
        Question::Meets {
            policy: "round_robin".to_owned(),
            targets: vec![MetricTarget::parse("ttft_ms_p95=0.1s", 0.95).expect("a target")],
        },
    ];
    let found = frontier(("made-up", &[1, 2, 3, 4]), &loads(), &names(), &questions, fleet(130.5));
    let found = found.expect("nothing fails");
    assert_eq!(found.answers[0].limit, Limit::UpTo(130.0));
    // The own scatter has a standard error of 1.29 and t(0.975, 3) = 3.18: 4.1 to both sides.
    assert_eq!(found.answers[0].interval, Some([Limit::UpTo(126.0), Limit::UpTo(134.0)]));
    let text = found.report(&[], 110);
    let (answers, table) = text.split_once("\n\n concurrency").expect("a table");
    insta::assert_snapshot!(answers, @r"
    made-up: loads 60 to 180 (workload.concurrency), 4 seeds; sim 0.1.0

    kv beats round_robin on TTFT p95 up to concurrency 130 (95 %: 126 to 134).
    kv meets TTFT p95 <= 600 ms up to concurrency 114 (95 %: 97 to 131); then TTFT p95 fails.
    round_robin meets TTFT p95 <= 2000 ms up to concurrency 180 at least, the largest tried (95 %: above 180).
    round_robin meets TTFT p95 <= 100 ms nowhere: not even at concurrency 60 (95 %: below 60); then TTFT p95
      fails.
    ");
    for row in [
        "          60  round_robin  stable       400 (318 to 482)",
        "         131  kv           backlogged   684 (599 to 770)",
        "         180  kv           backlogged  930 (844 to 1015)",
    ] {
        assert!(table.contains(row), "{row} is not in {table}");
    }
    assert!(!table.contains("113  round_robin"), "asked for kv alone: {table}");
    assert!(text.contains("\n\nstable: fewer than one request in twenty"), "{text}");
}

#[test]
fn targets_are_read_in_the_units_of_their_metrics() {
    let limit = |text: &str| MetricTarget::parse(text, 0.95).map(|target| target.limit);
    assert_eq!(limit("ttft_ms_p95=600ms"), Ok(600.0));
    assert_eq!(limit("ttft_ms_p95=0.6s"), Ok(600.0));
    assert_eq!(limit("itl_ms_p95=60ms"), Ok(60.0));
    assert_eq!(limit("hit_ratio=80%"), Ok(0.8));
    assert_eq!(limit("goodput_per_s=4.5"), Ok(4.5));
    assert_eq!(limit("error_ratio=0"), Ok(0.0));
    assert_eq!(limit("error_ratio=0.5%"), Ok(0.005));
    assert_eq!(limit("failed=0"), Ok(0.0));
    let refused = [
        "ttft_ms_p95",
        "ttft_ms_p95=fast",
        "ttft_ms_p95=1",
        "tfft_ms_p95=1s",
        "goodput_per_s=-1",
        "goodput_per_s=0",
        "running_mean=3",
        "hit_ratio=80",
        "hit_ratio=0",
        "error_ratio=101%",
        "failed=-1",
    ];
    let lines = refused.map(|bad| MetricTarget::parse(bad, 0.95).expect_err(bad).to_string());
    insta::assert_snapshot!(lines.join("\n"), @r"
    within = ttft_ms_p95: must be METRIC=VALUE, like ttft_ms_p95=600ms, or slo
    within ttft_ms_p95 = fast: must be a duration with its unit, like 600ms or 1s
    within ttft_ms_p95 = 1: must be a duration with its unit, like 600ms or 1s
    within = tfft_ms_p95: must be the name of a metric; the nearest one is `ttft_ms_p95`
    within goodput_per_s = -1: must be a number above 0
    within goodput_per_s = 0: must be a number above 0
    within = running_mean: must be a metric of which either more or less is better
    within hit_ratio = 80: must be above 0 and at most 1, or a percentage like 80%
    within hit_ratio = 0: must be above 0 and at most 1, or a percentage like 80%
    within error_ratio = 101%: must be from 0 to 1, or a percentage like 80%
    within failed = -1: must be a number of at least 0
    ");
}

/// No limit to divide by: none is good, any is bad.
#[test]
fn a_target_of_nothing_is_met_by_nothing() {
    let targets = vec![MetricTarget::parse("failed=0", 0.95).expect("a target")];
    let question = Question::Meets { policy: "kv".to_owned(), targets };
    let failed = |load: f64| if load > 100.0 { vec![0.0, 1.0] } else { vec![0.0, 0.0] };
    let simulate =
        |load: f64, _: &[&str]| Ok::<_, Infallible>(vec![point("kv", &[("failed", failed(load))])]);
    let found = frontier(("x", &[1, 2]), &loads(), &names(), &[question], simulate);
    let found = found.expect("nothing fails");
    assert_eq!(found.answers[0].limit, Limit::UpTo(100.0));
}

/// A fleet of `workers` that needs `needed` of them: TTFT p95 in ms.
fn workers(needed: f64) -> impl FnMut(f64, &[&str]) -> Result<Vec<Point>, Infallible> {
    move |workers, names| {
        let ttft = |seed: f64| 100.0 + 400.0 * needed / workers + seed;
        let values: Vec<f64> = [0.0, 1.0, 2.0].map(ttft).to_vec();
        Ok(names.iter().map(|name| point(name, &[("ttft_ms_p95", values.clone())])).collect())
    }
}

fn meets(policy: &str, target: &str) -> Question {
    let targets = vec![MetricTarget::parse(target, 0.95).expect("a target")];
    Question::Meets { policy: policy.to_owned(), targets }
}

#[test]
fn the_smallest_fleet_that_meets_the_targets_is_named() {
    let loads = LoadRange::new("cluster.workers", 1.0, 12.0, 1.0).expect("a grid");
    let said = |needed: f64| {
        let question = [meets("kv", "ttft_ms_p95=510ms")];
        let found = frontier(("x", &[1, 2, 3]), &loads, &names(), &question, workers(needed));
        let found = found.expect("nothing fails");
        (found.answers[0].limit, found.sentence(&found.answers[0]))
    };
    let (limit, text) = said(5.0);
    assert_eq!(limit, Limit::From(5.0));
    assert_eq!(
        text,
        "kv meets TTFT p95 <= 510 ms from workers 5 on (95 %: 5); below that TTFT p95 fails."
    );
    let (limit, text) = said(0.5);
    assert_eq!(limit, Limit::Everywhere);
    assert!(text.contains("with workers 1 already, the smallest tried"), "{text}");
    let (limit, text) = said(50.0);
    assert_eq!(limit, Limit::Nowhere);
    assert!(text.contains("nowhere: not even at workers 12"), "{text}");
}

#[test]
fn of_several_settings_the_one_that_carries_most_is_named() {
    let settings: Vec<String> = ["1", "2", "3"].map(|w| format!("kv, overlap_weight {w}")).into();
    let questions: Vec<Question> =
        settings.iter().map(|name| meets(name, "ttft_ms_p95=600ms")).collect();
    // Weight 2 carries most; the others lie far below it.
    let mut asked = 0;
    let simulate = |load: f64, names: &[&str]| {
        asked += names.len();
        let slope = |name: &&str| if name.ends_with('2') { 4.0 } else { 6.0 };
        let ttft = |name: &&str, seed: f64| slope(name) * load + seed;
        let values = |name: &&str| [0.0, 2.0, 4.0].map(|seed| ttft(name, seed)).to_vec();
        let points = names.iter().map(|name| point(name, &[("ttft_ms_p95", values(name))]));
        Ok::<_, Infallible>(points.collect())
    };
    let found = frontier(("x", &[1, 2, 3]), &loads(), &settings, &questions, simulate);
    let found = found.expect("nothing fails");
    assert_eq!(
        found.most().expect("three settings"),
        "Of 3 settings, kv, overlap_weight 2 carries the most: up to concurrency 149 (95 %: 148 to 150); \
         0 of 2 others may be as good."
    );
    assert!(asked <= 3 * (7 + 3 * 5), "{asked} points");
}

/// The times of those that were served say nothing of the others.
#[test]
fn targets_are_not_met_by_turning_requests_away() {
    let turned_away = |load: f64| if load > 100.0 { 0.45 } else { 0.0 };
    let simulate = |load: f64, _: &[&str]| {
        let metrics = [("ttft_ms_p95", vec![50.0; 2]), ("error_ratio", vec![turned_away(load); 2])];
        Ok::<_, Infallible>(vec![point("kv", &metrics)])
    };
    let ask = |target: &str| {
        let question = [meets("kv", target)];
        let found = frontier(("x", &[1, 2]), &loads(), &names(), &question, simulate);
        let found = found.expect("nothing fails");
        (found.answers[0].limit, found.sentence(&found.answers[0]))
    };
    let (limit, text) = ask("ttft_ms_p95=600ms");
    assert_eq!(limit, Limit::UpTo(100.0));
    assert!(text.ends_with("then requests are not served."), "{text}");
    assert_eq!(ask("error_ratio=50%").0, Limit::Everywhere);
}

proptest! {
    /// The paired differences cross zero at the border, wherever it is.
    #[test]
    fn the_crossover_is_where_the_difference_changes_its_sign(border in 40.0..200.0f64) {
        let question = Question::beats("kv", "round_robin", "ttft_ms_p95").expect("a question");
        let found = frontier(("x", &[1, 2, 3, 4]), &loads(), &names(), &[question], fleet(border)).unwrap();
        let expected = match border {
            b if b <= 60.0 => Limit::Nowhere,
            b if b > 180.0 => Limit::Everywhere,
            b => Limit::UpTo((b - 1e-9).floor()),
        };
        prop_assert_eq!(found.answers[0].limit, expected);
        prop_assert!(found.points.len() <= 2 * (7 + 3 * 5));
    }
}
