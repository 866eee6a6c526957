//! A progress bar, for people at a terminal only.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use kv_router_sim::experiment::Progress;
use std::io::IsTerminal;

/// Shows how many simulations are done.
#[derive(Debug)]
pub(super) struct Bar(ProgressBar);

impl Bar {
    /// A bar on stderr, or none if that is not a terminal.
    pub(super) fn new() -> Self {
        let target = if std::io::stderr().is_terminal() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let style = ProgressStyle::with_template(
            "{bar:40} {pos}/{len} simulations, {elapsed} so far, {eta} to go",
        );
        let bar = ProgressBar::with_draw_target(None, target);
        Self(bar.with_style(style.expect("a valid template")))
    }

    /// Takes the bar off the screen.
    pub(super) fn clear(&self) {
        self.0.finish_and_clear();
    }
}

impl Progress for Bar {
    fn started(&self, jobs: usize) {
        self.0.set_length(jobs as u64);
        self.0.tick();
    }

    fn job_done(&self) {
        self.0.inc(1);
    }
}
