//! When requests of an open loop come, whatever became of the ones before.

use super::curve::{Curve, CurveSettings};
use crate::rng::{Use, stream};
use crate::settings::{Invalid, duration_text};
use crate::time::{SimDuration, SimTime};
use rand::RngExt;
use rand_distr::{Distribution as _, Exp, Gamma};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A process of arrivals; `rate` is the mean number a second of all of them, or where a
/// curve is at 1. The first request comes after the first gap.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ArrivalSettings {
    /// All gaps are equal.
    Constant {
        /// Requests a second.
        rate: f64,
    },
    /// Gaps are exponentially distributed: clients that know nothing of each other.
    Poisson {
        /// Requests a second.
        rate: f64,
    },
    /// Gaps are gamma distributed: with `cv` above 1 requests come in bursts, with
    /// 1 it is `Poisson`, below they are spread more evenly. Serving benchmarks
    /// call 1 / cv^2 "burstiness" (vLLM) or "smoothness" (AIPerf).
    Gamma {
        /// Requests a second.
        rate: f64,
        /// Coefficient of variation of gaps: standard deviation over mean.
        cv: f64,
    },
    /// An interrupted Poisson process: phases with requests and phases without,
    /// both exponentially distributed. In a phase with requests they come at
    /// `rate (on + off) / on`. The start is in either with its share of the time.
    OnOff {
        /// Requests a second, over all phases.
        rate: f64,
        /// Mean length of a phase with requests.
        on: SimDuration,
        /// Mean length of a phase without.
        off: SimDuration,
    },
    /// A process whose rate is `rate` times a curve: ramps, stages, the hours of a day.
    Varying {
        /// Requests a second where the curve is at 1.
        rate: f64,
        /// The curve.
        curve: CurveSettings,
        /// Coefficient of variation of gaps, as of `Gamma`; 1, as of `Poisson`, unless given.
        #[serde(default = "one", skip_serializing_if = "is_one")]
        cv: f64,
    },
}

