//! Drawing in points (1/96 inch at normal size) on whatever the drawing
//! library can draw on.
//!
//! The library places everything on whole pixels. So figures are drawn
//! [`FINE`] times larger than shown: the SVG is scaled back by its header, the
//! bitmap by averaging pixels, which also smooths its edges.

use super::style::{INK, Marker, PAPER, PENCIL, family};
use plotters::coord::Shift;
use plotters::drawing::{DrawingArea, DrawingAreaErrorKind};
use plotters::element::{PathElement, Polygon, Text};
use plotters::prelude::DrawingBackend;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, FontDesc, FontFamily, FontStyle, RGBColor, ShapeStyle, TextStyle};
use std::cell::RefCell;

/// Pixels of the drawing per point.
pub(super) const FINE: u32 = 4;

/// The result of drawing something.
pub(super) type Drawn<B> = Result<(), DrawingAreaErrorKind<<B as DrawingBackend>::ErrorType>>;

/// A place in points, from the top left.
pub(super) type Position = (f64, f64);

/// Which end of a text is at its place.
#[derive(Clone, Copy, Debug)]
pub(super) enum Side {
    Left,
    Middle,
    Right,
}

/// What is drawn on. The drawing library makes text of different size and
/// height for the two; [`Script::style`] and [`Canvas::text`] make up for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Surface {
    Svg,
    Bitmap,
}

/// In an SVG the font size is the library's size divided by this.
const SVG_SIZE: f64 = 1.24;
/// On a bitmap the library's size is the height of a line: ascent and descent
/// of Roboto, 1900 and 500 of 2048 units.
const LINE_HEIGHT: f64 = 2400.0 / 2048.0;

/// How a text is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Script {
    /// Font size in points.
    pub(super) size: f64,
    pub(super) color: RGBColor,
    pub(super) side: Side,
}

impl Script {
    /// Text in the main colour.
    pub(super) fn ink(size: f64, side: Side) -> Self {
        Self { size, color: INK, side }
    }

    /// Secondary text.
    pub(super) fn pencil(size: f64, side: Side) -> Self {
        Self { size, color: PENCIL, side }
    }

    fn style(self, medium: Surface) -> TextStyle<'static> {
        let h = match self.side {
            Side::Left => HPos::Left,
            Side::Middle => HPos::Center,
            Side::Right => HPos::Right,
        };
        let scale = if medium == Surface::Svg { SVG_SIZE } else { LINE_HEIGHT };
        let size = self.size * scale * f64::from(FINE);
        let font = FontDesc::new(FontFamily::Name(family()), size, FontStyle::Normal);
        let mut style = TextStyle::from(font).pos(Pos::new(h, VPos::Center));
        style.color = self.color.to_backend_color();
        style
    }
}

/// A surface to draw on, in points.
pub(super) struct Canvas<'a, B: DrawingBackend> {
    area: &'a DrawingArea<B, Shift>,
    medium: Surface,
    spots: RefCell<Vec<Spot>>,
}

/// A value of the figure, to be read where a pointer rests on it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Spot {
    /// Where it is, in points.
    pub(super) at: Position,
    /// What it says.
    pub(super) text: String,
}

impl<'a, B: DrawingBackend> Canvas<'a, B> {
    /// A surface without anything on it.
    pub(super) fn new(area: &'a DrawingArea<B, Shift>, medium: Surface) -> Self {
        Self { area, medium, spots: RefCell::new(Vec::new()) }
    }

    /// Says what the value at a place is.
    pub(super) fn spot(&self, at: Position, text: String) {
        self.spots.borrow_mut().push(Spot { at, text });
    }

    /// All values that can be read.
    pub(super) fn into_spots(self) -> Vec<Spot> {
        self.spots.into_inner()
    }
}

