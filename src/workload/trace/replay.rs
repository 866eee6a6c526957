//! A trace as a workload.

use super::{NO_ROW, Trace, divided, row_number};
use crate::id::{ConversationId, RequestId};
use crate::request::Request;
use crate::time::{SimDuration, SimTime};
use crate::workload::arrivals::Arrivals;
use crate::workload::{Arrival, Workload};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

/// Replays a [`Trace`]. Without sessions request `n` is row `n`; with them
/// requests are numbered as they come.
#[derive(Clone, Debug)]
pub struct TraceReplay {
    trace: Arc<Trace>,
    speedup: f64,
    block_size: u32,
    /// When first turns come, if not at their timestamps.
    arrivals: Option<Arrivals>,
    /// The next first turn.
    start: Option<(SimTime, u32)>,
    /// Later turns that can go as the turn before has ended.
    due: BinaryHeap<Reverse<(SimTime, u32)>>,
    /// The row of every request taken.
    row_of: Vec<u32>,
}

impl TraceReplay {
    /// The replay from the first row, for engines with blocks of `block_size`
    /// tokens, with timestamps and delays divided by `speedup`.
    ///
    /// # Panics
    /// If `block_size` does not divide the trace's.
    pub fn new(trace: Arc<Trace>, block_size: u32, speedup: f64) -> Self {
        let tokens = trace.block_tokens;
        assert!(tokens.is_multiple_of(block_size), "{block_size} does not divide {tokens}");
        let (due, row_of) = (BinaryHeap::new(), Vec::new());
        let mut replay =
            Self { trace, speedup, block_size, arrivals: None, start: None, due, row_of };
        replay.find_start(0);
        replay
    }

    /// First turns come at these times instead, in the order of the trace; later
    /// turns wait for their delays only.
    pub fn with_arrivals(mut self, arrivals: Arrivals) -> Self {
        self.arrivals = Some(arrivals);
        self.find_start(0);
        self
    }

    fn at(&self, timestamp_ms: u64) -> SimTime {
        SimTime::ZERO + SimDuration::from_millis(divided(timestamp_ms, self.speedup))
    }

    /// Makes the first turn at or after row `from` the next to start.
    fn find_start(&mut self, from: u32) {
        let rows = self.trace.rows[from as usize..].iter();
        let found = rows.zip(from..).find(|(row, _)| row.turn == 0);
        let found = found.map(|(row, number)| (self.at(row.timestamp_ms), number));
        self.start = found.map(|(at, number)| match &mut self.arrivals {
            Some(arrivals) => (arrivals.next_time(), number),
            None => (at, number),
        });
    }

    /// The next turn and whether it is a first one; at equal times the row that
    /// comes first in the trace.
    fn next(&self) -> Option<((SimTime, u32), bool)> {
        let due = self.due.peek().map(|Reverse(due)| (*due, false));
        self.start.map(|start| (start, true)).into_iter().chain(due).min()
    }
}

impl Workload for TraceReplay {
    fn next_arrival(&self) -> Option<SimTime> {
        self.next().map(|((at, _), _)| at)
    }

    fn take(&mut self) -> Arrival {
        let ((at, number), is_first) = self.next().expect("a row is left");
        if is_first {
            self.find_start(number + 1);
        } else {
            self.due.pop();
        }
        let row = self.trace.rows[number as usize];
        let request = Request {
            id: RequestId(row_number(self.row_of.len())),
            conversation: ConversationId(row.session),
            turn: row.turn,
            prompt_tokens: row.input_tokens,
            output_tokens: row.output_tokens,
            max_tokens: row.output_tokens,
            content: self.trace.content(number, self.block_size),
        };
        self.row_of.push(number);
        Arrival { at, sent: at, request }
    }

    /// Every row is sent, also after a turn that was rejected.
    fn observe_end(&mut self, now: SimTime, request: RequestId, _served: bool) {
        let ended = self.trace.rows[self.row_of[request.index()] as usize];
        if ended.next_turn == NO_ROW {
            return;
        }
        let row = &self.trace.rows[ended.next_turn as usize];
        let after = now + SimDuration::from_millis_f64(row.delay_ms as f64 / self.speedup);
        let at = match self.arrivals {
            Some(_) => after,
            None => after.max(self.at(row.timestamp_ms)),
        };
        self.due.push(Reverse((at, ended.next_turn)));
    }
}
