use crate::id::WorkerId;
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
        .shared()
}

/// Workers in turn, in order of id, from worker 0.
///
/// Dynamo's round robin: one counter per front end, taken modulo the number of
/// workers, blind to load. Dynamo's order of workers is that of a hash map,
/// fixed while the membership is; order of id stands for it. A worker that is not
/// available is passed over.
#[derive(Debug, Default)]
pub struct RoundRobin {
    next: usize,
}

impl Policy for RoundRobin {
    fn route(&mut self, _: SimTime, _: &RouteRequest<'_>, view: &ClusterView<'_>) -> Verdict {
        let workers = view.workers.len();
        let mut turns = (self.next..self.next + workers).map(|turn| turn % workers);
        let worker = turns.find(|&at| view.workers[at].available);
        let worker = worker.expect("a worker is available");
        self.next = worker + 1;
        Verdict::send(WorkerId::at(worker))
    }
}
