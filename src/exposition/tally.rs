//! What an arm's last requests met, and all that was counted since its start.

use super::buckets::{self, Buckets};
use crate::engine::StepRecord;
use crate::event::{RejectReason, WorkerEvent, WorkerEventKind};
use crate::id::{RequestId, WorkerId};
use crate::recorder::End;
use crate::simulation::{Happening, Observer};
use crate::time::{SimDuration, SimTime};
use serde::Serialize;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// So many requests that have ended are kept: as many as the page shows.
const KEPT: usize = 8;

/// Dynamo's types of errors, as far as they happen here.
const ERRORS: [&str; 5] = ["cancelled", "internal", "overload", "unavailable", "validation"];

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
    pub(crate) queue_ms: Option<f64>,
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
    /// When it reached the router.
    came: SimTime,
    dispatched: Option<SimTime>,
    is_scheduled: bool,
    is_prefilled: bool,
    first_token: Option<SimTime>,
    stay: Option<Stay>,
}

/// A request at a worker, as that knows it.
#[derive(Clone, Copy, Debug)]
struct Stay {
    worker: WorkerId,
    since: SimTime,
    prompt_tokens: u32,
    scheduled: Option<SimTime>,
    first_token: Option<SimTime>,
    last_token: SimTime,
    /// Those that the worker has told of.
    output_tokens: u32,
}

/// What one worker has counted; times in seconds.
#[derive(Clone, Debug)]
pub(crate) struct WorkerCounts {
    pub(super) prompt_tokens: u64,
    pub(super) cached_tokens: u64,
    pub(super) output_tokens: u64,
    pub(super) preemptions: u64,
    pub(super) finished: u64,
    /// Time in steps.
    pub(super) busy: SimDuration,
    /// Tokens of steps.
    pub(super) steps: Buckets,
    pub(super) first_tokens: Buckets,
    /// Between tokens; only where workers tell of each.
    pub(super) gaps: Option<Buckets>,
    /// Means of those by request.
    pub(super) tokens: Buckets,
    pub(super) requests: Buckets,
    pub(super) queues: Buckets,
    pub(super) inferences: Buckets,
    pub(super) prefills: Buckets,
    pub(super) decodes: Buckets,
}

/// What the router has counted; times in seconds.
#[derive(Clone, Debug)]
pub(crate) struct RouterCounts {
    pub(super) finished: u64,
    /// Those that ended otherwise, by Dynamo's types of errors.
    pub(super) errors: BTreeMap<&'static str, u64>,
    pub(super) first_tokens: Buckets,
    pub(super) requests: Buckets,
    pub(super) prompts: Buckets,
    pub(super) cached: Buckets,
    pub(super) answers: Buckets,
}

/// Shared by the observer of a simulation and the thread that owns it.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    counts: Arc<Mutex<Counts>>,
    /// Whether workers tell of every token.
    hears_tokens: bool,
}

/// What was counted.
#[derive(Clone, Debug)]
pub(crate) struct Counts {
    open: BTreeMap<RequestId, Open>,
    /// The last requests that ended, the latest last.
    pub(crate) last: VecDeque<RequestRow>,
    pub(super) workers: Vec<WorkerCounts>,
    pub(super) router: RouterCounts,
}

impl Tally {
    /// Of a fleet with room for so many `workers`.
    pub(crate) fn new(workers: usize) -> Self {
        let workers = vec![WorkerCounts::default(); workers];
        let (open, last, router) = (BTreeMap::new(), VecDeque::new(), RouterCounts::default());
        let counts = Arc::new(Mutex::new(Counts { open, last, workers, router }));
        Self { counts, hears_tokens: false }
    }

    /// Of workers that tell of every token.
    #[cfg(feature = "live")]
    pub(crate) fn of_each_token(workers: usize) -> Self {
        let tally = Self { hears_tokens: true, ..Self::new(workers) };
        for worker in &mut tally.counts().workers {
            worker.gaps = Some(Buckets::new(buckets::TOKENS));
        }
        tally
    }

