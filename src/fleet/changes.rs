//! What happens to the workers of a fleet, and when front ends hear of it.
//!
//! Two clocks run side by side. The truth: a worker dies, loads, serves, drains.
//! And the word of it: connections break a moment after a crash, a lease runs out
//! much later, discovery tells of those who join and leave in order. Both are
//! entries of one agenda; [`Changes::take`] gives what is to be done, in order,
//! and the driver of the fleet does it.

mod planner;
mod settings;

pub use settings::{
    ChangeKind, ChangePlan, ChangeSettings, Crew, FailoverSettings, LOAD_TIME, MOST_WORKERS,
    PlannerLoad, PlannerSettings, WorkerChange,
};

use crate::engine::{Gauges, Pace};
use crate::id::{RequestId, WorkerId};
use crate::metrics::catalogue;
use crate::settings::Invalid;
use crate::time::SimTime;
use planner::{Planner, PlannerStep};
use std::collections::BTreeMap;

/// After so long a planner looks no more: the clock is trusted with no more.
const LAST_LOOK: SimTime = SimTime::from_ps(100 * 86_400 * crate::time::PS_PER_SECOND);

/// What is to be done now. Of a worker with ranks the first one is named, and it happens to
/// all of them; only requests are lost at one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum WorkerEffect {
    /// The worker dies, or stops after it has drained, with all it has.
    Stop(WorkerId),
    /// The worker takes requests from now on, with an empty cache.
    Serve(WorkerId),
    /// The worker's steps run at this pace from now on.
    Pace(WorkerId, Pace),
    /// Front ends hear that the worker is gone, or takes no more requests.
    Left(WorkerId),
    /// Front ends hear that the worker takes requests.
    Joined(WorkerId),
    /// The front end that sent this request to this worker sees that it is lost.
    Lost(WorkerId, RequestId),
    /// The planner looks: call [`Changes::plan`].
    Look,
}

/// An entry of the agenda. One that names a life is void if the worker has died
/// since.
#[derive(Clone, Copy, Debug)]
enum Entry {
    Start(WorkerId),
    Ready(WorkerId, u32),
    NormalPace(WorkerId, u32),
    Drained(WorkerId, u32),
    Word(WorkerEffect, Option<u32>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Down,
    Loading,
    Serving,
    Draining,
}

#[derive(Clone, Copy, Debug)]
struct Life {
    stage: Stage,
    /// How often it has died.
    deaths: u32,
    /// Requests at it.
    requests: u32,
    /// Front ends know that it leaves.
    is_known_to_leave: bool,
    /// It starts again when it is down.
    returns: bool,
}

/// See the [module documentation](self).
#[derive(Debug)]
pub struct Changes {
    plan: ChangePlan,
    agenda: BTreeMap<(SimTime, u64), Entry>,
    entries: u64,
    /// By number of the worker, as the plan and the agenda count.
    workers: Vec<Life>,
    /// The worker of each rank, and the first rank of each worker: outside, ranks have
    /// numbers.
    of_ranks: Vec<usize>,
    firsts: Vec<u32>,
    planner: Option<Planner>,
}

impl Changes {
    /// What `plan` says; the workers that its planner looks after, if it has one, have
    /// `pool` KV blocks and up to `batch` sequences at once, on each of their ranks.
    ///
    /// # Panics
    /// If the plan does not [`validate`](ChangePlan::validate).
    pub fn new(plan: ChangePlan, pool: u32, batch: u32) -> Self {
        plan.validate().expect("a validated plan");
        let slots = plan.slots();
        let (mut of_ranks, mut firsts) = (Vec::new(), Vec::new());
        for (worker, ranks) in plan.ranks().into_iter().enumerate() {
            firsts.push(narrow(of_ranks.len()));
            of_ranks.extend(std::iter::repeat_n(worker, ranks as usize));
        }
        let life = |id| Life {
            stage: if plan.is_up_first(id) { Stage::Serving } else { Stage::Down },
            deaths: 0,
            requests: 0,
            is_known_to_leave: false,
            returns: false,
        };
        let mut changes = Self {
            agenda: BTreeMap::new(),
            entries: 0,
            workers: (0..slots).map(life).collect(),
            of_ranks,
            firsts,
            planner: plan.planner.clone().map(|settings| {
                let ranks = plan.ranks()[plan.planned().start as usize];
                let [pool, batch] = [pool, batch].map(|of_rank| of_rank.saturating_mul(ranks));
                Planner::new(settings, slots, pool, batch)
            }),
            plan,
        };
        changes.enter_look(SimTime::ZERO);
        changes
    }

