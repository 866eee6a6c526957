//! Steps composed of measured operators.
//!
//! Operators of a step ([`operator_file`](super::operator_file)) add up to the components of a [`table`](super::table):
//!
//! * `gemm`: projections, dense layers, routers, shared experts and routed ones, all at
//!   the tokens of the step;
//! * `elem`: the element-wise kernels (`elementwise`), which no table
//!   has, and what [`Beside`] says;
//! * `comm`: two all-reduces a layer, or one before experts where a worker has ranks;
//! * where it has, `together`: the routed experts at the tokens of all ranks, and before and
//!   behind them what brings the tokens together and takes them apart (an all-gather and a
//!   reduce-scatter, as vLLM and TensorRT-LLM do within a node). Everything else is at the
//!   tokens of one rank, shared experts and dense layers included, which each rank has whole;
//! * attention over a cached prefix, which no table has: as many pairs of tokens more, at
//!   the rate at which long prompts grow, and at least as long as one sequence takes to
//!   decode with that context.

use crate::engine::curves::{Curve, Grid};
use crate::engine::hardware::{Dtype, Experts, Hardware, Latent};
use crate::engine::kernels::Kernels;
use crate::engine::operator_file::{Key, Operators, Times};
use crate::engine::table::{Components, MeasuredTimes};
use crate::settings::Invalid;
use crate::time::SimDuration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Cached tokens at which prompts are tabulated.
const CACHED_TOKENS: [f64; 6] = [0.0, 1_024.0, 4_096.0, 16_384.0, 65_536.0, 262_144.0];

/// Most GPUs among which all-reduce was measured.
const MEASURED_GPUS: u32 = 8;

/// Times that steps take beside the operators of the tables; `[engine.operators]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Beside {
    /// Every step: sampling, preparing inputs.
    pub step: SimDuration,
    /// Every layer that normalises queries and keys over all heads, where GPUs share it.
    pub norm_exchange: SimDuration,
    /// Every layer whose products scale their inputs to 8 bit in blocks.
    pub quantize: SimDuration,
}

/// Step times composed of operators.
#[derive(Clone, Debug, PartialEq)]
pub struct Composed {
    /// The times, in milliseconds, by component.
    pub times: MeasuredTimes,
    /// Operators that were measured under another engine, as `experts of sglang`.
    pub borrowed: Vec<String>,
}

impl Hardware {
    /// The step times of this hardware under an engine with these kernels, composed of its
    /// operators; `None` if it has none.
    ///
    /// # Errors
    /// Names the first operator that was not measured.
    pub fn composed(
        &self,
        engine: &str,
        beside: &Beside,
        kernels: &Kernels,
    ) -> Option<Result<Composed, Missing>> {
        let operators = self.operators.as_ref()?;
        let borrowed = Vec::new();
        let mut composing = Composing { operators, hardware: self, engine, kernels, borrowed };
        let times = composing.times(beside);
        Some(times.map(|times| Composed { times, borrowed: composing.borrowed }))
    }

    /// What it uses of an engine's kernels: attention to a latent has its own.
    pub(super) fn used(&self, kernels: &Kernels) -> Kernels {
        match self.shape.latent {
            Some(_) => Kernels { decode_attention: 1.0, ..*kernels },
            None => *kernels,
        }
    }

    /// What of its step times is scaled under these kernels, in words; `None` if nothing is.
    pub(super) fn scaled(&self, kernels: &Kernels) -> Option<String> {
        let Kernels { fp8_prompts, fp8_decodes, decode_attention } = self.used(kernels);
        let fp8 = [self.weight_dtype, self.rest_dtype].contains(&Dtype::Fp8)
            && (fp8_prompts, fp8_decodes) != (1.0, 1.0);
        let products = fp8.then(|| {
            format!("products in FP8 by {fp8_prompts} for prompts and {fp8_decodes} for decodes")
        });
        let attention = (decode_attention != 1.0)
            .then(|| format!("attention of decodes by {decode_attention}"));
        let parts: Vec<String> = products.into_iter().chain(attention).collect();
        (!parts.is_empty()).then(|| parts.join(", "))
    }

