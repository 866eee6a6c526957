use super::tree::PromptTree;
use super::{Books, are_imbalanced};
use crate::id::WorkerId;
use crate::request::RouteRequest;
use crate::rng::{self, Stream, Use};
use crate::router::factory::{Origin, PolicyFactory, Registration};
use crate::router::parameters::{MOST, Parameters, change, check_range};
use crate::router::select::{Bounds, lowest, one_of};
use crate::router::{ClusterSpec, ClusterView, CostParts, Policy, Verdict};
use crate::settings::{Count, Invalid, count};
use crate::time::{SimDuration, SimTime};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// See [`SglangCacheAware`].
pub fn policy() -> Arc<dyn PolicyFactory> {
    let rule = "where the prompt's beginning was sent before, unless loads are imbalanced";
    Registration::new("sglang_cache_aware", rule, |params: &CacheAwareParams, cluster, seed| {
        SglangCacheAware::new(*params, cluster, seed)
    })
    .follows(
        Origin::new("SGLang", "sgl-router, policies/cache_aware.rs")
            .version_where("sglang_version", "0.3.2", "sglang-router 0.3.2", "2026-01-15")
            .version_where("sglang_version", "0.2.3", "sglang-router 0.2.3", "2025-11-15")
            .without("a tree of characters, in whose place are blocks; several models"),
    )
    .shared()
}

/// Versions of the router that differ in where a prompt goes that matches nowhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SglangVersion {
    /// To the worker with the fewest requests in flight.
    #[default]
    #[serde(rename = "0.3.2")]
    V0_3_2,
    /// To the worker to which the least was sent (until 0.2.3).
    #[serde(rename = "0.2.3")]
    V0_2_3,
}

/// Parameters of [`SglangCacheAware`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct CacheAwareParams {
    /// Which version's rule holds for a prompt that matches nowhere: `"0.3.2"` (from
    /// 0.2.4 on) takes the worker with the fewest requests in flight, `"0.2.3"` the one to
    /// which the least was sent.
    pub sglang_version: SglangVersion,
    /// Share of the prompt that must match for the match to decide, 0 to 1.
    pub cache_threshold: f64,
    /// Loads are imbalanced only if they differ by more than so many requests.
    #[serde(deserialize_with = "count")]
    #[schemars(with = "Count")]
    pub balance_abs_threshold: u32,
    /// Loads are imbalanced only if the highest exceeds the lowest by this factor.
    pub balance_rel_threshold: f64,
    /// Time between two rounds of forgetting (default: 0.3.2's; vllm-router has 120 s).
    pub eviction_interval: SimDuration,
    /// Tokens remembered per worker after such a round (default: its 64 Mi
    /// characters at 4 characters a token, assumed; vllm-router has 32 Mi characters).
    #[serde(deserialize_with = "count")]
    #[schemars(with = "Count")]
    pub max_tree_tokens: u32,
}

impl Default for CacheAwareParams {
    fn default() -> Self {
        Self {
            sglang_version: SglangVersion::default(),
            cache_threshold: 0.3,
            balance_abs_threshold: 64,
            balance_rel_threshold: 1.5,
            eviction_interval: SimDuration::from_secs(60),
            max_tree_tokens: 16 << 20,
        }
    }
}

impl Parameters for CacheAwareParams {
    const CHANGEABLE: &'static [&'static str] =
        &["cache_threshold", "balance_abs_threshold", "balance_rel_threshold", "max_tree_tokens"];

    fn check(&self) -> Result<(), Invalid> {
        check_range("cache_threshold", self.cache_threshold, 0.0..=MOST)?;
        check_range("balance_rel_threshold", self.balance_rel_threshold, 0.0..=MOST)?;
        let some = !self.eviction_interval.is_zero();
        Invalid::unless(some, "eviction_interval", "0s", "more than no time")
    }
}

