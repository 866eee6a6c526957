//! The other routers' policies: what is particular to each.

use crate::event::WorkerEventKind;
use crate::id::{ConversationId, RequestId, WorkerId};
use crate::request::Request;
use crate::router::settings::RouterSettings;
use crate::router::testing::{FINISHED, Texts, cluster, life};
use crate::router::{Policy, Reported, Verdict, WorkerView, Workers};
use crate::time::{SimDuration, SimTime};

const BLOCK_SIZE: u32 = 16;

/// A policy with loads that the test sets itself.
struct Bench {
    policy: Box<dyn Policy>,
    workers: Vec<WorkerView>,
    requests: u32,
}

impl Bench {
    fn new(settings: &RouterSettings, inflight: &[u32]) -> Self {
        settings.validate().unwrap();
        let workers = u32::try_from(inflight.len()).unwrap();
        let view = |&inflight| WorkerView { inflight, ..WorkerView::default() };
        Self {
            policy: settings.chosen().build(&cluster(workers, BLOCK_SIZE), 1),
            workers: inflight.iter().map(view).collect(),
            requests: 0,
        }
    }

    fn route_at(&mut self, now: SimTime, request: &Request) -> usize {
        let request = Request { id: RequestId(self.requests), ..request.clone() };
        self.requests += 1;
        let workers = Workers::new(self.workers.clone());
        match self.policy.route(now, &request.route_view(BLOCK_SIZE), &workers.view()) {
            Verdict::Send(target) => target.index(),
            other => panic!("{other:?}"),
        }
    }

    fn route(&mut self, request: &Request) -> usize {
        self.route_at(SimTime::ZERO, request)
    }
}

fn settings(policy: &str) -> RouterSettings {
    RouterSettings::new(policy)
}

/// A prompt of so many blocks of a text, and a few tokens more.
fn prompt(texts: &Texts, text: usize, blocks: u32) -> Request {
    texts.request(0, text, blocks * BLOCK_SIZE + 3, BLOCK_SIZE)
}

fn secs(secs: u64) -> SimTime {
    SimTime::ZERO + SimDuration::from_secs(secs)
}

#[test]
fn power_of_two_takes_the_better_of_each_pair() {
    let mut texts = Texts::default();
    let text = texts.add(None);
    let mut bench = Bench::new(&settings("power_of_two"), &[0, 5, 9]);
    let mut counts = [0; 3];
    (0..3_000).for_each(|_| counts[bench.route(&prompt(&texts, text, 1))] += 1);
    // Of three equally likely pairs, worker 0 wins two and worker 1 one.
    assert_eq!(counts[2], 0);
    assert!((1_850..2_150).contains(&counts[0]), "{counts:?}");
}

#[test]
fn a_session_stays_until_it_expires() {
    let mut texts = Texts::default();
    let text = texts.add(None);
    let turn = prompt(&texts, text, 2);
    let mut bench = Bench::new(&settings("session_affinity"), &[3, 1, 2]);
    assert_eq!(bench.route(&turn), 1, "a new session goes to the least loaded worker");
    bench.workers[1].inflight = 90;
    assert_eq!(bench.route_at(secs(200), &turn), 1);
    // In flight it never expires; idle it does, counted from the last activity.
    assert_eq!(bench.route_at(secs(2_000), &turn), 1);
    for request in 0..3 {
        bench.policy.observe(secs(2_100), &life(1, request, FINISHED));
    }
    assert_eq!(bench.route_at(secs(2_400), &turn), 1);
    bench.policy.observe(secs(2_401), &life(1, 3, FINISHED));
    assert_eq!(bench.route_at(secs(2_702), &turn), 2);
}

