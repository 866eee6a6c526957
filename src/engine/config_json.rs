//! Reads the `config.json` that a network is published with.
//!
//! By allowance: what is read is what [`Shape`] describes. Files say what else a network
//! has in many keys, and new ones with every new network; so a `model_type` that is not
//! known is refused unless the user says that it is a dense transformer, and whatever
//! hints at something that a shape cannot say is refused by name.

use crate::engine::hardware::{Dtype, Experts, Index, Latent, Shape, Window};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// What a `model_type` stands for beside what the other keys say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    /// Gated feed-forward layers; a window, if there is one, in all layers.
    Dense,
    /// The same; a window in all but every so many layers, unless the file says in which.
    Alternating(u32),
    /// Experts, as other keys say.
    Experts,
}

/// Values of `model_type` that are read. Source: the published code of the models of
/// that name.
const FAMILIES: [(&str, Family); 33] = [
    ("cohere", Family::Dense),
    ("cohere2", Family::Alternating(4)),
    ("deepseek_v3", Family::Experts),
    ("gemma", Family::Dense),
    ("gemma2", Family::Alternating(2)),
    ("gemma3", Family::Alternating(6)),
    ("gemma3_text", Family::Alternating(6)),
    ("glm", Family::Dense),
    ("glm4", Family::Dense),
    ("glm4_moe", Family::Experts),
    ("glm_moe_dsa", Family::Experts),
    ("gpt_oss", Family::Experts),
    ("granite", Family::Dense),
    ("helium", Family::Dense),
    ("internlm2", Family::Dense),
    ("internlm3", Family::Dense),
    ("kimi_k2", Family::Experts),
    ("kimi_k25", Family::Experts),
    ("llama", Family::Dense),
    ("minicpm", Family::Dense),
    ("minimax_m2", Family::Experts),
    ("mistral", Family::Dense),
    ("mixtral", Family::Experts),
    ("olmo", Family::Dense),
    ("olmo2", Family::Dense),
    ("olmo3", Family::Dense),
    ("phi3", Family::Dense),
    ("qwen2", Family::Dense),
    ("qwen2_moe", Family::Experts),
    ("qwen3", Family::Dense),
    ("qwen3_moe", Family::Experts),
    ("seed_oss", Family::Dense),
    ("smollm3", Family::Dense),
];

/// The way out of every refusal.
const WAY_OUT: &str = "a shape cannot say that; if another network stands in for this one, give its \
                       dimensions as a shape of your own (TOML, as those in models/shapes/)";

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

/// A key that cannot be used, and why.
type Problem = (String, String);

/// The dimensions of the network that `text` describes.
pub(crate) fn read(text: &str, declared: Declared) -> Result<Shape, Refused> {
    let json = |error: serde_json::Error| Refused {
        line: error.line().max(1),
        problem: error.to_string(),
    };
    let file: Map<String, Value> = serde_json::from_str(text).map_err(json)?;
    let refused = |(key, problem): Problem| {
        let found = text.find(&format!("\"{key}\"")).unwrap_or(0);
        Refused { line: crate::settings::line_of(text, found), problem }
    };
    let keys = Keys::of_text(&file).map_err(refused)?;
    keys.refuse_others().map_err(refused)?;
    keys.check_weights(declared.weights).map_err(refused)?;
    keys.shape(declared.assume_dense).map_err(refused)
}

/// The keys of a network of text.
struct Keys(Map<String, Value>);

impl Keys {
    /// Those of the file, or of its `text_config` with what stands beside that.
    fn of_text(file: &Map<String, Value>) -> Result<Self, Problem> {
        let is_network = |value: &Value| value.get("num_hidden_layers").is_some();
        if let Some(text) = file.get("text_config").filter(|text| is_network(text)) {
            let mut keys = file.clone();
            keys.retain(|key, value| !(key.ends_with("_config") && is_network(value)));
            keys.extend(text.as_object().cloned().unwrap_or_default());
            return Ok(Self(keys));
        }
        let inner =
            |(key, value): &(&String, &Value)| key.ends_with("_config") && is_network(value);
        match file.iter().find(inner) {
            Some((key, _)) => {
                let problem =
                    format!("{key}: describes a network inside of another one; {WAY_OUT}");
                Err((key.clone(), problem))
            }
            None => Ok(Self(file.clone())),
        }
    }

