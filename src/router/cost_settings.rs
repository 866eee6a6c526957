//! The parameters of policies that route by the cost of `kv`.

use super::kv::{KvParams, Overload, Retention, Semantics};
use super::parameters::{MOST, Parameters, check_range, shown};
use super::queued::QueueOrder;
use super::spec::Role;
use crate::settings::{Count, Invalid, count_option};
use crate::time::SimDuration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Parameters of `kv` and of the production crate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct CostSettings {
    /// Weight of the prefill term against the decode term, at least 0; 0 turns the
    /// index off. Dynamo 0.9's `overlap_score_weight`.
    pub overlap_weight: f64,
    /// 0 takes the lowest cost; above, a softmax draw.
    pub temperature: f64,
    /// In 1.6: cached blocks taken off the prefill term per block of overlap.
    /// Unset: 1, or 0 where `overlap_weight` is 0.
    pub overlap_score_credit: Option<f64>,
    /// In 1.6: weight of the prefill term. Unset: `overlap_weight`.
    pub prefill_load_scale: Option<f64>,
    /// In 1.6: how fast the credit shrinks on workers with more prefill in flight
    /// than the least busy one; 0: not at all.
    pub overlap_score_credit_decay: f64,
    /// In 1.6: cost in blocks of each request in flight.
    pub decode_active_request_weight: f64,
    /// In 1.6: worth of a block of the prompt in a worker's host memory, of one in
    /// its GPU memory, 0 to 1.
    pub host_cache_hit_weight: f64,
    /// In 1.6: the same for blocks on its disk or in remote storage.
    pub disk_cache_hit_weight: f64,
    /// Count the blocks of requests in flight.
    pub track_active_blocks: bool,
    /// In 1.6: count the uncached prompt tokens of requests in flight.
    pub track_prefill_tokens: bool,
    /// Requests in flight that share blocks count them once.
    pub assume_kv_reuse: bool,
    /// Count the blocks that outputs grow into, too.
    pub track_output_blocks: bool,
    /// With `track_output_blocks`: the output length that clients announce
    /// (`agent_hints.osl`); blocks count less the nearer a request comes to it.
    /// Unset: clients announce none, and blocks count in full.
    #[serde(deserialize_with = "count_option")]
    #[schemars(with = "Option<Count>")]
    pub expected_output_tokens: Option<u32>,
    /// In 1.6: requests wait in the router while every worker has more prompt
    /// tokens in flight than this many times `max_num_batched_tokens`. Dynamo's
    /// `router_queue_threshold`. Unset: nothing waits.
    pub queue_threshold: Option<f64>,
    /// In 1.6: who leaves the queue first: `"fcfs"`, `"lcfs"` or `"wspt"` (fewest
    /// tokens to compute).
    pub queue_order: QueueOrder,
    /// A worker is overloaded with more blocks in flight than this share of its KV
    /// pool, 0 to 1. 1.6 leaves it out, both turn requests away if all are. Unset:
    /// no limit.
    pub active_decode_blocks_threshold: Option<f64>,
    /// A worker is overloaded with more prompt tokens in flight than this. Unset:
    /// no limit.
    #[serde(deserialize_with = "count_option")]
    #[schemars(with = "Option<Count>")]
    pub active_prefill_tokens_threshold: Option<u32>,
    /// Index what workers publish; false: what was sent to them.
    pub use_kv_events: bool,
    /// Without KV events: how long a prompt counts as held where it was sent.
    pub approximate_ttl: SimDuration,
}

impl Default for CostSettings {
    /// Dynamo's.
    fn default() -> Self {
        Self {
            overlap_weight: 1.0,
            temperature: 0.0,
            overlap_score_credit: None,
            prefill_load_scale: None,
            overlap_score_credit_decay: 0.0,
            decode_active_request_weight: 0.0,
            host_cache_hit_weight: 0.75,
            disk_cache_hit_weight: 0.25,
            track_active_blocks: true,
            track_prefill_tokens: true,
            assume_kv_reuse: true,
            track_output_blocks: false,
            expected_output_tokens: None,
            queue_threshold: None,
            queue_order: QueueOrder::default(),
            active_decode_blocks_threshold: None,
            active_prefill_tokens_threshold: None,
            use_kv_events: true,
            approximate_ttl: Retention::default().ttl,
        }
    }
}

/// Temperatures below would lose the costs to rounding.
const LEAST_TEMPERATURE: f64 = 1e-9;

impl Parameters for CostSettings {
    const CHANGEABLE: &'static [&'static str] = &[
        "overlap_weight",
        "temperature",
        "overlap_score_credit",
        "prefill_load_scale",
        "overlap_score_credit_decay",
        "decode_active_request_weight",
        "host_cache_hit_weight",
        "disk_cache_hit_weight",
        "queue_threshold",
        "active_decode_blocks_threshold",
        "active_prefill_tokens_threshold",
    ];

    fn check(&self) -> Result<(), Invalid> {
        for (key, value) in [
            ("overlap_weight", self.overlap_weight),
            ("overlap_score_credit", self.overlap_score_credit.unwrap_or(0.0)),
            ("prefill_load_scale", self.prefill_load_scale.unwrap_or(0.0)),
            ("overlap_score_credit_decay", self.overlap_score_credit_decay),
            ("decode_active_request_weight", self.decode_active_request_weight),
            ("queue_threshold", self.queue_threshold.unwrap_or(0.0)),
        ] {
            check_range(key, value, 0.0..=MOST)?;
        }
        let temperature = self.temperature;
        let fits = temperature == 0.0 || (LEAST_TEMPERATURE..=MOST).contains(&temperature);
        let allowed =
            format!("0, or a number from {} to {}", shown(LEAST_TEMPERATURE), shown(MOST));
        Invalid::unless(fits, "temperature", shown(temperature), &allowed)?;
        for (key, share) in [
            ("host_cache_hit_weight", self.host_cache_hit_weight),
            ("disk_cache_hit_weight", self.disk_cache_hit_weight),
            ("active_decode_blocks_threshold", self.active_decode_blocks_threshold.unwrap_or(0.0)),
        ] {
            check_range(key, share, 0.0..=1.0)?;
        }
        let some = !self.approximate_ttl.is_zero();
        Invalid::unless(some, "approximate_ttl", "0s", "more than no time")
    }
}

impl CostSettings {
    /// As the router of a pool with this role has them, in this version.
    pub(in crate::router) fn params(&self, semantics: Semantics, role: Role) -> KvParams {
        let mut settings = self.clone();
        match (role, semantics) {
            (Role::Both, _) => {}
            (Role::Prefill, _) => settings.track_active_blocks = false,
            (Role::Decode { .. }, Semantics::V0_9) => settings.overlap_weight = 0.0,
            (Role::Decode { may_prefill }, Semantics::V1_6) => {
                // What is cached counts only where it may spare a hand-over.
                if !may_prefill {
                    settings.overlap_score_credit = Some(0.0);
                }
                settings.assume_kv_reuse = false;
                settings.track_prefill_tokens = false;
            }
        }
        let credit = if settings.overlap_weight > 0.0 { 1.0 } else { 0.0 };
        KvParams {
            semantics,
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
            approximate: (!settings.use_kv_events)
                .then(|| Retention { ttl: settings.approximate_ttl, ..Retention::default() }),
        }
    }
}
