//! The tracker of requests in flight against sets of blocks.

use super::super::active::{ActiveTracker, Order, Outputs, WorkerLoad};
use crate::event::{RejectReason, WorkerEventKind};
use crate::id::{BlockId, RequestId, WorkerId};
use crate::router::testing::{FINISHED, Texts, any_texts, life};
use crate::time::SimDuration;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const WORKERS: u32 = 3;
const BLOCKS: u32 = 16;

#[derive(Clone, Debug)]
enum Act {
    Book { worker: u32, text: prop::sample::Index, blocks: u32, tokens: u64 },
    FirstToken(prop::sample::Index),
    Output(prop::sample::Index, u32),
    Free(prop::sample::Index),
}

fn any_act() -> impl Strategy<Value = Act> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        3 => (0..WORKERS, index(), 0..=BLOCKS, 0u64..2_000)
            .prop_map(|(worker, text, blocks, tokens)| Act::Book { worker, text, blocks, tokens }),
        1 => index().prop_map(Act::FirstToken),
        2 => (index(), 1u32..40).prop_map(|(which, tokens)| Act::Output(which, tokens)),
        2 => index().prop_map(Act::Free),
    ]
}

struct Booked {
    worker: u32,
    tokens: u64,
    ids: Vec<BlockId>,
    output_tokens: u32,
    output_blocks: u32,
    output_weight: f64,
}

const BLOCK_SIZE: u32 = 4;

/// What the blocks of `worker` weigh: shared ones once, each with the weight that
/// its only user gave it last.
fn weight(
    booked: &BTreeMap<RequestId, Booked>,
    weights: &BTreeMap<(u32, BlockId), f64>,
    worker: u32,
    reuse: bool,
) -> f64 {
    let mine = || booked.values().filter(|request| request.worker == worker);
    let weigh = |id: &BlockId| weights.get(&(worker, *id)).copied().unwrap_or(1.0);
    let prompts: f64 = if reuse {
        let union: BTreeSet<_> = mine().flat_map(|request| &request.ids).collect();
        union.into_iter().map(weigh).sum()
    } else {
        mine().map(|request| request.ids.len() as f64 * request.output_weight).sum()
    };
    let output = |request: &Booked| f64::from(request.output_blocks) * request.output_weight;
    prompts + mine().map(output).sum::<f64>()
}

