//! One rank of a worker: a scheduler with its queue, its batch and its cache.
//!
//! Where attention is data parallel a worker has several, each with sequences and KV of
//! its own; any other worker has one. What a rank does follows from what it is asked
//! alone; when that is, is the business of the [worker](super::worker), whose ranks step
//! together.

use super::balance::Offer;
use super::config::EngineConfig;
use super::core::Core;
use super::decode_set::Member;
use super::gauges::Gauges;
use super::outbox::{Outbox, StepRecord};
use super::pipeline::Segment;
use super::rules::dispatch::AnyScheduler;
use super::scheduler::{Handover, Scheduler};
use super::seq::{Loaded, Seq, SeqId};
use super::step::{ChunkEnd, FormedStep, Results};
use super::work::PrefillChunk;
use crate::event::{KvEvent, Lost, RejectReason, WorkerEvent, WorkerEventKind};
use crate::id::{RequestId, WorkerId};
use crate::kv::Span;
use crate::request::{Phase, Request};
use crate::time::{SimDuration, SimTime};
use smallvec::SmallVec;
use std::sync::Arc;

/// See the [module documentation](self).
#[derive(Debug)]
pub(super) struct Rank {
    pub(super) id: WorkerId,
    pub(super) core: Core,
    pub(super) rules: AnyScheduler,
    /// With overlap: the step before the launched one, whose results are not handled yet.
    pub(super) in_flight: Option<Results>,
    pub(super) gauges: Gauges,
    /// The step that is being formed and planned; memory that all workers share.
    formed: Option<Box<FormedStep>>,
    /// Results of the last step that is planned; the others only decode.
    last: Results,
    /// The step that runs, for those who ask.
    record: StepRecord,
    /// Preempted or left out while their last token was still being computed.
    late_tokens: Vec<SeqId>,
    /// Requests whose clients have given up, and whether a boundary has seen that.
    aborts: Vec<(RequestId, bool)>,
}

/// How long a step takes on the GPU of a rank, as far as the others do not matter, and
/// how that goes on.
#[derive(Clone, Copy, Debug)]
pub(super) struct RankTime {
    pub(super) gpu: SimDuration,
    /// How much longer each step takes than the one before.
    pub(super) growth: SimDuration,
    /// How many steps of that kind follow each other until a sequence ends.
    pub(super) steps: u64,
}

impl Rank {
    /// An idle rank with an empty cache.
    pub(super) fn new(id: WorkerId, config: Arc<EngineConfig>, wants_kv_events: bool) -> Self {
        Self {
            id,
            rules: AnyScheduler::new(&config),
            core: Core::new(config, wants_kv_events),
            in_flight: None,
            gauges: Gauges::default(),
            formed: None,
            last: Results::default(),
            record: StepRecord::none(id),
            late_tokens: Vec::new(),
            aborts: Vec::new(),
        }
    }

    /// Takes a request into the queue.
    pub(super) fn submit(&mut self, request: &Request, phase: Phase) -> Result<(), RejectReason> {
        let config = &self.core.config;
        if request.prompt_tokens >= config.max_model_len {
            return Err(RejectReason::ContextLimit);
        }
        // So it fits into one step where it has to: see `EngineConfig::validate`.
        let room = config.max_model_len - request.prompt_tokens;
        let mut seq = Seq::new(request);
        seq.phase = phase;
        if phase == Phase::Prefill {
            // As routers ask for it: a prompt and one token, which is not used.
            seq.output_tokens = 1;
        }
        seq.output_tokens = seq.output_tokens.min(room);
        seq.max_tokens = seq.max_tokens.min(room);
        let longest = seq.prompt_tokens.saturating_add(self.rules.longest_output(&seq));
        if config.blocks_for(longest) > u64::from(config.num_blocks) {
            return Err(RejectReason::KvPool);
        }
        let id = self.core.insert_seq(seq);
        self.rules.submit(&self.core, id);
        Ok(())
    }

    /// A request was taken at `now`.
    pub(super) fn count_taken(&mut self, now: SimTime) {
        self.gauges.advance(now);
        self.gauges.waiting += 1;
    }

