//! The figure of workers over time: a row per simulation, requests in flight to
//! the left and time in the queue to the right, a line per worker.

use super::axes::{Plot, draw_axes};
use super::canvas::{Canvas, Drawn, Script, Side, fitted, text_width};
use super::drawing::{footer, list, titled};
use super::legend::{Legend, Sample};
use super::scale::{Scale, ScaleKind};
use super::sheet::{Form, NARROW, Sheet, time_unit};
use super::style::{INK, Look, MARGIN, SMALL_SIZE, TEXT_SIZE, TITLE_SIZE};
use crate::experiment::results::Provenance;
use crate::report::view::over_time::OverTime;
use crate::report::view::plain;
use plotters::prelude::DrawingBackend;

/// Sizes in points.
const WIDTH: u32 = 940;
const LEGEND_TOP: f64 = 54.0;
const PLOT_HEIGHT: f64 = 190.0;
const ROW: f64 = 30.0 + PLOT_HEIGHT + 54.0;
const COLUMN: f64 = 460.0;

fn width(form: Form) -> u32 {
    if form == Form::Narrow { NARROW } else { WIDTH }
}

/// The width of a panel.
fn column(form: Form) -> f64 {
    if form == Form::Narrow { f64::from(NARROW) - MARGIN } else { COLUMN }
}

/// The most simulations of one figure; more could not be read.
const MAX_ROWS: usize = 6;
/// Colours and dashes for this many workers; those of larger fleets look alike.
const MAX_NAMED: usize = 14;

/// A figure of some simulations.
pub(super) struct WorkersOverTime<'a> {
    provenance: &'a Provenance,
    rows: &'a [OverTime],
    /// Requests that a batch of a worker can hold.
    max_num_seqs: u32,
}

impl<'a> WorkersOverTime<'a> {
    pub(super) fn new(
        provenance: &'a Provenance,
        simulations: &'a [OverTime],
        max_num_seqs: u32,
    ) -> Self {
        let rows = &simulations[..simulations.len().min(MAX_ROWS)];
        Self { provenance, rows, max_num_seqs }
    }

    fn legend(&self, form: Form) -> Legend {
        let workers = self.workers();
        let mut entries: Vec<(String, Sample)> = if workers <= MAX_NAMED {
            (0..workers).map(|w| (self.name(w), Sample::Plain(w))).collect()
        } else {
            vec![(format!("{workers} workers, a line each"), Sample::Plain(0))]
        };
        if self.shows_limit() {
            entries
                .push((format!("largest batch: {} requests", self.max_num_seqs), Sample::Dashed));
        }
        Legend::new(entries, f64::from(width(form)) - 2.0 * MARGIN)
    }

    /// A worker, with its pool where all simulations have it in one of that name.
    fn name(&self, worker: usize) -> String {
        let mut pools = self.rows.iter().map(|row| row.pools.get(worker));
        match pools.next().flatten().filter(|first| pools.all(|pool| pool == Some(*first))) {
            Some(pool) => format!("worker {worker} ({pool})"),
            None => format!("worker {worker}"),
        }
    }

    fn workers(&self) -> usize {
        self.rows.iter().map(|row| row.inflight.len()).max().unwrap_or(0)
    }

    /// A limit far above everything would press the lines to the ground.
    fn shows_limit(&self) -> bool {
        let most = self.rows.iter().flat_map(|row| row.inflight.iter().flatten());
        most.copied().fold(0.0, f64::max) >= 0.5 * f64::from(self.max_num_seqs)
    }

    fn header_height(&self, form: Form) -> f64 {
        LEGEND_TOP + self.legend(form).height()
    }

    /// The longest time in a queue, in ms.
    fn longest_queue(&self) -> f64 {
        self.rows.iter().flat_map(|row| row.queue_ms.iter().flatten()).copied().fold(0.0, f64::max)
    }

    fn draw_panel<B: DrawingBackend>(
        &self,
        canvas: &Canvas<'_, B>,
        (left, top): (f64, f64),
        title: &str,
        (seconds, lines): (&[f64], &[Vec<f64>]),
        (y_scale, right): (&Scale, f64),
    ) -> Drawn<B> {
        let ends = [seconds[0], seconds[seconds.len() - 1]];
        let x_scale = Scale::for_time(ends[0], ends[1]);
        let widest = y_scale.ticks.iter().map(|tick| text_width(&tick.label, SMALL_SIZE));
        let plot = Plot {
            left: left + widest.fold(0.0, f64::max) + 10.0,
            right,
            top: top + 30.0,
            bottom: top + 30.0 + PLOT_HEIGHT,
        };
        let title = fitted(title, TEXT_SIZE, plot.right - left);
        canvas.text(&title, (left, top + 12.0), Script::ink(TEXT_SIZE, Side::Left))?;
        draw_axes(canvas, &plot, &x_scale, y_scale, "time (s)")?;
        for (worker, line) in lines.iter().enumerate() {
            let place = |(x, y): (&f64, &f64)| (plot.x(&x_scale, *x), plot.y(y_scale, *y));
            let places: Vec<(f64, f64)> = seconds.iter().zip(line).map(place).collect();
            let look = Look::thin(if lines.len() <= MAX_NAMED { worker } else { 0 });
            canvas.line(&places, look.color, 1.2, look.dash)?;
        }
        Ok(())
    }

