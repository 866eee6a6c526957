//! Which of the fleets and settings that may be chosen is the cheapest that meets its
//! targets, how sure that is, and what the others would cost.
//!
//! Candidates are the combinations of what an experiment sweeps. A search (`race`) finds
//! the cheapest whose targets hold with the confidence asked for, simulating a part of what
//! a full grid would. An interval holds chance over seeds and the model's own error
//! (`trust`). Costs are prices of a file (`prices`), or hours of GPUs.

mod answer;
mod asked;
mod bench;
mod candidates;
mod error;
mod prices;
mod race;
mod reading;
mod text;
mod trust;

pub use answer::{Alternative, Choice, MoreLoad, Neighbour, Recommendation, Simulations};
pub use asked::Asked;
pub use error::RecommendError;
pub use prices::{Cost, Prices};
pub use reading::{Reading, Verdict};
pub use text::RECOMMENDED;
pub use trust::ModelError;

use crate::experiment::{Experiment, ExperimentError, RunOptions, SloSettings, check_measured};
use crate::frontier::MetricTarget;
use crate::settings::{Invalid, NOTHING};
use answer::Answering;
use bench::Simulated;
use candidates::Candidates;
use prices::Counted;
use reading::Reader;
use trust::Trust;

impl Asked {
    /// Finds the cheapest candidate of `experiment` that meets the targets. `again` loads
    /// the experiment with one more override, which has a larger load.
    ///
    /// # Errors
    /// What makes no sense, before anything runs; what cannot be loaded or simulated.
    pub fn recommend(
        &self,
        experiment: &Experiment,
        again: impl FnMut(String) -> Result<Experiment, ExperimentError>,
        options: RunOptions<'_>,
    ) -> Result<Recommendation, RecommendError> {
        self.validate()?;
        let seeds = experiment.seeds.len();
        let allowed = "2 or more: one seed says nothing of chance";
        Invalid::unless(seeds > 1, "measure.seeds", seeds, allowed)?;
        let targets = self.targets(experiment)?;
        let counted = Counted::of(self.prices.clone(), experiment).map_err(|e| self.here(e))?;
        let candidates = Candidates::of(experiment, &counted).map_err(|error| {
            if error.key.starts_with("prices") { self.here(error) } else { error }
        })?;
        let trust = Trust::of(experiment)?;
        let reader = || Reader {
            targets: &targets,
            trust: &trust,
            confidence: self.confidence,
            seeds: experiment.seeds.len(),
        };
        let mut bench = Simulated::new(experiment, &candidates, reader(), options);
        let found = if self.full_grid {
            race::grid(&candidates, &mut bench)?
        } else {
            let found = race::race(&candidates, &mut bench)?;
            // And what would do if the model were exact, which may be of another kind.
            bench.set_exact(true);
            race::race(&candidates, &mut bench)?;
            bench.set_exact(false);
            bench.best(found)
        };
        let answer = Answering { asked: self, counted: &counted, targets: &targets };
        answer.recommendation(found, bench, reader, again, options)
    }

    fn named(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// What the library says of a key that was asked for here.
    fn here(&self, invalid: Invalid) -> Invalid {
        Invalid { key: self.named(&invalid.key), ..invalid }
    }

    fn validate(&self) -> Result<(), Invalid> {
        let is_sure = self.confidence > 0.5 && self.confidence < 1.0;
        let key = self.named("confidence");
        let allowed = "above 0.5 and below 1, like 0.95 or 95%";
        Invalid::unless(is_sure, &key, self.confidence, allowed)?;
        let is_share = self.more_load >= 0.0 && self.more_load <= 10.0;
        let key = self.named("more-load");
        Invalid::unless(is_share, &key, self.more_load, "from 0 to 10, like 0.2 or 20%")
    }

    /// The targets that are asked for, or that of `[slo]`.
    fn targets(&self, experiment: &Experiment) -> Result<Vec<MetricTarget>, Invalid> {
        let slo = experiment.runs[0].settings.slo;
        let attainment = slo.map_or(SloSettings::ATTAINMENT, |slo| slo.attainment);
        let key = self.named("within");
        if self.within.is_empty() && slo.is_none() {
            let allowed = "given, like ttft_ms_p95=600ms, or a section [slo] in the experiment";
            return Err(Invalid::new(key, NOTHING, allowed));
        }
        let target = |text: &String| {
            MetricTarget::parse(text, attainment).map_err(|invalid| self.here(invalid))
        };
        let mut targets: Vec<MetricTarget> =
            self.within.iter().map(target).collect::<Result<_, _>>()?;
        if targets.is_empty() {
            targets.push(MetricTarget::slo(attainment));
        }
        for target in &targets {
            check_measured(&key, &target.metric, experiment)?;
        }
        Ok(targets)
    }
}