    /// Workers that do not serve yet at the start; of one with ranks the first.
    pub fn absent(&self) -> Vec<WorkerId> {
        let slots = (0..self.plan.slots()).zip(&self.firsts);
        let absent = slots.filter(|(worker, _)| !self.plan.is_up_first(*worker));
        absent.map(|(_, first)| WorkerId(*first)).collect()
    }

    /// The ranks of the worker that has `rank`.
    pub fn ranks(&self, rank: WorkerId) -> impl Iterator<Item = WorkerId> + use<> {
        let worker = self.of_ranks[rank.index()];
        let end = self.firsts.get(worker + 1).copied().unwrap_or(narrow(self.of_ranks.len()));
        (self.firsts[worker]..end).map(WorkerId)
    }

    /// The worker that has `rank`.
    fn of_rank(&self, rank: WorkerId) -> WorkerId {
        WorkerId::at(self.of_ranks[rank.index()])
    }

    /// `effect`, for those who know ranks.
    fn outside(&self, effect: WorkerEffect) -> WorkerEffect {
        let first = |worker: WorkerId| WorkerId(self.firsts[worker.index()]);
        match effect {
            WorkerEffect::Stop(worker) => WorkerEffect::Stop(first(worker)),
            WorkerEffect::Serve(worker) => WorkerEffect::Serve(first(worker)),
            WorkerEffect::Pace(worker, pace) => WorkerEffect::Pace(first(worker), pace),
            WorkerEffect::Left(worker) => WorkerEffect::Left(first(worker)),
            WorkerEffect::Joined(worker) => WorkerEffect::Joined(first(worker)),
            WorkerEffect::Lost(..) | WorkerEffect::Look => effect,
        }
    }

    /// When something is to be done next.
    pub fn due(&self) -> Option<SimTime> {
        self.agenda.first_key_value().map(|(&(at, _), _)| at)
    }

    /// What is to be done up to and at `now`; to be asked until `None`.
    pub fn take(&mut self, now: SimTime) -> Option<WorkerEffect> {
        loop {
            let entry = self.agenda.first_entry().filter(|entry| entry.key().0 <= now)?.remove();
            let effect = match entry {
                Entry::Start(worker) => self.start(now, worker),
                Entry::Ready(worker, life) => self.ready(now, worker, life),
                Entry::Drained(worker, life) => self.drained(now, worker, life),
                Entry::NormalPace(worker, life) => {
                    self.is_alive(worker, life).then_some(WorkerEffect::Pace(worker, Pace::NORMAL))
                }
                Entry::Word(effect, life) => self.word(now, effect, life),
            };
            if let Some(effect) = effect {
                return Some(self.outside(effect));
            }
        }
    }

    /// True if `effect`, about to be done, takes a cache away from the router or
    /// gives it an empty one.
    pub fn costs_cache(&self, effect: WorkerEffect) -> bool {
        let life = |rank: WorkerId| self.workers[self.of_ranks[rank.index()]];
        match effect {
            WorkerEffect::Stop(worker) => !life(worker).is_known_to_leave,
            WorkerEffect::Left(worker) => life(worker).stage == Stage::Draining,
            WorkerEffect::Joined(_) => true,
            _ => false,
        }
    }

    /// The planner looks at its workers; there are `gauges` of every rank.
    pub fn plan(&mut self, now: SimTime, gauges: &[Gauges]) {
        let ids = self.plan.planned();
        let (first, end) = (ids.start as usize, ids.end as usize);
        let own = &self.workers[first..end];
        let stages = || own.iter().map(|life| life.stage).enumerate();
        let serving: Vec<usize> = stages()
            .filter(|(_, stage)| *stage == Stage::Serving)
            .map(|(at, _)| first + at)
            .collect();
        let moving =
            |life: &Life| matches!(life.stage, Stage::Loading | Stage::Draining) || life.returns;
        let moves = own.iter().any(moving);
        let there = |life: &&Life| life.stage != Stage::Down || life.returns;
        let all = narrow(own.iter().filter(there).count());
        let down = own.iter().position(|life| life.stage == Stage::Down);
        let Some(planner) = &mut self.planner else { return };
        let gauges = gauges.iter().zip(self.of_ranks.iter().copied());
        match planner.look(now, gauges, &serving, (all, moves)) {
            PlannerStep::Nothing => {}
            PlannerStep::Add => {
                let down = down.expect("fewer workers than there can be");
                let worker = WorkerId(narrow(first + down));
                self.enter(now, Entry::Start(worker));
                self.workers[worker.index()].returns = true;
            }
            PlannerStep::Remove => {
                let last = serving.last().copied().map(narrow).map(WorkerId);
                if let Some(worker) = last {
                    self.drain(now, worker);
                }
            }
        }
        self.enter_look(now);
    }

