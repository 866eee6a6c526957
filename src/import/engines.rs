//! What the flags and the configuration files of engines say, as keys of an experiment,
//! and the other way round.
//!
//! Sources of names and defaults: vLLM's `EngineArgs`, the options of `trtllm-serve` and
//! `LlmArgs` of TensorRT-LLM, and what `dynamo.vllm` and `dynamo.trtllm` add to them.

use super::arguments::{Arguments, Flag};
use super::request::{ImportError, Remark, Why};
use serde_json::Value as Json;
use std::collections::BTreeMap;
use toml::Value;

/// An engine whose rules are simulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Engine {
    Vllm,
    Trtllm,
}

/// How a flag's value and a key's value go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A whole number of at least 1.
    Count,
    /// A number.
    Number,
    /// On or off.
    Switch,
    /// A switch that turns off what the key says.
    Off,
    /// A count that may be written with `k` and `K`.
    Tokens,
    /// Blocks, of which vLLM keeps one for itself.
    Blocks,
    /// A word.
    Word,
    /// The number format of the KV cache.
    Format,
    /// Seconds, as a duration of ours.
    Seconds,
}

/// One key of an experiment, and where an engine has it.
#[derive(Debug)]
pub(super) struct Rule {
    /// Below a worker: `engine.max_num_seqs`, `model.tp`.
    pub(super) key: &'static str,
    /// Without dashes in front; the first is the one that is written.
    pub(super) flags: &'static [&'static str],
    /// In a configuration file of TensorRT-LLM, dotted; or empty.
    pub(super) yaml: &'static str,
    pub(super) kind: Kind,
}

const fn flag(key: &'static str, flags: &'static [&'static str], kind: Kind) -> Rule {
    Rule { key, flags, yaml: "", kind }
}

const fn both(
    key: &'static str,
    flags: &'static [&'static str],
    yaml: &'static str,
    kind: Kind,
) -> Rule {
    Rule { key, flags, yaml, kind }
}

const VLLM: [Rule; 18] = [
    flag("model.tp", &["tensor-parallel-size"], Kind::Count),
    flag("model.attention_dp", &["data-parallel-size"], Kind::Count),
    flag("model.kv", &["kv-cache-dtype"], Kind::Format),
    flag("engine.block_size", &["block-size"], Kind::Count),
    flag("engine.num_blocks", &["num-gpu-blocks-override"], Kind::Blocks),
    flag("engine.kv_memory_fraction", &["gpu-memory-utilization"], Kind::Number),
    flag("engine.max_num_seqs", &["max-num-seqs"], Kind::Count),
    flag("engine.max_num_batched_tokens", &["max-num-batched-tokens"], Kind::Tokens),
    flag("engine.max_model_len", &["max-model-len"], Kind::Tokens),
    flag("engine.chunked_prefill", &["enable-chunked-prefill"], Kind::Switch),
    flag("engine.prefix_caching", &["enable-prefix-caching"], Kind::Switch),
    flag("engine.scheduling_policy", &["scheduling-policy"], Kind::Word),
    flag("engine.watermark", &["watermark"], Kind::Number),
    flag("engine.scheduler_reserve_full_isl", &["scheduler-reserve-full-isl"], Kind::Switch),
    flag("engine.long_prefill_token_threshold", &["long-prefill-token-threshold"], Kind::Tokens),
    flag("engine.hybrid_kv_cache", &["disable-hybrid-kv-cache-manager"], Kind::Off),
    flag("engine.overlap", &["async-scheduling"], Kind::Switch),
    flag("model.expert_parallel", &["enable-expert-parallel"], Kind::Switch),
];