    /// Whether `request` is here.
    pub(super) fn has(&self, request: RequestId) -> bool {
        self.core.seqs.find(request).is_some()
    }

    /// The client of `request` has given it up: the next boundary drops it.
    pub(super) fn abort(&mut self, request: RequestId) {
        self.aborts.push((request, false));
    }

    /// Drops the requests that were given up before a step is formed; true if there were any.
    pub(super) fn drop_aborted(&mut self, now: SimTime, out: &mut Outbox) -> bool {
        let aborts = std::mem::take(&mut self.aborts);
        let any = !aborts.is_empty();
        for (request, was_seen) in aborts {
            let Some(id) = self.core.seqs.find(request) else { continue };
            let seq = &self.core.seqs[id];
            // The step in flight decodes for those that joined before it was formed.
            let decodes = seq.decode_from.is_some_and(|from| from < self.core.decode.step());
            if seq.ending || !self.rules.abort(&mut self.core, id, !was_seen) {
                self.aborts.push((request, true));
                continue;
            }
            if let Some(results) = &mut self.in_flight {
                results.decoded -= u32::from(decodes);
                results.chunks.retain(|&(other, _)| other != id);
            }
            self.late_tokens.retain(|&other| other != id);
            self.announce(now, id, WorkerEventKind::Aborted, out);
            self.core.remove_seq(id);
        }
        any
    }

    /// Handles the results that are due at the boundary `now`, `gap` after the one before:
    /// those of the step that ends there, or with overlap of the one before it. A worker
    /// that drains has formed no step since.
    pub(super) fn finish_step(
        &mut self,
        now: SimTime,
        gap: SimDuration,
        drains: bool,
        out: &mut Outbox,
    ) {
        self.core.set_time(now);
        let overlap = self.core.config.overlap;
        let due = if drains {
            self.in_flight.take()
        } else {
            let last = std::mem::take(&mut self.last);
            if overlap { self.in_flight.replace(last) } else { Some(last) }
        };
        if let Some(results) = &due {
            out.gaps.add(gap.as_ps(), u64::from(results.decoded));
        }
        self.gauges.advance(now);
        for at in 0..self.late_tokens.len() {
            let id = self.late_tokens[at];
            self.core.seqs[id].last_token_at = now;
            self.announce_token(now, id, self.core.seqs[id].generated, out);
        }
        self.late_tokens.clear();
        if let Some(results) = due {
            // Steps formed after the one whose results are due.
            let ahead = u64::from(overlap && !drains);
            self.announce_output_blocks(now, ahead, out);
            self.handle(now, results, out);
        }
        self.read_gauges();
        if !drains && self.record.has_seqs() {
            let used_blocks = self.gauges.used_blocks;
            out.note_step(StepRecord { end: now, used_blocks, ..self.record });
        }
    }

    fn handle(&mut self, now: SimTime, mut results: Results, out: &mut Outbox) {
        for &(id, end) in &results.chunks {
            match end {
                ChunkEnd::Partial => {}
                ChunkEnd::FirstToken if self.core.seqs[id].phase == Phase::Prefill => {}
                ChunkEnd::FirstToken => self.announce(now, id, WorkerEventKind::FirstToken, out),
                ChunkEnd::NextToken(number) => {
                    let gap = now.since(self.core.seqs[id].last_token_at);
                    out.gaps.add(gap.as_ps(), 1);
                    self.announce_token(now, id, number, out);
                }
            }
        }
        for id in results.ended.drain(..) {
            if self.core.seqs[id].phase == Phase::Prefill {
                self.keep(now, id, out);
                continue;
            }
            self.rules.end(&mut self.core, id);
            let seq = self.core.remove_seq(id);
            let kind = WorkerEventKind::Finished { output_tokens: seq.output_tokens };
            let event = WorkerEvent { worker: self.id, request: seq.request, kind };
            out.events.push_back((now, event));
        }
        self.rules.computed(&mut self.core, &results.chunks);
        self.core.publish(now);
        results.chunks.clear();
        out.spare.push(results);
    }

