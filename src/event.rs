//! What workers announce: the life of requests, and changes of the prefix cache.

use crate::id::{BlockId, RequestId, WorkerId};
use crate::request::BlockRun;
use crate::time::{SimDuration, SimTime};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A change in the life of a request that its worker makes visible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerEvent {
    /// Where it happened.
    pub worker: WorkerId,
    /// The request it happened to.
    pub request: RequestId,
    /// What happened.
    pub kind: WorkerEventKind,
}

/// See [`WorkerEvent`]. Every stay of a request at a worker ends with exactly one
/// of `Prefilled`, `Finished`, `Rejected`, `Aborted` and `Failed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WorkerEventKind {
    /// It entered a batch for the first time, with this many prompt tokens
    /// found in the prefix cache.
    Scheduled {
        /// Prompt tokens that need no computing.
        cached_tokens: u32,
    },
    /// How much of its prompt was found in the cache. Servers say so with the last
    /// token; simulated workers when they [schedule](Self::Scheduled).
    CacheHit {
        /// Prompt tokens that needed no computing.
        cached_tokens: u32,
    },
    /// Its prompt is computed, by a worker of a pool that does no more; the worker
    /// keeps the KV until another one has it. The token sampled there is not used.
    Prefilled,
    /// Its KV has come over the network to the worker that will decode it.
    KvReceived {
        /// How long that took, from the first byte asked for to the last one there.
        transfer: SimDuration,
    },
    /// A part of its KV was loaded from tiers below GPU memory before it enters a
    /// batch; announced just before that.
    Loaded {
        /// Tokens from each medium, in the order of [`Medium::ALL`].
        tokens: [u32; Medium::ALL.len()],
        /// From the moment when the load was asked for until it was done.
        time: SimDuration,
    },
    /// It lost its blocks and waits again, to be recomputed (vLLM only).
    Preempted,
    /// Its first output token left the worker.
    FirstToken,
    /// A later output token, not the last, left the worker and is the first of a
    /// KV block; announced only if [asked for](crate::engine::Outbox::output_blocks), and
    /// perhaps twice where a preemption came between.
    OutputBlock {
        /// Output tokens so far, this one included.
        output_tokens: u32,
    },
    /// Its last output token left the worker.
    Finished {
        /// Tokens generated; fewer than asked for if the context limit cut it.
        output_tokens: u32,
    },
    /// The worker will not run it.
    Rejected(RejectReason),
    /// Its client has given it up, and the engine has dropped it.
    Aborted,
    /// The worker is gone and the request with it. The fleet's front announces
    /// it when the connection breaks; the request may go on elsewhere.
    Failed,
}

impl WorkerEventKind {
    /// True if the request is at the worker no more.
    pub fn ends_stay(&self) -> bool {
        matches!(
            self,
            Self::Prefilled
                | Self::Finished { .. }
                | Self::Rejected(_)
                | Self::Aborted
                | Self::Failed
        )
    }
}

/// A request that was at a worker when that died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The request.
    pub request: RequestId,
    /// Output tokens that had left the worker.
    pub output_tokens: u32,
    /// When the last of them did; means nothing where there is none.
    pub last_token_at: SimTime,
}

/// Why a request was not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum RejectReason {
    /// Prompt and output exceed the context limit of the model or engine.
    ContextLimit,
    /// It could never fit into the KV pool of the worker.
    KvPool,
    /// The router's policy turned it away.
    Policy,
    /// The router knows of no worker that takes requests.
    NoWorker,
    /// A real server did not answer it, or not to the end.
    Server,
    /// It was over a limit of its front end.
    Full,
    /// Every worker of its front end was busy.
    Busy,
    /// It waited too long in front of its router.
    WaitedTooLong,
}

impl fmt::Display for RejectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ContextLimit => "longer than the context limit",
            Self::KvPool => "larger than the KV pool",
            Self::Policy => "turned away by the router",
            Self::NoWorker => "no worker takes requests",
            Self::Server => "failed at its server",
            Self::Full => "over a limit of admission",
            Self::Busy => "every worker was busy",
            Self::WaitedTooLong => "waited too long for admission",
        })
    }
}

/// How a router answers a request that it turns away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// What the `Retry-After` header says, if there is one.
    pub retry_after: Option<SimDuration>,
}

impl Refusal {
    /// Service unavailable.
    pub(crate) const UNAVAILABLE: u16 = 503;

    /// The statuses that a refusal may have: too many requests, unavailable, overloaded.
    pub(crate) const STATUSES: [u16; 3] = [429, Self::UNAVAILABLE, 529];

    /// The answer with this status.
    pub const fn new(status: u16, retry_after: Option<SimDuration>) -> Self {
        Self { status, retry_after }
    }
}

/// A change of one worker's prefix cache, as the engine publishes it.
///
/// A block may be stored twice (vLLM 0.32 does not merge copies). Engines publish
/// every store; whether they publish every loss, or only that of the last copy,
/// is up to the [`EventLog`](crate::kv::EventLog).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KvEvent {
    /// The blocks of `run` can be hit from now on, in this order.
    Stored {
        /// The block before the first one, `None` at the start of a sequence.
        parent: Option<BlockId>,
        /// What was stored.
        run: BlockRun,
    },
    /// The blocks of `run` were lost, the *last* of the run first (leaf first).
    Removed {
        /// What was lost.
        run: BlockRun,
    },
    /// A group of layers that keeps KV [apart](crate::engine::rules::vllm::LayerGroups) has the
    /// blocks of `run` from now on. Said of those whose events routers do not follow, and
    /// only if [asked for](crate::engine::Worker::tell_all_groups).
    StoredApart {
        /// Number of the group.
        group: u32,
        /// What was stored.
        run: BlockRun,
    },
    /// A group of layers that keeps KV apart lost the blocks of `run`, the *last* first.
    RemovedApart {
        /// Number of the group.
        group: u32,
        /// What was lost.
        run: BlockRun,
    },
    /// A tier below GPU memory holds the blocks of `run` from now on. (Dynamo and
    /// vLLM: the same event with another `medium`.)
    StoredBelow {
        /// Which tier.
        medium: Medium,
        /// What was stored.
        run: BlockRun,
    },
    /// A tier below GPU memory lost the blocks of `run`.
    RemovedBelow {
        /// Which tier.
        medium: Medium,
        /// What was lost.
        run: BlockRun,
    },
}

impl KvEvent {
    /// The blocks that were stored or lost.
    pub fn run(&self) -> BlockRun {
        match *self {
            Self::Stored { run, .. }
            | Self::Removed { run }
            | Self::StoredApart { run, .. }
            | Self::RemovedApart { run, .. }
            | Self::StoredBelow { run, .. }
            | Self::RemovedBelow { run, .. } => run,
        }
    }
}

/// What KV memory below the GPU's is made of, fast to slow: the tiers that
/// Dynamo's router tells apart (`StorageTier` of dynamo-kv-router 1.6.1).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Medium {
    /// Memory of the worker's machine. Dynamo: `HostPinned`, vLLM: `CPU`.
    Host,
    /// A disk in it. Dynamo: `Disk`, vLLM: `STORAGE`.
    Disk,
    /// Storage elsewhere. Dynamo: `External`.
    Remote,
}

impl Medium {
    /// All of them, fast to slow.
    pub const ALL: [Self; 3] = [Self::Host, Self::Disk, Self::Remote];

    /// Its name in settings and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Disk => "disk",
            Self::Remote => "remote",
        }
    }
}
