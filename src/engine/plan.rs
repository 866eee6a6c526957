//! What a worker is doing, and what it knows of the steps to come.

use super::pipeline::{Cadence, Pipeline};
use crate::time::SimTime;

/// A step that runs, and the decode-only steps that are known to follow.
#[derive(Debug)]
pub(super) struct Plan {
    /// Steps whose boundary has not been settled; at least 1.
    pub(super) steps: u64,
    pub(super) cadence: Cadence,
    /// Boundary after the last step.
    pub(super) end: SimTime,
}

impl Plan {
    /// Computes where the plan ends, seen from its last settled boundary.
    pub(super) fn find_end(&mut self, pipeline: Pipeline) {
        self.end_after(SimTime::MAX, pipeline);
    }

    /// Ends the plan at the first boundary at or after `now`.
    pub(super) fn cut(&mut self, pipeline: Pipeline, now: SimTime) {
        if self.steps > 1 && self.end > now {
            self.end_after(SimTime::from_ps(now.as_ps().saturating_sub(1)), pipeline);
        }
    }

    /// Keeps the steps whose boundaries lie at or before `until`, and one more, which ends it.
    fn end_after(&mut self, until: SimTime, mut pipeline: Pipeline) {
        let mut cadence = self.cadence;
        self.steps = pipeline.run(&mut cadence, self.steps - 1, until, &mut |_| ()) + 1;
        pipeline.step(&cadence);
        self.end = pipeline.boundary;
    }
}
