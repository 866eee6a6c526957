//! Law 12: reduced to queues that have a formula, the simulator agrees with it.
//!
//! Waiting times of one run depend on each other, so the interval of a mean
//! comes from batch means: the run is cut into 25 long batches whose means are
//! nearly independent. The theory must lie within twice the half-width of the
//! 95 % interval, about four standard errors, and that must be narrow enough to
//! mean something.

use super::rig::{lone_request, vllm_config};
use super::script::{Script, front_end, play, router};
use kv_router_sim::engine::config::EngineConfig;
use kv_router_sim::engine::step_time::StepTime;
use kv_router_sim::id::{RequestId, WorkerId};
use kv_router_sim::recorder::RequestRecord;
use kv_router_sim::request::{Request, RouteRequest};
use kv_router_sim::rng::{Stream, Use, stream};
use kv_router_sim::router::settings::RouterSettings;
use kv_router_sim::router::{ClusterView, Policy, Release, Verdict};
use kv_router_sim::stats;
use kv_router_sim::time::{SimDuration, SimTime};
use rand_distr::{Distribution as _, Exp, Geometric};
use std::collections::VecDeque;

const BATCHES: usize = 25;

/// `count` Poisson arrivals, `rate_per_s` of them a second, of requests that
/// share nothing.
fn poisson(
    count: u32,
    rate_per_s: f64,
    mut request: impl FnMut(u32, &mut Stream) -> Request,
) -> Vec<(SimTime, Request)> {
    let mut draws = stream(1, Use::Conversation, 0, 0);
    let gap = Exp::new(rate_per_s).expect("a rate");
    let mut now = SimTime::ZERO;
    (0..count)
        .map(|id| {
            now += SimDuration::from_secs_f64(gap.sample(&mut draws));
            (now, request(id, &mut draws))
        })
        .collect()
}

/// Compares the mean of `wait_s` over `records` with `theory_s`; `slack_s` is
/// what the reduction itself may add.
fn agrees(
    what: &str,
    records: &[RequestRecord],
    wait_s: impl Fn(&RequestRecord) -> f64,
    theory_s: f64,
    slack_s: f64,
) {
    let size = records.len() / BATCHES;
    let mean = |batch: &[RequestRecord]| batch.iter().map(&wait_s).sum::<f64>() / size as f64;
    let means: Vec<f64> = records.chunks_exact(size).map(mean).collect();
    assert_eq!(means.len(), BATCHES);
    let (mean_s, interval) = stats::mean_ci95(&means).expect("batches");
    let half_s = interval.expect("many batches")[1] - mean_s;
    let says = format!("{what}: {mean_s} +- {half_s} s, theory {theory_s} s");
    assert!(half_s < 0.1 * theory_s, "too wide to say anything: {says}");
    assert!((mean_s - theory_s).abs() <= 2.0 * half_s + slack_s, "{says}");
}

fn queued_s(record: &RequestRecord) -> f64 {
    (record.scheduled.expect("served") - record.arrived).as_secs()
}

/// One place and a fixed step per request: the wait is that of Pollaczek and
/// Khinchine, `rho D / 2 (1 - rho)`.
#[test]
fn one_place_with_fixed_steps_is_m_d_1() {
    let service = SimDuration::from_millis(20);
    let config = EngineConfig {
        max_num_seqs: 1,
        step_time: StepTime::Fixed { prefill: service, decode: SimDuration::from_millis(10) },
        ..vllm_config()
    };
    for (load, count) in [(0.3, 20_000), (0.6, 40_000), (0.85, 150_000)] {
        let rate_per_s = load / service.as_secs();
        let requests = poisson(count, rate_per_s, |id, _| lone_request(id, 100, 1));
        let policy = RouterSettings::new("round_robin");
        let run = play(&config, 1, Script::new(requests), router(&policy, &config, 1), None);
        let theory_s = load * service.as_secs() / (2.0 * (1.0 - load));
        agrees(&format!("M/D/1 at {load}"), &run.records, queued_s, theory_s, 0.0);
        let served = |record: &RequestRecord| {
            record.end.expect("ended").0 - record.scheduled.expect("served") == service
        };
        assert!(run.records.iter().all(served));
    }
}

