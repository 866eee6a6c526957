//! Our own policy against the production router.

use super::DynamoPolicy;
use crate::event::KvEvent;
use crate::id::{BlockId, WorkerId};
use crate::router::decider::Decider;
use crate::router::kv::{CachedBelow, KvParams, KvPolicy, Overload, Retention, Semantics};
use crate::router::queued::{QueueOrder, Queued};
use crate::router::shadow::ShadowPolicy;
use crate::router::testing::golden::check_histories;
use crate::router::testing::history::{Act, BLOCK_SIZE, Heard, History, any_acts};
use crate::router::testing::{LIMITS, Texts, any_texts, cluster, with_limits};
use crate::router::{
    ClusterSpec, ClusterView, Policy, Rank, Verdict, WorkerLimits, WorkerView, Workers,
};
use crate::time::{SimDuration, SimTime};
use dynamo_kv_router::config::RouterQueuePolicy;
use dynamo_kv_router::indexer::{LowerTierContinuation, LowerTierIndexer, SyncIndexer, WorkerTask};
use dynamo_kv_router::protocols::{
    ExternalSequenceBlockHash, KvCacheEvent, LocalBlockHash, RouterEvent, StorageTier,
};
use dynamo_kv_router::scheduling::policy_config::PolicyProfile;
use dynamo_kv_router::scheduling::{PolicyQueue, QueueSnapshot, WorkerPlacement};
use proptest::prelude::*;
use statrs::distribution::{ChiSquared, ContinuousCDF};
use std::collections::{BTreeMap, BTreeSet, HashMap};

const WORKERS: u32 = 4;

fn fleet() -> ClusterSpec {
    with_limits(WORKERS, BLOCK_SIZE, WorkerLimits { blocks: 100, ..LIMITS })
}

/// Two workers of two ranks each.
fn fleet_of_ranks() -> ClusterSpec {
    let ranks = (0..WORKERS).map(|id| Rank { engine: id / 2, rank: id % 2 });
    ClusterSpec { ranks: ranks.collect(), ..fleet() }
}

/// Every parameter that both have. Expected outputs are a power of two, so that
/// weights are exact and no sum of blocks is rounded another way.
fn any_params() -> impl Strategy<Value = KvParams> {
    let weight = prop_oneof![Just(0.0), Just(1.0), 0.0..4.0];
    let credit = prop_oneof![3 => Just(None), 1 => (0.0..1.5).prop_map(Some)];
    let seldom = || prop_oneof![3 => Just(0.0), 1 => 0.0..3.0];
    let mostly = || prop::bool::weighted(0.85);
    let costs = (weight, credit, seldom(), seldom(), mostly(), mostly(), mostly());
    let outputs = (any::<bool>(), prop::option::of(Just(64u32)));
    let tiers = (prop_oneof![Just(0.75), 0.0..1.0], prop_oneof![Just(0.25), 0.0..1.0]);
    let temperature = (prop_oneof![3 => Just(0.0), 1 => 0.01..2.0], tiers);
    let overload =
        (prop::option::weighted(0.15, 0.0..1.0), prop::option::weighted(0.15, 1u32..900));
    let ttl = prop::option::weighted(0.25, (1u64..5_000).prop_map(SimDuration::from_millis));
    (costs, outputs, temperature, overload, ttl).prop_map(
        |(
            costs,
            (track_output_blocks, expected_output_tokens),
            (temperature, tiers),
            overload,
            ttl,
        )| {
            let (weight, credit, decay, per_request, active_blocks, prefill_tokens, reuse) = costs;
            let params = KvParams::with_weight(Semantics::V1_6, weight);
            KvParams {
                overlap_score_credit: credit.unwrap_or(params.overlap_score_credit),
                overlap_score_credit_decay: decay,
                decode_active_request_weight: per_request,
                host_cache_hit_weight: tiers.0,
                disk_cache_hit_weight: tiers.1,
                track_active_blocks: active_blocks,
                track_prefill_tokens: prefill_tokens,
                assume_kv_reuse: reuse,
                track_output_blocks,
                expected_output_tokens,
                temperature,
                overload: Overload {
                    active_decode_blocks: overload.0,
                    active_prefill_tokens: overload.1,
                },
                approximate: ttl.map(|ttl| Retention { ttl, ..Retention::default() }),
                ..params
            }
        },
    )
}

