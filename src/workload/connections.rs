//! The connections of a load generator: a request needs one from when it is sent until its
//! answer is there, and waits in its client while none is free. Those that wait go in the
//! order in which they would have come.
//!
//! What a load generator holds back never reaches the servers, so a fleet that is over its
//! capacity looks better than it is: a run says how many requests waited, and how long.

use super::client::{Client, ConnectionSettings};
use super::passing::{Passing, Station};
use super::{Arrival, HeldBack, Workload};
use crate::rng::{Use, stream};
use crate::time::SimTime;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

/// A workload whose requests wait for connections, first come, first served.
pub type Connected<'a> = Passing<'a, Connections>;

/// The connections. What enters or leaves costs O(log n) with n of them.
pub struct Connections {
    wait_counts: bool,
    /// The way of a request, where it does not have it already; and the seed of that.
    way: Option<(Client, u64)>,
    /// Free connections, by when they became so.
    free: BinaryHeap<Reverse<SimTime>>,
    /// Connections that no request has had yet; `None` if there are always enough.
    unused: Option<u32>,
    /// On their way to the router: when they are there, and which they are.
    passing: BTreeMap<(SimTime, u32), Arrival>,
    held_back: HeldBack,
}

impl<'a> Connected<'a> {
    /// `inner` with these connections; without `settings` there are always enough. `way` is
    /// that of the requests of a workload that does not have it already, and its seed.
    pub fn new(
        inner: Box<dyn Workload + 'a>,
        settings: Option<ConnectionSettings>,
        way: Option<(Client, u64)>,
    ) -> Self {
        let connections = Connections {
            wait_counts: settings.is_none_or(|settings| settings.wait_counts),
            way,
            free: BinaryHeap::new(),
            unused: settings.map(|settings| settings.limit),
            passing: BTreeMap::new(),
            held_back: HeldBack::default(),
        };
        Self::through(inner, connections)
    }
}

impl Station for Connections {
    fn has_room(&self) -> bool {
        self.unused.is_none_or(|unused| unused > 0) || !self.free.is_empty()
    }

    fn enter(&mut self, number: u32, mut arrival: Arrival) {
        let way = match &self.way {
            None => arrival.at - arrival.sent,
            Some((client, seed)) => {
                let request = &arrival.request;
                let key = (u64::from(request.conversation.0), u64::from(request.turn));
                client.way(0, &mut stream(*seed, Use::ClientOverhead, key.0, key.1))
            }
        };
        // The one that has been free for longest: it may have been so when this was to go.
        let freed = match &mut self.unused {
            None => SimTime::ZERO,
            Some(0) => self.free.pop().expect("one is free").0,
            Some(unused) => {
                *unused -= 1;
                SimTime::ZERO
            }
        };
        let begins = arrival.sent.max(freed);
        if begins > arrival.sent {
            self.held_back.requests += 1;
            self.held_back.time += begins - arrival.sent;
        }
        if !self.wait_counts {
            arrival.sent = begins;
        }
        arrival.at = begins + way;
        self.passing.insert((arrival.at, number), arrival);
    }

    fn next_through(&self) -> Option<SimTime> {
        self.passing.first_key_value().map(|(&(at, _), _)| at)
    }

    fn leave(&mut self, _at: SimTime) -> Arrival {
        self.passing.pop_first().expect("a request is due").1
    }

    fn end(&mut self, now: SimTime, _output_tokens: Option<u32>) {
        if self.unused.is_some() {
            self.free.push(Reverse(now));
        }
    }

