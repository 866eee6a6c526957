//! `sim run` and `sim sweep`: the same runs, reported in two ways.

use super::args::{ExperimentArgs, OutputArgs, RunArgs, SweepArgs};
use super::interrupt::Interrupt;
use super::progress::Bar;
use super::talk::{detail, note, say, warn};
use super::{CliError, argument, print, shards};
use kv_router_sim::experiment::timeline::TimelineQuery;
use kv_router_sim::experiment::{Experiment, LoadOptions, RunOptions, check_measured};
use kv_router_sim::metrics::{directed, full_name};
use kv_router_sim::report::judge::terms::{Terms, parse_worth};
use kv_router_sim::report::judge::{published::Comparison, tuning::Tuning};
use kv_router_sim::report::render::{table, timeline::TIMELINE_FILE};
use kv_router_sim::report::view::{View, details::WORTH, published::Published};
use kv_router_sim::results::{ResultFolder, Results, RunInto, Saved};
use kv_router_sim::time::SimTime;
use std::path::PathBuf;

/// Runs an experiment, prints its table and digest, saves everything.
pub(super) fn run(args: RunArgs, traces: Option<PathBuf>) -> Result<(), CliError> {
    let overrides = overrides(&args.experiment, Vec::new());
    let experiment = load(&args.experiment, overrides.clone(), traces)?;
    let published = Published::of(&experiment)?;
    let worth = args.worth.as_deref().map_or(Ok(WORTH), parse_worth).map_err(argument)?;
    let mut options = RunInto::new(&args.experiment.file, overrides);
    options.jobs = args.jobs.count();
    (options.published, options.worth) = (published, worth);
    let folder = ResultFolder::default_path(&experiment.name);
    let timeline = args.timeline.timeline.then_some(args.timeline.window);
    let Results { summary, details, .. } =
        execute(&experiment, options, folder, args.output, timeline)?;
    let view = View::new(&summary, None)?;
    let published = details.published.as_ref();
    let comparison = published.map(|published| Comparison::new(&view, published));
    let terms = Terms::of(&details);
    print(&table::report(&view, &terms, comparison.as_ref(), table::WIDTH))?;
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
    let folder = ResultFolder::default_path(&format!("{}{name}", experiment.name));
    let best = full_name(&args.best);
    directed("--best", best)?;
    check_measured("--best", best, &experiment)?;
    let mut options = RunInto::new(&args.experiment.file, overrides);
    options.jobs = args.jobs.count();
    options.tuned_for = Some(best.to_owned());
    if let Some(shard) = &args.shard {
        let shard = shards::parse(shard, |name| std::env::var(name).ok())?;
        return shards::run(&experiment, options, (shard, &folder), &args.output);
    }
    print_tuning(&execute(&experiment, options, folder, args.output, None)?)
}

/// What a sweep says about settings.
pub(super) fn print_tuning(results: &Results) -> Result<(), CliError> {
    let Results { summary, details, .. } = results;
    let best = details.tuned_for.as_deref().expect("a sweep is tuned for a metric");
    print(&table::head(summary))?;
    print(&Tuning::new(summary, best)?.report(&Terms::of(details), table::WIDTH))?;
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
    Ok(Experiment::load(&args.file, &load_options(overrides, traces))?)
}

/// What the command line adds to an experiment's file.
pub(super) fn load_options(overrides: Vec<String>, traces: Option<PathBuf>) -> LoadOptions {
    let mut options = LoadOptions::default().set_all(overrides);
    (options.traces, options.overrides_called) = (traces, "--set");
    options
}

/// So many simulations at the same time, shown by a bar.
pub(super) fn with_progress(jobs: Option<usize>, bar: &Bar) -> RunOptions<'_> {
    let mut options = RunOptions::default();
    (options.jobs, options.progress) = (jobs, bar);
    options
}

/// Simulates what is not done yet, saves the results and says so. Whatever can be
/// wrong is found out before the first simulation. `timeline` is `Some` if one is
/// wanted, and then of which time.
fn execute(
    experiment: &Experiment,
    options: RunInto<'_>,
    default_path: PathBuf,
    args: OutputArgs,
    timeline: Option<Option<(SimTime, SimTime)>>,
) -> Result<Results, CliError> {
    detail(&format!(
        "{}: {} points, {} seeds, configuration {}",
        options.file.display(),
        experiment.points.len(),
        experiment.seeds.len(),
        experiment.config_hash
    ));
    let path = args.out.unwrap_or(default_path);
    let open = if args.force { ResultFolder::replace } else { ResultFolder::resume };
    let folder = open(&path, experiment)?;
    let bar = Bar::new();
    let mut options = options.progress(&bar);
    (options.requests, options.aiperf) = (args.requests, args.aiperf);
    options.figures = !args.no_figures;
    let interrupt = Interrupt::listen(farewell(&bar, !options.keeps_requests(), &folder));
    let done = folder.run(experiment, &options);
    let (_, all) = bar.count();
    bar.clear();
    detail(&format!("{all} simulations in {:.2} s", bar.elapsed().as_secs_f64()));
    let _writing = interrupt.hold();
    let Saved { results, report, contradicts, .. } = folder.save(experiment, done?, &options)?;
    say(&format!("saved in {}", path.display()));
    report?;
    if let Some(before) = contradicts {
        warn(&format!(
            "version {} gave other results before (digest {}): built from other code, or on \
             another platform",
            before.version, before.digest
        ));
    }
    if let Some(window) = timeline {
        let choice = TimelineQuery { window, ..TimelineQuery::default() };
        super::timeline::write(experiment, &results, &choice, &path.join(TIMELINE_FILE))?;
    }
    Ok(results)
}

/// What Ctrl-C has to say of a run into `folder`, once it has tidied up.
pub(super) fn farewell(
    bar: &Bar,
    is_kept: bool,
    folder: &ResultFolder,
) -> impl Fn() -> String + Send + 'static {
    let (bar, footprint, path) = (bar.clone(), folder.footprint(), folder.path().to_owned());
    move || {
        // Before the bar goes: one that is finished counts all simulations as done.
        let (done, all) = bar.count();
        bar.clear();
        footprint.remove();
        let count = format!("{done} of {all} simulations");
        if is_kept {
            let path = path.display();
            format!("{count} are done and kept in {path}; the same command goes on from there")
        } else {
            format!("{count} were done; nothing is kept of a run with --requests or --aiperf")
        }
    }
}
