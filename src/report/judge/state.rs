//! Whether the numbers of a point can be taken for an answer: did the fleet keep
//! up with its load, and did everything that was asked of it count?
//!
//! Whatever is said of results goes by this one judgement: tables, answers,
//! frontiers, reports and routing checks.

use crate::experiment::results::Point;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Where states begin.
struct Borders {
    /// The part of the time to the first token from which on waiting counts as most of it.
    most: f64,
    /// The share of requests not served from which on a point speaks of the rest alone.
    unserved: f64,
    /// The growth of the backlog, as a share of the requests that came, from which on a
    /// window has not settled.
    growth: f64,
    /// How far the time to the first token of the window's second half is from that of its
    /// first half where it rises or falls.
    drift: f64,
}

/// The borders of the [rule](RULE), all of them assumed. Without a backlog a request waits
/// for the step that runs: 5 to 20 % of its time to the first token on the fleets in
/// `experiments/`. With fewer than 2 % of the requests missing a p95 is still that of all but
/// a few.
const BORDERS: Borders = Borders { most: 0.5, unserved: UNSERVED, growth: 0.1, drift: 1.5 };

/// Borders beyond which a point is clearly worse (assumed: half as far again from where there
/// is no waiting and no drift, twice as far in what is lost and in growth).
const WIDE: Borders = Borders { most: 0.75, unserved: 0.04, growth: 0.2, drift: 2.25 };

const UNSERVED: f64 = 0.02;

/// The rule in words, for reports.
pub const RULE: &str = "stable: fewer than one request in twenty waits for most of its time to \
    the first token; backlogged: at least one in twenty does (queue time p95 is half of TTFT p95 \
    or more); overloaded: every second one does (the same of p50); saturated: requests come faster \
    than they are served, and times rise; warming up: the start is part of what was measured; \
    unserved: 2 % of requests or more were rejected or failed; nothing served: no request had its \
    first token.";

/// How a point stands, from good to bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Hardly any request waits long.
    Stable,
    /// Times fall over the window, or the requests in flight are still becoming
    /// more: what was measured has a start in it that will not come again.
    WarmingUp,
    /// Some requests wait for most of their time to the first token: at times,
    /// or at some workers.
    Backlogged,
    /// Requests come faster than they are served: the longer the run, the worse.
    Saturated,
    /// Most requests wait for most of their time to the first token.
    Overloaded,
    /// Some requests were rejected or failed: the numbers are those of the rest.
    Unserved,
    /// No request had its first token.
    NothingServed,
}

impl State {
    /// Of a point, by the [rule](RULE). A point without the metrics that it goes
    /// by counts as stable.
    pub fn of(point: &Point) -> Self {
        Self::within(&BORDERS, point, None)
    }

    /// The state that a point has or is worse than, seed by seed, in more than half of its
    /// seeds even if borders were wider. A point near a border falls to either side of it by
    /// chance; one that collapses in most seeds does not.
    pub fn surely(point: &Point) -> Self {
        let seeds = point.metrics.values().map(|metric| metric.per_seed.len()).max().unwrap_or(0);
        let alone = (0..seeds).map(|seed| Self::within(&WIDE, point, Some(seed)));
        let mut alone: Vec<Self> = alone.collect();
        alone.sort_unstable();
        alone.get(seeds.saturating_sub(1) / 2).copied().unwrap_or_else(|| Self::of(point))
    }

    /// Of one seed, or of the means over all.
    fn within(borders: &Borders, point: &Point, seed: Option<usize>) -> Self {
        match Self::of_served(borders, point, seed) {
            Self::NothingServed => Self::NothingServed,
            _ if unserved_in(point, seed) >= borders.unserved => Self::Unserved,
            state => state,
        }
    }

    /// Of what a point served, whatever it did not serve.
    fn of_served(borders: &Borders, point: &Point, seed: Option<usize>) -> Self {
        let value = |name: &str| value(point, seed, name);
        // Waiting is a part of a time: at a worker, at the router, at a second worker.
        let waits = |quantile: &str| {
            let parts = [
                ("queue_ms", "engine_ttft_ms"),
                ("router_queue_ms", "ttft_ms"),
                ("decode_queue_ms", "engine_ttft_ms"),
            ];
            parts.iter().any(|(part, whole)| {
                let part = value(&format!("{part}_{quantile}"));
                let whole = value(&format!("{whole}_{quantile}"));
                let is_most = |(part, whole)| part > 0.0 && part >= borders.most * whole;
                part.zip(whole).is_some_and(is_most)
            })
        };
        let drift = value("ttft_drift").unwrap_or(1.0);
        let grows = value("backlog_growth_ratio").is_some_and(|growth| growth >= borders.growth);
        let is_watched = point.metrics.contains_key("queue_ms_p50");
        if is_watched && value("queue_ms_p50").is_none() {
            Self::NothingServed
        } else if waits("p50") {
            Self::Overloaded
        } else if grows && drift >= borders.drift {
            Self::Saturated
        } else if waits("p95") {
            Self::Backlogged
        } else if grows || drift <= 1.0 / borders.drift {
            Self::WarmingUp
        } else {
            Self::Stable
        }
    }

    /// Whether two points can be compared: not where requests of one side were not
    /// served, and not where neither side keeps up.
    fn compares_with(self, other: Self) -> bool {
        self.max(other) < Self::Unserved && self.min(other) < Self::Saturated
    }
}

/// Whether two points can be compared: not where neither keeps up, and not where one left
/// more of its requests unserved than the other, by 2 points or more. What is left of those
/// are survivors, and the rest is not missing at random: the router that refuses more looks
/// the faster for it.
pub fn compare(a: &Point, b: &Point) -> bool {
    let states = (State::of(a), State::of(b));
    if states == (State::Unserved, State::Unserved) && are_refused_alike(a, b) {
        let served = |point| State::of_served(&BORDERS, point, None);
        return served(a).compares_with(served(b));
    }
    states.0.compares_with(states.1)
}