/// The cache-aware policy of SGLang's router (`sgl-router`,
/// `policies/cache_aware.rs`).
///
/// If loads are imbalanced by both thresholds: the worker with the fewest
/// requests in flight. Else, if enough of the prompt was sent somewhere before:
/// there. Else: the worker with the fewest requests in flight, until 0.2.3 the one to
/// which the least was sent. It hears nothing of the real caches. Where several workers
/// fit it takes whichever comes first in its maps; we draw. Its tree counts characters,
/// ours tokens, in whole blocks. Decisions of both versions are recorded in
/// `src/router/tests/golden`. vllm-router has the rule of 0.3.2.
#[derive(Debug)]
pub struct SglangCacheAware {
    params: CacheAwareParams,
    block_size: u32,
    tree: PromptTree,
    next_eviction: SimTime,
    draws: Stream,
}

/// What a worker is chosen by.
#[derive(Debug, PartialEq)]
enum Rule {
    /// The fewest requests in flight.
    Load,
    /// A draw among these.
    Match(Vec<WorkerId>),
    /// The fewest blocks sent.
    Sent,
}

impl SglangCacheAware {
    /// A policy for `cluster`; `seed` decides among equals.
    pub fn new(params: CacheAwareParams, cluster: &ClusterSpec, seed: u64) -> Self {
        Self {
            params,
            block_size: cluster.block_size,
            tree: PromptTree::new(cluster.workers()),
            next_eviction: SimTime::ZERO + params.eviction_interval,
            draws: rng::stream(seed, Use::Policy, 0, 0),
        }
    }

    /// What decides about a request.
    fn rule(&self, request: &RouteRequest<'_>, view: &ClusterView<'_>) -> Rule {
        let CacheAwareParams { balance_abs_threshold, balance_rel_threshold, .. } = self.params;
        if are_imbalanced(view, balance_abs_threshold, balance_rel_threshold) {
            return Rule::Load;
        }
        let longest = self.tree.longest(request);
        if longest.share(request, self.block_size) > self.params.cache_threshold {
            return Rule::Match(longest.workers);
        }
        match self.params.sglang_version {
            SglangVersion::V0_3_2 => Rule::Load,
            SglangVersion::V0_2_3 => Rule::Sent,
        }
    }

    fn choose(&mut self, request: &RouteRequest<'_>, view: &ClusterView<'_>) -> WorkerId {
        match self.rule(request, view) {
            Rule::Load => one_of(view.least_loaded(), &mut self.draws),
            Rule::Match(workers) => one_of(&workers, &mut self.draws),
            Rule::Sent => {
                let all = self.tree.sent_blocks();
                let sent_blocks = |worker: WorkerId| (all.key(worker.index()), 0);
                let bounds = Bounds::OWN_COST;
                let least = lowest(all, bounds, &mut self.draws, sent_blocks);
                WorkerId::at(least.expect("a worker is available"))
            }
        }
    }

    fn forget(&mut self, now: SimTime) {
        if now < self.next_eviction {
            return;
        }
        self.next_eviction = now + self.params.eviction_interval;
        self.tree.shrink(self.params.max_tree_tokens / self.block_size);
    }
}

impl Books for SglangCacheAware {
    fn book(&mut self, request: &RouteRequest<'_>, worker: WorkerId) {
        self.tree.insert(request, worker);
    }
}

impl Policy for SglangCacheAware {
    fn route(
        &mut self,
        now: SimTime,
        request: &RouteRequest<'_>,
        view: &ClusterView<'_>,
    ) -> Verdict {
        self.forget(now);
        let worker = self.choose(request, view);
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

    /// By the rule that holds: requests in flight, blocks sent, or 0 for the
    /// workers with the longest match and 1 for the others.
    fn explain(&self, request: &RouteRequest<'_>, view: &ClusterView<'_>) -> Vec<CostParts> {
        let rule = self.rule(request, view);
        let cost = |(at, inflight): (usize, u32)| {
            let worker = WorkerId::at(at);
            let sent_blocks = self.tree.held_blocks(worker);
            let cost = match &rule {
                Rule::Load => inflight,
                Rule::Match(workers) => u32::from(!workers.contains(&worker)),
                Rule::Sent => sent_blocks,
            };
            let parts =
                vec![("inflight", f64::from(inflight)), ("sent_blocks", f64::from(sent_blocks))];
            CostParts { worker, cost: f64::from(cost), parts }
        };
        view.workers.iter().map(|worker| worker.inflight).enumerate().map(cost).collect()
    }
}