impl<B: DrawingBackend> Canvas<'_, B> {
    /// A line through `places`, in dashes if the pattern is not empty.
    pub(super) fn line(
        &self,
        places: &[Position],
        color: RGBColor,
        width: f64,
        dash: &[f64],
    ) -> Drawn<B> {
        let style =
            ShapeStyle { color: color.to_rgba(), filled: false, stroke_width: pixel_width(width) };
        for part in dashes(places, dash) {
            let mut pixels: Vec<(i32, i32)> = part.into_iter().map(pixel).collect();
            // The library cannot join a line to a point where it already is.
            pixels.dedup();
            // Nor does it blunt the points of sharp turns on bitmaps, which would
            // reach far beyond the values: lines end there.
            let is_cut = |at: usize| self.medium == Surface::Bitmap && is_sharp(&pixels, at);
            let mut from = 0;
            for at in 1..pixels.len() {
                if at + 1 == pixels.len() || is_cut(at) {
                    self.area.draw(&PathElement::new(pixels[from..=at].to_vec(), style))?;
                    from = at;
                }
            }
        }
        Ok(())
    }

    /// A filled area.
    pub(super) fn fill(&self, outline: &[Position], color: RGBColor, opacity: f64) -> Drawn<B> {
        let pixels: Vec<(i32, i32)> = outline.iter().copied().map(pixel).collect();
        self.area.draw(&Polygon::new(pixels, color.mix(opacity).filled()))
    }

    /// An upright rectangle from one corner to the opposite one.
    pub(super) fn rectangle(
        &self,
        a: Position,
        b: Position,
        color: RGBColor,
        opacity: f64,
    ) -> Drawn<B> {
        self.fill(&[a, (b.0, a.1), b, (a.0, b.1)], color, opacity)
    }

    /// The paper that all else is drawn on.
    pub(super) fn paper(&self, width: f64, height: f64) -> Drawn<B> {
        match self.medium {
            Surface::Svg => self.rectangle((0.0, 0.0), (width, height), PAPER, 1.0),
            // A bitmap begins as paper: to paint it once more takes a third of a figure's time.
            Surface::Bitmap => Ok(()),
        }
    }

    /// A filled marker with an edge of paper.
    pub(super) fn marker(&self, at: Position, marker: Marker, color: RGBColor) -> Drawn<B> {
        self.fill(&corners(at, marker, 4.4), PAPER, 1.0)?;
        self.fill(&corners(at, marker, 3.6), color, 1.0)
    }

    /// The outline of a marker; what lies below stays visible inside.
    pub(super) fn hollow(&self, at: Position, marker: Marker, color: RGBColor) -> Drawn<B> {
        self.ring(at, marker, (6.4, 3.2), PAPER)?;
        self.ring(at, marker, (5.6, 4.0), color)
    }

    /// The area between two sizes of a marker, as one outline: around the outer
    /// edge, then back around the inner one.
    fn ring(
        &self,
        at: Position,
        marker: Marker,
        (outer, inner): (f64, f64),
        color: RGBColor,
    ) -> Drawn<B> {
        // So that the ring of an angular marker is as wide as that of a circle.
        let inner = outer - (outer - inner) / inner_radius(marker);
        let closed = |size: f64| {
            let mut edge = corners(at, marker, size);
            edge.extend_from_within(..1);
            edge
        };
        let mut outline = closed(outer);
        outline.extend(closed(inner).into_iter().rev());
        self.fill(&outline, color, 1.0)
    }

    /// A text whose middle line is at the height of `at`.
    pub(super) fn text(&self, text: &str, at: Position, script: Script) -> Drawn<B> {
        // An SVG centres text on half the height of small letters, the bitmap
        // sets its base line at a tenth of the line below the middle.
        let lower = if self.medium == Surface::Svg { 0.0 } else { 0.15 * script.size };
        let at = pixel((at.0, at.1 + lower));
        self.area.draw(&Text::new(text.to_owned(), at, script.style(self.medium)))
    }
}

/// True if a line turns back at a place of it.
fn is_sharp(line: &[(i32, i32)], at: usize) -> bool {
    let leg = |a: (i32, i32), b: (i32, i32)| (i64::from(b.0 - a.0), i64::from(b.1 - a.1));
    let (before, after) = (leg(line[at - 1], line[at]), leg(line[at], line[at + 1]));
    before.0 * after.0 + before.1 * after.1 < 0
}

/// Corners of a marker. Sizes are made to look alike: a square is larger than
/// a circle of its width.
fn corners((x, y): Position, marker: Marker, size: f64) -> Vec<Position> {
    match marker {
        Marker::Circle => (0..24)
            .map(|i| f64::from(i) / 24.0 * std::f64::consts::TAU)
            .map(|angle| (x + size * angle.cos(), y + size * angle.sin()))
            .collect(),
        Marker::Square => {
            let s = 0.88 * size;
            vec![(x - s, y - s), (x + s, y - s), (x + s, y + s), (x - s, y + s)]
        }
        Marker::Diamond => {
            let s = 1.22 * size;
            vec![(x, y - s), (x + s, y), (x, y + s), (x - s, y)]
        }
        Marker::Triangle | Marker::Wedge => {
            let s = if marker == Marker::Triangle { 1.3 * size } else { -1.3 * size };
            vec![(x, y - s), (x + 0.87 * s, y + 0.5 * s), (x - 0.87 * s, y + 0.5 * s)]
        }
    }
}

