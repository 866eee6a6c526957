use super::*;
use crate::workload::Workload;
use proptest::prelude::*;
use std::collections::BTreeMap;

const BLOCK: u32 = 16;

fn settings(toml: &str) -> SessionSettings {
    let settings: SessionSettings = toml::from_str(toml).unwrap();
    settings.validate().unwrap();
    settings
}

const PLAIN: &str = "arrivals = { kind = 'poisson', rate = 2 }
    common_tokens = 40
    prefix = [{ tokens = 100, weight = 3, texts = 3 }, { tokens = 40, weight = 1 },
        { tokens = 0, weight = 1 }]
    [[class]]
    weight = 2
    first_tokens = { kind = 'uniform', min = 1, max = 90 }
    output_tokens = { kind = 'uniform', min = 5, max = 50 }
    goes_on = [0.8, 0.7]
    gap = { kind = 'uniform', min = '1s', max = '20s' }
    question_tokens = { kind = 'uniform', min = 3, max = 60 }
    edits.share = 0.3
    edits.kept_tokens = { kind = 'uniform', min = 0, max = 300 }
    edits.new_tokens = { kind = 'uniform', min = 1, max = 60 }
    [[class]]
    weight = 1
    first_tokens = { kind = 'constant', value = 500 }
    output_tokens = { kind = 'constant', value = 7 }";

/// Plays `count` requests whose answers take `answer`.
fn played(
    settings: &SessionSettings,
    seed: u64,
    count: usize,
    answer: SimDuration,
) -> Vec<Arrival> {
    let mut sessions = Sessions::new(settings.clone(), BLOCK, seed);
    let mut ends: BinaryHeap<Reverse<(SimTime, u32)>> = BinaryHeap::new();
    let mut taken: Vec<Arrival> = Vec::new();
    while taken.len() < count {
        let at = sessions.next_arrival().expect("it never ends");
        match ends.peek() {
            Some(Reverse((end, id))) if *end <= at => {
                sessions.observe_end(*end, RequestId(*id), true);
                ends.pop();
            }
            _ => {
                let arrival = sessions.take();
                assert_eq!(arrival.at, at);
                ends.push(Reverse((at + answer, arrival.request.id.0)));
                taken.push(arrival);
            }
        }
    }
    taken
}

/// The tokens of a naive model: every turn's prompt as a list of what it is made of.
fn text(arrival: &Arrival) -> Vec<BlockId> {
    arrival.request.content.blocks(arrival.request.prompt_tokens / BLOCK).collect()
}

proptest! {
    /// Turns come in order, each after the answer before it and its gap; a prompt shares no
    /// more than the turn before it had, prompt and answer; sessions share only what their
    /// texts have.
    #[test]
    fn turns_follow_each_other(seed in any::<u64>(), answer in 0..30_u64) {
        let answer = SimDuration::from_secs(answer);
        let all = played(&settings(PLAIN), seed, 150, answer);
        prop_assert!(all.is_sorted_by_key(|arrival| arrival.at));
        let mut before: BTreeMap<ConversationId, &Arrival> = BTreeMap::new();
        let (mut later, mut edits) = (0, 0);
        for arrival in &all {
            let request = &arrival.request;
            let Some(last) = before.insert(request.conversation, arrival) else {
                prop_assert_eq!(request.turn, 0);
                continue;
            };
            later += 1;
            prop_assert_eq!(request.turn, last.request.turn + 1);
            prop_assert!(arrival.sent >= last.at + answer);
            prop_assert!(arrival.sent >= last.sent + SimDuration::from_secs(1));
            let known = last.request.prompt_tokens + last.request.output_tokens;
            let shared = (last.request.content.blocks(known / BLOCK))
                .zip(text(arrival)).take_while(|(a, b)| a == b).count();
            let goes_on = request.prompt_tokens >= known && shared == (known / BLOCK) as usize;
            edits += u32::from(!goes_on);
            prop_assert!(shared <= (known / BLOCK) as usize);
        }
        prop_assert!(later == 0 || edits <= later);
        let firsts: Vec<&Arrival> = all.iter().filter(|one| one.request.turn == 0).collect();
        for (place, one) in firsts.iter().enumerate() {
            for other in &firsts[place + 1..] {
                let alike = text(one).iter().zip(text(other)).take_while(|(a, b)| *a == b).count();
                // 100 tokens and 40 tokens in blocks of 16.
                prop_assert!([0, 2, 6].contains(&alike), "{alike}");
            }
        }
    }

    /// What is drawn depends on session and turn, not on how fast answers are.
    #[test]
    fn sessions_are_the_same_whatever_serves_them(seed in any::<u64>()) {
        let lengths = |answer| -> BTreeMap<(u32, u32), (u32, u32)> {
            let all = played(&settings(PLAIN), seed, 60, answer);
            let key = |arrival: &Arrival| (arrival.request.conversation.0, arrival.request.turn);
            all.iter().map(|arrival| {
                (key(arrival), (arrival.request.prompt_tokens, arrival.request.output_tokens))
            }).collect()
        };
        let (fast, slow) = (lengths(SimDuration::ZERO), lengths(SimDuration::from_secs(9)));
        for (key, tokens) in &slow {
            prop_assert!(fast.get(key).is_none_or(|other| other == tokens));
        }
    }
}

