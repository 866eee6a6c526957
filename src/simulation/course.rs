//! What is measured of a simulation, and when it is over.

use super::Simulation;
use crate::engine::Gauges;
use crate::fleet::Fleet;
use crate::metrics::catalogue;
use crate::recorder::{Level, Metrics, Quantiles, Slo};
use crate::router::front_end::FrontEnd;
use crate::stats::Histogram;
use crate::time::{SimDuration, SimTime};
use crate::workload::HeldBack;

/// How a run is cut into measured levels.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// The levels, in order.
    pub levels: Vec<ScheduledLevel>,
    /// Time at the start of each level that is not measured.
    pub warmup: SimDuration,
    /// Time measured after it; `None`: until no request is left or to come.
    pub window: Option<SimDuration>,
    /// True if each level is a burst into an idle fleet: then it is no news that waiting
    /// requests become more and times longer.
    pub in_bursts: bool,
    /// What percentiles are taken over.
    pub quantiles: Quantiles,
    /// Targets of a good request.
    pub slo: Slo,
}

/// One level of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScheduledLevel {
    /// Clients or conversations of a closed loop; of a load in stages the number of the
    /// stage; of other loads it means nothing.
    pub load: u32,
    /// Whether there are metrics of it. One that is not measured lasts until no request
    /// is left or to come.
    pub is_measured: bool,
}

impl ScheduledLevel {
    /// A level that is measured.
    pub fn measured(load: u32) -> Self {
        Self { load, is_measured: true }
    }
}

/// A schedule that is followed.
#[derive(Debug)]
pub(super) struct Course {
    schedule: Schedule,
    stage: Stage,
    /// Levels begun.
    begun: usize,
    /// Token gaps of the window that were taken from the fleet.
    gaps: Histogram,
    /// Requests that clients had sent again when the window began.
    sent_again: Option<u64>,
    /// What clients had held back then.
    held_back: Option<HeldBack>,
    /// The metrics of the windows that ended.
    levels: Vec<Metrics>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The level's window begins then.
    Warmup(SimTime),
    /// The level has no window.
    Unmeasured,
    /// The level is measured until then; until its end if that is `None`.
    Window(Option<SimTime>),
    Over,
}

impl Course {
    /// When the next window begins or ends.
    pub(super) fn mark(&self) -> SimTime {
        match self.stage {
            Stage::Warmup(mark) | Stage::Window(Some(mark)) => mark,
            Stage::Window(None) | Stage::Unmeasured | Stage::Over => SimTime::MAX,
        }
    }

    /// True in a level that lasts as long as there are requests.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Window(None) | Stage::Unmeasured)
    }

    /// True if it is not the last one.
    pub(super) fn goes_on(&self) -> bool {
        self.begun < self.schedule.levels.len()
    }

    /// True if every level has an end of its own.
    pub(super) fn is_timed(&self) -> bool {
        self.schedule.window.is_some()
    }

    pub(super) fn is_over(&self) -> bool {
        self.stage == Stage::Over
    }

    pub(super) fn into_levels(self) -> Vec<Metrics> {
        self.levels
    }
}

