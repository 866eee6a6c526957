//! `[router]`: which policy, with which parameters.
//!
//! All policies share one flat section, because experiments sweep
//! `router.policy` and keep the rest. So a key that any policy knows is
//! accepted, and used only by the policies whose doc comment names it; a key
//! that no policy knows is an error.

use super::disaggregated::ConditionalDisaggregation;
use super::feed::{FeedSettings, RestartSettings};
use super::kv::Semantics;
use super::policies::POLICIES;
use super::policies::session_affinity::Affinity;
use super::queued::QueueOrder;
use super::spec::PolicySpec;
use super::{ClusterSpec, Policy};
use crate::settings::{Count, Invalid, count, count_option, nearest};
use crate::time::SimDuration;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::de::value::MapDeserializer;
use serde::{Deserialize, Serialize};

/// The names that `router.policy` takes where nobody added policies, for messages.
pub fn policy_names() -> impl Iterator<Item = &'static str> {
    POLICIES.iter().map(PolicySpec::name)
}

/// The parameters of KV-aware policies, and the way of their events: keys of
/// `[router]` that mean nothing to a [blind](PolicySpec::blind) policy.
pub const PARAMETERS: [&str; 23] = [
    "feed",
    "semantics",
    "overlap_weight",
    "temperature",
    "overlap_score_credit",
    "prefill_load_scale",
    "overlap_score_credit_decay",
    "decode_active_request_weight",
    "track_active_blocks",
    "track_prefill_tokens",
    "assume_kv_reuse",
    "track_output_blocks",
    "expected_output_tokens",
    "queue_threshold",
    "queue_order",
    "active_decode_blocks_threshold",
    "active_prefill_tokens_threshold",
    "use_kv_events",
    "approximate_ttl",
    "approximate_max_blocks",
    "approximate_prune_target_ratio",
    "shadow_driver",
    "own",
];

