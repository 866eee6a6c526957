//! How many KV blocks a GPU has room for.
//!
//! Both engines are given a "KV memory fraction", and mean different things:
//!
//! * vLLM's `gpu_memory_utilization` is a share of the whole GPU, out of which
//!   weights and activations are paid as well; the rest is rounded down to
//!   blocks, and one of them is kept as the null block.
//! * TensorRT-LLM's `free_gpu_memory_fraction` is a share of what weights and
//!   the measured peak leave free; tokens are rounded up to blocks.
//!
//! Neither engine publishes what activations, workspaces, captured graphs and
//! the CUDA context take. That number is an assumption of the model file; at
//! fraction 0.9 a GiB of it moves the pool of Llama-3.1-70B FP8 on an H200 by
//! 1.5 % under TensorRT-LLM.

use crate::engine::config::Rules;
use crate::engine::hardware::{Dtype, Hardware};

/// Bytes in `gib` binary gigabytes.
pub fn gib(gib: f64) -> f64 {
    gib * 1_073_741_824.0
}

/// Bytes of weights on each GPU.
///
/// Embedding and output head are kept in 16 bit whatever the weights' type, and
/// are split over the ranks as the rest; norms and biases, below 0.01 %, are
/// left out.
pub fn weight_bytes(hardware: &Hardware) -> f64 {
    let shape = &hardware.shape;
    let layer: f64 = shape.layer_gemms(hardware.tp).iter().map(|gemm| gemm.n * gemm.k).sum();
    let tables = if shape.tied_embeddings { 1.0 } else { 2.0 };
    let table = shape.logits_gemm(hardware.tp);
    f64::from(shape.layers) * layer * hardware.weight_dtype.bytes()
        + tables * table.n * table.k * Dtype::Bf16.bytes()
}

/// Bytes that one token of KV takes on each GPU: keys and values of all layers.
/// Heads that cannot be split further are repeated. All GPUs of a worker together:
/// [`Hardware::kv_bytes_per_token`].
pub fn gpu_kv_bytes_per_token(hardware: &Hardware) -> f64 {
    let shape = &hardware.shape;
    2.0 * f64::from(shape.layers)
        * shape.kv_heads_per_gpu(hardware.tp)
        * f64::from(shape.head_size)
        * hardware.kv_dtype.bytes()
}

/// What a GPU's memory is spent on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Budget {
    /// Bytes that the engine finds on the GPU.
    pub total_bytes: f64,
    /// Bytes of weights.
    pub weight_bytes: f64,
    /// Bytes of everything that is neither weights nor KV.
    pub activation_bytes: f64,
    /// The engine's KV memory fraction, above 0 and at most 1.
    pub fraction: f64,
}

impl Budget {
    /// Blocks that requests can use; 0 if there is no room.
    pub fn blocks(&self, rules: Rules, bytes_per_token: f64, block_size: u32) -> u32 {
        let taken = self.weight_bytes + self.activation_bytes;
        let block_size = f64::from(block_size);
        let blocks = match rules {
            Rules::Vllm => {
                let bytes = self.total_bytes * self.fraction - taken;
                (bytes / (bytes_per_token * block_size)).floor() - 1.0
            }
            Rules::Trtllm => {
                let bytes = (self.total_bytes - taken) * self.fraction;
                ((bytes / bytes_per_token).floor() / block_size).ceil()
            }
        };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "`as` saturates: no room is 0, too much room is refused by validation"
        )]
        {
            blocks as u32
        }
    }
}
