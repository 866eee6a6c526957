//! vLLM's scheduler.
//!
//! Running sequences come first, in order of admission: each decoding one takes
//! one token of the step's budget, the one whose prompt is still being computed
//! takes what is left. Then waiting requests are admitted in order of arrival
//! while budget, places and free blocks last. Memory is not reserved: when a
//! running sequence finds no free block, the last admitted one is preempted.

use super::VllmOptions;
use super::cache::{Held, Hits, VllmCache};
use crate::engine::core::Core;
use crate::engine::decode_set::{DecodeSet, Member};
use crate::engine::scheduler::{BatchAndQueue, Handover, OnDemand, Scheduler};
use crate::engine::seq::{PerSeq, Seq, SeqId};
use crate::engine::step::FormedStep;
use crate::engine::work::PrefillChunk;
use crate::id::RequestId;
use crate::kv::{BlockCount, Cache, Concerns, Growth};
use crate::request::{BlockRun, Content, Phase};
use smallvec::SmallVec;
use std::collections::VecDeque;

/// Queue, batch and cache of one worker under vLLM's rules.
#[derive(Debug)]
pub(in crate::engine) struct VllmScheduler {
    options: VllmOptions,
    cache: VllmCache,
    own: PerSeq<Own>,
    waiting: VecDeque<SeqId>,
    /// In order of admission; sequences whose last step runs are still here.
    running: Vec<SeqId>,
    /// Requests that hold blocks into which KV is being loaded.
    loading: Vec<SeqId>,
    hits: Hits,
    /// What was decided depends on loads from lower tiers, so that the next boundary
    /// may decide otherwise.
    looks_again: bool,
    /// The request at the head waits for memory, or for room in a step that must
    /// take all of it.
    head_blocked: bool,
    /// The first decode step whose blocks have not been filled.
    filled_to: u64,
    /// Requests with blocks for KV that is on its way.
    awaiting: Vec<SeqId>,
    /// Requests whose KV came, in this order; not in a batch yet.
    received: VecDeque<SeqId>,
    /// Prefilled requests whose blocks are kept for the worker that will decode them.
    kept: Vec<SeqId>,
}

/// What vLLM keeps of a sequence.
#[derive(Debug, Default)]
struct Own {
    /// Cached blocks held; it holds as many in all as its KV needs.
    held: Held,
    /// It enters the blocks that it fills when they could be seen.
    defers: bool,
    /// Then: the step in which it filled the last block that is entered.
    filled_at: u64,
    /// Preempted at least once.
    preempted: bool,
}

impl Scheduler for VllmScheduler {
    fn longest_output(&self, seq: &Seq) -> u32 {
        seq.output_tokens
    }

    fn submit(&mut self, id: SeqId) {
        *self.own.place(id) = Own::default();
        self.waiting.push_back(id);
    }

    fn form(&mut self, core: &mut Core, step: &mut FormedStep, _from_idle: bool) {
        self.take_loaded(core);
        let preempted_before = step.preempted.len();
        self.decode(core, step);
        let mut budget = core.config.max_num_batched_tokens - core.decode.len();
        self.resume_prefill(core, step, &mut budget);
        self.head_blocked = false;
        self.looks_again = false;
        // Blocks for KV that is on its way can make the only sequence that runs
        // preempt itself; the engine then has an empty step, and looks again.
        if step.preempted.len() == preempted_before || self.running.is_empty() {
            self.admit(core, step, &mut budget);
        }
    }

    fn end(&mut self, core: &mut Core, id: SeqId) {
        self.release(core, id);
        self.leave_batch(id);
    }

    /// At once (R10). What is being loaded for it comes first (assumed), and so does KV on
    /// its way from another worker (H7).
    fn abort(&mut self, core: &mut Core, id: SeqId, _first: bool) -> bool {
        if core.seqs[id].loading || self.awaiting.contains(&id) {
            return false;
        }
        if let Some(at) = self.received.iter().position(|&other| other == id) {
            self.received.remove(at);
            self.release_received(core, id);
            return true;
        }
        if core.seqs[id].decode_from.is_some() {
            core.decode.leave(&mut core.seqs, id);
        }
        self.waiting.retain(|&other| other != id);
        self.running.retain(|&other| other != id);
        self.release(core, id);
        true
    }

