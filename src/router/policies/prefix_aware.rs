use super::recent::RecentlySent;
use super::sent::{Match, SentPrompts};
use crate::id::WorkerId;
use crate::request::RouteRequest;
use crate::rng::{self, Stream, Use};
use crate::router::factory::{Origin, PolicyFactory, Registration};
use crate::router::parameters::{Parameters, change};
use crate::router::select::one_of;
use crate::router::{ClusterSpec, ClusterView, CostParts, Policy, Verdict};
use crate::settings::{Count, Invalid, count};
use crate::time::SimTime;
use rand::RngExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// See [`PrefixAware`].
pub fn policy() -> Arc<dyn PolicyFactory> {
    let rule = "a draw among the workers that got the longest beginning of the prompt before";
    Registration::new("prefix_aware", rule, |params: &PrefixAwareParams, cluster, seed| {
        PrefixAware::new(*params, cluster, seed)
    })
    .follows(
        Origin::new("vLLM production stack", "routers/routing_logic.py, PrefixAwareRouter")
            .version("main", "2026-11")
            .without("pieces of 128 characters, in whose place are blocks"),
    )
    .shared()
}

/// Parameters of [`PrefixAware`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PrefixAwareParams {
    /// A match of fewer prompt tokens does not count: the worker with the fewest requests
    /// sent in the last minute takes the prompt (`--prefix-min-match-length`, which counts
    /// characters). 0: every match counts, and none.
    #[serde(deserialize_with = "count")]
    #[schemars(with = "Count")]
    pub prefix_min_match_tokens: u32,
}

impl Parameters for PrefixAwareParams {
    const CHANGEABLE: &'static [&'static str] = &["prefix_min_match_tokens"];
}

/// A worker drawn among those that got the longest beginning of the prompt
/// before; among all if none got any. With a minimum a shorter match does not count.
///
/// Source: `PrefixAwareRouter` of the vLLM production stack
/// (`routers/routing_logic.py`), which forgets nothing and knows no load. It
/// matches pieces of 128 characters, ours are blocks.
#[derive(Debug)]
pub struct PrefixAware {
    params: PrefixAwareParams,
    block_size: u32,
    sent: SentPrompts,
    recent: RecentlySent,
    draws: Stream,
}

impl PrefixAware {
    /// A policy for `cluster`; `seed` decides among equals.
    pub fn new(params: PrefixAwareParams, cluster: &ClusterSpec, seed: u64) -> Self {
        Self {
            params,
            block_size: cluster.block_size,
            sent: SentPrompts::new(cluster.workers()),
            recent: RecentlySent::new(cluster.workers()),
            draws: rng::stream(seed, Use::Policy, 0, 0),
        }
    }

    fn counts(&self, longest: &Match) -> bool {
        let matched_tokens = u64::from(longest.blocks) * u64::from(self.block_size);
        matched_tokens >= u64::from(self.params.prefix_min_match_tokens)
    }
}

impl Policy for PrefixAware {
    fn route(
        &mut self,
        now: SimTime,
        request: &RouteRequest<'_>,
        view: &ClusterView<'_>,
    ) -> Verdict {
        let longest = self.sent.longest(request.blocks);
        let worker = if !self.counts(&longest) {
            self.recent.least(now)
        } else if longest.workers.is_empty() {
            view.nth_available(self.draws.random_range(0..view.available_count()))
        } else {
            one_of(&longest.workers, &mut self.draws)
        };
        self.sent.insert(worker, request.blocks.iter());
        self.recent.note(now, worker);
        Verdict::send(worker)
    }

    fn worker_left(&mut self, worker: WorkerId) {
        self.sent.remove_worker(worker);
        self.recent.worker_left(worker);
    }

    fn worker_joined(&mut self, worker: WorkerId) {
        self.recent.worker_joined(worker);
    }

    fn set_parameter(&mut self, key: &str, value: f64) -> Result<(), Invalid> {
        self.params = change(&self.params, key, value)?;
        Ok(())
    }

    /// 0 for the workers among which it draws, 1 for the others. Where no match counts:
    /// requests sent in the last minute, as of the decision before.
    fn explain(&self, request: &RouteRequest<'_>, view: &ClusterView<'_>) -> Vec<CostParts> {
        let longest = self.sent.longest(request.blocks);
        let matched = self.sent.overlaps(request.blocks.iter());
        let matched = matched.to_vec(view.workers.len());
        let cost = |(at, &matched): (usize, &u32)| {
            let worker = WorkerId::at(at);
            let is_drawn = longest.workers.is_empty() || longest.workers.contains(&worker);
            let is_available = view.workers[at].available;
            let sent = if is_available { self.recent.of(worker) } else { 0 };
            let parts =
                vec![("matched_blocks", f64::from(matched)), ("sent_requests", f64::from(sent))];
            let cost = if self.counts(&longest) { u32::from(!is_drawn) } else { sent };
            CostParts { worker, cost: f64::from(cost), parts }
        };
        matched.iter().enumerate().map(cost).collect()
    }
}
