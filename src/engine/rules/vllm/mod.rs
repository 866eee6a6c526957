//! vLLM (V1, first come first served): rules R1-R9 of docs/engine-rules.md.

mod cache;
mod scheduler;

pub use cache::{Held, Hits, VllmCache};
pub(in crate::engine) use scheduler::VllmScheduler;

use super::engine::{Defaults, Engine, Limits};
use crate::engine::memory::Budget;
use crate::kv::Offload;
use crate::settings::Invalid;

/// The keys of `[engine]` that only vLLM has.
#[derive(Clone, Copy, Debug, Default)]
pub struct VllmSettings {
    /// Share of the pool that admission leaves free. Default 0, as in vLLM.
    pub watermark: Option<f64>,
}

/// Options of vLLM's rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VllmOptions {
    /// Blocks that admission leaves free while something runs.
    pub watermark_blocks: u32,
}

impl Engine for VllmOptions {
    type Settings = VllmSettings;

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
        // In the network's own type.
        kv_as_weights: false,
        takes_blocks: |tokens| {
            (
                tokens.is_power_of_two() || tokens.is_multiple_of(16),
                "16, 32, 64, 128 or what else an attention backend of vLLM takes: a power of two or a \
                 multiple of 16",
            )
        },
    };

    fn resolve(settings: &VllmSettings, num_blocks: u32) -> Result<Self, Invalid> {
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
        Ok(Self { watermark_blocks: (watermark * f64::from(num_blocks)) as u32 })
    }

    /// `gpu_memory_utilization` is a share of the whole GPU, out of which weights and
    /// activations are paid as well; the rest is rounded down to blocks, and one of them
    /// is kept as the null block.
    fn kv_blocks(budget: &Budget, bytes_per_token: f64, block_size: u32) -> f64 {
        let bytes = budget.total_bytes * budget.fraction - budget.taken_bytes();
        (bytes / (bytes_per_token * f64::from(block_size))).floor() - 1.0
    }

    fn validate(&self, limits: Limits) -> Result<(), Invalid> {
        Invalid::unless(
            self.watermark_blocks < limits.num_blocks,
            "watermark",
            self.watermark_blocks,
            &format!("fewer blocks than the pool has ({})", limits.num_blocks),
        )
    }
}

/// 1, 2, 4, the multiples of 8 up to 256 and those of 16 up to 512.
fn graph_sizes(_padding: bool) -> Vec<u32> {
    [1, 2, 4].into_iter().chain((8..=256).step_by(8)).chain((272..=512).step_by(16)).collect()
}
