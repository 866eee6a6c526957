//! What can be typed. What it means is decided by the commands.

use clap::{Parser, Subcommand};
use std::path::PathBuf;

/// Simulates LLM serving fleets: will KV-cache-aware routing help, up to which
/// load, and why does it stop?
#[derive(Debug, Parser)]
#[command(name = "sim", version, arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Run(RunArgs),
    Sweep(SweepArgs),
    /// Work with request traces
    #[command(subcommand)]
    Trace(TraceCommand),
}

/// Run an experiment: print its table, save results and figures
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sim run experiments/doks-3xh200.toml
  sim run experiments/doks-3xh200.toml --seeds 2 --out /tmp/quick
  sim run experiments/doks-3xh200.toml --set workload.concurrency=100 --set router.policy=kv
  sim run experiments/doks-3xh200.toml --set sweep.router.temperature=0,0.5

A run that was killed goes on where it was when the same command is given again.

Exit codes: 0 done, 1 a declared check failed, 2 usage or input error.")]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) experiment: ExperimentArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// Search settings: heat maps, the Pareto front, the best one and the price of missing it
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sim sweep experiments/sweep-overlap-temperature.toml
  sim sweep experiments/doks-3xh200.toml --set workload.concurrency=180 --set router.policy=kv \\
      --over router.overlap_weight=0..4:0.5 --over router.temperature=0,0.2,0.5
  sim sweep experiments/doks-3xh200.toml --set router.policy=kv --over router.feed.delay=1ms..10s:x10

VALUES are a list (0,0.5,1), a range with a step (60..180:20) or with a factor (8..512:x2), both
ends included. A sweep that was killed goes on where it was when the same command is given again.")]
pub(crate) struct SweepArgs {
    #[command(flatten)]
    pub(crate) experiment: ExperimentArgs,
    /// Sweep a key, besides what the experiment sweeps; short for --set sweep.KEY=VALUES
    #[arg(long, value_name = "KEY=VALUES")]
    pub(crate) over: Vec<String>,
    /// Take the values of all --over together, first with first, instead of every combination
    #[arg(long, requires = "over")]
    pub(crate) paired: bool,
    /// The metric to tune for
    #[arg(long, value_name = "METRIC", default_value = "ttft_ms_p95")]
    pub(crate) best: String,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

// No doc comments on these two: they would become the help of the commands that have them.
#[derive(Debug, clap::Args)]
pub(crate) struct ExperimentArgs {
    /// The experiment, a TOML file
    #[arg(value_name = "EXPERIMENT")]
    pub(crate) file: PathBuf,
    /// Set a key of the experiment, like measure.window=60s; a swept key is then
    /// swept no more, and sweep.KEY sets what is swept
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
    /// Run with seeds 1 to N instead of the experiment's
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) seeds: Option<u32>,
    /// Simulations at the same time [default: one per processor]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) jobs: Option<u16>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct OutputArgs {
    /// Folder for the results [default: plots/NAME, by the experiment's name]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Replace results of another configuration in that folder
    #[arg(long)]
    pub(crate) force: bool,
    /// Save no figures
    #[arg(long)]
    pub(crate) no_figures: bool,
    /// Save one record per request too, as requests.csv; such a run cannot be resumed
    #[arg(long)]
    pub(crate) requests: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TraceCommand {
    /// Count what a trace holds: requests, tokens, shared blocks
    #[command(after_help = "\
Examples:
  sim trace stats traces/fixtures/small.jsonl
  SIM_TRACES=~/traces sim trace stats mooncake-conversation

Public traces are looked for by name in the folder that SIM_TRACES names.")]
    Stats {
        /// A file of Mooncake-format lines, or the name of a public trace
        #[arg(value_name = "FILE|NAME")]
        trace: String,
    },
}
