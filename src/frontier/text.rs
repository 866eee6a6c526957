//! A frontier as text for a terminal.

use super::{Answer, Direction, Evaluated, Frontier, Limit, LoadRange, Question};
use crate::metrics::{Metric, rounded, short};
use crate::report::judge::state::{RULE, in_table};
use crate::report::render::columns::{Column, table, wrap};
use comfy_table::CellAlignment;
use std::fmt::Write;

impl Frontier {
    /// What has to be known first, the answers in sentences, then every load that was
    /// simulated, for a terminal `width` columns wide.
    pub fn report(&self, cautions: &[String], width: usize) -> String {
        let mut text = format!(
            "{}: loads {} to {} ({}), {}; sim {}\n\n",
            self.experiment,
            self.loads.from,
            self.loads.to,
            self.loads.key,
            match self.seeds.len() {
                1 => "1 seed: nothing is tested against chance".to_owned(),
                n => format!("{n} seeds"),
            },
            self.version,
        );
        for caution in cautions {
            text.push_str(&wrap(caution, width));
            text.push('\n');
        }
        for answer in &self.answers {
            text.push_str(&wrap(&self.sentence(answer), width));
        }
        if let Some(most) = self.most() {
            text.push_str(&wrap(&most, width));
        }
        let _ = writeln!(text, "\n{}", self.table());
        text.push('\n');
        text.push_str(&wrap(RULE, width));
        text
    }

    /// Which of three settings or more carries the most load within the targets, or
    /// needs the least.
    pub(super) fn most(&self) -> Option<String> {
        let of_targets = self.answers.iter().filter(|answer| answer.question.has_targets());
        let all: Vec<&Answer> = of_targets.collect();
        // Only what is asked the same can be ranked.
        if all.iter().any(|answer| answer.question.targets() != all[0].question.targets()) {
            return None;
        }
        if all.len() < 3 {
            return None;
        }
        let carried = |limit: Limit| match limit {
            Limit::Nowhere => f64::NEG_INFINITY,
            Limit::UpTo(load) => load,
            Limit::From(value) => -value,
            Limit::Everywhere => f64::INFINITY,
        };
        let best = all.iter().copied().max_by(|a, b| {
            // Of equals the first.
            carried(a.limit).total_cmp(&carried(b.limit)).then(std::cmp::Ordering::Greater)
        })?;
        if best.limit == Limit::Nowhere {
            return Some(format!("None of {} meets the targets anywhere.", all.len()));
        }
        let name = best.question.sides().join("");
        let mut text = match best.limit {
            Limit::From(_) => format!("Of {} settings, {name} needs the least:", all.len()),
            _ => format!("Of {} settings, {name} carries the most:", all.len()),
        };
        text += &self.limit(best);
        // As good as the best: its interval reaches the lower end of the best one's.
        if let Some([low, _]) = best.interval {
            let reaches = |other: &&&Answer| {
                let high = other.interval.map_or(other.limit, |[_, high]| high);
                !std::ptr::eq(**other, best) && carried(high) >= carried(low)
            };
            let others = all.iter().filter(reaches).count();
            text += &format!("; {others} of {} others may be as good", all.len() - 1);
        }
        Some(text + ".")
    }

    /// `kv beats round_robin on TTFT p95 up to concurrency 157 (95 %: 149 to 163).`
    pub(super) fn sentence(&self, answer: &Answer) -> String {
        let mut text = match &answer.question {
            Question::Beats { candidate, baseline, metric } => {
                format!("{candidate} beats {baseline} on {}", Metric::of(metric).label)
            }
            Question::Meets { policy, targets } => {
                let targets: Vec<String> = targets.iter().map(ToString::to_string).collect();
                format!("{policy} meets {}", targets.join(" and "))
            }
        };
        text += &self.limit(answer);
        if let Some(metric) = &answer.fails {
            let then = if answer.direction == Direction::From { "below that" } else { "then" };
            let is_target = answer.question.metrics().contains(&metric.as_str());
            text += &match is_target {
                true => format!("; {then} {} fails", Metric::of(metric).label),
                false => format!("; {then} requests are not served"),
            };
        }
        if !answer.exceptions.is_empty() {
            let loads: Vec<String> = answer.exceptions.iter().map(f64::to_string).collect();
            text += &format!("; it does not hold at {} either", loads.join(", "));
        }
        if let Some(load) = answer.not_compared_from {
            let name = self.loads.name();
            text += &format!("; from {name} {load} on neither keeps up, and a lead says little");
        }
        text + "."
    }

