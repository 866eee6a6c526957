//! Files in no known format, by the names of their columns.

use super::formats::served;
use super::*;
use crate::time::SimTime;

fn by(columns: &str, unit: Option<TimeUnit>, text: &str) -> Result<Trace, TraceError> {
    let options = ReadOptions {
        columns: Some(columns.parse().map_err(|problem: String| TraceError::Format {
            path: PathBuf::from("columns"),
            problem,
        })?),
        time_unit: unit,
        ..ReadOptions::default()
    };
    file::parse(Path::new("log"), text.as_bytes(), &options)
}

fn fixture(name: &str) -> String {
    std::fs::read_to_string(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("traces/fixtures").join(name),
    )
    .unwrap()
}

/// Time in seconds, conversation, turn, prompt and answer of every request, each of which
/// ends two seconds after it came.
fn requests(trace: &Trace) -> Vec<(f64, u32, u32, u32, u32)> {
    let shown = |(at, r): (SimTime, Request)| {
        (at.as_secs(), r.conversation.0, r.turn, r.prompt_tokens, r.output_tokens)
    };
    served(trace, 16, 1.0).into_iter().map(shown).collect()
}

/// Leading blocks of 16 tokens that two requests have in common.
fn common(trace: &Trace, one: usize, other: usize) -> usize {
    let all = served(trace, 16, 1.0);
    let (a, b) = (&all[one].1, &all[other].1);
    let blocks = a.prompt_tokens.min(b.prompt_tokens) / 16;
    (0..blocks).take_while(|&i| a.content.block(i) == b.content.block(i)).count()
}

#[test]
fn vidur_and_servegen() {
    let columns = "time=arrived_at,prompt=num_prefill_tokens,output=num_decode_tokens";
    let trace = by(columns, Some(TimeUnit::S), &fixture("vidur.csv")).unwrap();
    let expected = [(0.0, 0, 0, 900, 40), (0.75, 1, 0, 120, 8), (2.5, 2, 0, 2_048, 16)];
    assert_eq!(requests(&trace), expected);
    let columns = "time=timestamp,prompt=input_tokens,output=output_tokens";
    let trace = by(columns, Some(TimeUnit::S), &fixture("servegen.csv")).unwrap();
    assert_eq!(requests(&trace)[1], (0.013, 1, 0, 96, 310));
}

#[test]
fn blis_prefixes_end_inside_a_block() {
    let columns = "time=arrival_time_us,prompt=input_tokens,output=output_tokens,\
                   session=session_id,end=last_chunk_time_us,prefix=prefix_group,\
                   prefix_tokens=prefix_length";
    let trace = by(columns, Some(TimeUnit::Us), &fixture("blis.csv")).unwrap();
    let times: Vec<f64> = requests(&trace).iter().map(|request| request.0).collect();
    assert_eq!(times, [0.0, 0.25, 1.0]);
    assert_eq!(trace.found().rows_left_out, 1, "the request that failed");
    // 600 tokens: one block of the trace and 88 tokens, 37 blocks of the engine in all.
    for (one, other) in [(0, 1), (0, 2), (1, 2)] {
        assert_eq!(common(&trace, one, other), 37);
    }
    // The file that is written of it has whole blocks of 512 tokens.
    let written = parse(&write::lines(&trace)).unwrap();
    assert_eq!(common(&written, 0, 2), 32);
}

#[test]
fn vllm_multi_turn_and_litellm_have_sessions() {
    let columns = "time=start_time_ms,prompt=input_num_tokens,output=output_num_tokens,\
                   session=conversation_id";
    let trace = by(columns, Some(TimeUnit::Ms), &fixture("vllm-multi-turn.csv")).unwrap();
    assert_eq!(requests(&trace)[2], (2.100_5, 0, 1, 800, 80));
    // 640 tokens of the turn before and 100 of its answer.
    assert_eq!(common(&trace, 0, 2), 40);

    let columns = "time=startTime,end=endTime,prompt=prompt_tokens,output=completion_tokens,\
                   session=trace_id";
    let trace = by(columns, None, &fixture("litellm.jsonl")).unwrap();
    assert_eq!(
        trace.found().notices,
        ["log: its times are dates in seconds", "log: its rows are not in order of time: sorted"]
    );
    assert_eq!(trace.found().rows_left_out, 1);
    // Two seconds of an answer, then the eight that lie between.
    let expected = [(0.0, 0, 0, 1_200, 90), (1.25, 1, 0, 300, 500), (10.0, 0, 1, 1_400, 60)];
    assert_eq!(requests(&trace), expected);
}

