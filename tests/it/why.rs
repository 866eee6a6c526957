//! The regret of choices: measuring it changes nothing, the parts add up to what
//! an unlimited shared cache would have had, and each part is what it says.

use super::rig::{any_conversations, any_draws, any_engine, any_policy, arrivals, cases};
use super::rig::{closed_loop, lone_request, vllm_config};
use super::script::{Run, Script, play, play_behind, router};
use kv_router_sim::engine::config::EngineConfig;
use kv_router_sim::event::WorkerEventKind;
use kv_router_sim::id::BlockId;
use kv_router_sim::recorder::{End, RequestRecord, RequestWhy};
use kv_router_sim::request::Request;
use kv_router_sim::router::settings::RouterSettings;
use kv_router_sim::time::{SimDuration, SimTime};
use proptest::prelude::*;
use std::collections::BTreeSet;

fn without_why(records: &[RequestRecord]) -> Vec<RequestRecord> {
    let mut records = records.to_vec();
    records.iter_mut().for_each(|record| record.why = None);
    records
}

/// Leading blocks of each request that anyone had computed when it was first
/// scheduled, by request.
fn bounds(config: &EngineConfig, run: &Run, requests: &[Request]) -> Vec<Option<u32>> {
    let mut computed: BTreeSet<BlockId> = BTreeSet::new();
    let mut bounds = vec![None; requests.len()];
    for (_, event) in &run.events {
        let request = &requests[event.request.index()];
        let blocks = |tokens: u32| request.content.blocks((tokens - 1) / config.block_size);
        match event.kind {
            WorkerEventKind::Scheduled { .. } => {
                let known = blocks(request.prompt_tokens).take_while(|id| computed.contains(id));
                bounds[event.request.index()] = Some(u32::try_from(known.count()).unwrap());
            }
            WorkerEventKind::FirstToken => computed.extend(blocks(request.prompt_tokens)),
            WorkerEventKind::Finished { output_tokens } => {
                computed.extend(blocks(request.prompt_tokens + output_tokens));
            }
            _ => {}
        }
    }
    bounds
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn measuring_why_changes_nothing(
        config in any_engine(), policy in any_policy(), draws in any_draws(), workers in 1u32..4,
    ) {
        let requests = arrivals(&draws, config.block_size);
        let run = |why| {
            let router = router(&policy, &config, workers);
            play_behind(&config, workers, Script::new(requests.clone()), vec![router], None, why)
        };
        let (plain, measured) = (run(false), run(true));
        prop_assert_eq!(plain.digest, measured.digest);
        prop_assert_eq!(&plain.events, &measured.events);
        prop_assert_eq!(&plain.records, &without_why(&measured.records));
        for (name, value) in &plain.metrics {
            prop_assert_eq!(value, &measured.metrics[name], "{}", name);
        }
    }

    #[test]
    fn losses_add_up_to_the_bound(
        config in any_engine(), policy in any_policy(), draws in any_draws(), workers in 1u32..4,
    ) {
        let arrivals = arrivals(&draws, config.block_size);
        let requests: Vec<Request> = arrivals.iter().map(|(_, request)| request.clone()).collect();
        let router = router(&policy, &config, workers);
        let script = Script::new(arrivals);
        let run = play_behind(&config, workers, script, vec![router], None, true);
        let bounds = bounds(&config, &run, &requests);
        let (mut sums, mut cached, mut prompts) = ([0; 3], 0, 0);
        for record in &run.records {
            let Some(why) = record.why else {
                prop_assert_eq!(bounds[record.request.index()], None);
                continue;
            };
            let bound = bounds[record.request.index()].expect("it was scheduled");
            let hit = record.cached_tokens / config.block_size;
            let lost = why.lost_tokens() / config.block_size;
            // Blocks may be hit, or held by others, before their prompt is done.
            prop_assert!(hit + lost >= bound, "{record:?}, bound {bound}");
            if why.eviction_tokens > 0 {
                prop_assert_eq!(hit + lost, bound);
            }
            if workers == 1 {
                prop_assert_eq!(why.regret_blocks, 0);
                prop_assert_eq!(why.lost_tokens(), why.eviction_tokens);
            }
            if policy.policy != "kv" {
                prop_assert_eq!(why.stale_index_tokens, 0, "no index that could be stale");
            }
            if matches!(record.end, Some((_, End::Finished { .. }))) {
                sums[0] += why.eviction_tokens;
                sums[1] += why.wrong_worker_tokens;
                sums[2] += why.stale_index_tokens;
                cached += record.cached_tokens;
                prompts += record.prompt_tokens;
            }
        }
        if prompts > 0 {
            let share = |tokens: u32| Some(f64::from(tokens) / f64::from(prompts));
            let metric = |name: &str| run.metrics[name];
            prop_assert_eq!(metric("lost_to_eviction_ratio"), share(sums[0]));
            prop_assert_eq!(metric("lost_to_wrong_worker_ratio"), share(sums[1]));
            prop_assert_eq!(metric("lost_to_stale_index_ratio"), share(sums[2]));
            prop_assert_eq!(metric("hit_ratio"), share(cached));
            prop_assert_eq!(metric("hit_ratio_bound"), share(cached + sums.iter().sum::<u32>()));
        }
    }

    #[test]
    fn conversations_lose_nothing_on_one_worker_with_room(
        loops in any_conversations(), seed: u64,
    ) {
        let config = EngineConfig { num_blocks: 1 << 20, max_model_len: 1 << 20, ..vllm_config() };
        let router = router(&RouterSettings::new("round_robin"), &config, 1);
        let workload = closed_loop(&loops, &config, seed);
        let window = Some(SimDuration::from_secs(2));
        let run = play_behind(&config, 1, workload, vec![router], window, true);
        for record in &run.records {
            prop_assert_eq!(record.why.unwrap_or_default().lost_tokens(), 0, "{:?}", record);
        }
    }
}

