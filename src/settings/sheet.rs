//! A table of settings that knows where each of its keys was given.
//!
//! Settings of one thing come from several texts: an engine's defaults, a model
//! file, an experiment, what that extends, a sweep, the command line. Each is a
//! [`Sheet`]; [`Sheet::over`] puts one over another, key by key, and only the
//! result becomes a type. So a key has one name and one default, in the type that
//! reads it, and whatever is wrong names the line that gave it.

use super::place::{Place, SettingsError};
use super::read::{self, Fault, TAG, join};
use super::{Invalid, NOTHING, line_of, nearest};
use serde::de::DeserializeOwned;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

/// A TOML table with the place of each key.
#[derive(Clone, Debug, PartialEq)]
pub struct Sheet {
    table: Table,
    /// Where each dotted key was given; tables in lists as `key[0].inner`.
    places: BTreeMap<String, Place>,
    /// Where the table itself was given.
    whole: Place,
    /// The dotted key of the table in messages; empty at the top.
    name: String,
}

impl Default for Sheet {
    /// Nothing, given nowhere.
    fn default() -> Self {
        let whole = Place::File("the settings".into());
        Self { table: Table::new(), places: BTreeMap::new(), whole, name: String::new() }
    }
}

impl Sheet {
    /// Parses `text`, which came from `file`.
    ///
    /// # Errors
    /// If it is not TOML.
    pub fn parse(file: &Path, text: &str) -> Result<Self, SettingsError> {
        let line_at = |offset: usize| Place::Line(file.to_owned(), line_of(text, offset));
        let syntax = |error: toml::de::Error| SettingsError::Syntax {
            place: line_at(error.span().map_or(text.len(), |span| span.start)),
            // The parser's own words for a number beyond 64 bits speak of Rust.
            problem: match error.message() {
                too_large if too_large.starts_with("invalid type: integer") => {
                    "whole numbers lie between -9223372036854775808 and 9223372036854775807".into()
                }
                "duplicate key" => {
                    let key = error.span().and_then(|span| text.get(span)).unwrap_or_default();
                    format!("duplicate key {}", key.trim()).trim_end().to_owned()
                }
                other => other.replace('\n', ", "),
            },
        };
        let spans = DeTable::parse(text).map_err(syntax)?;
        let table: Table = toml::from_str(text).map_err(syntax)?;
        let mut offsets = BTreeMap::new();
        record_offsets("", spans.get_ref(), &mut offsets);
        let places = offsets.into_iter().map(|(key, at)| (key, line_at(at))).collect();
        Ok(Self { table, places, whole: Place::File(file.to_owned()), name: String::new() })
    }

