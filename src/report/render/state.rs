//! The states of points in sentences.

use super::places::places;
use crate::experiment::results::Point;
use crate::report::judge::state::{State, percent, unserved};
use crate::report::view::View;

/// All states that are worth a word, the worst first.
const WORST_FIRST: [State; 6] = [
    State::NothingServed,
    State::Unserved,
    State::Overloaded,
    State::Saturated,
    State::Backlogged,
    State::WarmingUp,
];

impl State {
    /// What it means for the numbers, as the end of `kv at concurrency 180: ...`.
    fn meaning(self) -> &'static str {
        match self {
            Self::Stable => "nothing stands in the way of the numbers",
            Self::WarmingUp => {
                "the start is part of what was measured; a longer measure.warmup or \
                 measure.window would leave it out"
            }
            Self::Backlogged => {
                "at least one request in twenty waits for most of its time to the first token"
            }
            Self::Saturated => {
                "requests come faster than they are served: times say how long the run was"
            }
            Self::Overloaded => {
                "every second request waits for most of its time to the first token: times say \
                 how long the queue is"
            }
            Self::Unserved => "the other numbers are those of the requests that were served",
            Self::NothingServed => {
                "no request had its first token in the time that was measured, which begins after \
                 measure.warmup"
            }
        }
    }
}

/// A sentence for every state but a stable one, the worst first: where it was
/// met, and what it means for the numbers.
pub(super) fn sentences(view: &View<'_>) -> Vec<String> {
    let sentence = |state: State| {
        let is = |series: usize, x: f64| {
            view.series[series].at(x).is_some_and(|point| State::of(point) == state)
        };
        let place = places(view, is)?;
        let name = match state {
            State::Unserved | State::NothingServed => {
                let points = view.summary.points.iter().filter(|p| State::of(p) == state);
                shares(points)
            }
            state => {
                let name = state.to_string();
                name[..1].to_uppercase() + &name[1..]
            }
        };
        Some(format!("{name}: {place}: {}.", state.meaning()))
    };
    WORST_FIRST.into_iter().filter_map(sentence).collect()
}

/// `45 % of requests rejected`, or from the smallest share to the largest.
fn shares<'a>(points: impl Iterator<Item = &'a Point>) -> String {
    let (mut low, mut high) = (f64::INFINITY, 0.0_f64);
    let (mut rejected, mut failed) = (false, false);
    for point in points {
        low = low.min(unserved(point));
        high = high.max(unserved(point));
        let any = |name: &str| {
            point.metrics.get(name).and_then(|m| m.mean).is_some_and(|mean| mean > 0.0)
        };
        rejected |= any("rejected");
        failed |= any("failed");
    }
    let how = match (rejected, failed) {
        (true, true) => "rejected or failed",
        (false, true) => "failed",
        _ => "rejected",
    };
    if !rejected && !failed {
        return "Nothing served".to_owned();
    }
    let (low, high) = (percent(low), percent(high));
    if low == high {
        format!("{high} of requests {how}")
    } else {
        format!("{} to {high} of requests {how}", low.trim_end_matches(" %"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::example::Builder;

    #[test]
    fn every_state_is_said_with_its_places() {
        let mut builder = Builder::new("loads", 1);
        for (load, rejected, queued) in [(60, 0.0, 10.0), (80, 0.0, 150.0), (100, 0.45, 150.0)] {
            for policy in ["round_robin", "kv"] {
                let metrics: [(&str, &[Option<f64>]); 4] = [
                    ("queue_ms_p50", &[Some(queued)]),
                    ("engine_ttft_ms_p50", &[Some(200.0)]),
                    ("error_ratio", &[Some(rejected)]),
                    ("rejected", &[Some(100.0 * rejected)]),
                ];
                builder.load(policy, load, &metrics);
            }
        }
        let summary = builder.build();
        let view = View::new(&summary, None).unwrap();
        assert_eq!(
            sentences(&view),
            [
                "45 % of requests rejected: round_robin, kv at concurrency 100: the other numbers are \
                 those of the requests that were served.",
                "Overloaded: round_robin, kv at concurrency 80: every second request waits for most of \
                 its time to the first token: times say how long the queue is.",
            ]
        );
    }
}
