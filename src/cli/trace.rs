//! `sim trace`: what a trace holds, other forms of it, look-alikes, and workloads fitted to it.

mod fit;

use super::args::Format;
use super::error::CliError;
use super::place::check_free;
use super::talk::{note, print, say};
use clap::{Subcommand, ValueEnum};
use kv_router_sim::experiment::{is_stream, write_file};
use kv_router_sim::report::render::save;
use kv_router_sim::settings::{Invalid, parse_duration};
use kv_router_sim::time::SimDuration;
use kv_router_sim::workload::trace::{
    Columns, Fit, FitOptions, Found, Lengths, Lookalike, MOONCAKE_BLOCK_TOKENS, Naming,
    PublicTrace, ReadOptions, ReuseDistances, Scaling, Target, TimeUnit, Trace, TraceError,
    TraceFormat, TraceStats, to_file_as,
};
use std::path::{Path, PathBuf};

#[derive(Debug, Subcommand)]
pub(crate) enum TraceCommand {
    /// Describe a trace: requests, tokens, shared blocks, how soon they are reused
    #[command(after_help = "\
Examples:
  sim trace stats lookalike-conversation
  sim trace stats lookalike-conversation --limit 1000 --format json

sim looks for public traces by name in the folder that SIM_TRACES names; lookalike-conversation
comes with sim.")]
    Stats {
        #[command(flatten)]
        source: SourceArgs,
        /// Output format
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Write a trace in another format, optionally scaled or without names
    #[command(after_help = "\
Examples:
  sim trace convert lookalike-conversation half.jsonl.zst --limit 1000 --speedup 2
  sim trace convert half.jsonl.zst half.jsonl
  sim trace convert half.jsonl.zst shareable.jsonl --anonymise
  sim trace convert half.jsonl half.csv --to azure
  sim trace convert lookalike-conversation five-minutes.jsonl --start 2min --end 7min
  sim trace convert lookalike-conversation long.jsonl.gz --prefix-len-multiplier 2 --max-isl 40960

A name that ends with .gz or .zst compresses the file.")]
    Convert {
        #[command(flatten)]
        source: SourceArgs,
        /// The file to write
        #[arg(value_name = "OUT")]
        out: PathBuf,
        /// Format to write
        #[arg(long, value_enum, value_name = "FORMAT", default_value = "mooncake")]
        to: To,
        /// Drop names and exact times: blocks are numbered as they come, times keep whole seconds
        #[arg(long)]
        anonymise: bool,
        /// Divide times and delays by this
        #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
        speedup: f64,
        #[command(flatten)]
        scaling: ScalingArgs,
        /// Replace OUT if it is there
        #[arg(long)]
        force: bool,
    },
    /// Write a look-alike of a trace: sessions drawn from it, with new block ids
    #[command(after_help = "\
Examples:
  sim trace synth lookalike-conversation another.jsonl.zst --seed 7
  sim trace synth lookalike-conversation small.jsonl --limit 500
  sim trace synth small.jsonl twice-as-long.jsonl --requests 1000")]
    Synth {
        #[command(flatten)]
        source: SourceArgs,
        /// The file to write
        #[arg(value_name = "OUT")]
        out: PathBuf,
        /// Requests to write [default: as many as the trace has]
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..4_000_000_000))]
        requests: Option<u32>,
        /// Seed of the draws
        #[arg(long, value_name = "N", default_value_t = 1)]
        seed: u64,
        /// Replace OUT if it is there
        #[arg(long)]
        force: bool,
    },
    /// Fit a workload of sessions to a log, for loads that were never seen
    #[command(after_help = "\
Examples:
  sim trace fit lookalike-conversation --extends mooncake-conversation-8w --out my-load.toml
  sim run my-load.toml --set workload.arrivals.rate=1.5
  sim trace fit lookalike-conversation --hold-out

