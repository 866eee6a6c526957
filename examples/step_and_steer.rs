//! Steps a simulation, moves the load at half time, and prints what that does to the
//! 95th percentile of the time to the first token.
//!
//!     cargo run --release --example step_and_steer

use kv_router_sim::experiment::{Experiment, LoadOptions, simulation};
use kv_router_sim::simulation::{Control, controls_toml};
use kv_router_sim::time::{SimDuration, SimTime};
use std::error::Error;
use std::path::Path;

/// The percentile before and after, and the control as an experiment would have it.
pub(crate) fn step_and_steer() -> Result<(f64, f64, String), Box<dyn Error>> {
    let mut options = LoadOptions::default();
    for change in ["router.policy=kv", "workload.concurrency=60", "measure.window=200s"] {
        options.overrides.push(change.to_owned());
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("experiments/doks-3xh200.toml");
    let run = Experiment::load(&file, &options)?.runs.remove(0);
    let mut simulation = simulation(&run.settings, &run.levels, 1);
    let half = SimDuration::from_secs(100);
    simulation.watch(half);

    simulation.advance(SimTime::ZERO + half)?;
    let before = simulation.snapshot().recent.and_then(|recent| recent.ttft_ms_p95);
    simulation.apply(Control::Load { concurrency: 180, cut: false })?;
    simulation.advance(SimTime::ZERO + half * 2)?;
    let after = simulation.snapshot().recent.and_then(|recent| recent.ttft_ms_p95);
    let both = before.zip(after).ok_or("no request had a first token")?;
    Ok((both.0, both.1, controls_toml(simulation.applied())))
}

#[expect(clippy::print_stdout, reason = "an example shows what it finds")]
fn main() -> Result<(), Box<dyn Error>> {
    let (before, after, control) = step_and_steer()?;
    println!("TTFT p95 with  60 conversations: {before:.0} ms");
    println!("TTFT p95 with 180 conversations: {after:.0} ms");
    println!("\n# The same in an experiment:\n{control}");
    Ok(())
}
