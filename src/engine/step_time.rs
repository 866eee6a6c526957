//! How long a step takes on the GPU.

use crate::engine::roofline::Roofline;
use crate::engine::table::Table;
pub use crate::engine::work::{AffinePiece, PrefillChunk, StepWork};
use crate::time::SimDuration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a step costs, as a sum; what `sim calibrate --live` fits. Attention over a
/// prompt costs a constant for each pair of a new token and one that it attends
/// to, of which there are as many as `PrefillChunk`s say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Linear {
    /// Every step.
    pub step: SimDuration,
    /// Every prompt token computed.
    pub prefill_token: SimDuration,
    /// Every pair of a prompt token computed and one that it attends to.
    #[serde(default)]
    pub prefill_pair: SimDuration,
    /// Every sequence that decodes.
    pub decode_seq: SimDuration,
    /// Every token that those attend to.
    #[serde(default)]
    pub decode_token: SimDuration,
}

impl Linear {
    fn step(&self, work: &StepWork<'_>) -> SimDuration {
        let prompts = work.prefill.iter().map(|chunk| {
            let (new, cached) = (u64::from(chunk.new_tokens), u64::from(chunk.cached_tokens));
            // Each new token attends to itself and all before it.
            let pairs = (new * cached).saturating_add(new * (new + 1) / 2);
            self.prefill_token * new + self.prefill_pair * pairs
        });
        let decodes =
            self.decode_seq * u64::from(work.decode_seqs) + self.decode_token * work.decode_context;
        prompts.fold(self.step + decodes, |sum, prompt| sum + prompt)
    }
}

/// A model of the time that a step takes on the GPU.
///
/// An enum and not a trait object, since it is asked once per step.
#[expect(clippy::large_enum_variant, reason = "one per worker, and asked once per step")]
#[derive(Clone, Debug, PartialEq)]
pub enum StepTime {
    /// Constant times, whatever the number of tokens.
    Fixed {
        /// Added if the step holds prompt tokens.
        prefill: SimDuration,
        /// Added if the step holds decodes.
        decode: SimDuration,
    },
    /// The compact formula.
    Roofline(Roofline),
    /// Interpolated measurements.
    Table(Box<Table>),
    /// Sums of constant costs, for engines on any hardware.
    Linear(Linear),
    /// No time at all, for tests of what does not depend on it.
    Instant,
    /// Another model, faster: every time divided by a ratio above 0.
    Faster(Box<StepTime>, f64),
}

impl StepTime {
    /// How long a step with this work takes: a worker, or a rank of one with several in
    /// what it does by itself.
    pub fn step(&self, work: &StepWork<'_>) -> SimDuration {
        debug_assert!(work.padded_seqs >= work.decode_seqs, "{work:?}");
        match self {
            Self::Fixed { prefill, decode } => {
                let prompts = if work.prefill.is_empty() { SimDuration::ZERO } else { *prefill };
                let decodes = if work.decode_seqs == 0 { SimDuration::ZERO } else { *decode };
                prompts + decodes
            }
            Self::Roofline(roofline) => roofline.step(work),
            Self::Table(table) => table.step(work),
            Self::Linear(linear) => linear.step(work),
            Self::Instant => SimDuration::ZERO,
            Self::Faster(model, ratio) if !work.prefill.is_empty() => {
                faster(model.step(work), *ratio)
            }
            Self::Faster(..) if work.decode_seqs == 0 => SimDuration::ZERO,
            // Rounded as the piece is.
            Self::Faster(..) => self
                .decode_piece(work.decode_seqs, work.padded_seqs, work.decode_context)
                .at(work.decode_context),
        }
    }

    /// How long the ranks of a worker take in a step for what they do together, which have
    /// so many `tokens` in all: experts, and what is sent between GPUs for them. Models that
    /// tell no such part have it in [`step`](Self::step), at the tokens of the slowest rank.
    pub fn together(&self, tokens: u32) -> SimDuration {
        match self {
            Self::Table(table) => table.together(tokens),
            Self::Faster(model, ratio) => faster(model.together(tokens), *ratio),
            Self::Fixed { .. } | Self::Roofline(_) | Self::Linear(_) | Self::Instant => {
                SimDuration::ZERO
            }
        }
    }

    /// Seconds of the longest step that could be asked for: a whole budget of
    /// prompt tokens after `context_tokens` others, or every sequence decoding
    /// with as many. Does not overflow where a step would.
    pub(crate) fn longest_s(&self, seqs: u32, prefill_tokens: u32, context_tokens: u32) -> f64 {
        let chunk =
            PrefillChunk { new_tokens: prefill_tokens, cached_tokens: context_tokens, last: true };
        let prefill = self.step(&StepWork {
            prefill: &[chunk],
            decode_seqs: 0,
            decode_context: 0,
            padded_seqs: 0,
        });
        let context = u64::from(seqs) * u64::from(context_tokens);
        let piece = self.decode_piece(seqs, seqs, context);
        let decode_ps = piece.base_ps as f64 + piece.per_token_ps as f64 * context as f64;
        prefill.as_secs() + decode_ps / 1e12
    }

    /// The piece that holds `context` for decode-only steps of `seqs >= 1`
    /// sequences that run as `padded_seqs`. Within it a step lasts exactly what
    /// [`step`](Self::step) says.
    pub fn decode_piece(&self, seqs: u32, padded_seqs: u32, context: u64) -> AffinePiece {
        debug_assert!(1 <= seqs && seqs <= padded_seqs, "{seqs} sequences as {padded_seqs}");
        match self {
            Self::Fixed { decode, .. } => AffinePiece::flat(*decode),
            Self::Roofline(roofline) => roofline.decode_piece(seqs, padded_seqs, context),
            Self::Table(table) => table.decode_piece(seqs, padded_seqs, context),
            Self::Linear(linear) => AffinePiece {
                base_ps: (linear.step + linear.decode_seq * u64::from(seqs)).as_ps(),
                per_token_ps: linear.decode_token.as_ps(),
                context_end: u64::MAX,
            },
            Self::Instant => AffinePiece::flat(SimDuration::ZERO),
            Self::Faster(model, ratio) => {
                let piece = model.decode_piece(seqs, padded_seqs, context);
                let faster = |ps| faster(SimDuration::from_ps(ps), *ratio).as_ps();
                AffinePiece {
                    base_ps: faster(piece.base_ps),
                    per_token_ps: faster(piece.per_token_ps),
                    ..piece
                }
            }
        }
    }
}

/// `time` on hardware that is `ratio` times as fast.
pub(crate) fn faster(time: SimDuration, ratio: f64) -> SimDuration {
    SimDuration::from_secs_f64(time.as_secs() / ratio)
}
