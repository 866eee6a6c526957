//! What is between workers that prefill and workers that decode: the KV of every request
//! moves from one to the other.

use super::network::{Arrived, Network, Transfer};
use super::pools::Pools;
use crate::id::{RequestId, WorkerId};
use crate::request::Phase;
use crate::router::Sides;
use crate::time::{SimDuration, SimTime};
use std::collections::BTreeMap;

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Handovers {
    sides: Sides,
    kv_bytes_per_token: f64,
    /// The KV of requests that have been prefilled and not fetched.
    kept: BTreeMap<RequestId, Kept>,
    network: Network,
}

/// KV that waits for the worker that will decode.
#[derive(Clone, Copy, Debug)]
struct Kept {
    at: WorkerId,
    /// Where the request is, once it was sent on.
    waits_at: Option<WorkerId>,
}

/// What a worker that died takes with it of requests that are elsewhere.
#[derive(Debug, Default)]
pub(super) struct Gone {
    /// Requests whose KV it kept.
    pub(super) kept: Vec<RequestId>,
    /// Requests at other workers whose KV will not come, with those workers.
    pub(super) bereft: Vec<(RequestId, WorkerId)>,
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

    /// Whether `worker` only prefills.
    pub(super) fn prefills(&self, worker: WorkerId) -> bool {
        self.sides.prefills(worker)
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

    /// Time that the KV of `tokens` needs on its way if nothing else is.
    pub(super) fn time_alone(&self, tokens: u32) -> SimDuration {
        self.network.time_alone(f64::from(tokens) * self.kv_bytes_per_token)
    }

    /// `request` is sent to `worker`, which will fetch its KV if any is kept.
    pub(super) fn sent(&mut self, request: RequestId, worker: WorkerId) {
        if let Some(kept) = self.kept.get_mut(&request) {
            kept.waits_at = Some(worker);
        }
    }

    /// `worker` has prefilled `request` and keeps its KV.
    pub(super) fn keep(&mut self, request: RequestId, worker: WorkerId) {
        self.kept.insert(request, Kept { at: worker, waits_at: None });
    }

    /// The KV of `request` will not be fetched: the worker that keeps it, if one does.
    pub(super) fn give_up(&mut self, request: RequestId) -> Option<WorkerId> {
        self.kept.remove(&request).map(|kept| kept.at)
    }

    /// `worker` has room for the KV of `request` and asks for `tokens` of it.
    pub(super) fn fetch(
        &mut self,
        now: SimTime,
        request: RequestId,
        worker: WorkerId,
        tokens: u32,
    ) {
        let from = self.give_up(request).expect("KV that is fetched is kept");
        let bytes = f64::from(tokens) * self.kv_bytes_per_token;
        self.network.start(now, Transfer { request, from, to: worker }, bytes);
    }

    /// `worker` dies. What it was fetching is kept on by those that have it.
    pub(super) fn stop(&mut self, now: SimTime, worker: WorkerId) -> Gone {
        let mut gone = Gone::default();
        for Transfer { request, from, to } in self.network.cut(now, worker) {
            if from == worker {
                gone.kept.push(request);
                gone.bereft.push((request, to));
            } else {
                self.keep(request, from);
            }
        }
        for (&request, kept) in &mut self.kept {
            if kept.at == worker {
                gone.kept.push(request);
                gone.bereft.extend(kept.waits_at.map(|at| (request, at)));
            } else if kept.waits_at == Some(worker) {
                kept.waits_at = None;
            }
        }
        self.kept.retain(|_, kept| kept.at != worker);
        gone
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
