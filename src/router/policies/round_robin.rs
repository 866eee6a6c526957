use super::worker_at;
use crate::request::RouteRequest;
use crate::router::spec::PolicySpec;
use crate::router::{ClusterView, Policy, Verdict};
use crate::time::SimTime;

/// See [`RoundRobin`].
pub const POLICY: PolicySpec =
    PolicySpec::new("round_robin", |_, _, _| Box::new(RoundRobin::default())).blind();

/// Workers in turn, in order of id, from worker 0.
///
/// Dynamo's round robin: one counter per front end, taken modulo the number of
/// workers, blind to load. Dynamo's order of workers is that of a hash map,
/// fixed while the membership is; order of id stands for it.
#[derive(Debug, Default)]
pub struct RoundRobin {
    next: usize,
}

impl Policy for RoundRobin {
    fn route(&mut self, _: SimTime, _: &RouteRequest<'_>, view: &ClusterView<'_>) -> Verdict {
        let worker = self.next % view.workers.len();
        self.next = worker + 1;
        Verdict::Send(worker_at(worker))
    }
}
