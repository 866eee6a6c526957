//! One front end: a router replica with its policy, its own bookings and its
//! own, possibly late, picture of the fleet.
//!
//! Front ends share nothing unless they are configured to tell each other
//! ([`FrontEnd::hear_peers`]): then each hears of the bookings, first tokens and
//! ends of the others' requests some time after they happen, as Dynamo's
//! replica synchronisation does it. Indexes are never shared: each has its feed.

use super::feed::{Feed, FeedSettings};
use super::whole::Wholes;
use super::{CostParts, Policy, Release, Reported, Sides, Verdict, WorkerView, Workers};
use crate::event::{KvEvent, RejectReason, WorkerEvent};
use crate::id::WorkerId;
use crate::request::{Request, RouteRequest};
use crate::settings::Invalid;
use crate::time::{SimDuration, SimTime};
use crate::truth::WorkerTruth;
use std::borrow::Cow;
use std::collections::VecDeque;
use std::fmt;

/// A router replica; see the [module documentation](self).
pub struct FrontEnd {
    policy: Box<dyn Policy>,
    /// Of all that has a number: ranks apart.
    sides: Sides,
    /// Where the policy does not tell ranks apart: whose ranks are whose. What follows is
    /// then by worker, but for the feed.
    wholes: Option<Box<Wholes>>,
    workers: Workers,
    feed: Feed,
    /// How often workers report, and when they will.
    reports: Option<(SimDuration, SimTime)>,
    /// How long it takes to hear of another front end, if it hears of any.
    sync_delay: Option<SimDuration>,
    /// From other front ends, in order of time.
    peers: VecDeque<(SimTime, PeerMessage)>,
    restart: Option<Restart>,
}

/// What one front end hears of another.
#[derive(Debug)]
enum PeerMessage {
    Booked { request: Box<Request>, block_size: u32, worker: WorkerId, overlap_blocks: u32 },
    Life(WorkerEvent),
}

/// How a front end will restart.
struct Restart {
    at: SimTime,
    policy: Box<dyn Policy>,
    recovery_delay: Option<SimDuration>,
}

impl fmt::Debug for FrontEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrontEnd").field("workers", &self.workers).finish_non_exhaustive()
    }
}

impl FrontEnd {
    /// A front end to idle workers; where they are on two sides, its policy is one that
    /// has [a policy for each](super::disaggregated::Disaggregated). `seed` is the
    /// randomness of its feed; the policy has its own.
    pub fn new(
        policy: Box<dyn Policy>,
        workers: impl Into<Sides>,
        feed: &FeedSettings,
        seed: u64,
    ) -> Self {
        let sides = workers.into();
        let reports = policy.report_period().map(|period| (period, SimTime::ZERO));
        Self {
            policy,
            reports,
            workers: Workers::of(sides),
            feed: Feed::new(sides.workers(), feed, seed),
            sides,
            wholes: None,
            sync_delay: None,
            peers: VecDeque::new(),
            restart: None,
        }
    }

    /// How its workers are divided.
    pub fn sides(&self) -> Sides {
        self.sides
    }

    /// Its policy counts workers of several ranks as one each.
    pub(crate) fn over_whole_workers(mut self, wholes: Wholes) -> Self {
        self.workers = Workers::of(wholes.sides());
        self.wholes = Some(Box::new(wholes));
        self
    }

    /// False if its policy chooses among workers, and those spread requests over their ranks.
    pub fn tells_ranks_apart(&self) -> bool {
        self.wholes.is_none()
    }

    /// The number that the policy knows a worker, or a rank, by.
    fn known_as(&self, worker: WorkerId) -> WorkerId {
        self.wholes.as_ref().map_or(worker, |wholes| wholes.of(worker))
    }

    /// The number outside of a worker that the policy knows: that of its first rank.
    fn number_of(&self, worker: WorkerId) -> WorkerId {
        self.wholes.as_ref().map_or(worker, |wholes| wholes.first(worker))
    }

    /// Hears of other front ends' requests `delay` after they hear.
    pub fn hear_peers(mut self, delay: SimDuration) -> Self {
        self.sync_delay = Some(delay);
        self
    }

