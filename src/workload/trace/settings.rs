//! What an experiment says of a trace.

use super::subset::validate_window;
use super::{
    Columns, MAX_BLOCK_TOKENS, MOONCAKE_BLOCK_TOKENS, Naming, PublicTrace, ReadOptions, Scaling,
    TimeUnit, Trace, TraceError, TraceFormat, validate_speedup,
};
use crate::settings::{self, Count, Invalid};
use crate::time::SimDuration;
use crate::workload::arrivals::ArrivalSettings;
use crate::workload::client::Client;
use crate::workload::{PatienceSettings, Priorities, validate_concurrency};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// A replay of a trace.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TraceSettings {
    /// A public trace by its name in the manifest; either this or `path`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
    /// A file, relative to the experiment file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// How its rows are written; told by the file unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<TraceFormat>,
    /// Which columns say what, of a CSV or JSON lines in none of the formats; beside
    /// `path`, in place of `format`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<Columns>,
    /// What makes tokens of its texts, where it holds texts: a `tokenizer.json`, relative
    /// to the experiment file. By the feature `texts`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<PathBuf>,
    /// What its ids name: blocks with all before them, unless given.
    #[serde(default, skip_serializing_if = "is_chained")]
    pub ids: Naming,
    /// What its times count; the format says so unless given: milliseconds in
    /// Mooncake's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_unit: Option<TimeUnit>,
    /// Times and delays are divided by this. Whole milliseconds stay such, as load
    /// generators do it (`int(timestamp / 4)`). 1 unless given.
    #[serde(default = "one")]
    pub speedup: f64,
    /// Only the first rows of the file; all unless given.
    #[serde(
        default,
        deserialize_with = "settings::count_option",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "Option<Count>")]
    pub limit: Option<u32>,
    /// Only sessions that begin at or after this time of the trace, before
    /// `speedup`; it is the replay's time zero.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<SimDuration>,
    /// Only what comes before this time of the trace, before `speedup`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<SimDuration>,
    /// Tokens that an id of the trace stands for, where its format does not say so; 512,
    /// Mooncake's, unless given.
    #[serde(default = "mooncake_block", deserialize_with = "settings::count")]
    #[schemars(with = "Count")]
    pub trace_block_tokens: u32,
    /// What is changed in the trace; nothing unless given.
    #[serde(default)]
    pub scaling: Scaling,
    /// When first turns come, in place of the timestamps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arrivals: Option<ArrivalSettings>,
    /// Clients of a closed loop, at first: each takes the next session of the trace
    /// when it is free. Timestamps do not count then, and neither does `arrivals`.
    #[serde(
        default,
        deserialize_with = "settings::count_option",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "Option<Count>")]
    pub concurrency: Option<u32>,
    /// The way of a request from its client to the router; no time unless given.
    #[serde(default, skip_serializing_if = "Client::is_default")]
    pub client: Client,
    /// When clients hang up; never unless given.
    #[serde(default, skip_serializing_if = "PatienceSettings::is_default")]
    pub patience: PatienceSettings,
    /// The priority of requests, lower ones first, where workers schedule by it; 0 unless
    /// given. A whole number, or a distribution that each conversation draws from.
    #[serde(default, skip_serializing_if = "Priorities::are_zero")]
    pub priority: Priorities,
}

fn one() -> f64 {
    1.0
}

fn is_chained(naming: &Naming) -> bool {
    *naming == Naming::Chained
}

fn mooncake_block() -> u32 {
    MOONCAKE_BLOCK_TOKENS
}

