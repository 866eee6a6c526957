//! A policy that does what was done, and says what it would have done.

use crate::id::{RequestId, WorkerId};
use crate::request::RouteRequest;
use crate::router::{ClusterView, CostParts, Policy, Release, Verdict, forward};
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

/// Sends requests where a script says, and asks the policy what each worker would
/// cost, if it can be asked.
pub(super) struct Followed {
    pub(super) policy: Box<dyn Policy>,
    /// If not, the policy is one that listens to nothing.
    pub(super) is_asked: bool,
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

#[deny(clippy::missing_trait_methods)]
impl Policy for Followed {
    fn route(&mut self, _: SimTime, request: &RouteRequest<'_>, view: &ClusterView<'_>) -> Verdict {
        let (original, taken) = self.taken[request.id.index()];
        if self.is_asked {
            self.compare(original, taken, self.policy.explain(request, view));
            let believed = self.policy.overlap_blocks(request);
            let overlap_blocks = believed.map_or(0, |blocks| blocks[taken.index()]);
            // As if another front end had sent it there: booked, not chosen.
            self.policy.observe_peer(request, taken, overlap_blocks);
        }
        Verdict::send(taken)
    }

    /// The script holds nothing back.
    fn release(&mut self, _: SimTime, _: &ClusterView<'_>) -> Option<Release> {
        None
    }

    fn wake_at(&self) -> Option<SimTime> {
        None
    }

    forward! { policy: observe, wants_kv_events, observe_kv, observe_kv_published,
    hears_kv_on_demand, report_period, wants_output_blocks,
    wants_truth, observe_truth, overlap_blocks, observe_peer, worker_left, worker_joined,
    leave_out, set_parameter, failure, notes, explain }
}
