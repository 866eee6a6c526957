//! Hearing everything that happens in a simulation.

use super::control::Control;
use crate::event::WorkerEvent;
use crate::fleet::changes::WorkerEffect;
use crate::id::{RequestId, WorkerId};
use crate::recorder::End;
use crate::request::Request;
use crate::router::Verdict;
use crate::time::SimTime;
use crate::workload::Arrival;

/// Something that hears everything that happens in a simulation, in order. It is
/// shown what happens and can change none of it, so a run that is observed gives the
/// same results.
pub trait Observer {
    /// Something happens at `now`.
    fn hear(&mut self, now: SimTime, happening: &Happening<'_>);
}

impl<T: FnMut(SimTime, &Happening<'_>)> Observer for T {
    fn hear(&mut self, now: SimTime, happening: &Happening<'_>) {
        self(now, happening);
    }
}

/// See [`Observer`].
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Happening<'a> {
    /// A request reaches the router.
    Arrival(&'a Arrival),
    /// A front end decides about a request, or decides again.
    Decision {
        /// The request.
        request: &'a Request,
        /// The front end.
        front_end: usize,
        /// What its policy said.
        verdict: Verdict,
    },
    /// A worker takes a request that its front end sent, or the request is on its way
    /// to one that is gone. One that a worker refuses is only told as rejected.
    Dispatch {
        /// The request.
        request: &'a Request,
        /// The worker.
        worker: WorkerId,
    },
    /// A worker tells of a request.
    Worker(&'a WorkerEvent),
    /// The client of a request hangs up; the request ends when that is known where it is.
    HangUp(RequestId),
    /// A request ends, in whichever way.
    End {
        /// The request.
        request: RequestId,
        /// How.
        end: End,
    },
    /// Something happens to a worker, or front ends hear of it.
    Change(&'a WorkerEffect),
    /// A control is applied.
    Control(&'a Control),
}

/// All observers of a simulation.
#[derive(Default)]
pub(super) struct Observers<'a>(Vec<Box<dyn Observer + 'a>>);

impl<'a> Observers<'a> {
    pub(super) fn add(&mut self, observer: Box<dyn Observer + 'a>) {
        self.0.push(observer);
    }

    /// Costs nothing without observers.
    #[inline]
    pub(super) fn tell(&mut self, now: SimTime, happening: Happening<'_>) {
        for observer in &mut self.0 {
            observer.hear(now, &happening);
        }
    }
}
