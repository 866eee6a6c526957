//! Writes down what the pickers of dynamo-runtime 1.6.1 choose while single workers are left
//! out as they are busy, as JSON.

use serde_json::json;

mod routing_policy {
    #![allow(dead_code, unused_imports)]

    mod types {
        include!(concat!(env!("OUT_DIR"), "/types.rs"));
    }
    pub mod picker {
        include!(concat!(env!("OUT_DIR"), "/picker.rs"));
    }
    pub(crate) use types::{
        AdmissionKind, CandidateView, RouteCandidate, RouteContext, RouteDecision, RouteDevice,
        RoutePolicy, RouteTarget,
    };
}

use routing_policy::picker::BuiltinRoutePicker;

const WORKERS: u64 = 6;

fn main() {
    fastrand::seed(1);
    let in_turn = BuiltinRoutePicker::round_robin();
    let least = BuiltinRoutePicker::least_loaded();
    let of_two = BuiltinRoutePicker::power_of_two_choices();
    let mut free: Vec<u64> = (0..WORKERS).collect();
    let mut steps = Vec::new();
    for _ in 0..1_500 {
        // Who is busy changes now and then; two free workers often, so that a draw of two
        // decides nothing.
        if fastrand::u32(0..5) == 0 {
            let most = if fastrand::bool() { 2 } else { WORKERS as usize };
            free = (0..WORKERS).filter(|_| fastrand::bool()).take(most).collect();
            if free.is_empty() {
                free.push(fastrand::u64(0..WORKERS));
            }
        }
        let loads: Vec<u64> = (0..WORKERS).map(|_| fastrand::u64(0..8)).collect();
        let choice = |picker: &BuiltinRoutePicker| {
            picker.select_worker(&free, |worker| loads[worker as usize]).expect("one is free")
        };
        steps.push(json!([free, loads, choice(&in_turn), choice(&least), choice(&of_two)]));
    }
    let out = json!({ "original": "dynamo-runtime 1.6.1, routing_policy", "steps": steps });
    println!("{out}");
}
