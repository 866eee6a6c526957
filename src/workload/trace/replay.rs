//! A trace as a workload.

use super::{Trace, row_number};
use crate::id::{ConversationId, RequestId};
use crate::request::Request;
use crate::time::{SimDuration, SimTime};
use crate::workload::arrivals::Arrivals;
use crate::workload::{Arrival, MAX_CONCURRENCY, PAUSE_AFTER_REJECTION, Patience, Workload};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::{Arc, Mutex, PoisonError};

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
    /// Later turns that can go, as what they wait for has ended.
    due: BinaryHeap<Reverse<(SimTime, u32)>>,
    /// Answers that every row still waits for; none of a trace without sessions.
    left: Vec<u32>,
    /// What starts at once, unless rows come as recorded.
    plays: Plays,
    /// The row of every request taken.
    row_of: Vec<u32>,
}

/// A trace with blocks of other sizes, each made once for all replays that share it.
#[derive(Clone, Debug, Default)]
pub struct Regrouped(Arc<Mutex<BTreeMap<u32, Arc<Trace>>>>);

impl Regrouped {
    /// `trace`, always the same one, such that each of its blocks is some of an engine with
    /// blocks of `block_size` tokens.
    pub(in crate::workload) fn of(&self, trace: &Arc<Trace>, block_size: u32) -> Arc<Trace> {
        if trace.block_tokens.is_multiple_of(block_size) {
            return Arc::clone(trace);
        }
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let regrouped = made.entry(block_size);
        Arc::clone(regrouped.or_insert_with(|| Arc::new(trace.regrouped(block_size))))
    }
}

/// Rows that wait for each other, with all that wait for them: what a client takes at a
/// time. A play is called by its first row. Empty where rows come as recorded.
#[derive(Clone, Debug, Default)]
struct Plays {
    /// The play of every row.
    of: Vec<u32>,
    /// By play: rows that have not ended.
    left: Vec<u32>,
    /// By play: whether its client has gone.
    cut: Vec<bool>,
    /// Rows besides the first that wait for nothing, by their plays.
    others: Vec<(u32, u32)>,
}

impl Plays {
    fn of_trace(trace: &Trace) -> Self {
        let rows = row_number(trace.rows.len());
        let mut of: Vec<u32> = (0..rows).collect();
        // Rows are after those that they wait for: the smallest number is a first turn.
        fn root(of: &mut [u32], row: u32) -> u32 {
            let mut at = row;
            while of[at as usize] != at {
                of[at as usize] = of[of[at as usize] as usize];
                at = of[at as usize];
            }
            at
        }
        for &(before, row) in &trace.edges {
            let (one, other) = (root(&mut of, before), root(&mut of, row));
            of[one.max(other) as usize] = one.min(other);
        }
        let mut left = vec![0; trace.rows.len()];
        let mut others = Vec::new();
        for row in 0..rows {
            let play = root(&mut of, row);
            of[row as usize] = play;
            left[play as usize] += 1;
            if play != row && trace.rows[row as usize].is_first() {
                others.push((play, row));
            }
        }
        others.sort_unstable();
        Self { of, left, cut: vec![false; trace.rows.len()], others }
    }

    /// True if a play, or with rows as recorded a first turn, starts with `row`.
    fn is_start(&self, row: u32) -> bool {
        self.of.get(row as usize).is_none_or(|play| *play == row)
    }

    /// The rows besides `play` that start with it.
    fn others(&self, play: u32) -> impl Iterator<Item = u32> + '_ {
        let begin = self.others.partition_point(|other| other.0 < play);
        self.others[begin..].iter().take_while(move |other| other.0 == play).map(|other| other.1)
    }
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
    /// If `block_size` is 0.
    pub fn new(trace: Arc<Trace>, block_size: u32, speedup: f64) -> Self {
        let trace = Regrouped::default().of(&trace, block_size);
        let has_sessions = trace.has_sessions();
        let left = trace.rows.iter().map(|row| row.waits).filter(|_| has_sessions).collect();
        let mut replay = Self {
            left,
            plays: Plays::default(),
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
        self.plays = Plays::of_trace(&self.trace);
        self.find_first(0);
        self
    }

    /// So many clients take the sessions in the order of the trace, each the next
    /// one when it is free, the first ones at time zero; later turns wait for
    /// their delays only.
    pub fn with_clients(mut self, count: u32) -> Self {
        let mut clients = Clients { count, open: 0, free: BinaryHeap::new(), cut: 0 };
        clients.set_count(SimTime::ZERO, count);
        self.starts = Starts::Clients(clients);
        self.plays = Plays::of_trace(&self.trace);
        self.find_first(0);
        self
    }

    fn at(&self, at: SimDuration) -> SimTime {
        SimTime::ZERO + self.trace.divided(at, self.speedup)
    }

    /// Makes the first turn at or after row `from` the next to start.
    fn find_first(&mut self, from: u32) {
        let rows = self.trace.rows[from as usize..].iter();
        let mut starts = rows.zip(from..).filter(|(row, _)| row.is_first());
        self.first =
            starts.find(|(_, number)| self.plays.is_start(*number)).map(|(_, number)| number);
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

    /// What row `row` begins starts at `now`.
    fn start(&mut self, now: SimTime, row: u32) {
        let begin = self.trace.rows[row as usize].at;
        for other in self.plays.others(row) {
            let after =
                self.trace.divided(self.trace.rows[other as usize].at - begin, self.speedup);
            self.due.push(Reverse((now + after, other)));
        }
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
            self.start(at, number);
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
            max_tokens: row.max_tokens,
            priority: 0,
            content: self.trace.content(number, self.block_size),
        };
        self.row_of.push(number);
        Arrival { at, sent: at, request, patience: Patience::default() }
    }

    /// Every row is sent, also after a turn that was rejected.
    fn observe_end(&mut self, now: SimTime, request: RequestId, served: bool) {
        let ended = self.row_of[request.index()];
        if let Starts::Clients(clients) = &mut self.starts {
            let play = self.plays.of[ended as usize];
            let left = &mut self.plays.left[play as usize];
            *left -= 1;
            let is_over = *left == 0;
            if self.plays.cut[play as usize] {
                return;
            }
            if is_over || clients.cut > 0 {
                clients.cut = clients.cut.saturating_sub(1);
                clients.end(if served { now } else { now + PAUSE_AFTER_REJECTION });
                self.plays.cut[play as usize] = true;
                let of = &self.plays.of;
                if !is_over {
                    self.due.retain(|Reverse((_, row))| of[*row as usize] != play);
                }
                return;
            }
        }
        let trace = Arc::clone(&self.trace);
        for follower in trace.followers(ended) {
            let left = &mut self.left[follower as usize];
            *left -= 1;
            if *left > 0 {
                continue;
            }
            let row = &trace.rows[follower as usize];
            let after = now + trace.divided(row.delay, self.speedup);
            let at = match self.starts {
                Starts::AsRecorded => after.max(self.at(row.at)),
                Starts::Process(..) | Starts::Clients(_) => after,
            };
            self.due.push(Reverse((at, follower)));
        }
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
