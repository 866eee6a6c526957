//! Which network and which GPU a manifest means: names of Hugging Face and of
//! Kubernetes, as names of the catalogue.

use crate::engine::model::ModelError;
use crate::engine::model::{Model, ModelChoice, PartsChoice};
use crate::engine::settings::EngineSettings;
use serde_json::Value;
use std::path::Path;

/// Names of checkpoints, in lower case and without their organisation: what they begin
/// with, the network of the catalogue that has the same dimensions, and the number format
/// in which it is published unless the name goes on to say another one. The longest
/// beginning counts. Source: `config.json` of each on Hugging Face.
const NETWORKS: [(&str, &str, &str); 24] = [
    ("llama-3.1-8b", "llama-3.1-8b", "bf16"),
    ("meta-llama-3.1-8b", "llama-3.1-8b", "bf16"),
    ("deepseek-r1-distill-llama-8b", "llama-3.1-8b", "bf16"),
    ("llama-3.1-70b", "llama-3.1-70b", "bf16"),
    ("meta-llama-3.1-70b", "llama-3.1-70b", "bf16"),
    ("llama-3.3-70b", "llama-3.1-70b", "bf16"),
    ("deepseek-r1-distill-llama-70b", "llama-3.1-70b", "bf16"),
    ("qwen3-32b", "qwen3-32b", "bf16"),
    ("qwen3-30b-a3b", "qwen3-30b-a3b", "bf16"),
    ("qwen3-235b-a22b", "qwen3-235b-a22b", "bf16"),
    ("gpt-oss-20b", "gpt-oss-20b", "mxfp4"),
    ("gpt-oss-120b", "gpt-oss-120b", "mxfp4"),
    ("deepseek-r1", "deepseek-r1", "fp8_block"),
    ("deepseek-v3", "deepseek-r1", "fp8_block"),
    ("deepseek-v3.1", "deepseek-r1", "fp8_block"),
    ("kimi-k2", "kimi-k2", "fp8_block"),
    ("kimi-k2.5", "kimi-k2.5", "int4"),
    ("minimax-m2.5", "minimax-m2.5", "fp8_block"),
    ("glm-5", "glm-5", "bf16"),
    ("kimi-k2-thinking", "kimi-k2", "int4"),
    // Networks of other dimensions whose names begin like those above.
    ("deepseek-r1-distill-qwen", "", ""),
    ("deepseek-v3.2", "", ""),
    ("qwen3-30b-a3b-coder", "", ""),
    ("glm-5.", "", ""),
];

/// Words behind such a name that leave the network as it is.
const SAME: [&str; 15] = [
    "0324", "0528", "0905", "2507", "base", "chat", "hf", "instruct", "it", "preview", "terminus",
    "thinking", "tput", "turbo", "dynamic",
];

/// Checkpoints with a longer context than the network of the catalogue: what the name
/// begins with, the word that tells, and the context in tokens. Source: `config.json` of
/// each on Hugging Face.
const LONGER: [(&str, &str, u32); 3] =
    [("qwen3-", "2507", 262_144), ("kimi-k2-", "0905", 262_144), ("kimi-k2-", "thinking", 262_144)];

/// A network as a manifest names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Network {
    pub(super) shape: String,
    pub(super) weights: String,
    /// Its longest context, where it is not the shape's.
    pub(super) context_tokens: Option<u32>,
}

/// The network of a checkpoint, by the name or the path that an engine is started with.
pub(super) fn network(model: &str) -> Option<Network> {
    let lower = model.to_lowercase();
    // The cache of Hugging Face: models--ORGANISATION--NAME/snapshots/HASH.
    let cached = lower.split('/').find_map(|part| part.strip_prefix("models--"));
    let id = cached.map_or_else(|| lower.clone(), |name| name.replace("--", "/"));
    let id = id.trim_end_matches('/');
    let name = id.rsplit('/').next()?;
    let organisation = id.rsplit('/').nth(1).unwrap_or_default();
    let begins = |&&(start, ..): &&(&str, &str, &str)| {
        name.strip_prefix(start).is_some_and(|rest| {
            rest.is_empty() || rest.starts_with(['-', '_']) || start.ends_with(['.', 'n'])
        })
    };
    let (start, shape, published) =
        NETWORKS.iter().filter(begins).max_by_key(|(start, ..)| start.len())?;
    if shape.is_empty() {
        return None;
    }
    let mut weights = *published;
    for word in name[start.len()..].split(['-', '_']).filter(|word| !word.is_empty()) {
        weights = match word {
            same if SAME.contains(&same) => weights,
            "bf16" => "bf16",
            // The networks' own publishers give a scale for each block of 128 x 128.
            "fp8" if ["qwen", "zai-org", "deepseek-ai"].contains(&organisation) => "fp8_block",
            "fp8" => "fp8",
            "block" if weights == "fp8" => "fp8_block",
            "fp4" | "nvfp4" => "nvfp4",
            "mxfp4" => "mxfp4",
            _ => return None,
        };
    }
    let is_longer = |(start, mark, _): &&(&str, &str, u32)| {
        name.starts_with(start) && name.split(['-', '_']).any(|word| word == *mark)
    };
    Some(Network {
        shape: (*shape).to_owned(),
        weights: weights.to_owned(),
        context_tokens: LONGER.iter().find(is_longer).map(|(.., tokens)| *tokens),
    })
}

