//! The arms of a session in lock step of simulated time. No clock of the wall is here:
//! the pieces in which its time passes do not change it.

use super::plan::{LONGEST, LoadKind, Move, Plan, number};
use crate::experiment::{RunSpec, check_control, hex};
use crate::exposition::{Families, RequestRow, Stamp, Tally, escaped, model_name};
use crate::fleet::changes::WorkerChange;
use crate::id::WorkerId;
use crate::settings::Invalid;
use crate::simulation::{Control, Recent, Simulation};
use crate::time::{SimDuration, SimTime};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, VecDeque};

/// More moves than this are refused (assumed: an hour at a slider that says ten a second
/// has 36,000).
const MOST_MOVES: usize = 50_000;

/// What a line over time is made of, by name; latencies in milliseconds.
pub(super) const SERIES: [&str; 16] = [
    "load",
    "ttft_ms_p50",
    "ttft_ms_p95",
    "itl_ms_p50",
    "itl_ms_p95",
    "inter_token_ms_p50",
    "inter_token_ms_p95",
    "e2e_ms_p50",
    "e2e_ms_p95",
    "requests_per_s",
    "output_tokens_per_s",
    "hit_ratio",
    "error_ratio",
    "running",
    "waiting",
    "queue_ms_worst",
];

/// The values of all arms at one moment, in the order of [`SERIES`].
#[derive(Clone, Debug, Serialize)]
pub(super) struct Sample {
    /// Seconds.
    pub(super) t: f64,
    pub(super) arms: Vec<[Option<f64>; SERIES.len()]>,
}

/// What one arm shows now.
#[derive(Clone, Debug, Serialize)]
pub(super) struct ArmView {
    pub(super) policy: String,
    /// Of the running policy: numbers that can be changed, with their values.
    pub(super) parameters: BTreeMap<String, Option<f64>>,
    pub(super) feed_delay_ms: f64,
    pub(super) feed_loss_ratio: f64,
    pub(super) held: usize,
    pub(super) live: usize,
    pub(super) workers: Vec<WorkerView>,
    pub(super) last: Vec<RequestRow>,
}

/// What one worker shows now.
#[derive(Clone, Debug, Serialize)]
pub(super) struct WorkerView {
    pub(super) present: bool,
    pub(super) running: u32,
    pub(super) waiting: u32,
    pub(super) used_blocks: u32,
    pub(super) queue_ms: Option<f64>,
    pub(super) hit_ratio: Option<f64>,
}

/// One simulation.
pub(super) struct Arm {
    simulation: Simulation<'static>,
    pub(super) tally: Tally,
    /// Its settings, with the changes of workers so far.
    pub(super) run: RunSpec,
    policy: String,
    parameters: BTreeMap<String, Option<f64>>,
    load: f64,
    feed: (SimDuration, f64),
}

/// See the [module](self).
pub(super) struct Session {
    pub(super) plan: Plan,
    pub(super) arms: Vec<Arm>,
    pub(super) seed: u64,
    now: SimTime,
    window: SimDuration,
    moves: Vec<Move>,
    /// What will be applied, in order of time.
    pending: VecDeque<Move>,
    /// Why it cannot go on, once it cannot.
    end: Option<String>,
    /// Why it cannot be saved, once it cannot.
    unsaved: Option<Invalid>,
}

impl Session {
    pub(super) fn new(plan: Plan, seed: u64, window: SimDuration) -> Self {
        let arms = plan.arms.iter().map(|arm| Arm::new(&arm.run, seed, window)).collect();
        let (moves, pending) = (Vec::new(), VecDeque::new());
        Self {
            plan,
            arms,
            seed,
            now: SimTime::ZERO,
            window,
            moves,
            pending,
            end: None,
            unsaved: None,
        }
    }

    pub(super) fn now(&self) -> SimTime {
        self.now
    }

    pub(super) fn window(&self) -> SimDuration {
        self.window
    }

    pub(super) fn moves(&self) -> &[Move] {
        &self.moves
    }

    pub(super) fn end(&self) -> Option<&str> {
        self.end.as_deref()
    }

    /// Moves that are to come.
    pub(super) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Applies each of `moves`, in order of time, when it is its time.
    pub(super) fn follow(&mut self, moves: impl IntoIterator<Item = Move>) {
        self.pending.extend(moves);
        self.pending.make_contiguous().sort_by_key(|step| step.at);
    }

