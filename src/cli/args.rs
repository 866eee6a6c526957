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
  sim run experiments/doks-3xh200.toml --set 'sweep.router.temperature=[0.0, 0.5]'

Exit codes: 0 done, 1 a declared check failed, 2 usage or input error.")]
pub(crate) struct RunArgs {
    /// The experiment, a TOML file
    pub(crate) experiment: PathBuf,
    /// Folder for the results [default: plots/NAME, by the experiment's name]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Replace results of another configuration in that folder
    #[arg(long)]
    pub(crate) force: bool,
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
    /// Save no figures
    #[arg(long)]
    pub(crate) no_figures: bool,
    /// Save one record per request too, as requests.csv
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
