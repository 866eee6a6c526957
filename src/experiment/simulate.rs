//! One simulation: from settings to the metrics of its levels.

use super::config::Settings;
use super::measure::Quantiles;
use crate::driver::{Decision, Driver, Schedule, Stuck};
use crate::engine::config::EngineConfig;
use crate::fleet::SimulatedFleet;
use crate::fleet::changes::{Changes, FailoverSettings};
use crate::id::RequestId;
use crate::recorder::{self, Metrics, Recorder, RequestRecord, Slo};
use crate::rng::{Use, mix};
use crate::router::disaggregated::Disaggregated;
use crate::router::feed::RestartSettings;
use crate::router::front_end::FrontEnd;
use crate::router::{ClusterSpec, Policy};
use crate::time::SimTime;
use crate::workload::Retries;
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
    /// The decision to be taken apart, if one was asked for and made.
    pub decision: Option<Decision>,
}

/// What to keep of a simulation besides its metrics. Changes nothing in it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Watch {
    /// A record of every request.
    pub requests: bool,
    /// What every choice of a worker gave away, where the settings do not ask for it.
    pub why: bool,
    /// The decision about this request, taken apart.
    pub decision_of: Option<RequestId>,
}

/// Simulates `settings` at each of the `levels` of concurrency, one after the other.
///
/// # Errors
/// If the workload cannot come to its end.
pub fn simulate(
    settings: &Settings,
    levels: &[u32],
    seed: u64,
    watch: Watch,
) -> Result<RunOutcome, Stuck> {
    let engine = Arc::new(settings.engine.clone());
    let measure = &settings.measure;
    let front_ends = front_ends(settings, seed);
    let wants_kv_events = front_ends.iter().any(FrontEnd::wants_kv_events);
    let plan = settings.cluster.plan();
    let slots = plan.slots();
    let mut fleet = match &settings.pools {
        Some(pools) => SimulatedFleet::with_pools(pools, wants_kv_events),
        None => SimulatedFleet::new(slots, &engine, wants_kv_events),
    };
    let prefill_workers = settings.pools.as_ref().map_or(0, |pools| pools.prefill_workers);
    if front_ends.iter().any(FrontEnd::wants_output_blocks) {
        fleet.tell_output_blocks();
    }
    if settings.router.feed().count_copies.unwrap_or(true) {
        fleet.count_copies();
    }
    let mut workload = settings.source.build(engine.block_size, seed);
    if plan.failover.retries > 0 && !plan.is_empty() {
        let FailoverSettings { retries, retry_pause, .. } = plan.failover;
        workload = Box::new(Retries::new(workload, retries, retry_pause));
    }
    let mut recorder = Recorder::new(slots, watch.requests)
        .with_spike_window(measure.spike_window)
        .with_pools(prefill_workers);
    if measure.why || watch.why && settings.pools.is_none() {
        recorder = recorder.measure_why(engine.block_size);
    }
    let tiers = &engine.tiers;
    if !tiers.tiers.is_empty() {
        let media = tiers.tiers.iter().map(|tier| tier.medium).collect();
        let token_bytes = tiers.block_bytes as f64 / f64::from(engine.block_size);
        recorder = recorder.measure_tiers(media, token_bytes);
    }
    let mut driver = Driver::new(fleet, workload, front_ends, recorder, engine.block_size)
        .spread(settings.router.spread)
        .with_pools(prefill_workers);
    if !plan.is_empty() {
        driver = driver.changes(Changes::new(plan, engine.num_blocks, engine.max_num_seqs));
    }
    if let Some(request) = watch.decision_of {
        driver = driver.explain(request);
    }
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
    let decision = driver.decision().cloned();
    let (recorder, _) = driver.into_parts();
    let digest = recorder.digest();
    Ok(RunOutcome { levels, digest, requests: recorder.into_requests(), decision })
}

/// The routers in front of the fleet.
fn front_ends(settings: &Settings, seed: u64) -> Vec<FrontEnd> {
    let router = &settings.router;
    let workers = settings.cluster.slots();
    let feed = router.feed();
    let front_end = |index: u32| {
        // Replicas must not share their random choices.
        let seed_of = |usage: Use| mix(seed ^ mix(usage as u64)).wrapping_add(u64::from(index));
        let build = || policy(settings, seed_of(Use::Policy));
        let mut front_end = FrontEnd::new(build(), workers, &feed, seed_of(Use::Feed));
        if let Some(delay) = router.sync_delay {
            front_end = front_end.hear_peers(delay);
        }
        match router.restart {
            Some(RestartSettings { at, recovery_delay }) => {
                front_end.restart_at(SimTime::ZERO + at, build(), recovery_delay)
            }
            None => front_end,
        }
    };
    (0..router.replicas).map(front_end).collect()
}

/// One front end's policy.
fn policy(settings: &Settings, seed: u64) -> Box<dyn Policy> {
    let Settings { cluster, engine, router, policy, pools, .. } = settings;
    let spec = |workers: u32, engine: &EngineConfig| ClusterSpec {
        workers,
        block_size: engine.block_size,
        blocks_per_worker: engine.num_blocks,
        max_num_seqs: engine.max_num_seqs,
        max_num_batched_tokens: engine.max_num_batched_tokens,
    };
    let Some(pools) = pools else {
        return policy.build(router, &spec(cluster.slots(), engine), seed);
    };
    let clusters =
        [spec(pools.prefill_workers, &pools.prefill), spec(pools.decode_workers, &pools.decode)];
    let prefill = policy.build(&router.for_prefill(), &clusters[0], seed);
    let decode = policy.build(&router.for_decode(), &clusters[1], mix(seed));
    let both = Disaggregated::new([prefill, decode], &clusters);
    Box::new(both.with_condition(router.conditional_disaggregation))
}
