//! Formats whose requests wait for others: trees of chats, agents with sub-agents.

use super::formats::{common, served};
use super::*;
use crate::time::SimTime;
use crate::workload::arrivals::Arrivals;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("traces/fixtures")
}

fn fixture(name: &str) -> Trace {
    Trace::read(&folder().join(name), &ReadOptions::default()).unwrap()
}

/// When requests come, if each ends two seconds after it came; by conversation and turn.
fn times(trace: &Trace) -> Vec<(f64, u32, u32)> {
    let shown = |(at, r): (SimTime, Request)| (at.as_secs(), r.conversation.0, r.turn);
    served(trace, 16, 1.0).into_iter().map(shown).collect()
}

#[test]
fn bailian_has_trees_of_chats() {
    let trace = fixture("bailian.jsonl");
    assert_eq!(trace.block_tokens(), 16);
    let expected = [(0.0, 0, 0), (2.25, 1, 0), (60.864, 0, 1), (70.25, 0, 2), (70.75, 2, 0)];
    assert_eq!(times(&trace), expected);
    assert!(trace.has_branches());
    // Both answers to the first turn go on from its prompt, one of them from its answer.
    assert_eq!((common(&trace, 16, 0, 2), common(&trace, 16, 2, 3)), (2, 3));
    // Engines with larger blocks see whole ones only.
    assert_eq!((common(&trace, 32, 2, 3), common(&trace, 48, 2, 3)), (1, 1));
    assert_eq!(common(&trace, 24, 2, 3), 2);
    assert_eq!(
        trace.found().notices.last().unwrap().split(": ").nth(1),
        Some("1 of its chats go on from one that is not in it")
    );
}

#[test]
fn dynamo_says_what_had_ended() {
    let trace = fixture("dynamo-requests.jsonl");
    assert_eq!(trace.block_tokens(), 64);
    // The sub-agent comes half a second after the planner's answer, and the planner goes
    // on 1.6 s after that of the sub-agent.
    assert_eq!(times(&trace), [(0.0, 0, 0), (2.5, 1, 0), (6.1, 0, 1)]);
    assert_eq!((common(&trace, 16, 0, 1), common(&trace, 16, 0, 2)), (8, 8));
}

#[test]
fn aiperf_records_are_requests() {
    let trace = fixture("aiperf-profile.jsonl");
    assert_eq!(times(&trace), [(0.0, 0, 0), (3.5, 0, 1)]);
    assert_eq!(trace.found().rows_left_out, 1);
    assert_eq!(common(&trace, 16, 0, 1), 34);
}

#[test]
fn weka_joins_its_sub_agents() {
    let trace = fixture("weka.jsonl");
    // Two conversations; the first calls x and y and waits for both.
    let expected = [
        (0.0, 0, 0),
        (0.0, 1, 0),
        (3.0, 2, 0),
        (3.5, 3, 0),
        (6.0, 2, 1),
        // 1.5 s after y, which ended last.
        (9.5, 0, 1),
    ];
    assert_eq!(times(&trace), expected);
    assert_eq!(common(&trace, 64, 0, 1), 0, "ids of another conversation");
    assert_eq!(common(&trace, 64, 0, 5), 3);
    assert_eq!(common(&trace, 64, 2, 4), 2);
}

#[test]
fn agentic_rows_wait_for_all_that_they_name() {
    let trace = fixture("mooncake-agentic.jsonl");
    let expected = [(0.0, 0, 0), (1.0, 2, 0), (2.5, 1, 0), (6.0, 3, 0), (8.25, 0, 1)];
    assert_eq!(times(&trace), expected);
    // The file that is written of it is the same trace.
    let options = ReadOptions { block_tokens: 64, ..ReadOptions::default() };
    let again = file::parse(Path::new("t"), write::lines(&trace).as_bytes(), &options).unwrap();
    assert_eq!(again, trace);
    // A part of it has no more than what it waits for.
    let part = trace.clone().within(None, Some(SimDuration::from_millis(500))).unwrap();
    assert_eq!(part.rows().len(), 4);
    assert_eq!(times(&part), [(0.0, 0, 0), (2.5, 1, 0), (6.0, 2, 0), (8.25, 0, 1)]);
}

