//! Experiments against the published results of the same deployments.

use super::AccuracyError;
use super::errors::Errors;
use super::report::{Page, Table, shown};
use super::settings::Published;
use crate::experiment::{Experiment, LoadOptions, RunOptions, run};
use crate::metrics::{Metric, signed};
use crate::report::judge::published::{Cell, Comparison};
use crate::report::view::View;
use crate::report::view::published;

impl Page {
    /// Runs an experiment and adds the error of every published cell.
    ///
    /// # Errors
    /// If it cannot be run, or has nothing published to be held against.
    pub(super) fn experiment(&mut self, published: &Published) -> Result<(), AccuracyError> {
        let experiment = Experiment::load(&published.file, &LoadOptions::default())?;
        let unpublished = || AccuracyError::Unpublished { file: published.file.clone() };
        let table = published::Published::of(&experiment)?.ok_or_else(unpublished)?;
        let summary = run(&experiment, RunOptions::default())?.summary;
        let view = View::new(&summary, None).expect("no axis was asked for");
        let comparison = Comparison::new(&view, &table);
        if comparison.is_empty() {
            return Err(unpublished());
        }
        self.say(&format!(
            "### {} ({})\n\n{}",
            experiment.name,
            match summary.provenance.seeds.len() {
                1 => "one seed".to_owned(),
                seeds => format!("mean of {seeds} seeds"),
            },
            published.note
        ));
        self.cells(&experiment.name, &comparison);
        Ok(())
    }

    /// A row per metric and series, a column per value on the axis.
    fn cells(&mut self, experiment: &str, comparison: &Comparison<'_>) {
        let view = comparison.view;
        let axis = view.axis.as_ref().map_or(String::new(), |axis| format!("{} ", axis.name()));
        // Values of the axis that nothing was published for would be empty columns.
        let is_published = |x: &&f64| comparison.cells.iter().any(|cell| cell.x == **x);
        let xs: Vec<f64> = view.xs().iter().filter(is_published).copied().collect();
        let head = ["metric".to_owned(), "policy".to_owned()];
        let levels = xs.iter().map(|x| format!("{axis}{x}"));
        let mut table = Table::new(
            head.into_iter().chain(levels).chain(["mean".to_owned(), "cells".to_owned()]),
        );
        for name in &comparison.published.metrics {
            let metric = Metric::of(name);
            for (series, of) in view.series.iter().enumerate() {
                let is_of = |cell: &Cell| cell.series == series && cell.metric == *name;
                if !comparison.cells.iter().any(is_of) {
                    continue;
                }
                let mean = comparison.mean_error(series, name);
                let mut row = vec![metric.label.clone(), of.label.clone()];
                row.extend(xs.iter().map(|&x| match comparison.cell(series, x, name) {
                    Some(cell) => {
                        let mark = if cell.uncounted.is_some() { "\\*" } else { "" };
                        cell.error().map_or(String::new(), |error| signed(error) + mark)
                    }
                    None => String::new(),
                }));
                row.push(shown(mean.as_ref().map(|mean| mean.mean_abs_error)));
                row.push(mean.as_ref().map_or(0, |mean| mean.cells).to_string());
                table.row(row);
                if let Some(mean) = mean {
                    let errors = std::iter::repeat_n(mean.mean_abs_error, mean.cells);
                    let key = format!("published, {experiment}, {}, {}", of.label, metric.label);
                    self.record.add(&key, &errors.collect::<Errors>());
                }
            }
        }
        self.text.push_str(&table.markdown());
    }
}
