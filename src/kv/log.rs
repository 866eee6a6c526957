//! Cache changes on their way out of the engine.

use super::concerns::Concerns;
use super::tiers::LowerTiers;
use super::unheard::{Growth, Unheard};
use crate::event::KvEvent;
use crate::id::BlockId;
use crate::request::BlockRun;
use crate::time::SimTime;

/// Collects cache changes and stamps them when the engine publishes: engines
/// send one batch of events when a step's results are handled, not one by one.
///
/// Neighbouring changes of one batch are kept as runs. A log that is switched
/// off costs one branch a change.
///
/// An engine may hold the same blocks twice (vLLM does not merge blocks that two
/// requests computed at once). A publisher that counts copies reports every
/// store, but a loss only when the last copy goes (Dynamo's `EventDedupFilter`
/// and llm-d's `eventDedupFilter`, which count what they see; here the cache
/// knows). One that does not count reports every loss.
#[derive(Debug)]
pub struct EventLog {
    on: bool,
    counts_copies: bool,
    /// Events of groups of layers that routers do not follow are written, too.
    tells_all_groups: bool,
    /// Nothing was left out since the last event of the batch.
    continues: bool,
    batch: Vec<KvEvent>,
    /// Where lost blocks go.
    tiers: Option<Box<LowerTiers>>,
    published: Vec<(SimTime, KvEvent)>,
    /// What takes the place of `published` where changes are heard on demand.
    unheard: Option<Box<Unheard>>,
}

impl EventLog {
    /// An empty log; when `on` is false it records nothing.
    pub fn new(on: bool) -> Self {
        Self {
            on,
            counts_copies: false,
            tells_all_groups: false,
            continues: false,
            batch: Vec::new(),
            tiers: None,
            published: Vec::new(),
            unheard: None,
        }
    }

    /// Hands changes on to tiers below GPU memory, too, if there are any.
    pub fn with_tiers(mut self, tiers: Option<LowerTiers>) -> Self {
        self.tiers = tiers.map(Box::new);
        self
    }

    /// The tiers below GPU memory, if there are any.
    pub fn tiers(&self) -> Option<&LowerTiers> {
        self.tiers.as_deref()
    }

    /// The tiers below GPU memory, if there are any.
    pub fn tiers_mut(&mut self) -> Option<&mut LowerTiers> {
        self.tiers.as_deref_mut()
    }

    /// Leaves out losses of blocks of which the cache holds another copy.
    pub fn count_copies(&mut self) {
        self.counts_copies = true;
    }

    /// Tells of all groups of layers, those included that routers do not follow.
    pub fn tell_all_groups(&mut self) {
        self.tells_all_groups = true;
    }

    /// `run` was stored after `parent`.
    pub(crate) fn stored(&mut self, parent: Option<BlockId>, run: BlockRun) {
        if let Some(tiers) = &mut self.tiers {
            tiers.stored(run);
        }
        if !self.on {
            return;
        }
        if let Some(KvEvent::Stored { run: last, .. }) = self.last()
            && last.first.offset(last.len) == run.first
            && parent == Some(last.first.offset(last.len - 1))
        {
            last.len += run.len;
            return;
        }
        self.push(KvEvent::Stored { parent, run });
    }

    /// `run` was lost, its last block first; `last_copy` if the cache holds it no more.
    pub(crate) fn removed(&mut self, run: BlockRun, last_copy: bool) {
        if let Some(tiers) = self.tiers.as_mut().filter(|_| last_copy) {
            tiers.lost(run);
        }
        if !self.on {
            return;
        }
        let is_told = !self.counts_copies || last_copy;
        if let Some(unheard) = &mut self.unheard
            && unheard.displaced(run, is_told)
        {
            return;
        }
        if !is_told {
            self.continues = false;
            return;
        }
        if let Some(KvEvent::Removed { run: last }) = self.last()
            && run.first.offset(run.len) == last.first
        {
            *last = BlockRun { first: run.first, len: run.len + last.len };
            return;
        }
        self.push(KvEvent::Removed { run });
    }

    /// A group of layers that routers do not follow stored `run`.
    pub(crate) fn stored_apart(&mut self, group: u32, run: BlockRun) {
        if !self.on || !self.tells_all_groups {
            return;
        }
        match self.last() {
            Some(KvEvent::StoredApart { group: before, run: last })
                if *before == group && last.first.offset(last.len) == run.first =>
            {
                last.len += run.len;
            }
            _ => self.push(KvEvent::StoredApart { group, run }),
        }
    }

