//! The loop: workload, router, fleet and recorder, in the order of time.
//!
//! The same loop serves simulated and real fleets. It never looks inside: it
//! asks the fleet for the next event up to the next moment at which it has
//! something to do itself.

mod changes;

use crate::engine::Gauges;
use crate::event::{RejectReason, WorkerEvent, WorkerEventKind};
use crate::fleet::Fleet;
use crate::fleet::changes::Changes;
use crate::id::{ConversationId, RequestId, WorkerId};
use crate::metrics::catalogue;
use crate::recorder::{Level, Metrics, Quantiles, Recorder, Slo};
use crate::request::{Request, RouteRequest};
use crate::router::front_end::FrontEnd;
use crate::router::settings::Spread;
use crate::router::{CostParts, Reported, Verdict, WorkerView};
use crate::time::{SimDuration, SimTime};
use crate::truth::WorkerTruth;
use crate::workload::Workload;
use std::collections::{BTreeMap, BTreeSet};
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

/// One decision of a router, taken apart: what it was told, and what was true.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The request.
    pub request: RequestId,
    /// When.
    pub at: SimTime,
    /// The front end that decided.
    pub front_end: usize,
    /// Full blocks of the prompt.
    pub prompt_blocks: u32,
    /// What it decided; where a request was held, what it decided first.
    pub verdict: Verdict,
    /// What the policy says each worker would have cost; empty if it does not say.
    pub costs: Vec<CostParts>,
    /// What the front end counted, per worker.
    pub view: Vec<WorkerView>,
    /// Leading blocks that its index showed on each worker, if it has one.
    pub believed_blocks: Option<Vec<u32>>,
    /// What was true of each worker; empty if the fleet cannot tell.
    pub truth: Vec<WorkerTruth>,
}

impl Decision {
    /// Forgets all but the first workers: the others were no choice.
    fn keep_workers(&mut self, workers: usize) {
        self.view.truncate(workers);
        self.truth.truncate(workers);
        if let Some(blocks) = &mut self.believed_blocks {
            blocks.truncate(workers);
        }
    }
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
    spread: Spread,
    /// Requests at workers that front ends which started anew know nothing of.
    forgotten: BTreeSet<RequestId>,
    /// Workers that only prefill, with the lowest ids; 0 if all do everything.
    prefill_workers: u32,
    /// Requests at those workers.
    prefilling: BTreeMap<RequestId, Request>,
    /// The request whose routing is to be taken apart.
    explained: Option<RequestId>,
    decision: Option<Decision>,
    /// What happens to the workers, if anything does.
    changes: Option<Box<Changes>>,
}

impl<F: fmt::Debug> fmt::Debug for Driver<'_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").field("now", &self.now).finish_non_exhaustive()
    }
}

