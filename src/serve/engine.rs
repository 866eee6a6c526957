//! Simulated workers on the clock of the wall: one thread that owns them, and
//! tells of every token when it is due.

use super::metrics::Counters;
use super::publisher::{Event, Publication};
use super::words;
use crate::engine::Gauges;
use crate::event::{KvEvent, RejectReason, WorkerEvent, WorkerEventKind};
use crate::fleet::live::{BlockNames, TOKENS};
use crate::fleet::{Fleet, SimulatedFleet};
use crate::id::{BlockId, ConversationId, RequestId, WorkerId};
use crate::request::{BlockRun, Content, Request};
use crate::rng::mix;
use crate::router::Verdict;
use crate::router::front_end::FrontEnd;
use crate::simulation::reports;
use crate::time::{SimDuration, SimTime};
use std::collections::{BTreeMap, VecDeque};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// What a client wants.
#[derive(Debug)]
pub(super) enum Ask {
    /// A completion.
    Complete(Completion),
    /// What a worker counts, and its gauges.
    Count(WorkerId, oneshot::Sender<(Counters, Gauges)>),
}

/// A completion that a client wants.
#[derive(Debug)]
pub(super) struct Completion {
    /// The worker whose port was used; `None` behind the router.
    pub(super) worker: Option<WorkerId>,
    pub(super) prompt: Vec<u32>,
    /// At least 1.
    pub(super) max_tokens: u32,
    /// Whoever is to be routed alike.
    pub(super) session: Option<String>,
    pub(super) say: mpsc::UnboundedSender<Said>,
}

/// What is told of a completion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// The worker has taken it.
    Accepted(WorkerId),
    /// Prompt tokens found in the cache, once it is in a batch.
    Scheduled(u32),
    /// These tokens are out; whether they are the last.
    Tokens { tokens: Vec<u32>, last: bool },
    /// It is not served.
    Refused(RejectReason),
}

/// Time of the simulation, from that of the wall.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    start: Instant,
    speed: f64,
}

impl Clock {
    /// Starts now; simulated time runs `speed` times as fast.
    pub(super) fn new(speed: f64) -> Self {
        Self { start: Instant::now(), speed }
    }

    fn now(&self) -> SimTime {
        SimTime::ZERO + SimDuration::from_secs_f64(self.start.elapsed().as_secs_f64() * self.speed)
    }

    /// Wall time until `at`.
    fn until(&self, at: SimTime) -> Duration {
        let wall = Duration::from_secs_f64(at.as_secs() / self.speed);
        wall.saturating_sub(self.start.elapsed())
    }
}

/// The workers, and a router in front of them if there is one.
pub(super) struct Engine {
    fleet: SimulatedFleet,
    front_end: Option<FrontEnd>,
    clock: Clock,
    block_size: u32,
    asks: Receiver<Ask>,
    /// Where KV events go, if somebody wants them.
    publish: Option<mpsc::UnboundedSender<Publication>>,
    open: BTreeMap<RequestId, Open>,
    /// Requests that the router holds.
    held: BTreeMap<RequestId, Request>,
    sessions: BTreeMap<String, ConversationId>,
    names: BlockNames,
    /// What blocks say, for KV events.
    texts: BTreeMap<BlockId, Vec<u32>>,
    next_request: u32,
    next_session: u32,
    next_block: u64,
    counters: Vec<Counters>,
}

/// A completion that has not ended.
#[derive(Debug)]
struct Open {
    say: mpsc::UnboundedSender<Said>,
    asked: SimTime,
    first_token: Option<SimTime>,
    prompt_tokens: u32,
    answer: VecDeque<u32>,
    /// Tokens told.
    told: u32,
}

impl Engine {
    pub(super) fn new(
        (mut fleet, workers): (SimulatedFleet, u32),
        front_end: Option<FrontEnd>,
        (clock, block_size): (Clock, u32),
        asks: Receiver<Ask>,
        publish: Option<mpsc::UnboundedSender<Publication>>,
    ) -> Self {
        fleet.tell_output_tokens();
        Self {
            fleet,
            front_end,
            clock,
            block_size,
            asks,
            publish,
            open: BTreeMap::new(),
            held: BTreeMap::new(),
            sessions: BTreeMap::new(),
            names: BlockNames::default(),
            texts: BTreeMap::new(),
            next_request: 0,
            next_session: 0,
            next_block: 0,
            counters: vec![Counters::default(); workers as usize],
        }
    }

    /// Serves until nobody can ask any more.
    pub(super) fn run(mut self) {
        loop {
            self.catch_up();
            let wake = self.fleet.next_at();
            let of_router = self.front_end.as_ref().and_then(|front_end| {
                front_end.wake_at().into_iter().chain(front_end.report_due()).min()
            });
            let of_router = of_router.filter(|_| !self.open.is_empty());
            let ask = match wake.into_iter().chain(of_router).min() {
                None => self.asks.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(at) => self.asks.recv_timeout(self.clock.until(at)),
            };
            match ask {
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
                Ok(Ask::Count(worker, reply)) => {
                    let now = self.catch_up();
                    let gauges = self.fleet.gauges(now)[worker.index()];
                    // Whoever asked may be gone.
                    let _ = reply.send((self.counters[worker.index()].clone(), gauges));
                }
                Ok(Ask::Complete(completion)) => {
                    let now = self.catch_up();
                    self.begin(now, completion);
                }
            }
        }
    }

