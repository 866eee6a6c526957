//! The values of the last moments, for those who look while a run goes on.

use super::record::{End, RequestRecord, ms};
use crate::id::WorkerId;
use crate::stats;
use crate::time::{SimDuration, SimTime};
use std::collections::VecDeque;

/// What was observed over a trailing time. Latencies are in milliseconds; they and
/// ratios are `None` where there was no request.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Recent {
    /// The time it covers: less than was asked for at the start.
    pub over: SimDuration,
    /// Median time from sending to first token, of requests whose first token came.
    pub ttft_ms_p50: Option<f64>,
    /// 95th percentile of that.
    pub ttft_ms_p95: Option<f64>,
    /// Mean over finished requests of their mean time between tokens.
    pub itl_ms_mean: Option<f64>,
    /// Median over finished requests of their mean time between tokens.
    pub itl_ms_p50: Option<f64>,
    /// 95th percentile over finished requests of their mean time between tokens.
    pub itl_ms_p95: Option<f64>,
    /// Median time from sending to last token, of finished requests.
    pub e2e_ms_p50: Option<f64>,
    /// 95th percentile of that.
    pub e2e_ms_p95: Option<f64>,
    /// Requests finished a second.
    pub requests_per_s: f64,
    /// Cached prompt tokens over all prompt tokens, of finished requests.
    pub hit_ratio: Option<f64>,
    /// Rejected and failed requests over all that ended.
    pub error_ratio: Option<f64>,
}

/// What one worker has shown over a trailing time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct RecentWorker {
    /// Mean time, in milliseconds, from dispatch to the first batch, of requests whose
    /// first token came.
    pub(crate) queue_ms: Option<f64>,
    /// Cached prompt tokens over all prompt tokens, of finished requests that were sent
    /// there first.
    pub(crate) hit_ratio: Option<f64>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Trailing {
    over: SimDuration,
    first_tokens: VecDeque<FirstToken>,
    ends: VecDeque<Ended>,
}

#[derive(Clone, Copy, Debug)]
struct FirstToken {
    at: SimTime,
    ttft: SimDuration,
    worker: WorkerId,
    queued: SimDuration,
}

#[derive(Clone, Copy, Debug)]
struct Ended {
    at: SimTime,
    is_served: bool,
    e2e: SimDuration,
    worker: Option<WorkerId>,
    itl: Option<SimDuration>,
    cached_tokens: u32,
    prompt_tokens: u32,
}

impl Trailing {
    pub(super) fn new(over: SimDuration) -> Self {
        Self { over, first_tokens: VecDeque::new(), ends: VecDeque::new() }
    }

    pub(super) fn first_token(&mut self, now: SimTime, record: &RequestRecord) {
        let Some(((dispatched, worker), scheduled)) = record.dispatched.zip(record.scheduled)
        else {
            return;
        };
        let ttft = now - record.sent;
        let queued = scheduled.since(dispatched);
        self.first_tokens.push_back(FirstToken { at: now, ttft, worker, queued });
        self.drop_past(now);
    }

    pub(super) fn end(&mut self, now: SimTime, record: &RequestRecord, end: End) {
        let (is_served, gaps) = match end {
            End::Finished { output_tokens } => (true, u64::from(output_tokens) - 1),
            End::Rejected(_) | End::Failed | End::GivenUp => (false, 0),
        };
        let itl = record.first_token.filter(|_| gaps > 0).map(|first| (now - first) / gaps);
        let RequestRecord { cached_tokens, prompt_tokens, .. } = *record;
        let (e2e, worker) = (now - record.sent, record.dispatched.map(|(_, worker)| worker));
        let ended = Ended { at: now, is_served, e2e, worker, itl, cached_tokens, prompt_tokens };
        self.ends.push_back(ended);
        self.drop_past(now);
    }

    fn drop_past(&mut self, now: SimTime) {
        let from = self.from(now);
        while self.first_tokens.front().is_some_and(|first| first.at < from) {
            self.first_tokens.pop_front();
        }
        while self.ends.front().is_some_and(|end| end.at < from) {
            self.ends.pop_front();
        }
    }

    fn from(&self, now: SimTime) -> SimTime {
        SimTime::from_ps(now.as_ps().saturating_sub(self.over.as_ps()))
    }

    pub(super) fn recent(&self, now: SimTime) -> Recent {
        let from = self.from(now);
        let over = now - from;
        let quantiles = |values: &mut Vec<u64>, q: f64| {
            values.sort_unstable();
            stats::quantile_by(values.len(), q, |rank| ms(values[rank]))
        };
        let firsts = self.first_tokens.iter().filter(|first| first.at >= from);
        let mut ttft: Vec<u64> = firsts.map(|first| first.ttft.as_ps()).collect();
        let ends = || self.ends.iter().filter(|end| end.at >= from);
        let served = || ends().filter(|end| end.is_served);
        let mut itl: Vec<u64> = served().filter_map(|end| Some(end.itl?.as_ps())).collect();
        let mut e2e: Vec<u64> = served().map(|end| end.e2e.as_ps()).collect();
        let itl_ms: Vec<f64> = itl.iter().map(|&ps| ms(ps)).collect();
        let ratio = |part: f64, whole: f64| (whole > 0.0).then(|| part / whole);
        let sum = |of: fn(&Ended) -> u32| served().map(|end| f64::from(of(end))).sum::<f64>();
        let (all, served_count) = (ends().count() as f64, served().count() as f64);
        Recent {
            over,
            ttft_ms_p50: quantiles(&mut ttft, 0.5),
            ttft_ms_p95: quantiles(&mut ttft, 0.95),
            itl_ms_mean: stats::mean(&itl_ms),
            itl_ms_p50: quantiles(&mut itl, 0.5),
            itl_ms_p95: quantiles(&mut itl, 0.95),
            e2e_ms_p50: quantiles(&mut e2e, 0.5),
            e2e_ms_p95: quantiles(&mut e2e, 0.95),
            requests_per_s: ratio(served_count, over.as_secs()).unwrap_or(0.0),
            hit_ratio: ratio(sum(|end| end.cached_tokens), sum(|end| end.prompt_tokens)),
            error_ratio: ratio(all - served_count, all),
        }
    }

    /// The first `workers` workers, one by one.
    pub(super) fn by_worker(&self, now: SimTime, workers: usize) -> Vec<RecentWorker> {
        let from = self.from(now);
        let mut sums = vec![Sums::default(); workers];
        for first in self.first_tokens.iter().filter(|first| first.at >= from) {
            let sums = &mut sums[first.worker.index()];
            sums.queue_ms += first.queued.as_millis();
            sums.firsts += 1.0;
        }
        for end in self.ends.iter().filter(|end| end.at >= from && end.is_served) {
            let Some(worker) = end.worker else { continue };
            let sums = &mut sums[worker.index()];
            sums.cached += f64::from(end.cached_tokens);
            sums.prompts += f64::from(end.prompt_tokens);
        }
        let ratio = |part: f64, whole: f64| (whole > 0.0).then(|| part / whole);
        let recent = |sums: &Sums| RecentWorker {
            queue_ms: ratio(sums.queue_ms, sums.firsts),
            hit_ratio: ratio(sums.cached, sums.prompts),
        };
        sums.iter().map(recent).collect()
    }
}

/// Of one worker.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    queue_ms: f64,
    firsts: f64,
    cached: f64,
    prompts: f64,
}
