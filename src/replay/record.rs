//! A log written by a simulation.

use super::log::Line;
use crate::event::{KvEvent, WorkerEvent};
use crate::experiment::{RunSpec, Watch, front_ends, hex, play, policy_seed, simulated_fleet};
use crate::id::WorkerId;
use crate::request::RouteRequest;
use crate::router::external::wire::{
    Asked, Choice, Event, Hello, Knowledge, ReleasedRequest, Releases, Route, Unwritten,
};
use crate::router::{ClusterView, Policy, Release, Role, Verdict, forward};
use crate::simulation::Stuck;
use crate::time::SimTime;
use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

/// A log that was not written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// A router whose decisions have no such log.
    #[error("{0}: one front end in front of workers that do all of a request can be recorded")]
    Router(&'static str),
    /// The simulation could not be carried out.
    #[error("{0}")]
    Stuck(#[from] Stuck),
    /// The log could not be written.
    #[error("the log cannot be written: {0}")]
    Write(#[from] io::Error),
}

/// Simulates `run` with `seed` and writes every decision of its router; gives the digest,
/// hexadecimal, which is that of the run without a log.
///
/// # Errors
/// If there is no one router, the simulation cannot be carried out, or `out` not be written.
pub fn record(run: &RunSpec, seed: u64, out: Box<dyn Write + Send>) -> Result<String, RecordError> {
    let settings = &run.settings;
    if settings.pools.sides().are_two() {
        return Err(RecordError::Router("prefill and decode have workers of their own"));
    }
    if settings.router.replicas > 1 {
        return Err(RecordError::Router("router.replicas is above 1"));
    }
    if settings.router.restart.is_some() || !settings.controls.is_empty() {
        return Err(RecordError::Router("the router restarts, or controls change it"));
    }
    let wants = settings.policy.wants();
    let knowledge = Knowledge {
        kv_events: true,
        output_blocks: wants.output_blocks,
        report_period_ns: wants.reports.map(|period| period.as_ps() / 1_000),
    };
    let cluster = settings.pools.spec(Role::Both, settings.by_rank());
    let parameters = serde_json::to_value(settings.policy.parameters());
    let parameters = parameters.ok().and_then(|table| table.as_object().cloned());
    let hello = Hello::new(&cluster, policy_seed(seed), knowledge, parameters.unwrap_or_default());
    let log = Log(Arc::new(Mutex::new(Writing { out, failure: None })));
    log.write(&Line::Hello(hello));
    let front_ends = front_ends(settings, seed, |policy| {
        let hears_kv = policy.wants_kv_events();
        Box::new(Recorded { policy, hears_kv, unwritten: Unwritten::default(), log: log.clone() })
    });
    let fleet = simulated_fleet(settings, &front_ends, false);
    let workload = settings.source.build(settings.pools.block_size(), seed);
    let parts = (fleet, workload, front_ends);
    let (outcome, _) = play(settings, &run.levels, parts, (seed, Watch::default()))?;
    let mut writing = log.0.lock().unwrap_or_else(PoisonError::into_inner);
    match writing.failure.take() {
        Some(error) => Err(error.into()),
        None => Ok(writing.out.flush().map(|()| hex(&outcome.digest))?),
    }
}

/// Where lines go; shared with the policy, which is made inside the simulation.
#[derive(Clone)]
struct Log(Arc<Mutex<Writing>>);

struct Writing {
    out: Box<dyn Write + Send>,
    /// The first that could not be written.
    failure: Option<io::Error>,
}

impl Log {
    fn write(&self, line: &Line) {
        let mut writing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if writing.failure.is_some() {
            return;
        }
        let mut bytes = serde_json::to_vec(line).expect("plain values are JSON");
        bytes.push(b'\n');
        writing.failure = writing.out.write_all(&bytes).err();
    }
}

/// Writes what a policy heard and decided.
struct Recorded {
    policy: Box<dyn Policy>,
    /// Whether the policy hears of caches: the log does in any case.
    hears_kv: bool,
    unwritten: Unwritten,
    log: Log,
}

impl fmt::Debug for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorded").finish_non_exhaustive()
    }
}

#[deny(clippy::missing_trait_methods)]
impl Policy for Recorded {
    fn route(
        &mut self,
        now: SimTime,
        request: &RouteRequest<'_>,
        view: &ClusterView<'_>,
    ) -> Verdict {
        let route = Route { moment: self.unwritten.write(now, view), request: Asked::of(request) };
        let verdict = self.policy.route(now, request, view);
        let answer = match verdict {
            Verdict::Send(worker) => Choice { worker: Some(worker.0), ..Choice::default() },
            Verdict::Hold => Choice { hold: true, ..Choice::default() },
            Verdict::Reject(_) => Choice { reject: true, ..Choice::default() },
        };
        self.log.write(&Line::Route { route, answer });
        verdict
    }

    fn observe(&mut self, now: SimTime, event: &WorkerEvent) {
        self.unwritten.hear(Event::of_life(now, event));
        self.policy.observe(now, event);
    }

    fn wants_kv_events(&self) -> bool {
        true
    }

    fn observe_kv(&mut self, worker: WorkerId, event: &KvEvent) {
        self.observe_kv_published(SimTime::ZERO, worker, event);
    }

    fn observe_kv_published(&mut self, published: SimTime, worker: WorkerId, event: &KvEvent) {
        self.unwritten.hear(Event::of_kv(published, worker, event));
        if self.hears_kv {
            self.policy.observe_kv_published(published, worker, event);
        }
    }

    /// The log has them in order.
    fn hears_kv_on_demand(&self) -> bool {
        false
    }

    fn release(&mut self, now: SimTime, view: &ClusterView<'_>) -> Option<Release> {
        let release = self.policy.release(now, view)?;
        let (request, to) = release;
        let worker = to.ok().map(|worker| worker.0);
        let released = ReleasedRequest { request: request.0, worker, reject: worker.is_none() };
        let answer = Releases { released: vec![released], wake_ns: None };
        self.log.write(&Line::Release { moment: self.unwritten.write(now, view), answer });
        Some(release)
    }

    fn observe_peer(&mut self, request: &RouteRequest<'_>, worker: WorkerId, overlap_blocks: u32) {
        self.policy.observe_peer(request, worker, overlap_blocks);
    }

    fn worker_left(&mut self, worker: WorkerId) {
        self.unwritten.hear(Event::Left { worker: worker.0 });
        self.policy.worker_left(worker);
    }

    fn worker_joined(&mut self, worker: WorkerId) {
        self.unwritten.hear(Event::Joined { worker: worker.0 });
        self.policy.worker_joined(worker);
    }

    forward! { policy: report_period, wants_output_blocks, wants_truth, observe_truth, wake_at,
    overlap_blocks, leave_out, set_parameter, failure, notes, explain }
}
