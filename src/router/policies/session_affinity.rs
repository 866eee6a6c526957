use super::least_loaded::LeastLoaded;
use crate::event::WorkerEvent;
use crate::id::{ConversationId, RequestId, WorkerId};
use crate::request::RouteRequest;
use crate::rng::mix;
use crate::router::factory::{Origin, PolicyFactory, Registration};
use crate::router::parameters::{Parameters, change};
use crate::router::{ClusterView, CostParts, Policy, Verdict};
use crate::settings::{Count, Invalid, count};
use crate::time::{SimDuration, SimTime};
use hashbrown::HashTable;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// See [`SessionAffinity`].
pub fn policy() -> Arc<dyn PolicyFactory> {
    let rule = "every turn of a conversation to the worker of its first turn";
    Registration::new("session_affinity", rule, |params: &SessionParams, _, seed| {
        SessionAffinity::new(*params, seed)
    })
    .follows(
        Origin::new(
            "NVIDIA Dynamo",
            "crate dynamo-kv-router, scheduling/queue.rs; the bound on load is ours",
        )
        .version("1.6.1", "2026-11")
        .without("the limit of 65,536 sessions; costs for sessions without a worker"),
    )
    .shared()
}

/// What a session does when its worker is busy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Affinity {
    /// Stays.
    #[default]
    Hard,
    /// Moves for good once its worker has too many requests more than another.
    Soft,
}

/// Parameters of [`SessionAffinity`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct SessionParams {
    /// `"hard"` stays on its worker, `"soft"` leaves a busy one.
    pub session_affinity: Affinity,
    /// A session without activity for so long is forgotten (default assumed;
    /// Dynamo's is off unless set).
    pub session_ttl: SimDuration,
    /// With `"soft"`: a session stays while its worker has at most so many more requests in
    /// flight than the least loaded one (default assumed).
    #[serde(deserialize_with = "count")]
    #[schemars(with = "Count")]
    pub session_slack_requests: u32,
}

impl Default for SessionParams {
    fn default() -> Self {
        Self {
            session_affinity: Affinity::default(),
            session_ttl: SimDuration::from_secs(300),
            session_slack_requests: 8,
        }
    }
}

impl Parameters for SessionParams {
    const CHANGEABLE: &'static [&'static str] = &["session_slack_requests"];
}

/// Every turn of a conversation to the worker of its first turn, which is the
/// least loaded one.
///
/// Source: Dynamo 1.6's session affinity: a session is bound to a worker until
/// a time after its last activity, and while it has requests in flight; bound
/// hard or soft. What makes a soft session move is not load there but a worker
/// that drops out; the bound on load is our own, as sticky load balancers have it.
#[derive(Debug)]
pub struct SessionAffinity {
    params: SessionParams,
    newcomers: LeastLoaded,
    sessions: HashTable<Session>,
    requests: HashTable<(RequestId, ConversationId)>,
}

#[derive(Debug)]
struct Session {
    conversation: ConversationId,
    worker: WorkerId,
    last_activity: SimTime,
    inflight: u32,
}

impl SessionAffinity {
    /// With `seed` for the draws among equally loaded workers.
    pub fn new(params: SessionParams, seed: u64) -> Self {
        Self {
            params,
            newcomers: LeastLoaded::new(seed),
            sessions: HashTable::new(),
            requests: HashTable::new(),
        }
    }

    fn session(&mut self, conversation: ConversationId) -> Option<&mut Session> {
        self.sessions.find_mut(mix(u64::from(conversation.0)), |session| {
            session.conversation == conversation
        })
    }

    /// The worker that the session is bound to, if it is and may stay.
    fn bound(
        &mut self,
        now: SimTime,
        conversation: ConversationId,
        view: &ClusterView<'_>,
    ) -> Option<WorkerId> {
        let SessionParams { session_affinity, session_ttl, session_slack_requests } = self.params;
        let session = self.session(conversation)?;
        if !view.workers[session.worker.index()].available {
            return None;
        }
        if session.inflight == 0 && now.since(session.last_activity) > session_ttl {
            return None;
        }
        let excess = view.workers[session.worker.index()].inflight - view.least_inflight();
        let stays = session_affinity == Affinity::Hard || excess <= session_slack_requests;
        stays.then_some(session.worker)
    }

    fn bind(&mut self, now: SimTime, conversation: ConversationId, worker: WorkerId) {
        let mut entry = self
            .sessions
            .entry(
                mix(u64::from(conversation.0)),
                |session| session.conversation == conversation,
                |session| mix(u64::from(session.conversation.0)),
            )
            .or_insert(Session { conversation, worker, last_activity: now, inflight: 0 });
        let session = entry.get_mut();
        session.worker = worker;
        session.last_activity = now;
        session.inflight += 1;
    }
}

impl Policy for SessionAffinity {
    fn route(
        &mut self,
        now: SimTime,
        request: &RouteRequest<'_>,
        view: &ClusterView<'_>,
    ) -> Verdict {
        let bound = self.bound(now, request.conversation, view);
        let verdict = bound.map_or_else(|| self.newcomers.route(now, request, view), Verdict::send);
        if let Verdict::Send(worker) = verdict {
            self.bind(now, request.conversation, worker);
            let hash = |id: RequestId| mix(u64::from(id.0));
            let sent = (request.id, request.conversation);
            self.requests.insert_unique(hash(request.id), sent, |(id, _)| hash(*id));
        }
        verdict
    }

    fn observe(&mut self, now: SimTime, event: &WorkerEvent) {
        let hash = mix(u64::from(event.request.0));
        let Ok(sent) = self.requests.find_entry(hash, |(id, _)| *id == event.request) else {
            return;
        };
        let conversation = sent.get().1;
        let ended = event.kind.ends_stay();
        if ended {
            sent.remove();
        }
        if let Some(session) = self.session(conversation) {
            session.last_activity = now;
            session.inflight -= u32::from(ended);
        }
    }

    fn set_parameter(&mut self, key: &str, value: f64) -> Result<(), Invalid> {
        self.params = change(&self.params, key, value)?;
        Ok(())
    }

    /// 0 for the worker of the conversation and 1 for the others; requests in
    /// flight where it has none yet. Whether the session has expired, or is to
    /// move, is decided on routing.
    fn explain(&self, request: &RouteRequest<'_>, view: &ClusterView<'_>) -> Vec<CostParts> {
        let of_request = |session: &Session| session.conversation == request.conversation;
        let session = self.sessions.find(mix(u64::from(request.conversation.0)), of_request);
        let cost = |(at, inflight): (usize, u32)| {
            let worker = WorkerId::at(at);
            let bound = session.map(|session| u32::from(session.worker != worker));
            CostParts {
                worker,
                cost: f64::from(bound.unwrap_or(inflight)),
                parts: vec![("inflight", f64::from(inflight))],
            }
        };
        view.workers.iter().map(|worker| worker.inflight).enumerate().map(cost).collect()
    }
}
