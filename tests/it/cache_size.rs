//! Law 14: for requests one after another, more cache never lowers LRU hits.
//!
//! An LRU cache holds the most recent blocks, so a larger one holds all that a
//! smaller one does. Real caches differ from that ideal where one text has more
//! than one physical block: vLLM's keeps the law all the same, TensorRT-LLM's
//! keeps it as long as no request computes what another one stored.

use super::rig::{cases, private_blocks};
use kv_router_sim::engine::rules::trtllm::{self, TrtllmCache};
use kv_router_sim::engine::rules::vllm::{Held, Hits, VllmCache};
use kv_router_sim::id::BlockId;
use kv_router_sim::kv::EventLog;
use kv_router_sim::request::{BlockRun, Content};
use proptest::prelude::*;

const BLOCK_SIZE: u32 = 4;
/// Blocks of the longest request: smaller pools could not serve it.
const LONGEST: u32 = 10;

/// A request of a text that all have in common, or that goes on with an answer.
#[derive(Clone, Debug)]
struct Access {
    text: u64,
    /// Whose text goes on after the common part; `None`: its own.
    conversation: Option<u32>,
    prompt_tokens: u32,
    output_tokens: u32,
}

fn any_accesses() -> impl Strategy<Value = Vec<Access>> {
    let access = (0u64..4, prop::option::of(0u32..3), 1u32..30, 1u32..9);
    let access = access.prop_map(|(text, conversation, prompt_tokens, output_tokens)| Access {
        text,
        conversation,
        prompt_tokens,
        output_tokens,
    });
    prop::collection::vec(access, 1..60)
}

/// Requests that all go on in their own way, so that none computes what another stored.
fn any_branches() -> impl Strategy<Value = Vec<Access>> {
    let access = (0u64..5, 3u32..14, 1u32..9);
    let access = access.prop_map(|(text, own_tokens, output_tokens)| Access {
        text,
        conversation: None,
        prompt_tokens: u32::try_from(text).unwrap() * BLOCK_SIZE + own_tokens,
        output_tokens,
    });
    prop::collection::vec(access, 1..60)
}

/// Text `n` has `n` whole blocks and half a block in common.
fn content(index: usize, access: &Access) -> Content {
    let text = u32::try_from(access.text).unwrap();
    let conversation = match access.conversation {
        Some(conversation) => conversation * 4 + text,
        None => 100 + u32::try_from(index).unwrap(),
    };
    let run = BlockRun { first: BlockId(access.text << 20), len: text };
    Content::new([run], private_blocks(conversation)).with_fork_tokens(text.min(1) * BLOCK_SIZE / 2)
}

/// Tokens hit by each access under vLLM's rules.
fn vllm(accesses: &[Access], blocks: u32) -> Vec<u32> {
    let mut cache = VllmCache::new(BLOCK_SIZE, blocks);
    let mut log = EventLog::new(false);
    let serve = |(index, access): (usize, &Access)| {
        let content = content(index, access);
        let (prompt, output) = (access.prompt_tokens, access.output_tokens);
        let (mut hits, mut held) = (Hits::default(), Held::default());
        cache.lookup(&content, prompt, &mut hits);
        cache.take(&hits, &mut held);
        let tokens = prompt + output - 1;
        let blocks = tokens.div_ceil(BLOCK_SIZE);
        cache.allocate(blocks - hits.blocks, &mut log);
        cache.publish(&content, &mut held, tokens / BLOCK_SIZE, &mut log);
        let others = blocks - held.blocks();
        cache.release(&mut held, others);
        hits.blocks * BLOCK_SIZE
    };
    accesses.iter().enumerate().map(serve).collect()
}

/// Tokens hit by each access under TensorRT-LLM's rules.
fn trtllm(accesses: &[Access], blocks: u32, partial_reuse: bool) -> Vec<u32> {
    let mut cache = TrtllmCache::new(BLOCK_SIZE, blocks, partial_reuse);
    let mut log = EventLog::new(false);
    let serve = |(index, access): (usize, &Access)| {
        let content = content(index, access);
        let (prompt, output) = (access.prompt_tokens, access.output_tokens);
        let mut held = trtllm::Held::default();
        let hit = cache.add_sequence(&content, prompt, &mut held, &mut log);
        cache.store(&content, &mut held, prompt - 1, false, &mut log);
        let tokens = prompt + output - 1;
        cache.allocate(tokens.div_ceil(BLOCK_SIZE) - held.blocks(), &mut held, &mut log);
        cache.store(&content, &mut held, tokens, true, &mut log);
        cache.release(&mut held);
        hit
    };
    accesses.iter().enumerate().map(serve).collect()
}

fn never_fewer(small: &[u32], large: &[u32]) -> Result<(), TestCaseError> {
    for (index, (small, large)) in small.iter().zip(large).enumerate() {
        prop_assert!(small <= large, "access {index}: {small} tokens hit, {large} with more cache");
    }
    Ok(())
}

proptest! {
    #![proptest_config(cases(4_000))]

    #[test]
    fn vllm_hits_grow_with_the_cache(
        accesses in any_accesses(), small in LONGEST..40, more in 1u32..20,
    ) {
        never_fewer(&vllm(&accesses, small), &vllm(&accesses, small + more))?;
    }

    #[test]
    fn trtllm_hits_grow_with_the_cache(
        accesses in any_branches(), small in LONGEST..40, more in 1u32..20, partial_reuse: bool,
    ) {
        let hits = |blocks| trtllm(&accesses, blocks, partial_reuse);
        never_fewer(&hits(small), &hits(small + more))?;
    }
}

/// Why TensorRT-LLM's law is about branches only. A prompt that ends with a
/// stored block computes that block again. The copy stays outside the tree and
/// is as good as new; the stored block is as old as before, and lost sooner than
/// it would be if the smaller cache's request had stored it afresh. (vLLM puts
/// copies into its table too, and partial reuse takes the stored block itself.)
#[test]
fn a_copy_outside_the_tree_lets_a_smaller_cache_win() {
    let access =
        |text, prompt_tokens| Access { text, conversation: None, prompt_tokens, output_tokens: 1 };
    // The same two blocks twice; six blocks of others between, three after them.
    let other = || access(0, 12);
    let accesses = [access(2, 8), other(), other(), access(2, 8), other(), access(2, 9)];
    assert_eq!(trtllm(&accesses, 6, false).last(), Some(&8));
    assert_eq!(trtllm(&accesses, 10, false).last(), Some(&4));
    assert_eq!(trtllm(&accesses, 6, true).last(), Some(&8));
    assert_eq!(trtllm(&accesses, 10, true).last(), Some(&8));
    assert_eq!(vllm(&accesses, 10).last(), Some(&8));
}
