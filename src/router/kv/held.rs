//! The prefix index with the rules of Dynamo 0.9: how many blocks on a prompt's
//! path each worker holds, holes or not.
//!
//! A tree of blocks. The walk goes on as long as *some* worker holds the next
//! block; each worker scores every block on the way that it holds itself. A block
//! that its last holder loses takes all below it out of the tree. A store whose
//! parent the worker does not hold is dropped.
//!
//! Blocks know their parent by a stamp that is new whenever a block is entered, so
//! cutting off a subtree costs nothing: its blocks carry the stamp of a parent that
//! is no more. Consecutive ids with consecutive stamps and the same holders are one
//! segment, so costs are per run of ids and segment, not per block. One corner is
//! simplified: when blocks of a cut-off subtree are stored again by a worker that
//! does not hold them, the others' claims on them are forgotten (0.9 keeps them
//! aside, out of reach, until removed).

use super::overlaps::Overlaps;
use super::path::Path;
use super::places::Places;
use super::worker_set::WorkerSet;
use crate::event::KvEvent;
use crate::id::{BlockId, WorkerId};
use crate::request::BlockRun;

/// The stamp above the first block of a sequence.
const ROOT: u64 = 0;

/// The place of a segment in the list of all.
type SegmentId = u32;

/// Blocks of consecutive ids, each the parent of the next one.
#[derive(Clone, Debug)]
struct Segment {
    run: BlockRun,
    /// The stamp of the first block's parent.
    parent: u64,
    /// The stamp of the first block; the others have the numbers after it.
    stamp: u64,
    /// No block ever had the number after that of the last one: the segment can grow.
    can_grow: bool,
    holders: WorkerSet,
}

impl Segment {
    /// The stamp of the last block.
    fn last_stamp(&self) -> u64 {
        self.stamp(self.run.len - 1)
    }

    /// The stamp of the block at `at`.
    fn stamp(&self, at: u32) -> u64 {
        self.stamp + u64::from(at)
    }

    /// The stamp of the parent of the block at `at`.
    fn parent(&self, at: u32) -> u64 {
        at.checked_sub(1).map_or(self.parent, |before| self.stamp(before))
    }

    /// Cuts off what begins at `at`.
    fn split_off(&mut self, at: u32) -> Self {
        let rest = Self {
            run: self.run.skip(at),
            parent: self.parent(at),
            stamp: self.stamp(at),
            can_grow: self.can_grow,
            holders: self.holders.clone(),
        };
        self.run.len = at;
        self.can_grow = false;
        rest
    }

