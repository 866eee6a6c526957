//! What a run leaves behind: the life of every request, and the gauges of every
//! worker, reduced to metrics window by window.
//!
//! A value is observed when it becomes known: time to first token when the
//! first token arrives, everything else when the request ends. A window holds
//! the values observed in it.

mod by_pool;
mod changing;
mod gauges;
mod record;
mod spikes;
mod spread;
#[cfg(test)]
mod tests;
mod tiers;
mod trailing;
mod why;
mod window;

pub use record::{End, Handover, Metrics, Refused, RequestRecord, Stay};
pub use spread::InflightSpread;
pub use trailing::Recent;
pub(crate) use trailing::RecentWorker;
pub use why::RequestWhy;
pub use window::{Curves, Level, Quantiles, SHARES, Slo};

use crate::engine::Gauges;
use crate::event::{Medium, RejectReason, WorkerEvent, WorkerEventKind};
use crate::id::{RequestId, WorkerId};
use crate::metrics::catalogue;
use crate::request::Request;
use crate::router::Sides;
use crate::stats::Histogram;
use crate::time::{SimDuration, SimTime};
use crate::workload::Arrival;
use by_pool::ByPool;
use changing::Changing;
use gauges::{GaugeKinds, OF_ALL, OF_DECODE, OF_PREFILL, gauge_metrics};
use sha2::{Digest, Sha256};
use spikes::QueueSpikes;
use std::collections::VecDeque;
use std::ops::Range;
use tiers::TierLoads;
use trailing::Trailing;
use why::Why;
use window::{Observations, Window};

/// The time over which the height of queue spikes is taken, unless told (assumed:
/// publications that show such spikes do not say).
pub const SPIKE_WINDOW: SimDuration = SimDuration::from_secs(10);

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
    loads: Option<TierLoads>,
    by_pool: Option<ByPool>,
    spike_window: SimDuration,
    /// Gauges of workers that prefill and of those that decode are told apart.
    sides: Sides,
    /// Where workers come and go.
    changing: Option<Changing>,
    /// Whether clients may hang up.
    hangs_up: bool,
    /// Whether requests may be refused.
    refuses: bool,
    /// The distributions of the windows that ended.
    curves: Vec<Curves>,
    /// What workers told, if it is kept.
    events: Option<Vec<(SimTime, WorkerEvent)>>,
    /// The last moments, if they are kept.
    trailing: Option<Trailing>,
    first_tokens: u64,
}

impl Recorder {
    /// For a fleet of `workers`; keeps every request's record if asked to.
    pub fn new(workers: impl Into<Sides>, keep_requests: bool) -> Self {
        let sides = workers.into();
        Self {
            open: VecDeque::new(),
            first: 0,
            seen: None,
            inflight: InflightSpread::new(sides.workers()),
            residence_ps: 0,
            digest: Sha256::new(),
            ended: 0,
            kept: keep_requests.then(Vec::new),
            why: None,
            loads: None,
            by_pool: None,
            spike_window: SPIKE_WINDOW,
            sides,
            changing: None,
            hangs_up: false,
            refuses: false,
            curves: Vec::new(),
            events: None,
            trailing: None,
            first_tokens: 0,
        }
    }

    /// Keeps what happens for the time `over` after it did, for [`recent`](Self::recent).
    pub fn keep_trailing(&mut self, over: SimDuration) {
        self.trailing = Some(Trailing::new(over));
    }

    /// What was observed in the time before `now` that is
    /// [kept](Self::keep_trailing).
    pub fn recent(&self, now: SimTime) -> Option<Recent> {
        self.trailing.as_ref().map(|trailing| trailing.recent(now))
    }

    /// As [`recent`](Self::recent), of each of the first `workers` workers; nothing
    /// unless it is kept.
    pub(crate) fn recent_by_worker(&self, now: SimTime, workers: usize) -> Vec<RecentWorker> {
        match &self.trailing {
            Some(trailing) => trailing.by_worker(now, workers),
            None => vec![RecentWorker::default(); workers],
        }
    }

