//! Experiments that change what runs: `[[control]]`, and controls by hand that become
//! one.

use super::program::{CROWDED, EXPERIMENT};
use kv_router_sim::experiment::{Experiment, LoadOptions, Watch, simulate, simulation};
use kv_router_sim::fleet::SimulatedFleet;
use kv_router_sim::fleet::changes::WorkerChange;
use kv_router_sim::simulation::{Control, Happening, Simulation, controls_toml};
use kv_router_sim::time::{SimDuration, SimTime};
use std::collections::BTreeMap;
use std::path::Path;

fn parse(text: &str) -> Result<Experiment, String> {
    let options = LoadOptions::default();
    Experiment::parse(Path::new("e.toml"), text, &options).map_err(|error| error.to_string())
}

fn crowded(policy: &str, more: &str) -> String {
    let name = format!("name = \"crowded\"\nrouter.policy = \"{policy}\"\n");
    format!("{name}{CROWDED}\n{more}")
}

fn s(s: u64) -> SimTime {
    SimTime::ZERO + SimDuration::from_secs(s)
}

fn crash(worker: u32) -> Control {
    Control::Worker(WorkerChange::crash(worker))
}

fn begin(text: &str) -> Simulation<'static, SimulatedFleet> {
    let run = parse(text).expect("valid").runs.remove(0);
    simulation(&run.settings, &run.levels, 1)
}

fn digest(mut simulation: Simulation<'_, SimulatedFleet>) -> [u8; 32] {
    simulation.advance(SimTime::MAX).expect("it ends");
    simulation.finish().recorder.digest()
}

fn digest_of_run(text: &str) -> [u8; 32] {
    let run = parse(text).expect("valid").runs.remove(0);
    let outcome = simulate(&run.settings, &run.levels, 1, Watch::default());
    outcome.expect("it ends").digest
}

#[test]
fn a_simulation_that_may_be_steered_and_is_not_is_the_run() {
    for policy in ["round_robin", "kv", "least_loaded", "prefix_aware"] {
        let text = crowded(policy, "");
        assert_eq!(digest(begin(&text)), digest_of_run(&text), "{policy}");
    }
}

#[test]
fn what_is_done_by_hand_replays_from_the_file() {
    let text = crowded("round_robin", "");
    let mut by_hand = begin(&text);
    let controls = [
        (s(1), Control::Load { concurrency: 35, cut: false }),
        (SimTime::from_ps(2_000_000_000_001), Control::Policy { name: "kv".to_owned() }),
        (s(3), crash(1)),
        (s(3), Control::Marker { note: "worker 1 is gone".to_owned() }),
        (s(4), Control::Load { concurrency: 4, cut: true }),
    ];
    for (at, control) in controls {
        by_hand.advance(at).expect("on");
        by_hand.apply(control).expect("it makes sense");
    }
    let written = controls_toml(by_hand.applied());
    assert!(
        written.starts_with("[[control]]\nat = \"1000000000ns\"\nwhat = \"load\""),
        "{written}"
    );
    let by_hand = digest(by_hand);
    assert_ne!(by_hand, digest_of_run(&text));
    let scripted = format!("{text}\n{written}");
    assert_eq!(digest_of_run(&scripted), by_hand, "{written}");
    assert_eq!(digest(begin(&scripted)), by_hand);
}

/// What another arm meets does not depend on how far the first one came.
#[test]
fn conversations_that_come_back_are_the_same_for_all_policies() {
    let controls = "
        [[control]]
        at = \"2s\"
        what = \"load\"
        concurrency = 5
        [[control]]
        at = \"4s\"
        what = \"load\"
        concurrency = 20";
    // First prompts after the load has risen again, by length: conversations of the
    // slots that come back.
    let prompts = |policy: &str, slow: &str| {
        let mut simulation = begin(&crowded(policy, &format!("{controls}\n{slow}")));
        simulation.advance(s(4)).expect("on");
        let (found, read) = std::sync::mpsc::channel();
        simulation.observe(move |now: SimTime, happening: &Happening<'_>| {
            if let Happening::Arrival(arrival) = happening
                && arrival.request.turn == 0
                && arrival.sent == s(4)
            {
                found.send((arrival.request.prompt_tokens, now)).expect("read");
            }
        });
        simulation.advance(s(5)).expect("on");
        let mut prompts: Vec<u32> = read.try_iter().map(|(tokens, _)| tokens).collect();
        prompts.sort_unstable();
        prompts
    };
    let fast = prompts("kv", "");
    assert!(fast.len() > 8, "{fast:?}");
    let slow = prompts(
        "round_robin",
        "[[control]]\nat = \"1s\"\nwhat = \"slow\"\nworker = 0\nfactor = 1.5\nlasts = \"500ms\"",
    );
    assert_eq!(fast, slow);
}

