//! Step times from a formula: what has to be moved and computed, at the share
//! of the GPU's peaks that an engine was measured to reach.
//!
//! For a step of `T` tokens, `S` of them in need of logits, on `tp` GPUs:
//!
//! ```text
//! step   = gemm + logits + elem + ctx + kv + comm
//! gemm   = layers * sum over the four products of (sqrt(move^2 + compute^2) + gemm_us)
//!          move    = bytes of weights, inputs and outputs / (bandwidth * weight_bandwidth_ratio)
//!          compute = 2 m n k / (peak * fp8_ratio or bf16_ratio)
//!          m       = T, plus fp8_pad_rows if FP8, T > 128 and T is no multiple of 128
//! logits = the same for the output head, in BF16, with m = S
//! elem   = layers * (9 us + T (8 hidden + 3 ffn / tp) 2 B / (0.64 bandwidth))
//! ctx    = layers * sum over chunks of (pairs / (BF16 peak * attention_ratio) + attention_us)
//!          pairs   = 4 heads / tp * head_size * new * (cached + new / 2 + attention_floor_tokens)
//! kv     = context * KV bytes / (bandwidth * kv_bandwidth_ratio) + layers * attention_us, if any decode
//! comm   = (2 layers + 1) (allreduce_us + T hidden 2 B / allreduce bandwidth), if tp > 1
//! ```
//!
//! A layer with a window of `W` tokens has the pairs within `W` in the place of all, and
//! `min(context, sequences * W)` in the place of the context: exactly where all sequences are
//! longer than `W`, or all shorter, else somewhat too much.
//!
//! The square root is a smooth maximum: near the knee neither memory nor
//! arithmetic is fully busy. The form and its parameters were fitted to the
//! operator tables of NVIDIA AIConfigurator 0.12.0 (see `models/efficiencies/`);
//! a decode-only step is affine in its context, which is what lets the engine
//! jump over steps.

use crate::engine::hardware::{Dtype, Gemm, Hardware};
use crate::engine::kernels::Kernels;
use crate::engine::memory;
use crate::engine::work::{AffinePiece, PrefillChunk, StepWork, TILE_ROWS};
use crate::time::SimDuration;

/// The formula with its constants multiplied out, in seconds.
#[derive(Clone, Debug, PartialEq)]
pub struct Roofline {
    layers: f64,
    gemms: [Product; 4],
    logits: Product,
    pad_rows: f64,
    kernels: Kernels,
    weight_dtype: Dtype,
    /// Per step: everything that no token adds to.
    fixed_s: f64,
    /// Per token of the step: element-wise kernels and all-reduce.
    token_s: f64,
    /// The part of all-reduce in those two.
    reduce_s: f64,
    reduce_token_s: f64,
    /// All layers' attention kernels, per chunk.
    attention_s: f64,
    /// The same per decode batch.
    decode_attention_s: f64,
    /// Per pair of new token and context token, in the layers that attend to everything.
    attention_pair_s: f64,
    attention_floor_tokens: f64,
    /// Per token of decode context, in the same layers.
    context_ps: u64,
    /// Layers that attend to a window.
    window: Option<WindowLayers>,
    /// By padded batch size: a decode-only step without its context.
    decode_base_ps: Vec<u64>,
}

/// What layers that attend to a window add.
#[derive(Clone, Copy, Debug, PartialEq)]
struct WindowLayers {
    tokens: u32,
    /// Per pair of new token and token of its window.
    pair_s: f64,
    /// Per token of decode context that lies in windows.
    context_ps: u64,
}

impl WindowLayers {
    /// The mean of what the new tokens of a chunk attend to.
    fn context(&self, chunk: &PrefillChunk) -> f64 {
        let [window, cached, new] =
            [self.tokens, chunk.cached_tokens, chunk.new_tokens].map(f64::from);
        // Tokens before which the window is not full.
        let growing = (window - cached).clamp(0.0, new);
        (growing * (cached + growing / 2.0) + (new - growing) * window) / new
    }

    /// The decode context at which the windows of so many sequences are full.
    fn full_at(&self, seqs: u32) -> u64 {
        u64::from(seqs) * u64::from(self.tokens)
    }

    /// Picoseconds of decodes with so much context in all.
    fn decode_ps(&self, seqs: u32, context: u64) -> u64 {
        self.context_ps * context.min(self.full_at(seqs))
    }
}

/// What a step's time is made of, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepParts {
    /// Matrix products of the layers.
    pub gemm_s: f64,
    /// The output head.
    pub logits_s: f64,
    /// Element-wise kernels.
    pub elementwise_s: f64,
    /// All-reduce.
    pub reduce_s: f64,
    /// Attention of prompt chunks.
    pub prompt_attention_s: f64,
    /// Attention of decodes.
    pub decode_attention_s: f64,
}

/// `sqrt((a + b m)^2 + (c m)^2) + d` seconds for `m` rows.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Product {
    weights_s: f64,
    row_move_s: f64,
    row_compute_s: f64,
    fixed_s: f64,
}

