//! One figure: title, legend, panels, footer.

use super::Sheet;
use super::canvas::{Canvas, Drawn, Medium, Script, Side, fitted, text_width};
use super::panel::{strike, whisker};
use super::scale::is_drawable;
use super::style::{Look, Marker, PAPER, PENCIL};
use crate::experiment::results::Provenance;
use crate::report::compare::Comparison;
use crate::report::metric::Metric;
use crate::report::view::{Axis, View};
use plotters::coord::Shift;
use plotters::drawing::DrawingArea;
use plotters::prelude::DrawingBackend;

/// Sizes in points.
pub(super) const MARGIN: f64 = 20.0;
const PANEL_WIDTH: u32 = 460;
pub(super) const PLOT_HEIGHT: f64 = 270.0;
pub(super) const BAR_HEIGHT: f64 = 26.0;
pub(super) const TITLE_SIZE: f64 = 16.0;
pub(super) const TEXT_SIZE: f64 = 12.0;
pub(super) const SMALL_SIZE: f64 = 11.0;
const LEGEND_ROW: f64 = 20.0;
const LEGEND_SAMPLE: f64 = 34.0;

/// A figure before it is drawn: one panel per metric.
pub(super) struct Drawing<'a> {
    pub(super) view: &'a View<'a>,
    comparison: Option<&'a Comparison<'a>>,
    metrics: Vec<Metric>,
    /// File name and title, where the metrics do not share a stem.
    named: Option<(&'static str, &'static str)>,
    legend: Vec<Vec<Entry>>,
}

/// One entry of the legend.
#[derive(Clone, Debug)]
struct Entry {
    label: String,
    sample: Sample,
}

#[derive(Clone, Copy, Debug)]
enum Sample {
    Series(usize),
    Band,
    Published,
    Uncounted,
}

/// A simulated value in a panel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shown {
    pub(super) x: f64,
    pub(super) mean: f64,
    pub(super) interval: Option<[f64; 2]>,
}

/// A published number in a panel.
pub(super) struct PublishedMark {
    pub(super) x: f64,
    pub(super) value: f64,
    pub(super) is_counted: bool,
}

impl<'a> Drawing<'a> {
    /// A figure of `metrics`, which share a stem.
    pub(super) fn new(
        view: &'a View<'a>,
        comparison: Option<&'a Comparison<'a>>,
        metrics: Vec<Metric>,
    ) -> Self {
        let mut drawing = Self { view, comparison, metrics, named: None, legend: Vec::new() };
        drawing.legend = drawing.legend_rows();
        drawing
    }

    /// A figure of metrics that do not share a stem, with a name of its own.
    pub(super) fn named(mut self, name: &'static str, title: &'static str) -> Self {
        self.named = Some((name, title));
        self
    }

    /// The stem of the metrics, or the figure's own name.
    pub(super) fn name(&self) -> String {
        if let Some((name, _)) = self.named {
            return name.to_owned();
        }
        self.metrics.first().map(|metric| metric.stem.clone()).unwrap_or_default()
    }
}

impl Sheet for Drawing<'_> {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a few thousand points at most for any result set that fits into memory"
    )]
    fn size(&self) -> (u32, u32) {
        let rows = self.metrics.len().div_ceil(self.columns()) as f64;
        let height = self.header_height() + rows * self.panel_height() + 30.0;
        (self.width(), height.ceil() as u32)
    }

    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>, medium: Medium) -> Drawn<B> {
        let canvas = Canvas { area, medium };
        let (width, height) = self.size();
        let (width, height) = (f64::from(width), f64::from(height));
        canvas.rectangle((0.0, 0.0), (width, height), PAPER, 1.0)?;
        let title = self.title(width - 2.0 * MARGIN);
        canvas.text(&title, (MARGIN, 24.0), Script::ink(TITLE_SIZE, Side::Left))?;
        self.draw_legend(&canvas)?;
        for (i, metric) in self.metrics.iter().enumerate() {
            let (row, column) = (i / self.columns(), i % self.columns());
            let left = column as f64 * f64::from(PANEL_WIDTH) + MARGIN;
            let top = self.header_height() + row as f64 * self.panel_height();
            match self.axis() {
                Some(axis) => self.draw_lines(&canvas, axis, metric, (left, top))?,
                None => self.draw_bars(&canvas, metric, (left, top))?,
            }
        }
        let footer = footer(&self.view.summary.provenance);
        let footer = fitted(&footer, SMALL_SIZE, width - 2.0 * MARGIN);
        canvas.text(&footer, (MARGIN, height - 16.0), Script::pencil(SMALL_SIZE, Side::Left))
    }
}

