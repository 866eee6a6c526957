//! Result folders: an experiment run into one, resumed after a stop, saved, and
//! read back; by the command line or by any other program.
//!
//! A run has two parts, for programs that have something to do in between:
//! [`ResultFolder::run`] simulates, and [`ResultFolder::save`] writes the files.
//! [`run_into`] does both.
//!
//! ```
//! use kv_router_sim::experiment::{Experiment, LoadOptions};
//! use kv_router_sim::results::{ResultFolder, Results, RunInto, run_into};
//! use std::path::Path;
//!
//! let file = Path::new("experiments/doks-3xh200.toml");
//! let overrides = ["workload.concurrency=60", "measure.window=100s", "measure.seeds=1"];
//! let overrides = overrides.map(str::to_owned).to_vec();
//! let options = LoadOptions::default().set_all(overrides.clone());
//! let experiment = Experiment::load(file, &options)?;
//!
//! let place = tempfile::tempdir()?;
//! let folder = ResultFolder::create(&place.path().join("results"), &experiment)?;
//! let saved = run_into(folder, &experiment, &RunInto::new(file, overrides))?;
//!
//! let read = Results::load(&place.path().join("results"))?;
//! assert_eq!(read.summary, saved.results.summary);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[cfg(feature = "columns")]
mod columns;
mod read;
mod shards;

#[cfg(feature = "columns")]
pub use columns::{
    ColumnsNote, ColumnsPlace, SEEDS_COLUMNS, SUMMARY_COLUMNS, param_column, read_columns,
};

pub use read::{
    AgainError, ReadError, ReportError, Results, from_json, read_summary, write_figures,
};
pub use shards::{Gathering, MergeError, Shards};

use crate::experiment::results::{Point, Provenance, SCHEMA_VERSION, SavedRuns, Summary};
use crate::experiment::{
    self, Existing, Experiment, ExperimentOutcome, Footprint, JobProgress, Journal, NoProgress,
    RUNS_FILE, RunError, RunOptions, SUMMARY_FILE, SimulationRequests, Stop, Store, StoreError,
};
#[cfg(feature = "columns")]
use crate::metrics::{Better, directed};
use crate::plot::{DrawnFor, Figure};
#[cfg(feature = "columns")]
use crate::report::judge::state::State;
use crate::report::judge::terms::remarks;
use crate::report::render::html::REPORT_FILE;
use crate::report::render::{aiperf, requests, save};
use crate::report::view::details::{DETAILS_FILE, Details, WORTH};
use crate::report::view::published::Published;
use crate::report::view::{fleet_over_time, over_time};
use crate::simulation::Stuck;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::UNIX_EPOCH;

/// A folder that one experiment's results go to. While it lives, no other process
/// can write results there. If it was made for them and nothing is saved, it is
/// removed again.
#[derive(Debug)]
pub struct ResultFolder {
    store: Store,
}

/// How to run an experiment into a folder, and what to save of it.
#[derive(Clone)]
#[non_exhaustive]
pub struct RunInto<'a> {
    /// The experiment's file, saved so that its simulations can be run again.
    pub file: PathBuf,
    /// What was changed in it, as `KEY=VALUE`, in order; saved with it.
    pub overrides: Vec<String>,
    /// Simulations at the same time; `None`: one per processor.
    pub jobs: Option<usize>,
    /// Hears how far the run has come.
    pub progress: &'a dyn JobProgress,
    /// Numbers to hold the results against.
    #[cfg_attr(not(internals), doc(hidden))]
    pub published: Option<Published>,
    /// The metric that settings are compared by, if the run is a search for the best.
    #[cfg_attr(not(internals), doc(hidden))]
    pub tuned_for: Option<String>,
    /// Save every request as `requests.csv`. Such a run cannot be resumed.
    pub requests: bool,
    /// Save every request in AIPerf's forms. Such a run cannot be resumed.
    pub aiperf: bool,
    /// Save the report and its figures.
    pub figures: bool,
    /// Keep what is done of a run that does not come to its end, to go on from there.
    /// Not for policies whose code may have changed by then.
    pub resumable: bool,
    /// Save the points as columns of a file of Arrow's, in place of JSON and CSV, where there
    /// are more than so many. Such results have no distributions, no report and no figures.
    /// Without the feature `columns` there is JSON alone; so there is where requests are
    /// kept.
    #[cfg_attr(not(internals), doc(hidden))]
    pub most_in_json: usize,
    /// Ends the run before its time, with [`RunError::Stopped`].
    pub stop: Option<&'a Stop>,
    /// The smallest difference that is called a win or a loss: percent, or percentage
    /// points of ratios.
    #[cfg_attr(not(internals), doc(hidden))]
    pub worth: f64,
}

