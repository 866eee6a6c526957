//! The prefix index with the rules of Dynamo 0.9: how many blocks on a prompt's
//! path each worker holds, holes or not.
//!
//! A tree with one node per block. The walk goes on as long as *some* worker
//! holds the next block; each worker scores every block on the way that it
//! holds itself. A block that its last holder loses takes all below it out of
//! the tree. A store whose parent the worker does not hold is dropped.
//!
//! Nodes know their parent by a stamp that is new whenever a node is made, so
//! cutting off a subtree costs nothing: its nodes carry the stamp of a parent
//! that is no more. One corner is simplified: when blocks of a cut-off subtree
//! are stored again by a worker that does not hold them, the others' claims on
//! them are forgotten (0.9 keeps them aside, out of reach, until removed).

use super::overlaps::Overlaps;
use super::path::Path;
use super::worker_set::WorkerSet;
use crate::event::KvEvent;
use crate::id::{BlockId, WorkerId};
use crate::request::BlockRun;
use crate::rng::mix;
use hashbrown::HashTable;

#[derive(Debug)]
struct Node {
    block: BlockId,
    /// The stamp of its parent; [`ROOT`] at the start of a sequence.
    parent: u64,
    stamp: u64,
    holders: WorkerSet,
}

const ROOT: u64 = 0;

/// See the module.
#[derive(Debug)]
pub(super) struct HeldIndex {
    nodes: HashTable<Node>,
    last_stamp: u64,
    /// Blocks each worker holds, in or out of reach.
    held_blocks: Vec<u32>,
}

impl HeldIndex {
    pub(super) fn new(workers: u32) -> Self {
        Self { nodes: HashTable::new(), last_stamp: ROOT, held_blocks: vec![0; workers as usize] }
    }

    /// The number of blocks on the path of `prompt` that each worker holds.
    pub(super) fn overlaps(&self, prompt: &Path) -> Overlaps {
        let mut stamp = ROOT;
        Overlaps::of_blocks(prompt.blocks().map_while(|block| {
            let node = self.get(block).filter(|node| node.parent == stamp)?;
            stamp = node.stamp;
            Some(&node.holders)
        }))
    }

    /// How many blocks `worker` is known to hold.
    pub(super) fn held_blocks(&self, worker: WorkerId) -> u32 {
        self.held_blocks[worker.index()]
    }

    /// Forgets what `worker` held.
    pub(super) fn remove_worker(&mut self, worker: WorkerId) {
        self.held_blocks[worker.index()] = 0;
        self.nodes.retain(|node| {
            node.holders.remove(worker);
            !node.holders.is_empty()
        });
    }

    /// Takes note of what `worker` stored or lost.
    pub(super) fn apply(&mut self, worker: WorkerId, event: &KvEvent) {
        match *event {
            KvEvent::Stored { parent, run } => self.store(worker, parent, run),
            KvEvent::Removed { run } => self.remove(worker, run),
            // Not GPU memory, or not of the layers that are followed.
            _ => {}
        }
    }

    /// `worker` holds the blocks of `run`, which come after `parent`.
    fn store(&mut self, worker: WorkerId, parent: Option<BlockId>, run: BlockRun) {
        let mut above = ROOT;
        if let Some(block) = parent {
            let held = self.get(block).filter(|node| node.holders.contains(worker));
            let Some(node) = held else { return };
            above = node.stamp;
        }
        for block in (0..run.len).map(|i| run.first.offset(i)) {
            above = self.store_one(worker, above, block);
        }
    }

    /// Stores one block below the node with the stamp `above`; gives its own stamp.
    fn store_one(&mut self, worker: WorkerId, above: u64, block: BlockId) -> u64 {
        let fresh = self.last_stamp + 1;
        let mut entry = self
            .nodes
            .entry(mix(block.0), |node| node.block == block, |node| mix(node.block.0))
            .or_insert_with(|| Node {
                block,
                parent: above,
                stamp: fresh,
                holders: WorkerSet::default(),
            });
        let node = entry.get_mut();
        if node.parent != above {
            if !node.holders.contains(worker) {
                for lost in std::mem::take(&mut node.holders).iter() {
                    self.held_blocks[lost.index()] -= 1;
                }
                node.stamp = fresh;
            }
            node.parent = above;
        }
        self.last_stamp = self.last_stamp.max(node.stamp);
        if node.holders.insert(worker) {
            self.held_blocks[worker.index()] += 1;
        }
        node.stamp
    }

    /// `worker` lost the blocks of `run`, the last one first.
    fn remove(&mut self, worker: WorkerId, run: BlockRun) {
        for block in (0..run.len).rev().map(|i| run.first.offset(i)) {
            let Ok(mut entry) = self.nodes.find_entry(mix(block.0), |node| node.block == block)
            else {
                continue;
            };
            if entry.get_mut().holders.remove(worker) {
                self.held_blocks[worker.index()] -= 1;
            }
            if entry.get().holders.is_empty() {
                entry.remove();
            }
        }
    }

    fn get(&self, block: BlockId) -> Option<&Node> {
        self.nodes.find(mix(block.0), |node| node.block == block)
    }
}
