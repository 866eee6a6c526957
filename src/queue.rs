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

/// A [`Due`] as one number, in the same order: time, rank, sequence.
type Key = u128;

/// After every other: nothing is due.
const NEVER: Key = Key::MAX;

/// Bits of a key below those of the rank.
const SEQUENCE_BITS: u32 = 61;

const RANKS: [Rank; 5] =
    [Rank::StepEnd, Rank::KvVisibility, Rank::Measure, Rank::Arrival, Rank::StepStart];

fn key(due: Due) -> Key {
    let behind_time = (due.rank as u64) << SEQUENCE_BITS | due.sequence;
    Key::from(due.at.as_ps()) << 64 | Key::from(behind_time)
}

#[expect(clippy::cast_possible_truncation, reason = "the halves of a key")]
fn due(key: Key) -> Due {
    let (at, behind_time) = ((key >> 64) as u64, key as u64);
    Due {
        at: SimTime::from_ps(at),
        rank: RANKS[(behind_time >> SEQUENCE_BITS) as usize],
        sequence: behind_time & ((1 << SEQUENCE_BITS) - 1),
    }
}

/// At most one pending event per worker.
///
/// A tournament: the leaves of a binary tree are the workers, every inner node
/// repeats the one of its two that is due first, and so the root the first of all.
/// Ids are dense, so there is nothing to hash and nothing moves.
#[derive(Debug)]
pub struct EventQueue {
    /// Node `i` has the children `2 i` and `2 i + 1`, the root is node 1, and
    /// worker `w` of `n` is node `n + w`.
    nodes: Vec<(Key, WorkerId)>,
    workers: usize,
    scheduled: u64,
}

impl EventQueue {
    /// For the workers from 0 to `workers - 1`; nothing is due.
    pub fn new(workers: u32) -> Self {
        let leaves = (0..workers).map(|worker| (NEVER, WorkerId(worker)));
        let nodes = leaves.clone().chain(leaves).collect();
        Self { nodes, workers: workers as usize, scheduled: 0 }
    }

    /// Sets when `worker` is due next, in place of what it was due for. O(log n).
    pub fn schedule(&mut self, worker: WorkerId, at: SimTime, rank: Rank) {
        let due = Due { at, rank, sequence: self.scheduled };
        self.scheduled += 1;
        self.set(worker, key(due));
    }

    /// Nothing is due from `worker` any more. O(log n).
    pub fn cancel(&mut self, worker: WorkerId) {
        if self.nodes[self.workers + worker.index()].0 != NEVER {
            self.set(worker, NEVER);
        }
    }

    /// The next event. O(1).
    pub fn peek(&self) -> Option<(WorkerId, Due)> {
        let (key, worker) = *self.nodes.get(1)?;
        (key != NEVER).then(|| (worker, due(key)))
    }

    /// Takes the next event if it comes before whatever happens at `at` with
    /// `rank`. O(log n).
    pub fn pop_before(&mut self, at: SimTime, rank: Rank) -> Option<(WorkerId, Due)> {
        let next = self.peek().filter(|(_, due)| due.is_before(at, rank))?;
        self.set(next.0, NEVER);
        Some(next)
    }

    fn set(&mut self, worker: WorkerId, key: Key) {
        let mut node = self.workers + worker.index();
        let mut first = (key, worker);
        // As soon as the same one is first as before, nothing changes above.
        while self.nodes[node] != first {
            self.nodes[node] = first;
            if node <= 1 {
                return;
            }
            let neighbour = self.nodes[node ^ 1];
            if neighbour.0 < first.0 {
                first = neighbour;
            }
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
