//! All comparisons of one kind of measurement, as tables.

use super::data::{ServingRun, StepKind, Ttft};
use super::errors::Errors;
use super::record::Record;
use super::runs::Predicted;
use super::steps::Steps;
use std::collections::BTreeMap;
use std::fmt::Write;

/// A page of tables, and every error on it by name.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// Markdown.
    pub text: String,
    /// The errors.
    pub record: Record,
}

/// True for the half of a deployment's runs that host times were fitted to:
/// every other one, in the order of the source. Neighbours there differ in
/// load, so both halves have light and heavy ones.
fn is_fitted(index_in_deployment: usize) -> bool {
    index_in_deployment.is_multiple_of(2)
}

/// Runs with their places among those of their deployments.
pub fn halves(runs: &[ServingRun]) -> Vec<bool> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    runs.iter()
        .map(|run| {
            let count = seen.entry(run.deployment()).or_default();
            *count += 1;
            is_fitted(*count - 1)
        })
        .collect()
}

impl Page {
    /// Adds a paragraph.
    pub fn say(&mut self, paragraph: &str) {
        let _ = writeln!(self.text, "{paragraph}\n");
    }

    /// Steps: median and 95th percentile per deployment and kind.
    pub fn steps(&mut self, steps: &Steps) {
        /// Kind of step, whether measured, head of the column.
        const COLUMNS: [(StepKind, bool, &str); 5] = [
            (StepKind::Decode, true, "decode, measured"),
            (StepKind::Decode, false, "decode, composed"),
            (StepKind::Prefill, true, "prefill, measured"),
            (StepKind::Prefill, false, "prefill, composed"),
            (StepKind::Mixed, false, "mixed, composed"),
        ];
        let errors = steps.errors();
        let mut deployments: BTreeMap<String, [Vec<f64>; 5]> = BTreeMap::new();
        for (step, &error) in steps.rows.iter().zip(&errors) {
            let column = COLUMNS.iter().position(|&(k, m, _)| (k, m) == (step.kind, step.measured));
            let columns = deployments.entry(step.parts.to_string()).or_default();
            columns[column.expect("mixed steps are never measured")].push(error);
        }
        let mut table = Table::new(
            ["deployment".to_owned()]
                .into_iter()
                .chain(COLUMNS.iter().map(|(.., head)| (*head).to_owned())),
        );
        for (deployment, columns) in deployments {
            let mut cells = vec![deployment.clone()];
            for (column, (.., head)) in columns.into_iter().zip(COLUMNS) {
                let errors: Errors = column.into_iter().collect();
                cells.push(match (errors.quantile(0.5), errors.quantile(0.95)) {
                    (Some(median), Some(p95)) => {
                        self.record.add(&format!("step, {deployment}, {head}"), &errors);
                        format!("{median:.1} / {p95:.1} ({})", errors.count())
                    }
                    _ => String::new(),
                });
            }
            table.row(cells);
        }
        self.text.push_str(&table.markdown());
    }

    /// Serving runs: time per output token and time to first token per deployment.
    pub fn runs(&mut self, runs: &[ServingRun], predicted: &[Predicted]) {
        let halves = halves(runs);
        let rows = || runs.iter().zip(predicted).zip(&halves).map(|((r, p), &fit)| (r, p, fit));
        let names: std::collections::BTreeSet<String> =
            runs.iter().map(ServingRun::deployment).collect();
        let mut table = Table::new(
            [
                "deployment",
                "TPOT: runs",
                "error %",
                "bias %",
                "worst %",
                "fitted half %",
                "other half %",
                "TTFT: runs",
                "error %",
                "bias %",
            ]
            .map(str::to_owned),
        );
        let mut sum = |name: &str, all: bool| {
            let of = |run: &ServingRun| all || run.deployment() == name;
            let tpot = |half: Option<bool>| -> Errors {
                Errors::of(
                    rows()
                        .filter(|&(run, _, fit)| of(run) && half.is_none_or(|half| half == fit))
                        .map(|(run, predicted, _)| (predicted.tpot_ms, run.tpot_ms)),
                )
            };
            let ttft = Errors::of(
                rows()
                    .filter(|&(run, ..)| of(run) && run.ttft != Ttft::Suspect)
                    .map(|(run, predicted, _)| (predicted.ttft_ms, run.ttft_ms)),
            );
            let (every, fitted, other) = (tpot(None), tpot(Some(true)), tpot(Some(false)));
            self.record.add(&format!("run, {name}, TPOT"), &every);
            self.record.add(&format!("run, {name}, TPOT, other half"), &other);
            self.record.add(&format!("run, {name}, TTFT"), &ttft);
            table.row(vec![
                name.to_owned(),
                every.count().to_string(),
                shown(every.mean()),
                signed(every.bias()),
                shown(every.quantile(1.0)),
                shown(fitted.mean()),
                shown(other.mean()),
                ttft.count().to_string(),
                shown(ttft.mean()),
                signed(ttft.bias()),
            ]);
        };
        for name in &names {
            sum(name, false);
        }
        sum("all runs", true);
        self.text.push_str(&table.markdown());
    }

