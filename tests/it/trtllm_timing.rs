//! TensorRT-LLM's timing, with times worked out by hand (the rules T of
//! docs/engine-rules.md).
//!
//! A step with prompt tokens takes 20 ms more, a step with decodes 10 ms more,
//! the host no time. With overlap scheduling, step `k + 1` is formed when step
//! `k` starts on the GPU, which is when step `k - 1` ends.

use super::rig::{lone_request, private_blocks, trtllm_config};
use kv_router_sim::engine::config::{EngineConfig, Rules, StoreContext, TrtllmOptions};
use kv_router_sim::engine::{Outbox, StepRecord, Wake, Worker};
use kv_router_sim::event::{KvEvent, WorkerEventKind};
use kv_router_sim::id::{BlockId, WorkerId};
use kv_router_sim::request::{BlockRun, Content, Request};
use kv_router_sim::time::{SimDuration, SimTime};
use std::sync::Arc;

/// Milliseconds; every time of these tests is a whole number of them.
fn ms(at: SimTime) -> u64 {
    assert_eq!(at.as_ps() % 1_000_000_000, 0, "{at:?}");
    at.as_ps() / 1_000_000_000
}

/// Times in the life of a request in milliseconds, and what it hit.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
struct Life {
    scheduled: u64,
    cached_tokens: u32,
    first_token: u64,
    finished: u64,
}

struct Outcome {
    lives: Vec<Life>,
    steps: Vec<StepRecord>,
    kv: Vec<(u64, KvEvent)>,
}

/// Runs requests, each with its arrival in milliseconds, on one worker.
fn run(config: EngineConfig, requests: &[(u64, Request)]) -> Outcome {
    let config = EngineConfig { fast_forward: false, ..config };
    let mut worker = Worker::new(WorkerId(0), Arc::new(config), true);
    let mut out = Outbox::with_steps();
    let mut arrivals = requests.iter().peekable();
    loop {
        let arrival = arrivals.peek().map(|(at, _)| SimTime::ZERO + SimDuration::from_millis(*at));
        // At one moment steps end first, then requests arrive, then steps start.
        match (worker.wake(), arrival) {
            (Some(Wake::FinishStep(at)), next) if next.is_none_or(|next| at <= next) => {
                worker.finish_step(at, &mut out);
            }
            (Some(Wake::StartStep(at)), next) if next.is_none_or(|next| at < next) => {
                worker.start_step(at, &mut out);
            }
            (_, Some(at)) => {
                let (_, request) = arrivals.next().expect("peeked");
                worker.submit(at, request, &mut out).expect("a request that fits");
            }
            (None, None) => break,
            (Some(_), None) => unreachable!("handled above"),
        }
    }
    let mut lives = vec![Life::default(); requests.len()];
    for (at, event) in &out.events {
        let life = &mut lives[event.request.index()];
        match event.kind {
            WorkerEventKind::Scheduled { cached_tokens } => {
                *life = Life { scheduled: ms(*at), cached_tokens, ..*life };
            }
            WorkerEventKind::FirstToken => life.first_token = ms(*at),
            WorkerEventKind::Finished { .. } => life.finished = ms(*at),
            other => panic!("{other:?}"),
        }
    }
    let mut kv = Vec::new();
    worker.take_kv_events(SimTime::MAX, &mut out, |_, at, event| kv.push((ms(at), event)));
    Outcome { lives, steps: out.steps.expect("recorded"), kv }
}

/// A prompt of which the first `shared_tokens` (blocks of 16) are common to all.
fn sharing(id: u32, shared_tokens: u32, prompt_tokens: u32, output_tokens: u32) -> Request {
    let shared = BlockRun { first: BlockId(1), len: shared_tokens / 16 };
    let content = Content::new([shared], private_blocks(id)).with_fork_tokens(shared_tokens % 16);
    lone_request(id, prompt_tokens, output_tokens).with_content(content)
}

/// Tokens of prompts in each step, in order.
fn prefill_tokens(outcome: &Outcome) -> Vec<u32> {
    outcome.steps.iter().map(|step| step.prefill_tokens).collect()
}

#[test]
fn t29_the_first_token_leaves_at_the_end_of_its_own_step() {
    let lives = run(trtllm_config(), &[(5, lone_request(0, 100, 4))]).lives;
    let expected = Life { scheduled: 5, cached_tokens: 0, first_token: 25, finished: 55 };
    assert_eq!(lives, [expected]);
}

