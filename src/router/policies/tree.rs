//! The tree of prompts that gateways keep which hear nothing of caches: what was sent where,
//! and how much to whom.

use super::sent::{Match, SentPrompts};
use crate::id::WorkerId;
use crate::request::RouteRequest;
use crate::router::kv::WorkerSet;
use crate::tournament::Tournament;

/// Prompts by worker, whole blocks.
#[derive(Debug)]
pub(super) struct PromptTree {
    sent: SentPrompts,
    /// How many blocks were sent to each worker and not forgotten; out of reach for
    /// those that are absent.
    sent_blocks: Tournament<f64>,
    absent: WorkerSet,
    workers: u32,
}

impl PromptTree {
    pub(super) fn new(workers: u32) -> Self {
        Self {
            sent: SentPrompts::new(workers),
            sent_blocks: Tournament::new(workers, 0.0, f64::INFINITY),
            absent: WorkerSet::default(),
            workers,
        }
    }

    /// The longest beginning of the prompt that was sent anywhere.
    pub(super) fn longest(&self, request: &RouteRequest<'_>) -> Match {
        self.sent.longest(request.blocks)
    }

    /// Notes that `worker` gets `request`: from the end, so that leaves are forgotten
    /// before what they hang on.
    pub(super) fn insert(&mut self, request: &RouteRequest<'_>, worker: WorkerId) {
        let blocks = request.blocks;
        self.sent.insert(worker, (0..blocks.len()).rev().map(|at| blocks.get(at)));
        self.note(worker);
    }

    /// Forgets the least recent blocks of every worker until it has at most `most_blocks`.
    pub(super) fn shrink(&mut self, most_blocks: u32) {
        for worker in (0..self.workers).map(WorkerId) {
            self.sent.shrink(worker, most_blocks);
            self.note(worker);
        }
    }

    /// Blocks sent to each worker, for choices of the least.
    pub(super) fn sent_blocks(&self) -> &Tournament<f64> {
        &self.sent_blocks
    }

    /// Blocks sent to `worker`, wherever it is.
    pub(super) fn held_blocks(&self, worker: WorkerId) -> u32 {
        self.sent.held_blocks(worker)
    }

    /// The workers to which the least was sent, in order of id.
    pub(super) fn smallest(&self) -> impl Iterator<Item = WorkerId> + '_ {
        let least = self.sent_blocks.least();
        let mut from = 0;
        std::iter::from_fn(move || {
            let at = self.sent_blocks.next_at_most(from, least)?;
            from = at + 1;
            Some(WorkerId::at(at))
        })
    }

    pub(super) fn worker_left(&mut self, worker: WorkerId) {
        self.sent.remove_worker(worker);
        self.absent.insert(worker);
        self.note(worker);
    }

    pub(super) fn worker_joined(&mut self, worker: WorkerId) {
        self.absent.remove(worker);
        self.note(worker);
    }

    fn note(&mut self, worker: WorkerId) {
        let is_absent = self.absent.contains(worker);
        let held_blocks = f64::from(self.sent.held_blocks(worker));
        self.sent_blocks.set(worker.index(), if is_absent { f64::INFINITY } else { held_blocks });
    }
}
