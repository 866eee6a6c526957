//! A result set arranged for showing: one axis, and one series per policy (and
//! per combination of whatever else was swept).

pub mod details;
pub mod fleet_over_time;
pub mod over_time;
pub mod published;

use crate::experiment::results::{MetricValue, Point, Summary};
use crate::metrics;
use crate::settings::Invalid;
pub(crate) use crate::settings::same;
pub use crate::settings::{number, plain};
use serde_json::Value;
use std::collections::BTreeMap;

/// The parameter every point has.
pub const POLICY: &str = "router.policy";

/// The parameter that names a bundle of settings in the sweep.
pub const VARIANT: &str = "variant";

/// The swept number that tables list downwards and figures from left to right.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    /// Dotted key, as `workload.concurrency`.
    pub key: String,
    /// The values that occur, ascending. Durations are in milliseconds.
    pub values: Vec<f64>,
    /// True if the values are durations.
    pub is_duration: bool,
    /// Other swept keys whose values go with those of the axis, one with one.
    pub companions: Vec<String>,
}

impl Axis {
    /// The last part of the key: `concurrency`.
    pub fn name(&self) -> &str {
        last_part(&self.key)
    }

    /// True for its own key and its companions'.
    fn covers(&self, key: &str) -> bool {
        self.key == key || self.companions.iter().any(|companion| companion == key)
    }

    /// As a figure says it: with its unit, and with what is counted, where the key
    /// leaves that open.
    pub fn title(&self) -> String {
        match self.key.as_str() {
            "workload.concurrency" => format!("{} (clients of a closed loop)", self.label()),
            _ => self.label(),
        }
    }

    /// With its unit, for a table head: `rate (requests/s)`.
    pub fn label(&self) -> String {
        match self.unit() {
            "" => self.name().to_owned(),
            unit => format!("{} ({unit})", self.name()),
        }
    }

    /// The unit of its values; empty of plain numbers and of what is counted.
    pub fn unit(&self) -> &'static str {
        if self.is_duration { "ms" } else { unit_of(&self.key) }
    }

    /// ` at concurrency 120`, ` at rate 5 requests/s`.
    pub fn at(&self, x: f64) -> String {
        format!(" at {} {x} {}", self.name(), self.unit()).trim_end().to_owned()
    }
}

/// The unit of a key's numbers; empty of plain numbers and of what the key counts.
pub fn unit_of(key: &str) -> &'static str {
    match last_part(key) {
        "rate" => "requests/s",
        "num_blocks" => "blocks",
        "max_num_seqs" => "requests",
        "block_size"
        | "max_num_batched_tokens"
        | "max_model_len"
        | "input_tokens"
        | "output_tokens"
        | "prompt_tokens"
        | "trace_block_tokens" => "tokens",
        _ => "",
    }
}

/// All points that differ only in the value on the axis.
#[derive(Clone, Debug)]
pub struct Series<'a> {
    /// The policy; empty if a point names none.
    pub policy: String,
    /// The other swept parameters with their values.
    pub others: BTreeMap<&'a str, &'a Value>,
    /// Policy and whatever else tells this series from the others.
    pub label: String,
    /// Value on the axis (0 without an axis) and the point, ascending.
    pub points: Vec<(f64, &'a Point)>,
}

impl<'a> Series<'a> {
    /// True if `other` has the same swept parameters, policy and variant apart.
    pub fn is_alike(&self, other: &Self) -> bool {
        let rest = |series: &Self| {
            let mut others = series.others.clone();
            others.remove(VARIANT);
            others
        };
        rest(self) == rest(other)
    }

    /// The point at `x`.
    pub fn at(&self, x: f64) -> Option<&'a Point> {
        self.points.iter().find(|(at, _)| *at == x).map(|(_, point)| *point)
    }

    /// The number called `metric` at `x`, if the point has one with a mean.
    pub fn metric(&self, x: f64, metric: &str) -> Option<&'a MetricValue> {
        self.at(x)?.metrics.get(metric).filter(|m| m.mean.is_some())
    }
}

/// A result set with its axis chosen.
#[derive(Clone, Debug)]
pub struct View<'a> {
    /// The result set.
    pub summary: &'a Summary,
    /// `None` if no number was swept.
    pub axis: Option<Axis>,
    /// In the order in which they first occur.
    pub series: Vec<Series<'a>>,
}

