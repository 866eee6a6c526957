//! What all figures have in common: a name, what they show in words, and a way to draw
//! them on anything.

use super::canvas::{Canvas, Drawn};
use plotters::backend::DrawingBackend;

/// The arrangement of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Panels beside each other.
    Wide,
    /// One panel per row, as wide as a phone.
    Narrow,
}

/// Points of a narrow figure from left to right.
pub(super) const NARROW: u32 = 380;

/// Milliseconds from which on times are shown in seconds (assumed: easier to read).
const SECONDS_FROM: f64 = 10_000.0;

/// By how much times in milliseconds are multiplied where the longest is `longest`,
/// and their unit then.
pub(super) fn time_unit(longest: f64) -> (f64, &'static str) {
    if longest >= SECONDS_FROM { (1e-3, "s") } else { (1.0, "ms") }
}

/// A figure that can be drawn on anything.
pub(super) trait Sheet {
    /// Name of the file without its ending.
    fn name(&self) -> String;
    /// What is shown.
    fn title(&self) -> String;
    /// The same in words.
    fn alt(&self) -> String;
    /// Width and height in points.
    fn size(&self, form: Form) -> (u32, u32);
    /// Draws the whole figure.
    fn draw<B: DrawingBackend>(&self, canvas: &Canvas<'_, B>, form: Form) -> Drawn<B>;
}
