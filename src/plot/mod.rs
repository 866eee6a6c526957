//! Figures of a result set, as SVG and PNG from one drawing.
//!
//! The same results give the same bytes: fonts are embedded and nothing is
//! asked of the machine.

mod axes;
mod canvas;
mod cdf;
mod drawing;
mod figure;
mod fleet_over_time;
mod gains;
mod heat;
mod legend;
mod over_time;
mod panel;
mod scale;
mod sheet;
mod style;

pub use figure::{DrawnFor, Figure};
pub use gains::GainSheet;

use crate::experiment::results::{Point, Summary};
use crate::metrics::Metric;
use crate::report::judge::published::Comparison;
use crate::report::judge::terms::Terms;
use crate::report::judge::tuning::Tuning;
use crate::report::render::why;
use crate::report::view::View;
use crate::report::view::details::Details;
use crate::report::view::published::Published;
use crate::settings::Invalid;
use cdf::Cdfs;
use drawing::Drawing;
use figure::{Plate, draw_all};
use fleet_over_time::FleetSheet;
use heat::HeatMap;
use over_time::WorkersOverTime;

/// Metrics that are drawn by default, as far as the results have them.
pub const MAIN: [&str; 10] = [
    "ttft_ms_p50",
    "ttft_ms_p95",
    "itl_ms_p50",
    "itl_ms_p95",
    "output_tokens_per_s",
    "slo_attainment",
    "goodput_per_s",
    "hit_ratio",
    "queue_ms_p50",
    "queue_ms_p95",
];

/// The metrics of the figure that holds policies against each other at the last load.
const POLICIES: [&str; 4] = ["ttft_ms_p95", "itl_ms_p95", "output_tokens_per_s", "hit_ratio"];
/// Policies from which on that figure is drawn: fewer lines can be distinguished (assumed).
const MANY_POLICIES: usize = 4;
/// Series from which on lines cannot be read and heat maps are drawn instead (assumed).
const MOST_LINES: usize = 24;

/// The metrics of one more figure, where a run measured why.
const WHY: [&str; 4] =
    ["inflight_spread_mean", "inflight_spread_max", "queue_spike_ms_max", "ttft_ms_p95"];
/// Metrics whose heat maps are drawn beside that of the metric tuned for.
const HEAT: [&str; 6] = [
    "ttft_ms_p50",
    "ttft_ms_p95",
    "itl_ms_p95",
    "output_tokens_per_s",
    "hit_ratio",
    "inflight_spread_mean",
];

/// What to draw.
#[derive(Clone, Debug, Default)]
pub struct FigureOptions {
    /// Key of the parameter from left to right; the one with most values if `None`.
    pub x: Option<String>,
    /// Names of metrics; [`MAIN`] if empty. Metrics of one stem share a figure.
    pub metrics: Vec<String>,
    /// Targets to draw as lines, by the stem of metrics, in their own unit.
    pub targets: Vec<(String, f64)>,
}

/// The targets of `[slo]`, for [`FigureOptions::targets`].
pub fn targets(terms: &Terms) -> Vec<(String, f64)> {
    let times = terms.targets.iter().map(|(key, limit)| (format!("{key}_ms"), limit.as_millis()));
    let share =
        (!terms.targets.is_empty()).then(|| ("slo_attainment".to_owned(), terms.attainment));
    times.chain(share).collect()
}

/// Draws `choice` of a result set, with published points as hollow markers:
/// lines along the axis with a band for the 95 % interval over seeds, or bars
/// where no number was swept.
///
/// # Errors
/// If the axis is no numeric parameter of the results, or a metric that was
/// asked for has no value in any point.
pub fn figures(
    summary: &Summary,
    published: Option<&Published>,
    choice: &FigureOptions,
    drawn_for: DrawnFor,
) -> Result<Vec<Figure>, Invalid> {
    let view = View::new(summary, choice.x.as_deref())?;
    let comparison = published.map(|published| Comparison::new(&view, published));
    Ok(draw_all(&sheets(&view, comparison.as_ref(), choice)?, drawn_for))
}

/// One sheet per stem of metrics, and one of what a run measured of why.
fn sheets<'a>(
    view: &'a View<'a>,
    comparison: Option<&'a Comparison<'a>>,
    choice: &'a FigureOptions,
) -> Result<Vec<Box<dyn Plate + 'a>>, Invalid> {
    let of_metrics =
        |metrics| Drawing::new(view, comparison, metrics).with_targets(&choice.targets);
    let why = (choice.metrics.is_empty() && why::is_measured(view)).then(|| {
        let metrics = WHY.iter().map(|name| Metric::of(name)).collect();
        Drawing::new(view, None, metrics).named("why", "from load imbalance to time to first token")
    });
    let drawings = groups(view, &choice.metrics)?.into_iter().map(of_metrics).chain(why);
    Ok(drawings.map(|drawing| Box::new(drawing) as Box<dyn Plate>).collect())
}

