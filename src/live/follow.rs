//! A policy that does what was done, and says what it would have done.

use crate::event::{KvEvent, WorkerEvent};
use crate::id::{RequestId, WorkerId};
use crate::request::RouteRequest;
use crate::router::{ClusterView, CostParts, Policy, Verdict};
use crate::time::SimTime;
use std::sync::{Arc, Mutex, PoisonError};

/// Costs that differ by less are equal, in blocks or whatever a policy counts.
const EQUAL: f64 = 1e-9;

/// How far a policy agreed with decisions that were made.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Agreement {
    /// Decisions compared.
    pub decisions: u64,
    /// The same worker had the lowest cost, alone.
    pub agreed: u64,
    /// Several workers had the lowest cost, the one taken among them.
    pub tied: u64,
    /// Another worker had the lowest cost.
    pub differences: Vec<Difference>,
}

/// A decision that the policy would not have made.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// The request, by its number in the live run.
    pub request: RequestId,
    /// Where it went.
    pub taken: WorkerId,
    /// Where it would have gone.
    pub preferred: WorkerId,
    /// The costs of all workers, in order of id.
    pub costs: Vec<CostParts>,
}

impl Agreement {
    /// Share of the decisions without a tie in which both chose the same.
    pub fn ratio(&self) -> Option<f64> {
        let clear = self.decisions - self.tied;
        (clear > 0).then(|| self.agreed as f64 / clear as f64)
    }
}

/// What [`Followed`] counts, shared by all front ends of a run.
pub(super) type Tally = Arc<Mutex<Agreement>>;

/// What a tally holds.
pub(super) fn tallied(tally: &Tally) -> Agreement {
    tally.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Sends requests where a script says, and asks the policy, if there is one, what
/// each worker would cost.
pub(super) struct Followed {
    pub(super) policy: Option<Box<dyn Policy>>,
    /// By number of the request: its number in the live run, and where it went.
    pub(super) taken: Arc<[(RequestId, WorkerId)]>,
    pub(super) tally: Tally,
}

impl Followed {
    fn compare(&self, request: RequestId, taken: WorkerId, costs: Vec<CostParts>) {
        let Some(own) = costs.iter().find(|parts| parts.worker == taken) else { return };
        let least = costs.iter().min_by(|a, b| a.cost.total_cmp(&b.cost)).unwrap_or(own);
        let lowest = costs.iter().filter(|parts| parts.cost < least.cost + EQUAL).count();
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        tally.decisions += 1;
        if own.cost >= least.cost + EQUAL {
            let preferred = least.worker;
            tally.differences.push(Difference { request, taken, preferred, costs });
        } else if lowest > 1 {
            tally.tied += 1;
        } else {
            tally.agreed += 1;
        }
    }
}

impl Policy for Followed {
    fn route(&mut self, _: SimTime, request: &RouteRequest<'_>, view: &ClusterView<'_>) -> Verdict {
        let (original, taken) = self.taken[request.id.index()];
        if let Some(policy) = &self.policy {
            self.compare(original, taken, policy.explain(request, view));
        }
        if let Some(policy) = &mut self.policy {
            let believed = policy.overlap_blocks(request);
            let overlap_blocks = believed.map_or(0, |blocks| blocks[taken.index()]);
            // As if another front end had sent it there: booked, not chosen.
            policy.observe_peer(request, taken, overlap_blocks);
        }
        Verdict::Send(taken)
    }

    fn observe(&mut self, now: SimTime, event: &WorkerEvent) {
        if let Some(policy) = &mut self.policy {
            policy.observe(now, event);
        }
    }

    fn wants_kv_events(&self) -> bool {
        self.policy.as_ref().is_some_and(|policy| policy.wants_kv_events())
    }

    fn observe_kv(&mut self, worker: WorkerId, event: &KvEvent) {
        if let Some(policy) = &mut self.policy {
            policy.observe_kv(worker, event);
        }
    }

    fn wants_output_blocks(&self) -> bool {
        self.policy.as_ref().is_some_and(|policy| policy.wants_output_blocks())
    }
}
