//! Law 2 for vLLM's cache: it is the block pool of R4-R7 of docs/engine-rules.md,
//! written here as plainly as can be, and free + held = total after every change.

use super::rig::{cases, private_blocks};
use kv_router_sim::engine::rules::vllm::{Held, Hits, VllmCache};
use kv_router_sim::event::KvEvent;
use kv_router_sim::id::BlockId;
use kv_router_sim::kv::{Cache, EventLog, Slot};
use kv_router_sim::request::{BlockRun, Content};
use kv_router_sim::time::SimTime;
use proptest::prelude::*;

/// A change of the cache: what was stored after what, or lost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Change {
    Stored(Option<BlockId>, BlockId),
    Removed(BlockId),
}

/// The changes logged since the last call, block by block.
pub(crate) fn changes(log: &mut EventLog) -> Vec<Change> {
    log.publish(SimTime::ZERO);
    let mut changes = Vec::new();
    for (_, event) in log.published().drain(..) {
        match event {
            KvEvent::Stored { parent, run } => {
                let mut parent = parent;
                for id in (0..run.len).map(|i| run.first.offset(i)) {
                    changes.push(Change::Stored(parent, id));
                    parent = Some(id);
                }
            }
            KvEvent::Removed { run } => {
                let ids = (0..run.len).rev().map(|i| run.first.offset(i));
                changes.extend(ids.map(Change::Removed));
            }
            other => panic!("{other:?} without tiers"),
        }
    }
    changes
}

/// vLLM's block pool: a block is a place in these lists.
struct Model {
    block_size: u32,
    /// What each block holds, if it can be hit.
    content: Vec<Option<BlockId>>,
    references: Vec<u32>,
    /// The next to be taken first.
    free: Vec<Slot>,
    /// Blocks that can be hit, in order of insertion.
    inserted: Vec<Slot>,
    /// A loss is reported when it takes the last copy.
    counts_copies: bool,
    changes: Vec<Change>,
}

impl Model {
    fn new(block_size: u32, num_blocks: u32, counts_copies: bool) -> Self {
        Self {
            block_size,
            counts_copies,
            content: vec![None; num_blocks as usize],
            references: vec![0; num_blocks as usize],
            free: (0..num_blocks).collect(),
            inserted: Vec::new(),
            changes: Vec::new(),
        }
    }

    /// R4: the longest run of full blocks, but one token is left to compute.
    fn lookup(&self, content: &Content, tokens: u32) -> Vec<Slot> {
        let find = |id| self.inserted.iter().find(|&&slot| self.content[slot as usize] == Some(id));
        let most = (tokens - 1) / self.block_size;
        content.blocks(most).map_while(|id| find(id).copied()).collect()
    }

    fn take(&mut self, hits: &[Slot]) {
        for &slot in hits {
            self.references[slot as usize] += 1;
            self.free.retain(|&free| free != slot);
        }
    }

    /// R7: the first free block; what it held is lost only now.
    fn allocate(&mut self) -> Slot {
        let slot = self.free.remove(0);
        if let Some(lost) = self.content[slot as usize].take() {
            self.inserted.retain(|&inserted| inserted != slot);
            if !(self.counts_copies && self.content.contains(&Some(lost))) {
                self.changes.push(Change::Removed(lost));
            }
        }
        self.references[slot as usize] = 1;
        slot
    }

    /// R5: what is scheduled can be hit at once; copies are not merged.
    fn publish(&mut self, content: &Content, slots: &[Slot], from: u32, to: u32) {
        for index in from..to {
            let slot = slots[index as usize];
            let parent = index.checked_sub(1).map(|before| content.block(before));
            self.content[slot as usize] = Some(content.block(index));
            self.inserted.push(slot);
            self.changes.push(Change::Stored(parent, content.block(index)));
        }
    }

    /// R7: tail first, blocks without content to the front, others to the back.
    fn release(&mut self, blocks: &[Slot]) {
        let mut front = Vec::new();
        for &slot in blocks.iter().rev() {
            self.references[slot as usize] -= 1;
            match (self.references[slot as usize], self.content[slot as usize]) {
                (0, Some(_)) => self.free.push(slot),
                (0, None) => front.push(slot),
                _ => {}
            }
        }
        front.append(&mut self.free);
        self.free = front;
    }