    /// Ends a sequence that was only to be prefilled.
    fn keep(&mut self, now: SimTime, id: SeqId, out: &mut Outbox) {
        self.handover().0.keep(id);
        self.announce(now, id, WorkerEventKind::Prefilled, out);
    }

    fn announce(&self, now: SimTime, id: SeqId, kind: WorkerEventKind, out: &mut Outbox) {
        let request = self.core.seqs[id].request;
        out.events.push_back((now, WorkerEvent { worker: self.id, request, kind }));
    }

    /// Says whose decoded token, due at `now`, is the first of a block. `ahead`
    /// steps were formed after the one that computed it.
    fn announce_output_blocks(&self, now: SimTime, ahead: u64, out: &mut Outbox) {
        let taking = self.core.decode.step() - ahead;
        if out.output_tokens {
            self.core
                .decode
                .members()
                .for_each(|&member| self.announce_member(now, member, taking, out));
        } else if out.output_blocks {
            // A sequence takes a block in the step after its token needs one.
            let takers = self.core.decode.takers(taking).iter();
            takers.for_each(|&member| self.announce_member(now, member, taking, out));
        } else {
            return;
        }
        // With overlap the step of a last token may run already: the one before is due.
        for &id in self.in_flight.iter().flat_map(|results| &results.ended) {
            self.announce_token(now, id, self.core.seqs[id].generated - 1, out);
        }
    }

    /// Says so of the token that a member computed in the step before `taking`.
    fn announce_member(
        &self,
        now: SimTime,
        Member { id, .. }: Member,
        taking: u64,
        out: &mut Outbox,
    ) {
        let seq = &self.core.seqs[id];
        let Some(from) = seq.decode_from.filter(|&from| from < taking) else { return };
        let decoded = u32::try_from(taking - from).expect("fewer than 2^32 tokens");
        self.announce_token(now, id, seq.generated + decoded, out);
    }

    /// Says so if token `number` of a sequence, due at `now`, is the first of a block.
    fn announce_token(&self, now: SimTime, id: SeqId, number: u32, out: &mut Outbox) {
        let seq = &self.core.seqs[id];
        let before = seq.prompt_tokens + number.saturating_sub(1);
        let between = number > 1 && number < seq.output_tokens;
        let begins = out.output_blocks && before.is_multiple_of(self.core.config.block_size);
        if between && (begins || out.output_tokens) {
            self.announce(now, id, WorkerEventKind::OutputBlock { output_tokens: number }, out);
        }
    }

    /// A step is about to be formed at `now`.
    pub(super) fn begin_step(&mut self, now: SimTime) {
        self.gauges.advance(now);
        self.core.set_time(now);
    }

    /// Whether no results are in flight that anyone waits for.
    pub(super) fn awaits_nothing(&self) -> bool {
        self.in_flight.as_ref().is_none_or(Results::is_empty)
    }

    /// What it would do in the step that is about to be formed. `from_idle`: the worker had
    /// nothing to do until now.
    pub(super) fn offer(&mut self, from_idle: bool) -> Offer {
        let prompts = self.rules.offer(&mut self.core, from_idle);
        Offer { prompts, decodes: self.core.decode.len() }
    }

    /// The step about to be formed computes none of the prompts it offered.
    pub(super) fn hold_back(&mut self) {
        self.rules.hold_back();
    }

    /// Prompt tokens of all requests here.
    pub(super) fn prompt_tokens(&self) -> u64 {
        let seqs = self.core.seqs.ids().map(|id| &self.core.seqs[id]);
        seqs.map(|seq| u64::from(seq.prompt_tokens)).sum()
    }

    /// Forms the next step at `now`.
    pub(super) fn form(&mut self, now: SimTime, out: &mut Outbox) {
        let mut formed = out.formed.pop().unwrap_or_default();
        self.rules.form(&mut self.core, &mut formed);
        self.formed = Some(formed);
        self.announce_formed(now, out);
        self.read_gauges();
    }

