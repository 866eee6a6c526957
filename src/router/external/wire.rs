//! The lines that a router in another language reads and writes: one JSON object each.
//!
//! `docs/router-protocol.md` describes them.

use crate::event::{KvEvent, Medium, RejectReason, WorkerEvent, WorkerEventKind};
use crate::id::{BlockId, ConversationId, RequestId, WorkerId};
use crate::request::{BlockRun, RouteRequest};
use crate::router::{ClusterSpec, ClusterView, Rank, Reported, Role, WorkerLimits};
use crate::time::{SimDuration, SimTime};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The version of the lines. Another one is another protocol: both sides refuse it.
pub const PROTOCOL: u32 = 2;

/// The versions whose lines can be read: what a later one has more may be missing.
pub const READABLE: std::ops::RangeInclusive<u32> = 1..=PROTOCOL;

/// What a router is configured with: the first line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hello {
    /// The version of the lines.
    pub protocol: u32,
    /// All randomness that the router gets, a whole number of 64 bits as text.
    #[serde(with = "as_text")]
    pub seed: u64,
    /// Tokens in a block.
    pub block_size: u32,
    /// What the workers do: `both`, `prefill` or `decode`.
    pub role: RoleName,
    /// Where they decode: whether prompts that are short enough are prefilled there, too.
    pub may_prefill: bool,
    /// What each worker can do, of all that there can ever be, in order of id.
    pub workers: Vec<Limits>,
    /// Which events the router hears.
    pub knowledge: Knowledge,
    /// What `router.parameters` says.
    pub parameters: Map<String, Value>,
}

/// What the workers of a router do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RoleName {
    /// Prefill and decode.
    Both,
    /// Prefill only.
    Prefill,
    /// Decode.
    Decode,
}

/// What a worker can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// KV blocks.
    pub blocks: u32,
    /// Sequences that run at once.
    pub max_num_seqs: u32,
    /// Tokens computed in one step.
    pub max_num_batched_tokens: u32,
    /// Where engines have several ranks, and each is a worker here: the engine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<u32>,
    /// And the number of the rank there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<u32>,
}

/// Which events a router hears, besides first tokens, ends and membership.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Knowledge {
    /// Blocks that workers store and remove.
    pub kv_events: bool,
    /// Every block that an output grows into.
    pub output_blocks: bool,
    /// Time between two reports of the workers' gauges.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub report_period_ns: Option<u64>,
}

impl Hello {
    /// The facts of `cluster`.
    pub fn new(
        cluster: &ClusterSpec,
        seed: u64,
        knowledge: Knowledge,
        parameters: Map<String, Value>,
    ) -> Self {
        let limits = |(at, limits): (usize, &WorkerLimits)| {
            let WorkerLimits { blocks, max_num_seqs, max_num_batched_tokens } = *limits;
            let rank = cluster.ranks.get(at);
            let (engine, rank) = (rank.map(|rank| rank.engine), rank.map(|rank| rank.rank));
            Limits { blocks, max_num_seqs, max_num_batched_tokens, engine, rank }
        };
        let (role, may_prefill) = match cluster.role {
            Role::Both => (RoleName::Both, true),
            Role::Prefill => (RoleName::Prefill, true),
            Role::Decode { may_prefill } => (RoleName::Decode, may_prefill),
        };
        let workers = cluster.limits.iter().enumerate().map(limits).collect();
        let block_size = cluster.block_size;
        Self {
            protocol: PROTOCOL,
            seed,
            block_size,
            role,
            may_prefill,
            workers,
            knowledge,
            parameters,
        }
    }

    /// The facts that it states.
    ///
    /// # Errors
    /// If the ranks of an engine do not stand side by side, or only some workers are ranks.
    pub fn cluster(&self) -> Result<ClusterSpec, String> {
        let limits = |limits: &Limits| {
            let Limits { blocks, max_num_seqs, max_num_batched_tokens, .. } = *limits;
            WorkerLimits { blocks, max_num_seqs, max_num_batched_tokens }
        };
        let role = match self.role {
            RoleName::Both => Role::Both,
            RoleName::Prefill => Role::Prefill,
            RoleName::Decode => Role::Decode { may_prefill: self.may_prefill },
        };
        let rank = |limits: &Limits| Some(Rank { engine: limits.engine?, rank: limits.rank? });
        let has_any = |limits: &Limits| limits.engine.is_some() || limits.rank.is_some();
        let ranks: Arc<[Rank]> = match self.workers.iter().any(has_any) {
            false => Arc::default(),
            true => {
                let lacks = |at| format!("worker {at}: all workers have engine and rank, or none");
                let ranks = (0u32..).zip(&self.workers);
                ranks
                    .map(|(at, limits)| rank(limits).ok_or_else(|| lacks(at)))
                    .collect::<Result<_, _>>()?
            }
        };
        check_side_by_side(&ranks)?;
        let limits = self.workers.iter().map(limits).collect();
        Ok(ClusterSpec { limits, ranks, role, block_size: self.block_size, front_end: 0 })
    }
}

