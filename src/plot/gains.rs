//! Predicted against published gains: what lies on the diagonal was predicted right.

use super::axes::{Plot, draw_axes};
use super::canvas::{Canvas, Drawn, Position, Script, Side, fitted, text_width};
use super::drawing::list;
use super::figure::{DrawnFor, Figure, Plate};
use super::legend::{Legend, Sample};
use super::scale::{Scale, ScaleKind};
use super::sheet::{Form, NARROW, Sheet};
use super::style::{INK, Look, MARGIN, PENCIL, SMALL_SIZE, TEXT_SIZE, TITLE_SIZE};
use crate::report::judge::gains::{AIM_PERCENT, Gain};
use plotters::prelude::DrawingBackend;

/// Sizes in points.
const PANEL: f64 = 460.0;
const PLOT: f64 = 330.0;
const LEGEND_TOP: f64 = 54.0;

/// Lines beside the diagonal: the error that is aimed for.
const AIM: f64 = AIM_PERCENT / 100.0;

/// The gains of several publications, in two panels: times to the first token, and
/// throughput.
#[derive(Clone, Debug)]
pub struct GainSheet<'a> {
    /// Names of publications with their gains, in order.
    pub publications: Vec<(String, &'a [Gain])>,
}

impl GainSheet<'_> {
    /// The figure.
    pub fn drawn(&self) -> Figure {
        Plate::figure(self, DrawnFor::Page)
    }

    /// The gains of a panel, each with the number of its publication.
    fn shown(&self, is_time: bool) -> Vec<(usize, &Gain)> {
        let all = self.publications.iter().enumerate();
        let all = all.flat_map(|(i, (_, rows))| rows.iter().map(move |row| (i, row)));
        let of = all.filter(|(_, row)| match is_time {
            true => row.metric.starts_with("ttft_ms"),
            false => row.metric.ends_with("_per_s"),
        });
        of.collect()
    }

    fn legend(&self, form: Form) -> Legend {
        let names = self.publications.iter().enumerate();
        let names = names.map(|(i, (name, _))| (name.clone(), Sample::Series(i)));
        let others = [
            ("does not count".to_owned(), Sample::Published),
            ("95 % interval".to_owned(), Sample::Upright),
            (format!("\u{b1} {AIM_PERCENT} %"), Sample::Dashed),
        ];
        Legend::new(names.chain(others).collect(), self.width(form) - 2.0 * MARGIN)
    }

    fn width(&self, form: Form) -> f64 {
        match form {
            Form::Wide => 2.0 * PANEL,
            Form::Narrow => f64::from(NARROW),
        }
    }

    fn top(&self, form: Form) -> f64 {
        LEGEND_TOP + self.legend(form).height() + 10.0
    }

    fn draw_panel<B: DrawingBackend>(
        &self,
        canvas: &Canvas<'_, B>,
        (title, is_time): (&str, bool),
        (left, top): Position,
        right: f64,
    ) -> Drawn<B> {
        let shown = self.shown(is_time);
        // One scale for both, so that the diagonal is one.
        let values = shown.iter().flat_map(|(_, row)| [row.published, row.predicted]);
        let scale = Scale::for_y(values.chain([1.0]), ScaleKind::Time);
        let widest = scale.ticks.iter().map(|t| text_width(&t.label, SMALL_SIZE));
        let plot = Plot {
            left: left + widest.fold(0.0, f64::max) + 10.0,
            right,
            top: top + 30.0,
            bottom: top + 30.0 + PLOT,
        };
        let title = fitted(title, TEXT_SIZE, right - left);
        canvas.text(&title, (left, top + 12.0), Script::ink(TEXT_SIZE, Side::Left))?;
        draw_axes(canvas, &plot, &scale, &scale, "published gain")?;
        for (factor, dash) in [(1.0, &[][..]), (1.0 + AIM, &[6.0, 4.0]), (1.0 - AIM, &[6.0, 4.0])] {
            let ends: Vec<Position> = (0..=100)
                .map(|i| scale.at(f64::from(i) / 100.0))
                .filter(|x| (0.0..=1.0).contains(&scale.place(x * factor)))
                .map(|x| (plot.x(&scale, x), plot.y(&scale, x * factor)))
                .collect();
            canvas.line(&ends, PENCIL, 1.0, dash)?;
        }
        let inside = |y: f64| y.clamp(plot.top, plot.bottom);
        for &(i, row) in &shown {
            let look = Look::of(i);
            let at = (plot.x(&scale, row.published), plot.y(&scale, row.predicted));
            if let Some([low, high]) = row.interval.filter(|bounds| bounds[0] > 0.0) {
                let ends = [low, high].map(|bound| (at.0, inside(plot.y(&scale, bound))));
                canvas.line(&ends, look.color, 1.0, &[])?;
            }
            match row.is_counted {
                true => canvas.marker(at, look.marker, look.color)?,
                false => canvas.hollow(at, look.marker, look.color)?,
            }
        }
        let middle = (plot.left, plot.top - 6.0);
        canvas.text(
            "predicted gain",
            middle,
            Script { size: SMALL_SIZE, color: INK, side: Side::Left },
        )
    }
}

