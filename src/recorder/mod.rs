//! What a run leaves behind: the life of every request, and the gauges of every
//! worker, reduced to metrics window by window.
//!
//! A value is observed when it becomes known: time to first token when the
//! first token arrives, everything else when the request ends. A window holds
//! the values observed in it.

mod spikes;
mod spread;
mod why;
mod window;

pub use spread::InflightSpread;
pub use why::RequestWhy;
pub use window::{Curves, Level, Quantiles, SHARES, Slo};

use crate::engine::Gauges;
use crate::event::{RejectReason, WorkerEvent, WorkerEventKind};
use crate::id::{ConversationId, RequestId, WorkerId};
use crate::request::Request;
use crate::stats::Histogram;
use crate::time::{SimDuration, SimTime};
use crate::workload::Arrival;
use sha2::{Digest, Sha256};
use spikes::QueueSpikes;
use std::collections::{BTreeMap, VecDeque};
use why::Why;
use window::Observations;

/// The time over which the height of queue spikes is taken, unless told (assumed:
/// publications that show such spikes do not say).
pub const SPIKE_WINDOW: SimDuration = SimDuration::from_secs(10);

/// Metrics by name; `None` where a metric is undefined (a percentile of no requests).
pub type Metrics = BTreeMap<String, Option<f64>>;

/// One request from its client's point of view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestRecord {
    /// The request.
    pub request: RequestId,
    /// Its conversation.
    pub conversation: u32,
    /// Its turn, from 0.
    pub turn: u32,
    /// Prompt length.
    pub prompt_tokens: u32,
    /// When the client sent it.
    pub sent: SimTime,
    /// When it reached the router.
    pub arrived: SimTime,
    /// When the router sent it to a worker, and to which.
    pub dispatched: Option<(SimTime, WorkerId)>,
    /// When it was first in a batch.
    pub scheduled: Option<SimTime>,
    /// Prompt tokens found in the cache then.
    pub cached_tokens: u32,
    /// When its first token left the worker.
    pub first_token: Option<SimTime>,
    /// How it ended, and when.
    pub end: Option<(SimTime, End)>,
    /// Times it lost its blocks.
    pub preemptions: u32,
    /// What it gave away, once it is scheduled; only where that is measured.
    pub why: Option<RequestWhy>,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With this many output tokens.
    Finished {
        /// Tokens generated.
        output_tokens: u32,
    },
    /// Not served.
    Rejected(RejectReason),
}

/// Follows a run.
#[derive(Debug)]
pub struct Recorder {
    /// Requests from `first` on that have not all ended.
    open: VecDeque<RequestRecord>,
    first: u32,
    seen: Option<Window>,
    inflight: InflightSpread,
    /// Request-picoseconds from dispatch to end, of requests that ended since
    /// the window began (its part in the window).
    residence_ps: u128,
    digest: Sha256,
    ended: u64,
    kept: Option<Vec<RequestRecord>>,
    why: Option<Why>,
    spike_window: SimDuration,
    /// The distributions of the windows that ended.
    curves: Vec<Curves>,
    /// What workers told, if it is kept.
    events: Option<Vec<(SimTime, WorkerEvent)>>,
}

/// The level that is being observed.
#[derive(Debug)]
struct Window {
    level: Level,
    observations: Observations,
    /// Gauges when the window began, once it has.
    start: Option<Vec<Gauges>>,
}

impl Recorder {
    /// For a fleet of `workers`; keeps every request's record if asked to.
    pub fn new(workers: u32, keep_requests: bool) -> Self {
        Self {
            open: VecDeque::new(),
            first: 0,
            seen: None,
            inflight: InflightSpread::new(workers),
            residence_ps: 0,
            digest: Sha256::new(),
            ended: 0,
            kept: keep_requests.then(Vec::new),
            why: None,
            spike_window: SPIKE_WINDOW,
            curves: Vec::new(),
            events: None,
        }
    }

