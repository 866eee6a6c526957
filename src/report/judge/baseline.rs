//! What a routing check holds results against: the numbers of an earlier run,
//! in a file that is committed and whose differences can be read.

use super::state::State;
use crate::catalogue;
use crate::experiment::results::{MetricValue, Point, Provenance, SCHEMA_VERSION, Summary};
use crate::metrics::check_name;
use crate::settings::line_of;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// What is checked unless the file says otherwise, with the change for the
/// worse that is tolerated: percent, or percentage points of ratios (assumed:
/// what an operator would not act upon).
const TOLERANCES: [(&str, f64); 10] = [
    ("ttft_ms_p50", 5.0),
    ("ttft_ms_p95", 10.0),
    ("itl_ms_p95", 5.0),
    ("e2e_ms_p95", 5.0),
    ("output_tokens_per_s", 2.0),
    ("hit_ratio", 1.0),
    ("inflight_skew_mean", 5.0),
    ("inflight_spread_mean", 25.0),
    ("error_ratio", 0.1),
    ("slo_attainment", 1.0),
];

/// A baseline, as it stands in its file.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Baseline {
    /// Name of the experiment.
    pub experiment: String,
    /// Version of `sim` that wrote it.
    pub version: String,
    /// Hash of the experiment's settings then.
    pub config_hash: String,
    /// The seeds.
    pub seeds: Vec<u64>,
    /// The metrics to check, with the change for the worse that each may show:
    /// percent, or percentage points of ratios.
    pub tolerance: BTreeMap<String, f64>,
    /// The points.
    #[serde(default)]
    point: Vec<BaselinePoint>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct BaselinePoint {
    params: BTreeMap<String, serde_json::Value>,
    /// How it stands; only where it is not stable.
    state: Option<State>,
    metrics: BTreeMap<String, Values>,
}

/// The numbers of a metric. Mean and interval are for people: they follow from the rest.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Values {
    mean: f64,
    ci95: Option<[f64; 2]>,
    /// One per seed; NaN where undefined.
    per_seed: Vec<f64>,
}

/// A baseline that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BaselineError {
    /// It is not there, or may not be read.
    #[error("{}: cannot be read: {reason}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the operating system says.
        reason: String,
    },
    /// It is not a baseline.
    #[error("{}: not a baseline: {reason}", file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// One seed says nothing of chance.
    #[error(
        "{experiment}: measure.seeds has {seeds} seed: a check needs at least 2, to know what chance does"
    )]
    Seeds {
        /// Name of the experiment.
        experiment: String,
        /// How many there are.
        seeds: usize,
    },
}

impl Baseline {
    /// Of a result set; `before` says what is checked, if there was a baseline.
    ///
    /// # Errors
    /// If there is only one seed.
    pub fn new(summary: &Summary, before: Option<&Self>) -> Result<Self, BaselineError> {
        let provenance = &summary.provenance;
        if provenance.seeds.len() < 2 {
            return Err(BaselineError::Seeds {
                experiment: provenance.experiment.clone(),
                seeds: provenance.seeds.len(),
            });
        }
        let tolerance = match before {
            Some(before) => before.tolerance.clone(),
            None => {
                let has = |name: &str| summary.points.iter().any(|p| p.metrics.contains_key(name));
                let known = TOLERANCES.iter().filter(|(name, _)| has(name));
                known.map(|(name, tolerance)| ((*name).to_owned(), *tolerance)).collect()
            }
        };
        let point = |point: &Point| BaselinePoint {
            params: point.params.clone(),
            state: Some(State::of(point)).filter(|state| *state != State::Stable),
            metrics: tolerance
                .keys()
                .filter_map(|name| Some((name.clone(), values(point.metrics.get(name)?)?)))
                .collect(),
        };
        Ok(Self {
            experiment: provenance.experiment.clone(),
            version: provenance.version.clone(),
            config_hash: provenance.config_hash.clone(),
            seeds: provenance.seeds.clone(),
            point: summary.points.iter().map(point).collect(),
            tolerance,
        })
    }

    /// Reads a file.
    ///
    /// # Errors
    /// If it cannot be read, or is no baseline.
    pub fn read(file: &Path) -> Result<Self, BaselineError> {
        let text = catalogue::read_text(file).map_err(|error| BaselineError::Unreadable {
            file: file.into(),
            reason: error.to_string(),
        })?;
        Self::parse(&text, file)
    }

