//! Routing where prefill and decode have workers of their own: two policies in
//! one, which sees every request twice.
//!
//! As Dynamo routes (its `PrefillRouter` before the decode router): a request goes
//! to a prefill worker by what is cached and what prefill is in flight there, not
//! by blocks in flight; once prefilled it goes to a decode worker by blocks in
//! flight alone. 0.9 counts blocks that requests in flight share once, 1.6 counts
//! all of every request.

use super::policy::{CostParts, Policy, Release, Verdict};
use super::spec::{ClusterSpec, Sides};
use super::view::ClusterView;
use crate::event::{KvEvent, RejectReason, WorkerEvent, WorkerEventKind};
use crate::id::WorkerId;
use crate::request::RouteRequest;
use crate::settings::{Count, Invalid, count};
use crate::time::{SimDuration, SimTime};
use crate::truth::WorkerTruth;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `[router.conditional_disaggregation]`: short prompts are prefilled where they
/// are decoded. The defaults are those of Dynamo 1.6's `isl_bounding`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ConditionalDisaggregation {
    /// Fewer prompt tokens than this are to be computed. Default 2,048.
    #[serde(deserialize_with = "count")]
    #[schemars(with = "Count")]
    pub max_uncached_tokens: u32,
    /// And they are a smaller share of the prompt than this, 0 to 1. Default 0.7.
    pub max_uncached_ratio: f64,
}

impl Default for ConditionalDisaggregation {
    fn default() -> Self {
        Self { max_uncached_tokens: 2_048, max_uncached_ratio: 0.7 }
    }
}

impl ConditionalDisaggregation {
    /// Checks the values; keys in the error are relative to the section.
    ///
    /// # Errors
    /// The first setting that will not do.
    pub fn validate(&self) -> Result<(), Invalid> {
        let ratio = self.max_uncached_ratio;
        let is_share = (0.0..=1.0).contains(&ratio);
        Invalid::unless(is_share, "max_uncached_ratio", ratio, "a share between 0 and 1")
    }

    fn holds(&self, prompt_tokens: u32, uncached_tokens: u32) -> bool {
        let share = f64::from(uncached_tokens) / f64::from(prompt_tokens);
        uncached_tokens < self.max_uncached_tokens && share < self.max_uncached_ratio
    }
}

/// See the [module documentation](self).
pub struct Disaggregated {
    prefill: Box<dyn Policy>,
    decode: Box<dyn Policy>,
    sides: Sides,
    block_size: u32,
    conditional: Option<ConditionalDisaggregation>,
}

impl Disaggregated {
    /// Policies for `clusters`, the workers that prefill and those that decode: each
    /// policy counts its own workers from 0, the fleet counts the first ones first.
    pub fn new(policies: [Box<dyn Policy>; 2], clusters: &[ClusterSpec; 2]) -> Self {
        let [prefill, decode] = policies;
        Self {
            prefill,
            decode,
            sides: Sides::two(clusters[0].workers(), clusters[1].workers()),
            block_size: clusters[0].block_size,
            conditional: None,
        }
    }

    /// Lets requests that are short enough skip the prefill workers. Where no
    /// policy keeps an index of decode workers, none are.
    pub fn with_condition(self, conditional: Option<ConditionalDisaggregation>) -> Self {
        Self { conditional, ..self }
    }

    /// As the decode policy counts workers.
    fn in_decode(&self, worker: WorkerId) -> Option<WorkerId> {
        worker.0.checked_sub(self.sides.prefill_workers()).map(WorkerId)
    }

    fn in_fleet(&self, decode_worker: WorkerId) -> WorkerId {
        WorkerId(decode_worker.0 + self.sides.prefill_workers())
    }

    /// True if a worker that prefills comes first. Where there is none, decode workers do
    /// all of a request (Dynamo: decode-only routing).
    fn goes_to_prefill(&self, request: &RouteRequest<'_>, prefill: &ClusterView<'_>) -> bool {
        !request.prefilled && prefill.available_count() > 0 && !self.may_stay(request)
    }

    /// True if some decode worker holds so much of the prompt that the rest may be
    /// prefilled there.
    fn may_stay(&self, request: &RouteRequest<'_>) -> bool {
        let Some(conditional) = &self.conditional else { return false };
        let Some(overlaps) = self.decode.overlap_blocks(request) else { return false };
        let most = overlaps.into_iter().max().unwrap_or(0);
        let uncached = request.prompt_tokens.saturating_sub(most * self.block_size);
        conditional.holds(request.prompt_tokens, uncached)
    }
}

#[deny(clippy::missing_trait_methods)]
impl Policy for Disaggregated {
    fn route(
        &mut self,
        now: SimTime,
        request: &RouteRequest<'_>,
        view: &ClusterView<'_>,
    ) -> Verdict {
        let [prefill, decode] = view.split();
        if self.goes_to_prefill(request, &prefill) {
            return self.prefill.route(now, request, &prefill);
        }
        if decode.available_count() == 0 {
            return Verdict::Reject(RejectReason::NoWorker);
        }
        match self.decode.route(now, request, &decode) {
            Verdict::Send(worker) => Verdict::Send(self.in_fleet(worker)),
            other => other,
        }
    }

