//! What can be typed. What it means is decided by the commands.

use super::completions::CompletionsArgs;
use super::init::InitArgs;
use super::man::ManArgs;
use super::models::ModelsArgs;
use super::policies::PoliciesArgs;
use super::report::{PlotArgs, ReportArgs};
use super::schema::SchemaArgs;
use super::timeline::{RunTimelineArgs, TimelineArgs};
use super::trace::TraceCommand;
use clap::{Parser, Subcommand, ValueEnum};
use kv_router_sim::catalogue;
use std::path::PathBuf;

/// Simulates LLM serving fleets: will KV-cache-aware routing help, up to which
/// load, and why does it stop?
#[derive(Debug, Parser)]
#[command(
    name = "sim",
    version,
    arg_required_else_help = true,
    after_help = "\
Examples:
  sim run doks-3xh200
  sim init my-fleet && sim run my-fleet
  sim frontier my-fleet --within ttft_ms_p95=1s
  sim help sweep"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Print only results, warnings and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Print what is being done and how long it takes
    #[arg(short, long, global = true)]
    pub(crate) verbose: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Run(RunArgs),
    Explain(ExplainArgs),
    Timeline(TimelineArgs),
    Report(ReportArgs),
    Plot(PlotArgs),
    Sweep(SweepArgs),
    Merge(MergeArgs),
    Frontier(FrontierArgs),
    Compare(CompareArgs),
    #[cfg(feature = "live")]
    Live(super::live::LiveArgs),
    #[cfg(feature = "live")]
    Serve(super::serve::ServeArgs),
    Check(CheckArgs),
    Accuracy(AccuracyArgs),
    Calibrate(CalibrateArgs),
    /// Work with request traces
    #[command(
        subcommand,
        after_help = "\
Examples:
  sim trace stats lookalike-conversation"
    )]
    Trace(TraceCommand),
    Models(ModelsArgs),
    Policies(PoliciesArgs),
    Init(InitArgs),
    Schema(SchemaArgs),
    Completions(CompletionsArgs),
    Man(ManArgs),
}

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
    /// The smallest difference that counts as a win or a loss, in percent (points for ratios) [default: 1%]
    #[arg(long, value_name = "PERCENT")]
    pub(crate) worth: Option<String>,
}

/// Search settings: heat maps, the Pareto front, the best one and the cost of a near miss
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sim sweep sweep-overlap-temperature
  sim sweep doks-3xh200 --set workload.concurrency=180 --set router.policy=kv \\
      --over router.overlap_weight=0..4:0.5 --over router.temperature=0,0.2,0.5
  sim sweep doks-3xh200 --set router.policy=kv --over router.feed.delay=1ms..10s:x10 --out delays

VALUES are a list (0,0.5,1), a range with a step (60..180:20) or with a factor (8..512:x2), both
ends included. With --over, results go to plots/NAME-sweep unless --out names another folder. A
sweep that was killed goes on where it was when the same command is given again.

Several machines share a sweep with --shard: each runs the same command with its own K, and
`sim merge` makes the results of all.")]
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

/// Put the parts of a sweep that ran with --shard together
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sim sweep doks-3xh200 --seeds 1 --shard 1/2 --out part-1
  sim sweep doks-3xh200 --seeds 1 --shard 2/2 --out part-2
  sim merge part-1 part-2 --out whole

The folder is, byte for byte, the one that `sim sweep` without --shard makes on one machine. The
parts stay as they are.")]
pub(crate) struct MergeArgs {
    /// The folders of all parts, in any order
    #[arg(required = true, value_name = "DIR")]
    pub(crate) parts: Vec<PathBuf>,
    /// Folder for the results
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// The experiment, if it is not where it was
    #[arg(long, value_name = "FILE")]
    pub(crate) experiment: Option<PathBuf>,
    /// Replace results of another configuration in that folder
    #[arg(long)]
    pub(crate) force: bool,
    /// Save no figures
    #[arg(long)]
    pub(crate) no_figures: bool,
}

/// Find the largest load at which a policy or setting beats another, or meets its targets
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sim frontier doks-3xh200
  sim frontier doks-3xh200 --within ttft_ms_p95=600ms --within itl_ms_p95=60ms
  sim frontier lookalike-conversation-8w --loads 1..8:0.5 --within ttft_ms_p95=10s
  sim frontier doks-3xh200 --set router.policy=kv --over router.overlap_weight=0..4:1 \\
      --within ttft_ms_p95=600ms
  sim frontier doks-3xh200 --set workload.concurrency=120 --load cluster.workers --loads 2..4 \\
      --within ttft_ms_p95=600ms

