//! Model files: a model on a GPU under an engine, as one TOML that names its
//! parts.
//!
//! What is generic stands apart from what is particular. `models/gpus/` has
//! the data sheets of GPUs, `models/shapes/` the dimensions of networks,
//! `models/efficiencies/` how much of the peaks an engine reaches,
//! `models/tables/` measured times, and `models/engines/` the defaults of
//! engines. A file of `models/` itself puts them together and adds what is
//! particular in `[engine]`. It may leave `[hardware]` out if it gives pool size
//! and step time itself.
//!
//! An experiment names such a file, or puts the parts together itself: a
//! [`ModelChoice`]. A part is a file, or the name of one that comes with the
//! program ([`catalogue`]). A shape may be the `config.json` that a network is
//! published with.

use super::config_json::{self, Declared, Network};
use crate::catalogue::{self, Kind, Unknown};
pub use crate::engine::hardware::{
    Dtype, Efficiency, Experts, Gemm, Gpu, Hardware, Index, Latent, Shape, Window,
};
use crate::engine::operator_file::{Operators, OperatorsError};
use crate::engine::rules::ForeignKey;
use crate::engine::settings::{EngineConfig, EngineSettings, RulesName, check_pool_keys, put_over};
use crate::engine::table::{MeasuredTimes, TableError};
use crate::settings::{Invalid, NOTHING, SettingsError, Sheet};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};
use toml::Table;

/// A loaded model file.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// Its name, for reports.
    pub name: String,
    /// Where its numbers come from, if it says so itself.
    pub source: Option<String>,
    /// What runs on what, as measurements of it are called: `llama-3.1-8b bf16, h100
    /// tp 1, vllm`. `None` without hardware.
    pub deployment: Option<String>,
    /// GPU, network and efficiencies; `None` if the file gives times itself.
    pub hardware: Option<Hardware>,
    /// What its engine does where an experiment says nothing: its `[engine]` over the
    /// engine's defaults.
    pub engine: EngineSettings,
    /// What stands in for something else, or is left out: for whoever reads results.
    pub notices: Vec<String>,
    /// Those of them that say that step times were not measured on this GPU under this version
    /// of the engine.
    pub marks: Vec<String>,
    /// The same as it was written.
    sheet: Sheet,
    /// SHA-256 over the file and all that it names, in order, hexadecimal.
    pub sha256: String,
}

/// What the step times of a model are worth, from good to bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Worth {
    /// Its operators were measured, network, GPU, engine and number formats alike.
    Measured,
    /// By a formula that was fitted to measured operators of this engine on this GPU.
    Composed,
    /// By measurements of another version of the engine, and how its kernels compare.
    Scaled,
    /// By a formula that was fitted to another GPU or engine.
    Borrowed,
    /// Not measured: its file gives the times.
    Assumed,
}

impl fmt::Display for Worth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Measured => "measured",
            Self::Composed => "composed",
            Self::Scaled => "scaled",
            Self::Borrowed => "borrowed",
            Self::Assumed => "assumed",
        })
    }
}

/// Why a model file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}{}", path.display(), named_by(by.as_deref()))]
    Read {
        /// The file.
        path: PathBuf,
        /// The model that names it, if it is not the model file itself.
        by: Option<String>,
        /// Why.
        source: std::io::Error,
    },
    /// Syntax, an unknown key, a missing key, a value that cannot be used.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// A published configuration that is no JSON or lacks something.
    #[error("{}:{line}: {message}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Line of the problem, from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// Parts that do not go together.
    #[error("{of}: {invalid}")]
    Parts {
        /// What they would be.
        of: String,
        /// Key, value and values allowed.
        invalid: Invalid,
    },
    /// A model that is neither a file nor the name of a shipped one.
    #[error("{unknown}")]
    Name {
        /// Which names there are.
        unknown: Unknown,
    },
    /// A part that is neither a file nor the name of a shipped one.
    #[error("{key} = {name:?}: {unknown}")]
    Part {
        /// The key that names it.
        key: &'static str,
        /// The name.
        name: String,
        /// Which names there are.
        unknown: Unknown,
    },
    /// An engine on a GPU whose speed is not known.
    #[error(
        "gpu = {gpu:?} with engine = {engine:?}: how fast this engine runs on this GPU is not known; \
         known are {}; or name a file with efficiency = PATH", known.join(", ")
    )]
    NoEfficiency {
        /// The GPU.
        gpu: String,
        /// The engine.
        engine: String,
        /// What is known, as GPU-ENGINE.
        known: Vec<&'static str>,
    },
    /// A table of measured times that cannot be used.
    #[error("{}:{}", path.display(), error)]
    Table {
        /// The file.
        path: PathBuf,
        /// Line and problem.
        error: TableError,
    },
    /// Measured operators that cannot be used.
    #[error("{}:{}", path.display(), error)]
    Operators {
        /// The file.
        path: PathBuf,
        /// Line and problem.
        error: OperatorsError,
    },
}

