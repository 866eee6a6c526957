//! How front ends stand between clients and workers, whatever their policy.

use super::admission::AdmissionSettings;
use super::disaggregated::ConditionalDisaggregation;
use super::feed::{FeedSettings, RestartSettings};
use crate::settings::Invalid;
use crate::time::SimDuration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The keys of `[router]` that hold for every policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct FrontEndSettings {
    /// Front ends that route side by side, each with its own bookings and feed. Default 1.
    pub replicas: u32,
    /// Which front end a request reaches. Default `"in_turn"`.
    pub spread: Spread,
    /// What the policy chooses among, where workers have ranks: these, or whole workers,
    /// which spread requests over their ranks by a rule of their own. Default: `"ranks"` for
    /// `kv`, `dynamo`, `dynamo_two_tier`, `shadow`, `oracle` and `external`, else `"workers"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub targets: Option<Targets>,
    /// Time until a front end hears of the bookings, first tokens and ends of the
    /// others. Default: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sync_delay: Option<SimDuration>,
    /// When all front ends restart, if they do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart: Option<RestartSettings>,
    /// Which requests skip the prefill workers, where prefill and decode have
    /// workers of their own and the policy keeps an index. Unset: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conditional_disaggregation: Option<ConditionalDisaggregation>,
    /// What is let in to the policy. Unset: everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admission: Option<AdmissionSettings>,
    /// How KV events reach the router.
    pub feed: FeedSettings,
}

impl Default for FrontEndSettings {
    fn default() -> Self {
        Self {
            replicas: 1,
            spread: Spread::default(),
            targets: None,
            sync_delay: None,
            restart: None,
            conditional_disaggregation: None,
            admission: None,
            feed: FeedSettings::default(),
        }
    }
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

/// What a policy chooses among.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Targets {
    /// Every rank is a target, as in Dynamo's router, or behind a port for each rank.
    Ranks,
    /// Workers are targets, as with one port for each.
    Workers,
}

/// The most front ends (assumed: far above any deployment; each has an index of its own).
const MOST_FRONT_ENDS: u64 = 10_000;

/// Front ends times workers: each front end keeps what it knows of every worker.
const MOST_VIEWS: u64 = 500_000;

impl FrontEndSettings {
    /// Checks the values; keys in the error are relative to `[router]`.
    ///
    /// # Errors
    /// The first setting that will not do in front of `workers` workers.
    pub fn validate(&self, workers: u32) -> Result<(), Invalid> {
        let most = (MOST_VIEWS / u64::from(workers.max(1))).clamp(1, MOST_FRONT_ENDS);
        let allowed = match most {
            MOST_FRONT_ENDS => format!("from 1 to {most}"),
            most => format!(
                "from 1 to {most}: front ends times workers, {workers}, is at most {MOST_VIEWS}"
            ),
        };
        let fits = (1..=most).contains(&u64::from(self.replicas));
        Invalid::unless(fits, "replicas", self.replicas, &allowed)?;
        self.feed.validate().map_err(|invalid| invalid.within("feed"))?;
        if let Some(conditional) = &self.conditional_disaggregation {
            let within = |invalid: Invalid| invalid.within("conditional_disaggregation");
            conditional.validate().map_err(within)?;
        }
        if let Some(admission) = &self.admission {
            admission.validate().map_err(|invalid| invalid.within("admission"))?;
        }
        let delays = self.feed.worker_delays.len();
        Invalid::unless(
            delays <= workers as usize,
            "feed.worker_delays",
            format!("[{delays} delays]"),
            &format!("at most one delay for each of the {workers} workers"),
        )
    }
}
