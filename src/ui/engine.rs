//! The thread that owns a session and puts time in, as fast as the clock of the wall or
//! the processor goes.

use super::arm::SERIES;
use super::hub::{Frame, Hub, LogLine};
use super::plan::{Move, Plan};
use super::servers::{Servers, why};
use super::session::{Session, kind_name};
use crate::report::view::published::Published;
use crate::router::Registry;
use crate::settings::Invalid;
use crate::simulation::Control;
use crate::time::{SimDuration, SimTime};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Browsers hear of a session no more often.
pub(super) const BETWEEN_FRAMES: Duration = Duration::from_millis(50);

/// Lines over time get a value no more often, in simulated time.
const BETWEEN_SAMPLES: SimDuration = SimDuration::from_secs(1);

/// And at most so many between two frames.
const SAMPLES_PER_FRAME: u64 = 2;

/// Looking at large fleets takes its time: no more than this share of all.
const MOST_LOOKING: u32 = 10;

/// Time is put in for about so long before asks are heard.
const PIECE: Duration = Duration::from_millis(10);

/// The last moves are shown, so many.
const LOGGED: usize = 40;

/// What rolling numbers cover at first.
pub(super) const FIRST_WINDOW: SimDuration = SimDuration::from_secs(60);

/// Something to be done between two pieces of time.
pub(super) type Ask = Box<dyn FnOnce(&mut Engine) + Send>;

/// The way to the engine.
#[derive(Clone, Debug)]
pub(super) struct Line(Sender<Ask>);

impl Line {
    pub(super) fn new(asks: Sender<Ask>) -> Self {
        Self(asks)
    }

    /// Has `ask` done by the engine; `None` if that is gone.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&mut Engine) -> T + Send + 'static,
    ) -> Option<T> {
        let (answer, heard) = oneshot::channel();
        let ask = move |engine: &mut Engine| {
            // A client that has gone hears nothing.
            let _ = answer.send(ask(engine));
        };
        self.0.send(Box::new(ask)).ok()?;
        heard.await.ok()
    }
}

/// How time passes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Pace {
    /// Simulated seconds a second; `None`: as fast as it goes.
    pub(super) speed: Option<f64>,
    pub(super) is_paused: bool,
}

/// See the [module](self).
pub(super) struct Engine {
    pub(super) session: Session,
    published: Option<Published>,
    hub: Arc<Hub>,
    pace: Pace,
    /// Where the session runs to by itself, as fast as it goes, to be paused there.
    goal: Option<SimTime>,
    /// Where the clocks stood when they were last set to each other.
    since: (Instant, SimTime),
    /// Simulated time that takes about a piece.
    piece: SimDuration,
    sampled: Option<SimTime>,
    spacing: SimDuration,
    shown: (Instant, SimTime),
    between_frames: Duration,
    achieved: f64,
    is_stale: bool,
}

impl Engine {
    pub(super) fn new(
        plan: Plan,
        published: Option<Published>,
        hub: Arc<Hub>,
        servers: Option<Servers>,
    ) -> Self {
        let seed = plan.first_seed();
        let speed = if servers.is_some() { 1.0 } else { 10.0 };
        let mut session = Session::new(plan, seed, FIRST_WINDOW);
        session.servers = servers;
        let now = Instant::now();
        let mut engine = Self {
            session,
            published,
            hub,
            pace: Pace { speed: Some(speed), is_paused: false },
            goal: None,
            since: (now, SimTime::ZERO),
            piece: SimDuration::from_millis(100),
            sampled: None,
            spacing: BETWEEN_SAMPLES,
            shown: (now, SimTime::ZERO),
            between_frames: BETWEEN_FRAMES,
            achieved: 0.0,
            is_stale: true,
        };
        engine.begin();
        engine
    }

