//! Runs an experiment into a folder, reads the folder back and prints a metric of
//! every point. Run it with `cargo run --release --example read_results`.

use kv_router_sim::experiment::results::Point;
use kv_router_sim::experiment::{Experiment, LoadOptions};
use kv_router_sim::metrics::{Metric, Statistic, catalogue};
use kv_router_sim::results::{ResultFolder, Results, RunInto, run_into};
use std::path::Path;

/// Runs an experiment into a new folder. A process that is killed meanwhile can go
/// on later, with [`ResultFolder::resume`].
pub(crate) fn run(folder: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("experiments/doks-3xh200.toml");
    let changes = ["workload.concurrency=60", "measure.window=100s", "measure.seeds=2"];
    let overrides = changes.map(str::to_owned).to_vec();
    let options = LoadOptions { overrides: overrides.clone(), ..LoadOptions::default() };
    let experiment = Experiment::load(&file, &options)?;
    let folder = ResultFolder::create(folder, &experiment)?;
    let options = RunInto { figures: false, ..RunInto::new(file, overrides) };
    run_into(folder, &experiment, &options)?.report?;
    Ok(())
}

/// A line for every point of the results in a folder: `kv: TTFT p95 (ms) = 433`.
pub(crate) fn read(folder: &Path) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let Results { summary, .. } = Results::load(folder)?;
    let metric = Metric::of(&catalogue::TTFT.name(Statistic::P(95)));
    let line = |point: &Point| {
        let mean = point.metrics[&metric.name].mean;
        let mean = mean.map_or("undefined".to_owned(), |mean| format!("{mean:.0}"));
        let policy = point.params["router.policy"].as_str().unwrap_or_default();
        format!("{policy}: {} = {mean}", metric.with_unit())
    };
    Ok(summary.points.iter().map(line).collect())
}

#[allow(dead_code, clippy::print_stdout, reason = "tests call `run` and `read`")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let place = tempfile::tempdir()?;
    run(&place.path().join("results"))?;
    for line in read(&place.path().join("results"))? {
        println!("{line}");
    }
    Ok(())
}
