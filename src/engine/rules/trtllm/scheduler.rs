//! TensorRT-LLM's scheduler (capacity policy GUARANTEED_NO_EVICT).
//!
//! At most `max_num_seqs` requests are *active*. A request starts only if the
//! blocks of its prompt and its longest possible output fit beside what all
//! started ones may still need, so nothing is ever preempted.

use super::cache::{Held, TrtllmCache};
use super::{StoreContext, TrtllmOptions};
use crate::engine::config::EngineConfig;
use crate::engine::core::Core;
use crate::engine::decode_set::DecodeSet;
use crate::engine::scheduler::{BatchAndQueue, Scheduler};
use crate::engine::seq::{PerSeq, Seq, SeqId};
use crate::engine::step::{ChunkEnd, FormedStep};
use crate::engine::work::PrefillChunk;
use crate::id::BlockId;
use crate::kv::{BlockCount, Cache};
use crate::request::Content;
use std::collections::VecDeque;

/// Queue, batch and cache of one worker under TensorRT-LLM's rules.
#[derive(Debug)]
pub(in crate::engine) struct TrtllmScheduler {
    options: TrtllmOptions,
    cache: TrtllmCache,
    own: PerSeq<Own>,
    waiting: VecDeque<SeqId>,
    /// In order of arrival: started, waiting for memory, or waiting for their
    /// last results (T1).
    active: Vec<SeqId>,
    /// Active requests whose prompt is not computed yet, in order of arrival.
    contexts: Vec<SeqId>,
    /// Scratch: contexts that may run in this step, with what they ask for.
    asks: Vec<Ask>,
    /// Scratch: keys of the duplicate rule.
    claimed: Vec<BlockId>,
}

/// What TensorRT-LLM keeps of a sequence.
#[derive(Debug, Default)]
struct Own {
    held: Held,
    /// It was in a batch.
    started: bool,
}

/// What a context asks of a step, and after [`TrtllmScheduler::share_budget`] what it gets.
#[derive(Clone, Copy, Debug)]
struct Ask {
    id: SeqId,
    /// Tokens of the budget.
    tokens: u32,
    /// They reach to the end of the prompt.
    to_end: bool,
    /// It has no blocks yet.
    starts: bool,
}

impl Scheduler for TrtllmScheduler {
    /// Memory is reserved for what the client allows.
    fn longest_output(&self, seq: &Seq) -> u32 {
        seq.max_tokens
    }

    fn submit(&mut self, _core: &Core, id: SeqId) {
        *self.own.place(id) = Own::default();
        self.waiting.push_back(id);
    }

    /// The blocked fetch of an idle engine returns with the first arrival alone (T27).
    fn offer(&mut self, core: &mut Core, from_idle: bool) -> u32 {
        self.take_loaded(core);
        self.fetch(core, from_idle);
        self.pass_capacity(core);
        self.share_budget(core);
        u32::try_from(self.asks.len()).expect("requests are counted in u32")
    }

    fn hold_back(&mut self) {
        self.asks.clear();
    }

    fn form(&mut self, core: &mut Core, step: &mut FormedStep) {
        if core.config.prefix_caching && self.options.claims_first {
            self.claim_hits(core);
        }
        for i in 0..self.asks.len() {
            self.compute_chunk(core, step, self.asks[i]);
        }
        if !self.options.count_cached_in_budget {
            fit_budget(core, step);
        }
        let contexts = &mut self.contexts;
        contexts.retain(|&id| core.seqs[id].in_prefill());
        self.decode_blocks(core, core.decode.step());
    }

    /// Prompts are stored (T14a, T15).
    fn computed(&mut self, core: &mut Core, chunks: &[(SeqId, ChunkEnd)]) {
        if !core.config.prefix_caching {
            return;
        }
        let Core { seqs, log, .. } = core;
        for &(id, end) in chunks {
            let waits =
                self.options.store_context == StoreContext::LastChunk && end == ChunkEnd::Partial;
            // A request of one token has ended, and stored its blocks, already.
            if let Some(seq) = seqs.get(id).filter(|_| !waits) {
                let held = &mut self.own[id].held;
                self.cache.store(&seq.content, held, seq.prompt_tokens - 1, false, log);
            }
        }
    }

    /// Its blocks are stored (T14b) before they are released.
    fn end(&mut self, core: &mut Core, id: SeqId) {
        let Core { config, seqs, log, .. } = core;
        let (seq, held) = (&seqs[id], &mut self.own[id].held);
        if config.prefix_caching {
            let tokens = seq.prompt_tokens + seq.generated - 1;
            self.cache.store(&seq.content, held, tokens, true, log);
        }
        self.cache.release(held);
        let at = self.active.iter().position(|&other| other == id);
        self.active.remove(at.expect("an ending request is active"));
    }

