//! The `[engine]` section as people write it.
//!
//! The same section stands in a model file, where it gives defaults, and in an
//! experiment, which wins key by key: they are merged as tables
//! ([`Sheet`](crate::settings::Sheet)) before they become this type.
//! [`EngineSettings::resolve`] fills the gaps with the engine's own defaults,
//! computes the size of the KV pool, and refuses what no engine would start with.

use crate::engine::config::bounded;
pub use crate::engine::config::{
    CudaGraph, EngineConfig, HostTime, MAX_BLOCK_SIZE, MAX_NUM_BLOCKS, MAX_NUM_SEQS, Rules,
    RulesName, SharedKv, StoreContext, TierOptions, TrtllmOptions,
};
use crate::engine::hardware::Hardware;
pub use crate::engine::kernels::Kernels;
use crate::engine::memory;
pub use crate::engine::operators::Beside;
use crate::engine::roofline::Roofline;
use crate::engine::rules::OwnSettings;
pub use crate::engine::rules::trtllm::{SchedulerConfig, TrtllmSettings};
use crate::engine::rules::vllm::VllmSettings;
pub use crate::engine::rules::vllm::{Retention, SchedulingPolicy};
use crate::engine::step_time::{Linear, StepTime, faster};
use crate::engine::tiers;
pub use crate::engine::tiers::{LoadRule, Offload, TierSettings};
use crate::settings::{Count, Invalid, NOTHING, SettingsError, Sheet, count_option};
use crate::time::SimDuration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The `[engine]` section of a model file or an experiment; every key may be absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EngineSettings {
    /// `"vllm"` or `"trtllm"`. Needed.
    pub rules: Option<RulesName>,
    /// Tokens in a KV block. Default: 16 (vLLM), 32 (TensorRT-LLM).
    #[serde(deserialize_with = "count_option")]
    #[schemars(with = "Option<Count>")]
    pub block_size: Option<u32>,
    /// KV blocks that requests can use. Default: computed from the hardware.
    #[serde(deserialize_with = "count_option")]
    #[schemars(with = "Option<Count>")]
    pub num_blocks: Option<u32>,
    /// Share of GPU memory for the KV pool, in the engine's own meaning (see
    /// [`memory`]). Default 0.9. Not beside `num_blocks`; of two files the one that is put
    /// over the other decides.
    pub kv_memory_fraction: Option<f64>,
    /// GiB on each GPU for activations and whatever else is neither weights nor
    /// KV. Needed for a computed pool. Not looked at if `num_blocks` is given.
    pub activation_gib: Option<f64>,
    /// Sequences that run at once. Needed.
    #[serde(deserialize_with = "count_option")]
    #[schemars(with = "Option<Count>")]
    pub max_num_seqs: Option<u32>,
    /// Tokens computed in one step. Needed.
    #[serde(deserialize_with = "count_option")]
    #[schemars(with = "Option<Count>")]
    pub max_num_batched_tokens: Option<u32>,
    /// Longest prompt plus answer, in tokens. Default: the model's context;
    /// without a model, all that the pool holds.
    #[serde(deserialize_with = "count_option")]
    #[schemars(with = "Option<Count>")]
    pub max_model_len: Option<u32>,
    /// Default true.
    pub chunked_prefill: Option<bool>,
    /// Default true.
    pub prefix_caching: Option<bool>,
    /// vLLM: which requests go first, those that came first (`"fcfs"`) or those of the lowest
    /// `workload.priority`. Default `"fcfs"`.
    pub scheduling_policy: Option<SchedulingPolicy>,
    /// vLLM: share of the pool that admission leaves free. Default 0, as in vLLM.
    pub watermark: Option<f64>,
    /// vLLM: admission asks for blocks for the whole prompt, not for its first chunk only.
    /// Default true; false in versions up to 0.16.
    pub scheduler_reserve_full_isl: Option<bool>,
    /// vLLM: most tokens of a prompt in a step, unless nothing else runs or waits. Default 0:
    /// no such limit.
    #[serde(deserialize_with = "count_option")]
    #[schemars(with = "Option<Count>")]
    pub long_prefill_token_threshold: Option<u32>,
    /// vLLM: groups of layers keep KV apart, where some layers attend to a window. Default
    /// true.
    pub hybrid_kv_cache: Option<bool>,
    /// vLLM: which blocks of layers with a window can be hit, all (`"dense"`, the default of
    /// versions up to 0.24) or those that the end of a prompt needs. Default `"boundaries"`.
    pub prefix_cache_retention: Option<Retention>,
    /// Default: true for TensorRT-LLM; false for vLLM, where it became the
    /// default only in later versions.
    pub overlap: Option<bool>,
    /// Every time of GPU and host is divided by it; above 0. Default 1. (Dynamo's
    /// mocker calls it so.)
    pub speedup_ratio: Option<f64>,
    /// Default true.
    pub fast_forward: Option<bool>,
    /// Default with hardware: `{ kind = "roofline" }` where the formula describes it and is no
    /// worse than measured operators, else `{ kind = "operators" }`.
    pub step_time: Option<StepTimeSettings>,
    /// Cost of reading KV that several sequences share. Default: the same as other KV.
    pub shared_kv: Option<SharedKv>,
    /// What steps that are composed of operators take beside them.
    pub operators: Beside,
    /// Kernels of the engine's version, by those that were measured.
    pub kernels: Kernels,
    /// Host time of a step.
    pub host: HostTime,
    /// CUDA graphs.
    pub cuda_graph: CudaGraphSettings,
    /// What only TensorRT-LLM's rules look at.
    pub trtllm: TrtllmSettings,
    /// KV memory below the GPU's, fast to slow. Default: none.
    pub tier: Option<Vec<TierSettings>>,
    /// When blocks enter it. Default: `"computed"` for vLLM, `"evicted"` for
    /// TensorRT-LLM.
    pub offload: Option<Offload>,
    /// When blocks are loaded from it. Default `"auto"`.
    pub load: Option<LoadRule>,
    /// Ranks of a worker that have sequences and KV of their own and step together; `[engine]`
    /// is that of each. Default: those of the hardware, else 1.
    #[serde(deserialize_with = "count_option")]
    #[schemars(with = "Option<Count>")]
    pub attention_dp: Option<u32>,
    /// Bytes that one token of KV takes, all GPUs of a rank together. Only what
    /// moves KV looks at it: tiers, and separate prefill and decode workers.
    /// Default: by the hardware.
    #[serde(deserialize_with = "count_option")]
    #[schemars(with = "Option<Count>")]
    pub kv_bytes_per_token: Option<u32>,
}

