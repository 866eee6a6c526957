//! Step times interpolated from measured component times.
//!
//! A file of `models/tables/` has the columns `component,x,y,ms`:
//!
//! | component | x | y | between the points |
//! |---|---|---|---|
//! | `gemm` `elem` `comm` | tokens of the step | | linear in x |
//! | `logits` | sequences that need logits | | linear in x |
//! | `ctx_attn` | new tokens of a chunk | its cached tokens | see below |
//! | `gen_attn` | decode sequences | context of each | linear in x and y |
//!
//! A step is the sum: matrix products at the tokens of prompt and decode
//! together, prompt attention for each chunk, decode attention once. That is
//! how the source composes mixed steps too; they were not measured.
//!
//! * Beyond a grid, the line through its last two points goes on.
//! * Prompt attention is a fixed cost plus a rate per new token that grows with
//!   the number of new tokens; the rate is what is interpolated, since a chord
//!   of the time itself is up to 11 % off a parabola halfway between points. Up
//!   to the second point the rate is that of the second.
//! * Matrix products of more than 128 tokens that are no multiple of 128 can
//!   cost more (FP8 with a scale per tensor pads them). Their surcharge over
//!   the multiples is interpolated apart, and held at its first and last value.
//! * Decode attention never gets shorter with more context: where measurements
//!   do, by noise, the longer time is kept.

pub use crate::engine::curves::TableError;
use crate::engine::curves::{Curve, Grid, Points};
use crate::engine::hardware::Dtype;
use crate::engine::kernels::Kernels;
use crate::engine::work::{AffinePiece, PrefillChunk, StepWork, TILE_ROWS};
use crate::time::SimDuration;

/// Measured component times of one deployment.
#[derive(Clone, Debug, PartialEq)]
pub struct MeasuredTimes {
    gemm: Curve,
    /// What a token count off the multiples of 128 adds to `gemm`.
    gemm_surcharge: Option<Curve>,
    elem: Curve,
    comm: Curve,
    /// `comm` of steps with prompts, if they are launched otherwise.
    comm_eager: Option<Curve>,
    logits: Curve,
    /// Milliseconds of a chunk of the fewest new tokens, by cached tokens.
    ctx_attn_fixed: Curve,
    /// Milliseconds per further new token, by new and cached tokens.
    ctx_attn_rate: Grid,
    gen_attn: Grid,
    /// What the ranks of a worker do together, by the tokens of all.
    together: Option<Curve>,
}

/// Measured times made ready for a worker: see the module's documentation.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    measured: MeasuredTimes,
    /// By number of decode sequences: attention as affine pieces.
    attention: Vec<Vec<AttentionPiece>>,
    /// By padded batch size: a decode-only step without attention.
    dense_ps: Vec<u64>,
}

/// Decode attention over a stretch of context sums. Alone its line may begin
/// below zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct AttentionPiece {
    base_ps: i64,
    per_token_ps: u64,
    context_end: u64,
}

/// Component times by name, milliseconds; see the module's documentation.
#[derive(Clone, Debug)]
pub(crate) struct Components {
    pub(crate) gemm: Curve,
    pub(crate) elem: Curve,
    pub(crate) comm: Curve,
    pub(crate) comm_eager: Option<Curve>,
    pub(crate) logits: Curve,
    /// By new and cached tokens.
    pub(crate) prompt: Grid,
    /// By sequences and the context of each.
    pub(crate) decode: Grid,
    /// Where a worker has ranks: what these do together, by the tokens of all; the others
    /// are those of one rank.
    pub(crate) together: Option<Curve>,
}

impl MeasuredTimes {
    /// Times whose matrix products cost nothing extra off the multiples of 128.
    pub(crate) fn of(components: Components) -> Self {
        let Components { gemm, elem, comm, comm_eager, logits, prompt, decode, together } =
            components;
        let (ctx_attn_fixed, ctx_attn_rate) = prompt.split_fixed();
        Self {
            gemm,
            gemm_surcharge: None,
            elem,
            comm,
            comm_eager,
            logits,
            ctx_attn_fixed,
            ctx_attn_rate,
            gen_attn: decode.ascending(),
            together,
        }
    }

    /// Reads the text of a table; lines that begin with `#` are comments.
    ///
    /// # Errors
    /// The line of the first row that cannot be used, or of the end of the file
    /// if a component has too few points or a hole in its grid.
    pub fn parse(text: &str) -> Result<Self, TableError> {
        let points = Points::parse(text)?;
        let aligned =
            |&(x, _): &(f64, f64)| x <= f64::from(TILE_ROWS) || x % f64::from(TILE_ROWS) == 0.0;
        let gemm_points = points.line("gemm")?;
        let gemm = points.curve("gemm", gemm_points.iter().copied().filter(aligned))?;
        let surcharge: Vec<_> = gemm_points
            .iter()
            .filter(|point| !aligned(point))
            .map(|&(x, ms)| (x, ms - gemm.at(x)))
            .collect();
        let gemm_surcharge = match surcharge.len() {
            0 => None,
            _ => Some(points.curve("gemm off the multiples of 128", surcharge.into_iter())?),
        };
        let ctx_attn = points.grid("ctx_attn")?;
        let gen_attn = points.grid("gen_attn")?.ascending();
        let curve = |component| points.curve(component, points.line(component)?.into_iter());
        let (ctx_attn_fixed, ctx_attn_rate) = ctx_attn.split_fixed();
        Ok(Self {
            gemm,
            gemm_surcharge,
            elem: curve("elem")?,
            comm: curve("comm")?,
            comm_eager: None,
            logits: curve("logits")?,
            ctx_attn_fixed,
            ctx_attn_rate,
            gen_attn,
            together: None,
        })
    }

