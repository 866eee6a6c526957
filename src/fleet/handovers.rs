//! What is between workers that prefill and workers that decode: the KV of every request
//! moves from one to the other.

use super::network::{Arrived, Network, Transfer};
use super::pools::Pools;
use crate::id::{RequestId, WorkerId};
use crate::request::Phase;
use crate::router::Sides;
use crate::time::SimTime;
use std::collections::BTreeMap;

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Handovers {
    sides: Sides,
    kv_bytes_per_token: f64,
    /// The worker that keeps the KV of each request that has been prefilled.
    kept: BTreeMap<RequestId, WorkerId>,
    network: Network,
}

impl Handovers {
    /// `None` if every worker does all of a request.
    pub(super) fn new(pools: &Pools) -> Option<Self> {
        let sides = pools.sides();
        sides.are_two().then(|| Self {
            sides,
            kv_bytes_per_token: pools.first().engine.kv_bytes_per_token.expect("validated pools"),
            kept: BTreeMap::new(),
            network: Network::new(sides.workers(), pools.link()),
        })
    }

    /// What `worker` does of a request that is sent there.
    pub(super) fn phase(&self, worker: WorkerId, request: RequestId) -> Phase {
        if self.sides.prefills(worker) {
            Phase::Prefill
        } else if self.kept.contains_key(&request) {
            Phase::Decode
        } else {
            Phase::Whole
        }
    }

    /// `worker` has prefilled `request` and keeps its KV.
    pub(super) fn keep(&mut self, request: RequestId, worker: WorkerId) {
        self.kept.insert(request, worker);
    }

    /// Nobody will fetch the KV of `request`: the worker that keeps it.
    pub(super) fn give_up(&mut self, request: RequestId) -> Option<WorkerId> {
        self.kept.remove(&request)
    }

    /// `worker` has room for the KV of `request` and asks for `tokens` of it.
    pub(super) fn fetch(
        &mut self,
        now: SimTime,
        request: RequestId,
        worker: WorkerId,
        tokens: u32,
    ) {
        let from = self.kept.remove(&request).expect("KV that is fetched is kept");
        let bytes = f64::from(tokens) * self.kv_bytes_per_token;
        self.network.start(now, Transfer { request, from, to: worker }, bytes);
    }

    /// When [`next`](Self::next) will have something to do.
    pub(super) fn due(&self) -> Option<SimTime> {
        self.network.due()
    }

    /// The next transfer that is over at `now`; to be asked until `None`.
    pub(super) fn next(&mut self, now: SimTime) -> Option<Arrived> {
        self.network.next(now)
    }
}