#[test]
fn a_soft_session_leaves_a_busy_worker_for_good() {
    let mut texts = Texts::default();
    let text = texts.add(None);
    let turn = prompt(&texts, text, 2);
    let soft = settings("session_affinity").with("session_affinity", "soft");
    let mut bench = Bench::new(&soft, &[0, 1, 1]);
    assert_eq!(bench.route(&turn), 0);
    bench.workers[0].inflight = 9;
    assert_eq!(bench.route(&turn), 0, "8 more than the least loaded is borne");
    bench.workers[0].inflight = 10;
    let moved = bench.route(&turn);
    assert_ne!(moved, 0);
    bench.workers[0].inflight = 0;
    assert_eq!(bench.route(&turn), moved);
}

#[test]
fn a_new_worker_takes_keys_from_others_and_moves_no_other() {
    let loose = settings("consistent_hash").with("hash_load_factor", 1e6);
    let (mut four, mut five) = (Bench::new(&loose, &[0; 4]), Bench::new(&loose, &[0; 5]));
    let mut texts = Texts::default();
    let mut moved = 0;
    for _ in 0..1_000 {
        let text = texts.add(None);
        let before = four.route(&prompt(&texts, text, 3));
        let after = five.route(&prompt(&texts, text, 3));
        assert!(after == before || after == 4, "{before} to {after}");
        moved += usize::from(after == 4);
        // Only the first two blocks count, so another ending changes nothing.
        let ending = texts.add(Some((text, 2)));
        assert_eq!(four.route(&prompt(&texts, ending, 9)), before);
    }
    assert!((120..280).contains(&moved), "{moved} of 1000 moved, 200 expected");
}

#[test]
fn bounded_loads_are_bounded() {
    let mut texts = Texts::default();
    let text = texts.add(None);
    let mut bench = Bench::new(&settings("consistent_hash"), &[0; 4]);
    for sent in 1..=400_u32 {
        let worker = bench.route(&prompt(&texts, text, 3));
        bench.workers[worker].inflight += 1;
        let most = (f64::from(sent) / 4.0 * 1.25).ceil();
        assert!(bench.workers.iter().all(|worker| f64::from(worker.inflight) <= most));
    }
}

#[test]
fn sglang_follows_matches_while_loads_are_balanced() {
    let mut texts = Texts::default();
    let (text, other) = (texts.add(None), texts.add(None));
    let until_0_2_3 = settings("sglang_cache_aware").with("sglang_version", "0.2.3");
    let mut bench = Bench::new(&until_0_2_3, &[0, 0, 0]);
    let home = bench.route(&prompt(&texts, text, 10));
    assert_eq!(bench.route(&prompt(&texts, text, 14)), home);
    // 3 of 11 blocks are less than 0.3: to a worker that got nothing yet.
    let branch = texts.add(Some((text, 3)));
    let second = bench.route(&prompt(&texts, branch, 11));
    assert_ne!(second, home);
    let third = bench.route(&prompt(&texts, other, 5));
    assert_eq!(third, 3 - home - second);
    // Imbalanced means by both thresholds: by more than 64 requests...
    bench.workers[home].inflight = 64;
    assert_eq!(bench.route(&prompt(&texts, text, 14)), home);
    bench.workers[home].inflight = 65;
    assert_ne!(bench.route(&prompt(&texts, text, 14)), home);
    // ...and by more than half.
    bench.workers[home].inflight = 0;
    bench.workers[second].inflight = 65;
    assert_ne!(bench.route(&prompt(&texts, branch, 11)), second);
    bench.workers.iter_mut().for_each(|worker| worker.inflight += 130);
    assert_eq!(bench.route(&prompt(&texts, other, 5)), third);
    bench.workers[third].inflight = 195;
    bench.workers[second].inflight = 130;
    assert_eq!(bench.route(&prompt(&texts, other, 5)), third);
}

#[test]
fn sglang_forgets_leaves_first() {
    let mut texts = Texts::default();
    let (text, other) = (texts.add(None), texts.add(None));
    let until_0_2_3 = settings("sglang_cache_aware").with("sglang_version", "0.2.3");
    let small = until_0_2_3.with("max_tree_tokens", 160);
    // After two minutes the first 10 of 20 blocks are left: a match for the same
    // prompt, not for one of 40 blocks, which goes to the smaller tree.
    for (blocks, stays) in [(20, true), (40, false)] {
        let mut bench = Bench::new(&small, &[0, 0]);
        let home = bench.route(&prompt(&texts, text, 20));
        let away = bench.route(&prompt(&texts, other, 2));
        assert_ne!(home, away);
        let again = bench.route_at(secs(121), &prompt(&texts, text, blocks));
        assert_eq!(again == home, stays, "{blocks} blocks");
    }
}

