//! A curve over time that a rate of arrivals follows: ramps, stages, the hours of a day.
//!
//! A process with such a rate is one at a constant rate by a clock of its own, which runs
//! as fast as the curve is high: the time by that clock is the area under the curve.

use super::distribution::Quantity;
use crate::settings::Invalid;
use crate::time::SimDuration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Most points of a curve (assumed: a week by minutes).
const MAX_POINTS: usize = 10_080;
/// The highest value (assumed: far above any use).
const MAX_VALUE: f64 = 1e6;

/// A curve as an experiment has it.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CurveSettings {
    /// Times in ascending order, the first of them `"0s"`, and the value at each.
    pub points: Vec<(SimDuration, f64)>,
    /// What holds between points.
    #[serde(default)]
    pub between: Between,
    /// After this time the curve begins again; without it the last value stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub period: Option<SimDuration>,
}

/// What a curve does between its points.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Between {
    /// Straight lines; with a period also from the last point to the first one after it.
    #[default]
    Lines,
    /// The value of the point before.
    Steps,
}

impl CurveSettings {
    /// Refuses what is no curve, or one under which nothing comes any more.
    ///
    /// # Errors
    /// The first unusable key.
    pub fn validate(&self) -> Result<(), Invalid> {
        let count = self.points.len();
        let allowed = format!("1 to {MAX_POINTS} points");
        let some = (1..=MAX_POINTS).contains(&count);
        Invalid::unless(some, "points", format!("{count} points"), &allowed)?;
        let mut before = None;
        for (place, &(at, value)) in self.points.iter().enumerate() {
            let key = format!("points[{place}]");
            let is_next = before.map_or(at.is_zero(), |before| at > before);
            let allowed = match before {
                None => "\"0s\", where every curve begins",
                Some(_) => "later than the point before",
            };
            Invalid::unless(is_next, &key, at.shown(), allowed)?;
            let allowed = format!("from 0 to {MAX_VALUE}");
            Invalid::unless((0.0..=MAX_VALUE).contains(&value), &key, value, &allowed)?;
            before = Some(at);
        }
        let (last_at, last) = self.points[count - 1];
        match self.period {
            Some(period) => {
                let allowed = format!("later than the last point, {}", last_at.shown());
                Invalid::unless(period > last_at, "period", period.shown(), &allowed)?;
                let some = self.points.iter().any(|(_, value)| *value > 0.0);
                Invalid::unless(some, "points", "all 0", "above 0 somewhere")
            }
            None => {
                let allowed = "above 0: the last value stays, unless a period is given";
                Invalid::unless(last > 0.0, &format!("points[{}]", count - 1), last, allowed)
            }
        }
    }

    /// Its mean over a period, or the value that stays.
    pub(super) fn mean(&self) -> f64 {
        let last = self.points.last().map_or(0.0, |(_, value)| *value);
        self.period.map_or(last, |period| Curve::new(self).total_s / period.as_secs())
    }

    /// Its value where it begins.
    pub(super) fn first(&self) -> f64 {
        self.points.first().map_or(0.0, |(_, value)| *value)
    }
}

/// A part of a curve that is straight.
#[derive(Clone, Copy, Debug)]
struct Part {
    begin_s: f64,
    /// The area before it.
    area_s: f64,
    value: f64,
    slope: f64,
}

/// Times by the clock of a process, for times of the run, and the other way round. Either
/// costs O(log n) in the number of points.
#[derive(Clone, Debug)]
pub(super) struct Curve {
    parts: Vec<Part>,
    period_s: Option<f64>,
    /// The area under a period.
    total_s: f64,
}

impl Curve {
    /// # Panics
    /// If `settings` have no points.
    pub(super) fn new(settings: &CurveSettings) -> Self {
        let period_s = settings.period.map(SimDuration::as_secs);
        let (_, first) = settings.points[0];
        let mut parts: Vec<Part> = Vec::with_capacity(settings.points.len());
        let mut area_s = 0.0;
        for (place, &(at, value)) in settings.points.iter().enumerate() {
            let begin_s = at.as_secs();
            let next = settings.points.get(place + 1).map(|(at, value)| (at.as_secs(), *value));
            let end = next.or(period_s.map(|period_s| (period_s, first)));
            let slope = match (settings.between, end) {
                (Between::Lines, Some((end_s, to))) => (to - value) / (end_s - begin_s),
                _ => 0.0,
            };
            let part = Part { begin_s, area_s, value, slope };
            parts.push(part);
            if let Some((end_s, _)) = end {
                area_s += part.area(end_s - begin_s);
            }
        }
        Self { parts, period_s, total_s: area_s }
    }

