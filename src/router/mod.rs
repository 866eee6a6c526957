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
//! | gauges that workers report | [`WorkerView::reported`] | as old as the last report, if the policy has a [`Policy::report_period`] |
//!
//! # A policy of your own
//!
//! A type with [`Policy::route`], and a [`PolicySpec`] that names it. A program
//! that uses this crate hands that to
//! [`LoadOptions`](crate::experiment::LoadOptions), and experiments can name and
//! sweep it as any other:
//!
//! ```
//! use kv_router_sim::experiment::{Experiment, LoadOptions, RunOptions, run};
//! use kv_router_sim::id::WorkerId;
//! use kv_router_sim::request::RouteRequest;
//! use kv_router_sim::router::{ClusterView, Policy, PolicySpec, Verdict};
//! use kv_router_sim::settings::Invalid;
//! use kv_router_sim::time::SimTime;
//! use std::path::Path;
//!
//! /// The first worker, in order of id, that has room.
//! struct FirstWithRoom {
//!     room: u32,
//! }
//!
//! impl Policy for FirstWithRoom {
//!     fn route(&mut self, _: SimTime, _: &RouteRequest<'_>, view: &ClusterView<'_>) -> Verdict {
//!         let has_room = |&worker: &u32| view.workers[worker as usize].inflight < self.room;
//!         let found = (0u32..).take(view.workers.len()).find(has_room);
//!         Verdict::Send(WorkerId(found.unwrap_or(0)))
//!     }
//! }
//!
//! /// `[router.own]`, where the parameters of such policies stand.
//! #[derive(serde::Deserialize)]
//! #[serde(deny_unknown_fields)]
//! struct Own {
//!     room: u32,
//! }
//!
//! const FIRST_WITH_ROOM: PolicySpec = PolicySpec::new("first_with_room", |settings, _, _| {
//!     let room = settings.own::<Own>().map_or(1, |own| own.room);
//!     Box::new(FirstWithRoom { room })
//! })
//! .with_check(|settings| settings.own::<Own>().map(drop));
//!
//! let mut options = LoadOptions { policies: vec![FIRST_WITH_ROOM], ..LoadOptions::default() };
//! for change in [
//!     "workload.concurrency=60",
//!     "measure.window=100s",
//!     "measure.seeds=1",
//!     "router.own.room=32",
//!     r#"sweep.router.policy=["round_robin", "first_with_room"]"#,
//! ] {
//!     options.overrides.push(change.to_owned());
//! }
//! let experiment = Experiment::load(Path::new("experiments/doks-3xh200.toml"), &options)?;
//! let summary = run(&experiment, RunOptions::default())?.summary;
//! let skew = |point: usize| summary.points[point].metrics["inflight_skew_mean"].mean;
//! assert!(skew(1) > skew(0));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! In this crate the type and its `PolicySpec`, called `POLICY`, are one file in
//! `policies/`, and its name is one line in the list there.

pub mod decider;
pub mod disaggregated;
#[cfg(feature = "dynamo")]
pub mod dynamo;
pub mod feed;
pub mod front_end;
pub mod kv;
pub mod policies;
pub mod queued;
mod sample;
mod select;
pub mod settings;
pub mod shadow;
mod spec;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod view;

pub use front_end::FrontEnd;
pub use spec::PolicySpec;
pub use view::{ClusterView, Reported, WorkerView, Workers};

use crate::event::{KvEvent, RejectReason, WorkerEvent};
use crate::id::{RequestId, WorkerId};
use crate::request::RouteRequest;
use crate::settings::Invalid;
use crate::time::{SimDuration, SimTime};
use policies::oracle::Oracle;

/// The facts about a fleet that a router is configured with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClusterSpec {
    /// Number of workers that there can ever be, with ids `0..workers`.
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
    /// and of the requests there is to be forgotten. [`WorkerView::available`] is
    /// false from now on.
    fn worker_left(&mut self, _worker: WorkerId) {}

    /// Hears that `worker` takes requests, with an empty cache.
    fn worker_joined(&mut self, _worker: WorkerId) {}

    /// Changes a parameter while the policy runs; `key` is its key in `[router]`.
    ///
    /// # Errors
    /// If the policy has no such parameter that can change, or not to that value.
    fn set_parameter(&mut self, key: &str, value: f64) -> Result<(), Invalid> {
        let allowed = "left out: the policy that runs has no parameter of that name that can \
                       change while it runs";
        Err(Invalid::new(key, value, allowed))
    }

    /// The oracle, which alone is shown the true state of the fleet: nothing that
    /// another policy gets has it.
    fn as_oracle(&mut self) -> Option<&mut Oracle> {
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

/// What becomes of a held request.
pub type Release = (RequestId, Result<WorkerId, RejectReason>);

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
