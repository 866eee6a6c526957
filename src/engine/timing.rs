//! How long a worker's steps take: its step-time model, at its pace.
//!
//! The only place that computes this: for the steps that run, for the rule that weighs
//! a load from a lower tier against computing, and for the [truth](crate::truth).

use super::core::Core;
use super::work::{AffinePiece, PrefillChunk, StepWork};
use crate::time::SimDuration;

impl Core {
    /// GPU time of steps in which only the present sequences decode, which are one or more,
    /// without what ranks do together.
    pub(super) fn decode_piece(&self) -> AffinePiece {
        let (config, decode) = (&self.config, &self.decode);
        let padded_seqs = self.padded_seqs();
        let piece = config.step_time.decode_piece(decode.len(), padded_seqs, decode.reads());
        self.pace.piece(piece)
    }

    /// Sequences that decode, those that fill up a captured graph included.
    pub(super) fn padded_seqs(&self) -> u32 {
        let seqs = self.decode.len();
        self.config.graph_seqs(seqs, false).unwrap_or(seqs)
    }

    /// GPU time of a step with these pieces of prompts beside the sequences that decode,
    /// without what ranks do together.
    pub(super) fn mixed_time(&self, prefill: &[PrefillChunk]) -> SimDuration {
        self.eager_time(prefill, self.decode.len(), self.decode.reads())
    }

    fn eager_time(
        &self,
        prefill: &[PrefillChunk],
        decode_seqs: u32,
        decode_context: u64,
    ) -> SimDuration {
        let work = StepWork { prefill, decode_seqs, decode_context, padded_seqs: decode_seqs };
        self.pace.time(self.config.step_time.step(&work))
    }

    /// What ranks do together in a step of so many tokens. Those who weigh and judge ask for
    /// the tokens of this rank alone (assumed: what the others have is not known to it).
    pub(super) fn together(&self, tokens: u32) -> SimDuration {
        if self.config.attention_dp == 1 {
            return SimDuration::ZERO;
        }
        self.pace.time(self.config.step_time.together(tokens))
    }

    /// How long a step of the present batch takes, without prompts.
    pub(super) fn decode_time(&self) -> SimDuration {
        let decode = &self.decode;
        if decode.len() == 0 {
            return SimDuration::ZERO;
        }
        let (prepare, launch) = self.config.host_time(decode.len(), false);
        let gpu = self.decode_piece().at(decode.reads()) + self.together(decode.len());
        gpu.max(prepare + launch)
    }

    /// GPU time of the steps that compute a prompt alone, from its token `cached` on up
    /// to its token `target`.
    pub(super) fn prompt_time(&self, cached: u32, target: u32) -> SimDuration {
        let (mut time, mut cached_tokens) = (SimDuration::ZERO, cached);
        while cached_tokens < target {
            let new_tokens = self.config.max_num_batched_tokens.min(target - cached_tokens);
            let last = cached_tokens + new_tokens == target;
            time += self.eager_time(&[PrefillChunk { new_tokens, cached_tokens, last }], 0, 0)
                + self.together(new_tokens);
            cached_tokens += new_tokens;
        }
        time
    }

    /// How long the steps take that compute `tokens` of several prompts, the last
    /// of which has `prompt_tokens`, beside the sequences that decode: as if all were
    /// as far into theirs.
    pub(super) fn backlog_time(&self, tokens: u64, prompt_tokens: u32) -> SimDuration {
        let (config, decode_seqs) = (&self.config, self.decode.len());
        let budget = u64::from(config.max_num_batched_tokens.saturating_sub(decode_seqs).max(1));
        let (prepare, launch) = config.host_time(decode_seqs + 1, true);
        let step = |new_tokens: u64| {
            let new_tokens = u32::try_from(new_tokens).expect("within the budget");
            let cached_tokens = prompt_tokens.saturating_sub(new_tokens);
            let chunk = PrefillChunk { new_tokens, cached_tokens, last: true };
            let gpu = self.mixed_time(&[chunk]) + self.together(new_tokens + decode_seqs);
            gpu.max(prepare + launch)
        };
        let (full, rest) = (tokens / budget, tokens % budget);
        let rest = if rest > 0 { step(rest) } else { SimDuration::ZERO };
        if full > 0 { step(budget) * full + rest } else { rest }
    }
}
