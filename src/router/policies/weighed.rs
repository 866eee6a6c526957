//! What policies share that weigh what workers hold, by KV events, against what each has in
//! flight.
//!
//! A rule says what a worker costs; part of it is the worker's own, whatever is asked. So
//! few workers are looked at ([`lowest`]).

use crate::event::{KvEvent, WorkerEvent};
use crate::id::WorkerId;
use crate::request::RouteRequest;
use crate::rng::{self, Stream, Use};
use crate::router::kv::{Bookings, CachedPrefixes, WorkerLoad, WorkerSet};
use crate::router::parameters::{Parameters, change};
use crate::router::select::{Bounds, few, lowest};
use crate::router::{ClusterSpec, ClusterView, CostParts, Policy, Verdict};
use crate::settings::Invalid;
use crate::time::SimTime;
use crate::tournament::Tournament;
use std::fmt;

/// A cost of workers. On every worker it is `scale` times what the worker's own load
/// makes it, and what is asked, which is the less the more the worker holds; or a function
/// of that which keeps its order.
pub(super) trait Rule: fmt::Debug {
    type Params: Parameters;

    /// A rule with `params` before `workers` workers.
    fn new(params: Self::Params, workers: u32) -> Self;

    /// Goes by other parameters from now on.
    fn set(&mut self, params: Self::Params);

    /// What the worker's own load makes it cost.
    fn own(&self, load: &WorkerLoad) -> f64;

    /// What that counts now.
    fn scale(&self, _: &ClusterView<'_>) -> f64 {
        1.0
    }

    /// What is asked where so many tokens are held.
    fn asked(&self, request: &RouteRequest<'_>, view: &ClusterView<'_>, held_tokens: u64) -> f64;

    /// The cost of `worker`; the second number decides where the first is equal.
    fn cost(
        &self,
        request: &RouteRequest<'_>,
        view: &ClusterView<'_>,
        worker: (WorkerId, &WorkerLoad),
        held_tokens: u64,
    ) -> (f64, u32);

    /// The worker to take where none holds anything, if that is a case of its own.
    fn where_none_holds(&mut self, _now: SimTime) -> Option<WorkerId> {
        None
    }

    /// What that would cost on `worker`.
    fn cost_where_none_holds(&self, _worker: WorkerId) -> Option<f64> {
        None
    }

    /// Hears of what this front end decided, and of workers.
    fn sent(&mut self, _now: SimTime, _worker: WorkerId) {}
    fn left(&mut self, _worker: WorkerId) {}
    fn joined(&mut self, _worker: WorkerId) {}
}

/// A policy by a [`Rule`]; equals are drawn.
#[derive(Debug)]
pub(super) struct Weighed<R: Rule> {
    params: R::Params,
    rule: R,
    block_size: u32,
    cached: CachedPrefixes,
    bookings: Bookings,
    absent: WorkerSet,
    /// What each worker's own load makes it cost; out of reach for those that are absent.
    own_costs: Tournament<f64>,
    special: WorkerSet,
    draws: Stream,
}

impl<R: Rule> Weighed<R> {
    /// A policy for `cluster`; `seed` decides among equals.
    pub(super) fn new(params: R::Params, cluster: &ClusterSpec, seed: u64) -> Self {
        let rule = R::new(params.clone(), cluster.workers());
        let start = rule.own(&WorkerLoad::default());
        Self {
            params,
            rule,
            block_size: cluster.block_size,
            cached: CachedPrefixes::default(),
            bookings: Bookings::new(cluster.workers()),
            absent: WorkerSet::default(),
            own_costs: Tournament::new(cluster.workers(), start, f64::INFINITY),
            special: WorkerSet::default(),
            draws: rng::stream(seed, Use::Policy, 0, 0),
        }
    }

    fn tokens(&self, blocks: u32) -> u64 {
        u64::from(blocks) * u64::from(self.block_size)
    }

    /// To be called whenever `worker` comes or goes, or its load has changed.
    fn note_load(&mut self, worker: WorkerId) {
        let load = &self.bookings.loads()[worker.index()];
        let is_absent = self.absent.contains(worker);
        let own = if is_absent { f64::INFINITY } else { self.rule.own(load) };
        self.own_costs.set(worker.index(), own);
    }