/// The ranks of an engine come and go together, and are looked for side by side.
fn check_side_by_side(ranks: &[Rank]) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    let mut last = None;
    for (at, Rank { engine, .. }) in ranks.iter().enumerate() {
        if last != Some(engine) && !seen.insert(engine) {
            return Err(format!(
                "worker {at} is of engine {engine}, and worker {} before it is not: the ranks of \
                 an engine must stand side by side",
                at - 1
            ));
        }
        last = Some(engine);
    }
    Ok(())
}

/// A line that asks a router.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Question {
    /// Who are you, given these facts?
    Hello(Hello),
    /// Where does this request go?
    Route(Route),
    /// Which held requests go, and where?
    Release(Moment),
}

/// What has come to be known, and what stands now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Moment {
    /// The clock.
    pub now_ns: u64,
    /// What was heard since the last line, in the order in which it was heard.
    pub events: Vec<Event>,
    /// Requests in flight on each worker, in order of id: those that this router sent there.
    pub inflight: Vec<u32>,
    /// Workers that take no requests, in order of id.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub absent: Vec<u32>,
    /// What each worker reported last, where that is new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reports: Option<Vec<Option<Report>>>,
}

/// A request to be routed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Route {
    /// What is known.
    #[serde(flatten)]
    pub moment: Moment,
    /// The request.
    pub request: Asked,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// What a router may see of a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// Its number.
    pub id: u32,
    /// The session that the client names.
    pub session: u32,
    /// Prompt length.
    pub prompt_tokens: u32,
    /// The prompt's full blocks, as runs of consecutive numbers.
    pub blocks: Vec<Run>,
    /// Its prompt has been computed elsewhere.
    #[serde(default, skip_serializing_if = "is_false")]
    pub prefilled: bool,
}

impl Asked {
    /// What a router is given of `request`.
    pub fn of(request: &RouteRequest<'_>) -> Self {
        Self {
            id: request.id.0,
            session: request.conversation.0,
            prompt_tokens: request.prompt_tokens,
            blocks: request.blocks.runs().map(Run).collect(),
            prefilled: request.prefilled,
        }
    }

    /// Its number.
    pub fn request(&self) -> RequestId {
        RequestId(self.id)
    }

    /// The session that it belongs to.
    pub fn conversation(&self) -> ConversationId {
        ConversationId(self.session)
    }
}

/// Consecutive block numbers: the first as text (64 bits do not fit the numbers of all
/// readers of JSON), and how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run(pub BlockRun);

impl Serialize for Run {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (Text(self.0.first), self.0.len).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Run {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (Text(first), len) = Deserialize::deserialize(deserializer)?;
        let fits = len > 0 && first.0.checked_add(u64::from(len)).is_some();
        let wrong = || serde::de::Error::custom("a run has at least one block, of 64 bits");
        fits.then_some(Self(BlockRun { first, len })).ok_or_else(wrong)
    }
}

/// A block number as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text(pub BlockId);

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        as_text::serialize(&self.0.0, serializer)
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        as_text::deserialize(deserializer).map(|block| Self(BlockId(block)))
    }
}

/// Whole numbers of 64 bits as text.
mod as_text {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};
    use std::borrow::Cow;

    pub(super) fn serialize<S: Serializer>(value: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text: Cow<'de, str> = Deserialize::deserialize(deserializer)?;
        let wrong = |_| Error::custom(format!("{text:?} is not a whole number of 64 bits as text"));
        text.parse().map_err(wrong)
    }
}

/// A worker's gauges as it reported them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// When.
    pub at_ns: u64,
    /// Sequences in the running batch.
    pub running: u32,
    /// Requests in its queue.
    pub waiting: u32,
    /// KV blocks that requests hold.
    pub used_blocks: u32,
}

impl Report {
    /// What a front end knows.
    pub fn of(reported: &Reported) -> Self {
        let Reported { at, running, waiting, used_blocks } = *reported;
        Self { at_ns: nanoseconds(at), running, waiting, used_blocks }
    }

    /// As a front end knows it.
    pub fn reported(self) -> Reported {
        let Self { at_ns, running, waiting, used_blocks } = self;
        Reported { at: time(at_ns), running, waiting, used_blocks }
    }
}

