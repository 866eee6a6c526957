//! Simulated serving runs against real ones, and the record of their errors.

use super::program::{EXPERIMENT, Scratch, text};
use flate2::read::GzDecoder;
use kv_router_sim::accuracy::composed::Composer;
use kv_router_sim::accuracy::data::{ServingRun, read_runs, read_steps};
use kv_router_sim::accuracy::runs::{Predicted, Replays};
use kv_router_sim::accuracy::{Accuracy, AccuracySettings, Record};
use kv_router_sim::engine::model::{Dtype, Parts};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::sync::LazyLock;

static SETTINGS: LazyLock<AccuracySettings> = LazyLock::new(|| {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    AccuracySettings::load(&root.join("experiments/accuracy.toml")).unwrap()
});

static RUNS: LazyLock<Vec<ServingRun>> =
    LazyLock::new(|| read_runs(&SETTINGS.runs, &SETTINGS.names, &SETTINGS.assumed).unwrap());

static FURTHER_RUNS: LazyLock<Vec<ServingRun>> = LazyLock::new(|| {
    let path = SETTINGS.further_runs.as_ref().unwrap();
    read_runs(path, &SETTINGS.names, &SETTINGS.assumed).unwrap()
});

static RANK_RUNS: LazyLock<Vec<ServingRun>> = LazyLock::new(|| {
    let path = SETTINGS.rank_runs.as_ref().unwrap();
    read_runs(path, &SETTINGS.names, &SETTINGS.assumed).unwrap()
});

/// Composed steps of mixtures of experts, nothing fitted, against real runs: the
/// errors are those of the composition of all the tables that the operators were taken from.
#[test]
fn composed_steps_are_as_far_from_runs_as_the_tables_are() {
    let mut errors: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let mut composer = Composer::new(&SETTINGS.models, &SETTINGS.assumed);
    for run in FURTHER_RUNS.iter() {
        let ms = composer.tpot_ms(run).unwrap();
        let error = (ms.expect("measured operators") / run.tpot_ms - 1.0).abs() * 100.0;
        let Parts { gpu, shape, tp, ep, weight_dtype, .. } = &run.parts;
        let name = format!("{shape} {weight_dtype} {gpu} {tp} {ep} {}", run.engine);
        errors.entry(name).or_default().push(error);
    }
    assert_eq!(FURTHER_RUNS.len(), 734);
    // Mean absolute errors in percent; with all rows of the tables: 4, 8, 4, 9, 7, 9.6, 3, 16.
    for (name, percent, runs) in [
        ("gpt-oss-120b.toml mxfp4 h200 1 1 vllm", 4.3, 10),
        ("gpt-oss-120b.toml mxfp4 h200 4 1 vllm", 8.0, 12),
        ("gpt-oss-120b.toml mxfp4 h100 2 1 vllm", 4.2, 9),
        ("gpt-oss-120b.toml mxfp4 b200 4 1 trtllm", 4.3, 11),
        ("qwen3-235b-a22b.toml fp8_block h100 4 4 trtllm", 7.0, 50),
        ("deepseek-r1.toml fp8_block h200 8 8 trtllm", 9.6, 9),
        ("kimi-k2.5.toml int4 h200 8 1 vllm", 3.0, 17),
        ("minimax-m2.5.toml fp8_block h100 4 4 vllm", 16.3, 18),
        ("llama-3.1-70b.toml fp8 b200 8 1 trtllm", 2.8, 16),
        ("llama-3.1-70b.toml fp8 b200 2 1 vllm", 5.5, 10),
    ] {
        let errors = &errors[name];
        let mean = errors.iter().sum::<f64>() / errors.len() as f64;
        assert_eq!(errors.len(), runs, "{name}");
        assert!((mean - percent).abs() < 0.3, "{name}: {mean:.2}");
    }
}

