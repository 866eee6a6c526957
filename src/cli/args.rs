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
    Accuracy(AccuracyArgs),
    Calibrate(CalibrateArgs),
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

/// Compare simulated times with measured ones: steps and serving runs
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sim accuracy                  print every table
  sim accuracy --write          write docs/accuracy.md and docs/accuracy.csv
  sim accuracy --check          fail if an error has grown

Exit codes: 0 done, 1 an error has grown, 2 usage or input error.")]
pub(crate) struct AccuracyArgs {
    /// What is compared, a TOML file
    #[arg(default_value = "experiments/accuracy.toml")]
    pub(crate) settings: PathBuf,
    /// Write the page and the record of its errors that the settings name
    #[arg(long)]
    pub(crate) write: bool,
    /// Compare with that record instead
    #[arg(long, conflicts_with = "write")]
    pub(crate) check: bool,
}

/// Fit an engine's parameters to measured steps and serving runs
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sim calibrate                              fit everything, print, write nothing
  sim calibrate --only h200-vllm --out new   write new/efficiencies/h200-vllm.toml
  sim calibrate --only vllm --runs mine.csv  host time of vLLM from other runs

What is fitted starts from the file in the library; a new GPU or engine needs a
copy of another one's there first.

Exit codes: 0 done, 2 usage or input error.")]
pub(crate) struct CalibrateArgs {
    /// Where measurements and library are, a TOML file
    #[arg(default_value = "experiments/accuracy.toml")]
    pub(crate) settings: PathBuf,
    /// Fit only this: GPU-ENGINE for what it reaches, ENGINE for its host time
    #[arg(long, value_name = "NAME")]
    pub(crate) only: Vec<String>,
    /// Measured steps, CSV, instead of those that the settings name
    #[arg(long, value_name = "FILE")]
    pub(crate) steps: Option<PathBuf>,
    /// Serving runs, CSV, instead of those that the settings name
    #[arg(long, value_name = "FILE")]
    pub(crate) runs: Option<PathBuf>,
    /// Folder for files with the fitted values, laid out as models/
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
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
