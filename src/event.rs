//! What workers tell the outside: the life of requests, and changes of the
//! prefix cache.

use crate::id::{BlockId, RequestId, WorkerId};
use crate::request::BlockRun;
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

/// See [`WorkerEvent`]. Every request ends with exactly one of `Finished` and `Rejected`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerEventKind {
    /// It entered a batch for the first time, with this many prompt tokens
    /// found in the prefix cache.
    Scheduled {
        /// Prompt tokens that need no computing.
        cached_tokens: u32,
    },
    /// It tells how much of the prompt it found in its cache. Servers say so with
    /// the last token; simulated workers when they [schedule](Self::Scheduled).
    CacheHit {
        /// Prompt tokens that needed no computing.
        cached_tokens: u32,
    },
    /// It lost its blocks and waits again, to be recomputed (vLLM only).
    Preempted,
    /// Its first output token left the worker.
    FirstToken,
    /// A later output token, not the last, left the worker and is the first of a
    /// KV block; told only if somebody [wants it](crate::engine::Outbox::output_blocks). May be
    /// told twice where a preemption came between.
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
}

/// Why a request was not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RejectReason {
    /// Prompt and output exceed the context limit of the model or engine.
    ContextLimit,
    /// It could never fit into the KV pool of the worker.
    KvPool,
    /// The router's policy turned it away.
    Policy,
    /// A real server did not answer it, or not to the end.
    Failed,
}

impl fmt::Display for RejectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ContextLimit => "longer than the context limit",
            Self::KvPool => "larger than the KV pool",
            Self::Policy => "turned away by the router",
            Self::Failed => "failed at its server",
        })
    }
}

/// A change of one worker's prefix cache, as the engine publishes it.
///
/// A block may be stored twice (vLLM 0.32 does not merge copies). Engines publish
/// every store; whether they publish every loss, or only that of the last copy,
/// is up to the [`EventLog`](crate::kv::EventLog).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
}
