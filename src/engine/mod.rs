//! One worker: an engine with its queue, batch, prefix cache, host and GPU.
//!
//! A worker lives from boundary to boundary. At a boundary the host handles the
//! results that are due and forms the next step; what a step does and when is
//! the business of five parts:
//!
//! * a `rank` has sequences and KV; where attention is data parallel a worker has several,
//!   which step together;
//! * a `scheduler` ([`rules`] has one for each engine) decides what runs, and owns the cache;
//! * [`step_time`] says how long it takes on the GPU, `timing` at the
//!   worker's pace;
//! * `pipeline` says when the boundaries are;
//! * `decode_set` keeps the decoding sequences without touching them.
//!
//! # Exact fast-forward
//!
//! While a batch only decodes, nothing that the outside can see happens until a
//! sequence ends, a request arrives or memory runs out. So a step that is
//! followed by such steps is planned together with them: the plan's end is a
//! closed form, and an arrival cuts the plan at the boundary that will see it.
//! Boundaries inside a plan are *settled* later, in order, when the plan ends or
//! when something looks (a router that wants cache events, a recorder that reads
//! gauges): settling takes the blocks that sequences needed and publishes cache
//! changes at the times at which they happened. With `fast_forward` off every
//! plan is one step long; everything else is the same code.
//!
//! # Files
//!
//! Each uses only what stands above it:
//!
//! | | |
//! |---|---|
//! | `work` `curves` `table` `dtype` `shape` `operator_file` `hardware` `config_weights` `config_json` `memory` `elementwise` `kernels` `roofline` `operators` `step_time` | what a step has to compute, and how long that takes on which GPU |
//! | `tiers` `rules` `config` | options of tiers and of engines, and the configuration of a worker |
//! | `seq` `decode_set` `pace` `step` `core` `loads` `timing` | what the rules of every engine work on |
//! | `scheduler` | what the rules of an engine must do; `rules::*::scheduler`: how each engine does it |
//! | `gauges` `outbox` `pipeline` `rank` `group_time` `plan` `worker` `on_demand` `truth` | one rank: what a step of it holds and announces; several that step together; when it happens, what is true |
//! | `settings` `model` | `[engine]` and model files as people write them |

mod balance;
pub mod config;
mod config_json;
mod config_weights;
mod core;
mod curves;
mod decode_set;
mod dtype;
mod elementwise;
mod gauges;
mod group_time;
mod hardware;
pub mod kernels;
mod loads;
pub mod memory;
pub mod model;
mod on_demand;
pub mod operator_file;
pub mod operators;
mod outbox;
mod pace;
mod pipeline;
mod plan;
mod rank;
pub mod roofline;
pub mod rules;
mod scheduler;
mod seq;
pub mod settings;
mod shape;
mod shared_kv;
mod step;
pub mod step_time;
pub mod table;
pub mod tiers;
mod timing;
mod truth;
mod work;
mod worker;

pub use gauges::Gauges;
pub use outbox::{Outbox, StepRecord, Wake};
pub use pace::Pace;
pub use worker::Worker;
