//! The action that holds a router project to its baselines: `action.yml` as a runner reads
//! it, with each of its steps run by bash.

use super::external::{example, has};
use super::program::{EXPERIMENT, Scratch, text};
use saphyr_parser::{Event, Parser};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/action")
}

/// A value of a YAML file without anchors and tags.
#[derive(Clone, Debug)]
enum Yaml {
    Text(String),
    List(Vec<Yaml>),
    Map(Vec<(String, Yaml)>),
}

impl Yaml {
    fn of_action() -> Self {
        let file = std::fs::read_to_string(folder().join("action.yml")).expect("the action");
        let mut events = Parser::new_from_str(&file).map(|event| event.expect("YAML").0);
        Self::next(&mut events).expect("a document")
    }

    /// The next value; none at the end of a list or a map.
    fn next<'a>(events: &mut impl Iterator<Item = Event<'a>>) -> Option<Self> {
        loop {
            return Some(match events.next()? {
                Event::Scalar(text, ..) => Self::Text(text.into_owned()),
                Event::SequenceStart(..) => {
                    Self::List(std::iter::from_fn(|| Self::next(events)).collect())
                }
                Event::MappingStart(..) => {
                    let mut entry = || Some((Self::next(events)?.text(), Self::next(events)?));
                    Self::Map(std::iter::from_fn(&mut entry).collect())
                }
                Event::SequenceEnd | Event::MappingEnd => return None,
                _ => continue,
            });
        }
    }

    fn get(&self, key: &str) -> Option<&Self> {
        let entries = self.entries();
        entries.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    fn entries(&self) -> &[(String, Self)] {
        match self {
            Self::Map(entries) => entries,
            other => panic!("no map: {other:?}"),
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            other => panic!("no text: {other:?}"),
        }
    }
}

/// What a use of the action came to.
#[derive(Debug)]
struct Used {
    succeeded: bool,
    /// Of the step that failed.
    code: Option<i32>,
    outputs: BTreeMap<String, String>,
    summary: String,
    said: String,
    /// Steps that were run.
    ran: Vec<String>,
}

/// What is known where an expression stands.
#[derive(Default)]
struct Known {
    inputs: BTreeMap<String, String>,
    /// Outputs of steps, by the step's `id`.
    steps: BTreeMap<String, BTreeMap<String, String>>,
}

impl Known {
    /// The value of `inputs.NAME` or `steps.ID.outputs.NAME`.
    fn value(&self, expression: &str) -> String {
        match expression.split('.').collect::<Vec<_>>().as_slice() {
            ["inputs", name] => self.inputs.get(*name).expect("an input").clone(),
            ["steps", id, "outputs", name] => {
                let of_step = self.steps.get(*id).and_then(|outputs| outputs.get(*name));
                of_step.cloned().unwrap_or_default()
            }
            other => panic!("no expression that a test knows: {other:?}"),
        }
    }