    /// The step just formed is planned.
    pub(super) fn end_forming(&mut self, out: &mut Outbox) {
        if let Some(mut formed) = self.formed.take() {
            formed.clear();
            out.formed.push(formed);
        }
    }

    /// The step that is being formed.
    fn formed(&self) -> &FormedStep {
        self.formed.as_deref().expect("a step is being formed")
    }

    /// Whether the step just formed holds anything of this rank.
    pub(super) fn has_step(&self) -> bool {
        self.has_prefill() || self.core.decode.len() > 0
    }

    /// Whether the step just formed holds prompt tokens of this rank.
    pub(super) fn has_prefill(&self) -> bool {
        !self.formed().chunks.is_empty()
    }

    /// Whether forming the step took blocks from sequences.
    pub(super) fn has_preempted(&self) -> bool {
        !self.formed().preempted.is_empty()
    }

    /// Sequences in the step just formed.
    pub(super) fn step_seqs(&self) -> u32 {
        let chunks = u32::try_from(self.formed().chunks.len()).expect("fits u32");
        self.core.decode.len() + chunks
    }

    /// Tokens in the step just formed, padding included where a captured graph runs, as
    /// none does `with_prefill` anywhere in the worker.
    pub(super) fn step_tokens(&self, with_prefill: bool) -> u32 {
        let decode_seqs = self.core.decode.len();
        if !with_prefill && decode_seqs > 0 {
            return self.core.padded_seqs();
        }
        let chunks = self.formed().chunks.iter().map(|(_, chunk)| chunk.new_tokens);
        chunks.sum::<u32>() + decode_seqs
    }

    /// When the first load from a lower tier is done.
    pub(super) fn load_done(&self) -> Option<SimTime> {
        self.core.loads.first().map(|&(done, _)| done)
    }

    /// # Panics
    /// If requests are left that nothing will move on: our own bug.
    pub(super) fn check_idle(&self, now: SimTime) {
        let left = self.gauges.waiting + self.gauges.running;
        let waits = self.rules.waits_for_others();
        assert!(left == 0 || waits, "{:?} is idle at {now:?} with {left} requests", self.id);
    }

    /// Announces what forming the step did to requests.
    fn announce_formed(&mut self, now: SimTime, out: &mut Outbox) {
        let formed = self.formed.as_deref().expect("a step is being formed");
        for &id in &formed.loaded {
            if let Some(Loaded { tokens, time }) = self.core.seqs[id].loaded.take() {
                self.announce(now, id, WorkerEventKind::Loaded { tokens, time }, out);
            }
        }
        for &(id, cached_tokens) in &formed.admitted {
            self.announce(now, id, WorkerEventKind::Scheduled { cached_tokens }, out);
        }
        for &id in formed.preempted.iter().chain(&formed.passed_over) {
            let seq = &mut self.core.seqs[id];
            // Else its prompt was not computed to the end: its last token is an older one.
            let has_sampled = seq.first_since_admission <= seq.generated;
            seq.first_since_admission = u32::MAX;
            if has_sampled {
                seq.last_token_at = now;
                if self.core.config.overlap {
                    self.late_tokens.push(id);
                }
            }
        }
        for &id in &formed.preempted {
            self.announce(now, id, WorkerEventKind::Preempted, out);
        }
        for &(id, tokens) in &formed.awaited {
            out.awaited.push((self.id, self.core.seqs[id].request, tokens));
        }
    }

    /// GPU time of this rank's part of the step just formed, which is not empty.
    /// `with_prefill`: a rank of the worker computes prompt tokens in it.
    pub(super) fn step_time(&mut self, with_prefill: bool) -> RankTime {
        if with_prefill {
            let chunks = self.formed().chunks.iter().map(|&(_, chunk)| chunk);
            let chunks: SmallVec<[PrefillChunk; 8]> = chunks.collect();
            let gpu = self.core.mixed_time(&chunks);
            return RankTime { gpu, growth: SimDuration::ZERO, steps: 1 };
        }
        let (decode_seqs, decode_context) = (self.core.decode.len(), self.core.decode.reads());
        let piece = self.core.decode_piece();
        let growth = SimDuration::from_ps(piece.per_token_ps * u64::from(decode_seqs));
        let mut steps = 1;
        if self.may_look_ahead() {
            let same_piece = (piece.context_end - 1 - decode_context) / u64::from(decode_seqs);
            let to_end = self.core.decode.steps_to_end().unwrap_or(1);
            steps = to_end.min(same_piece.saturating_add(1));
        }
        RankTime { gpu: piece.at(decode_context), growth, steps }
    }