    fn reset(&mut self) {
        self.content.fill(None);
        self.inserted.clear();
    }
}

/// A request while it runs: its blocks in the cache and in the model.
struct Running {
    content: Content,
    tokens: u32,
    held: Held,
    slots: Vec<Slot>,
}

/// The cache and the model, side by side.
struct Pair {
    cache: VllmCache,
    model: Model,
    log: EventLog,
    running: Vec<Running>,
    block_size: u32,
    total: u32,
    requests: u32,
}

#[derive(Clone, Debug)]
enum Act {
    /// A request of a text's blocks, perhaps some of another text that goes on
    /// from there, and some own tokens.
    Begin {
        text: u64,
        blocks: u32,
        branch_blocks: u32,
        own_tokens: u32,
    },
    /// A request that goes on where another one was.
    Extend {
        which: prop::sample::Index,
        tokens: u32,
    },
    /// Decoding.
    Grow {
        which: prop::sample::Index,
        tokens: u32,
    },
    End {
        which: prop::sample::Index,
    },
    Reset,
}

fn any_act() -> impl Strategy<Value = Act> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        6 => (0u64..3, 0u32..5, prop_oneof![Just(0), 0u32..4], 1u32..20).prop_map(
            |(text, blocks, branch_blocks, own_tokens)| {
                Act::Begin { text, blocks, branch_blocks, own_tokens }
            },
        ),
        2 => (index(), 1u32..12).prop_map(|(which, tokens)| Act::Extend { which, tokens }),
        6 => (index(), 1u32..6).prop_map(|(which, tokens)| Act::Grow { which, tokens }),
        6 => index().prop_map(|which| Act::End { which }),
        1 => Just(Act::Reset),
    ]
}

impl Pair {
    fn new(block_size: u32, total: u32, counts_copies: bool) -> Self {
        let mut log = EventLog::new(true);
        if counts_copies {
            log.count_copies();
        }
        Self {
            cache: VllmCache::new(block_size, total),
            model: Model::new(block_size, total, counts_copies),
            log,
            running: Vec::new(),
            block_size,
            total,
            requests: 0,
        }
    }

    /// Looks a prompt up in both.
    fn lookup(&self, content: &Content, tokens: u32) -> Result<(Hits, Vec<Slot>), TestCaseError> {
        let mut hits = Hits::default();
        self.cache.lookup(content, tokens, &mut hits);
        let slots = self.model.lookup(content, tokens);
        prop_assert_eq!(hits.blocks as usize, slots.len());
        let unheld = slots.iter().filter(|&&slot| self.model.references[slot as usize] == 0);
        prop_assert_eq!(hits.free_blocks as usize, unheld.count());
        Ok((hits, slots))
    }

    /// Looks a prompt up and, if there is room, allocates and publishes it.
    fn begin(&mut self, content: Content, tokens: u32) -> Result<(), TestCaseError> {
        let (hits, slots) = self.lookup(&content, tokens)?;
        let blocks = tokens.div_ceil(self.block_size);
        if blocks - hits.blocks + hits.free_blocks > self.cache.free_blocks() {
            return Ok(());
        }
        let mut held = Held::default();
        self.cache.take(&hits, &mut held);
        self.model.take(&slots);
        self.running.push(Running { content, tokens, held, slots });
        self.fill(self.running.len() - 1, tokens)
    }

    /// Allocates and publishes up to `tokens` of a running request.
    fn fill(&mut self, which: usize, tokens: u32) -> Result<(), TestCaseError> {
        let Running { content, held, slots, .. } = &mut self.running[which];
        let more = tokens.div_ceil(self.block_size) - u32::try_from(slots.len()).unwrap();
        self.cache.allocate(more, &mut self.log);
        slots.extend((0..more).map(|_| self.model.allocate()));
        let (from, full) = (held.blocks(), tokens / self.block_size);
        if full > from {
            self.cache.publish(content, held, full, &mut self.log);
            self.model.publish(content, slots, from, full);
        }
        prop_assert_eq!(held.blocks(), full.max(from));
        self.running[which].tokens = tokens;
        Ok(())
    }