    /// A request is sent to `rank`: true if its worker takes it. If not, its front end
    /// will see that.
    pub fn sent(&mut self, now: SimTime, rank: WorkerId, request: RequestId) -> bool {
        let life = self.life(self.of_rank(rank));
        let takes = matches!(life.stage, Stage::Serving | Stage::Draining);
        if takes {
            life.requests += 1;
        } else {
            self.enter_lost(now, rank, request);
        }
        takes
    }

    /// A request ended at `rank`.
    pub fn ended(&mut self, now: SimTime, rank: WorkerId) {
        let worker = self.of_rank(rank);
        self.life(worker).requests -= 1;
        self.stop_if_drained(now, worker);
    }

    /// A request was lost with `rank`: its front end will see that.
    pub fn lost(&mut self, now: SimTime, rank: WorkerId, request: RequestId) {
        self.enter_lost(now, rank, request);
    }

    /// How often a request may go on at another worker.
    pub fn migrations(&self) -> u32 {
        self.plan.failover.migrations
    }

    /// Whether a front end that sees a broken connection to `rank` stops to choose its
    /// worker.
    pub fn inhibits(&self, rank: WorkerId) -> bool {
        let stage = self.workers[self.of_ranks[rank.index()]].stage;
        self.plan.failover.inhibit && matches!(stage, Stage::Down | Stage::Loading)
    }

    /// What the planner did since the run began, by name of the metric.
    pub fn notes(&self) -> Vec<(&'static str, f64)> {
        let Some(planner) = &self.planner else { return Vec::new() };
        let counts = [
            (catalogue::WORKERS_ADDED, planner.added),
            (catalogue::WORKERS_REMOVED, planner.removed),
        ];
        counts.map(|(kind, count)| (kind.stem, count as f64)).into()
    }

    fn enter(&mut self, at: SimTime, entry: Entry) {
        self.agenda.insert((at, self.entries), entry);
        self.entries += 1;
    }

    fn enter_look(&mut self, now: SimTime) {
        let Some(planner) = &self.planner else { return };
        let at = now + planner.interval();
        if at <= LAST_LOOK {
            self.enter(at, Entry::Word(WorkerEffect::Look, None));
        }
    }

    fn enter_lost(&mut self, now: SimTime, rank: WorkerId, request: RequestId) {
        let at = now + self.plan.failover.notice_delay;
        self.enter(at, Entry::Word(WorkerEffect::Lost(rank, request), None));
    }

    fn life(&mut self, worker: WorkerId) -> &mut Life {
        &mut self.workers[worker.index()]
    }

    fn is_alive(&self, worker: WorkerId, life: u32) -> bool {
        let now = self.workers[worker.index()];
        now.deaths == life && matches!(now.stage, Stage::Serving | Stage::Draining)
    }

    /// Whether `change` makes sense now.
    ///
    /// # Errors
    /// If there is no such worker, or it is in no state for that.
    pub fn check(&self, change: &WorkerChange) -> Result<(), Invalid> {
        let &WorkerChange { worker, what, .. } = change;
        let last = self.workers.len() - 1;
        let range = format!("from 0 to {last}: the workers that this simulation has room for");
        let life = self.workers.get(worker as usize);
        let life = life.ok_or_else(|| Invalid::new("worker", worker, range))?;
        let is = match (what, life.stage) {
            (ChangeKind::Start, Stage::Serving) => "up",
            (ChangeKind::Start | ChangeKind::Drain | ChangeKind::Slow, Stage::Loading) => "loading",
            (ChangeKind::Crash | ChangeKind::Drain | ChangeKind::Slow, Stage::Down) => "down",
            (ChangeKind::Drain, Stage::Draining) => "draining",
            _ => return Ok(()),
        };
        let allowed = format!("a worker that is not {is}, for {:?}", what.to_string());
        Err(Invalid::new("worker", worker, allowed))
    }

    /// `change` happens now: gives what is to be done at once. Nothing where a planner
    /// has made it pointless.
    pub fn apply(&mut self, now: SimTime, change: &WorkerChange) -> Option<WorkerEffect> {
        self.begin(now, change).map(|effect| self.outside(effect))
    }

