//! Which prompts were sent where: the approximate index of routers that hear no
//! KV events. It knows what was sent, not what a cache still holds.

use crate::id::{BlockId, WorkerId};
use crate::request::PromptBlocks;
use crate::rng::mix;
use crate::router::kv::{Overlaps, WorkerSet};
use hashbrown::HashTable;
use smallvec::SmallVec;
use std::collections::VecDeque;

/// Blocks of prompts by worker, least recently sent first out.
#[derive(Debug)]
pub(super) struct SentPrompts {
    blocks: HashTable<Block>,
    workers: Vec<Recency>,
    last_use: u64,
}

#[derive(Debug)]
struct Block {
    id: BlockId,
    /// Workers it was sent to.
    holders: WorkerSet,
    /// The number of the last use by each of them, in order of id.
    uses: SmallVec<[(WorkerId, u64); 2]>,
}

impl Block {
    /// The place of `worker` among those it was sent to, or where it would be.
    fn holder(&self, worker: WorkerId) -> Result<usize, usize> {
        self.uses.binary_search_by_key(&worker, |(who, _)| *who)
    }
}

/// One worker's blocks in order of use. An entry whose number is not the
/// block's last use is a leftover of an earlier one.
#[derive(Debug, Default)]
struct Recency {
    uses: VecDeque<(BlockId, u64)>,
    held_blocks: u32,
}

/// The longest beginning of a prompt that was sent anywhere.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Match {
    /// Its length.
    pub(super) blocks: u32,
    /// The workers it was sent to, in order of id; none if `blocks` is 0.
    pub(super) workers: Vec<WorkerId>,
}

impl SentPrompts {
    pub(super) fn new(workers: u32) -> Self {
        Self {
            blocks: HashTable::new(),
            workers: (0..workers).map(|_| Recency::default()).collect(),
            last_use: 0,
        }
    }

    /// Notes that `worker` gets the blocks of `ids`, the last of them most recent.
    pub(super) fn insert(&mut self, worker: WorkerId, ids: impl Iterator<Item = BlockId>) {
        for id in ids {
            self.last_use += 1;
            let mut entry = self
                .blocks
                .entry(mix(id.0), |block| block.id == id, |block| mix(block.id.0))
                .or_insert_with(|| Block {
                    id,
                    holders: WorkerSet::default(),
                    uses: SmallVec::new(),
                });
            let block = entry.get_mut();
            let recency = &mut self.workers[worker.index()];
            match block.holder(worker) {
                Ok(at) => block.uses[at].1 = self.last_use,
                Err(at) => {
                    block.uses.insert(at, (worker, self.last_use));
                    block.holders.insert(worker);
                    recency.held_blocks += 1;
                }
            }
            recency.uses.push_back((id, self.last_use));
        }
        self.tidy(worker);
    }

    /// Forgets the least recent blocks of `worker` until it has at most `most_blocks`.
    pub(super) fn shrink(&mut self, worker: WorkerId, most_blocks: u32) {
        while self.workers[worker.index()].held_blocks > most_blocks {
            let oldest = self.workers[worker.index()].uses.pop_front();
            let (id, number) = oldest.expect("every held block has a last use");
            let Ok(mut entry) = self.blocks.find_entry(mix(id.0), |block| block.id == id) else {
                continue;
            };
            let block = entry.get_mut();
            let Some(at) = block.holder(worker).ok().filter(|&at| block.uses[at].1 == number)
            else {
                continue;
            };
            block.uses.remove(at);
            block.holders.remove(worker);
            if block.uses.is_empty() {
                entry.remove();
            }
            self.workers[worker.index()].held_blocks -= 1;
        }
    }

    /// Forgets what was sent to `worker`.
    pub(super) fn remove_worker(&mut self, worker: WorkerId) {
        self.workers[worker.index()] = Recency::default();
        self.blocks.retain(|block| {
            if let Ok(at) = block.holder(worker) {
                block.uses.remove(at);
                block.holders.remove(worker);
            }
            !block.uses.is_empty()
        });
    }