/// Marks of GPUs in labels of nodes, in lower case, and the names of the catalogue; the
/// first that is found counts. Sources: `nvidia.com/gpu.product` of NVIDIA's device plugin,
/// `cloud.google.com/gke-accelerator`, types of machines of AWS and Azure.
const GPUS: [(&str, &str); 34] = [
    // A part of a GPU, or a share of its time.
    ("mig-", ""),
    ("-shared", ""),
    // Of other memory, and so of another bandwidth, than those called like them.
    ("gh200", ""),
    ("gb300", ""),
    ("gb200", "gb200"),
    // Cards for a PCIe slot are slower than those of the catalogue.
    ("pcie", ""),
    ("nvl", ""),
    // With H100 NVL.
    ("nc40ads_h100", ""),
    ("b300", "b300"),
    ("b200", "b200"),
    ("h200", "h200"),
    ("h100", "h100"),
    ("a100-sxm4-80gb", "a100"),
    ("a100-80gb", "a100"),
    ("a100_80gb", "a100"),
    ("l40s", "l40s"),
    // Another GPU whose name begins like the next one.
    ("nvidia-l40", ""),
    ("nvidia-l4", "l4"),
    ("mi300x", "mi300x"),
    ("rtx-pro-6000", "rtx-pro-6000"),
    ("p6-b200", "b200"),
    ("p6e-gb200", "gb200"),
    ("p5en.", "h200"),
    ("p5e.", "h200"),
    ("p5.", "h100"),
    ("p4de.", "a100"),
    ("g6e.", "l40s"),
    ("g6.", "l4"),
    ("a3-ultragpu", "h200"),
    ("a3-megagpu", "h100"),
    ("a3-highgpu", "h100"),
    ("a4-highgpu", "b200"),
    ("g2-standard", "l4"),
    ("nd_h200", "h200"),
];

/// Keys of labels that say which GPU a node has.
const GPU_LABELS: [&str; 6] = [
    "nvidia.com/gpu.product",
    "cloud.google.com/gke-accelerator",
    "node.kubernetes.io/instance-type",
    "beta.kubernetes.io/instance-type",
    "amd.com/gpu.product-name",
    "gpu.nvidia.com/class",
];

/// Whether a label of a node says which GPU it has.
pub(super) fn is_gpu_label(key: &str) -> bool {
    GPU_LABELS.contains(&key)
}

/// The GPU that the value of such a label means.
pub(super) fn gpu(label: &str) -> Option<&'static str> {
    let label = label.to_lowercase();
    let found = GPUS.iter().find(|(mark, _)| label.contains(mark));
    found.map(|(_, gpu)| *gpu).filter(|gpu| !gpu.is_empty())
}

/// True for the `config.json` of a network.
pub(super) fn is_config(value: &Value) -> bool {
    let has = |key: &str| value.get(key).is_some();
    has("model_type") && (has("hidden_size") || has("text_config") || has("n_embd"))
}

/// The first format that a `config.json` in `folder` allows its weights to have.
pub(super) fn format_of(parts: &PartsChoice, folder: &Path) -> Result<String, ModelError> {
    let mut first = None;
    for format in crate::engine::model::Dtype::ALL {
        let parts = PartsChoice { weights: format, ..parts.clone() };
        match Model::choose(&ModelChoice::Parts(parts), folder) {
            Ok(_) => return Ok(format.as_str().to_owned()),
            Err(error) => first = first.or(Some(error)),
        }
    }
    Err(first.expect("there are formats"))
}

/// What a model's engine does where nothing is said, whether it has experts, whether some
/// of its layers look at a window, and its longest context.
pub(super) struct Loaded {
    pub(super) engine: EngineSettings,
    pub(super) has_experts: bool,
    pub(super) has_window: bool,
    pub(super) context_tokens: u32,
    pub(super) kv: &'static str,
}