/// Erlang's C: the probability that all of `places` are taken when `offered`
/// of them are on average.
fn erlang_c(places: u32, offered: f64) -> f64 {
    let mut blocking = 1.0; // Erlang's B, by recursion from no places
    for n in 1..=places {
        blocking = offered * blocking / (f64::from(n) + offered * blocking);
    }
    let load = offered / f64::from(places);
    blocking / (1.0 - load * (1.0 - blocking))
}

/// Output lengths whose decode steps after the first token are geometric: of
/// `MEAN_STEPS` on average, exponential but for the steps.
const MEAN_STEPS: f64 = 1_000.0;
const STEP: SimDuration = SimDuration::from_millis(1);

fn geometric(id: u32, draws: &mut Stream) -> Request {
    let steps = Geometric::new(1.0 / (1.0 + MEAN_STEPS)).expect("a share").sample(draws);
    lone_request(id, 10, u32::try_from(steps).expect("a length") + 1)
}

fn exponential_service(max_num_seqs: u32) -> EngineConfig {
    EngineConfig {
        max_num_seqs,
        // Blocks are not the subject: a request has one or two.
        block_size: 1 << 12,
        max_model_len: 1 << 20,
        // A prompt alone takes no time: service is decoding.
        step_time: StepTime::Fixed { prefill: SimDuration::ZERO, decode: STEP },
        ..vllm_config()
    }
}

/// Keeps requests until a worker is idle, first come, first served.
#[derive(Default)]
struct OneQueue(VecDeque<RequestId>);

fn idle(view: &ClusterView<'_>) -> Option<WorkerId> {
    let index = view.workers.iter().position(|worker| worker.inflight == 0)?;
    Some(WorkerId(u32::try_from(index).expect("few workers")))
}

impl Policy for OneQueue {
    fn route(&mut self, _: SimTime, request: &RouteRequest<'_>, view: &ClusterView<'_>) -> Verdict {
        match idle(view) {
            Some(worker) if self.0.is_empty() => Verdict::send(worker),
            _ => {
                self.0.push_back(request.id);
                Verdict::Hold
            }
        }
    }

    fn release(&mut self, _: SimTime, view: &ClusterView<'_>) -> Option<Release> {
        let worker = idle(view)?;
        Some((self.0.pop_front()?, Ok(worker)))
    }
}

/// `places` workers with a place each behind one queue: M/M/c.
#[test]
fn workers_behind_one_queue_are_m_m_c() {
    let config = exponential_service(1);
    for (places, load, count) in [(1, 0.5, 60_000), (3, 0.7, 150_000), (8, 0.7, 200_000)] {
        let service_s = MEAN_STEPS * STEP.as_secs();
        let rate_per_s = load * f64::from(places) / service_s;
        let requests = poisson(count, rate_per_s, geometric);
        let front_end = front_end(Box::new(OneQueue::default()), places);
        let run = play(&config, places, Script::new(requests), front_end, None);
        let wait = erlang_c(places, load * f64::from(places));
        let theory_s = wait * service_s / (f64::from(places) * (1.0 - load));
        agrees(&format!("M/M/{places} at {load}"), &run.records, queued_s, theory_s, 0.0);
    }
}

/// One worker with `places` places: M/M/c but for arrivals that wait for the
/// running step's end, half a step on average, and share its first one.
#[test]
fn places_of_one_worker_are_m_m_c() {
    let (places, load) = (6, 0.7);
    let config = exponential_service(places);
    let service_s = MEAN_STEPS * STEP.as_secs();
    let rate_per_s = load * f64::from(places) / service_s;
    let requests = poisson(150_000, rate_per_s, geometric);
    let policy = RouterSettings::new("round_robin");
    let run = play(&config, 1, Script::new(requests), router(&policy, &config, 1), None);
    let wait = erlang_c(places, load * f64::from(places));
    let theory_s = wait * service_s / (f64::from(places) * (1.0 - load));
    // The step of its prompt lengthens each service by up to a step, and with it
    // the load and the wait.
    let longer = 1.0 / MEAN_STEPS;
    let slack_s = STEP.as_secs() + theory_s * longer * (1.0 + load / (1.0 - load));
    agrees("places", &run.records, queued_s, theory_s, slack_s);
}

#[test]
fn erlang_c_is_the_tabulated_one() {
    // One place: the load. Two: 2 rho^2 / (1 + rho).
    assert!((erlang_c(1, 0.5) - 0.5).abs() < 1e-12);
    assert!((erlang_c(2, 1.6) - 2.0 * 0.64 / 1.8).abs() < 1e-12);
}