impl Product {
    fn time_s(&self, rows: f64) -> f64 {
        let moved = self.weights_s + self.row_move_s * rows;
        let computed = self.row_compute_s * rows;
        (moved * moved + computed * computed).sqrt() + self.fixed_s
    }
}

impl Hardware {
    /// What the formula does not describe, in words; `None` if it describes all.
    pub fn beside_formula(&self) -> Option<String> {
        let beside = self.shape.beside_dense().map(str::to_owned);
        let formats = [Dtype::Bf16, Dtype::Fp8];
        let other = !formats.contains(&self.weight_dtype);
        beside.or_else(|| other.then(|| format!("weights in {}", self.weight_dtype)))
    }

    /// The compact step-time model of this hardware, for batches up to `max_num_seqs`.
    pub fn roofline(&self, max_num_seqs: u32) -> Roofline {
        Roofline::new(self, &Kernels::default(), max_num_seqs)
    }
}

impl Roofline {
    /// Multiplies the constants out, and tabulates decode steps up to `max_num_seqs`.
    /// `kernels`: those of an engine's version.
    ///
    /// # Panics
    /// If `hardware` was not validated: FP8 weights or `tp > 1` without their parameters,
    /// or something that [`Hardware::beside_formula`] names.
    pub fn new(hardware: &Hardware, kernels: &Kernels, max_num_seqs: u32) -> Self {
        let Hardware { gpu, shape, efficiency, tp, .. } = hardware;
        assert_eq!(hardware.beside_formula(), None, "validated: the formula describes it");
        let layers = f64::from(shape.layers);
        let bandwidth = gpu.bandwidth_tb_per_s * 1e12;
        let bf16 = gpu.bf16_tflop_per_s * 1e12;
        let fp8_ratio = || efficiency.fp8_ratio.expect("validated: FP8 weights have a ratio");
        let fp8 = || gpu.fp8_tflop_per_s.expect("validated: FP8 weights have a rate") * 1e12;
        let (peak, pad_rows) = match hardware.weight_dtype {
            Dtype::Fp8 => (fp8() * fp8_ratio(), efficiency.fp8_pad_rows),
            _ => (bf16 * efficiency.bf16_ratio, 0.0),
        };
        let product = |Gemm { n, k }: Gemm, dtype: Dtype, peak: f64| {
            let bytes_per_s = bandwidth * efficiency.weight_bandwidth_ratio;
            Product {
                weights_s: n * k * dtype.bytes() / bytes_per_s,
                row_move_s: (k * dtype.bytes() + 2.0 * n) / bytes_per_s,
                row_compute_s: 2.0 * n * k / peak,
                fixed_s: efficiency.gemm_us * 1e-6,
            }
        };
        let ranks = f64::from(*tp);
        let hidden = f64::from(shape.hidden);
        let elementwise = hardware.elementwise();
        let (reduce_s, reduce_token_s) =
            match (efficiency.allreduce_us, efficiency.allreduce_gb_per_s) {
                _ if *tp == 1 => (0.0, 0.0),
                (Some(us), Some(gb_per_s)) => (us * 1e-6, hidden * 2.0 / (gb_per_s * 1e9)),
                _ => unreachable!("validated: tp = {tp} has all-reduce parameters"),
            };
        let reduces = 2.0 * layers + 1.0;
        let query_width = f64::from(shape.heads) / ranks * f64::from(shape.head_size);
        let kv_ratio = match (hardware.kv_dtype, efficiency.fp8_kv_bandwidth_ratio) {
            (Dtype::Fp8, Some(ratio)) => ratio,
            _ => efficiency.kv_bandwidth_ratio,
        };
        let context_s = memory::gpu_kv_bytes_per_token(hardware) / (bandwidth * kv_ratio)
            * kernels.decode_attention;
        let attention_s = layers * efficiency.attention_us * 1e-6;
        let pair_s = layers * 4.0 * query_width / (bf16 * efficiency.attention_ratio);
        // Of all layers' attention that in some of them.
        let (of_windows, of_others) = {
            let windows = f64::from(shape.window_layers()) / layers;
            (windows, 1.0 - windows)
        };
        let context_ps = |share: f64| SimDuration::from_secs_f64(share * context_s).as_ps();
        let mut roofline = Self {
            layers,
            gemms: shape.layer_gemms(*tp).map(|gemm| product(gemm, hardware.weight_dtype, peak)),
            logits: product(shape.logits_gemm(*tp), Dtype::Bf16, bf16 * efficiency.bf16_ratio),
            pad_rows,
            kernels: *kernels,
            weight_dtype: hardware.weight_dtype,
            fixed_s: elementwise.step_s + reduces * reduce_s,
            token_s: elementwise.token_s + reduces * reduce_token_s,
            reduce_s: reduces * reduce_s,
            reduce_token_s: reduces * reduce_token_s,
            attention_s,
            decode_attention_s: attention_s * kernels.decode_attention,
            attention_pair_s: of_others * pair_s,
            attention_floor_tokens: efficiency.attention_floor_tokens,
            context_ps: context_ps(of_others),
            window: shape.window.map(|window| WindowLayers {
                tokens: window.tokens,
                pair_s: of_windows * pair_s,
                context_ps: context_ps(of_windows),
            }),
            decode_base_ps: Vec::new(),
        };
        roofline.decode_base_ps =
            (0..=max_num_seqs).map(|seqs| roofline.computed_decode_base_ps(seqs)).collect();
        roofline
    }