The file is an experiment: what --extends names, with this load. Errors of the fit are printed,
and stand in it.")]
    Fit {
        #[command(flatten)]
        source: SourceArgs,
        /// The experiment to write
        #[arg(long, value_name = "FILE", required_unless_present = "hold_out")]
        out: Option<PathBuf>,
        /// Replace the file that --out names
        #[arg(long, requires = "out")]
        force: bool,
        /// The experiment whose fleet and router serve the load, a file or a name
        #[arg(long, value_name = "EXPERIMENT", requires = "out")]
        extends: Option<String>,
        /// One rate of sessions all the time, also if that of the log changes
        #[arg(long)]
        steady: bool,
        /// Fit to the first half of the log only, and compare with the second
        #[arg(long)]
        hold_out: bool,
        /// Output format
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
}

// No doc comments on these two: they would become the help of the commands that have them.
#[derive(Debug, clap::Args)]
pub(crate) struct SourceArgs {
    /// A trace file, plain or compressed with gzip or Zstandard, or the name of a public trace
    #[arg(value_name = "FILE|NAME")]
    trace: String,
    /// Format of its rows [default: recognised from the file]
    #[arg(long = "as", value_enum, value_name = "FORMAT")]
    rows: Option<Rows>,
    /// Which columns say what, of a file in no known format: KEY=COLUMN, joined by commas,
    /// with the keys time, prompt, output, session, end, ids, prefix, prefix_tokens, rows
    #[arg(long, value_name = "KEY=COLUMN,...", conflicts_with = "rows")]
    columns: Option<Columns>,
    /// What makes tokens of the texts of a file that holds texts: a tokenizer.json
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// What block ids name
    #[arg(long, value_enum, value_name = "WHAT", default_value = "chained")]
    ids: Ids,
    /// Read only the first rows
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Tokens per block id
    #[arg(long, value_name = "N", default_value_t = MOONCAKE_BLOCK_TOKENS,
        value_parser = clap::value_parser!(u32).range(1..=2048))]
    block_tokens: u32,
    /// Unit of its times [default: recognised from the file; ms in Mooncake's format]
    #[arg(long, value_enum, value_name = "UNIT")]
    time_unit: Option<Unit>,
    /// Only sessions that begin at or after this time of the trace, which becomes 0
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    start: Option<SimDuration>,
    /// Only what comes before this time of the trace
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    end: Option<SimDuration>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ScalingArgs {
    /// Factor for the blocks of every shared prefix
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    prefix_len_multiplier: f64,
    /// Copies of the shared prefixes, of which each request draws one
    #[arg(long, value_name = "N", default_value_t = 1)]
    prefix_root_multiplier: u32,
    /// Factor for the tokens of a prompt after its shared prefix
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    prompt_len_multiplier: f64,
    /// Leave out requests with prompts above this many tokens
    #[arg(long, value_name = "N")]
    max_isl: Option<u32>,
}

/// How rows are written
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Rows {
    /// JSON lines; later turns of a session have their whole prompts
    Mooncake,
    /// JSON lines; later turns of a session have only what is new
    MooncakeDelta,
    /// JSON lines; requests name those that they wait for
    MooncakeAgentic,
    /// Dynamo's request traces (dynamo.request.trace.v1)
    DynamoRequests,
    /// Alibaba's traces of Bailian (Qwen)
    Bailian,
    /// The requests of an AIPerf run (profile_export.jsonl)
    AiperfProfile,
    /// WEKA's conversations of agents, one a line
    Weka,
    /// The requests of an AIPerf run as they were sent (inputs.json)
    AiperfInputs,
    /// Sessions of turns as text for AIPerf, one a line
    AiperfMultiTurn,
    /// Conversations as text, of from and value
    Sharegpt,
    /// Conversations as text, of role and content
    VllmMultiTurn,
    /// CSV of Azure's LLM inference traces
    Azure,
    /// CSV of BurstGPT
    Burstgpt,
}

