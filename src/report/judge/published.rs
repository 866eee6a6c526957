//! A simulation held against published numbers, cell by cell.

use crate::metrics::Metric;
use crate::report::view::View;
use crate::report::view::published::Published;
use crate::stats::mean_ci95;

/// One published number and what the simulation found.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell {
    /// Place of the series in [`View::series`].
    pub series: usize,
    /// Value on the axis.
    pub x: f64,
    /// Name of the metric.
    pub metric: String,
    /// What was published.
    pub published: f64,
    /// Mean over the seeds, if the simulation has one.
    pub simulated: Option<f64>,
    /// Place in [`Published::uncounted`] of the entry that keeps this cell out of the mean errors.
    pub uncounted: Option<usize>,
}

impl Cell {
    /// Simulated minus published: percent of the published value, or
    /// percentage points for ratios.
    pub fn error(&self) -> Option<f64> {
        Metric::of(&self.metric).difference(self.simulated?, self.published)
    }
}

/// Mean absolute error of one metric of one series.
#[derive(Clone, Debug, PartialEq)]
pub struct MeanError {
    /// Percent, or percentage points for ratios.
    pub mean_abs_error: f64,
    /// How many cells count.
    pub cells: usize,
}

/// Everything published that the simulation has a point for.
#[derive(Clone, Debug)]
pub struct Comparison<'a> {
    /// The result set.
    pub view: &'a View<'a>,
    /// The published table.
    pub published: &'a Published,
    /// By series, value on the axis, and metric in the order of the published columns.
    pub cells: Vec<Cell>,
}

impl<'a> Comparison<'a> {
    /// Pairs every point with its published row. A row needs all its parameters
    /// in the point; rows and points without a partner are left out.
    pub fn new(view: &'a View<'a>, published: &'a Published) -> Self {
        let mut cells = Vec::new();
        for (series, s) in view.series.iter().enumerate() {
            for (x, point) in &s.points {
                let Some(row) = published.row(&point.params) else { continue };
                for metric in &published.metrics {
                    let Some(value) = row.metrics.get(metric) else { continue };
                    cells.push(Cell {
                        series,
                        x: *x,
                        metric: metric.clone(),
                        published: *value,
                        simulated: point.metrics.get(metric).and_then(|m| m.mean),
                        uncounted: published.uncounted(row, metric),
                    });
                }
            }
        }
        Self { view, published, cells }
    }

    /// True if no point of the result set has a published row.
    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    /// The cell of a series and metric at `x`.
    pub fn cell(&self, series: usize, x: f64, metric: &str) -> Option<&Cell> {
        self.cells.iter().find(|c| c.series == series && c.x == x && c.metric == metric)
    }

    /// Mean absolute error of `metric` in a series over the cells that count;
    /// `None` if none does.
    pub fn mean_error(&self, series: usize, metric: &str) -> Option<MeanError> {
        let cells: Vec<&Cell> =
            self.cells.iter().filter(|c| c.series == series && c.metric == metric).collect();
        let single = cells.iter().filter(|c| c.uncounted.is_none()).filter_map(|c| c.error());
        let pooled = (0..self.published.uncounted.len())
            .filter(|i| self.published.uncounted[*i].mean_counts)
            .filter_map(|i| error_of_means(&cells, i));
        let errors: Vec<f64> = single.chain(pooled).map(f64::abs).collect();
        let (mean_abs_error, _) = mean_ci95(&errors)?;
        Some(MeanError { mean_abs_error, cells: errors.len() })
    }
}

/// Error of the mean over the cells that entry `uncounted` covers, taken over
/// those that both sides have.
fn error_of_means(cells: &[&Cell], uncounted: usize) -> Option<f64> {
    let pairs: Vec<(&Cell, f64)> = cells
        .iter()
        .filter(|c| c.uncounted == Some(uncounted))
        .filter_map(|c| c.simulated.map(|simulated| (*c, simulated)))
        .collect();
    let metric = Metric::of(&pairs.first()?.0.metric);
    let n = pairs.len() as f64;
    let simulated: f64 = pairs.iter().map(|(_, simulated)| simulated).sum();
    let published: f64 = pairs.iter().map(|(cell, _)| cell.published).sum();
    metric.difference(simulated / n, published / n)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::example::{self, Builder};

    /// Every published value of the DOKS table, scaled.
    fn scaled(factor: f64) -> crate::experiment::results::Summary {
        let mut builder = Builder::new("scaled", 1);
        for row in example::doks_published().rows {
            let load = row.params["workload.concurrency"].as_u64().unwrap();
            let values: Vec<(&str, [Option<f64>; 1])> =
                row.metrics.iter().map(|(k, v)| (k.as_str(), [Some(v * factor)])).collect();
            let metrics: Vec<(&str, &[Option<f64>])> =
                values.iter().map(|(k, v)| (*k, v.as_slice())).collect();
            let policy = row.params["router.policy"].as_str().unwrap();
            builder.load(policy, u32::try_from(load).unwrap(), &metrics);
        }
        builder.build()
    }

    #[test]
    fn a_uniform_error_is_the_mean_error_of_every_metric() {
        let published = example::doks_published();
        let summary = scaled(0.9);
        let view = View::new(&summary, None).unwrap();
        let comparison = Comparison::new(&view, &published);
        assert_eq!(comparison.cells.len(), 14 * 9);
        for (series, metric) in [(0, "ttft_ms_p50"), (0, "itl_ms_p95"), (1, "e2e_ms_p50")] {
            let error = comparison.mean_error(series, metric).unwrap();
            assert!((error.mean_abs_error - 10.0).abs() < 1e-9, "{error:?}");
        }
        // Hit ratios differ in points: a tenth of the mean published one.
        let hits = comparison.mean_error(0, "hit_ratio").unwrap();
        assert!((hits.mean_abs_error - 8.783).abs() < 1e-3, "{hits:?}");
    }

    #[test]
    fn uncounted_cells_are_shown_and_do_not_count() {
        let published = example::doks_published();
        let summary = scaled(1.0);
        let view = View::new(&summary, None).unwrap();
        let comparison = Comparison::new(&view, &published);
        let cells = |series, metric| comparison.mean_error(series, metric).unwrap().cells;
        assert_eq!(cells(0, "ttft_ms_p95"), 6); // without 60
        assert_eq!(cells(0, "e2e_ms_p50"), 5); // without 80 and 100
        assert_eq!(cells(0, "hit_ratio"), 1); // the mean of seven
        assert_eq!(cells(1, "hit_ratio"), 5); // without 60 and 140
        assert_eq!(cells(1, "requests_per_s"), 6); // without 120
        let cell = comparison.cell(1, 140.0, "ttft_ms_p95").unwrap();
        assert!(cell.uncounted.is_some());
        assert_eq!(cell.error(), Some(0.0));
    }

    #[test]
    fn points_without_a_row_are_left_out() {
        let published = example::doks_published();
        let mut builder = Builder::new("other", 1);
        builder.load("kv", 61, &[("ttft_ms_p50", &[Some(1.0)])]);
        builder.load("kv", 60, &[("ttft_ms_p50", &[None])]);
        let summary = builder.build();
        let view = View::new(&summary, None).unwrap();
        let comparison = Comparison::new(&view, &published);
        assert!(comparison.cells.iter().all(|c| c.x == 60.0 && c.simulated.is_none()));
        assert_eq!(comparison.mean_error(0, "ttft_ms_p50"), None);
    }
}
