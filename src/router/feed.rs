//! The way of a KV event from the engine that publishes it to the router that
//! keeps an index.
//!
//! A router's picture of the caches is always a little old. The feed says how
//! old: an event published at `t` is visible from `t + delay + U(0, jitter)` on,
//! in order for each worker. It may also be lost or overtaken by later ones.
//!
//! Events of a worker are numbered. With recovery a router that sees a number
//! left out asks the worker for what is missing, holds what comes after, and
//! gets it a round trip later (Dynamo: the worker's ring of its last events, or
//! a dump of its tree if the ring does not reach back so far. Both leave the
//! same index, so one of them is enough here). Events that nothing follows are
//! not missed. What arrives late after all is stale then, and dropped.

use crate::event::KvEvent;
use crate::id::WorkerId;
use crate::rng::{self, Stream, Use};
use crate::settings::Invalid;
use crate::time::{SimDuration, SimTime};
use crate::tournament::Tournament;
use rand::RngExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// `[router.feed]`: what happens to KV events on their way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FeedSettings {
    /// Time from publication to visibility, at least. Default 2 ms: transport
    /// between engine and router (assumed; Dynamo 0.9 publishes no figure).
    pub delay: SimDuration,
    /// Up to this much more, uniform, for every event. Default zero. The engine's
    /// publisher in Dynamo 0.9 polls every 5 to 20 ms when idle, which
    /// `jitter = "20ms"` stands for.
    pub jitter: SimDuration,
    /// Added to `delay` for each worker, in order of id; none for those not
    /// listed. Default: none.
    pub worker_delays: Vec<SimDuration>,
    /// Share of events that never arrive, 0 to 1. Default 0.
    pub loss_ratio: f64,
    /// Share of events that later ones may overtake, 0 to 1. Default 0.
    pub reorder_ratio: f64,
    /// How much later those arrive. Default 100 ms (assumed).
    pub reorder_delay: SimDuration,
    /// Round trip by which a router gets the events that it finds missing.
    /// Default: it does not ask for them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery_delay: Option<SimDuration>,
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
            worker_delays: Vec::new(),
            loss_ratio: 0.0,
            reorder_ratio: 0.0,
            reorder_delay: SimDuration::from_millis(100),
            recovery_delay: None,
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
        for (key, share) in [("loss_ratio", self.loss_ratio), ("reorder_ratio", self.reorder_ratio)]
        {
            let is_share = (0.0..=1.0).contains(&share);
            Invalid::unless(is_share, key, share, "a share between 0 and 1")?;
        }
        Ok(())
    }
}

/// `[router.restart]`: the front ends lose what they know and restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RestartSettings {
    /// When, counted from the start of the simulation.
    pub at: SimDuration,
    /// Time until every worker has told a new front end all that it holds.
    /// Default: none does, and the index fills with what is stored from then on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery_delay: Option<SimDuration>,
}

/// The events under way to one router, from all workers.
#[derive(Debug)]
pub(super) struct Feed {
    way: Way,
    lanes: Vec<Lane>,
    /// When each lane's first event becomes visible; `SimTime::MAX` if it has none.
    due: Tournament<SimTime>,
    /// Every event has become visible a fixed time after it was published, and will.
    is_even: bool,
}

/// What every event goes through.
#[derive(Clone, Copy, Debug)]
struct Way {
    delay: SimDuration,
    jitter: SimDuration,
    loss_ratio: f64,
    reorder_ratio: f64,
    reorder_delay: SimDuration,
}

/// The events of one worker.
#[derive(Debug)]
struct Lane {
    extra_delay: SimDuration,
    /// On their way, in order of arrival.
    events: VecDeque<Underway>,
    sent: u64,
    published: SimTime,
    /// When the last event arrives that nothing overtakes.
    arrived: SimTime,
    chance: Stream,
    /// Nothing published before this is heard any more.
    heard_from: SimTime,
    /// Everything that the worker ever published, for a router that will
    /// restart and ask.
    history: Option<Vec<Published>>,
    gaps: Option<Gaps>,
    /// How often the worker has died, and the life whose events are heard.
    life: u32,
    heard_life: u32,
}

/// How a router finds events missing and gets them.
#[derive(Debug)]
struct Gaps {
    round_trip: SimDuration,
    /// The number of the next event that the router has not heard.
    expected: u64,
    /// The events from there on: what the worker can send again.
    ring: VecDeque<Published>,
    /// What is asked for: all before this number, to be there then.
    asked: Option<(u64, SimTime)>,
}

