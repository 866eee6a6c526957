//! The policies other than Dynamo's KV-aware routing, one small file each.
//!
//! Each states its public source. Where the original depends on the order of a
//! hash map, ours draws from the policy's seed or goes by worker id, and says so.

mod consistent_hash;
mod inference_extension;
mod kv_aware;
mod least_loaded;
mod power_of_two;
mod prefix_aware;
mod random;
mod round_robin;
mod sent;
mod session_affinity;
mod sglang_cache_aware;
mod ttft_estimate;

pub use consistent_hash::{ConsistentHash, HashParams};
pub use inference_extension::{InferenceExtension, ScorerParams};
pub use kv_aware::KvAware;
pub use least_loaded::LeastLoaded;
pub use power_of_two::PowerOfTwo;
pub use prefix_aware::PrefixAware;
pub use random::Random;
pub use round_robin::RoundRobin;
pub use session_affinity::{Affinity, SessionAffinity, SessionParams};
pub use sglang_cache_aware::{CacheAwareParams, SglangCacheAware};
pub use ttft_estimate::TtftEstimate;

use crate::id::WorkerId;

/// The worker at `index` of a list in order of id.
#[expect(clippy::cast_possible_truncation, reason = "worker ids are u32")]
pub(super) fn worker_at(index: usize) -> WorkerId {
    WorkerId(index as u32)
}
