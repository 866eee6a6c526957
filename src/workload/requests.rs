//! Single requests, as serving benchmarks send them. In a closed loop there is a
//! fixed number of clients, each sending its next request when the one before has
//! been answered; in an open loop requests come by a process of their own.
//!
//! No two requests share a token, unless prompts begin with one of a few shared
//! texts. Lengths are keyed by the request's number, so
//! they are the same whatever serves them.

use super::arrivals::{ArrivalSettings, Arrivals};
use super::client::Client;
use super::conversations::is_zero;
use super::distribution::{Distribution, Quantity, Tokens, popular, validate_exponent};
use super::{
    Arrival, MAX_CONCURRENCY, MAX_TOKENS, PAUSE_AFTER_REJECTION, Patience, PatienceSettings,
    Priorities, Workload, private_run, validate_concurrency,
};
use crate::id::{BlockId, ConversationId, RequestId};
use crate::request::{BlockRun, Content, Request};
use crate::rng::{Use, stream};
use crate::settings::{self, Count, Invalid};
use crate::time::{SimDuration, SimTime};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Most groups (assumed: far above any use). Each takes as many block ids as its
/// text has blocks.
const MAX_GROUPS: u32 = 1_000_000;

/// A closed or open loop of single requests.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RequestSettings {
    /// Clients of a closed loop, at first. Either this or `arrivals`.
    #[serde(
        default,
        deserialize_with = "settings::count_option",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "Option<Count>")]
    pub concurrency: Option<u32>,
    /// Clients of a closed loop send their first request at even distances over this time; all
    /// at once unless given.
    #[serde(default, skip_serializing_if = "are_at_once")]
    pub start_spread: SimDuration,
    /// When requests of an open loop are sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arrivals: Option<ArrivalSettings>,
    /// Requests in all; without it the loop never ends.
    #[serde(
        default,
        deserialize_with = "settings::count_option",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "Option<Count>")]
    pub count: Option<u32>,
    /// Length of a prompt, after the shared text if there is one.
    pub prompt_tokens: Distribution<Tokens>,
    /// Text that prompts share; none unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<SharedPrefix>,
    /// Length of an answer; also the request's own `max_tokens`.
    pub output_tokens: Distribution<Tokens>,
    /// The way of a request from its client to the router; no time unless given.
    #[serde(default)]
    pub client: Client,
    /// When clients hang up; never unless given.
    #[serde(default, skip_serializing_if = "PatienceSettings::is_default")]
    pub patience: PatienceSettings,
    /// The priority of requests, lower ones first, where workers schedule by it; 0 unless
    /// given. A whole number, or a distribution that each conversation draws from.
    #[serde(default, skip_serializing_if = "Priorities::are_zero")]
    pub priority: Priorities,
}

fn are_at_once(spread: &SimDuration) -> bool {
    spread.is_zero()
}

/// Texts that prompts begin with, one for each group of requests.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SharedPrefix {
    /// Groups; a request belongs to one of them.
    #[serde(deserialize_with = "settings::count")]
    #[schemars(with = "Count")]
    pub groups: u32,
    /// Length of each text. 0 shares nothing.
    pub tokens: Tokens,
    /// Makes the first groups more popular: the `k`-th is drawn in proportion to
    /// `k ^ -exponent` (Zipf). 0, all equally likely, unless given.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub exponent: f64,
}

