use crate::request::RouteRequest;
use crate::rng::{self, Stream, Use};
use crate::router::spec::PolicySpec;
use crate::router::{ClusterView, Policy, Verdict};
use crate::time::SimTime;
use rand::RngExt;

/// See [`Random`].
pub const POLICY: PolicySpec =
    PolicySpec::new("random", |_, _, seed| Box::new(Random::new(seed))).blind();

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
        Verdict::Send(view.nth_available(drawn))
    }
}