/// Replays of a light and a heavy run of each kind of attention and engine.
#[test]
fn replays_of_mixtures_of_experts_are_near_real_runs() {
    for (name, prompt, output, concurrency, percent) in [
        ("gpt-oss-120b mxfp4, h200 tp 2, vllm-0.24 0.18.0", 1024, 1024, 16, 10.0),
        ("gpt-oss-120b mxfp4, h200 tp 4, vllm-0.24 0.18.0", 8192, 1024, 32, 15.0),
        ("kimi-k2.5 int4, h200 tp 8, vllm-0.16 0.16.0", 1024, 1024, 16, 10.0),
        ("minimax-m2.5 fp8_block, h100 tp 4 ep 4, vllm-0.24 0.18.0", 1024, 1024, 32, 10.0),
    ] {
        let wanted = |run: &&ServingRun| {
            run.deployment() == name
                && (run.prompt_tokens, run.output_tokens, run.concurrency)
                    == (prompt, output, concurrency)
        };
        let run = FURTHER_RUNS.iter().find(wanted).expect(name);
        let predicted = replay(run);
        let error = (predicted.tpot_ms / run.tpot_ms - 1.0) * 100.0;
        assert!(error.abs() < percent, "{run}: {error:.1} %, {predicted:?}");
    }
}

fn replay(run: &ServingRun) -> Predicted {
    let runs = [run.clone()];
    Replays::new(&runs, &SETTINGS.models, &SETTINGS.assumed).unwrap().predict_all().unwrap()[0]
}

fn run(deployment: &str, prompt: u32, output: u32, concurrency: u32) -> &'static ServingRun {
    let wanted = |run: &&ServingRun| {
        run.deployment() == deployment
            && (run.prompt_tokens, run.output_tokens, run.concurrency)
                == (prompt, output, concurrency)
    };
    RUNS.iter().find(wanted).expect("a run of measured/serving.csv.gz")
}

#[test]
fn no_error_has_grown() {
    // Experiments take seconds each: `sim accuracy --check` runs them too.
    let settings = AccuracySettings {
        experiments: Vec::new(),
        further_runs: None,
        rank_runs: None,
        ..SETTINGS.clone()
    };
    let accuracy = Accuracy::new(&settings).unwrap();
    let record = Record::read(&SETTINGS.record).unwrap();
    let worse = accuracy.record().worse_than(&record);
    // So do replays of the further runs, and gains are read off the experiments.
    let further = FURTHER_RUNS.iter().chain(RANK_RUNS.iter());
    let names: Vec<String> = further.map(ServingRun::deployment).collect();
    let elsewhere = |line: &str| {
        line.starts_with("published, ")
            || line.starts_with("gain, ")
            || line.starts_with("composed, ")
            || line.starts_with("run, all but ")
            || line.starts_with("run, all with ranks but ")
            || names.iter().any(|name| line.starts_with(&format!("run, {name}, ")))
    };
    let measured: Vec<&String> = worse.iter().filter(|line| !elsewhere(line)).collect();
    assert_eq!(measured, Vec::<&String>::new());
    assert_eq!(accuracy.unexplained(), Vec::<String>::new());
    // The tables have every step and every run.
    assert_eq!(RUNS.len(), 194);
    assert_eq!(read_steps(&SETTINGS.steps, &SETTINGS.names).unwrap().len(), 5_698);
}

/// At 8,192 / 1,024 tokens and concurrency 32 a real H200 shows a first token
/// after 3.1 s and 75.7 ms a token; at 64, 39.8 s and 107 ms.
#[test]
fn a_full_pool_of_vllm_shows_the_real_pattern() {
    let deployment = "llama-3.1-70b fp8, h200 tp 1, vllm";
    for (concurrency, preempts) in [(32, false), (64, true)] {
        let run = run(deployment, 8_192, 1_024, concurrency);
        let predicted = replay(run);
        assert!((predicted.tpot_ms / run.tpot_ms - 1.0).abs() < 0.1, "{run}: {predicted:?}");
        assert!((predicted.ttft_ms / run.ttft_ms - 1.0).abs() < 0.25, "{run}: {predicted:?}");
        assert_eq!(predicted.preemptions > 0.0, preempts, "{run}: {predicted:?}");
    }
}

