//! What the rules of an engine must do: the seam between a worker and its engine.
//!
//! *When* something happens is the worker's business, *what* happens the scheduler's.

use super::core::Core;
use super::decode_set::DecodeSet;
use super::seq::{Seq, SeqId};
use super::step::{ChunkEnd, FormedStep};
use crate::id::RequestId;
use crate::kv::{BlockCount, Concerns};
use crate::request::Content;
use std::fmt::Debug;
use std::ops::Range;

/// The rules of one engine: its queue, its batch and its cache.
///
/// A worker calls [`offer`](Self::offer) and [`form`](Self::form) at a boundary, and when the step's results are
/// due [`end`](Self::end) for every sequence that sampled its last token, then
/// [`computed`](Self::computed). Requests arrive in between. What all engines know of
/// a sequence stands in [`Core`]; what one of them adds it keeps itself.
///
/// What a scheduler does must follow from these calls alone: the same calls, the same
/// steps. And every block of its pool is always held, cached or empty.
pub(super) trait Scheduler: Debug {
    /// Output tokens for which the pool must have room, or the sequence is never served.
    fn longest_output(&self, seq: &Seq) -> u32;

    /// Takes a request into the queue, the last that came.
    fn submit(&mut self, core: &Core, id: SeqId);

    /// Decides which prompts the next step computes, as far as that is decided before it is
    /// [formed](Self::form); gives how many, if ranks can [wait for each other](Self::hold_back).
    /// `from_idle`: the engine had nothing to do until now.
    fn offer(&mut self, _core: &mut Core, _from_idle: bool) -> u32 {
        0
    }

    /// The next step computes none of the prompts just [offered](Self::offer).
    fn hold_back(&mut self) {}

    /// Forms the next step and takes its blocks.
    fn form(&mut self, core: &mut Core, step: &mut FormedStep);

    /// Prompt chunks have been computed; requests that ended with that have been
    /// [ended](Self::end) already.
    fn computed(&mut self, _core: &mut Core, _chunks: &[(SeqId, ChunkEnd)]) {}

    /// The last token of a sequence has left: it gives back its place and its blocks.
    fn end(&mut self, core: &mut Core, id: SeqId);

    /// The client of a sequence that is not ending has given it up, and a step is about
    /// to be formed: it leaves queue or batch and gives back its blocks. False if it
    /// stays for this step; then it is asked again before the next one, not for the
    /// `first` time.
    fn abort(&mut self, core: &mut Core, id: SeqId, first: bool) -> bool;

    /// The block traffic of decode step `step`, which was planned and not formed:
    /// takes the blocks that its sequences need, stores those that they fill.
    fn decode_blocks(&mut self, core: &mut Core, step: u64);

    /// The end of the decode steps from `step` up to `end` that do nothing but take blocks,
    /// so that [`take_blocks`](Self::take_blocks) can take them at once; these were planned
    /// and not formed.
    fn quiet_until(&self, _core: &Core, step: u64, _end: u64) -> u64 {
        step
    }

    /// Takes the `blocks` blocks of these quiet steps.
    fn take_blocks(&mut self, _core: &mut Core, _blocks: u32, _steps: Range<u64>) {
        unreachable!("no step is quiet")
    }

    /// The first step at or after `step` in which decoding changes the cache.
    fn next_traffic(&self, decode: &DecodeSet, step: u64) -> u64;

    /// How many of the next `max` decode-only steps, after the one just counted, need
    /// no decision: forming them would give the present batch again.
    fn undisturbed_steps(&self, core: &Core, max: u64) -> u64;

    /// Number of requests in the batch, or between its steps.
    fn running(&self, core: &Core) -> usize;

    /// Number of requests that are not in the batch.
    fn waiting(&self, core: &Core) -> usize;

    /// Those requests themselves.
    fn requests(&self, core: &Core) -> BatchAndQueue;

    /// How many of the first `limit` blocks of a sequence could be hit.
    fn present_blocks(&self, core: &Core, content: &Content, limit: u32) -> u32;

    /// Blocks that sequences hold.
    fn used_blocks(&self) -> u32;

    /// Every block of the pool, counted where it lies, at the cost of the pool's size.
    fn count_blocks(&self, core: &Core) -> BlockCount;

    /// Forgets the cache, as vLLM's `reset_prefix_cache` does; false, and nothing is
    /// forgotten, while a request holds blocks or if the engine has no such call.
    fn reset_cache(&mut self) -> bool {
        false
    }

    /// Prefilling for other workers, and decoding for them: `None` for an engine
    /// without ([`hands_over_kv`](super::rules::Defaults::hands_over_kv)).
    fn handover(&mut self) -> Option<&mut dyn Handover> {
        None
    }

    /// Changes of the cache that are heard on demand: `None` for an engine whose cache can
    /// lose a block before those that come after it, so that it shows in which order
    /// changes are heard.
    fn on_demand(&mut self) -> Option<&mut dyn OnDemand> {
        None
    }

    /// True if something will happen without anything in a batch, by what another
    /// worker does.
    fn waits_for_others(&self) -> bool {
        false
    }
}

/// Requests that one worker prefills and another one decodes. Asked once per request.
pub(super) trait Handover {
    /// Ends the stay of a prefilled sequence in the batch, but keeps its blocks.
    fn keep(&mut self, id: SeqId);

    /// Frees the blocks kept for `request`; gives its sequence.
    ///
    /// # Panics
    /// If none are kept.
    fn let_go(&mut self, core: &mut Core, request: RequestId) -> SeqId;

    /// The KV of `request` is there: it may join a batch from the next step on.
    ///
    /// # Panics
    /// If the worker does not wait for it.
    fn kv_came(&mut self, core: &Core, request: RequestId);

    /// The KV of `request`, which was to come from another worker, never will: its prompt
    /// is computed here. Nothing where it is not waited for.
    fn kv_lost(&mut self, core: &mut Core, request: RequestId);
}

/// A cache whose changes are heard when a router asks about their blocks. What decoding
/// fills may be put off until then.
pub(super) trait OnDemand {
    /// Writes down what decoding has filled of the first `limit` blocks of a sequence.
    fn write_down(&mut self, core: &mut Core, content: &Content, limit: u32);

    /// Writes down everything, and puts nothing off any more.
    fn write_all_down(&mut self, core: &mut Core);

    /// Enters what changes that are not heard yet may concern, those included that the
    /// next `blocks` blocks bring which decoding takes.
    fn enter_concerns(&mut self, core: &mut Core, blocks: u32, concerns: &mut Concerns);
}

/// The requests of a worker.
#[derive(Debug, Default)]
pub(super) struct BatchAndQueue {
    /// In the batch, or between its steps.
    pub(super) batch: Vec<SeqId>,
    /// Those that wait, in order of arrival as far as that decides.
    pub(super) queue: Vec<SeqId>,
}
