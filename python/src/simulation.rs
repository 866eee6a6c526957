//! A simulation, stepped, watched and steered.
//!
//! It lives on a thread of its own, which does what it is asked one after the other: so
//! any thread of Python may ask, the GIL is free meanwhile, and Ctrl-C is heard.

use crate::errors::{OrRaise, plain};
use crate::events::WorkerEvent;
use crate::policy::{Failure, report_here};
use crate::values::{to_python, to_toml};
use crate::wait::{answer, try_to, wait_for};
use crate::workload::{Iterated, Requests};
use kv_router_sim::simulation::ControlSettings;
use kv_router_sim::{
    self as sim, End, Happening, RunSpec, SimDuration, SimTime, Snapshot, Stop, Stuck, Verdict,
    WorkerEffect, controls_toml,
};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use serde::Deserialize;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, ThreadId};
use toml::Value;

/// Simulated time between two looks at whether to stop.
const STRETCH: SimDuration = SimDuration::from_secs(10);

type Task = Box<dyn FnOnce(&mut Option<sim::Simulation<'static>>) + Send>;

/// A simulation at some moment of its time.
#[pyclass(frozen, module = "kv_router_sim")]
pub(crate) struct Simulation {
    tasks: Mutex<Sender<Task>>,
    /// Its thread, which also calls what is written in Python.
    thread: ThreadId,
    failure: Arc<Failure>,
    /// Why its workload gives no more requests, if it has failed.
    broken: Arc<OnceLock<String>>,
    seed: u64,
}

impl Simulation {
    pub(crate) fn start(
        py: Python<'_>,
        run: RunSpec,
        seed: u64,
        workload: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let failure = Arc::new(Failure::default());
        let requests = workload.map(|requests| Requests::of(requests, Arc::clone(&failure)));
        let workload = requests.transpose()?;
        let broken = Arc::new(OnceLock::new());
        let (tasks, asked) = mpsc::channel::<Task>();
        let reported = Arc::clone(&failure);
        let thread = thread::Builder::new()
            .name("simulation".to_owned())
            .spawn(move || {
                report_here(reported);
                let mut simulation = None;
                for task in asked {
                    task(&mut simulation);
                }
            })
            .map_err(|error| plain(&format!("cannot start a thread ({error})")))?;
        let thread = thread.thread().id();
        let why = Arc::clone(&broken);
        let make = move |simulation: &mut Option<sim::Simulation<'static>>| {
            *simulation = Some(match workload {
                None => run.simulation(seed),
                Some(requests) => run.simulation_of(Iterated::new(requests, why), seed),
            });
            Some(())
        };
        let started = Self { tasks: Mutex::new(tasks), thread, failure, broken, seed };
        // What goes wrong at the start is said here.
        started.ask_whole(py, &Stop::default(), make)?;
        Ok(started)
    }

    /// Asks its thread, and waits.
    fn ask<T: Send + 'static>(
        &self,
        py: Python<'_>,
        task: impl FnOnce(&mut sim::Simulation<'static>) -> T + Send + 'static,
    ) -> PyResult<T> {
        self.ask_until(py, &Stop::default(), task)
    }

    fn ask_until<T: Send + 'static>(
        &self,
        py: Python<'_>,
        stop: &Stop,
        task: impl FnOnce(&mut sim::Simulation<'static>) -> T + Send + 'static,
    ) -> PyResult<T> {
        self.ask_whole(py, stop, move |simulation| simulation.as_mut().map(task))
    }

    fn ask_whole<T: Send + 'static>(
        &self,
        py: Python<'_>,
        stop: &Stop,
        task: impl FnOnce(&mut Option<sim::Simulation<'static>>) -> Option<T> + Send + 'static,
    ) -> PyResult<T> {
        if self.is_inside() {
            // Its thread would wait for itself.
            return Err(PyRuntimeError::new_err(
                "a simulation cannot be asked from inside its own call",
            ));
        }
        self.failure.during(stop, || {
            let (done, answers) = mpsc::channel();
            let task: Task = Box::new(move |simulation| {
                let ended = try_to(|| task(simulation));
                if ended.is_err() {
                    *simulation = None;
                }
                // Whoever asked may have gone.
                let _ = done.send(ended);
            });
            let sent = self.tasks.lock().unwrap_or_else(PoisonError::into_inner).send(task);
            let ended = match sent {
                Ok(()) => wait_for(py, answers, stop, |_| Ok(()))?,
                Err(_) => None,
            };
            ended.and_then(answer).ok_or_else(|| plain("this simulation has been finished"))
        })
    }

    /// Whether it is this simulation that calls: an observer, a policy or a workload.
    fn is_inside(&self) -> bool {
        thread::current().id() == self.thread
    }

    /// Fails, as a defect would make it.
    pub(crate) fn fail(&self, py: Python<'_>) -> PyResult<()> {
        self.ask(py, |_| panic!("a defect on purpose"))
    }

    fn put_in(&self, py: Python<'_>, until: SimTime) -> PyResult<bool> {
        if let Some(why) = self.broken.get() {
            return Err(plain(why));
        }
        let stop = Stop::default();
        let asked = stop.clone();
        let advance = move |simulation: &mut sim::Simulation<'static>| -> Result<bool, Stuck> {
            loop {
                let due = simulation.due();
                let next = simulation.now() + STRETCH;
                let to = if due == SimTime::MAX { until } else { until.min(next) };
                let progress = simulation.advance(to)?;
                if progress.is_over || to == until || asked.is_asked() {
                    return Ok(progress.is_over);
                }
            }
        };
        self.ask_until(py, &stop, advance)?.or_raise()
    }
}

