//! `[[cluster.change]]`, `[cluster.failover]` and `[cluster.planner]`.

use crate::engine::Pace;
use crate::fleet::pools::Numbering;
use crate::settings::{Count, Invalid, NOTHING, count, count_option, duration_text};
use crate::time::SimDuration;
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

/// The most workers of a fleet (assumed: far above any fleet behind one router).
pub const MOST_WORKERS: u32 = 100_000;

/// One entry of `[[cluster.change]]`: what happens to a worker, and when.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeSettings {
    /// When, counted from the start of the simulation.
    pub at: SimDuration,
    /// To which worker; a new one has the next number.
    #[serde(deserialize_with = "count")]
    #[schemars(with = "Count")]
    pub worker: u32,
    /// What.
    pub what: ChangeKind,
    /// (crash) Time until something starts it again; it loads after that.
    /// Default: nothing does.
    pub restart_after: Option<SimDuration>,
    /// (drain) Time after which requests that still run are dropped. Default: as
    /// long as they take.
    pub grace: Option<SimDuration>,
    /// (slow) Times that a step takes as long on the GPU.
    pub factor: Option<f64>,
    /// (slow) For how long. Default: until the end, or until it dies.
    pub lasts: Option<SimDuration>,
}

/// What happens to a worker, without its time.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct WorkerChange {
    /// The worker.
    pub worker: u32,
    /// What.
    pub what: ChangeKind,
    /// (crash) Time until something starts it again; nothing does if not given.
    pub restart_after: Option<SimDuration>,
    /// (drain) Time after which requests that still run are dropped; as long as they
    /// take if not given.
    pub grace: Option<SimDuration>,
    /// (slow) Times that a step takes as long on the GPU.
    pub factor: Option<f64>,
    /// (slow) For how long; until the end, or until it dies, if not given.
    pub lasts: Option<SimDuration>,
}

impl ChangeSettings {
    /// Without its time.
    pub fn change(&self) -> WorkerChange {
        let Self { worker, what, restart_after, grace, factor, lasts, .. } = *self;
        WorkerChange { worker, what, restart_after, grace, factor, lasts }
    }
}

impl WorkerChange {
    /// `what` happens to `worker`, and nothing more is said of it.
    pub fn new(worker: u32, what: ChangeKind) -> Self {
        Self { worker, what, restart_after: None, grace: None, factor: None, lasts: None }
    }

    /// A worker dies with its requests and its cache, and does not start again.
    pub fn crash(worker: u32) -> Self {
        Self::new(worker, ChangeKind::Crash)
    }

    /// A worker takes no new requests, finishes those it has, and stops.
    pub fn drain(worker: u32) -> Self {
        Self::new(worker, ChangeKind::Drain)
    }

    /// A worker that is down, or a new one, begins to load.
    pub fn start(worker: u32) -> Self {
        Self::new(worker, ChangeKind::Start)
    }

    /// Each step of a worker takes `factor` times as long on its GPU.
    pub fn slow(worker: u32, factor: f64) -> Self {
        Self { factor: Some(factor), ..Self::new(worker, ChangeKind::Slow) }
    }

    /// At `at`.
    #[cfg_attr(not(internals), doc(hidden))]
    pub fn at(self, at: SimDuration) -> ChangeSettings {
        let Self { worker, what, restart_after, grace, factor, lasts } = self;
        ChangeSettings { at, worker, what, restart_after, grace, factor, lasts }
    }
}

/// What happens to a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// It dies, with its requests and its cache.
    Crash,
    /// It takes no new requests, finishes those it has, and stops.
    Drain,
    /// A worker that is down, or a new one, begins to load.
    Start,
    /// Its GPU runs at another pace.
    Slow,
}

impl fmt::Display for ChangeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl ChangeKind {
    fn name(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::Drain => "drain",
            Self::Start => "start",
            Self::Slow => "slow",
        }
    }
}

