//! Turns a TOML table into settings, or says which key is wrong and why.
//!
//! What serde finds wrong is kept as it is said, as a [`Complaint`], and each
//! table and list on the way out adds where it happened. Tagged enums and
//! flattened structs are read by serde from a buffer, which knows no place: there
//! the culprit is found by experiment. It is the innermost key without which the
//! complaint goes away. That costs time only when something is wrong.

use super::nearest;
use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error, Expected, MapAccess, SeqAccess,
    Unexpected, Visitor,
};
use serde::forward_to_deserialize_any;
use std::fmt;
use toml::{Table, Value};

/// The key that chooses the variant of a tagged enum in this project's settings.
pub(crate) const TAG: &str = "kind";

/// What is wrong with a table of settings.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Fault {
    /// The key at this path means nothing; these would, there.
    UnknownKey { path: String, known: Vec<String> },
    /// The key at this path must be given.
    Missing { path: String },
    /// This value, at this path, will not do; empty path: the table as a whole.
    Value { path: String, value: Value, problem: String },
}

/// Deserialises a table, or says what is wrong with it; paths are relative to it.
pub(crate) fn read<T: DeserializeOwned>(table: &Table) -> Result<T, Fault> {
    let whole = Value::Table(table.clone());
    let Trouble { complaint, path, is_located } = match T::deserialize(Node(&whole)) {
        Ok(settings) => return Ok(settings),
        Err(trouble) => trouble,
    };
    let here = |place: &[Step]| value_at(&whole, place).expect("the path leads there");
    let may_be_inside = !is_located && matches!(here(&path), Value::Table(_) | Value::Array(_));
    let place = if may_be_inside { search::<T>(&whole, &path, &complaint) } else { path };
    let shown = show(&place);
    Err(match complaint {
        Complaint::Missing { field } => Fault::Missing { path: join(&shown, field) },
        Complaint::UnknownField { known } => {
            Fault::UnknownKey { path: shown, known: known.iter().map(|&n| n.to_owned()).collect() }
        }
        complaint => {
            let value = here(&place).clone();
            let problem = complaint.plain(&value);
            Fault::Value { path: shown, value, problem }
        }
    })
}

/// `parent.key`, or `key` at the top.
pub(crate) fn join(parent: &str, key: &str) -> String {
    if parent.is_empty() { key.to_owned() } else { format!("{parent}.{key}") }
}

/// One step from a value into one that it holds.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    Key(String),
    Item(usize),
}

/// A path as messages write it: `tier[0].capacity`.
fn show(path: &[Step]) -> String {
    path.iter().fold(String::new(), |shown, step| match step {
        Step::Key(key) => join(&shown, key),
        Step::Item(index) => format!("{shown}[{index}]"),
    })
}

fn value_at<'a>(value: &'a Value, path: &[Step]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, step| match step {
        Step::Key(key) => value.get(key),
        Step::Item(index) => value.get(index),
    })
}

/// What serde has against a value.
#[derive(Clone, Debug, PartialEq)]
enum Complaint {
    Missing {
        field: &'static str,
    },
    UnknownField {
        known: &'static [&'static str],
    },
    /// Not one of these texts.
    Variant {
        known: &'static [&'static str],
    },
    /// Another type, or a number out of the type's range.
    Type {
        expected: String,
    },
    /// What a type of ours says.
    Other(String),
}

impl Complaint {
    /// In the words of a TOML file.
    fn plain(&self, value: &Value) -> String {
        match self {
            Self::Variant { known: [only] } => format!("must be {only:?}"),
            Self::Variant { known } => {
                let hint = value.as_str().and_then(|seen| nearest(seen, known.iter().copied()));
                let hint = hint.map(|name| format!("; did you mean {name:?}?")).unwrap_or_default();
                let names: Vec<String> = known.iter().map(|name| format!("{name:?}")).collect();
                format!("must be one of {}{hint}", names.join(", "))
            }
            Self::Type { expected } => format!("must be {}", noun(expected)),
            Self::Other(words) => words.clone(),
            Self::Missing { .. } | Self::UnknownField { .. } => {
                unreachable!("{self:?} is about a key, not a value")
            }
        }
    }
}

/// What Rust's types are called in a TOML file.
fn noun(expected: &str) -> String {
    let words = match expected {
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        "u64" | "usize" => "a whole number, not negative",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a string" | "string or map" | "variant identifier" => "text in quotes",
        "a map" | "map" => "a section with keys",
        "a sequence" => "a list",
        other if other.starts_with("struct ") || other.starts_with("internally tagged enum ") => {
            "a section with keys"
        }
        other => match other.strip_prefix("tuple of ").and_then(|rest| rest.split(' ').next()) {
            Some(length) => return format!("a list of {length}"),
            None => other,
        },
    };
    words.to_owned()
}

