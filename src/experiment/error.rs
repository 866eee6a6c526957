//! What can be wrong with an experiment file, in one line each.

use std::fmt;
use std::path::PathBuf;

/// Where a setting was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Somewhere in a file; for what is missing from it.
    File(PathBuf),
    /// A line of a file, from 1.
    Line(PathBuf, usize),
    /// A value that the `[sweep]` section, at this line of a file, puts in.
    Sweep(PathBuf, usize),
    /// An argument of the command line, as typed.
    Argument(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(file) => write!(f, "{}", file.display()),
            Self::Line(file, line) => write!(f, "{}:{line}", file.display()),
            Self::Sweep(file, line) => write!(f, "{}:{line} (swept)", file.display()),
            Self::Argument(argument) => f.write_str(argument),
        }
    }
}

/// An experiment that cannot be run as written. The text of each is one line:
/// where, which key, the value seen, the values allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
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
    /// The text is not TOML.
    #[error("{place}: not valid TOML: {problem}")]
    Syntax {
        /// The line.
        place: Place,
        /// What the parser says.
        problem: String,
    },
    /// A key that nothing reads.
    #[error("{place}: unknown key {key}{hint}")]
    UnknownKey {
        /// Where it was given.
        place: Place,
        /// Dotted key.
        key: String,
        /// The nearest valid name, or all of them.
        hint: String,
    },
    /// A key that must be given.
    #[error("{place}: {key} is missing{hint}")]
    Missing {
        /// The file, or the section in it.
        place: Place,
        /// Dotted key.
        key: String,
        /// Why it is needed, if that depends on other settings.
        hint: String,
    },
    /// A value that will not do.
    #[error("{place}: {key} = {value}: {problem}")]
    Value {
        /// Where it was given.
        place: Place,
        /// Dotted key.
        key: String,
        /// The value seen.
        value: String,
        /// The values allowed, or why not this one.
        problem: String,
    },
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
    #[error("--set {argument}: must be KEY=VALUE with a dotted key, like measure.window=60s")]
    Override {
        /// The argument as typed.
        argument: String,
    },
}