    /// Forgets what was to come.
    pub(super) fn follow_no_more(&mut self) {
        self.pending.clear();
    }

    /// Puts time in, up to `until`.
    pub(super) fn advance(&mut self, until: SimTime) {
        // The run of the experiment would be over a second later.
        let last = SimTime::from_ps(LONGEST.as_ps() - SimDuration::from_secs(1).as_ps());
        let until = until.min(last);
        while self.end.is_none() {
            let next = self.pending.front().map_or(SimTime::MAX, |step| step.at.max(self.now));
            self.run_to(next.min(until));
            if next > until || self.end.is_some() {
                break;
            }
            if let Some(Move { arm, control, .. }) = self.pending.pop_front() {
                // One that makes no sense by now, as a crash of a worker that is down, is
                // left out, and so is not written down.
                let _ = self.apply(arm, &control);
            }
        }
        if self.now >= last {
            self.end.get_or_insert_with(|| "100 days are the longest session".to_owned());
        }
    }

    fn run_to(&mut self, until: SimTime) {
        if until <= self.now {
            return;
        }
        let mut is_over = true;
        for (arm, plan) in self.arms.iter_mut().zip(&self.plan.arms) {
            let progress = arm.simulation.advance(until);
            arm.tally.count_steps(arm.simulation.fleet_mut().take_steps());
            match progress {
                Ok(progress) => is_over &= progress.is_over,
                Err(stuck) => self.end = Some(format!("{}: {stuck}", plan.name)),
            }
        }
        self.now = until;
        if is_over {
            self.end.get_or_insert_with(|| "all requests of the workload are served".to_owned());
        }
    }

    /// Refuses the number of an arm that is not there.
    pub(super) fn check_arm(&self, arm: usize) -> Result<(), Invalid> {
        let all = self.arms.len();
        Invalid::unless(arm < all, "arm", arm, &format!("from 0 to {}", all - 1))
    }

    /// Applies `control` now, to one arm or to all; gives what each arm that refuses it
    /// says.
    ///
    /// # Errors
    /// If no arm takes it.
    pub(super) fn apply(
        &mut self,
        arm: Option<usize>,
        control: &Control,
    ) -> Result<Vec<(usize, Invalid)>, Invalid> {
        let all = self.arms.len();
        if let Some(arm) = arm {
            self.check_arm(arm)?;
            self.plan.check_alone(arm)?;
        }
        let allowed = "fewer moves in one session: save it, and restart";
        Invalid::unless(self.moves.len() < MOST_MOVES, "control", self.moves.len(), allowed)?;
        let wanted = arm.map_or(0..all, |arm| arm..arm + 1);
        let mut refused = Vec::new();
        let mut taken = Vec::new();
        for at in wanted.clone() {
            match self.arms[at].apply(self.now, control) {
                Ok(()) => taken.push(at),
                Err(why) => refused.push((at, why)),
            }
        }
        let moved = |arm| Move { at: self.now, arm, control: control.clone() };
        if taken.len() == all {
            self.moves.push(moved(None));
        } else {
            // A file could not say which arms these are.
            let unsaved = taken.iter().find_map(|at| self.plan.check_alone(*at).err());
            self.unsaved = self.unsaved.take().or(unsaved);
            self.moves.extend(taken.iter().map(|at| moved(Some(*at))));
        }
        if taken.is_empty() { Err(refused.remove(0).1) } else { Ok(refused) }
    }

    /// What is shown of the time before covers `over`, from now on.
    pub(super) fn set_window(&mut self, over: SimDuration) {
        self.window = over;
        for arm in &mut self.arms {
            arm.simulation.watch(over);
        }
    }

    /// A point of every arm's lines.
    pub(super) fn sample(&mut self) -> Sample {
        Sample { t: self.now.as_secs(), arms: self.arms.iter_mut().map(Arm::series).collect() }
    }

    /// What all arms show now beside their lines.
    pub(super) fn views(&mut self) -> Vec<ArmView> {
        self.arms.iter_mut().map(Arm::view).collect()
    }

    /// The digest of the experiment that [`saved`](Self::saved) gives.
    pub(super) fn digest(&self) -> String {
        let mut digest = Sha256::new();
        for arm in &self.arms {
            digest.update(arm.simulation.digest());
        }
        hex(&digest.finalize())
    }