#[test]
fn t29_not_if_launching_the_next_step_takes_longer() {
    let mut config = trtllm_config();
    config.host.prepare = SimDuration::from_millis(15);
    let lives = run(config, &[(0, lone_request(0, 100, 2))]).lives;
    // Step 0 is launched at 15 and runs until 35. Step 1 is formed at 15, ready
    // at 30, runs until 45; the results of step 0 are handled at 35.
    let expected = Life { scheduled: 0, cached_tokens: 0, first_token: 35, finished: 45 };
    assert_eq!(lives, [expected]);
    let mut config = trtllm_config();
    config.host.prepare = SimDuration::from_millis(50);
    let lives = run(config, &[(0, lone_request(0, 100, 2))]).lives;
    // Step 0: launched at 50, ends at 70. Step 1: formed at 50, ready at 100:
    // only then the host looks at step 0's results.
    let expected = Life { scheduled: 0, cached_tokens: 0, first_token: 100, finished: 110 };
    assert_eq!(lives, [expected]);
}

#[test]
fn t27_an_arrival_waits_for_the_running_step_and_the_next() {
    // The prompt runs until 20, then steps end at 30, 40, 50, 60 ...
    let requests = [(0, lone_request(0, 100, 50)), (33, lone_request(1, 100, 2))];
    let outcome = run(trtllm_config(), &requests);
    // It arrives in the step that ends at 40, is fetched there, and runs after
    // the step that ends at 50: prompt and decode, 30 ms.
    let late = outcome.lives[1];
    assert_eq!((late.scheduled, late.first_token, late.finished), (40, 80, 90));
}

#[test]
fn t27_an_idle_engine_wakes_with_one_request_only() {
    let requests = [0, 1, 2].map(|id| (0, lone_request(id, 100, 1)));
    let outcome = run(trtllm_config(), &requests);
    // The others join the fetch that follows at once, and run in step 1.
    assert_eq!(prefill_tokens(&outcome), [100, 200]);
    let scheduled = outcome.lives.iter().map(|life| (life.scheduled, life.first_token));
    assert_eq!(scheduled.collect::<Vec<_>>(), [(0, 20), (0, 40), (0, 40)]);
}

#[test]
fn t28_a_place_idles_for_one_step() {
    let config = EngineConfig { max_num_seqs: 2, ..trtllm_config() };
    let requests = [100, 3, 1].into_iter().zip(0..);
    let requests: Vec<_> =
        requests.map(|(output, id)| (0, lone_request(id, 100, output))).collect();
    let outcome = run(config, &requests);
    // Step 0 is the first prompt (ends at 20), step 1 the second one (50), steps
    // 2 and 3 decode both (60, 70): the second's last token. Step 4 decodes one
    // alone (80) while that is handled; the third prompt runs in step 5 (110).
    let batches: Vec<(u32, u32)> =
        outcome.steps.iter().take(7).map(|step| (step.prefill_seqs, step.decode_seqs)).collect();
    assert_eq!(batches, [(1, 0), (1, 1), (0, 2), (0, 2), (0, 1), (1, 1), (0, 1)]);
    assert_eq!(outcome.lives[1].finished, 70);
    let third = outcome.lives[2];
    assert_eq!((third.scheduled, third.first_token, third.finished), (70, 110, 110));
}

#[test]
fn t28_without_overlap_no_place_idles() {
    let config = EngineConfig { max_num_seqs: 2, overlap: false, ..trtllm_config() };
    let requests = [100, 3, 1].into_iter().zip(0..);
    let requests: Vec<_> =
        requests.map(|(output, id)| (0, lone_request(id, 100, output))).collect();
    let outcome = run(config, &requests);
    let batches: Vec<(u32, u32)> =
        outcome.steps.iter().take(6).map(|step| (step.prefill_seqs, step.decode_seqs)).collect();
    assert_eq!(batches, [(1, 0), (1, 1), (0, 2), (0, 2), (1, 1), (0, 1)]);
}

