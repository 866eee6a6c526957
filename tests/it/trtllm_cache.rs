//! Law 2 for TensorRT-LLM's cache: it is the reuse tree of T12-T22 of
//! docs/engine-rules.md, written here as plainly as can be, and free + held =
//! total after every change.

use super::rig::{cases, private_blocks};
use super::vllm_cache::{Change, changes};
use kv_router_sim::engine::rules::trtllm::{Held, TrtllmCache};
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
        let below = |(_, stored): &(Slot, Stored)| stored.parent == Some(slot);
        let mut children: Vec<(Slot, Stored)> = self.stored().filter(below).collect();
        children.sort_by_key(|(_, stored)| stored.inserted);
        for (child, _) in children {
            self.drop_subtree(child);
        }
    }

    fn reference(&mut self, slot: Slot) {
        self.references[slot as usize] += 1;
        self.free.retain(|&free| free != slot);
    }

    /// T12, T16, T17: what the tree has of all but the last token. Gives the tokens
    /// that were hit.
    fn claim(&mut self, content: &Content, prompt: u32, blocks: &mut Vec<Slot>) -> u32 {
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
        hit
    }

    /// New blocks for the rest of the prompt.
    fn fill(&mut self, prompt: u32, blocks: &mut Vec<Slot>) {
        while u32::try_from(blocks.len()).unwrap() < prompt.div_ceil(self.block_size) {
            blocks.push(self.allocate());
        }
    }

    /// Of the first `blocks` blocks those that the tree has, in order.
    fn present(&self, content: &Content, blocks: u32) -> Vec<Slot> {
        content.blocks(blocks).map_while(|id| self.full(id)).collect()
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

/// A request while it runs: its blocks in the cache and in the model.
struct Running {
    content: Content,
    prompt_tokens: u32,
    tokens: u32,
    held: Held,
    slots: Vec<Slot>,
    /// It has all blocks of its prompt.
    filled: bool,
}

/// The cache and the model, side by side.
struct Pair {
    cache: TrtllmCache,
    model: Model,
    log: EventLog,
    running: Vec<Running>,
    block_size: u32,
    total: u32,
    conversations: u32,
}

/// Blocks of a text, perhaps some of another one that goes on from there.
#[derive(Clone, Copy, Debug)]
struct Shared {
    text: u32,
    blocks: u32,
    branch_blocks: u32,
}

#[derive(Clone, Debug)]
enum Act {
    /// A prompt of shared blocks and some own tokens, of a new conversation or an old one.
    /// If it `waits`, it gets the blocks that it does not hit later (T43).
    Begin {
        shared: Shared,
        old: Option<u32>,
        own_tokens: u32,
        waits: bool,
    },
    /// The prompt has been computed, or at most so many blocks of it.
    Store {
        which: prop::sample::Index,
        blocks: u32,
    },
    Grow {
        which: prop::sample::Index,
        tokens: u32,
    },
    End {
        which: prop::sample::Index,
    },
    /// The client gives it up when at most so many blocks are computed.
    Abort {
        which: prop::sample::Index,
        blocks: u32,
    },
}

const MOST_SHARED: u32 = 5;
const MOST_BRANCHED: u32 = 3;

fn any_shared() -> impl Strategy<Value = Shared> {
    let branch_blocks = prop_oneof![2 => Just(0), 1 => 0..=MOST_BRANCHED];
    (0u32..4, 0..=MOST_SHARED, any::<bool>(), branch_blocks).prop_map(
        |(text, blocks, all, branch_blocks)| {
            // Most end where others do.
            let blocks = if all { [2, 1, 4, 0][text as usize] } else { blocks };
            Shared { text, blocks, branch_blocks }
        },
    )
}

fn any_act() -> impl Strategy<Value = Act> {
    let index = any::<prop::sample::Index>;
    let old = prop::option::of(0u32..3);
    prop_oneof![
        6 => (any_shared(), old, 1u32..20, prop::bool::weighted(0.2)).prop_map(
            |(shared, old, own_tokens, waits)| Act::Begin { shared, old, own_tokens, waits },
        ),
        3 => (index(), prop_oneof![Just(u32::MAX), 0u32..8])
            .prop_map(|(which, blocks)| Act::Store { which, blocks }),
        4 => (index(), 1u32..12).prop_map(|(which, tokens)| Act::Grow { which, tokens }),
        5 => index().prop_map(|which| Act::End { which }),
        1 => (index(), 0u32..8).prop_map(|(which, blocks)| Act::Abort { which, blocks }),
    ]
}

impl Shared {
    /// As the first blocks of a conversation; even texts end inside a block.
    fn content(self, conversation: u32, block_size: u32) -> Content {
        let Self { text, blocks, branch_blocks } = self;
        let run = BlockRun { first: BlockId(u64::from(text) << 20), len: blocks };
        let first = BlockId(u64::from(text) << 20 | u64::from(blocks + 1) << 10);
        let branch = BlockRun { first, len: branch_blocks };
        let fork = if text.is_multiple_of(2) { block_size / 2 } else { 0 };
        Content::new([run, branch], private_blocks(conversation)).with_fork_tokens(fork)
    }

    /// A number for each of the values that this can have.
    fn number(self) -> u32 {
        let Self { text, blocks, branch_blocks } = self;
        (text * (MOST_SHARED + 1) + blocks) * (MOST_BRANCHED + 1) + branch_blocks
    }
}

impl Pair {
    fn new(block_size: u32, total: u32, partial_reuse: bool) -> Self {
        Self {
            cache: TrtllmCache::new(block_size, total, partial_reuse),
            model: Model::new(block_size, total, partial_reuse),
            log: EventLog::new(true),
            running: Vec::new(),
            block_size,
            total,
            conversations: 0,
        }
    }

    fn begin(
        &mut self,
        shared: Shared,
        old: Option<u32>,
        own_tokens: u32,
        waits: bool,
    ) -> Result<(), TestCaseError> {
        // A conversation belongs to what it shares.
        let conversation = match old {
            Some(conversation) => conversation * 100 + shared.number(),
            None => {
                self.conversations += 1;
                1_000 + self.conversations
            }
        };
        let content = shared.content(conversation, self.block_size);
        let shared_tokens = content.shared_blocks() * self.block_size + content.fork_tokens();
        let prompt_tokens = shared_tokens + own_tokens;
        let blocks = prompt_tokens.div_ceil(self.block_size);
        if blocks > self.cache.free_blocks() {
            return Ok(());
        }
        let (mut held, mut slots) = (Held::default(), Vec::new());
        let shared = self.cache.held_blocks(&content, (prompt_tokens - 1) / self.block_size);
        let free = self.cache.free_blocks();
        let hit = self.cache.claim(&content, prompt_tokens, &mut held);
        let modelled = self.model.claim(&content, prompt_tokens, &mut slots);
        prop_assert_eq!((hit, held.blocks() as usize), (modelled, slots.len()));
        prop_assert!(hit < prompt_tokens);
        let taken = free - self.cache.free_blocks() + blocks - held.blocks();
        prop_assert!(taken <= blocks - shared, "{taken} blocks taken, {shared} were held");
        let tokens = prompt_tokens;
        let filled = false;
        self.running.push(Running { content, prompt_tokens, tokens, held, slots, filled });
        if waits { Ok(()) } else { self.fill(self.running.len() - 1).map(drop) }
    }

    /// Takes the blocks that a prompt waits for; if there are too few it goes, and this
    /// is false.
    fn fill(&mut self, which: usize) -> Result<bool, TestCaseError> {
        let Running { prompt_tokens, held, slots, filled, .. } = &mut self.running[which];
        if *filled {
            return Ok(true);
        }
        let more = prompt_tokens.div_ceil(self.block_size) - held.blocks();
        if more > self.cache.free_blocks() {
            self.release(which)?;
            return Ok(false);
        }
        self.cache.fill(*prompt_tokens, held, &mut self.log);
        self.model.fill(*prompt_tokens, slots);
        *filled = true;
        prop_assert_eq!(held.blocks() as usize, slots.len());
        Ok(true)
    }

    fn grow(&mut self, which: usize, tokens: u32) {
        let Running { tokens: before, held, slots, .. } = &mut self.running[which];
        for _ in 0..tokens {
            if before.is_multiple_of(self.block_size) {
                if self.cache.free_blocks() == 0 {
                    break;
                }
                self.cache.allocate(1, held, &mut self.log);
                slots.push(self.model.allocate());
            }
            *before += 1;
        }
    }

    fn store(&mut self, which: usize, tokens: u32, with_partial: bool) {
        let Running { content, held, slots, .. } = &mut self.running[which];
        self.cache.store(content, held, tokens, with_partial, &mut self.log);
        self.model.store(content, slots, tokens, with_partial);
    }

    fn end(&mut self, which: usize) -> Result<(), TestCaseError> {
        self.store(which, self.running[which].tokens, true);
        self.release(which)
    }

    fn release(&mut self, which: usize) -> Result<(), TestCaseError> {
        let mut ended = self.running.remove(which);
        self.cache.release(&mut ended.held);
        self.model.release(&ended.slots);
        prop_assert_eq!(ended.held.blocks(), 0);
        Ok(())
    }

    fn act(&mut self, act: &Act) -> Result<(), TestCaseError> {
        match act {
            &Act::Begin { shared, old, own_tokens, waits } => {
                self.begin(shared, old, own_tokens, waits)?;
            }
            _ if self.running.is_empty() => {}
            Act::Store { which, .. }
            | Act::Grow { which, .. }
            | Act::End { which }
            | Act::Abort { which, .. } => {
                let which = which.index(self.running.len());
                if self.fill(which)? {
                    self.go_on(act, which)?;
                }
            }
        }
        self.compare()
    }

    fn go_on(&mut self, act: &Act, which: usize) -> Result<(), TestCaseError> {
        let Running { prompt_tokens, tokens, .. } = self.running[which];
        let at_most = |blocks: u32| blocks.saturating_mul(self.block_size);
        match *act {
            Act::Begin { .. } => {}
            Act::Store { blocks, .. } => {
                self.store(which, (prompt_tokens - 1).min(at_most(blocks)), false);
            }
            Act::Grow { tokens, .. } => self.grow(which, tokens),
            Act::End { .. } => self.end(which)?,
            Act::Abort { blocks, .. } => {
                // Not inside what the prompt has in common with others.
                self.store(which, tokens.min(at_most(blocks)), true);
                self.release(which)?;
            }
        }
        Ok(())
    }

    fn compare(&mut self) -> Result<(), TestCaseError> {
        prop_assert_eq!(changes(&mut self.log), std::mem::take(&mut self.model.changes));
        let mut held: Vec<Slot> = self.running.iter().flat_map(|r| r.slots.clone()).collect();
        held.sort_unstable();
        held.dedup();
        let held = u32::try_from(held.len()).unwrap();
        prop_assert_eq!(self.cache.used_blocks(), held, "blocks that requests hold");
        prop_assert_eq!(self.cache.free_blocks() + held, self.total);
        prop_assert_eq!(self.cache.free_blocks() as usize, self.model.free.len());
        let count = self.cache.count_blocks(self.running.iter().map(|running| &running.held));
        let cached = |slot: &&Slot| self.model.tree[**slot as usize].is_some();
        let cached = u32::try_from(self.model.free.iter().filter(cached).count()).unwrap();
        let empty = self.total - held - cached;
        prop_assert_eq!(count, BlockCount { held, cached, empty });
        for text in 0..4 {
            let all = Shared { text, blocks: MOST_SHARED, branch_blocks: 0 };
            self.compare_prefix(&all.content(0, self.block_size), MOST_SHARED)?;
        }
        for Running { content, tokens, .. } in &self.running {
            for blocks in 0..=tokens / self.block_size {
                self.compare_prefix(content, blocks)?;
            }
        }
        Ok(())
    }

    fn compare_prefix(&self, content: &Content, blocks: u32) -> Result<(), TestCaseError> {
        let present = self.model.present(content, blocks);
        prop_assert_eq!(self.cache.present_blocks(content, blocks) as usize, present.len());
        let is_held = |slot: &&Slot| self.model.references[**slot as usize] > 0;
        let held = present.iter().take_while(is_held).count();
        prop_assert_eq!(self.cache.held_blocks(content, blocks) as usize, held);
        Ok(())
    }

    /// All requests end; then every block is taken for something else, so that the order of
    /// the free queue shows, and what hung below what.
    fn displace_all(&mut self, blocks_at_once: u32) -> Result<(), TestCaseError> {
        while !self.running.is_empty() {
            if self.fill(0)? {
                self.end(0)?;
            }
            self.compare()?;
        }
        let mut held = Held::default();
        while self.cache.free_blocks() > 0 {
            let blocks = self.cache.free_blocks().min(blocks_at_once);
            self.cache.allocate(blocks, &mut held, &mut self.log);
            (0..blocks).for_each(|_| _ = self.model.allocate());
            prop_assert_eq!(changes(&mut self.log), std::mem::take(&mut self.model.changes));
        }
        prop_assert_eq!(held.blocks(), self.total);
        Ok(())
    }
}

proptest! {
    #![proptest_config(cases(2_000))]

    #[test]
    fn the_cache_is_the_reuse_tree(
        block_size in 1u32..7, total in 8u32..40, partial_reuse: bool,
        acts in prop::collection::vec(any_act(), 1..80), blocks_at_once in 1u32..6,
    ) {
        let mut pair = Pair::new(block_size, total, partial_reuse);
        for act in &acts {
            pair.act(act)?;
        }
        pair.displace_all(blocks_at_once)?;
    }
}