/// Three requests of one prompt, one after the other, on two workers in turn: the
/// second finds nothing on its worker, the third all but its last block.
#[test]
fn a_prompt_in_the_wrong_place_is_lost_to_the_wrong_worker() {
    let config = EngineConfig { num_blocks: 1_000, max_model_len: 10_000, ..vllm_config() };
    let block = config.block_size;
    let text = lone_request(0, 10 * block + 3, 2);
    let requests = (0u32..3).map(|n| {
        let id = kv_router_sim::id::RequestId(n);
        (SimTime::ZERO + SimDuration::from_secs(u64::from(n)), text.clone().numbered(id))
    });
    let router = router(&RouterSettings::new("round_robin"), &config, 2);
    let run = play_behind(&config, 2, Script::new(requests), vec![router], None, true);
    let why: Vec<RequestWhy> = run.records.iter().map(|record| record.why.unwrap()).collect();
    assert_eq!(why[0], RequestWhy::default());
    let wrong_worker_tokens = 10 * block;
    assert_eq!(why[1], RequestWhy { regret_blocks: 10, wrong_worker_tokens, ..why[0] });
    assert_eq!(why[2], RequestWhy::default());
    assert_eq!(run.records[2].cached_tokens, 10 * block);
}

/// Where caches and queues are all that differs, no policy is sooner than the
/// oracle with its first request.
#[test]
fn the_oracle_goes_where_the_prompt_is_unless_others_wait_there() {
    let config = EngineConfig { num_blocks: 1_000, max_model_len: 10_000, ..vllm_config() };
    let text = lone_request(0, 20 * config.block_size + 3, 2);
    let at = |n: u32, ms: u64| {
        let id = kv_router_sim::id::RequestId(n);
        (SimTime::ZERO + SimDuration::from_millis(ms), text.clone().numbered(id))
    };
    let requests = (0..6).map(|n| at(n, 1_000 * u64::from(n)));
    let router = router(&RouterSettings::new("oracle"), &config, 3);
    let run = play(&config, 3, Script::new(requests), router, None);
    let first = run.submitted[0].1;
    assert!(run.submitted.iter().all(|(_, worker, _)| *worker == first), "{:?}", run.submitted);
}
