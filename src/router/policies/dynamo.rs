use super::kv::LEFT_OUT;
use crate::router::ClusterSpec;
use crate::router::Role;
use crate::router::by_cost::{ByCost, CostParameters};
use crate::router::cost_settings::CostSettings;
use crate::router::factory::{Origin, PolicyFactory, Registration};
use crate::router::kv::{KvParams, Semantics};
use crate::router::parameters::Parameters;
use crate::settings::Invalid;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// NVIDIA's own router, crate `dynamo-kv-router` 1.6.1, behind the adapter
/// `router::dynamo`; needs the feature `dynamo`.
pub fn policy() -> Arc<dyn PolicyFactory> {
    let rule = "NVIDIA's own router: its index, its bookkeeping, its selector";
    Registration::new("dynamo", rule, |settings: &DynamoSettings, cluster, seed| {
        let decider = decider(settings.params(cluster.role), cluster, seed);
        ByCost::new(settings.clone(), decider, cluster)
    })
    .follows(
        Origin::new("NVIDIA Dynamo", "the crate dynamo-kv-router itself")
            .version("1.6.1", "2026-11")
            .without(LEFT_OUT),
    )
    .can_follow()
    .targets_ranks()
    .can_leave_out()
    .shared()
}

/// Parameters of `dynamo`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct DynamoSettings {
    /// All that it shares with `kv`.
    #[serde(flatten)]
    pub costs: CostSettings,
}

impl Parameters for DynamoSettings {
    const CHANGEABLE: &'static [&'static str] = CostSettings::CHANGEABLE;

    fn check(&self) -> Result<(), Invalid> {
        available("dynamo")?;
        self.costs.check()
    }
}

impl CostParameters for DynamoSettings {
    fn params(&self, role: Role) -> KvParams {
        self.costs.params(Semantics::V1_6, role)
    }

    fn costs(&self) -> &CostSettings {
        &self.costs
    }
}

/// Refuses the production router where the build leaves it out.
pub(super) fn available(policy: &str) -> Result<(), Invalid> {
    Invalid::unless(
        cfg!(feature = "dynamo"),
        "policy",
        format!("{policy:?}"),
        "another policy: this build leaves the production router out \
         (build with the feature `dynamo`)",
    )
}

/// As a decider.
#[cfg(feature = "dynamo")]
pub(super) fn decider(
    params: KvParams,
    cluster: &ClusterSpec,
    seed: u64,
) -> crate::router::dynamo::DynamoPolicy {
    crate::router::dynamo::DynamoPolicy::new(params, cluster, seed)
}

/// Never called: checked settings do not ask for it.
#[cfg(not(feature = "dynamo"))]
pub(super) fn decider(_: KvParams, _: &ClusterSpec, _: u64) -> crate::router::kv::KvPolicy {
    panic!("the production router is not in this build")
}
