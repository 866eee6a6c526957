//! Requests that 0.9 gives up.

use super::super::{KvParams, KvPolicy, Semantics};
use crate::id::WorkerId;
use crate::router::Policy;
use crate::router::decider::Decider;
use crate::router::testing::{FINISHED, Texts, cluster, life};
use crate::time::{SimDuration, SimTime};

/// Books a prompt of 10 blocks, each of another text, on worker 0 at `seconds`;
/// gives what a prompt of one block costs there after that.
fn book(policy: &mut KvPolicy, texts: &mut Texts, seconds: u64, id: u32) -> f64 {
    let now = SimTime::ZERO + SimDuration::from_secs(seconds);
    let text = texts.add(None);
    let request = texts.request(id, text, 160, 16);
    let asked = policy.look_up(now, &request.route_view(16));
    policy.book(now, asked, WorkerId(0));
    let other = texts.add(None);
    let request = texts.request(1_000, other, 16, 16);
    let asked = policy.look_up(now, &request.route_view(16));
    policy.costs(&asked)[0] - 2.0
}

/// Without first tokens, each request weighs 20: its blocks and its tokens.
#[test]
fn requests_alive_at_two_marks_are_given_up() {
    for semantics in [Semantics::V0_9, Semantics::V1_6] {
        let old = semantics == Semantics::V0_9;
        let params = KvParams::with_weight(semantics, 1.0);
        let mut policy = KvPolicy::new(params, &cluster(2, 16), 1);
        let mut texts = Texts::default();
        assert_eq!(book(&mut policy, &mut texts, 10, 0), 20.0);
        assert_eq!(book(&mut policy, &mut texts, 250, 1), 40.0);
        // First mark at 300 s, noticed at 350 s; the next is at 650 s.
        assert_eq!(book(&mut policy, &mut texts, 350, 2), 60.0);
        assert_eq!(book(&mut policy, &mut texts, 649, 3), 80.0);
        // Requests 0 and 1 were there at both marks.
        let left = book(&mut policy, &mut texts, 650, 4);
        assert_eq!(left, if old { 60.0 } else { 100.0 });
        // Their ends come too late to matter; the others' count.
        for id in [0, 1, 2, 3] {
            policy.observe(SimTime::ZERO, &life(0, id, FINISHED));
        }
        assert_eq!(book(&mut policy, &mut texts, 700, 5), 40.0);
        assert_eq!(book(&mut policy, &mut texts, 1_000, 6), 60.0);
        let left = book(&mut policy, &mut texts, 1_300, 7);
        assert_eq!(left, if old { 40.0 } else { 80.0 });
    }
}

/// What has gone elsewhere as its worker left is no concern of that worker's marks.
#[test]
fn a_request_that_moved_is_not_given_up_where_it_was() {
    let mut policy = KvPolicy::new(KvParams::with_weight(Semantics::V0_9, 1.0), &cluster(2, 16), 1);
    let mut texts = Texts::default();
    book(&mut policy, &mut texts, 10, 0);
    // The first mark of worker 0, between its requests.
    book(&mut policy, &mut texts, 310, 1);
    policy.worker_left(WorkerId(0));
    policy.worker_joined(WorkerId(0));
    let now = SimTime::ZERO + SimDuration::from_secs(330);
    for id in [0, 1] {
        let moved = texts.request(id, 0, 160, 16);
        let asked = policy.look_up(now, &moved.route_view(16));
        policy.book(now, asked, WorkerId(1));
    }
    let weight = |policy: &mut KvPolicy| {
        let asked = policy.look_up(now, &texts.request(1_000, 1, 16, 16).route_view(16));
        policy.costs(&asked)[1]
    };
    let before = weight(&mut policy);
    for (id, seconds) in [(2, 620), (3, 930)] {
        let now = SimTime::ZERO + SimDuration::from_secs(seconds);
        let request = texts.request(id, 0, 160, 16);
        let asked = policy.look_up(now, &request.route_view(16));
        policy.book(now, asked, WorkerId(0));
        assert_eq!(weight(&mut policy), before);
    }
}
