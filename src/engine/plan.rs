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
