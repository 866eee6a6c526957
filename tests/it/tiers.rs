//! KV memory below the GPU's: what is loaded from it, when, and what it is worth.

use super::fast_forward::hold;
use super::lives::check;
use super::program::{EXPERIMENT, Scratch, text};
use super::rig::{
    Draw, any_conversations, any_draws, any_engine, any_policy, arrivals, cases, closed_loop,
    lone_request, of_one_pool, roofline, trtllm_config, vllm_config,
};
use super::script::{Run, Script, play, router};
use kv_router_sim::engine::config::{EngineConfig, Rules, TierOptions, TrtllmOptions};
use kv_router_sim::engine::model::Model;
use kv_router_sim::engine::settings::EngineSettings;
use kv_router_sim::engine::tiers::{LoadRule, Offload, TierSpec};
use kv_router_sim::event::{KvEvent, Medium, WorkerEvent, WorkerEventKind};
use kv_router_sim::fleet::{Fleet, SimulatedFleet};
use kv_router_sim::id::{BlockId, RequestId, WorkerId};
use kv_router_sim::recorder::End;
use kv_router_sim::request::{BlockRun, Content};
use kv_router_sim::router::settings::RouterSettings;
use kv_router_sim::settings::Sheet;
use kv_router_sim::time::{SimDuration, SimTime};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

/// A host tier of `blocks`, as fast as nothing is.
fn unlimited(blocks: u32) -> TierSpec {
    TierSpec {
        medium: Medium::Host,
        blocks,
        block_time: SimDuration::ZERO,
        latency: SimDuration::ZERO,
    }
}

fn with_tiers(config: EngineConfig, tiers: &[TierSpec], offload: Offload) -> EngineConfig {
    let tiers = tiers.to_vec();
    let options = TierOptions { tiers, offload, load: LoadRule::Always };
    EngineConfig { tiers: options, ..config }
}

/// Engines of both rules with one to three tiers, from links that take no time to
/// such that are slower than computing.
pub(crate) fn any_tiered_engine() -> impl Strategy<Value = EngineConfig> {
    let time = || {
        prop_oneof![
            Just(0u64),
            (1u64..60).prop_map(|n| n * 1_000),
            0u64..200_000,
            0u64..3_000_000_000,
        ]
    };
    let tier = || (1u32..40, time(), time());
    let rules = prop_oneof![Just(LoadRule::Auto), Just(LoadRule::Always), Just(LoadRule::Never)];
    (any_engine(), prop::collection::vec(tier(), 1..4), rules, any::<bool>()).prop_map(
        |(config, tiers, load, computed)| {
            let spec = |(medium, (blocks, block_ps, latency_ps)): (Medium, (u32, u64, u64))| {
                let (block_time, latency) =
                    (SimDuration::from_ps(block_ps), SimDuration::from_ps(latency_ps));
                TierSpec { medium, blocks, block_time, latency }
            };
            let offload = if computed { Offload::Computed } else { Offload::Evicted };
            let tiers = Medium::ALL.into_iter().zip(tiers).map(spec).collect();
            let tiers = TierOptions { tiers, offload, load };
            EngineConfig { tiers, prefix_caching: true, ..of_one_pool(config) }
        },
    )
}

proptest! {
    #![proptest_config(cases(2_500))]

    /// Law 6.
    #[test]
    fn fast_forward_equals_step_by_step(
        config in any_tiered_engine(), draws in any_draws(), peek_every in 1usize..5,
    ) {
        hold(config, &draws, peek_every)?;
    }
}

proptest! {
    #![proptest_config(cases(1_000_000))]

    /// The long run: `cargo test --release --test it -- --ignored a_million_tiered`.
    #[test]
    #[ignore = "long: a million random workloads"]
    fn a_million_tiered_workloads_fast_forward_exactly(
        config in any_tiered_engine(), draws in any_draws(), peek_every in 1usize..5,
    ) {
        hold(config, &draws, peek_every)?;
    }
}

