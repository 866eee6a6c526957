//! Admission: limits in front of a policy, and what becomes of a request that is over one.
//!
//! A gate stands before each front end and knows nothing of the policy behind it, so two
//! policies can be held against each other under the same gate. It counts what it has let
//! through, and looks at what its front end has in flight and at what workers report. A
//! request over a limit waits in the gate's own queue, first come, first served, or is
//! refused: answered with an HTTP status, and its client may [send it
//! again](crate::workload::RefusalSettings).
//!
//! What gateways have of it: SMG 1.13 (`--max-concurrent-requests`, `--queue-size`,
//! `--queue-timeout-secs`; 429), Envoy (`max_requests`, `max_pending_requests`; 503), Ray
//! Serve (`max_ongoing_requests` of each replica, `max_queued_requests`; 503), Dynamo's busy
//! thresholds (503 up to 1.2, 529 from 1.3 on).

use super::parameters::shown;
use crate::event::{Refusal, RejectReason};
use crate::id::RequestId;
use crate::settings::{Count, Invalid, count, count_option};
use crate::time::{SimDuration, SimTime};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// `[router.admission]`: what a front end lets in. A limit that is not given is none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AdmissionSettings {
    /// Requests that were let in and have not ended, those among them that a policy holds.
    #[serde(deserialize_with = "count_option", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Count>")]
    pub max_inflight: Option<u32>,
    /// Requests in flight on each worker: none is let in while every worker has that many
    /// of this front end. The policy still chooses among all workers.
    #[serde(deserialize_with = "count_option", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Count>")]
    pub max_inflight_per_worker: Option<u32>,
    /// Prompt tokens of requests that were let in and have not ended. One request alone may
    /// have more.
    #[serde(deserialize_with = "count_option", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Count>")]
    pub max_inflight_tokens: Option<u32>,
    /// The share of a worker's KV blocks above which it is busy, 0 to 1, by its last
    /// report: none is let in while every worker is. Of separate prefill and decode
    /// workers: every one of either side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub busy_kv_share: Option<f64>,
    /// Whether single busy workers are left out of the choice, too, and not only all of them
    /// refused, as Dynamo 1.6 does in every mode. Of a side on which all are busy none is. Only
    /// with the policies that are such modes, and with `external`. Default: false.
    pub leave_out_busy: bool,
    /// How often workers report that. Default 100 ms (assumed; engines publish it after
    /// steps).
    pub report_period: SimDuration,
    /// Requests over a limit that may wait in front of the router, first come, first
    /// served. Default 0: they are refused at once.
    #[serde(deserialize_with = "count")]
    #[schemars(with = "Count")]
    pub max_waiting: u32,
    /// The longest wait there; then it is refused. Default: no end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_wait: Option<SimDuration>,
    /// The HTTP status of a refusal: 429, 503 or 529. Default 503.
    pub status: u16,
    /// What its `Retry-After` header says, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<SimDuration>,
}

impl Default for AdmissionSettings {
    fn default() -> Self {
        Self {
            max_inflight: None,
            max_inflight_per_worker: None,
            max_inflight_tokens: None,
            busy_kv_share: None,
            leave_out_busy: false,
            report_period: SimDuration::from_millis(100),
            max_waiting: 0,
            max_wait: None,
            status: Refusal::UNAVAILABLE,
            retry_after: None,
        }
    }
}

/// The limits that can change while a simulation runs.
const CHANGEABLE: [&str; 5] = [
    "max_inflight",
    "max_inflight_per_worker",
    "max_inflight_tokens",
    "busy_kv_share",
    "max_waiting",
];

impl AdmissionSettings {
    /// Refuses limits under which nothing would ever be let in, and answers that are none;
    /// keys in the error are relative to `[router.admission]`.
    ///
    /// # Errors
    /// The first setting that will not do.
    pub fn validate(&self) -> Result<(), Invalid> {
        let limits = [
            ("max_inflight", self.max_inflight),
            ("max_inflight_per_worker", self.max_inflight_per_worker),
            ("max_inflight_tokens", self.max_inflight_tokens),
        ];
        for (key, limit) in limits {
            let allowed = "at least 1, or left out for no limit";
            Invalid::unless(limit != Some(0), key, 0, allowed)?;
        }
        if let Some(share) = self.busy_kv_share {
            let is_share = (0.0..=1.0).contains(&share);
            Invalid::unless(is_share, "busy_kv_share", shown(share), "a share from 0 to 1")?;
        }
        let allowed = "left out without busy_kv_share, which says who is busy";
        let is_known = !self.leave_out_busy || self.busy_kv_share.is_some();
        Invalid::unless(is_known, "leave_out_busy", "true", allowed)?;
        let least = SimDuration::from_millis(1);
        let is_long = self.report_period >= least;
        Invalid::unless(is_long, "report_period", text(self.report_period), "at least \"1ms\"")?;
        if let Some(wait) = self.max_wait {
            let allowed = "left out where max_waiting is 0: no request waits";
            Invalid::unless(self.max_waiting > 0, "max_wait", text(wait), allowed)?;
            Invalid::unless(wait >= least, "max_wait", text(wait), "at least \"1ms\"")?;
        }
        if let Some(pause) = self.retry_after {
            Invalid::unless(pause >= least, "retry_after", text(pause), "at least \"1ms\"")?;
        }
        let allowed = "429 (too many requests), 503 (unavailable) or 529 (overloaded)";
        Invalid::unless(Refusal::STATUSES.contains(&self.status), "status", self.status, allowed)
    }

