//! What llm-d's router believes its workers to hold: what was sent, or KV events.

use super::approximate_prefix::{ApproximatePrefix, Matched, PrefixParams};
use crate::event::KvEvent;
use crate::id::WorkerId;
use crate::request::RouteRequest;
use crate::router::ClusterSpec;
use crate::router::kv::{AtMost, CachedPrefixes, Overlaps, SentLately, WorkerSet};
use crate::time::{SimDuration, SimTime};

/// Where the router has it from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum IndexConfig {
    /// What was sent (`approx-prefix-cache-producer`).
    Approximate(PrefixParams),
    /// KV events (`precise-prefix-cache-producer`), and what was sent for so long.
    Precise(Option<SimDuration>),
}

/// See the module.
#[derive(Debug)]
pub(super) struct LlmdIndex {
    block_size: u32,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Approximate(ApproximatePrefix),
    Precise { cached: Box<CachedPrefixes>, lately: Option<Box<SentLately>> },
}

/// What of a prompt each worker holds, in blocks of so many tokens.
#[derive(Debug)]
pub(super) struct Held {
    matched: Matched,
    lately: Option<Overlaps>,
    pub(super) block_tokens: u32,
}

impl LlmdIndex {
    pub(super) fn new(config: IndexConfig, cluster: &ClusterSpec) -> Self {
        let source = match config {
            IndexConfig::Approximate(params) => {
                Source::Approximate(ApproximatePrefix::new(params, cluster))
            }
            IndexConfig::Precise(ttl) => Source::Precise {
                cached: Box::default(),
                lately: ttl.map(|ttl| Box::new(SentLately::new(ttl))),
            },
        };
        Self { block_size: cluster.block_size, source }
    }

    /// Forgets what was sent too long ago.
    pub(super) fn expire(&mut self, now: SimTime) {
        if let Source::Precise { lately: Some(lately), .. } = &mut self.source {
            lately.expire(now);
        }
    }

    pub(super) fn held(&self, request: &RouteRequest<'_>) -> Held {
        match &self.source {
            Source::Approximate(prefix) => Held {
                matched: prefix.matched(request),
                lately: None,
                block_tokens: prefix.block_tokens(self.block_size),
            },
            Source::Precise { cached, lately } => Held {
                matched: Matched {
                    overlaps: cached.overlaps(request),
                    of_blocks: request.blocks.len().max(1),
                },
                lately: lately.as_ref().map(|lately| lately.overlaps(request)),
                block_tokens: self.block_size,
            },
        }
    }

    /// Notes that `worker` gets `request`, where that is all that is known.
    pub(super) fn insert(&mut self, request: &RouteRequest<'_>, worker: WorkerId) {
        if let Source::Approximate(prefix) = &mut self.source {
            prefix.insert(request, worker);
        }
    }

    /// Notes that `worker` gets `request`, where that counts until KV events tell.
    pub(super) fn sent(&mut self, now: SimTime, request: &RouteRequest<'_>, worker: WorkerId) {
        if let Source::Precise { lately: Some(lately), .. } = &mut self.source {
            lately.sent(now, request, worker);
        }
    }

    pub(super) fn remove_worker(&mut self, worker: WorkerId) {
        match &mut self.source {
            Source::Approximate(prefix) => prefix.remove_worker(worker),
            Source::Precise { cached, lately } => {
                cached.remove_worker(worker);
                lately.iter_mut().for_each(|lately| lately.remove_worker(worker));
            }
        }
    }

    pub(super) fn wants_kv_events(&self) -> bool {
        matches!(self.source, Source::Precise { .. })
    }

    pub(super) fn apply(&mut self, worker: WorkerId, event: &KvEvent) {
        if let Source::Precise { cached, .. } = &mut self.source {
            cached.apply(worker, event);
        }
    }

    /// Blocks of the prompt that each worker holds by KV events; `None` without these.
    pub(super) fn overlap_blocks(
        &self,
        request: &RouteRequest<'_>,
        workers: usize,
    ) -> Option<Vec<u32>> {
        match &self.source {
            Source::Approximate(_) => None,
            Source::Precise { cached, .. } => Some(cached.overlaps(request).to_vec(workers)),
        }
    }
}

impl Held {
    /// Blocks of the prompt.
    pub(super) fn of_blocks(&self) -> u32 {
        self.matched.of_blocks
    }

    /// Blocks that `worker` holds.
    pub(super) fn of(&self, worker: WorkerId) -> u32 {
        let lately = self.lately.as_ref().map_or(0, |lately| lately.of(worker));
        self.matched.overlaps.of(worker).max(lately)
    }

    /// Blocks that each of `workers` workers holds, in order of id.
    pub(super) fn to_vec(&self, workers: usize) -> Vec<u32> {
        let mut blocks = self.matched.overlaps.to_vec(workers);
        if let Some(lately) = &self.lately {
            let lately = lately.to_vec(workers);
            blocks.iter_mut().zip(lately).for_each(|(held, sent)| *held = sent.max(*held));
        }
        blocks
    }

    /// The share of the prompt that so many blocks are.
    pub(super) fn share(&self, blocks: u32) -> f64 {
        self.matched.share(blocks)
    }

    /// Tokens of the prompt without so many blocks.
    pub(super) fn uncached_tokens(&self, request: &RouteRequest<'_>, blocks: u32) -> u64 {
        let held = u64::from(blocks) * u64::from(self.block_tokens);
        u64::from(request.prompt_tokens).saturating_sub(held)
    }

    /// Workers to be looked at one by one, and the most that others and any hold.
    pub(super) fn split(&self, few: usize) -> (WorkerSet, AtMost) {
        let mut special = WorkerSet::default();
        let mut most = self.matched.overlaps.split(few, &mut special);
        if let Some(lately) = &self.lately {
            let lately = lately.split(few, &mut special);
            most.any = most.any.max(lately.any);
            most.others = most.others.max(lately.others);
        }
        (special, most)
    }
}
