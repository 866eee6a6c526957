//! A closed loop of single requests: a fixed number of clients, each sending its
//! next request when the one before has been answered. This is what serving
//! benchmarks send at a fixed concurrency.
//!
//! No two requests share a token, unless prompts begin with one of a few shared
//! texts. Lengths are keyed by the request's number, so
//! they are the same whatever serves them.

use super::conversations::Client;
use super::distribution::{Distribution, Tokens};
use super::{
    Arrival, MAX_TOKENS, PAUSE_AFTER_REJECTION, Workload, private_run, validate_concurrency,
};
use crate::id::{BlockId, ConversationId, RequestId};
use crate::request::{BlockRun, Content, Request};
use crate::rng::{Use, stream};
use crate::settings::{self, Count, Invalid};
use crate::time::SimTime;
use rand::RngExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Groups, each of which takes as many block ids as its text has blocks.
const MAX_GROUPS: u32 = 1_000_000;

/// A closed loop of single requests.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RequestSettings {
    /// Clients, at first; all of them send at the start.
    #[serde(deserialize_with = "settings::count")]
    #[schemars(with = "Count")]
    pub concurrency: u32,
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
}

/// Texts that prompts begin with, one for each group of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SharedPrefix {
    /// Groups; a request belongs to each with the same chance.
    #[serde(deserialize_with = "settings::count")]
    #[schemars(with = "Count")]
    pub groups: u32,
    /// Length of each text. 0 shares nothing.
    pub tokens: Tokens,
}

impl RequestSettings {
    /// Refuses settings that no client can follow.
    ///
    /// # Errors
    /// The first unusable key.
    pub fn validate(&self) -> Result<(), Invalid> {
        validate_concurrency(self.concurrency)?;
        if let Some(count) = self.count {
            Invalid::unless(count > 0, "count", count, "at least 1; leave it out for no end")?;
        }
        for (key, tokens) in
            [("prompt_tokens", &self.prompt_tokens), ("output_tokens", &self.output_tokens)]
        {
            tokens.validate_at_least(Tokens(1)).map_err(|invalid| invalid.within(key))?;
            let longest = tokens.bounds().1.0;
            let allowed = format!("tokens up to {MAX_TOKENS}");
            Invalid::unless(longest <= MAX_TOKENS, key, longest, &allowed)?;
        }
        if let Some(SharedPrefix { groups, tokens }) = self.prefix {
            let allowed = format!("from 1 to {MAX_GROUPS}");
            let some = (1..=MAX_GROUPS).contains(&groups);
            Invalid::unless(some, "prefix.groups", groups, &allowed)?;
            let most = MAX_TOKENS - self.prompt_tokens.bounds().1.0;
            let allowed = format!("at most {most}, the longest prompt less prompt_tokens");
            Invalid::unless(tokens.0 <= most, "prefix.tokens", tokens, &allowed)?;
        }
        self.client.validate().map_err(|invalid| invalid.within("client"))
    }
}

/// The closed loop of [`RequestSettings`]. Taking a request and hearing of its
/// end cost O(log concurrency).
#[derive(Debug)]
pub struct Requests {
    settings: RequestSettings,
    block_size: u32,
    seed: u64,
    /// Clients that go on.
    concurrency: u32,
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
        let concurrency = settings.concurrency;
        let sends = BinaryHeap::new();
        let mut requests =
            Self { settings, block_size, seed, concurrency: 0, open: 0, begun: 0, sends, taken: 0 };
        requests.set_concurrency(SimTime::ZERO, concurrency);
        requests
    }

    /// The blocks of request `number`, the first of them its group's.
    fn shared(&self, prefix: SharedPrefix, number: u32) -> Content {
        let mut draws = stream(self.seed, Use::Conversation, u64::from(number), 0);
        let group = draws.random_range(0..prefix.groups);
        let len = prefix.tokens.0 / self.block_size;
        let first = BlockId(u64::from(group) * u64::from(len));
        let content = Content::new([BlockRun { first, len }], private_run(number));
        // Without a shared block nothing tells the groups apart.
        let rest = prefix.tokens.0 % self.block_size;
        content.with_fork_tokens(if len > 0 { rest } else { 0 })
    }

    /// Every free client sends, as long as requests are left.
    fn send(&mut self, now: SimTime) {
        let count = self.settings.count.unwrap_or(u32::MAX);
        while self.open < self.concurrency && self.begun < count {
            let number = self.begun;
            let mut draws = stream(self.seed, Use::ClientOverhead, u64::from(number), 0);
            let way = self.settings.client.way(self.concurrency, &mut draws);
            self.sends.push(Reverse((now + way, number, now)));
            self.begun += 1;
            self.open += 1;
        }
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
        let request = Request {
            id,
            conversation: ConversationId(number),
            turn: 0,
            prompt_tokens: prefix.map_or(0, |prefix| prefix.tokens.0) + prompt_tokens,
            output_tokens,
            max_tokens: output_tokens,
            content: prefix.map_or(own, |prefix| self.shared(prefix, number)),
        };
        Arrival { at, sent, request }
    }

    fn observe_end(&mut self, now: SimTime, _request: RequestId, served: bool) {
        self.open -= 1;
        self.send(if served { now } else { now + PAUSE_AFTER_REJECTION });
    }

    fn set_concurrency(&mut self, now: SimTime, clients: u32) {
        self.concurrency = clients;
        self.send(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::SimDuration;
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
                RequestSettings { count: Some(count), concurrency, ..settings(JITTERED) },
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
        let prefix = SharedPrefix { groups: 3, tokens: Tokens(40) };
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
            (("max = 10 ", "max = 1_000_000_001 "), "output_tokens"),
        ] {
            let invalid = settings(&JITTERED.replace(change.0, change.1)).validate().unwrap_err();
            assert_eq!(invalid.key, key);
        }
        let none = RequestSettings { count: Some(0), ..settings(JITTERED) };
        assert_eq!(none.validate().unwrap_err().key, "count");
        for (groups, tokens, key) in [(0, 1, "prefix.groups"), (1, MAX_TOKENS, "prefix.tokens")] {
            let prefix = Some(SharedPrefix { groups, tokens: Tokens(tokens) });
            let shared = RequestSettings { prefix, ..settings(JITTERED) };
            assert_eq!(shared.validate().unwrap_err().key, key);
        }
    }
}