    /// The times of a version whose kernels are others, with weights in `dtype`.
    pub(crate) fn scaled(&self, kernels: &Kernels, dtype: Dtype) -> Self {
        let products = |curve: &Curve| curve.map(|x, ms| ms * kernels.products(dtype, x));
        Self {
            gemm: products(&self.gemm),
            gemm_surcharge: self.gemm_surcharge.as_ref().map(products),
            gen_attn: self.gen_attn.map(|_, _, ms| ms * kernels.decode_attention),
            ..self.clone()
        }
    }

    /// The step-time model of these times, tabulated for batches up to `max_num_seqs`.
    pub fn step_time(&self, max_num_seqs: u32) -> Table {
        Table {
            measured: self.clone(),
            attention: (1..=max_num_seqs).map(|seqs| self.attention_pieces(seqs)).collect(),
            dense_ps: (0..=max_num_seqs)
                .map(|seqs| self.dense_ps(seqs, seqs, &self.comm))
                .collect(),
        }
    }

    /// Everything but attention.
    fn dense_ps(&self, tokens: u32, sampled: u32, comm: &Curve) -> u64 {
        let x = f64::from(tokens);
        let mut ms = self.gemm.at(x) + self.elem.at(x) + comm.at(x);
        if tokens > TILE_ROWS && !tokens.is_multiple_of(TILE_ROWS) {
            ms += self.gemm_surcharge.as_ref().map_or(0.0, |curve| curve.at_clamped(x));
        }
        if sampled > 0 {
            ms += self.logits.at(f64::from(sampled));
        }
        SimDuration::from_millis_f64(ms).as_ps()
    }

    fn ctx_attn_ms(&self, chunk: PrefillChunk) -> f64 {
        let (new, cached) = (f64::from(chunk.new_tokens), f64::from(chunk.cached_tokens));
        let further = new - self.ctx_attn_rate.xs[0];
        let ms = self.ctx_attn_fixed.at(cached) + self.ctx_attn_rate.at(new, cached) * further;
        ms.max(0.0)
    }

    fn attention_pieces(&self, seqs: u32) -> Vec<AttentionPiece> {
        let batch = f64::from(seqs);
        let contexts = &self.gen_attn.rows[0].xs;
        let ps = |context: f64| self.gen_attn.at(batch, context) * 1e9;
        (1..contexts.len())
            .map(|i| {
                let (low, high) = (contexts[i - 1], contexts[i]);
                let per_token = (ps(high) - ps(low)) / ((high - low) * batch);
                let per_token_ps = round_ps(per_token).max(0);
                AttentionPiece {
                    base_ps: round_ps(ps(low) - per_token_ps as f64 * low * batch),
                    per_token_ps: per_token_ps.unsigned_abs(),
                    context_end: match i + 1 < contexts.len() {
                        true => round_ps(high * batch).unsigned_abs(),
                        false => u64::MAX,
                    },
                }
            })
            .collect()
    }
}

#[expect(clippy::cast_possible_truncation, reason = "`as` saturates; times of hours fit")]
fn round_ps(ps: f64) -> i64 {
    ps.round() as i64
}

impl Table {
    /// See [`StepTime::step`](super::step_time::StepTime::step).
    pub fn step(&self, work: &StepWork<'_>) -> SimDuration {
        if work.prefill.is_empty() {
            return self
                .decode_piece(work.decode_seqs, work.padded_seqs, work.decode_context)
                .at(work.decode_context);
        }
        let mut tokens = work.padded_seqs;
        let mut sampled = work.padded_seqs;
        let mut ctx_attn_ms = 0.0;
        for &chunk in work.prefill {
            tokens += chunk.new_tokens;
            sampled += u32::from(chunk.last);
            ctx_attn_ms += self.measured.ctx_attn_ms(chunk);
        }
        let comm = self.measured.comm_eager.as_ref().unwrap_or(&self.measured.comm);
        let without_decode = SimDuration::from_ps(self.measured.dense_ps(tokens, sampled, comm))
            + SimDuration::from_millis_f64(ctx_attn_ms);
        if work.decode_seqs == 0 {
            return without_decode;
        }
        let attention = self.attention(work.decode_seqs, work.decode_context);
        attention.plus(without_decode.as_ps()).at(work.decode_context)
    }

