//! Physical blocks.

/// A physical block of one worker's KV memory.
pub type Slot = u32;

/// "None" in intrusive links.
pub(crate) const NONE: u32 = u32::MAX;
