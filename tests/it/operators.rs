//! Steps composed of measured operators.

use kv_router_sim::catalogue;
use kv_router_sim::engine::kernels::Kernels;
use kv_router_sim::engine::model::{Dtype, Hardware, Model};
use kv_router_sim::engine::operator_file::Operators;
use kv_router_sim::engine::operators::Beside;
use kv_router_sim::engine::step_time::{PrefillChunk, StepTime, StepWork};
use kv_router_sim::time::SimDuration;
use std::path::Path;

fn hardware(model: &str) -> Hardware {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("models/{model}.toml"));
    Model::load(&path).unwrap().hardware.unwrap()
}

/// gpt-oss-20b on two GPUs, with operators that are plain functions of their size: a
/// product takes a microsecond a token, experts two, a window 30 a sequence and one a new
/// token, full attention 1 a thousand tokens of context and as many as pairs in a prompt, an
/// all-reduce 1 a thousand bytes in a graph and 5 more without.
fn plain() -> Hardware {
    let list = |points: &[f64], us: &dyn Fn(f64) -> f64| {
        points.iter().map(|&x| us(x).to_string()).collect::<Vec<_>>().join(" ")
    };
    let (tokens, contexts, bytes) = ([1.0, 100.0, 10_000.0], [1.0, 1e3, 1e6], [1e3, 1e6, 1e9]);
    let mut text = String::from("operator,engine,format,shape,sequences,measured_under,us\n");
    for (operator, points) in [
        ("gemm", &tokens),
        ("experts", &tokens),
        ("prompt", &tokens),
        ("decode", &contexts),
        ("allreduce", &bytes),
    ] {
        text += &format!("{operator},,,,,,{}\n", list(points, &|x| x));
    }
    for shape in ["2560x2880", "2880x2048", "32x2880", "100544x2880"] {
        text += &format!("gemm,vllm,bf16,{shape},,vllm,{}\n", list(&tokens, &|x| x));
    }
    let experts = "experts,vllm,mxfp4,2880x2880 4/32 tp2 ep1,,sglang";
    text += &format!("{experts},{}\n", list(&tokens, &|x| 2.0 * x));
    text += &format!("prompt,vllm,bf16,32/4x64 w0,,vllm,{}\n", list(&tokens, &|x| x * x / 2.0));
    text += &format!("prompt,vllm,bf16,32/4x64 w128,,vllm,{}\n", list(&tokens, &|x| x));
    for seqs in [1.0, 10.0] {
        let full = list(&contexts, &|context| seqs * context / 1e3);
        text += &format!("decode,vllm,bf16,32/4x64 w0,{seqs},vllm,{full}\n");
        let window = list(&contexts, &|_| seqs * 30.0);
        text += &format!("decode,vllm,bf16,32/4x64 w128,{seqs},vllm,{window}\n");
    }
    text += &format!("allreduce,vllm,graph,2,,vllm,{}\n", list(&bytes, &|x| x / 1e3));
    text += &format!("allreduce,vllm,eager,2,,vllm,{}\n", list(&bytes, &|x| x / 1e3 + 5.0));
    let operators = Some(Operators::parse(&text).unwrap());
    Hardware { tp: 2, operators, ..hardware("gpt-oss-20b-mxfp4-h100-vllm") }
}

fn work(prefill: &[PrefillChunk], seqs: u32, context: u64) -> StepWork<'_> {
    StepWork { prefill, decode_seqs: seqs, decode_context: context, padded_seqs: seqs }
}

