//! What a worker is doing, and what it knows of the steps to come.

use super::StepRecord;
use super::pipeline::{Cadence, Pipeline};
use super::seq::SeqId;
use crate::time::SimTime;

/// A step that runs, and the decode-only steps that are known to follow.
#[derive(Debug)]
pub(super) struct Plan {
    /// Steps whose boundary has not been settled; at least 1.
    pub(super) steps: u64,
    pub(super) cadence: Cadence,
    /// Boundary after the last step.
    pub(super) end: SimTime,
    /// Results of the last step of the plan; the others only decode.
    pub(super) last: Results,
    pub(super) record: StepRecord,
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

/// What a prompt chunk came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ChunkEnd {
    /// More of the prompt is to come.
    Partial,
    /// The request's first token was sampled.
    FirstToken,
    /// A preempted request caught up and sampled its next token, the one of this number.
    NextToken(u32),
}

impl Results {
    /// Nothing that anyone could see but `decoded` tokens.
    pub(super) fn only_decoded(&self, decoded: u32) -> bool {
        self.decoded == decoded && self.chunks.is_empty() && self.ended.is_empty()
    }
}

impl Plan {
    /// Computes where the plan ends, seen from its last settled boundary.
    pub(super) fn find_end(&mut self, mut pipeline: Pipeline) {
        let mut cadence = self.cadence;
        pipeline.run(&mut cadence, self.steps, SimTime::MAX);
        self.end = pipeline.boundary;
    }

    /// Ends the plan at the first boundary at or after `now`.
    pub(super) fn cut(&mut self, mut pipeline: Pipeline, now: SimTime) {
        if self.steps == 1 || self.end <= now {
            return;
        }
        let before = SimTime::from_ps(now.as_ps().saturating_sub(1));
        let (start, mut cadence) = (pipeline, self.cadence);
        let passed = pipeline.run(&mut cadence, self.steps - 1, before);
        self.steps = passed.iter().map(|segment| segment.steps).sum::<u64>() + 1;
        self.find_end(start);
    }
}
