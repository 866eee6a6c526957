//! Which prompts were sent where: the approximate index of routers that hear no
//! KV events. It knows what was sent, not what a cache still holds.

use crate::id::{BlockId, WorkerId};
use crate::kv::BlockTable;
use crate::request::{PromptBlocks, RouteRequest};
use crate::rng::mix;
use crate::router::kv::{Overlaps, WorkerSet};
use hashbrown::HashTable;
use std::collections::VecDeque;

/// Blocks of prompts by worker, least recently sent first out.
#[derive(Debug)]
pub(super) struct SentPrompts {
    blocks: HashTable<Block>,
    workers: Vec<Recency>,
}

#[derive(Debug)]
struct Block {
    id: BlockId,
    /// Workers it was sent to.
    holders: WorkerSet,
}

/// One worker's blocks in order of use.
#[derive(Debug, Default)]
struct Recency {
    /// Every use with its number. One that is not the block's last is a leftover.
    uses: VecDeque<(BlockId, u32)>,
    /// The number of the last use of each block.
    last_uses: BlockTable,
    next_use: u32,
    held_blocks: u32,
}

impl Recency {
    /// True if `number` was the last use of `id`.
    fn is_last(&self, id: BlockId, number: u32) -> bool {
        self.last_uses.get(id) == Some(number)
    }

    /// Notes a use; true if the block was not held before.
    fn note(&mut self, id: BlockId) -> bool {
        let number = self.next_use;
        self.next_use += 1;
        self.uses.push_back((id, number));
        let is_new = self.last_uses.replace(id, number).is_none();
        self.held_blocks += u32::from(is_new);
        is_new
    }

    /// Drops leftovers once they outnumber what is held, and restarts the count of uses.
    fn tidy(&mut self) {
        if self.uses.len() <= 64 + 2 * self.held_blocks as usize {
            return;
        }
        let Self { uses, last_uses, next_use, .. } = self;
        *next_use = 0;
        uses.retain_mut(|(id, number)| {
            let is_last = last_uses.get(*id) == Some(*number);
            if is_last {
                *number = *next_use;
                last_uses.replace(*id, *number);
                *next_use += 1;
            }
            is_last
        });
    }
}

/// The longest beginning of a prompt that was sent anywhere.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Match {
    /// Its length.
    pub(super) blocks: u32,
    /// The workers it was sent to, in order of id; none if `blocks` is 0.
    pub(super) workers: Vec<WorkerId>,
}

impl Match {
    /// The share of the prompt that it is, with blocks of so many tokens.
    pub(super) fn share(&self, request: &RouteRequest<'_>, block_size: u32) -> f64 {
        let tokens = f64::from(self.blocks) * f64::from(block_size);
        tokens / f64::from(request.prompt_tokens)
    }
}

impl SentPrompts {
    pub(super) fn new(workers: u32) -> Self {
        Self {
            blocks: HashTable::new(),
            workers: (0..workers).map(|_| Recency::default()).collect(),
        }
    }

    /// Notes that `worker` gets the blocks of `ids`, the last of them most recent.
    pub(super) fn insert(&mut self, worker: WorkerId, ids: impl Iterator<Item = BlockId>) {
        let recency = &mut self.workers[worker.index()];
        for id in ids {
            if recency.note(id) {
                let entry =
                    self.blocks.entry(mix(id.0), |block| block.id == id, |block| mix(block.id.0));
                let mut entry =
                    entry.or_insert_with(|| Block { id, holders: WorkerSet::default() });
                entry.get_mut().holders.insert(worker);
            }
        }
        recency.tidy();
    }

    /// Forgets the least recent blocks of `worker` until it has at most `most_blocks`.
    pub(super) fn shrink(&mut self, worker: WorkerId, most_blocks: u32) {
        let recency = &mut self.workers[worker.index()];
        while recency.held_blocks > most_blocks {
            let oldest = recency.uses.pop_front();
            let (id, number) = oldest.expect("every held block has a last use");
            if recency.is_last(id, number) {
                recency.last_uses.remove(id);
                recency.held_blocks -= 1;
                forget(&mut self.blocks, id, worker);
            }
        }
    }

    /// Forgets what was sent to `worker`.
    pub(super) fn remove_worker(&mut self, worker: WorkerId) {
        let recency = std::mem::take(&mut self.workers[worker.index()]);
        for &(id, number) in &recency.uses {
            if recency.is_last(id, number) {
                forget(&mut self.blocks, id, worker);
            }
        }
    }

    /// How many blocks were sent to `worker` and not forgotten.
    pub(super) fn held_blocks(&self, worker: WorkerId) -> u32 {
        self.workers[worker.index()].held_blocks
    }

    /// How many of `blocks` each worker has, up to the first that no worker has.
    pub(super) fn overlaps(&self, blocks: impl Iterator<Item = BlockId>) -> Overlaps {
        let known = blocks.map_while(|id| self.get(id));
        Overlaps::of_stretches(known.map(|block| (&block.holders, 1)))
    }

    /// The longest beginning of `prompt` that was sent anywhere.
    pub(super) fn longest(&self, prompt: PromptBlocks<'_>) -> Match {
        let known = prompt.iter().map_while(|id| self.get(id));
        let Some((before, last)) = known.enumerate().last() else { return Match::default() };
        let blocks = u32::try_from(before).map_or(u32::MAX, |before| before + 1);
        Match { blocks, workers: last.holders.iter().collect() }
    }

    fn get(&self, id: BlockId) -> Option<&Block> {
        self.blocks.find(mix(id.0), |block| block.id == id)
    }
}

/// `worker` holds the block no more.
fn forget(blocks: &mut HashTable<Block>, id: BlockId, worker: WorkerId) {
    let Ok(mut entry) = blocks.find_entry(mix(id.0), |block| block.id == id) else { return };
    entry.get_mut().holders.remove(worker);
    if entry.get().holders.is_empty() {
        entry.remove();
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
                let matched = sent.overlaps(prompt.iter().take(14)).to_vec(3);
                for (matched, list) in matched.iter().zip(&lists) {
                    let expected = known.iter().filter(|id| list.contains(id)).count();
                    prop_assert_eq!(*matched as usize, expected);
                }
            }
        }
    }
}
