//! `sim run` and `sim sweep`: the same runs, told in two ways.

use super::args::{ExperimentArgs, OutputArgs, RunArgs, SweepArgs};
use super::interrupt::Interrupt;
use super::progress::Bar;
use super::results::{Figures, Results};
use super::talk::{detail, note, warn};
use super::{CliError, print, say};
use kv_router_sim::experiment::check_measured;
use kv_router_sim::experiment::{
    self, Experiment, Journal, LoadOptions, Outcome, RUNS_FILE, RunOptions, RunSpec, SUMMARY_FILE,
    SimulationRequests, Store,
    results::{SCHEMA_VERSION, SavedRuns, Summary},
};
use kv_router_sim::metrics::directed;
use kv_router_sim::report::judge::{published::Comparison, tuning::Tuning};
use kv_router_sim::report::render::{aiperf, requests, save, table, timeline::TIMELINE_FILE};
use kv_router_sim::report::view::{
    self, View,
    details::{DETAILS_FILE, Details},
    fleet_over_time::{FleetsOverTime, fleets_over_time},
    over_time::OverTime,
    published::Published,
};
use kv_router_sim::time::{SimDuration, SimTime};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// Runs an experiment, prints its table and digest, saves everything.
pub(super) fn run(args: RunArgs, traces: Option<PathBuf>) -> Result<(), CliError> {
    let overrides = overrides(&args.experiment, Vec::new());
    let experiment = load(&args.experiment, overrides.clone(), traces)?;
    let published = Published::of(&experiment)?;
    let jobs = args.jobs.count();
    let window = args.timeline.timeline.then_some(args.timeline.window);
    let told = Told { published: published.clone(), tuned_for: None, timeline: window };
    let folder = Store::default_folder(&experiment.name);
    let source = Source { args: &args.experiment, overrides, jobs };
    let summary = execute(&experiment, source, folder, args.output, told)?;
    let view = View::new(&summary, None)?;
    let comparison = published.as_ref().map(|published| Comparison::new(&view, published));
    print(&table::report(&view, comparison.as_ref(), table::WIDTH))?;
    print(&format!("digest {}\n", summary.provenance.digest))
}

/// Runs an experiment with the axes of `--over`, prints what it says about
/// settings, saves everything.
pub(super) fn sweep(args: SweepArgs, traces: Option<PathBuf>) -> Result<(), CliError> {
    let mut axes: Vec<String> = args.over.iter().map(|over| format!("sweep.{over}")).collect();
    if args.paired {
        let keys = args.over.iter().filter_map(|over| over.split_once('='));
        let keys: Vec<String> = keys.map(|(key, _)| format!("{:?}", key.trim())).collect();
        axes.push(format!("sweep.paired=[{}]", keys.join(", ")));
    }
    let overrides = overrides(&args.experiment, axes);
    let experiment = load(&args.experiment, overrides.clone(), traces)?;
    // Results of the experiment as its file has it may be beside those of a sweep.
    let name = if args.over.is_empty() { "" } else { "-sweep" };
    let folder = Store::default_folder(&format!("{}{name}", experiment.name));
    directed("--best", &args.best)?;
    check_measured("--best", &args.best, &experiment)?;
    let told = Told { published: None, tuned_for: Some(args.best.clone()), timeline: None };
    let source = Source { args: &args.experiment, overrides, jobs: args.jobs.count() };
    let summary = execute(&experiment, source, folder, args.output, told)?;
    print(&table::head(&summary))?;
    print(&Tuning::new(&summary, &args.best)?.report(table::WIDTH))?;
    print(&format!("digest {}\n", summary.provenance.digest))
}

/// All that the arguments and `more` change in the experiment's file.
pub(super) fn overrides(args: &ExperimentArgs, more: Vec<String>) -> Vec<String> {
    let mut overrides = args.overrides.clone();
    overrides.extend(more);
    overrides.extend(args.seeds.map(|n| format!("measure.seeds={n}")));
    overrides
}

/// The experiment of the arguments' file with these overrides; says what there is to
/// know of it.
pub(super) fn load(
    args: &ExperimentArgs,
    overrides: Vec<String>,
    traces: Option<PathBuf>,
) -> Result<Experiment, CliError> {
    let experiment = load_again(args, overrides, traces)?;
    experiment.notices.iter().for_each(|notice| note(notice));
    Ok(experiment)
}

