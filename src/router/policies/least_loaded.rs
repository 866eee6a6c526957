use crate::id::WorkerId;
use crate::request::RouteRequest;
use crate::rng::{self, Stream, Use};
use crate::router::factory::{Origin, PolicyFactory, Registration};
use crate::router::parameters::NoParameters;
use crate::router::select::one_of;
use crate::router::{ClusterView, CostParts, Policy, Verdict};
use crate::time::SimTime;
use std::sync::Arc;

/// See [`LeastLoaded`].
pub fn policy() -> Arc<dyn PolicyFactory> {
    let rule = "the fewest requests in flight from this front end; a draw among equals";
    Registration::new("least_loaded", rule, |_: &NoParameters, _, seed| LeastLoaded::new(seed))
        .follows(
            Origin::new(
                "NVIDIA Dynamo",
                "crate dynamo-runtime, routing_policy/picker.rs, which most gateways have too",
            )
            .version("1.6.1", "2026-11"),
        )
        .can_leave_out()
        .shared()
}

/// The worker with the fewest requests in flight from this front end; among
/// equals one drawn uniformly.
///
/// Dynamo's and most gateways' least-loaded: it counts requests, not tokens or
/// blocks.
#[derive(Debug)]
pub struct LeastLoaded {
    ties: Stream,
}

impl LeastLoaded {
    /// With `seed` for the draws among equals.
    pub fn new(seed: u64) -> Self {
        Self { ties: rng::stream(seed, Use::Policy, 0, 0) }
    }
}

impl Policy for LeastLoaded {
    fn route(&mut self, _: SimTime, _: &RouteRequest<'_>, view: &ClusterView<'_>) -> Verdict {
        Verdict::send(one_of(view.least_loaded(), &mut self.ties))
    }

    fn explain(&self, _: &RouteRequest<'_>, view: &ClusterView<'_>) -> Vec<CostParts> {
        let cost = |(index, inflight): (usize, u32)| CostParts {
            worker: WorkerId::at(index),
            cost: f64::from(inflight),
            parts: vec![("inflight", f64::from(inflight))],
        };
        view.workers.iter().map(|worker| worker.inflight).enumerate().map(cost).collect()
    }
}
