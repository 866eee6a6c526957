//! Simulated time.
//!
//! Time is a whole number of picoseconds, so that sums of millions of step
//! times are exact and the same on every machine: a float clock would make the
//! closed forms of the engine differ from its step-by-step mode in the last
//! bits. A `u64` of picoseconds lasts 213 days.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Div, Mul, Sub, SubAssign};

/// Picoseconds in a second.
pub const PS_PER_SECOND: u64 = 1_000_000_000_000;
const PS_PER_MS: u64 = 1_000_000_000;
const PS_PER_US: u64 = 1_000_000;

/// A moment of simulated time, counted from the start of the run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SimTime(u64);

/// A length of simulated time; never negative.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SimDuration(u64);

impl SimTime {
    /// The start of the run.
    pub const ZERO: Self = Self(0);
    /// Later than anything that can happen.
    pub const MAX: Self = Self(u64::MAX);

    /// The moment `ps` picoseconds after the start.
    pub const fn from_ps(ps: u64) -> Self {
        Self(ps)
    }
    /// Picoseconds since the start.
    pub const fn as_ps(self) -> u64 {
        self.0
    }
    /// Seconds since the start, for reports.
    pub fn as_secs(self) -> f64 {
        self.0 as f64 / PS_PER_SECOND as f64
    }
    /// Milliseconds since the start, for reports.
    pub fn as_millis(self) -> f64 {
        self.0 as f64 / PS_PER_MS as f64
    }
    /// Time since `earlier`, or zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> SimDuration {
        SimDuration(self.0.saturating_sub(earlier.0))
    }
}

impl SimDuration {
    /// No time.
    pub const ZERO: Self = Self(0);

    /// `ps` picoseconds.
    pub const fn from_ps(ps: u64) -> Self {
        Self(ps)
    }
    /// `us` microseconds.
    pub const fn from_micros(us: u64) -> Self {
        Self(us * PS_PER_US)
    }
    /// `ms` milliseconds.
    pub const fn from_millis(ms: u64) -> Self {
        Self(ms * PS_PER_MS)
    }
    /// `s` seconds.
    pub const fn from_secs(s: u64) -> Self {
        Self(s * PS_PER_SECOND)
    }
    /// The one place where a float becomes time: rounds to the nearest
    /// picosecond; negative values and NaN become zero, too large ones saturate.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "`as` saturates, which is what the doc comment promises"
    )]
    pub fn from_secs_f64(seconds: f64) -> Self {
        Self((seconds * PS_PER_SECOND as f64).round() as u64)
    }
    /// As [`from_secs_f64`](Self::from_secs_f64), from milliseconds.
    pub fn from_millis_f64(ms: f64) -> Self {
        Self::from_secs_f64(ms / 1_000.0)
    }
    /// Picoseconds.
    pub const fn as_ps(self) -> u64 {
        self.0
    }
    /// Seconds, for reports.
    pub fn as_secs(self) -> f64 {
        self.0 as f64 / PS_PER_SECOND as f64
    }
    /// Milliseconds, for reports.
    pub fn as_millis(self) -> f64 {
        self.0 as f64 / PS_PER_MS as f64
    }
    /// True for no time at all.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }
}

impl Add<SimDuration> for SimTime {
    type Output = Self;
    fn add(self, rhs: SimDuration) -> Self {
        Self(self.0.saturating_add(rhs.0))
    }
}
impl AddAssign<SimDuration> for SimTime {
    fn add_assign(&mut self, rhs: SimDuration) {
        *self = *self + rhs;
    }
}
impl Sub for SimTime {
    type Output = SimDuration;
    /// # Panics
    /// If `rhs` is later than `self`: a cause would follow its effect.
    fn sub(self, rhs: Self) -> SimDuration {
        match self.0.checked_sub(rhs.0) {
            Some(ps) => SimDuration(ps),
            None => panic!("time went back: {self:?} is before {rhs:?}"),
        }
    }
}
impl Add for SimDuration {
    type Output = Self;
    fn add(self, rhs: Self) -> Self {
        Self(self.0.saturating_add(rhs.0))
    }
}
impl AddAssign for SimDuration {
    fn add_assign(&mut self, rhs: Self) {
        *self = *self + rhs;
    }
}
impl Sub for SimDuration {
    type Output = Self;
    fn sub(self, rhs: Self) -> Self {
        Self(self.0.saturating_sub(rhs.0))
    }
}
impl SubAssign for SimDuration {
    fn sub_assign(&mut self, rhs: Self) {
        *self = *self - rhs;
    }
}
impl Mul<u64> for SimDuration {
    type Output = Self;
    fn mul(self, n: u64) -> Self {
        Self(self.0.saturating_mul(n))
    }
}
impl Div<u64> for SimDuration {
    type Output = Self;
    fn div(self, n: u64) -> Self {
        Self(self.0 / n)
    }
}
impl Sum for SimDuration {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, |a, b| a + b)
    }
}
impl fmt::Debug for SimTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.9} s", self.as_secs())
    }
}
impl fmt::Debug for SimDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.9} s", self.as_secs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_round_once_and_never_wrap() {
        assert_eq!(SimDuration::from_secs_f64(1.5e-12).as_ps(), 2);
        assert_eq!(SimDuration::from_secs_f64(-1.0), SimDuration::ZERO);
        assert_eq!(SimDuration::from_secs_f64(f64::NAN), SimDuration::ZERO);
        assert_eq!(SimDuration::from_secs_f64(1e30).as_ps(), u64::MAX);
        assert_eq!(SimDuration::from_millis(60), SimDuration::from_millis_f64(60.0));
    }

    #[test]
    #[should_panic(expected = "time went back")]
    fn time_never_goes_back() {
        let _ = SimTime::from_ps(1) - SimTime::from_ps(2);
    }
}
