//! Mistakes of the operator: exit code 2, one line that names the place, and
//! nothing written.

use super::program::{EXPERIMENT, Scratch, text};

/// Runs the program, checks that it refuses cleanly, and returns its one line.
fn refused(place: &Scratch, args: &[&str]) -> String {
    let before = place.files();
    let output = place.sim(args);
    let line = text(&output.stderr).to_owned();
    assert_eq!(output.status.code(), Some(2), "{args:?}: {line}");
    assert_eq!(text(&output.stdout), "", "{args:?}");
    assert!(line.ends_with('\n') && line.lines().count() == 1, "{args:?}: {line:?}");
    assert_eq!(place.files(), before, "{args:?} wrote something");
    line.trim_end().to_owned()
}

#[test]
fn experiments_that_cannot_be_read() {
    let place = Scratch::new();
    place.write("latin1.toml", b"name = \"caf\xe9\"\n");
    place.write("empty.toml", "");
    place.write("binary.toml", [0, 159, 146, 150]);
    std::fs::create_dir(place.path().join("folder.toml")).expect("made");
    let files = ["nowhere.toml", "folder.toml", "latin1.toml", "empty.toml", "binary.toml"];
    let lines = files.map(|file| refused(&place, &["run", file]));
    insta::assert_snapshot!(lines.join("\n"), @r#"
    error: nowhere.toml: cannot be read: No such file or directory (os error 2)
    error: folder.toml: cannot be read: Is a directory (os error 21)
    error: latin1.toml:1: not UTF-8 text: an experiment is a TOML file
    error: empty.toml: name is missing
    error: binary.toml:1: not UTF-8 text: an experiment is a TOML file
    "#);
}

#[test]
fn experiments_that_cannot_be_run() {
    let place = Scratch::new();
    for (from, to, expected) in [
        ("workers = 2", "workers = 0", "bad.toml:4: cluster.workers = 0: must be"),
        (
            "workers = 2",
            "worker = 2",
            "bad.toml:4: unknown key cluster.worker; did you mean workers?",
        ),
        ("seeds = 3", "seeds = nan", "measure.seeds = nan: must be"),
        ("\"20s\"", "\"1e999s\"", "measure.window = \"1e999s\": "),
        ("[2, 4]", "[2, -4]", "(swept): workload.concurrency = -4: "),
        ("[2, 4]", "[]", "sweep.workload.concurrency = []: must list"),
        ("[sweep]", "[sweep", "bad.toml:31: not valid TOML: "),
        ("workers = 2", "workers = 2\nmodel = \"gone.toml\"", "cluster.model = \"gone.toml\": "),
    ] {
        assert!(EXPERIMENT.contains(from), "{from}");
        place.write("bad.toml", EXPERIMENT.replacen(from, to, 1));
        let line = refused(&place, &["run", "bad.toml"]);
        assert!(line.starts_with("error: bad.toml:"), "{line}");
        assert!(line.contains(expected), "{line}");
    }
}

#[test]
fn overrides_that_cannot_be_applied() {
    let place = Scratch::new();
    for (argument, expected) in [
        ("measure.window", "error: --set measure.window: must be KEY=VALUE"),
        ("measure.windw=5s", "unknown key measure.windw; did you mean window?"),
        ("cluster.workers=-1", "error: --set cluster.workers=-1: cluster.workers = -1: "),
        ("router.policy=\"a\nb\"", r#"router.policy = "\"a\nb\"": must be one of"#),
    ] {
        let line = refused(&place, &["run", "small.toml", "--set", argument]);
        assert!(line.contains(expected), "{line}");
    }
}

#[test]
fn folders_that_cannot_hold_the_results() {
    let place = Scratch::new();
    place.write("file", "text");
    let line = refused(&place, &["run", "small.toml", "--out", "file"]);
    assert_eq!(
        line,
        "error: file: cannot hold results: it is a file; choose another folder with --out"
    );
    let line = refused(&place, &["run", "small.toml", "--out", "file/inside"]);
    assert!(line.starts_with("error: file/inside: cannot hold results: "), "{line}");

    let output = place.sim(&["run", "small.toml", "--out", "results", "--seeds", "1"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let line = refused(&place, &["run", "small.toml", "--out", "results", "--seeds", "2"]);
    assert!(line.starts_with("error: results: holds results of another configuration"), "{line}");
    let forced = place.sim(&["run", "small.toml", "--out", "results", "--seeds", "2", "--force"]);
    assert!(forced.status.success(), "{}", text(&forced.stderr));
}

#[test]
fn traces_that_are_not_there() {
    let place = Scratch::new();
    let line = refused(&place, &["trace", "stats", "nowhere.jsonl"]);
    assert!(line.contains("nowhere.jsonl"), "{line}");
    let line = refused(&place, &["trace", "stats", "mooncake-conversation"]);
    assert!(line.contains("download https://"), "{line}");
    let line = refused(&place, &["trace", "stats", "mooncake-talk"]);
    assert!(line.contains("must be mooncake-"), "{line}");
}

/// The argument parser shows the usage too, so these take more than one line.
#[test]
fn arguments_that_mean_nothing() {
    let place = Scratch::new();
    let before = place.files();
    for args in [
        &["run"][..],
        &["rnu", "small.toml"],
        &["run", "small.toml", "--seeds", "0"],
        &["run", "small.toml", "--jobs", "0"],
        &["run", "small.toml", "--jobs", "-1"],
        &["run", "small.toml", "--nofigures"],
    ] {
        let output = place.sim(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(text(&output.stderr).starts_with("error: "), "{args:?}");
        assert_eq!(place.files(), before, "{args:?}");
    }
}
