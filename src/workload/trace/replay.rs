//! A trace as a workload.

use super::{NO_ROW, Trace, row_number};
use crate::id::{ConversationId, RequestId};
use crate::request::Request;
use crate::time::{SimDuration, SimTime};
use crate::workload::arrivals::Arrivals;
use crate::workload::{Arrival, MAX_CONCURRENCY, PAUSE_AFTER_REJECTION, Patience, Workload};
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
    starts: Starts,
    /// The next first turn, if one is left.
    first: Option<u32>,
    /// Later turns that can go as the turn before has ended.
    due: BinaryHeap<Reverse<(SimTime, u32)>>,
    /// The row of every request taken.
    row_of: Vec<u32>,
}

/// When first turns come.
#[derive(Clone, Debug)]
enum Starts {
    /// At their timestamps.
    AsRecorded,
    /// At the times of a process, of which this is the next one.
    Process(Arrivals, SimTime),
    /// When a client is free.
    Clients(Clients),
}

/// The clients of a closed loop. Those that are not free have a session each.
#[derive(Clone, Debug)]
struct Clients {
    count: u32,
    /// Sessions that have begun and not ended.
    open: u32,
    /// When those that are free take their next sessions.
    free: BinaryHeap<Reverse<SimTime>>,
    /// So many of those with a session leave it after the answer that they wait for.
    cut: u32,
}

impl Clients {
    /// There are `count` of them from `now` on, those with a session included.
    fn set_count(&mut self, now: SimTime, count: u32) {
        self.count = count;
        let free = count.saturating_sub(self.open) as usize;
        if self.free.len() > free {
            // The first ones stay.
            let mut times = std::mem::take(&mut self.free).into_vec();
            times.sort_unstable_by(|a, b| b.cmp(a));
            times.truncate(free);
            self.free = times.into();
        }
        let new = free - self.free.len();
        self.free.extend(std::iter::repeat_n(Reverse(now), new));
    }

    /// A session has ended; its client takes the next one at `at`, unless there
    /// are too many clients.
    fn end(&mut self, at: SimTime) {
        self.open -= 1;
        if self.open as usize + self.free.len() < self.count as usize {
            self.free.push(Reverse(at));
        }
    }
}

impl TraceReplay {
    /// The replay from the first row, for engines with blocks of `block_size`
    /// tokens, with times and delays divided by `speedup`.
    ///
    /// # Panics
    /// If `block_size` does not divide the trace's.
    pub fn new(trace: Arc<Trace>, block_size: u32, speedup: f64) -> Self {
        let tokens = trace.block_tokens;
        assert!(tokens.is_multiple_of(block_size), "{block_size} does not divide {tokens}");
        let mut replay = Self {
            trace,
            speedup,
            block_size,
            starts: Starts::AsRecorded,
            first: None,
            due: BinaryHeap::new(),
            row_of: Vec::new(),
        };
        replay.find_first(0);
        replay
    }

    /// First turns come at these times instead, in the order of the trace; later
    /// turns wait for their delays only.
    pub fn with_arrivals(mut self, mut arrivals: Arrivals) -> Self {
        let first = arrivals.next_time();
        self.starts = Starts::Process(arrivals, first);
        self
    }

    /// So many clients take the sessions in the order of the trace, each the next
    /// one when it is free, the first ones at time zero; later turns wait for
    /// their delays only.
    pub fn with_clients(mut self, count: u32) -> Self {
        let mut clients = Clients { count, open: 0, free: BinaryHeap::new(), cut: 0 };
        clients.set_count(SimTime::ZERO, count);
        self.starts = Starts::Clients(clients);
        self
    }

    fn at(&self, at: SimDuration) -> SimTime {
        SimTime::ZERO + self.trace.divided(at, self.speedup)
    }

    /// Makes the first turn at or after row `from` the next to start.
    fn find_first(&mut self, from: u32) {
        let rows = self.trace.rows[from as usize..].iter();
        self.first = rows.zip(from..).find(|(row, _)| row.turn == 0).map(|(_, number)| number);
    }

    /// When the next session starts, and its row.
    fn next_start(&self) -> Option<(SimTime, u32)> {
        let row = self.first?;
        let at = match &self.starts {
            Starts::AsRecorded => self.at(self.trace.rows[row as usize].at),
            Starts::Process(_, at) => *at,
            Starts::Clients(clients) => clients.free.peek()?.0,
        };
        Some((at, row))
    }

    /// The session of row `row` starts.
    fn start(&mut self, row: u32) {
        match &mut self.starts {
            Starts::AsRecorded => {}
            Starts::Process(arrivals, next) => *next = arrivals.next_time(),
            Starts::Clients(clients) => {
                clients.free.pop();
                clients.open += 1;
            }
        }
        self.find_first(row + 1);
    }

    /// The next turn and whether it is a first one; at equal times the row that
    /// comes first in the trace.
    fn next(&self) -> Option<((SimTime, u32), bool)> {
        let due = self.due.peek().map(|Reverse(due)| (*due, false));
        self.next_start().map(|start| (start, true)).into_iter().chain(due).min()
    }
}

impl Workload for TraceReplay {
    fn next_arrival(&self) -> Option<SimTime> {
        self.next().map(|((at, _), _)| at)
    }

    fn take(&mut self) -> Arrival {
        let ((at, number), is_first) = self.next().expect("a row is left");
        if is_first {
            self.start(number);
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
            priority: 0,
            content: self.trace.content(number, self.block_size),
        };
        self.row_of.push(number);
        Arrival { at, sent: at, request, patience: Patience::default() }
    }

    /// Every row is sent, also after a turn that was rejected.
    fn observe_end(&mut self, now: SimTime, request: RequestId, served: bool) {
        let ended = self.trace.rows[self.row_of[request.index()] as usize];
        if let Starts::Clients(clients) = &mut self.starts
            && (ended.next_turn == NO_ROW || clients.cut > 0)
        {
            clients.cut = clients.cut.saturating_sub(1);
            clients.end(if served { now } else { now + PAUSE_AFTER_REJECTION });
            return;
        }
        if ended.next_turn == NO_ROW {
            return;
        }
        let row = &self.trace.rows[ended.next_turn as usize];
        let after = now + self.trace.divided(row.delay, self.speedup);
        let at = match self.starts {
            Starts::AsRecorded => after.max(self.at(row.at)),
            Starts::Process(..) | Starts::Clients(_) => after,
        };
        self.due.push(Reverse((at, ended.next_turn)));
    }

    /// Those that are too many and cut take no further turn.
    fn set_concurrency(&mut self, now: SimTime, clients: u32, cut: bool) -> bool {
        match &mut self.starts {
            Starts::Clients(all) if clients <= MAX_CONCURRENCY => {
                all.set_count(now, clients);
                all.cut = if cut { all.open.saturating_sub(clients) } else { 0 };
                true
            }
            _ => false,
        }
    }

    fn set_rate(&mut self, now: SimTime, per_s: f64) -> bool {
        let Starts::Process(arrivals, next) = &mut self.starts else { return false };
        let Some(change) = arrivals.set_rate(now, per_s) else { return false };
        *next = change.moved(*next);
        true
    }
}
