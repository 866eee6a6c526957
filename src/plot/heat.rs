//! Heat maps: a metric over two swept keys, a panel for every combination of
//! the other ones.

use super::canvas::{Canvas, Drawn, Position, Script, Side, fitted, text_width};
use super::drawing::{extent_text, footer};
use super::scale::{Scale, ScaleKind, is_drawable};
use super::sheet::{Form, NARROW, Sheet, time_unit};
use super::style::{
    FRAME, GRID, INK, MARGIN, ON_DARK, ON_LIGHT, PAPER, PENCIL, SMALL_SIZE, TEXT_SIZE, TITLE_SIZE,
};
use crate::experiment::results::Point;
use crate::metrics::{Better, Metric, rounded, short};
use crate::report::judge::tuning::{Case, Key, Tuning};
use crate::report::view::{plain, unit_of};
use plotters::prelude::DrawingBackend;
use plotters::style::RGBColor;

/// Sizes in points.
const CELL_HEIGHT: f64 = 26.0;
const WIDEST_CELL: f64 = 64.0;
const NARROWEST_CELL: f64 = 38.0;
/// Panels share rows up to this width.
const FULL_WIDTH: f64 = 940.0;
const BAR_WIDTH: f64 = 16.0;
const LEGEND_ROW: f64 = 20.0;

/// Ten steps of viridis (Smith and van der Walt, public domain): even in
/// lightness, so that it reads in grey and with any colour vision.
const VIRIDIS: [RGBColor; 10] = [
    RGBColor(68, 1, 84),
    RGBColor(72, 40, 120),
    RGBColor(62, 73, 137),
    RGBColor(49, 104, 142),
    RGBColor(38, 130, 142),
    RGBColor(31, 158, 137),
    RGBColor(53, 183, 121),
    RGBColor(110, 206, 88),
    RGBColor(181, 222, 43),
    RGBColor(253, 231, 37),
];

/// The heat map of one metric before it is drawn.
pub(super) struct HeatMap<'a> {
    tuning: &'a Tuning<'a>,
    metric: Metric,
    x: &'a Key<'a>,
    y: &'a Key<'a>,
    panels: Vec<Panel<'a>>,
    scale: Scale,
    /// What values are multiplied by, and their unit then.
    shown_in: (f64, &'static str),
}

/// The points that differ only in the two keys.
struct Panel<'a> {
    title: String,
    points: Vec<&'a Point>,
    /// Whose best setting and Pareto front are marked.
    case: &'a Case<'a>,
}

impl<'a> HeatMap<'a> {
    /// `metric` over the two swept settings with most values (conditions, where
    /// settings are too few); `None` if only one key was swept.
    pub(super) fn new(tuning: &'a Tuning<'a>, metric: &str) -> Option<Self> {
        let by_values = |keys: &'a [Key<'a>]| {
            let mut keys: Vec<&Key<'_>> = keys.iter().collect();
            keys.sort_by_key(|key| std::cmp::Reverse(key.values.len()));
            keys
        };
        let settings = by_values(&tuning.settings);
        let keys: Vec<&Key<'_>> =
            settings.into_iter().chain(by_values(&tuning.conditions)).collect();
        let (x, y) = match keys.as_slice() {
            [a, b, ..] if a.values.len() >= b.values.len() => (*a, *b),
            [a, b, ..] => (*b, *a),
            _ => return None,
        };
        let metric = Metric::of(metric);
        let rest: Vec<&Key<'_>> = keys.into_iter().skip(2).collect();
        let mut panels: Vec<(Vec<Option<usize>>, Panel<'_>)> = Vec::new();
        for case in &tuning.cases {
            for point in &case.points {
                let place: Vec<_> = rest.iter().map(|key| key.index(point)).collect();
                match panels.iter_mut().find(|(known, _)| *known == place) {
                    Some((_, panel)) => panel.points.push(point),
                    None => {
                        let title = title(&rest, point);
                        panels.push((place, Panel { title, points: vec![point], case }));
                    }
                }
            }
        }
        let panels: Vec<Panel<'_>> = panels.into_iter().map(|(_, panel)| panel).collect();
        let points = &tuning.summary.points;
        let longest = points.iter().filter_map(|p| value(&metric, p)).fold(0.0, f64::max);
        let shown_in = if metric.unit == "ms" { time_unit(longest) } else { (1.0, metric.unit) };
        let kind = match metric.unit {
            "ms" => ScaleKind::Time,
            _ if metric.is_ratio() => ScaleKind::Ratio,
            _ => ScaleKind::Amount,
        };
        let values = points.iter().filter_map(|p| Some(value(&metric, p)? * shown_in.0));
        let scale = Scale::for_y(values, kind);
        // Colours tell settings apart that differ by more than their errors.
        let mut widths: Vec<f64> = points
            .iter()
            .filter_map(|point| {
                let [low, high] = point.metrics.get(&metric.name)?.ci95?;
                let [low, high] = [low, high].map(|bound| metric.shown(bound) * shown_in.0);
                let width = if scale.is_log() { high / low.max(high / 1e3) } else { high - low };
                Some(width).filter(|width| is_drawable(*width))
            })
            .collect();
        widths.sort_by(f64::total_cmp);
        let scale = match widths.get(widths.len() / 2) {
            Some(median) => scale.at_least(*median),
            None => scale,
        };
        Some(Self { tuning, metric, x, y, panels, scale, shown_in })
    }

