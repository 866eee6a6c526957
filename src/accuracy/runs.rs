//! Serving runs, replayed.

use super::data::ServingRun;
use super::{AccuracyError, Assumed};
use crate::engine::model::{Model, Parts};
use crate::engine::settings::{EngineSettings, HostTime};
use crate::experiment::{ClusterSettings, MeasureSettings, Settings, Watch, simulate};
use crate::fleet::Pools;
use crate::recorder::Metrics;
use crate::router::settings::{FrontEndSettings, RouterSettings};
use crate::time::SimDuration;
use crate::workload::client::Client;
use crate::workload::distribution::{Distribution, Tokens};
use crate::workload::requests::RequestSettings;
use crate::workload::{PatienceSettings, Priorities, WorkloadSettings, WorkloadSource};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// What a replay gives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Predicted {
    /// Mean time to the first token, ms.
    pub ttft_ms: f64,
    /// Mean over requests of the time per output token after the first, ms.
    pub tpot_ms: f64,
    /// Preemptions of all requests together.
    pub preemptions: f64,
}

/// Serving runs with the models of their deployments, ready to be replayed.
#[derive(Clone, Debug)]
pub struct Replays<'a> {
    runs: &'a [ServingRun],
    assumed: &'a Assumed,
    models: BTreeMap<Parts, Model>,
}

impl<'a> Replays<'a> {
    /// Composes the models of `runs` from the library `models`.
    ///
    /// # Errors
    /// A part that is not in the library.
    pub fn new(
        runs: &'a [ServingRun],
        models: &Path,
        assumed: &'a Assumed,
    ) -> Result<Self, AccuracyError> {
        let mut composed = BTreeMap::new();
        for run in runs {
            if !composed.contains_key(&run.parts) {
                composed.insert(run.parts.clone(), Model::compose(models, &run.parts)?);
            }
        }
        Ok(Self { runs, assumed, models: composed })
    }

    /// The runs.
    pub fn runs(&self) -> &'a [ServingRun] {
        self.runs
    }

    /// Host times of the first run's engine, as the library has them.
    pub fn host(&self) -> HostTime {
        self.models.values().next().map_or_else(HostTime::default, |model| model.engine.host)
    }

    /// Replays all runs once `change` was made to their engines; those that a mask
    /// does not mark are left out.
    ///
    /// # Errors
    /// The first run that cannot be replayed.
    pub fn predict(
        &self,
        change: &(dyn Fn(&mut EngineSettings) + Sync),
        mask: Option<&[bool]>,
    ) -> Result<Vec<Option<Predicted>>, AccuracyError> {
        // Results, not one Result of all: which error comes first must not depend on timing.
        let results: Vec<Result<_, _>> = (0..self.runs.len())
            .into_par_iter()
            .map(|i| {
                let wanted = mask.is_none_or(|mask| mask[i]);
                wanted.then(|| self.replay(&self.runs[i], change)).transpose()
            })
            .collect();
        results.into_iter().collect()
    }

    /// Replays all runs as the library describes their engines.
    ///
    /// # Errors
    /// The first run that cannot be replayed.
    pub fn predict_all(&self) -> Result<Vec<Predicted>, AccuracyError> {
        let predicted = self.predict(&|_| (), None)?;
        Ok(predicted.into_iter().flatten().collect())
    }

    fn replay(
        &self,
        run: &ServingRun,
        change: &(dyn Fn(&mut EngineSettings) + Sync),
    ) -> Result<Predicted, AccuracyError> {
        let model = &self.models[&run.parts];
        let mut engine = model.engine.clone();
        // What benchmarks give: as long as their longest request.
        engine.max_model_len = Some(run.prompt_tokens + run.output_tokens);
        change(&mut engine);
        let engine = engine
            .resolve(model.hardware.as_ref())
            .map_err(|invalid| AccuracyError::Engine { deployment: run.to_string(), invalid })?;
        let workload = self.workload(run);
        let warmup = workload.start_spread;
        let settings = Settings {
            cluster: Arc::new(ClusterSettings::new(1)),
            pools: Arc::new(Pools::one(1, &Arc::new(engine))),
            models: [None].into(),
            router: Arc::new(FrontEndSettings::default()),
            policy: RouterSettings::new("round_robin").chosen(),
            source: Arc::new(WorkloadSource::Requests(workload.clone())),
            workload: Arc::new(WorkloadSettings::Requests(workload)),
            measure: Arc::new(MeasureSettings { warmup, ..MeasureSettings::until_the_end() }),
            slo: None,
            controls: Vec::new(),
        };
        let outcome = simulate(&settings, &[run.concurrency], self.assumed.seed, Watch::default())
            .map_err(|source| AccuracyError::Replay { run: run.to_string(), source })?;
        let metrics: &Metrics = &outcome.levels[0];
        let value = |name: &str| metrics.get(name).copied().flatten();
        match (value("ttft_ms_mean"), value("itl_ms_mean")) {
            (Some(ttft_ms), Some(tpot_ms)) => {
                let preemptions = value("preemptions").unwrap_or(0.0);
                Ok(Predicted { ttft_ms, tpot_ms, preemptions })
            }
            _ => Err(AccuracyError::NothingServed { run: run.to_string() }),
        }
    }

    /// Requests of one length that begin together end together, and their successors' prompts
    /// would share steps for ever. So the clients of such runs begin one after another, over the
    /// time of an answer; real ones were shown to be apart by the time of an output token, which
    /// grows with the inverse of their number as if each prompt had a step to itself.
    fn start_spread(run: &ServingRun) -> SimDuration {
        if run.jittered {
            return SimDuration::ZERO;
        }
        let tokens = f64::from(run.output_tokens.saturating_sub(1));
        SimDuration::from_secs_f64((run.ttft_ms + run.tpot_ms * tokens) * 1e-3)
    }

    fn workload(&self, run: &ServingRun) -> RequestSettings {
        let lengths = |longest: u32| {
            let shortest = match run.jittered {
                true => f64::from(longest) * self.assumed.shortest_ratio,
                false => f64::from(longest),
            };
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a share of a u32"
            )]
            let min = Tokens((shortest.round() as u32).max(1));
            Distribution::Uniform { min, max: Tokens(longest) }
        };
        RequestSettings {
            concurrency: Some(run.concurrency),
            start_spread: Self::start_spread(run),
            arrivals: None,
            count: Some(run.concurrency.saturating_mul(self.assumed.requests_per_client)),
            prompt_tokens: lengths(run.prompt_tokens),
            output_tokens: lengths(run.output_tokens),
            prefix: None,
            client: Client::default(),
            patience: PatienceSettings::default(),
            priority: Priorities::default(),
        }
    }
}
