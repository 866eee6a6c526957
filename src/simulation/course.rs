//! What is measured of a simulation, and when it is over.

use super::Simulation;
use crate::engine::Gauges;
use crate::fleet::Fleet;
use crate::metrics::catalogue;
use crate::recorder::{Level, Metrics, Quantiles, Slo};
use crate::router::front_end::FrontEnd;
use crate::stats::Histogram;
use crate::time::{SimDuration, SimTime};

/// How a run is cut into measured levels.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// Number of concurrent conversations of each level, in order; an open loop
    /// has one level whose number means nothing.
    pub concurrency: Vec<u32>,
    /// Time at the start of each level that is not measured.
    pub warmup: SimDuration,
    /// Time measured after it; `None`: until no request is left or to come.
    pub window: Option<SimDuration>,
    /// What percentiles are taken over.
    pub quantiles: Quantiles,
    /// Targets of a good request.
    pub slo: Slo,
}

/// A schedule that is followed.
#[derive(Debug)]
pub(super) struct Course {
    schedule: Schedule,
    stage: Stage,
    /// Token gaps of the window that were taken from the fleet.
    gaps: Histogram,
    /// Requests that clients had sent again when the window began.
    sent_again: Option<u64>,
    /// The metrics of the windows that ended.
    levels: Vec<Metrics>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The level's window begins then.
    Warmup(SimTime),
    /// The level is measured until then; until its end if that is `None`.
    Window(Option<SimTime>),
    Over,
}

impl Course {
    /// When the next window begins or ends.
    pub(super) fn mark(&self) -> SimTime {
        match self.stage {
            Stage::Warmup(mark) | Stage::Window(Some(mark)) => mark,
            Stage::Window(None) | Stage::Over => SimTime::MAX,
        }
    }

    /// True in a window that lasts as long as there are requests.
    pub(super) fn is_open(&self) -> bool {
        self.stage == Stage::Window(None)
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
        assert!(!schedule.concurrency.is_empty(), "a schedule has at least one level");
        self.course = Some(Course {
            schedule,
            stage: Stage::Over,
            gaps: Histogram::new(),
            sent_again: None,
            levels: Vec::new(),
        });
        self.begin_level();
        self
    }

    fn begin_level(&mut self) {
        let Some(course) = &mut self.course else { return };
        let Schedule { warmup, quantiles, slo, .. } = course.schedule;
        let begin = self.now + warmup;
        self.recorder.begin_level(Level { begin, quantiles, slo });
        course.stage = Stage::Warmup(begin);
    }

    /// A window begins or ends.
    pub(super) fn pass_window(&mut self) {
        self.last = self.now;
        match self.course.as_ref().map(|course| course.stage) {
            Some(Stage::Warmup(_)) => self.begin_window(),
            Some(Stage::Window(_)) => self.end_window(),
            Some(Stage::Over) | None => {}
        }
    }

    fn begin_window(&mut self) {
        let gauges = self.take_gauges();
        self.recorder.begin_window(self.now, gauges);
        let Some(course) = &mut self.course else { return };
        course.gaps = Histogram::new();
        course.sent_again = self.workload.sent_again();
        course.stage = Stage::Window(course.schedule.window.map(|window| self.now + window));
    }

    /// The window that runs ends now: its metrics are kept, and the next level begins.
    pub(super) fn end_window(&mut self) {
        let gauges = self.take_gauges();
        let Some(course) = &mut self.course else { return };
        let mut metrics = self.recorder.end_window(self.now, &gauges, &course.gaps);
        self.add_notes(&mut metrics);
        let Some(course) = &mut self.course else { return };
        course.levels.push(metrics);
        match course.schedule.concurrency.get(course.levels.len()) {
            Some(&concurrency) => {
                self.workload.set_concurrency(self.now, concurrency, true);
                self.begin_level();
            }
            None => course.stage = Stage::Over,
        }
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
        self.count_gaps(gaps.count());
        if let Some(course) = &mut self.course {
            course.gaps.merge(&gaps);
        }
        gauges
    }

    /// What workload, policies and planner counted.
    fn add_notes(&self, metrics: &mut Metrics) {
        let before = self.course.as_ref().and_then(|course| course.sent_again);
        if let (Some(before), Some(after)) = (before, self.workload.sent_again()) {
            metrics.insert(catalogue::RETRIES.only(), Some((after - before) as f64));
        }
        let changes = self.changes.iter().flat_map(|changes| changes.notes());
        let notes = self.front_ends.iter().flat_map(FrontEnd::notes);
        for (name, count) in notes.chain(changes) {
            let sum = metrics.entry(name.to_owned()).or_insert(Some(0.0));
            *sum = sum.map(|sum| sum + count);
        }
    }
}
