//! Whether a policy kept up with a load.

use crate::experiment::results::Point;
use serde::Serialize;
use std::fmt;

/// The part of the time to the first token at the worker from which on waiting
/// for a batch counts as most of it (assumed). Without a backlog a request waits
/// for the step that runs: 5 to 20 % of it on the fleets in `experiments/`.
const MOST: f64 = 0.5;

/// The rule in words, for reports.
pub(super) const RULE: &str = "stable: fewer than one request in twenty waits for a batch for \
    most of its time to the first token; backlogged: at least one in twenty does (queue time p95 \
    is half of the engine's TTFT p95 or more); overloaded: every second one does (the same of p50), \
    or none finished.";

/// Whether requests wait at the workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Hardly any request waits long.
    Stable,
    /// Some requests wait for most of their time to the first token: at times,
    /// or at some workers.
    Backlogged,
    /// Most requests do, or nothing is served.
    Overloaded,
}

impl State {
    /// Of a point, by the rule in this module.
    pub fn of(point: &Point) -> Self {
        let mean = |name: &str| point.metrics.get(name).and_then(|metric| metric.mean);
        let waits = |quantile: &str| {
            let queued = mean(&format!("queue_ms_{quantile}"));
            let whole = mean(&format!("engine_ttft_ms_{quantile}"));
            queued.zip(whole).map(|(queued, whole)| queued > 0.0 && queued >= MOST * whole)
        };
        match (waits("p50"), waits("p95")) {
            (None, _) | (Some(true), _) => Self::Overloaded,
            (_, Some(true)) => Self::Backlogged,
            _ => Self::Stable,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stable => "stable",
            Self::Backlogged => "backlogged",
            Self::Overloaded => "overloaded",
        })
    }
}
