//! The configuration that a worker runs with: resolved and validated, see
//! [`settings`](crate::engine::settings) for how people write it.

pub use crate::engine::balance::AttentionDpConfig;
use crate::engine::hardware::MAX_ATTENTION_DP;
use crate::engine::rules::Limits;
pub use crate::engine::rules::trtllm::StoreContext;
pub use crate::engine::rules::{LayerGroups, Rules, RulesName, TrtllmOptions, VllmOptions};
pub use crate::engine::shared_kv::SharedKv;
use crate::engine::step_time::StepTime;
pub use crate::engine::tiers::TierOptions;
use crate::settings::Invalid;
use crate::time::SimDuration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Most sequences in a batch: 16 times what any engine ships with, so that
/// tables indexed by batch size stay small.
pub const MAX_NUM_SEQS: u32 = 65_536;
/// Most blocks in a pool: 268 million tokens at 16 a block, some forty times what
/// eight GPUs hold of Llama-3.1-70B (assumed to be enough). Caches have an entry
/// for each.
pub const MAX_NUM_BLOCKS: u32 = 1 << 24;
/// Most tokens in a block (assumed: hundreds of times any engine's). All tokens of
/// a pool stay far below 2^64.
pub const MAX_BLOCK_SIZE: u32 = 65_536;

/// `Err` unless `value` lies between 1 and `max`.
pub(crate) fn bounded(key: &str, value: u32, max: u32) -> Result<(), Invalid> {
    Invalid::unless((1..=max).contains(&value), key, value, &format!("between 1 and {max}"))
}

/// Seconds of the longest step: a day or more is a slip of units, and on the
/// slowest worker (see [`Pace`](super::Pace)) would run the clock over.
pub(crate) const LONGEST_STEP_S: f64 = 86_400.0;

/// A validated engine configuration: everything a worker needs to know.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineConfig {
    /// Whose scheduling rules, and the options that only that engine has.
    pub rules: Rules,
    /// Tokens in a KV block.
    pub block_size: u32,
    /// KV blocks that requests can use (vLLM's null block is not counted).
    pub num_blocks: u32,
    /// Sequences that run at once (TensorRT-LLM: `max_batch_size`).
    pub max_num_seqs: u32,
    /// Tokens computed in one step (TensorRT-LLM: `max_num_tokens`).
    pub max_num_batched_tokens: u32,
    /// Longest prompt plus answer, in tokens (TensorRT-LLM: `max_seq_len`).
    pub max_model_len: u32,
    /// A prompt may be computed over several steps.
    pub chunked_prefill: bool,
    /// Full blocks are kept for reuse by later requests.
    pub prefix_caching: bool,
    /// The host prepares the next step while this one runs (vLLM: async
    /// scheduling; TensorRT-LLM: overlap scheduler).
    pub overlap: bool,
    /// Jump over steps in which nothing can be seen from outside; `false` runs
    /// every step and gives the same results, slower.
    pub fast_forward: bool,
    /// How long a step takes on the GPU.
    pub step_time: StepTime,
    /// How long a step takes on the host.
    pub host: HostTime,
    /// Which steps are launched as one captured graph.
    pub cuda_graph: CudaGraph,
    /// KV memory below the GPU's.
    pub tiers: TierOptions,
    /// Bytes that one token of KV takes on all GPUs of a rank together; what moves
    /// KV needs it.
    pub kv_bytes_per_token: Option<f64>,
    /// Cost of reading KV that several sequences share. Default: the same as other KV.
    pub shared_kv: Option<SharedKv>,
    /// Ranks of a worker, with sequences and KV of their own (vLLM:
    /// `data_parallel_size`). Limits and pool are those of one of them.
    pub attention_dp: u32,
}

/// Host time of a step; `[engine.host]` of settings, where every key defaults to no
/// time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HostTime {
    /// Before anything of the step can run on the GPU.
    pub prepare: SimDuration,
    /// Launching a captured graph.
    pub launch: SimDuration,
    /// Launching an eager step, kernel by kernel, while the GPU already works on it.
    pub eager_launch: SimDuration,
    /// Added to `prepare` for each sequence of the step.
    pub per_seq: SimDuration,
}

/// CUDA graphs: batch sizes whose decode step was captured and is launched at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CudaGraph {
    /// Captured batch sizes, ascending, none above `max_num_seqs`; empty: every step is eager.
    pub sizes: Vec<u32>,
    /// A batch between two sizes runs as the next larger one.
    pub padding: bool,
    /// Steps with prompt tokens are launched as fast as captured ones, at their own size.
    pub mixed: bool,
}