    /// Reads what [`to_toml`](Self::to_toml) wrote; `file` names it in messages.
    ///
    /// # Errors
    /// If it is no baseline.
    pub fn parse(text: &str, file: &Path) -> Result<Self, BaselineError> {
        let malformed = |reason: String| BaselineError::Malformed {
            file: file.into(),
            reason: reason.lines().collect::<Vec<_>>().join(" "),
        };
        let baseline: Self = toml::from_str(text).map_err(|error| {
            let line = line_of(text, error.span().map_or(0, |span| span.start));
            malformed(format!("line {line}: {}", error.message()))
        })?;
        for (name, tolerance) in &baseline.tolerance {
            check_name("tolerance", name).map_err(|error| malformed(error.to_string()))?;
            if !(tolerance.is_finite() && *tolerance >= 0.0) {
                return Err(malformed(format!(
                    "tolerance.{name} = {tolerance}: must be at least 0"
                )));
            }
        }
        let seeds = baseline.seeds.len();
        let mut values = baseline.point.iter().flat_map(|point| &point.metrics);
        match values.find(|(_, values)| values.per_seed.len() != seeds) {
            Some((name, _)) => Err(malformed(format!("{name}.per_seed must have {seeds} values"))),
            None => Ok(baseline),
        }
    }

    /// The file: a line per metric, so that a difference names what moved.
    pub fn to_toml(&self) -> String {
        let text = |value: &str| toml::Value::String(value.to_owned()).to_string();
        let seeds: Vec<String> = self.seeds.iter().map(u64::to_string).collect();
        let mut out = format!(
            "# What `sim check` holds {} against; written by `sim check --update`.\n\
             experiment = {}\nversion = {}\nconfig_hash = {}\nseeds = [{}]\n\n\
             # The change for the worse that is tolerated: percent, or percentage points of ratios.\n\
             # Metrics may be added and removed.\n[tolerance]\n",
            self.experiment,
            text(&self.experiment),
            text(&self.version),
            text(&self.config_hash),
            seeds.join(", "),
        );
        for (name, tolerance) in &self.tolerance {
            let _ = writeln!(out, "{name} = {tolerance:?}");
        }
        for point in &self.point {
            let params: Vec<String> = point
                .params
                .iter()
                .map(|(key, value)| format!("{} = {}", text(key), toml_value(value)))
                .collect();
            let _ = writeln!(out, "\n[[point]]\nparams = {{ {} }}", params.join(", "));
            if let Some(state) = toml::Value::try_from(point.state).ok().filter(|s| s.is_str()) {
                let _ = writeln!(out, "state = {state}");
            }
            out.push_str("[point.metrics]\n");
            for (name, values) in &point.metrics {
                let list = |values: &[f64]| {
                    values.iter().map(|v| toml_float(*v)).collect::<Vec<_>>().join(", ")
                };
                let ci95 =
                    values.ci95.map(|b| format!(" ci95 = [{}],", list(&b))).unwrap_or_default();
                let _ = writeln!(
                    out,
                    "{name} = {{ mean = {},{ci95} per_seed = [{}] }}",
                    toml_float(values.mean),
                    list(&values.per_seed)
                );
            }
        }
        out
    }

    /// How every point stands, by its parameters.
    pub fn states(
        &self,
    ) -> impl Iterator<Item = (&BTreeMap<String, serde_json::Value>, State)> + '_ {
        self.point.iter().map(|point| (&point.params, point.state.unwrap_or(State::Stable)))
    }

    /// As a result set, to be compared with others.
    pub fn summary(&self) -> Summary {
        let metric = |values: &Values| {
            let per_seed = values.per_seed.iter().map(|v| Some(*v).filter(|v| !v.is_nan()));
            MetricValue::of(per_seed.collect())
        };
        let point = |point: &BaselinePoint| Point {
            params: point.params.clone(),
            metrics: point.metrics.iter().map(|(name, v)| (name.clone(), metric(v))).collect(),
        };
        Summary {
            schema_version: SCHEMA_VERSION,
            provenance: Provenance {
                experiment: self.experiment.clone(),
                version: self.version.clone(),
                config_hash: self.config_hash.clone(),
                seeds: self.seeds.clone(),
                digest: String::new(),
                follows: BTreeMap::new(),
                step_times: Vec::new(),
            },
            points: self.point.iter().map(point).collect(),
        }
    }
}

/// `None` of a metric that no seed knows.
fn values(metric: &MetricValue) -> Option<Values> {
    let per_seed = metric.per_seed.iter().map(|v| v.unwrap_or(f64::NAN)).collect();
    Some(Values { mean: metric.mean?, ci95: metric.ci95, per_seed })
}

/// The shortest text that reads back to the same bits, always a float.
fn toml_float(value: f64) -> String {
    toml::Value::Float(value).to_string()
}

fn toml_value(value: &serde_json::Value) -> String {
    toml::Value::try_from(value).map_or_else(|_| "\"\"".to_owned(), |value| value.to_string())
}