/// `[cluster.failover]`: when routers learn of changes, and what becomes of
/// requests whose worker is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FailoverSettings {
    /// Time until a front end sees the connections to a dead worker break.
    /// Default 10 ms (assumed: a process that dies on a machine that lives).
    pub notice_delay: SimDuration,
    /// Time until discovery takes a dead worker off the list. Default 10 s (assumed;
    /// Dynamo's workers hold a lease that expires unless it is renewed).
    pub lease: SimDuration,
    /// Time until routers hear of a worker that joins, or that leaves in order.
    /// Default 10 ms (assumed).
    pub discovery_delay: SimDuration,
    /// Whether a front end stops choosing a worker at its first broken connection,
    /// as Dynamo's does (`report_instance_down`), or only when the lease is over.
    /// Default true.
    pub inhibit: bool,
    /// How often a request may go on at another worker, with the tokens it has:
    /// Dynamo's `--migration-limit`. Default 0: it fails.
    #[serde(deserialize_with = "count")]
    #[schemars(with = "Count")]
    pub migrations: u32,
    /// How often a client sends a failed request again. Default 0: it moves on.
    #[serde(deserialize_with = "count")]
    #[schemars(with = "Count")]
    pub retries: u32,
    /// How long it waits before that. Default 1 s (assumed).
    pub retry_pause: SimDuration,
}

impl Default for FailoverSettings {
    fn default() -> Self {
        Self {
            notice_delay: SimDuration::from_millis(10),
            lease: SimDuration::from_secs(10),
            discovery_delay: SimDuration::from_millis(10),
            inhibit: true,
            migrations: 0,
            retries: 0,
            retry_pause: SimDuration::from_secs(1),
        }
    }
}

/// `[cluster.planner]`: workers are added and removed on load. The rules and the
/// defaults are those of Dynamo's load-based planner: one worker at a time, none
/// while one loads or drains, none removed for some time after one was added.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PlannerSettings {
    /// Whose workers it adds and removes, where there are several pools; the others
    /// stay as they are.
    pub pool: Option<String>,
    /// Fewest workers, at least 1.
    #[serde(deserialize_with = "count")]
    #[schemars(with = "Count")]
    pub min_workers: u32,
    /// Most workers.
    #[serde(deserialize_with = "count")]
    #[schemars(with = "Count")]
    pub max_workers: u32,
    /// What it looks at. Default `"kv_blocks"`.
    #[serde(default)]
    pub load: PlannerLoad,
    /// Time between two looks; each sees the mean of the time since the one before.
    /// Default 30 s.
    #[serde(default = "interval")]
    pub interval: SimDuration,
    /// Mean load of a worker above which one is added. Default 0.9.
    #[serde(default = "scale_up_above")]
    pub scale_up_above: f64,
    /// Mean load of a worker below which one is removed. Default 0.5.
    #[serde(default = "scale_down_below")]
    pub scale_down_below: f64,
    /// Looks after an addition at which none is removed. Default 3.
    #[serde(default, deserialize_with = "count_option")]
    #[schemars(with = "Option<Count>")]
    pub grace_intervals: Option<u32>,
}

/// The shortest time between two looks of a planner (assumed: far below any use).
const LEAST_INTERVAL: SimDuration = SimDuration::from_millis(1);

fn interval() -> SimDuration {
    SimDuration::from_secs(30)
}

fn scale_up_above() -> f64 {
    0.9
}

fn scale_down_below() -> f64 {
    0.5
}

/// What a planner calls load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PlannerLoad {
    /// Blocks held by requests, over the pool.
    #[default]
    KvBlocks,
    /// Requests at the worker, waiting ones included, over `max_num_seqs`.
    Requests,
}

