//! vLLM's prefix cache (checked step by step against vLLM 0.32.0, see the
//! recorded runs in `tests/data/vllm-runs`).

use crate::id::BlockId;
use crate::kv::{BlockCount, Cache, EventLog, NONE};
use crate::request::{BlockRun, Content};
use crate::rng::mix;
use hashbrown::HashTable;
use smallvec::SmallVec;

/// vLLM's block pool.
///
/// * A full block can be hit from the moment it is scheduled.
/// * Equal blocks may coexist; a lookup takes the first stored.
/// * A released sequence gives its blocks back tail first: blocks that were
///   never cached go to the front of the free queue, cached ones to the back.
///
/// Which physical block holds what cannot be seen from outside, so the pool
/// keeps *stretches* of consecutive cached blocks that share one fate, and a
/// count of the free blocks that hold nothing. An operation costs the stretches
/// that it touches, whatever their length.
///
/// # What makes stretches enough
///
/// Two stretches hold either the same ids (they are *copies*) or none in
/// common: where they would overlap in part, both are cut to make them
/// alike. A request that holds a block holds all blocks before it, and gives
/// them back after it, so nothing is cached behind a block that is not. And an
/// id stands for its block and all before it, so it has one predecessor. Hence
/// the block at which a stretch of some prompt ends is followed by the first
/// block of another, or by nothing cached: a table of first blocks answers
/// every lookup.
#[derive(Debug)]
pub struct VllmCache {
    block_size: u32,
    num_blocks: u32,
    stretches: Vec<Stretch>,
    /// Stretches without blocks, to be used again.
    unused: Vec<StretchId>,
    /// The oldest copy of every stretch, by its first block; never iterated.
    oldest: HashTable<StretchId>,
    /// Free blocks that hold nothing: the front of the free queue.
    empty: u32,
    /// Free blocks that can be hit: the back of the free queue, as a list of
    /// stretches each of which is taken from its end.
    cached: u32,
    first: StretchId,
    last: StretchId,
    /// Of the free stretches those up to this one have been [foreseen](Self::foresee), and
    /// the blocks that they have.
    unforeseen: StretchId,
    foreseen: u32,
    /// Cached blocks that were taken for new content since the pool was empty.
    displaced: u64,
    /// Scratch for [`release`](Self::release).
    released: Vec<StretchId>,
}

type StretchId = u32;

/// Consecutive cached blocks with one fate.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    run: BlockRun,
    /// Requests that hold it; 0 in the free queue.
    refs: u32,
    /// Neighbours in the free queue.
    prev: StretchId,
    next: StretchId,
    /// Copies stored before and after it.
    older: StretchId,
    newer: StretchId,
    /// What followed when it was cut: the rest for those who held all of it.
    rest: StretchId,
    /// Who enters the blocks that follow late, if a request does.
    owner: u32,
    /// Free, and named by [`foresee`](VllmCache::foresee).
    foreseen: bool,
}

impl Stretch {
    fn owner(&self) -> Option<u32> {
        (self.owner != NONE).then_some(self.owner)
    }

    /// One request alone has it and no other has a copy, and `next` comes after it.
    fn is_followed_only_by(&self, next: BlockId) -> bool {
        let alone = self.refs == 1 && self.older == NONE && self.newer == NONE;
        alone && self.run.first.offset(self.run.len) == next
    }
}

/// Blocks from the beginning of a stretch, and of what it was cut off.
#[derive(Clone, Copy, Debug)]
struct Piece {
    stretch: StretchId,
    len: u32,
}

/// The cached beginning of a prompt, as [`VllmCache::lookup`] found it.
#[derive(Debug, Default)]
pub struct Hits {
    pieces: Vec<Piece>,
    /// Blocks.
    pub blocks: u32,
    /// Those of them that no request holds.
    pub free_blocks: u32,
    /// Who may have [put off](VllmCache::defer) blocks that come next.
    pub owner: Option<u32>,
}

impl Hits {
    /// Nothing was found.
    pub fn clear(&mut self) {
        self.pieces.clear();
        (self.blocks, self.free_blocks, self.owner) = (0, 0, None);
    }
}

/// The cached blocks that one request holds. Those that cannot be hit have
/// nothing to tell them apart: the request knows how many it has.
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
}

impl Cache for VllmCache {
    fn num_blocks(&self) -> u32 {
        self.num_blocks
    }

    fn free_blocks(&self) -> u32 {
        self.empty + self.cached
    }

    fn reset(&mut self) -> bool {
        let idle = self.used_blocks() == 0;
        if idle {
            *self = Self::new(self.block_size, self.num_blocks);
        }
        idle
    }
}

