use crate::id::WorkerId;
use crate::request::RouteRequest;
use crate::rng::mix;
use crate::router::factory::{Origin, PolicyFactory, Registration};
use crate::router::parameters::{MOST, Parameters, Surroundings, change, check_range};
use crate::router::{ClusterView, CostParts, Policy, Verdict, WorkerView};
use crate::settings::{Count, Invalid, count};
use crate::time::SimTime;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// See [`ConsistentHash`].
pub fn policy() -> Arc<dyn PolicyFactory> {
    let rule = "a hash ring over the beginning of the prompt, with bounded loads";
    Registration::new("consistent_hash", rule, |params: &HashParams, cluster, _| {
        ConsistentHash::new(*params, cluster.workers())
    })
    .follows(
        Origin::new("KubeAI", "its strategy PrefixHash; Mirrokni, Thorup, Zadimoghaddam 2016")
            .version("main", "2026-11")
            .without("the first 100 characters, in whose place are blocks"),
    )
    .shared()
}

/// Parameters of [`ConsistentHash`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct HashParams {
    /// Blocks at the start of a prompt that make its key, at least 1 (default:
    /// about KubeAI's 100 characters).
    #[serde(deserialize_with = "count")]
    #[schemars(with = "Count")]
    pub hash_prefix_blocks: u32,
    /// Points of each worker on the ring, 1 to 1,000,000.
    #[serde(deserialize_with = "count")]
    #[schemars(with = "Count")]
    pub hash_replication: u32,
    /// Times the mean load that a worker may carry, at least 1.
    pub hash_load_factor: f64,
}

impl Default for HashParams {
    /// KubeAI's.
    fn default() -> Self {
        Self { hash_prefix_blocks: 2, hash_replication: 256, hash_load_factor: 1.25 }
    }
}

/// Points of one worker: far above the hundreds that level its share of the keys.
const MOST_REPLICATION: f64 = 1_000_000.0;

/// Points on the rings of all front ends together: half a GiB.
const MOST_POINTS: u64 = 32 << 20;

impl Parameters for HashParams {
    const CHANGEABLE: &'static [&'static str] = &["hash_prefix_blocks", "hash_load_factor"];

    fn check(&self) -> Result<(), Invalid> {
        let blocks = self.hash_prefix_blocks;
        Invalid::unless(blocks > 0, "hash_prefix_blocks", blocks, "at least 1")?;
        let points = f64::from(self.hash_replication);
        check_range("hash_replication", points, 1.0..=MOST_REPLICATION)?;
        check_range("hash_load_factor", self.hash_load_factor, 1.0..=MOST)
    }

    fn check_in(&self, surroundings: &Surroundings) -> Result<(), Invalid> {
        let rings = u64::from(surroundings.workers) * u64::from(surroundings.front_ends);
        let most = (MOST_POINTS / rings.max(1)).max(1);
        let allowed = format!(
            "from 1 to {most}: points times workers, {}, times front ends, {}, is at most \
             {MOST_POINTS}",
            surroundings.workers, surroundings.front_ends
        );
        let fits = u64::from(self.hash_replication) <= most;
        Invalid::unless(fits, "hash_replication", self.hash_replication, &allowed)
    }
}

/// The worker after the prompt's beginning on a hash ring, or the next one
/// after it that is not overloaded.
///
/// Source: consistent hashing with bounded loads (Mirrokni, Thorup,
/// Zadimoghaddam 2016) on a prefix of the prompt, as KubeAI's `PrefixHash`
/// strategy has it; its defaults are 256 points, 125 % of the mean load and the
/// first 100 characters. A prompt shorter than a block is keyed by its conversation.
#[derive(Debug)]
pub struct ConsistentHash {
    params: HashParams,
    /// Points in order of hash.
    ring: Vec<(u64, WorkerId)>,
}

impl ConsistentHash {
    /// A ring of `workers`, the same for every seed.
    pub fn new(params: HashParams, workers: u32) -> Self {
        let points = (0..workers).flat_map(|worker| {
            let point = move |copy| mix(mix(u64::from(worker)) ^ u64::from(copy));
            (0..params.hash_replication).map(move |copy| (point(copy), WorkerId(worker)))
        });
        let mut ring: Vec<_> = points.collect();
        ring.sort_unstable();
        Self { params, ring }
    }

    fn key(&self, request: &RouteRequest<'_>) -> u64 {
        // A block id stands for all before it too.
        match request.blocks.len().min(self.params.hash_prefix_blocks).checked_sub(1) {
            Some(last) => mix(request.blocks.get(last).0),
            None => mix(!u64::from(request.conversation.0)),
        }
    }
}

impl ConsistentHash {
    /// Requests that a worker may have in flight, the one on its way included.
    fn most(&self, view: &ClusterView<'_>) -> f64 {
        // The mean counts the request on its way, as does each worker's load.
        let mean = (view.total_inflight() + 1) as f64 / view.available_count() as f64;
        (mean * self.params.hash_load_factor).ceil()
    }

    /// Workers from the key on along the ring, each as often as it has points.
    fn candidates(&self, request: &RouteRequest<'_>) -> impl Iterator<Item = WorkerId> + '_ {
        let key = self.key(request);
        let start = self.ring.partition_point(|(point, _)| *point < key);
        let (after, before) = (&self.ring[start..], &self.ring[..start]);
        after.iter().chain(before).map(|(_, worker)| *worker)
    }
}

/// A worker that is not available has none: the next on the ring takes its place.
fn room(view: &ClusterView<'_>, worker: WorkerId, most: f64) -> bool {
    let WorkerView { available, inflight, .. } = view.workers[worker.index()];
    available && f64::from(inflight + 1) <= most
}

impl Policy for ConsistentHash {
    fn route(&mut self, _: SimTime, request: &RouteRequest<'_>, view: &ClusterView<'_>) -> Verdict {
        let most = self.most(view);
        let has_room = |worker: &WorkerId| room(view, *worker, most);
        // Some worker is at or below the mean, so one is always found.
        let found = self.candidates(request).find(has_room);
        Verdict::send(found.unwrap_or_else(|| view.nth_available(0)))
    }

    fn set_parameter(&mut self, key: &str, value: f64) -> Result<(), Invalid> {
        self.params = change(&self.params, key, value)?;
        Ok(())
    }

    /// How many workers come before it on the ring; more than all of them without room.
    fn explain(&self, request: &RouteRequest<'_>, view: &ClusterView<'_>) -> Vec<CostParts> {
        let most = self.most(view);
        let mut order: Vec<WorkerId> = Vec::new();
        for worker in self.candidates(request) {
            if !order.contains(&worker) {
                order.push(worker);
            }
        }
        let cost = |at: usize| {
            let worker = WorkerId::at(at);
            let place = order.iter().position(|other| *other == worker).unwrap_or(order.len());
            let full = !room(view, worker, most);
            let parts = vec![
                ("ring_place", place as f64),
                ("inflight", f64::from(view.workers[at].inflight)),
            ];
            let behind = if full { order.len() } else { 0 };
            CostParts { worker, cost: (place + behind) as f64, parts }
        };
        (0..view.workers.len()).map(cost).collect()
    }
}
