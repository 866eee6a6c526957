//! Reads the `config.json` that a network is published with.
//!
//! By allowance: what is read is a dense transformer whose layers all attend to
//! everything and have a gated feed-forward part, because that is what
//! [`Shape`] describes. Files say what else a network has in many keys, and new
//! ones with every new network; so a `model_type` that is not known to be such a
//! transformer is refused unless the user says that it is one, and whatever
//! hints at something else is refused by name.

use crate::engine::hardware::{Dtype, Shape};
use serde::Deserialize;
use serde_json::{Map, Value};

/// Values of `model_type` that are dense transformers with gated feed-forward
/// layers. Whether they attend to everything is up to other keys. Source: the
/// published code of the models of that name.
const DENSE: [&str; 18] = [
    "cohere",
    "gemma",
    "glm",
    "glm4",
    "granite",
    "helium",
    "internlm2",
    "internlm3",
    "llama",
    "minicpm",
    "mistral",
    "olmo",
    "olmo2",
    "phi3",
    "qwen2",
    "qwen3",
    "seed_oss",
    "smollm3",
];

/// The way out of every refusal.
const WAY_OUT: &str = "only dense transformers whose layers all attend to everything can be read; \
                       if one stands in for this network, give its dimensions as a shape of your \
                       own (TOML, as those in models/shapes/)";

/// What cannot be read, in one line.
pub(crate) struct Refused {
    /// Line of the file, from 1.
    pub(crate) line: usize,
    /// What is wrong, and the way out.
    pub(crate) problem: String,
}

/// What is said of the network besides its file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Declared {
    /// Number format of the weights.
    pub(crate) weights: Dtype,
    /// The user says that an unknown `model_type` is a dense transformer.
    pub(crate) assume_dense: bool,
}

/// The keys that dimensions are taken from. Defaults are those of `transformers`.
#[derive(Deserialize)]
struct Dimensions {
    num_hidden_layers: u32,
    hidden_size: u32,
    num_attention_heads: u32,
    num_key_value_heads: Option<u32>,
    head_dim: Option<u32>,
    intermediate_size: u32,
    vocab_size: u32,
    max_position_embeddings: u32,
    #[serde(default)]
    tie_word_embeddings: bool,
}

/// The dimensions of the network that `text` describes.
pub(crate) fn read(text: &str, declared: Declared) -> Result<Shape, Refused> {
    let json = |error: serde_json::Error| Refused {
        line: error.line().max(1),
        problem: error.to_string(),
    };
    let keys: Map<String, Value> = serde_json::from_str(text).map_err(json)?;
    let refuse = |key: &str, problem: String| {
        let found = text.find(&format!("\"{key}\"")).unwrap_or(0);
        Err(Refused { line: crate::settings::line_of(text, found), problem })
    };
    if let Some((key, problem)) = unlike_dense(&keys) {
        return refuse(&key, format!("{key}: {problem}; {WAY_OUT}"));
    }
    if let Some((key, stored)) = stored_in(&keys).filter(|(_, stored)| *stored != declared.weights)
    {
        // 16-bit weights can be made 8-bit ones when they are loaded.
        if stored == Dtype::Fp8 {
            let problem = format!(
                "{key}: the weights are stored as {stored}, and the model says {} of them",
                declared.weights
            );
            return refuse(key, problem);
        }
    }
    let kind = keys.get("model_type").and_then(Value::as_str).unwrap_or("");
    if !DENSE.contains(&kind) && !declared.assume_dense {
        let problem = format!(
            "model_type {kind:?} is not known to be a dense transformer with full attention (known: \
             {}); if it is one, say assume_dense = true beside shape",
            DENSE.join(", ")
        );
        return refuse("model_type", problem);
    }
    let dimensions: Dimensions = serde_json::from_value(Value::Object(keys.clone()))
        .map_err(|error| Refused { line: 1, problem: error.to_string() })?;
    let Dimensions { num_attention_heads: heads, hidden_size: hidden, .. } = dimensions;
    if heads == 0 {
        return refuse("num_attention_heads", "num_attention_heads = 0: must be at least 1".into());
    }
    Ok(Shape {
        name: if kind.is_empty() { "config.json".to_owned() } else { kind.to_owned() },
        source: None,
        layers: dimensions.num_hidden_layers,
        hidden,
        heads,
        kv_heads: dimensions.num_key_value_heads.unwrap_or(heads),
        head_size: dimensions.head_dim.unwrap_or(hidden / heads),
        ffn: dimensions.intermediate_size,
        vocabulary: dimensions.vocab_size,
        context_tokens: dimensions.max_position_embeddings,
        tied_embeddings: dimensions.tie_word_embeddings,
    })
}

