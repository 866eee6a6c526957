//! Steps a simulation, moves the load at half time, and prints what that does to the
//! 95th percentile of the time to the first token.
//!
//!     cargo run --release --example step_and_steer

use kv_router_sim::{Control, Experiment, LoadOptions, SimDuration, SimTime, controls_toml};
use std::error::Error;

/// The percentile before and after, and the control as an experiment would have it.
pub(crate) fn step_and_steer() -> Result<(f64, f64, String), Box<dyn Error>> {
    let changes = ["router.policy=kv", "workload.concurrency=60", "measure.window=200s"];
    let options = LoadOptions::default().set_all(changes);
    let experiment = Experiment::load("doks-3xh200".as_ref(), &options)?;
    let mut simulation = experiment.runs[0].simulation(1);
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

#[allow(dead_code, clippy::print_stdout, reason = "tests call `step_and_steer`")]
fn main() -> Result<(), Box<dyn Error>> {
    let (before, after, control) = step_and_steer()?;
    println!("TTFT p95 with  60 conversations: {before:.0} ms");
    println!("TTFT p95 with 180 conversations: {after:.0} ms");
    println!("\n# The same in an experiment:\n{control}");
    Ok(())
}
