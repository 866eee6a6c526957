//! Policies held to decisions that their originals took: each original was run on random
//! histories, and what it chose was written down (`tests/recorders/README.md`).
//!
//! Where several workers are as good the original takes one by a draw or by the order of
//! a map; ours must think the same workers equally good.

use crate::id::WorkerId;
use crate::router::policies::Books;
use crate::router::policies::dynamo_two_tier::{DynamoTwoTier, TwoTierParams};
use crate::router::policies::ray_prefix_affinity::{RayParams, RayPrefixAffinity};
use crate::router::policies::sglang_cache_aware::{
    CacheAwareParams, SglangCacheAware, SglangVersion,
};
use crate::router::policies::smg_cache_aware::{SmgCacheAware, SmgParams};
use crate::router::policies::smg_power_of_two::{LoadMetric, SmgPowerOfTwo, SmgPowerOfTwoParams};
use crate::router::settings::RouterSettings;
use crate::router::testing::{FINISHED, LIMITS, Texts, cluster, life, with_limits};
use crate::router::{
    ClusterSpec, ClusterView, Policy, Reported, Verdict, WorkerLimits, WorkerView, Workers,
};
use crate::time::{SimDuration, SimTime};
use serde::Deserialize;

const BLOCK_SIZE: u32 = 16;

#[derive(Deserialize)]
struct Recording {
    original: String,
    histories: Vec<Recorded>,
}

/// One history, its parameters, and which worker each request went to.
#[derive(Deserialize)]
struct Recorded {
    cache_threshold: f64,
    balance_abs_threshold: u32,
    balance_rel_threshold: f64,
    workers: u32,
    texts: Vec<Option<(usize, u32)>>,
    /// `TEXT:BLOCKS` for an arrival, in order; `-NUMBER` for the end of that arrival;
    /// `@RUNNING,WAITING,USED;...` for what workers report, of 1,000 blocks each.
    acts: String,
    chosen: Vec<u32>,
}

/// What was compared.
#[derive(Debug, PartialEq, Eq)]
struct Compared {
    decisions: usize,
    /// Of these, with several workers that are as good.
    tied: usize,
}

/// What workers report, one after the other.
fn reports(text: &str, at: SimTime) -> Vec<Reported> {
    let of_worker = |load: &str| {
        let mut numbers = load.split(',').map(|number| number.parse().unwrap());
        let mut next = || numbers.next().unwrap();
        Reported { at, running: next(), waiting: next(), used_blocks: next() }
    };
    text.split(';').map(of_worker).collect()
}

/// Plays every history on a policy that books what the original chose; each choice must
/// be one of those that ours thinks best.
fn compare<P: Books>(recording: &str, make: impl Fn(&Recorded) -> P) -> Compared {
    let (compared, differing) = compare_with_reports(recording, make, |_, _| {});
    assert_eq!(differing, [""; 0]);
    compared
}

