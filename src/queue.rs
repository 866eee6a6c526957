//! The order of simulated events.
//!
//! One queue holds the next event of every worker; a worker whose plans change
//! re-keys its entry. At equal times the [`Rank`] decides, and within a rank the
//! entry that was scheduled first.

use crate::id::WorkerId;
use crate::time::SimTime;

/// What goes first at one moment. Everything that happens *because of the past*
/// comes before the arrivals of that moment, and steps that start at that
/// moment come last, so that they see it all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rank {
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

/// When an event is due: time first, then rank, then order of scheduling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Due {
    /// The moment.
    pub at: SimTime,
    /// Its place among the events of that moment.
    pub rank: Rank,
    sequence: u64,
}

impl Due {
    /// True if the event comes before whatever happens at `at` with `rank`.
    pub fn is_before(&self, at: SimTime, rank: Rank) -> bool {
        (self.at, self.rank) < (at, rank)
    }
}

/// After every other: nothing is due.
const NEVER: Due = Due { at: SimTime::MAX, rank: Rank::StepStart, sequence: u64::MAX };

/// At most one pending event per worker.
///
/// A tournament: the leaves of a binary tree are the workers, every inner node
/// names the one of its two that is due first, and the root the first of all.
/// Ids are dense, so there is nothing to hash and nothing moves.
#[derive(Debug)]
pub struct EventQueue {
    /// By worker.
    due: Vec<Due>,
    /// Node `i` has the children `2 i` and `2 i + 1`, the root is node 1, and
    /// worker `w` of `n` is node `n + w`.
    winners: Vec<u32>,
    scheduled: u64,
}

impl EventQueue {
    /// For the workers from 0 to `workers - 1`; nothing is due.
    pub fn new(workers: u32) -> Self {
        let mut winners: Vec<u32> = (0..workers).chain(0..workers).collect();
        for node in (1..workers as usize).rev() {
            winners[node] = winners[2 * node];
        }
        Self { due: vec![NEVER; workers as usize], winners, scheduled: 0 }
    }

    /// Sets when `worker` is due next, in place of what it was due for. O(log n).
    pub fn schedule(&mut self, worker: WorkerId, at: SimTime, rank: Rank) {
        let due = Due { at, rank, sequence: self.scheduled };
        self.scheduled += 1;
        self.set(worker, due);
    }

    /// Nothing is due from `worker` any more. O(log n).
    pub fn cancel(&mut self, worker: WorkerId) {
        if self.due[worker.index()] != NEVER {
            self.set(worker, NEVER);
        }
    }

    /// The next event. O(1).
    pub fn peek(&self) -> Option<(WorkerId, Due)> {
        let first = *self.winners.get(1)?;
        let due = self.due[first as usize];
        (due != NEVER).then_some((WorkerId(first), due))
    }

    /// Takes the next event if it comes before whatever happens at `at` with
    /// `rank`. O(log n).
    pub fn pop_before(&mut self, at: SimTime, rank: Rank) -> Option<(WorkerId, Due)> {
        let next = self.peek().filter(|(_, due)| due.is_before(at, rank))?;
        self.set(next.0, NEVER);
        Some(next)
    }

    fn set(&mut self, worker: WorkerId, due: Due) {
        self.due[worker.index()] = due;
        let mut node = (self.due.len() + worker.index()) / 2;
        while node > 0 {
            let (left, right) = (self.winners[2 * node], self.winners[2 * node + 1]);
            let left_is_first = self.due[left as usize] <= self.due[right as usize];
            let winner = if left_is_first { left } else { right };
            // Another one wins as before, so above nothing changes.
            if winner == self.winners[node] && winner != worker.0 {
                return;
            }
            self.winners[node] = winner;
            node /= 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranks_order_one_moment() {
        use Rank::{Arrival, KvVisibility, Measure, StepEnd, StepStart};
        let mut queue = EventQueue::new(5);
        let at = SimTime::from_ps(5);
        let ranks = [StepStart, Arrival, Measure, KvVisibility, StepEnd];
        for (worker, rank) in (0..).map(WorkerId).zip(ranks) {
            queue.schedule(worker, at, rank);
        }
        let mut order = Vec::new();
        while let Some((_, due)) = queue.pop_before(SimTime::MAX, StepEnd) {
            order.push(due.rank);
        }
        assert_eq!(order, [StepEnd, KvVisibility, Measure, Arrival, StepStart]);
    }

    proptest! {
        /// The queue is a stable sort by (time, rank), with re-keying.
        #[test]
        fn pops_in_total_order(
            workers in 1u32..9,
            changes in prop::collection::vec((0u32..9, 0u64..4, 0u8..3), 0..60),
        ) {
            let mut queue = EventQueue::new(workers);
            let mut model: Vec<(u32, u64, Rank, usize)> = Vec::new();
            for (i, &(worker, at, kind)) in changes.iter().enumerate() {
                let worker = worker % workers;
                model.retain(|entry| entry.0 != worker);
                if kind == 2 {
                    queue.cancel(WorkerId(worker));
                } else {
                    let rank = if kind == 0 { Rank::StepEnd } else { Rank::Arrival };
                    queue.schedule(WorkerId(worker), SimTime::from_ps(at), rank);
                    model.push((worker, at, rank, i));
                }
                let first = model.iter().min_by_key(|&&(_, at, rank, i)| (at, rank, i));
                prop_assert_eq!(queue.peek().map(|(worker, _)| worker.0), first.map(|f| f.0));
            }
            model.sort_by_key(|&(_, at, rank, i)| (at, rank, i));
            for (worker, at, rank, _) in model {
                let (got, due) = queue.pop_before(SimTime::MAX, Rank::StepEnd).unwrap();
                prop_assert_eq!((got.0, due.at.as_ps(), due.rank), (worker, at, rank));
            }
            prop_assert!(queue.peek().is_none());
        }
    }
}
