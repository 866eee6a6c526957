//! Overloaded workers: left out in 1.6, a reason to turn away if all are.

use super::super::{KvParams, KvPolicy, Overload, Semantics};
use crate::event::RejectReason;
use crate::event::WorkerEventKind::FirstToken;
use crate::id::WorkerId;
use crate::router::decider::Decider;
use crate::router::testing::{LIMITS, Texts, life, with_limits};
use crate::router::{ClusterSpec, ClusterView, Policy, Rank, Verdict, WorkerLimits};
use crate::time::SimTime;

const AWAY: Verdict = Verdict::Reject(RejectReason::Policy);

struct Rig {
    policy: KvPolicy,
    texts: Texts,
    requests: u32,
}

impl Rig {
    fn new(semantics: Semantics, overload: Overload) -> Self {
        let params = KvParams { overload, ..KvParams::with_weight(semantics, 1.0) };
        let fleet = with_limits(2, 16, WorkerLimits { blocks: 100, ..LIMITS });
        Self { policy: KvPolicy::new(params, &fleet, 1), texts: Texts::default(), requests: 0 }
    }

    /// Routes a prompt of a new text.
    fn send(&mut self, tokens: u32) -> Verdict {
        let text = self.texts.add(None);
        let request = self.texts.request(self.requests, text, tokens, 16);
        self.requests += 1;
        let view = ClusterView::default();
        self.policy.route(SimTime::ZERO, &request.route_view(16), &view)
    }

    /// What a prompt of a new text would cost.
    fn costs(&mut self, tokens: u32) -> Vec<f64> {
        let text = self.texts.add(None);
        let request = self.texts.request(self.requests, text, tokens, 16);
        let asked = self.policy.look_up(SimTime::ZERO, &request.route_view(16));
        self.policy.costs(&asked)
    }

    fn first_token(&mut self, request: u32) {
        self.policy.observe(SimTime::ZERO, &life(0, request, FirstToken));
    }
}

fn to(worker: u32) -> Verdict {
    Verdict::send(WorkerId(worker))
}

/// The thresholds themselves are not too much.
#[test]
fn in_1_6_overloaded_workers_are_left_out() {
    let overload = Overload { active_prefill_tokens: Some(160), active_decode_blocks: None };
    let mut rig = Rig::new(Semantics::V1_6, overload);
    let Verdict::Send(first) = rig.send(170) else { panic!("all are idle") };
    let second = 1 - first.0;
    // The second worker's blocks would cost more than the first one's tokens.
    rig.first_token(0);
    assert_eq!(rig.send(160), to(second));
    assert_eq!(rig.send(1_600), to(first.0), "160 tokens are not more than 160, but cost more");
    assert_eq!(rig.send(16), to(second), "1,600 tokens are too much");
    assert_eq!(rig.send(16), AWAY, "176 tokens are, too");
    rig.first_token(2);
    assert_eq!(rig.send(16), to(first.0), "110 blocks in flight, but no tokens");
}

#[test]
fn blocks_in_flight_count_against_the_pool() {
    let overload = Overload { active_prefill_tokens: None, active_decode_blocks: Some(0.5) };
    let mut rig = Rig::new(Semantics::V1_6, overload);
    let verdicts: Vec<Verdict> = (0..6).map(|_| rig.send(17 * 16)).collect();
    let sent = |worker| verdicts.iter().filter(|verdict| **verdict == to(worker)).count();
    assert_eq!((sent(0), sent(1)), (3, 3), "51 of 100 blocks each");
    assert_eq!(rig.send(16), AWAY);
}

/// 0.9 steers around no worker, notices only when all are overloaded, and keeps
/// what it had booked for a request that it turns away.
#[test]
fn in_0_9_all_or_none() {
    let overload = Overload { active_prefill_tokens: Some(160), active_decode_blocks: None };
    let mut rig = Rig::new(Semantics::V0_9, overload);
    let Verdict::Send(first) = rig.send(170) else { panic!("all are idle") };
    let second = 1 - first.0;
    assert_eq!(rig.send(320), to(second));
    assert_eq!(rig.send(16), AWAY);
    rig.first_token(0);
    rig.first_token(1);
    // The one turned away would have gone to `first`, and its token is never taken off:
    // 10 + 1 + 1 blocks there and 20 on the other.
    assert_eq!(rig.costs(16)[first.index()], 14.0);
    assert_eq!(rig.send(16), to(first.0));
}

/// A worker of two ranks is overloaded if both are: until then either may be chosen.
#[test]
fn a_worker_of_ranks_is_overloaded_if_all_are() {
    let overload = Overload { active_prefill_tokens: Some(160), active_decode_blocks: None };
    for semantics in [Semantics::V1_6, Semantics::V0_9] {
        let mut rig = Rig::new(semantics, overload);
        let ranks = [0, 1].map(|rank| Rank { engine: 0, rank });
        let fleet = ClusterSpec { ranks: ranks.into(), ..with_limits(2, 16, LIMITS) };
        let params = KvParams { overload, ..KvParams::with_weight(semantics, 1.0) };
        rig.policy = KvPolicy::new(params, &fleet, 1);
        let Verdict::Send(first) = rig.send(170) else { panic!("both are idle") };
        assert_eq!(rig.send(320), to(1 - first.0));
        assert_eq!(rig.send(16), AWAY);
        rig.policy.observe(SimTime::ZERO, &life(1 - first.0, 1, FirstToken));
        // The other one is past its threshold, and its worker is not overloaded any more.
        let asked = rig.send(10);
        assert_ne!(asked, AWAY, "{semantics:?}");
    }
}
