//! Guessed caches against a table of times.

use super::super::approximate::Approximate;
use super::super::index::Index;
use super::super::{Retention, Semantics};
use crate::id::{BlockId, WorkerId};
use crate::router::testing::{Texts, any_texts};
use crate::time::{SimDuration, SimTime};
use proptest::prelude::*;
use std::collections::BTreeMap;

const WORKERS: u32 = 3;
const BLOCKS: u32 = 14;

fn at(ms: u64) -> SimTime {
    SimTime::ZERO + SimDuration::from_millis(ms)
}

fn overlaps(index: &Index, texts: &Texts, text: usize) -> Vec<u32> {
    let mut overlaps = vec![0; WORKERS as usize];
    index.overlaps(&texts.runs(text, BLOCKS).into_iter().collect()).add_to(&mut overlaps);
    overlaps
}

proptest! {
    /// A block is held until the time to live has passed since it was last sent, in 1.6
    /// until the next tenth of a second after that; or until its worker leaves, which is
    /// what sending more than there are blocks stands for.
    #[test]
    fn blocks_are_held_for_their_time(
        texts in any_texts(),
        sent in prop::collection::vec(
            (0u64..400, 0..WORKERS, any::<prop::sample::Index>(), 0..=BLOCKS + 1), 1..50,
        ),
        ttl_ms in 1u64..2_000,
        old: bool,
    ) {
        let semantics = if old { Semantics::V0_9 } else { Semantics::V1_6 };
        let retention =
            Retention { ttl: SimDuration::from_millis(ttl_ms), ..Retention::default() };
        let mut guesses = Approximate::new(semantics, retention);
        let mut index = Index::new(semantics, WORKERS);
        let mut ends: BTreeMap<(u32, BlockId), u64> = BTreeMap::new();
        let mut now = 0;
        for (wait, worker, text, blocks) in sent {
            now += wait;
            guesses.expire(at(now), &mut index);
            for text in 0..texts.len() {
                let found = overlaps(&index, &texts, text);
                for (worker, found) in (0..).zip(found) {
                    let held = |id: &&BlockId| ends.get(&(worker, **id)).is_some_and(|end| *end > now);
                    let ids = texts.ids(text, BLOCKS);
                    let expected = ids.iter().take_while(held).count();
                    prop_assert_eq!(found as usize, expected, "text {} at {}", text, now);
                }
            }
            if blocks > BLOCKS {
                guesses.remove_worker(WorkerId(worker));
                index.remove_worker(WorkerId(worker));
                ends.retain(|(held_by, _), _| *held_by != worker);
                continue;
            }
            let text = text.index(texts.len());
            let prompt = texts.runs(text, blocks).into_iter().collect();
            guesses.sent(at(now), WorkerId(worker), &prompt, &mut index);
            let end = if old { now + ttl_ms } else { (now + ttl_ms).div_ceil(100) * 100 };
            for id in texts.ids(text, blocks) {
                ends.insert((worker, id), end);
            }
        }
    }
}

/// 0.9 forgets the oldest blocks, last ones first, down to a share of the limit.
#[test]
fn too_many_blocks_in_0_9() {
    let mut texts = Texts::default();
    let (old, shared, new) = (texts.add(None), texts.add(None), texts.add(None));
    let limits = Retention { max_blocks: 20, prune_target_ratio: 0.8, ..Retention::default() };
    let mut guesses = Approximate::new(Semantics::V0_9, limits);
    let mut index = Index::new(Semantics::V0_9, WORKERS);
    let mut send = |ms, text, blocks| {
        let prompt = texts.runs(text, blocks).into_iter().collect();
        guesses.sent(at(ms), WorkerId(0), &prompt, &mut index);
        [old, shared, new].map(|text| overlaps(&index, &texts, text)[0])
    };
    assert_eq!(send(0, old, 6), [6, 0, 0]);
    assert_eq!(send(1, shared, 8), [6, 8, 0]);
    // Refreshed: now `old` beyond its fourth block is the oldest.
    assert_eq!(send(2, old, 4), [6, 8, 0]);
    assert_eq!(send(3, new, 6), [6, 8, 6]);
    // 21 blocks are five too many for 16: two of `old`, then three of `shared`.
    assert_eq!(send(4, new, 7), [4, 5, 7]);
    // 1.6 has no such limit.
    let mut guesses = Approximate::new(Semantics::V1_6, limits);
    let mut index = Index::new(Semantics::V1_6, WORKERS);
    for text in [old, shared, new] {
        let prompt = texts.runs(text, BLOCKS).into_iter().collect();
        guesses.sent(at(0), WorkerId(0), &prompt, &mut index);
    }
    assert_eq!(overlaps(&index, &texts, old)[0], BLOCKS);
}
