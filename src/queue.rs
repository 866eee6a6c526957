//! The order of simulated events.
//!
//! One queue holds the next event of every worker; a worker whose plans change
//! re-keys its entry. At equal times the [`Precedence`] decides, and among events of one
//! precedence the lower worker: not what was scheduled first, since a plan of many steps
//! and its steps one by one are scheduled at different times, and must not differ.

use crate::id::WorkerId;
use crate::time::SimTime;
use crate::tournament::Tournament;

/// What goes first at one moment. Everything that happens *because of the past*
/// comes before the arrivals of that moment, and steps that start at that
/// moment come last, so that they see it all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Precedence {
    /// A step's results are handled: tokens leave, blocks are freed.
    StepEnd,
    /// Cache events become visible to a front end.
    KvVisibility,
    /// A measurement window begins or ends.
    Measure,
    /// A request reaches the router (or is released by it).
    Arrival,
    /// A worker forms its next step.
    StepStart,
}

/// When an event is due: time first, then precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Due {
    /// The moment.
    pub at: SimTime,
    /// Its place among the events of that moment.
    pub precedence: Precedence,
}

impl Due {
    /// True if the event comes before whatever happens at `at` with `precedence`.
    pub fn is_before(&self, at: SimTime, precedence: Precedence) -> bool {
        *self < Self { at, precedence }
    }
}

/// Time, precedence and worker of an event as one number, in that order.
type Key = u128;

/// After every other: nothing is due.
const NEVER: Key = Key::MAX;

const ALL: [Precedence; 5] = [
    Precedence::StepEnd,
    Precedence::KvVisibility,
    Precedence::Measure,
    Precedence::Arrival,
    Precedence::StepStart,
];

fn key(worker: WorkerId, at: SimTime, precedence: Precedence) -> Key {
    let place = (precedence as u64) << 32 | u64::from(worker.0);
    Key::from(at.as_ps()) << 64 | Key::from(place)
}

#[expect(clippy::cast_possible_truncation, reason = "the parts of a key")]
fn parts(key: Key) -> (WorkerId, Due) {
    let (at, place) = ((key >> 64) as u64, key as u64);
    let due = Due { at: SimTime::from_ps(at), precedence: ALL[(place >> 32) as usize] };
    (WorkerId(place as u32), due)
}

/// At most one pending event per worker. Ids are dense, so there is nothing to hash
/// and nothing moves.
#[derive(Clone, Debug)]
pub struct EventQueue(Tournament<Key>);

impl EventQueue {
    /// For the workers from 0 to `workers - 1`; nothing is due.
    pub fn new(workers: u32) -> Self {
        Self(Tournament::new(workers, NEVER, NEVER))
    }

    /// Sets when `worker` is due next, in place of what it was due for. O(log n).
    pub fn schedule(&mut self, worker: WorkerId, at: SimTime, precedence: Precedence) {
        self.0.set(worker.index(), key(worker, at, precedence));
    }

    /// Nothing is due from `worker` any more. O(log n).
    pub fn cancel(&mut self, worker: WorkerId) {
        self.0.set(worker.index(), NEVER);
    }

    /// The next event. O(1).
    pub fn peek(&self) -> Option<(WorkerId, Due)> {
        let first = self.0.least();
        (first != NEVER).then(|| parts(first))
    }

    /// Takes the next event if it comes before whatever happens at `at` with
    /// `precedence`. O(log n).
    pub fn pop_before(&mut self, at: SimTime, precedence: Precedence) -> Option<(WorkerId, Due)> {
        let next = self.peek().filter(|(_, due)| due.is_before(at, precedence))?;
        self.cancel(next.0);
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn precedence_orders_one_moment() {
        use Precedence::{Arrival, KvVisibility, Measure, StepEnd, StepStart};
        let mut queue = EventQueue::new(5);
        let at = SimTime::from_ps(5);
        let all = [StepStart, Arrival, Measure, KvVisibility, StepEnd];
        for (worker, precedence) in (0..).map(WorkerId).zip(all) {
            queue.schedule(worker, at, precedence);
        }
        let mut order = Vec::new();
        while let Some((_, due)) = queue.pop_before(SimTime::MAX, StepEnd) {
            order.push(due.precedence);
        }
        assert_eq!(order, [StepEnd, KvVisibility, Measure, Arrival, StepStart]);
    }

    proptest! {
        /// The queue is a sort by (time, precedence, worker), with re-keying.
        #[test]
        fn pops_in_total_order(
            workers in 1u32..9,
            changes in prop::collection::vec((0u32..9, 0u64..4, 0u8..3), 0..60),
        ) {
            let mut queue = EventQueue::new(workers);
            let mut model: Vec<(u32, u64, Precedence)> = Vec::new();
            for &(worker, at, kind) in &changes {
                let worker = worker % workers;
                model.retain(|entry| entry.0 != worker);
                if kind == 2 {
                    queue.cancel(WorkerId(worker));
                } else {
                    let precedence = if kind == 0 { Precedence::StepEnd } else { Precedence::Arrival };
                    queue.schedule(WorkerId(worker), SimTime::from_ps(at), precedence);
                    model.push((worker, at, precedence));
                }
                let first = model.iter().min_by_key(|&&(worker, at, precedence)| (at, precedence, worker));
                prop_assert_eq!(queue.peek().map(|(worker, _)| worker.0), first.map(|f| f.0));
            }
            model.sort_by_key(|&(worker, at, precedence)| (at, precedence, worker));
            for (worker, at, precedence) in model {
                let (got, due) = queue.pop_before(SimTime::MAX, Precedence::StepEnd).unwrap();
                prop_assert_eq!((got.0, due.at.as_ps(), due.precedence), (worker, at, precedence));
            }
            prop_assert!(queue.peek().is_none());
        }
    }
}