    /// By arm.
    pub(super) fn digests(&self) -> Vec<String> {
        self.arms.iter().map(|arm| hex(&arm.simulation.digest())).collect()
    }

    /// The session so far as the text of an experiment. A move of this very moment would
    /// come when the experiment is over, so a millisecond more is simulated then.
    ///
    /// # Errors
    /// If a file could not say it.
    pub(super) fn saved(&mut self) -> Result<String, Invalid> {
        if let Some(unsaved) = &self.unsaved {
            return Err(unsaved.clone());
        }
        let is_fresh = self.moves.last().is_some_and(|last| last.at >= self.now);
        if (is_fresh || self.now == SimTime::ZERO) && self.end.is_none() {
            self.run_to(self.now + SimDuration::from_millis(1));
        }
        let text = self.plan.saved(self.seed, self.now, &self.moves);
        Ok(format!("{}\n{text}", self.plan.head(&self.digest())))
    }

    /// The moves of a preset, from now on.
    pub(super) fn preset(&self, name: &str) -> Option<Vec<Move>> {
        let now = self.now;
        let later = |seconds: u64, control: Control| Move {
            at: now + SimDuration::from_secs(seconds),
            arm: None,
            control,
        };
        let note =
            |seconds: u64, note: &str| later(seconds, Control::Marker { note: note.to_owned() });
        match name {
            "crossover" => {
                let loads = self.plan.loads.iter().filter_map(|load| self.plan.control_of(*load));
                let steps = (0..).map(|step| step * 120).zip(loads);
                let mut moves = vec![note(0, "crossover")];
                moves.extend(steps.map(|(at, control)| later(at, control)));
                (moves.len() > 1).then_some(moves)
            }
            "burst" => {
                let load = self.arms[0].load;
                let high = self.plan.control_of(self.plan.round(load * 1.5))?;
                let back = self.plan.control_of(load)?;
                Some(vec![
                    note(0, "burst"),
                    later(0, high),
                    note(60, "end of burst"),
                    later(60, back),
                ])
            }
            "worker-dies" => {
                let crash = WorkerChange {
                    restart_after: Some(SimDuration::from_secs(120)),
                    ..WorkerChange::crash(0)
                };
                Some(vec![note(0, "a worker dies"), later(0, Control::Worker(crash))])
            }
            _ => None,
        }
    }

    /// What Prometheus reads; every sample has its arm as a label.
    pub(super) fn metrics(&mut self) -> String {
        let mut families = Families::default();
        for (arm, plan) in self.arms.iter_mut().zip(&self.plan.arms) {
            let label = format!("arm=\"{}\"", escaped(&plan.name));
            let settings = &arm.run.settings;
            let stamp = Stamp { label: &label, model: model_name(settings), at: None };
            families.add(stamp, &mut arm.simulation, &arm.tally, settings);
        }
        families.text()
    }
}

impl Arm {
    fn new(run: &RunSpec, seed: u64, window: SimDuration) -> Self {
        let run = run.clone();
        let settings = &run.settings;
        let slots = settings.pools.slots();
        let feed = (settings.router.feed.delay, settings.router.feed.loss_ratio);
        let policy = settings.policy.name().to_owned();
        let parameters = changeable(&run, &policy).unwrap_or_default();
        let load = first_load(&run);
        let mut simulation = run.simulation(seed);
        simulation.watch(window);
        let tally = Tally::new(slots as usize);
        simulation.observe(tally.clone());
        simulation.fleet_mut().record_steps();
        Self { simulation, tally, run, policy, parameters, load, feed }
    }

    /// Applies what a file may say, and a simulation can do, at `now`.
    fn apply(&mut self, now: SimTime, control: &Control) -> Result<(), Invalid> {
        check_control(control, &self.run.settings)?;
        if let Control::Worker(change) = control {
            let allowed = "left out: the rows of this page are ranks, and changes count workers; \
                           [[control]] and [[cluster.change]] of the experiment change them";
            let has_ranks = self.run.settings.pools.have_ranks();
            Invalid::unless(!has_ranks, "worker", change.worker, allowed)?;
            let script = &mut self.run.settings.controls;
            script.push((now, control.clone()));
            if let Err(wrong) = self.run.settings.plan().validate() {
                self.run.settings.controls.pop();
                return Err(wrong);
            }
        }
        self.simulation.apply(control.clone())?;
        match control {
            Control::Load { concurrency, .. } => self.load = f64::from(*concurrency),
            Control::Rate { per_s } => self.load = *per_s,
            Control::Parameter { key, value } => {
                self.parameters.insert(key.clone(), Some(*value));
            }
            Control::Policy { name } => {
                self.policy.clone_from(name);
                self.parameters = changeable(&self.run, name).unwrap_or_default();
            }
            Control::Feed { delay, loss_ratio } => {
                self.feed = (delay.unwrap_or(self.feed.0), loss_ratio.unwrap_or(self.feed.1));
            }
            Control::Worker(_) | Control::Marker { .. } => {}
        }
        Ok(())
    }

