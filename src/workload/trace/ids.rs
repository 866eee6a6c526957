//! Ids of blocks as files have them: whole numbers of 64 bits, or texts.

use super::error::short;
use schemars::JsonSchema;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fmt;

/// What an id of a trace names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Naming {
    /// A block and all before it, as engines hash their blocks.
    #[default]
    Chained,
    /// The tokens of a block alone. The same tokens after others are another block: ids
    /// are chained as the file is read.
    Content,
}

/// Texts of hashes have this bit: no number that counts blocks has it.
const HASHED: u64 = 1 << 63;

/// The number of an id that is written so: itself if it is a plain decimal number of up to
/// [`MOST_DECIMALS`] digits; else 63 bits of its SHA-256. One text cannot say whether `10`
/// is hexadecimal, so no text is read so: different texts are different blocks.
pub(super) fn hash_id(text: &str) -> u64 {
    let is_plain = text.len() <= MOST_DECIMALS
        && text.bytes().all(|byte| byte.is_ascii_digit())
        && (text.len() == 1 || !text.starts_with('0'));
    if is_plain && let Ok(number) = text.parse::<u64>() {
        return number;
    }
    let hash = Sha256::digest(text);
    u64::from_le_bytes(hash[..8].try_into().expect("eight bytes")) | HASHED
}

/// Digits of numbers that stay below those that are read as hashes.
const MOST_DECIMALS: usize = 15;

/// The ids that a value of a row lists; `None` if it is null.
///
/// # Errors
/// What was seen, and what is allowed.
pub(super) fn ids_of(value: &Value) -> Result<Option<Vec<u64>>, (String, &'static str)> {
    optional_ids(value).map_err(|_| {
        let Some(ids) = value.as_array() else { return (short(value), "a list of ids") };
        let is_id = |id: &&Value| id.is_u64() || id.is_i64() || id.is_string();
        match ids.iter().find(|id| !is_id(id)) {
            Some(id) => (short(id), "whole numbers of 64 bits, or texts"),
            None => (short(value), MIXED),
        }
    })
}

/// A number may be a text's hash, so a list has one of the two.
const MIXED: &str = "a list of whole numbers or a list of texts, not both in one";

/// A list of ids, numbers or texts.
pub(super) fn optional_ids<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<u64>>, D::Error> {
    struct Ids;
    impl<'de> Visitor<'de> for Ids {
        type Value = Option<Vec<u64>>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of ids")
        }
        fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut ids = Vec::with_capacity(list.size_hint().unwrap_or(0));
            let mut texts = 0;
            while let Some(Id { number, is_text }) = list.next_element()? {
                ids.push(number);
                texts += usize::from(is_text);
            }
            if texts > 0 && texts < ids.len() {
                return Err(A::Error::custom(MIXED));
            }
            Ok(Some(ids))
        }
    }
    deserializer.deserialize_any(Ids)
}

struct Id {
    number: u64,
    is_text: bool,
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneId;
        impl Visitor<'_> for OneId {
            type Value = Id;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number of 64 bits, or a text")
            }
            fn visit_u64<E: Error>(self, id: u64) -> Result<Id, E> {
                Ok(Id { number: id, is_text: false })
            }
            fn visit_i64<E: Error>(self, id: i64) -> Result<Id, E> {
                Ok(Id { number: id.cast_unsigned(), is_text: false })
            }
            fn visit_str<E: Error>(self, id: &str) -> Result<Id, E> {
                Ok(Id { number: hash_id(id), is_text: true })
            }
        }
        deserializer.deserialize_any(OneId)
    }
}

#[cfg(test)]
mod tests {
    use super::hash_id;

    #[test]
    fn different_texts_are_different_blocks() {
        assert_eq!((hash_id("0"), hash_id("10")), (0, 10));
        assert_eq!(hash_id("999999999999999"), 999_999_999_999_999);
        let texts = ["a", "10", "0a", "010", "0x10", "16", "-1", "18446744073709551615", "+16"];
        let ids: std::collections::BTreeSet<u64> = texts.iter().map(|text| hash_id(text)).collect();
        assert_eq!(ids.len(), texts.len());
        let long = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
        assert_ne!(hash_id(long), hash_id(&long.replace("08", "09")));
        assert_eq!(hash_id(long), hash_id(long));
    }
}
