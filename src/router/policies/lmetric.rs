use super::weighed::{Rule, Weighed};
use crate::id::WorkerId;
use crate::request::RouteRequest;
use crate::router::ClusterView;
use crate::router::factory::{Origin, PolicyFactory, Registration};
use crate::router::kv::WorkerLoad;
use crate::router::parameters::NoParameters;
use std::sync::Arc;

/// See `LMetric`.
pub fn policy() -> Arc<dyn PolicyFactory> {
    let rule = "the fewest prompt tokens to compute, times requests in flight with this one";
    Registration::new("lmetric", rule, |_: &NoParameters, cluster, seed| {
        Weighed::<LMetric>::new(NoParameters {}, cluster, seed)
    })
    .follows(
        Origin::new("LMetric", "scorer/lmetric/lmetric.go of llm-d-router")
            .version("1fee9c8", "2026-08")
            .without("speculative entries of the index; a normalised score, which orders alike"),
    )
    .shared()
}

/// LMetric: the product of two numbers that need no weight between them.
///
/// New prompt tokens of the request on a worker, at least one, since engines compute the last
/// token always, times the requests that would be in flight there.
#[derive(Debug)]
struct LMetric;

impl Rule for LMetric {
    type Params = NoParameters;

    fn new(_: NoParameters, _: u32) -> Self {
        Self
    }

    fn set(&mut self, _: NoParameters) {}

    // A product is a sum of logarithms.
    fn own(&self, load: &WorkerLoad) -> f64 {
        (f64::from(load.requests) + 1.0).ln()
    }

    fn asked(&self, request: &RouteRequest<'_>, _: &ClusterView<'_>, held_tokens: u64) -> f64 {
        new_tokens(request, held_tokens).ln()
    }

    fn cost(
        &self,
        request: &RouteRequest<'_>,
        _: &ClusterView<'_>,
        (_, load): (WorkerId, &WorkerLoad),
        held_tokens: u64,
    ) -> (f64, u32) {
        // Of the exact product, so that equal products are equal.
        let product = new_tokens(request, held_tokens) * (f64::from(load.requests) + 1.0);
        (product.ln(), 0)
    }
}

fn new_tokens(request: &RouteRequest<'_>, held_tokens: u64) -> f64 {
    u64::from(request.prompt_tokens).saturating_sub(held_tokens).max(1) as f64
}
