//! Request traces of NVIDIA Dynamo as logs of decisions.
//!
//! Dynamo's front end writes a record when a request ends (`DYN_REQUEST_TRACE=1`, schema
//! `dynamo.request.trace.v1`; crate dynamo-llm 1.4.1, `src/request_trace/types.rs`): when it
//! came, its block hashes, the worker, how many prompt tokens were cached, when its first
//! and last tokens came. It has no cache events, so only policies that go by what was sent
//! can be asked. A file is a record a line, bare or as the `event` of an envelope.

use super::log::{Line, LogError, next_line};
use crate::id::{BlockId, WorkerId};
use crate::request::BlockRun;
use crate::router::external::wire::{
    Asked, Choice, Event, Hello, Knowledge, Limits, Moment, OfRequest, PROTOCOL, RoleName, Route,
    Run,
};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::io::BufRead;

/// The schema that is read.
const SCHEMA: &str = "dynamo.request.trace.v1";

const NS_PER_MS: f64 = 1e6;

/// What a trace says of caches, whoever decided.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cached {
    /// Requests with block hashes.
    pub requests: u64,
    /// Requests that say how many of their prompt tokens were cached.
    pub with_cached: u64,
    /// The prompt tokens of those.
    pub prompt_tokens: u64,
    /// Of these, tokens that were cached.
    pub cached_tokens: u64,
    /// Of these, tokens of leading blocks that an earlier request had: what one cache without
    /// end would hold.
    pub seen_tokens: u64,
    /// Tokens of leading blocks that an earlier request had on the same worker; `None` if
    /// some record names no worker.
    pub seen_there_tokens: Option<u64>,
}

/// The clock of a log ends so many nanoseconds, 213 days, after its first request.
const MOST_NS: u64 = u64::MAX / 1_000;

/// A trace, read.
#[derive(Clone, Debug)]
pub struct Trace {
    /// As a log of decisions, each with the number of its record's line; empty if some record
    /// names no worker.
    pub lines: Vec<(u64, Line)>,
    /// What it says of caches.
    pub cached: Cached,
    /// The workers in the order of the log, as the trace names them: worker, rank.
    pub workers: Vec<(u64, u32)>,
    /// The requests in the order of the log, as the trace names them.
    pub requests: Vec<String>,
}

impl Trace {
    /// What the trace calls a worker of the log; with its rank where workers have several.
    ///
    /// # Panics
    /// If the log has no such worker.
    pub fn worker(&self, worker: WorkerId) -> String {
        let (name, rank) = self.workers[worker.index()];
        if have_ranks(&self.workers) { format!("{name} rank {rank}") } else { name.to_string() }
    }
}

/// Whether workers have several ranks.
fn have_ranks(workers: &[(u64, u32)]) -> bool {
    workers.iter().any(|(_, rank)| *rank > 0)
}

#[derive(Debug, Deserialize)]
struct Envelope {
    event: Option<Record>,
    #[serde(flatten)]
    bare: Map<String, Value>,
}

#[derive(Debug, Deserialize)]
struct Record {
    schema: String,
    event_type: String,
    #[serde(default)]
    agent_context: Option<AgentContext>,
    #[serde(default)]
    request: Option<Ended>,
}

