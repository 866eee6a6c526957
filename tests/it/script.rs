//! Runs written out by a test: requests that arrive when it says, policies that
//! do what it says, and a fleet that is watched.

use kv_router_sim::engine::config::EngineConfig;
use kv_router_sim::engine::{Gauges, Pace, StepRecord, Worker};
use kv_router_sim::event::{KvEvent, Lost, RejectReason, WorkerEvent};
use kv_router_sim::fleet::changes::{ChangePlan, ChangeSettings, Changes};
use kv_router_sim::fleet::{Fleet, Pools, SimulatedFleet, Truth};
use kv_router_sim::id::{RequestId, WorkerId};
use kv_router_sim::recorder::{Metrics, Quantiles, Recorder, RequestRecord, Slo};
use kv_router_sim::request::Request;
use kv_router_sim::router::feed::FeedSettings;
use kv_router_sim::router::front_end::FrontEnd;
use kv_router_sim::router::settings::RouterSettings;
use kv_router_sim::router::{ClusterSpec, Policy, WorkerLimits};
use kv_router_sim::simulation::{Control, Outcome, Schedule, ScheduledLevel, Simulation};
use kv_router_sim::stats::Histogram;
use kv_router_sim::time::{SimDuration, SimTime};
use kv_router_sim::workload::{Arrival, Listed, Workload};
use std::sync::Arc;

/// Makes open loops of given arrivals, in order of time.
pub(crate) struct Script;

impl Script {
    #[expect(clippy::new_ret_no_self, reason = "a workload of the library")]
    pub(crate) fn new(requests: impl IntoIterator<Item = (SimTime, Request)>) -> Box<Listed> {
        let arrival = |(at, request)| Arrival::new(at, request);
        Box::new(requests.into_iter().map(arrival).collect())
    }
}

/// A simulated fleet, and all that went in and came out.
pub(crate) struct Watched {
    fleet: SimulatedFleet,
    events: Vec<(SimTime, WorkerEvent)>,
    submitted: Vec<(SimTime, WorkerId, RequestId)>,
    lost: Vec<(SimTime, WorkerId, Lost)>,
}

impl Fleet for Watched {
    fn submit(
        &mut self,
        now: SimTime,
        worker: WorkerId,
        request: &Request,
    ) -> Result<(), RejectReason> {
        self.submitted.push((now, worker, request.id));
        self.fleet.submit(now, worker, request)
    }

    fn give_up(&mut self, now: SimTime, request: RequestId) {
        self.fleet.give_up(now, request);
    }

    fn next_event(&mut self, deadline: SimTime) -> Option<(SimTime, WorkerEvent)> {
        let event = self.fleet.next_event(deadline)?;
        self.events.push(event);
        Some(event)
    }

    fn take_kv_events(&mut self, until: SimTime, sink: &mut dyn FnMut(WorkerId, SimTime, KvEvent)) {
        self.fleet.take_kv_events(until, sink);
    }

    fn gauges(&mut self, now: SimTime) -> Vec<Gauges> {
        self.fleet.gauges(now)
    }

    fn truth(&mut self, now: SimTime) -> Option<&dyn Truth> {
        self.fleet.truth(now)
    }

    fn take_token_gaps(&mut self, now: SimTime) -> Histogram {
        self.fleet.take_token_gaps(now)
    }

    fn stop(&mut self, now: SimTime, rank: WorkerId) -> Vec<(WorkerId, Lost)> {
        let lost = self.fleet.stop(now, rank);
        self.lost.extend(lost.iter().map(|&(rank, lost)| (now, rank, lost)));
        lost
    }

    fn start(&mut self, rank: WorkerId) {
        self.fleet.start(rank);
    }

    fn set_pace(&mut self, now: SimTime, rank: WorkerId, pace: Pace) {
        self.fleet.set_pace(now, rank, pace);
    }
}

/// What a run left behind.
pub(crate) struct Run {
    /// In order of request id.
    pub(crate) records: Vec<RequestRecord>,
    /// Of the workers, in the order in which they came out.
    pub(crate) events: Vec<(SimTime, WorkerEvent)>,
    /// Requests sent to workers, in order.
    pub(crate) submitted: Vec<(SimTime, WorkerId, RequestId)>,
    /// Blocks held by requests at the end, by worker.
    pub(crate) used_blocks: Vec<u32>,
    /// Of all workers, in order of end.
    pub(crate) steps: Vec<StepRecord>,
    /// Of the only level.
    pub(crate) metrics: Metrics,
    pub(crate) digest: [u8; 32],
    /// Requests that were at workers that died, in order.
    pub(crate) lost: Vec<(SimTime, WorkerId, Lost)>,
    /// Of every worker at the end: blocks, and those that nobody holds.
    pub(crate) blocks: Vec<(u32, u32)>,
}

/// One front end with `policy`, which sees everything at once.
pub(crate) fn front_end(policy: Box<dyn Policy>, workers: u32) -> FrontEnd {
    FrontEnd::new(policy, workers, &FeedSettings::instant(), 1)
}

/// What a router is told of `workers` such engines.
pub(crate) fn cluster(config: &EngineConfig, workers: u32) -> ClusterSpec {
    let limits = WorkerLimits {
        blocks: config.num_blocks,
        max_num_seqs: config.max_num_seqs,
        max_num_batched_tokens: config.max_num_batched_tokens,
    };
    ClusterSpec::uniform(workers, config.block_size, limits)
}

