//! A simulation: a value that time can be put into.
//!
//! It owns workload, front ends, fleet, the table of live requests and the clock.
//! [`Simulation::advance`] puts time in: it never looks inside the fleet, but asks
//! for the next event up to the next moment at which it has something to do
//! itself. So the same loop serves simulated and real fleets, and a run that goes
//! through in one piece, one that is stepped, and one that is watched are the same
//! run: whatever the pieces, the results are equal.
//!
//! What happens is reported to the [`Recorder`], which measures, and to
//! [`Observer`]s. A [`Schedule`] says what is measured, and when the simulation is
//! over.

mod admission;
mod changes;
mod control;
mod course;
mod guard;
mod hang_ups;
mod observer;
mod requests;
mod routing;
mod snapshot;
mod steering;

pub use control::{Control, ControlKind, ControlSettings, controls_toml};
pub use course::{Schedule, ScheduledLevel};
pub use guard::Stuck;
pub use observer::{Happening, Observer};
pub use requests::{LiveRequest, Whereabouts};
pub use routing::Decision;
pub use snapshot::{Recent, Snapshot, WorkerSnapshot};

use crate::engine::Gauges;
use crate::fleet::changes::Changes;
use crate::fleet::{Fleet, SimulatedFleet};
use crate::id::RequestId;
use crate::recorder::{Metrics, Recorder};
use crate::router::Sides;
use crate::router::admission::Gate;
use crate::router::front_end::FrontEnd;
use crate::router::settings::Spread;
use crate::time::SimTime;
use crate::workload::Workload;
use course::Course;
use guard::{Guard, Turn};
use hang_ups::HangUps;
use observer::Observers;
use requests::LiveRequests;
use snapshot::Samples;
use std::fmt;
use steering::Steering;

/// See the [module documentation](self).
pub struct Simulation<'a, F = SimulatedFleet> {
    fleet: F,
    workload: Box<dyn Workload + 'a>,
    front_ends: Vec<FrontEnd>,
    /// In front of the front ends; none where everything is let in.
    gates: Vec<Gate>,
    /// When they let in what waits.
    let_in_at: Option<SimTime>,
    /// Where gates look at workers: how many ranks each has, and KV blocks of each of these.
    ranks: Vec<u32>,
    blocks: Vec<u32>,
    requests: LiveRequests,
    recorder: Recorder,
    observers: Observers<'a>,
    block_size: u32,
    /// Everything before the arrivals of this moment has happened.
    now: SimTime,
    /// When something happened last.
    last: SimTime,
    spread: Spread,
    /// Requests that a worker on the first of two sides is done with are routed again, to
    /// one that decodes.
    sides: Sides,
    /// The request whose routing is to be taken apart.
    explained: Option<RequestId>,
    decision: Option<Decision>,
    /// What happens to the workers, if anything does.
    changes: Option<Box<Changes>>,
    /// What is measured, if anything is.
    course: Option<Course>,
    steering: Steering<'a>,
    /// What snapshots need of the past, if any are wanted.
    samples: Option<Samples>,
    hang_ups: HangUps,
    /// The last decision for which front ends heard of cache changes on demand, and up to
    /// when those were published.
    kv_heard: Option<(SimTime, SimTime)>,
    guard: Guard,
    /// Why it cannot go on: found out while something happened.
    failed: Option<Stuck>,
    /// The same, once it was said.
    stuck: Option<Stuck>,
}

impl<F: fmt::Debug> fmt::Debug for Simulation<'_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulation").field("now", &self.now).finish_non_exhaustive()
    }
}

/// How far a simulation has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Its clock: everything before the arrivals of this moment has happened.
    pub now: SimTime,
    /// Its schedule has ended, or nothing can happen any more. More time changes nothing.
    pub is_over: bool,
}

/// What a simulation leaves behind.
#[derive(Debug)]
#[non_exhaustive]
pub struct Outcome<F = SimulatedFleet> {
    /// The metrics of each measured window that ended, in order.
    pub levels: Vec<Metrics>,
    /// The decision that was to be taken apart, once it was made.
    #[cfg_attr(not(internals), doc(hidden))]
    pub decision: Option<Decision>,
    /// Everything that was recorded.
    #[cfg_attr(not(internals), doc(hidden))]
    pub recorder: Recorder,
    /// The workers.
    #[cfg_attr(not(internals), doc(hidden))]
    pub fleet: F,
}

impl<F> Outcome<F> {
    /// SHA-256 over everything that the outside saw: routing decisions, times of first
    /// and last tokens, cached tokens. Equal for equal runs.
    pub fn digest(&self) -> [u8; 32] {
        self.recorder.digest()
    }
}

