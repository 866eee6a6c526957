//! The live requests of a simulation: one record each, from arrival to end.
//!
//! Where a request is stands here and nowhere else. Front ends, workers and the
//! recorder know requests by their ids.

use crate::event::Lost;
use crate::id::{RequestId, WorkerId};
use crate::request::{Request, RouteRequest};
use std::collections::VecDeque;

/// Where a live request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Whereabouts {
    /// At its front end, which decides about it now.
    Deciding,
    /// In front of its front end, which does not let it in yet.
    Waiting,
    /// At its front end, whose policy holds it.
    Held,
    /// At this worker, or on its way there.
    AtWorker(WorkerId),
    /// It was lost with this worker, and its front end does not know yet.
    Lost(WorkerId),
}

/// A request that arrived and has not ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LiveRequest {
    /// The request. After a migration: what is left of it, its prompt longer by the
    /// tokens that its client has.
    pub request: Request,
    /// The front end that it came to.
    pub front_end: usize,
    /// Where it is.
    pub whereabouts: Whereabouts,
    /// A worker has computed its prompt, and another one is to decode it.
    pub is_prefilled: bool,
    /// The worker that keeps its KV for the one that will decode it, until that has it.
    pub kept_at: Option<WorkerId>,
    /// How often it went on at another worker after one was lost.
    pub migrations: u32,
    /// Output tokens that its client has from workers that were lost.
    pub delivered_tokens: u32,
    /// Its front end has restarted since it sent the request, and knows nothing of it.
    pub is_forgotten: bool,
    /// Its first token has left a worker.
    pub is_answering: bool,
    /// Its client has hung up.
    pub is_given_up: bool,
    /// Its prompt tokens as its gate counts them, once that has let it in.
    pub(super) let_in_tokens: Option<u32>,
}

impl LiveRequest {
    /// What a router may see of it.
    pub(super) fn view(&self, block_size: u32) -> RouteRequest<'_> {
        RouteRequest { prefilled: self.is_prefilled, ..self.request.route_view(block_size) }
    }
}

/// The table. Requests are numbered as they arrive, so ids are places in a queue:
/// every operation but [`iter`](Self::iter) costs O(1).
#[derive(Debug, Default)]
pub(super) struct LiveRequests {
    /// The requests from `first` on; `None` for those that have ended.
    table: VecDeque<Option<LiveRequest>>,
    first: u32,
    live: usize,
    held: usize,
    waiting: usize,
}

impl LiveRequests {
    /// Requests that have not ended.
    pub(super) fn live(&self) -> usize {
        self.live
    }

    /// Requests that policies hold.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Requests that gates let wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// All live requests, in order of arrival.
    pub(super) fn iter(&self) -> impl Iterator<Item = &LiveRequest> {
        self.table.iter().flatten()
    }

    /// # Panics
    /// If the request has ended or not arrived.
    pub(super) fn get(&self, id: RequestId) -> &LiveRequest {
        self.find(id).unwrap_or_else(|| panic!("{id:?} is not live"))
    }

    /// The request, if it is live.
    pub(super) fn find(&self, id: RequestId) -> Option<&LiveRequest> {
        self.place(id).and_then(|place| self.table.get(place)?.as_ref())
    }

    /// Its first token leaves a worker.
    pub(super) fn answer(&mut self, id: RequestId) {
        self.get_mut(id).is_answering = true;
    }

    /// Its client hangs up.
    pub(super) fn give_up(&mut self, id: RequestId) {
        self.get_mut(id).is_given_up = true;
    }

    fn get_mut(&mut self, id: RequestId) -> &mut LiveRequest {
        let live = self.place(id).and_then(|place| self.table.get_mut(place)?.as_mut());
        live.unwrap_or_else(|| panic!("{id:?} is not live"))
    }

    fn place(&self, id: RequestId) -> Option<usize> {
        id.0.checked_sub(self.first).map(|place| place as usize)
    }

    /// A request comes to `front_end`, which is to decide about it.
    ///
    /// # Panics
    /// If it is not numbered as the next one.
    pub(super) fn arrive(&mut self, request: Request, front_end: usize) {
        let next = self.first as usize + self.table.len();
        assert_eq!(request.id.index(), next, "requests are numbered in order of arrival");
        self.table.push_back(Some(LiveRequest {
            request,
            front_end,
            whereabouts: Whereabouts::Deciding,
            is_prefilled: false,
            kept_at: None,
            migrations: 0,
            delivered_tokens: 0,
            is_forgotten: false,
            is_answering: false,
            is_given_up: false,
            let_in_tokens: None,
        }));
        self.live += 1;
    }

