//! Formats besides Mooncake's, compression, and sessions.

use super::*;
use crate::time::{SimDuration, SimTime};

pub(super) fn read_as(text: &str, format: TraceFormat) -> Result<Trace, TraceError> {
    let options = ReadOptions { format: Some(format), ..ReadOptions::default() };
    file::parse(Path::new("t"), text.as_bytes(), &options)
}

/// What an error says, but for the list of all formats.
fn without_formats(error: &TraceError) -> String {
    let text = error.to_string();
    text.split(" Formats: ").next().unwrap_or(&text).to_owned()
}

/// Every request with its arrival; each ends two seconds after it came.
pub(super) fn served(trace: &Trace, block_size: u32, speedup: f64) -> Vec<(SimTime, Request)> {
    let mut replay = TraceReplay::new(Arc::new(trace.clone()), block_size, speedup);
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
                running.push((at + SimDuration::from_secs(2), request.id));
                seen.push((at, request));
            }
        }
    }
}

/// Leading blocks that two requests have in common, on engines with such blocks.
pub(super) fn common(trace: &Trace, block_size: u32, one: usize, other: usize) -> usize {
    let all = served(trace, block_size, 1.0);
    let (a, b) = (&all[one].1, &all[other].1);
    let blocks = a.prompt_tokens.min(b.prompt_tokens) / block_size;
    (0..blocks).take_while(|&i| a.content.block(i) == b.content.block(i)).count()
}

#[test]
fn compressed_files_read_as_plain_ones() {
    let folder = tempfile::tempdir().unwrap();
    let plain = parse(FIXTURE).unwrap();
    let read = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        Trace::read(&path, &ReadOptions::default())
    };
    assert_eq!(read("plain", FIXTURE.as_bytes()).unwrap(), plain);
    for ending in ["gz", "zst"] {
        let whole = to_file(&plain, Path::new(&format!("t.{ending}")));
        // The content tells, not the name. Files may be put together from parts.
        assert_eq!(read("whole", &whole).unwrap(), plain, "{ending}");
        let doubled = read("twice", &[whole.clone(), whole.clone()].concat()).unwrap_err();
        assert!(
            doubled.to_string().contains("twice:7: timestamp = 0: must be not before"),
            "{doubled}"
        );
        let cut = read("cut", &whole[..whole.len() / 2]).unwrap_err().to_string();
        assert!(cut.contains("cut"), "{cut}");
    }
    assert_eq!(to_file(&plain, Path::new("t.jsonl")), FIXTURE.as_bytes());
}

#[test]
fn azure_and_burstgpt_are_told_by_their_columns() {
    let azure = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n\
        2023-11-16 18:17:03.9799600,4808,10\r\n2023-11-16 18:17:04.0319600,3180,8\r\n\
        2023-11-17 00:00:00.0000000,1,1";
    let trace = parse(azure).unwrap();
    let rows: Vec<_> = trace
        .rows()
        .iter()
        .map(|r| (r.at.as_ps() / 1_000, r.input_tokens, r.output_tokens))
        .collect();
    let midnight_ns = (5 * 3_600 + 42 * 60 + 56) * 1_000_000_000 + 20_040_000;
    assert_eq!(rows, [(0, 4_808, 10), (52_000_000, 3_180, 8), (midnight_ns, 1, 1)]);
    let newer = "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:00.009930+00:00,7,2";
    assert_eq!(parse(newer).unwrap().rows().len(), 1);

    let burst = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n\
        5,ChatGPT,472,18,490,Conversation log\n45.5,ChatGPT,1087,0,1087,Conversation log\n\
        118,GPT-4,417,276,693,API log\n";
    let trace = parse(burst).unwrap();
    let rows: Vec<_> = trace.rows().iter().map(|r| (r.at.as_millis(), r.input_tokens)).collect();
    assert_eq!(rows, [(0.0, 472), (113_000.0, 417)], "the request without an answer failed");

    let sessions = "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n\
        0,a,1,GPT-4,100,20,120,x\n1,b,1,GPT-4,100,20,120,x\n60,a,1,GPT-4,130,5,135,x\n90,a,1,GPT-4,40,5,45,x\n";
    let requests = served(&parse(sessions).unwrap(), 16, 1.0);
    let conversations: Vec<u32> = requests.iter().map(|(_, r)| r.conversation.0).collect();
    assert_eq!(conversations, [0, 1, 0, 0]);
    let block = |i: usize| requests[i].1.content.block(0);
    assert_eq!(block(0), block(2), "longer than the turn before and its answer: goes on from it");
    assert_ne!(block(0), block(3), "shorter: cannot contain it");
    assert_ne!(block(0), block(1));
}