impl<'a, F: Fleet> Simulation<'a, F> {
    /// A simulation at time zero. Requests go to the front ends in turn, unless
    /// [`spread`](Self::spread) says otherwise; nothing is measured without a
    /// [schedule](Self::measure).
    ///
    /// # Panics
    /// Without a front end.
    #[cfg_attr(not(internals), doc(hidden))]
    pub fn new(
        fleet: F,
        workload: Box<dyn Workload + 'a>,
        front_ends: Vec<FrontEnd>,
        recorder: Recorder,
        block_size: u32,
    ) -> Self {
        assert!(!front_ends.is_empty(), "a fleet has at least one front end");
        let sides = front_ends[0].sides();
        Self {
            fleet,
            workload,
            front_ends,
            gates: Vec::new(),
            let_in_at: None,
            ranks: Vec::new(),
            blocks: Vec::new(),
            requests: LiveRequests::default(),
            recorder,
            observers: Observers::default(),
            block_size,
            now: SimTime::ZERO,
            last: SimTime::ZERO,
            spread: Spread::InTurn,
            sides,
            explained: None,
            decision: None,
            changes: None,
            course: None,
            steering: Steering::default(),
            samples: None,
            hang_ups: HangUps::default(),
            kv_heard: None,
            guard: Guard::default(),
            failed: None,
            stuck: None,
        }
    }

    /// Which front end a request reaches.
    #[cfg_attr(not(internals), doc(hidden))]
    pub fn spread(mut self, spread: Spread) -> Self {
        self.spread = spread;
        self
    }

    /// Takes the decision about `request` apart, for [`Outcome::decision`].
    #[cfg_attr(not(internals), doc(hidden))]
    pub fn explain(mut self, request: RequestId) -> Self {
        self.explained = Some(request);
        self
    }

    /// `observer` hears everything from now on. It cannot change what it hears of.
    pub fn observe(&mut self, observer: impl Observer + 'a) {
        self.observers.add(Box::new(observer));
    }

    /// The clock.
    pub fn now(&self) -> SimTime {
        self.now
    }

    /// The workers.
    #[cfg_attr(not(internals), doc(hidden))]
    pub fn fleet(&self) -> &F {
        &self.fleet
    }

    /// The workers, for what [`Fleet`] does not offer. To send requests or to stop workers
    /// here would be to go behind the simulation's back.
    #[cfg_attr(not(internals), doc(hidden))]
    pub fn fleet_mut(&mut self) -> &mut F {
        &mut self.fleet
    }

    /// The gauges of each worker now. Looking changes nothing in the run.
    #[cfg_attr(not(internals), doc(hidden))]
    pub fn gauges(&mut self) -> Vec<Gauges> {
        self.take_gauges()
    }

    /// The requests that have arrived and not ended, in order of arrival.
    pub fn live_requests(&self) -> impl Iterator<Item = &LiveRequest> {
        self.requests.iter()
    }

    /// Puts time in, up to `until`; [`SimTime::MAX`] lets it run to its end. A time
    /// that is past changes nothing.
    ///
    /// What the past causes at `until` is included: what workers do then, and windows
    /// that begin or end. Changes of workers, arrivals and decisions of that moment
    /// are not: they come with the next call.
    ///
    /// # Errors
    /// If it cannot go on: requests will never end, or time does not move. It stays so.
    pub fn advance(&mut self, until: SimTime) -> Result<Progress, Stuck> {
        if let Some(stuck) = &self.stuck {
            return Err(stuck.clone());
        }
        let progress = self.run(until);
        self.stuck = progress.as_ref().err().cloned();
        progress
    }

    fn run(&mut self, until: SimTime) -> Result<Progress, Stuck> {
        while !self.is_over() && self.now <= until {
            let mark = self.mark();
            let to = until.min(mark);
            self.run_until(to)?;
            if self.ends_by_itself() && self.is_idle() {
                self.now = self.last;
                self.end_open_level();
            } else if to == SimTime::MAX {
                // Nothing is left to wait for.
                let unfinished = self.requests.live();
                if unfinished > 0 {
                    return Err(Stuck::Unfinished { at: self.last, unfinished });
                }
                self.now = self.last;
                return Ok(Progress { now: self.now, is_over: true });
            } else {
                self.now = to;
                if mark > to {
                    break;
                }
                self.pass()?;
            }
        }
        Ok(Progress { now: self.now, is_over: self.is_over() })
    }

    /// When something happens that does not come from the fleet; [`SimTime::MAX`] if
    /// nothing will.
    pub fn due(&self) -> SimTime {
        self.next_turn().0.min(self.mark())
    }

