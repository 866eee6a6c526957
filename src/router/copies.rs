//! Counts physical copies of blocks, as a worker's event publisher does.
//!
//! An engine may hold the same block twice (vLLM does not merge blocks that two
//! requests computed at once) and reports each store and each loss. A router's
//! index knows only "held" and "not held". So between the two somebody counts:
//! a store always passes, a removal passes when it takes the last copy, and a
//! removal of something never stored passes too (Dynamo's `EventDedupFilter`
//! and llm-d's `eventDedupFilter` agree on all three).

//!
//! Nearly all blocks have one copy. So a worker's blocks are kept as bits, 64
//! neighbouring ids to a word, and only further copies are counted one by one.

use crate::event::KvEvent;
use crate::id::{BlockId, WorkerId};
use crate::request::BlockRun;
use crate::rng::mix;
use hashbrown::HashTable;

/// How many copies of each block each worker has reported.
#[derive(Debug, Default)]
pub(super) struct Copies {
    words: HashTable<Word>,
    further: HashTable<Further>,
}

/// The blocks of `worker` with ids from `64 number` on.
#[derive(Debug)]
struct Word {
    worker: WorkerId,
    number: u64,
    held: u64,
    /// Those of them with further copies.
    several: u64,
}

/// Copies of a block beyond the first, at least one.
#[derive(Debug)]
struct Further {
    worker: WorkerId,
    block: BlockId,
    copies: u32,
}

const BITS: u64 = u64::BITS as u64;

fn hash(worker: WorkerId, number: u64) -> u64 {
    mix(number ^ u64::from(worker.0).rotate_left(40))
}

/// The words that hold the blocks of `run`, with their bits there.
fn words(run: BlockRun) -> impl DoubleEndedIterator<Item = (u64, u64)> {
    let (first, end) = (run.first.0, run.first.0 + u64::from(run.len));
    (first / BITS..end.div_ceil(BITS)).map(move |number| {
        let from = first.max(number * BITS) - number * BITS;
        let len = end.min((number + 1) * BITS) - number * BITS - from;
        (number, u64::MAX >> (BITS - len) << from)
    })
}

/// The positions of the bits in `word`, highest first.
fn bits(mut word: u64) -> impl Iterator<Item = u64> {
    std::iter::from_fn(move || {
        let bit = word.checked_ilog2()?;
        word &= !(1 << bit);
        Some(u64::from(bit))
    })
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
                words(run).for_each(|(number, mask)| self.add(worker, number, mask));
                hand_on(event);
            }
            KvEvent::Removed { run } => {
                // Blocks up to `end` are gone for good and not yet handed on.
                let mut end = run.first.0 + u64::from(run.len);
                let mut piece = |from: u64, to: u64| {
                    if let Ok(len @ 1..) = u32::try_from(to - from) {
                        hand_on(KvEvent::Removed { run: BlockRun { first: BlockId(from), len } });
                    }
                };
                for (number, mask) in words(run).rev() {
                    for bit in bits(self.take(worker, number, mask)) {
                        let kept = number * BITS + bit;
                        piece(kept + 1, end);
                        end = kept;
                    }
                }
                piece(run.first.0, end);
            }
        }
    }

    fn add(&mut self, worker: WorkerId, number: u64, mask: u64) {
        let mut entry = self
            .words
            .entry(
                hash(worker, number),
                |word| word.worker == worker && word.number == number,
                |word| hash(word.worker, word.number),
            )
            .or_insert(Word { worker, number, held: 0, several: 0 });
        let word = entry.get_mut();
        let again = word.held & mask;
        word.held |= mask;
        word.several |= again;
        for bit in bits(again) {
            let block = BlockId(number * BITS + bit);
            self.further
                .entry(
                    hash(worker, block.0),
                    |further| further.worker == worker && further.block == block,
                    |further| hash(further.worker, further.block.0),
                )
                .and_modify(|further| further.copies += 1)
                .or_insert(Further { worker, block, copies: 1 });
        }
    }

    /// Takes a copy of each block of `mask` away; gives those that have another.
    fn take(&mut self, worker: WorkerId, number: u64, mask: u64) -> u64 {
        let found = self.words.find_entry(hash(worker, number), |word| {
            word.worker == worker && word.number == number
        });
        let Ok(mut entry) = found else { return 0 };
        let word = entry.get_mut();
        let kept = word.several & mask;
        word.held &= !mask | kept;
        for bit in bits(kept) {
            if take_further(&mut self.further, worker, BlockId(number * BITS + bit)) {
                word.several &= !(1 << bit);
            }
        }
        if word.held == 0 {
            entry.remove();
        }
        kept
    }
}

/// Takes one further copy of `block` away; true if none is left.
fn take_further(table: &mut HashTable<Further>, worker: WorkerId, block: BlockId) -> bool {
    let found = table.find_entry(hash(worker, block.0), |further| {
        further.worker == worker && further.block == block
    });
    let Ok(mut entry) = found else { return true };
    let last = entry.get().copies == 1;
    if last {
        entry.remove();
    } else {
        entry.get_mut().copies -= 1;
    }
    last
}
