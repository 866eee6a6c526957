//! A progress bar, for people at a terminal only.

use super::talk::{self, Verbosity};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use kv_router_sim::experiment::JobProgress;
use std::io::IsTerminal;
use std::time::Duration;

/// Shows how many simulations are done. A clone counts the same ones.
#[derive(Clone, Debug)]
pub(super) struct Bar(ProgressBar);

impl Bar {
    /// A bar on stderr, or none if that is not a terminal or is to stay quiet.
    pub(super) fn new() -> Self {
        let is_wanted = std::io::stderr().is_terminal() && talk::level() > Verbosity::Quiet;
        let target =
            if is_wanted { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let style = ProgressStyle::with_template(
            "{bar:40} {pos}/{len} simulations, {elapsed} so far, {eta} to go",
        );
        let bar = ProgressBar::with_draw_target(None, target);
        Self(bar.with_style(style.expect("a valid template")))
    }

    /// Simulations that are done, and all of them.
    pub(super) fn count(&self) -> (u64, u64) {
        (self.0.position(), self.0.length().unwrap_or(0))
    }

    /// Time since the bar was made.
    pub(super) fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }

    /// Takes the bar off the screen.
    pub(super) fn clear(&self) {
        self.0.finish_and_clear();
    }
}

impl JobProgress for Bar {
    fn resumed(&self, found: usize, all: usize) {
        talk::say(&format!("going on: {found} of {all} simulations were done before"));
    }

    fn started(&self, jobs: usize) {
        self.0.set_length(jobs as u64);
        self.0.tick();
    }

    fn job_done(&self) {
        self.0.inc(1);
    }
}