impl PlannerSettings {
    /// For a pool of so many `workers`, `shown` as a message names them.
    fn validate(&self, workers: u32, shown: &str) -> Result<(), Invalid> {
        let Self { min_workers, max_workers, interval, .. } = *self;
        let range = format!("from 1 to {shown}, {workers}");
        Invalid::unless((1..=workers).contains(&min_workers), "min_workers", min_workers, &range)?;
        let range = format!("from {shown}, {workers}, to {}", MOST_WORKERS);
        let fits = (workers..=MOST_WORKERS).contains(&max_workers);
        Invalid::unless(fits, "max_workers", max_workers, &range)?;
        let shown = duration_text(interval);
        let allowed = "at least 1ms: a planner looks at every worker";
        Invalid::unless(interval >= LEAST_INTERVAL, "interval", shown, allowed)?;
        let (up, down) = (self.scale_up_above, self.scale_down_below);
        Invalid::unless_at_least("scale_down_below", down, 0.0)?;
        let allowed = format!("a finite number above scale_down_below, {down}");
        Invalid::unless(up.is_finite() && up > down, "scale_up_above", up, &allowed)
    }
}

/// Time that a worker takes from its start until it serves, unless given (assumed:
/// weights, graphs and warm-up of a model of 70 billion parameters).
pub const LOAD_TIME: SimDuration = SimDuration::from_secs(60);

/// The workers of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crew {
    /// What the pool is called.
    pub pool: String,
    /// Workers at the start.
    pub workers: u32,
    /// Numbers that are kept, behind theirs, for workers that start later.
    pub spare: u32,
    /// Ranks of each worker. They have numbers of their own everywhere else; changes count
    /// workers, since the ranks of one come and go together.
    pub ranks: u32,
}

impl Crew {
    /// The workers of the only pool.
    pub fn only(workers: u32) -> Self {
        Self { pool: "workers".to_owned(), workers, spare: 0, ranks: 1 }
    }

    const fn slots(&self) -> u32 {
        self.workers.saturating_add(self.spare)
    }
}

/// Everything that happens to a fleet's workers.
#[derive(Clone, Debug, PartialEq)]
pub struct ChangePlan {
    /// The workers of each pool, in order of their numbers; at least one pool. Where there
    /// is one, changes may add workers behind them.
    pub crews: Vec<Crew>,
    /// Time that a worker takes from its start until it serves.
    pub load_time: SimDuration,
    /// In the order written.
    pub changes: Vec<ChangeSettings>,
    /// What routers and clients make of it.
    pub failover: FailoverSettings,
    /// What adds and removes workers, if anything does.
    pub planner: Option<PlannerSettings>,
}

/// A worker in the course of the changes.
#[derive(Clone, Copy, PartialEq)]
enum State {
    Up,
    Draining,
    Down,
    /// Comes up then.
    Loading(SimDuration),
}

impl ChangePlan {
    /// A plan for `workers` workers in which nothing happens.
    pub fn of_nothing(workers: u32) -> Self {
        Self {
            crews: vec![Crew::only(workers)],
            load_time: LOAD_TIME,
            changes: Vec::new(),
            failover: FailoverSettings::default(),
            planner: None,
        }
    }

    /// True if all workers are there from the start, and nothing ever changes.
    pub fn is_empty(&self) -> bool {
        let has_spare = self.crews.iter().any(|crew| crew.spare > 0);
        self.changes.is_empty() && self.planner.is_none() && !has_spare
    }

    /// Workers that there can ever be: ids are below.
    pub fn slots(&self) -> u32 {
        self.numbering().slots()
    }

    /// The numbers of the workers of each pool, those that may start later included.
    fn numbering(&self) -> Numbering {
        let [only] = self.crews.as_slice() else {
            return Numbering::of(self.crews.iter().map(Crew::slots));
        };
        let changed = self.changes.iter().map(|change| change.worker.saturating_add(1));
        let planned = self.planner.as_ref().map(|planner| planner.max_workers);
        Numbering::of([changed.chain(planned).max().unwrap_or(0).max(only.slots())])
    }

    /// Whether `worker` serves from the start.
    pub(super) fn is_up_first(&self, worker: u32) -> bool {
        let numbering = self.numbering();
        let at = numbering.pool_of(worker);
        let crew = self.crews.get(at);
        crew.is_some_and(|crew| worker - numbering.ids(at).start < crew.workers)
    }