const BRANCHED: &str = "arrivals = { kind = 'poisson', rate = 2 }
    [[class]]
    weight = 1
    first_tokens = { kind = 'uniform', min = 40, max = 90 }
    output_tokens = { kind = 'uniform', min = 5, max = 50 }
    goes_on = [0.5]
    branches = 0.4
    gap = { kind = 'uniform', min = '1s', max = '20s' }
    question_tokens = { kind = 'uniform', min = 40, max = 90 }";

/// A turn goes on from another one of its session: from all that this had, prompt and
/// answer, and from nothing that came on other branches.
#[test]
fn branches_share_what_was_before_them() {
    let settings = settings(BRANCHED);
    let all = played(&settings, 5, 4_000, SimDuration::from_secs(2));
    let mut by_session: BTreeMap<ConversationId, Vec<&Arrival>> = BTreeMap::new();
    for arrival in &all {
        by_session.entry(arrival.request.conversation).or_default().push(arrival);
    }
    let (mut later, mut branched) = (0, 0);
    for session in by_session.values() {
        // Every later turn has a turn before it that it goes on from.
        for (place, arrival) in session.iter().enumerate().skip(1) {
            later += 1;
            let own = text(arrival);
            let has_all_of = |before: &&Arrival| {
                let known = before.request.prompt_tokens + before.request.output_tokens;
                let blocks = known / BLOCK;
                before.request.turn + 1 == arrival.request.turn
                    && before.at + SimDuration::from_secs(2) <= arrival.sent
                    && before
                        .request
                        .content
                        .blocks(blocks)
                        .eq(own.iter().copied().take(blocks as usize))
            };
            assert!(session[..place].iter().copied().any(|before| has_all_of(&before)));
        }
        let mut turns: Vec<u32> = session.iter().map(|arrival| arrival.request.turn).collect();
        turns.sort_unstable();
        branched += u32::from(turns.windows(2).any(|pair| pair[0] == pair[1]));
        // No two of one depth have the same whole prompt.
        for (place, one) in session.iter().enumerate() {
            for other in &session[place + 1..] {
                let is_alike = one.request.turn == other.request.turn;
                assert!(!is_alike || text(one) != text(other));
            }
        }
    }
    assert!(branched > 200, "{branched}");
    // A turn is followed by 0.5 / (1 - 0.4) others on average: a session has six in all. Some
    // have not ended yet.
    let per_session = 1.0 + f64::from(later) / by_session.len() as f64;
    assert!((4.5..6.5).contains(&per_session), "{per_session}");
    // The same requests, whatever serves them.
    let lengths = |answer| -> BTreeMap<u32, Vec<(u32, u32, u32)>> {
        let mut found: BTreeMap<u32, Vec<_>> = BTreeMap::new();
        for Arrival { request, .. } in played(&settings, 5, 4_000, answer) {
            let shown = (request.turn, request.prompt_tokens, request.output_tokens);
            found.entry(request.conversation.0).or_default().push(shown);
        }
        found.values_mut().for_each(|turns| turns.sort_unstable());
        found
    };
    let (fast, slow) = (lengths(SimDuration::ZERO), lengths(SimDuration::from_secs(3)));
    let early = (0..100).filter(|session| fast[session] == slow[session]).count();
    assert!(early > 95, "{early}");
}

