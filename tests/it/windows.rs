//! What a window measures: from its beginning to its end, or to now.

use super::program::CROWDED;
use kv_router_sim::experiment::{Experiment, LoadOptions, RunOptions, run};
use kv_router_sim::id::WorkerId;
use kv_router_sim::recorder::{Metrics, SHARES};
use kv_router_sim::request::RouteRequest;
use kv_router_sim::router::{ClusterView, NoParameters, Policy, Registration, Verdict};
use kv_router_sim::simulation::Simulation;
use kv_router_sim::time::{SimDuration, SimTime};
use kv_router_sim::workload::{Arrival, Listed};
use std::path::Path;
use std::sync::{Arc, Mutex};

fn crowded(policy: &str, changes: &[&str]) -> Experiment {
    let text = format!("name = \"crowded\"\nrouter.policy = \"{policy}\"\n{CROWDED}");
    let options = LoadOptions::default().set_all(changes.iter().copied());
    Experiment::parse(Path::new("e.toml"), &text, &options).expect("valid")
}

/// The first four requests of the workload of `experiment`, 100 ms apart.
fn four_arrivals(experiment: &Experiment) -> Vec<Arrival> {
    let run = &experiment.runs[0];
    let mut source = run.settings.source.build(run.block_size(), 1);
    (0u64..4).map(|number| Arrival::new(ms(100 * number), source.take().request)).collect()
}

/// They, and no others.
fn four_requests(experiment: &Experiment) -> Simulation<'static> {
    let arrivals = four_arrivals(experiment).into_iter();
    experiment.runs[0].simulation_of(arrivals.collect::<Listed>(), 1)
}

fn ms(ms: u64) -> SimTime {
    SimTime::ZERO + SimDuration::from_millis(ms)
}

/// The metrics of the first level of the run with seed 1.
fn measured(experiment: &Experiment) -> Metrics {
    let mut simulation = experiment.runs[0].simulation(1);
    simulation.advance(SimTime::MAX).expect("it ends");
    simulation.finish().levels.remove(0)
}

/// Whoever reads in the middle sees what a window that ends then would have measured.
#[test]
fn metrics_so_far_are_those_of_a_window_that_ends_now() {
    for policy in ["round_robin", "kv"] {
        let mut simulation = crowded(policy, &[]).runs[0].simulation(1);
        simulation.advance(ms(999)).expect("it goes on");
        assert_eq!(simulation.metrics(), None, "the warm-up is not measured");
        for seconds in [1, 2, 4] {
            simulation.advance(ms(1_000 + 1_000 * seconds)).expect("it goes on");
            let window = format!("measure.window={seconds}s");
            let whole = measured(&crowded(policy, &[&window]));
            assert_eq!(simulation.metrics(), Some(whole), "{policy}, {seconds} s");
        }
        simulation.advance(SimTime::MAX).expect("it ends");
        assert_eq!(simulation.metrics(), None, "no window is left");
    }
}

/// What happens at a moment is part of the piece that ends there: so it is at the very first.
#[test]
fn a_window_without_a_warm_up_begins_with_the_first_piece() {
    let mut simulation = crowded("kv", &["measure.warmup=0s"]).runs[0].simulation(1);
    assert_eq!(simulation.metrics(), None, "no time was put in");
    simulation.advance(SimTime::ZERO).expect("it goes on");
    assert!(simulation.metrics().is_some());
}

/// A window with an end lasts until then, though its requests end long before.
#[test]
fn a_window_ends_when_it_should_without_requests() {
    let experiment = crowded("round_robin", &["measure.warmup=0s", "measure.window=50s"]);
    let mut simulation = four_requests(&experiment);
    let end = simulation.advance(SimTime::MAX).expect("it ends");
    assert_eq!((end.now, end.is_over), (ms(50_000), true));
    let levels = simulation.finish().levels;
    assert_eq!(levels[0]["requests_per_s"], Some(4.0 / 50.0));
}

/// What ran before a window is no part of its means.
#[test]
fn a_window_after_the_last_request_sees_idle_workers() {
    let experiment = crowded("kv", &["measure.warmup=10s", "measure.window=40s"]);
    let mut simulation = four_requests(&experiment);
    simulation.advance(SimTime::MAX).expect("it ends");
    let levels = simulation.finish().levels;
    assert_eq!(levels[0]["running_mean"], Some(0.0));
}

