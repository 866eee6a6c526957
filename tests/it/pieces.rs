//! Time may be put into a simulation in any pieces, and anybody may look: the run is
//! the same. Controls applied by hand give the run that a script of them gives.

use super::changes::{any_plan, any_policy};
use super::rig::{any_conversations, any_engine, cases, closed_loop, vllm_config};
use super::script::{cluster, planned, router};
use kv_router_sim::engine::config::EngineConfig;
use kv_router_sim::fleet::SimulatedFleet;
use kv_router_sim::fleet::changes::{ChangePlan, Changes, WorkerChange};
use kv_router_sim::id::RequestId;
use kv_router_sim::recorder::{End, Metrics, Quantiles, Recorder, Slo};
use kv_router_sim::router::FrontEnd;
use kv_router_sim::router::settings::RouterSettings;
use kv_router_sim::simulation::{
    Control, ControlSettings, Happening, Schedule, ScheduledLevel, Simulation, controls_toml,
};
use kv_router_sim::time::{SimDuration, SimTime};
use kv_router_sim::workload::conversations::ConversationSettings;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A run of two levels on workers that come and go.
#[derive(Clone, Debug)]
struct Given {
    config: EngineConfig,
    plan: ChangePlan,
    policy: RouterSettings,
    loops: ConversationSettings,
    front_ends: u32,
}

fn given() -> impl Strategy<Value = Given> {
    let parts = (any_engine(), any_plan(), any_policy(), any_conversations(), 1u32..3);
    parts.prop_map(|(config, plan, policy, loops, front_ends)| Given {
        config,
        plan,
        policy,
        loops,
        front_ends,
    })
}

fn ms(ms: u64) -> SimTime {
    SimTime::ZERO + SimDuration::from_millis(ms)
}

const WINDOW: SimDuration = SimDuration::from_millis(600);

impl Given {
    fn simulation(&self, script: &[(SimTime, Control)]) -> Simulation<'static, SimulatedFleet> {
        let slots = self.plan.slots();
        let front_ends: Vec<FrontEnd> =
            (0..self.front_ends).map(|_| router(&self.policy, &self.config, slots)).collect();
        // Any policy may take over.
        let mut fleet = SimulatedFleet::new(slots, &Arc::new(self.config.clone()), true);
        fleet.tell_output_blocks();
        fleet.count_copies();
        let workload = closed_loop(&self.loops, &self.config, 3);
        let recorder = Recorder::new(slots, true);
        let changes =
            Changes::new(self.plan.clone(), self.config.num_blocks, self.config.max_num_seqs);
        let (config, block_size) = (self.config.clone(), self.config.block_size);
        Simulation::new(fleet, workload, front_ends, recorder, block_size)
            .measure(Schedule {
                levels: [0, 2]
                    .map(|more| ScheduledLevel::measured(self.loops.concurrency + more))
                    .to_vec(),
                in_bursts: false,
                warmup: SimDuration::from_millis(100),
                window: Some(WINDOW),
                quantiles: Quantiles::Requests,
                slo: Slo::default(),
            })
            .changes(changes)
            .policies(move |name, front_end| {
                let settings = RouterSettings::new(name);
                Ok(settings.chosen().build(&cluster(&config, slots), front_end as u64))
            })
            .script(planned(&self.plan))
            .script(script.to_vec())
    }
}

/// What a run left behind.
type Found = ([u8; 32], Vec<Metrics>, usize);

fn found(simulation: Simulation<'_, SimulatedFleet>) -> Found {
    let outcome = simulation.finish();
    let digest = outcome.recorder.digest();
    (digest, outcome.levels, outcome.recorder.into_requests().len())
}

fn in_one_piece(mut simulation: Simulation<'_, SimulatedFleet>) -> Found {
    let end = simulation.advance(SimTime::MAX).expect("it ends");
    assert_eq!((end.now, end.is_over), (ms(1_400), true));
    found(simulation)
}

fn any_times() -> impl Strategy<Value = Vec<SimTime>> {
    let time = prop_oneof![
        (0u64..1_500).prop_map(ms),
        (0u64..1_500_000_000_000).prop_map(SimTime::from_ps),
    ];
    prop::collection::vec(time, 0..30).prop_map(|mut times| {
        times.sort_unstable();
        times
    })
}

fn any_control() -> impl Strategy<Value = Control> {
    let worker = (0u32..4, 0usize..4).prop_map(|(worker, what)| {
        let crash = WorkerChange::crash(worker);
        let changes = [crash, WorkerChange::drain(worker), WorkerChange::start(worker)];
        let slow = WorkerChange::slow(worker, 2.5);
        Control::Worker(changes.get(what).copied().unwrap_or(slow))
    });
    let names = ["round_robin", "least_loaded", "kv", "random", "prefix_aware"];
    prop_oneof![
        3 => (0u32..9, any::<bool>())
            .prop_map(|(concurrency, cut)| Control::Load { concurrency, cut }),
        3 => worker,
        1 => (0u64..50, 0.0f64..0.5).prop_map(|(delay, loss)| Control::Feed {
            delay: Some(SimDuration::from_millis(delay)),
            loss_ratio: Some(loss),
        }),
        2 => prop::sample::select(names.to_vec())
            .prop_map(|name| Control::Policy { name: name.to_owned() }),
        1 => Just(Control::Marker { note: "here".to_owned() }),
    ]
}

