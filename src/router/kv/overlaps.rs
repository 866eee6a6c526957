//! How much of one prompt each worker has, said without a list of all workers.

use super::worker_set::WorkerSet;
use crate::id::WorkerId;
use smallvec::SmallVec;
use std::cmp::Reverse;

/// Stretches of a prompt after each other: who holds all of one, and its blocks.
pub(super) type Stretches = SmallVec<[(WorkerSet, u32); 2]>;
/// Workers that hold only a part of a further stretch, and its blocks.
pub(super) type Parts = SmallVec<[(WorkerId, u32); 4]>;

/// The most blocks of a prompt that a worker has.
#[derive(Clone, Copy, Debug)]
pub(in crate::router) struct AtMost {
    pub(in crate::router) any: u32,
    /// Of those that are not looked at one by one.
    pub(in crate::router) others: u32,
}

/// Blocks of a prompt and who holds them.
#[derive(Clone, Debug, Default)]
pub(in crate::router) struct Overlaps {
    stretches: Stretches,
    /// Each worker at most once, in order of id.
    parts: Parts,
}

impl Overlaps {
    /// Only `worker` holds anything.
    pub(in crate::router) fn only(worker: WorkerId, blocks: u32) -> Self {
        Self { stretches: Stretches::new(), parts: [(worker, blocks)].into_iter().collect() }
    }

    /// `parts` in any order.
    pub(super) fn new(stretches: Stretches, mut parts: Parts) -> Self {
        parts.sort_unstable();
        Self { stretches, parts }
    }

    /// Stretches after each other with the holders of each, who need not hold what
    /// comes before.
    pub(in crate::router) fn of_stretches<'a>(
        parts: impl Iterator<Item = (&'a WorkerSet, u32)>,
    ) -> Self {
        // Neighbours mostly have the same holders: count while they do.
        let mut stretches = Stretches::new();
        for (holders, len) in parts {
            match stretches.last_mut() {
                Some((same, blocks)) if same == holders => *blocks += len,
                _ => stretches.push((holders.clone(), len)),
            }
        }
        Self { stretches, parts: Parts::new() }
    }

    /// Blocks that `worker` holds.
    pub(in crate::router) fn of(&self, worker: WorkerId) -> u32 {
        let whole = self.stretches.iter().filter(|(holders, _)| holders.contains(worker));
        let part = self.parts.binary_search_by_key(&worker, |(who, _)| *who);
        whole.map(|(_, blocks)| blocks).sum::<u32>() + part.map_or(0, |at| self.parts[at].1)
    }

    /// Adds to `overlap_blocks[w]` what worker `w` holds.
    pub(in crate::router) fn add_to(&self, overlap_blocks: &mut [u32]) {
        for (holders, blocks) in &self.stretches {
            holders.iter().for_each(|worker| overlap_blocks[worker.index()] += blocks);
        }
        for (worker, blocks) in &self.parts {
            overlap_blocks[worker.index()] += blocks;
        }
    }

    /// What each of `workers` workers holds, in order of id.
    pub(in crate::router) fn to_vec(&self, workers: usize) -> Vec<u32> {
        let mut overlap_blocks = vec![0; workers];
        self.add_to(&mut overlap_blocks);
        overlap_blocks
    }

    /// The first worker, in order of id, of those that hold most, and how much.
    pub(in crate::router) fn longest(&self) -> Option<(WorkerId, u32)> {
        let whole: u32 = self.stretches.iter().map(|(_, blocks)| blocks).sum();
        // A worker that holds the last stretch mostly holds all before it.
        let last = self.stretches.last().and_then(|(holders, _)| holders.iter().next());
        if let Some(worker) = last
            && self.parts.is_empty()
            && self.of(worker) == whole
        {
            return Some((worker, whole));
        }
        let holders = self.stretches.iter().flat_map(|(holders, _)| holders.iter());
        let all = holders.chain(self.parts.iter().map(|(worker, _)| *worker));
        all.map(|worker| (worker, self.of(worker)))
            .max_by_key(|&(worker, blocks)| (blocks, Reverse(worker)))
    }

    /// The most that a worker holds, and the workers that hold so much, in order of id;
    /// none if no worker holds any. For prompts of which every worker holds a beginning.
    pub(in crate::router) fn most(&self) -> (u32, Vec<WorkerId>) {
        // Who holds a stretch holds all before it.
        let last = self.stretches.last().into_iter().flat_map(|(holders, _)| holders.iter());
        let parts = self.parts.iter().map(|(worker, _)| *worker);
        let mut most = (0, Vec::new());
        for (worker, blocks) in last.chain(parts).map(|worker| (worker, self.of(worker))) {
            if blocks > most.0 {
                most = (blocks, Vec::new());
            }
            if blocks == most.0 && blocks > 0 {
                most.1.push(worker);
            }
        }
        most.1.sort_unstable();
        most.1.dedup();
        most
    }

    /// Adds the holders of what at most `few` workers hold to `special`: they are looked at
    /// one by one.
    pub(in crate::router) fn split(&self, few: usize, special: &mut WorkerSet) -> AtMost {
        let mut most = AtMost { any: 0, others: 0 };
        for (holders, blocks) in &self.stretches {
            most.any += blocks;
            if holders.len() <= few {
                special.unite(holders);
            } else {
                most.others += blocks;
            }
        }
        let longest_part = self.parts.iter().map(|(_, blocks)| *blocks).max().unwrap_or(0);
        most.any += longest_part;
        if self.parts.len() <= few {
            self.parts.iter().for_each(|(worker, _)| _ = special.insert(*worker));
        } else {
            most.others += longest_part;
        }
        most
    }
}
