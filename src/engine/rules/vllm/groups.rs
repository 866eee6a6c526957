//! vLLM's KV memory where layers keep KV apart, in groups (R12 to R18 of
//! docs/engine-rules.md): its hybrid KV cache manager.

use crate::engine::seq::{PerSeq, SeqId};
use crate::engine::shape::Shape;
use crate::id::BlockId;
use crate::kv::{BlockCount, BlockTable, Cache, EventLog, FreeQueue, NONE, Slot};
use crate::request::{BlockRun, Content};
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::ops::Range;

/// Groups of layers. Each keeps KV in blocks of its own, all of equal bytes from one pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerGroups {
    /// Groups whose layers attend to everything.
    pub full: u32,
    /// Groups whose layers attend to a window.
    pub windows: u32,
    /// Tokens of the window, at least 2.
    pub window_tokens: u32,
    /// Groups with a window have the lower numbers: the network begins with such a layer.
    pub windows_first: bool,
    /// Every full block of a window can be hit (`prefix_cache_retention_interval` unset).
    /// Otherwise only those before the end of a prompt, and before the end of what one shares
    /// with others (0, the default).
    pub dense: bool,
}

impl LayerGroups {
    /// The groups of a network, and the layers of each (R12); `None` where no layer has a
    /// window.
    pub(super) fn of(shape: &Shape, dense: bool) -> Option<(Self, u32)> {
        let window = shape.window?;
        let full = shape.layers - window.layers;
        let (fewer, more) = (full.min(window.layers), full.max(window.layers));
        // One kind alone is one group, and kinds of almost equal numbers are, filled up.
        let layers = if fewer == 0 || 2 * more < 3 * fewer { more } else { fewer };
        let groups = Self {
            full: full.div_ceil(layers),
            windows: window.layers.div_ceil(layers),
            window_tokens: window.tokens,
            windows_first: window.first,
            dense,
        };
        Some((groups, layers))
    }

    /// Number of groups.
    pub fn count(&self) -> u32 {
        self.full + self.windows
    }

    fn has_window(&self, group: u32) -> bool {
        if self.windows_first { group < self.windows } else { group >= self.full }
    }

    /// The group whose events routers follow: the first that keeps everything.
    fn followed(&self) -> Option<u32> {
        (0..self.count()).find(|&group| !self.has_window(group))
    }

    /// Blocks that a window needs at most, where the next token comes after `tokens`.
    fn hit_blocks(&self, block_size: u32) -> u32 {
        (self.window_tokens - 1).div_ceil(block_size)
    }

    /// Blocks of a window group that no token after the first `tokens` attends to.
    fn outside(&self, tokens: u32, block_size: u32) -> u32 {
        (tokens + 1).saturating_sub(self.window_tokens) / block_size
    }

    /// Most blocks that a window group holds of one sequence, where so many tokens may be
    /// scheduled whose results are not handled (R14).
    pub(crate) fn window_cap(
        &self,
        in_flight_tokens: u32,
        max_model_len: u32,
        block_size: u32,
    ) -> u32 {
        let tokens = (self.window_tokens - 1).saturating_add(in_flight_tokens).min(max_model_len);
        tokens.div_ceil(block_size) + 1
    }

    /// Blocks that a sequence of `tokens` tokens may hold at once.
    pub(crate) fn blocks(&self, tokens: u32, window_cap: u32, block_size: u32) -> u64 {
        let blocks = tokens.div_ceil(block_size);
        u64::from(self.full) * u64::from(blocks)
            + u64::from(self.windows) * u64::from(blocks.min(window_cap))
    }
}

