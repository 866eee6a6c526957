//! Several front ends, late and lossy events, restarts: with nothing wrong,
//! nothing changes; and whatever goes wrong, every request ends.

use super::program::CROWDED;
use super::rig::{any_draws, any_engine, arrivals, cases};
use super::script::{Script, cluster, play_behind};
use kv_router_sim::engine::config::EngineConfig;
use kv_router_sim::event::{KvEvent, WorkerEvent};
use kv_router_sim::experiment::{Experiment, LoadOptions, Watch, simulate};
use kv_router_sim::id::WorkerId;
use kv_router_sim::request::RouteRequest;
use kv_router_sim::router::feed::FeedSettings;
use kv_router_sim::router::kv::{KvParams, KvPolicy, Semantics};
use kv_router_sim::router::{ClusterView, FrontEnd, Policy, Verdict};
use kv_router_sim::time::{SimDuration, SimTime};
use proptest::prelude::*;
use std::path::Path;

/// The KV policy's costs, without its draws: the lowest cost, then the fewest
/// requests in flight, then the lowest id.
struct Drawless(KvPolicy);

impl Policy for Drawless {
    fn route(
        &mut self,
        now: SimTime,
        request: &RouteRequest<'_>,
        view: &ClusterView<'_>,
    ) -> Verdict {
        let key = |worker: usize, cost: f64| (cost, view.workers[worker].inflight, worker);
        let costs = self.0.explain(request, view);
        let keys = costs.iter().map(|parts| key(parts.worker.index(), parts.cost));
        let least = keys.min_by(|a, b| a.partial_cmp(b).expect("finite costs"));
        let worker = costs[least.expect("a worker").2].worker;
        let overlaps = self.0.overlap_blocks(request).expect("it keeps an index");
        self.0.observe_peer(request, worker, overlaps[worker.index()]);
        let _ = now;
        Verdict::send(worker)
    }
    fn observe(&mut self, now: SimTime, event: &WorkerEvent) {
        self.0.observe(now, event);
    }
    fn wants_kv_events(&self) -> bool {
        true
    }
    fn observe_kv(&mut self, worker: WorkerId, event: &KvEvent) {
        self.0.observe_kv(worker, event);
    }
    fn overlap_blocks(&self, request: &RouteRequest<'_>) -> Option<Vec<u32>> {
        self.0.overlap_blocks(request)
    }
    fn observe_peer(&mut self, request: &RouteRequest<'_>, worker: WorkerId, blocks: u32) {
        self.0.observe_peer(request, worker, blocks);
    }
}

fn drawless(config: &EngineConfig, workers: u32) -> FrontEnd {
    let policy =
        KvPolicy::new(KvParams::with_weight(Semantics::V1_6, 1.0), &cluster(config, workers), 1);
    FrontEnd::new(Box::new(Drawless(policy)), workers, &FeedSettings::instant(), 1)
}

proptest! {
    #![proptest_config(cases(200))]

    #[test]
    fn front_ends_that_hear_at_once_are_one(
        config in any_engine(), draws in any_draws(), workers in 2u32..5, front_ends in 2usize..5,
    ) {
        let requests = arrivals(&draws, config.block_size);
        let run = |n: usize| {
            let front_end = || drawless(&config, workers).hear_peers(SimDuration::ZERO);
            let front_ends = (0..n).map(|_| front_end()).collect();
            play_behind(&config, workers, Script::new(requests.clone()), front_ends, None, false)
        };
        let (one, several) = (run(1), run(front_ends));
        prop_assert_eq!(&one.submitted, &several.submitted);
        prop_assert_eq!(one.digest, several.digest);
    }
}

/// The digest of the experiment with some keys set.
fn digest(keys: &[&str]) -> [u8; 32] {
    let options = LoadOptions::default().set_all(keys.iter().copied());
    let text = format!("name = \"wrong\"\n{CROWDED}[router]\npolicy = \"kv\"\n");
    let experiment = Experiment::parse(Path::new("wrong.toml"), &text, &options);
    let experiment = experiment.unwrap_or_else(|error| panic!("{error}"));
    let run = &experiment.runs[0];
    let outcome = simulate(&run.settings, &run.levels, 1, Watch::default()).expect("it ends");
    outcome.digest
}

#[test]
fn faults_that_never_happen_change_no_byte() {
    let plain = digest(&[]);
    for keys in [
        &["router.sync_delay=\"0ms\""][..],
        &["router.spread=by_conversation"],
        &["router.feed.recovery_delay=\"50ms\""],
        &["router.feed.reorder_delay=\"1s\"", "router.feed.worker_delays=[\"0ms\"]"],
        &["router.restart.at=\"100s\"", "router.restart.recovery_delay=\"1s\""],
        &["measure.why=true", "measure.spike_window=\"1s\""],
    ] {
        assert_eq!(digest(keys), plain, "{keys:?}");
    }
}

#[test]
fn faults_that_happen_change_decisions_and_every_request_still_ends() {
    let plain = digest(&[]);
    for keys in [
        &["router.replicas=3"][..],
        &["router.replicas=3", "router.spread=by_conversation"],
        &["router.replicas=2", "router.sync_delay=\"500ms\""],
        &["router.feed.loss_ratio=0.3"],
        &["router.feed.loss_ratio=0.3", "router.feed.recovery_delay=\"300ms\""],
        &["router.feed.reorder_ratio=0.3", "router.feed.reorder_delay=\"2s\""],
        &["router.feed.worker_delays=[\"0ms\", \"0ms\", \"2s\"]"],
        &["router.restart.at=\"3s\""],
        &["router.restart.at=\"3s\"", "router.restart.recovery_delay=\"100ms\""],
    ] {
        let changed = digest(keys);
        assert_ne!(changed, plain, "{keys:?}");
        assert_eq!(digest(keys), changed, "{keys:?}: twice the same");
    }
}

/// The index is what it was, and only what was booked is forgotten.
#[test]
fn policies_that_remember_nothing_do_not_notice_a_restart() {
    for policy in ["random", "consistent_hash"] {
        let policy = format!("router.policy={policy}");
        let plain = digest(&[&policy, "router.hash_load_factor=1e9"]);
        let restarted = digest(&[
            &policy,
            "router.hash_load_factor=1e9",
            "router.restart.at=\"3s\"",
            "router.restart.recovery_delay=\"0ms\"",
        ]);
        // `random` goes on with the draws of a fresh policy, so it does differ.
        assert_eq!(plain == restarted, policy.contains("hash"), "{policy}");
    }
}