impl From<Rows> for TraceFormat {
    fn from(rows: Rows) -> Self {
        match rows {
            Rows::Mooncake => Self::Mooncake,
            Rows::MooncakeDelta => Self::MooncakeDelta,
            Rows::MooncakeAgentic => Self::MooncakeAgentic,
            Rows::DynamoRequests => Self::DynamoRequests,
            Rows::Bailian => Self::Bailian,
            Rows::AiperfProfile => Self::AiperfProfile,
            Rows::Weka => Self::Weka,
            Rows::AiperfInputs => Self::AiperfInputs,
            Rows::AiperfMultiTurn => Self::AiperfMultiTurn,
            Rows::Sharegpt => Self::Sharegpt,
            Rows::VllmMultiTurn => Self::VllmMultiTurn,
            Rows::Azure => Self::Azure,
            Rows::Burstgpt => Self::Burstgpt,
        }
    }
}

/// What a trace is written as
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum To {
    /// JSON lines, with request_id and wait_for where requests wait for more than one
    Mooncake,
    /// JSON lines with chat_id and parent_chat_id, ids for 16 tokens each
    Bailian,
    /// CSV of Azure's LLM inference traces
    Azure,
    /// CSV of BurstGPT with sessions
    Burstgpt,
}

impl From<To> for Target {
    fn from(to: To) -> Self {
        match to {
            To::Mooncake => Self::Mooncake,
            To::Bailian => Self::Bailian,
            To::Azure => Self::Azure,
            To::Burstgpt => Self::Burstgpt,
        }
    }
}

/// What block ids name
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Ids {
    /// A block and all before it
    Chained,
    /// The tokens of a block alone
    Content,
}

impl From<Ids> for Naming {
    fn from(ids: Ids) -> Self {
        match ids {
            Ids::Chained => Self::Chained,
            Ids::Content => Self::Content,
        }
    }
}

/// What times count
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Unit {
    /// Seconds
    S,
    /// Milliseconds
    Ms,
    /// Microseconds
    Us,
    /// Nanoseconds
    Ns,
}

impl From<Unit> for TimeUnit {
    fn from(unit: Unit) -> Self {
        match unit {
            Unit::S => Self::S,
            Unit::Ms => Self::Ms,
            Unit::Us => Self::Us,
            Unit::Ns => Self::Ns,
        }
    }
}

/// Does what `command` says; `traces` is the folder of public traces.
pub(super) fn run(command: TraceCommand, traces: Option<&Path>) -> Result<(), CliError> {
    match command {
        TraceCommand::Stats { source, format } => stats(&source.read_counted(traces)?, format),
        TraceCommand::Convert { source, out, to, anonymise, speedup, scaling, force } => {
            source.check_out("OUT", &out, force, traces, None)?;
            let scaling = Scaling {
                prefix_len_multiplier: scaling.prefix_len_multiplier,
                prefix_root_multiplier: scaling.prefix_root_multiplier,
                prompt_len_multiplier: scaling.prompt_len_multiplier,
                max_isl: scaling.max_isl,
            };
            scaling.validate().map_err(option)?;
            let trace = source.read(traces)?.sped_up(speedup).map_err(option)?;
            let mut trace = scaling.apply(trace).map_err(option)?;
            if anonymise {
                trace = trace.anonymised();
            }
            let (file, lost) = to_file_as(&trace, &out, to.into()).map_err(option)?;
            lost.iter().for_each(|lost| note(lost));
            write(&trace, &file, &out)
        }
        TraceCommand::Synth { source, out, requests, seed, force } => {
            source.check_out("OUT", &out, force, traces, None)?;
            let trace = source.read_counted(traces)?;
            let model = Lookalike::fit(&trace)?;
            let requests =
                requests.unwrap_or_else(|| trace.rows().len().try_into().unwrap_or(u32::MAX));
            let (sessions, popular) = (model.sessions(), model.popular_blocks());
            say(&format!("fitted {sessions} sessions and {popular} blocks that belong to none"));
            let trace = model.draw(requests, seed);
            let (file, lost) = to_file_as(&trace, &out, Target::Mooncake).map_err(option)?;
            lost.iter().for_each(|lost| note(lost));
            write(&trace, &file, &out)
        }
        TraceCommand::Fit { source, out, force, extends, steady, hold_out, format } => {
            if let Some(out) = &out {
                let beside = extends.as_deref().map(Path::new);
                source.check_out("--out", out, force, traces, beside)?;
            }
            let trace = source.read_counted(traces)?;
            let options = FitOptions { steady };
            let (fit, margins) = match hold_out {
                true => {
                    let (seen, unseen) = halves(trace)?;
                    let fit = Fit::of(&seen, options)?;
                    let margins = fit.margins_beside(&unseen, &seen);
                    (fit, margins)
                }
                false => {
                    let fit = Fit::of(&trace, options)?;
                    let margins = fit.margins(&trace);
                    (fit, margins)
                }
            };
            say(&fit.summary());
            if let Some(out) = &out {
                let text = fit::experiment(&fit, &margins, &source.trace, extends.as_deref(), out)?;
                write_file(out, text.as_bytes())?;
                say(&format!("wrote {}", out.display()));
            }
            match format {
                Format::Text => print(&fit::table(&margins)),
                Format::Json => print(&save::json(&margins)),
            }
        }
    }
}

