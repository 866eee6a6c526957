//! Policies in Python, named and swept like any other.

use crate::errors::plain;
use crate::events::{KvEvent, WorkerEvent};
use crate::view::{ClusterView, Fleet, RouteRequest};
use kv_router_sim::event;
use kv_router_sim::{
    self as sim, About, ClusterSpec, Invalid, Parameter, Policy, PolicyFactory, RejectReason,
    Release, RequestId, SimDuration, SimTime, Stop, Verdict, WorkerId,
};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use serde_json::{Value as Json, json};
use std::cell::{OnceCell, RefCell};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use toml::{Table, Value};

/// Where exceptions in Python's code go: to the runs that they end.
#[derive(Debug, Default)]
pub(crate) struct Failure(Mutex<Vec<Running>>);

#[derive(Debug)]
struct Running {
    stop: Stop,
    /// The first since it began.
    error: Option<PyErr>,
    /// Tells it from others: they may end in any order.
    number: u64,
}

thread_local! {
    /// Where policies that are made on this thread report.
    static HERE: RefCell<Option<Arc<Failure>>> = const { RefCell::new(None) };
}

/// From now on policies that are made on this thread report to `failure`, not to that of
/// their experiment: simulations of one experiment do not end each other.
pub(crate) fn report_here(failure: Arc<Failure>) {
    HERE.set(Some(failure));
}

impl Failure {
    fn lock(&self) -> MutexGuard<'_, Vec<Running>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends what runs with `error`, unless an earlier one does.
    pub(crate) fn report(&self, error: &PyErr) {
        Python::attach(|py| {
            for run in &mut *self.lock() {
                run.stop.ask();
                run.error.get_or_insert_with(|| error.clone_ref(py));
            }
        });
    }

    /// Ends with an exception, if there was one meanwhile.
    pub(crate) fn during<T>(&self, stop: &Stop, work: impl FnOnce() -> PyResult<T>) -> PyResult<T> {
        let mut running = self.lock();
        let number = running.last().map_or(0, |last| last.number + 1);
        running.push(Running { stop: stop.clone(), error: None, number });
        drop(running);
        let result = work();
        let mut running = self.lock();
        let at = running.iter().position(|run| run.number == number);
        let error = at.and_then(|at| running.remove(at).error);
        drop(running);
        match error {
            Some(error) => Err(error),
            None => result,
        }
    }
}

/// Reports of a policy are this far apart at least, in seconds, as for those in Rust: each
/// looks at every worker.
const LEAST_REPORT_PERIOD: f64 = 0.001;

/// Makes the policies of one Python class.
pub(crate) struct PythonPolicy {
    class: Py<PyAny>,
    about: About,
    /// Whether its constructor asks for the facts of its fleet, and for a seed.
    wants: (bool, bool),
    failure: Arc<Failure>,
}

impl fmt::Debug for PythonPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PythonPolicy").field("name", &self.about.name).finish_non_exhaustive()
    }
}

/// What `_policies.describe` says of a class.
#[derive(FromPyObject)]
struct Described {
    name: String,
    rule: String,
    #[pyo3(attribute("parameters"))]
    parameters: Vec<DescribedParameter>,
    wants_fleet: bool,
    wants_seed: bool,
}

#[derive(FromPyObject)]
struct DescribedParameter {
    name: String,
    kind: String,
    doc: String,
    default: Py<PyAny>,
}

impl PythonPolicy {
    /// From a class; its exceptions go to `failure`.
    pub(crate) fn of(class: &Bound<'_, PyAny>, failure: Arc<Failure>) -> PyResult<Self> {
        let py = class.py();
        let described = py.import("kv_router_sim._policies")?.call_method1("describe", (class,))?;
        let Described { name, rule, parameters, wants_fleet, wants_seed } = described.extract()?;
        let mut about = About::new(name, rule);
        for DescribedParameter { name, kind, doc, default } in parameters {
            let default = crate::values::to_toml(default.bind(py))?;
            // As schemars describes Rust's types: one key has one meaning, whoever reads it.
            let schema = match kind.as_str() {
                "integer" => json!({ "type": "integer", "format": "int64" }),
                "number" => json!({ "type": "number", "format": "double" }),
                other => json!({ "type": other }),
            };
            about.parameters.push(Parameter::new(name, doc, default, schema));
        }
        Ok(Self { class: class.clone().unbind(), about, wants: (wants_fleet, wants_seed), failure })
    }

