//! What an arm's last requests met, and all that was counted since its start.

use crate::event::WorkerEventKind;
use crate::id::{RequestId, WorkerId};
use crate::recorder::End;
use crate::simulation::{Happening, Observer};
use crate::time::SimTime;
use serde::Serialize;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// So many requests that have ended are kept.
const KEPT: usize = 30;

/// A request, as the page lists it; times in milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct RequestRow {
    pub(crate) id: u32,
    conversation: u32,
    /// From 1.
    turn: u32,
    /// The worker that it was sent to first.
    pub(crate) worker: Option<u32>,
    prompt_tokens: u32,
    cached_tokens: u32,
    output_tokens: u32,
    /// When the client sent it, in seconds of the simulation.
    pub(crate) sent_s: f64,
    queue_ms: Option<f64>,
    pub(crate) ttft_ms: Option<f64>,
    e2e_ms: Option<f64>,
    /// What became of it.
    pub(crate) end: String,
}

/// A request that has not ended.
#[derive(Clone, Debug)]
struct Open {
    row: RequestRow,
    sent: SimTime,
    dispatched: Option<SimTime>,
    is_scheduled: bool,
    first_token: Option<SimTime>,
}

/// What one worker has counted.
#[derive(Clone, Debug, Default)]
pub(crate) struct WorkerCounts {
    pub(crate) prompt_tokens: u64,
    pub(crate) cached_tokens: u64,
    pub(crate) output_tokens: u64,
    pub(crate) preemptions: u64,
    pub(crate) finished: u64,
}

/// Shared by the observer of a simulation and the thread that owns it.
#[derive(Clone, Debug)]
pub(crate) struct Tally(Arc<Mutex<Counts>>);

/// What was counted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    open: BTreeMap<RequestId, Open>,
    /// The last requests that ended, the latest last.
    pub(crate) last: VecDeque<RequestRow>,
    pub(crate) workers: Vec<WorkerCounts>,
    /// Those that ended without an answer.
    pub(crate) errors: u64,
}

impl Tally {
    pub(crate) fn new(workers: usize) -> Self {
        let workers = vec![WorkerCounts::default(); workers];
        Self(Arc::new(Mutex::new(Counts { workers, ..Counts::default() })))
    }

    pub(crate) fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Tally {
    fn hear(&mut self, now: SimTime, happening: &Happening<'_>) {
        let mut counts = self.counts();
        match happening {
            Happening::Arrival(arrival) => {
                let request = &arrival.request;
                let row = RequestRow {
                    id: request.id.0,
                    conversation: request.conversation.0,
                    turn: request.turn + 1,
                    worker: None,
                    prompt_tokens: request.prompt_tokens,
                    cached_tokens: 0,
                    output_tokens: 0,
                    sent_s: arrival.sent.as_secs(),
                    queue_ms: None,
                    ttft_ms: None,
                    e2e_ms: None,
                    end: String::new(),
                };
                let sent = arrival.sent;
                let open =
                    Open { row, sent, dispatched: None, is_scheduled: false, first_token: None };
                counts.open.insert(request.id, open);
            }
            Happening::Dispatch { request, worker } => {
                if let Some(open) = counts.open.get_mut(&request.id) {
                    open.dispatched.get_or_insert(now);
                    open.row.worker.get_or_insert(worker.0);
                }
            }
            Happening::Worker(event) => counts.tell(now, event.worker, event.request, event.kind),
            Happening::End { request, end } => counts.end(now, *request, *end),
            _ => {}
        }
    }
}

impl Counts {
    fn tell(&mut self, now: SimTime, worker: WorkerId, id: RequestId, kind: WorkerEventKind) {
        let Self { open, workers, .. } = self;
        let (Some(open), Some(counts)) = (open.get_mut(&id), workers.get_mut(worker.index()))
        else {
            return;
        };
        match kind {
            WorkerEventKind::Scheduled { cached_tokens } if !open.is_scheduled => {
                open.is_scheduled = true;
                counts.prompt_tokens += u64::from(open.row.prompt_tokens);
                counts.cached_tokens += u64::from(cached_tokens);
                open.row.cached_tokens = cached_tokens;
                open.row.queue_ms = open.dispatched.map(|at| now.since(at).as_millis());
            }
            WorkerEventKind::FirstToken => {
                open.first_token.get_or_insert(now);
            }
            WorkerEventKind::Preempted => counts.preemptions += 1,
            WorkerEventKind::Finished { output_tokens } => {
                counts.finished += 1;
                counts.output_tokens += u64::from(output_tokens);
            }
            _ => {}
        }
    }

    fn end(&mut self, now: SimTime, id: RequestId, end: End) {
        let Some(Open { mut row, sent, first_token, .. }) = self.open.remove(&id) else { return };
        row.ttft_ms = first_token.map(|at| (at - sent).as_millis());
        row.end = match end {
            End::Finished { output_tokens } => {
                row.output_tokens = output_tokens;
                row.e2e_ms = Some((now - sent).as_millis());
                "finished".to_owned()
            }
            End::Rejected(reason) => reason.to_string(),
            End::Failed => "lost with its worker".to_owned(),
            End::GivenUp => "client hung up".to_owned(),
        };
        self.errors += u64::from(!matches!(end, End::Finished { .. }));
        if self.last.len() == KEPT {
            self.last.pop_front();
        }
        self.last.push_back(row);
    }
}
