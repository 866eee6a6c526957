//! docs/models.md: what step times of each network on each GPU are worth.

use kv_router_sim::accuracy::{AccuracySettings, Record};
use kv_router_sim::catalogue::{self, Kind};
use kv_router_sim::engine::kernels::Kernels;
use kv_router_sim::engine::memory;
use kv_router_sim::engine::model::{Dtype, Efficiency, Gpu, Hardware, Model, Shape};
use kv_router_sim::engine::operator_file::Operators;
use kv_router_sim::engine::operators::Beside;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

/// Networks with the formats that they are published in.
const NETWORKS: [(&str, &[Dtype]); 12] = [
    ("llama-3.1-8b", &[Dtype::Bf16, Dtype::Fp8]),
    ("llama-3.1-70b", &[Dtype::Bf16, Dtype::Fp8]),
    ("qwen3-32b", &[Dtype::Bf16, Dtype::Fp8, Dtype::Fp8Block]),
    ("gpt-oss-20b", &[Dtype::Mxfp4]),
    ("gpt-oss-120b", &[Dtype::Mxfp4]),
    ("qwen3-30b-a3b", &[Dtype::Bf16, Dtype::Fp8Block]),
    ("qwen3-235b-a22b", &[Dtype::Bf16, Dtype::Fp8Block]),
    ("minimax-m2.5", &[Dtype::Fp8Block, Dtype::Nvfp4]),
    ("deepseek-r1", &[Dtype::Fp8Block, Dtype::Nvfp4]),
    ("kimi-k2", &[Dtype::Fp8Block]),
    ("kimi-k2.5", &[Dtype::Int4, Dtype::Nvfp4]),
    ("glm-5", &[Dtype::Fp8Block, Dtype::Nvfp4]),
];

fn part<T: DeserializeOwned>(kind: Kind, name: &str) -> Option<T> {
    let path = catalogue::named(kind, name).ok()?;
    Some(toml::from_str(&catalogue::read_text(&path).unwrap()).unwrap())
}

struct Page {
    /// Anything: its parts are replaced.
    any: Hardware,
    /// By GPU.
    operators: BTreeMap<&'static str, Operators>,
    record: Record,
}

impl Page {
    /// What is known of a network on a GPU under an engine.
    fn cell(&self, shape: &Shape, weights: Dtype, gpu: &str, engine: &str) -> String {
        let Some(efficiency) = part::<Efficiency>(Kind::Efficiency, &format!("{gpu}-{engine}"))
        else {
            return String::new();
        };
        let operators = self.operators.get(gpu).cloned();
        let rest_dtype = match shape.experts {
            Some(_) if weights.is_for_experts() => Dtype::Bf16,
            _ => weights,
        };
        let mut hardware = Hardware {
            gpu: part::<Gpu>(Kind::Gpu, gpu).unwrap(),
            shape: shape.clone(),
            efficiency,
            operators,
            table: None,
            weight_dtype: weights,
            rest_dtype,
            kv_dtype: Dtype::Bf16,
            ..self.any.clone()
        };
        let mut ways: Vec<(&str, u32)> = Vec::new();
        let mut errors: Vec<(f64, usize)> = Vec::new();
        for tp in [1, 2, 4, 8] {
            let mut best = None;
            for ep in [1, tp] {
                (hardware.tp, hardware.ep) = (tp, ep);
                let room = 0.9 * hardware.gpu.memory_bytes() - memory::gib(4.0);
                if hardware.validate().is_err() || memory::weight_bytes(&hardware) > room {
                    continue;
                }
                best = best.or(self.way(&hardware, engine));
                if tp == 1 || ep > 1 || shape.experts.is_none() {
                    break;
                }
            }
            ways.extend(best.map(|way| (way, tp)));
            for ep in [1, tp] {
                let ep_text = if ep == 1 { String::new() } else { format!(" ep {ep}") };
                let network = catalogue_name(&shape.name);
                for version in ["", "-0.12", "-0.14", "-0.16", "-0.24", "-1.2", "-1.3"] {
                    let name =
                        format!("{network} {weights}, {gpu} tp {tp}{ep_text}, {engine}{version}");
                    errors.extend(self.record.of_runs(&name));
                }
                if tp == 1 {
                    break;
                }
            }
        }
        if ways.is_empty() {
            return String::new();
        }
        let known = ["m", "m*", "f", "b"].into_iter().filter_map(|way| {
            let degrees = ways.iter().filter(|(other, _)| *other == way);
            let degrees: Vec<String> = degrees.map(|(_, tp)| tp.to_string()).collect();
            (!degrees.is_empty()).then(|| format!("{way} {}", degrees.join(" ")))
        });
        let mut text = known.collect::<Vec<_>>().join(", ");
        let runs: usize = errors.iter().map(|(_, runs)| runs).sum();
        if runs > 0 {
            let sum: f64 = errors.iter().map(|(error, runs)| error * *runs as f64).sum();
            let _ = write!(text, ", {:.0} % of {runs}", sum / runs as f64);
        }
        text
    }