    /// Sequences in order of admission take a block at the start of one (evicting what
    /// it held) and publish it when they fill it (R5, R6).
    fn decode_blocks(&mut self, core: &mut Core, step: u64) {
        self.filled_to = step + 1;
        let takers = core.decode.takers(step).len();
        if !core.log.is_ordered() {
            self.cache.allocate(narrow(takers), &mut core.log);
            for i in 0..core.decode.fillers(step).len() {
                let Member { id, defers, .. } = core.decode.fillers(step)[i];
                if !defers {
                    self.fill_block(core, id, step);
                    self.defer(core, id, step);
                }
            }
            return;
        }
        let fillers = core.decode.fillers(step).len();
        let (mut t, mut f) = (0, 0);
        while t < takers || f < fillers {
            let taker = core.decode.takers(step).get(t).map_or(u64::MAX, |who| who.admission);
            match core.decode.fillers(step).get(f) {
                Some(filler) if filler.admission < taker => {
                    f += 1;
                    self.fill_block(core, filler.id, step);
                }
                _ => {
                    t += 1;
                    self.cache.allocate(1, &mut core.log);
                }
            }
        }
    }

    /// A block is published in the step that fills it, the one before the next is taken.
    fn next_traffic(&self, decode: &DecodeSet, step: u64) -> u64 {
        let taking = decode.next_taking(step);
        if taking > step { taking - 1 } else { taking }
    }

    fn undisturbed_steps(&self, core: &Core, max: u64) -> u64 {
        if self.looks_again || self.head_blocked && self.head_may_find_new_blocks(core) {
            return 0;
        }
        core.decode.steps_within(self.cache.free_blocks(), max)
    }

    fn running(&self, _core: &Core) -> usize {
        self.running.len()
    }

    fn waiting(&self, _core: &Core) -> usize {
        self.waiting.len() + self.loading.len() + self.awaiting.len() + self.received.len()
    }

    fn requests(&self, core: &Core) -> BatchAndQueue {
        let queued = self.received.iter().chain(&self.awaiting);
        let queued: Vec<SeqId> =
            queued.chain(&self.loading).chain(&self.waiting).copied().collect();
        debug_assert_eq!(queued.len(), self.waiting(core));
        BatchAndQueue { batch: self.running.clone(), queue: queued }
    }

    fn present_blocks(&self, core: &Core, content: &Content, limit: u32) -> u32 {
        let (present, owner) = self.cache.present_blocks(content, limit);
        let Some(owner) = owner else { return present };
        let theirs = &core.seqs[owner].content;
        let put_off = present..self.filled_blocks(core, owner).min(limit);
        let equal = put_off.take_while(|&at| theirs.block(at) == content.block(at));
        present + u32::try_from(equal.count()).expect("blocks fit u32")
    }

    fn used_blocks(&self) -> u32 {
        self.cache.used_blocks()
    }

    fn count_blocks(&self, core: &Core) -> BlockCount {
        let awaiting = self.awaiting.iter().chain(&self.received);
        let prompts = awaiting.map(|&id| {
            let blocks = core.seqs[id].prompt_tokens.div_ceil(core.config.block_size);
            blocks - self.own[id].held.blocks()
        });
        let computed = core.seqs.ids().map(|id| {
            let tokens = core.seqs[id].kv_tokens_at(core.decode.step());
            // Those that wait for KV have held blocks, and no tokens yet.
            tokens.div_ceil(core.config.block_size).saturating_sub(self.own[id].held.blocks())
        });
        let others = prompts.chain(computed).sum();
        self.cache.count_blocks(core.seqs.ids().map(|id| &self.own[id].held), others)
    }

    fn reset_cache(&mut self) -> bool {
        self.cache.reset()
    }

    fn handover(&mut self) -> Option<&mut dyn Handover> {
        Some(self)
    }

    fn on_demand(&mut self) -> Option<&mut dyn OnDemand> {
        Some(self)
    }

    /// KV comes, or blocks that are kept for others become free.
    fn waits_for_others(&self) -> bool {
        !self.awaiting.is_empty() || !self.kept.is_empty()
    }
}

/// H1-H8 of docs/fleets.md.
///
/// Source: vLLM's scheduler (`WAITING_FOR_REMOTE_KVS`) and its NIXL connector.
impl Handover for VllmScheduler {
    /// H2.
    fn keep(&mut self, id: SeqId) {
        self.leave_batch(id);
        self.kept.push(id);
    }

