//! What an experiment says of its sessions.

use crate::settings::{self, Count, Invalid};
use crate::time::SimDuration;
use crate::workload::arrivals::ArrivalSettings;
use crate::workload::client::Client;
use crate::workload::conversations::is_zero;
use crate::workload::distribution::{Distribution, Quantity, Tokens, validate_exponent};
use crate::workload::{MAX_TOKENS, PatienceSettings, Priorities};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Most texts that prompts begin with (assumed: far above any use).
const MAX_TEXTS: u32 = 1_000_000;
/// Most classes, kinds of texts, and turns that have a probability of their own (assumed).
const MAX_ENTRIES: usize = 1_000;
/// The longest time before the start in which sessions have begun (assumed).
const MAX_BEGUN: SimDuration = SimDuration::from_secs(7 * 86_400);

/// An open loop of sessions, which begin by a process of arrivals and have turns.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SessionSettings {
    /// When sessions begin; rates count sessions.
    pub arrivals: ArrivalSettings,
    /// Sessions that begin in all; without it the loop never ends.
    #[serde(
        default,
        deserialize_with = "settings::count_option",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "Option<Count>")]
    pub count: Option<u32>,
    /// Sessions have begun for so long before the start. Of those that are still open then
    /// the turns from the start on are sent; nothing of them is in a cache. 0 unless given.
    #[serde(default)]
    pub begun: SimDuration,
    /// Requests are sent at multiples of this only, as logs with coarse times have them;
    /// at any time unless given.
    #[serde(default)]
    pub tick: SimDuration,
    /// The longest prompt: a first one is cut to it, and a session ends before a longer one.
    #[serde(default = "most_tokens")]
    pub max_prompt_tokens: Tokens,
    /// What all prompts that begin with a text of `prefix` begin with. 0 unless given.
    #[serde(default)]
    pub common_tokens: Tokens,
    /// Texts that prompts begin with; none unless given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prefix: Vec<PrefixTexts>,
    /// Kinds of sessions, at least one.
    pub class: Vec<SessionClass>,
    /// The way of a request from its client to the router; no time unless given.
    #[serde(default)]
    pub client: Client,
    /// When clients hang up; never unless given.
    #[serde(default, skip_serializing_if = "PatienceSettings::is_default")]
    pub patience: PatienceSettings,
    /// The priority of requests, lower ones first, where workers schedule by it; 0 unless
    /// given. A whole number, or a distribution that each session draws from.
    #[serde(default, skip_serializing_if = "Priorities::are_zero")]
    pub priority: Priorities,
}

/// Texts of one length that prompts begin with: system prompts, documents, tools.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PrefixTexts {
    /// Length of each, the common part included. 0: sessions that share nothing.
    pub tokens: Tokens,
    /// A session has one of them in proportion to this.
    pub weight: u32,
    /// How many there are. 1 unless given.
    #[serde(default = "one", deserialize_with = "settings::count")]
    #[schemars(with = "Count")]
    pub texts: u32,
    /// Makes the first of them more popular: the `k`-th is drawn in proportion to
    /// `k ^ -exponent` (Zipf). 0, all equally likely, unless given.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub exponent: f64,
}

/// A kind of sessions.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SessionClass {
    /// A session is of this kind in proportion to it.
    pub weight: u32,
    /// Length of the first prompt after the shared text.
    pub first_tokens: Distribution<Tokens>,
    /// Length of an answer; also the request's own `max_tokens`.
    pub output_tokens: Distribution<Tokens>,
    /// The probability that a session goes on after its first turn, its second and so on,
    /// the last one also after all that follow. None ever does unless given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub goes_on: Vec<f64>,
    /// Of turns that go on from another one, the share after which one more does: a
    /// question asked again, an agent that calls others. 0, sessions are chains, unless
    /// given. Each branch pauses and goes on by itself.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub branches: f64,
    /// Time from the sending of a turn to that of the next one, which comes after the
    /// answer in any case.
    #[serde(default)]
    pub gap: Distribution<SimDuration>,
    /// Time from an answer to the next turn, where that comes later.
    #[serde(default)]
    pub think_time: Distribution<SimDuration>,
    /// What a later turn adds to the prompt before it and its answer. 1 token unless given.
    #[serde(default = "one_token")]
    pub question_tokens: Distribution<Tokens>,
    /// Later turns that do not go on from all that was there; none unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edits: Option<Edits>,
}

/// Later turns that take another way: a question asked again, a context cut short.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Edits {
    /// The share of later turns that are such.
    pub share: f64,
    /// So much of the beginning of the prompt before stays, at most all of it.
    pub kept_tokens: Distribution<Tokens>,
    /// What comes after that.
    pub new_tokens: Distribution<Tokens>,
}

fn one() -> u32 {
    1
}

fn one_token() -> Distribution<Tokens> {
    Distribution::Constant { value: Tokens(1) }
}

fn most_tokens() -> Tokens {
    Tokens(MAX_TOKENS)
}

