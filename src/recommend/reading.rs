//! What a target's metric is on a fleet, and between which bounds it lies: chance over
//! seeds, and the model's own error.
//!
//! Half-widths of the two add as the root of the sum of squares: Student's t over seeds,
//! the normal distribution for the model ([`trust`](super::trust)). Of a share of requests
//! that meet time limits, as `slo_attainment`, the error is that of the times: the bound is
//! the share that would meet limits that are shorter, or longer, by that much.

use super::trust::{ModelError, Trust};
use crate::experiment::results::{LatencyCurves, Point};
use crate::experiment::{Settings, SloSettings};
use crate::frontier::{MetricTarget, Scale, hides_unserved, sign};
use crate::metrics::Metric;
use crate::recorder::SHARES;
use crate::report::judge::state::State;
use crate::stats::{self, Estimate};
use serde::Serialize;
use statrs::distribution::{ContinuousCDF, Normal};

/// The relative error over seeds that is expected before any was seen twice (assumed: a
/// p95 of some hundred requests).
const FIRST_SPREAD: f64 = 0.05;

/// The growth of the backlog, as a share of the requests that came, from which on a fleet
/// that most requests wait for does not keep up (assumed, as for a saturated one).
const GROWTH: f64 = 0.1;

/// The largest relative error that bounds are made of (assumed: what would be measured is at
/// most twenty times what is predicted). At 1 there is no bound at all.
const MOST_REACH: f64 = 0.95;

/// A metric of a fleet.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Reading {
    /// Its name.
    pub metric: String,
    /// The worst value that will do.
    pub limit: f64,
    /// Mean over the seeds.
    pub mean: f64,
    /// Between which values it lies with the confidence asked for, the model's error
    /// included.
    pub interval: [f64; 2],
    /// The same as if the model were exact; `None` with one seed.
    pub by_seeds: Option<[f64; 2]>,
    /// The model's mean error; `None` where it is not known.
    pub model_error: Option<ModelError>,
}

/// Whether a fleet meets what is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The whole interval of every target lies within its limit.
    Meets,
    /// The whole interval of some target lies beyond its limit.
    Misses,
    /// Neither: its error is larger than the distance to the limit.
    Unsure,
}

impl Verdict {
    /// In a table.
    pub fn word(self) -> &'static str {
        match self {
            Self::Meets => "meets",
            Self::Misses => "misses",
            Self::Unsure => "unsure",
        }
    }
}

impl Reading {
    /// The interval against the limit.
    pub(super) fn verdict(&self) -> Verdict {
        let scale = Scale::of(&self.metric, self.limit);
        let [low, high] = self.interval.map(|value| scale.beyond(value));
        match (low.max(high) <= 0.0, low.min(high) > 0.0) {
            (true, _) => Verdict::Meets,
            (_, true) => Verdict::Misses,
            _ => Verdict::Unsure,
        }
    }

    /// Whether it meets the limit as if the model were exact: the interval over seeds.
    pub(super) fn meets_by_seeds(&self) -> bool {
        let bounds = self.by_seeds.unwrap_or([self.mean; 2]);
        let scale = Scale::of(&self.metric, self.limit);
        bounds.iter().all(|bound| scale.beyond(*bound) <= 0.0)
    }
}

/// What readings are taken by.
pub(super) struct Reader<'a> {
    pub(super) targets: &'a [MetricTarget],
    pub(super) trust: &'a Trust,
    pub(super) confidence: f64,
    /// All seeds there are.
    pub(super) seeds: usize,
}

/// A target's metric in parts of its limit: 0 is at the limit, above is beyond.
pub(super) struct Beyond {
    /// One for each seed.
    pub(super) per_seed: Vec<f64>,
    pub(super) mean: f64,
    /// How much worse, and how much better, the model's error may make it.
    pub(super) model: [f64; 2],
}

