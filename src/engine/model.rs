//! Model files: a model on a GPU under an engine, as one TOML that names its
//! parts by relative path.
//!
//! What is generic stands apart from what is particular. `models/gpus/` knows
//! a GPU's data sheet, `models/shapes/` a network's dimensions,
//! `models/efficiencies/` how much of the peaks an engine reaches, and
//! `models/tables/` measured times, and `models/engines/` what an engine does
//! unless told otherwise. A file of `models/` itself puts them together and adds
//! what is particular in `[engine]`. It may leave `[hardware]` out if it gives
//! pool size and step time itself. [`Model::compose`] does the same from
//! [`Parts`] by name, without a file.
//!
//! A shape may be the `config.json` that a network is published with.

pub use crate::engine::hardware::{Dtype, Efficiency, Gpu, Hardware, Shape};
use crate::engine::settings::{EngineConfig, EngineSettings};
use crate::engine::table::{MeasuredTimes, TableError};
use crate::settings::{Invalid, line_of};
use serde::{Deserialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};
use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};

/// A loaded model file.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// Its name, for reports.
    pub name: String,
    /// GPU, network and efficiencies; `None` if the file gives times itself.
    pub hardware: Option<Hardware>,
    /// Defaults of the `[engine]` section.
    pub engine: EngineSettings,
    /// SHA-256 over the file and all that it names, in order, hexadecimal.
    pub sha256: String,
}

/// Why a model file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}{}", path.display(), named_by(by.as_deref()))]
    Read {
        /// The file.
        path: PathBuf,
        /// The model file that names it, if it is not the model file itself.
        by: Option<PathBuf>,
        /// Why.
        source: std::io::Error,
    },
    /// Not the TOML (or JSON) expected: syntax, an unknown key, a missing key, a wrong type.
    #[error("{}:{line}: {message}", path.display())]
    Toml {
        /// The file.
        path: PathBuf,
        /// Line of the problem, from 1.
        line: usize,
        /// What is wrong, with the names that are allowed.
        message: String,
    },
    /// A value that cannot be used.
    #[error("{}: {invalid}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Key, value and values allowed.
        invalid: Invalid,
    },
    /// A table of measured times that cannot be used.
    #[error("{}:{}", path.display(), error)]
    Table {
        /// The file.
        path: PathBuf,
        /// Line and problem.
        error: TableError,
    },
}

fn named_by(by: Option<&Path>) -> String {
    by.map_or(String::new(), |by| format!(" (named by {})", by.display()))
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
    /// GPUs that share each layer.
    pub tp: u32,
    /// Number format of the weights.
    pub weight_dtype: Dtype,
    /// Number format of the KV cache.
    pub kv_dtype: Dtype,
}

