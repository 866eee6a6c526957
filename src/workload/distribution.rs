//! Random lengths and times, as experiment files write them.

use super::MAX_TOKENS;
use crate::rng::Stream;
use crate::settings::{self, Count, Invalid, duration_text};
use crate::time::SimDuration;
use rand::RngExt;
use rand_distr::{Distribution as _, Exp, Gamma, LogNormal, Normal, Zipf};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use statrs::distribution::{self as continuous, Continuous, ContinuousCDF};
use std::fmt;

/// A length in tokens; written `3500`, `3_500` or, with a unit, `"16k"`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize, JsonSchema,
)]
#[serde(transparent)]
pub struct Tokens(
    #[serde(deserialize_with = "settings::count")]
    #[schemars(with = "Count")]
    pub u32,
);

impl fmt::Display for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a [`Distribution`] can draw: [`Tokens`] or [`SimDuration`].
pub trait Quantity: Copy + Ord + Default + fmt::Debug {
    /// As a float, in tokens or seconds.
    fn to_f64(self) -> f64;
    /// The nearest quantity; negative values become zero, too large ones the largest.
    fn from_f64(value: f64) -> Self;
    /// Every quantity from `min` to `max`, both included, equally likely.
    fn uniform(min: Self, max: Self, stream: &mut Stream) -> Self;
    /// As a person writes it.
    fn shown(self) -> String;
    /// The distance of neighbours in a [`Distribution::Zipf`], in tokens or seconds.
    const STEP: f64;
}

impl Quantity for Tokens {
    const STEP: f64 = 1.0;
    fn to_f64(self) -> f64 {
        f64::from(self.0)
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "`as` saturates, which is what the trait asks for"
    )]
    fn from_f64(value: f64) -> Self {
        Self(value.round() as u32)
    }
    fn uniform(min: Self, max: Self, stream: &mut Stream) -> Self {
        Self(stream.random_range(min.0..=max.0))
    }
    fn shown(self) -> String {
        self.to_string()
    }
}

impl Quantity for SimDuration {
    /// A millisecond.
    const STEP: f64 = 1e-3;
    fn to_f64(self) -> f64 {
        self.as_secs()
    }
    fn from_f64(value: f64) -> Self {
        Self::from_secs_f64(value)
    }
    fn uniform(min: Self, max: Self, stream: &mut Stream) -> Self {
        Self::from_ps(stream.random_range(min.as_ps()..=max.as_ps()))
    }
    fn shown(self) -> String {
        duration_text(self)
    }
}

/// How a length or a time is drawn.
///
/// Written as a table whose `kind` names the form, with the unit of what is
/// drawn: `{ kind = "uniform", min = 25, max = 92 }` for tokens,
/// `{ kind = "uniform", min = "0s", max = "0.5s" }` for times.
///
/// The unbounded forms are *clamped*: a draw outside `min` to `max` becomes the
/// bound itself, as a request that reaches its `max_tokens` does. So the bounds
/// gather probability, and the mean of the draws is not quite `mean`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Distribution<T> {
    /// Always the same.
    Constant {
        /// The value.
        value: T,
    },
    /// Everything between two bounds equally likely, both included.
    Uniform {
        /// Smallest value.
        min: T,
        /// Largest value.
        max: T,
    },
    /// The normal distribution, clamped.
    Normal {
        /// Mean before clamping.
        mean: T,
        /// Standard deviation before clamping.
        sd: T,
        /// Draws below become this.
        min: T,
        /// Draws above become this.
        max: T,
    },
    /// The log-normal distribution, clamped: positive, with a long upper tail.
    LogNormal {
        /// Mean before clamping (of the value, not of its logarithm).
        mean: T,
        /// Standard deviation before clamping (of the value).
        sd: T,
        /// Draws below become this.
        min: T,
        /// Draws above become this.
        max: T,
    },
    /// The exponential distribution, clamped: the time between independent events.
    Exponential {
        /// Mean before clamping.
        mean: T,
        /// Draws below become this.
        min: T,
        /// Draws above become this.
        max: T,
    },
    /// The gamma distribution, clamped: positive, with a tail between those of
    /// the exponential (`sd` = `mean`) and the normal distribution (`sd` small).
    Gamma {
        /// Mean before clamping.
        mean: T,
        /// Standard deviation before clamping.
        sd: T,
        /// Draws below become this.
        min: T,
        /// Draws above become this.
        max: T,
    },
    /// Zipf's distribution: the `k`-th value from `min` on has a probability in
    /// proportion to `k ^ -exponent`. Values are a token or a millisecond apart.
    Zipf {
        /// 0 makes all values equally likely; the larger, the more small ones.
        exponent: f64,
        /// The most likely value.
        min: T,
        /// The largest value.
        max: T,
    },
    /// Values as they were seen, each with a probability in proportion to its weight.
    Empirical {
        /// The values, in any order; repeating one makes it more likely.
        values: Vec<T>,
        /// A whole number for every value; all weigh the same unless given.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        weights: Vec<u32>,
    },
}

