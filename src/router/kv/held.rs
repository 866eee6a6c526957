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
use super::worker_set::WorkerSet;
use crate::event::KvEvent;
use crate::id::{BlockId, WorkerId};
use crate::request::BlockRun;
use std::collections::BTreeMap;

/// The stamp above the first block of a sequence.
const ROOT: u64 = 0;

/// Blocks of consecutive ids, each the parent of the next one.
#[derive(Clone, Debug)]
struct Segment {
    len: u32,
    /// The stamp of the first block's parent.
    parent: u64,
    /// The stamp of the first block; the others have the numbers after it.
    stamp: u64,
    /// No block ever had the number after that of the last one: the segment can grow.
    can_grow: bool,
    holders: WorkerSet,
}

impl Segment {
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
            len: self.len - at,
            parent: self.parent(at),
            stamp: self.stamp(at),
            can_grow: self.can_grow,
            holders: self.holders.clone(),
        };
        self.len = at;
        self.can_grow = false;
        rest
    }

    /// True if `next`, whose ids follow, is the rest of this segment.
    fn goes_on_in(&self, next: &Self) -> bool {
        next.stamp == self.stamp(self.len)
            && next.parent == self.stamp(self.len - 1)
            && next.holders == self.holders
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct HeldIndex {
    /// By first block.
    segments: BTreeMap<BlockId, Segment>,
    /// Each series of consecutive stamps begins at a multiple of 2^32.
    last_series: u64,
    /// Blocks each worker holds, in or out of reach.
    held_blocks: Vec<u32>,
}

impl HeldIndex {
    pub(super) fn new(workers: u32) -> Self {
        Self {
            segments: BTreeMap::new(),
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
            let (segment, at) = self.find(rest.first)?;
            if segment.parent(at) != above {
                return None;
            }
            let blocks = (segment.len - at).min(rest.len);
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
        self.segments.retain(|_, segment| {
            segment.holders.remove(worker);
            !segment.holders.is_empty()
        });
        // Neighbours that only this worker told apart.
        let blocks: Vec<BlockId> = self.segments.keys().copied().collect();
        blocks.into_iter().for_each(|block| self.join(block));
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
            let held = self.find(block).filter(|(segment, _)| segment.holders.contains(worker));
            let Some((segment, at)) = held else { return };
            above = segment.stamp(at);
        }
        while run.len > 0 {
            let stored = match self.find(run.first) {
                Some((segment, at)) => {
                    let known = BlockRun { len: run.len.min(segment.len - at), ..run };
                    if segment.parent(at) == above && segment.holders.contains(worker) {
                        above = segment.stamp(at + known.len - 1);
                    } else {
                        above = self.store_known(worker, above, known);
                    }
                    known.len
                }
                None => {
                    let next = self.segments.range(run.first..).next();
                    let room = next.map_or(u64::MAX, |(next, _)| next.0 - run.first.0);
                    let len = u32::try_from(room).map_or(run.len, |room| room.min(run.len));
                    above = self.store_unknown(worker, above, BlockRun { len, ..run });
                    len
                }
            };
            run = run.skip(stored);
        }
    }

    /// Stores blocks of one segment below the stamp `above`; gives that of the last one.
    fn store_known(&mut self, worker: WorkerId, above: u64, run: BlockRun) -> u64 {
        let end = run.first.offset(run.len);
        self.cut(run.first);
        self.cut(end);
        let series = self.last_series + (1 << u32::BITS);
        let segment = self.segments.get_mut(&run.first).expect("it was cut there");
        let is_moved = segment.parent != above;
        segment.parent = above;
        if is_moved && !segment.holders.contains(worker) {
            for lost in std::mem::take(&mut segment.holders).iter() {
                self.held_blocks[lost.index()] -= segment.len;
            }
            (segment.stamp, segment.can_grow) = (series, true);
            self.last_series = series;
        }
        if segment.holders.insert(worker) {
            self.held_blocks[worker.index()] += segment.len;
        }
        let last = segment.stamp(segment.len - 1);
        self.join(end);
        self.join(run.first);
        last
    }

    /// Stores blocks that no worker holds below the stamp `above`; gives that of the last one.
    fn store_unknown(&mut self, worker: WorkerId, above: u64, run: BlockRun) -> u64 {
        self.held_blocks[worker.index()] += run.len;
        if let Some((first, before)) = self.segments.range_mut(..run.first).next_back()
            && before.can_grow
            && first.offset(before.len) == run.first
            && before.stamp(before.len - 1) == above
            && before.holders.is_only(worker)
        {
            before.len += run.len;
            return before.stamp(before.len - 1);
        }
        self.last_series += 1 << u32::BITS;
        let mut holders = WorkerSet::default();
        holders.insert(worker);
        let (len, stamp) = (run.len, self.last_series);
        let segment = Segment { len, parent: above, stamp, can_grow: true, holders };
        let last = segment.stamp(len - 1);
        self.segments.insert(run.first, segment);
        last
    }

    /// `worker` lost the blocks of `run`.
    fn remove(&mut self, worker: WorkerId, mut run: BlockRun) {
        while run.len > 0 {
            let Some((segment, at)) = self.find(run.first) else {
                let Some((next, _)) = self.segments.range(run.first..).next() else { return };
                match u32::try_from(next.0 - run.first.0) {
                    Ok(gap) if gap < run.len => run = run.skip(gap),
                    _ => return,
                }
                continue;
            };
            let known = BlockRun { len: run.len.min(segment.len - at), ..run };
            if segment.holders.contains(worker) {
                self.held_blocks[worker.index()] -= known.len;
                self.remove_known(worker, known);
            }
            run = run.skip(known.len);
        }
    }

    /// `worker` lost blocks of one segment, which it holds.
    fn remove_known(&mut self, worker: WorkerId, run: BlockRun) {
        let end = run.first.offset(run.len);
        self.cut(run.first);
        self.cut(end);
        let segment = self.segments.get_mut(&run.first).expect("it was cut there");
        segment.holders.remove(worker);
        if segment.holders.is_empty() {
            self.segments.remove(&run.first);
            return;
        }
        self.join(end);
        self.join(run.first);
    }

    /// Makes a segment begin with `block`, if one holds it.
    fn cut(&mut self, block: BlockId) {
        let Some((first, segment)) = self.segments.range_mut(..block).next_back() else { return };
        let Ok(at) = u32::try_from(block.0 - first.0) else { return };
        if at < segment.len {
            let rest = segment.split_off(at);
            self.segments.insert(block, rest);
        }
    }

    /// Undoes a cut before `block`, if both sides are alike again.
    fn join(&mut self, block: BlockId) {
        let Some(next) = self.segments.get(&block) else { return };
        let Some((first, before)) = self.segments.range(..block).next_back() else { return };
        if first.offset(before.len) != block || !before.goes_on_in(next) {
            return;
        }
        let (first, len, can_grow) = (*first, next.len, next.can_grow);
        self.segments.remove(&block);
        let before = self.segments.get_mut(&first).expect("it was found just now");
        before.len += len;
        before.can_grow = can_grow;
    }

    /// The segment that holds `block`, and where.
    fn find(&self, block: BlockId) -> Option<(&Segment, u32)> {
        let (first, segment) = self.segments.range(..=block).next_back()?;
        let at = u32::try_from(block.0 - first.0).ok()?;
        (at < segment.len).then_some((segment, at))
    }
}

#[cfg(test)]
#[path = "tests/held.rs"]
mod tests;
