//! Laws of the step-time models, and how far they are from measured steps.

use kv_router_sim::accuracy::data::{Step, StepKind, read_steps};
use kv_router_sim::accuracy::{AccuracySettings, Errors};
use kv_router_sim::engine::model::{Dtype, Hardware, Model, Shape, Window};
use kv_router_sim::engine::settings::EngineSettings;
use kv_router_sim::engine::step_time::{PrefillChunk, StepTime, StepWork};
use kv_router_sim::time::SimDuration;
use proptest::prelude::*;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::LazyLock;

/// Name among the measurements, model file.
const DEPLOYMENTS: [(&str, &str); 5] = [
    ("llama-3.1-70b fp8, h200 tp 1, trtllm", "llama-3.1-70b-fp8-h200-trtllm"),
    ("llama-3.1-70b fp8, h100 tp 2, trtllm", "llama-3.1-70b-fp8-h100-tp2-trtllm"),
    ("qwen3-32b fp8, h200 tp 1, vllm", "qwen3-32b-fp8-h200-vllm"),
    ("qwen3-32b bf16, h200 tp 2, vllm", "qwen3-32b-bf16-h200-tp2-vllm"),
    ("llama-3.1-8b bf16, l40s tp 1, vllm", "llama-3.1-8b-bf16-l40s-vllm"),
];
/// Batches tabulated in these tests; larger ones are computed on the spot.
const MAX_NUM_SEQS: u32 = 128;

fn hardware(file: &str) -> Hardware {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("models/{file}.toml"));
    Model::load(&path).unwrap().hardware.expect("has GPUs")
}

/// A dense network of which most layers attend to a window.
fn windowed() -> Hardware {
    let mut hardware = hardware(DEPLOYMENTS[4].1);
    hardware.shape.window = Some(Window { tokens: 512, layers: 20, first: true });
    Hardware { table: None, ..hardware }
}

fn roofline(hardware: &Hardware) -> StepTime {
    StepTime::Roofline(hardware.roofline(MAX_NUM_SEQS))
}

fn table(hardware: &Hardware) -> StepTime {
    StepTime::Table(Box::new(hardware.table.as_ref().expect("has a table").step_time(MAX_NUM_SEQS)))
}

static MODELS: LazyLock<Vec<StepTime>> = LazyLock::new(|| {
    let mut models = vec![
        StepTime::Instant,
        StepTime::Fixed {
            prefill: SimDuration::from_millis(20),
            decode: SimDuration::from_millis(10),
        },
    ];
    for (_, file) in DEPLOYMENTS {
        let hardware = hardware(file);
        models.extend([roofline(&hardware), table(&hardware)]);
    }
    models.push(roofline(&windowed()));
    let faster = |model: &StepTime| StepTime::Faster(Box::new(model.clone()), 1.7);
    // Constant times, and the first formula.
    models.extend([faster(&models[1]), faster(&models[2])]);
    models
});

fn any_model() -> impl Strategy<Value = &'static StepTime> {
    (0..MODELS.len()).prop_map(|i| &MODELS[i])
}

fn any_chunk() -> impl Strategy<Value = PrefillChunk> {
    (1..20_000_u32, 0..60_000_u32, any::<bool>()).prop_map(|(new_tokens, cached_tokens, last)| {
        PrefillChunk { new_tokens, cached_tokens, last }
    })
}

/// Sequences, padded sequences, context sum: at least one token each.
fn any_decode() -> impl Strategy<Value = (u32, u32, u64)> {
    (1..300_u32, 0..40_u32, 1..80_000_u64)
        .prop_map(|(seqs, padding, mean)| (seqs, seqs + padding, mean * u64::from(seqs) + mean % 7))
}

fn decode_work(seqs: u32, padded_seqs: u32, context: u64) -> StepWork<'static> {
    StepWork { prefill: &[], decode_seqs: seqs, decode_context: context, padded_seqs }
}

