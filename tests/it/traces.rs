//! `sim trace` and the forms of results that others read, as a user runs them.

use super::program::{EXPERIMENT, Scratch, text};
use kv_router_sim::experiment::{Experiment, ExperimentOutcome, LoadOptions, RunOptions, run};
use kv_router_sim::recorder::RequestRecord;
use kv_router_sim::time::SimTime;

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
fn texts_need_a_tokenizer() {
    let place = Scratch::new();
    let (file, tokenizer) = (fixture("sharegpt.json"), fixture("tokenizer.json"));
    let refused = place.sim(&["trace", "stats", &file]);
    assert_eq!(refused.status.code(), Some(2));
    let said_of = text(&refused.stderr);
    assert!(said_of.contains("tokenizer = nothing: must be the tokenizer.json"), "{said_of}");
    assert_eq!(said_of.lines().count(), 1, "{said_of}");
    if cfg!(feature = "texts") {
        let stats = said(&place, &["trace", "stats", &file, "--tokenizer", &tokenizer]);
        assert!(stats.contains("tokens of a block     16\n"), "{stats}");
        let convert = ["trace", "convert", &file, "out.jsonl", "--tokenizer", &tokenizer];
        assert_eq!(said(&place, &convert), "4 requests written to out.jsonl\n");
        let rows = std::fs::read_to_string(file).expect("a fixture");
        let (outcome, notices) =
            replayed(&rows, &format!("tokenizer = '{tokenizer}'\nconcurrency = 2"));
        assert_eq!(outcome.requests[0].records.len(), 4);
        assert!(notices.iter().any(|notice| notice.contains("chat template")), "{notices:?}");
    } else {
        let refused = place.sim(&["trace", "stats", &file, "--tokenizer", &tokenizer]);
        assert_eq!(refused.status.code(), Some(2));
        assert!(text(&refused.stderr).contains("build it with the feature texts"));
    }
}

/// A made-up file of the repository.
fn fixture(name: &str) -> String {
    format!("{}/traces/fixtures/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn formats_are_converted_and_what_they_lack_is_said() {
    let place = Scratch::new();
    let convert = |file: &str, out: &str, more: &[&str]| {
        let args = [&["trace", "convert", file, out], more].concat();
        let output = place.sim(&args);
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        let written = std::fs::read_to_string(place.path().join(out)).expect("written");
        (written, text(&output.stderr).to_owned())
    };
    let small = fixture("mooncake-small.jsonl");
    let (azure, lost) = convert(&small, "small.csv", &["--to", "azure"]);
    assert!(azure.starts_with("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 00:00:00,"));
    assert!(lost.contains("6 requests lose their block ids"), "{lost}");
    let (bailian, lost) = convert(&small, "bailian.jsonl", &["--to", "bailian"]);
    assert!(lost.is_empty(), "{lost}");
    assert!(bailian.starts_with("{\"chat_id\": 0, \"parent_chat_id\": -1, \"timestamp\": 0"));
    // Ids of 16 tokens share what those of 512 did.
    let hits = |file: &str| {
        let stats = said(&place, &["trace", "stats", file, "--format", "json"]);
        let stats: serde_json::Value = serde_json::from_str(&stats).expect("JSON");
        stats["stats"]["prefix_tokens_mean"].as_f64().expect("a number")
    };
    assert!((hits("bailian.jsonl") - hits(&small)).abs() < 16.0);

    let (agents, _) = convert(&fixture("weka.jsonl"), "agents.jsonl", &[]);
    assert!(agents.contains("\"wait_for\": ["), "{agents}");
    let refused = place.sim(&["trace", "convert", &fixture("weka.jsonl"), "x", "--to", "azure"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("--to = azure: must be mooncake"));

    let (hidden, _) = convert(&small, "hidden.jsonl", &["--anonymise"]);
    let (again, _) = convert(&small, "again.jsonl", &["--anonymise"]);
    assert_eq!(hidden, again);
    assert_eq!(hits("hidden.jsonl"), hits(&small), "it shares what it shared");
}

#[test]
fn every_format_is_replayed() {
    for (file, requests) in [
        ("bailian.jsonl", 5),
        ("dynamo-requests.jsonl", 3),
        ("aiperf-profile.jsonl", 2),
        ("weka.jsonl", 6),
        ("mooncake-agentic.jsonl", 5),
        ("mooncake-small.jsonl", 6),
        ("mooncake-delta.jsonl", 4),
        ("azure-2023.csv", 3),
        ("azure-2024.csv", 3),
        ("burstgpt.csv", 3),
        ("burstgpt-sessions.csv", 3),
    ] {
        let rows = std::fs::read_to_string(fixture(file)).expect("a fixture");
        let (outcome, _) = replayed(&rows, "");
        assert_eq!(outcome.requests[0].records.len(), requests, "{file}");
    }
    let rows = std::fs::read_to_string(fixture("blis.csv")).expect("a fixture");
    let columns = "time_unit = 'us'\ncolumns = { time = 'arrival_time_us', prompt = 'input_tokens', \
                   output = 'output_tokens', prefix = 'prefix_group', prefix_tokens = 'prefix_length' }";
    replayed(&rows, columns);
}

#[test]
fn every_sample_is_named_where_its_format_is_described() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/traces/fixtures");
    let docs = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/traces.md"));
    let docs = docs.expect("a page");
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let name = entry.expect("an entry").file_name().into_string().expect("a name of text");
        let is_named = docs.contains(&format!("[`{name}`](../traces/fixtures/{name})"));
        assert!(is_named || name == "tokenizer.json", "docs/traces.md does not name {name}");
    }
}

