//! Clients that send a request again that failed, or that they gave up.

use super::{Arrival, Patience, Workload};
use crate::id::RequestId;
use crate::request::Request;
use crate::time::{SimDuration, SimTime};
use std::collections::{BTreeMap, VecDeque};

/// A workload whose clients send a request again that failed, or that they gave up,
/// some time later and up to so many times. What is sent again is a request of its own, with a new
/// number, sent at its own time; the workload behind hears of the last one's end.
pub struct Retries<'a> {
    inner: Box<dyn Workload + 'a>,
    /// Whether it is sent again because its client hung up, not because it failed.
    after_hang_ups: bool,
    most: u32,
    pause: SimDuration,
    taken: u32,
    sent_again: u64,
    /// Taken and not ended.
    open: BTreeMap<RequestId, Attempt>,
    /// To be sent again, in order of time.
    waiting: VecDeque<(SimTime, Attempt)>,
}

/// One attempt at a request.
struct Attempt {
    /// As the workload behind numbers it.
    request: Request,
    patience: Patience,
    /// Attempts before.
    before: u32,
}

impl<'a> Retries<'a> {
    /// `inner` with clients that send up to `most` times again, `pause` after each failure.
    pub fn new(inner: Box<dyn Workload + 'a>, most: u32, pause: SimDuration) -> Self {
        Self {
            inner,
            after_hang_ups: false,
            most,
            pause,
            taken: 0,
            sent_again: 0,
            open: BTreeMap::new(),
            waiting: VecDeque::new(),
        }
    }

    /// `inner` with clients that hung up and send up to `most` times again, `pause` later.
    pub fn after_hang_ups(inner: Box<dyn Workload + 'a>, most: u32, pause: SimDuration) -> Self {
        Self { after_hang_ups: true, ..Self::new(inner, most, pause) }
    }

    fn end(&mut self, request: RequestId) -> Attempt {
        self.open.remove(&request).expect("a request that ends was taken")
    }

    /// Sends again; gives the number of a request that is not.
    fn try_again(&mut self, now: SimTime, request: RequestId, may: bool) -> Option<RequestId> {
        let attempt = self.end(request);
        if !may || attempt.before == self.most {
            return Some(attempt.request.id);
        }
        // Pauses are equal, so the order of failures is that of sending.
        let again = Attempt { before: attempt.before + 1, ..attempt };
        self.waiting.push_back((now + self.pause, again));
        None
    }
}

impl Workload for Retries<'_> {
    fn next_arrival(&self) -> Option<SimTime> {
        let again = self.waiting.front().map(|(at, _)| *at);
        self.inner.next_arrival().into_iter().chain(again).min()
    }

    fn take(&mut self) -> Arrival {
        let next = self.next_arrival().expect("a request is due");
        let (mut arrival, attempt) = if self.inner.next_arrival() == Some(next) {
            let arrival = self.inner.take();
            let Arrival { request, patience, .. } = arrival.clone();
            let attempt = Attempt { request, patience, before: 0 };
            (arrival, attempt)
        } else {
            let (at, attempt) = self.waiting.pop_front().expect("one waits");
            self.sent_again += 1;
            let Attempt { request, patience, .. } = &attempt;
            let arrival = Arrival { at, sent: at, request: request.clone(), patience: *patience };
            (arrival, attempt)
        };
        arrival.request.id = RequestId(self.taken);
        self.taken = self.taken.checked_add(1).expect("fewer than 2^32 requests");
        self.open.insert(arrival.request.id, attempt);
        arrival
    }

    fn observe_end(&mut self, now: SimTime, request: RequestId, served: bool) {
        let attempt = self.end(request);
        self.inner.observe_end(now, attempt.request.id, served);
    }

    fn observe_failure(&mut self, now: SimTime, request: RequestId) {
        if let Some(request) = self.try_again(now, request, !self.after_hang_ups) {
            self.inner.observe_failure(now, request);
        }
    }

    fn observe_hang_up(&mut self, now: SimTime, request: RequestId) {
        if let Some(request) = self.try_again(now, request, self.after_hang_ups) {
            self.inner.observe_hang_up(now, request);
        }
    }

    fn sent_again(&self) -> Option<u64> {
        Some(self.sent_again + self.inner.sent_again().unwrap_or(0))
    }

    fn set_concurrency(&mut self, now: SimTime, conversations: u32, cut: bool) -> bool {
        self.inner.set_concurrency(now, conversations, cut)
    }

    fn begin_level(&mut self, now: SimTime, level: u32) -> SimTime {
        self.inner.begin_level(now, level)
    }

    fn set_rate(&mut self, now: SimTime, per_s: f64) -> bool {
        self.inner.set_rate(now, per_s)
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
