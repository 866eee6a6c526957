//! Frontiers of made-up fleets, whose answers are known.

use super::*;
use crate::experiment::results::Metric;
use crate::stats::mean_ci95;
use proptest::prelude::*;
use serde_json::json;
use std::convert::Infallible;

/// A point with these metrics, one value per seed.
fn point(policy: &str, metrics: &[(&str, Vec<f64>)]) -> Point {
    let metric = |values: &Vec<f64>| {
        let (mean, ci95) = mean_ci95(values).expect("seeds");
        Metric { mean: Some(mean), per_seed: values.iter().copied().map(Some).collect(), ci95 }
    };
    Point {
        params: [(POLICY.to_owned(), json!(policy))].into(),
        metrics: metrics.iter().map(|(name, values)| ((*name).to_owned(), metric(values))).collect(),
    }
}

/// `kv` is ahead below a load of `border` and behind above it; both scatter by
/// seed in the same way, and `kv` by a little of its own.
fn fleet(border: f64) -> impl FnMut(f64) -> Result<Vec<Point>, Infallible> {
    move |load| {
        let shared = [0.0, 40.0, 80.0, 120.0];
        let own = [-3.0, 1.0, -1.0, 3.0];
        let base = |s: f64| 100.0 + 4.0 * load + s;
        let round_robin: Vec<f64> = shared.iter().map(|s| base(*s)).collect();
        let kv = shared.iter().zip(own).map(|(s, o)| base(*s) + (load - border) + o).collect();
        let with = |policy, ttft: Vec<f64>| {
            let queue = if load > border { 300.0 } else { 10.0 };
            point(policy, &[
                ("ttft_ms_p95", ttft),
                ("queue_ms_p50", vec![10.0; 4]),
                ("engine_ttft_ms_p50", vec![100.0; 4]),
                ("queue_ms_p95", vec![queue; 4]),
                ("engine_ttft_ms_p95", vec![400.0; 4]),
            ])
        };
        Ok(vec![with("round_robin", round_robin), with("kv", kv)])
    }
}

fn loads() -> Loads {
    Loads::new("workload.concurrency", 60.0, 180.0, 1.0).expect("a grid")
}

#[test]
fn pairing_finds_the_crossover_below_the_scatter_of_the_seeds() {
    let questions = [
        Question::beats("kv", "round_robin", "ttft_ms_p95").expect("a question"),
        Question::Meets {
            policy: "kv".to_owned(),
            targets: vec![Target::parse("ttft_ms_p95=600ms").expect("a target")],
        },
        Question::Meets {
            policy: "round_robin".to_owned(),
            targets: vec![Target::parse("ttft_ms_p95=2s").expect("a target")],
        },
        Question::Meets {
            policy: "round_robin".to_owned(),
            targets: vec![Target::parse("ttft_ms_p95=0.1s").expect("a target")],
        },
    ];
    let found = frontier("made-up", &[1, 2, 3, 4], &loads(), &questions, fleet(130.5));
    let found = found.expect("nothing fails");
    assert_eq!(found.answers[0].limit, Limit::UpTo(130.0));
    // The own scatter has a standard error of 1.29 and t(0.975, 3) = 3.18: 4.1 to both sides.
    assert_eq!(found.answers[0].interval, Some([Limit::UpTo(126.0), Limit::UpTo(134.0)]));
    insta::assert_snapshot!(found.report(110), @"");
}

#[test]
fn targets_are_read_in_the_units_of_their_metrics() {
    let limit = |text: &str| Target::parse(text).map(|target| target.limit);
    assert_eq!(limit("ttft_ms_p95=600ms"), Ok(600.0));
    assert_eq!(limit("ttft_ms_p95=0.6s"), Ok(600.0));
    assert_eq!(limit("itl_ms_p95=60"), Ok(60.0));
    assert_eq!(limit("hit_ratio=80%"), Ok(0.8));
    assert_eq!(limit("goodput_per_s=4.5"), Ok(4.5));
    for bad in ["ttft_ms_p95", "ttft_ms_p95=fast", "tfft_ms_p95=1s", "goodput_per_s=-1", "running_mean=3"] {
        assert!(Target::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn waiting_is_named() {
    let state = |p50: f64, p95: f64| {
        State::of(&point("kv", &[
            ("queue_ms_p50", vec![p50]),
            ("engine_ttft_ms_p50", vec![200.0]),
            ("queue_ms_p95", vec![p95]),
            ("engine_ttft_ms_p95", vec![400.0]),
        ]))
    };
    assert_eq!(state(10.0, 40.0), State::Stable);
    assert_eq!(state(10.0, 200.0), State::Backlogged);
    assert_eq!(state(100.0, 300.0), State::Overloaded);
    assert_eq!(State::of(&point("kv", &[])), State::Overloaded);
}

proptest! {
    /// The paired differences cross zero at the border, wherever it is.
    #[test]
    fn the_crossover_is_where_the_difference_changes_its_sign(border in 40.0..200.0f64) {
        let question = Question::beats("kv", "round_robin", "ttft_ms_p95").expect("a question");
        let found = frontier("x", &[1, 2, 3, 4], &loads(), &[question], fleet(border)).unwrap();
        let expected = match border {
            b if b <= 60.0 => Limit::Nowhere,
            b if b > 180.0 => Limit::Everywhere,
            b => Limit::UpTo((b - 1e-9).floor()),
        };
        prop_assert_eq!(found.answers[0].limit, expected);
        prop_assert!(found.points.len() <= 2 * (7 + 3 * 5));
    }
}
