//! Real servers behind the same trait: vLLM over HTTP, on the clock of the wall.
//!
//! Requests are streamed completions of token ids; their times are taken where
//! bytes arrive, in tasks of their own, and reach the driver as events of the
//! moment. Caches are known from the servers' KV events, in the simulation's
//! block ids. A request always ends: finished, or [failed](Failure).

// The wall clock is this fleet's clock.
#![allow(clippy::disallowed_methods)]

mod cache;
mod events;
mod http;
mod key;
mod metrics;
mod probe;
mod prober;
mod text;

pub(crate) use cache::OF_LAYERS;
pub use events::EventSource;
pub use http::{Failure, Limits};
pub use key::ApiKey;
pub use probe::{ServerError, ServerFacts};
pub use prober::{Prober, Timing};
pub(crate) use text::{BlockNames, TOKENS, alike};

use super::Fleet;
use super::pools::Pools;
use crate::engine::Gauges;
use crate::event::{KvEvent, RejectReason, WorkerEvent, WorkerEventKind};
use crate::id::{RequestId, WorkerId};
use crate::request::Request;
use crate::stats::Histogram;
use crate::time::{SimDuration, SimTime};
use cache::{ServerCache, Unheard};
use events::{Heard, Listener, News};
use http::{Answer, Http, Lengths};
use hyper::Uri;
use key::{hide, place};
use metrics::Samples;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use text::Texts;
use tokio::runtime::{self, Runtime};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

/// Requests at one server at the same time; more wait here (assumed: above any
/// engine's own batch limit that matters).
const MOST_AT_ONCE: usize = 1024;
/// How often servers are asked for their gauges: each answer costs them
/// milliseconds (assumed).
const SCRAPE_EVERY: Duration = Duration::from_secs(1);

/// How often a server is asked to empty its cache, and the pause before it is
/// asked again: 5 s in all (assumed: an engine gives up requests within steps).
const RESETS: u32 = 20;
const RESET_PAUSE: Duration = Duration::from_millis(250);

/// What to connect to, and how.
#[derive(Clone, Debug, Default)]
pub struct LiveSettings {
    /// Addresses of the servers, as `http://127.0.0.1:8000`; worker 0 first.
    pub urls: Vec<String>,
    /// The model to ask for; each server's first unless given.
    pub model: Option<String>,
    /// Where KV events are, in order of the servers; unless given, where the
    /// servers say.
    pub events: Vec<EventSource>,
    /// How long to wait.
    pub limits: Limits,
    /// Makes texts of one run different from another's.
    pub text_key: u64,
}

/// A request that no server answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedRequest {
    /// The request.
    pub request: RequestId,
    /// Where it was sent.
    pub worker: WorkerId,
    /// When it failed.
    pub at: SimTime,
    /// Why.
    pub failure: Failure,
}

/// What a server counts of itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ServerCounters {
    /// Prompt tokens looked up in the prefix cache.
    pub queried_tokens: f64,
    /// Those of them that were there.
    pub hit_tokens: f64,
    /// Steps with tokens.
    pub steps: f64,
    /// Requests that lost their blocks.
    pub preemptions: f64,
}

impl ServerCounters {
    /// What was counted since `before`.
    pub fn since(&self, before: &Self) -> Self {
        Self {
            queried_tokens: self.queried_tokens - before.queried_tokens,
            hit_tokens: self.hit_tokens - before.hit_tokens,
            steps: self.steps - before.steps,
            preemptions: self.preemptions - before.preemptions,
        }
    }
}

/// What was wrong with the KV events of one server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventFaults {
    /// Batches missed and replayed.
    pub recovered: u64,
    /// Batches missed for good.
    pub lost: u64,
    /// Times the server restarted.
    pub restarts: u64,
    /// Messages and events that made no sense.
    pub broken: u64,
    /// What the first of these said.
    pub first_broken: Option<String>,
}

