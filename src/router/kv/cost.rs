//! What a request would cost on a worker, in blocks: lower wins.
//!
//! Both versions add up the same two things: prompt blocks to be computed (those
//! already under way on the worker included, cached ones taken off), and
//! distinct blocks in flight on the worker once the request is there. With the
//! defaults the two versions give the same number. Source of the formulas:
//! Dynamo 0.9.0, `kv_router/scheduler.rs`; dynamo-kv-router 1.6.1,
//! `scheduling/selector/reference.rs`. The order of operations is theirs, so
//! that costs agree to the last bit and ties are ties.

use super::active::WorkerLoad;
use super::below::BlocksBelow;
use super::params::{KvParams, Semantics};

/// A worker as seen by one request.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Candidate {
    /// Uncached prompt tokens in flight there.
    pub prefill_tokens: u64,
    /// Distinct blocks in flight there.
    pub active_blocks: u64,
    /// Blocks of the request that nothing in flight there shares.
    pub additional_blocks: u32,
    /// Requests in flight there.
    pub requests: u32,
    /// Blocks of the request cached there.
    pub overlap_blocks: u32,
    /// Blocks of the request in tiers below GPU memory there, after those (1.6).
    pub below: BlocksBelow,
}

/// The request's side of the cost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask {
    pub(super) prompt_tokens: u32,
    pub(super) block_size: u32,
    /// Least prefill tokens in flight on any worker.
    pub(super) min_prefill_tokens: u64,
}

/// A cost and its addends, in blocks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Cost {
    pub(super) total: f64,
    pub(super) prefill: f64,
    pub(super) decode: f64,
    pub(super) requests: f64,
}

/// What `ask` costs on `candidate`.
pub(super) fn cost(params: &KvParams, ask: &Ask, candidate: &Candidate) -> Cost {
    match params.semantics {
        Semantics::V0_9 => cost_0_9(params, ask, candidate),
        Semantics::V1_6 => cost_1_6(params, ask, candidate),
    }
}

/// What `ask` costs on each candidate, added to `costs`.
pub(super) fn totals(
    params: &KvParams,
    ask: &Ask,
    candidates: impl Iterator<Item = Candidate>,
    costs: &mut Vec<f64>,
) {
    match params.semantics {
        Semantics::V0_9 => costs.extend(candidates.map(|c| cost_0_9(params, ask, &c).total)),
        Semantics::V1_6 => costs.extend(candidates.map(|c| cost_1_6(params, ask, &c).total)),
    }
}

/// Tokens of the prompt that `candidate` would have to compute.
#[inline]
pub(super) fn uncached_tokens(ask: &Ask, overlap_blocks: u32) -> u64 {
    let cached = u64::from(overlap_blocks) * u64::from(ask.block_size);
    u64::from(ask.prompt_tokens).saturating_sub(cached)
}

/// What every request pays for `load`: a worker that has none of its blocks costs
/// this much more than an idle one, but for rounding.
pub(super) fn load_cost(params: &KvParams, block_size: u32, load: &WorkerLoad) -> f64 {
    let ask = Ask { prompt_tokens: 0, block_size, min_prefill_tokens: 0 };
    let candidate = Candidate {
        prefill_tokens: load.prefill_tokens,
        active_blocks: load.active_blocks,
        requests: load.requests,
        ..Candidate::default()
    };
    cost(params, &ask, &candidate).total
}

/// The most that a cached block takes off a cost.
pub(super) fn most_credit(params: &KvParams) -> f64 {
    match params.semantics {
        Semantics::V0_9 => params.prefill_load_scale,
        Semantics::V1_6 if params.track_prefill_tokens => {
            params.prefill_load_scale * params.overlap_score_credit
        }
        Semantics::V1_6 => params.overlap_score_credit,
    }
}

