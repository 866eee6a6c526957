//! Opens a trace file: its first bytes say what compressed it, and which format it
//! has.

use super::build::{Build, ReadOptions, Turns};
use super::bytes::HEAD_BYTES;
use super::formats::{AZURE, BURSTGPT, MOONCAKE, Names};
use super::ids::Naming;
use super::stamp::TimeUnit;
use super::{Trace, TraceError, TraceFormat, columns, csv, formats, json, mooncake, texts};
use crate::catalogue;
use crate::settings::Invalid;
use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::StreamingDecoder;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

const GZIP: &[u8] = &[0x1F, 0x8B];
const ZSTANDARD: &[u8] = &[0x28, 0xB5, 0x2F, 0xFD];
const BYTE_ORDER_MARK: &[u8] = "\u{FEFF}".as_bytes();

impl Trace {
    /// Reads a file, plain or compressed (gzip, Zstandard). Its first time is 0.
    ///
    /// # Errors
    /// If the file cannot be read, has no rows, has a format that is not read, or a
    /// row that breaks a rule of its format; the rest of the file is not looked at.
    pub fn read(path: &Path, options: &ReadOptions) -> Result<Self, TraceError> {
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
}

/// Parses `text`, the content of `path`.
pub(super) fn parse(
    path: &Path,
    mut text: impl Read,
    options: &ReadOptions,
) -> Result<Trace, TraceError> {
    if options.limit == Some(0) {
        return Err(Invalid::new("limit", 0, "at least 1; leave it out for all rows").into());
    }
    let mut head = Vec::new();
    let read = text.by_ref().take(HEAD_BYTES as u64).read_to_end(&mut head);
    read.map_err(|error| TraceError::read(path, &error))?;
    let begin = if head.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
    let head = &head[begin..];
    let without_tokenizer = || match &options.tokenizer {
        None => Ok(()),
        Some(tokenizer) => {
            let allowed = "absent: the file holds no texts";
            Err(Invalid::new("tokenizer", tokenizer.display(), allowed))
        }
    };
    if let Some(columns) = &options.columns {
        without_tokenizer()?;
        columns.validate_beside(options.format)?;
        let names =
            Names { timestamp: &columns.time, input: &columns.prompt, output: &columns.output };
        let build = Build::new(path, names, options, (Turns::Whole, Some(TimeUnit::Ns)));
        let text = BufReader::with_capacity(HEAD_BYTES, head.chain(text));
        return columns::parse(path, text, columns, options.time_unit, build);
    }
    let format = match options.format {
        Some(format) => format,
        None => formats::of_text(head)
            .map_err(|problem| TraceError::Format { path: path.to_owned(), problem })?,
    };
    let family = Family::of(format);
    if !matches!(family, Family::Texts(_)) {
        without_tokenizer()?;
    }
    let text = BufReader::with_capacity(HEAD_BYTES, head.chain(text));
    let build = |names, turns, unit| Build::new(path, names, options, (turns, unit));
    let has_unit = matches!(
        format,
        TraceFormat::Mooncake | TraceFormat::MooncakeDelta | TraceFormat::MooncakeAgentic
    );
    if let Some(unit) = options.time_unit.filter(|_| !has_unit) {
        let allowed = "absent: the format of the file has its own";
        return Err(Invalid::new("time_unit", format!("\"{}\"", unit.symbol()), allowed).into());
    }
    match family {
        Family::Mooncake(turns) => {
            let turns = if options.format.is_none() { Turns::Unsaid } else { turns };
            mooncake::parse(path, text, build(MOONCAKE, turns, options.time_unit))
        }
        Family::Graphs => {
            let build = build(MOONCAKE, Turns::Whole, Some(TimeUnit::Ns));
            json::parse(path, text, format, options.time_unit, build)
        }
        Family::Texts(turns) => {
            let tokenizer = options.tokenizer.as_deref().map(texts::Tokenizer::read).transpose()?;
            // Blocks are known by their own tokens.
            let options = ReadOptions { naming: Naming::Content, ..options.clone() };
            let build = Build::new(path, MOONCAKE, &options, (turns, Some(TimeUnit::Ms)));
            texts::parse(path, text, format, tokenizer.unwrap_or_default(), build)
        }
        Family::Csv(names, unit) => {
            csv::parse(path, text, format, build(names, Turns::Whole, Some(unit)))
        }
    }
}

/// Formats that one reader reads.
#[derive(Clone, Copy)]
enum Family {
    /// Mooncake's rows, with what later turns of a session have if the format is named.
    Mooncake(Turns),
    /// JSON lines whose requests wait for others.
    Graphs,
    /// Texts, which a tokenizer makes tokens of.
    Texts(Turns),
    /// Columns of these names, with times in this unit.
    Csv(Names<'static>, TimeUnit),
}

impl Family {
    const fn of(format: TraceFormat) -> Self {
        match format {
            TraceFormat::Mooncake => Self::Mooncake(Turns::Whole),
            TraceFormat::MooncakeDelta => Self::Mooncake(Turns::Increments),
            TraceFormat::MooncakeAgentic
            | TraceFormat::DynamoRequests
            | TraceFormat::Bailian
            | TraceFormat::AiperfProfile
            | TraceFormat::Weka => Self::Graphs,
            TraceFormat::AiperfMultiTurn => Self::Texts(Turns::Increments),
            TraceFormat::AiperfInputs | TraceFormat::Sharegpt | TraceFormat::VllmMultiTurn => {
                Self::Texts(Turns::Whole)
            }
            TraceFormat::Azure => Self::Csv(AZURE, TimeUnit::Ns),
            TraceFormat::Burstgpt => Self::Csv(BURSTGPT, TimeUnit::S),
        }
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