impl<T: Default> Default for Distribution<T> {
    /// Always nothing.
    fn default() -> Self {
        Self::Constant { value: T::default() }
    }
}

impl<T: Quantity> Distribution<T> {
    /// Smallest and largest value that can be drawn.
    pub fn bounds(&self) -> (T, T) {
        match self {
            Self::Constant { value } => (*value, *value),
            Self::Uniform { min, max }
            | Self::Normal { min, max, .. }
            | Self::LogNormal { min, max, .. }
            | Self::Exponential { min, max, .. }
            | Self::Gamma { min, max, .. }
            | Self::Zipf { min, max, .. } => (*min, *max),
            Self::Empirical { values, .. } => {
                let bounds = values.iter().min().zip(values.iter().max());
                bounds.map_or_else(Default::default, |(min, max)| (*min, *max))
            }
        }
    }

    /// One draw.
    ///
    /// # Panics
    /// If the distribution does not [`validate`](Self::validate).
    pub fn sample(&self, stream: &mut Stream) -> T {
        let valid = "a validated distribution";
        let drawn = match self {
            Self::Constant { value } => return *value,
            Self::Uniform { min, max } => return T::uniform(*min, *max, stream),
            Self::Empirical { values, weights } => return empirical(values, weights, stream),
            Self::Normal { mean, sd, .. } => {
                Normal::new(mean.to_f64(), sd.to_f64()).expect(valid).sample(stream)
            }
            Self::LogNormal { mean, sd, .. } => {
                let cv = sd.to_f64() / mean.to_f64();
                LogNormal::from_mean_cv(mean.to_f64(), cv).expect(valid).sample(stream)
            }
            Self::Exponential { mean, .. } => {
                Exp::new(1.0 / mean.to_f64()).expect(valid).sample(stream)
            }
            Self::Gamma { mean, sd, .. } => {
                let (mean, sd) = (mean.to_f64(), sd.to_f64());
                Gamma::new((mean / sd).powi(2), sd * sd / mean).expect(valid).sample(stream)
            }
            Self::Zipf { exponent, min, max } => {
                let values = ((max.to_f64() - min.to_f64()) / T::STEP).round() + 1.0;
                let rank = Zipf::new(values, *exponent).expect(valid).sample(stream);
                min.to_f64() + (rank - 1.0) * T::STEP
            }
        };
        let (min, max) = self.bounds();
        T::from_f64(drawn).clamp(min, max)
    }

    /// Refuses bounds in the wrong order and parameters without a distribution.
    ///
    /// # Errors
    /// The first unusable parameter, its key relative to the distribution.
    pub fn validate(&self) -> Result<(), Invalid> {
        let (min, max) = self.bounds();
        let order = format!("at most max = {}", max.shown());
        Invalid::unless(min <= max, "min", min.shown(), &order)?;
        let positive = |key: &str, value: &T| {
            Invalid::unless(*value > T::default(), key, value.shown(), "more than 0")
        };
        if let Some((mean, _)) = self.before_clamping() {
            let bounds = format!(
                "from min = {} to max = {}: outside of them nearly every draw would become a bound",
                min.shown(),
                max.shown()
            );
            Invalid::unless(min <= mean && mean <= max, "mean", mean.shown(), &bounds)?;
        }
        match self {
            Self::LogNormal { mean, .. } | Self::Exponential { mean, .. } => positive("mean", mean),
            Self::Gamma { mean, sd, .. } => {
                positive("mean", mean)?;
                positive("sd", sd)
            }
            Self::Zipf { exponent, .. } => validate_exponent("exponent", *exponent),
            Self::Empirical { values, weights } => {
                Invalid::unless(!values.is_empty(), "values", "[]", "at least one value")?;
                let (seen, wanted) = (weights.len(), values.len());
                let allowed = format!("absent, or {wanted} numbers: one for each value");
                let is_usable = weights.is_empty() || seen == wanted;
                Invalid::unless(is_usable, "weights", format!("{seen} numbers"), &allowed)?;
                let some = weights.is_empty() || weights.iter().any(|&weight| weight > 0);
                Invalid::unless(some, "weights", "all 0", "above 0 for some value")
            }
            _ => Ok(()),
        }
    }

