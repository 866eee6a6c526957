//! Reads any CSV or JSON lines: which column is which is said by [`Columns`].
//!
//! Logs are seldom written for a replay. Their rows come in the order in which
//! requests ended, so they are sorted by time; rows of other events, and of requests
//! that failed, have no tokens: they are left out and counted.

mod cells;
mod dates;

use super::build::{Build, Given, RowPlace};
use super::names::Prefix;
use super::stamp::{Stamp, TimeUnit};
use super::{MAX_TIME, Trace, TraceError};
use crate::settings::{self, Invalid};
use crate::time::SimDuration;
use crate::workload::MAX_TOKENS;
use cells::{Cells, read_cells};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::BufRead;
use std::path::Path;
use std::str::FromStr;

pub(super) use dates::date;

/// Which columns of a CSV, or which keys of JSON lines, say what. Keys of objects in
/// objects are joined by dots: `usage.prompt_tokens`. Names are matched to the letter,
/// else without capitals, blanks and underscores.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Columns {
    /// When the request was sent: a number in `time_unit`, or a date.
    pub time: String,
    /// Tokens of its prompt; several columns are added: `"new + cached"`.
    pub prompt: String,
    /// Tokens of its answer; several columns are added.
    pub output: String,
    /// What requests of one conversation have in common; none have anything unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// When its answer had ended. With it a later turn of a session waits as long after
    /// the answer as it did; without, it comes at its own time, if the answer is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<String>,
    /// Ids of the blocks of the prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ids: Option<String>,
    /// What requests whose prompts begin with the same text have in common.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// How long that text is, or the column that says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix_tokens: Option<PrefixTokens>,
    /// Where the rows are inside a line of JSON: keys of lists, joined by dots. The line
    /// itself unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<String>,
}

/// The length of a text that prompts begin with.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum PrefixTokens {
    /// This many tokens.
    Tokens(u32),
    /// What this column says.
    Column(String),
}

impl Columns {
    /// Refuses columns that say nothing, or too little.
    ///
    /// # Errors
    /// The first unusable key.
    pub fn validate(&self) -> Result<(), Invalid> {
        for (key, name) in self.named() {
            let is_named = name.split('+').all(|part| !part.trim().is_empty());
            Invalid::unless(is_named, key, format!("{name:?}"), "the name of a column")?;
        }
        let (prefix, tokens) = (self.prefix.as_deref(), &self.prefix_tokens);
        let allowed = "given beside prefix: how many tokens its text has";
        let is_paired = prefix.is_some() == tokens.is_some();
        Invalid::unless(
            is_paired,
            "prefix_tokens",
            if tokens.is_some() { "given" } else { "nothing" },
            allowed,
        )?;
        if let Some(PrefixTokens::Tokens(tokens)) = tokens {
            let allowed = format!("from 1 to {MAX_TOKENS}");
            Invalid::unless((1..=MAX_TOKENS).contains(tokens), "prefix_tokens", tokens, &allowed)?;
        }
        let both = self.ids.is_some() && self.prefix.is_some();
        Invalid::unless(!both, "prefix", "given", "absent beside ids, which say what is shared")
    }

    /// The keys that are given, with the names of their columns.
    fn named(&self) -> Vec<(&'static str, &str)> {
        let optional = [
            ("session", &self.session),
            ("end", &self.end),
            ("ids", &self.ids),
            ("prefix", &self.prefix),
            ("rows", &self.rows),
        ];
        let mut named: Vec<(&'static str, &str)> =
            vec![("time", &self.time), ("prompt", &self.prompt), ("output", &self.output)];
        named.extend(optional.iter().filter_map(|(key, name)| Some((*key, name.as_deref()?))));
        if let Some(PrefixTokens::Column(name)) = &self.prefix_tokens {
            named.push(("prefix_tokens", name));
        }
        named
    }
}

/// Reads `time=ts,prompt=prompt_tokens,output=completion_tokens`: the keys of [`Columns`].
impl FromStr for Columns {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const KEYS: &str =
            "time, prompt, output, session, end, ids, prefix, prefix_tokens and rows";
        let mut table = toml::Table::new();
        for part in text.split(',') {
            let (key, name) = part
                .split_once('=')
                .ok_or_else(|| format!("{part:?}: must be KEY=COLUMN, with the keys {KEYS}"))?;
            let (key, name) = (key.trim(), name.trim());
            let tokens = settings::parse_count(name).ok().filter(|_| key == "prefix_tokens");
            let value = match tokens {
                Some(tokens) => toml::Value::Integer(tokens.into()),
                None => toml::Value::String(name.to_owned()),
            };
            if table.insert(key.to_owned(), value).is_some() {
                return Err(format!("{key} is given twice"));
            }
        }
        let columns: Self = table.try_into().map_err(|error: toml::de::Error| {
            let problem = error.message();
            match problem.starts_with("missing") {
                true => format!("{problem}: the keys are {KEYS}"),
                false => problem.to_owned(),
            }
        })?;
        columns.validate().map_err(|invalid| invalid.to_string())?;
        Ok(columns)
    }
}

