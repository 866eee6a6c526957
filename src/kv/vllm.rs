//! vLLM's prefix cache (checked step by step against vLLM 0.32.0, see the
//! recorded runs in `tests/data/vllm-runs`).

use super::free_queue::FreeQueue;
use super::{BlockTable, EventLog, NONE, Slot};
use crate::id::BlockId;
use crate::request::Content;

/// vLLM's block pool.
///
/// * A full block can be hit from the moment it is scheduled.
/// * Equal blocks may coexist; a lookup takes the first inserted.
/// * A released sequence gives its blocks back tail first: blocks that were
///   never cached go to the front of the free queue, cached ones to the back.
#[derive(Debug)]
pub struct VllmCache {
    block_size: u32,
    num_blocks: u32,
    slots: Vec<SlotState>,
    free: FreeQueue,
    table: BlockTable,
    released: Vec<Slot>,
}

#[derive(Clone, Copy, Debug)]
struct SlotState {
    /// What it holds, [`NOTHING`] unless that can be hit. No `Option`: small
    /// slots are what makes large pools fast.
    id: BlockId,
    refs: u32,
    /// The next slot with the same content, in order of insertion.
    twin: Slot,
}

/// The id of no block: the last of the last private run, which is never as long.
const NOTHING: BlockId = BlockId(u64::MAX);

impl SlotState {
    fn is_cached(&self) -> bool {
        self.id != NOTHING
    }
}

impl VllmCache {
    /// An empty pool of `num_blocks` usable blocks.
    pub fn new(block_size: u32, num_blocks: u32) -> Self {
        Self {
            block_size,
            num_blocks,
            slots: Vec::new(),
            free: FreeQueue::new(num_blocks),
            table: BlockTable::default(),
            released: Vec::new(),
        }
    }

    /// Blocks that no sequence holds, cached ones included.
    pub fn free_blocks(&self) -> u32 {
        self.free.len()
    }

    /// Blocks that some sequence holds.
    pub fn used_blocks(&self) -> u32 {
        self.num_blocks - self.free.len()
    }

    /// Finds the longest run of cached full blocks at the start of a sequence of
    /// `tokens` tokens, leaving at least one token to compute: vLLM's rule
    /// allows `(tokens - 1) / block_size` blocks. Fills `hits` with the slots
    /// and returns how many of them are in the free queue.
    pub fn lookup(&self, content: &Content, tokens: u32, hits: &mut Vec<Slot>) -> u32 {
        hits.clear();
        let mut free_hits = 0;
        for id in content.blocks((tokens - 1) / self.block_size) {
            let Some(slot) = self.table.get(id) else { break };
            free_hits += u32::from(self.slots[slot as usize].refs == 0);
            hits.push(slot);
        }
        free_hits
    }

    /// How many of the first `limit` blocks of a sequence a lookup would find.
    pub fn present_blocks(&self, content: &Content, limit: u32) -> u32 {
        let found = content.blocks(limit).take_while(|&id| self.is_cached(id)).count();
        u32::try_from(found).expect("at most limit")
    }

    /// True if a lookup would find this block.
    pub fn is_cached(&self, id: BlockId) -> bool {
        self.table.get(id).is_some()
    }

    /// Adds a reference to each slot that `lookup` found.
    pub fn take(&mut self, hits: &[Slot]) {
        for &slot in hits {
            let state = &mut self.slots[slot as usize];
            if state.refs == 0 {
                self.free.remove(slot);
            }
            state.refs += 1;
        }
    }

    /// Takes a block for new content, dropping what it held.
    ///
    /// # Panics
    /// If no block is free: callers check first.
    pub fn allocate(&mut self, log: &mut EventLog) -> Slot {
        let slot = self.free.pop().expect("a free block");
        if slot as usize == self.slots.len() {
            self.slots.push(SlotState { id: NOTHING, refs: 1, twin: NONE });
            return slot;
        }
        self.evict(slot, log);
        self.slots[slot as usize].refs = 1;
        slot
    }

    /// Makes blocks `from..to` of a sequence, held in `slots`, hittable.
    pub fn publish(
        &mut self,
        content: &Content,
        slots: &[Slot],
        from: u32,
        to: u32,
        log: &mut EventLog,
    ) {
        let mut parent = from.checked_sub(1).map(|index| content.block(index));
        let mut index = from;
        // Walking the runs once beats finding the run of every index again.
        let mut skip = from;
        for run in content.runs(to) {
            let begin = skip.min(run.len);
            skip -= begin;
            for offset in begin..run.len {
                let id = run.first.offset(offset);
                self.insert(slots[index as usize], id);
                log.stored(parent, id);
                parent = Some(id);
                index += 1;
            }
        }
    }

    /// Drops a reference of each of a sequence's blocks.
    pub fn release(&mut self, blocks: &[Slot]) {
        self.released.clear();
        for &slot in blocks.iter().rev() {
            let state = &mut self.slots[slot as usize];
            state.refs -= 1;
            if state.refs > 0 {
                continue;
            }
            if state.is_cached() {
                self.free.push_back(slot);
            } else {
                self.released.push(slot);
            }
        }
        while let Some(slot) = self.released.pop() {
            self.free.push_front(slot);
        }
    }

    /// Forgets all content but keeps the order of the free queue, as vLLM's
    /// `reset_prefix_cache` does.
    pub fn reset(&mut self) {
        for state in &mut self.slots {
            state.id = NOTHING;
            state.twin = NONE;
        }
        self.table.clear();
    }

    fn insert(&mut self, slot: Slot, id: BlockId) {
        let state = &mut self.slots[slot as usize];
        debug_assert!(!state.is_cached(), "a slot is cached once");
        debug_assert_ne!(id, NOTHING);
        *state = SlotState { id, refs: state.refs, twin: NONE };
        let Err(mut last) = self.table.insert(id, slot) else { return };
        while self.slots[last as usize].twin != NONE {
            last = self.slots[last as usize].twin;
        }
        self.slots[last as usize].twin = slot;
    }

    fn evict(&mut self, slot: Slot, log: &mut EventLog) {
        let SlotState { id, twin, .. } = self.slots[slot as usize];
        if id == NOTHING {
            return;
        }
        let first = self.table.get(id).expect("a cached block is in the table");
        if first != slot {
            let mut before = first;
            while self.slots[before as usize].twin != slot {
                before = self.slots[before as usize].twin;
            }
            self.slots[before as usize].twin = twin;
        } else if twin == NONE {
            self.table.remove(id);
        } else {
            self.table.replace(id, twin);
        }
        let state = &mut self.slots[slot as usize];
        state.id = NOTHING;
        state.twin = NONE;
        log.removed(id);
    }
}
