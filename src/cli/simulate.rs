//! What commands that simulate have in common: experiments loaded, run and saved.

use super::args::{ExperimentArgs, OutputArgs};
use super::error::CliError;
use super::interrupt::Interrupt;
use super::progress::Bar;
use super::talk::{detail, note, print, say, warn};
use kv_router_sim::experiment::{Experiment, LoadOptions, RunOptions};
use kv_router_sim::report::judge::{terms::Terms, tuning::Tuning};
use kv_router_sim::report::render::table;
use kv_router_sim::report::view::plain;
use kv_router_sim::results::{InColumns, ResultFolder, Results, RunInto, Saved};
use kv_router_sim::settings::Invalid;
use std::path::PathBuf;

/// What a sweep says about settings.
pub(super) fn print_tuning(results: &Results) -> Result<(), CliError> {
    let Results { summary, details, .. } = results;
    let best = details.tuned_for.as_deref().expect("a sweep is tuned for a metric");
    print(&table::head(summary))?;
    print(&Tuning::new(summary, best)?.report(&Terms::of(details), table::WIDTH))?;
    print(&format!("digest {}\n", summary.provenance.digest))
}

/// All that the arguments and `more` change in the experiment's file. `--over` is in `more`,
/// as axes.
///
/// # Errors
/// If two arguments set one key.
pub(super) fn overrides(args: &ExperimentArgs, more: Vec<String>) -> Result<Vec<String>, CliError> {
    let seeds = args.seeds.map(|n| (format!("--seeds {n}"), format!("measure.seeds={n}")));
    let set = args.overrides.iter().map(|set| (format!("--set {set}"), set.clone()));
    let over = more.into_iter().map(|axis| {
        let typed = axis.strip_prefix("sweep.").unwrap_or(&axis);
        (format!("--over {typed}"), axis)
    });
    let (typed, overrides): (Vec<String>, Vec<String>) = set.chain(over).chain(seeds).unzip();
    check_once(&typed, &overrides)?;
    Ok(overrides)
}

/// Refuses two `--set` for one key.
pub(super) fn check_set(set: &[String]) -> Result<(), CliError> {
    let typed: Vec<String> = set.iter().map(|set| format!("--set {set}")).collect();
    check_once(&typed, set)
}

/// Refuses two arguments for one key, also one for its value and one for its axis.
fn check_once(typed: &[String], overrides: &[String]) -> Result<(), CliError> {
    let key = |set: &String| {
        let key = set.split_once('=').map_or(set.as_str(), |(key, _)| key).trim();
        key.strip_prefix("sweep.").unwrap_or(key).to_owned()
    };
    let keys: Vec<String> = overrides.iter().map(key).collect();
    for (at, key) in keys.iter().enumerate() {
        if let Some(before) = keys[..at].iter().position(|other| other == key) {
            let both = format!("{} and {}", typed[before], typed[at]);
            let allowed = "given once: one of the two would be ignored";
            return Err(Invalid::new(key, both, allowed).into());
        }
    }
    Ok(())
}

/// The experiment of the arguments' file with these overrides; says what there is to
/// know of it.
pub(super) fn load(
    args: &ExperimentArgs,
    overrides: Vec<String>,
    traces: Option<PathBuf>,
) -> Result<Experiment, CliError> {
    let experiment = load_again(args, overrides, traces)?;
    say_notices(&experiment);
    Ok(experiment)
}

/// Says what there is to know of an experiment, also which commands it runs: to be said
/// before anything runs.
pub(super) fn say_notices(experiment: &Experiment) {
    experiment.notices.iter().for_each(|notice| note(notice));
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

/// Simulates what is not done yet, saves the results and says so; gives them with their
/// folder. Whatever can be wrong is found out before the first simulation.
pub(super) fn execute(
    experiment: &Experiment,
    options: RunInto<'_>,
    default_path: PathBuf,
    args: OutputArgs,
) -> Result<(Results, PathBuf, Option<InColumns>), CliError> {
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
    #[cfg(feature = "columns")]
    if args.columns {
        options = options.in_columns();
    }
    let interrupt = Interrupt::listen(farewell(&bar, !options.keeps_requests(), &folder));
    let done = folder.run(experiment, &options);
    let (_, all) = bar.count();
    bar.clear();
    detail(&format!("{all} simulations in {:.2} s", bar.elapsed().as_secs_f64()));
    let _writing = interrupt.hold();
    let done = done.inspect_err(|_| {
        if path.join("journal.jsonl").is_file() {
            let path = path.display();
            say(&format!("what is done is kept in {path}; the same command goes on from there"));
        }
    });
    let Saved { results, report, contradicts, in_columns, .. } =
        folder.save(experiment, done?, &options)?;
    say(&format!("saved in {}", path.display()));
    report?;
    if let Some(before) = contradicts {
        warn(&format!(
            "version {} gave other results before (digest {}): built from other code, or on \
             another platform",
            before.version, before.digest
        ));
    }
    Ok((results, path, in_columns))
}

/// What there is to say of results in columns: how many points there are, where they are,
/// and which is the best of a search.
pub(super) fn print_columns(results: &Results, found: &InColumns) -> Result<(), CliError> {
    let Results { summary, details, .. } = results;
    let provenance = &summary.provenance;
    let (points, seeds) = (found.points, provenance.seeds.len());
    print(&format!("{}: {points} points, {seeds} seeds, in columns\n\n", provenance.experiment))?;
    if let (Some(name), Some(best)) = (&details.tuned_for, &found.best) {
        let params = best.params.iter().map(|(key, value)| format!("{key} {}", plain(value)));
        let params = params.collect::<Vec<_>>().join(", ");
        let mean = best.metrics.get(name).and_then(|metric| metric.mean).unwrap_or(f64::NAN);
        print(&format!(
            "Best mean of {name}: {mean} with {params}. Which others may be as good is not said of \
             results in columns: sweep around it.\n\n"
        ))?;
    }
    print(&format!("digest {}\n", provenance.digest))
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