    fn series(&mut self) -> [Option<f64>; SERIES.len()] {
        let snapshot = self.simulation.snapshot();
        let recent: Recent = snapshot.recent.unwrap_or_default();
        let workers = &snapshot.workers;
        let sum = |of: fn(&crate::simulation::WorkerSnapshot) -> u32| {
            Some(workers.iter().map(|worker| f64::from(of(worker))).sum())
        };
        let worst = workers.iter().filter_map(|worker| worker.queue_ms).reduce(f64::max);
        [
            Some(self.load),
            recent.ttft_ms_p50,
            recent.ttft_ms_p95,
            recent.itl_ms_p50,
            recent.itl_ms_p95,
            snapshot.gap_ms_p50,
            snapshot.gap_ms_p95,
            recent.e2e_ms_p50,
            recent.e2e_ms_p95,
            Some(recent.requests_per_s),
            snapshot.output_tokens_per_s,
            recent.hit_ratio,
            recent.error_ratio,
            sum(|worker| worker.running),
            sum(|worker| worker.waiting),
            worst,
        ]
    }

    fn view(&mut self) -> ArmView {
        let snapshot = self.simulation.snapshot();
        let counts = self.tally.counts();
        ArmView {
            policy: self.policy.clone(),
            parameters: self.parameters.clone(),
            feed_delay_ms: self.feed.0.as_millis(),
            feed_loss_ratio: self.feed.1,
            held: snapshot.held_requests,
            live: snapshot.live_requests,
            workers: snapshot
                .workers
                .iter()
                .map(|worker| WorkerView {
                    present: worker.is_present,
                    running: worker.running,
                    waiting: worker.waiting,
                    used_blocks: worker.used_blocks,
                    queue_ms: worker.queue_ms,
                    hit_ratio: worker.hit_ratio,
                })
                .collect(),
            last: counts.last.iter().cloned().collect(),
        }
    }

    /// Name of the pool, KV blocks and batch limit of each worker that there is room for.
    pub(super) fn limits(&self) -> Vec<(String, u32, u32)> {
        let pools = &self.run.settings.pools;
        let limits = |id| {
            let pool = pools.of(WorkerId(id));
            (pool.name.clone(), pool.engine.num_blocks, pool.engine.max_num_seqs)
        };
        (0..pools.slots()).map(limits).collect()
    }
}

/// The load that a run begins with.
fn first_load(run: &RunSpec) -> f64 {
    let workload = &run.settings.workload;
    let arrivals = match &run.settings.source {
        crate::workload::WorkloadSource::Requests(requests) => requests.arrivals,
        crate::workload::WorkloadSource::Trace { arrivals, .. } => *arrivals,
        _ => None,
    };
    let rate = arrivals.map_or(0.0, |arrivals| arrivals.rate());
    workload.concurrency().map_or(rate, f64::from)
}

/// The numbers of the policy `name` that can be changed while it runs.
fn changeable(run: &RunSpec, name: &str) -> Result<BTreeMap<String, Option<f64>>, Invalid> {
    let policy = &run.settings.policy;
    let policy = if policy.name() == name { policy.clone() } else { policy.other(name)? };
    let keys = policy.about().parameters.iter().filter(|parameter| parameter.changeable);
    let value = |key: &str| number(policy.parameters().get(key)?);
    Ok(keys.map(|parameter| (parameter.name.clone(), value(&parameter.name))).collect())
}

/// As the page knows it.
pub(super) fn kind_name(kind: LoadKind) -> &'static str {
    match kind {
        LoadKind::Concurrency => "concurrency",
        LoadKind::Rate => "rate",
        LoadKind::Fixed => "fixed",
    }
}