#[test]
fn the_inference_extension_weighs_its_scorers() {
    let mut texts = Texts::default();
    let text = texts.add(None);
    let mut bench = Bench::new(&settings("inference_extension"), &[0, 0]);
    let home = bench.route(&prompt(&texts, text, 10));
    let report = |at, waiting, used_blocks| {
        Some(Reported { at: secs(at), running: 0, waiting, used_blocks })
    };
    // Prefix 3 against queue 2: the match wins over the shorter queue...
    bench.workers[home].reported = report(1, 5, 5_000);
    bench.workers[1 - home].reported = report(1, 0, 5_000);
    let request = prompt(&texts, text, 10);
    let workers = Workers::new(bench.workers.clone());
    let mut scores = bench.policy.explain(&request.route_view(BLOCK_SIZE), &workers.view());
    scores.sort_by_key(|scores| scores.worker.index() != home);
    assert_eq!(scores.iter().map(|scores| -scores.cost).collect::<Vec<_>>(), [4.0, 3.0]);
    assert_eq!(bench.route(&request), home);
    // ...but not over a shorter queue and much more free memory.
    bench.workers[home].reported = report(2, 5, 9_000);
    bench.workers[1 - home].reported = report(2, 0, 1_000);
    assert_eq!(bench.route(&prompt(&texts, text, 10)), 1 - home);
}

#[test]
fn prefix_aware_follows_the_longest_match_and_no_load() {
    let mut texts = Texts::default();
    let text = texts.add(None);
    let mut bench = Bench::new(&settings("prefix_aware"), &[0; 8]);
    let home = bench.route(&prompt(&texts, text, 4));
    bench.workers[home].inflight = 500;
    for blocks in [1, 4, 9] {
        assert_eq!(bench.route(&prompt(&texts, text, blocks)), home);
    }
}

#[test]
fn kv_aware_wants_nearly_the_whole_prompt() {
    let mut texts = Texts::default();
    let text = texts.add(None);
    let mut bench = Bench::new(&settings("kv_aware"), &[0; 3]);
    for event in texts.stored(text, 0, 10) {
        bench.policy.observe_kv(WorkerId(2), &event);
    }
    // 2,000 tokens may be left over after 160.
    let ask = |tokens| texts.request(0, text, tokens, BLOCK_SIZE);
    assert_eq!(bench.route(&ask(2_160)), 2);
    assert_eq!(bench.route(&ask(2_161)), 0, "the fewest requests in the last minute");
    assert_eq!(bench.route(&ask(2_161)), 1);
    // A minute later the first requests are forgotten.
    bench.route_at(secs(30), &ask(2_161));
    assert_eq!(bench.route_at(secs(61), &ask(2_161)), 1);
}

#[test]
fn ttft_estimates_add_up() {
    let mut texts = Texts::default();
    let (text, other) = (texts.add(None), texts.add(None));
    let fast = settings("ttft_estimate").with("prefill_tokens_per_s", 100.0);
    let mut bench = Bench::new(&fast, &[0, 0]);
    for event in texts.stored(text, 0, 10) {
        bench.policy.observe_kv(WorkerId(1), &event);
    }
    let request = texts.request(7, text, 320, BLOCK_SIZE);
    let costs = |bench: &Bench| {
        let workers = Workers::new(bench.workers.clone());
        let parts = bench.policy.explain(&request.route_view(BLOCK_SIZE), &workers.view());
        parts.iter().map(|parts| parts.cost).collect::<Vec<_>>()
    };
    // 320 tokens, 160 of them held by worker 1, at 100 tokens a second.
    assert_eq!(costs(&bench), [3.2, 1.6]);
    assert_eq!(bench.route(&request), 1);
    assert_eq!(costs(&bench), [3.2, 3.2]);
    // 64 more requests fill worker 0's batch; one place is free every half second.
    for at in [1_000, 1_500, 2_000] {
        let now = SimTime::ZERO + SimDuration::from_millis(at);
        bench.policy.observe(now, &life(0, 900, FINISHED));
    }
    let short =
        Request { conversation: ConversationId(9), ..texts.request(0, other, 1, BLOCK_SIZE) };
    for _ in 0..200 {
        bench.route(&short);
    }
    let after = costs(&bench);
    assert!(after[0] > 3.2 + 0.5, "{after:?}");
}

