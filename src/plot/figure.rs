//! A figure as it is written: SVG for wide and narrow screens, and PNG.

use super::canvas::{Canvas, FINE, Spot, Surface};
use super::sheet::{Form, Sheet};
use super::style::{self, PAPER};
use maud::html;
use plotters::backend::{BitMapBackend, RGBPixel, SVGBackend};
use plotters::drawing::IntoDrawingArea;
use plotters::style::RGBColor;
use rayon::prelude::*;

/// Pixels of the PNG per point: sharp on screens with double resolution.
const PNG_PIXELS: u32 = 2;

/// A figure, ready to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Figure {
    /// Name of the file without its ending, as `ttft_ms`.
    pub name: String,
    /// What is shown, as a heading.
    pub title: String,
    /// The same in words, for those who cannot see it.
    pub alt: String,
    /// The figure as SVG; it turns dark where a dark page is preferred, and says its
    /// values where a pointer rests on them.
    pub svg: String,
    /// The same with one panel per row, for narrow screens.
    pub narrow: String,
    /// The figure as PNG, at twice the size of the SVG, if it was drawn for
    /// [`DrawnFor::Files`].
    pub png: Option<Vec<u8>>,
}

impl Figure {
    /// The files that it is kept as: names and contents.
    pub fn files(&self) -> impl Iterator<Item = (String, &[u8])> {
        let svg = (format!("{}.svg", self.name), self.svg.as_bytes());
        let png = self.png.as_deref().map(|png| (format!("{}.png", self.name), png));
        [svg].into_iter().chain(png)
    }
}

/// Where figures go. A PNG takes many times as long as both SVGs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrawnFor {
    /// A page of HTML, which holds the SVGs.
    Page,
    /// Files of their own: SVG and PNG.
    Files,
}

/// Any sheet, for lists of several kinds.
pub(super) trait Plate: Sync {
    /// Draws it.
    fn figure(&self, drawn_for: DrawnFor) -> Figure;
}

impl<S: Sheet + Sync> Plate for S {
    fn figure(&self, drawn_for: DrawnFor) -> Figure {
        let (name, title, alt) = (self.name(), self.title(), self.alt());
        let [wide, narrow] = [Form::Wide, Form::Narrow].map(|form| svg(self, form));
        let png = (drawn_for == DrawnFor::Files).then(|| png(self));
        Figure { name, title, alt, svg: wide, narrow, png }
    }
}

/// Draws sheets at the same time, on the threads that the caller runs on.
pub(super) fn draw_all(sheets: &[Box<dyn Plate + '_>], drawn_for: DrawnFor) -> Vec<Figure> {
    sheets.par_iter().with_max_len(1).map(|sheet| sheet.figure(drawn_for)).collect()
}

pub(super) fn svg(drawing: &impl Sheet, form: Form) -> String {
    let (width, height) = drawing.size(form);
    let mut text = String::new();
    let spots = {
        let backend = SVGBackend::with_string(&mut text, (width * FINE, height * FINE));
        let area = backend.into_drawing_area();
        let canvas = Canvas::new(&area, Surface::Svg);
        let drawn = drawing.draw(&canvas, form).and_then(|()| area.present());
        drawn.expect("drawing into memory does not fail");
        canvas.into_spots()
    };
    // Shown at its size in points; the view box keeps the finer units inside.
    let fine = format!("width=\"{}\" height=\"{}\"", width * FINE, height * FINE);
    let text = text.replacen(&fine, &format!("width=\"{width}\" height=\"{height}\""), 1);
    let (title, alt) = (drawing.title(), drawing.alt());
    let label = format!("{title}. {alt}");
    let role = html! { (label) }.into_string();
    let style = style::dark_rules();
    let text = text.replacen(
        '>',
        &format!(" role=\"img\" aria-label=\"{role}\">\n<style>{style}</style>"),
        1,
    );
    with_spots(text, &spots)
}

/// The values of a figure as circles that cannot be seen, each with its text.
fn with_spots(svg: String, spots: &[Spot]) -> String {
    /// Points around a value at which it is said.
    const RADIUS: f64 = 7.0;
    let Some(body) = svg.strip_suffix("</svg>\n").filter(|_| !spots.is_empty()) else {
        return svg;
    };
    let fine = |points: f64| format!("{:.0}", points * f64::from(FINE));
    let circles = html! {
        g class="spots" fill-opacity="0" { @for Spot { at: (x, y), text } in spots {
            circle cx=(fine(*x)) cy=(fine(*y)) r=(fine(RADIUS)) { title { (text) } }
        } }
    };
    format!("{body}{}\n</svg>\n", circles.into_string())
}

fn png(drawing: &impl Sheet) -> Vec<u8> {
    let (width, height) = drawing.size(Form::Wide);
    let (wide, high) = (width * FINE, height * FINE);
    let RGBColor(red, green, blue) = PAPER;
    let mut pixels = [red, green, blue].repeat(wide as usize * high as usize);
    {
        let backend = BitMapBackend::<RGBPixel>::with_buffer_and_format(&mut pixels, (wide, high))
            .expect("the buffer has the size of the picture");
        let area = backend.into_drawing_area();
        let canvas = Canvas::new(&area, Surface::Bitmap);
        let drawn = drawing.draw(&canvas, Form::Wide).and_then(|()| area.present());
        drawn.expect("drawing into memory does not fail");
    }
    let small = shrink(&pixels, wide as usize);
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width * PNG_PIXELS, height * PNG_PIXELS);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    // A row is mostly the one above it; to try all filters takes longer and saves nothing.
    encoder.set_filter(png::Filter::Up);
    let written = encoder.write_header().and_then(|mut writer| writer.write_image_data(&small));
    written.expect("encoding into memory does not fail");
    bytes
}