    /// The numbers of the workers that the planner looks after.
    pub(super) fn planned(&self) -> Range<u32> {
        let named = self.planner.as_ref().and_then(|planner| planner.pool.as_deref());
        let crew = self.crews.iter().position(|crew| Some(crew.pool.as_str()) == named);
        self.numbering().ids(crew.unwrap_or(0))
    }

    /// How many ranks each worker has, in order of number.
    pub(super) fn ranks(&self) -> Vec<u32> {
        let numbering = self.numbering();
        let ranks = self
            .crews
            .iter()
            .enumerate()
            .flat_map(|(at, crew)| std::iter::repeat_n(crew.ranks, numbering.ids(at).len()));
        ranks.collect()
    }

    /// The pool that the planner looks after.
    ///
    /// # Errors
    /// If it does not say, and there are several, or there is none of that name.
    fn crew_of(&self, planner: &PlannerSettings) -> Result<&Crew, Invalid> {
        let names: Vec<String> = self.crews.iter().map(|crew| format!("{:?}", crew.pool)).collect();
        let allowed = format!("the pool whose workers it adds and removes: {}", names.join(", "));
        match (&planner.pool, self.crews.as_slice()) {
            (None, [only]) => Ok(only),
            (None, _) => Err(Invalid::new("pool", NOTHING, allowed)),
            (Some(name), [_]) => {
                let allowed = "left out: the fleet is one pool";
                Err(Invalid::new("pool", format!("{name:?}"), allowed))
            }
            (Some(name), crews) => crews
                .iter()
                .find(|crew| crew.pool == *name)
                .ok_or_else(|| Invalid::new("pool", format!("{name:?}"), allowed)),
        }
    }

    /// Checks everything; keys in the error are relative to `[cluster]`.
    ///
    /// # Errors
    /// The first setting that will not do.
    pub fn validate(&self) -> Result<(), Invalid> {
        if let Some(planner) = &self.planner {
            let within = |invalid: Invalid| invalid.within("planner");
            let Crew { pool, workers, spare, .. } = self.crew_of(planner).map_err(within)?;
            let (shown, room) = match self.crews.len() {
                1 => ("cluster.workers".to_owned(), None),
                _ => (format!("the workers of pool {pool:?}"), Some(workers + spare)),
            };
            planner.validate(*workers, &shown).map_err(within)?;
            if let Some(room) = room.filter(|&room| planner.max_workers > room) {
                let allowed = format!(
                    "at most the workers of pool {pool:?} with its spare ones, {room}; its key \
                     spare makes room for more"
                );
                let most = planner.max_workers;
                return Err(within(Invalid::new("max_workers", most, allowed)));
            }
        }
        for (index, change) in self.changes.iter().enumerate() {
            let within = |invalid: Invalid| invalid.within(&format!("change[{index}]"));
            self.validate_change(change).map_err(within)?;
        }
        self.validate_course()
    }

