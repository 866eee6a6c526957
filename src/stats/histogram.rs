//! A histogram of whole numbers (picoseconds, mostly) with small relative error.

use super::{interpolate, rank};

/// Buckets to an octave; a bucket is at most 1/1,024 of its values wide.
const BUCKETS: usize = 1 << BUCKET_BITS;
const BUCKET_BITS: u32 = 10;

/// Counts of `u64` values in log-linear buckets: exact below 2,048, then 1,024
/// buckets of equal width to every doubling. A quantile is off by at most half a
/// bucket, 0.05 %; mean, count, smallest and largest value are exact.
///
/// A run of a simulator gives millions of gaps between tokens, most of them in
/// arithmetic progressions ([`add_run`](Self::add_run)); keeping each one would
/// cost more than making it. The layout is that of HdrHistogram.
///
/// An octave takes 8 KiB from the first value in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// Entry 0 counts the values below 1,024, entry `k` those from `2^(9 + k)` up to its double.
    octaves: Vec<Option<Box<[u64; BUCKETS]>>>,
    count: u64,
    sum: u128,
    /// Smallest and largest value.
    range: Option<(u64, u64)>,
}

/// Where a value is counted.
struct Bucket {
    octave: usize,
    place: usize,
    /// Largest value of the same bucket.
    last: u64,
}

impl Bucket {
    #[expect(clippy::cast_possible_truncation, reason = "places are below 2,048")]
    fn of(value: u64) -> Self {
        if value < BUCKETS as u64 {
            return Self { octave: 0, place: value as usize, last: value };
        }
        let shift = value.ilog2() - BUCKET_BITS;
        let place = (value >> shift) as usize - BUCKETS;
        let last = value | ((1 << shift) - 1);
        Self { octave: shift as usize + 1, place, last }
    }

    /// The middle of the values of a bucket.
    fn middle(octave: usize, place: usize) -> f64 {
        let Some(shift) = octave.checked_sub(1) else { return place as f64 };
        let first = ((BUCKETS + place) as u64) << shift;
        first as f64 + ((1u64 << shift) - 1) as f64 / 2.0
    }
}

impl Histogram {
    /// Holds nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts `value` `count` times.
    ///
    /// # Panics
    /// If 2^64 values or more are counted in all.
    pub fn add(&mut self, value: u64, count: u64) {
        self.add_run(value, 0, 1, count);
    }

    /// Counts the `n` values `first`, `first + step`, `first + 2 step`, ...,
    /// each `weight` times. Costs the number of buckets they fall into; the
    /// result is the same as that of adding them one by one.
    ///
    /// # Panics
    /// If the last value does not fit into 64 bits, or 2^64 values or more
    /// are counted in all.
    pub fn add_run(&mut self, first: u64, step: u64, n: u64, weight: u64) {
        if n == 0 || weight == 0 {
            return;
        }
        let last = step
            .checked_mul(n - 1)
            .and_then(|rise| first.checked_add(rise))
            .unwrap_or_else(|| panic!("{n} values from {first} by {step} do not fit into 64 bits"));
        self.count = weight
            .checked_mul(n)
            .and_then(|more| self.count.checked_add(more))
            .unwrap_or_else(|| panic!("{} + {n} x {weight} values are too many", self.count));
        // At most count x largest value, so below 2^128.
        let sum_of_one =
            u128::from(n) * u128::from(first) + u128::from(n) * u128::from(last - first) / 2;
        self.sum += sum_of_one * u128::from(weight);
        let (low, high) = self.range.unwrap_or((first, last));
        self.range = Some((low.min(first), high.max(last)));

        let (mut value, mut left) = (first, n);
        loop {
            let bucket = Bucket::of(value);
            let room = (bucket.last - value).checked_div(step);
            let here = room.map_or(left, |steps| steps.saturating_add(1).min(left));
            self.octave(bucket.octave)[bucket.place] += here * weight;
            left -= here;
            if left == 0 {
                return;
            }
            value += step * here;
        }
    }

    fn octave(&mut self, octave: usize) -> &mut [u64; BUCKETS] {
        if self.octaves.len() <= octave {
            self.octaves.resize(octave + 1, None);
        }
        self.octaves[octave].get_or_insert_with(|| Box::new([0; BUCKETS]))
    }

    /// Counts everything that `other` has counted.
    ///
    /// # Panics
    /// If 2^64 values or more are counted in all.
    pub fn merge(&mut self, other: &Self) {
        self.count = self.count.checked_add(other.count).expect("fewer than 2^64 values");
        self.sum += other.sum;
        self.range = match (self.range, other.range) {
            (Some((a, b)), Some((c, d))) => Some((a.min(c), b.max(d))),
            (mine, theirs) => mine.or(theirs),
        };
        for (octave, counts) in other.octaves.iter().enumerate() {
            let Some(counts) = counts else { continue };
            for (mine, theirs) in self.octave(octave).iter_mut().zip(counts.iter()) {
                *mine += theirs;
            }
        }
    }

