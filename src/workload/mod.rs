//! Workloads: where requests come from.
//!
//! A workload is asked when its next request is due, gives it, and hears when
//! requests end: an open loop (a trace) does not care, a closed loop
//! (conversations) sends its next turn because of it.

pub mod arrivals;
pub mod by_turn;
pub mod client;
mod clients;
pub mod connections;
pub mod conversations;
mod curve;
pub mod distribution;
pub mod inference_perf;
pub mod passing;
pub mod prefix_ratio;
mod priority;
mod refusals;
pub mod requests;
mod retries;
pub mod sessions;
mod settings;
pub mod tokenizer;
pub mod trace;

pub use clients::{Clients, PatienceSettings};
pub use curve::{Between, CurveSettings};
pub use priority::{Priorities, Priority};
pub use refusals::RefusalSettings;
pub use retries::Retries;
pub use settings::{WorkloadSettings, WorkloadSource};

use crate::event::Refusal;
use crate::id::{BlockId, RequestId};
use crate::request::Request;
use crate::settings::Invalid;
use crate::time::{SimDuration, SimTime};
use std::collections::VecDeque;

/// A source of requests.
///
/// A workload that wraps another one gives it as [`behind`](Self::behind) and
/// [`behind_mut`](Self::behind_mut). What it does not say itself is then said by the one
/// behind it. A wrapper that renumbers requests or counts their ends has to hear of every
/// end itself: of failures, hang-ups and refusals too.
pub trait Workload {
    /// When the next request reaches the router; `None` if nothing is due until
    /// some request ends (or ever).
    fn next_arrival(&self) -> Option<SimTime>;

    /// Takes the request that is due at `next_arrival`.
    ///
    /// # Panics
    /// If none is due.
    fn take(&mut self) -> Arrival;

    /// Hears that a request finished, or was rejected by its worker, at `now`.
    fn observe_end(&mut self, now: SimTime, request: RequestId, served: bool);

    /// The workload that this one wraps; `None` where it makes its requests itself.
    fn behind(&self) -> Option<&dyn Workload> {
        None
    }

    /// The same, to be changed.
    fn behind_mut(&mut self) -> Option<&mut dyn Workload> {
        None
    }

    /// Hears that a request failed at `now`: it was lost with its worker, or no
    /// worker was there. As one that was not served, unless the client sends again.
    fn observe_failure(&mut self, now: SimTime, request: RequestId) {
        match self.behind_mut() {
            Some(behind) => behind.observe_failure(now, request),
            None => self.observe_end(now, request, false),
        }
    }

    /// Hears that the client of a request hung up at `now`. As one that was not served,
    /// unless the client sends again.
    fn observe_hang_up(&mut self, now: SimTime, request: RequestId) {
        match self.behind_mut() {
            Some(behind) => behind.observe_hang_up(now, request),
            None => self.observe_end(now, request, false),
        }
    }

    /// Hears that the router turned a request away at `now`, and how it answered. Gives
    /// whether its client will send it again. As one that was not served, unless it does.
    fn observe_refusal(&mut self, now: SimTime, request: RequestId, refusal: &Refusal) -> bool {
        match self.behind_mut() {
            Some(behind) => behind.observe_refusal(now, request, refusal),
            None => {
                self.observe_end(now, request, false);
                false
            }
        }
    }

    /// Requests that clients have sent again; `None` if none ever does.
    fn sent_again(&self) -> Option<u64> {
        self.behind()?.sent_again()
    }

    /// What clients have held back so far, for want of connections; `None` where they have
    /// as many as they need.
    fn held_back(&self) -> Option<HeldBack> {
        self.behind()?.held_back()
    }

    /// Changes the number of concurrent conversations or clients from `now` on. Those
    /// that are too many go on to their last turn, or, if they are `cut`, to the answer
    /// that they wait for. False where there is no such number, as in an open loop.
    fn set_concurrency(&mut self, now: SimTime, conversations: u32, cut: bool) -> bool {
        self.behind_mut().is_some_and(|behind| behind.set_concurrency(now, conversations, cut))
    }

    /// The next level of an experiment begins at `now`: with so many clients, or of a load
    /// in stages the one of this number, from 0. Gives when the level is measured from,
    /// warm-up apart.
    fn begin_level(&mut self, now: SimTime, level: u32) -> SimTime {
        match self.behind_mut() {
            Some(behind) => behind.begin_level(now, level),
            None => {
                self.set_concurrency(now, level, true);
                now
            }
        }
    }

    /// Changes the arrival rate, in requests a second, from `now` on. False where no
    /// process of arrivals decides, or none can have that rate.
    fn set_rate(&mut self, now: SimTime, per_s: f64) -> bool {
        self.behind_mut().is_some_and(|behind| behind.set_rate(now, per_s))
    }
}

/// Requests that come as they are listed, in order of time, whatever becomes of them.
#[derive(Clone, Debug)]
pub struct Listed(VecDeque<Arrival>);

impl FromIterator<Arrival> for Listed {
    fn from_iter<I: IntoIterator<Item = Arrival>>(arrivals: I) -> Self {
        Self(arrivals.into_iter().collect())
    }
}

impl Workload for Listed {
    fn next_arrival(&self) -> Option<SimTime> {
        self.0.front().map(|arrival| arrival.at)
    }

    fn take(&mut self) -> Arrival {
        self.0.pop_front().expect("an arrival is due")
    }

    fn observe_end(&mut self, _: SimTime, _: RequestId, _: bool) {}
}

/// Requests that waited in their client, and for how long in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeldBack {
    /// How many.
    pub requests: u64,
    /// The sum of their waits.
    pub time: SimDuration,
}

/// A request on its way into the router.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Arrival {
    /// When it reaches the router.
    pub at: SimTime,
    /// When its client sent it: what clients measure from. Not after `at`.
    pub sent: SimTime,
    /// The request.
    pub request: Request,
    /// How long its client waits.
    pub patience: Patience,
}

/// How long the client of a request waits, from the moment at which it sent it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Patience {
    /// For the first token.
    pub first_token: Option<SimDuration>,
    /// For the whole answer.
    pub answer: Option<SimDuration>,
}

impl Arrival {
    /// A request that reaches the router at `at`, at once from its client, who waits as
    /// long as it takes.
    pub fn new(at: SimTime, request: Request) -> Self {
        Self { at, sent: at, request, patience: Patience::default() }
    }
}

/// Start of the `n`-th private run of block ids.
///
/// The layout of all workloads: ids with the top bit clear name texts that
/// requests share. With the top bit set, 32 bits name the run and the lowest 31
/// its blocks. No sequence has 2^31 blocks (its tokens are limited to fewer), so
/// runs cannot meet.
const fn private_run(n: u32) -> BlockId {
    BlockId(1 << 63 | (n as u64) << 31)
}

/// Clients or conversations at the same time: far above any load generator.
const MAX_CONCURRENCY: u32 = 1_000_000;

fn validate_concurrency(concurrency: u32) -> Result<(), Invalid> {
    Invalid::unless(
        (1..=MAX_CONCURRENCY).contains(&concurrency),
        "concurrency",
        concurrency,
        &format!("from 1 to {MAX_CONCURRENCY}"),
    )
}

/// A client that was turned away waits at least this long (assumed), so that a
/// fleet that rejects everything at once does not stop the clock.
const PAUSE_AFTER_REJECTION: SimDuration = SimDuration::from_secs(1);

/// Tokens that a prompt may have in a workload, and an output too: far above any
/// model, and so few that a sequence has fewer than 2^31.
const MAX_TOKENS: u32 = 1_000_000_000;
