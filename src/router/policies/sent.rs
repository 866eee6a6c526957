//! Which prompts were sent where: the approximate index of routers that hear no
//! KV events. It knows what was sent, not what a cache still holds.

use crate::id::{BlockId, WorkerId};
use crate::request::PromptBlocks;
use crate::rng::mix;
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
    /// Workers it was sent to, with the number of the last use.
    holders: SmallVec<[(WorkerId, u64); 2]>,
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
                .or_insert_with(|| Block { id, holders: SmallVec::new() });
            let holders = &mut entry.get_mut().holders;
            let recency = &mut self.workers[worker.index()];
            match holders.iter_mut().find(|(holder, _)| *holder == worker) {
                Some((_, last_use)) => *last_use = self.last_use,
                None => {
                    holders.push((worker, self.last_use));
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
            let holders = &mut entry.get_mut().holders;
            let Some(at) = holders.iter().position(|held| *held == (worker, number)) else {
                continue;
            };
            holders.swap_remove(at);
            if holders.is_empty() {
                entry.remove();
            }
            self.workers[worker.index()].held_blocks -= 1;
        }
    }

    /// Forgets what was sent to `worker`.
    pub(super) fn remove_worker(&mut self, worker: WorkerId) {
        self.workers[worker.index()] = Recency::default();
        self.blocks.retain(|block| {
            block.holders.retain(|(holder, _)| *holder != worker);
            !block.holders.is_empty()
        });
    }

    /// How many blocks were sent to `worker` and not forgotten.
    pub(super) fn held_blocks(&self, worker: WorkerId) -> u32 {
        self.workers[worker.index()].held_blocks
    }

    /// Adds to `matched[w]` the number of the first `most_blocks` blocks of
    /// `prompt` that worker `w` has; stops where nobody has one.
    pub(super) fn overlaps(&self, prompt: PromptBlocks<'_>, most_blocks: u32, matched: &mut [u32]) {
        for id in prompt.iter().take(most_blocks as usize) {
            let Some(block) = self.get(id) else { return };
            block.holders.iter().for_each(|(worker, _)| matched[worker.index()] += 1);
        }
    }

    /// The longest beginning of `prompt` that was sent anywhere.
    pub(super) fn longest(&self, prompt: PromptBlocks<'_>) -> Match {
        let known = prompt.iter().map_while(|id| self.get(id));
        let Some((before, last)) = known.enumerate().last() else { return Match::default() };
        let mut workers: Vec<WorkerId> = last.holders.iter().map(|(worker, _)| *worker).collect();
        workers.sort_unstable();
        Match { blocks: u32::try_from(before).map_or(u32::MAX, |before| before + 1), workers }
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
            self.get(id).is_some_and(|block| block.holders.contains(&(worker, number)))
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
                let mut matched = vec![0; 3];
                sent.overlaps(prompt, 14, &mut matched);
                for (matched, list) in matched.iter().zip(&lists) {
                    let expected = known.iter().filter(|id| list.contains(id)).count();
                    prop_assert_eq!(*matched as usize, expected);
                }
            }
        }
    }
}