    /// What its step times are worth, where they were not measured on this GPU under this
    /// version of the engine: what results must not be shown without.
    pub fn marks(&self, engine: &str, kernels: &Kernels) -> Vec<String> {
        let scaled = self.scaled(kernels).map(|scaled| {
            format!("step times are scaled from those of another version of {engine}: {scaled}")
        });
        let borrowed = self.efficiency.borrowed_from.as_ref().map(|from| {
            format!(
                "step times are borrowed: by the shares of the peaks that {from} reaches; {} was \
                 not measured",
                self.gpu.name
            )
        });
        scaled.into_iter().chain(borrowed).collect()
    }

    /// [Marks](Self::marks), and what of its step times stands in for something else.
    pub fn notices(&self, engine: &str, kernels: &Kernels) -> Vec<String> {
        let mut notices = self.marks(engine, kernels);
        if self.tp > MEASURED_GPUS {
            notices.push(format!(
                "all-reduce among {} GPUs is taken to be as fast as within a node of \
                 {MEASURED_GPUS}, where it was measured",
                self.tp
            ));
        }
        if let Some(Ok(composed)) = self.composed(engine, &Beside::default(), kernels)
            && !composed.borrowed.is_empty()
        {
            notices.push(format!(
                "stands in for operators that were not measured under {engine}: {}",
                composed.borrowed.join(", ")
            ));
        }
        notices
    }

    /// What is left out where all layers hold KV of the whole context.
    pub fn windows_notice(&self) -> Option<String> {
        let window = self.shape.window?;
        Some(format!(
            "layers with a window of {} hold KV of the whole context, as in one pool for all layers",
            window.tokens
        ))
    }
}

/// An operator that was not measured.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{operator} {shape} in {format} under {engine}")]
pub struct Missing {
    operator: String,
    engine: String,
    format: String,
    shape: String,
}

impl Missing {
    /// As the answer to a key that asked for it.
    pub(crate) fn invalid(&self, gpu: &str) -> Invalid {
        Invalid::new(
            "step_time.kind",
            "\"operators\"",
            format!(
                "another kind, since the operators measured on {gpu} do not include {self}: \
                 {{ kind = \"linear\", .. }} or {{ kind = \"fixed\", .. }}, or another format, tp, ep or \
                 attention_dp"
            ),
        )
    }
}

struct Composing<'a> {
    operators: &'a Operators,
    hardware: &'a Hardware,
    engine: &'a str,
    kernels: &'a Kernels,
    borrowed: Vec<String>,
}

