//! What a run writes for Prometheus is what its summary says.

use super::program::{Scratch, text};
use serde_json::Value;
use std::fs;
use std::process::Command;

/// 1 January 2026, the time zero of simulations.
const BEGIN_S: f64 = 1_767_225_600.0;

/// Runs the small experiment, with samples at the ends of its window.
fn written(place: &Scratch) -> String {
    let out = place.sim(&[
        "run",
        "small.toml",
        "--seeds",
        "1",
        "--set",
        "measure.warmup=15s",
        "--no-figures",
        "--metrics",
        "metrics.txt",
    ]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    fs::read_to_string(place.path().join("metrics.txt")).expect("written")
}

/// Time and value of the samples of a series.
fn series(metrics: &str, series: &str) -> Vec<(f64, f64)> {
    let samples = metrics.lines().filter_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    let sample = |sample: &str| {
        let (value, at) = sample.split_once(' ')?;
        Some((at.parse::<f64>().ok()? - BEGIN_S, value.parse().ok()?))
    };
    samples.filter_map(sample).collect()
}

#[test]
fn counters_over_time_are_those_of_the_summary() {
    let place = Scratch::new();
    let metrics = written(&place);
    assert!(metrics.ends_with("\n# EOF\n"));
    let summary = fs::read_to_string(place.path().join("plots/small/summary.json"));
    let summary: Value = serde_json::from_str(&summary.expect("saved")).expect("JSON");
    let points = summary["points"].as_array().expect("points");
    assert_eq!(points.len(), 4);
    for point in points {
        let params = &point["params"];
        let run = format!(
            "router.policy={}, workload.concurrency={}",
            params["router.policy"].as_str().expect("a name"),
            params["workload.concurrency"]
        );
        let name = format!("dynamo_frontend_requests_total{{run=\"{run}\",status=\"success\"}}");
        let finished = series(&metrics, &name);
        let times: Vec<f64> = finished.iter().map(|(at, _)| *at).collect();
        assert_eq!(times, [0.0, 15.0, 30.0, 35.0], "{name}");
        let rate = (finished[3].1 - finished[1].1) / 20.0;
        let said = point["metrics"]["requests_per_s"]["mean"].as_f64().expect("a rate");
        assert!((rate - said).abs() < 1e-9, "{run}: {rate} and {said}");
    }
}

/// Prometheus takes the file into its storage, sample for sample.
#[test]
#[ignore = "needs promtool, of Debian's package prometheus"]
fn prometheus_takes_what_a_run_writes() {
    let place = Scratch::new();
    let metrics = written(&place);
    let out = Command::new("promtool")
        .args(["tsdb", "create-blocks-from", "openmetrics", "metrics.txt", "data"])
        .current_dir(place.path())
        .output()
        .expect("promtool is installed");
    assert!(out.status.success(), "{}", text(&out.stderr));
    // A line per block: its name, three times, and the number of its samples.
    let blocks = text(&out.stdout).lines().filter_map(|line| line.split_whitespace().nth(4));
    let taken: usize = blocks.filter_map(|count| count.parse::<usize>().ok()).sum();
    let samples = metrics.lines().filter(|line| !line.starts_with('#')).count();
    assert_eq!(taken, samples, "{}", text(&out.stdout));
}
