//! The public traces that experiments can name.

use crate::settings::Invalid;
use serde::Deserialize;
use std::sync::LazyLock;

/// A public trace of `traces/manifest.toml`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublicTrace {
    /// What experiments call it.
    pub name: String,
    /// Name of its file.
    pub file: String,
    /// Requests in it.
    pub rows: u32,
    /// SHA-256 of the file, hexadecimal; absent where it is not known here.
    pub sha256: Option<String>,
    /// Where to get it.
    pub upstream: String,
    /// The part of the upstream file that it is; all of it if absent.
    pub rows_of_upstream: Option<String>,
    /// Its licence, as an SPDX identifier.
    pub licence: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    trace: Vec<PublicTrace>,
}

static MANIFEST: LazyLock<Vec<PublicTrace>> = LazyLock::new(|| {
    let text = include_str!("../../../traces/manifest.toml");
    toml::from_str::<Manifest>(text).expect("the manifest in the program is right").trace
});

impl PublicTrace {
    /// All of them, in the order of the manifest.
    pub fn all() -> &'static [Self] {
        &MANIFEST
    }

    /// The trace called `name`.
    ///
    /// # Errors
    /// If there is none; the error lists the names, the nearest first.
    pub fn named(name: &str) -> Result<&'static Self, Invalid> {
        MANIFEST.iter().find(|trace| trace.name == name).ok_or_else(|| {
            let mut names: Vec<&str> = MANIFEST.iter().map(|trace| trace.name.as_str()).collect();
            names.sort_by_key(|known| strsim::damerau_levenshtein(known, name));
            let allowed = format!("{}; or give the file with path", names.join(", "));
            Invalid::new("trace", format!("{name:?}"), allowed)
        })
    }

    /// What to do to have it, as one line.
    pub(super) fn how_to_get(&self) -> String {
        let part = match &self.rows_of_upstream {
            None => String::new(),
            Some(rows) => format!(" (rows: {rows})"),
        };
        let Self { upstream, file, licence, rows, .. } = self;
        let known = match &self.sha256 {
            Some(sha256) => format!("SHA-256 {sha256}"),
            None => format!("{rows} rows"),
        };
        format!("download {upstream}{part} as {file}, {known}, licence {licence}")
    }
}
