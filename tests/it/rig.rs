//! Small engines and workloads that tests are built from.

use kv_router_sim::engine::config::{
    AttentionDpConfig, CudaGraph, EngineConfig, HostTime, LayerGroups, Rules, StoreContext,
    TierOptions, TrtllmOptions, VllmOptions,
};
use kv_router_sim::engine::model::Model;
use kv_router_sim::engine::roofline::Roofline;
use kv_router_sim::engine::settings::SchedulingPolicy;
use kv_router_sim::engine::step_time::StepTime;
use kv_router_sim::id::{BlockId, RequestId};
use kv_router_sim::request::{BlockRun, Content, Request};
use kv_router_sim::router::settings::RouterSettings;
use kv_router_sim::time::{SimDuration, SimTime};
use kv_router_sim::workload::conversations::{ConversationSettings, Conversations};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use std::path::Path;
use std::sync::OnceLock;

/// vLLM's rules, instant host, fixed step times.
pub(crate) fn vllm_config() -> EngineConfig {
    EngineConfig {
        rules: Rules::Vllm(VllmOptions::default()),
        block_size: 16,
        num_blocks: 1_000,
        max_num_seqs: 16,
        max_num_batched_tokens: 512,
        max_model_len: 4_096,
        chunked_prefill: true,
        prefix_caching: true,
        overlap: false,
        fast_forward: true,
        step_time: StepTime::Fixed {
            prefill: SimDuration::from_millis(20),
            decode: SimDuration::from_millis(10),
        },
        host: HostTime {
            prepare: SimDuration::ZERO,
            launch: SimDuration::ZERO,
            eager_launch: SimDuration::ZERO,
            per_seq: SimDuration::ZERO,
        },
        cuda_graph: CudaGraph { sizes: Vec::new(), padding: false, mixed: false },
        tiers: TierOptions::default(),
        kv_bytes_per_token: None,
        shared_kv: None,
        attention_dp: 1,
    }
}

/// TensorRT-LLM's rules with overlap scheduling, otherwise as [`vllm_config`].
pub(crate) fn trtllm_config() -> EngineConfig {
    let options = TrtllmOptions {
        partial_reuse: true,
        duplicate_delay: true,
        store_context: StoreContext::FirstChunk,
        count_cached_in_budget: true,
        reserve_net_of_reuse: false,
        claims_first: false,
        attention_dp_config: AttentionDpConfig::default(),
    };
    EngineConfig { rules: Rules::Trtllm(options), overlap: true, ..vllm_config() }
}

/// The same worker under vLLM's rules, if it is not yet.
pub(crate) fn under_vllm(config: EngineConfig) -> EngineConfig {
    let rules = match config.rules {
        rules @ Rules::Vllm(_) => rules,
        _ => vllm_config().rules,
    };
    EngineConfig { rules, ..config }
}

/// Step times of a real deployment, affine in the context.
pub(crate) fn roofline() -> StepTime {
    static ROOFLINE: OnceLock<Roofline> = OnceLock::new();
    let load = || {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
        let model = Model::load(&folder.join("llama-3.1-70b-fp8-h200-trtllm.toml"));
        let hardware = model.expect("a shipped model").hardware;
        hardware.expect("a model on a GPU").roofline(64)
    };
    StepTime::Roofline(ROOFLINE.get_or_init(load).clone())
}

/// `cases` random cases, or as many as `PROPTEST_CASES` says; the same ones every time unless `PROPTEST_RNG_SEED`
/// says otherwise; a failure is printed, not written into the tree.
pub(crate) fn cases(cases: u32) -> ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES").ok();
    let cases = asked.map_or(cases, |asked| asked.parse().expect("PROPTEST_CASES is a number"));
    let mut config =
        ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    if config.rng_seed == RngSeed::Random {
        config.rng_seed = RngSeed::Fixed(1);
    }
    config
}

/// Every option of vLLM's rules; one pool for all layers half of the time.
fn any_vllm_options() -> impl Strategy<Value = VllmOptions> {
    let counts = prop_oneof![(0u32..3, Just(1u32)), (1u32..3, 1u32..3)];
    let groups = (counts, 2u32..40, any::<bool>(), any::<bool>());
    let groups = groups.prop_map(|((full, windows), window_tokens, windows_first, dense)| {
        LayerGroups { full, windows, window_tokens, windows_first, dense }
    });
    let long_prefill_tokens = prop_oneof![2 => Just(0u32), 1 => 1u32..20];
    let policy = prop_oneof![Just(SchedulingPolicy::Fcfs), Just(SchedulingPolicy::Priority)];
    let any = (0u32..3, any::<bool>(), long_prefill_tokens, prop::option::of(groups), policy);
    any.prop_map(|(watermark_blocks, admits_by_chunk, long_prefill_tokens, groups, policy)| {
        VllmOptions { watermark_blocks, admits_by_chunk, long_prefill_tokens, groups, policy }
    })
}