    /// Out of the queue at once. An active request is in one more step, whose results
    /// are dropped; what it has computed is stored (T40).
    fn abort(&mut self, core: &mut Core, id: SeqId, first: bool) -> bool {
        if let Some(at) = self.waiting.iter().position(|&other| other == id) {
            self.waiting.remove(at);
            return true;
        }
        if first || core.seqs[id].loading {
            return false;
        }
        if core.seqs[id].decode_from.is_some() {
            core.decode.leave(&mut core.seqs, id);
        }
        let Core { config, seqs, log, .. } = core;
        let held = &mut self.own[id].held;
        if config.prefix_caching && held.blocks() > 0 {
            self.cache.store(&seqs[id].content, held, seqs[id].kv_tokens, true, log);
        }
        self.cache.release(held);
        self.contexts.retain(|&other| other != id);
        self.active.retain(|&other| other != id);
        true
    }

    /// Blocks are taken, none stored (T13).
    fn decode_blocks(&mut self, core: &mut Core, step: u64) {
        for member in core.decode.takers(step) {
            self.cache.allocate(1, &mut self.own[member.id].held, &mut core.log);
        }
    }

    fn next_traffic(&self, decode: &DecodeSet, step: u64) -> u64 {
        decode.next_taking(step)
    }

    /// Everything a started request may need is reserved, so decoding leaves as
    /// much memory for the contexts that wait as there was, and no decode changes
    /// which blocks are shared. But a block that it takes may evict a cached one, and
    /// then the next decision sees another cache: which context is a duplicate of which
    /// (T5) can change, and with it who is skipped and who blocks the others.
    fn undisturbed_steps(&self, core: &Core, max: u64) -> u64 {
        let options = self.options;
        let cache_decides = core.config.prefix_caching
            && (options.duplicate_delay && self.contexts.len() > 1
                || !options.count_cached_in_budget);
        if self.contexts.is_empty() {
            return max;
        }
        if core.log.tiers().is_some() {
            // What is loaded for one makes others wait, and what is worth loading
            // changes with the time that is left for it.
            return 0;
        }
        if !cache_decides {
            return max;
        }
        let formed = core.decode.step() - 1;
        max.min(core.decode.next_taking(formed) - formed)
    }

    fn running(&self, core: &Core) -> usize {
        self.active.len() - self.not_started(core)
    }

    fn waiting(&self, core: &Core) -> usize {
        self.waiting.len() + self.not_started(core)
    }

    fn requests(&self, core: &Core) -> BatchAndQueue {
        let waits = |id: &SeqId| self.waits(core, *id);
        let (mut queued, started): (Vec<SeqId>, Vec<SeqId>) =
            self.active.iter().copied().partition(waits);
        queued.extend(&self.waiting);
        BatchAndQueue { batch: started, queue: queued }
    }

    fn present_blocks(&self, _core: &Core, content: &Content, limit: u32) -> u32 {
        self.cache.present_blocks(content, limit)
    }

    fn used_blocks(&self) -> u32 {
        self.cache.used_blocks()
    }

    fn count_blocks(&self, core: &Core) -> BlockCount {
        self.cache.count_blocks(core.seqs.ids().map(|id| &self.own[id].held))
    }
}

impl TrtllmScheduler {
    pub(in crate::engine) fn new(options: TrtllmOptions, config: &EngineConfig) -> Self {
        let EngineConfig { block_size, num_blocks, .. } = *config;
        Self {
            options,
            cache: TrtllmCache::new(block_size, num_blocks, options.partial_reuse),
            own: PerSeq::default(),
            waiting: VecDeque::new(),
            active: Vec::new(),
            contexts: Vec::new(),
            asks: Vec::new(),
            claimed: Vec::new(),
        }
    }

    /// A context that has not started holds no block, or waits for what is loaded into them.
    fn waits(&self, core: &Core, id: SeqId) -> bool {
        self.own[id].held.blocks() == 0 || core.seqs[id].loading
    }

    fn not_started(&self, core: &Core) -> usize {
        self.contexts.iter().filter(|&&id| self.waits(core, id)).count()
    }

    /// Blocks that a request may still take until its longest possible end (T3).
    fn remaining(&self, core: &Core, id: SeqId) -> u32 {
        let seq = &core.seqs[id];
        let tokens = seq.prompt_tokens.saturating_add(seq.max_tokens);
        tokens.div_ceil(core.config.block_size).saturating_sub(self.own[id].held.blocks())
    }

