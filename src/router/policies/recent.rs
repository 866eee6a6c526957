//! Requests per second as the vLLM production stack counts them.

use crate::id::WorkerId;
use crate::time::{SimDuration, SimTime};
use crate::tournament::Tournament;
use std::collections::VecDeque;

/// Time over which requests are counted: the default of `--request-stats-window`.
const WINDOW: SimDuration = SimDuration::from_secs(60);

/// How many requests each worker was sent in the last minute.
#[derive(Debug)]
pub(super) struct RecentlySent {
    /// Oldest first.
    sent: VecDeque<(SimTime, WorkerId)>,
    /// The highest number for workers that are absent.
    requests: Tournament<u32>,
}

impl RecentlySent {
    pub(super) fn new(workers: u32) -> Self {
        Self { sent: VecDeque::new(), requests: Tournament::new(workers, 0, u32::MAX) }
    }

    /// The first worker, in order of id, with the fewest.
    pub(super) fn least(&mut self, now: SimTime) -> WorkerId {
        while let Some(&(_, worker)) = self.sent.front().filter(|(at, _)| now.since(*at) > WINDOW) {
            self.sent.pop_front();
            self.requests.set(worker.index(), self.requests.key(worker.index()) - 1);
        }
        // Those that are absent come last.
        let least = self.requests.least();
        WorkerId::at(self.requests.next_at_most(0, least).unwrap_or(0))
    }

    pub(super) fn note(&mut self, now: SimTime, worker: WorkerId) {
        self.sent.push_back((now, worker));
        self.requests.set(worker.index(), self.requests.key(worker.index()) + 1);
    }

    /// Requests of a worker that is there, as of the last look.
    pub(super) fn of(&self, worker: WorkerId) -> u32 {
        self.requests.key(worker.index())
    }

    pub(super) fn worker_left(&mut self, worker: WorkerId) {
        self.sent.retain(|(_, other)| *other != worker);
        self.requests.set(worker.index(), u32::MAX);
    }

    pub(super) fn worker_joined(&mut self, worker: WorkerId) {
        self.requests.set(worker.index(), 0);
    }
}
