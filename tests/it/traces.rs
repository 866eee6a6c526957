//! `sim trace` and the forms of results that others read, as a user runs them.

use super::program::{EXPERIMENT, Scratch, text};

const SESSIONS: &str = r#"{"session_id": "a", "timestamp": 0, "input_length": 700, "output_length": 300}
{"session_id": "b", "timestamp": 40, "input_length": 90, "output_length": 10}
{"session_id": "a", "delay": 500, "input_length": 100, "output_length": 200}
"#;

/// What the program says, if it succeeds.
fn said(place: &Scratch, args: &[&str]) -> String {
    let output = place.sim(args);
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    text(&output.stdout).to_owned()
}

#[test]
fn a_trace_is_converted_and_stays_the_same() {
    let place = Scratch::new();
    place.write("delta.jsonl", SESSIONS);
    let convert = ["trace", "convert", "delta.jsonl", "whole.jsonl", "--as", "mooncake-delta"];
    assert_eq!(said(&place, &convert), "3 requests written to whole.jsonl\n");
    let whole = std::fs::read_to_string(place.path().join("whole.jsonl")).expect("written");
    assert!(whole.ends_with("\"delay\": 500, \"input_length\": 1100, \"output_length\": 200}\n"));
    let stats = said(&place, &["trace", "stats", "whole.jsonl"]);
    for out in ["again.jsonl", "again.jsonl.gz", "again.jsonl.zst"] {
        said(&place, &["trace", "convert", "whole.jsonl", out]);
        assert_eq!(said(&place, &["trace", "stats", out]), stats);
    }
    insta::assert_snapshot!(stats, @r"
    requests              3
    sessions              2
    duration (s)          0.040
    requests per s        50.0000
    input tokens          mean 630.0, min 90, max 1100
      in shared prefixes  mean 341.3
    output tokens         mean 170.0, min 10, max 300
    tokens of a block     512
    different blocks      5
    in several requests   1
      requests of each    mean 2.0, max 2
    references to blocks  6
    repeated references   1
    hit ratio             0.1667 with a cache that keeps everything
    hit ratio, mean       0.1111 over requests
    reuse distance        p50 1, p90 1, p99 1 blocks used in between
    one cache of (blocks) hit ratio, least recently used evicted first
                    1000  0.1667
    ");
}

#[test]
fn a_look_alike_is_the_same_for_the_same_seed() {
    let place = Scratch::new();
    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/traces/fixtures/mooncake-small.jsonl");
    let synth = |out: &str, seed: &str| {
        let args = ["trace", "synth", fixture, out, "--requests", "50", "--seed", seed];
        assert_eq!(said(&place, &args), format!("50 requests written to {out}\n"));
        std::fs::read(place.path().join(out)).expect("written")
    };
    let first = synth("a.jsonl", "1");
    assert_eq!(synth("b.jsonl", "1"), first);
    assert_ne!(synth("c.jsonl", "2"), first);
}

#[test]
fn requests_are_told_as_aiperf_tells_them() {
    let place = Scratch::new();
    let workload = EXPERIMENT.find("[workload]").expect("a section");
    let measure = EXPERIMENT.find("[measure]").expect("a section");
    let experiment = format!(
        "{}[workload]\nkind = \"trace\"\npath = \"t.jsonl\"\nformat = \"mooncake_delta\"\n\
         trace_block_tokens = 512\n[measure]\n",
        &EXPERIMENT[..workload]
    );
    assert!(measure > workload);
    place.write("trace.toml", experiment);
    place.write("t.jsonl", SESSIONS);
    said(&place, &["run", "trace.toml", "--aiperf", "--no-figures", "--out", "out"]);
    let folder = place.path().join("out/aiperf/001-kv-seed1");
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).expect("written");
    let records: Vec<serde_json::Value> = read("profile_export.jsonl")
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let metric = |i: usize, tag: &str| records[i]["metrics"][tag]["value"].as_f64();
    let last = records.len() - 1;
    assert_eq!(last, 2);
    assert_eq!(metric(last, "input_sequence_length"), Some(1_100.0));
    // The turn before and its answer: 1,000 tokens, in blocks of 32, on its worker.
    assert_eq!(metric(last, "usage_prompt_cache_read_tokens"), Some(992.0));
    assert_eq!(records[last]["metadata"]["turn_index"], 1);
    assert!(read("profile_export_aiperf.csv").contains("\r\nRequest Count,3.00\r\n"));
    let summary: serde_json::Value =
        serde_json::from_str(&read("profile_export_aiperf.json")).expect("JSON");
    assert_eq!(summary["input_sequence_length"]["max"], 1_100.0);
}
