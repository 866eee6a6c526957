//! Opens a trace file: its first bytes say what compressed it, and which format it
//! has.

use super::build::{Build, Turns};
use super::stamp::TimeUnit;
use super::{MOONCAKE_BLOCK_TOKENS, Trace, TraceError, TraceFormat, csv, formats, mooncake};
use crate::catalogue;
use crate::settings::Invalid;
use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::StreamingDecoder;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

const GZIP: &[u8] = &[0x1F, 0x8B];
const ZSTANDARD: &[u8] = &[0x28, 0xB5, 0x2F, 0xFD];
const BYTE_ORDER_MARK: &[u8] = "\u{FEFF}".as_bytes();

/// Bytes of a file that its format is recognised by.
pub(super) const HEAD_BYTES: usize = 1 << 16;
/// The longest row: more than a million ids. What is longer is no trace, and must
/// not fill the memory.
pub(super) const MAX_ROW_BYTES: usize = 1 << 24;

/// How a trace file is read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReadOptions {
    /// How its rows are written; the content says so unless given.
    pub format: Option<TraceFormat>,
    /// What its times count; the format says so unless given.
    pub time_unit: Option<TimeUnit>,
    /// Tokens that an id stands for.
    pub block_tokens: u32,
    /// Only the first rows.
    pub limit: Option<u32>,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self { format: None, time_unit: None, block_tokens: MOONCAKE_BLOCK_TOKENS, limit: None }
    }
}

pub(super) fn read(path: &Path, options: &ReadOptions) -> Result<Trace, TraceError> {
    let failed = |error: io::Error| TraceError::read(path, &error);
    let mut file = BufReader::with_capacity(HEAD_BYTES, catalogue::open(path).map_err(failed)?);
    let head = file.fill_buf().map_err(failed)?;
    if head.starts_with(GZIP) {
        return parse(path, MultiGzDecoder::new(file), options);
    }
    if head.starts_with(ZSTANDARD) {
        return parse(path, Frames::new(file).map_err(failed)?, options);
    }
    parse(path, file, options)
}

/// Parses `text`, the content of `path`.
pub(super) fn parse(
    path: &Path,
    mut text: impl Read,
    options: &ReadOptions,
) -> Result<Trace, TraceError> {
    let mut head = Vec::new();
    let read = text.by_ref().take(HEAD_BYTES as u64).read_to_end(&mut head);
    read.map_err(|error| TraceError::read(path, &error))?;
    let begin = if head.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
    let head = &head[begin..];
    let format = match options.format {
        Some(format) => format,
        None => formats::of_text(head)
            .map_err(|problem| TraceError::Format { path: path.to_owned(), problem })?,
    };
    let text = BufReader::with_capacity(HEAD_BYTES, head.chain(text));
    let build = |names, turns, unit| Build::new(path, names, options, (turns, unit));
    let is_json = matches!(format, TraceFormat::Mooncake | TraceFormat::MooncakeDelta);
    if let Some(unit) = options.time_unit.filter(|_| !is_json) {
        let allowed = "absent: the format of the file has its own";
        return Err(Invalid::new("time_unit", format!("\"{}\"", unit.symbol()), allowed).into());
    }
    match format {
        TraceFormat::Mooncake if options.format.is_none() => {
            mooncake::parse(path, text, build(&mooncake::NAMES, Turns::Unsaid, options.time_unit))
        }
        TraceFormat::Mooncake => {
            mooncake::parse(path, text, build(&mooncake::NAMES, Turns::Whole, options.time_unit))
        }
        TraceFormat::MooncakeDelta => mooncake::parse(
            path,
            text,
            build(&mooncake::NAMES, Turns::Increments, options.time_unit),
        ),
        TraceFormat::Azure => {
            csv::parse(path, text, format, build(&csv::AZURE, Turns::Whole, Some(TimeUnit::Ns)))
        }
        TraceFormat::Burstgpt => {
            csv::parse(path, text, format, build(&csv::BURSTGPT, Turns::Whole, Some(TimeUnit::S)))
        }
    }
}

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

/// The frames of a Zstandard file, one after another.
struct Frames<R: BufRead> {
    /// None once all is read.
    frame: Option<StreamingDecoder<R, ruzstd::decoding::FrameDecoder>>,
}

impl<R: BufRead> Frames<R> {
    fn new(source: R) -> io::Result<Self> {
        Ok(Self { frame: Some(StreamingDecoder::new(source).map_err(io::Error::other)?) })
    }
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(frame) = &mut self.frame {
            let read = frame.read(buffer)?;
            if read > 0 || buffer.is_empty() {
                return Ok(read);
            }
            let mut source = self.frame.take().expect("just seen").into_inner();
            if !source.fill_buf()?.is_empty() {
                self.frame = Some(StreamingDecoder::new(source).map_err(io::Error::other)?);
            }
        }
        Ok(0)
    }
}