    fn observe(&mut self, now: SimTime, event: &WorkerEvent) {
        if let Some(worker) = self.in_decode(event.worker) {
            self.decode.observe(now, &WorkerEvent { worker, ..*event });
        } else if event.kind == WorkerEventKind::Prefilled {
            // To this side, a request of one token that is answered.
            for kind in
                [WorkerEventKind::FirstToken, WorkerEventKind::Finished { output_tokens: 1 }]
            {
                self.prefill.observe(now, &WorkerEvent { kind, ..*event });
            }
        } else {
            self.prefill.observe(now, event);
        }
    }

    fn wants_kv_events(&self) -> bool {
        self.prefill.wants_kv_events() || self.decode.wants_kv_events()
    }

    fn observe_kv(&mut self, worker: WorkerId, event: &KvEvent) {
        match self.in_decode(worker) {
            None => self.prefill.observe_kv(worker, event),
            Some(worker) => self.decode.observe_kv(worker, event),
        }
    }

    fn observe_kv_published(&mut self, published: SimTime, worker: WorkerId, event: &KvEvent) {
        match self.in_decode(worker) {
            None => self.prefill.observe_kv_published(published, worker, event),
            Some(worker) => self.decode.observe_kv_published(published, worker, event),
        }
    }

    /// Workers that hand KV over store blocks that no sequence has filled.
    fn hears_kv_on_demand(&self) -> bool {
        false
    }

    fn report_period(&self) -> Option<SimDuration> {
        self.prefill.report_period().or(self.decode.report_period())
    }

    /// Prefill workers put out one token.
    fn wants_output_blocks(&self) -> bool {
        self.decode.wants_output_blocks()
    }

    fn release(&mut self, now: SimTime, view: &ClusterView<'_>) -> Option<Release> {
        let [prefill, decode] = view.split();
        if let Some(released) = self.prefill.release(now, &prefill) {
            return Some(released);
        }
        let (request, verdict) = self.decode.release(now, &decode)?;
        Some((request, verdict.map(|worker| self.in_fleet(worker))))
    }

    fn wake_at(&self) -> Option<SimTime> {
        self.prefill.wake_at().into_iter().chain(self.decode.wake_at()).min()
    }

    /// Of prefill workers by their policy, of decode workers by theirs; 0 where
    /// one keeps no index.
    fn overlap_blocks(&self, request: &RouteRequest<'_>) -> Option<Vec<u32>> {
        let prefill = self.prefill.overlap_blocks(request);
        let decode = self.decode.overlap_blocks(request);
        if prefill.is_none() && decode.is_none() {
            return None;
        }
        let none = |workers: u32| vec![0; workers as usize];
        let (first, all) = (self.sides.prefill_workers(), self.sides.workers());
        let mut blocks = prefill.unwrap_or_else(|| none(first));
        blocks.extend(decode.unwrap_or_else(|| none(all - first)));
        Some(blocks)
    }

    fn observe_peer(&mut self, request: &RouteRequest<'_>, worker: WorkerId, overlap_blocks: u32) {
        match self.in_decode(worker) {
            None => self.prefill.observe_peer(request, worker, overlap_blocks),
            Some(worker) => self.decode.observe_peer(request, worker, overlap_blocks),
        }
    }

    fn worker_left(&mut self, worker: WorkerId) {
        match self.in_decode(worker) {
            None => self.prefill.worker_left(worker),
            Some(worker) => self.decode.worker_left(worker),
        }
    }

    fn worker_joined(&mut self, worker: WorkerId) {
        match self.in_decode(worker) {
            None => self.prefill.worker_joined(worker),
            Some(worker) => self.decode.worker_joined(worker),
        }
    }

    fn leave_out(&mut self, worker: WorkerId, is_left_out: bool) {
        match self.in_decode(worker) {
            None => self.prefill.leave_out(worker, is_left_out),
            Some(worker) => self.decode.leave_out(worker, is_left_out),
        }
    }

    fn wants_truth(&self) -> bool {
        self.prefill.wants_truth() || self.decode.wants_truth()
    }

    fn observe_truth(&mut self, mut workers: Vec<WorkerTruth>) {
        let decode = workers.split_off(self.sides.prefill_workers() as usize);
        self.prefill.observe_truth(workers);
        self.decode.observe_truth(decode);
    }

    /// Both policies are of one kind, so both take it or neither does.
    fn set_parameter(&mut self, key: &str, value: f64) -> Result<(), Invalid> {
        self.prefill.set_parameter(key, value)?;
        self.decode.set_parameter(key, value)
    }

    fn failure(&self) -> Option<String> {
        self.prefill.failure().or_else(|| self.decode.failure())
    }

    fn notes(&self) -> Vec<(&'static str, f64)> {
        let mut notes = self.prefill.notes();
        notes.extend(self.decode.notes());
        notes
    }

    fn explain(&self, request: &RouteRequest<'_>, view: &ClusterView<'_>) -> Vec<CostParts> {
        let [prefill, decode] = view.split();
        if self.goes_to_prefill(request, &prefill) {
            return self.prefill.explain(request, &prefill);
        }
        let mut costs = self.decode.explain(request, &decode);
        for cost in &mut costs {
            cost.worker = self.in_fleet(cost.worker);
        }
        costs
    }
}
