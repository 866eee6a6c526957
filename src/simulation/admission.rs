//! The gates in front of the front ends: who is let in, who waits, who is refused.

use super::Simulation;
use super::requests::LiveRequest;
use crate::event::{Refusal, RejectReason};
use crate::fleet::Fleet;
use crate::id::{RequestId, WorkerId};
use crate::router::FrontEnd;
use crate::router::admission::{Admission, AdmissionSettings, Gate};
use crate::time::{SimDuration, SimTime};
use std::ops::Range;

impl<F: Fleet> Simulation<'_, F> {
    /// Puts a gate in front of each front end, which knows how many ranks each worker has, and
    /// how many KV blocks each of these.
    #[cfg_attr(not(internals), doc(hidden))]
    pub fn admission(
        mut self,
        settings: &AdmissionSettings,
        (ranks, blocks): (Vec<u32>, Vec<u32>),
    ) -> Self {
        self.gates = self.front_ends.iter().map(|_| Gate::new(settings.clone())).collect();
        (self.ranks, self.blocks) = (ranks, blocks);
        self
    }

    /// A request has come to its front end's gate.
    pub(super) fn admit(&mut self, now: SimTime, id: RequestId) {
        let &LiveRequest { ref request, front_end, .. } = self.requests.get(id);
        let Some(gate) = self.gates.get_mut(front_end) else { return self.decide(now, id) };
        let (tokens, least) =
            (request.prompt_tokens, self.front_ends[front_end].least_inflight(now));
        match gate.ask(now, id, tokens, least) {
            Admission::Pass => {
                self.requests.let_in(id);
                self.decide(now, id);
            }
            Admission::Wait => self.requests.wait(id),
            Admission::Refuse(reason) => self.turn_away(now, id, reason),
        }
    }

    fn decide(&mut self, now: SimTime, id: RequestId) {
        self.deliver_kv_events_of(now, id);
        self.route(now, id);
    }

    /// Sees to it that those that wait and are over no limit any more are let in right after
    /// this moment: not in it, or it would matter which workers have formed a step in it.
    pub(super) fn let_in_soon(&mut self) {
        if self.requests.waiting() == 0 || self.let_in_at.is_some() {
            return;
        }
        let now = self.now;
        let may = |(gate, front_end): (&Gate, &mut FrontEnd)| {
            gate.waiting() > 0 && gate.may_let_in(front_end.least_inflight(now))
        };
        if self.gates.iter().zip(&mut self.front_ends).any(may) {
            self.let_in_at = Some(now + SimDuration::from_ps(1));
        }
    }

    /// Lets in those that waited and are over no limit any more.
    pub(super) fn let_in(&mut self, now: SimTime) {
        self.let_in_at = None;
        for index in 0..self.gates.len() {
            while self.gates[index].waiting() > 0 {
                let least = self.front_ends[index].least_inflight(now);
                let Some(id) = self.gates[index].next(least) else { break };
                self.requests.let_in(id);
                self.decide(now, id);
            }
        }
    }

    /// Refuses those that have waited too long.
    pub(super) fn expire(&mut self, now: SimTime) {
        for index in 0..self.gates.len() {
            while let Some(id) = self.gates[index].expire(now) {
                self.turn_away(now, id, RejectReason::WaitedTooLong);
            }
        }
    }

    /// When a gate has something to do by itself: until then all that is known of workers
    /// holds, and all that wait may wait.
    pub(super) fn gate_due(&self, is_busy: bool) -> Option<SimTime> {
        let expiries = self.gates.iter().filter_map(Gate::expiry_due);
        let reports = self.gates.iter().filter(|_| is_busy).filter_map(Gate::report_due);
        expiries.chain(reports).chain(self.let_in_at).min()
    }

    /// Shows the gates whose turn it is what workers report; those that leave out single busy
    /// workers have their front ends do so.
    pub(super) fn report_to_gates(&mut self, now: SimTime) {
        let is_due = |gate: &Gate| gate.report_due().is_some_and(|due| due <= now);
        if !self.gates.iter().any(is_due) {
            return;
        }
        let gauges = self.fleet.gauges(now);
        let first = self.sides.prefill_workers() as usize;
        for (gate, front_end) in self.gates.iter_mut().zip(&mut self.front_ends) {
            if !is_due(gate) {
                continue;
            }
            let are_all_busy = |gate: &Gate, front_end: &FrontEnd, places: Range<usize>| {
                let there = places.filter(|&at| front_end.is_present(WorkerId::at(at)));
                gate.are_all_busy(there.map(|at| (gauges[at].used_blocks, self.blocks[at])))
            };
            let are_sides_busy =
                [0..first, first..gauges.len()].map(|side| are_all_busy(gate, front_end, side));
            gate.report(now, are_sides_busy.contains(&true));
            if !gate.leaves_out_busy() {
                continue;
            }
            // A worker is busy if all its ranks are.
            let mut next = 0;
            for &ranks in &self.ranks {
                let places = next..next + ranks as usize;
                next = places.end;
                let is_side_busy = are_sides_busy[usize::from(places.start >= first)];
                let is_busy = !is_side_busy && are_all_busy(gate, front_end, places.clone());
                places.for_each(|at| front_end.leave_out(WorkerId::at(at), is_busy));
            }
        }
    }

    /// A request has ended: what it took at its gate is free again.
    pub(super) fn close(&mut self, id: RequestId) -> LiveRequest {
        let live = self.requests.end(id);
        if let Some(tokens) = live.let_in_tokens {
            self.gates[live.front_end].ended(tokens);
        }
        live
    }

    /// How a request that was turned away for `reason` is answered; `None` if that is no
    /// refusal of a router.
    pub(super) fn refusal(&self, front_end: usize, reason: RejectReason) -> Option<Refusal> {
        match reason {
            RejectReason::Full | RejectReason::Busy | RejectReason::WaitedTooLong => {
                self.gates.get(front_end).map(Gate::refusal)
            }
            RejectReason::Policy => Some(Refusal::new(Refusal::UNAVAILABLE, None)),
            RejectReason::ContextLimit
            | RejectReason::KvPool
            | RejectReason::NoWorker
            | RejectReason::Server => None,
        }
    }
}
