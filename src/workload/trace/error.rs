//! What can be wrong with a trace.

use super::PublicTrace;
use crate::settings::Invalid;
use serde_json::Value;
use std::io;
use std::path::{Path, PathBuf};

/// A trace that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The file could not be read.
    #[error("{}: cannot read the trace: {reason}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        reason: String,
    },
    /// A line is no row of a trace.
    #[error("{}:{line}: {problem}", path.display())]
    Row {
        /// The file.
        path: PathBuf,
        /// Its line, from 1.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// A field has a value that cannot be replayed.
    #[error("{}:{line}: {field} = {value}: must be {allowed}", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// Its line, from 1.
        line: usize,
        /// Name of the field.
        field: String,
        /// The value seen.
        value: String,
        /// The values allowed.
        allowed: String,
    },
    /// The file has no format that is read.
    #[error("{}: {problem}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What it looks like, what it lacks, and which formats there are.
        problem: String,
    },
    /// The file has no rows.
    #[error("{}: no requests", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A public trace is not on this machine.
    #[error(
        "trace {:?} is not here (looked for {} in {}): {}; then set SIM_TRACES to its folder",
        trace.name, trace.file, folders(looked_in), trace.how_to_get()
    )]
    NotHere {
        /// The trace.
        trace: &'static PublicTrace,
        /// Folders without it.
        looked_in: Vec<String>,
    },
    /// A file is not the public trace that its name says.
    #[error("{}: not trace {:?}, {seen}: {}", path.display(), trace.name, trace.how_to_get())]
    Other {
        /// The file.
        path: PathBuf,
        /// The trace expected.
        trace: &'static PublicTrace,
        /// Its SHA-256, or its number of rows where that of the trace is not known.
        seen: String,
    },
    /// A setting does not fit the trace.
    #[error(transparent)]
    Setting(#[from] Invalid),
}

fn folders(looked_in: &[String]) -> String {
    if looked_in.is_empty() { "no folder".to_owned() } else { looked_in.join(", ") }
}

impl TraceError {
    pub(super) fn read(path: &Path, error: &io::Error) -> Self {
        Self::Read { path: path.to_owned(), reason: error.to_string() }
    }
}

/// A value as messages show it.
pub(super) fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}