    fn let_go(&mut self, core: &mut Core, request: RequestId) -> SeqId {
        let at = self.kept.iter().position(|&id| core.seqs[id].request == request);
        let id = self.kept.swap_remove(at.expect("KV that is kept"));
        self.release(core, id);
        id
    }

    /// H4.
    fn kv_came(&mut self, core: &Core, request: RequestId) {
        let at = self.awaiting.iter().position(|&id| core.seqs[id].request == request);
        self.received.push_back(self.awaiting.remove(at.expect("KV that is waited for")));
    }

    /// H8.
    fn kv_lost(&mut self, core: &mut Core, request: RequestId) {
        let is_it = |&id: &SeqId| core.seqs[id].request == request;
        if let Some(at) = self.awaiting.iter().position(is_it) {
            let id = self.awaiting.remove(at);
            self.release_received(core, id);
            core.seqs[id].phase = Phase::Whole;
            self.waiting.push_front(id);
        } else if let Some(&id) = self.waiting.iter().find(|id| is_it(id)) {
            core.seqs[id].phase = Phase::Whole;
        }
    }
}

impl OnDemand for VllmScheduler {
    fn write_down(&mut self, core: &mut Core, content: &Content, limit: u32) {
        if let (_, Some(owner)) = self.cache.present_blocks(content, limit) {
            self.enter_deferred(core, owner);
        }
    }

    fn write_all_down(&mut self, core: &mut Core) {
        let defers = |id: &SeqId| self.own[*id].defers;
        let deferring: Vec<SeqId> = core.seqs.ids().filter(defers).collect();
        deferring.into_iter().for_each(|id| self.enter_deferred(core, id));
    }

    fn enter_concerns(&mut self, core: &mut Core, blocks: u32, concerns: &mut Concerns) {
        let displaced = self.cache.displaced();
        let mut foreseen = SmallVec::<[(u64, BlockRun); 4]>::new();
        self.cache.foresee(blocks, |position, run| foreseen.push((position, run)));
        core.log.enter_concerns(concerns, displaced, foreseen.into_iter());
    }
}

impl VllmScheduler {
    pub(in crate::engine) fn new(options: VllmOptions, block_size: u32, num_blocks: u32) -> Self {
        Self {
            options,
            cache: VllmCache::new(block_size, num_blocks),
            own: PerSeq::default(),
            waiting: VecDeque::new(),
            running: Vec::new(),
            loading: Vec::new(),
            hits: Hits::default(),
            looks_again: false,
            head_blocked: false,
            filled_to: 0,
            awaiting: Vec::new(),
            received: VecDeque::new(),
            kept: Vec::new(),
        }
    }