/// The simulations of an experiment, done and not saved.
#[derive(Debug)]
pub struct Done {
    /// In memory; nothing if the journal has it all, for results in columns.
    outcome: Option<Box<ExperimentOutcome>>,
    journal: Option<Journal>,
}

/// Results whose points are columns: there are too many of them to be held in memory, or
/// to be shown. What is shown instead.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct InColumns {
    /// How many points there are.
    pub points: usize,
    /// The point that is best in the mean of the metric that was tuned for, among those
    /// that serve their requests if any does.
    pub best: Option<Point>,
}

/// From more points than this on, a folder has them as columns (assumed: tables and figures
/// of more are not read by people; as JSON they would be 90 MB).
pub const MOST_IN_JSON: usize = 10_000;

/// What was saved, and what a person should know of it.
#[derive(Debug)]
#[non_exhaustive]
pub struct Saved {
    /// All of it but the requests; without points if they are [columns](Self::in_columns).
    pub results: Results,
    /// Points that are columns, if they are.
    #[cfg_attr(not(internals), doc(hidden))]
    pub in_columns: Option<InColumns>,
    /// Why there is no report, though it was asked for. The numbers are saved.
    pub report: Result<(), ReportError>,
    /// What the folder held before of the same configuration and version, if that
    /// had another digest: one of the two was built from other code or ran on
    /// another platform.
    #[cfg_attr(not(internals), doc(hidden))]
    pub contradicts: Option<Provenance>,
}

impl<'a> RunInto<'a> {
    /// One simulation per processor, and everything but the requests saved.
    pub fn new(file: impl Into<PathBuf>, overrides: Vec<String>) -> Self {
        Self {
            file: file.into(),
            overrides,
            jobs: None,
            progress: &NoProgress,
            published: None,
            tuned_for: None,
            requests: false,
            aiperf: false,
            figures: true,
            resumable: true,
            most_in_json: MOST_IN_JSON,
            stop: None,
            worth: WORTH,
        }
    }

    /// As many simulations at the same time.
    pub fn jobs(mut self, jobs: usize) -> Self {
        self.jobs = Some(jobs);
        self
    }

    /// Tells `progress` how far the run has come.
    pub fn progress(mut self, progress: &'a dyn JobProgress) -> Self {
        self.progress = progress;
        self
    }

    /// Saves every request as `requests.csv`, too.
    pub fn requests(mut self) -> Self {
        self.requests = true;
        self
    }

    /// Saves every request in AIPerf's forms, too.
    pub fn aiperf(mut self) -> Self {
        self.aiperf = true;
        self
    }

    /// Saves no report and no figures.
    pub fn without_figures(mut self) -> Self {
        self.figures = false;
        self
    }

    /// Keeps nothing of a run that does not come to its end.
    pub fn not_resumable(mut self) -> Self {
        self.resumable = false;
        self
    }

    /// Ends the run with [`RunError::Stopped`] once `stop` is asked to.
    pub fn stop(mut self, stop: &'a Stop) -> Self {
        self.stop = Some(stop);
        self
    }

    /// Saves the points as columns, however few there are.
    pub fn in_columns(mut self) -> Self {
        self.most_in_json = 0;
        self
    }

    /// Whether the points of this experiment become columns.
    fn makes_columns(&self, experiment: &Experiment) -> bool {
        cfg!(feature = "columns")
            && !self.keeps_requests()
            && experiment.points.len() > self.most_in_json
    }

    /// True if requests are kept: the journal does not hold them.
    pub fn keeps_requests(&self) -> bool {
        self.requests || self.aiperf
    }
}

