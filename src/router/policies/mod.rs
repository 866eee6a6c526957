//! The policies, one small file each, and the list of them.
//!
//! Each states its public source. Where the original depends on the order of a
//! hash map, ours draws from the policy's seed or goes by worker id, and says so.
//!
//! A new policy is one file here, with its type, [`Policy::route`](super::Policy::route),
//! its parameters and a function `policy`, and one line below. (`rustfmt` does not
//! follow modules that a macro declares; `.ci/run` names these files to it.)

mod approximate_prefix;
mod recent;
mod sent;

use super::Policy;
use super::factory::PolicyFactory;
use crate::id::WorkerId;
use crate::request::RouteRequest;
use std::sync::{Arc, LazyLock};

/// A policy that decides in two steps: it chooses one of the workers of the lowest cost
/// that it explains, and books that. So tests can book what an original chose.
pub(crate) trait Books: Policy {
    /// Books `request` on `worker`.
    fn book(&mut self, request: &RouteRequest<'_>, worker: WorkerId);
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
    inference_extension,
    prefix_aware,
    kv_aware,
    ttft_estimate,
    oracle,
}

/// Every policy of this crate, in the order in which messages list them.
pub fn all() -> &'static [Arc<dyn PolicyFactory>] {
    &ALL
}
