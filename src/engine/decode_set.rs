//! The sequences that decode, kept so that a step costs nothing per sequence.
//!
//! All of them gain one token a step. So a sequence is described by the step at
//! which it joined: its length, the step in which it ends and the steps in which
//! it needs a block follow. The set holds a step counter, the sum of contexts,
//! a heap by last step, and one list of the sequences by the residue of the steps in
//! which they need a block. A large fleet visits another worker's set with every event,
//! so all of it lies in a few cache lines, and to count who needs a block reads no list.

use super::seq::{SeqId, Seqs};
use super::shared_kv::{SharedKv, SharedReads};
use smallvec::{SmallVec, smallvec};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;

/// The decoding sequences of one worker.
#[derive(Debug)]
pub(super) struct DecodeSet {
    block_size: u32,
    /// Number of the next step.
    step: u64,
    len: u32,
    /// Sum over the sequences of the tokens they attend to in the next step.
    context: u64,
    /// Reads of blocks that several of them hold, where some are saved, and how many tokens
    /// are, as of the last sequence that came or went.
    shared: Option<Box<SharedReads>>,
    saved: u64,
    /// Last step and admission.
    ends: BinaryHeap<Reverse<(u64, u64, SeqId)>>,
    /// By residue of the step in which a block is needed, then in order of admission.
    members: Vec<Member>,
    /// Where the members of each residue begin, and where those of the last end. With the usual
    /// sizes of blocks this and the two below need no memory of their own.
    starts: SmallVec<[u32; 17]>,
    /// One bit per residue that has members.
    occupied: SmallVec<[u64; 1]>,
    /// One bit per residue with members that do not [defer](Member::defers).
    filling: SmallVec<[u64; 1]>,
}

/// A sequence in the list.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member {
    pub(super) admission: u64,
    pub(super) id: SeqId,
    /// Nothing is to be done for it in the step in which it fills a block.
    pub(super) defers: bool,
}

impl DecodeSet {
    pub(super) fn new(block_size: u32, shared: Option<SharedKv>) -> Self {
        Self {
            block_size,
            shared: shared.map(|shared| Box::new(SharedReads::new(shared, block_size))),
            saved: 0,
            step: 0,
            len: 0,
            context: 0,
            ends: BinaryHeap::new(),
            members: Vec::new(),
            starts: smallvec![0; block_size as usize + 1],
            occupied: smallvec![0; block_size.div_ceil(64) as usize],
            filling: smallvec![0; block_size.div_ceil(64) as usize],
        }
    }

    pub(super) fn block_size(&self) -> u32 {
        self.block_size
    }

    pub(super) fn len(&self) -> u32 {
        self.len
    }

    /// The tokens that they attend to in the next step, less those whose reads are saved.
    pub(super) fn reads(&self) -> u64 {
        self.context - self.saved
    }

    /// Counts what is saved, after a sequence has come or gone.
    fn save(&mut self) {
        let saved = self.shared.as_ref().map(|reads| reads.saved_tokens(self.len, self.context));
        self.saved = saved.unwrap_or(0);
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
        let range = self.range(residue);
        let own = &self.members[range.clone()];
        let at = range.start + own.partition_point(|other| other.admission < admission);
        self.members.insert(at, Member { admission, id, defers: false });
        self.starts[residue + 1..].iter_mut().for_each(|start| *start += 1);
        self.mark(residue);
        if let Some(shared) = &mut self.shared {
            shared.join(&seqs[id]);
            self.save();
        }
    }

    /// Takes a sequence out before it ends, bringing its counts up to the next step.
    pub(super) fn leave(&mut self, seqs: &mut Seqs, id: SeqId) {
        self.ends.retain(|Reverse((.., other))| *other != id);
        self.take_out(seqs, id);
    }

    fn take_out(&mut self, seqs: &mut Seqs, id: SeqId) {
        let from = seqs[id].decode_from.expect("only decoding sequences leave");
        let residue = self.residue(from, seqs[id].kv_tokens);
        let seq = &mut seqs[id];
        let steps = narrow(self.step - from);
        seq.kv_tokens += steps;
        seq.generated += steps;
        seq.decode_from = None;
        self.len -= 1;
        self.context -= u64::from(seq.kv_tokens) + 1;
        self.members.remove(self.place(residue, id));
        self.starts[residue + 1..].iter_mut().for_each(|start| *start -= 1);
        self.mark(residue);
        if let Some(shared) = &mut self.shared {
            shared.leave(&seqs[id]);
            self.save();
        }
    }