const TRTLLM: [Rule; 18] = [
    both("model.tp", &["tensor-parallel-size", "tp-size"], "tensor_parallel_size", Kind::Count),
    both("model.ep", &["expert-parallel-size", "ep-size"], "moe_expert_parallel_size", Kind::Count),
    both("model.attention_dp", &["enable-attention-dp"], "enable_attention_dp", Kind::Switch),
    both("model.kv", &["kv-cache-dtype"], "kv_cache_config.dtype", Kind::Format),
    both("engine.block_size", &["kv-block-size"], "kv_cache_config.tokens_per_block", Kind::Count),
    both(
        "engine.kv_memory_fraction",
        &["free-gpu-memory-fraction", "kv-cache-free-gpu-memory-fraction"],
        "kv_cache_config.free_gpu_memory_fraction",
        Kind::Number,
    ),
    both("engine.max_num_seqs", &["max-batch-size"], "max_batch_size", Kind::Count),
    both("engine.max_num_batched_tokens", &["max-num-tokens"], "max_num_tokens", Kind::Count),
    both("engine.max_model_len", &["max-seq-len"], "max_seq_len", Kind::Count),
    both(
        "engine.chunked_prefill",
        &["enable-chunked-prefill"],
        "enable_chunked_prefill",
        Kind::Switch,
    ),
    both("engine.prefix_caching", &[], "kv_cache_config.enable_block_reuse", Kind::Switch),
    both("engine.trtllm.partial_reuse", &[], "kv_cache_config.enable_partial_reuse", Kind::Switch),
    both(
        "engine.trtllm.scheduler_config.enable_prefix_aware_scheduling",
        &[],
        "scheduler_config.enable_prefix_aware_scheduling",
        Kind::Switch,
    ),
    both("engine.overlap", &[], "disable_overlap_scheduler", Kind::Off),
    both("engine.cuda_graph.padding", &[], "cuda_graph_config.enable_padding", Kind::Switch),
    both(
        "engine.trtllm.attention_dp_config.enable_balance",
        &[],
        "attention_dp_config.enable_balance",
        Kind::Switch,
    ),
    both(
        "engine.trtllm.attention_dp_config.timeout_iters",
        &[],
        "attention_dp_config.timeout_iters",
        Kind::Number,
    ),
    both(
        "engine.trtllm.attention_dp_config.batching_wait_iters",
        &[],
        "attention_dp_config.batching_wait_iters",
        Kind::Number,
    ),
];

/// Keys of TensorRT-LLM's files that have no effect on the simulation.
const YAML_NO_EFFECT: [&str; 22] = [
    "backend",
    "cache_transceiver_config",
    "dtype",
    "enable_iter_perf_stats",
    "enable_iter_req_stats",
    "gpus_per_node",
    "kv_cache_config.event_buffer_max_size",
    "log_level",
    "max_beam_width",
    "model",
    "num_postprocess_workers",
    "perf_metrics_max_requests",
    "print_iter_log",
    "return_perf_metrics",
    "sampler_type",
    "skip_tokenizer_init",
    "stream_interval",
    "tokenizer",
    "tokenizer_mode",
    "trust_remote_code",
    "kv_cache_config.copy_on_partial_reuse",
    "disable_gc",
];

/// Flags that have no effect on the simulation, and how such flags begin.
const NO_EFFECT: [&str; 66] = [
    "allow-credentials",
    "allowed-headers",
    "allowed-local-media-path",
    "allowed-methods",
    "allowed-origins",
    "api-key",
    "api-server-count",
    "backend",
    "chat-template",
    "connector",
    "custom-jinja-template",
    "data-parallel-address",
    "data-parallel-rpc-port",
    "default-chat-template-kwargs",
    "disable-log-requests",
    "disable-log-stats",
    "disable-uvicorn-access-log",
    "disable-access-log-for-endpoints",
    "discovery-backend",
    "distributed-executor-backend",
    "download-dir",
    "dyn-endpoint-types",
    "dyn-reasoning-parser",
    "dyn-tool-call-parser",
    "enable-auto-tool-choice",
    "enable-log-requests",
    "enable-prompt-tokens-details",
    "enable-request-id-headers",
    "enable-server-load-tracking",
    "endpoint",
    "event-plane",
    "generation-config",
    "gpus-per-node",
    "headless",
    "health-check",
    "hf-token",
    "host",
    "http-port",
    "kv-events-config",
    "load-format",
    "log-level",
    "max-log-len",
    "metrics-port",
    "migration-limit",
    "namespace",
    "no-enable-log-requests",
    "num-postprocess-workers",
    "otlp-traces-endpoint",
    "collect-detailed-traces",
    "port",
    "publish-events-and-metrics",
    "reasoning-parser",
    "request-plane",
    "response-role",
    "revision",
    "root-path",
    "safetensors-load-strategy",
    "seed",
    "served-model-name",
    "shutdown-timeout",
    "tokenizer",
    "tokenizer-mode",
    "tokenizer-revision",
    "tool-call-parser",
    "trust-remote-code",
    "uvicorn-log-level",
];

const NO_EFFECT_BEGINNINGS: [&str; 3] = ["ssl-", "otlp-", "logging-"];

