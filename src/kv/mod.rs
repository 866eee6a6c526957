//! The prefix cache of one worker: which blocks of KV memory hold what.
//!
//! A block that no request holds any more joins the free queue but keeps its
//! content, which can be hit until the block is taken for something else:
//! eviction is lazy. Which block is taken next, what can be hit and what is
//! published differ between engines, so there are two caches. [`VllmCache`]
//! works on stretches of blocks; [`TrtllmCache`], whose tree can lose blocks in
//! the middle of a text, on single ones.
//!
//! What GPU memory loses may go to slower [memory below it](LowerTiers).
//!
//! Every operation costs what it names, never the size of the cache.

mod block_table;
mod free_queue;
mod log;
mod tiers;
mod trtllm;
mod vllm;

pub(crate) use block_table::BlockTable;
pub use log::EventLog;
pub use tiers::{LowerTiers, Offload, Piece, TierSpec};
pub use trtllm::TrtllmCache;
pub use vllm::{Held, Hits, VllmCache};

/// The blocks of a pool by what they are, each counted where it lies: in all they
/// are the pool, whatever a cache's own counters say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockCount {
    /// Blocks that some sequence holds.
    pub held: u32,
    /// Free blocks whose content can be hit.
    pub cached: u32,
    /// Free blocks without such content.
    pub empty: u32,
}

impl BlockCount {
    /// All of them.
    pub fn total(&self) -> u32 {
        self.held + self.cached + self.empty
    }
}

/// A physical block of one worker's KV memory.
pub type Slot = u32;

/// "None" in intrusive links.
const NONE: u32 = u32::MAX;
