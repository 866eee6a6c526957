use super::sent::SentPrompts;
use crate::id::WorkerId;
use crate::request::RouteRequest;
use crate::rng::{self, Stream, Use};
use crate::router::factory::{PolicyFactory, Registration};
use crate::router::parameters::NoParameters;
use crate::router::select::one_of;
use crate::router::{ClusterView, CostParts, Policy, Verdict};
use crate::time::SimTime;
use rand::RngExt;
use std::sync::Arc;

/// See [`PrefixAware`].
pub fn policy() -> Arc<dyn PolicyFactory> {
    let rule = "a draw among the workers that got the longest beginning of the prompt before";
    Registration::new("prefix_aware", rule, |_: &NoParameters, cluster, seed| {
        PrefixAware::new(cluster.workers(), seed)
    })
    .follows("vLLM production stack", None, "routers/routing_logic.py, PrefixAwareRouter")
    .shared()
}

/// A worker drawn among those that got the longest beginning of the prompt
/// before; among all if none got any.
///
/// Source: `PrefixAwareRouter` of the vLLM production stack
/// (`routers/routing_logic.py`), which forgets nothing and knows no load. It
/// matches pieces of 128 characters, ours are blocks.
#[derive(Debug)]
pub struct PrefixAware {
    sent: SentPrompts,
    draws: Stream,
}

impl PrefixAware {
    /// A policy for `workers` workers; `seed` decides among equals.
    pub fn new(workers: u32, seed: u64) -> Self {
        Self { sent: SentPrompts::new(workers), draws: rng::stream(seed, Use::Policy, 0, 0) }
    }
}

impl Policy for PrefixAware {
    fn route(&mut self, _: SimTime, request: &RouteRequest<'_>, view: &ClusterView<'_>) -> Verdict {
        let longest = self.sent.longest(request.blocks);
        let worker = if longest.workers.is_empty() {
            view.nth_available(self.draws.random_range(0..view.available_count()))
        } else {
            one_of(&longest.workers, &mut self.draws)
        };
        self.sent.insert(worker, request.blocks.iter());
        Verdict::send(worker)
    }

    fn worker_left(&mut self, worker: WorkerId) {
        self.sent.remove_worker(worker);
    }

    /// 0 for the workers among which it draws, 1 for the others.
    fn explain(&self, request: &RouteRequest<'_>, view: &ClusterView<'_>) -> Vec<CostParts> {
        let longest = self.sent.longest(request.blocks);
        let matched = self.sent.overlaps(request.blocks, request.blocks.len());
        let matched = matched.to_vec(view.workers.len());
        let cost = |(at, &matched): (usize, &u32)| {
            let worker = WorkerId::at(at);
            let is_drawn = longest.workers.is_empty() || longest.workers.contains(&worker);
            let parts = vec![("matched_blocks", f64::from(matched))];
            CostParts { worker, cost: f64::from(u8::from(!is_drawn)), parts }
        };
        matched.iter().enumerate().map(cost).collect()
    }
}