fn duration(key: &str, seconds: f64) -> PyResult<SimDuration> {
    if seconds.is_finite() && (0.0..=8.64e6).contains(&seconds) {
        return Ok(SimDuration::from_secs_f64(seconds));
    }
    Err(plain(&format!("{key} = {seconds}: must be seconds, from 0 to 8640000 (100 days)")))
}

#[pymethods]
impl Simulation {
    /// Its clock, in seconds.
    #[getter]
    fn now(&self, py: Python<'_>) -> PyResult<f64> {
        self.ask(py, |simulation| simulation.now().as_secs())
    }

    #[getter]
    fn seed(&self) -> u64 {
        self.seed
    }

    /// Puts time in: so many seconds. True once it is over.
    fn step(&self, py: Python<'_>, seconds: f64) -> PyResult<bool> {
        let more = duration("seconds", seconds)?;
        let now = self.ask(py, |simulation| simulation.now())?;
        self.put_in(py, now + more)
    }

    /// Puts time in, up to a moment. True once it is over.
    fn step_until(&self, py: Python<'_>, at: f64) -> PyResult<bool> {
        self.put_in(py, SimTime::ZERO + duration("at", at)?)
    }

    /// Lets it run to its end.
    fn run(&self, py: Python<'_>) -> PyResult<()> {
        self.put_in(py, SimTime::MAX).map(drop)
    }

    /// Changes it now, with the keys that `[[control]]` has.
    #[pyo3(signature = (what, **keys))]
    fn steer(&self, py: Python<'_>, what: &str, keys: Option<&Bound<'_, PyDict>>) -> PyResult<()> {
        let mut table = toml::Table::new();
        table.insert("at".to_owned(), Value::String("0s".to_owned()));
        table.insert("what".to_owned(), Value::String(what.to_owned()));
        for (key, value) in keys.into_iter().flatten() {
            let (key, mut value) = (key.extract::<String>()?, to_toml(&value)?);
            if key == "at" || key == "only" {
                return Err(plain(&format!(
                    "{key}: must be left out: a simulation is steered at its present moment"
                )));
            }
            // Rates and factors are numbers, whether they are whole or not.
            if let (Value::Integer(whole), "rate" | "value" | "factor" | "loss_ratio") =
                (&value, key.as_str())
            {
                value = Value::Float(*whole as f64);
            }
            table.insert(key, value);
        }
        let settings = ControlSettings::deserialize(Value::Table(table));
        let settings = settings.map_err(|error| plain(&format!("steer: {}", error.message())))?;
        let control = settings.control().or_raise()?;
        self.ask(py, |simulation| simulation.apply(control))?.or_raise()
    }

