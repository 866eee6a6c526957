//! Policies whose choice can be taken apart: looked up, chosen, booked.
//!
//! So that others can stand in between: [`Queued`](super::queued::Queued) waits
//! before it chooses, [`ShadowPolicy`](super::shadow::ShadowPolicy) lets one
//! choose and both book.

use super::kv::KvParams;
use super::{Policy, Verdict};
use crate::event::RejectReason;
use crate::id::WorkerId;
use crate::request::RouteRequest;
use crate::time::SimTime;

/// A policy that compares costs, step by step.
pub trait Decider: Policy {
    /// A request with what was looked up for it.
    type Asked;

    /// Looks up `request` in what is known of the workers' caches.
    fn look_up(&mut self, now: SimTime, request: &RouteRequest<'_>) -> Self::Asked;

    /// Looks up a request again that has waited.
    fn look_again(&mut self, now: SimTime, asked: &mut Self::Asked);

    /// Prompt tokens to compute on the worker that holds most of the prompt.
    fn least_uncached_tokens(&self, asked: &Self::Asked) -> u64;

    /// Chooses a worker by the present loads, without booking it; `None` if all
    /// are overloaded.
    fn choose(&mut self, asked: &Self::Asked) -> Option<WorkerId>;

    /// What each worker costs by the present loads, in order of id.
    fn costs(&self, asked: &Self::Asked) -> Vec<f64>;

    /// Books a request on `worker`.
    ///
    /// # Panics
    /// If the request is booked already.
    fn book(&mut self, now: SimTime, asked: Self::Asked, worker: WorkerId);

    /// Hears that a request was turned away because all workers are overloaded.
    fn turned_away(&mut self, _now: SimTime, _asked: Self::Asked) {}

    /// Prompt tokens in flight on the worker that has least of them.
    fn least_prefill_tokens(&self) -> u64;

    /// Whether every worker that can be chosen has more prompt tokens in flight than its
    /// entry of `most`, which are in order of id.
    fn all_have_more_prefill_tokens(&self, most: &[f64]) -> bool;

    /// Routes by other parameters from now on. Those that say what is counted and
    /// what is listened to must be as they were.
    ///
    /// # Errors
    /// What would have to hold, if the policy cannot do that while it runs.
    fn set_params(&mut self, params: &KvParams) -> Result<(), String>;

    /// Chooses and books, or turns away.
    ///
    /// # Errors
    /// If all workers are overloaded.
    fn send(&mut self, now: SimTime, asked: Self::Asked) -> Result<WorkerId, RejectReason> {
        let Some(worker) = self.choose(&asked) else {
            self.turned_away(now, asked);
            return Err(RejectReason::Policy);
        };
        self.book(now, asked, worker);
        Ok(worker)
    }

    /// All steps at once, as [`Policy::route`].
    fn route_at_once(&mut self, now: SimTime, request: &RouteRequest<'_>) -> Verdict {
        let asked = self.look_up(now, request);
        self.send(now, asked).map_or_else(Verdict::Reject, Verdict::send)
    }
}