    /// Sets another limit.
    ///
    /// # Errors
    /// If `key` is no limit that can change, or not to `value`; nothing has changed then.
    pub fn set(&mut self, key: &str, value: f64) -> Result<(), Invalid> {
        let mut changed = self.clone();
        let whole = || {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked")]
            let whole = value as u32;
            let fits = f64::from(whole) == value;
            Invalid::unless(fits, key, shown(value), "a whole number from 0 to 4294967295")?;
            Ok(whole)
        };
        match key {
            "max_inflight" => changed.max_inflight = Some(whole()?),
            "max_inflight_per_worker" => changed.max_inflight_per_worker = Some(whole()?),
            "max_inflight_tokens" => changed.max_inflight_tokens = Some(whole()?),
            "busy_kv_share" if self.busy_kv_share.is_some() => {
                changed.busy_kv_share = Some(value);
            }
            "busy_kv_share" => {
                let allowed = "given in [router.admission] from the start: workers do not report";
                return Err(Invalid::new(key, shown(value), allowed));
            }
            "max_waiting" => changed.max_waiting = whole()?,
            _ => {
                let allowed = format!("one of {} here", CHANGEABLE.join(", "));
                return Err(Invalid::new("key", format!("{key:?}"), allowed));
            }
        }
        changed.validate()?;
        *self = changed;
        Ok(())
    }
}

/// The limit that a [control](crate::simulation::Control::Parameter) of the key
/// `admission.NAME` sets; other keys are of the policy.
pub fn limit_of(key: &str) -> Option<&str> {
    key.strip_prefix("admission.")
}

/// Why `key` cannot be set: there is no gate.
pub fn no_gate(key: &str) -> Invalid {
    Invalid::new("key", format!("{key:?}"), "left out without [router.admission]")
}

fn text(time: SimDuration) -> String {
    format!("\"{}ms\"", shown(time.as_millis()))
}

/// What becomes of a request that comes to a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It goes to its policy.
    Pass,
    /// It waits.
    Wait,
    /// It is refused.
    Refuse(RejectReason),
}

/// The gate of one front end. A router that restarts or gets another policy leaves it as
/// it is.
#[derive(Debug)]
pub struct Gate {
    settings: AdmissionSettings,
    /// Let in and not ended: requests, and their prompt tokens.
    inflight: u32,
    tokens: u64,
    waiting: VecDeque<Waiting>,
    /// By their last report every worker is busy.
    are_busy: bool,
    report_due: Option<SimTime>,
}

#[derive(Debug)]
struct Waiting {
    request: RequestId,
    tokens: u32,
    since: SimTime,
}

impl Gate {
    /// A gate that nothing has passed.
    pub fn new(settings: AdmissionSettings) -> Self {
        Self {
            report_due: settings.busy_kv_share.map(|_| SimTime::ZERO),
            settings,
            inflight: 0,
            tokens: 0,
            waiting: VecDeque::new(),
            are_busy: false,
        }
    }

    /// A request with so many prompt tokens comes, while its front end has at least
    /// `least_inflight` requests in flight on every worker.
    pub fn ask(
        &mut self,
        now: SimTime,
        request: RequestId,
        tokens: u32,
        least_inflight: u32,
    ) -> Admission {
        let over = self.over(tokens, least_inflight);
        // Those that wait go first.
        let Some(reason) = over.or((!self.waiting.is_empty()).then_some(RejectReason::Full)) else {
            self.let_in(tokens);
            return Admission::Pass;
        };
        if self.waiting.len() >= self.settings.max_waiting as usize {
            return Admission::Refuse(reason);
        }
        self.waiting.push_back(Waiting { request, tokens, since: now });
        Admission::Wait
    }