/// The `[router]` section. Each key names the policies that use it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouterSettings {
    /// Which policy routes.
    pub policy: String,
    /// Front ends that route side by side, each with its own bookings and feed. Default 1.
    #[serde(default = "default::replicas")]
    pub replicas: u32,
    /// Which front end a request reaches. Default `"in_turn"`.
    #[serde(default)]
    pub spread: Spread,
    /// Time until a front end hears of the bookings, first tokens and ends of the
    /// others. Default: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sync_delay: Option<SimDuration>,
    /// When all front ends start anew, if they do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart: Option<RestartSettings>,
    /// Parameters of a policy that has none of the keys here; see [`Self::own`].
    #[serde(skip_serializing_if = "toml::Table::is_empty", default)]
    #[schemars(with = "serde_json::Map<String, serde_json::Value>")]
    pub(super) own: toml::Table,
    /// (kv with "1.6", dynamo; where prefill and decode have workers of their own)
    /// Which requests skip the prefill workers. Unset: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conditional_disaggregation: Option<ConditionalDisaggregation>,
    /// How KV events reach the router.
    #[serde(default)]
    pub(super) feed: FeedSettings,
    /// (kv) Which version's rules hold: `"0.9"` (the published runs) or `"1.6"`. Default `"1.6"`.
    #[serde(default)]
    pub semantics: Semantics,
    /// (kv, dynamo) Weight of the prefill term against the decode term, at least 0;
    /// 0 turns the index off. Dynamo 0.9's `overlap_score_weight`. Default 1.
    #[serde(default = "default::overlap_weight")]
    pub overlap_weight: f64,
    /// (kv, dynamo) 0 takes the lowest cost; above, a softmax draw. Default 0.
    #[serde(default)]
    pub temperature: f64,
    /// (dynamo, kv with "1.6") Cached blocks taken off the prefill term per block of
    /// overlap. Default: 1, or 0 where `overlap_weight` is 0.
    pub overlap_score_credit: Option<f64>,
    /// (dynamo, kv with "1.6") Weight of the prefill term. Default: `overlap_weight`.
    pub prefill_load_scale: Option<f64>,
    /// (dynamo, kv with "1.6") How fast the credit shrinks on workers with more prefill
    /// in flight than the least busy one. Default 0: not at all.
    #[serde(default)]
    pub overlap_score_credit_decay: f64,
    /// (dynamo, kv with "1.6") Cost in blocks of each request in flight. Default 0.
    #[serde(default)]
    pub decode_active_request_weight: f64,
    /// (dynamo, kv with "1.6") Worth of a block of the prompt in a worker's host
    /// memory, of one in its GPU memory, 0 to 1. Default 0.75.
    #[serde(default = "default::host_weight")]
    pub host_cache_hit_weight: f64,
    /// (dynamo, kv with "1.6") The same for blocks on its disk or in remote storage.
    /// Default 0.25.
    #[serde(default = "default::disk_weight")]
    pub disk_cache_hit_weight: f64,
    /// (kv, dynamo) Count the blocks of requests in flight. Default true.
    #[serde(default = "default::yes")]
    pub track_active_blocks: bool,
    /// (dynamo, kv with "1.6") Count the prompt tokens in flight. Default true.
    #[serde(default = "default::yes")]
    pub track_prefill_tokens: bool,
    /// (kv, dynamo) Requests in flight that share blocks count them once. Default true.
    #[serde(default = "default::yes")]
    pub assume_kv_reuse: bool,
    /// (kv, dynamo) Count the blocks that outputs grow into, too. Default false.
    #[serde(default)]
    pub track_output_blocks: bool,
    /// (kv, dynamo, with `track_output_blocks`) The output length that clients
    /// announce (`agent_hints.osl`): blocks count less the nearer a request comes
    /// to it. Unset: clients announce none, and blocks count in full.
    #[serde(default, deserialize_with = "count_option")]
    #[schemars(with = "Option<Count>")]
    pub expected_output_tokens: Option<u32>,
    /// (dynamo, kv with "1.6") Requests wait in the router while every worker has
    /// more prompt tokens in flight than this many times `max_num_batched_tokens`.
    /// Dynamo's `router_queue_threshold`. Unset: nothing waits.
    pub queue_threshold: Option<f64>,
    /// (dynamo, kv with "1.6") Who leaves the queue first: `"fcfs"`, `"lcfs"` or
    /// `"wspt"` (fewest tokens to compute). Default `"fcfs"`.
    #[serde(default)]
    pub queue_order: QueueOrder,
    /// (kv, dynamo) A worker is overloaded with more blocks in flight than this
    /// share of its KV pool, 0 to 1. 1.6 leaves it out, both turn requests away if
    /// all are. Unset: no limit.
    pub active_decode_blocks_threshold: Option<f64>,
    /// (kv, dynamo) A worker is overloaded with more prompt tokens in flight than
    /// this. Unset: no limit.
    #[serde(default, deserialize_with = "count_option")]
    #[schemars(with = "Option<Count>")]
    pub active_prefill_tokens_threshold: Option<u32>,
    /// (kv, dynamo) Index what workers publish; false: what was sent to them. Default true.
    #[serde(default = "default::yes")]
    pub use_kv_events: bool,
    /// (kv, dynamo, without KV events) How long a prompt counts as held where it
    /// was sent. Default 120 s.
    #[serde(default = "default::approximate_ttl")]
    pub approximate_ttl: SimDuration,
    /// (kv with "0.9", without KV events) Blocks above which the oldest are
    /// forgotten. Default 1 Mi.
    #[serde(default = "default::approximate_max_blocks", deserialize_with = "count")]
    #[schemars(with = "Count")]
    pub approximate_max_blocks: u32,
    /// (kv with "0.9", without KV events) Share of them that is left then. Default 0.8.
    #[serde(default = "default::approximate_prune_target")]
    pub approximate_prune_target_ratio: f64,
    /// (shadow) Which of the two drives. Default `"kv"`.
    #[serde(default)]
    pub shadow_driver: ShadowDriver,
    /// (`session_affinity`) `"hard"` stays on its worker, `"soft"` leaves a busy one. Default `"hard"`.
    #[serde(default)]
    pub session_affinity: Affinity,
    /// (`session_affinity`) A session without activity for so long is forgotten.
    /// Default 300 s (assumed; Dynamo's is off unless set).
    #[serde(default = "default::session_ttl")]
    pub session_ttl: SimDuration,
    /// (`session_affinity`, soft) Requests in flight above the least loaded worker
    /// that a session bears. Default 8 (assumed).
    #[serde(default = "default::session_slack", deserialize_with = "count")]
    #[schemars(with = "Count")]
    pub session_slack_requests: u32,
    /// (`consistent_hash`) Blocks at the start of a prompt that make its key, at
    /// least 1. Default 2: about the 100 characters of KubeAI's default.
    #[serde(default = "default::hash_prefix", deserialize_with = "count")]
    #[schemars(with = "Count")]
    pub hash_prefix_blocks: u32,
    /// (`consistent_hash`) Points of each worker on the ring, at least 1. Default 256 (KubeAI).
    #[serde(default = "default::hash_replication", deserialize_with = "count")]
    #[schemars(with = "Count")]
    pub hash_replication: u32,
    /// (`consistent_hash`) Times the mean load that a worker may carry, at least 1.
    /// Default 1.25 (KubeAI).
    #[serde(default = "default::hash_load_factor")]
    pub hash_load_factor: f64,
    /// (`sglang_cache_aware`) Share of the prompt that must match. Default 0.3.
    #[serde(default = "default::cache_threshold")]
    pub cache_threshold: f64,
    /// (`sglang_cache_aware`) Difference of loads that is still balanced. Default 64 requests.
    #[serde(default = "default::balance_abs_threshold", deserialize_with = "count")]
    #[schemars(with = "Count")]
    pub balance_abs_threshold: u32,
    /// (`sglang_cache_aware`) Ratio of loads that is still balanced. Default 1.5.
    #[serde(default = "default::balance_rel_threshold")]
    pub balance_rel_threshold: f64,
    /// (`sglang_cache_aware`) Time between two rounds of forgetting. Default 120 s.
    #[serde(default = "default::eviction_interval")]
    pub eviction_interval: SimDuration,
    /// (`sglang_cache_aware`) Tokens remembered per worker. Default 16 Mi: its 64 Mi
    /// characters at 4 characters a token (assumed).
    #[serde(default = "default::max_tree_tokens", deserialize_with = "count")]
    #[schemars(with = "Count")]
    pub max_tree_tokens: u32,
    /// (`inference_extension`) Weight of the prefix score. Default 3.
    #[serde(default = "default::prefix_weight")]
    pub prefix_weight: f64,
    /// (`inference_extension`) Weight of the KV utilisation score. Default 2.
    #[serde(default = "default::kv_weight")]
    pub kv_weight: f64,
    /// (`inference_extension`) Weight of the queue score. Default 2.
    #[serde(default = "default::queue_weight")]
    pub queue_weight: f64,
    /// (`inference_extension`) Blocks of a prompt matched at most. Default 256.
    #[serde(default = "default::max_prefix_blocks", deserialize_with = "count")]
    #[schemars(with = "Count")]
    pub max_prefix_blocks: u32,
    /// (`inference_extension`) Blocks remembered per worker. Default 31,250.
    #[serde(default = "default::lru_capacity", deserialize_with = "count")]
    #[schemars(with = "Count")]
    pub lru_capacity_blocks: u32,
    /// (`inference_extension`) Time between two reports of a worker's gauges.
    /// Default 50 ms.
    #[serde(default = "default::report_period")]
    pub report_period: SimDuration,
    /// (`kv_aware`) A match counts if at most so many prompt tokens are left. Default 2,000.
    #[serde(default = "default::kv_aware_threshold", deserialize_with = "count")]
    #[schemars(with = "Count")]
    pub kv_aware_threshold_tokens: u32,
    /// (`ttft_estimate`) Prompt tokens that a worker computes per second. Default
    /// 10,000 (assumed; take the model file's rate).
    #[serde(default = "default::prefill_rate")]
    pub prefill_tokens_per_s: f64,
}