    pub(crate) fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts steps that a fleet has [recorded](crate::SimulatedFleet::record_steps).
    pub(crate) fn count_steps(&self, steps: impl IntoIterator<Item = StepRecord>) {
        let mut counts = self.counts();
        for step in steps {
            if let Some(worker) = counts.workers.get_mut(step.worker.index()) {
                worker.busy += step.end - step.start;
                worker.steps.add(f64::from(step.prefill_tokens + step.decode_tokens), step.steps);
            }
        }
    }
}

impl Default for WorkerCounts {
    fn default() -> Self {
        let requests = || Buckets::new(buckets::REQUESTS);
        Self {
            prompt_tokens: 0,
            cached_tokens: 0,
            output_tokens: 0,
            preemptions: 0,
            finished: 0,
            busy: SimDuration::ZERO,
            steps: Buckets::new(buckets::STEPS),
            first_tokens: Buckets::new(buckets::FIRST_TOKENS),
            gaps: None,
            tokens: Buckets::new(buckets::TOKENS),
            requests: requests(),
            queues: requests(),
            inferences: requests(),
            prefills: requests(),
            decodes: requests(),
        }
    }
}

impl Default for RouterCounts {
    fn default() -> Self {
        Self {
            finished: 0,
            errors: ERRORS.map(|kind| (kind, 0)).into(),
            first_tokens: Buckets::new(buckets::ROUTER_FIRST_TOKENS),
            requests: Buckets::new(buckets::ROUTER_REQUESTS),
            prompts: Buckets::new(buckets::PROMPTS),
            cached: Buckets::new(buckets::PROMPTS),
            answers: Buckets::new(buckets::ANSWERS),
        }
    }
}

impl Observer for Tally {
    fn hear(&mut self, now: SimTime, happening: &Happening<'_>) {
        // Told of some tokens, it counts them when it hears of the last.
        if let Happening::Worker(event) = happening
            && matches!(event.kind, WorkerEventKind::OutputBlock { .. })
            && !self.hears_tokens
        {
            return;
        }
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
                let open = Open {
                    row,
                    sent: arrival.sent,
                    came: now,
                    dispatched: None,
                    is_scheduled: false,
                    is_prefilled: false,
                    first_token: None,
                    stay: None,
                };
                counts.open.insert(request.id, open);
            }
            Happening::Dispatch { request, worker } => {
                if let Some(open) = counts.open.get_mut(&request.id) {
                    open.dispatched.get_or_insert(now);
                    open.row.worker.get_or_insert(worker.0);
                    open.stay = Some(Stay {
                        worker: *worker,
                        since: now,
                        prompt_tokens: request.prompt_tokens,
                        scheduled: None,
                        first_token: None,
                        last_token: now,
                        output_tokens: 0,
                    });
                }
            }
            Happening::Worker(event) => counts.tell(now, event),
            Happening::End { request, end } => counts.end(now, *request, *end),
            _ => {}
        }
    }
}

impl Counts {
    /// Requests that have no token yet.
    pub(super) fn queued(&self) -> usize {
        self.open.values().filter(|open| open.first_token.is_none()).count()
    }

    fn tell(&mut self, now: SimTime, event: &WorkerEvent) {
        let Self { open, workers, router, .. } = self;
        let (Some(open), Some(worker)) =
            (open.get_mut(&event.request), workers.get_mut(event.worker.index()))
        else {
            return;
        };
        let Open { row, stay, .. } = open;
        let Some(stay) = stay.as_mut().filter(|stay| stay.worker == event.worker) else { return };
        match event.kind {
            WorkerEventKind::Scheduled { cached_tokens } if stay.scheduled.is_none() => {
                stay.scheduled = Some(now);
                // What decodes after another worker has looked nothing up.
                if !open.is_prefilled {
                    worker.prompt_tokens += u64::from(stay.prompt_tokens);
                    worker.cached_tokens += u64::from(cached_tokens);
                }
                if !open.is_scheduled {
                    open.is_scheduled = true;
                    row.cached_tokens = cached_tokens;
                    row.queue_ms = open.dispatched.map(|at| now.since(at).as_millis());
                }
            }
            // Servers say so at the end.
            WorkerEventKind::CacheHit { cached_tokens } => {
                worker.cached_tokens += u64::from(cached_tokens);
                row.cached_tokens = cached_tokens;
            }
            WorkerEventKind::FirstToken => {
                worker.take_tokens(stay, now, 1);
                if open.first_token.replace(now).is_none() {
                    router.first_tokens.add((now - open.came).as_secs(), 1);
                    router.prompts.add(f64::from(row.prompt_tokens), 1);
                }
            }
            WorkerEventKind::OutputBlock { output_tokens } => {
                worker.take_tokens(stay, now, output_tokens);
            }
            WorkerEventKind::Preempted => worker.preemptions += 1,
            WorkerEventKind::Finished { output_tokens } => {
                worker.take_tokens(stay, now, output_tokens);
                worker.finish(stay, now);
            }
            WorkerEventKind::Prefilled => {
                open.is_prefilled = true;
                worker.take_tokens(stay, now, 1);
                worker.finish(stay, now);
            }
            _ => {}
        }
    }