impl Reader<'_> {
    /// Every target in parts of its limit; `None` of a fleet whose numbers say nothing
    /// about its targets: requests were not served, or it does not keep up.
    pub(super) fn beyond(
        &self,
        settings: &Settings,
        point: &Point,
        curves: Option<&LatencyCurves>,
    ) -> Option<Vec<Beyond>> {
        if is_no_answer(self.targets, point) {
            return None;
        }
        self.targets.iter().map(|target| self.of_target(settings, target, point, curves)).collect()
    }

    fn of_target(
        &self,
        settings: &Settings,
        target: &MetricTarget,
        point: &Point,
        curves: Option<&LatencyCurves>,
    ) -> Option<Beyond> {
        let values = &point.metrics.get(&target.metric)?.per_seed;
        let scale = target.scale();
        let per_seed: Vec<f64> =
            values.iter().flatten().map(|value| scale.beyond(*value)).collect();
        let mean = stats::mean(&per_seed)?;
        let model = self.model(settings, &target.metric, scale.value_at(mean), point, curves);
        let model = model.map(|by| by / scale.part);
        Some(Beyond { per_seed, mean, model })
    }

    /// How much worse and how much better a value may be by the model's error.
    fn model(
        &self,
        settings: &Settings,
        metric: &str,
        value: f64,
        point: &Point,
        curves: Option<&LatencyCurves>,
    ) -> [f64; 2] {
        let reach = |metric: &str| {
            let error = self.trust.of_metric(settings, metric)?;
            Some(normal_quantile(self.confidence) * error.sd())
        };
        // Of the rate of requests the share that counts is wrong by as much of itself.
        let of_share = |by: f64| {
            let share = point.metrics.get("slo_attainment").and_then(|metric| metric.mean);
            share.filter(|share| *share > 0.0).map_or(value, |share| value * by / share)
        };
        match metric {
            "slo_attainment" => attained(settings.slo, curves, &reach),
            "goodput_per_s" => {
                let [worse, better] = attained(settings.slo, curves, &reach).map(of_share);
                [worse.min(value), better]
            }
            "hit_ratio" => [reach(metric).unwrap_or(0.0); 2],
            _ => {
                let reach = reach(metric).unwrap_or(0.0);
                around(reach, sign(metric)).map(|by| by * value.abs())
            }
        }
    }

    /// The error that stands for a target, for people.
    fn error_of(&self, settings: &Settings, metric: &str) -> Option<ModelError> {
        let metric = match metric {
            "slo_attainment" | "goodput_per_s" => {
                let slo = settings.slo?;
                if slo.ttft.is_some() { "ttft_ms_p95" } else { "itl_ms_p95" }
            }
            metric => metric,
        };
        self.trust.of_metric(settings, metric)
    }

    /// Readings of every target, for people.
    pub(super) fn readings(
        &self,
        settings: &Settings,
        point: &Point,
        curves: Option<&LatencyCurves>,
    ) -> Vec<Reading> {
        let reading = |target: &MetricTarget| {
            let found = self.of_target(settings, target, point, curves)?;
            let scale = target.scale();
            let value = |beyond: f64| scale.value_at(beyond);
            let chance = Estimate::of(&found.per_seed).and_then(|e| e.interval(self.confidence));
            let half = chance.map_or(0.0, |[low, high]| (high - low) / 2.0);
            let [worse, better] = found.model.map(|by| by.hypot(half));
            let bounds = |[low, high]: [f64; 2]| {
                let (a, b) = (value(low), value(high));
                let [low, high] = [a.min(b), a.max(b)];
                // Times and shares end at 0, shares at 1 too.
                let most = if Metric::of(&target.metric).is_ratio() { 1.0 } else { f64::INFINITY };
                [low.clamp(0.0, most), high.clamp(0.0, most)]
            };
            Some(Reading {
                metric: target.metric.clone(),
                limit: target.limit,
                mean: value(found.mean),
                interval: bounds([found.mean - better, found.mean + worse]),
                by_seeds: chance.map(bounds),
                model_error: self.error_of(settings, &target.metric),
            })
        };
        self.targets.iter().filter_map(reading).collect()
    }

    /// The bound of a target as expected with all seeds, and how far it may move until then.
    pub(super) fn expected(&self, beyond: &Beyond, spread: Option<f64>) -> (f64, f64) {
        let (n, all) = (beyond.per_seed.len(), self.seeds);
        let own = Estimate::of(&beyond.per_seed).filter(|_| n >= all);
        let half = match own {
            Some(estimate) => {
                estimate.interval(self.confidence).map_or(0.0, |[low, high]| (high - low) / 2.0)
            }
            None if all > 1 => {
                let t = stats::t_quantile(self.confidence, (all - 1) as f64);
                t * spread.unwrap_or(FIRST_SPREAD) / (all as f64).sqrt()
            }
            None => 0.0,
        };
        let missing = 1.0 / n.max(1) as f64 - 1.0 / all as f64;
        let doubt = normal_quantile(self.confidence)
            * spread.unwrap_or(FIRST_SPREAD)
            * missing.max(0.0).sqrt();
        (beyond.mean + beyond.model[0].hypot(half), doubt)
    }
}