#[test]
fn t30_with_nothing_to_form_the_pipeline_empties_and_restarts() {
    let config = EngineConfig { max_num_seqs: 1, ..trtllm_config() };
    let requests = [(0, lone_request(0, 100, 2)), (0, lone_request(1, 100, 1))];
    let outcome = run(config, &requests);
    // The only place is given up when the last token is handled, at 30.
    assert_eq!(outcome.lives[0].finished, 30);
    let next = outcome.lives[1];
    assert_eq!((next.scheduled, next.first_token), (30, 50));
}

#[test]
fn t6_of_equal_prompts_the_second_misses_and_the_others_wait_and_hit() {
    let requests: Vec<_> = (0..4).map(|id| (0, sharing(id, 96, 100, 1))).collect();
    let outcome = run(trtllm_config(), &requests);
    let cached: Vec<(u64, u32)> =
        outcome.lives.iter().map(|life| (life.scheduled, life.cached_tokens)).collect();
    // Step 1 is formed while step 0 runs: nothing is stored, and the first
    // request is no longer a context. Step 2 is formed at 20, with step 0 stored.
    assert_eq!(cached, [(0, 0), (0, 0), (20, 96), (20, 96)]);
    assert_eq!(prefill_tokens(&outcome), [100, 100, 8]);
}

#[test]
fn t6_without_overlap_all_others_hit_in_the_next_step() {
    let config = EngineConfig { overlap: false, ..trtllm_config() };
    let requests: Vec<_> = (0..4).map(|id| (0, sharing(id, 96, 100, 1))).collect();
    let outcome = run(config, &requests);
    let cached: Vec<(u64, u32)> =
        outcome.lives.iter().map(|life| (life.scheduled, life.cached_tokens)).collect();
    assert_eq!(cached, [(0, 0), (20, 96), (20, 96), (20, 96)]);
}

/// Ten blocks for prompt and answer of the first, of which the second shares six.
#[test]
fn t3_a_net_reservation_leaves_out_what_another_request_holds() {
    let options = TrtllmOptions { reserve_net_of_reuse: true, ..TrtllmOptions::default() };
    let gross = EngineConfig { num_blocks: 11, max_model_len: 176, ..trtllm_config() };
    let net = EngineConfig { rules: Rules::Trtllm(options), ..gross.clone() };
    let requests = [(0, sharing(0, 96, 100, 50)), (100, sharing(1, 96, 100, 1))];
    let scheduled = |config| run(config, &requests).lives[1].scheduled;
    // The first one's last token leaves at 20 + 49 steps of 10 ms.
    assert_eq!((scheduled(gross), scheduled(net)), (510, 100));
}

/// Cached blocks that nobody holds are free already: two prompts must not both count
/// on them beside the free ones.
#[test]
fn t3_a_net_reservation_counts_free_blocks_once() {
    let config = EngineConfig {
        num_blocks: 11,
        max_model_len: 176,
        rules: Rules::Trtllm(TrtllmOptions {
            reserve_net_of_reuse: true,
            duplicate_delay: false,
            ..TrtllmOptions::default()
        }),
        ..trtllm_config()
    };
    let arrivals = [(0, 0), (500, 1), (500, 2), (500, 3)];
    let requests = arrivals.map(|(at, id)| (at, sharing(id, 96, 100, 1)));
    let outcome = run(config, &requests);
    let seen: Vec<(u64, u32)> =
        outcome.lives.iter().map(|life| (life.scheduled, life.cached_tokens)).collect();
    assert_eq!(seen, [(0, 0), (500, 96), (500, 96), (500, 96)]);
}

#[test]
fn t5_a_duplicate_is_skipped_without_blocking_those_behind_it() {
    let options = TrtllmOptions { duplicate_delay: false, ..TrtllmOptions::default() };
    let requests: Vec<_> = [
        (0, lone_request(0, 100, 9)),
        (1, sharing(1, 96, 100, 1)),
        (1, sharing(2, 96, 100, 1)),
        (1, lone_request(3, 100, 1)),
    ]
    .to_vec();
    let scheduled = |config| -> Vec<u64> {
        run(config, &requests).lives.iter().map(|life| life.scheduled).collect()
    };
    // They are fetched at 20. The duplicate waits for the next step's forming.
    assert_eq!(scheduled(trtllm_config()), [0, 20, 30, 20]);
    let together = EngineConfig { rules: Rules::Trtllm(options), ..trtllm_config() };
    assert_eq!(scheduled(together), [0, 20, 20, 20]);
}

