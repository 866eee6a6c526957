//! TensorRT-LLM's PyTorch backend around 1.3.0rc1, and with the scheduler of 1.4: rules T1-T43
//! of docs/engine-rules.md.

mod cache;
mod scheduler;

pub use cache::{Held, TrtllmCache};
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

/// `[engine.trtllm]` of settings. The defaults are those of version 1.3.0rc1, or of 1.4 where
/// `scheduler_config.enable_prefix_aware_scheduling` is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TrtllmSettings {
    /// The tokens that a prompt shares with the start of a cached block are reused too.
    /// Default true.
    pub partial_reuse: Option<bool>,
    /// A request waits while another computes the first block that it misses. Default true.
    pub duplicate_delay: Option<bool>,
    /// When a chunked prompt's blocks are offered for reuse. Default `"first_chunk"`, in 1.4
    /// `"last_chunk"`.
    pub store_context: Option<StoreContext>,
    /// Cached prompt tokens count against the step's token budget. Default true.
    pub count_cached_in_budget: Option<bool>,
    /// Admission reserves no blocks that other requests hold and this one will share.
    /// Default false.
    pub reserve_net_of_reuse: Option<bool>,
    /// The scheduler of 1.4.
    pub scheduler_config: SchedulerConfig,
    /// Whether ranks wait for each other's prompts.
    pub attention_dp_config: AttentionDpConfig,
}

/// `[engine.trtllm.scheduler_config]`: `scheduler_config` of TensorRT-LLM 1.4.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SchedulerConfig {
    /// Admission and token budget go by what the cache is expected to have (T43). On unless
    /// switched off in TensorRT-LLM 1.4, where it replaces three keys: `duplicate_delay`,
    /// `reserve_net_of_reuse` and the reverse of `count_cached_in_budget`. Not given: the
    /// scheduler of 1.3.0rc1, with those keys.
    pub enable_prefix_aware_scheduling: Option<bool>,
}

/// Options of TensorRT-LLM's rules. The defaults are those of version 1.3.0rc1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    /// The prompts of a step take their hits before any of them takes another block (1.4).
    pub claims_first: bool,
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
            claims_first: false,
            attention_dp_config: AttentionDpConfig::default(),
        }
    }
}

impl TrtllmOptions {
    /// The scheduler of 1.4, whose admission and token budget go by the cache or not (T43).
    pub fn of_1_4(prefix_aware: bool) -> Self {
        Self {
            partial_reuse: true,
            duplicate_delay: prefix_aware,
            store_context: StoreContext::LastChunk,
            count_cached_in_budget: !prefix_aware,
            reserve_net_of_reuse: prefix_aware,
            claims_first: true,
            attention_dp_config: AttentionDpConfig::default(),
        }
    }
}

impl Engine for TrtllmOptions {
    type Keys = TrtllmSettings;

    const KEYS: &'static [&'static str] = &["trtllm"];

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
        // `moe_expert_parallel_size` is a number.
        divides_experts_wholly: false,
        // `enable_attention_dp` is a switch.
        ranks_have_one_gpu: true,
        takes_blocks: |tokens| {
            (tokens.is_power_of_two(), "32 or another power of two under TensorRT-LLM's rules")
        },
    };

    fn resolve(settings: &TrtllmSettings, _: u32, _: Option<&Shape>) -> Result<Self, Invalid> {
        let switch = settings.scheduler_config.enable_prefix_aware_scheduling;
        let of_version = switch.map_or_else(Self::default, Self::of_1_4);
        let switched = [
            ("trtllm.duplicate_delay", settings.duplicate_delay, of_version.duplicate_delay),
            (
                "trtllm.count_cached_in_budget",
                settings.count_cached_in_budget,
                of_version.count_cached_in_budget,
            ),
            (
                "trtllm.reserve_net_of_reuse",
                settings.reserve_net_of_reuse,
                of_version.reserve_net_of_reuse,
            ),
        ];
        if let Some(on) = switch {
            for (key, given, decided) in switched {
                Invalid::unless(
                    given.is_none_or(|given| given == decided),
                    key,
                    !decided,
                    &format!(
                        "{decided}, or left out: in TensorRT-LLM 1.4 \
                         trtllm.scheduler_config.enable_prefix_aware_scheduling = {on} decides it"
                    ),
                )?;
            }
        }
        let [duplicate_delay, count_cached_in_budget, reserve_net_of_reuse] =
            switched.map(|(_, given, of_version)| given.unwrap_or(of_version));
        Ok(Self {
            partial_reuse: settings.partial_reuse.unwrap_or(of_version.partial_reuse),
            duplicate_delay,
            store_context: settings.store_context.unwrap_or(of_version.store_context),
            count_cached_in_budget,
            reserve_net_of_reuse,
            claims_first: of_version.claims_first,
            attention_dp_config: settings.attention_dp_config,
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_1_4_decides_is_refused_with_another_value() {
        let settings = |text: &str| -> TrtllmSettings { toml::from_str(text).unwrap() };
        let resolve = |text: &str| TrtllmOptions::resolve(&settings(text), 1, None);
        assert_eq!(resolve(""), Ok(TrtllmOptions::default()));
        let on = "scheduler_config.enable_prefix_aware_scheduling = true\n";
        assert_eq!(resolve(on), Ok(TrtllmOptions::of_1_4(true)));
        assert_eq!(resolve(&on.replace("true", "false")), Ok(TrtllmOptions::of_1_4(false)));
        assert_eq!(resolve(&format!("{on}duplicate_delay = true")), resolve(on));
        let error = resolve(&format!("{on}count_cached_in_budget = true")).expect_err("both");
        assert_eq!(
            error.to_string(),
            "trtllm.count_cached_in_budget = true: must be false, or left out: in TensorRT-LLM 1.4 \
             trtllm.scheduler_config.enable_prefix_aware_scheduling = true decides it"
        );
    }
}