/// The two keys that say how large the KV pool is.
const POOL_KEYS: [&str; 2] = ["num_blocks", "kv_memory_fraction"];

/// The key that says in another way what `key` says, which may stand in an `[engine]` of
/// some other section: only one of them can hold.
pub(crate) fn rival(key: &str) -> Option<String> {
    let (section, name) = match key.rsplit_once('.') {
        Some((section, name)) => (Some(section), name),
        None => (None, key),
    };
    let at = POOL_KEYS.iter().position(|known| *known == name)?;
    let other = POOL_KEYS[1 - at];
    match section {
        None => Some(other.to_owned()),
        Some(section) => {
            (section.rsplit('.').next() == Some("engine")).then(|| format!("{section}.{other}"))
        }
    }
}

/// The keys of `own` over those of `base`. Where both say how large the KV pool is, in one
/// way or the other, `own` decides.
pub(crate) fn put_over(own: Sheet, mut base: Sheet) -> Sheet {
    let replaced = own.keys().filter_map(rival).filter(|rival| own.get(rival).is_none());
    for key in replaced.collect::<Vec<_>>() {
        base.take(&key);
    }
    own.over(base)
}

/// Refuses an `[engine]` that says twice how large the KV pool is.
pub(crate) fn check_pool_keys(engine: &Sheet) -> Result<(), SettingsError> {
    let [blocks, fraction] = POOL_KEYS;
    let (Some(_), Some(value)) = (engine.get(blocks), engine.get(fraction)) else {
        return Ok(());
    };
    let problem = format!(
        "must be left out where {blocks} is given ({}): that is the size of the KV pool; give one \
         of the two",
        engine.place(blocks)
    );
    Err(engine.value_error(fraction, value, &problem))
}

