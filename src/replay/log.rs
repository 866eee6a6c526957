//! The form of a log of decisions: the lines of an external router, each with its answer.

use crate::router::external::wire::{Choice, Hello, Moment, Releases, Route};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, Read};

/// A line is at most so long: a million events.
const MOST_LINE_BYTES: u64 = 256 << 20;

/// A line of a log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Line {
    /// The facts of the fleet: the first line.
    Hello(Hello),
    /// A decision about a request that came.
    Route {
        /// What was asked.
        #[serde(flatten)]
        route: Route,
        /// What was decided.
        answer: Choice,
    },
    /// A decision about requests that were held.
    Release {
        /// What was known.
        #[serde(flatten)]
        moment: Moment,
        /// What was decided.
        answer: Releases,
    },
}

/// A log that cannot be read or compared.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct LogError {
    /// The number of the line, from 1.
    pub line: u64,
    /// What is wrong with it.
    pub problem: String,
}

impl LogError {
    pub(super) fn new(line: u64, problem: impl Into<String>) -> Self {
        Self { line, problem: problem.into() }
    }
}

/// The lines of a text, one after the other.
#[derive(Debug)]
pub struct Lines<R> {
    text: R,
    number: u64,
}

impl<R: BufRead> Lines<R> {
    /// From the beginning of `text`.
    pub fn new(text: R) -> Self {
        Self { text, number: 0 }
    }

    fn read(&mut self) -> Result<Option<Line>, LogError> {
        let mut bytes = Vec::new();
        if !next_line(&mut self.text, &mut self.number, &mut bytes)? {
            return Ok(None);
        }
        let line = serde_json::from_slice(&bytes);
        let wrong = |error: serde_json::Error| {
            LogError::new(self.number, format!("is no line of a log of decisions: {error}"))
        };
        line.map(Some).map_err(wrong)
    }
}

/// Reads the next line that is not blank into `bytes` and counts lines; false at the end.
pub(super) fn next_line(
    text: &mut impl BufRead,
    number: &mut u64,
    bytes: &mut Vec<u8>,
) -> Result<bool, LogError> {
    loop {
        *number += 1;
        bytes.clear();
        let read = text.by_ref().take(MOST_LINE_BYTES).read_until(b'\n', bytes);
        let read = read.map_err(|error| LogError::new(*number, error.to_string()))?;
        if read as u64 == MOST_LINE_BYTES {
            let problem = format!("is longer than {MOST_LINE_BYTES} bytes");
            return Err(LogError::new(*number, problem));
        }
        if read == 0 || !bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(read > 0);
        }
    }
}

impl<R: BufRead> Iterator for Lines<R> {
    /// A line with its number.
    type Item = Result<(u64, Line), LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        let line = self.read().transpose()?;
        Some(line.map(|line| (self.number, line)))
    }
}
