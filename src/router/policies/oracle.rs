use crate::id::WorkerId;
use crate::request::RouteRequest;
use crate::rng::{self, Stream, Use};
use crate::router::factory::{PolicyFactory, Registration};
use crate::router::parameters::NoParameters;
use crate::router::select::Ties;
use crate::router::{ClusterView, CostParts, Policy, Verdict};
use crate::time::SimTime;
use crate::truth::WorkerTruth;
use std::cmp::Reverse;
use std::sync::Arc;

/// See [`Oracle`].
pub fn policy() -> Arc<dyn PolicyFactory> {
    let rule = "the shortest true time to first token: no router, but a bound";
    Registration::new("oracle", rule, |_: &NoParameters, _, seed| Oracle::new(seed))
        .targets_ranks()
        .shared()
}

/// The worker with the lowest true time to first token; then the one that holds
/// most of the prompt, then the one with the fewest requests, then a draw.
///
/// No router can do this: it sees every cache and queue as they are, and how
/// long answers will be. It is a bound for what better knowledge could give, not
/// an optimum: it serves each request as soon as possible, whatever that costs
/// the next. Where a fleet cannot show its true state it goes by requests in flight.
#[derive(Debug)]
pub struct Oracle {
    seen: Vec<WorkerTruth>,
    draws: Stream,
}

impl Oracle {
    /// With `seed` for the draws among equals.
    pub fn new(seed: u64) -> Self {
        Self { seen: Vec::new(), draws: rng::stream(seed, Use::Policy, 0, 0) }
    }
}

impl Policy for Oracle {
    fn route(&mut self, _: SimTime, _: &RouteRequest<'_>, view: &ClusterView<'_>) -> Verdict {
        let seen = std::mem::take(&mut self.seen);
        let mut soonest = Ties::default();
        for (at, worker) in view.available() {
            let truth = seen.get(at).copied().unwrap_or_default();
            let most_cached = Reverse(truth.cached_blocks);
            let key = (truth.ttft, most_cached, truth.running + truth.waiting, worker.inflight);
            soonest.offer(at, key, &mut self.draws);
        }
        Verdict::send(WorkerId::at(soonest.chosen()))
    }

    fn wants_truth(&self) -> bool {
        true
    }

    fn observe_truth(&mut self, workers: Vec<WorkerTruth>) {
        self.seen = workers;
    }

    fn explain(&self, _: &RouteRequest<'_>, _: &ClusterView<'_>) -> Vec<CostParts> {
        let parts = |(at, truth): (usize, &WorkerTruth)| CostParts {
            worker: WorkerId::at(at),
            cost: truth.ttft.as_millis(),
            parts: vec![
                ("cached_blocks", f64::from(truth.cached_blocks)),
                ("prefill_tokens", truth.prefill_tokens as f64),
                ("running", f64::from(truth.running)),
                ("waiting", f64::from(truth.waiting)),
            ],
        };
        self.seen.iter().enumerate().map(parts).collect()
    }
}