/// What a router hears.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The request entered a batch for the first time.
    Scheduled {
        /// Of which.
        #[serde(flatten)]
        of: OfRequest,
        /// Prompt tokens that need no computing.
        cached_tokens: u32,
    },
    /// How much of its prompt was found in the cache, where that is said later.
    CacheHit {
        /// Of which.
        #[serde(flatten)]
        of: OfRequest,
        /// Prompt tokens that needed no computing.
        cached_tokens: u32,
    },
    /// Its prompt is computed by a worker that does no more.
    Prefilled(OfRequest),
    /// Its KV has come over the network to the worker that will decode it.
    KvReceived {
        /// Of which.
        #[serde(flatten)]
        of: OfRequest,
        /// How long that took.
        transfer_ns: u64,
    },
    /// A part of its KV was loaded from tiers below GPU memory.
    Loaded {
        /// Of which.
        #[serde(flatten)]
        of: OfRequest,
        /// Tokens from each medium, in the order of [`Medium::ALL`].
        tokens: [u32; Medium::ALL.len()],
        /// How long that took.
        load_ns: u64,
    },
    /// It lost its blocks and waits again.
    Preempted(OfRequest),
    /// Its first output token left the worker.
    FirstToken(OfRequest),
    /// A later output token left the worker and is the first of a block.
    OutputBlock {
        /// Of which.
        #[serde(flatten)]
        of: OfRequest,
        /// Output tokens so far.
        output_tokens: u32,
    },
    /// The last output token left the worker.
    Finished {
        /// Of which.
        #[serde(flatten)]
        of: OfRequest,
        /// Tokens generated.
        output_tokens: u32,
    },
    /// The worker will not run it.
    Rejected {
        /// Of which.
        #[serde(flatten)]
        of: OfRequest,
        /// Why.
        reason: Reason,
    },
    /// Its client has given it up, and the engine has dropped it.
    Aborted(OfRequest),
    /// The worker is gone and the request with it.
    Failed(OfRequest),
    /// The worker has these blocks from now on.
    Stored {
        /// Of which.
        #[serde(flatten)]
        of: OfCache,
        /// The block before the first one; none at the start of a sequence.
        parent: Option<Text>,
    },
    /// The worker lost these blocks, the last of them first.
    Removed(OfCache),
    /// A group of layers that keeps KV apart has these blocks.
    StoredApart {
        /// Of which.
        #[serde(flatten)]
        of: OfCache,
        /// Number of the group.
        group: u32,
    },
    /// A group of layers that keeps KV apart lost these blocks.
    RemovedApart {
        /// Of which.
        #[serde(flatten)]
        of: OfCache,
        /// Number of the group.
        group: u32,
    },
    /// A tier below GPU memory has these blocks.
    StoredBelow {
        /// Of which.
        #[serde(flatten)]
        of: OfCache,
        /// What the tier is made of.
        medium: Medium,
    },
    /// A tier below GPU memory lost these blocks.
    RemovedBelow {
        /// Of which.
        #[serde(flatten)]
        of: OfCache,
        /// What the tier is made of.
        medium: Medium,
    },
    /// The worker is gone, or on its way out; what it held and ran is to be forgotten.
    Left {
        /// Which.
        worker: u32,
    },
    /// The worker takes requests, with an empty cache.
    Joined {
        /// Which.
        worker: u32,
    },
    /// Another front end sent a request.
    PeerSent {
        /// Where.
        worker: u32,
        /// What that front end believed the worker to hold of it.
        overlap_blocks: u32,
        /// The request.
        request: Asked,
    },
}

/// Where and when something happened to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfRequest {
    /// When.
    pub at_ns: u64,
    /// Where.
    pub worker: u32,
    /// The request.
    pub request: u32,
}

/// Blocks of a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfCache {
    /// When the worker published it.
    pub at_ns: u64,
    /// Whose cache.
    pub worker: u32,
    /// Which blocks.
    pub blocks: Run,
}

/// Why a worker does not run a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Prompt and output exceed the context limit.
    ContextLimit,
    /// It could never fit into the KV pool.
    KvPool,
    /// Anything else.
    Other,
}