    fn make(
        &self,
        py: Python<'_>,
        parameters: &Table,
        cluster: &ClusterSpec,
        seed: u64,
        failure: Arc<Failure>,
    ) -> PyResult<Asked> {
        let given = PyDict::new(py);
        for (key, value) in parameters {
            let value: Json = json!(value);
            given.set_item(key, crate::values::to_python(py, &value)?)?;
        }
        if self.wants.0 {
            given.set_item("fleet", Fleet::of(cluster))?;
        }
        if self.wants.1 {
            given.set_item("seed", seed)?;
        }
        let object = self.class.bind(py).call((), Some(&given))?;
        let method = |name: &str| -> PyResult<Option<Py<PyAny>>> {
            object.getattr_opt(name).map(|found| found.map(Bound::unbind))
        };
        let flag = |name: &str| -> PyResult<bool> {
            object.getattr_opt(name)?.map_or(Ok(false), |flag| flag.is_truthy())
        };
        let route = method("route")?;
        let route = route.ok_or_else(|| PyTypeError::new_err("a policy has a method `route`"))?;
        let report_period = match object.getattr_opt("report_period")? {
            Some(period) if !period.is_none() => {
                let seconds: f64 = period.extract()?;
                if !(seconds.is_finite() && seconds >= LEAST_REPORT_PERIOD) {
                    return Err(PyValueError::new_err(format!(
                        "report_period = {seconds}: must be seconds, at least \
                         {LEAST_REPORT_PERIOD}"
                    )));
                }
                Some(SimDuration::from_secs_f64(seconds))
            }
            _ => None,
        };
        Ok(Asked {
            name: self.about.name.clone(),
            route,
            observe: method("observe")?,
            observe_kv: method("observe_kv")?,
            release: method("release")?,
            wake_at: method("wake_at")?,
            worker_left: method("worker_left")?,
            worker_joined: method("worker_joined")?,
            hears_kv_on_demand: flag("hears_kv_on_demand")?,
            wants_output_blocks: flag("wants_output_blocks")?,
            report_period,
            view: Py::new(py, ClusterView::new())?,
            failure,
            held: BTreeSet::new(),
            failed: OnceCell::new(),
            _known: Known::new(),
        })
    }
}

impl PolicyFactory for PythonPolicy {
    fn about(&self) -> &About {
        &self.about
    }

    fn complete(&self, given: &Table) -> Result<Table, Invalid> {
        let mut table = Table::new();
        for parameter in &self.about.parameters {
            let Some(default) = &parameter.default else { continue };
            let value = match given.get(&parameter.name) {
                None => default.clone(),
                Some(value) => {
                    let value = match (default, value) {
                        (Value::Float(_), Value::Integer(whole)) => Value::Float(*whole as f64),
                        _ => value.clone(),
                    };
                    if !value.same_type(default) {
                        return Err(Invalid::new(&parameter.name, &value, &parameter.allowed));
                    }
                    value
                }
            };
            table.insert(parameter.name.clone(), value);
        }
        Ok(table)
    }

    fn build(&self, parameters: &Table, cluster: &ClusterSpec, seed: u64) -> Box<dyn Policy> {
        let here = HERE.with_borrow(Option::clone);
        let failure = here.unwrap_or_else(|| Arc::clone(&self.failure));
        let make = |py: Python<'_>| self.make(py, parameters, cluster, seed, Arc::clone(&failure));
        match Python::attach(make) {
            Ok(policy) => Box::new(policy),
            Err(error) => {
                failure.report(&error);
                Box::new(Unmade(why(&self.about.name, &error)))
            }
        }
    }
}

/// Why a policy cannot decide any more, for those who ask after its exception was raised.
fn why(name: &str, error: &PyErr) -> String {
    format!("the policy {name:?} failed before: {error}")
}

/// Stands where a constructor has failed, and says why; the run ends.
struct Unmade(String);

impl Policy for Unmade {
    fn route(
        &mut self,
        _: SimTime,
        _: &sim::RouteRequest<'_>,
        _: &sim::ClusterView<'_>,
    ) -> Verdict {
        Verdict::Reject(RejectReason::Policy)
    }

    fn failure(&self) -> Option<String> {
        Some(self.0.clone())
    }
}

/// Python's record of the thread that it was made on. A thread that Python does not know
/// gets one for each call otherwise, which takes longer than most calls.
struct Known;

