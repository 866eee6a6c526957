//! How Dynamo 0.9 gives up requests whose end it may have missed.
//!
//! Each worker has a mark every 300 s, noticed at the next booking there. What
//! is in flight at a mark and still at the next one is freed, running or not:
//! a request counts for 300 to 600 s at most, or longer if nothing is booked.
//! Source: `force_expiry` in `kv_router/sequence.rs` of Dynamo 0.9.0.

use crate::id::{RequestId, WorkerId};
use crate::time::{SimDuration, SimTime};

const BETWEEN_MARKS: SimDuration = SimDuration::from_secs(300);

/// The marks of all workers.
#[derive(Debug)]
pub(super) struct Marks(Vec<Mark>);

#[derive(Clone, Debug)]
struct Mark {
    next: SimTime,
    /// Booked before the last mark; those that have ended are still among them.
    before: Vec<RequestId>,
    /// Booked since.
    since: Vec<RequestId>,
}

impl Marks {
    pub(super) fn new(workers: u32) -> Self {
        let first = SimTime::ZERO + BETWEEN_MARKS;
        Self(vec![Mark { next: first, before: Vec::new(), since: Vec::new() }; workers as usize])
    }

    /// Forgets what was booked on `worker`: it is gone, and its requests may be
    /// booked elsewhere.
    pub(super) fn remove_worker(&mut self, worker: WorkerId) {
        let mark = &mut self.0[worker.index()];
        mark.before.clear();
        mark.since.clear();
    }

    /// `request` is about to be booked on `worker`: gives what is given up first,
    /// ended requests included.
    pub(super) fn book(
        &mut self,
        now: SimTime,
        worker: WorkerId,
        request: RequestId,
    ) -> Vec<RequestId> {
        let mark = &mut self.0[worker.index()];
        let mut given_up = Vec::new();
        if now >= mark.next {
            let since = std::mem::take(&mut mark.since);
            given_up = std::mem::replace(&mut mark.before, since);
            mark.next = now + BETWEEN_MARKS;
        }
        mark.since.push(request);
        given_up
    }
}