    /// Mean and standard deviation as they are written, of the forms that are clamped.
    fn before_clamping(&self) -> Option<(T, T)> {
        match self {
            Self::Normal { mean, sd, .. }
            | Self::LogNormal { mean, sd, .. }
            | Self::Gamma { mean, sd, .. } => Some((*mean, *sd)),
            Self::Exponential { mean, .. } => Some((*mean, *mean)),
            Self::Constant { .. }
            | Self::Uniform { .. }
            | Self::Zipf { .. }
            | Self::Empirical { .. } => None,
        }
    }

    /// The mean of what is drawn, were it not rounded to whole tokens: of the forms that are
    /// clamped, where their deviation is above 0.
    ///
    /// With F(x) the probability of a value up to x before clamping, and M(x) the share of
    /// the mean that such values have, it is min F(min) + max (1 - F(max)) + M(max) - M(min).
    fn mean_after_clamping(&self) -> Option<f64> {
        let up_to = |x: f64| -> Option<(f64, f64)> {
            Some(match self {
                Self::Normal { mean, sd, .. } => {
                    let (mean, sd) = (mean.to_f64(), sd.to_f64());
                    let normal = continuous::Normal::new(mean, sd).ok()?;
                    (normal.cdf(x), mean * normal.cdf(x) - sd * sd * normal.pdf(x))
                }
                Self::LogNormal { mean, sd, .. } => {
                    let (mean, cv) = (mean.to_f64(), sd.to_f64() / mean.to_f64());
                    let variance = cv.mul_add(cv, 1.0).ln();
                    let below = |location: f64| {
                        let of = continuous::LogNormal::new(location, variance.sqrt()).ok()?;
                        Some(of.cdf(x))
                    };
                    let location = mean.ln() - variance / 2.0;
                    (below(location)?, mean * below(location + variance)?)
                }
                Self::Exponential { mean, .. } => {
                    let share = continuous::Exp::new(1.0 / mean.to_f64()).ok()?.cdf(x);
                    (share, mean.to_f64() * share - x * (1.0 - share))
                }
                Self::Gamma { mean, sd, .. } => {
                    let (mean, sd) = (mean.to_f64(), sd.to_f64());
                    let below = |shape: f64| {
                        Some(continuous::Gamma::new(shape, mean / (sd * sd)).ok()?.cdf(x))
                    };
                    let shape = (mean / sd).powi(2);
                    (below(shape)?, mean * below(shape + 1.0)?)
                }
                _ => return None,
            })
        };
        let (min, max) = self.bounds();
        let (min, max) = (min.to_f64(), max.to_f64());
        let ((low, low_mean), (high, high_mean)) = (up_to(min)?, up_to(max)?);
        Some(min * low + max * (1.0 - high) + high_mean - low_mean)
    }

    /// What the bounds make of the mean, where they move it by more than a tenth: a
    /// sentence for people.
    pub fn clamping(&self) -> Option<String> {
        /// Of the mean: what is worth saying.
        const MOVED: f64 = 0.1;
        let (written, sd) = self.before_clamping()?;
        // Bounds around a mean move it by less than the deviation.
        if sd.to_f64() <= MOVED * written.to_f64() {
            return None;
        }
        let drawn = self.mean_after_clamping()?;
        let moved = (drawn / written.to_f64() - 1.0).abs();
        let (min, max) = self.bounds();
        (moved > MOVED).then(|| {
            format!(
                "clamped to {} to {}, it has a mean of about {} in place of {}",
                min.shown(),
                max.shown(),
                T::from_f64(rounded(drawn)).shown(),
                written.shown()
            )
        })
    }

    /// As [`validate`](Self::validate), for a quantity of which there must be
    /// at least `least`.
    ///
    /// # Errors
    /// The first unusable parameter, its key relative to the distribution.
    pub fn validate_at_least(&self, least: T) -> Result<(), Invalid> {
        self.validate()?;
        let key = match self {
            Self::Constant { .. } => "value",
            Self::Empirical { .. } => "values",
            _ => "min",
        };
        let (min, _) = self.bounds();
        Invalid::unless(min >= least, key, min.shown(), &format!("at least {}", least.shown()))
    }
}

