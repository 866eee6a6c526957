//! Public deployments, restated, from file to experiment and back.

mod odd;

use super::*;
use crate::engine::settings::rival;
use crate::experiment::{Experiment, LoadOptions};
use crate::settings::yaml::{self, unescaped};
use proptest::prelude::*;
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::path::Path;
use toml::Value;

/// The files of a deployment in `examples/manifests/`, and its GPU where none says so.
const DEPLOYMENTS: [(&[&str], Option<&str>); 8] = [
    (&["dynamo-qwen3-32b-8xtp2.yaml"], Some("h200")),
    (&["dynamo-qwen3-32b-6p2d.yaml"], Some("h200")),
    (&["dynamo-llama-3.3-70b.yaml"], Some("h100")),
    (&["dynamo-gpt-oss-120b-h200.yaml"], None),
    (&["dynamo-qwen3-32b-fp8-trtllm.yaml"], Some("h200")),
    (&["llmd-qwen3-32b.yaml", "llmd-precise.values.yaml"], Some("h100")),
    (&["llmd-qwen3-32b.yaml", "llmd-baseline.values.yaml"], Some("h100")),
    (&["dynamo-llama-3.1-70b-3xh200.yaml"], None),
];

fn request(files: &[&str], gpu: Option<&str>) -> Request {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/manifests");
    let source = |name: &&str| Source {
        name: (*name).to_owned(),
        folder: folder.clone(),
        text: std::fs::read_to_string(folder.join(name)).expect("there"),
    };
    Request {
        name: "imported".to_owned(),
        files: files.iter().map(source).collect(),
        gpu: gpu.map(str::to_owned),
        ..Request::default()
    }
}

fn of_text(name: &str, text: &str) -> Request {
    let file = Source { name: name.to_owned(), text: text.to_owned(), ..Source::default() };
    Request {
        name: "imported".to_owned(),
        files: vec![file],
        gpu: Some("h200".to_owned()),
        ..Request::default()
    }
}

fn of_line(line: &str) -> Request {
    Request {
        name: "imported".to_owned(),
        command: Some(line.to_owned()),
        gpu: Some("h100".to_owned()),
        ..Request::default()
    }
}

/// Loads what was imported, with the files that it names.
fn load(imported: &Imported) -> Experiment {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in &imported.files {
        std::fs::write(folder.path().join(name), text).expect("written");
    }
    let file = folder.path().join("experiment.toml");
    Experiment::parse(&file, &imported.experiment, &LoadOptions::default())
        .unwrap_or_else(|error| panic!("{error}\n{}", imported.experiment))
}

fn settings(request: &Request) -> BTreeMap<String, Value> {
    let imported = import(request).unwrap_or_else(|error| panic!("{error}"));
    deployed(&imported.experiment).expect("TOML")
}

#[test]
fn public_deployments_load_and_every_line_says_where_it_comes_from() {
    for (files, gpu) in DEPLOYMENTS {
        let imported =
            import(&request(files, gpu)).unwrap_or_else(|error| panic!("{files:?}: {error}"));
        load(&imported);
        for line in imported.experiment.lines() {
            let is_value = !line.starts_with(['#', '[']) && line.contains(" = ");
            let said = ["# [", "# assumed", "# swept", "# what ", "# the ", "# from its "];
            assert!(
                !is_value || said.iter().any(|said| line.contains(said)),
                "{files:?}: nothing says so: {line}"
            );
        }
        for line in &imported.unused {
            assert!(
                imported.experiment.contains(&line.chars().take(60).collect::<String>()),
                "{line}"
            );
        }
    }
}

#[test]
fn public_deployments_are_what_they_say() {
    let expect = |at: usize, wanted: &[(&str, Value)]| {
        let (files, gpu) = DEPLOYMENTS[at];
        let found = settings(&request(files, gpu));
        for (key, value) in wanted {
            assert_eq!(found.get(*key), Some(value), "{files:?}: {key}");
        }
    };
    let text = |text: &str| Value::String(text.to_owned());
    expect(
        0,
        &[
            ("cluster.workers", 8.into()),
            ("cluster.model.tp", 2.into()),
            ("cluster.model.engine", text("vllm-0.24")),
            ("engine.max_model_len", 131_072.into()),
            ("engine.block_size", 64.into()),
            ("router.policy", text("round_robin")),
        ],
    );
    expect(
        1,
        &[
            ("cluster.pool.vllmprefillworker.workers", 6.into()),
            ("cluster.pool.vllmdecodeworker.role", text("decode")),
            ("cluster.pool.vllmdecodeworker.engine.prefix_caching", false.into()),
            ("cluster.pool.vllmprefillworker.engine.prefix_caching", true.into()),
            ("router.policy", text("kv")),
            ("router.semantics", text("0.9")),
        ],
    );
    expect(
        2,
        &[
            ("cluster.model.shape", text("llama-3.1-70b")),
            ("cluster.model.weights", text("fp8")),
            ("cluster.model.tp", 4.into()),
            ("engine.block_size", 128.into()),
            ("engine.prefix_caching", false.into()),
        ],
    );
    expect(
        3,
        &[
            ("cluster.model.gpu", text("h200")),
            ("cluster.model.weights", text("mxfp4")),
            ("cluster.model.kv", text("fp8")),
            ("engine.max_num_batched_tokens", 32_768.into()),
            ("router.use_kv_events", true.into()),
        ],
    );
    expect(
        4,
        &[
            ("cluster.model.engine", text("trtllm")),
            ("cluster.model.weights", text("fp8_block")),
            ("engine.kv_memory_fraction", Value::Float(0.7)),
            ("engine.max_num_batched_tokens", 7964.into()),
            ("engine.prefix_caching", false.into()),
            ("engine.chunked_prefill", false.into()),
            ("engine.cuda_graph.padding", true.into()),
        ],
    );
    expect(
        5,
        &[
            ("cluster.workers", 8.into()),
            ("engine.kv_memory_fraction", Value::Float(0.95)),
            ("router.policy", text("llmd")),
            ("router.replicas", 2.into()),
        ],
    );
}

