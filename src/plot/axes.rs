//! What panels are made of: the part where data lies, its axes, and marks.

use super::canvas::{Canvas, Drawn, Position, Script, Side, fitted, text_width};
use super::scale::Scale;
use super::style::{FRAME, GRID, INK, SMALL_SIZE, TEXT_SIZE};
use plotters::prelude::DrawingBackend;

/// The part of a panel where data lies.
pub(super) struct Plot {
    pub(super) left: f64,
    pub(super) right: f64,
    pub(super) top: f64,
    pub(super) bottom: f64,
}

impl Plot {
    pub(super) fn x(&self, scale: &Scale, value: f64) -> f64 {
        self.left + scale.place(value) * (self.right - self.left)
    }
    pub(super) fn y(&self, scale: &Scale, value: f64) -> f64 {
        self.bottom - scale.place(value) * (self.bottom - self.top)
    }
    /// The same plot, `by` points to the right.
    pub(super) fn moved(&self, by: f64) -> Self {
        Self { left: self.left + by, right: self.right + by, ..*self }
    }
}

/// A bar from `low` to `high` with an upright end on both sides.
pub(super) fn whisker<B: DrawingBackend>(
    canvas: &Canvas<'_, B>,
    low: f64,
    high: f64,
    y: f64,
) -> Drawn<B> {
    canvas.line(&[(low, y), (high, y)], INK, 1.3, &[])?;
    for x in [low, high] {
        canvas.line(&[(x, y - 4.0), (x, y + 4.0)], INK, 1.3, &[])?;
    }
    Ok(())
}

/// The stroke through a published point that does not count.
pub(super) fn strike<B: DrawingBackend>(canvas: &Canvas<'_, B>, (x, y): Position) -> Drawn<B> {
    canvas.line(&[(x - 7.0, y + 7.0), (x + 7.0, y - 7.0)], INK, 1.2, &[])
}

/// The grid, both axes and the label of the lower one.
pub(super) fn draw_axes<B: DrawingBackend>(
    canvas: &Canvas<'_, B>,
    plot: &Plot,
    x_scale: &Scale,
    y_scale: &Scale,
    x_label: &str,
) -> Drawn<B> {
    for tick in &y_scale.ticks {
        let y = plot.y(y_scale, tick.value);
        canvas.line(&[(plot.left, y), (plot.right, y)], GRID, 1.0, &[])?;
        let script = Script::pencil(SMALL_SIZE, Side::Right);
        canvas.text(&tick.label, (plot.left - 7.0, y), script)?;
    }
    draw_x_axis(canvas, plot, x_scale)?;
    let middle = (plot.left + plot.right) / 2.0;
    let label = fitted(x_label, TEXT_SIZE, plot.right - plot.left);
    canvas.text(&label, (middle, plot.bottom + 36.0), Script::ink(TEXT_SIZE, Side::Middle))
}

/// The lower edge of a panel with its ticks; labels that would run into the one before are left out.
pub(super) fn draw_x_axis<B: DrawingBackend>(
    canvas: &Canvas<'_, B>,
    plot: &Plot,
    scale: &Scale,
) -> Drawn<B> {
    let corners = [(plot.left, plot.top), (plot.left, plot.bottom), (plot.right, plot.bottom)];
    canvas.line(&corners, FRAME, 1.0, &[])?;
    let mut free_from = f64::NEG_INFINITY;
    for tick in &scale.ticks {
        let x = plot.x(scale, tick.value);
        canvas.line(&[(x, plot.bottom), (x, plot.bottom + 5.0)], FRAME, 1.0, &[])?;
        let half = text_width(&tick.label, SMALL_SIZE) / 2.0;
        if x - half >= free_from {
            let script = Script::pencil(SMALL_SIZE, Side::Middle);
            canvas.text(&tick.label, (x, plot.bottom + 15.0), script)?;
            free_from = x + half + 6.0;
        }
    }
    Ok(())
}
