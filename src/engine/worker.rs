//! The life of a worker, from boundary to boundary; see the [module documentation](super).

use super::config::EngineConfig;
use super::core::Core;
use super::decode_set::Member;
use super::gauges::Gauges;
use super::outbox::{Outbox, StepRecord, Wake};
use super::pace::Pace;
use super::pipeline::{Cadence, Pipeline, Segment};
use super::plan::Plan;
use super::rules::dispatch::AnyScheduler;
use super::scheduler::{Handover, Scheduler};
use super::seq::{Loaded, Seq, SeqId};
use super::step::{ChunkEnd, FormedStep, Results};
use super::work::PrefillChunk;
use crate::event::{KvEvent, Lost, RejectReason, WorkerEvent, WorkerEventKind};
use crate::id::{RequestId, WorkerId};
use crate::kv::{BlockCount, Span};
use crate::request::{Phase, Request};
use crate::time::{SimDuration, SimTime};
use std::sync::Arc;

/// A simulated worker.
#[derive(Debug)]
pub struct Worker {
    pub(super) id: WorkerId,
    pub(super) core: Core,
    pub(super) rules: AnyScheduler,
    pub(super) pipeline: Pipeline,
    pub(super) state: State,
    /// With overlap: the step before the launched one, whose results are not handled yet.
    in_flight: Option<Results>,
    gauges: Gauges,
    formed: FormedStep,
    chunks: Vec<PrefillChunk>,
    /// Preempted while their last token was still being computed.
    late_tokens: Vec<SeqId>,
    spare: Vec<Results>,
    /// Requests whose clients have given up, and whether a boundary has seen that.
    aborts: Vec<(RequestId, bool)>,
    pub(super) is_up: bool,
}

#[derive(Debug)]
pub(super) enum State {
    /// Nothing to do until a request arrives.
    Idle,
    /// A step is to be formed at this boundary.
    Ready { at: SimTime, from_idle: bool },
    /// Steps run.
    Running(Plan),
    /// Nothing can be formed until the results in flight are handled.
    Draining { until: SimTime },
    /// Nothing can be formed until a load from a lower tier is done.
    Loading { until: SimTime },
}

impl Worker {
    /// An idle worker with an empty cache. Cache events are recorded only if
    /// `wants_kv_events`.
    pub fn new(id: WorkerId, config: Arc<EngineConfig>, wants_kv_events: bool) -> Self {
        let rules = AnyScheduler::new(&config);
        let core = Core::new(config, wants_kv_events);
        Self {
            id,
            core,
            rules,
            pipeline: Pipeline::default(),
            state: State::Idle,
            in_flight: None,
            gauges: Gauges::default(),
            formed: FormedStep::default(),
            chunks: Vec::new(),
            late_tokens: Vec::new(),
            spare: Vec::new(),
            aborts: Vec::new(),
            is_up: true,
        }
    }

    /// When to call next; `None` while idle.
    pub fn wake(&self) -> Option<Wake> {
        match &self.state {
            State::Idle => None,
            State::Ready { at, .. } | State::Loading { until: at } => Some(Wake::StartStep(*at)),
            State::Running(plan) => Some(Wake::FinishStep(plan.end)),
            State::Draining { until } => Some(Wake::FinishStep(*until)),
        }
    }

    /// Takes a request at `now`.
    ///
    /// # Errors
    /// If it can never run here. An output that would pass the context limit is
    /// cut, as real engines do.
    pub fn submit(
        &mut self,
        now: SimTime,
        request: &Request,
        out: &mut Outbox,
    ) -> Result<(), RejectReason> {
        self.submit_phase(now, request, Phase::Whole, out)
    }

    /// Takes a request at `now` for a part of its work; unless that is all of it, only
    /// where the engine [hands KV over](super::rules::Defaults::hands_over_kv).
    ///
    /// # Errors
    /// As [`submit`](Self::submit).
    pub fn submit_phase(
        &mut self,
        now: SimTime,
        request: &Request,
        phase: Phase,
        out: &mut Outbox,
    ) -> Result<(), RejectReason> {
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
        self.rules.submit(id);
        self.see_change(now, out);
        self.gauges.advance(now);
        self.gauges.waiting += 1;
        Ok(())
    }

