//! Runs an experiment: every run with every seed, in parallel.
//!
//! Jobs share nothing and are collected in order; sums over seeds are made
//! afterwards, in order of seeds. So the number of threads cannot change a bit
//! of the result.

use super::files::StoreError;
use super::journal::Journal;
use super::load::{Experiment, hex, show};
use super::results::{
    LatencyCurve, LatencyCurves, MetricValue, Point, Provenance, SCHEMA_VERSION, Summary,
};
use super::run_spec::{Params, RunSpec};
use super::shard::Shard;
use super::simulate::{RunOutcome, Stop, Watch, simulate};
use crate::recorder::{Metrics, RequestRecord, SHARES};
use crate::simulation::Stuck;
use crate::stats;
use crate::time::SimTime;
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc;

/// Hears how far a run has come; called from many threads.
pub trait JobProgress: Sync {
    /// `found` of `all` simulations were done before and kept.
    fn resumed(&self, _found: usize, _all: usize) {}
    /// `jobs` simulations are about to start, those that are kept among them.
    fn started(&self, _jobs: usize) {}
    /// One of them is done.
    fn job_done(&self) {}
}

/// Hears nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoProgress;

impl JobProgress for NoProgress {}

/// How to run, without any influence on the result.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct RunOptions<'a> {
    /// Simulations at the same time; `None`: one per processor.
    pub jobs: Option<usize>,
    /// Hears how far the run has come.
    pub progress: &'a dyn JobProgress,
    /// Keep a record of every request, for [`ExperimentOutcome::requests`].
    pub keep_requests: bool,
    /// Ends the run before its time, with [`RunError::Stopped`].
    pub stop: Option<&'a Stop>,
    /// Where to write down what is done, and what was done before. It holds no
    /// requests: a simulation found there contributes none to [`ExperimentOutcome::requests`].
    #[cfg_attr(not(internals), doc(hidden))]
    pub journal: Option<&'a Journal>,
}

/// Everything a run of an experiment gives.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ExperimentOutcome {
    /// The metrics of every point.
    pub summary: Summary,
    /// The distributions of every point, in order.
    #[cfg_attr(not(internals), doc(hidden))]
    pub distributions: Vec<LatencyCurves>,
    /// The requests of every simulation, in order of runs and seeds, if asked for.
    pub requests: Vec<SimulationRequests>,
    /// The digest of every simulation, hexadecimal, in order of runs and seeds.
    pub digests: Vec<String>,
}

impl ExperimentOutcome {
    /// Of points that are somewhere else.
    #[cfg(feature = "columns")]
    pub(crate) fn of(summary: Summary, digests: Vec<String>) -> Self {
        Self { summary, distributions: Vec::new(), requests: Vec::new(), digests }
    }
}

/// The requests of one simulation.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SimulationRequests {
    /// The simulation's parameters; of levels in sequence, those of the first.
    pub params: Params,
    /// Its seed.
    pub seed: u64,
    /// In order of end, unfinished ones last.
    pub records: Vec<RequestRecord>,
}

impl SimulationRequests {
    /// When its last request ended; time zero if none did.
    pub fn last_end(&self) -> SimTime {
        let ends = self.records.iter().filter_map(|record| record.end);
        ends.map(|(at, _)| at).max().unwrap_or(SimTime::ZERO)
    }
}

impl<'a> RunOptions<'a> {
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

    /// Keeps a record of every request, for [`ExperimentOutcome::requests`].
    pub fn keep_requests(mut self) -> Self {
        self.keep_requests = true;
        self
    }

    /// Ends the run with [`RunError::Stopped`] once `stop` is asked to.
    pub fn stop(mut self, stop: &'a Stop) -> Self {
        self.stop = Some(stop);
        self
    }
}

impl Default for RunOptions<'_> {
    fn default() -> Self {
        Self { jobs: None, progress: &NoProgress, keep_requests: false, stop: None, journal: None }
    }
}

