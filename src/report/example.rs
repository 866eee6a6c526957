//! Result sets for tests, built in one place.

use crate::experiment::results::{MetricValue, Point, Provenance, SCHEMA_VERSION, Summary};
use crate::report::view::POLICY;
use crate::report::view::published::{Published, PublishedSettings};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// Builds a [`Summary`] point by point.
pub(crate) struct Builder(Summary);

impl Builder {
    /// An empty result set of `seeds` seeds.
    pub(crate) fn new(experiment: &str, seeds: u64) -> Self {
        Self(Summary {
            schema_version: SCHEMA_VERSION,
            provenance: Provenance {
                experiment: experiment.to_owned(),
                version: "0.1.0".to_owned(),
                config_hash: "ab".repeat(32),
                seeds: (1..=seeds).collect(),
                digest: "0123456789abcdef".repeat(4),
                follows: BTreeMap::new(),
                step_times: Vec::new(),
            },
            points: Vec::new(),
        })
    }

    /// Adds a point; each metric is given by its value per seed.
    pub(crate) fn point(&mut self, params: &[(&str, Value)], metrics: &[(&str, &[Option<f64>])]) {
        self.0.points.push(Point {
            params: params.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect(),
            metrics: metrics
                .iter()
                .map(|(name, v)| ((*name).to_owned(), MetricValue::of(v.to_vec())))
                .collect(),
        });
    }

    /// Adds a point of `policy` at `concurrency`.
    pub(crate) fn load(
        &mut self,
        policy: &str,
        concurrency: u32,
        metrics: &[(&str, &[Option<f64>])],
    ) {
        let params = [(POLICY, json!(policy)), ("workload.concurrency", json!(concurrency))];
        self.point(&params, metrics);
    }

    pub(crate) fn build(self) -> Summary {
        self.0
    }
}

/// The settings of `experiments/doks-3xh200.toml`, section `[published]`.
pub(crate) fn doks_settings() -> PublishedSettings {
    let text = include_str!("../../experiments/doks-3xh200.toml");
    let document: toml::Table = toml::from_str(text).expect("the experiment is valid TOML");
    document["published"].clone().try_into().expect("the section [published] is valid")
}

/// The published numbers of deployment doks-3xh200.
pub(crate) fn doks_published() -> Published {
    let text = include_str!("../../experiments/published/doks-3xh200.csv");
    Published::parse(text, Path::new("doks-3xh200.csv"), &doks_settings().uncounted)
        .expect("the published table is valid")
}

/// Six seeds that scatter around the published numbers by about 3 %, and miss
/// them by up to 6 %: what a good simulation would give.
pub(crate) fn doks() -> Summary {
    let mut builder = Builder::new("doks-3xh200", 6);
    let published = doks_published();
    for policy in ["round_robin", "kv"] {
        for row in published.rows.iter().filter(|row| row.params[POLICY] == json!(policy)) {
            let load = row.params["workload.concurrency"].as_u64().expect("a whole number");
            let metrics: Vec<(&str, Vec<Option<f64>>)> = row
                .metrics
                .iter()
                .enumerate()
                .map(|(i, (name, value))| (name.as_str(), noisy(*value, i, load, policy)))
                .collect();
            let metrics: Vec<(&str, &[Option<f64>])> =
                metrics.iter().map(|(name, values)| (*name, values.as_slice())).collect();
            builder.load(policy, u32::try_from(load).expect("a small load"), &metrics);
        }
    }
    builder.build()
}

/// Smooth made-up offsets: no random source is needed for an example.
fn noisy(value: f64, metric: usize, load: u64, policy: &str) -> Vec<Option<f64>> {
    let phase = metric as f64 * 1.7 + load as f64 * 0.9 + policy.len() as f64;
    let limit = if value < 1.0 { 0.99 } else { f64::INFINITY };
    let offset = 0.06 * phase.sin();
    (0..6)
        .map(|seed| 0.03 * (phase * 3.1 + f64::from(seed) * 2.3).sin())
        .map(|scatter| Some((value * (1.0 + offset + scatter)).min(limit)))
        .collect()
}

/// TTFT p95 is lowest at weight 2 and temperature 0, hits fall with both.
pub(crate) fn surface() -> Summary {
    let mut builder = Builder::new("surface", 3);
    for load in [60, 80] {
        for weight in [1, 2, 3] {
            for temperature in ["0.0", "0.5"] {
                let t: f64 = temperature.parse().unwrap();
                let base = f64::from(load) + 10.0 * f64::from((weight - 2i32).pow(2)) + 40.0 * t;
                let ttft: Vec<Option<f64>> =
                    [0.0, 1.0, 2.5].iter().map(|s| Some(base + s * (1.0 + t))).collect();
                let hits = [Some(0.9 - 0.1 * f64::from(weight) - 0.2 * t); 3];
                builder.point(
                    &[
                        (POLICY, json!("kv")),
                        ("router.overlap_weight", json!(weight)),
                        ("router.temperature", json!(t)),
                        ("workload.concurrency", json!(load)),
                    ],
                    &[("ttft_ms_p95", &ttft), ("hit_ratio", &hits)],
                );
            }
        }
    }
    builder.build()
}

/// Any result set a file could hold: missing values, huge and tiny numbers,
/// odd parameters, points that repeat.
pub(crate) fn any_summary() -> impl Strategy<Value = Summary> {
    let value = prop_oneof![
        4 => (0.0..5_000.0f64).prop_map(Some),
        1 => Just(None),
        1 => Just(Some(0.0)),
        1 => any::<f64>().prop_filter("finite", |v| v.is_finite()).prop_map(Some),
    ];
    let param = prop_oneof![
        6 => (0u32..6).prop_map(|n| json!(n * 20)),
        1 => any::<f64>().prop_filter("finite", |v| v.is_finite()).prop_map(|v| json!(v)),
        1 => "[a-z<&\"é]{0,40}".prop_map(|text| json!(text)),
        1 => Just(json!("12ms")),
        1 => Just(Value::Null),
    ];
    let names = [
        "ttft_ms_p50",
        "ttft_ms_p95",
        "hit_ratio",
        "preemptions",
        "odd_p50",
        "output_tokens_per_s",
    ];
    (0usize..4).prop_flat_map(move |seeds| {
        let values = prop::collection::vec(value.clone(), seeds);
        let metrics = prop::collection::vec((prop::sample::select(names.to_vec()), values), 0..6);
        let point = (0u32..12, param.clone(), param.clone(), metrics);
        prop::collection::vec(point, 0..12).prop_map(move |points| {
            let mut builder = Builder::new("any <experiment> & \"more\"", seeds as u64);
            for (policy, x, other, metrics) in points {
                let metrics: Vec<(&str, &[Option<f64>])> =
                    metrics.iter().map(|(name, values)| (*name, values.as_slice())).collect();
                builder.point(
                    &[
                        (POLICY, json!(format!("policy_{policy}"))),
                        ("workload.concurrency", x),
                        ("engine.max_num_seqs", other),
                    ],
                    &metrics,
                );
            }
            builder.build()
        })
    })
}
