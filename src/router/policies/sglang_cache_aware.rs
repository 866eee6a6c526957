use super::sent::SentPrompts;
use super::worker_at;
use crate::id::WorkerId;
use crate::request::RouteRequest;
use crate::rng::{self, Stream, Use};
use crate::router::kv::WorkerSet;
use crate::router::select::{Bounds, lowest, one_of};
use crate::router::spec::PolicySpec;
use crate::router::{ClusterSpec, ClusterView, CostParts, Policy, Verdict};
use crate::time::{SimDuration, SimTime};
use crate::tournament::Tournament;

/// See [`SglangCacheAware`].
pub const POLICY: PolicySpec = PolicySpec::new("sglang_cache_aware", |settings, cluster, seed| {
    let params = CacheAwareParams {
        cache_threshold: settings.cache_threshold,
        balance_abs_threshold: settings.balance_abs_threshold,
        balance_rel_threshold: settings.balance_rel_threshold,
        eviction_interval: settings.eviction_interval,
        max_tree_tokens: settings.max_tree_tokens,
    };
    Box::new(SglangCacheAware::new(params, cluster, seed))
});

/// Parameters of [`SglangCacheAware`], as in
/// [`RouterSettings`](crate::router::settings::RouterSettings).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CacheAwareParams {
    /// Share of the prompt that must match for the match to decide.
    pub cache_threshold: f64,
    /// Imbalanced only if the loads differ by more than this.
    pub balance_abs_threshold: u32,
    /// Imbalanced only if the highest load exceeds the lowest by this factor.
    pub balance_rel_threshold: f64,
    /// Time between two rounds of forgetting.
    pub eviction_interval: SimDuration,
    /// Tokens remembered per worker after such a round.
    pub max_tree_tokens: u32,
}

/// The cache-aware policy of SGLang's router (`sgl-router`,
/// `policies/cache_aware.rs`).
///
/// If loads are imbalanced by both thresholds: the worker with the fewest
/// requests in flight. Else, if enough of the prompt was sent somewhere before:
/// there. Else: the worker to which the least was sent. It hears nothing of the
/// real caches. Where several workers fit it takes whichever comes first in its
/// maps; we draw. Its tree counts characters, ours tokens, in whole blocks.
#[derive(Debug)]
pub struct SglangCacheAware {
    params: CacheAwareParams,
    block_size: u32,
    sent: SentPrompts,
    /// How many blocks were sent to each worker and not forgotten; out of reach for
    /// those that are absent.
    sent_blocks: Tournament<f64>,
    absent: WorkerSet,
    next_eviction: SimTime,
    draws: Stream,
}

/// What a worker is chosen by.
#[derive(Debug, PartialEq)]
enum Rule {
    /// The fewest requests in flight.
    Load,
    /// A draw among these.
    Match(Vec<WorkerId>),
    /// The fewest blocks sent.
    Sent,
}

impl SglangCacheAware {
    /// A policy for `cluster`; `seed` decides among equals.
    pub fn new(params: CacheAwareParams, cluster: &ClusterSpec, seed: u64) -> Self {
        Self {
            params,
            block_size: cluster.block_size,
            sent: SentPrompts::new(cluster.workers),
            sent_blocks: Tournament::new(cluster.workers, 0.0, f64::INFINITY),
            absent: WorkerSet::default(),
            next_eviction: SimTime::ZERO + params.eviction_interval,
            draws: rng::stream(seed, Use::Policy, 0, 0),
        }
    }

    /// What decides about a request.
    fn rule(&self, request: &RouteRequest<'_>, view: &ClusterView<'_>) -> Rule {
        let (least, most) = (view.least_inflight(), view.most_inflight());
        let CacheAwareParams { balance_abs_threshold, balance_rel_threshold, .. } = self.params;
        if most - least > balance_abs_threshold
            && f64::from(most) > f64::from(least) * balance_rel_threshold
        {
            return Rule::Load;
        }
        let longest = self.sent.longest(request.blocks);
        let matched_tokens = f64::from(longest.blocks) * f64::from(self.block_size);
        if matched_tokens / f64::from(request.prompt_tokens) > self.params.cache_threshold {
            return Rule::Match(longest.workers);
        }
        Rule::Sent
    }

    fn choose(&mut self, request: &RouteRequest<'_>, view: &ClusterView<'_>) -> WorkerId {
        match self.rule(request, view) {
            Rule::Load => one_of(view.least_loaded(), &mut self.draws),
            Rule::Match(workers) => one_of(&workers, &mut self.draws),
            Rule::Sent => {
                let sent_blocks = |worker: WorkerId| (self.sent_blocks.key(worker.index()), 0);
                let bounds = Bounds { special: &[], base: 0.0, gain: 0.0 };
                let least = lowest(&self.sent_blocks, bounds, &mut self.draws, sent_blocks);
                worker_at(least.expect("a worker is available"))
            }
        }
    }

    /// To be called whenever `worker` comes or goes, or what was sent there changes.
    fn note_sent(&mut self, worker: WorkerId) {
        let is_absent = self.absent.contains(worker);
        let held_blocks = f64::from(self.sent.held_blocks(worker));
        let sent_blocks = if is_absent { f64::INFINITY } else { held_blocks };
        self.sent_blocks.set(worker.index(), sent_blocks);
    }

    fn forget(&mut self, now: SimTime, workers: usize) {
        if now < self.next_eviction {
            return;
        }
        self.next_eviction = now + self.params.eviction_interval;
        let most_blocks = self.params.max_tree_tokens / self.block_size;
        for worker in (0..workers).map(worker_at) {
            self.sent.shrink(worker, most_blocks);
            self.note_sent(worker);
        }
    }
}

impl Policy for SglangCacheAware {
    fn route(
        &mut self,
        now: SimTime,
        request: &RouteRequest<'_>,
        view: &ClusterView<'_>,
    ) -> Verdict {
        self.forget(now, view.workers.len());
        let worker = self.choose(request, view);
        // From the end, so that leaves are forgotten before what they hang on.
        let blocks = request.blocks;
        self.sent.insert(worker, (0..blocks.len()).rev().map(|at| blocks.get(at)));
        self.note_sent(worker);
        Verdict::Send(worker)
    }

    fn worker_left(&mut self, worker: WorkerId) {
        self.sent.remove_worker(worker);
        self.absent.insert(worker);
        self.note_sent(worker);
    }

    fn worker_joined(&mut self, worker: WorkerId) {
        self.absent.remove(worker);
        self.note_sent(worker);
    }

    /// By the rule that holds: requests in flight, blocks sent, or 0 for the
    /// workers with the longest match and 1 for the others.
    fn explain(&self, request: &RouteRequest<'_>, view: &ClusterView<'_>) -> Vec<CostParts> {
        let rule = self.rule(request, view);
        let cost = |(at, inflight): (usize, u32)| {
            let worker = worker_at(at);
            let sent_blocks = self.sent.held_blocks(worker);
            let cost = match &rule {
                Rule::Load => inflight,
                Rule::Match(workers) => u32::from(!workers.contains(&worker)),
                Rule::Sent => sent_blocks,
            };
            let parts =
                vec![("inflight", f64::from(inflight)), ("sent_blocks", f64::from(sent_blocks))];
            CostParts { worker, cost: f64::from(cost), parts }
        };
        view.workers.iter().map(|worker| worker.inflight).enumerate().map(cost).collect()
    }
}
