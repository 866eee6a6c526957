//! What makes the program easy to use: help, schema, a first experiment, how
//! much it says, and Ctrl-C.

use super::program::{EXPERIMENT, Scratch, text};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What a command prints that must succeed and say nothing.
fn printed(place: &Scratch, args: &[&str]) -> String {
    let output = place.sim(args);
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "", "{args:?}");
    text(&output.stdout).to_owned()
}

/// The TOML files of a folder that are experiments.
fn experiments(folder: &str) -> Vec<PathBuf> {
    let files = fs::read_dir(root().join(folder)).expect("a folder");
    let mut files: Vec<PathBuf> = files.map(|entry| entry.expect("an entry").path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "toml"));
    files.retain(|file| fs::read_to_string(file).expect("text").contains("\nname = "));
    files
}

fn json(toml_text: &str) -> Value {
    let table: toml::Table = toml_text.parse().expect("TOML");
    serde_json::to_value(table).expect("JSON")
}

#[test]
fn every_command_has_examples_and_a_page() {
    let place = Scratch::new();
    place.sim(&["man", "--out", "pages"]);
    let mut names: Vec<String> = place.files().into_iter().map(|(name, _)| name).collect();
    names.retain(|name| name.ends_with(".1"));
    assert!(names.len() > 12, "{names:?}");
    for name in &names {
        let command = name.trim_start_matches("pages/sim").trim_end_matches(".1");
        let args: Vec<&str> = command.split('-').filter(|part| !part.is_empty()).collect();
        let help = printed(&place, &[&args[..], &["--help"]].concat());
        assert!(help.contains("Examples:\n  "), "{name}: {help}");
        let page = fs::read_to_string(place.path().join(name)).expect("a page");
        assert!(page.contains(".TH ") && page.contains("Examples:"), "{name}: {page}");
    }
    assert_eq!(
        printed(&place, &["man", "sweep"]),
        fs::read_to_string(place.path().join("pages/sim-sweep.1")).expect("a page")
    );
    let misspelt = place.sim(&["man", "swep"]);
    assert_eq!(misspelt.status.code(), Some(2));
    assert!(text(&misspelt.stderr).contains("did you mean sweep?"));
}

