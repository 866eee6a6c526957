//! When an output grows into another block: glue of the production front end,
//! which counts the tokens that pass through it and tells its tracker.

use crate::event::{WorkerEvent, WorkerEventKind};
use crate::id::RequestId;
use std::collections::BTreeMap;

/// Prompt tokens and blocks so far of every request in flight.
pub(super) struct OutputTracking {
    block_size: usize,
    expected_tokens: Option<u32>,
    requests: BTreeMap<RequestId, Progress>,
}

struct Progress {
    prompt_tokens: usize,
    blocks: usize,
}

impl OutputTracking {
    pub(super) fn new(block_size: u32, expected_tokens: Option<u32>) -> Self {
        let block_size = block_size as usize;
        Self { block_size, expected_tokens, requests: BTreeMap::new() }
    }

    pub(super) fn book(&mut self, request: RequestId, prompt_tokens: usize) {
        let blocks = prompt_tokens.div_ceil(self.block_size);
        self.requests.insert(request, Progress { prompt_tokens, blocks });
    }

    /// The blocks that `event` adds, each with the weight of all that only its
    /// request uses, if outputs are expected to end somewhere.
    pub(super) fn observe(&mut self, event: &WorkerEvent) -> Vec<Option<f64>> {
        let output_tokens = match event.kind {
            WorkerEventKind::FirstToken => 1,
            WorkerEventKind::OutputBlock { output_tokens } => output_tokens,
            WorkerEventKind::Finished { .. }
            | WorkerEventKind::Rejected(_)
            | WorkerEventKind::Aborted
            | WorkerEventKind::Failed => {
                self.requests.remove(&event.request);
                return Vec::new();
            }
            WorkerEventKind::Scheduled { .. }
            | WorkerEventKind::CacheHit { .. }
            | WorkerEventKind::Prefilled
            | WorkerEventKind::KvReceived { .. }
            | WorkerEventKind::Loaded { .. }
            | WorkerEventKind::Preempted => return Vec::new(),
        };
        let Some(progress) = self.requests.get_mut(&event.request) else { return Vec::new() };
        let blocks = (progress.prompt_tokens + output_tokens as usize).div_ceil(self.block_size);
        let grown = blocks.saturating_sub(progress.blocks);
        progress.blocks += grown;
        let expected = self.expected_tokens;
        let decay = expected
            .map(|expected| (1.0 - f64::from(output_tokens) / f64::from(expected.max(1))).max(0.0));
        vec![decay; grown]
    }
}