    /// True if the boundaries after the next step show nothing but tokens.
    pub(super) fn may_look_ahead(&self) -> bool {
        let config = &self.core.config;
        let decode_seqs = self.core.decode.len();
        let nothing_due = !config.overlap
            || self.in_flight.as_ref().is_some_and(|results| results.only_decoded(decode_seqs));
        config.fast_forward
            && nothing_due
            && self.formed().preempted.is_empty()
            && self.formed().joined.is_empty()
    }

    /// Counts the step just formed, which `start`s now; gives how many of the `steps` that
    /// the worker would plan need no decision here.
    pub(super) fn count_step(&mut self, start: SimTime, mut steps: u64, out: &mut Outbox) -> u64 {
        let decode_seqs = self.core.decode.len();
        self.core.decode.advance(1);
        if out.output_blocks {
            // The boundary at which an output grows into a block ends the plan.
            let late = u64::from(self.core.config.overlap);
            let next = self.core.decode.step();
            let taking = self.core.decode.next_taking(next - late);
            steps = steps.min(taking.saturating_sub(next - 1).saturating_add(late));
        }
        if !self.aborts.is_empty() {
            // The next boundary drops them.
            steps = 1;
        }
        if steps > 1 {
            steps = self.rules.undisturbed_steps(&self.core, steps - 1) + 1;
        }
        let joined = u32::try_from(self.formed().joined.len()).expect("fits u32");
        self.last = out.spare.pop().unwrap_or_default();
        self.last.decoded = decode_seqs - joined;
        self.record = self.step_record(start, decode_seqs);
        steps
    }

    /// The step just formed is the only one that is planned.
    pub(super) fn end_plan(&mut self) {
        self.core.take_ended(&mut self.last);
        self.join_decodes();
    }

    fn step_record(&self, start: SimTime, decode_seqs: u32) -> StepRecord {
        let mut record = StepRecord {
            start,
            decode_seqs,
            decode_tokens: decode_seqs,
            running: self.gauges.running,
            waiting: self.gauges.waiting,
            ..StepRecord::none(self.id)
        };
        for &(id, chunk) in &self.formed().chunks {
            if self.core.seqs[id].generated == 0 {
                record.prefill_seqs += 1;
                record.prefill_tokens += chunk.new_tokens;
            } else {
                record.decode_seqs += 1;
                record.decode_tokens += chunk.new_tokens;
            }
        }
        record
    }

    /// Lets the prompts that the step completes join the decoding sequences.
    fn join_decodes(&mut self) {
        let formed = self.formed.as_deref().expect("a step is being formed");
        let last = &mut self.last;
        last.chunks.extend(formed.joined.iter().map(|&id| (id, ChunkEnd::FirstToken)));
        let Core { seqs, decode, .. } = &mut self.core;
        for &(id, chunk) in &formed.chunks {
            if !chunk.last {
                last.chunks.push((id, ChunkEnd::Partial));
                continue;
            }
            let seq = &mut seqs[id];
            seq.generated += 1;
            seq.first_since_admission = seq.generated;
            let end = match seq.generated {
                1 => ChunkEnd::FirstToken,
                number => ChunkEnd::NextToken(number),
            };
            last.chunks.push((id, end));
            if seq.generated < seq.output_tokens {
                decode.join(seqs, id);
            } else {
                seq.ending = true;
                last.ended.push(id);
            }
        }
    }

