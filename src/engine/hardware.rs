//! What a worker runs on: a GPU's data sheet, a network's dimensions, and how
//! much of the one the engine reaches with the other.

use crate::engine::table::MeasuredTimes;
use crate::settings::Invalid;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What a worker runs, and on what.
#[derive(Clone, Debug, PartialEq)]
pub struct Hardware {
    /// The GPU; a worker has `tp` of them.
    pub gpu: Gpu,
    /// The network.
    pub shape: Shape,
    /// How much of the peaks this engine reaches on this GPU.
    pub efficiency: Efficiency,
    /// Measured component times, if the file names any.
    pub table: Option<MeasuredTimes>,
    /// GPUs that share each layer (tensor parallelism).
    pub tp: u32,
    /// Number format of the weights.
    pub weight_dtype: Dtype,
    /// Number format of the KV cache.
    pub kv_dtype: Dtype,
}

/// A number format.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Dtype {
    /// 16 bit.
    Bf16,
    /// 8 bit.
    Fp8,
}

impl Dtype {
    /// Bytes of a number.
    pub const fn bytes(self) -> f64 {
        match self {
            Self::Bf16 => 2.0,
            Self::Fp8 => 1.0,
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bf16 => "bf16",
            Self::Fp8 => "fp8",
        })
    }
}

/// A GPU's data sheet: dense peaks, without sparsity.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gpu {
    /// Its name, for messages.
    pub name: String,
    /// Where the numbers come from.
    pub source: Option<String>,
    /// GiB that CUDA reports to a process, somewhat less than the driver lists.
    pub memory_gib: f64,
    /// Memory bandwidth, TB/s.
    pub bandwidth_tb_per_s: f64,
    /// Dense BF16 rate, TFLOP/s.
    pub bf16_tflop_per_s: f64,
    /// Dense FP8 rate, TFLOP/s.
    pub fp8_tflop_per_s: f64,
}

/// A dense transformer's dimensions, named as in its published configuration.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    /// Its name, for messages.
    pub name: String,
    /// Where the numbers come from.
    pub source: Option<String>,
    /// `num_hidden_layers`.
    pub layers: u32,
    /// `hidden_size`.
    pub hidden: u32,
    /// `num_attention_heads`.
    pub heads: u32,
    /// `num_key_value_heads`.
    pub kv_heads: u32,
    /// `head_dim`.
    pub head_size: u32,
    /// `intermediate_size`.
    pub ffn: u32,
    /// `vocab_size`.
    pub vocabulary: u32,
    /// `max_position_embeddings`: longest context in tokens.
    pub context_tokens: u32,
    /// `tie_word_embeddings`: the output head is the embedding.
    pub tied_embeddings: bool,
}

/// How much of a GPU's peaks an engine reaches, and its fixed costs: the
/// parameters of [`Roofline`](crate::engine::roofline::Roofline), fitted to measured operators.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Efficiency {
    /// Where the numbers come from.
    pub source: Option<String>,
    /// The GPU and engine, as `h100-vllm`, that they were measured on, if they stand in
    /// for numbers that nobody has measured.
    pub borrowed_from: Option<String>,
    /// Bandwidth of matrix products, share of the peak.
    pub weight_bandwidth_ratio: f64,
    /// FP8 rate of matrix products, share of the peak; absent if not known.
    pub fp8_ratio: Option<f64>,
    /// BF16 rate of matrix products, share of the peak.
    pub bf16_ratio: f64,
    /// BF16 rate of prompt attention, share of the peak.
    pub attention_ratio: f64,
    /// Context tokens that prompt attention costs even without any.
    pub attention_floor_tokens: f64,
    /// Bandwidth of decode attention, share of the peak.
    pub kv_bandwidth_ratio: f64,
    /// The same over an 8-bit KV cache, where it differs.
    #[serde(default)]
    pub fp8_kv_bandwidth_ratio: Option<f64>,
    /// Fixed microseconds of a matrix product.
    pub gemm_us: f64,
    /// Fixed microseconds of an attention kernel.
    pub attention_us: f64,
    /// Rows that FP8 products compute in vain if a step of more than 128 tokens
    /// is no multiple of 128.
    pub fp8_pad_rows: f64,
    /// Fixed microseconds of an all-reduce; absent if `tp` above 1 is not known.
    pub allreduce_us: Option<f64>,
    /// Bandwidth of an all-reduce, GB/s; absent as above.
    pub allreduce_gb_per_s: Option<f64>,
}

/// A matrix product on one GPU: `k` inputs to `n` outputs per row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gemm {
    /// Outputs.
    pub n: f64,
    /// Inputs.
    pub k: f64,
}

/// Bytes in `gib` binary gigabytes.
pub fn gib(gib: f64) -> f64 {
    gib * 1_073_741_824.0
}

impl Gpu {
    /// Bytes that an engine finds.
    pub fn memory_bytes(&self) -> f64 {
        gib(self.memory_gib)
    }
}

