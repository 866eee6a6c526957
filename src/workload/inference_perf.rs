//! The load of inference-perf: stages of single requests whose prompts share texts.
//!
//! Source: kubernetes-sigs/inference-perf at v0.4.0, its `shared_prefix` prompts and its
//! `poisson` and `constant` load. Groups share a system prompt; each has a few questions.
//! The texts so made are put in random order once, and request `i` *of a stage* has text
//! `i` modulo their number: every stage sends the same texts again, from the first. A
//! stage begins when every request of the one before has been answered, and a pause after
//! that, so each is a burst into an idle fleet with warm caches.
//!
//! Texts, lengths and times of sending are keyed by text, group and stage: they are the
//! same whatever serves them.

use super::client::Client;
use super::distribution::{Distribution, Quantity, Tokens};
use super::{Arrival, MAX_TOKENS, Patience, PatienceSettings, Priorities, Workload, private_run};
use crate::id::{BlockId, ConversationId, RequestId};
use crate::request::{BlockRun, Content, Request};
use crate::rng::{Stream, Use, stream};
use crate::settings::{self, Count, Invalid};
use crate::time::{SimDuration, SimTime};
use rand::seq::SliceRandom;
use rand_distr::{Distribution as _, Exp1, Poisson};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Most texts (assumed: far above any use). Each is kept with its length.
const MAX_TEXTS: u32 = 1_000_000;

/// Most requests of a stage (assumed: far above any use).
const MAX_REQUESTS: f64 = 1e7;

/// Most stages (assumed: far above any use).
const MAX_STAGES: usize = 1_000;

/// Stages of single requests, as inference-perf sends them.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InferencePerfSettings {
    /// Groups of texts; those of a group begin with one system prompt.
    #[serde(deserialize_with = "settings::count")]
    #[schemars(with = "Count")]
    pub groups: u32,
    /// Texts of a group, each with a question of its own.
    #[serde(deserialize_with = "settings::count")]
    #[schemars(with = "Count")]
    pub prompts_per_group: u32,
    /// Length of a system prompt, drawn once per group. 0: nothing is shared.
    pub system_prompt_tokens: Distribution<Tokens>,
    /// Length of a question, drawn once per text.
    pub question_tokens: Distribution<Tokens>,
    /// Length of an answer, drawn for every request; also its `max_tokens`.
    pub output_tokens: Distribution<Tokens>,
    /// How the requests of a stage follow each other.
    #[serde(default)]
    pub arrivals: StageArrivals,
    /// The stages, in order. Points of an experiment differ in their rates, as
    /// `workload.rate`.
    pub stages: Vec<Stage>,
    /// From the last answer of a stage to the first request of the next one. 2 s unless
    /// given: the interval of 1 s that is inference-perf's default, and 1 s in which it
    /// prepares.
    #[serde(default = "two_seconds")]
    pub pause: SimDuration,
    /// Every stage has texts of its own, as if it were a run of its own, whose texts the client
    /// draws again: caches are cold for it. False unless given: stages repeat the same texts.
    #[serde(default, skip_serializing_if = "is_no")]
    pub new_texts: bool,
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

/// Requests at one rate.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// Requests a second.
    pub rate: f64,
    /// The stage has `rate` times this many requests, rounded down.
    pub duration: SimDuration,
    /// False for a stage that only warms caches: it is no point of the experiment.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub measured: bool,
}

/// How the requests of a stage follow each other: inference-perf's two kinds of load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StageArrivals {
    /// Second by second: a number is drawn from Poisson(rate), and as many exponential
    /// gaps are scaled to fill the second. A stage ends with its last request, so its
    /// length varies.
    #[default]
    Poisson,
    /// As many exponential gaps as the stage has requests, scaled to fill its duration.
    Constant,
}

fn two_seconds() -> SimDuration {
    SimDuration::from_secs(2)
}

fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_yes(measured: &bool) -> bool {
    *measured
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_no(value: &bool) -> bool {
    !*value
}

impl Stage {
    /// Its requests.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "validated")]
    fn requests(&self) -> u32 {
        (self.rate * self.duration.as_secs()).floor() as u32
    }

    fn validate(&self) -> Result<(), Invalid> {
        let rates = super::arrivals::RATES;
        let allowed = format!("requests per second from {} to {}", rates.0, rates.1);
        Invalid::unless((rates.0..=rates.1).contains(&self.rate), "rate", self.rate, &allowed)?;
        let requests = self.rate * self.duration.as_secs();
        let allowed =
            format!("so long that the stage has 1 to {MAX_REQUESTS} requests at {}/s", self.rate);
        let some = (1.0..=MAX_REQUESTS).contains(&requests);
        Invalid::unless(some, "duration", self.duration.shown(), &allowed)
    }
}

impl InferencePerfSettings {
    /// Refuses settings that no client can follow.
    ///
    /// # Errors
    /// The first unusable key.
    pub fn validate(&self) -> Result<(), Invalid> {
        let texts = self.groups.saturating_mul(self.prompts_per_group);
        for (key, count) in [("groups", self.groups), ("prompts_per_group", self.prompts_per_group)]
        {
            Invalid::unless(count > 0, key, count, "at least 1")?;
        }
        let allowed = format!("so many that groups x prompts_per_group is at most {MAX_TEXTS}");
        Invalid::unless(texts <= MAX_TEXTS, "groups", self.groups, &allowed)?;
        let one = Tokens(1);
        let system = &self.system_prompt_tokens;
        system.validate().map_err(|e| e.within("system_prompt_tokens"))?;
        self.question_tokens.validate_at_least(one).map_err(|e| e.within("question_tokens"))?;
        self.output_tokens.validate_length("output_tokens", one)?;
        let longest = |tokens: &Distribution<Tokens>| u64::from(tokens.bounds().1.0);
        let prompt = longest(system) + longest(&self.question_tokens);
        let allowed = format!("with system_prompt_tokens at most {MAX_TOKENS}");
        let fits = prompt <= u64::from(MAX_TOKENS);
        Invalid::unless(fits, "question_tokens", longest(&self.question_tokens), &allowed)?;
        self.validate_stages()?;
        self.patience.validate().map_err(|e| e.within("patience"))?;
        self.priority.validate()?;
        self.client.validate().map_err(|e| e.within("client"))?;
        self.client.validate_open_loop()
    }

    fn validate_stages(&self) -> Result<(), Invalid> {
        let count = self.stages.len();
        let allowed = format!("1 to {MAX_STAGES} stages");
        let some = (1..=MAX_STAGES).contains(&count);
        Invalid::unless(some, "stages", format!("{count} stages"), &allowed)?;
        let mut measured: Vec<f64> = Vec::new();
        for (at, stage) in self.stages.iter().enumerate() {
            let within = format!("stages[{at}]");
            stage.validate().map_err(|e| e.within(&within))?;
            if stage.measured {
                let allowed = "unlike those of other measured stages: points are told apart by it";
                let key = format!("{within}.rate");
                Invalid::unless(!measured.contains(&stage.rate), &key, stage.rate, allowed)?;
                measured.push(stage.rate);
            }
        }
        let allowed = "left out in at least one stage";
        Invalid::unless(!measured.is_empty(), "stages[0].measured", false, allowed)
    }
}

/// What a text is made of.
#[derive(Clone, Copy, Debug)]
struct Text {
    prompt_tokens: u32,
    /// Full blocks of the system prompt, and those after them.
    shared: [BlockRun; 2],
}

/// The load of [`InferencePerfSettings`]. Taking a request costs O(log n) in the number of
/// requests on their way.
#[derive(Debug)]
pub struct InferencePerf {
    settings: InferencePerfSettings,
    block_size: u32,
    seed: u64,
    /// In the order in which every stage sends them.
    texts: Vec<Text>,
    times: SendTimes,
    /// When the next request of the stage is sent.
    next: Option<SimTime>,
    /// Requests of the stage that were sent.
    sent: u32,
    /// On their way: when they reach the router, their number, text, and when they were sent.
    sends: BinaryHeap<Reverse<(SimTime, u32, u32, SimTime)>>,
    /// Requests sent in all, and requests taken.
    begun: u32,
    taken: u32,
}

impl InferencePerf {
    /// The load with its first stage about to begin at time zero, for engines with blocks
    /// of `block_size` tokens.
    ///
    /// # Panics
    /// If `settings` do not [`validate`](InferencePerfSettings::validate).
    pub fn new(settings: InferencePerfSettings, block_size: u32, seed: u64) -> Self {
        settings.validate().expect("validated settings");
        let texts = texts(&settings, block_size, seed, 0);
        let mut times = SendTimes::new(&settings, 0, SimTime::ZERO, seed);
        let next = times.next();
        let mut load = Self {
            settings,
            block_size,
            seed,
            texts,
            times,
            next,
            sent: 0,
            sends: BinaryHeap::new(),
            begun: 0,
            taken: 0,
        };
        load.send_due();
        load
    }

    fn begin_stage(&mut self, begin: SimTime, stage: usize) {
        self.times = SendTimes::new(&self.settings, stage, begin, self.seed);
        if self.settings.new_texts {
            self.texts = texts(&self.settings, self.block_size, self.seed, stage as u64);
        }
        self.sent = 0;
        self.next = self.times.next();
        self.send_due();
    }

    /// Sends whatever could arrive before all that is on its way.
    fn send_due(&mut self) {
        while let Some(sent) = self.next
            && self.sends.peek().is_none_or(|Reverse((at, ..))| sent <= *at)
        {
            let number = self.begun;
            let mut draws = stream(self.seed, Use::ClientOverhead, u64::from(number), 0);
            let way = self.settings.client.way(0, &mut draws);
            let texts = u32::try_from(self.texts.len()).expect("at most a million");
            self.sends.push(Reverse((sent + way, number, self.sent % texts, sent)));
            self.begun = self.begun.checked_add(1).expect("fewer than 2^32 requests");
            self.sent += 1;
            self.next = self.times.next();
        }
    }
}

/// All texts, in the order in which stages send them; those of the set of this number.
fn texts(settings: &InferencePerfSettings, block_size: u32, seed: u64, set: u64) -> Vec<Text> {
    let InferencePerfSettings { groups, prompts_per_group, .. } = *settings;
    let (groups, prompts) = (u64::from(groups), u64::from(prompts_per_group));
    let most = |tokens: &Distribution<Tokens>| u64::from(tokens.bounds().1.0);
    let system_most = most(&settings.system_prompt_tokens);
    // One more than the longest has: runs of different texts do not continue each other.
    let stride = |tokens: u64| tokens / u64::from(block_size) + 1;
    let of_groups = stride(system_most);
    let of_texts = stride(system_most + most(&settings.question_tokens));
    let first = set * groups * (of_groups + prompts * of_texts);
    let first_of_texts = first + groups * of_groups;
    let mut texts = Vec::with_capacity((settings.groups * prompts_per_group) as usize);
    for group in 0..groups {
        let mut draws = stream(seed, Use::Starter, set * groups + group, 0);
        let system = settings.system_prompt_tokens.sample(&mut draws).0;
        let of_group =
            BlockRun { first: BlockId(first + group * of_groups), len: system / block_size };
        for prompt in 0..prompts {
            let text = group * prompts + prompt;
            let mut draws = stream(seed, Use::Turn, set * groups * prompts + text, 0);
            let prompt_tokens = system + settings.question_tokens.sample(&mut draws).0;
            let own = BlockRun {
                first: BlockId(first_of_texts + text * of_texts),
                len: prompt_tokens / block_size - of_group.len,
            };
            texts.push(Text { prompt_tokens, shared: [of_group, own] });
        }
    }
    texts.shuffle(&mut stream(seed, Use::Conversation, set, 0));
    texts
}

impl Workload for InferencePerf {
    fn next_arrival(&self) -> Option<SimTime> {
        self.sends.peek().map(|Reverse((at, ..))| *at)
    }

    fn take(&mut self) -> Arrival {
        let Reverse((at, number, text, sent)) = self.sends.pop().expect("a request is due");
        self.send_due();
        let Text { prompt_tokens, shared } = self.texts[text as usize];
        let mut draws = stream(self.seed, Use::Turn, u64::from(number), 1);
        let output_tokens = self.settings.output_tokens.sample(&mut draws).0;
        let content = Content::new(shared, private_run(number));
        // Without a shared block nothing tells the texts apart.
        let fork = if content.shared_blocks() > 0 { prompt_tokens % self.block_size } else { 0 };
        let id = RequestId(self.taken);
        self.taken += 1;
        let request = Request {
            id,
            conversation: ConversationId(number),
            turn: 0,
            prompt_tokens,
            output_tokens,
            max_tokens: output_tokens,
            priority: 0,
            content: content.with_fork_tokens(fork),
        };
        Arrival { at, sent, request, patience: Patience::default() }
    }

    fn observe_end(&mut self, _: SimTime, _: RequestId, _: bool) {}

    fn begin_level(&mut self, now: SimTime, level: u32) -> SimTime {
        let begin = now + self.settings.pause;
        self.begin_stage(begin, level as usize);
        begin
    }
}

/// When the requests of a stage are sent, one after another. The first is sent when the
/// stage begins: nothing is under way before it, so the gap before it would only add to
/// the pause, and the client's rates count from it.
#[derive(Debug)]
struct SendTimes {
    arrivals: StageArrivals,
    stage: Stage,
    /// Of the draws: seed, and number of the stage.
    key: (u64, u64),
    begin: SimTime,
    /// Requests that are still to be sent.
    left: u32,
    batch: Batch,
    batches: u32,
    first_s: Option<f64>,
}

/// So many requests, at exponential gaps that together fill a time.
#[derive(Debug)]
struct Batch {
    gaps: Stream,
    scale: f64,
    left: u32,
    /// When the last request was sent, or the batch began, in seconds.
    at_s: f64,
}

impl Batch {
    fn new(gaps: Stream, count: u32, (from_s, span_s): (f64, f64)) -> Self {
        let mut all = gaps.clone();
        let sum: f64 = (0..count).map(|_| exponential(&mut all)).sum();
        Self { gaps, scale: span_s / sum, left: count, at_s: from_s }
    }
}

fn exponential(draws: &mut Stream) -> f64 {
    Exp1.sample(draws)
}

impl SendTimes {
    fn new(settings: &InferencePerfSettings, stage: usize, begin: SimTime, seed: u64) -> Self {
        let key = (seed, stage as u64);
        let stage = settings.stages[stage];
        let left = stage.requests();
        let gaps = stream(seed, Use::Arrival, key.1, 0);
        // Of Poisson arrivals the first second is yet to begin.
        let (count, span_s) = match settings.arrivals {
            StageArrivals::Poisson => (0, 0.0),
            StageArrivals::Constant => (left, stage.duration.as_secs()),
        };
        let batch = Batch::new(gaps, count, (0.0, span_s));
        let (arrivals, batches) = (settings.arrivals, 0);
        Self { arrivals, stage, key, begin, left, batch, batches, first_s: None }
    }

    /// The next time; `None` after the last.
    fn next(&mut self) -> Option<SimTime> {
        self.left = self.left.checked_sub(1)?;
        while self.batch.left == 0 {
            self.begin_second();
        }
        let Batch { gaps, scale, left, at_s } = &mut self.batch;
        *left -= 1;
        *at_s += exponential(gaps) * *scale;
        let first_s = *self.first_s.get_or_insert(*at_s);
        Some(self.begin + SimDuration::from_secs_f64(*at_s - first_s))
    }

    /// The next second of Poisson arrivals begins with the last request of the one before.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
    fn begin_second(&mut self) {
        debug_assert_eq!(self.arrivals, StageArrivals::Poisson, "the only batch has all requests");
        let (seed, stage) = self.key;
        self.batches += 1;
        let mut draws = stream(seed, Use::Arrival, stage, u64::from(self.batches));
        let count: f64 = Poisson::new(self.stage.rate).expect("validated").sample(&mut draws);
        // A second without requests passes at once.
        let from_s = self.batch.at_s + if count < 1.0 { 1.0 } else { 0.0 };
        self.batch = Batch::new(draws, count as u32, (from_s, 1.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    const LADDER: &str = "groups = 15\nprompts_per_group = 5
        system_prompt_tokens = { kind = 'constant', value = 600 }
        question_tokens = { kind = 'constant', value = 120 }
        output_tokens = { kind = 'constant', value = 100 }
        stages = [
            { rate = 15, duration = '5s', measured = false },
            { rate = 3, duration = '20s' },
            { rate = 60, duration = '25s' },
        ]";

    fn settings(toml: &str) -> InferencePerfSettings {
        let settings: InferencePerfSettings = toml::from_str(toml).unwrap();
        settings.validate().unwrap();
        settings
    }

    /// All requests of a stage, which is then begun again as `next`.
    fn stage(load: &mut InferencePerf, next: u32) -> Vec<Arrival> {
        let mut seen = Vec::new();
        while load.next_arrival().is_some() {
            seen.push(load.take());
        }
        let last = seen.last().map_or(SimTime::ZERO, |arrival| arrival.at);
        assert_eq!(load.begin_level(last, next), last + two_seconds());
        seen
    }

    #[test]
    fn every_stage_sends_the_same_texts_from_the_first() {
        let mut load = InferencePerf::new(settings(LADDER), 16, 1);
        let [warmup, slow, fast] = [1, 2, 0].map(|next| stage(&mut load, next));
        assert_eq!([warmup.len(), slow.len(), fast.len()], [75, 60, 1_500]);
        let text = |arrival: &Arrival| {
            let Request { content, prompt_tokens, .. } = &arrival.request;
            assert_eq!((*prompt_tokens, content.shared_blocks()), (720, 45));
            content.runs(45).collect::<Vec<_>>()
        };
        for (i, arrival) in slow.iter().chain(&fast).enumerate() {
            let of_stage = if i < 60 { i } else { i - 60 };
            assert_eq!(text(arrival), text(&warmup[of_stage % 75]));
        }
        // Five texts of a group share its 37 full blocks and nothing else.
        let mut of_group: BTreeMap<BlockId, Vec<BlockId>> = BTreeMap::new();
        for arrival in &warmup {
            let content = &arrival.request.content;
            let [first, fork] = [content.block(0), content.block(37)];
            assert_eq!(content.block(36), first.offset(36));
            assert!(!of_group.entry(first).or_default().contains(&fork));
            of_group.entry(first).or_default().push(fork);
        }
        assert_eq!(of_group.len(), 15);
        assert!(of_group.values().all(|texts| texts.len() == 5));
        // In random order, not group after group.
        let firsts = warmup
            .windows(2)
            .filter(|pair| pair[0].request.content.block(0) == pair[1].request.content.block(0));
        assert!(firsts.count() < 15);
    }

    #[test]
    fn stages_of_their_own_share_no_text() {
        let same = stage(&mut InferencePerf::new(settings(LADDER), 16, 1), 1);
        let toml = format!("new_texts = true\n{LADDER}");
        let mut load = InferencePerf::new(settings(&toml), 16, 1);
        let stages = [1, 2, 0].map(|next| stage(&mut load, next));
        let texts = |stage: &[Arrival]| -> Vec<BlockId> {
            stage.iter().map(|arrival| arrival.request.content.block(44)).collect()
        };
        // The first is as it is without the key, and each repeats its own texts alone.
        assert_eq!(texts(&stages[0]), texts(&same));
        let distinct =
            stages.each_ref().map(|stage| texts(stage).into_iter().collect::<BTreeSet<_>>());
        assert_eq!(distinct.each_ref().map(BTreeSet::len), [75, 60, 75]);
        assert_eq!(distinct.into_iter().flatten().collect::<BTreeSet<_>>().len(), 210);
    }

    /// Counts by second of whole stages: the first is sent at the start, the rest by the
    /// client's own process, whose length varies as the sum of so many Poisson draws.
    #[test]
    fn poisson_stages_last_as_long_as_their_draws_say() {
        let lengths: Vec<f64> = (0..400)
            .map(|seed| {
                let mut times = SendTimes::new(&settings(LADDER), 1, SimTime::ZERO, seed);
                let mut last = SimTime::ZERO;
                assert_eq!(times.next(), Some(SimTime::ZERO));
                for _ in 1..60 {
                    let time = times.next().unwrap();
                    assert!(time >= last);
                    last = time;
                }
                assert_eq!(times.next(), None);
                last.as_secs()
            })
            .collect();
        let mean = stats::mean(&lengths).unwrap();
        let squares: Vec<f64> = lengths.iter().map(|length| (length - mean).powi(2)).collect();
        let sd = stats::mean(&squares).unwrap().sqrt();
        // 60 requests at 3/s: 20 s, less the gap before the first; an empty second (e^-3 of
        // them) passes beside the others. sqrt(60) / 3 = 2.6 s.
        assert!((mean - 20.3).abs() < 0.5, "{mean}");
        assert!((sd - 2.6).abs() < 0.4, "{sd}");
    }

    #[test]
    fn constant_stages_fill_their_duration() {
        let toml = format!("arrivals = 'constant'\n{LADDER}");
        let mut times = SendTimes::new(&settings(&toml), 2, SimTime::ZERO, 7);
        let all: Vec<f64> = std::iter::from_fn(|| times.next()).map(SimTime::as_secs).collect();
        assert_eq!(all.len(), 1_500);
        // Short of the first gap, which is before the stage here.
        assert!((24.8..=25.0).contains(&all[1_499]), "{}", all[1_499]);
        let gaps: Vec<f64> = all.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let mean = stats::mean(&gaps).unwrap();
        let squares: Vec<f64> = gaps.iter().map(|gap| (gap / mean - 1.0).powi(2)).collect();
        let cv = stats::mean(&squares).unwrap().sqrt();
        assert!((cv - 1.0).abs() < 0.1, "exponential gaps: {cv}");
    }

    proptest! {
        /// Whatever is jittered on the way: every request is taken once, in order of its
        /// arrival, and no text has another one's blocks.
        #[test]
        fn requests_come_in_order_and_once(
            seed in any::<u64>(),
            block_size in 1..200_u32,
            system in 0..400_u32,
            question in 1..300_u32,
        ) {
            let toml = LADDER
                .replace("value = 120", &format!("value = {question}"))
                .replace("value = 600", &format!("value = {system}"));
            let toml = format!(
                "client.overhead_jitter = {{ kind = 'uniform', min = '0ms', max = '900ms' }}\n{toml}"
            );
            let mut load = InferencePerf::new(settings(&toml), block_size, seed);
            let mut owner: BTreeMap<BlockId, u32> = BTreeMap::new();
            let mut before = SimTime::ZERO;
            for (number, arrival) in (0..).zip(stage(&mut load, 1)) {
                prop_assert_eq!(arrival.request.id, RequestId(number));
                prop_assert!(arrival.sent <= arrival.at && before <= arrival.at);
                before = arrival.at;
                let content = &arrival.request.content;
                prop_assert!(content.shared_blocks() * block_size <= system + question);
                for block in system / block_size..content.shared_blocks() {
                    let id = content.block(block);
                    prop_assert!(owner.insert(id, number).is_none(), "{:?} twice", id);
                }
            }
        }
    }

    #[test]
    fn unusable_settings_are_named() {
        for (from, to, key) in [
            ("groups = 15", "groups = 0", "groups"),
            ("groups = 15", "groups = 1_000_001", "groups"),
            ("value = 120", "value = 0", "question_tokens.value"),
            ("value = 120", "value = 999_999_999", "question_tokens"),
            ("value = 100 ", "value = 0 ", "output_tokens.value"),
            ("rate = 3,", "rate = 60,", "stages[2].rate"),
            ("rate = 3,", "rate = 0,", "stages[1].rate"),
            ("duration = '20s'", "duration = '0.1s'", "stages[1].duration"),
            ("duration = '20s'", "duration = '2_000h'", "stages[1].duration"),
            (
                "groups = 15",
                "groups = 15\nclient.overhead_per_inflight = '1ms'",
                "client.overhead_per_inflight",
            ),
        ] {
            assert!(LADDER.contains(from), "{from}");
            let settings: InferencePerfSettings =
                toml::from_str(&LADDER.replace(from, to)).unwrap();
            assert_eq!(settings.validate().unwrap_err().key, key);
        }
    }
}