    /// Whether the request that waits longest is over no limit any more.
    pub fn may_let_in(&self, least_inflight: u32) -> bool {
        let first = self.waiting.front();
        first.is_some_and(|first| self.over(first.tokens, least_inflight).is_none())
    }

    /// Lets in the request that waits longest, if it is over no limit any more.
    pub fn next(&mut self, least_inflight: u32) -> Option<RequestId> {
        if !self.may_let_in(least_inflight) {
            return None;
        }
        let Waiting { request, tokens, .. } = self.waiting.pop_front()?;
        self.let_in(tokens);
        Some(request)
    }

    /// Which limit a request is over.
    fn over(&self, tokens: u32, least_inflight: u32) -> Option<RejectReason> {
        let AdmissionSettings {
            max_inflight, max_inflight_per_worker, max_inflight_tokens, ..
        } = self.settings;
        let tokens = self.tokens + u64::from(tokens);
        let is_full = max_inflight.is_some_and(|most| self.inflight >= most)
            || max_inflight_per_worker.is_some_and(|most| least_inflight >= most)
            || max_inflight_tokens
                .is_some_and(|most| self.inflight > 0 && tokens > u64::from(most));
        match (is_full, self.are_busy) {
            (true, _) => Some(RejectReason::Full),
            (false, true) => Some(RejectReason::Busy),
            (false, false) => None,
        }
    }

    fn let_in(&mut self, tokens: u32) {
        self.inflight += 1;
        self.tokens += u64::from(tokens);
    }

    /// A request that was let in with so many prompt tokens has ended.
    ///
    /// # Panics
    /// If nothing was let in.
    pub fn ended(&mut self, tokens: u32) {
        self.inflight = self.inflight.checked_sub(1).expect("a request was let in");
        self.tokens -= u64::from(tokens);
    }

    /// The client of a request that waits has hung up.
    pub fn withdraw(&mut self, request: RequestId) {
        if let Ok(place) = self.waiting.binary_search_by_key(&request, |waiting| waiting.request) {
            self.waiting.remove(place);
        }
    }

    /// A request that has waited too long, and waits no more.
    pub fn expire(&mut self, now: SimTime) -> Option<RequestId> {
        let (first, wait) = (self.waiting.front()?, self.settings.max_wait?);
        if first.since + wait > now {
            return None;
        }
        self.waiting.pop_front().map(|waiting| waiting.request)
    }

    /// Requests that wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// When it has to be asked to [`expire`](Self::expire) requests.
    pub fn expiry_due(&self) -> Option<SimTime> {
        Some(self.waiting.front()?.since + self.settings.max_wait?)
    }

    /// When workers report next, if they do.
    pub fn report_due(&self) -> Option<SimTime> {
        self.report_due
    }

    /// Takes what workers report at `now`: whether on some side [all are
    /// busy](Self::are_all_busy).
    pub fn report(&mut self, now: SimTime, is_any_side_busy: bool) {
        if self.settings.busy_kv_share.is_none() {
            return;
        }
        self.are_busy = is_any_side_busy;
        self.report_due = Some(now + self.settings.report_period);
    }

    /// Whether there are workers, and by what they report all of them are busy: of each, its
    /// KV blocks that requests hold and those that it has.
    pub fn are_all_busy(&self, workers: impl IntoIterator<Item = (u32, u32)>) -> bool {
        let Some(share) = self.settings.busy_kv_share else { return false };
        let is_busy = |(used, all): (u32, u32)| f64::from(used) > share * f64::from(all);
        let mut workers = workers.into_iter().peekable();
        workers.peek().is_some() && workers.all(is_busy)
    }

    /// Whether single busy workers are left out of the choice.
    pub fn leaves_out_busy(&self) -> bool {
        self.settings.leave_out_busy
    }

    /// How it answers what it refuses.
    pub fn refusal(&self) -> Refusal {
        Refusal::new(self.settings.status, self.settings.retry_after)
    }

