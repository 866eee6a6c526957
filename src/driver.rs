//! The loop: workload, router, fleet and recorder, in the order of time.
//!
//! The same loop serves simulated and real fleets. It never looks inside: it
//! asks the fleet for the next event up to the next moment at which it has
//! something to do itself.

use crate::engine::Gauges;
use crate::event::{RejectReason, WorkerEvent, WorkerEventKind};
use crate::fleet::Fleet;
use crate::id::{RequestId, WorkerId};
use crate::recorder::{Level, Metrics, Quantiles, Recorder, Slo};
use crate::request::Request;
use crate::router::front_end::FrontEnd;
use crate::router::{Reported, Verdict};
use crate::time::{SimDuration, SimTime};
use crate::workload::Workload;
use std::collections::BTreeMap;
use std::fmt;

/// How a run is cut into measured levels.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// Number of concurrent conversations of each level, in order; an open loop
    /// has one level whose number means nothing.
    pub concurrency: Vec<u32>,
    /// Time at the start of each level that is not measured.
    pub warmup: SimDuration,
    /// Time measured after it; `None`: until the workload ends.
    pub window: Option<SimDuration>,
    /// What percentiles are taken over.
    pub quantiles: Quantiles,
    /// Targets of a good request.
    pub slo: Slo,
}

/// A run that stopped with requests that nobody will ever serve.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nothing can happen any more at {at:?}, but {unfinished} requests have not ended")]
pub struct Stuck {
    /// When.
    pub at: SimTime,
    /// Requests that did not end.
    pub unfinished: usize,
}

/// One run: see the [module documentation](self).
pub struct Driver<'a, F> {
    fleet: F,
    workload: Box<dyn Workload + 'a>,
    front_ends: Vec<FrontEnd>,
    recorder: Recorder,
    block_size: u32,
    now: SimTime,
    /// Requests that a policy holds.
    held: BTreeMap<RequestId, Request>,
    /// Requests that came and have not ended.
    open: usize,
}

impl<F: fmt::Debug> fmt::Debug for Driver<'_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").field("now", &self.now).finish_non_exhaustive()
    }
}

impl<'a, F: Fleet> Driver<'a, F> {
    /// Requests go to the front ends in turn.
    pub fn new(
        fleet: F,
        workload: Box<dyn Workload + 'a>,
        front_ends: Vec<FrontEnd>,
        recorder: Recorder,
        block_size: u32,
    ) -> Self {
        assert!(!front_ends.is_empty(), "a fleet has at least one front end");
        Self {
            fleet,
            workload,
            front_ends,
            recorder,
            block_size,
            now: SimTime::ZERO,
            held: BTreeMap::new(),
            open: 0,
        }
    }

    /// Runs all levels and returns the metrics of each.
    ///
    /// # Errors
    /// If a workload that ought to end does not.
    pub fn run(&mut self, schedule: &Schedule) -> Result<Vec<Metrics>, Stuck> {
        let mut levels = Vec::with_capacity(schedule.concurrency.len());
        for (i, &concurrency) in schedule.concurrency.iter().enumerate() {
            if i > 0 {
                self.workload.set_concurrency(self.now, concurrency);
            }
            levels.push(self.run_level(schedule)?);
        }
        Ok(levels)
    }

    fn run_level(&mut self, schedule: &Schedule) -> Result<Metrics, Stuck> {
        let begin = self.now + schedule.warmup;
        let Schedule { quantiles, slo, .. } = *schedule;
        self.recorder.begin_level(Level { begin, quantiles, slo });
        self.run_until(begin);
        self.now = begin;
        let gauges = self.fleet.gauges(begin);
        self.fleet.take_token_gaps(begin);
        self.recorder.begin_window(begin, gauges);
        match schedule.window {
            Some(window) => {
                self.run_until(begin + window);
                self.now = begin + window;
            }
            None => {
                self.run_until(SimTime::MAX);
                let unfinished = self.recorder.unended();
                if unfinished > 0 {
                    return Err(Stuck { at: self.now, unfinished });
                }
            }
        }
        let gauges = self.fleet.gauges(self.now);
        let gaps = self.fleet.take_token_gaps(self.now);
        let mut metrics = self.recorder.end_window(self.now, &gauges, &gaps);
        for (name, count) in self.front_ends.iter().flat_map(FrontEnd::notes) {
            let sum = metrics.entry(name.to_owned()).or_insert(Some(0.0));
            *sum = sum.map(|sum| sum + count);
        }
        Ok(metrics)
    }

