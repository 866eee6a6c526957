//! Colours, markers, dashes and the font of figures.

use plotters::style::{FontStyle, RGBColor, register_font};
use std::sync::OnceLock;

/// Families that viewers of an SVG try in turn. The embedded font is registered
/// under this whole list, because the drawing library writes the registered name into the SVG.
const FAMILIES: &str = "Roboto, Inter, Helvetica Neue, Helvetica, Arial, sans-serif";

static ROBOTO: &[u8] = include_bytes!("font/Roboto-Regular.ttf");

/// Name of the font to draw with, registered at the first call.
pub(super) fn family() -> &'static str {
    static REGISTERED: OnceLock<()> = OnceLock::new();
    REGISTERED.get_or_init(|| {
        let registered = register_font(FAMILIES, FontStyle::Normal, ROBOTO);
        assert!(registered.is_ok(), "the embedded font does not parse");
    });
    FAMILIES
}

/// Figures bring their own page, so that they read the same on dark and white ones.
pub(super) const PAPER: RGBColor = RGBColor(255, 255, 255);
/// Text.
pub(super) const INK: RGBColor = RGBColor(34, 34, 34);
/// Secondary text.
pub(super) const PENCIL: RGBColor = RGBColor(102, 102, 102);
/// Axes.
pub(super) const FRAME: RGBColor = RGBColor(136, 136, 136);
/// Lines of the grid.
pub(super) const GRID: RGBColor = RGBColor(228, 228, 228);

/// The palette of Okabe and Ito ("Color Universal Design", 2008), which people
/// with any colour vision can tell apart; without its yellow, which is lost on white.
const PALETTE: [RGBColor; 7] = [
    RGBColor(0, 114, 178),   // blue
    RGBColor(213, 94, 0),    // vermilion
    RGBColor(0, 158, 115),   // bluish green
    RGBColor(204, 121, 167), // reddish purple
    RGBColor(230, 159, 0),   // orange
    RGBColor(86, 180, 233),  // sky blue
    RGBColor(0, 0, 0),       // black
];

/// Shape of a marker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Marker {
    Circle,
    Square,
    Triangle,
    Diamond,
    Wedge,
}

const MARKERS: [Marker; 5] =
    [Marker::Circle, Marker::Square, Marker::Triangle, Marker::Diamond, Marker::Wedge];

/// Lengths of stroke and gap in turn; solid if empty.
const DASHES: [&[f64]; 4] = [&[], &[7.0, 3.5], &[7.0, 3.0, 1.8, 3.0], &[2.2, 2.6]];

/// How a series is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Look {
    pub(super) color: RGBColor,
    pub(super) marker: Marker,
    pub(super) dash: &'static [f64],
}

impl Look {
    /// Of series number `i`. The numbers of colours, markers and dashes share
    /// no factor, so 140 series look different, and neighbours differ in all three.
    pub(super) fn of(i: usize) -> Self {
        Self {
            color: PALETTE[i % PALETTE.len()],
            marker: MARKERS[i % MARKERS.len()],
            dash: DASHES[i % DASHES.len()],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_and_forty_series_look_different() {
        let looks: Vec<Look> = (0..140).map(Look::of).collect();
        for (i, look) in looks.iter().enumerate() {
            assert!(!looks[..i].contains(look), "{i}");
        }
    }
}
