//! Fits find what made the data, and reproduce the files of the library.

use kv_router_sim::accuracy::AccuracySettings;
use kv_router_sim::accuracy::data::{Step, read_steps};
use kv_router_sim::accuracy::steps::Steps;
use kv_router_sim::calibrate::PeaksFit;
use kv_router_sim::engine::model::{Efficiency, Model};
use std::path::Path;

fn settings() -> AccuracySettings {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    AccuracySettings::load(&root.join("experiments/accuracy.toml")).unwrap()
}

fn steps(settings: &AccuracySettings, gpu: &str, engine: &str) -> Vec<Step> {
    let mut steps = read_steps(&settings.steps, &settings.names).unwrap();
    steps.retain(|step| (step.parts.gpu.as_str(), step.parts.engine.as_str()) == (gpu, engine));
    steps
}

/// Each file is what the fit finds, so it was made by it.
#[test]
fn the_library_is_reproduced() {
    let settings = settings();
    for (gpu, engine) in [("h100", "trtllm"), ("h100", "vllm"), ("h200", "vllm"), ("l40s", "vllm")]
    {
        let steps = Steps::new(steps(&settings, gpu, engine), &settings.models).unwrap();
        let fit = PeaksFit::new(&steps).unwrap();
        assert!(fit.parameters.iter().filter(|p| p.interval.is_some()).count() >= 6);
        for parameter in fit.parameters {
            let (before, after) = (parameter.before, parameter.after);
            let rounding = 2e-3 * before;
            assert!((after - before).abs() <= rounding, "{gpu}-{engine}: {parameter:?}");
        }
        let [before, after] = fit.error_percent;
        assert!((before - after).abs() < 0.01, "{gpu}-{engine}: {before} {after}");
    }
}

/// Steps that the formula made with other parameters give those parameters.
#[test]
fn what_made_the_steps_is_found() {
    let settings = settings();
    let mut rows = steps(&settings, "h200", "vllm");
    let truth = |efficiency: &Efficiency| Efficiency {
        weight_bandwidth_ratio: 0.7,
        fp8_ratio: Some(0.5),
        bf16_ratio: 0.6,
        attention_ratio: 0.5,
        attention_floor_tokens: 700.0,
        kv_bandwidth_ratio: 0.8,
        gemm_us: 9.0,
        attention_us: 12.0,
        fp8_pad_rows: 100.0,
        allreduce_us: Some(7.0),
        allreduce_gb_per_s: Some(150.0),
        ..efficiency.clone()
    };
    for step in &mut rows {
        let mut hardware = Model::compose(&settings.models, &step.parts).unwrap().hardware.unwrap();
        hardware.efficiency = truth(&hardware.efficiency);
        let formula = hardware.roofline(0);
        let parts = formula.parts_s(&step.work());
        let seconds = [
            parts.gemm_s,
            parts.logits_s,
            parts.reduce_s,
            parts.prompt_attention_s,
            parts.decode_attention_s,
        ];
        step.parts_ms = seconds.map(|s| s * 1e3);
        step.ms = formula.step(&step.work()).as_millis();
    }
    let fit = PeaksFit::new(&Steps::new(rows, &settings.models).unwrap()).unwrap();
    let expected = [0.7, 0.5, 0.6, 0.5, 700.0, 0.8, 9.0, 12.0, 100.0, 7.0, 150.0];
    for (parameter, expected) in fit.parameters.iter().zip(expected) {
        assert!((parameter.after / expected - 1.0).abs() < 5e-3, "{parameter:?} {expected}");
    }
    assert!(fit.error_percent[1] < 0.01 && fit.error_percent[0] > 10.0, "{:?}", fit.error_percent);
}
