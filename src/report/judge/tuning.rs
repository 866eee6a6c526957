//! What a sweep says about settings: which is best, how sure that is, what a near
//! miss costs, which settings meet the targets, and which ones nothing else beats
//! in everything at once.
//!
//! Swept keys of `[router]` and `[engine]` are settings, to be chosen. Those of
//! load, fleet and targets are conditions: settings are compared with each other
//! under each combination of them, paired by seed.

use super::answer::Difference;
use super::state::State;
use crate::experiment::results::{Point, Summary};
use crate::metrics::{Better, Metric, directed, full_name};
use crate::report::view::{POLICY, number, same};
use crate::settings::Invalid;
use crate::stats::Estimate;
use serde_json::Value;
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// Sections whose keys are given, not chosen.
const CONDITIONS: [&str; 4] = ["cluster", "workload", "measure", "slo"];

/// What the Pareto front weighs against the metric that is tuned for.
const AGAINST: [&str; 2] = ["hit_ratio", "inflight_spread_mean"];

/// A swept key and its values, ascending where they are numbers.
#[derive(Clone, Debug)]
pub struct Key<'a> {
    /// Dotted key.
    pub name: &'a str,
    /// All values that occur, at least two.
    pub values: Vec<&'a Value>,
}

impl Key<'_> {
    /// The last part of the name.
    pub fn short_name(&self) -> &str {
        self.name.rsplit('.').next().unwrap_or(self.name)
    }

    /// Place of a point's value among the values.
    pub fn index(&self, point: &Point) -> Option<usize> {
        let value = point.params.get(self.name)?;
        self.values.iter().position(|other| same(other, value))
    }

    fn is_setting(&self) -> bool {
        let section = self.name.split('.').next().unwrap_or_default();
        !CONDITIONS.contains(&section)
    }

    /// True if the value of one says that of the other at all points: the same key,
    /// or one that was swept with it pair by pair.
    fn goes_with(&self, other: &Self, points: &[&Point]) -> bool {
        let mut to = vec![None; self.values.len()];
        let mut from = vec![None; other.values.len()];
        points.iter().all(|point| match (self.index(point), other.index(point)) {
            (Some(a), Some(b)) => *to[a].get_or_insert(b) == b && *from[b].get_or_insert(a) == a,
            _ => false,
        })
    }

    fn is_number(&self) -> bool {
        self.values.iter().all(|value| number(value).is_some())
    }
}

/// A result set seen as a search for the best setting.
#[derive(Clone, Debug)]
pub struct Tuning<'a> {
    /// The result set.
    pub summary: &'a Summary,
    /// What is tuned for.
    pub metric: Metric,
    /// The swept settings.
    pub settings: Vec<Key<'a>>,
    /// What else was swept.
    pub conditions: Vec<Key<'a>>,
    /// One entry per combination of conditions, in order of the points.
    pub cases: Vec<Case<'a>>,
}

/// All settings under one combination of conditions.
#[derive(Clone, Debug)]
pub struct Case<'a> {
    /// The points, one per setting.
    pub points: Vec<&'a Point>,
    /// Places of the settings that differ in what they do: of those with the same
    /// results under the same policy the first.
    pub distinct: Vec<usize>,
    /// Place of the one with the best mean; `None` if none has a value.
    pub best: Option<usize>,
    /// Places of those that the seeds cannot tell from the best: 95 % confidence
    /// for all comparisons together (Bonferroni).
    pub equals: Vec<usize>,
    /// The settings one step away from the best on one key.
    pub steps: Vec<Step<'a>>,
    /// Places of the points that no other beats in all of [`Tuning::goals`].
    pub front: Vec<usize>,
}

/// A near miss: one step away from the best.
#[derive(Clone, Debug)]
pub struct Step<'a> {
    /// The key that is wrong.
    pub key: &'a str,
    /// Its value.
    pub value: &'a Value,
    /// What that costs against the best.
    pub difference: Difference,
}

impl<'a> Tuning<'a> {
    /// Looks for the best `metric`.
    ///
    /// # Errors
    /// If no point has the metric, or neither direction of it is better.
    pub fn new(summary: &'a Summary, metric: &str) -> Result<Self, Invalid> {
        let (metric, better) = directed("best", full_name(metric))?;
        let has = |point: &Point| point.metrics.get(&metric.name).is_some_and(|m| m.mean.is_some());
        if !summary.points.iter().any(has) {
            return Err(Invalid::new("best", &metric.name, "a metric that these results have"));
        }
        let (settings, conditions) = keys(summary).into_iter().partition(Key::is_setting);
        let mut tuning = Self { summary, metric, settings, conditions, cases: Vec::new() };
        let mut groups: Vec<(Vec<Option<usize>>, Vec<&Point>)> = Vec::new();
        for point in &summary.points {
            let place: Vec<_> = tuning.conditions.iter().map(|key| key.index(point)).collect();
            match groups.iter_mut().find(|(known, _)| *known == place) {
                Some((_, points)) => points.push(point),
                None => groups.push((place, vec![point])),
            }
        }
        tuning.cases = groups.into_iter().map(|(_, points)| tuning.case(points, better)).collect();
        Ok(tuning)
    }

