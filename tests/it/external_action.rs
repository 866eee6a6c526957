//! The action that holds a router project to its baselines, run as its step runs it.

use super::external::{example, has};
use super::program::{EXPERIMENT, Scratch, text};
use std::path::Path;
use std::process::{Command, Output};

fn action(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/action").join(name);
    std::fs::read_to_string(path).expect("a file of the action")
}

/// Runs the step with these inputs.
fn step(place: &Scratch, inputs: &[(&str, &str)]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/action/check.sh");
    for file in ["summary.md", "output"] {
        place.write(file, "");
    }
    Command::new("bash")
        .arg(script)
        .current_dir(place.path())
        .env("SIM", env!("CARGO_BIN_EXE_sim"))
        .env("GITHUB_STEP_SUMMARY", place.path().join("summary.md"))
        .env("GITHUB_OUTPUT", place.path().join("output"))
        .envs(inputs.iter().copied())
        .output()
        .expect("bash runs")
}

fn read(place: &Scratch, file: &str) -> String {
    std::fs::read_to_string(place.path().join(file)).expect("written")
}

#[test]
fn a_router_project_is_gated() {
    if !has("bash") || !has("python3") {
        return;
    }
    let place = Scratch::new();
    let experiment = EXPERIMENT
        .replace(
            "policy = \"kv\"",
            "policy = \"external\"\ncommand = [\"python3\", \"../router.py\"]",
        )
        .replace("\"router.policy\" = [\"round_robin\", \"kv\"]\n", "")
        .replace("[2, 4]", "[8]");
    std::fs::create_dir(place.path().join("routing")).expect("a folder");
    place.write("routing/gate.toml", experiment);
    let formula = std::fs::read_to_string(example("dynamo_formula.py")).expect("an example");
    let sdk = Path::new(env!("CARGO_MANIFEST_DIR")).join("sdk/python/sim_router.py");
    std::fs::copy(sdk, place.path().join("sim_router.py")).expect("the SDK");
    place.write("router.py", &formula);
    let update = place.sim(&["check", "routing/gate.toml", "--update"]);
    assert!(update.status.success(), "{}", text(&update.stderr));

    let inputs = [("EXPERIMENTS", "\n  routing/gate.toml\n"), ("ROUTER", "python3\n  router.py\n")];
    let passed = step(&place, &inputs);
    assert_eq!(passed.status.code(), Some(0), "{}", text(&passed.stderr));
    let summary = read(&place, "summary.md");
    assert!(
        summary.contains("9 of 9 laws held") && summary.contains("Routing check passed"),
        "{summary}"
    );
    assert_eq!(read(&place, "output"), "junit=routing-check.xml\npassed=true\n");
    assert!(read(&place, "routing-check.xml").contains("failures=\"0\""));

    // All requests go to one worker.
    place.write("router.py", formula.replace("return Choice(worker,", "return Choice(0,"));
    let worse = step(&place, &inputs);
    assert_eq!(worse.status.code(), Some(1), "{}", text(&worse.stderr));
    assert_eq!(read(&place, "output"), "junit=routing-check.xml\npassed=false\n");
    assert!(
        read(&place, "summary.md").contains("FAILED  it sends nothing to a worker that has left")
    );
    let worse = step(&place, &inputs[..1]);
    assert_eq!(worse.status.code(), Some(1), "{}", text(&worse.stderr));
    assert!(read(&place, "summary.md").contains("| WORSE | "), "{}", read(&place, "summary.md"));
    assert!(read(&place, "routing-check.xml").contains("<failure message="));

    let unreadable = step(&place, &[("EXPERIMENTS", "routing/none.toml")]);
    assert_eq!(unreadable.status.code(), Some(2));
    assert_eq!(step(&place, &[("EXPERIMENTS", " \n")]).status.code(), Some(2));
}

/// Every input of the action reaches the step, under the name that the step knows.
#[test]
fn inputs_of_the_action_are_those_of_the_step() {
    let (action, script) = (action("action.yml"), action("check.sh"));
    let inputs = action.split("inputs:\n").nth(1).and_then(|text| text.split("outputs:\n").next());
    let inputs: Vec<&str> = inputs
        .expect("inputs")
        .lines()
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .map(|line| line.trim().trim_end_matches(':'))
        .collect();
    assert_eq!(inputs.len(), 7, "{inputs:?}");
    for input in inputs {
        let variable = input.to_uppercase();
        assert!(action.contains(&format!("{variable}: ${{{{ inputs.{input} }}}}")), "{input}");
        assert!(script.contains(&format!("${{{variable}:")), "{variable}");
    }
}
