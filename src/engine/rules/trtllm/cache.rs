//! TensorRT-LLM's block reuse tree (rules T12-T22 and T43 of docs/engine-rules.md).

use crate::id::BlockId;
use crate::kv::{BlockCount, BlockTable, Cache, EventLog, FreeQueue, NONE, Slot};
use crate::request::{BlockRun, Content};

/// TensorRT-LLM's block pool with its radix tree of stored blocks.
///
/// * Blocks enter the tree when a context phase or a request is processed, not
///   when they are scheduled; a copy of a block already in the tree stays
///   outside it and is dead weight.
/// * A prompt may also hit part of a block: the longest common token prefix
///   with a child of the last full hit.
/// * One free queue by time of release. Taking a block drops it *and everything
///   below it* from the tree.
///
/// The tree keeps at most one partly filled copy of a block, the longest stored;
/// the real one keeps one per length. Partly filled blocks directly under the
/// root are matched by their own id only, not against other texts.
#[derive(Debug)]
pub struct TrtllmCache {
    block_size: u32,
    num_blocks: u32,
    partial_reuse: bool,
    slots: Vec<Node>,
    free: FreeQueue,
    full: BlockTable,
    partial: BlockTable,
    subtree: Vec<Slot>,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    id: BlockId,
    refs: u32,
    /// Tokens stored; 0 outside the tree.
    tokens: u32,
    parent: Slot,
    first_child: Slot,
    next_sibling: Slot,
    prev_sibling: Slot,
}

const FRESH: Node = Node {
    id: BlockId(0),
    refs: 1,
    tokens: 0,
    parent: NONE,
    first_child: NONE,
    next_sibling: NONE,
    prev_sibling: NONE,
};

impl Cache for TrtllmCache {
    fn num_blocks(&self) -> u32 {
        self.num_blocks
    }

    fn free_blocks(&self) -> u32 {
        self.free.len()
    }

    fn reset(&mut self) -> bool {
        let idle = self.used_blocks() == 0;
        if idle {
            *self = Self::new(self.block_size, self.num_blocks, self.partial_reuse);
        }
        idle
    }
}

impl TrtllmCache {
    /// An empty pool of `num_blocks` blocks.
    pub fn new(block_size: u32, num_blocks: u32, partial_reuse: bool) -> Self {
        Self {
            block_size,
            num_blocks,
            partial_reuse,
            slots: Vec::new(),
            free: FreeQueue::new(num_blocks),
            full: BlockTable::default(),
            partial: BlockTable::default(),
            subtree: Vec::new(),
        }
    }