impl RequestSettings {
    /// Refuses settings that no client can follow.
    ///
    /// # Errors
    /// The first unusable key.
    pub fn validate(&self) -> Result<(), Invalid> {
        self.validate_load()?;
        if let Some(count) = self.count {
            Invalid::unless(count > 0, "count", count, "at least 1; leave it out for no end")?;
        }
        for (key, tokens) in
            [("prompt_tokens", &self.prompt_tokens), ("output_tokens", &self.output_tokens)]
        {
            tokens.validate_length(key, Tokens(1))?;
        }
        if let Some(SharedPrefix { groups, tokens, exponent }) = self.prefix {
            validate_exponent("prefix.exponent", exponent)?;
            let allowed = format!("from 1 to {MAX_GROUPS}");
            let some = (1..=MAX_GROUPS).contains(&groups);
            Invalid::unless(some, "prefix.groups", groups, &allowed)?;
            let most = MAX_TOKENS - self.prompt_tokens.bounds().1.0;
            let allowed = format!("at most {most}, the longest prompt less prompt_tokens");
            Invalid::unless(tokens.0 <= most, "prefix.tokens", tokens, &allowed)?;
        }
        self.patience.validate().map_err(|invalid| invalid.within("patience"))?;
        self.priority.validate()?;
        self.client.validate().map_err(|invalid| invalid.within("client"))
    }

    /// One of the two loops must be meant.
    fn validate_load(&self) -> Result<(), Invalid> {
        let spread = self.start_spread;
        let allowed = "absent beside arrivals";
        let fits = self.arrivals.is_none() || spread.is_zero();
        Invalid::unless(fits, "start_spread", spread.shown(), allowed)?;
        let arrivals = match (self.concurrency, &self.arrivals) {
            (Some(concurrency), None) => return validate_concurrency(concurrency),
            (None, Some(arrivals)) => arrivals,
            (None, None) => {
                let allowed = "given (a closed loop), or give arrivals (an open loop)";
                return Err(Invalid::new("concurrency", "nothing", allowed));
            }
            (Some(seen), Some(_)) => {
                return Err(Invalid::new("concurrency", seen, "absent beside arrivals"));
            }
        };
        let within = |invalid: Invalid| invalid.within("arrivals");
        arrivals.validate().map_err(within)?;
        if let Some(count) = self.count {
            arrivals.validate_count(count).map_err(within)?;
        }
        self.client.validate_open_loop()
    }
}

/// The loop of [`RequestSettings`]. Taking a request and hearing of its end cost
/// O(log n) in the number of requests on their way.
#[derive(Debug)]
pub struct Requests {
    settings: RequestSettings,
    block_size: u32,
    seed: u64,
    /// Clients that go on; none in an open loop.
    concurrency: u32,
    /// Of an open loop: all times from the next one on, and the next one.
    arrivals: Option<(Arrivals, SimTime)>,
    /// Requests sent and not yet answered, on their way ones included.
    open: u32,
    /// Requests begun.
    begun: u32,
    /// On their way: when they reach the router, number, when they were sent.
    sends: BinaryHeap<Reverse<(SimTime, u32, SimTime)>>,
    /// Requests taken.
    taken: u32,
}

impl Requests {
    /// The loop with its first requests about to be sent at time zero, for
    /// engines with blocks of `block_size` tokens.
    ///
    /// # Panics
    /// If `settings` do not [`validate`](RequestSettings::validate).
    pub fn new(settings: RequestSettings, block_size: u32, seed: u64) -> Self {
        settings.validate().expect("validated settings");
        let concurrency = settings.concurrency.unwrap_or(0);
        let arrivals = settings.arrivals.clone().map(|settings| {
            let mut arrivals = Arrivals::new(settings, seed);
            let first = arrivals.next_time();
            (arrivals, first)
        });
        let mut requests = Self {
            settings,
            block_size,
            seed,
            concurrency,
            arrivals,
            open: 0,
            begun: 0,
            sends: BinaryHeap::new(),
            taken: 0,
        };
        requests.start(SimTime::ZERO);
        requests.send_due();
        requests
    }

    /// The blocks of request `number`, the first of them its group's.
    fn shared(&self, prefix: SharedPrefix, number: u32) -> Content {
        let mut draws = stream(self.seed, Use::Conversation, u64::from(number), 0);
        let group = popular(prefix.groups, prefix.exponent, &mut draws);
        let len = prefix.tokens.0 / self.block_size;
        let first = BlockId(u64::from(group) * u64::from(len));
        let content = Content::new([BlockRun { first, len }], private_run(number));
        // Without a shared block nothing tells the groups apart.
        let rest = prefix.tokens.0 % self.block_size;
        content.with_fork_tokens(if len > 0 { rest } else { 0 })
    }