/// The same run with a 16-bit cache waits for memory: that is not what was seen.
#[test]
fn a_16_bit_pool_cannot_hold_what_ran_on_one_h200() {
    let run = run("llama-3.1-70b fp8, h200 tp 1, vllm", 8_192, 1_024, 32);
    let mut half = run.clone();
    half.parts.kv_dtype = Dtype::Bf16;
    let predicted = replay(&half);
    assert!(predicted.ttft_ms > 5.0 * run.ttft_ms, "{predicted:?}");
    assert!(predicted.preemptions > 0.0);
}

/// More clients never shorten the time per token nor the wait.
#[test]
fn more_clients_take_no_less_time() {
    for deployment in ["llama-3.1-70b fp8, h200 tp 4, vllm", "llama-3.1-70b fp8, h200 tp 1, trtllm"]
    {
        let mut before: Option<Predicted> = None;
        for concurrency in [4, 8, 16, 32, 64] {
            let predicted = replay(run(deployment, 8_192, 1_024, concurrency));
            if let Some(before) = before {
                assert!(predicted.tpot_ms > before.tpot_ms, "{deployment} {concurrency}");
                assert!(predicted.ttft_ms > before.ttft_ms, "{deployment} {concurrency}");
            }
            before = Some(predicted);
        }
    }
}

#[test]
fn rows_that_cannot_be_used_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("runs.csv");
    let good = "gpu,engine,engine_version,model,precision,mode,tp,isl,osl,concurrency,ttft_ms,tpot_ms,note\n\
                h200_sxm,vllm,,Qwen/Qwen3-32B,fp8,agg,1,1024,128,8,100,10,fixed lengths\n";
    let read = |text: &str| {
        std::fs::write(&path, text).unwrap();
        read_runs(&path, &SETTINGS.names, &SETTINGS.assumed)
    };
    let runs = read(good).unwrap();
    assert!(!runs[0].jittered);
    assert_eq!(runs[0].parts.kv_dtype, Dtype::Fp8);
    for (from, to, problem) in [
        ("h200_sxm", "h300", "gpu \"h300\": must be one of b200_sxm, h100_sxm, h200_sxm, l40s"),
        ("Qwen/Qwen3-32B", "x", "model \"x\": must be one of"),
        ("vllm", "sglang", "engine \"sglang\": must be one of"),
        (",fp8,", ",int4,", "precision \"int4\": must begin with fp8"),
        ("100,10,", "-1,10,", "ttft_ms -1: must be a finite number above 0"),
        ("100,10,", "100,NaN,", "tpot_ms NaN: must be a finite number above 0"),
        (",8,", ",0,", "concurrency 0: must be from 1 to 1000000"),
        (",8,", ",many,", "invalid digit"),
        ("isl,", "prompt,", "missing field `isl`"),
    ] {
        let error = read(&good.replacen(from, to, 1)).unwrap_err().to_string();
        assert!(error.contains("runs.csv:2: ") && error.contains(problem), "{error}");
    }
    let error = read(&good.replace(",agg,", ",disagg,")).unwrap_err().to_string();
    assert!(error.ends_with("runs.csv: no rows"), "{error}");
}