fn named_by(by: Option<&str>) -> String {
    by.map_or(String::new(), |by| format!(" (named by {by})"))
}

/// A model by the names of its parts in a library such as `models/`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Parts {
    /// The GPU, a file of `gpus/` without its ending.
    pub gpu: String,
    /// The engine, a file of `engines/`; with the GPU one of `efficiencies/`.
    pub engine: String,
    /// The network, a file of `shapes/` with its ending.
    pub shape: String,
    /// GPUs of a rank, which share each layer.
    pub tp: u32,
    /// Ranks of a worker.
    pub attention_dp: u32,
    /// GPUs that experts are divided among.
    pub ep: u32,
    /// Number format of the weights.
    pub weight_dtype: Dtype,
    /// Number format of the KV cache.
    pub kv_dtype: Dtype,
}

impl fmt::Display for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let &Self { tp, attention_dp, ep, .. } = self;
        let gpus = Division { tp, attention_dp, ep };
        f.write_str(&deployment(&self.shape, self.weight_dtype, &self.gpu, gpus, &self.engine))
    }
}

/// The model of a fleet, as an experiment says it.
#[derive(Clone, Debug, PartialEq)]
pub enum ModelChoice {
    /// A model file, or the name of a shipped one.
    File(String),
    /// Parts that are put together.
    Parts(PartsChoice),
}

/// The parts of a model; each is a file, or the name of a shipped one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PartsChoice {
    /// The network's dimensions: a name, a TOML file, or a published `config.json`.
    pub shape: String,
    /// The GPU.
    pub gpu: String,
    /// GPUs of a rank, which share each layer. Default 1.
    #[serde(default = "one")]
    pub tp: u32,
    /// GPUs that experts are divided among, a divisor of `tp` times `attention_dp`; GPUs with
    /// the same experts share each of them. Default 1.
    #[serde(default = "one")]
    pub ep: u32,
    /// Ranks with sequences and KV of their own, which step together and meet in the experts;
    /// each has `tp` GPUs. Default 1.
    #[serde(default = "one")]
    pub attention_dp: u32,
    /// The engine.
    pub engine: String,
    /// Number format of the weights; where there are experts, of the routed ones.
    /// Default `"bf16"`.
    #[serde(default = "bf16")]
    pub weights: Dtype,
    /// Number format of the weights beside routed experts. Default: what a `config.json` says;
    /// else 16 bit where experts have 4 bit, else as `weights`.
    pub rest_weights: Option<Dtype>,
    /// Number format of the KV cache. Default: what a `config.json` says, as engines have
    /// it; else `"bf16"` under vLLM, which keeps KV in the network's own type; that of the weights under TensorRT-LLM (assumed:
    /// its 8-bit checkpoints bring scales for the cache).
    pub kv: Option<Dtype>,
    /// How much of the GPU's peaks the engine reaches. Default: what was measured of
    /// this engine on this GPU.
    pub efficiency: Option<String>,
    /// A file of operators measured on the GPU. Default: what comes with the program, where
    /// the formula does not describe the network.
    pub operators: Option<String>,
    /// The shape is a `config.json` of a `model_type` that is not known, and describes a
    /// dense transformer with full attention all the same. Default false.
    #[serde(default)]
    pub assume_dense: bool,
}

