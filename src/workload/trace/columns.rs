//! Reads any CSV or JSON lines: [`Columns`] say which column is which.
//!
//! Logs are seldom written for a replay. Their rows come in the order in which
//! requests ended, so they are sorted by time; rows of other events, and of requests
//! that failed, have no tokens: they are left out and counted.

mod cells;

use super::build::{Build, Given, row_count};
use super::column_names::{Columns, PrefixTokens};
use super::dates::date_and_zone;
use super::names::Prefix;
use super::place::RowPlace;
use super::stamp::{Stamp, TimeUnit};
use super::{MAX_TIME, Trace, TraceError};
use crate::settings::Invalid;
use crate::time::SimDuration;
use crate::workload::MAX_TOKENS;
use cells::{Cells, read_cells};
use std::collections::BTreeMap;
use std::io::BufRead;
use std::path::Path;

/// A time as a log has it.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// Nanoseconds since 1970, and whether a zone is named.
    Date { ns: u64, is_zoned: bool },
    /// A number of something.
    Count(Stamp),
}

impl Moment {
    fn parse(text: &str) -> Option<Self> {
        let of_date = || date_and_zone(text).map(|(ns, is_zoned)| Self::Date { ns, is_zoned });
        Stamp::parse(text).map(Self::Count).or_else(of_date)
    }

    /// Nanoseconds, if it can be counted in `unit`.
    fn ns(self, unit: TimeUnit) -> Option<u64> {
        match self {
            Self::Date { ns, .. } => Some(ns),
            Self::Count(stamp) => unit.to_ns(stamp),
        }
    }

    /// Whether it names a zone; `None` of numbers.
    fn is_zoned(self) -> Option<bool> {
        match self {
            Self::Date { is_zoned, .. } => Some(is_zoned),
            Self::Count(_) => None,
        }
    }

    /// As messages show it.
    fn shown(self) -> String {
        match self {
            Self::Date { ns, .. } => format!("{ns} ns"),
            Self::Count(stamp) => stamp.to_string(),
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
    /// Whether dates name a zone.
    is_zoned: Option<bool>,
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
    if let Some(problem) = seen.lacks() {
        // A part of the file says nothing of the rest.
        if log.requests.len() < limit {
            return Err(TraceError::Format { path: path.to_owned(), problem });
        }
        build.notices(Some(format!("of the rows that were read, {problem}")));
    }
    let (unit, notice) = log.unit(columns, unit)?;
    build.notices(notice.into_iter().chain(seen.session_not_read(columns)));
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
        let at = moment(&columns.time)?.ok_or_else(|| {
            place.row(format!("column \"{}\" has no time: it is empty, null or NaN", columns.time))
        })?;
        let is_date = at.is_zoned().is_some();
        if *self.is_date.get_or_insert(is_date) != is_date {
            let text = cells.text(&columns.time).unwrap_or_default();
            let allowed = "a date in every row, or in none";
            return Err(place.field(&columns.time, text, allowed));
        }
        let end = columns.end.as_deref().map_or(Ok(None), moment)?;
        if end.is_some_and(|end| end.is_zoned().is_some() != is_date) {
            let name = columns.end.as_deref().unwrap_or_default();
            let kind = if is_date { "a date" } else { "a number" };
            let allowed = format!("{kind}, as column \"{}\" has", columns.time);
            return Err(place.field(name, cells.text(name).unwrap_or_default(), allowed));
        }
        let zones = at.is_zoned().into_iter().chain(end.and_then(Moment::is_zoned));
        for is_zoned in zones {
            if *self.is_zoned.get_or_insert(is_zoned) != is_zoned {
                let text = cells.text(&columns.time).unwrap_or_default();
                let allowed = "dates that all name a zone, or that all name none";
                return Err(place.field(&columns.time, text, allowed));
            }
        }
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
        row_count(place, self.requests.len())?;
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
            (Moment::Date { is_zoned, .. }, None) => {
                let notice = "its dates name no zone: read as UTC".to_owned();
                Ok((TimeUnit::Ns, (!is_zoned).then_some(notice)))
            }
            (Moment::Date { .. }, Some(unit)) => {
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
                place(logged.line).field(&columns.time, logged.at.shown(), allowed)
            })?;
            timed.push((at, logged));
        }
        if !timed.is_sorted_by_key(|(at, _)| *at) {
            timed.sort_by_key(|(at, _)| *at);
            build.notices(Some("its rows are not in order of time: sorted".to_owned()));
        }
        build.leave_out(self.left_out);
        let first = timed[0].0;
        let mut last_ends: Vec<Option<u64>> = vec![None; self.sessions.len()];
        let mut overlapping = 0u64;
        for (at, logged) in &timed {
            let place = place(logged.line);
            let since = SimDuration::from_ps((at - first).saturating_mul(1_000));
            if since > MAX_TIME || at - first > u64::MAX / 1_000 {
                let seen = format!("{} s after the first", (at - first) / 1_000_000_000);
                return Err(place.field(&columns.time, seen, "at most 100 days after the first"));
            }
            let last = logged.session.and_then(|session| last_ends[session as usize]);
            let delay = last.map(|last| Stamp::Whole(at.saturating_sub(last)));
            overlapping += u64::from(last.is_some_and(|last| *at < last));
            let given = Given {
                // After an answer whose end is known a turn waits as long as it did.
                timestamp: delay.is_none().then_some(Stamp::Whole(*at)),
                written: None,
                delay,
                input_tokens: logged.input_tokens,
                output_tokens: logged.output_tokens,
                max_tokens: None,
                hash_ids: logged.ids.as_deref(),
                prefix: logged.prefix,
                session: logged.session.map(|session| self.sessions[session as usize].as_str()),
                waits_for: None,
            };
            build.add(&place, given)?;
            let end = ended(&place, columns, unit, *at, logged.end)?;
            if let Some(session) = logged.session {
                last_ends[session as usize] = end;
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

/// When an answer had ended, in nanoseconds: not before `at`, when its request was sent.
fn ended(
    place: &RowPlace<'_>,
    columns: &Columns,
    unit: TimeUnit,
    at: u64,
    end: Option<Moment>,
) -> Result<Option<u64>, TraceError> {
    let Some(end) = end else { return Ok(None) };
    let name = columns.end.as_deref().unwrap_or_default();
    let Some(end) = end.ns(unit) else {
        let allowed = format!("smaller: it counts {}", unit.name());
        return Err(place.field(name, end.shown(), allowed));
    };
    if end < at {
        let allowed = format!(
            "not before column \"{}\": it is a moment, not how long the answer took",
            columns.time
        );
        let seen = format!("{} s before it", (at - end) as f64 / 1e9);
        return Err(place.field(name, seen, allowed));
    }
    Ok(Some(end))
}

/// The sum of the columns that `names` joins by `+`; `None` if none has a value.
fn sum(place: &RowPlace<'_>, names: &str, cells: &dyn Cells) -> Result<Option<u32>, TraceError> {
    let mut sum: Option<u64> = None;
    for name in names.split('+').map(str::trim) {
        let Some(text) = cells.text(name) else { continue };
        let value = tokens(&text).ok_or_else(|| {
            place.field(name, &text, format!("a whole number from 0 to {MAX_TOKENS}"))
        })?;
        sum = Some(sum.unwrap_or(0) + u64::from(value));
    }
    let Some(sum) = sum else { return Ok(None) };
    match u32::try_from(sum).ok().filter(|sum| *sum <= MAX_TOKENS) {
        None => Err(place.field(names, sum, format!("at most {MAX_TOKENS}"))),
        whole => Ok(whole),
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
