//! The index in segments against one with a node per block.

use super::*;
use crate::rng::mix;
use crate::router::testing::history::MOST_BLOCKS;
use crate::router::testing::{Texts, any_texts};
use hashbrown::HashTable;
use proptest::prelude::*;

const WORKERS: u32 = 4;
const BLOCKS: u32 = MOST_BLOCKS;

#[derive(Debug)]
struct Node {
    block: BlockId,
    /// The stamp of its parent; [`ROOT`] at the start of a sequence.
    parent: u64,
    stamp: u64,
    holders: WorkerSet,
}

/// One node per block.
#[derive(Debug)]
struct BlockByBlock {
    nodes: HashTable<Node>,
    last_stamp: u64,
    /// Blocks each worker holds, in or out of reach.
    held_blocks: Vec<u32>,
}

impl BlockByBlock {
    fn new(workers: u32) -> Self {
        Self { nodes: HashTable::new(), last_stamp: ROOT, held_blocks: vec![0; workers as usize] }
    }

    /// The number of blocks on the path of `prompt` that each worker holds.
    fn overlaps(&self, prompt: &Path) -> Overlaps {
        let mut stamp = ROOT;
        Overlaps::of_stretches(prompt.blocks().map_while(|block| {
            let node = self.get(block).filter(|node| node.parent == stamp)?;
            stamp = node.stamp;
            Some((&node.holders, 1))
        }))
    }

    /// Forgets what `worker` held.
    fn remove_worker(&mut self, worker: WorkerId) {
        self.held_blocks[worker.index()] = 0;
        self.nodes.retain(|node| {
            node.holders.remove(worker);
            !node.holders.is_empty()
        });
    }

    /// Takes note of what `worker` stored or lost.
    fn apply(&mut self, worker: WorkerId, event: &KvEvent) {
        match *event {
            KvEvent::Stored { parent, run } => self.store(worker, parent, run),
            KvEvent::Removed { run } => self.remove(worker, run),
            // Not GPU memory.
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

/// The segments that some worker holds, in order of their blocks.
fn segments(index: &HeldIndex) -> Vec<&Segment> {
    let held = index.segments.iter().filter(|segment| !segment.holders.is_empty());
    let mut segments: Vec<&Segment> = held.collect();
    segments.sort_unstable_by_key(|segment| segment.run.first);
    segments
}

proptest! {
    /// Whatever is stored and lost, in any order, by whom ever, holes or not; and no two
    /// segments are what one could be.
    #[test]
    fn segments_know_what_blocks_know(
        texts in any_texts(),
        changes in prop::collection::vec(
            (0..WORKERS, any::<prop::sample::Index>(), 0..BLOCKS, 1..=BLOCKS, 0..20u32),
            0..80,
        ),
    ) {
        let (mut index, mut model) = (HeldIndex::new(WORKERS), BlockByBlock::new(WORKERS));
        for (worker, text, from, len, kind) in changes {
            let (worker, text) = (WorkerId(worker), text.index(texts.len()));
            let to = (from + len).min(BLOCKS);
            let events = match kind {
                0 => {
                    index.remove_worker(worker);
                    model.remove_worker(worker);
                    Vec::new()
                }
                1..=11 => texts.stored(text, from, to),
                _ => texts.removed(text, from, to),
            };
            for event in &events {
                index.apply(worker, event);
                model.apply(worker, event);
            }
            for text in 0..texts.len() {
                let prompt: Path = texts.runs(text, BLOCKS).into_iter().collect();
                let workers = WORKERS as usize;
                prop_assert_eq!(
                    index.overlaps(&prompt).to_vec(workers),
                    model.overlaps(&prompt).to_vec(workers)
                );
            }
            prop_assert_eq!(&index.held_blocks, &model.held_blocks);
            for pair in segments(&index).windows(2) {
                let end = pair[0].run.first.offset(pair[0].run.len);
                prop_assert!(end != pair[1].run.first || !pair[0].goes_on_in(pair[1]));
            }
        }
    }
}

#[test]
fn what_decoding_fills_and_leaves_lose_stays_one_segment() {
    let mut texts = Texts::default();
    let text = texts.add(None);
    let mut index = HeldIndex::new(2);
    let both = [WorkerId(0), WorkerId(1)];
    for worker in both {
        for to in 1..=200 {
            texts.stored(text, to - 1, to).iter().for_each(|event| index.apply(worker, event));
        }
        assert_eq!(segments(&index).len(), 1);
    }
    texts.removed(text, 50, 200).iter().for_each(|event| index.apply(both[0], event));
    assert_eq!(segments(&index).len(), 2);
    texts.removed(text, 50, 200).iter().for_each(|event| index.apply(both[1], event));
    assert_eq!(segments(&index).len(), 1);
    assert_eq!((index.held_blocks(both[0]), index.held_blocks(both[1])), (50, 50));
}

/// How many segments there are once `worker` has told `events`.
fn segments_after(index: &mut HeldIndex, worker: WorkerId, events: Vec<KvEvent>) -> usize {
    events.iter().for_each(|event| index.apply(worker, event));
    segments(index).len()
}

#[test]
fn what_was_cut_and_is_whole_again_grows_with_decoding() {
    let mut texts = Texts::default();
    let text = texts.add(None);
    let mut index = HeldIndex::new(2);
    let (one, other) = (WorkerId(0), WorkerId(1));
    let mut tell = |worker, events| segments_after(&mut index, worker, events);
    tell(one, texts.stored(text, 0, 200));
    assert_eq!(tell(other, texts.stored(text, 0, 150)), 2);
    assert_eq!(tell(other, texts.stored(text, 150, 200)), 1);
    tell(other, texts.removed(text, 0, 200));
    assert_eq!(tell(one, texts.stored(text, 200, 201)), 1);
}

/// Behind a hole that another worker fills, what it stores is another series of blocks,
/// which grows like the first.
#[test]
fn what_another_worker_stores_behind_a_hole_grows_with_decoding() {
    let mut texts = Texts::default();
    let text = texts.add(None);
    let mut index = HeldIndex::new(2);
    let (one, other) = (WorkerId(0), WorkerId(1));
    let mut tell = |worker, events| segments_after(&mut index, worker, events);
    tell(one, texts.stored(text, 0, 12));
    tell(one, texts.removed(text, 10, 12));
    assert_eq!(tell(one, texts.removed(text, 4, 5)), 2);
    assert_eq!(tell(other, texts.stored(text, 0, 10)), 3);
    assert_eq!(tell(other, texts.stored(text, 10, 20)), 3);
}