#[test]
fn a_step_is_the_sum_of_its_operators() {
    let hardware = plain();
    let beside = Beside { step: SimDuration::from_micros(100), ..Beside::default() };
    let composed = hardware.composed("vllm", &beside, &Kernels::default()).unwrap().unwrap();
    assert_eq!(composed.borrowed, ["experts of sglang"]);
    let steps = StepTime::Table(Box::new(composed.times.step_time(16)));
    // 24 layers, half of them with a window; H100: 3.35 TB/s.
    let beside_attention = |tokens: f64, sampled: f64, eager_us: f64| {
        let products = 24.0 * (3.0 * tokens + 2.0 * tokens) + sampled;
        let elementwise = 24.0 * (4.0 + 16.0 * 2880.0 * tokens / (0.64 * 3.35e12) * 1e6);
        let reduces = 48.0 * (2.0 * 2880.0 * tokens / 1e3 + eager_us);
        100.0 + products + elementwise + reduces
    };
    let close = |steps: &StepTime, work: &StepWork<'_>, us: f64| {
        let found = steps.step(work).as_millis() * 1e3;
        assert!((found / us - 1.0).abs() < 1e-6, "{work:?}: {found} us, by hand {us}");
    };
    for (seqs, context) in [(1, 500), (4, 9_000), (10, 100_000)] {
        let attention = 12.0 * context as f64 / 1e3 + 12.0 * 30.0 * f64::from(seqs);
        let alone = beside_attention(f64::from(seqs), f64::from(seqs), 0.0) + attention;
        close(&steps, &work(&[], seqs, context), alone);
        // A prompt beside them: eager, its own attention, pairs with what is cached.
        for cached in [0, 4_096] {
            let chunk = PrefillChunk { new_tokens: 100, cached_tokens: cached, last: true };
            let over = (100.0 * f64::from(cached)).max(f64::from(cached) / 1e3);
            let prompt = 12.0 * (100.0 * 100.0 / 2.0 + over) + 12.0 * 100.0;
            let tokens = f64::from(seqs) + 100.0;
            let us = beside_attention(tokens, f64::from(seqs) + 1.0, 5.0) + attention + prompt;
            close(&steps, &work(&[chunk], seqs, context), us);
        }
    }
}

#[test]
fn what_was_not_measured_is_named() {
    let refused = |change: &dyn Fn(&mut Hardware)| {
        let mut hardware = plain();
        change(&mut hardware);
        hardware
            .composed("vllm", &Beside::default(), &Kernels::default())
            .unwrap()
            .unwrap_err()
            .to_string()
    };
    let int4 = refused(&|hardware| hardware.weight_dtype = Dtype::Int4);
    assert_eq!(int4, "experts 2880x2880 4/32 tp2 ep1 in int4 under vllm");
    assert_eq!(refused(&|hardware| hardware.tp = 4), "gemm 1280x2880 in bf16 under vllm");
    assert_eq!(
        refused(&|hardware| hardware.kv_dtype = Dtype::Fp8),
        "prompt 32/4x64 w0 in fp8 under vllm"
    );
    assert!(
        Hardware { operators: None, ..plain() }
            .composed("vllm", &Beside::default(), &Kernels::default())
            .is_none()
    );
}

#[test]
fn files_that_cannot_be_used_name_the_line() {
    let head = "operator,engine,format,shape,sequences,measured_under,us\n";
    for (rows, problem) in [
        ("gemm,,,,,,1 2\n", "2: points of gemm: must be three or more, and ascend"),
        ("gemm,,,,,,1 3 2\n", "2: points of gemm: must be three or more, and ascend"),
        ("gemm,vllm,bf16,1x1,,vllm,1\n", "2: 1 times of gemm: must be 0, one for each point"),
        ("gemm,,,,,,1 2 3\ngemm,vllm,bf16,1x1,,vllm,1 x 3\n", "3: us \"1 x 3\": must be numbers"),
        ("gemm,,,,,,1 2 3\ngemm,vllm\n", "3: CSV error"),
    ] {
        let error = Operators::parse(&format!("{head}{rows}")).unwrap_err().to_string();
        assert!(error.contains(problem), "{error}");
    }
    assert!(Operators::unpack(&[0x1f, 0x8b, 0]).is_err());
}

