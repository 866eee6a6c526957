//! Every comparison with measurements, as values; [`page`](super::page) puts them into
//! words. A further comparison is a field here and a section there.

use super::data::{StepKind, Ttft, read_runs, read_steps};
use super::deployments::{Replay, RunErrors, halves, names};
use super::errors::Errors;
use super::further_runs::FurtherRuns;
use super::gains::PublishedGains;
use super::outliers::Outlier;
use super::published::PublishedErrors;
use super::record::Record;
use super::runs::Replays;
use super::steps::Steps;
use super::{AccuracyError, AccuracySettings};
use crate::report::judge::gains::Gain;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// All that is compared with measurements.
#[derive(Clone, Debug)]
pub struct Accuracy {
    /// Experiments beside what was published of the same deployment.
    pub(super) published: Vec<PublishedErrors>,
    /// Single steps, by deployment.
    pub(super) steps: Vec<StepErrors>,
    /// Serving runs, in the order of the source.
    pub(super) runs: Vec<Replay>,
    /// Their errors by deployment, and those of all together.
    pub(super) run_errors: Vec<RunErrors>,
    /// Those whose replay is far off.
    pub(super) outliers: Vec<Outlier>,
    /// Serving runs beyond those.
    pub(super) further: Option<FurtherRuns>,
    /// Serving runs of workers with ranks.
    pub(super) ranks: Option<FurtherRuns>,
}

/// Kinds of steps: kind, whether it was measured or composed, what it is called.
pub(super) const STEP_KINDS: [(StepKind, bool, &str); 5] = [
    (StepKind::Decode, true, "decode, measured"),
    (StepKind::Decode, false, "decode, composed"),
    (StepKind::Prefill, true, "prefill, measured"),
    (StepKind::Prefill, false, "prefill, composed"),
    (StepKind::Mixed, false, "mixed, composed"),
];

/// Errors of the formula in the steps of one deployment.
#[derive(Clone, Debug)]
pub(super) struct StepErrors {
    pub(super) deployment: String,
    /// In the order of [`STEP_KINDS`].
    pub(super) by_kind: [Errors; STEP_KINDS.len()],
}

impl Accuracy {
    /// Makes every comparison that `settings` names.
    ///
    /// # Errors
    /// If measurements cannot be read, or a run cannot be replayed.
    pub fn new(settings: &AccuracySettings) -> Result<Self, AccuracyError> {
        let AccuracySettings { models, assumed, .. } = settings;
        let published = settings.experiments.iter().map(PublishedErrors::new);
        let published = published.collect::<Result<_, _>>()?;
        let steps = Steps::new(read_steps(&settings.steps, &settings.names)?, models)?;
        let runs = read_runs(&settings.runs, &settings.names, assumed)?;
        let predicted = Replays::new(&runs, models, assumed)?.predict_all()?;
        let fitted = halves(&runs);
        let runs: Vec<Replay> = runs
            .into_iter()
            .zip(predicted)
            .zip(fitted)
            .map(|((run, predicted), is_fitted)| Replay { run, predicted, is_fitted })
            .collect();
        let further = |path: &Option<PathBuf>, called| {
            path.as_deref().map(|path| FurtherRuns::new(path, settings, called)).transpose()
        };
        Ok(Self {
            published,
            steps: step_errors(&steps),
            run_errors: run_errors(&runs),
            outliers: Outlier::find(runs.iter().map(|run| (run, None)), &settings.explained),
            runs,
            further: further(&settings.further_runs, "all but Qwen3-235B under vLLM 0.12")?,
            ranks: further(&settings.rank_runs, "all with ranks but Qwen3-235B under vLLM 0.12")?,
        })
    }

    /// The publications whose gains are compared, and these.
    pub fn gains(&self) -> Vec<(String, &[Gain])> {
        let gains = self.published.iter().filter_map(|published| published.gains.as_ref());
        gains.map(PublishedGains::named).collect()
    }

    /// The serving runs that are far from their replays without a known reason.
    pub fn unexplained(&self) -> Vec<String> {
        let further = self.further.iter().chain(&self.ranks).flat_map(|runs| &runs.outliers);
        let unexplained = self.outliers.iter().chain(further).filter(|run| run.why.is_none());
        unexplained.map(|outlier| outlier.run.to_string()).collect()
    }

    /// The errors by name, so that a later version can be held to them.
    pub fn record(&self) -> Record {
        let mut record = Record::default();
        self.published.iter().for_each(|published| published.enter(&mut record));
        for StepErrors { deployment, by_kind } in &self.steps {
            for (errors, (.., kind)) in by_kind.iter().zip(STEP_KINDS) {
                record.add(&format!("step, {deployment}, {kind}"), errors);
            }
        }
        for errors in &self.run_errors {
            errors.enter_tpot(&mut record);
            record.add(&format!("run, {}, TTFT", errors.name), &errors.ttft);
        }
        self.further.iter().chain(&self.ranks).for_each(|further| further.enter(&mut record));
        record
    }
}

fn step_errors(steps: &Steps) -> Vec<StepErrors> {
    let mut deployments: BTreeMap<String, [Vec<f64>; STEP_KINDS.len()]> = BTreeMap::new();
    for (step, error) in steps.rows.iter().zip(steps.errors()) {
        let is_of =
            |(kind, measured, _): &(_, _, _)| (*kind, *measured) == (step.kind, step.measured);
        let kind = STEP_KINDS.iter().position(is_of).expect("mixed steps are never measured");
        deployments.entry(step.parts.to_string()).or_default()[kind].push(error);
    }
    let of = |(deployment, by_kind): (String, [Vec<f64>; _])| StepErrors {
        deployment,
        by_kind: by_kind.map(Errors::from_iter),
    };
    deployments.into_iter().map(of).collect()
}

fn run_errors(runs: &[Replay]) -> Vec<RunErrors> {
    let counts = |ttft| ttft == Ttft::Good;
    let names = names(runs.iter().map(|replay| &replay.run));
    let mut errors: Vec<RunErrors> = names
        .iter()
        .map(|name| {
            let own = runs.iter().filter(|replay| replay.run.deployment() == *name);
            RunErrors::of(name, own, counts)
        })
        .collect();
    errors.push(RunErrors::of("all runs", runs.iter(), counts));
    errors
}
