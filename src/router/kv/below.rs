//! What workers hold in tiers below GPU memory, as told by KV events: the rules
//! of dynamo-kv-router 1.6.1 (`indexer/lower_tier.rs`, `lower_tier_indexers.rs`).
//!
//! A worker's blocks of a prompt are looked for where its GPU's end, first in
//! host memory, then, where those end, on disk, then in remote storage; what
//! lies behind a gap does not count. The router weighs disk and remote alike.
//!
//! The production index hangs a block under the one before it, by hashes; ids
//! stand for a block and all before it, so sets of ids are enough here.

use super::overlaps::Overlaps;
use super::path::Path;
use crate::event::{KvEvent, Medium};
use crate::id::{BlockId, WorkerId};
use crate::request::BlockRun;
use std::collections::BTreeMap;

/// Blocks of a prompt that a worker holds in lower tiers, after those in GPU memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlocksBelow {
    /// In host memory.
    pub host: u32,
    /// On disk and in remote storage.
    pub disk: u32,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct LowerIndex {
    /// By worker and medium. Empty until an event names a tier.
    held: Vec<[Runs; Medium::ALL.len()]>,
}

impl LowerIndex {
    /// Takes note of what `worker` stored in a tier or lost there.
    pub(super) fn apply(&mut self, worker: WorkerId, event: &KvEvent) {
        let (medium, run, stored) = match *event {
            KvEvent::StoredBelow { medium, run } => (medium, run, true),
            KvEvent::RemovedBelow { medium, run } => (medium, run, false),
            _ => return,
        };
        if self.held.len() <= worker.index() {
            self.held.resize_with(worker.index() + 1, Default::default);
        }
        let runs = &mut self.held[worker.index()][medium as usize];
        if stored { runs.add(run) } else { runs.remove(run) }
    }

    /// `worker` is gone, and what it held.
    pub(super) fn remove_worker(&mut self, worker: WorkerId) {
        if let Some(held) = self.held.get_mut(worker.index()) {
            *held = Default::default();
        }
    }

    /// True as long as no event named a tier.
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Who holds anything of `prompt` behind its overlap in GPU memory, in order of
    /// id. Looks at every worker that told of a tier.
    pub(super) fn behind(
        &self,
        prompt: &Path,
        overlaps: &Overlaps,
    ) -> Vec<(WorkerId, BlocksBelow)> {
        let told = (0..).map(WorkerId).zip(&self.held);
        let holders = told.filter(|(_, held)| held.iter().any(|runs| !runs.0.is_empty()));
        let below =
            holders.map(|(worker, _)| (worker, self.after(worker, prompt, overlaps.of(worker))));
        below.filter(|(_, below)| *below != BlocksBelow::default()).collect()
    }

    /// What `worker` holds of `prompt` behind its first `blocks` blocks.
    pub(super) fn after(&self, worker: WorkerId, prompt: &Path, blocks: u32) -> BlocksBelow {
        let Some(held) = self.held.get(worker.index()) else { return BlocksBelow::default() };
        let mut end = blocks;
        let counts = held.each_ref().map(|runs| {
            let from = end;
            while let Some(run) = prompt.from(end).next() {
                let here = runs.from(run.first).min(run.len);
                end += here;
                if here < run.len {
                    break;
                }
            }
            end - from
        });
        let [host, disk, remote] = counts;
        BlocksBelow { host, disk: disk + remote }
    }
}

/// A set of block ids, kept as runs: first id to length. No two runs touch.
#[derive(Debug, Default)]
struct Runs(BTreeMap<BlockId, u32>);

impl Runs {
    /// How many ids from `id` on are here without a gap.
    fn from(&self, id: BlockId) -> u32 {
        let Some((first, len)) = self.0.range(..=id).next_back() else { return 0 };
        let into = id.0 - first.0;
        u32::try_from(u64::from(*len).saturating_sub(into)).expect("at most a run's length")
    }

    fn add(&mut self, run: BlockRun) {
        let (mut first, mut end) = (run.first.0, run.first.0 + u64::from(run.len));
        // What touches or overlaps becomes part of it.
        while let Some((&before, &len)) = self.0.range(..=BlockId(end)).next_back() {
            let before_end = before.0 + u64::from(len);
            if before_end < first {
                break;
            }
            self.0.remove(&before);
            first = first.min(before.0);
            end = end.max(before_end);
        }
        self.insert(first, end);
    }

    fn remove(&mut self, run: BlockRun) {
        let (first, end) = (run.first.0, run.first.0 + u64::from(run.len));
        while let Some((&before, &len)) = self.0.range(..BlockId(end)).next_back() {
            let before_end = before.0 + u64::from(len);
            if before_end <= first {
                break;
            }
            self.0.remove(&before);
            self.insert(end, before_end);
            if before.0 < first {
                self.insert(before.0, first);
                break;
            }
        }
    }

    fn insert(&mut self, first: u64, end: u64) {
        if first < end {
            let len = u32::try_from(end - first).expect("a tier has fewer than 2^32 blocks");
            self.0.insert(BlockId(first), len);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn runs_are_a_set(acts in prop::collection::vec((any::<bool>(), 0u64..40, 1u32..9), 0..60)) {
            let (mut runs, mut set) = (Runs::default(), BTreeSet::new());
            for (stored, first, len) in acts {
                let run = BlockRun { first: BlockId(first), len };
                let ids = first..first + u64::from(len);
                if stored {
                    runs.add(run);
                    set.extend(ids);
                } else {
                    runs.remove(run);
                    ids.for_each(|id| _ = set.remove(&id));
                }
                for id in 0..50 {
                    let expected = (id..).take_while(|id| set.contains(id)).count();
                    prop_assert_eq!(runs.from(BlockId(id)) as usize, expected);
                }
                for (first, len) in &runs.0 {
                    prop_assert!(!set.contains(&(first.0 + u64::from(*len))), "runs touch");
                }
            }
        }
    }

    /// The walk goes down tier by tier; what lies behind a gap does not count.
    #[test]
    fn the_walk_goes_on_where_the_tier_above_ends() {
        let mut index = LowerIndex::default();
        let prompt: Path = [BlockRun { first: BlockId(100), len: 20 }].into_iter().collect();
        let mut tell = |medium, first, len| {
            let run = BlockRun { first: BlockId(first), len };
            index.apply(WorkerId(1), &KvEvent::StoredBelow { medium, run });
        };
        tell(Medium::Host, 102, 3);
        tell(Medium::Disk, 105, 2);
        tell(Medium::Remote, 107, 1);
        tell(Medium::Host, 108, 5);
        let below = |host, disk| BlocksBelow { host, disk };
        assert_eq!(index.after(WorkerId(1), &prompt, 2), below(3, 3));
        assert_eq!(index.after(WorkerId(1), &prompt, 4), below(1, 3));
        assert_eq!(index.after(WorkerId(1), &prompt, 0), below(0, 0));
        assert_eq!(index.after(WorkerId(1), &prompt, 8), below(5, 0));
        assert_eq!(index.after(WorkerId(0), &prompt, 2), below(0, 0));
        assert_eq!(index.after(WorkerId(7), &prompt, 2), below(0, 0));
    }
}
