//! Where clients stand: what they ask is the simulation's workload, and what happens
//! in the simulation is passed on to them.

use crate::event::{RejectReason, WorkerEvent, WorkerEventKind};
use crate::id::{RequestId, WorkerId};
use crate::recorder::End;
use crate::request::RouteRequest;
use crate::router::{ClusterView, Policy, Verdict};
use crate::simulation::{Happening, Observer};
use crate::time::SimTime;
use crate::workload::{Arrival, Workload};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc;

/// Shared by the thread that puts time in, the workload, the observer and, where
/// workers have ports of their own, the policy: all of one thread.
#[derive(Clone, Debug)]
pub(super) struct Desk(Arc<Mutex<Clients>>);

#[derive(Debug)]
struct Clients {
    /// What was asked and has not reached the router, in order of time.
    asked: VecDeque<Arrival>,
    open: BTreeMap<RequestId, Open>,
}

/// What a client hears of its completion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// The worker has taken it.
    Accepted(WorkerId),
    /// Prompt tokens found in the cache, once it is in a batch.
    Scheduled(u32),
    /// These tokens are out; whether they are the last.
    Tokens { tokens: Vec<u32>, last: bool },
    /// It is not served.
    Refused(RejectReason),
}

/// A completion that has not ended.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) say: mpsc::UnboundedSender<Said>,
    /// The worker whose port was used; `None` behind the router.
    pub(super) port: Option<WorkerId>,
    pub(super) answer: VecDeque<u32>,
    /// Tokens told.
    pub(super) told: u32,
    /// Its client has hung up, and the simulation was told.
    pub(super) is_gone: bool,
}

impl Desk {
    pub(super) fn new() -> Self {
        let clients = Clients { asked: VecDeque::new(), open: BTreeMap::new() };
        Self(Arc::new(Mutex::new(clients)))
    }

    fn clients(&self) -> MutexGuard<'_, Clients> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client asks.
    pub(super) fn take_in(&self, arrival: Arrival, open: Open) {
        let mut clients = self.clients();
        clients.open.insert(arrival.request.id, open);
        clients.asked.push_back(arrival);
    }

    /// The completions whose clients have hung up since the last call.
    pub(super) fn take_gone(&self) -> Vec<RequestId> {
        let mut clients = self.clients();
        let gone = |(id, open): (&RequestId, &mut Open)| {
            let is_new = open.say.is_closed() && !open.is_gone;
            open.is_gone |= is_new;
            is_new.then_some(*id)
        };
        clients.open.iter_mut().filter_map(gone).collect()
    }
}

impl Workload for Desk {
    fn next_arrival(&self) -> Option<SimTime> {
        self.clients().asked.front().map(|arrival| arrival.at)
    }

    fn take(&mut self) -> Arrival {
        self.clients().asked.pop_front().expect("an arrival is due")
    }

    fn observe_end(&mut self, _: SimTime, _: RequestId, _: bool) {}
}

impl Observer for Desk {
    fn hear(&mut self, _: SimTime, happening: &Happening<'_>) {
        let mut clients = self.clients();
        match *happening {
            Happening::Dispatch { request, worker } => {
                clients.say(request.id, Said::Accepted(worker));
            }
            Happening::Worker(event) => clients.tell(event),
            Happening::End { request, end } => {
                if let End::Rejected(reason) = end {
                    clients.say(request, Said::Refused(reason));
                }
                clients.open.remove(&request);
            }
            _ => {}
        }
    }
}

impl Clients {
    fn say(&self, id: RequestId, said: Said) {
        if let Some(open) = self.open.get(&id) {
            // A client that is gone misses nothing.
            let _ = open.say.send(said);
        }
    }

    /// A worker tells of a request: its client hears.
    fn tell(&mut self, event: &WorkerEvent) {
        let Some(open) = self.open.get_mut(&event.request) else { return };
        let up_to = match event.kind {
            WorkerEventKind::Scheduled { cached_tokens } => {
                let _ = open.say.send(Said::Scheduled(cached_tokens));
                0
            }
            // An only token goes out as the last one.
            WorkerEventKind::FirstToken => u32::from(open.answer.len() > 1),
            WorkerEventKind::OutputBlock { output_tokens }
            | WorkerEventKind::Finished { output_tokens } => output_tokens,
            WorkerEventKind::Preempted
            | WorkerEventKind::CacheHit { .. }
            | WorkerEventKind::Loaded { .. }
            | WorkerEventKind::Prefilled
            | WorkerEventKind::KvReceived { .. }
            | WorkerEventKind::Rejected(_)
            | WorkerEventKind::Aborted
            | WorkerEventKind::Failed => 0,
        };
        let is_last = matches!(event.kind, WorkerEventKind::Finished { .. });
        let fresh = up_to.saturating_sub(open.told);
        if fresh > 0 {
            open.told = up_to;
            let tokens = open.answer.drain(..(fresh as usize).min(open.answer.len())).collect();
            let _ = open.say.send(Said::Tokens { tokens, last: is_last });
        }
    }
}

/// Sends every request to the worker whose port it came in by.
pub(super) struct ByPort(pub(super) Desk);

impl Policy for ByPort {
    fn route(&mut self, _: SimTime, request: &RouteRequest<'_>, _: &ClusterView<'_>) -> Verdict {
        let port = self.0.clients().open.get(&request.id).and_then(|open| open.port);
        port.map_or(Verdict::Reject(RejectReason::Policy), Verdict::send)
    }
}
