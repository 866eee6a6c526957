use super::dynamo;
use super::kv::{KvSettings, LEFT_OUT};
use crate::router::Role;
use crate::router::by_cost::{ByCost, CostParameters};
use crate::router::cost_settings::CostSettings;
use crate::router::factory::{Origin, PolicyFactory, Registration};
use crate::router::kv::{KvParams, KvPolicy, Semantics};
use crate::router::parameters::{Parameters, Surroundings};
use crate::router::shadow::{METRICS, ShadowPolicy};
use crate::settings::Invalid;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// See [`ShadowPolicy`].
pub fn policy() -> Arc<dyn PolicyFactory> {
    let rule = "kv and dynamo side by side on one history";
    Registration::boxed("shadow", rule, |settings: &ShadowSettings, cluster, seed| {
        let params = settings.params(cluster.role);
        let ours = KvPolicy::new(params, cluster, seed);
        let theirs = dynamo::decider(params, cluster, seed);
        let settings = settings.clone();
        match settings.shadow_driver {
            ShadowDriver::Kv => {
                Box::new(ByCost::new(settings, ShadowPolicy::new(ours, theirs), cluster))
            }
            ShadowDriver::Dynamo => {
                Box::new(ByCost::new(settings, ShadowPolicy::new(theirs, ours), cluster))
            }
        }
    })
    .follows(
        Origin::new("NVIDIA Dynamo", "kv beside the crate dynamo-kv-router")
            .version("1.6.1", "2026-11")
            .without(LEFT_OUT),
    )
    .counts(&METRICS)
    .targets_ranks()
    .can_leave_out()
    .shared()
}

/// Parameters of `shadow`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ShadowSettings {
    /// Whose choice happens: `"kv"` or `"dynamo"`; the other one is compared.
    pub shadow_driver: ShadowDriver,
    /// Those of both.
    #[serde(flatten)]
    pub kv: KvSettings,
}

/// Who drives in `policy = "shadow"`; the other one decides for comparison only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ShadowDriver {
    /// Our own code.
    #[default]
    Kv,
    /// Dynamo's.
    Dynamo,
}

impl Parameters for ShadowSettings {
    const CHANGEABLE: &'static [&'static str] = CostSettings::CHANGEABLE;

    fn check(&self) -> Result<(), Invalid> {
        dynamo::available("shadow")?;
        Invalid::unless(
            self.kv.semantics == Semantics::V1_6,
            "semantics",
            "0.9",
            "\"1.6\" where policy = \"shadow\": the production router beside it is 1.6.1",
        )?;
        self.kv.check()
    }

    fn check_in(&self, surroundings: &Surroundings) -> Result<(), Invalid> {
        self.kv.check_in(surroundings)
    }
}

impl CostParameters for ShadowSettings {
    fn params(&self, role: Role) -> KvParams {
        self.kv.params(role)
    }

    fn costs(&self) -> &CostSettings {
        &self.kv.costs
    }
}
