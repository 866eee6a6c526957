//! The life of a worker, from boundary to boundary; see the [module documentation](super).

use super::balance::{Balancer, Offer};
use super::config::EngineConfig;
use super::gauges::Gauges;
use super::group_time;
use super::outbox::{Outbox, Wake};
use super::pace::Pace;
use super::pipeline::{Cadence, Pipeline, Segment};
use super::plan::Plan;
use super::rank::Rank;
use super::rules::Spread;
use super::scheduler::Scheduler;
use crate::event::{KvEvent, Lost, RejectReason};
use crate::id::{RequestId, WorkerId};
use crate::kv::BlockCount;
use crate::request::{Phase, Request};
use crate::time::{SimDuration, SimTime};
use smallvec::SmallVec;
use std::sync::Arc;

/// A simulated worker: an engine, whose ranks have a queue, a batch and a cache each, and
/// step together. Where attention is not data parallel there is one rank.
///
/// A rank is called by its place, from 0; outside, each has an id of its own.
#[derive(Debug)]
pub struct Worker {
    pub(super) ranks: Vec<Rank>,
    pub(super) config: Arc<EngineConfig>,
    pub(super) pipeline: Pipeline,
    pub(super) state: State,
    pub(super) is_up: bool,
    /// Of ranks that wait for each other's prompts.
    balancer: Option<Balancer>,
}

#[derive(Debug)]
pub(super) enum State {
    /// Nothing to do until a request arrives.
    Idle,
    /// A step is to be formed at this boundary.
    Ready { at: SimTime, from_idle: bool },
    /// Steps run.
    Running(Plan),
    /// Nothing can be formed until the results in flight are handled.
    Draining { until: SimTime },
    /// Nothing can be formed until a load from a lower tier is done.
    Loading { until: SimTime },
}

impl Worker {
    /// An idle worker with empty caches, whose ranks have ids from `first` on. Cache events
    /// are recorded only if `wants_kv_events`.
    pub fn new(first: WorkerId, config: Arc<EngineConfig>, wants_kv_events: bool) -> Self {
        let ids = (first.0..).map(WorkerId).take(config.attention_dp as usize);
        let rank = |id| Rank::new(id, Arc::clone(&config), wants_kv_events);
        Self {
            ranks: ids.map(rank).collect(),
            balancer: balancer(&config),
            config,
            pipeline: Pipeline::default(),
            state: State::Idle,
            is_up: true,
        }
    }

    /// When to call next; `None` while idle.
    pub fn wake(&self) -> Option<Wake> {
        match &self.state {
            State::Idle => None,
            State::Ready { at, .. } | State::Loading { until: at } => Some(Wake::StartStep(*at)),
            State::Running(plan) => Some(Wake::FinishStep(plan.end)),
            State::Draining { until } => Some(Wake::FinishStep(*until)),
        }
    }

    /// Takes a request at `now`, on its first rank.
    ///
    /// # Errors
    /// If it can never run here. An output that would pass the context limit is
    /// cut, as real engines do.
    pub fn submit(
        &mut self,
        now: SimTime,
        request: &Request,
        out: &mut Outbox,
    ) -> Result<(), RejectReason> {
        self.submit_phase(now, 0, request, Phase::Whole, out)
    }

    /// Takes a request at `now`, on this rank, for a part of its work; unless that is all
    /// of it, only where the engine [hands KV over](super::rules::Defaults::hands_over_kv).
    ///
    /// # Errors
    /// As [`submit`](Self::submit).
    pub fn submit_phase(
        &mut self,
        now: SimTime,
        rank: usize,
        request: &Request,
        phase: Phase,
        out: &mut Outbox,
    ) -> Result<(), RejectReason> {
        self.ranks[rank].submit(request, phase)?;
        self.see_change(now, out);
        self.ranks[rank].count_taken(now);
        Ok(())
    }

    /// The rank to which the engine would give a request that comes now: see
    /// [`Spread`].
    pub(crate) fn choose_rank(&self) -> WorkerId {
        let requests =
            |rank: &Rank| u64::from(rank.gauges.waiting) + u64::from(rank.gauges.running);
        let chosen = match self.config.rules.name().defaults().spread {
            Spread::LeastLoaded => {
                let load = |rank: &&Rank| requests(rank) + 3 * u64::from(rank.gauges.waiting);
                self.ranks.iter().min_by_key(load)
            }
            Spread::EvenTokens => {
                let all = self.ranks.iter().map(requests).sum::<u64>() + 1;
                let fullest = self.ranks.iter().map(requests).max().unwrap_or(0);
                let even = all.div_ceil(self.ranks.len() as u64).max(fullest);
                let has_room = |rank: &&Rank| requests(rank) < even;
                let load = |rank: &&Rank| (rank.prompt_tokens(), requests(rank));
                self.ranks.iter().filter(has_room).min_by_key(load)
            }
        };
        chosen.expect("a worker has a rank").id
    }

