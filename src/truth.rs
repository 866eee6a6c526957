//! The true state of a worker at one moment.
//!
//! No router can know it. A simulated fleet shows it to two: the policy `oracle`, which
//! is an upper bound and no router, and the recorder, which measures the regret of each
//! choice.

use crate::time::SimDuration;

/// A worker as one request would find it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerTruth {
    /// Leading full blocks of the prompt in its cache.
    pub cached_blocks: u32,
    /// Requests in its batch.
    pub running: u32,
    /// Requests there that are not in the batch.
    pub waiting: u32,
    /// Prompt tokens to be computed before this request's.
    pub prefill_tokens: u64,
    /// KV blocks that no request holds.
    pub free_blocks: u32,
    /// Time to the request's first token if nothing else arrived: the rest of the
    /// step that runs, the wait for a place in the batch (true output lengths
    /// known), then the prompts before it and its own uncached tokens at the
    /// engine's step times. A shortage of KV memory is not foreseen. 100 days on a
    /// worker that is gone.
    pub ttft: SimDuration,
}