/// The rate of the time that is watched is its tokens over its seconds.
#[test]
fn a_snapshot_counts_the_tokens_of_the_time_it_watches() {
    let experiment = crowded("kv", &["measure.warmup=0s", "measure.window=50s"]);
    let mut simulation = four_requests(&experiment);
    simulation.watch(SimDuration::from_secs(10));
    simulation.advance(ms(5_000)).expect("it goes on");
    let seen = simulation.snapshot();
    assert_eq!(seen.live_requests, 0, "all have ended");
    let tokens: u32 =
        four_arrivals(&experiment).iter().map(|arrival| arrival.request.output_tokens).sum();
    assert_eq!(seen.output_tokens_per_s, Some(f64::from(tokens) / 5.0));
    assert!(seen.workers.iter().any(|worker| worker.queue_ms.is_some()));
    simulation.advance(ms(20_000)).expect("it goes on");
    let later = simulation.snapshot();
    assert_eq!(later.output_tokens_per_s, Some(0.0));
    assert!(later.workers.iter().all(|worker| worker.queue_ms.is_none()));
}

/// Distributions that are drawn go through the percentiles that tables show.
#[test]
fn curves_go_through_the_percentiles() {
    let experiment = crowded("kv", &["measure.seeds=1"]);
    let outcome = run(&experiment, RunOptions::default()).expect("it runs");
    let (metrics, curves) = (&outcome.summary.points[0].metrics, &outcome.distributions[0]);
    for name in ["ttft_ms", "itl_ms", "e2e_ms"] {
        let curve = &curves[name].mean;
        assert!(curve.is_sorted(), "{name}: {curve:?}");
        for (share, percentile) in [(0.5, "p50"), (0.95, "p95")] {
            let at = SHARES.iter().position(|other| *other == share).expect("a share");
            let shown = metrics[&format!("{name}_{percentile}")].mean.expect("measured");
            assert!(
                (curve[at] - shown).abs() <= 1e-9 * shown,
                "{name} {percentile}: {}",
                curve[at]
            );
        }
    }
}

const PERIOD: SimDuration = SimDuration::from_millis(100);

/// What the watcher was shown: when, and the report of a worker: when, and what ran.
type Shown = (SimTime, Option<(SimTime, u32)>);

/// Sends in turn, and notes what it is shown of the workers.
struct Watcher {
    shown: Arc<Mutex<Vec<Shown>>>,
    sent: u32,
}

impl Policy for Watcher {
    fn route(&mut self, now: SimTime, _: &RouteRequest<'_>, view: &ClusterView<'_>) -> Verdict {
        let report = |of: &kv_router_sim::router::WorkerView| {
            (now, of.reported.map(|report| (report.at, report.running)))
        };
        self.shown.lock().expect("alone").extend(view.workers.iter().map(report));
        self.sent += 1;
        Verdict::send(WorkerId(self.sent % 3))
    }

    fn report_period(&self) -> Option<SimDuration> {
        Some(PERIOD)
    }
}

/// As long as there are requests, no report is older than a period.
#[test]
fn reports_reach_a_policy_every_period() {
    let shown = Arc::new(Mutex::new(Vec::new()));
    let own = Arc::clone(&shown);
    let watcher = Registration::new("watcher", "sends in turn", move |_: &NoParameters, _, _| {
        Watcher { shown: Arc::clone(&own), sent: 0 }
    });
    let text = format!("name = \"watched\"\nrouter.policy = \"watcher\"\n{CROWDED}");
    let options = LoadOptions::default().policy(watcher);
    let experiment = Experiment::parse(Path::new("e.toml"), &text, &options).expect("valid");
    measured(&experiment);
    let shown = shown.lock().expect("alone");
    let late = shown.iter().filter(|(now, _)| *now > SimTime::ZERO + PERIOD * 2);
    let reports: Vec<(SimTime, (SimTime, u32))> =
        late.map(|(now, report)| (*now, report.expect("a report"))).collect();
    assert!(reports.len() > 100 && reports.iter().all(|(now, (at, _))| *now <= *at + PERIOD));
    assert!(reports.iter().any(|(_, (_, running))| *running > 0));
}