/// Flags and keys whose effect is not modelled: why the real fleet may differ.
const NOT_MODELLED: [(&str, &str); 30] = [
    ("speculative-config", "drafted tokens are not modelled: real answers come faster"),
    ("speculative_config", "drafted tokens are not modelled: real answers come faster"),
    ("num-speculative-tokens", "drafted tokens are not modelled: real answers come faster"),
    ("compilation-config", "step times assume the engine's default compilation"),
    ("optimization-level", "step times assume the engine's default compilation"),
    ("hf-overrides", "only the context length can be overridden: set max-model-len"),
    ("rope-scaling", "only the context length can be overridden: set max-model-len"),
    ("moe-backend", "step times are those of the measured kernels"),
    ("attention-backend", "step times are those of the measured kernels"),
    ("all2all-backend", "step times are those of the measured collectives"),
    ("moe_config", "step times are those of the measured kernels"),
    ("attn_backend", "step times are those of the measured kernels"),
    ("allreduce_strategy", "step times are those of the measured collectives"),
    ("enable-flashinfer-autotune", "step times are those of the measured kernels"),
    ("enable-eplb", "experts are assumed to be evenly loaded"),
    ("eplb-config", "experts are assumed to be evenly loaded"),
    ("enable-dbo", "steps are not split into micro-batches"),
    ("enable-lora", "adapters are not modelled"),
    ("lora_config", "adapters are not modelled"),
    ("limit-mm-per-prompt", "prompts are text"),
    ("mm-processor-kwargs", "prompts are text"),
    ("kv-transfer-config", "KV connectors are not read"),
    ("connector-config", "KV connectors are not read"),
    ("kv_connector_config", "KV connectors are not read"),
    ("disable-sliding-window", "sliding-window layers keep their window"),
    ("stream-interval", "answers are streamed token by token"),
    ("data-parallel-external-lb", "the engine spreads requests over its ranks"),
    ("data-parallel-hybrid-lb", "the engine spreads requests over its ranks"),
    ("custom-encoder", "prompts are text"),
    ("num-scheduler-steps", "each step is scheduled on its own"),
];

/// Flags and keys that make another deployment of what they are given with, unless they
/// have the value that stands beside them: refused.
const OTHER_DEPLOYMENT: [(&str, &str, &str); 10] = [
    ("pipeline-parallel-size", "1", "pipeline parallelism is not simulated"),
    ("pp-size", "1", "pipeline parallelism is not simulated"),
    ("pipeline_parallel_size", "1", "pipeline parallelism is not simulated"),
    ("decode-context-parallel-size", "1", "context parallelism is not simulated"),
    ("prefill-context-parallel-size", "1", "context parallelism is not simulated"),
    ("context_parallel_size", "1", "context parallelism is not simulated"),
    ("cp-size", "1", "context parallelism is not simulated"),
    ("cpu-offload-gb", "0", "weights offloaded to host memory are not simulated"),
    ("moe_cluster_parallel_size", "1", "this way of splitting experts is not simulated"),
    ("config", "", "a file of further flags is not read: put them on the command line"),
];

/// Of a length that vLLM chooses.
const FITTED: &str = "vLLM fits the context length to its memory; here it is the network's maximum";

/// What an engine is started with, found among its flags and files.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Found {
    /// Keys below a worker, with their values and what says so, as written.
    pub(super) settings: BTreeMap<&'static str, (Value, String)>,
    /// Keys that a configuration file gives, not a flag.
    pub(super) of_file: Vec<&'static str>,
    pub(super) model: Option<(String, String)>,
    /// The number format that weights are brought to when they are loaded.
    pub(super) quantization: Option<(String, String)>,
    /// What is not used, with its value: flags, and keys of a configuration file.
    pub(super) unused: Vec<Remark>,
    pub(super) unused_of_file: Vec<Remark>,
    /// Bytes of host memory for KV of each GPU, and what says so.
    pub(super) host_bytes: Option<(u64, String)>,
    /// Steps are not captured.
    pub(super) is_eager: Option<String>,
    /// Captured batch sizes.
    pub(super) graph_sizes: Option<(Vec<u32>, String)>,
}

