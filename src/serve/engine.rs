//! A simulation on the clock of the wall: one thread that owns it and puts time in as
//! it passes.

use super::desk::{ByPort, Desk, Open, Said};
use super::publisher::{Event, Publication};
use super::words;
use crate::event::KvEvent;
use crate::experiment::Settings;
use crate::exposition::{Families, Stamp, Tally};
use crate::fleet::servers::{BlockNames, TOKENS};
use crate::fleet::{Fleet, SimulatedFleet};
use crate::id::{BlockId, ConversationId, RequestId, WorkerId};
use crate::recorder::Recorder;
use crate::request::{BlockRun, Content, Request};
use crate::rng::mix;
use crate::router::feed::FeedSettings;
use crate::router::front_end::FrontEnd;
use crate::simulation::{Simulation, Stuck};
use crate::time::{SimDuration, SimTime};
use crate::workload::{Arrival, Patience};
use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// What a client wants.
#[derive(Debug)]
pub(super) enum Ask {
    /// A completion.
    Complete(Completion),
    /// A client has closed its [`Said`] and hears no more.
    HangUp,
    /// What Prometheus reads: of a worker, or of the router and all that are behind it.
    Count(Option<WorkerId>, oneshot::Sender<String>),
}

/// A completion that a client wants.
#[derive(Debug)]
pub(super) struct Completion {
    /// The worker whose port was used; `None` behind the router.
    pub(super) worker: Option<WorkerId>,
    pub(super) prompt: Vec<u32>,
    /// At least 1.
    pub(super) max_tokens: u32,
    /// Requests of one session are routed alike.
    pub(super) session: Option<String>,
    pub(super) say: mpsc::UnboundedSender<Said>,
}

/// What rolling numbers cover, in simulated time.
const WINDOW: SimDuration = SimDuration::from_secs(60);

/// Why the simulation cannot go on, once it cannot.
pub(super) type Halt = Arc<OnceLock<Stuck>>;

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

/// A simulation that is kept up with the clock of the wall. Its workload is what
/// clients ask, its observer tells them.
pub(super) struct Engine {
    simulation: Simulation<'static, SimulatedFleet>,
    settings: Settings,
    desk: Desk,
    tally: Tally,
    clock: Clock,
    /// The name of the model.
    model: String,
    block_size: u32,
    asks: Receiver<Ask>,
    /// Where KV events go, if they are wanted.
    publish: Option<mpsc::UnboundedSender<Publication>>,
    sessions: BTreeMap<String, ConversationId>,
    names: BlockNames,
    /// What blocks say, for KV events.
    texts: BTreeMap<BlockId, Vec<u32>>,
    next_request: u32,
    next_session: u32,
    next_block: u64,
}

impl Engine {
    /// The workers of `settings` in `fleet`, behind `front_end` or each behind a port of its
    /// own.
    pub(super) fn new(
        settings: Settings,
        mut fleet: SimulatedFleet,
        front_end: Option<FrontEnd>,
        (clock, model): (Clock, String),
        (asks, publish): (Receiver<Ask>, Option<mpsc::UnboundedSender<Publication>>),
    ) -> Self {
        fleet.tell_output_tokens();
        fleet.record_steps();
        let (workers, block_size) = (settings.pools.workers(), settings.pools.block_size());
        let (desk, tally) = (Desk::new(), Tally::of_each_token(workers as usize));
        let ports = || {
            let policy = Box::new(ByPort(desk.clone()));
            FrontEnd::new(policy, workers, &FeedSettings::instant(), 0)
        };
        let front_end = front_end.unwrap_or_else(ports);
        let (workload, recorder) = (Box::new(desk.clone()), Recorder::new(workers, false));
        let mut simulation =
            Simulation::new(fleet, workload, vec![front_end], recorder, block_size);
        simulation.observe(desk.clone());
        simulation.observe(tally.clone());
        simulation.watch(WINDOW);
        Self {
            simulation,
            settings,
            desk,
            tally,
            clock,
            model,
            block_size,
            asks,
            publish,
            sessions: BTreeMap::new(),
            names: BlockNames::default(),
            texts: BTreeMap::new(),
            next_request: 0,
            next_session: 0,
            next_block: 0,
        }
    }