    /// True if `next`, whose ids follow, is the rest of this segment.
    fn goes_on_in(&self, next: &Self) -> bool {
        next.stamp == self.stamp(self.run.len)
            && next.parent == self.last_stamp()
            && next.holders == self.holders
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct HeldIndex {
    segments: Vec<Segment>,
    /// Segments without holders, to be used again.
    unused: Vec<SegmentId>,
    /// Where the others are.
    places: Places<SegmentId>,
    /// Each series of consecutive stamps begins at a multiple of 2^32.
    last_series: u64,
    /// Blocks each worker holds, in or out of reach.
    held_blocks: Vec<u32>,
}

impl HeldIndex {
    pub(super) fn new(workers: u32) -> Self {
        Self {
            segments: Vec::new(),
            unused: Vec::new(),
            places: Places::default(),
            last_series: ROOT,
            held_blocks: vec![0; workers as usize],
        }
    }

    /// The number of blocks on the path of `prompt` that each worker holds.
    pub(super) fn overlaps(&self, prompt: &Path) -> Overlaps {
        let mut above = ROOT;
        let mut rest = BlockRun { first: BlockId(0), len: 0 };
        let mut runs = prompt.runs().iter();
        Overlaps::of_stretches(std::iter::from_fn(move || {
            if rest.len == 0 {
                rest = *runs.next()?;
            }
            let (id, at) = self.find(rest.first)?;
            let segment = self.at(id);
            if segment.parent(at) != above {
                return None;
            }
            let blocks = (segment.run.len - at).min(rest.len);
            above = segment.stamp(at + blocks - 1);
            rest = rest.skip(blocks);
            Some((&segment.holders, blocks))
        }))
    }

    /// How many blocks `worker` is known to hold.
    pub(super) fn held_blocks(&self, worker: WorkerId) -> u32 {
        self.held_blocks[worker.index()]
    }

    /// Forgets what `worker` held.
    pub(super) fn remove_worker(&mut self, worker: WorkerId) {
        self.held_blocks[worker.index()] = 0;
        let held = |segment: &mut Segment| segment.holders.remove(worker);
        let held: Vec<bool> = self.segments.iter_mut().map(held).collect();
        let ids = (0..).zip(held).filter_map(|(id, held)| held.then_some(id));
        for id in ids.clone() {
            if self.at(id).holders.is_empty() {
                self.forget(id);
            }
        }
        // Neighbours that only this worker told apart; one that is joined is no more.
        for id in ids {
            if !self.at(id).holders.is_empty() {
                let run = self.at(id).run;
                self.join(run.first.offset(run.len));
                self.join(run.first);
            }
        }
    }

    /// Takes note of what `worker` stored or lost.
    pub(super) fn apply(&mut self, worker: WorkerId, event: &KvEvent) {
        match *event {
            KvEvent::Stored { parent, run } => self.store(worker, parent, run),
            KvEvent::Removed { run } => self.remove(worker, run),
            // Not GPU memory, or not of the layers that are followed.
            _ => {}
        }
    }

    /// `worker` holds the blocks of `run`, which come after `parent`.
    fn store(&mut self, worker: WorkerId, parent: Option<BlockId>, mut run: BlockRun) {
        let mut above = ROOT;
        if let Some(block) = parent {
            let Some((id, at)) = self.find(block) else { return };
            if !self.at(id).holders.contains(worker) {
                return;
            }
            above = self.at(id).stamp(at);
        }
        while run.len > 0 {
            let stored = match self.find(run.first) {
                Some((id, at)) => {
                    let segment = self.at(id);
                    let known = BlockRun { len: run.len.min(segment.run.len - at), ..run };
                    if segment.parent(at) == above && segment.holders.contains(worker) {
                        above = segment.stamp(at + known.len - 1);
                    } else {
                        above = self.store_known(worker, above, (id, at), known);
                    }
                    known.len
                }
                None => {
                    let len = self.places.first_within(run).map_or(run.len, |next| {
                        u32::try_from(next.0 - run.first.0).expect("it is in the run")
                    });
                    above = self.store_unknown(worker, above, BlockRun { len, ..run });
                    len
                }
            };
            run = run.skip(stored);
        }
    }

    /// Stores blocks of one segment, which holds them from `at` on, below the stamp `above`;
    /// gives that of the last one.
    fn store_known(
        &mut self,
        worker: WorkerId,
        above: u64,
        (id, at): (SegmentId, u32),
        run: BlockRun,
    ) -> u64 {
        let id = self.cut_out(id, at, run.len);
        let series = self.last_series + (1 << u32::BITS);
        let segment = &mut self.segments[id as usize];
        let is_moved = segment.parent != above;
        segment.parent = above;
        if is_moved && !segment.holders.contains(worker) {
            for lost in std::mem::take(&mut segment.holders).iter() {
                self.held_blocks[lost.index()] -= run.len;
            }
            (segment.stamp, segment.can_grow) = (series, true);
            self.last_series = series;
        }
        if segment.holders.insert(worker) {
            self.held_blocks[worker.index()] += run.len;
        }
        let last = segment.last_stamp();
        self.join(run.first.offset(run.len));
        self.join(run.first);
        last
    }

    /// Stores blocks that no worker holds below the stamp `above`; gives that of the last one.
    fn store_unknown(&mut self, worker: WorkerId, above: u64, run: BlockRun) -> u64 {
        self.held_blocks[worker.index()] += run.len;
        if let Some(id) = self.before(run.first) {
            let before = &mut self.segments[id as usize];
            if before.can_grow && before.last_stamp() == above && before.holders.is_only(worker) {
                let BlockRun { first, len } = before.run;
                before.run.len += run.len;
                self.places.lengthen(first, len, len + run.len);
                return self.at(id).last_stamp();
            }
        }
        self.last_series += 1 << u32::BITS;
        let mut holders = WorkerSet::default();
        holders.insert(worker);
        let segment =
            Segment { run, parent: above, stamp: self.last_series, can_grow: true, holders };
        let last = segment.last_stamp();
        self.add(segment);
        last
    }

    /// `worker` lost the blocks of `run`.
    fn remove(&mut self, worker: WorkerId, mut run: BlockRun) {
        while run.len > 0 {
            let Some((id, at)) = self.find(run.first) else {
                let Some(next) = self.places.first_within(run) else { return };
                run = run.skip(u32::try_from(next.0 - run.first.0).expect("it is in the run"));
                continue;
            };
            let segment = self.at(id);
            let known = BlockRun { len: run.len.min(segment.run.len - at), ..run };
            if segment.holders.contains(worker) {
                self.held_blocks[worker.index()] -= known.len;
                self.remove_known(worker, (id, at), known);
            }
            run = run.skip(known.len);
        }
    }

    /// `worker` lost blocks of one segment, which holds them from `at` on.
    fn remove_known(&mut self, worker: WorkerId, (id, at): (SegmentId, u32), run: BlockRun) {
        if self.at(id).holders.is_only(worker) && at > 0 && run.len == self.at(id).run.len - at {
            // What is mostly lost: the end of what one worker holds.
            self.shorten(id, at);
            return;
        }
        let id = self.cut_out(id, at, run.len);
        self.segments[id as usize].holders.remove(worker);
        if self.at(id).holders.is_empty() {
            self.forget(id);
            return;
        }
        self.join(run.first.offset(run.len));
        self.join(run.first);
    }

    /// Makes a segment of `len` blocks of `id` from `at` on.
    fn cut_out(&mut self, mut id: SegmentId, at: u32, len: u32) -> SegmentId {
        if at > 0 {
            id = self.cut(id, at);
        }
        if len < self.at(id).run.len {
            self.cut(id, len);
        }
        id
    }

    /// Cuts `id` after `at` blocks; gives the second part.
    fn cut(&mut self, id: SegmentId, at: u32) -> SegmentId {
        let segment = &mut self.segments[id as usize];
        let BlockRun { first, len } = segment.run;
        let rest = segment.split_off(at);
        self.places.shorten(first, len, at);
        self.add(rest)
    }

    /// Forgets all but the first `at` blocks of `id`.
    fn shorten(&mut self, id: SegmentId, at: u32) {
        let segment = &mut self.segments[id as usize];
        let BlockRun { first, len } = segment.run;
        (segment.run.len, segment.can_grow) = (at, false);
        self.places.shorten(first, len, at);
    }

    /// Undoes a cut before `block`, if both sides are alike again.
    fn join(&mut self, block: BlockId) {
        let Some((id, 0)) = self.find(block) else { return };
        let Some(before) = self.before(block) else { return };
        if !self.at(before).goes_on_in(self.at(id)) {
            return;
        }
        let Segment { run: BlockRun { len: more, .. }, can_grow, .. } = *self.at(id);
        self.forget(id);
        let before = &mut self.segments[before as usize];
        let BlockRun { first, len } = before.run;
        (before.run.len, before.can_grow) = (len + more, can_grow);
        self.places.lengthen(first, len, len + more);
    }

    fn add(&mut self, segment: Segment) -> SegmentId {
        let run = segment.run;
        let id = match self.unused.pop() {
            Some(id) => {
                self.segments[id as usize] = segment;
                id
            }
            None => {
                self.segments.push(segment);
                u32::try_from(self.segments.len() - 1).expect("fewer than 2^32 segments")
            }
        };
        self.places.insert(run, id);
        id
    }

    fn forget(&mut self, id: SegmentId) {
        self.places.remove(self.at(id).run);
        self.segments[id as usize].holders = WorkerSet::default();
        self.unused.push(id);
    }

    /// The segment that holds `block`, and where.
    fn find(&self, block: BlockId) -> Option<(SegmentId, u32)> {
        let (first, id) = self.places.find(block)?;
        let at = u32::try_from(block.0 - first.0).ok()?;
        (at < self.at(id).run.len).then_some((id, at))
    }

    /// The segment that ends right before `block`.
    fn before(&self, block: BlockId) -> Option<SegmentId> {
        let (id, at) = self.find(BlockId(block.0.checked_sub(1)?))?;
        (at + 1 == self.at(id).run.len).then_some(id)
    }

    fn at(&self, id: SegmentId) -> &Segment {
        &self.segments[id as usize]
    }
}

#[cfg(test)]
#[path = "tests/held.rs"]
mod tests;
