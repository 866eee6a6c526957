use super::*;
use crate::time::SimDuration;
use crate::workload::by_turn::ByTurn;
use crate::workload::client::Client;
use crate::workload::distribution::{Distribution, Tokens};
use crate::workload::{PatienceSettings, Priorities};
use proptest::prelude::*;
use std::collections::BTreeMap;

const BLOCK_SIZE: u32 = 4;

fn uniform(min: u32, max: u32) -> Distribution<Tokens> {
    Distribution::Uniform { min: Tokens(min), max: Tokens(max) }
}

fn seconds(value: u64) -> Distribution<SimDuration> {
    Distribution::Constant { value: SimDuration::from_secs(value) }
}

/// Short texts, so that they end everywhere inside blocks.
fn small(concurrency: u32) -> ConversationSettings {
    ConversationSettings {
        concurrency,
        starters: 3,
        starter_exponent: 0.0,
        starter_tokens: uniform(0, 14),
        turns: Turns { min: 1, max: 4 },
        question_tokens: uniform(1, 6).into(),
        output_tokens: uniform(1, 9).into(),
        think_time: Distribution::Uniform {
            min: SimDuration::ZERO,
            max: SimDuration::from_secs(1),
        },
        client: Client {
            overhead: SimDuration::from_millis(100),
            overhead_per_inflight: SimDuration::from_millis(1),
            overhead_jitter: Distribution::Uniform {
                min: SimDuration::ZERO,
                max: SimDuration::from_millis(20),
            },
            tokenizer: None,
            connections: None,
        },
        patience: PatienceSettings::default(),
        priority: Priorities::default(),
        start_spread: SimDuration::from_secs(2),
    }
}

/// A request as the workload knew it.
struct Sent {
    slot: u32,
    starter: u32,
    starter_tokens: u32,
    arrival: Arrival,
}

impl Sent {
    /// The whole sequence, prompt and output; equal tokens are equal labels.
    fn tokens(&self) -> Vec<(bool, u32, u32)> {
        let request = &self.arrival.request;
        (0..request.prompt_tokens + request.output_tokens)
            .map(|i| match i < self.starter_tokens {
                true => (true, self.starter, i),
                false => (false, request.conversation.0, i),
            })
            .collect()
    }
}

/// Serves `count` requests; the n-th takes `service_ms[n]` (cyclic) from its arrival.
fn serve(workload: &mut Conversations, count: usize, service_ms: &[u64]) -> Vec<Sent> {
    let mut sent = Vec::new();
    let mut inflight: BTreeMap<(SimTime, RequestId), ()> = BTreeMap::new();
    while sent.len() < count {
        let end = inflight.first_key_value().map(|(&key, ())| key);
        match (workload.next_arrival(), end) {
            (Some(at), end) if end.is_none_or(|(end, _)| at <= end) => {
                let slot = workload.sends.peek().unwrap().0.slot;
                let starter = workload.slots[slot as usize].starter;
                let arrival = workload.take();
                assert_eq!(arrival.at, at);
                assert_eq!(arrival.request.id.index(), sent.len(), "ids are dense");
                let ms = service_ms[sent.len() % service_ms.len()];
                inflight.insert((at + SimDuration::from_millis(ms), arrival.request.id), ());
                let starter_tokens = workload.starter_tokens[starter as usize];
                sent.push(Sent { slot, starter, starter_tokens, arrival });
            }
            (_, Some((end, request))) => {
                inflight.remove(&(end, request));
                workload.observe_end(end, request, true);
            }
            (_, None) => unreachable!("nothing due and nothing in flight"),
        }
        let waiting = workload.sends.len();
        assert_eq!(waiting + inflight.len(), workload.concurrency as usize, "the loop is closed");
    }
    sent
}

/// What each slot sent, without the numbers that depend on the order of ends.
fn by_slot(sent: &[Sent]) -> BTreeMap<u32, Vec<(u32, u32, u32, u32)>> {
    let mut slots = BTreeMap::<_, Vec<_>>::new();
    for Sent { slot, starter, arrival: Arrival { request, .. }, .. } in sent {
        let seen = (*starter, request.turn, request.prompt_tokens, request.output_tokens);
        slots.entry(*slot).or_default().push(seen);
    }
    slots
}

