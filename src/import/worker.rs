//! From what an engine is started with to a worker: its model, what the engine does, and how
//! many there are. Each value takes along what says so.

use super::engines::{self, Engine, Found};
use super::images;
use super::manifests::{Component, Form};
use super::models::{self, Loaded, Network};
use super::request::{ImportError, Remark, Request, Why};
use super::said::{By, Keys, Said};
use crate::engine::model::{Dtype, ModelError, PartsChoice};
use std::path::{Path, PathBuf};
use toml::Value;

/// The name of the file that a network is described in.
pub(super) const CONFIG: &str = "config.json";

/// A worker that is being read.
pub(super) struct Reading<'a> {
    pub(super) engine: Engine,
    pub(super) component: &'a Component,
    pub(super) request: &'a Request,
    /// The place of its container, and that in words.
    pub(super) place: usize,
    pub(super) place_name: &'a str,
    /// The place of its file of options.
    pub(super) options_place: usize,
    /// What the engine is started with, less what was read of it.
    pub(super) found: Found,
    pub(super) unused: Vec<Remark>,
}

/// The model of a worker.
pub(super) struct Modelled {
    /// Keys below `model`.
    pub(super) keys: Keys,
    pub(super) loaded: Loaded,
    /// The file of the engine's defaults.
    version: String,
    /// The longest context of the checkpoint, where it is not the network's.
    context_tokens: Option<u32>,
    /// GPUs that a rank's weights are divided over, and those of all its ranks.
    tp: u32,
    gpus: u32,
    /// Ranks of a network with experts, which are one worker together.
    is_ranked: bool,
    /// Workers that one replica is: ranks of networks without experts.
    pub(super) per_replica: u32,
}

/// How an engine is divided over GPUs.
struct Division {
    tp: Said,
    /// What asks for ranks.
    dp: Option<Said>,
    tp_of_rank: u32,
    ranks: u32,
}

