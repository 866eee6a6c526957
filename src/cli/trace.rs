//! `sim trace`.

use super::{CliError, print};
use kv_router_sim::workload::trace::{
    Lengths, MOONCAKE_BLOCK_TOKENS, PublicTrace, Trace, TraceError, TraceStats,
};
use std::path::{Path, PathBuf};

/// Prints what a trace holds. `trace` is a file, or the name of a public trace,
/// which must then be the file of the manifest to the last byte.
pub(super) fn stats(trace: &str, traces: Option<&Path>) -> Result<(), CliError> {
    let file = file(trace, traces)?;
    let trace = Trace::read(&file, MOONCAKE_BLOCK_TOKENS, None)?;
    print(&lines(&TraceStats::of(&trace)))
}

/// The file meant: what exists comes first, then what the manifest names.
fn file(trace: &str, traces: Option<&Path>) -> Result<PathBuf, TraceError> {
    let path = Path::new(trace);
    // A name has neither folder nor ending; the rest can only be a missing file.
    if path.is_file() || path.extension().is_some() || path.components().count() > 1 {
        return Ok(path.to_owned());
    }
    let public = PublicTrace::named(trace)?;
    let file = public.find(&[traces.unwrap_or(Path::new("traces")).to_owned()])?;
    public.verify(&file)?;
    Ok(file)
}

/// One fact a line, with its unit.
fn lines(stats: &TraceStats) -> String {
    let range = |l: &Lengths| format!("mean {:.1}, min {}, max {}", l.mean, l.min, l.max);
    let rate = stats.requests_per_s.map_or("all at once".to_owned(), |r| format!("{r:.4}"));
    let facts = [
        ("requests", stats.rows.to_string()),
        ("duration (s)", format!("{:.3}", stats.duration_s)),
        ("requests per s", rate),
        ("input tokens", range(&stats.input_tokens)),
        ("output tokens", range(&stats.output_tokens)),
        ("tokens of a block", stats.block_tokens.to_string()),
        ("different blocks", stats.unique_blocks.to_string()),
        ("in several requests", stats.shared_blocks.to_string()),
        ("references to blocks", stats.references_blocks.to_string()),
        ("repeated references", stats.repeats_blocks.to_string()),
        ("hit ratio", format!("{:.4} with a cache that keeps everything", stats.hit_ratio)),
        ("hit ratio, mean", format!("{:.4} over requests", stats.hit_ratio_request_mean)),
    ];
    facts.iter().map(|(name, value)| format!("{name:<22}{value}\n")).collect()
}
