use super::approximate_prefix::PrefixParams;
use super::llmd_index::{Held, IndexConfig, LlmdIndex};
use crate::event::{KvEvent, WorkerEvent};
use crate::id::WorkerId;
use crate::request::RouteRequest;
use crate::rng::{self, Stream, Use};
use crate::router::factory::{Origin, PolicyFactory, Registration};
use crate::router::kv::{Bookings, WorkerSet};
use crate::router::parameters::{MOST, Parameters, change, check_range};
use crate::router::select::{Bounds, Ties, few, lowest, lowest_cost};
use crate::router::{ClusterSpec, ClusterView, CostParts, Policy, Verdict};
use crate::settings::{Count, Invalid, count};
use crate::time::{SimDuration, SimTime};
use crate::tournament::Tournament;
use rand::RngExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// See [`TokenLoad`].
pub fn policy() -> Arc<dyn PolicyFactory> {
    let rule = "the fewest uncached tokens in flight, among the workers that hold nearly all of \
                the prompt unless they are far busier";
    Registration::new("llmd_token_load", rule, |params: &TokenLoadParams, cluster, seed| {
        TokenLoad::new(*params, cluster, seed)
    })
    .follows(
        Origin::new(
            "llm-d router",
            "filter/prefixcacheaffinity, scorer/tokenload, dataproducer/inflightload, \
             approximateprefix and preciseprefixcache; llm-d's guides optimized-baseline and \
             precise-prefix-cache-routing",
        )
        .version("ebab687", "2026-11")
        .without(
            "predicted latencies, estimates of outputs, calibration files, weights of tiers, \
             multimodal tokens, several replicas that share loads",
        ),
    )
    .shared()
}

/// Where the router has it from what workers hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PrefixIndex {
    /// What was sent (`approx-prefix-cache-producer`).
    #[default]
    Approximate,
    /// KV events (`precise-prefix-cache-producer`).
    Precise,
}

/// Parameters of [`TokenLoad`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TokenLoadParams {
    /// Workers that hold at least this share of the prompt's blocks are kept to, 0 to 1
    /// (`affinityThreshold`); 0 keeps to none.
    pub affinity_threshold: f64,
    /// Chance that a request goes by load alone, 0 to 1 (`explorationProbability`).
    pub exploration_probability: f64,
    /// All workers come into question if those that are kept to would take so much longer
    /// for their uncached tokens in flight (`maxTTFTPenaltyMs`); 0: they are always kept to.
    pub max_ttft_penalty: SimDuration,
    /// Prompt tokens that a worker computes per second (`peakPrefillThroughput`; default:
    /// llm-d's, calibrated for Qwen3-32B on two H100).
    pub peak_prefill_tokens_per_s: f64,
    /// Tokens in flight above which all loads are alike (`queueThresholdTokens`), at least 1.
    #[serde(deserialize_with = "count")]
    #[schemars(with = "Count")]
    pub queue_threshold_tokens: u32,
    /// What the router goes by: `"approximate"`, what was sent, or `"precise"`, KV events.
    pub prefix_index: PrefixIndex,
    /// Where `prefix_index = "precise"`: a prompt that was sent counts as held for so long
    /// (`speculativeIndexing`, `speculativeTTL`). Unset: it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub speculative_ttl: Option<SimDuration>,
    /// Where `prefix_index = "approximate"`.
    #[serde(flatten)]
    pub prefix: PrefixParams,
}

impl Default for TokenLoadParams {
    /// The plug-ins' own.
    fn default() -> Self {
        Self {
            affinity_threshold: 0.8,
            exploration_probability: 0.0,
            max_ttft_penalty: SimDuration::from_secs(18),
            peak_prefill_tokens_per_s: 15_928.0,
            queue_threshold_tokens: 4_194_304,
            prefix_index: PrefixIndex::default(),
            speculative_ttl: None,
            prefix: PrefixParams::default(),
        }
    }
}

impl Parameters for TokenLoadParams {
    const CHANGEABLE: &'static [&'static str] =
        &["affinity_threshold", "exploration_probability", "peak_prefill_tokens_per_s"];

    fn check(&self) -> Result<(), Invalid> {
        check_range("affinity_threshold", self.affinity_threshold, 0.0..=1.0)?;
        check_range("exploration_probability", self.exploration_probability, 0.0..=1.0)?;
        check_range("peak_prefill_tokens_per_s", self.peak_prefill_tokens_per_s, 1.0..=MOST)?;
        let tokens = self.queue_threshold_tokens;
        Invalid::unless(tokens > 0, "queue_threshold_tokens", tokens, "at least 1")?;
        self.prefix.check()
    }
}