    /// Lets everything happen that is due, and says how late it is.
    fn catch_up(&mut self) -> SimTime {
        let now = self.clock.now();
        while let Some((at, event)) = self.fleet.next_event(now) {
            self.tell(at, event);
            self.release(at);
        }
        self.report(now);
        self.release(now);
        if self.publish.is_some() || self.front_end.is_some() {
            self.take_kv_events(now);
        }
        now
    }

    fn take_kv_events(&mut self, until: SimTime) {
        let Self { fleet, front_end, publish, texts, block_size, .. } = self;
        let mut front_end = front_end.as_mut().filter(|front_end| front_end.wants_kv_events());
        let mut publications: BTreeMap<(SimTime, WorkerId), Publication> = BTreeMap::new();
        fleet.take_kv_events(until, &mut |worker, at, event| {
            if let Some(front_end) = &mut front_end {
                front_end.hear_kv(at, worker, event);
            }
            if publish.is_some() {
                let batch = publications.entry((at, worker));
                let batch = batch.or_insert_with(|| Publication { worker, events: Vec::new() });
                batch.events.extend(spelled(event, texts, *block_size));
            }
        });
        // One batch for each step, in order of time.
        for publication in publications.into_values() {
            let gone = publish.as_ref().is_some_and(|publish| publish.send(publication).is_err());
            if gone {
                *publish = None;
            }
        }
    }

    fn begin(&mut self, now: SimTime, completion: Completion) {
        let Completion { worker, prompt, max_tokens, session, say } = completion;
        let prompt_tokens = u32::try_from(prompt.len()).expect("checked against the context limit");
        let id = RequestId(self.next_request);
        self.next_request += 1;
        let session = session.unwrap_or_else(|| format!("\0{id}"));
        let next = &mut self.next_session;
        let conversation = *self.sessions.entry(session).or_insert_with(|| {
            *next += 1;
            ConversationId(*next - 1)
        });
        let answer = answer(&prompt, max_tokens);
        let content = self.content(&prompt, &answer, id);
        let request = Request {
            id,
            conversation,
            turn: 0,
            prompt_tokens,
            output_tokens: max_tokens,
            max_tokens,
            content,
        };
        let open = Open {
            say,
            asked: now,
            first_token: None,
            prompt_tokens,
            answer: answer.into(),
            told: 0,
        };
        self.open.insert(id, open);
        match (worker, &mut self.front_end) {
            (Some(worker), _) => self.send(now, worker, &request),
            (None, None) => self.refuse(id, RejectReason::Policy),
            (None, Some(front_end)) => {
                match front_end.route(now, &request.route_view(self.block_size)) {
                    Verdict::Send(worker) => self.send(now, worker, &request),
                    Verdict::Hold => {
                        self.held.insert(id, request);
                    }
                    Verdict::Reject(reason) => self.refuse(id, reason),
                }
            }
        }
    }

    /// The blocks of a prompt and its answer, known ones by their names.
    fn content(&mut self, prompt: &[u32], answer: &[u32], id: RequestId) -> Content {
        let text: Vec<u32> = prompt.iter().chain(answer).copied().collect();
        let mut parent = None;
        let mut blocks = Vec::new();
        for tokens in text.chunks_exact(self.block_size as usize) {
            let known = self.names.find(parent, tokens);
            let block = known.unwrap_or_else(|| {
                let fresh = BlockId(self.next_block);
                self.next_block += 1;
                if self.publish.is_some() {
                    self.texts.insert(fresh, tokens.to_vec());
                }
                self.names.name(parent, tokens, fresh)
            });
            parent = Some(block);
            blocks.push(BlockRun { first: block, len: 1 });
        }
        // No request fills a block after these.
        Content::new(blocks, BlockId(1 << 63 | u64::from(id.0) << 31))
    }

    fn send(&mut self, now: SimTime, worker: WorkerId, request: &Request) {
        match self.fleet.submit(now, worker, request) {
            Ok(()) => self.say(request.id, Said::Accepted(worker)),
            Err(reason) => {
                let kind = WorkerEventKind::Rejected(reason);
                self.tell(now, WorkerEvent { worker, request: request.id, kind });
            }
        }
    }

    fn refuse(&mut self, id: RequestId, reason: RejectReason) {
        self.say(id, Said::Refused(reason));
        self.open.remove(&id);
    }

    fn say(&self, id: RequestId, said: Said) {
        if let Some(open) = self.open.get(&id) {
            // A client that is gone misses nothing.
            let _ = open.say.send(said);
        }
    }

