//! What times count, what later turns have, whose answers ids name; and what is
//! said where a rule decided it.

use super::formats::{Plan, plan, read_as, served, sessions};
use super::*;
use crate::time::{SimDuration, SimTime};

fn read_in(text: &str, time_unit: Option<TimeUnit>) -> Result<Trace, TraceError> {
    let options = ReadOptions { time_unit, ..ReadOptions::default() };
    file::parse(Path::new("t.jsonl"), text.as_bytes(), &options)
}

fn timed(times: &[&str]) -> String {
    let row = |time: &&str| {
        format!("{{\"timestamp\": {time}, \"input_length\": 64, \"output_length\": 5}}\n")
    };
    times.iter().map(row).collect()
}

fn seconds(trace: &Trace) -> Vec<f64> {
    trace.rows().iter().map(|row| row.at.as_secs()).collect()
}

#[test]
fn the_first_row_is_at_zero() {
    let late = parse(&timed(&["3600000", "3601000"])).unwrap();
    assert_eq!(seconds(&late), [0.0, 1.0]);
    assert_eq!(
        late.found().notices,
        ["t.jsonl: its times begin at 3600 s: the first row is at 0 s"]
    );
    assert!(parse(&timed(&["0", "1000"])).unwrap().found().notices.is_empty());
}

#[test]
fn a_fraction_needs_a_unit() {
    let text = timed(&["0.25", "60.75"]);
    let refused = read_in(&text, None).unwrap_err().to_string();
    assert_eq!(
        refused,
        "t.jsonl:1: timestamp = 0.25: must be whole milliseconds, unless time_unit says what it \
         counts (\"s\", \"ms\", \"us\" or \"ns\"): a fraction means seconds in most tools"
    );
    let trace = read_in(&text, Some(TimeUnit::S)).unwrap();
    assert_eq!(seconds(&trace), [0.0, 60.5]);
    // Fractions are kept through scaling.
    let trace = read_in(&timed(&["0.25", "1.5"]), Some(TimeUnit::Ms)).unwrap();
    assert_eq!(seconds(&trace.sped_up(0.001).unwrap()), [0.0, 1.25]);
}

#[test]
fn dates_tell_their_unit() {
    for (unit, factor) in [("seconds", 1_u64), ("milliseconds", 1_000), ("microseconds", 1_000_000)]
    {
        let times = [1_782_000_000 * factor, 1_782_000_090 * factor].map(|time| time.to_string());
        let trace = parse(&timed(&times.each_ref().map(String::as_str))).unwrap();
        assert_eq!(seconds(&trace), [0.0, 90.0]);
        let notice = format!("t.jsonl: its times are dates in {unit}: the first row is at 0 s");
        assert_eq!(trace.found().notices, [notice]);
    }
    let fractions = parse(&timed(&["1782000000.5", "1782000001.25"])).unwrap();
    assert_eq!(seconds(&fractions), [0.0, 0.75]);
    let csv = "Timestamp,Request tokens,Response tokens\n1.5,100,20\n3.25,200,30\n";
    assert_eq!(seconds(&parse(csv).unwrap()), [0.0, 1.75]);
    let refused = read_in(csv, Some(TimeUnit::Ms)).unwrap_err().to_string();
    assert_eq!(refused, "time_unit = \"ms\": must be absent: the format of the file has its own");
}

#[test]
fn times_too_far_apart_or_out_of_order_are_named() {
    let refused = |times: &[&str]| parse(&timed(times)).unwrap_err().to_string();
    assert_eq!(
        refused(&["5", "8640000006"]),
        "t.jsonl:2: timestamp = 8640000006: must be at most 100 days, in milliseconds"
    );
    assert_eq!(
        refused(&["5", "4"]),
        "t.jsonl:2: timestamp = 4: must be not before the first turn above it: sort the rows by \
         time"
    );
    assert!(refused(&["5", "18446744073709551615"]).contains("100 days"));
    assert!(refused(&["5", "1e300"]).contains("not negative"));
}

