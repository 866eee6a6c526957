//! What a worker runs on: a GPU's data sheet, a network's dimensions, and how
//! much of the one the engine reaches with the other.

pub use crate::engine::dtype::Dtype;
use crate::engine::operator_file::Operators;
pub use crate::engine::shape::{Experts, Gemm, Index, Latent, Shape, Window};
use crate::engine::table::MeasuredTimes;
use crate::settings::Invalid;
use serde::Deserialize;

/// Most ranks of a worker (assumed: the experts of the largest networks in service are
/// divided among as many GPUs).
pub(crate) const MAX_ATTENTION_DP: u32 = 128;

/// What a worker runs, and on what.
#[derive(Clone, Debug, PartialEq)]
pub struct Hardware {
    /// The GPU; a worker has `tp` of them for each rank.
    pub gpu: Gpu,
    /// The network.
    pub shape: Shape,
    /// How much of the peaks this engine reaches on this GPU.
    pub efficiency: Efficiency,
    /// Measured component times, if the file names any.
    pub table: Option<MeasuredTimes>,
    /// Operators measured on this GPU, if the file names any.
    pub operators: Option<Operators>,
    /// GPUs of a rank, which share each layer (tensor parallelism).
    pub tp: u32,
    /// Ranks, each with sequences and KV of its own (attention data parallelism), and with
    /// all weights but routed experts. 1: no such thing.
    pub attention_dp: u32,
    /// GPUs that experts are divided among (expert parallelism), which divides those of the
    /// worker; the GPUs that have the same experts share each of them.
    pub ep: u32,
    /// Number format of the weights; where there are experts, of the routed ones.
    pub weight_dtype: Dtype,
    /// Number format of the weights beside routed experts. Embedding, output head and
    /// routers are in 16 bit whatever it is.
    pub rest_dtype: Dtype,
    /// Number format of the KV cache.
    pub kv_dtype: Dtype,
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
    /// Dense FP8 rate, TFLOP/s; absent if it has no such products.
    pub fp8_tflop_per_s: Option<f64>,
}

/// How much of a GPU's peaks an engine reaches, and its fixed costs: the
/// parameters of [`Roofline`](crate::engine::roofline::Roofline), fitted to measured operators.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Efficiency {
    /// Where the numbers come from.
    pub source: Option<String>,
    /// The GPU and engine, as `h100-vllm`, that they were measured on, if they stand in
    /// for numbers without a measurement behind them.
    pub borrowed_from: Option<String>,
    /// Steps composed of measured operators are nearer to runs on this GPU than the formula
    /// with these numbers, so they are the default where the operators were measured.
    #[serde(default)]
    pub prefers_operators: bool,
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
        self.fp8_tflop_per_s.map_or(Ok(()), |rate| positive("fp8_tflop_per_s", rate))
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
    /// GPUs of a worker.
    pub fn gpus(&self) -> u32 {
        self.tp * self.attention_dp
    }

    /// Refuses parts that do not go together.
    ///
    /// # Errors
    /// Names the key of the model file.
    pub fn validate(&self) -> Result<(), Invalid> {
        let shape = &self.shape;
        Invalid::unless(
            self.tp >= 1 && shape.heads.is_multiple_of(self.tp),
            "hardware.tp",
            self.tp,
            &format!("a divisor of the {} attention heads", shape.heads),
        )?;
        self.validate_split()?;
        Invalid::unless(
            self.tp == 1
                || (self.efficiency.allreduce_us.is_some()
                    && self.efficiency.allreduce_gb_per_s.is_some()),
            "hardware.tp",
            self.tp,
            "1, unless the efficiencies give allreduce_us and allreduce_gb_per_s",
        )?;
        Invalid::unless(
            [Dtype::Bf16, Dtype::Fp8].contains(&self.kv_dtype),
            "hardware.kv_dtype",
            format!("\"{}\"", self.kv_dtype),
            "\"bf16\" or \"fp8\"",
        )?;
        let has_fp8 = self.gpu.fp8_tflop_per_s.is_some();
        let is_fp8 = |dtype| [Dtype::Fp8, Dtype::Fp8Block].contains(&dtype);
        Invalid::unless(
            has_fp8 || !(is_fp8(self.weight_dtype) || is_fp8(self.rest_dtype)),
            "hardware.weight_dtype",
            format!("\"{}\"", self.weight_dtype),
            &format!(
                "\"bf16\" or 4 bit with 16-bit products: {} has no FP8 products",
                self.gpu.name
            ),
        )?;
        Invalid::unless(
            self.weight_dtype != Dtype::Fp8 || self.efficiency.fp8_ratio.is_some(),
            "hardware.weight_dtype",
            "\"fp8\"",
            "\"bf16\", unless the efficiencies give fp8_ratio",
        )?;
        self.validate_experts()
    }

    /// Refuses a number of GPUs that what a layer has cannot be split among: engines do.
    fn validate_split(&self) -> Result<(), Invalid> {
        let Self { shape, tp, .. } = self;
        let kv_heads = shape.kv_heads;
        Invalid::unless(
            shape.latent.is_some() || kv_heads.is_multiple_of(*tp) || tp.is_multiple_of(kv_heads),
            "hardware.tp",
            tp,
            &format!("a divisor or a multiple of the {kv_heads} KV heads"),
        )?;
        let ffn = shape.ffn;
        let splits = shape.dense_layers() == 0 || ffn.is_multiple_of(*tp);
        let allowed = format!("a divisor of the width of feed-forward layers ({ffn})");
        Invalid::unless(splits, "hardware.tp", tp, &allowed)
    }

    fn validate_experts(&self) -> Result<(), Invalid> {
        let ranks = self.attention_dp;
        let fits = (1..=MAX_ATTENTION_DP).contains(&ranks);
        let allowed = format!("from 1 to {MAX_ATTENTION_DP}");
        Invalid::unless(fits, "hardware.attention_dp", ranks, &allowed)?;
        let Some(experts) = &self.shape.experts else {
            let allowed = "1: ranks meet in experts, and this network has none; without them \
                           ranks are workers by themselves";
            Invalid::unless(ranks == 1, "hardware.attention_dp", ranks, allowed)?;
            let without = "1: this network has no experts";
            Invalid::unless(self.ep == 1, "hardware.ep", self.ep, without)?;
            let whole = "that of all weights: this network has no experts";
            let is_one = self.rest_dtype == self.weight_dtype;
            return Invalid::unless(is_one, "hardware.rest_dtype", self.rest_dtype, whole);
        };
        let gpus = self.gpus();
        let called = if ranks == 1 { "tp" } else { "tp x attention_dp" };
        Invalid::unless(
            self.ep >= 1 && gpus.is_multiple_of(self.ep) && experts.count.is_multiple_of(self.ep),
            "hardware.ep",
            self.ep,
            &format!("a divisor of {called} ({gpus}) and of the {} experts", experts.count),
        )?;
        let (sharers, width) = (gpus / self.ep, experts.ffn);
        Invalid::unless(
            width.is_multiple_of(sharers),
            "hardware.ep",
            self.ep,
            &format!(
                "so large that the {sharers} GPUs that share an expert divide its width ({width})"
            ),
        )
    }
}