proptest! {
    #[test]
    fn loads_and_shared_blocks_match_unions_of_sets(
        texts in any_texts(),
        acts in prop::collection::vec(any_act(), 0..80),
        reuse in prop::bool::weighted(0.8),
        // A power of two keeps every weight exact.
        expected_tokens in prop::option::of(Just(64u32)),
    ) {
        let outputs = Outputs { block_size: BLOCK_SIZE, expected_tokens };
        let mut tracker = ActiveTracker::new(WORKERS).with_outputs(outputs);
        let mut booked: BTreeMap<RequestId, Booked> = BTreeMap::new();
        let mut weights: BTreeMap<(u32, BlockId), f64> = BTreeMap::new();
        for (next, act) in (0..).map(RequestId).zip(acts) {
            let ids: Vec<RequestId> = booked.keys().copied().collect();
            match act {
                Act::Book { worker, text, blocks, tokens } => {
                    let text = text.index(texts.len());
                    let order = Order {
                        request: next,
                        prompt_tokens: blocks * BLOCK_SIZE,
                        prefill_tokens: tokens,
                        prompt: &texts.runs(text, blocks).into_iter().collect(),
                        shared: reuse,
                    };
                    tracker.book(WorkerId(worker), &order);
                    let request = Booked {
                        worker,
                        tokens,
                        ids: texts.ids(text, blocks),
                        output_tokens: 0,
                        output_blocks: 0,
                        output_weight: 1.0,
                    };
                    booked.insert(next, request);
                }
                Act::FirstToken(_) | Act::Free(_) | Act::Output(..) if ids.is_empty() => {}
                Act::Output(which, tokens) => {
                    let id = *which.get(&ids);
                    let request = booked.get_mut(&id).unwrap();
                    request.output_tokens += tokens;
                    tracker.output(id, request.output_tokens);
                    let blocks = request.output_tokens.div_ceil(BLOCK_SIZE);
                    if blocks > request.output_blocks && let Some(expected) = expected_tokens {
                        let done = f64::from(request.output_tokens) / f64::from(expected);
                        let weight = (1.0 - done).max(0.0);
                        request.output_weight = weight;
                        let (worker, own) = (request.worker, request.ids.clone());
                        let others = booked.iter().filter(|(other, request)| {
                            **other != id && request.worker == worker
                        });
                        let shared: BTreeSet<_> =
                            others.flat_map(|(_, request)| &request.ids).collect();
                        let only = own.iter().filter(|block| !shared.contains(block));
                        only.for_each(|block| _ = weights.insert((worker, *block), weight));
                    }
                    booked.get_mut(&id).unwrap().output_blocks = blocks;
                }
                Act::FirstToken(which) => {
                    tracker.first_token(*which.get(&ids));
                    booked.get_mut(which.get(&ids)).unwrap().tokens = 0;
                }
                Act::Free(which) => {
                    tracker.free(*which.get(&ids));
                    booked.remove(which.get(&ids));
                }
            }
            // A block that no request uses any more is a new one when it comes back.
            weights.retain(|(worker, block), _| {
                let uses = |request: &Booked| request.worker == *worker && request.ids.contains(block);
                booked.values().any(uses)
            });
            for worker in 0..WORKERS {
                let mine = || booked.values().filter(|request| request.worker == worker);
                let active = weight(&booked, &weights, worker, reuse);
                let found = tracker.loads()[worker as usize];
                let expected = WorkerLoad {
                    prefill_tokens: mine().map(|request| request.tokens).sum(),
                    active_blocks: found.active_blocks,
                    requests: u32::try_from(mine().count()).unwrap(),
                };
                prop_assert_eq!(found, expected);
                prop_assert_eq!(found.active_blocks as f64, active.round());
            }
            for text in 0..texts.len() {
                let ids = texts.ids(text, BLOCKS);
                let mut shared = vec![0; WORKERS as usize];
                let prompt = texts.runs(text, BLOCKS).into_iter().collect();
                tracker.shared_blocks(&prompt).add_to(&mut shared);
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

/// Every end takes everything off and the first token the prompt's tokens; what else
/// happens to a request changes no load.
#[test]
fn ends_and_first_tokens_change_loads_and_nothing_else_does() {
    use WorkerEventKind::*;
    let mut texts = Texts::default();
    let text = texts.add(None);
    let booked = WorkerLoad { prefill_tokens: 50, active_blocks: 4, requests: 1 };
    let prefilled = WorkerLoad { prefill_tokens: 0, ..booked };
    let time = SimDuration::from_millis(1);
    let cases = [
        (FINISHED, WorkerLoad::default()),
        (Rejected(RejectReason::Policy), WorkerLoad::default()),
        (Aborted, WorkerLoad::default()),
        (Failed, WorkerLoad::default()),
        (FirstToken, prefilled),
        (Scheduled { cached_tokens: 14 }, booked),
        (CacheHit { cached_tokens: 14 }, booked),
        (Prefilled, booked),
        (KvReceived { transfer: time }, booked),
        (Loaded { tokens: [16, 0, 0], time }, booked),
        (Preempted, booked),
        (OutputBlock { output_tokens: 33 }, booked),
    ];
    for (kind, load) in cases {
        let mut tracker = ActiveTracker::new(2);
        let order = Order {
            request: RequestId(7),
            prompt_tokens: 64,
            prefill_tokens: 50,
            prompt: &texts.runs(text, 4).into_iter().collect(),
            shared: true,
        };
        tracker.book(WorkerId(1), &order);
        let changed = (load != booked).then_some(WorkerId(1));
        assert_eq!(tracker.observe(&life(1, 7, kind)), changed, "{kind:?}");
        assert_eq!(tracker.loads(), [WorkerLoad::default(), load], "{kind:?}");
    }
}

/// A worker where everything has ended counts as a new one: no rounding error of weights
/// is left.
#[test]
fn what_has_ended_leaves_nothing() {
    let mut texts = Texts::default();
    let text = texts.add(None);
    let requests = || (1..6).flat_map(|blocks| (1..6).map(move |tokens| (blocks, tokens)));
    for expected in 2..8 {
        let outputs = Outputs { block_size: 1, expected_tokens: Some(expected) };
        let new = || ActiveTracker::new(1).with_outputs(outputs);
        let send = |tracker: &mut ActiveTracker, request, (blocks, tokens)| {
            let order = Order {
                request: RequestId(request),
                prompt_tokens: blocks,
                prefill_tokens: 0,
                prompt: &texts.runs(text, blocks).into_iter().collect(),
                shared: true,
            };
            tracker.book(WorkerId(0), &order);
            tracker.output(RequestId(request), tokens);
        };
        for (before, after) in requests().flat_map(|one| requests().map(move |other| (one, other)))
        {
            let (mut used, mut fresh) = (new(), new());
            send(&mut used, 0, before);
            used.free(RequestId(0));
            send(&mut used, 1, after);
            send(&mut fresh, 1, after);
            assert_eq!(used.loads(), fresh.loads(), "{after:?} after {before:?} of {expected}");
        }
    }
}