impl fmt::Display for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { gpu, engine, shape, tp, weight_dtype, .. } = self;
        let shape = Path::new(shape).file_stem().unwrap_or_default().to_string_lossy();
        write!(f, "{shape} {weight_dtype}, {gpu} tp {tp}, {engine}")
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelFile {
    name: String,
    /// A file of engine defaults, below `engine`.
    defaults: Option<PathBuf>,
    hardware: Option<HardwareFile>,
    #[serde(default)]
    engine: EngineSettings,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HardwareFile {
    gpu: PathBuf,
    shape: PathBuf,
    efficiency: PathBuf,
    table: Option<PathBuf>,
    tp: u32,
    weight_dtype: Dtype,
    kv_dtype: Dtype,
}

impl Model {
    /// Reads a model file and the files it names, relative to itself.
    ///
    /// # Errors
    /// A file that cannot be read or parsed, or a value out of range; whether
    /// the `[engine]` section will do is known only once an experiment has had
    /// its say, in [`engine_config`](Self::engine_config).
    pub fn load(path: &Path) -> Result<Self, ModelError> {
        let mut files = Files { root: path, digest: Sha256::new() };
        let file: ModelFile = files.toml(path)?;
        file.load(files)
    }

    /// The model made of `parts`, each a file of the library in `folder`.
    ///
    /// # Errors
    /// A part that is not there or cannot be used.
    pub fn compose(folder: &Path, parts: &Parts) -> Result<Self, ModelError> {
        let Parts { gpu, engine, shape, tp, weight_dtype, kv_dtype } = parts;
        let file = ModelFile {
            name: parts.to_string(),
            defaults: Some(format!("engines/{engine}.toml").into()),
            hardware: Some(HardwareFile {
                gpu: format!("gpus/{gpu}.toml").into(),
                shape: Path::new("shapes").join(shape),
                efficiency: format!("efficiencies/{gpu}-{engine}.toml").into(),
                table: None,
                tp: *tp,
                weight_dtype: *weight_dtype,
                kv_dtype: *kv_dtype,
            }),
            engine: EngineSettings::default(),
        };
        file.load(Files { root: &folder.join(parts.to_string()), digest: Sha256::new() })
    }

    /// The configuration of a worker: this file's defaults under `overrides`.
    ///
    /// # Errors
    /// As [`EngineSettings::resolve`].
    pub fn engine_config(&self, overrides: &EngineSettings) -> Result<EngineConfig, Invalid> {
        overrides.clone().over(self.engine.clone()).resolve(self.hardware.as_ref())
    }
}

impl ModelFile {
    fn load(self, mut files: Files<'_>) -> Result<Model, ModelError> {
        let defaults = match &self.defaults {
            Some(path) => files.toml(&files.at(path))?,
            None => EngineSettings::default(),
        };
        let hardware = self.hardware.map(|hardware| hardware.load(&mut files)).transpose()?;
        let sha256 = files.digest.finalize().iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        Ok(Model { name: self.name, hardware, engine: self.engine.over(defaults), sha256 })
    }
}

impl HardwareFile {
    fn load(self, files: &mut Files<'_>) -> Result<Hardware, ModelError> {
        let (gpu_path, shape_path) = (files.at(&self.gpu), files.at(&self.shape));
        let efficiency_path = files.at(&self.efficiency);
        let gpu: Gpu = files.toml(&gpu_path)?;
        gpu.validate().map_err(invalid_in(&gpu_path))?;
        let shape = files.shape(&shape_path)?;
        shape.validate().map_err(invalid_in(&shape_path))?;
        let efficiency: Efficiency = files.toml(&efficiency_path)?;
        efficiency.validate().map_err(invalid_in(&efficiency_path))?;
        let table = match &self.table {
            None => None,
            Some(path) => {
                let path = files.at(path);
                let text = files.text(&path)?;
                Some(
                    MeasuredTimes::parse(&text)
                        .map_err(|error| ModelError::Table { path, error })?,
                )
            }
        };
        let hardware = Hardware {
            gpu,
            shape,
            efficiency,
            table,
            tp: self.tp,
            weight_dtype: self.weight_dtype,
            kv_dtype: self.kv_dtype,
        };
        hardware.validate().map_err(invalid_in(files.root))?;
        Ok(hardware)
    }
}

fn invalid_in(path: &Path) -> impl FnOnce(Invalid) -> ModelError {
    let path = path.to_path_buf();
    move |invalid| ModelError::Invalid { path, invalid }
}

/// The model file and those it names, as they are read.
struct Files<'a> {
    root: &'a Path,
    digest: Sha256,
}

impl Files<'_> {
    /// A path as the model file names it.
    fn at(&self, path: &Path) -> PathBuf {
        self.root.parent().unwrap_or(Path::new("")).join(path)
    }

    /// One of ours, or a published `config.json`.
    fn shape(&mut self, path: &Path) -> Result<Shape, ModelError> {
        if path.extension().is_none_or(|extension| extension != "json") {
            return self.toml(path);
        }
        let text = self.text(path)?;
        Shape::from_config_json(&text).map_err(|error| ModelError::Toml {
            path: path.to_path_buf(),
            line: error.line().max(1),
            message: error.to_string(),
        })
    }

    fn text(&mut self, path: &Path) -> Result<String, ModelError> {
        let by = (path != self.root).then(|| self.root.to_path_buf());
        let text = std::fs::read_to_string(path).map_err(|source| ModelError::Read {
            path: path.to_path_buf(),
            by,
            source,
        })?;
        // The length keeps files apart.
        self.digest.update((text.len() as u64).to_le_bytes());
        self.digest.update(&text);
        Ok(text)
    }

    fn toml<T: DeserializeOwned>(&mut self, path: &Path) -> Result<T, ModelError> {
        let text = self.text(path)?;
        toml::from_str(&text).map_err(|error| ModelError::Toml {
            path: path.to_path_buf(),
            line: line_of(&text, error.span().map_or(0, |span| span.start)),
            message: error.message().to_owned(),
        })
    }
}
