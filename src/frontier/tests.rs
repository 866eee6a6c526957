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
        metrics: metrics
            .iter()
            .map(|(name, values)| ((*name).to_owned(), metric(values)))
            .collect(),
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
    insta::assert_snapshot!(found.report(110), @r"
    made-up: loads 60 to 180 (workload.concurrency), 4 seeds; sim 0.1.0

    kv beats round_robin on TTFT p95 up to concurrency 130 (95 %: 126 to 134).
    kv meets TTFT p95 <= 600 ms up to concurrency 114 (95 %: 97 to 131); then TTFT p95 fails.
    round_robin meets TTFT p95 <= 2000 ms up to concurrency 180 at least (95 %: above 180).
    round_robin meets TTFT p95 <= 100 ms nowhere: not even at concurrency 60 (95 %: below 60); then TTFT p95
      fails.

     concurrency  policy       state           TTFT p95 (ms)
    --------------------------------------------------------
              60  round_robin  stable       400 (318 to 482)
              60  kv           stable       330 (244 to 415)
              80  round_robin  stable       480 (398 to 562)
              80  kv           stable       430 (344 to 515)
              90  round_robin  stable       520 (438 to 602)
              90  kv           stable       480 (394 to 565)
              95  round_robin  stable       540 (458 to 622)
              95  kv           stable       504 (419 to 590)
              97  round_robin  stable       548 (466 to 630)
              97  kv           stable       514 (429 to 600)
              98  round_robin  stable       552 (470 to 634)
              98  kv           stable       520 (434 to 605)
             100  round_robin  stable       560 (478 to 642)
             100  kv           stable       530 (444 to 615)
             110  round_robin  stable       600 (518 to 682)
             110  kv           stable       580 (494 to 665)
             112  round_robin  stable       608 (526 to 690)
             112  kv           stable       590 (504 to 675)
             113  round_robin  stable       612 (530 to 694)
             113  kv           stable       594 (509 to 680)
             114  round_robin  stable       616 (534 to 698)
             114  kv           stable       600 (514 to 685)
             115  round_robin  stable       620 (538 to 702)
             115  kv           stable       604 (519 to 690)
             120  round_robin  stable       640 (558 to 722)
             120  kv           stable       630 (544 to 715)
             125  round_robin  stable       660 (578 to 742)
             125  kv           stable       654 (569 to 740)
             126  round_robin  stable       664 (582 to 746)
             126  kv           stable       660 (574 to 745)
             127  round_robin  stable       668 (586 to 750)
             127  kv           stable       664 (579 to 750)
             130  round_robin  stable       680 (598 to 762)
             130  kv           stable       680 (594 to 765)
             131  round_robin  backlogged   684 (602 to 766)
             131  kv           backlogged   684 (599 to 770)
             132  round_robin  backlogged   688 (606 to 770)
             132  kv           backlogged   690 (604 to 775)
             133  round_robin  backlogged   692 (610 to 774)
             133  kv           backlogged   694 (609 to 780)
             134  round_robin  backlogged   696 (614 to 778)
             134  kv           backlogged   700 (614 to 785)
             135  round_robin  backlogged   700 (618 to 782)
             135  kv           backlogged   704 (619 to 790)
             140  round_robin  backlogged   720 (638 to 802)
             140  kv           backlogged   730 (644 to 815)
             160  round_robin  backlogged   800 (718 to 882)
             160  kv           backlogged   830 (744 to 915)
             180  round_robin  backlogged   880 (798 to 962)
             180  kv           backlogged  930 (844 to 1015)

    stable: fewer than one request in twenty waits for a batch for most of its time to the first token;
      backlogged: at least one in twenty does (queue time p95 is half of the engine's TTFT p95 or more);
      overloaded: every second one does (the same of p50), or none finished.
    ");
}

#[test]
fn targets_are_read_in_the_units_of_their_metrics() {
    let limit = |text: &str| Target::parse(text).map(|target| target.limit);
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
    let lines = refused.map(|bad| Target::parse(bad).expect_err(bad).to_string());
    insta::assert_snapshot!(lines.join("\n"), @r"
    --within = ttft_ms_p95: must be METRIC=VALUE, like ttft_ms_p95=600ms
    --within ttft_ms_p95 = fast: must be a duration with its unit, like 600ms or 1s
    --within ttft_ms_p95 = 1: must be a duration with its unit, like 600ms or 1s
    --within = tfft_ms_p95: must be the name of a metric; the nearest one is `ttft_ms_p95`
    --within goodput_per_s = -1: must be a number above 0
    --within goodput_per_s = 0: must be a number above 0
    --within = running_mean: must be a metric of which either more or less is better
    --within hit_ratio = 80: must be above 0 and at most 1, or a percentage like 80%
    --within hit_ratio = 0: must be above 0 and at most 1, or a percentage like 80%
    --within error_ratio = 101%: must be from 0 to 1, or a percentage like 80%
    --within failed = -1: must be a number of at least 0
    ");
}

/// No limit to divide by: none is good, any is bad.
#[test]
fn a_target_of_nothing_is_met_by_nothing() {
    let targets = vec![Target::parse("failed=0").expect("a target")];
    let question = Question::Meets { policy: "kv".to_owned(), targets };
    let failed = |load: f64| if load > 100.0 { vec![0.0, 1.0] } else { vec![0.0, 0.0] };
    let simulate = |load: f64| Ok::<_, Infallible>(vec![point("kv", &[("failed", failed(load))])]);
    let found = frontier("x", &[1, 2], &loads(), &[question], simulate).expect("nothing fails");
    assert_eq!(found.answers[0].limit, Limit::UpTo(100.0));
}

#[test]
fn waiting_is_named() {
    let state = |p50: f64, p95: f64| {
        State::of(&point(
            "kv",
            &[
                ("queue_ms_p50", vec![p50]),
                ("engine_ttft_ms_p50", vec![200.0]),
                ("queue_ms_p95", vec![p95]),
                ("engine_ttft_ms_p95", vec![400.0]),
            ],
        ))
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
