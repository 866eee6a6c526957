//! Decisions replayed: a policy agrees with its own log, others differ where they do, and a
//! log that makes no sense is refused by line.

use super::program::{CROWDED, Scratch, text};
use kv_router_sim::replay::log::{Line, Lines, LogError};
use kv_router_sim::replay::{Replayed, record, replay};
use kv_router_sim::router::{ChosenPolicy, Registry};
use kv_router_sim::{Experiment, LoadOptions, RunOptions, run};
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};

#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The log of a crowded fleet, and whether the run is the one without a log.
fn log_of(router: &str) -> Vec<u8> {
    let experiment = format!("name = \"crowded\"\n[router]\n{router}\n{CROWDED}seeds = 1\n");
    let options = LoadOptions::default();
    let experiment =
        Experiment::parse(Path::new("crowded.toml"), &experiment, &options).expect("valid");
    let memory = Memory::default();
    let digest = record(&experiment.runs[0], experiment.seeds[0], Box::new(memory.clone()));
    let outcome = run(&experiment, RunOptions::default()).expect("runs");
    assert_eq!(outcome.digests, [digest.expect("a log")], "{router}: a log changes nothing");
    std::mem::take(&mut *memory.0.lock().expect("no panic"))
}

fn chosen(name: &str, given: &str) -> (String, ChosenPolicy) {
    let given = given.parse().expect("TOML");
    (format!("{name} {given}"), Registry::default().choose(name, &given).expect("a policy"))
}

fn replayed(log: &[u8], policies: &[(String, ChosenPolicy)]) -> Result<Replayed, LogError> {
    replay(Lines::new(log), policies)
}

/// Also draws among equals, requests that wait in the router, and indexes of caches.
#[test]
fn every_policy_agrees_with_its_own_log() {
    let feed = "feed = { delay = \"5ms\", jitter = \"20ms\" }";
    for (name, parameters) in [
        ("kv", ""),
        ("kv", "semantics = \"0.9\""),
        ("kv", "temperature = 0.5\nuse_kv_events = false"),
        ("kv", "queue_threshold = 0.2"),
        ("kv", "track_output_blocks = true"),
        ("round_robin", ""),
        ("random", ""),
        ("least_loaded", ""),
        ("power_of_two", ""),
        ("session_affinity", ""),
        ("consistent_hash", ""),
        ("dynamo_two_tier", ""),
        ("sglang_cache_aware", ""),
        ("smg_cache_aware", ""),
        ("inference_extension", ""),
        ("llmd_token_load", ""),
        ("lmetric", ""),
        ("kv_aware", ""),
        ("aibrix_prefix_cache", ""),
        ("ray_prefix_affinity", ""),
    ] {
        let log = log_of(&format!("policy = \"{name}\"\n{feed}\n{parameters}"));
        // What follows takes the lowest cost, and a temperature another one at times; a queue
        // of `kv` chooses by what was cached when a request came.
        let is_inexact = ["temperature", "queue"].iter().any(|word| parameters.contains(word));
        let replayed = replayed(&log, &[chosen(name, parameters)]).expect("a log");
        let compared = &replayed.policies[0];
        assert!(replayed.decisions > 100, "{name}: {replayed:?}");
        assert_eq!(compared.not_sent, 0, "{name} {parameters}: {replayed:?}");
        if is_inexact {
            assert!(compared.agreement() > Some(0.4), "{name}: {compared:?}");
            continue;
        }
        assert_eq!(compared.first, None, "{name} {parameters}");
        assert_eq!(compared.agreement(), Some(1.0), "{name} {parameters}");
        assert_eq!(compared.choices, replayed.log, "{name} {parameters}");
    }
}

/// Also while single workers are left out as they are busy.
#[test]
fn busy_workers_are_left_out_in_a_replay_too() {
    let gate =
        "admission = { busy_kv_share = 0.15, leave_out_busy = true, report_period = \"20ms\" }";
    for name in ["kv", "round_robin", "dynamo_two_tier"] {
        let log = log_of(&format!("policy = \"{name}\"\n{gate}"));
        assert!(text(&log).contains("\"absent\":["), "{name}: no worker was busy");
        let replayed = replayed(&log, &[chosen(name, "")]).expect("a log");
        let compared = &replayed.policies[0];
        assert_eq!((compared.first.as_ref(), compared.not_sent), (None, 0), "{name}");
    }
}

