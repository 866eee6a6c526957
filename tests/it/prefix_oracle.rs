//! Law 7: no worker hits more than the prefix oracle of the same assignment, a
//! cache that never evicts; and with room and no time, it hits exactly what the
//! engine's rules leave of it.

use super::rig::{any_conversations, any_draws, any_engine, any_policy, arrivals, cases};
use super::rig::{closed_loop, trtllm_config, vllm_config};
use super::script::{Run, Script, play, router};
use kv_router_sim::engine::config::{EngineConfig, Rules};
use kv_router_sim::engine::step_time::StepTime;
use kv_router_sim::event::WorkerEventKind;
use kv_router_sim::id::RequestId;
use kv_router_sim::request::Request;
use kv_router_sim::router::settings::RouterSettings;
use kv_router_sim::time::{SimDuration, SimTime};
use kv_router_sim::workload::trace::{PublicTrace, ReadOptions, Trace, TraceReplay, TraceStats};
use kv_router_sim::workload::{Arrival, Workload};
use proptest::prelude::*;
use std::cell::RefCell;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

/// Tokens at the start of `a` that are the same in `b`, whose answer counts too.
fn common_tokens(a: &Request, b: &Request, block_size: u32) -> u32 {
    let (a_tokens, b_tokens) = (a.prompt_tokens, b.prompt_tokens + b.output_tokens);
    let (mut common, mut index) = (0, 0);
    loop {
        let left = (a_tokens - common).min(b_tokens - common);
        let same_block = a.content.block(index) == b.content.block(index);
        if same_block && left > block_size {
            common += block_size;
            index += 1;
            continue;
        }
        let ends_here = |content: &kv_router_sim::request::Content| {
            content.shared_blocks() == index && content.fork_tokens() == a.content.fork_tokens()
        };
        let fork = if index > 0 && ends_here(&a.content) && ends_here(&b.content) {
            a.content.fork_tokens()
        } else {
            0
        };
        return common + if same_block { left } else { fork.min(left) };
    }
}

/// Prompt tokens that a cache without end would have of each request of `run`
/// when its worker first schedules it, as far as `config`'s rules can use them.
fn check_bound(
    config: &EngineConfig,
    run: &Run,
    requests: &[Request],
) -> Result<(), TestCaseError> {
    let mut seen: Vec<Vec<RequestId>> = Vec::new();
    for (_, event) in &run.events {
        let WorkerEventKind::Scheduled { cached_tokens } = event.kind else { continue };
        let request = &requests[event.request.index()];
        seen.resize_with(seen.len().max(event.worker.index() + 1), Vec::new);
        let before = &mut seen[event.worker.index()];
        let common = before
            .iter()
            .map(|other| common_tokens(request, &requests[other.index()], config.block_size))
            .max();
        let usable = common.unwrap_or(0).min(request.prompt_tokens - 1);
        let bound = match config.rules {
            _ if !config.prefix_caching => 0,
            Rules::Vllm(_) => usable / config.block_size * config.block_size,
            Rules::Trtllm(_) => usable,
        };
        prop_assert!(cached_tokens <= bound, "{cached_tokens} of {bound} tokens: {request:?}");
        before.push(event.request);
    }
    Ok(())
}

/// Keeps a copy of every request of a workload.
struct Copying<W> {
    workload: W,
    copies: Rc<RefCell<Vec<Request>>>,
}

impl<W: Workload> Workload for Copying<W> {
    fn next_arrival(&self) -> Option<SimTime> {
        self.workload.next_arrival()
    }

    fn take(&mut self) -> Arrival {
        let arrival = self.workload.take();
        self.copies.borrow_mut().push(arrival.request.clone());
        arrival
    }

    fn observe_end(&mut self, now: SimTime, request: RequestId, served: bool) {
        self.workload.observe_end(now, request, served);
    }

    fn behind(&self) -> Option<&dyn Workload> {
        Some(&self.workload)
    }

    fn behind_mut(&mut self) -> Option<&mut dyn Workload> {
        Some(&mut self.workload)
    }
}

