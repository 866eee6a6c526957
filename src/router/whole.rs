//! Workers with ranks, for policies that do not tell ranks apart.
//!
//! Outside, every rank has a number. Such a policy counts workers, chooses one, and the
//! engine spreads what it gets over its ranks. So a front end translates: what it hears of
//! a rank is of its worker, and a worker holds a block as long as one of its ranks does.

use super::view::Reported;
use super::{CostParts, Sides};
use crate::event::{KvEvent, Medium};
use crate::id::{BlockId, WorkerId};
use crate::request::BlockRun;
use std::collections::BTreeMap;

/// Which ranks make up which worker, and what these hold.
#[derive(Clone, Debug)]
pub(crate) struct Wholes {
    /// The worker of each rank, as the policy counts.
    of: Vec<WorkerId>,
    /// The first rank of each worker.
    firsts: Vec<WorkerId>,
    sides: Sides,
    /// By worker: one bit for each rank that has a block.
    held: Vec<BTreeMap<(BlockId, Kept), u128>>,
}

/// Where a block is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kept {
    /// In GPU memory.
    Gpu,
    /// There, by a group of layers.
    Apart(u32),
    /// In a tier below.
    Below(Medium),
}

impl Wholes {
    /// Workers with so many ranks each, in order of number; the first `prefill` of them only
    /// prefill.
    pub(crate) fn new(ranks: &[u32], prefill: u32) -> Self {
        let (mut of, mut firsts) = (Vec::new(), Vec::new());
        for (at, &ranks) in ranks.iter().enumerate() {
            firsts.push(WorkerId::at(of.len()));
            of.extend(std::iter::repeat_n(WorkerId::at(at), ranks as usize));
        }
        let workers = u32::try_from(ranks.len()).expect("workers have ids");
        let sides = Sides::two(prefill, workers - prefill);
        let held = vec![BTreeMap::new(); ranks.len()];
        Self { of, firsts, sides, held }
    }

    /// How the workers are divided.
    pub(super) fn sides(&self) -> Sides {
        self.sides
    }

    /// The worker of a rank.
    pub(super) fn of(&self, rank: WorkerId) -> WorkerId {
        self.of[rank.index()]
    }

    /// The first rank of a worker.
    pub(super) fn first(&self, worker: WorkerId) -> WorkerId {
        self.firsts[worker.index()]
    }

    /// What is known of workers, once for each of their ranks.
    pub(super) fn each<T: Clone>(&self, workers: &[T]) -> Vec<T> {
        self.of.iter().map(|worker| workers[worker.index()].clone()).collect()
    }

    /// The same of costs, which name whom they are of.
    pub(super) fn each_cost(&self, costs: &[CostParts]) -> Vec<CostParts> {
        let of_rank = |(rank, worker): (usize, &WorkerId)| {
            let own = costs.iter().find(|cost| cost.worker == *worker)?;
            Some(CostParts { worker: WorkerId::at(rank), ..own.clone() })
        };
        self.of.iter().enumerate().filter_map(of_rank).collect()
    }

    /// What workers report whose ranks report this: the sums.
    pub(super) fn reported(&self, ranks: &[Reported]) -> Vec<Reported> {
        let mut sums: Vec<Reported> = self.firsts.iter().map(|rank| ranks[rank.index()]).collect();
        for (rank, worker) in self.of.iter().enumerate() {
            if self.first(*worker).index() != rank {
                let (sum, own) = (&mut sums[worker.index()], ranks[rank]);
                sum.running += own.running;
                sum.waiting += own.waiting;
                sum.used_blocks += own.used_blocks;
            }
        }
        sums
    }

    /// Nothing is known any more of what workers hold.
    pub(super) fn forget(&mut self) {
        self.held.iter_mut().for_each(BTreeMap::clear);
    }

    /// Nothing is known any more of what `worker` holds.
    pub(super) fn forget_worker(&mut self, worker: WorkerId) {
        self.held[worker.index()].clear();
    }