    /// ` up to concurrency 157 (95 %: 149 to 163)`, ` from workers 2 on`.
    fn limit(&self, answer: &Answer) -> String {
        let (name, LoadRange { from, to, .. }) = (self.loads.name(), &self.loads);
        let is_from = answer.direction == Direction::From;
        let mut text = match answer.limit {
            Limit::Nowhere => {
                format!(" nowhere: not even at {name} {}", if is_from { to } else { from })
            }
            Limit::UpTo(load) => format!(" up to {name} {load}"),
            Limit::From(value) => format!(" from {name} {value} on"),
            Limit::Everywhere if is_from => {
                format!(" with {name} {from} already, the smallest tried")
            }
            Limit::Everywhere => format!(" up to {name} {to} at least, the largest tried"),
        };
        if let Some(mut bounds) = answer.interval {
            if is_from {
                bounds.reverse();
            }
            let bound = |limit: Limit| match limit {
                Limit::Nowhere if is_from => format!("above {to}"),
                Limit::Nowhere => format!("below {from}"),
                Limit::UpTo(load) | Limit::From(load) => load.to_string(),
                Limit::Everywhere if is_from => format!("at most {from}"),
                Limit::Everywhere => format!("above {to}"),
            };
            text += &match bounds.map(bound) {
                [low, high] if low == high => format!(" (95 %: {low})"),
                [low, high] => format!(" (95 %: {low} to {high})"),
            };
        }
        text
    }

    fn table(&self) -> String {
        let mut metrics: Vec<Metric> = Vec::new();
        for name in self.answers.iter().flat_map(|answer| answer.question.metrics()) {
            if !metrics.iter().any(|metric| metric.name == name) {
                metrics.push(Metric::of(name));
            }
        }
        let column = |head: &str, cell: &dyn Fn(&Evaluated) -> String| {
            Column::new(vec![head.to_owned()], self.points.iter().map(cell).collect())
        };
        let mut columns = vec![column(self.loads.name(), &|point| point.load.to_string())];
        for (head, cell) in [
            (
                "policy",
                &(|point: &Evaluated| point.policy.clone()) as &dyn Fn(&Evaluated) -> String,
            ),
            ("state", &|point: &Evaluated| in_table(&point.point)),
        ] {
            let mut column = column(head, cell);
            column.alignment = CellAlignment::Left;
            columns.push(column);
        }
        for metric in &metrics {
            columns.push(column(&metric.with_unit(), &|point| cell(metric, point)));
        }
        table(&columns.iter().collect::<Vec<_>>())
    }
}

/// `483 (470 to 496)`.
fn cell(metric: &Metric, evaluated: &Evaluated) -> String {
    let Some(found) = evaluated.point.metrics.get(&metric.name) else { return "-".to_owned() };
    let Some(mean) = found.mean.map(|mean| metric.shown(mean)) else { return "-".to_owned() };
    let Some(bounds) = found.ci95.map(|bounds| bounds.map(|b| metric.shown(b))) else {
        return short(mean);
    };
    let show = rounded(mean, (bounds[1] - bounds[0]) / 2.0);
    // The interval of a mean may reach below zero; nothing measured can.
    format!("{} ({} to {})", show(mean), show(bounds[0].max(0.0)), show(bounds[1]))
}
