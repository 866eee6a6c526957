//! What llm-d's router believes its workers to hold where no KV events tell: what was sent.

use super::sent::SentPrompts;
use crate::id::{BlockId, WorkerId};
use crate::request::RouteRequest;
use crate::router::ClusterSpec;
use crate::router::kv::Overlaps;
use crate::settings::{Count, Invalid, count, count_option};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Parameters of [`ApproximatePrefix`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PrefixParams {
    /// Prompts are matched in blocks of at least so many tokens: whole blocks of the
    /// router, so their number is rounded up. At least 1; its `minBlockSizeTokens` is 64.
    #[serde(deserialize_with = "count")]
    #[schemars(with = "Count")]
    pub match_block_tokens: u32,
    /// Tokens of a prompt that are matched at most; at least 1
    /// (`maxPrefixTokensToMatch`).
    #[serde(deserialize_with = "count")]
    #[schemars(with = "Count")]
    pub max_prefix_tokens: u32,
    /// Blocks remembered per worker (`lruCapacityPerServer`). Unset: as many as the worker
    /// has KV blocks, as it tells.
    #[serde(deserialize_with = "count_option", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Count>")]
    pub lru_capacity_blocks: Option<u32>,
}

impl Default for PrefixParams {
    /// Those of `approx-prefix-cache-producer`, `autoTune` included.
    fn default() -> Self {
        Self { match_block_tokens: 64, max_prefix_tokens: 131_072, lru_capacity_blocks: None }
    }
}

impl PrefixParams {
    /// Those that can change while a policy runs.
    pub(super) const CHANGEABLE: [&'static str; 2] = ["max_prefix_tokens", "lru_capacity_blocks"];

    pub(super) fn check(&self) -> Result<(), Invalid> {
        let Self { match_block_tokens, max_prefix_tokens, .. } = *self;
        Invalid::unless(
            match_block_tokens > 0,
            "match_block_tokens",
            match_block_tokens,
            "at least 1",
        )?;
        Invalid::unless(max_prefix_tokens > 0, "max_prefix_tokens", max_prefix_tokens, "at least 1")
    }
}

/// The approximate prefix cache of llm-d's router.
///
/// A prompt that is sent to a worker counts as held there until the worker's least recently
/// sent blocks are forgotten. Source: `approximateprefix/plugin.go` and `types.go` of
/// llm-d-router. It hashes a last block that is not full, too; ours are full.
#[derive(Debug)]
pub(super) struct ApproximatePrefix {
    /// Blocks of the router in a block that is matched.
    group: u32,
    most_blocks: u32,
    capacity_blocks: Vec<u32>,
    sent: SentPrompts,
}

/// What of a prompt's blocks each worker got, of how many.
#[derive(Debug)]
pub(super) struct Matched {
    pub(super) overlaps: Overlaps,
    /// At least 1, so that shares are numbers.
    pub(super) of_blocks: u32,
}

impl Matched {
    /// The share of the prompt that so many blocks are.
    pub(super) fn share(&self, blocks: u32) -> f64 {
        f64::from(blocks) / f64::from(self.of_blocks)
    }
}

impl ApproximatePrefix {
    pub(super) fn new(params: PrefixParams, cluster: &ClusterSpec) -> Self {
        let group = params.match_block_tokens.div_ceil(cluster.block_size).max(1);
        let mut prefix = Self {
            group,
            most_blocks: 0,
            capacity_blocks: Vec::new(),
            sent: SentPrompts::new(cluster.workers()),
        };
        prefix.set(params, cluster);
        prefix
    }

    /// Takes other limits from now on.
    pub(super) fn set(&mut self, params: PrefixParams, cluster: &ClusterSpec) {
        self.most_blocks = params.max_prefix_tokens / self.block_tokens(cluster.block_size);
        let capacity = |limits: &crate::router::WorkerLimits| {
            params.lru_capacity_blocks.unwrap_or(limits.blocks)
        };
        self.capacity_blocks = cluster.limits.iter().map(capacity).collect();
    }

    /// Tokens in a block that is matched, of blocks of so many tokens.
    pub(super) fn block_tokens(&self, block_size: u32) -> u32 {
        self.group.saturating_mul(block_size)
    }

    pub(super) fn matched(&self, request: &RouteRequest<'_>) -> Matched {
        let blocks = self.blocks(request);
        Matched {
            of_blocks: u32::try_from(blocks.len()).unwrap_or(u32::MAX).max(1),
            overlaps: self.sent.overlaps(blocks),
        }
    }

    /// Notes that `worker` gets `request`.
    pub(super) fn insert(&mut self, request: &RouteRequest<'_>, worker: WorkerId) {
        let blocks = self.blocks(request);
        self.sent.insert(worker, blocks);
        self.sent.shrink(worker, self.capacity_blocks[worker.index()]);
    }

    pub(super) fn remove_worker(&mut self, worker: WorkerId) {
        self.sent.remove_worker(worker);
    }

    /// The last block of each group: a block's id stands for all before it, too.
    fn blocks<'a>(
        &self,
        request: &RouteRequest<'a>,
    ) -> impl ExactSizeIterator<Item = BlockId> + use<'a> {
        let (prompt, group) = (request.blocks, self.group);
        let groups = (prompt.len() / group).min(self.most_blocks);
        (0..groups).map(move |at| prompt.get(at * group + group - 1))
    }
}