    /// Every free client sends its first request, at even distances.
    fn start(&mut self, now: SimTime) {
        let free = self.concurrency.saturating_sub(self.open).max(1);
        let apart = self.settings.start_spread / u64::from(free);
        let mut at = now;
        while self.open < self.concurrency && self.is_left() {
            self.begin(at);
            at += apart;
        }
    }

    /// Every free client sends, as long as requests are left.
    fn send(&mut self, now: SimTime) {
        while self.open < self.concurrency && self.is_left() {
            self.begin(now);
        }
    }

    /// An open loop sends whatever could arrive before all that is on its way.
    fn send_due(&mut self) {
        while self.is_left()
            && let Some((arrivals, next)) = &mut self.arrivals
            // Beyond the end of time nothing is sent.
            && *next < SimTime::MAX
            && self.sends.peek().is_none_or(|Reverse((at, ..))| *next <= *at)
        {
            let sent = std::mem::replace(next, arrivals.next_time());
            self.begin(sent);
        }
    }

    /// True while requests are left to be sent.
    fn is_left(&self) -> bool {
        self.begun < self.settings.count.unwrap_or(u32::MAX)
    }

    /// Puts the next request on its way.
    fn begin(&mut self, now: SimTime) {
        let number = self.begun;
        let mut draws = stream(self.seed, Use::ClientOverhead, u64::from(number), 0);
        let way = self.settings.client.way(self.concurrency, &mut draws);
        self.sends.push(Reverse((now + way, number, now)));
        self.begun += 1;
        self.open += 1;
    }
}

impl Workload for Requests {
    fn next_arrival(&self) -> Option<SimTime> {
        self.sends.peek().map(|Reverse((at, ..))| *at)
    }

    fn take(&mut self) -> Arrival {
        let Reverse((at, number, sent)) = self.sends.pop().expect("a request is due");
        let mut lengths = stream(self.seed, Use::Turn, u64::from(number), 0);
        let prompt_tokens = self.settings.prompt_tokens.sample(&mut lengths).0;
        let output_tokens = self.settings.output_tokens.sample(&mut lengths).0;
        let prefix = self.settings.prefix.filter(|prefix| prefix.tokens.0 > 0);
        let own = Content::new([], private_run(number));
        let id = RequestId(self.taken);
        self.taken += 1;
        self.send_due();
        let request = Request {
            id,
            conversation: ConversationId(number),
            turn: 0,
            prompt_tokens: prefix.map_or(0, |prefix| prefix.tokens.0) + prompt_tokens,
            output_tokens,
            max_tokens: output_tokens,
            priority: 0,
            content: prefix.map_or(own, |prefix| self.shared(prefix, number)),
        };
        Arrival { at, sent, request, patience: Patience::default() }
    }

    fn observe_end(&mut self, now: SimTime, _request: RequestId, served: bool) {
        self.open -= 1;
        self.send(if served { now } else { now + PAUSE_AFTER_REJECTION });
    }

    fn set_concurrency(&mut self, now: SimTime, clients: u32, _cut: bool) -> bool {
        let is_closed = self.arrivals.is_none() && clients <= MAX_CONCURRENCY;
        if is_closed {
            self.concurrency = clients;
            self.start(now);
        }
        is_closed
    }

