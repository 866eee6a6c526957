//! Mistakes of the operator: exit code 2, one line that names the place, and
//! nothing written.

use super::program::{EXPERIMENT, Scratch, text};

/// Runs the program, checks that it refuses cleanly, and returns its one line.
fn refused(place: &Scratch, args: &[&str]) -> String {
    let before = place.files();
    let output = place.sim(args);
    let line = text(&output.stderr).to_owned();
    assert_eq!(output.status.code(), Some(2), "{args:?}: {line}");
    assert_eq!(text(&output.stdout), "", "{args:?}");
    assert!(line.ends_with('\n') && line.lines().count() == 1, "{args:?}: {line:?}");
    assert_eq!(place.files(), before, "{args:?} wrote something");
    line.trim_end().to_owned()
}

#[test]
fn experiments_that_cannot_be_read() {
    let place = Scratch::new();
    place.write("latin1.toml", b"name = \"caf\xe9\"\n");
    place.write("empty.toml", "");
    place.write("binary.toml", [0, 159, 146, 150]);
    std::fs::create_dir(place.path().join("folder.toml")).expect("made");
    place.write("huge.toml", vec![b'#'; (4 << 20) + 1]);
    std::fs::create_dir(place.path().join("my-fleet")).expect("made");
    place.write("my-fleet/experiment.toml", "");
    place.write("mine.toml", "name = \"mine\"\nextends = \"my-fleet\"\n");
    let files = [
        "nowhere.toml",
        "folder.toml",
        "latin1.toml",
        "empty.toml",
        "binary.toml",
        "huge.toml",
        "my-flee",
        "mine.toml",
    ];
    let lines = files.map(|file| refused(&place, &["run", file]));
    insta::assert_snapshot!(lines.join("\n"), @r#"
    error: nowhere.toml: cannot be read: No such file or directory (os error 2)
    error: folder.toml: cannot be read: Is a directory (os error 21)
    error: latin1.toml:1: not UTF-8 text: an experiment is a TOML file
    error: empty.toml: name is missing
    error: binary.toml:1: not UTF-8 text: an experiment is a TOML file
    error: huge.toml: cannot be read: it is larger than 4194304 bytes
    error: my-flee: cannot be read: no file, and no experiment that comes with sim: did you mean my-fleet/experiment.toml?
    error: mine.toml:2: extends = "my-fleet": cannot be read: no file, and no experiment that comes with sim: did you mean my-fleet/experiment.toml?
    "#);
}

#[test]
fn experiments_that_cannot_be_run() {
    let place = Scratch::new();
    let network = "{\"hidden_size\": 4096, \"num_hidden_layers\": 32, \"num_attention_heads\": 32,\n\
                   \"num_key_value_heads\": 8, \"intermediate_size\": 14336, \"vocab_size\": 128256,\n\
                   \"max_position_embeddings\": 131072, \"model_type\": \"llama4_text\",\n\
                   \"attention_chunk_size\": 8192}";
    place.write("config.json", network);
    for (from, to, expected) in [
        ("workers = 2", "workers = 0", "bad.toml:4: cluster.workers = 0: must be"),
        (
            "workers = 2",
            "worker = 2",
            "bad.toml:4: unknown key cluster.worker; did you mean workers?",
        ),
        ("seeds = 3", "seeds = nan", "measure.seeds = nan: must be"),
        ("\"20s\"", "\"1e999s\"", "measure.window = \"1e999s\": "),
        ("[2, 4]", "[2, -4]", "(swept): workload.concurrency = -4: "),
        ("[2, 4]", "[]", "sweep.workload.concurrency = []: must list"),
        ("[sweep]", "[sweep", "bad.toml:31: not valid TOML: "),
        ("workers = 2", "workers = 2\nmodel = \"gone.toml\"", "cluster.model = \"gone.toml\": "),
        (
            "workers = 2",
            "workers = 2\nmodel = \"llama-3.1-70b-fp8-h200\"",
            "no file, and no model that comes with sim: did you mean llama-3.1-70b-fp8-h200-trtllm or",
        ),
        (
            "workers = 2",
            "workers = 2\nmodel = { shape = \"qwen3-32b\", gpu = \"h300\", engine = \"vllm\" }",
            "gpu = \"h300\": no file, and no GPU that comes with sim: did you mean",
        ),
        (
            "workers = 2",
            "workers = 2\nmodel = { shape = \"llama-3.1-8b\", gpu = \"l40s\", engine = \"trtllm\" }",
            "gpu = \"l40s\" with engine = \"trtllm\": how fast this engine runs on this GPU is not known",
        ),
        (
            "workers = 2",
            "workers = 2\nmodel = { shape = \"qwen3-32b\", gpu = \"h100\", engine = \"vllm\", tpp = 2 }",
            "unknown key cluster.model.tpp; did you mean tp?",
        ),
        (
            "workers = 2",
            "workers = 2\nmodel = { shape = \"config.json\", gpu = \"h100\", engine = \"vllm\" }",
            "config.json:4: attention_chunk_size: 8192: layers that attend within chunks; a shape",
        ),
        (
            "block_size = 32",
            "block_size = 17",
            "bad.toml:8: engine.block_size = 17: must be 16, 32",
        ),
        (
            "policy = \"kv\"",
            "policy = \"kv\"\nsemantics = 0.8",
            "router.semantics = 0.8: must be one of \"0.9\", \"1.6\"",
        ),
        (
            "output_tokens = { kind = \"constant\", value = 80 }",
            "output_tokens = { kind = \"normal\", mean = 800, sd = 10, min = 1, max = 80 }",
            "workload.output_tokens.mean = 800: must be from min = 1 to max = 80: outside of them",
        ),
    ] {
        assert!(EXPERIMENT.contains(from), "{from}");
        place.write("bad.toml", EXPERIMENT.replacen(from, to, 1));
        let line = refused(&place, &["run", "bad.toml"]);
        assert!(line.starts_with("error: bad.toml:"), "{line}");
        assert!(line.contains(expected), "{line}");
    }
}

#[test]
fn overrides_that_cannot_be_applied() {
    let place = Scratch::new();
    for (argument, expected) in [
        ("measure.window", "error: --set measure.window: must be KEY=VALUE"),
        ("measure.windw=5s", "unknown key measure.windw; did you mean window?"),
        ("cluster.workers=-1", "error: --set cluster.workers=-1: cluster.workers = -1: "),
        ("router.policy=\"a\nb\"", r#"router.policy = "\"a\nb\"": must be one of"#),
    ] {
        let line = refused(&place, &["run", "small.toml", "--set", argument]);
        assert!(line.contains(expected), "{line}");
    }
}

#[test]
fn folders_that_cannot_hold_the_results() {
    let place = Scratch::new();
    place.write("file", "text");
    let line = refused(&place, &["run", "small.toml", "--out", "file"]);
    assert_eq!(
        line,
        "error: file: cannot hold results: it is a file; choose another folder with --out"
    );
    let line = refused(&place, &["run", "small.toml", "--out", "file/inside"]);
    assert!(line.starts_with("error: file/inside: cannot hold results: "), "{line}");

    let output = place.sim(&["run", "small.toml", "--out", "results", "--seeds", "1"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let line = refused(&place, &["run", "small.toml", "--out", "results", "--seeds", "2"]);
    assert!(line.starts_with("error: results: holds results of another configuration"), "{line}");
    let forced = place.sim(&["run", "small.toml", "--out", "results", "--seeds", "2", "--force"]);
    assert!(forced.status.success(), "{}", text(&forced.stderr));
}

#[test]
fn one_key_given_twice() {
    let place = Scratch::new();
    let before = place.files();
    for (args, both) in [
        (
            &["run", "--seeds", "1", "--set", "measure.seeds=5"][..],
            "--set measure.seeds=5 and --seeds 1",
        ),
        (
            &["run", "--set", "sweep.cluster.workers=[1, 2]", "--set", "cluster.workers=3"],
            "--set sweep.cluster.workers=[1, 2] and --set cluster.workers=3",
        ),
        (
            &["sweep", "--over", "cluster.workers=1..2:1", "--over", "cluster.workers=3..4:1"],
            "--over cluster.workers=1..2:1 and --over cluster.workers=3..4:1",
        ),
    ] {
        let line = refused(&place, &[&args[..1], &["small.toml"], &args[1..]].concat());
        assert!(line.contains(both), "{line}");
        assert!(line.ends_with("must be given once: one of the two would be ignored"), "{line}");
        assert_eq!(place.files(), before);
    }
}

/// What stands at a path is replaced only by `--force`, and what is read never.
#[test]
fn files_that_would_replace_others() {
    let place = Scratch::new();
    let trace = concat!(env!("CARGO_MANIFEST_DIR"), "/traces/fixtures/mooncake-small.jsonl");
    let copied = place.sim(&["trace", "convert", trace, "a.jsonl"]);
    assert!(copied.status.success(), "{}", text(&copied.stderr));
    place.write("held", "mine");
    let one = ["--set", "router.policy=kv", "--set", "workload.concurrency=2"];
    let run = |option| [&["run", "small.toml", option, "held"][..], &one].concat();
    let (metrics, record) = (run("--metrics"), run("--record"));
    let replay = [&["replay", "held", "--record", "small.toml"][..], &one].concat();
    for (key, args) in [
        ("OUT", &["trace", "convert", "a.jsonl", "held"][..]),
        ("OUT", &["trace", "synth", "a.jsonl", "held"]),
        ("--out", &["trace", "fit", "a.jsonl", "--out", "held"]),
        ("--out", &["timeline", "plots/small", "--out", "held"]),
        ("--metrics", &metrics),
        ("--record", &record),
        ("LOG", &replay),
    ] {
        let line = refused(&place, args);
        assert!(line.starts_with(&format!("error: {key} = held: must be ")), "{line}");
        assert!(line.ends_with("or replace the file with --force"), "{line}");
    }
    let forced = place.sim(&["trace", "convert", "a.jsonl", "held", "--force"]);
    assert!(forced.status.success(), "{}", text(&forced.stderr));
    let line = refused(&place, &["trace", "convert", "a.jsonl", "./a.jsonl", "--force"]);
    assert!(line.contains("must be another file than a.jsonl, which is read"), "{line}");
}

#[cfg(feature = "live")]
#[test]
fn an_address_that_others_reach_has_a_way_out() {
    let place = Scratch::new();
    let line = refused(&place, &["serve", "small.toml", "--host", "0.0.0.0"]);
    assert!(line.starts_with("error: --host = 0.0.0.0: must be a loopback"), "{line}");
    assert!(line.ends_with("to reach it (--allow-remote)"), "{line}");
}

#[test]
fn traces_that_are_not_there() {
    let place = Scratch::new();
    let line = refused(&place, &["trace", "stats", "nowhere.jsonl"]);
    assert!(line.contains("nowhere.jsonl"), "{line}");
    let line = refused(&place, &["trace", "stats", "mooncake-conversation"]);
    assert!(line.contains("download https://"), "{line}");
    let line = refused(&place, &["trace", "stats", "mooncake-talk"]);
    assert!(line.contains("must be mooncake-"), "{line}");
}

/// The argument parser shows the usage too, so these take more than one line.
#[test]
fn arguments_that_mean_nothing() {
    let place = Scratch::new();
    let before = place.files();
    for args in [
        &["run"][..],
        &["rnu", "small.toml"],
        &["run", "small.toml", "--seeds", "0"],
        &["run", "small.toml", "--jobs", "0"],
        &["run", "small.toml", "--jobs", "-1"],
        &["run", "small.toml", "--nofigures"],
    ] {
        let output = place.sim(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(text(&output.stderr).starts_with("error: "), "{args:?}");
        assert_eq!(place.files(), before, "{args:?}");
    }
}

/// What a model file or an engine's defaults give, and only an experiment makes
/// wrong, is named where it stands.
#[test]
fn errors_name_the_file_that_gave_the_value() {
    let place = Scratch::new();
    place.write("mine.toml", "rules = \"vllm\"\nmax_num_seqs = 64\nmax_num_batched_tokens = 32\n");
    place.write(
        "model.toml",
        "name = \"m\"\ndefaults = \"mine.toml\"\n\n[engine]\nblock_size = 16\n",
    );
    let base = EXPERIMENT
        .replacen("workers = 2", "workers = 2\nmodel = \"model.toml\"", 1)
        .replacen("rules = \"vllm\"\n", "", 1)
        .replacen("block_size = 32\n", "", 1)
        .replacen("max_num_seqs = 64\n", "", 1)
        .replacen("max_num_batched_tokens = \"8k\"\n", "", 1);
    place.write("bad.toml", &base);
    let line = refused(&place, &["run", "bad.toml"]);
    let expected = "error: mine.toml:3: engine.max_num_batched_tokens = 32: must be at least max_num_seqs (64)";
    assert!(line.starts_with(expected), "{line}");
    let line = refused(&place, &["run", "bad.toml", "--set", "engine.max_num_batched_tokens=16"]);
    assert!(
        line.starts_with("error: --set engine.max_num_batched_tokens=16: engine.max_num"),
        "{line}"
    );
    place.write("mine.toml", "rules = \"vllm\"\nhost.prepair = \"1ms\"\n");
    let line = refused(&place, &["run", "bad.toml"]);
    assert!(
        line.contains("mine.toml:2: unknown key engine.host.prepair; did you mean prepare?"),
        "{line}"
    );
}

#[test]
fn what_may_be_meant_otherwise_is_said() {
    let place = Scratch::new();
    let said = |args: &[&str]| {
        let fixed = ["run", "small.toml", "--seeds", "1", "--no-figures", "--force"];
        let output = place.sim(&[&fixed[..], args].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stderr).to_owned()
    };
    let pair = said(&["--set", "sweep.router.temperature=0,5"]);
    let expected =
        "note: router.temperature=0,5 is two values, 0 and 5; with a decimal point it is 0.5\n";
    assert!(pair.contains(expected), "{pair}");
    // Half a conversation there is not.
    assert_eq!(said(&["--set", "sweep.workload.concurrency=2,4"]), "saved in plots/small\n");
    assert_eq!(said(&["--set", "router.semantics='0.9'"]), "saved in plots/small\n");
    let clamped =
        "workload.output_tokens={ kind = \"normal\", mean = 80, sd = 60, min = 1, max = 80 }";
    let note = said(&["--set", clamped]);
    assert!(
        note.contains("workload.output_tokens: clamped to 1 to 80, it has a mean of about"),
        "{note}"
    );
}
