//! Lengths that depend on the turn of a conversation.

use super::distribution::{Distribution, Quantity};
use crate::settings::Invalid;
use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

/// What is drawn in each turn of a conversation.
///
/// Written as one [`Distribution`], for all turns, or as a list of them: one for the
/// first turn, one for the second and so on, the last also for all turns that follow.
#[derive(Clone, Debug, PartialEq)]
pub struct ByTurn<T>(Vec<Distribution<T>>);

impl<T> From<Distribution<T>> for ByTurn<T> {
    fn from(all_turns: Distribution<T>) -> Self {
        Self(vec![all_turns])
    }
}

impl<T: Quantity> ByTurn<T> {
    /// What is drawn in `turn`, counted from 0.
    pub fn of(&self, turn: u32) -> &Distribution<T> {
        let last = self.0.len() - 1;
        &self.0[usize::try_from(turn).map_or(last, |turn| turn.min(last))]
    }

    /// The largest value of any turn.
    pub fn most(&self) -> T {
        let most = self.0.iter().map(|distribution| distribution.bounds().1).max();
        most.expect("one distribution at least")
    }

    /// Refuses distributions that cannot be drawn from or that reach below `least`;
    /// `key` is that of the value.
    ///
    /// # Errors
    /// The first unusable parameter.
    pub fn validate_at_least(&self, key: &str, least: T) -> Result<(), Invalid> {
        for (place, distribution) in self.0.iter().enumerate() {
            let within = match self.0.len() {
                1 => key.to_owned(),
                _ => format!("{key}[{place}]"),
            };
            distribution.validate_at_least(least).map_err(|e| e.within(&within))?;
        }
        Ok(())
    }
}

impl<T: Serialize> Serialize for ByTurn<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [all_turns] => all_turns.serialize(serializer),
            turns => turns.serialize(serializer),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for ByTurn<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMany<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for OneOrMany<T> {
            type Value = ByTurn<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a distribution, or a list with one for every turn")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                Distribution::deserialize(MapAccessDeserializer::new(map)).map(ByTurn::from)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut turns = Vec::new();
                while let Some(turn) = seq.next_element()? {
                    turns.push(turn);
                }
                if turns.is_empty() {
                    return Err(A::Error::invalid_length(0, &"at least one distribution"));
                }
                Ok(ByTurn(turns))
            }
        }

        deserializer.deserialize_any(OneOrMany(PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for ByTurn<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("ByTurn_{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let one = generator.subschema_for::<Distribution<T>>();
        schemars::json_schema!({
            "description": "One distribution for all turns of a conversation, or a list: one \
                            for the first turn, one for the second and so on, the last also \
                            for all that follow.",
            "anyOf": [one, { "type": "array", "items": one, "minItems": 1 }],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::distribution::Tokens;

    fn read(text: &str) -> Result<ByTurn<Tokens>, toml::de::Error> {
        #[derive(Deserialize)]
        struct Keys {
            tokens: ByTurn<Tokens>,
        }
        toml::from_str::<Keys>(text).map(|keys| keys.tokens)
    }

    #[test]
    fn one_distribution_is_that_of_every_turn() {
        let text = "tokens = { kind = 'uniform', min = 2, max = 9 }";
        let tokens = read(text).unwrap();
        assert_eq!(tokens.of(0), tokens.of(17));
        assert_eq!(tokens.most(), Tokens(9));
        // It is written as it was read: results of old files keep their names.
        assert_eq!(
            serde_json::to_value(&tokens).unwrap(),
            serde_json::to_value(tokens.of(0)).unwrap()
        );
    }

    #[test]
    fn the_last_of_a_list_is_that_of_all_turns_that_follow() {
        let tokens = read(
            "tokens = [{ kind = 'constant', value = 5 }, { kind = 'uniform', min = 1, max = 3 }]",
        )
        .unwrap();
        assert_eq!(tokens.of(0).bounds(), (Tokens(5), Tokens(5)));
        for turn in [1, 2, u32::MAX] {
            assert_eq!(tokens.of(turn).bounds(), (Tokens(1), Tokens(3)));
        }
        assert_eq!(tokens.most(), Tokens(5));
        assert_eq!(serde_json::to_value(&tokens).unwrap().as_array().unwrap().len(), 2);
    }

    #[test]
    fn what_cannot_be_drawn_is_named_by_its_turn() {
        assert!(read("tokens = []").is_err());
        assert!(read("tokens = 5").unwrap_err().to_string().contains("one for every turn"));
        let text =
            "tokens = [{ kind = 'constant', value = 5 }, { kind = 'uniform', min = 0, max = 3 }]";
        let refused = read(text).unwrap().validate_at_least("tokens", Tokens(1)).unwrap_err();
        assert_eq!(refused.key, "tokens[1].min");
    }
}
