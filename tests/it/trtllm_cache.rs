//! Law 2 for TensorRT-LLM's cache: it is the reuse tree of T12-T22 of
//! docs/engine-rules.md, written here as plainly as can be, and free + held =
//! total after every change.

use super::rig::{cases, private_blocks};
use super::vllm_cache::{Change, changes};
use kv_router_sim::engine::rules::trtllm::TrtllmCache;
use kv_router_sim::id::BlockId;
use kv_router_sim::kv::{BlockCount, Cache, EventLog, Slot};
use kv_router_sim::request::{BlockRun, Content};
use proptest::prelude::*;

/// A block in the tree.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Stored {
    id: BlockId,
    tokens: u32,
    parent: Option<Slot>,
    /// Larger is newer.
    inserted: u64,
}

/// The block pool and its tree: a block is a place in these lists.
struct Model {
    block_size: u32,
    partial_reuse: bool,
    tree: Vec<Option<Stored>>,
    references: Vec<u32>,
    /// The next to be taken first.
    free: Vec<Slot>,
    insertions: u64,
    changes: Vec<Change>,
}

impl Model {
    fn new(block_size: u32, num_blocks: u32, partial_reuse: bool) -> Self {
        Self {
            block_size,
            partial_reuse,
            tree: vec![None; num_blocks as usize],
            references: vec![0; num_blocks as usize],
            free: (0..num_blocks).collect(),
            insertions: 0,
            changes: Vec::new(),
        }
    }

    fn stored(&self) -> impl Iterator<Item = (Slot, Stored)> + '_ {
        (0..).zip(&self.tree).filter_map(|(slot, stored)| Some((slot, (*stored)?)))
    }

    fn full(&self, id: BlockId) -> Option<Slot> {
        let full = |stored: Stored| stored.id == id && stored.tokens == self.block_size;
        self.stored().find(|&(_, stored)| full(stored)).map(|(slot, _)| slot)
    }

    /// T22: the first free block; what it held leaves the tree with all below it.
    fn allocate(&mut self) -> Slot {
        let slot = self.free.remove(0);
        self.drop_subtree(slot);
        self.references[slot as usize] = 1;
        slot
    }

    fn drop_subtree(&mut self, slot: Slot) {
        let Some(lost) = self.tree[slot as usize].take() else { return };
        if lost.tokens == self.block_size {
            self.changes.push(Change::Removed(lost.id));
        }
        let children: Vec<Slot> = self
            .stored()
            .filter(|(_, stored)| stored.parent == Some(slot))
            .map(|(child, _)| child)
            .collect();
        for child in children {
            self.drop_subtree(child);
        }
    }

    fn reference(&mut self, slot: Slot) {
        self.references[slot as usize] += 1;
        self.free.retain(|&free| free != slot);
    }

    /// T12, T16, T17: what the tree has of all but the last token, then new
    /// blocks for the rest of the prompt. Gives the tokens that were hit.
    fn add_sequence(&mut self, content: &Content, prompt: u32, blocks: &mut Vec<Slot>) -> u32 {
        let reusable = prompt - 1;
        for id in content.blocks(reusable / self.block_size) {
            let Some(slot) = self.full(id) else { break };
            self.reference(slot);
            blocks.push(slot);
        }
        let index = u32::try_from(blocks.len()).unwrap();
        let mut hit = index * self.block_size;
        let key = (reusable - hit).min(self.block_size);
        if let Some((slot, common)) = self.best_child(content, index, key, blocks.last().copied()) {
            hit += common;
            let has_children = self.stored().any(|(_, stored)| stored.parent == Some(slot));
            if self.references[slot as usize] == 0 && !has_children {
                // Taken itself, without an event.
                self.tree[slot as usize] = None;
                self.reference(slot);
                blocks.push(slot);
            }
        }
        while u32::try_from(blocks.len()).unwrap() < prompt.div_ceil(self.block_size) {
            blocks.push(self.allocate());
        }
        hit
    }

    /// The child with the longest common token prefix: the block itself (the
    /// whole one before the partly filled one), else the newest.
    fn best_child(
        &self,
        content: &Content,
        index: u32,
        key: u32,
        parent: Option<Slot>,
    ) -> Option<(Slot, u32)> {
        if !self.partial_reuse || key == 0 {
            return None;
        }
        let id = content.block(index);
        let at_fork = parent.is_some() && index == content.shared_blocks();
        let mut candidates: Vec<(u32, bool, u64, u64, Slot)> = Vec::new();
        for (slot, stored) in self.stored() {
            let (same, tokens) = (stored.id == id, u64::from(stored.tokens));
            if same {
                candidates.push((stored.tokens.min(key), true, tokens, stored.inserted, slot));
            } else if at_fork && stored.parent == parent {
                let common = stored.tokens.min(key).min(content.fork_tokens());
                candidates.push((common, false, 0, stored.inserted, slot));
            }
        }
        let best = candidates.into_iter().max()?;
        (best.0 > 0).then_some((best.4, best.0))
    }

    /// T14, T18: blocks that the tree lacks go in; copies stay outside.
    fn store(&mut self, content: &Content, blocks: &[Slot], tokens: u32, with_partial: bool) {
        let (mut parent, mut parent_id) = (None, None);
        let full = tokens / self.block_size;
        for (id, &own) in content.blocks(full).zip(blocks) {
            parent = Some(match self.full(id) {
                Some(existing) => existing,
                None => {
                    self.insert(own, id, self.block_size, parent);
                    self.changes.push(Change::Stored(parent_id, id));
                    own
                }
            });
            parent_id = Some(id);
        }
        let rest = tokens % self.block_size;
        if !with_partial || !self.partial_reuse || rest == 0 {
            return;
        }
        // One partly filled copy of a block is kept, the longest.
        let id = content.block(full);
        let partial = |stored: Stored| stored.id == id && stored.tokens < self.block_size;
        let old = self.stored().find(|&(_, stored)| partial(stored));
        match old {
            Some((_, stored)) if stored.tokens >= rest => return,
            Some((slot, _)) => self.drop_subtree(slot),
            None => {}
        }
        self.insert(blocks[full as usize], id, rest, parent);
    }

    fn insert(&mut self, slot: Slot, id: BlockId, tokens: u32, parent: Option<Slot>) {
        self.insertions += 1;
        let inserted = self.insertions;
        self.tree[slot as usize] = Some(Stored { id, tokens, parent, inserted });
    }

    /// T21: the last block first, to the back.
    fn release(&mut self, blocks: &[Slot]) {
        for &slot in blocks.iter().rev() {
            self.references[slot as usize] -= 1;
            if self.references[slot as usize] == 0 {
                self.free.push(slot);
            }
        }
    }
}