/// A log of three workers: its first line, and lines that route a request each.
fn written_by_hand(hello: &str, lines: &[(&str, &str, u32)]) -> Vec<u8> {
    let mut log = format!("{hello}\n");
    for (now, (events, more, worker)) in lines.iter().enumerate() {
        let inflight = (0..3).map(|at| lines[..now].iter().filter(|line| line.2 == at).count());
        let inflight: Vec<String> = inflight.map(|number| number.to_string()).collect();
        log += &format!(
            "{{\"op\":\"route\",\"now_ns\":{now},\"events\":[{events}],\"inflight\":[{}],{more}\
             \"request\":{{\"id\":{now},\"session\":0,\"prompt_tokens\":5,\"blocks\":[]}},\
             \"answer\":{{\"worker\":{worker}}}}}\n",
            inflight.join(",")
        );
    }
    log.into_bytes()
}

/// Also if reports come meanwhile, and if it leaves and joins.
#[test]
fn a_busy_worker_is_chosen_again_once_it_is_free() {
    let log = log_of("policy = \"kv\"");
    let hello = text(&log).lines().next().expect("a hello");
    let reports = hello.replace("\"knowledge\":{", "\"knowledge\":{\"report_period_ns\":1,");
    assert_ne!(hello, reports);
    let absent = "\"absent\":[1],";
    let report = |at: u32| {
        let of_one = format!("{{\"at_ns\":{at},\"running\":0,\"waiting\":0,\"used_blocks\":0}}");
        format!("\"reports\":[{of_one},{of_one},{of_one}],")
    };
    let (first, second) = (format!("{absent}{}", report(1)), format!("{absent}{}", report(4)));
    let left = "{\"event\":\"left\",\"worker\":1}";
    let joined = "{\"event\":\"joined\",\"worker\":1}";
    let log = written_by_hand(
        &reports,
        &[
            ("", absent, 0),
            ("", &first, 2),
            ("", "", 1),
            ("", absent, 0),
            ("", &second, 2),
            ("", absent, 0),
            (left, absent, 2),
            (joined, "", 1),
            ("", "", 1),
        ],
    );
    for name in ["kv", "smg_power_of_two", "smg_cache_aware", "round_robin", "least_loaded"] {
        let replayed = replayed(&log, &[chosen(name, "")]).expect("a log");
        let compared = &replayed.policies[0];
        assert_eq!((replayed.decisions, compared.not_sent), (9, 0), "{name}: {compared:?}");
        // The others draw, or go round.
        if ["kv", "smg_cache_aware", "least_loaded"].contains(&name) {
            let of_one = compared.first.as_ref().filter(|first| first.taken.0 == 1);
            assert_eq!(of_one, None, "{name}");
        }
    }
    let kv = replayed(&log, &[chosen("kv", "")]).expect("a log");
    assert_eq!(kv.policies[0].first, None);
}

#[test]
fn ranks_of_one_engine_must_stand_side_by_side() {
    let log = log_of("policy = \"kv\"");
    let hello = text(&log).lines().next().expect("a hello");
    let of = |ranks: [&str; 3]| {
        let mut ranks = ranks.into_iter();
        let mut parts = hello.split("\"max_num_batched_tokens\":");
        let mut line = parts.next().expect("a beginning").to_owned();
        for part in parts {
            let (ranks, number) = (ranks.next().expect("three workers"), part);
            line += &format!("{ranks}\"max_num_batched_tokens\":{number}");
        }
        written_by_hand(&line, &[("", "", 0), ("", "", 1)])
    };
    let [a1, b3, b0] =
        ["\"engine\":0,\"rank\":1,", "\"engine\":7,\"rank\":3,", "\"engine\":7,\"rank\":0,"];
    let kv = [chosen("kv", "")];
    assert_eq!(replayed(&of([a1, b3, b0]), &kv).expect("a log").decisions, 2);
    for (ranks, expected) in [
        ([b0, a1, b3], "line 1: worker 2 is of engine 7, and worker 1 before it is not: "),
        ([a1, "", b3], "line 1: worker 1: all workers have engine and rank, or none"),
        ([a1, "\"engine\":7,", b3], "line 1: worker 1: all workers have engine and rank, or none"),
    ] {
        let problem = replayed(&of(ranks), &kv).expect_err("no log").to_string();
        assert!(problem.starts_with(expected), "{problem}");
    }
}