impl Reading<'_> {
    /// A key that was given.
    fn take(&mut self, key: &'static str) -> Option<Said> {
        let (value, shown) = self.found.settings.remove(key)?;
        let is_flag = shown.starts_with('-');
        let is_option = self.found.of_file.contains(&key) && !is_flag;
        let place = if is_option { self.options_place } else { self.place };
        Some(Said { value, by: By::Place(place, shown) })
    }

    /// A value that its container says.
    fn said(&self, value: impl Into<Value>, shown: impl Into<String>) -> Said {
        Said { value: value.into(), by: By::Place(self.place, shown.into()) }
    }

    fn refused(&self, problem: &str, why: &str) -> ImportError {
        ImportError::refused(&format!("{}: {problem}", self.place_name), why)
    }

    fn wrong(&self, error: ModelError) -> ImportError {
        ImportError::Model { place: self.place_name.to_owned(), error: Box::new(error) }
    }

    fn note(&mut self, shown: &str, why: impl Into<String>) {
        self.unused.push(Remark::new(shown, Why::NotModelled(why.into())));
    }

    /// The network, the GPU and how many of them. `gpu` says which one.
    pub(super) fn model(
        &mut self,
        config: Option<&Path>,
        gpu: impl FnOnce() -> Result<(String, By), ImportError>,
    ) -> Result<Modelled, ImportError> {
        let Some((name, shown)) = self.found.model.take() else {
            return Err(ImportError::refused(self.place_name, "names no model"));
        };
        let (gpu, gpu_by) = gpu()?;
        if let Some(asked) = self.request.gpu.as_ref().filter(|asked| **asked != gpu) {
            self.unused.push(Remark::new(&format!("the requested GPU, {asked}"), Why::Overridden));
        }
        let Division { tp, dp, tp_of_rank, ranks } = self.division();
        let expert_parallel = self.take("model.expert_parallel");
        let (ep, kv) = (self.take("model.ep"), self.take("model.kv"));
        let family = self.family();
        let (network, folder) = self.network(&name, config)?;
        let mut parts = PartsChoice {
            shape: network.shape.clone(),
            gpu: gpu.clone(),
            tp: tp_of_rank,
            ep: 1,
            attention_dp: 1,
            engine: family.value.as_str().unwrap_or_default().to_owned(),
            weights: Dtype::Bf16,
            rest_weights: None,
            kv: None,
            efficiency: None,
            operators: None,
            assume_dense: false,
        };
        let weights = self.weights(&network, &parts, &folder, &shown)?;
        parts.weights = format(&weights.value);
        parts.kv = kv.as_ref().map(|kv| format(&kv.value));
        let Loaded { has_experts, kv: kv_of_network, .. } =
            models::load(&parts, &folder).map_err(|error| self.wrong(error))?;

        // Ranks of a network without experts are workers by themselves.
        let is_ranked = ranks > 1 && has_experts;
        if ranks > 1 && !has_experts && self.engine == Engine::Trtllm {
            let why = "attention data parallelism of networks without experts is not simulated";
            return Err(ImportError::refused(&shown_of(dp.as_ref()), why));
        }
        let gpus = tp_of_rank.saturating_mul(ranks);
        self.check_gpus(gpus)?;
        let family = match (self.engine, has_experts) {
            (Engine::Trtllm, true) if family.value.as_str() == Some("trtllm") => {
                Said { value: "trtllm-1.3".into(), ..family }
            }
            _ => family,
        };
        parts.engine = family.value.as_str().unwrap_or_default().to_owned();

        let mut keys: Keys = vec![
            ("shape", self.said(network.shape.as_str(), shown)),
            ("gpu", Said { value: Value::String(gpu), by: gpu_by }),
        ];
        match dp.filter(|_| is_ranked) {
            None => keys.push(("tp", tp)),
            Some(dp) => {
                let is_switched = self.engine == Engine::Trtllm;
                let one = Said { value: Value::Integer(1), by: dp.by.clone() };
                keys.push(("tp", if is_switched { one } else { tp }));
                keys.push(("attention_dp", Said { value: whole(ranks), by: dp.by }));
                parts.attention_dp = ranks;
            }
        }
        let ep = match expert_parallel {
            Some(Said { value: Value::Boolean(true), by }) => Some(Said { value: whole(gpus), by }),
            _ => ep.filter(|ep| integer(&ep.value) > 1),
        };
        match ep {
            Some(ep) if has_experts => {
                parts.ep = integer(&ep.value);
                keys.push(("ep", ep));
            }
            Some(ep) => self.note(&shown_of(Some(&ep)), "the network has no experts"),
            None => {}
        }
        let kv = kv.unwrap_or_else(|| {
            let why = match self.engine {
                Engine::Vllm => "vLLM keeps KV in the network's own format",
                Engine::Trtllm => "set by the checkpoint; taken to be that of the weights",
            };
            assumed(kv_of_network, why)
        });
        keys.extend([("engine", family), ("weights", weights), ("kv", kv)]);
        let loaded = models::load(&parts, &folder).map_err(|error| self.wrong(error))?;
        Ok(Modelled {
            keys,
            loaded,
            version: parts.engine,
            context_tokens: network.context_tokens,
            tp: tp_of_rank,
            gpus,
            is_ranked,
            per_replica: if ranks > 1 && !is_ranked { ranks } else { 1 },
        })
    }

    fn division(&mut self) -> Division {
        let tp = self
            .take("model.tp")
            .unwrap_or_else(|| assumed(1, &format!("{}'s default", self.engine.name())));
        let dp = self.take("model.attention_dp");
        let count = integer(&tp.value);
        let (tp_of_rank, ranks) = match (dp.as_ref().map(|dp| &dp.value), self.engine) {
            (Some(Value::Boolean(true)), _) => (1, count),
            (Some(ranks), Engine::Vllm) => (count, integer(ranks)),
            _ => (count, 1),
        };
        Division { tp, dp, tp_of_rank, ranks }
    }

    /// The file of the engine's defaults.
    fn family(&self) -> Said {
        match self.engine {
            Engine::Vllm => {
                let (file, why) = images::vllm_defaults(&self.component.image);
                let by = why.map_or_else(By::Assumed, |why| By::Place(self.place, why));
                Said { value: file.into(), by }
            }
            Engine::Trtllm if images::is_trtllm_1_4(&self.component.image) => {
                let why = format!("image {}", self.component.image);
                Said { value: "trtllm-1.4".into(), by: By::Place(self.place, why) }
            }
            Engine::Trtllm => match self.component.image.as_str() {
                "" => assumed("trtllm", "TensorRT-LLM 1.0 to 1.3"),
                image => assumed("trtllm", &format!("image {image}: as TensorRT-LLM 1.0 to 1.3")),
            },
        }
    }

    /// The network of the catalogue, or of a `config.json` in the folder `config`.
    fn network(
        &self,
        name: &str,
        config: Option<&Path>,
    ) -> Result<(Network, PathBuf), ImportError> {
        if let Some(network) = models::network(name) {
            return Ok((network, PathBuf::new()));
        }
        let Some(folder) = config else {
            let (place, model) = (self.place_name.to_owned(), name.to_owned());
            return Err(ImportError::UnknownModel { place, model });
        };
        let shape = CONFIG.to_owned();
        let network = Network { shape, weights: String::new(), context_tokens: None };
        Ok((network, folder.to_owned()))
    }

    /// The number format of the weights.
    fn weights(
        &self,
        network: &Network,
        parts: &PartsChoice,
        folder: &Path,
        shown: &str,
    ) -> Result<Said, ImportError> {
        let weights = if network.weights.is_empty() {
            let format = models::format_of(parts, folder).map_err(|error| self.wrong(error))?;
            assumed(format, "the first format that config.json allows")
        } else {
            self.said(network.weights.as_str(), shown)
        };
        let Some((method, shown)) = &self.found.quantization else { return Ok(weights) };
        match (method.as_str(), weights.value.as_str()) {
            ("fp8", Some("bf16")) => Ok(self.said("fp8", shown.as_str())),
            ("fp8" | "modelopt", Some("fp8" | "fp8_block"))
            | ("mxfp4", Some("mxfp4"))
            | ("modelopt" | "modelopt_fp4", Some("nvfp4"))
            | ("compressed-tensors", _) => Ok(weights),
            (_, have) => {
                let have = have.unwrap_or_default();
                let why = format!("converting {have} weights to that format is not simulated");
                Err(ImportError::refused(shown, &why))
            }
        }
    }

    /// An engine on more GPUs than its container has cannot start.
    fn check_gpus(&mut self, used: u32) -> Result<(), ImportError> {
        let Some(of_node) = self.component.gpus else { return Ok(()) };
        let given = of_node.saturating_mul(self.component.nodes);
        if used > given {
            let why = format!("the engine is started on {used}: give the worker as many");
            return Err(self.refused(&format!("{given} GPUs"), &why));
        }
        if used < given {
            self.note(&format!("{given} GPUs"), format!("the engine uses {used} of them"));
        }
        Ok(())
    }

    /// What the engine does.
    pub(super) fn settings(&mut self, model: &Modelled) -> Keys {
        let mut keys = self.usual(model);
        self.fit_into_a_step(&mut keys);
        for rule in self.engine.rules() {
            keys.extend(self.take(rule.key).map(|said| (rule.key, said)));
        }
        keys.extend(self.captured(&keys));
        if self.engine == Engine::Trtllm {
            for (key, is_needed) in [
                ("engine.cuda_graph.padding", true),
                ("engine.trtllm.attention_dp_config.enable_balance", model.is_ranked),
            ] {
                if is_needed && keys.iter().all(|(known, _)| *known != key) {
                    keys.push((key, assumed(false, "TensorRT-LLM's default")));
                }
            }
        }
        keys.extend(self.host_tier(model));
        keys
    }

    /// Settings that every engine has: as given, or by default.
    fn usual(&mut self, model: &Modelled) -> Keys {
        let defaults = &model.loaded.engine;
        let why = format!("default of {}", model.version);
        let context = model.context_tokens.unwrap_or(model.loaded.context_tokens);
        let usual: [(&'static str, Option<Value>); 8] = [
            ("engine.block_size", defaults.block_size.map(whole)),
            ("engine.kv_memory_fraction", defaults.kv_memory_fraction.map(Value::Float)),
            ("engine.max_num_seqs", defaults.max_num_seqs.map(whole)),
            ("engine.max_num_batched_tokens", defaults.max_num_batched_tokens.map(whole)),
            ("engine.max_model_len", Some(whole(context))),
            ("engine.chunked_prefill", Some(Value::Boolean(self.engine == Engine::Vllm))),
            ("engine.prefix_caching", Some(Value::Boolean(true))),
            ("engine.overlap", defaults.overlap.map(Value::Boolean)),
        ];
        let mut keys = Keys::new();
        for (key, value) in usual {
            let why = match key {
                "engine.max_model_len" => "the network's longest context",
                _ => why.as_str(),
            };
            let said = self.take(key).or_else(|| Some(assumed(value?, why)));
            keys.extend(said.map(|said| (key, said)));
        }
        keys
    }

    /// Without chunked prefill TensorRT-LLM computes a prompt in one step and refuses longer
    /// ones.
    fn fit_into_a_step(&mut self, keys: &mut Keys) {
        let value = |key: &str| keys.iter().find(|(known, _)| *known == key).map(|(_, said)| said);
        let chunked = value("engine.chunked_prefill").map(|said| &said.value);
        if self.engine != Engine::Trtllm || chunked != Some(&Value::Boolean(false)) {
            return;
        }
        let step = value("engine.max_num_batched_tokens");
        let step = step.map_or(u32::MAX, |said| integer(&said.value));
        let longest = keys.iter_mut().find(|(key, _)| *key == "engine.max_model_len");
        let Some((_, longest)) = longest.filter(|(_, said)| integer(&said.value) > step) else {
            return;
        };
        let why = "without chunked prefill a prompt must fit into one step";
        let before = std::mem::replace(longest, assumed(whole(step), why));
        if let By::Place(_, shown) = before.by {
            self.note(&shown, why);
        }
    }

    /// Batch sizes that are captured as graphs.
    fn captured(&self, keys: &Keys) -> Option<(&'static str, Said)> {
        let list = |sizes: &[u32]| Value::Array(sizes.iter().copied().map(whole).collect());
        let said = match (&self.found.is_eager, &self.found.graph_sizes, self.engine) {
            (Some(shown), ..) => self.said(list(&[]), shown.as_str()),
            (None, Some((sizes, shown)), Engine::Vllm) => self.said(list(sizes), shown.as_str()),
            (None, Some((sizes, shown)), Engine::Trtllm) => {
                Said { value: list(sizes), by: By::Place(self.options_place, shown.clone()) }
            }
            (None, None, Engine::Trtllm) => {
                let is_padded = keys.iter().any(|(key, said)| {
                    *key == "engine.cuda_graph.padding" && said.value == Value::Boolean(true)
                });
                let sizes = engines::trtllm_sizes(0, is_padded);
                assumed(list(&sizes), "TensorRT-LLM's default")
            }
            (None, None, Engine::Vllm) => return None,
        };
        Some(("engine.cuda_graph.sizes", said))
    }

    /// Host memory for KV.
    fn host_tier(&mut self, model: &Modelled) -> Option<(&'static str, Said)> {
        let (bytes, shown) = self.found.host_bytes.take()?;
        if model.loaded.has_window {
            self.note(&shown, "sliding-window layers have no tier below GPU memory here");
            return None;
        }
        let is_of_all =
            shown.contains("kv-offloading-size") || shown.contains("cpu_bytes_to_use\"");
        let gpus = if is_of_all { 1 } else { model.gpus };
        let tier = host_tier(bytes.saturating_mul(u64::from(gpus)), model.tp);
        Some(("engine.tier", self.said(tier, format!("{shown}; the bandwidth is assumed"))))
    }

    /// How many workers there are.
    pub(super) fn workers(&self, per_replica: u32) -> Result<Said, ImportError> {
        let form = self.component.form;
        let asked = self.request.workers.filter(|_| form == Form::Line);
        let replicas = self.component.replicas.or(asked);
        let all = |count: u32| Value::Integer(i64::from(count) * i64::from(per_replica));
        match (replicas, form) {
            (Some(0), _) => {
                Err(ImportError::refused(self.place_name, "has 0 replicas; set at least 1"))
            }
            (Some(count), Form::Line) => Ok(assumed(all(count), "as requested")),
            (Some(count), _) => {
                let shown = match per_replica {
                    1 => format!("replicas: {count}"),
                    ranks => format!(
                        "replicas: {count}, each with {ranks} ranks, every one a worker of its own"
                    ),
                };
                Ok(self.said(all(count), shown))
            }
            (None, _) => Ok(assumed(all(1), "the number of replicas is not given")),
        }
    }
}

