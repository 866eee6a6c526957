//! Experiments against the published results of the same deployments.

use super::AccuracyError;
use super::errors::Errors;
use super::record::Record;
use super::settings::Published;
use crate::experiment::{Experiment, LoadOptions, RunOptions, run};
use crate::metrics::Metric;
use crate::report::judge::published::{Cell, Comparison, MeanError};
use crate::report::view::View;
use crate::report::view::published;

/// The errors of one experiment in what was published.
#[derive(Clone, Debug)]
pub(super) struct PublishedErrors {
    pub(super) experiment: String,
    pub(super) seeds: usize,
    /// What was fitted to those results and what was not.
    pub(super) note: String,
    /// The name of the axis, empty without one.
    pub(super) axis: String,
    /// Its values for which something was published.
    pub(super) xs: Vec<f64>,
    /// One for each metric and series.
    pub(super) rows: Vec<PublishedRow>,
}

/// One metric of one series.
#[derive(Clone, Debug)]
pub(super) struct PublishedRow {
    pub(super) metric: String,
    pub(super) series: String,
    /// By value of the axis: the error, in percent or percentage points, and whether it
    /// counts.
    pub(super) cells: Vec<Option<(f64, bool)>>,
    /// Over the cells that count.
    pub(super) mean: Option<MeanError>,
}

impl PublishedErrors {
    /// Runs an experiment and compares every published cell.
    ///
    /// # Errors
    /// If it cannot be run, or has nothing published to be held against.
    pub(super) fn new(of: &Published) -> Result<Self, AccuracyError> {
        let experiment = Experiment::load(&of.file, &LoadOptions::default())?;
        let unpublished = || AccuracyError::Unpublished { file: of.file.clone() };
        let table = published::Published::of(&experiment)?.ok_or_else(unpublished)?;
        let summary = run(&experiment, RunOptions::default())?.summary;
        let view = View::new(&summary, None).expect("no axis was asked for");
        let comparison = Comparison::new(&view, &table);
        if comparison.is_empty() {
            return Err(unpublished());
        }
        // Values of the axis that nothing was published for would be empty columns.
        let is_published = |x: &&f64| comparison.cells.iter().any(|cell| cell.x == **x);
        let xs: Vec<f64> = view.xs().iter().filter(is_published).copied().collect();
        let rows = rows(&comparison, &xs);
        Ok(Self {
            experiment: experiment.name,
            seeds: summary.provenance.seeds.len(),
            note: of.note.clone(),
            axis: view.axis.as_ref().map_or(String::new(), |axis| axis.name().to_owned()),
            xs,
            rows,
        })
    }

    pub(super) fn enter(&self, record: &mut Record) {
        for PublishedRow { metric, series, mean, .. } in &self.rows {
            if let Some(mean) = mean {
                let errors = std::iter::repeat_n(mean.mean_abs_error, mean.cells);
                let key = format!("published, {}, {series}, {metric}", self.experiment);
                record.add(&key, &errors.collect::<Errors>());
            }
        }
    }
}

fn rows(comparison: &Comparison<'_>, xs: &[f64]) -> Vec<PublishedRow> {
    let mut rows = Vec::new();
    for name in &comparison.published.metrics {
        for (series, of) in comparison.view.series.iter().enumerate() {
            let is_of = |cell: &Cell| cell.series == series && cell.metric == *name;
            if !comparison.cells.iter().any(is_of) {
                continue;
            }
            let cell = |x: &f64| {
                let cell = comparison.cell(series, *x, name)?;
                cell.error().map(|error| (error, cell.uncounted.is_none()))
            };
            rows.push(PublishedRow {
                metric: Metric::of(name).label.clone(),
                series: of.label.clone(),
                cells: xs.iter().map(cell).collect(),
                mean: comparison.mean_error(series, name),
            });
        }
    }
    rows
}
