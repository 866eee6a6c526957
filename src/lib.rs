//! A deterministic discrete-event simulator of LLM serving fleets: will
//! KV-cache-aware routing help, up to which load, and why does it stop?
//!
//! Workers model engines (continuous batching, chunked prefill, prefix caches
//! with the eviction of vLLM or TensorRT-LLM, CUDA graphs, overlap scheduling);
//! a router in front of them decides from what it has been told, as late as it
//! was told. The same experiment and seed give the same bytes.
//!
//! # From a program
//!
//! ```
//! use kv_router_sim::experiment::{Experiment, LoadOptions, RunOptions, run};
//! use std::path::Path;
//!
//! let mut options = LoadOptions::default();
//! for change in ["workload.concurrency=60", "measure.window=100s", "measure.seeds=1"] {
//!     options.overrides.push(change.to_owned());
//! }
//! let experiment = Experiment::load(Path::new("doks-3xh200"), &options)?;
//! let summary = run(&experiment, RunOptions::default())?.summary;
//! let hits = |point: usize| summary.points[point].metrics["hit_ratio"].mean;
//! // The sweep is over policies: round_robin, then kv.
//! assert!(hits(1) > hits(0));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Where to look first
//!
//! * [`simulation`]: a value that time can be put into; it joins workload, router and
//!   fleet.
//! * [`router`]: what a policy may see, and how to write one.
//! * [`engine`]: the life of a worker, and the exact fast-forward over its steps.
//! * [`fleet`]: workers in one pool or two, and what happens to them.
//! * [`queue`]: the order of events at one moment.
//! * [`experiment`]: from a TOML file to the metrics of every run.
//! * [`results`]: folders of results, written and read back.
//! * [`metrics`]: every metric, with its unit and definition.
//!
//! The folder `docs/` has the engines' rules, the formulas, the keys of the
//! files, and what is promised about determinism.

pub mod accuracy;
pub mod calibrate;
pub mod catalogue;
pub mod engine;
pub mod event;
pub mod experiment;
pub mod fleet;
pub mod frontier;
pub mod id;
pub mod kv;
#[cfg(feature = "live")]
pub mod live;
pub mod metrics;
pub mod plot;
pub mod queue;
pub mod recorder;
pub mod report;
pub mod request;
pub mod results;
pub mod rng;
pub mod router;
#[cfg(feature = "live")]
pub mod serve;
pub mod settings;
pub mod simulation;
pub mod stats;
pub mod time;
mod tournament;
pub mod truth;
pub mod workload;
