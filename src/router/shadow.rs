//! Two implementations of one rule, side by side on one history.
//!
//! One drives: its choice is what happens. The other decides too, on the same
//! events, and then books what the first one chose. So they never drift apart,
//! and every difference is one of the decision at hand.

use super::{ClusterView, CostParts, Policy, Verdict};
use crate::event::{KvEvent, WorkerEvent};
use crate::id::WorkerId;
use crate::request::RouteRequest;
use crate::time::SimTime;
use std::fmt;

/// A policy that compares costs and whose choice can be taken apart from its
/// booking: somebody else may decide, both book the same.
pub trait Decider: Policy {
    /// Chooses a worker for `request` without booking it.
    fn decide(&mut self, now: SimTime, request: &RouteRequest<'_>) -> WorkerId;

    /// The costs of the request last decided on and not yet booked, in order of worker.
    fn costs(&self) -> Vec<f64>;

    /// Books `request`, the one last decided on, on `worker`.
    ///
    /// # Panics
    /// If the request is booked already.
    fn book(&mut self, now: SimTime, request: &RouteRequest<'_>, worker: WorkerId);
}

/// How far two deciders agreed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tally {
    /// Decisions in all.
    pub decisions: u64,
    /// Both chose the same worker.
    pub agreed: u64,
    /// They chose different workers of exactly equal cost by the driver's count.
    pub tied: u64,
    /// Largest difference between their costs of one worker, in blocks.
    pub max_cost_difference_blocks: f64,
}

/// The policy `shadow`.
pub struct ShadowPolicy {
    driver: Box<dyn Decider>,
    other: Box<dyn Decider>,
    tally: Tally,
}

impl fmt::Debug for ShadowPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShadowPolicy").field("tally", &self.tally).finish_non_exhaustive()
    }
}

impl ShadowPolicy {
    /// `driver` decides; `other` is compared with it.
    pub fn new(driver: Box<dyn Decider>, other: Box<dyn Decider>) -> Self {
        Self { driver, other, tally: Tally::default() }
    }

    /// How far they agreed so far.
    pub fn tally(&self) -> Tally {
        self.tally
    }
}

impl Policy for ShadowPolicy {
    fn route(&mut self, now: SimTime, request: &RouteRequest<'_>, _: &ClusterView<'_>) -> Verdict {
        let chosen = self.driver.decide(now, request);
        let others = self.other.decide(now, request);
        let (costs, other_costs) = (self.driver.costs(), self.other.costs());
        let tally = &mut self.tally;
        tally.decisions += 1;
        tally.agreed += u64::from(chosen == others);
        let equal = costs[chosen.index()] == costs[others.index()];
        tally.tied += u64::from(chosen != others && equal);
        for (cost, other) in costs.iter().zip(&other_costs) {
            let difference = (cost - other).abs();
            tally.max_cost_difference_blocks = tally.max_cost_difference_blocks.max(difference);
        }
        self.driver.book(now, request, chosen);
        self.other.book(now, request, chosen);
        Verdict::Send(chosen)
    }

    fn observe(&mut self, now: SimTime, event: &WorkerEvent) {
        self.driver.observe(now, event);
        self.other.observe(now, event);
    }

    fn wants_kv_events(&self) -> bool {
        self.driver.wants_kv_events() || self.other.wants_kv_events()
    }

    fn observe_kv(&mut self, worker: WorkerId, event: &KvEvent) {
        self.driver.observe_kv(worker, event);
        self.other.observe_kv(worker, event);
    }

    fn overlap_blocks(&self, request: &RouteRequest<'_>) -> Option<Vec<u32>> {
        self.driver.overlap_blocks(request)
    }

    fn observe_peer(&mut self, request: &RouteRequest<'_>, worker: WorkerId, overlap_blocks: u32) {
        self.driver.observe_peer(request, worker, overlap_blocks);
        self.other.observe_peer(request, worker, overlap_blocks);
    }

    fn notes(&self) -> Vec<(&'static str, f64)> {
        vec![
            ("shadow_decisions", self.tally.decisions as f64),
            ("shadow_agreed", self.tally.agreed as f64),
            ("shadow_tied", self.tally.tied as f64),
            ("shadow_max_cost_difference_blocks", self.tally.max_cost_difference_blocks),
        ]
    }

    fn explain(&self, request: &RouteRequest<'_>, view: &ClusterView<'_>) -> Vec<CostParts> {
        self.driver.explain(request, view)
    }
}