/// A copy of what `sim accuracy` reads, with few rows.
fn small(place: &Scratch) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let some = |file: &str, every: usize| {
        let mut text = String::new();
        let packed = std::fs::read(root.join("measured").join(file)).unwrap();
        match file.ends_with(".gz") {
            true => GzDecoder::new(&packed[..]).read_to_string(&mut text).unwrap(),
            false => (&packed[..]).read_to_string(&mut text).unwrap(),
        };
        let lines = text.lines().enumerate().filter(|(i, _)| *i < 3 || i % every == 0);
        lines.map(|(_, line)| format!("{line}\n")).collect::<String>()
    };
    place.write("steps.csv", some("steps.csv.gz", 40));
    place.write("serving.csv", some("serving.csv.gz", 20));
    place.write("serving-further.csv", some("serving-further.csv.gz", 200));
    place.write("serving-ranks.csv", some("serving-ranks.csv", 14));
    let settings = std::fs::read_to_string(root.join("experiments/accuracy.toml")).unwrap();
    let settings = settings
        .replace("\"../measured/", "\"")
        .replace(".csv.gz\"", ".csv\"")
        .replace("\"../docs/", "\"")
        .replace("\"../models\"", &format!("{:?}", root.join("models").display().to_string()));
    // In place of the experiments with published results a small one.
    let from = settings.find("[[experiments]]").unwrap();
    let to = settings.find("# Files of models/gpus/").unwrap();
    let one = "[[experiments]]\nfile = \"small.toml\"\nnote = \"Made up.\"\n\n";
    place.write("accuracy.toml", format!("{}{one}{}", &settings[..from], &settings[to..]));
    place.write("small.toml", format!("{EXPERIMENT}\n[published]\nfile = \"small.csv\"\n"));
    place.write(
        "small.csv",
        "router.policy,workload.concurrency,ttft_ms_p50\nkv,2,100\nround_robin,2,100\n",
    );
}

#[test]
fn the_program_writes_a_record_and_holds_to_it() {
    let place = Scratch::new();
    small(&place);
    let sim = |args: &[&str]| {
        let output = place.sim(args);
        (output.status.code(), text(&output.stdout).to_owned(), text(&output.stderr).to_owned())
    };
    let (code, _, error) = sim(&["accuracy", "accuracy.toml", "--check"]);
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("accuracy.csv"), "{error}");

    assert_eq!(sim(&["accuracy", "accuracy.toml", "--write"]).0, Some(0));
    let (code, shown, _) = sim(&["accuracy", "accuracy.toml"]);
    let page = std::fs::read_to_string(place.path().join("accuracy.md")).unwrap();
    assert_eq!((code, &shown), (Some(0), &page));
    let published = page.lines().filter(|line| line.starts_with("| TTFT p50")).count();
    assert_eq!(published, 2, "{page}");
    assert_eq!(sim(&["accuracy", "accuracy.toml", "--check"]).0, Some(0));

    let record = std::fs::read_to_string(place.path().join("accuracy.csv")).unwrap();
    let line = record.lines().find(|line| line.contains("all runs, TPOT\"")).unwrap();
    let better = line.rsplit_once(',').unwrap().0;
    place.write("accuracy.csv", record.replace(line, &format!("{better},0.1")));
    let (code, shown, error) = sim(&["accuracy", "accuracy.toml", "--check"]);
    assert_eq!(code, Some(1), "{error}");
    assert!(shown.contains("all runs, TPOT: "), "{shown}");
    assert!(error.starts_with("error: 1 errors have grown"), "{error}");
}

#[test]
fn the_program_writes_files_that_load() {
    let place = Scratch::new();
    small(&place);
    let args = ["calibrate", "accuracy.toml", "--only", "h200-vllm", "--out", "new"];
    let output = place.sim(&args);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("weight_bandwidth_ratio"), "{}", text(&output.stdout));
    let written = std::fs::read_to_string(place.path().join("new/efficiencies/h200-vllm.toml"));
    let written: kv_router_sim::engine::model::Efficiency =
        toml::from_str(&written.unwrap()).unwrap();
    assert!((0.8..1.0).contains(&written.weight_bandwidth_ratio), "{written:?}");
    let output = place.sim(&["calibrate", "accuracy.toml", "--only", "h300-vllm"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("--only = h300-vllm: must be one of h100-trtllm"));
}
