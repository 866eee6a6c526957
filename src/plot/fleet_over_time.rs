//! The figure of a fleet that changes: hits, times to the first token and errors
//! over time, a line per simulation, with the changes marked.

use super::axes::{Plot, draw_axes};
use super::canvas::{Canvas, Drawn, Position, Script, Side, fitted, text_width};
use super::drawing::footer;
use super::scale::{Scale, ScaleKind};
use super::sheet::{Form, NARROW, Sheet, time_unit};
use super::style::{FRAME, Look, MARGIN, SMALL_SIZE, TEXT_SIZE, TITLE_SIZE};
use crate::experiment::results::Provenance;
use crate::metrics::short;
use crate::report::view::fleet_over_time::{FleetOverTime, FleetsOverTime};
use crate::report::view::plain;
use plotters::prelude::DrawingBackend;

/// Sizes in points.
const WIDTH: f64 = 940.0;
const HEADER: f64 = 52.0;
const LEGEND_ROW: f64 = 20.0;
const PANEL_HEIGHT: f64 = 150.0;
const PANEL: f64 = 30.0 + PANEL_HEIGHT + 48.0;

/// The most lines of one figure; more could not be read.
const MOST_LINES: usize = 7;

/// See the module.
pub(super) struct FleetSheet<'a> {
    provenance: &'a Provenance,
    lines: &'a [FleetOverTime],
    /// What happens when, in seconds since the start.
    changes: &'a [(f64, String)],
}

type Values = fn(&FleetOverTime) -> &Vec<Option<f64>>;

/// Title, values, and what they are; times are in ms.
const PANELS: [(&str, Values, ScaleKind); 3] = [
    ("hit ratio", |line| &line.hit_ratio, ScaleKind::Ratio),
    ("TTFT p95", |line| &line.ttft_ms_p95, ScaleKind::Time),
    ("requests not served", |line| &line.error_ratio, ScaleKind::Ratio),
];

fn width(form: Form) -> f64 {
    if form == Form::Narrow { f64::from(NARROW) } else { WIDTH }
}

impl<'a> FleetSheet<'a> {
    pub(super) fn new(
        provenance: &'a Provenance,
        FleetsOverTime { lines, changes }: &'a FleetsOverTime,
    ) -> Self {
        Self { provenance, lines: &lines[..lines.len().min(MOST_LINES)], changes }
    }

    fn draw_panel<B: DrawingBackend>(
        &self,
        canvas: &Canvas<'_, B>,
        (top, width): (f64, f64),
        (title, values, kind): (&str, Values, ScaleKind),
    ) -> Drawn<B> {
        let Some(seconds) = self.lines.first().map(|line| &line.seconds) else { return Ok(()) };
        let (Some(&first), Some(&last)) = (seconds.first(), seconds.last()) else { return Ok(()) };
        let x_scale = Scale::for_time(first, last);
        let shown = || self.lines.iter().flat_map(|line| values(line).iter().flatten().copied());
        let (factor, unit) = match kind {
            ScaleKind::Time => time_unit(shown().fold(0.0, f64::max)),
            _ => (1.0, "%"),
        };
        // From zero, and so never logarithmic: what a change does is read off heights.
        let scaled = shown().map(|value| value * factor);
        let y_scale = Scale::for_y([0.0, 1.0].into_iter().chain(scaled), kind);
        let title = &format!("{title} ({unit})");
        let widest = y_scale.ticks.iter().map(|tick| text_width(&tick.label, SMALL_SIZE));
        let plot = Plot {
            left: MARGIN + widest.fold(0.0, f64::max) + 10.0,
            right: width - MARGIN,
            top: top + 30.0,
            bottom: top + 30.0 + PANEL_HEIGHT,
        };
        canvas.text(title, (MARGIN, top + 12.0), Script::ink(TEXT_SIZE, Side::Left))?;
        draw_axes(canvas, &plot, &x_scale, &y_scale, "time (s)")?;
        let inside = |at: &f64| (first..=last).contains(at);
        for (at, _) in self.changes.iter().filter(|(at, _)| inside(at)) {
            let x = plot.x(&x_scale, *at);
            canvas.line(&[(x, plot.top), (x, plot.bottom)], FRAME, 1.2, &[5.0, 3.0])?;
        }
        for (index, line) in self.lines.iter().enumerate() {
            let Look { color, dash, .. } = Look::of(index);
            let mut stretch: Vec<Position> = Vec::new();
            for (second, value) in seconds.iter().zip(values(line)) {
                match value {
                    Some(value) => {
                        let value = value * factor;
                        let place = (plot.x(&x_scale, *second), plot.y(&y_scale, value));
                        let label = label(line);
                        canvas.spot(place, format!("{label}, {second} s: {} {unit}", short(value)));
                        stretch.push(place);
                    }
                    None => canvas.line(&std::mem::take(&mut stretch), color, 1.6, dash)?,
                }
            }
            canvas.line(&stretch, color, 1.6, dash)?;
        }
        Ok(())
    }