/// Draws everything that is drawn of results by default: heat maps of a sweep or
/// of more series than lines can show, else the main metrics, policies against
/// each other, distributions and workers over time, as far as the results have
/// them.
///
/// # Errors
/// If the metric that was tuned for is not in the results.
pub fn all_figures(
    summary: &Summary,
    details: &Details,
    drawn_for: DrawnFor,
) -> Result<Vec<Figure>, Invalid> {
    let view = View::new(summary, None)?;
    let tuned_for = details.tuned_for.as_deref();
    if tuned_for.is_some() || view.series.len() > MOST_LINES {
        let tuning = Tuning::new(summary, tuned_for.unwrap_or(HEAT[1]));
        let maps = tuning.map(|tuning| draw_all(&heat_maps(&tuning), drawn_for));
        // Without a sweep the metric was not asked for.
        let maps = if tuned_for.is_some() { maps? } else { maps.unwrap_or_default() };
        if !maps.is_empty() {
            return Ok(maps);
        }
    }
    let choice =
        FigureOptions { targets: targets(&Terms::of(details)), ..FigureOptions::default() };
    let published = details.published.as_ref();
    let comparison = published.map(|published| Comparison::new(&view, published));
    let mut all = sheets(&view, comparison.as_ref(), &choice)?;
    let last = view.xs().last().copied();
    if let (Some(_), Some(x)) = (&view.axis, last)
        && view.series.iter().filter(|series| series.at(x).is_some()).count() >= MANY_POLICIES
    {
        let found = view.metric_names();
        let metrics = POLICIES.into_iter().filter(|name| found.contains(name)).map(Metric::of);
        let bars = Drawing::new(&view, None, metrics.collect()).named("policies", "policies");
        all.push(Box::new(bars.bars_at(x)));
    }
    if let Some(cdfs) = Cdfs::new(&view, &details.distributions, None) {
        all.push(Box::new(cdfs));
    }
    if !details.workers_over_time.is_empty() {
        let simulations = &details.workers_over_time;
        let sheet = WorkersOverTime::new(&summary.provenance, simulations, details.max_num_seqs);
        all.push(Box::new(sheet));
    }
    if let Some(fleets) = &details.fleets_over_time {
        all.push(Box::new(FleetSheet::new(&summary.provenance, fleets)));
    }
    Ok(draw_all(&all, drawn_for))
}

/// The rules of style that every SVG has; pages that hold several need them once.
pub fn dark_rules() -> String {
    style::dark_rules()
}

/// Heat maps of the metrics of a sweep over two keys or more, with the best setting
/// and the Pareto front marked; none if fewer were swept.
fn heat_maps<'a>(tuning: &'a Tuning<'a>) -> Vec<Box<dyn Plate + 'a>> {
    let mut metrics: Vec<&str> = vec![tuning.metric.name.as_str()];
    let found = |name: &&str| {
        let value = |point: &Point| point.metrics.get(*name).and_then(|metric| metric.mean);
        tuning.summary.points.iter().any(|point| value(point).is_some())
    };
    metrics.extend(HEAT.into_iter().filter(|name| *name != tuning.metric.name).filter(found));
    let maps = metrics.into_iter().filter_map(|name| HeatMap::new(tuning, name));
    maps.map(|map| Box::new(map) as Box<dyn Plate>).collect()
}

/// The metrics to draw, those of one stem together.
fn groups(view: &View<'_>, asked: &[String]) -> Result<Vec<Vec<Metric>>, Invalid> {
    let found = view.metric_names();
    let names: Vec<&str> = if asked.is_empty() {
        MAIN.into_iter().filter(|name| found.contains(name)).collect()
    } else {
        asked.iter().map(String::as_str).collect()
    };
    let mut groups: Vec<Vec<Metric>> = Vec::new();
    for name in names {
        if !found.contains(&name) {
            let allowed = format!("a metric that these results have: {}", found.join(", "));
            return Err(Invalid::new("y", name, allowed));
        }
        let metric = Metric::of(name);
        match groups.iter_mut().find(|group| group[0].stem == metric.stem) {
            Some(group) if group.contains(&metric) => {}
            Some(group) => group.push(metric),
            None => groups.push(vec![metric]),
        }
    }
    Ok(groups)
}

#[cfg(test)]
mod tests;