/// What llm-d's guides deploy: a filter by affinity, then the load in tokens.
///
/// Workers that hold a share of the prompt's blocks are kept to, unless the least loaded of
/// them has so many more uncached prompt tokens in flight than the least loaded of the
/// others that their computation would take too much longer. Of the workers that are left,
/// the one with the fewest such tokens, with the request's own on it, takes the prompt;
/// equals are drawn. Tokens are in flight from the choice to the first token.
#[derive(Debug)]
pub struct TokenLoad {
    params: TokenLoadParams,
    cluster: ClusterSpec,
    index: LlmdIndex,
    bookings: Bookings,
    absent: WorkerSet,
    /// Uncached tokens in flight; out of reach for workers that are absent.
    tokens: Tournament<f64>,
    draws: Stream,
}

/// The workers that a prompt may go to.
#[derive(Debug)]
enum Allowed {
    All,
    /// These, and no other.
    Few(Vec<WorkerId>),
    /// All that hold enough, which are many.
    Many,
}

impl TokenLoad {
    /// A policy for `cluster`; `seed` is the randomness of its draws.
    pub fn new(params: TokenLoadParams, cluster: &ClusterSpec, seed: u64) -> Self {
        let index = match params.prefix_index {
            PrefixIndex::Approximate => IndexConfig::Approximate(params.prefix),
            PrefixIndex::Precise => IndexConfig::Precise(params.speculative_ttl),
        };
        Self {
            params,
            cluster: cluster.clone(),
            index: LlmdIndex::new(index, cluster),
            bookings: Bookings::new(cluster.workers()),
            absent: WorkerSet::default(),
            tokens: Tournament::new(cluster.workers(), 0.0, f64::INFINITY),
            draws: rng::stream(seed, Use::Policy, 0, 0),
        }
    }

    fn is_sticky(&self, held: &Held, worker: WorkerId) -> bool {
        held.share(held.of(worker)) >= self.params.affinity_threshold
    }

    /// The workers that the filter leaves.
    fn allowed(&self, held: &Held, view: &ClusterView<'_>) -> Allowed {
        if view.available_count() <= 1 || self.params.affinity_threshold <= 0.0 {
            return Allowed::All;
        }
        let (special, most) = held.split(few(view.workers.len()));
        let is_allowed = |worker: &WorkerId| {
            view.workers[worker.index()].available && self.is_sticky(held, *worker)
        };
        let sticky = if held.share(most.others) < self.params.affinity_threshold {
            Allowed::Few(special.iter().filter(is_allowed).collect())
        } else {
            Allowed::Many
        };
        let best_sticky = self.least_tokens(&sticky, held);
        // The best of those that are not sticky: a look at few, as most are not.
        let bounds = Bounds::OWN_COST;
        let best_other = lowest_cost(&self.tokens, bounds, |worker| {
            if self.is_sticky(held, worker) {
                f64::INFINITY
            } else {
                self.tokens.key(worker.index())
            }
        });
        if best_sticky.is_infinite() {
            return Allowed::All;
        }
        let ttft_s = |tokens: f64| tokens / self.params.peak_prefill_tokens_per_s;
        let penalty_s = ttft_s(best_sticky) - ttft_s(best_other);
        let most = self.params.max_ttft_penalty;
        let is_too_busy = best_other.is_finite() && penalty_s > most.as_secs();
        if !most.is_zero() && is_too_busy { Allowed::All } else { sticky }
    }

    /// The fewest tokens in flight on a worker that is allowed; infinite if none is.
    fn least_tokens(&self, allowed: &Allowed, held: &Held) -> f64 {
        let tokens = |worker: WorkerId| self.tokens.key(worker.index());
        let bounds = Bounds::OWN_COST;
        match allowed {
            Allowed::All => self.tokens.least(),
            Allowed::Few(workers) => {
                workers.iter().map(|worker| tokens(*worker)).fold(f64::INFINITY, f64::min)
            }
            Allowed::Many => lowest_cost(&self.tokens, bounds, |worker| {
                if self.is_sticky(held, worker) { tokens(worker) } else { f64::INFINITY }
            }),
        }
    }

    fn is_allowed(&self, allowed: &Allowed, held: &Held, worker: WorkerId) -> bool {
        match allowed {
            Allowed::All => true,
            Allowed::Few(workers) => workers.contains(&worker),
            Allowed::Many => self.is_sticky(held, worker),
        }
    }

    /// Tokens in flight on `worker` with `request` on it, as far as they count.
    fn cost(&self, held: &Held, request: &RouteRequest<'_>, worker: WorkerId) -> f64 {
        let inflight = self.bookings.loads()[worker.index()].prefill_tokens;
        let tokens = inflight + held.uncached_tokens(request, held.of(worker));
        tokens.min(u64::from(self.params.queue_threshold_tokens)) as f64
    }