/// Width of a text in points.
pub(super) fn text_width(text: &str, size: f64) -> f64 {
    let style = Script::ink(size, Side::Left).style(Surface::Bitmap);
    // The embedded font has a size for any text.
    let (width, _) = style.font.box_size(text).unwrap_or_default();
    f64::from(width) / f64::from(FINE)
}

/// `text`, or as much of it as fits into `room` points with an ellipsis.
pub(super) fn fitted(text: &str, size: f64, room: f64) -> String {
    if text_width(text, size) <= room {
        return text.to_owned();
    }
    let mut kept: Vec<char> = text.chars().collect();
    while !kept.is_empty() {
        kept.pop();
        let shorter: String = kept.iter().collect::<String>().trim_end().to_owned() + "…";
        if text_width(&shorter, size) <= room {
            return shorter;
        }
    }
    "…".to_owned()
}

/// Cuts a line into the strokes of a dash pattern; the pattern runs on through corners.
fn dashes(places: &[Position], pattern: &[f64]) -> Vec<Vec<Position>> {
    if pattern.is_empty() {
        return vec![places.to_vec()];
    }
    let mut strokes = Vec::new();
    let mut stroke: Vec<Position> = places.first().copied().into_iter().collect();
    let mut part = 0;
    let mut left = pattern[0];
    for pair in places.windows(2) {
        let (from, to) = (pair[0], pair[1]);
        let length = (to.0 - from.0).hypot(to.1 - from.1);
        let mut done = 0.0;
        while length - done > left {
            done += left;
            let f = done / length;
            let here = (from.0 + f * (to.0 - from.0), from.1 + f * (to.1 - from.1));
            if part % 2 == 0 {
                stroke.push(here);
                strokes.push(std::mem::take(&mut stroke));
            } else {
                stroke = vec![here];
            }
            part = (part + 1) % pattern.len();
            left = pattern[part];
        }
        left -= length - done;
        if part % 2 == 0 {
            stroke.push(to);
        }
    }
    if stroke.len() > 1 {
        strokes.push(stroke);
    }
    strokes
}

/// Radius of the largest circle inside a marker of size 1.
fn inner_radius(marker: Marker) -> f64 {
    match marker {
        Marker::Circle => 1.0,
        Marker::Square => 0.88,
        Marker::Diamond => 1.22 * std::f64::consts::FRAC_1_SQRT_2,
        Marker::Triangle | Marker::Wedge => 1.3 * 0.5,
    }
}

#[expect(clippy::cast_possible_truncation, reason = "`as` saturates, far outside of any figure")]
fn pixel((x, y): Position) -> (i32, i32) {
    let fine = f64::from(FINE);
    ((x * fine).round() as i32, (y * fine).round() as i32)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "widths are small and positive"
)]
fn pixel_width(points: f64) -> u32 {
    ((points * f64::from(FINE)).round() as u32).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn dashes_cover_their_share_of_the_line(
            places in prop::collection::vec((0.0..500.0f64, 0.0..500.0f64), 2..6)
        ) {
            let length = |line: &[Position]| -> f64 {
                line.windows(2).map(|p| (p[1].0 - p[0].0).hypot(p[1].1 - p[0].1)).sum()
            };
            let drawn: f64 = dashes(&places, &[3.0, 1.0]).iter().map(|d| length(d)).sum();
            // Whole periods are drawn for three quarters, the last one for at most 3 points.
            let whole = (length(&places) / 4.0).floor();
            prop_assert!(drawn >= 3.0 * whole - 1e-6 && drawn <= 3.0 * (whole + 1.0) + 1e-6);
        }
    }

    #[test]
    fn long_texts_are_cut_to_fit() {
        let text = "a label that is much longer than there is room for";
        let cut = fitted(text, 12.0, 80.0);
        assert!(cut.ends_with('…') && text_width(&cut, 12.0) <= 80.0, "{cut}");
        assert_eq!(fitted("short", 12.0, 80.0), "short");
        assert_eq!(fitted("short", 12.0, 0.0), "…");
    }
}
