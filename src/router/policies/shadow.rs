use super::{dynamo, kv};
use crate::router::kv::{KvPolicy, Semantics};
use crate::router::settings::{RouterSettings, ShadowDriver};
use crate::router::shadow::ShadowPolicy;
use crate::router::spec::PolicySpec;
use crate::router::{ClusterSpec, Policy};
use crate::settings::Invalid;

/// See [`ShadowPolicy`].
pub const POLICY: PolicySpec = PolicySpec::new("shadow", build).with_check(check);

fn build(settings: &RouterSettings, cluster: &ClusterSpec, seed: u64) -> Box<dyn Policy> {
    let ours = KvPolicy::new(kv::params(settings), cluster, seed);
    let theirs = dynamo::decider(settings, cluster, seed);
    match settings.shadow_driver {
        ShadowDriver::Kv => kv::queued(ShadowPolicy::new(ours, theirs), settings, cluster),
        ShadowDriver::Dynamo => kv::queued(ShadowPolicy::new(theirs, ours), settings, cluster),
    }
}

fn check(settings: &RouterSettings) -> Result<(), Invalid> {
    dynamo::available(settings)?;
    Invalid::unless(
        settings.semantics == Semantics::V1_6,
        "semantics",
        "0.9",
        "\"1.6\" where policy = \"shadow\": the production router beside it is 1.6.1",
    )
}