#[test]
fn opentelemetry_spans() {
    let columns = "rows=resourceSpans.scopeSpans.spans,time=startTimeUnixNano,\
                   end=endTimeUnixNano,session=attributes.session.id,\
                   prompt=attributes.gen_ai.usage.prompt_tokens,\
                   output=attributes.gen_ai.usage.completion_tokens";
    let trace = by(columns, None, &fixture("otel-spans.jsonl")).unwrap();
    assert_eq!(requests(&trace), [(0.0, 0, 0, 700, 12), (5.0, 0, 1, 800, 30)]);
    assert_eq!(trace.found().rows_left_out, 1, "a span of something else");
}

#[test]
fn dates_sums_ids_and_other_delimiters() {
    let text = "When;New;Cached;Out;Blocks\n\
                2026-11-16T12:00:00+01:00;100;500;7;a b\n2026-11-16 11:00:01.5Z;600.0;;7;a c\n";
    let trace = by("time=when,prompt=new + cached,output=out,ids=blocks", None, text).unwrap();
    assert_eq!(requests(&trace), [(0.0, 0, 0, 600, 7), (1.5, 1, 0, 600, 7)]);
    assert_eq!(common(&trace, 0, 1), 32);
}

#[test]
fn what_cannot_be_read_is_named() {
    let ok = "time=ts,prompt=in,output=out";
    let csv = "ts,in,out,user\n0.5,10,5,a\n1,20,5,a\n";
    let mut seen = String::new();
    for (columns, unit, text) in [
        ("time=ts", None, csv),
        ("time=ts,prompt=in,output=out,turn=x", None, csv),
        ("time=ts,prompt=in,output", None, csv),
        ("time=ts,prompt=in,output=out,prefix=user", None, csv),
        ("time=ts,prompt=in + ,output=out", None, csv),
        ("time=ts,prompt=in,output=out,prefix=user,prefix_tokens=2_000_000_000", None, csv),
        (ok, None, csv),
        ("time=when,prompt=in,output=out", Some(TimeUnit::S), csv),
        (ok, Some(TimeUnit::S), "ts,in,out\nx,1,1\n"),
        (ok, Some(TimeUnit::S), "ts,in,out\n1,1.5,1\n"),
        (ok, Some(TimeUnit::S), "ts,in,out\n,1,1\n"),
        (ok, Some(TimeUnit::S), "ts,in,out\n1,1,1\n1e9,1,1\n"),
        (ok, Some(TimeUnit::S), "ts,in,out\n1,1\n"),
        (ok, Some(TimeUnit::S), "ts,in,out\n1,0,1\n"),
        (ok, Some(TimeUnit::S), "ts,in,out\n"),
        (ok, Some(TimeUnit::S), "ts,in,In,out\n1,2,3,4\n"),
        ("time=ts,prompt=i_n,output=out", Some(TimeUnit::S), "ts,in,In,out\n1,2,3,4\n"),
        (ok, None, "ts,in,out\n2026-11-16 12:00:00,1,1\n5,1,1\n"),
        (ok, Some(TimeUnit::S), "ts,in,out\n2026-11-16 12:00:00,1,1\n"),
        (ok, Some(TimeUnit::S), "[{\"ts\": 1}]"),
        (ok, Some(TimeUnit::S), "{\"ts\": 1, \"usage\": {\"in\": 5}}\n"),
        (ok, Some(TimeUnit::S), "{\"ts\": 1\n"),
        ("time=ts,prompt=in,output=out,rows=a.b", Some(TimeUnit::S), csv),
        ("time=ts,prompt=in,output=out,prefix=user,prefix_tokens=in", Some(TimeUnit::S), csv),
    ] {
        match by(columns, unit, text) {
            Ok(trace) => writeln!(seen, "read: {:?}", requests(&trace)).unwrap(),
            Err(error) => writeln!(seen, "{error}").unwrap(),
        }
    }
    insta::assert_snapshot!(seen);
}