impl Shape {
    /// The matrix products of a layer on each of `tp` GPUs: QKV, attention
    /// output, gate and up, down. KV heads that cannot be split are repeated.
    pub fn layer_gemms(&self, tp: u32) -> [Gemm; 4] {
        let ranks = f64::from(tp);
        let hidden = f64::from(self.hidden);
        let head_size = f64::from(self.head_size);
        let query = f64::from(self.heads) * head_size / ranks;
        let kv = 2.0 * self.kv_heads_per_gpu(tp) * head_size;
        let ffn = f64::from(self.ffn) / ranks;
        [
            Gemm { n: query + kv, k: hidden },
            Gemm { n: hidden, k: query },
            Gemm { n: 2.0 * ffn, k: hidden },
            Gemm { n: hidden, k: ffn },
        ]
    }

    /// The output head on each of `tp` GPUs.
    pub fn logits_gemm(&self, tp: u32) -> Gemm {
        Gemm { n: f64::from(self.vocabulary) / f64::from(tp), k: f64::from(self.hidden) }
    }

    /// KV heads held by each of `tp` GPUs.
    pub fn kv_heads_per_gpu(&self, tp: u32) -> f64 {
        f64::from(self.kv_heads.max(tp)) / f64::from(tp)
    }
}

fn positive(key: &str, value: f64) -> Result<(), Invalid> {
    Invalid::unless(value.is_finite() && value > 0.0, key, value, "a finite number above 0")
}

fn ratio(key: &str, value: f64) -> Result<(), Invalid> {
    Invalid::unless(value > 0.0 && value <= 1.0, key, value, "above 0 and at most 1")
}

impl Gpu {
    pub(crate) fn validate(&self) -> Result<(), Invalid> {
        positive("memory_gib", self.memory_gib)?;
        positive("bandwidth_tb_per_s", self.bandwidth_tb_per_s)?;
        positive("bf16_tflop_per_s", self.bf16_tflop_per_s)?;
        positive("fp8_tflop_per_s", self.fp8_tflop_per_s)
    }
}

impl Shape {
    pub(crate) fn validate(&self) -> Result<(), Invalid> {
        for (key, value) in [
            ("layers", self.layers),
            ("hidden", self.hidden),
            ("heads", self.heads),
            ("kv_heads", self.kv_heads),
            ("head_size", self.head_size),
            ("ffn", self.ffn),
            ("vocabulary", self.vocabulary),
            ("context_tokens", self.context_tokens),
        ] {
            Invalid::unless(value >= 1, key, value, "at least 1")?;
        }
        Invalid::unless(
            self.heads.is_multiple_of(self.kv_heads),
            "heads",
            self.heads,
            &format!("a multiple of kv_heads ({})", self.kv_heads),
        )
    }
}

impl Efficiency {
    /// Refuses values that no engine reaches.
    pub(crate) fn validate(&self) -> Result<(), Invalid> {
        ratio("weight_bandwidth_ratio", self.weight_bandwidth_ratio)?;
        self.fp8_ratio.map_or(Ok(()), |value| ratio("fp8_ratio", value))?;
        ratio("bf16_ratio", self.bf16_ratio)?;
        ratio("attention_ratio", self.attention_ratio)?;
        ratio("kv_bandwidth_ratio", self.kv_bandwidth_ratio)?;
        let fp8_kv = self.fp8_kv_bandwidth_ratio;
        fp8_kv.map_or(Ok(()), |value| ratio("fp8_kv_bandwidth_ratio", value))?;
        for (key, value) in [
            ("attention_floor_tokens", self.attention_floor_tokens),
            ("gemm_us", self.gemm_us),
            ("attention_us", self.attention_us),
            ("fp8_pad_rows", self.fp8_pad_rows),
            ("allreduce_us", self.allreduce_us.unwrap_or(0.0)),
        ] {
            Invalid::unless_at_least(key, value, 0.0)?;
        }
        self.allreduce_gb_per_s.map_or(Ok(()), |value| positive("allreduce_gb_per_s", value))
    }
}

impl Hardware {
    /// Refuses parts that do not go together.
    ///
    /// # Errors
    /// Names the key of the model file.
    pub fn validate(&self) -> Result<(), Invalid> {
        Invalid::unless(
            self.tp >= 1 && self.shape.heads.is_multiple_of(self.tp),
            "hardware.tp",
            self.tp,
            &format!("a divisor of the {} attention heads", self.shape.heads),
        )?;
        Invalid::unless(
            self.tp == 1
                || (self.efficiency.allreduce_us.is_some()
                    && self.efficiency.allreduce_gb_per_s.is_some()),
            "hardware.tp",
            self.tp,
            "1, unless the efficiencies give allreduce_us and allreduce_gb_per_s",
        )?;
        Invalid::unless(
            self.weight_dtype == Dtype::Bf16 || self.efficiency.fp8_ratio.is_some(),
            "hardware.weight_dtype",
            "\"fp8\"",
            "\"bf16\", unless the efficiencies give fp8_ratio",
        )
    }
}
