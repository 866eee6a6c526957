//! What workers hand to the outside.

use super::step::{FormedStep, Results};
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
    /// Requests whose KV a worker now has room for, with the tokens to be moved to it.
    pub awaited: Vec<(WorkerId, RequestId, u32)>,
    /// Every gap between two tokens of a request, in picoseconds.
    pub gaps: Histogram,
    /// Whether to announce every block that an output grows into.
    pub output_blocks: bool,
    /// Whether to announce every token of an output, as if it were one that
    /// begins a block; only where steps are gone through one by one.
    pub output_tokens: bool,
    /// The steps that ran, if they are recorded.
    pub steps: Option<Vec<StepRecord>>,
    /// Where only steps that touch this time are wanted, and each by itself.
    pub each_step: Option<(SimTime, SimTime)>,
    /// Memory that each worker needs for a moment: in turn for all, it stays near.
    #[expect(clippy::vec_box, reason = "boxes go to ranks and come back")]
    pub(super) formed: Vec<Box<FormedStep>>,
    pub(super) spare: Vec<Results>,
}

impl Outbox {
    /// One that records steps.
    pub fn with_steps() -> Self {
        Self { steps: Some(Vec::new()), ..Self::default() }
    }

    /// True if a stretch of steps from `start` to `end` is to be recorded step by step.
    pub(super) fn wants_each(&self, start: SimTime, end: SimTime) -> bool {
        self.each_step.is_some_and(|(from, to)| start <= to && from <= end)
    }

    /// Takes note of a step, if it is wanted.
    pub(super) fn note_step(&mut self, record: StepRecord) {
        let is_wanted = self.each_step.is_none() || self.wants_each(record.start, record.end);
        if let Some(steps) = self.steps.as_mut().filter(|_| is_wanted) {
            steps.push(record);
        }
    }
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
    /// Requests in the batch when the (first) step was formed.
    pub running: u32,
    /// Requests at the worker that were not in it.
    pub waiting: u32,
    /// KV blocks held at `end`, after ended requests gave theirs back.
    pub used_blocks: u32,
}

impl StepRecord {
    /// A step of `worker` with nothing in it.
    pub(super) fn none(worker: WorkerId) -> Self {
        Self {
            worker,
            start: SimTime::ZERO,
            end: SimTime::ZERO,
            steps: 1,
            prefill_seqs: 0,
            prefill_tokens: 0,
            decode_seqs: 0,
            decode_tokens: 0,
            running: 0,
            waiting: 0,
            used_blocks: 0,
        }
    }

    /// False if it only kept others company.
    pub(super) fn has_seqs(&self) -> bool {
        self.prefill_seqs + self.decode_seqs > 0
    }
}

/// When a worker wants to be called, and for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// [`Worker::finish_step`](super::worker::Worker::finish_step) at this time.
    FinishStep(SimTime),
    /// [`Worker::start_step`](super::worker::Worker::start_step) at this time, after everything else of that time.
    StartStep(SimTime),
}
