//! The values observed in a measurement window, and the metrics made of them.

use super::spikes::QueueSpikes;
use super::{End, Metrics, RequestRecord, RequestWhy, ms};
use crate::stats::{self, Histogram};
use crate::time::{SimDuration, SimTime};

/// When a level is measured, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// Start of the measured window: the level's warm-up is over.
    pub begin: SimTime,
    /// What percentiles are taken over.
    pub quantiles: Quantiles,
    /// Targets of a good request.
    pub slo: Slo,
}

/// What a percentile is taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantiles {
    /// All requests of the window.
    Requests,
    /// The requests of the `trailing` time before each snapshot; the mean over
    /// the snapshots at `every`, `2 every`, ... into the window is reported.
    Snapshots {
        /// Time between snapshots.
        every: SimDuration,
        /// Time before a snapshot that it covers.
        trailing: SimDuration,
    },
}

/// Latency targets; a request is good if it meets every one given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slo {
    /// Longest time to first token.
    pub ttft: Option<SimDuration>,
    /// Longest mean time between tokens.
    pub itl: Option<SimDuration>,
}

/// One metric's values, in picoseconds, in order of observation.
#[derive(Debug, Default)]
pub(super) struct Column {
    /// When each value was observed; kept only where snapshots need it.
    at: Vec<SimTime>,
    values: Vec<u64>,
}

/// Everything observed of one level.
#[derive(Debug)]
pub(super) struct Observations {
    ttft: Column,
    engine_ttft: Column,
    queue: Column,
    router_queue: Column,
    transfer: Column,
    decode_queue: Column,
    itl: Column,
    e2e: Column,
    first_tokens: u64,
    finished: u64,
    good: u64,
    rejected: u64,
    failed: u64,
    preemptions: u64,
    prompt_tokens: u64,
    cached_tokens: u64,
    hit_ratio_sum: f64,
    /// Per worker: summed queue time in picoseconds, and requests.
    queue_by_worker: Vec<(u128, u64)>,
    spikes: QueueSpikes,
    why: Option<WhySums>,
}

/// Sums over finished requests of what they gave away.
#[derive(Debug, Default)]
struct WhySums {
    regret_blocks: u64,
    eviction_tokens: u64,
    wrong_worker_tokens: u64,
    stale_index_tokens: u64,
}

impl WhySums {
    fn add(&mut self, why: &RequestWhy) {
        self.regret_blocks += u64::from(why.regret_blocks);
        self.eviction_tokens += u64::from(why.eviction_tokens);
        self.wrong_worker_tokens += u64::from(why.wrong_worker_tokens);
        self.stale_index_tokens += u64::from(why.stale_index_tokens);
    }
}

impl Column {
    pub(super) fn push(&mut self, now: SimTime, level: &Level, value: SimDuration) {
        if let Quantiles::Snapshots { .. } = level.quantiles {
            self.at.push(now);
        } else if now < level.begin {
            return;
        }
        self.values.push(value.as_ps());
    }

    /// Summaries of the values: one per snapshot, or one of all.
    fn summaries(self, level: &Level, end: SimTime) -> Vec<Summary> {
        match level.quantiles {
            Quantiles::Requests => vec![Summary::of(self.values)],
            Quantiles::Snapshots { every, trailing } => {
                let mut summaries = Vec::new();
                let mut at = level.begin + every;
                while at <= end {
                    let from = SimTime::from_ps(at.as_ps().saturating_sub(trailing.as_ps()));
                    let first = self.at.partition_point(|&observed| observed <= from);
                    let last = self.at.partition_point(|&observed| observed <= at);
                    summaries.push(Summary::of(self.values[first..last].to_vec()));
                    at += every;
                }
                summaries
            }
        }
    }

