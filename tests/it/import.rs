//! `sim import` and `sim patch`: from files of a cluster to an answer, and a change back.

use super::program::text;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

fn manifest(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/manifests").join(name)
}

fn sim(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sim"));
    command.args(args).current_dir(folder).env_remove("SIM_TRACES").output().expect("the program")
}

/// What a command says when it fails as an input error, in one line.
fn refusal(folder: &Path, args: &[&str]) -> String {
    let output = sim(folder, args);
    assert_eq!(output.status.code(), Some(2), "{args:?}: {}", text(&output.stdout));
    let said = text(&output.stderr).to_owned();
    assert_eq!(said.lines().count(), 1, "{said}");
    said
}

fn good(folder: &Path, args: &[&str]) -> String {
    let output = sim(folder, args);
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    text(&output.stdout).to_owned()
}

#[test]
fn a_manifest_becomes_an_answer_and_a_change_to_apply() {
    let folder = TempDir::new().expect("a folder");
    let here = folder.path();
    let file = manifest("dynamo-gpt-oss-120b-h200.yaml");
    let file = file.to_str().expect("UTF-8");
    let said = good(here, &["import", file, "--out", "fleet"]);
    assert!(said.contains("8 workers, 1 h200 each: gpt-oss-120b mxfp4"), "{said}");
    assert!(said.contains("--speculative-config"), "{said}");
    assert!(said.contains("run it with: sim run fleet"), "{said}");
    // The same again changes nothing, and gives the same bytes.
    let first = fs::read(here.join("fleet/experiment.toml")).expect("written");
    good(here, &["import", file, "--out", "fleet"]);
    assert_eq!(fs::read(here.join("fleet/experiment.toml")).expect("written"), first);

    let short = [
        "--set",
        "measure.warmup=1s",
        "--set",
        "measure.window=3s",
        "--set",
        "workload.concurrency=16",
    ];
    let run = [&["run", "fleet", "--seeds", "1", "--no-figures"][..], &short].concat();
    let answer = good(here, &run);
    assert!(answer.contains("round_robin") && answer.contains("TTFT p95"), "{answer}");

    let said = good(
        here,
        &[
            "patch",
            "fleet",
            "--set",
            "router.temperature=0.5",
            "--set",
            "cluster.workers=10",
            "--effect",
            "TTFT p95 -10 % (95 %: -14 to -6)",
        ],
    );
    assert!(said.contains("kubectl patch dynamographdeployment"), "{said}");
    let patch = fs::read_dir(here.join("fleet/patch")).expect("written").next().expect("a file");
    let patch = fs::read_to_string(patch.expect("an entry").path()).expect("text");
    assert!(
        patch.starts_with("# TTFT p95 -10 % (95 %: -14 to -6)\n# cluster.workers: 8 -> 10\n"),
        "{patch}"
    );
    assert!(patch.contains("replicas: 10") && patch.contains("--router-temperature"), "{patch}");

    // A change in the file is one, too; what was measured is not deployed.
    let experiment = fs::read_to_string(here.join("fleet/experiment.toml")).expect("text");
    let changed =
        experiment.replace("max_num_seqs = 256", "max_num_seqs = 128\nactivation_gib = 5.0");
    fs::write(here.join("fleet/experiment.toml"), changed).expect("written");
    let output = sim(here, &["patch", "fleet", "--out", "change"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("engine.activation_gib = 5.0 says how things are"));
    assert!(here.join("change").is_dir());
    // Twice the same is the same; another change does not stand beside it.
    let output = sim(here, &["patch", "fleet", "--out", "change"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let other = ["patch", "fleet", "--set", "cluster.workers=9", "--out", "change"];
    let output = sim(here, &other);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("not of this change"), "{}", text(&output.stderr));
}

/// Import, recommend, patch, import: the recommended experiment.
#[test]
fn a_recommendation_comes_back_as_what_is_deployed() {
    let folder = TempDir::new().expect("a folder");
    let here = folder.path();
    let line = "vllm serve meta-llama/Llama-3.1-8B-Instruct --max-num-seqs 16\n";
    fs::write(here.join("serve.sh"), line).expect("written");
    good(here, &["import", "serve.sh", "--gpu", "h100", "--workers", "2", "--out", "fleet"]);
    let recommend = |file: &'static str, more: &[&'static str]| -> Vec<&'static str> {
        let asked = [
            "recommend",
            file,
            "--seeds",
            "2",
            "--set",
            "measure.warmup=1s",
            "--set",
            "measure.window=4s",
            "--set",
            "workload.concurrency=32",
            "--over",
            "cluster.workers=1..3:1",
            "--over",
            "engine.max_num_seqs=16,64",
            "--over",
            "router.policy=round_robin,kv",
            "--within",
            "ttft_ms_p50=5s",
            "--more-load",
            "0",
            "--patch",
            "--quiet",
        ];
        [&asked[..], more].concat()
    };
    let said = good(here, &recommend("fleet", &["--out", "answer"]));
    let (_, deployed) = said.split_once("To deploy it:\n").expect("it says how");
    assert!(deployed.contains("wrote answer/patch/serve.sh: start 1 of these"), "{said}");
    assert!(said.contains("As it is now, "), "{said}");
    let json = fs::read_to_string(here.join("answer/recommendation.json")).expect("written");
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let seqs = json["change"]["engine.max_num_seqs"].as_i64().expect("a number");
    let policy = json["change"]["router.policy"].as_str().expect("a policy");

    let patch = fs::read_to_string(here.join("answer/patch/serve.sh")).expect("written");
    for part in [
        "# Recommended by sim ",
        "# predicted: TTFT p50",
        "(95 %: ",
        "# as it is now: ",
        "# rests on: ",
    ] {
        assert!(patch.contains(part), "{part}: {patch}");
    }
    // There is no router that could be told.
    let has_policy = policy != "round_robin";
    assert_eq!(
        patch.contains("# not expressed here, but part of the prediction: router.policy"),
        has_policy
    );
    assert_eq!(deployed.contains("not expressed: router.policy"), has_policy);
    fs::create_dir(here.join("new")).expect("made");
    fs::write(here.join("new/serve.sh"), &patch).expect("written");
    good(here, &["import", "new/serve.sh", "--gpu", "h100", "--out", "again"]);
    let again = fs::read_to_string(here.join("again/experiment.toml")).expect("written");
    assert!(again.contains("\nworkers = 1 "), "{again}");
    assert!(again.contains(&format!("\nmax_num_seqs = {seqs} ")), "{again}");

    // The same once more is the same; another one takes the place of what was written.
    good(here, &recommend("fleet", &["--out", "answer"]));
    let other = ["--out", "answer", "--confidence", "90%"];
    assert!(refusal(here, &recommend("fleet", &other)).contains("--force"));
    good(here, &recommend("fleet", &[&other[..], &["--force"]].concat()));
    let one_load = ["--set", "workload.concurrency=60", "--within", "ttft_ms_p50=5s", "--patch"];
    let refused =
        refusal(here, &[&["recommend", "doks-3xh200", "--quiet"][..], &one_load].concat());
    assert!(refused.contains("a folder that sim import made"), "{refused}");
}

