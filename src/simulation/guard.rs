//! Why a simulation cannot go on: requests that will never end, and time that does
//! not move.

use crate::settings::Invalid;
use crate::time::{SimDuration, SimTime};
use std::fmt;

/// So many things may happen within [`LEAST_TIME`]. (Assumed: 100,000 workers that
/// answer 50 requests a second each make a fifth of it.)
const MOST_TURNS: u32 = 1_000_000;

/// See [`MOST_TURNS`].
const LEAST_TIME: SimDuration = SimDuration::from_millis(10);

/// An arrival so soon after the end of a request may have come of it; a burst of
/// arrivals is no standstill.
const AT_ONCE: SimDuration = SimDuration::from_micros(1);

/// A simulation that cannot come to its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Stuck {
    /// Requests are left that nothing will ever serve.
    #[error("nothing can happen any more at {at:?}, but {unfinished} requests have not ended")]
    Unfinished {
        /// When something happened last.
        at: SimTime,
        /// Requests that did not end.
        unfinished: usize,
    },
    /// Time moves too slowly for the run to end.
    #[error("{} events {}: {cause}", grouped(MOST_TURNS), within(*from, *to))]
    Still {
        /// When the first of the events happened.
        from: SimTime,
        /// When the last of them did.
        to: SimTime,
        /// What most of them were.
        cause: Cause,
    },
    /// Its caller asked for it.
    #[error("stopped at {at:?}, as asked")]
    Stopped {
        /// How far it had come.
        at: SimTime,
    },
    /// A router cannot decide any more.
    #[error("the router at {} s: {why}", at.as_secs())]
    Router {
        /// When it was asked.
        at: SimTime,
        /// What went wrong.
        why: String,
    },
    /// A control of the script makes no sense at its time.
    #[error("the control at {at:?}: {why}")]
    Refused {
        /// Its time.
        at: SimTime,
        /// What is wrong with it.
        why: Invalid,
    },
}

/// What happens again and again where time does not move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// Requests come and end.
    Requests,
    /// Workers come and go, or their requests are lost and sent again.
    Changes,
    /// Policies are asked and shown reports.
    Routers,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Requests => {
                "requests are served in no time and clients send the next ones at once, so the \
                 clock does not move; give steps a duration (engine.step_time, \
                 engine.speedup_ratio) or clients a pause (workload.think_time)"
            }
            Self::Changes => {
                "requests are lost and sent again, or workers come and go, faster than the clock \
                 moves; give cluster.failover.retry_pause, cluster.failover.notice_delay or the \
                 planner's interval more time, or allow fewer retries and migrations"
            }
            Self::Routers => {
                "routers read the workers' gauges, or release held requests, faster than the \
                 clock moves; give the policy's report interval more time"
            }
        })
    }
}

fn grouped(number: u32) -> String {
    let digits = number.to_string();
    let groups = digits.as_bytes().rchunks(3).rev();
    let groups: Vec<&str> = groups.filter_map(|group| str::from_utf8(group).ok()).collect();
    groups.join(",")
}

fn within(from: SimTime, to: SimTime) -> String {
    if from == to {
        format!("at {} s", to.as_secs())
    } else {
        format!("from {} s to {} s", from.as_secs(), to.as_secs())
    }
}

/// A turn of the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// A worker told of a request.
    Event,
    /// Something happened to a worker, or word of it came.
    Change,
    /// Front ends restart.
    Restart,
    /// A request arrived.
    Arrival,
    /// Clients hang up.
    HangUp,
    /// A policy is asked again, or shown a report.
    Wake,
}

/// Counts turns until time has moved.
#[derive(Debug, Default)]
pub(super) struct Guard {
    turns: u32,
    /// When the first of them was.
    since: SimTime,
    /// Changes of workers, and requests that failed for want of one.
    changes: u32,
    wakes: u32,
    /// When a request ended last.
    ended: Option<SimTime>,
}

impl Guard {
    /// Something happens `now`. Costs a few instructions.
    ///
    /// # Errors
    /// If so much has happened in so little time that the run would not end.
    pub(super) fn count(&mut self, now: SimTime, turn: Turn) -> Result<(), Stuck> {
        if now.since(self.since) >= LEAST_TIME {
            *self = Self { since: now, ended: self.ended, ..Self::default() };
        }
        match turn {
            Turn::Event | Turn::Restart | Turn::HangUp => {}
            Turn::Arrival if self.ended.is_none_or(|at| now > at + AT_ONCE) => return Ok(()),
            Turn::Arrival => {}
            Turn::Change => self.changes += 1,
            Turn::Wake => self.wakes += 1,
        }
        self.turns += 1;
        if self.turns < MOST_TURNS {
            return Ok(());
        }
        let cause = match MOST_TURNS / 2 {
            half if self.changes >= half => Cause::Changes,
            half if self.wakes >= half => Cause::Routers,
            _ => Cause::Requests,
        };
        Err(Stuck::Still { from: self.since, to: now, cause })
    }
}

impl Guard {
    /// A request ends.
    pub(super) fn end(&mut self, now: SimTime) {
        self.ended = Some(now);
    }

    /// A request fails, or finds no worker.
    pub(super) fn fail(&mut self, now: SimTime) {
        self.end(now);
        self.changes += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(ps_apart: u64, turn: Turn) -> Option<Stuck> {
        let mut guard = Guard::default();
        (0..3_000_000).find_map(|n| guard.count(SimTime::from_ps(n * ps_apart), turn).err())
    }

    #[test]
    fn a_standstill_is_found_and_a_busy_fleet_is_none() {
        let stuck = after(0, Turn::Event).expect("time does not move");
        let text = stuck.to_string();
        assert!(text.starts_with("1,000,000 events at 0 s: requests are served"), "{text}");
        let stuck = after(1_000, Turn::Wake).expect("a period of 1 ns");
        let text = stuck.to_string();
        assert!(text.starts_with("1,000,000 events from 0 s to 0.000999999 s: routers"), "{text}");
        assert!(matches!(after(1, Turn::Change), Some(Stuck::Still { cause: Cause::Changes, .. })));
        // Fifty million events a second.
        assert_eq!(after(20_000, Turn::Event), None);
        assert_eq!(after(0, Turn::Arrival), None);
    }

    #[test]
    fn an_arrival_counts_only_where_it_may_follow_an_end() {
        let arrivals = |pause: SimDuration| {
            let mut guard = Guard::default();
            guard.end(SimTime::ZERO);
            let at = SimTime::ZERO + pause;
            (0..MOST_TURNS).find_map(|_| guard.count(at, Turn::Arrival).err())
        };
        let stuck = arrivals(AT_ONCE);
        assert!(matches!(stuck, Some(Stuck::Still { cause: Cause::Requests, .. })), "{stuck:?}");
        assert_eq!(arrivals(AT_ONCE + SimDuration::from_ps(1)), None);
    }

    #[test]
    fn requests_that_fail_again_and_again_count_as_changes() {
        let mut guard = Guard::default();
        let stuck = (0..MOST_TURNS).find_map(|_| {
            guard.fail(SimTime::ZERO);
            guard.count(SimTime::ZERO, Turn::Arrival).err()
        });
        assert!(matches!(stuck, Some(Stuck::Still { cause: Cause::Changes, .. })), "{stuck:?}");
    }
}
