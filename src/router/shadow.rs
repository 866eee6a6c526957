//! Two implementations of one rule, side by side on one history.
//!
//! One drives: its choice is what happens. The other decides too, on the same
//! events, and then books what the first one chose. So they never drift apart,
//! and every difference is one of the decision at hand.

use super::decider::Decider;
use super::forward::forward;
use super::kv::KvParams;
use super::{ClusterView, Policy, Release, Verdict};
use crate::event::{KvEvent, WorkerEvent};
use crate::id::WorkerId;
use crate::metrics::catalogue;
use crate::request::RouteRequest;
use crate::settings::Invalid;
use crate::time::{SimDuration, SimTime};
use crate::truth::WorkerTruth;
use std::fmt;

/// What [`ShadowPolicy`] counts about itself.
pub const METRICS: [&str; 5] = [
    catalogue::SHADOW_DECISIONS.stem,
    catalogue::SHADOW_AGREED.stem,
    catalogue::SHADOW_TIED.stem,
    catalogue::SHADOW_TIES.stem,
    catalogue::SHADOW_COSTS_DIFFER.stem,
];

/// How far two deciders agreed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Decisions in all.
    pub decisions: u64,
    /// Both chose the same worker, or both none.
    pub agreed: u64,
    /// They chose different workers of exactly equal cost by the driver's count.
    pub tied: u64,
    /// Decisions in which several workers had the lowest cost by the driver's count.
    pub ties: u64,
    /// Decisions in which their costs of some worker differed by 10^-9 blocks or more.
    pub costs_differ: u64,
}

/// The policy `shadow`: `driver` decides; `other` is compared with it.
pub struct ShadowPolicy<Driver, Other> {
    driver: Driver,
    other: Other,
    tally: Tally,
}

impl<Driver, Other> fmt::Debug for ShadowPolicy<Driver, Other> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShadowPolicy").field("tally", &self.tally).finish_non_exhaustive()
    }
}

impl<Driver: Decider, Other: Decider> ShadowPolicy<Driver, Other> {
    /// `driver` decides; `other` is compared with it.
    pub fn new(driver: Driver, other: Other) -> Self {
        Self { driver, other, tally: Tally::default() }
    }

    /// How far they agreed so far.
    pub fn tally(&self) -> Tally {
        self.tally
    }
}

impl Tally {
    fn count(
        &mut self,
        chosen: Option<WorkerId>,
        other: Option<WorkerId>,
        costs: &[f64],
        other_costs: &[f64],
    ) {
        let lowest = costs.iter().copied().fold(f64::INFINITY, f64::min);
        self.decisions += 1;
        self.agreed += u64::from(chosen == other);
        self.ties += u64::from(costs.iter().filter(|cost| **cost == lowest).count() > 1);
        if let (Some(chosen), Some(other)) = (chosen, other) {
            let equal = costs[chosen.index()] == costs[other.index()];
            self.tied += u64::from(chosen != other && equal);
        }
        let differ = |(cost, other): (&f64, &f64)| (cost - other).abs() >= 1e-9;
        self.costs_differ += u64::from(costs.iter().zip(other_costs).any(differ));
    }
}

impl<Driver: Decider, Other: Decider> Decider for ShadowPolicy<Driver, Other> {
    type Asked = (Driver::Asked, Other::Asked);

    fn look_up(&mut self, now: SimTime, request: &RouteRequest<'_>) -> Self::Asked {
        (self.driver.look_up(now, request), self.other.look_up(now, request))
    }

    fn look_again(&mut self, now: SimTime, asked: &mut Self::Asked) {
        self.driver.look_again(now, &mut asked.0);
        self.other.look_again(now, &mut asked.1);
    }

    fn least_uncached_tokens(&self, asked: &Self::Asked) -> u64 {
        self.driver.least_uncached_tokens(&asked.0)
    }

    fn choose(&mut self, asked: &Self::Asked) -> Option<WorkerId> {
        let (costs, other_costs) = (self.driver.costs(&asked.0), self.other.costs(&asked.1));
        let (chosen, other) = (self.driver.choose(&asked.0), self.other.choose(&asked.1));
        self.tally.count(chosen, other, &costs, &other_costs);
        chosen
    }

