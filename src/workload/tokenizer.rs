//! Processes between clients and router that take prompts apart into tokens and put
//! answers together: what is shared gets slower with load, and waits.
//!
//! Requests are taken in the order in which they come; one process works on one request
//! at a time. The tokens of answers are work for the same processes, token by token. That
//! is not followed one by one: it takes a share of their time, as large as the tokens of
//! the last while say.

use super::distribution::{Distribution, Quantity};
use super::passing::{Passing, Station};
use super::{Arrival, Workload};
use crate::rng::{Use, stream};
use crate::settings::{self, Count, Invalid};
use crate::time::{SimDuration, SimTime};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

/// Most processes (assumed: far above any deployment).
const MAX_PROCESSES: u32 = 1_000;

/// Output tokens are counted over this time (assumed: long beside the life of a token,
/// short beside that of a load).
const OVER: SimDuration = SimDuration::from_secs(10);

/// What answers leave of the time of the processes at least (assumed).
const LEAST_SHARE: f64 = 0.05;

/// What an experiment says of them.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenizerSettings {
    /// Processes. 1 unless given.
    #[serde(default = "one", deserialize_with = "settings::count")]
    #[schemars(with = "Count")]
    pub processes: u32,
    /// Time that a request takes whatever its length: parsing, template, handing over.
    #[serde(default)]
    pub per_request: Distribution<SimDuration>,
    /// Time for each token of its prompt.
    #[serde(default)]
    pub per_prompt_token: SimDuration,
    /// Time for each token of its answer.
    #[serde(default)]
    pub per_output_token: SimDuration,
}

fn one() -> u32 {
    1
}

impl TokenizerSettings {
    /// Refuses times that cannot be drawn, and numbers of processes that none has.
    ///
    /// # Errors
    /// The first unusable key.
    pub fn validate(&self) -> Result<(), Invalid> {
        self.per_request.validate().map_err(|e| e.within("per_request"))?;
        let allowed = format!("from 1 to {MAX_PROCESSES}");
        let some = (1..=MAX_PROCESSES).contains(&self.processes);
        Invalid::unless(some, "processes", self.processes, &allowed)?;
        // A second a token: nothing that tokenises is as slow.
        let most = SimDuration::from_secs(1);
        for (key, time) in [
            ("per_prompt_token", self.per_prompt_token),
            ("per_output_token", self.per_output_token),
        ] {
            Invalid::unless(time <= most, key, time.shown(), "at most \"1s\"")?;
        }
        Ok(())
    }
}

/// A workload whose requests pass such processes on their way to the router.
pub type Tokenized<'a> = Passing<'a, Tokenizer>;

/// The processes. What enters or leaves costs O(p log p + log n) with p processes and n
/// requests that wait.
pub struct Tokenizer {
    settings: TokenizerSettings,
    seed: u64,
    /// Not begun, in order of arrival, each with its time in a process.
    waiting: BTreeMap<(SimTime, u32), (Arrival, SimDuration)>,
    /// Begun: when they are through, and which they are.
    passing: BTreeMap<(SimTime, u32), Arrival>,
    /// When each process is free.
    free: BinaryHeap<Reverse<SimTime>>,
    /// Ends of answers, and their tokens, of the last while; and the sum of these.
    ended: VecDeque<(SimTime, u32)>,
    ended_tokens: u64,
}

impl<'a> Tokenized<'a> {
    /// `inner` behind such processes.
    pub fn new(inner: Box<dyn Workload + 'a>, settings: TokenizerSettings, seed: u64) -> Self {
        let free = (0..settings.processes).map(|_| Reverse(SimTime::ZERO)).collect();
        let processes = Tokenizer {
            settings,
            seed,
            waiting: BTreeMap::new(),
            passing: BTreeMap::new(),
            free,
            ended: VecDeque::new(),
            ended_tokens: 0,
        };
        Self::through(inner, processes)
    }
}

impl Tokenizer {
    /// Begins what a process could begin up to `now`: nothing that comes later can be
    /// before it.
    fn begin_due(&mut self, now: SimTime) {
        while let Some((&(at, _), _)) = self.waiting.first_key_value()
            && let Some(&Reverse(free)) = self.free.peek()
            && at.max(free) <= now
        {
            let ((at, number), (arrival, work)) = self.waiting.pop_first().expect("one waits");
            self.free.pop();
            let through = at.max(free) + work;
            self.free.push(Reverse(through));
            self.passing.insert((through, number), arrival);
        }
    }

