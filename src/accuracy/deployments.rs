//! Errors of replayed serving runs, deployment by deployment.

use super::data::{ServingRun, Ttft};
use super::errors::Errors;
use super::record::Record;
use super::runs::Predicted;
use std::collections::{BTreeMap, BTreeSet};

/// A serving run with what its replay gives.
#[derive(Clone, Debug)]
pub(super) struct Replay {
    pub(super) run: ServingRun,
    pub(super) predicted: Predicted,
    /// Whether host times were fitted to it.
    pub(super) is_fitted: bool,
}

/// Errors over some replays.
#[derive(Clone, Debug)]
pub(super) struct RunErrors {
    /// The deployment, or which of them.
    pub(super) name: String,
    /// Of the time per output token, over all runs.
    pub(super) tpot: Errors,
    /// The same over the runs that host times were fitted to.
    pub(super) fitted: Errors,
    /// The same over the others.
    pub(super) other: Errors,
    /// Of the time to the first token, where that counts.
    pub(super) ttft: Errors,
}

impl RunErrors {
    /// Over `replays`, the time to the first token where its note is one that `counts`.
    pub(super) fn of<'a>(
        name: &str,
        replays: impl Iterator<Item = &'a Replay> + Clone,
        counts: impl Fn(Ttft) -> bool,
    ) -> Self {
        let tpot = |half: Option<bool>| {
            let of = |replay: &&Replay| half.is_none_or(|half| half == replay.is_fitted);
            let wanted = replays.clone().filter(of);
            Errors::of(wanted.map(|replay| (replay.predicted.tpot_ms, replay.run.tpot_ms)))
        };
        let ttft = replays.clone().filter(|replay| counts(replay.run.ttft));
        let ttft = Errors::of(ttft.map(|replay| (replay.predicted.ttft_ms, replay.run.ttft_ms)));
        let (all, fitted, other) = (tpot(None), tpot(Some(true)), tpot(Some(false)));
        Self { name: name.to_owned(), tpot: all, fitted, other, ttft }
    }

    /// Enters the errors of the time per output token.
    pub(super) fn enter_tpot(&self, record: &mut Record) {
        record.add(&format!("run, {}, TPOT", self.name), &self.tpot);
        record.add(&format!("run, {}, TPOT, other half", self.name), &self.other);
    }
}

/// The names of the deployments of these runs.
pub(super) fn names<'a>(runs: impl Iterator<Item = &'a ServingRun>) -> BTreeSet<String> {
    runs.map(ServingRun::deployment).collect()
}

/// True for the half of a deployment's runs that host times were fitted to:
/// every other one, in the order of the source. Neighbours there differ in
/// load, so both halves have light and heavy ones.
pub fn halves(runs: &[ServingRun]) -> Vec<bool> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    runs.iter()
        .map(|run| {
            let count = seen.entry(run.deployment()).or_default();
            *count += 1;
            (*count - 1).is_multiple_of(2)
        })
        .collect()
}
