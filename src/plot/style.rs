//! Colours, markers, dashes, sizes and the font of figures.

use plotters::style::{FontStyle, RGBColor, register_font};
use std::sync::OnceLock;

/// Families that viewers of an SVG try in turn. The embedded font is registered
/// under this whole list, because the drawing library writes the registered name into the SVG.
const FAMILIES: &str = "Roboto, Inter, Helvetica Neue, Helvetica, Arial, sans-serif";

static ROBOTO: &[u8] = include_bytes!("font/Roboto-Regular.ttf");

/// Sizes in points: the room around a figure, and of three kinds of text.
pub(super) const MARGIN: f64 = 20.0;
pub(super) const TITLE_SIZE: f64 = 16.0;
pub(super) const TEXT_SIZE: f64 = 12.0;
pub(super) const SMALL_SIZE: f64 = 11.0;

/// Name of the font to draw with, registered at the first call.
pub(super) fn family() -> &'static str {
    static REGISTERED: OnceLock<()> = OnceLock::new();
    REGISTERED.get_or_init(|| {
        let registered = register_font(FAMILIES, FontStyle::Normal, ROBOTO);
        assert!(registered.is_ok(), "the embedded font does not parse");
    });
    FAMILIES
}

/// The page, which figures bring with them.
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

/// Text on a coloured area, which stays as it is in the dark.
pub(super) const ON_LIGHT: RGBColor = RGBColor(33, 33, 33);
/// The same on a dark colour.
pub(super) const ON_DARK: RGBColor = RGBColor(254, 254, 254);

/// What becomes of the colours above where a dark page is preferred: lighter
/// tones of the same hues, in the same order of lightness.
const IN_THE_DARK: [(RGBColor, RGBColor); 12] = [
    (PAPER, RGBColor(21, 24, 29)),
    (INK, RGBColor(230, 232, 235)),
    (PENCIL, RGBColor(164, 171, 181)),
    (FRAME, RGBColor(126, 135, 146)),
    (GRID, RGBColor(47, 53, 61)),
    (PALETTE[0], RGBColor(77, 163, 224)),
    (PALETTE[1], RGBColor(242, 128, 58)),
    (PALETTE[2], RGBColor(46, 199, 154)),
    (PALETTE[3], RGBColor(227, 154, 194)),
    (PALETTE[4], RGBColor(240, 180, 41)),
    (PALETTE[5], RGBColor(155, 214, 250)),
    (PALETTE[6], RGBColor(255, 255, 255)),
];

/// Rules that round the corners of lines, whose points would else reach beyond
/// the values, and recolour a figure where a dark page is preferred. They speak of
/// the colours themselves, since the drawing library names no classes; print
/// keeps white paper.
pub(super) fn dark_rules() -> String {
    let hex = |RGBColor(r, g, b): RGBColor| format!("#{r:02X}{g:02X}{b:02X}");
    let rules = IN_THE_DARK.iter().map(|&(light, dark)| {
        let (light, dark) = (hex(light), hex(dark));
        format!("svg [fill=\"{light}\"]{{fill:{dark}}}svg [stroke=\"{light}\"]{{stroke:{dark}}}")
    });
    let rules: String = rules.collect();
    format!(
        "svg polyline{{stroke-linejoin:round}}@media screen and (prefers-color-scheme:dark){{{rules}}}"
    )
}

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

    /// Of series number `i` where lines are thin and jagged: solid as long as
    /// there are colours.
    pub(super) fn thin(i: usize) -> Self {
        Self { dash: DASHES[i / PALETTE.len() % DASHES.len()], ..Self::of(i) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Contrast ratio of two colours as WCAG 2 defines it, from 1 to 21.
    fn contrast(a: RGBColor, b: RGBColor) -> f64 {
        let linear = |part: u8| {
            let part = f64::from(part) / 255.0;
            if part <= 0.04045 { part / 12.92 } else { ((part + 0.055) / 1.055).powf(2.4) }
        };
        let luminance = |RGBColor(r, g, b): RGBColor| {
            0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b)
        };
        let (a, b) = (luminance(a), luminance(b));
        (a.max(b) + 0.05) / (a.min(b) + 0.05)
    }

    #[test]
    fn every_colour_has_a_counterpart_in_the_dark_that_can_be_read() {
        let dark = |color: RGBColor| {
            let found = IN_THE_DARK.iter().find(|(light, _)| *light == color);
            found.map(|(_, dark)| *dark).unwrap()
        };
        for text in [INK, PENCIL] {
            assert!(contrast(text, PAPER) >= 4.5);
            assert!(contrast(dark(text), dark(PAPER)) >= 4.5);
        }
        for color in PALETTE {
            assert!(contrast(dark(color), dark(PAPER)) >= 4.5, "{color:?}");
        }
        let rules = dark_rules();
        assert!(rules.contains("svg [fill=\"#FFFFFF\"]{fill:#15181D}"), "{rules}");
        assert!(!rules.contains("#212121") && !rules.contains("#FEFEFE"), "text on colours stays");
    }

    #[test]
    fn a_hundred_and_forty_series_look_different() {
        let looks: Vec<Look> = (0..140).map(Look::of).collect();
        for (i, look) in looks.iter().enumerate() {
            assert!(!looks[..i].contains(look), "{i}");
        }
    }
}
