//! Policies from outside the crate, with parameters of their own, and keys that
//! have no effect.

use super::program::EXPERIMENT;
use kv_router_sim::experiment::{Experiment, ExperimentError, LoadOptions, RunOptions, run};
use kv_router_sim::id::WorkerId;
use kv_router_sim::request::RouteRequest;
use kv_router_sim::router::{
    ClusterView, Parameters, Policy, PolicyFactory, Registration, Verdict, check_range,
};
use kv_router_sim::settings::Invalid;
use kv_router_sim::time::SimTime;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Sends a share of requests to worker 0, the others to worker 1.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
struct Shares {
    /// Share of requests that go to the first worker, 0 to 1.
    first_share: f64,
    /// How the share is rounded.
    rounding: Rounding,
    /// A weight that `kv` has, too.
    temperature: f64,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Rounding {
    Up,
    Down,
}

impl Default for Shares {
    fn default() -> Self {
        Self { first_share: 0.5, rounding: Rounding::Down, temperature: 9.0 }
    }
}

impl Parameters for Shares {
    fn check(&self) -> Result<(), Invalid> {
        check_range("first_share", self.first_share, 0.0..=1.0)
    }
}

struct ByShare {
    shares: Shares,
    sent: [f64; 2],
}

impl Policy for ByShare {
    fn route(&mut self, _: SimTime, _: &RouteRequest<'_>, _: &ClusterView<'_>) -> Verdict {
        let all = self.sent[0] + self.sent[1] + 1.0;
        let goal = match self.shares.rounding {
            Rounding::Up => (self.shares.first_share * all).ceil(),
            Rounding::Down => (self.shares.first_share * all).floor(),
        };
        let worker = u32::from(self.sent[0] >= goal);
        self.sent[worker as usize] += 1.0;
        Verdict::send(WorkerId(worker))
    }
}

/// A registration that holds state: how many policies it made.
fn by_share(made: &Arc<AtomicU32>) -> impl PolicyFactory + use<> {
    let made = Arc::clone(made);
    Registration::new("by_share", "a share of requests to the first worker", move |shares, _, _| {
        made.fetch_add(1, Ordering::Relaxed);
        let shares: &Shares = shares;
        ByShare { shares: shares.clone(), sent: [0.0; 2] }
    })
}

fn load(set: &[&str]) -> Result<Experiment, ExperimentError> {
    load_counting(set, &Arc::default())
}

fn load_counting(set: &[&str], made: &Arc<AtomicU32>) -> Result<Experiment, ExperimentError> {
    let options = LoadOptions::default().policy(by_share(made)).set_all(set.iter().copied());
    Experiment::parse(Path::new("small.toml"), EXPERIMENT, &options)
}

#[test]
fn parameters_from_outside_are_swept_beside_a_known_policy() {
    let made = Arc::default();
    let set = [
        "sweep.workload.concurrency=[4]",
        "sweep.router.policy=[\"round_robin\", \"by_share\"]",
        "sweep.router.first_share=[0.5, 1.0]",
        "measure.seeds=1",
    ];
    let experiment = load_counting(&set, &made).expect("valid");
    // Round robin does the same whatever the share.
    assert_eq!((experiment.runs.len(), experiment.simulations()), (4, 3));
    let before = made.load(Ordering::Relaxed);
    let summary = run(&experiment, RunOptions::default()).expect("it runs").summary;
    assert_eq!(made.load(Ordering::Relaxed) - before, 2, "one policy a simulation");
    let skew = |policy: &str, share: f64| {
        let is_it = |point: &&kv_router_sim::experiment::results::Point| {
            point.params["router.policy"] == policy && point.params["router.first_share"] == share
        };
        let point = summary.points.iter().find(is_it).expect("a point");
        point.metrics["inflight_skew_mean"].mean.expect("a value")
    };
    assert_eq!(skew("round_robin", 0.5), skew("round_robin", 1.0));
    assert!(skew("by_share", 1.0) > skew("by_share", 0.5) + 0.5);
}

#[test]
fn mistakes_in_such_parameters_are_named() {
    let refusals: Vec<String> = [
        "router.first_share=2.0",
        "router.first_share=half",
        "router.first_shares=0.5",
        "router.rounding=upp",
        "router.rounding=[]",
        "router.own.first_share=0.5",
        "router.policy=by_shares",
    ]
    .iter()
    .map(|change| load(&["router.policy=by_share", change]).expect_err("refused").to_string())
    .collect();
    insta::assert_snapshot!(refusals.join("\n"));
}

/// What is said of keys without effect; nothing where all is as it should be.
#[test]
fn keys_without_effect_are_noticed() {
    let policies = |names: &str| format!("sweep.router.policy=[{names}]");
    let notices = |set: &[&str]| load(set).expect("valid").notices;
    let (main, three) =
        (policies("\"round_robin\", \"kv\""), policies("\"kv\", \"kv_aware\", \"by_share\""));
    assert_eq!(notices(&[&main]), [""; 0]);
    assert_eq!(notices(&[&main, "router.overlap_weight=2.0"]), [""; 0]);
    let feed = "router.feed.delay=5ms";
    let cases: [&[&str]; 8] = [
        &[&main, "router.session_ttl=10s"],
        &[&main, "sweep.router.overlap_weight=[0.0, 1.0]"],
        &[&main, "sweep.router.feed.delay=[\"1ms\", \"1s\"]"],
        &[&three, "router.active_decode_blocks_threshold=0.9", "router.overlap_weight=2.0"],
        &[&three, "router.temperature=0.5"],
        &["router.policy=round_robin", feed, "router.overlap_weight=2.0"],
        &["router.policy=kv", feed, "router.overlap_weight=0.0"],
        &["router.policy=dynamo", "router.semantics=\"0.9\""],
    ];
    let text = cases.map(|set| format!("{}\n    {}", set.join(" "), notices(set).join("\n    ")));
    insta::assert_snapshot!(text.join("\n"));
}