/// A request's blocks while it runs.
struct Held {
    content: Content,
    prompt_tokens: u32,
    tokens: u32,
    slots: Vec<Slot>,
}

/// The cache and the model, side by side.
struct Pair {
    cache: TrtllmCache,
    model: Model,
    log: EventLog,
    held: Vec<Held>,
    block_size: u32,
    total: u32,
    conversations: u32,
}

#[derive(Clone, Debug)]
enum Act {
    /// A prompt of a text and some own tokens, of a new conversation or an old one.
    Begin {
        text: u64,
        old: Option<u32>,
        own_tokens: u32,
    },
    /// The prompt has been computed.
    Store {
        which: prop::sample::Index,
    },
    Grow {
        which: prop::sample::Index,
        tokens: u32,
    },
    End {
        which: prop::sample::Index,
    },
}

fn any_act() -> impl Strategy<Value = Act> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        6 => (0u64..4, prop::option::of(0u32..6), 1u32..20)
            .prop_map(|(text, old, own_tokens)| Act::Begin { text, old, own_tokens }),
        3 => index().prop_map(|which| Act::Store { which }),
        4 => (index(), 1u32..6).prop_map(|(which, tokens)| Act::Grow { which, tokens }),
        6 => index().prop_map(|which| Act::End { which }),
    ]
}

/// Blocks of `text` that requests share; even texts end inside a block.
fn shared_blocks(text: u64) -> u32 {
    [2, 1, 4, 0][usize::try_from(text).unwrap()]
}

impl Pair {
    fn begin(&mut self, text: u64, old: Option<u32>, own: u32) -> Result<(), TestCaseError> {
        // A conversation belongs to one text.
        let conversation = match old {
            Some(conversation) => conversation * 4 + u32::try_from(text).unwrap(),
            None => {
                self.conversations += 1;
                100 + self.conversations
            }
        };
        let len = shared_blocks(text);
        let fork = if text.is_multiple_of(2) { self.block_size / 2 } else { 0 };
        let run = BlockRun { first: BlockId(text << 20), len };
        let content = Content::new([run], private_blocks(conversation)).with_fork_tokens(fork);
        let prompt_tokens = len * self.block_size + fork + own;
        if prompt_tokens.div_ceil(self.block_size) > self.cache.free_blocks() {
            return Ok(());
        }
        let (mut slots, mut expected) = (Vec::new(), Vec::new());
        let held = self.cache.held_blocks(&content, (prompt_tokens - 1) / self.block_size);
        let most = prompt_tokens.div_ceil(self.block_size) - held;
        let free = self.cache.free_blocks();
        let hit = self.cache.add_sequence(&content, prompt_tokens, &mut slots, &mut self.log);
        let modelled = self.model.add_sequence(&content, prompt_tokens, &mut expected);
        prop_assert_eq!((hit, &slots), (modelled, &expected));
        prop_assert!(hit < prompt_tokens);
        let taken = free - self.cache.free_blocks();
        prop_assert!(taken <= most, "{taken} blocks taken, {held} were held");
        self.held.push(Held { content, prompt_tokens, tokens: prompt_tokens, slots });
        Ok(())
    }

