//! `kv`, the production router and both side by side, as experiments have them:
//! a policy that compares costs, behind a queue, with parameters that can change.

use super::cost_settings::CostSettings;
use super::decider::Decider;
use super::forward::forward;
use super::kv::KvParams;
use super::parameters::{Parameters, change};
use super::queued::{BusyTokens, Queued};
use super::{ClusterSpec, Policy, Role};
use crate::settings::Invalid;

/// Parameters of a policy that compares costs.
pub(super) trait CostParameters: Parameters {
    /// What they come to in a pool with this role.
    fn params(&self, role: Role) -> KvParams;

    /// Those that all such policies have.
    fn costs(&self) -> &CostSettings;
}

/// A decider with its settings.
#[derive(Debug)]
pub(super) struct ByCost<S, D: Decider> {
    settings: S,
    cluster: ClusterSpec,
    queued: Queued<D>,
}

impl<S: CostParameters, D: Decider> ByCost<S, D> {
    /// `decider`, which was made from `settings` for `cluster`.
    pub(super) fn new(settings: S, decider: D, cluster: &ClusterSpec) -> Self {
        let busy_tokens = busy_tokens(settings.costs(), cluster);
        let queued = Queued::new(decider, busy_tokens, settings.costs().queue_order);
        Self { settings, cluster: cluster.clone(), queued }
    }
}

fn busy_tokens(settings: &CostSettings, cluster: &ClusterSpec) -> BusyTokens {
    let limits = cluster.limits.iter().map(|worker| worker.max_num_batched_tokens);
    let times = settings.queue_threshold.unwrap_or(f64::INFINITY);
    BusyTokens::of_each(limits.map(|tokens| times * f64::from(tokens)).collect())
}

#[deny(clippy::missing_trait_methods)]
impl<S: CostParameters, D: Decider> Policy for ByCost<S, D> {
    fn set_parameter(&mut self, key: &str, value: f64) -> Result<(), Invalid> {
        let settings = change(&self.settings, key, value)?;
        let changed = self.queued.set_params(&settings.params(self.cluster.role));
        changed.map_err(|allowed| Invalid::new(key, value, allowed))?;
        self.queued.set_busy_tokens(busy_tokens(settings.costs(), &self.cluster));
        self.settings = settings;
        Ok(())
    }

    forward! { queued: route, release, observe, wants_kv_events, observe_kv, observe_kv_published,
    hears_kv_on_demand, report_period,
    wants_output_blocks, wants_truth, observe_truth, wake_at, overlap_blocks, observe_peer,
    worker_left, worker_joined, leave_out, failure, notes, explain }
}