/// An event, and when its worker published it.
type Published = (SimTime, KvEvent);

/// An event on its way.
#[derive(Clone, Copy, Debug)]
struct Underway {
    arrives: SimTime,
    number: u64,
    life: u32,
    event: Published,
}

impl Lane {
    fn send(&mut self, at: SimTime, event: KvEvent, way: Way) {
        let (number, event) = (self.sent, (at, event));
        self.sent += 1;
        if let Some(history) = &mut self.history {
            history.push(event);
        }
        if at < self.heard_from {
            if let Some(gaps) = &mut self.gaps {
                gaps.expected = self.sent;
            }
            return;
        }
        if let Some(gaps) = &mut self.gaps {
            gaps.ring.push_back(event);
        }
        if way.loss_ratio > 0.0 && self.chance.random::<f64>() < way.loss_ratio {
            return;
        }
        let extra_ps =
            if way.jitter.is_zero() { 0 } else { self.chance.random_range(0..=way.jitter.as_ps()) };
        let arrival = at + way.delay + self.extra_delay + SimDuration::from_ps(extra_ps);
        // One stream per worker: nothing overtakes but what is drawn to.
        let mut arrives = self.arrived.max(arrival);
        if way.reorder_ratio > 0.0 && self.chance.random::<f64>() < way.reorder_ratio {
            arrives += way.reorder_delay;
        } else {
            self.arrived = arrives;
        }
        let behind = self.events.iter().rev().take_while(|other| other.arrives > arrives).count();
        self.events.insert(
            self.events.len() - behind,
            Underway { arrives, number, life: self.life, event },
        );
    }

    /// When something can be heard or found missing next.
    fn due(&self) -> SimTime {
        let answer = self.gaps.as_ref().and_then(|gaps| gaps.asked);
        let answer = answer.map_or(SimTime::ZERO, |(_, at)| at);
        match self.events.front() {
            Some(first) if first.life <= self.heard_life => first.arrives.max(answer),
            _ => SimTime::MAX,
        }
    }

    /// The worker has died: nothing that it published can be asked for any more.
    fn cut(&mut self) {
        self.life += 1;
        if let Some(history) = &mut self.history {
            history.clear();
        }
        if let Some(gaps) = &mut self.gaps {
            (gaps.expected, gaps.asked) = (self.sent, None);
            gaps.ring.clear();
        }
    }

    /// The router hears of the worker's present life only.
    fn join(&mut self) {
        self.heard_life = self.life;
        self.events.retain(|underway| underway.life == self.life);
    }

    /// Hands over what can be heard at `due()`, or notices what is missing.
    fn step(&mut self, mut hear: impl FnMut(&Published)) {
        let due = self.due();
        let Some(&Underway { number, event, .. }) = self.events.front() else { return };
        if let Some(gaps) = &mut self.gaps {
            if let Some((to, _)) = gaps.asked.take() {
                while gaps.expected < to {
                    gaps.ring.pop_front().iter().for_each(&mut hear);
                    gaps.expected += 1;
                }
            }
            if number > gaps.expected {
                // It waits for the answer, and so do those behind it.
                gaps.asked = Some((number, due + gaps.round_trip));
                return;
            }
            if number < gaps.expected {
                self.events.pop_front();
                return;
            }
            gaps.expected += 1;
            gaps.ring.pop_front();
        }
        self.events.pop_front();
        hear(&event);
    }

    /// See [`Feed::restart`].
    fn restart(&mut self, now: SimTime, recovery_delay: Option<SimDuration>) {
        self.events.clear();
        let Some(recovery_delay) = recovery_delay else {
            self.heard_from = now;
            if let Some(gaps) = &mut self.gaps {
                (gaps.expected, gaps.asked) = (self.sent, None);
                gaps.ring.clear();
            }
            return;
        };
        let told = self.history.take().expect("remembered for this");
        self.arrived = now + recovery_delay;
        let arrives = self.arrived;
        let (first, life) = (self.sent - told.len() as u64, self.life);
        if let Some(gaps) = &mut self.gaps {
            (gaps.expected, gaps.asked) = (first, None);
            gaps.ring = told.iter().copied().collect();
        }
        let again = (first..).zip(told);
        self.events.extend(again.map(|(number, event)| Underway { arrives, number, life, event }));
    }
}

