//! What each pool of workers served in a window.

use super::window::Level;
use super::{End, Metrics, RequestRecord};
use crate::engine::Gauges;
use crate::id::WorkerId;
use crate::metrics::catalogue;
use crate::time::SimTime;
use std::ops::Range;

/// Follows the pools of a run.
#[derive(Debug)]
pub(super) struct ByPool {
    /// The pools, with the places of their workers.
    pools: Vec<(String, Range<usize>)>,
    /// By pool.
    served: Vec<Served>,
}

/// Of requests that finished in the window.
#[derive(Clone, Copy, Debug, Default)]
struct Served {
    requests: u64,
    /// Of prompts that were computed there.
    prompt_tokens: u64,
    cached_tokens: u64,
}

impl ByPool {
    pub(super) fn new(pools: Vec<(String, Range<usize>)>) -> Self {
        let served = vec![Served::default(); pools.len()];
        Self { pools, served }
    }

    /// Observes another level from now on.
    pub(super) fn begin_level(&mut self) {
        self.served.fill(Served::default());
    }

    fn pool_of(&self, worker: WorkerId) -> usize {
        let found = self.pools.iter().position(|(_, workers)| workers.contains(&worker.index()));
        found.expect("every worker is in a pool")
    }

    /// A request ended: it counts for each pool that it passed through.
    pub(super) fn end(&mut self, now: SimTime, level: &Level, record: &RequestRecord, end: End) {
        if now < level.begin || !matches!(end, End::Finished { .. }) {
            return;
        }
        for stay in record.stays() {
            let pool = self.pool_of(stay.worker);
            self.served[pool].requests += 1;
        }
        if let Some((_, worker)) = record.dispatched {
            let pool = self.pool_of(worker);
            self.served[pool].prompt_tokens += u64::from(record.prompt_tokens);
            self.served[pool].cached_tokens += u64::from(record.cached_tokens);
        }
    }

    /// Metrics of the level, whose window ends at `end`, with the gauges of all workers at
    /// both ends.
    pub(super) fn metrics(
        &self,
        level: &Level,
        end: SimTime,
        (before, after): (&[Gauges], &[Gauges]),
        metrics: &mut Metrics,
    ) {
        let elapsed = end - level.begin;
        let ratio = |part: f64, whole: f64| (whole > 0.0).then(|| part / whole);
        for ((name, workers), served) in self.pools.iter().zip(&self.served) {
            let rate = ratio(served.requests as f64, elapsed.as_secs());
            metrics.insert(catalogue::POOL_REQUESTS.of_pool(name), rate);
            let hits = ratio(served.cached_tokens as f64, served.prompt_tokens as f64);
            metrics.insert(catalogue::POOL_HIT_RATIO.of_pool(name), hits);
            let (before, after) = (&before[workers.clone()], &after[workers.clone()]);
            let mean = |of: fn(&Gauges) -> u128| {
                let total: u128 = before.iter().zip(after).map(|(a, b)| of(b) - of(a)).sum();
                ratio(total as f64, elapsed.as_ps() as f64)
            };
            let running = mean(|gauges| gauges.running_ps);
            metrics.insert(catalogue::POOL_RUNNING.of_pool(name), running);
            let waiting = mean(|gauges| gauges.waiting_ps);
            metrics.insert(catalogue::POOL_WAITING.of_pool(name), waiting);
        }
    }
}