    /// The values, places apart.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// The value at a dotted key. A table in a list is a part of a key by its `name`, by
    /// its number, or as messages show it: `list.blue.inner`, `list.0.inner`,
    /// `list[0].inner`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let key = self.numbered(key);
        let mut value: Option<&Value> = None;
        for part in key.split('.') {
            let (name, item) = split_item(part);
            let table = match value {
                None => &self.table,
                Some(value) => value.as_table()?,
            };
            let found = table.get(name)?;
            value = Some(match item {
                None => found,
                Some(at) => found.as_array()?.get(at)?,
            });
        }
        value
    }

    /// `key` with every table in a list by its number, as places and messages have it:
    /// `list[0].inner`. What names no table in a list stays as it is.
    fn numbered<'a>(&self, key: &'a str) -> Cow<'a, str> {
        // Few keys lead into lists.
        let mut path = String::new();
        let mut value: Option<&Value> = None;
        let mut is_plain = true;
        for part in key.split('.') {
            let items = value.and_then(Value::as_array);
            if let Some(at) = items.and_then(|items| item(items, part)) {
                path = format!("{path}[{at}]");
                value = items.and_then(|items| items.get(at));
                is_plain = false;
                continue;
            }
            path = join(&path, part);
            let (name, at) = split_item(part);
            let table =
                if path == part { Some(&self.table) } else { value.and_then(Value::as_table) };
            let found = table.and_then(|table| table.get(name));
            value = match at {
                None => found,
                Some(at) => found.and_then(Value::as_array).and_then(|items| items.get(at)),
            };
        }
        if is_plain { Cow::Borrowed(key) } else { Cow::Owned(path) }
    }

    /// Where a key was given, or the nearest section around it.
    pub fn place(&self, key: &str) -> Place {
        let key = self.numbered(key);
        let mut key = key.as_ref();
        loop {
            if let Some(place) = self.places.get(key) {
                return place.clone();
            }
            match key.rfind(['.', '[']) {
                Some(end) => key = &key[..end],
                None => return self.whole.clone(),
            }
        }
    }

    /// Whether some text has a value for `key`: the line that [`place`](Self::place) names is
    /// else that of a section around it.
    fn stands(&self, key: &str) -> bool {
        let mut inner = key;
        loop {
            match self.get(inner) {
                Some(Value::Table(_)) => return inner == key,
                Some(_) => return true,
                None => match inner.rfind(['.', '[']) {
                    Some(end) => inner = &inner[..end],
                    None => return self.places.contains_key(inner),
                },
            }
        }
    }

    /// Where this very key was given, if it was.
    pub fn given(&self, key: &str) -> Option<&Place> {
        self.places.get(self.numbered(key).as_ref())
    }

    /// All keys that were given, dotted.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    /// Takes the value of a top-level key away, but keeps the places of what is in it.
    pub(crate) fn lift(&mut self, key: &str) -> Option<Value> {
        self.table.remove(key)
    }

    /// Says that `key` was given at `place`, for a key that is in no table.
    pub(crate) fn note(&mut self, key: &str, place: Place) {
        self.places.insert(key.to_owned(), place);
    }

    /// Sets a dotted key; sections in between appear as needed. Tables in lists are named
    /// as for [`get`](Self::get), and must be there.
    ///
    /// # Errors
    /// If one of the sections is something else.
    pub fn set(&mut self, key: &str, value: Value, place: Place) -> Result<(), SettingsError> {
        let key = self.numbered(key).into_owned();
        let inside = format!("{key}.");
        self.places.retain(|known, _| *known != key && !known.starts_with(&inside));
        self.places.insert(key.clone(), place.clone());
        let (sections, last) = match key.rsplit_once('.') {
            Some((sections, last)) => (Some(sections), last),
            None => (None, key.as_str()),
        };
        let mut table = &mut self.table;
        let mut path = String::new();
        for section in sections.iter().flat_map(|sections| sections.split('.')) {
            let (name, at) = split_item(section);
            path = join(&path, name);
            let mut entry = table.entry(name).or_insert_with(|| Value::Table(Table::new()));
            if let Some(at) = at
                && entry.as_array().is_some_and(|items| at < items.len())
            {
                path = format!("{path}[{at}]");
                entry = &mut entry.as_array_mut().expect("a list")[at];
            }
            table = match entry {
                Value::Table(table) => table,
                other => {
                    let problem = match names(other) {
                        Some(names) => format!(
                            "is a list, of which {key} names no part: its parts are {names}"
                        ),
                        None => format!("is not a section, so {key} cannot be set"),
                    };
                    return Err(SettingsError::Value {
                        place,
                        key: join(&self.name, &path),
                        value: inline(other),
                        problem,
                    });
                }
            };
        }
        table.insert(last.to_owned(), value);
        Ok(())
    }

    /// Takes a dotted key or a section away; the value, if it was there.
    pub fn take(&mut self, key: &str) -> Option<Value> {
        self.places.retain(|known, _| !is_inside(known, key));
        let Some((sections, last)) = key.rsplit_once('.') else { return self.table.remove(key) };
        let mut parts = sections.split('.');
        let top = parts.next().and_then(|part| self.table.get_mut(part));
        let section = parts.fold(top, |value, part| value?.as_table_mut()?.get_mut(part));
        section?.as_table_mut()?.remove(last)
    }

    /// This sheet's keys over those of `base`, section by section. Lists are
    /// replaced, and so is a table that becomes another `kind`: the keys of one mean
    /// nothing to the other.
    pub fn over(self, mut base: Self) -> Self {
        merge(&mut base, self.table, "");
        base.places.extend(self.places);
        base.name = self.name;
        // What is missing is missing from what was written last.
        base.whole = self.whole;
        base
    }

    /// A section as a sheet of its own; an absent one is empty.
    ///
    /// # Errors
    /// If there is something else in its place.
    pub fn section(&self, key: &str) -> Result<Self, SettingsError> {
        match self.get(key) {
            None => Ok(self.part(key, Table::new())),
            Some(Value::Table(table)) => Ok(self.part(key, table.clone())),
            Some(other) => Err(self.value_error(key, other, "must be a section with keys")),
        }
    }

    /// `table`, which was given at a key of this sheet, as a sheet of its own.
    pub(crate) fn part(&self, key: &str, table: Table) -> Self {
        let key = self.numbered(key);
        let key = key.as_ref();
        let inner = |(known, place): (&String, &Place)| {
            let inner = known.strip_prefix(key)?.strip_prefix('.')?;
            Some((inner.to_owned(), place.clone()))
        };
        let places = self.places.iter().filter_map(inner).collect();
        Self { table, places, whole: self.place(key), name: join(&self.name, key) }
    }

    /// The same keys under another name in messages.
    #[must_use]
    pub fn named(self, name: &str) -> Self {
        Self { name: name.to_owned(), ..self }
    }

    /// Becomes a type.
    ///
    /// # Errors
    /// The first key that is unknown, missing or has a value that will not do.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, SettingsError> {
        read::read(&self.table).map_err(|fault| match fault {
            Fault::Missing { path } => {
                let section = path.rsplit_once('.').map_or("", |(section, _)| section);
                SettingsError::Missing {
                    place: self.place(section),
                    key: join(&self.name, &path),
                    hint: String::new(),
                }
            }
            Fault::UnknownKey { path, known } => self.unknown(&path, &known),
            Fault::Value { path, value, problem } => self.value_error(&path, &value, &problem),
        })
    }

    /// The error for a value that a type's `validate` refused; its key is relative
    /// to this sheet. A value of [`NOTHING`] says that the key must be given.
    pub fn invalid(&self, invalid: Invalid) -> SettingsError {
        let Invalid { key, value, allowed } = invalid;
        let (place, stands) = (self.place(&key), self.stands(&key));
        let key = join(&self.name, &key);
        if value == NOTHING {
            return SettingsError::Missing { place, key, hint: format!(": must be {allowed}") };
        }
        let (place, value) = match stands {
            true => (place, value),
            false => (place.without_line(), format!("{value} (not given, so by default)")),
        };
        SettingsError::Value { place, key, value, problem: format!("must be {allowed}") }
    }

    /// The error for a value that will not do.
    pub fn value_error(&self, key: &str, value: &Value, problem: &str) -> SettingsError {
        SettingsError::Value {
            place: self.place(key),
            key: if key.is_empty() { self.name.clone() } else { join(&self.name, key) },
            value: inline(value),
            problem: problem.to_owned(),
        }
    }

    /// The error for a key that means nothing where these are `known`.
    pub fn unknown(&self, key: &str, known: &[String]) -> SettingsError {
        let name = key.rsplit('.').next().unwrap_or(key);
        let is_of_engine = known.iter().any(|key| ["tp", "block_size"].contains(&key.as_str()));
        let left_out = LEFT_OUT
            .iter()
            .find(|(words, _)| is_of_engine && name.split('_').any(|part| words.contains(&part)));
        if let Some((_, what)) = left_out {
            let hint = format!("; {what} is not simulated: leave it out");
            let (place, key) = (self.place(key), join(&self.name, key));
            return SettingsError::UnknownKey { place, key, hint };
        }
        let hint = match nearest(name, known.iter().map(String::as_str)) {
            Some(near) => format!("; did you mean {near}?"),
            None if known.is_empty() => "; there are no keys here".to_owned(),
            None => format!("; the keys here are {}", known.join(", ")),
        };
        SettingsError::UnknownKey { place: self.place(key), key: join(&self.name, key), hint }
    }
}