#[test]
fn other_policies_differ_and_say_where() {
    let log = log_of("policy = \"kv\"");
    let policies =
        [chosen("kv", ""), chosen("kv", "overlap_weight = 0.0"), chosen("round_robin", "")];
    let replayed = replayed(&log, &policies).expect("a log");
    let [own, blind, turns] = replayed.policies.as_slice() else { panic!("three policies") };
    assert_eq!(own.differed, 0);
    for other in [blind, turns] {
        let decided = other.agreed + other.tied + other.differed;
        assert_eq!(decided, replayed.decisions, "{other:?}");
        assert!(other.differed > 0 && other.agreement() < Some(1.0), "{other:?}");
        assert!(other.choices.held_ratio() < own.choices.held_ratio(), "{other:?}");
    }
    let first = blind.first.as_ref().expect("a difference");
    let cost = |worker| first.cost_of(worker).expect("kv says costs").cost;
    assert!(cost(first.preferred) < cost(first.taken), "{first:?}");
    let lines: Vec<&[u8]> = log.split(|&byte| byte == b'\n').collect();
    let line = usize::try_from(first.line).expect("few lines");
    let id = format!("\"request\":{{\"id\":{},", first.request);
    assert!(text(lines[line - 1]).contains(&id), "{first:?}");
}

#[test]
fn a_log_that_makes_no_sense_is_refused_by_line() {
    let log = log_of("policy = \"kv\"");
    let lines: Vec<&str> = text(&log).lines().collect();
    let with = |at: usize, line: &str| {
        let mut lines = lines.clone();
        lines[at] = line;
        lines.join("\n").into_bytes()
    };
    let problem = |log: &[u8], policy: &(String, ChosenPolicy)| {
        replayed(log, std::slice::from_ref(policy)).expect_err("no log").to_string()
    };
    let kv = chosen("kv", "");
    for (log, expected) in [
        (Vec::new(), "line 1: is missing: a log begins with a hello"),
        (with(0, lines[1]), "line 1: must be a hello"),
        (with(3, lines[0]), "line 4: a second hello"),
        (with(2, "{"), "line 3: is no line of a log of decisions: EOF"),
        (
            with(2, "{\"op\":\"dance\"}"),
            "line 3: is no line of a log of decisions: unknown variant",
        ),
        (with(3, lines[1]), "line 4: request 0 came before and has not ended"),
        (
            with(1, &lines[1].replace("\"inflight\":[0,", "\"inflight\":[4294967295,")),
            "line 2: inflight 4294967295: must be from 0 to 1000000",
        ),
        (with(40, lines[1]), "line 41: now_ns: must not be before that of the line before"),
        (with(1, &lines[1].replace("\"worker\":", "\"worker\":7")), "line 2: worker 7"),
        (
            with(0, &lines[0].replace("\"protocol\":2", "\"protocol\":3")),
            "line 1: protocol 3: must be from 1 to 2",
        ),
        (
            with(0, &lines[0].replace("\"block_size\":16", "\"block_size\":32")),
            "line 2: request 0: ",
        ),
    ] {
        let problem = problem(&log, &kv);
        assert!(problem.starts_with(expected), "{problem}");
    }
    // Request 0 went to worker 1, and request 1 nowhere.
    let line = |now: u32, id: u32, events: &str, answer: &str| {
        format!(
            "{{\"op\":\"route\",\"now_ns\":{now},\"events\":[{events}],\"inflight\":[0,0,0],\"request\":\
             {{\"id\":{id},\"session\":0,\"prompt_tokens\":5,\"blocks\":[]}},\"answer\":{{{answer}}}}}\n"
        )
    };
    let begun = format!(
        "{}\n{}{}",
        lines[0],
        line(0, 0, "", "\"worker\":1"),
        line(1, 1, "", "\"reject\":true")
    );
    let finished = |worker: u32, request: u32| {
        format!(
            "{{\"event\":\"finished\",\"at_ns\":2,\"worker\":{worker},\"request\":{request},\
             \"output_tokens\":1}}"
        )
    };
    let there = finished(1, 0);
    for (events, place) in [
        (finished(2, 0), Some("request 0 is: at worker 1")),
        (finished(1, 1), Some("request 1 is: at no worker")),
        (format!("{there},{there}"), Some("request 0 is: at no worker")),
        (there, None),
        // From before the log.
        (finished(2, 9), None),
    ] {
        let log = begun.clone() + &line(2, 2, &events, "\"hold\":true");
        let replayed = replayed(log.as_bytes(), std::slice::from_ref(&kv));
        let Some(place) = place else {
            assert_eq!(replayed.expect("a log").not_sent, 2, "{events}");
            continue;
        };
        let problem = replayed.expect_err("no log").to_string();
        assert!(problem.starts_with("line 4: {\"event\":\"finished\""), "{problem}");
        assert!(problem.ends_with(&format!("must be where {place}")), "{problem}");
    }
    // A router that ends at once is asked of a request that went nowhere.
    let dead = chosen("external", "command = [\"false\"]");
    let nowhere = format!("{}\n{}", lines[0], line(0, 0, "", "\"reject\":true"));
    let failure = problem(nowhere.as_bytes(), &dead);
    assert!(failure.starts_with("line 2: `false`, asked to introduce itself: "), "{failure}");
    let wants = |name: &str| problem(&log, &chosen(name, ""));
    assert!(wants("oracle").contains("wants the true state of workers, which no log has"));
    let wants = wants("inference_extension");
    assert!(wants.contains("wants the workers' own gauges, which this log has not"), "{wants}");
    assert!(matches!(Lines::new(&log[..]).next(), Some(Ok((1, Line::Hello(_))))));
}