    /// `text` with every `${{ ... }}` replaced.
    fn fill(&self, text: &str) -> String {
        let mut filled = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${{") {
            let (expression, after) = after.split_once("}}").expect("a closed expression");
            filled += before;
            filled += &self.value(expression.trim());
            rest = after;
        }
        filled + rest
    }

    /// Whether a step with this condition runs.
    fn holds(&self, condition: &str) -> bool {
        let (name, value) = condition.split_once(" == ").expect("a comparison");
        self.value(name) == value.trim_matches('\'')
    }
}

/// Uses the action in `place` as a runner does: inputs that are not given at their defaults,
/// one step after the other, bash with the options of GitHub's runners.
fn use_action(place: &Scratch, given: &[(&str, &str)]) -> Used {
    let action = Yaml::of_action();
    let mut known = Known::default();
    for (name, input) in action.get("inputs").expect("inputs").entries() {
        let value = given.iter().find(|(given, _)| given == name).map(|(_, value)| *value);
        let default = input.get("default").map(Yaml::text);
        let is_required = input.get("required").is_some_and(|required| required.text() == "true");
        let value = value.map(str::to_owned).or(default);
        assert!(value.is_some() || is_required, "{name} has no default");
        known.inputs.insert(name.clone(), value.unwrap_or_default());
    }
    assert!(given.iter().all(|(name, _)| known.inputs.contains_key(*name)), "{given:?}");
    let runs = action.get("runs").expect("runs");
    assert_eq!(runs.get("using").map(Yaml::text).as_deref(), Some("composite"));
    let Some(Yaml::List(steps)) = runs.get("steps") else { panic!("steps") };
    let mut used = Used {
        succeeded: true,
        code: None,
        outputs: BTreeMap::new(),
        summary: String::new(),
        said: String::new(),
        ran: Vec::new(),
    };
    place.write("summary.md", "");
    for step in steps {
        let name = step.get("name").map(Yaml::text).expect("a name");
        let condition = step.get("if").map(Yaml::text);
        if !used.succeeded || !condition.is_none_or(|condition| known.holds(&condition)) {
            continue;
        }
        if let Some(other) = step.get("uses") {
            // Steps of others bring nothing that the rest cannot do without.
            assert_eq!(other.text(), "actions/cache@v4");
            continue;
        }
        assert_eq!(step.get("shell").map(Yaml::text).as_deref(), Some("bash"), "{name}");
        place.write("step.sh", known.fill(&step.get("run").expect("a script").text()));
        place.write("output", "");
        let mut bash = Command::new("bash");
        bash.args(["--noprofile", "--norc", "-eo", "pipefail", "step.sh"])
            .current_dir(place.path())
            .env("GITHUB_ACTION_PATH", folder())
            .env("GITHUB_STEP_SUMMARY", place.path().join("summary.md"))
            .env("GITHUB_OUTPUT", place.path().join("output"))
            .env("RUNNER_TEMP", place.path().join("temp"));
        for (variable, value) in step.get("env").map_or(&[][..], Yaml::entries) {
            bash.env(variable, known.fill(&value.text()));
        }
        let ended = bash.output().expect("bash runs");
        used.said += text(&ended.stderr);
        used.code = ended.status.code();
        used.succeeded = ended.status.success();
        if let Some(id) = step.get("id") {
            let written = read(place, "output");
            let pair = |line: &str| {
                let (name, value) = line.split_once('=').expect("NAME=VALUE");
                (name.to_owned(), value.to_owned())
            };
            known.steps.insert(id.text(), written.lines().map(pair).collect());
        }
        used.ran.push(name);
    }
    used.summary = read(place, "summary.md");
    for (name, output) in action.get("outputs").expect("outputs").entries() {
        let value = output.get("value").expect("a value").text();
        used.outputs.insert(name.clone(), known.fill(&value));
    }
    used
}

fn read(place: &Scratch, file: &str) -> String {
    std::fs::read_to_string(place.path().join(file)).expect("written")
}

/// Tests, failures and errors of a JUnit report, by a reader of XML that is not ours.
fn counted(place: &Scratch, report: &str) -> String {
    let script = "import sys, xml.etree.ElementTree as tree\n\
                  root = tree.parse(sys.argv[1]).getroot()\n\
                  cases, failed = root.findall('.//testcase'), root.findall('.//testcase/failure')\n\
                  suites = [root] if root.tag == 'testsuite' else root.findall('testsuite')\n\
                  said = [sum(int(s.get(name, 0)) for s in suites) for name in ('tests', 'failures')]\n\
                  assert said == [len(cases), len(failed)], (said, len(cases), len(failed))\n\
                  assert all(case.get('name') for case in cases)\n\
                  print('some' if cases else 'no', 'tests,', 'some' if failed else 'no', 'failures')\n";
    let mut read = Command::new("python3");
    read.args(["-c", script, report]).current_dir(place.path());
    let read = read.output().expect("python3 runs");
    assert!(read.status.success(), "{}", text(&read.stderr));
    text(&read.stdout).trim_end().to_owned()
}

/// Every row of a table of Markdown has the cells of its head.
fn has_whole_tables(markdown: &str) -> bool {
    let cells = |line: &str| line.matches('|').count();
    let mut lines = markdown.lines().peekable();
    let mut tables = 0;
    while let Some(line) = lines.next() {
        if !line.starts_with('|') {
            continue;
        }
        tables += 1;
        while let Some(row) = lines.next_if(|next| next.starts_with('|')) {
            if cells(row) != cells(line) {
                return false;
            }
        }
    }
    tables > 0
}

/// A router project as `docs/external-routers.md` lays it out, with a baseline of its own.
fn project() -> (Scratch, String) {
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
    (place, formula)
}

#[test]
fn a_router_project_is_gated() {
    if !has("bash") || !has("python3") {
        return;
    }
    let (place, formula) = project();
    // As kept from an earlier run: it is not built again.
    std::fs::create_dir_all(place.path().join("temp/sim/bin")).expect("a folder");
    let kept = place.path().join("temp/sim/bin/sim");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_sim"), kept).expect("a link");

    let inputs = [("experiments", "\n  routing/gate.toml\n"), ("router", "python3\n  router.py\n")];
    let passed = use_action(&place, &inputs);
    assert!(passed.succeeded, "{passed:?}");
    assert_eq!(passed.ran, ["Build the program", "Check"]);
    let summary = &passed.summary;
    assert!(
        summary.contains("12 of 12 laws held") && summary.contains("Routing check passed"),
        "{summary}"
    );
    assert_eq!(passed.outputs["junit"], "routing-check.xml");
    assert_eq!(passed.outputs["passed"], "true");
    assert_eq!(counted(&place, "routing-check.xml"), "some tests, no failures");

    // All requests go to one worker.
    place.write("router.py", formula.replace("return Choice(worker,", "return Choice(0,"));
    let worse = use_action(&place, &inputs);
    assert_eq!((worse.succeeded, worse.code), (false, Some(1)), "{worse:?}");
    assert_eq!(worse.outputs["passed"], "false");
    assert!(worse.summary.contains("FAILED  it sends nothing to a worker that has left"));
    let worse = use_action(&place, &[inputs[0], ("junit", "reports.xml")]);
    assert_eq!((worse.succeeded, worse.code), (false, Some(1)), "{worse:?}");
    let summary = &worse.summary;
    assert!(summary.contains("| WORSE | ") && has_whole_tables(summary), "{summary}");
    assert_eq!(worse.outputs["junit"], "reports.xml");
    assert_eq!(counted(&place, "reports.xml"), "some tests, some failures");
}

/// Every input does what it says, the program that is there already among them; what cannot
/// be read fails with 2.
#[test]
fn inputs_of_the_action_reach_the_check() {
    if !has("bash") || !has("python3") {
        return;
    }
    let (place, _) = project();
    let sim = ("sim", env!("CARGO_BIN_EXE_sim"));
    let gate = ("experiments", "routing/gate.toml");
    std::fs::rename(place.path().join("routing/baselines"), place.path().join("kept")).unwrap();
    let none = use_action(&place, &[sim, gate]);
    assert_eq!((none.succeeded, none.code), (false, Some(2)), "{none:?}");
    assert_eq!(none.outputs["passed"], "false");
    let elsewhere = [sim, gate, ("baselines", "kept"), ("jobs", "1")];
    let passed = use_action(&place, &elsewhere);
    assert!(passed.succeeded && passed.ran == ["Check"], "{passed:?}");
    let slow = "engine.step_time={ kind = \"fixed\", prefill = \"60ms\", decode = \"30ms\" }";
    let slow = format!("\n  router.feed.delay=10s\n  {slow}\n");
    let worse = use_action(&place, &[&elsewhere[..], &[("set", &slow)]].concat());
    assert_eq!(worse.code, Some(1), "{worse:?}");
    for given in ["routing/none.toml", " \n"] {
        let unreadable = use_action(&place, &[sim, ("experiments", given)]);
        assert_eq!((unreadable.code, &*unreadable.outputs["passed"]), (Some(2), "false"));
        assert!(!unreadable.said.is_empty());
    }
    let endless = use_action(&place, &[sim, gate, ("jobs", "many")]);
    assert_eq!(endless.code, Some(2), "{endless:?}");
}
