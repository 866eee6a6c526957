//! `sim timeline`, and `sim run --timeline`: what every worker did, step by step.

use super::args::pair;
use super::error::CliError;
use super::place::check_free;
use super::simulate::say_notices;
use super::talk::say;
use kv_router_sim::experiment::Experiment;
use kv_router_sim::experiment::timeline::TimelineQuery;
use kv_router_sim::report::render::timeline::{TIMELINE_FILE, caption};
use kv_router_sim::results::Results;
use kv_router_sim::settings::parse_duration;
use kv_router_sim::time::SimTime;
use std::path::{Path, PathBuf};

/// Write what every worker did in a stretch of time, step by step, for Perfetto
///
/// The simulation runs again from its experiment and seed, and has to give the
/// digest that was saved.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sim run doks-3xh200 --seeds 1
  sim timeline plots/doks-3xh200 --policy kv --at workload.concurrency=180
  sim timeline plots/doks-3xh200 --policy kv --window 2200s..2260s --out kv.json.gz

Open the file in https://ui.perfetto.dev: a track per worker with its steps and batches, counters,
the requests, and arrows from the router's decision to the first token and the last. Times count
from the start of the simulation, as in requests.csv. If several points match, the last is shown.")]
pub(crate) struct TimelineArgs {
    /// A folder of results, as `sim run` writes it
    results: PathBuf,
    /// Only points of this policy
    #[arg(long, value_name = "NAME")]
    policy: Option<String>,
    /// Only points with this value of a swept key, like workload.concurrency=180
    #[arg(long = "at", value_name = "KEY=VALUE", value_parser = pair)]
    at: Vec<(String, String)>,
    /// The seed [default: the first of the experiment]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// The time to show, like 300s..360s [default: the first minute measured]
    #[arg(long, value_name = "FROM..TO", value_parser = window)]
    window: Option<(SimTime, SimTime)>,
    /// The file [default: timeline.json.gz in the folder of the results]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Replace the file that --out names
    #[arg(long, requires = "out")]
    force: bool,
    /// The experiment's file, if it has moved since the run
    #[arg(long, value_name = "FILE")]
    experiment: Option<PathBuf>,
}

// No doc comment: it would become the help of the command that has it.
#[derive(Debug, clap::Args)]
pub(crate) struct RunTimelineArgs {
    /// Save what every worker did, step by step, as timeline.json.gz for Perfetto:
    /// the last point, first seed (`sim timeline` shows others)
    #[arg(long)]
    pub(crate) timeline: bool,
    /// With --timeline: the time to show, like 300s..360s [default: the first minute measured]
    #[arg(long, value_name = "FROM..TO", requires = "timeline", value_parser = window)]
    pub(crate) window: Option<(SimTime, SimTime)>,
}

/// Writes the timeline that was chosen.
pub(super) fn run(args: TimelineArgs, traces: Option<PathBuf>) -> Result<(), CliError> {
    if let Some(out) = &args.out {
        check_free("--out", out, args.force, args.experiment.as_deref().as_slice())?;
    }
    let saved = Results::load(&args.results)?;
    let experiment = saved.experiment(&args.results, args.experiment, traces)?;
    say_notices(&experiment);
    let policy = args.policy.map(|name| ("router.policy".to_owned(), name));
    let at = args.at.into_iter().chain(policy).collect();
    let choice = TimelineQuery { at, seed: args.seed, window: args.window };
    let file = args.out.unwrap_or_else(|| args.results.join(TIMELINE_FILE));
    write(&experiment, &saved, &choice, &file)?;
    say(&format!("saved as {}", file.display()));
    Ok(())
}

/// Runs the simulation again, writes what it did and says which one it was.
pub(super) fn write(
    experiment: &Experiment,
    saved: &Results,
    choice: &TimelineQuery,
    file: &Path,
) -> Result<(), CliError> {
    let found = saved.write_timeline(experiment, choice, file)?;
    say(&format!("timeline of {}", caption(&found)));
    Ok(())
}

fn window(text: &str) -> Result<(SimTime, SimTime), String> {
    let both = text.split_once("..").ok_or("must be like 300s..360s")?;
    let at = |text: &str| parse_duration(text).map(|time| SimTime::ZERO + time);
    let (from, to) = (at(both.0)?, at(both.1)?);
    if from < to { Ok((from, to)) } else { Err("must end after it begins".to_owned()) }
}
