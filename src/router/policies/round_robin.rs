use crate::request::RouteRequest;
use crate::rng::mix;
use crate::router::factory::{Origin, PolicyFactory, Registration};
use crate::router::parameters::NoParameters;
use crate::router::{ClusterSpec, ClusterView, Policy, Verdict};
use crate::time::SimTime;
use std::sync::Arc;

/// See [`RoundRobin`].
pub fn policy() -> Arc<dyn PolicyFactory> {
    let rule = "workers in turn, blind to load";
    Registration::new("round_robin", rule, |_: &NoParameters, cluster: &ClusterSpec, seed| {
        RoundRobin::of(cluster.front_end, seed)
    })
    .follows(
        Origin::new(
            "NVIDIA Dynamo",
            "crate dynamo-runtime, routing_policy/: one counter per front end",
        )
        .version("1.6.1", "2026-11")
        .without("a separate counter for each kind of request"),
    )
    .can_leave_out()
    .shared()
}

/// Workers in turn, in order of id; the first front end from worker 0.
///
/// Dynamo's round robin: one counter per front end, taken modulo the number of
/// workers, blind to load. Dynamo's order of workers is that of a hash map, which differs
/// between front ends and is fixed while the membership is; order of id stands for it, from a
/// worker that each further front end draws. If all began at worker 0, requests that reach the
/// front ends in turn would come to each worker in bursts. Workers that are gone, or
/// left out as they are busy, are not counted, so that turns shift when one comes or goes.
#[derive(Debug, Default)]
pub struct RoundRobin {
    turns: usize,
}

impl RoundRobin {
    /// The policy of this front end, with `seed` for where it begins.
    fn of(front_end: u32, seed: u64) -> Self {
        let drawn = usize::try_from(mix(seed) >> 33).expect("31 bits");
        Self { turns: if front_end == 0 { 0 } else { drawn } }
    }
}

impl Policy for RoundRobin {
    fn route(&mut self, _: SimTime, _: &RouteRequest<'_>, view: &ClusterView<'_>) -> Verdict {
        let worker = view.nth_available(self.turns % view.available_count());
        self.turns += 1;
        Verdict::send(worker)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn front_ends_begin_at_workers_of_their_own() {
        let first = |front_end: u32| RoundRobin::of(front_end, 7 + u64::from(front_end)).turns % 8;
        assert_eq!(first(0), 0);
        let others: BTreeSet<usize> = (0..16).map(first).collect();
        assert!(others.len() > 4, "{others:?}");
        assert_eq!(RoundRobin::of(3, 10).turns, RoundRobin::of(3, 10).turns);
    }
}