/// The manifest that was written from the description of a published deployment means the
/// fleet of the experiment of that deployment, but for what no manifest says.
#[test]
fn a_published_deployment_is_imported_as_its_experiment() {
    let (files, gpu) = DEPLOYMENTS[7];
    let found = settings(&request(files, gpu));
    let model = [("shape", "llama-3.1-70b"), ("gpu", "h200"), ("weights", "fp8"), ("kv", "fp8")];
    for (key, value) in model {
        assert_eq!(found[&format!("cluster.model.{key}")], Value::from(value), "{key}");
    }
    let imported = load(&import(&request(files, gpu)).unwrap());
    let options = LoadOptions::default().set("workload.concurrency=60");
    let own = Experiment::load(Path::new("doks-3xh200"), &options).expect("shipped");
    let of_kv = |experiment: &Experiment| {
        let run = experiment.runs.iter().find(|run| run.settings.policy.name() == "kv");
        run.expect("swept").settings.clone()
    };
    let (imported, own) = (of_kv(&imported), of_kv(&own));
    let (a, b) = (&imported.pools.pools()[0], &own.pools.pools()[0]);
    assert_eq!(a.workers, b.workers);
    let (a, b) = (&a.engine, &b.engine);
    assert_eq!(a.block_size, b.block_size);
    assert_eq!(a.max_num_seqs, b.max_num_seqs);
    assert_eq!(a.max_num_batched_tokens, b.max_num_batched_tokens);
    assert_eq!((a.chunked_prefill, a.prefix_caching), (b.chunked_prefill, b.prefix_caching));
    assert_eq!((a.overlap, a.kv_bytes_per_token), (b.overlap, b.kv_bytes_per_token));
    assert_eq!(imported.policy.parameters(), own.policy.parameters());
}

/// Every scalar below a value, by its JSON pointer.
fn leaves(value: &Json, pointer: &str, found: &mut Vec<String>) {
    let key = |key: &str| format!("{pointer}/{}", yaml::escaped(key));
    match value {
        Json::Object(entries) => {
            entries.iter().for_each(|(name, value)| leaves(value, &key(name), found));
        }
        Json::Array(items) => {
            let items = items.iter().enumerate();
            items.for_each(|(at, value)| leaves(value, &key(&at.to_string()), found));
        }
        _ => found.push(pointer.to_owned()),
    }
}

/// A request with one document changed.
fn with(request: &Request, at: usize, change: impl FnOnce(&mut Json)) -> Request {
    let mut request = request.clone();
    let mut place = 0;
    let mut change = Some(change);
    for file in &mut request.files {
        let mut documents = yaml::documents(&file.text).unwrap();
        for document in &mut documents {
            if place == at {
                change.take().expect("one place")(document);
                let texts: Vec<String> = documents.iter().map(yaml::write).collect();
                file.text = texts.join("---\n");
                return request;
            }
            place += 1;
        }
    }
    panic!("no document {at}");
}

fn documents(request: &Request) -> Vec<Json> {
    request.files.iter().flat_map(|file| yaml::documents(&file.text).unwrap()).collect()
}

/// Whether a pointer, or what it stands in as a whole, is listed as not used.
fn is_listed(imported: &Imported, pointer: &str) -> bool {
    let words = imported.unused.iter().flat_map(|line| line.split_whitespace());
    let listed: Vec<&str> = words.map(|word| word.trim_end_matches([',', ':'])).collect();
    let parts: Vec<String> =
        pointer.split('/').skip(1).map(|part| yaml::dotted(&format!("/{part}"))).collect();
    (1..=parts.len()).any(|end| listed.contains(&parts[..end].join(".").as_str()))
}

/// Words that are compared with those that say something.
const ROLES: [&str; 4] = ["/type", "/componentType", "/subComponentType", "/llm-d.ai~1role"];

#[test]
fn what_is_not_used_is_listed() {
    let (files, gpu) = DEPLOYMENTS[3];
    let unused = import(&request(files, gpu)).unwrap().unused.join("\n");
    for wanted in [
        "--speculative-config",
        "drafted tokens",
        "--moe-backend",
        "--kv-transfer-config",
        "PYTHONHASHSEED",
    ] {
        assert!(unused.contains(wanted), "{wanted}: {unused}");
    }
    let secret =
        of_line("vllm serve Qwen/Qwen3-32B -tp 2 --api-key sk-secret --hf-token=hf_secret");
    let imported = import(&secret).unwrap();
    let all = format!("{}{}", imported.experiment, imported.unused.join("\n"));
    assert!(!all.contains("secret"), "{all}");
    assert!(all.contains("--api-key (value left out)"));
}