/// The first key that says that the network is something else, and what it says.
fn unlike_dense(keys: &Map<String, Value>) -> Option<(String, String)> {
    // Before what is inside: most keys are missing beside these.
    for (key, value) in keys {
        if key.ends_with("_config") && value.get("num_hidden_layers").is_some() {
            return Some((key.clone(), "describes a network inside of another one".into()));
        }
    }
    for (key, value) in keys {
        let is_on = is_in_effect(value);
        let problem = if key == "quantization_config" && !value.is_null() {
            Some(quantization(value))
        } else if key.contains("experts") && is_on {
            Some(format!("{}: a mixture of experts", inline(value)))
        } else if key == "sliding_window" && slides(keys, value) {
            Some(format!("{}: layers that attend to a window only", inline(value)))
        } else if key == "layer_types" {
            other_layers(value)
        } else if ["attention_chunk_size", "sliding_window_pattern", "local_attention"]
            .contains(&key.as_str())
            && is_on
            && keys.get("use_sliding_window") != Some(&Value::Bool(false))
        {
            Some(format!("{}: layers that do not attend to everything", inline(value)))
        } else if key.ends_with("kv_lora_rank") && is_on {
            Some(format!("{}: latent attention (MLA)", inline(value)))
        } else if is_state_space(key) && is_on {
            Some(format!("{}: layers that keep a state in place of KV", inline(value)))
        } else {
            None
        };
        if let Some(problem) = problem {
            return Some((key.clone(), problem));
        }
    }
    None
}

/// True unless a key is there to say that there is nothing of its kind.
fn is_in_effect(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::Array(items) => !items.is_empty(),
        Value::Object(keys) => !keys.is_empty(),
        Value::Bool(true) | Value::String(_) => true,
    }
}

/// True if some layer looks at less than the longest context.
fn slides(keys: &Map<String, Value>, window: &Value) -> bool {
    let number = |key: &str| keys.get(key).and_then(Value::as_u64);
    if !is_in_effect(window) || keys.get("use_sliding_window") == Some(&Value::Bool(false)) {
        return false;
    }
    let covers_all = window.as_u64().zip(number("max_position_embeddings"));
    if covers_all.is_some_and(|(window, context)| window >= context) {
        return false;
    }
    // Qwen2: layers from `max_window_layers` on have the window, if it is used at all.
    let is_used = keys.get("use_sliding_window") == Some(&Value::Bool(true));
    let first = number("max_window_layers").filter(|_| is_used);
    first.zip(number("num_hidden_layers")).is_none_or(|(first, layers)| first < layers)
}

/// The kinds of layers, if there are others than those with full attention.
fn other_layers(types: &Value) -> Option<String> {
    let others = |types: &Vec<Value>| {
        types.iter().find(|kind| kind.as_str() != Some("full_attention")).map(inline)
    };
    let other = types.as_array().map_or_else(|| Some(inline(types)), others);
    other
        .filter(|_| !types.is_null())
        .map(|other| format!("{other}: other layers than full attention"))
}

/// Keys of Mamba, RWKV, linear attention and the like.
fn is_state_space(key: &str) -> bool {
    let parts = ["ssm", "mamba", "rwkv", "state_size", "d_state", "linear_conv", "linear_attn"];
    parts.iter().any(|part| key.contains(part)) || key == "time_step_rank" || key == "conv_L_cache"
}

/// How the weights are quantised, in words.
fn quantization(config: &Value) -> String {
    let text = |key: &str| config.get(key).and_then(Value::as_str);
    let method = text("quant_method").or(text("quant_algo")).unwrap_or("of an unknown method");
    let bits = config.get("bits").and_then(Value::as_u64);
    let bits = bits.map_or(String::new(), |bits| format!(", {bits} bit"));
    format!(
        "{method}{bits}: quantised weights; the formats there are, \"bf16\" and \"fp8\", are those that \
         the model says of a shape"
    )
}

/// The number format that the weights are stored in, and the key that says so.
fn stored_in(keys: &Map<String, Value>) -> Option<(&'static str, Dtype)> {
    let key = ["torch_dtype", "dtype"].into_iter().find(|key| keys.contains_key(*key))?;
    let name = keys[key].as_str()?;
    let is_fp8 = name.contains("float8") || name.contains("fp8");
    Some((key, if is_fp8 { Dtype::Fp8 } else { Dtype::Bf16 }))
}