    fn set_rate(&mut self, now: SimTime, per_s: f64) -> bool {
        let Some((arrivals, next)) = &mut self.arrivals else { return false };
        let Some(change) = arrivals.set_rate(now, per_s) else { return false };
        *next = change.moved(*next);
        // What is on its way stays so; what was about to be sent is sent at another time.
        let sends = std::mem::take(&mut self.sends).into_iter();
        self.sends = sends
            .map(|Reverse((at, number, sent))| {
                let moved = change.moved(sent);
                Reverse((moved + (at - sent), number, moved))
            })
            .collect();
        self.send_due();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn settings(toml: &str) -> RequestSettings {
        toml::from_str(toml).unwrap()
    }

    const JITTERED: &str = "concurrency = 4
        prompt_tokens = { kind = 'uniform', min = 80, max = 100 }
        output_tokens = { kind = 'uniform', min = 8, max = 10 }
        client.overhead_jitter = { kind = 'uniform', min = '0ms', max = '3ms' }";

    proptest! {
        /// Against a naive model: no more than `concurrency` at once, all of
        /// them at once while requests are left, and `count` in all.
        #[test]
        fn clients_stay_busy_until_the_last_request(
            count in 1..60_u32,
            concurrency in 1..12_u32,
            ends in prop::collection::vec(any::<prop::sample::Index>(), 60),
        ) {
            let mut loop_ = Requests::new(
                RequestSettings { count: Some(count), concurrency: Some(concurrency), ..settings(JITTERED) },
                16,
                3,
            );
            let (mut open, mut seen, mut now) = (Vec::new(), 0, SimTime::ZERO);
            for end in ends {
                while let Some(at) = loop_.next_arrival() {
                    let arrival = loop_.take();
                    prop_assert_eq!(arrival.at, at);
                    prop_assert_eq!(arrival.request.id, RequestId(seen));
                    prop_assert!(arrival.sent <= at && at >= now);
                    prop_assert!((80..=100).contains(&arrival.request.prompt_tokens));
                    prop_assert_eq!(arrival.request.max_tokens, arrival.request.output_tokens);
                    now = at;
                    seen += 1;
                    open.push(arrival.request.id);
                }
                let left = (count - seen) as usize;
                prop_assert!(left == 0 || open.len() == concurrency as usize);
                if open.is_empty() {
                    break;
                }
                now += SimDuration::from_millis(1);
                loop_.observe_end(now, open.swap_remove(end.index(open.len())), true);
            }
            prop_assert!(seen <= count);
        }
    }

    /// An open loop against its process: nothing waits for an answer, and what is
    /// jittered arrives in the order of its arrival.
    #[test]
    fn an_open_loop_sends_by_its_process() {
        let open = "count = 500\narrivals = { kind = 'poisson', rate = 1_000 }";
        let settings = settings(&JITTERED.replace("concurrency = 4", open));
        settings.validate().unwrap();
        let mut process = Arrivals::new(settings.arrivals.clone().unwrap(), 3);
        let times: Vec<SimTime> = (0..500).map(|_| process.next_time()).collect();
        let mut loop_ = Requests::new(settings, 16, 3);
        let (mut seen, mut before) = (vec![false; 500], SimTime::ZERO);
        let mut overtaken = 0;
        while loop_.next_arrival().is_some() {
            let arrival = loop_.take();
            let number = arrival.request.conversation.index();
            assert!(!std::mem::replace(&mut seen[number], true));
            overtaken += u32::from(seen[number + 1..].iter().any(|seen| *seen));
            assert_eq!(arrival.sent, times[number]);
            assert!(arrival.at >= before.max(arrival.sent));
            before = arrival.at;
        }
        assert!(seen.into_iter().all(|seen| seen));
        assert!(overtaken > 50, "{overtaken} requests were overtaken on the way");
    }

    /// Clients begin at even distances, and from then on send when they are answered.
    #[test]
    fn clients_begin_one_after_another() {
        let spread = "concurrency = 4\nstart_spread = '4s'\nprompt_tokens = 9\noutput_tokens = 9";
        let spread = spread.replace("= 9", "= { kind = 'constant', value = 9 }");
        let mut loop_ = Requests::new(settings(&spread), 16, 3);
        let at = |seconds: u64| SimTime::ZERO + SimDuration::from_secs(seconds);
        assert_eq!((loop_.take().at, loop_.take().at), (at(0), at(1)));
        loop_.observe_end(at(1), RequestId(0), true);
        let next: Vec<SimTime> = (0..3).map(|_| loop_.take().at).collect();
        assert_eq!(next, [at(1), at(2), at(3)]);
        let open = spread.replace("concurrency = 4", "arrivals = { kind = 'poisson', rate = 1 }");
        let error = settings(&open).validate().unwrap_err().to_string();
        assert!(error.contains("start_spread = \"4s\": must be absent beside arrivals"), "{error}");
    }

    #[test]
    fn lengths_belong_to_the_request_whatever_ends_first() {
        let prompts = |first_to_end: u32| -> Vec<u32> {
            let mut loop_ = Requests::new(settings(JITTERED), 16, 7);
            let mut taken: Vec<(u32, u32)> = Vec::new();
            let mut take = |loop_: &mut Requests| {
                let arrival = loop_.take();
                taken.push((arrival.request.conversation.0, arrival.request.prompt_tokens));
            };
            (0..4).for_each(|_| take(&mut loop_));
            loop_.observe_end(SimTime::from_ps(1), RequestId(first_to_end), true);
            take(&mut loop_);
            taken.sort_unstable();
            taken.into_iter().map(|(_, tokens)| tokens).collect()
        };
        assert_eq!(prompts(0), prompts(3));
    }

    #[test]
    fn groups_share_their_text_and_nothing_else() {
        let prefix = SharedPrefix { groups: 3, tokens: Tokens(40), exponent: 0.0 };
        let grouped = RequestSettings { prefix: Some(prefix), ..settings(JITTERED) };
        let mut loop_ = Requests::new(grouped, 16, 1);
        let mut firsts = Vec::new();
        for i in 0..200 {
            let Request { content, prompt_tokens, conversation, .. } = loop_.take().request;
            assert!((120..=140).contains(&prompt_tokens));
            assert_eq!((content.shared_blocks(), content.fork_tokens()), (2, 8));
            assert_eq!(content.block(1), BlockId(content.block(0).0 + 1));
            assert_eq!(content.block(2), private_run(conversation.0));
            firsts.push(content.block(0));
            loop_.observe_end(SimTime::from_ps(u64::from(i)), RequestId(i), true);
        }
        firsts.sort_unstable();
        firsts.dedup();
        assert_eq!(firsts, [BlockId(0), BlockId(2), BlockId(4)]);
    }

    #[test]
    fn unusable_settings_are_named() {
        for (change, key) in [
            (("concurrency = 4", "concurrency = 0"), "concurrency"),
            (("min = 80", "min = 0"), "prompt_tokens.min"),
            (("concurrency = 4", ""), "concurrency"),
            (
                ("concurrency = 4", "concurrency = 4\narrivals = { kind = 'poisson', rate = 1 }"),
                "concurrency",
            ),
            (("concurrency = 4", "arrivals = { kind = 'poisson', rate = 0 }"), "arrivals.rate"),
            (("max = 10 ", "max = 1_000_000_001 "), "output_tokens"),
        ] {
            let invalid = settings(&JITTERED.replace(change.0, change.1)).validate().unwrap_err();
            assert_eq!(invalid.key, key);
        }
        let none = RequestSettings { count: Some(0), ..settings(JITTERED) };
        assert_eq!(none.validate().unwrap_err().key, "count");
        for (groups, tokens, key) in [(0, 1, "prefix.groups"), (1, MAX_TOKENS, "prefix.tokens")] {
            let prefix = Some(SharedPrefix { groups, tokens: Tokens(tokens), exponent: 0.0 });
            let shared = RequestSettings { prefix, ..settings(JITTERED) };
            assert_eq!(shared.validate().unwrap_err().key, key);
        }
    }
}
