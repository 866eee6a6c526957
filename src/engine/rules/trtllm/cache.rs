//! TensorRT-LLM's block reuse tree (rules T12-T22 and T43 of docs/engine-rules.md).

use crate::id::BlockId;
use crate::kv::{BlockCount, Cache, EventLog, NONE};
use crate::request::{BlockRun, Content};
use crate::rng::mix;
use hashbrown::HashTable;
use smallvec::SmallVec;

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
///
/// Which physical block holds what cannot be seen from outside, so the pool
/// keeps *stretches* of consecutive blocks that share one fate, and a count of
/// the blocks that were never used. An operation costs the stretches that it
/// touches, whatever their length.
///
/// # What makes stretches enough
///
/// A sequence releases its last block first, so a free stretch is taken from its
/// end. What follows a stretch in the tree hangs at its end too: where something
/// is to hang in the middle, or is hit up to there, the stretch is cut. And an id
/// stands for its block and all before it, so it has one predecessor: a table of
/// first blocks answers every lookup.
///
/// Outside the tree a block has one holder at most. Only what is in the tree can
/// be shared. A sequence that shares a block also holds everything above it, so
/// nothing above it is free to be taken, and it stays in the tree.
#[derive(Debug)]
pub struct TrtllmCache {
    block_size: u32,
    num_blocks: u32,
    partial_reuse: bool,
    stretches: Vec<Stretch>,
    /// Stretches without blocks, to be used again.
    unused: Vec<StretchId>,
    /// Every stretch in the tree, by its first block; never iterated.
    tree: HashTable<StretchId>,
    /// Blocks never used: the front of the free queue.
    fresh: u32,
    /// Blocks given back: the back of the free queue, as a list of stretches
    /// each of which is taken from its end.
    given_back: u32,
    first: StretchId,
    last: StretchId,
    /// Scratch for [`release`](Self::release) and [`drop_below`](Self::drop_below).
    stack: Vec<StretchId>,
}

type StretchId = u32;

/// Consecutive blocks with one fate.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    /// Outside the tree only its length means something.
    run: BlockRun,
    /// Sequences that hold it; 0 in the free queue.
    refs: u32,
    /// Tokens stored in each block; 0 outside the tree. A partly filled block is
    /// a stretch of its own.
    tokens: u32,
    /// Neighbours in the free queue.
    prev: StretchId,
    next: StretchId,
    /// The stretch at whose end it hangs: kept up to date in a first child only.
    parent: StretchId,
    /// The child inserted last, and the others from there on.
    first_child: StretchId,
    next_sibling: StretchId,
    prev_sibling: StretchId,
    /// What followed when it was cut: the rest for those who held all of it.
    rest: StretchId,
}

/// Blocks from the beginning of a stretch, and of what it was cut off.
#[derive(Clone, Copy, Debug)]
struct Piece {
    stretch: StretchId,
    len: u32,
}

/// The blocks that one sequence holds, in order.
#[derive(Debug, Default)]
pub struct Held {
    pieces: SmallVec<[Piece; 3]>,
    blocks: u32,
}

impl Held {
    /// Number of blocks.
    pub fn blocks(&self) -> u32 {
        self.blocks
    }

    fn push(&mut self, piece: Piece) {
        self.pieces.push(piece);
        self.blocks += piece.len;
    }
}

impl Cache for TrtllmCache {
    fn num_blocks(&self) -> u32 {
        self.num_blocks
    }