/// A run that gave no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The threads could not be started.
    #[error("cannot start {jobs} threads ({reason})")]
    Threads {
        /// Threads asked for.
        jobs: usize,
        /// What the operating system says.
        reason: String,
    },
    /// A simulation could not be carried out; the first in order of jobs.
    #[error("{experiment}, {point}, seed {seed}: {source}")]
    Simulation {
        /// Name of the experiment.
        experiment: String,
        /// The parameters of the run's first point.
        point: String,
        /// Its seed.
        seed: u64,
        /// Why.
        source: Stuck,
    },
    /// It was stopped before it was done.
    #[error("stopped before the run was done")]
    Stopped,
    /// What is done could not be written down.
    #[error(transparent)]
    Journal(#[from] StoreError),
}

/// Simulates everything and summarises it. What the journal has is not
/// simulated again.
///
/// # Errors
/// If the threads cannot be started, a simulation cannot be carried out, or the
/// journal cannot be written.
pub fn run(
    experiment: &Experiment,
    options: RunOptions<'_>,
) -> Result<ExperimentOutcome, RunError> {
    let mut done = simulate_jobs(experiment, &jobs(experiment), options)?;
    let shared: BTreeSet<usize> = experiment.runs.iter().filter_map(|run| run.same_as).collect();
    let mut found = Found::of(experiment);
    let mut requests = Vec::new();
    for (number, run) in experiment.runs.iter().enumerate() {
        let first = run.same_as.unwrap_or(number);
        let mut of_seeds = Vec::with_capacity(experiment.seeds.len());
        for &seed in &experiment.seeds {
            let mut outcome = done.take((first, seed), shared.contains(&first))?;
            if options.keep_requests {
                let params = experiment.points[run.points[0]].clone();
                let records = std::mem::take(&mut outcome.requests);
                requests.push(SimulationRequests { params, seed, records });
            }
            of_seeds.push(outcome);
        }
        found.add(run, &of_seeds);
    }
    let distributions = std::mem::take(&mut found.distributions);
    let digests = std::mem::take(&mut found.digests);
    Ok(ExperimentOutcome { summary: found.summary(), distributions, requests, digests })
}

/// Simulates everything that the journal has not, and leaves it there: for experiments of
/// so many points that they are [read back](points) one by one.
///
/// # Errors
/// As [`run()`].
///
/// # Panics
/// Without a journal: the results would be lost.
#[cfg(feature = "columns")]
pub(crate) fn run_journaled(
    experiment: &Experiment,
    options: RunOptions<'_>,
) -> Result<(), RunError> {
    assert!(options.journal.is_some(), "a journal keeps the results");
    simulate_jobs(experiment, &jobs(experiment), options).map(drop)
}

/// Where the results of an experiment come from whose simulations are all in the journal,
/// the digests of these, and the names of all metrics.
#[cfg(feature = "columns")]
pub(crate) fn journaled(
    experiment: &Experiment,
    journal: &Journal,
) -> (Provenance, Vec<String>, BTreeSet<String>) {
    let mut digest = Sha256::new();
    let mut digests = Vec::with_capacity(experiment.runs.len() * experiment.seeds.len());
    for (number, run) in experiment.runs.iter().enumerate() {
        for &seed in &experiment.seeds {
            let own = journal.digest(run.same_as.unwrap_or(number), seed);
            let own = own.expect("every simulation is done");
            digest.update(own);
            digests.push(hex(&own));
        }
    }
    (provenance(experiment, digest), digests, journal.metric_names())
}

/// Tells `each` point of an experiment whose simulations are all in the journal, in sweep
/// order. There is never more than one run of them in memory.
///
/// # Errors
/// If the journal cannot be read back, or the first error of `each`.
#[cfg(feature = "columns")]
pub(crate) fn points(
    experiment: &Experiment,
    journal: &Journal,
    mut each: impl FnMut(Point) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let seeds = &experiment.seeds;
    let mut places = vec![(0, 0); experiment.points.len()];
    for (number, run) in experiment.runs.iter().enumerate() {
        for (level, &point) in run.points.iter().enumerate() {
            places[point] = (number, level);
        }
    }
    let mut read: Option<(usize, Vec<RunOutcome>)> = None;
    for (params, (number, level)) in experiment.points.iter().zip(places) {
        let of_seeds = match &mut read {
            Some((known, of_seeds)) if *known == number => of_seeds,
            other => {
                let of = experiment.runs[number].same_as.unwrap_or(number);
                let back = seeds.iter().map(|&seed| journal.outcome(of, seed));
                let back: Option<Vec<RunOutcome>> = back.collect::<Result<_, StoreError>>()?;
                &mut other.insert((number, back.expect("every simulation is done"))).1
            }
        };
        let levels: Vec<&Metrics> = of_seeds.iter().map(|outcome| &outcome.levels[level]).collect();
        each(Point { params: params.clone(), metrics: aggregate(&levels, seeds) })?;
    }
    Ok(())
}

