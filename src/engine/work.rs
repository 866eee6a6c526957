//! What a step has to compute, and the form of the answer how long that takes.

use crate::time::SimDuration;

/// FP8 matrix products with a scale per tensor run in tiles of this many rows.
pub(super) const TILE_ROWS: u32 = 128;

/// A piece of prompt computed in one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefillChunk {
    /// Tokens computed now; at least 1.
    pub new_tokens: u32,
    /// Tokens of the same sequence whose KV is already there.
    pub cached_tokens: u32,
    /// True if the chunk reaches the end of the prompt, so a token is sampled.
    pub last: bool,
}

/// The work of one step.
#[derive(Clone, Copy, Debug)]
pub struct StepWork<'a> {
    /// Prompt chunks.
    pub prefill: &'a [PrefillChunk],
    /// Sequences that decode one token.
    pub decode_seqs: u32,
    /// Sum over those of the tokens they attend to, the new one included.
    pub decode_context: u64,
    /// Sequences the kernels are launched for: `decode_seqs`, or the captured
    /// graph size it is padded to.
    pub padded_seqs: u32,
}

/// A decode-only step lasts `base_ps + per_token_ps * decode_context` as long
/// as `decode_context < context_end` and the batch stays the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AffinePiece {
    /// Picoseconds whatever the context.
    pub base_ps: u64,
    /// Picoseconds per token of context.
    pub per_token_ps: u64,
    /// First context sum at which another piece begins; `u64::MAX` if none.
    pub context_end: u64,
}

impl AffinePiece {
    /// A step of constant time.
    pub const fn flat(time: SimDuration) -> Self {
        Self { base_ps: time.as_ps(), per_token_ps: 0, context_end: u64::MAX }
    }

    /// The step's time at `decode_context`. Within what `EngineConfig::validate`
    /// lets through this is less than a day, or 100 days on the slowest worker.
    pub fn at(&self, decode_context: u64) -> SimDuration {
        debug_assert!(decode_context < self.context_end);
        SimDuration::from_ps(self.base_ps + self.per_token_ps * decode_context)
    }
}
