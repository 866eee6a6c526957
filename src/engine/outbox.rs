//! What workers hand to the outside.

use crate::event::WorkerEvent;
use crate::id::{RequestId, WorkerId};
use crate::stats::Histogram;
use crate::time::SimTime;
use std::collections::VecDeque;

/// What comes out of workers.
#[derive(Debug, Default)]
pub struct Outbox {
    /// Events in order of time.
    pub events: VecDeque<(SimTime, WorkerEvent)>,
    /// Requests whose KV the worker now has room for, with the tokens to be moved.
    pub awaited: Vec<(RequestId, u32)>,
    /// Every gap between two tokens of a request, in picoseconds.
    pub gaps: Histogram,
    /// Whether somebody wants to hear of every block that an output grows into.
    pub output_blocks: bool,
    /// The steps that ran, if somebody wants them.
    pub steps: Option<Vec<StepRecord>>,
}

/// One step, or a run of decode-only steps of one batch, for timelines and tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepRecord {
    /// Where.
    pub worker: WorkerId,
    /// The boundary at which the (first) step was formed.
    pub start: SimTime,
    /// The boundary after the (last) step.
    pub end: SimTime,
    /// Steps of this composition.
    pub steps: u64,
    /// Sequences without output that computed a part of their prompt, and its tokens.
    pub prefill_seqs: u32,
    /// Tokens of those.
    pub prefill_tokens: u32,
    /// Sequences with output: those that decode, and preempted ones that compute
    /// their tokens again.
    pub decode_seqs: u32,
    /// Tokens of those.
    pub decode_tokens: u32,
    /// KV blocks held at `end`, after ended requests gave theirs back.
    pub used_blocks: u32,
}

/// When a worker wants to be called, and for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// [`Worker::finish_step`](super::worker::Worker::finish_step) at this time.
    FinishStep(SimTime),
    /// [`Worker::start_step`](super::worker::Worker::start_step) at this time, after everything else of that time.
    StartStep(SimTime),
}