#[test]
fn what_cannot_be_simulated_is_refused_by_name() {
    for (line, said) in [
        ("vllm serve Qwen/Qwen3-0.6B", "\"Qwen/Qwen3-0.6B\" is not known (known: "),
        ("vllm serve Qwen/Qwen3-32B -tp 2 -pp 2", "-pp 2: pipeline parallelism"),
        ("vllm serve", "names no model"),
        ("python3 -m sglang.launch_server --model-path x", "SGLang"),
        ("echo hello", "runs no engine"),
        ("vllm serve a; vllm serve b", "several engines"),
        ("vllm serve Qwen/Qwen3-32B --quantization awq", "--quantization awq"),
        ("trtllm-serve Qwen/Qwen3-32B --extra_llm_api_options o.yaml", "o.yaml: this file was not"),
    ] {
        let error = import(&of_line(line)).expect_err(line).to_string();
        assert!(error.contains(said), "{line}: {error}");
    }
    let no_gpu = Request { gpu: None, ..of_line("vllm serve Qwen/Qwen3-32B -tp 2") };
    assert!(import(&no_gpu).unwrap_err().to_string().contains("does not say which GPU"));
    for (name, text) in [
        ("a.yaml", "a: 1"),
        ("a.yaml", "a: [1"),
        ("a.yaml", ""),
        ("a.yaml", "kind: Service\nmetadata: {name: a}"),
        ("a.yaml", "kind: Deployment\nspec: {template: {spec: {containers: 5}}}"),
        ("a.yaml", "kind: DynamoGraphDeployment\nspec: {services: {A: null, B: 5}}"),
        ("a.sh", "#!/bin/sh\n"),
    ] {
        assert!(import(&of_text(name, text)).is_err(), "{text}");
    }
}

#[test]
fn a_network_may_be_described_by_its_config() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = r#"{"model_type": "qwen3", "hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16,
        "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 3072, "vocab_size": 151936,
        "max_position_embeddings": 40960, "tie_word_embeddings": true, "torch_dtype": "bfloat16"}"#;
    std::fs::write(folder.path().join("config.json"), config).expect("written");
    let mut request = of_line("vllm serve Qwen/Qwen3-0.6B");
    let folder = folder.path().to_owned();
    request.files.push(Source { name: "config.json".to_owned(), folder, text: config.to_owned() });
    let imported = import(&request).unwrap();
    load(&imported);
    let found = deployed(&imported.experiment).unwrap();
    assert_eq!(found["cluster.model.shape"], Value::from("config.json"));
    assert_eq!(found["cluster.model.weights"], Value::from("bf16"));
    assert_eq!(found["engine.max_model_len"], Value::from(40_960));
}

#[test]
fn ranks_and_experts_are_read() {
    let line = "vllm serve deepseek-ai/DeepSeek-R1 --data-parallel-size 8 --enable-expert-parallel";
    let request = Request { gpu: Some("h200".to_owned()), ..of_line(line) };
    let found = settings(&request);
    assert_eq!(found["cluster.model.attention_dp"], Value::from(8));
    assert_eq!(found["cluster.model.ep"], Value::from(8));
    // Without experts they are workers by themselves.
    let found = settings(&of_line("vllm serve Qwen/Qwen3-32B -tp 2 -dp 4"));
    assert_eq!(found["cluster.workers"], Value::from(4));
    assert_eq!(found.get("cluster.model.attention_dp"), None);
}

#[test]
fn prompts_of_trtllm_fit_into_a_step_unless_they_are_chunked() {
    let found = settings(&of_line("trtllm-serve Qwen/Qwen3-32B --tp_size 2"));
    assert_eq!(found["engine.max_model_len"], Value::from(8_192));
    load(&import(&of_line("trtllm-serve Qwen/Qwen3-32B --tp_size 2")).unwrap());
    let line = "trtllm-serve Qwen/Qwen3-32B --tp_size 2 --enable_chunked_prefill";
    assert_eq!(settings(&of_line(line))["engine.max_model_len"], Value::from(40_960));
}

#[test]
fn an_image_of_trtllm_says_which_scheduler_it_has() {
    let deployment = |image: &str| {
        let text = format!(
            "kind: Deployment\nmetadata: {{name: a}}\nspec: {{replicas: 2, template: {{spec: \
             {{containers: [{{name: a, image: '{image}', command: [trtllm-serve, Qwen/Qwen3-32B, \
             --tp_size, '2'], resources: {{limits: {{nvidia.com/gpu: 2}}}}}}]}}}}}}"
        );
        of_text("a.yaml", &text)
    };
    let release = |version: &str| format!("nvcr.io/nvidia/tensorrt-llm/release:{version}");
    for (image, engine) in [
        (release("1.3.0"), "trtllm"),
        (release("1.4.0"), "trtllm-1.4"),
        (release("1.4.0rc2"), "trtllm-1.4"),
        (release("2.0"), "trtllm-1.4"),
        ("nvcr.io/nvidia/ai-dynamo/tensorrtllm-runtime:1.4.0".to_owned(), "trtllm"),
    ] {
        let imported = import(&deployment(&image)).unwrap_or_else(|error| panic!("{error}"));
        let found = deployed(&imported.experiment).expect("TOML");
        assert_eq!(found["cluster.model.engine"], Value::from(engine), "{image}");
        load(&imported);
    }
}