fn one() -> u32 {
    1
}

fn bf16() -> Dtype {
    Dtype::Bf16
}

impl fmt::Display for ModelChoice {
    /// As it is written in TOML.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(name) => write!(f, "{name:?}"),
            Self::Parts(parts) => {
                let table = toml::Table::try_from(parts).expect("text and numbers");
                write!(f, "{}", toml::Value::Table(table))
            }
        }
    }
}

impl<'de> Deserialize<'de> for ModelChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ChoiceVisitor;
        impl<'de> Visitor<'de> for ChoiceVisitor {
            type Value = ModelChoice;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a model, a model file, or { shape, gpu, engine, ... }")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<ModelChoice, E> {
                String::deserialize(StrDeserializer::new(text)).map(ModelChoice::File)
            }
            fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<ModelChoice, M::Error> {
                PartsChoice::deserialize(MapAccessDeserializer::new(map)).map(ModelChoice::Parts)
            }
        }
        deserializer.deserialize_any(ChoiceVisitor)
    }
}

impl JsonSchema for ModelChoice {
    fn schema_name() -> Cow<'static, str> {
        "Model".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let name = "The name of a shipped model, or a model file relative to this file";
        json_schema!({
            "anyOf": [
                { "description": name, "type": "string" },
                generator.subschema_for::<PartsChoice>(),
            ]
        })
    }
}

/// A model file as written; its parts are files, or names of shipped ones.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelFile {
    name: String,
    /// Where its numbers come from, if not from the parts.
    source: Option<String>,
    /// Defaults of an engine, below `engine`.
    defaults: Option<String>,
    hardware: Option<HardwareFile>,
    /// Read once it is merged with the defaults.
    #[serde(default, rename = "engine")]
    _engine: Table,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HardwareFile {
    gpu: String,
    shape: String,
    efficiency: String,
    table: Option<PathBuf>,
    /// Where none is named, those of a GPU of this name that come with the program, if the
    /// formula does not do.
    operators: Option<PathBuf>,
    tp: u32,
    #[serde(default = "one")]
    ep: u32,
    #[serde(default = "one")]
    attention_dp: u32,
    weight_dtype: Dtype,
    rest_dtype: Option<Dtype>,
    /// Only parts that are put together may leave it out.
    kv_dtype: Option<Dtype>,
    /// A `config.json` of a `model_type` that is not known describes a dense transformer.
    #[serde(default)]
    assume_dense: bool,
}

impl Model {
    /// Reads a model file and the files it names, relative to itself.
    ///
    /// # Errors
    /// A file that cannot be read or parsed, or a value out of range; whether
    /// the `[engine]` section will do is known only once an experiment has had
    /// its say, in [`engine_config`](Self::engine_config).
    pub fn load(path: &Path) -> Result<Self, ModelError> {
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut files = Files { of: path.display().to_string(), folder, digest: Sha256::new() };
        let sheet = files.sheet(path)?;
        let file: ModelFile = sheet.read()?;
        if file.hardware.as_ref().is_some_and(|hardware| hardware.kv_dtype.is_none()) {
            let needed = Invalid::new("hardware.kv_dtype", NOTHING, "\"bf16\" or \"fp8\"");
            return Err(sheet.invalid(needed).into());
        }
        file.load(files, Some(&sheet))
    }

    /// The model that an experiment chooses; `folder` is where its paths start.
    ///
    /// # Errors
    /// As [`load`](Self::load), and a name that nothing has.
    pub fn choose(choice: &ModelChoice, folder: &Path) -> Result<Self, ModelError> {
        match choice {
            ModelChoice::File(name) => {
                let path = catalogue::find(Kind::Model, name, folder);
                Self::load(&path.map_err(|unknown| ModelError::Name { unknown })?)
            }
            ModelChoice::Parts(parts) => parts.load(folder),
        }
    }