#[test]
fn a_client_takes_all_that_belongs_together() {
    let trace = Arc::new(fixture("mooncake-agentic.jsonl"));
    let run = |mut replay: TraceReplay, cut: bool| {
        let mut running: Vec<(SimTime, RequestId)> = Vec::new();
        let mut seen = Vec::new();
        loop {
            let arrival = replay.next_arrival().unwrap_or(SimTime::MAX);
            running.sort_unstable();
            match running.first().copied().filter(|(end, _)| *end < arrival) {
                Some((end, id)) => {
                    running.remove(0);
                    replay.observe_end(end, id, true);
                }
                None if arrival == SimTime::MAX => return seen,
                None => {
                    let Arrival { at, request, .. } = replay.take();
                    if cut && request.turn == 0 && request.conversation.0 == 1 {
                        replay.set_concurrency(at, 0, true);
                    }
                    running.push((at + SimDuration::from_secs(2), request.id));
                    seen.push((at.as_secs(), request.conversation.0));
                }
            }
        }
    };
    let clients = |count| TraceReplay::new(Arc::clone(&trace), 16, 1.0).with_clients(count);
    let whole = [(0.0, 0), (2.5, 1), (6.0, 3), (8.25, 0), (10.25, 2)];
    assert_eq!(run(clients(1), false), whole);
    assert_eq!(run(clients(2), false)[1], (0.0, 2));
    assert_eq!(run(clients(1), true), whole[..2], "the client goes after the answer");
    let settings = toml::from_str("kind = 'constant'\nrate = 1").unwrap();
    let process = TraceReplay::new(Arc::clone(&trace), 16, 1.0);
    let seen = run(process.with_arrivals(Arrivals::new(settings, 1)), false);
    assert_eq!(seen, [(1.0, 0), (2.0, 2), (3.5, 1), (7.0, 3), (9.25, 0)]);
}

#[test]
fn what_cannot_be_is_named() {
    let agentic = |id: &str, more: &str| {
        format!(
            "{{\"request_id\": \"{id}\", \"timestamp\": 0, \"input_length\": 64, \"output_length\": 5, \"hash_ids\": [1], {more}}}\n"
        )
    };
    let weka = |requests: &str| {
        format!(
            "{{\"id\": \"a\", \"block_size\": 64, \"hash_id_scope\": \"local\", \"requests\": {requests}}}\n"
        )
    };
    let mut seen = String::new();
    for text in [
        agentic("a", "\"wait_for\": [\"b\"]"),
        agentic("a", "\"wait_for\": [\"a\"]"),
        agentic("a", "\"wait_for\": [\"b\"]") + &agentic("b", "\"wait_for\": [\"a\"]"),
        agentic("a", "\"wait_for\": []") + &agentic("a", "\"wait_for\": []"),
        agentic("a", "\"wait_for\": 7"),
        agentic("a", "\"wait_for\": [], \"dependencies\": []"),
        "{\"schema\": \"dynamo.agentic_mooncake\", \"version\": 2}\n".to_owned(),
        agentic("a", "\"wait_for\": [], \"delay\": -1"),
        "{\"schema\": \"dynamo.request.trace.v1\", \"event_type\": \"request_end\"}\n".to_owned(),
        "{\"chat_id\": 1, \"parent_chat_id\": -1, \"timestamp\": 0, \"input_length\": 40, \"output_length\": 2, \"hash_ids\": [1]}\n".to_owned(),
        "{\"chat_id\": 1, \"parent_chat_id\": -1, \"timestamp\": 0, \"input_length\": 4e1, \"output_length\": 1.5}\n".to_owned(),
        "{\"metadata\": {\"request_start_ns\": 5}, \"metrics\": 5}\n".to_owned(),
        "{\"metadata\": {\"request_start_ns\": 5}, \"metrics\": {}}\n".to_owned(),
        weka("5"),
        weka("[5]"),
        weka("[{\"t\": 0, \"in\": 64, \"out\": 5, \"hash_ids\": [1, 2]}]"),
        weka("[]").replace("local", "elsewhere"),
        weka("[]").replace("64", "4096"),
        weka("[{\"t\": 0, \"in\": 64, \"out\": 5}]") + &weka("[]").replace("64", "32"),
        "{\n  \"data\": [{\"session_id\": \"a\", \"payloads\": []}]\n}\n".to_owned(),
    ] {
        match parse(&text) {
            Ok(trace) => writeln!(seen, "read: {:?}", times(&trace)).unwrap(),
            Err(error) => {
                let text = error.to_string();
                writeln!(seen, "{}", text.split(" Formats: ").next().unwrap()).unwrap();
            }
        }
    }
    insta::assert_snapshot!(seen);
}

