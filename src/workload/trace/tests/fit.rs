//! Workloads that are fitted to traces whose sessions are known.

use super::super::*;
use crate::id::ConversationId;
use crate::request::Request;
use crate::rng::{Use, mix, stream};
use crate::stats;
use crate::time::SimTime;
use crate::workload::Workload;
use crate::workload::arrivals::ArrivalSettings;
use crate::workload::sessions::{SessionSettings, Sessions};
use rand::RngExt;
use std::fmt::Write as _;
use std::path::Path;

const KNOWN: &str = "arrivals = { kind = 'poisson', rate = 2 }
    begun = '5min'
    common_tokens = 512
    prefix = [{ tokens = 512, weight = 5 }, { tokens = 2_048, weight = 2 }]
    [[class]]
    weight = 3
    first_tokens = { kind = 'lognormal', mean = 3_000, sd = 3_000, min = 100, max = 20_000 }
    output_tokens = { kind = 'uniform', min = 50, max = 500 }
    goes_on = [0.5, 0.6]
    gap = { kind = 'exponential', mean = '60s', min = '1s', max = '10min' }
    question_tokens = { kind = 'uniform', min = 20, max = 2_000 }
    edits.share = 0.2
    edits.kept_tokens = { kind = 'uniform', min = 2_600, max = 5_000 }
    edits.new_tokens = { kind = 'uniform', min = 100, max = 900 }
    [[class]]
    weight = 1
    first_tokens = { kind = 'uniform', min = 8_000, max = 9_000 }
    output_tokens = { kind = 'constant', value = 20 }";

/// A quarter of an hour of it, with names of sessions or without.
fn trace(seed: u64, is_named: bool) -> Trace {
    let settings: SessionSettings = toml::from_str(KNOWN).unwrap();
    let mut sessions = Sessions::new(settings, 512, seed);
    let mut requests: Vec<(SimTime, Request)> = Vec::new();
    while sessions.next_arrival().is_some_and(|at| at.as_secs() < 900.0) {
        let mut arrival = sessions.take();
        sessions.observe_end(arrival.at, arrival.request.id, true);
        if !is_named {
            arrival.request.conversation = ConversationId(row_number(requests.len()));
        }
        requests.push((arrival.sent, arrival.request));
    }
    Trace::of_requests(requests.iter().map(|(sent, request)| (*sent, request)), 512)
}

#[test]
fn what_made_a_trace_is_found_again() {
    for is_named in [true, false] {
        let fit = Fit::of(&trace(1, is_named), FitOptions::default()).unwrap();
        let settings = &fit.settings;
        assert!((settings.arrivals.rate() / 2.0 - 1.0).abs() < 0.1, "{}", settings.arrivals.rate());
        assert_eq!(settings.common_tokens.0, 512);
        let deep = settings.prefix.iter().find(|prefix| prefix.tokens.0 == 2_048);
        let all: u32 = settings.prefix.iter().map(|prefix| prefix.weight).sum();
        let share = f64::from(deep.unwrap().weight) / f64::from(all);
        assert!((share - 2.0 / 7.0).abs() < 0.05, "{share}");
        // Another draw of the same service, which it was not fitted to.
        for margin in fit.margins(&trace(2, is_named)) {
            let most = if margin.is_share { 0.03 } else { 0.15 };
            assert!(margin.error().abs() < most, "{is_named} {margin:?}");
        }
    }
}

#[test]
fn a_fit_is_an_experiments_workload() {
    let fit = Fit::of(&trace(1, true), FitOptions { steady: true }).unwrap();
    fit.settings.validate().unwrap();
    let text = toml::to_string(&fit.settings).unwrap();
    assert_eq!(toml::from_str::<SessionSettings>(&text).unwrap(), fit.settings);
    let again = Fit::of(&trace(1, true), FitOptions { steady: true }).unwrap();
    assert_eq!(again.settings, fit.settings);
}

/// A load that rises by half way to three times as much is fitted as one that does.
#[test]
fn a_rate_that_changes_is_seen() {
    let mut requests = Vec::new();
    let mut text = String::new();
    for number in 0..2_000u32 {
        let at = if number < 500 { number * 1_200 } else { 600_000 + (number - 500) * 400 };
        requests.push(at);
        text += &format!("{{\"timestamp\":{at},\"input_length\":700,\"output_length\":9}}\n");
    }
    let trace = super::parse(&text).unwrap();
    let fit = Fit::of(&trace, FitOptions::default()).unwrap();
    let ArrivalSettings::Varying { curve, .. } = &fit.settings.arrivals else {
        panic!("{:?}", fit.settings.arrivals)
    };
    let (first, last) = (curve.points[0].1, curve.points.last().unwrap().1);
    assert!((last / first - 3.0).abs() < 0.2, "{first} and {last}");
    let steady = Fit::of(&trace, FitOptions { steady: true }).unwrap();
    assert!((steady.settings.arrivals.rate() / (2_000.0 / 1_200.0) - 1.0).abs() < 0.05);
}