    /// Hands over what an event of a rank means for its worker: blocks that no other rank
    /// had, or has.
    pub(super) fn hear(
        &mut self,
        rank: WorkerId,
        event: &KvEvent,
        mut hear: impl FnMut(WorkerId, &KvEvent),
    ) {
        let worker = self.of(rank);
        let bit = 1u128 << (rank.0 - self.first(worker).0);
        let held = &mut self.held[worker.index()];
        let (run, kept, is_stored) = match *event {
            KvEvent::Stored { run, .. } => (run, Kept::Gpu, true),
            KvEvent::Removed { run } => (run, Kept::Gpu, false),
            KvEvent::StoredApart { group, run } => (run, Kept::Apart(group), true),
            KvEvent::RemovedApart { group, run } => (run, Kept::Apart(group), false),
            KvEvent::StoredBelow { medium, run } => (run, Kept::Below(medium), true),
            KvEvent::RemovedBelow { medium, run } => (run, Kept::Below(medium), false),
        };
        let mut changes = |block: BlockId| {
            let ranks = held.entry((block, kept)).or_insert(0);
            let before = *ranks;
            *ranks = if is_stored { before | bit } else { before & !bit };
            let after = *ranks;
            if after == 0 {
                held.remove(&(block, kept));
            }
            (before == 0) != (after == 0)
        };
        let changed: Vec<bool> = (0..run.len).map(|at| changes(run.first.offset(at))).collect();
        let mut pieces: Vec<(u32, u32)> = Vec::new();
        for (at, _) in (0..).zip(&changed).filter(|(_, changed)| **changed) {
            match pieces.last_mut() {
                Some((first, len)) if *first + *len == at => *len += 1,
                _ => pieces.push((at, 1)),
            }
        }
        let piece = |&(at, len): &(u32, u32)| {
            let piece = BlockRun { first: run.first.offset(at), len };
            match *event {
                KvEvent::Stored { parent, .. } => {
                    let before = at.checked_sub(1).map(|before| run.first.offset(before));
                    KvEvent::Stored { parent: before.or(parent), run: piece }
                }
                KvEvent::Removed { .. } => KvEvent::Removed { run: piece },
                KvEvent::StoredApart { group, .. } => KvEvent::StoredApart { group, run: piece },
                KvEvent::RemovedApart { group, .. } => KvEvent::RemovedApart { group, run: piece },
                KvEvent::StoredBelow { medium, .. } => KvEvent::StoredBelow { medium, run: piece },
                KvEvent::RemovedBelow { medium, .. } => {
                    KvEvent::RemovedBelow { medium, run: piece }
                }
            }
        };
        // What is lost is lost from the end.
        let pieces: Vec<KvEvent> = match is_stored {
            true => pieces.iter().map(piece).collect(),
            false => pieces.iter().rev().map(piece).collect(),
        };
        pieces.iter().for_each(|event| hear(worker, event));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        /// A worker holds what its ranks hold together.
        #[test]
        fn a_worker_holds_a_block_as_long_as_a_rank_does(
            changes in prop::collection::vec((0u32..5, 0u64..6, 1u32..5, any::<bool>()), 1..60),
        ) {
            let mut wholes = Wholes::new(&[2, 3], 0);
            let mut ranks = vec![BTreeSet::new(); 5];
            let mut workers = vec![BTreeSet::new(); 2];
            for (rank, first, len, is_stored) in changes {
                let run = BlockRun { first: BlockId(first), len };
                let event = match is_stored {
                    true => KvEvent::Stored { parent: None, run },
                    false => KvEvent::Removed { run },
                };
                let apply = |set: &mut BTreeSet<u64>, event: &KvEvent| {
                    let run = event.run();
                    (run.first.0..).take(run.len as usize).for_each(|block| {
                        match event {
                            KvEvent::Stored { .. } => set.insert(block),
                            _ => set.remove(&block),
                        };
                    });
                };
                apply(&mut ranks[rank as usize], &event);
                wholes.hear(WorkerId(rank), &event, |worker, event| {
                    apply(&mut workers[worker.index()], event);
                });
                let of = |ranks: &[BTreeSet<u64>]| -> BTreeSet<u64> {
                    ranks.iter().flatten().copied().collect()
                };
                prop_assert_eq!(&workers, &vec![of(&ranks[..2]), of(&ranks[2..])]);
            }
        }
    }

    #[test]
    fn reports_of_ranks_add_up() {
        let report = |running| Reported {
            at: crate::time::SimTime::ZERO,
            running,
            waiting: 2 * running,
            used_blocks: 10 * running,
        };
        let wholes = Wholes::new(&[2, 1], 0);
        let sums = wholes.reported(&[report(1), report(2), report(4)]);
        assert_eq!(sums, [report(3), report(4)]);
        assert_eq!(wholes.each(&["a", "b"]), ["a", "a", "b"]);
    }
}
