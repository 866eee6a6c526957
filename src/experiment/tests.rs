//! Experiments that cannot be run, with their messages; experiments that can.

use super::*;
use proptest::prelude::*;
use std::path::Path;

pub(super) const GOOD: &str = r#"name = "demo"

[cluster]
workers = 3

[engine]
rules = "vllm"
block_size = 32
num_blocks = "1k"
max_num_seqs = 64
max_num_batched_tokens = "8k"
step_time = { kind = "fixed", prefill = "20ms", decode = "10ms" }

[router]
policy = "kv"
temperature = 0.0

[router.feed]
delay = "12ms"

[workload]
kind = "conversations"
concurrency = 60
starters = 10
starter_tokens = { kind = "constant", value = 3_000 }
turns = { min = 3, max = 5 }
question_tokens = { kind = "constant", value = 50 }
output_tokens = { kind = "constant", value = 800 }

[measure]
warmup = "60s"
window = "300s"
seeds = 2
quantiles = "snapshots"
snapshot_every = "100s"
trailing = "60s"
levels = "in_sequence"

[sweep]
"engine.max_num_seqs" = [32, 64]
"workload.concurrency" = [60, 80]

[published]
file = "demo.csv"
"#;

fn parse(text: &str, overrides: &[&str]) -> Result<Experiment, ExperimentError> {
    let overrides = overrides.iter().map(|&argument| argument.to_owned()).collect();
    Experiment::parse(
        Path::new("demo.toml"),
        text,
        &LoadOptions { overrides, ..LoadOptions::default() },
    )
}

fn refused(text: &str) -> String {
    match parse(text, &[]) {
        Ok(_) => panic!("accepted: {text}"),
        Err(error) => error.to_string(),
    }
}

/// The message for the good experiment with one line of it replaced.
fn changed(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from}");
    refused(&GOOD.replacen(from, to, 1))
}

/// One message per change, as lines.
fn messages(changes: &[(&str, &str)]) -> String {
    let lines: Vec<String> = changes.iter().map(|(from, to)| changed(from, to)).collect();
    for line in &lines {
        assert!(!line.contains('\n'), "one line: {line}");
    }
    lines.join("\n")
}

