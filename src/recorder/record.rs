//! What is kept of a request, from its client's point of view.

use super::why::RequestWhy;
use crate::event::RejectReason;
use crate::id::{RequestId, WorkerId};
use crate::time::{SimDuration, SimTime};
use std::collections::BTreeMap;

/// Metrics by name; `None` where a metric is undefined (a percentile of no requests).
pub type Metrics = BTreeMap<String, Option<f64>>;

/// One request from its client's point of view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RequestRecord {
    /// The request.
    pub request: RequestId,
    /// Its conversation.
    pub conversation: u32,
    /// Its turn, from 0.
    pub turn: u32,
    /// Prompt length.
    pub prompt_tokens: u32,
    /// Output tokens that the model would generate.
    pub asked_tokens: u32,
    /// Its priority, lower ones first.
    pub priority: i32,
    /// When the client sent it.
    pub sent: SimTime,
    /// When it reached the router.
    pub arrived: SimTime,
    /// When the router first sent it to a worker.
    pub first_dispatched: Option<SimTime>,
    /// When the router last sent it to a worker that computes its prompt, and to which.
    pub dispatched: Option<(SimTime, WorkerId)>,
    /// When it was first in a batch, at any worker.
    pub first_scheduled: Option<SimTime>,
    /// When it was first in a batch of the worker that it was last sent to.
    pub scheduled: Option<SimTime>,
    /// Prompt tokens found in the cache then.
    pub cached_tokens: u32,
    /// Its way to a second worker, if one prefilled it and another decodes it.
    #[cfg_attr(not(internals), doc(hidden))]
    pub handover: Option<Handover>,
    /// When its first token left the worker.
    pub first_token: Option<SimTime>,
    /// When its client hung up.
    pub given_up: Option<SimTime>,
    /// How its router refused it, if it did.
    pub refused: Option<Refused>,
    /// How it ended, and when; of a request that was given up when that was known
    /// where it was.
    pub end: Option<(SimTime, End)>,
    /// Times it lost its blocks.
    pub preemptions: u32,
    /// What it lost by the choice of its worker, once it is scheduled; only where that is measured.
    #[cfg_attr(not(internals), doc(hidden))]
    pub why: Option<RequestWhy>,
}

/// How a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refused {
    /// The HTTP status of the answer.
    pub status: u16,
    /// Whether its client sends it again, as another request.
    pub is_sent_again: bool,
}

impl Refused {
    pub(crate) fn new(status: u16, is_sent_again: bool) -> Self {
        Self { status, is_sent_again }
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum End {
    /// With this many output tokens.
    Finished {
        /// Tokens generated.
        output_tokens: u32,
    },
    /// Not served.
    Rejected(RejectReason),
    /// Lost with its worker.
    Failed,
    /// Its client hung up.
    GivenUp,
}

/// The way of a request from the worker that prefilled it to the one that decodes it.
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
    /// Whether it was refused and its client sends it again, as another request.
    pub fn is_sent_again(&self) -> bool {
        self.refused.is_some_and(|refused| refused.is_sent_again)
    }

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

/// Milliseconds of a duration in picoseconds.
pub(super) fn ms(ps: u64) -> f64 {
    SimDuration::from_ps(ps).as_millis()
}