impl Feed {
    pub(super) fn new(workers: u32, settings: &FeedSettings, seed: u64) -> Self {
        let extra = |worker: u32| settings.worker_delays.get(worker as usize).copied();
        let lane = |worker| Lane {
            extra_delay: extra(worker).unwrap_or_default(),
            events: VecDeque::new(),
            sent: 0,
            published: SimTime::ZERO,
            arrived: SimTime::ZERO,
            heard_from: SimTime::ZERO,
            history: None,
            life: 0,
            heard_life: 0,
            gaps: settings.recovery_delay.map(|round_trip| Gaps {
                round_trip,
                expected: 0,
                ring: VecDeque::new(),
                asked: None,
            }),
            chance: rng::stream(seed, Use::Feed, u64::from(worker), 0),
        };
        Self {
            way: Way {
                delay: settings.delay,
                jitter: settings.jitter,
                loss_ratio: settings.loss_ratio,
                reorder_ratio: settings.reorder_ratio,
                reorder_delay: settings.reorder_delay,
            },
            lanes: (0..workers).map(lane).collect(),
            due: Tournament::new(workers, SimTime::MAX, SimTime::MAX),
            is_even: settings.jitter.is_zero()
                && settings.worker_delays.iter().all(|delay| delay.is_zero())
                && settings.loss_ratio == 0.0
                && settings.reorder_ratio == 0.0
                && settings.recovery_delay.is_none(),
        }
    }

    /// True if what is visible at any moment is what was published up to its
    /// [horizon](Self::horizon), from the beginning on.
    pub(super) fn is_even(&self) -> bool {
        self.is_even
    }

    /// The latest publication time of which anything can be visible at `now`.
    pub(super) fn horizon(&self, now: SimTime) -> SimTime {
        SimTime::from_ps(now.as_ps().saturating_sub(self.way.delay.as_ps()))
    }

    /// What is published from now on takes another way; what is not given stays. Events
    /// under way arrive as they would have.
    pub(super) fn set_way(&mut self, delay: Option<SimDuration>, loss_ratio: Option<f64>) {
        self.is_even = false;
        self.way.delay = delay.unwrap_or(self.way.delay);
        self.way.loss_ratio = loss_ratio.unwrap_or(self.way.loss_ratio);
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
        self.due.set(worker.index(), lane.due());
    }

    /// `worker` has died: its events under way are still heard until its death is
    /// noticed, those of its next life only once it has [joined](Self::join).
    pub(super) fn cut(&mut self, worker: WorkerId) {
        self.is_even = false;
        self.change(worker, Lane::cut);
    }

    /// The router knows of the present life of `worker`.
    pub(super) fn join(&mut self, worker: WorkerId) {
        self.change(worker, Lane::join);
    }

    fn change(&mut self, worker: WorkerId, change: impl FnOnce(&mut Lane)) {
        let lane = &mut self.lanes[worker.index()];
        change(lane);
        self.due.set(worker.index(), lane.due());
    }

    /// Remembers everything from now on, so that a restart can ask for it.
    pub(super) fn remember(&mut self) {
        self.is_even = false;
        self.lanes.iter_mut().for_each(|lane| lane.history = Some(Vec::new()));
    }

    /// The router forgets everything. What was published before `now` is not
    /// heard again, unless workers tell it all `recovery_delay` later; what is
    /// published from now on waits for that.
    pub(super) fn restart(&mut self, now: SimTime, recovery_delay: Option<SimDuration>) {
        self.is_even = false;
        for (worker, lane) in self.lanes.iter_mut().enumerate() {
            lane.restart(now, recovery_delay);
            self.due.set(worker, lane.due());
        }
    }

    /// Hands over every event visible at `now`, with the time of its publication: worker
    /// by worker in order of id, each worker's in order of publication.
    pub(super) fn deliver(
        &mut self,
        now: SimTime,
        mut hear: impl FnMut(SimTime, WorkerId, &KvEvent),
    ) {
        let mut from = 0;
        while let Some(at) = self.due.next_at_most(from, now) {
            let lane = &mut self.lanes[at];
            while !lane.events.is_empty() && lane.due() <= now {
                lane.step(|(published, event)| hear(*published, WorkerId::at(at), event));
            }
            self.due.set(at, lane.due());
            from = at + 1;
        }
    }
}