/// Simulates what one part of an experiment has and the journal has not, and leaves
/// it there; gives the number of the part's simulations.
///
/// # Errors
/// As [`run()`].
///
/// # Panics
/// Without a journal: the results would be lost.
pub fn run_shard(
    experiment: &Experiment,
    shard: Shard,
    options: RunOptions<'_>,
) -> Result<usize, RunError> {
    assert!(options.journal.is_some(), "a journal keeps the results of a part");
    let part = part(experiment, shard);
    simulate_jobs(experiment, &part, options).map(drop)?;
    Ok(part.len())
}

/// The parts, of so many, of which a journal lacks a simulation.
pub(crate) fn parts_lacking(
    experiment: &Experiment,
    of: u32,
    journal: &Journal,
) -> BTreeSet<Shard> {
    let jobs = jobs(experiment);
    let lacking = jobs
        .iter()
        .enumerate()
        .filter(|(_, job)| !journal.has(job.number, job.seed, job.run.levels.len()));
    lacking.map(|(place, _)| Shard::at(place, of)).collect()
}

/// How many simulations a part of an experiment has, and how many of them a journal lacks.
pub(crate) fn lacking(experiment: &Experiment, shard: Shard, journal: &Journal) -> (usize, usize) {
    let part = part(experiment, shard);
    let is_lacking = |job: &&Job<'_>| !journal.has(job.number, job.seed, job.run.levels.len());
    (part.len(), part.iter().filter(is_lacking).count())
}

fn part(experiment: &Experiment, shard: Shard) -> Vec<Job<'_>> {
    let mut places = 0..;
    let mut part = jobs(experiment);
    part.retain(|_| places.next().is_some_and(|place| shard.has(place)));
    part
}

/// Every simulation, run by run, seed by seed; those that are the same as another
/// one are left out.
fn jobs(experiment: &Experiment) -> Vec<Job<'_>> {
    let runs = experiment.runs.iter().enumerate().filter(|(_, run)| run.same_as.is_none());
    let of_run =
        |(number, run)| experiment.seeds.iter().map(move |&seed| Job { number, run, seed });
    runs.flat_map(of_run).collect()
}

/// The outcomes of simulations that are done: what a journal has is not kept in memory.
struct Outcomes<'a> {
    kept: BTreeMap<(usize, u64), RunOutcome>,
    journal: Option<&'a Journal>,
}

impl Outcomes<'_> {
    /// That of a run and seed; once, unless it `is_shared`.
    fn take(&mut self, key: (usize, u64), is_shared: bool) -> Result<RunOutcome, StoreError> {
        let found = match self.journal {
            Some(journal) => journal.outcome(key.0, key.1)?,
            None if is_shared => self.kept.get(&key).cloned(),
            None => self.kept.remove(&key),
        };
        Ok(found.expect("every run is simulated, or the same as one that is"))
    }
}

/// Simulates `jobs`, except those that the journal has.
fn simulate_jobs<'a>(
    experiment: &Experiment,
    jobs: &[Job<'_>],
    options: RunOptions<'a>,
) -> Result<Outcomes<'a>, RunError> {
    options.progress.started(jobs.len());
    let mut done = Outcomes { kept: BTreeMap::new(), journal: options.journal };
    for (result, job) in simulate_all(jobs, options)?.into_iter().zip(jobs) {
        let outcome = result.map_err(|source| match source {
            Stuck::Stopped { .. } => RunError::Stopped,
            source => RunError::Simulation {
                experiment: experiment.name.clone(),
                point: show(&experiment.points[job.run.points[0]]),
                seed: job.seed,
                source,
            },
        })?;
        if let Some(outcome) = outcome {
            done.kept.insert((job.number, job.seed), *outcome);
        }
    }
    Ok(done)
}

