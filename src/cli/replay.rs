//! `sim replay`.

use super::args::ExperimentArgs;
use super::error::{CliError, argument};
use super::place::check_free;
use super::simulate::{load, overrides};
use super::talk::{print, say};
use flate2::read::MultiGzDecoder;
use kv_router_sim::replay::dynamo::{self, Cached, Trace};
use kv_router_sim::replay::log::{Lines, LogError};
use kv_router_sim::replay::{Compared, Difference, Replayed, record, replay};
use kv_router_sim::router::{ChosenPolicy, CostParts, Registry};
use kv_router_sim::settings::Invalid;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufReader, BufWriter, Cursor, Read};
use std::path::{Path, PathBuf};

/// What is looked at to tell a trace from a log.
const HEAD_BYTES: u64 = 1 << 20;

/// Hold a log of a router's decisions against what policies would have done
///
/// The events of the log happened as they did, so every policy meets the caches and loads
/// of the decisions that were made, and each difference is one of the decision at hand.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sim replay decisions.jsonl --record doks-3xh200 --set router.policy=kv \\
      --set workload.concurrency=60
  sim replay decisions.jsonl --policy kv --policy 'kv { overlap_weight = 0.5 }' \\
      --policy least_loaded
  sim replay decisions.jsonl --policy 'external { command = [\"python3\", \"my_router.py\"] }'
  sim replay request-trace.000000.jsonl.gz --policy 'kv { use_kv_events = false }'

A log has the lines of docs/router-protocol.md, each with its answer (docs/external-routers.md);
request traces of Dynamo are read, too, also in .gz.

Exit codes: 0 done, 2 usage or input error.")]
pub(crate) struct ReplayArgs {
    /// The log, or the file to write with --record
    #[arg(value_name = "LOG")]
    pub(crate) log: PathBuf,
    /// A policy, with parameters in braces if it is to have any
    #[arg(long = "policy", value_name = "POLICY", required_unless_present = "record")]
    pub(crate) policies: Vec<String>,
    /// Write the decisions of the one simulation of this experiment into LOG
    #[arg(long, value_name = "EXPERIMENT", conflicts_with = "policies")]
    pub(crate) record: Option<PathBuf>,
    /// With --record: set a key of the experiment
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "record")]
    pub(crate) overrides: Vec<String>,
    /// With --record: the seed [default: the first of the experiment]
    #[arg(long, value_name = "N", requires = "record")]
    pub(crate) seed: Option<u64>,
    /// With --record: replace LOG if it is there
    #[arg(long, requires = "record")]
    pub(crate) force: bool,
}

/// Replays a log, or records one.
pub(super) fn run(args: ReplayArgs, traces: Option<PathBuf>) -> Result<(), CliError> {
    if let Some(file) = args.record {
        check_free("LOG", &args.log, args.force, &[&file])?;
        return record_log(&args.log, file, args.overrides, args.seed, traces);
    }
    let mut policies = Vec::with_capacity(args.policies.len());
    for name in args.policies {
        let chosen = chosen(&name)?;
        policies.push((name, chosen));
    }
    let unreadable = |problem: String| {
        Invalid::new("LOG", args.log.display(), format!("a log that can be read: {problem}"))
    };
    let wrong = |error: LogError| unreadable(error.to_string());
    let mut text = open(&args.log).map_err(|error| unreadable(error.to_string()))?;
    let mut head = Vec::new();
    let read = text.by_ref().take(HEAD_BYTES).read_to_end(&mut head);
    read.map_err(|error| unreadable(error.to_string()))?;
    let is_trace = dynamo::is_trace(&String::from_utf8_lossy(&head));
    let text = Cursor::new(head).chain(text);
    if !is_trace {
        let replayed = replay(Lines::new(text), &policies).map_err(wrong)?;
        return print(&report(&args.log, &replayed, None));
    }
    let mut trace = dynamo::read(text).map_err(wrong)?;
    print(&cached(&args.log, &trace.cached))?;
    if trace.lines.is_empty() {
        return print(
            "no decisions: some records name no worker, so only cached tokens are compared\n",
        );
    }
    let lines = std::mem::take(&mut trace.lines).into_iter().map(Ok);
    print(&report(&args.log, &replay(lines, &policies).map_err(wrong)?, Some(&trace)))
}