#[test]
fn t11_the_budget_is_shared_first_come_and_cut_at_a_block() {
    let config = EngineConfig {
        block_size: 32,
        num_blocks: 20_000,
        max_num_seqs: 64,
        max_num_batched_tokens: 16_384,
        max_model_len: 10_000,
        ..trtllm_config()
    };
    let decodes = (0..60).map(|id| (0, lone_request(id, 10, 100)));
    let prompts = (60..64).map(|id| (100, lone_request(id, 5_200, 2)));
    let requests: Vec<_> = decodes.chain(prompts).collect();
    let outcome = run(config, &requests);
    let mixed: Vec<&StepRecord> =
        outcome.steps.iter().filter(|step| step.prefill_tokens > 1_000).collect();
    // 16,384 - 60 = 16,324: three whole prompts, and 704 of the last 724.
    let first = (mixed[0].prefill_seqs, mixed[0].decode_seqs, mixed[0].prefill_tokens);
    assert_eq!(first, (4, 60, 3 * 5_200 + 704));
    let second = (mixed[1].prefill_seqs, mixed[1].decode_seqs, mixed[1].prefill_tokens);
    assert_eq!(second, (1, 63, 5_200 - 704));
}

#[test]
fn t12_a_granted_chunk_slides_over_what_was_hit() {
    let config = EngineConfig { max_num_batched_tokens: 128, ..trtllm_config() };
    let chunks = |shared_tokens: u32| {
        let requests =
            [(0, sharing(0, shared_tokens, 120, 1)), (500, sharing(1, shared_tokens, 400, 1))];
        let outcome = run(config.clone(), &requests);
        (outcome.lives[1].cached_tokens, prefill_tokens(&outcome)[1..].to_vec())
    };
    // 96 tokens hit, 128 granted: up to 224, a block's end. Then 128, then 48.
    assert_eq!(chunks(96), (96, vec![128, 128, 48]));
    // 106 hit, the last ten inside a block; up to 234 would end inside a block.
    assert_eq!(chunks(106), (106, vec![224 - 106, 128, 48]));
}

#[test]
fn t39_hits_do_not_widen_the_budget() {
    let requests: Vec<_> = std::iter::once((0, sharing(0, 96, 100, 1)))
        .chain((1..6).map(|id| (500, sharing(id, 96, 100, 1))))
        .collect();
    let config = EngineConfig { max_num_batched_tokens: 300, ..trtllm_config() };
    let prefills = |config| -> Vec<u32> {
        run(config, &requests).steps[1..].iter().map(|step| step.prefill_seqs).collect()
    };
    // One when idle, then three whole prompts of 100 although 96 are cached.
    assert_eq!(prefills(config.clone()), [1, 3, 1]);
    let options = TrtllmOptions { count_cached_in_budget: false, ..TrtllmOptions::default() };
    assert_eq!(prefills(EngineConfig { rules: Rules::Trtllm(options), ..config }), [1, 4]);
}

/// A first prompt takes more blocks than are unused, and the oldest cached ones are those that
/// a second prompt of the same step counts on.
#[test]
fn t43_prompts_of_a_step_take_their_hits_before_other_blocks() {
    let requests = [
        (0, sharing(0, 96, 100, 1)),
        (100, lone_request(1, 190, 1)),
        (200, lone_request(2, 10, 50)),
        (300, lone_request(3, 150, 1)),
        (300, sharing(4, 96, 100, 1)),
    ];
    let seen = |options| {
        let config = EngineConfig {
            num_blocks: 21,
            max_model_len: 336,
            max_num_batched_tokens: 160,
            rules: Rules::Trtllm(options),
            ..trtllm_config()
        };
        let outcome = run(config, &requests);
        let tokens = prefill_tokens(&outcome).into_iter().filter(|tokens| *tokens > 0);
        (outcome.lives[4].cached_tokens, tokens.skip(4).collect::<Vec<u32>>())
    };
    assert_eq!(seen(TrtllmOptions::of_1_4(true)), (96, vec![150 + 4]));
    // Without that the second hits nothing. It asked for 4 tokens and needs 100: the step has
    // room for one block of it, and the other gives up a block's worth, too.
    let alone = TrtllmOptions { claims_first: false, ..TrtllmOptions::of_1_4(true) };
    assert_eq!(seen(alone), (0, vec![128 + 16, 22 + 84]));
    // Whole prompts are counted: the second waits, and finds what is left of its blocks.
    assert_eq!(seen(TrtllmOptions::default()).1[0], 150);
}

