//! Experiments: loaded, changed, run.

use crate::errors::{IntoError, OrRaise, plain};
use crate::gathered::Gathered;
use crate::policy::{Failure, PythonPolicy};
use crate::results::{Results, traces_folder};
use crate::simulation::Simulation;
use crate::values::{setting, to_python};
use crate::wait::{Count, work};
use kv_router_sim::experiment::Shard;
use kv_router_sim::frontier::Asked;
use kv_router_sim::report::judge::terms::remarks;
use kv_router_sim::report::render::table;
use kv_router_sim::report::view::plain as text_of;
use kv_router_sim::report::view::published::Published;
use kv_router_sim::results::Gathering;
use kv_router_sim::router::Registry;
use kv_router_sim::settings::same;
use kv_router_sim::{self as sim, LoadOptions, ResultFolder, RunInto, RunOptions, RunSpec, Stop};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyMapping};
use serde_json::Value as Json;
use std::path::PathBuf;
use std::sync::Arc;

/// Where an experiment's text comes from.
#[derive(Clone)]
enum Source {
    /// A file, a folder of `sim init`, or a name.
    File,
    /// A text that stands for the file.
    Text(Arc<str>),
}

/// Policies in Python.
type Classes = Arc<Vec<Py<PyAny>>>;

/// File, text, overrides, folder of traces, policies, hash.
type Recipe = (PathBuf, Option<String>, Vec<String>, Option<PathBuf>, Vec<Py<PyAny>>, String);

/// A checked experiment. It never changes: what changes it gives another one.
#[pyclass(frozen, module = "kv_router_sim")]
pub(crate) struct Experiment {
    file: PathBuf,
    source: Source,
    options: LoadOptions,
    checked: Arc<sim::Experiment>,
    /// The policies in Python.
    classes: Classes,
    /// Of the policies in Python, if it has any.
    failure: Arc<Failure>,
}

impl Experiment {
    fn new(
        file: PathBuf,
        source: Source,
        options: LoadOptions,
        classes: Classes,
        failure: Arc<Failure>,
    ) -> PyResult<Self> {
        let checked = failure.during(&Stop::default(), || {
            match &source {
                Source::File => sim::Experiment::load(&file, &options),
                Source::Text(text) => sim::Experiment::parse(&file, text, &options),
            }
            .or_raise()
        })?;
        Ok(Self { file, source, options, checked: Arc::new(checked), classes, failure })
    }

    fn from(
        py: Python<'_>,
        file: PathBuf,
        source: Source,
        (traces, policies): (Option<PathBuf>, Vec<Bound<'_, PyAny>>),
        set: Option<&Bound<'_, PyMapping>>,
    ) -> PyResult<Self> {
        let (mut options, classes, failure) = Self::options(traces, policies)?;
        add_settings(&mut options, set)?;
        py.detach(|| Self::new(file, source, options, classes, failure))
    }

    /// Simulates everything on this machine.
    fn run_here(
        &self,
        py: Python<'_>,
        (jobs, requests): (Option<usize>, bool),
        told: Option<Py<PyAny>>,
        (out, force, figures, columns): (Option<PathBuf>, bool, bool, bool),
    ) -> PyResult<Results> {
        let experiment = &*self.checked;
        let (stop, count) = (Stop::default(), Count::default());
        let mut into = self.run_options(columns)?;
        (into.progress, into.stop) = (&count, Some(&stop));
        (into.requests, into.figures) = (requests, figures);
        // A class may be another one by the time that a run would go on.
        into.resumable = !self.has_python();
        into.jobs = jobs;
        let folder = out.map(|out| {
            let open = if force { ResultFolder::replace } else { ResultFolder::resume };
            open(&out, experiment).or_raise()
        });
        let folder = folder.transpose()?;
        let path = folder.as_ref().map(|folder| folder.path().to_owned());
        let simulate = || match folder {
            None => {
                let mut options = RunOptions::default().progress(&count).stop(&stop);
                (options.jobs, options.keep_requests) = (into.jobs, requests);
                let outcome = sim::run(experiment, options).or_raise()?;
                let (results, requests) = sim::Results::of(experiment, outcome, &into);
                Ok((results, requests, None))
            }
            Some(folder) => {
                let saved = sim::run_into(folder, experiment, &into).or_raise()?;
                saved.report.or_raise()?;
                let points = saved.in_columns.map(|found| found.points);
                Ok((saved.results, Vec::new(), points))
            }
        };
        let run = || work(py, &stop, count.teller(told), simulate)?;
        let (results, requests_kept, points) = self.failure.during(&stop, run)?;
        let requests_kept = (requests && path.is_none()).then_some(requests_kept);
        let results = Results::new(results, path, Some(Arc::clone(&self.checked)), requests_kept);
        Ok(results.in_columns(points))
    }

    /// How it is run into a folder, and saved there.
    fn run_options(&self, columns: bool) -> PyResult<RunInto<'static>> {
        let mut into = RunInto::new(&self.file, self.options.overrides.clone());
        if columns {
            into = into.in_columns();
        }
        into.published = Published::of(&self.checked).map_err(IntoError::into_error)?;
        Ok(into)
    }

