//! One figure: title, legend, panels, footer.

use super::canvas::{Canvas, Drawn, Script, Side, fitted, text_width};
use super::legend::{Legend, Sample};
use super::scale::{ScaleKind, extent, is_drawable};
use super::sheet::{Form, NARROW, Sheet, time_unit};
use super::style::{MARGIN, SMALL_SIZE, TITLE_SIZE};
use crate::experiment::results::Provenance;
use crate::metrics::{Metric, rounded, short};
use crate::report::judge::published::Comparison;
use crate::report::view::{Axis, Series, View};
use plotters::prelude::DrawingBackend;
use std::collections::BTreeSet;

/// Sizes in points.
const PANEL_WIDTH: u32 = 460;
pub(super) const PLOT_HEIGHT: f64 = 270.0;
pub(super) const BAR_HEIGHT: f64 = 26.0;
/// Bands of more series hide each other (assumed).
const MOST_BANDS: usize = 4;
const LEGEND_TOP: f64 = 54.0;

/// A figure before it is drawn: one panel per metric.
pub(super) struct Drawing<'a> {
    pub(super) view: &'a View<'a>,
    comparison: Option<&'a Comparison<'a>>,
    metrics: Vec<Metric>,
    /// File name and title, where the metrics do not share a stem.
    named: Option<(&'static str, &'static str)>,
    /// The value of the axis to draw bars at, in place of lines along the axis.
    bars_at: Option<f64>,
    /// Targets by the stem of metrics, in their own unit.
    targets: &'a [(String, f64)],
    /// Stems of times that are shown in seconds.
    in_seconds: BTreeSet<String>,
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
        let (named, bars_at, in_seconds) = (None, None, BTreeSet::new());
        let mut drawing =
            Self { view, comparison, metrics, named, bars_at, targets: &[], in_seconds };
        drawing.choose_units();
        drawing
    }

    /// A figure of metrics that do not share a stem, with a name of its own.
    pub(super) fn named(mut self, name: &'static str, title: &'static str) -> Self {
        self.named = Some((name, title));
        self
    }

    /// Bars at `x` in place of lines along the axis.
    pub(super) fn bars_at(mut self, x: f64) -> Self {
        self.bars_at = Some(x);
        self.choose_units();
        self
    }

    /// With lines at targets, by the stem of metrics.
    pub(super) fn with_targets(mut self, targets: &'a [(String, f64)]) -> Self {
        self.targets = targets;
        self
    }

    /// Shows times in seconds where the longest of their stem is that long.
    fn choose_units(&mut self) {
        self.in_seconds.clear();
        // By means: an interval of few seeds may reach anywhere.
        let longest = |metric: &Metric| {
            let of_series = |series| self.shown_xs(series).into_iter().map(move |x| (series, x));
            let places = (0..self.view.series.len()).flat_map(of_series);
            let means = places.filter_map(|(series, x)| Some(self.value(metric, series, x)?.mean));
            means.fold(0.0, f64::max)
        };
        let is_long = |metric: &&Metric| time_unit(longest(metric)).1 == "s";
        let times = self.metrics.iter().filter(|metric| metric.unit == "ms");
        self.in_seconds = times.filter(is_long).map(|metric| metric.stem.clone()).collect();
    }
}