/// A time as a log has it.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// Nanoseconds since 1970.
    Date(u64),
    /// A number of something.
    Count(Stamp),
}

impl Moment {
    fn parse(text: &str) -> Option<Self> {
        Stamp::parse(text).map(Self::Count).or_else(|| date(text).map(Self::Date))
    }

    /// Nanoseconds, if it can be counted in `unit`.
    fn ns(self, unit: TimeUnit) -> Option<u64> {
        match self {
            Self::Date(ns) => Some(ns),
            Self::Count(stamp) => unit.to_ns(stamp),
        }
    }
}

/// A request as a row of a log has it.
#[derive(Debug)]
struct Logged {
    line: usize,
    at: Moment,
    end: Option<Moment>,
    input_tokens: u32,
    output_tokens: u32,
    /// Place of its name among those of sessions.
    session: Option<u32>,
    prefix: Option<Prefix>,
    ids: Option<Vec<u64>>,
}

/// The requests of a log, as they are read.
#[derive(Default)]
struct Log {
    requests: Vec<Logged>,
    sessions: Vec<String>,
    session_of: BTreeMap<String, u32>,
    left_out: u64,
    is_date: Option<bool>,
}

/// Parses `text`, the content of `path`, by `columns`.
pub(super) fn parse(
    path: &Path,
    text: impl BufRead,
    columns: &Columns,
    unit: Option<TimeUnit>,
    mut build: Build<'_>,
) -> Result<Trace, TraceError> {
    let mut log = Log::default();
    let limit = build.limit();
    let seen = read_cells(path, text, columns, |place, cells| {
        log.add(place, columns, cells)?;
        Ok(log.requests.len() < limit)
    })?;
    if log.requests.is_empty() {
        return Err(seen.nothing(path, columns, log.left_out));
    }
    let (unit, notice) = log.unit(columns, unit)?;
    build.notices(notice);
    log.finish(path, columns, unit, build)
}

impl Log {
    fn add(
        &mut self,
        place: &RowPlace<'_>,
        columns: &Columns,
        cells: &dyn Cells,
    ) -> Result<(), TraceError> {
        let tokens = (sum(place, &columns.prompt, cells)?, sum(place, &columns.output, cells)?);
        let (Some(input_tokens), Some(output_tokens)) = tokens else {
            self.left_out += 1;
            return Ok(());
        };
        if input_tokens == 0 || output_tokens == 0 {
            self.left_out += 1;
            return Ok(());
        }
        let moment = |name: &str| -> Result<Option<Moment>, TraceError> {
            let Some(text) = cells.text(name) else { return Ok(None) };
            let allowed = "a number that is not negative, or a date like 2026-11-16T18:17:03.98Z";
            Moment::parse(&text).map(Some).ok_or_else(|| place.field(name, &text, allowed))
        };
        let at = moment(&columns.time)?
            .ok_or_else(|| place.row(format!("column \"{}\" is empty", columns.time)))?;
        let is_date = matches!(at, Moment::Date(_));
        if *self.is_date.get_or_insert(is_date) != is_date {
            let text = cells.text(&columns.time).unwrap_or_default();
            let allowed = "a date in every row, or in none";
            return Err(place.field(&columns.time, text, allowed));
        }
        let end = columns.end.as_deref().map_or(Ok(None), moment)?;
        let end = end.filter(|end| matches!(end, Moment::Date(_)) == is_date);
        let session = columns.session.as_deref().and_then(|name| cells.text(name));
        let prefix = match (&columns.prefix, &columns.prefix_tokens) {
            (Some(name), Some(tokens)) => match cells.text(name) {
                None => None,
                Some(text) => Some(Prefix::of(&text, prefix_tokens(place, tokens, cells)?)),
            },
            _ => None,
        };
        let ids = match &columns.ids {
            None => None,
            Some(name) => cells.ids(place, name)?,
        };
        let session = session.map(|name| self.session(name));
        let line = place.line;
        self.requests.push(Logged {
            line,
            at,
            end,
            input_tokens,
            output_tokens,
            session,
            prefix: prefix.filter(|prefix| prefix.tokens > 0),
            ids,
        });
        Ok(())
    }

    fn session(&mut self, name: String) -> u32 {
        let next = u32::try_from(self.sessions.len()).unwrap_or(u32::MAX);
        *self.session_of.entry(name).or_insert_with_key(|name| {
            self.sessions.push(name.clone());
            next
        })
    }

