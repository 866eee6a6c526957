//! One simulation: from settings to the metrics of its levels.

use super::run_spec::{RunSpec, Settings};
use crate::engine::StepRecord;
use crate::event::WorkerEvent;
use crate::fleet::changes::{Changes, FailoverSettings};
use crate::fleet::{Fleet, SimulatedFleet};
use crate::id::{RequestId, WorkerId};
use crate::recorder::{Curves, Metrics, Recorder, RequestRecord, Slo};
use crate::rng::{Use, mix};
use crate::router::disaggregated::Disaggregated;
use crate::router::feed::RestartSettings;
use crate::router::front_end::FrontEnd;
use crate::router::settings::{FrontEndSettings, Targets};
use crate::router::{ClusterSpec, Policy, Role, Surroundings};
use crate::settings::Invalid;
use crate::simulation::{Control, Decision, Outcome, Schedule, ScheduledLevel, Simulation, Stuck};
use crate::time::{SimDuration, SimTime};
use crate::workload::inference_perf::Stage;
use crate::workload::{Retries, Workload};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What one simulation found.
#[derive(Clone, Debug)]
pub struct RunOutcome {
    /// The metrics of each level, in order.
    pub levels: Vec<Metrics>,
    /// The distributions of each level, in order.
    pub curves: Vec<Curves>,
    /// SHA-256 over everything the outside saw.
    pub digest: [u8; 32],
    /// Every request, if asked for; in order of end, the unfinished ones last.
    pub requests: Vec<RequestRecord>,
    /// The decision to be taken apart, if one was asked for and made.
    pub decision: Option<Decision>,
    /// What workers told of requests, in order of time, where steps were asked for.
    pub events: Vec<(SimTime, WorkerEvent)>,
    /// The steps asked for, those of one worker in order of time.
    pub steps: Vec<StepRecord>,
}

impl RunOutcome {
    /// As it is written down: metrics, distributions and digest.
    pub(super) fn found(levels: Vec<Metrics>, curves: Vec<Curves>, digest: [u8; 32]) -> Self {
        let (requests, events, steps) = (Vec::new(), Vec::new(), Vec::new());
        Self { levels, curves, digest, requests, decision: None, events, steps }
    }
}

/// What to keep of a simulation besides its metrics, and whether it may be stopped.
/// Changes nothing in it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Watch<'a> {
    /// A record of every request.
    pub requests: bool,
    /// The regret of every choice of a worker, where the settings do not ask for it.
    pub why: bool,
    /// The decision about this request, taken apart.
    pub decision_of: Option<RequestId>,
    /// Metrics of clients that hang up, where the settings have none.
    pub hang_ups: bool,
    /// Every step that begins or ends between these times, and what workers tell.
    pub steps: Option<(SimTime, SimTime)>,
    /// Ends it before its time.
    pub stop: Option<&'a Stop>,
}

/// Ends simulations before their time, from another thread or from a policy.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Asks everything that has this [`Stop`] to end: simulations do within ten simulated
    /// seconds.
    pub fn ask(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether that was asked.
    pub fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Simulated time between two looks at [`Watch::stop`].
const STRETCH: SimDuration = SimDuration::from_secs(10);

/// Simulates `settings` at each of the `levels` of concurrency, one after the other.
///
/// # Errors
/// If the workload cannot come to its end.
pub fn simulate(
    settings: &Settings,
    levels: &[u32],
    seed: u64,
    watch: Watch<'_>,
) -> Result<RunOutcome, Stuck> {
    let front_ends = front_ends(settings, seed, |policy| policy);
    let replaces = |(_, control): &(_, Control)| matches!(control, Control::Policy { .. });
    let for_any_policy = settings.controls.iter().any(replaces);
    let mut fleet = simulated_fleet(settings, &front_ends, for_any_policy);
    if let Some((from, to)) = watch.steps {
        fleet.record_each_step(from, to);
    }
    let workload = settings.source.build(settings.pools.block_size(), seed);
    let parts = (fleet, workload, front_ends);
    let (mut outcome, mut fleet) = play(settings, levels, parts, (seed, watch))?;
    outcome.steps = fleet.take_steps();
    Ok(outcome)
}

/// The simulated workers of `settings`, which tell what `front_ends` want to hear, or
/// what any policy might want.
pub(crate) fn simulated_fleet(
    settings: &Settings,
    front_ends: &[FrontEnd],
    for_any_policy: bool,
) -> SimulatedFleet {
    let wants_kv_events = for_any_policy || front_ends.iter().any(FrontEnd::wants_kv_events);
    let mut fleet = SimulatedFleet::of_pools(&settings.pools, wants_kv_events);
    if for_any_policy || front_ends.iter().any(FrontEnd::wants_output_blocks) {
        fleet.tell_output_blocks();
    }
    if settings.router.feed.count_copies.unwrap_or(true) {
        fleet.count_copies();
    }
    fleet
}

/// A simulation of `settings` at time zero, to be stepped, watched and steered. Put
/// all time in, and it is the one that [`simulate`] runs.
///
/// Its workers publish what they store, whatever the policy, so that another one can
/// take over: a run of a policy that does not look at that takes a little longer.
pub fn simulation(
    settings: &Settings,
    levels: &[u32],
    seed: u64,
) -> Simulation<'static, SimulatedFleet> {
    let workload = settings.source.build(settings.pools.block_size(), seed);
    let levels = scheduled(settings, levels);
    steerable(settings, levels, workload, (seed, Watch::default()))
}