/// `step_time = { kind = ... }`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum StepTimeSettings {
    /// The compact formula, from the hardware's peaks and efficiencies.
    Roofline {},
    /// Measured component times, from the model file's `hardware.table`.
    Table {},
    /// Composed of operators measured on the GPU, from the model file's
    /// `hardware.operators`.
    Operators {},
    /// Constant times.
    Fixed {
        /// Added if a step holds prompt tokens.
        prefill: SimDuration,
        /// Added if a step holds decodes.
        decode: SimDuration,
    },
    /// Sums of constant costs.
    Linear(Linear),
    /// No time.
    Instant {},
}

/// `[engine.cuda_graph]`. See [`CudaGraph`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CudaGraphSettings {
    /// Captured batch sizes; those above `max_num_seqs` are left out. `[]`: all
    /// steps are eager. Default: the engine's own list.
    pub sizes: Option<Vec<u32>>,
    /// Default: true for vLLM, false for TensorRT-LLM.
    pub padding: Option<bool>,
    /// Default false.
    pub mixed: Option<bool>,
}

impl EngineSettings {
    /// The configuration of a worker on `hardware`, or without any if pool and
    /// step time are given.
    ///
    /// # Errors
    /// Names the first key, relative to `[engine]`, that is missing or whose
    /// value cannot be used.
    pub fn resolve(&self, hardware: Option<&Hardware>) -> Result<EngineConfig, Invalid> {
        let rules = needed("rules", self.rules, &RulesName::list(|_| true))?;
        let defaults = rules.defaults();
        let block_size = self.block_size.unwrap_or(defaults.block_size);
        let max_num_seqs =
            needed("max_num_seqs", self.max_num_seqs, "given: sequences that run at once")?;
        let max_num_batched_tokens = needed(
            "max_num_batched_tokens",
            self.max_num_batched_tokens,
            "given: tokens computed in one step",
        )?;
        // Before anything is computed with them.
        bounded("block_size", block_size, MAX_BLOCK_SIZE)?;
        let (fits, allowed) = (defaults.takes_blocks)(block_size);
        Invalid::unless(fits, "block_size", block_size, allowed)?;
        bounded("max_num_seqs", max_num_seqs, MAX_NUM_SEQS)?;
        let own = OwnSettings {
            vllm: VllmSettings {
                scheduling_policy: self.scheduling_policy,
                watermark: self.watermark,
                scheduler_reserve_full_isl: self.scheduler_reserve_full_isl,
                long_prefill_token_threshold: self.long_prefill_token_threshold,
                hybrid_kv_cache: self.hybrid_kv_cache,
                prefix_cache_retention: self.prefix_cache_retention,
            },
            trtllm: self.trtllm,
        };
        let num_blocks = match self.num_blocks {
            Some(blocks) => blocks,
            None => self.computed_blocks(rules, &own, block_size, hardware)?,
        };
        let kv_bytes_per_token = self.kv_bytes_per_token.map(f64::from);
        let kv_bytes_per_token = kv_bytes_per_token.or(hardware.map(Hardware::kv_bytes_per_token));
        let block_bytes = kv_bytes_per_token.map(|bytes| bytes * f64::from(block_size));
        let config = EngineConfig {
            rules: rules.resolve(&own, num_blocks, hardware.map(|hardware| &hardware.shape))?,
            block_size,
            num_blocks,
            max_num_seqs,
            max_num_batched_tokens,
            max_model_len: self.model_len(rules, block_size, num_blocks, hardware),
            chunked_prefill: self.chunked_prefill.unwrap_or(true),
            prefix_caching: self.prefix_caching.unwrap_or(true),
            overlap: self.overlap.unwrap_or(defaults.overlap),
            fast_forward: self.fast_forward.unwrap_or(true),
            step_time: self.step_time(rules, max_num_seqs, hardware)?,
            host: self.host.at(self.speedup_ratio.unwrap_or(1.0)),
            cuda_graph: self.cuda_graph.resolve(rules, max_num_seqs)?,
            tiers: self.tiers(rules, block_bytes)?,
            kv_bytes_per_token,
            shared_kv: self.shared_kv,
            attention_dp: self.ranks(hardware)?,
        };
        config.validate()?;
        Ok(config)
    }

