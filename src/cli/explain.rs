//! `sim explain`.

use super::args::pair;
use super::error::CliError;
use super::simulate::say_notices;
use super::talk::print;
use kv_router_sim::experiment::explain::{DecisionQuery, Latency, Pick, explain};
use kv_router_sim::id::RequestId;
use kv_router_sim::report::render::{explain as words, table};
use kv_router_sim::results::Results;
use std::path::PathBuf;

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

/// Prints why a request of saved results went where it went.
pub(super) fn run(args: ExplainArgs, traces: Option<PathBuf>) -> Result<(), CliError> {
    let saved = Results::load(&args.results)?;
    let experiment = saved.experiment(&args.results, args.experiment, traces)?;
    say_notices(&experiment);
    let latency = args.worst.map(|time| match time {
        Time::Ttft => Latency::Ttft,
        Time::Queue => Latency::Queue,
        Time::E2e => Latency::EndToEnd,
    });
    let pick = match (args.request, latency) {
        (Some(request), _) => Pick::Request(RequestId(request)),
        (None, latency) => Pick::Quantile(latency.unwrap_or(Latency::Ttft), args.quantile),
    };
    let policy = args.policy.map(|name| ("router.policy".to_owned(), name));
    let at = args.at.into_iter().chain(policy).collect();
    let explained =
        explain(&experiment, &saved.runs, &DecisionQuery { pick, at, seed: args.seed })?;
    print(&words::report(&explained, table::WIDTH))
}