impl VllmCache {
    /// An empty pool of `num_blocks` usable blocks.
    pub fn new(block_size: u32, num_blocks: u32) -> Self {
        Self {
            block_size,
            num_blocks,
            stretches: Vec::new(),
            unused: Vec::new(),
            oldest: HashTable::new(),
            empty: num_blocks,
            cached: 0,
            first: NONE,
            last: NONE,
            unforeseen: NONE,
            foreseen: 0,
            displaced: 0,
            released: Vec::new(),
        }
    }

    /// Free blocks that hold nothing.
    pub(crate) fn empty_blocks(&self) -> u32 {
        self.empty
    }

    /// Counts every block; `held` are the cached blocks of all requests, and `others`
    /// those that they hold beside them. Costs what the pool has: for tests.
    pub fn count_blocks<'a>(
        &self,
        held: impl Iterator<Item = &'a Held>,
        others: u32,
    ) -> BlockCount {
        let pieces = held.flat_map(|held| held.pieces.iter());
        let mut stretches: Vec<StretchId> =
            pieces.flat_map(|&piece| self.stretches_of(piece)).collect();
        stretches.sort_unstable();
        stretches.dedup();
        let shared: u32 = stretches.iter().map(|&id| self.at(id).run.len).sum();
        let first = (self.first != NONE).then_some(self.first);
        let next = |&id: &StretchId| Some(self.at(id).next).filter(|&next| next != NONE);
        let free = std::iter::successors(first, next);
        BlockCount {
            held: shared + others,
            cached: free.map(|id| self.at(id).run.len).sum(),
            empty: self.empty,
        }
    }

    /// Finds the longest run of cached full blocks at the start of a sequence of
    /// `tokens` tokens, leaving at least one token to compute: vLLM's rule
    /// allows `(tokens - 1) / block_size` blocks.
    pub fn lookup(&self, content: &Content, tokens: u32, hits: &mut Hits) {
        hits.clear();
        self.find_prefix(content, 0, (tokens - 1) / self.block_size, |piece, stretch| {
            hits.pieces.push(piece);
            hits.blocks += piece.len;
            hits.free_blocks += if stretch.refs == 0 { piece.len } else { 0 };
            hits.owner = stretch.owner();
        });
    }

    /// How many of the first `limit` blocks of a sequence have been entered, and
    /// who may have [put off](Self::defer) what comes next.
    pub fn present_blocks(&self, content: &Content, limit: u32) -> (u32, Option<u32>) {
        let mut present = (0, None);
        self.find_prefix(content, 0, limit, |piece, stretch| {
            present = (present.0 + piece.len, stretch.owner());
        });
        present
    }

    /// Lets a request enter the blocks that it fills next late, if that makes no
    /// difference; true if so. A lookup that ends at the last block entered so far finds
    /// the `owner`, which then has to enter the others first.
    ///
    /// No other request has a block behind it: none has the last block, nothing is
    /// cached that follows it, and nothing is cached behind what is not.
    pub fn defer(&mut self, content: &Content, held: &Held, owner: u32) -> bool {
        let Some(&piece) = held.pieces.last() else { return false };
        let id = self.stretches_of(piece).last().expect("a piece is not empty");
        let next = content.block(held.blocks);
        let defers = held.blocks >= content.shared_blocks()
            && self.at(id).is_followed_only_by(next)
            && self.find(next).is_none();
        if defers {
            self.at_mut(id).owner = owner;
        }
        defers
    }

    /// Enters nothing late any more for the request that holds `held`.
    pub fn stop_deferring(&mut self, held: &Held) {
        let Some(&piece) = held.pieces.last() else { return };
        let id = self.stretches_of(piece).last().expect("a piece is not empty");
        self.at_mut(id).owner = NONE;
    }

    /// Who, other than the request itself, may have put off entering some of its
    /// blocks from `from` up to `to` (not included).
    pub fn owner_of(&self, content: &Content, from: u32, to: u32) -> Option<u32> {
        let mut owner = None;
        self.find_prefix(content, from, to, |_, stretch| owner = owner.or(stretch.owner()));
        owner
    }

    /// Shows the stretches that hold the blocks of a sequence from `from` up to
    /// `to`, in order, up to the first block that is not cached.
    fn find_prefix(
        &self,
        content: &Content,
        from: u32,
        to: u32,
        mut see: impl FnMut(Piece, &Stretch),
    ) {
        for mut run in content.range(from, to) {
            while run.len > 0 {
                let Some(id) = self.find(run.first) else { return };
                let stretch = self.at(id);
                let len = stretch.run.len.min(run.len);
                see(Piece { stretch: id, len }, stretch);
                run = run.skip(len);
            }
        }
    }

    /// Lets a request that holds nothing yet hold what a lookup just found.
    pub fn take(&mut self, hits: &Hits, held: &mut Held) {
        debug_assert_eq!(held.blocks, 0);
        for &piece in &hits.pieces {
            if piece.len < self.at(piece.stretch).run.len {
                self.cut(piece.stretch, piece.len);
            }
            if self.at(piece.stretch).refs == 0 {
                self.unlink(piece.stretch);
            }
            self.at_mut(piece.stretch).refs += 1;
            held.pieces.push(piece);
        }
        held.blocks = hits.blocks;
    }

    /// Takes `blocks` blocks for new content, dropping what they held.
    ///
    /// # Panics
    /// If fewer are free: callers check first.
    pub fn allocate(&mut self, blocks: u32, log: &mut EventLog) {
        let empty = blocks.min(self.empty);
        self.empty -= empty;
        let mut left = blocks - empty;
        while left > 0 {
            left -= self.evict(left, log);
        }
    }

    /// Makes allocated blocks of a request hittable, so that its first `to` are.
    pub fn publish(&mut self, content: &Content, held: &mut Held, to: u32, log: &mut EventLog) {
        let from = held.blocks;
        if log.is_heard() {
            let mut parent = from.checked_sub(1).map(|before| content.block(before));
            for run in content.range(from, to) {
                log.stored(parent, run);
                parent = Some(run.first.offset(run.len - 1));
            }
        }
        self.enter_late(content, held, to);
    }

    /// The same without a word: what is entered late was published earlier.
    pub(crate) fn enter_late(&mut self, content: &Content, held: &mut Held, to: u32) {
        content.range(held.blocks, to).for_each(|run| self.store(run, held));
    }

    /// Names the cached blocks that may be displaced when the next `blocks` blocks are
    /// allocated, as far as they were not named before, each with the number of
    /// [displaced](Self::displaced) blocks at which it certainly has been, or has been hit.
    pub(crate) fn foresee(&mut self, blocks: u32, mut name: impl FnMut(u64, BlockRun)) {
        while self.empty + self.foreseen < blocks && self.unforeseen != NONE {
            let stretch = &mut self.stretches[self.unforeseen as usize];
            stretch.foreseen = true;
            self.foreseen += stretch.run.len;
            self.unforeseen = stretch.next;
            name(self.displaced + u64::from(self.foreseen), stretch.run);
        }
    }

    /// Cached blocks that were taken for new content since the pool was empty.
    pub(crate) fn displaced(&self) -> u64 {
        self.displaced
    }

    /// Takes all blocks of a request back, `others` beside the held ones.
    pub fn release(&mut self, held: &mut Held, others: u32) {
        let mut released = std::mem::take(&mut self.released);
        for piece in held.pieces.drain(..) {
            released.extend(self.stretches_of(piece));
        }
        held.blocks = 0;
        while let Some(id) = released.pop() {
            let stretch = self.at_mut(id);
            stretch.refs -= 1;
            stretch.owner = NONE;
            if stretch.refs == 0 {
                self.link_last(id);
            }
        }
        self.released = released;
        self.empty += others;
    }

    /// A request's next blocks hold `run` from now on.
    fn store(&mut self, mut run: BlockRun, held: &mut Held) {
        held.blocks += run.len;
        while let Some(id) = self.find(run.first) {
            // Others hold or held the same: this is one more copy.
            let len = self.at(id).run.len.min(run.len);
            if len < self.at(id).run.len {
                self.cut(id, len);
            }
            let mut newest = id;
            while self.at(newest).newer != NONE {
                newest = self.at(newest).newer;
            }
            let copy = self.add(BlockRun { first: run.first, len });
            self.at_mut(copy).older = newest;
            self.at_mut(newest).newer = copy;
            held.pieces.push(Piece { stretch: copy, len });
            run = run.skip(len);
            if run.len == 0 {
                return;
            }
        }
        if !self.grow(run, held) {
            let id = self.add(run);
            self.enter(id);
            held.pieces.push(Piece { stretch: id, len: run.len });
        }
    }

    /// Lengthens the last stretch of a request by `run`, if they are
    /// consecutive and no other request holds the stretch or has a copy of it.
    fn grow(&mut self, run: BlockRun, held: &mut Held) -> bool {
        let Some(piece) = held.pieces.last_mut() else { return false };
        let id = self.stretches_of(*piece).last().expect("a piece is not empty");
        let stretch = self.at_mut(id);
        if !stretch.is_followed_only_by(run.first) {
            return false;
        }
        stretch.run.len += run.len;
        piece.len += run.len;
        true
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

    /// Takes up to `most` blocks from the free stretch that is first in line;
    /// gives their number.
    fn evict(&mut self, most: u32, log: &mut EventLog) -> u32 {
        let mut id = self.first;
        assert_ne!(id, NONE, "a block is free");
        let Stretch { run, older, newer, foreseen, .. } = *self.at(id);
        let lost = run.len.min(most);
        self.displaced += u64::from(lost);
        if !foreseen && let Some(unheard) = log.unheard() {
            unheard.unforeseen(run.skip(run.len - lost));
        }
        if lost < run.len {
            if older == NONE && newer == NONE {
                self.at_mut(id).run.len -= lost;
                self.cached -= lost;
                self.foreseen -= if foreseen { lost } else { 0 };
                log.removed(run.skip(run.len - lost), true);
                return lost;
            }
            self.cut(id, run.len - lost);
            id = self.first;
        }
        self.unlink(id);
        self.drop_copy(id);
        log.removed(run.skip(run.len - lost), older == NONE && newer == NONE);
        self.unused.push(id);
        lost
    }

    /// Takes `id` out of the list of copies.
    fn drop_copy(&mut self, id: StretchId) {
        let Stretch { run, older, newer, .. } = *self.at(id);
        if newer != NONE {
            self.at_mut(newer).older = older;
        }
        if older != NONE {
            self.at_mut(older).newer = newer;
            return;
        }
        let entry = self.oldest.find_entry(mix(run.first.0), |&other| other == id);
        let Ok(mut entry) = entry else { panic!("{run:?} is not in the table") };
        if newer == NONE {
            entry.remove();
        } else {
            *entry.get_mut() = newer;
        }
    }

    /// Cuts `id` and all its copies after `at` blocks. They keep the first
    /// part; the second is freed before it.
    fn cut(&mut self, mut id: StretchId, at: u32) {
        while self.at(id).older != NONE {
            id = self.at(id).older;
        }
        let mut above = NONE;
        while id != NONE {
            let upper = *self.at(id);
            let lower = self.add(upper.run.skip(at));
            *self.at_mut(lower) =
                Stretch { run: upper.run.skip(at), older: above, newer: NONE, ..upper };
            if upper.refs == 0 {
                // In front of the upper part; their blocks are counted already.
                if self.unforeseen == id {
                    self.unforeseen = lower;
                }
                self.at_mut(lower).next = id;
                self.at_mut(id).prev = lower;
                match upper.prev {
                    NONE => self.first = lower,
                    prev => self.at_mut(prev).next = lower,
                }
            }
            let upper = self.at_mut(id);
            upper.run.len = at;
            upper.rest = lower;
            id = upper.newer;
            match above {
                NONE => self.enter(lower),
                above => self.at_mut(above).newer = lower,
            }
            above = lower;
        }
    }

    /// A new stretch that one request holds.
    fn add(&mut self, run: BlockRun) -> StretchId {
        let stretch = Stretch {
            run,
            refs: 1,
            prev: NONE,
            next: NONE,
            older: NONE,
            newer: NONE,
            rest: NONE,
            owner: NONE,
            foreseen: false,
        };
        if let Some(id) = self.unused.pop() {
            *self.at_mut(id) = stretch;
            return id;
        }
        self.stretches.push(stretch);
        StretchId::try_from(self.stretches.len() - 1).expect("fewer stretches than blocks")
    }

    fn link_last(&mut self, id: StretchId) {
        let last = std::mem::replace(&mut self.last, id);
        match last {
            NONE => self.first = id,
            last => self.at_mut(last).next = id,
        }
        let stretch = self.at_mut(id);
        (stretch.prev, stretch.next, stretch.foreseen) = (last, NONE, false);
        self.cached += self.at(id).run.len;
        if self.unforeseen == NONE {
            self.unforeseen = id;
        }
    }

    fn unlink(&mut self, id: StretchId) {
        let Stretch { prev, next, run, foreseen, .. } = *self.at(id);
        if foreseen {
            self.foreseen -= run.len;
        } else if self.unforeseen == id {
            self.unforeseen = next;
        }
        match prev {
            NONE => self.first = next,
            prev => self.at_mut(prev).next = next,
        }
        match next {
            NONE => self.last = prev,
            next => self.at_mut(next).prev = prev,
        }
        self.cached -= run.len;
    }

    /// The oldest copy of the stretch that begins with `block`.
    fn find(&self, block: BlockId) -> Option<StretchId> {
        self.oldest.find(mix(block.0), |&id| self.at(id).run.first == block).copied()
    }

    fn enter(&mut self, id: StretchId) {
        let Self { oldest, stretches, .. } = self;
        let hash = |&id: &StretchId| mix(stretches[id as usize].run.first.0);
        oldest.insert_unique(hash(&id), id, hash);
    }

    fn at(&self, id: StretchId) -> &Stretch {
        &self.stretches[id as usize]
    }

    fn at_mut(&mut self, id: StretchId) -> &mut Stretch {
        &mut self.stretches[id as usize]
    }
}
