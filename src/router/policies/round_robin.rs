use crate::request::RouteRequest;
use crate::router::factory::{Origin, PolicyFactory, Registration};
use crate::router::parameters::NoParameters;
use crate::router::{ClusterView, Policy, Verdict};
use crate::time::SimTime;
use std::sync::Arc;

/// See [`RoundRobin`].
pub fn policy() -> Arc<dyn PolicyFactory> {
    let rule = "workers in turn, blind to load";
    Registration::new("round_robin", rule, |_: &NoParameters, _, _| RoundRobin::default())
        .follows(
            Origin::new(
                "NVIDIA Dynamo",
                "crate dynamo-runtime, routing_policy/: one counter per front end",
            )
            .version("1.6.1", "2026-11")
            .without("an own counter for each kind of request"),
        )
        .can_leave_out()
        .shared()
}

/// Workers in turn, in order of id, from worker 0.
///
/// Dynamo's round robin: one counter per front end, taken modulo the number of
/// workers, blind to load. Dynamo's order of workers is that of a hash map,
/// fixed while the membership is; order of id stands for it. Workers that are gone, or
/// left out as they are busy, are not counted, so that turns shift when one comes or goes.
#[derive(Debug, Default)]
pub struct RoundRobin {
    turns: usize,
}

impl Policy for RoundRobin {
    fn route(&mut self, _: SimTime, _: &RouteRequest<'_>, view: &ClusterView<'_>) -> Verdict {
        let worker = view.nth_available(self.turns % view.available_count());
        self.turns += 1;
        Verdict::send(worker)
    }
}
