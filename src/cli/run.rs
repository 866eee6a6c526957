//! `sim run` and `sim sweep`: the same runs, told in two ways.

use super::args::{ExperimentArgs, OutputArgs, RunArgs, SweepArgs};
use super::interrupt::Interrupt;
use super::progress::Bar;
use super::talk::{detail, warn};
use super::{CliError, print, say};
use kv_router_sim::experiment::{
    self, Experiment, Journal, LoadOptions, Outcome, RUNS_FILE, RunOptions, RunSpec, SUMMARY_FILE,
    SimulationRequests, Store,
    results::{SCHEMA_VERSION, SavedRuns, Summary},
};
use kv_router_sim::plot::{self, Choice, Figure};
use kv_router_sim::report::{
    aiperf,
    compare::Comparison,
    fleet_over_time::fleets_over_time,
    over_time::OverTime,
    published::Published,
    requests, save, table,
    tuning::Tuning,
    view::{self, View},
};
use kv_router_sim::settings::Invalid;
use kv_router_sim::time::{SimDuration, SimTime};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// Runs an experiment, prints its table and digest, saves everything.
pub(super) fn run(args: RunArgs, traces: Option<PathBuf>) -> Result<(), CliError> {
    let overrides = overrides(&args.experiment, Vec::new());
    let experiment = load(&args.experiment, overrides.clone(), traces)?;
    let published = Published::of(&experiment)?;
    let folder = Store::default_folder(&experiment.name);
    let draw = |summary: &Summary| plot::figures(summary, published.as_ref(), &Choice::default());
    let summary = execute(&experiment, &args.experiment, overrides, folder, args.output, draw)?;
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
    kv_router_sim::report::metric::check_name("--best", &args.best)?;
    let draw = |summary: &Summary| {
        let maps = plot::heat_maps(&Tuning::new(summary, &args.best)?);
        if maps.is_empty() { plot::figures(summary, None, &Choice::default()) } else { Ok(maps) }
    };
    let summary = execute(&experiment, &args.experiment, overrides, folder, args.output, draw)?;
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

/// The experiment of the arguments' file with these overrides.
pub(super) fn load(
    args: &ExperimentArgs,
    overrides: Vec<String>,
    traces: Option<PathBuf>,
) -> Result<Experiment, CliError> {
    let options = LoadOptions { overrides, traces, ..LoadOptions::default() };
    Ok(Experiment::load(&args.file, &options)?)
}

/// Simulates what is not done yet and saves the results, the summary last.
/// Whatever can be wrong is found out before the first simulation.
fn execute(
    experiment: &Experiment,
    source: &ExperimentArgs,
    overrides: Vec<String>,
    default_folder: PathBuf,
    args: OutputArgs,
    draw: impl FnOnce(&Summary) -> Result<Vec<Figure>, Invalid>,
) -> Result<Summary, CliError> {
    let folder = args.out.unwrap_or(default_folder);
    detail(&format!(
        "{}: {} points, {} seeds, configuration {}",
        source.file.display(),
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
    let options = RunOptions {
        jobs: source.jobs.map(usize::from),
        progress: &bar,
        keep_requests,
        journal: journal.as_ref(),
    };
    let outcome = experiment::run(experiment, options);
    bar.clear();
    let (_, all) = bar.count();
    detail(&format!("{all} simulations in {:.2} s", bar.elapsed().as_secs_f64()));
    let _writing = interrupt.hold();
    if let (Err(experiment::RunError::Simulation { .. }), Some(journal)) = (&outcome, &journal) {
        // It would fail again.
        journal.remove()?;
    }
    let Outcome { summary, requests: simulations, digests } = outcome?;

    if !args.no_figures {
        let mut figures = draw(&summary)?;
        if args.requests {
            figures.push(workers_over_time(experiment, &summary, &simulations));
            figures.extend(fleet_over_time(experiment, &summary, &simulations));
        }
        for figure in figures {
            store.write(&format!("{}.svg", figure.name), figure.svg.as_bytes())?;
            store.write(&format!("{}.png", figure.name), &figure.png)?;
        }
    }
    if args.requests {
        store.write("requests.csv", requests::to_csv(&simulations).as_bytes())?;
    }
    if args.aiperf {
        write_aiperf(&store, experiment, &simulations)?;
    }
    store.write("summary.csv", save::to_csv(&summary).as_bytes())?;
    let saved = SavedRuns {
        schema_version: SCHEMA_VERSION,
        experiment: source.file.display().to_string(),
        overrides,
        digests,
    };
    store.write(RUNS_FILE, save::json(&saved).as_bytes())?;
    // Last: it says that the folder is complete.
    store.write(SUMMARY_FILE, save::to_json(&summary).as_bytes())?;
    if let Some(journal) = &journal {
        journal.remove()?;
    }
    say(&format!("saved in {}", store.folder().display()));
    warn_if_different(&store, &summary);
    Ok(summary)
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

/// The first seed's simulations, worker by worker.
fn workers_over_time(
    experiment: &Experiment,
    summary: &Summary,
    simulations: &[SimulationRequests],
) -> Figure {
    let first = experiment.seeds.first();
    let shown = simulations.iter().filter(|simulation| Some(&simulation.seed) == first);
    let rows: Vec<OverTime> = shown
        .zip(&experiment.runs)
        .map(|(simulation, run)| {
            let workers = run.settings.cluster.slots();
            let until = run.duration().unwrap_or_else(|| simulation.last_end());
            let begin = SimTime::ZERO + run.settings.measure.warmup;
            OverTime::new(simulation, workers, (begin, until.max(begin)), MOMENTS)
        })
        .collect();
    let limit = experiment.runs.iter().map(|run| run.settings.engine.max_num_seqs).max();
    plot::workers_over_time(&summary.provenance, &rows, limit.unwrap_or_default())
}

/// Time over which the figure of a fleet that changes takes its values.
const INTERVAL: SimDuration = SimDuration::from_secs(10);

/// How a fleet served while it changed; none if it does not.
fn fleet_over_time(
    experiment: &Experiment,
    summary: &Summary,
    simulations: &[SimulationRequests],
) -> Option<Figure> {
    let changes = |run: &RunSpec| run.settings.cluster.plan();
    let run = experiment.runs.iter().find(|run| !changes(run).is_empty())?;
    let last = || simulations.iter().map(SimulationRequests::last_end).max();
    let until = run.duration().or_else(last).unwrap_or(SimTime::ZERO);
    let begin = SimTime::ZERO + run.settings.measure.warmup;
    let lines = fleets_over_time(simulations, (begin, until.max(begin)), INTERVAL);
    let marks: Vec<(f64, String)> = changes(run)
        .changes
        .iter()
        .map(|change| (change.at.as_secs(), format!("{} of {}", change.what, change.worker)))
        .collect();
    Some(plot::fleet_over_time(&summary.provenance, &lines, &marks))
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
