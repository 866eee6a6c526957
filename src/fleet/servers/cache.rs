//! What a server says it holds, in the simulation's block ids.
//!
//! Servers name blocks by hashes of their own. A block is known here once its
//! text is: prompts when they are sent, answers when they are complete. What is
//! stored before (an answer that grows) waits until then; no request can ask for it
//! earlier.

use super::text::BlockNames;
use crate::event::KvEvent;
use crate::id::BlockId;
use crate::request::BlockRun;
use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, Visitor};
use std::collections::BTreeMap;
use std::fmt;

/// A change of a server's cache in its own words. The fields stand in vLLM's order,
/// since old versions send them as a list; later ones are not needed.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "type")]
pub(super) enum ServerEvent {
    /// Blocks can be hit from now on, in this order.
    BlockStored {
        block_hashes: Vec<BlockHash>,
        parent_block_hash: Option<BlockHash>,
        /// Of all these blocks. A group of layers that keeps less than full attention
        /// leaves blocks out, but not their tokens.
        token_ids: Vec<u32>,
        block_size: u32,
        #[serde(default)]
        lora_id: IgnoredAny,
        /// `GPU`, or where else the copy is.
        #[serde(default)]
        medium: Option<String>,
        #[serde(default)]
        lora_name: IgnoredAny,
        #[serde(default)]
        extra_keys: IgnoredAny,
        /// Which of the groups of layers stores them; all have hashes of their own.
        #[serde(default)]
        group_idx: Option<u32>,
        /// What the layers of that group keep.
        #[serde(default)]
        kv_cache_spec_kind: Option<String>,
    },
    /// Copies of these blocks were lost.
    BlockRemoved {
        block_hashes: Vec<BlockHash>,
        #[serde(default)]
        medium: Option<String>,
        #[serde(default)]
        group_idx: Option<u32>,
    },
    /// All are lost.
    AllBlocksCleared {},
    /// An event of a later version.
    #[serde(other)]
    Unknown,
}

/// Why an event was not followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unheard {
    /// It makes no sense.
    Broken(String),
    /// It is valid and about something else than the blocks of full attention in
    /// GPU memory.
    Other(String),
}

/// How events begin to be named that are about layers of another kind.
pub(crate) const OF_LAYERS: &str = "layers of";

/// The kinds of groups that keep every block of a prefix: a prefix is found as far as
/// they hold it, as in an engine whose layers are all alike.
const KEEPS_ALL: [&str; 3] = ["full_attention", "mla_attention", "sink_full_attention"];

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
#[derive(Debug)]
pub(super) struct ServerCache {
    block_size: u32,
    /// The group of layers that is followed: the first that keeps everything.
    group: Option<u32>,
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
    /// An empty cache of blocks of `block_size` tokens.
    pub(super) fn new(block_size: u32) -> Self {
        Self { block_size, group: None, held: BTreeMap::new(), waiting: Vec::new() }
    }

