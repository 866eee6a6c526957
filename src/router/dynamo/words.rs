//! Our terms in those of the crate.

use crate::id::WorkerId;
use crate::request::BlockRun;
use crate::router::kv::KvParams;
use dynamo_kv_router::KvRouterConfig;
use dynamo_kv_router::protocols::WorkerWithDpRank;

/// The pool that an aggregated deployment's router serves, in the crate's words.
pub(super) const POOL: &str = "decode";

pub(super) fn set_weights(config: &mut KvRouterConfig, params: &KvParams) {
    config.overlap_score_credit = params.overlap_score_credit;
    config.overlap_score_credit_decay = params.overlap_score_credit_decay;
    config.prefill_load_scale = params.prefill_load_scale;
    config.decode_active_request_weight = params.decode_active_request_weight;
    config.host_cache_hit_weight = params.host_cache_hit_weight;
    config.disk_cache_hit_weight = params.disk_cache_hit_weight;
    config.router_temperature = params.temperature;
}

pub(super) fn rank(worker: WorkerId) -> WorkerWithDpRank {
    WorkerWithDpRank::new(u64::from(worker.0), 0)
}

pub(super) fn ids(run: BlockRun) -> impl DoubleEndedIterator<Item = u64> {
    (0..run.len).map(move |at| run.first.offset(at).0)
}
