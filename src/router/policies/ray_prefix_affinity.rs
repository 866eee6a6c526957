use super::tree::PromptTree;
use super::{Books, inflight_in};
use crate::id::WorkerId;
use crate::request::RouteRequest;
use crate::rng::{self, Stream, Use};
use crate::router::factory::{Origin, PolicyFactory, Registration};
use crate::router::parameters::{Parameters, change, check_range};
use crate::router::select::{of_lowest, one_of, two_of};
use crate::router::{ClusterSpec, ClusterView, CostParts, Policy, Verdict};
use crate::settings::{Count, Invalid, count_option};
use crate::time::SimTime;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// See [`RayPrefixAffinity`].
pub fn policy() -> Arc<dyn PolicyFactory> {
    let rule = "the least loaded of those that got the longest beginning of the prompt before";
    Registration::new("ray_prefix_affinity", rule, |params: &RayParams, cluster, seed| {
        RayPrefixAffinity::new(*params, cluster, seed)
    })
    .follows(
        Origin::new(
            "Ray Serve LLM",
            "routing_policies/prefix_aware/prefix_aware_router.py and prefix_tree.py, \
             PrefixCacheAffinityRouter",
        )
        .version("master", "2026-11")
        .without(
            "forgetting, which is off unless do_eviction is set; limits of a replica's queue and \
             backing off; locality; a tree of characters, in whose place are blocks",
        ),
    )
    .shared()
}

/// Parameters of [`RayPrefixAffinity`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RayParams {
    /// Loads that differ by more requests than this are imbalanced: the prompt goes to the
    /// less loaded of two workers drawn. Unset: never.
    #[serde(deserialize_with = "count_option", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Count>")]
    pub imbalanced_threshold: Option<u32>,
    /// Share of the prompt that must match, 0 to 1; with less it goes to the workers to
    /// which the least was sent.
    pub match_rate_threshold: f64,
}

impl Default for RayParams {
    /// Ray's.
    fn default() -> Self {
        Self { imbalanced_threshold: None, match_rate_threshold: 0.1 }
    }
}

impl Parameters for RayParams {
    const CHANGEABLE: &'static [&'static str] = &["imbalanced_threshold", "match_rate_threshold"];

    fn check(&self) -> Result<(), Invalid> {
        check_range("match_rate_threshold", self.match_rate_threshold, 0.0..=1.0)
    }
}

/// Ray Serve's prefix affinity: a group of workers by what was sent before, and the least
/// loaded of it.
///
/// If loads differ by more than a threshold: the less loaded of two workers drawn. Else, if
/// enough of the prompt was sent somewhere: of the workers that got the longest beginning
/// the one with the fewest requests in flight. Else: of the workers to which the least was
/// sent. Ray asks replicas for the length of their queues and caches the answers; here a
/// front end's own requests count, exactly.
#[derive(Debug)]
pub struct RayPrefixAffinity {
    params: RayParams,
    block_size: u32,
    tree: PromptTree,
    draws: Stream,
}

impl RayPrefixAffinity {
    /// A policy for `cluster`; `seed` decides among equals.
    pub fn new(params: RayParams, cluster: &ClusterSpec, seed: u64) -> Self {
        Self {
            params,
            block_size: cluster.block_size,
            tree: PromptTree::new(cluster.workers()),
            draws: rng::stream(seed, Use::Policy, 0, 0),
        }
    }

    /// The group; `None` if loads are imbalanced.
    fn group(&self, request: &RouteRequest<'_>, view: &ClusterView<'_>) -> Option<Vec<WorkerId>> {
        let spread = view.most_inflight() - view.least_inflight();
        if self.params.imbalanced_threshold.is_some_and(|threshold| spread > threshold) {
            return None;
        }
        let longest = self.tree.longest(request);
        let match_rate = longest.share(request, self.block_size);
        if match_rate < self.params.match_rate_threshold || longest.workers.is_empty() {
            return Some(self.tree.smallest().collect());
        }
        Some(longest.workers)
    }

    /// Two different workers, if there are two.
    fn pair(&mut self, view: &ClusterView<'_>) -> Vec<WorkerId> {
        let (first, second) = two_of(view.available_count(), &mut self.draws);
        [first].into_iter().chain(second).map(|at| view.nth_available(at)).collect()
    }
}

impl Books for RayPrefixAffinity {
    fn book(&mut self, request: &RouteRequest<'_>, worker: WorkerId) {
        self.tree.insert(request, worker);
    }
}

impl Policy for RayPrefixAffinity {
    fn route(&mut self, _: SimTime, request: &RouteRequest<'_>, view: &ClusterView<'_>) -> Verdict {
        let group = match self.group(request, view) {
            Some(group) => group,
            None => self.pair(view),
        };
        let least = of_lowest(group, |worker| view.workers[worker.index()].inflight);
        let worker = one_of(&least, &mut self.draws);
        self.book(request, worker);
        Verdict::send(worker)
    }

    fn set_parameter(&mut self, key: &str, value: f64) -> Result<(), Invalid> {
        self.params = change(&self.params, key, value)?;
        Ok(())
    }

    fn worker_left(&mut self, worker: WorkerId) {
        self.tree.worker_left(worker);
    }

    fn worker_joined(&mut self, worker: WorkerId) {
        self.tree.worker_joined(worker);
    }

    /// Requests in flight, with the workers outside the group behind those in it; of all
    /// workers where loads are imbalanced, though only two are drawn and compared.
    fn explain(&self, request: &RouteRequest<'_>, view: &ClusterView<'_>) -> Vec<CostParts> {
        let group = self.group(request, view);
        let sent_blocks = |worker| f64::from(self.tree.held_blocks(worker));
        inflight_in(view, group.as_deref())
            .map(|(worker, inflight, cost)| CostParts {
                worker,
                cost,
                parts: vec![("inflight", inflight), ("sent_blocks", sent_blocks(worker))],
            })
            .collect()
    }
}