    /// Settles the boundaries of `segments`, after which the next one is at `boundary`:
    /// counts their tokens, takes and publishes their blocks. `last_is_next`: only the last
    /// step of the plan is left.
    pub(super) fn settle(
        &mut self,
        segments: &[Segment],
        (boundary, last_is_next): (SimTime, bool),
        out: &mut Outbox,
    ) {
        let record = self.record;
        if out.each_step.is_some() {
            self.record.start = boundary;
        } else {
            self.record.steps += segments.iter().map(|segment| segment.steps).sum::<u64>();
        }
        let decoded = u64::from(self.last.decoded);
        for segment in segments {
            let Segment { gap, growth, steps, .. } = *segment;
            out.gaps.add_run(gap.as_ps(), growth.as_ps(), steps, decoded);
            if record.has_seqs() && out.wants_each(segment.start, segment.boundary(steps)) {
                self.settle_each(segment, record, out);
            } else {
                self.settle_blocks(segment);
            }
        }
        if last_is_next {
            self.core.take_ended(&mut self.last);
        }
    }

    /// Settles the boundaries of `segment` one after the other and records each
    /// step; `record` has what all of them share.
    fn settle_each(&mut self, segment: &Segment, record: StepRecord, out: &mut Outbox) {
        for step in segment.single_steps() {
            // Seen at the boundary, before the step that is formed there takes blocks.
            let used_blocks = self.rules.used_blocks();
            let (start, end) = (step.start, step.boundary(1));
            out.note_step(StepRecord { start, end, used_blocks, ..record });
            self.settle_blocks(&step);
        }
    }

    /// The block traffic of the steps that were formed at the boundaries of `segment`.
    fn settle_blocks(&mut self, segment: &Segment) {
        // Changes made while a step was formed are published at the next boundary.
        self.core.publish(segment.boundary(1));
        let first = self.core.decode.step();
        let (mut step, end) = (first, first + segment.steps);
        loop {
            let quiet = self.rules.quiet_until(&self.core, step, end);
            if quiet > step {
                let takings = self.core.decode.takings(step, quiet);
                let at_boundary =
                    |(step, blocks): (u64, u32)| (segment.boundary(step - first + 1), blocks);
                let blocks = self.gauges.take(takings.map(at_boundary));
                self.rules.take_blocks(&mut self.core, blocks, step..quiet);
                debug_assert_eq!(self.gauges.used_blocks, self.rules.used_blocks());
                step = quiet;
            }
            step = self.rules.next_traffic(&self.core.decode, step);
            if step >= end {
                break;
            }
            let k = step - first + 1;
            self.gauges.advance(segment.boundary(k));
            self.core.set_time(segment.boundary(k));
            self.rules.decode_blocks(&mut self.core, step);
            self.gauges.used_blocks = self.rules.used_blocks();
            if k < segment.steps && self.core.log.is_pending() {
                self.core.log.publish(segment.boundary(k + 1));
            }
            step += 1;
        }
        if let Some(unheard) = self.core.log.unheard() {
            // The changes of a step are published one boundary later, those of the last
            // one when that is known.
            unheard.span_published(Span {
                steps: segment.steps - 1,
                first: segment.boundary(2),
                gap_ps: (segment.gap + segment.growth * 2).as_ps(),
                growth_ps: segment.growth.as_ps(),
            });
        }
        self.core.decode.advance(segment.steps);
    }

    /// Hands over the cache changes published at or before `until`, in order.
    pub(super) fn take_kv_events(
        &mut self,
        until: SimTime,
        mut sink: impl FnMut(SimTime, KvEvent),
    ) {
        let published = self.core.log.published();
        let ready = published.partition_point(|&(at, _)| at <= until);
        for (at, event) in published.drain(..ready) {
            sink(at, event);
        }
    }

    /// When changes of the cache were published that are not handed over, if any were.
    pub(super) fn kv_published(&mut self) -> Option<SimTime> {
        self.core.log.published().first().map(|&(at, _)| at)
    }