fn assumed(value: impl Into<Value>, why: &str) -> Said {
    Said { value: value.into(), by: By::Assumed(why.to_owned()) }
}

fn whole(count: u32) -> Value {
    Value::Integer(count.into())
}

fn integer(value: &Value) -> u32 {
    value.as_integer().and_then(|value| u32::try_from(value).ok()).unwrap_or(1)
}

fn format(value: &Value) -> Dtype {
    let named = |format: &Dtype| value.as_str() == Some(format.as_str());
    Dtype::ALL.into_iter().find(named).unwrap_or(Dtype::Bf16)
}

fn shown_of(said: Option<&Said>) -> String {
    match said.map(|said| &said.by) {
        Some(By::Place(_, shown) | By::Assumed(shown)) => shown.clone(),
        None => String::new(),
    }
}

/// Host memory for KV; every GPU has a link of its own to it (assumed: PCIe 5.0 x16).
fn host_tier(bytes: u64, gpus: u32) -> Value {
    let mut tier = toml::Table::new();
    tier.insert("name".to_owned(), "host".into());
    tier.insert("capacity".to_owned(), Value::String(format!("{}MiB", bytes >> 20)));
    tier.insert("bandwidth".to_owned(), Value::String(format!("{}GB/s", gpus.saturating_mul(50))));
    Value::Array(vec![Value::Table(tier)])
}