    fn ranks(&self, hardware: Option<&Hardware>) -> Result<u32, Invalid> {
        let Some(hardware) = hardware else { return Ok(self.attention_dp.unwrap_or(1)) };
        let ranks = hardware.attention_dp;
        let allowed = format!("left out, or that of the hardware, {ranks}");
        let given = self.attention_dp.unwrap_or(ranks);
        Invalid::unless(given == ranks, "attention_dp", given, &allowed).map(|()| ranks)
    }

    fn tiers(&self, rules: RulesName, block_bytes: Option<f64>) -> Result<TierOptions, Invalid> {
        Ok(TierOptions {
            tiers: tiers::resolve(self.tier.as_deref().unwrap_or_default(), block_bytes)?,
            offload: self.offload.unwrap_or(rules.defaults().offload),
            load: self.load.unwrap_or_default(),
        })
    }

    fn computed_blocks(
        &self,
        rules: RulesName,
        own: &OwnSettings,
        block_size: u32,
        hardware: Option<&Hardware>,
    ) -> Result<u32, Invalid> {
        let hardware =
            needed("num_blocks", hardware, "given, as there is no model file with GPUs")?;
        let fraction = self.kv_memory_fraction.unwrap_or(0.9);
        Invalid::unless(
            fraction > 0.0 && fraction <= 1.0,
            "kv_memory_fraction",
            fraction,
            "above 0 and at most 1",
        )?;
        let activation = needed(
            "activation_gib",
            self.activation_gib,
            "given: GiB a GPU needs beside weights and KV; or give num_blocks",
        )?;
        Invalid::unless_at_least("activation_gib", activation, 0.0)?;
        let budget = memory::Budget {
            total_bytes: hardware.gpu.memory_bytes(),
            weight_bytes: memory::weight_bytes(hardware),
            activation_bytes: memory::gib(activation),
            fraction,
        };
        let share = rules.block_share(own, &hardware.shape);
        let bytes_per_token = memory::gpu_kv_bytes_per_token(hardware) * share;
        let blocks = rules.kv_blocks(&budget, bytes_per_token, block_size);
        Invalid::unless(
            blocks >= 1,
            "kv_memory_fraction",
            fraction,
            &format!(
                "large enough to leave a KV block: each {} has {:.1} GB, weights take {:.1} GB \
                 and activations {:.1} GB; raise it, or spread the model \
                 over more GPUs (tp)",
                hardware.gpu.name,
                budget.total_bytes / 1e9,
                budget.weight_bytes / 1e9,
                budget.activation_bytes / 1e9,
            ),
        )?;
        Ok(blocks)
    }

    fn model_len(
        &self,
        rules: RulesName,
        block_size: u32,
        num_blocks: u32,
        hardware: Option<&Hardware>,
    ) -> u32 {
        let pool = num_blocks.saturating_mul(block_size);
        let wanted = self.max_model_len.or(hardware.map(|h| h.shape.context_tokens));
        match wanted {
            Some(tokens) if rules.defaults().lowers_model_len => tokens.min(pool),
            Some(tokens) => tokens,
            None => pool,
        }
    }

    /// The step time of hardware where none is asked for.
    fn usual_step_time(&self, rules: RulesName, hardware: &Hardware) -> StepTimeSettings {
        let operators = match hardware.beside_formula() {
            Some(_) => hardware.operators.is_some(),
            None if hardware.efficiency.prefers_operators => {
                matches!(
                    hardware.composed(rules.as_str(), &self.operators, &self.kernels),
                    Some(Ok(_))
                )
            }
            None => false,
        };
        if operators { StepTimeSettings::Operators {} } else { StepTimeSettings::Roofline {} }
    }

