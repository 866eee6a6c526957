//! Laws of sessions: what is shown is what is simulated, and what is saved gives it again.

use super::baselines::baselines;
use super::plan::{Move, Plan};
use super::session::Session;
use crate::experiment::{Experiment, LoadOptions, RunOptions, run};
use crate::fleet::changes::WorkerChange;
use crate::results::{ResultFolder, RunInto, run_into};
use crate::simulation::Control;
use crate::time::{SimDuration, SimTime};
use proptest::prelude::*;
use std::path::Path;

/// Three small workers with more conversations than they have room for.
const CROWDED: &str = r#"
name = "crowded"

[cluster]
workers = 3

[engine]
rules = "trtllm"
block_size = 16
num_blocks = 300
max_num_seqs = 6
max_num_batched_tokens = 256
max_model_len = 1_000
step_time = { kind = "fixed", prefill = "7ms", decode = "3ms" }

[router]
policy = "kv"

[workload]
kind = "conversations"
concurrency = 20
starters = 3
starter_tokens = { kind = "uniform", min = 50, max = 200 }
turns = { min = 1, max = 4 }
question_tokens = { kind = "uniform", min = 5, max = 60 }
output_tokens = { kind = "normal", mean = 40, sd = 20, min = 1, max = 80 }
think_time = { kind = "exponential", mean = "200ms", min = "0s", max = "2s" }

[measure]
warmup = "1s"
window = "5s"
seeds = [7, 3]
"#;

fn plan_of(text: &str) -> Plan {
    let experiment = Experiment::parse(Path::new("e.toml"), text, &LoadOptions::default());
    Plan::new(&experiment.expect("valid"), "e.toml".into(), None, false).expect("a session")
}

fn plan(sweep: &str) -> Plan {
    plan_of(&format!("{CROWDED}\n{sweep}"))
}

fn session(sweep: &str) -> Session {
    let plan = plan(sweep);
    let seed = plan.first_seed();
    Session::new(plan, seed, SimDuration::from_secs(1))
}

fn ms(ms: u64) -> SimTime {
    SimTime::ZERO + SimDuration::from_millis(ms)
}

/// The digest that `sim run` would print for a text.
fn digest_of_run(session: &Session, text: &str) -> String {
    let experiment = session.plan.read(text).unwrap_or_else(|wrong| panic!("{wrong}\n{text}"));
    let outcome = run(&experiment, RunOptions::default().jobs(1)).expect("it ends");
    outcome.summary.provenance.digest
}

const VARIANTS: &str = r#"
[sweep]
variant = [
    { name = "plain", router.policy = "round_robin" },
    { name = "warm", router.policy = "kv", router.overlap_weight = 2.0 },
    { name = "cold", router.policy = "kv", router.overlap_weight = 0.5 },
]
"#;

#[test]
fn an_experiment_without_a_sweep_is_shown_beside_round_robin() {
    let names =
        |sweep: &str| -> Vec<String> { plan(sweep).arms.into_iter().map(|arm| arm.name).collect() };
    assert_eq!(names(""), ["round_robin", "kv"]);
    assert_eq!(names(VARIANTS), ["plain", "warm", "cold"]);
    let swept =
        "[sweep]\n\"router.policy\" = [\"kv\", \"random\"]\n\"workload.concurrency\" = [5, 9]";
    assert_eq!(names(swept), ["kv", "random"]);
    assert_eq!(plan(swept).loads, [5.0, 9.0]);
    let many = "[sweep]\n\"router.overlap_weight\" = [1, 2, 3, 4, 5, 6, 7]";
    let text = format!("{CROWDED}\n{many}");
    let experiment = Experiment::parse(Path::new("e.toml"), &text, &LoadOptions::default());
    let error = Plan::new(&experiment.expect("valid"), "e.toml".into(), None, false).unwrap_err();
    assert!(error.to_string().starts_with("sweep = 7: must be at most 6"), "{error}");
}

/// What `sim run` has saved of this very experiment is what would be computed.
#[test]
fn a_sweep_that_was_run_is_read_in_place() {
    let swept = |loads: &str| {
        format!(
            "{CROWDED}\n[sweep]\n\"router.policy\" = [\"round_robin\", \"kv\"]\n\
             \"workload.concurrency\" = {loads}"
        )
    };
    let text = swept("[5, 9]");
    let experiment = Experiment::parse(Path::new("e.toml"), &text, &LoadOptions::default());
    let experiment = experiment.expect("valid");
    let place = tempfile::tempdir().expect("a folder");
    let folder = place.path().join("crowded");
    let into = ResultFolder::create(&folder, &experiment).expect("an empty folder");
    let how = RunInto::new("e.toml", Vec::new()).jobs(1).without_figures();
    run_into(into, &experiment, &how).expect("it runs");
    let read = baselines(&plan_of(&text), &folder);
    assert_eq!(read["from"], serde_json::json!(folder));
    let computed = baselines(&plan_of(&text), &place.path().join("nothing"));
    assert_eq!(computed.get("from"), None);
    assert_eq!(computed["points"].as_array().map(Vec::len), Some(4));
    assert_eq!(read["points"], computed["points"]);
    let other = baselines(&plan_of(&swept("[5, 8]")), &folder);
    assert_eq!(other.get("from"), None, "results of another sweep");
}

