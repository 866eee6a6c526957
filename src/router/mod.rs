//! Routing: the [`Policy`] trait and everything a policy may look at.
//!
//! A router decides from what it knows. It learns in four ways, each with its own
//! freshness:
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
//! A type with [`Policy::route`], a type for its [parameters](Parameters), and a
//! [`Registration`] that joins them under a name. A program that uses this crate
//! hands that to [`LoadOptions`](crate::experiment::LoadOptions), and experiments
//! can name and sweep the policy and its parameters as any other:
//!
//! ```
//! use kv_router_sim::experiment::{Experiment, LoadOptions, RunOptions, run};
//! use kv_router_sim::id::WorkerId;
//! use kv_router_sim::request::RouteRequest;
//! use kv_router_sim::router::{ClusterView, Parameters, Policy, Registration, Verdict};
//! use kv_router_sim::time::SimTime;
//! use schemars::JsonSchema;
//! use serde::{Deserialize, Serialize};
//! use std::path::Path;
//!
//! /// The first worker, in order of id, that has room.
//! #[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
//! #[serde(default)]
//! struct FirstWithRoom {
//!     /// Requests that a worker may have in flight.
//!     room: u32,
//! }
//!
//! impl Parameters for FirstWithRoom {}
//!
//! impl Policy for FirstWithRoom {
//!     fn route(&mut self, _: SimTime, _: &RouteRequest<'_>, view: &ClusterView<'_>) -> Verdict {
//!         let has_room = |&worker: &u32| view.workers[worker as usize].inflight < self.room;
//!         let found = (0u32..).take(view.workers.len()).find(has_room);
//!         Verdict::send(WorkerId(found.unwrap_or(0)))
//!     }
//! }
//!
//! let rule = "the first worker that has room";
//! let own = Registration::new("first_with_room", rule, |own: &FirstWithRoom, _, _| own.clone());
//! let options = LoadOptions::default().policy(own).set_all([
//!     "workload.concurrency=60",
//!     "measure.window=100s",
//!     "measure.seeds=1",
//!     "router.policy=first_with_room",
//!     "sweep.router.room=[20, 60]",
//! ]);
//! let experiment = Experiment::load(Path::new("experiments/doks-3xh200.toml"), &options)?;
//! let summary = run(&experiment, RunOptions::default())?.summary;
//! let skew = |point: usize| summary.points[point].metrics["inflight_skew_mean"].mean;
//! assert!(skew(1) > skew(0));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! In this crate all of that is one file in `policies/`, and its name is one line
//! in the list there.

pub mod admission;
mod by_cost;
mod cost_settings;
pub mod decider;
pub mod disaggregated;
#[cfg(feature = "dynamo")]
pub mod dynamo;
pub mod external;
mod factory;
pub mod feed;
mod forward;
pub mod front_end;
mod front_end_settings;
pub mod kv;
mod parameters;
pub mod policies;
mod policy;
pub mod queued;
mod registry;
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
pub(crate) mod whole;

pub use factory::{About, Origin, PolicyFactory, Registration, Version, Wants};
pub(crate) use forward::{forward, forward_one};
pub use front_end::FrontEnd;
pub use parameters::{
    LEAST_REPORT_PERIOD, NoParameters, Parameter, Parameters, Surroundings, change, check_range,
};
pub use policy::{CostParts, Policy, Release, Verdict};
pub use registry::{ChosenPolicy, Registry};
pub use spec::{ClusterSpec, Rank, Role, Sides, WorkerLimits};
pub use view::{ClusterView, Reported, WorkerView, Workers};