/// Words in keys of models and engines that stand for what is not simulated.
const LEFT_OUT: [(&[&str], &str); 3] = [
    (&["speculative", "draft"], "speculative decoding"),
    (&["lora", "loras"], "LoRA"),
    (&["pipeline", "pp"], "pipeline parallelism"),
];

/// True for `key` and everything in it.
pub(crate) fn is_inside(known: &str, key: &str) -> bool {
    known.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// The name of a part of a key, and the number behind it where the part is a table in a
/// list: `list[0]`.
fn split_item(part: &str) -> (&str, Option<usize>) {
    let item = part.strip_suffix(']').and_then(|rest| rest.split_once('['));
    match item.and_then(|(name, at)| Some((name, at.parse().ok()?))) {
        Some((name, at)) => (name, Some(at)),
        None => (part, None),
    }
}

/// The place of the table in `items` that has this `name`, or this number.
fn item(items: &[Value], name: &str) -> Option<usize> {
    let has_name = |item: &Value| item.get("name").and_then(Value::as_str) == Some(name);
    let numbered = || name.parse().ok().filter(|&at| at < items.len());
    items.iter().position(has_name).or_else(numbered)
}

/// What the tables in a list are called, where each has a name.
fn names(list: &Value) -> Option<String> {
    let items = list.as_array().filter(|items| !items.is_empty())?;
    let name = |item: &Value| Some(item.get("name")?.as_str()?.to_owned());
    Some(items.iter().map(name).collect::<Option<Vec<String>>>()?.join(", "))
}

/// Puts `over` into the section of `base` at `path`; places of what is replaced go.
fn merge(base: &mut Sheet, over: Table, path: &str) {
    for (key, value) in over {
        let at = join(path, &key);
        let before = base.get(&at).and_then(Value::as_table);
        match (before, value) {
            (Some(before), Value::Table(over))
                if over.get(TAG).is_none_or(|kind| before.get(TAG) == Some(kind)) =>
            {
                merge(base, over, &at);
            }
            (_, value) => {
                if base.get(&at).is_some() {
                    base.take(&at);
                }
                let section = path.split('.').filter(|part| !part.is_empty());
                let table = section.fold(&mut base.table, |table, part| {
                    table[part].as_table_mut().expect("a section was found there")
                });
                table.insert(key, value);
            }
        }
    }
}

/// A value on one line, cut to a readable length.
fn inline(value: &Value) -> String {
    const MOST_CHARS: usize = 80;
    let text = match value {
        // TOML would write a text with line breaks over several lines.
        Value::String(text) => format!("{text:?}"),
        other => other.to_string().replace(|c: char| c.is_control(), " "),
    };
    match text.char_indices().nth(MOST_CHARS) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// Byte offset of every key of a TOML text, by dotted path.
pub(crate) fn offsets(text: &str) -> BTreeMap<String, usize> {
    let mut offsets = BTreeMap::new();
    if let Ok(spans) = DeTable::parse(text) {
        record_offsets("", spans.get_ref(), &mut offsets);
    }
    offsets
}

/// Byte offset of every key, by dotted path; tables in lists as `key[0].inner`.
fn record_offsets(parent: &str, table: &DeTable<'_>, offsets: &mut BTreeMap<String, usize>) {
    for (key, value) in table {
        let path = join(parent, key.get_ref());
        offsets.insert(path.clone(), key.span().start);
        match value.get_ref() {
            DeValue::Table(inner) => record_offsets(&path, inner, offsets),
            DeValue::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    if let DeValue::Table(inner) = item.get_ref() {
                        record_offsets(&format!("{path}[{index}]"), inner, offsets);
                    }
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sheet(file: &str, text: &str) -> Sheet {
        Sheet::parse(Path::new(file), text).expect("TOML")
    }

    fn merged() -> Sheet {
        let base = sheet(
            "base.toml",
            "a = 1\nb = 2\n[s]\nx = 1\ny = 2\n[t]\nkind = 'p'\np = 1\n[u]\nkind = 'p'\np = 1\n",
        );
        let over =
            sheet("over.toml", "b = 3\n[s]\ny = 4\nz = 5\n[t]\nkind = 'q'\nq = 1\n[u]\nq = 2");
        over.over(base)
    }

    #[test]
    fn tables_merge_key_by_key_and_another_kind_replaces() {
        let expected: Table =
            "a = 1\nb = 3\ns = { x = 1, y = 4, z = 5 }\nt = { kind = 'q', q = 1 }\n\
                               u = { kind = 'p', p = 1, q = 2 }"
                .parse()
                .expect("TOML");
        assert_eq!(merged().table(), &expected);
    }

    #[test]
    fn a_key_keeps_the_place_that_gave_it() {
        let merged = merged();
        let at = |key: &str| merged.place(key).to_string();
        assert_eq!(at("a"), "base.toml:1");
        assert_eq!(at("b"), "over.toml:1");
        assert_eq!(at("s.x"), "base.toml:4");
        assert_eq!(at("s.y"), "over.toml:3");
        assert_eq!(at("t.q"), "over.toml:7");
        // It went with the other kind.
        assert_eq!(at("t.p"), "over.toml:5");
        let section = merged.section("s").expect("a section");
        assert_eq!(section.place("x").to_string(), "base.toml:4");
        assert_eq!(section.place("none").to_string(), "over.toml:2");
        let error = section.invalid(Invalid::new("x", 1, "two")).to_string();
        assert_eq!(error, "base.toml:4: s.x = 1: must be two");
        let by_default = section.invalid(Invalid::new("w", 1, "two")).to_string();
        assert_eq!(by_default, "over.toml: s.w = 1 (not given, so by default): must be two");
    }

    #[test]
    fn what_is_taken_is_gone_with_what_is_in_it() {
        let mut sheet = sheet("a.toml", "[s]\nx.y = 1\nz = 2\n[[s.list]]\nk = 1\n");
        assert!(sheet.take("s.x").is_some());
        assert!(sheet.take("s.x").is_none());
        assert!(sheet.take("s.list").is_some());
        assert_eq!(sheet.keys().collect::<Vec<_>>(), ["s", "s.z"]);
    }
}
