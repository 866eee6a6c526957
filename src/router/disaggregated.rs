//! Routing where prefill and decode have workers of their own: two policies in
//! one, which sees every request twice.
//!
//! As Dynamo routes (its `PrefillRouter` before the decode router): a request goes
//! to a prefill worker by what is cached and what prefill is in flight there, not
//! by blocks in flight; once prefilled it goes to a decode worker by blocks in
//! flight alone. 0.9 counts blocks that requests in flight share once, 1.6 counts
//! all of every request.

use super::kv::Semantics;
use super::settings::RouterSettings;
use super::{ClusterSpec, ClusterView, CostParts, Policy, Release, Verdict};
use crate::event::{KvEvent, WorkerEvent, WorkerEventKind};
use crate::id::WorkerId;
use crate::request::RouteRequest;
use crate::settings::{Count, Invalid, count};
use crate::time::{SimDuration, SimTime};
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
    pub fn validate(&self, semantics: Semantics) -> Result<(), Invalid> {
        let ratio = self.max_uncached_ratio;
        let is_share = (0.0..=1.0).contains(&ratio);
        Invalid::unless(is_share, "max_uncached_ratio", ratio, "a share between 0 and 1")?;
        Invalid::unless(
            semantics == Semantics::V1_6,
            "max_uncached_tokens",
            self.max_uncached_tokens,
            "left out with its section where semantics = \"0.9\", which has no such rule",
        )
    }

    fn holds(&self, prompt_tokens: u32, uncached_tokens: u32) -> bool {
        let share = f64::from(uncached_tokens) / f64::from(prompt_tokens);
        uncached_tokens < self.max_uncached_tokens && share < self.max_uncached_ratio
    }
}

impl RouterSettings {
    /// These settings as the router of prefill workers has them.
    pub fn for_prefill(&self) -> Self {
        Self { track_active_blocks: false, ..self.clone() }
    }

    /// These settings as the router of decode workers has them.
    pub fn for_decode(&self) -> Self {
        let decode = self.clone();
        match self.semantics {
            Semantics::V0_9 => Self { overlap_weight: 0.0, ..decode },
            Semantics::V1_6 => Self {
                // What is cached counts only where it may spare a hand-over.
                overlap_score_credit: match self.conditional_disaggregation {
                    Some(_) => self.overlap_score_credit,
                    None => Some(0.0),
                },
                assume_kv_reuse: false,
                track_prefill_tokens: false,
                ..decode
            },
        }
    }
}

/// See the [module documentation](self).
pub struct Disaggregated {
    prefill: Box<dyn Policy>,
    decode: Box<dyn Policy>,
    prefill_workers: u32,
    decode_workers: u32,
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
            prefill_workers: clusters[0].workers,
            decode_workers: clusters[1].workers,
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
        worker.0.checked_sub(self.prefill_workers).map(WorkerId)
    }

    fn in_fleet(&self, decode_worker: WorkerId) -> WorkerId {
        WorkerId(decode_worker.0 + self.prefill_workers)
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

impl Policy for Disaggregated {
    fn route(
        &mut self,
        now: SimTime,
        request: &RouteRequest<'_>,
        view: &ClusterView<'_>,
    ) -> Verdict {
        let [prefill, decode] = view.split();
        if !request.prefilled && !self.may_stay(request) {
            return self.prefill.route(now, request, &prefill);
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

    fn report_period(&self) -> Option<SimDuration> {
        self.prefill.report_period().or(self.decode.report_period())
    }

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
        let mut blocks = prefill.unwrap_or_else(|| none(self.prefill_workers));
        blocks.extend(decode.unwrap_or_else(|| none(self.decode_workers)));
        Some(blocks)
    }

    fn observe_peer(&mut self, request: &RouteRequest<'_>, worker: WorkerId, overlap_blocks: u32) {
        match self.in_decode(worker) {
            None => self.prefill.observe_peer(request, worker, overlap_blocks),
            Some(worker) => self.decode.observe_peer(request, worker, overlap_blocks),
        }
    }

    fn notes(&self) -> Vec<(&'static str, f64)> {
        let mut notes = self.prefill.notes();
        notes.extend(self.decode.notes());
        notes
    }

    fn explain(&self, request: &RouteRequest<'_>, view: &ClusterView<'_>) -> Vec<CostParts> {
        let [prefill, decode] = view.split();
        if !request.prefilled && !self.may_stay(request) {
            return self.prefill.explain(request, &prefill);
        }
        let mut costs = self.decode.explain(request, &decode);
        for cost in &mut costs {
            cost.worker = self.in_fleet(cost.worker);
        }
        costs
    }
}