/// Which front end a request reaches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Spread {
    /// One after the other, as behind a balancer that knows nothing of conversations.
    #[default]
    InTurn,
    /// All turns of a conversation reach the same one, conversations in turn, as
    /// with a client that keeps its connection.
    ByConversation,
}

/// Who drives in `policy = "shadow"`; the other one decides for comparison only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ShadowDriver {
    /// Our own code.
    #[default]
    Kv,
    /// Dynamo's.
    Dynamo,
}

/// Defaults that are not zero, where serde looks for them.
mod default {
    use crate::time::SimDuration;

    macro_rules! defaults {
        ($($name:ident: $type:ty = $value:expr;)*) => {
            $(pub(super) const fn $name() -> $type { $value })*
        };
    }

    defaults! {
        replicas: u32 = 1;
        overlap_weight: f64 = 1.0;
        host_weight: f64 = 0.75;
        disk_weight: f64 = 0.25;
        yes: bool = true;
        approximate_ttl: SimDuration = SimDuration::from_secs(120);
        approximate_max_blocks: u32 = 1 << 20;
        approximate_prune_target: f64 = 0.8;
        session_ttl: SimDuration = SimDuration::from_secs(300);
        report_period: SimDuration = SimDuration::from_millis(50);
        session_slack: u32 = 8;
        hash_prefix: u32 = 2;
        hash_replication: u32 = 256;
        hash_load_factor: f64 = 1.25;
        cache_threshold: f64 = 0.3;
        balance_abs_threshold: u32 = 64;
        balance_rel_threshold: f64 = 1.5;
        eviction_interval: SimDuration = SimDuration::from_secs(120);
        max_tree_tokens: u32 = 16 << 20;
        prefix_weight: f64 = 3.0;
        kv_weight: f64 = 2.0;
        queue_weight: f64 = 2.0;
        max_prefix_blocks: u32 = 256;
        lru_capacity: u32 = 31_250;
        kv_aware_threshold: u32 = 2_000;
        prefill_rate: f64 = 10_000.0;
    }
}