    fn act(&mut self, act: &Act) -> Result<(), TestCaseError> {
        match act {
            Act::Begin { text, old, own_tokens } => self.begin(*text, *old, *own_tokens)?,
            _ if self.held.is_empty() => {}
            Act::Store { which } => {
                let Held { content, slots, prompt_tokens, .. } = which.get(&self.held);
                self.cache.store(content, slots, prompt_tokens - 1, false, &mut self.log);
                self.model.store(content, slots, prompt_tokens - 1, false);
            }
            Act::Grow { which, tokens } => {
                let which = which.index(self.held.len());
                let held = &mut self.held[which];
                for _ in 0..*tokens {
                    let full = held.tokens.is_multiple_of(self.block_size);
                    if full && self.cache.free_blocks() == 0 {
                        break;
                    }
                    if full {
                        let slot = self.cache.allocate(&mut self.log);
                        prop_assert_eq!(slot, self.model.allocate());
                        held.slots.push(slot);
                    }
                    held.tokens += 1;
                }
            }
            Act::End { which } => {
                let held = self.held.remove(which.index(self.held.len()));
                self.cache.store(&held.content, &held.slots, held.tokens, true, &mut self.log);
                self.model.store(&held.content, &held.slots, held.tokens, true);
                self.cache.release(&held.slots);
                self.model.release(&held.slots);
            }
        }
        self.compare()
    }

    fn compare(&mut self) -> Result<(), TestCaseError> {
        // In which order a subtree is lost is nobody's promise.
        let sorted = |mut changes: Vec<Change>| {
            changes.sort_by_key(|change| match *change {
                Change::Stored(_, id) => (0, id),
                Change::Removed(id) => (1, id),
            });
            changes
        };
        let modelled = std::mem::take(&mut self.model.changes);
        prop_assert_eq!(sorted(changes(&mut self.log)), sorted(modelled));
        let mut held: Vec<Slot> = self.held.iter().flat_map(|held| held.slots.clone()).collect();
        held.sort_unstable();
        held.dedup();
        let held = u32::try_from(held.len()).unwrap();
        prop_assert_eq!(self.cache.used_blocks(), held, "blocks that requests hold");
        prop_assert_eq!(self.cache.free_blocks() + held, self.total);
        prop_assert_eq!(self.cache.free_blocks() as usize, self.model.free.len());
        let count = self.cache.count_blocks(self.held.iter().map(|held| &held.slots[..]));
        let cached = |slot: &&Slot| self.model.tree[**slot as usize].is_some();
        let cached = u32::try_from(self.model.free.iter().filter(cached).count()).unwrap();
        let empty = self.total - held - cached;
        prop_assert_eq!(count, BlockCount { held, cached, empty });
        for text in 0..4 {
            let len = shared_blocks(text);
            let run = BlockRun { first: BlockId(text << 20), len };
            let content = Content::new([run], private_blocks(0));
            let modelled = content.blocks(len).take_while(|&id| self.model.full(id).is_some());
            let present = self.cache.present_blocks(&content, len);
            prop_assert_eq!(present as usize, modelled.count());
            let is_held = |id: &BlockId| {
                self.model.full(*id).is_some_and(|slot| self.model.references[slot as usize] > 0)
            };
            let modelled = content.blocks(len).take_while(is_held);
            prop_assert_eq!(self.cache.held_blocks(&content, len) as usize, modelled.count());
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(cases(2_000))]

    #[test]
    fn the_cache_is_the_reuse_tree(
        block_size in 1u32..7, total in 8u32..40, partial_reuse: bool,
        acts in prop::collection::vec(any_act(), 1..80),
    ) {
        let mut pair = Pair {
            cache: TrtllmCache::new(block_size, total, partial_reuse),
            model: Model::new(block_size, total, partial_reuse),
            log: EventLog::new(true),
            held: Vec::new(),
            block_size,
            total,
            conversations: 0,
        };
        for act in &acts {
            pair.act(act)?;
        }
    }
}