#[test]
fn t43_off_waits_for_no_duplicate_and_counts_whole_prompts() {
    let requests: Vec<_> = std::iter::once((0, lone_request(0, 100, 30)))
        .chain((1..4).map(|id| (100, sharing(id, 96, 100, 1))))
        .collect();
    let prefills = |options| -> Vec<u32> {
        let config = EngineConfig { rules: Rules::Trtllm(options), ..trtllm_config() };
        let steps = run(config, &requests).steps;
        steps[1..].iter().map(|step| step.prefill_seqs).filter(|seqs| *seqs > 0).collect()
    };
    assert_eq!(prefills(TrtllmOptions::of_1_4(false)), [3]);
    // The second comes too early for the first one's blocks (T6).
    assert_eq!(prefills(TrtllmOptions::of_1_4(true)), [1, 1, 1]);
}

#[test]
fn t11_a_prompt_that_cannot_be_cut_stops_those_behind_it() {
    let config = EngineConfig {
        chunked_prefill: false,
        max_num_batched_tokens: 160,
        max_model_len: 160,
        ..trtllm_config()
    };
    let requests = [
        (0, lone_request(0, 16, 20)),
        (30, lone_request(1, 100, 1)),
        (30, lone_request(2, 90, 1)),
        (30, lone_request(3, 20, 1)),
    ];
    let tokens = prefill_tokens(&run(config, &requests));
    let tokens: Vec<u32> = tokens.into_iter().filter(|tokens| *tokens > 0).collect();
    assert_eq!(tokens, [16, 100, 90 + 20]);
}

#[test]
fn t15_blocks_are_offered_before_they_are_computed() {
    let config = |store_context| EngineConfig {
        max_num_batched_tokens: 64,
        rules: Rules::Trtllm(TrtllmOptions { store_context, ..TrtllmOptions::default() }),
        ..trtllm_config()
    };
    // Three chunks: 64, 64, 32 tokens, in steps that end at 20, 40, 60.
    let requests = [(0, sharing(0, 160, 160, 1)), (15, sharing(1, 160, 170, 1))];
    let second = |store_context| {
        let life = run(config(store_context), &requests).lives[1];
        (life.scheduled, life.cached_tokens)
    };
    // All nine whole blocks of the first 159 tokens are stored at 20. The tenth
    // is missing, and the first request claims it (T5) while its last chunk has
    // not been launched, which happens at 20.
    assert_eq!(second(StoreContext::FirstChunk), (40, 144));
    // Nothing is stored before 60: it is skipped at 20 and misses at 40.
    assert_eq!(second(StoreContext::LastChunk), (40, 0));
}

#[test]
fn t24_blocks_are_published_with_the_tokens_of_their_step() {
    let outcome = run(trtllm_config(), &[(0, lone_request(0, 40, 10))]);
    let first = private_blocks(0);
    let stored = |parent, first, len| KvEvent::Stored { parent, run: BlockRun { first, len } };
    // Two whole blocks of the prompt with the first token, the third of the 49
    // stored tokens when the request ends.
    let last = (110, stored(Some(first.offset(1)), first.offset(2), 1));
    assert_eq!(outcome.kv, [(20, stored(None, first, 2)), last]);
}

#[test]
fn t3_the_whole_answer_is_reserved_and_the_first_that_does_not_fit_blocks() {
    // 10 blocks of 16. The first may take 6, the second 5, the third 1.
    let config = EngineConfig { num_blocks: 10, max_model_len: 160, ..trtllm_config() };
    let reserving = |id, prompt: u32, max_tokens| {
        let mut request = lone_request(id, prompt, 2);
        request.max_tokens = max_tokens;
        request
    };
    let requests = [(0, reserving(0, 32, 64)), (0, reserving(1, 16, 64)), (0, reserving(2, 8, 8))];
    let lives = run(config, &requests).lives;
    let scheduled: Vec<u64> = lives.iter().map(|life| life.scheduled).collect();
    // The first ends at 30, when its reservation is given back.
    assert_eq!(scheduled, [0, 30, 30]);
}