    /// Restarts at `at` with `policy`, which knows nothing: requests in flight
    /// are answered, but no longer counted. With a `recovery_delay` all
    /// workers tell it by then what they hold.
    pub fn restart_at(
        mut self,
        at: SimTime,
        policy: Box<dyn Policy>,
        recovery_delay: Option<SimDuration>,
    ) -> Self {
        if recovery_delay.is_some() {
            self.feed.remember();
        }
        self.restart = Some(Restart { at, policy, recovery_delay });
        self
    }

    /// When [`restart`](Self::restart) is due.
    pub fn restart_due(&self) -> Option<SimTime> {
        self.restart.as_ref().map(|restart| restart.at)
    }

    /// Restarts now. It must not hear of requests sent before any more.
    ///
    /// # Panics
    /// If no restart is due.
    pub fn restart(&mut self, now: SimTime) {
        let Restart { policy, recovery_delay, .. } = self.restart.take().expect("a restart is due");
        self.policy = policy;
        // Membership is re-read; cache contents are not re-sent.
        self.workers.forget();
        for (worker, view) in (0..).map(WorkerId).zip(self.workers.views()) {
            if self.workers.is_present(worker) {
                if !view.available {
                    self.policy.leave_out(worker, true);
                }
            } else {
                self.policy.worker_left(worker);
            }
        }
        self.peers.clear();
        if let Some(wholes) = &mut self.wholes {
            wholes.forget();
        }
        self.feed.restart(now, recovery_delay);
    }

    /// Runs `policy` from now on, as if the router were deployed again: it knows who can
    /// be chosen, and nothing of caches and of requests in flight. A restart that was
    /// due later does not come.
    pub fn replace_policy(&mut self, now: SimTime, policy: Box<dyn Policy>) {
        self.reports = policy.report_period().map(|period| (period, now));
        self.restart = Some(Restart { at: now, policy, recovery_delay: None });
        self.restart(now);
    }

    /// Changes a parameter of the running policy.
    ///
    /// # Errors
    /// If the policy cannot change that while it runs, or not to that.
    pub fn set_parameter(&mut self, key: &str, value: f64) -> Result<(), Invalid> {
        self.policy.set_parameter(key, value)
    }

    /// KV events published from now on take another way; what is not given stays.
    pub fn set_feed(&mut self, delay: Option<SimDuration>, loss_ratio: Option<f64>) {
        self.feed.set_way(delay, loss_ratio);
    }

    /// Hears that `worker` is gone, or takes no more requests.
    pub fn worker_left(&mut self, worker: WorkerId) {
        self.forget_worker(worker);
        // Of a side on which all are busy none is left out.
        for busy in self.workers.all_left_out_beside(self.known_as(worker)) {
            self.workers.leave_out(busy, false);
            self.policy.leave_out(busy, false);
        }
    }

    fn forget_worker(&mut self, worker: WorkerId) {
        let worker = self.known_as(worker);
        if let Some(wholes) = &mut self.wholes {
            wholes.forget_worker(worker);
        }
        if self.workers.is_present(worker) {
            if self.workers.leave_out(worker, false) {
                self.policy.leave_out(worker, false);
            }
            self.workers.set_available(worker, false);
            self.policy.worker_left(worker);
        }
    }

    /// Whether `worker` takes requests as far as this front end knows, busy or not.
    pub fn is_present(&self, worker: WorkerId) -> bool {
        self.workers.is_present(self.known_as(worker))
    }

    /// `worker` is busy from now on, and its policy does not choose it, or not any more.
    pub fn leave_out(&mut self, worker: WorkerId, is_left_out: bool) {
        let worker = self.known_as(worker);
        if self.workers.leave_out(worker, is_left_out) {
            self.policy.leave_out(worker, is_left_out);
        }
    }

    /// Hears that `worker` takes requests, with an empty cache.
    pub fn worker_joined(&mut self, worker: WorkerId) {
        // It may have come back before the front end noticed that it was gone.
        self.forget_worker(worker);
        self.feed.join(worker);
        let worker = self.known_as(worker);
        self.workers.set_available(worker, true);
        self.policy.worker_joined(worker);
    }