fn service_times() -> impl Strategy<Value = Vec<u64>> {
    prop::collection::vec(1..5_000u64, 1..20)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The meaning of a block id: equal ids are equal tokens up to the block's end.
    #[test]
    fn blocks_are_equal_exactly_where_all_tokens_are(seed: u64, times in service_times()) {
        let mut workload = Conversations::new(small(4), BLOCK_SIZE, seed);
        let sent = serve(&mut workload, 30, &times);
        for (i, a) in sent.iter().enumerate() {
            for b in &sent[..=i] {
                let (tokens_a, tokens_b) = (a.tokens(), b.tokens());
                let common = tokens_a.iter().zip(&tokens_b).take_while(|(a, b)| a == b).count();
                let blocks = tokens_a.len().min(tokens_b.len()) / BLOCK_SIZE as usize;
                let (a, b) = (&a.arrival.request.content, &b.arrival.request.content);
                for block in 0..blocks {
                    let index = u32::try_from(block).unwrap();
                    let equal = (block + 1) * BLOCK_SIZE as usize <= common;
                    prop_assert_eq!(a.block(index) == b.block(index), equal);
                }
                // The promise of `with_fork_tokens`.
                let shared = a.shared_blocks() * BLOCK_SIZE;
                if a.runs(a.shared_blocks()).eq(b.runs(b.shared_blocks())) {
                    prop_assert!((shared + a.fork_tokens()) as usize <= common);
                }
            }
        }
    }

    #[test]
    fn every_turn_extends_the_one_before(seed: u64, times in service_times()) {
        let settings = small(5);
        let mut workload = Conversations::new(settings.clone(), BLOCK_SIZE, seed);
        let mut last = BTreeMap::<ConversationId, Sent>::new();
        for now in serve(&mut workload, 80, &times) {
            let request = &now.arrival.request;
            let before = match last.get(&request.conversation) {
                None => {
                    prop_assert_eq!(request.turn, 0);
                    now.starter_tokens
                }
                Some(Sent { arrival: Arrival { request: before, .. }, .. }) => {
                    prop_assert_eq!(request.turn, before.turn + 1);
                    prop_assert_eq!(&request.content, &before.content);
                    before.prompt_tokens + before.output_tokens
                }
            };
            let question = request.prompt_tokens - before;
            prop_assert!((1..=6).contains(&question));
            prop_assert!((1..=9).contains(&request.output_tokens));
            prop_assert_eq!(request.max_tokens, 9);
            prop_assert!(request.turn < settings.turns.max);
            let overhead = now.arrival.at - now.arrival.sent;
            prop_assert!(overhead >= SimDuration::from_millis(105));
            prop_assert!(overhead <= SimDuration::from_millis(125));
            last.insert(request.conversation, now);
        }
    }

    #[test]
    fn slots_meet_the_same_conversations_in_every_interleaving(
        seed: u64,
        times in service_times(),
        others in service_times(),
    ) {
        let run = |times: &[u64]| {
            let mut workload = Conversations::new(small(4), BLOCK_SIZE, seed);
            by_slot(&serve(&mut workload, 60, times))
        };
        let (one, other) = (run(&times), run(&others));
        prop_assert_eq!(one.len(), 4);
        for (slot, turns) in &one {
            let others = &other[slot];
            let common = turns.len().min(others.len());
            prop_assert!(common > 0);
            prop_assert_eq!(&turns[..common], &others[..common]);
        }
    }

    #[test]
    fn levels_keep_the_loop_closed(
        seed: u64,
        levels in prop::collection::vec(1..8u32, 1..6),
        times in service_times(),
    ) {
        let mut workload = Conversations::new(small(3), BLOCK_SIZE, seed);
        let mut now = SimTime::ZERO;
        for level in levels {
            // Answer whatever is in flight, so that removed slots are done.
            while let Some(at) = workload.next_arrival() {
                if at > now + SimDuration::from_secs(20) {
                    break;
                }
                let arrival = workload.take();
                now = arrival.at + SimDuration::from_millis(times[0]);
                workload.observe_end(now, arrival.request.id, true);
                if arrival.request.id.0 % 40 == 39 {
                    break;
                }
            }
            workload.set_concurrency(now, level, true);
            let on_their_way = |w: &Conversations| {
                w.sends.iter().filter(|s| s.0.slot >= level).all(|s| s.0.sent <= now)
            };
            prop_assert!(on_their_way(&workload));
            let within = workload.sends.iter().filter(|s| s.0.slot < level).count();
            prop_assert_eq!(within, level as usize);
        }
    }
}

fn fixed() -> ConversationSettings {
    let tokens = |n| Distribution::Constant { value: Tokens(n) };
    ConversationSettings {
        concurrency: 2,
        starters: 1,
        starter_exponent: 0.0,
        starter_tokens: tokens(10),
        turns: Turns { min: 2, max: 2 },
        question_tokens: tokens(3).into(),
        output_tokens: tokens(5).into(),
        think_time: seconds(7),
        client: Client {
            overhead: SimDuration::from_millis(85),
            overhead_per_inflight: SimDuration::from_millis(1),
            overhead_jitter: Distribution::default(),
            tokenizer: None,
            connections: None,
        },
        patience: PatienceSettings::default(),
        priority: Priorities::default(),
        start_spread: SimDuration::from_secs(4),
    }
}

fn secs(s: f64) -> SimTime {
    SimTime::ZERO + SimDuration::from_secs_f64(s)
}

