//! What a sweep says about settings, in words and tables.

use super::answer::cautions;
use super::columns::{Column, table, wrap};
use crate::experiment::results::Point;
use crate::metrics::{Better, rounded, short};
use crate::report::judge::state::{State, in_table};
use crate::report::judge::terms::Terms;
use crate::report::judge::tuning::{Case, Key, Tuning, matters};
use crate::report::view::{POLICY, View, plain};
use comfy_table::CellAlignment;
use std::fmt::Write;

/// Settings that meet the targets and are named.
const MOST_NAMED: usize = 5;

/// Rows of the Pareto front that are printed; figures mark all of it.
const MOST_ROWS: usize = 20;

impl Tuning<'_> {
    /// The conditions of a case: `concurrency 120, workers 3`; empty without any.
    pub fn conditions_of(&self, case: &Case<'_>) -> String {
        case.points.first().map_or(String::new(), |point| values(&self.conditions, point))
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

/// The values of some keys at a point: `overlap_weight 1, temperature 0`; a
/// policy is its own name.
fn values(keys: &[Key<'_>], point: &Point) -> String {
    let one = |key: &Key<'_>| {
        let value = point.params.get(key.name).map(plain)?;
        Some(if key.name == POLICY { value } else { format!("{} {value}", key.short_name()) })
    };
    keys.iter().filter_map(one).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::example::{Builder, surface};
    use serde_json::json;

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
}