    /// The model made of `parts`, each a file of the library in `folder`.
    ///
    /// # Errors
    /// A part that is not there or cannot be used.
    pub fn compose(folder: &Path, parts: &Parts) -> Result<Self, ModelError> {
        let Parts { gpu, engine, shape, tp, attention_dp, ep, weight_dtype, kv_dtype } = parts;
        let file = ModelFile {
            name: parts.to_string(),
            source: None,
            defaults: Some(format!("engines/{engine}.toml")),
            hardware: Some(HardwareFile {
                gpu: format!("gpus/{gpu}.toml"),
                shape: format!("shapes/{shape}"),
                efficiency: format!("efficiencies/{gpu}-{}.toml", family(engine)),
                table: None,
                operators: None,
                tp: *tp,
                ep: *ep,
                attention_dp: *attention_dp,
                weight_dtype: *weight_dtype,
                rest_dtype: None,
                kv_dtype: Some(*kv_dtype),
                assume_dense: false,
            }),
            _engine: Table::new(),
        };
        file.load(Files { of: parts.to_string(), folder, digest: Sha256::new() }, None)
    }

    /// The configuration of a worker as the model describes it.
    ///
    /// # Errors
    /// As [`EngineSettings::resolve`].
    pub fn engine_config(&self) -> Result<EngineConfig, Invalid> {
        self.engine.resolve(self.hardware.as_ref())
    }

    /// What its step times are worth.
    pub fn worth(&self) -> Worth {
        match &self.hardware {
            None => Worth::Assumed,
            Some(hardware) if hardware.efficiency.borrowed_from.is_some() => Worth::Borrowed,
            Some(hardware) if hardware.scaled(&self.engine.kernels).is_some() => Worth::Scaled,
            Some(hardware) if hardware.table.is_some() || self.is_composed_of(hardware) => {
                Worth::Measured
            }
            Some(_) => Worth::Composed,
        }
    }

    /// Whether all operators of it were measured.
    fn is_composed_of(&self, hardware: &Hardware) -> bool {
        let EngineSettings { rules, operators, kernels, .. } = &self.engine;
        let engine = rules.map_or("", RulesName::as_str);
        matches!(hardware.composed(engine, operators, kernels), Some(Ok(_)))
    }

    /// What its engine does, as it was written, for keys of `[engine]` to be put over.
    pub fn engine_sheet(&self) -> &Sheet {
        &self.sheet
    }
}

impl PartsChoice {
    fn load(&self, folder: &Path) -> Result<Model, ModelError> {
        let Self { shape, gpu, tp, attention_dp, ep, engine, weights, kv, efficiency, .. } = self;
        let Self { operators, assume_dense, .. } = self;
        let gpus = Division { tp: *tp, attention_dp: *attention_dp, ep: *ep };
        let name = deployment(shape, *weights, gpu, gpus, engine);
        let files = Files { of: name.clone(), folder, digest: Sha256::new() };
        // Before the pair of them is looked up.
        files.find(Kind::Gpu, "gpu", gpu)?;
        files.find(Kind::Engine, "engine", engine)?;
        let pair = format!("{}-{}", stem(gpu), family(engine));
        if efficiency.is_none() && catalogue::named(Kind::Efficiency, &pair).is_err() {
            let (gpu, engine) = (stem(gpu).to_owned(), stem(engine).to_owned());
            let known = catalogue::names(Kind::Efficiency).collect();
            return Err(ModelError::NoEfficiency { gpu, engine, known });
        }
        let hardware = HardwareFile {
            gpu: gpu.clone(),
            shape: shape.clone(),
            efficiency: efficiency.clone().unwrap_or(pair),
            table: None,
            operators: operators.as_ref().map(PathBuf::from),
            tp: *tp,
            ep: *ep,
            attention_dp: *attention_dp,
            weight_dtype: *weights,
            rest_dtype: self.rest_weights,
            kv_dtype: *kv,
            assume_dense: *assume_dense,
        };
        let file = ModelFile {
            name,
            source: None,
            defaults: Some(engine.clone()),
            hardware: Some(hardware),
            _engine: Table::new(),
        };
        file.load(files, None)
    }
}

