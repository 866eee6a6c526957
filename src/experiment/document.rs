//! The text of an experiment: a TOML table that still knows where each key
//! came from, and the axes of its sweep.

mod extends;

use super::error::{ExperimentError, Place};
use super::locate::{self, Fault, join};
use super::sweep::{self, RANGE_KEYS};
use crate::settings::{Invalid, line_of, nearest};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

use extends::EXTENDS;
pub(super) use extends::Extends;

/// The sections and keys at the top of an experiment.
const TOP: [&str; 10] = [
    "name",
    "description",
    "cluster",
    "engine",
    "router",
    "workload",
    "measure",
    "sweep",
    "slo",
    "published",
];

/// The parts of an experiment that change its numbers, so that may be swept.
const SETTINGS: [&str; 6] = ["cluster", "engine", "router", "workload", "measure", "slo"];

/// What [`Invalid`] shows as the value of a key that is not given.
pub(super) const NOTHING: &str = "nothing";

/// An experiment as written, plus what the command line changed.
#[derive(Clone, Debug)]
pub(super) struct Document {
    file: PathBuf,
    table: Table,
    /// What `[sweep]` holds, flattened to dotted keys, in the order written.
    sweep: Vec<(String, Value)>,
    /// Where each dotted key was given.
    places: BTreeMap<String, Place>,
}

impl Document {
    /// Reads a file, and what it extends.
    pub(super) fn read(file: &Path) -> Result<Self, ExperimentError> {
        Self::read_after(file, &[])
    }

    /// As [`read`](Self::read), for a file that the files of `chain` lead to.
    fn read_after(file: &Path, chain: &[PathBuf]) -> Result<Self, ExperimentError> {
        let bytes = std::fs::read(file).map_err(|error| ExperimentError::Unreadable {
            file: file.to_owned(),
            reason: error.to_string(),
        })?;
        let text = str::from_utf8(&bytes).map_err(|error| {
            let line = line_of(&bytes, error.valid_up_to());
            ExperimentError::NotUtf8 { place: Place::Line(file.to_owned(), line) }
        })?;
        Self::parse_alone(file, text)?.extended(chain)
    }

    /// Parses `text`, which came from `file`, and reads what it extends.
    pub(super) fn parse(file: &Path, text: &str) -> Result<Self, ExperimentError> {
        Self::parse_alone(file, text)?.extended(&[])
    }

    fn parse_alone(file: &Path, text: &str) -> Result<Self, ExperimentError> {
        let line_at = |offset: usize| Place::Line(file.to_owned(), line_of(text, offset));
        let syntax = |error: toml::de::Error| ExperimentError::Syntax {
            place: line_at(error.span().map_or(text.len(), |span| span.start)),
            // The parser's own words for a number beyond 64 bits speak of Rust.
            problem: match error.message() {
                too_large if too_large.starts_with("invalid type: integer") => {
                    "whole numbers lie between -9223372036854775808 and 9223372036854775807".into()
                }
                other => other.replace('\n', ", "),
            },
        };
        let spans = DeTable::parse(text).map_err(syntax)?;
        let mut table: Table = toml::from_str(text).map_err(syntax)?;
        let mut offsets = BTreeMap::new();
        record_offsets("", spans.get_ref(), &mut offsets);
        let places = offsets.iter().map(|(key, &at)| (key.clone(), line_at(at))).collect();

        let swept = table.remove("sweep");
        let mut document = Self { file: file.to_owned(), table, sweep: Vec::new(), places };
        match swept {
            None => {}
            Some(Value::Table(axes)) => flatten("", axes, &mut document.sweep),
            Some(other) => {
                return Err(document.value_error("sweep", &other, "must be a section with keys"));
            }
        }
        document.sweep.sort_by_key(|(key, _)| offsets.get(&join("sweep", key)).copied());
        document.check_top()?;
        Ok(document)
    }

    /// The folder of the experiment's file.
    pub(super) fn folder(&self) -> &Path {
        self.file.parent().unwrap_or(Path::new(""))
    }

    /// The folder that a path at this key is relative to: that of the file that
    /// gives it.
    pub(super) fn folder_of(&self, key: &str) -> &Path {
        match self.places.get(key) {
            Some(Place::Line(file, _) | Place::Sweep(file, _)) => {
                file.parent().unwrap_or(Path::new(""))
            }
            _ => self.folder(),
        }
    }

