//! Arguments that several commands have.

use clap::ValueEnum;
#[cfg(feature = "live")]
use kv_router_sim::fleet::servers::{ApiKey, EventSource, Limits, LiveSettings};
#[cfg(feature = "live")]
use kv_router_sim::live::LiveOptions;
use std::path::PathBuf;
#[cfg(feature = "live")]
use std::time::Duration;

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

/// How servers are spoken to.
#[cfg(feature = "live")]
#[derive(Debug, clap::Args)]
#[group(id = "servers", requires = "workers")]
pub(crate) struct ServerArgs {
    /// The model to ask for [default: each server's first]
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// ZMQ address of a server's KV events as in its --kv-events-config, one per worker in order
    /// [default: where the server says]
    #[arg(long, value_name = "ENDPOINT")]
    events: Vec<String>,
    /// ZMQ address of its replay socket, one per worker in order
    #[arg(long, value_name = "ENDPOINT", requires = "events")]
    replay: Vec<String>,
    /// Give up a request after this time without a token
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    silence: u64,
    /// Continue if the servers' prefix caches cannot be emptied
    #[arg(long)]
    keep_caches: bool,
}

#[cfg(feature = "live")]
impl ServerArgs {
    /// The servers at `urls`.
    pub(crate) fn options(&self, urls: &[String], api_key: Option<ApiKey>) -> LiveOptions {
        let replay = |at: usize| self.replay.get(at).map(String::as_str);
        let events = self.events.iter().enumerate();
        let limits = Limits { silence: Duration::from_secs(self.silence), ..Limits::default() };
        let servers = LiveSettings {
            urls: urls.to_vec(),
            model: self.model.clone(),
            events: events.map(|(at, place)| EventSource::of_setting(place, replay(at))).collect(),
            limits,
            text_key: 0,
        };
        LiveOptions { servers, api_key, keep_caches: self.keep_caches }
    }
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
    /// Replace results of another configuration in that folder, and other files to be
    /// written
    #[arg(long)]
    pub(crate) force: bool,
    /// Save no figures
    #[arg(long)]
    pub(crate) no_figures: bool,
    /// Save the points as columns, summary.arrow and seeds.arrow, in place of JSON, CSV and
    /// report; so it is from more than 10,000 points on
    #[cfg(feature = "columns")]
    #[arg(long, conflicts_with_all = ["requests", "aiperf"])]
    pub(crate) columns: bool,
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