#[test]
fn rows_of_a_session_that_shrink_are_increments() {
    let first = r#"{"session_id": "s", "timestamp": 0, "input_length": 512, "output_length": 320}"#;
    let again = r#"{"session_id": "s", "delay": 1000, "input_length": 512, "output_length": 320}"#;
    let trace = parse(&format!("{first}\n{again}\n{again}")).unwrap();
    let lengths: Vec<u32> = trace.rows().iter().map(|row| row.input_tokens).collect();
    assert_eq!(lengths, [512, 1_344, 2_176]);
    assert_eq!(
        trace.found().notices,
        ["t.jsonl: rows of one session shrink: 2 of 2 later turns are shorter than the turn \
          before and its answer; read as increments (format = \"mooncake\" reads whole prompts)"]
    );
    // Most do not: a prompt that was cut down is no increment.
    let grown = again.replace("512", "832");
    let more = again.replace("512", "1152");
    let text = format!("{first}\n{grown}\n{more}\n{}", again.replace("512", "1400"));
    let trace = parse(&text).unwrap();
    let lengths: Vec<u32> = trace.rows().iter().map(|row| row.input_tokens).collect();
    assert_eq!(lengths, [512, 832, 1_152, 1_400]);
    assert_eq!(trace.found().sessions_broken, 1);
    assert_eq!(trace.found().notices.len(), 1);
    assert!(trace.found().notices[0].contains("1 of 3 later turns"), "{:?}", trace.found());
}

#[test]
fn a_byte_order_mark_is_no_content() {
    let plain = r#"{"timestamp":0,"input_length":512,"output_length":5,"hash_ids":[1]}"#;
    assert_eq!(parse(&format!("\u{FEFF}{plain}")).unwrap(), parse(plain).unwrap());
    let csv = "Timestamp,Request tokens,Response tokens\n1.5,100,20\n";
    assert_eq!(parse(&format!("\u{FEFF}{csv}")).unwrap(), parse(csv).unwrap());
}

#[test]
fn columns_that_look_like_sessions_are_read_or_refused() {
    let text = |column: &str| {
        format!(
            "Timestamp,{column},Request tokens,Response tokens\n1.5,a1,100,20\n3.25,b7,200,30\n\
             9.75,a1,160,40\n20,a1,50,40\n"
        )
    };
    let expected = parse(&text("Session ID")).unwrap();
    assert!(expected.has_sessions());
    assert_eq!(expected.found().sessions_broken, 1);
    for same in ["SessionID", "session_id", "SESSION ID"] {
        assert_eq!(parse(&text(same)).unwrap(), expected, "{same}");
    }
    let refused = |column: &str| parse(&text(column)).unwrap_err().to_string();
    assert_eq!(
        refused("conversation_id"),
        "t.jsonl:1: column \"conversation_id\" is not read: call it \"Session ID\" if it names \
         sessions, else leave it out"
    );
    assert_eq!(
        refused("Session ID,SessionID"),
        "t.jsonl:1: columns \"Session ID\" and \"SessionID\" are the same"
    );
    assert!(refused("x,Timestamp").contains("are the same"));
}

#[test]
fn an_empty_name_is_no_session() {
    let rows = |name: &str| {
        let row = |at: u32, tokens: u32| {
            format!("{{{name}\"timestamp\":{at},\"input_length\":{tokens},\"output_length\":5}}\n")
        };
        row(0, 700) + &row(4_000, 900)
    };
    let none = parse(&rows("")).unwrap();
    assert!(!none.has_sessions());
    assert_eq!(parse(&rows("\"session_id\":\"\",")).unwrap(), none);
    assert_eq!(parse(&rows("\"session_id\":null,")).unwrap(), none);
}

#[test]
fn rows_without_an_answer_are_counted() {
    let text = "Timestamp,Request tokens,Response tokens\n1,100,20\n2,100,0\n3,100,0\n4,9,9\n";
    let trace = parse(text).unwrap();
    assert_eq!((trace.rows().len(), trace.found().rows_left_out), (2, 2));
    let scaling = Scaling { max_isl: Some(50), ..Scaling::default() };
    assert_eq!(scaling.apply(trace).unwrap().found().rows_left_out, 3);
}