impl EngineConfig {
    /// Refuses what no engine would start with, or could only hang with.
    ///
    /// # Errors
    /// Names the first key, relative to `[engine]`, whose value cannot be used.
    pub fn validate(&self) -> Result<(), Invalid> {
        bounded("block_size", self.block_size, MAX_BLOCK_SIZE)?;
        bounded("num_blocks", self.num_blocks, MAX_NUM_BLOCKS)?;
        bounded("max_num_seqs", self.max_num_seqs, MAX_NUM_SEQS)?;
        bounded("max_num_batched_tokens", self.max_num_batched_tokens, u32::MAX)?;
        bounded("max_model_len", self.max_model_len, u32::MAX)?;
        let shared_kv = self.shared_kv.as_ref().map_or(Ok(()), SharedKv::validate);
        shared_kv.map_err(|invalid| invalid.within("shared_kv"))?;
        bounded("attention_dp", self.attention_dp, MAX_ATTENTION_DP)?;
        Invalid::unless(
            self.max_num_batched_tokens >= self.max_num_seqs,
            "max_num_batched_tokens",
            self.max_num_batched_tokens,
            &format!(
                "at least max_num_seqs ({}): every running sequence decodes a token in each step",
                self.max_num_seqs
            ),
        )?;
        Invalid::unless(
            self.chunked_prefill || self.max_num_batched_tokens >= self.max_model_len,
            "max_num_batched_tokens",
            self.max_num_batched_tokens,
            &format!(
                "at least max_model_len ({}) without chunked_prefill: a prompt must fit into one \
                 step; or set chunked_prefill = true",
                self.max_model_len
            ),
        )?;
        self.rules.validate(Limits {
            block_size: self.block_size,
            num_blocks: self.num_blocks,
            max_num_batched_tokens: self.max_num_batched_tokens,
            has_tiers: !self.tiers.tiers.is_empty(),
        })?;
        Invalid::unless(
            self.blocks_for(self.max_model_len) <= u64::from(self.num_blocks),
            "max_model_len",
            self.max_model_len,
            &format!(
                "at most what the KV pool holds: {} blocks of {} = {} tokens; lower it or raise \
                 num_blocks",
                self.num_blocks,
                self.block_size,
                self.pool_tokens()
            ),
        )?;
        let tokens = self.max_num_batched_tokens.saturating_mul(self.attention_dp);
        let longest_s = self.step_time.longest_s(
            self.max_num_seqs,
            self.max_num_batched_tokens,
            self.max_model_len,
        ) + self.step_time.together(tokens).as_secs();
        Invalid::unless(
            longest_s < LONGEST_STEP_S,
            "step_time",
            format!("{longest_s:.0} s for the longest step"),
            "below a day: check times given, and the hardware's peaks and ratios",
        )?;
        let host = self.host;
        let host_s = (host.prepare + host.launch + host.eager_launch).as_secs()
            + host.per_seq.as_secs() * f64::from(self.max_num_seqs);
        Invalid::unless(
            host_s < LONGEST_STEP_S,
            "host",
            format!("{host_s:.0} s for the longest step"),
            "below a day",
        )
    }

    /// Tokens that the KV pool holds, where groups of layers keep KV apart in sequences of
    /// `max_model_len`: of a window it holds little.
    pub fn pool_tokens(&self) -> u64 {
        let num_blocks = u64::from(self.num_blocks);
        match self.rules.layer_groups() {
            None => num_blocks * u64::from(self.block_size),
            Some(_) => {
                num_blocks * u64::from(self.max_model_len) / self.blocks_for(self.max_model_len)
            }
        }
    }

    /// Most blocks that a sequence of `tokens` tokens holds at once.
    pub(crate) fn blocks_for(&self, tokens: u32) -> u64 {
        match self.rules.layer_groups() {
            None => u64::from(tokens.div_ceil(self.block_size)),
            Some(groups) => groups.blocks(tokens, self.window_cap(groups), self.block_size),
        }
    }

    /// Most blocks that a group of layers with a window holds of a sequence.
    pub(crate) fn window_cap(&self, groups: &LayerGroups) -> u32 {
        // With overlap the results of two steps may not be handled yet.
        let in_flight = self.max_num_batched_tokens.saturating_mul(1 + u32::from(self.overlap));
        groups.window_cap(in_flight, self.max_model_len, self.block_size)
    }

    /// The captured batch size that a step of `seqs` sequences runs at, or
    /// `None` if it runs eagerly.
    ///
    /// Without padding only the exact sizes are captured: this is why
    /// TensorRT-LLM's batches of 33 to 63 are launched kernel by kernel.
    pub fn graph_seqs(&self, seqs: u32, has_prefill: bool) -> Option<u32> {
        self.cuda_graph.seqs(seqs, has_prefill)
    }

    /// Host time of a step of `seqs` sequences: before the GPU can start, and
    /// launching it.
    pub fn host_time(&self, seqs: u32, has_prefill: bool) -> (SimDuration, SimDuration) {
        let prepare = self.host.prepare + self.host.per_seq * u64::from(seqs);
        let launch = match self.graph_seqs(seqs, has_prefill) {
            Some(_) => self.host.launch,
            None => self.host.eager_launch,
        };
        (prepare, launch)
    }
}

impl CudaGraph {
    /// See [`EngineConfig::graph_seqs`].
    pub fn seqs(&self, seqs: u32, has_prefill: bool) -> Option<u32> {
        if has_prefill {
            return self.mixed.then_some(seqs);
        }
        let next = self.sizes.partition_point(|&size| size < seqs);
        let size = *self.sizes.get(next)?;
        (self.padding || size == seqs).then_some(size)
    }
}
