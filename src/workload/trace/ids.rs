//! Ids of blocks as files have them: whole numbers of 64 bits, or texts.

use schemars::JsonSchema;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
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

/// The number of an id that is written so: itself if it is a whole number of at most 64
/// bits, decimal or (of up to 16 digits) hexadecimal; else 64 bits of its SHA-256.
pub(super) fn hash_id(text: &str) -> u64 {
    if let Ok(number) = text.parse::<u64>() {
        return number;
    }
    if let Ok(number) = text.parse::<i64>() {
        return number.cast_unsigned();
    }
    let digits = text.strip_prefix("0x").unwrap_or(text);
    if let Ok(number) = u64::from_str_radix(digits, 16) {
        return number;
    }
    let hash = Sha256::digest(text);
    u64::from_le_bytes(hash[..8].try_into().expect("eight bytes"))
}

/// A list of ids, numbers or texts; all of one kind in the same file, or the same number
/// might be meant twice.
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
            while let Some(Id(id)) = list.next_element()? {
                ids.push(id);
            }
            Ok(Some(ids))
        }
    }
    deserializer.deserialize_any(Ids)
}

struct Id(u64);

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneId;
        impl Visitor<'_> for OneId {
            type Value = Id;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number of 64 bits, or a text")
            }
            fn visit_u64<E: Error>(self, id: u64) -> Result<Id, E> {
                Ok(Id(id))
            }
            fn visit_i64<E: Error>(self, id: i64) -> Result<Id, E> {
                Ok(Id(id.cast_unsigned()))
            }
            fn visit_str<E: Error>(self, id: &str) -> Result<Id, E> {
                Ok(Id(hash_id(id)))
            }
        }
        deserializer.deserialize_any(OneId)
    }
}

#[cfg(test)]
mod tests {
    use super::hash_id;

    #[test]
    fn texts_are_numbers_where_they_can_be() {
        assert_eq!(hash_id("18446744073709551615"), u64::MAX);
        assert_eq!(hash_id("-1"), u64::MAX);
        assert_eq!(hash_id("9f86d081884c7d65"), 0x9f86_d081_884c_7d65);
        assert_eq!(hash_id("0xff"), 255);
        let long = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
        assert_ne!(hash_id(long), hash_id(&long.replace("08", "09")));
        assert_eq!(hash_id(long), hash_id(long));
    }
}
