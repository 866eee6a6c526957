//! What figures and reports show besides the summary: `details.json`.

use super::fleet_over_time::FleetsOverTime;
use super::over_time::OverTime;
use super::published::Published;
use crate::experiment::Experiment;
use crate::experiment::results::{LatencyCurves, SCHEMA_VERSION};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The file of a result folder that holds them.
pub const DETAILS_FILE: &str = "details.json";

/// The smallest difference that is called a win or a loss unless another is given:
/// percent, or percentage points of ratios (assumed: no router is changed for less).
pub const WORTH: f64 = 1.0;

/// See the [module](self).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Details {
    /// [`SCHEMA_VERSION`] at the time of writing.
    pub schema_version: u32,
    /// What the experiment says of itself; may be empty.
    pub description: String,
    /// The settings that were run: `settings` by section, and `sweep`.
    pub settings: Value,
    /// Published numbers to hold the results against.
    pub published: Option<Published>,
    /// The metric that a sweep looked for the best of.
    pub tuned_for: Option<String>,
    /// Requests that a batch of a worker can hold; the largest of all points.
    pub max_num_seqs: u32,
    /// By point of the summary, in order; in milliseconds, to the microsecond.
    pub distributions: Vec<LatencyCurves>,
    /// Simulations of the first seed, where requests were saved.
    pub workers_over_time: Vec<OverTime>,
    /// How fleets that change served, where requests were saved.
    pub fleets_over_time: Option<FleetsOverTime>,
    /// The smallest difference worth having: percent, or percentage points of ratios.
    #[serde(default = "worth")]
    pub worth: f64,
    /// What has to be said of the experiment before its results.
    #[serde(default)]
    pub remarks: Vec<String>,
}

fn worth() -> f64 {
    WORTH
}

impl Details {
    /// Of an experiment and what its run found, without what needs its requests.
    pub fn new(
        experiment: &Experiment,
        published: Option<Published>,
        tuned_for: Option<String>,
        mut distributions: Vec<LatencyCurves>,
    ) -> Self {
        for distribution in distributions.iter_mut().flat_map(|point| point.values_mut()) {
            let bounds = distribution.ci95.iter_mut().flatten().flatten();
            for value in distribution.mean.iter_mut().chain(bounds) {
                *value = (*value * 1e3).round() / 1e3;
            }
        }
        let limits = experiment
            .runs
            .iter()
            .flat_map(|run| run.settings.pools.pools())
            .map(|pool| pool.engine.max_num_seqs);
        Self {
            schema_version: SCHEMA_VERSION,
            description: experiment.description.clone(),
            settings: experiment.settings(),
            published,
            tuned_for,
            max_num_seqs: limits.max().unwrap_or_default(),
            distributions,
            workers_over_time: Vec::new(),
            fleets_over_time: None,
            worth: WORTH,
            remarks: Vec::new(),
        }
    }

    /// As saved: on one line, for programs to read.
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string(self).expect("plain data has no way to fail");
        text.push('\n');
        text
    }
}