/// As [`load`], for an experiment of which everything has been said.
pub(super) fn load_again(
    args: &ExperimentArgs,
    overrides: Vec<String>,
    traces: Option<PathBuf>,
) -> Result<Experiment, CliError> {
    let options = LoadOptions { overrides, traces, ..LoadOptions::default() };
    Ok(Experiment::load(&args.file, &options)?)
}

/// Where an experiment comes from, and how it is to run.
struct Source<'a> {
    args: &'a ExperimentArgs,
    /// All that was changed in its file.
    overrides: Vec<String>,
    jobs: Option<usize>,
}

/// What commands want told of their results, besides the summary.
struct Told {
    /// Numbers to compare with.
    published: Option<Published>,
    /// The metric that settings are compared by.
    tuned_for: Option<String>,
    /// Whether a timeline is wanted, and of which time.
    timeline: Option<Option<(SimTime, SimTime)>>,
}

/// Simulates what is not done yet and saves the results, the summary last.
/// Whatever can be wrong is found out before the first simulation.
fn execute(
    experiment: &Experiment,
    source: Source<'_>,
    default_folder: PathBuf,
    args: OutputArgs,
    told: Told,
) -> Result<Summary, CliError> {
    let folder = args.out.unwrap_or(default_folder);
    detail(&format!(
        "{}: {} points, {} seeds, configuration {}",
        source.args.file.display(),
        experiment.points.len(),
        experiment.seeds.len(),
        experiment.config_hash
    ));
    let store = Store::open(&folder, &experiment.config_hash, args.force)?;
    // The journal does not hold requests.
    let keep_requests = args.requests || args.aiperf;
    let journal = if keep_requests { None } else { Some(Journal::open(&store, &build())?) };
    let found = journal.as_ref().map_or(0, Journal::found);
    if found > 0 {
        let all = experiment.simulations();
        say(&format!("going on: {found} of {all} simulations were done before"));
    }
    let bar = Bar::new();
    let interrupt = Interrupt::listen(farewell(&bar, journal.is_some(), store.folder()));
    let options =
        RunOptions { jobs: source.jobs, progress: &bar, keep_requests, journal: journal.as_ref() };
    let outcome = experiment::run(experiment, options);
    bar.clear();
    let (_, all) = bar.count();
    detail(&format!("{all} simulations in {:.2} s", bar.elapsed().as_secs_f64()));
    let _writing = interrupt.hold();
    if let (Err(experiment::RunError::Simulation { .. }), Some(journal)) = (&outcome, &journal) {
        // It would fail again.
        journal.remove()?;
    }
    let Outcome { summary, distributions, requests: simulations, digests } = outcome?;
    let Told { published, tuned_for, timeline } = told;
    let mut details = Details::new(experiment, published, tuned_for, distributions);
    if args.requests {
        details.workers_over_time = over_time(experiment, &simulations);
        details.fleets_over_time = fleets(experiment, &simulations);
    }
    let runs = SavedRuns {
        schema_version: SCHEMA_VERSION,
        experiment: source.args.file.display().to_string(),
        overrides: source.overrides,
        digests,
    };
    let saved = Results { summary, details, runs };
    // A report that cannot be written must not cost the numbers: it fails at the end.
    let report = match args.no_figures {
        true => Ok(()),
        false => saved.write_report(store.folder(), Figures::Write),
    };
    if args.requests {
        store.write("requests.csv", requests::to_csv(&simulations).as_bytes())?;
    }
    if args.aiperf {
        write_aiperf(&store, experiment, &simulations)?;
    }
    let Results { summary, details, runs } = &saved;
    store.write("summary.csv", save::to_csv(summary).as_bytes())?;
    store.write(DETAILS_FILE, details.to_json().as_bytes())?;
    store.write(RUNS_FILE, save::json(runs).as_bytes())?;
    // Last: it says that the folder is complete.
    store.write(SUMMARY_FILE, save::to_json(summary).as_bytes())?;
    if let Some(journal) = &journal {
        journal.remove()?;
    }
    say(&format!("saved in {}", store.folder().display()));
    report?;
    warn_if_different(&store, summary);
    if let Some(window) = timeline {
        let choice = experiment::timeline::Choice { window, ..Default::default() };
        let file = store.folder().join(TIMELINE_FILE);
        super::timeline::write(experiment, &saved, &choice, &file)?;
    }
    Ok(saved.summary)
}

