//! Law 11: Little's law. The recorder asserts its exact form at the end of every
//! window (request-seconds seen by workers = request-seconds of requests); here
//! that assertion is shown to see what it should, and the textbook form is
//! checked on a long run.

use super::rig::{closed_loop, lone_request, vllm_config};
use super::script::{play, router};
use kv_router_sim::engine::Gauges;
use kv_router_sim::event::{WorkerEvent, WorkerEventKind};
use kv_router_sim::id::{RequestId, WorkerId};
use kv_router_sim::recorder::{Level, Quantiles, Recorder, Slo};
use kv_router_sim::router::settings::RouterSettings;
use kv_router_sim::time::{SimDuration, SimTime};
use kv_router_sim::workload::Arrival;

fn at(ps: u64) -> SimTime {
    SimTime::from_ps(ps)
}

/// Records one request from `dispatched` to 600, in a window from 100 to 1,000,
/// with gauges that saw it from `seen` to 600; and one that stays from 900 on.
fn record(dispatched: u64, seen: u64) {
    let worker = WorkerId(0);
    let mut recorder = Recorder::new(1, false);
    let (quantiles, slo) = (Quantiles::Requests, Slo::default());
    recorder.begin_level(Level { begin: at(100), quantiles, slo });
    let mut gauges = Gauges::default();
    let mut count = |now: u64, waiting: u32| {
        gauges.advance(at(now));
        gauges.waiting = waiting;
        gauges
    };
    let arrival = |id, now| Arrival::new(at(now), lone_request(id, 9, 1));

    let before = [dispatched, seen].into_iter().max().expect("two times") < 100;
    let window = if before {
        recorder.arrive(&arrival(0, dispatched));
        recorder.dispatch(at(dispatched), RequestId(0), worker);
        count(seen, 1);
        count(100, 1)
    } else {
        count(100, 0)
    };
    recorder.begin_window(at(100), vec![window]);
    if !before {
        recorder.arrive(&arrival(0, dispatched));
        recorder.dispatch(at(dispatched), RequestId(0), worker);
        count(seen, 1);
    }
    for kind in [
        WorkerEventKind::Scheduled { cached_tokens: 0 },
        WorkerEventKind::FirstToken,
        WorkerEventKind::Finished { output_tokens: 1 },
    ] {
        recorder.observe(at(600), &WorkerEvent { worker, request: RequestId(0), kind });
    }
    count(600, 0);
    recorder.arrive(&arrival(1, 900));
    recorder.dispatch(at(900), RequestId(1), worker);
    count(900, 1);
    recorder.end_window(at(1_000), &[count(1_000, 1)], &Default::default());
}

#[test]
fn requests_are_counted_inside_the_window_only() {
    record(50, 50);
    record(300, 300);
}

#[test]
#[should_panic(expected = "left: 399")]
fn a_picosecond_that_a_worker_misses_is_seen() {
    // 300 of the one request and 100 of the other were in the window.
    record(300, 301);
}

#[test]
#[should_panic(expected = "Little's law, window 0.000000000 s to 0.000000001 s")]
fn a_picosecond_that_a_worker_makes_up_is_seen() {
    record(301, 300);
}

/// Mean in flight = rate x mean time in the fleet, but for those that are in
/// flight when the window begins or ends.
#[test]
fn mean_inflight_is_rate_times_residence() {
    let toml = r#"
        concurrency = 40
        starters = 5
        starter_tokens = { kind = "uniform", min = 100, max = 400 }
        turns = { min = 1, max = 5 }
        question_tokens = { kind = "uniform", min = 5, max = 90 }
        output_tokens = { kind = "exponential", mean = 60, min = 1, max = 300 }
        think_time = { kind = "exponential", mean = "500ms", min = "0s", max = "5s" }
    "#;
    let loops = toml::from_str(toml).expect("settings");
    let config = vllm_config();
    let router = router(&RouterSettings::new("kv"), &config, 3);
    let window = SimDuration::from_secs(2_000);
    let run = play(&config, 3, closed_loop(&loops, &config, 5), router, Some(window));

    let finished: Vec<SimDuration> = run
        .records
        .iter()
        .filter_map(|record| Some(record.end?.0 - record.dispatched?.0))
        .collect();
    assert!(finished.len() > 50_000, "{} requests", finished.len());
    let total: SimDuration = finished.iter().copied().sum();
    let rate = finished.len() as f64 / window.as_secs();
    let residence_s = total.as_secs() / finished.len() as f64;
    let inflight = run.metrics["inflight_mean"].expect("known") * 3.0;
    // What 40 requests in flight at the end can add.
    let longest = finished.iter().max().expect("requests").as_secs();
    let edge = 40.0 * longest / window.as_secs();
    let difference = inflight - rate * residence_s;
    assert!(
        (0.0..=edge).contains(&difference),
        "{inflight} = {rate} x {residence_s} + {difference}"
    );
    assert!(edge < 0.1, "the edges of the window must not matter: {edge}");
    let counted = |name: &str| run.metrics[name].expect("known") * 3.0;
    assert!((counted("running_mean") + counted("waiting_mean") - inflight).abs() < 1e-9);
    assert!((run.metrics["requests_per_s"].expect("known") - rate).abs() < 1e-9);
}