    /// `worker` has died: what it publishes from now on is that of a new one,
    /// which the policy does not hear until it has [joined](Self::worker_joined).
    pub fn cut_feed(&mut self, worker: WorkerId) {
        self.feed.cut(worker);
    }

    /// True if it hears of other front ends' requests.
    pub fn hears_peers(&self) -> bool {
        self.sync_delay.is_some()
    }

    /// Another front end sent `request` to `worker`, which that one believed to
    /// hold `overlap_blocks` of it.
    pub fn hear_booking(
        &mut self,
        now: SimTime,
        request: &Request,
        block_size: u32,
        worker: WorkerId,
        overlap_blocks: u32,
    ) {
        let request = Box::new(request.clone());
        self.hear_peer(now, PeerMessage::Booked { request, block_size, worker, overlap_blocks });
    }

    /// Something happened to a request of another front end.
    pub fn hear_life(&mut self, now: SimTime, event: &WorkerEvent) {
        self.hear_peer(now, PeerMessage::Life(*event));
    }

    fn hear_peer(&mut self, now: SimTime, message: PeerMessage) {
        if let Some(delay) = self.sync_delay {
            self.peers.push_back((now + delay, message));
        }
    }

    /// True if its policy is to be shown the truth before [`route`](Self::route).
    pub fn wants_truth(&self) -> bool {
        self.policy.wants_truth()
    }

    /// Shows its policy the truth about every worker, in order of id, as the
    /// request that is routed next would find it.
    pub fn observe_truth(&mut self, workers: Vec<WorkerTruth>) {
        self.policy.observe_truth(workers);
    }

    /// How many leading blocks of the prompt its policy believes each worker to
    /// hold now; `None` if it keeps no index.
    pub fn overlap_blocks(&mut self, now: SimTime, request: &RouteRequest<'_>) -> Option<Vec<u32>> {
        self.deliver(now);
        let blocks = self.policy.overlap_blocks(request);
        match &self.wholes {
            Some(wholes) => blocks.map(|blocks| wholes.each(&blocks)),
            None => blocks,
        }
    }

    /// True if KV events have to be made for this front end.
    pub fn wants_kv_events(&self) -> bool {
        self.policy.wants_kv_events()
    }

    /// True if workers have to tell how outputs grow.
    pub fn wants_output_blocks(&self) -> bool {
        self.policy.wants_output_blocks()
    }

    /// The latest publication time of which anything can be visible at `now`:
    /// before [`route`](Self::route) the fleet needs to be asked up to there only.
    pub fn kv_horizon(&self, now: SimTime) -> SimTime {
        self.feed.horizon(now)
    }

    /// Takes an event that `source` publishes at `at`; the policy hears of it
    /// when the feed has delivered it.
    ///
    /// # Panics
    /// If a worker's events come out of order.
    pub fn hear_kv(&mut self, at: SimTime, source: WorkerId, event: KvEvent) {
        self.feed.publish(at, source, event);
    }

    /// True if it makes no difference which changes of other blocks it has heard of when a
    /// request is routed, and in which order.
    pub(crate) fn hears_kv_on_demand(&self) -> bool {
        self.feed.is_even() && self.tells_ranks_apart() && self.policy.hears_kv_on_demand()
    }

    /// Takes an event that is visible at `now`, at once.
    pub(crate) fn hear_kv_now(&mut self, worker: WorkerId, event: &KvEvent) {
        if self.workers.is_present(worker) {
            self.policy.observe_kv(worker, event);
        }
    }

    /// Lets the policy hear of every event that is visible at `now`.
    pub(crate) fn deliver_kv(&mut self, now: SimTime) {
        let Self { feed, wholes, workers, policy, .. } = self;
        let mut hear = |published, worker: WorkerId, event: &KvEvent| {
            // One that drains still publishes.
            if workers.is_present(worker) {
                policy.observe_kv_published(published, worker, event);
            }
        };
        feed.deliver(now, |published, worker, event| match wholes {
            Some(wholes) => {
                wholes.hear(worker, event, |worker, event| hear(published, worker, event));
            }
            None => hear(published, worker, event),
        });
    }

