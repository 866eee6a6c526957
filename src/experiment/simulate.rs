//! One simulation: from settings to the metrics of its levels.

use super::config::Settings;
use super::measure::Quantiles;
use crate::driver::{Driver, Schedule, Stuck};
use crate::fleet::SimulatedFleet;
use crate::recorder::{self, Metrics, Recorder, RequestRecord, Slo};
use crate::rng::{Use, mix};
use crate::router::ClusterSpec;
use crate::router::front_end::FrontEnd;
use std::sync::Arc;

/// What one simulation found.
#[derive(Clone, Debug)]
pub struct RunOutcome {
    /// The metrics of each level, in order.
    pub levels: Vec<Metrics>,
    /// SHA-256 over everything the outside saw.
    pub digest: [u8; 32],
    /// Every request, if asked for; in order of end, the unfinished ones last.
    pub requests: Vec<RequestRecord>,
}

/// Simulates `settings` at each of the `levels` of concurrency, one after the other.
///
/// # Errors
/// If the workload cannot come to its end.
pub fn simulate(
    settings: &Settings,
    levels: &[u32],
    seed: u64,
    keep_requests: bool,
) -> Result<RunOutcome, Stuck> {
    let workers = settings.cluster.workers;
    let engine = Arc::new(settings.engine.clone());
    let cluster = ClusterSpec {
        workers,
        block_size: engine.block_size,
        blocks_per_worker: engine.num_blocks,
        max_num_seqs: engine.max_num_seqs,
        max_num_batched_tokens: engine.max_num_batched_tokens,
    };
    let factory = settings.router.factory();
    let feed = settings.router.feed();
    let front_end = |index: u32| {
        // Replicas must not share their random choices.
        let seed_of = |usage: Use| mix(seed ^ mix(usage as u64)).wrapping_add(u64::from(index));
        let policy = factory.build(&cluster, seed_of(Use::Policy));
        FrontEnd::new(policy, workers, &feed, seed_of(Use::Feed))
    };
    let front_ends: Vec<FrontEnd> = (0..settings.router.replicas).map(front_end).collect();
    let wants_kv_events = front_ends.iter().any(FrontEnd::wants_kv_events);
    let mut fleet = SimulatedFleet::new(workers, &engine, wants_kv_events);
    if feed.count_copies.unwrap_or(true) {
        fleet.count_copies();
    }
    let workload = settings.source.build(engine.block_size, seed);
    let recorder = Recorder::new(workers, keep_requests);
    let mut driver = Driver::new(fleet, workload, front_ends, recorder, engine.block_size);
    let measure = &settings.measure;
    let schedule = Schedule {
        concurrency: levels.to_vec(),
        warmup: measure.warmup,
        window: measure.window,
        quantiles: match measure.quantiles() {
            Quantiles::Requests => recorder::Quantiles::Requests,
            Quantiles::Snapshots { every, trailing } => {
                recorder::Quantiles::Snapshots { every, trailing }
            }
        },
        slo: settings
            .slo
            .as_ref()
            .map_or_else(Slo::default, |slo| Slo { ttft: slo.ttft, itl: slo.itl }),
    };
    let levels = driver.run(&schedule)?;
    let (recorder, _) = driver.into_parts();
    Ok(RunOutcome { levels, digest: recorder.digest(), requests: recorder.into_requests() })
}