    /// The client of `request` gives it up at `now`. It is dropped at the boundary at
    /// which the engine does that, which is [announced](WorkerEventKind::Aborted),
    /// unless it ends there by itself. One that has left already changes nothing.
    pub fn abort(&mut self, now: SimTime, request: RequestId, out: &mut Outbox) {
        if self.core.seqs.find(request).is_some() {
            self.see_change(now, out);
            self.aborts.push((request, false));
        }
    }

    /// Drops the requests that were given up before a step is formed.
    fn drop_aborted(&mut self, now: SimTime, out: &mut Outbox) {
        for (request, was_seen) in std::mem::take(&mut self.aborts) {
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
            // Results that no client waits for are not waited for.
            self.in_flight.take_if(|results| results.is_empty());
        }
    }

    /// Something changes at `now` that the next boundary has to see.
    fn see_change(&mut self, now: SimTime, out: &mut Outbox) {
        match &mut self.state {
            State::Idle => self.state = State::Ready { at: now, from_idle: true },
            State::Running(plan) => plan.cut(self.pipeline, now),
            State::Loading { until } => *until = now,
            State::Ready { .. } | State::Draining { .. } => {}
        }
        self.settle(now, out);
    }

    /// Handles the results that are due at the boundary `now`.
    pub fn finish_step(&mut self, now: SimTime, out: &mut Outbox) {
        self.settle(now, out);
        self.core.set_time(now);
        let mut record = None;
        // Steps formed after the one whose results are due.
        let ahead = match self.state {
            State::Running(_) => u64::from(self.core.config.overlap),
            _ => 0,
        };
        let due =
            match std::mem::replace(&mut self.state, State::Ready { at: now, from_idle: false }) {
                State::Running(plan) => {
                    debug_assert_eq!(plan.steps, 1, "a plan ends with its last step");
                    let before = self.pipeline.boundary;
                    self.pipeline.step(&plan.cadence);
                    debug_assert_eq!(self.pipeline.boundary, now);
                    record = Some(StepRecord { end: now, ..plan.record });
                    let due = if self.core.config.overlap {
                        self.in_flight.replace(plan.last)
                    } else {
                        Some(plan.last)
                    };
                    if let Some(results) = &due {
                        out.gaps.add((now - before).as_ps(), u64::from(results.decoded));
                    }
                    due
                }
                State::Draining { .. } => {
                    let due = self.in_flight.take();
                    let gap = now - self.pipeline.boundary;
                    let decoded = due.as_ref().map_or(0, |results| results.decoded);
                    out.gaps.add(gap.as_ps(), u64::from(decoded));
                    self.pipeline.boundary = now;
                    due
                }
                _ => unreachable!("no step is running"),
            };
        self.gauges.advance(now);
        for at in 0..self.late_tokens.len() {
            let id = self.late_tokens[at];
            self.core.seqs[id].last_token_at = now;
            self.announce_token(now, id, self.core.seqs[id].generated, out);
        }
        self.late_tokens.clear();
        if let Some(results) = due {
            self.announce_output_blocks(now, ahead, out);
            self.handle(now, results, out);
        }
        self.read_gauges();
        if let Some(record) = record {
            out.note_step(StepRecord { used_blocks: self.gauges.used_blocks, ..record });
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
        self.spare.push(results);
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

    /// Forms the next step at `now` and plans what follows it.
    pub fn start_step(&mut self, now: SimTime, out: &mut Outbox) {
        let (at, from_idle, idles) = match self.state {
            State::Ready { at, from_idle } => (at, from_idle, from_idle),
            State::Loading { until } => (until, false, true),
            _ => unreachable!("a step is formed at a boundary"),
        };
        debug_assert_eq!(at, now);
        self.gauges.advance(now);
        self.core.set_time(now);
        if idles {
            self.pipeline.restart(now);
        }
        self.drop_aborted(now, out);
        self.formed.clear();
        self.rules.form(&mut self.core, &mut self.formed, from_idle);
        self.announce_formed(now, out);
        self.read_gauges();
        self.state = if !self.formed.chunks.is_empty() || self.core.decode.len() > 0 {
            State::Running(self.plan(out.output_blocks))
        } else if self.in_flight.is_some() {
            State::Draining { until: now.max(self.pipeline.gpu_end) }
        } else if let Some(again) = self.form_again(now, from_idle) {
            again
        } else {
            let left = self.gauges.waiting + self.gauges.running;
            let waits = self.rules.waits_for_others();
            assert!(left == 0 || waits, "{:?} is idle at {now:?} with {left} requests", self.id);
            State::Idle
        };
    }

    /// What to do when no step was formed and requests are left.
    fn form_again(&self, now: SimTime, from_idle: bool) -> Option<State> {
        if !self.formed.preempted.is_empty() {
            // The last running sequence made room for what was loaded for others.
            return Some(State::Ready { at: now, from_idle: true });
        }
        let &(until, _) = self.core.loads.first()?;
        // An idle worker may have woken with one arrival of several (T27).
        let again = State::Ready { at: now, from_idle: false };
        Some(if from_idle { again } else { State::Loading { until } })
    }

    /// Announces what forming the step did to requests.
    fn announce_formed(&mut self, now: SimTime, out: &mut Outbox) {
        for &id in &self.formed.loaded {
            if let Some(Loaded { tokens, time }) = self.core.seqs[id].loaded.take() {
                self.announce(now, id, WorkerEventKind::Loaded { tokens, time }, out);
            }
        }
        for &(id, cached_tokens) in &self.formed.admitted {
            self.announce(now, id, WorkerEventKind::Scheduled { cached_tokens }, out);
        }
        for &id in &self.formed.preempted {
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
            self.announce(now, id, WorkerEventKind::Preempted, out);
        }
        for &(id, tokens) in &self.formed.awaited {
            out.awaited.push((self.core.seqs[id].request, tokens));
        }
    }

    /// Counts the step just formed and looks as far ahead as nothing can happen.
    fn plan(&mut self, output_blocks: bool) -> Plan {
        let config = Arc::clone(&self.core.config);
        let decode_seqs = self.core.decode.len();
        let has_prefill = !self.formed.chunks.is_empty();
        let seqs = decode_seqs + u32::try_from(self.formed.chunks.len()).expect("fits u32");
        let (prepare, launch) = config.host_time(seqs, has_prefill);
        let (gpu, growth, mut steps) = self.gpu_time();
        self.core.decode.advance(1);
        if output_blocks {
            // The boundary at which an output grows into a block ends the plan.
            let (next, late) = (self.core.decode.step(), u64::from(config.overlap));
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
        let mut last = self.spare.pop().unwrap_or_default();
        let joined = u32::try_from(self.formed.joined.len()).expect("fits u32");
        last.decoded = decode_seqs - joined;
        let cadence = Cadence { overlap: config.overlap, prepare, launch, gpu, growth };
        let record = self.record(decode_seqs);
        let mut plan = Plan { steps, cadence, end: SimTime::ZERO, last, record };
        if steps == 1 {
            self.core.take_ended(&mut plan.last);
            self.join_decodes(&mut plan.last);
        }
        plan.find_end(self.pipeline);
        if let Some(&(done, _)) = self.core.loads.first() {
            plan.cut(self.pipeline, done);
        }
        plan
    }

    fn record(&self, decode_seqs: u32) -> StepRecord {
        let mut record = StepRecord {
            worker: self.id,
            start: self.pipeline.boundary,
            end: SimTime::ZERO,
            steps: 1,
            prefill_seqs: 0,
            prefill_tokens: 0,
            decode_seqs,
            decode_tokens: decode_seqs,
            running: self.gauges.running,
            waiting: self.gauges.waiting,
            used_blocks: 0,
        };
        for &(id, chunk) in &self.formed.chunks {
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

    /// GPU time of the step just formed, its growth from step to step, and how
    /// many steps of that kind follow each other until a sequence ends.
    fn gpu_time(&mut self) -> (SimDuration, SimDuration, u64) {
        let decode_seqs = self.core.decode.len();
        let decode_context = self.core.decode.context();
        if !self.formed.chunks.is_empty() {
            self.chunks.clear();
            self.chunks.extend(self.formed.chunks.iter().map(|&(_, chunk)| chunk));
            return (self.core.mixed_time(&self.chunks), SimDuration::ZERO, 1);
        }
        let piece = self.core.decode_piece();
        let growth = SimDuration::from_ps(piece.per_token_ps * u64::from(decode_seqs));
        let mut steps = 1;
        if self.may_look_ahead(decode_seqs) {
            let same_piece = (piece.context_end - 1 - decode_context) / u64::from(decode_seqs);
            let to_end = self.core.decode.steps_to_end(&self.core.seqs).unwrap_or(1);
            steps = to_end.min(same_piece.saturating_add(1));
        }
        (piece.at(decode_context), growth, steps)
    }

    /// True if the boundaries after the next step show nothing but tokens.
    fn may_look_ahead(&self, decode_seqs: u32) -> bool {
        let config = &self.core.config;
        let nothing_due = !config.overlap
            || self.in_flight.as_ref().is_some_and(|results| results.only_decoded(decode_seqs));
        config.fast_forward
            && nothing_due
            && self.formed.preempted.is_empty()
            && self.formed.joined.is_empty()
    }

    /// Lets the prompts that the step completes join the decoding sequences.
    fn join_decodes(&mut self, last: &mut Results) {
        last.chunks.extend(self.formed.joined.iter().map(|&id| (id, ChunkEnd::FirstToken)));
        let Core { seqs, decode, .. } = &mut self.core;
        for &(id, chunk) in &self.formed.chunks {
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

    /// Settles the boundaries inside the plan that lie at or before `until`:
    /// counts their tokens, takes and publishes their blocks.
    pub fn settle(&mut self, until: SimTime, out: &mut Outbox) {
        let State::Running(plan) = &mut self.state else { return };
        if plan.steps == 1 {
            return;
        }
        let segments = self.pipeline.run(&mut plan.cadence, plan.steps - 1, until);
        let settled = segments.iter().map(|segment| segment.steps).sum::<u64>();
        plan.steps -= settled;
        let record = plan.record;
        if out.each_step.is_some() {
            plan.record.start = self.pipeline.boundary;
        } else {
            plan.record.steps += settled;
        }
        let (last_is_next, decoded) = (plan.steps == 1, u64::from(plan.last.decoded));
        for segment in &segments {
            let Segment { gap, growth, steps, .. } = *segment;
            out.gaps.add_run(gap.as_ps(), growth.as_ps(), steps, decoded);
            if out.wants_each(segment.start, segment.boundary(steps)) {
                self.settle_each(segment, record, out);
            } else {
                self.settle_blocks(segment);
            }
        }
        if last_is_next && let State::Running(plan) = &mut self.state {
            self.core.take_ended(&mut plan.last);
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

    /// Settles everything up to the present moment `now`.
    ///
    /// A boundary at `now` itself is only half passed: its results are there,
    /// but its step is formed after whatever else happens at this moment, such
    /// as an arrival that joins it. So the plan ends there, and
    /// [`wake`](Self::wake) has to be asked again.
    pub fn settle_present(&mut self, now: SimTime, out: &mut Outbox) {
        self.settle(SimTime::from_ps(now.as_ps().saturating_sub(1)), out);
        let State::Running(plan) = &mut self.state else { return };
        let mut next = self.pipeline;
        next.step(&plan.cadence);
        if plan.steps > 1 && next.boundary == now {
            plan.steps = 1;
            plan.end = now;
            self.finish_step(now, out);
        }
    }

    /// The block traffic of the steps that were formed at the boundaries of `segment`.
    fn settle_blocks(&mut self, segment: &Segment) {
        // Changes made while a step was formed are published at the next boundary.
        self.core.publish(segment.boundary(1));
        let first = self.core.decode.step();
        let mut step = self.rules.next_traffic(&self.core.decode, first);
        while step < first + segment.steps {
            let k = step - first + 1;
            self.gauges.advance(segment.boundary(k));
            self.core.set_time(segment.boundary(k));
            self.rules.decode_blocks(&mut self.core, step);
            self.gauges.used_blocks = self.rules.used_blocks();
            if k < segment.steps {
                self.core.log.publish(segment.boundary(k + 1));
            }
            step = self.rules.next_traffic(&self.core.decode, step + 1);
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
    pub fn take_kv_events(
        &mut self,
        until: SimTime,
        out: &mut Outbox,
        mut sink: impl FnMut(SimTime, KvEvent),
    ) {
        self.settle(until, out);
        let published = self.core.log.published();
        let ready = published.partition_point(|&(at, _)| at <= until);
        for (at, event) in published.drain(..ready) {
            sink(at, event);
        }
    }

    /// When [`take_kv_events`](Self::take_kv_events) will next have something,
    /// as far as that is known before the next [`wake`](Self::wake).
    pub fn kv_due(&mut self) -> Option<SimTime> {
        if !self.core.log.is_on() {
            return None;
        }
        if let Some(&(at, _)) = self.core.log.published().first() {
            return Some(at);
        }
        let State::Running(plan) = &self.state else { return None };
        // A change made at one boundary is published at the next one.
        let boundaries = if self.core.log.is_pending() {
            1
        } else {
            let step = self.core.decode.step();
            self.rules.next_traffic(&self.core.decode, step).saturating_sub(step).saturating_add(2)
        };
        if boundaries >= plan.steps {
            return None;
        }
        let (mut pipeline, mut cadence) = (self.pipeline, plan.cadence);
        pipeline.run(&mut cadence, boundaries, SimTime::MAX);
        Some(pipeline.boundary)
    }

    /// Gauges and their integrals up to the present moment `now`; see
    /// [`settle_present`](Self::settle_present).
    pub fn gauges(&mut self, now: SimTime, out: &mut Outbox) -> Gauges {
        self.settle_present(now, out);
        self.gauges.advance(now);
        self.gauges
    }

    /// Reports losses of cached blocks only when the last copy goes; see [`EventLog`](crate::kv::EventLog).
    pub fn count_copies(&mut self) {
        self.core.log.count_copies();
    }

    /// Tells of the cache changes of all groups of layers, where they keep KV apart.
    pub fn tell_all_groups(&mut self) {
        self.core.log.tell_all_groups();
    }

    /// Blocks of the pool, and how many of them no request holds.
    pub fn blocks(&self) -> (u32, u32) {
        let total = self.core.config.num_blocks;
        (total, total - self.rules.used_blocks())
    }

    /// Every block of the pool, counted where it lies: what [`blocks`](Self::blocks)
    /// must say. Costs what the pool has: for tests.
    pub fn count_blocks(&self) -> BlockCount {
        self.rules.count_blocks(&self.core)
    }

    /// Forgets the prefix cache, as vLLM's `reset_prefix_cache` does. False, and
    /// nothing is forgotten, while a request holds blocks, or if the engine has no
    /// such call.
    pub fn reset_prefix_cache(&mut self) -> bool {
        self.rules.reset_cache()
    }

    fn read_gauges(&mut self) {
        let (running, waiting) = (self.rules.running(&self.core), self.rules.waiting(&self.core));
        let count = |n| u32::try_from(n).expect("requests are counted in u32");
        self.gauges.running = count(running);
        self.gauges.waiting = count(waiting);
        self.gauges.used_blocks = self.rules.used_blocks();
    }
}

/// Requests that one worker prefills and another one decodes.
impl Worker {
    /// The KV of `request` came at `now`: a request taken in phase
    /// [`Decode`](Phase::Decode) for which it had asked.
    ///
    /// # Panics
    /// If it has not asked for it.
    pub fn kv_came(&mut self, now: SimTime, request: RequestId, out: &mut Outbox) {
        self.see_change(now, out);
        let (handover, core) = self.handover();
        handover.kv_came(core, request);
    }

    /// The KV of `request`, which another worker was to hand over, is lost at `now`: its
    /// prompt is computed here. Nothing where it is not waited for.
    pub fn kv_lost(&mut self, now: SimTime, request: RequestId, out: &mut Outbox) {
        self.see_change(now, out);
        let (handover, core) = self.handover();
        handover.kv_lost(core, request);
        self.gauges.advance(now);
        self.gauges.used_blocks = self.rules.used_blocks();
    }

    /// What it runs with.
    pub fn config(&self) -> &EngineConfig {
        &self.core.config
    }

    /// Frees the KV of `request` at `now`, which was taken in phase
    /// [`Prefill`](Phase::Prefill) and has been prefilled.
    ///
    /// # Panics
    /// If it does not keep it.
    pub fn let_go(&mut self, now: SimTime, request: RequestId, out: &mut Outbox) {
        self.see_change(now, out);
        let (handover, core) = self.handover();
        let id = handover.let_go(core, request);
        core.remove_seq(id);
        self.gauges.advance(now);
        self.gauges.used_blocks = self.rules.used_blocks();
    }

    fn handover(&mut self) -> (&mut dyn Handover, &mut Core) {
        let handover = self.rules.handover();
        (handover.expect("pools have engines that hand KV over"), &mut self.core)
    }
}

/// Workers die, come back, and change their pace.
impl Worker {
    /// True unless it [died](Self::die) and did not [come back](Self::come_back).
    pub fn is_up(&self) -> bool {
        self.is_up
    }

    /// Dies at the present moment `now` with its requests and its cache, and
    /// publishes nothing more: gives what was lost, in order of request.
    pub fn die(&mut self, now: SimTime, out: &mut Outbox) -> Vec<Lost> {
        self.settle_present(now, out);
        self.gauges.advance(now);
        let ids: Vec<SeqId> = self.core.seqs.ids().collect();
        let mut lost: Vec<Lost> = ids.into_iter().map(|id| self.lost(id)).collect();
        lost.sort_unstable_by_key(|lost| lost.request);
        let config = Arc::clone(&self.core.config);
        self.rules = AnyScheduler::new(&config);
        self.core.lose_all();
        self.pipeline = Pipeline::default();
        self.state = State::Idle;
        self.in_flight = None;
        self.formed.clear();
        self.late_tokens.clear();
        self.aborts.clear();
        (self.gauges.running, self.gauges.waiting, self.gauges.used_blocks) = (0, 0, 0);
        self.is_up = false;
        lost
    }

    /// Takes requests again, with an empty cache.
    pub fn come_back(&mut self) {
        self.is_up = true;
    }

    /// Steps formed from `now` on run at `pace`: a plan ends where the next one is.
    pub fn set_pace(&mut self, now: SimTime, pace: Pace) {
        if let State::Running(plan) = &mut self.state {
            plan.cut(self.pipeline, now);
        }
        self.core.pace = pace;
    }

    /// What clients have of a sequence, when everything up to the present moment
    /// is settled.
    fn lost(&self, id: SeqId) -> Lost {
        let seq = &self.core.seqs[id];
        let since = |sampled: u32| sampled.saturating_sub(seq.first_since_admission) + 1;
        // Steps whose results are not handled; a sequence that decodes sampled a
        // token in each of them, back to the one in which its prompt ended.
        let is_running = matches!(self.state, State::Running(_));
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
        let last_token_at =
            if left_at_boundary { self.pipeline.boundary } else { seq.last_token_at };
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
