//! A timeline as Perfetto and Chrome show it: a file in the trace event format.
//!
//! Each worker is a process with a track of its steps, counters of its batch,
//! its requests and its blocks, and the lives of the requests it serves. The
//! router is a process of its own. An arrow leads from its decision to the step
//! at whose end the first token left, and on to the one with the last.
//!
//! Format: "Trace Event Format" of the Chromium project; times are microseconds.

use crate::engine::StepRecord;
use crate::event::{WorkerEvent, WorkerEventKind};
use crate::experiment::results::Provenance;
use crate::experiment::timeline::Timeline;
use crate::id::{RequestId, WorkerId};
use crate::recorder::{End, RequestRecord};
use crate::report::view::plain;
use crate::time::SimTime;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{self, Write};

/// The file's name in a folder of results.
pub const TIMELINE_FILE: &str = "timeline.json.gz";

/// Process of the router; 0 means something else to some viewers.
const ROUTER: u32 = 1;
/// The one thread of every process.
const TRACK: u32 = 1;

/// Which simulation is shown, and when, in a line.
pub fn caption(timeline: &Timeline) -> String {
    let (from, to) = timeline.window;
    let (begin, end) = timeline.measured;
    format!(
        "{}: {} s to {} s of the simulation, whose measured part is {} s to {} s",
        place(timeline),
        from.as_secs(),
        to.as_secs(),
        begin.as_secs(),
        end.as_secs()
    )
}

/// `router.policy kv, workload.concurrency 180, seed 1`.
fn place(timeline: &Timeline) -> String {
    let params = timeline.params.iter().map(|(key, value)| format!("{key} {}", plain(value)));
    params.chain([format!("seed {}", timeline.seed)]).collect::<Vec<_>>().join(", ")
}

/// Writes the trace as JSON, event by event.
///
/// # Errors
/// If `out` cannot be written.
pub fn write(timeline: &Timeline, provenance: &Provenance, out: &mut dyn Write) -> io::Result<()> {
    let head = json!({
        "experiment": provenance.experiment,
        "version": provenance.version,
        "params": timeline.params,
        "seed": timeline.seed,
        "digest": timeline.digest,
        "window_s": [timeline.window.0.as_secs(), timeline.window.1.as_secs()],
        "measured_s": [timeline.measured.0.as_secs(), timeline.measured.1.as_secs()],
    });
    write!(out, "{{\"displayTimeUnit\":\"ms\",\"otherData\":{head},\"traceEvents\":[")?;
    let mut events = Events { out, is_first: true };
    let shown = Shown::new(timeline);
    shown.names(&mut events)?;
    shown.steps(&mut events)?;
    shown.counters(&mut events)?;
    shown.decisions(&mut events)?;
    shown.requests(&mut events)?;
    shown.flows(&mut events)?;
    writeln!(events.out, "\n]}}")
}

/// Events on their way into the file.
struct Events<'a> {
    out: &'a mut dyn Write,
    is_first: bool,
}

impl Events<'_> {
    fn put(&mut self, event: &Value) -> io::Result<()> {
        let comma = if self.is_first { "" } else { "," };
        self.is_first = false;
        write!(self.out, "{comma}\n{event}")
    }
}

/// A timeline, arranged for writing.
struct Shown<'a> {
    timeline: &'a Timeline,
    /// By worker, in order of time.
    steps: Vec<Vec<&'a StepRecord>>,
    /// By request, what its worker told.
    told: BTreeMap<RequestId, Vec<(SimTime, WorkerEvent)>>,
}

impl<'a> Shown<'a> {
    fn new(timeline: &'a Timeline) -> Self {
        let mut steps = vec![Vec::new(); timeline.workers as usize];
        for step in &timeline.steps {
            steps[step.worker.index()].push(step);
        }
        let mut told: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (at, event) in &timeline.events {
            told.entry(event.request).or_default().push((*at, *event));
        }
        Self { timeline, steps, told }
    }

    fn is_inside(&self, at: SimTime) -> bool {
        let (from, to) = self.timeline.window;
        (from..=to).contains(&at)
    }

    fn names(&self, events: &mut Events<'_>) -> io::Result<()> {
        let mut name = |pid: u32, order: u32, process: &str, track: &str| {
            let about = |name: &str, args: Value| json!({ "ph": "M", "pid": pid, "name": name, "args": args });
            events.put(&about("process_name", json!({ "name": process })))?;
            events.put(&about("process_sort_index", json!({ "sort_index": order })))?;
            let mut thread = about("thread_name", json!({ "name": track }));
            thread["tid"] = json!(TRACK);
            events.put(&thread)
        };
        name(ROUTER, 0, &format!("router: {}", place(self.timeline)), "decisions")?;
        for worker in (0..self.timeline.workers).map(WorkerId) {
            let shown = match self.timeline.pools.get(worker.index()) {
                Some(pool) => format!("worker {worker} ({pool})"),
                None => format!("worker {worker}"),
            };
            name(process(worker), 1 + worker.0, &shown, "steps")?;
        }
        Ok(())
    }

