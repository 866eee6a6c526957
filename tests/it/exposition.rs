//! What a run writes for Prometheus is what its summary says.

use super::program::{Scratch, text};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

/// 1 January 2026, the time zero of simulations.
const BEGIN_S: f64 = 1_767_225_600.0;

/// What Prometheus reads: the samples by name, labels and time, in the order of the text.
#[derive(Debug)]
pub(super) struct Exposition {
    samples: Vec<Sample>,
    /// The families that are histograms.
    histograms: BTreeSet<String>,
}

#[derive(Debug)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
    at: String,
}

impl Exposition {
    /// # Panics
    /// If a line is none of the format.
    pub(super) fn of(text: &str) -> Self {
        let mut read = Self { samples: Vec::new(), histograms: BTreeSet::new() };
        for line in text.lines() {
            if let Some(about) = line.strip_prefix("# TYPE ") {
                let (family, kind) = about.split_once(' ').expect("a kind");
                if kind == "histogram" {
                    read.histograms.insert(family.to_owned());
                }
            } else if !line.starts_with('#') {
                let (head, rest) = line.split_once("} ").expect("labels");
                let (name, labels) = head.split_once('{').expect("labels");
                let pairs =
                    labels.split_terminator("\",").filter_map(|pair| pair.split_once("=\""));
                let pair = |(key, value): (&str, &str)| {
                    (key.to_owned(), value.trim_end_matches('"').to_owned())
                };
                let (value, at) = rest.split_once(' ').unwrap_or((rest, ""));
                let value = value.parse().unwrap_or_else(|_| panic!("a number: {line}"));
                let labels = pairs.map(pair).collect();
                read.samples.push(Sample {
                    name: name.to_owned(),
                    labels,
                    value,
                    at: at.to_owned(),
                });
            }
        }
        read
    }

    /// The sum over the samples of a name that have these labels.
    #[cfg(feature = "live")]
    pub(super) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let found: Vec<f64> = self.found(name, labels).iter().map(|sample| sample.value).collect();
        assert!(!found.is_empty(), "{name} {labels:?}: no sample");
        found.iter().sum()
    }

    fn found(&self, name: &str, labels: &[(&str, &str)]) -> Vec<&Sample> {
        let has = |sample: &&Sample| {
            let is =
                |(key, value): &(&str, &str)| sample.labels.get(*key).is_some_and(|v| v == value);
            sample.name == name && labels.iter().all(is)
        };
        self.samples.iter().filter(has).collect()
    }

    /// Laws of histograms: buckets rise with their bounds up to the number of values, the sum
    /// lies between what the buckets allow, and every request is counted in each once.
    pub(super) fn keeps_its_laws(&self) {
        assert!(self.histograms.len() >= 6, "{:?}", self.histograms);
        for family in &self.histograms {
            let mut series: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
            let key = |sample: &Sample| {
                let mut labels = sample.labels.clone();
                labels.remove("le");
                format!("{labels:?} {}", sample.at)
            };
            for sample in self.found(&format!("{family}_bucket"), &[]) {
                let bound = sample.labels["le"].replace("+Inf", "inf").parse().expect("a bound");
                series.entry(key(sample)).or_default().push((bound, sample.value));
            }
            assert!(!series.is_empty(), "{family}");
            let by_key = |suffix: &str| -> BTreeMap<String, f64> {
                let found = self.found(&format!("{family}_{suffix}"), &[]);
                found.into_iter().map(|sample| (key(sample), sample.value)).collect()
            };
            let (sums, counts) = (by_key("sum"), by_key("count"));
            for (key, buckets) in &series {
                assert!(buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{family} {key}");
                assert_eq!(buckets.last(), Some(&(f64::INFINITY, counts[key])), "{family} {key}");
                let least: f64 =
                    buckets.windows(2).map(|two| two[0].0 * (two[1].1 - two[0].1)).sum();
                assert!(sums[key] >= least * 0.999, "{family} {key}: {} < {least}", sums[key]);
            }
        }
        let ended: BTreeMap<String, f64> = self.by_place("dynamo_frontend_requests_total");
        assert_eq!(ended, self.by_place("dynamo_frontend_request_duration_seconds_count"));
        let finished = self.by_place("vllm:request_success_total");
        for phase in ["e2e_request_latency", "request_queue_time", "request_inference_time"] {
            let counted = self.by_place(&format!("vllm:{phase}_seconds_count"));
            assert!(counted.is_empty() || counted == finished, "{phase}: {counted:?} {finished:?}");
        }
        let phases =
            ["request_prefill_time", "request_decode_time", "request_time_per_output_token"];
        for phase in phases {
            let counted = self.by_place(&format!("vllm:{phase}_seconds_count"));
            assert!(counted.is_empty() || counted == finished, "{phase}: {counted:?} {finished:?}");
        }
        for (place, first_tokens) in self.by_place("vllm:time_to_first_token_seconds_count") {
            assert!(first_tokens >= finished[&place], "{place}: {first_tokens} {finished:?}");
        }
    }

    /// Sums by what the samples are of: arm or run, worker, time.
    fn by_place(&self, name: &str) -> BTreeMap<String, f64> {
        let mut sums = BTreeMap::new();
        for sample in self.found(name, &[]) {
            let label = |key: &str| sample.labels.get(key).map_or("", String::as_str);
            let place =
                format!("{}{} {} {}", label("arm"), label("run"), label("engine"), sample.at);
            *sums.entry(place).or_default() += sample.value;
        }
        sums
    }
}

/// Holds `text` to what Prometheus itself takes for its format.
#[cfg(feature = "live")]
pub(super) fn promtool_takes(text: &str) {
    use std::io::Write;
    use std::process::Stdio;

    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is installed");
    promtool.stdin.take().expect("piped").write_all(text.as_bytes()).expect("it reads");
    let out = promtool.wait_with_output().expect("it ends");
    // 3: it would choose other names than vLLM did.
    assert!(matches!(out.status.code(), Some(0 | 3)), "{}", super::program::text(&out.stderr));
}

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
    Exposition::of(&metrics).keeps_its_laws();
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
        let name = format!(
            "dynamo_frontend_requests_total{{run=\"{run}\",model=\"sim\",status=\"success\",error_type=\"\"}}"
        );
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