impl RouterSettings {
    /// `policy` with every parameter at its default.
    pub fn new(policy: &str) -> Self {
        let section = MapDeserializer::new([("policy", policy)].into_iter());
        let settings: Result<Self, serde::de::value::Error> = Self::deserialize(section);
        settings.expect("only the policy has no default")
    }

    /// Checks the values; keys in the error are relative to `[router]`.
    ///
    /// # Errors
    /// The first setting that will not do.
    pub fn validate(&self) -> Result<(), Invalid> {
        self.validate_among(&[]).map(drop)
    }

    /// Checks the values, where `more` policies than this crate's can be named,
    /// and gives the one that is.
    ///
    /// # Errors
    /// The first setting that will not do.
    pub fn validate_among(&self, more: &[PolicySpec]) -> Result<PolicySpec, Invalid> {
        let spec = self.find(more)?;
        Invalid::unless(self.replicas > 0, "replicas", self.replicas, "at least 1")?;
        self.feed.validate().map_err(|invalid| invalid.within("feed"))?;
        Invalid::unless_at_least("overlap_weight", self.overlap_weight, 0.0)?;
        Invalid::unless_at_least("temperature", self.temperature, 0.0)?;
        self.validate_kv()?;
        self.validate_others()?;
        spec.check(self)?;
        Ok(spec)
    }

    /// Checks what depends on the fleet; keys in the error are relative to `[router]`.
    ///
    /// # Errors
    /// The first setting that does not fit `workers` workers.
    pub fn validate_for(&self, workers: u32) -> Result<(), Invalid> {
        let delays = self.feed.worker_delays.len();
        Invalid::unless(
            delays <= workers as usize,
            "feed.worker_delays",
            format!("[{delays} delays]"),
            &format!("at most one delay for each of the {workers} workers"),
        )
    }

    fn find(&self, more: &[PolicySpec]) -> Result<PolicySpec, Invalid> {
        let known = || more.iter().chain(POLICIES);
        let found = known().find(|spec| spec.name() == self.policy);
        found.copied().ok_or_else(|| {
            let near = nearest(&self.policy, known().map(PolicySpec::name));
            let hint = near.map(|name| format!("; did you mean {name:?}?"));
            let names: Vec<String> = known().map(|spec| format!("{:?}", spec.name())).collect();
            let names = format!("one of {}{}", names.join(", "), hint.unwrap_or_default());
            Invalid::new("policy", format!("{:?}", self.policy), names)
        })
    }

    /// Reads `[router.own]`, the place for the parameters of policies that are
    /// not this crate's: their [`check`](PolicySpec::with_check) tries it.
    ///
    /// # Errors
    /// If the section does not have the shape of `T`.
    pub fn own<T: DeserializeOwned>(&self) -> Result<T, Invalid> {
        let section = toml::Value::Table(self.own.clone());
        section.clone().try_into().map_err(|error: toml::de::Error| {
            let problem = error.message().replace('\n', ", ");
            let shown = section.to_string().replace('\n', " ");
            Invalid::new("own", shown, format!("what the policy reads: {problem}"))
        })
    }

