//! What settings, memory and fleets must know of an engine before a worker runs.

use super::LayerGroups;
use crate::engine::balance::AttentionDpConfig;
use crate::engine::memory::Budget;
use crate::engine::shape::Shape;
use crate::kv::Offload;
use crate::settings::Invalid;
use std::fmt::Debug;

/// An engine, as far as it is settled before a worker runs: implemented by its options.
///
/// Engines differ in what they do unless told otherwise ([`Defaults`]: data, of which
/// versions of one engine may have several), in options of their own, in what they make
/// of a GPU's memory, and in the rules by which they schedule (the other half of the
/// seam, `scheduler::Scheduler`).
pub trait Engine: Clone + Debug + PartialEq {
    /// The keys of `[engine]` that only this engine has.
    type Keys;

    /// Their names.
    const KEYS: &'static [&'static str];

    /// What it does unless told otherwise.
    const DEFAULTS: Defaults;

    /// The options that `settings` ask for, with a pool of `num_blocks` for a network of
    /// `shape`, if one is given.
    ///
    /// # Errors
    /// Names the first key, relative to `[engine]`, whose value cannot be used.
    fn resolve(
        settings: &Self::Keys,
        num_blocks: u32,
        shape: Option<&Shape>,
    ) -> Result<Self, Invalid>;

    /// The share of a network's layers that has KV in one block: all of them, unless groups
    /// of layers keep KV apart.
    fn block_share(_settings: &Self::Keys, _shape: &Shape) -> f64 {
        1.0
    }

    /// KV blocks that requests can use, where a token takes `bytes_per_token` on each
    /// GPU: a whole number, not positive if there is no room.
    fn kv_blocks(budget: &Budget, bytes_per_token: f64, block_size: u32) -> f64;

    /// Groups of layers that keep KV apart, if they do.
    fn layer_groups(&self) -> Option<&LayerGroups> {
        None
    }

    /// Whether its ranks wait for each other's prompts.
    fn attention_dp_config(&self) -> AttentionDpConfig {
        AttentionDpConfig::default()
    }

    /// Refuses limits with which the engine would not start, or could only hang.
    ///
    /// # Errors
    /// Names the first key, relative to `[engine]`, whose value cannot be used.
    fn validate(&self, limits: Limits) -> Result<(), Invalid>;
}

/// What an engine does unless told otherwise.
#[derive(Clone, Copy, Debug)]
pub struct Defaults {
    /// Tokens in a KV block.
    pub block_size: u32,
    /// The host prepares the next step while this one runs.
    pub overlap: bool,
    /// When blocks enter the tiers below GPU memory.
    pub offload: Offload,
    /// A batch between two captured sizes runs as the next larger one.
    pub graph_padding: bool,
    /// The batch sizes that are captured, with padding or without.
    pub graph_sizes: fn(padding: bool) -> Vec<u32>,
    /// A `max_model_len` above what the pool holds is lowered to that; otherwise the
    /// engine does not start.
    pub lowers_model_len: bool,
    /// Its workers can prefill for others and decode for others, as far as that is modelled.
    pub hands_over_kv: bool,
    /// Groups of layers keep KV apart, where some layers have a window.
    pub keeps_layers_apart: bool,
    /// How it spreads requests over ranks, where no router names one.
    pub spread: Spread,
    /// The number format of the KV cache is that of the weights; otherwise 16 bit.
    pub kv_as_weights: bool,
    /// Experts are divided among all GPUs of a worker or among none.
    pub divides_experts_wholly: bool,
    /// With attention data parallelism every GPU is a rank.
    pub ranks_have_one_gpu: bool,
    /// Whether it starts with blocks of so many tokens, and with which it does.
    pub takes_blocks: fn(tokens: u32) -> (bool, &'static str),
}

/// How an engine chooses a rank for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// The first with the least of 4 x waiting + running.
    ///
    /// Source: vLLM's balancer for data parallelism (`DPLBAsyncMPClient` in
    /// `v1/engine/core_client.py`). It counts what it sent as waiting until the ranks report
    /// again, every 100 ms at most; here ranks are known as they are (assumed).
    LeastLoaded,
    /// Of those with fewer requests than the fullest, or than all would have if they were
    /// even, the first with the fewest prompt tokens.
    ///
    /// Source: TensorRT-LLM's `ExecutorRequestQueue` (T42). It hands out what came since the
    /// last step together, and only as many requests as have places; here each goes to a
    /// rank as it comes, and waits there (assumed).
    EvenTokens,
}

/// The sizes that bound a step.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Tokens in a KV block.
    pub block_size: u32,
    /// KV blocks that requests can use.
    pub num_blocks: u32,
    /// Tokens computed in one step.
    pub max_num_batched_tokens: u32,
    /// There is KV memory below the GPU's.
    pub has_tiers: bool,
}