    fn held_back(&self) -> Option<HeldBack> {
        self.unused.map(|_| self.held_back)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::RequestId;
    use crate::request::{Content, Request};
    use crate::time::SimDuration;
    use crate::workload::client::MAX_CONNECTIONS;
    use crate::workload::requests::{RequestSettings, Requests};
    use crate::workload::tokenizer::Tokenized;
    use crate::workload::{
        Clients, Listed, Patience, PatienceSettings, Priorities, RefusalSettings, Retries,
        private_run,
    };
    use proptest::prelude::*;

    fn us(us: u64) -> SimTime {
        SimTime::ZERO + SimDuration::from_micros(us)
    }

    /// Requests that are sent at these times in microseconds, each so long on its way.
    fn listed(requests: &[(u64, u64)]) -> Box<dyn Workload> {
        let mut requests = requests.to_vec();
        requests.sort_by_key(|(sent, way)| sent + way);
        let arrival = |(number, (sent, way)): (u32, (u64, u64))| {
            let content = Content::new([], private_run(number));
            let request = Request::new(RequestId(number), 10, 1, content);
            let (at, patience) = (us(sent + way), Patience::default());
            Arrival { at, sent: us(sent), request, patience }
        };
        Box::new((0..).zip(requests).map(arrival).collect::<Listed>())
    }

    fn limited(limit: u32, wait_counts: bool) -> Option<ConnectionSettings> {
        Some(ConnectionSettings { limit, wait_counts })
    }

    /// Serves every request for as long as `service` says, and gives when each was sent, came
    /// and ended, with the most that were under way at a time.
    fn play(load: &mut dyn Workload, service: impl Fn(u32) -> u64) -> Vec<[SimTime; 3]> {
        let mut ends: BinaryHeap<Reverse<(SimTime, RequestId)>> = BinaryHeap::new();
        let mut seen = Vec::new();
        loop {
            let end = ends.peek().map(|Reverse((at, _))| *at);
            match load.next_arrival() {
                Some(at) if end.is_none_or(|end| at < end) => {
                    let Arrival { sent, request, .. } = load.take();
                    assert_eq!(request.id.index(), seen.len());
                    let number = u32::try_from(seen.len()).unwrap();
                    let end = at + SimDuration::from_micros(service(number));
                    seen.push([sent, at, end]);
                    ends.push(Reverse((end, request.id)));
                }
                _ => match ends.pop() {
                    Some(Reverse((at, id))) => load.observe_end(at, id, true),
                    None => return seen,
                },
            }
        }
    }

    proptest! {
        /// Against a queue for servers that is followed request by request: a connection is
        /// a server that is busy for the way and the answer.
        #[test]
        fn first_come_first_served(
            limit in 1..6_u32,
            wait_counts in any::<bool>(),
            mut sent in prop::collection::vec(0..3_000_u64, 0..60),
            service in 1..600_u64,
            way in 0..50_u64,
        ) {
            sent.sort_unstable();
            let requests: Vec<(u64, u64)> = sent.iter().map(|&sent| (sent, way)).collect();
            let mut load = Connected::new(listed(&requests), limited(limit, wait_counts), None);
            let seen = play(&mut load, |_| service);
            let mut free = vec![0; limit as usize];
            let (mut held, mut wait) = (0, 0);
            for (&sent, [counted, at, end]) in sent.iter().zip(&seen) {
                let connection = free.iter_mut().min().unwrap();
                let begins = sent.max(*connection);
                *connection = begins + way + service;
                held += u64::from(begins > sent);
                wait += begins - sent;
                prop_assert_eq!(*counted, us(if wait_counts { sent } else { begins }));
                prop_assert_eq!((*at, *end), (us(begins + way), us(begins + way + service)));
            }
            prop_assert_eq!(seen.len(), sent.len());
            let seen = load.held_back().unwrap();
            prop_assert_eq!((seen.requests, seen.time), (held, SimDuration::from_micros(wait)));
        }

        /// Whatever the ways: never more under way than connections, and with enough of them
        /// nothing is changed.
        #[test]
        fn as_many_as_connections(
            limit in 1..5_u32,
            requests in prop::collection::vec((0..2_000_u64, 0..400_u64), 0..50),
            services in prop::collection::vec(1..500_u64, 50),
        ) {
            let service = |number: u32| services[number as usize];
            let mut load = Connected::new(listed(&requests), limited(limit, false), None);
            let seen = play(&mut load, service);
            for [sent, ..] in &seen {
                let under_way = seen.iter().filter(|[from, _, to]| from <= sent && sent < to);
                prop_assert!(under_way.count() <= limit as usize);
            }
            let mut alone = listed(&requests);
            let mut enough = Connected::new(listed(&requests), limited(50, true), None);
            prop_assert_eq!(play(&mut enough, service), play(alone.as_mut(), service));
            prop_assert_eq!(enough.held_back(), Some(HeldBack::default()));
        }
    }

    /// A closed loop of ten clients over three connections is one of three.
    #[test]
    fn clients_beyond_the_connections_wait() {
        let load: RequestSettings = toml::from_str(
            "concurrency = 10\ncount = 40\nprompt_tokens = { kind = 'constant', value = 10 }
            output_tokens = { kind = 'constant', value = 5 }",
        )
        .unwrap();
        let inner = Box::new(Requests::new(load, 16, 1));
        let mut load = Connected::new(inner, limited(3, true), None);
        let seen = play(&mut load, |_| 100);
        assert_eq!(seen.len(), 40);
        assert_eq!(seen[39][2], us(1_400));
        assert_eq!(load.held_back().unwrap().requests, 37);
    }

    #[test]
    fn what_is_held_back_is_known_behind_every_wrapper() {
        let held = || -> Box<dyn Workload> {
            Box::new(Connected::new(listed(&[(0, 0), (1, 0)]), limited(1, true), None))
        };
        let (patience, priorities) = (PatienceSettings::default(), Priorities::default());
        let (refusals, pause) = (RefusalSettings::default(), SimDuration::from_secs(1));
        let tokenizer = toml::from_str("processes = 1").unwrap();
        let wrapped: [Box<dyn Workload>; 6] = [
            held(),
            Box::new(Clients::new(held(), patience, priorities, 1)),
            Box::new(Retries::new(held(), 1, pause)),
            Box::new(Retries::after_hang_ups(held(), 1, pause)),
            Box::new(Retries::after_refusals(held(), refusals, 1)),
            Box::new(Tokenized::new(held(), tokenizer, 1)),
        ];
        for (place, mut load) in wrapped.into_iter().enumerate() {
            play(load.as_mut(), |_| 10);
            let time = SimDuration::from_micros(9);
            assert_eq!(load.held_back(), Some(HeldBack { requests: 1, time }), "wrapper {place}");
        }
    }

    #[test]
    fn a_way_is_added_where_there_is_none() {
        let client: Client = toml::from_str(
            "overhead = '7us'\noverhead_jitter = { kind = 'constant', value = '2us' }",
        )
        .unwrap();
        let mut load = Connected::new(listed(&[(5, 0), (6, 0)]), None, Some((client, 1)));
        let seen = play(&mut load, |_| 1);
        assert_eq!(seen, [[us(5), us(14), us(15)], [us(6), us(15), us(16)]]);
    }

    #[test]
    fn unusable_settings_are_named() {
        for limit in [0, MAX_CONNECTIONS + 1] {
            assert_eq!(limited(limit, true).unwrap().validate().unwrap_err().key, "limit");
        }
    }
}
