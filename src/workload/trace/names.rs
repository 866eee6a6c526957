//! Ids of blocks that begin with the tokens of a shorter one.
//!
//! The last block of a prompt may be partial, and has an id of its own. If the
//! next turn of the session goes on there, its block in the same place has another
//! id, and begins with the tokens of the partial one. An engine with smaller blocks
//! sees that some of them are the same.

use crate::id::BlockId;
use crate::request::BlockRun;
use sha2::{Digest, Sha256};
use smallvec::SmallVec;
use std::collections::BTreeMap;

/// A text that prompts begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Prefix {
    /// Which text.
    pub(super) text: u64,
    /// How long it is.
    pub(super) tokens: u32,
}

impl Prefix {
    /// The text that a log calls `name`.
    pub(super) fn of(name: &str, tokens: u32) -> Self {
        let hash = Sha256::digest(name);
        let text = u64::from_le_bytes(hash[..8].try_into().expect("eight bytes"));
        Self { text, tokens }
    }
}

/// For ids, the longest shorter block that they begin with, and its tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Beginnings(BTreeMap<u64, (u64, u32)>);

impl Beginnings {
    /// True if no id begins with a shorter block.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// States that the block `longer` begins with the block `shorter` of `tokens` tokens.
    pub(super) fn add(&mut self, longer: u64, shorter: u64, tokens: u32) {
        let (mut longer, mut shorter, mut tokens) = (longer, shorter, tokens);
        while longer != shorter {
            match self.0.get(&longer).copied() {
                Some((_, known)) if known == tokens => return,
                Some((between, known)) if known > tokens => longer = between,
                before => {
                    self.0.insert(longer, (shorter, tokens));
                    let Some((between, known)) = before else { return };
                    (longer, shorter, tokens) = (shorter, between, known);
                }
            }
        }
    }

    /// The same with other ids.
    pub(super) fn renamed(&self, mut number: impl FnMut(u64) -> u64) -> Self {
        let pairs = self.0.iter();
        Self(
            pairs
                .map(|(&id, &(shorter, tokens))| (number(id), (number(shorter), tokens)))
                .collect(),
        )
    }

    /// The block that the first `tokens` tokens of `id` belong to.
    pub(super) fn named_by(&self, id: u64, tokens: u32) -> u64 {
        let mut id = id;
        while let Some(&(shorter, length)) = self.0.get(&id)
            && tokens <= length
        {
            id = shorter;
        }
        id
    }

    /// The first `blocks` blocks of an engine in the text that `runs` name, where
    /// an id stands for so many tokens, and a block of the engine has so many.
    pub(super) fn engine_blocks(
        &self,
        runs: &[BlockRun],
        (id_tokens, block_size): (u32, u32),
        blocks: u32,
    ) -> SmallVec<[BlockRun; 2]> {
        let per_id = id_tokens / block_size;
        let mut found = SmallVec::new();
        let mut left = blocks;
        // Blocks `from` up to `to` of those that the ids from `id` on stand for.
        let mut push = |id: u64, from: u32, to: u32| {
            let len = left.min(to - from);
            left -= len;
            if len > 0 {
                let first = BlockId(id * u64::from(per_id)).offset(from);
                found.push(BlockRun { first, len });
            }
        };
        for &BlockRun { first: BlockId(first), len } in runs {
            let mut next = first;
            for (&id, _) in self.0.range(first..first + u64::from(len)) {
                push(next, 0, blocks_of(id - next) * per_id);
                let mut from = 0;
                for (part, tokens) in self.chain(id) {
                    let to = tokens / block_size;
                    push(part, from, to);
                    from = to;
                }
                push(id, from, per_id);
                next = id + 1;
            }
            push(next, 0, blocks_of(first + u64::from(len) - next) * per_id);
        }
        found
    }

    /// The blocks that `id` begins with, and their tokens, the shortest first.
    fn chain(&self, id: u64) -> SmallVec<[(u64, u32); 2]> {
        let next = |(id, _): &(u64, u32)| self.0.get(id).copied();
        let mut chain: SmallVec<[_; 2]> =
            std::iter::successors(Some((id, 0)), next).skip(1).collect();
        chain.reverse();
        chain
    }
}

fn blocks_of(ids: u64) -> u32 {
    u32::try_from(ids).expect("a run has fewer ids")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_begin_with_every_shorter_one() {
        let run = |first, len| BlockRun { first: BlockId(first), len };
        let mut beginnings = Beginnings::default();
        // In any order: 9 begins with 5 (20 tokens), which begins with 4 (9 tokens).
        beginnings.add(9, 5, 20);
        beginnings.add(9, 4, 9);
        beginnings.add(9, 4, 9);
        let mut other = Beginnings::default();
        other.add(9, 4, 9);
        other.add(9, 5, 20);
        assert_eq!(beginnings, other);
        let blocks = |most| beginnings.engine_blocks(&[run(7, 4)], (32, 4), most);
        let all = [run(56, 16), run(32, 2), run(42, 3), run(77, 3), run(80, 8)];
        assert_eq!(blocks(32).to_vec(), all);
        assert_eq!(blocks(18).iter().map(|run| run.len).sum::<u32>(), 18);
        assert_eq!(blocks(18)[..2], all[..2]);
    }
}
