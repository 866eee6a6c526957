//! The network between workers: every worker has one NIC, and transfers share it.
//!
//! A fluid model. The transfers that leave a NIC have equal shares of its
//! bandwidth, and so have those that arrive at one (full duplex); a transfer runs
//! at the smaller of its two shares. What one cannot use is not given to others,
//! so rates are at most those of max-min fairness, and equal to them where all
//! transfers of a NIC have the same bottleneck. Rates change when a transfer
//! begins or ends; only those that share a NIC with it are looked at.
//!
//! Time is exact: a transfer is kept as the time it would still need alone, and
//! takes that times its sharers. Each change of rate rounds by less than a picosecond.

use crate::id::{RequestId, WorkerId};
use crate::settings::Invalid;
use crate::time::{SimDuration, SimTime};
use priority_queue::PriorityQueue;
use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};

/// What every NIC can do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Link {
    /// Bandwidth of a NIC in each direction, in 10^9 bits per second; above 0, may be infinite.
    pub gbit_per_s: f64,
    /// From the last byte sent to the moment at which both sides know that it is there.
    pub latency: SimDuration,
}

impl Link {
    /// Takes no time.
    pub const INSTANT: Self = Self { gbit_per_s: f64::INFINITY, latency: SimDuration::ZERO };

    /// Refuses a link over which nothing can move; keys in the error are relative to it.
    ///
    /// # Errors
    /// The first setting that will not do.
    pub fn validate(&self) -> Result<(), Invalid> {
        let gbit_per_s = self.gbit_per_s;
        Invalid::unless(gbit_per_s > 0.0, "gbit_per_s", gbit_per_s, "above 0, or inf")
    }

    /// Time that `bytes` need if nothing else is on the way, without the latency.
    pub fn time_alone(&self, bytes: f64) -> SimDuration {
        SimDuration::from_secs_f64(bytes * 8.0 / (self.gbit_per_s * 1e9))
    }
}

/// The KV of a request on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Whose.
    pub request: RequestId,
    /// The worker that has it.
    pub from: WorkerId,
    /// The worker that asked for it.
    pub to: WorkerId,
}

/// A transfer that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrived {
    /// Which.
    pub transfer: Transfer,
    /// When.
    pub at: SimTime,
    /// From its start, latency included.
    pub took: SimDuration,
}

/// A transfer whose bytes flow.
#[derive(Debug)]
struct Flow {
    transfer: Transfer,
    began: SimTime,
    /// What it would need alone, as of `since`.
    left: SimDuration,
    since: SimTime,
    sharers: u64,
}

/// See the module documentation.
#[derive(Debug)]
pub struct Network {
    link: Link,
    flows: BTreeMap<RequestId, Flow>,
    /// When each flow ends if nothing changes: earliest first, then by request.
    ends: PriorityQueue<RequestId, Reverse<(SimTime, RequestId)>>,
    /// Flows of each NIC, by worker and direction.
    leaving: Vec<Vec<RequestId>>,
    arriving: Vec<Vec<RequestId>>,
    /// Sent, but not known to be there; in order of time.
    landing: VecDeque<Arrived>,
}

impl Network {
    /// Between workers with ids below `workers`, idle.
    pub fn new(workers: u32, link: Link) -> Self {
        let none = || vec![Vec::new(); workers as usize];
        Self {
            link,
            flows: BTreeMap::new(),
            ends: PriorityQueue::new(),
            leaving: none(),
            arriving: none(),
            landing: VecDeque::new(),
        }
    }

    /// From its start until both ends know that `bytes` are there, if nothing else is on
    /// the way.
    pub fn time_alone(&self, bytes: f64) -> SimDuration {
        self.link.time_alone(bytes) + self.link.latency
    }

    /// Begins to move `bytes`. O(n log m) in the n transfers that share a NIC with
    /// it and the m of all NICs.
    ///
    /// # Panics
    /// If the request's KV is on its way already.
    pub fn start(&mut self, now: SimTime, transfer: Transfer, bytes: f64) {
        self.advance(now);
        let Transfer { request, from, to } = transfer;
        self.leaving[from.index()].push(request);
        self.arriving[to.index()].push(request);
        let left = self.link.time_alone(bytes);
        let flow = Flow { transfer, began: now, left, since: now, sharers: 0 };
        assert!(self.flows.insert(request, flow).is_none(), "{request:?} is on its way already");
        self.share_out(now, from, to);
    }

    /// When [`next`](Self::next) will have something to do.
    pub fn due(&self) -> Option<SimTime> {
        let end = self.ends.peek().map(|(_, Reverse((at, _)))| *at);
        let landing = self.landing.front().map(|arrived| arrived.at);
        end.into_iter().chain(landing).min()
    }