    /// See [`StepTime::together`](super::step_time::StepTime::together).
    pub fn together(&self, tokens: u32) -> SimDuration {
        let ms = self.measured.together.as_ref().map(|curve| curve.at(f64::from(tokens)));
        SimDuration::from_millis_f64(ms.unwrap_or(0.0))
    }

    /// See [`StepTime::decode_piece`](super::step_time::StepTime::decode_piece).
    pub fn decode_piece(&self, seqs: u32, padded_seqs: u32, context: u64) -> AffinePiece {
        let dense_ps = match self.dense_ps.get(padded_seqs as usize) {
            Some(&ps) => ps,
            None => self.measured.dense_ps(padded_seqs, padded_seqs, &self.measured.comm),
        };
        self.attention(seqs, context).plus(dense_ps)
    }

    fn attention(&self, seqs: u32, context: u64) -> AttentionPiece {
        let find = |pieces: &[AttentionPiece]| {
            pieces[pieces.partition_point(|piece| piece.context_end <= context)]
        };
        match self.attention.get(seqs as usize - 1) {
            Some(pieces) => find(pieces),
            None => find(&self.measured.attention_pieces(seqs)),
        }
    }
}

impl AttentionPiece {
    /// With the rest of the step. A line that would begin below zero begins at
    /// zero, and is then too long by what was cut off. That needs kernels that
    /// slow down with context as those of the L40S do, and more context than its
    /// memory holds: 2 million tokens.
    fn plus(self, dense_ps: u64) -> AffinePiece {
        AffinePiece {
            base_ps: dense_ps.saturating_add_signed(self.base_ps),
            per_token_ps: self.per_token_ps,
            context_end: self.context_end,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Matrix products 1 ms a token (2 ms more off the multiples of 128), 0.1 ms
    /// a row of logits; prompt attention 1 + new * (new + cached) ms; decode
    /// attention 1 ms per sequence and token.
    fn text() -> String {
        let mut text = String::from("component,x,y,ms\n");
        for x in [1, 128, 256] {
            text += &format!(
                "gemm,{x},0,{x}\nelem,{x},0,0\ncomm,{x},0,0\nlogits,{x},0,{}\n",
                0.1 * f64::from(x)
            );
        }
        text += "gemm,130,0,132\ngemm,200,0,202\n";
        for new in [10, 20, 40] {
            for cached in [0, 100] {
                text += &format!("ctx_attn,{new},{cached},{}\n", 1 + new * (new + cached));
            }
        }
        for seqs in [1, 2] {
            for context in [10, 20, 40] {
                text += &format!("gen_attn,{seqs},{context},{}\n", seqs * context);
            }
        }
        text
    }

    fn measured() -> MeasuredTimes {
        MeasuredTimes::parse(&text()).unwrap()
    }

    fn ms(piece: AffinePiece, context: u64) -> f64 {
        piece.at(context).as_millis()
    }

    fn prefill_ms(new_tokens: u32, cached_tokens: u32) -> f64 {
        let chunk = PrefillChunk { new_tokens, cached_tokens, last: false };
        let work =
            StepWork { prefill: &[chunk], decode_seqs: 0, decode_context: 0, padded_seqs: 0 };
        measured().step_time(4).step(&work).as_millis()
    }

    #[test]
    fn between_and_beyond_points_decode_attention_is_linear() {
        let table = measured().step_time(4);
        for seqs in [1_u32, 2, 3, 4, 9] {
            for mean in [1_u64, 10, 15, 20, 39, 40, 1000] {
                let context = mean * u64::from(seqs);
                let piece = table.decode_piece(seqs, seqs, context);
                let expected = f64::from(seqs) * 1.1 + context as f64;
                assert!((ms(piece, context) - expected).abs() < 1e-6, "{seqs} {mean}");
            }
        }
    }

    #[test]
    fn a_dip_of_decode_attention_is_flattened() {
        let dip = text().replace("gen_attn,1,20,20", "gen_attn,1,20,5");
        let table = MeasuredTimes::parse(&dip).unwrap().step_time(4);
        for context in [10, 15, 19] {
            let piece = table.decode_piece(1, 1, context);
            assert_eq!((ms(piece, context), piece.per_token_ps), (11.1, 0));
        }
    }

    #[test]
    fn prompt_attention_is_exact_for_a_parabola_and_products_pay_off_the_multiples() {
        for new in [10, 20, 30, 40, 128] {
            for cached in [0, 50, 300] {
                let expected = f64::from(new) + f64::from(1 + new * (new + cached));
                assert!((prefill_ms(new, cached) - expected).abs() < 1e-6, "{new} {cached}");
            }
        }
        let products = |tokens: u32| prefill_ms(tokens, 0) - f64::from(1 + tokens * tokens);
        for (tokens, expected) in
            [(129, 131.0), (150, 152.0), (256, 256.0), (300, 302.0), (384, 384.0)]
        {
            assert!((products(tokens) - expected).abs() < 1e-6, "{tokens}");
        }
    }
}
