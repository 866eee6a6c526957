//! Experiments against the published results of the same deployments.

use super::AccuracyError;
use super::errors::Errors;
use super::gains::PublishedGains;
use super::record::Record;
use super::settings::{Prediction, Published};
use crate::catalogue;
use crate::experiment::results::Summary;
use crate::experiment::{Experiment, LoadOptions, RunOptions, run};
use crate::metrics::Metric;
use crate::report::judge::published::{Cell, Comparison, MeanError};
use crate::report::view::View;
use crate::report::view::published;
use std::path::PathBuf;

/// The errors of one experiment in what was published.
#[derive(Clone, Debug)]
pub(super) struct PublishedErrors {
    pub(super) experiment: String,
    pub(super) seeds: usize,
    /// Of a run that was kept: whether its results were known when it was made.
    pub(super) kept_known: Option<bool>,
    /// What was fitted to those results and what was not.
    pub(super) note: String,
    /// The name of the axis, empty without one.
    pub(super) axis: String,
    /// Its values for which something was published.
    pub(super) xs: Vec<f64>,
    /// One for each metric and series.
    pub(super) rows: Vec<PublishedRow>,
    /// What one of its policies wins over another, where that is asked for.
    pub(super) gains: Option<PublishedGains>,
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
        let unpublished = || AccuracyError::Unpublished { file: of.file.clone() };
        let (summary, table) = match &of.prediction {
            Some(prediction) => kept(prediction)?,
            None => {
                let experiment = Experiment::load(&of.file, &LoadOptions::default())?;
                let table = published::Published::of(&experiment)?.ok_or_else(unpublished)?;
                (run(&experiment, RunOptions::default())?.summary, table)
            }
        };
        let view = View::new(&summary, None).expect("no axis was asked for");
        let comparison = Comparison::new(&view, &table);
        if comparison.is_empty() {
            return Err(unpublished());
        }
        // Values of the axis that nothing was published for would be empty columns.
        let is_published = |x: &&f64| comparison.cells.iter().any(|cell| cell.x == **x);
        let xs: Vec<f64> = view.xs().iter().filter(is_published).copied().collect();
        let rows = rows(&comparison, &xs);
        let experiment = summary.provenance.experiment.clone();
        let gains = of.gain.as_ref().map(|settings| {
            PublishedGains::new(&experiment, &comparison, settings).ok_or_else(unpublished)
        });
        Ok(Self {
            experiment,
            seeds: summary.provenance.seeds.len(),
            kept_known: of.prediction.as_ref().map(|prediction| prediction.known),
            gains: gains.transpose()?,
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
        self.gains.iter().for_each(|gains| gains.enter(record));
    }
}

/// A prediction as it was kept, and what it is held against.
fn kept(prediction: &Prediction) -> Result<(Summary, published::Published), AccuracyError> {
    let Prediction { summary: path, published, .. } = prediction;
    let read = |path: &PathBuf| {
        catalogue::read_text(path)
            .map_err(|source| AccuracyError::Io { path: path.clone(), source })
    };
    let summary = serde_json::from_str(&read(path)?).map_err(|error| AccuracyError::Row {
        path: path.clone(),
        line: error.line() as u64,
        problem: error.to_string(),
    })?;
    Ok((summary, published::Published::parse(&read(published)?, published, &[])?))
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
