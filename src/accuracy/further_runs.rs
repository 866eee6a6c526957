//! Serving runs beyond those that host times were fitted to first: composed steps, and replays.

use super::composed::Composer;
use super::data::{ServingRun, Ttft, read_runs};
use super::deployments::{Replay, RunErrors, halves, names};
use super::errors::Errors;
use super::outliers::Outlier;
use super::record::Record;
use super::runs::Replays;
use super::{AccuracyError, AccuracySettings};
use std::path::Path;

/// The runs, and their errors by deployment.
#[derive(Clone, Debug)]
pub(super) struct FurtherRuns {
    /// Those of engines whose rules are simulated, by deployment and all but some.
    pub(super) replayed: Vec<FurtherErrors>,
    /// The errors of composed steps in the runs of other engines, by deployment.
    pub(super) composed: Vec<(String, Errors)>,
    /// Runs whose replay is far off.
    pub(super) outliers: Vec<Outlier>,
}

/// Errors over some of the runs that were replayed.
#[derive(Clone, Debug)]
pub(super) struct FurtherErrors {
    pub(super) composed: Errors,
    pub(super) replayed: RunErrors,
}

/// A run that was replayed.
#[derive(Clone, Debug)]
struct FurtherRun {
    replay: Replay,
    /// By composed steps, nothing fitted.
    composed_ms: Option<f64>,
}

impl FurtherRuns {
    /// Compares the runs of `path`; the errors over all but those that no operators explain
    /// are called `called`.
    ///
    /// # Errors
    /// A row that cannot be used, or a run that cannot be replayed.
    pub(super) fn new(
        path: &Path,
        settings: &AccuracySettings,
        called: &str,
    ) -> Result<Self, AccuracyError> {
        let AccuracySettings { models, names, assumed, .. } = settings;
        let all = read_runs(path, names, assumed)?;
        let known: Vec<ServingRun> = all.iter().filter(|run| run.is_simulated()).cloned().collect();
        let mut predicted = Replays::new(&known, models, assumed)?.predict_all()?.into_iter();
        let mut composer = Composer::new(models, assumed);
        let (mut runs, mut others) = (Vec::new(), Vec::new());
        for (is_fitted, run) in halves(&all).into_iter().zip(all) {
            let composed_ms = composer.tpot_ms(&run)?;
            let predicted = run.is_simulated().then(|| predicted.next()).flatten();
            match predicted {
                Some(predicted) => {
                    let replay = Replay { run, predicted, is_fitted };
                    runs.push(FurtherRun { replay, composed_ms });
                }
                None => others.push((run, composed_ms)),
            }
        }
        Ok(Self {
            replayed: replayed(&runs, called),
            composed: composed(&others),
            outliers: Outlier::find(
                runs.iter().map(|run| (&run.replay, run.composed_ms)),
                &settings.explained,
            ),
        })
    }

    pub(super) fn enter(&self, record: &mut Record) {
        for FurtherErrors { composed, replayed } in &self.replayed {
            record.add(&format!("composed, {}", replayed.name), composed);
            replayed.enter_tpot(record);
        }
        for (deployment, errors) in &self.composed {
            record.add(&format!("composed, {deployment}"), errors);
        }
    }
}

fn replayed(runs: &[FurtherRun], called: &str) -> Vec<FurtherErrors> {
    let of = |title: &str, is_of: &dyn Fn(&str) -> bool| {
        let own: Vec<&FurtherRun> =
            runs.iter().filter(|run| is_of(&run.replay.run.deployment())).collect();
        let composed =
            own.iter().filter_map(|run| Some((run.composed_ms?, run.replay.run.tpot_ms)));
        let replays = own.iter().map(|run| &run.replay);
        FurtherErrors {
            composed: Errors::of(composed),
            replayed: RunErrors::of(title, replays, |ttft| ttft == Ttft::Good),
        }
    };
    let names = names(runs.iter().map(|run| &run.replay.run));
    let mut errors: Vec<FurtherErrors> =
        names.iter().map(|name| of(name, &|own| own == name)).collect();
    // Its operators do not hold what these runs spend.
    let is_slow = |name: &str| name.starts_with("qwen3-235b") && name.ends_with(" 0.12.0");
    errors.push(of(called, &|name| !is_slow(name)));
    errors
}

fn composed(runs: &[(ServingRun, Option<f64>)]) -> Vec<(String, Errors)> {
    let of = |name: String| {
        let own = runs.iter().filter(|(run, _)| run.deployment() == name);
        let pairs = own.filter_map(|(run, composed_ms)| Some(((*composed_ms)?, run.tpot_ms)));
        let errors = Errors::of(pairs);
        (name, errors)
    };
    names(runs.iter().map(|(run, _)| run)).into_iter().map(of).collect()
}
