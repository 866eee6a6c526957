//! `sim run`.

use super::args::{ExperimentArgs, JobsArgs, OutputArgs};
use super::error::{CliError, argument};
use super::place::{check_apart, check_free};
use super::simulate::{execute, load, overrides, print_columns};
use super::talk::{note, print, say};
use super::timeline::{self, RunTimelineArgs};
use kv_router_sim::event::RejectReason;
use kv_router_sim::experiment::results::Point;
use kv_router_sim::experiment::timeline::TimelineQuery;
use kv_router_sim::experiment::{Experiment, record, rejections, write_file};
use kv_router_sim::exposition::metrics_over_time;
use kv_router_sim::report::judge::published::Comparison;
use kv_router_sim::report::judge::state::State;
use kv_router_sim::report::judge::terms::{Terms, parse_worth};
use kv_router_sim::report::render::{table, timeline::TIMELINE_FILE};
use kv_router_sim::report::view::{View, details::WORTH, published::Published};
use kv_router_sim::results::{ResultFolder, Results, RunInto};
use std::path::PathBuf;

/// Run an experiment: print its table, save results and figures
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sim run doks-3xh200
  sim run doks-3xh200 --seeds 2 --out quick
  sim run doks-3xh200 --set workload.concurrency=100 --set router.policy=kv --out one-load
  sim run doks-3xh200 --set sweep.router.temperature=0,0.5 --out temperatures

EXPERIMENT is a TOML file, a folder that `sim init` made, or the name of an experiment that comes
with sim; an unknown name lists them.

If a run is killed, the same command resumes it.

Exit codes: 0 done, 2 usage or input error, 130 interrupted by Ctrl-C.")]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) experiment: ExperimentArgs,
    #[command(flatten)]
    pub(crate) jobs: JobsArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    #[command(flatten)]
    pub(crate) timeline: RunTimelineArgs,
    /// Write what Prometheus would have scraped as OpenMetrics with simulated times: every
    /// run, first seed
    #[arg(long, value_name = "FILE")]
    pub(crate) metrics: Option<PathBuf>,
    /// Write the requests of the only run, first seed, as a trace with the decisions
    #[arg(long, value_name = "FILE")]
    pub(crate) record: Option<PathBuf>,
    /// The smallest difference that counts as a win or a loss, in percent (points for ratios) [default: 1%]
    #[arg(long, value_name = "PERCENT")]
    pub(crate) worth: Option<String>,
}

/// Runs an experiment, prints its table and digest, saves everything.
pub(super) fn run(args: RunArgs, traces: Option<PathBuf>) -> Result<(), CliError> {
    let overrides = overrides(&args.experiment, Vec::new())?;
    let experiment = load(&args.experiment, overrides.clone(), traces)?;
    let published = Published::of(&experiment)?;
    let worth = args.worth.as_deref().map_or(Ok(WORTH), parse_worth).map_err(argument)?;
    let mut options = RunInto::new(&args.experiment.file, overrides);
    options.jobs = args.jobs.count();
    (options.published, options.worth) = (published, worth);
    let (force, read) = (args.output.force, args.experiment.file.as_path());
    for (key, file) in [("--metrics", &args.metrics), ("--record", &args.record)] {
        file.as_ref().map(|file| check_free(key, file, force, &[read])).transpose()?;
    }
    if let (Some(record), Some(metrics)) = (&args.record, &args.metrics) {
        check_apart("--record", record, metrics)?;
    }
    let recording = args.record.as_ref().map(|_| record(&experiment)).transpose()?;
    let folder = ResultFolder::default_path(&experiment.name);
    let (results, path, in_columns) = execute(&experiment, options, folder, args.output)?;
    if let Some(file) = &args.metrics {
        write_file(file, metrics_over_time(&experiment)?.as_bytes())?;
    }
    if let (Some(file), Some(recording)) = (&args.record, &recording) {
        write_file(file, recording.rows.as_bytes())?;
        recording.lost.iter().for_each(|lost| note(lost));
        let (requests, tokens) = (recording.requests, recording.block_tokens);
        let file = file.display();
        say(&format!(
            "{requests} requests written to {file}: it replays with kind = \"trace\", \
             time_unit = \"ns\", trace_block_tokens = {tokens}"
        ));
    }
    if args.timeline.timeline {
        let choice = TimelineQuery { window: args.timeline.window, ..TimelineQuery::default() };
        timeline::write(&experiment, &results, &choice, &path.join(TIMELINE_FILE))?;
    }
    if let Some(found) = in_columns {
        return print_columns(&results, &found);
    }
    say_what_rejects(&experiment, &results.summary.points)?;
    let Results { summary, details, .. } = results;
    let view = View::new(&summary, None)?;
    let published = details.published.as_ref();
    let comparison = published.map(|published| Comparison::new(&view, published));
    let terms = Terms::of(&details);
    print(&table::report(&view, &terms, comparison.as_ref(), table::WIDTH))?;
    print(&format!("digest {}\n", summary.provenance.digest))
}

/// Says which limits reject the requests of the first point that serves none. One that does so
/// is soon simulated again.
fn say_what_rejects(experiment: &Experiment, points: &[Point]) -> Result<(), CliError> {
    let rejects = |point: &Point| {
        let rejected = point.metrics.get("rejected").and_then(|metric| metric.mean);
        State::of(point) == State::NothingServed && rejected.is_some_and(|mean| mean > 0.0)
    };
    let Some(at) = points.iter().position(rejects) else { return Ok(()) };
    let limits: Vec<String> = rejections(experiment, at)?
        .into_iter()
        .map(|(reason, count)| {
            let limit = match reason {
                RejectReason::ContextLimit => " (engine.max_model_len)",
                RejectReason::KvPool => " (engine.num_blocks)",
                RejectReason::Full | RejectReason::Busy | RejectReason::WaitedTooLong => {
                    " ([router.admission])"
                }
                _ => "",
            };
            format!("{count} {reason}{limit}")
        })
        .collect();
    let params = points[at].params.iter();
    let place: Vec<String> = params.map(|(key, value)| format!("{key} = {value}")).collect();
    let place = if place.is_empty() { String::new() } else { format!(" at {}", place.join(", ")) };
    note(&format!("why nothing is served{place}: of its requests, {}", limits.join(", ")));
    Ok(())
}