    /// Requests whose first token came.
    pub fn first_tokens(&self) -> u64 {
        self.first_tokens
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

    /// Measures the regret of every choice of a worker; see [`RequestWhy`].
    /// Takes nothing from the run but time.
    pub fn measure_why(mut self, block_size: u32) -> Self {
        self.why = Some(Why::new(block_size, self.sides));
        self
    }

    /// Measures what is loaded from tiers of these `media`, where a token takes
    /// `token_bytes` on each worker.
    pub fn measure_tiers(mut self, media: Vec<Medium>, token_bytes: Vec<f64>) -> Self {
        self.loads = Some(TierLoads::new(media, token_bytes));
        self
    }

    /// Measures what each of `pools` serves: their names, with the places of their workers,
    /// who are all workers together.
    pub fn measure_pools(mut self, pools: Vec<(String, Range<usize>)>) -> Self {
        self.by_pool = Some(ByPool::new(pools));
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

    /// The request of `event` is scheduled with `cached_tokens` hit, while the
    /// workers hold the leading blocks `held` of its prompt.
    pub fn note_hits(&mut self, event: &WorkerEvent, cached_tokens: u32, held: &[u32]) {
        if let Some(why) = &mut self.why {
            let found = why.scheduled(event, cached_tokens, held);
            // What goes on after it had its first token is no prompt of a client.
            let record = self.record(event.request);
            record.why = record.why.filter(|_| record.first_token.is_some()).or(Some(found));
        }
    }

    /// Observes `level` from now on.
    pub fn begin_level(&mut self, level: Level) {
        let spikes = QueueSpikes::new(self.inflight.workers(), self.spike_window);
        let observations = Observations::new(self.inflight.workers(), spikes, self.why.is_some());
        self.seen = Some(Window { level, observations, start: None });
        if let Some(loads) = &mut self.loads {
            loads.begin_level();
        }
        if let Some(by_pool) = &mut self.by_pool {
            by_pool.begin_level();
        }
    }

    /// The level's warm-up is over: its window begins at `now`.
    pub fn begin_window(&mut self, now: SimTime, gauges: Vec<Gauges>) {
        self.inflight.restart(now);
        self.residence_ps = 0;
        let under_way = self.under_way();
        if let Some(changing) = &mut self.changing {
            changing.begin_window();
        }
        if let Some(window) = &mut self.seen {
            debug_assert_eq!(window.level.begin, now);
            window.start = Some(gauges);
            window.observations.begin(under_way);
        }
    }

    /// The window ends at `now`: its metrics.
    ///
    /// # Panics
    /// If no window began, or if the workers' gauges contradict the requests'
    /// residence times (Little's law, exactly): our own bug.
    pub fn end_window(&mut self, now: SimTime, gauges: &[Gauges], gaps: &Histogram) -> Metrics {
        let (metrics, curves) =
            self.measured(now, gauges, gaps).expect("a window that ends has begun");
        let window = self.seen.take().expect("a window that ends has begun");
        let start = window.start.expect("a window that ends has begun");
        self.check_little(window.level.begin, now, &start, gauges);
        self.curves.push(curves);
        metrics
    }

    /// The metrics of the window as if it ended at `now`; `None` outside a window.
    pub fn metrics(
        &mut self,
        now: SimTime,
        gauges: &[Gauges],
        gaps: &Histogram,
    ) -> Option<Metrics> {
        self.measured(now, gauges, gaps).map(|(metrics, _)| metrics)
    }

    fn measured(
        &mut self,
        now: SimTime,
        gauges: &[Gauges],
        gaps: &Histogram,
    ) -> Option<(Metrics, Curves)> {
        self.inflight.advance(now);
        let Window { level, observations, start } = self.seen.as_ref()?;
        let start = start.as_ref()?;
        let (mut metrics, curves) = match &self.changing {
            None => observations.metrics(level, now, gaps),
            Some(changing) => {
                let mut gaps = gaps.clone();
                gaps.merge(changing.gaps());
                let failed = observations.failed();
                let (mut metrics, curves) = observations.metrics(level, now, &gaps);
                changing.metrics(failed, &mut metrics);
                metrics.insert(catalogue::WORKERS.only(), self.inflight.workers_mean(now));
                (metrics, curves)
            }
        };
        if self.hangs_up {
            observations.hang_ups(&mut metrics);
        }
        if self.refuses {
            observations.refusals(&mut metrics);
        }
        if let Some(loads) = &self.loads {
            loads.metrics(level, now, observations.prompt_tokens(), &mut metrics);
        }
        if let Some(by_pool) = &self.by_pool {
            by_pool.metrics(level, now, (start, gauges), &mut metrics);
        }
        let elapsed = (now - level.begin).as_ps();
        self.inflight.metrics(now, &mut metrics);
        let workers = self.inflight.workers_mean(now);
        gauge_metrics(OF_ALL, (start, gauges), (elapsed, workers), &mut metrics);
        if self.sides.are_two() {
            let at = self.sides.prefill_workers() as usize;
            let ((prefill, decode), (prefill_now, decode_now)) =
                (start.split_at(at), gauges.split_at(at));
            let mut of_pool = |kinds: GaugeKinds, start: &[Gauges], end: &[Gauges]| {
                let workers = Some(end.len() as f64);
                gauge_metrics(kinds, (start, end), (elapsed, workers), &mut metrics);
            };
            of_pool(OF_PREFILL, prefill, prefill_now);
            of_pool(OF_DECODE, decode, decode_now);
        }
        Some((metrics, curves))
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
            asked_tokens: request.output_tokens,
            priority: request.priority,
            sent: arrival.sent,
            arrived: arrival.at,
            first_dispatched: None,
            dispatched: None,
            first_scheduled: None,
            scheduled: None,
            cached_tokens: 0,
            handover: None,
            first_token: None,
            given_up: None,
            refused: None,
            end: None,
            preemptions: 0,
            why: None,
        });
        let under_way = self.under_way();
        if let Some(window) = &mut self.seen {
            window.observations.arrive(under_way);
        }
    }