    /// What a point has to show.
    fn value(&self, point: &Point) -> Option<f64> {
        Some(value(&self.metric, point)? * self.shown_in.0)
    }

    fn with_unit(&self) -> String {
        match self.shown_in.1 {
            "" => self.metric.label.clone(),
            unit => format!("{} ({unit})", self.metric.label),
        }
    }

    fn cell_width(&self, form: Form) -> f64 {
        let cells = self.x.values.len() as f64;
        match form {
            Form::Wide => (620.0 / cells).clamp(NARROWEST_CELL, WIDEST_CELL),
            Form::Narrow => {
                let room = f64::from(NARROW) - 2.0 * MARGIN - BAR_WIDTH - 60.0;
                ((room - self.labels_width() - 10.0) / cells).clamp(2.0, WIDEST_CELL)
            }
        }
    }

    /// Room for the labels left of a panel.
    fn labels_width(&self) -> f64 {
        let labels = self.y.values.iter().map(|v| text_width(&label(v), SMALL_SIZE));
        labels.fold(0.0, f64::max) + 10.0
    }

    fn panel_width(&self, form: Form) -> f64 {
        let gap = if form == Form::Narrow { 10.0 } else { 24.0 };
        self.labels_width() + self.x.values.len() as f64 * self.cell_width(form) + gap
    }

    fn panel_height(&self) -> f64 {
        44.0 + self.y.values.len() as f64 * CELL_HEIGHT + 44.0
    }

