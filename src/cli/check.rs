//! `sim check`.

use super::args::JobsArgs;
use super::error::CliError;
use super::progress::Bar;
use super::simulate::{check_set, load_options, say_notices, with_progress};
use super::talk::{BAD, GOOD, highlighted, print, say};
use clap::ValueEnum;
use kv_router_sim::catalogue;
use kv_router_sim::experiment::{self, Experiment, check_writable, results::Summary, write_file};
use kv_router_sim::report::judge::{baseline::Baseline, check::Check};
use kv_router_sim::report::render::table;
use kv_router_sim::settings::Invalid;
use std::path::{Path, PathBuf};

/// Compare experiments with committed baselines; fail where routing got worse
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sim check herding-589 tied-workers-9975
  sim check tied-workers-9975 --format junit > routing.xml
  sim check tied-workers-9975 --update --baselines baselines

The baseline of DIR/NAME.toml is DIR/baselines/NAME.toml, unless --baselines names another folder.
Experiments that come with sim bring their baselines.

Exit codes: 0 passed, 1 something got worse beyond its tolerance and beyond noise, 2 usage or input
error.")]
pub(crate) struct CheckArgs {
    /// The experiments: TOML files, or names of those that come with sim
    #[arg(required = true, value_name = "EXPERIMENT")]
    pub(crate) experiments: Vec<PathBuf>,
    /// Folder of the baselines [default: `baselines` beside each experiment]
    #[arg(long, value_name = "DIR")]
    pub(crate) baselines: Option<PathBuf>,
    /// Write new baselines instead of checking; tolerances are kept
    #[arg(long)]
    pub(crate) update: bool,
    /// Set a key of every experiment
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
    #[command(flatten)]
    pub(crate) jobs: JobsArgs,
    /// Output format
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: CheckFormat,
    /// Write JUnit to this file as well
    #[arg(long, value_name = "FILE", conflicts_with = "update")]
    pub(crate) junit: Option<PathBuf>,
}

/// How a check is printed
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum CheckFormat {
    #[default]
    Text,
    Markdown,
    Junit,
}

/// Runs the experiments and holds them against their baselines, or writes
/// those; true if nothing got worse.
pub(super) fn run(args: CheckArgs, traces: Option<PathBuf>) -> Result<bool, CliError> {
    // Whatever can be wrong is found out before the first simulation.
    check_set(&args.overrides)?;
    let mut work = Vec::with_capacity(args.experiments.len());
    for file in &args.experiments {
        let options = load_options(args.overrides.clone(), traces.clone());
        let experiment = Experiment::load(file, &options)?;
        say_notices(&experiment);
        let path = baseline_path(file, args.baselines.as_deref());
        if args.update && catalogue::is_shipped(&path) {
            let allowed = "given with --update: baselines that come with sim cannot be replaced";
            return Err(Invalid::new("--baselines", "nothing", allowed).into());
        }
        let baseline = if args.update && !catalogue::is_file(&path) {
            None
        } else {
            Some(Baseline::read(&path)?)
        };
        work.push((experiment, path, baseline));
    }
    if args.update {
        for (experiment, path, before) in &work {
            let baseline =
                Baseline::new(&simulate(experiment, args.jobs.count())?, before.as_ref())?;
            write_file(path, baseline.to_toml().as_bytes())?;
            say(&format!("saved {}", path.display()));
        }
        return Ok(true);
    }
    args.junit.as_deref().map(check_writable).transpose()?;
    let mut pairs = Vec::with_capacity(work.len());
    for (experiment, _, baseline) in work {
        let summary = simulate(&experiment, args.jobs.count())?;
        pairs.extend(baseline.map(|baseline| (baseline, summary)));
    }
    let check = Check::new(&pairs);
    if let Some(file) = &args.junit {
        write_file(file, check.junit().as_bytes())?;
    }
    print(&match args.format {
        CheckFormat::Text => highlighted(
            &check.text(table::WIDTH),
            &[("\n WORSE ", BAD), ("\n better ", GOOD), ("Routing check failed", BAD)],
        ),
        CheckFormat::Markdown => check.markdown(),
        CheckFormat::Junit => check.junit(),
    })?;
    Ok(!check.failed())
}

fn simulate(experiment: &Experiment, jobs: Option<usize>) -> Result<Summary, CliError> {
    let bar = Bar::new();
    let outcome = experiment::run(experiment, with_progress(jobs, &bar));
    bar.clear();
    Ok(outcome?.summary)
}

/// `baselines/NAME.toml` beside the experiment, or in another folder.
fn baseline_path(typed: &Path, folder: Option<&Path>) -> PathBuf {
    let experiment = catalogue::experiment(typed).unwrap_or_else(|_| typed.to_owned());
    let default = experiment.parent().unwrap_or(Path::new("")).join("baselines");
    folder.unwrap_or(&default).join(experiment.file_name().unwrap_or_default())
}
