//! Clients that send a request again that failed, that they gave up, or that was refused.

use super::{Arrival, Patience, RefusalSettings, Workload};
use crate::event::Refusal;
use crate::id::RequestId;
use crate::request::Request;
use crate::time::{SimDuration, SimTime};
use std::collections::BTreeMap;

/// A workload whose clients send a request again that failed, that they gave up, or that was
/// refused, some time later and up to so many times. What is sent again is a request of its
/// own, with a new number; the workload behind hears of the last one's end.
pub struct Retries<'a> {
    inner: Box<dyn Workload + 'a>,
    after: After,
    taken: u32,
    sent_again: u64,
    /// Taken and not ended.
    open: BTreeMap<RequestId, Attempt>,
    /// To be sent again, by time and order of the ends before.
    waiting: BTreeMap<(SimTime, u64), Attempt>,
    ends: u64,
}

/// After what a request is sent again.
enum After {
    Failure { most: u32, pause: SimDuration },
    HangUp { most: u32, pause: SimDuration },
    Refusal { settings: RefusalSettings, seed: u64 },
}

/// One attempt at a request.
struct Attempt {
    /// As the workload behind numbers it.
    request: Request,
    /// When the first one was sent.
    sent: SimTime,
    patience: Patience,
    /// Attempts before.
    before: u32,
}

impl Attempt {
    /// Whether its client would still wait at `at`, since the first attempt.
    fn is_wanted(&self, at: SimTime) -> bool {
        let Patience { first_token, answer } = self.patience;
        first_token.into_iter().chain(answer).all(|wait| self.sent + wait > at)
    }
}

impl<'a> Retries<'a> {
    /// `inner` with clients that send up to `most` times again, `pause` after each failure.
    pub fn new(inner: Box<dyn Workload + 'a>, most: u32, pause: SimDuration) -> Self {
        Self::after(inner, After::Failure { most, pause })
    }

    /// `inner` with clients that hung up and send up to `most` times again, `pause` later.
    pub fn after_hang_ups(inner: Box<dyn Workload + 'a>, most: u32, pause: SimDuration) -> Self {
        Self::after(inner, After::HangUp { most, pause })
    }

    /// `inner` with clients that were refused and send again as `settings` say. Their clocks
    /// go on: what is sent again counts as sent when it first was.
    pub fn after_refusals(
        inner: Box<dyn Workload + 'a>,
        settings: RefusalSettings,
        seed: u64,
    ) -> Self {
        Self::after(inner, After::Refusal { settings, seed })
    }

    fn after(inner: Box<dyn Workload + 'a>, after: After) -> Self {
        let (open, waiting) = (BTreeMap::new(), BTreeMap::new());
        Self { inner, after, taken: 0, sent_again: 0, open, waiting, ends: 0 }
    }

    fn end(&mut self, request: RequestId) -> Attempt {
        self.open.remove(&request).expect("a request that ends was taken")
    }

    /// Sends `attempt` again after `pause`.
    fn send_again(&mut self, now: SimTime, attempt: Attempt, pause: SimDuration) {
        let again = Attempt { before: attempt.before + 1, ..attempt };
        self.waiting.insert((now + pause, self.ends), again);
        self.ends += 1;
    }

    /// Sends again, if there is a `rule` for it; gives the number of a request that is not.
    fn try_again(
        &mut self,
        now: SimTime,
        request: RequestId,
        rule: Option<(u32, SimDuration)>,
    ) -> Option<RequestId> {
        let attempt = self.end(request);
        match rule {
            Some((most, pause)) if attempt.before < most => {
                self.send_again(now, attempt, pause);
                None
            }
            _ => Some(attempt.request.id),
        }
    }
}