    fn columns(&self, form: Form) -> usize {
        if form == Form::Narrow {
            return 1;
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few")]
        let fitting = (FULL_WIDTH / self.panel_width(form)).floor() as usize;
        fitting.clamp(1, self.panels.len().max(1))
    }

    fn rows(&self, form: Form) -> usize {
        self.panels.len().div_ceil(self.columns(form))
    }

    fn draw_panel<B: DrawingBackend>(
        &self,
        canvas: &Canvas<'_, B>,
        panel: &Panel<'_>,
        (left, top): Position,
        form: Form,
    ) -> Drawn<B> {
        let ink = |side| Script::ink(TEXT_SIZE, side);
        let y_name = fitted(&named(self.y), SMALL_SIZE, self.panel_width(form) - 20.0);
        canvas.text(&y_name, (left, top + 32.0), Script::pencil(SMALL_SIZE, Side::Left))?;
        let room = self.panel_width(form) - 30.0;
        canvas.text(&fitted(&panel.title, TEXT_SIZE, room), (left, top + 12.0), ink(Side::Left))?;
        let (origin_x, origin_y) = (left + self.labels_width(), top + 44.0);
        let width = self.cell_width(form);
        for (row, shown) in self.y.values.iter().rev().enumerate() {
            let y = origin_y + (row as f64 + 0.5) * CELL_HEIGHT;
            let script = Script::pencil(SMALL_SIZE, Side::Right);
            canvas.text(&label(shown), (origin_x - 6.0, y), script)?;
        }
        let bottom = origin_y + self.y.values.len() as f64 * CELL_HEIGHT;
        // Labels of narrow cells that would run into the one before are left out.
        let mut free_from = f64::NEG_INFINITY;
        for (column, shown) in self.x.values.iter().enumerate() {
            let x = origin_x + (column as f64 + 0.5) * width;
            let room = if form == Form::Wide { width - 3.0 } else { f64::INFINITY };
            let text = fitted(&label(shown), SMALL_SIZE, room);
            let half = text_width(&text, SMALL_SIZE) / 2.0;
            if x - half >= free_from {
                canvas.text(&text, (x, bottom + 12.0), Script::pencil(SMALL_SIZE, Side::Middle))?;
                free_from = x + half + 3.0;
            }
        }
        let middle = origin_x + self.x.values.len() as f64 * width / 2.0;
        canvas.text(&named(self.x), (middle, bottom + 30.0), ink(Side::Middle))?;
        let cell = |point: &Point| {
            let (column, row) = (self.x.index(point)?, self.y.index(point)?);
            let row = self.y.values.len() - 1 - row;
            Some((origin_x + column as f64 * width, origin_y + row as f64 * CELL_HEIGHT))
        };
        for (point, at) in panel.points.iter().filter_map(|point| Some((point, cell(point)?))) {
            self.draw_cell(canvas, point, at, width)?;
        }
        // On top of all cells, whose neighbours would cover half of it.
        for (point, at) in panel.points.iter().filter_map(|point| Some((point, cell(point)?))) {
            self.draw_marks(canvas, panel.case, point, at, width)?;
        }
        Ok(())
    }

    fn draw_cell<B: DrawingBackend>(
        &self,
        canvas: &Canvas<'_, B>,
        point: &Point,
        (x, y): Position,
        width: f64,
    ) -> Drawn<B> {
        let (right, bottom) = (x + width, y + CELL_HEIGHT);
        let middle = (x + width / 2.0, y + CELL_HEIGHT / 2.0);
        let Some(value) = self.value(point) else {
            canvas.rectangle((x, y), (right, bottom), GRID, 1.0)?;
            return canvas.text("-", middle, Script::pencil(SMALL_SIZE, Side::Middle));
        };
        let color = self.color(value);
        canvas.rectangle((x, y), (right, bottom), color, 1.0)?;
        let script = Script {
            size: SMALL_SIZE - 1.0,
            color: if is_dark(color) { ON_DARK } else { ON_LIGHT },
            side: Side::Middle,
        };
        let at = [self.x, self.y].map(|key| {
            let value = point.params.get(key.name).map(label).unwrap_or_default();
            format!("{} {value}", key.short_name())
        });
        canvas.spot(middle, format!("{}: {}", at.join(", "), self.spoken(point, value)));
        let text = short(value);
        if 1.12 * text_width(&text, SMALL_SIZE - 1.0) > width - 3.0 {
            return Ok(());
        }
        canvas.text(&text, middle, script)
    }

    /// `483 ms (470 to 496)`.
    fn spoken(&self, point: &Point, value: f64) -> String {
        let (factor, unit) = self.shown_in;
        match point.metrics.get(&self.metric.name).and_then(|found| found.ci95) {
            Some(bounds) => {
                let [low, high] = bounds.map(|bound| self.metric.shown(bound) * factor);
                let show = rounded(value, (high - low) / 2.0);
                format!("{} {unit} ({} to {})", show(value), show(low.max(0.0)), show(high))
            }
            None => format!("{} {unit}", short(value)),
        }
    }

    fn draw_marks<B: DrawingBackend>(
        &self,
        canvas: &Canvas<'_, B>,
        case: &Case<'_>,
        point: &Point,
        (x, y): Position,
        width: f64,
    ) -> Drawn<B> {
        let is = |place: usize| std::ptr::eq(case.points[place], point);
        if case.best.is_some_and(is) {
            frame(canvas, (x, y), (x + width, y + CELL_HEIGHT))?;
        }
        if case.front.iter().any(|place| is(*place)) {
            notch(canvas, (x + width, y))?;
        }
        Ok(())
    }

    /// Brighter is better; where neither is, higher.
    fn color(&self, value: f64) -> RGBColor {
        let place = self.scale.place(value);
        let good = if self.metric.better == Some(Better::Lower) { 1.0 - place } else { place };
        let scaled = good * (VIRIDIS.len() - 1) as f64;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 9")]
        let below = (scaled.floor() as usize).min(VIRIDIS.len() - 2);
        let (a, b, part) = (VIRIDIS[below], VIRIDIS[below + 1], scaled - below as f64);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 255")]
        let mix =
            |a: u8, b: u8| (f64::from(a) + part * (f64::from(b) - f64::from(a))).round() as u8;
        RGBColor(mix(a.0, b.0), mix(a.1, b.1), mix(a.2, b.2))
    }

    fn draw_bar<B: DrawingBackend>(&self, canvas: &Canvas<'_, B>, (x, top): Position) -> Drawn<B> {
        const SLICES: u32 = 64;
        let height = (self.y.values.len() as f64 * CELL_HEIGHT).max(120.0);
        let bottom = top + height;
        for slice in 0..SLICES {
            let part = |n: u32| f64::from(n) / f64::from(SLICES);
            let value = self.scale.at((part(slice) + part(slice + 1)) / 2.0);
            let (from, to) = (bottom - part(slice) * height, bottom - part(slice + 1) * height);
            canvas.rectangle((x, from), (x + BAR_WIDTH, to), self.color(value), 1.0)?;
        }
        let mut free_below = f64::INFINITY;
        for tick in &self.scale.ticks {
            let y = bottom - self.scale.place(tick.value) * height;
            canvas.line(&[(x + BAR_WIDTH, y), (x + BAR_WIDTH + 4.0, y)], FRAME, 1.0, &[])?;
            if y > free_below {
                continue;
            }
            free_below = y - 1.3 * SMALL_SIZE;
            let script = Script::pencil(SMALL_SIZE, Side::Left);
            canvas.text(&tick.label, (x + BAR_WIDTH + 7.0, y), script)?;
        }
        Ok(())
    }

    fn draw_legend<B: DrawingBackend>(
        &self,
        canvas: &Canvas<'_, B>,
        y: f64,
        form: Form,
    ) -> Drawn<B> {
        let (mut x, mut y) = (MARGIN, y);
        let room = f64::from(self.size(form).0) - MARGIN;
        let best = format!("best {}", self.tuning.metric.label);
        let goals = self.tuning.goals();
        let names: Vec<&str> = goals.iter().map(|goal| goal.label.as_str()).collect();
        let pareto = format!("Pareto front of {}", names.join(", "));
        frame(canvas, (x, y - 7.0), (x + 22.0, y + 7.0))?;
        canvas.text(&best, (x + 28.0, y), Script::ink(TEXT_SIZE, Side::Left))?;
        x += 28.0 + 1.12 * text_width(&best, TEXT_SIZE) + 20.0;
        if goals.len() > 1 {
            if form == Form::Narrow {
                (x, y) = (MARGIN, y + LEGEND_ROW);
            }
            canvas.rectangle((x, y - 7.0), (x + 22.0, y + 7.0), GRID, 1.0)?;
            notch(canvas, (x + 22.0, y - 7.0))?;
            // Fonts that stand in for the embedded one are up to an eighth wider.
            let pareto = fitted(&pareto, TEXT_SIZE, (room - x - 28.0) / 1.12);
            canvas.text(&pareto, (x + 28.0, y), Script::ink(TEXT_SIZE, Side::Left))?;
        }
        Ok(())
    }

    /// Points above the panels.
    fn header_height(&self, form: Form) -> f64 {
        if form == Form::Narrow { 70.0 + LEGEND_ROW } else { 70.0 }
    }
}

impl Sheet for HeatMap<'_> {
    fn name(&self) -> String {
        format!("heat-{}", self.metric.name)
    }