/// Valid KV events of one server that are not followed, by what they are about: layers
/// that keep less than full attention does, other media than GPU memory, another block
/// size, and kinds of events that are not known here.
pub type PassedOver = BTreeMap<String, u64>;

/// Servers that answer HTTP; see the [module documentation](self).
pub struct LiveFleet {
    servers: Vec<Server>,
    http: Http,
    block_size: u32,
    start: Instant,
    now: SimTime,
    open: BTreeMap<RequestId, Open>,
    /// What tasks say, and what they said that is not due yet.
    told: mpsc::Receiver<Told>,
    tell: mpsc::Sender<Told>,
    early: Option<Told>,
    heard: mpsc::Receiver<Heard>,
    ready: VecDeque<(SimTime, WorkerEvent)>,
    texts: Texts,
    names: BlockNames,
    gaps: Histogram,
    output_blocks: bool,
    /// Whether KV events are heard.
    hears_kv: bool,
    failed: Vec<FailedRequest>,
    /// Tasks end with it. The last field: it goes last.
    runtime: Option<Runtime>,
}

impl std::fmt::Debug for LiveFleet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LiveFleet").field("now", &self.now).finish_non_exhaustive()
    }
}

impl Drop for LiveFleet {
    fn drop(&mut self) {
        // Requests in flight are given up; their servers see closed connections.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// One of the fleet's workers.
#[derive(Debug)]
struct Server {
    url: String,
    facts: ServerFacts,
    completions: Uri,
    places: Arc<Semaphore>,
    cache: ServerCache,
    /// Cache changes that have not been taken yet.
    changes: VecDeque<(SimTime, KvEvent)>,
    faults: EventFaults,
    passed_over: PassedOver,
    inflight: u32,
    gauges: Gauges,
    reported: Arc<ReportedGauges>,
}

/// What a server's `/metrics` said last.
#[derive(Debug, Default)]
struct ReportedGauges {
    waiting: AtomicU64,
    used_blocks: AtomicU64,
}

/// A request that has not ended.
#[derive(Debug)]
struct Open {
    worker: WorkerId,
    request: Request,
    prompt: Vec<u32>,
    tokens: u32,
    last_token: Option<Instant>,
    /// Its task: aborted, it closes its connection.
    task: AbortHandle,
}

/// What the task of a request says.
#[derive(Debug)]
struct Told {
    request: RequestId,
    at: Instant,
    what: Life,
}

#[derive(Debug)]
enum Life {
    Tokens(usize),
    Ended(Result<Answer, Failure>),
}

impl LiveFleet {
    /// Connects to servers that are as the workers of `pools` in their order; `api_key` is
    /// sent to all of them. KV events are heard only if a policy `wants_kv_events`.
    ///
    /// # Errors
    /// The first server that cannot be used.
    ///
    /// # Panics
    /// If there are more servers than workers.
    pub fn connect(
        settings: &LiveSettings,
        pools: &Pools,
        api_key: Option<&ApiKey>,
        wants_kv_events: bool,
    ) -> Result<Self, ServerError> {
        Self::connected(settings, pools, api_key, wants_kv_events)
            .map_err(|error| error.hiding(api_key))
    }

    fn connected(
        settings: &LiveSettings,
        pools: &Pools,
        api_key: Option<&ApiKey>,
        wants_kv_events: bool,
    ) -> Result<Self, ServerError> {
        let runtime = runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.map_err(|error| ServerError::Client(error.to_string()))?;
        let http = {
            let _inside = runtime.enter();
            Http::new(settings.limits, api_key).map_err(ServerError::Client)?
        };
        let (tell, told) = mpsc::channel();
        let (tell_events, heard) = mpsc::channel();
        // An address that will not do is found before any server is asked.
        for url in &settings.urls {
            probe::address(url, "")?;
        }
        let mut servers = Vec::new();
        for (id, url) in (0..).map(WorkerId).zip(&settings.urls) {
            let facts = runtime.block_on(probe::facts(&http, url, settings.model.as_deref()))?;
            let engine = &pools.of(id).engine;
            facts.check(url, engine)?;
            if wants_kv_events {
                let given = settings.events.get(id.index()).or(facts.events.as_ref());
                let wrong = |reason| ServerError::Events { url: place(url), reason };
                let source = given.ok_or_else(|| wrong(NO_EVENTS.to_owned()))?.clone();
                let connect = Listener::connect(id, source, tell_events.clone());
                let (listener, socket) = runtime.block_on(connect).map_err(wrong)?;
                runtime.spawn(listener.listen(socket));
            }
            let reported = Arc::<ReportedGauges>::default();
            let metrics = probe::address(url, "/metrics")?;
            runtime.spawn(scrape(http.clone(), metrics, engine.num_blocks, Arc::clone(&reported)));
            servers.push(Server {
                completions: probe::address(url, "/v1/completions")?,
                url: url.clone(),
                facts,
                places: Arc::new(Semaphore::new(MOST_AT_ONCE)),
                cache: ServerCache::new(engine.block_size),
                changes: VecDeque::new(),
                faults: EventFaults::default(),
                passed_over: PassedOver::new(),
                inflight: 0,
                gauges: Gauges::default(),
                reported,
            });
        }
        let block_size = pools.block_size();
        Ok(Self {
            servers,
            http,
            block_size,
            start: Instant::now(),
            now: SimTime::ZERO,
            open: BTreeMap::new(),
            told,
            tell,
            early: None,
            heard,
            ready: VecDeque::new(),
            texts: Texts::new(block_size, settings.text_key),
            names: BlockNames::default(),
            gaps: Histogram::new(),
            output_blocks: false,
            hears_kv: wants_kv_events,
            failed: Vec::new(),
            runtime: Some(runtime),
        })
    }

    /// Empties the servers' prefix caches, which only servers in development mode
    /// allow.
    ///
    /// # Errors
    /// If one did not.
    pub fn reset_caches(&self) -> Result<(), ServerError> {
        self.servers.iter().try_for_each(|server| self.runtime().block_on(self.reset_cache(server)))
    }

    async fn reset_cache(&self, server: &Server) -> Result<(), ServerError> {
        let path = "/reset_prefix_cache";
        let uri = probe::address(&server.url, path)?;
        let failed = |failure| ServerError::Request { url: place(&server.url), path, failure };
        for _ in 0..RESETS {
            if !self.http.post(&uri).await.map_err(failed)?.contains("false") {
                return Ok(());
            }
            // Requests that were given up may still hold blocks.
            tokio::time::sleep(RESET_PAUSE).await;
        }
        let busy = "the cache stays in use: something else sends requests there".to_owned();
        Err(failed(Failure::Malformed(busy)))
    }

    /// The clock starts now.
    pub fn start(&mut self) {
        self.start = Instant::now();
    }

    /// Tells of every block that an output grows into from now on.
    pub fn tell_output_blocks(&mut self) {
        self.output_blocks = true;
    }

    /// What the servers say of themselves, in order of id.
    pub fn facts(&self) -> impl Iterator<Item = &ServerFacts> {
        self.servers.iter().map(|server| &server.facts)
    }

    /// Requests that no server answered, in order of time.
    pub fn failed(&self) -> &[FailedRequest] {
        &self.failed
    }

    /// What was wrong with KV events, in order of id.
    pub fn event_faults(&self) -> impl Iterator<Item = &EventFaults> {
        self.servers.iter().map(|server| &server.faults)
    }

    /// Valid KV events that were not followed, in order of id.
    pub fn passed_over(&self) -> impl Iterator<Item = &PassedOver> {
        self.servers.iter().map(|server| &server.passed_over)
    }

    /// What the servers have counted since they started; `None` for one that does not say.
    pub fn counters(&self) -> Vec<Option<ServerCounters>> {
        let counters = |server: &Server| {
            let uri = probe::address(&server.url, "/metrics").ok()?;
            let text = self.runtime().block_on(self.http.get(&uri)).ok()?;
            let samples = Samples::new(&text);
            Some(ServerCounters {
                queried_tokens: samples.sum("vllm:prefix_cache_queries_total")?,
                hit_tokens: samples.sum("vllm:prefix_cache_hits_total")?,
                steps: samples.sum("vllm:iteration_tokens_total_count")?,
                preemptions: samples.sum("vllm:num_preemptions_total")?,
            })
        };
        self.servers.iter().map(counters).collect()
    }

    fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("there until it is dropped")
    }

    fn time(&self, at: Instant) -> SimTime {
        SimTime::ZERO + duration(at.saturating_duration_since(self.start))
    }

    /// The next thing that a task says, if it says one before `deadline`.
    fn listen(&mut self, deadline: SimTime) -> Option<Told> {
        if let Some(told) = self.early.take() {
            return Some(told);
        }
        if let Ok(told) = self.told.try_recv() {
            return Some(told);
        }
        if deadline == SimTime::MAX {
            // Every open request ends.
            return if self.open.is_empty() { None } else { self.told.recv().ok() };
        }
        let wait = Duration::from_secs_f64(deadline.as_secs())
            .checked_sub(self.start.elapsed())
            .filter(|wait| !wait.is_zero())?;
        self.told.recv_timeout(wait).ok()
    }

    /// Takes in what a task said.
    fn take(&mut self, at: SimTime, told: Told) {
        let Some(open) = self.open.get_mut(&told.request) else { return };
        let (worker, request) = (open.worker, told.request);
        let ready = &mut self.ready;
        let mut tell = |kind| ready.push_back((at, WorkerEvent { worker, request, kind }));
        match told.what {
            Life::Tokens(count) => {
                let count = u32::try_from(count).expect("as many as were asked for");
                let before = open.tokens;
                open.tokens += count;
                match open.last_token.replace(told.at) {
                    None => {
                        // The server says with the last token how much was cached.
                        tell(WorkerEventKind::Scheduled { cached_tokens: 0 });
                        tell(WorkerEventKind::FirstToken);
                        self.gaps.add(0, u64::from(count - 1));
                    }
                    Some(last) => {
                        let gap = duration(told.at.saturating_duration_since(last)).as_ps();
                        self.gaps.add(gap / u64::from(count), u64::from(count));
                    }
                }
                if self.output_blocks {
                    let Request { prompt_tokens, output_tokens, .. } = open.request;
                    let begins = |number: &u32| {
                        let between = (2..output_tokens).contains(number);
                        between && (prompt_tokens + number - 1).is_multiple_of(self.block_size)
                    };
                    for output_tokens in (before + 1..=open.tokens).filter(begins) {
                        tell(WorkerEventKind::OutputBlock { output_tokens });
                    }
                }
            }
            Life::Ended(Ok(answer)) => {
                if let Some(cached_tokens) = answer.cached_tokens {
                    tell(WorkerEventKind::CacheHit { cached_tokens });
                }
                let output_tokens = u32::try_from(answer.tokens.len()).expect("as asked for");
                tell(WorkerEventKind::Finished { output_tokens });
                let Open { request, prompt: mut text, .. } =
                    self.open.remove(&request).expect("open until now");
                text.extend(answer.tokens);
                self.names.name_all(&request, &text, self.block_size);
                self.texts.hear(request.conversation, text);
            }
            Life::Ended(Err(failure)) => {
                tell(WorkerEventKind::Rejected(RejectReason::Server));
                self.open.remove(&request);
                self.failed.push(FailedRequest { request, worker, at, failure });
            }
        }
    }

    /// Takes in what publishers said.
    fn hear(&mut self) {
        while let Ok(Heard { worker, at, what }) = self.heard.try_recv() {
            let at = self.time(at);
            let key = self.http.key();
            let Server { cache, changes, faults, passed_over, .. } =
                &mut self.servers[worker.index()];
            let at = changes.back().map_or(at, |(last, _)| at.max(*last));
            let mut told = |event| changes.push_back((at, event));
            match what {
                News::Events(events) => {
                    for event in events {
                        match cache.hear(event, &self.names, &mut told) {
                            Ok(()) => {}
                            Err(Unheard::Broken(problem)) => faults.note_broken(problem),
                            Err(Unheard::Other(what)) => note_other(passed_over, hide(key, &what)),
                        }
                    }
                }
                News::Recovered(batches) => faults.recovered += batches,
                News::Lost(batches) => faults.lost += batches,
                News::Restarted => {
                    faults.restarts += 1;
                    cache.clear(&mut told);
                }
                News::Broken(problem) => faults.note_broken(hide(key, &problem)),
            }
        }
        for Server { cache, changes, .. } in &mut self.servers {
            let at = changes.back().map_or(self.now, |(last, _)| self.now.max(*last));
            cache.resolve(&self.names, &mut |event| changes.push_back((at, event)));
        }
    }
}

/// Why there are no KV events to hear.
const NO_EVENTS: &str = "the policy needs KV events and the server does not say where it publishes \
                         them: name the place, start the server with --kv-events-config, or \
                         set router.use_kv_events = false";

/// The most kinds of events that are counted apart: servers name them.
const MOST_KINDS: usize = 16;

/// Counts a valid event that is not followed.
fn note_other(passed_over: &mut PassedOver, what: String) {
    let known = passed_over.contains_key(&what) || passed_over.len() < MOST_KINDS;
    *passed_over.entry(if known { what } else { "others".to_owned() }).or_default() += 1;
}

impl EventFaults {
    fn note_broken(&mut self, problem: String) {
        self.broken += 1;
        self.first_broken.get_or_insert(problem);
    }
}

impl Server {
    /// Counts up to `now`. How many of our requests wait there is as last reported.
    fn advance(&mut self, now: SimTime) {
        let waiting = self.reported.waiting.load(Ordering::Relaxed).min(u64::from(self.inflight));
        self.gauges.waiting = u32::try_from(waiting).expect("not above a u32");
        self.gauges.running = self.inflight - self.gauges.waiting;
        let used_blocks = self.reported.used_blocks.load(Ordering::Relaxed);
        self.gauges.used_blocks = u32::try_from(used_blocks).unwrap_or(u32::MAX);
        self.gauges.advance(now);
    }
}

impl Fleet for LiveFleet {
    fn submit(
        &mut self,
        now: SimTime,
        worker: WorkerId,
        request: &Request,
    ) -> Result<(), RejectReason> {
        let prompt = self.texts.prompt(request);
        self.names.name_all(request, &prompt, self.block_size);
        let server = &mut self.servers[worker.index()];
        server.advance(now);
        server.inflight += 1;
        let body = probe::completion(&server.facts.model, &prompt, request.output_tokens);
        let lengths = Lengths {
            prompt: prompt.len(),
            answer: request.output_tokens as usize,
            limit: server.facts.max_model_len.map(|limit| limit as usize),
        };
        let (http, uri) = (self.http.clone(), server.completions.clone());
        let (places, tell, id) = (Arc::clone(&server.places), self.tell.clone(), request.id);
        let task = self.runtime().spawn(async move {
            let _place = places.acquire().await;
            let say = |at, what| {
                // The fleet is gone at the end of a run.
                let _ = tell.send(Told { request: id, at, what });
            };
            let told = |at, tokens| say(at, Life::Tokens(tokens));
            let ended = http.complete(&uri, body, lengths, told).await;
            let at = ended.as_ref().map_or_else(|_| Instant::now(), |answer| answer.last_token);
            say(at, Life::Ended(ended));
        });
        let task = task.abort_handle();
        let open =
            Open { worker, request: request.clone(), prompt, tokens: 0, last_token: None, task };
        self.open.insert(request.id, open);
        Ok(())
    }