    fn steps(&self, events: &mut Events<'_>) -> io::Result<()> {
        for step in self.steps.iter().flatten() {
            let name = match (step.prefill_tokens, step.decode_seqs) {
                (0, decodes) => format!("decode {decodes}"),
                (tokens, 0) => format!("prefill {tokens}"),
                (tokens, decodes) => format!("prefill {tokens} + decode {decodes}"),
            };
            let (start, end) = (ns(step.start), ns(step.end));
            events.put(&json!({
                "ph": "X", "pid": process(step.worker), "tid": TRACK, "cat": "step", "name": name,
                "ts": us(start), "dur": us(end - start),
                "args": {
                    "prefill sequences": step.prefill_seqs,
                    "prefill tokens": step.prefill_tokens,
                    "decode sequences": step.decode_seqs,
                    "decode tokens": step.decode_tokens,
                    "KV blocks used at the end": step.used_blocks,
                },
            }))?;
        }
        Ok(())
    }

    fn counters(&self, events: &mut Events<'_>) -> io::Result<()> {
        let mut put = |worker: WorkerId, at: SimTime, name: &str, args: Value| {
            let (pid, ts) = (process(worker), us(ns(at)));
            events.put(&json!({ "ph": "C", "pid": pid, "name": name, "ts": ts, "args": args }))
        };
        for (worker, counts) in (0..).map(WorkerId).zip(self.inflight()) {
            for (at, inflight) in counts {
                put(worker, at, "in flight", json!({ "requests": inflight }))?;
            }
        }
        for steps in &self.steps {
            let ends = steps.iter().skip(1).map(|next| next.start).chain([SimTime::MAX]);
            for (step, next) in steps.iter().zip(ends) {
                let StepRecord { worker, start, end, .. } = **step;
                if self.is_inside(start) {
                    let requests = json!({ "running": step.running, "waiting": step.waiting });
                    put(worker, start, "requests", requests)?;
                    let batch = json!({
                        "prefill tokens": step.prefill_tokens,
                        "decode sequences": step.decode_seqs,
                    });
                    put(worker, start, "batch", batch)?;
                }
                if !self.is_inside(end) {
                    continue;
                }
                put(worker, end, "KV blocks", json!({ "used": step.used_blocks }))?;
                if end < next {
                    // Nothing runs until the next step is formed.
                    put(worker, end, "requests", json!({ "running": 0, "waiting": 0 }))?;
                    put(
                        worker,
                        end,
                        "batch",
                        json!({ "prefill tokens": 0, "decode sequences": 0 }),
                    )?;
                }
            }
        }
        Ok(())
    }

    /// By worker: requests sent to it that have not ended, at the window's begin
    /// and after every moment in it that changed them.
    fn inflight(&self) -> Vec<Vec<(SimTime, i64)>> {
        let mut changes: Vec<Vec<(SimTime, i64)>> = vec![Vec::new(); self.steps.len()];
        for record in &self.timeline.requests {
            let Some((at, worker)) = record.dispatched else { continue };
            changes[worker.index()].push((at, 1));
            changes[worker.index()].extend(record.end.map(|(at, _)| (at, -1)));
        }
        let counted = changes.into_iter().map(|mut changes| {
            changes.sort_by_key(|(at, _)| *at);
            let (mut now, mut counts) = (0, vec![(self.timeline.window.0, 0)]);
            for (at, change) in changes {
                now += change;
                match counts.last_mut() {
                    Some(last) if at <= last.0 => last.1 = now,
                    _ if self.is_inside(at) => counts.push((at, now)),
                    _ => {}
                }
            }
            counts
        });
        counted.collect()
    }

    fn decisions(&self, events: &mut Events<'_>) -> io::Result<()> {
        let mut sent: Vec<(SimTime, WorkerId, &RequestRecord)> = self
            .timeline
            .requests
            .iter()
            .filter_map(|r| r.dispatched.map(|(at, worker)| (at, worker, r)))
            .filter(|(at, ..)| self.is_inside(*at))
            .collect();
        sent.sort_by_key(|(at, _, record)| (*at, record.request));
        for (at, worker, record) in sent {
            events.put(&json!({
                "ph": "X", "pid": ROUTER, "tid": TRACK, "cat": "decision",
                "name": format!("to worker {worker}"), "ts": us(ns(at)), "dur": us(1),
                "args": about(record),
            }))?;
        }
        Ok(())
    }

