//! The policy that asks.

use super::params::ExternalParams;
use super::process::Link;
use super::shown;
use super::wire::{
    Asked, Choice, Event, Hello, Introduction, PROTOCOL, Question, ReleasedRequest, Releases,
    Route, Unwritten, time,
};
use crate::event::{KvEvent, RejectReason, WorkerEvent};
use crate::id::{RequestId, WorkerId};
use crate::request::RouteRequest;
use crate::router::{ClusterSpec, ClusterView, CostParts, Policy, Release, Verdict};
use crate::time::{SimDuration, SimTime};
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A router in another language: `docs/router-protocol.md` describes what it reads and
/// writes.
///
/// It starts when it is asked first, so that a policy can be made and looked at without a
/// process.
#[derive(Debug)]
pub struct External {
    params: ExternalParams,
    hello: Hello,
    /// As many [fruitless wakes](State::fruitless_wakes) end it.
    pub(super) most_fruitless_wakes: u32,
    state: State,
}

#[derive(Debug, Default)]
struct State {
    /// One, or two to be compared.
    links: Vec<Link>,
    /// Why nothing can be asked any more.
    failure: Option<String>,
    unwritten: Unwritten,
    /// The request that was sent or turned away last, and what the router said of it.
    last: Option<(RequestId, Choice)>,
    /// What it said of the requests that it holds.
    held: BTreeMap<RequestId, Choice>,
    released: VecDeque<Release>,
    /// Times to come at which it wants to be asked: those that it gave with requests.
    wakes: BTreeSet<SimTime>,
    /// The earliest to come of those that it gave with releases. Only one: a router may
    /// give another one with every answer.
    wake: Option<SimTime>,
    /// How often in a row it was asked at such a time, with nothing new, and released nothing.
    fruitless_wakes: u32,
}

/// So many in a row, and a router will never release anything, while every one of them costs
/// wall time (assumed: far above what a router that polls needs between two events).
const MOST_FRUITLESS_WAKES: u32 = 100_000;

impl External {
    /// A router for `cluster`; `seed` is all the randomness that it gets.
    pub fn new(params: &ExternalParams, cluster: &ClusterSpec, seed: u64) -> Self {
        let parameters = params.handed_over();
        let hello = Hello::new(cluster, seed, params.knowledge(), parameters);
        let most_fruitless_wakes = MOST_FRUITLESS_WAKES;
        Self { params: params.clone(), hello, most_fruitless_wakes, state: State::default() }
    }

    /// The first line that the router reads.
    pub(super) fn hello_line(&self) -> String {
        line_of(&Question::Hello(self.hello.clone()))
    }

    fn hear(&mut self, event: Event) {
        self.state.unwritten.hear(event);
    }

    /// Asks `question`, and reads the answer that `check` finds nothing wrong with.
    fn exchange<T: DeserializeOwned + PartialEq>(
        &mut self,
        question: &Question,
        about: &str,
        check: impl Fn(&T) -> Result<(), String>,
    ) -> Option<T> {
        if self.state.failure.is_some() {
            return None;
        }
        let answer = self.start().and_then(|()| self.ask_all(question, about, check));
        answer.map_err(|failure| self.state.fail(failure)).ok()
    }

    /// Begins the conversation, unless it has begun.
    fn start(&mut self) -> Result<(), String> {
        if !self.state.links.is_empty() {
            return Ok(());
        }
        for _ in 0..1 + usize::from(self.params.check_determinism) {
            self.state.links.push(link(&self.params)?);
        }
        let hello = Question::Hello(self.hello.clone());
        self.ask_all(&hello, "to introduce itself", |introduction: &Introduction| {
            let theirs = introduction.protocol;
            let wrong = || format!("it speaks protocol {theirs}; this is protocol {PROTOCOL}");
            (theirs == PROTOCOL).then_some(()).ok_or_else(wrong)
        })
        .map(drop)
    }