    /// Routes a request: delivers the KV events visible at `now`, asks the
    /// policy and books its choice.
    pub fn route(&mut self, now: SimTime, request: &RouteRequest<'_>) -> Verdict {
        self.deliver(now);
        if self.workers.none_available() {
            return Verdict::Reject(RejectReason::NoWorker);
        }
        let verdict = self.policy.route(now, request, &self.workers.view());
        let Verdict::Send(worker) = verdict else { return verdict };
        self.workers.sent(worker);
        Verdict::Send(self.number_of(worker))
    }

    /// A held request whose time has come, booked. To be asked after every event
    /// until `None`.
    pub fn release(&mut self, now: SimTime) -> Option<Release> {
        self.deliver(now);
        let (request, verdict) = self.policy.release(now, &self.workers.view())?;
        let verdict = verdict.map(|worker| {
            self.workers.sent(worker);
            self.number_of(worker)
        });
        Some((request, verdict))
    }

    /// When to ask [`release`](Self::release) again even if nothing happens.
    pub fn wake_at(&self) -> Option<SimTime> {
        self.policy.wake_at()
    }

    /// Hears of a change in the life of a request that this front end sent.
    ///
    /// # Panics
    /// If a request ends on a worker that has none of this front end's.
    pub fn observe(&mut self, now: SimTime, event: &WorkerEvent) {
        let event = &WorkerEvent { worker: self.known_as(event.worker), ..*event };
        if event.kind.ends_stay() {
            self.workers.ended(event.worker);
        }
        self.policy.observe(now, event);
    }

    /// The fewest requests in flight on a worker that a new request could go to; 0 if there
    /// is none.
    pub fn least_inflight(&mut self, now: SimTime) -> u32 {
        self.deliver(now);
        self.workers.least_inflight()
    }

    /// When the workers report next, if they do.
    pub fn report_due(&self) -> Option<SimTime> {
        self.reports.map(|(_, due)| due)
    }

    /// Takes what all workers report at `now`, in order of id.
    pub fn report(&mut self, now: SimTime, reported: &[Reported]) {
        match &self.wholes {
            Some(wholes) => self.workers.report(&wholes.reported(reported)),
            None => self.workers.report(reported),
        }
        if let Some((period, due)) = &mut self.reports {
            *due = now + *period;
        }
    }

    /// What this front end counts and knows, one entry per worker in order of id; where
    /// its policy does not tell ranks apart, each rank has that of its worker.
    pub fn workers(&self) -> Cow<'_, [WorkerView]> {
        match &self.wholes {
            Some(wholes) => Cow::Owned(wholes.each(self.workers.views())),
            None => Cow::Borrowed(self.workers.views()),
        }
    }

    /// Why the policy cannot decide any more, if it cannot.
    pub fn failure(&self) -> Option<String> {
        self.policy.failure()
    }

    /// What the policy counted about itself since the run began, by name.
    pub fn notes(&self) -> Vec<(&'static str, f64)> {
        self.policy.notes()
    }

    /// What every worker would cost for `request` now, for people.
    pub fn explain(&mut self, now: SimTime, request: &RouteRequest<'_>) -> Vec<CostParts> {
        self.deliver(now);
        let mut costs = self.policy.explain(request, &self.workers.view());
        let absent = |parts: &&mut CostParts| !self.workers.views()[parts.worker.index()].available;
        costs.iter_mut().filter(absent).for_each(|parts| parts.cost = f64::INFINITY);
        match &self.wholes {
            Some(wholes) => wholes.each_cost(&costs),
            None => costs,
        }
    }

    fn deliver(&mut self, now: SimTime) {
        self.deliver_kv(now);
        while self.peers.front().is_some_and(|(visible, _)| *visible <= now) {
            let Some((_, message)) = self.peers.pop_front() else { return };
            match message {
                PeerMessage::Booked { request, block_size, worker, overlap_blocks } => {
                    let worker = self.known_as(worker);
                    self.workers.sent(worker);
                    let view = request.route_view(block_size);
                    self.policy.observe_peer(&view, worker, overlap_blocks);
                }
                PeerMessage::Life(event) => self.observe(now, &event),
            }
        }
    }
}
