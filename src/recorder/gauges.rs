//! What workers' gauges say about a window, and the law that holds them to requests.

use super::Recorder;
use super::record::{Metrics, RequestRecord};
use crate::engine::Gauges;
use crate::metrics::{MetricKind, catalogue};
use crate::time::SimTime;

/// What gauges are reported as: requests in the batch, requests that wait, and
/// KV blocks used, of all workers or of those of one pool.
pub(super) type GaugeKinds = [&'static MetricKind; 3];

pub(super) const OF_ALL: GaugeKinds =
    [catalogue::RUNNING, catalogue::WAITING, catalogue::KV_BLOCKS_USED];
pub(super) const OF_PREFILL: GaugeKinds =
    [catalogue::PREFILL_RUNNING, catalogue::PREFILL_WAITING, catalogue::PREFILL_KV_BLOCKS_USED];
pub(super) const OF_DECODE: GaugeKinds =
    [catalogue::DECODE_RUNNING, catalogue::DECODE_WAITING, catalogue::DECODE_KV_BLOCKS_USED];

/// Means per worker over the window.
pub(super) fn gauge_metrics(
    [running, waiting, used]: GaugeKinds,
    (start, end): (&[Gauges], &[Gauges]),
    (elapsed_ps, workers): (u64, Option<f64>),
    metrics: &mut Metrics,
) {
    let workers = workers.filter(|workers| *workers > 0.0 && elapsed_ps > 0);
    let Some(workers) = workers else { return };
    let mut mean = |kind: &MetricKind, of: fn(&Gauges) -> u128| {
        let total: u128 = start.iter().zip(end).map(|(a, b)| of(b) - of(a)).sum();
        let mean = total as f64 / elapsed_ps as f64 / workers;
        metrics.insert(kind.only(), Some(mean));
    };
    mean(running, |gauges| gauges.running_ps);
    mean(waiting, |gauges| gauges.waiting_ps);
    mean(used, |gauges| gauges.used_blocks_ps);
}

impl Recorder {
    /// Little's law without averages: the workers' request-seconds over the
    /// window are the requests' seconds in it.
    pub(super) fn check_little(
        &self,
        begin: SimTime,
        now: SimTime,
        start: &[Gauges],
        end: &[Gauges],
    ) {
        let at = |gauges: &[Gauges]| -> u128 {
            gauges.iter().map(|gauge| gauge.running_ps + gauge.waiting_ps).sum()
        };
        let open = self.open.iter().filter(|record| self.is_at_worker(record));
        let still_open: u128 = open
            .filter_map(RequestRecord::stay)
            .map(|(dispatched, _)| u128::from((now - dispatched.max(begin)).as_ps()))
            .sum();
        let from_gauges = at(end) - at(start);
        let from_requests = self.residence_ps + still_open;
        assert_eq!(from_gauges, from_requests, "Little's law, window {begin:?} to {now:?}");
    }
}
