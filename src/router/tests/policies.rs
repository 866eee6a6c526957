//! Laws of all policies, and the policies that know no cache.

use crate::id::WorkerId;
use crate::router::feed::FeedSettings;
use crate::router::policies;
use crate::router::settings::RouterSettings;
use crate::router::testing::history::{Act, BLOCK_SIZE, Heard, History, any_acts};
use crate::router::testing::{Texts, any_texts, cluster};
use crate::router::{FrontEnd, Verdict, WorkerView, Workers};
use crate::time::{SimDuration, SimTime};
use proptest::prelude::*;

/// The workers that `policy` sends 3,000 requests to when `inflight` never changes.
fn choices(policy: &str, inflight: &[u32], seed: u64) -> Vec<usize> {
    let mut texts = Texts::default();
    let text = texts.add(None);
    let request = texts.request(0, text, 100, 16);
    let cluster = cluster(u32::try_from(inflight.len()).unwrap(), 16);
    let mut policy = RouterSettings::new(policy).chosen().build(&cluster, seed);
    let view = |&inflight| WorkerView { inflight, ..WorkerView::default() };
    let workers = Workers::new(inflight.iter().map(view).collect());
    let mut choose = || match policy.route(SimTime::ZERO, &request.route_view(16), &workers.view())
    {
        Verdict::Send(target) => target.index(),
        other => panic!("{other:?}"),
    };
    (0..3_000).map(|_| choose()).collect()
}

fn counts(choices: &[usize], workers: usize) -> Vec<usize> {
    (0..workers).map(|worker| choices.iter().filter(|chosen| **chosen == worker).count()).collect()
}

#[test]
fn round_robin_takes_workers_in_turn() {
    let expected: Vec<usize> = (0..3_000).map(|n| n % 3).collect();
    assert_eq!(choices("round_robin", &[5, 0, 9], 1), expected);
}

#[test]
fn random_is_uniform_and_seeded() {
    let drawn = choices("random", &[5, 0, 9], 1);
    for count in counts(&drawn, 3) {
        assert!((900..1_100).contains(&count), "{count} of 3000");
    }
    assert_eq!(drawn, choices("random", &[5, 0, 9], 1));
    assert_ne!(drawn, choices("random", &[5, 0, 9], 2));
}

#[test]
fn least_loaded_draws_among_the_least_loaded() {
    let [busy, first, second, third] = counts(&choices("least_loaded", &[5, 2, 2, 2], 1), 4)[..]
    else {
        unreachable!()
    };
    assert_eq!(busy, 0);
    for count in [first, second, third] {
        assert!((900..1_100).contains(&count), "{count} of 3000");
    }
}

/// Policies that go to a worker with the lowest cost that they explain.
const TAKE_THE_LOWEST: [&str; 15] = [
    "least_loaded",
    "consistent_hash",
    "kv",
    "dynamo",
    "dynamo_two_tier",
    "sglang_cache_aware",
    "inference_extension",
    "smg_cache_aware",
    "llmd_token_load",
    "llmd",
    "lmetric",
    "aibrix_prefix_cache",
    "ray_prefix_affinity",
    "prefix_aware",
    "ttft_estimate",
];

/// Choices of `policy` on a history with loads, first tokens, ends and KV events.
fn play(settings: &RouterSettings, workers: u32, texts: &Texts, acts: &[Act]) -> Vec<WorkerId> {
    let policy = settings.chosen().build(&cluster(workers, BLOCK_SIZE), 3);
    let feed = settings.clone().with_feed(FeedSettings::instant()).feed();
    let mut front_end = FrontEnd::new(policy, workers, &feed, 3);
    let mut history = History::new(texts, workers);
    let mut choices = Vec::new();
    for (second, act) in (0..).zip(acts) {
        let now = SimTime::ZERO + SimDuration::from_secs(second);
        let request = history.play(act, |heard| match heard {
            Heard::Life(event) => front_end.observe(now, &event),
            Heard::Kv(worker, event) if front_end.wants_kv_events() => {
                front_end.hear_kv(now, worker, event);
            }
            Heard::Kv(..) => {}
        });
        let Some(request) = request else { continue };
        let view = request.route_view(BLOCK_SIZE);
        let costs = front_end.explain(now, &view);
        for parts in &costs {
            assert!(parts.cost.is_finite(), "{parts:?}");
        }
        let verdict = front_end.route(now, &view);
        let Verdict::Send(worker) = verdict else { panic!("{verdict:?}") };
        assert!(worker.0 < workers);
        if TAKE_THE_LOWEST.contains(&settings.policy.as_str()) {
            let lowest = costs.iter().map(|parts| parts.cost).fold(f64::INFINITY, f64::min);
            let own = costs[worker.index()].cost;
            assert!(own <= lowest, "{}: {own} is not the lowest of {costs:?}", settings.policy);
        }
        history.sent(&request, worker);
        choices.push(worker);
    }
    choices
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// Every policy lives through every history, chooses workers that exist, the
    /// same ones whenever it is asked again, and the only one where there is one.
    #[test]
    fn every_policy_lives_through_every_history(
        texts in any_texts(),
        acts in any_acts(3, 80),
        alone in any_acts(1, 30),
    ) {
        for name in policies::all().iter().map(|policy| &policy.about().name) {
            let settings: RouterSettings = toml::from_str(&format!("policy = \"{name}\"")).unwrap();
            if settings.validate().is_err() {
                continue; // left out of this build
            }
            prop_assert_eq!(play(&settings, 3, &texts, &acts), play(&settings, 3, &texts, &acts));
            let only = play(&settings, 1, &texts, &alone);
            prop_assert!(only.iter().all(|worker| *worker == WorkerId(0)), "{name}");
        }
    }
}
