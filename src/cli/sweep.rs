//! `sim sweep`.

use super::args::{ExperimentArgs, JobsArgs, OutputArgs};
use super::error::CliError;
use super::shards;
use super::simulate::{execute, load, overrides, print_columns, print_tuning};
use kv_router_sim::experiment::check_measured;
use kv_router_sim::metrics::{directed, full_name};
use kv_router_sim::results::{ResultFolder, RunInto};
use std::path::PathBuf;

/// Search settings: heat maps, the Pareto front, the best one and the cost of a near miss
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sim sweep sweep-overlap-temperature
  sim sweep doks-3xh200 --set workload.concurrency=180 --set router.policy=kv \\
      --over router.overlap_weight=0..4:0.5 --over router.temperature=0,0.2,0.5
  sim sweep doks-3xh200 --set router.policy=kv --over router.feed.delay=1ms..10s:x10 --out delays

VALUES are a list (0,0.5,1), a range with a step (60..180:20) or with a factor (8..512:x2), both
ends included. With --over, results go to plots/NAME-sweep unless --out names another folder. If a
sweep is killed, the same command resumes it.

Several machines share a sweep with --shard: each runs the same command with its own K, and
`sim merge` combines their results.")]
pub(crate) struct SweepArgs {
    #[command(flatten)]
    pub(crate) experiment: ExperimentArgs,
    #[command(flatten)]
    pub(crate) jobs: JobsArgs,
    /// Sweep a key, besides what the experiment sweeps; short for --set sweep.KEY=VALUES
    #[arg(long, value_name = "KEY=VALUES")]
    pub(crate) over: Vec<String>,
    /// Take the values of all --over together, first with first, instead of every combination
    #[arg(long, requires = "over")]
    pub(crate) paired: bool,
    /// The metric to tune for, like ttft_ms_p95 or goodput
    #[arg(long, value_name = "METRIC", default_value = "ttft_ms_p95")]
    pub(crate) best: String,
    /// Run the K-th of N parts and leave it for `sim merge`; `auto` in place of K takes
    /// it from SLURM_ARRAY_TASK_ID or JOB_COMPLETION_INDEX, `auto` alone N from Slurm too
    #[arg(long, value_name = "K/N", conflicts_with_all = ["requests", "aiperf", "no_figures"])]
    pub(crate) shard: Option<String>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// Runs an experiment with the axes of `--over`, prints what it says about
/// settings, saves everything.
pub(super) fn run(args: SweepArgs, traces: Option<PathBuf>) -> Result<(), CliError> {
    let mut axes: Vec<String> = args.over.iter().map(|over| format!("sweep.{over}")).collect();
    if args.paired {
        let keys = args.over.iter().filter_map(|over| over.split_once('='));
        let keys: Vec<String> = keys.map(|(key, _)| format!("{:?}", key.trim())).collect();
        axes.push(format!("sweep.paired=[{}]", keys.join(", ")));
    }
    let overrides = overrides(&args.experiment, axes)?;
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
    let (results, _, in_columns) = execute(&experiment, options, folder, args.output)?;
    match in_columns {
        Some(found) => print_columns(&results, &found),
        None => print_tuning(&results),
    }
}
