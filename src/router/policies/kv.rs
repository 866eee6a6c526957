use crate::router::kv::{KvParams, KvPolicy};
use crate::router::settings::RouterSettings;
use crate::router::spec::PolicySpec;

/// See [`KvPolicy`].
pub const POLICY: PolicySpec = PolicySpec::new("kv", |settings, cluster, seed| {
    Box::new(KvPolicy::new(params(settings), cluster, seed))
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
        temperature: settings.temperature,
        track_active_blocks: settings.track_active_blocks,
        track_prefill_tokens: settings.track_prefill_tokens,
        assume_kv_reuse: settings.assume_kv_reuse,
    }
}