/// As [`compare`], and the choices that differ; the policy is shown the workers whenever they
/// have reported.
fn compare_with_reports<P: Books>(
    recording: &str,
    make: impl Fn(&Recorded) -> P,
    show: impl Fn(&mut P, &ClusterView<'_>),
) -> (Compared, Vec<String>) {
    let mut differing = Vec::new();
    let Recording { original, histories } = serde_json::from_str(recording).unwrap();
    let mut compared = Compared { decisions: 0, tied: 0 };
    for (number, history) in histories.iter().enumerate() {
        let mut policy = make(history);
        let mut texts = Texts::default();
        history.texts.iter().for_each(|fork| _ = texts.add(*fork));
        let mut workers = Workers::new(vec![WorkerView::default(); history.workers as usize]);
        let mut chosen = history.chosen.iter().map(|worker| WorkerId(*worker));
        let mut sent: Vec<WorkerId> = Vec::new();
        let mut now = SimTime::ZERO;
        for act in history.acts.split_whitespace() {
            if let Some(text) = act.strip_prefix('@') {
                now += SimDuration::from_secs(1);
                workers.report(&reports(text, now));
                show(&mut policy, &workers.view());
                continue;
            }
            if let Some(ended) = act.strip_prefix('-') {
                let id: u32 = ended.parse().unwrap();
                let worker = sent[id as usize];
                workers.ended(worker);
                policy.observe(SimTime::ZERO, &life(worker.0, id, FINISHED));
                continue;
            }
            let (text, blocks) = act.split_once(':').unwrap();
            let (text, blocks): (usize, u32) = (text.parse().unwrap(), blocks.parse().unwrap());
            let id = u32::try_from(sent.len()).unwrap();
            let request = texts.request(id, text, blocks * BLOCK_SIZE, BLOCK_SIZE);
            let request = request.route_view(BLOCK_SIZE);
            let costs: Vec<f64> =
                policy.explain(&request, &workers.view()).iter().map(|parts| parts.cost).collect();
            let lowest = costs.iter().copied().fold(f64::INFINITY, f64::min);
            let worker = chosen.next().unwrap();
            let loads: Vec<u32> = workers.views().iter().map(|view| view.inflight).collect();
            if costs[worker.index()] > lowest {
                differing.push(format!(
                    "{original}, history {number}, request {id}: {worker:?} of {costs:?} with \
                     {loads:?}"
                ));
            }
            compared.decisions += 1;
            compared.tied += usize::from(costs.iter().filter(|cost| **cost == lowest).count() > 1);
            policy.book(&request, worker);
            workers.sent(worker);
            sent.push(worker);
        }
        assert_eq!(chosen.next(), None, "{original}, history {number}");
    }
    (compared, differing)
}

fn sglang(version: SglangVersion) -> impl Fn(&Recorded) -> SglangCacheAware {
    move |recorded| {
        let params = CacheAwareParams {
            sglang_version: version,
            cache_threshold: recorded.cache_threshold,
            balance_abs_threshold: recorded.balance_abs_threshold,
            balance_rel_threshold: recorded.balance_rel_threshold,
            ..CacheAwareParams::default()
        };
        SglangCacheAware::new(params, &cluster(recorded.workers, BLOCK_SIZE), 1)
    }
}

#[test]
fn sglang_0_3_2() {
    let compared = compare(include_str!("golden/sglang-0.3.2.json"), sglang(SglangVersion::V0_3_2));
    assert_eq!(compared, Compared { decisions: 1_500, tied: 595 });
}

#[test]
fn sglang_0_2_3() {
    let compared = compare(include_str!("golden/sglang-0.2.3.json"), sglang(SglangVersion::V0_2_3));
    assert_eq!(compared, Compared { decisions: 1_500, tied: 584 });
}

#[test]
fn vllm_router_0_1_17() {
    let recording = include_str!("golden/vllm-router-0.1.17.json");
    let compared = compare(recording, sglang(SglangVersion::V0_3_2));
    assert_eq!(compared, Compared { decisions: 1_500, tied: 572 });
}

fn smg_params(recorded: &Recorded) -> SmgParams {
    SmgParams {
        cache_threshold: recorded.cache_threshold,
        spill_abs_threshold: recorded.balance_abs_threshold,
        spill_rel_threshold: recorded.balance_rel_threshold,
        ..SmgParams::default()
    }
}

#[test]
fn smg_1_13_0() {
    let compared = compare(include_str!("golden/smg-1.13.0.json"), |recorded| {
        SmgCacheAware::new(smg_params(recorded), &cluster(recorded.workers, BLOCK_SIZE), 1)
    });
    assert_eq!(compared, Compared { decisions: 1_500, tied: 200 });
}

/// Workers of as many KV blocks as the recorder says they have.
fn of_1000_blocks(recorded: &Recorded) -> ClusterSpec {
    with_limits(recorded.workers, BLOCK_SIZE, WorkerLimits { blocks: 1_000, ..LIMITS })
}

#[test]
fn smg_1_13_0_with_reports() {
    let recording = include_str!("golden/smg-1.13.0-reports.json");
    let make = |recorded: &Recorded| {
        SmgCacheAware::new(smg_params(recorded), &of_1000_blocks(recorded), 1)
    };
    let (compared, differing) = compare_with_reports(recording, make, SmgCacheAware::read_reports);
    assert_eq!(compared, Compared { decisions: 600, tied: 8 });
    assert_eq!(differing, [""; 0]);
}

/// Of two workers, so that both are drawn.
#[test]
fn smg_1_13_0_power_of_two() {
    let make = |recorded: &Recorded| {
        SmgPowerOfTwo::new(SmgPowerOfTwoParams::default(), &of_1000_blocks(recorded), 1)
    };
    let compared = compare(include_str!("golden/smg-1.13.0-power-of-two.json"), make);
    assert_eq!(compared, Compared { decisions: 1_500, tied: 533 });
    let recording = include_str!("golden/smg-1.13.0-power-of-two-reports.json");
    let (compared, differing) = compare_with_reports(recording, make, SmgPowerOfTwo::read_reports);
    assert_eq!(differing, [""; 0]);
    assert_eq!(compared, Compared { decisions: 600, tied: 7 });
}

/// By requests in flight, and by the expected wait where these are equal.
#[test]
fn smg_power_of_two_by_requests() {
    let chosen = |power_of_two_load_metric| {
        let params = SmgPowerOfTwoParams { power_of_two_load_metric, ..Default::default() };
        let cluster = with_limits(3, BLOCK_SIZE, WorkerLimits { blocks: 1_000, ..LIMITS });
        let mut policy = SmgPowerOfTwo::new(params, &cluster, 1);
        let mut texts = Texts::default();
        let text = texts.add(None);
        let mut workers = Workers::new(vec![WorkerView::default(); 3]);
        workers.report(&reports("0,0,10;9,0,700;9,0,600", SimTime::ZERO));
        policy.read_reports(&workers.view());
        for (id, worker) in [(0, 0), (1, 0), (2, 1), (3, 2)] {
            let request = texts.request(id, text, 100, BLOCK_SIZE);
            policy.book(&request.route_view(BLOCK_SIZE), WorkerId(worker));
            workers.sent(WorkerId(worker));
        }
        let request = texts.request(9, text, 100, BLOCK_SIZE);
        let costs = policy.explain(&request.route_view(BLOCK_SIZE), &workers.view());
        let best = costs.iter().min_by(|a, b| a.cost.total_cmp(&b.cost)).unwrap().worker;
        match policy.route(SimTime::ZERO, &request.route_view(BLOCK_SIZE), &workers.view()) {
            Verdict::Send(worker) => (best, worker),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(chosen(LoadMetric::ExpectedWait).0, WorkerId(0));
    assert_eq!(chosen(LoadMetric::Requests).0, WorkerId(2));
    assert_eq!(chosen(LoadMetric::LeastRequests), (WorkerId(2), WorkerId(2)));
}

#[test]
fn ray_serve_2_60_0() {
    let compared = compare(include_str!("golden/ray-serve-2.60.0.json"), |recorded| {
        let params = RayParams {
            imbalanced_threshold: Some(recorded.balance_abs_threshold),
            match_rate_threshold: recorded.cache_threshold,
        };
        RayPrefixAffinity::new(params, &cluster(recorded.workers, BLOCK_SIZE), 1)
    });
    assert_eq!(compared, Compared { decisions: 1_600, tied: 42 });
}

/// Of a step: who is free, the requests of all, and the choices of round robin, least loaded
/// and power of two.
type Step = (Vec<u32>, Vec<u32>, u32, usize, usize);

#[derive(Deserialize)]
struct Steps {
    steps: Vec<Step>,
}

/// While single workers are left out as they are busy.
#[test]
fn modes_of_dynamo_1_6_1() {
    let Steps { steps } =
        serde_json::from_str(include_str!("golden/dynamo-modes-1.6.1.json")).unwrap();
    let workers = u32::try_from(steps[0].1.len()).unwrap();
    let cluster = cluster(workers, BLOCK_SIZE);
    let policy = |name: &str| RouterSettings::new(name).chosen().build(&cluster, 1);
    let (mut in_turn, mut least) = (policy("round_robin"), policy("least_loaded"));
    let (mut of_two, mut any) = (policy("power_of_two"), policy("random"));
    let mut pairs = 0;
    for (number, (free, loads, turn, least_loaded, drawn)) in steps.iter().enumerate() {
        let view = |&inflight: &u32| WorkerView { inflight, ..WorkerView::default() };
        let mut known = Workers::new(loads.iter().map(view).collect());
        for worker in (0..workers).filter(|worker| !free.contains(worker)) {
            assert!(known.leave_out(WorkerId(worker), true));
        }
        let mut texts = Texts::default();
        let text = texts.add(None);
        let request = texts.request(0, text, 100, BLOCK_SIZE);
        let chosen = |policy: &mut Box<dyn Policy>| {
            let request = request.route_view(BLOCK_SIZE);
            match policy.route(SimTime::ZERO, &request, &known.view()) {
                Verdict::Send(worker) => worker,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(chosen(&mut in_turn), WorkerId(*turn), "step {number}");
        assert_eq!(loads[chosen(&mut least).index()], loads[*least_loaded], "step {number}");
        let two = chosen(&mut of_two);
        assert!(free.contains(&two.0) && free.contains(&chosen(&mut any).0), "step {number}");
        if free.len() <= 2 {
            assert_eq!(loads[two.index()], loads[*drawn], "step {number}");
            pairs += 1;
        }
    }
    assert_eq!((steps.len(), pairs), (1_500, 1_013));
}

/// Of a state: which of the parameters, prompt tokens, what each worker holds and has in
/// flight, and the choice.
type State = (usize, u32, Vec<u32>, Vec<u32>, usize);

/// The same, and who is busy.
type BusyState = (usize, u32, Vec<u32>, Vec<u32>, usize, Vec<u32>);

#[derive(Deserialize)]
struct States<S> {
    parameters: Vec<(f64, u32, f64)>,
    states: Vec<S>,
}

/// Whether the crate's choice is one of those that ours thinks best, in every state.
fn compare_two_tier(parameters: &[(f64, u32, f64)], states: &[BusyState]) -> Compared {
    let mut compared = Compared { decisions: 0, tied: 0 };
    for (number, (which, prompt_tokens, held, loads, chosen, busy)) in states.iter().enumerate() {
        let (cache_threshold, balance_abs_threshold, balance_rel_threshold) = parameters[*which];
        let params =
            TwoTierParams { cache_threshold, balance_abs_threshold, balance_rel_threshold };
        let cluster = cluster(u32::try_from(held.len()).unwrap(), BLOCK_SIZE);
        let mut policy = DynamoTwoTier::new(params, &cluster, 1);
        let mut texts = Texts::default();
        let text = texts.add(None);
        for (worker, blocks) in (0..).map(WorkerId).zip(held) {
            for event in texts.stored(text, 0, *blocks) {
                policy.observe_kv(worker, &event);
            }
        }
        let view = |&inflight: &u32| WorkerView { inflight, ..WorkerView::default() };
        let mut workers = Workers::new(loads.iter().map(view).collect());
        for &worker in busy {
            workers.leave_out(WorkerId(worker), true);
        }
        let request = texts.request(0, text, *prompt_tokens, BLOCK_SIZE);
        let request = request.route_view(BLOCK_SIZE);
        let mut costs = policy.explain(&request, &workers.view());
        costs.retain(|parts| !busy.contains(&parts.worker.0));
        let lowest = costs.iter().map(|parts| parts.cost).fold(f64::INFINITY, f64::min);
        let best: Vec<WorkerId> =
            (costs.iter().filter(|parts| parts.cost == lowest)).map(|parts| parts.worker).collect();
        assert!(best.contains(&WorkerId::at(*chosen)), "state {number}: {costs:?}");
        let own = policy.route(SimTime::ZERO, &request, &workers.view());
        assert!(best.iter().any(|worker| own == Verdict::Send(*worker)), "state {number}");
        compared.decisions += 1;
        compared.tied += usize::from(best.len() > 1);
    }
    compared
}

#[test]
fn dynamo_two_tier_1_6_1() {
    let recording = include_str!("golden/dynamo-two-tier-1.6.1.json");
    let States { parameters, states } = serde_json::from_str(recording).unwrap();
    let with_none_busy = |(which, tokens, held, loads, chosen): State| -> BusyState {
        (which, tokens, held, loads, chosen, Vec::new())
    };
    let states: Vec<BusyState> = states.into_iter().map(with_none_busy).collect();
    let compared = compare_two_tier(&parameters, &states);
    assert_eq!(compared, Compared { decisions: 3_000, tied: 548 });
}

#[test]
fn dynamo_two_tier_1_6_1_with_busy_workers() {
    let recording = include_str!("golden/dynamo-two-tier-busy-1.6.1.json");
    let States { parameters, states } = serde_json::from_str(recording).unwrap();
    let compared = compare_two_tier(&parameters, &states);
    assert_eq!(compared, Compared { decisions: 1_500, tied: 197 });
}

/// The recordings can tell the versions apart.
#[test]
#[should_panic(expected = "sglang-router 0.2.3")]
fn sglang_0_2_3_is_not_0_3_2() {
    compare(include_str!("golden/sglang-0.2.3.json"), sglang(SglangVersion::V0_3_2));
}
