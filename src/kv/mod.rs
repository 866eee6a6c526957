//! The prefix cache of one worker: which blocks of KV memory hold what.
//!
//! Blocks are physical slots with a reference count. A slot whose count drops
//! to zero joins the free queue but keeps its content, which can be hit until
//! the slot is taken for something else: eviction is lazy. Which slot is taken
//! next, what can be hit and what is published differ between engines, so there
//! are two caches over the same parts: [`VllmCache`] and [`TrtllmCache`].
//!
//! Every operation costs the blocks it names, never the size of the cache.

mod block_table;
mod free_queue;
mod log;
mod trtllm;
mod vllm;

pub(crate) use block_table::BlockTable;
pub use log::EventLog;
pub use trtllm::TrtllmCache;
pub use vllm::VllmCache;

/// A physical block of one worker's KV memory.
pub type Slot = u32;

/// "No slot" in intrusive links.
const NONE: Slot = Slot::MAX;