impl SessionSettings {
    /// Refuses settings that no session can follow.
    ///
    /// # Errors
    /// The first unusable key.
    pub fn validate(&self) -> Result<(), Invalid> {
        let within = |invalid: Invalid| invalid.within("arrivals");
        self.arrivals.validate().map_err(within)?;
        if let Some(count) = self.count {
            Invalid::unless(count > 0, "count", count, "at least 1; leave it out for no end")?;
            self.arrivals.validate_count(count).map_err(within)?;
        }
        let allowed = format!("at most {}", MAX_BEGUN.shown());
        Invalid::unless(self.begun <= MAX_BEGUN, "begun", self.begun.shown(), &allowed)?;
        let most = self.max_prompt_tokens;
        let allowed = format!("from 1 to {MAX_TOKENS}");
        Invalid::unless((1..=MAX_TOKENS).contains(&most.0), "max_prompt_tokens", most, &allowed)?;
        self.validate_prefixes()?;
        let count = self.class.len();
        let allowed = format!("1 to {MAX_ENTRIES} classes");
        let some = (1..=MAX_ENTRIES).contains(&count);
        Invalid::unless(some, "class", format!("{count} classes"), &allowed)?;
        for (place, class) in self.class.iter().enumerate() {
            class.validate().map_err(|invalid| invalid.within(&format!("class[{place}]")))?;
        }
        let some = self.class.iter().any(|class| class.weight > 0);
        Invalid::unless(some, "class[0].weight", 0, "above 0 in some class")?;
        self.patience.validate().map_err(|invalid| invalid.within("patience"))?;
        self.priority.validate()?;
        self.client.validate().map_err(|invalid| invalid.within("client"))?;
        self.client.validate_open_loop()
    }

    fn validate_prefixes(&self) -> Result<(), Invalid> {
        let (count, common) = (self.prefix.len(), self.common_tokens);
        let allowed = format!("at most {MAX_ENTRIES} entries");
        Invalid::unless(count <= MAX_ENTRIES, "prefix", format!("{count} entries"), &allowed)?;
        let mut texts = 0u32;
        for (place, prefix) in self.prefix.iter().enumerate() {
            let key = |key: &str| format!("prefix[{place}].{key}");
            let tokens = prefix.tokens;
            // What shares nothing has no common part either.
            let allowed = format!("0, or from common_tokens, {common}, to {MAX_TOKENS}");
            let fits = tokens.0 == 0 || (common..=Tokens(MAX_TOKENS)).contains(&tokens);
            Invalid::unless(fits, &key("tokens"), tokens, &allowed)?;
            texts = texts.saturating_add(prefix.texts);
            let allowed = format!("from 1, and at most {MAX_TEXTS} in all");
            let some = prefix.texts > 0 && texts <= MAX_TEXTS;
            Invalid::unless(some, &key("texts"), prefix.texts, &allowed)?;
            validate_exponent(&key("exponent"), prefix.exponent)?;
        }
        let some = count == 0 || self.prefix.iter().any(|prefix| prefix.weight > 0);
        Invalid::unless(some, "prefix[0].weight", 0, "above 0 in some entry")?;
        let allowed = "0 without prefix: nothing begins with it";
        Invalid::unless(count > 0 || common.0 == 0, "common_tokens", common, allowed)
    }
}

impl SessionClass {
    fn validate(&self) -> Result<(), Invalid> {
        let one = Tokens(1);
        let mut lengths = vec![
            ("first_tokens", &self.first_tokens, one),
            ("output_tokens", &self.output_tokens, one),
            ("question_tokens", &self.question_tokens, one),
        ];
        if let Some(Edits { share, kept_tokens, new_tokens }) = &self.edits {
            let some = (0.0..=1.0).contains(share);
            Invalid::unless(some, "edits.share", share, "from 0 to 1")?;
            lengths.push(("edits.kept_tokens", kept_tokens, Tokens(0)));
            lengths.push(("edits.new_tokens", new_tokens, one));
        }
        for (key, tokens, least) in lengths {
            tokens.validate_length(key, least)?;
        }
        self.gap.validate().map_err(|invalid| invalid.within("gap"))?;
        self.think_time.validate().map_err(|invalid| invalid.within("think_time"))?;
        let turns = self.goes_on.len();
        let allowed = format!("at most {MAX_ENTRIES} probabilities");
        Invalid::unless(turns <= MAX_ENTRIES, "goes_on", format!("{turns} of them"), &allowed)?;
        for (place, share) in self.goes_on.iter().enumerate() {
            let is_last = place + 1 == turns;
            let allowed = match is_last {
                true => "from 0 and below 1, as sessions end",
                false => "from 0 to 1",
            };
            let some = (0.0..=1.0).contains(share) && !(is_last && *share == 1.0);
            Invalid::unless(some, &format!("goes_on[{place}]"), share, allowed)?;
        }
        // Each turn is followed by goes_on / (1 - branches) others on average.
        let last = self.goes_on.last().copied().unwrap_or(0.0);
        let allowed = format!("from 0 and below {:.4}, as sessions end", 1.0 - last);
        let some = (0.0..1.0 - last).contains(&self.branches);
        Invalid::unless(some, "branches", self.branches, &allowed)
    }
}