    /// What answers leave of the time of the processes.
    fn share(&self) -> f64 {
        let per_s = self.ended_tokens as f64 / OVER.as_secs();
        let busy = self.settings.per_output_token.as_secs() * per_s;
        (1.0 - busy / f64::from(self.settings.processes)).max(LEAST_SHARE)
    }
}

impl Station for Tokenizer {
    fn has_room(&self) -> bool {
        true
    }

    fn enter(&mut self, number: u32, arrival: Arrival) {
        let request = &arrival.request;
        let key = (u64::from(request.conversation.0), u64::from(request.turn));
        let mut draws = stream(self.seed, Use::Tokenizer, key.0, key.1);
        let work = self.settings.per_request.sample(&mut draws)
            + self.settings.per_prompt_token * u64::from(request.prompt_tokens);
        let work = SimDuration::from_secs_f64(work.as_secs() / self.share());
        self.waiting.insert((arrival.at, number), (arrival, work));
    }

    fn next_through(&self) -> Option<SimTime> {
        let mut next = self.passing.first_key_value().map(|(&(through, _), _)| through);
        let mut free = self.free.clone();
        for (&(at, _), (_, work)) in &self.waiting {
            let begin = at.max(free.pop().map_or(at, |Reverse(free)| free));
            if next.is_some_and(|next| begin >= next) {
                break;
            }
            let through = begin + *work;
            free.push(Reverse(through));
            next = next.into_iter().chain([through]).min();
        }
        next
    }

    fn leave(&mut self, at: SimTime) -> Arrival {
        self.begin_due(at);
        self.passing.pop_first().expect("one is through").1
    }

