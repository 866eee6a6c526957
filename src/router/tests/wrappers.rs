//! Policies around policies pass everything on.

use crate::event::{KvEvent, WorkerEvent, WorkerEventKind};
use crate::id::{BlockId, WorkerId};
use crate::request::{BlockRun, RouteRequest};
use crate::router::by_cost::ByCost;
use crate::router::decider::Decider;
use crate::router::disaggregated::Disaggregated;
use crate::router::kv::KvParams;
use crate::router::policies::kv::KvSettings;
use crate::router::queued::{QueueOrder, Queued};
use crate::router::shadow::ShadowPolicy;
use crate::router::testing::{Texts, cluster, life};
use crate::router::{ClusterView, CostParts, Policy, Release, Sides, Verdict, WorkerView, Workers};
use crate::settings::Invalid;
use crate::time::{SimDuration, SimTime};
use crate::truth::WorkerTruth;
use std::sync::{Arc, Mutex};

/// Notes every call, with the worker or number that it is about.
#[derive(Clone, Debug, Default)]
struct Ear(Arc<Mutex<Vec<String>>>);

impl Ear {
    fn note(&self, call: &str, about: u32) {
        self.0.lock().unwrap().push(format!("{call} {about}"));
    }

    /// What was heard since it was asked last.
    fn heard(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

// A method that is new in the trait has to be noted here, and called below.
#[deny(clippy::missing_trait_methods)]
impl Policy for Ear {
    fn route(&mut self, _: SimTime, _: &RouteRequest<'_>, _: &ClusterView<'_>) -> Verdict {
        self.note("route", 0);
        Verdict::send(WorkerId(0))
    }
    fn observe(&mut self, _: SimTime, event: &WorkerEvent) {
        self.note("observe", event.worker.0);
    }
    fn wants_kv_events(&self) -> bool {
        self.note("wants_kv_events", 0);
        true
    }
    fn observe_kv(&mut self, worker: WorkerId, _: &KvEvent) {
        self.note("observe_kv", worker.0);
    }
    fn observe_kv_published(&mut self, _: SimTime, worker: WorkerId, _: &KvEvent) {
        self.note("observe_kv_published", worker.0);
    }
    fn hears_kv_on_demand(&self) -> bool {
        self.note("hears_kv_on_demand", 0);
        true
    }
    fn report_period(&self) -> Option<SimDuration> {
        self.note("report_period", 0);
        Some(SimDuration::from_secs(7))
    }
    fn wants_output_blocks(&self) -> bool {
        self.note("wants_output_blocks", 0);
        true
    }
    fn wants_truth(&self) -> bool {
        self.note("wants_truth", 0);
        true
    }
    fn observe_truth(&mut self, workers: Vec<WorkerTruth>) {
        self.note("observe_truth", workers.len().try_into().unwrap());
    }
    fn release(&mut self, _: SimTime, _: &ClusterView<'_>) -> Option<Release> {
        self.note("release", 0);
        None
    }
    fn wake_at(&self) -> Option<SimTime> {
        self.note("wake_at", 0);
        Some(SimTime::from_ps(7))
    }
    fn overlap_blocks(&self, _: &RouteRequest<'_>) -> Option<Vec<u32>> {
        self.note("overlap_blocks", 0);
        Some(vec![7, 7])
    }
    fn observe_peer(&mut self, _: &RouteRequest<'_>, worker: WorkerId, _: u32) {
        self.note("observe_peer", worker.0);
    }
    fn worker_left(&mut self, worker: WorkerId) {
        self.note("worker_left", worker.0);
    }
    fn worker_joined(&mut self, worker: WorkerId) {
        self.note("worker_joined", worker.0);
    }
    fn leave_out(&mut self, worker: WorkerId, _: bool) {
        self.note("leave_out", worker.0);
    }
    fn set_parameter(&mut self, _: &str, _: f64) -> Result<(), Invalid> {
        self.note("set_parameter", 0);
        Ok(())
    }
    fn failure(&self) -> Option<String> {
        self.note("failure", 0);
        None
    }
    fn notes(&self) -> Vec<(&'static str, f64)> {
        self.note("notes", 0);
        Vec::new()
    }
    fn explain(&self, _: &RouteRequest<'_>, _: &ClusterView<'_>) -> Vec<CostParts> {
        self.note("explain", 0);
        vec![CostParts { worker: WorkerId(0), cost: 7.0, parts: Vec::new() }]
    }
}

impl Decider for Ear {
    type Asked = ();
    fn look_up(&mut self, _: SimTime, _: &RouteRequest<'_>) {}
    fn look_again(&mut self, _: SimTime, (): &mut ()) {}
    fn least_uncached_tokens(&self, (): &()) -> u64 {
        0
    }
    fn choose(&mut self, (): &()) -> Option<WorkerId> {
        Some(WorkerId(0))
    }
    fn costs(&self, (): &()) -> Vec<f64> {
        vec![0.0, 0.0]
    }
    fn book(&mut self, _: SimTime, (): (), worker: WorkerId) {
        self.note("book", worker.0);
    }
    fn least_prefill_tokens(&self) -> u64 {
        0
    }
    fn all_have_more_prefill_tokens(&self, _: &[f64]) -> bool {
        false
    }
    fn set_params(&mut self, _: &KvParams) -> Result<(), String> {
        self.note("set_params", 0);
        Ok(())
    }
}

/// Calls a method of `policy`, about a worker where it is about one.
type Call<'a> = &'a dyn Fn(&mut dyn Policy);

/// What each of `ears` hears of every method, in front of two workers or, in two
/// pools, of two and two.
fn heard(policy: &mut dyn Policy, ears: [&Ear; 2], workers: Workers, worker: u32) -> Vec<String> {
    let mut texts = Texts::default();
    let text = texts.add(None);
    let request = texts.request(0, text, 100, 16);
    let request = RouteRequest { prefilled: worker > 1, ..request.route_view(16) };
    let (now, at, view) = (SimTime::ZERO, WorkerId(worker), workers.view());
    let run = BlockRun { first: BlockId(1), len: 1 };
    let truth = vec![WorkerTruth::default(); view.workers.len()];
    let calls: [(&str, Call<'_>); 21] = [
        ("route", &|policy| _ = policy.route(now, &request, &view)),
        ("observe", &|policy| policy.observe(now, &life(worker, 0, WorkerEventKind::FirstToken))),
        ("wants_kv_events", &|policy| assert!(policy.wants_kv_events())),
        ("observe_kv", &|policy| policy.observe_kv(at, &KvEvent::Stored { parent: None, run })),
        ("observe_kv_published", &|policy| {
            policy.observe_kv_published(now, at, &KvEvent::Removed { run });
        }),
        ("hears_kv_on_demand", &|policy| _ = policy.hears_kv_on_demand()),
        ("report_period", &|policy| {
            assert_eq!(policy.report_period(), Some(SimDuration::from_secs(7)));
        }),
        ("wants_output_blocks", &|policy| assert!(policy.wants_output_blocks())),
        ("wants_truth", &|policy| assert!(policy.wants_truth())),
        ("observe_truth", &|policy| policy.observe_truth(truth.clone())),
        ("release", &|policy| assert_eq!(policy.release(now, &view), None)),
        ("wake_at", &|policy| assert_eq!(policy.wake_at(), Some(SimTime::from_ps(7)))),
        ("overlap_blocks", &|policy| {
            let overlaps = policy.overlap_blocks(&request).expect("an index");
            assert_eq!(overlaps, vec![7; view.workers.len()]);
        }),
        ("observe_peer", &|policy| policy.observe_peer(&request, at, 3)),
        ("worker_left", &|policy| policy.worker_left(at)),
        ("worker_joined", &|policy| policy.worker_joined(at)),
        ("leave_out", &|policy| policy.leave_out(at, true)),
        ("set_parameter", &|policy| policy.set_parameter("temperature", 0.5).unwrap()),
        ("failure", &|policy| assert_eq!(policy.failure(), None)),
        ("notes", &|policy| _ = policy.notes()),
        ("explain", &|policy| assert_eq!(policy.explain(&request, &view)[0].cost, 7.0)),
    ];
    let of = |(name, call): (&str, Call<'_>)| {
        call(policy);
        let [one, other] = ears.map(|ear| ear.heard().join(", "));
        format!("{name}: {one} | {other}")
    };
    calls.into_iter().map(of).collect()
}

fn workers(number: usize) -> Workers {
    Workers::new(vec![WorkerView::default(); number])
}

#[test]
fn every_wrapper_passes_every_call_on() {
    let (one, other) = (Ear::default(), Ear::default());
    let ears = || [&one, &other];
    let queued = &mut Queued::new(one.clone(), 1.0, QueueOrder::Fcfs);
    let by_cost = &mut ByCost::new(KvSettings::default(), one.clone(), &cluster(2, 16));
    let shadow = &mut ShadowPolicy::new(one.clone(), other.clone());
    let pools = || {
        Disaggregated::new(
            [Box::new(one.clone()), Box::new(other.clone())],
            &[cluster(2, 16), cluster(2, 16)],
        )
    };
    let two_pools = || Workers::of(Sides::two(2, 2));
    let lists = [
        ("queued", heard(queued, ears(), workers(2), 1)),
        ("by cost", heard(by_cost, ears(), workers(2), 1)),
        ("shadow", heard(shadow, ears(), workers(2), 1)),
        ("pools, a prefill worker", heard(&mut pools(), ears(), two_pools(), 1)),
        ("pools, a decode worker", heard(&mut pools(), ears(), two_pools(), 3)),
    ];
    // A queue answers for what it holds, and a comparison counts by itself.
    for (name, heard) in &lists {
        let own = heard.iter().filter(|line| line.ends_with(": |") || line.ends_with(":  | "));
        let own: Vec<&str> = own.filter_map(|line| line.split(':').next()).collect();
        let expected: &[&str] = match *name {
            "queued" | "by cost" => &["release"],
            "shadow" => &["notes"],
            "pools, a prefill worker" | "pools, a decode worker" => &["hears_kv_on_demand"],
            _ => &[],
        };
        assert_eq!(own, expected, "{name}");
    }
    let text: Vec<String> =
        lists.map(|(name, heard)| format!("{name}\n    {}", heard.join("\n    "))).to_vec();
    insta::assert_snapshot!(text.join("\n"));
}
