//! Laws 1 and 3: every request ends once, and causes come before effects.

use super::rig::{any_conversations, any_draws, any_engine, any_policy, arrivals, cases};
use super::rig::{closed_loop, vllm_config};
use super::script::{Run, Script, front_end, play, router};
use kv_router_sim::event::{WorkerEvent, WorkerEventKind};
use kv_router_sim::id::{RequestId, WorkerId};
use kv_router_sim::recorder::{End, RequestRecord};
use kv_router_sim::request::RouteRequest;
use kv_router_sim::router::settings::RouterSettings;
use kv_router_sim::router::{ClusterView, Policy, Release, Verdict};
use kv_router_sim::simulation::Stuck;
use kv_router_sim::time::{SimDuration, SimTime};
use proptest::prelude::*;

/// Requests are numbered in order, each was recorded once, and each was sent to
/// at most one worker.
fn everyone_is_accounted_for(run: &Run) -> Result<(), TestCaseError> {
    let ids: Vec<u32> = run.records.iter().map(|record| record.request.0).collect();
    let all: Vec<u32> = (0..).take(ids.len()).collect();
    prop_assert_eq!(ids, all);
    let mut sent: Vec<RequestId> = run.submitted.iter().map(|&(_, _, request)| request).collect();
    sent.sort_unstable();
    let dispatched = run.records.iter().filter(|record| record.dispatched.is_some());
    let dispatched: Vec<RequestId> = dispatched.map(|record| record.request).collect();
    prop_assert_eq!(sent, dispatched);
    Ok(())
}

/// What the workers said of a request is a whole life, in order, and it is what
/// was recorded.
fn a_life_in_order(
    record: &RequestRecord,
    life: &[(SimTime, WorkerEvent)],
) -> Result<(), TestCaseError> {
    use WorkerEventKind::{
        Finished, FirstToken, KvReceived, Loaded, OutputBlock, Preempted, Prefilled, Rejected,
        Scheduled,
    };
    let (mut scheduled, mut first_token, mut finished, mut preemptions) = (None, None, None, 0);
    for &(at, event) in life {
        prop_assert!(finished.is_none(), "{event:?} after the end");
        let (sent_to, worker) = record.dispatched.expect("only dispatched requests live");
        prop_assert!(worker == event.worker && at >= sent_to, "{event:?}, {record:?}");
        match event.kind {
            Scheduled { .. } => prop_assert!(scheduled.replace(at).is_none(), "twice: {life:?}"),
            Preempted => {
                prop_assert!(scheduled.is_some(), "{life:?}");
                preemptions += 1;
            }
            Loaded { tokens, .. } => {
                prop_assert!(first_token.is_none() || preemptions > 0, "{life:?}");
                prop_assert!(tokens.iter().any(|&tokens| tokens > 0), "{life:?}");
            }
            FirstToken => {
                prop_assert!(scheduled.is_some(), "{life:?}");
                prop_assert!(first_token.replace(at).is_none(), "twice: {life:?}");
            }
            OutputBlock { output_tokens } => {
                prop_assert!(first_token.is_some() && output_tokens > 1, "{life:?}");
            }
            Finished { .. } => {
                prop_assert!(first_token.is_some(), "{life:?}");
                finished = Some(at);
            }
            WorkerEventKind::CacheHit { .. } => prop_assert!(false, "servers only: {life:?}"),
            Rejected(_) => prop_assert!(false, "workers refuse at once: {life:?}"),
            Prefilled | KvReceived { .. } => prop_assert!(false, "one pool: {life:?}"),
            WorkerEventKind::Failed => prop_assert!(false, "no worker died: {life:?}"),
            WorkerEventKind::Aborted => prop_assert!(false, "no client hung up: {life:?}"),
            other => prop_assert!(false, "{other:?} has no place in {life:?}"),
        }
    }
    prop_assert_eq!(record.scheduled, scheduled);
    prop_assert_eq!(record.first_token, first_token);
    prop_assert_eq!(record.preemptions, preemptions);
    match record.end {
        Some((at, End::Finished { output_tokens })) => {
            prop_assert_eq!(Some(at), finished);
            prop_assert!(output_tokens > 0);
            prop_assert!(record.cached_tokens < record.prompt_tokens);
        }
        Some((_, End::Rejected(_))) => prop_assert!(life.is_empty(), "{life:?}"),
        Some((_, End::Failed)) => prop_assert!(false, "no worker died: {record:?}"),
        Some((_, other)) => prop_assert!(false, "nothing here ends by {other:?}: {record:?}"),
        None => prop_assert!(finished.is_none()),
    }
    Ok(())
}