/// One report of every worker.
fn report(bench: &mut Bench, at: u64, of: impl Fn(usize) -> (u32, u32, u32)) {
    for (worker, view) in bench.workers.iter_mut().enumerate() {
        let (running, waiting, used_blocks) = of(worker);
        view.reported = Some(Reported { at: secs(at), running, waiting, used_blocks });
    }
}

#[test]
fn two_tiers_are_load_then_cache_then_load() {
    let mut texts = Texts::default();
    let text = texts.add(None);
    let mut bench = Bench::new(&settings("dynamo_two_tier"), &[0, 32, 5]);
    for event in texts.stored(text, 0, 6) {
        bench.policy.observe_kv(WorkerId(1), &event);
    }
    // 6 of 10 blocks are more than half, 6 of 12 are not.
    let ask = |blocks| texts.request(0, text, blocks * BLOCK_SIZE, BLOCK_SIZE);
    assert_eq!(bench.route(&ask(10)), 1);
    assert_eq!(bench.route(&ask(12)), 0);
    // A block that is begun counts.
    assert_eq!(bench.route(&texts.request(0, text, 11 * BLOCK_SIZE + 1, BLOCK_SIZE)), 0);
    // A spread of 33 is imbalanced, unless the highest is near the lowest.
    bench.workers[1].inflight = 33;
    assert_eq!(bench.route(&ask(10)), 0);
    bench.workers.iter_mut().for_each(|worker| worker.inflight += 330);
    assert_eq!(bench.route(&ask(10)), 1);
}

#[test]
fn smg_goes_by_what_is_reported_and_sent_since() {
    let mut texts = Texts::default();
    let one = |texts: &mut Texts| {
        let text = texts.add(None);
        prompt(texts, text, 4)
    };
    let settings = settings("smg_cache_aware").with("overload_kv_usage", 1.0);
    let mut bench = Bench::new(&settings, &[0, 0]);
    // 3 requests against 1: two more go to the other before they are level.
    report(&mut bench, 1, |worker| if worker == 0 { (2, 1, 0) } else { (1, 0, 0) });
    let chosen: Vec<usize> = (0..2).map(|_| bench.route(&one(&mut texts))).collect();
    assert_eq!(chosen, [1, 1]);
    // The same report again says nothing new; another one counts alone.
    report(&mut bench, 2, |worker| if worker == 0 { (0, 0, 9_900) } else { (3, 0, 0) });
    // Memory that is 99 % full weighs 14.85 s, more than 28 requests of 0.512 s.
    let chosen: Vec<usize> = (0..27).map(|_| bench.route(&one(&mut texts))).collect();
    assert!(chosen.iter().all(|worker| *worker == 1), "{chosen:?}");
    assert_eq!(bench.route(&one(&mut texts)), 0);
}

