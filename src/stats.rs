//! Statistics over samples: means, quantiles and confidence intervals of a few
//! floats, and a [`Histogram`] for millions of times.
//!
//! Nothing of no samples is a number: the answer is `None`, never zero.

mod histogram;

pub use histogram::Histogram;

use statrs::distribution::{ContinuousCDF, StudentsT};

/// Arithmetic mean; `None` of no values. Summed in the order given.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// Sorts `values`, so that [`quantile`] can be asked more than once.
///
/// # Panics
/// If a value is NaN: it has no rank.
pub fn sort(values: &mut [f64]) {
    assert!(values.iter().all(|v| !v.is_nan()), "NaN has no rank");
    values.sort_unstable_by(f64::total_cmp);
}

/// The `q`-quantile (`q` from 0 to 1) of values in ascending order, with linear
/// interpolation at `(n - 1) q`: the default of NumPy's `quantile`, which AIPerf
/// uses (Hyndman and Fan 1996, type 7). `None` of no values.
///
/// # Panics
/// If `q` is outside 0 to 1, or (debug builds) `sorted` is not sorted.
pub fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    debug_assert!(sorted.is_sorted(), "quantile of unsorted values");
    quantile_by(sorted.len(), q, |rank| sorted[rank])
}

/// The same of `count` values, of which `at` gives the one at each rank from 0:
/// values that are kept in another unit need not be converted all.
///
/// # Panics
/// If `q` is outside 0 to 1.
pub fn quantile_by(count: usize, q: f64, at: impl Fn(usize) -> f64) -> Option<f64> {
    let (rank, fraction) = rank(count as u64, q)?;
    let rank = index(rank);
    Some(interpolate(at(rank), at((rank + 1).min(count - 1)), fraction))
}

/// Mean of `values` with the bounds of its 95 % confidence interval: Student's t
/// with n - 1 degrees of freedom, for independent, roughly normal values such as
/// the results of several seeds. No interval for fewer than two values, `None`
/// for no values.
pub fn mean_ci95(values: &[f64]) -> Option<(f64, Option<[f64; 2]>)> {
    let estimate = Estimate::of(values)?;
    Some((estimate.mean, estimate.interval(0.95)))
}

/// A mean with what its samples say of its error, by Student's t: for
/// independent, roughly normal values such as the results of several seeds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Its standard error and the degrees of freedom; `None` of a single value.
    error: Option<(f64, f64)>,
}

impl Estimate {
    /// Of the mean of `values`; `None` of no values.
    pub fn of(values: &[f64]) -> Option<Self> {
        let mean = mean(values)?;
        if values.len() < 2 {
            return Some(Self { mean, error: None });
        }
        let n = values.len() as f64;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0);
        Some(Self { mean, error: Some(((variance / n).sqrt(), n - 1.0)) })
    }

    /// Of the difference between this mean and another of other, independent
    /// samples, by Welch's approximation.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        let error = self.error.zip(other.error).map(|((a, of_a), (b, of_b))| {
            let variance = a * a + b * b;
            let freedom = variance * variance / (a.powi(4) / of_a + b.powi(4) / of_b);
            // Samples without any scatter: the error is 0 with any freedom.
            (variance.sqrt(), if freedom.is_finite() { freedom } else { of_a + of_b })
        });
        Self { mean: self.mean - other.mean, error }
    }

    /// Bounds between which the true mean lies with `confidence` (above 0, below
    /// 1); `None` of a single value.
    ///
    /// # Panics
    /// If `confidence` is out of range.
    pub fn interval(&self, confidence: f64) -> Option<[f64; 2]> {
        assert!(confidence > 0.0 && confidence < 1.0, "confidence {confidence}");
        let (error, freedom) = self.error?;
        let half = t_quantile(confidence, freedom) * error;
        Some([self.mean - half, self.mean + half])
    }

    /// The chance of a mean at least this far from 0, on either side, if the true
    /// one is 0; `None` of a single value.
    pub fn p_value(&self) -> Option<f64> {
        let (error, freedom) = self.error?;
        if self.mean == 0.0 {
            return Some(1.0);
        }
        // Without scatter the quotient is infinite, and the chance 0.
        let t = (self.mean / error).abs();
        Some(if t.is_finite() { 2.0 * students_t(freedom).sf(t) } else { 0.0 })
    }
}

/// How many standard errors on either side of a mean hold so much of Student's t.
pub(crate) fn t_quantile(confidence: f64, freedom: f64) -> f64 {
    students_t(freedom).inverse_cdf((1.0 + confidence) / 2.0)
}

fn students_t(freedom: f64) -> StudentsT {
    StudentsT::new(0.0, 1.0, freedom).expect("a positive number of degrees of freedom")
}

/// The rank (from 0) at or below which the `q`-quantile of `count` values lies,
/// and how far it lies on the way to the next rank.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the floor of a position between 0 and count - 1"
)]
fn rank(count: u64, q: f64) -> Option<(u64, f64)> {
    assert!((0.0..=1.0).contains(&q), "quantile {q} is not between 0 and 1");
    let last = count.checked_sub(1)?;
    let position = last as f64 * q;
    // Counts above 2^53 round: keep the rank inside all the same.
    let rank = (position.floor() as u64).min(last);
    Some((rank, (position - rank as f64).clamp(0.0, 1.0)))
}