#[test]
fn spans_get_the_columns_that_read_them() {
    let spans = fixture("otel-spans.jsonl");
    let error = parse(&spans).unwrap_err().to_string();
    let (_, said) = error.split_once("Perhaps columns = { ").expect(&error);
    let said = said.split(" }.").next().unwrap_or_default();
    let columns = said.replace(" = ", "=").replace([' ', '"'], "");
    assert_eq!(by(&columns, None, &spans).unwrap().rows().len(), 2, "{columns}");
}

#[test]
fn a_file_without_a_byte_has_no_requests() {
    let error = by("time=t,prompt=a,output=b", None, "").unwrap_err();
    assert!(matches!(error, TraceError::Empty { .. }), "{error}");
}

#[test]
fn a_refused_file_gets_a_suggestion() {
    let text = "arrived_at,num_prefill_tokens,num_decode_tokens\n0,1,2\n";
    let error = parse(text).unwrap_err().to_string();
    let columns = "columns = { time = \"arrived_at\", prompt = \"num_prefill_tokens\", \
                   output = \"num_decode_tokens\" }.";
    assert!(error.contains(columns), "{error}");
}

proptest! {
    #[test]
    fn no_log_makes_the_reader_panic(
        text in "[0-9a-z,.:{}\\[\\]\" \r\n-]{0,80}", json: bool, minutes: bool,
    ) {
        let head = if json { "{\"ts\":1,\"in\":2,\"out\":3}\n" } else { "ts,in,out\n" };
        let unit = minutes.then_some(TimeUnit::S);
        let _ = by("time=ts,prompt=in,output=out,session=s,end=e", unit, &format!("{head}{text}"));
        let _ = by("time=ts,prompt=in,output=out,ids=in", unit, &format!("{head}{text}"));
    }
}

#[test]
fn ids_of_64_bits_texts_and_contents() {
    let row = |at: u32, ids: &str| {
        format!(
            "{{\"timestamp\": {at}, \"input_length\": 1100, \"output_length\": 2, \"hash_ids\": [{ids}]}}\n"
        )
    };
    let wide = row(0, "18446744073709551615, 7, 9007199254740993")
        + &row(1, "18446744073709551615, 7, -5")
        + &row(2, "18446744073709551614, 8, 9");
    let trace = parse(&wide).unwrap();
    assert_eq!((common(&trace, 0, 1), common(&trace, 0, 2)), (64, 0));
    let hex = row(0, "\"9f86d081884c7d65\", \"0a\"") + &row(1, "\"9f86d081884c7d65\", \"0b\"");
    let trace = parse(&hex).unwrap();
    assert_eq!(common(&trace, 0, 1), 32, "whole blocks only: the rest has no id");
    let text = row(0, "1, 2, 1") + &row(1, "2, 1, 1") + &row(2, "1, 2, 3");
    assert!(parse(&text).unwrap_err().to_string().contains("an id stands for a block and"));
    let options = ReadOptions { naming: Naming::Content, ..ReadOptions::default() };
    let trace = file::parse(Path::new("t"), text.as_bytes(), &options).unwrap();
    assert_eq!((common(&trace, 0, 1), common(&trace, 0, 2)), (0, 64));
}

#[test]
fn a_column_that_no_row_has_is_refused() {
    let rows =
        "{\"ts\": 1, \"in\": 2, \"out\": 3, \"user\": \"a\"}\n{\"ts\": 2, \"in\": 2, \"out\": 3}\n";
    let unit = Some(TimeUnit::S);
    let error = by("time=ts,prompt=in,output=out,session=user_id", unit, rows).unwrap_err();
    let error = error.to_string();
    assert!(error.contains("no row has column \"user_id\": the columns are"), "{error}");
    assert!(error.contains("user"), "{error}");
    // One that some rows have is one.
    by("time=ts,prompt=in,output=out,session=user", unit, rows).unwrap();
    // Rows that were not read may have it.
    let columns = "time=ts,prompt=in,output=out,session=user_id".parse().unwrap();
    let options = ReadOptions {
        columns: Some(columns),
        time_unit: unit,
        limit: Some(1),
        ..ReadOptions::default()
    };
    let trace = file::parse(Path::new("log"), rows.as_bytes(), &options).unwrap();
    assert!(trace.found().notices[0].contains("no row has column \"user_id\""));
    let alike = "{\"ts\": 1, \"in\": 2, \"out\": 3, \"User\": \"a\", \"USER\": \"b\"}\n";
    let error = by("time=ts,prompt=in,output=out,session=user", unit, alike).unwrap_err();
    assert!(error.to_string().contains("write it as the file does"), "{error}");
}