#[test]
fn smg_leaves_out_workers_that_report_an_overload() {
    let mut texts = Texts::default();
    let text = texts.add(None);
    let mut bench = Bench::new(&settings("smg_cache_aware"), &[0, 0, 0]);
    let home = bench.route(&prompt(&texts, text, 10));
    // The least of both that is too much, at the home of the prompt and at one that is idle.
    let other = (home + 1) % 3;
    report(&mut bench, 1, |worker| match worker {
        _ if worker == home => (1, 8, 0),
        _ if worker == other => (0, 0, 8_000),
        _ => (50, 7, 7_999),
    });
    let last = 3 - home - other;
    assert_eq!(bench.route(&prompt(&texts, text, 10)), last);
    // Where all are, requests in flight decide, not the prompt nor the wait.
    report(&mut bench, 2, |worker| if worker == last { (0, 9, 0) } else { (0, 0, 9_000) });
    bench.workers.iter_mut().for_each(|worker| worker.inflight = 2);
    bench.workers[other].inflight = 1;
    assert_eq!(bench.route(&prompt(&texts, text, 10)), other);
    // And none is left out for good.
    report(&mut bench, 3, |_| (0, 0, 0));
    let chosen: Vec<usize> = (0..3).map(|_| bench.route(&prompt(&texts, text, 10))).collect();
    assert!(chosen.contains(&home), "{chosen:?}");
}

#[test]
fn smg_leaves_a_home_that_is_far_above_the_mean() {
    let mut texts = Texts::default();
    let text = texts.add(None);
    let mut bench = Bench::new(&settings("smg_cache_aware"), &[0, 0, 0, 0]);
    let home = bench.route(&prompt(&texts, text, 10));
    // A mean of 2.25: twice its root, rounded up, is 3, and 4 is the least margin.
    bench.workers.iter_mut().for_each(|worker| worker.inflight = 1);
    bench.workers[home].inflight = 6;
    assert_eq!(bench.route(&prompt(&texts, text, 10)), home);
    bench.workers[home].inflight = 7;
    let spilled = bench.route(&prompt(&texts, text, 10));
    assert_ne!(spilled, home);
    // The prompt has two homes now.
    bench.workers[home].inflight = 1;
    let homes = (0..8).map(|_| bench.route(&prompt(&texts, text, 10)));
    assert!(homes.into_iter().all(|worker| worker == home || worker == spilled));
}

#[test]
fn lmetric_multiplies() {
    let mut texts = Texts::default();
    let text = texts.add(None);
    let mut bench = Bench::new(&settings("lmetric"), &[0, 0]);
    for event in texts.stored(text, 0, 8) {
        bench.policy.observe_kv(WorkerId(1), &event);
    }
    // 160 tokens on worker 0, 32 on worker 1, which takes it until it has five requests.
    let ask = |id| texts.request(id, text, 10 * BLOCK_SIZE, BLOCK_SIZE);
    for id in 0..4 {
        assert_eq!(bench.route(&ask(id)), 1);
    }
    bench.policy.observe(secs(1), &life(1, 0, FINISHED));
    assert_eq!(bench.route(&ask(4)), 1);
    let workers = Workers::new(bench.workers.clone());
    let costs = bench.policy.explain(&ask(5).route_view(BLOCK_SIZE), &workers.view());
    assert!(
        (costs[0].cost.exp() - 160.0).abs() < 1e-9 && (costs[1].cost.exp() - 160.0).abs() < 1e-9
    );
}

#[test]
fn the_stack_weighs_what_is_held_against_the_mean_load() {
    let mut texts = Texts::default();
    let (text, other) = (texts.add(None), texts.add(None));
    let mut bench = Bench::new(&settings("stack_load_aware"), &[0, 0, 0]);
    let book = |bench: &mut Bench, worker: u32| {
        // Of another front end, so that the test says where it goes.
        let request = texts.request(900 + bench.requests, other, 40, BLOCK_SIZE);
        bench.requests += 1;
        bench.policy.observe_peer(&request.route_view(BLOCK_SIZE), WorkerId(worker), 0);
        bench.workers[worker as usize].inflight += 1;
    };
    // None holds it: the fewest requests in the last minute.
    let ask = texts.request(0, text, 10 * BLOCK_SIZE, BLOCK_SIZE);
    assert_eq!((bench.route(&ask), bench.route(&ask), bench.route(&ask)), (0, 1, 2));
    let mut bench = Bench::new(&settings("stack_load_aware"), &[0, 0, 0]);
    for event in texts.stored(text, 0, 5) {
        bench.policy.observe_kv(WorkerId(2), &event);
    }
    for worker in [0, 1, 2, 2] {
        book(&mut bench, worker);
    }
    let workers = Workers::new(bench.workers.clone());
    let costs = bench.policy.explain(&ask.route_view(BLOCK_SIZE), &workers.view());
    let costs: Vec<f64> = costs.iter().map(|parts| parts.cost).collect();
    // Mean 4/3: a quarter below, and half above less half a prompt.
    assert!((costs[0] + 0.25).abs() < 1e-12 && (costs[2] - 0.0).abs() < 1e-12, "{costs:?}");
    assert_eq!(bench.route(&ask), 0, "the lowest id of equals");
}