/// Whether the numbers of a point say nothing about its targets: requests were not served
/// and no target speaks of that, or the backlog grows for as long as it runs.
fn is_no_answer(targets: &[MetricTarget], point: &Point) -> bool {
    let state = State::of(point);
    hides_unserved(targets, point)
        || state == State::Saturated
        || state >= State::Overloaded && grows(point)
        || state == State::NothingServed
}

/// Whether requests come faster than they are served. A state worse than saturated says
/// nothing of that.
fn grows(point: &Point) -> bool {
    let growth = point.metrics.get("backlog_growth_ratio").and_then(|metric| metric.mean);
    growth.is_some_and(|growth| growth >= GROWTH)
}

/// How much worse and how much better than its prediction a value may be, in parts of the
/// prediction, if errors reach so far. They are shares of what is measured
/// (prediction / measured - 1), so that a value lies between prediction / (1 + reach) and
/// prediction / (1 - reach). `sign` is 1 where less is better.
fn around(reach: f64, sign: f64) -> [f64; 2] {
    let reach = reach.min(MOST_REACH);
    let (more, less) = (reach / (1.0 - reach), reach / (1.0 + reach));
    if sign > 0.0 { [more, less] } else { [less, more] }
}

/// How much smaller, and how much larger, the share that meets the limits may be if times
/// are longer, or shorter, by their reach.
fn attained(
    slo: Option<SloSettings>,
    curves: Option<&LatencyCurves>,
    reach: &dyn Fn(&str) -> Option<f64>,
) -> [f64; 2] {
    let Some((slo, curves)) = slo.zip(curves) else { return [0.0; 2] };
    let limits = [("ttft_ms", "ttft_ms_p95", slo.ttft), ("itl_ms", "itl_ms_p95", slo.itl)];
    let mut by = [0.0; 2];
    for (curve, metric, limit) in limits {
        let Some(((limit, curve), reach)) = limit.zip(curves.get(curve)).zip(reach(metric)) else {
            continue;
        };
        let limit = limit.as_millis();
        let at = |limit: f64| share_within(&curve.mean, limit);
        // What is predicted lies between measured * (1 - reach) and measured * (1 + reach).
        by[0] += at(limit) - at(limit * (1.0 - reach.min(MOST_REACH)));
        by[1] += at(limit * (1.0 + reach)) - at(limit);
    }
    by
}