#[test]
fn ids_of_other_sizes_are_read_again() {
    let place = Scratch::new();
    let convert = |file: &str, out: &str, more: &[&str]| {
        let output = place.sim(&[&["trace", "convert", file, out], more].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stderr).to_owned()
    };
    let facts = |file: &str, more: &[&str]| {
        let all = said(&place, &[&["trace", "stats", file], more].concat());
        // Times of later turns are those of the answers before.
        all.lines().skip_while(|line| !line.starts_with("input")).collect::<Vec<_>>().join("\n")
    };
    // Where requests name others, the file says what its ids stand for.
    for file in ["mooncake-agentic.jsonl", "dynamo-requests.jsonl", "bailian.jsonl", "weka.jsonl"] {
        let file = fixture(file);
        let out = format!("again-{}", file.rsplit('/').next().expect("a name"));
        convert(&file, &out, &[]);
        assert_eq!(facts(&out, &[]), facts(&file, &[]), "{file}");
    }
    // Else it cannot, and the program does.
    assert_eq!(convert(&fixture("mooncake-small.jsonl"), "16.jsonl", &["--to", "bailian"]), "");
    let note = convert("16.jsonl", "again.jsonl", &[]);
    assert!(note.contains("read it with trace_block_tokens = 16"), "{note}");
    assert_eq!(facts("again.jsonl", &["--block-tokens", "16"]), facts("16.jsonl", &[]));
}