    /// Runs until no one is left who could ask.
    pub(super) fn run(mut self, asks: &Receiver<Ask>) {
        loop {
            let patience = self.step();
            let mut next = match asks.recv_timeout(patience) {
                Ok(ask) => Some(ask),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            while let Some(ask) = next {
                ask(&mut self);
                self.is_stale = true;
                next = asks.try_recv().ok();
            }
            if self.is_stale && self.shown.0.elapsed() >= self.between_frames {
                self.show();
            }
        }
    }

    fn rests(&self) -> bool {
        (self.pace.is_paused && self.goal.is_none()) || self.session.end().is_some()
    }

    /// Puts a piece of time in; gives how long there is nothing to do.
    fn step(&mut self) -> Duration {
        if self.rests() {
            let wait = self.between_frames.saturating_sub(self.shown.0.elapsed());
            return if self.is_stale { wait } else { Duration::from_millis(250) };
        }
        let now = self.session.now();
        let most = now + self.piece;
        let until = match (self.goal, self.pace.speed) {
            (Some(goal), _) => most.min(goal),
            (None, None) => most,
            (None, Some(speed)) => {
                let passed = self.since.0.elapsed().as_secs_f64() * speed;
                let due = self.since.1 + SimDuration::from_secs_f64(passed);
                if due <= now {
                    return Duration::from_millis(5);
                }
                if due > most + self.piece {
                    // It cannot keep up, and does not try to make up for it.
                    self.since = (Instant::now(), most);
                }
                due.min(most)
            }
        };
        let begin = Instant::now();
        self.advance(until);
        let took = begin.elapsed();
        if until == most {
            let scale = (PIECE.as_secs_f64() / took.as_secs_f64().max(1e-6)).clamp(0.5, 2.0);
            let piece = self.piece.as_secs() * scale;
            self.piece = SimDuration::from_secs_f64(piece.clamp(0.001, 600.0));
        }
        if self.goal.is_some_and(|goal| self.session.now() >= goal) {
            self.goal = None;
            self.pause(true);
        }
        Duration::ZERO
    }

    fn advance(&mut self, until: SimTime) {
        self.is_stale = true;
        while self.session.now() < until && self.session.end().is_none() {
            let next = self.sampled.map_or(self.session.now(), |at| at + self.spacing);
            self.session.advance(until.min(next.max(self.session.now())));
            if self.session.now() >= next {
                self.sample();
            }
        }
    }

    fn sample(&mut self) {
        self.hub.add(self.session.sample());
        self.sampled = Some(self.session.now());
    }

    /// A piece of time by hand, while it is paused.
    pub(super) fn step_by(&mut self, by: SimDuration) {
        self.pause(true);
        self.goal = Some(self.session.now() + by);
    }

    pub(super) fn set_pace(&mut self, speed: Option<f64>) {
        self.pace.speed = speed;
        self.since = (Instant::now(), self.session.now());
    }

    pub(super) fn pause(&mut self, is_paused: bool) {
        (self.pace.is_paused, self.goal, self.is_stale) = (is_paused, None, true);
        self.since = (Instant::now(), self.session.now());
    }

    /// Applies a control now, and samples, so that lines show when.
    pub(super) fn apply(
        &mut self,
        arm: Option<usize>,
        control: &Control,
    ) -> Result<Vec<(usize, Invalid)>, Invalid> {
        let refused = self.session.apply(arm, control)?;
        self.sample();
        Ok(refused)
    }

    /// A session from the start, which makes `moves` and is paused at `goal`, if there is
    /// one. One that is paused stays so.
    pub(super) fn restart(&mut self, seed: u64, moves: Vec<Move>, goal: Option<SimTime>) {
        let (plan, window) = (self.session.plan.clone(), self.session.window());
        self.session = Session::new(plan, seed, window);
        self.session.follow(moves);
        self.pause(self.pace.is_paused || goal.is_some());
        self.goal = goal;
        self.begin();
    }

    fn begin(&mut self) {
        self.sampled = None;
        self.spacing = BETWEEN_SAMPLES;
        self.shown = (Instant::now(), self.session.now());
        let hello = self.hello();
        self.hub.begin(hello);
        self.show();
    }

    fn show(&mut self) {
        let (at, then) = self.shown;
        let now = self.session.now();
        let (passed, simulated) = (at.elapsed().as_secs_f64(), (now - then).as_secs());
        if passed > 0.0 {
            self.achieved += (simulated / passed - self.achieved) * 0.3;
        }
        if self.rests() {
            self.achieved = 0.0;
        }
        let is_quick = self.between_frames == BETWEEN_FRAMES;
        let spacing = (now - then).as_ps() / if is_quick { SAMPLES_PER_FRAME } else { 1 };
        self.spacing = BETWEEN_SAMPLES.max(SimDuration::from_ps(spacing));
        self.shown = (Instant::now(), now);
        self.is_stale = false;
        let begin = Instant::now();
        let arms = self.session.views();
        self.between_frames = BETWEEN_FRAMES.max(begin.elapsed() * MOST_LOOKING);
        let moves = self.session.moves();
        let log = moves[moves.len().saturating_sub(LOGGED)..].iter().map(line).collect();
        self.hub.show(Frame {
            t: now.as_secs(),
            speed: self.pace.speed,
            paused: self.pace.is_paused && self.goal.is_none(),
            achieved: self.achieved,
            window_s: self.session.window().as_secs(),
            seed: self.session.seed,
            pending: self.session.pending(),
            goal_s: self.goal.map(SimTime::as_secs),
            end: self.session.end().map(str::to_owned),
            log,
            moves: moves.len(),
            arms,
        });
    }

    /// What stays the same until the session restarts.
    fn hello(&self) -> Value {
        let session = &self.session;
        let plan = &session.plan;
        let arms = (0..session.all_arms()).map(|arm| {
            // Real servers are as the workers of the simulation beside them.
            let is_real = arm >= session.arms.len();
            let like = if is_real { 0 } else { arm };
            let limits: Vec<Value> = session.arms[like]
                .limits()
                .into_iter()
                .map(|(pool, blocks, batch)| json!({ "pool": pool, "blocks": blocks, "batch": batch }))
                .collect();
            let settings = &plan.arms[like].run.settings;
            json!({
                "name": session.name(arm),
                "real": is_real,
                "policy": settings.policy.name(),
                "workers": settings.pools.workers(),
                "limits": limits,
            })
        });
        let cannot = session.servers.as_ref().map(|_| {
            json!({
                "time": why::TIME,
                "workers": why::WORKERS,
                "feed": why::FEED,
                "replay": why::REPLAY,
            })
        });
        let first = &plan.arms[0].run.settings;
        let slo = first.slo.as_ref().map(|slo| {
            json!({
                "ttft_ms": slo.ttft.map(SimDuration::as_millis),
                "itl_ms": slo.itl.map(SimDuration::as_millis),
                "attainment": slo.attainment,
            })
        });
        let registry = Registry::default();
        let policies = registry.abouts().filter(|about| {
            first.policy.other(&about.name).is_ok_and(|policy| !policy.wants().truth)
        });
        let policies: Vec<Value> = policies
            .map(|about| {
                let changeable = about.parameters.iter().filter(|parameter| parameter.changeable);
                let parameters: Vec<Value> = changeable
                    .map(|parameter| {
                        json!({
                            "name": parameter.name,
                            "doc": parameter.doc,
                            "allowed": parameter.allowed,
                        })
                    })
                    .collect();
                json!({ "name": about.name, "rule": about.rule, "parameters": parameters })
            })
            .collect();
        let published = self.published.as_ref().map(|published| {
            let rows: Vec<Value> = published
                .rows
                .iter()
                .filter_map(|row| {
                    let load = row.params.get(plan.load_key())?.as_f64()?;
                    let policy = row.params.get("router.policy")?;
                    Some(json!({ "load": load, "policy": policy, "metrics": row.metrics }))
                })
                .collect();
            json!({ "rows": rows, "source": published.source })
        });
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "name": plan.name,
            "description": plan.about(),
            "seed": session.seed,
            "seeds": plan.seeds,
            "load": kind_name(plan.load),
            "loads": plan.loads,
            "first_load": plan.first_load,
            "series": SERIES,
            "arms": arms.collect::<Vec<Value>>(),
            "cannot": cannot,
            "slo": slo,
            "policies": policies,
            "published": published,
        })
    }
}

/// A move in words.
fn line(step: &Move) -> LogLine {
    let (what, words) = match &step.control {
        Control::Load { concurrency, .. } => ("load", format!("load {concurrency}")),
        Control::Rate { per_s } => ("load", format!("{per_s} requests/s")),
        Control::Parameter { key, value } => ("router", format!("{key} = {value}")),
        Control::Policy { name } => ("router", format!("policy {name}, with an empty index")),
        Control::Worker(change) => ("worker", format!("worker {}: {}", change.worker, change.what)),
        Control::Feed { delay, loss_ratio } => {
            let delay = delay.map(|delay| format!("feed delay {} ms", delay.as_millis()));
            let loss = loss_ratio.map(|loss| format!("feed loss {loss}"));
            ("router", delay.into_iter().chain(loss).collect::<Vec<_>>().join(", "))
        }
        Control::Marker { note } => ("marker", note.clone()),
    };
    LogLine { t: step.at.as_secs(), arm: step.arm, what, words }
}
