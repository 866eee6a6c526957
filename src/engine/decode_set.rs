//! The sequences that decode, kept so that a step costs nothing per sequence.
//!
//! All of them gain one token a step. So a sequence is described by the step at
//! which it joined: its length, the step in which it ends and the steps in which
//! it needs a block follow. The set holds a step counter, the sum of contexts,
//! a heap by last step, and for each residue of the block size the sequences
//! that need a block in steps of that residue.

use super::seq::{SeqId, Seqs};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The decoding sequences of one worker.
#[derive(Debug)]
pub(super) struct DecodeSet {
    block_size: u32,
    /// Number of the next step.
    step: u64,
    len: u32,
    /// Sum over the sequences of the tokens they attend to in the next step.
    context: u64,
    ends: BinaryHeap<Reverse<(u64, u64, SeqId)>>,
    /// By residue of the step in which a block is needed; each in order of admission.
    buckets: Vec<Vec<Member>>,
    /// One bit per bucket that is not empty.
    occupied: Vec<u64>,
}

/// A sequence in a bucket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member {
    pub(super) admission: u64,
    pub(super) id: SeqId,
    /// Nothing is to be done for it in the step in which it fills a block.
    pub(super) defers: bool,
}

impl DecodeSet {
    pub(super) fn new(block_size: u32) -> Self {
        Self {
            block_size,
            step: 0,
            len: 0,
            context: 0,
            ends: BinaryHeap::new(),
            buckets: vec![Vec::new(); block_size as usize],
            occupied: vec![0; block_size.div_ceil(64) as usize],
        }
    }

    pub(super) fn block_size(&self) -> u32 {
        self.block_size
    }

    pub(super) fn len(&self) -> u32 {
        self.len
    }

    pub(super) fn context(&self) -> u64 {
        self.context
    }

    pub(super) fn step(&self) -> u64 {
        self.step
    }

    /// Residue of the steps in which a sequence takes a block, if it holds
    /// `kv_tokens` tokens of KV before step `step`.
    fn residue(&self, step: u64, kv_tokens: u32) -> usize {
        let block_size = u64::from(self.block_size);
        let to_boundary = (block_size - u64::from(kv_tokens) % block_size) % block_size;
        index((step + to_boundary) % block_size)
    }

    /// Adds a sequence that decodes from the next step on.
    pub(super) fn join(&mut self, seqs: &mut Seqs, id: SeqId) {
        let seq = &mut seqs[id];
        seq.decode_from = Some(self.step);
        let kv_tokens = seq.kv_tokens;
        let last = self.step + u64::from(seq.output_tokens - seq.generated) - 1;
        self.ends.push(Reverse((last, seq.admission, id)));
        self.len += 1;
        self.context += u64::from(kv_tokens) + 1;
        let residue = self.residue(self.step, kv_tokens);
        let admission = seq.admission;
        let bucket = &mut self.buckets[residue];
        let at = bucket.partition_point(|other| other.admission < admission);
        bucket.insert(at, Member { admission, id, defers: false });
        self.occupied[residue / 64] |= 1 << (residue % 64);
    }

    /// Takes a sequence out, bringing its counts up to the next step.
    pub(super) fn leave(&mut self, seqs: &mut Seqs, id: SeqId) {
        let from = seqs[id].decode_from.expect("only decoding sequences leave");
        let residue = self.residue(from, seqs[id].kv_tokens);
        let seq = &mut seqs[id];
        let steps = narrow(self.step - from);
        seq.kv_tokens += steps;
        seq.generated += steps;
        seq.decode_from = None;
        self.len -= 1;
        self.context -= u64::from(seq.kv_tokens) + 1;
        let bucket = &mut self.buckets[residue];
        let at = bucket.iter().position(|other| other.id == id).expect("a member of its bucket");
        bucket.remove(at);
        if bucket.is_empty() {
            self.occupied[residue / 64] &= !(1 << (residue % 64));
        }
    }