    /// Counts every block; `held` are the blocks of all sequences. Costs what the pool
    /// has: for tests.
    pub fn count_blocks<'a>(&self, held: impl Iterator<Item = &'a [Slot]>) -> BlockCount {
        let mut slots: Vec<Slot> = held.flatten().copied().collect();
        slots.sort_unstable();
        slots.dedup();
        let free = self.slots.iter().filter(|node| node.refs == 0);
        let (cached, empty): (Vec<&Node>, Vec<&Node>) = free.partition(|node| node.tokens > 0);
        let fresh = self.num_blocks as usize - self.slots.len();
        let count = |blocks: usize| u32::try_from(blocks).expect("no more than the pool has");
        BlockCount {
            held: count(slots.len()),
            cached: count(cached.len()),
            empty: count(empty.len() + fresh),
        }
    }

    /// How many of the first `limit` blocks of a sequence are in the tree. The
    /// tree holds whole prefixes, so a binary search finds the end.
    pub fn present_blocks(&self, content: &Content, limit: u32) -> u32 {
        let (mut present, mut missing) = (0, limit);
        while present < missing {
            let middle = present + (missing - present) / 2;
            match self.find_full(content.block(middle)) {
                Some(_) => present = middle + 1,
                None => missing = middle,
            }
        }
        present
    }

    /// How many of the first `limit` blocks of a sequence are in the tree *and* held
    /// by some sequence, up to the first that is not.
    ///
    /// One more sequence can share them without taking a free block. And they stay:
    /// only a free block is taken for something else, and what leaves the tree with it
    /// stands below it, while everything above these blocks is held as well.
    pub fn held_blocks(&self, content: &Content, limit: u32) -> u32 {
        let (mut held, mut last) = (0, NONE);
        for id in content.blocks(limit) {
            match self.find_below(last, id) {
                Some(slot) if self.slots[slot as usize].refs > 0 => last = slot,
                _ => break,
            }
            held += 1;
        }
        held
    }

    /// Adds a sequence: takes what the tree has of the first `prompt_tokens - 1`
    /// tokens and allocates the rest of the prompt's blocks at once (T12, T16, T17).
    /// Returns the prompt tokens that were hit.
    ///
    /// # Panics
    /// If too few blocks are free: the capacity pass comes first.
    pub fn add_sequence(
        &mut self,
        content: &Content,
        prompt_tokens: u32,
        blocks: &mut Vec<Slot>,
        log: &mut EventLog,
    ) -> u32 {
        let tokens = self.claim(content, prompt_tokens, blocks);
        self.fill(prompt_tokens, blocks, log);
        tokens
    }

    /// Takes what the tree has of the first `prompt_tokens - 1` tokens into `blocks`, and
    /// nothing else: no other block is displaced. Returns the prompt tokens that were hit.
    pub fn claim(&mut self, content: &Content, prompt_tokens: u32, blocks: &mut Vec<Slot>) -> u32 {
        debug_assert!(blocks.is_empty());
        let reusable = prompt_tokens - 1;
        let mut last = NONE;
        for id in content.blocks(reusable / self.block_size) {
            let Some(slot) = self.find_below(last, id) else { break };
            self.reference(slot);
            blocks.push(slot);
            last = slot;
        }
        let index = u32::try_from(blocks.len()).expect("blocks of a prompt fit u32");
        let tokens = index * self.block_size;
        if !self.partial_reuse {
            return tokens;
        }
        let key_tokens = (reusable - tokens).min(self.block_size);
        tokens + self.take_partial(content, index, last, key_tokens, blocks)
    }

    /// Allocates the blocks of a prompt that are not in `blocks` yet.
    ///
    /// # Panics
    /// If too few blocks are free: the capacity pass comes first.
    pub fn fill(&mut self, prompt_tokens: u32, blocks: &mut Vec<Slot>, log: &mut EventLog) {
        let needed = prompt_tokens.div_ceil(self.block_size) as usize;
        while blocks.len() < needed {
            blocks.push(self.allocate(log));
        }
    }

    /// Takes a block for new content; what it held and everything below leaves the tree.
    ///
    /// # Panics
    /// If no block is free.
    pub fn allocate(&mut self, log: &mut EventLog) -> Slot {
        let slot = self.free.pop().expect("a free block");
        if slot as usize == self.slots.len() {
            self.slots.push(FRESH);
            return slot;
        }
        self.drop_subtree(slot, log);
        self.slots[slot as usize].refs = 1;
        slot
    }

    /// Stores the first `tokens` tokens of a sequence, held in `blocks`; a
    /// partly filled last block only if `with_partial` (T14, T18).
    pub fn store(
        &mut self,
        content: &Content,
        blocks: &[Slot],
        tokens: u32,
        with_partial: bool,
        log: &mut EventLog,
    ) {
        let full = tokens / self.block_size;
        // What follows a missing block is missing too.
        let present = self.present_blocks(content, full);
        let mut parent_id = present.checked_sub(1).map(|last| content.block(last));
        let mut parent = parent_id.and_then(|id| self.find_full(id)).unwrap_or(NONE);
        let missing = content.range(present, full).flat_map(BlockRun::ids);
        for (id, &own) in missing.zip(&blocks[present as usize..]) {
            self.insert(own, id, self.block_size, parent);
            log.stored(parent_id, BlockRun { first: id, len: 1 });
            (parent, parent_id) = (own, Some(id));
        }
        let rest = tokens % self.block_size;
        if with_partial && self.partial_reuse && rest > 0 {
            self.store_partial(content.block(full), blocks[full as usize], rest, parent, log);
        }
    }

    /// Drops a reference of each of a sequence's blocks, the last block first (T21).
    pub fn release(&mut self, blocks: &[Slot]) {
        for &slot in blocks.iter().rev() {
            let node = &mut self.slots[slot as usize];
            node.refs -= 1;
            if node.refs == 0 {
                self.free.push_back(slot);
            }
        }
    }

    /// The longest common token prefix of the block at `index` with a child of
    /// the last full hit (T16); an unreferenced leaf is taken itself, anything
    /// else is copied into a new block (T17).
    fn take_partial(
        &mut self,
        content: &Content,
        index: u32,
        parent: Slot,
        key_tokens: u32,
        blocks: &mut Vec<Slot>,
    ) -> u32 {
        if key_tokens == 0 {
            return 0;
        }
        let id = content.block(index);
        let mut best = (0, NONE);
        for slot in [self.find_full(id), self.find_partial(id)].into_iter().flatten() {
            let common = self.slots[slot as usize].tokens.min(key_tokens);
            if common > best.0 {
                best = (common, slot);
            }
        }
        if index == content.shared_blocks() && parent != NONE {
            let child = self.slots[parent as usize].first_child;
            let common = content.fork_tokens().min(key_tokens);
            if child != NONE && common > best.0 {
                best = (common.min(self.slots[child as usize].tokens), child);
            }
        }
        let (common, slot) = best;
        if slot != NONE {
            let node = self.slots[slot as usize];
            if node.refs == 0 && node.first_child == NONE {
                self.free.remove(slot);
                self.detach(slot);
                self.slots[slot as usize].refs = 1;
                blocks.push(slot);
            }
        }
        common
    }

    fn store_partial(
        &mut self,
        id: BlockId,
        own: Slot,
        tokens: u32,
        parent: Slot,
        log: &mut EventLog,
    ) {
        if let Some(old) = self.find_partial(id) {
            if self.slots[old as usize].tokens >= tokens {
                return;
            }
            self.drop_subtree(old, log);
        }
        self.insert(own, id, tokens, parent);
    }

    fn reference(&mut self, slot: Slot) {
        let node = &mut self.slots[slot as usize];
        if node.refs == 0 {
            self.free.remove(slot);
        }
        node.refs += 1;
    }

    fn insert(&mut self, slot: Slot, id: BlockId, tokens: u32, parent: Slot) {
        let mut next_sibling = NONE;
        if parent != NONE {
            next_sibling = self.slots[parent as usize].first_child;
            self.slots[parent as usize].first_child = slot;
            if next_sibling != NONE {
                self.slots[next_sibling as usize].prev_sibling = slot;
            }
        }
        let node = &mut self.slots[slot as usize];
        debug_assert_eq!(node.tokens, 0, "a block is in the tree once");
        *node = Node { id, tokens, parent, next_sibling, ..*node };
        let table = if tokens == self.block_size { &mut self.full } else { &mut self.partial };
        table.insert(id, slot).expect("a block is in the tree once");
    }

    /// Takes `slot` and everything below it out of the tree. The blocks stay
    /// where they are in the free queue. Only full blocks make events: the
    /// publisher drops partly filled ones (T25).
    fn drop_subtree(&mut self, slot: Slot, log: &mut EventLog) {
        if self.slots[slot as usize].tokens == 0 {
            return;
        }
        self.subtree.push(slot);
        while let Some(slot) = self.subtree.pop() {
            let mut child = self.slots[slot as usize].first_child;
            while child != NONE {
                self.subtree.push(child);
                child = self.slots[child as usize].next_sibling;
            }
            let Node { id, tokens, .. } = self.slots[slot as usize];
            if tokens == self.block_size {
                log.removed(BlockRun { first: id, len: 1 }, true);
            }
            self.detach(slot);
        }
    }

    /// Takes one node out of the tree; its children lose their parent.
    fn detach(&mut self, slot: Slot) {
        let node = self.slots[slot as usize];
        match node.prev_sibling {
            NONE if node.parent == NONE => {}
            NONE => self.slots[node.parent as usize].first_child = node.next_sibling,
            prev => self.slots[prev as usize].next_sibling = node.next_sibling,
        }
        if node.next_sibling != NONE {
            self.slots[node.next_sibling as usize].prev_sibling = node.prev_sibling;
        }
        let table = if node.tokens == self.block_size { &mut self.full } else { &mut self.partial };
        debug_assert_eq!(table.get(node.id), Some(slot));
        table.remove(node.id);
        let mut child = node.first_child;
        while child != NONE {
            let state = &mut self.slots[child as usize];
            state.parent = NONE;
            state.prev_sibling = NONE;
            child = std::mem::replace(&mut state.next_sibling, NONE);
        }
        self.slots[slot as usize] = Node { refs: node.refs, ..FRESH };
    }

    /// The full block `id` below `parent`. Most blocks have one child, in a slot
    /// next to their own: a look there is cheaper than one into the table.
    fn find_below(&self, parent: Slot, id: BlockId) -> Option<Slot> {
        if parent != NONE {
            let child = self.slots[parent as usize].first_child;
            if child != NONE {
                let node = &self.slots[child as usize];
                if node.id == id && node.tokens == self.block_size {
                    return Some(child);
                }
            }
        }
        self.find_full(id)
    }

    fn find_full(&self, id: BlockId) -> Option<Slot> {
        self.full.get(id)
    }

    fn find_partial(&self, id: BlockId) -> Option<Slot> {
        self.partial.get(id)
    }
}
