//! Numbers for blocks in order of their first use, and runs of consecutive ones.

use crate::id::BlockId;
use crate::request::BlockRun;
use crate::rng::mix;
use hashbrown::HashTable;

/// Gives every pair of numbers that a block is known by numbers of its own, in order of
/// first use.
#[derive(Debug, Default)]
pub(super) struct Numbering {
    known: HashTable<((u64, u64), u64)>,
    next: u64,
}

impl Numbering {
    /// The number of `key`.
    pub(super) fn of(&mut self, key: (u64, u64)) -> u64 {
        self.first_of(key, 1)
    }

    /// The first of the `count` consecutive numbers of `key`; they are as many whenever
    /// it is asked for.
    pub(super) fn first_of(&mut self, key: (u64, u64), count: u64) -> u64 {
        let hash = |(one, other): (u64, u64)| mix(one ^ mix(other));
        let next = self.next;
        let entry = self.known.entry(hash(key), |entry| entry.0 == key, |entry| hash(entry.0));
        let first = entry.or_insert((key, next)).get().1;
        if first == next {
            self.next += count;
        }
        first
    }

    /// The first of `count` consecutive numbers that no key has.
    pub(super) fn unnamed(&mut self, count: u64) -> u64 {
        let first = self.next;
        self.next += count;
        first
    }
}

/// Adds `len` blocks from `first` on to the row whose runs begin at `of_row`.
pub(super) fn push(runs: &mut Vec<BlockRun>, of_row: usize, first: u64, len: u32) {
    match runs[of_row..].last_mut() {
        _ if len == 0 => {}
        Some(run) if run.first.offset(run.len).0 == first => run.len += len,
        _ => runs.push(BlockRun { first: BlockId(first), len }),
    }
}
