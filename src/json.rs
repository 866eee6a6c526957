//! JSON whose objects have each key once: most readers take the last of two equal keys,
//! which may not be the one that was meant.

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::fmt;

/// Reads `text`.
///
/// # Errors
/// If it is not JSON, or an object in it has a key twice.
pub(crate) fn value(text: &[u8]) -> serde_json::Result<Value> {
    serde_json::from_slice(text).map(|Once(value)| value)
}

/// Reads `text`, an object.
///
/// # Errors
/// As [`value`], or if it is something else.
pub(crate) fn object(text: &[u8]) -> serde_json::Result<Map<String, Value>> {
    match value(text)? {
        Value::Object(object) => Ok(object),
        other => Map::deserialize(other),
    }
}

struct Once(Value);

impl<'de> Deserialize<'de> for Once {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Values).map(Self)
    }
}

struct Values;

impl<'de> Visitor<'de> for Values {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Once(value)) = list.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Value, A::Error> {
        let mut values = Map::new();
        while let Some(key) = object.next_key::<String>()? {
            if values.contains_key(&key) {
                return Err(A::Error::custom(format!("key {key:?} is there twice")));
            }
            let Once(value) = object.next_value()?;
            values.insert(key, value);
        }
        Ok(Value::Object(values))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_read_as_others_read_it() {
        let text = br#"{"a": [1, -2, 2.5, 1e300, 18446744073709551616, true, null, "\u00e9"], "b": {"a": {}}}"#;
        let expected: Value = serde_json::from_slice(text).unwrap();
        assert_eq!(value(text).unwrap(), expected);
        assert_eq!(Value::Object(object(text).unwrap()), expected);
    }

    #[test]
    fn equal_keys_are_refused_at_any_depth() {
        for text in [r#"{"a": 1, "a": 1}"#, r#"{"b": [{"a": 1, "\u0061": 2}]}"#] {
            let error = object(text.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with("key \"a\" is there twice"), "{error}");
        }
        let error = object(b"[1]").unwrap_err().to_string();
        assert!(error.contains("invalid type: sequence, expected a map"), "{error}");
    }
}