    /// Number of values.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Mean, from the exact sum; `None` of no values.
    pub fn mean(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum as f64 / self.count as f64)
    }

    /// Smallest value.
    pub fn min(&self) -> Option<u64> {
        self.range.map(|(min, _)| min)
    }

    /// Largest value.
    pub fn max(&self) -> Option<u64> {
        self.range.map(|(_, max)| max)
    }

    /// How many values there are in each bucket that has any, with the middle of the bucket,
    /// within 0.05 % of each of them; the lowest first.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u64)> {
        let octaves = self.octaves.iter().enumerate();
        let octaves = octaves.filter_map(|(octave, counts)| Some((octave, counts.as_ref()?)));
        octaves.flat_map(|(octave, counts)| {
            let counts = counts.iter().enumerate().filter(|(_, count)| **count > 0);
            counts.map(move |(place, &count)| (Bucket::middle(octave, place), count))
        })
    }

    /// The `q`-quantile, interpolated as [`quantile`](super::quantile) does it,
    /// with every value taken for the middle of its bucket: within 0.05 % of the
    /// true one. `None` of no values.
    ///
    /// # Panics
    /// If `q` is outside 0 to 1.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let (rank, fraction) = rank(self.count, q)?;
        let (min, max) = self.range?;
        let (mut seen, mut below) = (0, None);
        for (octave, counts) in self.octaves.iter().enumerate() {
            let Some(counts) = counts else { continue };
            for (place, &count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
                seen += count;
                if seen <= rank {
                    continue;
                }
                // The ends are known exactly; the middle of their bucket may lie outside.
                let here = Bucket::middle(octave, place).clamp(min as f64, max as f64);
                let below = *below.get_or_insert(here);
                if seen > rank + 1 || seen == self.count {
                    return Some(interpolate(below, here, fraction));
                }
            }
        }
        unreachable!("rank {rank} of {} counted, {seen} seen", self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats;
    use proptest::prelude::*;

    /// Values of every magnitude.
    fn value() -> impl Strategy<Value = u64> {
        (0..64u32, any::<u64>()).prop_map(|(shift, bits)| bits >> shift)
    }

    fn of(values: &[u64]) -> Histogram {
        let mut histogram = Histogram::new();
        values.iter().for_each(|&v| histogram.add(v, 1));
        histogram
    }

    proptest! {
        #[test]
        fn a_run_equals_single_adds(
            first in value(),
            step in value(),
            n in 0..200u64,
            weight in 0..4u64,
        ) {
            let fits = |n: u64| step.checked_mul(n).and_then(|rise| first.checked_add(rise));
            let n = (0..=n).rev().find(|&n| n == 0 || fits(n - 1).is_some()).unwrap();
            let mut run = Histogram::new();
            run.add_run(first, step, n, weight);
            let mut single = Histogram::new();
            for i in 0..n {
                (0..weight).for_each(|_| single.add(first + i * step, 1));
            }
            prop_assert_eq!(run, single);
        }

        #[test]
        fn statistics_agree_with_the_values(
            mut values in prop::collection::vec(value(), 1..60),
            q in 0.0..=1.0f64,
        ) {
            let histogram = of(&values);
            values.sort_unstable();
            let floats: Vec<f64> = values.iter().map(|&v| v as f64).collect();
            let exact = stats::quantile(&floats, q).unwrap();
            let got = histogram.quantile(q).unwrap();
            prop_assert!((got - exact).abs() <= 0.0005 * exact, "{} for {}", got, exact);
            prop_assert_eq!(histogram.count(), values.len() as u64);
            prop_assert_eq!(histogram.min(), values.first().copied());
            prop_assert_eq!(histogram.max(), values.last().copied());
            let sum: u128 = values.iter().map(|&v| u128::from(v)).sum();
            prop_assert_eq!(histogram.mean(), Some(sum as f64 / values.len() as f64));
        }

        #[test]
        fn merged_parts_equal_the_whole(
            a in prop::collection::vec(value(), 0..30),
            b in prop::collection::vec(value(), 0..30),
        ) {
            let mut merged = of(&a);
            merged.merge(&of(&b));
            prop_assert_eq!(merged, of(&[a, b].concat()));
        }
    }

    #[test]
    fn long_runs_cost_buckets_not_values() {
        // A billion values: adding one by one would take seconds.
        let mut histogram = Histogram::new();
        histogram.add_run(20_000_000_000, 7, 1_000_000_000, 64);
        assert_eq!(histogram.count(), 64_000_000_000);
        let exact = 20_000_000_000.0 + 0.5 * 7.0 * 999_999_999.0;
        assert_eq!(histogram.mean(), Some(exact));
        assert!((histogram.quantile(0.5).unwrap() - exact).abs() < 0.0005 * exact);
    }

    #[test]
    fn nothing_has_no_statistics() {
        let mut histogram = Histogram::new();
        histogram.add(5, 0);
        assert_eq!(histogram, Histogram::new());
        assert_eq!(histogram.quantile(0.5), None);
        assert_eq!(histogram.mean(), None);
        assert_eq!((histogram.min(), histogram.max()), (None, None));
    }
}
