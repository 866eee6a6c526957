//! When requests of a trace came: how fast, in which bursts, at which instants.

use super::super::Trace;
use super::super::sessions::Grouped;
use crate::time::SimDuration;
use crate::workload::arrivals::ArrivalSettings;
use crate::workload::{Between, CurveSettings};

/// Requests that a part of the trace has at least, on average, and the most parts.
const LEAST_REQUESTS: usize = 200;
const MOST_PARTS: usize = 48;
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
        let times: Vec<f64> = trace.rows.iter().map(|row| row.at.as_secs()).collect();
        let curve = (!is_steady).then(|| curve(&times, duration)).flatten();
        let starts = grouped.sessions.iter().filter_map(|rows| rows.first());
        let starts = starts.map(|&row| trace.rows[row as usize].at.as_secs());
        let tick = tick(trace);
        let starts: Vec<f64> = starts.collect();
        let cv = burstiness(&starts, duration.as_secs(), tick.as_secs());
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
fn curve(times: &[f64], duration: SimDuration) -> Option<CurveSettings> {
    let (seen, period, parts) = if duration >= DAYS {
        let of_day = |at: &f64| at % DAY.as_secs();
        (times.iter().map(of_day).collect(), DAY, 24)
    } else {
        let parts = (times.len() / LEAST_REQUESTS).min(MOST_PARTS);
        (times.to_vec(), duration, parts)
    };
    if parts < 2 {
        return None;
    }
    let part = period / parts as u64;
    let counts = counts(&seen, part.as_secs(), parts);
    let mean = seen.len() as f64 / parts as f64;
    // Requests of sessions come together: twice as much variance is taken for chance, and
    // three of its standard deviations more.
    let chi_square: f64 = counts.iter().map(|count| (count - mean).powi(2) / mean).sum();
    let free = (parts - 1) as f64;
    if chi_square < 2.0 * (free + 3.0 * (2.0 * free).sqrt()) {
        return None;
    }
    let rounded = |count: f64| (count / mean * 1e3).round() / 1e3;
    let points = counts.iter().zip(0..).map(|(count, place)| (part * place, rounded(*count)));
    let points = points.collect();
    Some(CurveSettings { points, between: Between::Steps, period: Some(period) })
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
    // What comes at a tick is counted in its middle.
    let starts: Vec<f64> = starts.iter().map(|at| at + tick_s / 2.0).collect();
    let counts = counts(&starts, window_s, windows);
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

/// Zipf's exponent of texts that were used so often, the most often used first: the slope of
/// the logarithms.
pub(super) fn zipf_exponent(uses: impl Iterator<Item = u32>) -> f64 {
    let points: Vec<(f64, f64)> =
        uses.zip(1..).map(|(uses, rank)| (f64::from(rank).ln(), f64::from(uses).ln())).collect();
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let across: f64 = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
    let along: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    if along == 0.0 { 0.0 } else { (-across / along * 100.0).round().clamp(0.0, 1_000.0) / 100.0 }
}