    /// Sets the bits of a residue whose members have changed.
    fn mark(&mut self, residue: usize) {
        let own = &self.members[self.range(residue)];
        let (is_occupied, fills) = (!own.is_empty(), own.iter().any(|member| !member.defers));
        let (word, bit) = (residue / 64, 1 << (residue % 64));
        for (words, is_set) in [(&mut self.occupied, is_occupied), (&mut self.filling, fills)] {
            words[word] = if is_set { words[word] | bit } else { words[word] & !bit };
        }
    }

    /// Where the members of a residue are.
    fn range(&self, residue: usize) -> Range<usize> {
        self.starts[residue] as usize..self.starts[residue + 1] as usize
    }

    /// Where a member is.
    fn place(&self, residue: usize, id: SeqId) -> usize {
        let range = self.range(residue);
        let at = self.members[range.clone()].iter().position(|other| other.id == id);
        range.start + at.expect("a member of its residue")
    }

    /// Counts `steps` steps of the whole set.
    pub(super) fn advance(&mut self, steps: u64) {
        self.step += steps;
        self.context += u64::from(self.len) * steps;
    }

    /// The number of steps until and including the first in which a sequence ends.
    pub(super) fn steps_to_end(&self) -> Option<u64> {
        self.ends.peek().map(|Reverse((last, ..))| last + 1 - self.step)
    }

    /// Takes out the sequences that ended in the step just counted, in order of admission.
    pub(super) fn take_ended(&mut self, seqs: &mut Seqs, ended: &mut Vec<SeqId>) {
        while let Some(&Reverse((last, _, id))) = self.ends.peek()
            && last < self.step
        {
            self.ends.pop();
            self.take_out(seqs, id);
            ended.push(id);
        }
    }

    /// All sequences, those that take a block in the same step together.
    pub(super) fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.iter()
    }

    /// Sequences that take a block in step `step`, in order of admission.
    pub(super) fn takers(&self, step: u64) -> &[Member] {
        &self.members[self.range(index(step % u64::from(self.block_size)))]
    }

    /// The steps before `end`, from `step` on, in which blocks are taken, and how many.
    pub(super) fn takings(&self, step: u64, end: u64) -> impl Iterator<Item = (u64, u32)> + '_ {
        let residues = self.starts.len() - 1;
        let (mut from, mut residue) = (step, index(step % u64::from(self.block_size)));
        std::iter::from_fn(move || {
            let ahead = self.ahead(&self.occupied, residue)?;
            let step = Some(from + ahead as u64).filter(|step| *step < end)?;
            let wrapped = if residue + ahead < residues { 0 } else { residues };
            let taking = residue + ahead - wrapped;
            (from, residue) = (step + 1, if taking + 1 == residues { 0 } else { taking + 1 });
            Some((step, self.starts[taking + 1] - self.starts[taking]))
        })
    }

    /// The first step at or after `step` in which a sequence takes a block that does not
    /// [defer](Member::defers).
    pub(super) fn next_filling(&self, step: u64) -> u64 {
        self.next_of(&self.filling, step)
    }

    /// Sets [`Member::defers`] of a sequence; nothing, if it does not decode.
    pub(super) fn set_defers(&mut self, seqs: &Seqs, id: SeqId, defers: bool) {
        let seq = &seqs[id];
        let Some(from) = seq.decode_from else { return };
        let residue = self.residue(from, seq.kv_tokens);
        let at = self.place(residue, id);
        self.members[at].defers = defers;
        self.mark(residue);
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
        self.next_of(&self.occupied, step)
    }

    /// The first step at or after `step` whose residue has its bit in `words`.
    fn next_of(&self, words: &[u64], step: u64) -> u64 {
        let ahead = self.ahead(words, index(step % u64::from(self.block_size)));
        ahead.map_or(u64::MAX, |ahead| step + ahead as u64)
    }

    /// How many steps a residue that has its bit in `words` is ahead of `residue`.
    fn ahead(&self, words: &[u64], residue: usize) -> Option<usize> {
        let word = residue / 64;
        let first = words[word] & (u64::MAX << (residue % 64));
        if first != 0 {
            return Some(word * 64 + first.trailing_zeros() as usize - residue);
        }
        let mut others = (word + 1..words.len()).chain(0..=word);
        let at = others.find(|at| words[*at] != 0)?;
        let found = at * 64 + words[at].trailing_zeros() as usize;
        let wrapped = if found < residue { self.block_size as usize } else { 0 };
        Some(found + wrapped - residue)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "residues and words are far below 2^32")]
fn index(n: u64) -> usize {
    n as usize
}

fn narrow(steps: u64) -> u32 {
    u32::try_from(steps).expect("a sequence has fewer than 2^32 tokens")
}
