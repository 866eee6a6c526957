//! How latencies are distributed at one load: for each of them the share of
//! requests that took at most so long, a line per series.

use super::Sheet;
use super::axes::{Plot, draw_axes};
use super::canvas::{Canvas, Drawn, Medium, Place, Script, Side, fitted, text_width};
use super::drawing::{footer, list, titled};
use super::legend::{Legend, Sample};
use super::scale::{Scale, is_drawable};
use super::style::{Look, MARGIN, PAPER, SMALL_SIZE, TEXT_SIZE, TITLE_SIZE};
use crate::experiment::results::{Distribution, Distributions, Point};
use crate::metrics::Metric;
use crate::recorder::SHARES;
use crate::report::view::View;
use plotters::coord::Shift;
use plotters::drawing::DrawingArea;
use plotters::prelude::DrawingBackend;

/// The latencies shown, by stem.
const SHOWN: [&str; 3] = ["ttft_ms", "itl_ms", "e2e_ms"];

/// Sizes in points.
const WIDTH: u32 = 940;
const PLOT_HEIGHT: f64 = 230.0;
const HEADER: f64 = 54.0;

/// Bands of more series cannot be told apart (assumed).
const MOST_BANDS: usize = 3;

/// The figure before it is drawn.
pub(super) struct Cdfs<'a> {
    view: &'a View<'a>,
    /// The load, where one was swept.
    x: f64,
    stems: Vec<&'static str>,
    /// By series, its distributions at the load.
    found: Vec<Option<&'a Distributions>>,
    legend: Legend,
}

impl<'a> Cdfs<'a> {
    /// At `x`, or at the last value of the axis; `None` if there is nothing to
    /// draw. `distributions` are those of the points of the summary, in order.
    pub(super) fn new(
        view: &'a View<'a>,
        distributions: &'a [Distributions],
        x: Option<f64>,
    ) -> Option<Self> {
        let x = x.or(view.xs().last().copied())?;
        let of_point = |wanted: &Point| {
            let mut points = view.summary.points.iter();
            distributions.get(points.position(|point| std::ptr::eq(point, wanted))?)
        };
        let found: Vec<_> = view.series.iter().map(|s| s.at(x).and_then(of_point)).collect();
        let has = |stem: &&&str| {
            found.iter().flatten().any(|d| d.get(**stem).is_some_and(|d| !places(d).is_empty()))
        };
        let stems: Vec<&str> = SHOWN.iter().filter(has).copied().collect();
        if stems.is_empty() {
            return None;
        }
        let series = view.series.iter().enumerate().filter(|(i, _)| found[*i].is_some());
        let mut entries: Vec<(String, Sample)> =
            series.map(|(i, s)| (s.label.clone(), Sample::Series(i))).collect();
        let mut cdfs = Self { view, x, stems, found, legend: Legend::default() };
        if cdfs.has_bands() {
            entries.push(("95 % interval".to_owned(), Sample::Band));
        }
        cdfs.legend = Legend::new(entries, f64::from(WIDTH) - 2.0 * MARGIN);
        Some(cdfs)
    }

    fn has_bands(&self) -> bool {
        let all = || self.found.iter().flatten();
        all().count() <= MOST_BANDS && all().any(|d| d.values().any(|d| d.ci95.is_some()))
    }

