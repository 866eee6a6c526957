//! The bytes of a trace file: how many are looked at, and rows of bounded length.

use super::TraceError;
use super::place::RowPlace;
use csv::{Position, ReaderBuilder, StringRecord};
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
    let mut reader = ReaderBuilder::new().delimiter(delimiter).from_reader(Rows::new(text));
    let header =
        reader.headers().cloned().map_err(|error| failed(path, reader.get_ref(), &error))?;
    let columns = find(&header).map_err(|problem| RowPlace { path, line: 1 }.row(problem))?;
    let mut record = StringRecord::new();
    loop {
        reader.get_mut().begin_row();
        let read = reader.read_record(&mut record);
        if !read.map_err(|error| failed(path, reader.get_ref(), &error))? {
            return Ok(());
        }
        let line = record.position().map_or(0, |at| {
            let rows = reader.get_mut();
            let line = rows.line(at);
            rows.forget_before(at);
            line
        });
        if !each(&RowPlace { path, line }, &columns, &record)? {
            return Ok(());
        }
    }
}

/// What the reader of CSV says, as an error of the row.
fn failed(path: &Path, rows: &Rows<impl Read>, error: &csv::Error) -> TraceError {
    let place = RowPlace { path, line: error.position().map_or(1, |at| rows.line(at)) };
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

/// The text of a CSV file, which ends with an error where a row is too long. It keeps what was
/// read from the current row on: the reader of CSV takes the line breaks before a row, the
/// second byte of CR LF and blank lines, for the beginning of the row.
struct Rows<R> {
    text: R,
    /// Bytes read since a row began.
    row_bytes: usize,
    kept: Vec<u8>,
    /// Where they begin in the text.
    from: u64,
}

impl<R: Read> Rows<R> {
    /// What is behind the reader goes in pieces of so many bytes.
    const PIECE: usize = HEAD_BYTES;

    fn new(text: R) -> Self {
        Self { text, row_bytes: 0, kept: Vec::new(), from: 0 }
    }

    /// To be called before each row.
    fn begin_row(&mut self) {
        self.row_bytes = 0;
    }

    fn index(&self, at: &Position) -> usize {
        let index = usize::try_from(at.byte().saturating_sub(self.from)).unwrap_or(usize::MAX);
        index.min(self.kept.len())
    }

    /// The line of a row that the reader says is `at`, from 1.
    fn line(&self, at: &Position) -> usize {
        let breaks = self.kept[self.index(at)..].iter().take_while(|byte| b"\r\n".contains(byte));
        let skipped = breaks.filter(|byte| **byte == b'\n').count();
        usize::try_from(at.line()).unwrap_or(0).saturating_add(skipped)
    }

    fn forget_before(&mut self, at: &Position) {
        let index = self.index(at);
        if index >= Self::PIECE {
            self.kept.drain(..index);
            self.from += index as u64;
        }
    }
}

impl<R: Read> Read for Rows<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.text.read(buffer)?;
        self.row_bytes += read;
        self.kept.extend_from_slice(&buffer[..read]);
        if self.row_bytes > MAX_ROW_BYTES { Err(too_long()) } else { Ok(read) }
    }
}
