//! Where there are no pipes to be polled.

use std::path::Path;
use std::time::Duration;

const ONLY_UNIX: &str = "routers in other languages run on Linux and macOS only";

/// Nothing runs.
pub fn end_all() {}

/// Lines to nowhere.
#[derive(Debug)]
pub(super) struct Link;

impl Link {
    pub(super) fn run(_: &[String], _: &Path) -> Result<Self, String> {
        Err(ONLY_UNIX.to_owned())
    }

    pub(super) fn connect(_: &Path, _: Duration) -> Result<Self, String> {
        Err(ONLY_UNIX.to_owned())
    }

    pub(super) fn ask(&mut self, _: &str, _: Duration) -> Result<String, String> {
        Err(ONLY_UNIX.to_owned())
    }

    pub(super) fn last_words(&mut self) -> Option<String> {
        None
    }

    pub(super) fn end(&mut self) -> bool {
        true
    }
}