    fn draw_legend<B: DrawingBackend>(&self, canvas: &Canvas<'_, B>, width: f64) -> Drawn<B> {
        for (index, line) in self.lines.iter().enumerate() {
            let y = HEADER + LEGEND_ROW * index as f64;
            let Look { color, dash, .. } = Look::of(index);
            canvas.line(&[(MARGIN, y - 4.0), (MARGIN + 34.0, y - 4.0)], color, 1.6, dash)?;
            let label = fitted(&label(line), SMALL_SIZE, width - 2.0 * MARGIN - 44.0);
            canvas.text(&label, (MARGIN + 44.0, y), Script::ink(SMALL_SIZE, Side::Left))?;
        }
        Ok(())
    }
}

impl Sheet for FleetSheet<'_> {
    fn name(&self) -> String {
        "fleet_over_time".to_owned()
    }

    fn title(&self) -> String {
        "the fleet over time".to_owned()
    }

    fn alt(&self) -> String {
        let changes: Vec<String> =
            self.changes.iter().map(|(at, what)| format!("{what} at {at:.0} s")).collect();
        format!(
            "Hit ratio, time to first token and requests not served over time; changes: {}.",
            if changes.is_empty() { "the planner's".to_owned() } else { changes.join(", ") }
        )
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a few hundred points"
    )]
    fn size(&self, form: Form) -> (u32, u32) {
        let legend = LEGEND_ROW * (self.lines.len() + 1) as f64;
        (width(form) as u32, (HEADER + legend + PANEL * PANELS.len() as f64 + 30.0) as u32)
    }

    fn draw<B: DrawingBackend>(&self, canvas: &Canvas<'_, B>, form: Form) -> Drawn<B> {
        let width = width(form);
        let (_, height) = self.size(form);
        canvas.paper(width, f64::from(height))?;
        let title = format!("{}: the fleet over time", self.provenance.experiment);
        let title = fitted(&title, TITLE_SIZE, width - 2.0 * MARGIN);
        canvas.text(&title, (MARGIN, 24.0), Script::ink(TITLE_SIZE, Side::Left))?;
        self.draw_legend(canvas, width)?;
        let happens = self.changes.iter().map(|(at, what)| format!("{what} at {at} s"));
        let happens = happens.collect::<Vec<_>>().join(", ");
        let below = HEADER + LEGEND_ROW * self.lines.len() as f64;
        let dashed = match happens.as_str() {
            "" => "All seeds together, in intervals of 10 s.".to_owned(),
            happens => format!("Dashed: {happens}. All seeds together, in intervals of 10 s."),
        };
        let dashed = fitted(&dashed, SMALL_SIZE, width - 2.0 * MARGIN);
        canvas.text(&dashed, (MARGIN, below), Script::pencil(SMALL_SIZE, Side::Left))?;
        for (index, panel) in PANELS.into_iter().enumerate() {
            self.draw_panel(canvas, (below + 16.0 + PANEL * index as f64, width), panel)?;
        }
        let footer = fitted(&footer(self.provenance), SMALL_SIZE, width - 2.0 * MARGIN);
        let place = (MARGIN, f64::from(height) - 12.0);
        canvas.text(&footer, place, Script::pencil(SMALL_SIZE, Side::Left))
    }
}

/// The parameters' values; the policy only where nothing else says which.
fn label(line: &FleetOverTime) -> String {
    let shown = |(key, value): (&String, &serde_json::Value)| {
        let named = line.params.contains_key("variant") && key == "router.policy";
        (!named).then(|| match key.as_str() {
            "variant" | "router.policy" => plain(value),
            _ => format!("{} {}", key.rsplit('.').next().unwrap_or(key), plain(value)),
        })
    };
    line.params.iter().filter_map(shown).collect::<Vec<_>>().join(", ")
}
