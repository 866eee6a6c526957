//! Sequences: the requests as a worker sees them.

use crate::event::Medium;
use crate::id::RequestId;
use crate::request::{BlockRun, Content, Phase, Request};
use crate::time::{SimDuration, SimTime};
use std::ops::{Index, IndexMut};

/// Index of a sequence in its worker's slab.
pub(super) type SeqId = u32;

/// What was loaded from lower tiers for a sequence, or is being loaded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Loaded {
    /// By medium.
    pub(super) tokens: [u32; Medium::ALL.len()],
    /// From the moment when it was asked for until it is done.
    pub(super) time: SimDuration,
}

/// A request inside a worker, as every engine sees it. What one engine adds it keeps
/// itself, in a [`PerSeq`].
#[derive(Debug)]
pub(super) struct Seq {
    pub(super) request: RequestId,
    /// `Decode` only until its KV is there, or lost to a preemption.
    pub(super) phase: Phase,
    pub(super) prompt_tokens: u32,
    pub(super) output_tokens: u32,
    /// What the client allowed.
    pub(super) max_tokens: u32,
    /// Lower ones first, where the engine looks at it.
    pub(super) priority: i32,
    pub(super) content: Content,
    /// Tokens whose KV is computed or being computed. Of a decoding sequence:
    /// as of the step in which it joined.
    pub(super) kv_tokens: u32,
    /// Output tokens sampled, with the same caveat.
    pub(super) generated: u32,
    /// Order of admission; a sequence admitted again gets a new number.
    pub(super) admission: u64,
    /// The decode step in which it joined, while it decodes.
    pub(super) decode_from: Option<u64>,
    /// Its last token is being computed; it waits for its results.
    pub(super) ending: bool,
    /// When its last token before a preemption left.
    pub(super) last_token_at: SimTime,
    /// Number of the first token that it sampled since it was last admitted;
    /// `u32::MAX` until it has.
    pub(super) first_since_admission: u32,
    /// A part of its KV is on its way from a lower tier; it holds the blocks.
    pub(super) loading: bool,
    /// That part, until it enters a batch.
    pub(super) loaded: Option<Loaded>,
}

impl Seq {
    pub(super) fn new(request: &Request) -> Self {
        Self {
            request: request.id,
            phase: Phase::Whole,
            prompt_tokens: request.prompt_tokens,
            output_tokens: request.output_tokens,
            max_tokens: request.max_tokens,
            priority: request.priority,
            content: request.content.clone(),
            kv_tokens: 0,
            generated: 0,
            admission: 0,
            decode_from: None,
            ending: false,
            last_token_at: SimTime::ZERO,
            first_since_admission: u32::MAX,
            loading: false,
            loaded: None,
        }
    }

    /// Tokens to compute before the next one can be sampled: the prompt, and
    /// after a preemption what was generated before it.
    pub(super) fn target_tokens(&self) -> u32 {
        self.prompt_tokens + self.generated
    }

    /// Still has prompt tokens to compute.
    pub(super) fn in_prefill(&self) -> bool {
        self.decode_from.is_none() && !self.ending && self.kv_tokens < self.target_tokens()
    }

    /// The blocks that decoding may fill.
    pub(super) fn fills(&self, block_size: u32) -> impl Iterator<Item = BlockRun> + '_ {
        let tokens = self.prompt_tokens + self.output_tokens;
        self.content.range(self.prompt_tokens / block_size, tokens / block_size)
    }

    /// Tokens of KV before decode step `step`.
    pub(super) fn kv_tokens_at(&self, step: u64) -> u32 {
        match self.decode_from {
            Some(from) => {
                self.kv_tokens + u32::try_from(step - from).expect("fewer than 2^32 tokens")
            }
            None => self.kv_tokens,
        }
    }
}

/// A slab of sequences; freed places are used again.
#[derive(Debug, Default)]
pub(super) struct Seqs {
    places: Vec<Option<Seq>>,
    vacant: Vec<SeqId>,
    admissions: u64,
}

impl Seqs {
    pub(super) fn insert(&mut self, seq: Seq) -> SeqId {
        match self.vacant.pop() {
            Some(id) => {
                self.places[id as usize] = Some(seq);
                id
            }
            None => {
                self.places.push(Some(seq));
                SeqId::try_from(self.places.len() - 1).expect("fewer than 2^32 sequences")
            }
        }
    }

    pub(super) fn remove(&mut self, id: SeqId) -> Seq {
        let seq = self.places[id as usize].take().expect("a live sequence");
        self.vacant.push(id);
        seq
    }

    pub(super) fn get(&self, id: SeqId) -> Option<&Seq> {
        self.places[id as usize].as_ref()
    }

    /// The sequence of `request`, if it is here.
    pub(super) fn find(&self, request: RequestId) -> Option<SeqId> {
        self.ids().find(|&id| self[id].request == request)
    }

    /// All sequences, in order of their places.
    pub(super) fn ids(&self) -> impl Iterator<Item = SeqId> + '_ {
        let ids = (0..).zip(&self.places);
        ids.filter(|(_, seq)| seq.is_some()).map(|(id, _)| id)
    }

    /// Gives a sequence the next number of admission.
    pub(super) fn admit(&mut self, id: SeqId) {
        self.admissions += 1;
        self[id].admission = self.admissions;
    }
}

impl Index<SeqId> for Seqs {
    type Output = Seq;
    fn index(&self, id: SeqId) -> &Seq {
        self.places[id as usize].as_ref().expect("a live sequence")
    }
}

impl IndexMut<SeqId> for Seqs {
    fn index_mut(&mut self, id: SeqId) -> &mut Seq {
        self.places[id as usize].as_mut().expect("a live sequence")
    }
}

/// What a scheduler keeps of each sequence beside its [`Seq`], by the same ids.
#[derive(Debug, Default)]
pub(super) struct PerSeq<T> {
    entries: Vec<T>,
}

impl<T: Default> PerSeq<T> {
    /// The entry of a new sequence, as the last one of this id left it.
    pub(super) fn place(&mut self, id: SeqId) -> &mut T {
        let at = id as usize;
        if at >= self.entries.len() {
            self.entries.resize_with(at + 1, T::default);
        }
        &mut self.entries[at]
    }
}

impl<T> Index<SeqId> for PerSeq<T> {
    type Output = T;
    fn index(&self, id: SeqId) -> &T {
        &self.entries[id as usize]
    }
}

impl<T> IndexMut<SeqId> for PerSeq<T> {
    fn index_mut(&mut self, id: SeqId) -> &mut T {
        &mut self.entries[id as usize]
    }
}