#[test]
fn files_of_other_kinds_are_refused_with_the_formats() {
    let mut seen = String::new();
    for text in [
        r#"{"metadata":{"session_num":0},"metrics":{},"error":null}"#,
        r#"[{"id":"c1","prompt":"abc"}]"#,
        r#"{"timestamp": 0, "isl": 512, "output_length": 5}"#,
        "arrival,prompt_tokens,Response tokens\n1,2,3",
        "TIMESTAMP;ContextTokens;GeneratedTokens\n",
        "PK\u{3}\u{4}",
        "hello",
    ] {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.contains("Formats: mooncake (JSON lines"), "{error}");
        writeln!(seen, "{}", error.split(" Formats: ").next().unwrap()).unwrap();
    }
    insta::assert_snapshot!(seen);
}

#[test]
fn a_row_without_an_end_is_refused_in_little_memory() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("zeros.gz");
    let zeros = vec![0; bytes::MAX_ROW_BYTES + 100_000];
    let compress = |text: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, text).unwrap();
        std::fs::write(&path, encoder.finish().unwrap()).unwrap();
        let read = |format| Trace::read(&path, &ReadOptions { format, ..ReadOptions::default() });
        [Some(TraceFormat::Mooncake), Some(TraceFormat::Burstgpt)]
            .map(|format| read(format).unwrap_err().to_string())
    };
    for error in compress(&zeros) {
        assert!(error.ends_with(":1: cannot be read: a row is longer than 16 MiB"), "{error}");
    }
}

/// The lines of a plan as sessions of whole prompts in which every block has an id,
/// also a partial last one.
fn with_ids(plan: &Plan) -> String {
    let (mut text, mut partial) = (String::new(), 1_000_000);
    for (session, (turns, _)) in plan.iter().enumerate() {
        let mut history = 0;
        for (turn, (new, output, delay)) in turns.iter().enumerate() {
            let input = history + new;
            let time = match turn {
                0 => format!("\"timestamp\": {}", 700 * session),
                _ => format!("\"delay\": {delay}"),
            };
            let mut ids: Vec<u64> =
                (0..u64::from(input / 512)).map(|i| 1_000 * session as u64 + i).collect();
            if input % 512 > 0 {
                partial += 1;
                ids.push(partial);
            }
            writeln!(
                text,
                "{{\"session_id\": \"s{session}\", {time}, \"input_length\": {input}, \
                 \"output_length\": {output}, \"hash_ids\": {ids:?}}}"
            )
            .unwrap();
            history += new + output;
        }
    }
    text
}

