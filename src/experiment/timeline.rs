//! A simulation of saved results run again, with an eye on every step of a
//! stretch of time.
//!
//! Steps that are passed several at once are recorded one by one; the digest says
//! that looking changed nothing.

use super::explain::{Again, ExplainError, points, seed};
use super::load::Experiment;
use super::results::SavedRuns;
use super::run_spec::Params;
use super::simulate::{RunOutcome, Watch};
use crate::engine::StepRecord;
use crate::event::WorkerEvent;
use crate::recorder::RequestRecord;
use crate::time::{SimDuration, SimTime};

/// How much is shown by default.
const WINDOW: SimDuration = SimDuration::from_secs(60);

/// Which simulation, and when.
#[derive(Clone, Debug, Default)]
pub struct TimelineQuery {
    /// Parameters with their values as text: only points that have them. Of
    /// several the last is shown.
    pub at: Vec<(String, String)>,
    /// The seed; the first of the experiment if not given.
    pub seed: Option<u64>,
    /// Times since the start of the simulation; the first minute of the point's
    /// measured part if not given.
    pub window: Option<(SimTime, SimTime)>,
}

/// What happened.
#[derive(Clone, Debug)]
pub struct Timeline {
    /// The point.
    pub params: Params,
    /// The seed.
    pub seed: u64,
    /// The simulation's digest, hexadecimal.
    pub digest: String,
    /// Workers of the fleet.
    pub workers: u32,
    /// By worker: the name of its pool, where there are several.
    pub pools: Vec<String>,
    /// The time that is shown.
    pub window: (SimTime, SimTime),
    /// The measured part of the point.
    pub measured: (SimTime, SimTime),
    /// Every request of the simulation, in order of arrival.
    pub requests: Vec<RequestRecord>,
    /// What workers reported of requests in the whole simulation, in order of time.
    pub events: Vec<(SimTime, WorkerEvent)>,
    /// Every step that touches the window, those of one worker in order of time.
    pub steps: Vec<StepRecord>,
}

/// Runs the chosen simulation of `experiment` again, whose results `saved` belongs to.
///
/// # Errors
/// If there is no such simulation, it is not the one saved, or no step runs at
/// the time asked for.
pub fn timeline(
    experiment: &Experiment,
    saved: &SavedRuns,
    choice: &TimelineQuery,
) -> Result<Timeline, ExplainError> {
    let again = Again { experiment, saved, seed: seed(experiment, choice.seed)? };
    let found = points(experiment, &choice.at)?;
    let point = found[found.len() - 1];
    let run = again.runs(&[point])[0];
    let spec = &experiment.runs[run];
    let measure = &spec.settings.measure;
    let level = spec.points.iter().position(|other| *other == point).unwrap_or(0);
    let before =
        measure.window.map_or(SimDuration::ZERO, |window| (measure.warmup + window) * level as u64);
    let begin = SimTime::ZERO + before + measure.warmup;
    let end = measure.window.map(|window| begin + window);
    let default = (begin, end.map_or(begin + WINDOW, |end| end.min(begin + WINDOW)));
    let window = choice.window.unwrap_or(default);
    let watch = Watch { requests: true, steps: Some(window), ..Watch::default() };
    let RunOutcome { mut requests, events, steps, .. } = again.simulate(run, watch)?;
    requests.sort_by_key(|record| record.request);
    let last_end = || requests.iter().filter_map(|record| record.end).map(|(at, _)| at).max();
    let end = end.or_else(last_end).unwrap_or(begin);
    if steps.is_empty() {
        return Err(ExplainError::Window {
            from: window.0.as_secs(),
            to: window.1.as_secs(),
            point: again.point(run),
            seed: again.seed,
            begin: begin.as_secs(),
            end: end.as_secs(),
        });
    }
    Ok(Timeline {
        params: experiment.points[point].clone(),
        seed: again.seed,
        digest: again.digest(run).to_owned(),
        workers: spec.settings.pools.slots(),
        pools: spec.settings.pools.names(),
        window,
        measured: (begin, end),
        requests,
        events,
        steps,
    })
}