    /// What the Pareto front weighs: the metric, and those of hit ratio and
    /// in-flight spread that the results have.
    pub fn goals(&self) -> Vec<Metric> {
        let has = |name: &&str| {
            self.summary
                .points
                .iter()
                .any(|p| p.metrics.get(*name).is_some_and(|m| m.mean.is_some()))
        };
        let others = AGAINST.iter().copied().filter(|name| *name != self.metric.name).filter(has);
        std::iter::once(self.metric.clone()).chain(others.map(Metric::of)).collect()
    }

    fn case(&self, points: Vec<&'a Point>, better: Better) -> Case<'a> {
        let mean = |point: &Point| point.metrics.get(&self.metric.name).and_then(|m| m.mean);
        let order = |a: f64, b: f64| match better {
            Better::Lower => a.total_cmp(&b),
            Better::Higher => b.total_cmp(&a),
        };
        let distinct = distinct(&points);
        // Who turns requests away is quick: such settings are best only among their like.
        let serves = |place: &usize| State::of(points[*place]) < State::Unserved;
        let is_measured = |place: &usize| mean(points[*place]).is_some();
        let any_serves = distinct.iter().any(|place| serves(place) && is_measured(place));
        let best = distinct
            .iter()
            .copied()
            .filter(|place| !any_serves || serves(place))
            .filter_map(|place| Some((place, mean(points[place])?)))
            // The first of equals: a sum over seeds that agree in all has no noise.
            .min_by(|a, b| order(a.1, b.1))
            .map(|(place, _)| place);
        let equals = best.map(|best| self.equals(&points, &distinct, best)).unwrap_or_default();
        let steps = best.map(|best| self.steps(&points, best)).unwrap_or_default();
        let mut front = front(&points, &self.goals());
        front.retain(|place| distinct.contains(place));
        Case { points, distinct, best, equals, steps, front }
    }

    fn equals(&self, points: &[&Point], distinct: &[usize], best: usize) -> Vec<usize> {
        let others = distinct.len().saturating_sub(1).max(1) as f64;
        let is_equal = |place: &usize| {
            let pairs = pairs(points[*place], points[best], &self.metric.name);
            let difference = Estimate::of(&pairs);
            let interval = difference.and_then(|d| d.interval(1.0 - 0.05 / others));
            interval.is_some_and(|[low, high]| low <= 0.0 && high >= 0.0)
        };
        distinct.iter().copied().filter(|place| *place != best).filter(is_equal).collect()
    }

    fn steps(&self, points: &[&'a Point], best: usize) -> Vec<Step<'a>> {
        let best = points[best];
        let mut steps = Vec::new();
        for key in self.settings.iter().filter(|key| key.is_number()) {
            let others: Vec<&Key<'_>> =
                self.settings.iter().filter(|other| !key.goes_with(other, points)).collect();
            let Some(at) = key.index(best) else { continue };
            for to in [at.checked_sub(1), Some(at + 1)].into_iter().flatten() {
                let is_step = |point: &&&Point| {
                    key.index(point) == Some(to)
                        && !is_twin(point, best)
                        && others.iter().all(|other| other.index(point) == other.index(best))
                };
                let sides = points.iter().find(is_step).and_then(|point| {
                    let metric = |p: &'a Point| p.metrics.get(&self.metric.name);
                    Difference::new(&self.metric, metric(point)?, metric(best)?)
                });
                if let Some(difference) = sides {
                    steps.push(Step { key: key.name, value: key.values[to], difference });
                }
            }
        }
        steps
    }

    /// The settings of which a point has the first or the last of three values or
    /// more. Nothing lies below 0.
    pub(in crate::report) fn edges(
        &self,
        case: &Case<'_>,
        best: &Point,
    ) -> Vec<(&Key<'a>, &'a Value, &'static str)> {
        let edge = |key: &'_ Key<'a>| {
            let at = key.index(best)?;
            let value = key.values[at];
            let is_zero = number(value).is_some_and(|(value, _)| value == 0.0);
            match at {
                _ if !key.is_number() || key.values.len() < 3 => None,
                0 if !is_zero => Some((value, "smallest")),
                at if at + 1 == key.values.len() => Some((value, "largest")),
                _ => None,
            }
        };
        let found = self.settings.iter().filter(|key| matters(key, case, best));
        found.filter_map(|key| edge(key).map(|(value, which)| (key, value, which))).collect()
    }
}

/// The keys that do not have the same value everywhere, by name.
fn keys(summary: &Summary) -> Vec<Key<'_>> {
    let Some(first) = summary.points.first() else { return Vec::new() };
    let mut keys: Vec<Key<'_>> = Vec::new();
    for name in first.params.keys() {
        let mut values: Vec<&Value> = Vec::new();
        for value in summary.points.iter().filter_map(|point| point.params.get(name)) {
            if !values.iter().any(|known| same(known, value)) {
                values.push(value);
            }
        }
        values.sort_by(|a, b| match (number(a), number(b)) {
            (Some((a, _)), Some((b, _))) => a.total_cmp(&b),
            _ => Ordering::Equal,
        });
        if values.len() > 1 {
            keys.push(Key { name, values });
        }
    }
    keys
}

/// False of a key that changes nothing at a point: another value gives its twin.
pub(in crate::report) fn matters(key: &Key<'_>, case: &Case<'_>, point: &Point) -> bool {
    let mut twins = case.points.iter().filter(|twin| is_twin(twin, point));
    twins.all(|twin| key.index(twin) == key.index(point))
}

/// True if two points have the same policy and the same results: they differ in
/// nothing that it looks at.
fn is_twin(a: &Point, b: &Point) -> bool {
    a.params.get(POLICY) == b.params.get(POLICY) && a.metrics == b.metrics
}

/// Places of the first of every set of twins.
fn distinct(points: &[&Point]) -> Vec<usize> {
    // Twins agree in all means; few others do.
    let mut known: BTreeMap<Vec<Option<u64>>, Vec<usize>> = BTreeMap::new();
    let mut is_first = |place: &usize| {
        let means = points[*place].metrics.values().map(|metric| metric.mean.map(f64::to_bits));
        let alike = known.entry(means.collect()).or_default();
        let is_first = !alike.iter().any(|earlier| is_twin(points[*earlier], points[*place]));
        if is_first {
            alike.push(*place);
        }
        is_first
    };
    (0..points.len()).filter(|place| is_first(place)).collect()
}

/// Differences between two points seed by seed, where both have a value.
fn pairs(a: &Point, b: &Point, metric: &str) -> Vec<f64> {
    let of =
        |point: &Point| point.metrics.get(metric).map(|m| m.per_seed.clone()).unwrap_or_default();
    of(a).iter().zip(of(b)).filter_map(|(a, b)| Some((*a)? - b?)).collect()
}

/// Places of the points that no other equals in all goals and beats in one.
fn front(points: &[&Point], goals: &[Metric]) -> Vec<usize> {
    // Lower is better in all of these.
    let scores: Vec<Option<Vec<f64>>> = points
        .iter()
        .map(|point| {
            let score = |goal: &Metric| {
                let mean = point.metrics.get(&goal.name)?.mean?;
                Some(if goal.better == Some(Better::Higher) { -mean } else { mean })
            };
            goals.iter().map(score).collect()
        })
        .collect();
    let beats = |a: &[f64], b: &[f64]| {
        a.iter().zip(b).all(|(a, b)| a <= b) && a.iter().zip(b).any(|(a, b)| a < b)
    };
    (0..points.len())
        .filter(|place| {
            let own = scores[*place].as_deref();
            own.is_some_and(|own| !scores.iter().flatten().any(|other| beats(other, own)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::example::{self, Builder};
    use crate::report::judge::terms::Terms;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn a_metric_without_direction_cannot_be_tuned_for() {
        let summary = example::surface();
        let refused = |metric: &str| Tuning::new(&summary, metric).unwrap_err().to_string();
        assert!(refused("queue_ms_p95").contains("that these results have"));
        assert!(refused("tfft_ms_p95").contains("the nearest one is `ttft_ms_p95`"));
    }

    proptest! {
        /// Whatever is left out of the front is beaten by something on it.
        #[test]
        fn the_front_beats_all_the_rest(
            goals in prop::collection::vec((0u8..5, 0u8..5, 0u8..5), 1..12)
        ) {
            let mut builder = Builder::new("front", 1);
            for (i, (ttft, hits, spread)) in goals.iter().enumerate() {
                builder.point(
                    &[(POLICY, json!("kv")), ("router.overlap_weight", json!(i))],
                    &[
                        ("ttft_ms_p95", &[Some(f64::from(*ttft))]),
                        ("hit_ratio", &[Some(f64::from(*hits) / 5.0)]),
                        ("inflight_spread_mean", &[Some(f64::from(*spread))]),
                    ],
                );
            }
            let summary = builder.build();
            let tuning = Tuning::new(&summary, "ttft_ms_p95").unwrap();
            let front = &tuning.cases[0].front;
            let dominates = |a: usize, b: usize| {
                let ((t, h, s), (u, i, r)) = (goals[a], goals[b]);
                t <= u && h >= i && s <= r && goals[a] != goals[b]
            };
            prop_assert!(!front.is_empty());
            for place in 0..goals.len() {
                let beaten = front.iter().any(|on| dominates(*on, place));
                let is_twin = goals[..place].contains(&goals[place]);
                prop_assert_eq!(beaten || is_twin, !front.contains(&place));
            }
            let best = tuning.cases[0].best.unwrap();
            prop_assert!(goals.iter().all(|other| other.0 >= goals[best].0));
        }

        #[test]
        fn no_result_set_makes_it_panic(summary in example::any_summary()) {
            for metric in ["ttft_ms_p95", "hit_ratio"] {
                if let Ok(tuning) = Tuning::new(&summary, metric) {
                    let points: usize = tuning.cases.iter().map(|case| case.points.len()).sum();
                    prop_assert_eq!(points, summary.points.len());
                    tuning.report(&Terms::default(), 80);
                }
            }
        }
    }
}
