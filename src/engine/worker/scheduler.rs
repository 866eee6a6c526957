//! What a worker asks of its scheduling rules, whichever they are.

use super::{Scheduler, Worker};
use crate::engine::Core;
use crate::engine::config::{EngineConfig, Rules};
use crate::engine::decode_set::DecodeSet;
use crate::engine::seq::SeqId;
use crate::engine::trtllm::Trtllm;
use crate::engine::vllm::Vllm;
use crate::kv::{BlockCount, TrtllmCache, VllmCache};

impl Scheduler {
    /// With nothing in queue, batch and cache.
    pub(super) fn new(config: &EngineConfig) -> Self {
        let EngineConfig { block_size, num_blocks, .. } = *config;
        match config.rules {
            Rules::Vllm => Self::Vllm(Vllm::new(VllmCache::new(block_size, num_blocks))),
            Rules::Trtllm => {
                let partial_reuse = config.trtllm.partial_reuse;
                Self::Trtllm(Trtllm::new(TrtllmCache::new(block_size, num_blocks, partial_reuse)))
            }
        }
    }

    /// The requests that have started, and those that wait, in order of arrival.
    pub(in crate::engine) fn requests(&self, core: &Core) -> (Vec<SeqId>, Vec<SeqId>) {
        match self {
            Self::Vllm(rules) => rules.requests(),
            Self::Trtllm(rules) => rules.requests(core),
        }
    }

    pub(super) fn used_blocks(&self) -> u32 {
        match self {
            Self::Vllm(rules) => rules.cache().used_blocks(),
            Self::Trtllm(rules) => rules.cache().used_blocks(),
        }
    }

    pub(super) fn decode_blocks(&mut self, core: &mut Core, step: u64) {
        match self {
            Self::Vllm(rules) => rules.decode_blocks(core, step),
            Self::Trtllm(rules) => rules.decode_blocks(core, step),
        }
    }

    /// The first step at or after `step` in which decoding changes the cache.
    pub(super) fn next_traffic(&self, decode: &DecodeSet, step: u64) -> u64 {
        let taking = decode.next_taking(step);
        match self {
            // vLLM also publishes a block in the step that fills it, the one
            // before the next is taken.
            Self::Vllm(_) if taking > step => taking - 1,
            _ => taking,
        }
    }
}

impl Worker {
    /// Blocks of the pool, and how many of them no request holds.
    pub fn blocks(&self) -> (u32, u32) {
        let total = self.core.config.num_blocks;
        (total, total - self.rules.used_blocks())
    }

    /// Every block of the pool, counted where it lies: what [`blocks`](Self::blocks)
    /// must say. Costs what the pool has: for tests.
    pub fn count_blocks(&self) -> BlockCount {
        match &self.rules {
            Scheduler::Vllm(rules) => rules.count_blocks(&self.core),
            Scheduler::Trtllm(rules) => rules.count_blocks(&self.core),
        }
    }

    /// Forgets the prefix cache, as vLLM's `reset_prefix_cache` does. False, and
    /// nothing is forgotten, while a request holds blocks, or under other rules.
    pub fn reset_prefix_cache(&mut self) -> bool {
        match &mut self.rules {
            Scheduler::Vllm(rules) => rules.reset_cache(),
            Scheduler::Trtllm(_) => false,
        }
    }
}
