use crate::router::Role;
use crate::router::by_cost::{ByCost, CostParameters};
use crate::router::cost_settings::CostSettings;
use crate::router::factory::{Origin, PolicyFactory, Registration};
use crate::router::kv::{KvParams, KvPolicy, Retention, Semantics};
use crate::router::parameters::{Parameters, Surroundings, check_range};
use crate::settings::{Count, Invalid, count};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// See [`KvPolicy`].
pub fn policy() -> Arc<dyn PolicyFactory> {
    let rule = "the lowest cost: prompt blocks to compute, and blocks in flight";
    Registration::new("kv", rule, |settings: &KvSettings, cluster, seed| {
        let policy = KvPolicy::new(settings.params(cluster.role), cluster, seed);
        ByCost::new(settings.clone(), policy, cluster)
    })
    .follows(
        Origin::new(
            "NVIDIA Dynamo",
            "crates dynamo-llm (kv_router/) and dynamo-kv-router (scheduling/, sequences/, indexer/)",
        )
        .version_where("semantics", "1.6", "1.6.1", "2026-11")
        .version_where("semantics", "0.9", "0.9.0", "2026-02")
        .without(LEFT_OUT),
    )
    .can_follow()
    .targets_ranks()
    .can_leave_out()
    .shared()
}

/// What of Dynamo's router is not modelled.
pub(super) const LEFT_OUT: &str = "memory that workers share, LoRA, priorities, deadlines and classes of requests, a model of \
     prefill times, approximate caches by least recent use or beside KV events";

/// Parameters of `kv`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct KvSettings {
    /// Which version's rules hold: `"0.9"` (the published runs) or `"1.6"`.
    pub semantics: Semantics,
    /// Without KV events, in 0.9: blocks of all workers above which the oldest are
    /// forgotten.
    #[serde(deserialize_with = "count")]
    #[schemars(with = "Count")]
    pub approximate_max_blocks: u32,
    /// Without KV events, in 0.9: the share of them that is left then, 0 to 1.
    pub approximate_prune_target_ratio: f64,
    /// What the production crate has, too.
    #[serde(flatten)]
    pub costs: CostSettings,
}

impl Default for KvSettings {
    fn default() -> Self {
        let Retention { max_blocks, prune_target_ratio, .. } = Retention::default();
        Self {
            semantics: Semantics::default(),
            approximate_max_blocks: max_blocks,
            approximate_prune_target_ratio: prune_target_ratio,
            costs: CostSettings::default(),
        }
    }
}

impl Parameters for KvSettings {
    const CHANGEABLE: &'static [&'static str] = CostSettings::CHANGEABLE;

    fn check(&self) -> Result<(), Invalid> {
        self.costs.check()?;
        let ratio = self.approximate_prune_target_ratio;
        check_range("approximate_prune_target_ratio", ratio, 0.0..=1.0)?;
        if self.semantics == Semantics::V1_6 {
            return Ok(());
        }
        let CostSettings {
            overlap_score_credit,
            prefill_load_scale,
            overlap_score_credit_decay,
            decode_active_request_weight,
            ..
        } = self.costs;
        for (key, value) in [
            ("overlap_score_credit", overlap_score_credit.unwrap_or(0.0)),
            ("prefill_load_scale", prefill_load_scale.unwrap_or(0.0)),
            ("overlap_score_credit_decay", overlap_score_credit_decay),
            ("decode_active_request_weight", decode_active_request_weight),
        ] {
            let allowed = "left out where semantics = \"0.9\", which has no such term";
            Invalid::unless(value == 0.0, key, value, allowed)?;
        }
        Invalid::unless(
            self.costs.track_prefill_tokens,
            "track_prefill_tokens",
            false,
            "left out where semantics = \"0.9\", which has no such switch",
        )?;
        if let Some(threshold) = self.costs.queue_threshold {
            let allowed = "left out where semantics = \"0.9\", which has no queue";
            return Err(Invalid::new("queue_threshold", threshold, allowed));
        }
        Ok(())
    }

    fn check_in(&self, surroundings: &Surroundings) -> Result<(), Invalid> {
        let has_rule = self.semantics == Semantics::V1_6 || !surroundings.may_skip_prefill;
        let allowed = "left out where semantics = \"0.9\", which has no such rule";
        Invalid::unless(has_rule, "conditional_disaggregation", "a section", allowed)
    }

    /// 0.9's publisher passes every removal on.
    fn counts_copies(&self) -> bool {
        self.semantics == Semantics::V1_6
    }
}

impl CostParameters for KvSettings {
    fn params(&self, role: Role) -> KvParams {
        let params = self.costs.params(self.semantics, role);
        let retention = |retention| Retention {
            max_blocks: self.approximate_max_blocks,
            prune_target_ratio: self.approximate_prune_target_ratio,
            ..retention
        };
        KvParams { approximate: params.approximate.map(retention), ..params }
    }

    fn costs(&self) -> &CostSettings {
        &self.costs
    }
}
