//! Parts of an experiment that other machines simulate, gathered here.

use crate::errors::{OrRaise, plain};
use crate::results::Results;
use crate::wait::work;
use kv_router_sim::experiment::Shard;
use kv_router_sim::results::Gathering;
use kv_router_sim::{self as sim, RunInto, Stop};
use pyo3::prelude::*;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// Parts that have come so far; for `_ray.py`.
#[pyclass(frozen, module = "kv_router_sim", name = "_Gathered")]
pub(crate) struct Gathered {
    /// Until it ends.
    gathering: Mutex<Option<Gathering>>,
    experiment: Arc<sim::Experiment>,
    into: RunInto<'static>,
    is_resumable: bool,
}

impl Gathered {
    pub(crate) fn new(
        gathering: Gathering,
        experiment: Arc<sim::Experiment>,
        into: RunInto<'static>,
        is_resumable: bool,
    ) -> Self {
        Self { gathering: Mutex::new(Some(gathering)), experiment, into, is_resumable }
    }

    fn ask<T>(&self, ask: impl FnOnce(&Gathering) -> PyResult<T>) -> PyResult<T> {
        let gathering = self.gathering.lock().unwrap_or_else(PoisonError::into_inner);
        ask(gathering.as_ref().ok_or_else(ended)?)
    }

    fn end(&self) -> Option<Gathering> {
        self.gathering.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

fn ended() -> PyErr {
    plain("these parts have been put together")
}

#[pymethods]
impl Gathered {
    /// How many simulations have come.
    #[getter]
    fn done(&self) -> PyResult<usize> {
        self.ask(|gathering| Ok(gathering.done()))
    }

    /// The numbers of the parts, of so many, of which a simulation has not come yet.
    fn missing(&self, of: u32) -> PyResult<Vec<u32>> {
        let missing = |gathering: &Gathering| gathering.missing(&self.experiment, of).or_raise();
        Ok(self.ask(missing)?.into_iter().map(Shard::number).collect())
    }

    /// Takes what a part has found.
    fn take(&self, py: Python<'_>, number: u32, of: u32, journal: &[u8]) -> PyResult<usize> {
        let shard = Shard::new(number, of).or_raise()?;
        py.detach(|| self.ask(|gathering| Ok(gathering.take(shard, journal))))?.or_raise()
    }

    /// Puts everything together; without a folder nothing of it stays there.
    #[pyo3(signature = (*, out, figures, jobs))]
    fn finish(
        &self,
        py: Python<'_>,
        out: Option<PathBuf>,
        figures: bool,
        jobs: Option<usize>,
    ) -> PyResult<Results> {
        let gathering = self.end().ok_or_else(ended)?;
        let (stop, experiment) = (Stop::default(), &*self.experiment);
        let mut into = self.into.clone().stop(&stop);
        (into.figures, into.jobs) = (figures, jobs);
        let finish = || gathering.finish(experiment, &into, out.is_some()).or_raise();
        let saved = work(py, &stop, |_| Ok(()), finish)??;
        saved.report.or_raise()?;
        let points = saved.in_columns.map(|found| found.points);
        let results = Results::new(saved.results, out, Some(Arc::clone(&self.experiment)), None);
        Ok(results.in_columns(points))
    }

    /// Ends before everything has come; what has is kept if it can be gone on with.
    fn leave(&self) -> PyResult<()> {
        match self.end() {
            // Nothing to go on with: the folder is as it was.
            Some(gathering) if !self.is_resumable || gathering.done() == 0 => {
                gathering.give_up().or_raise()
            }
            _ => Ok(()),
        }
    }
}