    /// Its gate lets it wait.
    pub(super) fn wait(&mut self, id: RequestId) {
        self.get_mut(id).whereabouts = Whereabouts::Waiting;
        self.waiting += 1;
    }

    /// Its gate lets it in.
    pub(super) fn let_in(&mut self, id: RequestId) {
        let live = self.get_mut(id);
        live.let_in_tokens = Some(live.request.prompt_tokens);
        let before = std::mem::replace(&mut live.whereabouts, Whereabouts::Deciding);
        self.waiting -= usize::from(before == Whereabouts::Waiting);
    }

    /// The policy holds it.
    pub(super) fn hold(&mut self, id: RequestId) {
        self.get_mut(id).whereabouts = Whereabouts::Held;
        self.held += 1;
    }

    /// The policy lets it go, or is asked again.
    ///
    /// # Panics
    /// If it was not held.
    pub(super) fn release(&mut self, id: RequestId) {
        let live = self.get_mut(id);
        assert_eq!(live.whereabouts, Whereabouts::Held, "only held requests are released");
        live.whereabouts = Whereabouts::Deciding;
        self.held -= 1;
    }

    /// Its front end sends it to `worker`.
    pub(super) fn send(&mut self, id: RequestId, worker: WorkerId) {
        self.get_mut(id).whereabouts = Whereabouts::AtWorker(worker);
    }

    /// `worker` has computed its prompt and keeps the KV: it is at its front end again.
    pub(super) fn prefill(&mut self, id: RequestId, worker: WorkerId) {
        let live = self.get_mut(id);
        (live.is_prefilled, live.whereabouts) = (true, Whereabouts::Deciding);
        live.kept_at = Some(worker);
    }

    /// Its KV is fetched, or will not be: the worker that kept it.
    pub(super) fn take_kept(&mut self, id: RequestId) -> Option<WorkerId> {
        self.get_mut(id).kept_at.take()
    }

    /// `worker` is gone, and with it the KV that it kept for others.
    pub(super) fn forget_kept(&mut self, worker: WorkerId) {
        for live in self.table.iter_mut().flatten() {
            live.kept_at = live.kept_at.filter(|at| *at != worker);
        }
    }

    /// It was lost with `worker`. Another worker would go on from what its client has.
    pub(super) fn lose(&mut self, worker: WorkerId, lost: &Lost) {
        let live = self.get_mut(lost.request);
        live.whereabouts = Whereabouts::Lost(worker);
        live.delivered_tokens += lost.output_tokens;
        let request = &mut live.request;
        request.prompt_tokens += lost.output_tokens;
        request.output_tokens = request.output_tokens.saturating_sub(lost.output_tokens).max(1);
        request.max_tokens = request.max_tokens.saturating_sub(lost.output_tokens).max(1);
    }

    /// Its front end, which has noticed the loss, decides about it again: its prompt is to
    /// be computed once more.
    pub(super) fn migrate(&mut self, id: RequestId) {
        let live = self.get_mut(id);
        live.whereabouts = Whereabouts::Deciding;
        live.is_prefilled = false;
        live.migrations += 1;
    }

    /// The front ends for which `restarts` is true have lost what they knew. Gives
    /// the requests that they held, in order of arrival.
    pub(super) fn forget(&mut self, restarts: &[bool]) -> Vec<RequestId> {
        let mut held = Vec::new();
        let theirs = self.table.iter_mut().flatten().filter(|live| restarts[live.front_end]);
        for live in theirs {
            match live.whereabouts {
                Whereabouts::Held => held.push(live.request.id),
                Whereabouts::AtWorker(_) | Whereabouts::Lost(_) => live.is_forgotten = true,
                Whereabouts::Deciding | Whereabouts::Waiting => {}
            }
        }
        held
    }

    /// Whether its front end has forgotten the stay at a worker that goes on or ends.
    pub(super) fn is_forgotten(&mut self, id: RequestId, ends_stay: bool) -> bool {
        let live = self.get_mut(id);
        let is_forgotten = live.is_forgotten;
        live.is_forgotten &= !ends_stay;
        is_forgotten
    }