    fn free_blocks(&self) -> u32 {
        self.fresh + self.given_back
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
            stretches: Vec::new(),
            unused: Vec::new(),
            tree: HashTable::new(),
            fresh: num_blocks,
            given_back: 0,
            first: NONE,
            last: NONE,
            stack: Vec::new(),
        }
    }

    /// Counts every block; `held` are the blocks of all sequences. Costs what the pool
    /// has: for tests.
    pub fn count_blocks<'a>(&self, held: impl Iterator<Item = &'a Held>) -> BlockCount {
        let pieces = held.flat_map(|held| held.pieces.iter());
        let mut stretches: Vec<StretchId> =
            pieces.flat_map(|&piece| self.stretches_of(piece)).collect();
        stretches.sort_unstable();
        stretches.dedup();
        let first = (self.first != NONE).then_some(self.first);
        let next = |&id: &StretchId| Some(self.at(id).next).filter(|&next| next != NONE);
        let (cached, empty): (Vec<StretchId>, Vec<StretchId>) =
            std::iter::successors(first, next).partition(|&id| self.at(id).tokens > 0);
        let blocks = |ids: &[StretchId]| ids.iter().map(|&id| self.at(id).run.len).sum::<u32>();
        BlockCount {
            held: blocks(&stretches),
            cached: blocks(&cached),
            empty: blocks(&empty) + self.fresh,
        }
    }

    /// How many of the first `limit` blocks of a sequence are in the tree.
    pub fn present_blocks(&self, content: &Content, limit: u32) -> u32 {
        self.prefix(content, limit).map(|piece| piece.len).sum()
    }

    /// How many of the first `limit` blocks of a sequence are in the tree *and* held
    /// by some sequence, up to the first that is not.
    ///
    /// One more sequence can share them without taking a free block. And they stay:
    /// only a free block is taken for something else, and what leaves the tree with it
    /// stands below it, while everything above these blocks is held as well.
    pub fn held_blocks(&self, content: &Content, limit: u32) -> u32 {
        let held = |piece: &Piece| self.at(piece.stretch).refs > 0;
        self.prefix(content, limit).take_while(held).map(|piece| piece.len).sum()
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
        held: &mut Held,
        log: &mut EventLog,
    ) -> u32 {
        let tokens = self.claim(content, prompt_tokens, held);
        self.fill(prompt_tokens, held, log);
        tokens
    }

    /// Lets a sequence that holds nothing yet hold what the tree has of the first
    /// `prompt_tokens - 1` tokens, and nothing else: no other block is displaced. Returns the
    /// prompt tokens that were hit.
    pub fn claim(&mut self, content: &Content, prompt_tokens: u32, held: &mut Held) -> u32 {
        debug_assert_eq!(held.blocks, 0);
        let reusable = prompt_tokens - 1;
        self.prefix(content, reusable / self.block_size).for_each(|piece| held.push(piece));
        for &Piece { stretch, len } in &held.pieces {
            if len < self.at(stretch).run.len {
                self.cut(stretch, len);
            }
            if self.at(stretch).refs == 0 {
                self.unlink(stretch);
            }
            self.at_mut(stretch).refs += 1;
        }
        let tokens = held.blocks * self.block_size;
        if !self.partial_reuse {
            return tokens;
        }
        let key_tokens = (reusable - tokens).min(self.block_size);
        tokens + self.take_partial(content, key_tokens, held)
    }

    /// Allocates the blocks of a prompt that a sequence does not hold yet.
    ///
    /// # Panics
    /// If too few blocks are free: the capacity pass comes first.
    pub fn fill(&mut self, prompt_tokens: u32, held: &mut Held, log: &mut EventLog) {
        let needed = prompt_tokens.div_ceil(self.block_size);
        self.allocate(needed.saturating_sub(held.blocks), held, log);
    }

    /// Takes `blocks` blocks for new content of a sequence; what they held and everything
    /// below leaves the tree.
    ///
    /// # Panics
    /// If fewer are free.
    pub fn allocate(&mut self, blocks: u32, held: &mut Held, log: &mut EventLog) {
        let fresh = blocks.min(self.fresh);
        self.fresh -= fresh;
        let mut left = blocks - fresh;
        while left > 0 {
            left -= self.displace(left, log);
        }
        if blocks > 0 {
            self.lengthen(blocks, held);
        }
    }

    /// Stores the first `tokens` tokens of a sequence; a partly filled last block
    /// only if `with_partial` (T14, T18).
    pub fn store(
        &mut self,
        content: &Content,
        held: &mut Held,
        tokens: u32,
        with_partial: bool,
        log: &mut EventLog,
    ) {
        debug_assert!(tokens.div_ceil(self.block_size) <= held.blocks);
        let full = tokens / self.block_size;
        // What follows a missing block is missing too.
        let mut from = 0;
        let mut above = Piece { stretch: NONE, len: 0 };
        for piece in self.prefix(content, full) {
            from += piece.len;
            above = piece;
        }
        if from < full {
            self.spread(held);
        }
        let mut parent = from.checked_sub(1).map(|before| content.block(before));
        for run in content.range(from, full) {
            above = self.store_run(run, from, above, held);
            from += run.len;
            log.stored(parent, run);
            parent = Some(run.first.offset(run.len - 1));
        }
        let rest = tokens % self.block_size;
        if with_partial && self.partial_reuse && rest > 0 {
            self.store_partial(content.block(full), full, rest, above, held);
        }
    }

    /// Drops a reference of each of a sequence's blocks, the last block first (T21).
    pub fn release(&mut self, held: &mut Held) {
        let mut released = std::mem::take(&mut self.stack);
        for piece in held.pieces.drain(..) {
            released.extend(self.stretches_of(piece));
        }
        held.blocks = 0;
        while let Some(id) = released.pop() {
            let stretch = self.at_mut(id);
            stretch.refs -= 1;
            if stretch.refs == 0 {
                self.link_last(id);
            }
        }
        self.stack = released;
    }

    /// The longest common token prefix of the block after the full hits with a child
    /// of the last one (T16); an unreferenced leaf is taken itself, anything else is
    /// copied into a new block (T17).
    fn take_partial(&mut self, content: &Content, key_tokens: u32, held: &mut Held) -> u32 {
        if key_tokens == 0 {
            return 0;
        }
        let id = content.block(held.blocks);
        let mut best = (0, NONE);
        for found in [self.find_full(id), self.find_partial(id)].into_iter().flatten() {
            let common = self.at(found).tokens.min(key_tokens);
            if common > best.0 {
                best = (common, found);
            }
        }
        if held.blocks == content.shared_blocks()
            && let Some(parent) = held.pieces.last()
        {
            // Nothing was held before, and all hits are whole stretches now.
            let child = self.at(parent.stretch).first_child;
            let common = content.fork_tokens().min(key_tokens);
            if child != NONE && common > best.0 {
                best = (common.min(self.at(child).tokens), child);
            }
        }
        let (common, found) = best;
        if found != NONE && self.is_free_leaf(found) {
            self.unlink(found);
            self.leave(found);
            self.at_mut(found).refs = 1;
            held.push(Piece { stretch: found, len: 1 });
        }
        common
    }

    /// No sequence holds its first block, and nothing is below that one.
    fn is_free_leaf(&self, id: StretchId) -> bool {
        let Stretch { run, refs, first_child, .. } = *self.at(id);
        refs == 0 && run.len == 1 && first_child == NONE
    }

    /// Puts the blocks of a sequence from `from` on, of which the tree lacks `run`, below
    /// `above`; gives the last stretch now.
    fn store_run(&mut self, run: BlockRun, from: u32, above: Piece, held: &mut Held) -> Piece {
        let begin = self.piece_at(from, held);
        let end = self.piece_at(from + run.len, held);
        if let Some(before) = begin.checked_sub(1)
            && held.pieces[before].stretch == above.stretch
            && self.is_followed_only_by(above, run.first)
        {
            let grown = &mut held.pieces[before];
            grown.len += run.len;
            self.at_mut(above.stretch).run.len = grown.len;
            let grown = *grown;
            self.unused.extend(held.pieces.drain(begin..end).map(|piece| piece.stretch));
            return grown;
        }
        let stored = Piece { len: run.len, ..held.pieces[begin] };
        self.unused.extend(held.pieces.drain(begin + 1..end).map(|piece| piece.stretch));
        held.pieces[begin] = stored;
        self.at_mut(stored.stretch).run = run;
        self.hang(stored.stretch, self.block_size, above);
        stored
    }

    /// One sequence alone has `above`, a whole stretch, with nothing below it, and `next`
    /// comes after it.
    fn is_followed_only_by(&self, above: Piece, next: BlockId) -> bool {
        let Stretch { run, refs, first_child, .. } = *self.at(above.stretch);
        let alone = refs == 1 && first_child == NONE && run.len == above.len;
        alone && run.first.offset(run.len) == next
    }

    /// Stores the first `tokens` tokens of the block `id`, the one at `index`, below `above`.
    fn store_partial(
        &mut self,
        id: BlockId,
        index: u32,
        tokens: u32,
        above: Piece,
        held: &mut Held,
    ) {
        if let Some(old) = self.find_partial(id) {
            if self.at(old).tokens >= tokens {
                return;
            }
            // Nothing is below it, and routers never heard of it (T25).
            self.leave(old);
        }
        self.spread(held);
        let at = self.piece_at(index, held);
        self.piece_at(index + 1, held);
        let own = held.pieces[at].stretch;
        self.at_mut(own).run = BlockRun { first: id, len: 1 };
        self.hang(own, tokens, above);
    }

    /// The place of the piece that begins with the block at `index`, or where it would
    /// be, for a sequence with one piece a stretch. A stretch outside the tree is split if
    /// need be.
    fn piece_at(&mut self, index: u32, held: &mut Held) -> usize {
        let mut before = index;
        for at in 0..held.pieces.len() {
            let Piece { stretch, len } = held.pieces[at];
            if before == 0 {
                return at;
            }
            if before < len {
                debug_assert_eq!(self.at(stretch).tokens, 0, "a block is in the tree once");
                self.at_mut(stretch).run.len = before;
                held.pieces[at].len = before;
                let second = Piece { stretch: self.add(len - before), len: len - before };
                held.pieces.insert(at + 1, second);
                return at + 1;
            }
            before -= len;
        }
        held.pieces.len()
    }

    /// Gives a sequence one piece for each of its stretches.
    fn spread(&self, held: &mut Held) {
        let len = |stretch: StretchId| self.at(stretch).run.len;
        if held.pieces.iter().all(|piece| piece.len == len(piece.stretch)) {
            return;
        }
        let stretches = held.pieces.iter().flat_map(|&piece| self.stretches_of(piece));
        held.pieces = stretches.map(|stretch| Piece { stretch, len: len(stretch) }).collect();
    }

    /// Adds `blocks` blocks outside the tree to those of a sequence.
    fn lengthen(&mut self, blocks: u32, held: &mut Held) {
        if let Some(piece) = held.pieces.last_mut() {
            let id = self.stretches_of(*piece).last().expect("a piece is not empty");
            let stretch = self.at_mut(id);
            if stretch.tokens == 0 {
                debug_assert_eq!(stretch.refs, 1, "only what is in the tree is shared");
                stretch.run.len += blocks;
                piece.len += blocks;
                held.blocks += blocks;
                return;
            }
        }
        let stretch = self.add(blocks);
        held.push(Piece { stretch, len: blocks });
    }

    /// The stretches that hold the first `limit` blocks of a sequence, in order, up to the
    /// first block that is not in the tree.
    fn prefix<'a>(&'a self, content: &'a Content, limit: u32) -> impl Iterator<Item = Piece> + 'a {
        let mut runs = content.runs(limit);
        let mut run = BlockRun { first: BlockId(0), len: 0 };
        std::iter::from_fn(move || {
            if run.len == 0 {
                run = runs.next()?;
            }
            let stretch = self.find_full(run.first)?;
            let len = self.at(stretch).run.len.min(run.len);
            run = run.skip(len);
            Some(Piece { stretch, len })
        })
    }

    /// The stretches that make up a piece, in order.
    fn stretches_of(&self, piece: Piece) -> impl Iterator<Item = StretchId> + '_ {
        let mut left = piece.len;
        let mut next = piece.stretch;
        std::iter::from_fn(move || {
            let id = (left > 0).then_some(next)?;
            let stretch = self.at(id);
            left -= stretch.run.len;
            next = stretch.rest;
            Some(id)
        })
    }

    /// Takes up to `most` blocks from the stretch given back first, its last block first;
    /// gives their number.
    fn displace(&mut self, most: u32, log: &mut EventLog) -> u32 {
        let id = self.first;
        assert_ne!(id, NONE, "a block is free");
        let Stretch { run, tokens, first_child, .. } = *self.at(id);
        let taken = run.len.min(most);
        let mut lost = run.skip(run.len - taken);
        if tokens == self.block_size {
            if first_child != NONE {
                // What is below the last block is lost before the others.
                log.removed(lost.skip(taken - 1), true);
                lost.len -= 1;
                self.drop_below(id, log);
            }
            if lost.len > 0 {
                log.removed(lost, true);
            }
        }
        if taken < run.len {
            self.at_mut(id).run.len -= taken;
            self.given_back -= taken;
            return taken;
        }
        self.unlink(id);
        if tokens > 0 {
            self.leave(id);
        }
        self.unused.push(id);
        taken
    }

    /// Takes everything below a stretch out of the tree. The blocks stay where they are
    /// in the free queue. Only full blocks make events: the publisher drops partly
    /// filled ones (T25).
    fn drop_below(&mut self, id: StretchId, log: &mut EventLog) {
        self.push_children(id);
        while let Some(id) = self.stack.pop() {
            self.push_children(id);
            let Stretch { run, tokens, .. } = *self.at(id);
            if tokens == self.block_size {
                // From the root's side: not the order that one run would stand for.
                run.ids().for_each(|first| log.removed(BlockRun { first, len: 1 }, true));
            }
            self.leave(id);
        }
    }

    fn push_children(&mut self, id: StretchId) {
        let mut child = self.at(id).first_child;
        while child != NONE {
            self.stack.push(child);
            child = self.at(child).next_sibling;
        }
    }

    /// Cuts a stretch of the tree after `at` blocks. It keeps the first part; the second
    /// is freed before it.
    fn cut(&mut self, id: StretchId, at: u32) {
        let upper = *self.at(id);
        let lower = self.add(upper.run.len - at);
        *self.at_mut(lower) = Stretch {
            run: upper.run.skip(at),
            parent: id,
            next_sibling: NONE,
            prev_sibling: NONE,
            ..upper
        };
        if upper.first_child != NONE {
            self.at_mut(upper.first_child).parent = lower;
        }
        if upper.refs == 0 {
            // In front of the upper part; their blocks are counted already.
            self.at_mut(lower).next = id;
            self.at_mut(id).prev = lower;
            match upper.prev {
                NONE => self.first = lower,
                prev => self.at_mut(prev).next = lower,
            }
        }
        let upper = self.at_mut(id);
        upper.run.len = at;
        upper.first_child = lower;
        upper.rest = lower;
        self.enter(lower);
    }

    /// A new stretch outside the tree that one sequence holds.
    fn add(&mut self, blocks: u32) -> StretchId {
        let stretch = Stretch {
            run: BlockRun { first: BlockId(0), len: blocks },
            refs: 1,
            tokens: 0,
            prev: NONE,
            next: NONE,
            parent: NONE,
            first_child: NONE,
            next_sibling: NONE,
            prev_sibling: NONE,
            rest: NONE,
        };
        if let Some(id) = self.unused.pop() {
            *self.at_mut(id) = stretch;
            return id;
        }
        self.stretches.push(stretch);
        StretchId::try_from(self.stretches.len() - 1).expect("fewer stretches than blocks")
    }

    /// Puts a stretch with `tokens` tokens a block into the tree, below the last block of
    /// `above`.
    fn hang(&mut self, id: StretchId, tokens: u32, above: Piece) {
        let Piece { stretch: parent, len } = above;
        let mut next_sibling = NONE;
        if parent != NONE {
            if len < self.at(parent).run.len {
                self.cut(parent, len);
            }
            next_sibling = std::mem::replace(&mut self.at_mut(parent).first_child, id);
        }
        if next_sibling != NONE {
            self.at_mut(next_sibling).prev_sibling = id;
        }
        let stretch = self.at_mut(id);
        debug_assert_eq!(stretch.tokens, 0, "a block is in the tree once");
        (stretch.tokens, stretch.parent, stretch.next_sibling) = (tokens, parent, next_sibling);
        self.enter(id);
    }

    /// Takes a stretch out of the tree; what is below it has left or leaves next.
    fn leave(&mut self, id: StretchId) {
        let Stretch { run, parent, next_sibling, prev_sibling, .. } = *self.at(id);
        match prev_sibling {
            NONE if parent == NONE => {}
            NONE => self.at_mut(parent).first_child = next_sibling,
            prev => self.at_mut(prev).next_sibling = next_sibling,
        }
        if next_sibling != NONE {
            let next = self.at_mut(next_sibling);
            (next.parent, next.prev_sibling) = (parent, prev_sibling);
        }
        match self.tree.find_entry(mix(run.first.0), |&other| other == id) {
            Ok(entry) => drop(entry.remove()),
            Err(_) => panic!("{run:?} is not in the tree"),
        }
        let stretch = self.at_mut(id);
        stretch.tokens = 0;
        (stretch.parent, stretch.first_child) = (NONE, NONE);
        (stretch.next_sibling, stretch.prev_sibling) = (NONE, NONE);
    }

    fn link_last(&mut self, id: StretchId) {
        let last = std::mem::replace(&mut self.last, id);
        match last {
            NONE => self.first = id,
            last => self.at_mut(last).next = id,
        }
        let stretch = self.at_mut(id);
        (stretch.prev, stretch.next) = (last, NONE);
        self.given_back += self.at(id).run.len;
    }

    fn unlink(&mut self, id: StretchId) {
        let Stretch { prev, next, run, .. } = *self.at(id);
        match prev {
            NONE => self.first = next,
            prev => self.at_mut(prev).next = next,
        }
        match next {
            NONE => self.last = prev,
            next => self.at_mut(next).prev = prev,
        }
        self.given_back -= run.len;
    }

    /// The stretch of full blocks that begins with `block`.
    fn find_full(&self, block: BlockId) -> Option<StretchId> {
        self.find(block, |tokens| tokens == self.block_size)
    }

    fn find_partial(&self, block: BlockId) -> Option<StretchId> {
        self.find(block, |tokens| tokens < self.block_size)
    }

    fn find(&self, block: BlockId, holds: impl Fn(u32) -> bool) -> Option<StretchId> {
        let is_it = |&id: &StretchId| {
            let stretch = self.at(id);
            stretch.run.first == block && holds(stretch.tokens)
        };
        self.tree.find(mix(block.0), is_it).copied()
    }

    fn enter(&mut self, id: StretchId) {
        let Self { tree, stretches, .. } = self;
        let hash = |&id: &StretchId| mix(stretches[id as usize].run.first.0);
        tree.insert_unique(hash(&id), id, hash);
    }

    fn at(&self, id: StretchId) -> &Stretch {
        &self.stretches[id as usize]
    }

    fn at_mut(&mut self, id: StretchId) -> &mut Stretch {
        &mut self.stretches[id as usize]
    }
}