impl ResultFolder {
    /// A folder for the first results of `experiment`, made if need be.
    ///
    /// # Errors
    /// If it cannot be written to, holds results or an unfinished run, or another
    /// process is writing there.
    pub fn create(folder: &Path, experiment: &Experiment) -> Result<Self, StoreError> {
        Self::of(folder, experiment, Existing::Nothing)
    }

    /// As [`create`](Self::create), for a folder that may hold results of the same
    /// configuration, or an unfinished run of it: that run goes on.
    ///
    /// # Errors
    /// If it cannot be written to, holds results or a run of another configuration,
    /// or another process is writing there.
    pub fn resume(folder: &Path, experiment: &Experiment) -> Result<Self, StoreError> {
        Self::of(folder, experiment, Existing::Same)
    }

    /// As [`create`](Self::create), for a folder that may hold whatever results:
    /// they are removed now, and nothing else.
    ///
    /// # Errors
    /// If it cannot be written to, or another process is writing there.
    pub fn replace(folder: &Path, experiment: &Experiment) -> Result<Self, StoreError> {
        Self::of(folder, experiment, Existing::Anything)
    }

    fn of(folder: &Path, experiment: &Experiment, existing: Existing) -> Result<Self, StoreError> {
        Store::open(folder, &experiment.config_hash, existing).map(|store| Self { store })
    }

    /// Where the results of an experiment of this name go by default.
    pub fn default_path(experiment: &str) -> PathBuf {
        Path::new("plots").join(experiment)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.store.folder()
    }

    /// What is to be removed if the process ends at once, as by Ctrl-C.
    #[cfg_attr(not(internals), doc(hidden))]
    pub fn footprint(&self) -> Footprint {
        self.store.footprint()
    }

    /// Simulates what is not done yet. What is done is kept in the folder, unless
    /// requests are kept: a process that is killed can [resume](Self::resume).
    ///
    /// # Errors
    /// If a simulation cannot be carried out, the threads cannot be started, or
    /// what is done cannot be written down.
    #[cfg_attr(not(internals), doc(hidden))]
    pub fn run(&self, experiment: &Experiment, options: &RunInto<'_>) -> Result<Done, RunError> {
        let keep_requests = options.keeps_requests();
        let in_columns = options.makes_columns(experiment);
        if !options.resumable && in_columns {
            // A journal that is there for its memory alone.
            self.store.discard_journal()?;
        }
        let journal = if keep_requests || !options.resumable && !in_columns {
            None
        } else {
            Some(Journal::open(self.path(), self.store.config_hash(), &this_program())?)
        };
        let found = journal.as_ref().map_or(0, Journal::found);
        if found > 0 {
            options.progress.resumed(found, experiment.simulations());
        }
        let run = RunOptions {
            jobs: options.jobs,
            progress: options.progress,
            keep_requests,
            stop: options.stop,
            journal: journal.as_ref(),
        };
        let outcome = simulate(experiment, run, in_columns);
        if let (Err(error), Some(journal)) = (&outcome, &journal) {
            match error {
                _ if !options.resumable => journal.remove()?,
                // A router that was late, or died, may do better next time.
                RunError::Simulation { source: Stuck::Router { .. }, .. } => {}
                // It would fail again.
                RunError::Simulation { .. } => journal.remove()?,
                RunError::Threads { .. } if found == 0 => journal.remove()?,
                RunError::Threads { .. } | RunError::Stopped | RunError::Journal(_) => {}
            }
        }
        Ok(Done { outcome: outcome?, journal })
    }