    /// The router sent a request to a worker.
    pub fn dispatch(&mut self, now: SimTime, request: RequestId, worker: WorkerId) {
        let record = self.record(request);
        record.first_dispatched.get_or_insert(now);
        match &mut record.handover {
            Some(handover) => handover.dispatched = Some((now, worker)),
            None => record.dispatched = Some((now, worker)),
        }
        self.inflight.change(now, worker, true);
    }

    /// Clients may hang up: how many do is a metric.
    pub fn follow_hang_ups(mut self) -> Self {
        self.hangs_up = true;
        self
    }

    /// Requests may be refused: why, and how many for good, are metrics.
    pub fn follow_refusals(mut self) -> Self {
        self.refuses = true;
        self
    }

    /// The client of a request hangs up.
    pub fn give_up(&mut self, now: SimTime, request: RequestId) {
        self.record(request).given_up = Some(now);
    }

    /// The router turned a request away.
    pub fn turn_away(
        &mut self,
        now: SimTime,
        request: RequestId,
        reason: RejectReason,
        refused: Option<Refused>,
    ) {
        self.record(request).refused = refused;
        self.end(now, request, End::Rejected(reason));
    }

    /// Something happened to a request at its worker.
    pub fn observe(&mut self, now: SimTime, event: &WorkerEvent) {
        self.observe_why(event);
        if let Some(events) = &mut self.events {
            events.push((now, *event));
        }
        if event.kind == WorkerEventKind::Prefilled {
            self.count_residence(now, event.request);
        }
        let record = self.record(event.request);
        match event.kind {
            WorkerEventKind::Scheduled { cached_tokens } => {
                // Of one that goes on elsewhere after its first token the first hits count.
                let computes_prompt = record.handover.is_none();
                match &mut record.handover {
                    Some(handover) => handover.scheduled = Some(now),
                    None => {
                        record.scheduled = Some(now);
                        record.first_scheduled.get_or_insert(now);
                        if record.first_token.is_none() {
                            record.cached_tokens = cached_tokens;
                        }
                    }
                }
                let (id, prompt_tokens) = (record.request, record.prompt_tokens);
                if let Some(changing) = self.changing.as_mut().filter(|_| computes_prompt) {
                    changing.schedule(now, id, prompt_tokens, cached_tokens);
                }
            }
            WorkerEventKind::Prefilled => {
                record.handover = Some(Handover::at(now));
                self.inflight.change(now, event.worker, false);
            }
            WorkerEventKind::KvReceived { transfer } => {
                if let Some(handover) = &mut record.handover {
                    handover.transfer = Some(transfer);
                }
            }
            WorkerEventKind::CacheHit { cached_tokens } => record.cached_tokens = cached_tokens,
            WorkerEventKind::Preempted => record.preemptions += 1,
            WorkerEventKind::Loaded { tokens, time } => {
                let first = record.scheduled.is_none();
                let level = self.seen.as_ref().map(|window| &window.level);
                if let Some(loads) = &mut self.loads {
                    loads.loaded(now, level, event, (tokens, time), first);
                }
            }
            WorkerEventKind::OutputBlock { .. } => {}
            WorkerEventKind::FirstToken if record.first_token.is_some() => {
                if let Some(changing) = &mut self.changing {
                    changing.next_token(now, event.request);
                }
            }
            // Its client has hung up and does not see it.
            WorkerEventKind::FirstToken if record.given_up.is_some() => {
                record.first_token = Some(now);
            }
            WorkerEventKind::FirstToken => {
                record.first_token = Some(now);
                let record = *record;
                self.first_tokens += 1;
                if let Some(trailing) = &mut self.trailing {
                    trailing.first_token(now, &record);
                }
                if let Some(window) = &mut self.seen {
                    window.observations.first_token(now, &window.level, &record);
                }
            }
            WorkerEventKind::Finished { output_tokens } => {
                self.inflight.change(now, event.worker, false);
                let before = self.changing.as_ref();
                let before = before.map_or(0, |changing| changing.output_tokens(event.request));
                let output_tokens = before + output_tokens;
                self.end(now, event.request, End::Finished { output_tokens });
            }
            WorkerEventKind::Rejected(reason) => {
                self.inflight.change(now, event.worker, false);
                self.end(now, event.request, End::Rejected(reason));
            }
            WorkerEventKind::Aborted => {
                self.inflight.change(now, event.worker, false);
                self.end(now, event.request, End::GivenUp);
            }
            // The stay has ended when the worker did; what becomes of it is reported separately.
            WorkerEventKind::Failed => {}
        }
    }

