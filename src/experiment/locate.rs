//! Finds the key that a deserialisation error is about, and says it plainly.
//!
//! Serde reports a bad value without its path once a tagged enum or a flattened
//! struct has buffered it. So the culprit is found by experiment: it is the
//! innermost key without which the error goes away. That works for every type
//! that can be deserialised, and only costs time when there is an error.

use crate::settings::nearest;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

/// The key that chooses the variant of a tagged enum in this project's settings.
pub(super) const TAG: &str = "kind";

/// What is wrong with a section.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Fault {
    /// The key at this path means nothing; these would, there.
    UnknownKey { path: String, known: Vec<String> },
    /// The key at this path must be given.
    Missing { path: String },
    /// This value, at this path, will not do; empty path: the section as a whole.
    Value { path: String, value: Value, problem: String },
}

/// Deserialises a section, or says what is wrong with it; paths are relative to it.
pub(super) fn read<T: DeserializeOwned>(section: &Table) -> Result<T, Fault> {
    let error = match Value::Table(section.clone()).try_into::<T>() {
        Ok(settings) => return Ok(settings),
        Err(error) => error.message().to_owned(),
    };
    let complaint = |section: &Table| {
        Value::Table(section.clone()).try_into::<T>().err().map(|e| e.message().to_owned())
    };
    if let Some(field) = quoted(&error, "missing field `") {
        let parent = lacking(section, field, &error, &complaint).unwrap_or_default();
        return Err(Fault::Missing { path: join(&parent, field) });
    }
    let whole = || (String::new(), Value::Table(section.clone()));
    let (path, value) = culprit(section, &error, &complaint).unwrap_or_else(whole);
    if error.starts_with("unknown field `") {
        return Err(Fault::UnknownKey { path, known: names_expected(&error) });
    }
    Err(Fault::Value { path, value, problem: plain(&error) })
}

/// `parent.key`, or `key` at the top.
pub(super) fn join(parent: &str, key: &str) -> String {
    if parent.is_empty() { key.to_owned() } else { format!("{parent}.{key}") }
}

/// What deserialising a changed copy of the section complains about.
type Complaint<'a> = &'a dyn Fn(&Table) -> Option<String>;

/// Path and value of the innermost key without which `error` goes away.
fn culprit(section: &Table, error: &str, complaint: Complaint<'_>) -> Option<(String, Value)> {
    let mut tag_only = None;
    for (key, value) in section {
        let mut without = section.clone();
        without.remove(key);
        let now = complaint(&without);
        if now.as_deref() == Some(error) {
            continue;
        }
        // A tag is always needed; it is to blame only if nothing else is.
        if key == TAG && now.is_some_and(|now| quoted(&now, "missing field `") == Some(TAG)) {
            tag_only = Some((key.clone(), value.clone()));
            continue;
        }
        let inner = tables_at(section, key).find_map(|place| {
            let put_back = |table: &Table| complaint(&place.replaced(section, table));
            let (path, value) = culprit(place.table, error, &put_back)?;
            Some((join(&place.path, &path), value))
        });
        return Some(inner.unwrap_or_else(|| (key.clone(), value.clone())));
    }
    tag_only
}

/// Path of the table that lacks `field`: the one where giving it, with any value,
/// changes the complaint without making it an unknown key.
fn lacking(section: &Table, field: &str, error: &str, complaint: Complaint<'_>) -> Option<String> {
    if !section.contains_key(field) {
        let mut given = section.clone();
        given.insert(field.to_owned(), Value::Boolean(false));
        let now = complaint(&given);
        let unknown = now.as_deref().and_then(|now| quoted(now, "unknown field `"));
        if now.as_deref() != Some(error) && unknown != Some(field) {
            return Some(String::new());
        }
    }
    section.keys().flat_map(|key| tables_at(section, key)).find_map(|place| {
        let put_back = |table: &Table| complaint(&place.replaced(section, table));
        let path = lacking(place.table, field, error, &put_back)?;
        Some(if path.is_empty() { place.path.clone() } else { join(&place.path, &path) })
    })
}

/// A table directly inside another one, or in a list there.
struct Inner<'a> {
    /// As written in messages: `key` or `key[index]`.
    path: String,
    key: &'a str,
    index: Option<usize>,
    table: &'a Table,
}

impl Inner<'_> {
    /// The outer section with another table in this place.
    fn replaced(&self, section: &Table, table: &Table) -> Table {
        let mut changed = section.clone();
        let slot = match (changed.get_mut(self.key), self.index) {
            (Some(Value::Array(items)), Some(index)) => &mut items[index],
            (Some(value), None) => value,
            _ => unreachable!("{} was found in this section", self.path),
        };
        *slot = Value::Table(table.clone());
        changed
    }
}

/// The tables that the value of `key` is or lists. The last one comes first: the
/// tables of a list are read in order, so a change in one before the culprit
/// can change the complaint too, but none after it can.
fn tables_at<'a>(section: &'a Table, key: &'a str) -> impl Iterator<Item = Inner<'a>> {
    let value = section.get(key);
    let itself = value.and_then(Value::as_table).map(|table| Inner {
        path: key.to_owned(),
        key,
        index: None,
        table,
    });
    let items = value.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let listed = items.iter().enumerate().rev().filter_map(move |(index, item)| {
        let path = format!("{key}[{index}]");
        Some(Inner { path, key, index: Some(index), table: item.as_table()? })
    });
    itself.into_iter().chain(listed)
}

/// The name in backticks that follows `start` at the beginning of `text`.
fn quoted<'a>(text: &'a str, start: &str) -> Option<&'a str> {
    let rest = text.strip_prefix(start)?;
    Some(&rest[..rest.find('`')?])
}

