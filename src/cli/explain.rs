//! `sim explain`.

use super::args::{ExplainArgs, Time};
use super::{CliError, print};
use kv_router_sim::experiment::explain::{Choice, Latency, Pick, explain};
use kv_router_sim::experiment::results::{SavedRuns, Summary};
use kv_router_sim::experiment::{Experiment, LoadOptions, RUNS_FILE, SUMMARY_FILE};
use kv_router_sim::id::RequestId;
use kv_router_sim::report::{explain as words, save, table};
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};

/// Prints why a request of saved results went where it went.
pub(super) fn run(args: ExplainArgs, traces: Option<PathBuf>) -> Result<(), CliError> {
    let summary: Summary = read(&args.results.join(SUMMARY_FILE))?;
    let saved: SavedRuns = read(&args.results.join(RUNS_FILE))?;
    let file = args.experiment.unwrap_or_else(|| PathBuf::from(&saved.experiment));
    let options =
        LoadOptions { overrides: saved.overrides.clone(), traces, ..LoadOptions::default() };
    let experiment = Experiment::load(&file, &options)?;
    if experiment.config_hash != summary.provenance.config_hash {
        return Err(CliError::OtherExperiment { file, results: args.results });
    }
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
    let explained = explain(&experiment, &saved, &Choice { pick, at, seed: args.seed })?;
    print(&words::report(&explained, table::WIDTH))
}

fn read<T: DeserializeOwned>(file: &Path) -> Result<T, CliError> {
    let text = std::fs::read_to_string(file).map_err(|error| CliError::Unreadable {
        file: file.to_owned(),
        reason: error.to_string(),
        hint: "; name a folder that `sim run` or `sim sweep` has finished",
    })?;
    Ok(save::from_json(&text, file)?)
}
