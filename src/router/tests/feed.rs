//! What a front end hears, and when.

use crate::event::{KvEvent, RejectReason, WorkerEventKind};
use crate::id::{BlockId, WorkerId};
use crate::request::{BlockRun, RouteRequest};
use crate::router::feed::FeedSettings;
use crate::router::testing::{FINISHED, Texts, life};
use crate::router::{ClusterView, FrontEnd, Policy, Verdict};
use crate::time::{SimDuration, SimTime};
use proptest::prelude::*;
use std::sync::mpsc::{Receiver, Sender, channel};

/// Sends everything to worker 0 and tells what it hears.
struct Ear(Sender<(WorkerId, KvEvent)>);

impl Policy for Ear {
    fn route(&mut self, _: SimTime, _: &RouteRequest<'_>, _: &ClusterView<'_>) -> Verdict {
        Verdict::send(WorkerId(0))
    }
    fn wants_kv_events(&self) -> bool {
        true
    }
    fn observe_kv(&mut self, worker: WorkerId, event: &KvEvent) {
        self.0.send((worker, *event)).unwrap();
    }
}

fn front_end(feed: &FeedSettings) -> (FrontEnd, Receiver<(WorkerId, KvEvent)>) {
    let (ear, heard) = channel();
    (FrontEnd::new(Box::new(Ear(ear)), 3, feed, 7), heard)
}

fn route(front_end: &mut FrontEnd, now: SimTime) {
    let mut texts = Texts::default();
    let text = texts.add(None);
    let request = texts.request(0, text, 10, 16);
    assert_eq!(front_end.route(now, &request.route_view(16)), Verdict::send(WorkerId(0)));
}

fn stored(block: u64, len: u32) -> KvEvent {
    KvEvent::Stored { parent: None, run: BlockRun { first: BlockId(block), len } }
}

proptest! {
    /// Events of one worker arrive in order; none before its delay, all after
    /// delay and jitter, workers in order of id, and nothing is heard that was
    /// published after the horizon.
    #[test]
    fn events_become_visible_in_order_and_in_time(
        published in prop::collection::vec((0u32..3, 0u64..5), 0..40),
        (delay, jitter) in (0u64..6, 0u64..4),
        looks in prop::collection::vec(0u64..30, 1..6),
    ) {
        let feed = FeedSettings {
            delay: SimDuration::from_ps(delay),
            jitter: SimDuration::from_ps(jitter),
            ..FeedSettings::default()
        };
        let (mut front_end, heard) = front_end(&feed);
        let mut sent: Vec<Vec<(u64, KvEvent)>> = vec![Vec::new(); 3];
        let mut at = 0;
        for (id, (worker, pause)) in (0..).zip(published) {
            at += pause;
            front_end.hear_kv(SimTime::from_ps(at), WorkerId(worker), stored(id, 1));
            sent[worker as usize].push((at, stored(id, 1)));
        }
        let mut got = vec![0; 3];
        let mut now = 0;
        for pause in looks {
            now += pause;
            route(&mut front_end, SimTime::from_ps(now));
            let mut last = WorkerId(0);
            for (worker, event) in heard.try_iter() {
                prop_assert!(worker >= last);
                last = worker;
                let (at, expected) = sent[worker.index()][got[worker.index()]];
                prop_assert_eq!(event, expected);
                prop_assert!(at + delay <= now);
                prop_assert!(SimTime::from_ps(at) <= front_end.kv_horizon(SimTime::from_ps(now)));
                got[worker.index()] += 1;
            }
            for (sent, &got) in sent.iter().zip(&got) {
                prop_assert!(sent.get(got).is_none_or(|(at, _)| at + delay + jitter > now));
            }
        }
    }
}