    fn costs(&self, asked: &Self::Asked) -> Vec<f64> {
        self.driver.costs(&asked.0)
    }

    fn book(&mut self, now: SimTime, asked: Self::Asked, worker: WorkerId) {
        self.driver.book(now, asked.0, worker);
        self.other.book(now, asked.1, worker);
    }

    fn turned_away(&mut self, now: SimTime, asked: Self::Asked) {
        self.driver.turned_away(now, asked.0);
        self.other.turned_away(now, asked.1);
    }

    fn least_prefill_tokens(&self) -> u64 {
        self.driver.least_prefill_tokens()
    }

    fn all_have_more_prefill_tokens(&self, most: &[f64]) -> bool {
        self.driver.all_have_more_prefill_tokens(most)
    }

    fn set_params(&mut self, params: &KvParams) -> Result<(), String> {
        self.driver.set_params(params)?;
        self.other.set_params(params)
    }
}

#[deny(clippy::missing_trait_methods)]
impl<Driver: Decider, Other: Decider> Policy for ShadowPolicy<Driver, Other> {
    fn route(&mut self, now: SimTime, request: &RouteRequest<'_>, _: &ClusterView<'_>) -> Verdict {
        self.route_at_once(now, request)
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

    fn observe_kv_published(&mut self, published: SimTime, worker: WorkerId, event: &KvEvent) {
        self.driver.observe_kv_published(published, worker, event);
        self.other.observe_kv_published(published, worker, event);
    }

    fn hears_kv_on_demand(&self) -> bool {
        let hears = |wants: bool, on_demand: bool| !wants || on_demand;
        hears(self.driver.wants_kv_events(), self.driver.hears_kv_on_demand())
            && hears(self.other.wants_kv_events(), self.other.hears_kv_on_demand())
    }

    fn worker_left(&mut self, worker: WorkerId) {
        self.driver.worker_left(worker);
        self.other.worker_left(worker);
    }

    fn worker_joined(&mut self, worker: WorkerId) {
        self.driver.worker_joined(worker);
        self.other.worker_joined(worker);
    }

    fn leave_out(&mut self, worker: WorkerId, is_left_out: bool) {
        self.driver.leave_out(worker, is_left_out);
        self.other.leave_out(worker, is_left_out);
    }

    fn wants_output_blocks(&self) -> bool {
        self.driver.wants_output_blocks() || self.other.wants_output_blocks()
    }

    fn observe_peer(&mut self, request: &RouteRequest<'_>, worker: WorkerId, overlap_blocks: u32) {
        self.driver.observe_peer(request, worker, overlap_blocks);
        self.other.observe_peer(request, worker, overlap_blocks);
    }

    fn wants_truth(&self) -> bool {
        self.driver.wants_truth() || self.other.wants_truth()
    }

    fn observe_truth(&mut self, workers: Vec<WorkerTruth>) {
        self.driver.observe_truth(workers.clone());
        self.other.observe_truth(workers);
    }

    fn report_period(&self) -> Option<SimDuration> {
        self.driver.report_period().or(self.other.report_period())
    }

    /// The driver's; neither holds requests back by itself.
    fn release(&mut self, now: SimTime, view: &ClusterView<'_>) -> Option<Release> {
        self.driver.release(now, view)
    }

    fn set_parameter(&mut self, key: &str, value: f64) -> Result<(), Invalid> {
        self.driver.set_parameter(key, value)?;
        self.other.set_parameter(key, value)
    }

    fn failure(&self) -> Option<String> {
        self.driver.failure().or_else(|| self.other.failure())
    }

    fn notes(&self) -> Vec<(&'static str, f64)> {
        let Tally { decisions, agreed, tied, ties, costs_differ } = self.tally;
        let counts = [decisions, agreed, tied, ties, costs_differ];
        METRICS.into_iter().zip(counts.map(|count| count as f64)).collect()
    }

    forward! { driver: wake_at, overlap_blocks, explain }
}
