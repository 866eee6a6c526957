//! vLLM's scheduler.
//!
//! Running sequences come first, in order of admission: each decoding one takes
//! one token of the step's budget, the one whose prompt is still being computed
//! takes what is left. Then waiting requests are admitted in order of arrival
//! while budget, places and free blocks last. Memory is not reserved: when a
//! running sequence finds no free block, the last admitted one is preempted.
//! Where it schedules by priority (R19), that takes the place of both orders.

use super::cache::{Held, Hits, VllmCache};
use super::groups::{GroupHit, GroupedCache};
use super::{LayerGroups, SchedulingPolicy, VllmOptions};
use crate::engine::config::EngineConfig;
use crate::engine::core::Core;
use crate::engine::decode_set::{DecodeSet, Member};
use crate::engine::scheduler::{BatchAndQueue, Handover, OnDemand, Scheduler};
use crate::engine::seq::{PerSeq, Seq, SeqId};
use crate::engine::step::FormedStep;
use crate::engine::work::PrefillChunk;
use crate::id::RequestId;
use crate::kv::{BlockCount, Cache, Concerns, Growth};
use crate::request::{Content, Phase};
use smallvec::SmallVec;
use std::cmp::Ordering;
use std::collections::VecDeque;
use std::ops::Range;

/// Queue, batch and cache of one worker under vLLM's rules.
#[derive(Debug)]
pub(in crate::engine) struct VllmScheduler {
    options: VllmOptions,
    /// Tokens whose blocks decoding has filled and not yet entered: with async scheduling a
    /// block enters the cache one step late, in the one that takes the next (R9).
    late: u32,
    /// Most tokens of a prompt in the step that is formed.
    longest_chunk: u32,
    cache: VllmCache,
    /// What takes the place of `cache` where groups of layers keep KV apart.
    groups: Option<Box<GroupedCache>>,
    own: PerSeq<Own>,
    /// Requests that came so far.
    arrivals: u64,
    /// In the order in which they are admitted.
    waiting: VecDeque<SeqId>,
    /// In order of admission; sequences whose last step runs are still here.
    running: Vec<SeqId>,
    /// Requests that hold blocks into which KV is being loaded.
    loading: Vec<SeqId>,
    hits: Hits,
    /// The same of groups of layers.
    group_hit: GroupHit,
    /// What was decided depends on loads from lower tiers, so that the next boundary
    /// may decide otherwise.
    looks_again: bool,
    /// The request at the head waits for memory, or for room in a step that must
    /// take all of it.
    head_blocked: bool,
    /// With groups: free blocks without which it waits on in any case.
    head_needs: u32,
    /// The last step left out sequences that run.
    has_passed_over: bool,
    /// The first decode step whose blocks have not been filled.
    filled_to: u64,
    /// Requests with blocks for KV that is on its way.
    awaiting: Vec<SeqId>,
    /// Requests whose KV came, in the order in which they join; not in a batch yet.
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
    /// Tokens of KV before the last chunk of its prompt that was scheduled.
    before_chunk: u32,
    /// By priority: its place among all requests, lower ones first.
    turn: Turn,
}

/// Priority, then arrival.
type Turn = (i32, u64);

impl Scheduler for VllmScheduler {
    fn longest_output(&self, seq: &Seq) -> u32 {
        seq.output_tokens
    }

    fn submit(&mut self, core: &Core, id: SeqId) {
        self.arrivals += 1;
        let turn = (core.seqs[id].priority, self.arrivals);
        *self.own.place(id) = Own { turn, ..Own::default() };
        if let Some(groups) = &mut self.groups {
            groups.place(id);
        }
        self.queue(id, self.waiting.len());
    }

