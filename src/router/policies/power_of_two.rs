use crate::id::WorkerId;
use crate::request::RouteRequest;
use crate::rng::{self, Stream, Use};
use crate::router::factory::{Origin, PolicyFactory, Registration};
use crate::router::parameters::NoParameters;
use crate::router::select::two_of;
use crate::router::{ClusterView, CostParts, Policy, Verdict};
use crate::time::SimTime;
use std::sync::Arc;

/// See [`PowerOfTwo`].
pub fn policy() -> Arc<dyn PolicyFactory> {
    let rule = "the less loaded of two workers drawn";
    Registration::new("power_of_two", rule, |_: &NoParameters, _, seed| PowerOfTwo::new(seed))
        .follows(
            Origin::new(
                "Mitzenmacher, The power of two choices in randomized load balancing",
                "the rule; equals as in NVIDIA Dynamo 1.6",
            )
            .version("IEEE TPDS 12 (10)", "2001"),
        )
        .can_leave_out()
        .shared()
}

/// The less loaded of two different workers drawn uniformly, by requests in
/// flight; the first drawn if they are equal.
///
/// Source: Mitzenmacher, "The power of two choices in randomized load
/// balancing", 2001; the tie rule is Dynamo 1.6's.
#[derive(Debug)]
pub struct PowerOfTwo {
    draws: Stream,
}

impl PowerOfTwo {
    /// With `seed` for all draws.
    pub fn new(seed: u64) -> Self {
        Self { draws: rng::stream(seed, Use::Policy, 0, 0) }
    }
}

impl Policy for PowerOfTwo {
    fn route(&mut self, _: SimTime, _: &RouteRequest<'_>, view: &ClusterView<'_>) -> Verdict {
        let (first, second) = two_of(view.available_count(), &mut self.draws);
        let first = view.nth_available(first);
        let Some(second) = second.map(|at| view.nth_available(at)) else {
            return Verdict::send(first);
        };
        let inflight = |worker: WorkerId| view.workers[worker.index()].inflight;
        Verdict::send(if inflight(second) < inflight(first) { second } else { first })
    }

    /// Of all workers; only two are drawn and compared.
    fn explain(&self, _: &RouteRequest<'_>, view: &ClusterView<'_>) -> Vec<CostParts> {
        let cost = |(at, inflight): (usize, u32)| CostParts {
            worker: WorkerId::at(at),
            cost: f64::from(inflight),
            parts: vec![("inflight", f64::from(inflight))],
        };
        view.workers.iter().map(|worker| worker.inflight).enumerate().map(cost).collect()
    }
}