    fn ask_all<T: DeserializeOwned + PartialEq>(
        &mut self,
        question: &Question,
        about: &str,
        check: impl Fn(&T) -> Result<(), String>,
    ) -> Result<T, String> {
        let line = line_of(question);
        let most = timeout(&self.params);
        let name = self.name();
        let mut first: Option<(T, String)> = None;
        for link in &mut self.state.links {
            let failed = |link: &mut Link, problem: &str| {
                let words = link.last_words();
                let words = words.map(|words| format!("; the last that it printed: {words}"));
                let line = shown(&line);
                let words = words.unwrap_or_default();
                format!("{name}, asked {about}: {problem}; asked was {line}{words}")
            };
            let text = link.ask(&line, most).map_err(|problem| failed(link, &problem))?;
            // serde would also accept a list.
            let answer = match text.trim_start().starts_with('{') || text.is_empty() {
                true => serde_json::from_str(&text).map_err(|error| error.to_string()),
                false => Err("it must be a JSON object".to_owned()),
            };
            let answer = answer.and_then(|answer| check(&answer).map(|()| answer));
            let answer: T = answer.map_err(|problem| {
                failed(link, &format!("its answer {} is not valid: {problem}", shown(&text)))
            })?;
            match &first {
                None => first = Some((answer, text)),
                Some((same, _)) if *same == answer => {}
                Some((_, other)) => {
                    let (one, other) = (shown(other), shown(&text));
                    let problem = format!(
                        "it is not deterministic: of two processes that were asked the same \
                         from the beginning, one answered {one} and the other {other}"
                    );
                    return Err(failed(link, &problem));
                }
            }
        }
        Ok(first.expect("at least one is asked").0)
    }

    /// What the router said of `request`, if that is held or was the last.
    fn said_of(&self, request: &RouteRequest<'_>) -> Option<&Choice> {
        let State { last, held, .. } = &self.state;
        let last = last.as_ref().filter(|(id, _)| *id == request.id).map(|(_, choice)| choice);
        last.or_else(|| held.get(&request.id))
    }

    /// Counts a request for releases; `None` after too many that released nothing.
    fn count_wake(&mut self, is_fruitful: bool) -> Option<()> {
        let fruitless = if is_fruitful { 0 } else { self.state.fruitless_wakes + 1 };
        self.state.fruitless_wakes = fruitless;
        if fruitless < self.most_fruitless_wakes {
            return Some(());
        }
        let (name, held) = (self.name(), self.state.held.len());
        self.state.fail(format!(
            "{name}: {held} requests are held; it was asked {fruitless} times in a row, at \
             wake_ns, while nothing was heard, and released none: release them, or give a later \
             wake_ns"
        ));
        None
    }

    /// What it is called in messages.
    fn name(&self) -> String {
        match self.params.command.as_slice() {
            [] => format!("the router at {}", self.params.socket),
            command => format!("`{}`", command.join(" ")),
        }
    }
}

impl State {
    fn fail(&mut self, failure: String) {
        self.links.clear();
        self.failure = Some(failure);
    }

    /// When it wants to be asked next.
    fn wake_at(&self) -> Option<SimTime> {
        self.wakes.first().copied().into_iter().chain(self.wake).min()
    }

    /// It is asked at `now`: times up to then have come.
    fn has_woken(&mut self, now: SimTime) {
        while self.wakes.first().is_some_and(|wake| *wake <= now) {
            self.wakes.pop_first();
        }
        self.wake = self.wake.filter(|wake| *wake > now);
    }
}

/// A new conversation with the router of `params`.
pub(super) fn link(params: &ExternalParams) -> Result<Link, String> {
    let folder = Path::new(&params.directory);
    match params.command.as_slice() {
        [] => Link::connect(&folder.join(&params.socket), timeout(params)),
        command => Link::run(command, folder),
    }
}

/// The longest wait for an answer.
pub(super) fn timeout(params: &ExternalParams) -> Duration {
    Duration::from_secs_f64(params.timeout.as_secs())
}

fn line_of(question: &Question) -> String {
    let mut line = serde_json::to_string(question).expect("plain values are JSON");
    line.push('\n');
    line
}