#[test]
fn what_contradicts_itself_is_said() {
    let refused = |text: &str, said: &str| {
        let error = parse(text).expect_err(text).to_string();
        assert!(error.contains(said), "{error}");
    };
    let header = |version: &str| {
        format!("{{\"schema\": \"dynamo.agentic_mooncake\", \"version\": {version}}}\n")
    };
    for version in ["2", "\"1\"", "1.5", "null"] {
        refused(&header(version), &format!("of version {version} is not read"));
    }
    let row = "{\"request_id\": \"a\", \"wait_for\": [], \"timestamp\": 0, \"input_length\": 9, \"output_length\": 5, \"delay\": 1, \"delay_ms\": 1}";
    refused(&(header("1") + row), ":2: fields \"delay\" and \"delay_ms\" are both there");
    let text = std::fs::read_to_string(folder().join("aiperf-profile.jsonl")).unwrap();
    let end = "\"request_end_ns\":1764500002000000000";
    assert!(text.contains(end));
    refused(
        &text.replace(end, "\"request_end_ns\":1764500000000000000"),
        ":1: request_end_ns = 1764500000000000000: must be at least 1764500001000000000",
    );
    let text = std::fs::read_to_string(folder().join("dynamo-requests.jsonl")).unwrap();
    refused(
        &text.replace("trace.v1", "trace.v2"),
        ":1: schema = dynamo.request.trace.v2: must be dynamo.request.trace.v1",
    );
    assert!(text.contains("\"input_tokens\":130"));
    let unlike = parse(&text.replace("\"input_tokens\":130", "\"input_tokens\":131")).unwrap();
    let notice = "replay.input_length is not request.input_tokens in 1 of its requests";
    assert!(unlike.found().notices[0].contains(notice), "{:?}", unlike.found());
    assert_eq!(unlike, parse(&text).unwrap());
}

#[test]
fn rows_stand_in_order_of_time() {
    let trace = fixture("bailian.jsonl");
    assert!(trace.rows().is_sorted_by_key(|row| row.at), "chats are mixed as they came");
    let (csv, lost) = to_file_as(&trace, Path::new("t.csv"), Target::Azure).unwrap();
    assert_eq!(lost.len(), 2, "{lost:?}");
    let again = file::parse(Path::new("t"), &csv[..], &ReadOptions::default()).unwrap();
    let lengths = |trace: &Trace| {
        let of = |row: &TraceRow| (row.at, row.input_tokens, row.output_tokens);
        trace.rows().iter().map(of).collect::<Vec<_>>()
    };
    assert_eq!(lengths(&again), lengths(&trace));
    // A later turn of a session may stand above a first one that comes earlier.
    let turn = |at: u32, session: &str| {
        format!(
            "{{\"timestamp\": {at}, \"session_id\": \"{session}\", \"input_length\": 5, \"output_length\": 1}}\n"
        )
    };
    let mixed = parse(&(turn(0, "a") + &turn(900, "a") + &turn(300, "b"))).unwrap();
    let (csv, _) = to_file_as(&mixed, Path::new("t.csv"), Target::Azure).unwrap();
    file::parse(Path::new("t"), &csv[..], &ReadOptions::default()).unwrap();
}

#[test]
fn a_chat_goes_on_however_late() {
    let chat = |id: u32, parent: i64, at: u32| {
        format!(
            "{{\"chat_id\": {id}, \"parent_chat_id\": {parent}, \"timestamp\": {at}, \"input_length\": 1, \"output_length\": 1}}\n"
        )
    };
    let mut text = chat(0, -1, 0);
    (1..=100_001).for_each(|id| text += &chat(id, -1, id));
    text += &chat(100_002, 0, 100_002);
    let trace = parse(&text).unwrap();
    let last = trace.rows().last().unwrap();
    assert_eq!((last.session, last.turn), (0, 1));
}