#[test]
fn a_log_is_the_load_of_what_is_imported() {
    let folder = TempDir::new().expect("a folder");
    let here = folder.path();
    fs::write(
        here.join("log.csv"),
        "ts,prompt_tokens,completion_tokens\n0,100,10\n0.5,200,20\n1.5,300,5\n",
    )
    .expect("written");
    let line = "vllm serve meta-llama/Llama-3.1-8B-Instruct";
    let args = ["import", "--command", line, "--gpu", "h100", "--out", "fleet", "--log"];
    let with = |more: &[&'static str]| [&args[..], more].concat();
    assert!(refusal(here, &with(&["none.csv"])).contains("--log"));
    let unknown = refusal(here, &with(&["log.csv"]));
    assert!(unknown.contains("columns = {"), "{unknown}");
    assert!(unknown.contains("cannot be simulated: --log: "), "{unknown}");
    assert!(!here.join("fleet").exists());
    let columns = [
        "log.csv",
        "--columns",
        "time=ts,prompt=prompt_tokens,output=completion_tokens",
        "--time-unit",
        "s",
    ];
    let said = good(here, &with(&columns));
    assert!(!said.contains("the load is assumed"), "{said}");
    good(here, &["run", "fleet", "--no-figures", "--requests"]);
    let requests = fs::read_to_string(here.join("plots/fleet/requests.csv")).expect("written");
    let first = requests.lines().filter(|line| line.contains("round_robin")).count();
    assert_eq!(first, 3 * 3, "three requests by three seeds: {requests}");
    // A log whose ids stand for other than 512 tokens.
    let row = "{\"timestamp\":0,\"input_length\":40,\"output_length\":5,\"hash_ids\":[1,2,3]}\n";
    fs::write(here.join("ids.jsonl"), row).expect("written");
    let refused = refusal(here, &with(&["ids.jsonl", "--force"]));
    assert!(refused.contains("one for each 512 of 40 tokens"), "{refused}");
    good(here, &with(&["ids.jsonl", "--force", "--block-tokens", "16"]));
    let experiment = fs::read_to_string(here.join("fleet/experiment.toml")).expect("written");
    assert!(experiment.contains("trace_block_tokens = 16 # as requested"), "{experiment}");
    // A log of texts.
    let texts = [
        concat!(env!("CARGO_MANIFEST_DIR"), "/traces/fixtures/sharegpt.json"),
        "--tokenizer",
        concat!(env!("CARGO_MANIFEST_DIR"), "/traces/fixtures/tokenizer.json"),
        "--force",
    ];
    assert!(refusal(here, &with(&texts[..1])).contains("tokenizer = nothing"));
    if cfg!(feature = "texts") {
        good(here, &with(&texts));
        let experiment = fs::read_to_string(here.join("fleet/experiment.toml")).expect("written");
        assert!(experiment.contains("traces/fixtures/tokenizer.json\" # as requested"));
    } else {
        assert!(refusal(here, &with(&texts)).contains("build it with the feature texts"));
    }
}

#[test]
fn other_models_bring_their_config_from_beside_the_manifest() {
    let folder = TempDir::new().expect("a folder");
    let here = folder.path();
    fs::write(here.join("serve.sh"), "vllm serve Qwen/Qwen3-0.6B --max-num-seqs 64\n")
        .expect("written");
    let args = ["import", "serve.sh", "--gpu", "l40s", "--out", "fleet"];
    let said = refusal(here, &args);
    assert!(said.contains("\"Qwen/Qwen3-0.6B\" is not known (known: deepseek-r1"), "{said}");
    assert!(!here.join("fleet").exists());
    let config = r#"{"model_type": "qwen3", "hidden_size": 1024, "num_hidden_layers": 28,
        "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
        "intermediate_size": 3072, "vocab_size": 151936, "max_position_embeddings": 40960}"#;
    fs::write(here.join("config.json"), config).expect("written");
    let said = good(here, &args);
    assert!(said.contains("config.json"), "{said}");
    good(here, &["patch", "fleet", "--set", "engine.max_num_seqs=32"]);
    let line = fs::read_to_string(here.join("fleet/patch/serve.sh")).expect("written");
    assert!(line.ends_with("vllm serve Qwen/Qwen3-0.6B --max-num-seqs 32\n"), "{line}");
}

