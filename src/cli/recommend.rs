//! `sim recommend`.

use super::args::{ExperimentArgs, Format, JobsArgs};
use super::error::CliError;
use super::import::Deployment;
use super::progress::Bar;
use super::simulate::{load, load_options, overrides, with_progress};
use super::talk::{print, say};
use kv_router_sim::experiment::{Experiment, check_writable, read_at_most, write_files};
use kv_router_sim::recommend::{Asked, Prices};
use kv_router_sim::report::render::{save, table};
use kv_router_sim::results::ResultFolder;
use kv_router_sim::settings::parse_share;
use std::path::{Path, PathBuf};

/// What the folder gets.
const FILES: [&str; 2] = ["recommendation.json", "recommendation.md"];

/// Find the cheapest fleet and settings that meet an SLO, with the model's error counted in
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sim recommend doks-3xh200 --set workload.concurrency=120 --over cluster.workers=2..5:1 \\
      --within ttft_ms_p95=700ms
  sim init my-fleet && \\
    sim recommend my-fleet --set workload.concurrency=256 --over cluster.workers=1..8:1 --explain

Chooses among every combination of swept values: policies and their parameters, workers, models
(GPUs, tensor and expert parallelism), prefill apart (cluster.prefill.workers), limits of the batch,
memory tiers, variants. Load and SLO are given, not swept. --within defaults to the targets of [slo].
Without --prices the hours of GPUs are counted. Results go to plots/NAME-recommend unless --out
names another folder.")]
pub(crate) struct RecommendArgs {
    #[command(flatten)]
    pub(crate) experiment: ExperimentArgs,
    #[command(flatten)]
    pub(crate) jobs: JobsArgs,
    /// A target to meet, like ttft_ms_p95=600ms, or `slo` for that of `[slo]`; several must all be met
    #[arg(long, value_name = "METRIC=VALUE")]
    pub(crate) within: Vec<String>,
    /// Sweep a key, besides what the experiment sweeps; short for --set sweep.KEY=VALUES
    #[arg(long, value_name = "KEY=VALUES")]
    pub(crate) over: Vec<String>,
    /// Prices of an hour, a TOML file; without one hours of GPUs are counted
    #[arg(long, value_name = "FILE")]
    pub(crate) prices: Option<PathBuf>,
    /// How sure intervals have to be
    #[arg(long, value_name = "SHARE", default_value = "95%", value_parser = share)]
    pub(crate) confidence: f64,
    /// Try the winner at a load that is larger by this share; 0 does not
    #[arg(long, value_name = "SHARE", default_value = "20%", value_parser = share)]
    pub(crate) more_load: f64,
    /// Say why not the neighbours, by all seeds
    #[arg(long)]
    pub(crate) explain: bool,
    /// Simulate every candidate with every seed, to check the search
    #[arg(long)]
    pub(crate) full_grid: bool,
    /// Write what is recommended as a change of what sim import read, to deploy: into the folder
    /// patch of the results
    #[arg(long)]
    pub(crate) patch: bool,
    /// Folder for the results [default: plots/NAME-recommend, by the experiment's name]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Replace another recommendation in that folder
    #[arg(long)]
    pub(crate) force: bool,
    /// Output format
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
    /// Short for --format json
    #[arg(long, conflicts_with = "format")]
    pub(crate) json: bool,
}

/// Searches, prints and saves what was found.
pub(super) fn run(args: RecommendArgs, traces: Option<PathBuf>) -> Result<(), CliError> {
    let axes: Vec<String> = args.over.iter().map(|over| format!("sweep.{over}")).collect();
    let overrides = overrides(&args.experiment, axes)?;
    let prices = args.prices.as_deref().map(read_prices).transpose()?;
    let experiment = load(&args.experiment, overrides.clone(), traces.clone())?;
    let asked = Asked {
        within: args.within,
        prices,
        confidence: args.confidence,
        more_load: args.more_load,
        explain: args.explain,
        now: args.patch,
        full_grid: args.full_grid,
        prefix: "--",
    };
    let default = ResultFolder::default_path(&format!("{}-recommend", experiment.name));
    let folder = args.out.unwrap_or(default);
    let is_new = !folder.exists();
    let deployment =
        || Deployment::of(&args.experiment.file, &args.experiment.overrides, folder.join("patch"));
    let deployment = args.patch.then(deployment).transpose()?;
    check_folder(&folder, &experiment, &asked, args.force)?;
    let again = |at: String| {
        let overrides = overrides.iter().cloned().chain([at]).collect();
        Experiment::load(&args.experiment.file, &load_options(overrides, traces.clone()))
    };
    let bar = Bar::new();
    let found = asked.recommend(&experiment, again, with_progress(args.jobs.count(), &bar));
    bar.clear();
    let found = found.inspect_err(|_| {
        if is_new {
            // Only what is empty goes.
            let _ = std::fs::remove_dir(&folder);
        }
    })?;
    let [json, markdown] = FILES.map(|file| folder.join(file));
    write_files(&[(json, save::json(&found)), (markdown, found.markdown())])?;
    say(&format!("saved in {}", folder.display()));
    let format = if args.json { Format::Json } else { args.format };
    match format {
        Format::Json => print(&save::json(&found))?,
        Format::Text => print(&found.report(table::WIDTH))?,
    }
    let Some(deployment) = deployment else { return Ok(()) };
    if args.force {
        deployment.clear()?;
    }
    let deployed = deployment.write(&found)?;
    match format {
        Format::Json => {
            say(deployed.trim_end());
            Ok(())
        }
        Format::Text => print(&format!("\nTo deploy it:\n{deployed}")),
    }
}

/// A share as it was typed: `0.2` or `20%`.
fn share(text: &str) -> Result<f64, String> {
    parse_share(text).ok_or_else(|| "must be a share, like 0.2 or 20%".to_owned())
}

/// A file of prices is at most so long (assumed: a hundred times the longest list of GPUs).
const MOST_BYTES: u64 = 1 << 20;

fn read_prices(file: &Path) -> Result<Prices, CliError> {
    let text = read_at_most(file, MOST_BYTES)
        .map_err(|error| CliError::Prices { file: file.to_owned(), reason: error.to_string() })?;
    Ok(Prices::parse(file, &text)?)
}

/// Finds out before anything runs whether the results can be written, and that they do not
/// replace those of something else.
fn check_folder(
    folder: &Path,
    experiment: &Experiment,
    asked: &Asked,
    force: bool,
) -> Result<(), CliError> {
    for file in FILES {
        check_writable(&folder.join(file))?;
    }
    if force {
        return Ok(());
    }
    let Ok(text) = std::fs::read_to_string(folder.join(FILES[0])) else { return Ok(()) };
    let found = serde_json::from_str::<serde_json::Value>(&text).ok();
    let is_same = found.is_some_and(|found| {
        found["config_hash"] == *experiment.config_hash
            && found["asked"] == serde_json::json!(asked)
    });
    if is_same {
        return Ok(());
    }
    Err(CliError::OtherRecommendation { folder: folder.to_owned() })
}
