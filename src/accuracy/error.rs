//! What can be wrong with measurements and with what is said of them.

use crate::engine::model::ModelError;
use crate::experiment::{ExperimentError, RunError};
use crate::report::view::published::PublishedError;
use crate::settings::Invalid;
use crate::simulation::Stuck;
use std::path::PathBuf;

/// Why nothing can be compared. The text of each is one line.
#[derive(Debug, thiserror::Error)]
pub enum AccuracyError {
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// The settings are not the TOML expected.
    #[error("{}:{line}: {problem}", path.display())]
    Toml {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },
    /// A row of a CSV cannot be used.
    #[error("{}:{line}: {problem}", path.display())]
    Row {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: u64,
        /// What is wrong, and what would do.
        problem: String,
    },
    /// A file without a row to use.
    #[error("{}: no rows", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A value of the settings that will not do.
    #[error("{}: {invalid}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The value.
        invalid: Invalid,
    },
    /// A part of a deployment that is not there or cannot be used.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// An experiment that cannot be read.
    #[error(transparent)]
    Experiment(#[from] ExperimentError),
    /// Published results that cannot be read.
    #[error(transparent)]
    Published(#[from] PublishedError),
    /// An experiment that names no published results, or none that it has a point for.
    #[error("{}: has no [published] results for any of its points", file.display())]
    Unpublished {
        /// The experiment.
        file: PathBuf,
    },
    /// An experiment that could not be run.
    #[error(transparent)]
    Run(#[from] RunError),
    /// An engine that cannot be configured for a deployment.
    #[error("{deployment}: engine.{invalid}")]
    Engine {
        /// The deployment.
        deployment: String,
        /// The key.
        invalid: Invalid,
    },
    /// A replay that came to no end.
    #[error("{run}: {source}")]
    Replay {
        /// The run that was replayed.
        run: String,
        /// Why.
        source: Stuck,
    },
    /// A file of the library has no line for a fitted value.
    #[error("{}: no line \"{key} = ...\" to put the fitted value into: add one", path.display())]
    NoPlace {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
    },
    /// Nothing can be fitted to so little.
    #[error("{count} {what}: too few to fit anything to")]
    TooFew {
        /// What there is.
        what: &'static str,
        /// How many.
        count: usize,
    },
    /// A replay in which requests were turned away, so that there is nothing to compare.
    #[error(
        "{run}: no request was served: the KV pool is too small for a prompt of this run; check \
         activation_gib and kv_memory_fraction of the engine's file"
    )]
    NothingServed {
        /// The run that was replayed.
        run: String,
    },
}