    /// Moves arrivals from the waiting queue to the active list (T1).
    fn fetch(&mut self, core: &mut Core, from_idle: bool) {
        let room = core.config.max_num_seqs as usize - self.active.len();
        // None, if another rank of the engine woke up.
        let arrivals = if from_idle { self.waiting.len().min(1) } else { self.waiting.len() };
        for id in self.waiting.drain(..arrivals.min(room)) {
            core.seqs.admit(id);
            self.active.push(id);
            self.contexts.push(id);
        }
    }

    /// Which contexts may run (T2, T3, T5); fills `asks` with them and the
    /// tokens they ask for.
    ///
    /// What started contexts may still need is set aside first. T2 as read sets
    /// it aside in order of arrival; then a started context behind one that was
    /// skipped as a duplicate (T5) could wait for it, and it for the context's
    /// blocks, for ever.
    fn pass_capacity(&mut self, core: &Core) {
        self.asks.clear();
        if self.contexts.is_empty() {
            return;
        }
        let mut free = i64::from(self.cache.free_blocks());
        let duplicate_delay = core.config.prefix_caching && self.options.duplicate_delay;
        self.claimed.clear();
        for &id in &self.active {
            let seq = &core.seqs[id];
            if self.own[id].held.blocks() > 0 {
                free -= i64::from(self.remaining(core, id));
                if seq.in_prefill() && duplicate_delay {
                    self.claimed.extend(self.missing_key(core, seq));
                }
            }
        }
        let mut blocked = false;
        for i in 0..self.contexts.len() {
            let id = self.contexts[i];
            let seq = &core.seqs[id];
            if seq.loading {
                continue;
            }
            if self.own[id].held.blocks() > 0 {
                let tokens = seq.prompt_tokens - seq.kv_tokens;
                self.asks.push(Ask { id, tokens, to_end: true, starts: false });
                continue;
            }
            if blocked {
                continue;
            }
            if duplicate_delay {
                let key = self.missing_key(core, seq);
                if key.is_some_and(|key| self.claimed.contains(&key)) {
                    continue;
                }
                self.claimed.extend(key);
            }
            let reusable = (seq.prompt_tokens - 1) / core.config.block_size;
            let mut need = i64::from(self.remaining(core, id));
            if self.options.reserve_net_of_reuse {
                // Cached blocks that no request holds are among the free ones already.
                need -= i64::from(self.cache.held_blocks(&seq.content, reusable));
            }
            blocked = need > free;
            if blocked {
                continue;
            }
            free -= need;
            let mut tokens = seq.prompt_tokens;
            if !self.options.count_cached_in_budget {
                let present = self.cache.present_blocks(&seq.content, reusable);
                tokens -= present * core.config.block_size;
            }
            self.asks.push(Ask { id, tokens, to_end: true, starts: true });
        }
    }

    /// The first full block of the prompt that is not stored yet.
    fn missing_key(&self, core: &Core, seq: &Seq) -> Option<BlockId> {
        let full = seq.prompt_tokens / core.config.block_size;
        let present = self.cache.present_blocks(&seq.content, full);
        (present < full).then(|| seq.content.block(present))
    }

    /// Turns asks into granted chunks (T8-T11), in the order in which they run.
    fn share_budget(&mut self, core: &Core) {
        let decoding = core.decode.len();
        let places = core.config.max_num_seqs.saturating_sub(decoding) as usize;
        self.asks.truncate(places);
        let budget = core.config.max_num_batched_tokens.saturating_sub(decoding);
        let total: u64 = self.asks.iter().map(|ask| u64::from(ask.tokens)).sum();
        if total <= u64::from(budget) {
            return;
        }
        let block_size = core.config.block_size;
        let mut left = budget;
        for ask in &mut self.asks {
            if ask.tokens > left {
                // A prompt that cannot be cut stops those behind it as well.
                left = if core.config.chunked_prefill { left } else { 0 };
                ask.tokens = left / block_size * block_size;
                ask.to_end = false;
            }
            left -= ask.tokens;
        }
        self.asks.retain(|ask| ask.tokens > 0);
        // Last chunks are placed after the others.
        self.asks.sort_by_key(|ask| ask.to_end);
    }

    /// Prompts that start take their hits before any of them takes a block for something
    /// else (T43).
    fn claim_hits(&mut self, core: &mut Core) {
        for ask in self.asks.iter().filter(|ask| ask.starts) {
            let seq = &mut core.seqs[ask.id];
            let held = &mut self.own[ask.id].held;
            seq.kv_tokens = self.cache.claim(&seq.content, seq.prompt_tokens, held);
        }
    }