/// Tokens of the prompt that `candidate` has cached, those in lower tiers by their
/// weight (1.6; `cache_hit_estimates_from_tiered_matches`). May exceed the prompt.
#[inline]
pub(super) fn cached_tokens(
    params: &KvParams,
    ask: &Ask,
    overlap_blocks: u32,
    below: BlocksBelow,
) -> u64 {
    if below == BlocksBelow::default() || params.semantics == Semantics::V0_9 {
        return u64::from(overlap_blocks) * u64::from(ask.block_size);
    }
    let blocks = f64::from(overlap_blocks)
        + f64::from(below.host) * params.host_cache_hit_weight
        + f64::from(below.disk) * params.disk_cache_hit_weight;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "not negative, and at most the tokens of a prompt"
    )]
    let tokens = (blocks * f64::from(ask.block_size)).round() as u64;
    tokens
}

#[inline]
fn decode_blocks(candidate: &Candidate) -> f64 {
    (candidate.active_blocks + u64::from(candidate.additional_blocks)) as f64
}

#[inline]
fn cost_0_9(params: &KvParams, ask: &Ask, candidate: &Candidate) -> Cost {
    let tokens = candidate.prefill_tokens + uncached_tokens(ask, candidate.overlap_blocks);
    let prefill = params.prefill_load_scale * (tokens as f64 / f64::from(ask.block_size));
    let decode = decode_blocks(candidate);
    Cost { total: prefill + decode, prefill, decode, requests: 0.0 }
}

#[inline]
fn cost_1_6(params: &KvParams, ask: &Ask, candidate: &Candidate) -> Cost {
    let block_size = f64::from(ask.block_size);
    let decay = if params.track_prefill_tokens && params.overlap_score_credit_decay > 0.0 {
        let excess = candidate.prefill_tokens.saturating_sub(ask.min_prefill_tokens);
        let request_blocks = ask.prompt_tokens.div_ceil(ask.block_size).max(1);
        let load = excess as f64 / block_size / f64::from(request_blocks);
        1.0 / (1.0 + params.overlap_score_credit_decay * load)
    } else {
        1.0
    };
    let credit = params.overlap_score_credit * decay * f64::from(candidate.overlap_blocks)
        + params.host_cache_hit_weight * f64::from(candidate.below.host)
        + params.disk_cache_hit_weight * f64::from(candidate.below.disk);
    let decode = decode_blocks(candidate);
    let requests = params.decode_active_request_weight * f64::from(candidate.requests);
    if !params.track_prefill_tokens && params.overlap_score_credit > 0.0 {
        // A pool that only decodes: what is cached need not be moved there.
        let decode = (decode - credit).max(0.0);
        return Cost { total: decode + requests, prefill: 0.0, decode, requests };
    }
    let tokens = if params.track_prefill_tokens {
        let cached = cached_tokens(params, ask, candidate.overlap_blocks, candidate.below);
        let uncached = u64::from(ask.prompt_tokens).saturating_sub(cached);
        candidate.prefill_tokens + uncached + cached
    } else {
        0
    };
    let prefill = params.prefill_load_scale * (tokens as f64 / block_size - credit).max(0.0);
    Cost { total: prefill + decode + requests, prefill, decode, requests }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The worked example that circulates with Dynamo's router guide: a prompt of
    /// 100 blocks, three workers with 20, 75 and 10 of them cached and 10, 5 and
    /// 9 blocks in decoding: costs 90, 30 and 99, so worker 2 of 3 wins.
    ///
    /// It counts the blocks that are decoding *before* the request comes. The
    /// router counts them as they would be *with* the request on board: its own
    /// 100 blocks are in every real cost below (190, 130, 199). The order is the
    /// same unless some worker shares blocks in flight with the request.
    #[test]
    fn the_published_example_with_the_requests_own_blocks_added() {
        let ask = Ask { prompt_tokens: 1_600, block_size: 16, min_prefill_tokens: 0 };
        for semantics in [Semantics::V0_9, Semantics::V1_6] {
            let params = KvParams::with_weight(semantics, 1.0);
            let costs = |additional_blocks| {
                [(20, 10), (75, 5), (10, 9)].map(|(overlap_blocks, active_blocks)| {
                    let candidate = Candidate {
                        active_blocks,
                        additional_blocks,
                        overlap_blocks,
                        ..Candidate::default()
                    };
                    cost(&params, &ask, &candidate).total
                })
            };
            assert_eq!(costs(0), [90.0, 30.0, 99.0]);
            assert_eq!(costs(100), [190.0, 130.0, 199.0]);
        }
    }
}
