//! A run that was recorded as a trace and replayed makes the same decisions.

use super::program::{EXPERIMENT, Scratch, text};
use std::collections::BTreeMap;
use std::fs;

/// By request: the columns that say what was decided and found.
fn decisions(place: &Scratch, folder: &str) -> BTreeMap<u32, Vec<String>> {
    let csv = fs::read_to_string(place.path().join(folder).join("requests.csv")).expect("saved");
    let mut lines = csv.lines();
    let names: Vec<&str> = lines.next().expect("a head").split(',').collect();
    let at = |name: &str| names.iter().position(|other| *other == name).expect(name);
    let wanted = ["worker", "prompt_tokens", "output_tokens", "cached_tokens"].map(at);
    let (request, end) = (at("request"), at("end"));
    lines
        .map(|line| line.split(',').collect::<Vec<_>>())
        .filter(|row| row[end] == "finished")
        .map(|row| {
            let found = wanted.iter().map(|&at| row[at].to_owned()).collect();
            (row[request].parse().expect("a number"), found)
        })
        .collect()
}

#[test]
fn a_recorded_run_replays_to_the_same_decisions() {
    let place = Scratch::new();
    for policy in ["kv", "round_robin", "least_loaded"] {
        let policy = format!("router.policy={policy}");
        let run = [
            "run",
            "small.toml",
            "--seeds",
            "1",
            "--requests",
            "--no-figures",
            "--force",
            "--set",
            "workload.concurrency=4",
            "--set",
            &policy,
            "--record",
            "recorded.jsonl",
            "--out",
            "was",
        ];
        let output = place.sim(&run);
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert!(text(&output.stderr).contains("trace_block_tokens = 32"));
        let head = EXPERIMENT.split("[workload]").next().expect("a head");
        let again = format!(
            "{head}[workload]\nkind = \"trace\"\npath = \"recorded.jsonl\"\ntime_unit = \"ns\"\n\
             trace_block_tokens = 32\n[measure]\nwindow = \"25s\"\n"
        );
        place.write("again.toml", again);
        let run = [
            "run",
            "again.toml",
            "--seeds",
            "1",
            "--requests",
            "--no-figures",
            "--force",
            "--set",
            &policy,
            "--out",
            "is",
        ];
        let output = place.sim(&run);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let (was, is) = (decisions(&place, "was"), decisions(&place, "is"));
        assert!(was.len() > 60, "{} requests", was.len());
        let both = was.iter().filter(|(request, found)| is.get(request) == Some(found)).count();
        // The end of either cuts off some.
        assert!(both + 4 >= was.len() && both + 4 >= is.len(), "{both} of {}", was.len());
        // What is recorded is what was decided.
        let rows = fs::read_to_string(place.path().join("recorded.jsonl")).expect("written");
        for (request, row) in (0..).zip(rows.lines()) {
            let row: serde_json::Value = serde_json::from_str(row).expect("JSON");
            if let Some(found) = was.get(&request) {
                assert_eq!(row["worker"].to_string(), found[0]);
                assert_eq!(row["cached_tokens"].to_string(), found[3]);
            }
        }
    }
}

#[test]
fn a_sweep_is_not_recorded_in_one_file() {
    let place = Scratch::new();
    let output = place.sim(&["run", "small.toml", "--record", "recorded.jsonl"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("given for one run"), "{}", text(&output.stderr));
    assert!(!place.path().join("recorded.jsonl").exists());
}
