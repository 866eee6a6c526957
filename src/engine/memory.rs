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
use crate::engine::hardware::{Dtype, Gemm, Hardware};

/// Bytes of weights on each GPU.
///
/// Embedding, output head and routers are kept in 16 bit whatever the weights' type.
/// Routers, and projections to a latent, are whole on every GPU, the rest is split: routed
/// experts among all GPUs of a worker, everything else among those of a rank. Norms
/// and biases, below 0.01 %, and layers that predict further tokens are left out.
pub fn weight_bytes(hardware: &Hardware) -> f64 {
    let Hardware { shape, tp, rest_dtype: rest, .. } = hardware;
    let weights = |gemms: &[Gemm]| gemms.iter().map(Gemm::weights).sum::<f64>();
    let attention = weights(&shape.attention_gemms(*tp));
    let dense = weights(&shape.feed_forward_gemms(shape.ffn, *tp));
    let (layers, dense_layers) = (f64::from(shape.layers), f64::from(shape.dense_layers()));
    let tables = if shape.tied_embeddings { 1.0 } else { 2.0 };
    let table = shape.logits_gemm(*tp);
    let experts = shape.experts.map_or(0.0, |experts| {
        let of = |width: u32, gpus: u32| weights(&shape.feed_forward_gemms(width, gpus));
        let (count, hidden) = (f64::from(experts.count), f64::from(shape.hidden));
        count * of(experts.ffn, hardware.gpus()) * hardware.weight_dtype.bytes()
            + of(experts.ffn * experts.shared, *tp) * rest.bytes()
            + count * hidden * Dtype::Bf16.bytes()
    });
    (layers * attention + dense_layers * dense) * rest.bytes()
        + (layers - dense_layers) * experts
        + tables * table.n * table.k * Dtype::Bf16.bytes()
}

/// Bytes that a layer of vLLM's sparse attention keeps of a token in 8 bit: 512 numbers,
/// their four scales in 32 bit, and 64 rotated numbers in 16 bit. Source: its public code.
const SPARSE_FP8_BYTES: f64 = 512.0 + 16.0 + 128.0;

/// Bytes that one token of KV takes on each GPU: keys and values of all layers, those
/// with a window as well; groups of layers that keep KV apart have a share of them in a block.
/// Heads that cannot be split further are repeated; a latent is whole on every GPU, and
/// so are an index's keys, in 8 bit. All GPUs of a rank together:
/// [`Hardware::kv_bytes_per_token`].
pub fn gpu_kv_bytes_per_token(hardware: &Hardware) -> f64 {
    let Hardware { shape, kv_dtype, .. } = hardware;
    let layers = f64::from(shape.layers);
    let Some(latent) = &shape.latent else {
        return 2.0
            * layers
            * shape.kv_heads_per_gpu(hardware.tp)
            * f64::from(shape.head_size)
            * kv_dtype.bytes();
    };
    let size = f64::from(latent.kv_rank + latent.rope_size);
    layers
        * match (latent.index, kv_dtype) {
            (Some(index), Dtype::Fp8) => SPARSE_FP8_BYTES + f64::from(index.size),
            (Some(index), _) => size * kv_dtype.bytes() + f64::from(index.size),
            (None, _) => size * kv_dtype.bytes(),
        }
}

impl Hardware {
    /// Bytes that one token of KV takes on all GPUs of a rank together: of a worker, where
    /// attention is not data parallel.
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
