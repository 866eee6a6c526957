//! Laws of the whole policy.

use super::super::cost::{Ask, cost, uncached_tokens};
use super::super::index::Index;
use super::super::{BlocksBelow, Candidate, KvParams, KvPolicy, Overload, Semantics, WorkerLoad};
use crate::event::WorkerEventKind::FirstToken;
use crate::id::WorkerId;
use crate::request::RouteRequest;
use crate::rng::{self, Use};
use crate::router::decider::Decider;
use crate::router::select::Ties;
use crate::router::testing::history::{BLOCK_SIZE, Heard, History, any_acts};
use crate::router::testing::{LIMITS, Texts, any_texts, cluster, life};
use crate::router::{ClusterSpec, ClusterView, CostParts, Policy, Rank, Verdict, WorkerLimits};
use crate::time::SimTime;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::sync::Arc;

fn any_params() -> impl Strategy<Value = KvParams> {
    let switches = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    let weight = || prop_oneof![Just(0.0), Just(1.0), 0.0..4.0];
    let weights = (weight(), weight(), weight(), weight(), (weight(), weight()));
    let overload = (prop::option::of(0.0..0.02), prop::option::of(0u32..900));
    let expected = prop::option::of(prop::option::of(1u32..120));
    (switches, weights, overload, expected).prop_map(|(switches, weights, overload, expected)| {
        let (old, track_active_blocks, track_prefill_tokens, assume_kv_reuse, _) = switches;
        let semantics = if old { Semantics::V0_9 } else { Semantics::V1_6 };
        let of_1_6 = |value, otherwise| if old { otherwise } else { value };
        let plain = KvParams::with_weight(semantics, weights.0);
        KvParams {
            overlap_score_credit: of_1_6(weights.1, plain.overlap_score_credit),
            overlap_score_credit_decay: of_1_6(weights.2, 0.0),
            decode_active_request_weight: of_1_6(weights.3, 0.0),
            host_cache_hit_weight: weights.4.0,
            disk_cache_hit_weight: weights.4.1,
            track_prefill_tokens: old || track_prefill_tokens,
            track_active_blocks,
            assume_kv_reuse,
            track_output_blocks: expected.is_some(),
            expected_output_tokens: expected.flatten(),
            overload: Overload {
                active_decode_blocks: overload.0.filter(|_| switches.4),
                active_prefill_tokens: overload.1.filter(|_| switches.4),
            },
            ..plain
        }
    })
}

/// `params` with what can change while a policy runs as in `others`.
fn changed(params: KvParams, others: KvParams) -> KvParams {
    let old = params.semantics == Semantics::V0_9;
    KvParams {
        overlap_score_credit: others.overlap_score_credit,
        prefill_load_scale: others.prefill_load_scale,
        overlap_score_credit_decay: if old { 0.0 } else { others.overlap_score_credit_decay },
        decode_active_request_weight: if old { 0.0 } else { others.decode_active_request_weight },
        overload: others.overload,
        ..params
    }
}

/// What a policy says of each worker, and what of its cost is for requests in flight.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts")]
fn explained(policy: &KvPolicy, request: &RouteRequest<'_>) -> Vec<(Candidate, f64)> {
    let of = |parts: &CostParts| {
        let part =
            |name| parts.parts.iter().find(|(n, _)| *n == name).map_or(0.0, |(_, part)| *part);
        let candidate = Candidate {
            prefill_tokens: part("prefill_tokens") as u64,
            active_blocks: part("active_blocks") as u64,
            additional_blocks: part("additional_blocks") as u32,
            requests: 0,
            overlap_blocks: part("overlap_blocks") as u32,
            below: BlocksBelow {
                host: part("host_blocks") as u32,
                disk: part("disk_blocks") as u32,
            },
        };
        (candidate, part("requests"))
    };
    policy.explain(request, &ClusterView::default()).iter().map(of).collect()
}

/// Where every worker has a pool of another size; `ranks` of each engine.
fn uneven_fleet(workers: u32, ranks: u32) -> ClusterSpec {
    let limits = (0..workers).map(|id| WorkerLimits { blocks: 10_000 >> (id % 4), ..LIMITS });
    let rank = (0..workers).map(|id| Rank { engine: id / ranks, rank: id % ranks });
    let ranks = if ranks == 1 { Arc::default() } else { rank.collect() };
    ClusterSpec { limits: limits.collect(), ranks, ..cluster(workers, BLOCK_SIZE) }
}