/// A part without the folders and the ending of its file.
fn stem(part: &str) -> &str {
    let name = part.rsplit_once('/').map_or(part, |(_, name)| name);
    name.strip_suffix(".toml").or(name.strip_suffix(".json")).unwrap_or(name)
}

/// An engine's name without its version: `vllm-0.24` is a `vllm`.
fn family(engine: &str) -> &str {
    let name = stem(engine);
    match name.rsplit_once('-') {
        Some((family, version)) if version.starts_with(|c: char| c.is_ascii_digit()) => family,
        _ => name,
    }
}

/// The operators of a GPU in a library.
fn operators_of(gpu: &str) -> String {
    format!("models/operators/{}.csv.gz", stem(gpu))
}

/// What runs on what, as measurements of it are called.
fn deployment(shape: &str, weights: Dtype, gpu: &str, gpus: Division, engine: &str) -> String {
    format!("{} {weights}, {} {gpus}, {}", stem(shape), stem(gpu), stem(engine))
}

/// How a network is divided among GPUs.
#[derive(Clone, Copy)]
struct Division {
    tp: u32,
    attention_dp: u32,
    ep: u32,
}

impl fmt::Display for Division {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tp, attention_dp, ep } = self;
        write!(f, "tp {tp}")?;
        if *attention_dp > 1 {
            write!(f, " dp {attention_dp}")?;
        }
        if *ep > 1 { write!(f, " ep {ep}") } else { Ok(()) }
    }
}

impl ModelFile {
    /// `own` is the file as it was written; there is none for parts.
    fn load(self, mut files: Files<'_>, own: Option<&Sheet>) -> Result<Model, ModelError> {
        let own_engine = own.map(|own| own.section("engine")).transpose()?;
        own_engine.as_ref().map_or(Ok(()), check_pool_keys)?;
        let defaults = match &self.defaults {
            Some(engine) => {
                let path = files.find(Kind::Engine, "engine", engine)?;
                let mut sheet = files.sheet(&path)?.named("engine");
                files.settle_by_gpu(&mut sheet, self.hardware.as_ref())?;
                Some(sheet)
            }
            None => None,
        };
        let sheet = match (own_engine, defaults) {
            (Some(own), Some(defaults)) => put_over(own, defaults),
            (only, None) | (None, only) => only.unwrap_or_default(),
        };
        let engine: EngineSettings = sheet.read()?;
        let rules = engine.rules;
        if let Some(rules) = rules
            && let Some(found) = RulesName::find_foreign(&[rules], sheet.table())
        {
            let ForeignKey { key, value, problem } = found;
            return Err(sheet.value_error(&key, &value, &problem).into());
        }
        let deployment = self.hardware.as_ref().map(|hardware| {
            let &HardwareFile { ref shape, weight_dtype, ref gpu, tp, attention_dp, ep, .. } =
                hardware;
            let engine = self.defaults.as_deref().unwrap_or(rules.map_or("", RulesName::as_str));
            deployment(shape, weight_dtype, gpu, Division { tp, attention_dp, ep }, engine)
        });
        let hardware = self.hardware.map(|hardware| hardware.load(&mut files, rules, own));
        let hardware = hardware.transpose()?;
        let sha256 = files.digest.finalize().iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        let Self { name, source, .. } = self;
        let engine_name = rules.map_or("", RulesName::as_str);
        let about = |notice| format!("model {name}: {notice}");
        let marks = hardware.as_ref().map_or(Vec::new(), |hardware| {
            hardware.marks(engine_name, &engine.kernels).into_iter().map(about).collect()
        });
        let notices = hardware.as_ref().map_or(Vec::new(), |hardware| {
            let apart = rules.is_some_and(|rules| rules.defaults().keeps_layers_apart)
                && engine.hybrid_kv_cache != Some(false);
            let windows = hardware.windows_notice().filter(|_| !apart);
            let notices = hardware.notices(engine_name, &engine.kernels);
            notices.into_iter().chain(windows).map(about).collect()
        });
        Ok(Model { name, source, deployment, hardware, engine, notices, marks, sheet, sha256 })
    }
}

