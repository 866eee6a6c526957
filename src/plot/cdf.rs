//! How latencies are distributed at one load: for each of them the share of
//! requests that took at most so long, a line per series.

use super::axes::{Plot, draw_axes};
use super::canvas::{Canvas, Drawn, Position, Script, Side, fitted, text_width};
use super::drawing::{footer, list, titled};
use super::legend::{Legend, Sample};
use super::scale::{Scale, ScaleKind, is_drawable};
use super::sheet::{Form, NARROW, Sheet, time_unit};
use super::style::{Look, MARGIN, SMALL_SIZE, TEXT_SIZE, TITLE_SIZE};
use crate::experiment::results::{LatencyCurve, LatencyCurves, Point};
use crate::metrics::{Metric, short};
use crate::recorder::SHARES;
use crate::report::view::View;
use plotters::prelude::DrawingBackend;

/// The latencies shown, by stem.
const SHOWN: [&str; 3] = ["ttft_ms", "itl_ms", "e2e_ms"];

/// Sizes in points.
const WIDTH: u32 = 940;
const PLOT_HEIGHT: f64 = 230.0;
const PANEL_HEIGHT: f64 = 30.0 + PLOT_HEIGHT + 54.0;
const HEADER: f64 = 54.0;

/// Bands of more series hide each other (assumed).
const MOST_BANDS: usize = 3;

/// The figure before it is drawn.
pub(super) struct Cdfs<'a> {
    view: &'a View<'a>,
    /// The load, where one was swept.
    x: f64,
    stems: Vec<&'static str>,
    /// By series, its distributions at the load.
    found: Vec<Option<&'a LatencyCurves>>,
}

impl<'a> Cdfs<'a> {
    /// At `x`, or at the last value of the axis; `None` if there is nothing to
    /// draw. `distributions` are those of the points of the summary, in order.
    pub(super) fn new(
        view: &'a View<'a>,
        distributions: &'a [LatencyCurves],
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
        Some(Self { view, x, stems, found })
    }

    fn legend(&self, form: Form) -> Legend {
        let series = self.view.series.iter().enumerate().filter(|(i, _)| self.found[*i].is_some());
        let mut entries: Vec<(String, Sample)> =
            series.map(|(i, s)| (s.label.clone(), Sample::Series(i))).collect();
        if self.has_bands() {
            entries.push(("95 % interval".to_owned(), Sample::Band));
        }
        Legend::new(entries, width(form) - 2.0 * MARGIN)
    }

    fn has_bands(&self) -> bool {
        let all = || self.found.iter().flatten();
        all().count() <= MOST_BANDS && all().any(|d| d.values().any(|d| d.ci95.is_some()))
    }

    fn draw_panel<B: DrawingBackend>(
        &self,
        canvas: &Canvas<'_, B>,
        stem: &str,
        (left, top): Position,
        width: f64,
    ) -> Drawn<B> {
        let all = || self.found.iter().enumerate().filter_map(|(i, d)| Some((i, d.as_ref()?)));
        let here: Vec<(usize, &LatencyCurve)> =
            all().filter_map(|(i, d)| Some((i, d.get(stem)?))).collect();
        let values = || here.iter().flat_map(|(_, d)| places(d)).map(|(value, _)| value);
        let (factor, unit) = time_unit(values().fold(0.0, f64::max));
        let x_scale = Scale::for_y(values().map(|value| value * factor), ScaleKind::Time);
        let y_scale = Scale::for_bars([100.0].into_iter());
        let labels = text_width("100", SMALL_SIZE) + 10.0;
        let plot = Plot {
            left: left + labels,
            right: left + width - MARGIN,
            top: top + 30.0,
            bottom: top + 30.0 + PLOT_HEIGHT,
        };
        let metric = Metric::of(stem);
        let title = fitted("requests at or below (%)", TEXT_SIZE, width - MARGIN);
        canvas.text(&title, (left, top + 12.0), Script::ink(TEXT_SIZE, Side::Left))?;
        let kind = if x_scale.is_log() { ", logarithmic" } else { "" };
        let label = format!("{} ({unit}){kind}", metric.title());
        draw_axes(canvas, &plot, &x_scale, &y_scale, &label)?;
        let place = |(value, share): &(f64, f64)| {
            (plot.x(&x_scale, *value * factor), plot.y(&y_scale, *share * 100.0))
        };
        if self.has_bands() {
            for (series, distribution) in &here {
                let Some([low, high]) = &distribution.ci95 else { continue };
                let edge =
                    |bound: &[f64]| -> Vec<Position> { paired(bound).map(|p| place(&p)).collect() };
                let (low, high) = (edge(low), edge(high));
                let outline: Vec<Position> =
                    low.into_iter().chain(high.into_iter().rev()).collect();
                canvas.fill(&outline, Look::of(*series).color, 0.2)?;
            }
        }
        for (series, distribution) in &here {
            let look = Look::of(*series);
            let line: Vec<Position> = places(distribution).iter().map(place).collect();
            canvas.line(&line, look.color, 1.8, look.dash)?;
            // Staggered: at the same share they would hide each other.
            let marked = line.iter().skip(3 + 2 * (series % 5)).step_by(10);
            for at in marked {
                canvas.marker(*at, look.marker, look.color)?;
            }
            for (at, (value, share)) in line.into_iter().zip(places(distribution)) {
                let label = &self.view.series[*series].label;
                let share = short(100.0 * share);
                let value = short(value * factor);
                canvas.spot(at, format!("{label}: {share} % within {value} {unit}"));
            }
        }
        Ok(())
    }

    fn columns(&self, form: Form) -> usize {
        if form == Form::Narrow { 1 } else { self.stems.len() }
    }

    fn panel_width(&self, form: Form) -> f64 {
        (width(form) - MARGIN) / self.columns(form) as f64
    }
}

fn width(form: Form) -> f64 {
    f64::from(if form == Form::Narrow { NARROW } else { WIDTH })
}

/// The values that can be drawn, with their shares.
fn places(distribution: &LatencyCurve) -> Vec<(f64, f64)> {
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
        let place = self.view.axis.as_ref().map(|axis| axis.at(self.x));
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
    fn size(&self, form: Form) -> (u32, u32) {
        let rows = self.stems.len().div_ceil(self.columns(form)) as f64;
        let height = HEADER + self.legend(form).height() + rows * PANEL_HEIGHT + 30.0;
        (width(form) as u32, height as u32)
    }

    fn draw<B: DrawingBackend>(&self, canvas: &Canvas<'_, B>, form: Form) -> Drawn<B> {
        let (width, height) = self.size(form);
        let (width, height) = (f64::from(width), f64::from(height));
        let provenance = &self.view.summary.provenance;
        canvas.paper(width, height)?;
        let title = titled(provenance, &self.title(), width - 2.0 * MARGIN);
        canvas.text(&title, (MARGIN, 24.0), Script::ink(TITLE_SIZE, Side::Left))?;
        let legend = self.legend(form);
        legend.draw(canvas, (MARGIN, HEADER))?;
        for (i, stem) in self.stems.iter().enumerate() {
            let (row, column) = (i / self.columns(form), i % self.columns(form));
            let left = MARGIN + column as f64 * self.panel_width(form);
            let top = HEADER + legend.height() + row as f64 * PANEL_HEIGHT;
            self.draw_panel(canvas, stem, (left, top), self.panel_width(form))?;
        }
        let footer = fitted(&footer(provenance), SMALL_SIZE, width - 2.0 * MARGIN);
        canvas.text(&footer, (MARGIN, height - 16.0), Script::pencil(SMALL_SIZE, Side::Left))
    }
}
