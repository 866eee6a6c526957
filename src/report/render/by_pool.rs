//! What each pool of workers served, in one table.

use super::columns::{Column, blocks};
use super::why::rows;
use crate::metrics::{Metric, catalogue, pool_of, short};
use crate::report::view::View;
use std::fmt::Write;

/// Below the table.
pub(super) const NOTE: &str =
    "Of the requests that finished in the window: those that a worker of the pool served.";

/// The pools of which results tell, by name.
pub fn pools<'a>(view: &View<'a>) -> Vec<&'a str> {
    let names = view.summary.points.iter().flat_map(|point| point.metrics.keys());
    let mut pools: Vec<&str> = names.filter_map(|name| Some(pool_of(name)?.1)).collect();
    pools.sort_unstable();
    pools.dedup();
    pools
}

/// A row per series and value on the axis; empty of a fleet whose workers are all alike.
pub fn table(view: &View<'_>, width: usize) -> String {
    if pools(view).is_empty() {
        return String::new();
    }
    let (leading, groups) = columns(view);
    let mut text = "Requests by pool of workers\n".to_owned();
    for block in blocks(&leading, groups, width) {
        let _ = writeln!(text, "{block}\n");
    }
    text.push_str(NOTE);
    text.push('\n');
    text
}

/// The columns that say what a row is, and those of each pool.
pub(super) fn columns(view: &View<'_>) -> (Vec<Column>, Vec<Vec<Column>>) {
    let (leading, rows) = rows(view);
    let of_pool = |pool: &&str| -> Vec<Column> {
        let column = |(kind, unit): (&crate::metrics::MetricKind, &str)| {
            let name = kind.of_pool(pool);
            let metric = Metric::of(&name);
            let cell = |value: f64| short(metric.shown(value));
            rows.column(view, [(*pool).to_owned(), unit.to_owned()], &name, cell)
        };
        [(catalogue::POOL_REQUESTS, "(requests/s)"), (catalogue::POOL_HIT_RATIO, "(hits, %)")]
            .map(column)
            .into()
    };
    (leading, pools(view).iter().map(of_pool).collect())
}
