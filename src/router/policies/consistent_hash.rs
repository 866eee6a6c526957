use super::worker_at;
use crate::id::WorkerId;
use crate::request::RouteRequest;
use crate::rng::mix;
use crate::router::spec::PolicySpec;
use crate::router::{ClusterView, Policy, Verdict};
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

impl Policy for ConsistentHash {
    fn route(&mut self, _: SimTime, request: &RouteRequest<'_>, view: &ClusterView<'_>) -> Verdict {
        let inflight = view.workers.iter().map(|worker| u64::from(worker.inflight));
        // The mean counts the request on its way, as does each worker's load.
        let mean = (inflight.sum::<u64>() + 1) as f64 / view.workers.len() as f64;
        let most = (mean * self.params.load_factor).ceil();
        let key = self.key(request);
        let start = self.ring.partition_point(|(point, _)| *point < key);
        let (after, before) = (&self.ring[start..], &self.ring[..start]);
        let free = |worker: &WorkerId| f64::from(view.workers[worker.index()].inflight + 1) <= most;
        let mut candidates = after.iter().chain(before).map(|(_, worker)| *worker);
        // Some worker is at or below the mean, so one is always found.
        Verdict::Send(candidates.find(free).unwrap_or(worker_at(0)))
    }
}
