//! How evenly requests in flight are spread over the workers.

use super::record::Metrics;
use crate::id::WorkerId;
use crate::metrics::{Statistic, catalogue};
use crate::router::{WorkerView, Workers};
use crate::time::SimTime;

/// Follows the number of requests in flight per worker (from dispatch to end)
/// and the momentary spread, the largest number minus the smallest. A change
/// costs O(1), whatever the number of workers.
#[derive(Debug)]
pub struct InflightSpread {
    /// Those that are not there count for nothing.
    workers: Workers,
    /// Worker-picoseconds of presence since `begin`.
    present_ps: u128,
    begin: SimTime,
    since: SimTime,
    spread_ps: u128,
    largest_spread: u32,
    /// Per worker: request-picoseconds, up to the last change there.
    inflight_ps: Vec<u128>,
    changed: Vec<SimTime>,
}

impl InflightSpread {
    /// All workers idle.
    pub fn new(workers: u32) -> Self {
        Self {
            workers: Workers::new(vec![WorkerView::default(); workers as usize]),
            present_ps: 0,
            begin: SimTime::ZERO,
            since: SimTime::ZERO,
            spread_ps: 0,
            largest_spread: 0,
            inflight_ps: vec![0; workers as usize],
            changed: vec![SimTime::ZERO; workers as usize],
        }
    }

    /// Number of workers.
    pub fn workers(&self) -> usize {
        self.workers.views().len()
    }

    /// The momentary spread.
    fn spread(&self) -> u32 {
        let view = self.workers.view();
        view.most_inflight() - view.least_inflight()
    }

    /// How many workers are there.
    fn present(&self) -> u128 {
        self.workers.view().available_count() as u128
    }

    /// Forgets the past: means and maxima count from `now`.
    pub fn restart(&mut self, now: SimTime) {
        self.advance(now);
        self.begin = now;
        self.spread_ps = 0;
        self.present_ps = 0;
        self.largest_spread = self.spread();
        self.inflight_ps.fill(0);
        self.changed.fill(now);
    }

    /// Counts the time until `now`.
    pub fn advance(&mut self, now: SimTime) {
        let elapsed = u128::from((now - self.since).as_ps());
        self.since = now;
        // A spread counts once it has lasted: changes of one moment are one change.
        if elapsed > 0 {
            self.largest_spread = self.largest_spread.max(self.spread());
        }
        self.spread_ps += elapsed * u128::from(self.spread());
        self.present_ps += elapsed * self.present();
    }

    /// A request begins or ends at `worker`.
    pub fn change(&mut self, now: SimTime, worker: WorkerId, begins: bool) {
        self.advance(now);
        let index = worker.index();
        let elapsed = u128::from((now - self.changed[index]).as_ps());
        self.inflight_ps[index] += elapsed * u128::from(self.workers.views()[index].inflight);
        self.changed[index] = now;
        if begins { self.workers.sent(worker) } else { self.workers.ended(worker) }
    }

    /// `worker` is there from `now` on, or is not.
    pub fn set_present(&mut self, now: SimTime, worker: WorkerId, present: bool) {
        self.advance(now);
        self.workers.set_available(worker, present);
    }

    /// Mean number of workers that were there; `None` over no time.
    pub fn workers_mean(&self, now: SimTime) -> Option<f64> {
        let elapsed = (now - self.begin).as_ps();
        let latest = u128::from((now - self.since).as_ps()) * self.present();
        let present_ps = self.present_ps + latest;
        let all = self.workers() as f64;
        // Exactly so many, where none ever left.
        let always = present_ps == u128::from(elapsed) * self.workers() as u128;
        (elapsed > 0).then(|| if always { all } else { present_ps as f64 / elapsed as f64 })
    }

    pub(super) fn metrics(&self, now: SimTime, metrics: &mut Metrics) {
        let elapsed = (now - self.begin).as_ps() as f64;
        if elapsed == 0.0 {
            return;
        }
        let means: Vec<f64> = (0..self.workers())
            .map(|i| {
                let open = u128::from((now - self.changed[i]).as_ps())
                    * u128::from(self.workers.views()[i].inflight);
                (self.inflight_ps[i] + open) as f64 / elapsed
            })
            .collect();
        let workers = self.workers_mean(now).filter(|workers| *workers > 0.0).unwrap_or(1.0);
        let mean = means.iter().sum::<f64>() / workers;
        let most = means.iter().copied().fold(0.0, f64::max);
        let spread = catalogue::INFLIGHT_SPREAD;
        metrics.insert(catalogue::INFLIGHT.only(), Some(mean));
        metrics.insert(spread.name(Statistic::Max), Some(f64::from(self.largest_spread)));
        metrics.insert(spread.name(Statistic::Mean), Some(self.spread_ps as f64 / elapsed));
        metrics.insert(catalogue::INFLIGHT_SKEW.only(), (mean > 0.0).then(|| most / mean));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The extremes that move by one are the extremes, at moments that last.
        #[test]
        fn spread_matches_a_scan(changes in prop::collection::vec((0u32..4, any::<bool>(), 0u64..4), 1..80)) {
            let mut spread = InflightSpread::new(4);
            let mut now = 0;
            let (mut largest, mut integral) = (0, 0u128);
            for (worker, begins, wait) in changes {
                let inflight = || spread.workers.views().iter().map(|worker| worker.inflight);
                let scan = inflight().max().unwrap() - inflight().min().unwrap();
                // What lasts no time is not a spread: changes of one moment are one change.
                largest = if wait > 0 { largest.max(scan) } else { largest };
                integral += u128::from(scan) * u128::from(wait);
                now += wait;
                let begins = begins || spread.workers.views()[worker as usize].inflight == 0;
                spread.change(SimTime::from_ps(now), WorkerId(worker), begins);
                let (view, loads) = (spread.workers.view(), spread.workers.views());
                let inflight = || loads.iter().map(|worker| worker.inflight);
                prop_assert_eq!(view.least_inflight(), inflight().min().unwrap());
                prop_assert_eq!(view.most_inflight(), inflight().max().unwrap());
            }
            prop_assert_eq!(spread.largest_spread, largest);
            prop_assert_eq!(spread.spread_ps, integral);
        }
    }
}