impl Event {
    /// A change in the life of a request.
    pub fn of_life(now: SimTime, event: &WorkerEvent) -> Self {
        let (worker, request) = (event.worker.0, event.request.0);
        let of = OfRequest { at_ns: nanoseconds(now), worker, request };
        match event.kind {
            WorkerEventKind::Scheduled { cached_tokens } => Self::Scheduled { of, cached_tokens },
            WorkerEventKind::CacheHit { cached_tokens } => Self::CacheHit { of, cached_tokens },
            WorkerEventKind::Prefilled => Self::Prefilled(of),
            WorkerEventKind::KvReceived { transfer } => {
                Self::KvReceived { of, transfer_ns: transfer.as_ps() / PS_PER_NS }
            }
            WorkerEventKind::Loaded { tokens, time } => {
                Self::Loaded { of, tokens, load_ns: time.as_ps() / PS_PER_NS }
            }
            WorkerEventKind::Preempted => Self::Preempted(of),
            WorkerEventKind::FirstToken => Self::FirstToken(of),
            WorkerEventKind::OutputBlock { output_tokens } => {
                Self::OutputBlock { of, output_tokens }
            }
            WorkerEventKind::Finished { output_tokens } => Self::Finished { of, output_tokens },
            WorkerEventKind::Rejected(reason) => {
                let reason = match reason {
                    RejectReason::ContextLimit => Reason::ContextLimit,
                    RejectReason::KvPool => Reason::KvPool,
                    _ => Reason::Other,
                };
                Self::Rejected { of, reason }
            }
            WorkerEventKind::Aborted => Self::Aborted(of),
            WorkerEventKind::Failed => Self::Failed(of),
        }
    }

    /// A change of a cache.
    pub fn of_kv(published: SimTime, worker: WorkerId, event: &KvEvent) -> Self {
        let (at_ns, blocks) = (nanoseconds(published), Run(event.run()));
        let of = OfCache { at_ns, worker: worker.0, blocks };
        match *event {
            KvEvent::Stored { parent, .. } => Self::Stored { of, parent: parent.map(Text) },
            KvEvent::Removed { .. } => Self::Removed(of),
            KvEvent::StoredApart { group, .. } => Self::StoredApart { of, group },
            KvEvent::RemovedApart { group, .. } => Self::RemovedApart { of, group },
            KvEvent::StoredBelow { medium, .. } => Self::StoredBelow { of, medium },
            KvEvent::RemovedBelow { medium, .. } => Self::RemovedBelow { of, medium },
        }
    }

    /// What a policy hears.
    pub fn heard(&self) -> Heard<'_> {
        let life = |of: OfRequest, kind| {
            let (worker, request) = (WorkerId(of.worker), RequestId(of.request));
            Heard::Life(time(of.at_ns), WorkerEvent { worker, request, kind })
        };
        let kv = |of: OfCache, event| Heard::Kv(time(of.at_ns), WorkerId(of.worker), event);
        match *self {
            Self::Scheduled { of, cached_tokens } => {
                life(of, WorkerEventKind::Scheduled { cached_tokens })
            }
            Self::CacheHit { of, cached_tokens } => {
                life(of, WorkerEventKind::CacheHit { cached_tokens })
            }
            Self::Prefilled(of) => life(of, WorkerEventKind::Prefilled),
            Self::KvReceived { of, transfer_ns } => {
                life(of, WorkerEventKind::KvReceived { transfer: duration(transfer_ns) })
            }
            Self::Loaded { of, tokens, load_ns } => {
                life(of, WorkerEventKind::Loaded { tokens, time: duration(load_ns) })
            }
            Self::Preempted(of) => life(of, WorkerEventKind::Preempted),
            Self::FirstToken(of) => life(of, WorkerEventKind::FirstToken),
            Self::OutputBlock { of, output_tokens } => {
                life(of, WorkerEventKind::OutputBlock { output_tokens })
            }
            Self::Finished { of, output_tokens } => {
                life(of, WorkerEventKind::Finished { output_tokens })
            }
            Self::Rejected { of, reason } => {
                let reason = match reason {
                    Reason::ContextLimit => RejectReason::ContextLimit,
                    Reason::KvPool => RejectReason::KvPool,
                    Reason::Other => RejectReason::Server,
                };
                life(of, WorkerEventKind::Rejected(reason))
            }
            Self::Aborted(of) => life(of, WorkerEventKind::Aborted),
            Self::Failed(of) => life(of, WorkerEventKind::Failed),
            Self::Stored { of, parent } => {
                let (parent, run) = (parent.map(|Text(block)| block), of.blocks.0);
                kv(of, KvEvent::Stored { parent, run })
            }
            Self::Removed(of) => kv(of, KvEvent::Removed { run: of.blocks.0 }),
            Self::StoredApart { of, group } => {
                kv(of, KvEvent::StoredApart { group, run: of.blocks.0 })
            }
            Self::RemovedApart { of, group } => {
                kv(of, KvEvent::RemovedApart { group, run: of.blocks.0 })
            }
            Self::StoredBelow { of, medium } => {
                kv(of, KvEvent::StoredBelow { medium, run: of.blocks.0 })
            }
            Self::RemovedBelow { of, medium } => {
                kv(of, KvEvent::RemovedBelow { medium, run: of.blocks.0 })
            }
            Self::Left { worker } => Heard::Left(WorkerId(worker)),
            Self::Joined { worker } => Heard::Joined(WorkerId(worker)),
            Self::PeerSent { worker, overlap_blocks, ref request } => {
                Heard::Peer(request, WorkerId(worker), overlap_blocks)
            }
        }
    }
}

