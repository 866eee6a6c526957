//! When requests of a trace came: how fast, in which bursts, at which instants.

use super::super::Trace;
use super::super::sessions::Grouped;
use crate::time::SimDuration;
use crate::workload::arrivals::ArrivalSettings;
use crate::workload::curve::Curve;
use crate::workload::{Between, CurveSettings};

/// Requests and ticks that the shortest part of the trace has at least, on average, and the
/// most parts: what is faster is left to the gaps.
const LEAST_REQUESTS: usize = 8;
const LEAST_TICKS: u64 = 8;
const MOST_PARTS: usize = 512;
/// Standard deviations that a variance must be above chance to be taken for more.
const SURE: f64 = 3.0;
const DAY: SimDuration = SimDuration::from_secs(86_400);
/// Hours of a day are taken from traces of at least two.
const DAYS: SimDuration = SimDuration::from_secs(2 * 86_400);
/// Sessions in a window in which bursts are looked for.
const PER_WINDOW: f64 = 10.0;

/// The process by which sessions begin, but for its rate.
pub(super) struct Rates {
    curve: Option<CurveSettings>,
    /// Coefficient of variation of gaps.
    cv: f64,
    /// Requests come at multiples of it; zero if they come at any time.
    pub(super) tick: SimDuration,
}

impl Rates {
    pub(super) fn of(
        trace: &Trace,
        duration: SimDuration,
        grouped: &Grouped,
        is_steady: bool,
    ) -> Self {
        let tick = tick(trace);
        // What comes at a tick is counted in its middle.
        let at_s = |row: usize| trace.rows[row].at.as_secs() + tick.as_secs() / 2.0;
        let mut times: Vec<f64> = (0..trace.rows.len()).map(at_s).collect();
        times.sort_unstable_by(f64::total_cmp);
        let starts = grouped.sessions.iter().filter_map(|rows| rows.first());
        let starts: Vec<f64> = starts.map(|&row| at_s(row as usize)).collect();
        let of_chance = if starts.len() == times.len() { 1.0 } else { 2.0 };
        let curve = (!is_steady).then(|| curve(&times, duration, tick, of_chance)).flatten();
        // By the clock that runs as fast as the curve is high.
        let clock = curve.as_ref().map(Curve::new);
        let own = |at: f64| clock.as_ref().map_or(at, |clock| clock.area(at));
        let starts: Vec<f64> = starts.into_iter().map(own).collect();
        let cv = burstiness(&starts, own(duration.as_secs()), tick.as_secs());
        Self { curve, cv, tick }
    }

    /// The process with so many sessions a second on average.
    pub(super) fn at(&self, rate: f64) -> ArrivalSettings {
        // As people read it.
        let rate = (rate * 1e5).round() / 1e5;
        match &self.curve {
            Some(curve) => ArrivalSettings::Varying { rate, curve: curve.clone(), cv: self.cv },
            None if self.cv == 1.0 => ArrivalSettings::Poisson { rate },
            None => ArrivalSettings::Gamma { rate, cv: self.cv },
        }
    }
}

/// Counts of `times` in parts of a time; in a part that they go past, of `parts` it is the
/// last.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "places")]
fn counts(times: &[f64], part_s: f64, parts: usize) -> Vec<f64> {
    let mut counts = vec![0.0; parts];
    for at in times {
        counts[((at / part_s) as usize).min(parts - 1)] += 1.0;
    }
    counts
}

/// The rate over the trace, with a mean of 1; none if it is the same all the time, as far as
/// chance allows. Of several days it is that of the hours of a day.
fn curve(
    times: &[f64],
    duration: SimDuration,
    tick: SimDuration,
    of_chance: f64,
) -> Option<CurveSettings> {
    let (rates, period) = if duration >= DAYS {
        (hours(times)?, DAY)
    } else {
        let ticks = match tick.as_ps() {
            0 => usize::MAX,
            tick => usize::try_from(duration.as_ps() / tick / LEAST_TICKS).unwrap_or(usize::MAX),
        };
        let most = (times.len() / LEAST_REQUESTS).min(ticks).min(MOST_PARTS);
        (halved(times, duration.as_secs(), most.checked_ilog2()?, of_chance)?, duration)
    };
    let part = period / rates.len() as u64;
    let rounded = |rate: &f64| (rate * 1e3).round() / 1e3;
    let points = rates.iter().map(rounded).zip(0..).map(|(rate, place)| (part * place, rate));
    let mut points: Vec<(SimDuration, f64)> = points.collect();
    points.dedup_by_key(|point| point.1);
    Some(CurveSettings { points, between: Between::Steps, period: Some(period) })
}