#[test]
fn ends_are_moments_after_times() {
    let columns = "time=ts,prompt=in,output=out,end=e,session=s";
    let log = |rows: &str| by(columns, Some(TimeUnit::S), &format!("ts,in,out,e,s\n{rows}"));
    let error = log("10,1,1,2026-11-16 12:00:00,a\n").unwrap_err().to_string();
    assert!(error.contains("a number, as column \"ts\" has"), "{error}");
    let error = log("10,1,1,2.5,a\n").unwrap_err().to_string();
    assert!(error.contains("not how long the answer took"), "{error}");
    assert!(log("10,1,1,1e30,a\n").is_err());
    // The second turn has no end: the third comes at its own time, not so long after the
    // end of the first.
    let trace = log("10,1,1,11,a\n20,1,1,,a\n30,1,1,31,a\n").unwrap();
    let delays: Vec<f64> = trace.rows().iter().map(|row| row.delay.as_secs()).collect();
    assert_eq!(delays, [0.0, 9.0, 0.0]);
    assert_eq!(trace.rows()[2].at.as_secs(), 20.0);
}

#[test]
fn sums_of_columns_are_bounded() {
    let text = "ts,a,b,c,d,e,out\n1,1000000000,1000000000,1000000000,1000000000,1000000000,1\n";
    let error = by("time=ts,prompt=a+b+c+d+e,output=out", Some(TimeUnit::S), text).unwrap_err();
    assert!(error.to_string().contains("5000000000"), "{error}");
}

#[test]
fn texts_of_ids_are_never_one_number() {
    let row = |at: u32, id: &str| {
        format!(
            "{{\"timestamp\": {at}, \"input_length\": 512, \"output_length\": 2, \"hash_ids\": [\"{id}\"]}}\n"
        )
    };
    let trace = parse(&(row(0, "a") + &row(1, "10") + &row(2, "a"))).unwrap();
    assert_eq!((common(&trace, 0, 1), common(&trace, 0, 2)), (0, 32));
}

#[test]
fn rows_are_counted_as_they_are_read() {
    let place = place::RowPlace { path: Path::new("log"), line: 7 };
    let most = build::MOST_ROWS;
    assert_eq!(build::row_count(&place, most as usize - 1).unwrap(), most - 1);
    let error = build::row_count(&place, most as usize).unwrap_err().to_string();
    assert!(error.contains("read a part of them"), "{error}");
}

#[test]
fn formats_are_called_as_settings_write_them() {
    let options = ReadOptions {
        format: Some(TraceFormat::MooncakeDelta),
        columns: Some("time=ts,prompt=in,output=out".parse().unwrap()),
        ..ReadOptions::default()
    };
    let error = file::parse(Path::new("log"), &b"ts,in,out\n"[..], &options).unwrap_err();
    assert!(error.to_string().contains("mooncake_delta"), "{error}");
}

#[test]
fn lines_are_those_of_the_file() {
    for text in [
        "ts,in,out\r\n1,1,1\r\n\r\n\r\nx,1,1\r\n",
        "ts,in,out\n1,1,1\n\n\nx,1,1\n",
        "\n\nts,in,out\n1,1,1\nx,1,1\n",
    ] {
        let error = by("time=ts,prompt=in,output=out", Some(TimeUnit::S), text).unwrap_err();
        assert!(error.to_string().starts_with("log:5: ts = x: "), "{error}");
    }
    // Pieces of the text that are behind the reader are not kept.
    let rows: String = (0..40_000).map(|at| format!("{at},1,1\r\n")).collect();
    let text = format!("ts,in,out\r\n{rows}\r\n1,1\r\n");
    let error = by("time=ts,prompt=in,output=out", Some(TimeUnit::S), &text).unwrap_err();
    assert_eq!(error.to_string(), "log:40003: 2 values in 3 columns");
}