#[test]
fn every_broken_csv_row_is_named() {
    let azure = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.97,5,1\n";
    let burst = "Timestamp,Model,Request tokens,Response tokens\n7,a,5,1\n";
    let mut seen = String::new();
    for text in [
        format!("{azure}2023-11-16,5,1"),
        format!("{azure}2023-11-16 18:17:03.96,5,1"),
        format!("{azure}2023-11-16 18:17:04,five,1"),
        format!("{azure}2023-11-16 18:17:04,5,0"),
        format!("{azure}2023-11-16 18:17:04,5"),
        azure.replace("GeneratedTokens", "Generated"),
        azure.lines().next().unwrap().to_owned(),
        format!("{burst}x,a,5,1"),
        format!("{burst}6,a,5,1"),
        format!("{burst}8,a,0,1"),
        format!("{burst}8,a,5,-1"),
        format!("{burst}99999999999,a,5,1"),
        "a,b\n1,2".to_owned(),
    ] {
        writeln!(seen, "{}", without_formats(&parse(&text).unwrap_err())).unwrap();
    }
    insta::assert_snapshot!(seen, @r#"
        t.jsonl:3: TIMESTAMP = 2023-11-16: must be a date like 2023-11-16 18:17:03.9799600
        t.jsonl:3: TIMESTAMP = 2023-11-16 18:17:03.96: must be not before the first turn above it: sort the rows by time
        t.jsonl:3: ContextTokens = five: must be a whole number from 0 to 4294967295
        t.jsonl:3: GeneratedTokens = 0: must be from 1 to 1000000000, as every request generates; remove the row
        t.jsonl:3: 2 values in 3 columns
        t.jsonl:1: column "GeneratedTokens" is missing
        t.jsonl: no requests
        t.jsonl:3: Timestamp = x: must be seconds since the start, not negative
        t.jsonl:3: Timestamp = 6: must be not before the first turn above it: sort the rows by time
        t.jsonl:3: Request tokens = 0: must be from 1 to 1000000000
        t.jsonl:3: Response tokens = -1: must be a whole number from 0 to 4294967295
        t.jsonl:3: Timestamp = 99999999999: must be at most 100 days, in seconds
        t.jsonl: has no format that sim reads.
        "#);
}

#[test]
fn sessions_wait_for_answers_and_times() {
    let text = r#"{"session_id": "a", "timestamp": 1000, "input_length": 600, "output_length": 10}
        {"timestamp": 1500, "input_length": 600, "output_length": 10}
        {"session_id": "a", "delay": 250, "input_length": 900, "output_length": 10}
        {"session_id": 7, "timestamp": 2000.0, "input_length": 600, "output_length": 10}
        {"session_id": "a", "timestamp": 9000, "input_length": 950, "output_length": 10}
        {"session_id": 7, "timestamp": 2100, "input_length": 700, "output_length": 10}"#;
    let trace = parse(text).unwrap();
    let times = |speedup: f64| -> Vec<(f64, u32, u32)> {
        let served = served(&trace, 16, speedup).into_iter();
        served.map(|(at, r)| (at.as_millis(), r.conversation.0, r.turn)).collect()
    };
    let plain = [
        (0.0, 0, 0),
        (500.0, 1, 0),
        (1_000.0, 2, 0),
        (2_250.0, 0, 1),
        (3_000.0, 2, 1),
        (8_000.0, 0, 2),
    ];
    assert_eq!(times(1.0), plain);
    let faster = [
        (0.0, 0, 0),
        (250.0, 1, 0),
        (500.0, 2, 0),
        (2_125.0, 0, 1),
        (2_500.0, 2, 1),
        (4_125.0, 0, 2),
    ];
    assert_eq!(times(2.0), faster);
    let stats = TraceStats::of(&trace);
    assert_eq!((stats.rows, stats.sessions, stats.duration_s), (6, 3, 8.0));
    // A block of 512 tokens in the second and third turn of one session, and in the
    // second of the other.
    assert_eq!((stats.references_blocks, stats.repeats_blocks), (12, 3));
}

#[test]
fn broken_sessions_are_named() {
    let first = r#"{"session_id": "a", "timestamp": 5, "input_length": 600, "output_length": 1}"#;
    let mut seen = String::new();
    for bad in [
        r#"{"session_id": "b", "input_length": 600, "output_length": 1}"#,
        r#"{"session_id": "b", "timestamp": 6, "delay": 3, "input_length": 600, "output_length": 1}"#,
        r#"{"timestamp": 6, "delay": 3, "input_length": 600, "output_length": 1}"#,
        r#"{"session_id": "a", "delay": -3, "input_length": 600, "output_length": 1}"#,
        r#"{"session_id": "a", "delay": 9e9, "input_length": 600, "output_length": 1}"#,
        r#"{"session_id": ["a"], "timestamp": 6, "input_length": 600, "output_length": 1}"#,
        r#"{"session_id": "a", "messages": [], "output_length": 1}"#,
        r#"{"session_id": "a", "messages": [], "input_length": 600, "output_length": 1}"#,
    ] {
        let error = parse(&format!("{first}\n{bad}")).unwrap_err();
        writeln!(seen, "{}", without_formats(&error)).unwrap();
    }
    let long = first.replace("600", "900000000");
    let text = format!("{long}\n{}", long.replace("\"timestamp\": 5, ", ""));
    let error = read_as(&text, TraceFormat::MooncakeDelta).unwrap_err();
    writeln!(seen, "{error}").unwrap();
    insta::assert_snapshot!(seen, @r#"
        t.jsonl:2: field "timestamp" is missing
        t.jsonl:2: delay = 3: must be absent: only later turns of a session_id wait for the one before
        t.jsonl:2: delay = 3: must be absent: only later turns of a session_id wait for the one before
        t.jsonl:2: delay = -3: must be a number that is not negative
        t.jsonl:2: delay = 9000000000: must be at most 100 days, in milliseconds
        t.jsonl:2: session_id = ["a"]: must be text or a whole number
        t.jsonl:2: field "input_length" is missing
        t.jsonl:2: looks like requests with messages as text, which sim does not read.
        t:2: input_length = 900000000: must be so short that the whole prompt has at most 1000000000
        "#);
}

/// Sessions of turns: new tokens, output, delay; and whether the first turn has ids.
pub(super) type Plan = Vec<(Vec<(u32, u32, u32)>, bool)>;

pub(super) fn plan() -> impl Strategy<Value = Plan> {
    let turn = (1..1_500u32, 1..400u32, 0..3_000u32);
    prop::collection::vec((prop::collection::vec(turn, 1..5), any::<bool>()), 1..6)
}

/// The lines of a plan, with what is new in a turn, or with whole prompts.
pub(super) fn sessions(plan: &Plan, delta: bool) -> String {
    let mut text = String::new();
    for (session, (turns, has_ids)) in plan.iter().enumerate() {
        let mut history = 0;
        for (turn, (new, output, delay)) in turns.iter().enumerate() {
            let input = if delta { *new } else { history + new };
            let time = match turn {
                0 => format!("\"timestamp\": {}", 700 * session),
                _ => format!("\"delay\": {delay}"),
            };
            let ids: Vec<u64> =
                (0..u64::from(input.div_ceil(512))).map(|i| 100 * session as u64 + i).collect();
            let ids = if *has_ids && turn == 0 {
                format!(", \"hash_ids\": {ids:?}")
            } else {
                String::new()
            };
            writeln!(
                text,
                "{{\"session_id\": \"s{session}\", {time}, \"input_length\": {input}, \
                 \"output_length\": {output}{ids}}}"
            )
            .unwrap();
            history += new + output;
        }
    }
    text
}

proptest! {
    #[test]
    fn deltas_and_whole_prompts_are_the_same_requests(plan in plan(), shift in 4..10u32) {
        let block_size = 1 << shift;
        let delta = read_as(&sessions(&plan, true), TraceFormat::MooncakeDelta).unwrap();
        let whole = read_as(&sessions(&plan, false), TraceFormat::Mooncake).unwrap();
        prop_assert_eq!(&delta, &whole);
        // And the file that is written of it.
        let written = read_as(&write::lines(&delta), TraceFormat::Mooncake).unwrap();
        prop_assert_eq!(&written, &whole);

        let requests = served(&whole, block_size, 1.0);
        prop_assert_eq!(requests.len(), whole.rows().len());
        for (i, (_, a)) in requests.iter().enumerate() {
            for (_, b) in &requests[..i] {
                // All that was there when the earlier one ended, answer included.
                let whole = (b.prompt_tokens + b.output_tokens) / block_size;
                let common = (0..whole).take_while(|&j| a.content.block(j) == b.content.block(j));
                let expected = if a.conversation == b.conversation { whole } else { 0 };
                prop_assert_eq!(common.count(), expected as usize);
            }
        }
    }

    #[test]
    fn no_csv_makes_the_reader_panic(text in "[0-9a-z,.:\" \r\n-]{0,80}", azure: bool) {
        let head = match azure {
            true => "TIMESTAMP,ContextTokens,GeneratedTokens\n",
            false => "Timestamp,Request tokens,Response tokens,Session ID\n",
        };
        let _ = parse(&format!("{head}{text}"));
    }
}
