//! Workloads that are fitted to traces whose sessions are known.

use super::super::*;
use crate::id::ConversationId;
use crate::request::Request;
use crate::time::SimTime;
use crate::workload::Workload;
use crate::workload::sessions::{SessionSettings, Sessions};

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
    let crate::workload::arrivals::ArrivalSettings::Varying { curve, .. } = &fit.settings.arrivals
    else {
        panic!("{:?}", fit.settings.arrivals)
    };
    let (first, last) = (curve.points[0].1, curve.points.last().unwrap().1);
    assert!((last / first - 3.0).abs() < 0.2, "{first} and {last}");
    let steady = Fit::of(&trace, FitOptions { steady: true }).unwrap();
    assert!((steady.settings.arrivals.rate() / (2_000.0 / 1_200.0) - 1.0).abs() < 0.05);
}

#[test]
fn what_cannot_be_fitted_is_refused() {
    let row = "{\"timestamp\":0,\"input_length\":700,\"output_length\":9}\n";
    for text in [row.repeat(50), row.to_owned() + &row.replace(":0,", ":900,")] {
        let invalid = Fit::of(&super::parse(&text).unwrap(), FitOptions::default()).unwrap_err();
        assert_eq!(invalid.key, "trace");
    }
}
