//! Random lengths and times, as experiment files write them.

use crate::rng::Stream;
use crate::settings::{self, Count, Invalid};
use crate::time::SimDuration;
use rand::RngExt;
use rand_distr::{Distribution as _, Exp, LogNormal, Normal};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
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
}

impl Quantity for Tokens {
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
        format!("\"{}s\"", self.as_secs())
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
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
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
        match *self {
            Self::Constant { value } => (value, value),
            Self::Uniform { min, max }
            | Self::Normal { min, max, .. }
            | Self::LogNormal { min, max, .. }
            | Self::Exponential { min, max, .. } => (min, max),
        }
    }

    /// One draw.
    ///
    /// # Panics
    /// If the distribution does not [`validate`](Self::validate).
    pub fn sample(&self, stream: &mut Stream) -> T {
        let valid = "a validated distribution";
        let drawn = match *self {
            Self::Constant { value } => return value,
            Self::Uniform { min, max } => return T::uniform(min, max, stream),
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
        match *self {
            Self::LogNormal { mean, .. } | Self::Exponential { mean, .. } => {
                Invalid::unless(mean > T::default(), "mean", mean.shown(), "more than 0")
            }
            _ => Ok(()),
        }
    }

    /// As [`validate`](Self::validate), for a quantity of which there must be
    /// at least `least`.
    ///
    /// # Errors
    /// The first unusable parameter, its key relative to the distribution.
    pub fn validate_at_least(&self, least: T) -> Result<(), Invalid> {
        self.validate()?;
        let key = if matches!(self, Self::Constant { .. }) { "value" } else { "min" };
        let (min, _) = self.bounds();
        Invalid::unless(min >= least, key, min.shown(), &format!("at least {}", least.shown()))
    }
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

    fn moments<T: Quantity>(distribution: &Distribution<T>) -> (f64, f64) {
        let values = draws(distribution, 40_000);
        let mean = stats::mean(&values).unwrap();
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
        // 68 whole numbers; the standard deviation is that of the discrete distribution.
        let tokens = Distribution::Uniform { min: Tokens(25), max: Tokens(92) };
        check(moments(&tokens), 58.5, ((68.0f64.powi(2) - 1.0) / 12.0).sqrt());
        let (min, max) = (SimDuration::ZERO, SimDuration::from_secs(1));
        check(moments(&Distribution::Uniform { min, max }), 0.5, (1.0f64 / 12.0).sqrt());
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
            "{ kind = \"zipf\", value = 5 }",
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
    }

    proptest! {
        #[test]
        fn draws_stay_inside_and_depend_on_the_stream_only(
            kind in 0..4u32,
            (low, width, mean, sd) in (0..5_000u32, 0..5_000u32, 1..9_000u32, 0..9_000u32),
            seed in any::<u64>(),
        ) {
            let (min, max) = (Tokens(low), Tokens(low + width));
            let (mean, sd) = (Tokens(mean), Tokens(sd));
            let distribution = match kind {
                0 => Distribution::Uniform { min, max },
                1 => Distribution::Normal { mean, sd, min, max },
                2 => Distribution::LogNormal { mean, sd, min, max },
                _ => Distribution::Exponential { mean, min, max },
            };
            let draw = || distribution.sample(&mut stream(seed, Use::Turn, 0, 0));
            prop_assert!(min <= draw() && draw() <= max);
            prop_assert_eq!(draw(), draw());
        }
    }
}