    /// Saves what a run has found, the summary last: a folder that has it is complete.
    ///
    /// # Errors
    /// If a file cannot be written; then none of them is there. Report and figures
    /// are not worth the numbers: what is wrong with them is in [`Saved::report`].
    #[cfg_attr(not(internals), doc(hidden))]
    pub fn save(
        self,
        experiment: &Experiment,
        done: Done,
        options: &RunInto<'_>,
    ) -> Result<Saved, StoreError> {
        let Done { outcome, journal } = done;
        #[cfg(feature = "columns")]
        if outcome.is_none() {
            let journal = journal.expect("what is not in memory is in the journal");
            return self.save_columns(experiment, journal, options);
        }
        let outcome = *outcome.expect("only columns come from a journal");
        let (results, simulations) = Results::of(experiment, outcome, options);

        let mut numbers = self.store.stage()?;
        if options.requests {
            numbers.write("requests.csv", requests::to_csv(&simulations).as_bytes())?;
        }
        if options.aiperf {
            for (name, text) in aiperf::files(experiment, &simulations) {
                numbers.write(&name, text.as_bytes())?;
            }
        }
        let Results { summary, details, runs } = &results;
        numbers.write("summary.csv", save::to_csv(summary).as_bytes())?;
        numbers.write(DETAILS_FILE, details.to_json().as_bytes())?;
        numbers.write(RUNS_FILE, save::json(runs).as_bytes())?;
        numbers.write(SUMMARY_FILE, save::to_json(summary).as_bytes())?;

        let report =
            if options.figures { self.save_report(&results, options.jobs) } else { Ok(()) };
        numbers.publish()?;
        drop(journal);
        self.store.discard_journal()?;
        let contradicts = self.contradicts(&results);
        Ok(Saved { results, in_columns: None, report, contradicts })
    }

    fn contradicts(&self, results: &Results) -> Option<Provenance> {
        let now = &results.summary.provenance;
        let is_other =
            |before: &&Provenance| before.version == now.version && before.digest != now.digest;
        self.store.previous().filter(is_other).cloned()
    }

    /// Saves what is in the journal as columns, point by point.
    #[cfg(feature = "columns")]
    fn save_columns(
        self,
        experiment: &Experiment,
        journal: Journal,
        options: &RunInto<'_>,
    ) -> Result<Saved, StoreError> {
        let (provenance, digests, names) = experiment::journaled(experiment, &journal);
        let summary = Summary { schema_version: SCHEMA_VERSION, provenance, points: Vec::new() };
        let outcome = ExperimentOutcome::of(summary, digests);
        let (results, _) = Results::of(experiment, outcome, options);
        let Results { summary, details, runs } = &results;

        let mut files = self.store.stage()?;
        let provenance = &summary.provenance;
        let points = experiment.points.iter();
        let mut writer = columns::ColumnsWriter::new(&mut files, provenance, points, names)?;
        let mut best = Best::of(options.tuned_for.as_deref());
        experiment::points(experiment, &journal, |point| {
            best.see(&point);
            writer.add(point)
        })?;
        let points = writer.finish()?;
        files.write(DETAILS_FILE, details.to_json().as_bytes())?;
        files.write(RUNS_FILE, save::json(runs).as_bytes())?;
        let note = columns::ColumnsNote::new(provenance.clone(), points);
        files.write(SUMMARY_FILE, save::json(&note).as_bytes())?;
        files.publish()?;
        drop(journal);
        self.store.discard_journal()?;
        let contradicts = self.contradicts(&results);
        let in_columns = Some(InColumns { points, best: best.point });
        Ok(Saved { results, in_columns, report: Ok(()), contradicts })
    }

    /// Saves a summary alone, of what is no run of an experiment into this folder.
    ///
    /// # Errors
    /// If it cannot be written.
    #[cfg_attr(not(internals), doc(hidden))]
    pub fn save_summary(&self, summary: &Summary) -> Result<(), StoreError> {
        let mut files = self.store.stage()?;
        files.write("summary.csv", save::to_csv(summary).as_bytes())?;
        files.write(SUMMARY_FILE, save::to_json(summary).as_bytes())?;
        files.publish()
    }

    fn save_report(&self, results: &Results, jobs: Option<usize>) -> Result<(), ReportError> {
        let draw = || results.figures(DrawnFor::Files);
        let figures = experiment::threads(jobs, usize::MAX)?.install(draw)?;
        let mut files = self.store.stage()?;
        for (name, bytes) in figures.iter().flat_map(Figure::files) {
            files.write(&name, bytes)?;
        }
        files.write(REPORT_FILE, results.report(&figures)?.as_bytes())?;
        Ok(files.publish()?)
    }
}

