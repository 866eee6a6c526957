//! What a sweep says about settings: which is best, how sure that is, what a near
//! miss costs, which settings meet the targets, and which ones nothing else beats
//! in everything at once.
//!
//! Swept keys of `[router]` and `[engine]` are settings, to be chosen. Those of
//! load, fleet and targets are conditions: settings are compared with each other
//! under each combination of them, paired by seed.

use super::answer::{Difference, cautions};
use super::state::{State, in_table};
use super::terms::Terms;
use crate::experiment::results::{Point, Summary};
use crate::metrics::{Better, Metric, directed, full_name, rounded, short};
use crate::report::render::columns::{Column, table, wrap};
use crate::report::view::{POLICY, View, number, plain, same};
use crate::settings::Invalid;
use crate::stats::Estimate;
use comfy_table::CellAlignment;
use serde_json::Value;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Sections whose keys are given, not chosen.
const CONDITIONS: [&str; 4] = ["cluster", "workload", "measure", "slo"];

/// What the Pareto front weighs against the metric that is tuned for.
const AGAINST: [&str; 2] = ["hit_ratio", "inflight_spread_mean"];

/// Settings that meet the targets and are named.
const MOST_NAMED: usize = 5;

/// Rows of the Pareto front that are printed; figures mark all of it.
const MOST_ROWS: usize = 20;

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

    /// The conditions of a case: `concurrency 120, workers 3`; empty without any.
    pub fn conditions_of(&self, case: &Case<'_>) -> String {
        case.points.first().map_or(String::new(), |point| values(&self.conditions, point))
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

    /// The whole report as text for a terminal `width` columns wide.
    pub fn report(&self, terms: &Terms, width: usize) -> String {
        let mut text = String::new();
        for caution in self.cautions(terms) {
            text.push_str(&wrap(&caution, width));
        }
        if !text.is_empty() {
            text.push('\n');
        }
        for case in &self.cases {
            for sentence in self.sentences(case, terms) {
                text.push_str(&wrap(&sentence, width));
            }
            text.push('\n');
        }
        if let Some(head) = self.front_head() {
            text.push_str(&wrap(&head, width));
            for case in &self.cases {
                let place = self.conditions_of(case);
                if !place.is_empty() {
                    let _ = write!(text, "\nat {place}");
                }
                let (columns, left_out) = self.front_columns(case);
                let _ = writeln!(text, "\n{}", table(&columns.iter().collect::<Vec<_>>()));
                if left_out > 0 {
                    let _ = writeln!(text, "and {left_out} more");
                }
            }
        }
        text
    }

    /// What has to be known before the rest is read.
    pub fn cautions(&self, terms: &Terms) -> Vec<String> {
        View::new(self.summary, None).map(|view| cautions(&view, terms)).unwrap_or_default()
    }

    /// What is said of a case: the best setting, what a near miss costs, which
    /// settings meet the targets.
    pub fn sentences(&self, case: &Case<'_>, terms: &Terms) -> Vec<String> {
        let more = [self.costs(case), self.meeting(case, terms)];
        std::iter::once(self.verdict(case)).chain(more.into_iter().flatten()).collect()
    }

    fn verdict(&self, case: &Case<'_>) -> String {
        let place = match self.conditions_of(case) {
            place if place.is_empty() => String::new(),
            place => format!(" at {place}"),
        };
        let Some(best) = case.best else {
            return format!("No {} is known{place}.", self.metric.label);
        };
        let others = case.distinct.len() - 1;
        let state = match State::of(case.points[best]) {
            State::Stable => String::new(),
            _ => format!(" ({})", in_table(case.points[best])),
        };
        let mut text = format!(
            "Best {}{place}: {}{}{state}.",
            self.metric.label,
            self.value(case.points[best]),
            match self.setting(case, best) {
                setting if setting.is_empty() => String::new(),
                setting => format!(", with {setting}"),
            }
        );
        if others > 0 && self.summary.provenance.seeds.len() > 1 {
            let _ = write!(
                text,
                " {} of {others} other settings may be as good (paired by seed, 95 % for all \
                 comparisons together).",
                case.equals.len()
            );
        } else if others > 0 {
            text += " One seed: nothing is tested against chance.";
        }
        for (key, value, which) in self.edges(case, case.points[best]) {
            let _ = write!(
                text,
                " {} {} is the {which} value swept: the best may lie beyond it.",
                key.short_name(),
                plain(value)
            );
        }
        text
    }

    /// The settings of which a point has the first or the last of three values or
    /// more. Nothing lies below 0.
    fn edges(&self, case: &Case<'_>, best: &Point) -> Vec<(&Key<'a>, &'a Value, &'static str)> {
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

    /// Which settings meet the targets, the best first; `None` without targets.
    fn meeting(&self, case: &Case<'_>, terms: &Terms) -> Option<String> {
        let attained = |place: usize| case.points[place].metrics.get("slo_attainment")?.mean;
        let nearest = case
            .distinct
            .iter()
            .filter_map(|place| Some((attained(*place)?, *place)))
            .max_by(|a, b| a.0.total_cmp(&b.0))?;
        let target = terms.slo_text();
        let meets = |place: &&usize| terms.are_met_by(case.points[**place]);
        let mut meeting: Vec<usize> = case.distinct.iter().filter(meets).copied().collect();
        if meeting.is_empty() {
            return Some(format!(
                "No setting meets {target}; nearest is {}, {:.1} %.",
                self.setting(case, nearest.1),
                100.0 * nearest.0
            ));
        }
        let mean = |place: &usize| {
            let found = case.points[*place].metrics.get(&self.metric.name).and_then(|m| m.mean);
            let sign = if self.metric.better == Some(Better::Higher) { -1.0 } else { 1.0 };
            found.map_or(f64::INFINITY, |mean| sign * mean)
        };
        meeting.sort_by(|a, b| mean(a).total_cmp(&mean(b)));
        let names: Vec<String> =
            meeting.iter().take(MOST_NAMED).map(|place| self.setting(case, *place)).collect();
        let more = meeting.len().saturating_sub(MOST_NAMED);
        let more = if more > 0 { format!("; and {more} more") } else { String::new() };
        Some(format!(
            "{} of {} settings meet {target}, best {} first: {}{more}.",
            meeting.len(),
            case.distinct.len(),
            self.metric.label,
            names.join("; ")
        ))
    }

    /// The setting at a place, without the keys that change nothing there.
    fn setting(&self, case: &Case<'_>, place: usize) -> String {
        let point = case.points[place];
        let keys = self.settings.iter().filter(|key| matters(key, case, point));
        let keys: Vec<Key<'_>> = keys.cloned().collect();
        values(&keys, point)
    }

    /// What one step costs; `None` if there are no steps.
    fn costs(&self, case: &Case<'_>) -> Option<String> {
        let parts: Vec<String> = case
            .steps
            .iter()
            .map(|step| {
                let mark = if step.difference.clear == Some(false) { "~ " } else { "" };
                let key = step.key.rsplit('.').next().unwrap_or(step.key);
                let size = step.difference.text(&self.metric);
                format!("{key} {}: {mark}{size}", plain(step.value))
            })
            .collect();
        (!parts.is_empty()).then(|| format!("Cost of a near miss: {}.", parts.join("; ")))
    }

    /// `483 ms (95 %: 470 to 496)`.
    fn value(&self, point: &Point) -> String {
        let Some(found) = point.metrics.get(&self.metric.name) else { return "-".to_owned() };
        let Some(mean) = found.mean.map(|mean| self.metric.shown(mean)) else {
            return "-".to_owned();
        };
        let unit = self.metric.unit;
        let Some(bounds) = found.ci95.map(|bounds| bounds.map(|b| self.metric.shown(b))) else {
            return format!("{} {unit}", short(mean)).trim_end().to_owned();
        };
        let show = rounded(mean, (bounds[1] - bounds[0]) / 2.0);
        // The interval of a mean may reach below zero; nothing measured can.
        let [low, high] = [show(bounds[0].max(0.0)), show(bounds[1])];
        format!("{} (95 %: {low} to {high})", format!("{} {unit}", show(mean)).trim_end())
    }

    /// What the Pareto front is of; `None` if there is nothing to weigh.
    pub fn front_head(&self) -> Option<String> {
        let goals = self.goals();
        let names: Vec<&str> = goals.iter().map(|goal| goal.label.as_str()).collect();
        (goals.len() > 1 && !self.settings.is_empty()).then(|| {
            format!(
                "Pareto front of {}: settings that no other beats in all of them (by means; * is the \
                 best {}).",
                names.join(", "),
                self.metric.label
            )
        })
    }

    /// The Pareto front of a case, the best first, and how many of it are left out.
    pub(crate) fn front_columns(&self, case: &Case<'_>) -> (Vec<Column>, usize) {
        let mut shown = case.front.clone();
        let goal =
            |place: usize| case.points[place].metrics.get(&self.metric.name).and_then(|m| m.mean);
        shown.sort_by(|a, b| {
            let (a, b) = (goal(*a).unwrap_or(f64::NAN), goal(*b).unwrap_or(f64::NAN));
            if self.metric.better == Some(Better::Lower) {
                a.total_cmp(&b)
            } else {
                b.total_cmp(&a)
            }
        });
        let left_out = shown.len().saturating_sub(MOST_ROWS);
        shown.truncate(MOST_ROWS);
        let names = shown.iter().map(|place| {
            let mark = if case.best == Some(*place) { "*" } else { " " };
            format!("{mark} {}", self.setting(case, *place))
        });
        let mut columns = vec![Column::new(vec!["setting".to_owned()], names.collect())];
        columns[0].alignment = CellAlignment::Left;
        for goal in &self.goals() {
            let cells = shown.iter().map(|place| {
                let found = case.points[*place].metrics.get(&goal.name).and_then(|m| m.mean);
                found.map_or("-".to_owned(), |mean| short(goal.shown(mean)))
            });
            columns.push(Column::new(vec![goal.with_unit()], cells.collect()));
        }
        (columns, left_out)
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

/// The values of some keys at a point: `overlap_weight 1, temperature 0`; a
/// policy is its own name.
fn values(keys: &[Key<'_>], point: &Point) -> String {
    let one = |key: &Key<'_>| {
        let value = point.params.get(key.name).map(plain)?;
        Some(if key.name == POLICY { value } else { format!("{} {value}", key.short_name()) })
    };
    keys.iter().filter_map(one).collect::<Vec<_>>().join(", ")
}

/// False of a key that changes nothing at a point: another value gives its twin.
fn matters(key: &Key<'_>, case: &Case<'_>, point: &Point) -> bool {
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
    use proptest::prelude::*;
    use serde_json::json;

    /// TTFT p95 is lowest at weight 2 and temperature 0, hits fall with both.
    fn surface() -> Summary {
        let mut builder = Builder::new("surface", 3);
        for load in [60, 80] {
            for weight in [1, 2, 3] {
                for temperature in ["0.0", "0.5"] {
                    let t: f64 = temperature.parse().unwrap();
                    let base =
                        f64::from(load) + 10.0 * f64::from((weight - 2i32).pow(2)) + 40.0 * t;
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

    #[test]
    fn the_best_setting_and_the_cost_of_a_near_miss() {
        let summary = surface();
        let tuning = Tuning::new(&summary, "ttft_ms_p95").unwrap();
        insta::assert_snapshot!(tuning.report(&Terms::default(), 100), @r"
        Best TTFT p95 at concurrency 60: 61.2 ms (95 %: 58.0 to 64.3), with overlap_weight 2, temperature
          0.0. 0 of 5 other settings may be as good (paired by seed, 95 % for all comparisons together).
        Cost of a near miss: overlap_weight 1: +16 %; overlap_weight 3: +16 %; temperature 0.5: +34 %.

        Best TTFT p95 at concurrency 80: 81.2 ms (95 %: 78.0 to 84.3), with overlap_weight 2, temperature
          0.0. 0 of 5 other settings may be as good (paired by seed, 95 % for all comparisons together).
        Cost of a near miss: overlap_weight 1: +12 %; overlap_weight 3: +12 %; temperature 0.5: +25 %.

        Pareto front of TTFT p95, hit ratio: settings that no other beats in all of them (by means; * is the
          best TTFT p95).

        at concurrency 60
         setting                              TTFT p95 (ms)  hit ratio (%)
        ------------------------------------------------------------------
         * overlap_weight 2, temperature 0.0           61.2           70.0
           overlap_weight 1, temperature 0.0           71.2           80.0

        at concurrency 80
         setting                              TTFT p95 (ms)  hit ratio (%)
        ------------------------------------------------------------------
         * overlap_weight 2, temperature 0.0           81.2           70.0
           overlap_weight 1, temperature 0.0           91.2           80.0
        ");
    }

    #[test]
    fn a_best_setting_on_the_edge_of_its_grid_is_said_to_be_there() {
        let best_at = |best: i32| {
            let mut builder = Builder::new("edge", 2);
            for weight in [1, 2, 3] {
                let ttft = 100.0 + 10.0 * f64::from((weight - best).pow(2));
                builder.point(
                    &[(POLICY, json!("kv")), ("router.overlap_weight", json!(weight))],
                    &[
                        ("ttft_ms_p95", &[Some(ttft), Some(ttft + 1.0)]),
                        ("slo_attainment", &[Some(1.0 - ttft / 1e3); 2]),
                    ],
                );
            }
            let summary = builder.build();
            Tuning::new(&summary, "ttft_ms_p95").unwrap().report(&Terms::default(), 1000)
        };
        let beyond = "overlap_weight 3 is the largest value swept: the best may lie beyond it.";
        assert!(best_at(3).contains(beyond), "{}", best_at(3));
        assert!(!best_at(2).contains("value swept"), "{}", best_at(2));
        assert!(best_at(1).contains("overlap_weight 1 is the smallest value"), "{}", best_at(1));
        let nowhere = "No setting meets the targets, for 95 % of requests; nearest is overlap_weight 3, 90.0 %.";
        assert!(best_at(3).contains(nowhere), "{}", best_at(3));
    }

    #[test]
    fn a_metric_without_direction_cannot_be_tuned_for() {
        let summary = surface();
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
