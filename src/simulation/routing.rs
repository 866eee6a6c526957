//! What the loop does with a request: from its arrival over decisions to its end.

use super::Simulation;
use super::guard::Stuck;
use super::observer::Happening;
use super::requests::LiveRequest;
use crate::engine::Gauges;
use crate::event::{RejectReason, WorkerEvent, WorkerEventKind};
use crate::fleet::Fleet;
use crate::id::{RequestId, WorkerId};
use crate::recorder::{End, Refused};
use crate::request::Request;
use crate::router::front_end::FrontEnd;
use crate::router::settings::Spread;
use crate::router::{CostParts, Reported, Verdict, WorkerView};
use crate::time::SimTime;
use crate::truth::WorkerTruth;

/// One decision of a router, taken apart: what it knew, and what was true.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The request.
    pub request: RequestId,
    /// When.
    pub at: SimTime,
    /// The front end that decided.
    pub front_end: usize,
    /// Full blocks of the prompt.
    pub prompt_blocks: u32,
    /// What it decided; where a request was held, what it decided first.
    pub verdict: Verdict,
    /// What the policy says each worker would have cost; empty if it does not say.
    pub costs: Vec<CostParts>,
    /// What the front end counted, per worker.
    pub view: Vec<WorkerView>,
    /// Leading blocks that its index showed on each worker, if it has one.
    pub believed_blocks: Option<Vec<u32>>,
    /// What was true of each worker; empty if the fleet cannot tell.
    pub truth: Vec<WorkerTruth>,
}

impl Decision {
    /// Forgets all but the first workers: the others were no choice.
    fn keep_workers(&mut self, workers: usize) {
        self.view.truncate(workers);
        self.truth.truncate(workers);
        if let Some(blocks) = &mut self.believed_blocks {
            blocks.truncate(workers);
        }
    }
}

