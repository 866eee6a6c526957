//! What a GPU's memory is spent on.
//!
//! Every engine is given a "KV memory fraction", and each means something else by it:
//! see [`Engine::kv_blocks`](crate::engine::rules::Engine::kv_blocks).
//!
//! Neither engine publishes what activations, workspaces, captured graphs and
//! the CUDA context take. That number is an assumption of the model file; at
//! fraction 0.9 a GiB of it moves the pool of Llama-3.1-70B FP8 on an H200 by
//! 1.5 % under TensorRT-LLM.

pub use crate::engine::hardware::gib;
use crate::engine::hardware::{Dtype, Hardware};

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

impl Hardware {
    /// Bytes that one token of KV takes on all GPUs of a worker together.
    pub fn kv_bytes_per_token(&self) -> f64 {
        gpu_kv_bytes_per_token(self) * f64::from(self.tp)
    }
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
    /// Bytes of everything but KV.
    pub fn taken_bytes(&self) -> f64 {
        self.weight_bytes + self.activation_bytes
    }
}