impl<'a> View<'a> {
    /// Arranges `summary` along `axis_key`, or along the numeric parameter with
    /// most values (the first by name among equals) if that is not given.
    ///
    /// # Errors
    /// If `axis_key` is not a parameter with a number in every point.
    pub fn new(summary: &'a Summary, axis_key: Option<&str>) -> Result<Self, Invalid> {
        let axes = axes(summary);
        let axis = match axis_key {
            Some(key) => Some(
                axes.iter()
                    .find(|axis| axis.key == key)
                    .cloned()
                    .ok_or_else(|| unknown_axis(key, &axes))?,
            ),
            // `rev`: of equals, `max_by_key` takes the last.
            None => axes
                .into_iter()
                .rev()
                .filter(|axis| axis.values.len() > 1)
                .max_by_key(|axis| axis.values.len()),
        };
        let axis = axis.map(|axis| Axis { companions: companions(summary, &axis.key), ..axis });
        let series = series(summary, axis.as_ref());
        Ok(Self { summary, axis, series })
    }

    /// Values on the axis; a single 0 without an axis.
    pub fn xs(&self) -> &[f64] {
        self.axis.as_ref().map_or(&[0.0], |axis| &axis.values)
    }

    /// `workers goes with concurrency: 3 at 170, 12 at 680`, for every companion
    /// of the axis.
    pub fn companions(&self) -> Vec<String> {
        let Some(axis) = &self.axis else { return Vec::new() };
        let said = |companion: &String| {
            let at = |x: &f64| {
                let point = self.series.iter().find_map(|series| series.at(*x))?;
                Some(format!("{} at {x}", plain(point.params.get(companion)?)))
            };
            let pairs: Vec<String> = axis.values.iter().filter_map(at).collect();
            format!("{} goes with {}: {}.", last_part(companion), axis.label(), pairs.join(", "))
        };
        axis.companions.iter().map(said).collect()
    }

    /// The metrics that occur with a value, in the order of reports.
    pub fn metric_names(&self) -> Vec<&'a str> {
        let mut names: Vec<&str> = self
            .summary
            .points
            .iter()
            .flat_map(|point| &point.metrics)
            .filter(|(_, metric)| metric.mean.is_some())
            .map(|(name, _)| name.as_str())
            .collect();
        names.sort_by_cached_key(|name| metrics::rank(name));
        names.dedup();
        names
    }
}

fn last_part(key: &str) -> &str {
    key.rsplit('.').next().unwrap_or(key)
}

/// Every parameter that is a number of one kind in all points, by name.
fn axes(summary: &Summary) -> Vec<Axis> {
    let Some(first) = summary.points.first() else { return Vec::new() };
    first
        .params
        .keys()
        .filter(|key| *key != POLICY && *key != VARIANT)
        .filter_map(|key| {
            let found: Option<Vec<(f64, bool)>> =
                summary.points.iter().map(|p| p.params.get(key).and_then(number)).collect();
            let found = found?;
            let is_duration = found.first()?.1;
            if found.iter().any(|(x, duration)| *duration != is_duration || !x.is_finite()) {
                return None;
            }
            let mut values: Vec<f64> = found.into_iter().map(|(x, _)| x).collect();
            values.sort_by(f64::total_cmp);
            values.dedup();
            Some(Axis { key: key.clone(), values, is_duration, companions: Vec::new() })
        })
        .collect()
}

/// The keys that vary with `axis`, one value with one value.
fn companions(summary: &Summary, axis: &str) -> Vec<String> {
    let is_companion = |key: &&String| {
        let mut to: BTreeMap<u64, &Value> = BTreeMap::new();
        let mut from: BTreeMap<String, u64> = BTreeMap::new();
        let fits = summary.points.iter().all(|point| {
            let (Some(x), Some(value)) = (point.params.get(axis), point.params.get(*key)) else {
                return false;
            };
            let Some((x, _)) = number(x) else { return false };
            // -0 and 0 are one value on the axis.
            let x = (x + 0.0).to_bits();
            *to.entry(x).or_insert(value) == value
                && *from.entry(value.to_string()).or_insert(x) == x
        });
        fits && to.len() > 1
    };
    let keys = summary.points.first().map(|point| point.params.keys()).into_iter().flatten();
    let others = keys.filter(|key| ![axis, POLICY, VARIANT].contains(&key.as_str()));
    others.filter(is_companion).cloned().collect()
}

fn unknown_axis(key: &str, axes: &[Axis]) -> Invalid {
    let allowed = if axes.is_empty() {
        "left out: these results have no numeric parameter".to_owned()
    } else {
        let keys: Vec<&str> = axes.iter().map(|axis| axis.key.as_str()).collect();
        format!("a numeric parameter of these results: {}", keys.join(", "))
    };
    Invalid::new("x", key, allowed)
}