/// One simulation.
struct Job<'a> {
    /// Place of the run in the experiment.
    number: usize,
    run: &'a RunSpec,
    seed: u64,
}

/// The outcome of a simulation, unless a journal keeps it.
type Kept = Option<Box<RunOutcome>>;

/// The result of every job, in order; nothing of one that a journal has. Results, not one
/// result of all: which error comes first must not depend on timing.
fn simulate_all(
    jobs: &[Job<'_>],
    options: RunOptions<'_>,
) -> Result<Vec<Result<Kept, Stuck>>, RunError> {
    let threads = threads(options.jobs, jobs.len())?;
    std::thread::scope(|scope| {
        let (written, told) = mpsc::channel();
        let syncing = options.journal.map(|journal| scope.spawn(move || journal.sync(&told)));
        let job = |job: &Job<'_>| {
            let Job { number, run, seed } = *job;
            let outcome = match options.journal {
                Some(journal) if journal.has(number, seed, run.levels.len()) => Ok(None),
                journal => {
                    let RunOptions { keep_requests, stop, .. } = options;
                    let watch = Watch { requests: keep_requests, stop, ..Watch::default() };
                    let outcome = simulate(&run.settings, &run.levels, seed, watch);
                    match (journal, outcome) {
                        (Some(journal), Ok(outcome)) => {
                            journal.append(number, seed, &outcome)?;
                            // The thread that syncs is gone only if it failed, and says so itself.
                            let _ = written.send(());
                            Ok(None)
                        }
                        (_, outcome) => outcome.map(|outcome| Some(Box::new(outcome))),
                    }
                }
            };
            options.progress.job_done();
            Ok(outcome)
        };
        // One by one: jobs are long and of unequal length.
        let results: Result<Vec<_>, StoreError> =
            threads.install(|| jobs.par_iter().with_max_len(1).map(job).collect());
        drop(written);
        if let Some(syncing) = syncing {
            syncing.join().expect("syncing does not panic")?;
        }
        Ok(results?)
    })
}

/// As many threads as were asked for, one per processor by default, but not more
/// than `most`: threads without work would only cost memory.
pub(crate) fn threads(jobs: Option<usize>, most: usize) -> Result<rayon::ThreadPool, RunError> {
    let wanted =
        jobs.or_else(|| std::thread::available_parallelism().ok().map(Into::into)).unwrap_or(1);
    let jobs = wanted.clamp(1, most.max(1));
    rayon::ThreadPoolBuilder::new()
        .num_threads(jobs)
        .thread_name(|index| format!("sim-{index}"))
        .build()
        .map_err(|error| RunError::Threads { jobs, reason: error.to_string() })
}

/// `outcomes` are in order of jobs: run by run, seed by seed.
#[cfg(feature = "live")]
pub(crate) fn summarise(experiment: &Experiment, outcomes: &[RunOutcome]) -> Summary {
    let mut found = Found::of(experiment);
    for (run, outcomes) in experiment.runs.iter().zip(outcomes.chunks(experiment.seeds.len())) {
        found.add(run, outcomes);
    }
    found.summary()
}

/// What is known of an experiment whose runs are added one after the other.
struct Found<'a> {
    experiment: &'a Experiment,
    digest: Sha256,
    digests: Vec<String>,
    metrics: Vec<BTreeMap<String, MetricValue>>,
    distributions: Vec<LatencyCurves>,
}

impl<'a> Found<'a> {
    fn of(experiment: &'a Experiment) -> Self {
        let points = experiment.points.len();
        Self {
            experiment,
            digest: Sha256::new(),
            digests: Vec::new(),
            metrics: vec![BTreeMap::new(); points],
            distributions: vec![LatencyCurves::new(); points],
        }
    }

    /// Adds the next run, with its outcomes seed by seed.
    fn add(&mut self, run: &RunSpec, of_seeds: &[RunOutcome]) {
        for outcome in of_seeds {
            self.digest.update(outcome.digest);
            self.digests.push(hex(&outcome.digest));
        }
        for (level, &point) in run.points.iter().enumerate() {
            let metrics: Vec<&Metrics> =
                of_seeds.iter().map(|outcome| &outcome.levels[level]).collect();
            self.metrics[point] = aggregate(&metrics, &self.experiment.seeds);
            self.distributions[point] = distributions(level, of_seeds);
        }
    }

