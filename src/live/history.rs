//! What the router of a live run heard, so that it can be replayed.

use crate::engine::Gauges;
use crate::event::{KvEvent, RejectReason, WorkerEvent};
use crate::fleet::Fleet;
use crate::id::{RequestId, WorkerId};
use crate::recorder::{End, RequestRecord};
use crate::request::Request;
use crate::stats::Histogram;
use crate::time::{SimDuration, SimTime};
use crate::workload::{Arrival, Listed, Patience, Workload};
use std::collections::{BTreeMap, VecDeque};

/// Everything that came from a fleet, in order.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    /// With the number of requests sent before: what came late is of a moment at
    /// which more had been sent than when it happened.
    lives: VecDeque<(SimTime, WorkerEvent, usize)>,
    /// With the deadline of the call that handed it over.
    kv: VecDeque<(SimTime, WorkerId, SimTime, KvEvent)>,
}

/// A fleet that is listened to.
pub(super) struct Observed<F> {
    pub(super) fleet: F,
    pub(super) history: History,
    sent: usize,
}

impl<F> Observed<F> {
    pub(super) fn new(fleet: F) -> Self {
        Self { fleet, history: History::default(), sent: 0 }
    }
}

impl<F: Fleet> Fleet for Observed<F> {
    fn submit(
        &mut self,
        now: SimTime,
        worker: WorkerId,
        request: &Request,
    ) -> Result<(), RejectReason> {
        self.sent += 1;
        self.fleet.submit(now, worker, request)
    }

    fn abort(&mut self, now: SimTime, worker: WorkerId, request: RequestId) {
        self.fleet.abort(now, worker, request);
    }

    fn next_event(&mut self, deadline: SimTime) -> Option<(SimTime, WorkerEvent)> {
        let event = self.fleet.next_event(deadline);
        self.history.lives.extend(event.map(|(at, event)| (at, event, self.sent)));
        event
    }

    fn take_kv_events(&mut self, until: SimTime, sink: &mut dyn FnMut(WorkerId, SimTime, KvEvent)) {
        let kv = &mut self.history.kv;
        self.fleet.take_kv_events(until, &mut |source, at, event| {
            kv.push_back((until, source, at, event));
            sink(source, at, event);
        });
    }

    fn gauges(&mut self, now: SimTime) -> Vec<Gauges> {
        self.fleet.gauges(now)
    }

    fn take_token_gaps(&mut self, now: SimTime) -> Histogram {
        self.fleet.take_token_gaps(now)
    }
}

/// Workers that say again what was said before, whatever is sent to them.
pub(super) struct Retold {
    history: History,
    sent: usize,
    gauges: Vec<Gauges>,
}

impl Retold {
    /// Tells `history` of the requests of `script` to the same moments; it must be
    /// given the same requests at the same times.
    pub(super) fn new(mut history: History, script: &Script, workers: u32) -> Self {
        let numbers: BTreeMap<RequestId, RequestId> =
            script.requests.iter().map(|sent| sent.original).zip((0..).map(RequestId)).collect();
        history.lives.retain_mut(|(_, event, _)| {
            let number = numbers.get(&event.request);
            event.request = number.copied().unwrap_or_default();
            number.is_some()
        });
        Self { history, sent: 0, gauges: vec![Gauges::default(); workers as usize] }
    }
}

impl Fleet for Retold {
    fn submit(&mut self, now: SimTime, worker: WorkerId, _: &Request) -> Result<(), RejectReason> {
        self.sent += 1;
        let gauges = &mut self.gauges[worker.index()];
        gauges.advance(now);
        gauges.running += 1;
        Ok(())
    }

    fn next_event(&mut self, deadline: SimTime) -> Option<(SimTime, WorkerEvent)> {
        let &(at, event, sent) = self.history.lives.front()?;
        if at > deadline || sent > self.sent {
            return None;
        }
        self.history.lives.pop_front();
        if event.kind.ends_stay() {
            let gauges = &mut self.gauges[event.worker.index()];
            gauges.advance(at);
            gauges.running -= 1;
        }
        Some((at, event))
    }

