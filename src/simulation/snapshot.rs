//! What a dashboard would show.

use super::Simulation;
use super::requests::Whereabouts;
use crate::fleet::Fleet;
use crate::id::WorkerId;
pub use crate::recorder::Recent;
use crate::stats::Histogram;
use crate::time::{SimDuration, SimTime};
use std::collections::VecDeque;

/// A simulation at one moment.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Snapshot {
    /// The moment.
    pub at: SimTime,
    /// Requests that have arrived and not ended.
    pub live_requests: usize,
    /// Those of them that policies hold, or that wait to be let in.
    pub held_requests: usize,
    /// The time before, as long as [`watch`](Simulation::watch) says; `None` unless it
    /// is watched.
    pub recent: Option<Recent>,
    /// Output tokens a second over that time and up to a tenth of it more; `None`
    /// unless it is watched.
    pub output_tokens_per_s: Option<f64>,
    /// Median of the times between two tokens of a request, in milliseconds, over that
    /// time and up to a tenth of it more; `None` unless it is watched.
    pub gap_ms_p50: Option<f64>,
    /// 95th percentile of that.
    pub gap_ms_p95: Option<f64>,
    /// The workers, in order of id.
    pub workers: Vec<WorkerSnapshot>,
}

/// One worker of a [`Snapshot`].
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct WorkerSnapshot {
    /// Whether front ends may choose it, as far as the first one knows.
    pub is_present: bool,
    /// Requests in its batch.
    pub running: u32,
    /// Requests at it that are not in the batch.
    pub waiting: u32,
    /// KV blocks held by requests.
    pub used_blocks: u32,
    /// Requests that front ends have sent there and that have not ended.
    pub inflight: u32,
    /// Mean time from dispatch to the first batch, in milliseconds, of requests whose
    /// first token came in the time that is watched.
    pub queue_ms: Option<f64>,
    /// Cached prompt tokens over all prompt tokens, of requests that were sent there first
    /// and finished in the time that is watched.
    pub hit_ratio: Option<f64>,
}

/// So many samples are taken in the time that is watched.
const SAMPLES: u64 = 10;

/// Tokens counted at even times.
#[derive(Debug)]
pub(super) struct Samples {
    over: SimDuration,
    next: SimTime,
    /// Output tokens up to the last look at the fleet, without first ones.
    tokens: u64,
    /// Gaps between tokens since the last sample.
    gaps: Histogram,
    /// All gaps, in times that were watched before too.
    all_gaps: Histogram,
    taken: VecDeque<Sample>,
}

#[derive(Debug)]
struct Sample {
    at: SimTime,
    /// Output tokens up to then.
    tokens: u64,
    /// Gaps between tokens since the sample before.
    gaps: Histogram,
}

impl Samples {
    pub(super) fn mark(&self) -> SimTime {
        self.next
    }

    /// True if what happened at `last` matters `now`.
    pub(super) fn covers(&self, last: SimTime, now: SimTime) -> bool {
        now <= last + self.over
    }
}