    /// As it was loaded elsewhere.
    fn from_recipe(
        py: Python<'_>,
        file: PathBuf,
        source: Source,
        (traces, policies): (Option<PathBuf>, Vec<Bound<'_, PyAny>>),
        overrides: Vec<String>,
    ) -> PyResult<Self> {
        let (mut options, classes, failure) = Self::options(traces, policies)?;
        options.overrides = overrides;
        py.detach(|| Self::new(file, source, options, classes, failure))
    }

    /// What is added to an experiment's file.
    fn options(
        traces: Option<PathBuf>,
        policies: Vec<Bound<'_, PyAny>>,
    ) -> PyResult<(LoadOptions, Classes, Arc<Failure>)> {
        let failure = Arc::new(Failure::default());
        let mut options = LoadOptions::default();
        options.overrides_called = "set";
        options.traces = traces.or_else(traces_folder);
        for class in &policies {
            let policy = PythonPolicy::of(class, Arc::clone(&failure))?;
            options.policies.push(Arc::new(policy));
        }
        let classes = Arc::new(policies.into_iter().map(Bound::unbind).collect());
        Ok((options, classes, failure))
    }

    /// The same with one more override.
    fn again(&self, at: String) -> Result<sim::Experiment, sim::ExperimentError> {
        let options = self.options.clone().set(at);
        match &self.source {
            Source::File => sim::Experiment::load(&self.file, &options),
            Source::Text(text) => sim::Experiment::parse(&self.file, text, &options),
        }
    }

    fn has_python(&self) -> bool {
        !self.options.policies.is_empty()
    }

    /// The only run that has these values of swept keys.
    fn run_at(&self, at: Option<&Bound<'_, PyDict>>) -> PyResult<usize> {
        let mut wanted: Vec<(String, Json)> = Vec::new();
        for (key, value) in at.into_iter().flatten() {
            let value = crate::values::to_toml(&value)?;
            wanted.push((key.extract()?, serde_json::json!(value)));
        }
        let fits = |run: &RunSpec| {
            run.points.iter().any(|&point| {
                let params = &self.checked.points[point];
                wanted
                    .iter()
                    .all(|(key, value)| params.get(key).is_some_and(|own| same(own, value)))
            })
        };
        let runs = self.checked.runs.iter().enumerate();
        let found: Vec<usize> = runs.filter(|(_, run)| fits(run)).map(|(at, _)| at).collect();
        if let [only] = found[..] {
            return Ok(only);
        }
        let shown = |run: &RunSpec| {
            let pairs = self.checked.points[run.points[0]].iter();
            let pairs = pairs.map(|(key, value)| format!("{key}={}", text_of(value)));
            pairs.collect::<Vec<_>>().join(" ")
        };
        const MOST: usize = 8;
        let mut runs: Vec<String> = match found.is_empty() {
            true => self.checked.runs.iter().map(shown).collect(),
            false => found.iter().map(|&run| shown(&self.checked.runs[run])).collect(),
        };
        let more = runs.len().saturating_sub(MOST);
        runs.truncate(MOST);
        let runs = runs.join("; ");
        let more = if more > 0 { format!("; and {more} more") } else { String::new() };
        let what = if found.is_empty() { "no simulation has" } else { "several simulations have" };
        Err(plain(&format!("{what} what at= asks for; at= chooses one of: {runs}{more}")))
    }
}

#[pymethods]
impl Experiment {
    #[staticmethod]
    #[pyo3(signature = (source, *, set=None, traces=None, policies=Vec::new()))]
    fn load(
        py: Python<'_>,
        source: PathBuf,
        set: Option<&Bound<'_, PyMapping>>,
        traces: Option<PathBuf>,
        policies: Vec<Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        Self::from(py, source, Source::File, (traces, policies), set)
    }

