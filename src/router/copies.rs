//! Counts physical copies of blocks, as a worker's event publisher does.
//!
//! An engine may hold the same block twice (vLLM does not merge blocks that two
//! requests computed at once) and reports each store and each loss. A router's
//! index knows only "held" and "not held". So between the two somebody counts:
//! a store always passes, a removal passes when it takes the last copy, and a
//! removal of something never stored passes too (Dynamo's `EventDedupFilter`
//! and llm-d's `eventDedupFilter` agree on all three).

use crate::event::KvEvent;
use crate::id::{BlockId, WorkerId};
use crate::request::BlockRun;
use crate::rng::mix;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

/// How many copies of each block each worker has reported.
#[derive(Debug, Default)]
pub(super) struct Copies {
    counts: HashTable<Held>,
}

#[derive(Debug)]
struct Held {
    worker: WorkerId,
    block: BlockId,
    count: u32,
}

fn hash(worker: WorkerId, block: BlockId) -> u64 {
    mix(block.0 ^ u64::from(worker.0).rotate_left(40))
}

impl Copies {
    /// Counts `event` and hands on what of it the router is to hear. A removal
    /// may come out in several pieces, the last blocks first.
    pub(super) fn pass(
        &mut self,
        worker: WorkerId,
        event: KvEvent,
        mut hand_on: impl FnMut(KvEvent),
    ) {
        match event {
            KvEvent::Stored { run, .. } => {
                for i in 0..run.len {
                    self.add(worker, run.first.offset(i));
                }
                hand_on(event);
            }
            KvEvent::Removed { run } => {
                // Blocks `i..end` are gone for good and not yet handed on.
                let mut end = run.len;
                let mut piece = |from: u32, to: u32| {
                    if from < to {
                        let run = BlockRun { first: run.first.offset(from), len: to - from };
                        hand_on(KvEvent::Removed { run });
                    }
                };
                for i in (0..run.len).rev() {
                    if !self.take(worker, run.first.offset(i)) {
                        piece(i + 1, end);
                        end = i;
                    }
                }
                piece(0, end);
            }
        }
    }

    fn add(&mut self, worker: WorkerId, block: BlockId) {
        self.counts
            .entry(
                hash(worker, block),
                |held| held.worker == worker && held.block == block,
                |held| hash(held.worker, held.block),
            )
            .and_modify(|held| held.count += 1)
            .or_insert(Held { worker, block, count: 1 });
    }

    /// Takes one copy away; true if none is left.
    fn take(&mut self, worker: WorkerId, block: BlockId) -> bool {
        let entry = self.counts.entry(
            hash(worker, block),
            |held| held.worker == worker && held.block == block,
            |held| hash(held.worker, held.block),
        );
        match entry {
            Entry::Occupied(mut held) if held.get().count > 1 => {
                held.get_mut().count -= 1;
                false
            }
            Entry::Occupied(held) => {
                held.remove();
                true
            }
            Entry::Vacant(_) => true,
        }
    }
}
