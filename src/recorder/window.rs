//! The values observed in a measurement window, and the metrics made of them.

use super::record::{End, Metrics, RequestRecord, ms};
use super::spikes::QueueSpikes;
use super::why::RequestWhy;
use crate::engine::Gauges;
use crate::event::RejectReason;
use crate::metrics::{MetricKind, Statistic, catalogue};
use crate::stats::{self, Histogram};
use crate::time::{SimDuration, SimTime};
use std::collections::BTreeMap;

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
    /// The mean over snapshots at `every`, `2 every`, ... after the warm-up, as
    /// long as they lie in the window, of percentiles over the `trailing` time.
    Snapshots {
        /// Time between snapshots; not more than the window.
        every: SimDuration,
        /// Time before a snapshot that it covers; never reaches back beyond the
        /// start of the level.
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

/// The shares of requests at which distributions are kept: enough to draw them,
/// finer towards the slow end, where answers are looked for.
pub const SHARES: [f64; 26] = [
    0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75,
    0.8, 0.85, 0.9, 0.925, 0.95, 0.97, 0.98, 0.99, 0.995,
];

/// Values of which halves are not compared: their medians say little (assumed).
const FEW_VALUES: usize = 40;

/// By latency, as `ttft_ms`: its quantiles at [`SHARES`], taken as its
/// percentiles are; none of a latency that no request has.
pub type Curves = BTreeMap<String, Vec<f64>>;

/// One metric's values, in picoseconds, in order of observation.
#[derive(Debug, Default)]
pub(super) struct Latencies {
    /// When each value was observed; kept only where snapshots need it.
    at: Vec<SimTime>,
    values: Vec<u64>,
}

/// The level that is being observed.
#[derive(Debug)]
pub(super) struct Window {
    pub(super) level: Level,
    pub(super) observations: Observations,
    /// Gauges when the window began, once it has.
    pub(super) start: Option<Vec<Gauges>>,
}

/// Everything observed of one level.
#[derive(Debug)]
pub(super) struct Observations {
    ttft: Latencies,
    engine_ttft: Latencies,
    queue: Latencies,
    router_queue: Latencies,
    transfer: Latencies,
    decode_queue: Latencies,
    itl: Latencies,
    e2e: Latencies,
    /// Requests that came in the window.
    arrived: u64,
    /// Requests under way when the window began, and when the last one came.
    backlog: (u64, u64),
    first_tokens: u64,
    finished: u64,
    good: u64,
    rejected: u64,
    /// Those of them that clients send again.
    sent_again: u64,
    /// Those over a limit of admission, before busy workers, and after too long a wait.
    refused: [u64; 3],
    failed: u64,
    cut_short: u64,
    given_up: u64,
    given_up_unanswered: u64,
    preemptions: u64,
    prompt_tokens: u64,
    cached_tokens: u64,
    hit_ratio_sum: f64,
    /// Per worker: summed queue time in picoseconds, and requests.
    queue_by_worker: Vec<(u128, u64)>,
    spikes: QueueSpikes,
    why: Option<WhySums>,
}

/// Sums over finished requests of what they lost by choices of workers.
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

impl Latencies {
    pub(super) fn push(&mut self, now: SimTime, level: &Level, value: SimDuration) {
        if let Quantiles::Snapshots { .. } = level.quantiles {
            self.at.push(now);
        } else if now < level.begin {
            return;
        }
        self.values.push(value.as_ps());
    }

    /// The median of the second half of the window's values over that of the first
    /// half; `None` of few.
    fn drift(&self, level: &Level) -> Option<f64> {
        let from = self.at.partition_point(|&observed| observed < level.begin);
        let values = &self.values[from..];
        if values.len() < FEW_VALUES {
            return None;
        }
        let (first, second) = values.split_at(values.len() / 2);
        let median = |half: &[u64]| *half.to_vec().select_nth_unstable(half.len() / 2).1;
        let (first, second) = (median(first), median(second));
        (first > 0).then(|| second as f64 / first as f64)
    }

    /// Summaries of the values: one per snapshot, or one of all.
    fn summaries(&self, level: &Level, end: SimTime) -> Vec<Summary> {
        match level.quantiles {
            Quantiles::Requests => vec![Summary::of(self.values.clone())],
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

    pub(super) fn metrics(
        &self,
        kind: &MetricKind,
        level: &Level,
        end: SimTime,
        metrics: &mut Metrics,
    ) {
        write(kind, &self.summaries(level, end), metrics);
    }

    /// As [`metrics`](Self::metrics), and its distribution.
    fn curve(
        &self,
        kind: &MetricKind,
        level: &Level,
        end: SimTime,
        (metrics, curves): (&mut Metrics, &mut Curves),
    ) {
        let summaries = self.summaries(level, end);
        let at = |q: f64| -> Option<f64> {
            stats::mean(&summaries.iter().filter_map(|s| s.quantile(q)).collect::<Vec<_>>())
        };
        curves.extend(
            SHARES
                .into_iter()
                .map(at)
                .collect::<Option<Vec<f64>>>()
                .map(|curve| (kind.stem.to_owned(), curve)),
        );
        write(kind, &summaries, metrics);
    }
}

/// The statistics of a latency: of several snapshots the means over them.
fn write(kind: &MetricKind, summaries: &[Summary], metrics: &mut Metrics) {
    for &statistic in kind.statistics {
        let of = |summary: &Summary| match quantile_of(statistic) {
            Some(q) => summary.quantile(q),
            None => summary.mean,
        };
        let values: Vec<f64> = summaries.iter().filter_map(of).collect();
        metrics.insert(kind.name(statistic), stats::mean(&values));
    }
}

/// The share of values below a percentile; `None` for the mean.
fn quantile_of(statistic: Statistic) -> Option<f64> {
    match statistic {
        Statistic::P(percent) => Some(f64::from(percent) / 100.0),
        Statistic::Max => Some(1.0),
        Statistic::Mean | Statistic::Plain | Statistic::OfPool => None,
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
            ttft: Latencies::default(),
            engine_ttft: Latencies::default(),
            queue: Latencies::default(),
            router_queue: Latencies::default(),
            transfer: Latencies::default(),
            decode_queue: Latencies::default(),
            itl: Latencies::default(),
            e2e: Latencies::default(),
            arrived: 0,
            backlog: (0, 0),
            first_tokens: 0,
            finished: 0,
            good: 0,
            rejected: 0,
            sent_again: 0,
            refused: [0; 3],
            failed: 0,
            cut_short: 0,
            given_up: 0,
            given_up_unanswered: 0,
            preemptions: 0,
            prompt_tokens: 0,
            cached_tokens: 0,
            hit_ratio_sum: 0.0,
            queue_by_worker: vec![(0, 0); workers],
            spikes,
            why: why.then(WhySums::default),
        }
    }

    /// The window begins with so many requests under way.
    pub(super) fn begin(&mut self, under_way: u64) {
        (self.arrived, self.backlog) = (0, (under_way, under_way));
    }

    /// A request came, and with it so many are under way.
    pub(super) fn arrive(&mut self, under_way: u64) {
        self.arrived += 1;
        self.backlog.1 = under_way;
    }

    /// By how much the backlog grew until the last request came, over the requests
    /// that came.
    fn backlog_growth(&self) -> Option<f64> {
        let (before, after) = self.backlog;
        (self.arrived > 0).then(|| (after as f64 - before as f64) / self.arrived as f64)
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
            End::Rejected(reason) => {
                self.rejected += u64::from(in_window);
                self.sent_again += u64::from(in_window && record.is_sent_again());
                let place = [RejectReason::Full, RejectReason::Busy, RejectReason::WaitedTooLong]
                    .iter()
                    .position(|known| *known == reason);
                if let Some(place) = place {
                    self.refused[place] += u64::from(in_window);
                }
                return;
            }
            End::Failed => {
                self.failed += u64::from(in_window);
                return;
            }
            End::GivenUp => {
                let is_unanswered = record.first_token.is_none();
                self.given_up += u64::from(in_window);
                self.given_up_unanswered += u64::from(in_window && is_unanswered);
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
        self.cut_short += u64::from(output_tokens < record.asked_tokens);
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

    /// Requests whose clients hung up, and those of them without a first token.
    pub(super) fn hang_ups(&self, metrics: &mut Metrics) {
        metrics.insert(catalogue::GIVEN_UP.only(), Some(self.given_up as f64));
        let unanswered = Some(self.given_up_unanswered as f64);
        metrics.insert(catalogue::GIVEN_UP_UNANSWERED.only(), unanswered);
    }

    /// Requests that were refused, by cause, and those that clients had no answer to.
    pub(super) fn refusals(&self, metrics: &mut Metrics) {
        let kinds =
            [catalogue::REJECTED_FULL, catalogue::REJECTED_BUSY, catalogue::REJECTED_WAITED];
        for (kind, count) in kinds.into_iter().zip(self.refused) {
            metrics.insert(kind.only(), Some(count as f64));
        }
        let unserved = self.rejected + self.failed + self.given_up - self.sent_again;
        let all = self.finished + unserved;
        let ratio = (all > 0).then(|| unserved as f64 / all as f64);
        metrics.insert(catalogue::UNSERVED.only(), ratio);
    }

    /// Requests lost with their workers.
    pub(super) fn failed(&self) -> u64 {
        self.failed
    }

    /// Prompt tokens of requests that finished in the window.
    pub(super) fn prompt_tokens(&self) -> u64 {
        self.prompt_tokens
    }

    pub(super) fn metrics(
        &self,
        level: &Level,
        end: SimTime,
        gaps: &Histogram,
    ) -> (Metrics, Curves) {
        let (mut metrics, mut curves) = (Metrics::new(), Curves::new());
        let (queue_skew, growth) = (self.queue_skew(), self.backlog_growth());
        metrics.insert(catalogue::TTFT_DRIFT.only(), self.ttft.drift(level));
        self.ttft.curve(catalogue::TTFT, level, end, (&mut metrics, &mut curves));
        self.engine_ttft.metrics(catalogue::ENGINE_TTFT, level, end, &mut metrics);
        self.queue.metrics(catalogue::QUEUE, level, end, &mut metrics);
        self.router_queue.metrics(catalogue::ROUTER_QUEUE, level, end, &mut metrics);
        if !self.transfer.values.is_empty() {
            self.transfer.metrics(catalogue::TRANSFER, level, end, &mut metrics);
            self.decode_queue.metrics(catalogue::DECODE_QUEUE, level, end, &mut metrics);
        }
        self.itl.curve(catalogue::ITL, level, end, (&mut metrics, &mut curves));
        self.e2e.curve(catalogue::E2E, level, end, (&mut metrics, &mut curves));
        for &statistic in catalogue::INTER_TOKEN.statistics {
            let ps = quantile_of(statistic).map_or(gaps.mean(), |q| gaps.quantile(q));
            metrics.insert(catalogue::INTER_TOKEN.name(statistic), ps.map(|ps| ps / 1e9));
        }
        let mut insert = |kind: &MetricKind, value: Option<f64>| {
            metrics.insert(kind.only(), value);
        };
        insert(catalogue::QUEUE_SKEW, queue_skew);
        insert(catalogue::BACKLOG_GROWTH, growth);
        let ratio = |part: f64, whole: f64| (whole > 0.0).then(|| part / whole);
        let seconds = (end - level.begin).as_secs();
        let finished = self.finished as f64;
        // Every token of the window is the first of its request or follows a gap.
        let tokens = self.first_tokens as f64 + gaps.count() as f64;
        insert(catalogue::OUTPUT_TOKENS, ratio(tokens, seconds));
        insert(catalogue::REQUESTS, ratio(finished, seconds));
        insert(catalogue::FINISHED, Some(finished));
        insert(catalogue::CUT_SHORT, Some(self.cut_short as f64));
        insert(catalogue::REJECTED, Some(self.rejected as f64));
        insert(catalogue::PREEMPTIONS, Some(self.preemptions as f64));
        let unserved = (self.rejected + self.failed + self.given_up) as f64;
        insert(catalogue::ERROR_RATIO, ratio(unserved, finished + unserved));
        insert(catalogue::HIT_RATIO, ratio(self.cached_tokens as f64, self.prompt_tokens as f64));
        insert(catalogue::HIT_RATIO_REQUESTS, ratio(self.hit_ratio_sum, finished));
        if level.slo != Slo::default() {
            insert(catalogue::SLO_ATTAINMENT, ratio(self.good as f64, finished + unserved));
            insert(catalogue::GOODPUT, ratio(self.good as f64, seconds));
        }
        if let Some(why) = &self.why {
            let share = |tokens: u64| ratio(tokens as f64, self.prompt_tokens as f64);
            let lost = why.eviction_tokens + why.wrong_worker_tokens + why.stale_index_tokens;
            insert(catalogue::OVERLAP_REGRET, ratio(why.regret_blocks as f64, finished));
            insert(catalogue::HIT_RATIO_BOUND, share(self.cached_tokens + lost));
            insert(catalogue::LOST_TO_EVICTION, share(why.eviction_tokens));
            insert(catalogue::LOST_TO_WRONG_WORKER, share(why.wrong_worker_tokens));
            insert(catalogue::LOST_TO_STALE_INDEX, share(why.stale_index_tokens));
        }
        self.spikes.metrics(level.begin, end, &mut metrics);
        (metrics, curves)
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