impl Distribution<Tokens> {
    /// Refuses what is no length of a prompt or an answer of at least `least` tokens; `key` is
    /// that of the value.
    pub(super) fn validate_length(&self, key: &str, least: Tokens) -> Result<(), Invalid> {
        self.validate_at_least(least).map_err(|invalid| invalid.within(key))?;
        let (_, longest) = self.bounds();
        let allowed = format!("tokens up to {MAX_TOKENS}");
        Invalid::unless(longest.0 <= MAX_TOKENS, key, longest, &allowed)
    }
}

/// To two digits.
fn rounded(value: f64) -> f64 {
    format!("{value:.1e}").parse().unwrap_or(value)
}

/// The largest exponent of Zipf's distribution (assumed: with 10 the second value
/// is a thousand times rarer than the first).
const MAX_EXPONENT: f64 = 10.0;

/// Refuses exponents that Zipf's distribution cannot have.
pub(super) fn validate_exponent(key: &str, exponent: f64) -> Result<(), Invalid> {
    let allowed = format!("from 0 to {MAX_EXPONENT}");
    Invalid::unless((0.0..=MAX_EXPONENT).contains(&exponent), key, exponent, &allowed)
}

/// One of `values`; `weights` are as many or none.
fn empirical<T: Quantity>(values: &[T], weights: &[u32], stream: &mut Stream) -> T {
    match weights {
        [] => values[stream.random_range(0..values.len())],
        weights => values[weighted(weights.iter().copied(), stream)],
    }
}

/// A place of `weights`, in proportion to its weight.
///
/// # Panics
/// If none is above 0.
pub(super) fn weighted(weights: impl Iterator<Item = u32> + Clone, stream: &mut Stream) -> usize {
    let total: u64 = weights.clone().map(u64::from).sum();
    let mut left = stream.random_range(0..total);
    for (place, weight) in weights.enumerate() {
        match left.checked_sub(u64::from(weight)) {
            Some(rest) => left = rest,
            None => return place,
        }
    }
    unreachable!("{left} of {total} left")
}