impl Sheet for GainSheet<'_> {
    fn name(&self) -> String {
        "gains".to_owned()
    }

    fn title(&self) -> String {
        "Gain of KV-aware routing: predicted against published".to_owned()
    }

    fn alt(&self) -> String {
        let names: Vec<String> = self.publications.iter().map(|(name, _)| name.clone()).collect();
        let rows = || self.publications.iter().flat_map(|(_, rows)| *rows);
        let counted = rows().filter(|row| row.is_counted);
        let close = counted.clone().filter(|row| row.error().abs() <= AIM_PERCENT).count();
        format!(
            "Points of {}, in two panels: times to the first token, and throughput. Of {} gains \
             that count, {close} lie within {AIM_PERCENT} % of the diagonal.",
            list(&names),
            counted.count(),
        )
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a few hundred points"
    )]
    fn size(&self, form: Form) -> (u32, u32) {
        let rows = if form == Form::Wide { 1.0 } else { 2.0 };
        let height = self.top(form) + rows * (PLOT + 84.0) + 10.0;
        (self.width(form) as u32, height.ceil() as u32)
    }

    fn draw<B: DrawingBackend>(&self, canvas: &Canvas<'_, B>, form: Form) -> Drawn<B> {
        let (width, height) = self.size(form);
        let (width, height) = (f64::from(width), f64::from(height));
        canvas.paper(width, height)?;
        let title = fitted(&self.title(), TITLE_SIZE, width - 2.0 * MARGIN);
        canvas.text(&title, (MARGIN, 24.0), Script::ink(TITLE_SIZE, Side::Left))?;
        self.legend(form).draw(canvas, (MARGIN, LEGEND_TOP))?;
        for (i, panel) in
            [("time to first token", true), ("throughput", false)].into_iter().enumerate()
        {
            let (column, row) = if form == Form::Wide { (i as f64, 0.0) } else { (0.0, i as f64) };
            let left = column * PANEL + MARGIN;
            let top = self.top(form) + row * (PLOT + 84.0);
            let right = left + PANEL.min(width) - 2.0 * MARGIN;
            self.draw_panel(canvas, panel, (left, top), right)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_gain_is_in_the_panel_of_its_metric() {
        let gain = |metric: &str, published: f64, predicted: f64, is_counted: bool| Gain {
            metric: metric.to_owned(),
            x: 1.0,
            published,
            predicted,
            interval: Some([0.9 * predicted, 1.1 * predicted]),
            is_counted,
        };
        let rows = [
            gain("ttft_ms_mean", 2.0, 2.1, true),
            gain("ttft_ms_p90", 300.0, 100.0, false),
            gain("output_tokens_per_s", 2.6, 2.0, true),
            gain("e2e_ms_p50", 1.5, 1.5, true),
        ];
        let sheet = GainSheet { publications: vec![("one".to_owned(), &rows[..])] };
        assert_eq!([true, false].map(|is_time| sheet.shown(is_time).len()), [2, 1]);
        let figure = sheet.drawn();
        assert_eq!(figure.name, "gains");
        assert!(figure.alt.contains("Of 3 gains that count, 2 lie within 15 %"), "{}", figure.alt);
        assert!(figure.svg.contains("published gain"));
    }
}
