//! `sim report` and `sim plot`: saved results shown again, nothing simulated.

use super::error::CliError;
use super::talk::say;
use kv_router_sim::plot::{self, DrawnFor, FigureOptions};
use kv_router_sim::report::judge::terms::Terms;
use kv_router_sim::report::render::html::REPORT_FILE;
use kv_router_sim::results::{Results, write_figures};
use std::path::PathBuf;

/// Write the report of saved results: one HTML file that needs no network
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sim run doks-3xh200 --seeds 1 --no-figures
  sim report plots/doks-3xh200              write plots/doks-3xh200/report.html
  sim report plots/doks-3xh200 --out site   write site/report.html

`sim run` and `sim sweep` write it too, except with --no-figures.")]
pub(crate) struct ReportArgs {
    /// A folder of results, as `sim run` writes it
    results: PathBuf,
    /// Folder for the report [default: the folder of the results]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Draw figures of saved results along any axis, of any metric
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sim run doks-3xh200 --seeds 1 --no-figures
  sim plot plots/doks-3xh200 --y queue_ms_p95 --y queue_ms_p50
  sim plot plots/doks-3xh200 --x workload.concurrency --y hit_ratio --out figures

Metrics of one kind (ttft_ms_p50, ttft_ms_p95) share a figure.")]
pub(crate) struct PlotArgs {
    /// A folder of results, as `sim run` writes it
    results: PathBuf,
    /// The swept key on the x axis [default: the numeric key with most values]
    #[arg(long, value_name = "KEY")]
    x: Option<String>,
    /// A metric to draw [default: latencies, throughput, hits and queue time]
    #[arg(long, value_name = "METRIC")]
    y: Vec<String>,
    /// Folder for the figures [default: the folder of the results]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Writes the report.
pub(super) fn report(args: &ReportArgs) -> Result<(), CliError> {
    let folder = args.out.as_ref().unwrap_or(&args.results);
    Results::load(&args.results)?.write_report(folder)?;
    say(&format!("saved as {}", folder.join(REPORT_FILE).display()));
    Ok(())
}

/// Draws what was chosen.
pub(super) fn plot(args: PlotArgs) -> Result<(), CliError> {
    let saved = Results::load(&args.results)?;
    let targets = plot::targets(&Terms::of(&saved.details));
    let choice = FigureOptions { x: args.x, metrics: args.y, targets };
    let published = saved.details.published.as_ref();
    let figures = plot::figures(&saved.summary, published, &choice, DrawnFor::Files)?;
    let folder = args.out.unwrap_or(args.results);
    write_figures(&folder, &figures)?;
    for figure in &figures {
        say(&format!("saved as {}", folder.join(format!("{}.svg", figure.name)).display()));
    }
    Ok(())
}
