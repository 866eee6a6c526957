//! The bytes of a trace file: how many are looked at, and rows of bounded length.

use std::cell::Cell;
use std::io::{self, BufRead, Read};

/// Bytes of a file that its format is recognised by.
pub(super) const HEAD_BYTES: usize = 1 << 16;
/// The longest row: more than a million ids. What is longer is no trace, and must
/// not fill the memory.
pub(super) const MAX_ROW_BYTES: usize = 1 << 24;

/// Reads the next line into `line`, line break included; false at the end.
///
/// # Errors
/// If it cannot be read, or is longer than [`MAX_ROW_BYTES`].
pub(super) fn read_line(text: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    let read = text.take(MAX_ROW_BYTES as u64 + 1).read_until(b'\n', line)?;
    if read > MAX_ROW_BYTES { Err(too_long()) } else { Ok(read > 0) }
}

pub(super) fn too_long() -> io::Error {
    let mib = MAX_ROW_BYTES >> 20;
    io::Error::other(format!("a row is longer than {mib} MiB"))
}

/// A text that ends with an error where a row is too long: whoever reads rows sets the
/// count to 0 before each.
pub(super) struct Bounded<'a, R> {
    pub(super) text: R,
    pub(super) row_bytes: &'a Cell<usize>,
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.text.read(buffer)?;
        self.row_bytes.set(self.row_bytes.get() + read);
        if self.row_bytes.get() > MAX_ROW_BYTES { Err(too_long()) } else { Ok(read) }
    }
}
