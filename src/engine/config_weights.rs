//! Number formats in a published `config.json`: how its `quantization_config` says that
//! weights and KV are stored.
//!
//! Sources: the `quantization_config` of published checkpoints, and what vLLM makes of it.

use crate::engine::dtype::Dtype;
use serde_json::Value;

/// Names under which the section stands; compressed-tensors had its own until 2024.
const SECTIONS: [&str; 2] = ["quantization_config", "compression_config"];

/// Lists of what stays in 16 bit.
const KEPT: [&str; 4] = ["ignore", "modules_to_not_convert", "exclude_modules", "ignored_layers"];

/// The way out of a format that cannot be read.
const WAY_OUT: &str = "give the network's dimensions in a TOML file, as those in models/shapes/, and the \
                       nearest of these formats";

/// How a file says that its numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    /// The weights; where there are experts, those of routed ones.
    pub(super) weights: Dtype,
    /// Those of attention.
    pub(super) attention: Dtype,
    /// The KV cache, if the file says it: engines follow it unless told otherwise.
    pub(super) kv: Option<Dtype>,
}

impl Stored {
    /// What a file with these keys says, if it has such a section.
    ///
    /// # Errors
    /// The key of the section, and what of it cannot be described.
    pub(super) fn of<'a>(
        in_effect: impl Fn(&str) -> Option<&'a Value>,
    ) -> Result<Option<Self>, (String, String)> {
        let section = SECTIONS.into_iter().find_map(|key| Some((key, in_effect(key)?)));
        let Some((key, section)) = section else { return Ok(None) };
        let problem = |problem| (key.to_owned(), format!("{key}: {problem}"));
        let weights = weights(section).map_err(problem)?;
        let attention = if keeps_attention(section) { Dtype::Bf16 } else { weights };
        let kv = kv(section).map_err(problem)?;
        Ok(Some(Self { weights, attention, kv }))
    }
}

fn text<'a>(section: &'a Value, key: &str) -> &'a str {
    section.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// The groups of layers of compressed-tensors, which modelopt took over.
fn groups(section: &Value) -> impl Iterator<Item = &Value> {
    let groups = section.get("config_groups").and_then(Value::as_object);
    groups.into_iter().flat_map(|groups| groups.values())
}

fn weights(section: &Value) -> Result<Dtype, String> {
    let (method, algorithm) = (text(section, "quant_method"), text(section, "quant_algo"));
    let of_algorithm = |name: &str| algorithm.eq_ignore_ascii_case(name);
    let compressed = || {
        let mut formats = groups(section).map(|group| of_group(group, text(section, "format")));
        let first = formats.next().unwrap_or_else(|| of_group(section, text(section, "format")))?;
        match formats.find(|other| *other != Ok(first)) {
            Some(Ok(other)) => Err(format!("{first} in some layers, {other} in others")),
            Some(Err(problem)) => Err(problem),
            None => Ok(first),
        }
    };
    let found = match method {
        "mxfp4" => Ok(Dtype::Mxfp4),
        "fp8" => match section.get("weight_block_size").filter(|size| !size.is_null()) {
            Some(size) if is_128(size) => Ok(Dtype::Fp8Block),
            Some(size) => Err(format!("fp8 in blocks of {size}")),
            None => Ok(Dtype::Fp8),
        },
        "compressed-tensors" => compressed(),
        _ if of_algorithm("FP8") => Ok(Dtype::Fp8),
        _ if of_algorithm("NVFP4") => Ok(Dtype::Nvfp4),
        _ => {
            let named = [algorithm, method, "an unknown method"];
            let named = named.into_iter().find(|name| !name.is_empty()).unwrap_or_default();
            Err(bits(section).map_or(named.to_owned(), |bits| format!("{named}, {bits} bit")))
        }
    };
    found.map_err(|found| {
        let formats = Dtype::ALL.map(Dtype::as_str).join(", ");
        format!("{found}: the formats that can be read are {formats}; {WAY_OUT}")
    })
}

/// Bits of a number, by the names that libraries give them.
fn bits(section: &Value) -> Option<u64> {
    let flag = |key: &str| section.get(key).and_then(Value::as_bool) == Some(true);
    let number = section.get("bits").and_then(Value::as_u64);
    number.or(flag("load_in_4bit").then_some(4)).or(flag("load_in_8bit").then_some(8))
}