/// Three requests, the third a continuation of the first, on two workers.
fn dynamo_trace(with_workers: bool) -> String {
    let record = |id: u32, received: u64, hashes: &str, tokens: u32, cached: u32, worker: u64| {
        let worker = match with_workers {
            true => format!(",\"worker\":{{\"decode_worker_id\":{worker},\"decode_dp_rank\":0}}"),
            false => String::new(),
        };
        format!(
            "{{\"timestamp\":{received},\"event\":{{\"schema\":\"dynamo.request.trace.v1\",\
             \"event_type\":\"request_end\",\"event_time_unix_ms\":{received},\"request\":{{\
             \"request_id\":\"r{id}\",\"input_tokens\":{tokens},\"output_tokens\":9,\
             \"cached_tokens\":{cached},\"request_received_ms\":{received},\"ttft_ms\":40.5,\
             \"total_time_ms\":200.0{worker},\"replay\":{{\"trace_block_size\":16,\
             \"input_length\":{tokens},\"input_sequence_hashes\":[{hashes}]}}}}}}}}\n"
        )
    };
    let huge = u64::MAX;
    let tool = "{\"timestamp\":9,\"event\":{\"schema\":\"dynamo.request.trace.v1\",\
                \"event_type\":\"tool_end\",\"event_time_unix_ms\":5}}\n";
    let mark = "{\"uploaded\":true}\n";
    [
        record(2, 1_000_300, &format!("7,{huge},9,11"), 64, 32, 50),
        record(0, 1_000_000, &format!("7,{huge}"), 37, 0, 50),
        tool.to_owned(),
        mark.to_owned(),
        record(1, 1_000_100, "21,22", 33, 0, 90),
    ]
    .concat()
}

