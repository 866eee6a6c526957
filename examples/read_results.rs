//! Runs an experiment into a folder, reads the folder back and prints a metric of
//! every point. Run it with `cargo run --release --example read_results`.

use kv_router_sim::{
    Experiment, LoadOptions, Metric, Point, ResultFolder, Results, RunInto, run_into,
};
use std::path::Path;

/// Runs an experiment into a new folder. If the process is killed meanwhile, another one
/// can finish the run with [`ResultFolder::resume`].
pub(crate) fn run(folder: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let changes = ["workload.concurrency=60", "measure.window=100s", "measure.seeds=2"];
    let options = LoadOptions::default().set_all(changes);
    let experiment = Experiment::load("doks-3xh200".as_ref(), &options)?;
    let folder = ResultFolder::create(folder, &experiment)?;
    let options = RunInto::new("doks-3xh200", options.overrides).without_figures();
    run_into(folder, &experiment, &options)?.report?;
    Ok(())
}

/// A line for every point of the results in a folder: `kv: TTFT p95 (ms) = 433`.
pub(crate) fn read(folder: &Path) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let results = Results::load(folder)?;
    let metric = Metric::of("ttft_ms_p95");
    let line = |point: &Point| {
        let mean = point.metrics[&metric.name].mean;
        let mean = mean.map_or("undefined".to_owned(), |mean| format!("{mean:.0}"));
        let policy = point.params["router.policy"].as_str().unwrap_or_default();
        format!("{policy}: {} = {mean}", metric.with_unit())
    };
    Ok(results.summary.points.iter().map(line).collect())
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
