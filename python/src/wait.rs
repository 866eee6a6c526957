//! Work without the GIL, which Ctrl-C can stop.

use kv_router_sim::Stop;
use pyo3::prelude::*;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

/// Time between two looks at signals and progress.
const BEAT: Duration = Duration::from_millis(50);

/// Waits without the GIL for what comes through `answers`; `None` if nothing can come any
/// more. In between, signals are handled and `tick` is called; if either fails, `stop` is
/// asked to stop the work, and the failure is raised once it has.
pub(crate) fn wait_for<T: Send>(
    py: Python<'_>,
    mut answers: mpsc::Receiver<T>,
    stop: &Stop,
    mut tick: impl FnMut(Python<'_>) -> PyResult<()> + Send,
) -> PyResult<Option<T>> {
    let mut failed = None;
    let answer = loop {
        let (answer, back) = py.detach(move || (answers.recv_timeout(BEAT), answers));
        answers = back;
        match answer {
            Ok(answer) => break Some(answer),
            Err(RecvTimeoutError::Disconnected) => break None,
            Err(RecvTimeoutError::Timeout) if failed.is_some() => {}
            Err(RecvTimeoutError::Timeout) => {
                if let Err(error) = py.check_signals().and_then(|()| tick(py)) {
                    stop.ask();
                    failed = Some(error);
                }
            }
        }
    };
    match failed {
        Some(error) => Err(error),
        None => tick(py).map(|()| answer),
    }
}

/// What work ended with: an answer, or the panic of a defect.
pub(crate) type Ended<T> = std::thread::Result<T>;

/// Works, and keeps a panic for [`answer`]: the thread that asked has to hear of it.
pub(crate) fn try_to<T>(work: impl FnOnce() -> T) -> Ended<T> {
    // Whatever a defect leaves half done is not used again.
    catch_unwind(AssertUnwindSafe(work))
}

/// The answer; a panic goes on here, and PyO3 raises it.
pub(crate) fn answer<T>(ended: Ended<T>) -> T {
    ended.unwrap_or_else(|defect| resume_unwind(defect))
}

/// Works on another thread, and [waits](wait_for) for that.
pub(crate) fn work<T: Send>(
    py: Python<'_>,
    stop: &Stop,
    tick: impl FnMut(Python<'_>) -> PyResult<()> + Send,
    work: impl FnOnce() -> T + Send,
) -> PyResult<T> {
    std::thread::scope(|scope| {
        let (done, answers) = mpsc::channel();
        scope.spawn(move || done.send(try_to(work)));
        let ended = wait_for(py, answers, stop, tick)?;
        Ok(answer(ended.expect("work ends with an answer or a panic")))
    })
}

/// How far a run has come, counted by the threads that simulate.
#[derive(Debug, Default)]
pub(crate) struct Count {
    done: AtomicUsize,
    all: AtomicUsize,
}

impl kv_router_sim::JobProgress for Count {
    fn started(&self, jobs: usize) {
        self.all.store(jobs, Ordering::Relaxed);
    }

    fn job_done(&self) {
        self.done.fetch_add(1, Ordering::Relaxed);
    }
}

impl Count {
    /// Gives a Python function two numbers, those done and all, whenever one of them has
    /// changed.
    pub(crate) fn teller(
        &self,
        told: Option<Py<PyAny>>,
    ) -> impl FnMut(Python<'_>) -> PyResult<()> + Send {
        let mut last = None;
        move |py| {
            let Some(told) = &told else { return Ok(()) };
            let now = (self.done.load(Ordering::Relaxed), self.all.load(Ordering::Relaxed));
            if now.1 > 0 && last != Some(now) {
                last = Some(now);
                told.call1(py, now)?;
            }
            Ok(())
        }
    }
}