    fn summary(self) -> Summary {
        let points = self.experiment.points.iter().cloned().zip(self.metrics);
        Summary {
            schema_version: SCHEMA_VERSION,
            provenance: provenance(self.experiment, self.digest),
            points: points.map(|(params, metrics)| Point { params, metrics }).collect(),
        }
    }
}

fn provenance(experiment: &Experiment, digest: Sha256) -> Provenance {
    Provenance {
        experiment: experiment.name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        config_hash: experiment.config_hash.clone(),
        seeds: experiment.seeds.clone(),
        digest: hex(&digest.finalize()),
        follows: follows(experiment),
        step_times: experiment.marks.clone(),
    }
}

/// Whose rules the policies of all runs follow, by policy.
fn follows(experiment: &Experiment) -> BTreeMap<String, BTreeSet<String>> {
    let mut follows: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for run in &experiment.runs {
        let policy = &run.settings.policy;
        if let Some(version) = policy.follows() {
            follows.entry(policy.name().to_owned()).or_default().insert(version);
        }
    }
    follows
}

/// The distributions of a level over the seeds.
fn distributions(level: usize, outcomes: &[RunOutcome]) -> LatencyCurves {
    let of_seeds = || outcomes.iter().filter_map(|outcome| outcome.curves.get(level));
    let names: BTreeSet<&String> = of_seeds().flat_map(|curves| curves.keys()).collect();
    let distribution = |name: &String| {
        let curves: Vec<&Vec<f64>> = of_seeds().filter_map(|c| c.get(name)).collect();
        Some((name.clone(), distribution(&curves)?))
    };
    names.into_iter().filter_map(distribution).collect()
}

/// Share by share the mean and interval over seeds.
fn distribution(curves: &[&Vec<f64>]) -> Option<LatencyCurve> {
    let at = |share: usize| {
        let values: Vec<f64> = curves.iter().filter_map(|c| c.get(share).copied()).collect();
        stats::mean_ci95(&values)
    };
    let found: Option<Vec<_>> = (0..SHARES.len()).map(at).collect();
    let found = found?;
    let bounds = |end: usize| found.iter().map(|(_, ci)| Some(ci.as_ref()?[end])).collect();
    let ci95: Option<[Vec<f64>; 2]> = Option::zip(bounds(0), bounds(1)).map(<[_; 2]>::from);
    Some(LatencyCurve { mean: found.iter().map(|(mean, _)| *mean).collect(), ci95 })
}

