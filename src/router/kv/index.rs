//! Which worker holds which blocks, as told by KV events.

use super::coverage::CoverageIndex;
use super::held::HeldIndex;
use super::overlaps::Overlaps;
use super::params::Semantics;
use super::path::Path;
use crate::event::KvEvent;
use crate::id::WorkerId;

/// The prefix index of one version.
#[derive(Debug)]
pub(super) enum Index {
    V0_9(HeldIndex),
    V1_6(CoverageIndex),
}

impl Index {
    pub(super) fn new(semantics: Semantics, workers: u32) -> Self {
        match semantics {
            Semantics::V0_9 => Self::V0_9(HeldIndex::new(workers)),
            Semantics::V1_6 => Self::V1_6(CoverageIndex::default()),
        }
    }

    /// Takes note of what `worker` stored or lost.
    pub(super) fn apply(&mut self, worker: WorkerId, event: &KvEvent) {
        match self {
            Self::V0_9(index) => index.apply(worker, event),
            Self::V1_6(index) => index.apply(worker, event),
        }
    }

    /// Forgets what `worker` held.
    pub(super) fn remove_worker(&mut self, worker: WorkerId) {
        match self {
            Self::V0_9(index) => index.remove_worker(worker),
            Self::V1_6(index) => index.remove_worker(worker),
        }
    }

    /// The overlap of `prompt` with what each worker holds.
    pub(super) fn overlaps(&self, prompt: &Path) -> Overlaps {
        match self {
            Self::V0_9(index) => index.overlaps(prompt),
            Self::V1_6(index) => index.overlaps(prompt),
        }
    }

    /// The size that breaks ties in 0.9: all blocks of `worker`, where it has any overlap.
    pub(super) fn tree_blocks(&self, worker: WorkerId, overlap_blocks: u32) -> u32 {
        match self {
            Self::V0_9(index) if overlap_blocks > 0 => index.held_blocks(worker),
            _ => 0,
        }
    }
}
