mod columns;
mod conventions;
mod fit;
mod formats;
mod graphs;
mod texts;
mod tools;

use super::*;
use crate::id::RequestId;
use crate::request::Request;
use crate::workload::{Arrival, Workload};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const FIXTURE: &str = include_str!("../../../traces/fixtures/mooncake-small.jsonl");

fn read(text: &[u8], block_tokens: u32, limit: Option<u32>) -> Result<Trace, TraceError> {
    let options = ReadOptions { block_tokens, limit, ..ReadOptions::default() };
    file::parse(Path::new("t.jsonl"), text, &options)
}

fn parse(text: &str) -> Result<Trace, TraceError> {
    read(text.as_bytes(), 512, None)
}

fn replay(trace: &Trace, block_size: u32, speedup: f64) -> Vec<Arrival> {
    let mut replay = TraceReplay::new(Arc::new(trace.clone()), block_size, speedup);
    let mut arrivals = Vec::new();
    while let Some(at) = replay.next_arrival() {
        arrivals.push(replay.take());
        assert_eq!(arrivals[arrivals.len() - 1].at, at);
    }
    arrivals
}

#[test]
fn fixture_in_numbers() {
    let trace = parse(FIXTURE).unwrap();
    let expected = TraceStats {
        rows: 6,
        duration_s: 9.0,
        sessions: 6,
        requests_per_s: Some(6.0 / 9.0),
        input_tokens: Lengths { mean: 6_404.0 / 6.0, min: 20, max: 2_048 },
        output_tokens: Lengths { mean: 200.0 / 6.0, min: 1, max: 100 },
        block_tokens: 512,
        unique_blocks: 7,
        shared_blocks: 4,
        requests_per_shared_block: Some(13.0 / 4.0),
        requests_of_top_block: 5,
        prefix_tokens_mean: 5_784.0 / 6.0,
        references_blocks: 16,
        repeats_blocks: 9,
        hit_ratio: 9.0 / 16.0,
        hit_ratio_request_mean: (0.0 + 1.0 + 1.0 / 2.0 + 2.0 / 3.0 + 3.0 / 4.0 + 0.0) / 6.0,
    };
    assert_eq!(TraceStats::of(&trace), expected);

    let arrivals = replay(&trace, 64, 1.0);
    let runs = |row: usize| -> Vec<(u64, u32)> {
        let request = &arrivals[row].request;
        let blocks = request.prompt_tokens / 64;
        request.content.runs(blocks).map(|run| (run.first.0, run.len)).collect()
    };
    assert_eq!(runs(0), [(0, 17)], "1,100 tokens are 17 blocks of 64 and a tail");
    assert_eq!(runs(2), [(0, 8), (24, 1)]);
    assert_eq!(runs(4), [(0, 16), (32, 16)]);
    assert_eq!(runs(5), []);
    assert_eq!(arrivals[0].request.content.shared_blocks(), 17);
    assert_eq!(arrivals[4].request.max_tokens, 2);
}

#[test]
fn speedup_truncates_to_whole_milliseconds_in_file_order() {
    let arrivals = replay(&parse(FIXTURE).unwrap(), 512, 4.0);
    let ms: Vec<f64> = arrivals.iter().map(|arrival| arrival.at.as_millis()).collect();
    assert_eq!(ms, [0.0, 0.0, 0.0, 750.0, 750.0, 2_250.0]);
    let outputs: Vec<u32> = arrivals.iter().map(|arrival| arrival.request.output_tokens).collect();
    assert_eq!(outputs, [40, 7, 1, 100, 2, 50]);
}

#[test]
fn limit_stops_before_later_rows() {
    let text = format!("\n{}\r\n\nnonsense", FIXTURE.lines().next().unwrap());
    let read = |limit| read(text.as_bytes(), 512, limit);
    assert_eq!(read(Some(1)).unwrap().rows().len(), 1);
    assert!(read(Some(2)).unwrap_err().to_string().starts_with("t.jsonl:4: not a JSON object"));
}