/// The same worker with what goes with tiers and other pools: one pool for all layers, and
/// room for whole prompts.
pub(crate) fn of_one_pool(config: EngineConfig) -> EngineConfig {
    let rules = match config.rules {
        Rules::Vllm(options) => {
            Rules::Vllm(VllmOptions { groups: None, admits_by_chunk: false, ..options })
        }
        rules => rules,
    };
    EngineConfig { rules, ..config }
}

/// Every option of TensorRT-LLM's rules; the defaults half of the time.
fn any_trtllm_options() -> impl Strategy<Value = TrtllmOptions> {
    let flags = any::<[bool; 6]>();
    let balance = (any::<bool>(), 0u32..9, 0u32..4).prop_map(
        |(enable_balance, timeout_iters, batching_wait_iters)| AttentionDpConfig {
            enable_balance,
            timeout_iters,
            batching_wait_iters,
        },
    );
    let mixed = (flags, balance).prop_map(|(flags, attention_dp_config)| {
        let [partial, delay, first_chunk, count_cached, net, claims_first] = flags;
        TrtllmOptions {
            partial_reuse: partial,
            duplicate_delay: delay,
            store_context: match first_chunk {
                true => StoreContext::FirstChunk,
                false => StoreContext::LastChunk,
            },
            count_cached_in_budget: count_cached,
            reserve_net_of_reuse: net,
            claims_first,
            attention_dp_config,
        }
    });
    let of_1_4 = any::<bool>().prop_map(TrtllmOptions::of_1_4);
    prop_oneof![Just(TrtllmOptions::default()), of_1_4, mixed]
}

/// Engines of both rules, with every option, and with little room, so that every
/// limit is met.
pub(crate) fn any_engine() -> impl Strategy<Value = EngineConfig> {
    let shape = (any::<bool>(), any::<bool>(), prop_oneof![Just(1u32), Just(2), 3u32..9, Just(16)]);
    let limits = (6u32..60, 1u32..9, 4u32..80, any::<bool>(), any_vllm_options());
    let host = (0u64..3_000, 0u64..2_000, 0u64..60_000, 0u64..50);
    let graph = (prop::collection::vec(1u32..9, 0..4), any::<bool>());
    let time = prop_oneof![
        Just((0u64, 0u64)),
        (0u64..60_000, 0u64..60_000),
        (0u64..60_000, 0u64..60_000),
    ];
    // Round times make boundaries and arrivals meet.
    let grid = prop_oneof![Just(1u64), Just(1_000)];
    // Without chunks a step has hardly more room than the longest prompt.
    let longest = prop_oneof![2 => Just(None), 1 => (4u32..120).prop_map(Some)];
    let options = (any_trtllm_options(), longest);
    (shape, limits, host, graph, time, any::<bool>(), grid, options).prop_map(
        |(shape, limits, host, (sizes, padding), (prefill, decode), is_roofline, grid, options)| {
            let (trtllm, longest) = options;
            let (vllm, overlap, block_size) = shape;
            let (num_blocks, max_num_seqs, budget, prefix_caching, vllm_options) = limits;
            let rules = if vllm { Rules::Vllm(vllm_options) } else { Rules::Trtllm(trtllm) };
            let ps = |ps: u64| SimDuration::from_ps(ps / grid * grid);
            let step_time = if is_roofline {
                roofline()
            } else {
                StepTime::Fixed { prefill: ps(prefill), decode: ps(decode) }
            };
            let groups = rules.layer_groups().map_or(1, LayerGroups::count);
            let pool = num_blocks / groups * block_size;
            let (max_model_len, budget) = match longest {
                Some(longest) => (longest.min(pool), budget.min(longest).max(longest.min(pool))),
                None => (pool, budget),
            };
            EngineConfig {
                rules,
                block_size,
                num_blocks,
                max_num_seqs,
                max_num_batched_tokens: budget.max(max_num_seqs).max(block_size),
                max_model_len,
                chunked_prefill: longest.is_none(),
                overlap,
                prefix_caching,
                step_time,
                host: HostTime {
                    prepare: ps(host.0),
                    launch: ps(host.1),
                    eager_launch: ps(host.2),
                    per_seq: ps(host.3),
                },
                cuda_graph: CudaGraph { sizes, padding, mixed: false },
                ..vllm_config()
            }
        },
    )
}

