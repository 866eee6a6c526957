//! The order of simulated events.
//!
//! One queue holds the next event of every source (a worker, say); a source
//! whose plans change re-keys its entry. At equal times the [`Rank`] decides,
//! and within a rank the entry that was scheduled first:
//! `priority_queue` alone would pop equal priorities in any order, so the
//! sequence number is part of the priority.

use crate::time::SimTime;
use priority_queue::PriorityQueue;
use std::cmp::Reverse;
use std::hash::Hash;

/// What goes first at one moment. Everything that happens *because of the past*
/// comes before the arrivals of that moment, and steps that start at that
/// moment come last, so that they see it all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rank {
    /// A step's results are handled: tokens leave, blocks are freed.
    StepEnd,
    /// Cache events become visible to a front end.
    KvVisibility,
    /// A worker or front end changes state.
    Fault,
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

/// At most one pending event per source `S`.
#[derive(Debug)]
pub struct EventQueue<S: Hash + Eq> {
    entries: PriorityQueue<S, Reverse<Due>>,
    scheduled: u64,
}

impl<S: Hash + Eq + Copy> Default for EventQueue<S> {
    fn default() -> Self {
        Self { entries: PriorityQueue::new(), scheduled: 0 }
    }
}

impl<S: Hash + Eq + Copy> EventQueue<S> {
    /// Sets when `source` is due next, in place of what it was due for. O(log n).
    pub fn schedule(&mut self, source: S, at: SimTime, rank: Rank) {
        let due = Due { at, rank, sequence: self.scheduled };
        self.scheduled += 1;
        self.entries.push(source, Reverse(due));
    }

    /// Nothing is due from `source` any more. O(log n).
    pub fn cancel(&mut self, source: S) {
        self.entries.remove(&source);
    }

    /// The next event. O(1).
    pub fn peek(&self) -> Option<(S, Due)> {
        self.entries.peek().map(|(&source, &Reverse(due))| (source, due))
    }

    /// Takes the next event if it comes before whatever happens at `at` with
    /// `rank`. O(log n).
    pub fn pop_before(&mut self, at: SimTime, rank: Rank) -> Option<(S, Due)> {
        if !self.peek()?.1.is_before(at, rank) {
            return None;
        }
        self.entries.pop().map(|(source, Reverse(due))| (source, due))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranks_order_one_moment() {
        use Rank::{Arrival, Fault, KvVisibility, Measure, StepEnd, StepStart};
        let mut queue = EventQueue::default();
        let at = SimTime::from_ps(5);
        for (i, rank) in
            [StepStart, Arrival, Measure, Fault, KvVisibility, StepEnd].into_iter().enumerate()
        {
            queue.schedule(i, at, rank);
        }
        let mut order = Vec::new();
        while let Some((_, due)) = queue.pop_before(SimTime::MAX, StepEnd) {
            order.push(due.rank);
        }
        assert_eq!(order, [StepEnd, KvVisibility, Fault, Measure, Arrival, StepStart]);
    }

    proptest! {
        /// The queue is a stable sort by (time, rank), with re-keying.
        #[test]
        fn pops_in_total_order(events in prop::collection::vec((0u8..6, 0u64..4, 0u8..2), 0..60)) {
            let mut queue = EventQueue::default();
            let mut model: Vec<(u8, u64, Rank, usize)> = Vec::new();
            for (i, &(source, at, rank)) in events.iter().enumerate() {
                let rank = if rank == 0 { Rank::StepEnd } else { Rank::Arrival };
                queue.schedule(source, SimTime::from_ps(at), rank);
                model.retain(|entry| entry.0 != source);
                model.push((source, at, rank, i));
            }
            model.sort_by_key(|&(_, at, rank, i)| (at, rank, i));
            for (source, at, rank, _) in model {
                let (got, due) = queue.pop_before(SimTime::MAX, Rank::StepEnd).unwrap();
                prop_assert_eq!((got, due.at.as_ps(), due.rank), (source, at, rank));
            }
            prop_assert!(queue.peek().is_none());
        }
    }
}