/// A worker that can be chosen.
fn check_worker(worker: u32, view: &ClusterView<'_>) -> Result<(), String> {
    match view.workers.get(worker as usize) {
        Some(view) if view.available => Ok(()),
        Some(_) => Err(format!("worker {worker} takes no requests (see absent)")),
        None => Err(format!("worker {worker}: there are workers 0 to {}", view.workers.len() - 1)),
    }
}

fn check_wake(wake_ns: Option<u64>, now: SimTime) -> Result<(), String> {
    match wake_ns {
        Some(wake_ns) if time(wake_ns) <= now => {
            Err(format!("wake_ns = {wake_ns}: must be later than now_ns"))
        }
        _ => Ok(()),
    }
}

fn check_choice(choice: &Choice, now: SimTime, view: &ClusterView<'_>) -> Result<(), String> {
    let said = [choice.worker.is_some(), choice.hold, choice.reject];
    if said.into_iter().filter(|said| *said).count() != 1 {
        return Err("it must have one of worker, hold and reject".to_owned());
    }
    if let Some(worker) = choice.worker {
        check_worker(worker, view)?;
    }
    if choice.wake_ns.is_some() && !choice.hold {
        return Err("wake_ns goes with hold".to_owned());
    }
    check_wake(choice.wake_ns, now)?;
    let workers = view.workers.len();
    if let Some(blocks) = choice.overlap_blocks.as_ref().filter(|blocks| blocks.len() != workers) {
        return Err(format!("overlap_blocks has {} numbers for {workers} workers", blocks.len()));
    }
    let mut seen = BTreeSet::new();
    for cost in &choice.costs {
        let worker = cost.worker;
        if worker as usize >= workers || !seen.insert(worker) {
            return Err(format!("costs: worker {worker} is none, or stands there twice"));
        }
        for name in cost.parts.keys() {
            part_name(name)?;
        }
    }
    Ok(())
}

/// Names of parts of a cost that a program has met. They are kept for good, so they are few.
static PART_NAMES: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());

fn part_name(name: &str) -> Result<&'static str, String> {
    const MOST_NAMES: usize = 256;
    const MOST_BYTES: usize = 64;
    let mut names = PART_NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = names.get(name) {
        return Ok(known);
    }
    if name.len() > MOST_BYTES || names.len() >= MOST_NAMES {
        return Err(format!(
            "parts: {name:?}: a name has at most {MOST_BYTES} bytes, and a program at most \
             {MOST_NAMES} of them"
        ));
    }
    let name: &'static str = String::from(name).leak();
    names.insert(name);
    Ok(name)
}

fn cost_parts(choice: &Choice) -> Vec<CostParts> {
    let parts = |cost: &super::wire::Cost| CostParts {
        worker: WorkerId(cost.worker),
        cost: cost.cost.unwrap_or(f64::INFINITY),
        parts: cost
            .parts
            .iter()
            .filter_map(|(name, value)| Some((part_name(name).ok()?, *value)))
            .collect(),
    };
    let mut costs: Vec<CostParts> = choice.costs.iter().map(parts).collect();
    costs.sort_by_key(|cost| cost.worker);
    costs
}

impl Policy for External {
    fn route(
        &mut self,
        now: SimTime,
        request: &RouteRequest<'_>,
        view: &ClusterView<'_>,
    ) -> Verdict {
        self.state.fruitless_wakes = 0;
        let moment = self.state.unwritten.write(now, view);
        let question = Question::Route(Route { moment, request: Asked::of(request) });
        let about = format!("about request {}", request.id);
        let choice: Option<Choice> =
            self.exchange(&question, &about, |choice| check_choice(choice, now, view));
        let Some(choice) = choice else { return Verdict::Reject(RejectReason::Policy) };
        let state = &mut self.state;
        if choice.hold {
            state.wakes.extend(choice.wake_ns.map(time));
            state.held.insert(request.id, choice);
            return Verdict::Hold;
        }
        let worker = choice.worker;
        state.last = Some((request.id, choice));
        let rejected = Verdict::Reject(RejectReason::Policy);
        worker.map_or(rejected, |worker| Verdict::Send(WorkerId(worker)))
    }

