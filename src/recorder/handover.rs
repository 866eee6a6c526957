//! The way of a request from the worker that prefilled it to the one that decodes it.

use super::RequestRecord;
use crate::id::WorkerId;
use crate::time::{SimDuration, SimTime};

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handover {
    /// When its prompt was computed.
    pub prefilled: SimTime,
    /// When the router sent it to a worker that decodes, and to which.
    pub dispatched: Option<(SimTime, WorkerId)>,
    /// How long its KV was on the way, once it is there.
    pub transfer: Option<SimDuration>,
    /// When it was first in a batch there.
    pub scheduled: Option<SimTime>,
}

impl Handover {
    /// Prefilled at `now`; the rest is to come.
    pub(super) fn at(now: SimTime) -> Self {
        Self { prefilled: now, dispatched: None, transfer: None, scheduled: None }
    }

    /// Time at the decode worker before its first batch, less the time of the
    /// transfer: waiting for memory and for a place.
    pub fn queued(&self) -> Option<SimDuration> {
        let (dispatched, _) = self.dispatched?;
        Some(self.scheduled? - dispatched - self.transfer?)
    }

    pub(super) fn digest_bytes(&self) -> [u8; 32] {
        let time = |at: Option<SimTime>| at.map_or(u64::MAX, SimTime::as_ps);
        let words = [
            self.prefilled.as_ps(),
            self.dispatched.map_or(u64::MAX, |(_, worker)| u64::from(worker.0)),
            self.transfer.map_or(u64::MAX, SimDuration::as_ps),
            time(self.scheduled),
        ];
        let mut bytes = [0; 8 * 4];
        for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }
}

/// A request's time at one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stay {
    /// Where.
    pub worker: WorkerId,
    /// When the router sent it there.
    pub dispatched: SimTime,
    /// When it was first in a batch there.
    pub scheduled: Option<SimTime>,
    /// When the worker was done with it.
    pub ended: Option<SimTime>,
}

impl RequestRecord {
    /// Its times at workers: one, or two if one prefilled it and another decodes it.
    pub fn stays(&self) -> impl Iterator<Item = Stay> {
        let ended = self.end.map(|(at, _)| at);
        let first_ended = self.handover.map_or(ended, |handover| Some(handover.prefilled));
        let first = self.dispatched.map(|(dispatched, worker)| Stay {
            worker,
            dispatched,
            scheduled: self.scheduled,
            ended: first_ended,
        });
        let second = self.handover.and_then(|handover| {
            let (dispatched, worker) = handover.dispatched?;
            Some(Stay { worker, dispatched, scheduled: handover.scheduled, ended })
        });
        first.into_iter().chain(second)
    }

    /// Since when it is, or was last, at a worker, and at which; `None` while the
    /// router has it.
    pub fn stay(&self) -> Option<(SimTime, WorkerId)> {
        match &self.handover {
            Some(handover) => handover.dispatched,
            None => self.dispatched,
        }
    }
}