    /// A key's value, unless it is there to say that there is nothing of its kind.
    fn in_effect(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|value| is_in_effect(value))
    }

    fn number(&self, key: &str) -> Option<u32> {
        self.in_effect(key)?.as_u64().and_then(|number| u32::try_from(number).ok())
    }

    fn needed<T: DeserializeOwned>(&self, key: &str) -> Result<T, Problem> {
        let value = self
            .0
            .get(key)
            .ok_or_else(|| ("model_type".to_owned(), format!("missing field `{key}`")))?;
        serde_json::from_value(value.clone())
            .map_err(|error| (key.to_owned(), format!("{key}: {error}")))
    }

    /// The first of several names of one thing.
    fn first(&self, names: &[&str]) -> Result<u32, Problem> {
        match names.iter().find_map(|name| self.number(name)) {
            Some(number) => Ok(number),
            None => self.needed(names[0]),
        }
    }

    /// Refuses what a shape cannot say.
    fn refuse_others(&self) -> Result<(), Problem> {
        for (key, value) in self.0.iter().filter(|(_, value)| is_in_effect(value)) {
            let problem = match key.as_str() {
                "layer_types" => other_layers(value),
                "attention_chunk_size" | "local_attention" => {
                    Some(format!("{}: layers that attend within chunks", inline(value)))
                }
                "mlp_only_layers" => {
                    Some(format!("{}: layers without experts among others", inline(value)))
                }
                "decoder_sparse_step" | "moe_layer_freq" if value.as_u64() != Some(1) => {
                    Some(format!("{}: layers without experts among others", inline(value)))
                }
                key if is_state_space(key) => {
                    Some(format!("{}: layers that keep a state in place of KV", inline(value)))
                }
                _ => None,
            };
            if let Some(problem) = problem {
                return Err((key.clone(), format!("{key}: {problem}; {WAY_OUT}")));
            }
        }
        Ok(())
    }

    /// Refuses weights that are stored otherwise than the model says, unless they can be
    /// made so when they are loaded.
    fn check_weights(&self, declared: Dtype) -> Result<(), Problem> {
        if let Some(config) = self.in_effect("quantization_config") {
            let key = "quantization_config".to_owned();
            let stored = quantized(config).map_err(|other| (key.clone(), other))?;
            if stored != declared {
                let problem = format!(
                    "quantization_config: the weights are stored as {stored}, and the model says \
                     {declared} of them: say {stored}"
                );
                return Err((key, problem));
            }
            return Ok(());
        }
        let Some(key) = ["torch_dtype", "dtype"].into_iter().find(|key| self.0.contains_key(*key))
        else {
            return Ok(());
        };
        let name = self.0[key].as_str().unwrap_or_default();
        // 16-bit weights can be made shorter ones when they are loaded.
        let is_fp8 = name.contains("float8") || name.contains("fp8");
        if is_fp8 && ![Dtype::Fp8, Dtype::Fp8Block].contains(&declared) {
            let problem = format!(
                "{key}: the weights are stored as fp8, and the model says {declared} of them"
            );
            return Err((key.to_owned(), problem));
        }
        Ok(())
    }

    fn shape(&self, assume_dense: bool) -> Result<Shape, Problem> {
        let kind = self.0.get("model_type").and_then(Value::as_str).unwrap_or("");
        let known = FAMILIES.iter().find(|(name, _)| *name == kind).map(|&(_, family)| family);
        if known != Some(Family::Experts) {
            self.refuse_experts_and_latents()?;
        }
        let Some(family) = known.or(assume_dense.then_some(Family::Dense)) else {
            let known: Vec<&str> = FAMILIES.iter().map(|(name, _)| *name).collect();
            let problem = format!(
                "model_type {kind:?} is not known (known: {}); if it is a dense transformer with \
                 gated feed-forward layers, say assume_dense = true beside shape",
                known.join(", ")
            );
            return Err(("model_type".to_owned(), problem));
        };
        let (layers, hidden) = (self.needed("num_hidden_layers")?, self.needed("hidden_size")?);
        let heads: u32 = self.needed("num_attention_heads")?;
        if heads == 0 {
            let problem = "num_attention_heads = 0: must be at least 1".to_owned();
            return Err(("num_attention_heads".to_owned(), problem));
        }
        let latent = self.latent()?;
        let experts = if family == Family::Experts { self.experts()? } else { None };
        let has_dense = experts.is_none_or(|experts| experts.dense_layers > 0);
        let (kv_heads, head_size) = match latent {
            Some(_) => (0, 0),
            None => (
                self.number("num_key_value_heads").unwrap_or(heads),
                self.number("head_dim").unwrap_or(hidden / heads),
            ),
        };
        Ok(Shape {
            name: if kind.is_empty() { "config.json".to_owned() } else { kind.to_owned() },
            source: None,
            layers,
            hidden,
            heads,
            kv_heads,
            head_size,
            ffn: if has_dense { self.needed("intermediate_size")? } else { 0 },
            vocabulary: self.needed("vocab_size")?,
            context_tokens: self.needed("max_position_embeddings")?,
            tied_embeddings: self.in_effect("tie_word_embeddings").is_some(),
            norm_over_heads: kind == "minimax_m2",
            window: self.window(family, layers),
            experts,
            latent,
        })
    }

    fn refuse_experts_and_latents(&self) -> Result<(), Problem> {
        for (key, value) in self.0.iter().filter(|(_, value)| is_in_effect(value)) {
            let problem = if key.contains("experts") {
                "a mixture of experts of a kind that is not known"
            } else if key.ends_with("kv_lora_rank") {
                "latent attention (MLA) of a kind that is not known"
            } else {
                continue;
            };
            return Err((key.clone(), format!("{key}: {}: {problem}; {WAY_OUT}", inline(value))));
        }
        Ok(())
    }

    fn latent(&self) -> Result<Option<Latent>, Problem> {
        let Some(kv_rank) = self.number("kv_lora_rank") else { return Ok(None) };
        let index = match self.number("index_topk") {
            None => None,
            Some(tokens) => Some(Index {
                heads: self.needed("index_n_heads")?,
                size: self.needed("index_head_dim")?,
                tokens,
            }),
        };
        Ok(Some(Latent {
            query_rank: self.number("q_lora_rank").unwrap_or(0),
            kv_rank,
            nope_size: self.needed("qk_nope_head_dim")?,
            rope_size: self.needed("qk_rope_head_dim")?,
            value_size: self.needed("v_head_dim")?,
            index,
        }))
    }

    fn experts(&self) -> Result<Option<Experts>, Problem> {
        let counts = ["num_experts", "num_local_experts", "n_routed_experts"];
        let count = self.first(&counts)?;
        // Those that have one width only call it as dense ones do.
        let ffn = self.first(&["moe_intermediate_size", "intermediate_size"])?;
        let shared = match self.number("shared_expert_intermediate_size") {
            Some(width) if width.is_multiple_of(ffn) => width / ffn,
            Some(width) => {
                let key = "shared_expert_intermediate_size";
                let problem = format!("{key}: {width}: no multiple of {ffn}, the others' width");
                return Err((key.to_owned(), format!("{problem}; {WAY_OUT}")));
            }
            None => self.number("n_shared_experts").unwrap_or(0),
        };
        Ok(Some(Experts {
            count,
            per_token: self.first(&["num_experts_per_tok", "experts_per_token"])?,
            ffn,
            shared,
            dense_layers: self.number("first_k_dense_replace").unwrap_or(0),
        }))
    }

    /// The layers that look at less than the longest context.
    fn window(&self, family: Family, layers: u32) -> Option<Window> {
        let tokens = self.number("sliding_window")?;
        let switch = self.0.get("use_sliding_window");
        if switch == Some(&Value::Bool(false)) {
            return None;
        }
        if self.number("max_position_embeddings").is_some_and(|context| tokens >= context) {
            return None;
        }
        let is_sliding = |kind: &Value| kind.as_str() == Some("sliding_attention");
        let sliding = |types: &Vec<Value>| {
            let count = types.iter().filter(|kind| is_sliding(kind)).count();
            (u32::try_from(count).unwrap_or(u32::MAX), types.first().is_some_and(is_sliding))
        };
        let listed = self.in_effect("layer_types").and_then(Value::as_array).map(sliding);
        // Qwen2: layers from `max_window_layers` on have the window, if it is used at all.
        let from = self.number("max_window_layers").filter(|_| switch == Some(&Value::Bool(true)));
        let (layers, first) = match (listed, from, family) {
            (Some(listed), ..) => listed,
            (None, Some(from), _) => (layers.saturating_sub(from), from == 0),
            (None, None, Family::Alternating(usual)) => {
                let every = self.number("sliding_window_pattern").unwrap_or(usual);
                (layers - layers / every, true)
            }
            (None, None, _) => (layers, true),
        };
        (layers > 0).then_some(Window { tokens, layers, first })
    }
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

