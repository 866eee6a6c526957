//! What a server says it holds, in the simulation's block ids.
//!
//! Servers name blocks by hashes of their own. A block is known here once its
//! text is: prompts when they are sent, answers when they are complete. What is
//! stored before (an answer that grows) waits until then; nobody can ask for it
//! earlier.

use super::text::BlockNames;
use crate::event::KvEvent;
use crate::id::BlockId;
use crate::request::BlockRun;
use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};
use std::collections::BTreeMap;
use std::fmt;

/// A change of a server's cache in its own words; fields that nobody needs are
/// passed over.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "type")]
pub(super) enum ServerEvent {
    /// Blocks can be hit from now on, in this order.
    BlockStored {
        block_hashes: Vec<BlockHash>,
        parent_block_hash: Option<BlockHash>,
        /// Of all these blocks.
        token_ids: Vec<u32>,
        block_size: u32,
    },
    /// Copies of these blocks were lost.
    BlockRemoved { block_hashes: Vec<BlockHash> },
    /// All are lost.
    AllBlocksCleared {},
}

/// vLLM's name of a block: a number, or the bytes of the whole hash.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum BlockHash {
    Number(u64),
    Bytes(Vec<u8>),
}

impl<'de> Deserialize<'de> for BlockHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Hash;
        impl Visitor<'_> for Hash {
            type Value = BlockHash;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a block hash: a number or bytes")
            }
            fn visit_u64<E: Error>(self, number: u64) -> Result<BlockHash, E> {
                Ok(BlockHash::Number(number))
            }
            fn visit_i64<E: Error>(self, number: i64) -> Result<BlockHash, E> {
                Ok(BlockHash::Number(number.cast_unsigned()))
            }
            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<BlockHash, E> {
                Ok(BlockHash::Bytes(bytes.to_vec()))
            }
        }
        deserializer.deserialize_any(Hash)
    }
}

/// Blocks that wait for a name, at most; older ones are forgotten (assumed: far
/// more than answers in flight can have).
const MOST_WAITING: usize = 100_000;

/// What one server holds.
#[derive(Debug, Default)]
pub(super) struct ServerCache {
    held: BTreeMap<BlockHash, Held>,
    /// In the order in which they were stored.
    waiting: Vec<Nameless>,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    block: BlockId,
    /// vLLM may hold a block twice, and says so; it is gone with the last copy.
    copies: u32,
}

#[derive(Debug)]
struct Nameless {
    hash: BlockHash,
    parent: Option<BlockHash>,
    tokens: Vec<u32>,
}

impl ServerCache {
    /// Takes an event in; what it comes to goes to `told`.
    ///
    /// # Errors
    /// What is wrong with the event.
    pub(super) fn hear(
        &mut self,
        event: ServerEvent,
        names: &BlockNames,
        told: &mut impl FnMut(KvEvent),
    ) -> Result<(), String> {
        match event {
            ServerEvent::BlockStored { block_hashes, parent_block_hash, token_ids, block_size } => {
                let size = block_size as usize;
                if size == 0 || token_ids.len() != block_hashes.len() * size {
                    return Err(format!(
                        "BlockStored with {} blocks of {block_size} tokens and {} tokens",
                        block_hashes.len(),
                        token_ids.len()
                    ));
                }
                let mut parent = parent_block_hash;
                for (hash, tokens) in block_hashes.into_iter().zip(token_ids.chunks_exact(size)) {
                    let stored = Nameless { hash: hash.clone(), parent, tokens: tokens.to_vec() };
                    parent = Some(hash);
                    if let Some(later) = self.store(stored, names, told) {
                        self.waiting.push(later);
                    }
                }
                let old = self.waiting.len().saturating_sub(MOST_WAITING);
                self.waiting.drain(..old);
            }
            ServerEvent::BlockRemoved { block_hashes } => {
                for hash in block_hashes {
                    self.remove(&hash, told);
                }
            }
            ServerEvent::AllBlocksCleared {} => self.clear(told),
        }
        Ok(())
    }

    /// Tells of blocks whose names have become known.
    pub(super) fn resolve(&mut self, names: &BlockNames, told: &mut impl FnMut(KvEvent)) {
        // A block may wait for its parent alone, which stands before it.
        for waiting in std::mem::take(&mut self.waiting) {
            if let Some(later) = self.store(waiting, names, told) {
                self.waiting.push(later);
            }
        }
    }

    /// Forgets all: the server lost its cache.
    pub(super) fn clear(&mut self, told: &mut impl FnMut(KvEvent)) {
        self.waiting.clear();
        let mut blocks: Vec<BlockId> = self.held.values().map(|held| held.block).collect();
        self.held.clear();
        // Later blocks of a run first, as caches lose them.
        blocks.sort_unstable();
        for &first in blocks.iter().rev() {
            told(KvEvent::Removed { run: BlockRun { first, len: 1 } });
        }
    }

