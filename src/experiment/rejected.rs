//! Why a run rejects its requests: a simulation with the first seed says it again.

use super::load::Experiment;
use super::recording::play;
use super::run::RunError;
use crate::event::RejectReason;
use crate::recorder::End;
use crate::simulation::Happening;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Requests that the run with the point `point` of `experiment` rejects with its first seed, by
/// reason, the most frequent first. Costs a simulation.
///
/// # Errors
/// If the simulation cannot go on.
///
/// # Panics
/// If there is no such point.
pub fn rejections(
    experiment: &Experiment,
    point: usize,
) -> Result<Vec<(RejectReason, u64)>, RunError> {
    let has_it = |points: &[usize]| points.contains(&point);
    let run = experiment.runs.iter().find(|run| has_it(&run.points)).expect("a point of a run");
    let counts: Arc<Mutex<BTreeMap<RejectReason, u64>>> = Arc::default();
    let counting = Arc::clone(&counts);
    play(experiment, (run, point), experiment.seeds[0], move |happening| {
        if let Happening::End { end: End::Rejected(reason), .. } = happening {
            let mut counts = counting.lock().unwrap_or_else(PoisonError::into_inner);
            *counts.entry(*reason).or_insert(0) += 1;
        }
    })?;
    let counts = std::mem::take(&mut *counts.lock().unwrap_or_else(PoisonError::into_inner));
    let mut counts: Vec<(RejectReason, u64)> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    Ok(counts)
}