    /// What was changed by hand so far, as the text of an experiment.
    #[getter]
    fn applied(&self, py: Python<'_>) -> PyResult<String> {
        self.ask(py, |simulation| controls_toml(simulation.applied()))
    }

    /// From now on snapshots say what happened in so many seconds before them.
    fn watch(&self, py: Python<'_>, seconds: f64) -> PyResult<()> {
        let over = duration("seconds", seconds)?;
        if over.is_zero() {
            return Err(plain("seconds = 0: must be more than 0"));
        }
        self.ask(py, move |simulation| simulation.watch(over))
    }

    /// What a dashboard would show.
    fn snapshot<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let snapshot = self.ask(py, |simulation| simulation.snapshot())?;
        shown(py, &snapshot)
    }

    /// A function hears everything that happens from now on.
    fn observe(&self, py: Python<'_>, observer: Py<PyAny>) -> PyResult<()> {
        let failure = Arc::clone(&self.failure);
        self.ask(py, move |simulation| {
            simulation.observe(move |now: SimTime, happening: &Happening<'_>| {
                Python::attach(|py| {
                    let told = told(py, now, happening);
                    if let Err(error) = told.and_then(|told| observer.call1(py, (told,))) {
                        failure.report(&error);
                    }
                });
            });
        })
    }

    /// The digest so far.
    #[getter]
    fn digest(&self, py: Python<'_>) -> PyResult<String> {
        self.ask(py, |simulation| hex(simulation.digest()))
    }

    /// Ends it at its clock's time, and gives the metrics of each measured window that
    /// has ended.
    fn finish<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let finish = |simulation: &mut Option<sim::Simulation<'static>>| {
            simulation.take().map(|simulation| simulation.finish().levels)
        };
        let levels = self.ask_whole(py, &Stop::default(), finish)?;
        let level = |metrics: &sim::Metrics| to_python(py, &serde_json::json!(metrics));
        PyList::new(py, levels.iter().map(level).collect::<PyResult<Vec<_>>>()?)
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        match self.now(py) {
            Ok(now) => format!("<Simulation at {now} s>"),
            Err(_) if self.is_inside() => "<Simulation, at work>".to_owned(),
            Err(_) => "<Simulation, finished>".to_owned(),
        }
    }
}

fn hex(digest: [u8; 32]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A snapshot as a dictionary.
fn shown<'py>(py: Python<'py>, snapshot: &Snapshot) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("at", snapshot.at.as_secs())?;
    dict.set_item("live_requests", snapshot.live_requests)?;
    dict.set_item("held_requests", snapshot.held_requests)?;
    if let Some(recent) = &snapshot.recent {
        dict.set_item("over", recent.over.as_secs())?;
        dict.set_item("ttft_ms_p50", recent.ttft_ms_p50)?;
        dict.set_item("ttft_ms_p95", recent.ttft_ms_p95)?;
        dict.set_item("itl_ms_p50", recent.itl_ms_p50)?;
        dict.set_item("itl_ms_p95", recent.itl_ms_p95)?;
        dict.set_item("e2e_ms_p50", recent.e2e_ms_p50)?;
        dict.set_item("e2e_ms_p95", recent.e2e_ms_p95)?;
        dict.set_item("requests_per_s", recent.requests_per_s)?;
        dict.set_item("hit_ratio", recent.hit_ratio)?;
        dict.set_item("error_ratio", recent.error_ratio)?;
        dict.set_item("output_tokens_per_s", snapshot.output_tokens_per_s)?;
        dict.set_item("gap_ms_p50", snapshot.gap_ms_p50)?;
        dict.set_item("gap_ms_p95", snapshot.gap_ms_p95)?;
    }
    let workers = PyList::empty(py);
    for worker in &snapshot.workers {
        let of = PyDict::new(py);
        of.set_item("is_present", worker.is_present)?;
        of.set_item("running", worker.running)?;
        of.set_item("waiting", worker.waiting)?;
        of.set_item("used_blocks", worker.used_blocks)?;
        of.set_item("inflight", worker.inflight)?;
        of.set_item("queue_ms", worker.queue_ms)?;
        of.set_item("hit_ratio", worker.hit_ratio)?;
        workers.append(of)?;
    }
    dict.set_item("workers", workers)?;
    Ok(dict)
}

