//! The fleet of real servers, against servers that misbehave: whatever they do,
//! every request ends, with a reason where it was not served.

mod misbehaving;
mod served;
mod server;

use super::rig::vllm_config;
use super::script::router;
use kv_router_sim::engine::config::EngineConfig;
use kv_router_sim::event::RejectReason;
use kv_router_sim::fleet::Pools;
use kv_router_sim::fleet::servers::{FailedRequest, Failure, Limits, LiveFleet, LiveSettings};
use kv_router_sim::recorder::{End, Quantiles, Recorder, RequestRecord, Slo};
use kv_router_sim::router::settings::RouterSettings;
use kv_router_sim::simulation::{Outcome, Schedule, ScheduledLevel, Simulation};
use kv_router_sim::time::{SimDuration, SimTime};
use kv_router_sim::workload::requests::{RequestSettings, Requests};
use server::{Fault, Server};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

fn settings(servers: &[Server]) -> LiveSettings {
    LiveSettings {
        urls: servers.iter().map(|server| server.url.clone()).collect(),
        limits: Limits {
            connect: Duration::from_secs(2),
            silence: Duration::from_millis(700),
            total: Duration::from_secs(10),
        },
        ..LiveSettings::default()
    }
}

fn schedule() -> Schedule {
    Schedule {
        levels: vec![ScheduledLevel::measured(0)],
        in_bursts: false,
        warmup: SimDuration::ZERO,
        window: None,
        quantiles: Quantiles::Requests,
        slo: Slo::default(),
    }
}

/// Sends `count` requests, `concurrency` at a time, to the servers in turn.
fn send(
    servers: &[Server],
    count: u32,
    concurrency: u32,
) -> (Vec<RequestRecord>, Vec<FailedRequest>) {
    let config = vllm_config();
    let workers = u32::try_from(servers.len()).expect("few");
    let pools = Pools::one(workers, &Arc::new(config.clone()));
    let mut fleet = LiveFleet::connect(&settings(servers), &pools, None, false).expect("servers");
    let toml = format!(
        "concurrency = {concurrency}\ncount = {count}\n
         prompt_tokens = {{ kind = 'uniform', min = 20, max = 900 }}\noutput_tokens = {{ kind = 'constant', value = 8 }}"
    );
    let requests: RequestSettings = toml::from_str(&toml).expect("settings");
    let workload = Requests::new(requests, config.block_size, 3);
    let front_end = router(&RouterSettings::new("round_robin"), &config, workers);
    fleet.start();
    let recorder = Recorder::new(workers, true);
    let mut simulation =
        Simulation::new(fleet, Box::new(workload), vec![front_end], recorder, config.block_size)
            .measure(schedule());
    simulation.advance(SimTime::MAX).expect("it ends");
    let Outcome { mut levels, recorder, fleet, .. } = simulation.finish();
    let metrics = levels.remove(0);
    let failed = fleet.failed().to_vec();
    let records = recorder.into_requests();

    assert_eq!(records.len(), count as usize);
    let rejected = records
        .iter()
        .filter(|record| matches!(record.end, Some((_, End::Rejected(RejectReason::Server)))));
    let rejected: Vec<u32> = rejected.map(|record| record.request.0).collect();
    let told: Vec<u32> = failed.iter().map(|failed| failed.request.0).collect();
    assert_eq!(rejected, told, "a reason for every request that was not served");
    assert!(records.iter().all(|record| record.end.is_some()), "{records:?}");
    let finished = metrics["finished"].expect("counted");
    assert_eq!(finished + metrics["rejected"].expect("counted"), f64::from(count));
    (records, failed)
}

/// Six requests to a server that is well and one with `fault`, in turn: those of
/// the first are served; what became of the others.
fn beside(fault: Fault) -> Vec<Failure> {
    let config = vllm_config();
    let servers = [Server::start(Fault::None, &config), Server::start(fault, &config)];
    let (records, failed) = send(&servers, 6, 2);
    for record in &records {
        let (_, worker) = record.dispatched.expect("sent");
        if worker.0 == 0 {
            let (_, end) = record.end.expect("ended");
            assert_eq!(end, End::Finished { output_tokens: 8 }, "{record:?}");
            assert_eq!(record.cached_tokens, 7);
            assert!(record.first_token > record.dispatched.map(|(at, _)| at));
        }
    }
    assert!(failed.iter().all(|failed| failed.worker.0 == 1), "{failed:?}");
    failed.into_iter().map(|failed| failed.failure).collect()
}

#[test]
fn a_server_that_dies_in_mid_stream_fails_its_requests_only() {
    let failures = beside(Fault::Killed(3));
    assert_eq!(failures.len(), 3);
    assert!(matches!(failures[0], Failure::Cut { tokens: 3, .. }), "{failures:?}");
    for later in &failures[1..] {
        assert!(matches!(later, Failure::NoAnswer(_) | Failure::Cut { .. }), "{failures:?}");
    }
}

#[test]
fn a_server_that_never_answers_is_waited_for_as_long_as_told() {
    let failures = beside(Fault::Silent);
    assert_eq!(failures, vec![Failure::Silent(Duration::from_millis(700)); 3]);
}

