//! `sim serve`.

use super::error::{CliError, argument};
use super::simulate::{check_set, load_options, say_notices};
use super::talk::{print, warn};
use kv_router_sim::experiment::Experiment;
use kv_router_sim::serve::{ServeError, ServeOptions, serve};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

/// Put simulated workers behind vLLM's HTTP interface, in real time
///
/// Completions and chats, streamed or not, with usage; /v1/models, /health,
/// /metrics under vLLM's names. Until it is interrupted (Ctrl-C).
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sim serve doks-3xh200                      three ports, 8000 to 8002
  sim serve doks-3xh200 --router --set router.policy=kv
  sim serve doks-3xh200 --events --speed 10  with KV events, ten times as fast

The workers are those of the experiment's first point; its workload is not used. With --events
worker p's KV events are on port p + 1000, its replay socket on port p + 2000.

Exit codes: 0 done, 2 usage or input error.")]
pub(crate) struct ServeArgs {
    /// The experiment: a TOML file, or the name of one that comes with sim
    #[arg(value_name = "EXPERIMENT")]
    pub(crate) file: PathBuf,
    /// Set a key of the experiment
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
    /// Address to listen on
    #[arg(long, value_name = "ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    pub(crate) host: IpAddr,
    /// Allow an address that other machines can reach; there is no access control
    #[arg(long)]
    pub(crate) allow_remote: bool,
    /// Port of worker 0, with the other workers after it; or of the router
    #[arg(long, value_name = "PORT", default_value_t = 8000)]
    pub(crate) port: u16,
    /// All workers on one port, behind the experiment's router
    #[arg(long)]
    pub(crate) router: bool,
    /// Publish KV events over ZMQ
    #[arg(long, conflicts_with = "router")]
    pub(crate) events: bool,
    /// Simulated seconds in one second
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    pub(crate) speed: f64,
    /// Name of the model
    #[arg(long, value_name = "NAME", default_value = "sim")]
    pub(crate) model: String,
}

/// Serves until the program is interrupted.
pub(super) fn run(args: ServeArgs, traces: Option<PathBuf>) -> Result<(), CliError> {
    check_set(&args.overrides)?;
    let options = load_options(args.overrides, traces);
    let experiment = Experiment::load(&args.file, &options)?;
    say_notices(&experiment);
    let settings = &experiment.runs[0].settings;
    let served = serve(
        settings,
        &ServeOptions {
            host: args.host,
            allow_remote: args.allow_remote,
            port: args.port,
            behind_router: args.router,
            speed: args.speed,
            model: args.model,
            events: args.events,
            seed: experiment.seeds[0],
        },
    );
    let served = served.map_err(|error| match error {
        ServeError::Setting(invalid) if ["host", "port", "speed"].contains(&&*invalid.key) => {
            ServeError::Setting(argument(invalid)).into()
        }
        error => CliError::from(error),
    })?;
    if !args.host.to_canonical().is_loopback() {
        warn(&format!("{} can be reached from other machines", args.host));
    }
    if args.router {
        let policy = settings.policy.name();
        print(&format!("{} workers behind {policy}: ", settings.pools.workers()))?;
    }
    let places: Vec<String> =
        served.addresses().iter().map(|address| format!("http://{address}")).collect();
    print(&format!("{}\n", places.join(" ")))?;
    // The signal that ends the program ends this too.
    loop {
        std::thread::park();
    }
}
