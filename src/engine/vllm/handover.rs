//! Requests that one worker prefills and another one decodes, under vLLM's rules
//! (H1-H6 of docs/deployments.md).
//!
//! Source: vLLM's scheduler (`WAITING_FOR_REMOTE_KVS`) and its NIXL connector.

use super::{Core, FormedStep, SeqId, Vllm};
use crate::id::RequestId;

impl Vllm {
    /// The head is given blocks for all of its prompt but what was just found here
    /// (H3). It waits for its KV aside, so those behind it may go on.
    pub(super) fn await_kv(&mut self, core: &mut Core, step: &mut FormedStep, hit_tokens: u32) {
        let id = self.waiting.pop_front().expect("the head was looked up");
        let seq = &mut core.seqs[id];
        self.cache.take(&self.hits, &mut seq.held);
        let blocks = seq.prompt_tokens.div_ceil(core.config.block_size);
        self.cache.allocate(blocks - seq.held.blocks(), &mut core.log);
        step.awaited.push((id, seq.prompt_tokens - hit_tokens));
        self.awaiting.push(id);
    }

    /// The KV of `request` is there: it may join a batch from the next step on (H4).
    ///
    /// # Panics
    /// If the worker does not wait for it.
    pub(in crate::engine) fn kv_came(&mut self, core: &Core, request: RequestId) {
        let at = self.awaiting.iter().position(|&id| core.seqs[id].request == request);
        self.received.push_back(self.awaiting.remove(at.expect("KV that is waited for")));
    }

    /// Lets requests whose KV came decode, before anybody else is admitted: the
    /// last prompt token is computed here and gives the first output token (H5).
    pub(super) fn join_received(
        &mut self,
        core: &mut Core,
        step: &mut FormedStep,
        budget: &mut u32,
        places: usize,
    ) {
        while *budget > 0 && self.running.len() < places {
            let Some(id) = self.received.pop_front() else { return };
            self.publish(core, id, core.seqs[id].prompt_tokens / core.config.block_size);
            self.running.push(id);
            core.seqs.admit(id);
            core.seqs[id].kv_tokens = core.seqs[id].prompt_tokens - 1;
            // Its block for this step is among those it has.
            core.decode.join(&mut core.seqs, id);
            step.admitted.push((id, core.seqs[id].kv_tokens));
            step.joined.push(id);
            *budget -= 1;
        }
    }

    /// Ends the stay of a prefilled sequence, but keeps its blocks (H2).
    pub(in crate::engine) fn keep(&mut self, id: SeqId) {
        self.leave_batch(id);
        self.kept.push(id);
    }

    /// Frees the blocks kept for `request`; gives its sequence.
    ///
    /// # Panics
    /// If none are kept.
    pub(in crate::engine) fn let_go(&mut self, core: &mut Core, request: RequestId) -> SeqId {
        let at = self.kept.iter().position(|&id| core.seqs[id].request == request);
        let id = self.kept.swap_remove(at.expect("KV that is kept"));
        self.release(core, id);
        id
    }

    /// True if something will happen without anything in a batch: KV comes, or
    /// blocks that are kept for others become free.
    pub(in crate::engine) fn waits_for_others(&self) -> bool {
        !self.awaiting.is_empty() || !self.kept.is_empty()
    }
}