impl<'a> Drawing<'a> {
    /// The axis, if there is more than one value on it: lines need two, and at a
    /// single one everything would lie on top of everything else.
    fn axis(&self) -> Option<&'a Axis> {
        self.view.axis.as_ref().filter(|axis| axis.values.len() > 1)
    }

    /// The experiment, shortened if need be, and what is shown.
    fn title(&self, room: f64) -> String {
        let title = self.named.map(|(_, title)| title.to_owned());
        let mut what = title.or(self.metrics.first().map(Metric::title)).unwrap_or_default();
        if let (None, Some(axis)) = (self.axis(), &self.view.axis) {
            what += &format!(" at {} {}", axis.label(), self.first_x());
        }
        let what = fitted(&format!(": {what}"), TITLE_SIZE, room / 2.0);
        let experiment = &self.view.summary.provenance.experiment;
        let experiment = fitted(experiment, TITLE_SIZE, room - text_width(&what, TITLE_SIZE));
        experiment + &what
    }

    /// The value of the axis that bars are for.
    pub(super) fn first_x(&self) -> f64 {
        self.view.xs().first().copied().unwrap_or(0.0)
    }

    fn columns(&self) -> usize {
        self.metrics.len().clamp(1, 2)
    }

    fn width(&self) -> u32 {
        let columns = if self.metrics.len() > 1 { 2 } else { 1 };
        // A single panel is wider: titles and footers need the room.
        if columns == 1 { PANEL_WIDTH + 220 } else { 2 * PANEL_WIDTH + 20 }
    }

    pub(super) fn panel_width(&self) -> f64 {
        if self.metrics.len() > 1 { f64::from(PANEL_WIDTH) } else { f64::from(PANEL_WIDTH) + 200.0 }
    }

    fn header_height(&self) -> f64 {
        54.0 + self.legend.len() as f64 * LEGEND_ROW
    }

    fn panel_height(&self) -> f64 {
        // Above the plot its title, below it the ticks and what the axis is.
        match self.axis() {
            Some(_) => 30.0 + PLOT_HEIGHT + 54.0,
            None => 30.0 + self.view.series.len() as f64 * BAR_HEIGHT + 8.0 + 36.0,
        }
    }

    /// Entries, wrapped to the width of the figure.
    fn legend_rows(&self) -> Vec<Vec<Entry>> {
        let mut entries: Vec<Entry> = Vec::new();
        if self.axis().is_some() {
            let series = self.view.series.iter().enumerate();
            entries.extend(
                series.map(|(i, s)| Entry { label: s.label.clone(), sample: Sample::Series(i) }),
            );
        }
        let mut others = |label: &str, sample| {
            entries.push(Entry { label: label.to_owned(), sample });
        };
        if self.has_intervals() {
            others("95 % interval", Sample::Band);
        }
        let marks = || {
            let pairs = self
                .metrics
                .iter()
                .flat_map(|metric| (0..self.view.series.len()).map(move |series| (metric, series)));
            pairs.flat_map(|(metric, series)| self.published(metric, series))
        };
        if marks().any(|mark| mark.is_counted) {
            others("published", Sample::Published);
        }
        if marks().any(|mark| !mark.is_counted) {
            others("published, not counted", Sample::Uncounted);
        }
        let room = f64::from(self.width()) - 2.0 * MARGIN;
        let mut rows: Vec<Vec<Entry>> = Vec::new();
        let mut used = 0.0;
        for mut entry in entries {
            entry.label = fitted(&entry.label, TEXT_SIZE, room - LEGEND_SAMPLE);
            let width = entry_width(&entry);
            match rows.last_mut() {
                Some(row) if used + width <= room => row.push(entry),
                _ => {
                    used = 0.0;
                    rows.push(vec![entry]);
                }
            }
            used += width;
        }
        rows
    }

    fn draw_legend<B: DrawingBackend>(&self, canvas: &Canvas<'_, B>) -> Drawn<B> {
        for (i, row) in self.legend.iter().enumerate() {
            let y = 54.0 + i as f64 * LEGEND_ROW;
            let mut x = MARGIN;
            for entry in row {
                let middle = (x + 13.0, y);
                match entry.sample {
                    Sample::Series(series) => {
                        let look = Look::of(series);
                        canvas.line(&[(x, y), (x + 26.0, y)], look.color, 2.0, look.dash)?;
                        canvas.marker(middle, look.marker, look.color)?;
                    }
                    Sample::Band if self.axis().is_some() => {
                        canvas.rectangle((x, y - 6.0), (x + 26.0, y + 6.0), PENCIL, 0.25)?;
                    }
                    Sample::Band => whisker(canvas, x + 3.0, x + 23.0, y)?,
                    Sample::Published => canvas.hollow(middle, Marker::Circle, PENCIL)?,
                    Sample::Uncounted => {
                        canvas.hollow(middle, Marker::Circle, PENCIL)?;
                        strike(canvas, middle)?;
                    }
                }
                let script = Script::ink(TEXT_SIZE, Side::Left);
                canvas.text(&entry.label, (x + LEGEND_SAMPLE, y), script)?;
                x += entry_width(entry);
            }
        }
        Ok(())
    }

    /// Mean and interval as shown; `None` where there is nothing to draw.
    pub(super) fn value(&self, metric: &Metric, series: usize, x: f64) -> Option<Shown> {
        let found = self.view.series.get(series)?.metric(x, &metric.name)?;
        let mean = metric.shown(found.mean?);
        let interval = found.ci95.map(|bounds| bounds.map(|bound| metric.shown(bound)));
        let interval = interval.filter(|bounds| bounds.iter().all(|bound| is_drawable(*bound)));
        is_drawable(mean).then_some(Shown { x, mean, interval })
    }

    fn has_intervals(&self) -> bool {
        self.metrics.iter().any(|metric| {
            let pairs = (0..self.view.series.len())
                .flat_map(|series| self.view.xs().iter().map(move |x| (series, *x)));
            pairs
                .into_iter()
                .any(|(s, x)| self.value(metric, s, x).is_some_and(|v| v.interval.is_some()))
        })
    }

    pub(super) fn published(&self, metric: &Metric, series: usize) -> Vec<PublishedMark> {
        let Some(comparison) = self.comparison else { return Vec::new() };
        let cells = comparison.cells.iter();
        cells
            .filter(|cell| cell.series == series && cell.metric == metric.name)
            .map(|cell| PublishedMark {
                x: cell.x,
                value: metric.shown(cell.published),
                is_counted: cell.uncounted.is_none(),
            })
            .filter(|mark| is_drawable(mark.value))
            .collect()
    }

    /// Everything a panel's value axis has to hold.
    pub(super) fn all_values(&self, metric: &Metric) -> Vec<f64> {
        let mut values = Vec::new();
        for series in 0..self.view.series.len() {
            for x in self.view.xs() {
                let Some(Shown { mean, interval, .. }) = self.value(metric, series, *x) else {
                    continue;
                };
                values.push(mean);
                // The interval of a mean may reach beyond what the metric can be: below
                // zero, which would also keep the scale from being logarithmic.
                let most = if metric.is_ratio() && mean <= 100.0 { 100.0 } else { f64::INFINITY };
                let bounds = interval.into_iter().flatten();
                let possible = bounds.filter(|bound| mean < 0.0 || *bound > 0.0 || mean == 0.0);
                values.extend(possible.map(|bound| bound.min(most)));
            }
            values.extend(self.published(metric, series).iter().map(|mark| mark.value));
        }
        values
    }
}

/// What a figure says of where it comes from.
pub(super) fn footer(provenance: &Provenance) -> String {
    let seeds = match provenance.seeds.as_slice() {
        [seed] => format!("seed {seed}"),
        [first, .., last] => {
            format!("{} seeds ({first} to {last})", provenance.seeds.len())
        }
        [] => "no seeds".to_owned(),
    };
    let digest = provenance.digest.get(..12).unwrap_or(&provenance.digest);
    format!("{seeds} · digest {digest} · sim {}", provenance.version)
}

fn entry_width(entry: &Entry) -> f64 {
    // Fonts that stand in for the embedded one in an SVG are up to an eighth wider.
    LEGEND_SAMPLE + 1.12 * text_width(&entry.label, TEXT_SIZE) + 14.0
}