/// Submits `draws` to one worker and gives its events, and its cache events.
fn serve(
    config: &EngineConfig,
    draws: &[Draw],
) -> (Vec<(SimTime, WorkerEvent)>, Vec<KvEvent>, SimulatedFleet) {
    let mut fleet = SimulatedFleet::new(1, &Arc::new(config.clone()), true);
    fleet.count_copies();
    let mut events = Vec::new();
    for (at, request) in arrivals(draws, config.block_size) {
        while let Some(event) = fleet.next_event(at) {
            events.push(event);
        }
        let _too_long = fleet.submit(at, WorkerId(0), &request);
    }
    while let Some(event) = fleet.next_event(SimTime::MAX) {
        events.push(event);
    }
    let mut kv = Vec::new();
    fleet.take_kv_events(SimTime::MAX, &mut |_, _, event| kv.push(event));
    (events, kv, fleet)
}

fn loaded(event: &WorkerEvent) -> Option<([u32; 3], SimDuration)> {
    match event.kind {
        WorkerEventKind::Loaded { tokens, time } => Some((tokens, time)),
        _ => None,
    }
}

proptest! {
    #![proptest_config(cases(1_000))]

    /// Law 1, at any load and behind any router.
    #[test]
    fn every_request_ends_once(
        config in any_tiered_engine(), policy in any_policy(), draws in any_draws(),
        workers in 1u32..4,
    ) {
        let script = Script::new(arrivals(&draws, config.block_size));
        let run = play(&config, workers, script, router(&policy, &config, workers), None);
        check(&run)?;
        prop_assert!(run.records.iter().all(|record| record.end.is_some()));
    }

    /// Law 11 is checked at the end of every window.
    #[test]
    fn closed_loops_go_on(
        config in any_tiered_engine(), policy in any_policy(), loops in any_conversations(),
        seed: u64,
    ) {
        let workload = closed_loop(&loops, &config, seed);
        let window = Some(SimDuration::from_millis(800));
        check(&play(&config, 2, workload, router(&policy, &config, 2), window))?;
    }

    /// Law 2: when all have gone every block is free, and no tier ever holds more
    /// than it has room for, by what was told of it. A load takes at least what its
    /// blocks take on their links, and comes out of a tier that has them.
    #[test]
    fn blocks_are_conserved_and_loads_take_their_time(
        config in any_tiered_engine(), draws in any_draws(),
    ) {
        let (events, kv, fleet) = serve(&config, &draws);
        let (total, free) = fleet.workers()[0].blocks();
        prop_assert_eq!(total, free);
        let mut held = vec![BTreeSet::new(); Medium::ALL.len()];
        for event in &kv {
            let ids = |run: BlockRun| (0..run.len).map(move |i| run.first.offset(i));
            match *event {
                KvEvent::StoredBelow { medium, run } => {
                    ids(run).for_each(|id| assert!(held[medium as usize].insert(id), "{event:?}"));
                }
                KvEvent::RemovedBelow { medium, run } => {
                    ids(run).for_each(|id| assert!(held[medium as usize].remove(&id), "{event:?}"));
                }
                _ => {}
            }
        }
        for tier in &config.tiers.tiers {
            prop_assert!(held[tier.medium as usize].len() <= tier.blocks as usize);
        }
        for (tokens, time) in events.iter().filter_map(|(_, event)| loaded(event)) {
            prop_assert!(config.tiers.load != LoadRule::Never);
            for tier in &config.tiers.tiers {
                let tokens = tokens[tier.medium as usize];
                prop_assert_eq!(tokens % config.block_size, 0);
                let link = tier.block_time * u64::from(tokens / config.block_size);
                prop_assert!(tokens == 0 || time >= link + tier.latency, "{tokens} in {time:?}");
            }
        }
    }
}

/// Prompt tokens that each request hit, one after another.
fn sequential_hits(config: &EngineConfig, requests: &[(u64, u32, u32, u32)]) -> Vec<u32> {
    let hour = SimDuration::from_secs(3_600).as_ps();
    let draw =
        |&(text, shared, own, output): &(u64, u32, u32, u32)| (hour, text, shared, own, output);
    let draws: Vec<Draw> = requests.iter().map(draw).collect();
    let (events, ..) = serve(config, &draws);
    let hits = events.iter().filter_map(|(_, event)| match event.kind {
        WorkerEventKind::Scheduled { cached_tokens } => Some(cached_tokens),
        _ => None,
    });
    hits.collect()
}

