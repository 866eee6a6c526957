//! Why policies did as they did, in one table: how evenly they loaded the
//! workers, and where the hits went that an unlimited shared cache would have had.

use super::columns::{Column, blocks, wrap};
use crate::metrics::Metric;
use crate::report::view::{Axis, View};
use comfy_table::CellAlignment;
use std::fmt::Write;

/// Present only where a run was asked to measure why.
const MEASURED: &str = "hit_ratio_bound";

/// Head and metric of each column of the part about load.
const LOAD: [([&str; 2], &str); 5] = [
    (["in-flight", "spread"], "inflight_spread_mean"),
    (["largest", "spread"], "inflight_spread_max"),
    (["queue spike", "(ms)"], "queue_spike_ms_max"),
    (["queue", "spikes"], "queue_spikes"),
    (["regret", "(blocks)"], "overlap_regret_blocks_mean"),
];

/// Of the part about hits.
const HITS: [([&str; 2], &str); 5] = [
    (["hits", "(%)"], "hit_ratio"),
    (["lost to", "eviction"], "lost_to_eviction_ratio"),
    (["wrong", "worker"], "lost_to_wrong_worker_ratio"),
    (["stale", "index"], "lost_to_stale_index_ratio"),
    (["of at most", "(%)"], "hit_ratio_bound"),
];

/// True if some point has what the table shows.
pub fn is_measured(view: &View<'_>) -> bool {
    view.summary.points.iter().any(|point| point.metrics.contains_key(MEASURED))
}

/// What the columns mean.
pub(super) const NOTE: &str = "Spread: requests in flight on the busiest worker less those on the idlest, mean over time and \
     largest. Queue spike: highest mean queue time of one worker over measure.spike_window. \
     Regret: blocks that the best worker held more than the chosen one. Hits and losses: of \
     prompt tokens; they add up.";

/// A row per series and value on the axis; empty if nothing of it was measured.
pub fn table(view: &View<'_>, width: usize) -> String {
    if !is_measured(view) {
        return String::new();
    }
    let (leading, groups) = columns(view);
    let mut text =
        "Why: load imbalance, and the hits lost against an unlimited shared cache\n".to_owned();
    for block in blocks(&leading, groups, width) {
        let _ = writeln!(text, "{block}\n");
    }
    text.push_str(&wrap(NOTE, width));
    text
}

/// The columns that say what a row is, and those about load and about hits.
pub(super) fn columns(view: &View<'_>) -> (Vec<Column>, Vec<Vec<Column>>) {
    let (leading, rows) = rows(view);
    let column = |(head, name): &([&str; 2], &str)| {
        let metric = Metric::of(name);
        let cell = |value: f64| format!("{:.1}", metric.shown(value));
        rows.column(view, head.map(str::to_owned), name, cell)
    };
    (leading, [LOAD, HITS].map(|group| group.iter().map(column).collect()).into())
}

/// A row per series and value on the axis: value, series, and whether it is the first with
/// that value.
pub(super) struct Rows(Vec<(f64, usize, bool)>);

impl Rows {
    /// The means of a metric, or `-` where there is none.
    pub(super) fn column(
        &self,
        view: &View<'_>,
        head: [String; 2],
        name: &str,
        shown: impl Fn(f64) -> String,
    ) -> Column {
        let cell = |&(x, series, _): &(f64, usize, bool)| {
            let value = view.series[series].metric(x, name).and_then(|metric| metric.mean);
            value.map_or("-".to_owned(), &shown)
        };
        Column::new(head.to_vec(), self.0.iter().map(cell).collect())
    }
}

/// The columns that say what a row is, and the rows.
pub(super) fn rows(view: &View<'_>) -> (Vec<Column>, Rows) {
    let rows: Vec<(f64, usize, bool)> = view
        .xs()
        .iter()
        .flat_map(|&x| {
            let here = (0..view.series.len()).filter(move |s| view.series[*s].at(x).is_some());
            here.enumerate().map(move |(i, series)| (x, series, i == 0))
        })
        .collect();
    let axis = view.axis.as_ref().map_or(String::new(), Axis::label);
    let xs = rows.iter().map(|(x, _, first)| if *first { x.to_string() } else { String::new() });
    let names = rows.iter().map(|(_, series, _)| view.series[*series].label.clone());
    let mut leading = vec![
        Column::new(vec![axis], xs.collect()),
        Column::new(vec!["policy".to_owned()], names.collect()),
    ];
    leading[1].alignment = CellAlignment::Left;
    if view.axis.is_none() {
        leading.remove(0);
    }
    (leading, Rows(rows))
}
