//! What requests pass on their way from their clients to the router.

use super::{Arrival, HeldBack, Workload};
use crate::event::Refusal;
use crate::id::RequestId;
use crate::time::SimTime;
use std::collections::BTreeMap;

/// A place that requests pass, where they may wait for each other.
pub trait Station {
    /// True while another request could enter.
    fn has_room(&self) -> bool;

    /// A request enters, as the `number`-th one from 0.
    fn enter(&mut self, number: u32, arrival: Arrival);

    /// When the next one is through, if no other enters.
    fn next_through(&self) -> Option<SimTime>;

    /// The one that is through at `at`, the [`next_through`](Self::next_through).
    ///
    /// # Panics
    /// If none is.
    fn leave(&mut self, at: SimTime) -> Arrival;

    /// A request that left has ended at `now`, with an answer of `output_tokens` if it was
    /// served.
    fn end(&mut self, now: SimTime, output_tokens: Option<u32>);

    /// What waited in its client, where the station lets it.
    fn held_back(&self) -> Option<HeldBack> {
        None
    }
}

/// A workload whose requests pass a station, which may change their order: they are numbered
/// as they leave it.
///
/// Beside what the station needs, taking a request and hearing of an end cost O(log n) with
/// n requests on their way.
pub struct Passing<'a, S> {
    inner: Box<dyn Workload + 'a>,
    station: S,
    entered: u32,
    taken: u32,
    /// When the next one is through, of those that entered.
    next: Option<SimTime>,
    /// By the number that it has here, the one that it has inside, and its output tokens.
    open: BTreeMap<RequestId, (RequestId, u32)>,
}

impl<'a, S: Station> Passing<'a, S> {
    /// The requests of `inner`, through `station`.
    pub(super) fn through(inner: Box<dyn Workload + 'a>, station: S) -> Self {
        let (entered, taken, next, open) = (0, 0, None, BTreeMap::new());
        let mut passing = Self { inner, station, entered, taken, next, open };
        passing.look_ahead();
        passing
    }

    /// Asks for every request that could be the next one through, and finds that.
    fn look_ahead(&mut self) {
        loop {
            self.next = self.station.next_through();
            match self.inner.next_arrival() {
                Some(at) if self.station.has_room() && self.next.is_none_or(|next| at < next) => {
                    self.station.enter(self.entered, self.inner.take());
                    self.entered += 1;
                }
                _ => return,
            }
        }
    }

    /// A request ends; gives the number that it has inside.
    fn end(&mut self, now: SimTime, request: RequestId, served: bool) -> RequestId {
        let (inner, tokens) = self.open.remove(&request).expect("a request that ends was taken");
        self.station.end(now, served.then_some(tokens));
        inner
    }
}

impl<S: Station> Workload for Passing<'_, S> {
    fn next_arrival(&self) -> Option<SimTime> {
        self.next
    }

    fn take(&mut self) -> Arrival {
        let at = self.next.expect("a request is due");
        let mut arrival = self.station.leave(at);
        let id = RequestId(self.taken);
        self.taken += 1;
        self.open.insert(id, (arrival.request.id, arrival.request.output_tokens));
        arrival.at = at;
        arrival.request.id = id;
        self.look_ahead();
        arrival
    }

    fn behind(&self) -> Option<&dyn Workload> {
        Some(&*self.inner)
    }

    fn behind_mut(&mut self) -> Option<&mut dyn Workload> {
        Some(&mut *self.inner)
    }

    fn observe_end(&mut self, now: SimTime, request: RequestId, served: bool) {
        let inner = self.end(now, request, served);
        self.inner.observe_end(now, inner, served);
        self.look_ahead();
    }

    fn observe_failure(&mut self, now: SimTime, request: RequestId) {
        let inner = self.end(now, request, false);
        self.inner.observe_failure(now, inner);
        self.look_ahead();
    }

    fn observe_hang_up(&mut self, now: SimTime, request: RequestId) {
        let inner = self.end(now, request, false);
        self.inner.observe_hang_up(now, inner);
        self.look_ahead();
    }

    fn observe_refusal(&mut self, now: SimTime, request: RequestId, refusal: &Refusal) -> bool {
        let inner = self.end(now, request, false);
        let again = self.inner.observe_refusal(now, inner, refusal);
        self.look_ahead();
        again
    }

    fn held_back(&self) -> Option<HeldBack> {
        self.station.held_back().or_else(|| self.inner.held_back())
    }

    fn set_concurrency(&mut self, now: SimTime, conversations: u32, cut: bool) -> bool {
        let follows = self.inner.set_concurrency(now, conversations, cut);
        self.look_ahead();
        follows
    }

    fn begin_level(&mut self, now: SimTime, level: u32) -> SimTime {
        let begin = self.inner.begin_level(now, level);
        self.look_ahead();
        begin
    }

    fn set_rate(&mut self, now: SimTime, per_s: f64) -> bool {
        let follows = self.inner.set_rate(now, per_s);
        self.look_ahead();
        follows
    }
}
