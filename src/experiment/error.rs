//! What can be wrong with an experiment file, in one line each.

use crate::settings::{Place, SettingsError};
use std::path::PathBuf;

/// An experiment that cannot be run as written. The text of each is one line:
/// where, which key, the value seen, the values allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExperimentError {
    /// The file is missing, a folder, or may not be read.
    #[error("{}: cannot be read: {reason}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the operating system says.
        reason: String,
    },
    /// The file is not text.
    #[error("{place}: not UTF-8 text: an experiment is a TOML file")]
    NotUtf8 {
        /// The first bad byte.
        place: Place,
    },
    /// A setting that cannot be used.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// A file that the workload needs.
    #[error("{place}: the workload cannot be loaded: {problem}")]
    Workload {
        /// The `[workload]` section.
        place: Place,
        /// Which file, and why.
        problem: String,
    },
    /// Something that is wrong at one point of the sweep only.
    #[error("{source} (at the point {point})")]
    AtPoint {
        /// The swept values of the point.
        point: String,
        /// What is wrong.
        source: Box<ExperimentError>,
    },
    /// An override that is not `KEY=VALUE`.
    #[error("{called} {argument}: must be KEY=VALUE with a dotted key, like measure.window=60s")]
    Override {
        /// [`LoadOptions::overrides_called`](super::LoadOptions::overrides_called).
        called: String,
        /// The argument as typed.
        argument: String,
    },
}
