//! `sim compare`.

use super::error::{CliError, argument};
use super::talk::print;
use clap::ValueEnum;
use kv_router_sim::metrics::{MAIN, check_name};
use kv_router_sim::report::render::{compared::Compared, table};
use kv_router_sim::results::read_summary;
use kv_router_sim::settings::Invalid;
use std::path::PathBuf;

/// Compare two saved result sets: what changed, most certain first
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sim run doks-3xh200 --seeds 2 --out before
  sim run doks-3xh200 --seeds 2 --out after --set router.overlap_weight=2
  sim compare before after
  sim compare before after --format markdown --all")]
pub(crate) struct CompareArgs {
    /// Folder with the earlier results
    pub(crate) before: PathBuf,
    /// Folder with the results to compare with them
    pub(crate) after: PathBuf,
    /// A metric to compare [default: the main ones]
    #[arg(long, value_name = "METRIC")]
    pub(crate) metric: Vec<String>,
    /// Compare every metric
    #[arg(long, conflicts_with = "metric")]
    pub(crate) all: bool,
    /// A key whose value may differ between paired points
    #[arg(long, value_name = "KEY")]
    pub(crate) ignore: Vec<String>,
    /// Output format
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: CompareFormat,
}

/// How a comparison is printed
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum CompareFormat {
    #[default]
    Text,
    Markdown,
    Json,
}

/// Compares two saved result sets and prints what changed.
pub(super) fn run(args: CompareArgs) -> Result<(), CliError> {
    for metric in &args.metric {
        check_name("--metric", metric)?;
    }
    let (before, after) = (read_summary(&args.before)?, read_summary(&args.after)?);
    let metrics: Vec<&str> = match args.metric.as_slice() {
        _ if args.all => Vec::new(),
        [] => MAIN.to_vec(),
        asked => asked.iter().map(String::as_str).collect(),
    };
    let names = [&args.before, &args.after].map(|folder| folder.display().to_string());
    let compared = Compared::new((&before, &names[0]), (&after, &names[1]), &metrics, &args.ignore)
        .map_err(argument)?;
    if compared.is_empty() {
        let allowed = format!(
            "results of points and metrics that {} has too; --ignore KEY pairs points that differ \
             in a key",
            names[0]
        );
        return Err(Invalid::new("AFTER", &names[1], allowed).into());
    }
    print(&match args.format {
        CompareFormat::Text => compared.text(table::WIDTH),
        CompareFormat::Markdown => compared.markdown(),
        CompareFormat::Json => compared.json(),
    })
}
