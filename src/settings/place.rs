//! Where a setting was given.

use std::fmt;
use std::path::{Path, PathBuf};

/// Where a setting was given.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
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

impl Place {
    /// The folder that a path given there is relative to; `None` for arguments.
    pub fn folder(&self) -> Option<&Path> {
        match self {
            Self::File(file) | Self::Line(file, _) | Self::Sweep(file, _) => {
                Some(file.parent().unwrap_or(Path::new("")))
            }
            Self::Argument(_) => None,
        }
    }

    /// The same without the line, which something else stands on.
    pub(super) fn without_line(self) -> Self {
        match self {
            Self::Line(file, _) => Self::File(file),
            other => other,
        }
    }
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

/// A setting that cannot be used. The text of each is one line: where, which key,
/// the value seen, the values allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
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
}

impl SettingsError {
    /// Where what is wrong was given.
    pub fn place(&self) -> &Place {
        match self {
            Self::Syntax { place, .. }
            | Self::UnknownKey { place, .. }
            | Self::Missing { place, .. }
            | Self::Value { place, .. } => place,
        }
    }
}