impl Workload for Retries<'_> {
    fn next_arrival(&self) -> Option<SimTime> {
        let again = self.waiting.first_key_value().map(|((at, _), _)| *at);
        self.inner.next_arrival().into_iter().chain(again).min()
    }

    fn take(&mut self) -> Arrival {
        let next = self.next_arrival().expect("a request is due");
        let (mut arrival, attempt) = if self.inner.next_arrival() == Some(next) {
            let arrival = self.inner.take();
            let Arrival { request, sent, patience, .. } = arrival.clone();
            let attempt = Attempt { request, sent, patience, before: 0 };
            (arrival, attempt)
        } else {
            let ((at, _), attempt) = self.waiting.pop_first().expect("one waits");
            self.sent_again += 1;
            let (request, patience) = (attempt.request.clone(), attempt.patience);
            let sent = if let After::Refusal { .. } = self.after { attempt.sent } else { at };
            let arrival = Arrival { at, sent, request, patience };
            (arrival, attempt)
        };
        arrival.request.id = RequestId(self.taken);
        self.taken = self.taken.checked_add(1).expect("fewer than 2^32 requests");
        self.open.insert(arrival.request.id, attempt);
        arrival
    }

    fn behind(&self) -> Option<&dyn Workload> {
        Some(&*self.inner)
    }

    fn behind_mut(&mut self) -> Option<&mut dyn Workload> {
        Some(&mut *self.inner)
    }

    fn observe_end(&mut self, now: SimTime, request: RequestId, served: bool) {
        let attempt = self.end(request);
        self.inner.observe_end(now, attempt.request.id, served);
    }

    fn observe_failure(&mut self, now: SimTime, request: RequestId) {
        let rule = match self.after {
            After::Failure { most, pause } => Some((most, pause)),
            After::HangUp { .. } | After::Refusal { .. } => None,
        };
        if let Some(request) = self.try_again(now, request, rule) {
            self.inner.observe_failure(now, request);
        }
    }

    fn observe_hang_up(&mut self, now: SimTime, request: RequestId) {
        let rule = match self.after {
            After::HangUp { most, pause } => Some((most, pause)),
            After::Failure { .. } | After::Refusal { .. } => None,
        };
        if let Some(request) = self.try_again(now, request, rule) {
            self.inner.observe_hang_up(now, request);
        }
    }

    fn observe_refusal(&mut self, now: SimTime, request: RequestId, refusal: &Refusal) -> bool {
        let attempt = self.end(request);
        let pause = match &self.after {
            After::Refusal { settings, seed } => {
                let Request { conversation, turn, .. } = attempt.request;
                settings.pause(refusal, (*seed, conversation.0, turn), attempt.before)
            }
            After::Failure { .. } | After::HangUp { .. } => None,
        };
        match pause.filter(|pause| attempt.is_wanted(now + *pause)) {
            Some(pause) => {
                self.send_again(now, attempt, pause);
                true
            }
            None => self.inner.observe_refusal(now, attempt.request.id, refusal),
        }
    }

    fn sent_again(&self) -> Option<u64> {
        Some(self.sent_again + self.inner.sent_again().unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::WorkloadSettings;

    #[test]
    fn a_failed_request_comes_again_with_a_new_number() {
        let settings: WorkloadSettings = toml::from_str(
            "kind = \"requests\"\nconcurrency = 2\ncount = 3\n\
             prompt_tokens = { kind = \"uniform\", min = 5, max = 50 }\n\
             output_tokens = { kind = \"constant\", value = 3 }",
        )
        .unwrap();
        let inner = settings.load(std::path::Path::new("."), None).unwrap().build(16, 1);
        let pause = SimDuration::from_secs(2);
        let mut workload = Retries::new(inner, 1, pause);
        let first = workload.take();
        let second = workload.take();
        assert_eq!((first.request.id, second.request.id), (RequestId(0), RequestId(1)));
        assert_eq!(workload.next_arrival(), None);
        workload.observe_failure(SimTime::from_ps(7), RequestId(1));
        assert_eq!(workload.next_arrival(), Some(SimTime::from_ps(7) + pause));
        // The other client goes on meanwhile.
        workload.observe_end(SimTime::from_ps(9), RequestId(0), true);
        let third = workload.take();
        assert_eq!((third.at, third.request.id), (SimTime::from_ps(9), RequestId(2)));
        let again = workload.take();
        assert_eq!(again.request, Request { id: RequestId(3), ..second.request });
        assert_eq!(workload.sent_again(), Some(1));
        // A second failure is the end of it.
        workload.observe_failure(again.at, RequestId(3));
        workload.observe_end(again.at, RequestId(2), true);
        assert_eq!(workload.next_arrival(), None);
    }
}