impl<'a, F: Fleet> Driver<'a, F> {
    /// Requests go to the front ends in turn, unless [told otherwise](Self::spread).
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
            spread: Spread::InTurn,
            forgotten: BTreeSet::new(),
            prefill_workers: 0,
            prefilling: BTreeMap::new(),
            explained: None,
            decision: None,
            changes: None,
        }
    }

    /// Which front end a request reaches.
    pub fn spread(mut self, spread: Spread) -> Self {
        self.spread = spread;
        self
    }

    /// The first `prefill_workers` workers only prefill: what they are done with is
    /// routed again, to a worker that decodes.
    pub fn with_pools(mut self, prefill_workers: u32) -> Self {
        self.prefill_workers = prefill_workers;
        self
    }

    /// Takes the decision about `request` apart, for [`decision`](Self::decision).
    pub fn explain(mut self, request: RequestId) -> Self {
        self.explained = Some(request);
        self
    }

    /// What [`explain`](Self::explain) asked for, once it has been made.
    pub fn decision(&self) -> Option<&Decision> {
        self.decision.as_ref()
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
        let sent_again = self.workload.sent_again();
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
        if let (Some(before), Some(after)) = (sent_again, self.workload.sent_again()) {
            metrics.insert(catalogue::RETRIES.only(), Some((after - before) as f64));
        }
        let changes = self.changes.iter().flat_map(|changes| changes.notes());
        let notes = self.front_ends.iter().flat_map(FrontEnd::notes);
        for (name, count) in notes.chain(changes) {
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
            let restart = self.front_ends.iter().filter_map(FrontEnd::restart_due).min();
            let restart = restart.unwrap_or(SimTime::MAX);
            let change = self.change_due(arrival).max(self.now);
            let next = arrival.min(wake).min(restart).min(change).min(end);
            if let Some((at, event)) = self.fleet.next_event(next) {
                self.now = at;
                self.handle(at, &event);
            } else if next == end {
                return;
            } else {
                self.now = next;
                if change == next {
                    self.change(next);
                } else if restart == next {
                    self.restart(next);
                } else if arrival == next {
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
        self.open += 1;
        self.deliver_kv_events(now);
        self.route(now, arrival.request);
    }

    fn route(&mut self, now: SimTime, request: Request) {
        let index = self.front_end_of(request.id, request.conversation);
        let front_end = &mut self.front_ends[index];
        // In this order: to know the truth is to look at every worker.
        if let Some(oracle) = front_end.oracle()
            && let Some(truth) = self.fleet.truth(now)
        {
            oracle.see(truth.workers(&request));
        }
        let prefilled = self.recorder.is_prefilled(request.id);
        let explained = self.explained == Some(request.id) && !prefilled;
        let decision = explained.then(|| self.look(now, &request));
        let front_end = &mut self.front_ends[index];
        let view = RouteRequest { prefilled, ..request.route_view(self.block_size) };
        let verdict = front_end.route(now, &view);
        let prefills = |worker: WorkerId| worker.0 < self.prefill_workers;
        self.decision = decision
            .map(|mut decision| {
                if matches!(verdict, Verdict::Send(worker) if prefills(worker)) {
                    decision.keep_workers(self.prefill_workers as usize);
                }
                Decision { verdict, ..decision }
            })
            .or(self.decision.take());
        match verdict {
            Verdict::Send(worker) => self.dispatch(now, worker, &request),
            Verdict::Hold => {
                self.held.insert(request.id, request);
            }
            Verdict::Reject(reason) => self.turn_away(now, request.id, reason),
        }
    }

    fn turn_away(&mut self, now: SimTime, request: RequestId, reason: RejectReason) {
        self.open -= 1;
        if self.recorder.is_prefilled(request) {
            self.fleet.give_up(now, request);
        }
        self.recorder.turn_away(now, request, reason);
        if let Some(changes) = &mut self.changes {
            changes.forget(request);
        }
        if reason == RejectReason::NoWorker {
            self.workload.observe_failure(now, request);
        } else {
            self.workload.observe_end(now, request, false);
        }
    }

    /// The decision about `request` before it is made.
    fn look(&mut self, now: SimTime, request: &Request) -> Decision {
        let index = self.front_end_of(request.id, request.conversation);
        let view = request.route_view(self.block_size);
        let front_end = &mut self.front_ends[index];
        Decision {
            request: request.id,
            at: now,
            front_end: index,
            prompt_blocks: view.blocks.len(),
            verdict: Verdict::Hold,
            costs: front_end.explain(now, &view),
            believed_blocks: front_end.overlap_blocks(now, &view),
            view: front_end.workers().to_vec(),
            truth: self.fleet.truth(now).map_or(Vec::new(), |truth| truth.workers(request)),
        }
    }

    fn front_end_of(&self, request: RequestId, conversation: ConversationId) -> usize {
        let key = match self.spread {
            Spread::InTurn => request.index(),
            Spread::ByConversation => conversation.index(),
        };
        key % self.front_ends.len()
    }

    /// Front ends whose time has come start anew. What they held comes to them again.
    fn restart(&mut self, now: SimTime) {
        let due = |front_end: &FrontEnd| front_end.restart_due().is_some_and(|at| at <= now);
        let due: Vec<bool> = self.front_ends.iter().map(due).collect();
        let sent: Vec<RequestId> = self.recorder.at_workers().collect();
        let is_theirs =
            |driver: &Self, id| due[driver.front_end_of(id, driver.recorder.conversation(id))];
        let forgotten: Vec<_> = sent.into_iter().filter(|&id| is_theirs(self, id)).collect();
        self.forgotten.extend(forgotten);
        let held: Vec<_> = self.held.keys().copied().filter(|&id| is_theirs(self, id)).collect();
        for (front_end, _) in self.front_ends.iter_mut().zip(&due).filter(|(_, due)| **due) {
            front_end.restart(now);
        }
        self.deliver_kv_events(now);
        for id in held {
            let request = self.held.remove(&id).expect("held until now");
            self.route(now, request);
        }
    }

    /// Tells the front ends which cache changes may be visible to them now.
    fn deliver_kv_events(&mut self, now: SimTime) {
        let interested = self.front_ends.iter().filter(|front_end| front_end.wants_kv_events());
        if let Some(until) = interested.map(|front_end| front_end.kv_horizon(now)).max() {
            self.take_kv_events(until);
        }
    }

    /// Hands the front ends what workers published up to `until`.
    fn take_kv_events(&mut self, until: SimTime) {
        let front_ends = &mut self.front_ends;
        self.fleet.take_kv_events(until, &mut |worker, at, event| {
            for front_end in &mut *front_ends {
                front_end.hear_kv(at, worker, event);
            }
        });
    }

    fn dispatch(&mut self, now: SimTime, worker: WorkerId, request: &Request) {
        let index = self.front_end_of(request.id, request.conversation);
        self.note_choice(now, index, worker, request);
        self.tell_peers_of_booking(now, index, worker, request);
        self.recorder.dispatch(now, request.id, worker);
        if self.is_lost_on_arrival(now, worker, request) {
            return;
        }
        if worker.0 < self.prefill_workers {
            self.prefilling.insert(request.id, request.clone());
        }
        if let Err(reason) = self.fleet.submit(now, worker, request) {
            self.reject(now, worker, request.id, reason);
        }
    }

    /// Lets the recorder compare the choice with what was there.
    fn note_choice(&mut self, now: SimTime, index: usize, worker: WorkerId, request: &Request) {
        if !self.recorder.measures_why() {
            return;
        }
        let Some(truth) = self.fleet.truth(now) else { return };
        let held = truth.cached_blocks(request);
        let view = request.route_view(self.block_size);
        let front_end = &mut self.front_ends[index];
        // An index of what was routed has taken this request in already.
        let believed =
            if front_end.wants_kv_events() { front_end.overlap_blocks(now, &view) } else { None };
        self.recorder.note_choice(request, worker, &held, believed.as_deref());
    }

    /// Lets the recorder compare what was hit with what is there.
    fn note_hits(&mut self, now: SimTime, event: &WorkerEvent) {
        let WorkerEventKind::Scheduled { cached_tokens } = event.kind else { return };
        let Some(request) = self.recorder.sent_request(event.request) else { return };
        let Some(truth) = self.fleet.truth(now) else { return };
        let held = truth.cached_blocks(request);
        self.recorder.note_hits(event, cached_tokens, &held);
    }

    fn tell_peers_of_booking(
        &mut self,
        now: SimTime,
        index: usize,
        worker: WorkerId,
        request: &Request,
    ) {
        if self.front_ends.len() == 1 || !self.front_ends.iter().any(FrontEnd::hears_peers) {
            return;
        }
        let view = request.route_view(self.block_size);
        let believed = self.front_ends[index].overlap_blocks(now, &view);
        let overlap_blocks = believed.map_or(0, |blocks| blocks[worker.index()]);
        let peers = self.front_ends.iter_mut().enumerate().filter(|(at, _)| *at != index);
        for (_, peer) in peers {
            peer.hear_booking(now, request, self.block_size, worker, overlap_blocks);
        }
    }

    /// Tells the front end that sent the request, and the others.
    fn tell_front_ends(&mut self, now: SimTime, event: &WorkerEvent) {
        let conversation = self.recorder.conversation(event.request);
        let index = self.front_end_of(event.request, conversation);
        let is_forgotten = if event.kind.ends_stay() {
            self.forgotten.remove(&event.request)
        } else {
            self.forgotten.contains(&event.request)
        };
        if is_forgotten {
            return;
        }
        for (at, front_end) in self.front_ends.iter_mut().enumerate() {
            if at == index {
                front_end.observe(now, event);
            } else {
                front_end.hear_life(now, event);
            }
        }
    }

    fn reject(&mut self, now: SimTime, worker: WorkerId, request: RequestId, reason: RejectReason) {
        let kind = WorkerEventKind::Rejected(reason);
        self.handle(now, &WorkerEvent { worker, request, kind });
    }

    fn handle(&mut self, now: SimTime, event: &WorkerEvent) {
        self.note_hits(now, event);
        self.tell_front_ends(now, event);
        self.recorder.observe(now, event);
        match event.kind {
            WorkerEventKind::Finished { .. } | WorkerEventKind::Rejected(_) => {
                let served = matches!(event.kind, WorkerEventKind::Finished { .. });
                if let Some(changes) = &mut self.changes {
                    changes.ended(now, event.worker, event.request);
                }
                self.open -= 1;
                self.prefilling.remove(&event.request);
                self.workload.observe_end(now, event.request, served);
            }
            WorkerEventKind::Prefilled => {
                let request = self.prefilling.remove(&event.request);
                self.deliver_kv_events(now);
                self.route(now, request.expect("a request that is prefilled was sent to be"));
            }
            WorkerEventKind::Scheduled { .. }
            | WorkerEventKind::CacheHit { .. }
            | WorkerEventKind::Loaded { .. }
            | WorkerEventKind::Preempted
            | WorkerEventKind::KvReceived { .. }
            | WorkerEventKind::FirstToken
            | WorkerEventKind::Failed
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
        let reported = reports(now, &self.fleet.gauges(now));
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

/// What workers with these gauges report to routers at `now`.
pub(crate) fn reports(now: SimTime, gauges: &[Gauges]) -> Vec<Reported> {
    let report = |gauges: &Gauges| Reported {
        at: now,
        running: gauges.running,
        waiting: gauges.waiting,
        used_blocks: gauges.used_blocks,
    };
    gauges.iter().map(report).collect()
}
