//! Fleets: submit a request to a worker, ask what happens next.
//!
//! The clock lives inside the fleet: a simulated fleet jumps to the next event,
//! a live one waits for it. So one short loop (the driver) serves both.

pub mod changes;
mod handovers;
mod network;
mod pools;
#[cfg(feature = "live")]
pub mod servers;
mod simulated;

pub use network::{Arrived, Link, Network, Transfer};
pub use pools::{Pool, PoolRole, Pools};
pub use simulated::SimulatedFleet;

use crate::engine::{Gauges, Pace};
use crate::event::{KvEvent, Lost, RejectReason, WorkerEvent};
use crate::id::{RequestId, WorkerId};
use crate::request::{PromptBlocks, Request};
use crate::stats::Histogram;
use crate::time::SimTime;
use crate::truth::WorkerTruth;

/// A set of workers.
pub trait Fleet {
    /// Sends a request to a worker; where prefill and decode have workers of their
    /// own, to one of each. Nothing that happens earlier than `now` may
    /// be outstanding: call [`next_event`](Self::next_event) with this deadline first.
    ///
    /// # Errors
    /// If the worker will never run it.
    fn submit(
        &mut self,
        now: SimTime,
        worker: WorkerId,
        request: &Request,
    ) -> Result<(), RejectReason>;

    /// The rank to which the engine would give a request that comes now, by a rule of its
    /// own, of the worker whose first rank is `worker`.
    fn choose_rank(&mut self, _now: SimTime, worker: WorkerId) -> WorkerId {
        worker
    }

    /// `request`, which a worker has prefilled, will not be decoded: its KV is not
    /// needed any more. Only for fleets whose workers prefill or decode.
    fn give_up(&mut self, _now: SimTime, _request: RequestId) {}

    /// The client of `request`, which is at `worker`, gives it up. The stay ends when
    /// the worker says so: [`Aborted`](crate::event::WorkerEventKind::Aborted) when its
    /// engine drops the request, or as without this if that comes first, or if the fleet
    /// cannot give up requests.
    fn abort(&mut self, _now: SimTime, _worker: WorkerId, _request: RequestId) {}

    /// The next thing that happens up to and at `deadline`, before the arrivals
    /// of that moment; `None` if nothing does.
    fn next_event(&mut self, deadline: SimTime) -> Option<(SimTime, WorkerEvent)>;

    /// Hands over the cache changes that workers published at or before `until`;
    /// those of one worker in order of time.
    fn take_kv_events(&mut self, until: SimTime, sink: &mut dyn FnMut(WorkerId, SimTime, KvEvent));

    /// The same, but of changes that do not concern the blocks of `prompt` it may keep
    /// back any, for later calls. Only for those who do not see the difference: for whom
    /// order among changes of different blocks does not matter as long as a worker loses
    /// no block before those that come after it.
    fn take_kv_events_of(
        &mut self,
        until: SimTime,
        _prompt: &PromptBlocks<'_>,
        sink: &mut dyn FnMut(WorkerId, KvEvent),
    ) {
        self.take_kv_events(until, &mut |worker, _, event| sink(worker, event));
    }

    /// The gauges of each worker at `now`.
    fn gauges(&mut self, now: SimTime) -> Vec<Gauges>;

    /// The true state of all workers at `now`, before the steps of this moment;
    /// `None` if the fleet cannot tell. Looking changes nothing that can be seen.
    fn truth(&mut self, _now: SimTime) -> Option<&dyn Truth> {
        None
    }

    /// Every gap between two tokens of a request since the last call, in
    /// picoseconds, up to `now`.
    fn take_token_gaps(&mut self, now: SimTime) -> Histogram;

    /// Whether workers publish changes of their caches.
    fn publishes_kv_events(&self) -> bool {
        true
    }

    /// Whether workers can be [stopped](Self::stop), [started](Self::start) and
    /// [slowed](Self::set_pace).
    fn takes_changes(&self) -> bool {
        false
    }

    /// The worker with this rank dies at `now`, with all its ranks, requests and caches:
    /// gives what was lost at which rank, rank by rank in order of request. A fleet that is
    /// not told what happens to its workers does nothing here, nor in the next two.
    fn stop(&mut self, _now: SimTime, _rank: WorkerId) -> Vec<(WorkerId, Lost)> {
        Vec::new()
    }

    /// The worker with this rank takes requests from now on, with empty caches.
    fn start(&mut self, _rank: WorkerId) {}

    /// Steps that the worker with this rank forms from `now` on run at `pace`.
    fn set_pace(&mut self, _now: SimTime, _rank: WorkerId, _pace: Pace) {}
}

/// The true state of a fleet at one moment, for the oracle and for the recorder:
/// no router is given this.
pub trait Truth {
    /// For each worker in order of id: leading full blocks of the prompt of
    /// `request` that it holds, in GPU memory or in tiers below.
    fn cached_blocks(&self, request: &Request) -> Vec<u32>;

    /// For each worker in order of id: what `request` would find there.
    fn workers(&self, request: &Request) -> Vec<WorkerTruth>;
}