/// Side of the square of drawn pixels that becomes one of the PNG.
const SIDE: usize = (FINE / PNG_PIXELS) as usize;

/// Averages squares of pixels of a picture `width` pixels wide, three bytes a pixel.
fn shrink(pixels: &[u8], width: usize) -> Vec<u8> {
    const IN_SQUARE: u32 = (FINE / PNG_PIXELS).pow(2);
    let row = width * 3;
    let mut small = Vec::with_capacity(pixels.len() / (SIDE * SIDE));
    let mut sums = vec![0_u32; row / SIDE];
    let mut before: &[u8] = &[];
    for rows in pixels.chunks_exact(row * SIDE) {
        // Much of a figure is paper and upright lines.
        if rows == before {
            small.extend_from_within(small.len() - row / SIDE..);
            continue;
        }
        before = rows;
        sums.fill(0);
        for row in rows.chunks_exact(row) {
            for (sums, square) in sums.chunks_exact_mut(3).zip(row.chunks_exact(3 * SIDE)) {
                for pixel in square.chunks_exact(3) {
                    sums.iter_mut().zip(pixel).for_each(|(sum, color)| *sum += u32::from(*color));
                }
            }
        }
        let means = sums.iter().map(|sum| u8::try_from(sum / IN_SQUARE));
        small.extend(means.map(|mean| mean.unwrap_or(u8::MAX)));
    }
    small
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn colors(seed: u8) -> impl Iterator<Item = u8> {
        (0..=250).cycle().map(move |at: u8| seed.wrapping_mul(at))
    }

    proptest! {
        /// Every byte of the small picture is the mean of its square, also where rows repeat.
        #[test]
        fn a_small_picture_has_the_means_of_squares(
            wide in 1usize..9,
            rows in prop::collection::vec((any::<u8>(), any::<bool>()), 1..9),
        ) {
            let width = wide * SIDE;
            let mut pixels: Vec<u8> = Vec::new();
            for (seed, repeats) in rows {
                let square_row = width * 3 * SIDE;
                match pixels.len().checked_sub(square_row).filter(|_| repeats) {
                    Some(last) => pixels.extend_from_within(last..),
                    None => pixels.extend(colors(seed).take(square_row)),
                }
            }
            let small = shrink(&pixels, width);
            prop_assert_eq!(small.len() * SIDE * SIDE, pixels.len());
            for (at, mean) in small.iter().enumerate() {
                let (y, x, color) = (at / 3 / wide, at / 3 % wide, at % 3);
                let square = (0..SIDE * SIDE).map(|i| {
                    let (y, x) = (y * SIDE + i / SIDE, x * SIDE + i % SIDE);
                    usize::from(pixels[(y * width + x) * 3 + color])
                });
                prop_assert_eq!(usize::from(*mean), square.sum::<usize>() / (SIDE * SIDE));
            }
        }
    }
}