    fn draw_limit<B: DrawingBackend>(
        &self,
        canvas: &Canvas<'_, B>,
        (left, top): (f64, f64),
        (y_scale, right): (&Scale, f64),
    ) -> Drawn<B> {
        let widest = y_scale.ticks.iter().map(|tick| text_width(&tick.label, SMALL_SIZE));
        let from = left + widest.fold(0.0, f64::max) + 10.0;
        let place = y_scale.place(f64::from(self.max_num_seqs));
        let y = top + 30.0 + PLOT_HEIGHT * (1.0 - place);
        canvas.line(&[(from, y), (right, y)], INK, 1.2, &[6.0, 4.0])
    }
}

impl Sheet for WorkersOverTime<'_> {
    fn name(&self) -> String {
        "workers_over_time".to_owned()
    }

    fn title(&self) -> String {
        "workers over time".to_owned()
    }

    fn alt(&self) -> String {
        let rows: Vec<String> = self.rows.iter().map(label).collect();
        format!(
            "Requests in flight and time in the queue of each of {} workers over time, for {}.",
            self.workers(),
            list(&rows)
        )
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a few rows of a few hundred points"
    )]
    fn size(&self, form: Form) -> (u32, u32) {
        let panels = if form == Form::Narrow { 2 * self.rows.len() } else { self.rows.len() };
        (width(form), (self.header_height(form) + ROW * panels as f64 + 30.0) as u32)
    }

    fn draw<B: DrawingBackend>(&self, canvas: &Canvas<'_, B>, form: Form) -> Drawn<B> {
        let (width, height) = self.size(form);
        let (width, height) = (f64::from(width), f64::from(height));
        canvas.paper(width, height)?;
        let title = titled(self.provenance, &self.title(), width - 2.0 * MARGIN);
        canvas.text(&title, (MARGIN, 24.0), Script::ink(TITLE_SIZE, Side::Left))?;
        self.legend(form).draw(canvas, (MARGIN, LEGEND_TOP))?;
        let (limit, shows_limit) = (f64::from(self.max_num_seqs), self.shows_limit());
        let (factor, unit) = time_unit(self.longest_queue());
        // All rows share a scale, so that they can be compared.
        let inflight = self.rows.iter().flat_map(|row| row.inflight.iter().flatten()).copied();
        let least = if shows_limit { limit } else { 1.0 };
        let inflight = Scale::for_y([0.0, least].into_iter().chain(inflight), ScaleKind::Amount);
        let longest = (self.longest_queue() * factor).max(1.0);
        let queue = Scale::for_y([0.0, longest].into_iter(), ScaleKind::Amount);
        for (i, row) in self.rows.iter().enumerate() {
            let label = label(row);
            let (first, second) = match form {
                Form::Wide => {
                    let top = self.header_height(form) + i as f64 * ROW;
                    ((MARGIN, top), (MARGIN + COLUMN, top))
                }
                Form::Narrow => {
                    let top = self.header_height(form) + 2.0 * i as f64 * ROW;
                    ((MARGIN, top), (MARGIN, top + ROW))
                }
            };
            let right = |left: f64| left + column(form) - MARGIN;
            let title = format!("{label}: requests in flight");
            let scale = (&inflight, right(first.0));
            self.draw_panel(canvas, first, &title, (&row.seconds, &row.inflight), scale)?;
            if shows_limit {
                self.draw_limit(canvas, first, scale)?;
            }
            let title = format!("{label}: time in the queue ({unit})");
            let scaled: Vec<Vec<f64>> = row
                .queue_ms
                .iter()
                .map(|line| line.iter().map(|value| value * factor).collect())
                .collect();
            let scale = (&queue, right(second.0));
            self.draw_panel(canvas, second, &title, (&row.seconds, &scaled), scale)?;
        }
        let footer = fitted(&footer(self.provenance), SMALL_SIZE, width - 2.0 * MARGIN);
        canvas.text(&footer, (MARGIN, height - 16.0), Script::pencil(SMALL_SIZE, Side::Left))
    }
}

/// The parameters' values, the policy first, and the seed.
fn label(row: &OverTime) -> String {
    let policy = row.params.get("router.policy").map(plain);
    let others =
        row.params.iter().filter(|(key, _)| *key != "router.policy").map(|(key, value)| {
            let name = key.rsplit('.').next().unwrap_or(key);
            format!("{name} {}", plain(value))
        });
    let mut parts: Vec<String> = policy.into_iter().chain(others).collect();
    parts.push(format!("seed {}", row.seed));
    parts.join(", ")
}
