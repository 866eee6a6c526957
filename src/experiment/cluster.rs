//! The fleet: the `[cluster]` section.

use super::measure::MeasureSettings;
use crate::engine::config::EngineConfig;
use crate::engine::model::ModelChoice;
use crate::engine::settings::EngineSettings;
use crate::fleet::Link;
use crate::fleet::changes::{
    ChangePlan, ChangeSettings, FailoverSettings, LOAD_TIME, MOST_WORKERS, PlannerSettings,
};
use crate::router::ChosenPolicy;
use crate::settings::{Count, Invalid, count, count_option};
use crate::time::SimDuration;
use schemars::JsonSchema;
use serde::Deserialize;
use toml::Table;

/// The `[cluster]` section. Its parts that describe pools have an effect only
/// where `prefill.workers` is given, so that it can be swept.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClusterSettings {
    /// Number of workers, at the start.
    #[serde(deserialize_with = "count")]
    #[schemars(with = "Count")]
    pub workers: u32,
    /// The model: a name of `sim models`, a model file relative to the experiment, or its
    /// parts; not needed if `[engine]` gives everything.
    pub model: Option<ModelChoice>,
    /// Workers that only prefill.
    #[serde(default)]
    pub prefill: PrefillSettings,
    /// The other workers, which decode.
    #[serde(default)]
    pub decode: DecodeSettings,
    /// What joins them.
    #[serde(default)]
    pub network: NetworkSettings,
    /// Time that a worker takes from its start until it serves: weights, graphs,
    /// warm-up. Default 60 s (assumed).
    #[serde(default = "load_time")]
    pub load_time: SimDuration,
    /// What happens to workers.
    #[serde(default)]
    pub change: Vec<ChangeSettings>,
    /// What routers and clients make of it.
    #[serde(default)]
    pub failover: FailoverSettings,
    /// Who adds and removes workers, if anybody.
    pub planner: Option<PlannerSettings>,
}

fn load_time() -> SimDuration {
    LOAD_TIME
}

/// The `[cluster.prefill]` section.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PrefillSettings {
    /// How many of the workers prefill; the others decode. Default: all do both.
    #[serde(deserialize_with = "count_option")]
    #[schemars(with = "Option<Count>")]
    pub workers: Option<u32>,
    /// Their model. Default: `cluster.model`.
    pub model: Option<ModelChoice>,
    /// Wins over `[engine]` on these workers.
    #[schemars(with = "EngineSettings")]
    pub engine: Table,
}

/// The `[cluster.decode]` section.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DecodeSettings {
    /// Their model. Default: `cluster.model`.
    pub model: Option<ModelChoice>,
    /// Wins over `[engine]` on these workers.
    #[schemars(with = "EngineSettings")]
    pub engine: Table,
}

/// The `[cluster.network]` section: one NIC per worker.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkSettings {
    /// Bandwidth of a NIC in each direction, in Gbit/s; `inf` for any. Default 400
    /// (assumed: an NDR InfiniBand port).
    pub gbit_per_s: f64,
    /// From the last byte of a transfer to its being known at both ends. Default
    /// 1 ms (assumed: a notification and a poll).
    pub latency: SimDuration,
}

impl Default for NetworkSettings {
    fn default() -> Self {
        Self { gbit_per_s: 400.0, latency: SimDuration::from_millis(1) }
    }
}

impl NetworkSettings {
    pub(super) fn link(&self) -> Link {
        Link { gbit_per_s: self.gbit_per_s, latency: self.latency }
    }
}

impl ClusterSettings {
    /// So many workers, to which nothing happens.
    pub fn new(workers: u32) -> Self {
        Self {
            workers,
            model: None,
            prefill: PrefillSettings::default(),
            decode: DecodeSettings::default(),
            network: NetworkSettings::default(),
            load_time: load_time(),
            change: Vec::new(),
            failover: FailoverSettings::default(),
            planner: None,
        }
    }

    /// Everything that happens to the workers.
    pub fn plan(&self) -> ChangePlan {
        ChangePlan {
            workers: self.workers,
            load_time: self.load_time,
            changes: self.change.clone(),
            failover: self.failover,
            planner: self.planner,
        }
    }

    /// Workers that there can ever be: ids are below.
    pub fn slots(&self) -> u32 {
        self.plan().slots()
    }

    /// Checks what does not depend on models; keys in the error are relative to `[cluster]`.
    pub(super) fn validate(&self) -> Result<(), Invalid> {
        let allowed = format!("from 1 to {MOST_WORKERS}");
        Invalid::unless(
            (1..=MOST_WORKERS).contains(&self.workers),
            "workers",
            self.workers,
            &allowed,
        )?;
        self.plan().validate()?;
        let Some(prefill) = self.prefill.workers else { return Ok(()) };
        if !self.plan().is_empty() {
            let allowed = "left out where workers change (cluster.change, cluster.planner): that \
                           is defined for one pool";
            return Err(Invalid::new("prefill.workers", prefill, allowed));
        }
        let allowed = match self.workers {
            1 => "left out: one worker cannot be two pools".to_owned(),
            workers => format!(
                "from 1 to {}: the others of the {workers} workers decode; or left out",
                workers - 1
            ),
        };
        let splits = (1..self.workers).contains(&prefill);
        Invalid::unless(splits, "prefill.workers", prefill, &allowed)
    }
}

/// Refuses what is not defined where prefill and decode have workers of their own;
/// names the section.
pub(super) fn check_pooled(
    policy: &ChosenPolicy,
    measure: &MeasureSettings,
    engine: &EngineConfig,
) -> Result<(), (&'static str, Invalid)> {
    if policy.wants().truth {
        let allowed = "another policy where cluster.prefill.workers is given: what is true of \
                       workers is defined for one pool";
        return Err(("router", Invalid::new("policy", format!("{:?}", policy.name()), allowed)));
    }
    if !engine.tiers.tiers.is_empty() {
        let allowed = "left out where cluster.prefill.workers is given: tiers below GPU memory are \
                       defined for one pool";
        return Err(("engine", Invalid::new("tier", engine.tiers.tiers.len(), allowed)));
    }
    if measure.why {
        let allowed = "false where cluster.prefill.workers is given: the regret of a choice is \
                       defined for one pool";
        return Err(("measure", Invalid::new("why", true, allowed)));
    }
    Ok(())
}
