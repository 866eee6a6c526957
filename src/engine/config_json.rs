//! Reads the `config.json` that a network is published with.
//!
//! By allowance: what is read is what [`Shape`] describes. Files say what else a network
//! has in many keys, and new ones with every new network; so a `model_type` that is not
//! known is refused unless the user says that it is a dense transformer, and whatever
//! hints at something that a shape cannot say is refused by name.

use crate::engine::config_weights::Stored;
use crate::engine::hardware::{Dtype, Experts, Index, Latent, Shape, Window};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// What a `model_type` stands for beside what the other keys say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Family {
    /// Experts, as other keys say; else feed-forward layers are gated and dense.
    has_experts: bool,
    /// A window, if there is one, is in all but every so many layers, unless the file says in
    /// which; else in all layers.
    full_every: Option<u32>,
    /// What holds of keys that a file leaves out. Files need not say what is usual for their
    /// family, and some do not.
    absent: &'static [(&'static str, u32)],
}

const DENSE: Family = Family { has_experts: false, full_every: None, absent: &[] };
const EXPERTS: Family = Family { has_experts: true, ..DENSE };
/// The output head is the embedding.
const TIED: &[(&str, u32)] = &[("tie_word_embeddings", 1)];
const QWEN: &[(&str, u32)] = &[("use_sliding_window", 0)];
const QWEN3: &[(&str, u32)] = &[("use_sliding_window", 0), ("head_dim", 128)];
const GEMMA: &[(&str, u32)] = &[("tie_word_embeddings", 1), ("head_dim", 256)];
const HEADS_OF_64: &[(&str, u32)] = &[("head_dim", 64)];
const HEADS_OF_128: &[(&str, u32)] = &[("head_dim", 128)];
/// Most releases of Gemma 3 say no more than its size.
const GEMMA3: &[(&str, u32)] = &[
    ("tie_word_embeddings", 1),
    ("head_dim", 256),
    ("num_attention_heads", 8),
    ("num_key_value_heads", 4),
    ("vocab_size", 262_208),
    ("max_position_embeddings", 131_072),
];

/// Values of `model_type` that are read. Source: the published code of the models of
/// that name.
const FAMILIES: [(&str, Family); 34] = [
    ("cohere", Family { absent: TIED, ..DENSE }),
    ("cohere2", Family { absent: TIED, full_every: Some(4), ..DENSE }),
    ("deepseek_v3", EXPERTS),
    ("deepseek_v32", EXPERTS),
    ("gemma", Family { absent: GEMMA, ..DENSE }),
    ("gemma2", Family { absent: GEMMA, full_every: Some(2), ..DENSE }),
    ("gemma3", Family { absent: GEMMA3, full_every: Some(6), ..DENSE }),
    ("gemma3_text", Family { absent: GEMMA3, full_every: Some(6), ..DENSE }),
    ("glm", Family { absent: HEADS_OF_128, ..DENSE }),
    ("glm4", Family { absent: HEADS_OF_128, ..DENSE }),
    ("glm4_moe", Family { absent: HEADS_OF_128, ..EXPERTS }),
    ("glm_moe_dsa", EXPERTS),
    ("gpt_oss", Family { absent: HEADS_OF_64, full_every: Some(2), ..EXPERTS }),
    ("granite", DENSE),
    ("helium", Family { absent: HEADS_OF_128, ..DENSE }),
    ("internlm2", DENSE),
    ("internlm3", DENSE),
    ("kimi_k2", EXPERTS),
    ("kimi_k25", EXPERTS),
    ("llama", DENSE),
    ("minicpm", Family { absent: TIED, ..DENSE }),
    ("minimax_m2", EXPERTS),
    ("mistral", DENSE),
    ("mixtral", EXPERTS),
    ("olmo", DENSE),
    ("olmo2", DENSE),
    ("olmo3", Family { full_every: Some(4), ..DENSE }),
    ("phi3", DENSE),
    ("qwen2", Family { absent: QWEN, ..DENSE }),
    ("qwen2_moe", Family { absent: QWEN, ..EXPERTS }),
    ("qwen3", Family { absent: QWEN3, ..DENSE }),
    ("qwen3_moe", Family { absent: QWEN3, ..EXPERTS }),
    ("seed_oss", Family { absent: HEADS_OF_128, ..DENSE }),
    ("smollm3", Family { absent: TIED, ..DENSE }),
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

/// What a file says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Network {
    pub(crate) shape: Shape,
    /// Number format of the weights beside routed experts, if the file says how weights are
    /// stored and there are experts.
    pub(crate) rest: Option<Dtype>,
    /// Number format of the KV cache, if the file says it.
    pub(crate) kv: Option<Dtype>,
}