/// A simulation at time zero in which another policy can take over.
fn steerable<'a>(
    settings: &Settings,
    levels: Vec<ScheduledLevel>,
    workload: Box<dyn Workload + 'a>,
    (seed, watch): (u64, Watch<'_>),
) -> Simulation<'a, SimulatedFleet> {
    let front_ends = front_ends(settings, seed, |policy| policy);
    let fleet = simulated_fleet(settings, &front_ends, true);
    let parts = (fleet, workload, front_ends);
    prepare(settings, levels, parts, (seed, watch), true).policies(policies(settings, seed))
}

/// The same of another fleet.
#[cfg(feature = "ui")]
pub(crate) fn steerable_fleet<'a, F: Fleet>(
    settings: &Settings,
    levels: &[u32],
    parts: (F, Box<dyn Workload + 'a>, Vec<FrontEnd>),
    seed: u64,
) -> Simulation<'a, F> {
    let levels = scheduled(settings, levels);
    let simulation = prepare(settings, levels, parts, (seed, Watch::default()), true);
    simulation.policies(policies(settings, seed))
}

impl RunSpec {
    /// One of its simulations, at time zero, to be stepped, watched and steered. If all
    /// time is put in at once, it gives what [`run`](super::run()) gives for this seed.
    pub fn simulation(&self, seed: u64) -> Simulation<'static> {
        simulation(&self.settings, &self.levels, seed)
    }

    /// The same fleet and router with another workload in place of `[workload]`. Block
    /// ids of its requests stand for blocks of `engine.block_size` tokens
    /// ([`block_size`](Self::block_size)).
    pub fn simulation_of<'a>(
        &self,
        workload: impl Workload + 'a,
        seed: u64,
    ) -> Simulation<'a, SimulatedFleet> {
        let watch = Watch { hang_ups: true, ..Watch::default() };
        // The stages are those of a workload that is not here.
        let levels = match self.settings.workload.stages() {
            [] => scheduled(&self.settings, &self.levels),
            [..] => vec![ScheduledLevel::measured(0)],
        };
        steerable(&self.settings, levels, Box::new(workload), (seed, watch))
    }

    /// Tokens in a KV block of its workers.
    pub fn block_size(&self) -> u32 {
        self.settings.pools.block_size()
    }
}

/// Makes policies by name, as `settings` have them.
fn policies(
    settings: &Settings,
    seed: u64,
) -> impl Fn(&str, usize) -> Result<Box<dyn Policy>, Invalid> + use<> {
    let settings = settings.clone();
    move |name, front_end| policy_named(&settings, name, front_end, seed)
}

/// The policy `name` in place of the one of `settings`, for one front end.
pub(super) fn policy_named(
    settings: &Settings,
    name: &str,
    front_end: usize,
    seed: u64,
) -> Result<Box<dyn Policy>, Invalid> {
    let router = &settings.router;
    let named = settings.policy.other(name)?;
    // Front ends go on as they are.
    let targets = if settings.by_rank() { Targets::Ranks } else { Targets::Workers };
    let router = FrontEndSettings { targets: Some(targets), ..FrontEndSettings::clone(router) };
    named.check_gate(router.admission.as_ref())?;
    named.check_in(&Surroundings {
        workers: named.targets_among(router.targets, &settings.pools.ranks())?,
        front_ends: router.replicas,
        has_prefill_workers: Some(settings.pools.sides().are_two()),
        may_skip_prefill: router.conditional_disaggregation.is_some(),
    })?;
    let front_end = u32::try_from(front_end).expect("as many as settings say");
    let settings = Settings { policy: named, router: Arc::new(router), ..settings.clone() };
    Ok(policy(&settings, front_end, seed_of(seed, Use::Policy, front_end)))
}

