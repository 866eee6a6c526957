//! Rows of CSV and of JSON lines behind one interface: the value of a column by name.

use super::super::TraceError;
use super::super::bytes::{each_line, each_record};
use super::super::column_names::Columns;
use super::super::csv::is_like_session;
use super::super::formats::plain;
use super::super::ids::hash_id;
use super::super::place::RowPlace;
use csv::StringRecord;
use serde_json::{Map, Value};
use std::cell::Cell;
use std::io::BufRead;
use std::path::Path;

/// A row of a log.
pub(super) trait Cells {
    /// What column `name` says, if it says something.
    fn text(&self, name: &str) -> Option<String>;

    /// The ids in column `name`.
    ///
    /// # Errors
    /// If they are none.
    fn ids(&self, place: &RowPlace<'_>, name: &str) -> Result<Option<Vec<u64>>, TraceError> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let parts = text.split([' ', ',', ';', '|', '[', ']', '"', '\'']);
        let ids: Vec<u64> = parts.filter(|part| !part.is_empty()).map(hash_id).collect();
        if ids.is_empty() && !text.trim().is_empty() && text.trim() != "[]" {
            return Err(place.field(name, text, "a list of ids"));
        }
        Ok((!ids.is_empty()).then_some(ids))
    }
}

/// What a log was seen to have, for messages.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Its columns, or the keys of its rows, up to [`MOST_NAMES`].
    names: Vec<String>,
    /// Columns that no row has.
    missing: Vec<String>,
    rows: u64,
}

/// Keys of rows that messages show (assumed).
const MOST_NAMES: usize = 40;

impl Seen {
    /// What is said of a column that no row has, which is a misspelt one.
    pub(super) fn lacks(&self) -> Option<String> {
        let name = self.missing.first()?;
        Some(format!("no row has column \"{name}\": the columns are {}", self.names.join(", ")))
    }

    /// What is said of a column that looks like that of sessions where none is named.
    pub(super) fn session_not_read(&self, columns: &Columns) -> Option<String> {
        let read = columns.named();
        let is_read = |name: &str| {
            let parts = read.iter().flat_map(|(_, joined)| joined.split('+'));
            parts.map(plain).any(|part| part == plain(name))
        };
        let like = self.names.iter().find(|name| is_like_session(name) && !is_read(name));
        let name = like.filter(|_| columns.session.is_none())?;
        Some(format!(
            "column \"{name}\" is not read: name it as session if it says which requests are \
             turns of one conversation"
        ))
    }

    /// Why `path` has no request.
    pub(super) fn nothing(&self, path: &Path, columns: &Columns, left_out: u64) -> TraceError {
        if self.rows == 0 {
            return TraceError::Empty { path: path.to_owned() };
        }
        let problem = format!(
            "none of {left_out} rows has tokens in {:?} and {:?}; the columns are {}",
            columns.prompt,
            columns.output,
            self.names.join(", ")
        );
        TraceError::Format { path: path.to_owned(), problem }
    }
}

/// Gives every row of `text` to `each`, until that says that it is enough.
pub(super) fn read_cells(
    path: &Path,
    mut text: impl BufRead,
    columns: &Columns,
    mut each: impl FnMut(&RowPlace<'_>, &dyn Cells) -> Result<bool, TraceError>,
) -> Result<Seen, TraceError> {
    let head = text.fill_buf().map_err(|error| TraceError::read(path, &error))?;
    if head.is_empty() {
        return Err(TraceError::Empty { path: path.to_owned() });
    }
    match head.trim_ascii_start() {
        [b'{', ..] => of_json(path, text, columns, &mut each),
        [b'[', ..] => {
            let problem = "one list of rows: write a row a line (jq -c '.[]')".to_owned();
            Err(TraceError::Format { path: path.to_owned(), problem })
        }
        head => {
            let line = head.split(|byte| *byte == b'\n').next().unwrap_or(head);
            let of = |wanted: u8| line.iter().filter(|byte| **byte == wanted).count();
            let delimiter = *b",;\t|".iter().rev().max_by_key(|byte| of(**byte)).unwrap_or(&b',');
            if columns.rows.is_some() {
                let problem = "rows names lists inside lines of JSON; this is no JSON".to_owned();
                return Err(TraceError::Format { path: path.to_owned(), problem });
            }
            of_csv(path, text, delimiter, columns, &mut each)
        }
    }
}

type Each<'a> = dyn FnMut(&RowPlace<'_>, &dyn Cells) -> Result<bool, TraceError> + 'a;

/// A row of a CSV.
struct CsvRow<'a> {
    record: &'a StringRecord,
    /// Names of columns as settings write them, and their places.
    places: &'a [(String, usize)],
}

impl Cells for CsvRow<'_> {
    fn text(&self, name: &str) -> Option<String> {
        let (_, at) = self.places.iter().find(|(known, _)| known == name)?;
        let text = self.record.get(*at)?.trim();
        let is_some = !text.is_empty() && !["null", "NaN", "nan", "None"].contains(&text);
        is_some.then(|| text.to_owned())
    }
}

fn of_csv(
    path: &Path,
    text: impl BufRead,
    delimiter: u8,
    columns: &Columns,
    each: &mut Each<'_>,
) -> Result<Seen, TraceError> {
    let mut seen = Seen::default();
    let find = |header: &StringRecord| {
        let names: Vec<String> = header.iter().map(|name| name.trim().to_owned()).collect();
        let mut places = Vec::new();
        for (_, joined) in columns.named() {
            for name in joined.split('+').map(str::trim) {
                places.push((name.to_owned(), place_of(&names, name)?));
            }
        }
        seen.names = names;
        Ok(places)
    };
    each_record(path, text, delimiter, find, |place, places: &Vec<_>, record| {
        seen.rows += 1;
        each(place, &CsvRow { record, places })
    })?;
    Ok(seen)
}

