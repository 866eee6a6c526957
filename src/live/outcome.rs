//! What live runs give.

use super::follow::Agreement;
use crate::experiment::Params;
use crate::experiment::results::Summary;
use crate::fleet::servers::{EventFaults, FailedRequest, PassedOver, ServerCounters, ServerFacts};
use crate::recorder::RequestRecord;
use crate::workload::Arrival;

/// Everything that live runs of an experiment gave.
#[derive(Clone, Debug)]
pub struct LiveOutcome {
    /// What the servers did.
    pub real: Summary,
    /// What simulated workers do with the same requests, sent where the servers' went.
    pub same: Summary,
    /// What the simulation says by itself.
    pub own: Summary,
    /// Run by run, for each seed by seed.
    pub runs: Vec<LiveRun>,
}

/// One run.
#[derive(Clone, Debug)]
pub struct LiveRun {
    /// Parameters of its first level.
    pub params: Params,
    /// The seed of its workload.
    pub seed: u64,
    /// What made its texts: other than those of another run.
    pub text_key: u64,
    /// Every request that came, in order of arrival.
    pub requests: Vec<LiveRequest>,
    /// Requests as they came, for a trace.
    pub arrivals: Vec<Arrival>,
    /// What the policy says of the decisions when given what the router heard;
    /// only of policies that can be asked.
    pub on_history: Option<Agreement>,
    /// The same when given what simulated workers report.
    pub on_simulation: Option<Agreement>,
    /// Requests that the policy sends to the same worker by itself, of so many.
    pub same_worker: (u64, u64),
    /// What was wrong with KV events, by server.
    pub event_faults: Vec<EventFaults>,
    /// Valid KV events that were not followed, by server.
    pub passed_over: Vec<PassedOver>,
    /// What the servers say of themselves.
    pub facts: Vec<ServerFacts>,
    /// What each counted during the run, as far as it says.
    pub counted: Vec<Option<ServerCounters>>,
    /// Steps of each simulated worker that was sent the same.
    pub simulated_steps: Vec<u64>,
}

/// One request.
#[derive(Clone, Debug)]
pub struct LiveRequest {
    /// What the servers did.
    pub real: RequestRecord,
    /// What simulated workers did that were sent the same; nothing for requests
    /// that failed.
    pub simulated: Option<RequestRecord>,
    /// Why it was not served.
    pub failed: Option<FailedRequest>,
}
