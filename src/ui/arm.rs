//! One of the simulations side by side: what it shows, and what can be done to it.

use super::plan::{load_of, number};
use crate::experiment::{RunSpec, check_control};
use crate::exposition::{Families, RequestRow, Stamp, Tally, escaped, model_name};
use crate::fleet::{Fleet, SimulatedFleet};
use crate::id::WorkerId;
use crate::settings::Invalid;
use crate::simulation::{Control, Progress, Recent, Simulation, Stuck, WorkerSnapshot};
use crate::time::{SimDuration, SimTime};
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;

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

/// The values of a line over time at one moment, in the order of [`SERIES`].
pub(super) type Values = [Option<f64>; SERIES.len()];

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

/// What one worker shows now. Written as a row of its values: there may be thousands of
/// workers, twenty times a second.
#[derive(Clone, Debug)]
pub(super) struct WorkerView {
    present: bool,
    running: u32,
    waiting: u32,
    used_blocks: u32,
    queue_ms: Option<f64>,
    hit_ratio: Option<f64>,
}

impl Serialize for WorkerView {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { present, running, waiting, used_blocks, queue_ms, hit_ratio } = *self;
        // As exact as it is shown.
        let rounded =
            |value: Option<f64>, unit: f64| value.map(|value| (value * unit).round() / unit);
        let (queue_ms, hit_ratio) = (rounded(queue_ms, 100.0), rounded(hit_ratio, 1000.0));
        (u8::from(present), running, waiting, used_blocks, queue_ms, hit_ratio)
            .serialize(serializer)
    }
}

/// One simulation, of simulated workers or of real ones.
pub(super) struct Arm<F = SimulatedFleet> {
    pub(super) simulation: Simulation<'static, F>,
    pub(super) tally: Tally,
    /// Its settings, with the changes of workers so far.
    pub(super) run: RunSpec,
    policy: String,
    parameters: BTreeMap<String, Option<f64>>,
    pub(super) load: f64,
    feed: (SimDuration, f64),
}

impl Arm {
    /// With simulated workers.
    pub(super) fn simulated(run: &RunSpec, seed: u64, window: SimDuration) -> Self {
        let mut arm = Self::new(run, run.simulation(seed), window);
        arm.simulation.fleet_mut().record_steps();
        arm
    }

    /// What Prometheus reads of it, under the name `name`.
    pub(super) fn export(&mut self, name: &str, families: &mut Families) {
        let label = labelled(name);
        let settings = &self.run.settings;
        let stamp = Stamp { label: &label, model: model_name(settings), at: None };
        families.add(stamp, &mut self.simulation, &self.tally, settings);
    }

    /// Puts time in, up to `until`.
    pub(super) fn advance(&mut self, until: SimTime) -> Result<Progress, Stuck> {
        let progress = self.simulation.advance(until);
        self.tally.count_steps(self.simulation.fleet_mut().take_steps());
        progress
    }
}

impl ArmView {
    /// Without times from dispatch to the first batch, where they are not known.
    pub(super) fn without_queues(mut self) -> Self {
        self.workers.iter_mut().for_each(|worker| worker.queue_ms = None);
        self.last.iter_mut().for_each(|row| row.queue_ms = None);
        self
    }
}

impl<F: Fleet> Arm<F> {
    pub(super) fn new(
        run: &RunSpec,
        mut simulation: Simulation<'static, F>,
        window: SimDuration,
    ) -> Self {
        let run = run.clone();
        let settings = &run.settings;
        let slots = settings.pools.slots();
        let feed = (settings.router.feed.delay, settings.router.feed.loss_ratio);
        let policy = settings.policy.name().to_owned();
        let parameters = changeable(&run, &policy).unwrap_or_default();
        let load = load_of(&run);
        simulation.watch(window);
        let tally = Tally::new(slots as usize);
        simulation.observe(tally.clone());
        Self { simulation, tally, run, policy, parameters, load, feed }
    }

    /// Applies what a file may say, and a simulation can do, at `now`.
    pub(super) fn apply(&mut self, now: SimTime, control: &Control) -> Result<(), Invalid> {
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

    /// A point of its lines.
    pub(super) fn values(&mut self) -> Values {
        let snapshot = self.simulation.snapshot();
        let recent: Recent = snapshot.recent.unwrap_or_default();
        let workers = &snapshot.workers;
        let sum = |of: fn(&WorkerSnapshot) -> u32| {
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

    /// What it shows beside its lines.
    pub(super) fn view(&mut self) -> ArmView {
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

    /// What Prometheus reads of its router, under the name `name`.
    pub(super) fn export_router(&mut self, name: &str, families: &mut Families) {
        let label = labelled(name);
        let stamp = Stamp { label: &label, model: model_name(&self.run.settings), at: None };
        families.add_router_alone(stamp, &mut self.simulation, &self.tally);
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

fn labelled(arm: &str) -> String {
    format!("arm=\"{}\"", escaped(arm))
}

/// The numbers of the policy `name` that can be changed while it runs.
fn changeable(run: &RunSpec, name: &str) -> Result<BTreeMap<String, Option<f64>>, Invalid> {
    let policy = &run.settings.policy;
    let policy = if policy.name() == name { policy.clone() } else { policy.other(name)? };
    let keys = policy.about().parameters.iter().filter(|parameter| parameter.changeable);
    let values = policy.parameters();
    let value = |key: &str| number(values.get(key)?);
    Ok(keys.map(|parameter| (parameter.name.clone(), value(&parameter.name))).collect())
}
