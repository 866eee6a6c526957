//! Metrics by the names that they have in result files.

use super::catalogue::CATALOGUE;
use super::kind::{Better, MetricKind, Statistic};
use crate::settings::{Invalid, nearest};

/// A metric as reports show it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Metric {
    /// The name in result files, as `ttft_ms_p95`.
    pub name: String,
    /// The name without its statistic, as `ttft_ms`. Metrics of one stem share a figure.
    pub stem: String,
    /// For people, without the unit: `TTFT p95`.
    pub label: String,
    /// Unit of shown values; empty for counts. Ratios are shown in percent.
    pub unit: &'static str,
    /// `None` if neither direction is good in itself.
    pub better: Option<Better>,
}

/// What tables and figures show when no metric was asked for.
pub const MAIN: [&str; 9] = [
    "ttft_ms_p50",
    "ttft_ms_p95",
    "itl_ms_p50",
    "itl_ms_p95",
    "e2e_ms_p50",
    "e2e_ms_p95",
    "output_tokens_per_s",
    "requests_per_s",
    "hit_ratio",
];

impl MetricKind {
    /// The entry whose stem is `stem`.
    pub fn of(stem: &str) -> Option<&'static Self> {
        CATALOGUE.iter().copied().find(|kind| kind.stem == stem)
    }
}

impl Metric {
    /// Reads a name. An unknown one keeps its name as label and has no unit.
    pub fn of(name: &str) -> Self {
        let (stem, statistic) = split(name);
        let kind = MetricKind::of(stem);
        let title = kind.map_or(stem, |kind| kind.label);
        let label = match statistic {
            Some(statistic) => format!("{title} {statistic}"),
            None => title.to_owned(),
        };
        Self {
            name: name.to_owned(),
            stem: stem.to_owned(),
            label,
            unit: kind.map_or("", |kind| kind.unit),
            better: kind.and_then(|kind| kind.better),
        }
    }

    /// What the stem is called, without statistic and unit: `TTFT`.
    pub fn title(&self) -> String {
        MetricKind::of(&self.stem).map_or(self.stem.clone(), |kind| kind.label.to_owned())
    }

    /// As `value` is shown: a ratio of 0.9 as 90 (percent).
    pub fn shown(&self, value: f64) -> f64 {
        if self.is_ratio() { value * 100.0 } else { value }
    }

    /// True if values lie between 0 and 1. Differences of ratios are given in
    /// percentage points: "3 % more hits" could mean either.
    pub fn is_ratio(&self) -> bool {
        self.unit == "%"
    }

    /// Label with unit: `TTFT p95 (ms)`.
    pub fn with_unit(&self) -> String {
        if self.unit.is_empty() {
            self.label.clone()
        } else {
            format!("{} ({})", self.label, self.unit)
        }
    }

    /// How far `value` is from `reference`: percent of it, or percentage points
    /// for ratios. `None` if the reference is zero and the metric no ratio.
    pub fn difference(&self, value: f64, reference: f64) -> Option<f64> {
        let difference = if self.is_ratio() {
            (value - reference) * 100.0
        } else {
            (value - reference) / reference.abs() * 100.0
        };
        difference.is_finite().then_some(difference)
    }

    /// Unit of [`difference`](Self::difference).
    pub fn difference_unit(&self) -> &'static str {
        if self.is_ratio() { "pt" } else { "%" }
    }
}

/// The entry of the catalogue that a metric's name belongs to.
///
/// # Errors
/// If no run ever writes such a metric; the message has the nearest name.
pub fn check_name(key: &str, name: &str) -> Result<&'static MetricKind, Invalid> {
    let (stem, statistic) = split(name);
    let Some(kind) = MetricKind::of(stem) else {
        let Some(nearest) = nearest(stem, CATALOGUE.iter().map(|kind| kind.stem)) else {
            let allowed = format!(
                "the name of a metric, like {}; docs/metrics.md has all of them",
                MAIN.map(|name| format!("`{name}`")).join(", ")
            );
            return Err(Invalid::new(key, name, allowed));
        };
        let otherwise = if nearest.ends_with("_ms") { "_p95" } else { "" };
        let suffix = statistic.map_or(otherwise.to_owned(), |statistic| format!("_{statistic}"));
        let allowed = format!("the name of a metric; the nearest one is `{nearest}{suffix}`");
        return Err(Invalid::new(key, name, allowed));
    };
    let is_of_pool = kind.statistics == [Statistic::OfPool];
    if is_of_pool && statistic.is_some() || kind.names().any(|known| known == name) {
        return Ok(kind);
    }
    if is_of_pool {
        let allowed = format!("the name of a metric with a pool, as `{stem}[h100]`");
        return Err(Invalid::new(key, name, allowed));
    }
    let ends: Vec<String> = kind
        .statistics
        .iter()
        .filter(|statistic| **statistic != Statistic::Plain)
        .map(|statistic| statistic.to_string().trim_start_matches('_').to_owned())
        .collect();
    let allowed = if ends.is_empty() {
        format!("the name of a metric; of this one there is `{stem}` alone")
    } else {
        format!("the name of a metric with a statistic, `{stem}_` and one of {}", ends.join(", "))
    };
    Err(Invalid::new(key, name, allowed))
}

/// The metric of this name, and which of its directions is better.
///
/// # Errors
/// If there is none, or neither direction is better.
pub fn directed(key: &str, name: &str) -> Result<(Metric, Better), Invalid> {
    let kind = check_name(key, name)?;
    let allowed = "a metric of which either more or less is better";
    let better = kind.better.ok_or_else(|| Invalid::new(key, name, allowed))?;
    Ok((Metric::of(name), better))
}

/// The metric that a short name stands for: `goodput` for `goodput_per_s`. Other
/// names are returned as they are.
pub fn full_name(name: &str) -> &str {
    match name {
        "goodput" => "goodput_per_s",
        "attainment" => "slo_attainment",
        "throughput" => "output_tokens_per_s",
        name => name,
    }
}

/// Place of a metric in reports: those of the catalogue in its order, then the rest by name.
pub(crate) fn rank(name: &str) -> (usize, String) {
    let (stem, _) = split(name);
    let place = CATALOGUE.iter().position(|kind| kind.stem == stem).unwrap_or(CATALOGUE.len());
    (place, name.to_owned())
}

/// Splits `ttft_ms_p95` into stem and statistic; `hit_ratio_request_mean` is a stem of its own.
fn split(name: &str) -> (&str, Option<&str>) {
    if MetricKind::of(name).is_some() {
        return (name, None);
    }
    if let Some((stem, pool)) = pool_of(name) {
        return (stem, Some(pool));
    }
    match name.rsplit_once('_') {
        Some((stem, statistic)) if !stem.is_empty() && is_statistic(statistic) => {
            (stem, Some(statistic))
        }
        _ => (name, None),
    }
}

/// Splits `pool_requests_per_s[h100]` into stem and pool.
pub fn pool_of(name: &str) -> Option<(&str, &str)> {
    let (stem, pool) = name.strip_suffix(']')?.split_once('[')?;
    let kind = MetricKind::of(stem)?;
    (kind.statistics == [Statistic::OfPool] && !pool.is_empty()).then_some((stem, pool))
}

fn is_statistic(text: &str) -> bool {
    let percentile = text
        .strip_prefix('p')
        .is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()));
    percentile || matches!(text, "mean" | "max" | "min")
}
