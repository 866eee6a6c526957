//! What a router is configured with: the facts about its fleet.

use crate::id::WorkerId;
use std::ops::Range;
use std::sync::Arc;

/// The facts about the workers that one policy routes to.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterSpec {
    /// What each worker can do, of all that there can ever be, in order of id.
    pub limits: Arc<[WorkerLimits]>,
    /// Which rank of which engine each is, in order of id, those of one engine side by side;
    /// empty where each is an engine of its own.
    pub ranks: Arc<[Rank]>,
    /// What they do.
    pub role: Role,
    /// Tokens in a block of the router: prompts are hashed, and overlap is counted, in
    /// such blocks. All workers have it too.
    pub block_size: u32,
    /// Which of the front ends that route side by side the policy is in, from 0.
    pub front_end: u32,
}

/// A worker that is one of an engine's data-parallel ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rank {
    /// The engine: the ranks of one come and go together.
    pub engine: u32,
    /// Its number there, from 0.
    pub rank: u32,
}

/// What the workers do that a policy routes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Prefill and decode.
    #[default]
    Both,
    /// Prefill only.
    Prefill,
    /// Decode.
    Decode {
        /// Whether prompts that are short enough are prefilled there, too.
        may_prefill: bool,
    },
}

/// What one worker can do, as it tells its router when it joins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerLimits {
    /// KV blocks.
    pub blocks: u32,
    /// Sequences that run at once.
    pub max_num_seqs: u32,
    /// Tokens computed in one step.
    pub max_num_batched_tokens: u32,
}

impl ClusterSpec {
    /// `workers` equal workers, which do all of a request.
    pub fn uniform(workers: u32, block_size: u32, limits: WorkerLimits) -> Self {
        let limits = std::iter::repeat_n(limits, workers as usize).collect();
        Self { limits, ranks: Arc::default(), role: Role::Both, block_size, front_end: 0 }
    }

    /// One worker of one block.
    pub(crate) fn smallest() -> Self {
        let one = WorkerLimits { blocks: 1, max_num_seqs: 1, max_num_batched_tokens: 1 };
        Self::uniform(1, 1, one)
    }

    /// How many workers there can ever be, with ids from 0.
    ///
    /// # Panics
    /// If they are more than ids.
    pub fn workers(&self) -> u32 {
        u32::try_from(self.limits.len()).expect("worker ids are u32")
    }

    /// The workers that are ranks of one engine with `worker`, itself among them.
    pub(crate) fn ranks_with(&self, worker: WorkerId) -> impl Iterator<Item = WorkerId> + use<> {
        let at = worker.index();
        let places = match self.ranks.get(at) {
            None => at..at + 1,
            Some(own) => {
                let is_beside = |rank: &&Rank| rank.engine == own.engine;
                let before = self.ranks[..at].iter().rev().take_while(is_beside).count();
                let behind = self.ranks[at..].iter().take_while(is_beside).count();
                at - before..at + behind
            }
        };
        places.map(WorkerId::at)
    }

    /// What `worker` can do.
    pub fn of(&self, worker: WorkerId) -> &WorkerLimits {
        &self.limits[worker.index()]
    }
}

/// How the workers of a fleet are divided among the policies of a front end: all are
/// one policy's, or those that prefill are one's and the others, whose ids are higher,
/// another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sides {
    prefill: u32,
    others: u32,
}

impl Sides {
    /// Workers that do all of a request.
    pub const fn one(workers: u32) -> Self {
        Self { prefill: 0, others: workers }
    }

    /// Workers that prefill, and workers that decode; at least one of each.
    pub const fn two(prefill: u32, decode: u32) -> Self {
        Self { prefill, others: decode }
    }

    /// Whether prefill and decode have workers of their own.
    pub const fn are_two(self) -> bool {
        self.prefill > 0
    }

    /// All workers.
    pub const fn workers(self) -> u32 {
        self.prefill + self.others
    }

    /// Workers that only prefill; 0 if each does everything.
    pub const fn prefill_workers(self) -> u32 {
        self.prefill
    }

    /// Whether `worker` only prefills.
    pub const fn prefills(self, worker: WorkerId) -> bool {
        worker.0 < self.prefill
    }

    /// The places of all workers on the side of `worker`.
    pub const fn side_of(self, worker: WorkerId) -> Range<usize> {
        let (first, all) = (self.prefill as usize, self.workers() as usize);
        if self.prefills(worker) { 0..first } else { first..all }
    }
}

/// Workers that do all of a request.
impl From<u32> for Sides {
    fn from(workers: u32) -> Self {
        Self::one(workers)
    }
}
