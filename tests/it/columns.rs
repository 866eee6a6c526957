//! Results whose points are columns have the numbers of those in JSON.

use super::program::{EXPERIMENT, Scratch, text};
use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, UInt64Type};
use arrow_array::{Array, RecordBatch};
use kv_router_sim::experiment::{Experiment, LoadOptions};
use kv_router_sim::results::{
    ReadError, ResultFolder, Results, RunInto, SEEDS_COLUMNS, SUMMARY_COLUMNS, read_columns,
    run_into,
};
use std::path::Path;

/// The value in a column of numbers; `None` where it has none.
fn number(batch: &RecordBatch, column: &str, row: usize) -> Option<u64> {
    let column = batch.column_by_name(column).expect(column).as_primitive::<Float64Type>();
    column.is_valid(row).then(|| column.value(row).to_bits())
}

#[test]
fn columns_have_the_numbers_of_json_to_the_last_bit() {
    let place = Scratch::new();
    let options = LoadOptions::default().set("measure.seeds=[3, 1]");
    let experiment = Experiment::parse(Path::new("small.toml"), EXPERIMENT, &options).unwrap();
    let run = |name: &str, options: RunInto<'_>| {
        let folder = ResultFolder::create(&place.path().join(name), &experiment).expect("new");
        run_into(folder, &experiment, &options.without_figures()).expect("it runs")
    };
    let json = run("json", RunInto::new("small.toml", Vec::new()));
    assert!(json.in_columns.is_none());
    let columns = run("columns", RunInto::new("small.toml", Vec::new()).in_columns());
    let points = &json.results.summary.points;
    assert!(points.len() > 3);
    assert_eq!(columns.in_columns.expect("columns").points, points.len());
    assert_eq!(columns.results.summary.provenance, json.results.summary.provenance);
    assert_eq!(columns.results.runs, json.results.runs);

    let folder = place.path().join("columns");
    for gone in ["journal.jsonl", "summary.csv"] {
        assert!(!folder.join(gone).exists(), "{gone}");
    }
    let [rows] = &read_columns(&folder.join(SUMMARY_COLUMNS), |_| true).expect("read")[..] else {
        panic!("few points are one batch");
    };
    let [by_seed] = &read_columns(&folder.join(SEEDS_COLUMNS), |_| true).expect("read")[..] else {
        panic!("few points are one batch");
    };
    assert_eq!((rows.num_rows(), by_seed.num_rows()), (points.len(), 2 * points.len()));
    let seeds = by_seed.column_by_name("seed").expect("seeds").as_primitive::<UInt64Type>();
    assert_eq!(seeds.values()[..4], [3, 1, 3, 1]);
    let bits = |value: Option<f64>| value.map(f64::to_bits);
    for (row, point) in points.iter().enumerate() {
        let policies = rows.column_by_name("router.policy").expect("policies").as_string::<i32>();
        assert_eq!(Some(policies.value(row)), point.params["router.policy"].as_str());
        for (name, metric) in &point.metrics {
            assert_eq!(number(rows, name, row), bits(metric.mean), "{name}");
            let bound = |end: usize| bits(metric.ci95.map(|bounds| bounds[end]));
            assert_eq!(number(rows, &format!("{name}_ci95_low"), row), bound(0), "{name}");
            assert_eq!(number(rows, &format!("{name}_ci95_high"), row), bound(1), "{name}");
            for (at, value) in metric.per_seed.iter().enumerate() {
                assert_eq!(number(by_seed, name, 2 * row + at), bits(*value), "{name}");
            }
        }
    }
    // Only what is wanted is there.
    let means = read_columns(&folder.join(SUMMARY_COLUMNS), |name| name == "hit_ratio").unwrap();
    assert_eq!(means[0].num_columns(), 1);

    let refused = Results::load(&folder).expect_err("no points in JSON");
    assert!(matches!(&refused, ReadError::Columns { points: n, .. } if *n == points.len()));
    let (read, _) = Results::load_in_columns(&folder).expect("the rest of them");
    assert_eq!(read.summary.provenance, json.results.summary.provenance);
}

#[test]
fn parts_merge_into_the_columns_of_one_machine() {
    let place = Scratch::new();
    let sweep = |more: &[&str]| {
        let axis = "router.temperature=0,0.1,0.5";
        let args = [&["sweep", "small.toml", "--seeds", "2", "--over", axis], more].concat();
        let output = place.sim(&args);
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout).to_owned()
    };
    let json = sweep(&["--out", "json"]);
    let whole = sweep(&["--out", "whole", "--columns"]);
    let digest = |printed: &str| printed.lines().last().expect("a digest").to_owned();
    assert_eq!(digest(&whole), digest(&json));
    assert!(whole.contains(" points, 2 seeds, in columns"), "{whole}");
    assert!(whole.contains("Best mean of ttft_ms_p95: "), "{whole}");
    sweep(&["--out", "part-1", "--shard", "1/2"]);
    sweep(&["--out", "part-2", "--shard", "2/2"]);
    let merged = place.sim(&["merge", "part-1", "part-2", "--out", "merged", "--columns"]);
    assert!(merged.status.success(), "{}", text(&merged.stderr));
    assert_eq!(text(&merged.stdout), whole);
    let files = |folder: &str| {
        let below = |(name, bytes): (String, Vec<u8>)| {
            let name = name.strip_prefix(folder).filter(|name| !name.is_empty())?;
            Some((name.to_owned(), bytes))
        };
        place.files().into_iter().filter_map(below).collect::<Vec<_>>()
    };
    assert!(files("merged/") == files("whole/"));
    let names: Vec<String> = files("whole/").into_iter().map(|(name, _)| name).collect();
    assert_eq!(
        names,
        ["details.json", "runs.json", "seeds.arrow", "summary.arrow", "summary.json"]
    );

    let refused = place.sim(&["report", "whole"]);
    assert_eq!(refused.status.code(), Some(2));
    let said = text(&refused.stderr);
    assert!(said.contains("points are columns, in summary.arrow"), "{said}");
    // The same once more, and the same as JSON.
    assert_eq!(sweep(&["--out", "whole", "--columns"]), whole);
    assert_eq!(sweep(&["--out", "whole"]), json);
}