#[test]
fn aibrix_passes_by_matches_far_above_the_mean() {
    let mut texts = Texts::default();
    let text = texts.add(None);
    // The only one of eight with requests is 2.65 deviations above the mean, and 2 are
    // allowed.
    let mut bench = Bench::new(&settings("aibrix_prefix_cache"), &[0; 8]);
    let home = bench.route(&prompt(&texts, text, 10));
    bench.workers[home].inflight = 1;
    assert_ne!(bench.route(&prompt(&texts, text, 12)), home);
    // The only one of two is one above. A spread of more than 16 needs no match.
    let mut bench = Bench::new(&settings("aibrix_prefix_cache"), &[0, 0]);
    let home = bench.route(&prompt(&texts, text, 10));
    bench.workers[home].inflight = 1;
    assert_eq!(bench.route(&prompt(&texts, text, 10)), home);
    bench.workers[home].inflight = 17;
    assert_eq!(bench.route(&prompt(&texts, text, 10)), 1 - home);
}

#[test]
fn ray_takes_the_least_loaded_of_a_group() {
    let mut texts = Texts::default();
    let (text, other) = (texts.add(None), texts.add(None));
    let threshold = settings("ray_prefix_affinity").with("imbalanced_threshold", 20);
    let mut bench = Bench::new(&threshold, &[0, 0, 0]);
    let home = bench.route(&prompt(&texts, text, 10));
    bench.workers[home].inflight = 20;
    assert_eq!(bench.route(&prompt(&texts, text, 10)), home);
    // 1 of 12 blocks is less than a tenth: to where the least was sent, whatever its load.
    let branch = texts.add(Some((text, 1)));
    let second = bench.route(&prompt(&texts, branch, 12));
    assert_ne!(second, home);
    let third = bench.route(&prompt(&texts, other, 30));
    assert_eq!(third, 3 - home - second);
    // Imbalanced: the less loaded of two, so never the busiest.
    bench.workers[home].inflight = 21;
    for _ in 0..20 {
        assert_ne!(bench.route(&prompt(&texts, text, 10)), home);
    }
}

#[test]
fn a_service_balances_connections() {
    let mut texts = Texts::default();
    let text = texts.add(None);
    let request = prompt(&texts, text, 2);
    let connections = |how: &str| settings("service").with("service_connections", how);
    let mut bench = Bench::new(&connections("per_request"), &[0; 4]);
    let mut counts = [0; 4];
    (0..4_000).for_each(|_| counts[bench.route(&request)] += 1);
    assert!(counts.iter().all(|count| (850..1_150).contains(count)), "{counts:?}");
    // A conversation stays for 90 s.
    let mut bench = Bench::new(&connections("per_conversation"), &[0; 50]);
    let home = bench.route(&request);
    assert!((0..30).all(|_| bench.route_at(secs(90), &request) == home));
    let later = (2..40).map(|n| bench.route_at(secs(90 * n + n), &request));
    assert!(later.into_iter().any(|worker| worker != home), "a new connection each time");
    // A pool opens as many connections as requests are in flight, and uses the last again.
    let mut bench = Bench::new(&connections("pooled"), &[0; 50]);
    let first = bench.route(&request);
    bench.route(&request);
    bench.policy.observe(secs(1), &life(u32::try_from(first).unwrap(), 0, FINISHED));
    assert_eq!(bench.route_at(secs(2), &request), first);
}

