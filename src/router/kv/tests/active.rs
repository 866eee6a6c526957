//! The tracker of requests in flight against sets of blocks.

use super::super::active::{ActiveTracker, WorkerLoad};
use crate::id::{BlockId, RequestId, WorkerId};
use crate::router::testing::any_texts;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const WORKERS: u32 = 3;
const BLOCKS: u32 = 16;

#[derive(Clone, Debug)]
enum Act {
    Book { worker: u32, text: prop::sample::Index, blocks: u32, tokens: u64 },
    FirstToken(prop::sample::Index),
    Free(prop::sample::Index),
}

fn any_act() -> impl Strategy<Value = Act> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        3 => (0..WORKERS, index(), 0..=BLOCKS, 0u64..2_000)
            .prop_map(|(worker, text, blocks, tokens)| Act::Book { worker, text, blocks, tokens }),
        1 => index().prop_map(Act::FirstToken),
        2 => index().prop_map(Act::Free),
    ]
}

struct Booked {
    worker: u32,
    tokens: u64,
    ids: Vec<BlockId>,
}

proptest! {
    #[test]
    fn loads_and_shared_blocks_match_unions_of_sets(
        texts in any_texts(),
        acts in prop::collection::vec(any_act(), 0..80),
        reuse in prop::bool::weighted(0.8),
    ) {
        let mut tracker = ActiveTracker::new(WORKERS);
        let mut booked = BTreeMap::new();
        for (next, act) in (0..).map(RequestId).zip(acts) {
            let ids: Vec<RequestId> = booked.keys().copied().collect();
            match act {
                Act::Book { worker, text, blocks, tokens } => {
                    let text = text.index(texts.len());
                    let prompt = texts.runs(text, blocks).into_iter().collect();
                    tracker.book(next, WorkerId(worker), tokens, &prompt, reuse);
                    booked.insert(next, Booked { worker, tokens, ids: texts.ids(text, blocks) });
                }
                Act::FirstToken(_) | Act::Free(_) if ids.is_empty() => {}
                Act::FirstToken(which) => {
                    tracker.first_token(*which.get(&ids));
                    booked.get_mut(which.get(&ids)).unwrap().tokens = 0;
                }
                Act::Free(which) => {
                    tracker.free(*which.get(&ids));
                    booked.remove(which.get(&ids));
                }
            }
            for worker in 0..WORKERS {
                let mine = || booked.values().filter(|request| request.worker == worker);
                let blocks = mine().flat_map(|request| &request.ids);
                let active = if reuse { blocks.collect::<BTreeSet<_>>().len() } else { blocks.count() };
                let expected = WorkerLoad {
                    prefill_tokens: mine().map(|request| request.tokens).sum(),
                    active_blocks: active as u64,
                    requests: u32::try_from(mine().count()).unwrap(),
                };
                prop_assert_eq!(tracker.loads()[worker as usize], expected);
            }
            for text in 0..texts.len() {
                let ids = texts.ids(text, BLOCKS);
                let mut shared = vec![0; WORKERS as usize];
                let prompt = texts.runs(text, BLOCKS).into_iter().collect();
                tracker.shared_blocks(&prompt, &mut shared);
                for worker in 0..WORKERS {
                    let union: BTreeSet<_> = booked.values()
                        .filter(|request| reuse && request.worker == worker)
                        .flat_map(|request| &request.ids)
                        .collect();
                    let expected = ids.iter().filter(|id| union.contains(id)).count();
                    prop_assert_eq!(shared[worker as usize] as usize, expected);
                }
            }
        }
    }
}

#[test]
fn unknown_requests_change_nothing() {
    let mut tracker = ActiveTracker::new(1);
    tracker.first_token(RequestId(3));
    tracker.free(RequestId(3));
    assert_eq!(tracker.loads(), [WorkerLoad::default()]);
}
