//! A policy of your own with a parameter of its own, swept like any other:
//! `cargo run --release --example own_policy`, from the root of the repository.

use kv_router_sim::{
    ClusterView, Experiment, LoadOptions, Parameters, Point, Policy, Registration, RouteRequest,
    RunOptions, SimTime, Verdict, WorkerId, run,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::error::Error;

/// The first worker, in order of id, that has room.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
struct FirstWithRoom {
    /// Requests that a worker may have in flight.
    room: u32,
}

impl Parameters for FirstWithRoom {}

impl Policy for FirstWithRoom {
    fn route(&mut self, _: SimTime, _: &RouteRequest<'_>, view: &ClusterView<'_>) -> Verdict {
        let has_room = |&worker: &u32| view.workers[worker as usize].inflight < self.room;
        let found = (0u32..).take(view.workers.len()).find(has_room);
        Verdict::send(WorkerId(found.unwrap_or(0)))
    }
}

/// Room, and the p95 of the time to first token in ms, of each point.
pub(crate) fn sweep() -> Result<Vec<(String, f64)>, Box<dyn Error>> {
    let rule = "the first worker that has room";
    let own = Registration::new("first_with_room", rule, |own: &FirstWithRoom, _, _| own.clone());
    let options = LoadOptions::default()
        .policy(own)
        .set("router.policy=first_with_room")
        .set("sweep.router.room=[20, 40, 60]")
        .set("workload.concurrency=60")
        .set("measure.window=100s")
        .set("measure.seeds=1");
    let experiment = Experiment::load("doks-3xh200".as_ref(), &options)?;
    let points = run(&experiment, RunOptions::default())?.summary.points;
    let row = |point: &Point| {
        let ttft_ms = point.metrics["ttft_ms_p95"].mean.unwrap_or(f64::NAN);
        (point.params["router.room"].to_string(), ttft_ms)
    };
    Ok(points.iter().map(row).collect())
}

#[allow(dead_code, clippy::print_stdout, reason = "tests call `sweep`")]
fn main() -> Result<(), Box<dyn Error>> {
    for (room, ttft_ms) in sweep()? {
        println!("room for {room} requests: TTFT p95 {ttft_ms:.0} ms");
    }
    Ok(())
}
