//! A deterministic discrete-event simulator of LLM serving fleets: will
//! KV-cache-aware routing help, up to which load, and why does it stop?
//!
//! Workers model engines (continuous batching, chunked prefill, prefix caches
//! with the eviction of vLLM or TensorRT-LLM, CUDA graphs, overlap scheduling);
//! the router in front of them decides from what it knows, and knows it late. The
//! same experiment and seed give the same bytes.
//!
//! # Run an experiment
//!
//! ```
//! use kv_router_sim::{Experiment, LoadOptions, RunOptions, run};
//!
//! let options = LoadOptions::default()
//!     .set("workload.concurrency=60")
//!     .set("measure.window=100s")
//!     .set("measure.seeds=1");
//! let experiment = Experiment::load("doks-3xh200".as_ref(), &options)?;
//! let summary = run(&experiment, RunOptions::default())?.summary;
//! let hits = |point: usize| summary.points[point].metrics["hit_ratio"].mean;
//! // The sweep is over policies: round_robin, then kv.
//! assert!(hits(1) > hits(0));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What a program needs
//!
//! All of it is in the root of the crate; `examples/` has a program for each row.
//!
//! | to | use |
//! |---|---|
//! | load and run an experiment | [`Experiment`], [`LoadOptions`], [`run()`], [`RunOptions`] |
//! | read results | [`Summary`]; [`run_into`], [`ResultFolder`] and [`Results`] for a folder of them; [`Metric`] |
//! | route by a policy of your own | [`Policy`], [`Parameters`], [`Registration`], [`ClusterView`], [`RouteRequest`], [`Verdict`] |
//! | send requests of your own | [`Workload`], [`Arrival`], [`Request`], [`RunSpec::simulation_of`] |
//! | step, watch and steer a simulation | [`RunSpec::simulation`], [`Simulation`], [`Snapshot`], [`Observer`], [`Control`] |
//! | keep time | [`SimTime`], [`SimDuration`] |
//!
//! Modules that are not documented here serve the program `sim`, the tests, the
//! benchmarks and the fuzz targets, and may change with any release;
//! `RUSTDOCFLAGS="--cfg internals" cargo doc` documents them too. The folder `docs/` of
//! the repository describes the engines' rules, the formulas, the keys of experiments
//! and the guarantees of determinism.

#[cfg_attr(not(internals), doc(hidden))]
pub mod accuracy;
#[cfg_attr(not(internals), doc(hidden))]
pub mod calibrate;
#[cfg_attr(not(internals), doc(hidden))]
pub mod catalogue;
#[cfg_attr(not(internals), doc(hidden))]
pub mod engine;
#[cfg_attr(not(internals), doc(hidden))]
pub mod event;
#[cfg_attr(not(internals), doc(hidden))]
pub mod experiment;
#[cfg_attr(not(internals), doc(hidden))]
pub mod exposition;
#[cfg_attr(not(internals), doc(hidden))]
pub mod fleet;
#[cfg_attr(not(internals), doc(hidden))]
pub mod frontier;
#[cfg(feature = "live")]
mod http;
#[cfg_attr(not(internals), doc(hidden))]
pub mod id;
#[cfg_attr(not(internals), doc(hidden))]
pub mod import;
mod json;
#[cfg_attr(not(internals), doc(hidden))]
pub mod kv;
#[cfg(feature = "live")]
#[cfg_attr(not(internals), doc(hidden))]
pub mod live;
#[cfg_attr(not(internals), doc(hidden))]
pub mod metrics;
#[cfg_attr(not(internals), doc(hidden))]
pub mod plot;
#[cfg_attr(not(internals), doc(hidden))]
pub mod queue;
#[cfg_attr(not(internals), doc(hidden))]
pub mod recommend;
#[cfg_attr(not(internals), doc(hidden))]
pub mod recorder;
#[cfg_attr(not(internals), doc(hidden))]
pub mod replay;
#[cfg_attr(not(internals), doc(hidden))]
pub mod report;
#[cfg_attr(not(internals), doc(hidden))]
pub mod request;
#[cfg_attr(not(internals), doc(hidden))]
pub mod results;
#[cfg_attr(not(internals), doc(hidden))]
pub mod rng;
#[cfg_attr(not(internals), doc(hidden))]
pub mod router;
#[cfg(feature = "live")]
#[cfg_attr(not(internals), doc(hidden))]
pub mod serve;
#[cfg_attr(not(internals), doc(hidden))]
pub mod settings;
#[cfg_attr(not(internals), doc(hidden))]
pub mod simulation;
#[cfg_attr(not(internals), doc(hidden))]
pub mod stats;
#[cfg_attr(not(internals), doc(hidden))]
pub mod time;
mod tournament;
#[cfg_attr(not(internals), doc(hidden))]
pub mod truth;
#[cfg(feature = "ui")]
#[cfg_attr(not(internals), doc(hidden))]
pub mod ui;
#[cfg_attr(not(internals), doc(hidden))]
pub mod workload;

// Experiments and their results.
#[doc(inline)]
pub use experiment::results::{
    LatencyCurve, LatencyCurves, MetricValue, Point, Provenance, Summary,
};
#[doc(inline)]
pub use experiment::{
    Experiment, ExperimentError, ExperimentOutcome, JobProgress, LoadOptions, Params, RunError,
    RunOptions, RunSpec, SimulationRequests, Stop, StoreError, run,
};
#[doc(inline)]
pub use metrics::{Better, Metric, MetricKind, Statistic};
#[doc(inline)]
pub use recorder::{End, Refused, RequestRecord};
#[doc(inline)]
pub use results::{ReadError, ReportError, ResultFolder, Results, RunInto, Saved, run_into};

// A simulation, stepped, watched and steered.
#[doc(inline)]
pub use fleet::SimulatedFleet;
#[doc(inline)]
pub use fleet::changes::{ChangeKind, WorkerChange, WorkerEffect};
#[doc(inline)]
pub use recorder::{Metrics, Recent};
#[doc(inline)]
pub use simulation::{
    Control, Happening, LiveRequest, Observer, Outcome, Progress, Simulation, Snapshot, Stuck,
    Whereabouts, WorkerSnapshot, controls_toml,
};

// Policies, and what they see.
#[doc(inline)]
pub use event::{KvEvent, Medium, Refusal, RejectReason, WorkerEvent, WorkerEventKind};
#[doc(inline)]
pub use id::{BlockId, ConversationId, RequestId, WorkerId};
#[doc(inline)]
pub use request::{BlockRun, PromptBlocks, RouteRequest};
#[doc(inline)]
pub use router::{
    About, ClusterSpec, ClusterView, CostParts, NoParameters, Origin, Parameter, Parameters,
    Policy, PolicyFactory, Registration, Release, Reported, Role, Surroundings, Verdict, Version,
    WorkerLimits, WorkerView, check_range,
};
#[doc(inline)]
pub use settings::{Invalid, Place, SettingsError};
#[doc(inline)]
pub use truth::WorkerTruth;

// Workloads.
#[doc(inline)]
pub use request::{Content, Request};
#[doc(inline)]
pub use workload::{Arrival, Listed, Patience, Workload};

#[doc(inline)]
pub use time::{SimDuration, SimTime};