    fn step_time(
        &self,
        rules: RulesName,
        max_num_seqs: u32,
        hardware: Option<&Hardware>,
    ) -> Result<StepTime, Invalid> {
        let without = "{ kind = \"fixed\", prefill = .., decode = .. }, { kind = \"linear\", .. } or \
                       { kind = \"instant\" }, as there is no model file with GPUs";
        let ratio = self.speedup_ratio.unwrap_or(1.0);
        let usable = ratio > 0.0 && ratio.is_finite();
        Invalid::unless(usable, "speedup_ratio", ratio, "above 0 and finite")?;
        self.kernels.validate().map_err(|invalid| invalid.within("kernels"))?;
        let kind = match (self.step_time, hardware) {
            (Some(kind), _) => kind,
            (None, Some(hardware)) => self.usual_step_time(rules, hardware),
            (None, None) => return Err(Invalid::new("step_time", NOTHING, without)),
        };
        let model = match kind {
            StepTimeSettings::Fixed { prefill, decode } => StepTime::Fixed { prefill, decode },
            StepTimeSettings::Linear(linear) => StepTime::Linear(linear),
            StepTimeSettings::Instant {} => StepTime::Instant,
            StepTimeSettings::Roofline {} => {
                let hardware = needed_for("roofline", hardware, without)?;
                if let Some(beside) = hardware.beside_formula() {
                    let other = format!(
                        "another kind, since the formula describes dense layers with \
                         grouped-query attention and weights in bf16 or fp8, and {} has {beside}: \
                         {{ kind = \"linear\", .. }} or {{ kind = \"fixed\", .. }}",
                        hardware.shape.name
                    );
                    return Err(Invalid::new("step_time.kind", "\"roofline\"", &other));
                }
                StepTime::Roofline(Roofline::new(hardware, &self.kernels, max_num_seqs))
            }
            StepTimeSettings::Table {} => {
                let hardware = needed_for("table", hardware, without)?;
                let measured = needed_for(
                    "table",
                    hardware.table.as_ref(),
                    "another kind: this model file names no hardware.table",
                )?;
                let kernels = hardware.used(&self.kernels);
                let measured = measured.scaled(&kernels, hardware.weight_dtype);
                StepTime::Table(Box::new(measured.step_time(max_num_seqs)))
            }
            StepTimeSettings::Operators {} => {
                let hardware = needed_for("operators", hardware, without)?;
                let composed = needed_for(
                    "operators",
                    hardware.composed(rules.as_str(), &self.operators, &self.kernels),
                    "another kind: hardware.operators names none of this GPU",
                )?;
                let composed = composed.map_err(|missing| missing.invalid(&hardware.gpu.name))?;
                StepTime::Table(Box::new(composed.times.step_time(max_num_seqs)))
            }
        };
        let faster = self.speedup_ratio.is_some();
        Ok(if faster { StepTime::Faster(Box::new(model), ratio) } else { model })
    }
}

impl HostTime {
    /// These times on hosts that are so many times as fast.
    fn at(self, speedup_ratio: f64) -> Self {
        let time = |time: SimDuration| faster(time, speedup_ratio);
        Self {
            prepare: time(self.prepare),
            launch: time(self.launch),
            eager_launch: time(self.eager_launch),
            per_seq: time(self.per_seq),
        }
    }
}

impl CudaGraphSettings {
    fn resolve(&self, rules: RulesName, max_num_seqs: u32) -> Result<CudaGraph, Invalid> {
        let defaults = rules.defaults();
        let padding = self.padding.unwrap_or(defaults.graph_padding);
        let mut sizes = match &self.sizes {
            Some(sizes) => sizes.clone(),
            None => (defaults.graph_sizes)(padding),
        };
        sizes.sort_unstable();
        sizes.dedup();
        Invalid::unless(
            sizes.first() != Some(&0),
            "cuda_graph.sizes",
            0,
            "batch sizes of at least 1; [] for none",
        )?;
        sizes.retain(|&size| size <= max_num_seqs);
        Ok(CudaGraph { sizes, padding, mixed: self.mixed.unwrap_or(false) })
    }
}

fn needed<T>(key: &str, value: Option<T>, allowed: &str) -> Result<T, Invalid> {
    value.ok_or_else(|| Invalid::new(key, NOTHING, allowed))
}

fn needed_for<T>(kind: &str, value: Option<T>, allowed: &str) -> Result<T, Invalid> {
    value.ok_or_else(|| Invalid::new("step_time.kind", format!("{kind:?}"), allowed))
}
