//! Every request of a run as a table: `requests.csv`.

use crate::experiment::SimulationRequests;
use crate::recorder::{End, RequestRecord, RequestWhy};
use crate::report::view::plain;
use crate::time::SimTime;
use std::collections::BTreeSet;

const COLUMNS: [&str; 21] = [
    "seed",
    "request",
    "conversation",
    "turn",
    "priority",
    "worker",
    "end",
    "prompt_tokens",
    "cached_tokens",
    "output_tokens",
    "preemptions",
    "regret_blocks",
    "eviction_tokens",
    "wrong_worker_tokens",
    "stale_index_tokens",
    "sent_ms",
    "first_dispatched_ms",
    "last_dispatched_ms",
    "scheduled_ms",
    "first_token_ms",
    "end_ms",
];

/// One row per request, in order of simulations and of ends: the simulation's
/// parameters, its seed, then what the client, the router and the worker saw.
/// Times are milliseconds since the start of the simulation; what did not
/// happen is empty. `sent`, `first_dispatched`, `scheduled` (first in a batch),
/// `first_token` and `end` follow each other in this order; a request that moved to
/// another worker was sent there at `last_dispatched`. `end` is `finished`, `rejected`, `failed` or `unfinished` (the run
/// was over first).
pub fn to_csv(simulations: &[SimulationRequests]) -> String {
    let params: BTreeSet<&String> = simulations.iter().flat_map(|s| s.params.keys()).collect();
    let mut writer = csv::Writer::from_writer(Vec::new());
    let names = params.iter().map(|key| key.as_str()).chain(COLUMNS);
    writer.write_record(names).expect("memory takes every byte");
    for simulation in simulations {
        let values: Vec<String> = params
            .iter()
            .map(|&key| simulation.params.get(key).map(plain).unwrap_or_default())
            .collect();
        for record in &simulation.records {
            let row = values.iter().cloned().chain(cells(simulation.seed, record));
            writer.write_record(row).expect("rows of equal length into memory");
        }
    }
    let bytes = writer.into_inner().expect("memory takes every byte");
    String::from_utf8(bytes).expect("made from text")
}

fn cells(seed: u64, record: &RequestRecord) -> [String; 21] {
    let ms = |at: Option<SimTime>| at.map(|at| at.as_millis().to_string()).unwrap_or_default();
    let why = |number: fn(&RequestWhy) -> u32| {
        record.why.as_ref().map(|why| number(why).to_string()).unwrap_or_default()
    };
    let (end, output_tokens) = match record.end {
        Some((_, End::Finished { output_tokens })) => ("finished", output_tokens.to_string()),
        Some((_, End::Rejected(_))) => ("rejected", String::new()),
        Some((_, End::Failed)) => ("failed", String::new()),
        Some((_, End::GivenUp)) => ("given up", String::new()),
        None => ("unfinished", String::new()),
    };
    [
        seed.to_string(),
        record.request.to_string(),
        record.conversation.to_string(),
        record.turn.to_string(),
        record.priority.to_string(),
        record.dispatched.map(|(_, worker)| worker.to_string()).unwrap_or_default(),
        end.to_owned(),
        record.prompt_tokens.to_string(),
        record.cached_tokens.to_string(),
        output_tokens,
        record.preemptions.to_string(),
        why(|why| why.regret_blocks),
        why(|why| why.eviction_tokens),
        why(|why| why.wrong_worker_tokens),
        why(|why| why.stale_index_tokens),
        ms(Some(record.sent)),
        ms(record.first_dispatched),
        ms(record.stay().map(|(at, _)| at)),
        ms(record.first_scheduled),
        ms(record.first_token),
        ms(record.end.map(|(at, _)| at)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{RequestId, WorkerId};
    use serde_json::json;

    #[test]
    fn what_did_not_happen_is_empty() {
        let at = |ms: u64| SimTime::from_ps(ms * 1_000_000_000);
        let finished = RequestRecord {
            request: RequestId(0),
            conversation: 4,
            turn: 1,
            prompt_tokens: 100,
            asked_tokens: 9,
            priority: -2,
            sent: at(1),
            arrived: at(2),
            first_dispatched: Some(at(2)),
            dispatched: Some((at(2), WorkerId(1))),
            first_scheduled: Some(at(3)),
            scheduled: Some(at(3)),
            handover: None,
            cached_tokens: 64,
            first_token: Some(at(5)),
            given_up: None,
            refused: None,
            end: Some((at(9), End::Finished { output_tokens: 7 })),
            preemptions: 0,
            why: Some(RequestWhy { regret_blocks: 3, eviction_tokens: 32, ..Default::default() }),
        };
        let unfinished = RequestRecord {
            request: RequestId(1),
            first_token: None,
            end: None,
            why: None,
            ..finished
        };
        let simulation = SimulationRequests {
            params: [("router.policy".to_owned(), json!("kv"))].into(),
            seed: 3,
            records: vec![finished, unfinished],
        };
        let csv = to_csv(&[simulation]);
        let rows: Vec<&str> = csv.lines().collect();
        assert_eq!(rows[1], "kv,3,0,4,1,-2,1,finished,100,64,7,0,3,32,0,0,1,2,2,3,5,9");
        assert_eq!(rows[2], "kv,3,1,4,1,-2,1,unfinished,100,64,,0,,,,,1,2,2,3,,");
    }
}