fn open(path: &Path) -> std::io::Result<BufReader<Box<dyn Read>>> {
    let file = File::open(path)?;
    let is_packed = path.extension().is_some_and(|extension| extension == "gz");
    let text: Box<dyn Read> =
        if is_packed { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
    Ok(BufReader::with_capacity(1 << 16, text))
}

/// `NAME` or `NAME { key = value }`.
fn chosen(text: &str) -> Result<ChosenPolicy, CliError> {
    let (name, given) = match text.find('{') {
        Some(at) => (text[..at].trim(), &text[at..]),
        None => (text.trim(), "{}"),
    };
    let table: Result<toml::Table, _> = format!("given = {given}").parse();
    let allowed = "a policy, or one with parameters, like kv { overlap_weight = 0.5 }";
    let wrong = || argument(Invalid::new("policy", format!("{text:?}"), allowed));
    let mut table = table.map_err(|_| wrong())?;
    let Some(toml::Value::Table(given)) = table.remove("given") else { return Err(wrong().into()) };
    Ok(Registry::default().choose(name, &given).map_err(argument)?)
}

fn record_log(
    log: &Path,
    file: PathBuf,
    more: Vec<String>,
    seed: Option<u64>,
    traces: Option<PathBuf>,
) -> Result<(), CliError> {
    let args = ExperimentArgs { file, overrides: more, seeds: None };
    let experiment = load(&args, overrides(&args, Vec::new())?, traces)?;
    let [run] = experiment.runs.as_slice() else {
        let runs = format!("{} of them", experiment.runs.len());
        let allowed = "an experiment of one simulation: choose with --set, like --set \
                       router.policy=kv --set workload.concurrency=60";
        return Err(argument(Invalid::new("record", runs, allowed)).into());
    };
    let seed = seed.unwrap_or(experiment.seeds[0]);
    let failed = |problem: String| Invalid::new("LOG", log.display(), problem);
    let out = File::create(log).map_err(|error| failed(format!("a file: {error}")))?;
    let digest = record(run, seed, Box::new(BufWriter::new(out)))
        .map_err(|error| failed(format!("the log of a simulation: {error}")))?;
    say(&format!("saved {} (seed {seed}, digest {})", log.display(), &digest[..12]));
    Ok(())
}

fn percent(share: Option<f64>) -> String {
    share.map_or("-".to_owned(), |share| format!("{:.2} %", 100.0 * share))
}

/// What was found; in the names of the trace, if the log was read from one.
fn report(log: &Path, replayed: &Replayed, trace: Option<&Trace>) -> String {
    let Replayed { workers, seconds, decisions, not_sent, log: own, policies } = replayed;
    let mut text = String::new();
    let mut line = |line: String| {
        text += line.trim_end();
        text.push('\n');
    };
    line(format!(
        "{}: {decisions} decisions among {workers} workers in {seconds:.1} s{}",
        log.display(),
        if *not_sent > 0 {
            format!("; {not_sent} requests were sent nowhere")
        } else {
            String::new()
        }
    ));
    line(String::new());
    let width = policies.iter().map(|policy| policy.policy.chars().count()).max().unwrap_or(0);
    let width = width.max("the log".len());
    line(format!(
        " {:width$}  {:>9}  {:>9}  {:>9}  {:>9}  {:>9}  {:>10}  {:>11}",
        "policy", "agreement", "agreed", "tied", "differed", "not sent", "held there", "in flight"
    ));
    let inflight = |mean: Option<f64>| mean.map_or("-".to_owned(), |mean| format!("{mean:.2}"));
    line(format!(
        " {:width$}  {:>9}  {:>9}  {:>9}  {:>9}  {:>9}  {:>10}  {:>11}",
        "the log",
        "",
        "",
        "",
        "",
        "",
        percent(own.held_ratio()),
        inflight(own.mean_inflight())
    ));
    for compared in policies {
        let Compared { policy, follows, agreed, tied, differed, not_sent, choices, .. } = compared;
        let tied = if *follows { tied.to_string() } else { "-".to_owned() };
        line(format!(
            " {policy:width$}  {:>9}  {agreed:>9}  {tied:>9}  {differed:>9}  {not_sent:>9}  {:>10}  {:>11}",
            percent(compared.agreement()),
            percent(choices.held_ratio()),
            inflight(choices.mean_inflight())
        ));
    }
    line(String::new());
    for Compared { policy, first, follows, .. } in policies {
        match first {
            Some(first) => line(difference(policy, first, trace)),
            None => line(format!("{policy}: no difference")),
        }
        if !follows {
            line(format!("{policy}: it books its own choices, as it cannot book those of others"));
        }
    }
    line(String::new());
    line(
        "agreed: the same worker; where ties are known, no other as good. tied: several workers had \
         the lowest cost, that of the log among them; - of policies that book their own choices, \
         where it is not known. held there: share of the prompts' blocks that the worker held; \
         in flight: requests there, both on average over decisions."
            .to_owned(),
    );
    text
}

fn difference(policy: &str, first: &Difference, trace: Option<&Trace>) -> String {
    let Difference { line, request, at, taken, preferred, .. } = first;
    let cost = |worker| first.cost_of(worker).map(cost);
    let costs = match (cost(*taken), cost(*preferred)) {
        (Some(there), Some(other)) => format!(": {there} against {other}"),
        _ => String::new(),
    };
    let (request, taken, preferred) = match trace {
        Some(trace) => {
            let name = format!("{:?}", trace.requests[request.index()]);
            (name, trace.worker(*taken), trace.worker(*preferred))
        }
        None => (request.to_string(), taken.to_string(), preferred.to_string()),
    };
    format!(
        "{policy}: first difference in line {line}: request {request} at {:.3} s went to worker \
         {taken}, it would have gone to worker {preferred}{costs}",
        at.as_secs()
    )
}

fn cost(cost: &CostParts) -> String {
    let parts: Vec<String> =
        cost.parts.iter().map(|(name, value)| format!("{name} {value}")).collect();
    match parts.as_slice() {
        [] => format!("cost {}", cost.cost),
        parts => format!("cost {} ({})", cost.cost, parts.join(", ")),
    }
}

fn cached(log: &Path, cached: &Cached) -> String {
    let Cached { requests, with_cached, prompt_tokens, .. } = *cached;
    let share =
        |tokens: u64| percent((prompt_tokens > 0).then(|| tokens as f64 / prompt_tokens as f64));
    let mut text = format!(
        "{}: {requests} requests of a Dynamo request trace; {with_cached} say what was cached: {} \
         of their prompt tokens; {} were in leading blocks of an earlier request",
        log.display(),
        share(cached.cached_tokens),
        share(cached.seen_tokens)
    );
    if let Some(tokens) = cached.seen_there_tokens {
        write!(text, ", {} of one on the same worker", share(tokens)).expect("text");
    }
    text.push('\n');
    text
}