/// The kinds of layers, if there are others than those that attend to everything or to a
/// window.
fn other_layers(types: &Value) -> Option<String> {
    let is_known = |kind: &Value| {
        kind.as_str().is_some_and(|kind| ["full_attention", "sliding_attention"].contains(&kind))
    };
    let others = |types: &Vec<Value>| types.iter().find(|kind| !is_known(kind)).map(inline);
    let other = types.as_array().map_or_else(|| Some(inline(types)), others);
    other.map(|other| format!("{other}: other layers than full_attention and sliding_attention"))
}

/// Keys of Mamba, RWKV, linear attention and the like.
fn is_state_space(key: &str) -> bool {
    let parts = ["ssm", "mamba", "rwkv", "state_size", "d_state", "linear_conv", "linear_attn"];
    parts.iter().any(|part| key.contains(part)) || key == "time_step_rank" || key == "conv_L_cache"
}

/// The number format of quantised weights, or what they are in words.
fn quantized(config: &Value) -> Result<Dtype, String> {
    let text = |key: &str| config.get(key).and_then(Value::as_str).unwrap_or_default();
    let (method, algorithm) = (text("quant_method"), text("quant_algo"));
    let has_blocks = config.get("weight_block_size").is_some_and(|size| !size.is_null());
    match (method, algorithm) {
        ("mxfp4", _) => return Ok(Dtype::Mxfp4),
        ("fp8", _) if has_blocks => return Ok(Dtype::Fp8Block),
        ("fp8", _) | (_, "FP8") => return Ok(Dtype::Fp8),
        (_, "NVFP4") => return Ok(Dtype::Nvfp4),
        ("compressed-tensors", _) => match text("format") {
            "pack-quantized" => return Ok(Dtype::Int4),
            "nvfp4-pack-quantized" => return Ok(Dtype::Nvfp4),
            _ => {}
        },
        _ => {}
    }
    let method = [method, algorithm, "of an unknown method"].into_iter().find(|m| !m.is_empty());
    let bits = config.get("bits").and_then(Value::as_u64);
    let bits = bits.map_or(String::new(), |bits| format!(", {bits} bit"));
    let formats = Dtype::ALL.map(Dtype::as_str).join(", ");
    Err(format!(
        "quantization_config: {}{bits}: the formats that can be read are {formats}; {WAY_OUT}",
        method.unwrap_or_default()
    ))
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

    fn shape(keys: &str) -> Shape {
        read(&with(keys), BF16).map_err(|refused| refused.problem).unwrap()
    }

    #[test]
    fn what_a_shape_cannot_say_is_refused_by_name() {
        for (keys, said) in [
            (r#""model_type": "minicpm3", "kv_lora_rank": 256"#, "kv_lora_rank: 256: latent"),
            (r#""layer_types": ["linear_attention", "full_attention"]"#, "layer_types: \"linear"),
            (r#""num_local_experts": 8"#, "num_local_experts: 8: a mixture of experts"),
            (r#""model_type": "new_moe", "n_routed_experts": 256"#, "n_routed_experts: 256: a mix"),
            (r#""moe_num_experts": [64, 64]"#, "moe_num_experts: [64,64]: a mixture"),
            (
                r#""model_type": "qwen3_moe", "num_experts": 8, "num_experts_per_tok": 2,
                   "mlp_only_layers": [3]"#,
                "mlp_only_layers: [3]: layers without experts",
            ),
            (r#""mamba_d_state": 128"#, "mamba_d_state: 128: layers that keep a state"),
            (r#""ssm_cfg": {"layer": "Mamba2"}"#, "ssm_cfg: "),
            (r#""attention_chunk_size": 8192"#, "attention_chunk_size: 8192"),
            (
                r#""quantization_config": {"quant_method": "gptq", "bits": 4}"#,
                "quantization_config: gptq, 4 bit: the formats",
            ),
            (
                r#""quantization_config": {"quant_method": "mxfp4"}"#,
                "quantization_config: the weights are stored as mxfp4, and the model says bf16",
            ),
            (
                r#""model_type": "whisper", "decoder_config": {"num_hidden_layers": 32}"#,
                "decoder_config: describes a network inside of another one",
            ),
            (r#""model_type": "falcon""#, "model_type \"falcon\" is not known (known: cohere,"),
            (r#""torch_dtype": "float8_e4m3fn""#, "torch_dtype: the weights are stored as fp8"),
            (r#""num_attention_heads": 0"#, "num_attention_heads = 0"),
            (r#""model_type": "qwen3_moe""#, "missing field `num_experts`"),
        ] {
            let problem = refusal(keys).unwrap_or_else(|| panic!("read: {keys}"));
            assert!(problem.starts_with(said), "{keys}: {problem}");
        }
    }

    #[test]
    fn what_is_there_and_has_no_effect_is_read_as_absent() {
        let plain = shape("");
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
            let read = shape(keys);
            assert_eq!(Shape { name: plain.name.clone(), ..read }, plain, "{keys}");
        }
        // 16-bit weights may be made 8-bit ones at load, but not the other way round.
        let fp8 = Declared { weights: Dtype::Fp8, ..BF16 };
        assert!(read(&with(r#""torch_dtype": "bfloat16""#), fp8).is_ok());
        assert!(read(&with(r#""dtype": "float8_e4m3fn""#), fp8).is_ok());
    }

    #[test]
    fn windows_are_in_the_layers_that_the_file_or_the_family_says() {
        for (keys, tokens, layers) in [
            (r#""model_type": "mistral", "sliding_window": 4096"#, 4096, 32),
            (r#""model_type": "phi3", "sliding_window": 2047"#, 2047, 32),
            (r#""model_type": "gemma2", "sliding_window": 4096"#, 4096, 16),
            (r#""model_type": "gemma3_text", "sliding_window": 1024"#, 1024, 27),
            (
                r#""model_type": "gemma3", "vision_config": {"num_hidden_layers": 27},
                   "text_config": {"num_hidden_layers": 32, "sliding_window": 512,
                                   "sliding_window_pattern": 4}"#,
                512,
                24,
            ),
            (
                r#""model_type": "qwen2", "use_sliding_window": true, "sliding_window": 4096,
                   "max_window_layers": 28"#,
                4096,
                4,
            ),
            (
                r#""model_type": "olmo3", "sliding_window": 4096, "num_hidden_layers": 3,
                   "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]"#,
                4096,
                2,
            ),
        ] {
            let first = !keys.contains("max_window_layers");
            assert_eq!(shape(keys).window, Some(Window { tokens, layers, first }), "{keys}");
        }
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
        let refused = read(&with(r#""attention_chunk_size": 4096"#), BF16).err().unwrap();
        assert_eq!(refused.line, 2);
        assert!(read("[]", BF16).is_err() && read("", BF16).is_err());
    }
}