/// Keys that each kind of deployment can express, with values to draw from.
fn keys(at: usize) -> Vec<(&'static str, Vec<Value>)> {
    let counts =
        |counts: &[i64]| counts.iter().map(|count| Value::Integer(*count)).collect::<Vec<_>>();
    let switch = || vec![Value::Boolean(true), Value::Boolean(false)];
    let numbers =
        |numbers: &[f64]| numbers.iter().map(|number| Value::Float(*number)).collect::<Vec<_>>();
    let texts = |texts: &[&str]| texts.iter().map(|text| Value::from(*text)).collect::<Vec<_>>();
    let dynamo = vec![
        ("router.policy", texts(&["kv", "round_robin", "random", "power_of_two", "least_loaded"])),
        ("router.overlap_weight", numbers(&[0.5, 2.5])),
        ("router.temperature", numbers(&[0.25, 1.5])),
        ("router.use_kv_events", switch()),
        ("router.assume_kv_reuse", switch()),
        ("router.approximate_ttl", texts(&["60s", "90s"])),
        ("router.active_decode_blocks_threshold", numbers(&[0.5, 0.75])),
        ("router.replicas", counts(&[2, 3])),
    ];
    let vllm = vec![
        ("cluster.workers", counts(&[1, 2, 5, 12])),
        ("cluster.model.tp", counts(&[1, 2, 4, 8])),
        ("engine.max_num_seqs", counts(&[1, 64, 256, 2_048])),
        ("engine.max_num_batched_tokens", counts(&[4_096, 16_384])),
        ("engine.max_model_len", counts(&[8_192, 32_768])),
        ("engine.kv_memory_fraction", numbers(&[0.8, 0.85])),
        ("engine.prefix_caching", switch()),
        ("engine.chunked_prefill", switch()),
        ("engine.overlap", switch()),
        ("engine.scheduling_policy", texts(&["fcfs", "priority"])),
        ("engine.num_blocks", counts(&[4_096, 10_000])),
        ("cluster.model.kv", texts(&["fp8"])),
    ];
    match at {
        0 | 2 | 3 => [vllm, dynamo].concat(),
        1 => [
            dynamo,
            vec![
                ("cluster.pool.vllmprefillworker.workers", counts(&[4, 7])),
                ("cluster.pool.vllmdecodeworker.workers", counts(&[1, 3])),
                ("cluster.pool.vllmdecodeworker.engine.max_num_seqs", counts(&[64, 512])),
                (
                    "cluster.pool.vllmprefillworker.engine.max_num_batched_tokens",
                    counts(&[4_096, 32_768]),
                ),
                ("cluster.pool.vllmdecodeworker.engine.prefix_caching", switch()),
                ("cluster.pool.vllmprefillworker.model.tp", counts(&[1, 4])),
            ],
        ]
        .concat(),
        4 | 7 => [
            dynamo,
            vec![
                ("cluster.workers", counts(&[2, 5])),
                ("cluster.model.tp", counts(&[1, 4])),
                ("engine.max_num_seqs", counts(&[64, 128])),
                ("engine.max_num_batched_tokens", counts(&[8_192])),
                ("engine.kv_memory_fraction", numbers(&[0.8, 0.9])),
                ("engine.prefix_caching", switch()),
                ("engine.overlap", switch()),
                ("engine.block_size", counts(&[64])),
                ("engine.trtllm.partial_reuse", switch()),
            ],
            // Elsewhere longer prompts than a step would be refused.
            if at == 4 { vec![("engine.chunked_prefill", switch())] } else { Vec::new() },
        ]
        .concat(),
        _ => [vllm, vec![("router.policy", texts(&["inference_extension", "llmd_token_load"]))]]
            .concat(),
    }
}