    /// To be called whenever `worker` comes or goes, or its load has changed.
    fn note_load(&mut self, worker: WorkerId) {
        let is_absent = self.absent.contains(worker);
        let tokens = self.bookings.loads()[worker.index()].prefill_tokens as f64;
        self.tokens.set(worker.index(), if is_absent { f64::INFINITY } else { tokens });
    }

    fn book(&mut self, request: &RouteRequest<'_>, worker: WorkerId, uncached_tokens: u64) {
        self.bookings.book(request, worker, uncached_tokens);
        self.note_load(worker);
    }
}

impl Policy for TokenLoad {
    fn route(
        &mut self,
        now: SimTime,
        request: &RouteRequest<'_>,
        view: &ClusterView<'_>,
    ) -> Verdict {
        self.index.expire(now);
        let mut draws = self.draws.clone();
        let held = self.index.held(request);
        let explores = self.params.exploration_probability > 0.0
            && draws.random::<f64>() < self.params.exploration_probability;
        let allowed = if explores { Allowed::All } else { self.allowed(&held, view) };
        let cost = |worker: WorkerId| {
            let is_allowed = self.is_allowed(&allowed, &held, worker);
            (if is_allowed { self.cost(&held, request, worker) } else { f64::INFINITY }, 0)
        };
        let chosen = match &allowed {
            Allowed::Few(workers) => {
                let mut least = Ties::default();
                for worker in workers {
                    least.offer(worker.index(), cost(*worker), &mut draws);
                }
                least.chosen_if_any()
            }
            Allowed::All | Allowed::Many => {
                let (special, most) = held.split(few(view.workers.len()));
                let asked = |blocks| held.uncached_tokens(request, blocks) as f64;
                let mut bounds = Bounds::of_held(&special, most, 1.0, asked);
                // Above the threshold loads are alike, so nothing bounds the search.
                let threshold = f64::from(self.params.queue_threshold_tokens);
                if self.tokens.least() + bounds.base >= threshold {
                    (bounds.gain, bounds.special_gain) = (f64::MAX, f64::MAX);
                }
                lowest(&self.tokens, bounds, &mut draws, cost)
            }
        };
        let worker = WorkerId::at(chosen.expect("a worker is available"));
        self.draws = draws;
        let uncached = held.uncached_tokens(request, held.of(worker));
        self.book(request, worker, uncached);
        self.index.insert(request, worker);
        self.index.sent(now, request, worker);
        Verdict::send(worker)
    }

    fn observe(&mut self, _: SimTime, event: &WorkerEvent) {
        if let Some(worker) = self.bookings.observe(event) {
            self.note_load(worker);
        }
    }

    fn observe_peer(&mut self, request: &RouteRequest<'_>, worker: WorkerId, overlap_blocks: u32) {
        let held = u64::from(overlap_blocks) * u64::from(self.cluster.block_size);
        self.book(request, worker, u64::from(request.prompt_tokens).saturating_sub(held));
    }

    fn overlap_blocks(&self, request: &RouteRequest<'_>) -> Option<Vec<u32>> {
        self.index.overlap_blocks(request, self.bookings.loads().len())
    }

    fn set_parameter(&mut self, key: &str, value: f64) -> Result<(), Invalid> {
        self.params = change(&self.params, key, value)?;
        Ok(())
    }

    fn worker_left(&mut self, worker: WorkerId) {
        self.index.remove_worker(worker);
        self.bookings.remove_worker(worker);
        self.absent.insert(worker);
        self.note_load(worker);
    }

    fn worker_joined(&mut self, worker: WorkerId) {
        self.absent.remove(worker);
        self.note_load(worker);
    }

    fn wants_kv_events(&self) -> bool {
        self.index.wants_kv_events()
    }

    fn hears_kv_on_demand(&self) -> bool {
        true
    }

    fn observe_kv(&mut self, worker: WorkerId, event: &KvEvent) {
        self.index.apply(worker, event);
    }

    /// Tokens in flight with the request's own, with workers that the filter leaves out
    /// behind those that it leaves; without exploration, and with what was sent lately as
    /// of the last decision.
    fn explain(&self, request: &RouteRequest<'_>, view: &ClusterView<'_>) -> Vec<CostParts> {
        let held = self.index.held(request);
        let allowed = self.allowed(&held, view);
        let behind = f64::from(self.params.queue_threshold_tokens) + 1.0;
        let cost = |at: usize| {
            let worker = WorkerId::at(at);
            let is_allowed = self.is_allowed(&allowed, &held, worker);
            let cost = self.cost(&held, request, worker) + if is_allowed { 0.0 } else { behind };
            let parts = vec![
                ("held_share", held.share(held.of(worker))),
                ("inflight_tokens", self.bookings.loads()[at].prefill_tokens as f64),
            ];
            CostParts { worker, cost, parts }
        };
        (0..view.workers.len()).map(cost).collect()
    }
}
