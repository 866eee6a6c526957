//! A figure as it is written: SVG for wide and narrow screens, and PNG.

use super::canvas::{Canvas, FINE, Spot, Surface};
use super::sheet::{Form, Sheet};
use super::style;
use maud::html;
use plotters::backend::{BitMapBackend, RGBPixel, SVGBackend};
use plotters::drawing::IntoDrawingArea;

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
    /// The figure as PNG, at twice the size of the SVG.
    pub png: Vec<u8>,
}

impl Figure {
    pub(super) fn new(sheet: &impl Sheet) -> Self {
        let (name, title, alt) = (sheet.name(), sheet.title(), sheet.alt());
        let [wide, narrow] = [Form::Wide, Form::Narrow].map(|form| svg(sheet, form));
        Self { name, title, alt, svg: wide, narrow, png: png(sheet) }
    }
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
    let mut pixels = vec![255; wide as usize * high as usize * 3];
    {
        let backend = BitMapBackend::<RGBPixel>::with_buffer_and_format(&mut pixels, (wide, high))
            .expect("the buffer has the size of the picture");
        let area = backend.into_drawing_area();
        let canvas = Canvas::new(&area, Surface::Bitmap);
        let drawn = drawing.draw(&canvas, Form::Wide).and_then(|()| area.present());
        drawn.expect("drawing into memory does not fail");
    }
    let small = shrink(&pixels, wide as usize, (FINE / PNG_PIXELS) as usize);
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width * PNG_PIXELS, height * PNG_PIXELS);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let written = encoder.write_header().and_then(|mut writer| writer.write_image_data(&small));
    written.expect("encoding into memory does not fail");
    bytes
}

/// Averages squares of `by` x `by` pixels of a picture `width` pixels wide,
/// three bytes a pixel.
fn shrink(pixels: &[u8], width: usize, by: usize) -> Vec<u8> {
    let row = width * 3;
    let mut small = Vec::with_capacity(pixels.len() / (by * by));
    for rows in pixels.chunks_exact(row * by) {
        for x in 0..width / by {
            for color in 0..3 {
                let square = (0..by * by).map(|i| {
                    let (dx, dy) = (i % by, i / by);
                    usize::from(rows[dy * row + (x * by + dx) * 3 + color])
                });
                let mean = square.sum::<usize>() / (by * by);
                small.push(u8::try_from(mean).unwrap_or(u8::MAX));
            }
        }
    }
    small
}
