//! `sim run`.

use super::args::RunArgs;
use super::progress::Bar;
use super::{CliError, print, say};
use kv_router_sim::experiment::{
    self, Experiment, LoadOptions, Outcome, RunOptions, SUMMARY_FILE, SimulationRequests, Store,
    results::Summary,
};
use kv_router_sim::plot::{self, Choice, Figure};
use kv_router_sim::report::{
    compare::Comparison,
    over_time::OverTime,
    published::{Published, PublishedSettings},
    requests, save, table,
    view::View,
};
use kv_router_sim::time::SimTime;
use std::path::PathBuf;

/// Runs an experiment, prints its table and digest, saves everything.
pub(super) fn run(args: RunArgs, traces: Option<PathBuf>) -> Result<(), CliError> {
    let mut overrides = args.overrides;
    overrides.extend(args.seeds.map(|n| format!("measure.seeds={n}")));
    // Whatever can be wrong is found out before the first simulation.
    let experiment = Experiment::load(&args.experiment, &LoadOptions { overrides, traces })?;
    let published = match experiment.published::<PublishedSettings>()? {
        Some(settings) => Some(Published::read(&settings, experiment.folder())?),
        None => None,
    };
    let folder = args.out.unwrap_or_else(|| Store::default_folder(&experiment.name));
    let store = Store::open(&folder, &experiment.config_hash, args.force)?;

    let bar = Bar::new();
    let options = RunOptions {
        jobs: args.jobs.map(usize::from),
        progress: &bar,
        keep_requests: args.requests,
    };
    let outcome = experiment::run(&experiment, options);
    bar.clear();
    let Outcome { summary, requests: simulations } = outcome?;

    if !args.no_figures {
        for figure in plot::figures(&summary, published.as_ref(), &Choice::default())? {
            store.write(&format!("{}.svg", figure.name), figure.svg.as_bytes())?;
            store.write(&format!("{}.png", figure.name), &figure.png)?;
        }
    }
    if args.requests {
        if !args.no_figures {
            let figure = workers_over_time(&experiment, &summary, &simulations);
            store.write(&format!("{}.svg", figure.name), figure.svg.as_bytes())?;
            store.write(&format!("{}.png", figure.name), &figure.png)?;
        }
        store.write("requests.csv", requests::to_csv(&simulations).as_bytes())?;
    }
    store.write("summary.csv", save::to_csv(&summary).as_bytes())?;
    // Last: it says that the folder is complete.
    store.write(SUMMARY_FILE, save::to_json(&summary).as_bytes())?;

    let view = View::new(&summary, None)?;
    let comparison = published.as_ref().map(|published| Comparison::new(&view, published));
    print(&table::report(&view, comparison.as_ref(), table::WIDTH))?;
    print(&format!("digest {}\n", summary.provenance.digest))?;
    say(&format!("saved in {}", store.folder().display()));
    warn_if_different(&store, &summary);
    Ok(())
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
            let workers = run.settings.cluster.workers;
            let until = run.duration().unwrap_or_else(|| simulation.last_end());
            let begin = SimTime::ZERO + run.settings.measure.warmup;
            OverTime::new(simulation, workers, (begin, until.max(begin)), MOMENTS)
        })
        .collect();
    let limit = experiment.runs.iter().map(|run| run.settings.engine.max_num_seqs).max();
    plot::workers_over_time(&summary.provenance, &rows, limit.unwrap_or_default())
}

/// The same version must give the same results for the same configuration.
fn warn_if_different(store: &Store, summary: &Summary) {
    let now = &summary.provenance;
    let Some(before) = store.previous().filter(|before| before.version == now.version) else {
        return;
    };
    if before.digest != now.digest {
        say(&format!(
            "warning: version {} gave other results before (digest {}): built from other code, or \
             on another platform",
            now.version, before.digest
        ));
    }
}
