//! `sim live` on servers that misbehave in thirty ways: the program
//! ends, every request is accounted for, and the key is in nothing that it leaves.

use super::super::program::{Scratch, text};
use super::server::{Fault, Server};
use kv_router_sim::experiment::{Experiment, LoadOptions};
use std::path::Path;

const KEY: &str = "sk-Tr0ub4dor/and\\3+more";

/// Six requests, two at a time.
const EXPERIMENT: &str = r#"
name = "live"
[cluster]
workers = 1
[engine]
rules = "vllm"
block_size = 16
num_blocks = 1000
max_num_seqs = 8
max_num_batched_tokens = 512
max_model_len = 4096
step_time = { kind = "fixed", prefill = "2ms", decode = "1ms" }
[router]
policy = "round_robin"
[workload]
kind = "requests"
count = 6
concurrency = 2
prompt_tokens = { kind = "uniform", min = 20, max = 200 }
output_tokens = { kind = "constant", value = 8 }
[measure]
seeds = 1
"#;

fn engine() -> kv_router_sim::engine::config::EngineConfig {
    let experiment = Experiment::parse(Path::new("live.toml"), EXPERIMENT, &LoadOptions::default());
    experiment.expect("a good experiment").runs[0].settings.engine().clone()
}

/// Everything that a run of the program left: what it printed, and every file.
struct Left {
    code: Option<i32>,
    said: String,
    files: Vec<(String, Vec<u8>)>,
}

impl Left {
    fn of(args: &[&str]) -> Self {
        let place = Scratch::new();
        place.write("live.toml", EXPERIMENT);
        let mut command =
            place.command(&[&["live", "live.toml", "--record", "run.jsonl"], args].concat());
        let output = command.env("SIM_API_KEY", KEY).output().expect("the program starts");
        let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
        Self { code: output.status.code(), said, files: place.files() }
    }

    fn file(&self, name: &str) -> &str {
        let file = self.files.iter().find(|(file, _)| file == name);
        text(&file.unwrap_or_else(|| panic!("no {name}: {}", self.said)).1)
    }

    /// Neither the key nor half of it, in any form that a reader could turn back.
    fn has_no(&self, key: &str) {
        let forms = [key.to_owned(), key[..key.len() / 2].to_owned(), key.replace('\\', "\\\\")];
        let printed = ("what was printed".to_owned(), self.said.clone().into_bytes());
        for (name, bytes) in self.files.iter().chain([&printed]) {
            let text = format!("{name}\n{}", String::from_utf8_lossy(bytes)).to_lowercase();
            for form in &forms {
                assert!(!text.contains(&form.to_lowercase()), "the key is in {name}: {text}");
            }
        }
    }
}

#[test]
fn every_request_is_accounted_for_and_the_key_is_nowhere() {
    // What is said of each request, by kind; nothing where they are served.
    let faults = [
        (Fault::None, ""),
        (Fault::Bundles, ""),
        (Fault::SlowReader, ""),
        (Fault::Busy(2), ""),
        (Fault::Killed(3), "cut"),
        (Fault::Silent, "silent"),
        (Fault::Reset, "no answer"),
        (Fault::HalfChunk, "cut"),
        (Fault::NoDone, "cut"),
        (Fault::BadJson, "malformed"),
        (Fault::ErrorChunk, "cut"),
        (Fault::Status(500), "status"),
        (Fault::TooMany, "wrong length"),
        (Fault::TooFew, "wrong length"),
        (Fault::OtherPrompt, "contradiction"),
        (Fault::OtherCount, "contradiction"),
        (Fault::TooMuchCached, "contradiction"),
        (Fault::NoUsage, "malformed"),
        (Fault::NegativeUsage, "malformed"),
        (Fault::WordsForTokens, "malformed"),
        (Fault::Aborted, "cut"),
        (Fault::Redirect, "status"),
        (Fault::Page, "cut"),
        (Fault::Line(3 << 20), "malformed"),
        (Fault::Comments, "unfinished"),
        (Fault::NoHttp, "no answer"),
        (Fault::SaysKey, "status"),
        (Fault::StreamsKey, "cut"),
        (Fault::BrokenKey, "malformed"),
        (Fault::NamedKey, ""),
    ];
    let engine = engine();
    std::thread::scope(|scope| {
        for (fault, kind) in faults {
            let server = Server::start(fault, &engine);
            scope.spawn(move || accounts_for(fault, kind, &server));
        }
    });
}

