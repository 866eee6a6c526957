//! A trace of requests that some workload has sent.

use super::names::Beginnings;
use super::numbering::{Numbering, push};
use super::{Found, MAX_TIME, NO_ROW, Trace, TraceRow, row_number};
use crate::request::Request;
use crate::time::{SimDuration, SimTime};

impl Trace {
    /// These requests, in order of sending, with ids of `block_size` tokens each. A later
    /// turn of a conversation waits for the one before it. Requests after the longest trace
    /// are left out.
    ///
    /// # Panics
    /// If there are none, or if they are not in order.
    pub fn of_requests<'a>(
        requests: impl IntoIterator<Item = (SimTime, &'a Request)>,
        block_size: u32,
    ) -> Self {
        let mut trace = Self {
            rows: Vec::new(),
            runs: Vec::new(),
            edges: Vec::new(),
            block_tokens: block_size,
            beginnings: Beginnings::default(),
            is_whole_ms: false,
            found: Found::default(),
        };
        let mut numbers = Numbering::default();
        // By conversation: its number here, and its last row.
        let mut sessions: Vec<(u32, u32)> = Vec::new();
        let mut begun = 0;
        let mut first = None;
        for (sent, request) in requests {
            let at = sent.since(*first.get_or_insert(sent));
            if at > MAX_TIME {
                continue;
            }
            let number = row_number(trace.rows.len());
            let index = request.conversation.index();
            if sessions.len() <= index {
                sessions.resize(index + 1, (NO_ROW, NO_ROW));
            }
            let (session, before) = &mut sessions[index];
            let previous = std::mem::replace(before, number);
            if *session == NO_ROW {
                *session = begun;
                begun += 1;
            }
            let first_run = trace.runs.len();
            for run in request.content.runs(request.prompt_tokens / block_size) {
                for block in run.ids() {
                    push(&mut trace.runs, first_run, numbers.of((block.0, 0)), 1);
                }
            }
            let turn = trace.rows.get(previous as usize).map_or(0, |row| row.turn + 1);
            trace.rows.push(TraceRow {
                at,
                delay: SimDuration::ZERO,
                input_tokens: request.prompt_tokens,
                output_tokens: request.output_tokens,
                max_tokens: request.max_tokens,
                session: *session,
                turn,
                waits: u32::from(previous != NO_ROW),
                head: number,
                named_by: number,
                first_run,
            });
            if previous != NO_ROW {
                trace.edges.push((previous, number));
                let before = &trace.rows[previous as usize];
                let room = before.input_tokens + before.output_tokens;
                let whole = (before.input_tokens / block_size) as usize;
                let ids = |row: usize| trace.runs(row).iter().flat_map(|run| run.ids());
                let goes_on = ids(previous as usize).eq(ids(number as usize).take(whole));
                if goes_on && room <= request.prompt_tokens {
                    trace.rows[previous as usize].named_by = number;
                }
            }
        }
        assert!(!trace.rows.is_empty(), "a trace has rows");
        trace.edges.sort_unstable();
        trace
    }
}
