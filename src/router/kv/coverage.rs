//! The prefix index with the rules of Dynamo 1.6: how much of a prompt, counted
//! from its start, each worker holds.
//!
//! A compressed radix tree. Each node is a stretch of blocks with, for every
//! worker, how far into the stretch it holds them; its children go on from the
//! stretch's end. A worker matches a prompt as far as it holds every block.
//! What follows from the representation is part of the rules, and shows when
//! removals leave holes (which leaf-first eviction does not):
//!
//! * a removal inside a stretch makes the worker lose the rest of that stretch,
//!   but not what it holds further down;
//! * where no worker is left that holds a stretch to its end, all below it is forgotten;
//! * a store whose parent the worker is not known to hold is dropped.
//!
//! A block id stands for the block and all before it, so it occurs in one node
//! only. A table of first blocks finds the way down, [`Places`] finds any block in O(1).
//! Costs are per run of ids and node, not per block.

use super::overlaps::{Overlaps, Parts, Stretches};
use super::path::{Path, common_blocks};
use super::places::Places;
use super::worker_set::WorkerSet;
use crate::event::KvEvent;
use crate::id::{BlockId, WorkerId};
use crate::request::BlockRun;
use crate::rng::mix;
use hashbrown::HashTable;

type NodeId = usize;

#[derive(Debug, Default)]
struct Node {
    stretch: Path,
    /// Workers that hold the stretch to its end.
    full: WorkerSet,
    /// Workers that hold its first blocks only, and how many (at least 1); in
    /// order of id.
    partial: Vec<(WorkerId, u32)>,
    parent: Option<NodeId>,
    /// Where it stands among its parent's children.
    slot: usize,
    children: Vec<NodeId>,
    /// True once the node has had children: it will not grow any more.
    branched: bool,
}

impl Node {
    fn len(&self) -> u32 {
        self.stretch.len()
    }

    /// How many blocks from its start `worker` holds.
    fn covered(&self, worker: WorkerId) -> u32 {
        if self.full.contains(worker) {
            return self.len();
        }
        self.part(worker).map_or(0, |at| self.partial[at].1)
    }

    /// The place of `worker` among those that hold a part, or where it would be.
    fn part(&self, worker: WorkerId) -> Result<usize, usize> {
        self.partial.binary_search_by_key(&worker, |(who, _)| *who)
    }

    fn set_covered(&mut self, worker: WorkerId, blocks: u32) {
        let part = self.part(worker);
        if blocks == self.len() {
            self.full.insert(worker);
        } else {
            self.full.remove(worker);
        }
        match part {
            Ok(at) if 0 < blocks && blocks < self.len() => self.partial[at].1 = blocks,
            Ok(at) => _ = self.partial.remove(at),
            Err(at) if 0 < blocks && blocks < self.len() => {
                self.partial.insert(at, (worker, blocks));
            }
            Err(_) => {}
        }
    }

    fn cover(&mut self, worker: WorkerId, blocks: u32) {
        if self.covered(worker) < blocks {
            self.set_covered(worker, blocks);
        }
    }

    /// Makes it empty again; what it has allocated stays, for the next stretch.
    fn clear(&mut self) {
        self.stretch.clear();
        self.full.clear();
        self.partial.clear();
        self.children.clear();
        (self.parent, self.slot, self.branched) = (None, 0, false);
    }

    /// Makes the stretch longer; `worker` holds all of it.
    fn grow(&mut self, worker: WorkerId, run: BlockRun) {
        let old = self.len();
        self.stretch.push(run);
        if self.full.is_only(worker) {
            return;
        }
        let full = std::mem::take(&mut self.full);
        self.partial.extend(full.iter().map(|who| (who, old)));
        self.partial.sort_unstable();
        self.set_covered(worker, self.len());
    }
}