    fn way(&self, hardware: &Hardware, engine: &str) -> Option<&'static str> {
        if let Some(Ok(composed)) =
            hardware.composed(engine, &Beside::default(), &Kernels::default())
        {
            return Some(if composed.borrowed.is_empty() { "m" } else { "m*" });
        }
        let borrowed = hardware.efficiency.borrowed_from.is_some();
        hardware.beside_formula().is_none().then_some(if borrowed { "b" } else { "f" })
    }
}

/// The file name of a shape.
fn catalogue_name(title: &str) -> String {
    title.to_lowercase()
}

#[test]
fn docs_models_says_what_the_catalogue_has() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let any = Model::load(&root.join("models/qwen3-32b-bf16-h200-tp2-vllm.toml")).unwrap();
    let settings = AccuracySettings::load(&root.join("experiments/accuracy.toml")).unwrap();
    let measured = |gpu| {
        let path = Path::new(catalogue::ROOT).join(format!("models/operators/{gpu}.csv.gz"));
        Some((gpu, Operators::unpack(&catalogue::read(&path).ok()?).unwrap()))
    };
    let page = Page {
        any: any.hardware.unwrap(),
        operators: catalogue::names(Kind::Gpu).filter_map(measured).collect(),
        record: Record::read(&settings.record).unwrap(),
    };
    let mut text = String::from(
        "# Networks, GPUs and engines\n\n\
         Made by `SIM_WRITE_DOCS=1 cargo test --all-features --test it models_page`. What the step times of a network \
         on a GPU are worth, and on how many GPUs:\n\n\
         * **m**: operators of this network in this format were measured on this GPU under this engine \
         ([step-time.md](step-time.md#operators)); **m\\***: some of them under another engine, whose kernels \
         stand in (`sim models` says which);\n\
         * **f**: the formula, fitted to other networks' operators on this GPU under this engine (dense networks with \
         weights in bf16 or fp8: it is the default for them wherever there is an m as well);\n\
         * **b**: the formula with the shares of the peaks of another GPU: this one was not measured; running such a model says so;\n\
         * empty: refused, or too large for 8 GPUs.\n\n\
         Then the mean error of the time per output token over the real serving runs there are \
         ([accuracy.md](accuracy.md)). Versions: times are of vLLM 0.24.0 and TensorRT-LLM 1.3.0rc20 (A100: 0.14.0 and \
         1.0.0). `vllm-0.16` and `vllm-0.32` differ from `vllm-0.24` in limits and scheduling, not in times, and so does `trtllm-1.4` \
         from `trtllm-1.3`. \
         Times are *scaled* where only the ratio of a version's kernels to the measured ones is known: `vllm-0.12` (2025) and \
         `vllm-0.14` with weights in fp8, `trtllm-1.2` ([step-time.md](step-time.md#operators)). SGLang's rules are not simulated.\n\n",
    );
    for (engine, title) in [("vllm", "vLLM"), ("trtllm", "TensorRT-LLM")] {
        let gpus: Vec<&str> = catalogue::names(Kind::Gpu)
            .filter(|gpu| catalogue::named(Kind::Efficiency, &format!("{gpu}-{engine}")).is_ok())
            .collect();
        let _ = writeln!(text, "## {title}\n\n| network | weights | {} |", gpus.join(" | "));
        let _ = writeln!(text, "|---|---|{}", "---|".repeat(gpus.len()));
        for (name, formats) in NETWORKS {
            let shape: Shape = part(Kind::Shape, name).unwrap();
            assert_eq!(catalogue_name(&shape.name), name);
            for &weights in formats {
                let cells: Vec<String> =
                    gpus.iter().map(|gpu| page.cell(&shape, weights, gpu, engine)).collect();
                let _ = writeln!(text, "| {} | {weights} | {} |", shape.name, cells.join(" | "));
            }
        }
        text.push('\n');
    }
    let text = format!("{}\n", text.trim_end());
    let path = root.join("docs/models.md");
    if std::env::var_os("SIM_WRITE_DOCS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let on_disk = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(on_disk == text, "docs/models.md is old: SIM_WRITE_DOCS=1 writes it");
}