    /// Something happened to a request: its client hears, and the router.
    fn tell(&mut self, at: SimTime, event: WorkerEvent) {
        let id = event.request;
        let counters = &mut self.counters[event.worker.index()];
        let Some(open) = self.open.get_mut(&id) else { return };
        let up_to = match event.kind {
            WorkerEventKind::Scheduled { cached_tokens } => {
                counters.scheduled(open.prompt_tokens, cached_tokens);
                let _ = open.say.send(Said::Scheduled(cached_tokens));
                0
            }
            WorkerEventKind::FirstToken => {
                open.first_token = Some(at);
                counters.first_token(at - open.asked);
                // An only token goes out as the last one.
                u32::from(open.answer.len() > 1)
            }
            WorkerEventKind::OutputBlock { output_tokens }
            | WorkerEventKind::Finished { output_tokens } => output_tokens,
            WorkerEventKind::Preempted => {
                counters.preemptions += 1;
                0
            }
            WorkerEventKind::CacheHit { .. }
            | WorkerEventKind::Loaded { .. }
            | WorkerEventKind::Prefilled
            | WorkerEventKind::KvReceived { .. }
            | WorkerEventKind::Rejected(_)
            | WorkerEventKind::Failed => 0,
        };
        let fresh = up_to.saturating_sub(open.told);
        if fresh > 0 {
            open.told = up_to;
            counters.generated_tokens += u64::from(fresh);
            let tokens = open.answer.drain(..(fresh as usize).min(open.answer.len())).collect();
            let last = matches!(event.kind, WorkerEventKind::Finished { .. });
            let _ = open.say.send(Said::Tokens { tokens, last });
        }
        // The router hears of blocks, not of tokens.
        let begins_block = |tokens: u32| {
            (open.prompt_tokens + tokens.saturating_sub(1)).is_multiple_of(self.block_size)
        };
        let is_heard = match event.kind {
            WorkerEventKind::OutputBlock { output_tokens } => begins_block(output_tokens),
            _ => true,
        };
        match event.kind {
            WorkerEventKind::Finished { output_tokens } => {
                let first = open.first_token.unwrap_or(at);
                counters.finished(at - open.asked, at - first, output_tokens);
                self.open.remove(&id);
            }
            WorkerEventKind::Rejected(reason) => self.refuse(id, reason),
            _ => {}
        }
        if let Some(front_end) = self.front_end.as_mut().filter(|_| is_heard) {
            front_end.observe(at, &event);
        }
    }

    /// Sends what the router lets go.
    fn release(&mut self, now: SimTime) {
        while !self.held.is_empty() {
            let Some(front_end) = &mut self.front_end else { return };
            let Some((id, verdict)) = front_end.release(now) else { return };
            let Some(request) = self.held.remove(&id) else { return };
            match verdict {
                Ok(worker) => self.send(now, worker, &request),
                Err(reason) => self.refuse(id, reason),
            }
        }
    }

    /// Tells the router what the workers report, if it is time.
    fn report(&mut self, now: SimTime) {
        let Some(front_end) = &mut self.front_end else { return };
        if front_end.report_due().is_none_or(|due| due > now) {
            return;
        }
        front_end.report(now, &reports(now, &self.fleet.gauges(now)));
    }
}

/// What a prompt is answered: the same whenever it is asked.
fn answer(prompt: &[u32], tokens: u32) -> Vec<u32> {
    let seed = prompt.iter().fold(0, |state, &token| mix(state ^ u64::from(token)));
    let span = u64::from(TOKENS.end - TOKENS.start);
    let token = |number: u64| mix(seed.wrapping_add(number)) % span;
    (0..u64::from(tokens))
        .map(|number| TOKENS.start + u32::try_from(token(number)).expect("less than a u32"))
        .collect()
}

/// An event with what its blocks say.
fn spelled(event: KvEvent, texts: &BTreeMap<BlockId, Vec<u32>>, block_size: u32) -> Option<Event> {
    let name = |block: BlockId| mix(block.0);
    Some(match event {
        KvEvent::Stored { parent, run } => Event::BlockStored {
            block_hashes: (0..run.len).map(|at| name(run.first.offset(at))).collect(),
            parent_block_hash: parent.map(name),
            token_ids: (0..run.len)
                .filter_map(|at| texts.get(&run.first.offset(at)))
                .flatten()
                .copied()
                .collect(),
            block_size,
            medium: "GPU",
        },
        KvEvent::Removed { run } => Event::BlockRemoved {
            block_hashes: (0..run.len).rev().map(|at| name(run.first.offset(at))).collect(),
            medium: "GPU",
        },
        // What lies below GPU memory is not published here.
        KvEvent::StoredBelow { .. } | KvEvent::RemovedBelow { .. } => return None,
    })
}

/// The text of tokens.
pub(super) fn text(tokens: &[u32]) -> String {
    tokens.iter().map(|&token| words::word(token)).collect()
}
