//! Histograms as Prometheus has them, with the bounds of the originals.

use crate::stats::Histogram;

/// vLLM's, for times to the first token, in seconds (`vllm/v1/metrics/loggers.py`).
pub(super) const FIRST_TOKENS: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
];

/// vLLM's, for times between tokens and means of them, in seconds.
pub(super) const TOKENS: &[f64] = &[
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
    40.0, 80.0,
];

/// vLLM's, for requests and their phases, in seconds.
pub(super) const REQUESTS: &[f64] = &[
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
];

/// vLLM's, for the tokens of a step.
pub(super) const STEPS: &[f64] =
    &[1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0];

/// Dynamo's, for times to the first token, in seconds: its bounds are 0 and an even spread of
/// logarithms, to two digits (`lib/llm/src/http/service/metrics.rs`).
pub(super) const ROUTER_FIRST_TOKENS: &[f64] = &[
    0.0, 0.0022, 0.0047, 0.01, 0.022, 0.047, 0.1, 0.22, 0.47, 1.0, 2.2, 4.7, 10.0, 22.0, 48.0,
    100.0, 220.0, 480.0,
];

/// Dynamo's, for times between tokens, in seconds.
pub(super) const ROUTER_TOKENS: &[f64] =
    &[0.0, 0.0019, 0.0035, 0.0067, 0.013, 0.024, 0.045, 0.084, 0.16, 0.3, 0.56, 1.1, 2.0];

/// Dynamo's, for requests, in seconds.
pub(super) const ROUTER_REQUESTS: &[f64] =
    &[0.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 130.0, 260.0, 510.0];

/// Dynamo's, for lengths of prompts, and what was cached of them.
pub(super) const PROMPTS: &[f64] = &[
    0.0, 100.0, 210.0, 430.0, 870.0, 1800.0, 3600.0, 7400.0, 15_000.0, 31_000.0, 63_000.0,
    130_000.0,
];

/// Dynamo's, for lengths of answers.
pub(super) const ANSWERS: &[f64] =
    &[0.0, 100.0, 210.0, 430.0, 880.0, 1800.0, 3700.0, 7600.0, 16_000.0, 32_000.0];

/// Counts of values by bounds, and their sum.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Buckets {
    bounds: &'static [f64],
    /// By place of the first bound that is not below; the last has no bound.
    counts: Box<[u64]>,
    sum: f64,
}

impl Buckets {
    pub(super) fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, counts: vec![0; bounds.len() + 1].into(), sum: 0.0 }
    }

    /// What a histogram of picoseconds holds, in seconds: each value counts within 0.05 %.
    pub(super) fn of_times(bounds: &'static [f64], times: &Histogram) -> Self {
        let mut buckets = Self::new(bounds);
        for (middle, count) in times.buckets() {
            buckets.count_in(middle / 1e12, count);
        }
        buckets.sum = times.mean().unwrap_or(0.0) / 1e12 * times.count() as f64;
        buckets
    }

    pub(super) fn add(&mut self, value: f64, count: u64) {
        self.count_in(value, count);
        self.sum += value * count as f64;
    }

    fn count_in(&mut self, value: f64, count: u64) {
        self.counts[self.bounds.partition_point(|bound| *bound < value)] += count;
    }

    /// Of all values.
    pub(super) fn sum(&self) -> f64 {
        self.sum
    }

    /// How many values are at or below each bound, and how many there are.
    pub(super) fn up_to(&self) -> impl Iterator<Item = (Option<f64>, u64)> {
        let mut sum = 0;
        let bounds = self.bounds.iter().copied().map(Some).chain([None]);
        bounds.zip(&*self.counts).map(move |(bound, count)| {
            sum += count;
            (bound, sum)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Dynamo's rule: 0, then an even spread of logarithms, rounded to two digits.
    fn spread(min: f64, max: f64, count: u32) -> Vec<f64> {
        let value = |at: u32| {
            let value = (min.ln() + (max / min).ln() * f64::from(at) / f64::from(count - 1)).exp();
            format!("{value:.1e}").parse().expect("a number")
        };
        std::iter::once(0.0).chain((1..count).map(value)).collect()
    }

    #[test]
    fn bounds_of_the_router_are_spread_as_dynamo_spreads_them() {
        assert_eq!(ROUTER_FIRST_TOKENS, spread(0.001, 480.0, 18));
        assert_eq!(ROUTER_TOKENS, spread(0.001, 2.0, 13));
        assert_eq!(ROUTER_REQUESTS, spread(1.0, 512.0, 10));
        assert_eq!(PROMPTS, spread(50.0, 128_000.0, 12));
        assert_eq!(ANSWERS, spread(50.0, 32_000.0, 10));
    }

    proptest! {
        #[test]
        fn buckets_hold_all_that_is_not_above_their_bound(
            values in prop::collection::vec(
                prop_oneof![0.0..3000.0f64, prop::sample::select(FIRST_TOKENS)], 0..40,
            ),
        ) {
            let mut buckets = Buckets::new(FIRST_TOKENS);
            values.iter().for_each(|value| buckets.add(*value, 1));
            for (bound, count) in buckets.up_to() {
                let is_in = |value: &&f64| bound.is_none_or(|bound| **value <= bound);
                prop_assert_eq!(count, values.iter().filter(is_in).count() as u64);
            }
            prop_assert!((buckets.sum() - values.iter().sum::<f64>()).abs() < 1e-6);
        }

        /// Taken from a histogram, which knows values within 0.05 %: nothing is lost.
        #[test]
        fn times_are_counted_where_they_are(
            times in prop::collection::vec(1_000_000_000..4_000_000_000_000u64, 1..40),
        ) {
            let mut histogram = Histogram::new();
            times.iter().for_each(|time| histogram.add(*time, 1));
            let buckets = Buckets::of_times(ROUTER_TOKENS, &histogram);
            for (bound, count) in buckets.up_to() {
                let within = |share: f64| {
                    let is_in = |time: &&u64| bound.is_none_or(|b| **time as f64 / 1e12 <= b * share);
                    times.iter().filter(is_in).count() as u64
                };
                prop_assert!(within(0.999) <= count && count <= within(1.001));
            }
            let sum = times.iter().map(|time| *time as f64 / 1e12).sum::<f64>();
            prop_assert!((buckets.sum() - sum).abs() < 1e-9 * sum);
        }
    }
}