    fn draw_panel<B: DrawingBackend>(
        &self,
        canvas: &Canvas<'_, B>,
        stem: &str,
        (left, top): Place,
        width: f64,
    ) -> Drawn<B> {
        let all = || self.found.iter().enumerate().filter_map(|(i, d)| Some((i, d.as_ref()?)));
        let here: Vec<(usize, &Distribution)> =
            all().filter_map(|(i, d)| Some((i, d.get(stem)?))).collect();
        let values = here.iter().flat_map(|(_, d)| places(d)).map(|(value, _)| value);
        let (x_scale, y_scale) =
            (Scale::for_y(values, false), Scale::for_bars([100.0].into_iter()));
        let labels = text_width("100", SMALL_SIZE) + 10.0;
        let plot = Plot {
            left: left + labels,
            right: left + width - MARGIN,
            top: top + 30.0,
            bottom: top + 30.0 + PLOT_HEIGHT,
        };
        let metric = Metric::of(stem);
        let title = "share of requests (%)";
        canvas.text(title, (left, top + 12.0), Script::ink(TEXT_SIZE, Side::Left))?;
        let kind = if x_scale.is_log() { ", logarithmic" } else { "" };
        let label = format!("{}{kind}", metric.with_unit());
        draw_axes(canvas, &plot, &x_scale, &y_scale, &label)?;
        let place = |(value, share): &(f64, f64)| {
            (plot.x(&x_scale, *value), plot.y(&y_scale, *share * 100.0))
        };
        if self.has_bands() {
            for (series, distribution) in &here {
                let Some([low, high]) = &distribution.ci95 else { continue };
                let edge =
                    |bound: &[f64]| -> Vec<Place> { paired(bound).map(|p| place(&p)).collect() };
                let (low, high) = (edge(low), edge(high));
                let outline: Vec<Place> = low.into_iter().chain(high.into_iter().rev()).collect();
                canvas.fill(&outline, Look::of(*series).color, 0.2)?;
            }
        }
        for (series, distribution) in &here {
            let look = Look::of(*series);
            let line: Vec<Place> = places(distribution).iter().map(place).collect();
            canvas.line(&line, look.color, 1.8, look.dash)?;
            // Staggered: at the same share they would hide each other.
            let marked = line.iter().skip(3 + 2 * (series % 5)).step_by(10);
            for at in marked {
                canvas.marker(*at, look.marker, look.color)?;
            }
        }
        Ok(())
    }

    fn panel_width(&self) -> f64 {
        (f64::from(WIDTH) - MARGIN) / self.stems.len() as f64
    }
}

/// The values that can be drawn, with their shares.
fn places(distribution: &Distribution) -> Vec<(f64, f64)> {
    paired(&distribution.mean).collect()
}

/// Times with their shares; the interval of a mean may reach below zero, a time cannot.
fn paired(values: &[f64]) -> impl Iterator<Item = (f64, f64)> + '_ {
    let pairs = values.iter().map(|value| value.max(0.0)).zip(SHARES);
    pairs.filter(|(value, _)| is_drawable(*value))
}

impl Sheet for Cdfs<'_> {
    fn name(&self) -> String {
        "cdf".to_owned()
    }

    fn title(&self) -> String {
        let place = self.view.axis.as_ref().map(|axis| format!(" at {} {}", axis.label(), self.x));
        format!("distribution of latencies{}", place.unwrap_or_default())
    }

    fn alt(&self) -> String {
        let names: Vec<String> = self.stems.iter().map(|stem| Metric::of(stem).label).collect();
        let series = self.view.series.iter().zip(&self.found).filter(|(_, found)| found.is_some());
        let labels: Vec<String> = series.map(|(series, _)| series.label.clone()).collect();
        format!(
            "Cumulative distributions of {} over requests, for {}; quantiles are means over seeds.",
            list(&names),
            list(&labels)
        )
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a few hundred points"
    )]
    fn size(&self) -> (u32, u32) {
        (WIDTH, (HEADER + self.legend.height() + 30.0 + PLOT_HEIGHT + 54.0 + 30.0) as u32)
    }

    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>, medium: Medium) -> Drawn<B> {
        let canvas = Canvas { area, medium };
        let (width, height) = self.size();
        let (width, height) = (f64::from(width), f64::from(height));
        let provenance = &self.view.summary.provenance;
        canvas.rectangle((0.0, 0.0), (width, height), PAPER, 1.0)?;
        let title = titled(provenance, &self.title(), width - 2.0 * MARGIN);
        canvas.text(&title, (MARGIN, 24.0), Script::ink(TITLE_SIZE, Side::Left))?;
        self.legend.draw(&canvas, (MARGIN, HEADER))?;
        let top = HEADER + self.legend.height();
        for (i, stem) in self.stems.iter().enumerate() {
            let left = MARGIN + i as f64 * self.panel_width();
            self.draw_panel(&canvas, stem, (left, top), self.panel_width())?;
        }
        let footer = fitted(&footer(provenance), SMALL_SIZE, width - 2.0 * MARGIN);
        canvas.text(&footer, (MARGIN, height - 16.0), Script::pencil(SMALL_SIZE, Side::Left))
    }
}