    /// Applies `KEY=VALUE`. The value is read as TOML, else as text. A key that
    /// is swept is not swept any more: it keeps this one value. `sweep.KEY`
    /// sets an axis, which may be written as [`sweep::typed`] says.
    pub(super) fn set_argument(&mut self, argument: &str) -> Result<(), ExperimentError> {
        let invalid = || ExperimentError::Override { argument: argument.to_owned() };
        let (key, text) = argument.split_once('=').ok_or_else(invalid)?;
        let (key, text) = (key.trim(), text.trim());
        if key.split('.').any(|part| part.trim().is_empty()) {
            return Err(invalid());
        }
        let is_axis = key.starts_with("sweep.");
        let value = match text.parse() {
            Ok(value @ (Value::Array(_) | Value::Table(_))) => value,
            _ if is_axis => sweep::typed(text),
            Ok(value) => value,
            Err(_) => Value::String(text.to_owned()),
        };
        let place = Place::Argument(format!("--set {argument}"));
        if key.split('.').next() == Some(EXTENDS) {
            self.places.insert(key.to_owned(), place);
            return Err(self.value_error(key, &value, "cannot be set: name the file in the file"));
        }
        if key == "sweep" {
            self.places.insert(key.to_owned(), place);
            let problem = "must set one axis, like sweep.workload.concurrency=[60, 80]";
            return Err(self.value_error(key, &value, problem));
        }
        let axis = key.strip_prefix("sweep.");
        let swept = axis.unwrap_or(key);
        if let Some((_, values)) = self.sweep.iter_mut().find(|(name, _)| name == swept) {
            *values = match axis {
                Some(_) => value,
                None if key == sweep::VARIANT => match sweep::variant(values, &value, text) {
                    Ok(variant) => Value::Array(vec![variant]),
                    Err(problem) => {
                        self.places.insert(key.to_owned(), place);
                        return Err(self.value_error(key, &value, &problem));
                    }
                },
                None => Value::Array(vec![value]),
            };
            self.places.insert(join("sweep", swept), place);
            Ok(())
        } else if let Some(axis) = axis {
            self.sweep.push((axis.to_owned(), value));
            self.places.insert(key.to_owned(), place);
            Ok(())
        } else {
            self.set(key, value, place)?;
            self.check_top()
        }
    }

    /// Sets a dotted key; sections in between appear as needed.
    pub(super) fn set(
        &mut self,
        key: &str,
        value: Value,
        place: Place,
    ) -> Result<(), ExperimentError> {
        let inside = format!("{key}.");
        self.places.retain(|known, _| known != key && !known.starts_with(&inside));
        self.places.insert(key.to_owned(), place);
        let (sections, last) = match key.rsplit_once('.') {
            Some((sections, last)) => (Some(sections), last),
            None => (None, key),
        };
        let mut table = &mut self.table;
        let mut path = String::new();
        for section in sections.iter().flat_map(|sections| sections.split('.')) {
            path = join(&path, section);
            let entry = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
            table = match entry {
                Value::Table(table) => table,
                other => {
                    let problem = format!("is not a section, so {key} cannot be set");
                    return Err(ExperimentError::Value {
                        place: self.places[key].clone(),
                        key: path,
                        value: inline(other),
                        problem,
                    });
                }
            };
        }
        table.insert(last.to_owned(), value);
        Ok(())
    }

    /// The axes of the sweep as written, in order.
    pub(super) fn sweep(&self) -> &[(String, Value)] {
        &self.sweep
    }

