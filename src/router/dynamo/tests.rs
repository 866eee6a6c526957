//! Our own policy against the production router.

use super::DynamoPolicy;
use crate::id::WorkerId;
use crate::router::kv::{KvParams, KvPolicy, Semantics};
use crate::router::shadow::{Decider, ShadowPolicy};
use crate::router::testing::golden::check_histories;
use crate::router::testing::history::{BLOCK_SIZE, History, any_acts};
use crate::router::testing::{Texts, any_texts, cluster};
use crate::router::{ClusterView, Policy, Verdict};
use crate::time::SimTime;
use proptest::prelude::*;

const WORKERS: u32 = 4;

fn any_params() -> impl Strategy<Value = KvParams> {
    let weight = prop_oneof![Just(0.0), Just(1.0), 0.0..4.0];
    let credit = prop_oneof![3 => Just(None), 1 => (0.0..1.5).prop_map(Some)];
    let seldom = || prop_oneof![3 => Just(0.0), 1 => 0.0..3.0];
    let mostly = || prop::bool::weighted(0.85);
    (weight, credit, seldom(), seldom(), mostly(), mostly(), mostly()).prop_map(
        |(weight, credit, decay, per_request, active_blocks, prefill_tokens, reuse)| {
            let params = KvParams::with_weight(Semantics::V1_6, weight);
            KvParams {
                overlap_score_credit: credit.unwrap_or(params.overlap_score_credit),
                overlap_score_credit_decay: decay,
                decode_active_request_weight: per_request,
                track_active_blocks: active_blocks,
                track_prefill_tokens: prefill_tokens,
                assume_kv_reuse: reuse,
                ..params
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// On any history, holes, orphans and restarts included, every worker costs
    /// the same, and our choice is one of the lowest costs by theirs.
    #[test]
    fn costs_agree_and_the_choice_is_theirs_but_for_ties(
        texts in any_texts(),
        acts in any_acts(WORKERS, 120),
        params in any_params(),
        seed: u64,
    ) {
        let mut ours = KvPolicy::new(params, &cluster(WORKERS, BLOCK_SIZE), seed);
        let mut theirs = DynamoPolicy::new(params, &cluster(WORKERS, BLOCK_SIZE), seed);
        let mut history = History::new(&texts, WORKERS);
        for act in &acts {
            let Some(request) = history.play(act, |event| {
                event.tell(&mut ours);
                event.tell(&mut theirs);
            }) else { continue };
            let view = request.route_view(BLOCK_SIZE);
            let (mine, other) =
                (ours.decide(SimTime::ZERO, &view), theirs.decide(SimTime::ZERO, &view));
            let (costs, other_costs) = (ours.costs(), theirs.costs());
            for (cost, other) in costs.iter().zip(&other_costs) {
                prop_assert!((cost - other).abs() < 1e-9, "{costs:?} and {other_costs:?}");
            }
            let lowest = other_costs.iter().copied().fold(f64::INFINITY, f64::min);
            prop_assert_eq!(other_costs[mine.index()], lowest);
            prop_assert_eq!(other_costs[other.index()], lowest);
            ours.book(SimTime::ZERO, &view, mine);
            theirs.book(SimTime::ZERO, &view, mine);
            history.sent(request.id, mine);
        }
    }

    #[test]
    fn shadow_mode_finds_no_difference(
        texts in any_texts(),
        acts in any_acts(WORKERS, 120),
        weight in 0.0..4.0,
        kv_drives: bool,
    ) {
        let params = KvParams::with_weight(Semantics::V1_6, weight);
        let kv = Box::new(KvPolicy::new(params, &cluster(WORKERS, BLOCK_SIZE), 1));
        let dynamo = Box::new(DynamoPolicy::new(params, &cluster(WORKERS, BLOCK_SIZE), 2));
        let mut shadow =
            if kv_drives { ShadowPolicy::new(kv, dynamo) } else { ShadowPolicy::new(dynamo, kv) };
        let mut history = History::new(&texts, WORKERS);
        for act in &acts {
            let Some(request) = history.play(act, |event| event.tell(&mut shadow)) else {
                continue;
            };
            let view = ClusterView { workers: &[] };
            let verdict = shadow.route(SimTime::ZERO, &request.route_view(BLOCK_SIZE), &view);
            let Verdict::Send(worker) = verdict else { panic!("{verdict:?}") };
            history.sent(request.id, worker);
        }
        let tally = shadow.tally();
        prop_assert_eq!(tally.agreed + tally.tied, tally.decisions);
        prop_assert!(tally.max_cost_difference_blocks < 1e-9, "{tally:?}");
    }
}

#[test]
fn the_crate_repeats_the_golden_histories_through_the_adapter() {
    check_histories(|setup| {
        let params = KvParams {
            track_prefill_tokens: setup.track_prefill_tokens,
            ..KvParams::with_weight(Semantics::V1_6, setup.weight)
        };
        DynamoPolicy::new(params, &cluster(setup.workers, setup.block_size), 42)
    });
}

/// With temperature both draw by the same probabilities.
#[test]
fn temperature_draws_alike() {
    const DRAWS: usize = 20_000;
    let mut texts = Texts::default();
    let text = texts.add(None);
    let params = KvParams { temperature: 0.6, ..KvParams::with_weight(Semantics::V1_6, 1.0) };
    let fleet = cluster(WORKERS, BLOCK_SIZE);
    let count = |mut policy: Box<dyn Decider>| {
        for (worker, blocks) in [(0, 3), (1, 10), (2, 16)] {
            for event in texts.stored(text, 0, blocks) {
                policy.observe_kv(WorkerId(worker), &event);
            }
        }
        let request = texts.request(0, text, 256, BLOCK_SIZE);
        let view = request.route_view(BLOCK_SIZE);
        let mut counts = [0_usize; WORKERS as usize];
        for _ in 0..DRAWS {
            counts[policy.decide(SimTime::ZERO, &view).index()] += 1;
        }
        counts
    };
    let ours = count(Box::new(KvPolicy::new(params, &fleet, 1)));
    let theirs = count(Box::new(DynamoPolicy::new(params, &fleet, 1)));
    for (ours, theirs) in ours.iter().zip(&theirs) {
        // Five standard deviations of the difference of two frequencies.
        let allowed = 5.0 * (2.0 * 0.25 * DRAWS as f64).sqrt();
        assert!((*ours as f64 - *theirs as f64).abs() < allowed, "{ours} and {theirs}");
    }
    assert!(ours.is_sorted() == theirs.is_sorted());
}

/// Two policies of one seed choose alike, and what the crate draws from the
/// process (map order, thread-local generators) has no say.
#[test]
fn choices_depend_on_the_seed_alone() {
    let mut texts = Texts::default();
    let text = texts.add(None);
    let choices = |seed| {
        let params = KvParams::with_weight(Semantics::V1_6, 1.0);
        let mut policy = DynamoPolicy::new(params, &cluster(8, BLOCK_SIZE), seed);
        let request = |id| texts.request(id, text, 100, BLOCK_SIZE);
        let view = ClusterView { workers: &[] };
        (0..200)
            .map(|id| policy.route(SimTime::ZERO, &request(id).route_view(BLOCK_SIZE), &view))
            .collect::<Vec<_>>()
    };
    assert_eq!(choices(5), choices(5));
    assert_ne!(choices(5), choices(6));
}