/// The format of a group of layers of compressed-tensors.
fn of_group(group: &Value, of_all: &str) -> Result<Dtype, String> {
    let own = text(group, "format");
    let format = if own.is_empty() { of_all } else { own };
    let weights = group.get("weights").unwrap_or(&Value::Null);
    let number = |key: &str| weights.get(key).and_then(Value::as_u64);
    let (bits, kind, strategy) =
        (number("num_bits"), text(weights, "type"), text(weights, "strategy"));
    match format {
        "nvfp4-pack-quantized" => Ok(Dtype::Nvfp4),
        "mxfp4-pack-quantized" => Ok(Dtype::Mxfp4),
        "pack-quantized" if bits.is_none_or(|bits| bits == 4) => match number("group_size") {
            None | Some(32) => Ok(Dtype::Int4),
            Some(size) => Err(format!(
                "compressed-tensors, 4-bit integers with a scale for every {size}, where int4 has one \
                 for every 32 and takes 4.5 bit a number"
            )),
        },
        "float-quantized" | "naive-quantized"
            if kind == "float" && bits.is_none_or(|bits| bits == 8) =>
        {
            match strategy {
                "block" if weights.get("block_structure").is_some_and(is_128) => {
                    Ok(Dtype::Fp8Block)
                }
                // A scale for each row of a matrix takes no other kernels than one for all.
                "tensor" | "channel" => Ok(Dtype::Fp8),
                other => Err(format!("compressed-tensors, fp8 with the strategy {other:?}")),
            }
        }
        _ => {
            let bits = bits.map_or(String::new(), |bits| format!(", {bits} bit"));
            let kind = if kind.is_empty() { String::new() } else { format!(", {kind}") };
            Err(format!("compressed-tensors {format}{kind}{bits}"))
        }
    }
}

/// Blocks of 128 x 128, as a list or in words.
fn is_128(size: &Value) -> bool {
    match size {
        Value::Array(sides) => {
            sides.len() == 2 && sides.iter().all(|side| side.as_u64() == Some(128))
        }
        other => other.as_str() == Some("128x128"),
    }
}

/// Whether attention stays in 16 bit: listed as kept, or no group is for it.
fn keeps_attention(section: &Value) -> bool {
    let is_attention = |name: &str| name.contains("attn") || name.contains("attention");
    let names = |value: Option<&Value>| {
        let listed = value.and_then(Value::as_array).cloned().unwrap_or_default();
        listed.iter().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>()
    };
    let is_kept = KEPT.iter().any(|key| names(section.get(*key)).iter().any(|n| is_attention(n)));
    let mut targets = groups(section).map(|group| names(group.get("targets"))).peekable();
    let is_for_others = targets.peek().is_some()
        && targets.all(|targets| {
            !targets.is_empty()
                && !targets.iter().any(|name| name == "Linear" || is_attention(name))
        });
    // Engines read this method for experts alone.
    is_kept || is_for_others || text(section, "quant_method") == "mxfp4"
}

