//! The way of a KV event from the engine that publishes it to the router that
//! keeps an index.
//!
//! A router's picture of the caches is always a little old. The feed says how
//! old: an event published at `t` is visible from `t + delay + U(0, jitter)` on,
//! in order for each worker. It may also be lost.

use crate::event::KvEvent;
use crate::id::WorkerId;
use crate::rng::{self, Stream, Use};
use crate::settings::Invalid;
use crate::time::{SimDuration, SimTime};
use rand::RngExt;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// `[router.feed]`: what happens to KV events on their way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FeedSettings {
    /// Time from publication to visibility, at least. Default 2 ms: transport
    /// between engine and router (assumed; Dynamo 0.9 publishes no figure).
    pub delay: SimDuration,
    /// Up to this much more, uniform, for every event. Default zero. The engine's
    /// publisher in Dynamo 0.9 polls every 5 to 20 ms when idle, which
    /// `jitter = "20ms"` stands for.
    pub jitter: SimDuration,
    /// Share of events that never arrive, 0 to 1. Default 0.
    pub loss_ratio: f64,
    /// True if the worker's publisher counts copies: a block that was stored
    /// twice is reported as removed when the second copy goes. Dynamo does so
    /// since its pull request 8012 (1.x); 0.9 passes every removal on. Unset:
    /// as the policy's version does. The worker's side of the feed: see
    /// [`SimulatedFleet::count_copies`](crate::fleet::SimulatedFleet::count_copies).
    pub count_copies: Option<bool>,
}

impl Default for FeedSettings {
    fn default() -> Self {
        Self {
            delay: SimDuration::from_millis(2),
            jitter: SimDuration::ZERO,
            loss_ratio: 0.0,
            count_copies: None,
        }
    }
}

impl FeedSettings {
    /// A feed without delay or loss, for tests and oracles.
    pub fn instant() -> Self {
        Self { delay: SimDuration::ZERO, ..Self::default() }
    }

    /// Checks the values; the key in the error is relative to `[router.feed]`.
    pub fn validate(&self) -> Result<(), Invalid> {
        Invalid::unless(
            (0.0..=1.0).contains(&self.loss_ratio),
            "loss_ratio",
            self.loss_ratio,
            "a share between 0 and 1",
        )
    }
}

/// The events under way to one router, from all workers.
#[derive(Debug)]
pub(super) struct Feed {
    way: Way,
    lanes: Vec<Lane>,
    /// When each lane's first event becomes visible; `SimTime::MAX` if it has none.
    due: Vec<SimTime>,
}

/// What every event goes through.
#[derive(Clone, Copy, Debug)]
struct Way {
    delay: SimDuration,
    jitter: SimDuration,
    loss_ratio: f64,
}

/// The events of one worker, in order.
#[derive(Debug)]
struct Lane {
    events: VecDeque<(SimTime, KvEvent)>,
    published: SimTime,
    visible: SimTime,
    chance: Stream,
}

impl Lane {
    fn send(&mut self, at: SimTime, event: KvEvent, way: Way) {
        if way.loss_ratio > 0.0 && self.chance.random::<f64>() < way.loss_ratio {
            return;
        }
        let extra_ps =
            if way.jitter.is_zero() { 0 } else { self.chance.random_range(0..=way.jitter.as_ps()) };
        let arrival = at + way.delay + SimDuration::from_ps(extra_ps);
        // One stream per worker: nothing overtakes.
        self.visible = self.visible.max(arrival);
        self.events.push_back((self.visible, event));
    }

    fn due(&self) -> SimTime {
        self.events.front().map_or(SimTime::MAX, |(visible, _)| *visible)
    }
}

impl Feed {
    pub(super) fn new(workers: u32, settings: &FeedSettings, seed: u64) -> Self {
        let lane = |worker| Lane {
            events: VecDeque::new(),
            published: SimTime::ZERO,
            visible: SimTime::ZERO,
            chance: rng::stream(seed, Use::Feed, u64::from(worker), 0),
        };
        Self {
            way: Way {
                delay: settings.delay,
                jitter: settings.jitter,
                loss_ratio: settings.loss_ratio,
            },
            lanes: (0..workers).map(lane).collect(),
            due: vec![SimTime::MAX; workers as usize],
        }
    }

    /// The latest publication time of which anything can be visible at `now`.
    pub(super) fn horizon(&self, now: SimTime) -> SimTime {
        SimTime::from_ps(now.as_ps().saturating_sub(self.way.delay.as_ps()))
    }

    /// Takes an event that `worker` publishes at `at`.
    ///
    /// # Panics
    /// If `worker` publishes out of order: the fleet would be wrong.
    pub(super) fn publish(&mut self, at: SimTime, worker: WorkerId, event: KvEvent) {
        let lane = &mut self.lanes[worker.index()];
        assert!(at >= lane.published, "{worker:?} published at {at:?} after {:?}", lane.published);
        lane.published = at;
        lane.send(at, event, self.way);
        self.due[worker.index()] = lane.due();
    }

    /// Hands over every event visible at `now`: worker by worker in order of id,
    /// each worker's in order of publication.
    pub(super) fn deliver(&mut self, now: SimTime, mut hear: impl FnMut(WorkerId, &KvEvent)) {
        for (worker, due) in (0..).map(WorkerId).zip(&mut self.due) {
            if *due > now {
                continue;
            }
            let lane = &mut self.lanes[worker.index()];
            while lane.due() <= now {
                let Some((_, event)) = lane.events.pop_front() else { break };
                hear(worker, &event);
            }
            *due = lane.due();
        }
    }
}