/// At an act: a worker leaves or comes back, or is busy or not any more.
#[derive(Clone, Copy, Debug)]
struct Turn {
    at: usize,
    worker: WorkerId,
    is_of_busy: bool,
}

fn any_turns(busy_share: f64) -> impl Strategy<Value = Vec<Turn>> {
    let turn = (0usize..120, 0..WORKERS, prop::bool::weighted(busy_share));
    let turn = turn.prop_map(|(at, id, is_of_busy)| Turn { at, worker: WorkerId(id), is_of_busy });
    prop::collection::vec(turn, 0..16)
}

/// Plays `acts` to both, with `turns`, and holds every decision of ours to theirs: the same
/// costs to 1e-9; without temperature a worker that is among their cheapest; and
/// none where they have none.
fn hold(
    texts: &Texts,
    (acts, turns): (&[Act], &[Turn]),
    params: KvParams,
    seed: u64,
) -> Result<(KvPolicy, DynamoPolicy), TestCaseError> {
    let fleet = if seed.is_multiple_of(2) { fleet() } else { fleet_of_ranks() };
    let mut ours = KvPolicy::new(params, &fleet, seed);
    let mut theirs = DynamoPolicy::new(params, &fleet, seed);
    let wants_kv_events = ours.wants_kv_events();
    prop_assert_eq!(wants_kv_events, theirs.wants_kv_events());
    let mut history = History::new(texts, WORKERS);
    let (mut absent, mut busy) = (BTreeSet::new(), BTreeSet::new());
    for (at, act) in acts.iter().enumerate() {
        for &Turn { worker, is_of_busy, .. } in turns.iter().filter(|turn| turn.at == at) {
            if is_of_busy {
                let is_free = !busy.remove(&worker);
                if !is_free
                    || !absent.contains(&worker) && absent.len() + busy.len() + 1 < WORKERS as usize
                {
                    ours.leave_out(worker, is_free);
                    theirs.leave_out(worker, is_free);
                    if is_free {
                        busy.insert(worker);
                    }
                }
            } else if busy.contains(&worker) {
                // Front ends say that it is not any more before they say that it has left.
            } else if absent.remove(&worker) {
                ours.worker_joined(worker);
                theirs.worker_joined(worker);
            } else if absent.len() + busy.len() + 1 < WORKERS as usize {
                absent.insert(worker);
                ours.worker_left(worker);
                theirs.worker_left(worker);
            }
        }
        let now = history.now();
        let request = history.play(act, |heard| {
            let of_absent = matches!(heard, Heard::Kv(worker, _) if absent.contains(&worker));
            if heard.is_life() || wants_kv_events && !of_absent {
                heard.tell(now, &mut ours);
                heard.tell(now, &mut theirs);
            }
        });
        let Some(request) = request else { continue };
        let view = request.route_view(BLOCK_SIZE);
        let (asked, their_asked) = (ours.look_up(now, &view), theirs.look_up(now, &view));
        let (costs, their_costs) = (ours.costs(&asked), theirs.costs(&their_asked));
        for (cost, their) in costs.iter().zip(&their_costs) {
            let same = cost == their || (cost - their).abs() < 1e-9;
            prop_assert!(same, "{costs:?} and {their_costs:?}");
        }
        prop_assert_eq!(ours.least_prefill_tokens(), theirs.least_prefill_tokens());
        let (mine, their) = (ours.choose(&asked), theirs.choose(&their_asked));
        prop_assert_eq!(mine.is_some(), their.is_some());
        let (Some(mine), Some(their)) = (mine, their) else { continue };
        let may_be = |worker| !absent.contains(worker) && !busy.contains(worker);
        prop_assert!(may_be(&mine) && may_be(&their));
        if params.temperature == 0.0 {
            prop_assert_eq!(their_costs[mine.index()], their_costs[their.index()]);
            if params.overload == Overload::default() {
                let lowest = their_costs.iter().copied().fold(f64::INFINITY, f64::min);
                prop_assert_eq!(their_costs[mine.index()], lowest);
            }
        }
        ours.book(now, asked, mine);
        theirs.book(now, their_asked, mine);
        history.sent(&request, mine);
    }
    Ok((ours, theirs))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// On any history, holes, orphans and restarts included.
    #[test]
    fn decisions_are_theirs_but_for_ties_and_draws(
        texts in any_texts(), acts in any_acts(WORKERS, 120), params in any_params(), seed: u64,
    ) {
        hold(&texts, (&acts, &[]), params, seed)?;
    }

    /// While workers come and go, too.
    #[test]
    fn decisions_are_theirs_while_workers_come_and_go(
        texts in any_texts(), acts in any_acts(WORKERS, 120), params in any_params(), seed: u64,
        turns in any_turns(0.0),
    ) {
        hold(&texts, (&acts, &turns), params, seed)?;
    }

    /// While single workers are left out as they are busy, too.
    #[test]
    fn decisions_are_theirs_while_workers_are_busy(
        texts in any_texts(), acts in any_acts(WORKERS, 120), params in any_params(), seed: u64,
        turns in any_turns(0.7),
    ) {
        hold(&texts, (&acts, &turns), params, seed)?;
    }

    /// Whoever drives.
    #[test]
    fn shadow_mode_finds_no_difference(
        texts in any_texts(), acts in any_acts(WORKERS, 120), weight in 0.0..4.0, kv_drives: bool,
    ) {
        let params = KvParams::with_weight(Semantics::V1_6, weight);
        let kv = KvPolicy::new(params, &fleet(), 1);
        let dynamo = DynamoPolicy::new(params, &fleet(), 2);
        let tally = if kv_drives {
            shadowed(&texts, &acts, ShadowPolicy::new(kv, dynamo)).tally()
        } else {
            shadowed(&texts, &acts, ShadowPolicy::new(dynamo, kv)).tally()
        };
        prop_assert_eq!(tally.agreed + tally.tied, tally.decisions);
        prop_assert!(tally.tied <= tally.ties);
        prop_assert_eq!(tally.costs_differ, 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// The same on histories long enough for every structure to grow and shrink.
    #[test]
    fn long_histories_are_theirs_too(
        texts in any_texts(), acts in any_acts(WORKERS, 2_500), params in any_params(), seed: u64,
    ) {
        hold(&texts, (&acts, &[]), params, seed)?;
    }
}

/// What `worker` holds of the prompt behind its overlap in GPU memory, tier by tier:
/// the walk of `query_lower_tiers_with_options`.
fn their_blocks_below(
    tiers: &[LowerTierIndexer; 3],
    prompt: &[BlockId],
    worker: WorkerId,
    overlap: u32,
) -> [usize; 3] {
    let hashes: Vec<LocalBlockHash> = prompt.iter().map(|id| LocalBlockHash(id.0)).collect();
    let rank = super::rank(worker);
    let start = match overlap.checked_sub(1) {
        None => LowerTierContinuation::from_root(0),
        Some(last) => {
            let last = ExternalSequenceBlockHash(prompt[last as usize].0);
            LowerTierContinuation::new(overlap as usize, last)
        }
    };
    let mut continuations = HashMap::from([(rank, start)]);
    tiers.each_ref().map(|tier| {
        let found = tier.query_match_details(&hashes, &continuations);
        continuations = found.next_continuations.into_iter().collect();
        found.hits.get(&rank).copied().unwrap_or(0)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Our index of lower tiers finds what the crate's finds. Its own takes events
    /// from a channel on a thread; here the channel is closed, and the thread this one.
    #[test]
    fn lower_tiers_are_indexed_as_theirs(
        texts in any_texts(), acts in any_acts(WORKERS, 80), overlap in 0u32..6,
    ) {
        let mut ours = CachedBelow::default();
        let channels: [_; 3] = std::array::from_fn(|_| flume::unbounded());
        let mut number = 0;
        for act in &acts {
            let Act::Below { worker, text, from, to, medium, stored: is_store } = act else {
                continue;
            };
            let text = text.index(texts.len());
            for event in texts.stored(text, *from, *to) {
                let KvEvent::Stored { parent, run } = event else { continue };
                let (data, below) = if *is_store {
                    let data = super::stored(parent.map(|block| block.0), super::ids(run));
                    (data, KvEvent::StoredBelow { medium: *medium, run })
                } else {
                    let data = super::removed(super::ids(run));
                    (data, KvEvent::RemovedBelow { medium: *medium, run })
                };
                ours.apply(WorkerId(*worker), &below);
                number += 1;
                let event = KvCacheEvent { event_id: number, data, dp_rank: 0 };
                let tier = [StorageTier::HostPinned, StorageTier::Disk, StorageTier::External]
                    [*medium as usize];
                let event = RouterEvent::with_storage_tier(u64::from(*worker), event, tier);
                channels[*medium as usize].0.send(WorkerTask::Event(event)).unwrap();
            }
        }
        let theirs = channels.map(|(sender, events)| {
            drop(sender);
            let tier = LowerTierIndexer::new();
            tier.worker(events, None).unwrap();
            tier
        });
        for text in 0..texts.len() {
            let prompt = texts.ids(text, 18);
            let runs = texts.runs(text, 18).into_iter();
            let below = ours.after(runs, &[overlap; WORKERS as usize]);
            for (worker, below) in (0..).map(WorkerId).zip(below) {
                let [host, disk, remote] =
                    their_blocks_below(&theirs, &prompt, worker, overlap);
                prop_assert_eq!((below.host as usize, below.disk as usize), (host, disk + remote));
            }
        }
    }
}

fn shadowed<D: Decider, O: Decider>(
    texts: &Texts,
    acts: &[Act],
    mut shadow: ShadowPolicy<D, O>,
) -> ShadowPolicy<D, O> {
    let mut history = History::new(texts, WORKERS);
    for act in acts {
        let now = history.now();
        let request = history.play(act, |heard| heard.tell(now, &mut shadow));
        let Some(request) = request else { continue };
        let view = ClusterView::default();
        let verdict = shadow.route(now, &request.route_view(BLOCK_SIZE), &view);
        let Verdict::Send(worker) = verdict else { panic!("{verdict:?}") };
        history.sent(&request, worker);
    }
    shadow
}

#[test]
fn the_crate_repeats_the_golden_histories_through_the_adapter() {
    check_histories(|setup| {
        let fleet = cluster(setup.workers, setup.block_size);
        DynamoPolicy::new(setup.params(Semantics::V1_6), &fleet, 42)
    });
}

/// Requests wait, and go, in the order of the production scheduler's own queue.
fn hold_queue(
    texts: &Texts,
    acts: &[Act],
    threshold: f64,
    order: QueueOrder,
) -> Result<(), TestCaseError> {
    let limits = WorkerLimits { blocks: 100, max_num_batched_tokens: 200, ..LIMITS };
    let fleet = with_limits(WORKERS, BLOCK_SIZE, limits);
    let params = KvParams::with_weight(Semantics::V1_6, 1.0);
    let busy_tokens = threshold * f64::from(limits.max_num_batched_tokens);
    let mut ours = Queued::new(KvPolicy::new(params, &fleet, 1), busy_tokens, order);
    let their_order = match order {
        QueueOrder::Fcfs => RouterQueuePolicy::Fcfs,
        QueueOrder::Lcfs => RouterQueuePolicy::Lcfs,
        QueueOrder::Wspt => RouterQueuePolicy::Wspt,
    };
    let mut queue = PolicyQueue::new(PolicyProfile::synthetic(Some(threshold), their_order));
    let mut theirs = DynamoPolicy::new(params, &fleet, 1);
    let workers = Workers::new(vec![WorkerView::default(); WORKERS as usize]);
    let view = workers.view();
    let mut history = History::new(texts, WORKERS);
    let mut requests = BTreeMap::new();
    for act in acts {
        let now = history.now();
        let request = history.play(act, |heard| {
            heard.tell(now, &mut ours);
            heard.tell(now, &mut theirs);
        });
        let mut gone = Vec::new();
        if let Some(request) = request {
            let route_view = request.route_view(BLOCK_SIZE);
            let asked = theirs.look_up(now, &route_view);
            let uncached = usize::try_from(theirs.least_uncached_tokens(&asked)).unwrap();
            let tokens = request.prompt_tokens as usize;
            let snapshot = QueueSnapshot::new(tokens, tokens - uncached);
            let payload = (request.id, asked);
            let queued = queue.enqueue(
                0,
                WORKERS as usize,
                snapshot,
                now.as_secs(),
                0.0,
                0,
                WorkerPlacement::Any,
                payload,
            );
            prop_assert!(queued.is_ok());
            if let Verdict::Send(worker) = ours.route(now, &route_view, &view) {
                gone.push((request.id, worker));
            }
            requests.insert(request.id, request);
        }
        loop {
            // Theirs is asked before each of ours is booked there.
            let tokens = theirs.least_prefill_tokens();
            let popped = queue.pop_next(|_, class, _| {
                let most = u64::from(limits.max_num_batched_tokens);
                !class.worker_is_busy(usize::try_from(tokens).unwrap(), most)
            });
            if gone.is_empty() {
                let released = ours.release(now, &view);
                gone.extend(released.map(|(id, to)| (id, to.expect("no worker is overloaded"))));
            }
            let Some((id, worker)) = gone.pop() else {
                prop_assert!(popped.is_none(), "theirs lets a request go");
                break;
            };
            let (their_id, asked) = popped.expect("theirs lets one go, too").into_payload();
            prop_assert_eq!(id, their_id);
            theirs.book(now, asked, worker);
            history.sent(&requests[&id], worker);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn requests_wait_as_in_the_production_queue(
        texts in any_texts(), acts in any_acts(WORKERS, 150),
        threshold in prop_oneof![Just(0.0), 0.0..1.5],
        order in prop::sample::select(vec![QueueOrder::Fcfs, QueueOrder::Lcfs, QueueOrder::Wspt]),
    ) {
        hold_queue(&texts, &acts, threshold, order)?;
    }
}

/// How likely draws by `chances` are to be at least as far from them as `counts`:
/// Pearson's test, rare outcomes put together.
fn chi_square(counts: &[f64], chances: &[f64]) -> f64 {
    let draws: f64 = counts.iter().sum();
    let (mut statistic, mut cells) = (0.0, 0);
    let (mut rare, mut rare_expected) = (0.0, 0.0);
    let mut add = |count: f64, expected: f64| {
        statistic += (count - expected).powi(2) / expected;
        cells += 1;
    };
    for (&count, chance) in counts.iter().zip(chances) {
        let expected = chance * draws;
        if expected >= 10.0 {
            add(count, expected);
        } else {
            rare += count;
            rare_expected += expected;
        }
    }
    if rare_expected >= 10.0 {
        add(rare, rare_expected);
    } else if rare > 60.0 {
        return 0.0; // has a chance below 1e-20 where 10 are expected at most
    }
    if cells < 2 { 1.0 } else { ChiSquared::new(f64::from(cells - 1)).unwrap().sf(statistic) }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// With temperature both draw by the softmax of their costs. A right
    /// implementation fails once in 10^9 of the 48 tests: one run of 20 million.
    #[test]
    fn draws_are_by_the_softmax_of_their_costs(
        texts in any_texts(), acts in any_acts(WORKERS, 60), params in any_params(),
        temperature in 0.02..3.0, tokens in 1u32..250, seed: u64,
    ) {
        const DRAWS: usize = 4_000;
        let params = KvParams { temperature, overload: Overload::default(), ..params };
        let (mut ours, mut theirs) = hold(&texts, (&acts, &[]), params, seed)?;
        let request = texts.request(1 << 20, 0, tokens, BLOCK_SIZE);
        let (now, view) = (SimTime::ZERO + SimDuration::from_secs(600), request.route_view(BLOCK_SIZE));
        let (asked, their_asked) = (ours.look_up(now, &view), theirs.look_up(now, &view));
        let costs = theirs.costs(&their_asked);
        let min = costs.iter().copied().fold(f64::INFINITY, f64::min);
        let max = costs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let scale = if max > min { (max - min) * temperature } else { 1.0 };
        let weights: Vec<f64> = costs.iter().map(|cost| ((min - cost) / scale).exp()).collect();
        let total: f64 = weights.iter().sum();
        let chances: Vec<f64> = weights.iter().map(|weight| weight / total).collect();
        let mut counts = [[0.0; WORKERS as usize]; 2];
        for _ in 0..DRAWS {
            counts[0][ours.choose(&asked).unwrap().index()] += 1.0;
            counts[1][theirs.choose(&their_asked).unwrap().index()] += 1.0;
        }
        for counts in counts {
            let p = chi_square(&counts, &chances);
            prop_assert!(p > 1e-9, "{counts:?} for {chances:?}: p = {p}");
        }
    }
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
        let view = ClusterView::default();
        (0..200)
            .map(|id| policy.route(SimTime::ZERO, &request(id).route_view(BLOCK_SIZE), &view))
            .collect::<Vec<_>>()
    };
    assert_eq!(choices(5), choices(5));
    assert_ne!(choices(5), choices(6));
}