Every combination of swept values, the load apart, is searched. Without --within, the question is up
to which load each beats round_robin (or the first policy), and with [slo] also up to which load
enough requests meet it. The load is workload.concurrency, workload.speedup where a trace is replayed
at its own times, or workload.arrivals.rate.")]
pub(crate) struct FrontierArgs {
    #[command(flatten)]
    pub(crate) experiment: ExperimentArgs,
    #[command(flatten)]
    pub(crate) jobs: JobsArgs,
    /// A metric on which a policy must beat the baseline [default: ttft_ms_p95, unless --within is given]
    #[arg(long, value_name = "METRIC")]
    pub(crate) metric: Vec<String>,
    /// A target to meet, like ttft_ms_p95=600ms, or `slo` for that of `[slo]`; several must all be met
    #[arg(long, value_name = "METRIC=VALUE")]
    pub(crate) within: Vec<String>,
    /// Sweep a key, besides what the experiment sweeps; short for --set sweep.KEY=VALUES
    #[arg(long, value_name = "KEY=VALUES")]
    pub(crate) over: Vec<String>,
    /// The key to vary as the load
    #[arg(long, value_name = "KEY")]
    pub(crate) load: Option<String>,
    /// Loads to search, with their step [default: from the smallest to the largest swept]
    #[arg(long, value_name = "FROM..TO:STEP")]
    pub(crate) loads: Option<String>,
    /// Output format
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

/// Compare two saved result sets: what changed, most certain first
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sim run doks-3xh200 --seeds 2 --out before
  sim run doks-3xh200 --seeds 2 --out after --set router.overlap_weight=2
  sim compare before after
  sim compare before after --format markdown --all")]
pub(crate) struct CompareArgs {
    /// Folder with the results from before
    pub(crate) before: PathBuf,
    /// Folder with the results to compare with them
    pub(crate) after: PathBuf,
    /// A metric to compare [default: the main ones]
    #[arg(long, value_name = "METRIC")]
    pub(crate) metric: Vec<String>,
    /// Compare every metric
    #[arg(long, conflicts_with = "metric")]
    pub(crate) all: bool,
    /// A key whose value may differ between paired points
    #[arg(long, value_name = "KEY")]
    pub(crate) ignore: Vec<String>,
    /// Output format
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: CompareFormat,
}

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
}

/// How a frontier is printed
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum Format {
    #[default]
    Text,
    Json,
}

/// How a comparison is printed
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum CompareFormat {
    #[default]
    Text,
    Markdown,
    Json,
}

/// How a check is printed
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum CheckFormat {
    #[default]
    Text,
    Markdown,
    Junit,
}

// No doc comments on these: they would become the help of the commands that have them.
#[derive(Debug, clap::Args)]
pub(crate) struct ExperimentArgs {
    /// The experiment: a TOML file, or the name of one that comes with sim
    #[arg(value_name = "EXPERIMENT")]
    pub(crate) file: PathBuf,
    /// Set a key of the experiment, like measure.window=60s; this ends the sweep of a
    /// swept key, and sweep.KEY sets the values to sweep
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
    /// Use seeds 1 to N instead of the experiment's
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) seeds: Option<u32>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct JobsArgs {
    /// Simulations at the same time [default: one per processor]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
}

impl JobsArgs {
    /// How many, if that was given.
    pub(crate) fn count(&self) -> Option<usize> {
        self.jobs.map(usize::from)
    }
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
    /// Save the requests of every simulation as AIPerf would, in folders below
    /// aiperf; such a run cannot be resumed
    #[arg(long)]
    pub(crate) aiperf: bool,
}

/// Explain why a request went to its worker, and what it found there
///
/// The simulation runs again from its experiment and seed, and must give the saved
/// digest.
#[derive(Debug, clap::Args)]
#[command(
    group = clap::ArgGroup::new("which").required(true).args(["request", "worst"]),
    after_help = "\
Examples:
  sim run doks-3xh200 --seeds 2
  sim explain plots/doks-3xh200 --worst ttft --policy kv --at workload.concurrency=180
  sim explain plots/doks-3xh200 --worst ttft --quantile 0.95 --policy round_robin
  sim explain plots/doks-3xh200 --request 4711 --policy kv --seed 2"
)]
pub(crate) struct ExplainArgs {
    /// A folder of results, as `sim run` writes it
    pub(crate) results: PathBuf,
    /// The request with this number, as in requests.csv
    #[arg(long, value_name = "N")]
    pub(crate) request: Option<u32>,
    /// The measured request with the longest time of this kind
    #[arg(long, value_name = "TIME")]
    pub(crate) worst: Option<Time>,
    /// With --worst: the request at this quantile instead of the longest
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
    /// The experiment's file, if it has moved since the run
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

pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').map(|(key, value)| (key.trim(), value.trim()));
    pair.filter(|(key, value)| !key.is_empty() && !value.is_empty())
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .ok_or_else(|| "must be like workload.concurrency=180".to_owned())
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
    /// What to compare: a TOML file
    #[arg(default_value = catalogue::ACCURACY)]
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
  sim calibrate                                fit everything, print, write nothing
  sim calibrate --only h200-vllm --out new     write new/efficiencies/h200-vllm.toml
  sim calibrate --only trtllm                  host time of TensorRT-LLM
  sim calibrate --live http://127.0.0.1:8000   steps of a real server, from a probe of a minute

A fit starts from the file in models/; for a new GPU or engine, first copy that of
another one there.

Exit codes: 0 done, 2 usage or input error.")]
pub(crate) struct CalibrateArgs {
    /// A TOML file that names the measurements and the models
    #[arg(default_value = catalogue::ACCURACY)]
    pub(crate) settings: PathBuf,
    /// Fit only this: GPU-ENGINE for the efficiency, ENGINE for its host time
    #[arg(long, value_name = "NAME")]
    pub(crate) only: Vec<String>,
    /// Measured steps, CSV, instead of those that the settings name
    #[arg(long, value_name = "FILE")]
    pub(crate) steps: Option<PathBuf>,
    /// Serving runs, CSV, instead of those that the settings name
    #[arg(long, value_name = "FILE")]
    pub(crate) runs: Option<PathBuf>,
    /// Measure a real vLLM server instead, and fit the time of its steps
    #[cfg(feature = "live")]
    #[arg(long, value_name = "URL", conflicts_with_all = ["only", "steps", "runs", "out"])]
    pub(crate) live: Option<String>,
    /// With --live: how often to measure everything
    #[cfg(feature = "live")]
    #[arg(long, value_name = "N", requires = "live", default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) repeats: u16,
    /// Folder for files with the fitted values, laid out as models/
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
}
