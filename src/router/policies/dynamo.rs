use crate::router::settings::RouterSettings;
use crate::router::spec::PolicySpec;
use crate::router::{ClusterSpec, Policy};
use crate::settings::Invalid;

/// NVIDIA's own router, crate `dynamo-kv-router` 1.6.1, behind the adapter
/// `router::dynamo`; needs the feature `dynamo`.
pub const POLICY: PolicySpec = PolicySpec::new("dynamo", build).with_check(available);

/// Refuses the production router where the build leaves it out.
pub(super) fn available(settings: &RouterSettings) -> Result<(), Invalid> {
    Invalid::unless(
        cfg!(feature = "dynamo"),
        "policy",
        &settings.policy,
        "another policy: this build leaves the production router out \
         (build with the feature `dynamo`)",
    )
}

fn build(settings: &RouterSettings, cluster: &ClusterSpec, seed: u64) -> Box<dyn Policy> {
    super::kv::queued(decider(settings, cluster, seed), settings, cluster)
}

/// As a decider.
#[cfg(feature = "dynamo")]
pub(super) fn decider(
    settings: &RouterSettings,
    cluster: &ClusterSpec,
    seed: u64,
) -> crate::router::dynamo::DynamoPolicy {
    crate::router::dynamo::DynamoPolicy::new(super::kv::params(settings), cluster, seed)
}

/// Never called: validated settings do not ask for it.
#[cfg(not(feature = "dynamo"))]
pub(super) fn decider(_: &RouterSettings, _: &ClusterSpec, _: u64) -> crate::router::kv::KvPolicy {
    panic!("the production router is not in this build")
}