    /// Every serving run on a line.
    pub fn each_run(&mut self, runs: &[ServingRun], predicted: &[Predicted]) {
        let mut table = Table::new(
            [
                "run",
                "TPOT measured (ms)",
                "simulated",
                "error %",
                "TTFT measured (ms)",
                "simulated",
                "error %",
                "preemptions",
            ]
            .map(str::to_owned),
        );
        for (run, predicted) in runs.iter().zip(predicted) {
            let error =
                |predicted: f64, measured: f64| signed(Errors::of([(predicted, measured)]).bias());
            table.row(vec![
                run.to_string(),
                format!("{:.1}", run.tpot_ms),
                format!("{:.1}", predicted.tpot_ms),
                error(predicted.tpot_ms, run.tpot_ms),
                format!("{:.0}", run.ttft_ms),
                format!("{:.0}", predicted.ttft_ms),
                match run.ttft {
                    Ttft::Suspect => "not counted".to_owned(),
                    Ttft::Good | Ttft::Waves => error(predicted.ttft_ms, run.ttft_ms),
                },
                format!("{:.0}", predicted.preemptions),
            ]);
        }
        self.text.push_str(&table.markdown());
    }
}

pub(super) fn shown(value: Option<f64>) -> String {
    value.map_or(String::new(), |value| format!("{value:.1}"))
}

pub(super) fn signed(value: Option<f64>) -> String {
    value.map_or(String::new(), |value| format!("{value:+.1}"))
}

/// A table of Markdown, its columns as wide as their widest cells.
pub(super) struct Table(Vec<Vec<String>>);

impl Table {
    pub(super) fn new(head: impl IntoIterator<Item = String>) -> Self {
        Self(vec![head.into_iter().collect()])
    }

    pub(super) fn row(&mut self, cells: Vec<String>) {
        self.0.push(cells);
    }

    pub(super) fn markdown(&self) -> String {
        let columns = self.0[0].len();
        let width = |i: usize| self.0.iter().map(|row| row[i].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let line = |row: &[String]| {
            let cells = row.iter().zip(&widths).enumerate().map(|(i, (cell, &width))| match i {
                0 => format!(" {cell:<width$} "),
                _ => format!(" {cell:>width$} "),
            });
            format!("|{}|\n", cells.collect::<Vec<_>>().join("|"))
        };
        let rule = widths.iter().enumerate().map(|(i, &width)| match i {
            0 => "-".repeat(width + 2),
            _ => format!("{}:", "-".repeat(width + 1)),
        });
        let mut text = line(&self.0[0]);
        let _ = writeln!(text, "|{}|", rule.collect::<Vec<_>>().join("|"));
        for row in &self.0[1..] {
            text.push_str(&line(row));
        }
        text.push('\n');
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_align() {
        let mut table = Table::new(["a".to_owned(), "long".to_owned()]);
        table.row(vec!["first".to_owned(), "1".to_owned()]);
        assert_eq!(table.markdown(), "| a     | long |\n|-------|-----:|\n| first |    1 |\n\n");
    }
}