    #[staticmethod]
    #[pyo3(signature = (text, *, file=PathBuf::from("experiment.toml"), set=None, traces=None, policies=Vec::new()))]
    fn parse(
        py: Python<'_>,
        text: &str,
        file: PathBuf,
        set: Option<&Bound<'_, PyMapping>>,
        traces: Option<PathBuf>,
        policies: Vec<Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        Self::from(py, file, Source::Text(text.into()), (traces, policies), set)
    }

    /// Sets a key, or the keys of a mapping at once; a list sweeps its key.
    #[pyo3(signature = (key, value=None, /))]
    fn set(
        &self,
        py: Python<'_>,
        key: &Bound<'_, PyAny>,
        value: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let mut options = self.options.clone();
        match (key.cast::<PyMapping>(), value) {
            (Ok(pairs), None) => add_settings(&mut options, Some(pairs))?,
            (_, Some(value)) => put(&mut options, setting(&key.extract::<String>()?, value)?),
            (Err(_), None) => {
                return Err(plain("set takes a key and a value, or a mapping of keys to values"));
            }
        }
        let Self { file, source, classes, failure, .. } = self;
        let (file, source) = (file.clone(), source.clone());
        let (classes, failure) = (Arc::clone(classes), Arc::clone(failure));
        py.detach(|| Self::new(file, source, options, classes, failure))
    }

    #[getter]
    fn name(&self) -> &str {
        &self.checked.name
    }

    #[getter]
    fn description(&self) -> &str {
        &self.checked.description
    }

    #[getter]
    fn seeds(&self) -> Vec<u64> {
        self.checked.seeds.clone()
    }

    /// The combinations of swept values, each as a dictionary.
    #[getter]
    fn points<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let points = self.checked.points.iter();
        points.map(|params| to_python(py, &serde_json::json!(params))).collect()
    }

    /// What is set, each key once, as the command line takes it after `--set`.
    #[getter]
    fn overrides(&self) -> Vec<String> {
        self.options.overrides.clone()
    }

