use crate::router::decider::Decider;
use crate::router::kv::{KvParams, KvPolicy, Overload, Retention};
use crate::router::queued::Queued;
use crate::router::settings::RouterSettings;
use crate::router::spec::PolicySpec;
use crate::router::{ClusterSpec, Policy};

/// See [`KvPolicy`].
pub const POLICY: PolicySpec = PolicySpec::new("kv", |settings, cluster, seed| {
    queued(KvPolicy::new(params(settings), cluster, seed), settings, cluster)
});

/// The parameters of `kv` and `dynamo`, with the defaults that depend on others.
pub(super) fn params(settings: &RouterSettings) -> KvParams {
    let credit = if settings.overlap_weight > 0.0 { 1.0 } else { 0.0 };
    KvParams {
        semantics: settings.semantics,
        overlap_score_credit: settings.overlap_score_credit.unwrap_or(credit),
        prefill_load_scale: settings.prefill_load_scale.unwrap_or(settings.overlap_weight),
        overlap_score_credit_decay: settings.overlap_score_credit_decay,
        decode_active_request_weight: settings.decode_active_request_weight,
        host_cache_hit_weight: settings.host_cache_hit_weight,
        disk_cache_hit_weight: settings.disk_cache_hit_weight,
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

/// `decider`, behind a queue if there is to be one.
pub(super) fn queued<D: Decider + 'static>(
    decider: D,
    settings: &RouterSettings,
    cluster: &ClusterSpec,
) -> Box<dyn Policy> {
    let Some(threshold) = settings.queue_threshold else { return Box::new(decider) };
    let busy_tokens = threshold * f64::from(cluster.max_num_batched_tokens);
    Box::new(Queued::new(decider, busy_tokens, settings.queue_order))
}