fn accounts_for(fault: Fault, kind: &str, server: &Server) {
    // Long enough for a busy machine where no server is meant to be silent.
    let silence = if fault == Fault::Silent { "2" } else { "60" };
    let mut args = vec!["--worker", &server.url, "--keep-caches", "--silence", silence];
    if fault == Fault::Comments {
        args.extend(["--set", "measure.window=2s"]);
    }
    let left = Left::of(&args);
    assert_eq!(left.code, Some(0), "{fault:?}: {}", left.said);
    left.has_no(KEY);
    let csv = left.file("plots/live-live/requests.csv");
    let mut rows = csv::Reader::from_reader(csv.as_bytes());
    let head = rows.headers().expect("a head").clone();
    let at = |name: &str| head.iter().position(|other| other == name).expect(name);
    let (end, failure, of_kind) = (at("end"), at("failure"), at("failure_kind"));
    let (mut requests, mut of_its_kind) = (0, 0);
    for row in rows.records() {
        let row = row.expect("a row");
        requests += 1;
        match (kind, &row[end]) {
            ("", "finished") => assert!(row[failure].is_empty(), "{fault:?}: {row:?}"),
            ("unfinished", "unfinished") => {}
            // What follows on a server that died, or goes over a connection that it is
            // about to close, has another reason.
            (kind, "rejected") if matches!(fault, Fault::Killed(_)) || kind == "cut" => {
                assert!([kind, "no answer"].contains(&&row[of_kind]), "{fault:?}: {row:?}");
            }
            (kind, "rejected") => assert_eq!(&row[of_kind], kind, "{fault:?}: {row:?}"),
            _ => panic!("{fault:?}: {row:?}"),
        }
        assert_eq!(row[failure].is_empty(), row[of_kind].is_empty(), "{fault:?}: {row:?}");
        of_its_kind += usize::from(&row[of_kind] == kind);
    }
    assert!(of_its_kind > 0 || kind == "unfinished", "{fault:?}: {csv}");
    let expected = if fault == Fault::Comments { 2 } else { 6 };
    assert_eq!(requests, expected, "{fault:?}: {csv}");
    let report = left.file("plots/live-live/report.txt");
    assert!(report.contains(&format!("  {expected} requests: ")), "{fault:?}: {report}");
}

#[test]
fn a_key_in_an_address_is_refused_unseen_and_leaves_nothing() {
    for url in [
        "http://user:sk-Tr0ub4dor/and@127.0.0.1:1",
        "http://sk-Tr0ub4dor@127.0.0.1:1/v1",
        "http://127.0.0.1:1/v1?key=sk-Tr0ub4dor",
        "http://127.0.0.1:1#sk-Tr0ub4dor",
        "http://127.0.0.1:1/sk-Tr0ub4dor/v1",
        "sk-Tr0ub4dor@127.0.0.1",
    ] {
        let left = Left::of(&["--worker", url]);
        assert_eq!(left.code, Some(2), "{}", left.said);
        left.has_no("sk-Tr0ub4dor");
        assert!(left.said.starts_with("error: worker "), "{}", left.said);
        let files: Vec<&str> = left.files.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(files, ["live.toml", "small.toml"], "{url}");
    }
}

/// Facts of the server are shown too, and may hold the key.
#[test]
fn a_server_named_like_the_key_does_not_show_it() {
    let server = Server::start(Fault::NamedKey, &engine());
    let left = Left::of(&["--worker", &server.url, "--model", "other"]);
    assert_eq!(left.code, Some(2), "{}", left.said);
    assert!(left.said.contains("[key]"), "{}", left.said);
    assert!(left.said.contains("ask for one that it serves (--model)"), "{}", left.said);
    left.has_no(KEY);
}