    #[getter]
    fn settings<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        to_python(py, &self.checked.settings())
    }

    #[getter]
    fn config_hash(&self) -> &str {
        &self.checked.config_hash
    }

    #[getter]
    fn notices(&self) -> Vec<String> {
        self.checked.notices.clone()
    }

    /// Simulations that a run takes.
    #[getter]
    fn simulations(&self) -> usize {
        self.checked.simulations()
    }

    /// What it takes to load it somewhere else: its file or text, overrides, traces,
    /// policies, and the hash that it has then.
    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, Recipe)> {
        let Self { file, source, options, checked, classes, .. } = slf.get();
        let text = match source {
            Source::File => None,
            Source::Text(text) => Some(text.to_string()),
        };
        // Names of experiments that come with the package are the same everywhere.
        let file = if file.is_file() { std::path::absolute(file)? } else { file.clone() };
        let classes = classes.iter().map(|class| class.clone_ref(slf.py())).collect();
        let traces = options.traces.as_ref().map(std::path::absolute).transpose()?;
        let overrides = options.overrides.clone();
        let recipe = (file, text, overrides, traces, classes, checked.config_hash.clone());
        Ok((slf.get_type().getattr("_restore")?, recipe))
    }

    #[staticmethod]
    fn _restore(
        py: Python<'_>,
        file: PathBuf,
        text: Option<&str>,
        overrides: Vec<String>,
        traces: Option<PathBuf>,
        policies: Vec<Bound<'_, PyAny>>,
        config_hash: &str,
    ) -> PyResult<Self> {
        let source = text.map_or(Source::File, |text| Source::Text(text.into()));
        let loaded = Self::from_recipe(py, file, source, (traces, policies), overrides)?;
        if loaded.checked.config_hash != config_hash {
            return Err(plain(&format!(
                "{}: is another experiment here than where it comes from: its file, or a model \
                 or a trace that it names, differs",
                loaded.file.display()
            )));
        }
        Ok(loaded)
    }

    /// Simulates a part of it into a new folder.
    fn _run_part(
        &self,
        py: Python<'_>,
        folder: PathBuf,
        number: u32,
        of: u32,
        jobs: Option<usize>,
    ) -> PyResult<()> {
        check_jobs(jobs)?;
        let shard = Shard::new(number, of).or_raise()?;
        let (stop, count) = (Stop::default(), Count::default());
        let experiment = &*self.checked;
        let mut into = RunInto::new(&self.file, self.options.overrides.clone()).stop(&stop);
        into.jobs = jobs;
        let simulate = || {
            let folder = ResultFolder::create(&folder, experiment).or_raise()?;
            folder.run_shard(experiment, shard, &into).map(drop).or_raise()
        };
        let run = || work(py, &stop, count.teller(None), simulate)?;
        self.failure.during(&stop, run)
    }

    /// What gathers the parts of it, in a folder.
    fn _gather(&self, folder: PathBuf, force: bool, columns: bool) -> PyResult<Gathered> {
        let open = if force { ResultFolder::replace } else { ResultFolder::resume };
        let folder = open(&folder, &self.checked).or_raise()?;
        // A class may be another one by the time that a run would go on.
        let begin = if self.has_python() { Gathering::begin } else { Gathering::resume };
        let gathering = begin(folder).or_raise()?;
        let into = self.run_options(columns)?;
        let experiment = Arc::clone(&self.checked);
        Ok(Gathered::new(gathering, experiment, into, !self.has_python()))
    }

    /// Simulates everything.
    #[pyo3(signature = (
        *, jobs=None, requests=false, progress=None, out=None, force=false, figures=true,
        columns=false, executor=None, shards=None,
    ))]
    #[expect(clippy::too_many_arguments, reason = "keywords, in Python")]
    fn run<'py>(
        slf: &Bound<'py, Self>,
        jobs: Option<usize>,
        requests: bool,
        progress: Option<&Bound<'_, PyAny>>,
        out: Option<PathBuf>,
        force: bool,
        figures: bool,
        columns: bool,
        executor: Option<&str>,
        shards: Option<u32>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        check_jobs(jobs)?;
        let told = teller(py, progress)?;
        if columns && (out.is_none() || requests) {
            return Err(plain("columns=True: needs a folder, out=, and no requests="));
        }
        match executor {
            None if shards.is_some() => {
                Err(plain("shards= is for executor=\"ray\": here all cores share the simulations"))
            }
            None => {
                let into = (out, force, figures, columns);
                let ran = slf.get().run_here(py, (jobs, requests), told, into)?;
                Ok(Py::new(py, ran)?.into_bound(py).into_any())
            }
            Some("ray") if requests => {
                Err(plain("requests=True: other machines keep no requests; leave out executor="))
            }
            Some("ray") => {
                let keys = PyDict::new(py);
                keys.set_item("jobs", jobs)?;
                keys.set_item("shards", shards)?;
                keys.set_item("progress", told)?;
                keys.set_item("out", out)?;
                keys.set_item("force", force)?;
                keys.set_item("figures", figures)?;
                keys.set_item("columns", columns)?;
                py.import("kv_router_sim._ray")?.getattr("run")?.call((slf,), Some(&keys))
            }
            Some(other) => Err(plain(&format!(
                "executor = {other:?}: must be \"ray\", or left out for this machine"
            ))),
        }
    }
    /// One of its simulations, at time zero.
    #[pyo3(signature = (at=None, *, seed=None, workload=None))]
    fn simulation(
        &self,
        py: Python<'_>,
        at: Option<&Bound<'_, PyDict>>,
        seed: Option<u64>,
        workload: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Simulation> {
        let run = self.checked.runs[self.run_at(at)?].clone();
        let seed = seed.unwrap_or(self.checked.seeds[0]);
        Simulation::start(py, run, seed, workload)
    }

    fn __repr__(&self) -> String {
        let sim::Experiment { name, points, seeds, .. } = &*self.checked;
        format!("<Experiment {name}: {} points, {} seeds>", points.len(), seeds.len())
    }
}

