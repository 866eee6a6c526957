//! Simulated workers under one event queue.

use super::handovers::{Gone, Handovers};
use super::network::{Arrived, Transfer};
use super::pools::Pools;
use super::{Fleet, Truth};
use crate::engine::config::EngineConfig;
use crate::engine::{Gauges, Outbox, Pace, StepRecord, Wake, Worker};
use crate::event::{KvEvent, Lost, RejectReason, WorkerEvent, WorkerEventKind};
use crate::id::{RequestId, Target, WorkerId};
use crate::kv::Concerns;
use crate::queue::{EventQueue, Precedence};
use crate::request::{Phase, PromptBlocks, Request};
use crate::stats::Histogram;
use crate::time::SimTime;
use crate::truth::WorkerTruth;
use std::sync::Arc;

/// Workers with ids from 0.
#[derive(Debug)]
pub struct SimulatedFleet {
    workers: Vec<Worker>,
    /// Where each rank is, in order of id.
    places: Vec<Place>,
    queue: EventQueue,
    /// When each worker will have published cache changes: a router's question
    /// touches only workers with an answer.
    kv_queue: EventQueue,
    /// What takes its place once changes are asked for prompt by prompt.
    on_demand: OnDemand,
    /// Everything before the arrivals of this moment has happened.
    now: SimTime,
    /// The moment that `truth` was last asked about.
    asked: SimTime,
    out: Outbox,
    /// If prefill and decode have workers of their own.
    handovers: Option<Handovers>,
    /// Cache changes are recorded.
    publishes: bool,
}

/// Where a rank is. The queues know a worker by its place.
#[derive(Clone, Copy, Debug)]
struct Place {
    worker: usize,
    rank: usize,
}

/// Whether cache changes are heard on demand: which saves most visits to workers.
#[derive(Debug)]
enum OnDemand {
    /// Changes were not asked for that way yet.
    Unasked,
    Yes {
        concerns: Concerns,
        /// Workers that have a lot to remember: asked next time, whatever it is about.
        full: Vec<WorkerId>,
        /// Workers to be asked now, while they are collected.
        asked: Vec<WorkerId>,
    },
    /// These workers cannot, or all changes were asked for.
    No,
}

/// Changes and steps of a worker that are remembered until a router asks about them.
const REMEMBERED: usize = 512;

impl SimulatedFleet {
    /// `workers` idle workers with empty caches, all alike; they record cache changes
    /// only if they are wanted (`wants_kv_events`).
    #[cfg_attr(not(internals), doc(hidden))]
    pub fn new(workers: u32, config: &Arc<EngineConfig>, wants_kv_events: bool) -> Self {
        Self::of_pools(&Pools::one(workers, config), wants_kv_events)
    }

    /// As [`new`](Self::new), with the workers of these pools.
    #[cfg_attr(not(internals), doc(hidden))]
    pub fn of_pools(pools: &Pools, wants_kv_events: bool) -> Self {
        let targets = (0..).map(WorkerId).zip(pools.targets());
        let (mut workers, mut places) = (Vec::new(), Vec::new());
        for (id, Target { worker, rank }) in targets {
            places.push(Place { worker: worker as usize, rank: rank as usize });
            if rank == 0 {
                let config = Arc::clone(&pools.of(id).engine);
                workers.push(Worker::new(id, config, wants_kv_events));
            }
        }
        let queue = EventQueue::new(u32::try_from(workers.len()).expect("workers have ids"));
        Self {
            workers,
            places,
            kv_queue: queue.clone(),
            queue,
            on_demand: OnDemand::Unasked,
            now: SimTime::ZERO,
            asked: SimTime::ZERO,
            out: Outbox::default(),
            handovers: Handovers::new(pools),
            publishes: wants_kv_events,
        }
    }

    /// Tells of every block that an output grows into from now on.
    #[cfg_attr(not(internals), doc(hidden))]
    pub fn tell_output_blocks(&mut self) {
        self.out.output_blocks = true;
    }

    /// Tells of every token from now on; workers must not fast-forward.
    #[cfg_attr(not(internals), doc(hidden))]
    pub fn tell_output_tokens(&mut self) {
        self.out.output_tokens = true;
    }