    /// Runs what was granted of a prompt; at its first chunk the prompt's hits
    /// are looked up and all its blocks allocated (T12).
    fn compute_chunk(&mut self, core: &mut Core, step: &mut FormedStep, ask: Ask) {
        let Ask { id, tokens: granted, to_end, starts } = ask;
        let mut end = core.seqs[id].kv_tokens + granted;
        if starts && self.start(core, step, id) {
            // Loaded first.
            return;
        }
        let seq = &mut core.seqs[id];
        if !std::mem::replace(&mut self.own[id].started, true) {
            let hit_tokens = seq.kv_tokens;
            step.admitted.push((id, hit_tokens));
            if seq.loaded.is_some() {
                step.loaded.push(id);
            }
            // The granted size slides over the tokens that were hit.
            end = hit_tokens + granted;
            if to_end || !core.config.chunked_prefill {
                // Blocks that it counted on may have been taken by a prompt before it.
                end = seq.prompt_tokens;
            } else if end < seq.prompt_tokens {
                end = end / core.config.block_size * core.config.block_size;
            }
        }
        let end = end.min(seq.prompt_tokens);
        let cached_tokens = seq.kv_tokens;
        seq.kv_tokens = end;
        let last = end == seq.prompt_tokens;
        let new_tokens = end - cached_tokens;
        step.chunks.push((id, PrefillChunk { new_tokens, cached_tokens, last }));
    }

    /// Looks up a prompt's hits and allocates its blocks (T12). True if some of its
    /// KV is loaded from a lower tier first.
    fn start(&mut self, core: &mut Core, step: &FormedStep, id: SeqId) -> bool {
        let block_size = core.config.block_size;
        if !core.config.prefix_caching {
            let blocks = core.seqs[id].prompt_tokens.div_ceil(block_size);
            self.cache.allocate(blocks, &mut self.own[id].held, &mut core.log);
            return false;
        }
        let mut load = None;
        let mut cached_blocks = 0;
        if core.log.tiers().is_some() {
            let seq = &core.seqs[id];
            let reusable = (seq.prompt_tokens - 1) / block_size;
            cached_blocks = self.cache.present_blocks(&seq.content, reusable);
            load = core.plan_load(id, cached_blocks, step);
            if let Some(tiers) = core.log.tiers_mut() {
                tiers.touch(&core.seqs[id].content, reusable);
            }
        }
        // Before blocks are taken: what they displace must not displace this.
        let takes_time = load.as_ref().is_some_and(|load| core.begin_load(id, load));
        let Core { seqs, log, .. } = core;
        let (seq, held) = (&mut seqs[id], &mut self.own[id].held);
        if !self.options.claims_first {
            seq.kv_tokens = self.cache.claim(&seq.content, seq.prompt_tokens, held);
        }
        self.cache.fill(seq.prompt_tokens, held, log);
        if let Some(load) = load {
            seq.kv_tokens = (cached_blocks + load.blocks) * block_size;
            if !takes_time {
                self.cache.store(&seq.content, held, seq.kv_tokens, false, log);
            }
        }
        takes_time
    }

    /// Prompts whose loads are done offer what was loaded, and go on.
    fn take_loaded(&mut self, core: &mut Core) {
        if core.loads.is_empty() {
            return;
        }
        for id in core.take_loaded() {
            let Core { seqs, log, .. } = core;
            let seq = &seqs[id];
            let held = &mut self.own[id].held;
            self.cache.store(&seq.content, held, seq.kv_tokens, false, log);
        }
    }
}

/// Cuts prompts until the step fits its budget (T43): those that end in it first, the last
/// one first. Each keeps a block at least, so that a step may still be too large.
fn fit_budget(core: &mut Core, step: &mut FormedStep) {
    let Core { config, seqs, decode, .. } = core;
    let block_size = config.block_size;
    let tokens: u32 = step.chunks.iter().map(|(_, chunk)| chunk.new_tokens).sum();
    let mut excess = (tokens + decode.len()).saturating_sub(config.max_num_batched_tokens);
    if excess == 0 || !config.chunked_prefill {
        return;
    }
    for ends in [true, false] {
        for (id, chunk) in step.chunks.iter_mut().rev().filter(|(_, chunk)| chunk.last == ends) {
            if excess == 0 {
                return;
            }
            let end = chunk.cached_tokens + chunk.new_tokens;
            let least = chunk.cached_tokens / block_size * block_size + block_size;
            let cut = (end.saturating_sub(excess) / block_size * block_size).max(least);
            if cut >= end {
                continue;
            }
            excess = excess.saturating_sub(end - cut);
            chunk.new_tokens = cut - chunk.cached_tokens;
            chunk.last = false;
            seqs[*id].kv_tokens = cut;
        }
    }
}