    /// Sets another limit; what was let in stays.
    ///
    /// # Errors
    /// As [`AdmissionSettings::set`].
    pub fn set(&mut self, key: &str, value: f64) -> Result<(), Invalid> {
        self.settings.set(key, value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(ms: u64) -> SimTime {
        SimTime::ZERO + SimDuration::from_millis(ms)
    }

    #[test]
    fn those_over_a_limit_wait_in_turn_and_not_for_ever() {
        let mut gate = Gate::new(AdmissionSettings {
            max_inflight: Some(1),
            max_waiting: 2,
            max_wait: Some(SimDuration::from_millis(10)),
            ..AdmissionSettings::default()
        });
        let ask = |gate: &mut Gate, id: u32| gate.ask(at(id.into()), RequestId(id), 5, 0);
        assert_eq!(ask(&mut gate, 0), Admission::Pass);
        assert_eq!((ask(&mut gate, 1), ask(&mut gate, 2)), (Admission::Wait, Admission::Wait));
        assert_eq!(ask(&mut gate, 3), Admission::Refuse(RejectReason::Full));
        assert_eq!(gate.next(0), None);
        assert_eq!(gate.expiry_due(), Some(at(11)));
        assert_eq!((gate.expire(at(10)), gate.expire(at(11))), (None, Some(RequestId(1))));
        gate.ended(5);
        assert_eq!((gate.next(0), gate.next(0)), (Some(RequestId(2)), None));
    }

    #[test]
    fn a_request_alone_may_have_more_tokens_than_the_limit() {
        let settings =
            AdmissionSettings { max_inflight_tokens: Some(100), ..AdmissionSettings::default() };
        let mut gate = Gate::new(settings);
        assert_eq!(gate.ask(at(0), RequestId(0), 500, 0), Admission::Pass);
        assert_eq!(gate.ask(at(0), RequestId(1), 1, 0), Admission::Refuse(RejectReason::Full));
    }

    #[test]
    fn all_workers_of_a_side_are_busy_or_none_counts() {
        let settings =
            AdmissionSettings { busy_kv_share: Some(0.5), ..AdmissionSettings::default() };
        let mut gate = Gate::new(settings);
        for (sides, busy) in [
            (vec![vec![(51, 100), (50, 100)]], false),
            (vec![vec![(51, 100), (51, 100)]], true),
            (vec![vec![(0, 100)], vec![(99, 100)]], true),
            (vec![vec![], vec![(1, 100)]], false),
        ] {
            let is_busy = sides.iter().any(|side| gate.are_all_busy(side.iter().copied()));
            gate.report(at(0), is_busy);
            let asked = gate.ask(at(0), RequestId(0), 1, 0);
            assert_eq!(asked == Admission::Refuse(RejectReason::Busy), busy, "{sides:?}");
        }
        assert_eq!(gate.report_due(), Some(at(100)));
    }

    proptest! {
        /// Against plain lists: what is in flight, and who waits, in whichever order
        /// requests come, end and hang up.
        #[test]
        fn counts_are_those_of_lists(
            steps in prop::collection::vec((0u8..4, 1u32..40, 0usize..9), 1..120),
            most in prop::option::of(1u32..4),
            most_tokens in prop::option::of(1u32..80),
            max_waiting in 0u32..4,
        ) {
            let mut gate = Gate::new(AdmissionSettings {
                max_inflight: most,
                max_inflight_tokens: most_tokens,
                max_waiting,
                ..AdmissionSettings::default()
            });
            let (mut inside, mut outside) = (Vec::<u32>::new(), Vec::<(u32, u32)>::new());
            let fits = |inside: &[u32], tokens: u32| {
                let sum: u32 = inside.iter().sum();
                most.is_none_or(|most| inside.len() < most as usize)
                    && most_tokens
                        .is_none_or(|most| inside.is_empty() || sum + tokens <= most)
            };
            for (next, (step, tokens, place)) in (0..).zip(steps) {
                match step {
                    0 if !inside.is_empty() => {
                        let place = place % inside.len();
                        gate.ended(inside.swap_remove(place));
                    }
                    1 if !outside.is_empty() => {
                        let (request, _) = outside.remove(place % outside.len());
                        gate.withdraw(RequestId(request));
                    }
                    _ => {
                        let expected = if outside.is_empty() && fits(&inside, tokens) {
                            inside.push(tokens);
                            Admission::Pass
                        } else if outside.len() < max_waiting as usize {
                            outside.push((next, tokens));
                            Admission::Wait
                        } else {
                            Admission::Refuse(RejectReason::Full)
                        };
                        prop_assert_eq!(gate.ask(at(0), RequestId(next), tokens, 0), expected);
                    }
                }
                while let Some(request) = gate.next(0) {
                    let (first, tokens) = outside.remove(0);
                    prop_assert_eq!(request, RequestId(first));
                    prop_assert!(fits(&inside, tokens));
                    inside.push(tokens);
                }
                prop_assert!(outside.first().is_none_or(|(_, tokens)| !fits(&inside, *tokens)));
                prop_assert_eq!(gate.waiting(), outside.len());
            }
        }
    }
}