proptest! {
    /// A file that says more of what is shared must not give fewer hits: prompts and
    /// answers are in the next turns, with ids as without.
    #[test]
    fn ids_share_answers_as_lengths_do(plan in plan(), shift in 0..10u32) {
        let block_size = 1 << shift;
        let plan: Plan = plan.into_iter().map(|(turns, _)| (turns, false)).collect();
        let named = served(&parse(&with_ids(&plan)).unwrap(), block_size, 1.0);
        let plain = served(&parse(&sessions(&plan, false)).unwrap(), block_size, 1.0);
        prop_assert_eq!(named.len(), plain.len());
        let common = |a: &Request, b: &Request| {
            let whole = (a.prompt_tokens + a.output_tokens).min(b.prompt_tokens) / block_size;
            (0..whole).take_while(|&i| a.content.block(i) == b.content.block(i)).count()
        };
        for i in 0..named.len() {
            prop_assert_eq!(named[i].0, plain[i].0);
            for j in 0..i {
                let pair = |all: &[(SimTime, Request)]| common(&all[j].1, &all[i].1);
                prop_assert_eq!(pair(&named), pair(&plain), "requests {} and {}", j, i);
            }
        }
        // The file that is written of it is the same trace.
        let trace = parse(&with_ids(&plan)).unwrap();
        prop_assert_eq!(parse(&write::lines(&trace)).unwrap(), trace);
    }

    /// Whatever the lengths, a file is read as one of the two conventions, and says so
    /// where it was not plain.
    #[test]
    fn one_of_two_conventions_is_read(plan in plan(), delta: bool) {
        let text = sessions(&plan, delta);
        let read = read_as(&text, TraceFormat::Mooncake).unwrap();
        let trace = parse(&text).unwrap();
        let shrinks = read.found().sessions_broken > 0;
        if trace == read {
            let of_turns = |notice: &&String| notice.contains("rows of one session shrink");
            let said = trace.found().notices.iter().filter(of_turns).count();
            prop_assert_eq!(said, usize::from(shrinks));
        } else {
            prop_assert!(shrinks && trace.found().notices[0].contains("read as increments"));
            prop_assert_eq!(trace, read_as(&text, TraceFormat::MooncakeDelta).unwrap());
        }
        prop_assert!(delta || !shrinks);
    }

    /// A window has the sessions that begin in it, each as it was, from time zero.
    #[test]
    fn a_window_has_the_sessions_that_begin_in_it(plan in plan(), from in 0..5u64, len in 1..5u64) {
        let trace = read_as(&sessions(&plan, false), TraceFormat::Mooncake).unwrap();
        let time = |n: u64| SimDuration::from_millis(700 * n);
        let window = trace.clone().within(Some(time(from)), Some(time(from + len)));
        let inside: Vec<&TraceRow> = trace
            .rows()
            .iter()
            .filter(|row| (from..from + len).contains(&u64::from(row.session)))
            .collect();
        let Ok(window) = window else {
            prop_assert!(inside.is_empty());
            return Ok(());
        };
        prop_assert_eq!(window.rows().len(), inside.len());
        for (row, was) in window.rows().iter().zip(&inside) {
            prop_assert_eq!(u64::from(row.session) + from, u64::from(was.session));
            prop_assert_eq!((row.turn, row.input_tokens), (was.turn, was.input_tokens));
            let at = if row.turn == 0 { was.at - time(from) } else { SimDuration::ZERO };
            prop_assert_eq!(row.at, at);
        }
        prop_assert_eq!(&trace.clone().within(None, None).unwrap(), &trace);
        prop_assert_eq!(&trace.clone().within(Some(SimDuration::ZERO), None).unwrap(), &trace);
    }

    /// A closed loop sends every turn once and starts the sessions in order; while
    /// some are left, as many are open as there are clients.
    #[test]
    fn clients_take_one_session_after_another(
        plan in plan(),
        clients in 1..8u32,
        changes in prop::collection::vec((0..30usize, 1..8u32), 0..3),
        ends in prop::collection::vec(any::<prop::sample::Index>(), 40),
    ) {
        let trace = read_as(&sessions(&plan, false), TraceFormat::Mooncake).unwrap();
        let mut replay = TraceReplay::new(Arc::new(trace.clone()), 16, 1.0).with_clients(clients);
        let (mut now, mut most, mut clients) = (SimTime::ZERO, clients, clients);
        let mut seen = Vec::new();
        let mut running: Vec<Request> = Vec::new();
        let mut begun = 0;
        let mut open = BTreeMap::new();
        for step in 0.. {
            while let Some(at) = replay.next_arrival() {
                let Arrival { at: came, request, .. } = replay.take();
                prop_assert!(came == at && at >= now);
                now = at;
                if request.turn == 0 {
                    prop_assert_eq!(request.conversation.0, begun, "in the order of the trace");
                    begun += 1;
                    open.insert(request.conversation, ());
                }
                seen.push((request.conversation.0, request.turn));
                running.push(request);
                prop_assert!(open.len() <= most as usize);
            }
            let left = plan.len() - begun as usize;
            prop_assert!(left == 0 || open.len() >= clients as usize);
            if let Some(&(_, count)) = changes.iter().find(|(at, _)| *at == step) {
                assert!(replay.set_concurrency(now, count, false));
                (clients, most) = (count, most.max(count));
                continue;
            }
            if running.is_empty() {
                break;
            }
            let ended = running.swap_remove(ends[step % ends.len()].index(running.len()));
            let turns = plan[ended.conversation.index()].0.len();
            if ended.turn as usize + 1 == turns {
                open.remove(&ended.conversation);
                // Those above the count leave as their sessions end.
                most = most.min(clients.max(u32::try_from(open.len()).unwrap()));
            }
            replay.observe_end(now, ended.id, true);
        }
        seen.sort_unstable();
        let rows = trace.rows().iter();
        let mut all: Vec<(u32, u32)> = rows.map(|row| (row.session, row.turn)).collect();
        all.sort_unstable();
        prop_assert_eq!(seen, all);
    }
}
