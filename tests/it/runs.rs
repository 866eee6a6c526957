//! Runs that work: what is printed, what is written, and that it is the same
//! for any number of threads.

use super::program::{Scratch, text};
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