    /// Keeps everything that workers tell of requests, for [`take_events`](Self::take_events).
    pub fn keep_events(mut self) -> Self {
        self.events = Some(Vec::new());
        self
    }

    /// What workers told since they are kept, in order of time.
    pub fn take_events(&mut self) -> Vec<(SimTime, WorkerEvent)> {
        self.events.take().unwrap_or_default()
    }

    /// The distributions of the windows that ended, in order.
    pub fn take_curves(&mut self) -> Vec<Curves> {
        std::mem::take(&mut self.curves)
    }

    /// Measures what every choice of a worker gave away; see [`RequestWhy`].
    /// Takes nothing from the run but time.
    pub fn measure_why(mut self, block_size: u32) -> Self {
        self.why = Some(Why::new(block_size));
        self
    }

    /// Takes the height of queue spikes over this time; [`SPIKE_WINDOW`] unless told.
    pub fn with_spike_window(mut self, window: SimDuration) -> Self {
        self.spike_window = window;
        self
    }

    /// True if it has to be told of what workers hold.
    pub fn measures_why(&self) -> bool {
        self.why.is_some()
    }

    /// The router sends `request` to `worker`. `held` and `believed` are leading
    /// blocks of its prompt on each worker, in truth and by the router's index.
    pub fn note_choice(
        &mut self,
        request: &Request,
        worker: WorkerId,
        held: &[u32],
        believed: Option<&[u32]>,
    ) {
        if let Some(why) = &mut self.why {
            why.sent(request, worker, held, believed);
        }
    }

    /// A request that was sent and has not ended, where that is
    /// [measured](Self::measure_why).
    pub fn sent_request(&self, id: RequestId) -> Option<&Request> {
        self.why.as_ref()?.request(id)
    }

    /// The request of `event` is scheduled with `cached_tokens` hit, while the
    /// workers hold the leading blocks `held` of its prompt.
    pub fn note_hits(&mut self, event: &WorkerEvent, cached_tokens: u32, held: &[u32]) {
        if let Some(why) = &mut self.why {
            let found = why.scheduled(event, cached_tokens, held);
            self.record(event.request).why = Some(found);
        }
    }

    /// The conversation of a request that has not ended.
    pub fn conversation(&self, request: RequestId) -> ConversationId {
        ConversationId(self.open[(request.0 - self.first) as usize].conversation)
    }