    fn observe(&mut self, now: SimTime, event: &WorkerEvent) {
        self.hear(Event::of_life(now, event));
    }

    fn wants_kv_events(&self) -> bool {
        self.params.use_kv_events
    }

    fn observe_kv(&mut self, worker: WorkerId, event: &KvEvent) {
        self.observe_kv_published(SimTime::ZERO, worker, event);
    }

    fn observe_kv_published(&mut self, published: SimTime, worker: WorkerId, event: &KvEvent) {
        self.hear(Event::of_kv(published, worker, event));
    }

    fn report_period(&self) -> Option<SimDuration> {
        self.params.report_period
    }

    fn wants_output_blocks(&self) -> bool {
        self.params.track_output_blocks
    }

    /// Asks where something was heard since the last line, or the router wanted to be asked.
    fn release(&mut self, now: SimTime, view: &ClusterView<'_>) -> Option<Release> {
        let state = &mut self.state;
        let is_due =
            state.wake_at().is_some_and(|wake| wake <= now) || state.unwritten.has_events();
        if state.released.is_empty() && !state.held.is_empty() && is_due {
            let is_new = state.unwritten.has_events();
            let question = Question::Release(state.unwritten.write(now, view));
            state.has_woken(now);
            let held = std::mem::take(&mut state.held);
            let check = |releases: &Releases| check_releases(releases, now, &held, view);
            let releases = self.exchange(&question, "for requests to release", check);
            self.state.held = held;
            let releases = releases?;
            self.count_wake(is_new || !releases.released.is_empty())?;
            self.state.wake = self.state.wake.into_iter().chain(releases.wake_ns.map(time)).min();
            self.state.released.extend(releases.released.iter().map(|released| {
                let to = released.worker.map(WorkerId).ok_or(RejectReason::Policy);
                (RequestId(released.request), to)
            }));
        }
        let state = &mut self.state;
        let (request, to) = state.released.pop_front()?;
        state.last = state.held.remove(&request).map(|choice| (request, choice));
        if state.held.is_empty() {
            state.wakes.clear();
            state.wake = None;
        }
        Some((request, to))
    }

    fn wake_at(&self) -> Option<SimTime> {
        let State { held, failure, .. } = &self.state;
        self.state.wake_at().filter(|_| !held.is_empty() && failure.is_none())
    }

    fn overlap_blocks(&self, request: &RouteRequest<'_>) -> Option<Vec<u32>> {
        self.said_of(request)?.overlap_blocks.clone()
    }

    fn observe_peer(&mut self, request: &RouteRequest<'_>, worker: WorkerId, overlap_blocks: u32) {
        let request = Asked::of(request);
        self.hear(Event::PeerSent { worker: worker.0, overlap_blocks, request });
    }

    fn worker_left(&mut self, worker: WorkerId) {
        self.hear(Event::Left { worker: worker.0 });
    }

    fn worker_joined(&mut self, worker: WorkerId) {
        self.hear(Event::Joined { worker: worker.0 });
    }

    fn failure(&self) -> Option<String> {
        self.state.failure.clone()
    }

    /// What the router said with its answer; nothing before it was asked.
    fn explain(&self, request: &RouteRequest<'_>, _: &ClusterView<'_>) -> Vec<CostParts> {
        self.said_of(request).map_or_else(Vec::new, cost_parts)
    }
}

fn check_releases(
    releases: &Releases,
    now: SimTime,
    held: &BTreeMap<RequestId, Choice>,
    view: &ClusterView<'_>,
) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for &ReleasedRequest { request, worker, reject } in &releases.released {
        let id = RequestId(request);
        if !held.contains_key(&id) || !seen.insert(id) {
            return Err(format!("request {request} is not held"));
        }
        match (worker, reject) {
            (Some(worker), false) => check_worker(worker, view)?,
            (None, true) => {}
            _ => return Err(format!("request {request} must have one of worker and reject")),
        }
    }
    check_wake(releases.wake_ns, now)
}