/// The number format of the cache, if the section has one.
fn kv(section: &Value) -> Result<Option<Dtype>, String> {
    let algorithm = text(section, "kv_cache_quant_algo");
    if !algorithm.is_empty() {
        return match algorithm.eq_ignore_ascii_case("FP8") {
            true => Ok(Some(Dtype::Fp8)),
            false => Err(format!("kv_cache_quant_algo: {algorithm}: KV is in bf16 or fp8 here")),
        };
    }
    let Some(scheme) = section.get("kv_cache_scheme").filter(|scheme| !scheme.is_null()) else {
        return Ok(None);
    };
    let bits = scheme.get("num_bits").and_then(Value::as_u64);
    match (text(scheme, "type"), bits) {
        ("float", Some(8)) => Ok(Some(Dtype::Fp8)),
        _ => Err(format!("kv_cache_scheme: {scheme}: KV is in bf16 or fp8 here")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn stored(section: &Value) -> Result<Stored, String> {
        let found = Stored::of(|key| Some(section).filter(|_| key == "quantization_config"));
        found.map(|stored| stored.expect("a section")).map_err(|(_, problem)| problem)
    }

    /// Sections of published checkpoints, and what they say of weights, attention and KV.
    #[test]
    fn published_sections_are_read() {
        use Dtype::{Bf16, Fp8, Fp8Block, Int4, Mxfp4, Nvfp4};
        let group =
            |weights: Value| json!({"group_0": {"targets": ["Linear"], "weights": weights}});
        for (section, weights, attention, kv) in [
            // DeepSeek-R1, Qwen3-FP8, MiniMax-M2.
            (
                json!({"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
                       "weight_block_size": [128, 128],
                       "modules_to_not_convert": ["gate", "e_score_correction_bias", "lm_head"]}),
                Fp8Block,
                Fp8Block,
                None,
            ),
            // neuralmagic's first FP8 releases, Mistral's.
            (
                json!({"quant_method": "fp8", "activation_scheme": "static", "ignored_layers": ["lm_head"]}),
                Fp8,
                Fp8,
                None,
            ),
            // RedHatAI's FP8-dynamic and FP8-block; 8-bit KV by its own scheme.
            (
                json!({"quant_method": "compressed-tensors", "format": "float-quantized", "ignore": ["lm_head"],
                       "config_groups": group(json!({"num_bits": 8, "type": "float", "strategy": "channel"})),
                       "kv_cache_scheme": {"num_bits": 8, "type": "float", "strategy": "tensor"}}),
                Fp8,
                Fp8,
                Some(Fp8),
            ),
            (
                json!({"quant_method": "compressed-tensors", "format": "float-quantized",
                       "config_groups": group(json!({"num_bits": 8, "type": "float", "strategy": "block",
                                                     "block_structure": [128, 128]}))}),
                Fp8Block,
                Fp8Block,
                None,
            ),
            // gpt-oss.
            (
                json!({"quant_method": "mxfp4",
                       "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router",
                                                  "model.embed_tokens", "lm_head"]}),
                Mxfp4,
                Bf16,
                None,
            ),
            // Kimi-K2.5.
            (
                json!({"quant_method": "compressed-tensors", "format": "pack-quantized", "kv_cache_scheme": null,
                       "config_groups": group(json!({"num_bits": 4, "type": "int", "strategy": "group",
                                                     "group_size": 32})),
                       "ignore": ["lm_head", "re:.*self_attn.*", "re:.*shared_experts.*"]}),
                Int4,
                Bf16,
                None,
            ),
            // A release of experts alone, by targets.
            (
                json!({"quant_method": "compressed-tensors", "format": "pack-quantized",
                       "config_groups": {"group_0": {"targets": ["re:.*mlp.experts.*"],
                           "weights": {"num_bits": 4, "type": "int", "group_size": 32}}}}),
                Int4,
                Bf16,
                None,
            ),
            // nvidia's: attention in 16 bit, and with the rest in 4 bit.
            (
                json!({"quant_method": "modelopt", "quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8",
                       "ignore": ["lm_head", "model.layers.0.self_attn*"]}),
                Nvfp4,
                Bf16,
                Some(Fp8),
            ),
            (
                json!({"quant_method": "modelopt", "quant_algo": "NVFP4",
                       "exclude_modules": ["lm_head", "model.layers.*.mlp.gate"]}),
                Nvfp4,
                Nvfp4,
                None,
            ),
            (json!({"quant_method": "modelopt", "quant_algo": "FP8"}), Fp8, Fp8, None),
            (
                json!({"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized",
                       "config_groups": group(json!({"num_bits": 4, "type": "float", "group_size": 16}))}),
                Nvfp4,
                Nvfp4,
                None,
            ),
        ] {
            assert_eq!(stored(&section), Ok(Stored { weights, attention, kv }), "{section}");
        }
    }

    #[test]
    fn what_has_no_format_here_is_refused_by_name() {
        let group =
            |weights: Value| json!({"group_0": {"targets": ["Linear"], "weights": weights}});
        for (section, named) in [
            (json!({"quant_method": "awq", "bits": 4, "group_size": 128}), "awq, 4 bit"),
            (json!({"quant_method": "gptq", "bits": 8, "group_size": 128}), "gptq, 8 bit"),
            (json!({"quant_method": "bitsandbytes", "load_in_4bit": true}), "bitsandbytes, 4 bit"),
            (json!({"quant_method": "fbgemm_fp8"}), "fbgemm_fp8: the formats"),
            (json!({"quant_method": "quark"}), "quark: the formats"),
            (
                json!({"quant_method": "fp8", "weight_block_size": [64, 64]}),
                "fp8 in blocks of [64,64]",
            ),
            (
                json!({"quant_method": "compressed-tensors", "format": "int-quantized",
                       "config_groups": group(json!({"num_bits": 8, "type": "int", "strategy": "channel"}))}),
                "compressed-tensors int-quantized, int, 8 bit",
            ),
            (
                json!({"quant_method": "compressed-tensors", "format": "pack-quantized",
                       "config_groups": group(json!({"num_bits": 4, "type": "int", "group_size": 128}))}),
                "4-bit integers with a scale for every 128",
            ),
            (
                json!({"quant_method": "compressed-tensors", "format": "pack-quantized",
                       "config_groups": group(json!({"num_bits": 8, "type": "int", "group_size": 128}))}),
                "compressed-tensors pack-quantized, int, 8 bit",
            ),
            (
                json!({"quant_method": "compressed-tensors", "format": "mixed-precision", "config_groups": {
                    "group_0": {"format": "float-quantized", "targets": ["re:.*self_attn.*"],
                                "weights": {"num_bits": 8, "type": "float", "strategy": "channel"}},
                    "group_1": {"format": "nvfp4-pack-quantized", "targets": ["re:.*mlp.*"],
                                "weights": {"num_bits": 4, "type": "float", "group_size": 16}}}}),
                "fp8 in some layers, nvfp4 in others",
            ),
            (
                json!({"quant_method": "modelopt", "quant_algo": "W4A8_AWQ"}),
                "W4A8_AWQ: the formats that can be read are bf16, fp8, fp8_block, mxfp4, nvfp4, int4; give",
            ),
            (
                json!({"quant_algo": "NVFP4", "kv_cache_quant_algo": "NVFP4"}),
                "kv_cache_quant_algo: NVFP4: KV is in bf16 or fp8",
            ),
        ] {
            let problem = stored(&section).expect_err(named);
            assert!(problem.contains(named), "{section}: {problem}");
        }
    }
}