#[test]
fn columns_that_contradict_each_other() {
    let refused = |columns: &str, text: &str| by(columns, None, text).unwrap_err().to_string();
    let twice = refused("time=ts,prompt=in,output=out", "ts,in,in,out\n1,2,3,4\n");
    assert!(twice.contains("there are two columns \"in\""), "{twice}");
    let same = refused("time=ts,prompt=a+p,output=p", "ts,p,a\n1,2,3\n");
    assert!(same.contains("output = \"p\": must be another column than prompt"), "{same}");
    let end = refused("time=ts,prompt=in,output=out,end=e", "ts,in,out,e\n1,2,3,4\n");
    assert!(end.contains("end = \"e\": must be given beside session"), "{end}");
    let text = "ts,in,out\n2026-11-16 12:00:00,1,1\n2026-11-16T12:00:05Z,1,1\n";
    let zones = refused("time=ts,prompt=in,output=out", text);
    let wanted = "log:3: ts = 2026-11-16T12:00:05Z: must be dates that all name a zone, or that \
                  all name none";
    assert_eq!(zones, wanted);
    let large = by("time=ts,prompt=in,output=out", Some(TimeUnit::S), "ts,in,out\n1e29,1,1\n");
    let large = large.unwrap_err().to_string();
    assert!(large.starts_with("log:2: ts = 1") && large.contains("it counts seconds"), "{large}");
    let nan = by("time=ts,prompt=in,output=out", Some(TimeUnit::S), "ts,in,out\nnan,1,1\n");
    assert!(nan.unwrap_err().to_string().ends_with("it is empty, null or NaN"));
}

#[test]
fn what_a_log_leaves_open_is_said() {
    let said = |columns: &str, text: &str| by(columns, None, text).unwrap().found().notices.clone();
    let text = "ts,in,out,conversation_id\n2026-11-16 12:00:00,1,1,a\n2026-11-16 12:00:05,1,1,a\n";
    let notices = said("time=ts,prompt=in,output=out", text);
    assert!(notices[0].contains("its dates name no zone: read as UTC"), "{notices:?}");
    assert!(notices[1].contains("column \"conversation_id\" is not read"), "{notices:?}");
    assert_eq!(notices.len(), 2);
    assert_eq!(said("time=ts,prompt=in,output=out,session=conversation_id", text).len(), 1);
}

#[test]
fn rows_that_are_there_twice_are_counted() {
    let row = |at: u32, session: &str| {
        format!(
            "{{\"timestamp\": {at}, \"input_length\": 9, \"output_length\": 2, \
             \"session_id\": \"{session}\"}}\n"
        )
    };
    let notices = |rows: &[String]| parse(&rows.concat()).unwrap().found().notices.clone();
    let all = [row(0, "a"), row(500, "b"), row(500, "b"), row(2_000, "c"), row(2_000, "c")];
    let said = notices(&all);
    let wanted = "2 rows are like another in time, session, lengths and ids: each is replayed";
    assert!(said.iter().any(|notice| notice.contains(wanted)), "{said:?}");
    assert!(notices(&[row(0, "a"), row(500, "b"), row(500, "c"), row(2_000, "d")]).is_empty());
}

#[test]
fn milliseconds_that_make_an_odd_load_are_said() {
    let rows = |times: &[u32]| -> String {
        let row =
            |at| format!("{{\"timestamp\": {at}, \"input_length\": 9, \"output_length\": 2}}\n");
        times.iter().map(row).collect()
    };
    let notices = |times: &[u32], unit| {
        let options = ReadOptions { time_unit: unit, ..ReadOptions::default() };
        let trace = file::parse(Path::new("t"), rows(times).as_bytes(), &options).unwrap();
        trace.found().notices.clone()
    };
    let wanted = "t: its times are read as milliseconds: 4 requests in 0.003 s, 1333 a second \
                  (time_unit says what they count)";
    assert_eq!(notices(&[0, 1, 2, 3], None), [wanted]);
    assert!(notices(&[0, 1, 2, 3], Some(TimeUnit::Ms)).is_empty());
    assert!(notices(&[0, 500, 1_500], None).is_empty());
    assert!(notices(&[0, 0], None).is_empty());
}