/// RFC 7386.
fn merge(target: &mut Json, patch: &Json) {
    let Json::Object(patch) = patch else {
        target.clone_from(patch);
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in patch {
        match value {
            Json::Null => {
                target.as_object_mut().unwrap().remove(key);
            }
            value => merge(&mut target[key], value),
        }
    }
}

/// A strategic merge as far as containers need it: they are known by their names.
fn strategic(target: &mut Json, patch: &Json) {
    let mut patch = patch.clone();
    let pointer = "/spec/template/spec/containers";
    if let Some(containers) = patch.pointer_mut(pointer).map(std::mem::take) {
        let known = target.pointer_mut(pointer).unwrap().as_array_mut().unwrap();
        for container in containers.as_array().unwrap() {
            let same = known.iter_mut().find(|known| known["name"] == container["name"]);
            merge(same.expect("a container of this name"), container);
        }
        let known = target.pointer(pointer).unwrap().clone();
        *patch.pointer_mut(pointer).unwrap() = known;
    }
    merge(target, &patch);
}

/// Applies the files of a change as their comments say, and gives the documents.
fn applied(request: &Request, patched: &Patched) -> Vec<Json> {
    let texts = request.files.iter().map(|file| (file.name.clone(), file.text.clone()));
    let mut documents: Vec<(String, Json)> = texts
        .flat_map(|(name, text)| {
            yaml::documents(&text)
                .unwrap()
                .into_iter()
                .map(move |document| (name.clone(), document))
        })
        .collect();
    for file in &patched.files {
        let patch = yaml::parse(&file.text).unwrap();
        let is_it = |document: &Json| {
            document["kind"] == patch["kind"]
                && document["metadata"]["name"] == patch["metadata"]["name"]
        };
        let target =
            documents.iter_mut().find(|(name, document)| match file.apply.starts_with("kubectl") {
                true => is_it(document),
                false => file.name == *name,
            });
        let (_, target) = target.unwrap_or_else(|| panic!("nothing for {}", file.name));
        if file.apply.contains("kubectl patch deployment") {
            strategic(target, &patch);
        } else if file.apply.starts_with("take it in place of") {
            *target = patch;
        } else {
            merge(target, &patch);
        }
    }
    documents.into_iter().map(|(_, document)| document).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Import, patch, import gives the changed experiment, and what is deployed is what was
    /// changed.
    #[test]
    fn what_is_changed_comes_back(
        at in 0..DEPLOYMENTS.len(),
        picks in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..5),
    ) {
        let (files, gpu) = DEPLOYMENTS[at];
        let request = request(files, gpu);
        let keys = keys(at);
        let mut wanted = BTreeMap::new();
        for (key, value) in picks {
            let (key, values) = &keys[key.index(keys.len())];
            wanted.insert((*key).to_owned(), values[value.index(values.len())].clone());
        }
        let before = settings(&request);
        let patched = match patch(&request, &wanted, Some("better")) {
            Ok(patched) => patched,
            Err(PatchError::Nothing) => {
                let same = |(key, value): (&String, &Value)| is_same(&before[key], value);
                prop_assert!(wanted.iter().all(same));
                return Ok(());
            }
            // More GPUs than weights need, or fewer, are refused by the model.
            Err(PatchError::Import(error)) => {
                let asks_for_other_gpus = wanted.keys().any(|key| key.ends_with("model.tp"));
                prop_assert!(asks_for_other_gpus, "{error}");
                return Ok(());
            }
            Err(PatchError::Inexpressible { why, .. }) if why.contains("both size the KV pool") => {
                let is_twice = |key| rival(key).is_some_and(|other| wanted.contains_key(&other));
                prop_assert!(wanted.keys().any(|key| is_twice(key)), "{why}");
                return Ok(());
            }
            Err(error) => return Err(TestCaseError::fail(format!("{wanted:?}: {error}"))),
        };
        let after = settings(&patched.request);
        for (key, value) in &wanted {
            prop_assert!(is_same(&after[key], value), "{key}: {} for {value}", after[key]);
        }
        let touched = |key: &String| {
            wanted.contains_key(key)
                // Another policy of llm-d's router has other parameters.
                || key.starts_with("router.") && wanted.contains_key("router.policy")
                // The KV pool is sized in one way or the other.
                || wanted.keys().any(|wanted| rival(wanted).as_ref() == Some(key))
        };
        for (key, value) in before.iter().filter(|(key, _)| !touched(key)) {
            prop_assert_eq!(Some(value), after.get(key), "{}", key);
        }
        // What a user applies is what was imported again.
        let texts: Vec<&str> = patched.request.files.iter().map(|file| file.text.as_str()).collect();
        let expected: Vec<Json> = texts.iter().flat_map(|text| yaml::documents(text).unwrap()).collect();
        prop_assert_eq!(applied(&request, &patched), expected);
        for file in &patched.files {
            prop_assert!(file.text.starts_with("# better\n"), "{}", file.text);
        }
    }

    /// Whatever stands in a file, there is an answer or a refusal.
    #[test]
    fn odd_files_do_no_harm(text in "[a-zA-Z0-9:{}\\[\\]\"'$\\\\&|;#\n\r\t\u{b}\u{85}\u{a0}\u{2003}\u{3000} -]{0,200}") {
        let _ = import(&of_text("a.yaml", &text));
        let _ = import(&of_line(&text));
        let _ = import(&of_line(&format!("vllm serve Qwen/Qwen3-32B -tp 2 {text}")));
    }
}