#[test]
fn resets_and_broken_streams_are_failures_with_their_reason() {
    for failure in beside(Fault::Reset) {
        assert!(matches!(failure, Failure::NoAnswer(_)), "{failure}");
    }
    for fault in [Fault::HalfChunk, Fault::NoDone, Fault::ErrorChunk] {
        let failures = beside(fault);
        assert_eq!(failures.len(), 3, "{fault:?}");
        for failure in failures {
            assert!(matches!(failure, Failure::Cut { tokens: 2, .. }), "{fault:?}: {failure}");
        }
    }
    let died = beside(Fault::ErrorChunk);
    assert!(died[0].to_string().contains("EngineDeadError"), "{died:?}");
}

#[test]
fn nonsense_is_a_failure_that_shows_it() {
    for (fault, kind, shown) in [
        (Fault::BadJson, "malformed", "oops"),
        (Fault::NoUsage, "malformed", "no usage"),
        (Fault::TooMany, "wrong length", "9 tokens where 8 were asked for"),
        (Fault::TooFew, "wrong length", "4 tokens where 8 were asked for"),
        (Fault::OtherPrompt, "contradiction", "prompt tokens where"),
        (Fault::OtherCount, "contradiction", "13 output tokens where 8 came"),
        (Fault::TooMuchCached, "contradiction", "cached tokens of a prompt of"),
    ] {
        let failures = beside(fault);
        assert_eq!(failures.len(), 3, "{fault:?}");
        for failure in failures {
            assert_eq!(failure.kind(), kind, "{failure}");
            assert!(failure.to_string().contains(shown), "{failure}");
        }
    }
}

#[test]
fn refusals_are_told_with_status_and_message() {
    for status in [400, 404] {
        let message = "no, thank you".to_owned();
        assert_eq!(beside(Fault::Status(status)), vec![Failure::Status { status, message }; 3]);
    }
}

#[test]
fn only_what_no_server_began_is_sent_again() {
    let config = vllm_config();
    let tries = |fault| {
        let server = Server::start(fault, &config);
        let completions = std::sync::Arc::clone(&server.completions);
        let (_, failed) = send(&[server], 1, 1);
        // Without the trial.
        (completions.load(Ordering::SeqCst) - 1, failed.len())
    };
    assert_eq!(tries(Fault::Busy(2)), (3, 0));
    assert_eq!(tries(Fault::Status(503)), (3, 1));
    for fault in [Fault::Status(400), Fault::NoDone, Fault::Silent] {
        assert_eq!(tries(fault), (1, 1), "{fault:?}");
    }
}

#[test]
fn slow_readers_and_bundled_tokens_are_no_fault() {
    assert_eq!(beside(Fault::SlowReader), []);
    assert_eq!(beside(Fault::Bundles), []);
}

#[test]
fn two_hundred_streams_at_once_all_end() {
    let config = vllm_config();
    let servers = [Server::start(Fault::None, &config), Server::start(Fault::Bundles, &config)];
    let (records, failed) = send(&servers, 400, 200);
    assert_eq!(failed, []);
    assert!(
        records
            .iter()
            .all(|r| r.end.is_some_and(|(_, end)| end == End::Finished { output_tokens: 8 }))
    );
}

#[test]
fn a_server_that_is_not_the_experiments_is_refused_with_both_values() {
    let config = vllm_config();
    let server = Server::start(Fault::None, &config);
    let refused = |url: &str, model: Option<&str>, engine: &EngineConfig| {
        let settings = LiveSettings {
            urls: vec![url.to_owned()],
            model: model.map(str::to_owned),
            ..settings(&[])
        };
        let pools = Pools::one(1, &Arc::new(engine.clone()));
        let error = LiveFleet::connect(&settings, &pools, None, false).expect_err("refused");
        error.to_string().replace(url, "URL")
    };
    let url = server.url.as_str();
    for (refusal, parts) in [
        (
            refused(url, None, &EngineConfig { block_size: 32, ..config.clone() }),
            "worker URL: block_size is 16 there and 32 in the experiment: restart the server, or set \
             engine.block_size = 16",
        ),
        (
            refused(url, None, &EngineConfig { num_blocks: 999, ..config.clone() }),
            "the number of usable KV blocks is 1000 there and 999 in the experiment",
        ),
        (
            refused(url, None, &EngineConfig { max_model_len: 8192, ..config.clone() }),
            "max_model_len is 4096 there and 8192 in the experiment",
        ),
        (
            refused(url, None, &EngineConfig { prefix_caching: false, ..config.clone() }),
            "prefix_caching is true there and false in the experiment",
        ),
        (
            refused(url, Some("llama"), &config),
            "the model is tiny there and llama in the experiment: ask for one that it serves",
        ),
        (
            refused("ftp://x", None, &config),
            "not an address of a server; like http://127.0.0.1:8000",
        ),
        (refused("http://127.0.0.1:1", None, &config), "worker URL: /version: no answer: "),
    ] {
        assert!(refusal.contains(parts), "{refusal}");
        assert_eq!(refusal.lines().count(), 1, "{refusal}");
    }
    let settings = settings(&[server]);
    let pools = Pools::one(1, &Arc::new(config));
    let error = LiveFleet::connect(&settings, &pools, None, true).expect_err("no KV events");
    assert!(error.to_string().contains("--kv-events-config"), "{error}");
}
