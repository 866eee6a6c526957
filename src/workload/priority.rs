//! Priorities that clients give their requests.

use super::distribution::{Distribution, Quantity};
use crate::rng::Stream;
use crate::settings::Invalid;
use rand::RngExt;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use std::borrow::Cow;
use std::fmt;

/// A priority, as vLLM has it: lower ones go first.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(transparent)]
pub struct Priority(pub i32);

impl Quantity for Priority {
    const STEP: f64 = 1.0;
    fn to_f64(self) -> f64 {
        f64::from(self.0)
    }
    #[expect(clippy::cast_possible_truncation, reason = "`as` saturates")]
    fn from_f64(value: f64) -> Self {
        Self(value.round() as i32)
    }
    fn uniform(min: Self, max: Self, stream: &mut Stream) -> Self {
        Self(stream.random_range(min.0..=max.0))
    }
    fn shown(self) -> String {
        self.0.to_string()
    }
}

/// The priority of requests: one for all, or a distribution that each conversation draws
/// from once. 0 unless given.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Priorities(pub Distribution<Priority>);

impl Priorities {
    /// True if they tell no requests apart from those without one.
    pub fn are_zero(&self) -> bool {
        self.0.bounds() == Default::default()
    }

    /// Refuses what cannot be drawn from.
    ///
    /// # Errors
    /// The first unusable parameter, within `priority`.
    pub fn validate(&self) -> Result<(), Invalid> {
        self.0.validate().map_err(|invalid| invalid.within("priority"))
    }
}

impl<'de> Deserialize<'de> for Priorities {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMany;
        impl OneOrMany {
            fn one<E: Error>(
                self,
                value: impl TryInto<i32> + Copy,
                seen: Unexpected<'_>,
            ) -> Result<Priorities, E> {
                let value = value.try_into().map_err(|_| E::invalid_value(seen, &self))?;
                Ok(Priorities(Distribution::Constant { value: Priority(value) }))
            }
        }
        impl<'de> Visitor<'de> for OneOrMany {
            type Value = Priorities;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number of 32 bits, or a distribution of such")
            }
            fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
                self.one(value, Unexpected::Signed(value))
            }
            fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
                self.one(value, Unexpected::Unsigned(value))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                Distribution::deserialize(MapAccessDeserializer::new(map)).map(Priorities)
            }
        }
        deserializer.deserialize_any(OneOrMany)
    }
}

impl JsonSchema for Priorities {
    fn schema_name() -> Cow<'static, str> {
        "Priorities".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let (one, drawn) = (
            generator.subschema_for::<Priority>(),
            generator.subschema_for::<Distribution<Priority>>(),
        );
        schemars::json_schema!({ "anyOf": [one, drawn] })
    }
}

#[cfg(test)]
mod tests {
    use crate::id::RequestId;
    use crate::workload::WorkloadSettings;
    use std::collections::BTreeMap;
    use std::path::Path;

    const LOOP: &str = "kind = 'conversations'\nconcurrency = 8\nstarters = 1\n\
        turns = { min = 3, max = 3 }\nstarter_tokens = { kind = 'constant', value = 0 }\n\
        question_tokens = { kind = 'constant', value = 9 }\n\
        output_tokens = { kind = 'constant', value = 3 }\n";

    fn workload(priority: &str) -> Result<WorkloadSettings, toml::de::Error> {
        toml::from_str(&format!("{LOOP}{priority}"))
    }

    #[test]
    fn the_turns_of_a_conversation_have_one_priority_by_its_share() {
        let settings =
            workload("priority = { kind = 'empirical', values = [-1, 5], weights = [1, 3] }");
        let settings = settings.unwrap();
        settings.validate().unwrap();
        let mut workload = settings.load(Path::new("."), None).unwrap().build(16, 1);
        let mut of = BTreeMap::new();
        for id in 0..6_000 {
            let arrival = workload.take();
            let request = &arrival.request;
            let first = *of.entry(request.conversation).or_insert(request.priority);
            assert_eq!(request.priority, first, "conversation {:?}", request.conversation);
            workload.observe_end(arrival.at, RequestId(id), true);
        }
        let urgent = of.values().filter(|&&priority| priority == -1).count();
        assert_eq!(of.values().filter(|&&priority| priority == 5).count(), of.len() - urgent);
        // 2,000 conversations: 500 at a standard deviation of 19.
        assert!((430..570).contains(&urgent), "{urgent} of {}", of.len());
    }

    #[test]
    fn one_number_is_the_priority_of_all() {
        let constant = workload("priority = -7").unwrap();
        let mut built = constant.load(Path::new("."), None).unwrap().build(16, 1);
        assert_eq!(built.take().request.priority, -7);
        let text = toml::to_string(&constant).unwrap();
        assert_eq!(toml::from_str::<WorkloadSettings>(&text).unwrap(), constant);
        assert!(workload("priority = 0").unwrap() == workload("").unwrap());
        assert!(!toml::to_string(&workload("").unwrap()).unwrap().contains("priority"));
    }

    #[test]
    fn what_is_no_priority_is_refused() {
        let said = |priority: &str| workload(priority).unwrap_err().message().to_owned();
        assert!(said("priority = 3000000000").contains("whole number of 32 bits"));
        assert!(said("priority = 'high'").contains("whole number of 32 bits"));
        let reversed = workload("priority = { kind = 'uniform', min = 2, max = 1 }").unwrap();
        let refused = reversed.validate().unwrap_err().to_string();
        assert!(refused.contains("priority.min"), "{refused}");
    }
}