/// One of `count` things, the first the most popular: the `k`-th is drawn in
/// proportion to `k ^ -exponent`. All are equally likely with 0.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "ranks are whole numbers from 1 to a count"
)]
pub(super) fn popular(count: u32, exponent: f64, stream: &mut Stream) -> u32 {
    if exponent == 0.0 {
        return stream.random_range(0..count);
    }
    let zipf = Zipf::new(f64::from(count), exponent).expect("a validated exponent");
    zipf.sample(stream) as u32 - 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Use, stream};
    use crate::stats;
    use proptest::prelude::*;

    fn draws<T: Quantity>(distribution: &Distribution<T>, count: u64) -> Vec<f64> {
        distribution.validate().unwrap();
        (0..count).map(|i| distribution.sample(&mut stream(1, Use::Turn, i, 0)).to_f64()).collect()
    }

    #[test]
    fn clamping_that_moves_the_mean_is_said_or_refused() {
        let normal = |mean: u32, sd: u32, max: u32| Distribution::Normal {
            mean: Tokens(mean),
            sd: Tokens(sd),
            min: Tokens(1),
            max: Tokens(max),
        };
        assert_eq!(normal(900, 230, 2_000).clamping(), None);
        let said = normal(900, 600, 1_000).clamping().unwrap();
        assert_eq!(said, "clamped to 1 to 1000, it has a mean of about 720 in place of 900");
        // A tenth of the mean: hardly a draw is below it.
        let refused = normal(1_000, 230, 100).validate().unwrap_err();
        assert_eq!(refused.key, "mean");
        assert!(refused.allowed.starts_with("from min = 1 to max = 100"), "{refused}");
        let pause = Distribution::Exponential {
            mean: SimDuration::from_secs(60),
            min: SimDuration::ZERO,
            max: SimDuration::from_secs(60),
        };
        assert!(pause.clamping().unwrap().ends_with("in place of \"1min\""));
    }

    fn moments<T: Quantity>(distribution: &Distribution<T>) -> (f64, f64) {
        moments_of(&draws(distribution, 40_000))
    }

    fn moments_of(values: &[f64]) -> (f64, f64) {
        let mean = stats::mean(values).unwrap();
        let squares: Vec<f64> = values.iter().map(|v| (v - mean).powi(2)).collect();
        (mean, stats::mean(&squares).unwrap().sqrt())
    }

    /// Within 2 %: more than four standard errors of 40,000 draws for all cases below.
    fn close(got: f64, expected: f64) {
        assert!((got - expected).abs() < 0.02 * expected, "{got} for {expected}");
    }

    #[test]
    fn unclamped_moments_are_the_stated_ones() {
        let (min, max) = (Tokens(0), Tokens(u32::MAX));
        let (mean, sd) = (Tokens(10_000), Tokens(2_000));
        let check = |got: (f64, f64), mean: f64, sd: f64| {
            close(got.0, mean);
            close(got.1, sd);
        };
        let normal = Distribution::Normal { mean, sd, min, max };
        check(moments(&normal), 10_000.0, 2_000.0);
        let log_normal = Distribution::LogNormal { mean, sd, min, max };
        check(moments(&log_normal), 10_000.0, 2_000.0);
        let exponential = Distribution::Exponential { mean, min, max };
        check(moments(&exponential), 10_000.0, 10_000.0);
        let gamma = Distribution::Gamma { mean, sd: Tokens(15_000), min, max };
        check(moments(&gamma), 10_000.0, 15_000.0);
        // 68 whole numbers; the standard deviation is that of the discrete distribution.
        let tokens = Distribution::Uniform { min: Tokens(25), max: Tokens(92) };
        check(moments(&tokens), 58.5, ((68.0f64.powi(2) - 1.0) / 12.0).sqrt());
        let (min, max) = (SimDuration::ZERO, SimDuration::from_secs(1));
        check(moments(&Distribution::Uniform { min, max }), 0.5, (1.0f64 / 12.0).sqrt());
    }

    #[test]
    fn values_come_with_their_probabilities() {
        // 1 / (1 + 1/2 + 1/3 + 1/4) = 12/25 of the draws are the first value.
        let zipf = Distribution::Zipf { exponent: 1.0, min: Tokens(10), max: Tokens(13) };
        let empirical = Distribution::Empirical {
            values: vec![Tokens(13), Tokens(10), Tokens(12), Tokens(11), Tokens(99)],
            weights: vec![3, 12, 4, 6, 0],
        };
        for distribution in [zipf, empirical] {
            let values = draws(&distribution, 40_000);
            for (value, share) in [(10.0, 12.0), (11.0, 6.0), (12.0, 4.0), (13.0, 3.0)] {
                let seen = values.iter().filter(|v| **v == value).count() as f64 / 40_000.0;
                assert!((seen - share / 25.0).abs() < 0.01, "{distribution:?}: {value} {seen}");
            }
        }
        let (min, max) = (SimDuration::from_millis(2), SimDuration::from_millis(3));
        let times = draws(&Distribution::Zipf { exponent: 0.0, min, max }, 10_000);
        close(stats::mean(&times).unwrap(), 2.5e-3);
        assert!(times.iter().all(|time| [2e-3, 3e-3].contains(time)));
        let mut first = [0; 2];
        for i in 0..10_000 {
            first[usize::from(popular(4, 1.0, &mut stream(1, Use::Turn, i, 0)) == 0)] += 1;
        }
        assert!((4_600..5_000).contains(&first[1]), "{first:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Within five standard errors, and what rounding to whole tokens can do.
        #[test]
        fn the_mean_after_clamping_is_that_of_the_draws(
            kind in 0..4u32,
            (low, width, mean, sd) in (0..2_000u32, 1..5_000u32, 0.0..1.0f64, 100..9_000u32),
        ) {
            let (min, max) = (Tokens(low), Tokens(low + width));
            let mean = Tokens(low + 1 + Tokens::from_f64(mean * f64::from(width - 1)).0);
            let sd = Tokens(sd);
            let distribution = match kind {
                0 => Distribution::Normal { mean, sd, min, max },
                1 => Distribution::LogNormal { mean, sd, min, max },
                2 => Distribution::Exponential { mean, min, max },
                _ => Distribution::Gamma { mean, sd, min, max },
            };
            let values = draws(&distribution, 10_000);
            let (seen, deviation) = moments_of(&values);
            let expected = distribution.mean_after_clamping().expect("a form that is clamped");
            let error = (seen - expected).abs();
            prop_assert!(error <= 0.5 + 5.0 * deviation / 100.0, "{distribution:?}: {seen}, {expected}");
        }
    }

    #[test]
    fn clamping_moves_the_mean_as_theory_says() {
        // E[min(X, c)] = m F(z) + c (1 - F(z)) - s f(z) with z = (c - m) / s = 0.5391,
        // F(z) = 0.7051, f(z) = 0.3450; the lower bound is four deviations away.
        let expected = 900.0 * 0.7051 + 1_024.0 * 0.2949 - 230.0 * 0.3450;
        let output = Distribution::Normal {
            mean: Tokens(900),
            sd: Tokens(230),
            min: Tokens(1),
            max: Tokens(1_024),
        };
        close(moments(&output).0, expected);
        let values = draws(&output, 10_000);
        let capped = values.iter().filter(|v| **v == 1_024.0).count();
        assert!((2_700..3_200).contains(&capped), "{capped} of 10,000 at the cap");
    }

    #[test]
    fn reads_from_toml_with_the_units_of_what_is_drawn() {
        #[derive(Deserialize)]
        struct File {
            length: Distribution<Tokens>,
            time: Distribution<SimDuration>,
        }
        let read = |length: &str| {
            let time = "{ kind = \"exponential\", mean = \"50ms\", min = \"0s\", max = \"1s\" }";
            toml::from_str::<File>(&format!("length = {length}\ntime = {time}"))
        };
        let file = read("{ kind = \"uniform\", min = 3_500, max = \"4k\" }").unwrap();
        assert_eq!(file.length, Distribution::Uniform { min: Tokens(3_500), max: Tokens(4_000) });
        assert_eq!(file.time.bounds(), (SimDuration::ZERO, SimDuration::from_secs(1)));
        for bad in [
            "{ kind = \"constant\", value = 5, max = 6 }",
            "{ kind = \"constant\" }",
            "{ kind = \"constant\", value = \"5s\" }",
            "{ kind = \"constant\", value = -5 }",
            "{ kind = \"zipf\", min = 5, max = 6 }",
            "{ value = 5 }",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn refuses_what_cannot_be_drawn() {
        let (min, max) = (Tokens(9), Tokens(3));
        let error = Distribution::Uniform { min, max }.validate().unwrap_err();
        assert_eq!(error.to_string(), "min = 9: must be at most max = 3");
        let mean = SimDuration::ZERO;
        let (min, max) = (mean, mean);
        let error = Distribution::Exponential { mean, min, max }.validate().unwrap_err();
        assert_eq!(error.to_string(), "mean = \"0s\": must be more than 0");
        let constant = Distribution::Constant { value: Tokens(0) };
        let error = constant.validate_at_least(Tokens(1)).unwrap_err();
        assert_eq!(error.to_string(), "value = 0: must be at least 1");
        let empirical = |values: &[u32], weights: &[u32]| {
            let values = values.iter().copied().map(Tokens).collect();
            let distribution = Distribution::Empirical { values, weights: weights.to_vec() };
            distribution.validate_at_least(Tokens(1)).unwrap_err().to_string()
        };
        assert_eq!(empirical(&[], &[]), "values = []: must be at least one value");
        assert_eq!(empirical(&[1], &[0]), "weights = all 0: must be above 0 for some value");
        assert_eq!(empirical(&[3, 0], &[]), "values = 0: must be at least 1");
        assert!(empirical(&[1], &[1, 2]).starts_with("weights = 2 numbers: "));
        let (min, max) = (Tokens(1), Tokens(2));
        for exponent in [f64::NAN, -1.0, 11.0] {
            let error = Distribution::Zipf { exponent, min, max }.validate().unwrap_err();
            assert_eq!(error.key, "exponent");
        }
    }

    proptest! {
        #[test]
        fn draws_stay_inside_and_depend_on_the_stream_only(
            kind in 0..7u32,
            (low, width, mean, sd) in (0..5_000u32, 0..5_000u32, 1..9_000u32, 0..9_000u32),
            seed in any::<u64>(),
        ) {
            let (min, max) = (Tokens(low), Tokens(low + width));
            let (mean, sd) = (Tokens(mean), Tokens(sd));
            let distribution = match kind {
                0 => Distribution::Uniform { min, max },
                1 => Distribution::Normal { mean, sd, min, max },
                2 => Distribution::LogNormal { mean, sd, min, max },
                3 => Distribution::Exponential { mean, min, max },
                4 => Distribution::Gamma { mean, sd: Tokens(sd.0 + 1), min, max },
                5 => Distribution::Zipf { exponent: f64::from(sd.0) / 1_000.0, min, max },
                _ => Distribution::Empirical { values: vec![max, min], weights: Vec::new() },
            };
            let draw = || distribution.sample(&mut stream(seed, Use::Turn, 0, 0));
            prop_assert!(min <= draw() && draw() <= max);
            prop_assert_eq!(draw(), draw());
        }
    }
}
