use crate::router::external::{External, ExternalParams};
use crate::router::factory::{PolicyFactory, Registration};
use std::sync::Arc;

/// See [`External`].
pub fn policy() -> Arc<dyn PolicyFactory> {
    let rule = "a router of your own, in any language: a process that is asked in simulated time";
    Registration::new("external", rule, |params: &ExternalParams, cluster, seed| {
        External::new(params, cluster, seed)
    })
    .targets_ranks()
    .can_leave_out()
    .shared()
}
