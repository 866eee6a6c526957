//! What is asked of the loads, and by how far a load misses it.

use super::search::Margin;
use crate::experiment::results::Point;
use crate::metrics::{Better, Metric, directed, full_name, short};
use crate::report::judge::state::State;
use crate::settings::{Invalid, parse_duration, parse_share};
use crate::stats::Estimate;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

/// The confidence of intervals.
const CONFIDENCE: f64 = 0.95;

/// What speaks of requests that were not served; without such a target every
/// request has to be.
const ABOUT_UNSERVED: [&str; 5] =
    ["error_ratio", "rejected", "failed", "slo_attainment", "goodput_per_s"];

/// Up to which load does this hold?
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// One policy or setting beats another.
    Beats {
        /// The one that wins at small loads.
        candidate: String,
        /// The one it is held against.
        baseline: String,
        /// Name of the metric.
        metric: String,
    },
    /// A policy or setting meets all targets.
    Meets {
        /// Its name.
        policy: String,
        /// At least one.
        targets: Vec<MetricTarget>,
    },
}

/// A metric with the worst value that will do.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MetricTarget {
    /// Name of the metric.
    pub metric: String,
    /// In the metric's own unit: ms, 1/s, or 0 to 1.
    pub limit: f64,
}

impl MetricTarget {
    /// The targets of `[slo]`, met by a share of `attainment` of the requests.
    pub fn slo(attainment: f64) -> Self {
        Self { metric: "slo_attainment".to_owned(), limit: attainment }
    }

    /// Its metric in parts of the limit.
    pub(crate) fn scale(&self) -> Scale {
        Scale::of(&self.metric, self.limit)
    }

    /// Whether it speaks of requests that are not served.
    pub fn is_about_unserved(&self) -> bool {
        ABOUT_UNSERVED.contains(&self.metric.as_str())
    }

    /// Reads `ttft_ms_p95=600ms`, `hit_ratio=80%`, `goodput=4.5` or `slo`, which is met
    /// by a share of `attainment` of the requests.
    ///
    /// # Errors
    /// If the metric is none, has no better direction, or the value is none.
    pub fn parse(text: &str, attainment: f64) -> Result<Self, Invalid> {
        if text.trim() == "slo" {
            return Ok(Self::slo(attainment));
        }
        let form = "METRIC=VALUE, like ttft_ms_p95=600ms, or slo";
        let (name, value) =
            text.split_once('=').ok_or_else(|| Invalid::new("within", text, form))?;
        let (name, value) = (full_name(name.trim()), value.trim());
        let (metric, better) = directed("within", name)?;
        let number = |text: &str| text.trim().parse::<f64>().ok().filter(|n| n.is_finite());
        let limit = if metric.is_ratio() {
            parse_share(value)
        } else if metric.unit == "ms" {
            // A bare number could be seconds as well.
            parse_duration(value).ok().map(|d| d.as_millis())
        } else {
            number(value)
        };
        // No fewer than 0 is no target, no more than 0 is one.
        let may_be_zero = better == Better::Lower;
        let is_limit = |limit: &f64| {
            (*limit > 0.0 || may_be_zero && *limit == 0.0) && (*limit <= 1.0 || !metric.is_ratio())
        };
        let limit = limit.filter(is_limit).ok_or_else(|| {
            let allowed = match metric.unit {
                "%" if may_be_zero => "from 0 to 1, or a percentage like 80%",
                "%" => "above 0 and at most 1, or a percentage like 80%",
                "ms" => "a duration with its unit, like 600ms or 1s",
                _ if may_be_zero => "a number of at least 0",
                _ => "a number above 0",
            };
            Invalid::new(format!("within {name}"), value, allowed)
        })?;
        Ok(Self { metric: name.to_owned(), limit })
    }
}

/// A metric in parts of a limit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    sign: f64,
    limit: f64,
    /// The limit, or what the metric itself is counted in where that is 0.
    pub(crate) part: f64,
}

impl Scale {
    /// Of the metric of this name.
    pub(crate) fn of(metric: &str, limit: f64) -> Self {
        Self { sign: sign(metric), limit, part: if limit > 0.0 { limit } else { 1.0 } }
    }

    /// How far a value is beyond the limit: 0 is at the limit, above is worse.
    pub(crate) fn beyond(self, value: f64) -> f64 {
        self.sign * (value - self.limit) / self.part
    }

    /// The value that is so far [`beyond`](Self::beyond).
    pub(crate) fn value_at(self, beyond: f64) -> f64 {
        self.sign * beyond * self.part + self.limit
    }
}

impl fmt::Display for MetricTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let metric = Metric::of(&self.metric);
        let sign = if metric.better == Some(Better::Higher) { ">=" } else { "<=" };
        let value = format!("{} {}", short(metric.shown(self.limit)), metric.unit);
        write!(f, "{} {sign} {}", metric.label, value.trim_end())
    }
}

