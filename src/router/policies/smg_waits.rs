use crate::id::WorkerId;
use crate::router::kv::WorkerSet;
use crate::router::parameters::{MOST, check_range, check_report_period};
use crate::router::{ClusterSpec, ClusterView, WorkerView};
use crate::settings::{Count, Invalid, count};
use crate::time::{SimDuration, SimTime};
use crate::tournament::Tournament;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How SMG's policies tell what a request would wait for at a worker.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct WaitParams {
    /// What a request is taken to cost, in prompt tokens: over HTTP no tokens are known.
    #[serde(deserialize_with = "count")]
    #[schemars(with = "Count")]
    pub mean_prefill_tokens: u32,
    /// Tokens per second at which work is taken to be done.
    pub default_throughput: f64,
    /// Seconds that KV memory in use counts for: this many times k / (1 - k).
    pub kv_pressure_weight: f64,
    /// A worker that reports so many waiting requests is left out while another one does not.
    #[serde(deserialize_with = "count")]
    #[schemars(with = "Count")]
    pub overload_waiting_requests: u32,
    /// A worker that reports this share of its KV blocks in use is left out while another
    /// one does not, 0 to 1.
    pub overload_kv_usage: f64,
    /// Time between two reports of a worker's gauges, at least 1 ms.
    pub report_period: SimDuration,
}

impl Default for WaitParams {
    /// Those of its command line.
    fn default() -> Self {
        Self {
            mean_prefill_tokens: 1_024,
            default_throughput: 2_000.0,
            kv_pressure_weight: 0.15,
            overload_waiting_requests: 8,
            overload_kv_usage: 0.8,
            report_period: SimDuration::from_secs(10),
        }
    }
}

impl WaitParams {
    pub(super) fn check(&self) -> Result<(), Invalid> {
        check_range("mean_prefill_tokens", f64::from(self.mean_prefill_tokens), 1.0..=MOST)?;
        check_range("default_throughput", self.default_throughput, 1.0..=MOST)?;
        check_range("kv_pressure_weight", self.kv_pressure_weight, 0.0..=MOST)?;
        let some = self.overload_waiting_requests > 0;
        Invalid::unless(some, "overload_waiting_requests", 0, "at least 1")?;
        check_range("overload_kv_usage", self.overload_kv_usage, 0.0..=1.0)?;
        check_report_period(self.report_period)
    }
}

/// No worker makes a request wait so many seconds: a power of two, so that waits beside
/// requests in flight keep a billionth of a second.
const MOST_WAIT_S: f64 = 1_048_576.0;

/// The most of KV memory in use that counts (`ExpectedWait::new`).
const MOST_USAGE: f64 = 0.999;

/// The expected wait at each worker, over HTTP.
///
/// It is the work of the requests that the worker reported and of those sent since, or of
/// those in flight if they are more, at a fixed rate, and a term that grows with its KV
/// memory in use. Until workers report, requests in flight count. Workers that report a long
/// queue or little free KV memory are overloaded.
#[derive(Debug)]
pub(super) struct Waits {
    params: WaitParams,
    /// Whether requests in flight come first, and the expected wait decides among equals.
    by_requests: bool,
    cluster: ClusterSpec,
    loads: Vec<Load>,
    /// Workers that cannot be chosen.
    absent: WorkerSet,
    /// Those of the others that reported too much.
    overloaded: WorkerSet,
    /// The rest, in order of id.
    free: Vec<WorkerId>,
    /// Requests in flight on those.
    overloaded_inflight: u64,
    /// The load of each worker; out of reach for those absent or overloaded.
    shortest: Tournament<f64>,
    as_of: Option<SimTime>,
}

/// What is known of one worker.
#[derive(Clone, Copy, Debug, Default)]
struct Load {
    inflight: u32,
    /// Requests that it reported, and those that it was sent since; `None` until then.
    counted: Option<u32>,
    kv_wait_s: f64,
}

impl Waits {
    pub(super) fn new(params: WaitParams, by_requests: bool, cluster: &ClusterSpec) -> Self {
        Self {
            params,
            by_requests,
            cluster: cluster.clone(),
            loads: vec![Load::default(); cluster.workers() as usize],
            absent: WorkerSet::default(),
            overloaded: WorkerSet::default(),
            free: (0..cluster.workers()).map(WorkerId).collect(),
            overloaded_inflight: 0,
            shortest: Tournament::new(cluster.workers(), 0.0, f64::INFINITY),
            as_of: None,
        }
    }

    pub(super) fn report_period(&self) -> SimDuration {
        self.params.report_period
    }

    /// The load of `worker`: its expected wait, or its requests in flight and then its wait.
    pub(super) fn load_of(&self, worker: WorkerId) -> f64 {
        let wait = self.of(worker);
        if !self.by_requests {
            return wait;
        }
        let inflight = f64::from(self.loads[worker.index()].inflight);
        inflight * MOST_WAIT_S + wait.min(MOST_WAIT_S - 1.0)
    }

    /// By load, those absent or overloaded out of reach.
    pub(super) fn shortest(&self) -> &Tournament<f64> {
        &self.shortest
    }

    /// At `worker`: seconds once workers have reported, requests before.
    pub(super) fn of(&self, worker: WorkerId) -> f64 {
        let Load { inflight, counted, kv_wait_s } = self.loads[worker.index()];
        let Some(counted) = counted else { return f64::from(inflight) };
        let tokens = f64::from(counted.max(inflight)) * f64::from(self.params.mean_prefill_tokens);
        tokens / self.params.default_throughput + kv_wait_s
    }