/// The share of requests that take at most so long, by the quantiles of a curve.
fn share_within(curve: &[f64], limit: f64) -> f64 {
    let above = curve.iter().position(|value| *value > limit);
    match above {
        Some(0) => SHARES[0] * (limit / curve[0]).clamp(0.0, 1.0),
        Some(at) => {
            let (from, to) = (curve[at - 1], curve[at]);
            let part = if to > from { (limit - from) / (to - from) } else { 1.0 };
            SHARES[at - 1] + part * (SHARES[at] - SHARES[at - 1])
        }
        None => 1.0,
    }
}

/// How many standard deviations on either side hold so much of a normal distribution.
fn normal_quantile(confidence: f64) -> f64 {
    Normal::standard().inverse_cdf((1.0 + confidence) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_follow_the_curve() {
        let curve: Vec<f64> = SHARES.iter().map(|share| 1_000.0 * share).collect();
        for limit in [50.0, 123.0, 500.0, 940.0] {
            let share = share_within(&curve, limit);
            assert!((share - limit / 1_000.0).abs() < 1e-9, "{limit}: {share}");
        }
        assert_eq!(share_within(&curve, 2_000.0), 1.0);
        assert!(share_within(&curve, 5.0) < 0.01);
    }

    #[test]
    fn errors_are_shares_of_what_is_measured() {
        let [worse, better] = around(0.5, 1.0);
        // 100 ms are predicted of 200 ms, and of 67 ms.
        assert!((worse - 1.0).abs() < 1e-12 && (better - 1.0 / 3.0).abs() < 1e-12);
        assert_eq!(around(0.5, -1.0), [better, worse], "where more is better");
        let [widest, _] = around(3.0, 1.0);
        assert!((widest - 19.0).abs() < 1e-9, "{widest}");
    }

    fn point(metrics: &[(&str, f64)]) -> Point {
        let mut builder = crate::report::example::Builder::new("one", 1);
        let values: Vec<(&str, [Option<f64>; 1])> =
            metrics.iter().map(|(name, value)| (*name, [Some(*value)])).collect();
        let metrics: Vec<(&str, &[Option<f64>])> =
            values.iter().map(|(name, values)| (*name, values.as_slice())).collect();
        builder.load("kv", 60, &metrics);
        builder.build().points.remove(0)
    }

    #[test]
    fn a_backlog_that_grows_is_no_answer_however_long_requests_wait() {
        let target = MetricTarget::parse("itl_ms_p95=40ms", 0.95).expect("a target");
        let waits = |growth: f64| {
            let waits = [("queue_ms_p50", 900.0), ("engine_ttft_ms_p50", 1_000.0)];
            point(&[&waits[..], &[("backlog_growth_ratio", growth)]].concat())
        };
        assert_eq!(State::of(&waits(0.33)), State::Overloaded);
        assert!(is_no_answer(std::slice::from_ref(&target), &waits(0.33)));
        assert!(!is_no_answer(std::slice::from_ref(&target), &waits(0.01)), "a closed loop");
    }

    #[test]
    fn the_normal_distribution_is_the_usual_one() {
        assert!((normal_quantile(0.95) - 1.96).abs() < 1e-3);
    }

    fn reading(metric: &str, limit: f64, interval: [f64; 2]) -> Reading {
        Reading {
            metric: metric.to_owned(),
            limit,
            mean: (interval[0] + interval[1]) / 2.0,
            interval,
            by_seeds: None,
            model_error: None,
        }
    }

    #[test]
    fn a_verdict_needs_the_whole_interval() {
        let ttft = |interval| reading("ttft_ms_p95", 600.0, interval).verdict();
        assert_eq!(ttft([400.0, 600.0]), Verdict::Meets);
        assert_eq!(ttft([500.0, 700.0]), Verdict::Unsure);
        assert_eq!(ttft([601.0, 700.0]), Verdict::Misses);
        let share = |interval| reading("slo_attainment", 0.95, interval).verdict();
        assert_eq!(share([0.95, 1.0]), Verdict::Meets);
        assert_eq!(share([0.8, 0.9]), Verdict::Misses);
    }
}
