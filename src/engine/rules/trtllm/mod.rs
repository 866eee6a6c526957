//! TensorRT-LLM's PyTorch backend around 1.3.0rc1: rules T1-T42 of docs/engine-rules.md.

mod cache;
mod scheduler;

pub use cache::TrtllmCache;
pub(in crate::engine) use scheduler::TrtllmScheduler;

use super::engine::{Defaults, Engine, Limits, Spread};
use crate::engine::balance::AttentionDpConfig;
use crate::engine::memory::Budget;
use crate::engine::shape::Shape;
use crate::kv::Offload;
use crate::settings::Invalid;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// When TensorRT-LLM offers a chunked prompt's blocks for reuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StoreContext {
    /// After its first chunk, blocks still to be computed included: what the engine does.
    FirstChunk,
    /// After its last chunk: what the engine means to do, and later versions do.
    LastChunk,
}

/// Options of TensorRT-LLM's rules; `[engine.trtllm]` of settings. The defaults are
/// those of version 1.3.0rc1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TrtllmOptions {
    /// The tokens that a prompt shares with the start of a cached block are reused too.
    pub partial_reuse: bool,
    /// A request waits while another computes the first block that it misses.
    pub duplicate_delay: bool,
    /// When a chunked prompt's blocks are offered for reuse.
    pub store_context: StoreContext,
    /// Cached prompt tokens count against the step's token budget.
    pub count_cached_in_budget: bool,
    /// Admission reserves no blocks that other requests hold and this one will share
    /// (versions after 1.3.0rc1).
    pub reserve_net_of_reuse: bool,
    /// Whether ranks wait for each other's prompts.
    pub attention_dp_config: AttentionDpConfig,
}

impl Default for TrtllmOptions {
    fn default() -> Self {
        Self {
            partial_reuse: true,
            duplicate_delay: true,
            store_context: StoreContext::FirstChunk,
            count_cached_in_budget: true,
            reserve_net_of_reuse: false,
            attention_dp_config: AttentionDpConfig::default(),
        }
    }
}

impl Engine for TrtllmOptions {
    type Keys = Self;

    const DEFAULTS: Defaults = Defaults {
        // `tokens_per_block`.
        block_size: 32,
        overlap: true,
        offload: Offload::Evicted,
        graph_padding: false,
        graph_sizes,
        lowers_model_len: true,
        hands_over_kv: false,
        keeps_layers_apart: false,
        spread: Spread::EvenTokens,
        // 8-bit checkpoints for it bring scales for the cache (assumed of all).
        kv_as_weights: true,
        takes_blocks: |tokens| {
            (tokens.is_power_of_two(), "32 or another power of two under TensorRT-LLM's rules")
        },
    };

    fn resolve(settings: &Self, _: u32, _: Option<&Shape>) -> Result<Self, Invalid> {
        Ok(*settings)
    }

    /// `free_gpu_memory_fraction` is a share of what weights and the measured peak leave
    /// free; tokens are rounded down, then up to blocks (T33).
    fn kv_blocks(budget: &Budget, bytes_per_token: f64, block_size: u32) -> f64 {
        let bytes = (budget.total_bytes - budget.taken_bytes()) * budget.fraction;
        ((bytes / bytes_per_token).floor() / f64::from(block_size)).ceil()
    }

    fn attention_dp_config(&self) -> AttentionDpConfig {
        self.attention_dp_config
    }

    /// Prompts are cut at block boundaries: a budget below a block starts none.
    fn validate(&self, limits: Limits) -> Result<(), Invalid> {
        Invalid::unless(
            limits.max_num_batched_tokens >= limits.block_size,
            "max_num_batched_tokens",
            limits.max_num_batched_tokens,
            &format!("at least block_size ({}) under TensorRT-LLM's rules", limits.block_size),
        )
    }
}

/// T31: up to 128, of a PyTorch backend.
fn graph_sizes(padding: bool) -> Vec<u32> {
    if padding {
        [1, 2, 4].into_iter().chain((8..=128).step_by(8)).collect()
    } else {
        (1..=32).chain([64, 128]).collect()
    }
}