impl Engine {
    pub(super) fn rules(self) -> &'static [Rule] {
        match self {
            Self::Vllm => &VLLM,
            Self::Trtllm => &TRTLLM,
        }
    }

    /// As people call it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Vllm => "vLLM",
            Self::Trtllm => "TensorRT-LLM",
        }
    }

    pub(super) fn rule(self, key: &str) -> Option<&'static Rule> {
        self.rules().iter().find(|rule| rule.key == key)
    }

    /// What flags say, and a configuration file, which wins over them.
    ///
    /// # Errors
    /// A value that cannot be read, or a deployment that is not simulated.
    pub(super) fn read(
        self,
        arguments: &Arguments,
        file: Option<&Json>,
    ) -> Result<Found, ImportError> {
        let mut found = Found::default();
        if let Some(model) = arguments.alone.first() {
            found.model = Some((model.text.clone(), model.text.clone()));
        }
        for word in arguments.alone.iter().skip(1) {
            found.unused.push(Remark::new(&word.text, Why::Unknown));
        }
        for (at, flag) in arguments.flags.iter().enumerate() {
            let subject = self.subject(&flag.name);
            let later =
                arguments.flags[at + 1..].iter().any(|later| self.subject(&later.name) == subject);
            if later {
                found.unused.push(Remark::new(&flag.shown, Why::Overridden));
                continue;
            }
            if let (Some(alone), Some(value), true) =
                (arguments.alone.first(), &flag.value, flag.name == "model")
                && alone.text != *value
            {
                let why = format!("the command names another model, {}: keep one", alone.text);
                return Err(ImportError::refused(&flag.shown, &why));
            }
            self.read_flag(flag, &mut found)?;
        }
        if let Some(file) = file {
            self.read_file(file, &mut found)?;
        }
        // The number of blocks is what the engine takes then.
        if found.settings.contains_key("engine.num_blocks")
            && let Some((_, shown)) = found.settings.remove("engine.kv_memory_fraction")
        {
            found.unused.push(Remark::new(&shown, Why::NoEffect));
        }
        Ok(found)
    }

    fn read_flag(self, flag: &Flag, found: &mut Found) -> Result<(), ImportError> {
        let Flag { name, value, shown, .. } = flag;
        let name = name.as_str();
        let wrong = |problem: &str| ImportError::value(shown, problem);
        let text = value.as_deref().unwrap_or_default();
        if let Some((rule, is_no)) = self.rule_of_flag(name) {
            let read = match (rule.kind, value.as_deref()) {
                (Kind::Switch | Kind::Off, None) => Value::Boolean(!is_no),
                (Kind::Switch | Kind::Off, Some(text)) if !is_no => rule
                    .kind
                    .read(text)
                    .map_err(|problem| wrong(&problem))?
                    .ok_or_else(|| wrong("no value"))?,
                (_, None) => return Err(wrong("has no value")),
                (_, Some(text)) => match rule.kind.read(text).map_err(|problem| wrong(&problem))? {
                    Some(value) => value,
                    // The engine's own choice, as without the flag.
                    None => {
                        let is_fitted = self == Self::Vllm && rule.key == "engine.max_model_len";
                        let why = match is_fitted {
                            true => Why::NotModelled(FITTED.to_owned()),
                            false => Why::Default,
                        };
                        found.unused.push(Remark::new(shown, why));
                        return Ok(());
                    }
                },
            };
            found.settings.insert(rule.key, (rule.kind.turned(read), shown.clone()));
            return Ok(());
        }
        match (self, name) {
            (_, "model" | "model-path") => {
                found.model = Some((text.to_owned(), shown.clone()));
            }
            (_, "quantization") => found.quantization = Some((text.to_owned(), shown.clone())),
            (Self::Vllm, "dtype") => match text {
                "auto" | "bfloat16" | "float16" | "half" => {
                    found.unused.push(Remark::new(shown, Why::NoEffect));
                }
                _ => return Err(wrong("32-bit numbers are not simulated; use bfloat16")),
            },
            (Self::Vllm, "enforce-eager") => found.is_eager = Some(shown.clone()),
            (Self::Vllm, "no-enforce-eager") => found.is_eager = None,
            (Self::Vllm, "max-cudagraph-capture-size") => {
                let most = text.parse().map_err(|_| wrong("must be a whole number"))?;
                found.graph_sizes = Some((vllm_sizes(most), shown.clone()));
            }
            (Self::Vllm, "kv-offloading-size") => {
                let gib: f64 = text.parse().map_err(|_| wrong("must be a number of GiB"))?;
                found.host_bytes = Some((bytes(gib * GIB, shown)?, shown.clone()));
            }
            (Self::Vllm, "kv-transfer-config") => match host_of_connector(text) {
                Some(bytes) => found.host_bytes = Some((bytes, shown.clone())),
                None if is_hand_over(text) => found.unused.push(Remark::new(shown, Why::NoEffect)),
                None => found.unused.push(remark(name, shown)),
            },
            (Self::Trtllm, "extra-engine-args" | "extra-llm-api-options" | "config") => {}
            (_, "disaggregation-mode" | "is-prefill-worker" | "is-decode-worker") => {}
            _ => {
                let is_usual = refuse_other(name, text, shown)?;
                found.unused.push(match is_usual {
                    true => Remark::new(shown, Why::NoEffect),
                    false => remark(name, shown),
                });
            }
        }
        Ok(())
    }

    /// What a flag is about: flags of one subject set the same, and the last one wins.
    fn subject(self, name: &str) -> &str {
        match self.rule_of_flag(name) {
            Some((rule, _)) => rule.key,
            None => name.strip_prefix("no-").unwrap_or(name),
        }
    }

    /// The rule of a flag, and whether it says no: `no-enable-prefix-caching`.
    fn rule_of_flag(self, name: &str) -> Option<(&'static Rule, bool)> {
        let of = |name: &str| self.rules().iter().find(|rule| rule.flags.contains(&name));
        let is_switch = |rule: &&Rule| matches!(rule.kind, Kind::Switch | Kind::Off);
        let no = || Some((name.strip_prefix("no-").and_then(of).filter(is_switch)?, true));
        of(name).map(|rule| (rule, false)).or_else(no)
    }

    fn read_file(self, file: &Json, found: &mut Found) -> Result<(), ImportError> {
        let mut leaves = Vec::new();
        flatten("", file, &mut leaves);
        let sizes = graph_sizes(file)?;
        for (path, value) in leaves {
            let shown = format!("{path}: {}", inline(value));
            let wrong = |problem: &str| ImportError::value(&shown, problem);
            if let Some(rule) = self.rules().iter().find(|rule| rule.yaml == path) {
                let read = rule.kind.read(&inline(value)).map_err(|problem| wrong(&problem))?;
                let Some(read) = read else {
                    found.unused_of_file.push(Remark::new(&shown, Why::Default));
                    continue;
                };
                let key = rule.key;
                let before = found.settings.insert(key, (rule.kind.turned(read), shown.clone()));
                if let Some((_, flag)) = before {
                    found.unused.push(Remark::new(&flag, Why::Overridden));
                }
                found.of_file.push(key);
                continue;
            }
            let last = path.rsplit('.').next().unwrap_or_default();
            let top = path.split('.').next().unwrap_or_default();
            match path.as_str() {
                "cuda_graph_config.max_batch_size" | "cuda_graph_config.batch_sizes" => {}
                "cuda_graph_config" if value.is_null() => {}
                "kv_cache_config.host_cache_size" => {
                    let bytes = value.as_u64().ok_or_else(|| wrong("must be a number of bytes"))?;
                    if bytes > 0 {
                        found.host_bytes = Some((bytes, shown));
                    }
                }
                path => {
                    let has_no_effect = refuse_other(top, &inline(value), &shown)?;
                    let has_no_effect = has_no_effect
                        || YAML_NO_EFFECT.contains(&path)
                        || YAML_NO_EFFECT.contains(&top);
                    found.unused_of_file.push(match has_no_effect || NO_EFFECT.contains(&last) {
                        true => Remark::new(&shown, Why::NoEffect),
                        false => remark(top, &shown),
                    });
                }
            }
        }
        if let Some((sizes, shown)) = sizes {
            found.graph_sizes = Some((sizes, shown));
        }
        Ok(())
    }
}

