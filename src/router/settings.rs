//! `[router]` as written: how front ends stand between clients and workers, and
//! a policy with its parameters.

use super::disaggregated::ConditionalDisaggregation;
use super::factory::ChosenPolicy;
use super::feed::{FeedSettings, RestartSettings};
use super::parameters::Surroundings;
use super::registry::Registry;
use crate::settings::Invalid;
use crate::time::SimDuration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

/// The `[router]` section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RouterSettings {
    /// Which policy routes.
    pub policy: String,
    /// What holds for every policy.
    #[serde(flatten)]
    pub front_ends: FrontEndSettings,
    /// All other keys: parameters of policies.
    #[serde(flatten)]
    pub parameters: Table,
}

/// The keys of `[router]` that hold for every policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct FrontEndSettings {
    /// Front ends that route side by side, each with its own bookings and feed. Default 1.
    pub replicas: u32,
    /// Which front end a request reaches. Default `"in_turn"`.
    pub spread: Spread,
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
    /// How KV events reach the router.
    pub feed: FeedSettings,
}

impl Default for FrontEndSettings {
    fn default() -> Self {
        Self {
            replicas: 1,
            spread: Spread::default(),
            sync_delay: None,
            restart: None,
            conditional_disaggregation: None,
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

/// Front ends times workers: each front end keeps what it knows of every worker.
const MOST_VIEWS: u64 = 500_000;

impl FrontEndSettings {
    /// Checks the values; keys in the error are relative to `[router]`.
    ///
    /// # Errors
    /// The first setting that will not do in front of `workers` workers.
    pub fn validate(&self, workers: u32) -> Result<(), Invalid> {
        let most = (MOST_VIEWS / u64::from(workers.max(1))).max(1);
        let allowed = format!(
            "from 1 to {most}: front ends times workers, {workers}, is at most {MOST_VIEWS}"
        );
        let fits = (1..=most).contains(&u64::from(self.replicas));
        Invalid::unless(fits, "replicas", self.replicas, &allowed)?;
        self.feed.validate().map_err(|invalid| invalid.within("feed"))?;
        if let Some(conditional) = &self.conditional_disaggregation {
            let within = |invalid: Invalid| invalid.within("conditional_disaggregation");
            conditional.validate().map_err(within)?;
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

impl RouterSettings {
    /// `policy` with everything at its default.
    pub fn new(policy: &str) -> Self {
        Self {
            policy: policy.to_owned(),
            front_ends: FrontEndSettings::default(),
            parameters: Table::new(),
        }
    }

    /// The same with a parameter set.
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.parameters.insert(key.to_owned(), value.into());
        self
    }

    /// The same section with another feed.
    pub fn with_feed(mut self, feed: FeedSettings) -> Self {
        self.front_ends.feed = feed;
        self
    }

    /// Checks everything, in front of `workers` workers, and gives what it means:
    /// the front ends with what the policy decides about them filled in, and the
    /// policy.
    ///
    /// # Errors
    /// The first setting that will not do; its key is relative to `[router]`.
    pub fn resolve(
        &self,
        registry: &Registry,
        workers: u32,
    ) -> Result<(FrontEndSettings, ChosenPolicy), Invalid> {
        registry.find(&self.policy)?;
        self.front_ends.validate(workers)?;
        let policy = registry.choose(&self.policy, &self.parameters)?;
        policy.check_in(&Surroundings {
            workers,
            front_ends: self.front_ends.replicas,
            may_skip_prefill: self.front_ends.conditional_disaggregation.is_some(),
        })?;
        let mut front_ends = self.front_ends.clone();
        front_ends.feed.count_copies.get_or_insert_with(|| policy.counts_copies());
        Ok((front_ends, policy))
    }

    /// Checks everything, as far as it depends on no fleet.
    ///
    /// # Errors
    /// The first setting that will not do; its key is relative to `[router]`.
    pub fn validate(&self) -> Result<(), Invalid> {
        let workers = self.front_ends.feed.worker_delays.len().try_into().unwrap_or(u32::MAX);
        self.resolve(&Registry::default(), workers.max(1)).map(drop)
    }

    /// The policy, to be called on valid settings that name one of this crate's.
    ///
    /// # Panics
    /// If the settings are not valid.
    pub fn chosen(&self) -> ChosenPolicy {
        let chosen = Registry::default().choose(&self.policy, &self.parameters);
        chosen.unwrap_or_else(|invalid| panic!("{invalid}"))
    }

    /// The feed with what the policy decides filled in.
    ///
    /// # Panics
    /// If the settings are not valid.
    pub fn feed(&self) -> FeedSettings {
        let mut feed = self.front_ends.feed.clone();
        feed.count_copies.get_or_insert_with(|| self.chosen().counts_copies());
        feed
    }
}
