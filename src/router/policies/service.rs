use crate::event::WorkerEvent;
use crate::id::{ConversationId, WorkerId};
use crate::request::RouteRequest;
use crate::rng::{self, Stream, Use, mix};
use crate::router::factory::{Origin, PolicyFactory, Registration};
use crate::router::parameters::Parameters;
use crate::router::{ClusterView, CostParts, Policy, Verdict};
use crate::settings::Invalid;
use crate::time::{SimDuration, SimTime};
use hashbrown::HashTable;
use rand::RngExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// See [`Service`].
pub fn policy() -> Arc<dyn PolicyFactory> {
    let rule = "a worker drawn for every connection, which clients may keep";
    Registration::new("service", rule, |params: &ServiceParams, _, seed| {
        Service::new(*params, seed)
    })
    .follows(
        Origin::new("Kubernetes Service", "kube-proxy, mode iptables: a draw per connection")
            .version("1.34", "2025-08")
            .without("session affinity by client address; mode ipvs; topology-aware routing"),
    )
    .shared()
}

/// How clients use connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Connections {
    /// Every request has a connection of its own.
    #[default]
    PerRequest,
    /// Every conversation keeps one.
    PerConversation,
    /// All requests share a pool, as those of one proxy or load generator: each takes the
    /// idle connection that was used last, and opens one if there is none.
    Pooled,
}

/// Parameters of [`Service`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ServiceParams {
    /// How clients use connections: `"per_request"`, `"per_conversation"` (every
    /// conversation keeps one) or `"pooled"` (all requests share a pool, of which each
    /// takes the idle connection that was used last).
    pub service_connections: Connections,
    /// A connection that is idle for so long is closed, more than no time (default: that of
    /// Go's `http.Transport`).
    pub service_idle_timeout: SimDuration,
}

impl Default for ServiceParams {
    fn default() -> Self {
        Self {
            service_connections: Connections::default(),
            service_idle_timeout: SimDuration::from_secs(90),
        }
    }
}

impl Parameters for ServiceParams {
    fn check(&self) -> Result<(), Invalid> {
        let some = !self.service_idle_timeout.is_zero();
        Invalid::unless(some, "service_idle_timeout", "0s", "more than no time")
    }
}

/// A Kubernetes Service in place of a router: a worker drawn uniformly for every
/// connection.
///
/// What is balanced are connections, so it matters what clients do with them: one that
/// keeps its connection stays with a worker, whatever its load, until the connection has
/// been idle for too long or the worker is gone.
#[derive(Debug)]
pub struct Service {
    params: ServiceParams,
    /// Idle connections of the pool, used last at the end.
    pool: Vec<(WorkerId, SimTime)>,
    kept: HashTable<Kept>,
    draws: Stream,
}

/// The connection of a conversation.
#[derive(Clone, Copy, Debug)]
struct Kept {
    conversation: ConversationId,
    worker: WorkerId,
    last_use: SimTime,
}

fn hash(conversation: ConversationId) -> u64 {
    mix(u64::from(conversation.0))
}

impl Service {
    /// With `seed` for the draws.
    pub fn new(params: ServiceParams, seed: u64) -> Self {
        Self {
            params,
            pool: Vec::new(),
            kept: HashTable::new(),
            draws: rng::stream(seed, Use::Policy, 0, 0),
        }
    }

    /// Takes a connection that is open, and not idle for too long.
    fn open(&mut self, now: SimTime, request: &RouteRequest<'_>) -> Option<WorkerId> {
        let is_open = |last_use: SimTime| now.since(last_use) <= self.params.service_idle_timeout;
        match self.params.service_connections {
            Connections::PerRequest => None,
            Connections::PerConversation => {
                let of_request = |kept: &Kept| kept.conversation == request.conversation;
                let kept = self.kept.find(hash(request.conversation), of_request)?;
                is_open(kept.last_use).then_some(kept.worker)
            }
            Connections::Pooled => {
                // If the one used last is closed, all are.
                let (worker, last_use) = self.pool.pop()?;
                if is_open(last_use) {
                    return Some(worker);
                }
                self.pool.clear();
                None
            }
        }
    }
}

impl Policy for Service {
    fn route(
        &mut self,
        now: SimTime,
        request: &RouteRequest<'_>,
        view: &ClusterView<'_>,
    ) -> Verdict {
        let open = self.open(now, request);
        let worker = match open.filter(|worker| view.workers[worker.index()].available) {
            Some(worker) => worker,
            None => view.nth_available(self.draws.random_range(0..view.available_count())),
        };
        if self.params.service_connections == Connections::PerConversation {
            let conversation = request.conversation;
            let kept = Kept { conversation, worker, last_use: now };
            let entry = self.kept.entry(
                hash(conversation),
                |kept| kept.conversation == conversation,
                |kept| hash(kept.conversation),
            );
            *entry.or_insert(kept).get_mut() = kept;
        }
        Verdict::send(worker)
    }

    fn observe(&mut self, now: SimTime, event: &WorkerEvent) {
        if self.params.service_connections == Connections::Pooled && event.kind.ends_stay() {
            self.pool.push((event.worker, now));
        }
    }

    fn worker_left(&mut self, worker: WorkerId) {
        self.pool.retain(|(other, _)| *other != worker);
        self.kept.retain(|kept| kept.worker != worker);
    }

    /// 0 for the worker of the connection that the request would take and 1 for the others;
    /// 0 for all where it opens one. Whether the connection is still open is decided on
    /// routing.
    fn explain(&self, request: &RouteRequest<'_>, view: &ClusterView<'_>) -> Vec<CostParts> {
        let of_request = |kept: &Kept| kept.conversation == request.conversation;
        let kept = self.kept.find(hash(request.conversation), of_request).map(|kept| kept.worker);
        let taken = kept.or_else(|| self.pool.last().map(|(worker, _)| *worker));
        let cost = |at: usize| CostParts {
            worker: WorkerId::at(at),
            cost: f64::from(u8::from(taken.is_some_and(|worker| worker.index() != at))),
            parts: vec![("inflight", f64::from(view.workers[at].inflight))],
        };
        (0..view.workers.len()).map(cost).collect()
    }
}
