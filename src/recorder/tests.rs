//! What a recorder must not get wrong, told by hand.

use super::*;
use crate::event::Lost;
use crate::id::{BlockId, ConversationId};
use crate::request::Content;
use crate::workload::Patience;

const WORKER: WorkerId = WorkerId(0);

fn ms(ms: u64) -> SimTime {
    SimTime::ZERO + SimDuration::from_millis(ms)
}

fn recorder(slo: Slo) -> Recorder {
    let mut recorder = Recorder::new(2, true);
    let begin = SimTime::ZERO;
    recorder.begin_level(Level { begin, quantiles: Quantiles::Requests, slo });
    recorder.begin_window(begin, vec![Gauges::default(); 2]);
    recorder
}

/// Request `id` arrives and is sent to the worker.
fn send(recorder: &mut Recorder, id: u32, now: SimTime) {
    let request = Request {
        id: RequestId(id),
        conversation: ConversationId(id),
        turn: 0,
        prompt_tokens: 100,
        output_tokens: 11,
        max_tokens: 11,
        priority: 0,
        content: Content::new([], BlockId(1 << 40)),
    };
    recorder.arrive(&Arrival { at: now, sent: now, request, patience: Patience::default() });
    recorder.dispatch(now, RequestId(id), WORKER);
}

fn tell(recorder: &mut Recorder, id: u32, now: SimTime, kind: WorkerEventKind) {
    recorder.observe(now, &WorkerEvent { worker: WORKER, request: RequestId(id), kind });
}

/// Request `id` is sent at `id` seconds, gets its first token after `ttft_ms` and ten
/// more, `itl_ms` apart.
fn serve(recorder: &mut Recorder, id: u32, ttft_ms: u64, itl_ms: u64) {
    let sent_ms = u64::from(id) * 1_000;
    send(recorder, id, ms(sent_ms));
    tell(recorder, id, ms(sent_ms), WorkerEventKind::Scheduled { cached_tokens: 0 });
    tell(recorder, id, ms(sent_ms + ttft_ms), WorkerEventKind::FirstToken);
    let end = ms(sent_ms + ttft_ms + 10 * itl_ms);
    tell(recorder, id, end, WorkerEventKind::Finished { output_tokens: 11 });
}

/// The metrics at `now`, whatever gauges would say.
fn metrics(recorder: &mut Recorder, now: SimTime) -> Metrics {
    let gauges = vec![Gauges::default(); 2];
    recorder.metrics(now, &gauges, &Histogram::new()).expect("a window has begun")
}

#[test]
fn goodput_counts_requests_that_meet_every_target() {
    let limit = |ms: u64| Some(SimDuration::from_millis(ms));
    // Both met, exactly; the first missed; the second missed; both missed.
    let served = [(50, 10), (51, 10), (50, 11), (60, 20)];
    for (slo, good) in [
        (Slo { ttft: limit(50), itl: limit(10) }, 1.0),
        (Slo { ttft: limit(50), itl: None }, 2.0),
        (Slo { ttft: None, itl: limit(10) }, 2.0),
    ] {
        let mut recorder = recorder(slo);
        for (id, (ttft, itl)) in (0..).zip(served) {
            serve(&mut recorder, id, ttft, itl);
        }
        let metrics = metrics(&mut recorder, ms(8_000));
        assert_eq!(metrics["goodput_per_s"], Some(good / 8.0), "{slo:?}");
        assert_eq!(metrics["slo_attainment"], Some(good / 4.0), "{slo:?}");
    }
}

