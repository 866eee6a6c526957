//! Bursts of waiting: how long requests queue at each worker, over short times.
//!
//! A percentile over minutes hides a worker that stands still for seconds. So
//! time is cut into *spike windows*, and for each worker and window the mean
//! queue time of the requests is taken whose first token came in it. The height
//! of a spike depends on the length of the window: 5 s show about three times
//! what 60 s do.

use super::record::{Metrics, ms};
use crate::id::WorkerId;
use crate::metrics::{Statistic, catalogue};
use crate::time::{SimDuration, SimTime};

/// A window is a spike above this mean queue time (assumed: two steps of a full
/// batch, so more than waiting for the step that runs).
const SPIKE: SimDuration = SimDuration::from_millis(100);

/// See the module.
#[derive(Debug)]
pub(super) struct QueueSpikes {
    window: SimDuration,
    workers: Vec<Line>,
}

/// One worker.
#[derive(Clone, Copy, Debug, Default)]
struct Line {
    /// The window that is being filled.
    index: u64,
    sum_ps: u128,
    count: u64,
    /// The window before it was a spike.
    high: bool,
    highest_ps: u64,
    /// Spikes: windows in a row count once.
    spikes: u32,
}

impl Line {
    fn close(&mut self, next: u64) {
        if self.count > 0 {
            let mean_ps = u64::try_from(self.sum_ps / u128::from(self.count)).unwrap_or(u64::MAX);
            self.highest_ps = self.highest_ps.max(mean_ps);
            let high = mean_ps > SPIKE.as_ps();
            self.spikes += u32::from(high && !self.high);
            self.high = high;
        }
        self.high &= next == self.index + 1;
        *self = Self { index: next, sum_ps: 0, count: 0, ..*self };
    }
}

impl QueueSpikes {
    pub(super) fn new(workers: usize, window: SimDuration) -> Self {
        Self { window, workers: vec![Line::default(); workers] }
    }

    /// A request that `queued` at `worker` gets its first token `elapsed` after
    /// the measurement began.
    pub(super) fn first_token(
        &mut self,
        elapsed: SimDuration,
        worker: WorkerId,
        queued: SimDuration,
    ) {
        let line = &mut self.workers[worker.index()];
        let index = elapsed.as_ps() / self.window.as_ps();
        if index != line.index {
            line.close(index);
        }
        line.sum_ps += u128::from(queued.as_ps());
        line.count += 1;
    }

    /// Of all windows, the last one included, complete or not.
    pub(super) fn metrics(&self, begin: SimTime, end: SimTime, metrics: &mut Metrics) {
        if end == begin {
            return;
        }
        let mut lines = self.workers.clone();
        lines.iter_mut().for_each(|line| line.close(line.index + 1));
        let highest = lines.iter().map(|line| line.highest_ps).max().unwrap_or(0);
        let most = lines.iter().map(|line| line.spikes).max().unwrap_or(0);
        let all: u32 = lines.iter().map(|line| line.spikes).sum();
        metrics.insert(catalogue::QUEUE_SPIKE.only(), Some(ms(highest)));
        metrics.insert(catalogue::QUEUE_SPIKES.name(Statistic::Plain), Some(f64::from(all)));
        metrics.insert(catalogue::QUEUE_SPIKES.name(Statistic::Max), Some(f64::from(most)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The same from all values at once.
        #[test]
        fn spikes_are_those_of_a_table(
            values in prop::collection::vec((0u64..3, 0usize..2, 0u64..400), 0..60)
        ) {
            let window = SimDuration::from_secs(2);
            let mut spikes = QueueSpikes::new(2, window);
            let mut second = 0;
            let mut table = vec![vec![Vec::new(); 100]; 2];
            for (wait, worker, queued_ms) in values {
                second += wait;
                let id = WorkerId(u32::try_from(worker).unwrap());
                let queued = SimDuration::from_millis(queued_ms);
                spikes.first_token(SimDuration::from_secs(second), id, queued);
                table[worker][usize::try_from(second / 2).unwrap()].push(queued_ms as f64);
            }
            let mean = |cell: &Vec<f64>| cell.iter().sum::<f64>() / cell.len().max(1) as f64;
            let means: Vec<Vec<f64>> =
                table.iter().map(|row| row.iter().map(mean).collect()).collect();
            let count = |row: &Vec<f64>| {
                let high = |at: usize| row[at] > 100.0;
                (0..row.len()).filter(|&at| high(at) && (at == 0 || !high(at - 1))).count() as f64
            };
            let counts: Vec<f64> = means.iter().map(count).collect();
            let mut metrics = Metrics::new();
            spikes.metrics(SimTime::ZERO, SimTime::from_ps(1), &mut metrics);
            prop_assert_eq!(metrics["queue_spikes"], Some(counts.iter().sum()));
            prop_assert_eq!(metrics["queue_spikes_max"], Some(counts.iter().copied().fold(0.0, f64::max)));
            let highest = means.iter().flatten().copied().fold(0.0, f64::max);
            prop_assert!((metrics["queue_spike_ms_max"].unwrap() - highest).abs() < 1e-6);
        }
    }
}
