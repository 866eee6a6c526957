//! The objects of a JSON document, one at a time: those of a list, of a list inside of an
//! object, or one after another.

use super::super::TraceError;
use super::super::place::RowPlace;
use serde_json::{Map, Value};
use std::io::BufRead;
use std::path::Path;

type Object = Map<String, Value>;

/// The longest conversation (assumed: sixteen of the longest rows). What is longer must not
/// fill the memory.
const MAX_ELEMENT_BYTES: usize = 1 << 28;
/// What may stand before the list inside of an object.
const MAX_HEAD_BYTES: usize = 1 << 10;

/// Gives every object of `text` to `each` with the line where it begins, until that says
/// that it is enough. With `key` the document is an object that has the list under that
/// key and nothing else.
pub(super) fn each_element(
    path: &Path,
    mut text: impl BufRead,
    key: Option<&str>,
    mut each: impl FnMut(&RowPlace<'_>, &Object) -> Result<bool, TraceError>,
) -> Result<(), TraceError> {
    let mut scan = Scan {
        place: RowPlace { path, line: 1 },
        key,
        state: if key.is_some() { State::Head } else { State::Start },
        bytes: Vec::new(),
        begin: 1,
        depth: 0,
        in_text: false,
        is_escaped: false,
    };
    loop {
        let chunk = text.fill_buf().map_err(|error| scan.place.unread(&error))?;
        if chunk.is_empty() {
            return scan.end();
        }
        let len = chunk.len();
        for &byte in chunk {
            if let Some(object) = scan.take(byte)? {
                let place = RowPlace { path, line: scan.begin };
                if !each(&place, &object)? {
                    return Ok(());
                }
            }
        }
        text.consume(len);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before the list inside of an object.
    Head,
    /// Before a list, or an object of many.
    Start,
    /// Between objects, in a list or not.
    Between { in_list: bool },
    /// Inside of an object.
    Inside { in_list: bool },
    /// After the list.
    After,
}

struct Scan<'a> {
    place: RowPlace<'a>,
    key: Option<&'a str>,
    state: State,
    bytes: Vec<u8>,
    /// The line where the object begins.
    begin: usize,
    depth: u32,
    in_text: bool,
    is_escaped: bool,
}

impl Scan<'_> {
    /// Takes one byte; the object that it ends.
    fn take(&mut self, byte: u8) -> Result<Option<Object>, TraceError> {
        let is_blank = byte.is_ascii_whitespace();
        match self.state {
            State::Head if is_blank => {}
            State::Head => self.head(byte)?,
            State::Start | State::Between { .. } if is_blank => {}
            State::Start if byte == b'[' => self.state = State::Between { in_list: true },
            State::Between { in_list: true } if byte == b']' => self.state = State::After,
            State::Between { in_list: true } if byte == b',' => {}
            State::Start | State::Between { .. } if byte == b'{' => {
                let in_list = self.state == State::Between { in_list: true };
                self.state = State::Inside { in_list };
                self.begin = self.place.line;
                self.bytes.clear();
                self.bytes.push(byte);
                self.depth = 1;
            }
            State::Start | State::Between { .. } => {
                return Err(self.place.row("not an object: a conversation is one"));
            }
            State::Inside { in_list } => {
                if self.bytes.len() >= MAX_ELEMENT_BYTES {
                    let mib = MAX_ELEMENT_BYTES >> 20;
                    return Err(self.place.row(format!("a conversation of more than {mib} MiB")));
                }
                self.bytes.push(byte);
                if self.inside(byte) {
                    self.state = State::Between { in_list };
                    return self.object().map(Some);
                }
            }
            State::After if is_blank || (self.key.is_some() && byte == b'}') => {}
            State::After => return Err(self.place.row("something comes after the list")),
        }
        self.place.line += usize::from(byte == b'\n');
        Ok(None)
    }

    /// A byte before the list under the key.
    fn head(&mut self, byte: u8) -> Result<(), TraceError> {
        let key = self.key.unwrap_or_default();
        if byte == b'[' && self.bytes == format!("{{\"{key}\":").as_bytes() {
            self.state = State::Between { in_list: true };
            return Ok(());
        }
        self.bytes.push(byte);
        if byte == b'[' || self.bytes.len() > MAX_HEAD_BYTES {
            return Err(self.unlisted());
        }
        Ok(())
    }

    fn unlisted(&self) -> TraceError {
        let key = self.key.unwrap_or_default();
        self.place.row(format!("must begin with {{\"{key}\": [, and have nothing else beside it"))
    }

    /// True if a byte ends the object that it is in.
    fn inside(&mut self, byte: u8) -> bool {
        match byte {
            _ if self.is_escaped => self.is_escaped = false,
            b'\\' if self.in_text => self.is_escaped = true,
            b'"' => self.in_text = !self.in_text,
            b'{' | b'[' if !self.in_text => self.depth += 1,
            b'}' | b']' if !self.in_text => self.depth -= 1,
            _ => {}
        }
        self.depth == 0
    }

    fn object(&self) -> Result<Object, TraceError> {
        crate::json::object(&self.bytes).map_err(|error| {
            // It counts lines from where the object begins.
            let line = self.begin + error.line().saturating_sub(1);
            let text = error.to_string();
            let problem = text.split(" at line ").next().unwrap_or(&text);
            RowPlace { line, ..self.place }.row(format!("not a JSON object: {problem}"))
        })
    }

    /// The text is over.
    fn end(&self) -> Result<(), TraceError> {
        match self.state {
            State::Head => Err(self.unlisted()),
            State::Inside { .. } => {
                let place = RowPlace { line: self.begin, ..self.place };
                Err(place.row("the file ends inside of this conversation"))
            }
            State::Between { in_list: true } => {
                Err(self.place.row("the file ends inside of its list"))
            }
            State::Start | State::Between { in_list: false } | State::After => Ok(()),
        }
    }
}