proptest! {
    #![proptest_config(cases(500))]

    #[test]
    fn hits_of_texts_stay_below_the_oracle(
        config in any_engine(), policy in any_policy(), draws in any_draws(), workers in 1u32..4,
    ) {
        let arrivals = arrivals(&draws, config.block_size);
        let requests: Vec<Request> = arrivals.iter().map(|(_, request)| request.clone()).collect();
        let script = Script::new(arrivals);
        let run = play(&config, workers, script, router(&policy, &config, workers), None);
        check_bound(&config, &run, &requests)?;
    }

    #[test]
    fn hits_of_conversations_stay_below_the_oracle(
        config in any_engine(), policy in any_policy(), loops in any_conversations(),
        workers in 1u32..4, seed: u64,
    ) {
        let copies = Rc::default();
        let workload = *closed_loop(&loops, &config, seed);
        let workload = Box::new(Copying { workload, copies: Rc::clone(&copies) });
        let window = Some(SimDuration::from_secs(1));
        let run = play(&config, workers, workload, router(&policy, &config, workers), window);
        check_bound(&config, &run, &copies.borrow())?;
    }
}

/// An engine that nothing holds back: no time passes, everything fits.
fn unlimited(base: &EngineConfig, block_size: u32) -> EngineConfig {
    EngineConfig {
        block_size,
        num_blocks: 1 << 24,
        max_num_seqs: 65_536,
        max_num_batched_tokens: u32::MAX / 2,
        max_model_len: 1_000_000,
        step_time: StepTime::Instant,
        ..base.clone()
    }
}

/// Blocks of `block_size` that one unlimited worker hits of `trace`.
fn hit_blocks(trace: &Arc<Trace>, base: &EngineConfig, block_size: u32) -> u32 {
    let config = unlimited(base, block_size);
    let replay = Box::new(TraceReplay::new(Arc::clone(trace), block_size, 1.0));
    let policy = RouterSettings::new("round_robin");
    let run = play(&config, 1, replay, router(&policy, &config, 1), None);
    assert_eq!(run.records.len(), trace.rows().len());
    run.records.iter().map(|record| record.cached_tokens / block_size).sum()
}

#[test]
fn a_small_trace_hits_what_the_rules_leave_of_the_oracle() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("traces/fixtures/mooncake-small.jsonl");
    let trace = Arc::new(Trace::read(&path, &ReadOptions::default()).expect("the fixture"));
    let stats = TraceStats::of(&trace);
    assert_eq!((stats.repeats_blocks, stats.references_blocks), (9, 16));
    // Row by row 0, 2, 1, 2, 3, 0: partial last blocks never hit, and of the
    // 2,048 tokens of the fifth row the last block is computed.
    assert_eq!(hit_blocks(&trace, &vllm_config(), 512), 8);
    // In blocks of 64: 0, 17, 8, 16, 24, 0.
    assert_eq!(hit_blocks(&trace, &vllm_config(), 64), 65);
    // TensorRT-LLM stores a prompt when its step is done: of the first three
    // rows, which arrive together, the second runs before that and misses, the
    // third waits for the second and hits.
    assert_eq!(hit_blocks(&trace, &trtllm_config(), 512), 6);
}

/// Needs the file of a public trace; see traces/manifest.toml.
#[test]
fn the_conversation_trace_hits_what_the_rules_leave_of_the_oracle() {
    let Some(folder) = std::env::var_os("SIM_TRACES") else {
        // Past the capture of the test runner, so that the gap is seen.
        let skipped = "SKIPPED the conversation trace: set SIM_TRACES to a folder of public traces";
        writeln!(std::io::stderr(), "{skipped}").expect("standard error");
        return;
    };
    let public = PublicTrace::named("mooncake-conversation").expect("in the manifest");
    let path = public.find(&[PathBuf::from(folder)]).expect("the trace");
    public.verify(&path).expect("the trace as published");
    let trace = Arc::new(Trace::read(&path, &ReadOptions::default()).expect("a trace"));
    let stats = TraceStats::of(&trace);
    assert_eq!((stats.repeats_blocks, stats.references_blocks), (105_710, 288_500));
    assert_eq!(hit_blocks(&trace, &vllm_config(), 512), 105_592);
}