/// vLLM's block pool under groups of layers.
///
/// A block of a group is *hashed* or not: only hashed ones can be hit, and only they have a
/// place of their own here, since nothing tells the others apart. A window group lets go of
/// blocks before its window while the sequence runs, so what is cached of a text has
/// holes, unlike in [`VllmCache`](super::VllmCache); hence it works block by block.
#[derive(Debug)]
pub(super) struct GroupedCache {
    groups: LayerGroups,
    block_size: u32,
    num_blocks: u32,
    window_cap: u32,
    /// By group the oldest copy of a block.
    oldest: Vec<BlockTable>,
    copies: Vec<Copied>,
    /// Places of `copies` to be used again.
    unused: Vec<Slot>,
    /// Free blocks without content: the front of the free queue.
    empty: u32,
    /// Free hashed blocks: the back of the free queue.
    cached: FreeQueue,
    held: PerSeq<Held>,
}

/// A hashed block.
#[derive(Clone, Copy, Debug)]
struct Copied {
    group: u32,
    id: BlockId,
    /// Sequences that hold it; 0 in the free queue.
    refs: u32,
    /// Copies stored before and after it.
    older: Slot,
    newer: Slot,
}

/// What one sequence holds.
#[derive(Debug, Default)]
struct Held {
    groups: SmallVec<[Blocks; 2]>,
    /// Blocks of each group, those outside of a window included.
    blocks: u32,
    /// Blocks of each group that have been entered, as far as they ever are.
    entered: u32,
    /// Where the prompt stops to be one that others have had before (R17); 0 if unknown.
    shared: u32,
}

/// The blocks of one group.
#[derive(Debug, Default)]
struct Blocks {
    /// Blocks before the window that it held no more, or never.
    outside: u32,
    /// The others in order; `NONE`: not hashed.
    slots: VecDeque<Slot>,
}

/// What was found of a prompt.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct GroupHit {
    /// Blocks that all groups have, as far as they need them.
    pub(super) blocks: u32,
    /// Blocks that the groups which keep everything have.
    full_blocks: u32,
    /// Those of the hit blocks of all groups that no sequence holds.
    free: u32,
    /// The same of all that groups which keep everything have.
    free_full: u32,
}

impl Cache for GroupedCache {
    fn num_blocks(&self) -> u32 {
        self.num_blocks
    }

    fn free_blocks(&self) -> u32 {
        self.empty + self.cached.len()
    }

    fn reset(&mut self) -> bool {
        let idle = self.used_blocks() == 0;
        if idle {
            *self = Self::new(self.groups, self.block_size, self.num_blocks, self.window_cap);
        }
        idle
    }
}

impl GroupedCache {
    /// An empty pool. A window group counts at most `window_cap` blocks of a prompt (R14).
    pub(super) fn new(
        groups: LayerGroups,
        block_size: u32,
        num_blocks: u32,
        window_cap: u32,
    ) -> Self {
        Self {
            groups,
            block_size,
            num_blocks,
            window_cap,
            oldest: (0..groups.count()).map(|_| BlockTable::default()).collect(),
            copies: Vec::new(),
            unused: Vec::new(),
            empty: num_blocks,
            cached: FreeQueue::new(),
            held: PerSeq::default(),
        }
    }

    pub(super) fn groups(&self) -> &LayerGroups {
        &self.groups
    }

    /// A sequence comes.
    pub(super) fn place(&mut self, id: SeqId) {
        *self.held.place(id) = Held::default();
    }

    /// Counts every block that `seqs`, all sequences, and the pool have. Costs what the pool
    /// has: for tests.
    pub(super) fn count_blocks(&self, seqs: impl Iterator<Item = SeqId>) -> BlockCount {
        let (mut held, mut others) = (Vec::<Slot>::new(), 0);
        for slots in seqs.flat_map(|id| &self.held[id].groups).map(|blocks| &blocks.slots) {
            held.extend(slots.iter().copied().filter(|&slot| slot != NONE));
            others += slots.iter().filter(|&&slot| slot == NONE).count();
        }
        held.sort_unstable();
        held.dedup();
        BlockCount {
            held: narrow(held.len() + others),
            cached: narrow(self.cached.iter().count()),
            empty: self.empty,
        }
    }

