//! Experiments that take over what another one says.
//!
//! The file that is extended is read first, whatever it extends itself
//! included; then the keys of the file at hand are put over its own, as `--set`
//! would. What is left is one document, whose keys know which file they came
//! from: paths stay relative to that one.

use super::Document;
use crate::catalogue::{self, Kind};
use crate::engine::settings::{put_over, rival};
use crate::experiment::error::ExperimentError;
use crate::settings::{is_inside, join, nearest};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use toml::Value;

/// The key that names the file.
pub(super) const EXTENDS: &str = "extends";

/// What every file says for itself.
const OWN: [&str; 2] = ["name", "description"];

/// Which file is extended; written as its path, or as a table.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Extends {
    /// A path relative to the file that says so, or the name of a shipped experiment.
    file: String,
    /// Dotted keys and sections that are not taken over.
    #[serde(default)]
    without: Vec<String>,
}

impl JsonSchema for Extends {
    fn schema_name() -> Cow<'static, str> {
        "Extends".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let file = "An experiment: a file relative to this one, or the name of a shipped one";
        json_schema!({
            "anyOf": [
                { "description": file, "type": "string" },
                {
                    "type": "object",
                    "properties": {
                        "file": { "description": file, "type": "string" },
                        "without": {
                            "description": "Dotted keys and sections that are not taken over",
                            "type": "array",
                            "items": { "type": "string" },
                        },
                    },
                    "required": ["file"],
                    "additionalProperties": false,
                },
            ]
        })
    }
}

impl Document {
    /// This document with what it extends under its own keys. `chain` are the
    /// files that lead here.
    pub(super) fn extended(mut self, chain: &[PathBuf]) -> Result<Self, ExperimentError> {
        let Some(written) = self.sheet.lift(EXTENDS) else { return Ok(self) };
        let Extends { file, without } = match &written {
            Value::String(file) => Extends { file: file.clone(), without: Vec::new() },
            Value::Table(table) => self.sheet.part(EXTENDS, table.clone()).read()?,
            other => {
                let allowed = "must be the path of an experiment, or { file = PATH, without = \
                               [KEYS] }";
                return Err(self.value_error(EXTENDS, other, allowed));
            }
        };
        let refused = |problem: &str| self.value_error(EXTENDS, &written, problem);
        let file = catalogue::find(Kind::Experiment, &file, self.folder())
            .map_err(|unknown| refused(&format!("cannot be read: {unknown}")))?;
        let chain = [chain, &[identity(&self.file)]].concat();
        if let Some(start) = chain.iter().position(|known| *known == identity(&file)) {
            let names = chain[start..].iter().chain([&chain[start]]);
            let names: Vec<_> = names.map(|path| path.display().to_string()).collect();
            return Err(refused(&format!("leads back to itself: {}", names.join(" -> "))));
        }
        let mut base = match Self::read_after(&file, &chain) {
            Err(ExperimentError::Unreadable { file, reason }) => {
                return Err(refused(&format!("{} cannot be read: {reason}", file.display())));
            }
            read => read?,
        };
        for (index, key) in without.iter().enumerate() {
            if !base.forget(key) {
                let hint =
                    nearest(key, base.sheet.keys()).map(|near| format!("; did you mean {near}?"));
                let problem =
                    format!("is no key of {}{}", file.display(), hint.unwrap_or_default());
                let at = format!("{EXTENDS}.without[{index}]");
                return Err(self.value_error(&at, &Value::String(key.clone()), &problem));
            }
        }
        for key in OWN {
            base.forget(key);
        }
        Ok(self.over(base))
    }

    /// Takes a dotted key or a section away; false if it is not there.
    fn forget(&mut self, key: &str) -> bool {
        let axes = self.sweep.len();
        self.sweep.retain(|(axis, _)| !is_inside(&join("sweep", axis), key));
        self.sheet.take(key).is_some() || self.sweep.len() < axes
    }

    /// This document's keys over those of `base`. A key that is given here and
    /// swept there is swept no more.
    fn over(self, mut base: Self) -> Self {
        let is_swept = |key: &str| self.sweep.iter().any(|(axis, _)| axis == key);
        base.sweep.retain(|(key, _)| is_swept(key) || self.get(key).is_none());
        let says = |key: &str| self.get(key).is_some() || is_swept(key);
        base.sweep
            .retain(|(key, _)| is_swept(key) || !rival(key).is_some_and(|rival| says(&rival)));
        for rival in self.sweep.iter().filter_map(|(axis, _)| rival(axis)) {
            base.sheet.take(&rival);
        }
        for (key, values) in self.sweep {
            match base.sweep.iter_mut().find(|(known, _)| *known == key) {
                Some((_, before)) => *before = values,
                None => base.sweep.push((key, values)),
            }
        }
        Self { sheet: put_over(self.sheet, base.sheet), sweep: base.sweep, ..self }
    }
}

/// The file itself, by whatever path it is reached.
fn identity(file: &Path) -> PathBuf {
    file.canonicalize().unwrap_or_else(|_| file.to_owned())
}