    /// Closes the connection; the server is not waited for.
    fn abort(&mut self, now: SimTime, worker: WorkerId, request: RequestId) {
        let Some(open) = self.open.remove(&request) else { return };
        open.task.abort();
        let kind = WorkerEventKind::Aborted;
        self.ready.push_back((now, WorkerEvent { worker, request, kind }));
    }

    fn next_event(&mut self, deadline: SimTime) -> Option<(SimTime, WorkerEvent)> {
        loop {
            if let Some((at, event)) = self.ready.pop_front() {
                if event.kind.ends_stay() {
                    let server = &mut self.servers[event.worker.index()];
                    server.advance(at);
                    server.inflight -= 1;
                }
                return Some((at, event));
            }
            let Some(told) = self.listen(deadline) else { break };
            // Told by many tasks: what comes late is of now.
            let at = self.time(told.at).max(self.now);
            if at > deadline {
                self.early = Some(told);
                break;
            }
            self.now = at;
            self.take(at, told);
        }
        if deadline < SimTime::MAX {
            self.now = self.now.max(deadline);
        }
        None
    }

    fn take_kv_events(&mut self, until: SimTime, sink: &mut dyn FnMut(WorkerId, SimTime, KvEvent)) {
        self.hear();
        for (id, server) in (0..).map(WorkerId).zip(&mut self.servers) {
            let due = server.changes.partition_point(|(at, _)| *at <= until);
            server.changes.drain(..due).for_each(|(at, event)| sink(id, at, event));
        }
    }