    /// What the first `limit` blocks of a sequence hit (R15): the longest beginning of which
    /// groups that keep everything have all, and those with a window what the window needs.
    pub(super) fn look_up(&self, content: &Content, limit: u32) -> GroupHit {
        let (full_blocks, free_full) = self.find_full(content, limit);
        let blocks = self.find_window(content, full_blocks);
        // Most of the time windows need no less than what is there.
        let free_in_full =
            if blocks == full_blocks { free_full } else { self.find_full(content, blocks).1 };
        let kept = self.kept_of_window(blocks);
        let of_window =
            |group| kept.clone().filter(move |&at| self.is_free(group, content.block(at)));
        let free_in_windows = self.windows().flat_map(of_window).count();
        GroupHit { blocks, full_blocks, free_full, free: free_in_full + narrow(free_in_windows) }
    }

    /// How many blocks [`look_up`](Self::look_up) would find.
    pub(super) fn present_blocks(&self, content: &Content, limit: u32) -> u32 {
        self.find_window(content, self.leading_full(content, limit))
    }

    /// How many of the first `limit` blocks the groups that keep everything have.
    fn leading_full(&self, content: &Content, limit: u32) -> u32 {
        let full = (0..self.groups.count()).filter(|&group| !self.groups.has_window(group));
        let mut found = 0;
        for run in content.runs(limit) {
            let of_group = |group: u32| self.oldest[group as usize].leading(run);
            let present = full.clone().map(of_group).min().unwrap_or(run.len);
            found += present;
            if present < run.len {
                break;
            }
        }
        found
    }

    /// How many of the first `limit` blocks the groups that keep everything have, and how
    /// many of theirs no sequence holds.
    fn find_full(&self, content: &Content, limit: u32) -> (u32, u32) {
        let (mut blocks, mut free) = (0, 0);
        let mut full = (0..self.groups.count()).filter(|&group| !self.groups.has_window(group));
        let Some(first) = full.next() else { return (limit, 0) };
        for id in content.blocks(limit) {
            let mut slots = SmallVec::<[Slot; 2]>::new();
            for group in std::iter::once(first).chain(full.clone()) {
                let Some(slot) = self.find(group, id) else { return (blocks, free) };
                slots.push(slot);
            }
            blocks += 1;
            free += narrow(slots.iter().filter(|&&slot| self.at(slot).refs == 0).count());
        }
        (blocks, free)
    }

    /// The longest beginning of the first `limit` blocks before which all window groups have
    /// what the window needs.
    fn find_window(&self, content: &Content, limit: u32) -> u32 {
        if self.groups.windows == 0 {
            return limit;
        }
        let needed = self.groups.hit_blocks(self.block_size);
        let (mut at, mut found) = (limit, 0);
        let runs: SmallVec<[BlockRun; 4]> = content.runs(limit).collect();
        for run in runs.into_iter().rev() {
            let mut left = run.len;
            while left > 0 {
                let id = run.first.offset(left - 1);
                let vacant = |group: u32| self.oldest[group as usize].vacant_down_from(id);
                let gap = self.windows().map(vacant).max().unwrap_or(0).min(left);
                if gap > 0 {
                    // Windows keep few blocks of a long prompt.
                    (at, left, found) = (at - gap, left - gap, 0);
                    continue;
                }
                (at, left) = (at - 1, left - 1);
                let have_all = self.windows().all(|group| self.find(group, id).is_some());
                found = if have_all { found + 1 } else { 0 };
                if found == needed {
                    return at + found;
                }
            }
        }
        found
    }

