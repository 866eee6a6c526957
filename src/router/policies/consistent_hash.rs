use super::worker_at;
use crate::id::WorkerId;
use crate::request::RouteRequest;
use crate::rng::mix;
use crate::router::spec::PolicySpec;
use crate::router::{ClusterView, CostParts, Policy, Verdict, WorkerView};
use crate::time::SimTime;

/// See [`ConsistentHash`].
pub const POLICY: PolicySpec = PolicySpec::new("consistent_hash", |settings, cluster, _| {
    let params = HashParams {
        prefix_blocks: settings.hash_prefix_blocks,
        replication: settings.hash_replication,
        load_factor: settings.hash_load_factor,
    };
    Box::new(ConsistentHash::new(params, cluster.workers))
});

/// Parameters of [`ConsistentHash`], as in
/// [`RouterSettings`](crate::router::settings::RouterSettings).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HashParams {
    /// Blocks at the start of the prompt that make the key; at least 1.
    pub prefix_blocks: u32,
    /// Points of each worker on the ring; at least 1.
    pub replication: u32,
    /// A worker may carry so many times the mean load; at least 1.
    pub load_factor: f64,
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
            (0..params.replication).map(move |copy| (point(copy), WorkerId(worker)))
        });
        let mut ring: Vec<_> = points.collect();
        ring.sort_unstable();
        Self { params, ring }
    }

    fn key(&self, request: &RouteRequest<'_>) -> u64 {
        // A block id stands for all before it too.
        match request.blocks.len().min(self.params.prefix_blocks).checked_sub(1) {
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
        (mean * self.params.load_factor).ceil()
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
        Verdict::Send(found.unwrap_or_else(|| view.nth_available(0)))
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
            let worker = worker_at(at);
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