    /// Takes an event in; what it comes to goes to `told`.
    ///
    /// # Errors
    /// Why it is not followed.
    pub(super) fn hear(
        &mut self,
        event: ServerEvent,
        names: &BlockNames,
        told: &mut impl FnMut(KvEvent),
    ) -> Result<(), Unheard> {
        match event {
            ServerEvent::BlockStored {
                block_hashes,
                parent_block_hash,
                token_ids,
                block_size,
                medium,
                group_idx,
                kv_cache_spec_kind,
                ..
            } => {
                on_gpu(medium)?;
                self.follows(group_idx, kv_cache_spec_kind.as_deref())?;
                let size = block_size as usize;
                if size == 0 || token_ids.len() != block_hashes.len() * size {
                    return Err(Unheard::Broken(format!(
                        "BlockStored with {} blocks of {block_size} tokens and {} tokens",
                        block_hashes.len(),
                        token_ids.len()
                    )));
                }
                if block_size != self.block_size {
                    let expected = self.block_size;
                    let what = format!("blocks of {block_size} tokens, not {expected}");
                    return Err(Unheard::Other(what));
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
            ServerEvent::BlockRemoved { block_hashes, medium, group_idx } => {
                on_gpu(medium)?;
                if group_idx.is_some() && group_idx != self.group {
                    return Err(Unheard::Other(format!("{OF_LAYERS} another group")));
                }
                for hash in block_hashes {
                    self.remove(&hash, told);
                }
            }
            ServerEvent::AllBlocksCleared {} => self.clear(told),
            ServerEvent::Unknown => {
                return Err(Unheard::Other("events of an unknown type".to_owned()));
            }
        }
        Ok(())
    }

    /// Whether the blocks of this group say what the server holds of a prefix. Versions
    /// that number groups and do not say their kind put full attention first.
    fn follows(&mut self, group: Option<u32>, kind: Option<&str>) -> Result<(), Unheard> {
        let Some(group) = group else { return Ok(()) };
        let keeps_all = kind.map_or(group == 0, |kind| KEEPS_ALL.contains(&kind));
        if keeps_all && *self.group.get_or_insert(group) == group {
            return Ok(());
        }
        let kind: String = kind.unwrap_or("another kind").chars().take(40).collect();
        Err(Unheard::Other(format!("{OF_LAYERS} {kind}")))
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

/// Copies below GPU memory are not what a router's index counts.
fn on_gpu(medium: Option<String>) -> Result<(), Unheard> {
    match medium {
        Some(medium) if medium != "GPU" => {
            let medium: String = medium.chars().take(40).collect();
            Err(Unheard::Other(format!("copies in {medium}")))
        }
        _ => Ok(()),
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
            lora_id: IgnoredAny,
            medium: Some("GPU".to_owned()),
            lora_name: IgnoredAny,
            extra_keys: IgnoredAny,
            group_idx: None,
            kv_cache_spec_kind: None,
        }
    }

    fn removed(hash: u64) -> ServerEvent {
        let block_hashes = vec![BlockHash::Number(hash)];
        ServerEvent::BlockRemoved { block_hashes, medium: None, group_idx: None }
    }

    /// `event` of a group of layers, whose kind removals do not say.
    fn of_group(event: ServerEvent, group: u32, kind: Option<&str>) -> ServerEvent {
        let mut event = event;
        match &mut event {
            ServerEvent::BlockStored { group_idx, kv_cache_spec_kind, .. } => {
                *group_idx = Some(group);
                *kv_cache_spec_kind = kind.map(str::to_owned);
            }
            ServerEvent::BlockRemoved { group_idx, .. } => *group_idx = Some(group),
            other => panic!("{other:?}"),
        }
        event
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
        let (mut cache, names) = (ServerCache::new(SIZE), names());
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
        let (mut cache, mut names) = (ServerCache::new(SIZE), names());
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
        let (mut cache, mut names) = (ServerCache::new(SIZE), names());
        let events = [stored(&[7], None, &[1, 2]), stored(&[9], Some(7), &[5, 6]), removed(9)];
        believed(&mut cache, &names, &events);
        names.name(Some(BlockId(10)), &[5, 6], BlockId(20));
        cache.resolve(&names, &mut |event| panic!("{event:?}"));
    }

    /// Of a server whose layers keep different amounts, the group of full attention is
    /// followed; events of the others are valid, and have other hashes for the same text.
    #[test]
    fn full_attention_is_followed_among_groups_of_layers() {
        let (mut cache, names) = (ServerCache::new(SIZE), names());
        let mut told = Vec::new();
        let mut hear = |event| cache.hear(event, &names, &mut |event| told.push(event));
        let window = Some("sliding_window");
        // A window leaves a block out, not its tokens.
        let sparse = of_group(stored(&[8], None, &[1, 2, 3, 4]), 1, window);
        let other = |what: &str| Err(Unheard::Other(what.to_owned()));
        assert_eq!(hear(sparse), other("layers of sliding_window"));
        let full = of_group(stored(&[7, 8], None, &[1, 2, 3, 4]), 0, Some("full_attention"));
        assert_eq!(hear(full), Ok(()));
        assert_eq!(hear(of_group(removed(8), 1, None)), other("layers of another group"));
        assert_eq!(hear(of_group(removed(8), 0, None)), Ok(()));
        // A second group that keeps everything holds what the first does.
        let second = of_group(stored(&[7], None, &[1, 2]), 2, Some("mla_attention"));
        assert_eq!(hear(second), other("layers of mla_attention"));
        let run = |first| BlockRun { first: BlockId(first), len: 1 };
        let parent = Some(BlockId(10));
        assert_eq!(
            told,
            [
                KvEvent::Stored { parent: None, run: run(10) },
                KvEvent::Stored { parent, run: run(11) },
                KvEvent::Removed { run: run(11) },
            ]
        );
    }

    #[test]
    fn valid_events_about_something_else_are_named() {
        let (mut cache, names) = (ServerCache::new(SIZE), names());
        let mut hear = |event| cache.hear(event, &names, &mut |event| panic!("{event:?}"));
        let mut below = stored(&[7], None, &[1, 2]);
        let mut large = stored(&[7], None, &[1, 2, 3]);
        if let ServerEvent::BlockStored { medium, .. } = &mut below {
            *medium = Some("CPU".to_owned());
        }
        if let ServerEvent::BlockStored { block_size, .. } = &mut large {
            *block_size = 3;
        }
        for (event, what) in [
            (below, "copies in CPU"),
            (large, "blocks of 3 tokens, not 2"),
            (ServerEvent::Unknown, "events of an unknown type"),
            (of_group(stored(&[7], None, &[1, 2]), 3, None), "layers of another kind"),
        ] {
            assert_eq!(hear(event), Err(Unheard::Other(what.to_owned())));
        }
    }

    #[test]
    fn contradictory_events_are_refused() {
        let mut cache = ServerCache::new(SIZE);
        for event in [stored(&[7], None, &[1]), stored(&[7, 8], None, &[1, 2])] {
            assert!(cache.hear(event, &names(), &mut |event| panic!("{event:?}")).is_err());
        }
    }
}
