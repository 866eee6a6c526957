//! Laws that a router outside must keep, played against a process.
//!
//! A small fleet that runs no engine: requests branch off a few texts, are answered after a
//! while, leave blocks behind that are stored and lost; workers leave and join. All of it
//! is drawn from a seed, so two processes can be asked the same.

use super::params::ExternalParams;
use super::policy::{External, link, timeout};
use super::shown;
use crate::event::{KvEvent, Medium, RejectReason, WorkerEvent, WorkerEventKind};
use crate::id::{BlockId, RequestId, WorkerId};
use crate::request::{BlockRun, Content, Request};
use crate::rng::{self, Stream, Use};
use crate::router::{
    ClusterSpec, Policy, Rank, Reported, Role, Verdict, WorkerLimits, WorkerView, Workers,
};
use crate::time::{SimDuration, SimTime};
use rand::RngExt;
use std::collections::BTreeMap;
use std::time::Duration;

const BLOCK_SIZE: u32 = 16;
const WORKERS: u32 = 8;
/// Requests that branch off each other begin with one of so many texts.
const TEXTS: u64 = 12;
/// A router that asked so often to be woken, and released nothing, will not (assumed).
const MOST_WAKES: u32 = 1_000;
/// The most blocks of a prompt.
const MOST_BLOCKS: u32 = 120;

/// Plays a law: what was seen, or what was wrong.
type Law = fn(&ExternalParams) -> Result<String, String>;

/// What became of a law.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The law, in one line.
    pub law: &'static str,
    /// What was seen, if it held; else what was wrong.
    pub outcome: Result<String, String>,
}

