//! What the simulator's parts cost, and whole runs.
//!
//! `cargo bench --bench sim` runs all of it, `cargo bench --bench sim -- engine`
//! one part. The routing decision has a file of its own.

mod cache;
mod engine;
mod queue;
mod runs;

use criterion::{Criterion, criterion_group, criterion_main};
use std::time::Duration;

/// Short, so that all of it takes about a minute; changes of a few percent need
/// `--measurement-time` and a quiet machine.
fn short() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
}

criterion_group! {
    name = parts;
    config = short();
    targets = queue::benches, cache::benches, engine::benches, runs::benches
}
criterion_main!(parts);
