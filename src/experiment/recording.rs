//! A simulation as a trace, which replays to the same decisions.

use super::load::Experiment;
use super::run::RunError;
use super::run_spec::RunSpec;
use crate::event::WorkerEventKind;
use crate::id::WorkerId;
use crate::request::Request;
use crate::settings::{Invalid, plain};
use crate::simulation::Happening;
use crate::time::SimTime;
use crate::workload::trace::Trace;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

/// What a simulation did, as a trace.
#[derive(Clone, Debug)]
pub struct Recording {
    /// Mooncake's rows, with times in nanoseconds. Beside what a replay needs a row has the
    /// `worker` that took the request last and the `cached_tokens` that it found there.
    pub rows: String,
    /// Requests.
    pub requests: usize,
    /// Tokens that an id stands for.
    pub block_tokens: u32,
    /// What a replay does not have, a sentence each.
    pub lost: Vec<String>,
}

/// One request and what became of it.
struct Heard {
    at: SimTime,
    request: Request,
    worker: Option<WorkerId>,
    cached_tokens: u32,
}

/// Records the only run of `experiment` with its first seed.
///
/// # Errors
/// If there are several runs, if no request comes, or if the simulation cannot go on.
pub fn record(experiment: &Experiment) -> Result<Recording, RecordError> {
    let [run] = &experiment.runs[..] else {
        let count = format!("{} runs", experiment.runs.len());
        let allowed = "given for one run: choose one value of every swept key";
        return Err(Invalid::new("record", count, allowed).into());
    };
    let seed = experiment.seeds[0];
    let all: Arc<Mutex<Vec<Heard>>> = Arc::default();
    let hearing = Arc::clone(&all);
    play(experiment, (run, run.points[0]), seed, move |happening| {
        let mut all = hearing.lock().unwrap_or_else(PoisonError::into_inner);
        match happening {
            Happening::Arrival(arrival) => all.push(Heard {
                at: arrival.at,
                request: arrival.request.clone(),
                worker: None,
                cached_tokens: 0,
            }),
            Happening::Dispatch { request, worker } => {
                if let Some(heard) = all.get_mut(request.id.index()) {
                    heard.worker = Some(*worker);
                }
            }
            Happening::Worker(event) => {
                if let WorkerEventKind::Scheduled { cached_tokens } = event.kind
                    && let Some(heard) = all.get_mut(event.request.index())
                {
                    heard.cached_tokens = cached_tokens;
                }
            }
            _ => {}
        }
    })?;
    let all = std::mem::take(&mut *all.lock().unwrap_or_else(PoisonError::into_inner));
    if all.is_empty() {
        return Err(Invalid::new("record", "no request", "a run with requests").into());
    }
    let block_tokens = run.block_size();
    let lost = lost(&all);
    Ok(Recording { rows: rows(&all, block_tokens), requests: all.len(), block_tokens, lost })
}

/// Simulates `run` with `seed`, and shows everything that happens to `observe`; a failure names
/// the point.
pub(super) fn play(
    experiment: &Experiment,
    (run, point): (&RunSpec, usize),
    seed: u64,
    mut observe: impl FnMut(&Happening<'_>) + Send + 'static,
) -> Result<(), RunError> {
    let mut simulation = run.simulation(seed);
    simulation.observe(move |_: SimTime, happening: &Happening<'_>| observe(happening));
    simulation.advance(SimTime::MAX).map(drop).map_err(|source| RunError::Simulation {
        experiment: experiment.name.clone(),
        point: params(experiment, point),
        seed,
        source,
    })
}

fn params(experiment: &Experiment, point: usize) -> String {
    let all = experiment.points[point].iter();
    all.map(|(key, value)| format!("{key}={}", plain(value))).collect::<Vec<_>>().join(", ")
}

/// Why a simulation could not be recorded.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// It is not one simulation that has requests.
    #[error(transparent)]
    Asked(#[from] Invalid),
    /// It cannot go on.
    #[error(transparent)]
    Run(#[from] RunError),
}

/// A JSON object a request.
fn rows(all: &[Heard], block_tokens: u32) -> String {
    let requests = all.iter().map(|heard| (heard.at, &heard.request));
    let trace = Trace::of_requests(requests, block_tokens);
    let mut text = String::new();
    for (place, (row, heard)) in trace.rows().iter().zip(all).enumerate() {
        let ns = row.at.as_ps() / 1_000;
        let (session, input, output) = (row.session, row.input_tokens, row.output_tokens);
        let _ = write!(
            text,
            "{{\"session_id\": \"{session}\", \"timestamp\": {ns}, \"input_length\": {input}, \
             \"output_length\": {output}"
        );
        if heard.request.max_tokens != output {
            let _ = write!(text, ", \"max_tokens\": {}", heard.request.max_tokens);
        }
        if !trace.runs(place).is_empty() {
            let ids = trace.runs(place).iter().flat_map(|run| run.ids());
            let ids: Vec<String> = ids.map(|id| id.0.to_string()).collect();
            let _ = write!(text, ", \"hash_ids\": [{}]", ids.join(", "));
        }
        if let Some(worker) = heard.worker {
            let cached = heard.cached_tokens;
            let _ = write!(text, ", \"worker\": {}, \"cached_tokens\": {cached}", worker.0);
        }
        text.push_str("}\n");
    }
    text
}

/// What the rows have no place for.
fn lost(all: &[Heard]) -> Vec<String> {
    let count = |is_so: fn(&Heard) -> bool| all.iter().filter(|heard| is_so(heard)).count();
    [
        (count(|heard| heard.request.priority != 0), "requests lose their priorities"),
        (
            count(|heard| heard.request.content.fork_tokens() > 0),
            "prompts share a part of a block, which only TensorRT-LLM uses: the rows have whole \
             blocks",
        ),
    ]
    .into_iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, what)| format!("{count} {what}"))
    .collect()
}