    /// Counts `steps` steps of the whole set.
    pub(super) fn advance(&mut self, steps: u64) {
        self.step += steps;
        self.context += u64::from(self.len) * steps;
    }

    /// The number of steps until and including the first in which a sequence ends.
    pub(super) fn steps_to_end(&mut self, seqs: &Seqs) -> Option<u64> {
        self.drop_stale(seqs);
        self.ends.peek().map(|Reverse((last, ..))| last + 1 - self.step)
    }

    /// Takes out the sequences that ended in the step just counted, in order of admission.
    pub(super) fn take_ended(&mut self, seqs: &mut Seqs, ended: &mut Vec<SeqId>) {
        loop {
            self.drop_stale(seqs);
            match self.ends.peek() {
                Some(&Reverse((last, _, id))) if last < self.step => {
                    self.ends.pop();
                    self.leave(seqs, id);
                    ended.push(id);
                }
                _ => return,
            }
        }
    }

    /// Entries of sequences that left early (preempted) stay in the heap until they surface.
    fn drop_stale(&mut self, seqs: &Seqs) {
        while let Some(&Reverse((_, admission, id))) = self.ends.peek() {
            if seqs.get(id).is_some_and(|s| s.admission == admission && s.decode_from.is_some()) {
                return;
            }
            self.ends.pop();
        }
    }

    /// All sequences, those that take a block in the same step together.
    pub(super) fn members(&self) -> impl Iterator<Item = &Member> {
        self.buckets.iter().flatten()
    }

    /// Sequences that take a block in step `step`, in order of admission.
    pub(super) fn takers(&self, step: u64) -> &[Member] {
        &self.buckets[index(step % u64::from(self.block_size))]
    }

    /// Sets [`Member::defers`] of a sequence; nothing, if it does not decode.
    pub(super) fn set_defers(&mut self, seqs: &Seqs, id: SeqId, defers: bool) {
        let seq = &seqs[id];
        let Some(from) = seq.decode_from else { return };
        let residue = self.residue(from, seq.kv_tokens);
        let member = self.buckets[residue].iter_mut().find(|other| other.id == id);
        member.expect("a member of its bucket").defers = defers;
    }

    /// How many of the next `max` steps need at most `free` new blocks in all.
    pub(super) fn steps_within(&self, free: u32, max: u64) -> u64 {
        let block_size = u64::from(self.block_size);
        // Every sequence takes one block per `block_size` steps.
        if u64::from(self.len) * max.div_ceil(block_size) <= u64::from(free) {
            return max;
        }
        let mut left = u64::from(free);
        let mut steps = (left / u64::from(self.len)).saturating_sub(1) * block_size;
        left -= steps / block_size * u64::from(self.len);
        while steps < max {
            let takers = self.takers(self.step + steps).len() as u64;
            if takers > left {
                break;
            }
            left -= takers;
            steps += 1;
        }
        steps.min(max)
    }

    /// The first step at or after `step` in which some sequence takes a block.
    pub(super) fn next_taking(&self, step: u64) -> u64 {
        let block_size = u64::from(self.block_size);
        let residue = step % block_size;
        let word = index(residue / 64);
        let first = self.occupied[word] & (u64::MAX << (residue % 64));
        if first != 0 {
            return step - residue + word as u64 * 64 + u64::from(first.trailing_zeros());
        }
        let words = self.occupied.len();
        for i in 1..=words {
            let at = (word + i) % words;
            if self.occupied[at] != 0 {
                let found = at as u64 * 64 + u64::from(self.occupied[at].trailing_zeros());
                let wrapped = if found < residue { found + block_size } else { found };
                return step - residue + wrapped;
            }
        }
        u64::MAX
    }
}

#[expect(clippy::cast_possible_truncation, reason = "residues and words are far below 2^32")]
fn index(n: u64) -> usize {
    n as usize
}

fn narrow(steps: u64) -> u32 {
    u32::try_from(steps).expect("a sequence has fewer than 2^32 tokens")
}
