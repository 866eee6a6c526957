//! What the router's tests share: prompts that branch off each other, and
//! histories of events to try policies with.

pub(crate) mod golden;
pub(crate) mod history;

use super::{ClusterSpec, WorkerLimits};
use crate::event::{KvEvent, WorkerEvent, WorkerEventKind};
use crate::id::{BlockId, ConversationId, RequestId, WorkerId};
use crate::request::{BlockRun, Content, Request};
use history::MOST_BLOCKS;

/// A fleet of `workers` with `block_size`; the rest is never looked at.
pub(crate) fn cluster(workers: u32, block_size: u32) -> ClusterSpec {
    with_limits(workers, block_size, LIMITS)
}

/// What the workers of [`cluster`] can do.
pub(crate) const LIMITS: WorkerLimits =
    WorkerLimits { blocks: 10_000, max_num_seqs: 64, max_num_batched_tokens: 16_384 };

/// As [`cluster`], of workers that can do this.
pub(crate) fn with_limits(workers: u32, block_size: u32, limits: WorkerLimits) -> ClusterSpec {
    ClusterSpec::uniform(workers, block_size, limits)
}

/// Texts that branch off each other: text `n` begins with the first
/// `fork_blocks` blocks of another text or of none.
#[derive(Clone, Debug)]
pub(crate) struct Texts {
    forks: Vec<Option<(usize, u32)>>,
    /// No text is longer: its ids would be those of the next one.
    most_blocks: u64,
}

impl Default for Texts {
    fn default() -> Self {
        Self { forks: Vec::new(), most_blocks: 1_000 }
    }
}

impl Texts {
    /// Adds a text that shares `fork_blocks` with the text `with`; gives its number.
    pub(crate) fn add(&mut self, fork: Option<(usize, u32)>) -> usize {
        self.forks.push(fork);
        self.forks.len() - 1
    }

    pub(crate) fn len(&self) -> usize {
        self.forks.len()
    }

    /// The first `blocks` blocks of `text`, as runs.
    pub(crate) fn runs(&self, text: usize, blocks: u32) -> Vec<BlockRun> {
        assert!(u64::from(blocks) <= self.most_blocks, "ids of the next text");
        let own = self.start(text);
        let (mut runs, shared) = match self.forks[text] {
            Some((other, fork)) => (self.runs(other, fork.min(blocks)), fork.min(blocks)),
            None => (Vec::new(), 0),
        };
        if blocks > shared {
            runs.push(BlockRun { first: own, len: blocks - shared });
        }
        runs
    }

    /// The block ids of the first `blocks` blocks of `text`.
    pub(crate) fn ids(&self, text: usize, blocks: u32) -> Vec<BlockId> {
        let runs = self.runs(text, blocks);
        runs.iter().flat_map(|run| (0..run.len).map(|i| run.first.offset(i))).collect()
    }

    /// A request whose prompt is `prompt_tokens` of `text`.
    pub(crate) fn request(
        &self,
        id: u32,
        text: usize,
        prompt_tokens: u32,
        block_size: u32,
    ) -> Request {
        Request {
            id: RequestId(id),
            conversation: ConversationId(u32::try_from(text).unwrap()),
            turn: 0,
            prompt_tokens,
            output_tokens: 1,
            max_tokens: 1,
            priority: 0,
            content: Content::new(
                self.runs(text, prompt_tokens / block_size),
                BlockId(u64::MAX / 2 + u64::from(id) * 1_000),
            ),
        }
    }

    /// Events by which a worker stores the blocks `from..to` of `text`.
    pub(crate) fn stored(&self, text: usize, from: u32, to: u32) -> Vec<KvEvent> {
        let ids = self.ids(text, to);
        let mut events = Vec::new();
        for run in self.runs_between(text, from, to) {
            let at = ids.iter().position(|id| *id == run.first).unwrap();
            let parent = at.checked_sub(1).map(|before| ids[before]);
            events.push(KvEvent::Stored { parent, run });
        }
        events
    }

    /// Events by which a worker loses the blocks `from..to` of `text`, last first.
    pub(crate) fn removed(&self, text: usize, from: u32, to: u32) -> Vec<KvEvent> {
        let runs = self.runs_between(text, from, to);
        runs.into_iter().rev().map(|run| KvEvent::Removed { run }).collect()
    }

    fn runs_between(&self, text: usize, from: u32, to: u32) -> Vec<BlockRun> {
        let mut skip = from;
        let mut runs = self.runs(text, to);
        for run in &mut runs {
            let skipped = skip.min(run.len);
            *run = BlockRun { first: run.first.offset(skipped), len: run.len - skipped };
            skip -= skipped;
        }
        runs.retain(|run| run.len > 0);
        runs
    }

    fn start(&self, text: usize) -> BlockId {
        BlockId(1 + self.most_blocks * text as u64)
    }
}

/// The end of a request.
pub(crate) const FINISHED: WorkerEventKind = WorkerEventKind::Finished { output_tokens: 1 };

/// An event in the life of `request` on `worker`.
pub(crate) fn life(worker: u32, request: u32, kind: WorkerEventKind) -> WorkerEvent {
    WorkerEvent { worker: WorkerId(worker), request: RequestId(request), kind }
}

/// Texts for property tests: up to 8, branching off each other anywhere, of at most
/// [`MOST_BLOCKS`]. The ids of the next text follow those of one so long without a gap.
pub(crate) fn any_texts() -> impl proptest::strategy::Strategy<Value = Texts> {
    use proptest::prelude::*;
    let fork = prop::option::weighted(0.7, (any::<prop::sample::Index>(), 1u32..12));
    prop::collection::vec(fork, 1..8).prop_map(|forks| {
        let mut texts = Texts { most_blocks: MOST_BLOCKS.into(), ..Texts::default() };
        for fork in forks {
            let fork = fork.filter(|_| texts.len() > 0);
            let fork = fork.map(|(other, blocks)| (other.index(texts.len()), blocks));
            texts.add(fork);
        }
        texts
    })
}
