//! Law 4: with an instant host, a worker with admissible work is never idle.

use super::rig::{Draw, any_draws, any_engine, arrivals, cases, lone_request, vllm_config};
use super::script::{Run, Script, play, router};
use kv_router_sim::engine::config::{EngineConfig, HostTime};
use kv_router_sim::engine::step_time::StepTime;
use kv_router_sim::recorder::End;
use kv_router_sim::router::settings::RouterSettings;
use kv_router_sim::time::{SimDuration, SimTime};
use kv_router_sim::workload::Listed;
use proptest::prelude::*;

type Interval = (SimTime, SimTime);

/// The union of intervals, as disjoint ones in order; empty ones vanish.
fn union(mut intervals: Vec<Interval>) -> Vec<Interval> {
    intervals.retain(|(from, to)| from < to);
    intervals.sort_unstable();
    let mut merged: Vec<Interval> = Vec::new();
    for (from, to) in intervals {
        match merged.last_mut() {
            Some(last) if from <= last.1 => last.1 = last.1.max(to),
            _ => merged.push((from, to)),
        }
    }
    merged
}

fn play_alone(config: &EngineConfig, script: Box<Listed>) -> Run {
    let policy = RouterSettings::new("round_robin");
    play(config, 1, script, router(&policy, config, 1), None)
}

/// When some request was at the worker, from its arrival to its end.
fn times_with_requests(run: &Run) -> Vec<Interval> {
    let served = run.records.iter().filter_map(|record| match record.end {
        Some((end, End::Finished { .. })) => Some((record.arrived, end)),
        _ => None,
    });
    union(served.collect())
}

fn times_with_steps(run: &Run) -> Vec<Interval> {
    union(run.steps.iter().map(|step| (step.start, step.end)).collect())
}

proptest! {
    #![proptest_config(cases(1_000))]

    /// Without overlap scheduling a step lasts from boundary to boundary, so
    /// steps fill exactly the time in which there are requests, whatever the
    /// limits, preemptions and reservations.
    #[test]
    fn a_worker_with_requests_runs_steps(config in any_engine(), draws in any_draws()) {
        let instant = HostTime::default();
        let config = EngineConfig { host: instant, overlap: false, ..config };
        let run = play_alone(&config, Script::new(arrivals(&draws, config.block_size)));
        prop_assert_eq!(times_with_steps(&run), times_with_requests(&run));
    }

    /// With memory and budget for everyone, a request waits only while every
    /// place is taken.
    #[test]
    fn nobody_waits_beside_a_free_place(
        draws in any_draws(), places in 1u32..6, prefill_ps in 1u64..60_000_000_000,
    ) {
        let config = EngineConfig {
            num_blocks: 100_000,
            max_num_seqs: places,
            max_num_batched_tokens: 1 << 20,
            fast_forward: false,
            step_time: StepTime::Fixed {
                prefill: SimDuration::from_ps(prefill_ps),
                decode: SimDuration::from_millis(10),
            },
            ..vllm_config()
        };
        let run = play_alone(&config, Script::new(alone(&draws)));
        for waiting in &run.records {
            let scheduled = waiting.scheduled.expect("served");
            let missed = run.steps.iter().map(|step| step.start);
            for boundary in missed.filter(|at| (waiting.arrived..scheduled).contains(at)) {
                let in_batch = run.records.iter().filter(|other| {
                    let (end, _) = other.end.expect("ended");
                    other.scheduled.is_some_and(|at| at <= boundary) && boundary < end
                });
                prop_assert_eq!(in_batch.count(), places as usize, "{:?} at {:?}", waiting, boundary);
            }
        }
    }
}

/// Draws as requests that share nothing, at the same times.
fn alone(draws: &[Draw]) -> Vec<(SimTime, kv_router_sim::request::Request)> {
    let mut requests = arrivals(draws, vllm_config().block_size);
    for (_, request) in &mut requests {
        *request = lone_request(request.id.0, request.prompt_tokens, request.output_tokens);
    }
    requests
}