    fn validate_kv(&self) -> Result<(), Invalid> {
        for (key, value) in [
            ("overlap_score_credit", self.overlap_score_credit),
            ("prefill_load_scale", self.prefill_load_scale),
            ("overlap_score_credit_decay", Some(self.overlap_score_credit_decay)),
            ("decode_active_request_weight", Some(self.decode_active_request_weight)),
        ] {
            let value = value.unwrap_or(0.0);
            Invalid::unless_at_least(key, value, 0.0)?;
            let known = self.semantics == Semantics::V1_6 || value == 0.0;
            let allowed = "left out where semantics = \"0.9\", which has no such term";
            Invalid::unless(known, key, value, allowed)?;
        }
        let known = self.semantics == Semantics::V1_6 || self.track_prefill_tokens;
        Invalid::unless(
            known,
            "track_prefill_tokens",
            self.track_prefill_tokens,
            "left out where semantics = \"0.9\", which has no such switch",
        )?;
        if let Some(threshold) = self.queue_threshold {
            Invalid::unless_at_least("queue_threshold", threshold, 0.0)?;
            let known = self.semantics == Semantics::V1_6;
            let allowed = "left out where semantics = \"0.9\", which has no queue";
            Invalid::unless(known, "queue_threshold", threshold, allowed)?;
        }
        if let Some(conditional) = &self.conditional_disaggregation {
            let within = |invalid: Invalid| invalid.within("conditional_disaggregation");
            conditional.validate(self.semantics).map_err(within)?;
        }
        let ttl = !self.approximate_ttl.is_zero();
        Invalid::unless(ttl, "approximate_ttl", "0s", "more than no time")?;
        for (key, share) in [
            ("active_decode_blocks_threshold", self.active_decode_blocks_threshold.unwrap_or(0.0)),
            ("approximate_prune_target_ratio", self.approximate_prune_target_ratio),
            ("host_cache_hit_weight", self.host_cache_hit_weight),
            ("disk_cache_hit_weight", self.disk_cache_hit_weight),
        ] {
            let is_share = (0.0..=1.0).contains(&share);
            Invalid::unless(is_share, key, share, "a share between 0 and 1")?;
        }
        Ok(())
    }

    fn validate_others(&self) -> Result<(), Invalid> {
        for (key, value) in [
            ("hash_prefix_blocks", self.hash_prefix_blocks),
            ("hash_replication", self.hash_replication),
            ("max_prefix_blocks", self.max_prefix_blocks),
        ] {
            Invalid::unless(value > 0, key, value, "at least 1")?;
        }
        for (key, value, min) in [
            ("hash_load_factor", self.hash_load_factor, 1.0),
            ("cache_threshold", self.cache_threshold, 0.0),
            ("balance_rel_threshold", self.balance_rel_threshold, 0.0),
            ("prefix_weight", self.prefix_weight, 0.0),
            ("kv_weight", self.kv_weight, 0.0),
            ("queue_weight", self.queue_weight, 0.0),
            ("prefill_tokens_per_s", self.prefill_tokens_per_s, 1.0),
        ] {
            Invalid::unless_at_least(key, value, min)?;
        }
        for (key, period) in
            [("eviction_interval", self.eviction_interval), ("report_period", self.report_period)]
        {
            Invalid::unless(!period.is_zero(), key, "0s", "more than no time")?;
        }
        Ok(())
    }

    /// The feed with what the policy decides filled in.
    pub fn feed(&self) -> FeedSettings {
        let by_version = self.policy != "kv" || self.semantics == Semantics::V1_6;
        FeedSettings {
            count_copies: Some(self.feed.count_copies.unwrap_or(by_version)),
            ..self.feed.clone()
        }
    }

    /// The same section with another feed.
    pub fn with_feed(self, feed: FeedSettings) -> Self {
        Self { feed, ..self }
    }

    /// What makes this policy for each front end. To be called on validated settings.
    ///
    /// # Panics
    /// If the policy is not one of this crate's.
    pub fn factory(&self) -> Factory {
        let spec = self.find(&[]).unwrap_or_else(|invalid| panic!("{invalid}"));
        Factory { spec, settings: self.clone() }
    }
}

/// Makes the policy of each front end.
#[derive(Clone, Debug)]
pub struct Factory {
    spec: PolicySpec,
    settings: RouterSettings,
}

impl Factory {
    /// A fresh policy for one front end; `seed` is all the randomness it gets.
    pub fn build(&self, cluster: &ClusterSpec, seed: u64) -> Box<dyn Policy> {
        self.spec.build(&self.settings, cluster, seed)
    }
}