/// Where a run of consecutive ids begins in the tree.
#[derive(Clone, Copy, Debug, Default)]
struct NodePlace {
    node: u32,
    /// Position of the run's first block in its node.
    at: u32,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct CoverageIndex {
    nodes: Vec<Node>,
    /// Empty nodes, to be used again.
    unused: Vec<NodeId>,
    /// While nodes are forgotten: those that still are to be.
    doomed: Vec<NodeId>,
    /// By first block, with that block beside it to keep lookups in one place.
    by_first: HashTable<(BlockId, NodeId)>,
    /// Where each run begins.
    places: Places<NodePlace>,
    /// The run in which each worker lost blocks last: it loses the last ones first, a few
    /// at a time, so the next ones are mostly there.
    lost: Vec<(BlockId, NodePlace)>,
}

impl CoverageIndex {
    /// The number of leading blocks of `prompt` that each worker holds.
    pub(super) fn overlaps(&self, prompt: &Path) -> Overlaps {
        let (mut stretches, mut parts) = (Stretches::new(), Parts::new());
        let mut depth = 0;
        let mut next = prompt.from(0).next().and_then(|run| self.child(None, run.first));
        while let Some(id) = next {
            let node = &self.nodes[id];
            let matched = common_blocks(node.stretch.from(0), prompt.from(depth));
            // What is below counts for those who hold everything above.
            let above = stretches.last().map(|(holders, _)| holders);
            let holds_above = |worker| above.is_none_or(|above| above.contains(worker));
            let partial = node.partial.iter().filter(|(worker, _)| holds_above(*worker));
            parts.extend(partial.map(|&(worker, blocks)| (worker, blocks.min(matched))));
            let mut holders = node.full.clone();
            above.into_iter().for_each(|above| holders.keep(above));
            if holders.is_empty() {
                break;
            }
            stretches.push((holders, matched));
            depth += matched;
            if matched < node.len() {
                break;
            }
            next = prompt.from(depth).next().and_then(|run| self.child(Some(id), run.first));
        }
        Overlaps::new(stretches, parts)
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

    /// Forgets what `worker` held.
    pub(super) fn remove_worker(&mut self, worker: WorkerId) {
        (0..self.nodes.len()).for_each(|id| self.truncate(worker, id, 0));
    }

    /// `worker` holds the blocks of `run`, which come after `parent`.
    fn store(&mut self, worker: WorkerId, parent: Option<BlockId>, mut run: BlockRun) {
        let mut above = None;
        if let Some(block) = parent {
            let Some((id, at)) = self.find(block) else { return };
            let node = &mut self.nodes[id];
            if node.covered(worker) <= at {
                return;
            }
            let same = common_blocks(node.stretch.from(at + 1), [run].into_iter());
            let rest = node.len() - (at + 1);
            if same == run.len {
                node.cover(worker, at + 1 + same);
                return;
            }
            if same == rest && !node.branched {
                self.grow(id, worker, tail(run, same));
                return;
            }
            if rest > 0 {
                self.split(id, at + 1);
            }
            above = Some(id);
        }
        while run.len > 0 {
            let Some(child) = self.child(above, run.first) else {
                match above {
                    Some(id) if !self.nodes[id].branched => self.grow(id, worker, run),
                    _ => self.add(above, worker, run),
                }
                return;
            };
            let node = &self.nodes[child];
            let same = common_blocks(node.stretch.from(0), [run].into_iter());
            if same < node.len() && same < run.len {
                self.split(child, same);
            }
            self.nodes[child].cover(worker, same);
            run = tail(run, same);
            above = Some(child);
        }
    }

    /// `worker` lost the blocks of `run`, the last one first.
    fn remove(&mut self, worker: WorkerId, run: BlockRun) {
        let mut end = run.len;
        while end > 0 {
            // The piece of the tree's runs that holds the last block not yet dealt with.
            let last = run.first.offset(end - 1);
            let Some((first, place)) = self.find_lost(worker, last) else {
                let before = Places::<NodePlace>::chapter_of(last).max(run.first);
                end = distance(run.first, before);
                continue;
            };
            let place_end = first.offset(self.run_len(place));
            if place_end <= run.first {
                return;
            }
            if place_end <= last {
                end = distance(run.first, place_end);
                continue;
            }
            let from = first.max(run.first);
            self.note_lost(worker, (first, place));
            self.truncate(worker, place.node as usize, place.at + distance(first, from));
            end = distance(run.first, from);
        }
    }

    /// [`Places::find`], with a look first at where `worker` lost blocks last.
    fn find_lost(&self, worker: WorkerId, block: BlockId) -> Option<(BlockId, NodePlace)> {
        let last = self.lost.get(worker.index()).copied();
        let is_there = |&(first, place): &(BlockId, NodePlace)| {
            let node = self.nodes.get(place.node as usize);
            let run = node.and_then(|node| node.stretch.from(place.at).next());
            // Else that node is cut or forgotten.
            let run = run.filter(|run| run.first == first);
            run.is_some_and(|run| (first..first.offset(run.len)).contains(&block))
        };
        last.filter(is_there).or_else(|| self.places.find(block))
    }

    fn note_lost(&mut self, worker: WorkerId, run: (BlockId, NodePlace)) {
        let at = worker.index();
        if at >= self.lost.len() {
            self.lost.resize(at + 1, (BlockId(0), NodePlace::default()));
        }
        self.lost[at] = run;
    }

    /// `worker` holds only `blocks` blocks of `id`, if it held more.
    fn truncate(&mut self, worker: WorkerId, id: NodeId, blocks: u32) {
        let node = &mut self.nodes[id];
        if node.covered(worker) > blocks {
            node.set_covered(worker, blocks);
            self.prune(id);
        }
    }

    /// Forgets what cannot be reached any more at and below `id`.
    fn prune(&mut self, id: NodeId) {
        if !self.nodes[id].full.is_empty() {
            return;
        }
        self.doomed.append(&mut self.nodes[id].children);
        if self.nodes[id].partial.is_empty() {
            if let Some(parent) = self.nodes[id].parent {
                let slot = self.nodes[id].slot;
                let siblings = &mut self.nodes[parent].children;
                siblings.swap_remove(slot);
                if let Some(&moved) = siblings.get(slot) {
                    self.nodes[moved].slot = slot;
                }
            }
            self.doomed.push(id);
        }
        self.forget();
    }

    /// Deletes the nodes that are doomed, and all below them.
    fn forget(&mut self) {
        while let Some(id) = self.doomed.pop() {
            let node = &mut self.nodes[id];
            let first = node.stretch.first();
            let entry = self.by_first.find_entry(mix(first.0), |(block, _)| *block == first);
            entry.expect("every node is in the table").remove();
            for run in node.stretch.runs() {
                self.places.remove(*run);
            }
            self.doomed.append(&mut node.children);
            node.clear();
            self.unused.push(id);
        }
    }

    /// An empty node.
    fn unused(&mut self) -> NodeId {
        self.unused.pop().unwrap_or_else(|| {
            self.nodes.push(Node::default());
            self.nodes.len() - 1
        })
    }

    /// Cuts `id` after `at` blocks; it keeps the first part.
    fn split(&mut self, id: NodeId, at: u32) {
        let lower = self.unused();
        let upper = &mut self.nodes[id];
        let old = upper.stretch.clone();
        let mut node = Node {
            stretch: upper.stretch.split_off(at),
            full: upper.full.clone(),
            partial: Vec::new(),
            parent: Some(id),
            slot: 0,
            children: std::mem::replace(&mut upper.children, vec![lower]),
            branched: std::mem::replace(&mut upper.branched, true),
        };
        for (worker, blocks) in std::mem::take(&mut upper.partial) {
            if blocks < at {
                upper.partial.push((worker, blocks));
            } else {
                upper.full.insert(worker);
                node.set_covered(worker, blocks - at);
            }
        }
        for child in &node.children {
            self.nodes[*child].parent = Some(lower);
        }
        self.name(node.stretch.first(), lower);
        self.nodes[lower] = node;
        old.runs().iter().for_each(|run| self.places.remove(*run));
        self.place(id);
        self.place(lower);
        self.prune(lower);
    }

    /// Enters the runs of `id` into the map.
    fn place(&mut self, id: NodeId) {
        let mut at = 0;
        for run in self.nodes[id].stretch.runs() {
            self.places.insert(*run, NodePlace { node: narrow(id), at });
            at += run.len;
        }
    }

    fn grow(&mut self, id: NodeId, worker: WorkerId, run: BlockRun) {
        let node = &mut self.nodes[id];
        let (at, before) = (node.len(), node.stretch.runs().last().copied());
        node.grow(worker, run);
        match before.filter(|before| before.first.offset(before.len) == run.first) {
            Some(BlockRun { first, len }) => self.places.lengthen(first, len, len + run.len),
            None => self.places.insert(run, NodePlace { node: narrow(id), at }),
        }
    }

    /// The length of the run that begins at `place`.
    fn run_len(&self, place: NodePlace) -> u32 {
        let run = self.nodes[place.node as usize].stretch.from(place.at).next();
        run.expect("a place is in its node").len
    }

    fn add(&mut self, above: Option<NodeId>, worker: WorkerId, run: BlockRun) {
        let id = self.unused();
        let node = &mut self.nodes[id];
        node.parent = above;
        node.grow(worker, run);
        if let Some(parent) = above {
            let siblings = &mut self.nodes[parent].children;
            let slot = siblings.len();
            siblings.push(id);
            self.nodes[id].slot = slot;
            self.nodes[parent].branched = true;
        }
        self.name(run.first, id);
        self.place(id);
    }

    /// The node that begins with `block`, which comes after `above`.
    fn child(&self, above: Option<NodeId>, block: BlockId) -> Option<NodeId> {
        let (_, id) = self.by_first.find(mix(block.0), |(first, _)| *first == block)?;
        debug_assert_eq!(self.nodes[*id].parent, above, "{block:?} has two predecessors");
        Some(*id)
    }

    fn name(&mut self, first: BlockId, id: NodeId) {
        self.by_first.insert_unique(mix(first.0), (first, id), |(block, _)| mix(block.0));
    }

    /// The node that holds `block`, and where.
    fn find(&self, block: BlockId) -> Option<(NodeId, u32)> {
        let (first, place) = self.places.find(block)?;
        let into = u32::try_from(block.0 - first.0).ok()?;
        (into < self.run_len(place)).then_some((place.node as usize, place.at + into))
    }
}

/// `run` without its first `skip` blocks.
fn tail(run: BlockRun, skip: u32) -> BlockRun {
    BlockRun { first: run.first.offset(skip), len: run.len - skip }
}

/// Number of ids from `from` to `to`, which lie in one run.
fn distance(from: BlockId, to: BlockId) -> u32 {
    u32::try_from(to.0 - from.0).expect("ids of one run are less than 2^32 apart")
}

fn narrow(node: NodeId) -> u32 {
    u32::try_from(node).expect("fewer than 2^32 nodes")
}