fn times_in_order(record: &RequestRecord) -> Result<(), TestCaseError> {
    let dispatched = record.dispatched.map(|(at, _)| at);
    let end = record.end.map(|(at, _)| at);
    let times =
        [Some(record.sent), Some(record.arrived), dispatched, record.scheduled, record.first_token];
    let times: Vec<SimTime> = times.into_iter().chain([end]).flatten().collect();
    prop_assert!(times.is_sorted(), "{record:?}");
    Ok(())
}

/// Every request lived once, in order.
pub(crate) fn check(run: &Run) -> Result<(), TestCaseError> {
    everyone_is_accounted_for(run)?;
    let times: Vec<SimTime> = run.events.iter().map(|&(at, _)| at).collect();
    prop_assert!(times.is_sorted(), "time went back among the events");
    let mut lives = vec![Vec::new(); run.records.len()];
    for &(at, event) in &run.events {
        lives[event.request.index()].push((at, event));
    }
    for (record, life) in run.records.iter().zip(&lives) {
        a_life_in_order(record, life)?;
        times_in_order(record)?;
    }
    for step in &run.steps {
        prop_assert!(step.start <= step.end && step.steps > 0, "{step:?}");
        prop_assert!(step.prefill_seqs + step.decode_seqs > 0, "an empty step: {step:?}");
    }
    Ok(())
}

proptest! {
    #![proptest_config(cases(1_000))]

    #[test]
    fn every_request_of_an_open_loop_ends_once(
        config in any_engine(), policy in any_policy(), draws in any_draws(), workers in 1u32..5,
    ) {
        let script = Script::new(arrivals(&draws, config.block_size));
        let run = play(&config, workers, script, router(&policy, &config, workers), None);
        check(&run)?;
        prop_assert_eq!(run.records.len(), draws.len());
        let output_asked_for = draws.iter().map(|draw| draw.4);
        for (record, asked) in run.records.iter().zip(output_asked_for) {
            match record.end {
                Some((_, End::Finished { output_tokens })) => {
                    let room = config.max_model_len - record.prompt_tokens;
                    prop_assert_eq!(output_tokens, asked.min(room));
                }
                Some(_) => {}
                None => prop_assert!(false, "{:?} never ended", record),
            }
        }
    }

    #[test]
    fn every_request_of_a_closed_loop_ends_once_or_is_unfinished(
        config in any_engine(), policy in any_policy(), loops in any_conversations(),
        workers in 1u32..4, seed: u64,
    ) {
        let workload = closed_loop(&loops, &config, seed);
        let window = Some(SimDuration::from_millis(1_500));
        let run = play(&config, workers, workload, router(&policy, &config, workers), window);
        check(&run)?;
        let unfinished = run.records.iter().filter(|record| record.end.is_none()).count();
        prop_assert!(unfinished <= loops.concurrency as usize);
    }
}

/// Routers that hold requests back, turn them away, listen to outputs or guess.
fn any_choosy_router() -> impl Strategy<Value = RouterSettings> {
    let settings = [
        "queue_threshold = 0.0",
        "queue_threshold = 0.3\nqueue_order = \"wspt\"",
        "queue_threshold = 0.05\nqueue_order = \"lcfs\"\nactive_prefill_tokens_threshold = 90",
        "active_prefill_tokens_threshold = 40\nactive_decode_blocks_threshold = 0.5",
        "semantics = \"0.9\"\nactive_decode_blocks_threshold = 0.3",
        "track_output_blocks = true",
        "track_output_blocks = true\nexpected_output_tokens = 30\nqueue_threshold = 0.2",
        "use_kv_events = false\napproximate_ttl = \"200ms\"",
        "use_kv_events = false\nsemantics = \"0.9\"\napproximate_max_blocks = 20",
    ];
    let policy = prop::sample::select(vec!["kv", "dynamo", "shadow"]);
    (policy, prop::sample::select(settings.to_vec()))
        .prop_map(|(policy, rest)| {
            toml::from_str::<RouterSettings>(&format!("policy = \"{policy}\"\n{rest}"))
                .expect("settings")
        })
        .prop_filter("in this build and version", |settings| settings.validate().is_ok())
}