impl<F: Fleet> Simulation<'_, F> {
    /// Measures what `schedule` says, from time zero on. The simulation is over when
    /// the last level is.
    ///
    /// # Panics
    /// If time has been put in already, or there is no level.
    #[cfg_attr(not(internals), doc(hidden))]
    pub fn measure(mut self, schedule: Schedule) -> Self {
        assert_eq!(self.now, SimTime::ZERO, "a schedule begins at time zero");
        assert!(!schedule.levels.is_empty(), "a schedule has at least one level");
        self.course = Some(Course {
            schedule,
            stage: Stage::Over,
            begun: 0,
            gaps: Histogram::new(),
            sent_again: None,
            held_back: None,
            levels: Vec::new(),
        });
        // The workload began with it.
        self.begin_level(SimTime::ZERO);
        self
    }

    /// The next level begins; `from` then, after its warm-up, it is measured.
    fn begin_level(&mut self, from: SimTime) {
        let Some(course) = &mut self.course else { return };
        let Schedule { warmup, quantiles, slo, ref levels, .. } = course.schedule;
        let is_measured = levels[course.begun].is_measured;
        course.begun += 1;
        let begin = if is_measured { from + warmup } else { SimTime::MAX };
        self.recorder.begin_level(Level { begin, quantiles, slo });
        course.stage = if is_measured { Stage::Warmup(begin) } else { Stage::Unmeasured };
    }

    /// The level is over: the next one begins.
    fn next_level(&mut self) {
        let Some(course) = &mut self.course else { return };
        match course.schedule.levels.get(course.begun) {
            Some(level) => {
                let from = self.workload.begin_level(self.now, level.load);
                self.begin_level(from);
            }
            None => course.stage = Stage::Over,
        }
    }

    /// A level that lasts as long as there are requests has none left.
    pub(super) fn end_open_level(&mut self) {
        match self.course.as_ref().map(|course| course.stage) {
            Some(Stage::Unmeasured) => self.next_level(),
            _ => self.end_window(),
        }
    }

    /// A window begins or ends.
    pub(super) fn pass_window(&mut self) {
        self.last = self.now;
        match self.course.as_ref().map(|course| course.stage) {
            Some(Stage::Warmup(_)) => self.begin_window(),
            Some(Stage::Window(_)) => self.end_window(),
            Some(Stage::Unmeasured | Stage::Over) | None => {}
        }
    }

    fn begin_window(&mut self) {
        let gauges = self.take_gauges();
        self.recorder.begin_window(self.now, gauges);
        let Some(course) = &mut self.course else { return };
        course.gaps = Histogram::new();
        course.sent_again = self.workload.sent_again();
        course.held_back = self.workload.held_back();
        course.stage = Stage::Window(course.schedule.window.map(|window| self.now + window));
    }

    /// The window that runs ends now: its metrics are kept, and the next level begins.
    fn end_window(&mut self) {
        let gauges = self.take_gauges();
        let Some(course) = &mut self.course else { return };
        let mut metrics = self.recorder.end_window(self.now, &gauges, &course.gaps);
        self.add_notes(&mut metrics);
        let Some(course) = &mut self.course else { return };
        course.levels.push(metrics);
        self.next_level();
    }

    /// The metrics of the window that is being measured, as if it ended now; `None`
    /// outside a window. Looking changes nothing.
    pub fn metrics(&mut self) -> Option<Metrics> {
        if !matches!(self.course.as_ref()?.stage, Stage::Window(_)) {
            return None;
        }
        let gauges = self.take_gauges();
        let gaps = &self.course.as_ref()?.gaps;
        let mut metrics = self.recorder.metrics(self.now, &gauges, gaps)?;
        self.add_notes(&mut metrics);
        Some(metrics)
    }

    /// The gauges of each worker now; the token gaps so far are the course's.
    pub(super) fn take_gauges(&mut self) -> Vec<Gauges> {
        let gauges = self.fleet.gauges(self.now);
        let gaps = self.fleet.take_token_gaps(self.now);
        self.count_gaps(&gaps);
        if let Some(course) = &mut self.course {
            course.gaps.merge(&gaps);
        }
        gauges
    }

    /// What workload, policies and planner counted.
    fn add_notes(&self, metrics: &mut Metrics) {
        if self.course.as_ref().is_some_and(|course| course.schedule.in_bursts) {
            for kind in [catalogue::BACKLOG_GROWTH, catalogue::TTFT_DRIFT] {
                metrics.insert(kind.only(), None);
            }
        }
        let before = self.course.as_ref().and_then(|course| course.sent_again);
        if let (Some(before), Some(after)) = (before, self.workload.sent_again()) {
            metrics.insert(catalogue::RETRIES.only(), Some((after - before) as f64));
        }
        let before = self.course.as_ref().and_then(|course| course.held_back);
        if let (Some(before), Some(after)) = (before, self.workload.held_back()) {
            let requests = (after.requests - before.requests) as f64;
            let ms = (after.time - before.time).as_millis();
            metrics.insert(catalogue::HELD_BACK.only(), Some(requests));
            let mean = (requests > 0.0).then(|| ms / requests);
            metrics.insert(catalogue::HELD_BACK_TIME.only(), mean);
        }
        let changes = self.changes.iter().flat_map(|changes| changes.notes());
        let notes = self.front_ends.iter().flat_map(FrontEnd::notes);
        for (name, count) in notes.chain(changes) {
            let sum = metrics.entry(name.to_owned()).or_insert(Some(0.0));
            *sum = sum.map(|sum| sum + count);
        }
    }
}