proptest! {
    #![proptest_config(cases(150))]

    #[test]
    fn pieces_and_looks_change_nothing(given in given(), times in any_times()) {
        let whole = in_one_piece(given.simulation(&[]));
        let mut simulation = given.simulation(&[]);
        let (hear, heard) = std::sync::mpsc::channel();
        simulation.observe(move |now: SimTime, _: &Happening<'_>| {
            // The last ones have no listener.
            let _ = hear.send(now);
        });
        simulation.watch(SimDuration::from_millis(70));
        for until in times {
            let progress = simulation.advance(until).expect("it goes on");
            prop_assert_eq!(progress.now, until.min(ms(1_400)));
            let snapshot = simulation.snapshot();
            prop_assert_eq!(snapshot.at, progress.now);
            prop_assert_eq!(snapshot.live_requests, simulation.live_requests().count());
            let _so_far = simulation.metrics();
            let heard: Vec<SimTime> = heard.try_iter().collect();
            prop_assert!(heard.is_sorted() && heard.iter().all(|at| *at <= progress.now));
        }
        prop_assert_eq!(in_one_piece(simulation), whole);
    }

    /// Wherever their requests are: at a worker, held, lost with a worker, being prefilled.
    #[test]
    fn clients_may_hang_up_by_hand(
        given in given(),
        steps in prop::collection::vec((0u64..120, any::<prop::sample::Index>()), 1..20),
    ) {
        let mut simulation = given.simulation(&[]);
        let (mut at, mut gone) = (0, Vec::new());
        for (step, which) in steps {
            at += step;
            simulation.advance(ms(at)).expect("it goes on");
            let live = simulation.live_requests();
            let live: Vec<RequestId> = live.map(|live| live.request.id).collect();
            let Some(&id) = live.get(which.index(live.len().max(1))) else { continue };
            prop_assert_eq!(simulation.give_up(id), !gone.contains(&id), "once");
            prop_assert!(!simulation.give_up(id));
            gone.push(id);
        }
        prop_assert!(!simulation.give_up(RequestId(u32::MAX)));
        simulation.advance(SimTime::MAX).expect("it ends");
        let records = simulation.finish().recorder.into_requests();
        for record in records {
            prop_assert_eq!(record.given_up.is_some(), gone.contains(&record.request));
            if let Some((_, end)) = record.end {
                prop_assert_eq!(end == End::GivenUp, record.given_up.is_some(), "{:?}", record);
            }
        }
    }

    #[test]
    fn controls_by_hand_are_replayed(
        given in given(),
        steps in prop::collection::vec((0u64..1_400_000_000_000, any_control()), 1..9),
        times in any_times(),
    ) {
        let mut steps = steps;
        steps.sort_by_key(|(at, _)| *at);
        let mut simulation = given.simulation(&[]);
        for (at, control) in steps {
            simulation.advance(SimTime::from_ps(at)).expect("it goes on");
            // One that makes no sense now is refused, and nothing has happened.
            let _ = simulation.apply(control);
        }
        let applied = simulation.applied().to_vec();
        let by_hand = in_one_piece(simulation);

        let text = controls_toml(&applied);
        let read: BTreeMap<String, Vec<ControlSettings>> = toml::from_str(&text).expect("TOML");
        let script = read.get("control").into_iter().flatten();
        let script: Vec<(SimTime, Control)> = script
            .map(|settings| (SimTime::ZERO + settings.at, settings.control().expect("valid")))
            .collect();
        prop_assert_eq!(&script, &applied);
        prop_assert_eq!(&in_one_piece(given.simulation(&script)), &by_hand);
        let mut pieces = given.simulation(&script);
        for until in times {
            pieces.advance(until).expect("it goes on");
        }
        prop_assert_eq!(in_one_piece(pieces), by_hand);
    }
}

/// Of an open loop the end is that of its last request, however it is stepped.
#[test]
fn a_run_that_ends_by_itself_ends_when_it_ends() {
    let simulation = || {
        let requests = (0..5).map(|id| (ms(10), super::rig::lone_request(id, 40, 9)));
        let front_end = router(&RouterSettings::new("round_robin"), &vllm_config(), 2);
        let fleet = SimulatedFleet::new(2, &Arc::new(vllm_config()), false);
        let recorder = Recorder::new(2, true);
        let workload = super::script::Script::new(requests);
        Simulation::new(fleet, workload, vec![front_end], recorder, 16).measure(Schedule {
            levels: vec![ScheduledLevel::measured(0)],
            in_bursts: false,
            warmup: SimDuration::ZERO,
            window: None,
            quantiles: Quantiles::Requests,
            slo: Slo::default(),
        })
    };
    let mut whole = simulation();
    let end = whole.advance(SimTime::MAX).expect("it ends");
    assert!(end.is_over && end.now > ms(10), "{end:?}");
    let whole = found(whole);
    let mut stepped = simulation();
    let steps = (1..).map(|n| ms(7 * n));
    let last = steps.map(|until| stepped.advance(until).expect("on")).find(|p| p.is_over);
    assert_eq!(last, Some(end));
    assert_eq!(stepped.advance(ms(900)), Ok(end), "more time changes nothing");
    assert!(stepped.apply(Control::Marker { note: String::new() }).is_err());
    assert_eq!(found(stepped), whole);
}
