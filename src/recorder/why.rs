//! Why a run hit less than it could have: what each choice of a worker gave
//! away, and where the hits went that an unlimited cache would have had.
//!
//! Counted in full blocks of the prompt, for each request twice.
//!
//! *When it is sent to a worker.* Its *regret*: leading blocks that the worker
//! with most of them holds, less those that the chosen one holds. The part of it
//! that the router's index did not show is *hidden*; a policy without an index
//! has nothing hidden from it, it did not look.
//!
//! *When it is first scheduled.* The bound: blocks that one unlimited cache,
//! shared by all workers, would have hit: all that was ever computed. What is
//! missing from the bound is lost
//!
//! * to *eviction*, as far as no worker holds it any more;
//! * to a *stale index*, as far as another worker holds it, but at most what was
//!   hidden;
//! * to the *wrong worker*: whatever else another worker holds. Sending a request
//!   away from its blocks because of load, knowingly, counts here too.
//!
//! The three add up to the bound less the hits, exactly.
//!
//! Where prefill and decode have workers of their own, the choice is that of the worker
//! which computes the prompt, among those on its side: the caches of the other side cannot
//! serve it. So the bound is all that was ever computed on its side.

use crate::event::WorkerEvent;
use crate::id::{RequestId, WorkerId};
use crate::kv::BlockTable;
use crate::request::Request;
use crate::router::Sides;
use std::collections::BTreeMap;

/// See the module.
#[derive(Debug)]
pub(super) struct Why {
    block_size: u32,
    sides: Sides,
    /// Every block ever computed on each side. The numbers mean nothing.
    computed: [BlockTable; 2],
    /// Sent and not ended.
    open: BTreeMap<RequestId, Sent>,
}

#[derive(Debug)]
struct Sent {
    request: Request,
    regret_blocks: u32,
    hidden_blocks: u32,
}

/// What a request lost by the choice of its worker; tokens are of its prompt, in full blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestWhy {
    /// Blocks that some worker held more than the chosen one, when it was sent.
    pub regret_blocks: u32,
    /// Lost to eviction.
    pub eviction_tokens: u32,
    /// Lost to a worker that had less.
    pub wrong_worker_tokens: u32,
    /// Lost to an index that did not show it.
    pub stale_index_tokens: u32,
}

impl RequestWhy {
    /// Tokens that an unlimited shared cache would have hit beyond what was hit.
    pub fn lost_tokens(&self) -> u32 {
        self.eviction_tokens + self.wrong_worker_tokens + self.stale_index_tokens
    }
}

impl Why {
    pub(super) fn new(block_size: u32, sides: Sides) -> Self {
        Self { block_size, sides, computed: Default::default(), open: BTreeMap::new() }
    }

    /// `request` is sent to `worker`; `held` and `believed` are leading blocks of
    /// its prompt on each worker, in truth and by the router's index.
    pub(super) fn sent(
        &mut self,
        request: &Request,
        worker: WorkerId,
        held: &[u32],
        believed: Option<&[u32]>,
    ) {
        let side = self.sides.side_of(worker);
        let gap = |blocks: &[u32]| {
            let most = blocks[side.clone()].iter().copied().max().unwrap_or(0);
            most.saturating_sub(blocks[worker.index()])
        };
        let regret_blocks = gap(held);
        let hidden_blocks = believed.map_or(0, |seen| regret_blocks.saturating_sub(gap(seen)));
        let sent = Sent { request: request.clone(), regret_blocks, hidden_blocks };
        self.open.insert(request.id, sent);
    }

    /// A request that was sent and has not ended.
    pub(super) fn request(&self, id: RequestId) -> Option<&Request> {
        self.open.get(&id).map(|sent| &sent.request)
    }

    /// The request of `event` is scheduled for the first time, with
    /// `cached_tokens` hit; `held` as in [`sent`](Self::sent), now.
    pub(super) fn scheduled(
        &mut self,
        event: &WorkerEvent,
        cached_tokens: u32,
        held: &[u32],
    ) -> RequestWhy {
        let sent = &self.open[&event.request];
        let hit = cached_tokens / self.block_size;
        // Its own worker's cache has taken the request in by now.
        let side = self.sides.side_of(event.worker);
        let others = side.filter(|at| *at != event.worker.index());
        let held = others.map(|at| held[at]).max().unwrap_or(0).max(hit);
        let bound = self.computed_blocks(event.worker, &sent.request).max(held);
        let stale = (held - hit).min(sent.hidden_blocks);
        let tokens = |blocks: u32| blocks * self.block_size;
        RequestWhy {
            regret_blocks: sent.regret_blocks,
            eviction_tokens: tokens(bound - held),
            wrong_worker_tokens: tokens(held - hit - stale),
            stale_index_tokens: tokens(stale),
        }
    }

    /// `tokens` of prompt and output of a request have been computed at `worker`, or
    /// moved there. The last one has not: no token follows it.
    pub(super) fn computed(&mut self, worker: WorkerId, id: RequestId, tokens: u32) {
        let Some(sent) = self.open.get(&id) else { return };
        let computed = &mut self.computed[usize::from(self.sides.prefills(worker))];
        for block in sent.request.content.blocks((tokens - 1) / self.block_size) {
            // Counted already.
            let _known = computed.insert(block, 0);
        }
    }

    pub(super) fn ended(&mut self, id: RequestId) {
        self.open.remove(&id);
    }

    /// Leading blocks that were ever computed, of those that can be hit: one
    /// token is always computed.
    fn computed_blocks(&self, worker: WorkerId, request: &Request) -> u32 {
        let computed = &self.computed[usize::from(self.sides.prefills(worker))];
        let blocks = request.content.blocks((request.prompt_tokens - 1) / self.block_size);
        let known = blocks.take_while(|&block| computed.get(block).is_some());
        u32::try_from(known.count()).expect("blocks of a prompt fit u32")
    }
}