    fn book(&mut self, request: &RouteRequest<'_>, worker: WorkerId, overlap_blocks: u32) {
        let held = self.tokens(overlap_blocks);
        let uncached = u64::from(request.prompt_tokens).saturating_sub(held);
        self.bookings.book(request, worker, uncached);
        self.note_load(worker);
    }
}

impl<R: Rule> Policy for Weighed<R> {
    fn route(
        &mut self,
        now: SimTime,
        request: &RouteRequest<'_>,
        view: &ClusterView<'_>,
    ) -> Verdict {
        let overlaps = self.cached.overlaps(request);
        let (mut draws, mut special) = (self.draws.clone(), std::mem::take(&mut self.special));
        special.clear();
        let held = overlaps.split(few(view.workers.len()), &mut special);
        let none_holds = held.others == 0 && special.is_empty();
        let by_case = if none_holds { self.rule.where_none_holds(now) } else { None };
        let worker = by_case.unwrap_or_else(|| {
            let asked = |blocks| self.rule.asked(request, view, self.tokens(blocks));
            let bounds = Bounds::of_held(&special, held, self.rule.scale(view), asked);
            let least = lowest(&self.own_costs, bounds, &mut draws, |worker| {
                let load = &self.bookings.loads()[worker.index()];
                let held = self.tokens(overlaps.of(worker));
                self.rule.cost(request, view, (worker, load), held)
            });
            WorkerId::at(least.expect("a worker is available"))
        });
        (self.draws, self.special) = (draws, special);
        self.book(request, worker, overlaps.of(worker));
        self.rule.sent(now, worker);
        Verdict::send(worker)
    }

    fn observe(&mut self, _: SimTime, event: &WorkerEvent) {
        if let Some(worker) = self.bookings.observe(event) {
            self.note_load(worker);
        }
    }

    fn observe_peer(&mut self, request: &RouteRequest<'_>, worker: WorkerId, overlap_blocks: u32) {
        self.book(request, worker, overlap_blocks);
    }

    fn overlap_blocks(&self, request: &RouteRequest<'_>) -> Option<Vec<u32>> {
        Some(self.cached.overlaps(request).to_vec(self.bookings.loads().len()))
    }

    fn set_parameter(&mut self, key: &str, value: f64) -> Result<(), Invalid> {
        self.params = change(&self.params, key, value)?;
        self.rule.set(self.params.clone());
        (0..self.bookings.loads().len()).for_each(|at| self.note_load(WorkerId::at(at)));
        Ok(())
    }

    fn worker_left(&mut self, worker: WorkerId) {
        self.cached.remove_worker(worker);
        self.bookings.remove_worker(worker);
        self.absent.insert(worker);
        self.rule.left(worker);
        self.note_load(worker);
    }

    fn worker_joined(&mut self, worker: WorkerId) {
        self.absent.remove(worker);
        self.rule.joined(worker);
        self.note_load(worker);
    }

    fn wants_kv_events(&self) -> bool {
        true
    }

    fn hears_kv_on_demand(&self) -> bool {
        true
    }

    fn observe_kv(&mut self, worker: WorkerId, event: &KvEvent) {
        self.cached.apply(worker, event);
    }

    /// By the rule; where none holds anything, by the case for that, as of the decision
    /// before.
    fn explain(&self, request: &RouteRequest<'_>, view: &ClusterView<'_>) -> Vec<CostParts> {
        let overlaps = self.cached.overlaps(request).to_vec(view.workers.len());
        let none_holds = overlaps.iter().all(|blocks| *blocks == 0);
        let cost = |(at, &overlap_blocks): (usize, &u32)| {
            let worker = WorkerId::at(at);
            let load = &self.bookings.loads()[at];
            let by_case = if none_holds && view.workers[at].available {
                self.rule.cost_where_none_holds(worker)
            } else {
                None
            };
            let held = self.tokens(overlap_blocks);
            let by_rule = || self.rule.cost(request, view, (worker, load), held).0;
            let parts = vec![
                ("overlap_blocks", f64::from(overlap_blocks)),
                ("requests", f64::from(load.requests)),
                ("prefill_tokens", load.prefill_tokens as f64),
            ];
            CostParts { worker, cost: by_case.unwrap_or_else(by_rule), parts }
        };
        overlaps.iter().enumerate().map(cost).collect()
    }
}
