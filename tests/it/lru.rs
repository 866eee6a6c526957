//! What reuse distances promise, held against caches that run: on requests that
//! come one after another, a worker's cache under vLLM's rules is least recently
//! used first, so it hits exactly the blocks with a distance below its size.

use super::rig::{cases, vllm_config};
use super::script::{play, router};
use kv_router_sim::engine::config::EngineConfig;
use kv_router_sim::router::settings::RouterSettings;
use kv_router_sim::workload::trace::{ReadOptions, ReuseDistances, Trace, TraceReplay};
use proptest::prelude::*;
use std::fmt::Write as _;
use std::sync::Arc;

const BLOCK: u32 = 16;

/// Rows a minute apart, each of which has some leading blocks of an earlier row,
/// then new ones; with `partial` a last block of its own that is not full, in
/// which the answer stays.
fn trace(plan: &[(prop::sample::Index, usize, u64)], partial: bool) -> Trace {
    let mut rows: Vec<Vec<u64>> = Vec::new();
    let (mut next, mut text) = (0, String::new());
    for (i, (earlier, keep, new)) in plan.iter().enumerate() {
        let mut ids: Vec<u64> = match rows.is_empty() {
            true => Vec::new(),
            false => {
                let earlier = earlier.get(&rows);
                earlier[..(*keep).min(earlier.len() - 1)].to_vec()
            }
        };
        ids.extend(next..next + new + 1);
        next += new + 1;
        // A partial block of its own behind them: never stored, so it goes back first.
        let (mut input, mut written) =
            (u32::try_from(ids.len()).expect("few") * BLOCK, ids.clone());
        if partial {
            input += BLOCK / 2;
            written.push(1_000_000 + u64::try_from(i).expect("few"));
        }
        writeln!(
            text,
            "{{\"timestamp\": {}, \"input_length\": {input}, \"output_length\": 2, \"hash_ids\": {written:?}}}",
            i * 60_000
        )
        .expect("text");
        rows.push(ids);
    }
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), text).expect("written");
    let options = ReadOptions { block_tokens: BLOCK, ..ReadOptions::default() };
    Trace::read(file.path(), &options).expect("a trace")
}

/// Blocks that one worker with `blocks` of them hits.
fn hits(trace: &Arc<Trace>, blocks: u32) -> u64 {
    let config = EngineConfig {
        block_size: BLOCK,
        num_blocks: blocks,
        max_num_batched_tokens: 100_000,
        max_model_len: blocks * BLOCK,
        ..vllm_config()
    };
    let replay = Box::new(TraceReplay::new(Arc::clone(trace), BLOCK, 1.0));
    let front_end = router(&RouterSettings::new("round_robin"), &config, 1);
    let run = play(&config, 1, replay, front_end, None);
    run.records.iter().map(|record| u64::from(record.cached_tokens / BLOCK)).sum()
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn a_cache_hits_what_the_distances_say(
        plan in prop::collection::vec((any::<prop::sample::Index>(), 0..12usize, 0..8u64), 2..60),
        spare in 0..40u32,
    ) {
        let whole_blocks = trace(&plan, false);
        let most = whole_blocks.rows().iter().map(|row| row.input_tokens / BLOCK).max();
        let blocks = most.expect("rows") + spare;
        let distances = ReuseDistances::of_references(&whole_blocks);
        let below = distances.iter().flatten().filter(|distance| **distance < u64::from(blocks));
        // One more block, for the end of the prompt and the answer.
        prop_assert_eq!(hits(&Arc::new(trace(&plan, true)), blocks + 1), below.count() as u64);
    }
}
