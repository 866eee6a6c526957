//! Writes a trace in Mooncake's format.

use super::Trace;
use crate::id::BlockId;
use crate::request::BlockRun;
use crate::time::SimDuration;
use flate2::Compression;
use flate2::write::GzEncoder;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

/// `trace` as a file that is called `name`: JSON lines, compressed if the name
/// ends with `.gz` or `.zst`. Later turns of sessions have whole prompts. The
/// format has whole milliseconds: fractions are cut off.
pub fn to_file(trace: &Trace, name: &Path) -> Vec<u8> {
    let text = lines(trace);
    match name.extension().and_then(|ending| ending.to_str()) {
        Some("gz") => gzip(&text),
        Some("zst") => compress_to_vec(text.as_bytes(), CompressionLevel::Fastest),
        _ => text.into_bytes(),
    }
}

/// Without a name or a time in it: the same trace gives the same bytes.
fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(text.as_bytes()).expect("memory takes every byte");
    encoder.finish().expect("memory takes every byte")
}

/// One JSON object a row, as Mooncake writes them.
pub(super) fn lines(trace: &Trace) -> String {
    let has_sessions = trace.has_sessions();
    let mut ids = PlainIds::new(trace);
    let mut text = String::new();
    for (i, row) in trace.rows().iter().enumerate() {
        text.push('{');
        if has_sessions {
            write!(text, "\"session_id\": \"{}\", ", row.session).expect("text takes everything");
        }
        let (at, delay) = (whole_ms(row.at), whole_ms(row.delay));
        if row.turn == 0 || at > 0 {
            write!(text, "\"timestamp\": {at}, ").expect("text takes everything");
        }
        if delay > 0 {
            write!(text, "\"delay\": {delay}, ").expect("text takes everything");
        }
        let (input, output) = (row.input_tokens, row.output_tokens);
        write!(text, "\"input_length\": {input}, \"output_length\": {output}")
            .expect("text takes everything");
        if !trace.runs(i).is_empty() {
            text.push_str(", \"hash_ids\": [");
            for (n, block) in trace.blocks(i).enumerate() {
                let comma = if n > 0 { ", " } else { "" };
                let id = ids.of(block);
                write!(text, "{comma}{id}").expect("text takes everything");
            }
            text.push(']');
        }
        text.push_str("}\n");
    }
    text
}

fn whole_ms(time: SimDuration) -> u64 {
    time.as_ps() / 1_000_000_000
}

/// The ids of a trace, and others for blocks that it has no id for.
struct PlainIds {
    /// Those given to blocks without.
    given: BTreeMap<BlockId, u64>,
    next: u64,
}

impl PlainIds {
    fn new(trace: &Trace) -> Self {
        let after = |run: &BlockRun| run.first.0 + u64::from(run.len);
        Self { given: BTreeMap::new(), next: trace.runs.iter().map(after).max().unwrap_or(0) }
    }

    fn of(&mut self, block: BlockId) -> u64 {
        if block.0 >> 63 == 0 {
            return block.0;
        }
        *self.given.entry(block).or_insert_with(|| {
            self.next += 1;
            self.next - 1
        })
    }
}
