//! The table. A metric is added here, and where it is computed.

use super::kind::{
    Better, MetricKind, Needs,
    Statistic::{self, Max, Mean, OfPool, P, Plain},
};
use crate::event::Medium;

/// One number.
const ONE: &[Statistic] = &[Plain];
const MEAN: &[Statistic] = &[Mean];
const MAX: &[Statistic] = &[Max];
/// One number of each pool of workers.
const OF_POOLS: &[Statistic] = &[OfPool];
/// Of a time that every request has.
const LATENCY: &[Statistic] = &[Mean, P(50), P(90), P(95), P(99), Max];
/// Of what is kept as a histogram, whose last bin has no exact end.
const BINNED: &[Statistic] = &[Mean, P(50), P(90), P(95), P(99)];

const LOWER: Option<Better> = Some(Better::Lower);
const HIGHER: Option<Better> = Some(Better::Higher);
const NEITHER: Option<Better> = None;

macro_rules! catalogue {
    ($($id:ident: $stem:literal $statistics:expr, $label:literal $unit:literal $better:expr, $needs:expr, $definition:literal;)*) => {
        $(
            #[doc = $definition]
            pub const $id: &MetricKind = &MetricKind {
                stem: $stem,
                statistics: $statistics,
                label: $label,
                unit: $unit,
                better: $better,
                needs: $needs,
                definition: $definition,
            };
        )*

        /// Every metric of the simulator, in the order in which reports show them.
        pub const CATALOGUE: &[&MetricKind] = &[$($id),*];
    };
}

