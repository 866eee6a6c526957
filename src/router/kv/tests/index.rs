//! The prefix index against models that say the rules outright.

use super::super::Semantics;
use super::super::index::Index;
use crate::event::KvEvent;
use crate::id::{BlockId, WorkerId};
use crate::router::testing::history::MOST_BLOCKS;
use crate::router::testing::{Texts, any_texts};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const WORKERS: u32 = 4;
const BLOCKS: u32 = MOST_BLOCKS;

fn overlaps(index: &Index, texts: &Texts, text: usize, blocks: u32) -> Vec<u32> {
    let mut overlaps = vec![0; WORKERS as usize];
    index.overlaps(&texts.runs(text, blocks).into_iter().collect()).add_to(&mut overlaps);
    overlaps
}

/// A change of a worker's cache: store blocks `from..to` of a text, or lose them.
#[derive(Clone, Debug)]
struct Change {
    worker: u32,
    text: prop::sample::Index,
    from: u32,
    to: u32,
    store: bool,
}

fn any_change() -> impl Strategy<Value = Change> {
    (0..WORKERS, any::<prop::sample::Index>(), 0..BLOCKS, 1..=BLOCKS, prop::bool::weighted(0.6))
        .prop_map(|(worker, text, from, len, store)| {
            let to = (from + len).min(BLOCKS);
            Change { worker, text, from, to, store }
        })
}

/// Events that a cache with prefix-closed contents makes: stores go on from what
/// is held, removals take leaves.
#[derive(Default)]
struct LeafFirst {
    held: Vec<BTreeSet<BlockId>>,
    children: BTreeMap<BlockId, BTreeSet<BlockId>>,
}

impl LeafFirst {
    fn new() -> Self {
        Self { held: vec![BTreeSet::new(); WORKERS as usize], ..Self::default() }
    }

    fn apply(&mut self, texts: &Texts, change: &Change) -> Vec<KvEvent> {
        let text = change.text.index(texts.len());
        let ids = texts.ids(text, BLOCKS);
        let held = &mut self.held[change.worker as usize];
        let start = ids.iter().take_while(|id| held.contains(id)).count();
        if change.store {
            let end = (change.to as usize).max(start);
            held.extend(&ids[start..end]);
            for pair in ids.windows(2) {
                self.children.entry(pair[0]).or_default().insert(pair[1]);
            }
            return texts.stored(text, u32::try_from(start).unwrap(), u32::try_from(end).unwrap());
        }
        let mut from = start;
        while from > change.from as usize {
            let below = self.children.get(&ids[from - 1]);
            if below.is_some_and(|below| below.iter().any(|id| held.contains(id))) {
                break;
            }
            from -= 1;
            held.remove(&ids[from]);
        }
        texts.removed(text, u32::try_from(from).unwrap(), u32::try_from(start).unwrap())
    }
}

