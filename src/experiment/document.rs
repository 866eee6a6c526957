//! The text of an experiment: a sheet of settings, and the axes of its sweep.

mod extends;

use super::axis::{self, RANGE_KEYS};
use super::error::ExperimentError;
use crate::catalogue;
use crate::engine::settings::rival;
use crate::settings::{Invalid, Place, Sheet, join, line_of, offsets};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

use extends::EXTENDS;
pub(super) use extends::Extends;

/// The sections and keys at the top of an experiment.
const TOP: [&str; 11] = [
    "name",
    "description",
    "cluster",
    "engine",
    "router",
    "workload",
    "measure",
    "sweep",
    "slo",
    "control",
    "published",
];

/// An experiment is at most so long (assumed: a hundred times the longest that is shipped).
const MOST_BYTES: u64 = 4 << 20;

/// The parts of an experiment that change its numbers, so that may be swept.
const SETTINGS: [&str; 6] = ["cluster", "engine", "router", "workload", "measure", "slo"];

/// An experiment as written, plus what the command line changed.
#[derive(Clone, Debug)]
pub(super) struct Document {
    file: PathBuf,
    /// Everything but the axes, whose places it knows as `sweep.KEY`.
    sheet: Sheet,
    /// What `[sweep]` holds, flattened to dotted keys, in the order written.
    sweep: Vec<(String, Value)>,
    /// Axes that were typed as two whole numbers, with what was typed.
    typed_pairs: Vec<(String, String)>,
}

impl Document {
    /// Reads the file that was typed, a shipped one by its name included, and
    /// what it extends.
    pub(super) fn read(typed: &Path) -> Result<Self, ExperimentError> {
        let file = catalogue::experiment(typed).map_err(|unknown| ExperimentError::Unreadable {
            file: typed.to_owned(),
            reason: unknown.to_string(),
        })?;
        Self::read_after(&file, &[])
    }