fn any_control() -> impl Strategy<Value = Control> {
    let worker = (0u32..5, 0usize..4).prop_map(|(worker, what)| {
        let all = [
            WorkerChange::crash(worker),
            WorkerChange::drain(worker),
            WorkerChange::start(worker),
            WorkerChange::slow(worker, 2.5),
        ];
        Control::Worker(all[what])
    });
    let names = ["round_robin", "least_loaded", "kv", "random"];
    prop_oneof![
        3 => (0u32..30, any::<bool>())
            .prop_map(|(concurrency, cut)| Control::Load { concurrency, cut }),
        3 => worker,
        1 => (0u64..50, 0.0f64..0.5).prop_map(|(delay, loss)| Control::Feed {
            delay: Some(SimDuration::from_millis(delay)),
            loss_ratio: Some(loss),
        }),
        2 => (0.0f64..4.0).prop_map(|value| Control::Parameter {
            key: "overlap_weight".to_owned(),
            value,
        }),
        1 => (0usize..4).prop_map(move |at| Control::Policy { name: names[at].to_owned() }),
        1 => Just(Control::Marker { note: "\"here\" \u{1f600}".to_owned() }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever is done in a session, saved at whatever moment: the text replays to its
    /// digest, and a session that follows the same moves comes to the same state.
    #[test]
    fn what_is_saved_replays(
        moves in prop::collection::vec((0u64..400, prop::option::of(0usize..3), any_control()), 0..9),
        rest in 0u64..300,
        variants in any::<bool>(),
    ) {
        let sweep = if variants { VARIANTS } else { "" };
        let mut by_hand = session(sweep);
        let mut now = SimTime::ZERO;
        for (after, arm, control) in moves {
            now += SimDuration::from_millis(after);
            by_hand.advance(now);
            let arm = arm.filter(|arm| *arm < by_hand.arms.len());
            // One that makes no sense changes nothing.
            let before = by_hand.digest();
            if by_hand.apply(arm, &control).is_err() {
                prop_assert_eq!(by_hand.digest(), before);
            }
        }
        by_hand.advance(now + SimDuration::from_millis(rest));
        let text = by_hand.saved().expect("arms that a file can tell apart");
        prop_assert_eq!(by_hand.end(), None);
        prop_assert_eq!(digest_of_run(&by_hand, &text), by_hand.digest(), "{}", text);
        prop_assert!(text.contains(&by_hand.digest()), "it says what it gives");

        let mut again = session(sweep);
        again.follow(by_hand.moves().to_vec());
        again.advance(by_hand.now());
        prop_assert_eq!(again.moves(), by_hand.moves());
        prop_assert_eq!(again.digest(), by_hand.digest());
    }
}

/// Arms meet the same conversations, and looking changes nothing.
#[test]
fn a_session_that_is_looked_at_is_the_same() {
    let run_through = |looks: bool| {
        let mut session = session("");
        for at in 1..40 {
            session.advance(ms(at * 50));
            if looks {
                let (sample, views) = (session.sample(), session.views());
                assert_eq!((sample.arms.len(), views.len()), (2, 2));
                session.set_window(SimDuration::from_millis(at * 100));
            }
            if at == 20 {
                session.apply(None, &Control::Load { concurrency: 30, cut: false }).expect("taken");
            }
        }
        session.digest()
    };
    assert_eq!(run_through(true), run_through(false));
}

#[test]
fn presets_come_at_their_times() {
    let swept =
        "[sweep]\n\"router.policy\" = [\"kv\", \"random\"]\n\"workload.concurrency\" = [5, 9]";
    let mut session = session(swept);
    let moves = session.preset("crossover").expect("a closed loop");
    session.advance(ms(500));
    session.follow(moves);
    session.follow(session.preset("worker-dies").expect("a worker"));
    session.advance(ms(300_000));
    let times: Vec<f64> = session.moves().iter().map(|step| step.at.as_secs()).collect();
    assert_eq!(times, [0.5, 0.5, 0.5, 0.5, 120.0]);
    let text = session.saved().expect("saved");
    assert_eq!(digest_of_run(&session, &text), session.digest());
    assert!(session.preset("no such").is_none());
}

/// Clients that send lost requests again are in a session from its start.
#[test]
fn retries_are_saved() {
    let mut session = Session::new(
        plan_of(&CROWDED.replace("workers = 3", "workers = 3\nfailover = { retries = 2 }")),
        7,
        SimDuration::from_secs(1),
    );
    session.advance(ms(700));
    session.apply(None, &Control::Worker(WorkerChange::crash(1))).expect("it is up");
    session.advance(ms(2_500));
    let text = session.saved().expect("saved");
    assert_eq!(digest_of_run(&session, &text), session.digest(), "{text}");
}

/// What an experiment plans for later than its session lasted is no error.
#[test]
fn what_was_not_reached_is_left_out() {
    let late = "[[control]]\nat = \"90s\"\nwhat = \"load\"\nconcurrency = 3\n\
                [[cluster.change]]\nat = \"80s\"\nworker = 1\nwhat = \"crash\"\n";
    let text = CROWDED.replace("window = \"5s\"", "window = \"200s\"");
    let mut session =
        Session::new(plan_of(&format!("{text}\n{late}")), 7, SimDuration::from_secs(1));
    session.advance(ms(900));
    let text = session.saved().expect("saved");
    assert_eq!(digest_of_run(&session, &text), session.digest(), "{text}");
    let moved = Move { at: ms(950), arm: Some(1), control: Control::Marker { note: "x".into() } };
    session.follow([moved]);
    session.advance(ms(95_000));
    let text = session.saved().expect("saved");
    assert_eq!(digest_of_run(&session, &text), session.digest(), "{text}");
}
