use crate::request::RouteRequest;
use crate::rng::{self, Stream, Use};
use crate::router::factory::{PolicyFactory, Registration};
use crate::router::parameters::NoParameters;
use crate::router::{ClusterView, Policy, Verdict};
use crate::time::SimTime;
use rand::RngExt;
use std::sync::Arc;

/// See [`Random`].
pub fn policy() -> Arc<dyn PolicyFactory> {
    let rule = "a worker drawn uniformly for every request";
    Registration::new("random", rule, |_: &NoParameters, _, seed| Random::new(seed))
        .can_leave_out()
        .shared()
}

/// A worker drawn uniformly for every request.
#[derive(Debug)]
pub struct Random {
    draws: Stream,
}

impl Random {
    /// With `seed` for all draws.
    pub fn new(seed: u64) -> Self {
        Self { draws: rng::stream(seed, Use::Policy, 0, 0) }
    }
}

impl Policy for Random {
    fn route(&mut self, _: SimTime, _: &RouteRequest<'_>, view: &ClusterView<'_>) -> Verdict {
        let drawn = self.draws.random_range(0..view.available_count());
        Verdict::send(view.nth_available(drawn))
    }
}
