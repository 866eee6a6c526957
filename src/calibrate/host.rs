//! An engine's host time, from serving runs.

use super::least_squares::minimise;
use super::{Fitted, four_digits};
use crate::accuracy::data::ServingRun;
use crate::accuracy::runs::{Predicted, Replays};
use crate::accuracy::{AccuracyError, Errors};
use crate::engine::settings::EngineSettings;
use crate::time::SimDuration;
use std::cell::Cell;

/// Milliseconds by which host times are changed to take derivatives: enough to
/// move a replay by more than the chance of who shares a step with whom.
const CHANGES_MS: [f64; 2] = [0.2, 0.02];

/// Percentage points by which a fit must lower the error of the runs that it
/// was made to; one that gains less says nothing (a host hidden behind the GPU).
const LEAST_GAIN: f64 = 0.1;

/// A fit of one engine's host time.
#[derive(Clone, Debug, PartialEq)]
pub struct HostFit {
    /// `prepare` and `per_seq`, milliseconds; unchanged if the fit gained nothing.
    pub parameters: Vec<Fitted>,
    /// Errors of the time per output token with the values of the library: of
    /// the runs fitted to, and of the others.
    pub before: [Errors; 2],
    /// The same with the fitted values.
    pub after: [Errors; 2],
}

impl HostFit {
    /// Fits `prepare` and `per_seq` of one engine to the time per output token
    /// of the runs that `fitted` marks; the others are only predicted.
    ///
    /// # Errors
    /// If a run cannot be replayed, or there are too few.
    pub fn new(replays: &Replays<'_>, fitted: &[bool]) -> Result<Self, AccuracyError> {
        let runs = replays.runs();
        let host = replays.host();
        let library = [host.prepare.as_millis(), host.per_seq.as_millis()];
        // A host time of nothing could not be changed in proportion.
        let start = [library[0].max(1e-3), library[1].max(1e-4)];
        let replay = |values: &[f64], mask: Option<&[bool]>| {
            let [prepare, per_seq] = [values[0], values[1]].map(SimDuration::from_millis_f64);
            let change = |engine: &mut EngineSettings| {
                engine.host.prepare = prepare;
                engine.host.per_seq = per_seq;
            };
            replays.predict(&change, mask)
        };
        let failure = Cell::new(None);
        let residuals = |values: &[f64]| match replay(values, Some(fitted)) {
            Ok(predicted) => Some(
                marked(runs, &predicted, fitted, true)
                    .map(|(predicted, run)| predicted.tpot_ms / run.tpot_ms - 1.0)
                    .collect(),
            ),
            Err(error) => {
                failure.set(Some(error));
                None
            }
        };
        let Some(solution) = minimise(&start, &CHANGES_MS, &residuals) else {
            let too_few = AccuracyError::TooFew { what: "serving runs", count: runs.len() };
            return Err(failure.take().unwrap_or(too_few));
        };
        let values: Vec<f64> = solution.values.iter().map(|&value| four_digits(value)).collect();
        let errors = |values: &[f64]| -> Result<[Errors; 2], AccuracyError> {
            let predicted = replay(values, None)?;
            Ok([true, false].map(|half| {
                Errors::of(
                    marked(runs, &predicted, fitted, half).map(|(p, run)| (p.tpot_ms, run.tpot_ms)),
                )
            }))
        };
        let (before, mut after) = (errors(&library)?, errors(&values)?);
        let gain = before[0].mean().unwrap_or_default() - after[0].mean().unwrap_or_default();
        let gains = gain >= LEAST_GAIN;
        if !gains {
            after = before.clone();
        }
        let fit = gains.then_some((&values[..], &solution.intervals[..]));
        Ok(Self { parameters: parameters(library, fit), before, after })
    }
}

/// The values of the library beside those of a fit and their intervals; without a
/// fit that gained anything they stay.
fn parameters(library: [f64; 2], fit: Option<(&[f64], &[Option<f64>])>) -> Vec<Fitted> {
    let fitted = |(i, key): (usize, &'static str)| Fitted {
        key,
        before: library[i],
        after: fit.map_or(library[i], |(values, _)| values[i]),
        interval: fit.and_then(|(_, intervals)| intervals[i]),
    };
    ["prepare", "per_seq"].into_iter().enumerate().map(fitted).collect()
}

/// Runs with their predictions, those that are marked or those that are not.
fn marked<'a>(
    runs: &'a [ServingRun],
    predicted: &'a [Option<Predicted>],
    marks: &'a [bool],
    mark: bool,
) -> impl Iterator<Item = (Predicted, &'a ServingRun)> {
    runs.iter()
        .zip(predicted)
        .zip(marks)
        .filter(move |(_, marked)| **marked == mark)
        .filter_map(|((run, predicted), _)| predicted.map(|predicted| (predicted, run)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A value that stays has no interval, so that nothing is written in its place.
    #[test]
    fn a_fit_that_gains_nothing_changes_nothing() {
        let library = [0.0, 0.02];
        for parameter in parameters(library, None) {
            assert_eq!((parameter.after, parameter.interval), (parameter.before, None));
        }
        let fit = parameters(library, Some((&[1.5, 0.03], &[Some(0.1), None])));
        let values: Vec<_> = fit.iter().map(|p| (p.before, p.after, p.interval)).collect();
        assert_eq!(values, [(0.0, 1.5, Some(0.1)), (0.02, 0.03, None)]);
    }
}
