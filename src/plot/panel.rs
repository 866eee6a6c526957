//! The panels of a figure: lines with bands along an axis, or bars without one.

use super::axes::{Plot, draw_axes, draw_x_axis, strike, whisker};
use super::canvas::{Canvas, Drawn, Position, Script, Side, fitted, text_width};
use super::drawing::{BAR_HEIGHT, Drawing, PLOT_HEIGHT, Shown};
use super::scale::Scale;
use super::sheet::time_unit;
use super::style::{INK, Look, Marker, SMALL_SIZE, TEXT_SIZE};
use crate::metrics::{Metric, short};
use crate::report::view::Axis;
use plotters::prelude::DrawingBackend;

impl Drawing<'_> {
    /// A panel along the axis, its top left at the place given.
    pub(super) fn draw_lines<B: DrawingBackend>(
        &self,
        canvas: &Canvas<'_, B>,
        axis: &Axis,
        metric: &Metric,
        (left, top): Position,
        right: f64,
    ) -> Drawn<B> {
        let target = self.target(metric);
        let values = self.all_values(metric).into_iter().chain(target);
        let y_scale = Scale::for_y(values, Self::kind(metric));
        let longest = axis.values.iter().copied().fold(0.0, f64::max);
        let (factor, unit) = if axis.is_duration { time_unit(longest) } else { (1.0, "") };
        let x_scale = Scale::for_x(&axis.values).labelled_by(factor);
        let widest = y_scale.ticks.iter().map(|t| text_width(&t.label, SMALL_SIZE));
        let plot = Plot {
            left: left + widest.fold(0.0, f64::max) + 10.0,
            right,
            top: top + 30.0,
            bottom: top + 30.0 + PLOT_HEIGHT,
        };
        let title = format!("{}{}", self.with_unit(metric), kind(&y_scale));
        let title = fitted(&title, TEXT_SIZE, plot.right - left);
        canvas.text(&title, (left, top + 12.0), Script::ink(TEXT_SIZE, Side::Left))?;
        let name = if unit == "s" { format!("{} (s)", axis.name()) } else { axis.title() };
        let x_label = format!("{name}{}", kind(&x_scale));
        draw_axes(canvas, &plot, &x_scale, &y_scale, &x_label)?;
        if let Some(target) = target {
            let y = plot.y(&y_scale, target);
            canvas.line(&[(plot.left, y), (plot.right, y)], INK, 1.2, &[6.0, 4.0])?;
        }
        let plots: Vec<Plot> = (0..self.view.series.len())
            .map(|series| plot.moved(self.dodge(&plot, &x_scale, axis, series)))
            .collect();
        for (series, plot) in plots.iter().enumerate() {
            if self.is_crowded() {
                self.draw_uprights(canvas, plot, (&x_scale, &y_scale), metric, series)?;
            } else {
                self.draw_band(canvas, plot, (&x_scale, &y_scale), metric, series)?;
            }
        }
        for (series, plot) in plots.iter().enumerate() {
            self.draw_series(canvas, plot, (&x_scale, &y_scale), metric, series)?;
        }
        for (series, plot) in plots.iter().enumerate() {
            let look = Look::of(series);
            for mark in self.published(metric, series) {
                let at = (plot.x(&x_scale, mark.x), plot.y(&y_scale, mark.value));
                canvas.hollow(at, look.marker, look.color)?;
                if !mark.is_counted {
                    strike(canvas, at)?;
                }
            }
        }
        Ok(())
    }

    /// How far right of its place a series stands, where there are many.
    fn dodge(&self, plot: &Plot, scale: &Scale, axis: &Axis, series: usize) -> f64 {
        if !self.is_crowded() {
            return 0.0;
        }
        let places: Vec<f64> = axis.values.iter().map(|x| plot.x(scale, *x)).collect();
        let nearest = places.windows(2).map(|p| p[1] - p[0]).fold(f64::INFINITY, f64::min);
        let all = self.view.series.len() as f64;
        // The outermost stay inside the margin that the scale leaves at both ends.
        let step = (0.4 * nearest).min(22.0) / all;
        (series as f64 - (all - 1.0) / 2.0) * step
    }

    /// The intervals of a series as upright lines.
    fn draw_uprights<B: DrawingBackend>(
        &self,
        canvas: &Canvas<'_, B>,
        plot: &Plot,
        (x_scale, y_scale): (&Scale, &Scale),
        metric: &Metric,
        series: usize,
    ) -> Drawn<B> {
        for shown in self.stretches(metric, series).iter().flatten() {
            let Some(bounds) = shown.interval else { continue };
            let x = plot.x(x_scale, shown.x);
            let ends = bounds.map(|bound| (x, plot.y(y_scale, bound)));
            canvas.line(&ends, Look::of(series).color, 1.2, &[])?;
        }
        Ok(())
    }

    /// The stretches of a series without a gap, as places on the axis with their values.
    fn stretches(&self, metric: &Metric, series: usize) -> Vec<Vec<Shown>> {
        let mut stretches = vec![Vec::new()];
        for x in self.view.xs() {
            match (self.value(metric, series, *x), stretches.last_mut()) {
                (Some(shown), Some(stretch)) => stretch.push(shown),
                _ => stretches.push(Vec::new()),
            }
        }
        stretches.retain(|stretch| !stretch.is_empty());
        stretches
    }

    fn draw_band<B: DrawingBackend>(
        &self,
        canvas: &Canvas<'_, B>,
        plot: &Plot,
        (x_scale, y_scale): (&Scale, &Scale),
        metric: &Metric,
        series: usize,
    ) -> Drawn<B> {
        let color = Look::of(series).color;
        for stretch in self.stretches(metric, series) {
            let edge = |bound: usize| -> Vec<Position> {
                let at = |shown: &Shown| {
                    let value = shown.interval.map_or(shown.mean, |bounds| bounds[bound]);
                    (plot.x(x_scale, shown.x), plot.y(y_scale, value))
                };
                stretch.iter().map(at).collect()
            };
            let (low, high) = (edge(0), edge(1));
            // A gap on both sides leaves a single point.
            if let ([(x, bottom)], [(_, top)]) = (low.as_slice(), high.as_slice()) {
                canvas.rectangle((x - 6.0, *top), (x + 6.0, *bottom), color, 0.2)?;
                continue;
            }
            let outline: Vec<Position> = low.into_iter().chain(high.into_iter().rev()).collect();
            canvas.fill(&outline, color, 0.2)?;
        }
        Ok(())
    }

    fn draw_series<B: DrawingBackend>(
        &self,
        canvas: &Canvas<'_, B>,
        plot: &Plot,
        (x_scale, y_scale): (&Scale, &Scale),
        metric: &Metric,
        series: usize,
    ) -> Drawn<B> {
        let look = Look::of(series);
        for stretch in self.stretches(metric, series) {
            let places: Vec<Position> = stretch
                .iter()
                .map(|shown| (plot.x(x_scale, shown.x), plot.y(y_scale, shown.mean)))
                .collect();
            canvas.line(&places, look.color, 2.0, look.dash)?;
            for (place, shown) in places.into_iter().zip(&stretch) {
                canvas.marker(place, look.marker, look.color)?;
                let label = &self.view.series[series].label;
                let at = self.view.axis.as_ref().map(|axis| axis.at(shown.x)).unwrap_or_default();
                canvas.spot(place, format!("{label}{at}: {}", self.spoken(metric, shown)));
            }
        }
        Ok(())
    }

    /// A panel with a bar for every series, its top left at the place given.
    pub(super) fn draw_bars<B: DrawingBackend>(
        &self,
        canvas: &Canvas<'_, B>,
        metric: &Metric,
        (left, top): Position,
        right: f64,
    ) -> Drawn<B> {
        // Room for the numbers right of the bars.
        let right = right - 62.0;
        let values = self.all_values(metric).into_iter().chain(self.target(metric));
        let scale = Scale::for_bars(values);
        let labels = self.labels();
        let room = (0.45 * (right - left)).min(240.0);
        let labels: Vec<String> = labels.iter().map(|l| fitted(l, TEXT_SIZE, room)).collect();
        let widest = labels.iter().map(|label| text_width(label, TEXT_SIZE)).fold(0.0, f64::max);
        let bottom = top + 30.0 + self.view.series.len() as f64 * BAR_HEIGHT + 8.0;
        let plot = Plot { left: left + widest + 10.0, right, top: top + 30.0, bottom };
        let title = fitted(&self.with_unit(metric), TEXT_SIZE, right - left);
        canvas.text(&title, (left, top + 12.0), Script::ink(TEXT_SIZE, Side::Left))?;
        draw_x_axis(canvas, &plot, &scale)?;
        for (i, label) in labels.iter().enumerate() {
            let y = plot.top + 4.0 + (i as f64 + 0.5) * BAR_HEIGHT;
            canvas.text(label, (plot.left - 8.0, y), Script::ink(TEXT_SIZE, Side::Right))?;
            let Some(shown) = self.value(metric, i, self.bar_x(i)) else { continue };
            let Shown { mean, interval, .. } = shown;
            let (zero, end) = (plot.x(&scale, 0.0), plot.x(&scale, mean));
            let half = 0.34 * BAR_HEIGHT;
            canvas.rectangle((zero, y - half), (end, y + half), Look::of(i).color, 0.75)?;
            if let Some([low, high]) = interval {
                whisker(canvas, plot.x(&scale, low), plot.x(&scale, high), y)?;
            }
            for mark in self.published(metric, i) {
                let at = (plot.x(&scale, mark.value), y);
                canvas.hollow(at, Marker::Circle, INK)?;
                if !mark.is_counted {
                    strike(canvas, at)?;
                }
            }
            canvas.text(
                &short(mean),
                (plot.right + 10.0, y),
                Script::ink(SMALL_SIZE, Side::Left),
            )?;
            let text = format!("{}: {}", self.labels()[i], self.spoken(metric, &shown));
            canvas.spot(((zero + end) / 2.0, y), text);
        }
        if let Some(target) = self.target(metric) {
            let x = plot.x(&scale, target);
            canvas.line(&[(x, plot.top), (x, plot.bottom)], INK, 1.2, &[6.0, 4.0])?;
        }
        Ok(())
    }
}

/// Said after the label of a logarithmic axis.
fn kind(scale: &Scale) -> &'static str {
    if scale.is_log() { ", logarithmic" } else { "" }
}