impl TraceSettings {
    /// Refuses settings that no trace can be replayed with.
    ///
    /// # Errors
    /// The first unusable key.
    pub fn validate(&self) -> Result<(), Invalid> {
        self.source()?;
        validate_speedup(self.speedup)?;
        if let Some(columns) = &self.columns {
            columns.validate_beside(self.format)?;
        }
        if let Some(limit) = self.limit {
            Invalid::unless(limit > 0, "limit", limit, "at least 1; leave it out for all rows")?;
        }
        self.scaling.validate().map_err(|invalid| invalid.within("scaling"))?;
        validate_window(self.start, self.end)?;
        self.client.validate().map_err(|invalid| invalid.within("client"))?;
        self.client.validate_open_loop()?;
        self.patience.validate().map_err(|invalid| invalid.within("patience"))?;
        self.priority.validate()?;
        if let Some(arrivals) = &self.arrivals {
            arrivals.validate().map_err(|invalid| invalid.within("arrivals"))?;
        }
        if let Some(concurrency) = self.concurrency {
            validate_concurrency(concurrency)?;
            let allowed = "absent beside arrivals: either clients are free or times have come";
            Invalid::unless(self.arrivals.is_none(), "concurrency", concurrency, allowed)?;
        }
        let tokens = self.trace_block_tokens;
        Invalid::unless(
            (1..=MAX_BLOCK_TOKENS).contains(&tokens),
            "trace_block_tokens",
            tokens,
            &format!("from 1 to {MAX_BLOCK_TOKENS}"),
        )
    }

    /// Reads the trace. Public ones are looked for in `trace_folders`, in that
    /// order; a `path` is relative to `experiment_folder`.
    ///
    /// # Errors
    /// If it is not there, or not a trace, or nothing of it is left.
    pub fn load(
        &self,
        experiment_folder: &Path,
        trace_folders: &[PathBuf],
    ) -> Result<Trace, TraceError> {
        let path = match self.source()? {
            Source::Public(trace) => trace.find(trace_folders)?,
            Source::Own(path) => experiment_folder.join(path),
        };
        let options = ReadOptions {
            format: self.format,
            columns: self.columns.clone(),
            tokenizer: self.tokenizer.as_ref().map(|file| experiment_folder.join(file)),
            naming: self.ids,
            time_unit: self.time_unit,
            block_tokens: self.trace_block_tokens,
            limit: self.limit,
        };
        let trace = Trace::read(&path, &options)?.within(self.start, self.end)?;
        let trace = self.scaling.apply(trace).map_err(|invalid| invalid.within("scaling"))?;
        Ok(trace)
    }

    /// Refuses replays of `trace` that would last too long.
    ///
    /// # Errors
    /// The first unusable key.
    pub fn validate_for(&self, trace: &Trace) -> Result<(), Invalid> {
        if let Some(arrivals) = &self.arrivals {
            let starts = trace.rows.iter().filter(|row| row.is_first()).count();
            let starts = u32::try_from(starts).unwrap_or(u32::MAX);
            arrivals.validate_count(starts).map_err(|invalid| invalid.within("arrivals"))?;
        }
        trace.validate_speedup(self.speedup)
    }

    /// True if both read the same rows: they differ in how they replay them.
    pub fn reads_as(&self, other: &Self) -> bool {
        let rows_of = |settings: &Self| Self {
            speedup: 1.0,
            arrivals: None,
            concurrency: None,
            client: Client::default(),
            patience: PatienceSettings::default(),
            priority: Priorities::default(),
            ..settings.clone()
        };
        rows_of(self) == rows_of(other)
    }
}

/// Which file to replay.
enum Source<'a> {
    Public(&'static PublicTrace),
    Own(&'a Path),
}

impl TraceSettings {
    fn source(&self) -> Result<Source<'_>, Invalid> {
        match (&self.trace, &self.path) {
            (Some(name), None) => PublicTrace::named(name).map(Source::Public),
            (None, Some(path)) => Ok(Source::Own(path)),
            (None, None) => {
                Err(Invalid::new("trace", "nothing", "the name of a public trace, or give path"))
            }
            (Some(name), Some(_)) => {
                Err(Invalid::new("trace", format!("{name:?}"), "absent beside path"))
            }
        }
    }
}