#[test]
fn every_gpu_with_operators_serves_what_it_has_them_for() {
    // On how many of 1, 2, 4 and 8 GPUs: under vLLM, under TensorRT-LLM.
    let networks = [
        ("gpt-oss-120b-mxfp4-h100-tp2-vllm", Dtype::Mxfp4),
        ("qwen3-235b-a22b-fp8-h200-tp4-vllm", Dtype::Fp8Block),
        ("qwen3-235b-a22b-fp8-h200-tp4-vllm", Dtype::Bf16),
        ("deepseek-r1-fp8-h200-tp8-ep8-trtllm", Dtype::Fp8Block),
        ("glm-5-fp8-h200-tp8-vllm", Dtype::Fp8Block),
    ];
    let networks = networks.map(|(model, weights)| Hardware {
        ep: 1,
        weight_dtype: weights,
        rest_dtype: if weights.is_for_experts() { Dtype::Bf16 } else { weights },
        kv_dtype: Dtype::Bf16,
        ..hardware(model)
    });
    let mut found = Vec::new();
    for gpu in ["a100", "b200", "b300", "gb200", "h100", "h200", "l40s"] {
        let path = Path::new(catalogue::ROOT).join(format!("models/operators/{gpu}.csv.gz"));
        let operators = Operators::unpack(&catalogue::read(&path).unwrap()).unwrap();
        for network in &networks {
            let mut hardware = Hardware { operators: Some(operators.clone()), ..network.clone() };
            let mut measured = |engine: &str| {
                let mut is_measured = |tp: &u32| {
                    hardware.tp = *tp;
                    hardware
                        .composed(engine, &Beside::default(), &Kernels::default())
                        .unwrap()
                        .is_ok()
                };
                [1, 2, 4, 8].iter().filter(|tp| is_measured(tp)).count()
            };
            let (vllm, trtllm) = (measured("vllm"), measured("trtllm"));
            let Hardware { shape, weight_dtype, .. } = network;
            found.push(format!("{gpu} {} {weight_dtype}: {vllm} {trtllm}", shape.name));
        }
    }
    insta::assert_snapshot!(found.join("\n"), @r"
    a100 gpt-oss-120b mxfp4: 0 0
    a100 Qwen3-235B-A22B fp8_block: 0 0
    a100 Qwen3-235B-A22B bf16: 4 4
    a100 DeepSeek-R1 fp8_block: 0 0
    a100 GLM-5 fp8_block: 0 0
    b200 gpt-oss-120b mxfp4: 4 4
    b200 Qwen3-235B-A22B fp8_block: 4 4
    b200 Qwen3-235B-A22B bf16: 4 4
    b200 DeepSeek-R1 fp8_block: 4 4
    b200 GLM-5 fp8_block: 4 4
    b300 gpt-oss-120b mxfp4: 4 4
    b300 Qwen3-235B-A22B fp8_block: 4 4
    b300 Qwen3-235B-A22B bf16: 4 4
    b300 DeepSeek-R1 fp8_block: 4 4
    b300 GLM-5 fp8_block: 4 4
    gb200 gpt-oss-120b mxfp4: 3 3
    gb200 Qwen3-235B-A22B fp8_block: 3 3
    gb200 Qwen3-235B-A22B bf16: 3 3
    gb200 DeepSeek-R1 fp8_block: 3 3
    gb200 GLM-5 fp8_block: 3 3
    h100 gpt-oss-120b mxfp4: 4 4
    h100 Qwen3-235B-A22B fp8_block: 4 4
    h100 Qwen3-235B-A22B bf16: 4 4
    h100 DeepSeek-R1 fp8_block: 4 4
    h100 GLM-5 fp8_block: 4 4
    h200 gpt-oss-120b mxfp4: 4 4
    h200 Qwen3-235B-A22B fp8_block: 4 4
    h200 Qwen3-235B-A22B bf16: 4 4
    h200 DeepSeek-R1 fp8_block: 4 4
    h200 GLM-5 fp8_block: 4 4
    l40s gpt-oss-120b mxfp4: 4 4
    l40s Qwen3-235B-A22B fp8_block: 4 4
    l40s Qwen3-235B-A22B bf16: 4 4
    l40s DeepSeek-R1 fp8_block: 4 4
    l40s GLM-5 fp8_block: 0 0
    ");
}