    /// Serves until no client is left who could ask, or the simulation cannot go on, which
    /// `halt` says then.
    pub(super) fn run(mut self, halt: &Halt) {
        if let Err(stuck) = self.serve() {
            let _ = halt.set(stuck);
        }
    }

    fn serve(&mut self) -> Result<(), Stuck> {
        loop {
            self.advance(self.clock.now())?;
            let at_worker = self.simulation.fleet().next_at().unwrap_or(SimTime::MAX);
            let ask = match self.simulation.due().min(at_worker) {
                SimTime::MAX => self.asks.recv().map_err(|_| RecvTimeoutError::Disconnected),
                at => self.asks.recv_timeout(self.clock.until(at)),
            };
            match ask {
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
                Ok(Ask::Count(worker, reply)) => {
                    self.advance(self.clock.now())?;
                    // The client may be gone.
                    let _ = reply.send(self.metrics(worker));
                }
                Ok(Ask::HangUp) => {
                    self.advance(self.clock.now())?;
                    for request in self.desk.take_gone() {
                        self.simulation.give_up(request);
                    }
                }
                Ok(Ask::Complete(completion)) => {
                    // Arrivals belong to the time after their moment.
                    let now = self.clock.now().max(self.simulation.now());
                    self.begin(now, completion);
                    self.advance(now + SimDuration::from_ps(1))?;
                }
            }
        }
    }

    /// What Prometheus reads.
    fn metrics(&mut self, worker: Option<WorkerId>) -> String {
        let Self { simulation, settings, tally, model, .. } = self;
        let mut families = Families::default();
        let stamp = Stamp { label: "", model, at: None };
        match worker {
            None => families.add(stamp, simulation, tally, settings),
            Some(id) => {
                let engine = &settings.pools.of(id).engine;
                families.add_worker(stamp, simulation, tally, (id, engine));
            }
        }
        families.text()
    }

    /// Lets everything happen up to `until`, and publishes what workers stored.
    fn advance(&mut self, until: SimTime) -> Result<(), Stuck> {
        self.simulation.advance(until)?;
        self.tally.count_steps(self.simulation.fleet_mut().take_steps());
        let Some(publish) = &self.publish else { return Ok(()) };
        let (texts, block_size) = (&self.texts, self.block_size);
        // One batch for each step, in order of time.
        let mut batches: BTreeMap<(SimTime, WorkerId), Publication> = BTreeMap::new();
        let now = self.simulation.now();
        self.simulation.fleet_mut().take_kv_events(now, &mut |worker, at, event| {
            let batch = batches.entry((at, worker));
            let batch = batch.or_insert_with(|| Publication { worker, events: Vec::new() });
            batch.events.extend(spelled(event, texts, block_size));
        });
        if batches.into_values().any(|batch| publish.send(batch).is_err()) {
            self.publish = None;
        }
        Ok(())
    }

    fn begin(&mut self, now: SimTime, completion: Completion) {
        let Completion { worker, prompt, max_tokens, session, say } = completion;
        let prompt_tokens = u32::try_from(prompt.len()).expect("checked against the context limit");
        let id = RequestId(self.next_request);
        self.next_request += 1;
        let next = &mut self.next_session;
        let mut fresh = || {
            *next += 1;
            ConversationId(*next - 1)
        };
        let conversation = match session {
            Some(session) => *self.sessions.entry(session).or_insert_with(fresh),
            None => fresh(),
        };
        let answer = answer(&prompt, max_tokens);
        let content = self.content(&prompt, &answer, id);
        let request = Request {
            id,
            conversation,
            turn: 0,
            prompt_tokens,
            output_tokens: max_tokens,
            max_tokens,
            priority: 0,
            content,
        };
        let open = Open { say, port: worker, answer: answer.into(), told: 0, is_gone: false };
        let patience = Patience::default();
        self.desk.take_in(Arrival { at: now, sent: now, request, patience }, open);
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
        // Groups of layers that routers do not follow, and what lies below GPU memory, are
        // not published here.
        _ => return None,
    })
}

/// The text of tokens.
pub(super) fn text(tokens: &[u32]) -> String {
    tokens.iter().map(|&token| words::word(token)).collect()
}