/// Engines of both rules, with room for one request at least; TensorRT-LLM's without
/// reuse of parts of blocks, which no tier keeps.
fn small_engine(vllm: bool, num_blocks: u32) -> EngineConfig {
    let options = TrtllmOptions { partial_reuse: false, ..TrtllmOptions::default() };
    let trtllm = EngineConfig { rules: Rules::Trtllm(options), ..trtllm_config() };
    let base = if vllm { vllm_config() } else { trtllm };
    EngineConfig { block_size: 4, num_blocks, max_model_len: 14 * 4, ..base }
}

/// Requests whose own part is never whole blocks, so that none computes a block
/// that is cached: copies count once in a large cache, and not at all below.
fn any_requests() -> impl Strategy<Value = Vec<(u64, u32, u32, u32)>> {
    let own = (0u32..3, 1u32..4).prop_map(|(blocks, tokens)| blocks * 4 + tokens);
    prop::collection::vec((0u64..8, 0u32..6, own, 1u32..10), 1..60)
}

proptest! {
    #![proptest_config(cases(1_000))]

    /// A tier behind a link without bounds is GPU memory: where blocks leave it when
    /// they are loaded, `n` blocks of it are worth what `n` blocks of GPU memory are.
    #[test]
    fn an_unlimited_tier_is_a_larger_cache(
        vllm: bool, requests in any_requests(), gpu in 14u32..30, host in 1u32..30, disk in 0u32..20,
    ) {
        let disk_tier = TierSpec { medium: Medium::Disk, ..unlimited(disk) };
        let tiers = [unlimited(host), disk_tier];
        let tiers = if disk > 0 { &tiers[..] } else { &tiers[..1] };
        let tiered = with_tiers(small_engine(vllm, gpu), tiers, Offload::Evicted);
        let large = small_engine(vllm, gpu + host + disk);
        let (tiered, large) = (sequential_hits(&tiered, &requests), sequential_hits(&large, &requests));
        if vllm {
            prop_assert_eq!(tiered, large);
        } else {
            // TensorRT-LLM's queue treats blocks that hold nothing as any others:
            // they take room in a large pool, and none in a tier.
            for (tiered, large) in tiered.iter().zip(&large) {
                prop_assert!(tiered >= large, "{tiered} tokens hit, {large} in a large pool");
            }
        }
    }

    /// Law 14.
    #[test]
    fn more_host_memory_never_lowers_hits(
        vllm: bool, requests in any_requests(), gpu in 14u32..30, host in 1u32..30, more in 1u32..20,
    ) {
        let hits = |blocks| {
            let tiers = [unlimited(blocks)];
            sequential_hits(&with_tiers(small_engine(vllm, gpu), &tiers, Offload::Evicted), &requests)
        };
        for (small, large) in hits(host).iter().zip(&hits(host + more)) {
            prop_assert!(small <= large, "{small} tokens hit, {large} with more host memory");
        }
    }

    /// Written as it is computed, what GPU memory loses is in the tier if that has room.
    #[test]
    fn a_tier_with_room_for_all_loses_nothing(
        vllm: bool, requests in any_requests(), gpu in 14u32..30, computed: bool,
    ) {
        let offload = if computed { Offload::Computed } else { Offload::Evicted };
        let tiered = with_tiers(small_engine(vllm, gpu), &[unlimited(5_000)], offload);
        let large = small_engine(vllm, 5_000);
        prop_assert_eq!(sequential_hits(&tiered, &requests), sequential_hits(&large, &requests));
    }

    /// What is loaded by rule `auto` makes no lone prompt slower than never loading.
    #[test]
    fn auto_is_never_slower_for_a_lone_request(
        vllm: bool, gpu in 14u32..30, requests in any_requests(), block_us in 1u64..20_000,
    ) {
        let spec = TierSpec { block_time: SimDuration::from_micros(block_us), ..unlimited(200) };
        let ttfts = |load| {
            let config = with_tiers(small_engine(vllm, gpu), &[spec], Offload::Computed);
            let tiers = TierOptions { load, ..config.tiers.clone() };
            let config = EngineConfig { tiers, step_time: roofline(), overlap: false, ..config };
            let (events, ..) = serve(&config, &requests.iter().map(|&(text, shared, own, output)| {
                (SimDuration::from_secs(3_600).as_ps(), text, shared, own, output)
            }).collect::<Vec<_>>());
            let first = |&(at, event): &(SimTime, WorkerEvent)| {
                (event.kind == WorkerEventKind::FirstToken).then_some(at)
            };
            events.iter().filter_map(first).collect::<Vec<_>>()
        };
        for (auto, never) in ttfts(LoadRule::Auto).iter().zip(&ttfts(LoadRule::Never)) {
            prop_assert!(auto <= never, "{auto:?} after {never:?}");
        }
    }
}