    /// When something happens next if nothing is submitted: at a worker, or between
    /// two.
    #[cfg_attr(not(internals), doc(hidden))]
    pub fn next_at(&self) -> Option<SimTime> {
        let ready = self.out.events.front().map(|(at, _)| *at);
        let at_worker = self.queue.peek().map(|(_, due)| due.at);
        let between = self.handovers.as_ref().and_then(Handovers::due);
        ready.or_else(|| at_worker.into_iter().chain(between).min())
    }

    /// Workers report losses of blocks only when their last copy goes, as
    /// publishers do that count copies.
    #[cfg_attr(not(internals), doc(hidden))]
    pub fn count_copies(&mut self) {
        self.workers.iter_mut().for_each(Worker::count_copies);
    }

    /// Records every step from now on, for [`take_steps`](Self::take_steps).
    #[cfg_attr(not(internals), doc(hidden))]
    pub fn record_steps(&mut self) {
        self.out.steps = Some(Vec::new());
    }

    /// Records the steps that touch the time `from` to `to`, each by itself, also
    /// where several are passed at once.
    #[cfg_attr(not(internals), doc(hidden))]
    pub fn record_each_step(&mut self, from: SimTime, to: SimTime) {
        self.record_steps();
        self.out.each_step = Some((from, to));
    }

    /// The steps recorded since the last call.
    #[cfg_attr(not(internals), doc(hidden))]
    pub fn take_steps(&mut self) -> Vec<StepRecord> {
        self.out.steps.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// The workers, to be looked at.
    #[cfg_attr(not(internals), doc(hidden))]
    pub fn workers(&self) -> &[Worker] {
        &self.workers
    }

    /// Looks at the worker at this place; its place in the queue changes only if its plans do.
    fn look<T>(&mut self, at: usize, see: impl FnOnce(&mut Worker, &mut Outbox) -> T) -> T {
        let worker = &mut self.workers[at];
        let before = worker.wake();
        let seen = see(worker, &mut self.out);
        if worker.wake() != before {
            self.reschedule(at);
        }
        seen
    }

    /// Does something to the rank `id`, which may change the plans of its worker.
    fn touch<T>(
        &mut self,
        id: WorkerId,
        touch: impl FnOnce(&mut Worker, usize, &mut Outbox) -> T,
    ) -> T {
        let Place { worker, rank } = self.places[id.index()];
        let touched = touch(&mut self.workers[worker], rank, &mut self.out);
        self.reschedule(worker);
        touched
    }

    /// The ranks of the worker with this one.
    fn ranks_beside(&self, rank: WorkerId) -> Vec<WorkerId> {
        let worker = self.places[rank.index()].worker;
        let own = self.places.iter().enumerate().filter(|(_, place)| place.worker == worker);
        own.map(|(at, _)| WorkerId::at(at)).collect()
    }

    fn reschedule(&mut self, at: usize) {
        let worker = &mut self.workers[at];
        let id = WorkerId::at(at);
        if let OnDemand::Yes { concerns, full, .. } = &mut self.on_demand {
            worker.enter_concerns(concerns);
            for id in worker.full_of_unheard(REMEMBERED) {
                if full.last() != Some(&id) {
                    full.push(id);
                }
            }
        } else {
            match worker.kv_due() {
                None => self.kv_queue.cancel(id),
                Some(at) => self.kv_queue.schedule(id, at, Precedence::KvVisibility),
            }
        }
        match worker.wake() {
            None => self.queue.cancel(id),
            Some(Wake::FinishStep(at)) => self.queue.schedule(id, at, Precedence::StepEnd),
            Some(Wake::StartStep(at)) => self.queue.schedule(id, at, Precedence::StepStart),
        }
    }

    /// Lets workers hand over cache changes on demand, if they all can.
    fn begin_on_demand(&mut self) {
        let can = self.handovers.is_none() && self.workers.iter_mut().all(Worker::begin_on_demand);
        if !can {
            return self.end_on_demand();
        }
        let concerns = Concerns::new(self.places.len());
        self.on_demand = OnDemand::Yes { concerns, full: Vec::new(), asked: Vec::new() };
        (0..self.workers.len()).for_each(|at| self.reschedule(at));
    }

    /// Workers hand over all changes from now on.
    fn end_on_demand(&mut self) {
        if matches!(self.on_demand, OnDemand::No) {
            return;
        }
        self.on_demand = OnDemand::No;
        self.workers.iter_mut().for_each(Worker::end_on_demand);
        (0..self.workers.len()).for_each(|at| self.reschedule(at));
    }

    /// When KV arrives, if that is before anything that is `next` of the workers
    /// and before the arrivals of `deadline`.
    fn kv_arrives(&self, next: Option<SimTime>, deadline: SimTime) -> Option<SimTime> {
        let at = self.handovers.as_ref()?.due()?;
        let is_first = at <= deadline && next.is_none_or(|next| at <= next);
        is_first.then_some(at)
    }

    /// Transfers that are over at `now`: one worker frees what the other one has.
    fn receive(&mut self, now: SimTime) {
        let Some(handovers) = &mut self.handovers else { return };
        let over: Vec<Arrived> = std::iter::from_fn(|| handovers.next(now)).collect();
        for Arrived { transfer: Transfer { request, from, to }, took, .. } in over {
            self.touch(from, |worker, rank, out| worker.let_go(now, rank, request, out));
            self.touch(to, |worker, rank, out| worker.kv_came(now, rank, request, out));
            let kind = WorkerEventKind::KvReceived { transfer: took };
            self.out.events.push_back((now, WorkerEvent { worker: to, request, kind }));
        }
    }

    /// Starts the transfers that workers have just made room for.
    fn fetch(&mut self, now: SimTime) {
        let Some(handovers) = &mut self.handovers else { return };
        for (worker, request, tokens) in self.out.awaited.drain(..) {
            handovers.fetch(now, request, worker, tokens);
        }
    }
}

impl Fleet for SimulatedFleet {
    fn submit(
        &mut self,
        now: SimTime,
        worker: WorkerId,
        request: &Request,
    ) -> Result<(), RejectReason> {
        let phase = self.handovers.as_ref().map_or(Phase::Whole, |h| h.phase(worker, request.id));
        let Place { worker: at, rank } = self.places[worker.index()];
        let sent = self.workers[at].submit_phase(now, rank, request, phase, &mut self.out);
        if sent.is_ok() {
            self.reschedule(at);
            if let Some(handovers) = &mut self.handovers {
                handovers.sent(request.id, worker);
            }
        } else {
            self.give_up(now, request.id);
        }
        sent
    }