    fn end(&mut self, now: SimTime, id: RequestId, end: End) {
        let Some(Open { mut row, sent, came, first_token, .. }) = self.open.remove(&id) else {
            return;
        };
        row.ttft_ms = first_token.map(|at| (at - sent).as_millis());
        let router = &mut self.router;
        router.requests.add((now - came).as_secs(), 1);
        let error = match end {
            End::Finished { output_tokens } => {
                row.output_tokens = output_tokens;
                row.e2e_ms = Some((now - sent).as_millis());
                router.finished += 1;
                router.answers.add(f64::from(output_tokens), 1);
                router.cached.add(f64::from(row.cached_tokens), 1);
                None
            }
            End::Rejected(reason) => Some(match reason {
                RejectReason::ContextLimit | RejectReason::KvPool => "validation",
                RejectReason::Policy
                | RejectReason::Full
                | RejectReason::Busy
                | RejectReason::WaitedTooLong => "overload",
                RejectReason::NoWorker => "unavailable",
                RejectReason::Server => "internal",
            }),
            End::Failed => Some("internal"),
            End::GivenUp => Some("cancelled"),
        };
        if let Some(error) = error {
            *router.errors.entry(error).or_default() += 1;
        }
        row.end = match end {
            End::Finished { .. } => "finished".to_owned(),
            End::Rejected(reason) => reason.to_string(),
            End::Failed => "lost with its worker".to_owned(),
            End::GivenUp => "client hung up".to_owned(),
        };
        if self.last.len() == KEPT {
            self.last.pop_front();
        }
        self.last.push_back(row);
    }
}

impl WorkerCounts {
    /// The worker tells that `stay` has so many tokens.
    fn take_tokens(&mut self, stay: &mut Stay, now: SimTime, up_to: u32) {
        let more = up_to.saturating_sub(stay.output_tokens);
        if more == 0 {
            return;
        }
        self.output_tokens += u64::from(more);
        if stay.first_token.replace(stay.first_token.unwrap_or(now)).is_none() {
            self.first_tokens.add(now.since(stay.since).as_secs(), 1);
        } else if let Some(gaps) = &mut self.gaps {
            gaps.add(now.since(stay.last_token).as_secs() / f64::from(more), u64::from(more));
        }
        (stay.output_tokens, stay.last_token) = (up_to, now);
    }

    /// As vLLM counts a request at its end.
    fn finish(&mut self, stay: &Stay, now: SimTime) {
        let scheduled = stay.scheduled.unwrap_or(stay.since);
        let first_token = stay.first_token.unwrap_or(now);
        self.finished += 1;
        self.requests.add(now.since(stay.since).as_secs(), 1);
        self.queues.add(scheduled.since(stay.since).as_secs(), 1);
        self.inferences.add(now.since(scheduled).as_secs(), 1);
        self.prefills.add(first_token.since(scheduled).as_secs(), 1);
        let decode = now.since(first_token).as_secs();
        self.decodes.add(decode, 1);
        // 0 for a single token.
        self.tokens.add(decode / f64::from(stay.output_tokens.max(2) - 1), 1);
    }
}