/// Keys that no deployment can express, with a value.
fn inexpressible() -> Vec<(&'static str, Value)> {
    vec![
        ("cluster.model.gpu", "b200".into()),
        ("engine.cuda_graph.sizes", Value::Array(Vec::new())),
        ("router.novel", 3.into()),
        ("cluster.prefill.workers", 2.into()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever stands in a manifest is used, or listed as not used: to take it away or to
    /// change it changes the experiment, in whose head the list is.
    #[test]
    fn every_leaf_of_a_manifest_is_used_or_listed(
        at in 0..DEPLOYMENTS.len(),
        leaf in any::<prop::sample::Index>(),
    ) {
        let (files, gpu) = DEPLOYMENTS[at];
        let request = request(files, gpu);
        let mut all = Vec::new();
        for (at, document) in documents(&request).iter().enumerate() {
            let mut found = Vec::new();
            leaves(document, "", &mut found);
            // Whatever does not prefill decodes, whatever its mode says.
            found.retain(|leaf| document.pointer(leaf) != Some(&json!("decode")));
            all.extend(found.into_iter().map(|leaf| (at, leaf)));
        }
        // What names and sorts a document, and what is held against known words.
        all.retain(|(_, leaf)| {
            let is_word = ROLES.iter().any(|role| leaf.ends_with(role));
            !is_word && !leaf.ends_with("/name") && !["/kind", "/apiVersion"].contains(&&**leaf)
        });
        let (at, leaf) = &all[leaf.index(all.len())];
        let without = with(&request, *at, |document| {
            let (parent, key) = leaf.rsplit_once('/').unwrap();
            let key = unescaped(key);
            match document.pointer_mut(parent).unwrap() {
                Json::Object(entries) => drop(entries.remove(&key)),
                Json::Array(items) => drop(items.remove(key.parse().unwrap())),
                _ => unreachable!("it has leaves"),
            }
        });
        let other = with(&request, *at, |document| {
            let leaf = document.pointer_mut(leaf).unwrap();
            *leaf = match &*leaf {
                Json::Number(number) => match number.as_u64() {
                    Some(whole) => json!(whole + 1),
                    None => json!(number.as_f64().unwrap() / 2.0),
                },
                Json::Bool(is_on) => json!(!is_on),
                other => json!(format!("{}x", other.as_str().unwrap_or_default())),
            };
        });
        let before = import(&request).unwrap();
        let differs = |changed: &Request| {
            let Ok(after) = import(changed) else { return true };
            after.experiment != before.experiment || after.files != before.files
        };
        // Variables are listed by their names alone, as values may be secret, and flags that
        // they are put into by their beginnings.
        let document = &documents(&request)[*at];
        let name = leaf.strip_suffix("/value").map(|entry| format!("{entry}/name"));
        let name = name.and_then(|name| document.pointer(&name)?.as_str());
        let is_named =
            name.is_some_and(|name| {
                let is_in_flag = document.to_string().contains(&format!("$({name})"));
                is_in_flag || before.unused.iter().any(|line| line.contains(name))
            });
        prop_assert!(
            is_named || is_listed(&before, leaf) || differs(&without) || differs(&other),
            "{files:?}, document {at}: {leaf} is dropped in silence"
        );
    }

    /// What nothing looks at is listed by its path, wherever it stands.
    #[test]
    fn what_is_not_known_is_listed_wherever_it_stands(
        at in 0..DEPLOYMENTS.len(),
        place in any::<prop::sample::Index>(),
    ) {
        let (files, gpu) = DEPLOYMENTS[at];
        let request = request(files, gpu);
        let mut places = Vec::new();
        for (at, document) in documents(&request).iter().enumerate() {
            let mut all = Vec::new();
            leaves(document, "", &mut all);
            let parents = all.iter().filter_map(|leaf| Some(leaf.rsplit_once('/')?.0.to_owned()));
            let is_table = |pointer: &String| document.pointer(pointer).unwrap().is_object();
            places.extend(parents.filter(is_table).map(|parent| (at, parent)));
        }
        let (at, parent) = &places[place.index(places.len())];
        let changed = with(&request, *at, |document| {
            document.pointer_mut(parent).unwrap()["novelKey"] = json!("x");
        });
        if let Ok(imported) = import(&changed) {
            // Variables of a `ConfigMap` and files of options are listed by name, others by path.
            let unused = imported.unused.join("\n");
            let is_label = parent.ends_with("Selector") || parent.ends_with("labels");
            prop_assert!(
                unused.contains("novelKey") || is_listed(&imported, parent) || is_label,
                "{files:?} {parent}: {unused}"
            );
        }
    }

    /// A recommendation is deployed as far as what was imported can express it, and the rest is
    /// named: what is imported again is the recommended experiment, less that.
    #[test]
    fn what_can_be_expressed_comes_back_and_the_rest_is_named(
        at in 0..DEPLOYMENTS.len(),
        picks in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..3),
        others in prop::sample::subsequence(inexpressible(), 0..3),
    ) {
        let (files, gpu) = DEPLOYMENTS[at];
        let request = request(files, gpu);
        let keys: Vec<_> =
            keys(at).into_iter().filter(|(key, _)| !key.ends_with("model.tp")).collect();
        let mut wanted: BTreeMap<String, Value> = BTreeMap::new();
        for (key, value) in picks {
            let (key, values) = &keys[key.index(keys.len())];
            wanted.insert((*key).to_owned(), values[value.index(values.len())].clone());
        }
        for (key, value) in others {
            wanted.entry(key.to_owned()).or_insert(value);
        }
        let part = patch_part(&request, &wanted, "better\n").unwrap();
        let after = part.patched.as_ref().map_or_else(|| settings(&request), |patched| {
            settings(&patched.request)
        });
        for (key, value) in &wanted {
            let named = part.not_expressed.iter().any(|line| line.starts_with(&format!("{key} = ")));
            let holds = after.get(key).is_some_and(|after| is_same(after, value));
            prop_assert!(named != holds, "{key} = {value}: {:?}", part.not_expressed);
        }
        for line in &part.not_expressed {
            let told = |file: &PatchFile| file.text.contains(line.split(':').next().unwrap());
            prop_assert!(part.patched.iter().flat_map(|patched| &patched.files).all(told));
        }
    }
}

#[test]
fn lines_of_a_shell_change_in_place() {
    let request = of_line(
        "exec vllm serve Qwen/Qwen3-32B -tp 2 --max-num-seqs=64 \\\n  --enable-prefix-caching",
    );
    let changes = BTreeMap::from([
        ("engine.max_num_seqs".to_owned(), Value::from(128)),
        ("engine.prefix_caching".to_owned(), Value::from(false)),
        ("engine.max_model_len".to_owned(), Value::from(32_768)),
        ("cluster.workers".to_owned(), Value::from(4)),
    ]);
    let patched = patch(&request, &changes, None).unwrap();
    let expected = "exec vllm serve Qwen/Qwen3-32B -tp 2 --max-num-seqs=128 \\\n  --no-enable-prefix-caching --max-model-len 32768";
    assert_eq!(patched.request.command.as_deref(), Some(expected));
    assert_eq!(patched.request.workers, Some(4));
    assert!(patched.files[0].text.contains("# engine.max_num_seqs: 64 -> 128\n"));
    assert_eq!(patched.files[0].apply, "start 4 of these");
    // A file whose line stays as it is says so, too.
    let file = Source {
        name: "serve.sh".into(),
        text: "vllm serve Qwen/Qwen3-32B -tp 2".into(),
        ..Source::default()
    };
    let request = Request { command: None, files: vec![file], ..request };
    let more = BTreeMap::from([("cluster.workers".to_owned(), Value::from(3))]);
    let patched = patch(&request, &more, None).unwrap();
    assert_eq!((patched.files.len(), patched.files[0].apply.as_str()), (1, "start 3 of these"));
    assert!(patched.files[0].text.ends_with("vllm serve Qwen/Qwen3-32B -tp 2\n"));
    // `trtllm-serve` has flags of its own.
    let request = of_line("trtllm-serve Qwen/Qwen3-32B --tp_size 2");
    let changes = BTreeMap::from([("engine.kv_memory_fraction".to_owned(), Value::Float(0.8))]);
    let patched = patch(&request, &changes, None).unwrap();
    let command = patched.request.command.unwrap();
    assert!(command.ends_with("--kv_cache_free_gpu_memory_fraction 0.8"), "{command}");
}

#[test]
fn keys_that_nothing_expresses_are_refused_by_name() {
    let (files, gpu) = DEPLOYMENTS[0];
    let dynamo = request(files, gpu);
    let (files, gpu) = DEPLOYMENTS[6];
    let llmd = request(files, gpu);
    let line = of_line("vllm serve Qwen/Qwen3-32B -tp 2");
    for (request, key, value, said) in [
        (&dynamo, "cluster.model.gpu", Value::from("h100"), "what the workers are"),
        (&dynamo, "router.feed.delay", "5ms".into(), "a property of the fleet"),
        (&dynamo, "router.policy", "dynamo_two_tier".into(), "can be kv, round_robin"),
        (&dynamo, "engine.activation_gib", 5.into(), "a property of the fleet"),
        (&dynamo, "engine.cuda_graph.sizes", Value::Array(Vec::new()), "no flag of"),
        (&dynamo, "cluster.pool.a.workers", 5.into(), "no such pool"),
        (&dynamo, "engine.max_num_seqs", "many".into(), "many"),
        (&llmd, "router.policy", "kv".into(), "inference_extension"),
        (&line, "router.policy", "kv".into(), "no router was imported"),
        (&line, "engine.trtllm.partial_reuse", false.into(), "no flag of"),
    ] {
        let changes = BTreeMap::from([(key.to_owned(), value)]);
        let error = patch(request, &changes, None).expect_err(key).to_string();
        assert!(error.contains(said), "{key}: {error}");
    }
}

#[test]
fn variables_of_config_maps_are_read_and_others_are_listed() {
    let text = "
kind: DynamoGraphDeployment
metadata: {name: a, namespace: here}
spec:
  services:
    Frontend:
      componentType: frontend
      extraPodSpec:
        mainContainer:
          image: nvcr.io/dynamo/vllm-runtime:1.2.0
          envFrom:
          - configMapRef: {name: router}
          - {prefix: DYN_, configMapRef: {name: more}}
          - secretRef: {name: hidden}
          env:
          - {name: DYN_ROUTER_TEMPERATURE, value: '0.5'}
          - {name: DYN_ROUTER_TTL, valueFrom: {configMapKeyRef: {name: none, key: ttl}}}
          - {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    Worker:
      replicas: 2
      autoscaling: {enabled: true, maxReplicas: 9}
      extraPodSpec:
        initContainers: [{name: fetch}]
        mainContainer:
          image: nvcr.io/dynamo/vllm-runtime:1.2.0
          command: [python3, -m, dynamo.vllm]
          args: [--model, Qwen/Qwen3-32B, -tp, $(TP_SIZE)]
          env: [{name: TP_SIZE, value: '2'}, {name: TP, value: '9'}]
---
kind: ConfigMap
metadata: {name: router}
data: {DYN_ROUTER_MODE: kv, DYN_ROUTER_TEMPERATURE: '0.9'}
---
kind: ConfigMap
metadata: {name: more}
data: {ROUTER_QUEUE_THRESHOLD: '3'}
";
    let request = Request { workers: Some(7), ..of_text("a.yaml", text) };
    let found = settings(&request);
    assert_eq!(found["router.policy"], Value::from("kv"));
    assert_eq!(found["router.temperature"], Value::Float(0.5));
    assert_eq!(found["router.queue_threshold"], Value::from(3));
    assert_eq!(found["cluster.model.tp"], Value::from(2));
    assert_eq!(found["cluster.workers"], Value::from(2));
    let imported = import(&request).unwrap();
    let unused = imported.unused.join("\n");
    for wanted in [
        "Frontend: envFrom hidden: its contents are in none",
        "Frontend: variable DYN_ROUTER_TTL: its contents are in none",
        "Frontend: variable POD_IP: has no effect",
        "Worker: initContainers fetch",
        "Worker: autoscaling",
        "variables TP: has no effect",
        "the requested number of workers, 7",
    ] {
        assert!(unused.contains(wanted), "{wanted}: {unused}");
    }
    // Another release than the one whose rules are known.
    assert!(imported.experiment.contains("semantics = \"1.6\" # assumed"));
    let changes = BTreeMap::from([("cluster.workers".to_owned(), Value::from(4))]);
    let patched = patch(&request, &changes, None).unwrap();
    assert!(patched.files[0].apply.contains("dynamographdeployment a -n here --type merge"));
    for (from, to) in [("name: a,", "name: ../a,"), ("namespace: here", "namespace: a/b")] {
        let error = import(&of_text("a.yaml", &text.replace(from, to))).unwrap_err().to_string();
        assert!(error.contains("not a valid Kubernetes name"), "{error}");
    }
}

#[test]
fn a_router_is_the_one_that_helm_values_name() {
    let (files, gpu) = DEPLOYMENTS[5];
    let mut wanted = request(files, gpu);
    let values = &mut wanted.files[1].text;
    let other = "pluginsCustomConfig:\n      another.yaml: 'kind: EndpointPickerConfig'\n";
    *values = values.replace("pluginsCustomConfig:\n", other);
    *values = values.replace("    replicas: 2\n", "    replicas: 2\n    image: {tag: v9}\n");
    values.push_str("inferencePool: {modelServers: 1}\n");
    let imported = import(&wanted).unwrap();
    assert!(imported.files[0].1.contains("precise-prefix-cache-scorer"));
    let unused = imported.unused.join("\n");
    for listed in
        ["router.epp.image", "inferencePool", "router.epp.pluginsCustomConfig.another.yaml"]
    {
        assert!(unused.contains(listed), "{listed}: {unused}");
    }
    wanted.files[1].text = wanted.files[1].text.replace("File: precise.yaml", "File: none.yaml");
    let error = import(&wanted).unwrap_err().to_string();
    assert!(error.contains("must name one of its files: another.yaml, precise.yaml"), "{error}");
}

#[test]
fn of_several_configurations_of_a_router_the_command_line_names_one() {
    let (files, gpu) = DEPLOYMENTS[5];
    let mut wanted = request(&files[..1], gpu);
    let values = request(files, gpu).files[1].text.clone();
    let (_, text) = values.split_once("precise.yaml: |\n").unwrap();
    let map = format!(
        "kind: ConfigMap\nmetadata: {{name: epp}}\ndata:\n  other.yaml: 'kind: EndpointPickerConfig'\n  \
         precise.yaml: |\n{text}"
    );
    let source = |name: &str, text: &str| Source {
        name: name.to_owned(),
        text: text.to_owned(),
        ..Source::default()
    };
    wanted.files.push(source("map.yaml", &map));
    let error = import(&wanted).unwrap_err().to_string();
    assert!(
        error.contains("second EndpointPickerConfig")
            && error.contains("command names one of them"),
        "{error}"
    );
    let epp = "kind: Deployment\nmetadata: {name: epp}\nspec: {template: {spec: {containers: [{name: epp, \
               args: [--config-file, /config/precise.yaml]}]}}}";
    wanted.files.push(source("epp.yaml", epp));
    let imported = import(&wanted).unwrap();
    assert!(imported.files[0].1.contains("precise-prefix-cache-scorer"));
    assert!(imported.unused.iter().any(|line| line.contains("ConfigMap epp: data.other.yaml")));
}

#[test]
fn lengths_and_repeated_flags_are_what_an_engine_makes_of_them() {
    let line = "vllm serve Qwen/Qwen3-30B-A3B-Instruct-2507";
    assert_eq!(settings(&of_line(line))["engine.max_model_len"], Value::from(262_144));
    let line = "vllm serve Qwen/Qwen3-32B -tp 2 --max-model-len auto --enable-prefix-caching \
                --no-enable-prefix-caching --novel 1 --no-novel";
    let imported = import(&of_line(line)).unwrap();
    let unused = imported.unused.join("\n");
    assert!(unused.contains("--max-model-len auto: vLLM fits"), "{unused}");
    assert!(unused.contains("--enable-prefix-caching: overridden by"), "{unused}");
    assert!(unused.contains("--novel 1: overridden by"), "{unused}");
    assert_eq!(settings(&of_line(line))["engine.prefix_caching"], Value::from(false));
    // A space of Unicode is a part of its word, as for a shell.
    let error = import(&of_line("vllm serve\u{a0}Qwen/Qwen3-32B")).unwrap_err().to_string();
    assert!(error.contains("runs no engine"), "{error}");
}
