//! Requests that one worker prefills and another one decodes.

use super::{Scheduler, State, Worker};
use crate::engine::outbox::Outbox;
use crate::engine::seq::SeqId;
use crate::engine::vllm::Vllm;
use crate::event::WorkerEventKind;
use crate::id::RequestId;
use crate::time::SimTime;

impl Worker {
    /// The KV of `request` came at `now`: a request taken in phase
    /// [`Decode`](crate::request::Phase::Decode) for which it had asked.
    ///
    /// # Panics
    /// If it has not asked for it.
    pub fn kv_came(&mut self, now: SimTime, request: RequestId, out: &mut Outbox) {
        self.see_change(now, out);
        let Self { rules, core, .. } = self;
        handing_over(rules).kv_came(core, request);
    }

    /// Frees the KV of `request` at `now`, which was taken in phase
    /// [`Prefill`](crate::request::Phase::Prefill) and has been prefilled.
    ///
    /// # Panics
    /// If it does not keep it.
    pub fn let_go(&mut self, now: SimTime, request: RequestId, out: &mut Outbox) {
        self.see_change(now, out);
        let Self { rules, core, .. } = self;
        let id = handing_over(rules).let_go(core, request);
        core.seqs.remove(id);
        self.gauges.advance(now);
        self.gauges.used_blocks = self.rules.used_blocks();
    }

    /// Ends a sequence that was only to be prefilled.
    pub(super) fn keep(&mut self, now: SimTime, id: SeqId, out: &mut Outbox) {
        handing_over(&mut self.rules).keep(id);
        self.tell(now, id, WorkerEventKind::Prefilled, out);
    }

    /// Something changes at `now` that the next boundary has to see.
    pub(super) fn see_change(&mut self, now: SimTime, out: &mut Outbox) {
        match &mut self.state {
            State::Idle => self.state = State::Ready { at: now, from_idle: true },
            State::Running(plan) => plan.cut(self.pipeline, now),
            State::Loading { until } => *until = now,
            State::Ready { .. } | State::Draining { .. } => {}
        }
        self.settle(now, out);
    }

    /// True if requests may wait although nothing runs.
    pub(super) fn waits_for_others(&self) -> bool {
        match &self.rules {
            Scheduler::Vllm(rules) => rules.waits_for_others(),
            Scheduler::Trtllm(_) => false,
        }
    }
}

fn handing_over(rules: &mut Scheduler) -> &mut Vllm {
    match rules {
        Scheduler::Vllm(rules) => rules,
        Scheduler::Trtllm(_) => unreachable!("pools are under vLLM's rules"),
    }
}