#[test]
fn llmd_keeps_to_holders_until_they_are_far_busier() {
    let mut texts = Texts::default();
    let (text, other) = (texts.add(None), texts.add(None));
    let small = settings("llmd_token_load").with("peak_prefill_tokens_per_s", 1_000.0);
    let mut bench = Bench::new(&small.clone().with("max_ttft_penalty", "2s"), &[0, 0, 0]);
    // Blocks of 64 tokens are four of the router's.
    let home = bench.route(&texts.request(0, text, 40 * BLOCK_SIZE, BLOCK_SIZE));
    assert_eq!(bench.route(&texts.request(1, text, 48 * BLOCK_SIZE, BLOCK_SIZE)), home);
    // 10 of 13 blocks are less than four fifths: by load alone.
    let branch = texts.add(Some((text, 40)));
    let away = bench.route(&texts.request(2, branch, 52 * BLOCK_SIZE, BLOCK_SIZE));
    assert_ne!(away, home);
    // Home has 640 + 128 tokens in flight, and gets 1,200 more: a computation takes 1.97 s
    // longer there than on the idle worker, and 2.03 s with the next 64.
    let book = |bench: &mut Bench, worker: usize, tokens: u32| {
        let request = texts.request(800 + bench.requests, other, tokens, BLOCK_SIZE);
        bench.requests += 1;
        bench.policy.observe_peer(&request.route_view(BLOCK_SIZE), WorkerId::at(worker), 0);
    };
    book(&mut bench, home, 1_200);
    assert_eq!(bench.route(&texts.request(3, text, 52 * BLOCK_SIZE, BLOCK_SIZE)), home);
    assert_ne!(bench.route(&texts.request(4, text, 52 * BLOCK_SIZE, BLOCK_SIZE)), home);
    // First tokens take them off.
    let mut bench = Bench::new(&small.with("max_ttft_penalty", "500ms"), &[0, 0]);
    let home = bench.route(&texts.request(0, text, 40 * BLOCK_SIZE, BLOCK_SIZE));
    assert_eq!(bench.route(&texts.request(1, text, 28 * BLOCK_SIZE, BLOCK_SIZE)), 1 - home);
    bench
        .policy
        .observe(secs(1), &life(u32::try_from(home).unwrap(), 0, WorkerEventKind::FirstToken));
    let level = bench.route(&texts.request(2, text, 28 * BLOCK_SIZE, BLOCK_SIZE));
    assert_eq!(level, home, "both hold it, and home has nothing in flight");
}

#[test]
fn llmd_counts_what_it_sent_until_events_tell() {
    let mut texts = Texts::default();
    let text = texts.add(None);
    let precise = settings("llmd_token_load").with("prefix_index", "precise");
    let ask = texts.request(0, text, 10 * BLOCK_SIZE, BLOCK_SIZE);
    let held = |bench: &mut Bench, now: u64| {
        // A short prompt makes the policy look at the time.
        bench.route_at(secs(now), &texts.request(0, text, 3, BLOCK_SIZE));
        let workers = Workers::new(bench.workers.clone());
        let costs = bench.policy.explain(&ask.route_view(BLOCK_SIZE), &workers.view());
        costs.iter().map(|parts| parts.parts[0].1).collect::<Vec<_>>()
    };
    let mut bench = Bench::new(&precise.clone().with("speculative_ttl", "2s"), &[0, 0]);
    let home = bench.route(&ask);
    assert_eq!(held(&mut bench, 1)[home], 1.0);
    assert_eq!(held(&mut bench, 2), [0.0, 0.0]);
    for event in texts.stored(text, 0, 5) {
        bench.policy.observe_kv(WorkerId::at(1 - home), &event);
    }
    assert_eq!(held(&mut bench, 3)[1 - home], 0.5);
    let mut bench = Bench::new(&precise, &[0, 0]);
    bench.route(&ask);
    assert_eq!(held(&mut bench, 1), [0.0, 0.0]);
}