    fn title(&self) -> String {
        let kind = if self.scale.is_log() { ", logarithmic colours" } else { "" };
        format!("{}{kind}", self.with_unit())
    }

    fn alt(&self) -> String {
        let (x, y) = (self.x.short_name(), self.y.short_name());
        let values = self.tuning.summary.points.iter().filter_map(|point| self.value(point));
        let range = extent_text(values);
        let panels = match self.panels.len() {
            1 => String::new(),
            n => format!(", in {n} panels"),
        };
        format!("Heat map of {} over {x} and {y}{panels}: {range}.", self.metric.label)
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a few thousand points for any result set that fits into memory"
    )]
    fn size(&self, form: Form) -> (u32, u32) {
        let height = self.header_height(form) + self.rows(form) as f64 * self.panel_height() + 34.0;
        let panels = self.columns(form) as f64 * self.panel_width(form);
        let width = match form {
            Form::Wide => (MARGIN + panels + BAR_WIDTH + 60.0 + MARGIN).max(700.0),
            Form::Narrow => f64::from(NARROW),
        };
        (width.ceil() as u32, height.ceil() as u32)
    }

    fn draw<B: DrawingBackend>(&self, canvas: &Canvas<'_, B>, form: Form) -> Drawn<B> {
        let (width, height) = self.size(form);
        let (width, height) = (f64::from(width), f64::from(height));
        canvas.paper(width, height)?;
        let experiment = &self.tuning.summary.provenance.experiment;
        let title = format!("{experiment}: {}", self.title());
        let title = fitted(&title, TITLE_SIZE, width - 2.0 * MARGIN);
        canvas.text(&title, (MARGIN, 24.0), Script::ink(TITLE_SIZE, Side::Left))?;
        self.draw_legend(canvas, 50.0, form)?;
        for (i, panel) in self.panels.iter().enumerate() {
            let (row, column) = (i / self.columns(form), i % self.columns(form));
            let left = MARGIN + column as f64 * self.panel_width(form);
            let top = self.header_height(form) + row as f64 * self.panel_height();
            self.draw_panel(canvas, panel, (left, top), form)?;
        }
        let x = MARGIN + self.columns(form) as f64 * self.panel_width(form);
        self.draw_bar(canvas, (x, self.header_height(form) + 44.0))?;
        let footer =
            fitted(&footer(&self.tuning.summary.provenance), SMALL_SIZE, width - 2.0 * MARGIN);
        canvas.text(&footer, (MARGIN, height - 16.0), Script::pencil(SMALL_SIZE, Side::Left))
    }
}