impl<F: Fleet> Simulation<'_, F> {
    pub(super) fn arrive(&mut self, now: SimTime) {
        let arrival = self.workload.take();
        debug_assert_eq!(arrival.at, now);
        self.recorder.arrive(&arrival);
        self.observers.tell(now, Happening::Arrival(&arrival));
        self.wait(&arrival);
        let request = arrival.request;
        let (id, front_end) = (request.id, self.front_end_of(&request));
        self.requests.arrive(request, front_end);
        self.admit(now, id);
    }

    fn front_end_of(&self, request: &Request) -> usize {
        let key = match self.spread {
            Spread::InTurn => request.id.index(),
            Spread::ByConversation => request.conversation.index(),
        };
        key % self.front_ends.len()
    }

    /// A request that is at its front end is decided about.
    pub(super) fn route(&mut self, now: SimTime, id: RequestId) {
        let live = self.requests.get(id);
        if live.is_given_up {
            return self.drop_given_up(now, id, None);
        }
        let front_end = &mut self.front_ends[live.front_end];
        // In this order: to know the truth is to look at every worker.
        if front_end.wants_truth()
            && let Some(truth) = self.fleet.truth(now)
        {
            front_end.observe_truth(truth.workers(&live.request));
        }
        let is_explained = self.explained == Some(id) && !live.is_prefilled;
        let looked_at = is_explained.then(|| self.look(now, id));
        let &LiveRequest { ref request, front_end: index, .. } = self.requests.get(id);
        let view = self.requests.get(id).view(self.block_size);
        let verdict = self.front_ends[index].route(now, &view);
        let decision = Happening::Decision { request, front_end: index, verdict };
        self.observers.tell(now, decision);
        if let Some(mut decision) = looked_at {
            if matches!(verdict, Verdict::Send(worker) if self.sides.prefills(worker)) {
                decision.keep_workers(self.sides.prefill_workers() as usize);
            }
            if decision.costs.is_empty() {
                // Of a router outside, which says them with its answer.
                let view = self.requests.get(id).view(self.block_size);
                let front_end = &mut self.front_ends[index];
                decision.costs = front_end.explain(now, &view);
                let before = decision.believed_blocks.take();
                decision.believed_blocks = before.or_else(|| front_end.overlap_blocks(now, &view));
            }
            self.decision = Some(Decision { verdict, ..decision });
        }
        match verdict {
            Verdict::Send(worker) => self.dispatch(now, worker, id),
            Verdict::Hold => self.requests.hold(id),
            Verdict::Reject(_) if self.fails(now, index) => {}
            Verdict::Reject(reason) => self.turn_away(now, id, reason),
        }
    }

    /// Whether the policy of a front end cannot decide any more: the simulation ends then.
    fn fails(&mut self, now: SimTime, front_end: usize) -> bool {
        let failure = self.front_ends[front_end].failure();
        self.failed = failure.map(|why| Stuck::Router { at: now, why }).or(self.failed.take());
        self.failed.is_some()
    }

    pub(super) fn turn_away(&mut self, now: SimTime, id: RequestId, reason: RejectReason) {
        self.let_go_of_kv(now, id);
        let front_end = self.close(id).front_end;
        let mut refused = None;
        if let Some(refusal) = self.refusal(front_end, reason) {
            self.guard.end(now);
            let is_sent_again = self.workload.observe_refusal(now, id, &refusal);
            refused = Some(Refused::new(refusal.status, is_sent_again));
        } else if reason == RejectReason::NoWorker {
            self.guard.fail(now);
            self.workload.observe_failure(now, id);
        } else {
            self.guard.end(now);
            self.workload.observe_end(now, id, false);
        }
        self.recorder.turn_away(now, id, reason, refused);
        self.observers.tell(now, Happening::End { request: id, end: End::Rejected(reason) });
    }

    /// The decision about a request before it is made.
    fn look(&mut self, now: SimTime, id: RequestId) -> Decision {
        let LiveRequest { request, front_end: index, .. } = self.requests.get(id);
        let view = request.route_view(self.block_size);
        let front_end = &mut self.front_ends[*index];
        Decision {
            request: id,
            at: now,
            front_end: *index,
            prompt_blocks: view.blocks.len(),
            verdict: Verdict::Hold,
            costs: front_end.explain(now, &view),
            believed_blocks: front_end.overlap_blocks(now, &view),
            view: front_end.workers().into_owned(),
            truth: self.fleet.truth(now).map_or(Vec::new(), |truth| truth.workers(request)),
        }
    }

    /// Front ends whose time has come restart. What they held comes to them again.
    pub(super) fn restart(&mut self, now: SimTime) {
        self.catch_up_kv();
        let due = |front_end: &FrontEnd| front_end.restart_due().is_some_and(|at| at <= now);
        let due: Vec<bool> = self.front_ends.iter().map(due).collect();
        let held = self.requests.forget(&due);
        for (front_end, _) in self.front_ends.iter_mut().zip(&due).filter(|(_, due)| **due) {
            front_end.restart(now);
        }
        self.deliver_kv_events(now);
        self.route_again(now, held);
        self.let_in_soon();
    }

    /// Requests that a policy held which is no more come to its successor.
    pub(super) fn route_again(&mut self, now: SimTime, held: Vec<RequestId>) {
        for id in held {
            self.requests.release(id);
            self.route(now, id);
        }
    }

    /// Gives the front ends the cache changes that may be visible to them now.
    pub(super) fn deliver_kv_events(&mut self, now: SimTime) {
        let interested = self.front_ends.iter().filter(|front_end| front_end.wants_kv_events());
        if let Some(until) = interested.map(|front_end| front_end.kv_horizon(now)).max() {
            self.take_kv_events(until);
        }
    }

    /// The same, as far as it makes a difference to who routes request `id` next.
    pub(super) fn deliver_kv_events_of(&mut self, now: SimTime, id: RequestId) {
        let is_on_demand = |front_end: &FrontEnd| front_end.hears_kv_on_demand();
        let mut interested = self.front_ends.iter().filter(|front_end| front_end.wants_kv_events());
        if !interested.clone().all(is_on_demand) {
            return self.deliver_kv_events(now);
        }
        let Some(until) = interested.next().map(|front_end| front_end.kv_horizon(now)) else {
            return;
        };
        self.front_ends.iter_mut().for_each(|front_end| front_end.deliver_kv(now));
        let prompt = self.requests.get(id).request.route_view(self.block_size).blocks;
        let front_ends = &mut self.front_ends;
        self.fleet.take_kv_events_of(until, &prompt, &mut |source, event| {
            for front_end in front_ends.iter_mut().filter(|front_end| front_end.wants_kv_events()) {
                front_end.hear_kv_now(source, &event);
            }
        });
        self.kv_heard = Some((now, until));
    }

    /// Brings the front ends to where they would be if they had heard everything that was
    /// visible to the last decision: before anything happens to them or to workers.
    pub(super) fn catch_up_kv(&mut self) {
        if let Some((at, until)) = self.kv_heard.take() {
            self.take_kv_events(until);
            self.front_ends.iter_mut().for_each(|front_end| front_end.deliver_kv(at));
        }
    }

    /// Gives the front ends what workers published up to `until`.
    pub(super) fn take_kv_events(&mut self, until: SimTime) {
        let front_ends = &mut self.front_ends;
        self.fleet.take_kv_events(until, &mut |source, at, event| {
            for front_end in &mut *front_ends {
                front_end.hear_kv(at, source, event);
            }
        });
    }

    fn dispatch(&mut self, now: SimTime, worker: WorkerId, id: RequestId) {
        let front_end = &self.front_ends[self.requests.get(id).front_end];
        let worker = match front_end.tells_ranks_apart() {
            true => worker,
            false => self.fleet.choose_rank(now, worker),
        };
        self.note_choice(now, worker, id);
        self.tell_peers_of_booking(now, worker, id);
        self.recorder.dispatch(now, id, worker);
        self.requests.send(id, worker);
        if self.is_lost_on_arrival(now, worker, id) {
            let request = &self.requests.get(id).request;
            self.observers.tell(now, Happening::Dispatch { request, worker });
            return;
        }
        let request = &self.requests.get(id).request;
        match self.fleet.submit(now, worker, request) {
            Ok(()) => self.observers.tell(now, Happening::Dispatch { request, worker }),
            Err(reason) => {
                let kind = WorkerEventKind::Rejected(reason);
                self.handle(now, &WorkerEvent { worker, request: id, kind });
            }
        }
    }

    /// Lets the recorder compare the choice with what was there.
    fn note_choice(&mut self, now: SimTime, worker: WorkerId, id: RequestId) {
        // Of two workers the one that computes the prompt is the choice.
        if !self.recorder.measures_why() || self.requests.get(id).is_prefilled {
            return;
        }
        let Some(truth) = self.fleet.truth(now) else { return };
        let LiveRequest { request, front_end, .. } = self.requests.get(id);
        let held = truth.cached_blocks(request);
        let view = request.route_view(self.block_size);
        let front_end = &mut self.front_ends[*front_end];
        // An index of what was routed has taken this request in already.
        let believed =
            if front_end.wants_kv_events() { front_end.overlap_blocks(now, &view) } else { None };
        self.recorder.note_choice(request, worker, &held, believed.as_deref());
    }

    /// Lets the recorder compare what was hit with what is there.
    fn note_hits(&mut self, now: SimTime, event: &WorkerEvent) {
        let WorkerEventKind::Scheduled { cached_tokens } = event.kind else { return };
        let is_prefilled = self.requests.get(event.request).is_prefilled;
        if !self.recorder.measures_why() || is_prefilled {
            return;
        }
        let Some(truth) = self.fleet.truth(now) else { return };
        let held = truth.cached_blocks(&self.requests.get(event.request).request);
        self.recorder.note_hits(event, cached_tokens, &held);
    }

    fn tell_peers_of_booking(&mut self, now: SimTime, worker: WorkerId, id: RequestId) {
        if self.front_ends.len() == 1 || !self.front_ends.iter().any(FrontEnd::hears_peers) {
            return;
        }
        let &LiveRequest { ref request, front_end: index, .. } = self.requests.get(id);
        let view = request.route_view(self.block_size);
        let believed = self.front_ends[index].overlap_blocks(now, &view);
        let overlap_blocks = believed.map_or(0, |blocks| blocks[worker.index()]);
        let peers = self.front_ends.iter_mut().enumerate().filter(|(at, _)| *at != index);
        for (_, peer) in peers {
            peer.hear_booking(now, request, self.block_size, worker, overlap_blocks);
        }
    }

    /// The front end that sent the request hears of it, and so do the others.
    pub(super) fn tell_front_ends(&mut self, now: SimTime, event: &WorkerEvent) {
        let &LiveRequest { ref request, front_end: index, .. } = self.requests.get(event.request);
        // Some fleets tell of every token; front ends hear of blocks.
        if let WorkerEventKind::OutputBlock { output_tokens } = event.kind
            && !(request.prompt_tokens + output_tokens.saturating_sub(1))
                .is_multiple_of(self.block_size)
        {
            return;
        }
        if self.requests.is_forgotten(event.request, event.kind.ends_stay()) {
            return;
        }
        for (at, front_end) in self.front_ends.iter_mut().enumerate() {
            if at == index {
                front_end.observe(now, event);
            } else {
                front_end.hear_life(now, event);
            }
        }
    }

    /// A worker tells of a request.
    pub(super) fn handle(&mut self, now: SimTime, event: &WorkerEvent) {
        self.note_hits(now, event);
        self.tell_front_ends(now, event);
        self.recorder.observe(now, event);
        self.observers.tell(now, Happening::Worker(event));
        match event.kind {
            WorkerEventKind::Finished { output_tokens } => {
                let delivered_tokens = self.requests.get(event.request).delivered_tokens;
                let output_tokens = delivered_tokens + output_tokens;
                self.end(now, event, End::Finished { output_tokens });
            }
            WorkerEventKind::Rejected(reason) => self.end(now, event, End::Rejected(reason)),
            WorkerEventKind::Aborted => self.end(now, event, End::GivenUp),
            WorkerEventKind::FirstToken => self.requests.answer(event.request),
            WorkerEventKind::KvReceived { .. } => self.let_go_of_kv(now, event.request),
            WorkerEventKind::Prefilled => {
                self.requests.prefill(event.request, event.worker);
                self.deliver_kv_events(now);
                self.route(now, event.request);
            }
            WorkerEventKind::Scheduled { .. }
            | WorkerEventKind::CacheHit { .. }
            | WorkerEventKind::Loaded { .. }
            | WorkerEventKind::Preempted
            | WorkerEventKind::Failed
            | WorkerEventKind::OutputBlock { .. } => {}
        }
        self.release(now);
    }

    /// A request ends at its worker.
    fn end(&mut self, now: SimTime, event: &WorkerEvent, end: End) {
        if let Some(changes) = &mut self.changes {
            changes.ended(now, event.worker);
        }
        self.let_go_of_kv(now, event.request);
        let is_given_up = self.close(event.request).is_given_up;
        let end = if is_given_up { End::GivenUp } else { end };
        self.guard.end(now);
        self.observers.tell(now, Happening::End { request: event.request, end });
        // Its client has gone on.
        if !is_given_up {
            let served = matches!(end, End::Finished { .. });
            self.workload.observe_end(now, event.request, served);
        }
    }

    /// The KV that a worker keeps for the request is fetched, or will not be: that worker
    /// is done with it.
    pub(super) fn let_go_of_kv(&mut self, now: SimTime, id: RequestId) {
        let Some(worker) = self.requests.take_kept(id) else { return };
        self.fleet.give_up(now, id);
        if let Some(changes) = &mut self.changes {
            changes.ended(now, worker);
        }
    }

    /// Shows the front ends whose turn it is what the workers report.
    pub(super) fn report(&mut self, now: SimTime) {
        let due = |front_end: &FrontEnd| front_end.report_due().is_some_and(|due| due <= now);
        if !self.front_ends.iter().any(due) {
            return;
        }
        let reported = reports(now, &self.fleet.gauges(now));
        for front_end in self.front_ends.iter_mut().filter(|front_end| due(front_end)) {
            front_end.report(now, &reported);
        }
    }

    /// Sends what the policies let go.
    pub(super) fn release(&mut self, now: SimTime) {
        if self.requests.held() > 0 {
            self.release_held(now);
        }
        self.let_in_soon();
    }

    fn release_held(&mut self, now: SimTime) {
        self.deliver_kv_events(now);
        for index in 0..self.front_ends.len() {
            while let Some((id, verdict)) = self.front_ends[index].release(now) {
                self.requests.release(id);
                if self.requests.get(id).is_given_up {
                    self.drop_given_up(now, id, verdict.ok());
                    continue;
                }
                match verdict {
                    Ok(worker) => self.dispatch(now, worker, id),
                    Err(reason) => self.turn_away(now, id, reason),
                }
            }
            self.fails(now, index);
        }
    }
}

/// What workers with these gauges report to routers at `now`.
fn reports(now: SimTime, gauges: &[Gauges]) -> Vec<Reported> {
    let report = |gauges: &Gauges| Reported {
        at: now,
        running: gauges.running,
        waiting: gauges.waiting,
        used_blocks: gauges.used_blocks,
    };
    gauges.iter().map(report).collect()
}