/// A key that cannot be used, and why.
type Problem = (String, String);

/// The network that `text` describes.
pub(crate) fn read(text: &str, declared: Declared) -> Result<Network, Refused> {
    let json = |error: serde_json::Error| Refused {
        line: error.line().max(1),
        problem: error.to_string(),
    };
    let file = crate::json::object(text.as_bytes()).map_err(json)?;
    let refused = |(key, problem): Problem| {
        let found = text.find(&format!("\"{key}\"")).unwrap_or(0);
        Refused { line: crate::settings::line_of(text, found), problem }
    };
    let keys = Keys::of_text(&file).map_err(refused)?;
    keys.refuse_others().map_err(refused)?;
    let stored = keys.stored(declared.weights).map_err(refused)?;
    let shape = keys.shape(declared.assume_dense).map_err(refused)?;
    let Some(stored) = stored else { return Ok(Network { shape, rest: None, kv: None }) };
    if shape.experts.is_none() && stored.attention != stored.weights {
        let key = "quantization_config".to_owned();
        let problem = format!(
            "{key}: {} weights, but attention in 16 bit: a network without experts has one format \
             here; {WAY_OUT}",
            stored.weights
        );
        return Err(refused((key, problem)));
    }
    let rest = shape.experts.map(|_| stored.attention);
    Ok(Network { shape, rest, kv: stored.kv })
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
            return Ok(Self::with_what_is_usual(keys));
        }
        let inner =
            |(key, value): &(&String, &Value)| key.ends_with("_config") && is_network(value);
        match file.iter().find(inner) {
            Some((key, _)) => {
                let problem =
                    format!("{key}: describes a network inside of another one; {WAY_OUT}");
                Err((key.clone(), problem))
            }
            None => Ok(Self::with_what_is_usual(file.clone())),
        }
    }

    /// With what the family has where the file says nothing.
    fn with_what_is_usual(mut keys: Map<String, Value>) -> Self {
        let family = family(keys.get("model_type"));
        for (key, usual) in family.map_or(&[][..], |family| family.absent) {
            keys.entry(*key).or_insert(Value::from(*usual));
        }
        Self(keys)
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
                "mlp_layer_types" if !is_dense_first(value) => {
                    Some(format!("{}: layers without experts among others", inline(value)))
                }
                "num_kv_shared_layers" => Some(format!("{}: layers that share KV", inline(value))),
                "indexer_types" if !is_all("full", value) => {
                    Some(format!("{}: layers that share an index", inline(value)))
                }
                "attn_type_list" if !is_all(1, value) => {
                    Some(format!("{}: layers that do not attend to everything", inline(value)))
                }
                "block_types"
                | "block_configs"
                | "layers_block_type"
                | "hybrid_override_pattern" => {
                    Some(format!("{}: layers of several kinds", inline(value)))
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

    /// How numbers are stored, if the file says it. Refuses weights that are stored otherwise
    /// than the model says, unless they can be made so when they are loaded.
    fn stored(&self, declared: Dtype) -> Result<Option<Stored>, Problem> {
        if let Some(stored) = Stored::of(|key| self.in_effect(key))? {
            if stored.weights != declared {
                let (key, weights) = ("quantization_config".to_owned(), stored.weights);
                let problem = format!(
                    "{key}: the weights are stored as {weights}, and the model says {declared} of \
                     them: say {weights}"
                );
                return Err((key, problem));
            }
            return Ok(Some(stored));
        }
        let Some(key) = ["torch_dtype", "dtype"].into_iter().find(|key| self.0.contains_key(*key))
        else {
            return Ok(None);
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
        Ok(None)
    }

    fn shape(&self, assume_dense: bool) -> Result<Shape, Problem> {
        let kind = self.0.get("model_type").and_then(Value::as_str).unwrap_or("");
        let known = family(self.0.get("model_type"));
        if !known.is_some_and(|family| family.has_experts) {
            self.refuse_experts_and_latents()?;
        }
        let Some(family) = known.or(assume_dense.then_some(DENSE)) else {
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
        let experts = if family.has_experts { self.experts()? } else { None };
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
        let leading = |kinds: &Vec<Value>| kinds.iter().take_while(|kind| *kind == "dense").count();
        let listed = self.in_effect("mlp_layer_types").and_then(Value::as_array).map(leading);
        Ok(Some(Experts {
            count,
            per_token: self.first(&["num_experts_per_tok", "experts_per_token"])?,
            ffn,
            shared,
            dense_layers: match listed {
                Some(layers) => u32::try_from(layers).unwrap_or(u32::MAX),
                None => self.number("first_k_dense_replace").unwrap_or(0),
            },
        }))
    }

    /// The layers that look at less than the longest context.
    fn window(&self, family: Family, layers: u32) -> Option<Window> {
        let tokens = self.number("sliding_window")?;
        let switch = self.0.get("use_sliding_window").map(is_in_effect);
        if switch == Some(false) {
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
        let from = self.number("max_window_layers").filter(|_| switch == Some(true));
        let (layers, first) = match (listed, from, family.full_every) {
            (Some(listed), ..) => listed,
            (None, Some(from), _) => (layers.saturating_sub(from), from == 0),
            (None, None, Some(usual)) => {
                let every = self.number("sliding_window_pattern").unwrap_or(usual);
                (layers - layers / every, true)
            }
            (None, None, None) => (layers, true),
        };
        (layers > 0).then_some(Window { tokens, layers, first })
    }
}

/// The family of a `model_type`, if it is known.
fn family(kind: Option<&Value>) -> Option<Family> {
    let kind = kind.and_then(Value::as_str)?;
    FAMILIES.iter().find(|(name, _)| *name == kind).map(|&(_, family)| family)
}

/// True of a list of this value alone.
fn is_all(value: impl Into<Value>, list: &Value) -> bool {
    let value = value.into();
    list.as_array().is_some_and(|items| items.iter().all(|item| *item == value))
}

/// True of a list of feed-forward parts in which dense ones come before those with experts.
fn is_dense_first(kinds: &Value) -> bool {
    kinds.as_array().is_some_and(|kinds| {
        let mut behind = kinds.iter().skip_while(|kind| *kind == "dense");
        behind.all(|kind| kind == "sparse")
    })
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
    let parts = [
        "ssm",
        "mamba",
        "rwkv",
        "state_size",
        "d_state",
        "linear_conv",
        "linear_attn",
        "lru_width",
    ];
    parts.iter().any(|part| key.contains(part)) || key == "time_step_rank" || key == "conv_L_cache"
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
        read(&with(keys), BF16).map_err(|refused| refused.problem).unwrap().shape
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
            (
                r#""hybrid_override_pattern": "M-M*-""#,
                "hybrid_override_pattern: \"M-M*-\": layers of sev",
            ),
            (
                r#""full_attention_interval": 4, "linear_conv_kernel_dim": 4"#,
                "linear_conv_kernel_dim: 4",
            ),
            (r#""block_configs": [{"attention": {"no_op": true}}]"#, "block_configs: "),
            (r#""num_kv_shared_layers": 15"#, "num_kv_shared_layers: 15: layers that share KV"),
            (
                r#""attn_type_list": [0, 0, 1]"#,
                "attn_type_list: [0,0,1]: layers that do not attend",
            ),
            (
                r#""model_type": "glm_moe_dsa", "mlp_layer_types": ["dense", "sparse", "dense"]"#,
                "mlp_layer_types: ",
            ),
            (
                r#""quantization_config": {"quant_method": "modelopt", "quant_algo": "FP8",
                   "ignore": ["*self_attn*"]}"#,
                "quantization_config: the weights are stored as fp8, and the model says bf16",
            ),
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
    fn what_a_file_leaves_out_is_usual_for_its_family() {
        let text = |keys: &str| {
            let read = read(&format!("{{{keys}}}"), BF16);
            read.map_err(|refused| refused.problem).unwrap().shape
        };
        // Gemma 3 of 12 billion parameters, as it is published.
        let gemma = text(
            r#""architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3",
               "text_config": {"hidden_size": 3840, "intermediate_size": 15360,
                   "model_type": "gemma3_text", "num_attention_heads": 16, "num_hidden_layers": 48,
                   "num_key_value_heads": 8, "sliding_window": 1024,
                   "rope_scaling": {"factor": 8.0, "rope_type": "linear"}},
               "torch_dtype": "bfloat16", "vision_config": {"num_hidden_layers": 27}"#,
        );
        assert_eq!((gemma.heads, gemma.kv_heads, gemma.head_size), (16, 8, 256));
        assert_eq!((gemma.vocabulary, gemma.context_tokens), (262_208, 131_072));
        assert_eq!(gemma.window, Some(Window { tokens: 1024, layers: 40, first: true }));
        assert!(gemma.tied_embeddings);
        // A file that says otherwise is believed.
        assert!(!shape(r#""model_type": "gemma2", "tie_word_embeddings": false"#).tied_embeddings);
        assert!(shape(r#""model_type": "llama", "tie_word_embeddings": true"#).tied_embeddings);
        // Qwen's window is used where that is said, and its heads are of 128.
        let qwen = text(
            r#""model_type": "qwen3", "hidden_size": 5120, "intermediate_size": 25600,
               "num_attention_heads": 64, "num_key_value_heads": 8, "num_hidden_layers": 64,
               "vocab_size": 151936, "max_position_embeddings": 40960, "sliding_window": 4096"#,
        );
        assert_eq!((qwen.window, qwen.head_size), (None, 128));
        // gpt-oss alternates, listed or not.
        let oss = shape(
            r#""model_type": "gpt_oss", "num_local_experts": 128, "num_experts_per_tok": 4,
               "intermediate_size": 2880, "sliding_window": 128"#,
        );
        assert_eq!(oss.window, Some(Window { tokens: 128, layers: 16, first: true }));
    }

    #[test]
    fn experts_and_latents_of_other_networks_are_read() {
        // GLM-4.5, as it is published.
        let glm = shape(
            r#""model_type": "glm4_moe", "hidden_size": 5120, "num_hidden_layers": 92,
               "num_attention_heads": 96, "intermediate_size": 12288, "moe_intermediate_size": 1536,
               "n_routed_experts": 160, "n_shared_experts": 1, "num_experts_per_tok": 8,
               "first_k_dense_replace": 3, "num_nextn_predict_layers": 1, "use_qk_norm": true"#,
        );
        let experts = Experts { count: 160, per_token: 8, ffn: 1536, shared: 1, dense_layers: 3 };
        assert_eq!((glm.experts, glm.ffn, glm.latent), (Some(experts), 12_288, None));
        // DeepSeek-V3.2: attention to the tokens that an index chooses.
        let latent = r#""kv_lora_rank": 512, "q_lora_rank": 1536, "qk_nope_head_dim": 128,
            "qk_rope_head_dim": 64, "v_head_dim": 128, "index_head_dim": 128, "index_n_heads": 64,
            "index_topk": 2048, "n_routed_experts": 256, "n_shared_experts": 1,
            "num_experts_per_tok": 8, "moe_intermediate_size": 2048, "moe_layer_freq": 1"#;
        let sparse = shape(&format!(
            r#""model_type": "deepseek_v32", {latent}, "first_k_dense_replace": 3"#
        ));
        let index = Index { heads: 64, size: 128, tokens: 2048 };
        assert_eq!(sparse.latent.and_then(|latent| latent.index), Some(index));
        // Dense layers as a list, as newer files have them.
        let listed = shape(&format!(
            r#""model_type": "glm_moe_dsa", {latent}, "mlp_layer_types": ["dense", "dense", "sparse"]"#
        ));
        assert_eq!(listed.experts.map(|experts| experts.dense_layers), Some(2));
    }

    #[test]
    fn a_file_says_how_its_parts_are_stored() {
        let experts = r#""model_type": "qwen3_moe", "num_experts": 128, "num_experts_per_tok": 8,
            "moe_intermediate_size": 768"#;
        let of = |model: &str, weights, section: &str| {
            let text = with(&format!(r#"{model}, "quantization_config": {section}"#));
            let read = read(&text, Declared { weights, ..BF16 });
            read.map(|network| (network.rest, network.kv)).map_err(|refused| refused.problem)
        };
        let nvfp4 = |kept: &str| {
            format!(r#"{{"quant_method": "modelopt", "quant_algo": "NVFP4", {kept}}}"#)
        };
        let all = nvfp4(r#""kv_cache_quant_algo": "FP8", "ignore": ["lm_head"]"#);
        let part = nvfp4(r#""ignore": ["lm_head", "*self_attn*"]"#);
        let (four, eight) = (Some(Dtype::Nvfp4), Some(Dtype::Fp8));
        assert_eq!(of(experts, Dtype::Nvfp4, &all), Ok((four, eight)));
        assert_eq!(of(experts, Dtype::Nvfp4, &part), Ok((Some(Dtype::Bf16), None)));
        // Without experts there is one format.
        let dense = r#""model_type": "llama""#;
        assert_eq!(of(dense, Dtype::Nvfp4, &all), Ok((None, eight)));
        let refused = of(dense, Dtype::Nvfp4, &part).unwrap_err();
        assert!(refused.contains("nvfp4 weights, but attention in 16 bit"), "{refused}");
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
        let shape = read(&with(r#""model_type": "brand_new""#), assumed).ok().unwrap().shape;
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