impl Known {
    #[expect(unsafe_code, reason = "PyO3 has no such thing")]
    fn new() -> Self {
        // SAFETY: the thread is attached. What this adds is taken back in `drop`, on the
        // same thread: policies do not leave the thread that they are made on.
        Python::attach(|_| unsafe { ffi::PyGILState_Ensure() });
        Self
    }
}

impl Drop for Known {
    #[expect(unsafe_code, reason = "PyO3 has no such thing")]
    fn drop(&mut self) {
        // An interpreter that is about to end keeps its records.
        // SAFETY: the thread is attached, by a record of its own besides that of `new`.
        let _ = Python::try_attach(|_| unsafe {
            ffi::PyGILState_Release(ffi::PyGILState_STATE::PyGILState_LOCKED);
        });
    }
}

/// A call of a method.
type Call<'a> = dyn Fn(Python<'_>, &Py<PyAny>) -> PyResult<Py<PyAny>> + 'a;

/// An object of Python that is asked.
struct Asked {
    name: String,
    route: Py<PyAny>,
    observe: Option<Py<PyAny>>,
    observe_kv: Option<Py<PyAny>>,
    release: Option<Py<PyAny>>,
    wake_at: Option<Py<PyAny>>,
    worker_left: Option<Py<PyAny>>,
    worker_joined: Option<Py<PyAny>>,
    hears_kv_on_demand: bool,
    wants_output_blocks: bool,
    report_period: Option<SimDuration>,
    view: Py<ClusterView>,
    failure: Arc<Failure>,
    /// The requests that it holds.
    held: BTreeSet<RequestId>,
    /// Why it has failed, if it has: Python is not asked again, and the simulation ends.
    failed: OnceCell<String>,
    /// Goes last.
    _known: Known,
}

impl Asked {
    /// Adds to an exception what was asked, and reports it.
    fn fail(&self, py: Python<'_>, error: &PyErr, asked: &str) {
        self.failed.get_or_init(|| why(&self.name, error));
        let note = format!("{asked} (policy {:?})", self.name);
        let value = error.value(py);
        // Exceptions take notes from Python 3.11 on; before that it is where they would be.
        let noted = value.call_method1("add_note", (&note,)).map(drop);
        let _ = noted.or_else(|_| value.setattr("__notes__", vec![note]));
        self.failure.report(error);
    }

    fn has_failed(&self) -> bool {
        self.failed.get().is_some()
    }

    fn tell(&self, method: &Option<Py<PyAny>>, asked: &dyn Fn() -> String, call: &Call<'_>) {
        let Some(method) = method.as_ref().filter(|_| !self.has_failed()) else { return };
        Python::attach(|py| {
            if let Err(error) = call(py, method) {
                self.fail(py, &error, &asked());
            }
        });
    }

    /// The worker of an answer, if it is one that takes requests.
    fn worker(answer: u32, view: &sim::ClusterView<'_>) -> PyResult<WorkerId> {
        let found = view.workers.get(answer as usize);
        if found.is_some_and(|worker| worker.available) {
            return Ok(WorkerId(answer));
        }
        let available: Vec<String> = view.available().map(|(at, _)| at.to_string()).collect();
        Err(plain(&format!(
            "worker {answer}: must be one that takes requests: {}",
            available.join(", ")
        )))
    }

    fn verdict(
        answer: &Bound<'_, PyAny>,
        may_hold: bool,
        view: &sim::ClusterView<'_>,
    ) -> PyResult<Verdict> {
        if let Ok(worker) = answer.extract::<u32>() {
            return Self::worker(worker, view).map(Verdict::send);
        }
        if answer.is_none() {
            if may_hold {
                return Ok(Verdict::Hold);
            }
            return Err(plain(
                "route gave None: must be the number of a worker; a policy that holds requests \
                 has a method `release`",
            ));
        }
        if answer.is(answer.py().import("kv_router_sim._policies")?.getattr("REJECT")?) {
            return Ok(Verdict::Reject(RejectReason::Policy));
        }
        let seen = answer.repr().map_or_else(|_| "an object".to_owned(), |text| text.to_string());
        Err(plain(&format!("route gave {seen}: must be the number of a worker")))
    }
}

