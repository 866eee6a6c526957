//! Runs that work: what is printed, what is written, and that it is the same
//! for any number of threads.

use super::program::{EXPERIMENT, Scratch, text};
use std::io::Read;
use std::process::Stdio;

#[test]
fn a_run_prints_its_table_and_digest_and_saves_everything() {
    let place = Scratch::new();
    let output = place.sim(&["run", "small.toml"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "saved in plots/small\n");
    let last = text(&output.stdout).lines().last().expect("lines").to_owned();
    let names: Vec<String> = place.files().into_iter().map(|(name, _)| name).collect();
    assert!(names.iter().any(|name| name == "plots/small/summary.csv"), "{names:?}");
    assert!(names.iter().any(|name| name.ends_with(".svg")), "{names:?}");
    assert!(!names.iter().any(|name| name.ends_with(".tmp")), "{names:?}");
    let saved = std::fs::read(place.path().join("plots/small/summary.json")).expect("saved");
    let summary: kv_router_sim::experiment::results::Summary =
        serde_json::from_slice(&saved).expect("a summary");
    assert_eq!(last, format!("digest {}", summary.provenance.digest));
    assert_eq!(summary.points.len(), 4);
    assert_eq!(summary.provenance.seeds, [1, 2, 3]);
}

#[test]
fn threads_and_repetition_change_no_byte() {
    let place = Scratch::new();
    let first = place.sim(&["run", "small.toml", "--jobs", "1"]);
    let files = place.files();
    for jobs in ["1", "3", "16"] {
        let again = place.sim(&["run", "small.toml", "--jobs", jobs]);
        assert_eq!(text(&again.stderr), "saved in plots/small\n");
        assert_eq!(again.stdout, first.stdout, "{jobs} jobs");
        assert!(place.files() == files, "{jobs} jobs wrote other files");
    }
}

#[test]
fn no_figures_on_request() {
    let place = Scratch::new();
    let output = place.sim(&["run", "small.toml", "--no-figures", "--seeds", "1"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let names: Vec<String> = place.files().into_iter().map(|(name, _)| name).collect();
    assert_eq!(
        names,
        [
            "plots/",
            "plots/small/",
            "plots/small/details.json",
            "plots/small/runs.json",
            "plots/small/summary.csv",
            "plots/small/summary.json",
            "small.toml"
        ]
    );
}

/// The numbers are there, whatever becomes of the report.
#[test]
fn a_report_that_cannot_be_written_costs_no_results() {
    let place = Scratch::new();
    std::fs::create_dir_all(place.path().join("out/report.html/in the way")).expect("made");
    let output = place.sim(&["run", "small.toml", "--seeds", "1", "--out", "out"]);
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output.stderr);
    assert!(said.starts_with("saved in out\nerror: out/report.html: cannot be written"), "{said}");
    for name in ["summary.json", "summary.csv", "details.json", "runs.json"] {
        assert!(place.path().join("out").join(name).exists(), "{name}");
    }
    assert!(!place.path().join("out/journal.jsonl").exists());
}

#[test]
fn forced_results_replace_all_that_was_there_and_nothing_else() {
    let place = Scratch::new();
    let run = |args: &[&str]| {
        let common = ["run", "small.toml", "--out", "out", "--seeds"];
        let output = place.sim(&[&common[..], args].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
    };
    run(&["2", "--requests", "--aiperf", "--timeline", "--window", "5s..6s"]);
    let files = place.files().len();
    place.write("out/notes.txt", "mine");
    place.write("out/photo.png", "mine");
    run(&["1", "--force", "--no-figures"]);
    let mut names: Vec<String> = place.files().into_iter().map(|(name, _)| name).collect();
    names.retain(|name| name.starts_with("out/") && name != "out/");
    let own =
        ["details.json", "notes.txt", "photo.png", "runs.json", "summary.csv", "summary.json"];
    assert_eq!(names, own.map(|name| format!("out/{name}")), "of {files}");
    // Where no results are, nothing is removed.
    std::fs::remove_file(place.path().join("out/summary.json")).expect("removed");
    place.write("out/photo.svg", "mine");
    place.write("out/requests.csv", "mine");
    run(&["2", "--force", "--no-figures"]);
    for name in ["photo.svg", "photo.png", "requests.csv"] {
        assert!(place.path().join("out").join(name).exists(), "{name}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let place = Scratch::new();
    let mut child = place
        .command(&["run", "small.toml", "--seeds", "1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    drop(child.stdout.take());
    let mut said = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut said).expect("UTF-8");
    assert!(child.wait().expect("it ends").success(), "{said}");
    assert_eq!(said, "saved in plots/small\n");
}

#[test]
fn the_facts_of_a_trace() {
    let place = Scratch::new();
    let row = r#"{"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [0, 1]}"#;
    place.write("two.jsonl", format!("{row}\n{row}\n"));
    let output = place.sim(&["trace", "stats", "two.jsonl"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    insta::assert_snapshot!(text(&output.stdout), @r#"
    requests              2
    sessions              2
    duration (s)          0.000
    requests per s        all at once
    input tokens          mean 600.0, min 600, max 600
      in shared prefixes  mean 600.0
    output tokens         mean 5.0, min 5, max 5
    tokens of a block     512
    different blocks      2
    in several requests   2
      requests of each    mean 2.0, max 2
    references to blocks  4
    repeated references   2
    hit ratio             0.5000 with a cache that keeps everything
    hit ratio, mean       0.5000 over requests
    reuse distance        p50 0, p90 1, p99 1 blocks used in between
    one cache of (blocks) hit ratio, least recently used evicted first
                    1000  0.5000
    "#);
}

#[test]
fn where_nothing_is_served_the_limit_that_rejects_is_named() {
    let place = Scratch::new();
    let fleet = &EXPERIMENT[..EXPERIMENT.find("[workload]").expect("a section")];
    let load = "[workload]\nkind = \"trace\"\npath = \"t.jsonl\"\n[measure]\nseeds = 2\n";
    place.write("trace.toml", format!("{fleet}{load}"));
    let row = "{\"timestamp\": 0, \"input_length\": 300, \"output_length\": 5}\n";
    place.write("t.jsonl", row.repeat(3) + &row.replace("300", "30"));
    let run = |limit: &str, out: &str| {
        let limit = format!("engine.max_model_len={limit}");
        let output =
            place.sim(&["run", "trace.toml", "--no-figures", "--set", &limit, "--out", out]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stderr).to_owned()
    };
    let why = run("20", "none");
    let limit = ": of its requests, 4 longer than the context limit (engine.max_model_len)\n";
    assert!(why.contains("note: why nothing is served") && why.contains(limit), "{why}");
    assert!(!run("64", "some").contains("why nothing"), "some are served");
}