    fn end(&mut self, now: SimTime, output_tokens: Option<u32>) {
        if let Some(tokens) = output_tokens {
            self.ended.push_back((now, tokens));
            self.ended_tokens += u64::from(tokens);
        }
        while let Some(&(at, tokens)) = self.ended.front()
            && at + OVER < now
        {
            self.ended.pop_front();
            self.ended_tokens -= u64::from(tokens);
        }
        self.begin_due(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::RequestId;
    use crate::request::{Content, Request};
    use crate::stats;
    use crate::workload::Listed;
    use crate::workload::private_run;
    use crate::workload::requests::{RequestSettings, Requests};
    use proptest::prelude::*;

    fn settings(toml: &str) -> TokenizerSettings {
        let settings: TokenizerSettings = toml::from_str(toml).unwrap();
        settings.validate().unwrap();
        settings
    }

    fn us(us: u64) -> SimDuration {
        SimDuration::from_micros(us)
    }

    /// Requests at these times in microseconds, with prompts of these lengths.
    fn listed(requests: &[(u64, u32)]) -> Box<dyn Workload> {
        let arrival = |(number, &(at, tokens)): (u32, &(u64, u32))| {
            let content = Content::new([], private_run(number));
            let request = Request::new(RequestId(number), tokens, 1, content);
            Arrival::new(SimTime::ZERO + us(at), request)
        };
        Box::new((0..).zip(requests).map(arrival).collect::<Listed>())
    }

    proptest! {
        /// Against a queue that is followed request by request.
        #[test]
        fn a_queue_of_processes(
            processes in 1..5_u32,
            mut requests in prop::collection::vec((0..5_000_u64, 1..400_u32), 0..60),
        ) {
            requests.sort_by_key(|(at, _)| *at);
            let settings = settings(&format!(
                "processes = {processes}\nper_prompt_token = '1us'\n\
                 per_request = {{ kind = 'constant', value = '50us' }}"
            ));
            let mut free = vec![0; processes as usize];
            let mut expected: Vec<(u64, u64)> = Vec::new();
            for &(at, tokens) in &requests {
                let process = free.iter_mut().min().unwrap();
                *process = at.max(*process) + 50 + u64::from(tokens);
                expected.push((*process, at));
            }
            expected.sort_unstable();
            let mut tokenized = Tokenized::new(listed(&requests), settings, 1);
            let mut seen = Vec::new();
            while let Some(at) = tokenized.next_arrival() {
                let arrival = tokenized.take();
                prop_assert_eq!(arrival.at, at);
                prop_assert_eq!(arrival.request.id.index(), seen.len());
                let micros = |time: SimTime| (time - SimTime::ZERO).as_ps() / 1_000_000;
                seen.push((micros(at), micros(arrival.sent)));
                // Nothing else comes of it.
                tokenized.observe_end(at, arrival.request.id, false);
            }
            seen.sort_unstable();
            prop_assert_eq!(seen, expected);
        }

        /// A closed loop: an answer may bring a request that goes before one that was
        /// looked at already.
        #[test]
        fn in_order_of_arrival_whatever_was_looked_at(seed in any::<u64>()) {
            let settings_of_loop: RequestSettings = toml::from_str(
                "concurrency = 3\ncount = 40\n\
                 prompt_tokens = { kind = 'uniform', min = 1, max = 300 }\n\
                 output_tokens = { kind = 'constant', value = 5 }\n\
                 client.overhead_jitter = { kind = 'uniform', min = '0ms', max = '2ms' }",
            ).unwrap();
            let inner = Box::new(Requests::new(settings_of_loop, 16, seed));
            let slow = settings("per_request = { kind = 'constant', value = '1ms' }");
            let mut tokenized = Tokenized::new(inner, slow, seed);
            let mut open: Vec<(SimTime, RequestId)> = Vec::new();
            let mut through = SimTime::ZERO;
            let mut count = 0;
            loop {
                open.sort_unstable();
                let end = open.first().copied();
                match (tokenized.next_arrival(), end) {
                    (Some(at), end) if end.is_none_or(|(ends, _)| at <= ends) => {
                        let arrival = tokenized.take();
                        prop_assert!(arrival.sent + us(1_000) <= at);
                        // One process: a millisecond after the one before at least.
                        prop_assert!(count == 0 || at >= through + us(1_000));
                        through = at;
                        count += 1;
                        open.push((at + us(u64::from(arrival.request.prompt_tokens) * 10), arrival.request.id));
                    }
                    (_, Some((at, id))) => {
                        open.remove(0);
                        tokenized.observe_end(at, id, true);
                    }
                    (_, None) => break,
                }
            }
            prop_assert_eq!(count, 40);
        }
    }

    /// Poisson arrivals at one process with exponential times: M/M/1, whose mean time in
    /// the system is 1 / (service rate - arrival rate); answers that take a third of the
    /// process make it that of a slower one.
    #[test]
    fn waits_follow_theory() {
        let mean = |per_output_token: &str| {
            let load: RequestSettings = toml::from_str(
                "arrivals = { kind = 'poisson', rate = 200 }\ncount = 60_000\n\
                 prompt_tokens = { kind = 'constant', value = 10 }\n\
                 output_tokens = { kind = 'constant', value = 10 }",
            )
            .unwrap();
            let settings = settings(&format!(
                "per_request = {{ kind = 'exponential', mean = '2ms', min = '0ms', max = '1s' }}\n\
                 per_output_token = '{per_output_token}'"
            ));
            let inner = Box::new(Requests::new(load, 16, 3));
            let mut tokenized = Tokenized::new(inner, settings, 3);
            let mut times = Vec::new();
            while tokenized.next_arrival().is_some() {
                let arrival = tokenized.take();
                times.push((arrival.at - arrival.sent).as_millis());
                tokenized.observe_end(arrival.at, arrival.request.id, true);
            }
            stats::mean(&times[4_000..]).unwrap()
        };
        // Rates of 500 and 200, and of 333 (2,000 tokens/s at 1/6 ms take a third) and 200.
        let (alone, shared) = (mean("0us"), mean("166.667us"));
        assert!((alone / 3.333 - 1.0).abs() < 0.06, "{alone}");
        assert!((shared / 7.5 - 1.0).abs() < 0.12, "{shared}");
    }

    #[test]
    fn unusable_settings_are_named() {
        for (toml, key) in [
            ("processes = 0", "processes"),
            ("per_prompt_token = '2s'", "per_prompt_token"),
            ("per_request = { kind = 'uniform', min = '2s', max = '1s' }", "per_request.min"),
        ] {
            let settings: TokenizerSettings = toml::from_str(toml).unwrap();
            assert_eq!(settings.validate().unwrap_err().key, key);
        }
    }
}
