//! What was loaded from tiers below GPU memory.

use super::record::Metrics;
use super::window::{Latencies, Level};
use crate::event::{Medium, WorkerEvent};
use crate::id::RequestId;
use crate::metrics::catalogue;
use crate::time::{SimDuration, SimTime};
use std::collections::BTreeMap;

/// Tokens by medium, in the order of [`Medium::ALL`].
type Tokens = [u32; Medium::ALL.len()];

/// Follows the loads of a run.
#[derive(Debug)]
pub(super) struct TierLoads {
    /// The tiers that there are.
    media: Vec<Medium>,
    /// Bytes of a token, by worker.
    token_bytes: Vec<f64>,
    /// What requests that have not ended had loaded before they were first scheduled.
    open: BTreeMap<RequestId, Tokens>,
    seen: Seen,
}

/// The loads of one level.
#[derive(Debug, Default)]
struct Seen {
    time: Latencies,
    /// By worker.
    loaded_tokens: Vec<u64>,
    /// Of requests that finished in the window.
    hit_tokens: [u64; Medium::ALL.len()],
}

impl Seen {
    fn of(workers: usize) -> Self {
        Self { loaded_tokens: vec![0; workers], ..Self::default() }
    }
}

impl TierLoads {
    pub(super) fn new(media: Vec<Medium>, token_bytes: Vec<f64>) -> Self {
        let seen = Seen::of(token_bytes.len());
        Self { media, token_bytes, open: BTreeMap::new(), seen }
    }

    /// Observes another level from now on.
    pub(super) fn begin_level(&mut self) {
        self.seen = Seen::of(self.token_bytes.len());
    }

    /// `tokens` were loaded for the request of `event`; `first` if it was not scheduled
    /// before.
    pub(super) fn loaded(
        &mut self,
        now: SimTime,
        level: Option<&Level>,
        event: &WorkerEvent,
        (tokens, time): (Tokens, SimDuration),
        first: bool,
    ) {
        if first {
            self.open.insert(event.request, tokens);
        }
        if let Some(level) = level {
            self.seen.time.push(now, level, time);
            if now >= level.begin {
                let loaded = tokens.iter().map(|&n| u64::from(n)).sum::<u64>();
                self.seen.loaded_tokens[event.worker.index()] += loaded;
            }
        }
    }

    /// A request ended, in the window and with an answer if `counts`.
    pub(super) fn ended(&mut self, request: RequestId, counts: bool) {
        let tokens = self.open.remove(&request).unwrap_or_default();
        if counts {
            for (sum, tokens) in self.seen.hit_tokens.iter_mut().zip(tokens) {
                *sum += u64::from(tokens);
            }
        }
    }

    /// Metrics of the level, whose window ends at `end`, with `prompt_tokens` of
    /// requests that finished in it.
    pub(super) fn metrics(
        &self,
        level: &Level,
        end: SimTime,
        prompt_tokens: u64,
        metrics: &mut Metrics,
    ) {
        let Seen { time, loaded_tokens, hit_tokens } = &self.seen;
        time.metrics(catalogue::LOAD, level, end, metrics);
        let ratio = |part: f64, whole: f64| (whole > 0.0).then(|| part / whole);
        for &medium in &self.media {
            let hits = hit_tokens[medium as usize] as f64;
            let kind = match medium {
                Medium::Host => catalogue::HIT_RATIO_HOST,
                Medium::Disk => catalogue::HIT_RATIO_DISK,
                Medium::Remote => catalogue::HIT_RATIO_REMOTE,
            };
            metrics.insert(kind.only(), ratio(hits, prompt_tokens as f64));
        }
        let mut gigabytes = 0.0;
        let alike = self.token_bytes.chunk_by(|a, b| a == b);
        let mut rest = &loaded_tokens[..];
        for bytes in alike {
            let (own, others) = rest.split_at(bytes.len());
            gigabytes += own.iter().sum::<u64>() as f64 * bytes[0] / 1e9;
            rest = others;
        }
        let seconds = (end - level.begin).as_secs();
        metrics.insert(catalogue::LOADED.only(), ratio(gigabytes, seconds));
    }
}