impl Policy for Asked {
    fn route(
        &mut self,
        now: SimTime,
        request: &sim::RouteRequest<'_>,
        view: &sim::ClusterView<'_>,
    ) -> Verdict {
        let rejected = Verdict::Reject(RejectReason::Policy);
        if self.has_failed() {
            return rejected;
        }
        Python::attach(|py| {
            let ask = || -> PyResult<Verdict> {
                let shown = Py::new(py, RouteRequest::of(request))?;
                let arguments = (now.as_secs(), &shown, &self.view);
                let call = || self.route.bind(py).call1(arguments);
                let call = || self.view.get().lend(view, call);
                let answer = shown.get().lend(request.blocks, call)?;
                Self::verdict(&answer, self.release.is_some(), view)
            };
            let verdict = ask();
            if matches!(verdict, Ok(Verdict::Hold)) {
                self.held.insert(request.id);
            }
            verdict.unwrap_or_else(|error| {
                let asked = format!(
                    "while routing request {} at {} s: {} prompt tokens, conversation {}",
                    request.id,
                    now.as_secs(),
                    request.prompt_tokens,
                    request.conversation
                );
                self.fail(py, &error, &asked);
                rejected
            })
        })
    }

    fn observe(&mut self, now: SimTime, event: &event::WorkerEvent) {
        let asked = || format!("while observing request {} at {} s", event.request, now.as_secs());
        self.tell(&self.observe, &asked, &|py, method| {
            method.call1(py, (now.as_secs(), WorkerEvent::of(event)))
        });
    }

    fn wants_kv_events(&self) -> bool {
        self.observe_kv.is_some()
    }

    fn observe_kv(&mut self, worker: WorkerId, event: &event::KvEvent) {
        let asked = || format!("while observing the cache of worker {worker}");
        self.tell(&self.observe_kv, &asked, &|py, method| {
            method.call1(py, (worker.0, KvEvent::of(event)))
        });
    }

    fn hears_kv_on_demand(&self) -> bool {
        self.hears_kv_on_demand
    }

    fn report_period(&self) -> Option<SimDuration> {
        self.report_period
    }

    fn wants_output_blocks(&self) -> bool {
        self.wants_output_blocks
    }

    fn release(&mut self, now: SimTime, view: &sim::ClusterView<'_>) -> Option<Release> {
        if self.has_failed() {
            return None;
        }
        Python::attach(|py| {
            let method = self.release.as_ref()?.clone_ref(py);
            let ask = || -> PyResult<Option<Release>> {
                let call = || method.bind(py).call1((now.as_secs(), &self.view));
                let answer = self.view.get().lend(view, call)?;
                let Some((request, worker)) =
                    answer.extract::<Option<(u32, Bound<'_, PyAny>)>>()?
                else {
                    return Ok(None);
                };
                let verdict = match Self::verdict(&worker, false, view)? {
                    Verdict::Send(worker) => Ok(worker),
                    Verdict::Reject(reason) => Err(reason),
                    Verdict::Hold => unreachable!("None was refused"),
                };
                if !self.held.contains(&RequestId(request)) {
                    return Err(plain(&format!("request {request}: must be one that is held")));
                }
                Ok(Some((RequestId(request), verdict)))
            };
            let released = ask();
            if let Ok(Some((request, _))) = &released {
                self.held.remove(request);
            }
            released.unwrap_or_else(|error| {
                self.fail(py, &error, &format!("while releasing requests at {} s", now.as_secs()));
                None
            })
        })
    }

    fn wake_at(&self) -> Option<SimTime> {
        let method = self.wake_at.as_ref().filter(|_| !self.has_failed())?;
        Python::attach(|py| {
            let ask = || -> PyResult<Option<SimTime>> {
                let Some(at) = method.call0(py)?.extract::<Option<f64>>(py)? else {
                    return Ok(None);
                };
                if !(at.is_finite() && at >= 0.0) {
                    return Err(PyValueError::new_err(format!(
                        "wake_at gave {at}: must be seconds, at least 0, or None"
                    )));
                }
                Ok(Some(SimTime::ZERO + SimDuration::from_secs_f64(at)))
            };
            ask().unwrap_or_else(|error| {
                self.fail(py, &error, "while asking when to release requests");
                None
            })
        })
    }

    fn failure(&self) -> Option<String> {
        self.failed.get().cloned()
    }

    fn worker_left(&mut self, worker: WorkerId) {
        self.tell(&self.worker_left, &|| format!("while worker {worker} leaves"), &|py, method| {
            method.call1(py, (worker.0,))
        });
    }

    fn worker_joined(&mut self, worker: WorkerId) {
        self.tell(
            &self.worker_joined,
            &|| format!("while worker {worker} joins"),
            &|py, method| method.call1(py, (worker.0,)),
        );
    }
}