/// Whether two points that refuse requests, as behind a gate, refuse as many: closer to each
/// other than the share from which on one counts as unserved.
fn are_refused_alike(a: &Point, b: &Point) -> bool {
    let is_counted = |point: &Point| point.metrics.contains_key("unserved_ratio");
    is_counted(a) && is_counted(b) && (unserved(a) - unserved(b)).abs() < UNSERVED
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stable => "stable",
            Self::WarmingUp => "warming up",
            Self::Backlogged => "backlogged",
            Self::Saturated => "saturated",
            Self::Overloaded => "overloaded",
            Self::Unserved => "unserved",
            Self::NothingServed => "nothing served",
        })
    }
}

/// The state of a point for a table: of requests that were not served, how many.
pub fn in_table(point: &Point) -> String {
    match State::of(point) {
        State::Unserved => format!("{} unserved", percent(unserved(point))),
        state => state.to_string(),
    }
}

/// The share of requests that were not served, also not when they were sent again.
pub(in crate::report) fn unserved(point: &Point) -> f64 {
    unserved_in(point, None)
}

fn unserved_in(point: &Point, seed: Option<usize>) -> f64 {
    let value = |name: &str| value(point, seed, name);
    value("unserved_ratio").or_else(|| value("error_ratio")).unwrap_or(0.0)
}

/// A metric of one seed, or its mean over all.
fn value(point: &Point, seed: Option<usize>, name: &str) -> Option<f64> {
    let metric = point.metrics.get(name)?;
    seed.map_or(metric.mean, |seed| *metric.per_seed.get(seed)?)
}

/// A share in percent.
pub(in crate::report) fn percent(ratio: f64) -> String {
    let percent = 100.0 * ratio;
    if percent >= 9.95 { format!("{percent:.0} %") } else { format!("{percent:.1} %") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::example::Builder;

    fn point(metrics: &[(&str, Option<f64>)]) -> Point {
        let mut builder = Builder::new("one", 1);
        let values: Vec<(&str, [Option<f64>; 1])> =
            metrics.iter().map(|(name, value)| (*name, [*value])).collect();
        let metrics: Vec<(&str, &[Option<f64>])> =
            values.iter().map(|(name, values)| (*name, values.as_slice())).collect();
        builder.load("kv", 60, &metrics);
        builder.build().points.remove(0)
    }

    /// Of a point whose requests wait so long of 200 ms (p50) and 400 ms (p95), and
    /// what else it has.
    fn state(p50: f64, p95: f64, more: &[(&str, f64)]) -> State {
        let mut metrics = vec![
            ("queue_ms_p50", Some(p50)),
            ("engine_ttft_ms_p50", Some(200.0)),
            ("queue_ms_p95", Some(p95)),
            ("engine_ttft_ms_p95", Some(400.0)),
        ];
        metrics.extend(more.iter().map(|(name, value)| (*name, Some(*value))));
        State::of(&point(&metrics))
    }

    #[test]
    fn what_stands_in_the_way_of_an_answer_is_named() {
        assert_eq!(state(10.0, 40.0, &[]), State::Stable);
        assert_eq!(state(10.0, 200.0, &[]), State::Backlogged);
        assert_eq!(state(100.0, 300.0, &[]), State::Overloaded);
        let router = [("router_queue_ms_p50", 900.0), ("ttft_ms_p50", 1000.0)];
        assert_eq!(state(0.0, 0.0, &router), State::Overloaded, "held by the router");
        let growing = [("backlog_growth_ratio", 0.4), ("ttft_drift", 2.0)];
        assert_eq!(state(10.0, 40.0, &growing), State::Saturated);
        assert_eq!(state(10.0, 40.0, &growing[..1]), State::WarmingUp);
        assert_eq!(state(10.0, 40.0, &[("ttft_drift", 0.5)]), State::WarmingUp);
        assert_eq!(state(100.0, 300.0, &[("error_ratio", 0.45)]), State::Unserved);
        let nothing = [("queue_ms_p50", None), ("error_ratio", Some(1.0))];
        assert_eq!(State::of(&point(&nothing)), State::NothingServed);
        assert_eq!(State::of(&point(&[])), State::Stable, "nothing is known of it");
    }

    #[test]
    fn points_that_refuse_alike_compare_and_survivors_do_not() {
        let refusing = |share: f64, waits: f64| {
            point(&[
                ("queue_ms_p50", Some(waits)),
                ("engine_ttft_ms_p50", Some(200.0)),
                ("error_ratio", Some(0.5)),
                ("unserved_ratio", Some(share)),
            ])
        };
        assert!(compare(&refusing(0.10, 10.0), &refusing(0.11, 10.0)));
        assert!(!compare(&refusing(0.10, 10.0), &refusing(0.13, 10.0)), "survivors");
        assert!(!compare(&refusing(0.10, 150.0), &refusing(0.10, 150.0)), "both overloaded");
        assert!(compare(&refusing(0.0, 10.0), &refusing(0.0, 10.0)), "all served in the end");
        let lost = || point(&[("error_ratio", Some(0.1))]);
        assert!(!compare(&lost(), &lost()), "not by a gate");
    }

    #[test]
    fn two_points_compare_unless_neither_keeps_up_or_requests_are_lost() {
        assert!(State::Stable.compares_with(State::Overloaded));
        assert!(State::Backlogged.compares_with(State::Backlogged));
        assert!(!State::Overloaded.compares_with(State::Saturated));
        assert!(!State::Stable.compares_with(State::Unserved));
    }
}
