//! Steps told one by one, where somebody watches.

use super::super::outbox::{Outbox, StepRecord};
use super::super::pipeline::Segment;
use super::Worker;

impl Worker {
    /// Settles the boundaries of `segment` one after the other and tells of each
    /// step; `record` has what all of them share.
    pub(super) fn settle_each(&mut self, segment: &Segment, record: StepRecord, out: &mut Outbox) {
        for step in segment.single_steps() {
            // Seen at the boundary, before the step that is formed there takes blocks.
            let used_blocks = self.rules.used_blocks();
            let (start, end) = (step.start, step.boundary(1));
            out.note_step(StepRecord { start, end, used_blocks, ..record });
            self.settle_blocks(&step);
        }
    }
}