#[test]
fn hits_are_those_before_the_first_token_and_of_the_last_start_before_it() {
    let mut recorder = recorder(Slo::default());
    recorder.follow_changes([]);
    let scheduled = |cached_tokens| WorkerEventKind::Scheduled { cached_tokens };
    let lost =
        |id, output_tokens| Lost { request: RequestId(id), output_tokens, last_token_at: ms(20) };
    for (id, output_tokens) in [(0, 0), (1, 3)] {
        let at = |after: u64| ms(u64::from(id) * 100 + after);
        send(&mut recorder, id, at(0));
        tell(&mut recorder, id, at(10), scheduled(30));
        if output_tokens > 0 {
            tell(&mut recorder, id, at(20), WorkerEventKind::FirstToken);
        }
        recorder.lose(at(25), WORKER, &lost(id, output_tokens));
        recorder.migrate(RequestId(id));
        recorder.dispatch(at(30), RequestId(id), WORKER);
        tell(&mut recorder, id, at(40), scheduled(70));
        tell(&mut recorder, id, at(50), WorkerEventKind::FirstToken);
        tell(&mut recorder, id, at(60), WorkerEventKind::Finished { output_tokens: 8 });
    }
    let metrics = metrics(&mut recorder, ms(200));
    // Of 200 prompt tokens the first request found 70 where it got its first token,
    // the second 30; what it found later is no prompt of a client.
    assert_eq!(metrics["hit_ratio"], Some(0.5));
    let requests = recorder.into_requests();
    let cached = |id: usize| requests[id].cached_tokens;
    assert_eq!((cached(0), cached(1)), (70, 30));
    assert_eq!(requests[1].end, Some((ms(160), End::Finished { output_tokens: 11 })));
    assert_eq!(requests[1].first_token, Some(ms(120)));
}

#[test]
fn metrics_in_the_middle_of_a_window_change_nothing() {
    let served = |looks: bool| {
        let mut recorder = recorder(Slo::default());
        for id in 0..20 {
            serve(&mut recorder, id, 50 + u64::from(id) * 7, 10);
            if looks {
                let so_far = metrics(&mut recorder, ms(u64::from(id) * 1_000 + 700));
                assert_eq!(so_far["finished"], Some(f64::from(id + 1)));
            }
        }
        (metrics(&mut recorder, ms(30_000)), recorder.digest())
    };
    assert_eq!(served(true), served(false));
}

#[test]
fn what_is_trailing_is_what_happened_last() {
    let mut recorder = recorder(Slo::default());
    recorder.keep_trailing(SimDuration::from_secs(2));
    for (id, ttft) in [(0, 50), (1, 120), (2, 180)] {
        serve(&mut recorder, id, ttft, 1);
    }
    // From 1 s on: two first tokens, two ends.
    let recent = recorder.recent(ms(3_000)).expect("kept");
    assert_eq!(recent.over, SimDuration::from_secs(2));
    assert_eq!((recent.ttft_ms_p50, recent.itl_ms_mean), (Some(150.0), Some(1.0)));
    assert_eq!((recent.requests_per_s, recent.error_ratio), (1.0, Some(0.0)));
    assert_eq!(recorder.recent(ms(9_000)).expect("kept").ttft_ms_p95, None);
    assert_eq!(recorder.first_tokens(), 3);
}

#[test]
fn a_pool_counts_what_ended_in_the_window_and_time_in_batches_of_its_workers() {
    let pools = vec![("a".into(), 0..1), ("b".into(), 1..2)];
    let mut recorder = Recorder::new(2, true).measure_pools(pools);
    let begin = ms(1_500);
    recorder.begin_level(Level { begin, quantiles: Quantiles::Requests, slo: Slo::default() });
    // Two requests end before the window, and two in it.
    for id in 0..4 {
        if id == 2 {
            recorder.begin_window(begin, vec![Gauges::default(); 2]);
        }
        serve(&mut recorder, id, 100, 10);
    }
    let mut gauges = vec![Gauges::default(); 2];
    gauges[1].running_ps = u128::from(SimDuration::from_secs(6).as_ps());
    let now = ms(5_500);
    let metrics = recorder.metrics(now, &gauges, &Histogram::new()).expect("a window has begun");
    assert_eq!(metrics["pool_requests_per_s[a]"], Some(0.5));
    assert_eq!(metrics["pool_requests_per_s[b]"], Some(0.0));
    assert_eq!(
        (metrics["pool_running_mean[a]"], metrics["pool_running_mean[b]"]),
        (Some(0.0), Some(1.5))
    );
    assert_eq!((metrics["pool_hit_ratio[a]"], metrics["pool_hit_ratio[b]"]), (Some(0.0), None));
    // One of two workers had a request for 0.2 s in two seconds of the four.
    assert_eq!(metrics["inflight_mean"], Some(2.0 * 0.2 / 4.0 / 2.0));
}