    fn begin(&mut self, now: SimTime, change: &WorkerChange) -> Option<WorkerEffect> {
        let WorkerChange { worker, what, restart_after, grace, factor, lasts } = *change;
        let worker = WorkerId(worker);
        let Life { stage, deaths, .. } = *self.life(worker);
        match what {
            ChangeKind::Crash if stage == Stage::Down => None,
            ChangeKind::Crash => {
                let lease = now + self.plan.failover.lease;
                self.enter(lease, Entry::Word(WorkerEffect::Left(worker), Some(deaths + 1)));
                if let Some(after) = restart_after {
                    self.life(worker).returns = true;
                    self.enter(now + after, Entry::Start(worker));
                }
                self.stop(worker)
            }
            ChangeKind::Drain if stage != Stage::Serving => None,
            ChangeKind::Drain => {
                self.drain(now, worker);
                if let Some(grace) = grace {
                    self.enter(now + grace, Entry::Drained(worker, deaths));
                }
                None
            }
            ChangeKind::Start => self.start(now, worker),
            ChangeKind::Slow => {
                let pace = factor.and_then(|factor| Pace::new(factor).ok())?;
                if !self.is_alive(worker, deaths) {
                    return None;
                }
                if let Some(lasts) = lasts {
                    self.enter(now + lasts, Entry::NormalPace(worker, deaths));
                }
                Some(WorkerEffect::Pace(worker, pace))
            }
        }
    }

    fn drain(&mut self, now: SimTime, worker: WorkerId) {
        let known = now + self.plan.failover.discovery_delay;
        let life = self.life(worker);
        (life.stage, life.is_known_to_leave) = (Stage::Draining, false);
        let deaths = life.deaths;
        self.enter(known, Entry::Word(WorkerEffect::Left(worker), Some(deaths)));
    }

    fn stop(&mut self, worker: WorkerId) -> Option<WorkerEffect> {
        let life = self.life(worker);
        life.stage = Stage::Down;
        life.deaths += 1;
        life.requests = 0;
        Some(WorkerEffect::Stop(worker))
    }

    /// A worker is ordered to start: at once, or when it has drained.
    fn start(&mut self, now: SimTime, worker: WorkerId) -> Option<WorkerEffect> {
        let ready = now + self.plan.load_time;
        let life = self.life(worker);
        match life.stage {
            Stage::Down => {
                (life.stage, life.returns) = (Stage::Loading, false);
                let deaths = life.deaths;
                self.enter(ready, Entry::Ready(worker, deaths));
            }
            Stage::Draining => life.returns = true,
            Stage::Loading | Stage::Serving => {}
        }
        None
    }

    fn ready(&mut self, now: SimTime, worker: WorkerId, life: u32) -> Option<WorkerEffect> {
        let known = now + self.plan.failover.discovery_delay;
        let present = self.life(worker);
        if present.deaths != life || present.stage != Stage::Loading {
            return None;
        }
        (present.stage, present.is_known_to_leave) = (Stage::Serving, false);
        self.enter(known, Entry::Word(WorkerEffect::Joined(worker), Some(life)));
        Some(WorkerEffect::Serve(worker))
    }

    /// A worker has drained, or its grace is over.
    fn drained(&mut self, now: SimTime, worker: WorkerId, life: u32) -> Option<WorkerEffect> {
        if !self.is_alive(worker, life) || self.life(worker).stage != Stage::Draining {
            return None;
        }
        if self.life(worker).returns {
            self.enter(now, Entry::Start(worker));
        }
        self.stop(worker)
    }

    fn stop_if_drained(&mut self, now: SimTime, worker: WorkerId) {
        let Life { stage, deaths, requests, is_known_to_leave, .. } = *self.life(worker);
        if stage == Stage::Draining && requests == 0 && is_known_to_leave {
            self.enter(now, Entry::Drained(worker, deaths));
        }
    }

    /// Word of something reaches the front ends, unless it is out of date.
    fn word(
        &mut self,
        now: SimTime,
        effect: WorkerEffect,
        life: Option<u32>,
    ) -> Option<WorkerEffect> {
        match effect {
            WorkerEffect::Left(worker) | WorkerEffect::Joined(worker) => {
                let present = self.life(worker);
                if life.is_some_and(|life| life != present.deaths) {
                    return None;
                }
                match (effect, present.stage) {
                    (WorkerEffect::Left(_), Stage::Draining) => {
                        present.is_known_to_leave = true;
                        self.stop_if_drained(now, worker);
                    }
                    // It is back already, and its joining will tell, or has told.
                    (WorkerEffect::Left(_), Stage::Serving) => return None,
                    (WorkerEffect::Joined(_), Stage::Down) => return None,
                    _ => {}
                }
                Some(effect)
            }
            _ => Some(effect),
        }
    }
}

fn narrow(workers: usize) -> u32 {
    u32::try_from(workers).expect("worker ids are u32")
}