#[test]
fn shells_complete_commands_and_options() {
    let place = Scratch::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = printed(&place, &["completions", shell]);
        for word in ["frontier", "no-figures"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
}

#[test]
fn the_schema_accepts_every_experiment_and_refuses_mistakes() {
    let place = Scratch::new();
    let schema: Value = serde_json::from_str(&printed(&place, &["schema"])).expect("JSON");
    let schema = jsonschema::validator_for(&schema).expect("a schema");
    let mut checked = 0;
    for folder in ["experiments", "experiments/incidents", "benches", "src/cli/init"] {
        for file in experiments(folder) {
            let experiment = json(&fs::read_to_string(&file).expect("text"));
            let errors: Vec<String> = schema
                .iter_errors(&experiment)
                .map(|error| format!("{} at {}", error, error.instance_path()))
                .collect();
            assert!(errors.is_empty(), "{}: {}", file.display(), errors.join("\n"));
            checked += 1;
        }
    }
    assert!(checked > 15, "only {checked} experiments were found");

    let accepts = |from: &str, to: &str| {
        assert!(EXPERIMENT.contains(from), "{from}");
        schema.is_valid(&json(&EXPERIMENT.replacen(from, to, 1)))
    };
    assert!(accepts("", ""));
    for (from, to) in [
        ("seeds = 3", "seeds = [3, 5]"),
        ("num_blocks = \"4k\"", "num_blocks = 4_000"),
        ("window = \"20s\"", "window = \"1.5 min\""),
        ("[2, 4]", "{ from = 2, to = 4, step = 1 }"),
        ("[2, 4]", "{ from = 2, to = 4, factor = 2 }"),
    ] {
        assert!(accepts(from, to), "{to} should be accepted");
    }
    for (from, to) in [
        ("name = \"small\"", "nam = \"small\""),
        ("name = \"small\"", "name = 5"),
        ("workers = 2", "workers = \"many\""),
        ("workers = 2", "worker = 2"),
        ("workers = 2", ""),
        ("[cluster]", "[clusters]"),
        ("window = \"20s\"", "window = 20"),
        ("window = \"20s\"", "window = \"20\""),
        ("rules = \"vllm\"", "rules = \"vlm\""),
        ("kind = \"conversations\"", "kind = \"conversation\""),
        ("starters = 2", "starters = 2\nstarter = 2"),
        ("value = 300", "value = true"),
        ("value = 300", "value = 300, min = 3"),
        ("kind = \"fixed\", prefill", "kind = \"roofline\", prefill"),
        ("policy = \"kv\"", "policy = \"kv\"\noverlap_wieght = 1.0"),
        ("policy = \"kv\"", "policy = \"kv\"\nsemantics = \"0.8\""),
        ("policy = \"kv\"", "policy = \"kv\"\nfeed = { dely = \"1ms\" }"),
        ("seeds = 3", "seeds = 0"),
        ("[2, 4]", "{ from = 2, to = 4 }"),
        ("[2, 4]", "5"),
    ] {
        assert!(!accepts(from, to), "{to} should be refused");
    }
    // A file that extends another says what it changes, and nothing else.
    let part = "name = \"b\"\nextends = \"a.toml\"\n[workload]\nconcurrency = 3\n";
    assert!(schema.is_valid(&json(part)));
    assert!(!schema.is_valid(&json(&part.replace("extends", "extend"))));
    assert!(!schema.is_valid(&json(&part.replace("concurrency", "concurency"))));
    assert!(!schema.is_valid(&json(&part.replace("= 3", "= true"))));
}

#[test]
fn the_first_experiment_runs_as_it_is() {
    let place = Scratch::new();
    let said = printed(&place, &["init", "fleet"]);
    assert_eq!(said, "wrote fleet/experiment.toml; run it with: sim run fleet\n");
    let written = fs::read_to_string(place.path().join("fleet/experiment.toml")).expect("text");
    assert!(written.contains("\nname = \"fleet\" "), "{written}");
    let output = place.sim(&["run", "fleet", "--no-figures", "--seeds", "2"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let said = text(&output.stdout);
    assert!(said.contains("kv against round_robin: "), "{said}");

    assert!(place.sim(&["init", "fleet"]).status.success(), "the same files may stand there");
    place.write("fleet/experiment.toml", "name = \"mine\"\n");
    let before = place.files();
    let refused = place.sim(&["init", "fleet"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(
        text(&refused.stderr)
            .contains("fleet: must be without a file experiment.toml of other content"),
        "{}",
        text(&refused.stderr)
    );
    assert_eq!(place.files(), before);
    assert!(place.sim(&["init", "fleet", "--force"]).status.success());
    for (args, expected) in [
        (&["init", "a fleet"][..], "a fleet: must be a folder whose name can be that of an"),
        (&["init", "--from", "doks-3xh20", "copy"], "did you mean doks-3xh200"),
    ] {
        let refused = place.sim(args);
        assert_eq!(refused.status.code(), Some(2));
        assert!(text(&refused.stderr).contains(expected), "{}", text(&refused.stderr));
    }
}

#[test]
fn it_says_as_much_as_is_wanted() {
    let place = Scratch::new();
    let run = |flags: &[&str]| {
        let args = [&["run", "small.toml", "--no-figures", "--seeds", "1"], flags].concat();
        let output = place.sim(&args);
        assert!(output.status.success(), "{}", text(&output.stderr));
        (text(&output.stdout).to_owned(), text(&output.stderr).to_owned())
    };
    let (results, normal) = run(&[]);
    assert_eq!(normal, "saved in plots/small\n");
    assert_eq!(run(&["-q"]), (results.clone(), String::new()));
    let (same, verbose) = run(&["-v"]);
    assert_eq!(same, results);
    assert!(verbose.contains("4 simulations in ") && verbose.ends_with(&normal), "{verbose}");
    // Not a terminal, so no colours either.
    let error = place.sim(&["run", "nowhere.toml", "-q"]);
    assert!(text(&error.stderr).starts_with("error: nowhere.toml: "));
    assert_eq!(place.sim(&["run", "small.toml", "-q", "-v"]).status.code(), Some(2));
}

#[test]
fn no_line_ends_with_spaces() {
    let place = Scratch::new();
    for args in [
        &["run", "small.toml", "--no-figures"][..],
        &["sweep", "small.toml", "--no-figures", "--over", "router.overlap_weight=0,1"],
        &["frontier", "small.toml"],
        &["explain", "plots/small", "--worst", "ttft"],
        &["compare", "plots/small", "plots/small", "--all"],
    ] {
        let output = place.sim(args);
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        for line in text(&output.stdout).lines() {
            assert_eq!(line, line.trim_end(), "{args:?}");
        }
    }
}

/// Lines of the journal that are there so far, head included.
fn journal_lines(folder: &Path) -> usize {
    let bytes = fs::read(folder.join("journal.jsonl")).unwrap_or_default();
    bytes.iter().filter(|&&byte| byte == b'\n').count()
}

#[test]
fn ctrl_c_keeps_what_is_done_and_says_how_to_go_on() {
    let place = Scratch::new();
    for command in ["run", "sweep"] {
        let args = [command, "small.toml", "--no-figures", "--seeds", "100", "--jobs", "1"];
        let out = format!("interrupted-{command}");
        let child = place
            .command(&[&args[..], &["--out", &out]].concat())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let folder = place.path().join(&out);
        // A minute at most.
        let come = (0..12_000).any(|_| {
            std::thread::sleep(Duration::from_millis(5));
            journal_lines(&folder) >= 3
        });
        assert!(come, "no simulation came to its end");
        let pid = child.id().to_string();
        let sent = Command::new("kill").args(["-INT", &pid]).status().expect("kill is there");
        assert!(sent.success());
        let output = child.wait_with_output().expect("it ends");
        assert_eq!(output.status.code(), Some(130));
        let said = text(&output.stderr);
        assert!(said.contains("simulations are done and kept in interrupted-"), "{said}");
        assert!(said.contains("the same command goes on from there"), "{said}");

        let kept = journal_lines(&folder) - 1;
        // A simulation is in the journal before it counts, and some may end after that.
        let (_, count) = said.split_once("interrupted: ").expect("it says so");
        let (done, _) = count.split_once(" of 400 ").unwrap_or_else(|| panic!("{said}"));
        let done: usize = done.parse().expect("a number");
        assert!(done <= kept && kept < done + 50, "{kept} are kept: {said}");
        let resumed = place.sim(&[&args[..], &["--out", &out]].concat());
        assert!(resumed.status.success(), "{}", text(&resumed.stderr));
        let said = text(&resumed.stderr);
        assert!(said.starts_with(&format!("going on: {kept} of 400 simulations")), "{said}");
        let peace = place.sim(&[&args[..], &["--out", "peace"]].concat());
        assert_eq!(peace.stdout, resumed.stdout);
        fs::remove_dir_all(place.path().join("peace")).expect("there");
    }
}
