//! `sim ui`.

use super::args::ServerArgs;
use super::error::CliError;
use super::simulate::{check_set, load_options, say_notices};
use super::talk::print;
use kv_router_sim::experiment::Experiment;
use kv_router_sim::fleet::servers::ApiKey;
use kv_router_sim::ui::{UiOptions, show};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Show policies side by side on a live page, and steer them
///
/// Every policy or variant of the experiment is simulated with the same conversations, as
/// fast as you like. Move the load, change routers and workers, and save what you did as an
/// experiment that `sim run` gives again. On this machine only, until it is interrupted
/// (Ctrl-C).
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sim ui
  sim ui blow-up-180
  sim ui doks-3xh200 --set sweep.router.policy=kv,round_robin,least_loaded
  sim ui doks-3xh200 --port 9000 --no-open
  sim ui mid-1w --worker http://127.0.0.1:8000

With --worker the experiment also runs on real vLLM servers, one for each of its workers, in real
time beside its simulation. What they need is what sim live needs; the variable SIM_API_KEY holds
an API key, if they need one.

The page is at the address that is printed; /metrics there is for Prometheus.

Exit codes: 0 done, 2 usage or input error.")]
pub(crate) struct UiArgs {
    /// The experiment: a TOML file, or the name of one that comes with sim
    #[arg(value_name = "EXPERIMENT", default_value = "doks-3xh200")]
    pub(crate) file: PathBuf,
    /// Set a key of the experiment
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
    /// Address of a real server, worker 0 first; one for each worker of the experiment
    #[arg(long = "worker", value_name = "URL")]
    pub(crate) workers: Vec<String>,
    #[command(flatten)]
    pub(crate) servers: ServerArgs,
    /// The port of the page; 0: any that is free
    #[arg(long, value_name = "PORT", default_value_t = 8700)]
    pub(crate) port: u16,
    /// Do not open a browser
    #[arg(long)]
    pub(crate) no_open: bool,
}

/// Shows a session until the program is interrupted.
pub(super) fn run(
    args: UiArgs,
    traces: Option<PathBuf>,
    api_key: Option<ApiKey>,
) -> Result<(), CliError> {
    check_set(&args.overrides)?;
    let experiment = Experiment::load(&args.file, &load_options(args.overrides, traces.clone()))?;
    say_notices(&experiment);
    let mut options = UiOptions::default();
    (options.port, options.traces) = (args.port, traces);
    let has_servers = !args.workers.is_empty();
    options.servers = has_servers.then(|| args.servers.options(&args.workers, api_key));
    let shown = show(&experiment, &options)?;
    let address = format!("http://{}", shown.address());
    print(&format!("{address}\n"))?;
    if !args.no_open && std::io::stdout().is_terminal() {
        open(&address);
    }
    // The signal that ends the program ends this too.
    loop {
        std::thread::park();
    }
}

/// Opens `address` in the browser of a desktop, if there is one; the address is printed
/// anyway.
fn open(address: &str) {
    let has_desktop =
        ["DISPLAY", "WAYLAND_DISPLAY"].iter().any(|name| std::env::var_os(name).is_some());
    let (program, before): (&str, &[&str]) = match std::env::consts::OS {
        "macos" => ("open", &[]),
        "windows" => ("cmd", &["/C", "start", ""]),
        _ if has_desktop => ("xdg-open", &[]),
        _ => return,
    };
    let quiet = || Stdio::null();
    let _ = Command::new(program)
        .args(before)
        .arg(address)
        .stdin(quiet())
        .stdout(quiet())
        .stderr(quiet())
        .spawn();
}