/// A complaint, and where it was.
#[derive(Debug)]
struct Trouble {
    complaint: Complaint,
    /// From the table that is read to the value complained of.
    path: Vec<Step>,
    /// It is about the value at `path` itself, not about something inside of it that
    /// serde had buffered.
    is_located: bool,
}

impl Trouble {
    fn new(complaint: Complaint) -> Self {
        Self { complaint, path: Vec::new(), is_located: false }
    }

    fn inside(mut self, step: Step) -> Self {
        self.path.insert(0, step);
        self
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.complaint)
    }
}

impl std::error::Error for Trouble {}

impl Error for Trouble {
    fn custom<T: fmt::Display>(words: T) -> Self {
        Self::new(Complaint::Other(words.to_string()))
    }
    fn invalid_type(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(Complaint::Type { expected: expected.to_string() })
    }
    fn invalid_value(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(Complaint::Type { expected: expected.to_string() })
    }
    fn invalid_length(_: usize, expected: &dyn Expected) -> Self {
        Self::new(Complaint::Type { expected: expected.to_string() })
    }
    fn unknown_variant(_: &str, known: &'static [&'static str]) -> Self {
        Self::new(Complaint::Variant { known })
    }
    fn unknown_field(_: &str, known: &'static [&'static str]) -> Self {
        Self::new(Complaint::UnknownField { known })
    }
    fn missing_field(field: &'static str) -> Self {
        Self::new(Complaint::Missing { field })
    }
}

/// A value to be deserialised.
struct Node<'a>(&'a Value);

impl Node<'_> {
    fn table<'de, V: Visitor<'de>>(table: &Table, visitor: V) -> Result<V::Value, Trouble> {
        visitor.visit_map(Keys { rest: table.iter(), value: None })
    }
}

impl<'de> Deserializer<'de> for Node<'_> {
    type Error = Trouble;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Trouble> {
        match self.0 {
            Value::String(text) => visitor.visit_str(text),
            Value::Integer(number) => visitor.visit_i64(*number),
            Value::Float(number) => visitor.visit_f64(*number),
            Value::Boolean(is_true) => visitor.visit_bool(*is_true),
            Value::Datetime(_) => Err(Trouble::invalid_type(Unexpected::Other("a date"), &visitor)),
            Value::Array(items) => {
                let mut items = Items { rest: items.iter(), next: 0 };
                let read = visitor.visit_seq(&mut items)?;
                let expected = || format!("a list of {}", items.next);
                let is_whole = items.rest.len() == 0;
                let too_long = || Trouble::new(Complaint::Type { expected: expected() });
                if is_whole { Ok(read) } else { Err(too_long()) }
            }
            Value::Table(table) => Self::table(table, visitor),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Trouble> {
        match self.0 {
            // A struct buffers nothing: what is wrong with no key of it is the table.
            Value::Table(table) => Self::table(table, visitor).map_err(|mut trouble| {
                trouble.is_located |= trouble.path.is_empty();
                trouble
            }),
            // Serde would take the items for the fields in order.
            Value::Array(_) => Err(Trouble::new(Complaint::Type { expected: "map".to_owned() })),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Trouble> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Trouble> {
        visitor.visit_newtype_struct(self)
    }

    /// A choice of texts. A number that is written as one of them is that text: the
    /// quotes of `--set router.semantics="0.9"` do not survive a shell.
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Trouble> {
        match self.0 {
            Value::String(chosen) => visitor.visit_enum(StrDeserializer::new(chosen)),
            Value::Table(table) if table.len() == 1 => visitor
                .visit_enum(MapAccessDeserializer::new(Keys { rest: table.iter(), value: None })),
            Value::Integer(_) | Value::Float(_) if known.contains(&&*self.0.to_string()) => {
                visitor.visit_enum(StrDeserializer::new(&self.0.to_string()))
            }
            _ => Err(Trouble::unknown_variant("", known)),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map identifier ignored_any
    }
}

/// The keys of a table that are still to be read.
struct Keys<'a> {
    rest: toml::map::Iter<'a, String, Value>,
    value: Option<(&'a str, &'a Value)>,
}

impl<'de> MapAccess<'de> for Keys<'_> {
    type Error = Trouble;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Trouble> {
        let Some((key, value)) = self.rest.next() else { return Ok(None) };
        self.value = Some((key, value));
        let key_text: StrDeserializer<'_, Trouble> = StrDeserializer::new(key);
        let inside = |trouble: Trouble| {
            Trouble { is_located: true, ..trouble }.inside(Step::Key(key.clone()))
        };
        seed.deserialize(key_text).map(Some).map_err(inside)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Trouble> {
        let (key, value) = self.value.take().expect("a key comes before its value");
        let inside = |trouble: Trouble| trouble.inside(Step::Key(key.to_owned()));
        seed.deserialize(Node(value)).map_err(inside)
    }
}

/// The items of a list that are still to be read.
struct Items<'a> {
    rest: std::slice::Iter<'a, Value>,
    next: usize,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Trouble;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Trouble> {
        let Some(item) = self.rest.next() else { return Ok(None) };
        let index = self.next;
        self.next += 1;
        let inside = |trouble: Trouble| trouble.inside(Step::Item(index));
        seed.deserialize(Node(item)).map(Some).map_err(inside)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.rest.len())
    }
}

/// Where in the buffered value at `path` the complaint comes from: the key without
/// which it goes away, or, where a key is missing, the table in which it helps.
fn search<T: DeserializeOwned>(whole: &Value, path: &[Step], complaint: &Complaint) -> Vec<Step> {
    let now = |changed: &Value| T::deserialize(Node(changed)).err().map(|t| t.complaint);
    let suspects = Suspects { whole, complaint, now: &now };
    let found = match complaint {
        Complaint::Missing { field } => suspects.lacking(path, field),
        _ => suspects.culprit(path),
    };
    found.unwrap_or_else(|| path.to_vec())
}

struct Suspects<'a> {
    whole: &'a Value,
    complaint: &'a Complaint,
    /// What a changed copy of the whole is complained of.
    now: &'a dyn Fn(&Value) -> Option<Complaint>,
}