/// Every metric that any seed knows, over the seeds.
fn aggregate(of_seeds: &[&Metrics], seeds: &[u64]) -> BTreeMap<String, MetricValue> {
    let names: BTreeSet<&String> = of_seeds.iter().flat_map(|level| level.keys()).collect();
    let metric = |name: &String| {
        let value = |(level, seed): (&&Metrics, &u64)| {
            let value = level.get(name).copied().flatten();
            assert!(
                value.is_none_or(f64::is_finite),
                "metric {name} is {value:?} with seed {seed}: undefined metrics are left out"
            );
            value
        };
        let per_seed: Vec<Option<f64>> = of_seeds.iter().zip(seeds).map(value).collect();
        (name.clone(), MetricValue::of(per_seed))
    };
    names.into_iter().map(metric).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::{LoadOptions, tests::GOOD};
    use std::path::Path;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn good(overrides: &[&str]) -> Experiment {
        let overrides = overrides.iter().map(|&argument| argument.to_owned()).collect();
        let options = LoadOptions { overrides, ..LoadOptions::default() };
        Experiment::parse(Path::new("demo.toml"), GOOD, &options).expect("valid")
    }

    fn summary(overrides: &[&str], jobs: Option<usize>) -> Summary {
        let options = RunOptions { jobs, ..RunOptions::default() };
        run(&good(overrides), options).expect("runs").summary
    }

    #[test]
    fn any_number_of_threads_gives_the_same_bytes() {
        let with = |jobs| {
            let summary = summary(&["measure.seeds=5"], jobs);
            serde_json::to_string(&summary).expect("JSON")
        };
        let one = with(Some(1));
        for jobs in [Some(2), Some(3), Some(64), None] {
            assert_eq!(with(jobs), one);
        }
    }

    #[test]
    fn points_get_the_levels_that_belong_to_them() {
        for summary in [summary(&["measure.levels=independent"], None), summary(&[], None)] {
            assert_eq!(summary.points.len(), 4);
            for point in &summary.points {
                let level = point.params["workload.concurrency"].as_f64().expect("a number");
                let inflight = point.metrics["inflight_mean"].mean.expect("known");
                let workers = 3.0;
                // Short pauses between turns keep a few conversations out of flight.
                let share = inflight * workers / level;
                assert!((0.3..=1.0).contains(&share), "{share} of {level} in flight");
            }
        }
    }

    #[test]
    fn a_seed_without_a_value_is_left_out_of_the_mean() {
        let of = |value: Option<f64>| Metrics::from([("ttft_ms_p50".to_owned(), value)]);
        let (known, unknown) = (of(Some(3.0)), of(None));
        let metric = &aggregate(&[&unknown, &known], &[2, 9])["ttft_ms_p50"];
        assert_eq!(metric.per_seed, [None, Some(3.0)]);
        assert_eq!(metric.mean, Some(3.0));
        assert_eq!(metric.ci95, None);
    }

    #[test]
    fn the_order_of_seeds_is_the_order_of_values() {
        let (a, b) =
            (summary(&["measure.seeds=[2, 9]"], None), summary(&["measure.seeds=[9, 2]"], None));
        assert_eq!(a.provenance.seeds, [2, 9]);
        let of = |summary: &Summary| summary.points[0].metrics["ttft_ms_p50"].per_seed.clone();
        assert_eq!(of(&a), of(&b).into_iter().rev().collect::<Vec<_>>());
        assert_ne!(a.provenance.digest, b.provenance.digest);
    }

    #[test]
    fn a_run_that_may_be_stopped_is_the_same_run() {
        let experiment = good(&["measure.seeds=2"]);
        let stop = Stop::default();
        let stoppable = run(&experiment, RunOptions::default().stop(&stop)).expect("runs");
        let plain = run(&experiment, RunOptions::default()).expect("runs");
        assert_eq!(stoppable.digests, plain.digests);
        assert_eq!(stoppable.summary, plain.summary);
        stop.ask();
        let stopped = run(&experiment, RunOptions::default().stop(&stop)).expect_err("stops");
        assert!(matches!(stopped, RunError::Stopped), "{stopped}");
    }

    #[test]
    fn a_job_may_stop_the_run_that_it_is_part_of() {
        struct Once(Stop, AtomicUsize);
        impl JobProgress for Once {
            fn job_done(&self) {
                self.1.fetch_add(1, Ordering::Relaxed);
                self.0.ask();
            }
        }
        let once = Once(Stop::default(), AtomicUsize::new(0));
        let options = RunOptions::default().jobs(1).progress(&once).stop(&once.0);
        let stopped = run(&good(&["measure.seeds=3"]), options).expect_err("stops");
        assert!(matches!(stopped, RunError::Stopped), "{stopped}");
    }

    #[test]
    fn progress_counts_every_job_once() {
        #[derive(Default)]
        struct Count(AtomicUsize, AtomicUsize);
        impl JobProgress for Count {
            fn started(&self, jobs: usize) {
                self.0.store(jobs, Ordering::Relaxed);
            }
            fn job_done(&self) {
                self.1.fetch_add(1, Ordering::Relaxed);
            }
        }
        let count = Count::default();
        let options = RunOptions {
            jobs: Some(2),
            progress: &count,
            keep_requests: true,
            stop: None,
            journal: None,
        };
        let outcome = run(&good(&["measure.seeds=3"]), options).expect("runs");
        assert_eq!(outcome.requests.len(), 6);
        assert!(outcome.requests.iter().all(|simulation| !simulation.records.is_empty()));
        assert_eq!(count.0.into_inner(), 6);
        assert_eq!(count.1.into_inner(), 6);
    }
}