    fn act(&mut self, act: &Act) -> Result<(), TestCaseError> {
        match act {
            &Act::Begin { text, blocks, branch_blocks, own_tokens } => {
                let run = BlockRun { first: BlockId(text << 20), len: blocks };
                let first = BlockId(text << 20 | u64::from(blocks + 1) << 10);
                let branch = BlockRun { first, len: branch_blocks };
                let content = Content::new([run, branch], private_blocks(self.requests));
                self.requests += 1;
                self.begin(content, (blocks + branch_blocks) * self.block_size + own_tokens)?;
            }
            Act::Reset => {
                let idle = self.running.is_empty();
                prop_assert_eq!(self.cache.reset(), idle, "vLLM refuses while something runs");
                if idle {
                    self.model.reset();
                }
            }
            Act::Extend { .. } | Act::Grow { .. } | Act::End { .. } if self.running.is_empty() => {}
            Act::Extend { which, tokens } => {
                let Running { content, tokens: before, .. } = which.get(&self.running);
                self.begin(content.clone(), before + tokens)?;
            }
            Act::Grow { which, tokens } => {
                let which = which.index(self.running.len());
                let Running { tokens: before, slots, .. } = &self.running[which];
                let tokens = before + tokens;
                let held = u32::try_from(slots.len()).unwrap();
                if tokens.div_ceil(self.block_size) - held <= self.cache.free_blocks() {
                    self.fill(which, tokens)?;
                }
            }
            Act::End { which } => {
                let mut ended = self.running.remove(which.index(self.running.len()));
                let others = u32::try_from(ended.slots.len()).unwrap() - ended.held.blocks();
                self.cache.release(&mut ended.held, others);
                self.model.release(&ended.slots);
                prop_assert_eq!(ended.held.blocks(), 0);
            }
        }
        self.compare()
    }

    fn compare(&mut self) -> Result<(), TestCaseError> {
        prop_assert_eq!(changes(&mut self.log), std::mem::take(&mut self.model.changes));
        prop_assert_eq!(self.cache.free_blocks() as usize, self.model.free.len());
        let mut held: Vec<Slot> = self.running.iter().flat_map(|r| r.slots.clone()).collect();
        held.sort_unstable();
        held.dedup();
        let held = u32::try_from(held.len()).unwrap();
        prop_assert_eq!(self.cache.used_blocks(), held, "blocks that requests hold");
        prop_assert_eq!(self.cache.free_blocks() + held, self.total);
        let others: usize =
            self.running.iter().map(|r| r.slots.len() - r.held.blocks() as usize).sum();
        let others = u32::try_from(others).unwrap();
        let count = self.cache.count_blocks(self.running.iter().map(|r| &r.held), others);
        prop_assert_eq!((count.held, count.total()), (held, self.total));
        for text in 0..3 {
            let run = BlockRun { first: BlockId(text << 20), len: 5 };
            let content = Content::new([run], private_blocks(0));
            self.lookup(&content, 5 * self.block_size + 1)?;
        }
        for running in &self.running {
            self.lookup(&running.content, running.tokens + 1)?;
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(cases(2_000))]

    #[test]
    fn the_cache_is_the_block_pool(
        block_size in 1u32..5, total in 4u32..30, counts_copies: bool,
        acts in prop::collection::vec(any_act(), 1..80),
    ) {
        let mut pair = Pair::new(block_size, total, counts_copies);
        for act in &acts {
            pair.act(act)?;
        }
    }
}

/// Loses blocks as real vLLM was seen to: never-cached ones first, then by time
/// of release, each request's tail first.
#[test]
fn blocks_are_lost_tail_first() {
    let mut pair = Pair::new(4, 8, true);
    for id in 0..2 {
        // Three whole blocks and a partial one each.
        pair.begin(Content::new([], private_blocks(id)), 14).unwrap();
    }
    for running in &mut pair.running {
        pair.cache.release(&mut running.held, 1);
    }
    changes(&mut pair.log);
    let mut lost = Vec::new();
    for _ in 0..8 {
        pair.cache.allocate(1, &mut pair.log);
        lost.push(changes(&mut pair.log));
    }
    let removed = |id: u32, block: u32| vec![Change::Removed(private_blocks(id).offset(block))];
    let by_age: Vec<_> = (0..2).flat_map(|id| (0..3).rev().map(move |b| removed(id, b))).collect();
    assert_eq!(lost[..2], [vec![], vec![]], "the partial ones held nothing to hit");
    assert_eq!(lost[2..], by_age);
}