    /// When windows, the script or samples go on.
    fn mark(&self) -> SimTime {
        let course = self.course.as_ref().map_or(SimTime::MAX, Course::mark);
        // Where nothing happens there is nothing to be sampled.
        let samples = self.samples.as_ref().filter(|samples| samples.covers(self.last, self.now));
        let sample = samples.map_or(SimTime::MAX, |samples| samples.mark().max(self.now));
        course.min(self.steering.mark()).min(sample)
    }

    /// What is due at a mark, in this order: windows, the script, samples.
    fn pass(&mut self) -> Result<(), Stuck> {
        if self.course.as_ref().is_some_and(|course| course.mark() <= self.now) {
            self.pass_window();
        } else if self.steering.mark() <= self.now {
            self.last = self.now;
            self.follow_script()?;
        } else {
            self.sample();
        }
        Ok(())
    }

    /// The next thing to do that the fleet does not cause, and when.
    fn next_turn(&self) -> (SimTime, Turn) {
        let arrival = self.workload.next_arrival().unwrap_or(SimTime::MAX);
        let is_busy = self.requests.live() > 0 || arrival < SimTime::MAX;
        let wake = self.front_ends.iter().filter_map(FrontEnd::wake_at).min();
        // No policy looks at reports when nothing is left to be done.
        let reporting = self.front_ends.iter().filter(|_| is_busy);
        let wake = reporting.filter_map(FrontEnd::report_due).chain(wake);
        let wake = wake.chain(self.gate_due(is_busy)).min();
        let wake = wake.unwrap_or(SimTime::MAX).max(self.now);
        let restart = self.front_ends.iter().filter_map(FrontEnd::restart_due).min();
        let change = self.change_due(is_busy).max(self.now);
        // At one moment in this order.
        let mut next = (change, Turn::Change);
        for other in [
            (restart.unwrap_or(SimTime::MAX), Turn::Restart),
            (arrival, Turn::Arrival),
            (self.hang_ups.due().unwrap_or(SimTime::MAX), Turn::HangUp),
            (wake, Turn::Wake),
        ] {
            if other.0 < next.0 {
                next = other;
            }
        }
        next
    }

    /// Everything before the changes and the arrivals of the moment `end`, or until a level
    /// has ended by itself and another one follows.
    fn run_until(&mut self, end: SimTime) -> Result<(), Stuck> {
        let may_stop = self.course.as_ref().is_some_and(|c| c.is_open() && c.goes_on());
        loop {
            if let Some(failed) = self.failed.take() {
                return Err(failed);
            }
            self.settle_hang_ups();
            // The next level begins at once: the fleet's clock must not pass it.
            if may_stop && self.is_idle() {
                return Ok(());
            }
            let (at, turn) = self.next_turn();
            let next = at.min(end);
            if let Some((at, event)) = self.fleet.next_event(next) {
                self.happens(at, Turn::Event)?;
                self.handle(at, &event);
            } else if next == end {
                return Ok(());
            } else {
                self.happens(next, turn)?;
                match turn {
                    Turn::Change => self.change(next)?,
                    Turn::Restart => self.restart(next),
                    Turn::Arrival => self.arrive(next),
                    Turn::HangUp => self.hang_up(next)?,
                    Turn::Wake => {
                        self.report(next);
                        self.report_to_gates(next);
                        self.expire(next);
                        self.let_in(next);
                        self.release(next);
                    }
                    Turn::Event => unreachable!("events come from the fleet"),
                }
            }
        }
    }

    fn happens(&mut self, at: SimTime, turn: Turn) -> Result<(), Stuck> {
        (self.now, self.last) = (at, at);
        // What happens to workers is counted one by one.
        if turn == Turn::Change { Ok(()) } else { self.guard.count(at, turn) }
    }

    /// True if the run is over when no request is left.
    fn ends_by_itself(&self) -> bool {
        self.course.as_ref().is_some_and(Course::is_open)
    }

    /// True if nothing is left to be done, and nothing will be.
    fn is_idle(&self) -> bool {
        self.requests.live() == 0 && self.next_turn().0 == SimTime::MAX
    }

    fn is_over(&self) -> bool {
        self.course.as_ref().is_some_and(Course::is_over)
    }

    /// The digest so far: that of a simulation that ends at the clock's time.
    pub fn digest(&self) -> [u8; 32] {
        self.recorder.digest()
    }

    /// Ends the simulation at its clock's time. A window that has not ended is left out.
    pub fn finish(self) -> Outcome<F> {
        let levels = self.course.map_or(Vec::new(), Course::into_levels);
        let Self { decision, recorder, fleet, .. } = self;
        Outcome { levels, decision, recorder, fleet }
    }
}
