//! What the loop does when workers come and go.

use super::Driver;
use crate::event::{Lost, WorkerEvent, WorkerEventKind};
use crate::fleet::Fleet;
use crate::fleet::changes::{Changes, Effect};
use crate::id::{RequestId, WorkerId};
use crate::request::Request;
use crate::router::FrontEnd;
use crate::time::SimTime;

impl<F: Fleet> Driver<'_, F> {
    /// Workers come and go as `changes` says.
    pub fn changes(mut self, changes: Changes) -> Self {
        self.recorder.follow_changes(changes.absent());
        for worker in changes.absent() {
            let _nothing = self.fleet.stop(SimTime::ZERO, worker);
            self.front_ends.iter_mut().for_each(|front_end| front_end.worker_left(worker));
        }
        self.changes = Some(Box::new(changes));
        self
    }

    /// When something happens to a worker next, if anybody is left to care; the
    /// workload's next request comes at `arrival`.
    pub(super) fn change_due(&self, arrival: SimTime) -> SimTime {
        let cares = self.open > 0 || arrival < SimTime::MAX;
        let changes = self.changes.as_ref().filter(|_| cares);
        changes.and_then(|changes| changes.due()).unwrap_or(SimTime::MAX)
    }

    /// Everything that happens to workers up to and at `now`.
    pub(super) fn change(&mut self, now: SimTime) {
        while let Some(effect) = self.changes.as_mut().and_then(|changes| changes.take(now)) {
            if self.changes.as_ref().is_some_and(|changes| changes.costs_cache(effect)) {
                self.recorder.disturb(now);
            }
            match effect {
                Effect::Stop(worker) => self.stop(now, worker),
                Effect::Serve(worker) => {
                    self.fleet.start(worker);
                    self.recorder.set_present(now, worker, true);
                }
                Effect::Pace(worker, pace) => self.fleet.set_pace(now, worker, pace),
                Effect::Left(worker) => {
                    self.front_ends.iter_mut().for_each(|front_end| front_end.worker_left(worker));
                }
                Effect::Joined(worker) => {
                    let front_ends = self.front_ends.iter_mut();
                    front_ends.for_each(|front_end| front_end.worker_joined(worker));
                }
                Effect::Lost(worker, request) => self.notice_loss(now, worker, request),
                Effect::Look => {
                    let gauges = self.fleet.gauges(now);
                    if let Some(changes) = &mut self.changes {
                        changes.plan(now, &gauges);
                    }
                }
            }
            self.release(now);
        }
    }

    /// `worker` dies with all it has.
    fn stop(&mut self, now: SimTime, worker: WorkerId) {
        // What it has published is on its way.
        if self.front_ends.iter().any(FrontEnd::wants_kv_events) {
            self.take_kv_events(now);
        }
        for lost in self.fleet.stop(now, worker) {
            self.recorder.lose(now, worker, &lost);
            if let Some(changes) = &mut self.changes {
                changes.lost(now, worker, &lost);
            }
        }
        self.recorder.set_present(now, worker, false);
        self.front_ends.iter_mut().for_each(|front_end| front_end.cut_feed(worker));
    }

    /// True if `request` was sent to a worker that is not there.
    pub(super) fn is_lost_on_arrival(
        &mut self,
        now: SimTime,
        worker: WorkerId,
        request: &Request,
    ) -> bool {
        let Some(changes) = &mut self.changes else { return false };
        if changes.sent(now, worker, request) {
            return false;
        }
        let lost = Lost { request: request.id, output_tokens: 0, last_token_at: now };
        self.recorder.lose(now, worker, &lost);
        true
    }

    /// The front end that sent `request` to `worker` sees that it is lost.
    fn notice_loss(&mut self, now: SimTime, worker: WorkerId, request: RequestId) {
        let event = WorkerEvent { worker, request, kind: WorkerEventKind::Failed };
        self.tell_front_ends(now, &event);
        let Some(changes) = &mut self.changes else { return };
        let (inhibits, migrated) = (changes.inhibits(worker), changes.migrated(request));
        if inhibits {
            let index = self.front_end_of(request, self.recorder.conversation(request));
            self.front_ends[index].worker_left(worker);
        }
        match migrated {
            Some(request) => {
                self.recorder.migrate(request.id);
                self.deliver_kv_events(now);
                self.route(now, request);
            }
            None => {
                self.open -= 1;
                self.recorder.fail(now, request);
                self.workload.observe_failure(now, request);
            }
        }
    }
}