fn series<'a>(summary: &'a Summary, axis: Option<&Axis>) -> Vec<Series<'a>> {
    let mut all: Vec<Series<'a>> = Vec::new();
    for point in &summary.points {
        let policy = point.params.get(POLICY).map(plain).unwrap_or_default();
        let others: BTreeMap<&str, &Value> = point
            .params
            .iter()
            .filter(|(key, _)| *key != POLICY && axis.is_none_or(|axis| !axis.covers(key)))
            .map(|(key, value)| (key.as_str(), value))
            .collect();
        let x = axis
            .and_then(|axis| point.params.get(&axis.key))
            .and_then(number)
            .map_or(0.0, |(x, _)| x);
        match all.iter_mut().find(|s| s.policy == policy && s.others == others) {
            Some(series) => series.points.push((x, point)),
            None => {
                all.push(Series { policy, others, label: String::new(), points: vec![(x, point)] })
            }
        }
    }
    let labels: Vec<String> = all.iter().map(|series| label(series, &all)).collect();
    for (series, label) in all.iter_mut().zip(labels) {
        series.label = label;
        series.points.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    all
}

/// The policy, or the variant, and those other parameters that are not the same everywhere.
fn label(series: &Series<'_>, all: &[Series<'_>]) -> String {
    let variant = series.others.get(VARIANT).map(|name| plain(name));
    let differing = series
        .others
        .iter()
        .filter(|(key, _)| **key != VARIANT)
        .filter(|(key, value)| all.iter().any(|other| other.others.get(*key) != Some(*value)))
        .map(|(key, value)| format!("{} {}", last_part(key), plain(value)));
    let policy = (!series.policy.is_empty()).then(|| series.policy.clone());
    let parts: Vec<String> = variant.or(policy).into_iter().chain(differing).collect();
    if parts.is_empty() { "all".to_owned() } else { parts.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::example::{self, Builder};
    use serde_json::json;

    #[test]
    fn the_axis_is_the_number_with_most_values() {
        let summary = example::doks();
        let view = View::new(&summary, None).unwrap();
        let axis = view.axis.as_ref().unwrap();
        assert_eq!(axis.key, "workload.concurrency");
        assert_eq!(axis.values, [60.0, 80.0, 100.0, 120.0, 140.0, 160.0, 180.0]);
        let labels: Vec<&str> = view.series.iter().map(|s| s.label.as_str()).collect();
        assert_eq!(labels, ["round_robin", "kv"]);
    }

    #[test]
    fn durations_with_different_units_are_one_axis() {
        let mut builder = Builder::new("delays", 1);
        for delay in ["2s", "12ms", "0ms"] {
            builder.point(
                &[(POLICY, json!("kv")), ("router.feed.delay", json!(delay))],
                &[("ttft_ms_p50", &[Some(1.0)])],
            );
        }
        let summary = builder.build();
        let view = View::new(&summary, Some("router.feed.delay")).unwrap();
        assert_eq!(view.xs(), [0.0, 12.0, 2000.0]);
        assert_eq!(view.axis.as_ref().unwrap().label(), "delay (ms)");
        assert!(view.series[0].metric(12.0, "ttft_ms_p50").is_some());
    }

    #[test]
    fn other_swept_parameters_make_series_of_their_own() {
        let mut builder = Builder::new("limits", 1);
        for limit in [64, 96] {
            for load in [60, 80] {
                builder.point(
                    &[
                        (POLICY, json!("kv")),
                        ("engine.max_num_seqs", json!(limit)),
                        ("workload.concurrency", json!(load)),
                        ("cluster.workers", json!(3)),
                    ],
                    &[("ttft_ms_p50", &[Some(1.0)])],
                );
            }
        }
        let summary = builder.build();
        let view = View::new(&summary, Some("workload.concurrency")).unwrap();
        let labels: Vec<&str> = view.series.iter().map(|s| s.label.as_str()).collect();
        assert_eq!(labels, ["kv, max_num_seqs 64", "kv, max_num_seqs 96"]);
    }

    #[test]
    fn keys_that_go_with_the_axis_make_no_series() {
        let mut builder = Builder::new("pairs", 1);
        for policy in ["round_robin", "kv"] {
            for (workers, load) in [(3, 170), (12, 680)] {
                builder.point(
                    &[
                        (POLICY, json!(policy)),
                        ("cluster.workers", json!(workers)),
                        ("workload.concurrency", json!(load)),
                    ],
                    &[("ttft_ms_p50", &[Some(1.0)])],
                );
            }
        }
        let summary = builder.build();
        let view = View::new(&summary, Some("workload.concurrency")).unwrap();
        let labels: Vec<&str> = view.series.iter().map(|s| s.label.as_str()).collect();
        assert_eq!(labels, ["round_robin", "kv"]);
        assert_eq!(view.companions(), ["workers goes with concurrency: 3 at 170, 12 at 680."]);
    }

    #[test]
    fn an_unknown_axis_is_refused_with_the_possible_ones() {
        let summary = example::doks();
        let error = View::new(&summary, Some(POLICY)).unwrap_err().to_string();
        assert_eq!(
            error,
            "x = router.policy: must be a numeric parameter of these results: workload.concurrency"
        );
    }
}