    fn form(&mut self, core: &mut Core, step: &mut FormedStep) {
        self.take_loaded(core);
        let preempted_before = step.preempted.len();
        self.longest_chunk = self.longest_chunk();
        let mut budget = core.config.max_num_batched_tokens;
        self.run_on(core, step, &mut budget);
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
        if self.groups.is_some() {
            return self.decode_group_blocks(core, step);
        }
        self.filled_to = step + 1;
        let takers = core.decode.takers(step).len();
        if !core.log.is_ordered() {
            self.cache.allocate(narrow(takers), &mut core.log);
            for i in 0..self.fillers(core, step).len() {
                let Member { id, defers, .. } = self.fillers(core, step)[i];
                if !defers {
                    self.fill_block(core, id, step);
                    self.defer(core, id, step);
                }
            }
            return;
        }
        let filled = self.fillers(core, step).len();
        let (mut t, mut f) = (0, 0);
        while t < takers || f < filled {
            let taker = core.decode.takers(step).get(t).map_or(u64::MAX, |who| who.admission);
            match self.fillers(core, step).get(f) {
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

    /// Steps in which nothing is entered, since all is put off.
    fn quiet_until(&self, core: &Core, step: u64, end: u64) -> u64 {
        if core.log.is_ordered() || self.groups.is_some() {
            return step;
        }
        let ahead = 1 - u64::from(self.late);
        match core.config.prefix_caching {
            true => end.min(core.decode.next_filling(step + ahead).saturating_sub(ahead)),
            false => end,
        }
    }

    fn take_blocks(&mut self, core: &mut Core, blocks: u32, steps: Range<u64>) {
        self.filled_to = steps.end;
        let Core { decode, log, .. } = core;
        let (displaced, empty) = (self.cache.displaced(), self.cache.empty_blocks());
        let displaces = blocks > empty;
        if let Some(unheard) = log.unheard().filter(|_| displaces) {
            unheard.displace(displaced, empty, decode.takings(steps.start, steps.end));
        }
        self.cache.allocate(blocks, log);
        if let Some(unheard) = log.unheard().filter(|_| displaces) {
            unheard.end_displacing();
        }
    }

    /// A block is published in the step that fills it, the one before the next is taken, or
    /// as late as that.
    fn next_traffic(&self, decode: &DecodeSet, step: u64) -> u64 {
        if let Some(groups) = &self.groups {
            let due = self.due_before_taking(groups, decode).into_iter();
            let next = |ahead: u64| decode.next_taking(step + ahead).saturating_sub(ahead);
            return due.map(next).min().expect("a block is taken");
        }
        let taking = decode.next_taking(step);
        if taking > step { taking - u64::from(1 - self.late) } else { taking }
    }

    fn undisturbed_steps(&self, core: &Core, max: u64) -> u64 {
        if let Some(groups) = &self.groups {
            return self.undisturbed_group_steps(groups, core, max);
        }
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
        if let Some(groups) = &self.groups {
            return groups.present_blocks(content, limit);
        }
        let (present, owner) = self.cache.present_blocks(content, limit);
        let Some(owner) = owner else { return present };
        let theirs = &core.seqs[owner].content;
        let put_off = present..self.filled_blocks(core, owner).min(limit);
        let equal = put_off.take_while(|&at| theirs.block(at) == content.block(at));
        present + u32::try_from(equal.count()).expect("blocks fit u32")
    }

    fn used_blocks(&self) -> u32 {
        match &self.groups {
            Some(groups) => groups.used_blocks(),
            None => self.cache.used_blocks(),
        }
    }

    fn count_blocks(&self, core: &Core) -> BlockCount {
        if let Some(groups) = &self.groups {
            return groups.count_blocks(core.seqs.ids());
        }
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
        match &mut self.groups {
            Some(groups) => groups.reset(),
            None => self.cache.reset(),
        }
    }

    /// Groups of layers are not handed over.
    fn handover(&mut self) -> Option<&mut dyn Handover> {
        if self.groups.is_some() { None } else { Some(self) }
    }

    /// Of a window the beginning is lost before what follows.
    fn on_demand(&mut self) -> Option<&mut dyn OnDemand> {
        if self.groups.is_some() { None } else { Some(self) }
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
        let id = self.awaiting.remove(at.expect("KV that is waited for"));
        let at = self.place(&self.received, id).unwrap_or(self.received.len());
        self.received.insert(at, id);
    }

    /// H8.
    fn kv_lost(&mut self, core: &mut Core, request: RequestId) {
        let is_it = |&id: &SeqId| core.seqs[id].request == request;
        if let Some(at) = self.awaiting.iter().position(is_it) {
            let id = self.awaiting.remove(at);
            self.release_received(core, id);
            core.seqs[id].phase = Phase::Whole;
            self.queue(id, 0);
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
        for at in 0..self.running.len() {
            let id = self.running[at];
            if self.own[id].defers {
                self.enter_deferred(core, id);
            }
        }
    }

    fn enter_concerns(&mut self, core: &mut Core, blocks: u32, concerns: &mut Concerns) {
        let Some(unheard) = core.log.unheard() else { return };
        self.cache.foresee(blocks, |position, run| unheard.displaceable(position, run));
        core.log.enter_concerns(concerns, self.cache.displaced());
    }
}

impl VllmScheduler {
    pub(in crate::engine) fn new(options: VllmOptions, config: &EngineConfig) -> Self {
        let EngineConfig { block_size, num_blocks, .. } = *config;
        let grouped = |groups| {
            let cap = config.window_cap(&groups);
            Box::new(GroupedCache::new(groups, block_size, num_blocks, cap))
        };
        Self {
            options,
            late: u32::from(config.overlap),
            longest_chunk: u32::MAX,
            cache: VllmCache::new(block_size, num_blocks),
            groups: options.groups.map(grouped),
            own: PerSeq::default(),
            arrivals: 0,
            waiting: VecDeque::new(),
            running: Vec::new(),
            loading: Vec::new(),
            hits: Hits::default(),
            group_hit: GroupHit::default(),
            looks_again: false,
            head_blocked: false,
            head_needs: 0,
            has_passed_over: false,
            filled_to: 0,
            awaiting: Vec::new(),
            received: VecDeque::new(),
            kept: Vec::new(),
        }
    }

    /// What running sequences compute in the next step: one token of each that decodes,
    /// and what is left of the budget of prompts (R1), with preemption if blocks run out (R2).
    fn run_on(&mut self, core: &mut Core, step: &mut FormedStep, budget: &mut u32) {
        let now = core.decode.step();
        let takers = core.decode.takers(now).len();
        let prompts_come_last = self.options.long_prefill_tokens == 0;
        let is_roomy = takers <= self.cache.free_blocks() as usize;
        let has_passed_over = std::mem::take(&mut self.has_passed_over);
        if self.groups.is_none() && prompts_come_last && is_roomy && !has_passed_over {
            self.decode_blocks(core, now);
            *budget -= core.decode.len();
            if let Some(&id) = self.running.last()
                && core.seqs[id].in_prefill()
            {
                self.resume(core, step, self.running.len() - 1, budget);
            }
            return;
        }
        // Who takes part is not known yet, so nothing is put off in this step.
        self.write_all_down(core);
        self.filled_to = now + 1;
        let mut next = (!self.running.is_empty()).then_some(0);
        while let Some(at) = next {
            next = self.resume(core, step, at, budget).filter(|&next| next < self.running.len());
        }
    }

    /// What the running sequence at `at` computes in the next step. Gives the place of the
    /// one after it; `None` if it had to give up its blocks itself.
    fn resume(
        &mut self,
        core: &mut Core,
        step: &mut FormedStep,
        mut at: usize,
        budget: &mut u32,
    ) -> Option<usize> {
        let id = self.running[at];
        let (now, seq) = (core.decode.step(), &core.seqs[id]);
        let tokens = seq.kv_tokens_at(now);
        let new_tokens = match seq.decode_from {
            Some(_) => 1,
            None if seq.in_prefill() => {
                (seq.target_tokens() - tokens).min(self.longest_chunk).min(*budget)
            }
            None => 0,
        };
        if new_tokens == 0 {
            return Some(at + 1);
        }
        let decodes = seq.decode_from.is_some();
        self.slide(core, id, now);
        while self.lacking(core, id, tokens, tokens + new_tokens) > self.free_blocks() {
            let victim = self.victim(core);
            self.preempt(core, step, victim, victim < at, budget);
            match victim.cmp(&at) {
                Ordering::Less => at -= 1,
                Ordering::Equal => {
                    self.pass_over(core, step, at);
                    return None;
                }
                Ordering::Greater => {}
            }
        }
        *budget -= new_tokens;
        if !decodes {
            self.compute_chunk(core, step, id, new_tokens);
            return Some(at + 1);
        }
        self.take_blocks(core, id, tokens, tokens + 1);
        if (tokens + 1 - self.late).is_multiple_of(core.config.block_size) {
            self.fill_block(core, id, now);
        }
        Some(at + 1)
    }

    /// The running sequences from `at` on take no part in this step (R19). For those that
    /// decode, the token left out is computed like the end of a prompt in the next one.
    fn pass_over(&mut self, core: &mut Core, step: &mut FormedStep, at: usize) {
        for &id in &self.running[at..] {
            if core.seqs[id].decode_from.is_some() {
                core.decode.leave(&mut core.seqs, id);
                step.passed_over.push(id);
            }
            // They keep their order: there are none behind them.
            core.seqs.admit(id);
        }
        self.has_passed_over = at < self.running.len();
    }

    /// Puts a request into the queue: where its priority says (R19), else at `at`.
    fn queue(&mut self, id: SeqId, at: usize) {
        let at = self.place(&self.waiting, id).unwrap_or(at);
        self.waiting.insert(at, id);
    }

    /// Where a request belongs in a queue, by priority.
    fn place(&self, queue: &VecDeque<SeqId>, id: SeqId) -> Option<usize> {
        let is_before = |&other: &SeqId| self.own[other].turn < self.own[id].turn;
        let by_priority = self.options.policy == SchedulingPolicy::Priority;
        by_priority.then(|| queue.partition_point(is_before))
    }

    /// Blocks that a sequence needs more for `to` tokens than for `from`.
    fn lacking(&self, core: &Core, id: SeqId, from: u32, to: u32) -> u32 {
        let block_size = core.config.block_size;
        match &self.groups {
            Some(groups) => groups.lacking(id, to),
            None => to.div_ceil(block_size) - from.div_ceil(block_size),
        }
    }

    /// Takes them.
    fn take_blocks(&mut self, core: &mut Core, id: SeqId, from: u32, to: u32) {
        match &mut self.groups {
            Some(groups) => groups.extend(id, to, &mut core.log),
            None => {
                let blocks = self.lacking(core, id, from, to);
                self.cache.allocate(blocks, &mut core.log);
            }
        }
    }

    fn free_blocks(&self) -> u32 {
        match &self.groups {
            Some(groups) => groups.free_blocks(),
            None => self.cache.free_blocks(),
        }
    }

    /// Most tokens of a prompt in the next step (R11).
    fn longest_chunk(&self) -> u32 {
        let others = self.loading.len() + self.awaiting.len() + self.received.len();
        match self.options.long_prefill_tokens {
            0 => u32::MAX,
            _ if self.running.len() + self.waiting.len() + others <= 1 => u32::MAX,
            tokens => tokens,
        }
    }

    /// The sequences whose last full block enters the cache in decode step `step`.
    fn fillers<'a>(&self, core: &'a Core, step: u64) -> &'a [Member] {
        core.decode.takers(step + 1 - u64::from(self.late))
    }

    fn fill_block(&mut self, core: &mut Core, id: SeqId, step: u64) {
        let filled = core.seqs[id].kv_tokens_at(step) + 1 - self.late;
        self.publish(core, id, filled / core.config.block_size);
    }

    /// Makes the first `full` blocks of a sequence hittable (R5).
    fn publish(&mut self, core: &mut Core, id: SeqId, full: u32) {
        if !core.config.prefix_caching {
            return;
        }
        if let Some(groups) = &mut self.groups {
            let Core { seqs, log, .. } = core;
            return groups.enter(id, &seqs[id].content, seqs[id].prompt_tokens, full, log);
        }
        let held = self.own[id].held.blocks();
        if full <= held {
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

    /// Blocks of a sequence that decodes or ends which are entered, or put off.
    fn filled_blocks(&self, core: &Core, id: SeqId) -> u32 {
        let seq = &core.seqs[id];
        let tokens = match seq.decode_from {
            Some(_) => seq.kv_tokens_at(self.filled_to - u64::from(self.late)),
            None => seq.kv_tokens - self.late,
        };
        tokens / core.config.block_size
    }

    /// Takes all blocks of a sequence that does not decode (any more).
    fn release(&mut self, core: &mut Core, id: SeqId) {
        let (tokens, block_size) = (core.seqs[id].kv_tokens, core.config.block_size);
        self.publish(core, id, tokens.saturating_sub(self.late) / block_size);
        self.own[id].defers = false;
        if core.seqs[id].ending {
            // The results of its last step are there.
            self.publish(core, id, tokens / block_size);
        }
        if let Some(groups) = &mut self.groups {
            return groups.release(id);
        }
        let held = &mut self.own[id].held;
        let others = tokens.div_ceil(block_size) - held.blocks();
        self.cache.release(held, others);
    }

    /// Frees the blocks that were taken for KV from another worker; nothing of it was
    /// entered in the cache.
    fn release_received(&mut self, core: &Core, id: SeqId) {
        let blocks = core.seqs[id].prompt_tokens.div_ceil(core.config.block_size);
        let held = &mut self.own[id].held;
        let others = blocks - held.blocks();
        self.cache.release(held, others);
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
            if own_blocks > 0 || !core.config.prefix_caching {
                self.hits.clear();
            } else {
                self.look_up(core, id, target);
            }
            let Hits { blocks: hit_blocks, free_blocks: free_hits, .. } = self.hits;
            let is_fetched = core.seqs[id].phase == Phase::Decode;
            if own_blocks == 0 && !is_fetched && self.is_being_loaded(core, id, hit_blocks) {
                self.looks_again = true;
                at += 1;
                continue;
            }
            let found = (own_blocks + hit_blocks) * block_size;
            let chunk = (target - found).min(self.longest_chunk).min(*budget);
            let needed = match &self.groups {
                Some(groups) => self.needed_of_groups(groups, core, id, found + chunk),
                None => {
                    let by_chunk = self.options.admits_by_chunk && !is_fetched;
                    let tokens = if by_chunk { found + chunk } else { target };
                    tokens.div_ceil(block_size) - own_blocks - hit_blocks + free_hits
                }
            };
            let watermark = if self.running.is_empty() { 0 } else { self.options.watermark_blocks };
            if needed.saturating_add(watermark) > self.free_blocks() {
                if self.running.is_empty() && self.give_up_loaded(core, id) {
                    continue;
                }
                self.block_head(core, id);
                return;
            }
            if is_fetched {
                self.await_kv(core, step, hit_blocks * block_size);
                continue;
            }
            let load = if own_blocks == 0 { core.plan_load(id, hit_blocks, step) } else { None };
            let load_blocks = load.as_ref().map_or(0, |load| load.blocks);
            let ready_tokens = (own_blocks + hit_blocks + load_blocks) * block_size;
            let new_tokens = (target - ready_tokens).min(self.longest_chunk).min(*budget);
            let wanted = (target - ready_tokens).min(self.longest_chunk);
            if !core.config.chunked_prefill && new_tokens < wanted {
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
                match &mut self.groups {
                    Some(groups) => groups.take(id, &core.seqs[id].content, self.group_hit),
                    None => self.cache.take(&self.hits, &mut self.own[id].held),
                }
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
        if let Some(groups) = &self.groups {
            let limit = (target - 1) / core.config.block_size;
            self.group_hit = groups.look_up(&core.seqs[id].content, limit);
            self.hits.blocks = self.group_hit.blocks;
            return;
        }
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
        done.into_iter().rev().for_each(|id| self.queue(id, 0));
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
        self.own[id].before_chunk = cached_tokens;
        self.take_blocks(core, id, cached_tokens, tokens);
        self.publish(core, id, tokens / core.config.block_size);
        let seq = &mut core.seqs[id];
        seq.kv_tokens = tokens;
        let last = tokens == seq.target_tokens();
        step.chunks.push((id, PrefillChunk { new_tokens, cached_tokens, last }));
    }

    /// The place of the running sequence that is preempted next: the one admitted last
    /// (R2), or the last by priority (R19).
    fn victim(&self, core: &Core) -> usize {
        let mut running = self.running.iter().enumerate().filter(|(_, id)| !core.seqs[**id].ending);
        let victim = match self.options.policy {
            SchedulingPolicy::Fcfs => running.next_back(),
            SchedulingPolicy::Priority => running.max_by_key(|(_, id)| self.own[**id].turn),
        };
        victim.expect("a sequence that needs a block runs").0
    }

    /// Preempts the running sequence at `at`: its blocks are freed, its outputs kept, and it
    /// waits first in line. What it `was_given` in this step already it gives back, but the
    /// blocks that this fills have entered the cache.
    fn preempt(
        &mut self,
        core: &mut Core,
        step: &mut FormedStep,
        at: usize,
        was_given: bool,
        budget: &mut u32,
    ) {
        let id = self.running.remove(at);
        if core.seqs[id].decode_from.is_some() {
            core.decode.leave(&mut core.seqs, id);
            if was_given {
                *budget += 1;
                core.seqs[id].kv_tokens += 1;
            }
        } else if let Some(at) = step.chunks.iter().position(|&(other, _)| other == id) {
            *budget += step.chunks.remove(at).1.new_tokens;
        }
        self.release(core, id);
        let seq = &mut core.seqs[id];
        seq.kv_tokens = 0;
        self.own[id].preempted = true;
        if seq.phase == Phase::Decode {
            // What was received is lost, and computed here like any prompt.
            seq.phase = Phase::Whole;
        }
        self.queue(id, 0);
        step.preempted.push(id);
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

/// Groups of layers that keep KV apart (R12 to R18).
impl VllmScheduler {
    /// Blocks that are to be free if a waiting sequence is to compute a chunk that ends at
    /// `chunk_end`: for the whole prompt, and for the chunk.
    fn needed_of_groups(
        &self,
        groups: &GroupedCache,
        core: &Core,
        id: SeqId,
        chunk_end: u32,
    ) -> u32 {
        let chunk = groups.needed(self.group_hit, chunk_end, false);
        if self.options.admits_by_chunk {
            return chunk;
        }
        chunk.max(groups.needed(self.group_hit, core.seqs[id].target_tokens(), true))
    }

    /// The head of the queue waits for memory.
    fn block_head(&mut self, core: &Core, id: SeqId) {
        self.head_blocked = true;
        let Some(groups) = &self.groups else { return };
        self.head_needs = match self.options.admits_by_chunk {
            true => 0,
            false => groups.needed_at_least(self.group_hit, core.seqs[id].target_tokens()),
        };
    }

    /// While the head waits, the blocks that windows let go of may be what it lacks.
    fn undisturbed_group_steps(&self, groups: &GroupedCache, core: &Core, max: u64) -> u64 {
        let LayerGroups { windows, .. } = *groups.groups();
        let mut max = max;
        if self.head_blocked {
            // Each sequence lets go of a block of each window group once before it takes them.
            let most =
                groups.free_blocks().saturating_add(windows.saturating_mul(core.decode.len()));
            if self.head_needs <= most || self.head_may_find_new_blocks(core) {
                let next = core.decode.step();
                max = max.min(self.next_traffic(&core.decode, next) - next);
            }
        }
        core.decode.steps_within(groups.free_blocks() / groups.groups().count(), max)
    }

    /// By how many steps the changes of a sequence's blocks come before it takes one: the
    /// taking itself, the entering of what it filled, and where its window ends with a block.
    fn due_before_taking(&self, groups: &GroupedCache, decode: &DecodeSet) -> [u64; 3] {
        let block_size = u64::from(decode.block_size());
        let late = u64::from(self.late);
        let window = u64::from(groups.groups().window_tokens);
        let gap = (window + late + block_size - 1) % block_size;
        [0, 1 - late, (block_size - gap) % block_size]
    }

    /// The block traffic of decode step `step`, sequence by sequence in order of admission.
    fn decode_group_blocks(&mut self, core: &mut Core, step: u64) {
        let Some(groups) = &self.groups else { return };
        let mut due = SmallVec::<[(u64, SeqId); 32]>::new();
        for ahead in self.due_before_taking(groups, &core.decode) {
            due.extend(core.decode.takers(step + ahead).iter().map(|who| (who.admission, who.id)));
        }
        due.sort_unstable();
        due.dedup();
        for (_, id) in due {
            self.slide(core, id, step);
            let tokens = core.seqs[id].kv_tokens_at(step);
            self.take_blocks(core, id, tokens, tokens + 1);
            self.fill_block(core, id, step);
        }
    }

    /// Lets windows go of what a sequence attends to no more in decode step `step`. What a
    /// step in flight computes is not counted.
    fn slide(&mut self, core: &Core, id: SeqId, step: u64) {
        let Some(groups) = &mut self.groups else { return };
        let (seq, own) = (&core.seqs[id], &self.own[id]);
        let tokens = match seq.decode_from {
            _ if self.late == 0 => seq.kv_tokens_at(step),
            Some(from) if step > from => seq.kv_tokens_at(step) - 1,
            _ => own.before_chunk,
        };
        groups.slide(id, tokens);
    }
}

fn narrow(sequences: usize) -> u32 {
    u32::try_from(sequences).expect("a batch has fewer than 2^32 sequences")
}
