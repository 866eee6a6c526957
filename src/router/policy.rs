//! The trait of policies: what they see and what they answer.

use super::view::ClusterView;
use crate::event::{KvEvent, RejectReason, WorkerEvent};
use crate::id::{RequestId, WorkerId};
use crate::request::RouteRequest;
use crate::settings::Invalid;
use crate::time::{SimDuration, SimTime};
use crate::truth::WorkerTruth;

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

    /// As [`observe_kv`](Self::observe_kv), of a change that the worker published at
    /// `published`: engines write that into their events.
    fn observe_kv_published(&mut self, _published: SimTime, worker: WorkerId, event: &KvEvent) {
        self.observe_kv(worker, event);
    }

    /// True if all that counts of KV events is which blocks of a prompt each worker holds
    /// when a request with that prompt is routed. Then events of other blocks may come
    /// later, and those of different blocks in another order: where engines lose no block
    /// before those that come after it, that makes no difference, and saves most of the
    /// events.
    fn hears_kv_on_demand(&self) -> bool {
        false
    }

    /// How often the policy asks workers for their gauges, if it does.
    fn report_period(&self) -> Option<SimDuration> {
        None
    }

    /// True if the policy counts generated tokens; only then it hears of
    /// [`OutputBlock`](crate::event::WorkerEventKind::OutputBlock)s.
    fn wants_output_blocks(&self) -> bool {
        false
    }

    /// A held request whose time has come: it goes to a worker or is turned away.
    /// Asked after every event until `None`.
    fn release(&mut self, _now: SimTime, _view: &ClusterView<'_>) -> Option<Release> {
        None
    }

    /// When to ask `release` again even if nothing happens.
    fn wake_at(&self) -> Option<SimTime> {
        None
    }

    /// How many leading blocks of the prompt the policy believes each worker to
    /// hold, in order of id; `None` if it keeps no index.
    fn overlap_blocks(&self, _request: &RouteRequest<'_>) -> Option<Vec<u32>> {
        None
    }

    /// Hears that another front end sent `request` to `worker`, which that one
    /// believed to hold `overlap_blocks` of it; only where front ends tell each
    /// other. First tokens and ends of such requests come through `observe`.
    fn observe_peer(
        &mut self,
        _request: &RouteRequest<'_>,
        _worker: WorkerId,
        _overlap_blocks: u32,
    ) {
    }

    /// Hears that `worker` is gone, or on its way out: what is known of its cache
    /// and of the requests there is to be forgotten. [`WorkerView::available`](super::WorkerView::available) is
    /// false from now on.
    fn worker_left(&mut self, _worker: WorkerId) {}

    /// Hears that `worker` takes requests, with an empty cache.
    fn worker_joined(&mut self, _worker: WorkerId) {}

    /// Hears that `worker` is not to be chosen for now, as it is busy, or may be again.
    /// [`WorkerView::available`](super::WorkerView::available) says so, too, and what is known
    /// of the worker stays. Only of policies that say that they
    /// [can](super::Registration::can_leave_out).
    fn leave_out(&mut self, _worker: WorkerId, _is_left_out: bool) {}

    /// True if the policy is to be shown the true state of workers. No router can
    /// have that: such a policy is a bound for others.
    fn wants_truth(&self) -> bool {
        false
    }

    /// Is shown the truth about every worker, in order of id, as the request that
    /// is routed next would find it; only a policy that [wants](Self::wants_truth) it.
    fn observe_truth(&mut self, _workers: Vec<WorkerTruth>) {}

    /// Sets a parameter while the policy runs, as if it had been set from the start;
    /// what was decided before stays as it is. Parameters that are not numbers
    /// cannot be set.
    ///
    /// # Errors
    /// If `key` is no parameter that can change, or not to `value`; nothing has
    /// changed then.
    fn set_parameter(&mut self, key: &str, value: f64) -> Result<(), Invalid> {
        let allowed = "left alone: this policy has no parameter that can change while it runs";
        Err(Invalid::new(key, value, allowed))
    }

    /// Why the policy cannot decide any more, if it cannot: one that asks a process outside
    /// may get no answer. It turns the request at hand away then, and the simulation ends
    /// with this text.
    fn failure(&self) -> Option<String> {
        None
    }

    /// What the policy counted about itself since the run began, by name of the
    /// metric. Counts of several front ends are added up.
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

impl Verdict {
    /// To this worker, at once.
    pub fn send(worker: WorkerId) -> Self {
        Self::Send(worker)
    }
}

/// What becomes of a held request.
pub type Release = (RequestId, Result<WorkerId, RejectReason>);

/// One worker's cost, taken apart.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct CostParts {
    /// The worker.
    pub worker: WorkerId,
    /// What the policy compares; lower wins.
    pub cost: f64,
    /// Named addends or inputs of the cost.
    pub parts: Vec<(&'static str, f64)>,
}