    pub(super) fn is_overloaded(&self, worker: WorkerId) -> bool {
        self.overloaded.contains(worker)
    }

    /// Whether all workers that are there are overloaded.
    pub(super) fn are_all_overloaded(&self) -> bool {
        self.free.is_empty()
    }

    /// The workers that are there and not overloaded, in order of id.
    pub(super) fn free(&self) -> &[WorkerId] {
        &self.free
    }

    /// The mean of requests in flight over the workers that are not overloaded.
    pub(super) fn mean_inflight(&self, view: &ClusterView<'_>) -> f64 {
        let inflight = view.total_inflight().saturating_sub(self.overloaded_inflight);
        inflight as f64 / self.free.len().max(1) as f64
    }

    /// Takes note of the last report. All workers report at the same time; one that has not
    /// yet, as it joined since, counts as one that reported nothing.
    pub(super) fn read_reports(&mut self, view: &ClusterView<'_>) {
        let reported_at = |(_, worker): (_, &WorkerView)| worker.reported.map(|last| last.at);
        let as_of = view.available().find_map(reported_at);
        if as_of.is_none() || as_of == self.as_of {
            return;
        }
        self.as_of = as_of;
        for (at, worker) in view.available() {
            let blocks = self.cluster.limits[at].blocks.max(1);
            let load = &mut self.loads[at];
            let (requests, used_blocks) = match worker.reported {
                Some(last) => (last.running + last.waiting, last.used_blocks),
                None => (0, 0),
            };
            let usage = (f64::from(used_blocks) / f64::from(blocks)).min(MOST_USAGE);
            load.counted = Some(requests);
            load.kv_wait_s = self.params.kv_pressure_weight * usage / (1.0 - usage);
            let waiting = worker.reported.map_or(0, |last| last.waiting);
            let is_overloaded = waiting >= self.params.overload_waiting_requests
                || f64::from(used_blocks) >= self.params.overload_kv_usage * f64::from(blocks);
            self.mark(WorkerId::at(at), is_overloaded);
            self.note(WorkerId::at(at));
        }
    }

    /// `worker` was sent a request, which counts beside its report if it was chosen by wait:
    /// where all are overloaded the policy is not asked.
    pub(super) fn sent(&mut self, worker: WorkerId) {
        let is_by_wait = !self.are_all_overloaded();
        let load = &mut self.loads[worker.index()];
        load.inflight += 1;
        load.counted = load.counted.map(|counted| counted + u32::from(is_by_wait));
        self.overloaded_inflight += u64::from(self.overloaded.contains(worker));
        self.note(worker);
    }

    /// A request has ended on `worker`: none of those before, if it has come back since.
    pub(super) fn ended(&mut self, worker: WorkerId) {
        let load = &mut self.loads[worker.index()];
        let had = load.inflight;
        load.inflight = had.saturating_sub(1);
        if self.overloaded.contains(worker) {
            self.overloaded_inflight -= u64::from(had.min(1));
        }
        self.note(worker);
    }

    pub(super) fn worker_left(&mut self, worker: WorkerId) {
        self.mark(worker, false);
        self.loads[worker.index()] = Load::default();
        self.set_absent(worker, true);
    }

    pub(super) fn worker_joined(&mut self, worker: WorkerId) {
        self.loads[worker.index()].counted = self.as_of.map(|_| 0);
        self.set_absent(worker, false);
    }

    /// `worker` is there and cannot be chosen from now on, or can be again: not overloaded, until
    /// it reports that.
    pub(super) fn leave_out(&mut self, worker: WorkerId, is_left_out: bool) {
        self.mark(worker, false);
        if self.as_of.is_some() {
            // What it reports while it is left out is not read.
            self.loads[worker.index()].counted.get_or_insert(0);
        }
        self.set_absent(worker, is_left_out);
    }

    fn set_absent(&mut self, worker: WorkerId, is_absent: bool) {
        if is_absent {
            self.absent.insert(worker);
        } else {
            self.absent.remove(worker);
        }
        self.place(worker);
        self.note(worker);
    }

    /// `worker` is overloaded from now on, or not.
    fn mark(&mut self, worker: WorkerId, is_overloaded: bool) {
        let inflight = u64::from(self.loads[worker.index()].inflight);
        match (self.overloaded.contains(worker), is_overloaded) {
            (false, true) => {
                self.overloaded.insert(worker);
                self.overloaded_inflight += inflight;
            }
            (true, false) => {
                self.overloaded.remove(worker);
                self.overloaded_inflight -= inflight;
            }
            _ => return,
        }
        self.place(worker);
    }

    /// To be called whenever `worker` comes into question or no more.
    fn place(&mut self, worker: WorkerId) {
        let is_free = !self.absent.contains(worker) && !self.overloaded.contains(worker);
        match (self.free.binary_search(&worker), is_free) {
            (Ok(at), false) => drop(self.free.remove(at)),
            (Err(at), true) => self.free.insert(at, worker),
            _ => {}
        }
    }

    /// To be called whenever `worker` comes or goes, or what is known of it has changed.
    fn note(&mut self, worker: WorkerId) {
        let is_out = self.absent.contains(worker) || self.overloaded.contains(worker);
        let load = if is_out { f64::INFINITY } else { self.load_of(worker) };
        self.shortest.set(worker.index(), load);
    }
}