proptest! {
    /// The choice is the one that going through all workers would make, in order
    /// and with a draw at every tie on the way, by costs that follow from what is
    /// explained; `turns` says when who leaves or comes back, or is busy or not any
    /// more. Once the parameters that can change take the values of `others`.
    #[test]
    fn the_search_finds_what_looking_at_every_worker_finds(
        texts in any_texts(),
        acts in any_acts(12, 200),
        turns in prop::collection::vec(
            (0usize..200, (0u32..12).prop_map(WorkerId), prop::bool::weighted(0.4)), 0..16,
        ),
        params in any_params(),
        (changed_at, others) in (0usize..200, any_params()),
        ranks in 1u32..3,
        seed: u64,
    ) {
        const WORKERS: u32 = 12;
        let fleet = uneven_fleet(WORKERS, ranks);
        let mut policy = KvPolicy::new(params, &fleet, seed);
        let mut index = Index::new(params.semantics, WORKERS);
        let mut draws = rng::stream(seed, Use::Policy, 0, 0);
        let mut history = History::new(&texts, WORKERS);
        let (mut absent, mut busy) = (BTreeSet::new(), BTreeSet::new());
        let mut params = params;
        let mut last = None;
        for (turn, act) in acts.iter().enumerate() {
            let changed = changed(params, others);
            if turn == changed_at && policy.set_params(&changed).is_ok() {
                params = changed;
            }
            for &(_, worker, is_of_busy) in turns.iter().filter(|(at, ..)| *at == turn) {
                if busy.remove(&worker) {
                    policy.leave_out(worker, false);
                } else if absent.remove(&worker) {
                    policy.worker_joined(worker);
                } else if is_of_busy {
                    busy.insert(worker);
                    policy.leave_out(worker, true);
                } else {
                    absent.insert(worker);
                    policy.worker_left(worker);
                    index.remove_worker(worker);
                }
            }
            let Some(request) = history.play(act, |heard| {
                if let Heard::Kv(worker, event) = heard {
                    if absent.contains(&worker) {
                        return;
                    }
                    index.apply(worker, &event);
                }
                heard.tell(SimTime::ZERO, &mut policy);
            }) else { continue };
            let view = request.route_view(BLOCK_SIZE);
            let asked = policy.look_up(SimTime::ZERO, &view);
            last = Some(asked.clone());
            let workers = explained(&policy, &view);
            let all = || 0..workers.len();
            let is_absent = |at: usize| absent.contains(&WorkerId::at(at));
            let can_be = |at: usize| !is_absent(at) && !busy.contains(&WorkerId::at(at));
            let has_too_much = |worker: WorkerId| {
                let Candidate { prefill_tokens, active_blocks, .. } = workers[worker.index()].0;
                let load = WorkerLoad { prefill_tokens, active_blocks, requests: 0 };
                params.overload.holds(&load, fleet.of(worker).blocks)
            };
            let overloaded = |at| fleet.ranks_with(WorkerId::at(at)).all(has_too_much);
            let tokens = |at: usize| workers[at].0.prefill_tokens;
            let least = all().filter(|at| !is_absent(*at)).map(tokens).min().unwrap_or(0);
            prop_assert_eq!(policy.least_prefill_tokens(), least);
            let mut most: Vec<f64> = all().map(|at| tokens(at) as f64 - 1.0).collect();
            prop_assert!(policy.all_have_more_prefill_tokens(&most));
            let one = turn % workers.len();
            most[one] += 1.0;
            prop_assert_eq!(policy.all_have_more_prefill_tokens(&most), is_absent(one));

            let eligible = all().filter(|at| can_be(*at) && !overloaded(*at));
            let ask = Ask {
                prompt_tokens: request.prompt_tokens,
                block_size: BLOCK_SIZE,
                min_prefill_tokens: eligible.map(tokens).min().unwrap_or(least),
            };
            let held = |(worker, _): &(Candidate, f64)| {
                worker.overlap_blocks + worker.below.host + worker.below.disk
            };
            let most = workers.iter().map(held).max().unwrap();
            prop_assert_eq!(policy.least_uncached_tokens(&asked), uncached_tokens(&ask, most));
            let overlaps = policy.overlap_blocks(&view);
            prop_assert_eq!(overlaps.is_some(), policy.wants_kv_events());
            let mut lowest = Ties::default();
            for (at, found) in policy.costs(&asked).into_iter().enumerate() {
                let (worker, of_requests) = workers[at];
                let cost = cost(&params, &ask, &worker).total + of_requests;
                prop_assert_eq!(found, if can_be(at) { cost } else { f64::INFINITY });
                let overlap_blocks = overlaps.as_ref().map_or(0, |overlaps| overlaps[at]);
                prop_assert_eq!(overlap_blocks, worker.overlap_blocks);
                let size = index.tree_blocks(WorkerId::at(at), overlap_blocks);
                let steered = params.semantics == Semantics::V1_6 && overloaded(at);
                let none_can = all().all(|at| overloaded(at) || !can_be(at));
                if !steered && can_be(at) && !none_can {
                    lowest.offer(at, (cost, size), &mut draws);
                }
            }
            let expected = lowest.chosen_if_any().map(WorkerId::at);
            prop_assert_eq!(policy.choose(&asked), expected);
            if let Some(worker) = expected {
                policy.book(SimTime::ZERO, asked, worker);
                history.sent(&request, worker);
            }
        }
        for worker in (0..WORKERS).map(WorkerId).filter(|worker| !absent.contains(worker)) {
            policy.leave_out(worker, false);
            policy.worker_left(worker);
        }
        prop_assert_eq!(policy.least_prefill_tokens(), 0);
        if let Some(mut asked) = last {
            policy.look_again(SimTime::ZERO, &mut asked);
            prop_assert_eq!(policy.choose(&asked), None);
        }
    }

    /// In a fleet so large that a draw by temperature looks at few workers, each is
    /// drawn as often as the softmax of all normalised costs says.
    #[test]
    fn draws_of_a_large_fleet_follow_the_costs(
        texts in any_texts(),
        acts in any_acts(140, 100),
        params in any_params(),
        temperature in prop_oneof![Just(0.02), 0.02..1.5],
        seed: u64,
    ) {
        const WORKERS: u32 = 140;
        const DRAWS: u32 = 2_000;
        let params = KvParams { temperature, overload: Overload::default(), ..params };
        let mut policy = KvPolicy::new(params, &cluster(WORKERS, BLOCK_SIZE), seed);
        let mut history = History::new(&texts, WORKERS);
        let mut last = None;
        for (turn, act) in acts.iter().enumerate() {
            let heard = |heard: Heard| heard.tell(SimTime::ZERO, &mut policy);
            let Some(request) = history.play(act, heard) else { continue };
            let asked = policy.look_up(SimTime::ZERO, &request.route_view(BLOCK_SIZE));
            last = Some(asked.clone());
            // Loads that the draws below would hardly make.
            let worker = WorkerId::at(turn % 5);
            policy.book(SimTime::ZERO, asked, worker);
            history.sent(&request, worker);
        }
        let Some(mut asked) = last else { return Ok(()) };
        policy.worker_left(WorkerId(3));
        policy.worker_left(WorkerId(44));
        policy.look_again(SimTime::ZERO, &mut asked);
        let mut counts = vec![0.0; WORKERS as usize];
        for _ in 0..DRAWS {
            counts[policy.choose(&asked).expect("some worker is there").index()] += 1.0;
        }
        let costs = policy.costs(&asked);
        let there = || costs.iter().copied().filter(|cost| cost.is_finite());
        let (least, most) =
            (there().fold(f64::INFINITY, f64::min), there().fold(f64::NEG_INFINITY, f64::max));
        let scale = if most > least { (most - least) * temperature } else { 1.0 };
        let weights: Vec<f64> = costs.iter().map(|cost| ((least - cost) / scale).exp()).collect();
        let total: f64 = weights.iter().sum();
        for (count, weight) in counts.iter().zip(&weights) {
            let expected = f64::from(DRAWS) * weight / total;
            let off: f64 = count - expected;
            prop_assert!(off.abs() <= 6.0 * expected.sqrt() + 8.0 * f64::from(weight > &0.0),
                "{count} draws, {expected} expected");
        }
    }

    /// Calling the workers otherwise calls the costs otherwise, nothing more.
    #[test]
    fn relabelling_workers_relabels_costs(
        texts in any_texts(),
        acts in any_acts(4, 60),
        label in Just(vec![0u32, 1, 2, 3]).prop_shuffle(),
        weight in 0.0..4.0,
        old in any::<bool>(),
    ) {
        let semantics = if old { Semantics::V0_9 } else { Semantics::V1_6 };
        let params = KvParams::with_weight(semantics, weight);
        let policy = || KvPolicy::new(params, &cluster(4, BLOCK_SIZE), 1);
        let (mut plain, mut relabelled) = (policy(), policy());
        let mut history = History::new(&texts, 4);
        for act in &acts {
            let Some(request) = history.play(act, |event| {
                event.tell(SimTime::ZERO, &mut plain);
                event.relabelled(&label).tell(SimTime::ZERO, &mut relabelled);
            }) else { continue };
            let view = request.route_view(BLOCK_SIZE);
            let asked = plain.look_up(SimTime::ZERO, &view);
            let asked_there = relabelled.look_up(SimTime::ZERO, &view);
            let (here, there) = (plain.costs(&asked), relabelled.costs(&asked_there));
            for (worker, name) in label.iter().enumerate() {
                prop_assert_eq!(here[worker], there[*name as usize]);
            }
            let lowest = (0u32..).zip(&here).min_by(|a, b| a.1.total_cmp(b.1)).unwrap().0;
            plain.book(SimTime::ZERO, asked, WorkerId(lowest));
            relabelled.book(SimTime::ZERO, asked_there, WorkerId(label[lowest as usize]));
            history.sent(&request, WorkerId(lowest));
        }
    }

    /// With one worker there is nothing to decide, at any temperature.
    #[test]
    fn one_worker_gets_everything(texts in any_texts(), temperature in 0.0..1.0) {
        let params = KvParams { temperature, ..KvParams::with_weight(Semantics::V1_6, 1.0) };
        let mut policy = KvPolicy::new(params, &cluster(1, BLOCK_SIZE), 1);
        let view = ClusterView::default();
        for (id, text) in (0..).zip(0..texts.len()) {
            let request = texts.request(id, text, 100, BLOCK_SIZE);
            let verdict = policy.route(SimTime::ZERO, &request.route_view(BLOCK_SIZE), &view);
            prop_assert_eq!(verdict, Verdict::send(WorkerId(0)));
        }
    }
}