    /// Checks one change by itself.
    fn validate_change(&self, change: &ChangeSettings) -> Result<(), Invalid> {
        let what = change.what;
        let belongs = |key: &str, given: bool, to: ChangeKind| {
            let allowed = format!("left out unless what = {:?}", to.name());
            Invalid::unless(!given || what == to, key, "given", &allowed)
        };
        belongs("restart_after", change.restart_after.is_some(), ChangeKind::Crash)?;
        belongs("grace", change.grace.is_some(), ChangeKind::Drain)?;
        belongs("factor", change.factor.is_some(), ChangeKind::Slow)?;
        belongs("lasts", change.lasts.is_some(), ChangeKind::Slow)?;
        if what == ChangeKind::Slow {
            let nothing = "given with what = \"slow\": times that a step takes as long";
            let factor = change.factor.ok_or_else(|| Invalid::new("factor", "nothing", nothing))?;
            Pace::new(factor)?;
            let lasts = change.lasts.is_none_or(|lasts| !lasts.is_zero());
            Invalid::unless(lasts, "lasts", "\"0s\"", "longer than 0s")?;
        }
        if self.planner.is_some() {
            let allowed = "\"crash\" or \"slow\" where a planner starts and drains workers";
            let is_left = matches!(what, ChangeKind::Crash | ChangeKind::Slow);
            Invalid::unless(is_left, "what", format!("{:?}", what.name()), allowed)?;
        }
        let slots = self.slots();
        if self.crews.len() > 1 {
            let allowed = format!(
                "from 0 to {}: the workers of all pools (the key spare of a pool makes room for \
                 one that starts later)",
                slots - 1
            );
            return Invalid::unless(change.worker < slots, "worker", change.worker, &allowed);
        }
        let next = self.crews[0].slots() + self.new_workers();
        let allowed = match what {
            ChangeKind::Start => format!("from 0 to {next}: the next new worker is {next}"),
            _ => format!(
                "from 0 to {}: the workers of the fleet (what = \"start\" adds one)",
                next - 1
            ),
        };
        Invalid::unless(change.worker < next, "worker", change.worker, &allowed)
    }

    /// Workers that start beyond those of the only pool, as far as their numbers follow.
    fn new_workers(&self) -> u32 {
        let first = self.crews[0].slots();
        let starts = self.changes.iter().filter(|change| change.what == ChangeKind::Start);
        let mut ids: Vec<u32> =
            starts.map(|change| change.worker).filter(|&id| id >= first).collect();
        ids.sort_unstable();
        ids.dedup();
        let follow = (first..).zip(&ids).take_while(|(next, id)| next == *id);
        u32::try_from(follow.count()).expect("worker ids are u32")
    }

    /// Checks that every change finds its worker in a state for it.
    fn validate_course(&self) -> Result<(), Invalid> {
        let mut order: Vec<usize> = (0..self.changes.len()).collect();
        order.sort_by_key(|&index| self.changes[index].at);
        let mut states: BTreeMap<u32, State> = BTreeMap::new();
        let mut slow_until: BTreeMap<u32, SimDuration> = BTreeMap::new();
        for index in order {
            let change = &self.changes[index];
            let key = format!("change[{index}].at");
            let refuse = |is: &str| {
                let at = duration_text(change.at);
                let ChangeSettings { worker, what, .. } = *change;
                let when = format!("a time at which worker {worker} is not {is}");
                Err(Invalid::new(key.clone(), at, format!("{when}, for {:?}", what.name())))
            };
            let first = if self.is_up_first(change.worker) { State::Up } else { State::Down };
            let state = states.entry(change.worker).or_insert(first);
            if let State::Loading(until) = *state
                && until <= change.at
            {
                *state = State::Up;
            }
            let slow = slow_until.get(&change.worker).is_some_and(|&until| change.at < until);
            *state = match (change.what, *state) {
                (ChangeKind::Start, State::Up) => return refuse("up"),
                (_, State::Loading(_)) => return refuse("loading"),
                (ChangeKind::Start, State::Down | State::Draining) => {
                    State::Loading(change.at + self.load_time)
                }
                (_, State::Down) => return refuse("down"),
                (ChangeKind::Drain, State::Draining) => return refuse("draining"),
                (ChangeKind::Drain, State::Up) => State::Draining,
                (ChangeKind::Slow, _) if slow => return refuse("slow"),
                (ChangeKind::Slow, state) => {
                    let lasts = change.lasts.unwrap_or(SimDuration::from_ps(u64::MAX / 4));
                    slow_until.insert(change.worker, change.at + lasts);
                    state
                }
                (ChangeKind::Crash, _) => {
                    slow_until.remove(&change.worker);
                    let back = change.restart_after.map(|after| change.at + after + self.load_time);
                    back.map_or(State::Down, State::Loading)
                }
            };
        }
        Ok(())
    }
}