    /// What times count, and what was assumed.
    fn unit(
        &self,
        columns: &Columns,
        given: Option<TimeUnit>,
    ) -> Result<(TimeUnit, Option<String>), Invalid> {
        let first = self.requests[0].at;
        match (first, given) {
            (Moment::Date(_), None) => Ok((TimeUnit::Ns, None)),
            (Moment::Date(_), Some(unit)) => {
                let allowed = format!("absent: column {:?} has dates", columns.time);
                Err(Invalid::new("time_unit", format!("\"{}\"", unit.symbol()), allowed))
            }
            (Moment::Count(_), Some(unit)) => Ok((unit, None)),
            (Moment::Count(stamp), None) => match TimeUnit::of_epoch(stamp) {
                Some(unit) => {
                    let notice = format!("its times are dates in {}", unit.name());
                    Ok((unit, Some(notice)))
                }
                None => {
                    let allowed = format!(
                        "\"s\", \"ms\", \"us\" or \"ns\": nothing says what column {:?} counts, \
                         which begins with {stamp}",
                        columns.time
                    );
                    Err(Invalid::new("time_unit", "nothing", allowed))
                }
            },
        }
    }

    /// The trace, in order of time.
    fn finish(
        mut self,
        path: &Path,
        columns: &Columns,
        unit: TimeUnit,
        mut build: Build<'_>,
    ) -> Result<Trace, TraceError> {
        let place = |line| RowPlace { path, line };
        let mut timed = Vec::with_capacity(self.requests.len());
        for logged in self.requests.drain(..) {
            let at = logged.at.ns(unit).ok_or_else(|| {
                let allowed = format!("smaller: it counts {}", unit.name());
                place(logged.line).field(&columns.time, "too large", allowed)
            })?;
            timed.push((at, logged));
        }
        if !timed.is_sorted_by_key(|(at, _)| *at) {
            timed.sort_by_key(|(at, _)| *at);
            build.notices(Some("its rows are not in order of time: sorted".to_owned()));
        }
        (0..self.left_out).for_each(|_| build.leave_out());
        let first = timed[0].0;
        let mut ended: Vec<Option<u64>> = vec![None; self.sessions.len()];
        let mut overlapping = 0u64;
        for (at, logged) in &timed {
            let place = place(logged.line);
            let since = SimDuration::from_ps((at - first).saturating_mul(1_000));
            if since > MAX_TIME || at - first > u64::MAX / 1_000 {
                let seen = format!("{} s after the first", (at - first) / 1_000_000_000);
                return Err(place.field(&columns.time, seen, "at most 100 days after the first"));
            }
            let last = logged.session.and_then(|session| ended[session as usize]);
            let delay = last.map(|last| Stamp::Whole(at.saturating_sub(last)));
            overlapping += u64::from(last.is_some_and(|last| *at < last));
            let given = Given {
                // After an answer whose end is known a turn waits as long as it did.
                timestamp: delay.is_none().then_some(Stamp::Whole(*at)),
                written: None,
                delay,
                input_tokens: logged.input_tokens,
                output_tokens: logged.output_tokens,
                hash_ids: logged.ids.as_deref(),
                prefix: logged.prefix,
                session: logged.session.map(|session| self.sessions[session as usize].as_str()),
                waits_for: None,
            };
            build.add(&place, given)?;
            if let (Some(session), Some(end)) =
                (logged.session, logged.end.and_then(|end| end.ns(unit)))
            {
                ended[session as usize] = Some(end);
            }
        }
        if overlapping > 0 {
            build.notices(Some(format!(
                "{overlapping} of its rows came before the answer to the turn before: here they wait for it"
            )));
        }
        build.finish()
    }
}

/// The sum of the columns that `names` joins by `+`; `None` if none has a value.
fn sum(place: &RowPlace<'_>, names: &str, cells: &dyn Cells) -> Result<Option<u32>, TraceError> {
    let mut sum = None;
    for name in names.split('+').map(str::trim) {
        let Some(text) = cells.text(name) else { continue };
        let value = tokens(&text).ok_or_else(|| {
            place.field(name, &text, format!("a whole number from 0 to {MAX_TOKENS}"))
        })?;
        sum = Some(sum.unwrap_or(0) + value);
    }
    match sum {
        Some(sum) if sum > MAX_TOKENS => {
            Err(place.field(names, sum, format!("at most {MAX_TOKENS}")))
        }
        sum => Ok(sum),
    }
}

/// A whole number, also as other programs write it (`472.0`).
fn tokens(text: &str) -> Option<u32> {
    let whole = text.strip_suffix(".0").unwrap_or(text);
    whole.parse().ok().filter(|tokens| *tokens <= MAX_TOKENS)
}

fn prefix_tokens(
    place: &RowPlace<'_>,
    length: &PrefixTokens,
    cells: &dyn Cells,
) -> Result<u32, TraceError> {
    match length {
        PrefixTokens::Tokens(tokens) => Ok(*tokens),
        PrefixTokens::Column(name) => Ok(sum(place, name, cells)?.unwrap_or(0)),
    }
}