#[test]
fn a_worker_twice_as_fast_takes_half_the_time() {
    let text = |ratio: &str, prefill: u32, decode: u32, host: u32| {
        let settings = format!(
            "rules = \"vllm\"
            num_blocks = 10
            max_num_seqs = 2
            max_num_batched_tokens = 160
            step_time = {{ kind = \"fixed\", prefill = \"{prefill}ms\", decode = \"{decode}ms\" }}
            host = {{ prepare = \"{host}ms\" }}
            {ratio}"
        );
        let settings: EngineSettings = toml::from_str(&settings).expect("settings");
        settings.resolve(None)
    };
    let (fast, half) = (text("speedup_ratio = 2.0", 20, 10, 4), text("", 10, 5, 2));
    let (fast, half) = (fast.expect("valid"), half.expect("valid"));
    let chunk = PrefillChunk { new_tokens: 7, cached_tokens: 0, last: true };
    for prefill in [&[][..], &[chunk]] {
        let work = StepWork { prefill, ..decode_work(2, 2, 100) };
        assert_eq!(fast.step_time.step(&work), half.step_time.step(&work));
    }
    assert_eq!(fast.host, half.host);
    let refused = text("speedup_ratio = 0.0", 20, 10, 4).expect_err("no worker");
    assert_eq!(refused.to_string(), "speedup_ratio = 0: must be above 0 and finite");
}

proptest! {
    #![proptest_config(super::rig::cases(256))]

    #[test]
    fn a_decode_step_is_its_piece((seqs, padded, context) in any_decode(), model in any_model()) {
        let piece = model.decode_piece(seqs, padded, context);
        prop_assert!(context < piece.context_end);
        prop_assert_eq!(model.step(&decode_work(seqs, padded, context)), piece.at(context));
    }

    #[test]
    fn pieces_tile_the_context_axis((seqs, padded, _) in any_decode(), model in any_model()) {
        let mut context = 0;
        for _ in 0..100 {
            let piece = model.decode_piece(seqs, padded, context);
            prop_assert!(context < piece.context_end);
            if piece.context_end == u64::MAX {
                return Ok(());
            }
            // One piece from its first context to its last, then another.
            prop_assert_eq!(piece, model.decode_piece(seqs, padded, piece.context_end - 1));
            context = piece.context_end;
        }
        prop_assert!(false, "no last piece");
    }

    #[test]
    fn more_context_takes_no_less_time(
        (seqs, padded, context) in any_decode(),
        more in 1..100_000_u64,
        model in any_model(),
    ) {
        let before = model.step(&decode_work(seqs, padded, context));
        let after = model.step(&decode_work(seqs, padded, context + more));
        // Pieces with slopes in whole picoseconds meet within one a token.
        prop_assert!(after.as_ps() + context >= before.as_ps(), "{before:?} {after:?}");
    }

    #[test]
    fn a_chunk_takes_time_beside_decodes(
        (seqs, padded, context) in any_decode(),
        chunk in any_chunk(),
        model in any_model(),
    ) {
        let mut work = decode_work(seqs, padded, context);
        let decode = model.step(&work);
        work.prefill = std::slice::from_ref(&chunk);
        let mixed = model.step(&work);
        match model {
            StepTime::Instant => prop_assert_eq!(mixed, SimDuration::ZERO),
            StepTime::Fixed { prefill, .. } => prop_assert_eq!(mixed, decode + *prefill),
            // A few tokens more can take less: kernels are chosen by size.
            _ => prop_assert!(mixed.as_ps() * 100 > decode.as_ps() * 80, "{decode:?} {mixed:?}"),
        }
    }

    #[test]
    fn the_roofline_is_its_formula(
        which in 0..=DEPLOYMENTS.len(),
        chunks in prop::collection::vec(any_chunk(), 0..4),
        (seqs, padded, context) in any_decode(),
        decodes in any::<bool>(),
    ) {
        prop_assume!(decodes || !chunks.is_empty());
        let hardware = DEPLOYMENTS.get(which).map_or_else(windowed, |(_, file)| hardware(file));
        let work = StepWork {
            prefill: &chunks,
            decode_seqs: if decodes { seqs } else { 0 },
            decode_context: if decodes { context } else { 0 },
            padded_seqs: if decodes { padded } else { 0 },
        };
        let (expected, actual) = (naive_seconds(&hardware, &work), roofline(&hardware).step(&work).as_secs());
        // The context slope is rounded to whole picoseconds a token.
        let rounding = 1e-12 * (context as f64 + 2.0);
        prop_assert!((actual - expected).abs() <= rounding + 1e-12 * expected, "{actual} {expected}");
    }
}

/// The formula as the documentation writes it, with no constant multiplied out.
fn naive_seconds(hardware: &Hardware, work: &StepWork<'_>) -> f64 {
    let (shape, eff) = (&hardware.shape, &hardware.efficiency);
    let (layers, tp) = (f64::from(shape.layers), f64::from(hardware.tp));
    let (h, f, v) = (f64::from(shape.hidden), f64::from(shape.ffn), f64::from(shape.vocabulary));
    let (hq, d) = (f64::from(shape.heads), f64::from(shape.head_size));
    let hkv = f64::from(shape.kv_heads);
    let bandwidth = hardware.gpu.bandwidth_tb_per_s * 1e12;
    let bf16 = hardware.gpu.bf16_tflop_per_s * 1e12;
    let fp8 = hardware.weight_dtype == Dtype::Fp8;
    let (wb, peak) = if fp8 {
        (1.0, hardware.gpu.fp8_tflop_per_s.unwrap() * 1e12 * eff.fp8_ratio.unwrap())
    } else {
        (2.0, bf16 * eff.bf16_ratio)
    };
    let kvb = if hardware.kv_dtype == Dtype::Fp8 { 1.0 } else { 2.0 };
    let prompt: u32 = work.prefill.iter().map(|chunk| chunk.new_tokens).sum();
    let tokens = prompt + work.padded_seqs;
    let sampled =
        work.padded_seqs as usize + work.prefill.iter().filter(|chunk| chunk.last).count();
    let pad =
        if fp8 && tokens > 128 && !tokens.is_multiple_of(128) { eff.fp8_pad_rows } else { 0.0 };
    let product = |m: f64, n: f64, k: f64, wb: f64, peak: f64| {
        let bytes = n * k * wb + m * k * wb + 2.0 * m * n;
        let moved = bytes / (bandwidth * eff.weight_bandwidth_ratio);
        moved.hypot(2.0 * m * n * k / peak) + eff.gemm_us * 1e-6
    };
    let t = f64::from(tokens);
    let gemm: f64 =
        [((hq + 2.0 * hkv.max(tp)) * d / tp, h), (h, hq * d / tp), (2.0 * f / tp, h), (h, f / tp)]
            .iter()
            .map(|&(n, k)| layers * product(t + pad, n, k, wb, peak))
            .sum();
    let logits = match sampled {
        0 => 0.0,
        _ => product(sampled as f64, v / tp, h, 2.0, bf16 * eff.bf16_ratio),
    };
    let elem = layers * (9e-6 + t * (8.0 * h + 3.0 * f / tp) * 2.0 / (0.64 * bandwidth));
    let windows = shape.window.map_or(0.0, |window| f64::from(window.layers));
    let window = shape.window.map_or(f64::INFINITY, |window| f64::from(window.tokens));
    let ctx: f64 = work
        .prefill
        .iter()
        .map(|chunk| {
            let (new, cached) = (f64::from(chunk.new_tokens), f64::from(chunk.cached_tokens));
            let all = new * (cached + new / 2.0);
            // The integral of min(position, window) over the new tokens.
            let within = |end: f64| match end <= window {
                true => end * end / 2.0,
                false => window * (end - window / 2.0),
            };
            let in_window = within(cached + new) - within(cached);
            let pairs = (layers - windows) * all
                + windows * in_window
                + layers * new * eff.attention_floor_tokens;
            4.0 * hq / tp * d * pairs / (bf16 * eff.attention_ratio)
                + layers * eff.attention_us * 1e-6
        })
        .sum();
    let kv_ratio = match eff.fp8_kv_bandwidth_ratio {
        Some(ratio) if hardware.kv_dtype == Dtype::Fp8 => ratio,
        _ => eff.kv_bandwidth_ratio,
    };
    let kv = if work.decode_seqs == 0 {
        0.0
    } else {
        let context = work.decode_context as f64;
        let in_windows = context.min(f64::from(work.decode_seqs) * window);
        let read = (layers - windows) * context + windows * in_windows;
        let bytes = 2.0 * (hkv / tp).max(1.0) * d * kvb * read;
        bytes / (bandwidth * kv_ratio) + layers * eff.attention_us * 1e-6
    };
    let comm = match (eff.allreduce_us, eff.allreduce_gb_per_s) {
        (Some(us), Some(gb)) if hardware.tp > 1 => {
            (2.0 * layers + 1.0) * (us * 1e-6 + t * h * 2.0 / (gb * 1e9))
        }
        _ => 0.0,
    };
    gemm + logits + elem + ctx + kv + comm
}

/// Windows that hold every context change nothing; narrower ones make long contexts cheaper,
/// and short ones no dearer.
#[test]
fn windows_cost_what_they_hold() {
    let with = |tokens| {
        let mut hardware = windowed();
        hardware.shape.window = Some(Window { tokens, layers: 20, first: true });
        roofline(&hardware)
    };
    let plain =
        roofline(&Hardware { shape: Shape { window: None, ..windowed().shape }, ..windowed() });
    let decode = |model: &StepTime, each: u64| model.step(&decode_work(8, 8, 8 * each)).as_secs();
    let prompt = |model: &StepTime, new_tokens| {
        let chunk = PrefillChunk { new_tokens, cached_tokens: 100, last: true };
        let work =
            StepWork { prefill: &[chunk], decode_seqs: 0, decode_context: 0, padded_seqs: 0 };
        model.step(&work).as_secs()
    };
    for each in [16, 512, 4_096] {
        let difference = decode(&with(8_192), each) - decode(&plain, each);
        assert!(difference.abs() < 1e-8, "{each}: {difference}");
    }
    assert!((prompt(&with(8_192), 2_000) - prompt(&plain, 2_000)).abs() < 1e-9);
    // 20 of 32 layers read 512 of 4,096 tokens.
    let context = |model: &StepTime| decode(model, 4_096) - decode(model, 1);
    let share = context(&with(512)) / context(&plain);
    assert!((share - (12.0 + 20.0 / 8.0) / 32.0).abs() < 1e-3, "{share}");
    assert!(prompt(&with(512), 4_000) < prompt(&plain, 4_000));
}

/// The parts of the formula are its whole.
#[test]
fn the_parts_of_a_step_add_up() {
    for step in &*MEASURED {
        let Some((_, file)) = DEPLOYMENTS.iter().find(|(name, _)| *name == step.parts.to_string())
        else {
            continue;
        };
        let formula = hardware(file).roofline(MAX_NUM_SEQS);
        let parts = formula.parts_s(&step.work());
        let sum = parts.gemm_s
            + parts.logits_s
            + parts.elementwise_s
            + parts.reduce_s
            + parts.prompt_attention_s
            + parts.decode_attention_s;
        let whole = formula.step(&step.work()).as_secs();
        assert!((sum - whole).abs() < 1e-11, "{step:?}: {parts:?} {whole}");
    }
}

static MEASURED: LazyLock<Vec<Step>> = LazyLock::new(|| {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let settings = AccuracySettings::load(&root.join("experiments/accuracy.toml")).unwrap();
    read_steps(&settings.steps, &settings.names).unwrap()
});

/// Mean and largest absolute error in percent, per deployment and kind of step.
fn errors(model: impl Fn(&Hardware) -> StepTime) -> String {
    let mut lines = String::new();
    for (deployment, file) in DEPLOYMENTS {
        let model = model(&hardware(file));
        write!(lines, "{file}:").unwrap();
        for kind in [Some(StepKind::Decode), Some(StepKind::Prefill), Some(StepKind::Mixed), None] {
            let steps = MEASURED.iter().filter(|step| step.parts.to_string() == deployment);
            let errors = Errors::of(
                steps
                    .filter(|step| kind.is_none_or(|kind| step.kind == kind))
                    .map(|step| (model.step(&step.work()).as_millis(), step.ms)),
            );
            let kind = kind.map_or("all".to_owned(), |kind| kind.to_string());
            let (mean, max) = (errors.mean().unwrap(), errors.quantile(1.0).unwrap());
            write!(lines, " {kind} {mean:.1}/{max:.1}").unwrap();
        }
        lines.push('\n');
    }
    lines
}

#[test]
fn roofline_error_against_measured_steps() {
    insta::assert_snapshot!(errors(roofline), @r"
    llama-3.1-70b-fp8-h200-trtllm: decode 1.6/5.9 prefill 2.3/8.3 mixed 1.9/7.2 all 1.9/8.3
    llama-3.1-70b-fp8-h100-tp2-trtllm: decode 2.1/10.4 prefill 3.7/11.3 mixed 2.7/8.9 all 2.8/11.3
    qwen3-32b-fp8-h200-vllm: decode 6.7/20.7 prefill 8.5/32.2 mixed 8.5/19.7 all 8.0/32.2
    qwen3-32b-bf16-h200-tp2-vllm: decode 4.4/9.7 prefill 4.8/14.3 mixed 2.0/6.1 all 3.5/14.3
    llama-3.1-8b-bf16-l40s-vllm: decode 3.5/8.4 prefill 5.3/19.0 mixed 3.3/6.8 all 4.0/19.0
    ");
}

#[test]
fn table_error_against_measured_steps() {
    insta::assert_snapshot!(errors(table), @r"
    llama-3.1-70b-fp8-h200-trtllm: decode 0.0/0.0 prefill 0.0/0.0 mixed 0.9/6.5 all 0.4/6.5
    llama-3.1-70b-fp8-h100-tp2-trtllm: decode 0.0/0.0 prefill 0.0/0.0 mixed 0.4/3.2 all 0.2/3.2
    qwen3-32b-fp8-h200-vllm: decode 0.0/0.0 prefill 0.0/0.0 mixed 4.5/22.5 all 1.8/22.5
    qwen3-32b-bf16-h200-tp2-vllm: decode 0.0/0.0 prefill 0.0/0.0 mixed 0.4/2.3 all 0.2/2.3
    llama-3.1-8b-bf16-l40s-vllm: decode 0.3/6.8 prefill 0.0/0.0 mixed 0.8/6.4 all 0.4/6.8
    ");
}

/// Kernels of other versions: each ratio stretches its own part, in every kind of model.
#[test]
fn scaled_kernels_stretch_their_own_part_of_a_step() {
    let prompt = [PrefillChunk { new_tokens: 4_096, cached_tokens: 0, last: true }];
    let prompts = StepWork { prefill: &prompt, decode_seqs: 0, decode_context: 0, padded_seqs: 0 };
    let decodes =
        StepWork { prefill: &[], decode_seqs: 64, decode_context: 64_000, padded_seqs: 64 };
    for (file, kinds) in [
        ("qwen3-32b-fp8-h200-vllm", &["roofline", "table"][..]),
        ("llama-3.1-70b-fp8-b200-trtllm", &["operators"]),
        ("qwen3-32b-bf16-h200-tp2-vllm", &["roofline", "table"]),
    ] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("models/{file}.toml"));
        let model = Model::load(&path).unwrap();
        let is_fp8 = model.hardware.as_ref().unwrap().weight_dtype == Dtype::Fp8;
        for kind in kinds {
            let ms = |key: &str, ratio: f64, work: &StepWork<'_>| {
                let text = format!("step_time.kind = {kind:?}\nkernels.{key} = {ratio:?}");
                let own: EngineSettings = toml::from_str(&text).unwrap();
                let engine = EngineSettings {
                    step_time: own.step_time,
                    kernels: own.kernels,
                    ..model.engine.clone()
                };
                let config = engine.resolve(model.hardware.as_ref()).unwrap();
                config.step_time.step(work).as_millis()
            };
            for (key, work, other, counts) in [
                ("fp8_prompts", &prompts, &decodes, is_fp8),
                ("fp8_decodes", &decodes, &prompts, is_fp8),
                ("decode_attention", &decodes, &prompts, true),
            ] {
                let [once, twice, thrice] = [1.0, 2.0, 3.0].map(|ratio| ms(key, ratio, work));
                let part = twice - once;
                assert!((thrice - twice - part).abs() < 1e-5 * once, "{file} {kind} {key}");
                assert_eq!(part > 0.05 * once, counts, "{file} {kind} {key}: {once} {twice}");
                assert!(part < once, "{file} {kind} {key}: {once} {twice}");
                assert_eq!(ms(key, 2.0, other), ms(key, 1.0, other), "{file} {kind} {key}");
            }
        }
    }
    let refused = EngineSettings {
        kernels: toml::from_str("fp8_prompts = 0").unwrap(),
        ..Model::load(
            Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("models/llama-3.1-8b-bf16-h100-vllm.toml")
                .as_path(),
        )
        .unwrap()
        .engine
    };
    let hardware = hardware("llama-3.1-8b-bf16-h100-vllm");
    let error = refused.resolve(Some(&hardware)).unwrap_err().to_string();
    assert!(error.contains("kernels.fp8_prompts = 0: must be from 0.1 to 10"), "{error}");
}