impl HardwareFile {
    fn load(
        self,
        files: &mut Files<'_>,
        rules: Option<RulesName>,
        own: Option<&Sheet>,
    ) -> Result<Hardware, ModelError> {
        let gpu_path = files.find(Kind::Gpu, "gpu", &self.gpu)?;
        let shape_path = files.find(Kind::Shape, "shape", &self.shape)?;
        let efficiency_path = files.find(Kind::Efficiency, "efficiency", &self.efficiency)?;
        let gpu = files.part(&gpu_path, Gpu::validate)?;
        let declared = Declared { weights: self.weight_dtype, assume_dense: self.assume_dense };
        let Network { shape, rest, kv } = files.network(&shape_path, declared)?;
        let efficiency = files.part(&efficiency_path, Efficiency::validate)?;
        let table = match &self.table {
            None => None,
            Some(path) => {
                let path = catalogue::join(files.folder, path);
                let text = files.text(&path)?;
                Some(
                    MeasuredTimes::parse(&text)
                        .map_err(|error| ModelError::Table { path, error })?,
                )
            }
        };
        let mut hardware = Hardware {
            gpu,
            efficiency,
            table,
            operators: None,
            rest_dtype: self.rest_dtype.or(rest).unwrap_or(match shape.experts {
                Some(_) if self.weight_dtype.is_for_experts() => Dtype::Bf16,
                _ => self.weight_dtype,
            }),
            shape,
            tp: self.tp,
            attention_dp: self.attention_dp,
            ep: self.ep,
            weight_dtype: self.weight_dtype,
            kv_dtype: self.kv_dtype.or(kv).unwrap_or(match rules.map(RulesName::defaults) {
                Some(defaults) if defaults.kv_as_weights && self.weight_dtype != Dtype::Bf16 => {
                    Dtype::Fp8
                }
                _ => Dtype::Bf16,
            }),
        };
        let divided = hardware.validate();
        let divided =
            divided.and_then(|()| rules.map_or(Ok(()), |rules| divides(rules, &hardware)));
        divided.map_err(|invalid| match own {
            Some(own) => own.invalid(invalid).into(),
            None => ModelError::Parts { of: files.of.clone(), invalid },
        })?;
        let shipped = || Path::new(catalogue::ROOT).join(operators_of(&self.gpu));
        let operators = match self.operators {
            Some(path) => Some(catalogue::join(files.folder, &path)),
            None if hardware.beside_formula().is_none()
                && !hardware.efficiency.prefers_operators =>
            {
                None
            }
            None => Some(shipped()).filter(|path| catalogue::is_file(path)),
        };
        if let Some(path) = operators {
            hardware.operators = Some(files.operators(&path)?);
        }
        Ok(hardware)
    }
}

/// Refuses what an engine cannot divide so among GPUs.
fn divides(rules: RulesName, hardware: &Hardware) -> Result<(), Invalid> {
    let (Hardware { tp, attention_dp, ep, .. }, engine) = (hardware, rules.as_str());
    let gpus = hardware.gpus();
    Invalid::unless(
        !rules.defaults().divides_experts_wholly || [1, gpus].contains(ep),
        "hardware.ep",
        ep,
        &format!("1 or {gpus}: {engine} divides experts among all GPUs of a worker, or among none"),
    )?;
    Invalid::unless(
        !rules.defaults().ranks_have_one_gpu || *attention_dp == 1 || *tp == 1,
        "hardware.tp",
        tp,
        &format!("1 with attention_dp: under {engine} every GPU is a rank"),
    )
}

/// The files of a model, as they are read.
struct Files<'a> {
    /// The model file, or what stands for it in messages.
    of: String,
    /// Where relative paths start.
    folder: &'a Path,
    digest: Sha256,
}

