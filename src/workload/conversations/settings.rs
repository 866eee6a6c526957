//! What an experiment says of its conversations.

use crate::settings::{self, Count, Invalid};
use crate::time::SimDuration;
use crate::workload::by_turn::ByTurn;
use crate::workload::client::Client;
use crate::workload::distribution::{Distribution, Tokens, validate_exponent};
use crate::workload::{MAX_TOKENS, PatienceSettings, Priorities, validate_concurrency};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Most starters (assumed: far above any use). Each is kept with its length.
const MAX_STARTERS: u32 = 1_000_000;

/// A closed loop of conversations.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConversationSettings {
    /// Conversations at the same time, at first.
    #[serde(deserialize_with = "settings::count")]
    #[schemars(with = "Count")]
    pub concurrency: u32,
    /// Number of texts from which conversations start.
    #[serde(deserialize_with = "settings::count")]
    #[schemars(with = "Count")]
    pub starters: u32,
    /// Makes the first starters more popular: the `k`-th is drawn in proportion
    /// to `k ^ -starter_exponent` (Zipf). 0, all equally likely, unless given.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub starter_exponent: f64,
    /// Length of a starter; drawn once per starter and seed. 0: nothing is shared.
    pub starter_tokens: Distribution<Tokens>,
    /// Turns of a conversation.
    pub turns: Turns,
    /// New text that the user adds in each turn, the first included; for all turns
    /// or turn by turn.
    pub question_tokens: ByTurn<Tokens>,
    /// Length of an answer, for all turns or turn by turn. The upper bound over all
    /// turns is the `max_tokens` of every request.
    pub output_tokens: ByTurn<Tokens>,
    /// Time from an answer to the next turn, and to the first turn of the
    /// slot's next conversation; none unless given.
    #[serde(default)]
    pub think_time: Distribution<SimDuration>,
    /// The way of a request from its client to the router; no time unless given.
    #[serde(default)]
    pub client: Client,
    /// When clients hang up; never unless given.
    #[serde(default, skip_serializing_if = "PatienceSettings::is_default")]
    pub patience: PatienceSettings,
    /// The priority of requests, lower ones first, where workers schedule by it; 0 unless
    /// given. A whole number, or a distribution that each conversation draws from.
    #[serde(default, skip_serializing_if = "Priorities::are_zero")]
    pub priority: Priorities,
    /// Conversations that start because a level begins are sent at even
    /// distances over this time; all at once unless given.
    #[serde(default)]
    pub start_spread: SimDuration,
}

/// True for exponents that make no difference.
pub(in crate::workload) fn is_zero(exponent: &f64) -> bool {
    *exponent == 0.0
}

/// Turns of a conversation: every number from `min` to `max` equally likely.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Turns {
    /// Fewest; at least 1.
    pub min: u32,
    /// Most.
    pub max: u32,
}

impl ConversationSettings {
    /// Refuses settings that no conversation can follow.
    ///
    /// # Errors
    /// The first unusable key.
    pub fn validate(&self) -> Result<(), Invalid> {
        validate_concurrency(self.concurrency)?;
        self.starter_tokens.validate().map_err(|e| e.within("starter_tokens"))?;
        let one = Tokens(1);
        self.question_tokens.validate_at_least("question_tokens", one)?;
        self.output_tokens.validate_at_least("output_tokens", one)?;
        self.think_time.validate().map_err(|e| e.within("think_time"))?;
        self.client.validate().map_err(|e| e.within("client"))?;
        self.patience.validate().map_err(|e| e.within("patience"))?;
        self.priority.validate()?;

        Invalid::unless(
            (1..=MAX_STARTERS).contains(&self.starters),
            "starters",
            self.starters,
            &format!("from 1 to {MAX_STARTERS}"),
        )?;
        validate_exponent("starter_exponent", self.starter_exponent)?;
        let Turns { min, max } = self.turns;
        let allowed = "at least 1 and at most turns.max";
        Invalid::unless((1..=max).contains(&min), "turns.min", min, allowed)?;
        let per_turn =
            u64::from(self.question_tokens.most().0) + u64::from(self.output_tokens.most().0);
        let starter = u64::from(self.starter_tokens.bounds().1.0);
        let most = u64::from(MAX_TOKENS).saturating_sub(starter) / per_turn;
        Invalid::unless(
            u64::from(max) <= most,
            "turns.max",
            max,
            &format!(
                "at most {most}: with starters of {starter} tokens and turns of {per_turn} \
                 a conversation would pass {MAX_TOKENS} tokens; make one of them smaller"
            ),
        )
    }
}