    /// A group of layers that routers do not follow lost `run`, its last block first.
    pub(crate) fn removed_apart(&mut self, group: u32, run: BlockRun) {
        if !self.on || !self.tells_all_groups {
            return;
        }
        match self.last() {
            Some(KvEvent::RemovedApart { group: before, run: last })
                if *before == group && run.first.offset(run.len) == last.first =>
            {
                *last = BlockRun { first: run.first, len: run.len + last.len };
            }
            _ => self.push(KvEvent::RemovedApart { group, run }),
        }
    }

    /// The event that the next change may continue.
    fn last(&mut self) -> Option<&mut KvEvent> {
        self.batch.last_mut().filter(|_| self.continues)
    }

    fn push(&mut self, event: KvEvent) {
        self.batch.push(event);
        self.continues = true;
    }

    /// Publishes everything collected so far at `now`.
    pub fn publish(&mut self, now: SimTime) {
        if let Some(unheard) = &mut self.unheard {
            self.batch.drain(..).for_each(|event| unheard.published(now, event));
            return;
        }
        if !self.batch.is_empty() {
            self.published.extend(self.batch.drain(..).map(|event| (now, event)));
        }
        if let Some(tiers) = &mut self.tiers {
            let events = tiers.take_events().filter(|_| self.on);
            self.published.extend(events.map(|event| (now, event)));
        }
    }

    /// Forgets what was not published: its engine is gone, and what the tiers below
    /// held; `tiers` take their place.
    pub fn lose_all(&mut self, tiers: Option<LowerTiers>) {
        self.batch.clear();
        self.continues = false;
        self.unheard = None;
        self.tiers = tiers.map(Box::new);
    }

    /// Published events not yet taken, in order.
    pub fn published(&mut self) -> &mut Vec<(SimTime, KvEvent)> {
        &mut self.published
    }

    /// True if there are changes that are not published yet.
    pub fn is_pending(&self) -> bool {
        !self.batch.is_empty() || self.tiers.as_ref().is_some_and(|tiers| tiers.has_events())
    }

    /// True if changes are recorded.
    pub fn is_on(&self) -> bool {
        self.on
    }

    /// True if it shows in which order changes are recorded.
    pub(crate) fn is_ordered(&self) -> bool {
        self.on && self.unheard.is_none() || self.tiers.is_some()
    }

    /// True if changes are recorded, or matter to tiers below.
    pub fn is_heard(&self) -> bool {
        self.on || self.tiers.is_some()
    }
}

/// Changes that are heard on demand.
impl EventLog {
    /// From now on; false, and all stays as it is, where the order of changes matters: the
    /// log is off, does not count copies, or has tiers below.
    pub(crate) fn begin_on_demand(&mut self, mut unheard: Unheard) -> bool {
        let may_be = self.on && self.counts_copies && self.tiers.is_none();
        if may_be {
            let published = self.published.iter().map(|(_, event)| event);
            for event in published.chain(&self.batch) {
                unheard.unforeseen(event.run());
            }
            self.published.drain(..).for_each(|(at, event)| unheard.published(at, event));
            self.unheard = Some(Box::new(unheard));
        }
        may_be
    }

    /// No more: every change stands in the log as if it had been written down at once.
    pub(crate) fn end_on_demand(&mut self) {
        let Some(unheard) = self.unheard.take() else { return };
        let (published, pending) = unheard.into_events();
        self.published = published;
        self.batch.splice(0..0, pending);
        self.continues = false;
    }

    /// What is not heard yet, where changes are heard on demand.
    pub(crate) fn unheard(&mut self) -> Option<&mut Unheard> {
        self.unheard.as_deref_mut()
    }

    /// Decoding has filled blocks, one after the other.
    pub(crate) fn grown(&mut self, growth: Growth) {
        if let Some(unheard) = &mut self.unheard {
            unheard.grown(growth);
        }
    }

    /// Hands over what was published at or before `until`.
    pub(crate) fn take_unheard(&mut self, until: SimTime, sink: impl FnMut(KvEvent)) {
        if let Some(unheard) = &mut self.unheard {
            unheard.take(until, sink);
        }
    }

    /// See [`Unheard::enter`].
    pub(crate) fn enter_concerns(&mut self, concerns: &mut Concerns, displaced: u64) {
        if let Some(unheard) = &mut self.unheard {
            unheard.enter(concerns, self.batch.len(), displaced);
        }
    }
}