#[test]
fn every_broken_row_is_named() {
    let good = r#"{"timestamp": 5, "input_length": 600, "output_length": 1, "hash_ids": [0, 1]}"#;
    let mut seen = String::new();
    for bad in [
        "{\"timestamp\": 5",
        "[1, 2]",
        r#"{"timestamp": 5, "input_length": 600, "hash_ids": [0, 1]}"#,
        r#"{"timestamp": 5, "input_length": 600, "output_length": 1, "hash_ids": [0, 1], "x": 1}"#,
        r#"{"timestamp": 5, "timestamp": 5, "input_length": 600, "output_length": 1, "hash_ids": []}"#,
        r#"{"timestamp": -5, "input_length": 600, "output_length": 1, "hash_ids": [0, 1]}"#,
        r#"{"timestamp": 4, "input_length": 600, "output_length": 1, "hash_ids": [0, 1]}"#,
        r#"{"timestamp": 8640000006, "input_length": 600, "output_length": 1, "hash_ids": [0, 1]}"#,
        r#"{"timestamp": 5, "input_length": 0, "output_length": 1, "hash_ids": []}"#,
        r#"{"timestamp": 5, "input_length": 6.5, "output_length": 1, "hash_ids": [0]}"#,
        r#"{"timestamp": 5, "input_length": 600, "output_length": 0, "hash_ids": [0, 1]}"#,
        r#"{"timestamp": 5, "input_length": 600, "output_length": 5000000000, "hash_ids": [0, 1]}"#,
        r#"{"timestamp": 5, "input_length": 600, "output_length": 1, "hash_ids": [0, 1, 2]}"#,
        r#"{"timestamp": 5, "input_length": 600, "output_length": 1, "hash_ids": 0}"#,
        r#"{"timestamp": 5, "input_length": 600, "output_length": 1, "hash_ids": [0, 1.5]}"#,
        r#"{"timestamp": 5, "input_length": 600, "output_length": 1, "hash_ids": [1, 0]}"#,
        r#"{"timestamp": 5, "input_length": 601, "output_length": 1, "hash_ids": [0, 1]}"#,
    ] {
        writeln!(seen, "{}", parse(&format!("{good}\n{bad}")).unwrap_err()).unwrap();
    }
    writeln!(seen, "{}", parse(" \n").unwrap_err()).unwrap();
    insta::assert_snapshot!(seen);
}

#[test]
fn settings_that_cannot_be_used_are_refused() {
    let refused = |toml: &str| {
        toml::from_str::<TraceSettings>(toml).unwrap().validate().unwrap_err().to_string()
    };
    let mut seen = String::new();
    for toml in [
        "",
        "trace = 'mooncake-conversation'\npath = 'x.jsonl'",
        "trace = 'mooncake-conversations'",
        "path = 'x.jsonl'\nspeedup = 0",
        "path = 'x.csv'\nformat = 'azure'\ncolumns = { time = 'a', prompt = 'b', output = 'c' }",
        "path = 'x.csv'\ncolumns = { time = '', prompt = 'b', output = 'c' }",
        "path = 'x.jsonl'\nspeedup = inf",
        "path = 'x.jsonl'\nlimit = 0",
        "path = 'x.jsonl'\ntrace_block_tokens = 5000",
        "path = 'x.jsonl'\nstart = '20s'\nend = '20s'",
        "path = 'x.jsonl'\nconcurrency = 0",
        "path = 'x.jsonl'\nconcurrency = 3\narrivals = { kind = 'poisson', rate = 1 }",
    ] {
        writeln!(seen, "{}", refused(toml)).unwrap();
    }
    insta::assert_snapshot!(seen);
}

#[test]
fn a_missing_public_trace_says_what_to_download() {
    let settings: TraceSettings = toml::from_str("trace = 'mooncake-arxiv-first1000'").unwrap();
    let folders = [PathBuf::from("no/such/folder"), PathBuf::from("nor/this")];
    let error = settings.load(Path::new("."), &folders).unwrap_err();
    insta::assert_snapshot!(error.to_string());
}

