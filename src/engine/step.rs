//! A step as a scheduler forms it, and what it leaves to be handled.

use super::seq::SeqId;
use super::work::PrefillChunk;

/// A step as the scheduling rules form it, decodes apart.
#[derive(Debug, Default)]
pub(super) struct FormedStep {
    /// Prompt chunks, in the order in which they were scheduled.
    pub(super) chunks: Vec<(SeqId, PrefillChunk)>,
    /// Requests in a batch for the first time, with the tokens they hit.
    pub(super) admitted: Vec<(SeqId, u32)>,
    /// Sequences that enter a batch with KV that was loaded for them.
    pub(super) loaded: Vec<SeqId>,
    /// Sequences that lost their blocks while the step was formed.
    pub(super) preempted: Vec<SeqId>,
    /// Sequences that decode and are left out of this step. They keep their blocks.
    pub(super) passed_over: Vec<SeqId>,
    /// Requests that were given blocks for KV from another worker, with the tokens to come.
    pub(super) awaited: Vec<(SeqId, u32)>,
    /// Requests whose KV came, and that decode their first token. They are among the decodes.
    pub(super) joined: Vec<SeqId>,
}

impl FormedStep {
    pub(super) fn clear(&mut self) {
        self.chunks.clear();
        self.admitted.clear();
        self.loaded.clear();
        self.preempted.clear();
        self.passed_over.clear();
        self.awaited.clear();
        self.joined.clear();
    }
}

/// What a step leaves to be handled at its boundary.
#[derive(Debug, Default)]
pub(super) struct Results {
    /// Sequences that decoded a token, the ended ones included.
    pub(super) decoded: u32,
    /// Prompt chunks, and what came of them.
    pub(super) chunks: Vec<(SeqId, ChunkEnd)>,
    /// Sequences that sampled their last token.
    pub(super) ended: Vec<SeqId>,
}

impl Results {
    /// Nothing at all: what it computed was given up.
    pub(super) fn is_empty(&self) -> bool {
        self.only_decoded(0)
    }

    /// Nothing that anyone could see but `decoded` tokens.
    pub(super) fn only_decoded(&self, decoded: u32) -> bool {
        self.decoded == decoded && self.chunks.is_empty() && self.ended.is_empty()
    }
}

/// What a prompt chunk came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ChunkEnd {
    /// More of the prompt is to come.
    Partial,
    /// The request's first token was sampled.
    FirstToken,
    /// A request that was preempted, or left out of a step, caught up and sampled its next
    /// token, the one of this number.
    NextToken(u32),
}