/// A value on one line, cut to a readable length.
fn inline(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &str = r#"{
        "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 14336, "vocab_size": 128256,
        "max_position_embeddings": 131072, "tie_word_embeddings": false,
        "model_type": "llama"
    }"#;

    const BF16: Declared = Declared { weights: Dtype::Bf16, assume_dense: false };

    /// `keys` in the plain file, in place of those of the same name.
    fn with(keys: &str) -> String {
        let mut file: Map<String, Value> = serde_json::from_str(PLAIN).unwrap();
        file.extend(serde_json::from_str::<Map<String, Value>>(&format!("{{{keys}}}")).unwrap());
        serde_json::to_string_pretty(&file).unwrap()
    }

    fn refusal(keys: &str) -> Option<String> {
        read(&with(keys), BF16).err().map(|refused| refused.problem)
    }

    #[test]
    fn what_is_not_dense_or_does_not_attend_to_everything_is_refused_by_name() {
        for (keys, said) in [
            (r#""model_type": "gemma2", "sliding_window": 4096"#, "sliding_window: 4096: "),
            (r#""model_type": "mistral", "sliding_window": 4096"#, "sliding_window: 4096: "),
            (r#""model_type": "phi3", "sliding_window": 2047"#, "sliding_window: 2047: "),
            (
                r#""model_type": "qwen2", "use_sliding_window": true, "sliding_window": 4096,
                   "max_window_layers": 28"#,
                "sliding_window: 4096: ",
            ),
            (r#""model_type": "minicpm3", "kv_lora_rank": 256"#, "kv_lora_rank: 256: latent"),
            (r#""layer_types": ["full_attention", "sliding_attention"]"#, "layer_types: \"sliding"),
            (r#""layer_types": ["linear_attention", "full_attention"]"#, "layer_types: \"linear"),
            (r#""num_local_experts": 8"#, "num_local_experts: 8: a mixture of experts"),
            (r#""n_routed_experts": 256"#, "n_routed_experts: 256: a mixture"),
            (r#""moe_num_experts": [64, 64]"#, "moe_num_experts: [64,64]: a mixture"),
            (r#""mamba_d_state": 128"#, "mamba_d_state: 128: layers that keep a state"),
            (r#""ssm_cfg": {"layer": "Mamba2"}"#, "ssm_cfg: "),
            (r#""attention_chunk_size": 8192"#, "attention_chunk_size: 8192"),
            (
                r#""quantization_config": {"quant_method": "gptq", "bits": 4}"#,
                "quantization_config: gptq, 4 bit: quantised weights",
            ),
            (
                r#""model_type": "gemma3", "text_config": {"num_hidden_layers": 32}"#,
                "text_config: describes a network inside of another one",
            ),
            (r#""model_type": "falcon""#, "model_type \"falcon\" is not known to be a dense"),
            (r#""torch_dtype": "float8_e4m3fn""#, "torch_dtype: the weights are stored as fp8"),
            (r#""num_attention_heads": 0"#, "num_attention_heads = 0"),
        ] {
            let problem = refusal(keys).unwrap_or_else(|| panic!("read: {keys}"));
            assert!(problem.starts_with(said), "{keys}: {problem}");
        }
    }

    #[test]
    fn what_is_there_and_has_no_effect_is_read() {
        for keys in [
            r#""model_type": "llama""#,
            r#""model_type": "mistral", "sliding_window": null"#,
            r#""model_type": "mistral", "sliding_window": 131072"#,
            r#""model_type": "qwen2", "use_sliding_window": false, "sliding_window": 32768,
               "max_window_layers": 28"#,
            r#""model_type": "qwen2", "use_sliding_window": true, "sliding_window": 4096,
               "max_window_layers": 32"#,
            r#""model_type": "qwen3", "layer_types": ["full_attention", "full_attention"]"#,
            r#""num_experts": 0, "num_local_experts": null, "quantization_config": null"#,
            r#""torch_dtype": "float16""#,
            r#""rope_scaling": {"factor": 8.0}, "kv_lora_rank": null"#,
        ] {
            assert_eq!(refusal(keys), None, "{keys}");
        }
        // 16-bit weights may be made 8-bit ones at load, but not the other way round.
        let fp8 = Declared { weights: Dtype::Fp8, ..BF16 };
        assert!(read(&with(r#""torch_dtype": "bfloat16""#), fp8).is_ok());
        assert!(read(&with(r#""dtype": "float8_e4m3fn""#), fp8).is_ok());
    }

    #[test]
    fn an_unknown_network_is_dense_if_the_user_says_so() {
        let assumed = Declared { assume_dense: true, ..BF16 };
        let shape = read(&with(r#""model_type": "brand_new""#), assumed).ok().unwrap();
        assert_eq!((shape.name.as_str(), shape.layers, shape.kv_heads), ("brand_new", 32, 8));
        // But not whatever its file says.
        assert!(read(&with(r#""model_type": "brand_new", "kv_lora_rank": 512"#), assumed).is_err());
    }

    #[test]
    fn refusals_name_the_line() {
        let refused = read(&with(r#""sliding_window": 4096"#), BF16).err().unwrap();
        assert_eq!(refused.line, 10);
        assert!(read("[]", BF16).is_err() && read("", BF16).is_err());
    }
}
