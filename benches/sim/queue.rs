//! The event queue.

use criterion::{BenchmarkId, Criterion};
use kv_router_sim::id::WorkerId;
use kv_router_sim::queue::{EventQueue, Precedence};
use kv_router_sim::rng::mix;
use kv_router_sim::time::{SimDuration, SimTime};

/// Takes the next event and schedules its worker again, at 1 to 2 ms: what a
/// fleet does once per step.
pub(crate) fn benches(c: &mut Criterion) {
    let mut group = c.benchmark_group("queue");
    for workers in [16u32, 1_000] {
        let mut queue = EventQueue::new(workers);
        for worker in (0..workers).map(WorkerId) {
            queue.schedule(worker, SimTime::ZERO, Precedence::StepEnd);
        }
        let mut n = 0;
        group.bench_function(BenchmarkId::new("pop and schedule", workers), |b| {
            b.iter(|| {
                let (worker, due) =
                    queue.pop_before(SimTime::MAX, Precedence::StepEnd).expect("a worker is due");
                n += 1;
                let gap = SimDuration::from_micros(1_000 + mix(n) % 1_000);
                queue.schedule(worker, due.at + gap, Precedence::StepEnd);
                worker
            });
        });
    }
    group.finish();
}