    /// One token for every decoding sequence (R1), with preemption if blocks
    /// run out (R2).
    fn decode(&mut self, core: &mut Core, step: &mut FormedStep) {
        let now = core.decode.step();
        self.filled_to = now + 1;
        if core.decode.takers(now).len() <= self.cache.free_blocks() as usize {
            self.decode_blocks(core, now);
            return;
        }
        let mut i = 0;
        'sequences: while i < self.running.len() {
            let id = self.running[i];
            i += 1;
            if core.seqs[id].decode_from.is_none() {
                continue;
            }
            if core.seqs[id].kv_tokens_at(now).is_multiple_of(core.config.block_size) {
                while self.cache.free_blocks() == 0 {
                    let victim = self.preempt_last(core, step);
                    if victim == id {
                        break 'sequences;
                    }
                }
                self.cache.allocate(1, &mut core.log);
            }
            if (core.seqs[id].kv_tokens_at(now) + 1).is_multiple_of(core.config.block_size) {
                self.fill_block(core, id, now);
            }
        }
    }

    fn fill_block(&mut self, core: &mut Core, id: SeqId, step: u64) {
        let full = (core.seqs[id].kv_tokens_at(step) + 1) / core.config.block_size;
        self.publish(core, id, full);
    }

    /// Makes the first `full` blocks of a sequence hittable (R5).
    fn publish(&mut self, core: &mut Core, id: SeqId, full: u32) {
        let held = self.own[id].held.blocks();
        if !core.config.prefix_caching || full <= held {
            return;
        }
        if let Some(owner) = self.cache.owner_of(&core.seqs[id].content, held, full) {
            self.enter_deferred(core, owner);
        }
        let Core { seqs, log, config, .. } = core;
        let (seq, own) = (&seqs[id], &mut self.own[id]);
        if log.unheard().is_some() {
            if own.defers {
                // Filled one by one, and published long ago.
                let every = config.block_size;
                for run in seq.content.range(held, full) {
                    let (parent, step) =
                        (seq.content.block(held - 1), own.filled_at + u64::from(every));
                    log.grown(Growth { parent, run, step, every });
                }
                own.filled_at += u64::from(every) * u64::from(full - held);
                self.cache.enter_late(&seq.content, &mut own.held, full);
                return;
            }
            // Decoding fills what comes behind the prompt.
            for run in seq.content.range(held, full.min(seq.prompt_tokens / config.block_size)) {
                log.unheard().into_iter().for_each(|unheard| unheard.unforeseen(run));
            }
        }
        self.cache.publish(&seq.content, &mut own.held, full, log);
    }

    /// Lets a sequence enter the blocks that it fills later, all at once, as far
    /// as the difference cannot be seen: a run costs its sequences, not its blocks.
    fn defer(&mut self, core: &mut Core, id: SeqId, step: u64) {
        let own = &mut self.own[id];
        own.defers = self.cache.defer(&core.seqs[id].content, &own.held, id);
        own.filled_at = step;
        if own.defers {
            core.decode.set_defers(&core.seqs, id, true);
        }
    }

    /// Enters the blocks that a sequence has put off, since they are about to be looked
    /// up, and all further ones at once.
    fn enter_deferred(&mut self, core: &mut Core, id: SeqId) {
        self.cache.stop_deferring(&self.own[id].held);
        self.publish(core, id, self.filled_blocks(core, id));
        self.own[id].defers = false;
        core.decode.set_defers(&core.seqs, id, false);
    }

    /// Full blocks of a decoding sequence, entered or not.
    fn filled_blocks(&self, core: &Core, id: SeqId) -> u32 {
        core.seqs[id].kv_tokens_at(self.filled_to) / core.config.block_size
    }

    /// Takes all blocks of a sequence that does not decode (any more).
    fn release(&mut self, core: &mut Core, id: SeqId) {
        self.publish(core, id, core.seqs[id].kv_tokens / core.config.block_size);
        let blocks = core.seqs[id].kv_tokens.div_ceil(core.config.block_size);
        let own = &mut self.own[id];
        own.defers = false;
        let others = blocks - own.held.blocks();
        self.cache.release(&mut own.held, others);
    }

    /// Frees the blocks that were taken for KV from another worker; nothing of it was
    /// entered in the cache.
    fn release_received(&mut self, core: &Core, id: SeqId) {
        let blocks = core.seqs[id].prompt_tokens.div_ceil(core.config.block_size);
        let held = &mut self.own[id].held;
        let others = blocks - held.blocks();
        self.cache.release(held, others);
    }

    /// The next chunk of the prompt that is being computed. It is always the
    /// last admitted one: a prompt that does not fit uses up the budget.
    fn resume_prefill(&mut self, core: &mut Core, step: &mut FormedStep, budget: &mut u32) {
        let Some(&id) = self.running.last() else { return };
        if !core.seqs[id].in_prefill() || *budget == 0 {
            return;
        }
        let seq = &core.seqs[id];
        let new_tokens = (seq.target_tokens() - seq.kv_tokens).min(*budget);
        let tokens = seq.kv_tokens + new_tokens;
        let block_size = core.config.block_size;
        let needed = tokens.div_ceil(block_size) - seq.kv_tokens.div_ceil(block_size);
        if needed > self.cache.free_blocks() {
            self.preempt_last(core, step);
            return;
        }
        self.compute_chunk(core, step, id, new_tokens);
        *budget -= new_tokens;
    }

    /// Admits waiting requests (R3): the whole prompt must fit into the free
    /// blocks, the first that does not fit ends admission.
    fn admit(&mut self, core: &mut Core, step: &mut FormedStep, budget: &mut u32) {
        let places = core.config.max_num_seqs as usize;
        self.join_received(core, step, budget, places);
        let block_size = core.config.block_size;
        let mut at = 0;
        while *budget > 0 && self.running.len() < places {
            let Some(&id) = self.waiting.get(at) else { return };
            let target = core.seqs[id].target_tokens();
            // Blocks that were loaded for it.
            let own_blocks = core.seqs[id].kv_tokens / block_size;
            if own_blocks > 0 {
                self.hits.clear();
            } else if core.config.prefix_caching {
                self.look_up(core, id, target);
            }
            let Hits { blocks: hit_blocks, free_blocks: free_hits, .. } = self.hits;
            let is_fetched = core.seqs[id].phase == Phase::Decode;
            if own_blocks == 0 && !is_fetched && self.is_being_loaded(core, id, hit_blocks) {
                self.looks_again = true;
                at += 1;
                continue;
            }
            let needed = target.div_ceil(block_size) - own_blocks - hit_blocks + free_hits;
            let watermark = if self.running.is_empty() { 0 } else { self.options.watermark_blocks };
            if needed.saturating_add(watermark) > self.cache.free_blocks() {
                if self.running.is_empty() && self.give_up_loaded(core, id) {
                    continue;
                }
                self.head_blocked = true;
                return;
            }
            if is_fetched {
                self.await_kv(core, step, hit_blocks * block_size);
                continue;
            }
            let load = if own_blocks == 0 { core.plan_load(id, hit_blocks, step) } else { None };
            let load_blocks = load.as_ref().map_or(0, |load| load.blocks);
            let ready_tokens = (own_blocks + hit_blocks + load_blocks) * block_size;
            let new_tokens = (target - ready_tokens).min(*budget);
            if !core.config.chunked_prefill && new_tokens < target - ready_tokens {
                // It fits when more of it is hit, or is worth loading.
                self.head_blocked = true;
                self.looks_again = core.log.tiers().is_some();
                return;
            }
            if let Some(tiers) = core.log.tiers_mut().filter(|_| own_blocks == 0) {
                tiers.touch(&core.seqs[id].content, (target - 1) / block_size);
            }
            self.waiting.remove(at);
            if own_blocks == 0 {
                self.cache.take(&self.hits, &mut self.own[id].held);
                core.seqs[id].kv_tokens = ready_tokens;
            }
            if let Some(load) = load {
                let takes_time = core.begin_load(id, &load);
                self.cache.allocate(load_blocks, &mut core.log);
                if takes_time {
                    self.loading.push(id);
                    continue;
                }
                self.publish(core, id, ready_tokens / block_size);
            }
            self.running.push(id);
            core.seqs.admit(id);
            if core.seqs[id].loaded.is_some() {
                step.loaded.push(id);
            }
            if !self.own[id].preempted {
                step.admitted.push((id, ready_tokens));
            }
            self.compute_chunk(core, step, id, new_tokens);
            *budget -= new_tokens;
        }
    }

    /// The head is given blocks for all of its prompt but what was just found here
    /// (H3). It waits for its KV aside, so those behind it may go on.
    fn await_kv(&mut self, core: &mut Core, step: &mut FormedStep, hit_tokens: u32) {
        let id = self.waiting.pop_front().expect("the head was looked up");
        let seq = &core.seqs[id];
        let held = &mut self.own[id].held;
        self.cache.take(&self.hits, held);
        let blocks = seq.prompt_tokens.div_ceil(core.config.block_size);
        self.cache.allocate(blocks - held.blocks(), &mut core.log);
        step.awaited.push((id, seq.prompt_tokens - hit_tokens));
        self.awaiting.push(id);
    }

    /// Lets requests whose KV came decode, before any other request is admitted: the
    /// last prompt token is computed here and gives the first output token (H5).
    fn join_received(
        &mut self,
        core: &mut Core,
        step: &mut FormedStep,
        budget: &mut u32,
        places: usize,
    ) {
        while *budget > 0 && self.running.len() < places {
            let Some(id) = self.received.pop_front() else { return };
            self.publish(core, id, core.seqs[id].prompt_tokens / core.config.block_size);
            self.running.push(id);
            core.seqs.admit(id);
            core.seqs[id].kv_tokens = core.seqs[id].prompt_tokens - 1;
            core.seqs[id].first_since_admission = 1;
            // Its block for this step is among those it has.
            core.decode.join(&mut core.seqs, id);
            step.admitted.push((id, core.seqs[id].kv_tokens));
            step.joined.push(id);
            *budget -= 1;
        }
    }

    /// What the first `target` tokens of a waiting sequence hit.
    fn look_up(&mut self, core: &mut Core, id: SeqId, target: u32) {
        self.cache.lookup(&core.seqs[id].content, target, &mut self.hits);
        if let Some(owner) = self.hits.owner {
            self.enter_deferred(core, owner);
            self.cache.lookup(&core.seqs[id].content, target, &mut self.hits);
        }
    }

    /// Requests whose loads are done offer what was loaded and wait first in line.
    fn take_loaded(&mut self, core: &mut Core) {
        if core.loads.is_empty() {
            return;
        }
        let done = core.take_loaded();
        for &id in &done {
            self.publish(core, id, core.seqs[id].kv_tokens / core.config.block_size);
        }
        self.loading.retain(|&id| core.seqs[id].loading);
        done.into_iter().rev().for_each(|id| self.waiting.push_front(id));
    }

    /// True if the block at which the hits of `id` end is being loaded for another
    /// request: then it waits for that (vLLM's `OffloadingConnector`), and others
    /// go before it.
    fn is_being_loaded(&self, core: &Core, id: SeqId, hit_blocks: u32) -> bool {
        let seq = &core.seqs[id];
        let block_size = core.config.block_size;
        if self.loading.is_empty() || hit_blocks >= (seq.target_tokens() - 1) / block_size {
            return false;
        }
        let missing = seq.content.block(hit_blocks);
        let has = |other: &Seq| {
            hit_blocks < other.kv_tokens / block_size && other.content.block(hit_blocks) == missing
        };
        self.loading.iter().any(|&other| has(&core.seqs[other]))
    }

    /// Nothing runs, and request `id` does not fit because others hold what was
    /// loaded for them: the last of those gives its blocks back (to the cache).
    /// Assumed: vLLM would wait for ever.
    fn give_up_loaded(&mut self, core: &mut Core, id: SeqId) -> bool {
        let holds = |&other: &SeqId| other != id && core.seqs[other].kv_tokens > 0;
        let Some(at) = self.waiting.iter().rposition(holds) else { return false };
        let other = self.waiting[at];
        self.release(core, other);
        let seq = &mut core.seqs[other];
        seq.kv_tokens = 0;
        seq.loaded = None;
        true
    }

    fn compute_chunk(
        &mut self,
        core: &mut Core,
        step: &mut FormedStep,
        id: SeqId,
        new_tokens: u32,
    ) {
        let cached_tokens = core.seqs[id].kv_tokens;
        let tokens = cached_tokens + new_tokens;
        let block_size = core.config.block_size;
        let more = tokens.div_ceil(block_size) - cached_tokens.div_ceil(block_size);
        self.cache.allocate(more, &mut core.log);
        self.publish(core, id, tokens / core.config.block_size);
        let seq = &mut core.seqs[id];
        seq.kv_tokens = tokens;
        let last = tokens == seq.target_tokens();
        step.chunks.push((id, PrefillChunk { new_tokens, cached_tokens, last }));
    }

    /// Preempts the last admitted sequence (R2): its blocks are freed, its
    /// outputs kept, and it waits first in line.
    fn preempt_last(&mut self, core: &mut Core, step: &mut FormedStep) -> SeqId {
        let at = self.running.iter().rposition(|&id| !core.seqs[id].ending);
        let id = self.running.remove(at.expect("a sequence that needs a block runs"));
        if core.seqs[id].decode_from.is_some() {
            core.decode.leave(&mut core.seqs, id);
        }
        self.release(core, id);
        let seq = &mut core.seqs[id];
        seq.kv_tokens = 0;
        self.own[id].preempted = true;
        if seq.phase == Phase::Decode {
            // What was received is lost, and computed here like any prompt.
            seq.phase = Phase::Whole;
        }
        self.waiting.push_front(id);
        step.preempted.push(id);
        id
    }

    /// While the head waits, decoding makes memory scarcer and a step no roomier,
    /// unless a running sequence is about to publish the very block at which
    /// the head's hits end.
    fn head_may_find_new_blocks(&self, core: &Core) -> bool {
        let Some(&head) = self.waiting.front() else { return false };
        let head = &core.seqs[head];
        let limit = (head.target_tokens() - 1) / core.config.block_size;
        let missing = self.present_blocks(core, &head.content, limit);
        let wanted = head.content.block(missing);
        self.running.iter().any(|&id| core.seqs[id].content.block(missing) == wanted)
    }

    fn leave_batch(&mut self, id: SeqId) {
        let at = self.running.iter().position(|&other| other == id);
        self.running.remove(at.expect("an ending sequence is running"));
    }
}

fn narrow(sequences: usize) -> u32 {
    u32::try_from(sequences).expect("a batch has fewer than 2^32 sequences")
}
