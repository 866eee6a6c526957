//! Opens a trace file: what compressed it, and which format it has, are told by
//! its first bytes.

use super::{Trace, TraceError, TraceFormat, build::Build, csv, mooncake};
use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::StreamingDecoder;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

const GZIP: &[u8] = &[0x1F, 0x8B];
const ZSTANDARD: &[u8] = &[0x28, 0xB5, 0x2F, 0xFD];

pub(super) fn read(
    path: &Path,
    format: Option<TraceFormat>,
    block_tokens: u32,
    limit: Option<u32>,
) -> Result<Trace, TraceError> {
    let failed = |error: io::Error| TraceError::read(path, &error);
    let mut file = BufReader::new(File::open(path).map_err(failed)?);
    let head = file.fill_buf().map_err(failed)?;
    if head.starts_with(GZIP) {
        return parse(path, BufReader::new(MultiGzDecoder::new(file)), format, block_tokens, limit);
    }
    if head.starts_with(ZSTANDARD) {
        let frames = BufReader::new(Frames::new(file).map_err(failed)?);
        return parse(path, frames, format, block_tokens, limit);
    }
    parse(path, file, format, block_tokens, limit)
}

/// Parses up to `limit` rows of `text`, the content of `path`, whose ids stand
/// for `block_tokens` tokens each.
pub(super) fn parse(
    path: &Path,
    mut text: impl BufRead,
    format: Option<TraceFormat>,
    block_tokens: u32,
    limit: Option<u32>,
) -> Result<Trace, TraceError> {
    let head = text.fill_buf().map_err(|error| TraceError::read(path, &error))?;
    let format = format.unwrap_or_else(|| sniff(head));
    let build = Build::new(path, format, block_tokens, limit);
    match format {
        TraceFormat::Mooncake | TraceFormat::MooncakeDelta => mooncake::parse(path, text, build),
        TraceFormat::Azure => csv::parse(path, text, &csv::AZURE, format, build),
        TraceFormat::Burstgpt => csv::parse(path, text, &csv::BURSTGPT, format, build),
    }
}

/// The format of a text that begins with `head`.
fn sniff(head: &[u8]) -> TraceFormat {
    let first_line = head.trim_ascii_start().split(|byte| *byte == b'\n').next().unwrap_or(head);
    let has = |column: &str| first_line.windows(column.len()).any(|w| w == column.as_bytes());
    if first_line.starts_with(b"{") {
        TraceFormat::Mooncake
    } else if has(csv::AZURE.input) {
        TraceFormat::Azure
    } else if has(csv::BURSTGPT.input) {
        TraceFormat::Burstgpt
    } else {
        TraceFormat::Mooncake
    }
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