/// Where the column `name` is: to the letter, else without regard to capitals, blanks and
/// underscores.
fn place_of(names: &[String], name: &str) -> Result<usize, String> {
    let mut same = (0..names.len()).filter(|&at| names[at] == name);
    match (same.next(), same.next()) {
        (Some(_), Some(_)) => {
            return Err(format!(
                "there are two columns \"{name}\": rename the one that is not meant"
            ));
        }
        (Some(at), None) => return Ok(at),
        _ => {}
    }
    let like: Vec<usize> =
        (0..names.len()).filter(|&at| plain(&names[at]) == plain(name)).collect();
    match like[..] {
        [at] => Ok(at),
        [] => Err(format!("column \"{name}\" is missing: the columns are {}", names.join(", "))),
        [one, other, ..] => Err(unclear(name, &names[one], &names[other])),
    }
}

fn unclear(name: &str, one: &str, other: &str) -> String {
    format!("column \"{name}\" may be \"{one}\" or \"{other}\": write it as the file does")
}

/// A row of JSON.
struct JsonRow<'a> {
    object: &'a Map<String, Value>,
    /// Why a name could not be looked up.
    unclear: &'a Cell<Option<String>>,
}

impl Cells for JsonRow<'_> {
    fn text(&self, name: &str) -> Option<String> {
        match find(self.object, name) {
            Ok(value) => text_of(value?),
            Err(problem) => {
                self.unclear.set(Some(problem));
                None
            }
        }
    }
}

/// What a value says in words; of a list, its parts.
fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) if text.trim().is_empty() => None,
        Value::String(text) => Some(text.trim().to_owned()),
        Value::Array(parts) => {
            let parts: Vec<String> = parts.iter().filter_map(text_of).collect();
            Some(parts.join(" "))
        }
        // OpenTelemetry's { "intValue": "12" } and Dynamo's { "value": 12, "unit": "ms" }.
        Value::Object(fields) => {
            let value = ["intValue", "stringValue", "doubleValue", "value"]
                .into_iter()
                .find_map(|key| fields.get(key))?;
            text_of(value)
        }
        other => Some(other.to_string()),
    }
}

/// The value of `name`: a key, or keys joined by dots. A list of `key` and `value`, as
/// OpenTelemetry has attributes, is as an object.
///
/// # Errors
/// If several keys are alike, and none is the name.
fn find<'a>(row: &'a Map<String, Value>, name: &str) -> Result<Option<&'a Value>, String> {
    if let Some(value) = row.get(name) {
        return Ok(Some(value));
    }
    let dots = name.match_indices('.').map(|(at, _)| at).collect::<Vec<_>>();
    for at in dots.into_iter().rev() {
        let (key, rest) = (&name[..at], &name[at + 1..]);
        let found = match row.get(key) {
            Some(Value::Object(inner)) => find(inner, rest)?,
            Some(Value::Array(pairs)) => pairs.iter().find_map(|pair| {
                let is_it = pair.get("key").and_then(Value::as_str) == Some(rest);
                pair.get("value").filter(|_| is_it)
            }),
            _ => None,
        };
        if found.is_some() {
            return Ok(found);
        }
    }
    let mut like = row.iter().filter(|(key, _)| plain(key) == plain(name));
    match (like.next(), like.next()) {
        (Some((one, _)), Some((other, _))) => Err(unclear(name, one, other)),
        (found, _) => Ok(found.map(|(_, value)| value)),
    }
}

fn of_json(
    path: &Path,
    text: impl BufRead,
    columns: &Columns,
    each: &mut Each<'_>,
) -> Result<Seen, TraceError> {
    let mut seen = Seen::default();
    let named = columns.named().into_iter().filter(|(key, _)| *key != "rows");
    let parts = named.flat_map(|(_, joined)| joined.split('+').map(str::trim));
    seen.missing = parts.map(str::to_owned).collect();
    let unclear = Cell::new(None);
    each_line(path, text, |place, line| {
        let value = crate::json::value(line.trim_ascii())
            .map_err(|error| place.row(format!("not a JSON object: {error}")))?;
        let mut goes_on = Ok(true);
        let path_in = columns.rows.as_deref().map(|rows| rows.split('.').collect::<Vec<_>>());
        walk(&value, path_in.as_deref().unwrap_or(&[]), &mut |row| {
            if !matches!(goes_on, Ok(true)) {
                return;
            }
            if !seen.missing.is_empty() || seen.rows == 0 {
                for key in row.keys() {
                    if seen.names.len() < MOST_NAMES && !seen.names.contains(key) {
                        seen.names.push(key.clone());
                    }
                }
                seen.missing.retain(|name| matches!(find(row, name), Ok(None)));
            }
            seen.rows += 1;
            goes_on = each(place, &JsonRow { object: row, unclear: &unclear });
            if let Some(problem) = unclear.take() {
                goes_on = Err(place.row(problem));
            }
        });
        if !value.is_object() {
            return Err(place.row("not a JSON object"));
        }
        goes_on
    })?;
    Ok(seen)
}

/// Gives every object at the end of `path`, through lists, to `each`.
fn walk(value: &Value, path: &[&str], each: &mut dyn FnMut(&Map<String, Value>)) {
    match (value, path) {
        (Value::Array(parts), _) => parts.iter().for_each(|part| walk(part, path, each)),
        (Value::Object(row), []) => each(row),
        (Value::Object(row), [key, rest @ ..]) => {
            if let Some(inner) = row.get(*key) {
                walk(inner, rest, each);
            }
        }
        _ => {}
    }
}