impl Files<'_> {
    /// The file that a part means.
    fn find(&self, kind: Kind, key: &'static str, part: &str) -> Result<PathBuf, ModelError> {
        catalogue::find(kind, part, self.folder).map_err(|unknown| ModelError::Part {
            key,
            name: part.to_owned(),
            unknown,
        })
    }

    /// Puts what an engine's file says of GPUs of this size, in `[[by_gpu]]`, over the rest.
    fn settle_by_gpu(
        &mut self,
        sheet: &mut Sheet,
        hardware: Option<&HardwareFile>,
    ) -> Result<(), ModelError> {
        let place = sheet.place("by_gpu");
        let Some(by_gpu) = sheet.take("by_gpu") else { return Ok(()) };
        let Some(HardwareFile { gpu: name, .. }) = hardware else { return Ok(()) };
        let path = self.find(Kind::Gpu, "gpu", name)?;
        let gpu = self.part(&path, Gpu::validate)?;
        for section in by_gpu.as_array().into_iter().flatten() {
            let mut keys = sheet.part("by_gpu", section.as_table().cloned().unwrap_or_default());
            let (at_least, except) = (keys.take("at_least_gib"), keys.take("except"));
            let number = |value: toml::Value| {
                value.as_float().or(value.as_integer().map(|number| number as f64))
            };
            let Some(at_least) = at_least.and_then(number) else {
                let needed = "given in each [[by_gpu]]: GiB of memory that the GPU has at least";
                return Err(sheet
                    .invalid(Invalid::new("by_gpu.at_least_gib", NOTHING, needed))
                    .into());
            };
            let excepted = except
                .as_ref()
                .and_then(toml::Value::as_array)
                .is_some_and(|names| names.iter().any(|other| other.as_str() == Some(stem(name))));
            if gpu.memory_gib < at_least || excepted {
                continue;
            }
            for (key, value) in keys.table() {
                sheet.set(key, value.clone(), place.clone())?;
            }
        }
        Ok(())
    }

    /// One of ours, or a published `config.json`.
    fn network(&mut self, path: &Path, declared: Declared) -> Result<Network, ModelError> {
        if path.extension().is_none_or(|extension| extension != "json") {
            let shape = self.part(path, Shape::validate)?;
            return Ok(Network { shape, rest: None, kv: None });
        }
        let text = self.text(path)?;
        let refused = |line, message| ModelError::Json { path: path.to_path_buf(), line, message };
        let network = config_json::read(&text, declared)
            .map_err(|found| refused(found.line, found.problem))?;
        network.shape.validate().map_err(|invalid| refused(1, invalid.to_string()))?;
        Ok(network)
    }

    fn text(&mut self, path: &Path) -> Result<String, ModelError> {
        let by = (path.as_os_str() != self.of.as_str()).then(|| self.of.clone());
        let text = catalogue::read_text(path).map_err(|source| ModelError::Read {
            path: path.to_path_buf(),
            by,
            source,
        })?;
        // The length keeps files apart.
        self.digest.update((text.len() as u64).to_le_bytes());
        self.digest.update(&text);
        Ok(text)
    }

    fn operators(&mut self, path: &Path) -> Result<Operators, ModelError> {
        let by = Some(self.of.clone());
        let bytes = catalogue::read(path).map_err(|source| ModelError::Read {
            path: path.to_path_buf(),
            by,
            source,
        })?;
        self.digest.update((bytes.len() as u64).to_le_bytes());
        self.digest.update(&bytes);
        Operators::unpack(&bytes)
            .map_err(|error| ModelError::Operators { path: path.to_path_buf(), error })
    }

    fn sheet(&mut self, path: &Path) -> Result<Sheet, ModelError> {
        let text = self.text(path)?;
        Ok(Sheet::parse(path, &text)?)
    }

    /// A part in a file of its own.
    fn part<T: DeserializeOwned>(
        &mut self,
        path: &Path,
        validate: impl FnOnce(&T) -> Result<(), Invalid>,
    ) -> Result<T, ModelError> {
        let sheet = self.sheet(path)?;
        let part: T = sheet.read()?;
        validate(&part).map_err(|invalid| sheet.invalid(invalid))?;
        Ok(part)
    }
}
