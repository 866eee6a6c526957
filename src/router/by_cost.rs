//! `kv`, the production router and both side by side, as experiments have them:
//! a policy that compares costs, behind a queue, with parameters that can change.

use super::decider::Decider;
use super::disaggregated::Role;
use super::forward::forward;
use super::kv::KvParams;
use super::parameters::{Parameters, change};
use super::policies::kv::CostSettings;
use super::queued::Queued;
use super::{ClusterSpec, Policy};
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
    role: Role,
    max_num_batched_tokens: u32,
    queued: Queued<D>,
}

impl<S: CostParameters, D: Decider> ByCost<S, D> {
    /// `decider`, which was made from `settings` for `cluster`.
    pub(super) fn new(settings: S, decider: D, cluster: &ClusterSpec) -> Self {
        let max_num_batched_tokens = cluster.max_num_batched_tokens;
        let busy_tokens = busy_tokens(settings.costs(), max_num_batched_tokens);
        let queued = Queued::new(decider, busy_tokens, settings.costs().queue_order);
        Self { settings, role: cluster.role, max_num_batched_tokens, queued }
    }
}

/// Prompt tokens in flight above which a worker takes nothing from the queue.
fn busy_tokens(settings: &CostSettings, max_num_batched_tokens: u32) -> f64 {
    let threshold = settings.queue_threshold;
    threshold.map_or(f64::INFINITY, |times| times * f64::from(max_num_batched_tokens))
}

#[deny(clippy::missing_trait_methods)]
impl<S: CostParameters, D: Decider> Policy for ByCost<S, D> {
    fn set_parameter(&mut self, key: &str, value: f64) -> Result<(), Invalid> {
        let settings = change(&self.settings, key, value)?;
        let changed = self.queued.set_params(&settings.params(self.role));
        changed.map_err(|allowed| Invalid::new(key, value, allowed))?;
        self.queued.set_busy_tokens(busy_tokens(settings.costs(), self.max_num_batched_tokens));
        self.settings = settings;
        Ok(())
    }

    forward! { queued: route, release, observe, wants_kv_events, observe_kv, report_period,
    wants_output_blocks, wants_truth, observe_truth, wake_at, overlap_blocks, observe_peer,
    worker_left, worker_joined, notes, explain }
}