/// A trace up to the middle of its time, and from there on.
fn halves(trace: Trace) -> Result<(Trace, Trace), Invalid> {
    let last = trace.rows().iter().map(|row| row.at).max().unwrap_or_default();
    let middle = Some(last / 2);
    let none = |half: &str| {
        let value = format!("a log of which no session begins in the {half} half");
        Invalid::new("--hold-out", value, "sessions in both halves; leave it out")
    };
    let first = trace.clone().within(None, middle).map_err(|_| none("first"))?;
    Ok((first, trace.within(middle, None).map_err(|_| none("second"))?))
}

/// Blocks of a trace whose every block is looked at: some 50 bytes and a microsecond each. A
/// small file can name any number (assumed: more than the largest public trace, a week of Azure).
const MOST_BLOCKS: u64 = 100_000_000;

/// A key of experiments as the option that it is here.
fn option(invalid: Invalid) -> Invalid {
    Invalid { key: format!("--{}", invalid.key.replace('_', "-")), ..invalid }
}

fn write(trace: &Trace, file: &[u8], out: &Path) -> Result<(), CliError> {
    write_file(out, file)?;
    let done = format!("{} requests written to {}", trace.rows().len(), out.display());
    if is_stream(out) {
        // Which may be stdout, and then holds the trace.
        say(&done);
        return Ok(());
    }
    print(&format!("{done}\n"))
}

impl SourceArgs {
    /// Finds out whether `out` can be written; it is never the trace itself, nor what is read
    /// `beside` it.
    fn check_out(
        &self,
        key: &str,
        out: &Path,
        force: bool,
        traces: Option<&Path>,
        beside: Option<&Path>,
    ) -> Result<(), CliError> {
        let read = file(&self.trace, traces)?;
        let inputs: Vec<&Path> = [Some(read.as_path()), beside].into_iter().flatten().collect();
        check_free(key, out, force, &inputs)
    }

    /// A trace of which every block can be looked at.
    fn read_counted(&self, traces: Option<&Path>) -> Result<Trace, TraceError> {
        let trace = self.read(traces)?;
        let of_row = |tokens: u32| u64::from(tokens.div_ceil(trace.block_tokens()));
        let blocks: u64 = trace.rows().iter().map(|row| of_row(row.input_tokens)).sum();
        let allowed =
            format!("at most {MOST_BLOCKS}: take a part, with --limit or --start and --end");
        Invalid::unless(blocks <= MOST_BLOCKS, "FILE", format!("{blocks} blocks"), &allowed)?;
        Ok(trace)
    }

