//! How near a fitted workload is to a trace.

use super::super::{ReuseDistances, Trace};
use crate::stats;
use crate::time::SimDuration;
use serde::Serialize;

/// Draws that a workload is seen by.
pub(super) const SEEDS: u64 = 5;

/// One fact of a trace, and of the workload.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Margin {
    /// What it is, with its unit.
    pub name: String,
    /// Of the trace.
    pub trace: f64,
    /// Of the trace that the workload was fitted to, where that is another: what a replay
    /// of it would say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fitted_to: Option<f64>,
    /// Of the workload: the mean of five draws as long as the trace.
    pub workload: f64,
    /// Whether both are shares, whose difference counts and not their ratio.
    pub is_share: bool,
}

impl Margin {
    /// The error of the workload: points of a share, else a share of the trace's value.
    pub fn error(&self) -> f64 {
        let apart = self.workload - self.trace;
        if self.is_share || self.trace == 0.0 { apart } else { apart / self.trace }
    }
}

/// A workload of which `draw` gives draws as long as `duration`, beside `trace`, and the
/// trace that it was fitted to, where that is another.
pub(super) fn margins(
    trace: &Trace,
    fitted_to: Option<&Trace>,
    duration: SimDuration,
    draw: impl Fn(u64) -> Trace,
) -> Vec<Margin> {
    let sizes = cache_sizes(trace);
    let duration_s = duration.as_secs();
    let of_trace = facts(trace, &sizes, duration_s);
    let of_fitted_to = fitted_to.map(|trace| facts(trace, &sizes, duration_s));
    let mut sums = vec![0.0; of_trace.len()];
    for seed in 1..=SEEDS {
        let found = facts(&draw(seed), &sizes, duration_s);
        sums.iter_mut().zip(found).for_each(|(sum, (_, value, _))| *sum += value);
    }
    let rows = of_trace.into_iter().zip(sums).enumerate();
    rows.map(|(place, ((name, trace, is_share), sum))| Margin {
        name,
        trace,
        fitted_to: of_fitted_to.as_ref().map(|facts| facts[place].1),
        workload: sum / SEEDS as f64,
        is_share,
    })
    .collect()
}

/// Three sizes of a cache: a small one, a larger one, and one that keeps a quarter of what
/// the trace has.
fn cache_sizes(trace: &Trace) -> [u64; 3] {
    let references: u64 =
        trace.rows.iter().map(|row| u64::from(row.input_tokens.div_ceil(trace.block_tokens))).sum();
    [64, 16, 4].map(|part| references.div_ceil(part))
}

/// Name, value, and whether it is a share.
fn facts(trace: &Trace, cache_sizes: &[u64], duration_s: f64) -> Vec<(String, f64, bool)> {
    let rows = trace.rows();
    let count = rows.len() as f64;
    let sorted = |of: fn(&super::super::TraceRow) -> u32| {
        let mut values: Vec<f64> = rows.iter().map(|row| f64::from(of(row))).collect();
        stats::sort(&mut values);
        values
    };
    let mut facts = vec![("requests per s".to_owned(), count / duration_s, false)];
    for (what, values) in [
        ("prompt tokens", sorted(|row| row.input_tokens)),
        ("output tokens", sorted(|row| row.output_tokens)),
    ] {
        facts.push((format!("{what}, mean"), stats::mean(&values).unwrap_or(0.0), false));
        for (name, share) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99)] {
            let value = stats::quantile(&values, share).unwrap_or(0.0);
            facts.push((format!("{what}, {name}"), value, false));
        }
    }
    let prompts: f64 = rows.iter().map(|row| f64::from(row.input_tokens)).sum();
    facts.push(("prompt tokens per s".to_owned(), prompts / duration_s, false));
    let distances = ReuseDistances::of_references(trace);
    let hits = |blocks: u64| {
        let hit = distances.iter().flatten().filter(|&&distance| distance < blocks).count();
        hit as f64 / distances.len() as f64
    };
    for &blocks in cache_sizes {
        facts.push((format!("hits, cache of {blocks} blocks"), hits(blocks), true));
    }
    facts.push(("hits, all kept".to_owned(), hits(u64::MAX), true));
    facts
}
