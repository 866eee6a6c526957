//! What becomes of a worker that dies, comes back or changes its pace.

use super::{Scheduler, State, Worker};
use crate::engine::outbox::Outbox;
use crate::engine::pace::Pace;
use crate::engine::pipeline::Pipeline;
use crate::engine::seq::SeqId;
use crate::event::Lost;
use crate::time::SimTime;
use std::sync::Arc;

impl Worker {
    /// True unless it [died](Self::die) and did not [come back](Self::come_back).
    pub fn is_up(&self) -> bool {
        self.is_up
    }

    /// Dies at the present moment `now` with its requests and its cache, and
    /// publishes nothing more: gives what was lost, in order of request.
    pub fn die(&mut self, now: SimTime, out: &mut Outbox) -> Vec<Lost> {
        self.settle_present(now, out);
        self.gauges.advance(now);
        let ids: Vec<SeqId> = self.core.seqs.ids().collect();
        let mut lost: Vec<Lost> = ids.into_iter().map(|id| self.lost(id)).collect();
        lost.sort_unstable_by_key(|lost| lost.request);
        let config = Arc::clone(&self.core.config);
        self.rules = Scheduler::new(&config);
        self.core.lose_all();
        self.pipeline = Pipeline::default();
        self.state = State::Idle;
        self.in_flight = None;
        self.formed.clear();
        self.late_tokens.clear();
        (self.gauges.running, self.gauges.waiting, self.gauges.used_blocks) = (0, 0, 0);
        self.is_up = false;
        lost
    }

    /// Takes requests again, with an empty cache.
    pub fn come_back(&mut self) {
        self.is_up = true;
    }

    /// Steps formed from `now` on run at `pace`: a plan ends where the next one is.
    pub fn set_pace(&mut self, now: SimTime, pace: Pace) {
        if let State::Running(plan) = &mut self.state {
            plan.cut(self.pipeline, now);
        }
        self.core.pace = pace;
    }

    /// What clients have of a sequence, when everything up to the present moment
    /// is settled.
    fn lost(&self, id: SeqId) -> Lost {
        let seq = &self.core.seqs[id];
        let since = |sampled: u32| sampled.saturating_sub(seq.first_since_admission) + 1;
        // Steps whose results nobody has seen; a sequence that decodes sampled a
        // token in each of them, back to the one in which its prompt ended.
        let is_running = matches!(self.state, State::Running(_));
        let unseen_steps = u32::from(is_running) + u32::from(self.in_flight.is_some());
        let ends_in_flight = self.in_flight.iter().any(|results| results.ended.contains(&id));
        let (sampled, unseen) = match seq.decode_from {
            Some(from) => {
                let decoded = self.core.decode.step() - from;
                let decoded = u32::try_from(decoded).expect("fewer than 2^32 tokens");
                let sampled = seq.generated + decoded;
                (sampled, unseen_steps.min(since(sampled)))
            }
            None if seq.ending && ends_in_flight => (seq.generated, 1),
            None if seq.ending => (seq.generated, unseen_steps.min(since(seq.generated))),
            None => (seq.generated, u32::from(self.late_tokens.contains(&id))),
        };
        let output_tokens = sampled - unseen;
        let left_at_boundary = output_tokens >= seq.first_since_admission;
        let last_token_at =
            if left_at_boundary { self.pipeline.boundary } else { seq.last_token_at };
        Lost { request: seq.request, output_tokens, last_token_at }
    }
}
