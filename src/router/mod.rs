//! Routing: the [`Policy`] trait and everything a policy may look at.
//!
//! A router decides from what it has been told. What it is told comes in three
//! ways, each with its own freshness:
//!
//! | input | type | freshness |
//! |---|---|---|
//! | its own bookings (requests sent and not finished) | [`WorkerView::inflight`] | exact, for this front end |
//! | requests' first tokens and ends | [`Policy::observe`] | when the response passes the front end |
//! | blocks stored and removed | [`Policy::observe_kv`] | after the feed's delay |
//! | gauges that workers report | [`WorkerView::reported`] | as old as the last report |

#[cfg(feature = "dynamo")]
pub mod dynamo;
mod factory;
pub mod feed;
pub mod front_end;
pub mod kv;
pub mod policies;
mod select;
pub mod settings;
pub mod shadow;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use front_end::FrontEnd;

use crate::event::{KvEvent, RejectReason, WorkerEvent};
use crate::id::{RequestId, WorkerId};
use crate::request::RouteRequest;
use crate::time::SimTime;

/// Makes a policy inside the job that runs it, so that policies need not be `Send`.
pub trait PolicyFactory: Send + Sync {
    /// A fresh policy for one front end; `seed` is all the randomness it gets.
    fn build(&self, cluster: &ClusterSpec, seed: u64) -> Box<dyn Policy>;
}

/// The facts about a fleet that a router is configured with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClusterSpec {
    /// Number of workers, with ids `0..workers`.
    pub workers: u32,
    /// Tokens in a KV block.
    pub block_size: u32,
    /// KV blocks of each worker.
    pub blocks_per_worker: u32,
    /// Sequences a worker runs at once.
    pub max_num_seqs: u32,
    /// Tokens a worker computes in one step.
    pub max_num_batched_tokens: u32,
}

/// A routing policy. One method is required.
///
/// A policy books its own decision inside `route`: when `route` returns
/// `Send(worker)`, the request is on its way.
pub trait Policy {
    /// Chooses a worker for `request`, now.
    fn route(
        &mut self,
        now: SimTime,
        request: &RouteRequest<'_>,
        view: &ClusterView<'_>,
    ) -> Verdict;

    /// Hears of a change in the life of a request that this front end sent.
    fn observe(&mut self, _now: SimTime, _event: &WorkerEvent) {}

    /// True if the policy keeps an index of the workers' caches; only then are
    /// KV events made and delivered.
    fn wants_kv_events(&self) -> bool {
        false
    }

    /// Hears of a change of a worker's cache, as late as the feed delivers it.
    fn observe_kv(&mut self, _worker: WorkerId, _event: &KvEvent) {}

    /// A held request that may go now, with its worker. Asked after every event until `None`.
    fn release(&mut self, _now: SimTime, _view: &ClusterView<'_>) -> Option<(RequestId, WorkerId)> {
        None
    }

    /// When to ask `release` again even if nothing happens.
    fn wake_at(&self) -> Option<SimTime> {
        None
    }

    /// Numbers that the policy counted about itself, by name, for reports.
    fn notes(&self) -> Vec<(&'static str, f64)> {
        Vec::new()
    }

    /// What every worker would cost for `request`, for people; on demand only.
    fn explain(&self, _request: &RouteRequest<'_>, _view: &ClusterView<'_>) -> Vec<CostParts> {
        Vec::new()
    }
}

/// A policy's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// To this worker, at once.
    Send(WorkerId),
    /// Kept by the policy until `release` names it.
    Hold,
    /// Turned away.
    Reject(RejectReason),
}

/// One worker's cost, taken apart.
#[derive(Clone, Debug, PartialEq)]
pub struct CostParts {
    /// The worker.
    pub worker: WorkerId,
    /// What the policy compares; lower wins.
    pub cost: f64,
    /// Named addends or inputs of the cost.
    pub parts: Vec<(&'static str, f64)>,
}

/// What one front end knows of the fleet.
#[derive(Clone, Copy, Debug)]
pub struct ClusterView<'a> {
    /// One entry per worker, in order of id.
    pub workers: &'a [WorkerView],
}

/// What one front end knows of one worker.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct WorkerView {
    /// Requests this front end sent there that have not ended. Exact.
    pub inflight: u32,
    /// The last gauges the worker reported, if it reports any.
    pub reported: Option<Reported>,
}

/// Gauges as a worker last reported them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reported {
    /// When.
    pub at: SimTime,
    /// Sequences in the running batch.
    pub running: u32,
    /// Requests waiting in its queue.
    pub waiting: u32,
    /// Share of KV blocks in use, 0 to 1.
    pub kv_usage: f64,
}
