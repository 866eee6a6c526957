//! Where in a trace file something is wrong.

use super::TraceError;
use std::fmt::Display;
use std::io;
use std::path::Path;

/// Where the reader is, for errors.
#[derive(Clone, Copy)]
pub(super) struct RowPlace<'a> {
    pub(super) path: &'a Path,
    pub(super) line: usize,
}

impl RowPlace<'_> {
    pub(super) fn field(
        &self,
        field: &str,
        value: impl Display,
        allowed: impl Into<String>,
    ) -> TraceError {
        TraceError::Field {
            path: self.path.to_owned(),
            line: self.line,
            field: field.to_owned(),
            value: value.to_string(),
            allowed: allowed.into(),
        }
    }

    /// The row could not be read.
    pub(super) fn unread(&self, error: &io::Error) -> TraceError {
        self.row(format!("cannot be read: {error}"))
    }

    pub(super) fn row(&self, problem: impl Into<String>) -> TraceError {
        TraceError::Row { path: self.path.to_owned(), line: self.line, problem: problem.into() }
    }
}