/// The randomness of one use by one front end: replicas must not share their choices.
fn seed_of(seed: u64, usage: Use, front_end: u32) -> u64 {
    mix(seed ^ mix(usage as u64)).wrapping_add(u64::from(front_end))
}

/// The randomness of the policy of the first front end.
pub(crate) fn policy_seed(seed: u64) -> u64 {
    seed_of(seed, Use::Policy, 0)
}

/// Drives `fleet` with `workload` through `front_ends`, as `settings` measure it.
///
/// # Errors
/// If the workload cannot come to its end.
pub(crate) fn play<F: Fleet>(
    settings: &Settings,
    levels: &[u32],
    parts: (F, Box<dyn Workload + '_>, Vec<FrontEnd>),
    (seed, watch): (u64, Watch<'_>),
) -> Result<(RunOutcome, F), Stuck> {
    let levels = scheduled(settings, levels);
    let mut simulation = prepare(settings, levels, parts, (seed, watch), false);
    match watch.stop {
        None => drop(simulation.advance(SimTime::MAX)?),
        Some(stop) => advance_unless(&mut simulation, stop)?,
    }
    let Outcome { mut levels, decision, mut recorder, fleet } = simulation.finish();
    for (name, count) in settings.source.counts() {
        levels.iter_mut().for_each(|metrics| {
            metrics.insert(name.to_owned(), Some(count as f64));
        });
    }
    let digest = recorder.digest();
    let (curves, events) = (recorder.take_curves(), recorder.take_events());
    let requests = recorder.into_requests();
    let steps = Vec::new();
    Ok((RunOutcome { levels, curves, digest, requests, decision, events, steps }, fleet))
}

/// Puts all time in, a stretch at a time.
fn advance_unless<F: Fleet>(simulation: &mut Simulation<'_, F>, stop: &Stop) -> Result<(), Stuck> {
    loop {
        if stop.is_asked() {
            return Err(Stuck::Stopped { at: simulation.now() });
        }
        // Where only workers have something to do, all of it is one stretch: it ends with
        // their requests.
        let is_last = simulation.due() == SimTime::MAX;
        let until = if is_last { SimTime::MAX } else { simulation.now() + STRETCH };
        if simulation.advance(until)?.is_over {
            return Ok(());
        }
    }
}

/// The levels of a run in order: all stages of a load that has some, else those measured.
fn scheduled(settings: &Settings, levels: &[u32]) -> Vec<ScheduledLevel> {
    let stages = settings.workload.stages();
    if stages.is_empty() {
        return levels.iter().copied().map(ScheduledLevel::measured).collect();
    }
    let level = |(load, stage): (u32, &Stage)| ScheduledLevel { load, is_measured: stage.measured };
    (0..).zip(stages).map(level).collect()
}

/// `may_change` where workers may be changed though nothing is planned: clients that send
/// lost requests again must be there from the start.
fn prepare<'a, F: Fleet>(
    settings: &Settings,
    levels: Vec<ScheduledLevel>,
    (fleet, mut workload, front_ends): (F, Box<dyn Workload + 'a>, Vec<FrontEnd>),
    (seed, watch): (u64, Watch<'_>),
    may_change: bool,
) -> Simulation<'a, F> {
    let measure = &settings.measure;
    let plan = settings.plan();
    let pools = &settings.pools;
    if plan.failover.retries > 0 && (may_change || !plan.is_empty()) {
        let FailoverSettings { retries, retry_pause, .. } = plan.failover;
        workload = Box::new(Retries::new(workload, retries, retry_pause));
    }
    let mut recorder =
        Recorder::new(pools.sides(), watch.requests).with_spike_window(measure.spike_window);
    if watch.hang_ups || !settings.source.patience().is_endless() {
        recorder = recorder.follow_hang_ups();
    }
    if settings.may_refuse() {
        recorder = recorder.follow_refusals();
    }
    if measure.why || watch.why {
        recorder = recorder.measure_why(pools.block_size());
    }
    let media = settings.media();
    if !media.is_empty() {
        // 0 where it is unknown.
        let token_bytes = |id| pools.of(WorkerId(id)).engine.kv_bytes_per_token.unwrap_or(0.0);
        recorder = recorder.measure_tiers(media, (0..pools.slots()).map(token_bytes).collect());
    }
    if settings.cluster.pool.len() > 1 {
        let named = pools.pools().iter().enumerate().map(|(at, pool)| {
            let ids = pools.ids(at);
            (pool.name.clone(), ids.start as usize..ids.end as usize)
        });
        recorder = recorder.measure_pools(named.collect());
    }
    if watch.steps.is_some() {
        recorder = recorder.keep_events();
    }
    let schedule = Schedule {
        levels,
        warmup: measure.warmup,
        in_bursts: !settings.workload.stages().is_empty(),
        window: measure.window,
        quantiles: measure.quantiles(),
        slo: settings
            .slo
            .as_ref()
            .map_or_else(Slo::default, |slo| Slo { ttft: slo.ttft, itl: slo.itl }),
    };
    let mut simulation = Simulation::new(fleet, workload, front_ends, recorder, pools.block_size())
        .spread(settings.router.spread)
        .measure(schedule);
    if let Some(admission) = &settings.router.admission {
        let blocks = (0..pools.slots()).map(|id| pools.of(WorkerId(id)).limits().blocks);
        simulation = simulation.admission(admission, (pools.ranks(), blocks.collect()));
    }
    let planned = settings.cluster.change.iter();
    let planned = planned
        .map(|change| (SimTime::ZERO + change.at, Control::Worker(change.change())))
        .chain(settings.controls.iter().cloned());
    simulation = simulation.script(planned);
    simulation = if plan.is_empty() {
        simulation.failover(plan)
    } else {
        let planner = plan.planner.as_ref().and_then(|planner| planner.pool.as_deref());
        let planned = pools.pools().iter().find(|pool| Some(pool.name.as_str()) == planner);
        let limits = planned.unwrap_or(pools.first()).limits();
        simulation.changes(Changes::new(plan, limits.blocks, limits.max_num_seqs))
    };
    if settings.controls.iter().any(|(_, control)| matches!(control, Control::Policy { .. })) {
        simulation = simulation.policies(policies(settings, seed));
    }
    if let Some(request) = watch.decision_of {
        simulation = simulation.explain(request);
    }
    simulation
}

/// The routers in front of the fleet, each policy as `wrap` gives it back.
pub(crate) fn front_ends(
    settings: &Settings,
    seed: u64,
    wrap: impl Fn(Box<dyn Policy>) -> Box<dyn Policy>,
) -> Vec<FrontEnd> {
    let router = &settings.router;
    let sides = settings.pools.sides();
    let front_end = |index: u32| {
        let seed_of = |usage: Use| seed_of(seed, usage, index);
        let build = || wrap(policy(settings, index, seed_of(Use::Policy)));
        let mut front_end = FrontEnd::new(build(), sides, &router.feed, seed_of(Use::Feed));
        if !settings.by_rank() {
            front_end = front_end.over_whole_workers(settings.pools.wholes());
        }
        if let Some(delay) = router.sync_delay {
            front_end = front_end.hear_peers(delay);
        }
        match router.restart {
            Some(RestartSettings { at, recovery_delay }) => {
                front_end.restart_at(SimTime::ZERO + at, build(), recovery_delay)
            }
            None => front_end,
        }
    };
    (0..router.replicas).map(front_end).collect()
}

/// One front end's policy.
fn policy(settings: &Settings, front_end: u32, seed: u64) -> Box<dyn Policy> {
    let Settings { router, policy, pools, .. } = settings;
    let by_rank = settings.by_rank();
    let spec = |role| ClusterSpec { front_end, ..pools.spec(role, by_rank) };
    if !pools.sides().are_two() {
        return policy.build(&spec(Role::Both), seed);
    }
    let may_prefill = router.conditional_disaggregation.is_some();
    let decode = Role::Decode { may_prefill };
    let clusters = [spec(Role::Prefill), spec(decode)];
    let prefill = policy.build(&clusters[0], seed);
    let decode = policy.build(&clusters[1], mix(seed));
    let both = Disaggregated::new([prefill, decode], &clusters);
    Box::new(both.with_condition(router.conditional_disaggregation))
}