impl Composing<'_> {
    fn times(&mut self, beside: &Beside) -> Result<MeasuredTimes, Missing> {
        let Hardware { shape, tp, .. } = self.hardware;
        let tokens = self.operators.points("gemm");
        let gemm = self.products(tokens)?;
        let table = shape.logits_gemm(*tp);
        let logits = self.gemm(Dtype::Bf16, table.n, table.k)?.scaled(1e-3);
        let elementwise = self.hardware.elementwise();
        let fixed_ms = elementwise.step_s * 1e3 + self.beside_ms(beside);
        let elem = Curve::through(&[1.0, 16_384.0], |tokens| {
            fixed_ms + elementwise.token_s * 1e3 * tokens
        });
        let comm = self.reduces(tokens, "graph")?;
        let comm_eager = self.reduces(tokens, "eager").ok();
        let (prompt, decode) = self.attention()?;
        let together = self.together()?;
        let components =
            Components { gemm, elem, comm, comm_eager, logits, prompt, decode, together };
        Ok(MeasuredTimes::of(components))
    }

    fn beside_ms(&self, beside: &Beside) -> f64 {
        let Hardware { shape, tp, rest_dtype, .. } = self.hardware;
        let layers = f64::from(shape.layers);
        let exchange = if shape.norm_over_heads && *tp > 1 { layers } else { 0.0 };
        let quantize = if *rest_dtype == Dtype::Fp8Block { layers } else { 0.0 };
        beside.step.as_millis()
            + exchange * beside.norm_exchange.as_millis()
            + quantize * beside.quantize.as_millis()
    }

    /// Matrix products and experts of all layers, milliseconds by tokens.
    fn products(&mut self, tokens: &[f64]) -> Result<Curve, Missing> {
        let Hardware { shape, tp, rest_dtype, .. } = self.hardware;
        let (tp, rest) = (*tp, *rest_dtype);
        let layers = f64::from(shape.layers);
        let dense_layers = f64::from(shape.dense_layers());
        let mut parts: Vec<(f64, Curve)> = Vec::new();
        if shape.latent.is_none() {
            for gemm in shape.grouped_gemms(tp) {
                parts.push((layers, self.gemm(rest, gemm.n, gemm.k)?));
            }
        }
        if dense_layers > 0.0 {
            for gemm in shape.feed_forward_gemms(shape.ffn, tp) {
                parts.push((dense_layers, self.gemm(rest, gemm.n, gemm.k)?));
            }
        }
        if let Some(experts) = &shape.experts {
            let with_experts = layers - dense_layers;
            let router =
                self.gemm(Dtype::Bf16, f64::from(experts.count), f64::from(shape.hidden))?;
            parts.push((with_experts, router));
            if self.hardware.attention_dp == 1 {
                parts.push((with_experts, self.experts(experts)?));
            }
            if experts.shared > 0 {
                for gemm in shape.feed_forward_gemms(experts.ffn * experts.shared, tp) {
                    parts.push((with_experts, self.gemm(rest, gemm.n, gemm.k)?));
                }
            }
        }
        let ms = |tokens| {
            parts.iter().map(|(times, curve)| times * curve.at(tokens)).sum::<f64>() * 1e-3
        };
        Ok(Curve::through(tokens, ms))
    }

    fn gemm(&mut self, dtype: Dtype, n: f64, k: f64) -> Result<Curve, Missing> {
        let measured = self.curve("gemm", dtype.as_str(), &format!("{n}x{k}"))?;
        Ok(measured.map(|tokens, us| us * self.kernels.products(dtype, tokens)))
    }

    /// The routed experts of a layer, on the GPU with most of the work.
    fn experts(&mut self, experts: &Experts) -> Result<Curve, Missing> {
        let Hardware { shape, ep, weight_dtype, .. } = self.hardware;
        let Experts { count, per_token, ffn, .. } = experts;
        let sharers = self.hardware.gpus() / ep;
        let size = format!("{}x{ffn} {per_token}/{count} tp{sharers} ep{ep}", shape.hidden);
        self.curve("experts", weight_dtype.as_str(), &size)
    }

    /// What ranks do together in a step, milliseconds by the tokens of all; `None` without
    /// ranks.
    fn together(&mut self) -> Result<Option<Curve>, Missing> {
        let Hardware { shape, attention_dp: ranks, .. } = self.hardware;
        let Some(routed) = shape.experts.as_ref().filter(|_| *ranks > 1) else { return Ok(None) };
        let layers = f64::from(shape.layers - shape.dense_layers());
        let token_bytes = 2.0 * f64::from(shape.hidden);
        let experts = self.experts(routed)?;
        let [gather, scatter] = [self.exchange("gather")?, self.exchange("scatter")?];
        Ok(Some(Curve::through(&experts.xs, |tokens| {
            let bytes = tokens * token_bytes;
            layers * (gather.at(bytes) + experts.at(tokens) + scatter.at(bytes)) * 1e-3
        })))
    }

    /// What is sent between the ranks of a worker, microseconds by bytes of all together. No
    /// engine has its own.
    fn exchange(&self, operator: &str) -> Result<Curve, Missing> {
        let ranks = self.hardware.attention_dp.to_string();
        let key = Key { engine: "nccl".to_owned(), ..self.key(operator, "bf16", &ranks, 0) };
        let Some(times) = self.operators.times(&key) else { return Err(missing(key)) };
        Ok(Curve { xs: self.operators.points(operator).to_vec(), ys: times.us.clone() })
    }

    /// All-reduces of a step, milliseconds by tokens.
    fn reduces(&mut self, tokens: &[f64], launched: &str) -> Result<Curve, Missing> {
        let Hardware { shape, tp, attention_dp, .. } = self.hardware;
        if *tp == 1 {
            return Ok(Curve::through(tokens, |_| 0.0));
        }
        // Behind experts ranks have another exchange.
        let behind = if *attention_dp > 1 { shape.dense_layers() } else { shape.layers };
        let reduces = f64::from(shape.layers + behind);
        let token_bytes = 2.0 * f64::from(shape.hidden);
        let by_bytes = self.curve("allreduce", launched, &tp.to_string())?;
        Ok(Curve::through(tokens, |tokens| reduces * by_bytes.at(tokens * token_bytes) * 1e-3))
    }

    /// Attention of prompts, by new and cached tokens, and of decodes, by sequences and
    /// the context of each; milliseconds of all layers.
    fn attention(&mut self) -> Result<(Grid, Grid), Missing> {
        let Hardware { shape, tp, .. } = self.hardware;
        let window_layers = f64::from(shape.window_layers());
        let full_layers = f64::from(shape.layers) - window_layers;
        let heads = shape.heads / tp;
        let (prompt, decode, format, size) = if let Some(latent) = &shape.latent {
            let Hardware { rest_dtype, kv_dtype, .. } = self.hardware;
            let kind = latent_kind(shape.hidden, latent).unwrap_or("latent of other dimensions,");
            let format = format!("{rest_dtype}/{kv_dtype}");
            ("latent_prompt", "latent_decode", format, format!("{kind} {heads}"))
        } else {
            let kv_heads = shape.kv_heads_per_gpu(*tp);
            let size = format!("{heads}/{kv_heads}x{} w0", shape.head_size);
            ("prompt", "decode", self.hardware.kv_dtype.to_string(), size)
        };
        let new = self.curve(prompt, &format, &size)?;
        let decodes = self.grid(decode, &format, &size)?;
        let with_window = match shape.window {
            Some(window) => {
                let size = size.replace("w0", &format!("w{}", window.tokens));
                Some((self.curve(prompt, &format, &size)?, self.grid(decode, &format, &size)?))
            }
            None => None,
        };
        let ratio = self.hardware.used(self.kernels).decode_attention;
        let decode = decodes.map(|seqs, context, us| {
            let window = with_window.as_ref().map_or(0.0, |(_, grid)| grid.at(seqs, context));
            (full_layers * us + window_layers * window) * 1e-3 * ratio
        });
        let pair_us = new.bend();
        let prompt = Grid::of(&new.xs, &CACHED_TOKENS, |tokens, cached| {
            let over_prefix =
                (pair_us * tokens * cached).max(decodes.at(1.0, cached) - decodes.at(1.0, 0.0));
            let window = with_window.as_ref().map_or(0.0, |(curve, _)| curve.at(tokens));
            (full_layers * (new.at(tokens) + over_prefix) + window_layers * window) * 1e-3
        });
        Ok((prompt, decode))
    }

    fn curve(&mut self, operator: &str, format: &str, shape: &str) -> Result<Curve, Missing> {
        let key = self.key(operator, format, shape, 0);
        let Some(times) = self.operators.times(&key) else { return Err(missing(key)) };
        self.note(operator, times);
        Ok(Curve { xs: self.operators.points(operator).to_vec(), ys: times.us.clone() })
    }

    fn grid(&mut self, operator: &str, format: &str, shape: &str) -> Result<Grid, Missing> {
        let key = self.key(operator, format, shape, 0);
        let points = self.operators.points(operator);
        let mut grid = Grid { xs: Vec::new(), rows: Vec::new() };
        for (sequences, times) in self.operators.by_sequences(&key) {
            grid.xs.push(f64::from(sequences));
            grid.rows.push(Curve { xs: points.to_vec(), ys: times.us.clone() });
            self.note(operator, times);
        }
        if grid.xs.len() < 2 { Err(missing(key)) } else { Ok(grid) }
    }

    fn key(&self, operator: &str, format: &str, shape: &str, sequences: u32) -> Key {
        Key {
            operator: operator.to_owned(),
            engine: self.engine.to_owned(),
            format: format.to_owned(),
            shape: shape.to_owned(),
            sequences,
        }
    }

    fn note(&mut self, operator: &str, times: &Times) {
        if times.measured_under != self.engine {
            let borrowed = format!("{operator} of {}", times.measured_under);
            if !self.borrowed.contains(&borrowed) {
                self.borrowed.push(borrowed);
            }
        }
    }
}

fn missing(key: Key) -> Missing {
    let Key { operator, engine, format, shape, .. } = key;
    Missing { operator, engine, format, shape }
}

/// The name in the tables of attention with these dimensions, which are those of
/// DeepSeek-V3 (and Kimi-K2) and of GLM-5.
fn latent_kind(hidden: u32, latent: &Latent) -> Option<&'static str> {
    let Latent { query_rank, kv_rank, nope_size, rope_size, value_size, index } = *latent;
    let index = index.map(|index| (index.heads, index.size, index.tokens));
    match (hidden, [query_rank, kv_rank, nope_size, rope_size, value_size], index) {
        (7168, [1536, 512, 128, 64, 128], None) => Some("mla"),
        (6144, [2048, 512, 192, 64, 256], Some((32, 128, 2048))) => Some("dsa"),
        _ => None,
    }
}
