//! `sim live`.

use super::args::{ExperimentArgs, ServerArgs};
use super::error::CliError;
use super::place::check_free;
use super::simulate::{load, overrides};
use super::talk::{print, say};
use kv_router_sim::experiment::write_file;
use kv_router_sim::fleet::servers::ApiKey;
use kv_router_sim::live::{self, record};
use kv_router_sim::report::render::table;
use kv_router_sim::results::ResultFolder;
use std::path::{Path, PathBuf};

/// Run an experiment on real vLLM servers, and compare it with its simulation
///
/// Each server is checked against the experiment first. Then the workload runs in
/// real time, and its requests are simulated: sent where they were sent, and by
/// the simulated router's own choice.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sim live tiny-3w --worker http://127.0.0.1:8200 \\
      --worker http://127.0.0.1:8201 --worker http://127.0.0.1:8202
  sim live mid-1w --worker http://127.0.0.1:8000 --record run.jsonl

The results are in plots/NAME-live/simulated and plots/NAME-live/servers, for sim compare. --events
gives the address of a server's KV events, like ipc:///run/kv.ipc, if the server does not report it.

Servers need --enable-prompt-tokens-details, and VLLM_SERVER_DEV_MODE=1 so that sim can empty their
caches (or --keep-caches). The variable SIM_API_KEY holds an API key, if they need one.

Exit codes: 0 done, 2 usage or input error.")]
pub(crate) struct LiveArgs {
    #[command(flatten)]
    pub(crate) experiment: ExperimentArgs,
    /// Address of a server, worker 0 first; one for each worker of the experiment
    #[arg(long = "worker", required = true, value_name = "URL")]
    pub(crate) workers: Vec<String>,
    #[command(flatten)]
    pub(crate) servers: ServerArgs,
    /// Write the requests of the first run as a trace that sim can replay
    #[arg(long, value_name = "FILE")]
    pub(crate) record: Option<PathBuf>,
    /// Folder for the results [default: plots/NAME-live, by the experiment's name]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Replace results of another configuration in that folder
    #[arg(long)]
    pub(crate) force: bool,
}

/// Runs an experiment on servers, prints and saves what came of it.
pub(super) fn live(
    args: LiveArgs,
    traces: Option<PathBuf>,
    api_key: Option<ApiKey>,
) -> Result<(), CliError> {
    let overrides = overrides(&args.experiment, Vec::new())?;
    let experiment = load(&args.experiment, overrides, traces)?;
    let folder = args.out.clone();
    let default = || ResultFolder::default_path(&format!("{}-live", experiment.name));
    let folder = folder.unwrap_or_else(default);
    let parts = ["servers", "simulated", "simulated-alone"].map(|part| folder.join(part));
    let fresh = Fresh::note(parts.iter().chain(&args.record));
    let open = if args.force { ResultFolder::replace } else { ResultFolder::resume };
    let open = |part: &Path| open(part, &experiment);
    let folders = [open(&parts[0])?, open(&parts[1])?, open(&parts[2])?];
    if let Some(record) = &args.record {
        check_free("--record", record, args.force, &[&args.experiment.file])?;
    }
    let options = args.servers.options(&args.workers, api_key);
    let outcome = live::run(&experiment, &options, |params, seed| {
        let params: Vec<String> =
            params.iter().map(|(key, value)| format!("{key} = {value}")).collect();
        say(&format!("running {}, seed {seed}", params.join(", ")));
    })?;
    fresh.keep();
    // What people read first: a real run is not made again for a file that fails.
    let text = live::report(&experiment, &outcome);
    write_file(&folder.join("report.txt"), text.as_bytes())?;
    write_file(&folder.join("requests.csv"), live::requests_csv(&outcome).as_bytes())?;
    for (folder, summary) in folders.iter().zip([&outcome.real, &outcome.same, &outcome.own]) {
        folder.save_summary(summary)?;
    }
    say(&format!("saved in {}", folder.display()));
    print(&table::head(&outcome.real))?;
    print(&text)?;
    if let Some(file) = &args.record {
        let first = &outcome.runs[0];
        let block_size = experiment.runs[0].settings.pools.block_size();
        write_file(file, record::trace(&first.arrivals, block_size).as_bytes())?;
        say(&format!(
            "wrote {}: replay it with workload.path and trace_block_tokens = {block_size}",
            file.display()
        ));
    }
    Ok(())
}

/// Folders that do not exist yet. Those that were made are removed when this goes,
/// so that a run that came to nothing leaves nothing behind.
struct Fresh(Vec<PathBuf>);

impl Fresh {
    /// Of these paths and all that they lie in.
    fn note<'a>(paths: impl Iterator<Item = &'a PathBuf>) -> Self {
        let mut absent: Vec<PathBuf> = paths
            .flat_map(|path| path.ancestors())
            .filter(|path| **path != *Path::new("") && !path.exists())
            .map(Path::to_owned)
            .collect();
        // The deepest first.
        absent.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
        absent.dedup();
        Self(absent)
    }

    fn keep(mut self) {
        self.0.clear();
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        for folder in &self.0 {
            // One that is not empty is not ours alone, and stays.
            let _ = std::fs::remove_dir(folder);
        }
    }
}
