//! What clients want of their requests: when they hang up, and which go first.

use super::distribution::Distribution;
use super::refusals::RefusalSettings;
use super::{Arrival, Patience, Priorities, Workload};
use crate::id::RequestId;
use crate::rng::{Use, stream};
use crate::settings::{self, Count, Invalid};
use crate::time::{SimDuration, SimTime};
use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt;

/// When clients hang up: they cancel the request, as a closed connection does; and what they
/// do when they are refused.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PatienceSettings {
    /// The longest wait for the first token; no end unless given. A duration, or a
    /// distribution that each request draws from.
    #[serde(deserialize_with = "wait", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Wait>")]
    pub first_token: Option<Distribution<SimDuration>>,
    /// The longest wait for the whole answer; no end unless given.
    #[serde(deserialize_with = "wait", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Wait>")]
    pub answer: Option<Distribution<SimDuration>>,
    /// How often a client that hung up sends the same request again. 0 unless given.
    #[serde(deserialize_with = "settings::count")]
    #[schemars(with = "Count")]
    pub retries: u32,
    /// The pause before that.
    pub retry_pause: SimDuration,
    /// What they do when they are refused. Unset: they do not send again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_refusal: Option<RefusalSettings>,
}

/// How a wait is written: a time that is always the same, or a distribution.
struct Wait;

impl JsonSchema for Wait {
    fn schema_name() -> Cow<'static, str> {
        "Wait".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let always = generator.subschema_for::<SimDuration>();
        let drawn = generator.subschema_for::<Distribution<SimDuration>>();
        schemars::json_schema!({ "anyOf": [always, drawn] })
    }
}

/// Reads a [`Wait`].
fn wait<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Distribution<SimDuration>>, D::Error> {
    struct WaitVisitor;
    impl<'de> Visitor<'de> for WaitVisitor {
        type Value = Distribution<SimDuration>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a duration like \"10s\", or a distribution of durations")
        }
        fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
            let value = settings::parse_duration(text).map_err(E::custom)?;
            Ok(Distribution::Constant { value })
        }
        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
            Distribution::deserialize(MapAccessDeserializer::new(map))
        }
    }
    deserializer.deserialize_any(WaitVisitor).map(Some)
}

impl PatienceSettings {
    /// True if no client ever hangs up.
    pub fn is_endless(&self) -> bool {
        self.first_token.is_none() && self.answer.is_none()
    }

    /// True if nothing was given.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Refuses waits that no request outlives, and retries without an end of waiting.
    ///
    /// # Errors
    /// The first unusable key.
    pub fn validate(&self) -> Result<(), Invalid> {
        // Shorter ones would be over before a request is at its router.
        let least = SimDuration::from_millis(1);
        for (key, wait) in [("first_token", &self.first_token), ("answer", &self.answer)] {
            if let Some(wait) = wait {
                wait.validate_at_least(least).map_err(|invalid| invalid.within(key))?;
            }
        }
        let retries = self.retries;
        let allowed = "absent without first_token or answer: no client hangs up";
        Invalid::unless(retries == 0 || !self.is_endless(), "retries", retries, allowed)?;
        let on_refusal = self.on_refusal.as_ref().map_or(Ok(()), RefusalSettings::validate);
        on_refusal.map_err(|invalid| invalid.within("on_refusal"))
    }
}

/// A workload whose clients have no more patience than [`PatienceSettings`] say, and state
/// priorities. Patience is drawn by conversation and turn, a priority by conversation.
pub struct Clients<'a> {
    inner: Box<dyn Workload + 'a>,
    patience: PatienceSettings,
    priorities: Priorities,
    seed: u64,
}

impl<'a> Clients<'a> {
    /// `inner` with such clients.
    pub fn new(
        inner: Box<dyn Workload + 'a>,
        patience: PatienceSettings,
        priorities: Priorities,
        seed: u64,
    ) -> Self {
        Self { inner, patience, priorities, seed }
    }
}

impl Workload for Clients<'_> {
    fn next_arrival(&self) -> Option<SimTime> {
        self.inner.next_arrival()
    }

    fn take(&mut self) -> Arrival {
        let mut arrival = self.inner.take();
        let (conversation, turn) = (arrival.request.conversation, arrival.request.turn);
        let key = (u64::from(conversation.0), u64::from(turn));
        let mut draws = stream(self.seed, Use::Patience, key.0, key.1);
        let mut draw = |wait: &Option<Distribution<SimDuration>>| {
            wait.as_ref().map(|wait| wait.sample(&mut draws))
        };
        let PatienceSettings { first_token, answer, .. } = &self.patience;
        arrival.patience = Patience { first_token: draw(first_token), answer: draw(answer) };
        let mut draws = stream(self.seed, Use::Priority, key.0, 0);
        arrival.request.priority = self.priorities.0.sample(&mut draws).0;
        arrival
    }

    fn observe_end(&mut self, now: SimTime, request: RequestId, served: bool) {
        self.inner.observe_end(now, request, served);
    }

    fn behind(&self) -> Option<&dyn Workload> {
        Some(&*self.inner)
    }

    fn behind_mut(&mut self) -> Option<&mut dyn Workload> {
        Some(&mut *self.inner)
    }
}