/// What a mapping sets, in its order.
fn add_settings(options: &mut LoadOptions, set: Option<&Bound<'_, PyMapping>>) -> PyResult<()> {
    for pair in set.map(|set| set.items()).transpose()?.into_iter().flatten() {
        let (key, value): (String, Bound<'_, PyAny>) = pair.extract()?;
        put(options, setting(&key, &value)?);
    }
    Ok(())
}

/// Sets a key, in place of what it was set to before, swept or not: the command line refuses
/// two values of one key.
fn put(options: &mut LoadOptions, setting: String) {
    fn key(setting: &str) -> &str {
        let key = setting.split_once('=').map_or(setting, |(key, _)| key);
        key.strip_prefix("sweep.").unwrap_or(key)
    }
    options.overrides.retain(|before| key(before) != key(&setting));
    options.overrides.push(setting);
}

fn check_jobs(jobs: Option<usize>) -> PyResult<()> {
    match jobs {
        Some(0) => Err(plain("jobs = 0: must be at least 1")),
        _ => Ok(()),
    }
}

/// What shows progress: a function, or a bar.
fn teller(py: Python<'_>, progress: Option<&Bound<'_, PyAny>>) -> PyResult<Option<Py<PyAny>>> {
    Ok(match progress {
        Some(told) if told.is_callable() => Some(told.clone().unbind()),
        Some(wanted) if wanted.is_truthy()? => {
            Some(py.import("kv_router_sim._progress")?.call_method0("Bar")?.unbind())
        }
        _ => None,
    })
}

/// Up to which load a policy beats another or meets its targets.
#[pyclass(frozen, module = "kv_router_sim")]
pub(crate) struct Frontier {
    found: sim::frontier::Frontier,
    remarks: Vec<String>,
}

#[pymethods]
impl Frontier {
    /// What `sim frontier` prints.
    #[pyo3(signature = (*, width=table::WIDTH))]
    fn text(&self, width: usize) -> String {
        self.found.report(&self.remarks, width)
    }

    /// As `sim frontier --format json` has it.
    fn to_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        to_python(py, &serde_json::json!(self.found))
    }

    fn __str__(&self) -> String {
        self.text(table::WIDTH)
    }
}

/// Searches the largest load at which each policy beats another or meets its targets.
#[pyfunction]
#[pyo3(signature = (experiment, *, metrics=Vec::new(), within=None, load=None, loads=None, jobs=None))]
pub(crate) fn frontier(
    py: Python<'_>,
    experiment: &Experiment,
    metrics: Vec<String>,
    within: Option<&Bound<'_, PyMapping>>,
    load: Option<String>,
    loads: Option<(f64, f64, f64)>,
    jobs: Option<usize>,
) -> PyResult<Frontier> {
    let mut targets = Vec::new();
    for pair in within.map(|within| within.items()).transpose()?.into_iter().flatten() {
        let (metric, value): (String, Bound<'_, PyAny>) = pair.extract()?;
        // Of the targets of `[slo]` there is only the name.
        let is_all = value.is(PyBool::new(py, true));
        targets.push(if is_all { metric } else { setting(&metric, &value)? });
    }
    let loads = loads.map(|(from, to, step)| format!("{from}..{to}:{step}"));
    let asked = Asked { metrics, within: targets, load, loads, prefix: "" };
    check_jobs(jobs)?;
    let stop = Stop::default();
    let search = || {
        let mut options = RunOptions::default().stop(&stop);
        options.jobs = jobs;
        asked.search(&experiment.checked, |at| experiment.again(at), options).or_raise()
    };
    let search = || work(py, &stop, |_| Ok(()), search)?;
    let found = experiment.failure.during(&stop, search)?;
    Ok(Frontier { found, remarks: remarks(&experiment.checked) })
}

/// The names of the policies that come with the simulator, each with its rule.
#[pyfunction]
pub(crate) fn policies(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let all = PyDict::new(py);
    for about in Registry::default().abouts() {
        all.set_item(&about.name, &about.rule)?;
    }
    Ok(all)
}
