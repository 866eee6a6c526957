//! What the loop does when workers come and go.

use super::observer::Happening;
use super::{Course, Simulation, Stuck, Turn};
use crate::event::{Lost, WorkerEvent, WorkerEventKind};
use crate::fleet::Fleet;
use crate::fleet::changes::{Changes, WorkerEffect};
use crate::id::{RequestId, WorkerId};
use crate::recorder::End;
use crate::router::FrontEnd;
use crate::time::SimTime;
use smallvec::{SmallVec, smallvec};

impl<F: Fleet> Simulation<'_, F> {
    /// Workers come and go by the rules of `changes`, and as its planner says. What is
    /// planned for certain times is a [script](Self::script).
    #[cfg_attr(not(internals), doc(hidden))]
    pub fn changes(mut self, changes: Changes) -> Self {
        let absent = changes.absent();
        self.recorder.follow_changes(absent.iter().flat_map(|worker| changes.ranks(*worker)));
        for worker in absent {
            let _nothing = self.fleet.stop(SimTime::ZERO, worker);
            self.tell_of_leaving(changes.ranks(worker));
        }
        self.changes = Some(Box::new(changes));
        self
    }

    /// When something happens to a worker next. In a run that ends with its last
    /// request, only while one `is_busy`.
    pub(super) fn change_due(&self, is_busy: bool) -> SimTime {
        let is_timed = self.course.as_ref().is_none_or(Course::is_timed);
        let changes = self.changes.as_ref().filter(|_| is_busy || is_timed);
        changes.and_then(|changes| changes.due()).unwrap_or(SimTime::MAX)
    }

    /// Everything that happens to workers up to and at `now`.
    pub(super) fn change(&mut self, now: SimTime) -> Result<(), Stuck> {
        while let Some(effect) = self.changes.as_mut().and_then(|changes| changes.take(now)) {
            self.guard.count(now, Turn::Change)?;
            self.perform(now, effect);
        }
        Ok(())
    }

    /// Does what happens to a worker.
    pub(super) fn perform(&mut self, now: SimTime, effect: WorkerEffect) {
        self.catch_up_kv();
        self.observers.tell(now, Happening::Change(&effect));
        if self.changes.as_ref().is_some_and(|changes| changes.costs_cache(effect)) {
            self.recorder.disturb(now);
        }
        match effect {
            WorkerEffect::Stop(worker) => self.stop(now, worker),
            WorkerEffect::Serve(worker) => {
                self.fleet.start(worker);
                for rank in self.ranks_beside(worker) {
                    self.recorder.set_present(now, rank, true);
                }
            }
            WorkerEffect::Pace(worker, pace) => self.fleet.set_pace(now, worker, pace),
            WorkerEffect::Left(worker) => self.tell_of_leaving(self.ranks_beside(worker)),
            WorkerEffect::Joined(worker) => {
                for rank in self.ranks_beside(worker) {
                    self.front_ends.iter_mut().for_each(|front_end| front_end.worker_joined(rank));
                }
            }
            WorkerEffect::Lost(worker, request) => self.notice_loss(now, worker, request),
            WorkerEffect::Look => {
                let gauges = self.fleet.gauges(now);
                if let Some(changes) = &mut self.changes {
                    changes.plan(now, &gauges);
                }
            }
        }
        self.release(now);
    }

    /// The ranks of the worker with this one.
    fn ranks_beside(&self, rank: WorkerId) -> SmallVec<[WorkerId; 8]> {
        match &self.changes {
            Some(changes) => changes.ranks(rank).collect(),
            None => smallvec![rank],
        }
    }

    /// All front ends hear that a worker with these ranks is gone.
    fn tell_of_leaving(&mut self, ranks: impl IntoIterator<Item = WorkerId>) {
        for rank in ranks {
            self.front_ends.iter_mut().for_each(|front_end| front_end.worker_left(rank));
        }
    }

    /// `worker` dies with all it has.
    fn stop(&mut self, now: SimTime, worker: WorkerId) {
        // What it has published is on its way.
        if self.front_ends.iter().any(FrontEnd::wants_kv_events) {
            self.take_kv_events(now);
        }
        for (rank, lost) in self.fleet.stop(now, worker) {
            self.recorder.lose(now, rank, &lost);
            self.requests.lose(rank, &lost);
            if let Some(changes) = &mut self.changes {
                changes.lost(now, rank, lost.request);
            }
        }
        for rank in self.ranks_beside(worker) {
            self.requests.forget_kept(rank);
            self.recorder.set_present(now, rank, false);
            self.front_ends.iter_mut().for_each(|front_end| front_end.cut_feed(rank));
        }
    }

    /// True if a request was sent to a worker that is not there.
    pub(super) fn is_lost_on_arrival(
        &mut self,
        now: SimTime,
        worker: WorkerId,
        request: RequestId,
    ) -> bool {
        let Some(changes) = &mut self.changes else { return false };
        if changes.sent(now, worker, request) {
            return false;
        }
        let lost = Lost { request, output_tokens: 0, last_token_at: now };
        self.recorder.lose(now, worker, &lost);
        self.requests.lose(worker, &lost);
        true
    }

    /// The front end that sent a request to `worker` sees that it is lost.
    fn notice_loss(&mut self, now: SimTime, worker: WorkerId, request: RequestId) {
        let event = WorkerEvent { worker, request, kind: WorkerEventKind::Failed };
        self.tell_front_ends(now, &event);
        self.observers.tell(now, Happening::Worker(&event));
        // Of a request that was to be decoded there.
        self.let_go_of_kv(now, request);
        let Some(changes) = &self.changes else { return };
        let live = self.requests.get(request);
        let migrates = live.migrations < changes.migrations();
        if changes.inhibits(worker) {
            let front_end = &mut self.front_ends[live.front_end];
            changes.ranks(worker).for_each(|rank| front_end.worker_left(rank));
        }
        if self.requests.get(request).is_given_up {
            self.drop_given_up(now, request, None);
        } else if migrates {
            self.requests.migrate(request);
            self.recorder.migrate(request);
            self.deliver_kv_events(now);
            self.route(now, request);
        } else {
            self.close(request);
            self.guard.fail(now);
            self.recorder.fail(now, request);
            self.observers.tell(now, Happening::End { request, end: End::Failed });
            self.workload.observe_failure(now, request);
        }
    }
}