    fn windows(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.groups.count()).filter(|&group| self.groups.has_window(group))
    }

    /// A hashed block that no sequence holds.
    fn is_free(&self, group: u32, id: BlockId) -> bool {
        self.find(group, id).is_some_and(|slot| self.at(slot).refs == 0)
    }

    /// Blocks that are to be free for `tokens` tokens of a waiting sequence, after `hit` was
    /// found of it. The whole of a prompt counts no more of a window than it holds at once
    /// (R14).
    pub(super) fn needed(&self, hit: GroupHit, tokens: u32, whole: bool) -> u32 {
        let blocks = tokens.div_ceil(self.block_size);
        let of_window = if whole { blocks.min(self.window_cap) } else { blocks };
        let lacking = |blocks: u32| blocks.saturating_sub(hit.blocks);
        self.groups.full * lacking(blocks) + self.groups.windows * lacking(of_window) + hit.free
    }

    /// Blocks that have to be free, whatever windows have, for `tokens` tokens of a waiting
    /// sequence: those of groups that keep everything, less what other sequences hold.
    pub(super) fn needed_at_least(&self, hit: GroupHit, tokens: u32) -> u32 {
        let blocks = tokens.div_ceil(self.block_size) - hit.full_blocks;
        self.groups.full * blocks + hit.free_full
    }

    /// The blocks that a window group keeps of the first `blocks`.
    fn kept_of_window(&self, blocks: u32) -> Range<u32> {
        self.groups.outside(blocks * self.block_size, self.block_size)..blocks
    }

    /// Lets a sequence that holds nothing hold what was found.
    pub(super) fn take(&mut self, id: SeqId, content: &Content, hit: GroupHit) {
        let mut held = std::mem::take(&mut self.held[id]);
        held.groups.clear();
        for group in 0..self.groups.count() {
            let kept = match self.groups.has_window(group) {
                true => self.kept_of_window(hit.blocks),
                false => 0..hit.blocks,
            };
            let mut blocks = Blocks { outside: kept.start, slots: VecDeque::new() };
            for at in kept {
                let slot = self.find(group, content.block(at)).expect("was found");
                if self.at(slot).refs == 0 {
                    self.cached.remove(slot);
                }
                self.at_mut(slot).refs += 1;
                blocks.slots.push_back(slot);
            }
            held.groups.push(blocks);
        }
        (held.blocks, held.entered) = (hit.blocks, hit.blocks);
        held.shared =
            if hit.blocks < hit.full_blocks && self.groups.full > 0 { hit.full_blocks } else { 0 };
        self.held[id] = held;
    }

    /// Blocks that a sequence lacks to hold `tokens` tokens.
    pub(super) fn lacking(&self, id: SeqId, tokens: u32) -> u32 {
        let blocks = tokens.div_ceil(self.block_size).saturating_sub(self.held[id].blocks);
        blocks * self.groups.count()
    }

    /// Gives a sequence the blocks that it lacks to hold `tokens` tokens.
    ///
    /// # Panics
    /// If fewer are free: callers check first.
    pub(super) fn extend(&mut self, id: SeqId, tokens: u32, log: &mut EventLog) {
        let more = tokens.div_ceil(self.block_size).saturating_sub(self.held[id].blocks);
        if more == 0 {
            return;
        }
        for _ in 0..more * self.groups.count() {
            match self.empty {
                0 => self.evict(log),
                _ => self.empty -= 1,
            }
        }
        let held = &mut self.held[id];
        held.blocks += more;
        for blocks in &mut held.groups {
            blocks.slots.extend(std::iter::repeat_n(NONE, more as usize));
        }
    }

    /// Lets window groups of a sequence go of what nothing attends to after its first
    /// `tokens` tokens, the latest block first (R16).
    pub(super) fn slide(&mut self, id: SeqId, tokens: u32) {
        let outside = self.groups.outside(tokens, self.block_size);
        for group in 0..self.groups.count() {
            if !self.groups.has_window(group) {
                continue;
            }
            let Some(blocks) = self.held[id].groups.get_mut(group as usize) else { return };
            let gone = outside.saturating_sub(blocks.outside) as usize;
            let gone = gone.min(blocks.slots.len());
            if gone == 0 {
                continue;
            }
            let slots: SmallVec<[Slot; 8]> = blocks.slots.drain(..gone).collect();
            blocks.outside = outside;
            slots.into_iter().rev().for_each(|slot| self.let_go(slot));
        }
    }

    /// Enters the full blocks of a sequence up to `to` that it has not entered yet, as
    /// far as hits may need them (R17).
    pub(super) fn enter(
        &mut self,
        id: SeqId,
        content: &Content,
        prompt_tokens: u32,
        to: u32,
        log: &mut EventLog,
    ) {
        let Held { entered: from, shared, .. } = self.held[id];
        if to <= from {
            return;
        }
        let mut held = std::mem::take(&mut self.held[id]);
        held.entered = to;
        let needed = self.groups.hit_blocks(self.block_size);
        // The last token of a prompt is always computed.
        let ends = [(prompt_tokens - 1) / self.block_size, shared];
        let reached = |at: u32| {
            self.groups.dense
                || ends.iter().any(|&end| (end.saturating_sub(needed)..end).contains(&at))
        };
        let reached: SmallVec<[bool; 16]> = (from..to).map(reached).collect();
        for (group, blocks) in (0..).zip(&mut held.groups) {
            let has_window = self.groups.has_window(group);
            for at in from.max(blocks.outside)..to {
                if has_window && !reached[(at - from) as usize] {
                    continue;
                }
                let id = content.block(at);
                let parent = at.checked_sub(1).map(|before| content.block(before));
                blocks.slots[(at - blocks.outside) as usize] = self.add(group, id);
                let run = BlockRun { first: id, len: 1 };
                if self.groups.followed() == Some(group) {
                    log.stored(parent, run);
                } else {
                    log.stored_apart(group, run);
                }
            }
        }
        self.held[id] = held;
    }

    /// Takes all blocks of a sequence back, group by group, the last block first.
    pub(super) fn release(&mut self, id: SeqId) {
        let held = std::mem::take(&mut self.held[id]);
        let slots = held.groups.iter().flat_map(|blocks| blocks.slots.iter().rev());
        slots.for_each(|&slot| self.let_go(slot));
    }

    fn let_go(&mut self, slot: Slot) {
        if slot == NONE {
            self.empty += 1;
            return;
        }
        let copy = self.at_mut(slot);
        copy.refs -= 1;
        if copy.refs == 0 {
            self.cached.push_back(slot);
        }
    }

    /// A hashed block that one sequence holds.
    fn add(&mut self, group: u32, id: BlockId) -> Slot {
        let mut copy = Copied { group, id, refs: 1, older: NONE, newer: NONE };
        let slot = match self.unused.pop() {
            Some(slot) => slot,
            None => {
                self.copies.push(copy);
                self.cached.grow();
                Slot::try_from(self.copies.len() - 1).expect("no more than the pool has")
            }
        };
        if let Err(mut newest) = self.oldest[group as usize].insert(id, slot) {
            while self.at(newest).newer != NONE {
                newest = self.at(newest).newer;
            }
            copy.older = newest;
            self.at_mut(newest).newer = slot;
        }
        *self.at_mut(slot) = copy;
        slot
    }

    /// Takes the free hashed block that is first in line.
    fn evict(&mut self, log: &mut EventLog) {
        let slot = self.cached.pop().expect("a block is free");
        let Copied { group, id, older, newer, .. } = *self.at(slot);
        if newer != NONE {
            self.at_mut(newer).older = older;
        }
        match (older, newer) {
            (NONE, NONE) => self.oldest[group as usize].remove(id),
            (NONE, newer) => _ = self.oldest[group as usize].replace(id, newer),
            (older, newer) => self.at_mut(older).newer = newer,
        }
        self.unused.push(slot);
        let run = BlockRun { first: id, len: 1 };
        if self.groups.followed() == Some(group) {
            log.removed(run, older == NONE && newer == NONE);
        } else {
            log.removed_apart(group, run);
        }
    }

    fn find(&self, group: u32, id: BlockId) -> Option<Slot> {
        self.oldest[group as usize].get(id)
    }

    fn at(&self, slot: Slot) -> &Copied {
        &self.copies[slot as usize]
    }

    fn at_mut(&mut self, slot: Slot) -> &mut Copied {
        &mut self.copies[slot as usize]
    }
}

fn narrow(blocks: usize) -> u32 {
    u32::try_from(blocks).expect("no more than the pool has")
}
