//! Whole runs, from settings in memory to metrics.

use criterion::{Criterion, Throughput};
use kv_router_sim::experiment::{self, Experiment, LoadOptions, RunOptions};
use kv_router_sim::rng::mix;
use kv_router_sim::workload::trace::{ReadOptions, Trace};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Rows of the Mooncake conversation trace.
const ROWS: usize = 12_031;
/// Milliseconds between them on average.
const GAP_MS: usize = 294;

pub(crate) fn benches(c: &mut Criterion) {
    let mut group = c.benchmark_group("run");
    group.sample_size(10);

    let doks = load(
        "experiments/doks-3xh200.toml",
        include_str!("../../experiments/doks-3xh200.toml"),
        &["measure.seeds=1"],
    );
    group.bench_function("doks, one of six seeds", |b| b.iter(|| run(&doks)));

    let grid = load(
        "benches/grid-441.toml",
        include_str!("../grid-441.toml"),
        &[
            "sweep.router.overlap_weight=[0.0, 1.0, 2.0]",
            "sweep.router.temperature=[0.0, 0.5, 1.0]",
        ],
    );
    group.bench_function("grid, 9 of 441 points", |b| b.iter(|| run(&grid)));

    for policy in ["round_robin", "kv"] {
        let scale = load(
            "benches/scale-1000w.toml",
            include_str!("../scale-1000w.toml"),
            &[
                &format!("router.policy={policy}"),
                "cluster.workers=64",
                "workload.concurrency=1280",
                "measure.window=40s",
            ],
        );
        group.bench_function(format!("64 workers for 40 s, {policy}"), |b| b.iter(|| run(&scale)));
    }

    let one_worker = load(
        "benches/lab-one-worker.toml",
        include_str!("../lab-one-worker.toml"),
        &["workload.count=10000"],
    );
    group.throughput(Throughput::Elements(10_000));
    group.bench_function("one worker, 512 + 512", |b| b.iter(|| run(&one_worker)));

    let folder = tempfile::tempdir().expect("a temporary folder");
    let trace = conversation_trace(folder.path());
    let text = include_str!("../peer-conversation-8w.toml")
        .replace("trace = \"mooncake-conversation\"", &format!("path = {:?}", trace.display()));
    group.throughput(Throughput::Elements(ROWS as u64));
    group.bench_function("read the conversation trace", |b| {
        b.iter(|| Trace::read(&trace, &ReadOptions::default()).expect("a trace"));
    });
    for policy in ["round_robin", "kv"] {
        let peer =
            load("benches/peer-conversation-8w.toml", &text, &[&format!("router.policy={policy}")]);
        group.bench_function(format!("conversation trace, {policy}"), |b| b.iter(|| run(&peer)));
    }
    group.finish();
}

fn load(file: &str, text: &str, overrides: &[&str]) -> Experiment {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let overrides = overrides.iter().copied();
    Experiment::parse(&file, text, &LoadOptions::default().set_all(overrides)).expect("valid")
}

fn run(experiment: &Experiment) -> experiment::results::Summary {
    let options = RunOptions::default().jobs(1);
    experiment::run(experiment, options).expect("a run that ends").summary
}

/// The public trace, or else one of its size, so that the bench runs anywhere.
fn conversation_trace(folder: &Path) -> PathBuf {
    let public = std::env::var_os("SIM_TRACES")
        .map(|traces| PathBuf::from(traces).join("conversation_trace.jsonl"))
        .filter(|path| path.is_file());
    if let Some(path) = public {
        return path;
    }
    let _ = writeln!(
        std::io::stderr(),
        "no conversation_trace.jsonl in SIM_TRACES: a made-up trace of its size instead"
    );
    let path = folder.join("trace.jsonl");
    std::fs::write(&path, made_up_trace()).expect("written");
    path
}

/// As many rows as the public trace, about as long (23 ids of 512 tokens and 343
/// output tokens on average), every third going on from an earlier one.
fn made_up_trace() -> String {
    let mut text = String::new();
    let mut prompts: Vec<Vec<u64>> = Vec::new();
    let mut next_id = 0;
    for row in 0..ROWS {
        let draw = mix(row as u64);
        let earlier = if draw.is_multiple_of(3) { row.checked_sub(1 + row % 500) } else { None };
        let mut ids = earlier.map_or_else(Vec::new, |earlier| prompts[earlier].clone());
        let new = 1 + mix(draw) % 32;
        ids.extend(next_id..next_id + new);
        next_id += new;
        let (ms, tokens, output) = (row * GAP_MS, 512 * ids.len(), 1 + mix(draw ^ 1) % 686);
        let _ = writeln!(
            text,
            "{{\"timestamp\": {ms}, \"input_length\": {tokens}, \"output_length\": {output}, \
             \"hash_ids\": {ids:?}}}"
        );
        prompts.push(ids);
    }
    text
}