proptest! {
    /// Without holes both versions agree with a set of blocks per worker.
    #[test]
    fn leaf_first_histories_match_sets(
        texts in any_texts(),
        changes in prop::collection::vec(any_change(), 0..80),
    ) {
        let mut model = LeafFirst::new();
        let mut old = Index::new(Semantics::V0_9, WORKERS);
        let mut new = Index::new(Semantics::V1_6, WORKERS);
        for change in &changes {
            for event in model.apply(&texts, change) {
                old.apply(WorkerId(change.worker), &event);
                new.apply(WorkerId(change.worker), &event);
            }
            for text in 0..texts.len() {
                for blocks in [0, 5, BLOCKS] {
                    let ids = texts.ids(text, blocks);
                    let expected: Vec<u32> = model.held.iter()
                        .map(|held| ids.iter().take_while(|id| held.contains(id)).count())
                        .map(|count| u32::try_from(count).unwrap())
                        .collect();
                    prop_assert_eq!(overlaps(&new, &texts, text, blocks), &*expected);
                    prop_assert_eq!(overlaps(&old, &texts, text, blocks), &*expected);
                }
            }
            for (worker, held) in (0..).map(WorkerId).zip(&model.held) {
                prop_assert_eq!(old.tree_blocks(worker, 1) as usize, held.len());
            }
        }
    }

    /// With holes, as long as worker 0 holds everything: 0.9 counts the held
    /// blocks on the path, 1.6 stops at the first hole.
    #[test]
    fn holes_beside_a_worker_that_holds_everything(
        texts in any_texts(),
        changes in prop::collection::vec(any_change(), 0..60),
    ) {
        let mut held = vec![BTreeSet::new(); WORKERS as usize];
        let mut old = Index::new(Semantics::V0_9, WORKERS);
        let mut new = Index::new(Semantics::V1_6, WORKERS);
        for text in 0..texts.len() {
            held[0].extend(texts.ids(text, BLOCKS));
            for event in texts.stored(text, 0, BLOCKS) {
                old.apply(WorkerId(0), &event);
                new.apply(WorkerId(0), &event);
            }
        }
        for change in changes.iter().filter(|change| change.worker > 0) {
            let text = change.text.index(texts.len());
            let mine = &mut held[change.worker as usize];
            let ids = texts.ids(text, BLOCKS);
            let events = if change.store {
                // A whole prefix, so that 1.6 has no forgotten rest to remember.
                mine.extend(&ids[..change.to as usize]);
                texts.stored(text, 0, change.to)
            } else {
                ids[change.from as usize..change.to as usize].iter().for_each(|id| _ = mine.remove(id));
                texts.removed(text, change.from, change.to)
            };
            for event in &events {
                old.apply(WorkerId(change.worker), event);
                new.apply(WorkerId(change.worker), event);
            }
            for text in 0..texts.len() {
                let ids = texts.ids(text, BLOCKS);
                let scores = overlaps(&old, &texts, text, BLOCKS);
                let prefixes = overlaps(&new, &texts, text, BLOCKS);
                for (worker, held) in held.iter().enumerate() {
                    let count = ids.iter().filter(|id| held.contains(id)).count();
                    prop_assert_eq!(scores[worker] as usize, count);
                    let prefix = ids.iter().take_while(|id| held.contains(id)).count();
                    prop_assert!(prefixes[worker] as usize <= prefix);
                }
            }
        }
    }
}

#[test]
fn stores_after_an_unknown_block_are_dropped() {
    let mut texts = Texts::default();
    let text = texts.add(None);
    for semantics in [Semantics::V0_9, Semantics::V1_6] {
        let mut index = Index::new(semantics, WORKERS);
        let orphans = texts.stored(text, 5, 9);
        orphans.iter().for_each(|event| index.apply(WorkerId(1), event));
        texts.stored(text, 0, 5).iter().for_each(|event| index.apply(WorkerId(1), event));
        assert_eq!(overlaps(&index, &texts, text, 10), [0, 5, 0, 0], "{semantics:?}");
        // Held by another worker is not held by this one.
        orphans.iter().for_each(|event| index.apply(WorkerId(2), event));
        assert_eq!(overlaps(&index, &texts, text, 10), [0, 5, 0, 0], "{semantics:?}");
    }
}

/// What 0.9 and 1.6 make of a hole, by whether another worker holds the block.
#[test]
fn a_hole_and_its_refilling() {
    let mut texts = Texts::default();
    let text = texts.add(None);
    // (semantics, another worker holds all, overlap with the hole, after refilling it)
    for (semantics, shared, hole, refilled) in [
        (Semantics::V0_9, true, 13, 14),
        (Semantics::V0_9, false, 6, 7),
        (Semantics::V1_6, true, 6, 7),
        (Semantics::V1_6, false, 6, 7),
    ] {
        let mut index = Index::new(semantics, WORKERS);
        for worker in 0..=u32::from(shared) {
            texts.stored(text, 0, 14).iter().for_each(|e| index.apply(WorkerId(worker), e));
        }
        texts.removed(text, 6, 7).iter().for_each(|e| index.apply(WorkerId(0), e));
        assert_eq!(overlaps(&index, &texts, text, 14)[0], hole, "{semantics:?} {shared}");
        texts.stored(text, 6, 7).iter().for_each(|e| index.apply(WorkerId(0), e));
        assert_eq!(overlaps(&index, &texts, text, 14)[0], refilled, "{semantics:?} {shared}");
    }
}