    /// As [`read`](Self::read), for a file that the files of `chain` lead to.
    fn read_after(file: &Path, chain: &[PathBuf]) -> Result<Self, ExperimentError> {
        let bytes = catalogue::read_at_most(file, MOST_BYTES).map_err(|error| {
            ExperimentError::Unreadable { file: file.to_owned(), reason: error.to_string() }
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
        let mut sheet = Sheet::parse(file, text)?;
        let swept = sheet.lift("sweep");
        let mut document =
            Self { file: file.to_owned(), sheet, sweep: Vec::new(), typed_pairs: Vec::new() };
        match swept {
            None => {}
            Some(Value::Table(axes)) => flatten("", axes, &mut document.sweep),
            Some(other) => {
                return Err(document.value_error("sweep", &other, "must be a section with keys"));
            }
        }
        let written = offsets(text);
        document.sweep.sort_by_key(|(key, _)| written.get(&join("sweep", key)).copied());
        document.check_top()?;
        Ok(document)
    }

    /// The experiment's file.
    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    /// The folder of the experiment's file.
    pub(super) fn folder(&self) -> &Path {
        self.file.parent().unwrap_or(Path::new(""))
    }

    /// The folder that a path at this key is relative to: that of the file that
    /// gives it. One given as an argument is relative to the experiment's, or,
    /// as that of a shipped one has no room for files, to the working folder.
    pub(super) fn folder_of(&self, key: &str) -> &Path {
        let argument = match catalogue::is_shipped(&self.file) {
            true => Path::new(""),
            false => self.folder(),
        };
        match self.sheet.given(key) {
            Some(place) => place.folder().unwrap_or(argument),
            None => self.folder(),
        }
    }

    /// Applies `KEY=VALUE`. The value is read as TOML, else as text. A key that
    /// is swept is not swept any more: it keeps this one value. `sweep.KEY`
    /// sets an axis, which may be written as [`axis::typed`] says.
    pub(super) fn set_argument(
        &mut self,
        argument: &str,
        called: &str,
    ) -> Result<(), ExperimentError> {
        let invalid = || {
            let (called, argument) = (called.to_owned(), argument.to_owned());
            ExperimentError::Override { called, argument }
        };
        let (key, text) = argument.split_once('=').ok_or_else(invalid)?;
        let (key, text) = (key.trim(), text.trim());
        if key.split('.').any(|part| part.trim().is_empty()) {
            return Err(invalid());
        }
        let is_axis = key.starts_with("sweep.");
        let value = match text.parse() {
            Ok(value @ (Value::Array(_) | Value::Table(_))) => value,
            _ if is_axis => axis::typed(text),
            Ok(value) => value,
            Err(_) => Value::String(text.to_owned()),
        };
        let place = Place::Argument(format!("{called} {argument}"));
        let refused = |document: &mut Self, problem: &str| {
            document.sheet.note(key, place.clone());
            Err(document.value_error(key, &value, problem))
        };
        if key.split('.').next() == Some(EXTENDS) {
            return refused(self, "cannot be set: name the file in the file");
        }
        if key == "sweep" {
            return refused(self, "must set one axis, like sweep.workload.concurrency=[60, 80]");
        }
        let axis = key.strip_prefix("sweep.");
        let swept = axis.unwrap_or(key);
        let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if axis.is_some() && text.split(',').count() == 2 && text.split(',').all(is_number) {
            self.typed_pairs.push((swept.to_owned(), text.to_owned()));
        }
        self.displace(swept);
        let Some(at) = self.sweep.iter().position(|(name, _)| name == swept) else {
            if let Some(axis) = axis {
                self.sweep.push((axis.to_owned(), value));
                self.sheet.note(key, place);
                return Ok(());
            }
            self.sheet.set(key, value, place)?;
            return self.check_top();
        };
        let values = match axis {
            Some(_) => value,
            None if key == axis::VARIANT => match axis::variant(&self.sweep[at].1, &value, text) {
                Ok(variant) => Value::Array(vec![variant]),
                Err(problem) => return refused(self, &problem),
            },
            None => Value::Array(vec![value]),
        };
        self.sweep[at].1 = values;
        self.sheet.note(&join("sweep", swept), place);
        Ok(())
    }

    /// Takes away what the file says in another way than `key`, which an argument sets.
    fn displace(&mut self, key: &str) {
        let Some(rival) = rival(key) else { return };
        let is_of_file = |sheet: &Sheet, key: &str| {
            sheet.given(key).is_some_and(|place| !matches!(place, Place::Argument(_)))
        };
        if is_of_file(&self.sheet, &rival) {
            self.sheet.take(&rival);
        }
        let axis = join("sweep", &rival);
        if is_of_file(&self.sheet, &axis) {
            self.sweep.retain(|(known, _)| *known != rival);
            self.sheet.take(&axis);
        }
    }

    /// Sets a dotted key; sections in between appear as needed.
    pub(super) fn set(
        &mut self,
        key: &str,
        value: Value,
        place: Place,
    ) -> Result<(), ExperimentError> {
        Ok(self.sheet.set(key, value, place)?)
    }

    /// The axes of the sweep as written, in order.
    pub(super) fn sweep(&self) -> &[(String, Value)] {
        &self.sweep
    }

    /// Axes that were typed as two whole numbers, like `0,5`, with what was typed.
    pub(super) fn typed_pairs(&self) -> &[(String, String)] {
        &self.typed_pairs
    }

    /// The value at a dotted key.
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.sheet.get(key)
    }

    /// Where a key was given, or the nearest section around it.
    pub(super) fn place(&self, key: &str) -> Place {
        self.sheet.place(key)
    }

    /// As [`place`](Self::place), for values that the axis `key` puts in.
    pub(super) fn place_of_axis(&self, key: &str) -> Place {
        match self.place(&join("sweep", key)) {
            Place::Line(file, line) => Place::Sweep(file, line),
            other => other,
        }
    }

    /// A section with the places of its keys; an absent one is empty.
    pub(super) fn sheet(&self, name: &str) -> Result<Sheet, ExperimentError> {
        Ok(self.sheet.section(name)?)
    }

    /// `table`, which was given at a key, with the places of its keys.
    pub(super) fn part(&self, key: &str, table: &Table) -> Sheet {
        self.sheet.part(key, table.clone())
    }

    /// Whether this very key was given.
    pub(super) fn is_given(&self, key: &str) -> bool {
        self.sheet.given(key).is_some()
    }

    /// A section as settings; an absent one reads as empty.
    pub(super) fn section<T: DeserializeOwned>(&self, name: &str) -> Result<T, ExperimentError> {
        Ok(self.sheet.section(name)?.read()?)
    }

    /// A section that may be left out.
    pub(super) fn optional<T: DeserializeOwned>(
        &self,
        name: &str,
    ) -> Result<Option<T>, ExperimentError> {
        self.get(name).is_some().then(|| self.section(name)).transpose()
    }

    /// A table in a list as settings; `key` is its place, like `control[0]`.
    pub(super) fn item<T: DeserializeOwned>(
        &self,
        key: &str,
        table: &Table,
    ) -> Result<T, ExperimentError> {
        Ok(self.sheet.part(key, table.clone()).read()?)
    }

    /// The error for a section whose `validate` refused it.
    pub(super) fn invalid(&self, section: &str, invalid: Invalid) -> ExperimentError {
        self.sheet.invalid(invalid.within(section)).into()
    }

    /// The error for a value that will not do.
    pub(super) fn value_error(&self, key: &str, value: &Value, problem: &str) -> ExperimentError {
        self.sheet.value_error(key, value, problem).into()
    }

    /// Everything that changes numbers, as JSON with sorted keys; not the name,
    /// the description or the published numbers. The sweep keeps its order.
    pub(super) fn canonical(&self) -> serde_json::Value {
        serde_json::json!({ "settings": self.settings(), "sweep": self.sweep })
    }

    /// The part of [`canonical`](Self::canonical) that a single run depends on.
    pub(super) fn settings(&self) -> serde_json::Value {
        let given =
            SETTINGS.iter().chain([&"control"]).filter_map(|&name| Some((name, self.get(name)?)));
        serde_json::json!(given.collect::<BTreeMap<&str, _>>())
    }

    fn check_top(&self) -> Result<(), ExperimentError> {
        let unknown = |key: &&String| !TOP.contains(&key.as_str()) && *key != EXTENDS;
        match self.sheet.table().keys().find(unknown) {
            Some(key) => {
                let known: Vec<String> =
                    TOP.iter().chain([&EXTENDS]).map(|&name| name.to_owned()).collect();
                Err(self.sheet.unknown(key, &known).into())
            }
            None => Ok(()),
        }
    }

    /// The error for a key that nothing reads, where these are known.
    pub(super) fn unknown(&self, key: &str, known: &[String]) -> ExperimentError {
        self.sheet.unknown(key, known).into()
    }
}

/// True if `key` names a setting that may be swept.
pub(super) fn is_setting(key: &str) -> bool {
    key.split_once('.').is_some_and(|(section, _)| SETTINGS.contains(&section))
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
