//! The parameters of the KV policy.

use super::active::WorkerLoad;
use crate::time::SimDuration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which version's rules hold, where they differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Semantics {
    /// Dynamo 0.9.0: overlap counts all held blocks on the path; equal costs go
    /// to the worker with the smaller index among those with any overlap.
    #[serde(rename = "0.9")]
    V0_9,
    /// dynamo-kv-router 1.6.1: overlap is a contiguous prefix; equal costs are
    /// drawn uniformly.
    #[default]
    #[serde(rename = "1.6")]
    V1_6,
}

/// What the parameters of the KV policy come to; keys and defaults are those of
/// [`KvSettings`](crate::router::policies::kv::KvSettings).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KvParams {
    /// Which version's rules hold.
    pub semantics: Semantics,
    /// Blocks taken off the prefill term per cached block.
    pub overlap_score_credit: f64,
    /// Weight of the prefill term.
    pub prefill_load_scale: f64,
    /// How fast the credit shrinks with prefill in flight above the minimum.
    pub overlap_score_credit_decay: f64,
    /// Blocks per request in flight.
    pub decode_active_request_weight: f64,
    /// Worth of a block in host memory, of one in GPU memory.
    pub host_cache_hit_weight: f64,
    /// Worth of a block on disk or in remote storage.
    pub disk_cache_hit_weight: f64,
    /// 0 takes the lowest cost; above, a softmax draw.
    pub temperature: f64,
    /// Whether blocks in flight are counted.
    pub track_active_blocks: bool,
    /// Whether prompt tokens in flight are counted.
    pub track_prefill_tokens: bool,
    /// Whether requests in flight share blocks.
    pub assume_kv_reuse: bool,
    /// Whether generated tokens are counted, too.
    pub track_output_blocks: bool,
    /// Output tokens that clients announce, if they announce any.
    pub expected_output_tokens: Option<u32>,
    /// When a worker is too busy for more.
    pub overload: Overload,
    /// Without KV events: how long the router believes in what it sent.
    pub approximate: Option<Retention>,
}

/// When a worker counts as overloaded, by what the router has in flight there;
/// a threshold that is not set is never passed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Overload {
    /// Above this share of the worker's KV pool in blocks in flight, 0 to 1.
    pub active_decode_blocks: Option<f64>,
    /// Above so many prompt tokens in flight.
    pub active_prefill_tokens: Option<u32>,
}

impl Overload {
    /// True if anything can be overloaded.
    pub(in crate::router) fn is_on(&self) -> bool {
        self.active_decode_blocks.is_some() || self.active_prefill_tokens.is_some()
    }

    /// True if `load` is too much for a pool of `pool_blocks`.
    pub(in crate::router) fn holds(&self, load: &WorkerLoad, pool_blocks: u32) -> bool {
        let tokens = self.active_prefill_tokens;
        let blocks = self.active_decode_blocks;
        tokens.is_some_and(|most| load.prefill_tokens > u64::from(most))
            || blocks
                .is_some_and(|share| load.active_blocks as f64 > share * f64::from(pool_blocks))
    }
}

/// How long the router believes that a worker holds what was sent there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Retention {
    /// So long after it was sent last.
    pub ttl: SimDuration,
    /// (0.9) Blocks of all workers above which the oldest are forgotten.
    pub max_blocks: u32,
    /// (0.9) Share of `max_blocks` that is left then, 0 to 1.
    pub prune_target_ratio: f64,
}

impl Default for Retention {
    /// Dynamo's (`PruneConfig` of 0.9.0; 1.6 has the first only).
    fn default() -> Self {
        Self { ttl: SimDuration::from_secs(120), max_blocks: 1 << 20, prune_target_ratio: 0.8 }
    }
}

impl KvParams {
    /// Dynamo's defaults with `weight` for 0.9's `overlap_score_weight`, which
    /// 1.6 reads as the prefill scale, without credit if it is 0.
    pub fn with_weight(semantics: Semantics, weight: f64) -> Self {
        Self {
            semantics,
            overlap_score_credit: if weight > 0.0 { 1.0 } else { 0.0 },
            prefill_load_scale: weight,
            overlap_score_credit_decay: 0.0,
            decode_active_request_weight: 0.0,
            host_cache_hit_weight: 0.75,
            disk_cache_hit_weight: 0.25,
            temperature: 0.0,
            track_active_blocks: true,
            track_prefill_tokens: true,
            assume_kv_reuse: true,
            track_output_blocks: false,
            expected_output_tokens: None,
            overload: Overload::default(),
            approximate: None,
        }
    }

    /// False if no cost depends on what is cached, so that no index is kept.
    pub(in crate::router) fn needs_index(&self) -> bool {
        let prefill_counts = self.prefill_load_scale > 0.0 || !self.track_prefill_tokens;
        self.overlap_score_credit > 0.0 && prefill_counts
    }
}
