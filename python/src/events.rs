//! What workers announce, as Python's objects.

use kv_router_sim::{self as sim, Medium, WorkerEventKind};
use pyo3::prelude::*;

/// A change in the life of a request that its worker makes visible.
#[pyclass(frozen, get_all, module = "kv_router_sim")]
pub(crate) struct WorkerEvent {
    kind: &'static str,
    worker: u32,
    request: u32,
    cached_tokens: Option<u32>,
    output_tokens: Option<u32>,
    reason: Option<String>,
}

impl WorkerEvent {
    pub(crate) fn of(event: &sim::WorkerEvent) -> Self {
        let (mut cached_tokens, mut output_tokens, mut reason) = (None, None, None);
        let kind = match event.kind {
            WorkerEventKind::Scheduled { cached_tokens: tokens } => {
                cached_tokens = Some(tokens);
                "scheduled"
            }
            WorkerEventKind::CacheHit { cached_tokens: tokens } => {
                cached_tokens = Some(tokens);
                "cache_hit"
            }
            WorkerEventKind::Prefilled => "prefilled",
            WorkerEventKind::KvReceived { .. } => "kv_received",
            WorkerEventKind::Loaded { .. } => "loaded",
            WorkerEventKind::Preempted => "preempted",
            WorkerEventKind::FirstToken => "first_token",
            WorkerEventKind::OutputBlock { output_tokens: tokens } => {
                output_tokens = Some(tokens);
                "output_block"
            }
            WorkerEventKind::Finished { output_tokens: tokens } => {
                output_tokens = Some(tokens);
                "finished"
            }
            WorkerEventKind::Rejected(why) => {
                reason = Some(why.to_string());
                "rejected"
            }
            WorkerEventKind::Aborted => "aborted",
            WorkerEventKind::Failed => "failed",
            _ => "other",
        };
        let (worker, request) = (event.worker.0, event.request.0);
        Self { kind, worker, request, cached_tokens, output_tokens, reason }
    }
}

#[pymethods]
impl WorkerEvent {
    fn __repr__(&self) -> String {
        let Self { kind, worker, request, .. } = self;
        format!("<WorkerEvent {kind}: request {request}, worker {worker}>")
    }
}

/// A change of a worker's prefix cache, as its engine publishes it.
#[pyclass(frozen, module = "kv_router_sim")]
pub(crate) struct KvEvent(sim::KvEvent);

impl KvEvent {
    pub(crate) fn of(event: &sim::KvEvent) -> Self {
        Self(*event)
    }
}

#[pymethods]
impl KvEvent {
    /// `"stored"` or `"removed"`.
    #[getter]
    fn kind(&self) -> &'static str {
        match self.0 {
            sim::KvEvent::Stored { .. }
            | sim::KvEvent::StoredApart { .. }
            | sim::KvEvent::StoredBelow { .. } => "stored",
            _ => "removed",
        }
    }

    /// Where: `"gpu"`, or the tier below it.
    #[getter]
    fn medium(&self) -> &'static str {
        match self.0 {
            sim::KvEvent::StoredBelow { medium, .. }
            | sim::KvEvent::RemovedBelow { medium, .. } => Medium::name(medium),
            _ => "gpu",
        }
    }

    /// The number of the group of layers that keeps KV apart, if it is one.
    #[getter]
    fn group(&self) -> Option<u32> {
        match self.0 {
            sim::KvEvent::StoredApart { group, .. } | sim::KvEvent::RemovedApart { group, .. } => {
                Some(group)
            }
            _ => None,
        }
    }

    /// The block before the first one that was stored, unless a sequence starts there.
    #[getter]
    fn parent(&self) -> Option<u64> {
        match self.0 {
            sim::KvEvent::Stored { parent, .. } => parent.map(|block| block.0),
            _ => None,
        }
    }

    /// The first block; the others have the numbers that follow.
    #[getter]
    fn first(&self) -> u64 {
        self.0.run().first.0
    }

    #[getter]
    fn blocks(&self) -> Vec<u64> {
        self.0.run().ids().map(|block| block.0).collect()
    }

    fn __len__(&self) -> usize {
        self.0.run().len as usize
    }

    fn __repr__(&self) -> String {
        let run = self.0.run();
        format!(
            "<KvEvent {} in {}: {} blocks from {}>",
            self.kind(),
            self.medium(),
            run.len,
            run.first
        )
    }
}
