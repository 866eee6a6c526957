//! What the cache of any engine must do.

/// A pool of blocks that keeps what it can for reuse.
///
/// A block is held by sequences, or free; a free block is cached, until it is taken for
/// something else, or empty. What can be hit, which free block is taken next and what is
/// published differs between engines, and so do the calls by which a scheduler stores
/// and takes: they belong to the engine's own cache. Common to all is that
///
/// * the blocks that are held, cached and empty are the pool, after every change;
/// * a lookup changes nothing;
/// * every store and every loss goes to the [`EventLog`](super::EventLog), in order;
/// * an operation costs what it names, never the size of the cache.
pub trait Cache {
    /// Blocks of the pool.
    fn num_blocks(&self) -> u32;

    /// Blocks that no sequence holds, cached ones included.
    fn free_blocks(&self) -> u32;

    /// Blocks that some sequence holds.
    fn used_blocks(&self) -> u32 {
        self.num_blocks() - self.free_blocks()
    }

    /// Forgets all content; if a sequence holds blocks it does nothing and returns false.
    fn reset(&mut self) -> bool;
}

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
