//! Cache changes on their way out of the engine.

use crate::event::KvEvent;
use crate::id::BlockId;
use crate::request::BlockRun;
use crate::time::SimTime;

/// Collects cache changes and stamps them when the engine publishes: engines
/// send one batch of events when a step's results are handled, not one by one.
///
/// Neighbouring changes of one batch are kept as runs. A log that is switched
/// off costs one branch a change.
#[derive(Debug)]
pub struct EventLog {
    on: bool,
    batch: Vec<KvEvent>,
    published: Vec<(SimTime, KvEvent)>,
}

impl EventLog {
    /// An empty log; when `on` is false it records nothing.
    pub fn new(on: bool) -> Self {
        Self { on, batch: Vec::new(), published: Vec::new() }
    }

    pub(super) fn stored(&mut self, parent: Option<BlockId>, id: BlockId) {
        if !self.on {
            return;
        }
        if let Some(KvEvent::Stored { run, .. }) = self.batch.last_mut()
            && run.first.offset(run.len) == id
            && parent == Some(run.first.offset(run.len - 1))
        {
            run.len += 1;
            return;
        }
        self.batch.push(KvEvent::Stored { parent, run: BlockRun { first: id, len: 1 } });
    }

    pub(super) fn removed(&mut self, id: BlockId) {
        if !self.on {
            return;
        }
        if let Some(KvEvent::Removed { run }) = self.batch.last_mut()
            && id.0 + 1 == run.first.0
        {
            *run = BlockRun { first: id, len: run.len + 1 };
            return;
        }
        self.batch.push(KvEvent::Removed { run: BlockRun { first: id, len: 1 } });
    }

    /// Publishes everything collected so far at `now`.
    pub fn publish(&mut self, now: SimTime) {
        self.published.extend(self.batch.drain(..).map(|event| (now, event)));
    }

    /// Published events not yet taken, in order.
    pub fn published(&mut self) -> &mut Vec<(SimTime, KvEvent)> {
        &mut self.published
    }

    /// True if there are changes that are not published yet.
    pub fn is_pending(&self) -> bool {
        !self.batch.is_empty()
    }

    /// True if changes are recorded.
    pub fn is_on(&self) -> bool {
        self.on
    }
}