fn one() -> f64 {
    1.0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_one(cv: &f64) -> bool {
    *cv == 1.0
}

/// The slowest and the fastest arrivals, and the greatest coefficient of
/// variation (assumed: far beyond any use).
pub(super) const RATES: (f64, f64) = (1e-3, 1e6);
const MAX_CV: f64 = 100.0;

/// Phases of an on-off process for each of its requests: each is drawn (assumed: phases
/// without a request change nothing).
const MOST_PHASES: f64 = 1e3;

impl ArrivalSettings {
    /// Refuses what is no process.
    ///
    /// # Errors
    /// The first unusable key.
    pub fn validate(&self) -> Result<(), Invalid> {
        let rate = self.base_rate();
        let (low, high) = RATES;
        let allowed = format!("requests per second from {low} to {high}");
        Invalid::unless((low..=high).contains(&rate), "rate", rate, &allowed)?;
        let validate_cv = |cv: f64| {
            let allowed = format!("a number above 0, at most {MAX_CV}");
            Invalid::unless(cv > 0.0 && cv <= MAX_CV, "cv", cv, &allowed)
        };
        match self {
            Self::Gamma { cv, .. } => validate_cv(*cv),
            Self::Varying { curve, cv, .. } => {
                curve.validate().map_err(|invalid| invalid.within("curve"))?;
                validate_cv(*cv)
            }
            &Self::OnOff { on, off, .. } => {
                Invalid::unless(!on.is_zero(), "on", duration_text(on), "more than 0")?;
                Invalid::unless(!off.is_zero(), "off", duration_text(off), "more than 0")?;
                let cycle = on + off;
                let least = 1.0 / (MOST_PHASES * rate);
                let allowed = format!(
                    "with off at least {least} s: a thousandth of the mean time between requests"
                );
                Invalid::unless(cycle.as_secs() >= least, "on", duration_text(on), &allowed)
            }
            Self::Constant { .. } | Self::Poisson { .. } => Ok(()),
        }
    }

    /// Refuses processes that are too slow for `count` arrivals.
    ///
    /// # Errors
    /// If they take more than half of the time that the clock is trusted with.
    pub(super) fn validate_count(&self, count: u32) -> Result<(), Invalid> {
        let slowest = f64::from(count) / (50.0 * 86_400.0);
        let allowed = format!("at least {slowest}, so that {count} requests come within 50 days");
        Invalid::unless(self.rate() >= slowest, "rate", self.rate(), &allowed)
    }

    /// Mean requests a second; after the last point of a curve that does not repeat.
    pub fn rate(&self) -> f64 {
        match self {
            Self::Varying { rate, curve, .. } => rate * curve.mean(),
            _ => self.base_rate(),
        }
    }

    /// The key `rate`.
    fn base_rate(&self) -> f64 {
        match *self {
            Self::Constant { rate }
            | Self::Poisson { rate }
            | Self::Gamma { rate, .. }
            | Self::OnOff { rate, .. }
            | Self::Varying { rate, .. } => rate,
        }
    }

    /// The process before time zero, backwards: at the mean rate where a curve repeats, else
    /// at the rate of time zero.
    pub(super) fn before_start(&self) -> Option<Self> {
        match self {
            Self::Varying { rate, curve, cv } => {
                let at_start = if curve.period.is_some() { curve.mean() } else { curve.first() };
                let rate = rate * at_start;
                (rate >= RATES.0).then_some(Self::Gamma { rate, cv: *cv })
            }
            _ => Some(self.clone()),
        }
    }
}

/// The times of a process, one after another. The `n`-th depends on the seed only.
#[derive(Clone, Debug)]
pub struct Arrivals {
    settings: ArrivalSettings,
    seed: u64,
    /// Arrivals so far.
    count: u64,
    /// The last one, in seconds; of an on-off process by a clock that stands
    /// still in phases without requests.
    at_s: f64,
    phases: Phases,
    /// The curve that the rate follows.
    curve: Option<Arc<Curve>>,
    /// A moment by the clock of the process and by that of the curve, or of the run where
    /// there is none, and how much longer a time after it is by the latter.
    origin: (SimTime, SimTime),
    stretch: f64,
    /// The last arrival.
    latest: SimTime,
}

/// From `at` on, times of a process come closer or lie further apart.
#[derive(Clone, Debug)]
pub(super) struct RateChange {
    at: SimTime,
    stretch: f64,
    curve: Option<Arc<Curve>>,
}

impl RateChange {
    /// When what would have been at `time` is.
    pub(super) fn moved(&self, time: SimTime) -> SimTime {
        if time <= self.at || time == SimTime::MAX {
            return time;
        }
        let (at, before) = (self.curve.area(self.at), self.curve.area(time));
        let after = at + SimDuration::from_secs_f64((before - at).as_secs() * self.stretch);
        self.curve.time(after)
    }
}

/// Times of the run by the clock of a curve, and back; the same without one.
trait Clock {
    fn area(&self, at: SimTime) -> SimTime;
    fn time(&self, area: SimTime) -> SimTime;
}

impl Clock for Option<Arc<Curve>> {
    fn area(&self, at: SimTime) -> SimTime {
        self.as_ref().map_or(at, |curve| after_start(curve.area(at.as_secs())))
    }

    fn time(&self, area: SimTime) -> SimTime {
        self.as_ref().map_or(area, |curve| after_start(curve.time(area.as_secs())))
    }
}

fn after_start(at_s: f64) -> SimTime {
    SimTime::ZERO + SimDuration::from_secs_f64(at_s)
}

impl Arrivals {
    /// The process from its start.
    ///
    /// # Panics
    /// If `settings` do not [`validate`](ArrivalSettings::validate).
    pub fn new(settings: ArrivalSettings, seed: u64) -> Self {
        settings.validate().expect("validated settings");
        let phases = Phases::new(&settings, seed);
        let curve = match &settings {
            ArrivalSettings::Varying { curve, .. } => Some(Arc::new(Curve::new(curve))),
            _ => None,
        };
        Self {
            settings,
            seed,
            count: 0,
            at_s: 0.0,
            phases,
            curve,
            origin: (SimTime::ZERO, SimTime::ZERO),
            stretch: 1.0,
            latest: SimTime::ZERO,
        }
    }

    /// The next arrival, not before the last one.
    pub fn next_time(&mut self) -> SimTime {
        let own = self.next_own();
        let (from, to) = self.origin;
        // The clocks are one until the rate changes.
        let time = if self.stretch == 1.0 && from == to {
            own
        } else {
            to + SimDuration::from_secs_f64(own.since(from).as_secs() * self.stretch)
        };
        self.latest = self.latest.max(self.curve.time(time));
        self.latest
    }

    /// The process goes on at `per_s` requests a second from `now` on: all that it does
    /// comes faster or slower. Gives where arrivals that are known already come to lie;
    /// `None` for rates that a process cannot have.
    pub(super) fn set_rate(&mut self, now: SimTime, per_s: f64) -> Option<RateChange> {
        if !(RATES.0..=RATES.1).contains(&per_s) {
            return None;
        }
        let (from, to) = self.origin;
        let area = self.curve.area(now);
        let own = SimDuration::from_secs_f64(area.since(to).as_secs() / self.stretch);
        let stretch = self.settings.rate() / per_s;
        let curve = self.curve.clone();
        let change = RateChange { at: now, stretch: stretch / self.stretch, curve };
        (self.origin, self.stretch) = ((from + own, area), stretch);
        self.latest = change.moved(self.latest);
        Some(change)
    }

    /// The next arrival by the clock of the process.
    fn next_own(&mut self) -> SimTime {
        let mut draws = stream(self.seed, Use::Arrival, self.count, 0);
        let valid = "validated settings";
        self.count += 1;
        match self.settings {
            // One product each: no error adds up.
            ArrivalSettings::Constant { rate } => self.at_s = self.count as f64 / rate,
            ArrivalSettings::Poisson { rate } => {
                self.at_s += Exp::new(rate).expect(valid).sample(&mut draws);
            }
            ArrivalSettings::Gamma { rate, cv } | ArrivalSettings::Varying { rate, cv, .. } => {
                let (shape, scale) = (1.0 / (cv * cv), cv * cv / rate);
                self.at_s += Gamma::new(shape, scale).expect(valid).sample(&mut draws);
            }
            ArrivalSettings::OnOff { rate, on, off } => {
                let share = on.as_secs() / (on.as_secs() + off.as_secs());
                self.at_s += Exp::new(rate / share).expect(valid).sample(&mut draws);
                let at_s = self.phases.wall_of(self.at_s);
                return SimTime::ZERO + SimDuration::from_secs_f64(at_s);
            }
        }
        SimTime::ZERO + SimDuration::from_secs_f64(self.at_s)
    }
}

/// The phases of an on-off process; of others it has none.
#[derive(Clone, Debug)]
struct Phases {
    seed: u64,
    on_s: f64,
    off_s: f64,
    /// Phases with requests begun.
    begun: u64,
    /// When the present one ends, by the clock that counts only such phases.
    end_s: f64,
    /// Time without requests before it.
    paused_s: f64,
}

impl Phases {
    fn new(settings: &ArrivalSettings, seed: u64) -> Self {
        let mut phases = Self { seed, on_s: 0.0, off_s: 0.0, begun: 0, end_s: 0.0, paused_s: 0.0 };
        if let ArrivalSettings::OnOff { on, off, .. } = settings {
            (phases.on_s, phases.off_s) = (on.as_secs(), off.as_secs());
            phases.begin();
        }
        phases
    }

    /// The next phase with requests and the pause before it.
    fn begin(&mut self) {
        let mut draws = stream(self.seed, Use::ArrivalPhase, self.begun, 0);
        let mut exponential =
            |mean: f64| Exp::new(1.0 / mean).expect("a positive mean").sample(&mut draws);
        let (on, off) = (exponential(self.on_s), exponential(self.off_s));
        let share = self.on_s / (self.on_s + self.off_s);
        let starts_on = self.begun == 0 && draws.random_bool(share);
        self.begun += 1;
        self.end_s += on;
        self.paused_s += if starts_on { 0.0 } else { off };
    }

    /// When `on_s`, a time by the clock of the phases with requests, is.
    fn wall_of(&mut self, on_s: f64) -> f64 {
        while on_s >= self.end_s {
            self.begin();
        }
        on_s + self.paused_s
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats;
    use proptest::prelude::*;

    fn settings(toml: &str) -> ArrivalSettings {
        let settings: ArrivalSettings = toml::from_str(toml).unwrap();
        settings.validate().unwrap();
        settings
    }

    fn times(settings: ArrivalSettings, seed: u64, count: u32) -> Vec<f64> {
        let mut arrivals = Arrivals::new(settings, seed);
        (0..count).map(|_| arrivals.next_time().as_secs()).collect()
    }

    /// Mean and coefficient of variation of the gaps.
    fn gaps(times: &[f64]) -> (f64, f64) {
        let gaps: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let mean = stats::mean(&gaps).unwrap();
        let squares: Vec<f64> = gaps.iter().map(|gap| (gap - mean).powi(2)).collect();
        (mean, stats::mean(&squares).unwrap().sqrt() / mean)
    }

    /// Counts in windows of a second: variance over mean, the index of dispersion.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "few seconds")]
    fn dispersion(times: &[f64]) -> f64 {
        let mut counts = vec![0.0; times[times.len() - 1] as usize];
        for at in times {
            if let Some(count) = counts.get_mut(*at as usize) {
                *count += 1.0;
            }
        }
        let mean = stats::mean(&counts).unwrap();
        let squares: Vec<f64> = counts.iter().map(|count| (count - mean).powi(2)).collect();
        stats::mean(&squares).unwrap() / mean
    }

    #[test]
    fn rates_and_variation_are_the_stated_ones() {
        let count = 200_000;
        // Standard errors are 0.2 % for Poisson, 0.7 % for the gamma process, and
        // for the on-off process, whose counts vary 1 + 2 x 75 x 3 / 16 times as
        // much (see below), 1.2 %.
        for (toml, cv, error) in [
            ("kind = 'constant'\nrate = 20", 0.0, 1e-6),
            ("kind = 'poisson'\nrate = 20", 1.0, 0.01),
            ("kind = 'gamma'\nrate = 20\ncv = 0.5", 0.5, 0.01),
            ("kind = 'gamma'\nrate = 20\ncv = 3", 3.0, 0.03),
        ] {
            let (mean, seen) = gaps(&times(settings(toml), 1, count));
            assert!((mean * 20.0 - 1.0).abs() < error, "{toml}: {mean}");
            assert!((seen - cv).abs() < 0.03 * cv.max(0.01), "{toml}: {seen}");
        }
        let on_off = settings("kind = 'on_off'\nrate = 20\non = '1s'\noff = '3s'");
        let times = times(on_off, 1, count);
        let rate = f64::from(count) / times[times.len() - 1];
        assert!((rate / 20.0 - 1.0).abs() < 0.05, "{rate} a second");
        // Nothing comes in three quarters of the time: gaps are short or long.
        assert!(gaps(&times).1 > 2.0);
    }

    /// Whatever the process: what comes after a change of rate is what would have come,
    /// closer together.
    #[test]
    fn a_rate_that_changes_stretches_the_rest() {
        for toml in [
            "kind = 'constant'\nrate = 20",
            "kind = 'gamma'\nrate = 20\ncv = 3",
            "kind = 'on_off'\nrate = 20\non = '1s'\noff = '3s'",
        ] {
            let before = times(settings(toml), 1, 400);
            let mut process = Arrivals::new(settings(toml), 1);
            let mut seen: Vec<SimTime> = (0..100).map(|_| process.next_time()).collect();
            let now = seen[97];
            let change = process.set_rate(now, 80.0).unwrap();
            seen.iter_mut().for_each(|at| *at = change.moved(*at));
            seen.extend((0..100).map(|_| process.next_time()));
            assert!(seen.is_sorted());
            let later = seen[199] + SimDuration::from_secs(1);
            process.set_rate(later, 20.0).unwrap();
            let last = process.next_time();
            for (seen, before) in seen[..98].iter().zip(&before) {
                assert_eq!(seen.as_secs(), *before);
            }
            let expected = |at: f64| before[97] + (at - before[97]) / 4.0;
            for (seen, before) in seen[98..].iter().zip(&before[98..]) {
                assert!((seen.as_secs() - expected(*before)).abs() < 1e-9);
            }
            // The clock of the process had gone four seconds in that last one.
            let next = later.as_secs() + (before[200] - before[199] - 4.0).max(0.0);
            assert!(last.as_secs() >= next - 1e-9, "{last:?} of {next}");
            assert!(process.set_rate(later, 1e9).is_none());
        }
    }

    /// The number of arrivals in each part of a curve is the area under it; a change of rate
    /// scales what is left of it and leaves its shape where it is.
    #[test]
    fn a_varying_rate_follows_its_curve() {
        let varying = settings(
            "kind = 'varying'\nrate = 20\n[curve]\nperiod = '100s'\n\
             points = [['0s', 0.0], ['40s', 2.0], ['60s', 0.5]]",
        );
        let seen = times(varying.clone(), 1, 40_000);
        let count = |from: f64, to: f64| {
            let of_period = seen.iter().map(|at| at % 100.0);
            of_period.filter(|at| (from..to).contains(at)).count() as f64
        };
        // Areas 10, 30, 25 and 10 of 75.
        let all = seen.len() as f64;
        for (from, to, share) in
            [(0.0, 20.0, 10.0), (20.0, 40.0, 30.0), (40.0, 60.0, 25.0), (60.0, 100.0, 10.0)]
        {
            let found = count(from, to) / all * 75.0;
            assert!((found / share - 1.0).abs() < 0.05, "{found} of {share} up to {to} s");
        }
        assert!((varying.rate() - 15.0).abs() < 1e-12);
        let mut process = Arrivals::new(varying, 1);
        let mut next = process.next_time();
        while next.as_secs() < 1_000.0 {
            next = process.next_time();
        }
        let change = process.set_rate(SimTime::ZERO + SimDuration::from_secs(1_000), 150.0);
        next = change.unwrap().moved(next);
        let mut later = Vec::new();
        while next.as_secs() < 2_000.0 {
            later.push(next.as_secs());
            next = process.next_time();
        }
        assert!((later.len() as f64 / 150_000.0 - 1.0).abs() < 0.02, "{}", later.len());
        let early = later.iter().filter(|at| *at % 100.0 < 20.0).count() as f64;
        assert!((early / later.len() as f64 * 75.0 / 10.0 - 1.0).abs() < 0.05);
    }

    #[test]
    fn bursts_follow_theory() {
        // A Poisson process has as much variance as mean in every window; an
        // interrupted one more, by 2 l p (1 - p) / d (1 - (1 - e^-dt) / (dt)) over
        // its share p of the time, with l the rate in phases with requests and d the
        // sum of the rates at which phases end (Fischer, Meier-Hellstern 1993).
        let poisson = settings("kind = 'poisson'\nrate = 20");
        assert!((dispersion(&times(poisson, 3, 100_000)) - 1.0).abs() < 0.08);
        let (rate, on, off) = (20.0, 1.0, 3.0);
        let p: f64 = on / (on + off);
        let d: f64 = 1.0 / on + 1.0 / off;
        let lambda = rate / p;
        let expected = 1.0 + 2.0 * lambda * (1.0 - p) / d * (1.0 - (1.0 - (-d).exp()) / d);
        let on_off = settings("kind = 'on_off'\nrate = 20\non = '1s'\noff = '3s'");
        let seen = dispersion(&times(on_off, 3, 400_000));
        assert!((seen / expected - 1.0).abs() < 0.1, "{seen} for {expected}");
    }

    #[test]
    fn unusable_processes_are_named() {
        for (toml, key) in [
            ("kind = 'poisson'\nrate = 0", "rate"),
            ("kind = 'poisson'\nrate = nan", "rate"),
            ("kind = 'gamma'\nrate = 1\ncv = 0", "cv"),
            ("kind = 'on_off'\nrate = 1\non = '0s'\noff = '1s'", "on"),
            ("kind = 'on_off'\nrate = 1\non = '1s'\noff = '0s'", "off"),
        ] {
            let settings: ArrivalSettings = toml::from_str(toml).unwrap();
            assert_eq!(settings.validate().unwrap_err().key, key);
        }
    }

    proptest! {
        #[test]
        fn time_never_goes_back_and_depends_on_the_seed_only(
            kind in 0..4, rate in 0.01..1_000.0, cv in 0.1..20.0, on_ms in 1..10_000_u64, seed: u64,
        ) {
            let (on, off) = (SimDuration::from_millis(on_ms), SimDuration::from_millis(700));
            let settings = match kind {
                0 => ArrivalSettings::Constant { rate },
                1 => ArrivalSettings::Poisson { rate },
                2 => ArrivalSettings::Gamma { rate, cv },
                _ => ArrivalSettings::OnOff { rate, on, off },
            };
            let seen = times(settings.clone(), seed, 50);
            prop_assert!(seen.is_sorted() && seen[0] >= 0.0);
            prop_assert_eq!(seen, times(settings, seed, 50));
        }
    }
}