impl<F: Fleet> Simulation<'_, F> {
    /// Keeps what [`snapshot`](Self::snapshot) says of the time before it, `over` at
    /// most. Changes nothing in the run.
    ///
    /// # Panics
    /// If `over` is no time.
    pub fn watch(&mut self, over: SimDuration) {
        assert!(!over.is_zero(), "a time to be watched");
        self.recorder.keep_trailing(over);
        // Gaps of the time before are not of the time that is watched.
        let _gauges = self.take_gauges();
        let all_gaps = self.samples.take().map_or(Histogram::new(), |samples| samples.all_gaps);
        let (next, taken, gaps) = (self.now, VecDeque::new(), Histogram::new());
        self.samples = Some(Samples { over, next, tokens: 0, gaps, all_gaps, taken });
    }

    /// What a dashboard would show now. Looking changes nothing in the run.
    pub fn snapshot(&mut self) -> Snapshot {
        let gauges = self.take_gauges();
        let now = self.now;
        let mut inflight = vec![0; gauges.len()];
        let tell_ranks_apart = self.front_ends[0].tells_ranks_apart();
        for front_end in self.front_ends.iter().filter(|_| tell_ranks_apart) {
            for (sum, view) in inflight.iter_mut().zip(&*front_end.workers()) {
                *sum += view.inflight;
            }
        }
        // The engines have chosen the ranks.
        for live in self.requests.iter().filter(|_| !tell_ranks_apart) {
            if let Whereabouts::AtWorker(worker) = live.whereabouts
                && !live.is_forgotten
            {
                inflight[worker.index()] += 1;
            }
        }
        let known = &self.front_ends[0];
        let recent = self.recorder.recent_by_worker(now, gauges.len());
        let worker = |(id, gauges): (u32, &crate::engine::Gauges)| {
            let at = WorkerId(id).index();
            WorkerSnapshot {
                is_present: known.is_present(WorkerId(id)),
                running: gauges.running,
                waiting: gauges.waiting,
                used_blocks: gauges.used_blocks,
                inflight: inflight[at],
                queue_ms: recent[at].queue_ms,
                hit_ratio: recent[at].hit_ratio,
            }
        };
        let gaps = self.recent_gaps();
        let gap_ms = |q: f64| gaps.as_ref().and_then(|gaps| Some(gaps.quantile(q)? / 1e9));
        Snapshot {
            at: now,
            live_requests: self.requests.live(),
            held_requests: self.requests.held() + self.requests.waiting(),
            recent: self.recorder.recent(now),
            output_tokens_per_s: self.output_tokens_per_s(),
            gap_ms_p50: gap_ms(0.5),
            gap_ms_p95: gap_ms(0.95),
            workers: (0..).zip(&gauges).map(worker).collect(),
        }
    }

    /// Every gap between two tokens of a request, in picoseconds, since it is watched; up to
    /// the last look at the fleet, as [`snapshot`](Self::snapshot) is one. `None` unless it
    /// is watched.
    #[cfg_attr(not(internals), doc(hidden))]
    pub fn token_gaps(&self) -> Option<&Histogram> {
        self.samples.as_ref().map(|samples| &samples.all_gaps)
    }

    /// Every token is the first of its request or follows a gap.
    fn output_tokens(&self) -> u64 {
        let gaps = self.samples.as_ref().map_or(0, |samples| samples.tokens);
        gaps + self.recorder.first_tokens()
    }

    /// When the time that is watched begins.
    fn watched_from(&self, samples: &Samples) -> SimTime {
        SimTime::from_ps(self.now.as_ps().saturating_sub(samples.over.as_ps()))
    }

    fn output_tokens_per_s(&self) -> Option<f64> {
        let samples = self.samples.as_ref()?;
        let from = self.watched_from(samples);
        let past = samples.taken.iter().rev().find(|sample| sample.at <= from);
        let &Sample { at, tokens, .. } = past.or(samples.taken.front())?;
        let seconds = (self.now - at).as_secs();
        (seconds > 0.0).then(|| (self.output_tokens() - tokens) as f64 / seconds)
    }

    /// Gaps between tokens in the time that is watched.
    fn recent_gaps(&self) -> Option<Histogram> {
        let samples = self.samples.as_ref()?;
        let from = self.watched_from(samples);
        let mut gaps = samples.gaps.clone();
        for sample in samples.taken.iter().filter(|sample| sample.at > from) {
            gaps.merge(&sample.gaps);
        }
        Some(gaps)
    }

    /// Counts tokens now, and sets the next time.
    pub(super) fn sample(&mut self) {
        let _gauges = self.take_gauges();
        let (at, tokens) = (self.now, self.output_tokens());
        let Some(samples) = &mut self.samples else { return };
        let every = SimDuration::from_ps((samples.over.as_ps() / SAMPLES).max(1));
        samples.next = at + every;
        let gaps = std::mem::take(&mut samples.gaps);
        samples.taken.push_back(Sample { at, tokens, gaps });
        while samples.taken.get(1).is_some_and(|sample| sample.at + samples.over <= at) {
            samples.taken.pop_front();
        }
    }

    /// These gaps between tokens were taken from the fleet.
    pub(super) fn count_gaps(&mut self, gaps: &Histogram) {
        if let Some(samples) = &mut self.samples {
            samples.tokens += gaps.count();
            samples.gaps.merge(gaps);
            samples.all_gaps.merge(gaps);
        }
    }
}