impl Sheet for Drawing<'_> {
    /// The stem of the metrics, or the figure's own name.
    fn name(&self) -> String {
        if let Some((name, _)) = self.named {
            return name.to_owned();
        }
        self.metrics.first().map(|metric| metric.stem.clone()).unwrap_or_default()
    }

    fn title(&self) -> String {
        let title = self.named.map(|(_, title)| title.to_owned());
        let mut what = title.or(self.metrics.first().map(Metric::title)).unwrap_or_default();
        if self.is_at_one_place()
            && let Some(axis) = &self.view.axis
            && let Some(x) = self.bars_at.or(self.view.xs().first().copied())
        {
            what += &axis.at(x);
        }
        what
    }

    fn alt(&self) -> String {
        let names: Vec<String> = self.metrics.iter().map(|metric| self.with_unit(metric)).collect();
        let how = match self.axis() {
            Some(axis) => format!("Lines of {} against {}", list(&names), axis.title()),
            None => format!("Bars of {}", list(&names)),
        };
        let labels: Vec<String> = self.labels();
        let mut text = format!("{how}, for {}.", list(&labels));
        for metric in self.metrics.iter().take(2) {
            let range = |(series, label): (usize, &String)| {
                let xs = self.shown_xs(series);
                let values = xs.iter().filter_map(|x| self.value(metric, series, *x));
                format!("{label} {}", extent_text(values.map(|shown| shown.mean)))
            };
            let ranges: Vec<String> = labels.iter().enumerate().take(8).map(range).collect();
            text += &format!(" {}: {}.", self.with_unit(metric), ranges.join(", "));
        }
        text
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a few thousand points at most for any result set that fits into memory"
    )]
    fn size(&self, form: Form) -> (u32, u32) {
        let rows = self.metrics.len().div_ceil(self.columns(form)) as f64;
        let height = self.header_height(form) + rows * self.panel_height() + 30.0;
        (self.width(form), height.ceil() as u32)
    }

    fn draw<B: DrawingBackend>(&self, canvas: &Canvas<'_, B>, form: Form) -> Drawn<B> {
        let (width, height) = self.size(form);
        let (width, height) = (f64::from(width), f64::from(height));
        canvas.paper(width, height)?;
        let title = titled(&self.view.summary.provenance, &self.title(), width - 2.0 * MARGIN);
        canvas.text(&title, (MARGIN, 24.0), Script::ink(TITLE_SIZE, Side::Left))?;
        self.legend(form).draw(canvas, (MARGIN, LEGEND_TOP))?;
        for (i, metric) in self.metrics.iter().enumerate() {
            let (row, column) = (i / self.columns(form), i % self.columns(form));
            let left = column as f64 * f64::from(PANEL_WIDTH) + MARGIN;
            let top = self.header_height(form) + row as f64 * self.panel_height();
            let right = left + self.panel_width(form) - MARGIN;
            match self.axis() {
                Some(axis) => self.draw_lines(canvas, axis, metric, (left, top), right)?,
                None => self.draw_bars(canvas, metric, (left, top), right)?,
            }
        }
        let footer = footer(&self.view.summary.provenance);
        let footer = fitted(&footer, SMALL_SIZE, width - 2.0 * MARGIN);
        canvas.text(&footer, (MARGIN, height - 16.0), Script::pencil(SMALL_SIZE, Side::Left))
    }
}

