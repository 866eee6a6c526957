//! `sim explain`.

use super::args::{ExplainArgs, Time};
use super::{CliError, print};
use kv_router_sim::experiment::explain::{DecisionQuery, Latency, Pick, explain};
use kv_router_sim::id::RequestId;
use kv_router_sim::report::render::{explain as words, table};
use kv_router_sim::results::Results;
use std::path::PathBuf;

/// Prints why a request of saved results went where it went.
pub(super) fn run(args: ExplainArgs, traces: Option<PathBuf>) -> Result<(), CliError> {
    let saved = Results::load(&args.results)?;
    let experiment = saved.experiment(&args.results, args.experiment, traces)?;
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
