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
    Explain(ExplainArgs),
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

/// Say why a request went where it went, and what it met there
///
/// The simulation runs again from its experiment and seed, and has to give the
/// digest that was saved.
#[derive(Debug, clap::Args)]
#[command(
    group = clap::ArgGroup::new("which").required(true).args(["request", "worst"]),
    after_help = "\
Examples:
  sim explain plots/doks-3xh200 --worst ttft --policy kv --at workload.concurrency=180
  sim explain plots/doks-3xh200 --worst ttft --quantile 0.95 --policy round_robin
  sim explain plots/doks-3xh200 --request 4711 --policy kv --seed 2"
)]
pub(crate) struct ExplainArgs {
    /// A folder of results, as `sim run` writes it
    pub(crate) results: PathBuf,
    /// The request of this number, as in requests.csv
    #[arg(long, value_name = "N")]
    pub(crate) request: Option<u32>,
    /// The measured request with the longest time of this kind
    #[arg(long, value_name = "TIME")]
    pub(crate) worst: Option<Time>,
    /// With --worst: the one at this quantile in place of the longest
    #[arg(long, value_name = "Q", requires = "worst", default_value_t = 1.0, value_parser = quantile)]
    pub(crate) quantile: f64,
    /// Only points of this policy
    #[arg(long, value_name = "NAME")]
    pub(crate) policy: Option<String>,
    /// Only points with this value of a swept key, like workload.concurrency=180
    #[arg(long = "at", value_name = "KEY=VALUE", value_parser = pair)]
    pub(crate) at: Vec<(String, String)>,
    /// The seed [default: the first of the experiment]
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// Where the experiment's file is, if not where it was when it ran
    #[arg(long, value_name = "FILE")]
    pub(crate) experiment: Option<PathBuf>,
}

/// A time that requests can be sorted by.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum Time {
    /// To the first token
    Ttft,
    /// In the worker's queue
    Queue,
    /// To the last token
    E2e,
}

fn quantile(text: &str) -> Result<f64, String> {
    let q: Option<f64> = text.parse().ok();
    q.filter(|q| (0.0..=1.0).contains(q)).ok_or_else(|| "must be a number from 0 to 1".to_owned())
}

fn pair(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').map(|(key, value)| (key.trim(), value.trim()));
    pair.filter(|(key, value)| !key.is_empty() && !value.is_empty())
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .ok_or_else(|| "must be like workload.concurrency=180".to_owned())
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