    /// The life of every request at its worker: waiting, prefill, decode.
    fn requests(&self, events: &mut Events<'_>) -> io::Result<()> {
        let (from, to) = self.timeline.window;
        for record in &self.timeline.requests {
            let Some((dispatched, worker)) = record.dispatched else { continue };
            let end = record.end.map_or(to, |(at, _)| at);
            if dispatched > to || end < from {
                continue;
            }
            let mut put = |ph: &str, name: &str, at: SimTime, args: Value| {
                events.put(&json!({
                    "ph": ph, "pid": process(worker), "tid": TRACK, "cat": "request",
                    "id": record.request.0, "name": name, "ts": us(ns(at.clamp(from, to))),
                    "args": args,
                }))
            };
            // One name for all: viewers show spans of one name as lanes of one track.
            put("b", "request", dispatched, about(record))?;
            for (name, begin, end) in self.phases(record.request, dispatched, end) {
                if begin <= to && end >= from {
                    put("b", name, begin, json!({}))?;
                    put("e", name, end, json!({}))?;
                }
            }
            put("e", "request", end, json!({}))?;
        }
        Ok(())
    }

    /// What a request does at its worker, one after the other, until `end`. When
    /// a preempted one goes on is not told: it waits and computes again until
    /// its first token, or to its end if it had that.
    fn phases(
        &self,
        request: RequestId,
        dispatched: SimTime,
        end: SimTime,
    ) -> Vec<(&'static str, SimTime, SimTime)> {
        let mut phases = Vec::new();
        let mut now = ("waiting", dispatched);
        for (at, event) in self.told.get(&request).into_iter().flatten() {
            let next = match event.kind {
                WorkerEventKind::Scheduled { .. } if now.0 == "waiting to decode" => "decode",
                WorkerEventKind::Scheduled { .. } => "prefill",
                WorkerEventKind::Preempted => "preempted",
                WorkerEventKind::Prefilled => "KV on its way",
                WorkerEventKind::KvReceived { .. } => "waiting to decode",
                WorkerEventKind::FirstToken => "decode",
                WorkerEventKind::Failed => "lost",
                WorkerEventKind::Finished { .. }
                | WorkerEventKind::Rejected(_)
                | WorkerEventKind::Aborted
                | WorkerEventKind::Loaded { .. }
                | WorkerEventKind::CacheHit { .. }
                | WorkerEventKind::OutputBlock { .. } => continue,
            };
            phases.push((now.0, now.1, *at));
            now = (next, *at);
        }
        phases.push((now.0, now.1, end));
        phases
    }

    /// From the decision to the first token and the last, for requests of which
    /// at least the first two lie in the window.
    fn flows(&self, events: &mut Events<'_>) -> io::Result<()> {
        for record in &self.timeline.requests {
            let (Some((dispatched, _)), Some((_, worker)), Some(first)) =
                (record.dispatched, record.stay(), record.first_token)
            else {
                continue;
            };
            let Some(first) = self.inside_step(worker, first) else { continue };
            if !self.is_inside(dispatched) {
                continue;
            }
            let finished = match record.end {
                Some((at, End::Finished { .. })) => self.inside_step(worker, at),
                _ => None,
            };
            let mut put = |ph: &str, pid: u32, ts: u64| {
                let mut event = json!({
                    "ph": ph, "pid": pid, "tid": TRACK, "cat": "flow", "name": "request",
                    "id": record.request.0, "ts": us(ts),
                });
                if ph == "f" {
                    // Binds to the step that it lies in, not to the next one.
                    event["bp"] = json!("e");
                }
                events.put(&event)
            };
            put("s", ROUTER, ns(dispatched))?;
            match finished.filter(|last| *last > first) {
                Some(last) => {
                    put("t", process(worker), first)?;
                    put("f", process(worker), last)?;
                }
                None => put("f", process(worker), first)?,
            }
        }
        Ok(())
    }

    /// The last nanosecond, of a step that is shown, before `at`: where the
    /// arrow to what left at `at` has to end.
    fn inside_step(&self, worker: WorkerId, at: SimTime) -> Option<u64> {
        if !self.is_inside(at) {
            return None;
        }
        let steps = &self.steps[worker.index()];
        let after = steps.partition_point(|step| step.start < at);
        let step = steps[..after].last()?;
        Some((ns(step.end.min(at)).saturating_sub(1)).max(ns(step.start)))
    }
}

fn process(worker: WorkerId) -> u32 {
    worker.0 + ROUTER + 1
}

fn about(record: &RequestRecord) -> Value {
    let mut about = json!({
        "request": record.request.0,
        "conversation": record.conversation,
        "turn": record.turn,
        "prompt tokens": record.prompt_tokens,
        "cached tokens": record.cached_tokens,
        "preemptions": record.preemptions,
    });
    if let Some((_, End::Finished { output_tokens })) = record.end {
        about["output tokens"] = json!(output_tokens);
    }
    about
}

/// Whole nanoseconds: what viewers compute in.
fn ns(at: SimTime) -> u64 {
    at.as_ps() / 1000
}

/// The format's microseconds; exact in binary far beyond any run.
fn us(ns: u64) -> f64 {
    ns as f64 / 1e3
}