/// A folder for every simulation, called by its number, parameters and seed.
fn write_aiperf(
    store: &Store,
    experiment: &Experiment,
    simulations: &[SimulationRequests],
) -> Result<(), CliError> {
    let runs = experiment.runs.iter().flat_map(|run| vec![run; experiment.seeds.len()]);
    for (number, (simulation, run)) in (1..).zip(simulations.iter().zip(runs)) {
        let values = simulation.params.values().map(view::plain).collect::<Vec<_>>().join("-");
        let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' };
        let values: String = values.chars().map(plain).take(80).collect();
        let folder = format!("aiperf/{number:03}-{values}-seed{}", simulation.seed);
        let warmup = run.settings.measure.warmup;
        let (json, csv) = aiperf::summary(simulation, warmup);
        let files = [
            ("profile_export.jsonl", aiperf::records(simulation, warmup)),
            ("profile_export_aiperf.json", json),
            ("profile_export_aiperf.csv", csv),
        ];
        for (name, text) in files {
            store.write(&format!("{folder}/{name}"), text.as_bytes())?;
        }
    }
    Ok(())
}

/// What Ctrl-C has to say of a run.
fn farewell(bar: &Bar, is_kept: bool, folder: &Path) -> impl Fn() -> String + Send + 'static {
    let (bar, folder) = (bar.clone(), folder.display().to_string());
    move || {
        bar.clear();
        let (done, all) = bar.count();
        if is_kept {
            format!(
                "{done} of {all} simulations are done and kept in {folder}; the same command goes on \
                 from there"
            )
        } else {
            "nothing is kept of a run with --requests or --aiperf".to_owned()
        }
    }
}

/// Moments of a simulation that a figure shows: about one per point of paper.
const MOMENTS: u32 = 421;

/// The most simulations that are looked at over time; no figure shows more.
const MOST_OVER_TIME: usize = 6;

/// The first seed's simulations, worker by worker.
fn over_time(experiment: &Experiment, simulations: &[SimulationRequests]) -> Vec<OverTime> {
    let first = experiment.seeds.first();
    let shown = simulations.iter().filter(|simulation| Some(&simulation.seed) == first);
    let over_time = |(simulation, run): (&SimulationRequests, &RunSpec)| {
        let workers = run.settings.cluster.slots();
        let until = run.duration().unwrap_or_else(|| simulation.last_end());
        let begin = SimTime::ZERO + run.settings.measure.warmup;
        let mut seen = OverTime::new(simulation, workers, (begin, until.max(begin)), MOMENTS);
        // Levels in sequence are one simulation.
        if let (Some(level), [from, .., to]) =
            (seen.params.get_mut("workload.concurrency"), run.levels.as_slice())
        {
            *level = format!("{from} to {to} in turn").into();
        }
        seen
    };
    shown.zip(&experiment.runs).take(MOST_OVER_TIME).map(over_time).collect()
}

/// Time over which the figure of a fleet that changes takes its values.
const INTERVAL: SimDuration = SimDuration::from_secs(10);

/// How a fleet served while it changed; nothing if it does not.
fn fleets(experiment: &Experiment, simulations: &[SimulationRequests]) -> Option<FleetsOverTime> {
    let changes = |run: &RunSpec| run.settings.cluster.plan();
    let run = experiment.runs.iter().find(|run| !changes(run).is_empty())?;
    let last = || simulations.iter().map(SimulationRequests::last_end).max();
    let until = run.duration().or_else(last).unwrap_or(SimTime::ZERO);
    let begin = SimTime::ZERO + run.settings.measure.warmup;
    let changes = changes(run)
        .changes
        .iter()
        .map(|change| (change.at.as_secs(), format!("{} of {}", change.what, change.worker)))
        .collect();
    let lines = fleets_over_time(simulations, (begin, until.max(begin)), INTERVAL);
    Some(FleetsOverTime { lines, changes })
}

/// Tells this program from others of its version: what another one began, this
/// one must not go on with.
fn build() -> String {
    let file = std::env::current_exe().and_then(std::fs::metadata);
    let modified = |file: &std::fs::Metadata| file.modified().ok()?.duration_since(UNIX_EPOCH).ok();
    let of_file =
        file.ok().map(|file| (file.len(), modified(&file).unwrap_or_default().as_nanos()));
    let (bytes, modified_ns) = of_file.unwrap_or_default();
    format!("{} {bytes} {modified_ns}", env!("CARGO_PKG_VERSION"))
}

/// The same version must give the same results for the same configuration.
fn warn_if_different(store: &Store, summary: &Summary) {
    let now = &summary.provenance;
    let Some(before) = store.previous().filter(|before| before.version == now.version) else {
        return;
    };
    if before.digest != now.digest {
        warn(&format!(
            "version {} gave other results before (digest {}): built from other code, or \
             on another platform",
            now.version, before.digest
        ));
    }
}