#[test]
fn logs_that_nothing_can_be_said_of_are_refused() {
    let place = Scratch::new();
    let refused = |args: &[&str], said_of: &str| {
        let output = place.sim(args);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {error}");
        assert!(error.contains(said_of), "{args:?}: {error}");
    };
    let log = |name: &str, rows: &mut dyn Iterator<Item = (u64, u32)>| {
        let row = |(at, input)| {
            format!("{{\"timestamp\":{at},\"input_length\":{input},\"output_length\":5}}\n")
        };
        place.write(name, rows.map(row).collect::<String>());
    };
    // Blocks that no memory has, in a few lines.
    log("long.jsonl", &mut (0..100).map(|row| (row * 1_000, 1_000_000_000)));
    let blocks = "FILE = 195312500 blocks: must be at most 100000000: take a part";
    refused(&["trace", "stats", "long.jsonl"], blocks);
    refused(&["trace", "synth", "long.jsonl", "x.jsonl"], blocks);
    refused(&["trace", "fit", "long.jsonl", "--out", "x.toml"], blocks);
    // Rates that no workload has.
    log("rare.jsonl", &mut (0..100).map(|row| (row * 80_000_000, 600)));
    refused(&["trace", "fit", "rare.jsonl", "--hold-out"], "arrivals.rate = 0.00001: must be");
    log("dense.jsonl", &mut (0..20_000).map(|row| (row / 2_000, 600)));
    refused(&["trace", "fit", "dense.jsonl", "--out", "x.toml"], "must be requests per second");
    // Halves without sessions.
    let row = "{\"session_id\":\"a\",\"timestamp\":0,\"input_length\":9,\"output_length\":5}\n";
    place.write("one.jsonl", row.to_owned() + &row.replace(":0,", ":9000,"));
    let half = "--hold-out = a log of which no session begins in the second half";
    refused(&["trace", "fit", "one.jsonl", "--hold-out"], half);
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

/// What replaying `rows` gives, with further keys of `[workload]`; and what was said
/// of the file.
fn replayed(rows: &str, keys: &str) -> (ExperimentOutcome, Vec<String>) {
    let place = Scratch::new();
    place.write("t.jsonl", rows);
    let experiment = format!(
        "name = \"t\"\n[cluster]\nworkers = 1\n[engine]\nrules = \"vllm\"\nblock_size = 16\n\
         num_blocks = 20_000\nmax_num_seqs = 64\nmax_num_batched_tokens = 8192\n\
         max_model_len = 1600\n\
         step_time = {{ kind = \"fixed\", prefill = \"20ms\", decode = \"10ms\" }}\n\
         [router]\npolicy = \"round_robin\"\n[measure]\nseeds = 1\n[workload]\n\
         kind = \"trace\"\npath = \"t.jsonl\"\n{keys}\n"
    );
    let file = place.path().join("t.toml");
    let experiment = Experiment::parse(&file, &experiment, &LoadOptions::default()).expect("valid");
    let options = RunOptions::default().keep_requests();
    (run(&experiment, options).expect("it ends"), experiment.notices)
}

/// The requests of a replay, in order of arrival.
fn requests(outcome: &ExperimentOutcome) -> Vec<RequestRecord> {
    let mut records = outcome.requests[0].records.clone();
    records.sort_by_key(|record| record.request);
    records
}

fn metric(outcome: &ExperimentOutcome, name: &str) -> f64 {
    outcome.summary.points[0].metrics[name].mean.expect("defined")
}

fn lengths_and_hits(outcome: &ExperimentOutcome) -> Vec<(u32, u32)> {
    requests(outcome).iter().map(|r| (r.prompt_tokens, r.cached_tokens)).collect()
}

/// The hour before the first row is no part of the replay.
#[test]
fn a_replay_begins_with_its_first_row() {
    let rows = r#"{"timestamp": 3600000, "input_length": 64, "output_length": 100}
{"timestamp": 3601000, "input_length": 64, "output_length": 100}
"#;
    let (outcome, notices) = replayed(rows, "");
    let records = requests(&outcome);
    let arrivals: Vec<f64> = records.iter().map(|record| record.arrived.as_secs()).collect();
    assert_eq!(arrivals, [0.0, 1.0]);
    let (end, _) = records[1].end.expect("it ended");
    let rate = metric(&outcome, "requests_per_s");
    assert!((rate - 2.0 / end.as_secs()).abs() < 1e-9 && rate > 0.9, "{rate}");
    assert_eq!(notices.len(), 1);
}

/// The ids of an answer follow from those of the next turn: (512 + 256 - 1) / 16 = 47
/// blocks, as without ids.
#[test]
fn an_answer_is_reused_with_ids_as_without() {
    let ids = |count: u32| (0..count).map(|id| id.to_string()).collect::<Vec<_>>().join(", ");
    let rows = |first: String, second: String| {
        format!(
            "{{\"session_id\": \"s\", \"timestamp\": 0, \"input_length\": 512, \
             \"output_length\": 256{first}}}\n{{\"session_id\": \"s\", \"delay\": 1000, \
             \"input_length\": 832, \"output_length\": 10{second}}}\n"
        )
    };
    let with =
        rows(format!(", \"hash_ids\": [{}]", ids(32)), format!(", \"hash_ids\": [{}]", ids(52)));
    let without = rows(String::new(), String::new());
    for text in [with, without] {
        let (outcome, notices) = replayed(&text, "trace_block_tokens = 16");
        assert_eq!(lengths_and_hits(&outcome), [(512, 0), (832, 752)]);
        assert_eq!(metric(&outcome, "sessions_broken"), 0.0);
        assert!(notices.is_empty());
    }
}

#[test]
fn increments_are_read_as_such() {
    let turn = |time: &str| {
        format!(
            "{{\"session_id\": \"s\", {time}, \"input_length\": 512, \"output_length\": 320}}\n"
        )
    };
    let rows = turn("\"timestamp\": 0") + &turn("\"delay\": 1000");
    let (outcome, notices) = replayed(&rows, "");
    assert_eq!(lengths_and_hits(&outcome), [(512, 0), (1_344, 816)]);
    assert!(notices[0].contains("rows of one session shrink"), "{notices:?}");
    // Unless the file is said to have whole prompts.
    let (outcome, notices) = replayed(&rows, "format = \"mooncake\"");
    assert_eq!(lengths_and_hits(&outcome), [(512, 0), (512, 0)]);
    assert_eq!((metric(&outcome, "sessions_broken"), notices.len()), (1.0, 0));
}

#[test]
fn clients_of_a_closed_loop_take_one_row_after_another() {
    let row = |i: u32| {
        format!("{{\"timestamp\": {}, \"input_length\": 64, \"output_length\": 11}}\n", 1_000 * i)
    };
    let rows: String = (0..9).map(row).collect();
    let (outcome, _) = replayed(&rows, "concurrency = 3");
    let records = requests(&outcome);
    assert_eq!(records.len(), 9);
    // 20 ms and ten of 10 ms for each three of them.
    let ms = |at: SimTime| at.as_millis();
    let arrivals: Vec<f64> = records.iter().map(|record| ms(record.arrived)).collect();
    assert_eq!(arrivals, [0.0, 0.0, 0.0, 120.0, 120.0, 120.0, 240.0, 240.0, 240.0]);
    let swept = "concurrency = 3\n[sweep]\n\"workload.concurrency\" = [1, 3, 9]\n\
                 \"workload.start\" = [\"0s\", \"6s\"]";
    let (outcome, _) = replayed(&rows, swept);
    let finished = |point: usize| outcome.summary.points[point].metrics["finished"].mean;
    let all: Vec<Option<f64>> = (0..6).map(finished).collect();
    assert_eq!(all, [9.0, 3.0, 9.0, 3.0, 9.0, 3.0].map(Some));
}

#[test]
fn what_was_assumed_of_a_file_is_said_once() {
    let place = Scratch::new();
    let rows = r#"{"timestamp": 1782000000, "input_length": 64, "output_length": 10}
{"timestamp": 1782000001, "input_length": 64, "output_length": 10}
"#;
    place.write("t.jsonl", rows);
    let workload = EXPERIMENT.find("[workload]").expect("a section");
    place.write(
        "trace.toml",
        format!(
            "{}[workload]\nkind = \"trace\"\npath = \"t.jsonl\"\n[sweep]\n\
             \"workload.speedup\" = [1, 2]\n",
            &EXPERIMENT[..workload]
        ),
    );
    let said = |args: &[&str]| {
        let output = place.sim(args);
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        let lines = text(&output.stderr).lines();
        lines.filter(|line| line.starts_with("note: ")).map(str::to_owned).collect::<Vec<_>>()
    };
    let notes = said(&["run", "trace.toml", "--no-figures", "--out", "out"]);
    assert_eq!(notes.len(), 1, "{notes:?}");
    let notice = "t.jsonl: its times are dates in seconds: the first row is at 0 s";
    assert!(notes[0].ends_with(notice), "{notes:?}");
    assert_eq!(said(&["trace", "stats", "t.jsonl"]), [format!("note: {notice}")]);
    let args = ["run", "trace.toml", "--no-figures", "--out", "out", "--force", "--quiet"];
    assert!(said(&args).is_empty());
}

/// Of 500 tokens asked for, the context limit leaves 100 and 10.
#[test]
fn answers_that_are_cut_short_are_counted() {
    let row = |at: u32, input: u32| {
        format!("{{\"timestamp\": {at}, \"input_length\": {input}, \"output_length\": 500}}\n")
    };
    let (outcome, _) = replayed(&(row(0, 1_500) + &row(100, 1_590) + &row(200, 100)), "");
    assert_eq!((metric(&outcome, "cut_short"), metric(&outcome, "finished")), (2.0, 3.0));
}