    /// See [`StepTime::step`](super::step_time::StepTime::step).
    pub fn step(&self, work: &StepWork<'_>) -> SimDuration {
        let base = if work.prefill.is_empty() {
            self.decode_base_ps(work.padded_seqs)
        } else {
            let mut tokens = work.padded_seqs;
            let mut sampled = work.padded_seqs;
            let mut attention_s = 0.0;
            for chunk in work.prefill {
                tokens += chunk.new_tokens;
                sampled += u32::from(chunk.last);
                attention_s += self.prompt_attention_s(chunk);
            }
            if work.decode_seqs > 0 {
                attention_s += self.decode_attention_s;
            }
            SimDuration::from_secs_f64(self.dense_s(tokens, sampled) + attention_s).as_ps()
        };
        SimDuration::from_ps(base + self.context_ps(work))
    }

    /// The parts of a step's time, in seconds.
    pub fn parts_s(&self, work: &StepWork<'_>) -> StepParts {
        let new_tokens: u32 = work.prefill.iter().map(|chunk| chunk.new_tokens).sum();
        let last: usize = work.prefill.iter().filter(|chunk| chunk.last).count();
        let tokens = f64::from(work.padded_seqs + new_tokens);
        let sampled = f64::from(work.padded_seqs) + last as f64;
        let prompt = |chunk| self.prompt_attention_s(chunk);
        let reduce_s = self.reduce_s + self.reduce_token_s * tokens;
        StepParts {
            gemm_s: self.gemm_s(work.padded_seqs + new_tokens),
            logits_s: if sampled == 0.0 { 0.0 } else { self.logits.time_s(sampled) },
            elementwise_s: self.fixed_s + self.token_s * tokens - reduce_s,
            reduce_s,
            prompt_attention_s: work.prefill.iter().map(prompt).sum(),
            decode_attention_s: if work.decode_seqs == 0 {
                0.0
            } else {
                self.decode_attention_s + self.context_ps(work) as f64 * 1e-12
            },
        }
    }

    /// What decodes read of their contexts.
    fn context_ps(&self, work: &StepWork<'_>) -> u64 {
        let in_windows =
            |window: WindowLayers| window.decode_ps(work.decode_seqs, work.decode_context);
        self.context_ps * work.decode_context + self.window.map_or(0, in_windows)
    }

    /// Attention of a piece of a prompt.
    fn prompt_attention_s(&self, chunk: &PrefillChunk) -> f64 {
        let new = f64::from(chunk.new_tokens);
        let floor = self.attention_floor_tokens;
        let context = f64::from(chunk.cached_tokens) + new / 2.0 + floor;
        let in_windows =
            |window: WindowLayers| window.pair_s * new * (window.context(chunk) + floor);
        self.attention_s
            + self.attention_pair_s * new * context
            + self.window.map_or(0.0, in_windows)
    }

    /// See [`StepTime::decode_piece`](super::step_time::StepTime::decode_piece).
    pub fn decode_piece(&self, seqs: u32, padded_seqs: u32, context: u64) -> AffinePiece {
        let base_ps = self.decode_base_ps(padded_seqs);
        let piece = AffinePiece { base_ps, per_token_ps: self.context_ps, context_end: u64::MAX };
        match &self.window {
            None => piece,
            Some(window) if context < window.full_at(seqs) => AffinePiece {
                per_token_ps: self.context_ps + window.context_ps,
                context_end: window.full_at(seqs),
                ..piece
            },
            Some(window) => {
                AffinePiece { base_ps: base_ps + window.decode_ps(seqs, context), ..piece }
            }
        }
    }

    fn decode_base_ps(&self, padded_seqs: u32) -> u64 {
        match self.decode_base_ps.get(padded_seqs as usize) {
            Some(&ps) => ps,
            None => self.computed_decode_base_ps(padded_seqs),
        }
    }

    fn computed_decode_base_ps(&self, padded_seqs: u32) -> u64 {
        let seconds = self.dense_s(padded_seqs, padded_seqs) + self.decode_attention_s;
        SimDuration::from_secs_f64(seconds).as_ps()
    }

    /// Everything but attention.
    fn dense_s(&self, tokens: u32, sampled: u32) -> f64 {
        let logits = if sampled == 0 { 0.0 } else { self.logits.time_s(f64::from(sampled)) };
        self.gemm_s(tokens) + logits + self.fixed_s + self.token_s * f64::from(tokens)
    }

    /// The matrix products of all layers.
    fn gemm_s(&self, tokens: u32) -> f64 {
        let pads = tokens > TILE_ROWS && !tokens.is_multiple_of(TILE_ROWS);
        let rows = f64::from(tokens) + if pads { self.pad_rows } else { 0.0 };
        let scaled = self.kernels.products(self.weight_dtype, f64::from(tokens));
        self.layers * self.gemms.iter().map(|product| product.time_s(rows)).sum::<f64>() * scaled
    }
}
