//! What makes a policy known by name.

use super::settings::RouterSettings;
use super::{ClusterSpec, Policy};
use crate::settings::Invalid;

/// A policy as experiments know it: its name in `router.policy`, which settings
/// it accepts, and how it is made.
///
/// Plain functions: a policy is made inside the job that runs it, so it need
/// not be `Send`, and nothing is shared between jobs.
#[derive(Clone, Copy, Debug)]
pub struct PolicySpec {
    name: &'static str,
    is_blind: bool,
    check: fn(&RouterSettings) -> Result<(), Invalid>,
    build: fn(&RouterSettings, &ClusterSpec, u64) -> Box<dyn Policy>,
}

impl PolicySpec {
    /// The policy `name`, made by `build` from validated settings; the number is
    /// all the randomness that one front end's policy gets.
    pub const fn new(
        name: &'static str,
        build: fn(&RouterSettings, &ClusterSpec, u64) -> Box<dyn Policy>,
    ) -> Self {
        Self { name, is_blind: false, check: |_| Ok(()), build }
    }

    /// Says that the policy looks at none of [`PARAMETERS`](super::settings::PARAMETERS)
    /// and at no KV events, so that runs which differ in nothing else are one.
    pub const fn blind(self) -> Self {
        Self { is_blind: true, ..self }
    }

    /// True of a policy that [`blind`](Self::blind) was said of.
    pub fn is_blind(&self) -> bool {
        self.is_blind
    }

    /// Refuses settings that the policy cannot work with. Asked only where
    /// `router.policy` is this policy; the key in the error is relative to `[router]`.
    pub const fn with_check(self, check: fn(&RouterSettings) -> Result<(), Invalid>) -> Self {
        Self { check, ..self }
    }

    /// As written in `router.policy`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Whether the policy can work with `settings`.
    ///
    /// # Errors
    /// The first setting that it cannot work with.
    pub fn check(&self, settings: &RouterSettings) -> Result<(), Invalid> {
        (self.check)(settings)
    }

    /// A fresh policy for one front end.
    pub fn build(
        &self,
        settings: &RouterSettings,
        cluster: &ClusterSpec,
        seed: u64,
    ) -> Box<dyn Policy> {
        (self.build)(settings, cluster, seed)
    }
}