#[test]
fn agentic_delays_are_milliseconds_where_they_say_so() {
    let text = "{\"request_id\": \"a\", \"timestamp\": 3, \"input_length\": 6, \"output_length\": 5, \"wait_for\": []}\n\
                {\"request_id\": \"b\", \"delay_ms\": 250, \"input_length\": 6, \"output_length\": 5, \"wait_for\": [\"a\"]}\n";
    let options = ReadOptions { time_unit: Some(TimeUnit::S), ..ReadOptions::default() };
    let trace = file::parse(Path::new("t"), text.as_bytes(), &options).unwrap();
    assert_eq!(trace.rows()[1].delay, SimDuration::from_millis(250));
    let error = parse(&text.replace("\"timestamp\": 3, ", "")).unwrap_err().to_string();
    assert!(error.contains("field \"timestamp\" is missing"), "{error}");
}

#[test]
fn weka_says_what_was_assumed() {
    let notices = fixture("weka.jsonl").found().notices.join("\n");
    assert!(notices.contains("all begin at time 0"), "{notices}");
    assert!(notices.contains("its sub-agents count times from their own start"), "{notices}");
}

#[test]
fn anonymised_turns_move_with_their_sessions() {
    let turn = |at: u32, more: &str| {
        format!(
            "{{\"timestamp\": {at}, \"session_id\": \"{more}\", \"input_length\": 5, \"output_length\": 1}}\n"
        )
    };
    let mut text = String::new();
    for session in 0..200 {
        text += &turn(session, &session.to_string());
    }
    for session in 0..200 {
        text += &turn(session + 1, &session.to_string());
    }
    let trace = parse(&text).unwrap().anonymised();
    assert!(trace.rows().iter().all(|row| row.is_first() || !row.at.is_zero()));
    // All within the second in which they came, which begins with the first of them.
    assert!(trace.rows().iter().all(|row| row.at < SimDuration::from_millis(1_000)));
}

/// A graph of requests: times of their own, and which of those before each waits for.
fn graph() -> impl Strategy<Value = Vec<(u32, Vec<prop::sample::Index>, u32)>> {
    let waits = prop::collection::vec(any::<prop::sample::Index>(), 0..3);
    prop::collection::vec((0..5_000u32, waits, 0..900u32), 1..12)
}

proptest! {
    /// Nothing comes before the answers that it waits for, and everything comes.
    #[test]
    fn a_graph_is_kept(rows in graph(), speedup in 0.5..4.0) {
        let mut text = String::new();
        let mut waits_for: Vec<Vec<usize>> = Vec::new();
        for (i, (at, waits, delay)) in rows.iter().enumerate() {
            let before: Vec<usize> = match i {
                0 => Vec::new(),
                _ => waits.iter().map(|index| index.index(i)).collect(),
            };
            let names: Vec<String> = before.iter().map(|row| format!("\"{row}\"")).collect();
            let delay = if before.is_empty() { 0 } else { *delay };
            // The length tells which request it is.
            writeln!(
                text,
                "{{\"request_id\": \"{i}\", \"timestamp\": {at}, \"delay\": {delay}, \
                 \"input_length\": {}, \"output_length\": 5, \"wait_for\": [{}]}}",
                i + 1,
                names.join(", ")
            ).unwrap();
            waits_for.push(before);
        }
        let trace = parse(&text).unwrap();
        let seen = served(&trace, 16, speedup);
        prop_assert_eq!(seen.len(), rows.len());
        let at = |row: usize| {
            let found = seen.iter().find(|(_, r)| r.prompt_tokens as usize == row + 1);
            found.unwrap().0
        };
        for (row, before) in waits_for.iter().enumerate() {
            for &other in before {
                prop_assert!(at(row) >= at(other) + SimDuration::from_secs(2));
            }
        }
        let again = parse(&write::lines(&trace)).unwrap();
        prop_assert_eq!(served(&again, 16, speedup), seen);
    }

    #[test]
    fn no_json_makes_the_readers_panic(text in "[\\[{}\",:a-z0-9. -]{0,60}", kind in 0..5usize) {
        let format = [
            TraceFormat::MooncakeAgentic,
            TraceFormat::DynamoRequests,
            TraceFormat::Bailian,
            TraceFormat::AiperfProfile,
            TraceFormat::Weka,
        ][kind];
        let _ = super::formats::read_as(&text, format);
        let _ = super::formats::read_as(&format!("{{{text}}}"), format);
    }
}