    /// The client of `request`, which is at this rank, gives it up at `now`. It is dropped
    /// at the boundary at which the engine does that, which is
    /// [announced](crate::event::WorkerEventKind::Aborted), unless it ends there by itself.
    /// One that has left already changes nothing.
    pub fn abort(&mut self, now: SimTime, rank: usize, request: RequestId, out: &mut Outbox) {
        if self.ranks[rank].has(request) {
            self.see_change(now, out);
            self.ranks[rank].abort(request);
        }
    }

    /// Something changes at `now` that the next boundary has to see.
    fn see_change(&mut self, now: SimTime, out: &mut Outbox) {
        match &mut self.state {
            State::Idle => self.state = State::Ready { at: now, from_idle: true },
            State::Running(plan) => plan.cut(self.pipeline, now),
            State::Loading { until } => *until = now,
            State::Ready { .. } | State::Draining { .. } => {}
        }
        self.settle(now, out);
    }

    /// Handles the results that are due at the boundary `now`.
    pub fn finish_step(&mut self, now: SimTime, out: &mut Outbox) {
        self.settle(now, out);
        let before = self.pipeline.boundary;
        let drains =
            match std::mem::replace(&mut self.state, State::Ready { at: now, from_idle: false }) {
                State::Running(plan) => {
                    debug_assert_eq!(plan.steps, 1, "a plan ends with its last step");
                    self.pipeline.step(&plan.cadence);
                    debug_assert_eq!(self.pipeline.boundary, now);
                    false
                }
                State::Draining { .. } => {
                    self.pipeline.boundary = now;
                    true
                }
                _ => unreachable!("no step is running"),
            };
        for rank in &mut self.ranks {
            rank.finish_step(now, now - before, drains, out);
        }
    }

    /// Forms the next step at `now` and plans what follows it.
    pub fn start_step(&mut self, now: SimTime, out: &mut Outbox) {
        let (at, from_idle, idles) = match self.state {
            State::Ready { at, from_idle } => (at, from_idle, from_idle),
            State::Loading { until } => (until, false, true),
            _ => unreachable!("a step is formed at a boundary"),
        };
        debug_assert_eq!(at, now);
        if idles {
            self.pipeline.restart(now);
        }
        let mut any_dropped = false;
        for rank in &mut self.ranks {
            rank.begin_step(now);
            any_dropped |= rank.drop_aborted(now, out);
        }
        if any_dropped && self.ranks.iter().all(Rank::awaits_nothing) {
            // Results that no client waits for are not waited for.
            self.ranks.iter_mut().for_each(|rank| rank.in_flight = None);
        }
        let step = self.ranks[0].core.decode.step();
        let offers = self.ranks.iter_mut().map(|rank| rank.offer(from_idle));
        let holds_back = match &mut self.balancer {
            Some(balancer) => balancer.holds_back(step, &offers.collect::<SmallVec<[Offer; 8]>>()),
            None => {
                // To be asked is how a rank prepares what it will compute.
                offers.for_each(drop);
                false
            }
        };
        for rank in &mut self.ranks {
            if holds_back {
                rank.hold_back();
            }
            rank.form(now, out);
        }
        self.state = if self.ranks.iter().any(Rank::has_step) {
            State::Running(self.plan(out))
        } else if self.ranks.iter().any(|rank| rank.in_flight.is_some()) {
            State::Draining { until: now.max(self.pipeline.gpu_end) }
        } else if let Some(again) = self.form_again(now, from_idle) {
            again
        } else {
            self.ranks.iter().for_each(|rank| rank.check_idle(now));
            State::Idle
        };
        self.ranks.iter_mut().for_each(|rank| rank.end_forming(out));
    }

    /// What to do when no step was formed and requests are left.
    fn form_again(&self, now: SimTime, from_idle: bool) -> Option<State> {
        if self.ranks.iter().any(Rank::has_preempted) {
            // The last running sequence made room for what was loaded for others.
            return Some(State::Ready { at: now, from_idle: true });
        }
        let until = self.ranks.iter().filter_map(Rank::load_done).min()?;
        // An idle worker may have woken with one arrival of several (T27).
        let again = State::Ready { at: now, from_idle: false };
        Some(if from_idle { again } else { State::Loading { until } })
    }

