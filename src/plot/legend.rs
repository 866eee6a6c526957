//! Legends: samples with their labels, in rows as wide as the figure.

use super::axes::{strike, whisker};
use super::canvas::{Canvas, Drawn, Position, Script, Side, fitted, text_width};
use super::style::{INK, Look, Marker, PENCIL, TEXT_SIZE};
use plotters::prelude::DrawingBackend;

/// Sizes in points.
const ROW: f64 = 20.0;
const SAMPLE: f64 = 34.0;

/// What stands before a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sample {
    /// The line of a series, with its marker.
    Series(usize),
    /// A thin line without markers.
    Plain(usize),
    /// The area between the bounds of an interval.
    Band,
    /// An interval as an upright line.
    Upright,
    /// An interval at the end of a bar.
    Whisker,
    /// A published number.
    Published,
    /// A published number that does not count.
    Uncounted,
    /// A limit.
    Dashed,
}

/// Entries, wrapped into rows.
#[derive(Clone, Debug, Default)]
pub(super) struct Legend(Vec<Vec<(String, Sample)>>);

impl Legend {
    /// Entries in order, in rows of at most `room` points.
    pub(super) fn new(entries: Vec<(String, Sample)>, room: f64) -> Self {
        let mut rows: Vec<Vec<(String, Sample)>> = Vec::new();
        let mut used = 0.0;
        for (label, sample) in entries {
            let label = fitted(&label, TEXT_SIZE, room - SAMPLE);
            let width = entry_width(&label);
            match rows.last_mut() {
                Some(row) if used + width <= room => row.push((label, sample)),
                _ => {
                    used = 0.0;
                    rows.push(vec![(label, sample)]);
                }
            }
            used += width;
        }
        Self(rows)
    }

    /// Points from the middle of the first row to below the last.
    pub(super) fn height(&self) -> f64 {
        self.0.len() as f64 * ROW
    }

    /// Draws the rows; the first one's middle is at the height of the place.
    pub(super) fn draw<B: DrawingBackend>(
        &self,
        canvas: &Canvas<'_, B>,
        (left, top): Position,
    ) -> Drawn<B> {
        for (i, row) in self.0.iter().enumerate() {
            let y = top + i as f64 * ROW;
            let mut x = left;
            for (label, sample) in row {
                draw_sample(canvas, *sample, (x, y))?;
                let script = Script::ink(TEXT_SIZE, Side::Left);
                canvas.text(label, (x + SAMPLE, y), script)?;
                x += entry_width(label);
            }
        }
        Ok(())
    }
}

fn draw_sample<B: DrawingBackend>(
    canvas: &Canvas<'_, B>,
    sample: Sample,
    (x, y): Position,
) -> Drawn<B> {
    let (middle, across) = ((x + 13.0, y), [(x, y), (x + 26.0, y)]);
    match sample {
        Sample::Series(series) => {
            let look = Look::of(series);
            canvas.line(&across, look.color, 2.0, look.dash)?;
            canvas.marker(middle, look.marker, look.color)
        }
        Sample::Plain(series) => {
            let look = Look::thin(series);
            canvas.line(&across, look.color, 2.0, look.dash)
        }
        Sample::Band => canvas.rectangle((x, y - 6.0), (x + 26.0, y + 6.0), PENCIL, 0.25),
        Sample::Upright => {
            canvas.line(&[(middle.0, y - 8.0), (middle.0, y + 8.0)], PENCIL, 1.3, &[])
        }
        Sample::Whisker => whisker(canvas, x + 3.0, x + 23.0, y),
        Sample::Published => canvas.hollow(middle, Marker::Circle, PENCIL),
        Sample::Uncounted => {
            canvas.hollow(middle, Marker::Circle, PENCIL)?;
            strike(canvas, middle)
        }
        Sample::Dashed => canvas.line(&across, INK, 1.2, &[6.0, 4.0]),
    }
}

fn entry_width(label: &str) -> f64 {
    // Fonts that stand in for the embedded one in an SVG are up to an eighth wider.
    SAMPLE + 1.12 * text_width(label, TEXT_SIZE) + 14.0
}