/// A rate that changes every few seconds is fitted as one that does, and chance is not.
#[test]
fn bursts_are_told_from_chance() {
    let mut draws = stream(7, Use::Arrival, 0, 0);
    let mut trace = |is_bursty: bool| {
        let (mut text, mut at_ms, mut from_ms, mut gap_ms) = (String::new(), 0.0, 0.0, 100.0);
        for _ in 0..4_000 {
            if is_bursty && at_ms > from_ms + 8_000.0 {
                (from_ms, gap_ms) = (at_ms, if gap_ms > 100.0 { 40.0 } else { 400.0 });
            }
            at_ms -= gap_ms * (1.0 - draws.random::<f64>()).ln();
            let row = "\"input_length\":700,\"output_length\":9}";
            writeln!(text, "{{\"timestamp\":{at_ms:.0},{row}").unwrap();
        }
        super::parse(&text).unwrap()
    };
    // The variance of the numbers of requests in four seconds, over their mean.
    let dispersion = |trace: &Trace| {
        let place = |row: &TraceRow| usize::try_from(row.at.as_ps() / 4_000_000_000_000).unwrap();
        let mut counts = vec![0.0; place(trace.rows().last().unwrap()) + 1];
        trace.rows().iter().for_each(|row| counts[place(row)] += 1.0);
        let mean = stats::mean(&counts).unwrap();
        counts.iter().map(|count| (count - mean).powi(2)).sum::<f64>() / counts.len() as f64 / mean
    };
    let bursty = trace(true);
    let fit = Fit::of(&bursty, FitOptions::default()).unwrap();
    let drawn = fit.drawn(3);
    let (seen, fitted) = (dispersion(&bursty), dispersion(&drawn));
    assert!(seen > 10.0 && (fitted / seen - 1.0).abs() < 0.25, "{seen} and {fitted}");
    let plain = Fit::of(&trace(false), FitOptions::default()).unwrap();
    let arrivals = &plain.settings.arrivals;
    assert!(matches!(arrivals, ArrivalSettings::Poisson { .. }), "{arrivals:?}");
}

/// Chats of which a turn is followed by no other, or by one or two, in Bailian's format.
fn chats(seed: u64) -> Trace {
    let draw = |chat: u64, what: u64, below: u64| mix(seed ^ mix(chat * 8 + what)) % below;
    let mut rows: Vec<(u64, String)> = Vec::new();
    let mut next_chat = 0u64;
    for session in 0..400 {
        // Chat, the one before, time, and ids of 16 tokens each.
        let ids = |chat: u64, count: u64| (0..count).map(move |i| chat * 1_000 + i);
        let mut open = vec![(next_chat, -1i64, session * 3, Vec::<u64>::new())];
        next_chat += 1;
        while let Some((chat, before, at, mut blocks)) = open.pop() {
            blocks.extend(ids(chat, 20 + draw(chat, 0, 20)));
            rows.push((
                at,
                format!(
                    "{{\"chat_id\": {chat}, \"parent_chat_id\": {before}, \"timestamp\": {at}, \
                 \"input_length\": {}, \"output_length\": 32, \"hash_ids\": {blocks:?}}}\n",
                    blocks.len() * 16
                ),
            ));
            // The answer's two blocks are of this chat.
            blocks.extend([chat * 1_000 + 900, chat * 1_000 + 901]);
            let followers =
                [0, 0, 0, 0, 0, 1, 1, 1, 2, 2][usize::try_from(draw(chat, 1, 10)).unwrap()];
            for _ in 0..followers {
                let wait = 5 + draw(next_chat, 2, 60);
                open.push((next_chat, chat.cast_signed(), at + wait, blocks.clone()));
                next_chat += 1;
            }
        }
    }
    rows.sort_by_key(|row| row.0);
    let text: String = rows.into_iter().map(|(_, row)| row).collect();
    let options = ReadOptions { format: Some(TraceFormat::Bailian), ..ReadOptions::default() };
    file::parse(Path::new("t"), text.as_bytes(), &options).unwrap()
}

#[test]
fn chats_that_branch_are_fitted_as_such() {
    let trace = chats(1);
    assert!(trace.has_branches());
    let fit = Fit::of(&trace, FitOptions { steady: true }).unwrap();
    assert!(fit.summary().contains("; they branch"), "{}", fit.summary());
    // Of ten turns five go on, to seven others in all: two of them are further ones.
    for class in &fit.settings.class {
        assert!((class.branches - 2.0 / 7.0).abs() < 0.1, "{class:?}");
        // After the sixth turn and all later ones: most of them.
        assert!((class.goes_on[class.goes_on.len() - 1] - 0.5).abs() < 0.15, "{class:?}");
    }
    for margin in fit.margins(&trace) {
        // By chance 400 trees differ more than as many chains.
        let most = if margin.is_share { 0.05 } else { 0.15 };
        assert!(margin.error().abs() < most, "{margin:?}");
    }
}

#[test]
fn agents_are_fitted_with_what_they_wait_for() {
    let mut text = String::new();
    for session in 0..40u32 {
        let row = |name: &str, more: &str| {
            let tokens = 600 + session;
            format!(
                "{{\"request_id\": \"{session}{name}\", \"session_id\": \"{session}\", \
                 \"input_length\": {tokens}, \"output_length\": 9, {more}}}\n"
            )
        };
        text += &row("a", &format!("\"timestamp\": {}, \"wait_for\": []", session * 900));
        let after = format!("\"delay\": 500, \"wait_for\": [\"{session}a\"]");
        text += &row("b", &after);
        text += &row("c", &after);
        text += &row("d", &format!("\"wait_for\": [\"{session}b\", \"{session}c\"]"));
    }
    let fit = Fit::of(&super::parse(&text).unwrap(), FitOptions::default()).unwrap();
    let said = "; they branch; 40 requests wait for several answers, those fitted for one";
    assert!(fit.summary().ends_with(said), "{}", fit.summary());
}

#[test]
fn what_cannot_be_fitted_is_refused() {
    let row = "{\"timestamp\":0,\"input_length\":700,\"output_length\":9}\n";
    for text in [row.repeat(50), row.to_owned() + &row.replace(":0,", ":900,")] {
        let invalid = Fit::of(&super::parse(&text).unwrap(), FitOptions::default()).unwrap_err();
        assert_eq!(invalid.key, "trace");
    }
}