fn first_tokens(run: &Run) -> Vec<SimTime> {
    run.records.iter().map(|record| record.first_token.expect("served")).collect()
}

fn at_ms(ms: u64) -> SimTime {
    SimTime::ZERO + SimDuration::from_millis(ms)
}

/// A prompt of ten blocks of 16 and a token, of which everything may be cached.
fn prompt(id: u32, text: u64) -> kv_router_sim::request::Request {
    let shared = BlockRun { first: BlockId(text << 20), len: 10 };
    let content = Content::new([shared], super::rig::private_blocks(id));
    lone_request(id, 161, 3).with_content(content)
}

/// Steps of 20 ms with prompts and of 10 ms without; 12 blocks of GPU memory, so
/// that each text displaces the one before; 3 ms a block, and 1 ms.
fn slow_host(base: EngineConfig) -> EngineConfig {
    let spec = TierSpec {
        block_time: SimDuration::from_millis(3),
        latency: SimDuration::from_millis(1),
        ..unlimited(100)
    };
    let base = EngineConfig { overlap: false, num_blocks: 12, max_model_len: 190, ..base };
    with_tiers(base, &[spec], Offload::Evicted)
}

/// A lone prompt waits for its load, then computes the rest.
#[test]
fn a_load_takes_latency_and_bandwidth() {
    for base in [vllm_config(), trtllm_config()] {
        let config = slow_host(base);
        let requests = [(0, 0u64), (1_000, 1), (2_000, 0)];
        let script = (0..).zip(requests).map(|(id, (ms, text))| (at_ms(ms), prompt(id, text)));
        let settings = RouterSettings::new("round_robin");
        let run = play(&config, 1, Script::new(script), router(&settings, &config, 1), None);
        check(&run).unwrap();
        // Ten blocks of 3 ms and 1 ms; nine of them where the last is not lost yet.
        let (tokens, time) =
            run.events.iter().find_map(|(_, event)| loaded(event)).expect("a load");
        let blocks = u64::from(tokens[0] / 16);
        assert_eq!(tokens, [u32::try_from(blocks).unwrap() * 16, 0, 0]);
        assert_eq!(time, SimDuration::from_millis(3 * blocks + 1), "{:?}", config.rules);
        assert!(blocks >= 9, "{blocks} blocks");
        assert_eq!(run.records[2].cached_tokens, 160);
        let ttft = SimDuration::from_millis(3 * blocks + 1 + 20);
        assert_eq!(first_tokens(&run), [at_ms(20), at_ms(1_020), at_ms(2_000) + ttft]);
    }
}

/// While one prompt is loaded others go on, and a second load waits for the link.
#[test]
fn others_go_on_during_a_load() {
    for base in [vllm_config(), trtllm_config()] {
        let config = EngineConfig { num_blocks: 48, max_model_len: 700, ..slow_host(base) };
        // Four texts displace the first two; both come back at once, with a new prompt.
        let texts =
            [(0, 0u64), (500, 1), (1_000, 2), (1_500, 3), (2_000, 4), (2_500, 5), (3_000, 6)];
        let come_back = [(4_000, 0), (4_000, 1)];
        let script = (0..).zip(texts.into_iter().chain(come_back));
        let mut script: Vec<_> =
            script.map(|(id, (ms, text))| (at_ms(ms), prompt(id, text))).collect();
        script.push((at_ms(4_000), lone_request(9, 40, 3)));
        let settings = RouterSettings::new("round_robin");
        let run = play(&config, 1, Script::new(script), router(&settings, &config, 1), None);
        check(&run).unwrap();
        let loads: Vec<_> = run
            .events
            .iter()
            .filter_map(|(_, event)| Some((event.request, loaded(event)?)))
            .collect();
        let [(first, (_, one)), (second, (_, two))] = loads[..] else { panic!("{loads:?}") };
        assert_eq!((first, second), (RequestId(7), RequestId(8)));
        assert_eq!(one, SimDuration::from_millis(31), "{:?}", config.rules);
        // Twenty blocks after it was asked for, and the latency once.
        assert_eq!(two, SimDuration::from_millis(61));
        assert_eq!(run.records[9].first_token, Some(at_ms(4_020)), "{:?}", config.rules);
        assert!(run.records[7].first_token > run.records[9].first_token);
        assert!(
            run.records.iter().all(|record| matches!(record.end, Some((_, End::Finished { .. }))))
        );
    }
}