/// Something that happens, as a dictionary.
fn told<'py>(
    py: Python<'py>,
    now: SimTime,
    happening: &Happening<'_>,
) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("at", now.as_secs())?;
    let kind = match happening {
        Happening::Arrival(arrival) => {
            let request = &arrival.request;
            dict.set_item("request", request.id.0)?;
            dict.set_item("conversation", request.conversation.0)?;
            dict.set_item("turn", request.turn)?;
            dict.set_item("prompt_tokens", request.prompt_tokens)?;
            "arrival"
        }
        Happening::Decision { request, front_end, verdict } => {
            dict.set_item("request", request.id.0)?;
            dict.set_item("front_end", *front_end)?;
            let (verdict, worker) = match verdict {
                Verdict::Send(worker) => ("send", Some(worker.0)),
                Verdict::Hold => ("hold", None),
                Verdict::Reject(_) => ("reject", None),
            };
            dict.set_item("verdict", verdict)?;
            dict.set_item("worker", worker)?;
            "decision"
        }
        Happening::Dispatch { request, worker } => {
            dict.set_item("request", request.id.0)?;
            dict.set_item("worker", worker.0)?;
            dict.set_item("prompt_tokens", request.prompt_tokens)?;
            "dispatch"
        }
        Happening::Worker(event) => {
            dict.set_item("request", event.request.0)?;
            dict.set_item("worker", event.worker.0)?;
            dict.set_item("event", WorkerEvent::of(event))?;
            "worker"
        }
        Happening::HangUp(request) => {
            dict.set_item("request", request.0)?;
            "hang_up"
        }
        Happening::End { request, end } => {
            dict.set_item("request", request.0)?;
            let end = match end {
                End::Finished { output_tokens } => {
                    dict.set_item("output_tokens", *output_tokens)?;
                    "finished"
                }
                End::Rejected(reason) => {
                    dict.set_item("reason", reason.to_string())?;
                    "rejected"
                }
                End::Failed => "failed",
                End::GivenUp => "given up",
                _ => "other",
            };
            dict.set_item("end", end)?;
            "end"
        }
        Happening::Change(effect) => {
            let (change, worker) = match effect {
                WorkerEffect::Stop(worker) => ("stop", Some(worker)),
                WorkerEffect::Serve(worker) => ("serve", Some(worker)),
                WorkerEffect::Pace(worker, _) => ("pace", Some(worker)),
                WorkerEffect::Left(worker) => ("left", Some(worker)),
                WorkerEffect::Joined(worker) => ("joined", Some(worker)),
                WorkerEffect::Lost(worker, request) => {
                    dict.set_item("request", request.0)?;
                    ("lost", Some(worker))
                }
                _ => ("other", None),
            };
            dict.set_item("change", change)?;
            dict.set_item("worker", worker.map(|worker| worker.0))?;
            "change"
        }
        Happening::Control(control) => {
            dict.set_item("control", format!("{control:?}"))?;
            "control"
        }
        _ => "other",
    };
    dict.set_item("kind", kind)?;
    Ok(dict)
}