    /// Counts the step just formed and looks as far ahead as nothing can happen.
    fn plan(&mut self, out: &mut Outbox) -> Plan {
        let with_prefill = self.ranks.iter().any(Rank::has_prefill);
        let (mut prepare, mut launch) = (SimDuration::ZERO, SimDuration::ZERO);
        for rank in self.ranks.iter().filter(|rank| rank.has_step()) {
            let host = self.config.host_time(rank.step_seqs(), with_prefill);
            (prepare, launch) = (prepare.max(host.0), launch.max(host.1));
        }
        let time = group_time::of(&mut self.ranks, with_prefill);
        let alike = self.balancer.as_ref().map_or(u64::MAX, Balancer::steps_alike);
        let (start, mut steps) = (self.pipeline.boundary, time.steps);
        steps = steps.min(alike.saturating_add(1));
        for rank in &mut self.ranks {
            steps = steps.min(rank.count_step(start, steps, out));
        }
        let overlap = self.config.overlap;
        let cadence = Cadence { overlap, prepare, launch, gpu: time.gpu, growth: time.growth };
        let mut plan = Plan { steps, cadence, end: SimTime::ZERO };
        if steps == 1 {
            self.ranks.iter_mut().for_each(Rank::end_plan);
        }
        plan.find_end(self.pipeline);
        if let Some(done) = self.ranks.iter().filter_map(Rank::load_done).min() {
            plan.cut(self.pipeline, done);
        }
        plan
    }

    /// Settles the boundaries inside the plan that lie at or before `until`:
    /// counts their tokens, takes and publishes their blocks.
    pub fn settle(&mut self, until: SimTime, out: &mut Outbox) {
        let State::Running(plan) = &mut self.state else { return };
        if plan.steps == 1 {
            return;
        }
        let mut segments = SmallVec::<[Segment; 4]>::new();
        let mut keep = |segment| segments.push(segment);
        let steps = self.pipeline.run(&mut plan.cadence, plan.steps - 1, until, &mut keep);
        if steps == 0 {
            return;
        }
        plan.steps -= steps;
        let next = (self.pipeline.boundary, plan.steps == 1);
        for rank in &mut self.ranks {
            rank.settle(&segments, next, out);
        }
    }

    /// Settles everything up to the present moment `now`.
    ///
    /// A boundary at `now` itself is only half passed: its results are there,
    /// but its step is formed after whatever else happens at this moment, such
    /// as an arrival that joins it. So the plan ends there, and
    /// [`wake`](Self::wake) has to be asked again.
    pub fn settle_present(&mut self, now: SimTime, out: &mut Outbox) {
        self.settle(SimTime::from_ps(now.as_ps().saturating_sub(1)), out);
        let State::Running(plan) = &mut self.state else { return };
        let mut next = self.pipeline;
        next.step(&plan.cadence);
        if plan.steps > 1 && next.boundary == now {
            plan.steps = 1;
            plan.end = now;
            self.finish_step(now, out);
        }
    }

    /// Hands over the cache changes published at or before `until`, with the rank; those of
    /// one rank in order.
    pub fn take_kv_events(
        &mut self,
        until: SimTime,
        out: &mut Outbox,
        mut sink: impl FnMut(WorkerId, SimTime, KvEvent),
    ) {
        self.settle(until, out);
        for rank in &mut self.ranks {
            let id = rank.id;
            rank.take_kv_events(until, |at, event| sink(id, at, event));
        }
    }

    /// When [`take_kv_events`](Self::take_kv_events) will next have something,
    /// as far as that is known before the next [`wake`](Self::wake).
    pub fn kv_due(&mut self) -> Option<SimTime> {
        if !self.ranks[0].core.log.is_on() {
            return None;
        }
        if let Some(at) = self.ranks.iter_mut().filter_map(Rank::kv_published).min() {
            return Some(at);
        }
        let State::Running(plan) = &self.state else { return None };
        let boundaries = self.ranks.iter_mut().map(Rank::kv_due_in).min()?;
        if boundaries >= plan.steps {
            return None;
        }
        let (mut pipeline, mut cadence) = (self.pipeline, plan.cadence);
        pipeline.run(&mut cadence, boundaries, SimTime::MAX, &mut |_| ());
        Some(pipeline.boundary)
    }