    /// Requests that are at a worker.
    pub fn at_workers(&self) -> impl Iterator<Item = RequestId> + '_ {
        let open = self.open.iter().filter(|record| record.end.is_none());
        open.filter(|record| record.dispatched.is_some()).map(|record| record.request)
    }

    /// Observes `level` from now on.
    pub fn begin_level(&mut self, level: Level) {
        let spikes = QueueSpikes::new(self.inflight.workers(), self.spike_window);
        let observations = Observations::new(self.inflight.workers(), spikes, self.why.is_some());
        self.seen = Some(Window { level, observations, start: None });
    }

    /// The level's warm-up is over: its window begins at `now`.
    pub fn begin_window(&mut self, now: SimTime, gauges: Vec<Gauges>) {
        self.inflight.restart(now);
        self.residence_ps = 0;
        if let Some(window) = &mut self.seen {
            debug_assert_eq!(window.level.begin, now);
            window.start = Some(gauges);
        }
    }

    /// The window ends at `now`: its metrics.
    ///
    /// # Panics
    /// If no window began, or if the workers' gauges contradict the requests'
    /// residence times (Little's law, exactly): our own bug.
    pub fn end_window(&mut self, now: SimTime, gauges: &[Gauges], gaps: &Histogram) -> Metrics {
        self.inflight.advance(now);
        let window = self.seen.take().expect("a window that ends has begun");
        let start = window.start.expect("a window that ends has begun");
        self.check_little(window.level.begin, now, &start, gauges);
        let (mut metrics, curves) = window.observations.metrics(&window.level, now, gaps);
        self.curves.push(curves);
        let elapsed = (now - window.level.begin).as_ps();
        self.inflight.metrics(now, &mut metrics);
        gauge_metrics(&start, gauges, elapsed, &mut metrics);
        metrics
    }

    /// A request reached the router.
    pub fn arrive(&mut self, arrival: &Arrival) {
        let request = &arrival.request;
        let expected = self.first + u32::try_from(self.open.len()).expect("fits u32");
        assert_eq!(request.id.0, expected, "requests are numbered in order of arrival");
        self.open.push_back(RequestRecord {
            request: request.id,
            conversation: request.conversation.0,
            turn: request.turn,
            prompt_tokens: request.prompt_tokens,
            sent: arrival.sent,
            arrived: arrival.at,
            dispatched: None,
            scheduled: None,
            cached_tokens: 0,
            first_token: None,
            end: None,
            preemptions: 0,
            why: None,
        });
    }

    /// The router sent a request to a worker.
    pub fn dispatch(&mut self, now: SimTime, request: RequestId, worker: WorkerId) {
        self.record(request).dispatched = Some((now, worker));
        self.inflight.change(now, worker, true);
    }

    /// The router turned a request away.
    pub fn turn_away(&mut self, now: SimTime, request: RequestId, reason: RejectReason) {
        self.end(now, request, End::Rejected(reason));
    }

    /// Something happened to a request at its worker.
    pub fn observe(&mut self, now: SimTime, event: &WorkerEvent) {
        self.observe_why(event);
        if let Some(events) = &mut self.events {
            events.push((now, *event));
        }
        let record = self.record(event.request);
        match event.kind {
            WorkerEventKind::Scheduled { cached_tokens } => {
                record.scheduled = Some(now);
                record.cached_tokens = cached_tokens;
            }
            WorkerEventKind::Preempted => record.preemptions += 1,
            WorkerEventKind::OutputBlock { .. } => {}
            WorkerEventKind::FirstToken => {
                record.first_token = Some(now);
                let record = *record;
                if let Some(window) = &mut self.seen {
                    window.observations.first_token(now, &window.level, &record);
                }
            }
            WorkerEventKind::Finished { output_tokens } => {
                self.inflight.change(now, event.worker, false);
                self.end(now, event.request, End::Finished { output_tokens });
            }
            WorkerEventKind::Rejected(reason) => {
                self.inflight.change(now, event.worker, false);
                self.end(now, event.request, End::Rejected(reason));
            }
        }
    }

    fn observe_why(&mut self, event: &WorkerEvent) {
        let Some(why) = &mut self.why else { return };
        let prompt_tokens = why.request(event.request).map_or(1, |request| request.prompt_tokens);
        match event.kind {
            WorkerEventKind::FirstToken => why.computed(event.request, prompt_tokens),
            WorkerEventKind::Finished { output_tokens } => {
                why.computed(event.request, prompt_tokens + output_tokens);
                why.ended(event.request);
            }
            WorkerEventKind::Rejected(_) => why.ended(event.request),
            WorkerEventKind::Scheduled { .. }
            | WorkerEventKind::Preempted
            | WorkerEventKind::OutputBlock { .. } => {}
        }
    }

    /// Requests that have not ended.
    pub fn unended(&self) -> usize {
        self.open.iter().filter(|record| record.end.is_none()).count()
    }

    /// Requests that have ended.
    pub fn ended(&self) -> u64 {
        self.ended
    }

    /// SHA-256 over everything the outside saw of the requests that ended.
    pub fn digest(&self) -> [u8; 32] {
        self.digest.clone().finalize().into()
    }

    /// The records kept, in order of end; those still open follow in order of arrival.
    pub fn into_requests(self) -> Vec<RequestRecord> {
        let mut kept = self.kept.unwrap_or_default();
        kept.extend(self.open.into_iter().filter(|record| record.end.is_none()));
        kept
    }

    fn record(&mut self, request: RequestId) -> &mut RequestRecord {
        let index = request.0.checked_sub(self.first).expect("an open request") as usize;
        let record = &mut self.open[index];
        assert!(record.end.is_none(), "{request:?} has ended already: {record:?}");
        record
    }

    fn end(&mut self, now: SimTime, request: RequestId, end: End) {
        let record = self.record(request);
        record.end = Some((now, end));
        let record = *record;
        self.ended += 1;
        self.digest_record(&record);
        if let Some(kept) = &mut self.kept {
            kept.push(record);
        }
        if let Some(window) = &mut self.seen {
            window.observations.end(now, &window.level, &record, end);
            if window.start.is_some()
                && let Some((dispatched, _)) = record.dispatched
            {
                let from = dispatched.max(window.level.begin);
                self.residence_ps += u128::from((now - from).as_ps());
            }
        }
        while self.open.front().is_some_and(|record| record.end.is_some()) {
            self.open.pop_front();
            self.first += 1;
        }
    }

    fn digest_record(&mut self, record: &RequestRecord) {
        let time = |at: Option<SimTime>| at.map_or(u64::MAX, SimTime::as_ps);
        let (ended, end) = record.end.expect("only ended requests are digested");
        let (served, tokens) = match end {
            End::Finished { output_tokens } => (1, u64::from(output_tokens)),
            End::Rejected(reason) => (0, reason as u64),
        };
        let words = [
            u64::from(record.request.0),
            u64::from(record.conversation) << 32 | u64::from(record.turn),
            record.dispatched.map_or(u64::MAX, |(_, worker)| u64::from(worker.0)),
            u64::from(record.prompt_tokens) << 32 | u64::from(record.cached_tokens),
            served << 32 | u64::from(record.preemptions),
            tokens,
            record.sent.as_ps(),
            time(record.dispatched.map(|(at, _)| at)),
            time(record.scheduled),
            time(record.first_token),
            ended.as_ps(),
        ];
        let mut bytes = [0; 8 * 11];
        for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        self.digest.update(bytes);
    }

    /// Little's law without averages: the workers' request-seconds over the
    /// window are the requests' seconds in it.
    fn check_little(&self, begin: SimTime, now: SimTime, start: &[Gauges], end: &[Gauges]) {
        let at = |gauges: &[Gauges]| -> u128 {
            gauges.iter().map(|gauge| gauge.running_ps + gauge.waiting_ps).sum()
        };
        let open = self.open.iter().filter(|record| record.end.is_none());
        let still_open: u128 = open
            .filter_map(|record| record.dispatched)
            .map(|(dispatched, _)| u128::from((now - dispatched.max(begin)).as_ps()))
            .sum();
        let from_gauges = at(end) - at(start);
        let from_requests = self.residence_ps + still_open;
        assert_eq!(from_gauges, from_requests, "Little's law, window {begin:?} to {now:?}");
    }
}

fn gauge_metrics(start: &[Gauges], end: &[Gauges], elapsed_ps: u64, metrics: &mut Metrics) {
    if elapsed_ps == 0 {
        return;
    }
    let workers = end.len() as f64;
    let mean = |of: fn(&Gauges) -> u128| {
        let total: u128 = start.iter().zip(end).map(|(a, b)| of(b) - of(a)).sum();
        Some(total as f64 / elapsed_ps as f64 / workers)
    };
    metrics.insert("running_mean".into(), mean(|gauges| gauges.running_ps));
    metrics.insert("waiting_mean".into(), mean(|gauges| gauges.waiting_ps));
    metrics.insert("kv_blocks_used_mean".into(), mean(|gauges| gauges.used_blocks_ps));
}

/// Milliseconds of a duration in picoseconds.
fn ms(ps: u64) -> f64 {
    SimDuration::from_ps(ps).as_millis()
}