#[test]
fn a_slow_replay_must_end_while_the_clock_is_trusted() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("t.jsonl"), FIXTURE).unwrap();
    let load = |speedup: f64| {
        let toml = format!("path = 't.jsonl'\nspeedup = {speedup:?}");
        let settings = toml::from_str::<TraceSettings>(&toml).unwrap();
        settings.validate_for(&settings.load(folder.path(), &[]).unwrap())
    };
    assert_eq!(load(0.001), Ok(()));
    assert_eq!(load(1e-7).unwrap_err().key, "speedup");
}

#[test]
fn another_file_is_not_the_public_trace() {
    let folder = tempfile::tempdir().unwrap();
    let trace = PublicTrace::named("mooncake-conversation").unwrap();
    std::fs::write(folder.path().join(&trace.file), FIXTURE).unwrap();
    let path = trace.find(&[folder.path().to_owned()]).unwrap();
    assert!(matches!(trace.verify(&path), Err(TraceError::Other { .. })));
    let without: &PublicTrace =
        Box::leak(Box::new(PublicTrace { sha256: None, rows: 7, ..trace.clone() }));
    let rows = FIXTURE.lines().count();
    let message = without.verify(&path).unwrap_err().to_string();
    let expected = format!("it has {rows} rows, not 7: download ");
    assert!(message.contains(&expected), "{message}");
}

/// The published traces, if they are on this machine.
#[test]
fn public_traces_have_the_known_facts() {
    let Some(folder) = std::env::var_os("SIM_TRACES") else {
        eprintln!("skipped: SIM_TRACES does not name a folder with the public traces");
        return;
    };
    let folders = [PathBuf::from(folder)];
    let stats = |name: &str| {
        let public = PublicTrace::named(name).unwrap();
        let path = public.find(&folders).unwrap();
        public.verify(&path).unwrap();
        let stats = TraceStats::of(&Trace::read(&path, &ReadOptions::default()).unwrap());
        assert_eq!(stats.rows, u64::from(public.rows));
        let blocks = [stats.references_blocks, stats.repeats_blocks, stats.unique_blocks];
        assert_eq!(blocks[0], blocks[1] + blocks[2], "a reference is a first or a repeat");
        (blocks, stats)
    };
    let close = |got: f64, expected: f64| assert!((got - expected).abs() < 5e-5 * expected);

    let (blocks, all) = stats("mooncake-conversation");
    assert_eq!(blocks, [288_500, 105_710, 182_790]);
    assert_eq!(all.shared_blocks, 44_144);
    assert_eq!(
        (all.duration_s, all.input_tokens.min, all.input_tokens.max),
        (3_536.999, 891, 126_195)
    );
    assert_eq!((all.output_tokens.min, all.output_tokens.max), (1, 2_000));
    close(all.requests_per_s.unwrap(), 3.4015);
    close(all.input_tokens.mean, 12_035.06);
    close(all.output_tokens.mean, 342.62);
    close(all.hit_ratio, 0.366_412);
    assert!((all.hit_ratio_request_mean - 0.3843).abs() < 5e-5);

    let (blocks, arxiv) = stats("mooncake-arxiv-first1000");
    assert_eq!((blocks[0], blocks[2], arxiv.input_tokens.max), (19_686, 12_207, 121_290));
    close(arxiv.requests_per_s.unwrap(), 5.6466);
    close(arxiv.hit_ratio, 0.379_915);

    let (_, azure) = stats("azure-code-2023");
    assert_eq!(
        (azure.input_tokens.max, azure.output_tokens.min, azure.repeats_blocks),
        (7_437, 6, 0)
    );
    let (_, azure) = stats("azure-conversation-2023");
    close(azure.duration_s, 3_501.721);

    let (blocks, synthetic) = stats("mooncake-synthetic");
    assert_eq!((blocks[0], blocks[2], synthetic.duration_s), (121_877, 43_924, 1_022.025));
}

const SMALL_BLOCK: u32 = 8;