/// Between `below` and `above`, from the nearer end: exact at both, as NumPy does it.
fn interpolate(below: f64, above: f64, fraction: f64) -> f64 {
    let gap = above - below;
    if fraction < 0.5 { below + gap * fraction } else { above - gap * (1.0 - fraction) }
}

#[expect(clippy::cast_possible_truncation, reason = "a rank of a slice in memory")]
fn index(rank: u64) -> usize {
    rank as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nothing_has_no_statistics() {
        assert_eq!(mean(&[]), None);
        assert_eq!(quantile(&[], 0.5), None);
        assert_eq!(mean_ci95(&[]), None);
        assert_eq!(mean_ci95(&[3.0]), Some((3.0, None)));
    }

    #[test]
    fn quantiles_agree_with_numpy() {
        // numpy.quantile([1, 2, 4, 8, 16], [0, .1, .5, .95, 1])
        let values = [1.0, 2.0, 4.0, 8.0, 16.0];
        for (q, expected) in [(0.0, 1.0), (0.1, 1.4), (0.5, 4.0), (0.95, 14.4), (1.0, 16.0)] {
            let got = quantile(&values, q).unwrap();
            assert!((got - expected).abs() < 1e-12, "{q}: {got}");
        }
        let mut unsorted = [4.0, 16.0, 1.0, 8.0, 2.0];
        sort(&mut unsorted);
        assert_eq!(unsorted, values);
    }

    #[test]
    fn interval_agrees_with_the_table_of_students_t() {
        // t(0.975, 5) = 2.570582; the standard error of 1..6 is sqrt(3.5 / 6).
        let (mean, bounds) = mean_ci95(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
        let half = 2.570_582 * (3.5f64 / 6.0).sqrt();
        let [low, high] = bounds.unwrap();
        assert_eq!(mean, 3.5);
        assert!((low - (3.5 - half)).abs() < 1e-5 && (high - (3.5 + half)).abs() < 1e-5);
        let constant = mean_ci95(&[2.0; 4]).unwrap();
        assert_eq!(constant, (2.0, Some([2.0, 2.0])));
    }

    #[test]
    fn far_tails_agree_with_the_table_of_students_t() {
        // t(0.9995, 5) = 6.868827, t(0.99995, 10) = 6.211 (two-sided 0.1 % and 0.01 %).
        let estimate = |freedom| Estimate { mean: 0.0, error: Some((1.0, freedom)) };
        let bound = |freedom, confidence| estimate(freedom).interval(confidence).unwrap()[1];
        assert!((bound(5.0, 0.999) - 6.868_827).abs() < 1e-5);
        assert!((bound(10.0, 0.9999) - 6.211_05).abs() < 1e-4);
        for (freedom, confidence) in [(3.0, 0.99), (7.0, 1.0 - 1e-6), (11.0, 1.0 - 1e-8)] {
            let at = Estimate { mean: bound(freedom, confidence), error: Some((1.0, freedom)) };
            let p = at.p_value().unwrap();
            assert!((p / (1.0 - confidence) - 1.0).abs() < 1e-6, "{freedom}, {confidence}: {p}");
        }
    }

    #[test]
    fn samples_without_scatter_leave_no_doubt() {
        let of = |values: &[f64]| Estimate::of(values).unwrap();
        assert_eq!(of(&[2.0, 2.0]).p_value(), Some(0.0));
        assert_eq!(of(&[0.0, 0.0]).p_value(), Some(1.0));
        assert_eq!(of(&[3.0]).p_value(), None);
        let difference = of(&[2.0; 3]).minus(&of(&[1.0; 4]));
        assert_eq!(difference.interval(0.999), Some([1.0, 1.0]));
    }

    #[test]
    fn welch_agrees_with_scipy() {
        // scipy.stats.ttest_ind([1, 2, 3, 4, 5], [2, 4, 6, 9], equal_var=False)
        let of = |values: &[f64]| Estimate::of(values).unwrap();
        let difference = of(&[1.0, 2.0, 3.0, 4.0, 5.0]).minus(&of(&[2.0, 4.0, 6.0, 9.0]));
        let (_, freedom) = difference.error.unwrap();
        assert!((difference.mean + 2.25).abs() < 1e-12);
        assert!((freedom - 4.333_221).abs() < 1e-6, "{freedom}");
        assert!((difference.p_value().unwrap() - 0.239_719).abs() < 1e-6);
    }

    proptest! {
        #[test]
        fn quantiles_are_monotonic_and_inside(
            mut values in prop::collection::vec(-1e6..1e6f64, 1..40),
            a in 0.0..=1.0f64,
            b in 0.0..=1.0f64,
        ) {
            sort(&mut values);
            let at = |q| quantile(&values, q).unwrap();
            prop_assert!(at(a.min(b)) <= at(a.max(b)));
            prop_assert_eq!(at(0.0), values[0]);
            prop_assert_eq!(at(1.0), *values.last().unwrap());
            for (i, value) in values.iter().enumerate() {
                let q = i as f64 / (values.len() - 1).max(1) as f64;
                prop_assert!((at(q) - value).abs() <= 1e-9 * value.abs().max(1.0));
            }
        }
    }
}