    fn read(&self, traces: Option<&Path>) -> Result<Trace, TraceError> {
        let file = file(&self.trace, traces)?;
        let options = ReadOptions {
            format: self.rows.map(Into::into),
            columns: self.columns.clone(),
            tokenizer: self.tokenizer.clone(),
            naming: self.ids.into(),
            time_unit: self.time_unit.map(Into::into),
            block_tokens: self.block_tokens,
            limit: self.limit,
        };
        let trace = Trace::read(&file, &options)?;
        trace.found().notices.iter().for_each(|notice| note(notice));
        let Found { rows_left_out, sessions_broken, .. } = *trace.found();
        if rows_left_out > 0 {
            let rows = if rows_left_out == 1 { "row is" } else { "rows are" };
            note(&format!("{rows_left_out} {rows} left out: no answer"));
        }
        if sessions_broken > 0 {
            let sessions = if sessions_broken == 1 { "session has" } else { "sessions have" };
            note(&format!("{sessions_broken} {sessions} a turn that begins a new text"));
        }
        Ok(trace.within(self.start, self.end).map_err(option)?)
    }
}

/// The file meant: what exists comes first, then what the manifest names, which
/// must then be the file of the manifest to the last byte.
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

fn stats(trace: &Trace, format: Format) -> Result<(), CliError> {
    let (stats, reuse) = (TraceStats::of(trace), ReuseDistances::of(trace));
    match format {
        Format::Text => print(&(lines(&stats) + &reuse_lines(&reuse))),
        Format::Json => print(&save::json(&serde_json::json!({ "stats": stats, "reuse": reuse }))),
    }
}

/// One fact a line, with its unit.
fn lines(stats: &TraceStats) -> String {
    let range = |l: &Lengths| format!("mean {:.1}, min {}, max {}", l.mean, l.min, l.max);
    let rate = stats.requests_per_s.map_or("all at once".to_owned(), |r| format!("{r:.4}"));
    let sharers = stats.requests_per_shared_block.map_or("none".to_owned(), |mean| {
        format!("mean {mean:.1}, max {}", stats.requests_of_top_block)
    });
    let facts = [
        ("requests", stats.rows.to_string()),
        ("sessions", stats.sessions.to_string()),
        ("duration (s)", format!("{:.3}", stats.duration_s)),
        ("requests per s", rate),
        ("input tokens", range(&stats.input_tokens)),
        ("  in shared prefixes", format!("mean {:.1}", stats.prefix_tokens_mean)),
        ("output tokens", range(&stats.output_tokens)),
        ("tokens of a block", stats.block_tokens.to_string()),
        ("different blocks", stats.unique_blocks.to_string()),
        ("in several requests", stats.shared_blocks.to_string()),
        ("  requests of each", sharers),
        ("references to blocks", stats.references_blocks.to_string()),
        ("repeated references", stats.repeats_blocks.to_string()),
        ("hit ratio", format!("{:.4} with a cache that keeps everything", stats.hit_ratio)),
        ("hit ratio, mean", format!("{:.4} over requests", stats.hit_ratio_request_mean)),
    ];
    facts.iter().map(|(name, value)| format!("{name:<22}{value}\n")).collect()
}

/// Distances, then the hit ratios of one cache of several sizes.
fn reuse_lines(reuse: &ReuseDistances) -> String {
    let (Some(p50), Some(p90), Some(p99)) = (reuse.p50, reuse.p90, reuse.p99) else {
        return format!("{:<22}no block is used twice\n", "reuse distance");
    };
    let head = format!(
        "{:<22}p50 {p50:.0}, p90 {p90:.0}, p99 {p99:.0} blocks used in between\n\
         {:<22}hit ratio, least recently used evicted first\n",
        "reuse distance", "one cache of (blocks)"
    );
    let sizes = reuse.lru.iter();
    sizes.fold(head, |text, size| format!("{text}{:>20}  {:.4}\n", size.blocks, size.hit_ratio))
}
