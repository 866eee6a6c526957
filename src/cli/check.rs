//! `sim check`.

use super::args::{CheckArgs, CheckFormat};
use super::progress::Bar;
use super::run::{load_options, with_progress};
use super::talk::{BAD, GOOD, highlighted};
use super::{CliError, print, say};
use kv_router_sim::catalogue;
use kv_router_sim::experiment::{self, Experiment, results::Summary, write_file};
use kv_router_sim::report::judge::{baseline::Baseline, check::Check};
use kv_router_sim::report::render::table;
use kv_router_sim::settings::Invalid;
use std::path::{Path, PathBuf};

/// Runs the experiments and holds them against their baselines, or writes
/// those; true if nothing got worse.
pub(super) fn run(args: CheckArgs, traces: Option<PathBuf>) -> Result<bool, CliError> {
    // Whatever can be wrong is found out before the first simulation.
    let mut work = Vec::with_capacity(args.experiments.len());
    for file in &args.experiments {
        let options = load_options(args.overrides.clone(), traces.clone());
        let experiment = Experiment::load(file, &options)?;
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
    let mut pairs = Vec::with_capacity(work.len());
    for (experiment, _, baseline) in work {
        let summary = simulate(&experiment, args.jobs.count())?;
        pairs.extend(baseline.map(|baseline| (baseline, summary)));
    }
    let check = Check::new(&pairs);
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