const GIB: f64 = 1024.0 * 1024.0 * 1024.0;

fn bytes(bytes: f64, shown: &str) -> Result<u64, ImportError> {
    if !(0.0..=1e15).contains(&bytes) {
        return Err(ImportError::value(shown, "must be from 0 to 1 PB"));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked")]
    let whole = bytes as u64;
    Ok(whole)
}

/// Host memory of each GPU for KV, if a connector of vLLM's own asks for some.
fn host_of_connector(config: &str) -> Option<u64> {
    let config: Json = serde_json::from_str(config).ok()?;
    let connector = config.get("kv_connector")?.as_str()?;
    let extra = config.get("kv_connector_extra_config")?;
    ["OffloadingConnector", "SimpleCPUOffloadConnector"].contains(&connector).then_some(())?;
    let keys = ["cpu_bytes_to_use_per_rank", "cpu_bytes_to_use"];
    keys.iter().find_map(|key| extra.get(key)?.as_u64())
}

/// A connector that only hands KV from prefill to decode.
fn is_hand_over(config: &str) -> bool {
    let config: Option<Json> = serde_json::from_str(config).ok();
    let connector = config.as_ref().and_then(|config| config.get("kv_connector")?.as_str());
    connector.is_some_and(|name| name == "NixlConnector")
}

/// Why a flag or key that nothing reads is not used.
pub(super) fn remark(name: &str, shown: &str) -> Remark {
    let has_no_effect = NO_EFFECT.contains(&name)
        || NO_EFFECT_BEGINNINGS.iter().any(|start| name.starts_with(start))
        || name.strip_prefix("no-").is_some_and(|name| NO_EFFECT.contains(&name));
    if has_no_effect {
        return Remark::new(shown, Why::NoEffect);
    }
    match NOT_MODELLED.iter().find(|(known, _)| *known == name) {
        Some((_, why)) => Remark::new(shown, Why::NotModelled((*why).to_owned())),
        None => Remark::new(shown, Why::Unknown),
    }
}

/// Refuses what makes another deployment; true for such a flag or key with its usual value.
fn refuse_other(name: &str, value: &str, shown: &str) -> Result<bool, ImportError> {
    match OTHER_DEPLOYMENT.iter().find(|(known, ..)| *known == name) {
        Some((_, usual, why)) if *usual != value => Err(ImportError::refused(shown, why)),
        known => Ok(known.is_some()),
    }
}

impl Kind {
    /// The value that a text means; `None` where it leaves the choice to the engine.
    pub(super) fn read(self, text: &str) -> Result<Option<Value>, String> {
        let whole = |text: &str| text.parse::<u32>().ok().filter(|count| *count > 0);
        let count = |count: Option<u32>| match count {
            Some(count) => Ok(Some(Value::Integer(i64::from(count)))),
            None => Err("must be a whole number of at least 1".to_owned()),
        };
        // vLLM's own length is also -1.
        let is_default = ["auto", "None", "null"].contains(&text);
        if is_default || (self == Self::Tokens && text == "-1") {
            return Ok(None);
        }
        match self {
            Self::Count => count(whole(text)),
            Self::Tokens => {
                let units = [("k", 1_000), ("K", 1_024), ("m", 1_000_000), ("M", 1_048_576)];
                let scaled = units.iter().find_map(|(unit, factor)| {
                    let number: f64 = text.strip_suffix(unit)?.parse().ok()?;
                    let tokens = number * f64::from(*factor);
                    #[expect(
                        clippy::cast_possible_truncation,
                        clippy::cast_sign_loss,
                        reason = "within the range"
                    )]
                    let whole = tokens as u32;
                    (1.0..=4e9).contains(&tokens).then_some(whole)
                });
                match text {
                    // No such limit.
                    "0" => Ok(Some(Value::Integer(0))),
                    _ => count(whole(text).or(scaled)),
                }
            }
            Self::Blocks => count(whole(text).and_then(|blocks| blocks.checked_sub(1))),
            Self::Number => match text.parse::<f64>() {
                Ok(number) if number.is_finite() && number >= 0.0 => {
                    let whole = text.parse().map(Value::Integer);
                    Ok(Some(whole.unwrap_or(Value::Float(number))))
                }
                _ => Err("must be a number of at least 0".to_owned()),
            },
            Self::Switch | Self::Off => match text.to_lowercase().as_str() {
                "true" | "1" => Ok(Some(Value::Boolean(true))),
                "false" | "0" => Ok(Some(Value::Boolean(false))),
                _ => Err("must be true or false".to_owned()),
            },
            Self::Word => Ok(Some(Value::String(text.to_owned()))),
            Self::Seconds => match text.parse::<f64>() {
                Ok(number) if number.is_finite() && number >= 0.0 => {
                    Ok(Some(Value::String(format!("{number}s"))))
                }
                _ => Err("must be a number of seconds".to_owned()),
            },
            Self::Format => {
                match text {
                    "fp8" | "fp8_e4m3" => Ok(Some("fp8".into())),
                    "bfloat16" | "bf16" | "float16" => Ok(Some("bf16".into())),
                    _ => Err("must be auto, bfloat16 or fp8, the KV formats that are simulated"
                        .to_owned()),
                }
            }
        }
    }

    /// The value of the key for that of the flag, and the other way round.
    pub(super) fn turned(self, value: Value) -> Value {
        match (self, &value) {
            (Self::Off, Value::Boolean(is_on)) => Value::Boolean(!is_on),
            _ => value,
        }
    }

    /// The text of a flag's value, and of a file's, for a value of the key.
    ///
    /// # Errors
    /// What it must be.
    pub(super) fn write(self, value: &Value) -> Result<String, String> {
        let text = match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let text = match (self, text.parse::<u32>()) {
            (Self::Count | Self::Tokens | Self::Blocks, Err(_)) => {
                crate::settings::parse_count(&text)?.to_string()
            }
            _ => text,
        };
        let turned = self.turned(value.clone());
        match self {
            Self::Blocks => {
                let blocks: u32 = text.parse().map_err(|_| "must be a whole number".to_owned())?;
                Ok(blocks.saturating_add(1).to_string())
            }
            Self::Switch | Self::Off => match turned {
                Value::Boolean(is_on) => Ok(is_on.to_string()),
                _ => Err("must be true or false".to_owned()),
            },
            Self::Format if text == "bf16" => Ok("bfloat16".to_owned()),
            Self::Seconds => {
                crate::settings::parse_duration(&text).map(|time| time.as_secs().to_string())
            }
            // What would not be read again is refused.
            _ => self.read(&text).map(|_| text),
        }
    }
}