    fn observe_why(&mut self, event: &WorkerEvent) {
        let Some(why) = &mut self.why else { return };
        let prompt_tokens = why.request(event.request).map_or(1, |request| request.prompt_tokens);
        match event.kind {
            WorkerEventKind::Prefilled | WorkerEventKind::FirstToken => {
                why.computed(event.worker, event.request, prompt_tokens);
            }
            WorkerEventKind::Finished { output_tokens } => {
                why.computed(event.worker, event.request, prompt_tokens + output_tokens);
                why.ended(event.request);
            }
            WorkerEventKind::Rejected(_) | WorkerEventKind::Aborted => why.ended(event.request),
            WorkerEventKind::Scheduled { .. }
            | WorkerEventKind::CacheHit { .. }
            | WorkerEventKind::KvReceived { .. }
            | WorkerEventKind::Loaded { .. }
            | WorkerEventKind::Preempted
            | WorkerEventKind::Failed
            | WorkerEventKind::OutputBlock { .. } => {}
        }
    }

    /// Requests that came and have not ended.
    fn under_way(&self) -> u64 {
        u64::from(self.first) + self.open.len() as u64 - self.ended
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
        self.count_residence(now, request);
        if let Some(changing) = &mut self.changing {
            changing.end(request);
        }
        let record = self.record(request);
        let end = if record.given_up.is_some() { End::GivenUp } else { end };
        record.end = Some((now, end));
        let record = *record;
        self.ended += 1;
        self.digest_record(&record);
        if let Some(kept) = &mut self.kept {
            kept.push(record);
        }
        if let Some(loads) = &mut self.loads {
            let begun = self.seen.as_ref().is_some_and(|window| now >= window.level.begin);
            loads.ended(request, begun && matches!(end, End::Finished { .. }));
        }
        if let Some(window) = &mut self.seen {
            window.observations.end(now, &window.level, &record, end);
            if let Some(by_pool) = &mut self.by_pool {
                by_pool.end(now, &window.level, &record, end);
            }
        }
        if let Some(trailing) = &mut self.trailing {
            trailing.end(now, &record, end);
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
            End::Failed => (2, 0),
            End::GivenUp => (3, record.given_up.map_or(0, SimTime::as_ps)),
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
        if let Some(handover) = record.handover {
            self.digest.update(handover.digest_bytes());
        }
    }
}
