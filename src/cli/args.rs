//! Arguments that several commands have.

use clap::ValueEnum;
use std::path::PathBuf;

/// How a result is printed
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum Format {
    #[default]
    Text,
    Json,
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

pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').map(|(key, value)| (key.trim(), value.trim()));
    pair.filter(|(key, value)| !key.is_empty() && !value.is_empty())
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .ok_or_else(|| "must be like workload.concurrency=180".to_owned())
}
