//! What clients do when they are refused.

use crate::event::Refusal;
use crate::rng::{Use, stream};
use crate::settings::{self, Count, Invalid};
use crate::time::SimDuration;
use rand::RngExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `[workload.patience.on_refusal]`: clients send a request again that was refused, after a
/// pause that doubles each time. The defaults are those of OpenAI's Python client
/// (`_base_client.py` of openai-python 1 and 2: `max_retries` 2, 0.5 s, 8 s, up to a
/// quarter less, `Retry-After` up to 60 s).
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RefusalSettings {
    /// How often a client sends the same request again. Default 2.
    #[serde(deserialize_with = "settings::count")]
    #[schemars(with = "Count")]
    pub retries: u32,
    /// The pause before the first time. Default 0.5 s.
    pub backoff: SimDuration,
    /// The longest pause. Default 8 s.
    pub max_backoff: SimDuration,
    /// Up to this share of a pause is left out, uniform, 0 to 1. Default 0.25.
    pub jitter: f64,
    /// The longest `Retry-After` that a client honours: it waits just that long. A longer
    /// one is as none. Default 60 s; `"0s"` honours none.
    pub max_retry_after: SimDuration,
    /// The statuses after which a client sends again. Default 429, 503 and 529.
    pub statuses: Vec<u16>,
}

impl Default for RefusalSettings {
    fn default() -> Self {
        Self {
            retries: 2,
            backoff: SimDuration::from_millis(500),
            max_backoff: SimDuration::from_secs(8),
            jitter: 0.25,
            max_retry_after: SimDuration::from_secs(60),
            statuses: Refusal::STATUSES.to_vec(),
        }
    }
}

impl RefusalSettings {
    /// Refuses pauses in which the clock would hardly move, and what is no share.
    ///
    /// # Errors
    /// The first unusable key.
    pub fn validate(&self) -> Result<(), Invalid> {
        let shown = |time: SimDuration| format!("\"{}ms\"", time.as_millis());
        let least = SimDuration::from_millis(1);
        let allowed = "at least \"1ms\"";
        Invalid::unless(self.backoff >= least, "backoff", shown(self.backoff), allowed)?;
        let is_longer = self.max_backoff >= self.backoff;
        let allowed = "at least the first pause, backoff";
        Invalid::unless(is_longer, "max_backoff", shown(self.max_backoff), allowed)?;
        let is_share = (0.0..=1.0).contains(&self.jitter);
        Invalid::unless(is_share, "jitter", self.jitter, "a share from 0 to 1")?;
        let unknown = self.statuses.iter().find(|status| !Refusal::STATUSES.contains(status));
        let status = unknown.copied().unwrap_or_default();
        Invalid::unless(unknown.is_none(), "statuses", status, "429, 503 or 529, or several")
    }

    /// The pause before a request of this conversation and turn is sent again that was sent
    /// again `before` times; `None` if it is not.
    pub(super) fn pause(
        &self,
        refusal: &Refusal,
        (seed, conversation, turn): (u64, u32, u32),
        before: u32,
    ) -> Option<SimDuration> {
        if before >= self.retries || !self.statuses.contains(&refusal.status) {
            return None;
        }
        let stated = refusal.retry_after.filter(|after| *after <= self.max_retry_after);
        if let Some(after) = stated.filter(|after| !after.is_zero()) {
            return Some(after);
        }
        let mut draws = stream(seed, Use::Backoff, conversation.into(), turn.into());
        let draw = (0..=before).map(|_| draws.random::<f64>()).last().unwrap_or(0.0);
        let doubled =
            1u64.checked_shl(before).map(|times| self.backoff.as_ps().saturating_mul(times));
        let whole = doubled.unwrap_or(u64::MAX).min(self.max_backoff.as_ps());
        let whole = SimDuration::from_ps(whole);
        // Not so short that the clock stands still.
        let least = SimDuration::from_millis(1).min(whole);
        Some(SimDuration::from_secs_f64(whole.as_secs() * (1.0 - self.jitter * draw)).max(least))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PLAIN: Refusal = Refusal::new(429, None);

    fn key(conversation: u32) -> (u64, u32, u32) {
        (7, conversation, 1)
    }

    proptest! {
        /// Pauses double up to the longest, less the jitter; who sends again, and when, is
        /// known from the seed alone.
        #[test]
        fn pauses_double_and_end(before in 0u32..70, conversation in 0u32..99, jitter in 0.0f64..1.0) {
            let settings = RefusalSettings { retries: 64, jitter, ..RefusalSettings::default() };
            let pause = settings.pause(&PLAIN, key(conversation), before);
            prop_assert_eq!(pause, settings.pause(&PLAIN, key(conversation), before));
            prop_assert_eq!(pause.is_some(), before < 64);
            if let Some(pause) = pause {
                let whole = (0.5 * 2f64.powf(f64::from(before))).min(8.0);
                let share = pause.as_secs() / whole;
                let least = (1.0 - jitter - 1e-9).max(0.0);
                prop_assert!((least..=1.0).contains(&share), "{}", share);
            }
        }
    }

    #[test]
    fn draws_of_one_request_differ_from_try_to_try() {
        let settings =
            RefusalSettings { max_backoff: SimDuration::from_millis(500), ..Default::default() };
        let pauses: Vec<_> = (0..2).map(|n| settings.pause(&PLAIN, key(3), n)).collect();
        assert_ne!(pauses[0], pauses[1]);
        assert_ne!(pauses[0], settings.pause(&PLAIN, key(4), 0));
    }

    #[test]
    fn retry_after_is_honoured_up_to_a_limit_and_some_statuses_end_it() {
        let settings = RefusalSettings { jitter: 0.0, ..RefusalSettings::default() };
        let pause = |status, after: Option<u64>| {
            let refusal = Refusal::new(status, after.map(SimDuration::from_secs));
            settings.pause(&refusal, key(0), 0).map(|pause| pause.as_secs())
        };
        assert_eq!(pause(503, Some(20)), Some(20.0));
        assert_eq!((pause(503, Some(61)), pause(503, Some(0))), (Some(0.5), Some(0.5)));
        let few = RefusalSettings { statuses: vec![503], ..settings.clone() };
        assert_eq!(few.pause(&PLAIN, key(0), 0), None);
    }
}