proptest! {
    /// With recovery nothing is lost, doubled or out of order, up to the last
    /// event that is followed by one that arrives.
    #[test]
    fn recovery_makes_good_what_was_lost_or_overtaken(
        published in prop::collection::vec((0u32..3, 0u64..50), 0..60),
        (loss_ratio, reorder_ratio, jitter) in (0.0..0.9f64, 0.0..0.9f64, 0u64..40),
        looks in prop::collection::vec(0u64..400, 0..6),
    ) {
        let feed = FeedSettings {
            delay: SimDuration::from_ps(5),
            jitter: SimDuration::from_ps(jitter),
            loss_ratio,
            reorder_ratio,
            reorder_delay: SimDuration::from_ps(70),
            recovery_delay: Some(SimDuration::from_ps(90)),
            ..FeedSettings::default()
        };
        let (mut front_end, heard) = front_end(&feed);
        let mut sent: Vec<Vec<KvEvent>> = vec![Vec::new(); 3];
        let mut at = 0;
        // Enough at the end that some of them arrive.
        let tail = (0..600u32).map(|n| (n % 3, 10));
        for (id, (worker, pause)) in (0..).zip(published.iter().copied().chain(tail)) {
            at += pause;
            front_end.hear_kv(SimTime::from_ps(at), WorkerId(worker), stored(id, 1));
            sent[worker as usize].push(stored(id, 1));
        }
        for look in looks.into_iter().chain([1_000_000]) {
            route(&mut front_end, SimTime::from_ps(look.max(1)));
        }
        let mut got: Vec<Vec<KvEvent>> = vec![Vec::new(); 3];
        heard.try_iter().for_each(|(worker, event)| got[worker.index()].push(event));
        for (worker, (got, sent)) in got.iter().zip(&sent).enumerate() {
            prop_assert_eq!(got.as_slice(), &sent[..got.len()]);
            let before_tail = published.iter().filter(|(to, _)| *to as usize == worker).count();
            prop_assert!(got.len() > before_tail);
        }
    }

    /// A front end that starts anew and is told what workers hold knows what it
    /// would know without; one that is not told knows what comes after.
    #[test]
    fn a_restart_forgets_and_recovery_tells_again(
        published in prop::collection::vec((0u32..3, 0u64..50), 0..60),
        (restart, delay, told) in (0u64..1_000, 0u64..100, any::<bool>()),
    ) {
        let feed = FeedSettings { delay: SimDuration::from_ps(delay), ..FeedSettings::default() };
        let (ear, heard) = channel();
        let (deaf, _kept) = channel();
        let recovery = told.then_some(SimDuration::from_ps(300));
        let restart = SimTime::from_ps(restart);
        let mut front_end = FrontEnd::new(Box::new(Ear(deaf)), 3, &feed, 7).restart_at(
            restart,
            Box::new(Ear(ear)),
            recovery,
        );
        let mut sent: Vec<Vec<KvEvent>> = vec![Vec::new(); 3];
        let mut at = SimTime::ZERO;
        for (id, (worker, pause)) in (0..).zip(published) {
            at += SimDuration::from_ps(pause);
            if at >= restart && front_end.restart_due().is_some() {
                front_end.restart(restart);
            }
            front_end.hear_kv(at, WorkerId(worker), stored(id, 1));
            if told || at >= restart {
                sent[worker as usize].push(stored(id, 1));
            }
        }
        if front_end.restart_due().is_some() {
            front_end.restart(restart);
        }
        route(&mut front_end, SimTime::from_ps(restart.as_ps() + 299));
        if told {
            prop_assert_eq!(heard.try_iter().count(), 0, "not before workers have told");
        }
        let mut got: Vec<Vec<KvEvent>> = vec![Vec::new(); 3];
        route(&mut front_end, SimTime::from_ps(1_000_000));
        heard.try_iter().for_each(|(worker, event)| got[worker.index()].push(event));
        prop_assert_eq!(got, sent);
    }
}

#[test]
fn lost_events_never_arrive() {
    for (loss_ratio, least, most) in [(1.0, 0, 0), (0.5, 430, 570), (0.0, 1_000, 1_000)] {
        let (mut front_end, heard) =
            front_end(&FeedSettings { loss_ratio, ..FeedSettings::instant() });
        for block in 0..1_000 {
            front_end.hear_kv(SimTime::ZERO, WorkerId(1), stored(block, 1));
        }
        route(&mut front_end, SimTime::ZERO);
        let count = heard.try_iter().count();
        assert!((least..=most).contains(&count), "{count} of 1000 at loss {loss_ratio}");
    }
}

#[test]
fn inflight_counts_from_dispatch_to_end() {
    let (mut front_end, _heard) = front_end(&FeedSettings::instant());
    route(&mut front_end, SimTime::ZERO);
    route(&mut front_end, SimTime::ZERO);
    let inflight =
        |front_end: &FrontEnd| front_end.workers().iter().map(|w| w.inflight).collect::<Vec<_>>();
    assert_eq!(inflight(&front_end), vec![2, 0, 0]);
    for kind in [
        WorkerEventKind::Scheduled { cached_tokens: 0 },
        WorkerEventKind::FirstToken,
        WorkerEventKind::Preempted,
    ] {
        front_end.observe(SimTime::ZERO, &life(0, 0, kind));
        assert_eq!(inflight(&front_end), vec![2, 0, 0]);
    }
    front_end.observe(SimTime::ZERO, &life(0, 0, FINISHED));
    assert_eq!(inflight(&front_end), vec![1, 0, 0]);
    front_end.observe(SimTime::ZERO, &life(0, 1, WorkerEventKind::Rejected(RejectReason::KvPool)));
    assert_eq!(inflight(&front_end), vec![0, 0, 0]);
}

#[test]
#[should_panic(expected = "published at")]
fn a_worker_must_publish_in_order() {
    let (mut front_end, _heard) = front_end(&FeedSettings::instant());
    front_end.hear_kv(SimTime::from_ps(2), WorkerId(0), stored(0, 1));
    front_end.hear_kv(SimTime::from_ps(1), WorkerId(0), stored(1, 1));
}
