//! The times that rows give: what they count, and from when.
//!
//! A file says so, or a rule does that is reported: see [`Clock`].

use super::MAX_TIME;
use crate::time::SimDuration;
use schemars::JsonSchema;
use serde::de::Deserializer;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A first time from which on it is said that times count from it (assumed).
const LATE: SimDuration = SimDuration::from_secs(60);

/// What the times of a trace count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TimeUnit {
    /// Seconds.
    S,
    /// Milliseconds.
    Ms,
    /// Microseconds.
    Us,
    /// Nanoseconds.
    Ns,
}

impl TimeUnit {
    const ALL: [Self; 4] = [Self::S, Self::Ms, Self::Us, Self::Ns];

    /// Nanoseconds in one of them.
    pub(super) const fn ns(self) -> u64 {
        match self {
            Self::S => 1_000_000_000,
            Self::Ms => 1_000_000,
            Self::Us => 1_000,
            Self::Ns => 1,
        }
    }

    /// As settings write it.
    pub(super) const fn symbol(self) -> &'static str {
        match self {
            Self::S => "s",
            Self::Ms => "ms",
            Self::Us => "us",
            Self::Ns => "ns",
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::S => "seconds",
            Self::Ms => "milliseconds",
            Self::Us => "microseconds",
            Self::Ns => "nanoseconds",
        }
    }

    /// The unit in which `stamp` is a date from 2001 to 2099, if there is one.
    pub(super) fn of_epoch(stamp: Stamp) -> Option<Self> {
        let dates = 1_000_000_000..4_100_000_000_u64;
        let is_date =
            |unit: &Self| unit.to_ns(stamp).is_some_and(|ns| dates.contains(&(ns / Self::S.ns())));
        Self::ALL.into_iter().find(is_date)
    }

    /// Whole nanoseconds, rounded; `None` if they do not fit.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked before")]
    pub(super) fn to_ns(self, stamp: Stamp) -> Option<u64> {
        match stamp {
            Stamp::Whole(count) => count.checked_mul(self.ns()),
            Stamp::Real(count) => {
                // Apart, so that dates keep what a float has of their fractions.
                let (whole, part) = (count.trunc(), count.fract());
                let whole = (0.0..1e19).contains(&whole).then_some(whole as u64)?;
                let part = (part * self.ns() as f64).round() as u64;
                whole.checked_mul(self.ns())?.checked_add(part)
            }
        }
    }
}

/// A time as a row gives it; not negative.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub(super) enum Stamp {
    Whole(u64),
    Real(f64),
}

impl Stamp {
    /// Reads a decimal number that is not negative.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if let Ok(whole) = text.parse() {
            return Some(Self::Whole(whole));
        }
        let real: f64 = text.parse().ok()?;
        (0.0..1e30).contains(&real).then_some(Self::Real(real))
    }

    pub(super) fn optional<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Self>, D::Error> {
        match Option::<Self>::deserialize(from)? {
            Some(Self::Real(real)) if !(0.0..1e30).contains(&real) => {
                Err(serde::de::Error::custom("no time"))
            }
            stamp => Ok(stamp),
        }
    }

    fn is_whole(self) -> bool {
        match self {
            Self::Whole(_) => true,
            Self::Real(real) => real.fract() == 0.0,
        }
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(whole) => whole.fmt(f),
            Self::Real(real) => real.fmt(f),
        }
    }
}

/// Makes times since the first row of what rows give.
///
/// The unit is the one that was given, or the format's own. Mooncake's format has
/// whole milliseconds, but tools write other units into it. There, where nothing
/// gives the unit,
///
/// * a first time that is a date from 2001 to 2099 in one of the units has that unit,
/// * a time with a fraction is refused: in most tools it counts seconds.
#[derive(Debug)]
pub(super) struct Clock {
    unit: Option<TimeUnit>,
    /// Whether nothing gave the unit.
    is_guessed: bool,
    /// Whether the first time is a date by whose size the unit was guessed.
    is_date: bool,
    /// The first time of all, in nanoseconds.
    origin_ns: Option<u64>,
    is_whole_ms: bool,
}

/// What is allowed in place of a time that cannot be used.
pub(super) type Allowed = String;

impl Clock {
    /// With `unit`, if the file's format or its reader gives one.
    pub(super) fn new(unit: Option<TimeUnit>) -> Self {
        let is_guessed = unit.is_none();
        Self { unit, is_guessed, is_date: false, origin_ns: None, is_whole_ms: true }
    }

    /// The time from the first moment that was asked for to `stamp`; zero if
    /// `stamp` is before it.
    pub(super) fn at(&mut self, stamp: Stamp) -> Result<SimDuration, Allowed> {
        if self.unit.is_none() {
            let date = TimeUnit::of_epoch(stamp);
            self.is_date = date.is_some();
            self.unit = date.or(Some(TimeUnit::Ms));
        }
        let ns = self.ns(stamp)?;
        let since = ns.saturating_sub(*self.origin_ns.get_or_insert(ns));
        self.bounded(since)
    }

    /// True if `stamp` is before the first moment.
    pub(super) fn is_before_first(&self, stamp: Stamp) -> bool {
        let ns = self.unit.and_then(|unit| unit.to_ns(stamp));
        ns.zip(self.origin_ns).is_some_and(|(ns, origin)| ns < origin)
    }

    /// A length of time.
    pub(super) fn lasting(&mut self, stamp: Stamp) -> Result<SimDuration, Allowed> {
        let ns = self.ns(stamp)?;
        self.bounded(ns)
    }

    fn ns(&self, stamp: Stamp) -> Result<u64, Allowed> {
        let unit = self.unit.unwrap_or(TimeUnit::Ms);
        if self.is_guessed && unit == TimeUnit::Ms && !stamp.is_whole() {
            return Err(
                "whole milliseconds, unless time_unit says what it counts (\"s\", \"ms\", \
                        \"us\" or \"ns\"): a fraction means seconds in most tools"
                    .to_owned(),
            );
        }
        unit.to_ns(stamp).ok_or_else(|| self.most())
    }

    fn bounded(&mut self, ns: u64) -> Result<SimDuration, Allowed> {
        self.is_whole_ms &= ns.is_multiple_of(TimeUnit::Ms.ns());
        let time = SimDuration::from_ps(ns.saturating_mul(1_000));
        if time <= MAX_TIME { Ok(time) } else { Err(self.most()) }
    }

    fn most(&self) -> Allowed {
        format!("at most 100 days, in {}", self.unit_name())
    }

    fn unit_name(&self) -> &'static str {
        self.unit.unwrap_or(TimeUnit::Ms).name()
    }

    /// True if all times were whole milliseconds.
    pub(super) fn is_whole_ms(&self) -> bool {
        self.is_whole_ms
    }

    /// True if nothing says that its times are milliseconds.
    pub(super) fn is_guessed_ms(&self) -> bool {
        self.is_guessed && !self.is_date && self.unit == Some(TimeUnit::Ms)
    }

    /// What was assumed of the times, if anything was.
    pub(super) fn notice(&self) -> Option<String> {
        let origin = SimDuration::from_ps(self.origin_ns?.saturating_mul(1_000));
        if self.is_date {
            let unit = self.unit_name();
            Some(format!("its times are dates in {unit}: the first row is at 0 s"))
        } else if self.is_guessed && origin >= LATE {
            let at = origin.as_secs();
            Some(format!("its times begin at {at} s: the first row is at 0 s"))
        } else {
            None
        }
    }
}