impl Results {
    /// What a run has found, arranged as in a folder of results, with the requests that
    /// were kept; nothing is written.
    pub fn of(
        experiment: &Experiment,
        outcome: ExperimentOutcome,
        options: &RunInto<'_>,
    ) -> (Self, Vec<SimulationRequests>) {
        let ExperimentOutcome { summary, distributions, requests, digests } = outcome;
        let (published, tuned_for) = (options.published.clone(), options.tuned_for.clone());
        let mut details = Details::new(experiment, published, tuned_for, distributions);
        details.worth = options.worth;
        details.remarks = remarks(experiment);
        if options.requests {
            details.workers_over_time = over_time::first_seed(experiment, &requests);
            details.fleets_over_time = fleet_over_time::of(experiment, &requests);
        }
        let runs = SavedRuns {
            schema_version: SCHEMA_VERSION,
            experiment: options.file.display().to_string(),
            overrides: options.overrides.clone(),
            digests,
        };
        (Self { summary, details, runs }, requests)
    }
}

/// Simulates everything; what is to become columns stays in the journal.
fn simulate(
    experiment: &Experiment,
    run: RunOptions<'_>,
    _in_columns: bool,
) -> Result<Option<Box<ExperimentOutcome>>, RunError> {
    #[cfg(feature = "columns")]
    if _in_columns {
        return experiment::run_journaled(experiment, run).map(|()| None);
    }
    experiment::run(experiment, run).map(|outcome| Some(Box::new(outcome)))
}

/// The best of the points that it has seen.
#[cfg(feature = "columns")]
struct Best {
    /// What is tuned for, and whether lower is better; nothing if nothing is.
    metric: Option<(String, Better)>,
    point: Option<Point>,
}

#[cfg(feature = "columns")]
impl Best {
    fn of(tuned_for: Option<&str>) -> Self {
        let directed = tuned_for.and_then(|name| directed("best", name).ok());
        Self { metric: directed.map(|(metric, better)| (metric.name, better)), point: None }
    }

    fn see(&mut self, point: &Point) {
        let Some((name, better)) = &self.metric else { return };
        // Who turns requests away is quick.
        let rank = |point: &Point| {
            let mean = point.metrics.get(name).and_then(|metric| metric.mean)?;
            let mean = if *better == Better::Higher { -mean } else { mean };
            Some((State::of(point) >= State::Unserved, mean))
        };
        let Some((turns_away, mean)) = rank(point) else { return };
        let is_better = match self.point.as_ref().and_then(rank) {
            Some((other, least)) => (turns_away, mean) < (other, least),
            None => true,
        };
        if is_better {
            self.point = Some(point.clone());
        }
    }
}

/// Runs an experiment, or the rest of it, and saves the results.
///
/// # Errors
/// If a simulation cannot be carried out or a file cannot be written; what was
/// done can be [resumed](ResultFolder::resume) unless requests are kept.
pub fn run_into(
    folder: ResultFolder,
    experiment: &Experiment,
    options: &RunInto<'_>,
) -> Result<Saved, RunError> {
    let done = folder.run(experiment, options)?;
    Ok(folder.save(experiment, done, options)?)
}

/// Where this code is, if not in the file of the process: in a module that an interpreter
/// has loaded.
static LOADED_FROM: OnceLock<PathBuf> = OnceLock::new();

/// Says that this code was loaded from `file` by a program that is not made of it. The
/// first word counts.
#[cfg_attr(not(internals), doc(hidden))]
pub fn loaded_from(file: PathBuf) {
    LOADED_FROM.get_or_init(|| file);
}

/// Tells the running program from others of its version: what another one began,
/// this one must not go on with.
fn this_program() -> String {
    let file = LOADED_FROM.get().cloned().map_or_else(std::env::current_exe, Ok);
    let file = file.and_then(std::fs::metadata);
    let modified = |file: &std::fs::Metadata| file.modified().ok()?.duration_since(UNIX_EPOCH).ok();
    let of_file =
        file.ok().map(|file| (file.len(), modified(&file).unwrap_or_default().as_nanos()));
    let (bytes, modified_ns) = of_file.unwrap_or_default();
    format!("{} {bytes} {modified_ns}", env!("CARGO_PKG_VERSION"))
}