    fn choose_rank(&mut self, _now: SimTime, worker: WorkerId) -> WorkerId {
        self.workers[self.places[worker.index()].worker].choose_rank()
    }

    fn give_up(&mut self, now: SimTime, request: RequestId) {
        if let Some(from) = self.handovers.as_mut().and_then(|h| h.give_up(request)) {
            self.touch(from, |worker, rank, out| worker.let_go(now, rank, request, out));
        }
    }

    fn abort(&mut self, now: SimTime, worker: WorkerId, request: RequestId) {
        self.touch(worker, |worker, rank, out| worker.abort(now, rank, request, out));
    }

    fn next_event(&mut self, deadline: SimTime) -> Option<(SimTime, WorkerEvent)> {
        while self.out.events.is_empty() {
            let next =
                self.queue.peek().filter(|(_, due)| due.is_before(deadline, Precedence::Arrival));
            if let Some(at) = self.kv_arrives(next.map(|(_, due)| due.at), deadline) {
                self.receive(at);
                continue;
            }
            let Some((id, due)) = next else {
                self.now = deadline;
                return None;
            };
            let worker = &mut self.workers[id.index()];
            match due.precedence {
                Precedence::StepStart => {
                    worker.start_step(due.at, &mut self.out);
                    self.fetch(due.at);
                }
                _ => worker.finish_step(due.at, &mut self.out),
            }
            self.reschedule(id.index());
        }
        let event = self.out.events.pop_front();
        if let (Some((_, event)), Some(handovers)) = (&event, &mut self.handovers)
            && event.kind == WorkerEventKind::Prefilled
        {
            handovers.keep(event.request, event.worker);
        }
        self.now = event.map_or(self.now, |(at, _)| at);
        event
    }

    fn take_kv_events(&mut self, until: SimTime, sink: &mut dyn FnMut(WorkerId, SimTime, KvEvent)) {
        if matches!(self.on_demand, OnDemand::Yes { .. }) {
            self.end_on_demand();
        }
        let present = until == self.now;
        while let Some((id, _)) = self.kv_queue.pop_before(until, Precedence::Measure) {
            self.look(id.index(), |worker, out| {
                if present {
                    worker.settle_present(until, out);
                }
                worker.take_kv_events(until, out, &mut *sink);
            });
            if let Some(at) = self.workers[id.index()].kv_due() {
                self.kv_queue.schedule(id, at, Precedence::KvVisibility);
            }
        }
    }