    /// The next transfer that is over at `now`; to be asked until `None`.
    pub fn next(&mut self, now: SimTime) -> Option<Arrived> {
        self.advance(now);
        let due = self.landing.front().is_some_and(|arrived| arrived.at <= now);
        if due { self.landing.pop_front() } else { None }
    }

    /// A worker dies at `now`: what is not known to be there will never be. Gives those
    /// transfers, the running ones first, in order of request.
    pub fn cut(&mut self, now: SimTime, worker: WorkerId) -> Vec<Transfer> {
        self.advance(now);
        let ends_there = |transfer: &Transfer| transfer.from == worker || transfer.to == worker;
        let flows = self.flows.values().map(|flow| flow.transfer);
        let mut cut: Vec<Transfer> = flows.filter(ends_there).collect();
        for &Transfer { request, from, to } in &cut {
            self.flows.remove(&request);
            self.ends.remove(&request);
            self.leaving[from.index()].retain(|&other| other != request);
            self.arriving[to.index()].retain(|&other| other != request);
            self.share_out(now, from, to);
        }
        let landing = self.landing.iter().map(|arrived| arrived.transfer);
        cut.extend(landing.filter(ends_there));
        self.landing.retain(|arrived| !ends_there(&arrived.transfer));
        cut
    }

    /// Ends the flows that end at or before `now`.
    fn advance(&mut self, now: SimTime) {
        let due =
            |_: &mut RequestId, Reverse((at, _)): &mut Reverse<(SimTime, RequestId)>| *at <= now;
        while let Some((request, Reverse((at, _)))) = self.ends.pop_if(due) {
            let flow = self.flows.remove(&request).expect("what ends was flowing");
            let Transfer { from, to, .. } = flow.transfer;
            self.leaving[from.index()].retain(|&other| other != request);
            self.arriving[to.index()].retain(|&other| other != request);
            let landed = at + self.link.latency;
            let took = landed - flow.began;
            self.landing.push_back(Arrived { transfer: flow.transfer, at: landed, took });
            self.share_out(at, from, to);
        }
    }