/// The rate by hours of the day, if it changes.
fn hours(times: &[f64]) -> Option<Vec<f64>> {
    let seen: Vec<f64> = times.iter().map(|at| at % DAY.as_secs()).collect();
    let counts = counts(&seen, DAY.as_secs() / 24.0, 24);
    let mean = seen.len() as f64 / 24.0;
    // Requests of sessions come together: twice as much variance is taken for chance.
    let chi_square: f64 = counts.iter().map(|count| (count - mean).powi(2) / mean).sum();
    let changes = chi_square >= 2.0 * (23.0 + SURE * (2.0 * 23.0_f64).sqrt());
    changes.then(|| counts.iter().map(|count| count / mean).collect())
}

/// The rate in equal parts of the time, by halving it up to `levels` times: how the requests
/// of a part are divided between its halves, drawn to an equal division by the share of the
/// variance on that level that chance has, which is `of_chance` times that of a Poisson
/// process (Haar wavelets of a rate, Kolaczyk 1999). So bursts of every length stay, and
/// chance does not become one. None if there is nothing but chance.
fn halved(times: &[f64], duration_s: f64, levels: u32, of_chance: f64) -> Option<Vec<f64>> {
    let parts = 1usize << levels;
    let finest = counts(times, duration_s / parts as f64, parts);
    let mut rates = vec![1.0];
    let mut found = None;
    for level in 0..levels {
        let half = parts >> (level + 1);
        let halves: Vec<(f64, f64)> = finest
            .chunks(2 * half)
            .map(|part| (part[..half].iter().sum::<f64>(), part[half..].iter().sum::<f64>()))
            .collect();
        let variance: f64 = halves.iter().map(|(left, right)| (left - right).powi(2)).sum();
        let chance = of_chance * times.len() as f64;
        let is_more = variance > chance * (1.0 + SURE * (2.0 / halves.len() as f64).sqrt());
        let share = if is_more { 1.0 - chance / variance } else { 0.0 };
        let divided = rates.iter().zip(&halves).flat_map(|(rate, (left, right))| {
            let apart = share * (left - right) / (left + right).max(1.0);
            [rate * (1.0 + apart), rate * (1.0 - apart)]
        });
        rates = divided.collect();
        if is_more {
            found = Some(rates.clone());
        }
    }
    found
}

/// The coefficient of variation of gaps whose bursts are those of `starts`: the root of the
/// variance of their numbers in short windows, over the mean. Whatever is slower belongs to
/// the curve, so neighbours are compared. 1 if that is as near.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of windows")]
fn burstiness(starts: &[f64], duration_s: f64, tick_s: f64) -> f64 {
    let window_s = (PER_WINDOW * duration_s / starts.len() as f64).max(tick_s * 2.0);
    let windows = (duration_s / window_s) as usize;
    if windows < 20 {
        return 1.0;
    }
    let counts = counts(starts, window_s, windows);
    let apart = counts.windows(2).map(|pair| (pair[0] - pair[1]).powi(2) / 2.0);
    let variance = apart.sum::<f64>() / (windows - 1) as f64;
    let mean = starts.len() as f64 / windows as f64;
    let cv = (variance / mean).sqrt();
    if (0.8..1.25).contains(&cv) { 1.0 } else { (cv.clamp(0.05, 20.0) * 100.0).round() / 100.0 }
}

/// The distance of the instants at which requests come, if many come at each.
fn tick(trace: &Trace) -> SimDuration {
    let mut times: Vec<SimDuration> = trace.rows.iter().map(|row| row.at).collect();
    let all = times.len();
    times.sort_unstable();
    times.dedup();
    if times.len() * 2 > all || times.len() < 2 {
        return SimDuration::ZERO;
    }
    let mut apart: Vec<SimDuration> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    apart.sort_unstable();
    apart[apart.len() / 2]
}