/// Plays all laws against the program of `params`.
pub fn check(params: &ExternalParams) -> Vec<Finding> {
    let laws: [(&'static str, Law); 12] = [
        ("it introduces itself and sends a request to a worker that exists", first_answer),
        ("it sends nothing to a worker that has left, and uses one that joins", membership),
        ("it reads long batches of events", batches),
        ("it lives with events of blocks that it never heard of", unknown_blocks),
        ("it lives through a long history, and releases what it holds", history),
        ("it routes in front of workers that only prefill, or only decode", roles),
        ("it routes to ranks of engines, which come and go together", ranks),
        ("it reads every kind of event, of caches below GPU memory too, and reports", all_events),
        ("it hears of requests that other front ends send", peers),
        ("two processes with one seed give the same answers", determinism),
        ("it does not answer a line that it cannot read", malformed),
        ("it ends when its input ends", end_of_input),
    ];
    laws.into_iter().map(|(law, play)| Finding { law, outcome: play(params) }).collect()
}

/// Routes `decisions` requests as [`check`] does; for a caller that looks at the clock.
///
/// # Errors
/// What the router did instead.
pub fn play(params: &ExternalParams, decisions: u32) -> Result<(), String> {
    let mut played = Played::new(params, Role::Both, 1);
    while played.requests < decisions {
        played.step()?;
    }
    Ok(())
}

fn first_answer(params: &ExternalParams) -> Result<String, String> {
    let mut played = Played::new(params, Role::Both, 1);
    let verdict = played.route()?;
    Ok(match verdict {
        Verdict::Send(worker) => format!("request 0 went to worker {worker}"),
        Verdict::Hold => "request 0 was held".to_owned(),
        Verdict::Reject(_) => "request 0 was turned away".to_owned(),
    })
}

fn membership(params: &ExternalParams) -> Result<String, String> {
    let mut played = Played::new(params, Role::Both, 2);
    for _ in 0..40 {
        played.step()?;
    }
    (1..WORKERS).for_each(|worker| played.leave(WorkerId(worker)));
    for _ in 0..20 {
        // The check of answers is the law: only worker 0 is there.
        played.route()?;
        played.happen();
    }
    (1..WORKERS).for_each(|worker| played.join(WorkerId(worker)));
    let before = played.sent.len();
    for _ in 0..200 {
        played.step()?;
    }
    let used = played.sent[before..].iter().any(|worker| worker.0 > 0);
    let unused = "of 8 workers only worker 0 got requests after the others had come back";
    if played.sent.len() > before && !used {
        return Err(unused.to_owned());
    }
    Ok("7 of 8 workers left and came back".to_owned())
}

fn batches(params: &ExternalParams) -> Result<String, String> {
    let mut played = Played::new(params, Role::Both, 3);
    const EVENTS: u32 = 20_000;
    for at in 0..EVENTS {
        let run = BlockRun { first: BlockId(u64::from(at) << 20), len: 4 };
        played.hear_kv(WorkerId(at % WORKERS), &KvEvent::Stored { parent: None, run });
    }
    played.route()?;
    Ok(format!("{EVENTS} events came with one request"))
}

fn unknown_blocks(params: &ExternalParams) -> Result<String, String> {
    let mut played = Played::new(params, Role::Both, 4);
    for (at, worker) in (0..50u64).zip((0..WORKERS).cycle()) {
        let run = BlockRun { first: BlockId(at << 32), len: 3 };
        let parent = Some(BlockId((at << 32) - at.min(1)));
        played.hear_kv(WorkerId(worker), &KvEvent::Removed { run });
        played.hear_kv(WorkerId(worker), &KvEvent::Stored { parent, run });
        played.hear_kv(WorkerId(worker), &KvEvent::Stored { parent: None, run });
        played.hear_kv(WorkerId(worker), &KvEvent::Removed { run });
        played.hear_kv(WorkerId(worker), &KvEvent::Removed { run });
    }
    played.route()?;
    Ok("blocks stored twice, after unknown ones, and removed that were not stored".to_owned())
}

fn history(params: &ExternalParams) -> Result<String, String> {
    let mut played = Played::new(params, Role::Both, 5);
    while played.requests < 1_000 {
        played.step()?;
    }
    played.settle()?;
    let (requests, held) = (played.requests, played.held_in_all);
    Ok(format!("{requests} requests, {held} of them held and released"))
}

fn roles(params: &ExternalParams) -> Result<String, String> {
    for role in [Role::Prefill, Role::Decode { may_prefill: false }] {
        let mut played = Played::new(params, role, 6);
        while played.requests < 100 {
            played.step()?;
        }
    }
    Ok("100 requests each".to_owned())
}

fn ranks(params: &ExternalParams) -> Result<String, String> {
    const OF_EACH: u32 = 4;
    let of = |worker| Rank { engine: worker / OF_EACH, rank: worker % OF_EACH };
    let ranks = (0..WORKERS).map(of).collect();
    let mut played = Played::of(params, ClusterSpec { ranks, ..cluster(Role::Both) }, 11);
    while played.requests < 60 {
        played.step()?;
    }
    let second = OF_EACH..WORKERS;
    second.clone().for_each(|rank| played.leave(WorkerId(rank)));
    for _ in 0..20 {
        played.route()?;
        played.happen();
    }
    second.for_each(|rank| played.join(WorkerId(rank)));
    while played.requests < 140 {
        played.step()?;
    }
    Ok("two engines of four ranks each, of which one left and came back".to_owned())
}

/// One request has had all that a request can have, and caches all that caches can.
fn all_events(params: &ExternalParams) -> Result<String, String> {
    let mut played = Played::new(params, Role::Both, 12);
    let run = |text: u64, len: u32| BlockRun { first: BlockId(text << 32), len };
    let in_life = |tokens| {
        [
            WorkerEventKind::KvReceived { transfer: SimDuration::from_millis(3) },
            WorkerEventKind::Loaded { tokens, time: SimDuration::from_millis(2) },
            WorkerEventKind::Scheduled { cached_tokens: 32 },
            WorkerEventKind::FirstToken,
            WorkerEventKind::OutputBlock { output_tokens: 17 },
            WorkerEventKind::Preempted,
            WorkerEventKind::CacheHit { cached_tokens: 32 },
        ]
    };
    let ends = [
        WorkerEventKind::Finished { output_tokens: 20 },
        WorkerEventKind::Prefilled,
        WorkerEventKind::Aborted,
        WorkerEventKind::Failed,
        WorkerEventKind::Rejected(RejectReason::ContextLimit),
        WorkerEventKind::Rejected(RejectReason::KvPool),
        WorkerEventKind::Rejected(RejectReason::Server),
    ];
    let mut lives = 0;
    for (at, end) in (0u64..).zip(ends) {
        let now = played.now;
        let reported = |worker: u32| Reported {
            at: now,
            running: worker,
            waiting: worker % 3,
            used_blocks: 100 * worker,
        };
        played.workers.report(&(0..WORKERS).map(reported).collect::<Vec<_>>());
        played.route()?;
        played.release()?;
        let Some((&id, stay)) = played.stays.iter().next() else { continue };
        lives += 1;
        let worker = stay.worker;
        for kind in in_life([16, 32, 48]).into_iter().chain([end]) {
            played.now += SimDuration::from_millis(1);
            played.hear(id, worker, kind);
        }
        let (parent, run) = (Some(BlockId((at << 32) + 2)), run(at, 3));
        for event in [
            KvEvent::Stored { parent: None, run },
            KvEvent::StoredBelow { medium: Medium::Host, run },
            KvEvent::StoredBelow { medium: Medium::Disk, run },
            KvEvent::StoredBelow { medium: Medium::Remote, run },
            KvEvent::StoredApart { group: 1, run },
            KvEvent::Stored { parent, run: BlockRun { first: run.first.offset(3), len: 2 } },
            KvEvent::Removed { run },
            KvEvent::RemovedApart { group: 1, run },
            KvEvent::RemovedBelow { medium: Medium::Host, run },
            KvEvent::RemovedBelow { medium: Medium::Disk, run },
            KvEvent::RemovedBelow { medium: Medium::Remote, run },
        ] {
            played.hear_kv(worker, &event);
        }
        played.release()?;
    }
    played.route()?;
    if lives == 0 {
        return Err(format!(
            "it sent none of {} requests, so there was nothing to hear",
            ends.len()
        ));
    }
    Ok(format!("{lives} lives, six kinds of changes of caches, reports of all workers"))
}

fn peers(params: &ExternalParams) -> Result<String, String> {
    const FIRST: u32 = 1_000_000;
    let mut played = Played::new(params, Role::Both, 13);
    for number in 0..60 {
        let (worker, id) = (WorkerId(number % WORKERS), RequestId(FIRST + number));
        let (request, _) = played.request(id);
        let overlap_blocks = number % 3;
        played.router.observe_peer(&request.route_view(BLOCK_SIZE), worker, overlap_blocks);
        played.route()?;
        let heard = [WorkerEventKind::FirstToken, WorkerEventKind::Finished { output_tokens: 9 }];
        for kind in heard {
            // Of some the end is never heard.
            if number % 5 > 0 {
                played.router.observe(played.now, &WorkerEvent { worker, request: id, kind });
            }
        }
        played.happen();
    }
    Ok("60 requests of others among its own".to_owned())
}

fn determinism(params: &ExternalParams) -> Result<String, String> {
    let twice = ExternalParams { check_determinism: true, ..params.clone() };
    for seed in [7, 8] {
        let mut played = Played::new(&twice, Role::Both, seed);
        while played.requests < 300 {
            played.step()?;
        }
    }
    Ok("300 requests each with two seeds".to_owned())
}

fn malformed(params: &ExternalParams) -> Result<String, String> {
    for line in ["{\"op\":\"route\",\"now\n", "{\"op\":\"dance\"}\n"] {
        let mut link = link(params)?;
        let hello = Played::new(params, Role::Both, 9).router.hello_line();
        link.ask(&hello, timeout(params))?;
        // Silence is an answer too: it may have logged the line and gone on.
        if let Ok(answer) = link.ask(line, timeout(params).min(Duration::from_secs(2))) {
            let (line, answer) = (shown(line), shown(&answer));
            return Err(format!("it answered {line} with {answer}"));
        }
    }
    Ok("half a line, and an op that there is not".to_owned())
}

fn end_of_input(params: &ExternalParams) -> Result<String, String> {
    if params.command.is_empty() {
        return Ok("a socket has no process".to_owned());
    }
    let mut link = link(params)?;
    let hello = Played::new(params, Role::Both, 10).router.hello_line();
    link.ask(&hello, timeout(params))?;
    match link.end() {
        true => Ok("by itself".to_owned()),
        false => Err("it ran on for a second, and was ended".to_owned()),
    }
}

/// A request on a worker.
#[derive(Clone, Debug)]
struct Stay {
    worker: WorkerId,
    prompt: BlockRun,
    has_token: bool,
}

/// The facts of the fleet that is played.
fn cluster(role: Role) -> ClusterSpec {
    let limits = WorkerLimits { blocks: 4_000, max_num_seqs: 64, max_num_batched_tokens: 8_192 };
    ClusterSpec { role, ..ClusterSpec::uniform(WORKERS, BLOCK_SIZE, limits) }
}

/// A fleet that exists only for its router.
struct Played {
    router: External,
    workers: Workers,
    role: Role,
    now: SimTime,
    draws: Stream,
    requests: u32,
    held: BTreeMap<RequestId, BlockRun>,
    held_in_all: usize,
    stays: BTreeMap<RequestId, Stay>,
    sent: Vec<WorkerId>,
}

impl Played {
    fn new(params: &ExternalParams, role: Role, seed: u64) -> Self {
        Self::of(params, cluster(role), seed)
    }

    fn of(params: &ExternalParams, cluster: ClusterSpec, seed: u64) -> Self {
        let mut router = External::new(params, &cluster, seed);
        router.most_fruitless_wakes = MOST_WAKES;
        Self {
            router,
            workers: Workers::new(vec![WorkerView::default(); WORKERS as usize]),
            role: cluster.role,
            now: SimTime::ZERO,
            draws: rng::stream(seed, Use::Policy, 1, 0),
            requests: 0,
            held: BTreeMap::new(),
            held_in_all: 0,
            stays: BTreeMap::new(),
            sent: Vec::new(),
        }
    }

    fn failed(&self) -> Result<(), String> {
        self.router.failure().map_or(Ok(()), Err)
    }

    /// A request comes, or something happens to one.
    fn step(&mut self) -> Result<(), String> {
        self.now += SimDuration::from_micros(self.draws.random_range(1..20_000));
        if self.stays.len() < 40 && self.draws.random_range(0..3) == 0 {
            self.route()?;
        } else {
            self.happen();
        }
        self.release()
    }

    /// A request for the beginning of some text, and that beginning.
    fn request(&mut self, id: RequestId) -> (Request, BlockRun) {
        let text = self.draws.random_range(0..TEXTS);
        let blocks = self.draws.random_range(1..=MOST_BLOCKS);
        let prompt = BlockRun { first: BlockId(text << 32), len: blocks };
        let tokens = blocks * BLOCK_SIZE + self.draws.random_range(0..BLOCK_SIZE);
        let private = BlockId(1 << 63 | u64::from(id.0) << 31);
        (Request::new(id, tokens, 1, Content::new([prompt], private)), prompt)
    }

    fn route(&mut self) -> Result<Verdict, String> {
        let id = RequestId(self.requests);
        self.requests += 1;
        let (request, prompt) = self.request(id);
        let mut view = request.route_view(BLOCK_SIZE);
        view.prefilled = matches!(self.role, Role::Decode { .. });
        let verdict = self.router.route(self.now, &view, &self.workers.view());
        self.failed()?;
        match verdict {
            Verdict::Send(worker) => self.send(id, worker, prompt),
            Verdict::Hold => {
                self.held.insert(id, prompt);
                self.held_in_all += 1;
            }
            Verdict::Reject(_) => {}
        }
        Ok(verdict)
    }

    fn send(&mut self, id: RequestId, worker: WorkerId, prompt: BlockRun) {
        self.workers.sent(worker);
        self.sent.push(worker);
        self.stays.insert(id, Stay { worker, prompt, has_token: false });
    }

    fn hear(&mut self, request: RequestId, worker: WorkerId, kind: WorkerEventKind) {
        if kind.ends_stay() {
            self.workers.ended(worker);
            self.stays.remove(&request);
        }
        self.router.observe(self.now, &WorkerEvent { worker, request, kind });
    }

    fn hear_kv(&mut self, worker: WorkerId, event: &KvEvent) {
        if self.router.wants_kv_events() {
            self.router.observe_kv_published(self.now, worker, event);
        }
    }

    /// A request has its first token, or its last.
    fn happen(&mut self) {
        if self.stays.is_empty() {
            return;
        }
        let at = self.draws.random_range(0..self.stays.len());
        let (&id, stay) = self.stays.iter().nth(at).expect("one of them");
        let Stay { worker, prompt, has_token } = stay.clone();
        if has_token {
            self.hear(id, worker, WorkerEventKind::Finished { output_tokens: 20 });
            if self.draws.random_range(0..4) == 0 {
                self.hear_kv(worker, &KvEvent::Removed { run: prompt });
            }
            return;
        }
        self.hear(id, worker, WorkerEventKind::Scheduled { cached_tokens: 0 });
        self.hear_kv(worker, &KvEvent::Stored { parent: None, run: prompt });
        self.hear(id, worker, WorkerEventKind::FirstToken);
        if let Some(stay) = self.stays.get_mut(&id) {
            stay.has_token = true;
        }
    }

    fn release(&mut self) -> Result<(), String> {
        if self.held.is_empty() {
            return Ok(());
        }
        while let Some((id, to)) = self.router.release(self.now, &self.workers.view()) {
            let prompt = self.held.remove(&id).expect("it is held: the answer was checked");
            match to {
                Ok(worker) => self.send(id, worker, prompt),
                Err(RejectReason::Policy) => {}
                Err(other) => unreachable!("a router turns away by itself: {other}"),
            }
        }
        self.failed()
    }

    /// All requests come to their end.
    fn settle(&mut self) -> Result<(), String> {
        loop {
            while !self.stays.is_empty() {
                self.now += SimDuration::from_millis(5);
                self.happen();
                self.release()?;
            }
            let held = self.held.len();
            if held == 0 {
                return Ok(());
            }
            let Some(wake) = self.router.wake_at() else {
                return Err(format!("{held} requests are held, and nothing will release them"));
            };
            self.now = self.now.max(wake);
            self.release()?;
        }
    }

    fn leave(&mut self, worker: WorkerId) {
        let there = self.stays.iter().filter(|(_, stay)| stay.worker == worker);
        for id in there.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.hear(id, worker, WorkerEventKind::Failed);
        }
        self.workers.set_available(worker, false);
        self.router.worker_left(worker);
    }

    fn join(&mut self, worker: WorkerId) {
        self.workers.set_available(worker, true);
        self.router.worker_joined(worker);
    }
}