impl<'a> Drawing<'a> {
    /// The axis, if lines can be drawn along it: some series has two places on
    /// it. At a single one everything would lie on top of everything else.
    fn axis(&self) -> Option<&'a Axis> {
        let has_lines = self.view.series.iter().any(|series| series.points.len() > 1);
        self.view.axis.as_ref().filter(|_| has_lines && self.bars_at.is_none())
    }

    /// Bars that all belong to one value of the axis.
    fn is_at_one_place(&self) -> bool {
        self.bars_at.is_some() || (self.axis().is_none() && self.view.xs().len() == 1)
    }

    /// Where a bar of the series is: at the place asked for, or at its own.
    pub(super) fn bar_x(&self, series: usize) -> f64 {
        let own = self.view.series.get(series).and_then(|s| s.points.first());
        self.bars_at.or(own.map(|(x, _)| *x)).unwrap_or(0.0)
    }

    /// The values of the axis at which a series is shown.
    fn shown_xs(&self, series: usize) -> Vec<f64> {
        match self.axis() {
            Some(_) => self.view.xs().to_vec(),
            None => vec![self.bar_x(series)],
        }
    }

    /// What each series is called; with its place, where bars have different ones.
    pub(super) fn labels(&self) -> Vec<String> {
        let label = |(i, series): (usize, &Series<'_>)| match &self.view.axis {
            Some(axis) if self.axis().is_none() && !self.is_at_one_place() => {
                format!("{}, {} {}", series.label, axis.name(), self.bar_x(i))
            }
            _ => series.label.clone(),
        };
        self.view.series.iter().enumerate().map(label).collect()
    }

    /// So many series that their bands would hide each other: intervals are
    /// upright lines then, and the series stand beside each other.
    pub(super) fn is_crowded(&self) -> bool {
        self.view.series.len() > MOST_BANDS
    }

    fn columns(&self, form: Form) -> usize {
        if form == Form::Narrow { 1 } else { self.metrics.len().clamp(1, 2) }
    }

    fn width(&self, form: Form) -> u32 {
        match self.columns(form) {
            _ if form == Form::Narrow => NARROW,
            // A single panel is wider: titles and footers need the room.
            1 => PANEL_WIDTH + 220,
            _ => 2 * PANEL_WIDTH + 20,
        }
    }

    fn panel_width(&self, form: Form) -> f64 {
        match self.columns(form) {
            1 => f64::from(self.width(form)) - MARGIN,
            _ => f64::from(PANEL_WIDTH),
        }
    }

    fn header_height(&self, form: Form) -> f64 {
        LEGEND_TOP + self.legend(form).height()
    }

    fn panel_height(&self) -> f64 {
        // Above the plot its title, below it the ticks and what the axis is.
        match self.axis() {
            Some(_) => 30.0 + PLOT_HEIGHT + 54.0,
            None => 30.0 + self.view.series.len() as f64 * BAR_HEIGHT + 8.0 + 36.0,
        }
    }

    fn legend(&self, form: Form) -> Legend {
        let mut entries: Vec<(String, Sample)> = Vec::new();
        if self.axis().is_some() {
            let labels = self.labels().into_iter().enumerate();
            entries.extend(labels.map(|(i, label)| (label, Sample::Series(i))));
        }
        if self.has_intervals() {
            let sample = match self.axis() {
                None => Sample::Whisker,
                Some(_) if self.is_crowded() => Sample::Upright,
                Some(_) => Sample::Band,
            };
            entries.push(("95 % interval".to_owned(), sample));
        }
        let marks = || {
            let pairs = self
                .metrics
                .iter()
                .flat_map(|metric| (0..self.view.series.len()).map(move |series| (metric, series)));
            pairs.flat_map(|(metric, series)| self.published(metric, series))
        };
        if marks().any(|mark| mark.is_counted) {
            entries.push(("published".to_owned(), Sample::Published));
        }
        if marks().any(|mark| !mark.is_counted) {
            entries.push(("published, not counted".to_owned(), Sample::Uncounted));
        }
        if self.metrics.iter().any(|metric| self.target(metric).is_some()) {
            entries.push(("target".to_owned(), Sample::Dashed));
        }
        Legend::new(entries, f64::from(self.width(form)) - 2.0 * MARGIN)
    }

    /// A value of a metric as it is shown.
    fn shown(&self, metric: &Metric, value: f64) -> f64 {
        let factor = if self.in_seconds.contains(&metric.stem) { 1e-3 } else { 1.0 };
        metric.shown(value) * factor
    }

    /// What a metric is called, with the unit that it is shown in.
    pub(super) fn with_unit(&self, metric: &Metric) -> String {
        match self.in_seconds.contains(&metric.stem) {
            true => format!("{} (s)", metric.label),
            false => metric.with_unit(),
        }
    }

    /// The value with the unit, where a pointer rests on it.
    pub(super) fn spoken(&self, metric: &Metric, shown: &Shown) -> String {
        let unit = if self.in_seconds.contains(&metric.stem) { "s" } else { metric.unit };
        let Some([low, high]) = shown.interval else {
            return format!("{} {unit}", short(shown.mean)).trim_end().to_owned();
        };
        let show = rounded(shown.mean, (high - low) / 2.0);
        let least = if shown.mean >= 0.0 { low.max(0.0) } else { low };
        let text = format!("{} {unit}", show(shown.mean));
        format!("{} ({} to {})", text.trim_end(), show(least), show(high))
    }

    /// What kind of axis a metric has.
    pub(super) fn kind(metric: &Metric) -> ScaleKind {
        match metric.unit {
            "ms" | "s" => ScaleKind::Time,
            _ if metric.is_ratio() => ScaleKind::Ratio,
            _ => ScaleKind::Amount,
        }
    }

    /// The target of a metric as it is shown; `None` if it lies so far above all
    /// values that it would press them to the ground.
    pub(super) fn target(&self, metric: &Metric) -> Option<f64> {
        const FARTHEST: f64 = 3.0;
        let (_, target) = self.targets.iter().find(|(stem, _)| *stem == metric.stem)?;
        let target = self.shown(metric, *target);
        let most = self.all_values(metric).into_iter().fold(0.0, f64::max);
        (most > 0.0 && target <= FARTHEST * most).then_some(target)
    }

    /// Mean and interval as shown; `None` where there is nothing to draw.
    pub(super) fn value(&self, metric: &Metric, series: usize, x: f64) -> Option<Shown> {
        let found = self.view.series.get(series)?.metric(x, &metric.name)?;
        let mean = self.shown(metric, found.mean?);
        let interval = found.ci95.map(|bounds| bounds.map(|bound| self.shown(metric, bound)));
        let interval = interval.filter(|bounds| bounds.iter().all(|bound| is_drawable(*bound)));
        is_drawable(mean).then_some(Shown { x, mean, interval })
    }

    fn has_intervals(&self) -> bool {
        self.metrics.iter().any(|metric| {
            let of_series = |series| self.shown_xs(series).into_iter().map(move |x| (series, x));
            let mut places = (0..self.view.series.len()).flat_map(of_series);
            places.any(|(s, x)| self.value(metric, s, x).is_some_and(|v| v.interval.is_some()))
        })
    }

    pub(super) fn published(&self, metric: &Metric, series: usize) -> Vec<PublishedMark> {
        let Some(comparison) = self.comparison else { return Vec::new() };
        let xs = self.shown_xs(series);
        let cells = comparison.cells.iter().filter(|cell| xs.contains(&cell.x));
        cells
            .filter(|cell| cell.series == series && cell.metric == metric.name)
            .map(|cell| PublishedMark {
                x: cell.x,
                value: self.shown(metric, cell.published),
                is_counted: cell.uncounted.is_none(),
            })
            .filter(|mark| is_drawable(mark.value))
            .collect()
    }

    /// Everything a panel's value axis has to hold.
    pub(super) fn all_values(&self, metric: &Metric) -> Vec<f64> {
        let mut values = Vec::new();
        for series in 0..self.view.series.len() {
            for x in self.shown_xs(series) {
                let Some(Shown { mean, interval, .. }) = self.value(metric, series, x) else {
                    continue;
                };
                values.push(mean);
                // The interval of a mean may reach beyond what the metric can be, and near
                // zero, which on a logarithmic scale would press everything else together.
                let most = if metric.is_ratio() && mean <= 100.0 { 100.0 } else { f64::INFINITY };
                let least = if mean >= 0.0 { 0.5 * mean } else { f64::NEG_INFINITY };
                let bounds = interval.into_iter().flatten();
                values.extend(bounds.map(|bound| bound.min(most).max(least)));
            }
            values.extend(self.published(metric, series).iter().map(|mark| mark.value));
        }
        values
    }
}

/// The experiment, shortened if need be, and what is shown.
pub(super) fn titled(provenance: &Provenance, what: &str, room: f64) -> String {
    let what = fitted(&format!(": {what}"), TITLE_SIZE, 0.7 * room);
    let experiment = &provenance.experiment;
    fitted(experiment, TITLE_SIZE, room - text_width(&what, TITLE_SIZE)) + &what
}

/// `404 to 4311`, for a description.
pub(super) fn extent_text(values: impl Iterator<Item = f64>) -> String {
    match extent(values) {
        Some((low, high)) if short(low) == short(high) => short(low),
        Some((low, high)) => format!("{} to {}", short(low), short(high)),
        None => "no value".to_owned(),
    }
}

/// `a, b and c`.
pub(super) fn list(names: &[String]) -> String {
    match names {
        [] => "nothing".to_owned(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
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
