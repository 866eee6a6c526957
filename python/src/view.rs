//! What a policy in Python sees: the request, the workers, the facts of its fleet.

use crate::errors::plain;
use crate::lent::Lent;
use kv_router_sim::{self as sim, ClusterSpec, WorkerId};
use pyo3::exceptions::{PyIndexError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// What a router may see of a request. Its length, its conversation and its number stay
/// with this object; its blocks are there while the call lasts that it was given to.
#[pyclass(frozen, module = "kv_router_sim")]
pub(crate) struct RouteRequest {
    #[pyo3(get)]
    id: u32,
    #[pyo3(get)]
    conversation: u32,
    #[pyo3(get)]
    prompt_tokens: u32,
    #[pyo3(get)]
    prefilled: bool,
    blocks: Lent<sim::PromptBlocks<'static>>,
}

impl RouteRequest {
    /// Without its blocks, which are [lent](Self::lend).
    pub(crate) fn of(request: &sim::RouteRequest<'_>) -> Self {
        Self {
            id: request.id.0,
            conversation: request.conversation.0,
            prompt_tokens: request.prompt_tokens,
            prefilled: request.prefilled,
            blocks: Lent::nothing(),
        }
    }

    /// Shows its blocks while `call` lasts.
    pub(crate) fn lend<R>(&self, blocks: sim::PromptBlocks<'_>, call: impl FnOnce() -> R) -> R {
        #[expect(unsafe_code, reason = "Python has no lifetimes")]
        // SAFETY: only the lifetime changes, and `blocks` outlives this function, which
        // returns after `lend` has taken the value back.
        unsafe {
            let blocks: sim::PromptBlocks<'static> = std::mem::transmute(blocks);
            self.blocks.lend(blocks, call)
        }
    }

    fn look<R>(&self, look: impl FnOnce(&sim::PromptBlocks<'static>) -> R) -> PyResult<R> {
        self.blocks.with(look).ok_or_else(|| over("the blocks of a request"))
    }
}

fn over(what: &str) -> PyErr {
    PyRuntimeError::new_err(format!("{what} can be looked at only during the call they came with"))
}

#[pymethods]
impl RouteRequest {
    #[getter]
    fn num_blocks(&self) -> PyResult<u32> {
        self.look(|blocks| blocks.len())
    }

    #[getter]
    fn blocks(&self) -> PyResult<Vec<u64>> {
        self.look(|blocks| blocks.iter().map(|block| block.0).collect())
    }

    #[getter]
    fn block_runs(&self) -> PyResult<Vec<(u64, u32)>> {
        self.look(|blocks| blocks.runs().map(|run| (run.first.0, run.len)).collect())
    }

    fn __repr__(&self) -> String {
        let Self { id, conversation, prompt_tokens, .. } = self;
        format!("<RouteRequest {id}: conversation {conversation}, {prompt_tokens} prompt tokens>")
    }
}

/// Gauges as a worker last reported them.
#[pyclass(frozen, get_all, module = "kv_router_sim")]
pub(crate) struct Reported {
    at: f64,
    running: u32,
    waiting: u32,
    used_blocks: u32,
}

/// The workers as a policy sees them, in the simulator's own memory: nothing is copied
/// until it is asked for. It can be looked at while the call lasts that it was given to.
#[pyclass(frozen, module = "kv_router_sim")]
pub(crate) struct ClusterView(Lent<sim::ClusterView<'static>>);

impl ClusterView {
    /// Of nothing, until it is [lent](Self::lend).
    pub(crate) const fn new() -> Self {
        Self(Lent::nothing())
    }

    /// Shows `view` while `call` lasts.
    pub(crate) fn lend<R>(&self, view: &sim::ClusterView<'_>, call: impl FnOnce() -> R) -> R {
        #[expect(unsafe_code, reason = "Python has no lifetimes")]
        // SAFETY: only the lifetime changes, and what `view` refers to outlives this
        // function, which returns after `lend` has taken the value back. Nothing writes
        // there meanwhile: the simulation waits for `call`.
        unsafe {
            let view: sim::ClusterView<'static> = std::mem::transmute(*view);
            self.0.lend(view, call)
        }
    }

    fn look<R>(&self, look: impl FnOnce(&sim::ClusterView<'static>) -> R) -> PyResult<R> {
        self.0.with(look).ok_or_else(|| over("the workers"))
    }

    fn worker<R>(&self, worker: usize, look: impl FnOnce(&sim::WorkerView) -> R) -> PyResult<R> {
        let found = self.look(|view| view.workers.get(worker).map(look).ok_or(view.workers.len()));
        found?.map_err(|workers| {
            PyIndexError::new_err(format!("worker {worker}: must be less than {workers}"))
        })
    }

    /// Numbers of every worker as bytes, for NumPy.
    fn bytes<const N: usize>(
        &self,
        number: impl Fn(&sim::WorkerView) -> [u8; N],
    ) -> PyResult<Vec<u8>> {
        self.look(|view| view.workers.iter().flat_map(number).collect())
    }
}

#[pymethods]
impl ClusterView {
    fn __len__(&self) -> PyResult<usize> {
        self.look(|view| view.workers.len())
    }

    #[getter]
    fn available(&self) -> PyResult<Vec<usize>> {
        self.look(|view| view.available().map(|(worker, _)| worker).collect())
    }

    #[getter]
    fn available_count(&self) -> PyResult<usize> {
        self.look(|view| view.available_count())
    }

    fn nth_available(&self, n: usize) -> PyResult<u32> {
        let found = self.look(|view| {
            let count = view.available_count();
            if n < count { Ok(view.nth_available(n).0) } else { Err(count) }
        });
        found?.map_err(|count| {
            PyIndexError::new_err(format!("{n}: must be less than the {count} workers available"))
        })
    }

    #[getter]
    fn least_inflight(&self) -> PyResult<u32> {
        self.look(|view| view.least_inflight())
    }

    #[getter]
    fn most_inflight(&self) -> PyResult<u32> {
        self.look(|view| view.most_inflight())
    }

    #[getter]
    fn total_inflight(&self) -> PyResult<u64> {
        self.look(|view| view.total_inflight())
    }

    /// In order of their numbers.
    #[getter]
    fn least_loaded(&self) -> PyResult<Vec<u32>> {
        let mut workers: Vec<u32> =
            self.look(|view| view.least_loaded().iter().map(|worker| worker.0).collect())?;
        workers.sort_unstable();
        Ok(workers)
    }

    fn is_available(&self, worker: usize) -> PyResult<bool> {
        self.worker(worker, |worker| worker.available)
    }

    fn inflight(&self, worker: usize) -> PyResult<u32> {
        self.worker(worker, |worker| worker.inflight)
    }

    fn reported(&self, worker: usize) -> PyResult<Option<Reported>> {
        let reported = self.worker(worker, |worker| worker.reported)?;
        Ok(reported.map(|reported| Reported {
            at: reported.at.as_secs(),
            running: reported.running,
            waiting: reported.waiting,
            used_blocks: reported.used_blocks,
        }))
    }

    /// One number of every worker as an array of NumPy.
    fn array<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
        let reported = |of: fn(&sim::Reported) -> u32| {
            self.bytes(move |worker| {
                worker.reported.as_ref().map_or(-1, |r| i64::from(of(r))).to_ne_bytes()
            })
        };
        let (bytes, kind) = match name {
            "inflight" => (self.bytes(|worker| worker.inflight.to_ne_bytes())?, "uint32"),
            "available" => (self.bytes(|worker| [u8::from(worker.available)])?, "bool"),
            "running" => (reported(|r| r.running)?, "int64"),
            "waiting" => (reported(|r| r.waiting)?, "int64"),
            "used_blocks" => (reported(|r| r.used_blocks)?, "int64"),
            _ => {
                return Err(PyValueError::new_err(format!(
                    "{name}: must be one of inflight, available, running, waiting, used_blocks"
                )));
            }
        };
        let bytes = PyBytes::new(py, &bytes);
        py.import("numpy")?.call_method1("frombuffer", (bytes, kind))
    }

    fn __repr__(&self) -> String {
        match self.look(|view| (view.workers.len(), view.available_count())) {
            Ok((all, available)) => {
                format!("<ClusterView of {all} workers, {available} available>")
            }
            Err(_) => "<ClusterView after its call>".to_owned(),
        }
    }
}

/// The facts about the workers that a policy routes to.
#[pyclass(frozen, module = "kv_router_sim")]
pub(crate) struct Fleet(ClusterSpec);

impl Fleet {
    pub(crate) fn of(spec: &ClusterSpec) -> Self {
        Self(spec.clone())
    }

    fn limits(&self, worker: usize) -> PyResult<&sim::WorkerLimits> {
        let workers = self.0.limits.len();
        let beyond = || plain(&format!("worker {worker}: must be less than {workers}"));
        (worker < workers).then(|| self.0.of(WorkerId::at(worker))).ok_or_else(beyond)
    }
}

#[pymethods]
impl Fleet {
    /// How many workers there can ever be, with numbers from 0.
    #[getter]
    fn workers(&self) -> usize {
        self.0.limits.len()
    }

    /// Tokens in a block.
    #[getter]
    fn block_size(&self) -> u32 {
        self.0.block_size
    }

    /// What the workers do: `"both"`, `"prefill"` or `"decode"`.
    #[getter]
    fn role(&self) -> &'static str {
        match self.0.role {
            sim::Role::Both => "both",
            sim::Role::Prefill => "prefill",
            sim::Role::Decode { .. } => "decode",
        }
    }

    fn kv_blocks(&self, worker: usize) -> PyResult<u32> {
        Ok(self.limits(worker)?.blocks)
    }

    fn max_num_seqs(&self, worker: usize) -> PyResult<u32> {
        Ok(self.limits(worker)?.max_num_seqs)
    }

    fn max_num_batched_tokens(&self, worker: usize) -> PyResult<u32> {
        Ok(self.limits(worker)?.max_num_batched_tokens)
    }

    fn __repr__(&self) -> String {
        format!("<Fleet of {} workers, blocks of {} tokens>", self.workers(), self.0.block_size)
    }
}