impl Question {
    /// Does `candidate` beat `baseline` on `metric`?
    ///
    /// # Errors
    /// If the metric is none, or neither direction of it is better.
    pub fn beats(candidate: &str, baseline: &str, metric: &str) -> Result<Self, Invalid> {
        directed("metric", metric)?;
        Ok(Self::Beats {
            candidate: candidate.to_owned(),
            baseline: baseline.to_owned(),
            metric: metric.to_owned(),
        })
    }

    /// The names of those it is about.
    pub(super) fn sides(&self) -> Vec<&str> {
        match self {
            Self::Beats { candidate, baseline, .. } => vec![candidate, baseline],
            Self::Meets { policy, .. } => vec![policy],
        }
    }

    /// True if it asks for targets.
    pub(super) fn has_targets(&self) -> bool {
        !self.targets().is_empty()
    }

    /// The targets; none of one against another.
    pub(super) fn targets(&self) -> &[MetricTarget] {
        match self {
            Self::Beats { .. } => &[],
            Self::Meets { targets, .. } => targets,
        }
    }

    /// The names of the metrics it is about.
    pub fn metrics(&self) -> Vec<&str> {
        match self {
            Self::Beats { metric, .. } => vec![metric],
            Self::Meets { targets, .. } => targets.iter().map(|t| t.metric.as_str()).collect(),
        }
    }
}

/// By how far the points of a load, by name, miss what is asked.
pub(super) fn margin(question: &Question, points: &BTreeMap<String, Point>) -> Margin {
    match question {
        Question::Beats { candidate, baseline, metric } => points
            .get(candidate)
            .zip(points.get(baseline))
            .and_then(|(candidate, baseline)| lead(metric, candidate, baseline))
            .unwrap_or(Margin::HOPELESS),
        Question::Meets { policy, targets } => {
            let point = points.get(policy).filter(|point| !hides_unserved(targets, point));
            let Some(point) = point else { return Margin::HOPELESS };
            let margins = targets.iter().map(|target| excess(target, point));
            let worst = |a: Margin, b: Margin| Margin {
                low: a.low.max(b.low),
                mean: a.mean.max(b.mean),
                high: a.high.max(b.high),
            };
            margins.reduce(worst).unwrap_or(Margin::HOPELESS)
        }
    }
}

/// True if requests were not served and no target speaks of that: the times of the
/// rest say nothing about them.
pub(crate) fn hides_unserved(targets: &[MetricTarget], point: &Point) -> bool {
    let is_asked = targets.iter().any(MetricTarget::is_about_unserved);
    !is_asked && State::of(point) >= State::Unserved
}

/// The target that is missed by most, or that of errors where requests were not
/// served; `None` of other questions.
pub(super) fn worst_target(
    question: &Question,
    points: &BTreeMap<String, Point>,
) -> Option<String> {
    let Question::Meets { policy, targets } = question else { return None };
    let point = points.get(policy)?;
    if hides_unserved(targets, point) {
        return Some("error_ratio".to_owned());
    }
    let worst =
        targets.iter().max_by(|a, b| excess(a, point).mean.total_cmp(&excess(b, point).mean))?;
    Some(worst.metric.clone())
}

/// Candidate minus baseline, paired by seed, turned so that less is better.
fn lead(metric: &str, candidate: &Point, baseline: &Point) -> Option<Margin> {
    let per_seed = |point: &Point| point.metrics.get(metric).map(|m| m.per_seed.clone());
    let (candidate, baseline) = (per_seed(candidate)?, per_seed(baseline)?);
    let pairs = candidate.iter().zip(&baseline).filter_map(|(c, b)| Some((*c)? - (*b)?));
    let sign = sign(metric);
    let pairs: Vec<f64> = pairs.map(|d| sign * d).collect();
    let mut margin = bounds(&Estimate::of(&pairs)?);
    // To draw level is not to beat.
    for bound in [&mut margin.low, &mut margin.mean, &mut margin.high] {
        if *bound == 0.0 {
            *bound = f64::MIN_POSITIVE;
        }
    }
    Some(margin)
}

/// How far a metric is beyond its limit, in parts of the limit, or as it is beyond 0.
fn excess(target: &MetricTarget, point: &Point) -> Margin {
    let scale = target.scale();
    let values = point.metrics.get(&target.metric).into_iter().flat_map(|m| &m.per_seed).flatten();
    let values: Vec<f64> = values.map(|value| scale.beyond(*value)).collect();
    Estimate::of(&values).as_ref().map_or(Margin::HOPELESS, bounds)
}

/// 1 where less is better, -1 where more is.
pub(crate) fn sign(metric: &str) -> f64 {
    if Metric::of(metric).better == Some(Better::Higher) { -1.0 } else { 1.0 }
}

/// With one seed nothing is known of the error: no interval.
fn bounds(estimate: &Estimate) -> Margin {
    let mean = estimate.mean;
    let [low, high] = estimate.interval(CONFIDENCE).unwrap_or([mean, mean]);
    Margin { low, mean, high }
}