    /// Gives the flows of two NICs the shares that they have from `now` on.
    fn share_out(&mut self, now: SimTime, from: WorkerId, to: WorkerId) {
        let Self { flows, ends, leaving, arriving, .. } = self;
        for request in leaving[from.index()].iter().chain(&arriving[to.index()]) {
            let flow = flows.get_mut(request).expect("flows of a NIC flow");
            let Transfer { from, to, .. } = flow.transfer;
            let sharers = leaving[from.index()].len().max(arriving[to.index()].len()) as u64;
            if sharers == flow.sharers {
                continue;
            }
            if flow.sharers > 0 {
                flow.left -= (now - flow.since) / flow.sharers;
            }
            (flow.since, flow.sharers) = (now, sharers);
            ends.push(*request, Reverse((now + flow.left * sharers, *request)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: f64 = 1e9 / 8.0 / 1_000.0; // bytes in a millisecond at 1 Gbit/s

    fn network(workers: u32, latency: SimDuration) -> Network {
        Network::new(workers, Link { gbit_per_s: 1.0, latency })
    }

    fn transfer(request: u32, from: u32, to: u32) -> Transfer {
        Transfer { request: RequestId(request), from: WorkerId(from), to: WorkerId(to) }
    }

    /// Runs everything to its end.
    fn drain(network: &mut Network) -> Vec<Arrived> {
        let mut all = Vec::new();
        while let Some(at) = network.due() {
            all.extend(std::iter::from_fn(|| network.next(at)));
        }
        all
    }

    #[test]
    fn the_time_of_a_transfer_is_that_alone_times_the_sharers_of_its_nic() {
        for sharers in 1..=20 {
            // All from worker 0; or each from its own, all to worker 0.
            for gather in [false, true] {
                let latency = SimDuration::from_micros(7);
                let mut network = network(21, latency);
                for i in 1..=sharers {
                    let ends = if gather { (i, 0) } else { (0, i) };
                    network.start(SimTime::ZERO, transfer(i, ends.0, ends.1), 3.0 * MS);
                }
                let all = drain(&mut network);
                assert_eq!(all.len(), sharers as usize);
                let expected = SimDuration::from_millis(3) * u64::from(sharers) + latency;
                assert!(all.iter().all(|arrived| arrived.took == expected), "{all:?}");
            }
        }
    }

    #[test]
    fn rates_change_when_a_transfer_begins_and_ends() {
        let at = |ms| SimTime::ZERO + SimDuration::from_millis(ms);
        let mut network = network(3, SimDuration::ZERO);
        network.start(at(0), transfer(0, 0, 1), 4.0 * MS);
        // From 2 ms on both have half: the first needs 4 ms more, the second then
        // has 2 of its 4 ms left and the NIC for itself.
        network.start(at(2), transfer(1, 0, 2), 4.0 * MS);
        let ends: Vec<SimTime> = drain(&mut network).iter().map(|arrived| arrived.at).collect();
        assert_eq!(ends, [at(6), at(8)]);
    }

    #[test]
    fn what_is_cut_leaves_its_share_to_others() {
        let at = |ms| SimTime::ZERO + SimDuration::from_millis(ms);
        let latency = SimDuration::from_millis(5);
        let mut network = network(4, latency);
        network.start(at(0), transfer(0, 0, 1), 4.0 * MS);
        network.start(at(0), transfer(1, 0, 2), 4.0 * MS);
        network.start(at(0), transfer(2, 3, 2), 1.0 * MS);
        // Half of the NICs each; the third has left its own at 2 ms and is not there yet.
        assert_eq!(network.cut(at(4), WorkerId(2)), [transfer(1, 0, 2), transfer(2, 3, 2)]);
        // 2 of 4 ms are left, alone.
        let all = drain(&mut network);
        assert_eq!(all.len(), 1);
        assert_eq!((all[0].transfer, all[0].at), (transfer(0, 0, 1), at(6) + latency));
    }

    #[test]
    fn an_infinite_link_takes_its_latency() {
        let link = Link { gbit_per_s: f64::INFINITY, latency: SimDuration::from_millis(1) };
        let mut network = Network::new(2, link);
        for i in 0..5 {
            network.start(SimTime::ZERO, transfer(i, 0, 1), 1e12);
        }
        let all = drain(&mut network);
        assert!(all.len() == 5 && all.iter().all(|arrived| arrived.took == link.latency));
    }

    proptest! {
        /// Against a model that goes from change to change and looks at everything.
        #[test]
        fn the_network_agrees_with_a_naive_fluid_model(
            starts in prop::collection::vec((0u64..20, 0u32..3, 3u32..6, 1u32..30), 1..30),
        ) {
            let mut network = network(6, SimDuration::ZERO);
            let mut now = SimTime::ZERO;
            let mut found = Vec::new();
            let mut model: Vec<(f64, f64, Transfer)> = Vec::new();
            for (request, &(gap, from, to, ms)) in (0..).zip(&starts) {
                let next = now + SimDuration::from_millis(gap);
                while let Some(at) = network.due().filter(|at| *at <= next) {
                    found.extend(std::iter::from_fn(|| network.next(at)));
                }
                now = next;
                let transfer = transfer(request, from, to);
                network.start(now, transfer, f64::from(ms) * MS);
                model.push((now.as_millis(), f64::from(ms), transfer));
            }
            found.extend(drain(&mut network));
            let expected = naive(model);
            prop_assert_eq!(found.len(), expected.len());
            for arrived in found {
                let end = expected[&arrived.transfer.request];
                prop_assert!((arrived.at.as_millis() - end).abs() < 1e-6, "{arrived:?}, {end}");
            }
        }
    }

    /// Ends in ms of transfers given by start, time alone and ends.
    fn naive(mut all: Vec<(f64, f64, Transfer)>) -> BTreeMap<RequestId, f64> {
        let (mut ends, mut now) = (BTreeMap::new(), 0.0f64);
        while !all.is_empty() {
            let runs: Vec<bool> = all.iter().map(|(start, ..)| *start <= now + 1e-9).collect();
            let with = |same: &dyn Fn(&Transfer) -> bool| {
                all.iter().zip(&runs).filter(|((.., t), runs)| **runs && same(t)).count()
            };
            let rate = |t: &Transfer| {
                1.0 / with(&|o| o.from == t.from).max(with(&|o| o.to == t.to)) as f64
            };
            let rates: Vec<f64> = all.iter().map(|(.., t)| rate(t)).collect();
            let later =
                all.iter().zip(&runs).filter(|(_, runs)| !**runs).map(|((s, ..), _)| s - now);
            let over = all.iter().zip(&rates).zip(&runs).filter(|(_, runs)| **runs);
            let over = over.map(|(((_, left, _), rate), _)| left / rate);
            let step = later.chain(over).fold(f64::INFINITY, f64::min);
            now += step;
            for ((entry, rate), runs) in all.iter_mut().zip(&rates).zip(&runs) {
                entry.1 -= if *runs { step * rate } else { 0.0 };
            }
            for (.., transfer) in all.iter().filter(|(_, left, _)| *left < 1e-9) {
                ends.insert(transfer.request, now);
            }
            all.retain(|(_, left, _)| *left >= 1e-9);
        }
        ends
    }
}
