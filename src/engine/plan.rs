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
    pub(super) fn find_end(&mut self, mut pipeline: Pipeline) {
        let mut cadence = self.cadence;
        pipeline.run(&mut cadence, self.steps - 1, SimTime::MAX, &mut |_| ());
        pipeline.step(&cadence);
        self.end = pipeline.boundary;
    }

    /// Ends the plan at the first boundary at or after `now`.
    pub(super) fn cut(&mut self, mut pipeline: Pipeline, now: SimTime) {
        if self.steps == 1 || self.end <= now {
            return;
        }
        let before = SimTime::from_ps(now.as_ps().saturating_sub(1));
        let mut cadence = self.cadence;
        self.steps = pipeline.run(&mut cadence, self.steps - 1, before, &mut |_| ()) + 1;
        pipeline.step(&cadence);
        self.end = pipeline.boundary;
    }
}