catalogue! {
    TTFT: "ttft_ms" LATENCY, "TTFT" "ms" LOWER, Needs::Nothing,
        "Time to first token: from the client's sending to the first token.";
    ENGINE_TTFT: "engine_ttft_ms" LATENCY, "engine TTFT" "ms" LOWER, Needs::Nothing,
        "From dispatch to the worker until the first token.";
    ITL: "itl_ms" LATENCY, "ITL" "ms" LOWER, Needs::Nothing,
        "Inter-token latency of a request: (end - first token) / (output tokens - 1); none for one token. Others call it TPOT.";
    INTER_TOKEN: "inter_token_ms" BINNED, "token gap" "ms" LOWER, Needs::Nothing,
        "Every gap between two tokens of a request, exact to 0.05 %; never taken over snapshots.";
    E2E: "e2e_ms" LATENCY, "end to end" "ms" LOWER, Needs::Nothing,
        "From the client's sending to the last token.";
    QUEUE: "queue_ms" LATENCY, "queue time" "ms" LOWER, Needs::Nothing,
        "From dispatch to the worker until the request is first in a batch. With two pools: at the prefill worker.";
    ROUTER_QUEUE: "router_queue_ms" LATENCY, "queue time at the router" "ms" LOWER, Needs::Nothing,
        "From arrival at the router to dispatch, of requests with a first token: the wait in the router's queue, a part of `ttft_ms`.";
    TRANSFER: "transfer_ms" LATENCY, "KV transfer" "ms" LOWER, Needs::Pools,
        "From the decode worker's request for the KV until it is there.";
    DECODE_QUEUE: "decode_queue_ms" LATENCY, "queue time at the decode worker" "ms" LOWER, Needs::Pools,
        "From dispatch to the decode worker until the request is first in a batch there, less the time of the transfer.";
    OUTPUT_TOKENS: "output_tokens_per_s" ONE, "throughput" "tokens/s" HIGHER, Needs::Nothing,
        "Output tokens that left the workers in the window, per second.";
    REQUESTS: "requests_per_s" ONE, "request rate" "requests/s" HIGHER, Needs::Nothing,
        "Requests that finished in the window, per second.";
    GOODPUT: "goodput_per_s" ONE, "goodput" "requests/s" HIGHER, Needs::Targets,
        "Finished requests that met every target of `[slo]`, per second.";
    HIT_RATIO: "hit_ratio" ONE, "hit ratio" "%" HIGHER, Needs::Nothing,
        "Cached prompt tokens / prompt tokens, over finished requests.";
    HIT_RATIO_REQUESTS: "hit_ratio_request_mean" ONE, "hit ratio, mean of requests" "%" HIGHER, Needs::Nothing,
        "The hit ratio of each finished request, averaged over requests.";
    HIT_RATIO_HOST: "hit_ratio_host" ONE, "hits in host memory" "%" NEITHER, Needs::Tier(Medium::Host),
        "The part of `hit_ratio` that was loaded from host memory.";
    HIT_RATIO_DISK: "hit_ratio_disk" ONE, "hits on disk" "%" NEITHER, Needs::Tier(Medium::Disk),
        "The part of `hit_ratio` that was loaded from disk.";
    HIT_RATIO_REMOTE: "hit_ratio_remote" ONE, "hits in remote storage" "%" NEITHER, Needs::Tier(Medium::Remote),
        "The part of `hit_ratio` that was loaded from remote storage.";
    LOAD: "load_ms" LATENCY, "load from lower tiers" "ms" LOWER, Needs::Tiers,
        "From asking a lower tier for blocks until they are in GPU memory, of each load.";
    LOADED: "loaded_gb_per_s" ONE, "loaded from lower tiers" "GB/s" NEITHER, Needs::Tiers,
        "Loaded from lower tiers by all workers, per second.";
    SLO_ATTAINMENT: "slo_attainment" ONE, "SLO attainment" "%" HIGHER, Needs::Targets,
        "Requests that met every target of `[slo]` / requests that ended, whether served or not.";
    HIT_RATIO_BOUND: "hit_ratio_bound" ONE, "hit ratio of an unlimited shared cache" "%" NEITHER, Needs::Why,
        "The hit ratio that one unlimited cache, shared by all workers, would have had.";
    LOST_TO_EVICTION: "lost_to_eviction_ratio" ONE, "hits lost to eviction" "%" LOWER, Needs::Why,
        "The part of prompts that was computed before and that no worker holds any more. With the next two it adds up to `hit_ratio_bound` less `hit_ratio`.";
    LOST_TO_WRONG_WORKER: "lost_to_wrong_worker_ratio" ONE, "hits lost to the wrong worker" "%" LOWER, Needs::Why,
        "The part of prompts that another worker held and the router's index showed.";
    LOST_TO_STALE_INDEX: "lost_to_stale_index_ratio" ONE, "hits lost to a stale index" "%" LOWER, Needs::Why,
        "The part of prompts that another worker held and the router's index did not show.";
    OVERLAP_REGRET: "overlap_regret_blocks" MEAN, "overlap regret" "blocks" LOWER, Needs::Why,
        "Leading prompt blocks on the worker with most of them, less those on the chosen one, at the time of the choice; mean over finished requests.";
    QUEUE_SPIKE: "queue_spike_ms" MAX, "queue spike" "ms" LOWER, Needs::Nothing,
        "The highest mean queue time of one worker over a `measure.spike_window`, by requests whose first token came in it.";
    QUEUE_SPIKES: "queue_spikes" &[Plain, Max], "queue spikes" "" LOWER, Needs::Nothing,
        "How often that was above 100 ms (assumed), windows in a row counted once: over all workers, and of the worker with most (`_max`).";
    INFLIGHT_SPREAD: "inflight_spread" &[Mean, Max], "in-flight spread" "requests" LOWER, Needs::Nothing,
        "The largest less the smallest number of requests in flight of any worker, at each moment.";
    INFLIGHT_SKEW: "inflight_skew" MEAN, "in-flight skew" "" LOWER, Needs::Nothing,
        "The busiest worker's mean number of requests in flight / the mean of all workers.";
    QUEUE_SKEW: "queue_skew" ONE, "queue skew" "" LOWER, Needs::Nothing,
        "The largest mean queue time of any worker / the mean queue time of all requests.";
    PREEMPTIONS: "preemptions" ONE, "preemptions" "" LOWER, Needs::Nothing,
        "How often finished requests lost their blocks, over their whole life.";
    REJECTED: "rejected" ONE, "rejected" "requests" LOWER, Needs::Nothing,
        "Requests that were turned away.";
    REJECTED_FULL: "rejected_full" ONE, "over a limit of admission" "requests" LOWER, Needs::Refusals,
        "Requests that a limit of `[router.admission]` turned away; those sent again count each time.";
    REJECTED_BUSY: "rejected_busy" ONE, "before busy workers" "requests" LOWER, Needs::Refusals,
        "Requests that `[router.admission]` turned away because every worker was busy.";
    REJECTED_WAITED: "rejected_waited" ONE, "waited too long for admission" "requests" LOWER, Needs::Refusals,
        "Requests that `[router.admission]` turned away after they had waited for `max_wait`.";
    UNSERVED: "unserved_ratio" ONE, "unserved" "%" LOWER, Needs::Refusals,
        "As `error_ratio`, but a request that was turned away and that its client sends again counts once, by what becomes of it last.";
    ERROR_RATIO: "error_ratio" ONE, "errors" "%" LOWER, Needs::Nothing,
        "Requests that were rejected, failed or given up / requests that ended.";
    CUT_SHORT: "cut_short" ONE, "answers cut short" "" LOWER, Needs::Nothing,
        "Finished requests whose answers the context limit or the KV pool ended.";
    GIVEN_UP: "given_up" ONE, "given up by clients" "requests" LOWER, Needs::Patience,
        "Requests whose clients hung up.";
    GIVEN_UP_UNANSWERED: "given_up_unanswered" ONE, "given up without a token" "requests" LOWER, Needs::Patience,
        "Requests whose clients hung up before a first token left the worker.";
    BACKLOG_GROWTH: "backlog_growth_ratio" ONE, "growth of the backlog" "%" NEITHER, Needs::Nothing,
        "Requests under way when the last one of the window came, less those when the window began / requests that came in it; none of a load in stages, which are bursts.";
    TTFT_DRIFT: "ttft_drift" ONE, "TTFT p50 of the second half over the first" "" NEITHER, Needs::Nothing,
        "The median time to first token of the second half of the window's requests / that of the first half; none of fewer than 40 requests, nor of a load in stages.";
    FAILED: "failed" ONE, "failed" "requests" LOWER, Needs::Changes,
        "Requests lost with their worker and not migrated.";
    RETRIES: "retries" ONE, "sent again" "requests" LOWER, Needs::Retries,
        "Requests that clients sent again.";
    HELD_BACK: "held_back" ONE, "held back by clients" "requests" LOWER, Needs::Connections,
        "Requests that waited in their client for one of its connections (`workload.client.connections`).";
    HELD_BACK_TIME: "held_back_ms" MEAN, "wait in the client" "ms" LOWER, Needs::Connections,
        "The mean wait of those.";
    ROWS_LEFT_OUT: "rows_left_out" ONE, "rows of the trace left out" "" LOWER, Needs::Trace,
        "Rows of the trace without an answer, and rows above `max_isl` with the rest of their session.";
    SESSIONS_BROKEN: "sessions_broken" ONE, "sessions of the trace broken" "" LOWER, Needs::Trace,
        "Sessions of the trace with a later turn that does not go on from the turn before.";
    MIGRATIONS: "migrations" ONE, "migrations" "" NEITHER, Needs::Changes,
        "How often a request went on at another worker.";
    RECOMPUTED_TOKENS: "recomputed_tokens" ONE, "tokens computed again" "" LOWER, Needs::Changes,
        "Prompt and output tokens that migrated requests computed again.";
    HIT_RATIO_LOWEST: "hit_ratio_lowest" ONE, "lowest hit ratio after a change" "%" HIGHER, Needs::Changes,
        "The lowest hit ratio of an interval of 10 s (assumed) after a change that costs cache.";
    HIT_RECOVERY: "hit_recovery_s" ONE, "time until hits are back" "s" LOWER, Needs::Changes,
        "The longest time from a change that costs cache (a crash, a worker that leaves or joins) until hits are back: until the first two intervals of 10 s in a row with 95 % of the hit ratio before the first change (both assumed). An interval in which no request started counts as the one before it, and as not back if it is the first. If another change comes first, the time goes on. Undefined if hits are not back at the end.";
    WORKERS: "workers" MEAN, "workers" "" NEITHER, Needs::Changes,
        "Workers that serve or drain.";
    WORKERS_ADDED: "workers_added" ONE, "workers added" "" NEITHER, Needs::Planner,
        "Workers that the planner added, from the start of the run.";
    WORKERS_REMOVED: "workers_removed" ONE, "workers removed" "" NEITHER, Needs::Planner,
        "Workers that the planner removed, from the start of the run.";
    DECODE_KV_BLOCKS_USED: "decode_kv_blocks_used_mean" ONE, "KV blocks used, decode worker's mean" "blocks" NEITHER, Needs::Pools,
        "KV blocks held by requests, per decode worker, over time; blocks kept for a transfer count.";
    DECODE_RUNNING: "decode_running_mean" ONE, "requests in the batch, decode worker's mean" "requests" NEITHER, Needs::Pools,
        "Requests in the batch, per decode worker, over time.";
    DECODE_WAITING: "decode_waiting_mean" ONE, "requests that wait, decode worker's mean" "requests" NEITHER, Needs::Pools,
        "Requests that wait, per decode worker, over time.";
    FINISHED: "finished" ONE, "finished" "requests" NEITHER, Needs::Nothing,
        "Requests that finished in the window.";
    INFLIGHT: "inflight_mean" ONE, "in flight, worker's mean" "requests" NEITHER, Needs::Nothing,
        "Requests from dispatch to end, per worker, over time.";
    KV_BLOCKS_USED: "kv_blocks_used_mean" ONE, "KV blocks used, worker's mean" "blocks" NEITHER, Needs::Nothing,
        "KV blocks held by requests, per worker, over time.";
    POOL_REQUESTS: "pool_requests_per_s" OF_POOLS, "request rate of pool" "requests/s" NEITHER, Needs::NamedPools,
        "Requests that finished in the window and that a worker of this pool served (prefilled, decoded, or both), per second.";
    POOL_HIT_RATIO: "pool_hit_ratio" OF_POOLS, "hit ratio of pool" "%" NEITHER, Needs::NamedPools,
        "Cached prompt tokens / prompt tokens, over finished requests whose prompt a worker of this pool computed.";
    POOL_RUNNING: "pool_running_mean" OF_POOLS, "requests in the batches of pool" "requests" NEITHER, Needs::NamedPools,
        "Requests in the batches of all workers of this pool, over time.";
    POOL_WAITING: "pool_waiting_mean" OF_POOLS, "requests that wait at pool" "requests" NEITHER, Needs::NamedPools,
        "Requests that wait at all workers of this pool, over time.";
    PREFILL_KV_BLOCKS_USED: "prefill_kv_blocks_used_mean" ONE, "KV blocks used, prefill worker's mean" "blocks" NEITHER, Needs::Pools,
        "KV blocks held by requests, per prefill worker, over time; blocks kept for a transfer count.";
    PREFILL_RUNNING: "prefill_running_mean" ONE, "requests in the batch, prefill worker's mean" "requests" NEITHER, Needs::Pools,
        "Requests in the batch, per prefill worker, over time.";
    PREFILL_WAITING: "prefill_waiting_mean" ONE, "requests that wait, prefill worker's mean" "requests" NEITHER, Needs::Pools,
        "Requests that wait, per prefill worker, over time.";
    RUNNING: "running_mean" ONE, "requests in the batch, worker's mean" "requests" NEITHER, Needs::Nothing,
        "Requests in the batch, per worker, over time.";
    SHADOW_AGREED: "shadow_agreed" ONE, "decisions that agree" "" NEITHER, Needs::Shadow,
        "Decisions for the same worker, from the start of the run.";
    SHADOW_COSTS_DIFFER: "shadow_costs_differ" ONE, "decisions with other costs" "" NEITHER, Needs::Shadow,
        "Decisions in which some worker's costs differ by 1e-9 or more, from the start of the run.";
    SHADOW_DECISIONS: "shadow_decisions" ONE, "decisions compared" "" NEITHER, Needs::Shadow,
        "Decisions compared, from the start of the run.";
    SHADOW_TIED: "shadow_tied" ONE, "other choices of equal cost" "" NEITHER, Needs::Shadow,
        "Decisions for different workers of exactly equal cost, from the start of the run.";
    SHADOW_TIES: "shadow_ties" ONE, "decisions with a tie" "" NEITHER, Needs::Shadow,
        "Decisions with several workers of lowest cost, from the start of the run.";
    WAITING: "waiting_mean" ONE, "requests that wait, worker's mean" "requests" NEITHER, Needs::Nothing,
        "Requests that wait, per worker, over time.";
}