    /// Gives it back if it has no name yet.
    fn store(
        &mut self,
        stored: Nameless,
        names: &BlockNames,
        told: &mut impl FnMut(KvEvent),
    ) -> Option<Nameless> {
        let parent = match &stored.parent {
            None => None,
            Some(hash) => match self.held.get(hash) {
                Some(held) => Some(held.block),
                None => return Some(stored),
            },
        };
        let Some(block) = names.find(parent, &stored.tokens) else { return Some(stored) };
        let held = self.held.entry(stored.hash).or_insert(Held { block, copies: 0 });
        held.copies += 1;
        told(KvEvent::Stored { parent, run: BlockRun { first: block, len: 1 } });
        None
    }

    fn remove(&mut self, hash: &BlockHash, told: &mut impl FnMut(KvEvent)) {
        if let Some(held) = self.held.get_mut(hash) {
            held.copies -= 1;
            if held.copies == 0 {
                let first = held.block;
                self.held.remove(hash);
                told(KvEvent::Removed { run: BlockRun { first, len: 1 } });
            }
        } else if let Some(at) = self.waiting.iter().position(|waiting| waiting.hash == *hash) {
            self.waiting.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const SIZE: u32 = 2;

    fn stored(hashes: &[u64], parent: Option<u64>, tokens: &[u32]) -> ServerEvent {
        ServerEvent::BlockStored {
            block_hashes: hashes.iter().map(|&hash| BlockHash::Number(hash)).collect(),
            parent_block_hash: parent.map(BlockHash::Number),
            token_ids: tokens.to_vec(),
            block_size: SIZE,
        }
    }

    fn removed(hash: u64) -> ServerEvent {
        ServerEvent::BlockRemoved { block_hashes: vec![BlockHash::Number(hash)] }
    }

    /// What a router believes that hears of all of `events`.
    fn believed(
        cache: &mut ServerCache,
        names: &BlockNames,
        events: &[ServerEvent],
    ) -> Vec<KvEvent> {
        let mut told = Vec::new();
        for event in events {
            cache.hear(event.clone(), names, &mut |event| told.push(event)).expect("good events");
        }
        told
    }

    fn names() -> BlockNames {
        let mut names = BlockNames::default();
        names.name(None, &[1, 2], BlockId(10));
        names.name(Some(BlockId(10)), &[3, 4], BlockId(11));
        names
    }

    #[test]
    fn a_copy_of_a_block_outlives_the_other() {
        let (mut cache, names) = (ServerCache::default(), names());
        let run = |first| BlockRun { first: BlockId(first), len: 1 };
        let events = [
            stored(&[7, 8], None, &[1, 2, 3, 4]),
            stored(&[8], Some(7), &[3, 4]),
            removed(8),
            removed(8),
            removed(99),
        ];
        assert_eq!(
            believed(&mut cache, &names, &events),
            [
                KvEvent::Stored { parent: None, run: run(10) },
                KvEvent::Stored { parent: Some(BlockId(10)), run: run(11) },
                KvEvent::Stored { parent: Some(BlockId(10)), run: run(11) },
                KvEvent::Removed { run: run(11) },
            ]
        );
    }

    #[test]
    fn what_has_no_name_yet_waits_with_all_that_follows_it() {
        let (mut cache, mut names) = (ServerCache::default(), names());
        let events = [
            stored(&[7], None, &[1, 2]),
            stored(&[9], Some(7), &[5, 6]),
            stored(&[5], Some(9), &[7, 8]),
        ];
        assert_eq!(believed(&mut cache, &names, &events).len(), 1);
        assert_eq!(believed(&mut cache, &names, &[removed(4)]), []);
        names.name(Some(BlockId(10)), &[5, 6], BlockId(20));
        names.name(Some(BlockId(20)), &[7, 8], BlockId(21));
        let mut told = Vec::new();
        cache.resolve(&names, &mut |event| told.push(event));
        assert_eq!(told.len(), 2);
        let cleared = believed(&mut cache, &names, &[ServerEvent::AllBlocksCleared {}]);
        let lost: BTreeSet<_> = cleared
            .iter()
            .map(|event| match event {
                KvEvent::Removed { run } => run.first.0,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(lost, BTreeSet::from([10, 20, 21]));
    }

    #[test]
    fn a_block_that_goes_before_it_had_a_name_never_comes() {
        let (mut cache, mut names) = (ServerCache::default(), names());
        let events = [stored(&[7], None, &[1, 2]), stored(&[9], Some(7), &[5, 6]), removed(9)];
        believed(&mut cache, &names, &events);
        names.name(Some(BlockId(10)), &[5, 6], BlockId(20));
        cache.resolve(&names, &mut |event| panic!("{event:?}"));
    }

    #[test]
    fn contradictory_events_are_refused() {
        let mut cache = ServerCache::default();
        for event in [stored(&[7], None, &[1]), stored(&[7, 8], None, &[1, 2])] {
            assert!(cache.hear(event, &names(), &mut |event| panic!("{event:?}")).is_err());
        }
    }
}