    pub(super) fn metrics(self, name: &str, level: &Level, end: SimTime, metrics: &mut Metrics) {
        let summaries = self.summaries(level, end);
        let mut insert = |suffix: &str, values: Vec<f64>| {
            metrics.insert(format!("{name}_{suffix}"), stats::mean(&values));
        };
        insert("mean", summaries.iter().filter_map(|summary| summary.mean).collect());
        for (suffix, q) in [("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99), ("max", 1.0)]
        {
            insert(suffix, summaries.iter().filter_map(|summary| summary.quantile(q)).collect());
        }
    }
}

/// Statistics in milliseconds of values in picoseconds.
struct Summary {
    mean: Option<f64>,
    sorted: Vec<u64>,
}

impl Summary {
    fn of(mut values: Vec<u64>) -> Self {
        // Integers sort faster than floats, and their sum is exact.
        values.sort_unstable();
        let total: u128 = values.iter().map(|&ps| u128::from(ps)).sum();
        let mean = (!values.is_empty()).then(|| total as f64 / values.len() as f64 / 1e9);
        Self { mean, sorted: values }
    }

    fn quantile(&self, q: f64) -> Option<f64> {
        stats::quantile_by(self.sorted.len(), q, |rank| ms(self.sorted[rank]))
    }
}

impl Observations {
    pub(super) fn new(workers: usize, spikes: QueueSpikes, why: bool) -> Self {
        Self {
            ttft: Column::default(),
            engine_ttft: Column::default(),
            queue: Column::default(),
            router_queue: Column::default(),
            transfer: Column::default(),
            decode_queue: Column::default(),
            itl: Column::default(),
            e2e: Column::default(),
            first_tokens: 0,
            finished: 0,
            good: 0,
            rejected: 0,
            failed: 0,
            preemptions: 0,
            prompt_tokens: 0,
            cached_tokens: 0,
            hit_ratio_sum: 0.0,
            queue_by_worker: vec![(0, 0); workers],
            spikes,
            why: why.then(WhySums::default),
        }
    }

    pub(super) fn first_token(&mut self, now: SimTime, level: &Level, record: &RequestRecord) {
        let (dispatched, worker) = record.dispatched.expect("a served request was dispatched");
        let scheduled = record.scheduled.expect("a served request was scheduled");
        let queued = scheduled - dispatched;
        self.ttft.push(now, level, now - record.sent);
        self.engine_ttft.push(now, level, now - dispatched);
        self.queue.push(now, level, queued);
        self.router_queue.push(now, level, dispatched - record.arrived);
        if let Some(handover) = record.handover
            && let (Some(transfer), Some(queued)) = (handover.transfer, handover.queued())
        {
            self.transfer.push(now, level, transfer);
            self.decode_queue.push(now, level, queued);
        }
        if now >= level.begin {
            self.first_tokens += 1;
            let (sum, count) = &mut self.queue_by_worker[worker.index()];
            *sum += u128::from(queued.as_ps());
            *count += 1;
            self.spikes.first_token(now - level.begin, worker, queued);
        }
    }

    pub(super) fn end(&mut self, now: SimTime, level: &Level, record: &RequestRecord, end: End) {
        let in_window = now >= level.begin;
        let output_tokens = match end {
            End::Finished { output_tokens } => output_tokens,
            End::Rejected(_) => {
                self.rejected += u64::from(in_window);
                return;
            }
            End::Failed => {
                self.failed += u64::from(in_window);
                return;
            }
        };
        let first_token = record.first_token.expect("a finished request has a first token");
        let gaps = u64::from(output_tokens - 1);
        // A request of one token has no time between tokens.
        let itl = (gaps > 0).then(|| (now - first_token) / gaps);
        if let Some(itl) = itl {
            self.itl.push(now, level, itl);
        }
        self.e2e.push(now, level, now - record.sent);
        if !in_window {
            return;
        }
        self.finished += 1;
        self.preemptions += u64::from(record.preemptions);
        self.prompt_tokens += u64::from(record.prompt_tokens);
        self.cached_tokens += u64::from(record.cached_tokens);
        self.hit_ratio_sum += f64::from(record.cached_tokens) / f64::from(record.prompt_tokens);
        if let (Some(sums), Some(why)) = (&mut self.why, &record.why) {
            sums.add(why);
        }
        let meets = |limit: Option<SimDuration>, value: SimDuration| {
            limit.is_none_or(|limit| value <= limit)
        };
        let good = meets(level.slo.ttft, first_token - record.sent)
            && itl.is_none_or(|itl| meets(level.slo.itl, itl));
        self.good += u64::from(good);
    }

    /// Requests lost with their workers.
    pub(super) fn failed(&self) -> u64 {
        self.failed
    }

    /// Prompt tokens of requests that finished in the window.
    pub(super) fn prompt_tokens(&self) -> u64 {
        self.prompt_tokens
    }

    pub(super) fn metrics(self, level: &Level, end: SimTime, gaps: &Histogram) -> Metrics {
        let mut metrics = Metrics::new();
        metrics.insert("queue_skew".to_owned(), self.queue_skew());
        self.ttft.metrics("ttft_ms", level, end, &mut metrics);
        self.engine_ttft.metrics("engine_ttft_ms", level, end, &mut metrics);
        self.queue.metrics("queue_ms", level, end, &mut metrics);
        self.router_queue.metrics("router_queue_ms", level, end, &mut metrics);
        if !self.transfer.values.is_empty() {
            self.transfer.metrics("transfer_ms", level, end, &mut metrics);
            self.decode_queue.metrics("decode_queue_ms", level, end, &mut metrics);
        }
        self.itl.metrics("itl_ms", level, end, &mut metrics);
        self.e2e.metrics("e2e_ms", level, end, &mut metrics);
        let mut insert = |name: &str, value: Option<f64>| {
            metrics.insert(name.to_owned(), value);
        };
        insert("inter_token_ms_mean", gaps.mean().map(|ps| ps / 1e9));
        for (suffix, q) in [("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99)] {
            let value = gaps.quantile(q).map(|ps| ps / 1e9);
            insert(&format!("inter_token_ms_{suffix}"), value);
        }
        let ratio = |part: f64, whole: f64| (whole > 0.0).then(|| part / whole);
        let seconds = (end - level.begin).as_secs();
        let finished = self.finished as f64;
        // Every token of the window is the first of its request or follows a gap.
        let tokens = self.first_tokens as f64 + gaps.count() as f64;
        insert("output_tokens_per_s", ratio(tokens, seconds));
        insert("requests_per_s", ratio(finished, seconds));
        insert("finished", Some(finished));
        insert("rejected", Some(self.rejected as f64));
        insert("preemptions", Some(self.preemptions as f64));
        let unserved = (self.rejected + self.failed) as f64;
        insert("error_ratio", ratio(unserved, finished + unserved));
        insert("hit_ratio", ratio(self.cached_tokens as f64, self.prompt_tokens as f64));
        insert("hit_ratio_request_mean", ratio(self.hit_ratio_sum, finished));
        if level.slo != Slo::default() {
            insert("slo_attainment", ratio(self.good as f64, finished + unserved));
            insert("goodput_per_s", ratio(self.good as f64, seconds));
        }
        if let Some(why) = &self.why {
            let share = |tokens: u64| ratio(tokens as f64, self.prompt_tokens as f64);
            let lost = why.eviction_tokens + why.wrong_worker_tokens + why.stale_index_tokens;
            insert("overlap_regret_blocks_mean", ratio(why.regret_blocks as f64, finished));
            insert("hit_ratio_bound", share(self.cached_tokens + lost));
            insert("lost_to_eviction_ratio", share(why.eviction_tokens));
            insert("lost_to_wrong_worker_ratio", share(why.wrong_worker_tokens));
            insert("lost_to_stale_index_ratio", share(why.stale_index_tokens));
        }
        self.spikes.metrics(level.begin, end, &mut metrics);
        metrics
    }

    /// The largest worker's mean queue time over that of all requests.
    fn queue_skew(&self) -> Option<f64> {
        let mean = |sum: u128, count: u64| sum as f64 / count as f64;
        let (sum, count) = self
            .queue_by_worker
            .iter()
            .fold((0, 0), |(sum, count), worker| (sum + worker.0, count + worker.1));
        if sum == 0 {
            return None;
        }
        let served = self.queue_by_worker.iter().filter(|worker| worker.1 > 0);
        let largest = served.map(|&(sum, count)| mean(sum, count)).fold(0.0, f64::max);
        Some(largest / mean(sum, count))
    }
}