    /// The value at a dotted key.
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        let mut parts = key.split('.');
        let top = self.table.get(parts.next()?)?;
        parts.try_fold(top, |value, part| value.as_table()?.get(part))
    }

    /// Where a key was given, or the nearest section around it.
    pub(super) fn place(&self, key: &str) -> Place {
        let mut key = key;
        loop {
            if let Some(place) = self.places.get(key) {
                return place.clone();
            }
            match key.rfind(['.', '[']) {
                Some(end) => key = &key[..end],
                None => return Place::File(self.file.clone()),
            }
        }
    }

    /// As [`place`](Self::place), for values that the axis `key` puts in.
    pub(super) fn place_of_axis(&self, key: &str) -> Place {
        match self.place(&join("sweep", key)) {
            Place::Line(file, line) => Place::Sweep(file, line),
            other => other,
        }
    }

    /// A section as settings; an absent one reads as empty.
    pub(super) fn section<T: DeserializeOwned>(&self, name: &str) -> Result<T, ExperimentError> {
        let empty = Table::new();
        let section = match self.table.get(name) {
            None => &empty,
            Some(Value::Table(section)) => section,
            Some(other) => {
                return Err(self.value_error(name, other, "must be a section with keys"));
            }
        };
        locate::read(section).map_err(|fault| self.fault(name, fault))
    }

    /// A section that may be left out.
    pub(super) fn optional<T: DeserializeOwned>(
        &self,
        name: &str,
    ) -> Result<Option<T>, ExperimentError> {
        self.table.contains_key(name).then(|| self.section(name)).transpose()
    }

    /// The error for a section whose `validate` refused it. A value of
    /// [`NOTHING`] says that the key must be given.
    pub(super) fn invalid(&self, section: &str, invalid: Invalid) -> ExperimentError {
        let Invalid { key, value, allowed } = invalid.within(section);
        if value == NOTHING {
            let hint = format!(": must be {allowed}");
            return ExperimentError::Missing { place: self.place(&key), key, hint };
        }
        let problem = format!("must be {allowed}");
        ExperimentError::Value { place: self.place(&key), key, value, problem }
    }

    /// The error for a value that will not do.
    pub(super) fn value_error(&self, key: &str, value: &Value, problem: &str) -> ExperimentError {
        ExperimentError::Value {
            place: self.place(key),
            key: key.to_owned(),
            value: inline(value),
            problem: problem.to_owned(),
        }
    }

    /// Everything that changes numbers, as JSON with sorted keys; not the name,
    /// the description or the published numbers. The sweep keeps its order.
    pub(super) fn canonical(&self) -> serde_json::Value {
        serde_json::json!({ "settings": self.settings(), "sweep": self.sweep })
    }

    /// The part of [`canonical`](Self::canonical) that a single run depends on.
    pub(super) fn settings(&self) -> serde_json::Value {
        let settings: BTreeMap<&str, _> =
            SETTINGS.iter().filter_map(|&name| Some((name, self.table.get(name)?))).collect();
        serde_json::json!(settings)
    }

    fn check_top(&self) -> Result<(), ExperimentError> {
        let unknown = |key: &&String| !TOP.contains(&key.as_str()) && *key != EXTENDS;
        match self.table.keys().find(unknown) {
            Some(key) => {
                let known: Vec<String> =
                    TOP.iter().chain([&EXTENDS]).map(|&name| name.to_owned()).collect();
                Err(self.unknown(key, &known))
            }
            None => Ok(()),
        }
    }

    fn fault(&self, section: &str, fault: Fault) -> ExperimentError {
        let full =
            |path: &str| if path.is_empty() { section.to_owned() } else { join(section, path) };
        match fault {
            Fault::Missing { path } => {
                let key = full(&path);
                let section = key.rsplit_once('.').map_or(section, |(section, _)| section);
                ExperimentError::Missing {
                    place: self.place(section),
                    key: key.clone(),
                    hint: String::new(),
                }
            }
            Fault::UnknownKey { path, known } => self.unknown(&full(&path), &known),
            Fault::Value { path, value, problem } => {
                self.value_error(&full(&path), &value, &problem)
            }
        }
    }

    /// The error for a key that nothing reads, where these are known.
    pub(super) fn unknown(&self, key: &str, known: &[String]) -> ExperimentError {
        let name = key.rsplit('.').next().unwrap_or(key);
        let hint = match nearest(name, known.iter().map(String::as_str)) {
            Some(near) => format!("; did you mean {near}?"),
            None if known.is_empty() => "; there are no keys here".to_owned(),
            None => format!("; the keys here are {}", known.join(", ")),
        };
        ExperimentError::UnknownKey { place: self.place(key), key: key.to_owned(), hint }
    }
}

/// True if `key` names a setting that may be swept.
pub(super) fn is_setting(key: &str) -> bool {
    key.split_once('.').is_some_and(|(section, _)| SETTINGS.contains(&section))
}

/// A value on one line, cut to a readable length.
pub(super) fn inline(value: &Value) -> String {
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

/// Axes may be written quoted (`"router.policy" = ...`) or not; both mean the
/// dotted key. A table with the keys of a range is one.
pub(super) fn flatten(parent: &str, table: Table, axes: &mut Vec<(String, Value)>) {
    for (key, value) in table {
        let path = join(parent, &key);
        match value {
            Value::Table(inner)
                if !inner.is_empty() && !RANGE_KEYS.iter().any(|key| inner.contains_key(*key)) =>
            {
                flatten(&path, inner, axes);
            }
            value => axes.push((path, value)),
        }
    }
}