    fn take_kv_events_of(
        &mut self,
        until: SimTime,
        prompt: &PromptBlocks<'_>,
        sink: &mut dyn FnMut(WorkerId, KvEvent),
    ) {
        if matches!(self.on_demand, OnDemand::Unasked) {
            self.begin_on_demand();
        }
        let OnDemand::Yes { concerns, full, asked } = &mut self.on_demand else {
            return self.take_kv_events(until, &mut |target, _, event| sink(target, event));
        };
        let mut asked = std::mem::take(asked);
        asked.append(full);
        prompt.runs().for_each(|run| concerns.find(run, &mut asked));
        asked.sort_unstable();
        asked.dedup();
        for &id in &asked {
            let present = until == self.now;
            self.touch(id, |worker, rank, out| {
                if present {
                    worker.settle_present(until, out);
                }
                worker.take_kv_of(until, rank, prompt, out, |event| sink(id, event));
            });
        }
        asked.clear();
        if let OnDemand::Yes { asked: scratch, .. } = &mut self.on_demand {
            *scratch = asked;
        }
    }

    fn gauges(&mut self, now: SimTime) -> Vec<Gauges> {
        let mut gauges = Vec::with_capacity(self.places.len());
        for at in 0..self.workers.len() {
            self.look(at, |worker, out| gauges.extend(worker.gauges(now, out)));
        }
        gauges
    }

    fn take_token_gaps(&mut self, now: SimTime) -> Histogram {
        for at in 0..self.workers.len() {
            self.look(at, |worker, out| worker.settle_present(now, out));
        }
        std::mem::take(&mut self.out.gaps)
    }

    fn publishes_kv_events(&self) -> bool {
        self.publishes
    }

    fn takes_changes(&self) -> bool {
        true
    }

    fn stop(&mut self, now: SimTime, rank: WorkerId) -> Vec<(WorkerId, Lost)> {
        self.end_on_demand();
        let mut lost = self.touch(rank, |worker, _, out| worker.die(now, out));
        let ranks = self.ranks_beside(rank);
        let Some(handovers) = &mut self.handovers else { return lost };
        let mut all_bereft = Vec::new();
        for rank in ranks {
            let Gone { kept, bereft } = handovers.stop(now, rank);
            // Those requests are with the router or at another worker.
            lost.retain(|(_, lost)| !kept.contains(&lost.request));
            all_bereft.extend(bereft);
        }
        if handovers.prefills(rank) {
            // No client sees what is sampled there.
            lost.iter_mut().for_each(|(_, lost)| lost.output_tokens = 0);
        }
        for (request, at) in all_bereft {
            self.touch(at, |worker, rank, out| worker.kv_lost(now, rank, request, out));
        }
        lost
    }

    fn start(&mut self, rank: WorkerId) {
        self.workers[self.places[rank.index()].worker].come_back();
    }

    fn set_pace(&mut self, now: SimTime, rank: WorkerId, pace: Pace) {
        self.touch(rank, |worker, _, _| worker.set_pace(now, pace));
    }

    fn truth(&mut self, now: SimTime) -> Option<&dyn Truth> {
        // Boundaries of this moment are half passed: their steps are not formed.
        let before = SimTime::from_ps(now.as_ps().saturating_sub(1));
        for worker in &mut self.workers {
            worker.settle(before, &mut self.out);
        }
        self.asked = now;
        Some(self)
    }
}

impl Truth for SimulatedFleet {
    fn cached_blocks(&self, request: &Request) -> Vec<u32> {
        self.workers.iter().flat_map(|worker| worker.reachable_blocks(request)).collect()
    }

    fn workers(&self, request: &Request) -> Vec<WorkerTruth> {
        let mut truths = Vec::with_capacity(self.places.len());
        for worker in &self.workers {
            let first = WorkerId::at(truths.len());
            let phase =
                self.handovers.as_ref().map_or(Phase::Whole, |h| h.phase(first, request.id));
            truths.extend(worker.truth(self.asked, request, phase));
            let Some(handovers) = self.handovers.as_ref().filter(|_| phase == Phase::Decode) else {
                continue;
            };
            for truth in &mut truths[first.index()..] {
                let block_size = worker.config().block_size;
                let missing = request.prompt_tokens - truth.cached_blocks * block_size;
                truth.ttft += handovers.time_alone(missing);
            }
        }
        truths
    }
}