    /// The area under the curve up to `at_s`.
    pub(super) fn area(&self, at_s: f64) -> f64 {
        let (periods, at_s) = match self.period_s {
            Some(period_s) => ((at_s / period_s).floor(), at_s.rem_euclid(period_s)),
            None => (0.0, at_s),
        };
        let next = self.parts.partition_point(|part| part.begin_s <= at_s);
        let part = self.parts[next.saturating_sub(1)];
        periods * self.total_s + part.area_s + part.area(at_s - part.begin_s)
    }

    /// When the area under the curve is `area_s`.
    pub(super) fn time(&self, area_s: f64) -> f64 {
        let (begin_s, area_s) = match self.period_s {
            Some(period_s) => {
                let periods = (area_s / self.total_s).floor();
                (periods * period_s, area_s - periods * self.total_s)
            }
            None => (0.0, area_s),
        };
        // Of parts without an area the last one: what comes, comes after them.
        let next = self.parts.partition_point(|part| part.area_s <= area_s);
        let part = self.parts[next.saturating_sub(1)];
        begin_s + part.begin_s + part.time(area_s - part.area_s)
    }
}

impl Part {
    fn area(self, after_s: f64) -> f64 {
        after_s * (self.value + self.slope * after_s / 2.0)
    }

    /// When, after its beginning, its area is `area_s`: the root of a parabola in the form
    /// that loses no digits.
    fn time(self, area_s: f64) -> f64 {
        if area_s <= 0.0 {
            return 0.0;
        }
        let root = (self.value * self.value + 2.0 * self.slope * area_s).max(0.0).sqrt();
        2.0 * area_s / (self.value + root)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn curve(points: &[(u32, u32)], between: Between, period_s: Option<u32>) -> CurveSettings {
        let seconds = |s: u32| SimDuration::from_secs(s.into());
        let points = points.iter().map(|&(at, value)| (seconds(at), f64::from(value))).collect();
        CurveSettings { points, between, period: period_s.map(seconds) }
    }

    proptest! {
        /// Against a sum over small steps; and both directions undo each other.
        #[test]
        fn areas_are_those_of_a_sum(
            gaps in prop::collection::vec((1..9_u32, 0..5_u32), 1..6),
            is_steps in any::<bool>(),
            repeats in any::<bool>(),
            at in 0..40_u32,
        ) {
            let mut at_s = 0;
            let mut points: Vec<(u32, u32)> = Vec::new();
            for (gap, value) in gaps {
                points.push((at_s, value));
                at_s += gap;
            }
            points.last_mut().unwrap().1 += 1;
            let between = if is_steps { Between::Steps } else { Between::Lines };
            let settings = curve(&points, between, repeats.then_some(at_s));
            prop_assert!(settings.validate().is_ok());
            let value = |t: f64| -> f64 {
                let t = if repeats { t % f64::from(at_s) } else { t };
                let next = points.iter().position(|(at, _)| f64::from(*at) > t);
                let (from, before) = points[next.unwrap_or(points.len()) - 1];
                let (to, after) = match next {
                    Some(next) => points[next],
                    None if repeats => (at_s, points[0].1),
                    None => (from + 1, before),
                };
                let share = (t - f64::from(from)) / f64::from(to - from);
                let rise = f64::from(after) - f64::from(before);
                f64::from(before) + if is_steps { 0.0 } else { share * rise }
            };
            let sum: f64 = (0..at * 100).map(|i| value((f64::from(i) + 0.5) / 100.0) / 100.0).sum();
            let curve = Curve::new(&settings);
            let area = curve.area(f64::from(at));
            prop_assert!((area - sum).abs() < 1e-6 * sum.max(1.0), "{area} and {sum}");
            let back = curve.area(curve.time(area));
            prop_assert!((area - back).abs() < 1e-9 * area.max(1.0), "{area} and {back}");
        }
    }

    #[test]
    fn unusable_curves_are_named() {
        for (points, period, key) in [
            (&[][..], None, "points"),
            (&[(1, 1)], None, "points[0]"),
            (&[(0, 1), (0, 2)], None, "points[1]"),
            (&[(0, 1), (5, 0)], None, "points[1]"),
            (&[(0, 1), (5, 2)], Some(5), "period"),
            (&[(0, 0), (5, 0)], Some(6), "points"),
            (&[(0, 2_000_000)], None, "points[0]"),
        ] {
            let invalid = curve(points, Between::Steps, period).validate().unwrap_err();
            assert_eq!(invalid.key, key, "{points:?}");
        }
    }
}
