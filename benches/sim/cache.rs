//! The prefix caches: prompts of 188 blocks of 64 tokens (12,032 tokens, the
//! mean of the Mooncake conversation trace) in a warm pool of 16,384 blocks.

use criterion::{Criterion, Throughput};
use kv_router_sim::engine::rules::trtllm::{self, TrtllmCache};
use kv_router_sim::engine::rules::vllm::{Held, Hits, VllmCache};
use kv_router_sim::id::BlockId;
use kv_router_sim::kv::EventLog;
use kv_router_sim::request::Content;

const BLOCK_SIZE: u32 = 64;
const POOL_BLOCKS: u32 = 16_384;
const PROMPT_BLOCKS: u32 = 188;
const PROMPT_TOKENS: u32 = PROMPT_BLOCKS * BLOCK_SIZE;
/// Prompts after which every new block evicts an old one.
const PROMPTS_TO_FILL: u64 = 100;

/// A prompt that shares nothing with others.
fn prompt(n: u64) -> Content {
    Content::new([], BlockId(n << 20))
}

pub(crate) fn benches(c: &mut Criterion) {
    let mut group = c.benchmark_group("cache");
    group.throughput(Throughput::Elements(u64::from(PROMPT_BLOCKS)));

    let mut vllm = Vllm::filled();
    let known = prompt(PROMPTS_TO_FILL - 1);
    group.bench_function("vllm lookup", |b| {
        b.iter(|| {
            vllm.cache.lookup(&known, PROMPT_TOKENS, &mut vllm.hits);
            vllm.hits.blocks
        });
    });
    let mut n = PROMPTS_TO_FILL;
    group.bench_function("vllm insert", |b| {
        b.iter(|| {
            vllm.insert(n);
            n += 1;
        });
    });

    let mut trtllm = Trtllm::filled();
    group.bench_function("trtllm lookup", |b| {
        // One block more than is known, so that all known ones are hit.
        b.iter(|| trtllm.serve(PROMPTS_TO_FILL - 1, PROMPT_TOKENS + 1));
    });
    let mut n = PROMPTS_TO_FILL;
    group.bench_function("trtllm insert", |b| {
        b.iter(|| {
            trtllm.serve(n, PROMPT_TOKENS);
            n += 1;
        });
    });
    group.finish();
}

struct Vllm {
    cache: VllmCache,
    hits: Hits,
    held: Held,
    log: EventLog,
}

impl Vllm {
    fn filled() -> Self {
        let mut this = Self {
            cache: VllmCache::new(BLOCK_SIZE, POOL_BLOCKS),
            hits: Hits::default(),
            held: Held::default(),
            log: EventLog::new(false),
        };
        (0..PROMPTS_TO_FILL).for_each(|n| this.insert(n));
        this
    }

    /// A prompt without hits comes and goes.
    fn insert(&mut self, n: u64) {
        self.cache.allocate(PROMPT_BLOCKS, &mut self.log);
        self.cache.publish(&prompt(n), &mut self.held, PROMPT_BLOCKS, &mut self.log);
        self.cache.release(&mut self.held, 0);
    }
}

struct Trtllm {
    cache: TrtllmCache,
    held: trtllm::Held,
    log: EventLog,
}

impl Trtllm {
    fn filled() -> Self {
        let mut this = Self {
            cache: TrtllmCache::new(BLOCK_SIZE, POOL_BLOCKS, true),
            held: trtllm::Held::default(),
            log: EventLog::new(false),
        };
        (0..PROMPTS_TO_FILL).for_each(|n| {
            this.serve(n, PROMPT_TOKENS);
        });
        this
    }

    /// A prompt comes and goes; returns the tokens that it hit.
    fn serve(&mut self, n: u64, tokens: u32) -> u32 {
        let content = prompt(n);
        let hit = self.cache.add_sequence(&content, tokens, &mut self.held, &mut self.log);
        self.cache.store(&content, &mut self.held, tokens, false, &mut self.log);
        self.cache.release(&mut self.held);
        hit
    }
}