#[test]
fn the_good_experiment_is_good() {
    let experiment = parse(GOOD, &[]).expect("valid");
    assert_eq!(experiment.seeds, [1, 2]);
    let params: Vec<String> =
        experiment.points.iter().map(|p| serde_json::json!(p).to_string()).collect();
    insta::assert_snapshot!(params.join("\n"), @r#"
    {"engine.max_num_seqs":32,"router.policy":"kv","workload.concurrency":60}
    {"engine.max_num_seqs":32,"router.policy":"kv","workload.concurrency":80}
    {"engine.max_num_seqs":64,"router.policy":"kv","workload.concurrency":60}
    {"engine.max_num_seqs":64,"router.policy":"kv","workload.concurrency":80}
    "#);
    let levels: Vec<_> =
        experiment.runs.iter().map(|run| (&run.levels[..], &run.points[..])).collect();
    assert_eq!(levels, [(&[60, 80][..], &[0, 1][..]), (&[60, 80], &[2, 3])]);
}

#[test]
fn syntax() {
    insta::assert_snapshot!(messages(&[
        ("workers = 3", "workers = "),
        ("workers = 3", "workers = 3\nworkers = 4"),
        ("[router]", "[cluster]"),
        ("[router]", "[router"),
        ("workers = 3", "workers = 99999999999999999999"),
        ("\"demo\"", "\"demo"),
        ("workers = 3", "workers = \u{0}"),
    ]), @r#"
    demo.toml:4: not valid TOML: string values must be quoted, expected literal string
    demo.toml:5: not valid TOML: duplicate key workers
    demo.toml:14: not valid TOML: duplicate key cluster
    demo.toml:14: not valid TOML: unclosed table, expected `]`
    demo.toml:4: not valid TOML: whole numbers lie between -9223372036854775808 and 9223372036854775807
    demo.toml:1: not valid TOML: invalid basic string, expected `"`
    demo.toml:4: not valid TOML: string values must be quoted, expected literal string
    "#);
}

#[test]
fn unknown_and_missing_keys() {
    insta::assert_snapshot!(messages(&[
        ("name = \"demo\"\n", ""),
        ("[sweep]", "[sweeep]"),
        ("[published]", "[plots]"),
        ("[published]", "[slo]\ntftf = \"1s\"\n[published]"),
        ("workers = 3", "worker = 3"),
        ("workers = 3", ""),
        ("delay =", "dealy ="),
        ("[published]", "[slo]\nsomething = \"1s\"\n[published]"),
        ("concurrency = 60", "concurency = 60"),
        ("min = 3, max", "mn = 3, max"),
        ("min = 3, ", ""),
        ("kind = \"conversations\"\n", ""),
        ("policy = \"kv\"\ntemperature", "temperature"),
        ("window = \"300s\"\n", ""),
        ("quantiles = \"snapshots\"\nsnapshot_every = \"100s\"\ntrailing = \"60s\"\n", "quantiles = \"snapshots\"\n"),
    ]), @r#"
    demo.toml: name is missing
    demo.toml:39: unknown key sweeep; did you mean sweep?
    demo.toml:43: unknown key plots; the keys here are name, description, cluster, engine, router, workload, measure, sweep, slo, control, published, extends
    demo.toml:44: unknown key slo.tftf; did you mean ttft?
    demo.toml:4: unknown key cluster.worker; did you mean workers?
    demo.toml:3: cluster.workers is missing: must be given, or pools, each as [[cluster.pool]]
    demo.toml:19: unknown key router.feed.dealy; did you mean delay?
    demo.toml:44: unknown key slo.something; the keys here are ttft, itl, attainment
    demo.toml:23: unknown key workload.concurency; did you mean concurrency?
    demo.toml:26: unknown key workload.turns.mn; did you mean min?
    demo.toml:26: workload.turns.min is missing
    demo.toml:21: workload.kind is missing
    demo.toml:14: router.policy is missing
    demo.toml:30: measure.window is missing: must be given with quantiles = "snapshots"
    demo.toml:30: measure.snapshot_every is missing: must be given with quantiles = "snapshots"
    "#);
}

#[test]
fn bad_values() {
    insta::assert_snapshot!(messages(&[
        ("\"demo\"", "5"),
        ("\"demo\"", "\"../elsewhere\""),
        ("workers = 3", "workers = 0"),
        ("workers = 3", "workers = -3"),
        ("workers = 3", "workers = 1.5"),
        ("workers = 3", "workers = \"three\""),
        ("workers = 3", "workers = 4294967296"),
        ("num_blocks = \"1k\"", "num_blocks = \"1kB\""),
        ("temperature = 0.0", "temperature = nan"),
        ("temperature = 0.0", "temperature = -inf"),
        ("temperature = 0.0", "temperature = \"hot\""),
        ("delay = \"12ms\"", "delay = 12"),
        ("delay = \"12ms\"", "delay = \"12\""),
        ("delay = \"12ms\"", "delay = \"-12ms\""),
        ("kind = \"conversations\"", "kind = \"conversation\""),
        ("min = 3", "min = -3"),
        ("min = 3", "min = 6"),
        ("{ min = 3, max = 5 }", "5"),
        ("[router.feed]\ndelay = \"12ms\"", "feed = [1, 2]"),
    ]), @r#"
    demo.toml:1: name = 5: must be text in quotes
    demo.toml:1: name = "../elsewhere": must be 1 to 100 letters, digits, '-', '_' or '.', not starting with '.'
    demo.toml:4: cluster.workers = 0: must be from 1 to 100000
    demo.toml:4: cluster.workers = -3: -3 is not between 0 and 4294967295
    demo.toml:4: cluster.workers = 1.5: must be a count like 16384 or "16k", at most 4294967295
    demo.toml:4: cluster.workers = "three": "three" has an unknown unit: use k, Ki, M or Mi
    demo.toml:4: cluster.workers = 4294967296: 4294967296 is not between 0 and 4294967295
    demo.toml:9: engine.num_blocks = "1kB": "1kB" has an unknown unit: use k, Ki, M or Mi
    demo.toml:16: router.temperature = NaN: must be 0, or a number from 1e-9 to 1e12
    demo.toml:16: router.temperature = -inf: must be 0, or a number from 1e-9 to 1e12
    demo.toml:16: router.temperature = "hot": must be a number
    demo.toml:19: router.feed.delay = 12: must be a duration with its unit, like "300s", "12ms", "50us", "2min" or "1h"
    demo.toml:19: router.feed.delay = "12": "12" is not a duration with its unit, like "300s", "12ms", "50us", "2min" or "1h"
    demo.toml:19: router.feed.delay = "-12ms": "-12ms" is not a duration with its unit, like "300s", "12ms", "50us", "2min" or "1h", and not negative
    demo.toml:22: workload.kind = "conversation": must be one of "conversations", "requests", "prefix_ratio", "inference_perf", "sessions", "trace"; did you mean "conversations"?
    demo.toml:26: workload.turns.min = -3: must be a whole number from 0 to 4294967295
    demo.toml:26: workload.turns.min = 6: must be at least 1 and at most turns.max
    demo.toml:26: workload.turns = 5: must be a section with keys
    demo.toml:18: router.feed = [1, 2]: must be a duration with its unit, like "300s", "12ms", "50us", "2min" or "1h"
    "#);
}

#[test]
fn measuring() {
    insta::assert_snapshot!(messages(&[
        ("window = \"300s\"", "window = \"0s\""),
        ("window = \"300s\"", "window = \"90s\""),
        ("window = \"300s\"", "window = \"1300h\""),
        ("trailing = \"60s\"", "trailing = \"0s\""),
        ("trailing = \"60s\"", "trailing = \"161s\""),
        ("snapshot_every = \"100s\"", "snapshot_every = \"0ms\""),
        ("quantiles = \"snapshots\"", "quantiles = \"requests\""),
        ("quantiles = \"snapshots\"", "quantiles = \"snapshot\""),
        ("levels = \"in_sequence\"", "levels = \"parallel\""),
        ("seeds = 2", "seeds = 0"),
        ("seeds = 2", "seeds = -1"),
        ("seeds = 2", "seeds = 10001"),
        ("seeds = 2", "seeds = []"),
        ("seeds = 2", "seeds = [3, 4, 3]"),
        ("seeds = 2", "seeds = [3, -4]"),
        ("seeds = 2", "seeds = \"two\""),
        ("[sweep]", "[slo]\nttft = \"0s\"\n[sweep]"),
        ("[sweep]", "[slo]\n[sweep]"),
    ]), @r#"
    demo.toml:32: measure.window = "0s": must be longer than 0s
    demo.toml:35: measure.snapshot_every = "100s": must be longer than 0s and at most the window, "90s"
    demo.toml:32: measure.window = "1300h": must be so short that 2 levels of warmup and window last at most 100 days
    demo.toml:36: measure.trailing = "0s": must be longer than 0s and at most warmup + snapshot_every, "160s": the first snapshot must not reach back beyond the start of the level
    demo.toml:36: measure.trailing = "161s": must be longer than 0s and at most warmup + snapshot_every, "160s": the first snapshot must not reach back beyond the start of the level
    demo.toml:35: measure.snapshot_every = "0s": must be longer than 0s and at most the window, "5min"
    demo.toml:35: measure.snapshot_every = "100s": must be left out unless quantiles = "snapshots"
    demo.toml:34: measure.quantiles = "snapshot": must be one of "requests", "snapshots"; did you mean "snapshots"?
    demo.toml:37: measure.levels = "parallel": must be one of "independent", "in_sequence"
    demo.toml:33: measure.seeds = 0: must be a count from 1 to 10000 or a list of seeds like [1, 2, 3]
    demo.toml:33: measure.seeds = -1: must be a count from 1 to 10000 or a list of seeds like [1, 2, 3]
    demo.toml:33: measure.seeds = 10001: must be a count from 1 to 10000 or a list of seeds like [1, 2, 3]
    demo.toml:33: measure.seeds = []: must list at least one seed
    demo.toml:33: measure.seeds = [3, 4, 3]: seed 3 is listed twice
    demo.toml:33: measure.seeds[1] = -4: must be a whole number, not negative
    demo.toml:33: measure.seeds = "two": must be a count from 1 to 10000 or a list of seeds like [1, 2, 3]
    demo.toml:40: slo.ttft = "0s": must be longer than 0s
    demo.toml:39: slo.ttft is missing: must be given, or itl, or no [slo] section at all
    "#);
}

#[test]
fn sweeps() {
    let batches = "\"engine.max_num_seqs\" = [32, 64]";
    let levels = "\"workload.concurrency\" = [60, 80]";
    insta::assert_snapshot!(messages(&[
        (levels, "\"workload.concurrency\" = []"),
        (levels, "\"workload.concurrency\" = [60, 0]"),
        (levels, "\"workload.concurrency\" = [60, 60]"),
        (levels, "\"workload.concurrency\" = 60"),
        (levels, "\"workload.concurrency\" = { from = 60, to = 40, step = 5 }"),
        (levels, "\"workload.concurrency\" = { from = 1, to = 1_000_000_000, step = 1 }"),
        (levels, "workload.concurrency = { from = 60, to = 80 }"),
        (levels, "\"workload.concurency\" = [60, 80]"),
        (levels, "\"workload.turns.max\" = [2]"),
        (levels, "\"workload.turns.max.most\" = [2]"),
        (levels, "\"wrkload.concurrency\" = [60, 80]"),
        (levels, "\"measure.seeds\" = [1, 2]"),
        (levels, "name = [\"a\", \"b\"]"),
        (levels, "router = {}"),
        (levels, "engine.max_num_seqs = [8]"),
        (levels, "\"router\" = [{ policy = \"kv\" }]"),
        (batches, "\"measure.quantiles\" = [\"snapshots\", \"snapshot\"]"),
        (batches, "\"measure.snapshot_every\" = [\"50s\", \"301s\"]"),
        (batches, "\"measure.window\" = [\"300s\", \"90s\"]"),
        (batches, "\"cluster.workers\" = [1, nan]"),
    ]), @r#"
    demo.toml:41: sweep.workload.concurrency = []: must list at least one value
    demo.toml:41 (swept): workload.concurrency = 0: must be from 1 to 1000000
    demo.toml:41: sweep.workload.concurrency = [60, 60]: lists 60 twice
    demo.toml:41: sweep.workload.concurrency = 60: must be a list, { from = 1, to = 9, step = 2 } or { from = 1, to = 64, factor = 2 }
    demo.toml:41: sweep.workload.concurrency = { from = 60, step = 5, to = 40 }: must be a list, { from = 1, to = 9, step = 2 } or { from = 1, to = 64, factor = 2 }, with to not below from, step above 0, factor above 1
    demo.toml:41: sweep.workload.concurrency = { from = 1, step = 1, to = 1000000000 }: has more than 100000 values
    demo.toml:41: sweep.workload.concurrency = { from = 60, to = 80 }: must be a list, { from = 1, to = 9, step = 2 } or { from = 1, to = 64, factor = 2 }, with to not below from, step above 0, factor above 1
    demo.toml:41 (swept): unknown key workload.concurency; did you mean concurrency?
    demo.toml:26: workload.turns.min = 3: must be at least 1 and at most turns.max (at the point engine.max_num_seqs = 32, workload.turns.max = 2)
    demo.toml:41 (swept): workload.turns.max = 5: is not a section, so workload.turns.max.most cannot be set
    demo.toml:41: sweep.wrkload.concurrency = [60, 80]: swept keys are settings in cluster, engine, router, workload, measure or slo, like workload.concurrency
    demo.toml:41: sweep.measure.seeds = [1, 2]: cannot be swept: it holds for all points
    demo.toml:41: sweep.name = ["a", "b"]: swept keys are settings in cluster, engine, router, workload, measure or slo, like workload.concurrency
    demo.toml:41: sweep.router = {}: swept keys are settings in cluster, engine, router, workload, measure or slo, like workload.concurrency
    demo.toml:40: sweep.engine.max_num_seqs = [32, 64]: overlaps with the sweep over engine.max_num_seqs
    demo.toml:41: sweep.router = [{ policy = "kv" }]: swept keys are settings in cluster, engine, router, workload, measure or slo, like workload.concurrency
    demo.toml:40 (swept): measure.quantiles = "snapshot": must be one of "requests", "snapshots"; did you mean "snapshots"?
    demo.toml:40 (swept): measure.snapshot_every = "301s": must be longer than 0s and at most the window, "5min"
    demo.toml:35: measure.snapshot_every = "100s": must be longer than 0s and at most the window, "90s" (at the point measure.window = "90s", workload.concurrency = 60)
    demo.toml:40 (swept): cluster.workers = nan: must be a count like 16384 or "16k", at most 4294967295
    "#);
}

#[test]
fn overrides() {
    let refused = |argument: &str| match parse(GOOD, &[argument]) {
        Ok(_) => panic!("accepted: {argument}"),
        Err(error) => error.to_string(),
    };
    let lines = [
        "measure.window",
        "=5",
        "measure..window=60s",
        "window=60s",
        "measure.window=60",
        "measure.windw=60s",
        "name.x=5",
        "workload.turns.min=9",
        "workload.concurrency=0",
        "sweep.workload.concurrency=60..80",
        "sweep.workload.turns=[]",
        "sweep=5",
        "slo={ ttft = \"1s\", colour = 1 }",
    ];
    insta::assert_snapshot!(lines.map(refused).join("\n"), @r#"
    override measure.window: must be KEY=VALUE with a dotted key, like measure.window=60s
    override =5: must be KEY=VALUE with a dotted key, like measure.window=60s
    override measure..window=60s: must be KEY=VALUE with a dotted key, like measure.window=60s
    override window=60s: unknown key window; the keys here are name, description, cluster, engine, router, workload, measure, sweep, slo, control, published, extends
    override measure.window=60: measure.window = 60: must be a duration with its unit, like "300s", "12ms", "50us", "2min" or "1h"
    override measure.windw=60s: unknown key measure.windw; did you mean window?
    override name.x=5: name = "demo": is not a section, so name.x cannot be set
    override workload.turns.min=9: workload.turns.min = 9: must be at least 1 and at most turns.max
    override workload.concurrency=0: workload.concurrency = 0: must be from 1 to 1000000
    override sweep.workload.concurrency=60..80: sweep.workload.concurrency = { from = 60, to = 80 }: must be a list, { from = 1, to = 9, step = 2 } or { from = 1, to = 64, factor = 2 }, with to not below from, step above 0, factor above 1
    override sweep.workload.turns=[]: sweep.workload.turns = []: must list at least one value
    override sweep=5: sweep = 5: must set one axis, like sweep.workload.concurrency=[60, 80]
    override slo={ ttft = "1s", colour = 1 }: unknown key slo.colour; the keys here are ttft, itl, attainment
    "#);
}

#[test]
fn an_override_of_a_swept_key_replaces_the_axis() {
    let experiment = parse(GOOD, &["workload.concurrency=100", "router.policy=kv"]).expect("valid");
    let levels: Vec<_> = experiment.runs.iter().map(|run| run.levels.clone()).collect();
    assert_eq!(levels, [[100], [100]]);
    let swept = parse(GOOD, &["sweep.workload.concurrency={ from = 10, to = 30, step = 10 }"]);
    assert_eq!(swept.expect("valid").runs[0].levels, [10, 20, 30]);
}

#[test]
fn independent_levels_are_runs_of_their_own() {
    let experiment = parse(GOOD, &["measure.levels=independent"]).expect("valid");
    let runs: Vec<_> =
        experiment.runs.iter().map(|run| (run.levels.clone(), run.points.clone())).collect();
    assert_eq!(runs, (0..4).map(|i| (vec![[60, 80][i % 2]], vec![i])).collect::<Vec<_>>());
}

#[test]
fn levels_in_sequence_keep_the_sweeps_order_of_points() {
    let text = GOOD.replace(
        "\"workload.concurrency\" = [60, 80]",
        "\"workload.concurrency\" = [60, 80]\n\"router.temperature\" = [0.0, 0.5]",
    );
    let experiment = parse(&text, &["engine.max_num_seqs=8"]).expect("valid");
    let runs: Vec<_> = experiment.runs.iter().map(|run| run.points.clone()).collect();
    assert_eq!(runs, [[0, 2], [1, 3]]);
    assert_eq!(experiment.points[1]["router.temperature"], 0.5);
    assert_eq!(experiment.points[1]["workload.concurrency"], 60);
}

#[test]
fn the_hash_covers_settings_and_nothing_else() {
    let hash = |text: &str| match parse(text, &[]) {
        Ok(experiment) => experiment.config_hash,
        Err(error) => panic!("{error}"),
    };
    let good = hash(GOOD);
    assert_eq!(good.len(), 64);
    for same in [
        GOOD.replace("workers = 3", "workers = 3 # three"),
        GOOD.replace("\"demo\"", "\"other\"\ndescription = \"words\""),
        GOOD.replace("demo.csv", "other.csv"),
        GOOD.replace("warmup = \"60s\"\nwindow = \"300s\"", "window = \"300s\"\nwarmup = \"60s\""),
    ] {
        assert_eq!(hash(&same), good, "{same}");
    }
    for other in [
        GOOD.replace("workers = 3", "workers = 4"),
        GOOD.replace("[60, 80]", "[80, 60]"),
        GOOD.replace("seeds = 2", "seeds = 3"),
        GOOD.replace("[published]", "[slo]\nttft = \"1s\"\n[published]"),
    ] {
        assert_ne!(hash(&other), good, "{other}");
    }
}

#[test]
fn published_settings_are_read_by_whoever_knows_their_shape() {
    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Shape {
        file: String,
    }
    let published = |text: &str| parse(text, &[]).expect("valid").published::<Shape>();
    assert_eq!(published(GOOD).expect("fits").expect("given").file, "demo.csv");
    let error = published(&GOOD.replace("file = \"demo.csv\"", "flie = \"demo.csv\"")).unwrap_err();
    insta::assert_snapshot!(error, @r#"demo.toml:44: unknown key published.flie; did you mean file?"#);
    assert!(published(&GOOD[..GOOD.find("[published]").expect("there")]).expect("fits").is_none());
}

#[test]
fn a_trace_that_is_missing_is_found_before_anything_runs() {
    let start = GOOD.find("concurrency = 60").expect("there");
    let end = GOOD.find("[measure]").expect("there");
    let text = format!("{}path = \"gone.jsonl\"\n{}", &GOOD[..start], &GOOD[end..])
        .replace("\"workload.concurrency\" = [60, 80]\n", "")
        .replace("kind = \"conversations\"", "kind = \"trace\"");
    let message = refused(&text);
    assert!(message.starts_with("demo.toml:21: the workload cannot be loaded: "), "{message}");
    assert!(message.contains("gone.jsonl"), "{message}");
}

/// Unreasonable values of every type.
const ODD: [&str; 22] = [
    "-1",
    "0",
    "1",
    "9223372036854775807",
    "-9223372036854775808",
    "4294967296",
    "nan",
    "inf",
    "-0.0",
    "1e308",
    "true",
    "\"\"",
    "\"-1s\"",
    "\"1e300h\"",
    "\"\\u0000\"",
    "\"9999999M\"",
    "1979-05-27T07:32:00Z",
    "[]",
    "[[]]",
    "[{}]",
    "{}",
    "{ from = 1, to = 2, step = 1 }",
];

proptest! {
    /// Deleting lines, replacing values and breaking bytes gives an experiment
    /// or one line of complaint, never a panic.
    #[test]
    fn mutated_experiments_never_panic(
        deleted in prop::collection::vec(0usize..40, 0..3),
        replaced in prop::collection::vec((0usize..40, 0..ODD.len()), 0..3),
        bytes in prop::collection::vec((0usize..700, any::<u8>()), 0..3),
    ) {
        let mut lines: Vec<String> = GOOD.lines().map(str::to_owned).collect();
        for (line, value) in replaced {
            if let Some((key, _)) = lines.get(line).and_then(|line| line.split_once('=')) {
                lines[line] = format!("{key}= {}", ODD[value]);
            }
        }
        for line in deleted {
            if line < lines.len() {
                lines.remove(line);
            }
        }
        let mut text = lines.join("\n").into_bytes();
        for (at, byte) in bytes {
            if let Some(old) = text.get_mut(at) {
                *old = byte;
            }
        }
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("mutated.toml");
        std::fs::write(&file, &text).expect("written");
        match Experiment::load(&file, &LoadOptions::default()) {
            Ok(experiment) => prop_assert!(!experiment.points.is_empty()),
            Err(error) => {
                let message = error.to_string();
                prop_assert!(!message.contains('\n'), "{}", message);
                prop_assert!(message.contains("mutated.toml"), "{}", message);
            }
        }
    }

    /// Overrides of any key with any value neither.
    #[test]
    fn odd_overrides_never_panic(key in "[a-z.=\"\\[]{0,12}|(measure|router|sweep|cluster)\\.[a-z_.]{1,9}", value in 0..ODD.len()) {
        if let Err(error) = parse(GOOD, &[&format!("{key}={}", ODD[value])]) {
            prop_assert!(!error.to_string().contains('\n'));
        }
    }
}

#[test]
fn keys_of_another_engine_are_refused() {
    let message = |key: &str| parse(GOOD, &[key]).expect_err(key).to_string();
    insta::assert_snapshot!(message("engine.trtllm.partial_reuse=false"), @r#"override engine.trtllm.partial_reuse=false: engine.trtllm.partial_reuse = false: must be left out: only workers with engine.rules = "trtllm" have this key, and these have "vllm""#);
    assert!(parse(GOOD, &["engine.watermark=0.1"]).is_ok());
    let text = GOOD.replace("rules = \"vllm\"", "rules = \"trtllm\"\nwatermark = 0.1");
    insta::assert_snapshot!(refused(&text), @r#"demo.toml:8: engine.watermark = 0.1: must be left out: only workers with engine.rules = "vllm" have this key, and these have "trtllm""#);
    // Of a fleet of two engines each key needs one.
    let pools = "[[cluster.pool]]\nname = \"a\"\nworkers = 1\n[[cluster.pool]]\nname = \"b\"\n\
                 workers = 1\nengine.rules = \"trtllm\"\n";
    let mixed = GOOD.replace("[cluster]\nworkers = 3\n", pools);
    assert!(parse(&mixed, &["engine.watermark=0.1", "engine.trtllm.partial_reuse=false"]).is_ok());
    let text = mixed.replace("engine.rules = \"trtllm\"", "engine.trtllm.partial_reuse = true");
    insta::assert_snapshot!(refused(&text), @r#"demo.toml:9: cluster.pool[1].engine.trtllm.partial_reuse = true: must be left out: only workers with engine.rules = "trtllm" have this key, and these have "vllm""#);
}

#[test]
fn the_size_of_the_pool_is_given_once() {
    let text = GOOD.replace("num_blocks = \"1k\"", "num_blocks = \"1k\"\nkv_memory_fraction = 0.5");
    insta::assert_snapshot!(refused(&text), @r#"demo.toml:10: engine.kv_memory_fraction = 0.5: must be left out where num_blocks is given (demo.toml:9): that is the size of the KV pool; give one of the two"#);
    let swept = GOOD.replace("[sweep]", "[sweep]\nengine.kv_memory_fraction = [0.4, 0.5]");
    insta::assert_snapshot!(refused(&swept), @r#"demo.toml:40 (swept): engine.kv_memory_fraction = 0.4: must be left out where num_blocks is given (demo.toml:9): that is the size of the KV pool; give one of the two"#);
    // What is put over something else decides.
    let on_gpus = GOOD
        .replace("[cluster]", "[cluster]\nmodel = \"llama-3.1-8b-bf16-h100-vllm\"")
        .replace("block_size = 32\n", "max_model_len = 1_000\n");
    let blocks = |text: &str, keys: &[&str]| {
        let experiment = parse(text, keys).unwrap_or_else(|error| panic!("{error}"));
        experiment.runs[0].settings.pools.pools()[0].engine.num_blocks
    };
    let all = blocks(&on_gpus, &["engine.kv_memory_fraction=0.9"]);
    assert!(blocks(&on_gpus, &["engine.kv_memory_fraction=0.5"]) < all);
    assert_eq!(blocks(&on_gpus, &["engine.num_blocks=70"]), 70);
    let share = on_gpus.replace("num_blocks = \"1k\"", "kv_memory_fraction = 0.9");
    assert_eq!(blocks(&share, &[]), all);
    assert_eq!(blocks(&share, &["engine.num_blocks=70"]), 70);
    let both = ["engine.num_blocks=70", "engine.kv_memory_fraction=0.9"];
    assert!(parse(&share, &both).is_err());
}

#[test]
fn keys_that_need_others_are_noted_without_them() {
    let keys = [
        "router.sync_delay=5ms",
        "router.spread=by_conversation",
        "router.restart.at=2h",
        "cluster.load_time=9s",
        "measure.levels=independent",
    ];
    let notices = parse(GOOD, &keys).expect("valid").notices;
    insta::assert_snapshot!(notices.join("\n"), @r#"
    cluster.load_time has no effect without [[cluster.change]] or [cluster.planner]
    router.restart.at has no effect without a time before the end, measure.warmup + measure.window
    router.spread has no effect without router.replicas above 1
    router.sync_delay has no effect without router.replicas above 1
    "#);
    let swept = [&keys[..2], &["sweep.router.replicas=[1, 2]"]].concat();
    assert_eq!(parse(GOOD, &swept).expect("valid").notices, Vec::<String>::new());
}