    fn gauges(&mut self, now: SimTime) -> Vec<Gauges> {
        let gauges = |server: &mut Server| {
            server.advance(now);
            server.gauges
        };
        self.servers.iter_mut().map(gauges).collect()
    }

    fn take_token_gaps(&mut self, _now: SimTime) -> Histogram {
        std::mem::take(&mut self.gaps)
    }

    fn publishes_kv_events(&self) -> bool {
        self.hears_kv
    }
}

/// Takes in bytes as if a server had sent them, wherever a server can send some: for
/// the fuzz target, which has no server.
#[cfg(fuzzing)]
#[doc(hidden)]
pub fn take_anything(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let samples = Samples::new(&text);
    for name in ["vllm:cache_config_info", "vllm:num_requests_waiting"] {
        let _ = samples.sum(name);
        let _ = samples.named(name).filter_map(|sample| sample.label("block_size")).count();
    }
    probe::take_anything(&text);
    http::take_anything(&text);
    if let Ok(events) = events::decode(bytes) {
        let mut cache = ServerCache::new(16);
        let names = BlockNames::default();
        for event in events {
            let _ = cache.hear(event, &names, &mut |_| ());
        }
        cache.resolve(&names, &mut |_| ());
        cache.clear(&mut |_| ());
    }
}

/// Asks a server for its gauges, again and again.
async fn scrape(http: Http, uri: Uri, blocks: u32, reported: Arc<ReportedGauges>) {
    loop {
        if let Ok(text) = http.get(&uri).await {
            let samples = Samples::new(&text);
            let sum = |name| samples.sum(name).unwrap_or(0.0).max(0.0);
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a float to an integer saturates"
            )]
            let store = |to: &AtomicU64, value: f64| to.store(value as u64, Ordering::Relaxed);
            store(&reported.waiting, sum("vllm:num_requests_waiting"));
            store(&reported.used_blocks, sum("vllm:kv_cache_usage_perc") * f64::from(blocks));
        }
        tokio::time::sleep(SCRAPE_EVERY).await;
    }
}

fn duration(time: Duration) -> SimDuration {
    let ps = time.as_nanos().saturating_mul(1000);
    SimDuration::from_ps(u64::try_from(ps).unwrap_or(u64::MAX / 2))
}
