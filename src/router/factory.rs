//! From validated settings to policies.

use super::decider::Decider;
use super::kv::{KvParams, KvPolicy, Overload, Retention};
use super::policies::{
    CacheAwareParams, ConsistentHash, HashParams, InferenceExtension, KvAware, LeastLoaded,
    PowerOfTwo, PrefixAware, Random, RoundRobin, ScorerParams, SessionAffinity, SessionParams,
    SglangCacheAware, TtftEstimate,
};
use super::queued::Queued;
use super::settings::{PolicyName, RouterSettings, ShadowDriver};
use super::shadow::ShadowPolicy;
use super::{ClusterSpec, Policy, PolicyFactory};

/// Builds the policy that the settings name, with the parameters it uses.
pub(super) struct Factory(RouterSettings);

impl Factory {
    pub(super) fn new(settings: &RouterSettings) -> Self {
        Self(settings.clone())
    }

    fn kv(&self) -> KvParams {
        let settings = &self.0;
        let credit = if settings.overlap_weight > 0.0 { 1.0 } else { 0.0 };
        KvParams {
            semantics: settings.semantics,
            overlap_score_credit: settings.overlap_score_credit.unwrap_or(credit),
            prefill_load_scale: settings.prefill_load_scale.unwrap_or(settings.overlap_weight),
            overlap_score_credit_decay: settings.overlap_score_credit_decay,
            decode_active_request_weight: settings.decode_active_request_weight,
            temperature: settings.temperature,
            track_active_blocks: settings.track_active_blocks,
            track_prefill_tokens: settings.track_prefill_tokens,
            assume_kv_reuse: settings.assume_kv_reuse,
            track_output_blocks: settings.track_output_blocks,
            expected_output_tokens: settings.expected_output_tokens,
            overload: Overload {
                active_decode_blocks: settings.active_decode_blocks_threshold,
                active_prefill_tokens: settings.active_prefill_tokens_threshold,
            },
            approximate: (!settings.use_kv_events).then_some(Retention {
                ttl: settings.approximate_ttl,
                max_blocks: settings.approximate_max_blocks,
                prune_target_ratio: settings.approximate_prune_target_ratio,
            }),
        }
    }

    #[cfg(feature = "dynamo")]
    fn dynamo(&self, cluster: &ClusterSpec, seed: u64) -> super::dynamo::DynamoPolicy {
        super::dynamo::DynamoPolicy::new(self.kv(), cluster, seed)
    }

    /// # Panics
    /// Always: validated settings name no policy that this build leaves out.
    #[cfg(not(feature = "dynamo"))]
    fn dynamo(&self, _: &ClusterSpec, _: u64) -> KvPolicy {
        panic!("the production router is not in this build")
    }

    fn shadow(&self, cluster: &ClusterSpec, seed: u64) -> Box<dyn Policy> {
        let kv = KvPolicy::new(self.kv(), cluster, seed);
        let dynamo = self.dynamo(cluster, seed);
        match self.0.shadow_driver {
            ShadowDriver::Kv => self.queued(ShadowPolicy::new(kv, dynamo), cluster),
            ShadowDriver::Dynamo => self.queued(ShadowPolicy::new(dynamo, kv), cluster),
        }
    }

    /// `decider`, behind a queue if there is to be one.
    fn queued<D: Decider + 'static>(&self, decider: D, cluster: &ClusterSpec) -> Box<dyn Policy> {
        let Some(threshold) = self.0.queue_threshold else { return Box::new(decider) };
        let busy_tokens = threshold * f64::from(cluster.max_num_batched_tokens);
        Box::new(Queued::new(decider, busy_tokens, self.0.queue_order))
    }

    fn session_affinity(&self, seed: u64) -> SessionAffinity {
        let params = SessionParams {
            affinity: self.0.session_affinity,
            ttl: self.0.session_ttl,
            slack_requests: self.0.session_slack_requests,
        };
        SessionAffinity::new(params, seed)
    }

    fn consistent_hash(&self, workers: u32) -> ConsistentHash {
        let params = HashParams {
            prefix_blocks: self.0.hash_prefix_blocks,
            replication: self.0.hash_replication,
            load_factor: self.0.hash_load_factor,
        };
        ConsistentHash::new(params, workers)
    }

    fn sglang_cache_aware(&self, cluster: &ClusterSpec, seed: u64) -> SglangCacheAware {
        let params = CacheAwareParams {
            cache_threshold: self.0.cache_threshold,
            balance_abs_threshold: self.0.balance_abs_threshold,
            balance_rel_threshold: self.0.balance_rel_threshold,
            eviction_interval: self.0.eviction_interval,
            max_tree_tokens: self.0.max_tree_tokens,
        };
        SglangCacheAware::new(params, cluster, seed)
    }

    fn inference_extension(&self, cluster: &ClusterSpec, seed: u64) -> InferenceExtension {
        let params = ScorerParams {
            prefix_weight: self.0.prefix_weight,
            kv_weight: self.0.kv_weight,
            queue_weight: self.0.queue_weight,
            max_prefix_blocks: self.0.max_prefix_blocks,
            lru_capacity_blocks: self.0.lru_capacity_blocks,
            report_period: self.0.report_period,
        };
        InferenceExtension::new(params, cluster, seed)
    }
}

impl PolicyFactory for Factory {
    fn build(&self, cluster: &ClusterSpec, seed: u64) -> Box<dyn Policy> {
        let settings = &self.0;
        match settings.policy {
            PolicyName::RoundRobin => Box::new(RoundRobin::default()),
            PolicyName::Random => Box::new(Random::new(seed)),
            PolicyName::LeastLoaded => Box::new(LeastLoaded::new(seed)),
            PolicyName::PowerOfTwo => Box::new(PowerOfTwo::new(seed)),
            PolicyName::SessionAffinity => Box::new(self.session_affinity(seed)),
            PolicyName::ConsistentHash => Box::new(self.consistent_hash(cluster.workers)),
            PolicyName::Kv => self.queued(KvPolicy::new(self.kv(), cluster, seed), cluster),
            PolicyName::Dynamo => self.queued(self.dynamo(cluster, seed), cluster),
            PolicyName::Shadow => self.shadow(cluster, seed),
            PolicyName::SglangCacheAware => Box::new(self.sglang_cache_aware(cluster, seed)),
            PolicyName::InferenceExtension => Box::new(self.inference_extension(cluster, seed)),
            PolicyName::PrefixAware => Box::new(PrefixAware::new(cluster.workers, seed)),
            PolicyName::KvAware => {
                Box::new(KvAware::new(settings.kv_aware_threshold_tokens, cluster))
            }
            PolicyName::TtftEstimate => {
                Box::new(TtftEstimate::new(settings.prefill_tokens_per_s, cluster, seed))
            }
        }
    }
}
