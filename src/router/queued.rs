//! A queue before the choice, as the production scheduler has one.
//!
//! A request waits while *every* worker has more than a threshold of prompt
//! tokens in flight, and behind those that wait already. It is looked up when it
//! comes, and again after it has waited for 10 s; the worker is chosen when it
//! goes, by the loads of that moment. Source: `scheduling/queue.rs` and
//! `scheduling/policy.rs` of dynamo-kv-router 1.6.1, with one class of requests
//! and no priorities.

use super::decider::Decider;
use super::forward::forward;
use super::kv::KvParams;
use super::{ClusterView, Policy, Release, Verdict};
use crate::event::RejectReason;
use crate::id::RequestId;
use crate::request::RouteRequest;
use crate::time::{SimDuration, SimTime};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Who goes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum QueueOrder {
    /// First come, first served.
    #[default]
    Fcfs,
    /// Last come, first served.
    Lcfs,
    /// Fewest tokens to compute (weighted shortest processing time, equal weights).
    Wspt,
}

/// After so long a look-up is repeated (`DYN_ROUTER_OVERLAP_REFRESH_AFTER_SECS`).
const STALE: SimDuration = SimDuration::from_secs(10);

/// Prompt tokens in flight above which a worker takes nothing from the queue; infinite:
/// none waits.
#[derive(Clone, Debug, PartialEq)]
pub enum BusyTokens {
    /// Of every worker.
    Same(f64),
    /// By worker, in order of id.
    Each(Vec<f64>),
}

impl BusyTokens {
    /// By worker, in order of id.
    pub fn of_each(tokens: Vec<f64>) -> Self {
        match tokens.first() {
            Some(&first) if tokens.iter().all(|other| *other == first) => Self::Same(first),
            _ => Self::Each(tokens),
        }
    }

    /// Whether every worker of `decider` has more.
    fn are_passed<D: Decider>(&self, decider: &D) -> bool {
        match self {
            Self::Same(tokens) => {
                // The production router goes through all workers to find the least busy one.
                tokens.is_finite() && decider.least_prefill_tokens() as f64 > *tokens
            }
            Self::Each(tokens) => decider.all_have_more_prefill_tokens(tokens),
        }
    }
}

impl From<f64> for BusyTokens {
    fn from(tokens: f64) -> Self {
        Self::Same(tokens)
    }
}

/// A decider behind a queue.
pub struct Queued<D: Decider> {
    decider: D,
    busy_tokens: BusyTokens,
    order: QueueOrder,
    /// By rank, then by order of arrival.
    waiting: BTreeMap<(u64, u64), Waiting<D::Asked>>,
    arrivals: u64,
}

struct Waiting<Asked> {
    request: RequestId,
    since: SimTime,
    asked: Asked,
}

impl<D: Decider> fmt::Debug for Queued<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queued").field("waiting", &self.waiting.len()).finish_non_exhaustive()
    }
}

impl<D: Decider> Queued<D> {
    /// A queue before `decider` that holds requests while every worker has more
    /// than `busy_tokens` prompt tokens in flight.
    pub fn new(decider: D, busy_tokens: impl Into<BusyTokens>, order: QueueOrder) -> Self {
        let busy_tokens = busy_tokens.into();
        Self { decider, busy_tokens, order, waiting: BTreeMap::new(), arrivals: 0 }
    }

    fn all_busy(&self) -> bool {
        self.busy_tokens.are_passed(&self.decider)
    }

    /// Routes by other parameters from now on.
    ///
    /// # Errors
    /// What would have to hold, if the decider cannot do that while it runs.
    pub(super) fn set_params(&mut self, params: &KvParams) -> Result<(), String> {
        self.decider.set_params(params)
    }

    /// Holds requests above another number of prompt tokens from now on.
    pub(super) fn set_busy_tokens(&mut self, busy_tokens: BusyTokens) {
        self.busy_tokens = busy_tokens;
    }

    /// Lower goes first; equal ranks in order of arrival.
    fn rank(&self, now: SimTime, asked: &D::Asked) -> u64 {
        match self.order {
            QueueOrder::Fcfs => 0,
            QueueOrder::Lcfs => u64::MAX - now.as_ps(),
            QueueOrder::Wspt => self.decider.least_uncached_tokens(asked).max(1),
        }
    }
}

#[deny(clippy::missing_trait_methods)]
impl<D: Decider> Policy for Queued<D> {
    fn route(&mut self, now: SimTime, request: &RouteRequest<'_>, _: &ClusterView<'_>) -> Verdict {
        let asked = self.decider.look_up(now, request);
        if self.waiting.is_empty() && !self.all_busy() {
            return self.decider.send(now, asked).map_or_else(Verdict::Reject, Verdict::send);
        }
        let place = (self.rank(now, &asked), self.arrivals);
        self.arrivals += 1;
        self.waiting.insert(place, Waiting { request: request.id, since: now, asked });
        Verdict::Hold
    }

    fn release(&mut self, now: SimTime, view: &ClusterView<'_>) -> Option<Release> {
        if self.waiting.is_empty() {
            return None;
        }
        if view.available().next().is_none() {
            let (_, Waiting { request, .. }) = self.waiting.pop_first()?;
            return Some((request, Err(RejectReason::NoWorker)));
        }
        if self.all_busy() {
            return None;
        }
        let (_, Waiting { request, since, mut asked }) = self.waiting.pop_first()?;
        if now - since >= STALE {
            self.decider.look_again(now, &mut asked);
        }
        Some((request, self.decider.send(now, asked)))
    }

    forward! { decider: observe, wants_kv_events, observe_kv, observe_kv_published,
    hears_kv_on_demand, report_period, wants_output_blocks,
    wants_truth, observe_truth, wake_at, overlap_blocks, observe_peer, worker_left, worker_joined,
    leave_out, set_parameter, failure, notes, explain }
}
