//! How much of one prompt each worker has, said without a list of all workers.

use super::worker_set::WorkerSet;
use crate::id::WorkerId;

/// Blocks of a prompt and who holds them.
#[derive(Clone, Debug, Default)]
pub(super) struct Overlaps {
    /// Stretches of the prompt: who holds all of one, and its blocks.
    stretches: Vec<(WorkerSet, u32)>,
    /// Workers that hold only a part of a further stretch, and its blocks; each
    /// at most once, in order of id.
    parts: Vec<(WorkerId, u32)>,
}

impl Overlaps {
    /// Only `worker` holds anything.
    pub(super) fn only(worker: WorkerId, blocks: u32) -> Self {
        Self { stretches: Vec::new(), parts: vec![(worker, blocks)] }
    }

    pub(super) fn new(stretches: Vec<(WorkerSet, u32)>, mut parts: Vec<(WorkerId, u32)>) -> Self {
        parts.sort_unstable();
        Self { stretches, parts }
    }

    /// Blocks that `worker` holds.
    pub(super) fn of(&self, worker: WorkerId) -> u32 {
        let whole = self.stretches.iter().filter(|(holders, _)| holders.contains(worker));
        let part = self.parts.binary_search_by_key(&worker, |(who, _)| *who);
        whole.map(|(_, blocks)| blocks).sum::<u32>() + part.map_or(0, |at| self.parts[at].1)
    }

    /// Adds to `overlap_blocks[w]` what worker `w` holds.
    pub(super) fn add_to(&self, overlap_blocks: &mut [u32]) {
        for (holders, blocks) in &self.stretches {
            holders.iter().for_each(|worker| overlap_blocks[worker.index()] += blocks);
        }
        for (worker, blocks) in &self.parts {
            overlap_blocks[worker.index()] += blocks;
        }
    }

    /// Adds the holders of what at most `few` workers hold to `special`; gives
    /// the most that any other worker can hold.
    pub(super) fn split(&self, few: usize, special: &mut Vec<WorkerId>) -> u32 {
        let mut most = 0;
        for (holders, blocks) in &self.stretches {
            if holders.len() <= few {
                special.extend(holders.iter());
            } else {
                most += blocks;
            }
        }
        if self.parts.len() <= few {
            special.extend(self.parts.iter().map(|(worker, _)| *worker));
        } else {
            most += self.parts.iter().map(|(_, blocks)| *blocks).max().unwrap_or(0);
        }
        most
    }
}
