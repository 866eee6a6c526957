//! Clients that hang up before their requests are served: because their patience is over,
//! or because the program says so.
//!
//! The client is free at once. The request stays where it is until its engine drops
//! it, or the front end that holds it comes to it and finds its client gone.

use super::observer::Happening;
use super::requests::{LiveRequests, Whereabouts};
use super::{Simulation, Stuck};
use crate::event::{RejectReason, WorkerEvent, WorkerEventKind};
use crate::fleet::Fleet;
use crate::id::{RequestId, WorkerId};
use crate::recorder::End;
use crate::time::SimTime;
use crate::workload::Arrival;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// When the clients of live requests lose their patience.
#[derive(Debug, Default)]
pub(super) struct HangUps(BinaryHeap<Reverse<(SimTime, RequestId, Waits)>>);

/// What a client waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Waits {
    ForFirstToken,
    ForAnswer,
}

impl HangUps {
    fn arrive(&mut self, arrival: &Arrival) {
        let patience = arrival.patience;
        let waits =
            [(patience.first_token, Waits::ForFirstToken), (patience.answer, Waits::ForAnswer)];
        for (wait, waits) in waits {
            if let Some(wait) = wait {
                // Not before it is at its router, which hears of it then.
                let at = (arrival.sent + wait).max(arrival.at);
                self.0.push(Reverse((at, arrival.request.id, waits)));
            }
        }
    }

    /// When the next client hangs up. Exact after [`settle`](Self::settle).
    pub(super) fn due(&self) -> Option<SimTime> {
        self.0.peek().map(|Reverse((at, ..))| *at)
    }

    /// Forgets those at the top whose wait is over.
    fn settle(&mut self, requests: &LiveRequests) {
        while let Some(&Reverse((_, id, waits))) = self.0.peek() {
            let waits_still = requests.find(id).is_some_and(|live| {
                let has_answer = live.is_answering && waits == Waits::ForFirstToken;
                !live.is_given_up && !has_answer
            });
            if waits_still {
                return;
            }
            self.0.pop();
        }
    }
}

impl<F: Fleet> Simulation<'_, F> {
    pub(super) fn wait(&mut self, arrival: &Arrival) {
        self.hang_ups.arrive(arrival);
    }

    /// Looks who still waits, after a request has ended or begun to answer.
    pub(super) fn settle_hang_ups(&mut self) {
        self.hang_ups.settle(&self.requests);
    }

    /// The clients whose patience is over at `now` hang up.
    pub(super) fn hang_up(&mut self, now: SimTime) -> Result<(), Stuck> {
        while self.hang_ups.due().is_some_and(|at| at <= now) {
            let Some(Reverse((_, id, _))) = self.hang_ups.0.pop() else { break };
            self.give_up_at(now, id);
            self.settle_hang_ups();
        }
        Ok(())
    }

    /// The client of `request` hangs up now, as one whose connection closes. The request
    /// ends when its engine drops it. False, and nothing happens, if it has ended or its
    /// client has hung up before.
    pub fn give_up(&mut self, request: RequestId) -> bool {
        let is_waiting = self.requests.find(request).is_some_and(|live| !live.is_given_up);
        if is_waiting {
            self.last = self.now;
            self.give_up_at(self.now, request);
        }
        is_waiting
    }

    fn give_up_at(&mut self, now: SimTime, id: RequestId) {
        self.requests.give_up(id);
        self.recorder.give_up(now, id);
        let whereabouts = self.requests.get(id).whereabouts;
        self.observers.tell(now, Happening::HangUp(id));
        if let Whereabouts::AtWorker(worker) = whereabouts {
            self.fleet.abort(now, worker, id);
        }
        self.workload.observe_hang_up(now, id);
        if whereabouts == Whereabouts::Waiting {
            let front_end = self.requests.get(id).front_end;
            self.gates[front_end].withdraw(id);
            self.drop_given_up(now, id, None);
            // Those behind it may be over no limit.
            self.let_in_soon();
        }
    }

    /// A request that was given up comes to its front end, which does not send it to
    /// `worker` after all.
    pub(super) fn drop_given_up(&mut self, now: SimTime, id: RequestId, worker: Option<WorkerId>) {
        if let Some(worker) = worker {
            // Its policy has counted it there.
            let kind = WorkerEventKind::Aborted;
            self.tell_front_ends(now, &WorkerEvent { worker, request: id, kind });
        }
        self.let_go_of_kv(now, id);
        self.close(id);
        self.recorder.turn_away(now, id, RejectReason::Policy, None);
        self.observers.tell(now, Happening::End { request: id, end: End::GivenUp });
    }
}
