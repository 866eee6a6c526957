//! `sim frontier`.

use super::args::{ExperimentArgs, Format, JobsArgs};
use super::error::CliError;
use super::progress::Bar;
use super::simulate::{load, load_options, overrides, with_progress};
use super::talk::print;
use kv_router_sim::experiment::Experiment;
use kv_router_sim::frontier::Asked;
use kv_router_sim::report::judge::terms::remarks;
use kv_router_sim::report::render::{save, table};
use std::path::PathBuf;

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

Searches every combination of swept values other than the load. Without --within, it searches the
largest load at which each policy beats round_robin (or the first policy) and, with [slo], the
largest load at which enough requests meet the targets. The load is workload.concurrency,
workload.speedup where a trace is replayed at its own times, or workload.arrivals.rate.")]
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

/// Searches loads, prints up to where what was asked holds.
pub(super) fn run(args: FrontierArgs, traces: Option<PathBuf>) -> Result<(), CliError> {
    let axes: Vec<String> = args.over.iter().map(|over| format!("sweep.{over}")).collect();
    let overrides = overrides(&args.experiment, axes)?;
    let experiment = load(&args.experiment, overrides.clone(), traces.clone())?;
    let FrontierArgs { metric: metrics, within, load, loads, .. } = args;
    let asked = Asked { metrics, within, load, loads, prefix: "--" };
    let again = |at: String| {
        let overrides = overrides.iter().cloned().chain([at]).collect();
        Experiment::load(&args.experiment.file, &load_options(overrides, traces.clone()))
    };
    let bar = Bar::new();
    let found = asked.search(&experiment, again, with_progress(args.jobs.count(), &bar));
    bar.clear();
    let found = found?;
    match args.format {
        Format::Json => print(&save::json(&found)),
        Format::Text => print(&found.report(&remarks(&experiment), table::WIDTH)),
    }
}
