//! vLLM (V1): rules R1-R19 of docs/engine-rules.md.

mod cache;
mod groups;
mod scheduler;

pub use cache::{Held, Hits, VllmCache};
pub use groups::LayerGroups;
pub(in crate::engine) use scheduler::VllmScheduler;

use super::engine::{Defaults, Engine, Limits, Spread};
use crate::engine::memory::Budget;
use crate::engine::shape::Shape;
use crate::kv::Offload;
use crate::settings::Invalid;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The keys of `[engine]` that only vLLM has.
#[derive(Clone, Copy, Debug, Default)]
pub struct VllmSettings {
    /// Which requests go first. Default `"fcfs"`.
    pub scheduling_policy: Option<SchedulingPolicy>,
    /// Share of the pool that admission leaves free. Default 0, as in vLLM.
    pub watermark: Option<f64>,
    /// Admission asks for blocks for the whole prompt. Default true.
    pub scheduler_reserve_full_isl: Option<bool>,
    /// Most tokens of a prompt in a step, unless nothing else is there. Default 0: no limit.
    pub long_prefill_token_threshold: Option<u32>,
    /// Groups of layers keep KV apart, where some have a window. Default true.
    pub hybrid_kv_cache: Option<bool>,
    /// Which blocks of windows can be hit. Default `"boundaries"`.
    pub prefix_cache_retention: Option<Retention>,
}

/// Which requests go first (`--scheduling-policy` of vLLM).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SchedulingPolicy {
    /// Those that came first.
    #[default]
    Fcfs,
    /// Those of the lowest [priority](crate::request::Request::priority), of these the first
    /// that came; the last in this order is preempted.
    Priority,
}

/// Which full blocks of layers with a window can be hit
/// (`prefix_cache_retention_interval` of vLLM).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Retention {
    /// All: no interval.
    Dense,
    /// Those before the end of a prompt, and of what it shares with others: interval 0.
    Boundaries,
}

impl VllmSettings {
    fn layer_groups(&self, shape: &Shape) -> Option<(LayerGroups, u32)> {
        let dense = self.prefix_cache_retention == Some(Retention::Dense);
        let apart = self.hybrid_kv_cache.unwrap_or(true);
        if apart { LayerGroups::of(shape, dense) } else { None }
    }
}

/// Options of vLLM's rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VllmOptions {
    /// Blocks that admission leaves free while something runs.
    pub watermark_blocks: u32,
    /// Admission asks for blocks for the first chunk of a prompt only, not for the whole of
    /// it (`scheduler_reserve_full_isl` off).
    pub admits_by_chunk: bool,
    /// Most tokens of a prompt in a step, unless nothing else is there; 0: no such limit
    /// (`long_prefill_token_threshold`).
    pub long_prefill_tokens: u32,
    /// Groups of layers, where these keep KV apart.
    pub groups: Option<LayerGroups>,
    /// Which requests go first.
    pub policy: SchedulingPolicy,
}

impl Engine for VllmOptions {
    type Keys = VllmSettings;

    const KEYS: &'static [&'static str] = &[
        "scheduling_policy",
        "watermark",
        "scheduler_reserve_full_isl",
        "long_prefill_token_threshold",
        "hybrid_kv_cache",
        "prefix_cache_retention",
    ];

    const DEFAULTS: Defaults = Defaults {
        // `block_size` on NVIDIA GPUs.
        block_size: 16,
        // It became the default only in later versions.
        overlap: false,
        offload: Offload::Computed,
        graph_padding: true,
        graph_sizes,
        lowers_model_len: false,
        hands_over_kv: true,
        keeps_layers_apart: true,
        spread: Spread::LeastLoaded,
        // In the network's own type.
        kv_as_weights: false,
        // `enable_expert_parallel` is a switch.
        divides_experts_wholly: true,
        ranks_have_one_gpu: false,
        takes_blocks: |tokens| {
            (
                tokens.is_power_of_two() || tokens.is_multiple_of(16),
                "16, 32, 64, 128 or what else an attention backend of vLLM takes: a power of two or a \
                 multiple of 16",
            )
        },
    };

    fn resolve(
        settings: &VllmSettings,
        num_blocks: u32,
        shape: Option<&Shape>,
    ) -> Result<Self, Invalid> {
        let watermark = settings.watermark.unwrap_or(0.0);
        Invalid::unless(
            (0.0..1.0).contains(&watermark),
            "watermark",
            watermark,
            "at least 0 and below 1",
        )?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "rounds down, as vLLM does; a share of a u32 fits"
        )]
        let watermark_blocks = (watermark * f64::from(num_blocks)) as u32;
        Ok(Self {
            watermark_blocks,
            admits_by_chunk: settings.scheduler_reserve_full_isl == Some(false),
            long_prefill_tokens: settings.long_prefill_token_threshold.unwrap_or(0),
            groups: shape.and_then(|shape| settings.layer_groups(shape)).map(|(groups, _)| groups),
            policy: settings.scheduling_policy.unwrap_or_default(),
        })
    }

    fn block_share(settings: &VllmSettings, shape: &Shape) -> f64 {
        settings
            .layer_groups(shape)
            .map_or(1.0, |(_, layers)| f64::from(layers) / f64::from(shape.layers))
    }

    /// `gpu_memory_utilization` is a share of the whole GPU, out of which weights and
    /// activations are paid as well; the rest is rounded down to blocks, and one of them
    /// is kept as the null block.
    fn kv_blocks(budget: &Budget, bytes_per_token: f64, block_size: u32) -> f64 {
        let bytes = budget.total_bytes * budget.fraction - budget.taken_bytes();
        (bytes / (bytes_per_token * f64::from(block_size))).floor() - 1.0
    }

    fn layer_groups(&self) -> Option<&LayerGroups> {
        self.groups.as_ref()
    }

    fn validate(&self, limits: Limits) -> Result<(), Invalid> {
        Invalid::unless(
            self.watermark_blocks < limits.num_blocks,
            "watermark",
            self.watermark_blocks,
            &format!("fewer blocks than the pool has ({})", limits.num_blocks),
        )?;
        if let Some(groups) = &self.groups {
            Invalid::unless(
                groups.window_tokens >= 2,
                "hybrid_kv_cache",
                format!("a window of {} tokens", groups.window_tokens),
                "a window of 2 tokens or more; or set hybrid_kv_cache = false",
            )?;
        }
        Invalid::unless(
            self.groups.is_none() || !limits.has_tiers,
            "hybrid_kv_cache",
            true,
            "false with [[engine.tier]]: groups of layers have no memory below the GPU's here",
        )?;
        Invalid::unless(
            !self.admits_by_chunk || !limits.has_tiers,
            "scheduler_reserve_full_isl",
            false,
            "true with [[engine.tier]]: what is loaded needs room for the whole prompt here",
        )
    }
}

/// 1, 2, 4, the multiples of 8 up to 256 and those of 16 up to 512.
fn graph_sizes(_padding: bool) -> Vec<u32> {
    [1, 2, 4].into_iter().chain((8..=256).step_by(8)).chain((272..=512).step_by(16)).collect()
}