/// One request: gap to the one before, shared text, its blocks, own prompt
/// tokens, output tokens.
pub(crate) type Draw = (u64, u64, u32, u32, u32);

/// Bursts, and gaps from a fraction of a step to many steps.
pub(crate) fn any_draws() -> impl Strategy<Value = Vec<Draw>> {
    let gap = prop_oneof![
        Just(0u64),
        0u64..5_000,
        0u64..3_000_000,
        0u64..300_000_000_000,
        (0u64..300).prop_map(|n| n * 1_000),
    ];
    prop::collection::vec((gap, 0u64..4, 0u32..6, 1u32..30, 1u32..60), 1..40)
}

/// Odd texts share as many blocks as they have in common; even ones are one
/// text per length, which ends in the middle of a block.
pub(crate) fn request(id: u32, draw: Draw, block_size: u32) -> Request {
    let (_, text, shared_blocks, own_tokens, output_tokens) = draw;
    let ends_inside = text.is_multiple_of(2) && shared_blocks > 0;
    let text = if ends_inside { text << 3 | u64::from(shared_blocks) } else { text << 3 };
    let shared = BlockRun { first: BlockId(text << 20), len: shared_blocks };
    let content = Content::new([shared], private_blocks(id)).with_fork_tokens(if ends_inside {
        block_size / 2
    } else {
        0
    });
    let prompt_tokens = shared_blocks * block_size + own_tokens;
    let mut request = Request::new(RequestId(id), prompt_tokens, output_tokens, content);
    request.max_tokens += own_tokens % 7;
    request.priority = i32::try_from(own_tokens % 3).expect("a small number");
    request
}

/// Where the blocks begin that only request `id` has.
pub(crate) fn private_blocks(id: u32) -> BlockId {
    BlockId(1 << 40 | u64::from(id) << 20)
}

/// A prompt that shares nothing.
pub(crate) fn lone_request(id: u32, prompt_tokens: u32, output_tokens: u32) -> Request {
    let content = Content::new([], private_blocks(id));
    Request::new(RequestId(id), prompt_tokens, output_tokens, content)
}

/// The requests of `draws` with their times.
pub(crate) fn arrivals(draws: &[Draw], block_size: u32) -> Vec<(SimTime, Request)> {
    let mut now = SimTime::ZERO;
    let arrival = |(id, &draw): (u32, &Draw)| {
        now += SimDuration::from_ps(draw.0);
        (now, request(id, draw, block_size))
    };
    (0..).zip(draws).map(arrival).collect()
}

/// Closed loops of short conversations that come and go within seconds.
pub(crate) fn any_conversations() -> impl Strategy<Value = ConversationSettings> {
    let shape = (1u32..9, 1u32..4, 0u32..200, 1u32..4, 0u32..3);
    let lengths = (1u32..60, 1u32..40, 0u64..400);
    (shape, lengths).prop_map(|((concurrency, starters, starter, min, more), (q, o, think_ms))| {
        let toml = format!(
            "concurrency = {concurrency}
            starters = {starters}
            starter_tokens = {{ kind = \"uniform\", min = {}, max = {starter} }}
            turns = {{ min = {min}, max = {} }}
            question_tokens = {{ kind = \"uniform\", min = 1, max = {q} }}
            output_tokens = {{ kind = \"uniform\", min = 1, max = {o} }}
            think_time = {{ kind = \"uniform\", min = \"0ms\", max = \"{think_ms}ms\" }}
            client = {{ overhead = \"3ms\" }}",
            starter / 2,
            min + more,
        );
        toml::from_str(&toml).expect("settings of conversations")
    })
}

/// The closed loop of `settings` for an engine.
pub(crate) fn closed_loop(
    settings: &ConversationSettings,
    config: &EngineConfig,
    seed: u64,
) -> Box<Conversations> {
    Box::new(Conversations::new(settings.clone(), config.block_size, seed))
}

/// Every policy with its defaults.
pub(crate) fn any_policy() -> impl Strategy<Value = RouterSettings> {
    prop::sample::select(POLICIES.to_vec()).prop_map(RouterSettings::new)
}

/// Every policy that neither holds nor rejects.
pub(crate) const POLICIES: [&str; 5] = ["round_robin", "random", "least_loaded", "kv", "oracle"];