/// An [`Event`] as a policy hears it.
#[derive(Clone, Debug)]
pub enum Heard<'a> {
    /// [`Policy::observe`](crate::router::Policy::observe).
    Life(SimTime, WorkerEvent),
    /// [`Policy::observe_kv`](crate::router::Policy::observe_kv).
    Kv(SimTime, WorkerId, KvEvent),
    /// [`Policy::worker_left`](crate::router::Policy::worker_left).
    Left(WorkerId),
    /// [`Policy::worker_joined`](crate::router::Policy::worker_joined).
    Joined(WorkerId),
    /// [`Policy::observe_peer`](crate::router::Policy::observe_peer).
    Peer(&'a Asked, WorkerId, u32),
}

/// What was heard since the last line, and what of the workers' reports was written.
#[derive(Clone, Debug, Default)]
pub struct Unwritten {
    events: Vec<Event>,
    reports: Vec<Option<Report>>,
}

impl Unwritten {
    /// To be written with the next line.
    pub fn hear(&mut self, event: Event) {
        self.events.push(event);
    }

    /// Whether the next line has events.
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// The next line: what stands now, with what was not written yet.
    pub fn write(&mut self, now: SimTime, view: &ClusterView<'_>) -> Moment {
        let reports = view.workers.iter().map(|worker| worker.reported.as_ref().map(Report::of));
        let knows_any = view.workers.iter().any(|worker| worker.reported.is_some());
        let is_known = !self.reports.is_empty() || knows_any;
        let is_new = is_known && reports.clone().ne(self.reports.iter().copied());
        if is_new {
            self.reports = reports.collect();
        }
        let absent = (0..).zip(view.workers).filter(|(_, worker)| !worker.available);
        Moment {
            now_ns: nanoseconds(now),
            events: std::mem::take(&mut self.events),
            inflight: view.workers.iter().map(|worker| worker.inflight).collect(),
            absent: absent.map(|(at, _)| at).collect(),
            reports: is_new.then(|| self.reports.clone()),
        }
    }
}

/// The answer to [`Question::Hello`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Introduction {
    /// The version of the lines that the router speaks.
    pub protocol: u32,
    /// What it calls itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// The answer to [`Question::Route`]: one of `worker`, `hold` and `reject`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Choice {
    /// It goes there, at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<u32>,
    /// The router keeps it until it releases it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub hold: bool,
    /// It is turned away.
    #[serde(default, skip_serializing_if = "is_false")]
    pub reject: bool,
    /// With `hold`: when to ask for releases even if nothing is heard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wake_ns: Option<u64>,
    /// What each worker costs, for people.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub costs: Vec<Cost>,
    /// Leading blocks of the prompt that the router believes each worker to hold, in order
    /// of id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlap_blocks: Option<Vec<u32>>,
}

/// What a worker costs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cost {
    /// Which.
    pub worker: u32,
    /// What the router compares; lower wins; none where the request cannot go.
    pub cost: Option<f64>,
    /// Named addends or inputs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parts: BTreeMap<String, f64>,
}

/// The answer to [`Question::Release`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Releases {
    /// Held requests that go, in this order.
    #[serde(default)]
    pub released: Vec<ReleasedRequest>,
    /// When to ask again even if nothing is heard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wake_ns: Option<u64>,
}

/// A held request that goes: one of `worker` and `reject`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleasedRequest {
    /// Which.
    pub request: u32,
    /// Where it goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<u32>,
    /// It is turned away.
    #[serde(default, skip_serializing_if = "is_false")]
    pub reject: bool,
}

const PS_PER_NS: u64 = 1_000;

/// Whole nanoseconds, rounded down.
pub fn nanoseconds(time: SimTime) -> u64 {
    time.as_ps() / PS_PER_NS
}

/// The time after so many nanoseconds; the latest there is, if they are too many.
pub fn time(ns: u64) -> SimTime {
    SimTime::from_ps(ns.saturating_mul(PS_PER_NS))
}

fn duration(ns: u64) -> SimDuration {
    SimDuration::from_ps(ns.saturating_mul(PS_PER_NS))
}