/// Rows that grow a random prefix tree: each takes some leading blocks of an
/// earlier row and goes on with new ones, the last of which may be partial.
fn rows() -> impl Strategy<Value = Vec<(Vec<u64>, u32)>> {
    let row = (any::<prop::sample::Index>(), 0..5usize, 1..5u64, 0..SMALL_BLOCK, any::<bool>());
    prop::collection::vec(row, 1..12).prop_map(|plan| {
        let mut rows: Vec<(Vec<u64>, u32)> = Vec::new();
        let mut next = 0;
        for (earlier, keep, new, missing, again) in plan {
            if let Some(row) = (again && !rows.is_empty()).then(|| earlier.get(&rows).clone()) {
                rows.push(row);
                continue;
            }
            let mut ids = Vec::new();
            if !rows.is_empty() {
                let (earlier, tokens) = earlier.get(&rows);
                let full = (tokens / SMALL_BLOCK) as usize;
                ids.extend_from_slice(&earlier[..keep.min(full)]);
            }
            // Gaps between ids, so that not every run merges.
            next += u64::from(missing % 2);
            ids.extend(next..next + new);
            next += new;
            let tokens = u32::try_from(ids.len()).unwrap() * SMALL_BLOCK - missing;
            rows.push((ids, tokens));
        }
        rows
    })
}

fn jsonl(rows: &[(Vec<u64>, u32)]) -> String {
    rows.iter().enumerate().fold(String::new(), |mut text, (i, (ids, input))| {
        writeln!(
            text,
            r#"{{"timestamp": {i}, "input_length": {input}, "output_length": 3, "hash_ids": {ids:?}}}"#
        )
        .unwrap();
        text
    })
}

proptest! {
    /// The meaning of block ids, against a model that knows every token.
    #[test]
    fn expansion_agrees_with_the_tokens(rows in rows(), shift in 0..4u32) {
        let block_size = 1u32 << shift;
        let text = jsonl(&rows);
        let trace = read(text.as_bytes(), SMALL_BLOCK, None).unwrap();
        let requests: Vec<Request> =
            replay(&trace, block_size, 1.0).into_iter().map(|arrival| arrival.request).collect();
        // A token of the whole engine blocks is (id, place); all others are private.
        let tokens = |row: usize| -> Vec<(u64, u64)> {
            let (ids, input) = &rows[row];
            let whole = input / block_size * block_size;
            (0..input + 3)
                .map(|i| match i < whole {
                    true => (ids[(i / SMALL_BLOCK) as usize], u64::from(i % SMALL_BLOCK)),
                    false => (u64::MAX - row as u64, u64::from(i)),
                })
                .collect()
        };
        for (i, a) in requests.iter().enumerate() {
            prop_assert_eq!(a.prompt_tokens, rows[i].1);
            for (j, b) in requests.iter().enumerate() {
                let (left, right) = (tokens(i), tokens(j));
                let common = left.iter().zip(&right).take_while(|(a, b)| a == b).count();
                let blocks = left.len().min(right.len()) / block_size as usize;
                for block in 0..blocks {
                    let index = u32::try_from(block).unwrap();
                    let equal = (block + 1) * block_size as usize <= common;
                    prop_assert_eq!(a.content.block(index) == b.content.block(index), equal);
                }
            }
        }
    }

    #[test]
    fn statistics_agree_with_a_naive_count(rows in rows()) {
        let trace = read(jsonl(&rows).as_bytes(), SMALL_BLOCK, None);
        let stats = TraceStats::of(&trace.unwrap());
        let mut uses = BTreeMap::<u64, u64>::new();
        for (ids, _) in &rows {
            ids.iter().for_each(|&id| *uses.entry(id).or_default() += 1);
        }
        prop_assert_eq!(stats.unique_blocks, uses.len() as u64);
        prop_assert_eq!(stats.shared_blocks, uses.values().filter(|n| **n > 1).count() as u64);
        prop_assert_eq!(stats.references_blocks, uses.values().sum::<u64>());
        prop_assert_eq!(stats.repeats_blocks, uses.values().map(|n| n - 1).sum::<u64>());
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "[\\[{}\",:a-z0-9.\n -]{0,60}", bytes: Vec<u8>) {
        prop_assert!(parse(&text).is_err());
        let _ = read(&bytes, 512, None);
    }
}