/// In 0.9 equal costs go to the worker with the smaller index, where only workers
/// with some overlap have a size: one without overlap wins over one with it.
#[test]
fn equal_costs_in_0_9_prefer_the_smaller_index() {
    let mut texts = Texts::default();
    let (text, other) = (texts.add(None), texts.add(None));
    // Workers 0 and 1 hold the prompt; worker 0 holds one block more.
    let build = |semantics, seed| {
        let params = KvParams::with_weight(semantics, 1.0);
        let mut policy = KvPolicy::new(params, &cluster(3, BLOCK_SIZE), seed);
        for (worker, text, from, to) in [(0, text, 0, 4), (1, text, 0, 4), (0, other, 0, 1)] {
            for event in texts.stored(text, from, to) {
                policy.observe_kv(WorkerId(worker), &event);
            }
        }
        policy
    };
    let choice = |policy: &mut KvPolicy| {
        let request = texts.request(9, text, 64, BLOCK_SIZE);
        let asked = policy.look_up(SimTime::ZERO, &request.route_view(BLOCK_SIZE));
        (policy.choose(&asked).unwrap().0, policy.costs(&asked))
    };
    for seed in 0..20 {
        let chosen = choice(&mut build(Semantics::V0_9, seed));
        assert_eq!(chosen, (1, vec![4.0, 4.0, 8.0]));
    }
    let draw = |seed| choice(&mut build(Semantics::V1_6, seed)).0;
    let drawn: Vec<u32> = (0..20).map(draw).collect();
    assert!(drawn.contains(&0) && drawn.contains(&1) && !drawn.contains(&2), "{drawn:?}");

    // Four blocks in decoding on workers 0 and 1 outweigh what they hold.
    let mut policy = build(Semantics::V0_9, 1);
    for worker in 0..2 {
        let request = texts.request(worker, other, 64, BLOCK_SIZE);
        let asked = policy.look_up(SimTime::ZERO, &request.route_view(BLOCK_SIZE));
        policy.book(SimTime::ZERO, asked, WorkerId(worker));
        policy.observe(SimTime::ZERO, &life(worker, worker, FirstToken));
    }
    assert_eq!(choice(&mut policy), (2, vec![8.0, 8.0, 8.0]));
}