    /// Everything before the arrivals of the moment `end`.
    fn run_until(&mut self, end: SimTime) {
        loop {
            let arrival = self.workload.next_arrival().unwrap_or(SimTime::MAX);
            let wake = self.front_ends.iter().filter_map(FrontEnd::wake_at).min();
            // Nobody looks at reports when nothing is left to be done.
            let wants = |_: &&FrontEnd| self.open > 0 || arrival < SimTime::MAX;
            let reports = self.front_ends.iter().filter(wants).filter_map(FrontEnd::report_due);
            let wake = reports.chain(wake).min().unwrap_or(SimTime::MAX).max(self.now);
            let next = arrival.min(wake).min(end);
            if let Some((at, event)) = self.fleet.next_event(next) {
                self.now = at;
                self.handle(at, &event);
            } else if next == end {
                return;
            } else {
                self.now = next;
                if arrival == next {
                    self.arrive(next);
                } else {
                    self.report(next);
                    self.release(next);
                }
            }
        }
    }

    fn arrive(&mut self, now: SimTime) {
        let arrival = self.workload.take();
        debug_assert_eq!(arrival.at, now);
        self.recorder.arrive(&arrival);
        let request = arrival.request;
        self.open += 1;
        self.deliver_kv_events(now);
        let index = self.front_end_of(request.id);
        match self.front_ends[index].route(now, &request.route_view(self.block_size)) {
            Verdict::Send(worker) => self.dispatch(now, worker, &request),
            Verdict::Hold => {
                self.held.insert(request.id, request);
            }
            Verdict::Reject(reason) => self.turn_away(now, request.id, reason),
        }
    }

    fn turn_away(&mut self, now: SimTime, request: RequestId, reason: RejectReason) {
        self.open -= 1;
        self.recorder.turn_away(now, request, reason);
        self.workload.observe_end(now, request, false);
    }

    fn front_end_of(&self, request: RequestId) -> usize {
        request.index() % self.front_ends.len()
    }

    /// Tells the front ends which cache changes may be visible to them now.
    fn deliver_kv_events(&mut self, now: SimTime) {
        let interested = self.front_ends.iter().filter(|front_end| front_end.wants_kv_events());
        let Some(until) = interested.map(|front_end| front_end.kv_horizon(now)).max() else {
            return;
        };
        let front_ends = &mut self.front_ends;
        self.fleet.take_kv_events(until, &mut |worker, at, event| {
            for front_end in &mut *front_ends {
                front_end.hear_kv(at, worker, event);
            }
        });
    }

    fn dispatch(&mut self, now: SimTime, worker: WorkerId, request: &Request) {
        self.recorder.dispatch(now, request.id, worker);
        if let Err(reason) = self.fleet.submit(now, worker, request) {
            self.reject(now, worker, request.id, reason);
        }
    }

    fn reject(&mut self, now: SimTime, worker: WorkerId, request: RequestId, reason: RejectReason) {
        let kind = WorkerEventKind::Rejected(reason);
        self.handle(now, &WorkerEvent { worker, request, kind });
    }

    fn handle(&mut self, now: SimTime, event: &WorkerEvent) {
        self.recorder.observe(now, event);
        let index = self.front_end_of(event.request);
        self.front_ends[index].observe(now, event);
        match event.kind {
            WorkerEventKind::Finished { .. } | WorkerEventKind::Rejected(_) => {
                let served = matches!(event.kind, WorkerEventKind::Finished { .. });
                self.open -= 1;
                self.workload.observe_end(now, event.request, served);
            }
            WorkerEventKind::Scheduled { .. }
            | WorkerEventKind::Preempted
            | WorkerEventKind::FirstToken
            | WorkerEventKind::OutputBlock { .. } => {}
        }
        self.release(now);
    }

    /// Tells the front ends whose turn it is what the workers report.
    fn report(&mut self, now: SimTime) {
        let due = |front_end: &FrontEnd| front_end.report_due().is_some_and(|due| due <= now);
        if !self.front_ends.iter().any(due) {
            return;
        }
        let report = |gauges: &Gauges| Reported {
            at: now,
            running: gauges.running,
            waiting: gauges.waiting,
            used_blocks: gauges.used_blocks,
        };
        let reported: Vec<Reported> = self.fleet.gauges(now).iter().map(report).collect();
        for front_end in self.front_ends.iter_mut().filter(|front_end| due(front_end)) {
            front_end.report(now, &reported);
        }
    }

    /// Sends what the policies let go.
    fn release(&mut self, now: SimTime) {
        if self.held.is_empty() {
            return;
        }
        self.deliver_kv_events(now);
        for index in 0..self.front_ends.len() {
            while let Some((id, verdict)) = self.front_ends[index].release(now) {
                let request = self.held.remove(&id).expect("only held requests are released");
                match verdict {
                    Ok(worker) => self.dispatch(now, worker, &request),
                    Err(reason) => self.turn_away(now, id, reason),
                }
            }
        }
    }

    /// The recorder and the fleet, when the run is over.
    pub fn into_parts(self) -> (Recorder, F) {
        (self.recorder, self.fleet)
    }
}
