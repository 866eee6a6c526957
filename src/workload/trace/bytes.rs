//! The bytes of a trace file: how many are looked at, and rows of bounded length.

use super::TraceError;
use super::place::RowPlace;
use csv::{ReaderBuilder, StringRecord};
use std::cell::Cell;
use std::io::{self, BufRead, Read};
use std::path::Path;

/// Bytes of a file that its format is recognised by.
pub(super) const HEAD_BYTES: usize = 1 << 16;
/// The longest row: more than a million ids. What is longer is no trace, and must
/// not fill the memory.
pub(super) const MAX_ROW_BYTES: usize = 1 << 24;

/// Gives every line of `text` that is not blank, without its end, to `each`, until that says
/// that it is enough.
pub(super) fn each_line(
    path: &Path,
    mut text: impl BufRead,
    mut each: impl FnMut(&RowPlace<'_>, &[u8]) -> Result<bool, TraceError>,
) -> Result<(), TraceError> {
    let mut bytes = Vec::new();
    let mut place = RowPlace { path, line: 0 };
    loop {
        place.line += 1;
        if !read_line(&mut text, &mut bytes).map_err(|error| place.unread(&error))? {
            return Ok(());
        }
        let line = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        if !line.trim_ascii().is_empty() && !each(&place, line)? {
            return Ok(());
        }
    }
}

/// Gives every row of the CSV `text`, with what `find` makes of its header, to `each`, until
/// that says that it is enough.
pub(super) fn each_record<C>(
    path: &Path,
    text: impl Read,
    delimiter: u8,
    find: impl FnOnce(&StringRecord) -> Result<C, String>,
    mut each: impl FnMut(&RowPlace<'_>, &C, &StringRecord) -> Result<bool, TraceError>,
) -> Result<(), TraceError> {
    let row_bytes = Cell::new(0);
    let bounded = Bounded { text, row_bytes: &row_bytes };
    let mut reader = ReaderBuilder::new().delimiter(delimiter).from_reader(bounded);
    let failed = |error: csv::Error| failed(path, &error);
    let header = reader.headers().map_err(failed)?;
    let columns = find(header).map_err(|problem| RowPlace { path, line: 1 }.row(problem))?;
    let mut record = StringRecord::new();
    loop {
        row_bytes.set(0);
        if !reader.read_record(&mut record).map_err(failed)? {
            return Ok(());
        }
        let line = record.position().map_or(0, |at| usize::try_from(at.line()).unwrap_or(0));
        if !each(&RowPlace { path, line }, &columns, &record)? {
            return Ok(());
        }
    }
}

/// What the reader of CSV says, as an error of the row.
fn failed(path: &Path, error: &csv::Error) -> TraceError {
    let line = error.position().map_or(1, |at| usize::try_from(at.line()).unwrap_or(0));
    let place = RowPlace { path, line };
    match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            place.row(format!("{len} values in {expected_len} columns"))
        }
        csv::ErrorKind::Utf8 { .. } => place.row("not UTF-8 text"),
        csv::ErrorKind::Io(error) => place.unread(error),
        _ => place.row(error.to_string()),
    }
}

/// Reads the next line into `line`, line break included; false at the end.
///
/// # Errors
/// If it cannot be read, or is longer than [`MAX_ROW_BYTES`].
fn read_line(text: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    let read = text.take(MAX_ROW_BYTES as u64 + 1).read_until(b'\n', line)?;
    if read > MAX_ROW_BYTES { Err(too_long()) } else { Ok(read > 0) }
}

fn too_long() -> io::Error {
    let mib = MAX_ROW_BYTES >> 20;
    io::Error::other(format!("a row is longer than {mib} MiB"))
}

/// A text that ends with an error where a row is too long, once the count is set to 0 before
/// each row.
struct Bounded<'a, R> {
    text: R,
    row_bytes: &'a Cell<usize>,
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.text.read(buffer)?;
        self.row_bytes.set(self.row_bytes.get() + read);
        if self.row_bytes.get() > MAX_ROW_BYTES { Err(too_long()) } else { Ok(read) }
    }
}