#[test]
fn a_load_that_sinks_lets_conversations_finish_unless_they_are_cut() {
    // Conversations that send after the load is none.
    let going_on = |cut: bool| {
        let mut simulation = begin(&crowded("kv", ""));
        let (found, read) = std::sync::mpsc::channel();
        simulation.observe(move |_: SimTime, happening: &Happening<'_>| {
            if let Happening::Arrival(arrival) = happening {
                found.send((arrival.request.conversation, arrival.request.turn)).expect("read");
            }
        });
        simulation.advance(s(1)).expect("on");
        simulation.apply(Control::Load { concurrency: 0, cut }).expect("a closed loop");
        let begun: Vec<_> = read.try_iter().map(|(conversation, _)| conversation).collect();
        simulation.advance(SimTime::MAX).expect("it ends");
        assert_eq!(simulation.live_requests().count(), 0, "it has run empty");
        let later: BTreeMap<_, u32> = read.try_iter().collect();
        assert!(later.keys().all(|conversation| begun.contains(conversation)), "none begins");
        later.len()
    };
    assert!(going_on(false) > 3);
    assert!(going_on(true) < going_on(false));
}

#[test]
fn controls_hold_for_the_arms_they_are_for() {
    let with = |control: &str| {
        let text = EXPERIMENT.replace("seeds = 3", "seeds = 1\nlevels = \"independent\"");
        let experiment = parse(&format!("{text}\n{control}")).expect("valid");
        let of_run = |run: &kv_router_sim::experiment::RunSpec| {
            simulate(&run.settings, &run.levels, 1, Watch::default()).expect("ends").digest
        };
        experiment.runs.iter().map(of_run).collect::<Vec<_>>()
    };
    let none = with("");
    let marked = with("[[control]]\nat = \"7s\"\nwhat = \"marker\"\nnote = \"here\"");
    assert_eq!(none, marked, "a marker changes nothing");
    let load = "[[control]]\nat = \"7s\"\nwhat = \"load\"\nconcurrency = 9\n";
    let some = with(&format!("{load}only = {{ \"router.policy\" = \"kv\" }}"));
    assert_eq!((&some[0], &some[1]), (&none[0], &none[1]));
    assert!(some[2] != none[2] && some[3] != none[3]);
    let one = with(&format!(
        "{load}only = {{ \"router.policy\" = \"kv\", \"workload.concurrency\" = 4 }}"
    ));
    assert_eq!(one.iter().zip(&none).filter(|(a, b)| a != b).count(), 1);
}

#[test]
fn a_control_that_makes_no_sense_is_refused_by_its_key() {
    let refused = |control: &str| {
        parse(&format!("{EXPERIMENT}\n[[control]]\nat = \"7s\"\n{control}")).unwrap_err()
    };
    for (control, expected) in [
        ("what = \"loud\"", "control[0].what = \"loud\": "),
        (
            "what = \"load\"\nconcurency = 3",
            "unknown key control[0].concurency; did you mean concurrency?",
        ),
        ("what = \"load\"", "control[0].concurrency is missing"),
        ("what = \"load\"\nconcurrency = \"2M\"", "must be from 0 to 1000000"),
        ("what = \"rate\"\nrate = 3", "control[0].what = \"rate\": must be another one"),
        ("what = \"policy\"\npolicy = \"kvv\"", "\"kvv\""),
        ("what = \"parameter\"\nkey = \"no_such_key\"\nvalue = 3", "control[0].value = 3: must be"),
        ("what = \"crash\"\nworker = 2", "control[0].worker = 2: must be from 0 to 1"),
        ("what = \"start\"\nworker = 0", "control[0].at = \"7s\": must be a time at which"),
        (
            "what = \"marker\"\nnote = \"x\"\nonly = { \"router.policy\" = \"random\" }",
            "control[0].only = ",
        ),
    ] {
        let error = refused(control);
        assert!(error.starts_with("e.toml:"), "{error}");
        assert!(error.contains(expected), "{control}: {error}");
    }
    let late = EXPERIMENT.replace("seeds = 3", "seeds = 3\nlevels = \"independent\"");
    let late = format!("{late}\n[[control]]\nat = \"25s\"\nwhat = \"marker\"\nnote = \"x\"");
    let error = parse(&late).unwrap_err();
    assert!(
        error.contains("control[0].at = \"25s\": must be before the end of the run"),
        "{error}"
    );
}

#[test]
fn a_control_by_hand_that_makes_no_sense_changes_nothing() {
    let text = crowded("round_robin", "");
    let mut simulation = begin(&text);
    simulation.advance(s(2)).expect("on");
    for control in [
        Control::Rate { per_s: 3.0 },
        Control::Load { concurrency: u32::MAX, cut: true },
        Control::Policy { name: "nobody".to_owned() },
        Control::Parameter { key: "temperature".to_owned(), value: 1.0 },
        crash(3),
    ] {
        assert!(simulation.apply(control.clone()).is_err(), "{control:?}");
    }
    assert!(simulation.applied().is_empty());
    assert_eq!(digest(simulation), digest_of_run(&text));
}