/// Sessions that were open at the start are as many as later on: the number of requests a
/// second is the same from the beginning.
#[test]
fn a_service_that_ran_before_is_in_full_swing() {
    let begun = PLAIN.replacen("common_tokens", "begun = '10min'\ncommon_tokens", 1);
    let count_of = |toml: &str| {
        let mut counts = (0, 0);
        for seed in 0..40 {
            let all = played(&settings(toml), seed, 500, SimDuration::ZERO);
            let within = |from: u64, to: u64| {
                let (from, to) = (SimDuration::from_secs(from), SimDuration::from_secs(to));
                let times = all.iter().map(|arrival| arrival.sent.since(SimTime::ZERO));
                times.filter(|at| (from..to).contains(at)).count()
            };
            counts = (counts.0 + within(0, 20), counts.1 + within(60, 80));
        }
        counts
    };
    let (cold, later) = count_of(PLAIN);
    assert!(cold * 10 < later * 8, "{cold} and {later}");
    let (warm, later) = count_of(&begun);
    assert!(warm.abs_diff(later) * 10 < later, "{warm} and {later}");
    let first = played(&settings(&begun), 1, 40, SimDuration::ZERO);
    assert!(
        first
            .iter()
            .any(|arrival| arrival.request.turn > 0 && arrival.sent < SimTime::from_ps(1 << 42))
    );
}

#[test]
fn ticks_counts_and_the_longest_prompt_are_kept() {
    let toml = PLAIN.replacen(
        "common_tokens",
        "tick = '3s'\ncount = 50\nmax_prompt_tokens = 300\ncommon_tokens",
        1,
    );
    let mut sessions = Sessions::new(settings(&toml), BLOCK, 1);
    let (mut firsts, mut most) = (0, 0);
    while sessions.next_arrival().is_some() {
        let arrival = sessions.take();
        firsts += u32::from(arrival.request.turn == 0);
        most = most.max(arrival.request.prompt_tokens);
        assert_eq!(arrival.sent.as_ps() % 3_000_000_000_000, 0);
        sessions.observe_end(arrival.at, arrival.request.id, true);
    }
    assert_eq!((firsts, most), (50, 300));
}

#[test]
fn a_turn_that_is_not_served_ends_its_session() {
    let toml = PLAIN.replace("rate = 2", "rate = 0.001").replace("[0.8, 0.7]", "[1.0, 0.7]");
    let mut sessions = Sessions::new(settings(&toml), BLOCK, 3);
    let first = sessions.take();
    sessions.observe_end(first.at, first.request.id, false);
    assert_ne!(sessions.take().request.conversation, first.request.conversation);
}

#[test]
fn unusable_settings_are_named() {
    for (from, to, key) in [
        ("rate = 2", "rate = 0", "arrivals.rate"),
        ("tokens = 100", "tokens = 30", "prefix[0].tokens"),
        ("texts = 3", "texts = 0", "prefix[0].texts"),
        ("min = 5,", "min = 0,", "class[0].output_tokens.min"),
        ("[0.8, 0.7]", "[0.8, 1.0]", "class[0].goes_on[1]"),
        ("[0.8, 0.7]", "[1.8, 0.7]", "class[0].goes_on[0]"),
        ("[0.8, 0.7]", "[0.8, 0.7]\n    branches = 0.31", "class[0].branches"),
        ("share = 0.3", "share = 1.3", "class[0].edits.share"),
        ("common_tokens", "count = 0\ncommon_tokens", "count"),
        ("common_tokens", "max_prompt_tokens = 0\ncommon_tokens", "max_prompt_tokens"),
        ("common_tokens", "begun = '200h'\ncommon_tokens", "begun"),
    ] {
        let toml = PLAIN.replacen(from, to, 1);
        let settings: SessionSettings = toml::from_str(&toml).unwrap();
        assert_eq!(settings.validate().unwrap_err().key, key, "{to}");
    }
    let none: SessionSettings =
        toml::from_str("arrivals = { kind = 'poisson', rate = 2 }\nclass = []").unwrap();
    assert_eq!(none.validate().unwrap_err().key, "class");
}