#[test]
fn dynamos_traces_are_logs() {
    let place = Scratch::new();
    place.write("trace.jsonl", dynamo_trace(true));
    let ran = |args: &[&str]| {
        let output = place.sim(&[&["replay", "trace.jsonl"], args].concat());
        let code = output.status.code().expect("an exit code");
        (code, text(&output.stdout).to_owned(), text(&output.stderr).to_owned())
    };
    let sent = "kv { use_kv_events = false }";
    let (code, stdout, stderr) = ran(&["--policy", sent, "--policy", "round_robin"]);
    assert_eq!(code, 0, "{stderr}");
    // 32 of 134 tokens were cached, and all of them were in blocks of the first request.
    let caches = "3 requests of a Dynamo request trace; 3 say what was cached: 23.88 % of their \
                  prompt tokens; 23.88 % were in leading blocks of an earlier request, 23.88 % of \
                  one on the same worker";
    assert!(stdout.contains(caches), "{stdout}");
    assert!(stdout.contains("3 decisions among 2 workers in 0.3 s"), "{stdout}");
    assert!(stdout.contains("round_robin: no difference"), "{stdout}");
    let (code, _, stderr) = ran(&["--policy", "kv"]);
    assert_eq!(code, 2);
    assert!(stderr.contains("kv wants KV events, which this log has not"), "{stderr}");
    // What the output names is in the file, whatever comes before the first record.
    let places = [("_id\":50", "_id\":7"), ("_id\":90", "_id\":50"), ("_id\":7", "_id\":90")];
    let swapped = places.iter().fold(dynamo_trace(true), |text, (a, b)| text.replace(a, b));
    place.write("trace.jsonl", format!("\n{{\"uploaded\":true}}\n{swapped}"));
    let (code, stdout, stderr) = ran(&["--policy", "round_robin"]);
    assert_eq!(code, 0, "{stderr}");
    let first = "round_robin: first difference in line 4: request \"r0\" at 0.000 s went to worker \
                 90, it would have gone to worker 50";
    assert!(stdout.contains(first), "{stdout}");
    place.write("trace.jsonl", swapped.replace("_rank\":0", "_rank\":1"));
    let (_, stdout, _) = ran(&["--policy", "round_robin"]);
    assert!(
        stdout.contains("line 2: request \"r0\" at 0.000 s went to worker 90 rank 1"),
        "{stdout}"
    );
    // Times in other units.
    for (from, to, expected) in [
        ("total_time_ms\":200.0", "total_time_ms\":1e30", "line 2: total_time_ms 10000000"),
        (
            "received_ms\":1000100",
            "received_ms\":1000100000000000000",
            "line 5: request_received_ms",
        ),
        ("received_ms\":1000100", "received_ms\":1000100000000", "line 5: request_received_ms"),
    ] {
        place.write("trace.jsonl", dynamo_trace(true).replace(from, to));
        let (code, _, stderr) = ran(&["--policy", sent]);
        assert_eq!(code, 2, "{stderr}");
        assert!(stderr.contains(expected) && stderr.contains("in line 2"), "{stderr}");
    }
    place.write("trace.jsonl", dynamo_trace(false));
    let (code, stdout, _) = ran(&["--policy", "kv"]);
    assert_eq!(code, 0);
    assert!(stdout.contains("only cached tokens are compared"), "{stdout}");
    place.write(
        "trace.jsonl",
        dynamo_trace(true).replace("\"trace_block_size\":16", "\"trace_block_size\":8"),
    );
    let (code, _, stderr) = ran(&["--policy", sent]);
    assert_eq!(code, 2);
    assert!(stderr.contains("line 1: input_sequence_hashes: 4, must be at least 8"), "{stderr}");
}

#[test]
fn a_log_is_recorded_and_replayed_by_the_program() {
    let place = Scratch::new();
    let record = ["replay", "log.jsonl", "--record", "small.toml", "--set", "router.policy=kv"];
    let output = place.sim(&record);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("--record = 2 of them: must be an experiment of one"));
    let output = place.sim(&[&record[..], &["--set", "workload.concurrency=4"]].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let output = place.sim(&["replay", "log.jsonl", "--policy", "kv", "--policy", "random"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let stdout = text(&output.stdout);
    assert!(stdout.contains("kv: no difference"), "{stdout}");
    assert!(stdout.contains("random: first difference in line "), "{stdout}");
    assert!(stdout.contains("random: it books its own choices"), "{stdout}");
    let command = ["--set", "router.policy=external", "--set", "router.command=['false']"];
    let output = place.sim(
        &[
            &["replay", "other.jsonl"],
            &record[2..4],
            &["--set", "workload.concurrency=4"],
            &command,
        ]
        .concat(),
    );
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("this experiment runs `false`"));
    let output = place.sim(&["replay", "log.jsonl", "--policy", "kv { overlap = 1 }"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("no policy has such a parameter"));
}