/// Of two prompts that need the same blocks one loads them, the other waits and
/// hits them.
#[test]
fn what_is_being_loaded_is_not_loaded_twice() {
    for base in [vllm_config(), trtllm_config()] {
        let config = EngineConfig { num_blocks: 48, max_model_len: 700, ..slow_host(base) };
        let texts = [(0, 0u64), (500, 1), (1_000, 2), (1_500, 3), (2_000, 4), (2_500, 5)];
        let script = (0..).zip(texts.into_iter().chain([(4_000, 0), (4_000, 0)]));
        let script = script.map(|(id, (ms, text))| (at_ms(ms), prompt(id, text)));
        let settings = RouterSettings::new("round_robin");
        let run = play(&config, 1, Script::new(script), router(&settings, &config, 1), None);
        check(&run).unwrap();
        let loads = run.events.iter().filter(|(_, event)| loaded(event).is_some());
        assert_eq!(loads.count(), 1, "{:?}", config.rules);
        assert_eq!(run.records[6].cached_tokens, 160);
        assert_eq!(run.records[7].cached_tokens, 160, "{:?}", config.rules);
    }
}

/// Texts one after another, each of them twice, and the times from sending to the first
/// token; GPU memory has room for one of them only.
fn twice(lengths: &[u32], bandwidth: f64) -> Vec<(f64, f64)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let model = Model::load(&folder.join("llama-3.1-8b-bf16-h100-vllm.toml")).expect("shipped");
    let measure = |&tokens: &u32| {
        let settings = format!(
            "num_blocks = {}
            max_model_len = {}
            cuda_graph.mixed = true
            tier = [{{ name = \"host\", capacity = \"500GB\", bandwidth = \"{bandwidth}GB/s\" }}]",
            tokens / 16 + 20,
            tokens + 100,
        );
        let sheet = Sheet::parse(Path::new("tiers.toml"), &settings).expect("TOML");
        let merged = sheet.over(model.engine_sheet().clone());
        let settings: EngineSettings = merged.read().expect("settings");
        let config = settings.resolve(model.hardware.as_ref()).expect("an engine");
        let script = (0..).zip([0u64, 1, 0]).map(|(id, text)| {
            let shared = BlockRun { first: BlockId(text << 20), len: tokens / 16 };
            let content = Content::new([shared], super::rig::private_blocks(id));
            let request = lone_request(id, tokens / 16 * 16 + 1, 1);
            (at_ms(60_000 * u64::from(id)), request.with_content(content))
        });
        let settings = RouterSettings::new("round_robin");
        let run = play(&config, 1, Script::new(script), router(&settings, &config, 1), None);
        assert_eq!(run.records[2].cached_tokens, tokens / 16 * 16);
        let ttft = |at: usize| {
            let record = &run.records[at];
            (record.first_token.expect("served") - record.sent).as_secs() * 1e3
        };
        (ttft(0), ttft(2))
    };
    lengths.iter().map(measure).collect()
}

/// vLLM's measurement of its host memory offload on an H100 (Llama-3.1-8B, 50 GB/s
/// one way; blog.vllm.ai of 8 January 2026): loading a prompt takes a half of the
/// time to first token at 512 tokens, and down to one of 22 parts at longer ones
/// (figure 1; the text names no length for that). Nothing here is fitted to it.
#[test]
fn loading_beats_computing_as_vllm_measured() {
    let lengths = [512, 2_048, 8_192, 32_768, 102_400];
    let times = twice(&lengths, 50.0);
    let ratios: Vec<f64> = times.iter().map(|(computed, loaded)| computed / loaded).collect();
    assert!(ratios.is_sorted(), "{ratios:?}");
    assert!((1.8..2.2).contains(&ratios[0]), "{ratios:?}");
    assert!((20.0..24.0).contains(&ratios[4]), "{ratios:?}");
}

fn resolved(toml: &str) -> Result<EngineConfig, String> {
    let settings: EngineSettings = toml::from_str(toml).map_err(|error| error.to_string())?;
    settings.resolve(None).map_err(|invalid| invalid.to_string())
}

const ENGINE: &str = "rules = \"vllm\"\nnum_blocks = 100\nmax_num_seqs = 4\n\
    max_num_batched_tokens = 64\nstep_time = { kind = \"instant\" }\nkv_bytes_per_token = 1000\n";

#[test]
fn a_tier_of_no_capacity_is_no_tier() {
    let tier = |capacity: &str| {
        resolved(&format!(
            "{ENGINE}tier = [{{ name = \"host\", capacity = {capacity}, bandwidth = \"1GB/s\" }}]"
        ))
    };
    let none = resolved(ENGINE).unwrap();
    assert_eq!(tier("0").unwrap(), none);
    assert_eq!(tier("\"0GiB\"").unwrap(), none);
    // Less than a block of 16,000 bytes is none either.
    assert_eq!(tier("\"0.01MB\"").unwrap(), none);
    assert_eq!(tier("\"1GB\"").unwrap().tiers.tiers[0].blocks, 62_500);
    assert_eq!(tier("7").unwrap().tiers.tiers[0].block_time, SimDuration::from_micros(16));
}

/// A worker of two GPUs has what both need: 160 KiB a token for Llama-3.1-70B at 8 bits.
#[test]
fn a_token_has_the_bytes_of_all_gpus() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    for file in ["llama-3.1-70b-fp8-h200-trtllm.toml", "llama-3.1-70b-fp8-h100-tp2-trtllm.toml"] {
        let model = Model::load(&folder.join(file)).expect("a shipped model");
        let config = model.engine_config().unwrap();
        assert_eq!(config.kv_bytes_per_token, Some(163_840.0), "{file}");
    }
}

#[test]
fn tiers_that_cannot_be() {
    let tier = |tiers: &str| resolved(&format!("{ENGINE}{tiers}")).unwrap_err();
    let host = "{ name = \"host\", capacity = 9, bandwidth = \"50GB/s\" }";
    let disk = "{ name = \"disk\", capacity = 9, bandwidth = \"5GB/s\" }";
    let fast = "{ name = \"disk\", capacity = 9, bandwidth = \"60GB/s\" }";
    let lines = [
        tier(&format!("tier = [{disk}, {host}]")),
        tier(&format!("tier = [{host}, {fast}]")),
        tier(&format!("tier = [{host}, {host}]")),
        tier(&format!("tier = [{}]", host.replace("50GB/s", "1kB/s")))
            .lines()
            .last()
            .unwrap()
            .into(),
        tier(&format!("tier = [{}]", host.replace("50GB/s", "0GB/s")))
            .lines()
            .last()
            .unwrap()
            .into(),
        tier(&format!("tier = [{}]", host.replace("50GB/s", "0.000001MB/s"))),
        tier(&format!("tier = [{}]", host.replace("= 9", "= 4294967295"))),
        tier(&format!("tier = [{}]", host.replace("= 9", "= -1"))).lines().last().unwrap().into(),
    ];
    insta::assert_snapshot!(lines.join("\n"), @r#"
    tier[1].name = "host": must be listed before "disk": tiers stand in the order "host", "disk", "remote"
    tier[1].bandwidth = 60.0 GB/s: must be at most that of the tier above ("host", 50.0 GB/s): tiers stand from fast to slow
    tier[1].name = "host": must be named once: give it the sum of both capacities
    "1kB/s" is not bytes or bits per second, like "50GB/s" or "400Gbit/s", above 0, or "unlimited"
    "0GB/s" is not bytes or bits per second, like "50GB/s" or "400Gbit/s", above 0, or "unlimited"
    tier[0].bandwidth = 16000 s for a KV block: must be fast enough to move a KV block within a second
    tier[0].capacity = 4294967295 blocks: must be at most 1073741824 blocks
    -1 is not bytes with their unit, like "200GiB" or "1TB", or a number of KV blocks
    "#);
}

/// From the program: one line with its place.
#[test]
fn mistakes_about_tiers_are_one_line() {
    let place = Scratch::new();
    let mistakes = [
        ("name = \"host\"\ncapacity = \"1GiB\"\nbandwidth = \"50GB/s\"\n", ""),
        ("name = \"host\"\ncapacity = 100\nbandwidth = \"50GB/s\"\n", ""),
        ("name = \"tape\"\ncapacity = 100\nbandwidth = \"unlimited\"\n", ""),
        ("name = \"host\"\ncapacity = 100\nbandwidth = \"0GB/s\"\n", ""),
        ("name = \"host\"\ncapacity = 100\nbandwidth = \"unlimited\"\nlatncy = \"1ms\"\n", ""),
        (
            "name = \"host\"\ncapacity = 100\nbandwidth = \"unlimited\"\n",
            "[[engine.tier]]\nname = \"host\"\ncapacity = 100\nbandwidth = \"unlimited\"\n",
        ),
    ];
    let lines = mistakes.map(|(one, more)| {
        let tiers = format!("[[engine.tier]]\n{one}{more}\n[router]\n");
        place.write("bad.toml", EXPERIMENT.replacen("[router]\n", &tiers, 1));
        let output = place.sim(&["run", "bad.toml"]);
        assert_eq!(output.status.code(), Some(2));
        let line = text(&output.stderr).to_owned();
        assert_eq!(line.lines().count(), 1, "{line}");
        line.trim_end().to_owned()
    });
    insta::assert_snapshot!(lines.join("\n"), @r#"
    error: bad.toml:6: engine.kv_bytes_per_token is missing: must be given, as there is no model file with GPUs: a capacity in bytes needs it
    error: bad.toml:6: engine.kv_bytes_per_token is missing: must be given, as there is no model file with GPUs: a bandwidth needs it
    error: bad.toml:15: engine.tier[0].name = "tape": must be one of "host", "disk", "remote"
    error: bad.toml:17: engine.tier[0].bandwidth = "0GB/s": "0GB/s" is not bytes or bits per second, like "50GB/s" or "400Gbit/s", above 0, or "unlimited"
    error: bad.toml:18: unknown key engine.tier[0].latncy; did you mean latency?
    error: bad.toml:19: engine.tier[1].name = "host": must be named once: give it the sum of both capacities
    "#);
}

/// From the program: metrics by tier, and a tier that holds everything wins hits.
#[test]
fn an_experiment_with_host_memory() {
    let place = Scratch::new();
    let small = EXPERIMENT
        .replacen(
            "num_blocks = \"4k\"",
            "num_blocks = 40\nkv_bytes_per_token = 1_000\nload = \"always\"",
            1,
        )
        .replacen("concurrency\" = [2, 4]", "concurrency\" = [4]", 1);
    let tiers =
        "[[engine.tier]]\nname = \"host\"\ncapacity = 500\nbandwidth = \"1GB/s\"\n[router]\n";
    place.write("plain.toml", &small);
    place.write("tiered.toml", small.replacen("[router]\n", tiers, 1));
    let value = |folder: &str, name: &str| {
        let path = place.path().join(folder).join("summary.json");
        let summary = std::fs::read_to_string(path).expect("written");
        let summary: serde_json::Value = serde_json::from_str(&summary).expect("JSON");
        summary["points"][0]["metrics"][name]["mean"].as_f64()
    };
    for name in ["plain", "tiered"] {
        let output = place.sim(&["run", &format!("{name}.toml"), "--out", name]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    }
    assert_eq!(value("plain", "hit_ratio_host"), None);
    let (plain, tiered) = (value("plain", "hit_ratio"), value("tiered", "hit_ratio"));
    let host = value("tiered", "hit_ratio_host").expect("measured");
    assert!(host > 0.03 && tiered > plain, "{tiered:?}, {host} of it from host memory, {plain:?}");
    assert!(value("tiered", "load_ms_p50").expect("measured") > 0.0);
    assert!(value("tiered", "loaded_gb_per_s").expect("measured") > 0.0);
}