#[test]
fn one_conversation_in_numbers() {
    let mut workload = Conversations::new(fixed(), BLOCK_SIZE, 1);
    let first = workload.take();
    assert_eq!((first.sent, first.at), (secs(0.0), secs(0.087)));
    assert_eq!((first.request.prompt_tokens, first.request.content.fork_tokens()), (13, 2));
    assert_eq!(workload.next_arrival(), Some(secs(2.087)), "the other half of the spread");
    workload.take();
    assert_eq!(workload.next_arrival(), None, "both wait for answers");
    workload.observe_end(secs(10.0), first.request.id, true);
    let second = workload.take();
    assert_eq!((second.sent, second.at), (secs(17.0), secs(17.087)));
    assert_eq!((second.request.turn, second.request.prompt_tokens), (1, 13 + 5 + 3));
    workload.observe_end(secs(20.0), second.request.id, true);
    let third = workload.take();
    assert_eq!((third.request.turn, third.request.conversation.0), (0, 2));
    assert_eq!(third.sent, secs(27.0));
}

#[test]
fn lengths_go_turn_by_turn_and_the_last_ones_stay() {
    let tokens = |value: u32| format!("{{ kind = 'constant', value = {value} }}");
    let list = |values: [u32; 2]| {
        let text = format!("t = [{}, {}]", tokens(values[0]), tokens(values[1]));
        toml::from_str::<BTreeMap<String, ByTurn<Tokens>>>(&text).unwrap().remove("t").unwrap()
    };
    let settings = ConversationSettings {
        turns: Turns { min: 3, max: 3 },
        question_tokens: list([3, 20]),
        output_tokens: list([500, 40]),
        ..fixed()
    };
    let mut workload = Conversations::new(settings, BLOCK_SIZE, 1);
    let sent = serve(&mut workload, 6, &[10]);
    let of_turn = |turn| sent.iter().find(|sent| sent.arrival.request.turn == turn).unwrap();
    let lengths = [0, 1, 2].map(|turn| {
        let request = &of_turn(turn).arrival.request;
        (request.prompt_tokens, request.output_tokens, request.max_tokens)
    });
    let prompts = [10 + 3, 13 + 500 + 20, 533 + 40 + 20];
    assert_eq!(lengths, [(prompts[0], 500, 500), (prompts[1], 40, 500), (prompts[2], 40, 500)]);
}

#[test]
fn a_rejected_request_ends_its_conversation_and_time_goes_on() {
    let mut settings = fixed();
    settings.think_time = Distribution::default();
    let mut workload = Conversations::new(settings, BLOCK_SIZE, 1);
    let first = workload.take();
    workload.observe_end(first.at, first.request.id, false);
    let mut later = workload.take();
    while later.request.conversation.0 == 1 {
        later = workload.take();
    }
    assert_eq!(later.request.turn, 0);
    assert_eq!(later.sent, first.at + SimDuration::from_secs(1));
}

#[test]
fn a_removed_slot_ends_with_its_turn_and_can_come_back() {
    let mut workload = Conversations::new(fixed(), BLOCK_SIZE, 1);
    let (a, b) = (workload.take(), workload.take());
    workload.set_concurrency(secs(3.0), 1, true);
    workload.observe_end(secs(4.0), b.request.id, true);
    assert_eq!(workload.next_arrival(), None);
    workload.observe_end(secs(5.0), a.request.id, true);
    assert_eq!(workload.next_arrival(), Some(secs(12.086)));
    workload.set_concurrency(secs(6.0), 2, true);
    let back = workload.take();
    assert_eq!(back.sent, secs(6.0));
    assert_ne!(back.request.conversation, b.request.conversation);
    // A turn that is already sent arrives; one that is not sent yet never is.
    workload.observe_end(secs(7.0), back.request.id, true);
    workload.set_concurrency(secs(12.01), 0, true);
    assert_eq!(workload.take().request.conversation, a.request.conversation);
    assert_eq!(workload.next_arrival(), None);
}

#[test]
fn refuses_what_no_conversation_can_follow() {
    let refused = |change: fn(&mut ConversationSettings)| {
        let mut settings = fixed();
        change(&mut settings);
        settings.validate().unwrap_err().to_string()
    };
    let zero = || Distribution::Constant { value: Tokens(0) };
    assert_eq!(refused(|s| s.concurrency = 0), "concurrency = 0: must be from 1 to 1000000");
    assert_eq!(
        refused(|s| s.turns = Turns { min: 3, max: 2 }),
        "turns.min = 3: must be at least 1 and at most turns.max"
    );
    assert_eq!(refused(|s| s.starters = 0), "starters = 0: must be from 1 to 1000000");
    let mut settings = fixed();
    settings.output_tokens = zero().into();
    assert_eq!(
        settings.validate().unwrap_err().to_string(),
        "output_tokens.value = 0: must be at least 1"
    );
    assert_eq!(
        refused(|s| s.turns.max = u32::MAX),
        "turns.max = 4294967295: must be at most 124999998: with starters of 10 tokens and turns \
         of 8 a conversation would pass 1000000000 tokens; make one of them smaller"
    );
    assert_eq!(
        refused(|s| s.client.overhead_jitter = Distribution::Uniform {
            min: SimDuration::from_secs(2),
            max: SimDuration::from_secs(1),
        }),
        "client.overhead_jitter.min = \"2s\": must be at most max = \"1s\""
    );
}