    /// At how many boundaries from now, as far as that is known, changes of the cache will
    /// have been published. One made at one boundary is published at the next one.
    pub(super) fn kv_due_in(&mut self) -> u64 {
        if self.core.log.is_pending() {
            return 1;
        }
        let step = self.core.decode.step();
        self.rules.next_traffic(&self.core.decode, step).saturating_sub(step).saturating_add(2)
    }

    /// Blocks of the pool, and how many of them no request holds.
    pub(super) fn blocks(&self) -> (u32, u32) {
        let total = self.core.config.num_blocks;
        (total, total - self.rules.used_blocks())
    }

    pub(super) fn read_gauges(&mut self) {
        let (running, waiting) = (self.rules.running(&self.core), self.rules.waiting(&self.core));
        let count = |n| u32::try_from(n).expect("requests are counted in u32");
        self.gauges.running = count(running);
        self.gauges.waiting = count(waiting);
        self.gauges.used_blocks = self.rules.used_blocks();
    }

    /// Counts blocks that were freed, or are not held any more, at `now`.
    pub(super) fn count_freed(&mut self, now: SimTime) {
        self.gauges.advance(now);
        self.gauges.used_blocks = self.rules.used_blocks();
    }

    pub(super) fn handover(&mut self) -> (&mut dyn Handover, &mut Core) {
        let handover = self.rules.handover();
        (handover.expect("pools have engines that hand KV over"), &mut self.core)
    }

    /// Dies at `now`, when everything up to then is settled, with its requests and its
    /// cache: gives what was lost, in order of request. `running`: a step runs that began
    /// at `boundary`.
    pub(super) fn die(&mut self, now: SimTime, (running, boundary): (bool, SimTime)) -> Vec<Lost> {
        self.gauges.advance(now);
        let ids: Vec<SeqId> = self.core.seqs.ids().collect();
        let lost = |id| self.lost(id, (running, boundary));
        let mut lost: Vec<Lost> = ids.into_iter().map(lost).collect();
        lost.sort_unstable_by_key(|lost| lost.request);
        let config = Arc::clone(&self.core.config);
        self.rules = AnyScheduler::new(&config);
        self.core.lose_all();
        self.in_flight = None;
        self.late_tokens.clear();
        self.aborts.clear();
        (self.gauges.running, self.gauges.waiting, self.gauges.used_blocks) = (0, 0, 0);
        lost
    }

    /// What clients have of a sequence, when everything up to the present moment
    /// is settled.
    fn lost(&self, id: SeqId, (is_running, boundary): (bool, SimTime)) -> Lost {
        let seq = &self.core.seqs[id];
        let since = |sampled: u32| sampled.saturating_sub(seq.first_since_admission) + 1;
        // Steps whose results are not handled; a sequence that decodes sampled a
        // token in each of them, back to the one in which its prompt ended.
        let unseen_steps = u32::from(is_running) + u32::from(self.in_flight.is_some());
        let ends_in_flight = self.in_flight.iter().any(|results| results.ended.contains(&id));
        let (sampled, unseen) = match seq.decode_from {
            Some(from) => {
                let decoded = self.core.decode.step() - from;
                let decoded = u32::try_from(decoded).expect("fewer than 2^32 tokens");
                let sampled = seq.generated + decoded;
                (sampled, unseen_steps.min(since(sampled)))
            }
            None if seq.ending && ends_in_flight => (seq.generated, 1),
            None if seq.ending => (seq.generated, unseen_steps.min(since(seq.generated))),
            None => (seq.generated, u32::from(self.late_tokens.contains(&id))),
        };
        let output_tokens = sampled - unseen;
        let left_at_boundary = output_tokens >= seq.first_since_admission;
        let last_token_at = if left_at_boundary { boundary } else { seq.last_token_at };
        Lost { request: seq.request, output_tokens, last_token_at }
    }
}

impl Core {
    /// Takes the sequences that ended in the step just counted out of the decodes.
    fn take_ended(&mut self, results: &mut Results) {
        self.decode.take_ended(&mut self.seqs, &mut results.ended);
        for &id in &results.ended {
            self.seqs[id].ending = true;
        }
    }
}