proptest! {
    #![proptest_config(cases(600))]

    /// Held requests go, and the turned away ones are counted.
    #[test]
    fn every_request_of_a_choosy_router_ends_once(
        config in any_engine(), settings in any_choosy_router(), draws in any_draws(),
        workers in 1u32..5,
    ) {
        let script = Script::new(arrivals(&draws, config.block_size));
        let run = play(&config, workers, script, router(&settings, &config, workers), None);
        check(&run)?;
        prop_assert_eq!(run.records.len(), draws.len());
        prop_assert!(run.records.iter().all(|record| record.end.is_some()));
        let rejected = |record: &&RequestRecord| matches!(record.end, Some((_, End::Rejected(_))));
        let turned_away = run.records.iter().filter(rejected).count();
        prop_assert_eq!(run.metrics["rejected"], Some(turned_away as f64));
    }
}

/// Keeps every request.
struct Miser;

impl Policy for Miser {
    fn route(&mut self, _: SimTime, _: &RouteRequest<'_>, _: &ClusterView<'_>) -> Verdict {
        Verdict::Hold
    }
}

/// Turns every request away.
struct Bouncer;

impl Policy for Bouncer {
    fn route(&mut self, _: SimTime, _: &RouteRequest<'_>, _: &ClusterView<'_>) -> Verdict {
        Verdict::Reject(kv_router_sim::event::RejectReason::Policy)
    }
}

#[test]
fn a_policy_that_keeps_requests_is_found_out() {
    let requests = (0..3).map(|id| (SimTime::ZERO, super::rig::lone_request(id, 10, 1)));
    let run =
        || play(&vllm_config(), 2, Script::new(requests), front_end(Box::new(Miser), 2), None);
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).err();
    let panic = panic.expect("nothing can ever end");
    let message = panic.downcast_ref::<String>().expect("a message");
    let stuck = Stuck::Unfinished { at: SimTime::ZERO, unfinished: 3 };
    assert!(message.contains(&format!("{stuck:?}")), "{message}");
}

#[test]
fn a_policy_that_turns_requests_away_is_recorded() {
    let requests = (0..3).map(|id| (SimTime::ZERO, super::rig::lone_request(id, 10, 1)));
    let bouncer = front_end(Box::new(Bouncer), 2);
    let run = play(&vllm_config(), 2, Script::new(requests), bouncer, None);
    check(&run).unwrap();
    assert_eq!(run.metrics["rejected"], Some(3.0));
    assert_eq!(run.metrics["error_ratio"], Some(1.0));
    assert!(run.submitted.is_empty());
}

/// Holds everything, and lets one request go at each of its wake-up times.
struct Gate {
    held: Vec<RequestId>,
    opens_every: SimDuration,
    next: SimTime,
}

impl Policy for Gate {
    fn route(&mut self, _: SimTime, request: &RouteRequest<'_>, _: &ClusterView<'_>) -> Verdict {
        self.held.push(request.id);
        Verdict::Hold
    }

    fn release(&mut self, now: SimTime, _: &ClusterView<'_>) -> Option<Release> {
        if now < self.next || self.held.is_empty() {
            return None;
        }
        self.next = now + self.opens_every;
        Some((self.held.remove(0), Ok(WorkerId(0))))
    }

    fn wake_at(&self) -> Option<SimTime> {
        (!self.held.is_empty()).then_some(self.next)
    }
}

#[test]
fn held_requests_go_when_their_policy_wakes() {
    let at_ms = |ms| SimTime::ZERO + SimDuration::from_millis(ms);
    let requests = (0..3).map(|id| (at_ms(1), super::rig::lone_request(id, 10, 5)));
    let gate =
        Gate { held: Vec::new(), opens_every: SimDuration::from_millis(700), next: at_ms(500) };
    let run = play(&vllm_config(), 1, Script::new(requests), front_end(Box::new(gate), 1), None);
    check(&run).unwrap();
    let sent: Vec<SimTime> = run.submitted.iter().map(|&(at, ..)| at).collect();
    assert_eq!(sent, [at_ms(500), at_ms(1_200), at_ms(1_900)]);
    // 20 ms of prefill and four decode steps of 10 ms, from each of those times.
    let ends = run.records.iter().map(|record| record.end.expect("an end").0);
    assert_eq!(ends.collect::<Vec<_>>(), [at_ms(560), at_ms(1_260), at_ms(1_960)]);
    // They came at 1 ms; the wait is a part of the time to first token.
    assert_eq!(run.metrics["router_queue_ms_mean"], Some((499.0 + 1_199.0 + 1_899.0) / 3.0));
    assert_eq!(run.metrics["queue_ms_max"], Some(0.0));
    assert_eq!(run.metrics["ttft_ms_max"], Some(1_919.0));
}
