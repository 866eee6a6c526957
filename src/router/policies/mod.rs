//! The policies, one small file each, and the list of them.
//!
//! Each states its public source. Where the original depends on the order of a
//! hash map, ours draws from the policy's seed or goes by worker id, and says so.
//!
//! A new policy is one file here, with its type, [`Policy::route`](super::Policy::route),
//! its parameters and a function `policy`, and one line below. (`rustfmt` does not
//! follow modules that a macro declares; `.ci/run` names these files to it.)

mod approximate_prefix;
pub(crate) mod epp_config;
mod llmd_index;
mod recent;
mod sent;
mod smg_waits;
mod tree;
mod weighed;

use super::factory::PolicyFactory;
use super::{ClusterView, Policy};
use crate::id::WorkerId;
use crate::request::RouteRequest;
use std::sync::{Arc, LazyLock};

/// A policy that decides in two steps: it chooses one of the workers of the lowest cost
/// that it explains, and books that. So tests can book what an original chose.
pub(crate) trait Books: Policy {
    /// Books `request` on `worker`.
    fn book(&mut self, request: &RouteRequest<'_>, worker: WorkerId);
}

/// Whether loads differ by more than so many requests and by more than a factor.
fn are_imbalanced(view: &ClusterView<'_>, abs_threshold: u32, rel_threshold: f64) -> bool {
    let (least, most) = (view.least_inflight(), view.most_inflight());
    most - least > abs_threshold && f64::from(most) > f64::from(least) * rel_threshold
}

/// Of every worker its requests in flight, and the same as a cost, with the workers
/// outside of `group` behind those in it. Without a group all are in it.
fn inflight_in<'a>(
    view: &'a ClusterView<'_>,
    group: Option<&'a [WorkerId]>,
) -> impl Iterator<Item = (WorkerId, f64, f64)> + 'a {
    let behind = view.workers.iter().map(|worker| worker.inflight).max().unwrap_or(0) + 1;
    view.workers.iter().enumerate().map(move |(at, view)| {
        let worker = WorkerId::at(at);
        let is_in = group.is_none_or(|group| group.contains(&worker));
        let cost = view.inflight + if is_in { 0 } else { behind };
        (worker, f64::from(view.inflight), f64::from(cost))
    })
}

/// Declares the modules and lists their policies.
macro_rules! policies {
    ($($name:ident,)*) => {
        $(
            #[doc = concat!("`router.policy = \"", stringify!($name), "\"`.")]
            pub mod $name;
        )*

        static ALL: LazyLock<Vec<Arc<dyn PolicyFactory>>> =
            LazyLock::new(|| vec![$($name::policy()),*]);
    };
}

policies! {
    round_robin,
    random,
    least_loaded,
    power_of_two,
    session_affinity,
    consistent_hash,
    kv,
    dynamo,
    shadow,
    dynamo_two_tier,
    sglang_cache_aware,
    smg_cache_aware,
    smg_power_of_two,
    inference_extension,
    llmd_token_load,
    llmd,
    lmetric,
    prefix_aware,
    kv_aware,
    stack_load_aware,
    aibrix_prefix_cache,
    ray_prefix_affinity,
    service,
    ttft_estimate,
    oracle,
    external,
}

/// Every policy of this crate, in the order in which messages list them.
pub fn all() -> &'static [Arc<dyn PolicyFactory>] {
    &ALL
}