#[derive(Debug, Deserialize)]
struct AgentContext {
    session_id: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Ended {
    request_id: String,
    cached_tokens: Option<u32>,
    output_tokens: Option<u32>,
    request_received_ms: Option<u64>,
    ttft_ms: Option<f64>,
    total_time_ms: Option<f64>,
    worker: Option<WorkerInfo>,
    replay: Option<Hashes>,
}

#[derive(Debug, Deserialize)]
struct WorkerInfo {
    prefill_worker_id: Option<u64>,
    prefill_dp_rank: Option<u32>,
    decode_worker_id: Option<u64>,
    decode_dp_rank: Option<u32>,
}

#[derive(Debug, Deserialize)]
struct Hashes {
    trace_block_size: u32,
    input_length: u32,
    input_sequence_hashes: Vec<u64>,
}

/// A request of the trace.
#[derive(Debug)]
struct Seen {
    line: u64,
    name: String,
    session: String,
    received_ms: u64,
    prompt_tokens: u32,
    blocks: Vec<u64>,
    cached_tokens: Option<u32>,
    output_tokens: u32,
    ttft_ms: f64,
    total_ms: f64,
    worker: Option<(u64, u32)>,
}

/// Whether a text that begins with `head` is such a trace: by its first line with a schema.
pub fn is_trace(head: &str) -> bool {
    let first = head.lines().find(|line| line.contains("\"schema\""));
    first.is_some_and(|line| line.contains(SCHEMA))
}

/// Reads a trace.
///
/// # Errors
/// The first record that makes no sense.
pub fn read(mut text: impl BufRead) -> Result<Trace, LogError> {
    let (mut requests, mut block_size) = (Vec::new(), None);
    let (mut number, mut line) = (0, Vec::new());
    while next_line(&mut text, &mut number, &mut line)? {
        let wrong = |problem: String| LogError::new(number, problem);
        let Some(record) = record(&line).map_err(wrong)? else { continue };
        let Some(request) = record.request.filter(|_| record.event_type == "request_end") else {
            continue;
        };
        let Some(hashes) = request.replay else {
            return Err(wrong(format!("request {:?} has no replay hashes", request.request_id)));
        };
        let size = *block_size.get_or_insert(hashes.trace_block_size);
        if size != hashes.trace_block_size || size == 0 {
            let problem = format!("trace_block_size {}: must be {size}", hashes.trace_block_size);
            return Err(wrong(format!("{problem}, as before, and not 0")));
        }
        let full = (hashes.input_length / size) as usize;
        if hashes.input_sequence_hashes.len() < full || hashes.input_length == 0 {
            let had = hashes.input_sequence_hashes.len();
            return Err(wrong(format!("input_sequence_hashes: {had}, must be at least {full}")));
        }
        let Some(received_ms) = request.request_received_ms else {
            return Err(wrong("request_received_ms is missing".to_owned()));
        };
        let mut blocks = hashes.input_sequence_hashes;
        blocks.truncate(full);
        let session = record.agent_context.and_then(|context| context.session_id);
        requests.push(Seen {
            line: number,
            session: session.unwrap_or_else(|| request.request_id.clone()),
            name: request.request_id,
            received_ms,
            prompt_tokens: hashes.input_length,
            blocks,
            cached_tokens: request.cached_tokens,
            output_tokens: request.output_tokens.unwrap_or(1),
            ttft_ms: request.ttft_ms.unwrap_or(0.0).max(0.0),
            total_ms: request.total_time_ms.unwrap_or(0.0).max(0.0),
            worker: request.worker.and_then(WorkerInfo::target),
        });
    }
    let Some(block_size) = block_size else {
        return Err(LogError::new(1, "no request_end of dynamo.request.trace.v1 is there"));
    };
    requests.sort_by(|a, b| (a.received_ms, &a.name).cmp(&(b.received_ms, &b.name)));
    let workers: BTreeSet<(u64, u32)> = requests.iter().filter_map(|seen| seen.worker).collect();
    let workers: Vec<(u64, u32)> = workers.into_iter().collect();
    let are_named = requests.iter().all(|seen| seen.worker.is_some());
    let cached = cached(&requests, block_size, are_named);
    let lines = if are_named { lines(&requests, block_size, &workers)? } else { Vec::new() };
    let requests = requests.into_iter().map(|seen| seen.name).collect();
    Ok(Trace { lines, cached, workers, requests })
}

fn record(line: &[u8]) -> Result<Option<Record>, String> {
    let envelope: Envelope = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    let record = match envelope.event {
        Some(record) => record,
        // Marks of the writer.
        None if !envelope.bare.contains_key("schema") => return Ok(None),
        None => serde_json::from_value(Value::Object(envelope.bare))
            .map_err(|error| error.to_string())?,
    };
    match record.schema.as_str() {
        SCHEMA => Ok(Some(record)),
        other => Err(format!("schema {other:?}: must be {SCHEMA:?}")),
    }
}

impl WorkerInfo {
    /// The worker whose cache decides: the one that prefills.
    fn target(self) -> Option<(u64, u32)> {
        let prefill = self.prefill_worker_id.map(|worker| (worker, self.prefill_dp_rank));
        let decode = self.decode_worker_id.map(|worker| (worker, self.decode_dp_rank));
        prefill.or(decode).map(|(worker, rank)| (worker, rank.unwrap_or(0)))
    }
}

fn cached(requests: &[Seen], block_size: u32, are_named: bool) -> Cached {
    let mut anywhere = BTreeSet::new();
    let mut there: BTreeMap<(u64, u32), BTreeSet<u64>> = BTreeMap::new();
    let mut sum = Cached { seen_there_tokens: are_named.then_some(0), ..Cached::default() };
    for seen in requests {
        let leading = |known: &BTreeSet<u64>| {
            let blocks = seen.blocks.iter().take_while(|block| known.contains(block)).count();
            blocks as u64 * u64::from(block_size)
        };
        sum.requests += 1;
        let here = seen.worker.map(|worker| there.entry(worker).or_default());
        if let Some(cached_tokens) = seen.cached_tokens {
            sum.with_cached += 1;
            sum.prompt_tokens += u64::from(seen.prompt_tokens);
            sum.cached_tokens += u64::from(cached_tokens);
            sum.seen_tokens += leading(&anywhere);
            if let (Some(tokens), Some(here)) = (&mut sum.seen_there_tokens, &here) {
                *tokens += leading(here);
            }
        }
        anywhere.extend(seen.blocks.iter().copied());
        if let Some(here) = here {
            here.extend(seen.blocks.iter().copied());
        }
    }
    sum
}

/// The requests as decisions, with what a front end heard of them in between.
fn lines(
    requests: &[Seen],
    block_size: u32,
    workers: &[(u64, u32)],
) -> Result<Vec<(u64, Line)>, LogError> {
    let Some(earliest) = requests.first() else { return Ok(Vec::new()) };
    // The trace does not say what workers can do; no limit is ever reached.
    let have_ranks = have_ranks(workers);
    let mut engines: Vec<u64> = workers.iter().map(|(name, _)| *name).collect();
    engines.dedup();
    let limits = |(name, rank): &(u64, u32)| {
        let engine = engines.binary_search(name).ok().and_then(|at| u32::try_from(at).ok());
        Limits {
            blocks: u32::MAX / 2,
            max_num_seqs: u32::MAX / 2,
            max_num_batched_tokens: u32::MAX / 2,
            engine: engine.filter(|_| have_ranks),
            rank: have_ranks.then_some(*rank),
        }
    };
    let hello = Line::Hello(Hello {
        protocol: PROTOCOL,
        seed: 0,
        block_size,
        role: RoleName::Both,
        may_prefill: true,
        workers: workers.iter().map(limits).collect(),
        knowledge: Knowledge::default(),
        parameters: Map::new(),
    });
    let mut lines = vec![(earliest.line, hello)];
    let mut sessions: BTreeMap<&str, u32> = BTreeMap::new();
    // Blocks are numbered as they come: hashes fill all 64 bits, and never follow each other.
    let mut numbers: BTreeMap<u64, u64> = BTreeMap::new();
    let mut inflight = vec![0u32; workers.len()];
    // By time and number: what will be heard.
    let mut to_come: BTreeMap<(u64, u32, bool), Event> = BTreeMap::new();
    for (id, seen) in (0u32..).zip(requests) {
        let at = |key: &str, value: &dyn Display, ns: u64| {
            let wrong = || {
                let (begun_ms, line) = (earliest.received_ms, earliest.line);
                let problem = format!(
                    "{key} {value}: must be milliseconds, and within 213 days of the first \
                     request_received_ms, {begun_ms} in line {line}"
                );
                LogError::new(seen.line, problem)
            };
            (ns <= MOST_NS).then_some(ns).ok_or_else(wrong)
        };
        let since_ms = seen.received_ms - earliest.received_ms;
        let since_ns = since_ms.saturating_mul(1_000_000);
        let now_ns = at("request_received_ms", &seen.received_ms, since_ns)?;
        let mut events = Vec::new();
        while let Some(entry) = to_come.first_entry().filter(|entry| entry.key().0 <= now_ns) {
            let event = entry.remove();
            if let Event::Finished { of, .. } = &event {
                inflight[of.worker as usize] -= 1;
            }
            events.push(event);
        }
        let next = u32::try_from(sessions.len()).unwrap_or(u32::MAX);
        let session = *sessions.entry(&seen.session).or_insert(next);
        let target = seen.worker.expect("every record names its worker");
        let worker = workers.binary_search(&target).expect("it is among them");
        let worker = u32::try_from(worker).expect("few workers");
        let mut blocks: Vec<Run> = Vec::new();
        for hash in &seen.blocks {
            let next = numbers.len() as u64;
            let block = *numbers.entry(*hash).or_insert(next);
            match blocks.last_mut() {
                Some(Run(run)) if run.first.0 + u64::from(run.len) == block => run.len += 1,
                _ => blocks.push(Run(BlockRun { first: BlockId(block), len: 1 })),
            }
        }
        let moment = Moment { now_ns, events, inflight: inflight.clone(), ..Moment::default() };
        let (prompt_tokens, prefilled) = (seen.prompt_tokens, false);
        let request = Asked { id, session, prompt_tokens, blocks, prefilled };
        let answer = Choice { worker: Some(worker), ..Choice::default() };
        lines.push((seen.line, Line::Route { route: Route { moment, request }, answer }));
        inflight[worker as usize] += 1;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative")]
        let after = |ms: f64| now_ns.saturating_add((ms * NS_PER_MS) as u64);
        let first = at("ttft_ms", &seen.ttft_ms, after(seen.ttft_ms))?;
        let last = at("total_time_ms", &seen.total_ms, after(seen.total_ms))?.max(first);
        let of = |at_ns| OfRequest { at_ns, worker, request: id };
        to_come.insert((first, id, false), Event::FirstToken(of(first)));
        let output_tokens = seen.output_tokens;
        to_come.insert((last, id, true), Event::Finished { of: of(last), output_tokens });
    }
    Ok(lines)
}