/// The names in backticks that serde lists after "expected".
fn names_expected(error: &str) -> Vec<String> {
    let Some((_, list)) = error.split_once(", expected ") else { return Vec::new() };
    list.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Serde's words for a bad value in the words of a TOML file.
fn plain(error: &str) -> String {
    if let Some(seen) = quoted(error, "unknown variant `") {
        let names = names_expected(error);
        let hint = nearest(seen, names.iter().map(String::as_str))
            .map(|name| format!("; did you mean {name:?}?"))
            .unwrap_or_default();
        let names: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
        return match names.as_slice() {
            [only] => format!("must be {only}"),
            _ => format!("must be one of {}{hint}", names.join(", ")),
        };
    }
    let type_error = error.starts_with("invalid type: ") || error.starts_with("invalid value: ");
    let Some((_, expected)) = error.rsplit_once(", expected ").filter(|_| type_error) else {
        return error.to_owned();
    };
    let allowed = match expected {
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        "u64" | "usize" => "a whole number, not negative",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a string" | "string or map" | "variant identifier" => "text in quotes",
        "a sequence" => "a list",
        "a map" | "map" => "a section with keys",
        other if other.starts_with("struct ") || other.starts_with("internally tagged enum ") => {
            "a section with keys"
        }
        other if other.starts_with("tuple of ") => "a list",
        other => other,
    };
    format!("must be {allowed}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only deserialised")]
    struct Section {
        first: u32,
        shape: Shape,
        list: Option<Vec<Length>>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
    #[expect(dead_code, reason = "only deserialised")]
    enum Shape {
        Round { radius: f64, length: Option<Length> },
        Square { side: u32 },
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only deserialised")]
    struct Length {
        min: u32,
        max: u32,
    }

    fn fault(text: &str) -> Fault {
        read::<Section>(&text.parse().expect("TOML")).expect_err("a fault")
    }

    /// Path, value and problem of the fault.
    fn bad_value(text: &str) -> (String, String, String) {
        match fault(text) {
            Fault::Value { path, value, problem } => (path, value.to_string(), problem),
            other => panic!("{other:?}"),
        }
    }

    fn found(path: &str, value: &str, problem: &str) -> (String, String, String) {
        (path.to_owned(), value.to_owned(), problem.to_owned())
    }

    #[test]
    fn a_bad_value_is_found_inside_tagged_enums_and_lists() {
        let whole = "must be a whole number from 0 to 4294967295";
        assert_eq!(
            bad_value("first = 1\nshape = { kind = 'round', radius = 'x' }"),
            found("shape.radius", "\"x\"", "must be a number")
        );
        assert_eq!(
            bad_value(
                "first = 1\n[shape]\nkind = 'round'\nradius = 1\nlength = { min = 1, max = -2 }"
            ),
            found("shape.length.max", "-2", whole)
        );
        assert_eq!(
            bad_value(
                "first = 1\nlist = [{ min = 1, max = 1 }, { min = true, max = 1 }]\n\
                 shape = { kind = 'square', side = 1 }"
            ),
            found("list[1].min", "true", whole)
        );
        assert_eq!(
            bad_value("first = 1\nshape = { kind = 'rund', radius = 1 }"),
            found(
                "shape.kind",
                "\"rund\"",
                r#"must be one of "round", "square"; did you mean "round"?"#
            )
        );
        assert_eq!(
            bad_value("first = 1\nshape = 5"),
            found("shape", "5", "must be a section with keys")
        );
    }

    #[test]
    fn unknown_and_missing_keys_are_found_at_any_depth() {
        let unknown = |path: &str, known: &[&str]| Fault::UnknownKey {
            path: path.to_owned(),
            known: known.iter().map(|&name| name.to_owned()).collect(),
        };
        let missing = |path: &str| Fault::Missing { path: path.to_owned() };
        assert_eq!(
            fault("first = 1\nfirts = 1\nshape = { kind = 'square', side = 1 }"),
            unknown("firts", &["first", "shape", "list"])
        );
        assert_eq!(
            fault("first = 1\nshape = { kind = 'square', side = 1, sides = 2 }"),
            unknown("shape.sides", &["side"])
        );
        assert_eq!(fault("shape = { kind = 'square', side = 1 }"), missing("first"));
        assert_eq!(fault("first = 1\nshape = { side = 1 }"), missing("shape.kind"));
        assert_eq!(
            fault("first = 1\nshape = { kind = 'round', radius = 1, length = { min = 1 } }"),
            missing("shape.length.max")
        );
        assert_eq!(
            fault(
                "first = 1\nshape = { kind = 'square', side = 1 }\nlist = [{ min = 1, max = 1 }, { max = 1 }]"
            ),
            missing("list[1].min")
        );
    }

    proptest! {
        /// One fault put anywhere into a valid section is found where it was put.
        #[test]
        fn a_planted_fault_is_located(planted in 0usize..6, length in 1usize..4) {
            let value = |here: usize| if here == planted { "'bad'" } else { "1" };
            let mut items = vec!["{ min = 1, max = 1 }".to_owned(); length - 1];
            items.push(format!("{{ min = {}, max = 1 }}", value(4)));
            let text = format!(
                "first = {}\nlist = [{}]\n[shape]\nkind = 'round'\nradius = {}\n\
                 length = {{ min = {}, max = {} }}",
                value(0), items.join(", "), value(1), value(2), value(3),
            );
            let in_list = format!("list[{}].min", length - 1);
            let paths =
                ["first", "shape.radius", "shape.length.min", "shape.length.max", &in_list];
            match (read::<Section>(&text.parse().expect("TOML")), paths.get(planted)) {
                (Ok(_), None) => {}
                (Err(Fault::Value { path, .. }), Some(expected)) => prop_assert_eq!(&path, expected),
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }
}