/// Loads the model that parts make, to know that it can be.
pub(super) fn load(parts: &PartsChoice, folder: &Path) -> Result<Loaded, ModelError> {
    let model = Model::choose(&ModelChoice::Parts(parts.clone()), folder)?;
    let hardware = model.hardware.as_ref().expect("parts have hardware");
    Ok(Loaded {
        has_experts: hardware.shape.experts.is_some(),
        has_window: hardware.shape.window.is_some(),
        context_tokens: hardware.shape.context_tokens,
        kv: hardware.kv_dtype.as_str(),
        engine: model.engine,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::{Kind, named};

    #[test]
    fn checkpoints_are_networks_of_the_catalogue() {
        for (model, shape, weights) in [
            ("Qwen/Qwen3-32B", "qwen3-32b", "bf16"),
            ("Qwen/Qwen3-32B-FP8", "qwen3-32b", "fp8_block"),
            ("nvidia/Qwen3-32B-FP8", "qwen3-32b", "fp8"),
            ("RedHatAI/Llama-3.3-70B-Instruct-FP8-dynamic", "llama-3.1-70b", "fp8"),
            ("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b", "bf16"),
            ("deepseek-ai/DeepSeek-R1-Distill-Llama-8B", "llama-3.1-8b", "bf16"),
            ("deepseek-ai/DeepSeek-R1-0528", "deepseek-r1", "fp8_block"),
            ("nvidia/DeepSeek-R1-0528-NVFP4", "deepseek-r1", "nvfp4"),
            ("moonshotai/Kimi-K2.5", "kimi-k2.5", "int4"),
            ("moonshotai/Kimi-K2-Instruct-0905", "kimi-k2", "fp8_block"),
            ("/m/hub/models--openai--gpt-oss-120b/snapshots/b5c9", "gpt-oss-120b", "mxfp4"),
            ("/opt/models/Qwen3-235B-A22B-Instruct-2507/", "qwen3-235b-a22b", "bf16"),
        ] {
            let found = network(model).unwrap_or_else(|| panic!("{model}"));
            assert_eq!((found.shape.as_str(), found.weights.as_str()), (shape, weights), "{model}");
            let is_longer = ["0905", "2507"].iter().any(|mark| model.contains(mark));
            assert_eq!(found.context_tokens, is_longer.then_some(262_144), "{model}");
            assert!(named(Kind::Shape, shape).is_ok(), "{shape}");
        }
        for model in [
            "Qwen/Qwen3-0.6B",
            "Qwen/Qwen3-32B-AWQ",
            "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B",
            "deepseek-ai/DeepSeek-V3.2",
            "meta-llama/Llama-3.1-8B-Instruct-GPTQ",
            "zai-org/GLM-5.1",
            "qwen3-32bx",
            "",
            "/",
        ] {
            assert_eq!(network(model), None, "{model}");
        }
    }

    #[test]
    fn labels_name_gpus_of_the_catalogue() {
        for (label, expected) in [
            ("NVIDIA-H100-80GB-HBM3", Some("h100")),
            ("NVIDIA-H200", Some("h200")),
            ("nvidia-h200-141gb", Some("h200")),
            ("NVIDIA-GB200", Some("gb200")),
            ("NVIDIA-A100-SXM4-80GB", Some("a100")),
            ("NVIDIA-A100-SXM4-40GB", None),
            ("p5en.48xlarge", Some("h200")),
            ("p5.48xlarge", Some("h100")),
            ("NVIDIA-L40S", Some("l40s")),
            ("NVIDIA-L40", None),
            ("Tesla-T4", None),
            ("NVIDIA-GH200-480GB", None),
            ("NVIDIA-GB300", None),
            ("NVIDIA-H100-80GB-HBM3-MIG-1g.10gb", None),
            ("NVIDIA-H100-80GB-HBM3-SHARED", None),
            ("NVIDIA-H100-PCIe", None),
            ("NVIDIA-A100-80GB-PCIe", None),
            ("NVIDIA-H100-NVL", None),
            ("Standard_NC40ads_H100_v5", None),
            ("Standard_ND_H200_v5", Some("h200")),
        ] {
            assert_eq!(gpu(label), expected, "{label}");
        }
        for (_, gpu) in GPUS.into_iter().filter(|(_, gpu)| !gpu.is_empty()) {
            assert!(named(Kind::Gpu, gpu).is_ok(), "{gpu}");
        }
    }
}