/// A key as an axis says it: `rate (requests/s)`.
fn named(key: &Key<'_>) -> String {
    match unit_of(key.name) {
        "" => key.short_name().to_owned(),
        unit => format!("{} ({unit})", key.short_name()),
    }
}

/// As shown, if it can be drawn.
fn value(metric: &Metric, point: &Point) -> Option<f64> {
    let mean = point.metrics.get(&metric.name)?.mean?;
    Some(metric.shown(mean)).filter(|value| is_drawable(*value))
}

fn label(value: &serde_json::Value) -> String {
    // 1.0 and 1 are one value: the shorter form.
    let text = plain(value);
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

fn title(keys: &[&Key<'_>], point: &Point) -> String {
    let one = |key: &&Key<'_>| {
        Some(format!("{} {}", key.short_name(), label(point.params.get(key.name)?)))
    };
    keys.iter().filter_map(one).collect::<Vec<_>>().join(", ")
}

/// A white text reads better than a black one.
fn is_dark(RGBColor(r, g, b): RGBColor) -> bool {
    0.299 * f64::from(r) + 0.587 * f64::from(g) + 0.114 * f64::from(b) < 130.0
}

/// A bold outline with an edge of paper.
fn frame<B: DrawingBackend>(canvas: &Canvas<'_, B>, a: Position, b: Position) -> Drawn<B> {
    let corners = [a, (b.0, a.1), b, (a.0, b.1), a];
    canvas.line(&corners, PAPER, 5.0, &[])?;
    canvas.line(&corners, INK, 2.5, &[])
}

/// A corner, from the top right.
fn notch<B: DrawingBackend>(canvas: &Canvas<'_, B>, (x, y): Position) -> Drawn<B> {
    let corner = |size: f64| [(x - size, y), (x, y), (x, y + size)];
    canvas.fill(&corner(10.0), PAPER, 1.0)?;
    canvas.fill(&corner(8.0), PENCIL, 1.0)
}