    /// It has ended.
    pub(super) fn end(&mut self, id: RequestId) -> LiveRequest {
        let place = self.place(id);
        let live = place.and_then(|place| self.table.get_mut(place)?.take());
        let live = live.unwrap_or_else(|| panic!("{id:?} is not live"));
        self.live -= 1;
        self.held -= usize::from(live.whereabouts == Whereabouts::Held);
        self.waiting -= usize::from(live.whereabouts == Whereabouts::Waiting);
        while self.table.front().is_some_and(Option::is_none) {
            self.table.pop_front();
            self.first += 1;
        }
        live
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{BlockId, ConversationId};
    use crate::request::Content;
    use crate::time::SimTime;
    use proptest::prelude::*;

    fn request(id: u32) -> Request {
        Request {
            id: RequestId(id),
            conversation: ConversationId(0),
            turn: 0,
            prompt_tokens: 10,
            output_tokens: 8,
            max_tokens: 9,
            priority: 0,
            content: Content::new([], BlockId(1 << 40)),
        }
    }

    fn lost(id: u32, output_tokens: u32) -> Lost {
        Lost { request: RequestId(id), output_tokens, last_token_at: SimTime::ZERO }
    }

    /// The front end has it while it decides, holds, and between two workers; a
    /// restart forgets those at workers only, once.
    #[test]
    fn a_restart_forgets_what_was_sent() {
        let mut requests = LiveRequests::default();
        for id in 0..5 {
            requests.arrive(request(id), id as usize % 2);
        }
        let worker = WorkerId(3);
        (0..3).for_each(|id| requests.send(RequestId(id), worker));
        requests.prefill(RequestId(0), worker);
        requests.hold(RequestId(0));
        requests.lose(worker, &lost(2, 3));
        requests.hold(RequestId(4));
        assert_eq!(requests.forget(&[true, false]), [RequestId(0), RequestId(4)]);
        let forgotten: Vec<bool> = requests.iter().map(|live| live.is_forgotten).collect();
        assert_eq!(forgotten, [false, false, true, false, false]);
        assert!(requests.is_forgotten(RequestId(2), false));
        assert!(requests.is_forgotten(RequestId(2), true));
        assert!(!requests.is_forgotten(RequestId(2), true), "its next stay is known");
    }

    #[test]
    fn what_is_lost_goes_on_from_what_the_client_has() {
        let mut requests = LiveRequests::default();
        requests.arrive(request(0), 0);
        requests.lose(WorkerId(0), &lost(0, 3));
        requests.migrate(RequestId(0));
        requests.lose(WorkerId(1), &lost(0, 7));
        let live = requests.end(RequestId(0));
        let Request { prompt_tokens, output_tokens, max_tokens, .. } = live.request;
        assert_eq!((prompt_tokens, output_tokens, max_tokens), (20, 1, 1));
        assert_eq!((live.delivered_tokens, live.migrations), (10, 1));
    }

    proptest! {
        /// Against a plain list, for requests that end in any order.
        #[test]
        fn counts_are_those_of_a_list(steps in prop::collection::vec((0u8..4, 0usize..9), 1..80)) {
            let mut requests = LiveRequests::default();
            let mut list: Vec<(u32, bool)> = Vec::new();
            let mut next = 0;
            for (step, at) in steps {
                let at = at % list.len().max(1);
                match (step, list.get(at).copied()) {
                    (1, Some((id, false))) => {
                        requests.hold(RequestId(id));
                        list[at].1 = true;
                    }
                    (2, Some((id, true))) => {
                        requests.release(RequestId(id));
                        list[at].1 = false;
                    }
                    (3, Some((id, _))) => {
                        prop_assert_eq!(requests.end(RequestId(id)).request.id, RequestId(id));
                        list.remove(at);
                    }
                    _ => {
                        requests.arrive(request(next), 0);
                        list.push((next, false));
                        next += 1;
                    }
                }
                let ids: Vec<u32> = requests.iter().map(|live| live.request.id.0).collect();
                prop_assert_eq!(ids, list.iter().map(|(id, _)| *id).collect::<Vec<_>>());
                prop_assert_eq!(requests.live(), list.len());
                prop_assert_eq!(requests.held(), list.iter().filter(|(_, held)| *held).count());
            }
        }
    }
}