impl Suspects<'_> {
    /// What is complained of once the table at `path` has been changed.
    fn after(&self, path: &[Step], change: impl FnOnce(&mut Table)) -> Option<Complaint> {
        let mut changed = self.whole.clone();
        let slot = path.iter().fold(&mut changed, |value, step| match step {
            Step::Key(key) => &mut value[key.as_str()],
            Step::Item(index) => &mut value[*index],
        });
        change(slot.as_table_mut().expect("a table was found there"));
        (self.now)(&changed)
    }

    /// The innermost key below the table at `path` without which the complaint goes away.
    fn culprit(&self, path: &[Step]) -> Option<Vec<Step>> {
        let table = value_at(self.whole, path)?.as_table()?;
        let mut tag_only = None;
        for key in table.keys() {
            let now = self.after(path, |table| drop(table.remove(key)));
            if now.as_ref() == Some(self.complaint) {
                continue;
            }
            let at = extended(path, Step::Key(key.clone()));
            // A tag is always needed; it is to blame only if nothing else is.
            if key == TAG && matches!(now, Some(Complaint::Missing { field: TAG })) {
                tag_only = Some(at);
                continue;
            }
            let inner = tables_in(self.whole, &at).into_iter().find_map(|at| self.culprit(&at));
            return Some(inner.unwrap_or(at));
        }
        tag_only
    }

    /// The table at or below `path` that lacks `field`: giving it, with any value,
    /// changes the complaint without making it an unknown key.
    fn lacking(&self, path: &[Step], field: &str) -> Option<Vec<Step>> {
        let table = value_at(self.whole, path)?.as_table()?;
        if !table.contains_key(field) {
            let given = |table: &mut Table| drop(table.insert(field.into(), Value::Boolean(false)));
            let now = self.after(path, given);
            let is_unknown = matches!(now, Some(Complaint::UnknownField { .. }));
            if now.as_ref() != Some(self.complaint) && !is_unknown {
                return Some(path.to_vec());
            }
        }
        table
            .keys()
            .flat_map(|key| tables_in(self.whole, &extended(path, Step::Key(key.clone()))))
            .find_map(|at| self.lacking(&at, field))
    }
}

fn extended(path: &[Step], step: Step) -> Vec<Step> {
    [path, &[step]].concat()
}

/// Paths of the tables that the value at `path` is or lists. The last of a list
/// comes first: its tables are read in order, so a change in one before the
/// culprit can change the complaint too, but none after it can.
fn tables_in(whole: &Value, path: &[Step]) -> Vec<Vec<Step>> {
    match value_at(whole, path) {
        Some(Value::Table(_)) => vec![path.to_vec()],
        Some(Value::Array(items)) => {
            let tables = items.iter().enumerate().rev().filter(|(_, item)| item.is_table());
            tables.map(|(index, _)| extended(path, Step::Item(index))).collect()
        }
        _ => Vec::new(),
    }
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