/// One front end as an experiment would have it.
pub(crate) fn router(settings: &RouterSettings, config: &EngineConfig, workers: u32) -> FrontEnd {
    let policy = settings.chosen().build(&cluster(config, workers), 7);
    FrontEnd::new(policy, workers, &settings.feed(), 7)
}

/// Runs `workload` to its end, or for `window`.
pub(crate) fn play(
    config: &EngineConfig,
    workers: u32,
    workload: Box<dyn Workload>,
    front_end: FrontEnd,
    window: Option<SimDuration>,
) -> Run {
    play_behind(config, workers, workload, vec![front_end], window, false)
}

/// As [`play`], behind several front ends, and measuring why if asked to.
pub(crate) fn play_behind(
    config: &EngineConfig,
    workers: u32,
    workload: Box<dyn Workload>,
    front_ends: Vec<FrontEnd>,
    window: Option<SimDuration>,
    why: bool,
) -> Run {
    let fleet = Fleets { workers, plan: None, why };
    play_fleet(config, fleet, workload, front_ends, window)
}

/// What is to be simulated beside engines, requests and routers.
pub(crate) struct Fleets<'a> {
    pub(crate) workers: u32,
    pub(crate) plan: Option<&'a ChangePlan>,
    pub(crate) why: bool,
}

/// As [`play_behind`], with workers that come and go if there is a plan.
pub(crate) fn play_fleet(
    config: &EngineConfig,
    Fleets { workers, plan, why }: Fleets<'_>,
    workload: Box<dyn Workload>,
    front_ends: Vec<FrontEnd>,
    window: Option<SimDuration>,
) -> Run {
    let wants_kv_events = front_ends.iter().any(FrontEnd::wants_kv_events);
    let config = Arc::new(config.clone());
    let fleet = SimulatedFleet::new(workers, &config, wants_kv_events);
    let mut recorder = Recorder::new(workers, true);
    if why {
        recorder = recorder.measure_why(config.block_size);
    }
    let changes = |plan: &ChangePlan| {
        let changes = Changes::new(plan.clone(), config.num_blocks, config.max_num_seqs);
        (changes, planned(plan))
    };
    play_on(fleet, recorder, config.block_size, plan.map(changes), workload, front_ends, window)
}

/// The changes of workers that `plan` names, as a script.
pub(crate) fn planned(plan: &ChangePlan) -> Vec<(SimTime, Control)> {
    let control = |change: &ChangeSettings| Control::Worker(change.change());
    plan.changes.iter().map(|change| (SimTime::ZERO + change.at, control(change))).collect()
}

/// As [`play_behind`], on the workers of several pools.
pub(crate) fn play_pools(
    pools: &Pools,
    workload: Box<dyn Workload>,
    front_ends: Vec<FrontEnd>,
) -> Run {
    let wants_kv_events = front_ends.iter().any(FrontEnd::wants_kv_events);
    let fleet = SimulatedFleet::of_pools(pools, wants_kv_events);
    let recorder = Recorder::new(pools.sides(), true);
    play_on(fleet, recorder, pools.block_size(), None, workload, front_ends, None)
}

/// As [`play_pools`], with workers that come and go; what each choice lost is measured.
pub(crate) fn play_pools_with(
    pools: &Pools,
    plan: &ChangePlan,
    workload: Box<dyn Workload>,
    front_ends: Vec<FrontEnd>,
) -> Run {
    let wants_kv_events = front_ends.iter().any(FrontEnd::wants_kv_events);
    let fleet = SimulatedFleet::of_pools(pools, wants_kv_events);
    let recorder = Recorder::new(pools.sides(), true).measure_why(pools.block_size());
    let changes = Some((Changes::new(plan.clone(), 1, 1), planned(plan)));
    play_on(fleet, recorder, pools.block_size(), changes, workload, front_ends, None)
}

fn play_on(
    mut fleet: SimulatedFleet,
    recorder: Recorder,
    block_size: u32,
    changes: Option<(Changes, Vec<(SimTime, Control)>)>,
    workload: Box<dyn Workload>,
    front_ends: Vec<FrontEnd>,
    window: Option<SimDuration>,
) -> Run {
    fleet.count_copies();
    fleet.record_steps();
    if front_ends.iter().any(FrontEnd::wants_output_blocks) {
        fleet.tell_output_blocks();
    }
    let fleet = Watched { fleet, events: Vec::new(), submitted: Vec::new(), lost: Vec::new() };
    let schedule = Schedule {
        levels: vec![ScheduledLevel::measured(0)],
        in_bursts: false,
        warmup: SimDuration::ZERO,
        window,
        quantiles: Quantiles::Requests,
        slo: Slo::default(),
    };
    let mut simulation =
        Simulation::new(fleet, workload, front_ends, recorder, block_size).measure(schedule);
    if let Some((changes, planned)) = changes {
        simulation = simulation.changes(changes).script(planned);
    }
    simulation.advance(SimTime::MAX).expect("a run that ends");
    let Outcome { mut levels, recorder, fleet: mut watched, .. } = simulation.finish();
    let metrics = levels.remove(0);
    let digest = recorder.digest();
    let mut records = recorder.into_requests();
    records.sort_by_key(|record| record.request);
    Run {
        records,
        events: watched.events,
        submitted: watched.submitted,
        used_blocks: watched
            .fleet
            .workers()
            .iter()
            .map(|worker| worker.blocks())
            .map(|(all, free)| all - free)
            .collect(),
        steps: watched.fleet.take_steps(),
        metrics,
        digest,
        lost: watched.lost,
        blocks: watched.fleet.workers().iter().map(Worker::blocks).collect(),
    }
}
