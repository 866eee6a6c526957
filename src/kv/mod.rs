//! KV memory: what the prefix cache of any engine must do, what it is built from, and
//! the memory below it.
//!
//! [`Cache`] says what all caches have in common. The caches themselves stand beside
//! the rules that use them, in the engine's folder (`engine::rules`); their
//! changes go to an [`EventLog`], and what GPU memory loses may go to slower [memory below it](LowerTiers).

mod block_table;
mod cache;
mod concerns;
mod free_queue;
mod log;
mod slot;
mod tiers;
mod unheard;

pub(crate) use block_table::BlockTable;
pub use cache::{BlockCount, Cache};
pub(crate) use concerns::Concerns;
pub(crate) use free_queue::FreeQueue;
pub use log::EventLog;
pub(crate) use slot::NONE;
pub use slot::Slot;
pub use tiers::{LowerTiers, Offload, TierRun, TierSpec};
pub(crate) use unheard::{Growth, Span, Unheard};
