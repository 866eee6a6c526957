//! The saved result set: what `summary.json` holds, and all that tables,
//! figures and reports are made from.

use crate::stats::mean_ci95;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Version of the layout of `summary.json`; raised when a reader would have to change.
pub const SCHEMA_VERSION: u32 = 1;

/// Everything a run of an experiment found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Summary {
    /// [`SCHEMA_VERSION`] at the time of writing.
    pub schema_version: u32,
    /// Where the numbers come from.
    pub provenance: Provenance,
    /// One entry per combination of swept parameters, in sweep order.
    pub points: Vec<Point>,
}

/// What it takes to run any simulation of a result set again, and to know that
/// it is the same: `runs.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedRuns {
    /// [`SCHEMA_VERSION`] at the time of writing.
    pub schema_version: u32,
    /// The experiment's file, as it was named.
    pub experiment: String,
    /// What was changed in it, as `KEY=VALUE`, in order.
    pub overrides: Vec<String>,
    /// The digest of every simulation, run by run, for each seed by seed; the
    /// digest of `summary.json` covers them all.
    pub digests: Vec<String>,
}

/// Where a result set comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// Name of the experiment.
    pub experiment: String,
    /// Version of `sim`.
    pub version: String,
    /// SHA-256 over the experiment's resolved settings (all but output options), hexadecimal.
    pub config_hash: String,
    /// The seeds that were run, in order.
    pub seeds: Vec<u64>,
    /// SHA-256 over what could be seen from outside in every run: decisions,
    /// times of first and last tokens, cached tokens; hexadecimal.
    pub digest: String,
    /// By policy, the projects and versions whose rules were followed; none of policies
    /// that restate nothing.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub follows: BTreeMap<String, BTreeSet<String>>,
    /// Which models' step times are borrowed from another GPU or scaled from another version of
    /// the engine, a sentence each; none where all were measured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub step_times: Vec<String>,
}

/// One combination of swept parameters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Point {
    /// Dotted keys with their values; always has `router.policy`.
    pub params: BTreeMap<String, serde_json::Value>,
    /// By metric name, as `ttft_ms_p95`.
    pub metrics: BTreeMap<String, MetricValue>,
}

/// One number of a point.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricValue {
    /// Mean over the seeds that have a value; `null` if none has.
    pub mean: Option<f64>,
    /// One value per seed, in order of `provenance.seeds`; `null` where undefined
    /// (a percentile of no requests).
    pub per_seed: Vec<Option<f64>>,
    /// Bounds of the 95 % confidence interval of the mean (Student's t over
    /// seeds); `null` with fewer than two values.
    pub ci95: Option<[f64; 2]>,
}

impl MetricValue {
    /// Mean and interval over the seeds that have a value.
    pub(crate) fn of(per_seed: Vec<Option<f64>>) -> Self {
        let known: Vec<f64> = per_seed.iter().copied().flatten().collect();
        let (mean, ci95) = mean_ci95(&known).map_or((None, None), |(mean, ci)| (Some(mean), ci));
        Self { mean, per_seed, ci95 }
    }
}

/// How the requests of one point are distributed over a latency.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LatencyCurve {
    /// Milliseconds that each of [`SHARES`](crate::recorder::SHARES) of the
    /// requests took at most: the mean over the seeds that have any.
    pub mean: Vec<f64>,
    /// Bounds of the 95 % confidence intervals of those means (Student's t over
    /// seeds); `null` with fewer than two.
    pub ci95: Option<[Vec<f64>; 2]>,
}

/// By latency, as `ttft_ms`.
pub type LatencyCurves = BTreeMap<String, LatencyCurve>;
