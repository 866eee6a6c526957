//! Experiments: from a TOML file to a saved result set.
//!
//! An experiment file names a fleet, a router and a workload, says what to
//! measure, and which keys to sweep. [`Experiment::load`] checks all of it,
//! every combination of swept values included, before anything runs;
//! [`run()`] simulates every run with every seed, in parallel, with the same
//! bytes out for any number of threads; [`Store`] keeps the results, and a
//! [`Journal`] what is done of a run that may be killed.
//!
//! The document stays a TOML table until all overrides and swept values are in
//! it. So any key can be swept or overridden, with one set of checks, and every
//! message can name the line, the axis or the argument that a value came from.

mod axis;
mod cluster;
mod controls;
mod document;
mod effects;
mod error;
pub mod explain;
mod files;
mod journal;
mod load;
mod measure;
mod measured;
mod recording;
mod rejected;
pub mod results;
mod run;
mod run_spec;
mod schema;
mod shard;
mod simulate;
mod store;
mod sweep;
pub mod timeline;

pub use cluster::ClusterSettings;
#[cfg(feature = "ui")]
pub(crate) use controls::check as check_control;
pub use error::ExperimentError;
pub use files::{
    StoreError, check_writable, is_stream, read_at_most, write_file, write_file_with, write_files,
};
pub use journal::{Journal, JournalError};
pub use load::{Experiment, LoadOptions};
pub(crate) use load::{LEVEL_KEYS, hex, model_of};
pub use measure::{Levels, MeasureSettings, QuantileKind, SloSettings};
pub use measured::check_measured;
pub use recording::{RecordError, Recording, record};
pub use rejected::rejections;
#[cfg(feature = "live")]
pub(crate) use run::summarise;
pub use run::{
    ExperimentOutcome, JobProgress, NoProgress, RunError, RunOptions, SimulationRequests, run,
    run_shard,
};
#[cfg(feature = "columns")]
pub(crate) use run::{journaled, points, run_journaled};
pub(crate) use run::{lacking, parts_lacking, threads};
pub use run_spec::{Params, RunSpec, Settings};
pub use schema::schema;
pub use shard::Shard;
#[cfg(feature = "ui")]
pub(crate) use simulate::steerable_fleet;
pub use simulate::{RunOutcome, Stop, Watch, simulate, simulation};
pub(crate) use simulate::{front_ends, play, policy_seed, simulated_fleet};
pub use store::{Existing, Footprint, RUNS_FILE, SHARD_FILE, SUMMARY_FILE, Staged, Store};

#[cfg(test)]
mod tests;
