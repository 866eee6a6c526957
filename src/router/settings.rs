//! `[router]` as written: how front ends stand between clients and workers, and
//! a policy with its parameters.

pub use super::front_end_settings::{FrontEndSettings, Spread, Targets};

use super::feed::FeedSettings;
use super::parameters::Surroundings;
use super::registry::{ChosenPolicy, Registry};
use crate::settings::Invalid;
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

    /// Checks everything, in front of workers with so many ranks each, some of which may only
    /// prefill, and gives what it means: the front ends with what the policy decides about
    /// them filled in, and the policy.
    ///
    /// # Errors
    /// The first setting that will not do; its key is relative to `[router]`.
    pub fn resolve(
        &self,
        registry: &Registry,
        ranks: &[u32],
        has_prefill_workers: Option<bool>,
    ) -> Result<(FrontEndSettings, ChosenPolicy), Invalid> {
        registry.find(&self.policy)?;
        self.front_ends.validate(ranks.iter().sum())?;
        let policy = registry.choose(&self.policy, &self.parameters)?;
        policy.check_gate(self.front_ends.admission.as_ref())?;
        policy.check_in(&Surroundings {
            workers: policy.targets_among(self.front_ends.targets, ranks)?,
            front_ends: self.front_ends.replicas,
            has_prefill_workers,
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
        self.resolve(&Registry::default(), &vec![1; workers.max(1) as usize], None).map(drop)
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
