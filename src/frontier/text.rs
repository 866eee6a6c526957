//! A frontier as text for a terminal.

use super::{Answer, Evaluated, Frontier, Limit, Question};
use crate::metrics::{Metric, short};
use crate::report::render::columns::{Column, table, wrap};
use comfy_table::CellAlignment;
use std::fmt::Write;

impl Frontier {
    /// The answers in sentences, then every load that was simulated, for a
    /// terminal `width` columns wide.
    pub fn report(&self, width: usize) -> String {
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
        for answer in &self.answers {
            text.push_str(&wrap(&self.sentence(answer), width));
        }
        let _ = writeln!(text, "\n{}", self.table());
        text.push('\n');
        text.push_str(&wrap(super::state::RULE, width));
        text
    }

    /// `kv beats round_robin on TTFT p95 up to concurrency 157 (95 %: 149 to 163).`
    fn sentence(&self, answer: &Answer) -> String {
        let mut text = match &answer.question {
            Question::Beats { candidate, baseline, metric } => {
                format!("{candidate} beats {baseline} on {}", Metric::of(metric).label)
            }
            Question::Meets { policy, targets } => {
                let targets: Vec<String> = targets.iter().map(ToString::to_string).collect();
                format!("{policy} meets {}", targets.join(" and "))
            }
        };
        let name = self.loads.name();
        text += &match answer.limit {
            Limit::Nowhere => format!(" nowhere: not even at {name} {}", self.loads.from),
            Limit::UpTo(load) => format!(" up to {name} {load}"),
            Limit::Everywhere => format!(" up to {name} {} at least", self.loads.to),
        };
        if let Some([low, high]) = answer.interval {
            let bound = |limit: Limit| match limit {
                Limit::Nowhere => format!("below {}", self.loads.from),
                Limit::UpTo(load) => load.to_string(),
                Limit::Everywhere => format!("above {}", self.loads.to),
            };
            text += &match (bound(low), bound(high)) {
                (low, high) if low == high => format!(" (95 %: {low})"),
                (low, high) => format!(" (95 %: {low} to {high})"),
            };
        }
        if let Some(metric) = &answer.fails {
            text += &format!("; then {} fails", Metric::of(metric).label);
        }
        if !answer.exceptions.is_empty() {
            let loads: Vec<String> = answer.exceptions.iter().map(f64::to_string).collect();
            text += &format!("; it does not hold at {} either", loads.join(", "));
        }
        if let Some(load) = answer.both_overloaded {
            text += &format!("; from {name} {load} on both are overloaded, and a lead says little");
        }
        text + "."
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
            ("state", &|point: &Evaluated| point.state.to_string()),
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
    let show = |value: f64| short(metric.shown(value));
    match (found.mean, found.ci95) {
        (None, _) => "-".to_owned(),
        (Some(mean), None) => show(mean),
        (Some(mean), Some([low, high])) => {
            format!("{} ({} to {})", show(mean), show(low), show(high))
        }
    }
}