    /// Gauges of each rank and their integrals up to the present moment `now`; see
    /// [`settle_present`](Self::settle_present).
    pub fn gauges(
        &mut self,
        now: SimTime,
        out: &mut Outbox,
    ) -> impl Iterator<Item = Gauges> + use<'_> {
        self.settle_present(now, out);
        self.ranks.iter_mut().map(move |rank| {
            rank.gauges.advance(now);
            rank.gauges
        })
    }

    /// Reports losses of cached blocks only when the last copy goes; see [`EventLog`](crate::kv::EventLog).
    pub fn count_copies(&mut self) {
        self.ranks.iter_mut().for_each(|rank| rank.core.log.count_copies());
    }

    /// Tells of the cache changes of all groups of layers, where they keep KV apart.
    pub fn tell_all_groups(&mut self) {
        self.ranks.iter_mut().for_each(|rank| rank.core.log.tell_all_groups());
    }

    /// Blocks of the pools of all ranks, and how many of them no request holds.
    pub fn blocks(&self) -> (u32, u32) {
        let of_ranks = self.ranks.iter().map(Rank::blocks);
        of_ranks.fold((0, 0), |(all, free), own| (all + own.0, free + own.1))
    }

    /// Every block of the pool of its first rank, counted where it lies: what
    /// [`blocks`](Self::blocks) must say of a worker with one. Costs what the pool has: for
    /// tests.
    pub fn count_blocks(&self) -> BlockCount {
        self.ranks[0].rules.count_blocks(&self.ranks[0].core)
    }

    /// Forgets the prefix caches, as vLLM's `reset_prefix_cache` does. False if a request
    /// holds blocks, in which case nothing is forgotten there, or if the engine has no such
    /// call.
    pub fn reset_prefix_cache(&mut self) -> bool {
        let mut all = true;
        for rank in &mut self.ranks {
            all &= rank.rules.reset_cache();
        }
        all
    }

    /// What it runs with.
    pub fn config(&self) -> &EngineConfig {
        &self.config
    }
}

/// Requests that one worker prefills and another one decodes.
impl Worker {
    /// The KV of `request` came to this rank at `now`: a request taken in phase
    /// [`Decode`](Phase::Decode) for which it had asked.
    ///
    /// # Panics
    /// If it has not asked for it.
    pub fn kv_came(&mut self, now: SimTime, rank: usize, request: RequestId, out: &mut Outbox) {
        self.see_change(now, out);
        let (handover, core) = self.ranks[rank].handover();
        handover.kv_came(core, request);
    }

    /// The KV of `request`, which another worker was to hand over, is lost at `now`: its
    /// prompt is computed here. Nothing where it is not waited for.
    pub fn kv_lost(&mut self, now: SimTime, rank: usize, request: RequestId, out: &mut Outbox) {
        self.see_change(now, out);
        let (handover, core) = self.ranks[rank].handover();
        handover.kv_lost(core, request);
        self.ranks[rank].count_freed(now);
    }

    /// Frees the KV of `request` at `now`, which this rank took in phase
    /// [`Prefill`](Phase::Prefill) and has prefilled.
    ///
    /// # Panics
    /// If it does not keep it.
    pub fn let_go(&mut self, now: SimTime, rank: usize, request: RequestId, out: &mut Outbox) {
        self.see_change(now, out);
        let (handover, core) = self.ranks[rank].handover();
        let id = handover.let_go(core, request);
        core.remove_seq(id);
        self.ranks[rank].count_freed(now);
    }
}

/// Workers die, come back, and change their pace.
impl Worker {
    /// True unless it [died](Self::die) and did not [come back](Self::come_back).
    pub fn is_up(&self) -> bool {
        self.is_up
    }

    /// Dies at the present moment `now` with its requests and its caches, and
    /// publishes nothing more: gives what was lost at which rank, rank by rank in order of
    /// request.
    pub fn die(&mut self, now: SimTime, out: &mut Outbox) -> Vec<(WorkerId, Lost)> {
        self.settle_present(now, out);
        let step = (matches!(self.state, State::Running(_)), self.pipeline.boundary);
        let of_rank = |rank: &mut Rank| {
            let id = rank.id;
            rank.die(now, step).into_iter().map(move |lost| (id, lost))
        };
        let lost = self.ranks.iter_mut().flat_map(of_rank).collect();
        self.pipeline = Pipeline::default();
        self.balancer = balancer(&self.config);
        self.state = State::Idle;
        self.is_up = false;
        lost
    }

    /// Takes requests again, with empty caches.
    pub fn come_back(&mut self) {
        self.is_up = true;
    }

    /// Steps formed from `now` on run at `pace`: a plan ends where the next one is.
    pub fn set_pace(&mut self, now: SimTime, pace: Pace) {
        if let State::Running(plan) = &mut self.state {
            plan.cut(self.pipeline, now);
        }
        self.ranks.iter_mut().for_each(|rank| rank.core.pace = pace);
    }
}

fn balancer(config: &EngineConfig) -> Option<Balancer> {
    let balance = config.rules.attention_dp_config();
    let waits = balance.enable_balance && config.attention_dp > 1;
    waits.then(|| Balancer::new(balance, config.max_num_seqs))
}