/// The values of a configuration file by dotted path; lists and empty tables are values.
fn flatten<'a>(parent: &str, value: &'a Json, leaves: &mut Vec<(String, &'a Json)>) {
    match value {
        Json::Object(entries) if !entries.is_empty() => {
            for (key, value) in entries {
                let path = if parent.is_empty() { key.clone() } else { format!("{parent}.{key}") };
                flatten(&path, value, leaves);
            }
        }
        value => leaves.push((parent.to_owned(), value)),
    }
}

pub(super) fn inline(value: &Json) -> String {
    match value {
        Json::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The batch sizes that TensorRT-LLM captures (T31); empty if it captures none.
fn graph_sizes(file: &Json) -> Result<Option<(Vec<u32>, String)>, ImportError> {
    let Some(config) = file.get("cuda_graph_config") else { return Ok(None) };
    let shown = |key: &str, value: &Json| format!("cuda_graph_config{key}: {}", inline(value));
    if config.is_null() {
        return Ok(Some((Vec::new(), shown("", config))));
    }
    if let Some(listed) = config.get("batch_sizes").filter(|sizes| !sizes.is_null()) {
        let shown = shown(".batch_sizes", listed);
        let size = |size: &Json| u32::try_from(size.as_u64()?).ok().filter(|size| *size > 0);
        let sizes: Option<Vec<u32>> =
            listed.as_array().and_then(|sizes| sizes.iter().map(size).collect());
        let mut sizes =
            sizes.ok_or_else(|| ImportError::value(&shown, "must be a list of whole numbers"))?;
        sizes.sort_unstable();
        sizes.dedup();
        return Ok(Some((sizes, shown)));
    }
    let Some(most) = config.get("max_batch_size").filter(|most| !most.is_null()) else {
        return Ok(None);
    };
    let shown = shown(".max_batch_size", most);
    let count = most.as_u64().and_then(|most| u32::try_from(most).ok());
    let count = count.filter(|most| *most <= 65_536);
    let most =
        count.ok_or_else(|| ImportError::value(&shown, "must be a whole number up to 65536"))?;
    let padded = config.get("enable_padding").and_then(Json::as_bool).unwrap_or(false);
    Ok(Some((trtllm_sizes(most, padded), shown)))
}

/// TensorRT-LLM's own list up to `most`; 0: its default, 128.
pub(super) fn trtllm_sizes(most: u32, padded: bool) -> Vec<u32> {
    let most = if most == 0 { 128 } else { most };
    let mut sizes: Vec<u32> = match padded {
        true => [1, 2, 4].into_iter().chain((1..17).map(|eights| eights * 8)).collect(),
        false => (1..33).chain([64, 128]).collect(),
    };
    sizes.extend((8..16).map(|power| 1 << power));
    sizes.retain(|size| *size <= most);
    if sizes.last() != Some(&most) {
        sizes.push(most);
    }
    sizes
}

/// vLLM's own list up to `most`.
fn vllm_sizes(most: u32) -> Vec<u32> {
    let most = most.min(65_536);
    let eights = (8..256.min(most + 1)).step_by(8);
    let all = [1, 2, 4].into_iter().chain(eights).chain((256..=most).step_by(16));
    all.filter(|size| *size <= most).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::words::Written;
    use crate::settings::yaml;
    use std::collections::BTreeSet;

    fn read(engine: Engine, line: &str, file: Option<&str>) -> Result<Found, ImportError> {
        let words = Written::line(line).commands(&BTreeMap::new());
        let file = file.map(|file| yaml::parse(file).unwrap());
        engine.read(&Arguments::of(words.first().map_or(&[][..], Vec::as_slice)), file.as_ref())
    }

    fn value(found: &Found, key: &str) -> String {
        found.settings.get(key).map_or("none".to_owned(), |(value, _)| value.to_string())
    }

    #[test]
    fn flags_of_vllm_are_keys() {
        let line = "Qwen/Qwen3-32B --max-model-len 128k --max-num-batched-tokens 8K --no-enable-prefix-caching \
                    --disable-hybrid-kv-cache-manager --num-gpu-blocks-override 4097 --kv-cache-dtype auto \
                    --gpu-memory-utilization 0.90 --port 80 --speculative-config {} --max-num-seqs 1 --max-num-seqs 64 --new-flag 5";
        let found = read(Engine::Vllm, line, None).unwrap();
        for (key, expected) in [
            ("engine.max_model_len", "128000"),
            ("engine.max_num_batched_tokens", "8192"),
            ("engine.prefix_caching", "false"),
            ("engine.hybrid_kv_cache", "false"),
            ("engine.num_blocks", "4096"),
            ("model.kv", "none"),
            ("engine.kv_memory_fraction", "none"),
            ("engine.max_num_seqs", "64"),
        ] {
            assert_eq!(value(&found, key), expected, "{key}");
        }
        assert_eq!(found.model.unwrap().0, "Qwen/Qwen3-32B");
        let unused: Vec<(&str, String)> = found
            .unused
            .iter()
            .map(|remark| (remark.shown.as_str(), remark.why.to_string()))
            .collect();
        assert_eq!(unused.len(), 6, "{unused:?}");
        assert_eq!(unused[1].0, "--port 80");
        assert!(unused[2].1.contains("drafted tokens"));
        assert_eq!(unused[3].0, "--max-num-seqs 1");
        assert!(unused[4].1.contains("unknown"));
    }

    #[test]
    fn files_of_trtllm_win_over_flags() {
        let file = "kv_cache_config:\n  free_gpu_memory_fraction: 0.7\n  enable_block_reuse: false\n\
                    disable_overlap_scheduler: true\ncuda_graph_config:\n  max_batch_size: 96\n  enable_padding: true\n\
                    enable_chunked_prefill: false\nmax_seq_len: null\nprint_iter_log: true\nnovel: {a: 1}\n";
        let line = "m --free_gpu_memory_fraction 0.9 --max_batch_size 96 --tp_size 2";
        let found = read(Engine::Trtllm, line, Some(file)).unwrap();
        for (key, expected) in [
            ("engine.kv_memory_fraction", "0.7"),
            ("engine.prefix_caching", "false"),
            ("engine.overlap", "false"),
            ("engine.cuda_graph.padding", "true"),
            ("engine.max_num_seqs", "96"),
            ("model.tp", "2"),
            ("engine.max_model_len", "none"),
        ] {
            assert_eq!(value(&found, key), expected, "{key}");
        }
        assert_eq!(
            found.graph_sizes.unwrap().0,
            [1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64, 72, 80, 88, 96]
        );
        let all = found.unused.iter().chain(&found.unused_of_file);
        let unused: Vec<&str> = all.map(|remark| remark.shown.as_str()).collect();
        let expected = [
            "--free_gpu_memory_fraction 0.9",
            "max_seq_len: null",
            "novel.a: 1",
            "print_iter_log: true",
        ];
        assert_eq!(unused.iter().copied().collect::<BTreeSet<_>>(), BTreeSet::from(expected));
    }

    #[test]
    fn other_deployments_and_wrong_values_are_refused_by_name() {
        for (engine, line, said) in [
            (Engine::Vllm, "m --pipeline-parallel-size 2", "--pipeline-parallel-size 2"),
            (Engine::Vllm, "m --max-num-seqs 0", "--max-num-seqs 0"),
            (Engine::Vllm, "m --max-num-seqs", "--max-num-seqs: has no value"),
            (Engine::Vllm, "m --kv-cache-dtype fp4", "--kv-cache-dtype fp4"),
            (Engine::Vllm, "m --max-model-len 1e9M", "--max-model-len"),
            (Engine::Vllm, "m --dtype float32", "--dtype float32"),
            (Engine::Trtllm, "m --pp_size 4", "--pp_size 4"),
        ] {
            let error = read(engine, line, None).expect_err(line).to_string();
            assert!(error.contains(said), "{line}: {error}");
        }
        assert!(read(Engine::Vllm, "m -pp 1", None).is_ok());
    }

    #[test]
    fn values_of_keys_are_written_as_flags_that_read_back() {
        for (kind, value) in [
            (Kind::Count, Value::Integer(64)),
            (Kind::Tokens, Value::Integer(8192)),
            (Kind::Blocks, Value::Integer(4096)),
            (Kind::Number, Value::Float(0.85)),
            (Kind::Switch, Value::Boolean(false)),
            (Kind::Off, Value::Boolean(true)),
            (Kind::Format, "fp8".into()),
            (Kind::Format, "bf16".into()),
            (Kind::Word, "priority".into()),
            (Kind::Seconds, "90s".into()),
        ] {
            let text = kind.write(&value).unwrap();
            let back = kind.read(&text).unwrap().map(|read| kind.turned(read));
            assert_eq!(back, Some(value), "{kind:?}");
        }
        assert_eq!(Kind::Count.write(&"8Ki".into()), Ok("8192".to_owned()));
        assert!(Kind::Count.write(&Value::Float(0.5)).is_err());
        assert!(Kind::Switch.write(&Value::Integer(1)).is_err());
    }
}