#[test]
fn mistakes_are_named_in_one_line_and_nothing_is_written() {
    let folder = TempDir::new().expect("a folder");
    let here = folder.path();
    let file = manifest("dynamo-qwen3-32b-8xtp2.yaml");
    let file = file.to_str().expect("UTF-8");
    fs::write(here.join("wrong.yaml"), "a: [").expect("written");
    fs::write(here.join("binary.yaml"), [0xff, 0xfe]).expect("written");
    let too_small = "vllm serve meta-llama/Llama-3.1-70B-Instruct";
    let percent = "vllm serve meta-llama/Llama-3.1-8B-Instruct --gpu-memory-utilization 95";
    let other = fs::read_to_string(file).expect("text").replace("replicas: 8", "replicas: 4");
    fs::write(here.join("other.yaml"), other).expect("written");
    for (args, said) in [
        (&["import", file, "--out", "x"][..], "does not say which GPU it runs on (known: a100"),
        (&["import", file, "--gpu", "tpu", "--out", "x"], "tpu"),
        (&["import", "none.yaml", "--out", "x"], "none.yaml"),
        (&["import", "wrong.yaml", "--out", "x"], "wrong.yaml: not valid YAML"),
        (&["import", "binary.yaml", "--out", "x"], "not UTF-8"),
        (&["import", ".", "--out", "x"], "it is a folder"),
        (&["import", "--command", too_small, "--gpu", "h100", "--out", "x"], "kv_memory_fraction"),
        (
            &["import", "--command", percent, "--gpu", "h100", "--out", "x"],
            "--gpu-memory-utilization 95: engine.kv_memory_fraction = 95: must be",
        ),
        (
            &["import", "--command", "vllm serve a/b --model c/d", "--gpu", "h100", "--out", "x"],
            "--model c/d: the command names another model, a/b",
        ),
        (&["import", file, "other.yaml", "--gpu", "h200", "--out", "x"], "with other content"),
        (&["import", "--command", "ls", "--gpu", "h100", "--out", "x"], "runs no engine"),
        (&["patch", "x", "--set", "a=1"], "a folder that sim import made"),
    ] {
        let refused = refusal(here, args);
        assert!(refused.contains(said), "{args:?}: {refused}");
        assert!(!here.join("x").exists(), "{args:?}");
    }
    good(here, &["import", file, "--gpu", "h200", "--out", "x"]);
    let other = refusal(here, &["import", file, "--gpu", "h100", "--out", "x"]);
    assert!(other.contains("--force"), "{other}");
    for (set, said) in [
        ("router.feed.delay=9ms", "a property of the fleet"),
        ("engine.max_num_seq=9", "max_num_seqs"),
        ("cluster.workers=8", "nothing is changed"),
    ] {
        let refused = refusal(here, &["patch", "x", "--set", set]);
        assert!(refused.contains(said), "{set}: {refused}");
        assert!(!here.join("x/patch").exists(), "{set}");
    }
}