    /// How many blocks were sent to `worker` and not forgotten.
    pub(super) fn held_blocks(&self, worker: WorkerId) -> u32 {
        self.workers[worker.index()].held_blocks
    }

    /// How many of the first `most_blocks` blocks of `prompt` each worker has, up
    /// to the first that nobody has.
    pub(super) fn overlaps(&self, prompt: PromptBlocks<'_>, most_blocks: u32) -> Overlaps {
        let blocks = prompt.iter().take(most_blocks as usize);
        Overlaps::of_blocks(blocks.map_while(|id| self.get(id)).map(|block| &block.holders))
    }

    /// The longest beginning of `prompt` that was sent anywhere.
    pub(super) fn longest(&self, prompt: PromptBlocks<'_>) -> Match {
        let known = prompt.iter().map_while(|id| self.get(id));
        let Some((before, last)) = known.enumerate().last() else { return Match::default() };
        let blocks = u32::try_from(before).map_or(u32::MAX, |before| before + 1);
        Match { blocks, workers: last.uses.iter().map(|(worker, _)| *worker).collect() }
    }

    fn get(&self, id: BlockId) -> Option<&Block> {
        self.blocks.find(mix(id.0), |block| block.id == id)
    }

    /// Drops leftovers once they outnumber what is held.
    fn tidy(&mut self, worker: WorkerId) {
        let recency = &self.workers[worker.index()];
        if recency.uses.len() <= 64 + 2 * recency.held_blocks as usize {
            return;
        }
        let mut uses = std::mem::take(&mut self.workers[worker.index()].uses);
        uses.retain(|&(id, number)| {
            let last_use = |block: &Block| block.holder(worker).map(|at| block.uses[at].1);
            self.get(id).is_some_and(|block| last_use(block) == Ok(number))
        });
        self.workers[worker.index()].uses = uses;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::testing::any_texts;
    use proptest::prelude::*;

    proptest! {
        /// Against a list per worker, most recent last.
        #[test]
        fn behaves_as_lists(
            texts in any_texts(),
            sends in prop::collection::vec((0u32..3, any::<prop::sample::Index>(), 1u32..14), 1..40),
            most in 1u32..40,
        ) {
            let mut sent = SentPrompts::new(3);
            let mut lists: Vec<Vec<BlockId>> = vec![Vec::new(); 3];
            for (worker, text, blocks) in sends {
                let list = &mut lists[worker as usize];
                let text = text.index(texts.len());
                let ids = texts.ids(text, blocks);
                sent.insert(WorkerId(worker), ids.iter().copied());
                list.retain(|id| !ids.contains(id));
                list.extend(&ids);
                sent.shrink(WorkerId(worker), most);
                list.drain(..list.len().saturating_sub(most as usize));
                prop_assert_eq!(sent.held_blocks(WorkerId(worker)) as usize, list.len());

                let request = texts.request(0, text, 14 * 16, 16);
                let prompt = request.route_view(16).blocks;
                let known: Vec<BlockId> = prompt.iter()
                    .take_while(|id| lists.iter().any(|list| list.contains(id)))
                    .collect();
                let longest = sent.longest(prompt);
                prop_assert_eq!(longest.blocks as usize, known.len());
                let holders = |id: &BlockId| (0u32..).map(WorkerId).zip(&lists)
                    .filter(|(_, list)| list.contains(id)).map(|(worker, _)| worker).collect();
                let expected: Vec<WorkerId> = known.last().map_or(Vec::new(), holders);
                prop_assert_eq!(longest.workers, expected);
                let matched = sent.overlaps(prompt, 14).to_vec(3);
                for (matched, list) in matched.iter().zip(&lists) {
                    let expected = known.iter().filter(|id| list.contains(id)).count();
                    prop_assert_eq!(*matched as usize, expected);
                }
            }
        }
    }
}