    fn take_kv_events(&mut self, until: SimTime, sink: &mut dyn FnMut(WorkerId, SimTime, KvEvent)) {
        let kv = &mut self.history.kv;
        let due = kv.partition_point(|(asked, ..)| *asked <= until);
        kv.drain(..due).for_each(|(_, source, at, event)| sink(source, at, event));
    }

    fn gauges(&mut self, now: SimTime) -> Vec<Gauges> {
        self.gauges.iter_mut().for_each(|gauges| gauges.advance(now));
        self.gauges.clone()
    }

    fn take_token_gaps(&mut self, _: SimTime) -> Histogram {
        Histogram::new()
    }
}

/// A workload whose requests are kept.
pub(super) struct Taken<'a> {
    pub(super) workload: Box<dyn Workload + 'a>,
    pub(super) arrivals: &'a mut Vec<Arrival>,
}

impl Workload for Taken<'_> {
    fn next_arrival(&self) -> Option<SimTime> {
        self.workload.next_arrival()
    }

    fn take(&mut self) -> Arrival {
        let arrival = self.workload.take();
        self.arrivals.push(arrival.clone());
        arrival
    }

    fn observe_end(&mut self, now: SimTime, request: RequestId, served: bool) {
        self.workload.observe_end(now, request, served);
    }

    fn behind(&self) -> Option<&dyn Workload> {
        Some(&*self.workload)
    }

    fn behind_mut(&mut self) -> Option<&mut dyn Workload> {
        Some(&mut *self.workload)
    }
}

/// The requests that a router sent, at the moments at which it did.
#[derive(Clone, Debug, Default)]
pub(super) struct Script {
    pub(super) requests: Vec<Sent>,
}

/// One of them.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    /// Its number in the live run.
    pub(super) original: RequestId,
    pub(super) worker: WorkerId,
    arrival: Arrival,
}

impl Script {
    /// The requests of a run with these `records`, those that failed only if
    /// `with_failed`; each takes `way` to its worker.
    pub(super) fn new(
        arrivals: &[Arrival],
        records: &[RequestRecord],
        with_failed: bool,
        way: SimDuration,
    ) -> Self {
        let sent = |record: &RequestRecord| {
            let (at, worker) = record.dispatched?;
            let mut request = arrivals[record.request.index()].request.clone();
            match record.end {
                Some((_, End::Rejected(_))) if !with_failed => return None,
                // A server may have cut the answer at its context limit.
                Some((_, End::Finished { output_tokens })) => request.output_tokens = output_tokens,
                _ => {}
            }
            // Where the client hung up, it does so again at the same moment.
            let answer = record.given_up.map(|given_up| given_up - record.sent);
            let patience = Patience { first_token: None, answer };
            let arrival = Arrival { at: at + way, sent: record.sent, request, patience };
            Some(Sent { original: record.request, worker, arrival })
        };
        let mut requests: Vec<Sent> = records.iter().filter_map(sent).collect();
        requests.sort_by_key(|sent| (sent.arrival.at, sent.original));
        for (number, sent) in (0..).zip(&mut requests) {
            sent.arrival.request.id = RequestId(number);
        }
        Self { requests }
    }

    /// As a workload.
    pub(super) fn play(&self) -> Box<dyn Workload> {
        Box::new(self.requests.iter().map(|sent| sent.arrival.clone()).collect::<Listed>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::WorkloadSettings;
    use std::path::Path;

    #[test]
    fn what_clients_hold_back_is_known_of_requests_that_are_kept() {
        let settings: WorkloadSettings = toml::from_str(
            "kind = 'requests'\nconcurrency = 2\ncount = 2\n\
             prompt_tokens = { kind = 'constant', value = 9 }\n\
             output_tokens = { kind = 'constant', value = 9 }\nclient.connections.limit = 1",
        )
        .unwrap();
        let workload = settings.load(Path::new("."), None).unwrap().build(16, 1);
        let mut arrivals = Vec::new();
        let mut taken = Taken { workload, arrivals: &mut arrivals };
        let first = taken.take();
        assert_eq!(taken.next_arrival(), None);
        let ended = first.at + SimDuration::from_secs(1);
        taken.observe_failure(ended, first.request.id);
        assert_eq!(taken.take().at, ended);
        assert_eq!(taken.held_back().unwrap().requests, 1);
        drop(taken);
        assert_eq!(arrivals.len(), 2);
    }
}
